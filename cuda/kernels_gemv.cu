/* cuda/kernels_gemv.cu - products of up to four rows.
 *
 * Bound by reading the weights once, so the memory must never be idle: not between rows of W, not
 * while x is awaited, not between kernels. One block a multiprocessor works through its share of
 * pairs of rows. The share is a line of steps, a step being one 16-byte piece a lane of either row;
 * each warp takes an equal, unbroken part of the line and keeps STAGES - 1 steps on their way into
 * a ring in shared memory, over the ends of rows: 48 KiB a multiprocessor. A lane reads only pieces
 * that it has copied itself, so warps need no barrier. Pairs that two or more warps share are added
 * up at the end, in order. Fetching weights into the L2 ahead of time made decoding 6 % slower
 * (H200).
 *
 * Sums are f32: a lane's products in rising order, a tree over the lanes, then the warps of a pair.
 * Their order depends on the shape of W and on the number of multiprocessors, nothing else.
 * Where one row of x does not fit into shared memory, it is read from where it is. */
#include "cuda/kernels_gemv.cuh"
#include "cuda/line.cuh"

#define LAST 8 /* steps before a warp's end when the next kernel is let in: some 4 us */

/* Where the other operand of a step is: staged, or in the caller's single row. */
struct operand {
    const float4 *staged;
    const float *x;
    uint32_t n_in;
    bool wide;
};

template <class W, int N, bool STAGED>
static __device__ inline void multiply(const uint4 &wa, const uint4 &wb, const operand &o,
                                       uint32_t step, float (&sum)[2][N])
{
    constexpr uint32_t STEP = 8 * W::ELEMENTS; /* float4s of a row of x */
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int q = 0; q < W::ELEMENTS / 4; q++) {
        const float4 a = W::quarter(wa, q), b = W::quarter(wb, q);
#pragma unroll
        for (int r = 0; r < N; r++) {
            const float4 v =
                STAGED ? o.staged[(step * N + r) * STEP + q * 32 + lane]
                       : load_x(o.x, (step * 32 + lane) * W::ELEMENTS + 4 * q, o.n_in, o.wide);
            sum[0][r] = fmaf(a.w, v.w, fmaf(a.z, v.z, fmaf(a.y, v.y, fmaf(a.x, v.x, sum[0][r]))));
            sum[1][r] = fmaf(b.w, v.w, fmaf(b.z, v.z, fmaf(b.y, v.y, fmaf(b.x, v.x, sum[1][r]))));
        }
    }
}

/* The two rows of W of a pair; b is none when it is n_out. */
template <bool FUSED> static __device__ inline uint2 rows_of(const sc_cuda_gemv &a, uint32_t pair)
{
    return FUSED ? make_uint2(pair, pair + a.n_out / 2) : make_uint2(2 * pair, 2 * pair + 1);
}

/* What a warp asks for next. */
struct source {
    const uint4 *a, *b;  /* this lane's pieces */
    int left;            /* pieces from there to the rows' end */
    uint32_t pair, step; /* of the line */
    uint32_t rest;       /* steps of this warp that were not asked for yet */
    uint32_t n_pieces, n_steps;
};

/* At the step of the pair. */
template <bool FUSED> static __device__ inline void enter_pair(const sc_cuda_gemv &g, source &s)
{
    const uint2 rows = rows_of<FUSED>(g, s.pair);
    const uint32_t piece = s.step * 32 + threadIdx.x % 32;
    s.a = (const uint4 *)g.w + (size_t)rows.x * s.n_pieces + piece;
    s.b = (const uint4 *)g.w + (size_t)min(rows.y, g.n_out - 1) * s.n_pieces + piece;
    s.left = (int)s.n_pieces - (int)piece;
}

template <bool FUSED> static __device__ inline void advance(const sc_cuda_gemv &g, source &s)
{
    s.rest--;
    s.a += 32;
    s.b += 32;
    s.left -= 32;
    if (++s.step < s.n_steps)
        return;
    s.step = 0;
    s.pair++;
    if (s.rest > 0)
        enter_pair<FUSED>(g, s);
}

/* A group for every step, also behind the last: they are counted. */
template <bool FUSED>
static __device__ inline void ask(const sc_cuda_gemv &g, source &s, uint4 *slot)
{
    if (s.rest > 0) {
        const bool in = s.left > 0;
        copy_async(slot, in ? s.a : (const uint4 *)g.w, in);
        copy_async(slot + 32, in ? s.b : (const uint4 *)g.w, in);
        advance<FUSED>(g, s);
    }
    copy_commit();
}

static __device__ inline float finish(const sc_cuda_gemv &a, uint32_t row, float sum)
{
    if (a.scale != NULL)
        sum *= a.scale[row];
    return a.bias != NULL ? sum + a.bias[row] : sum;
}

/* What lane r adds to in row r: of both rows of W. */
template <int N, bool FUSED>
static __device__ inline float2 load_old(const sc_cuda_gemv &a, uint32_t pair)
{
    const uint2 rows = rows_of<FUSED>(a, pair);
    const uint32_t lane = threadIdx.x % 32;
    const float *y = a.y + (size_t)lane * a.y_stride;
    if (FUSED || !a.add || lane >= a.n || lane >= N)
        return make_float2(0.0f, 0.0f);
    return make_float2(y[rows.x], rows.y < a.n_out ? y[rows.y] : 0.0f);
}

/* Lane r writes row r. factor: of the row's sums. */
template <int N, bool FUSED>
static __device__ inline void write_pair(const sc_cuda_gemv &a, uint32_t pair, float2 old,
                                         const kept<N> &k, const float (&sum)[2][N])
{
    const uint2 rows = rows_of<FUSED>(a, pair);
#pragma unroll
    for (int r = 0; r < N; r++) {
        float *y = a.y + (size_t)r * a.y_stride;
        if (threadIdx.x % 32 != r || r >= (int)a.n)
            continue;
        const float factor = k.factor[threadIdx.x / 32][r];
        const float va = finish(a, rows.x, factor * sum[0][r]);
        if (FUSED) {
            y[rows.x] = sc_silu(va) * finish(a, rows.y, factor * sum[1][r]);
            continue;
        }
        y[rows.x] = old.x + va;
        if (rows.y < a.n_out)
            y[rows.y] = old.y + finish(a, rows.y, factor * sum[1][r]);
    }
}

/* The warp that began a pair adds what those behind it found. line: steps of the block. */
template <int N, bool FUSED>
static __device__ inline void join(const sc_cuda_gemv &a, const kept<N> &k, uint32_t first_pair,
                                   uint32_t n_steps, uint32_t line)
{
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t begin = cut(line, warp, WARPS), end = cut(line, warp + 1, WARPS);
    const uint32_t pair = last_piece(end, n_steps), pair_end = (pair + 1) * n_steps;
    float sum[2][N];

    if (begin == end || pair * n_steps < begin || pair_end == end)
        return;
#pragma unroll
    for (int r = 0; r < N; r++) {
        sum[0][r] = k.of[warp][1][2 * r];
        sum[1][r] = k.of[warp][1][2 * r + 1];
    }
#pragma unroll 1
    for (uint32_t other = warp + 1; other < WARPS; other++) {
        const uint32_t from = cut(line, other, WARPS);
        if (from >= pair_end)
            break;
        if (from == cut(line, other + 1, WARPS))
            continue; /* it had nothing to do */
#pragma unroll
        for (int r = 0; r < N; r++) {
            sum[0][r] += k.of[other][0][2 * r];
            sum[1][r] += k.of[other][0][2 * r + 1];
        }
    }
    const uint32_t r = min(threadIdx.x % 32, (uint32_t)N - 1);
    const float2 old =
        a.add ? make_float2(k.old[warp][2 * r], k.old[warp][2 * r + 1]) : make_float2(0.0f, 0.0f);
    write_pair<N, FUSED>(a, first_pair + pair, old, k, sum);
}

/* Registers of a thread, at most. Two blocks of 64 fill a multiprocessor; 56 leave room for the
 * small kernels of the chain that stand between two products, without which the second could not
 * begin to read (with 58 to 62, decoding took 2 to 4 % longer, though two kernels a layer were
 * saved; H100). int8 weights of four rows would spill. */
template <class W, int N> constexpr int REGISTERS = N <= 2 ? 56 : W::ELEMENTS == 16 ? 128 : 64;

/* STAGED: x is in shared memory behind the rings; else there is one row. */
template <class W, int N, bool FUSED, bool STAGED>
static __global__ void __maxnreg__((REGISTERS<W, N>))
    gemv_kernel(const __grid_constant__ sc_cuda_gemv a, bool wide)
{
    extern __shared__ uint4 rings[];
    __shared__ kept<N> k;
    float4 *xs = (float4 *)(rings + RING_BYTES / sizeof(uint4));
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t n_pairs = (a.n_out + 1) / 2, n_pieces = a.ld / W::ELEMENTS;
    const uint32_t n_steps = (n_pieces + 31) / 32;
    const uint32_t first_pair = cut(n_pairs, blockIdx.x, gridDim.x);
    const uint32_t line = (cut(n_pairs, blockIdx.x + 1, gridDim.x) - first_pair) * n_steps;
    const uint32_t begin = cut(line, warp, WARPS), end = cut(line, warp + 1, WARPS);
    const operand o = {xs, a.x, a.n_in, wide};
    uint4 *ring = rings + warp * (STAGES * 64) + lane;
    source from = {};
    float sum[2][N] = {};

    from.pair = first_pair + begin / n_steps;
    from.step = begin % n_steps;
    from.rest = end - begin;
    from.n_pieces = n_pieces;
    from.n_steps = n_steps;
    uint32_t pair = from.pair, step = from.step, slot = 0, last = STAGES - 1;
    bool whole = step == 0;
    if (from.rest > 0)
        enter_pair<FUSED>(a, from);
#pragma unroll 1
    for (uint32_t i = 0; i + 1 < STAGES; i++)
        ask<FUSED>(a, from, ring + i * 64);

    if (STAGED && a.norm != NULL)
        (void)stage_any<W::ELEMENTS, N>(a.norm, a.n_in, wide, n_steps * 8 * W::ELEMENTS, NULL, xs);

    sc_inputs_ready();
    if (a.add && begin < end) {
        const float2 old = load_old<N, FUSED>(a, first_pair + last_piece(end, n_steps));
        if (lane < N) {
            k.old[warp][2 * lane] = old.x;
            k.old[warp][2 * lane + 1] = old.y;
        }
    }
    if (STAGED)
        stage_x<W::ELEMENTS, N>(a, wide, n_steps, xs, k);
    __syncthreads();
    find_factors<N>(a, k);
    if (end - begin <= LAST)
        sc_next_may_start();
#pragma unroll 1
    for (uint32_t left = end - begin; left > 0; left--) {
        if (left == LAST)
            sc_next_may_start();
        copy_wait<STAGES - 2>();
        const uint4 wa = ring[slot * 64], wb = ring[slot * 64 + 32];
        ask<FUSED>(a, from, ring + last * 64); /* what was there was used a step ago */
        multiply<W, N, STAGED>(wa, wb, o, step, sum);
        last = slot;
        slot = slot + 1 < STAGES ? slot + 1 : 0;
        step++;
        if (step < n_steps && left > 1)
            continue;
#pragma unroll
        for (int r = 0; r < N; r++) {
            sum[0][r] = sc_warp_sum(sum[0][r]);
            sum[1][r] = sc_warp_sum(sum[1][r]);
        }
        if (whole && step == n_steps) {
            write_pair<N, FUSED>(a, pair, load_old<N, FUSED>(a, pair), k, sum);
        } else if (lane == 0) {
#pragma unroll
            for (int r = 0; r < N; r++) {
                k.of[warp][whole][2 * r] = sum[0][r];
                k.of[warp][whole][2 * r + 1] = sum[1][r];
            }
        }
#pragma unroll
        for (int r = 0; r < N; r++)
            sum[0][r] = sum[1][r] = 0.0f;
        whole = true;
        step = 0;
        pair++;
    }
    __syncthreads();
    join<N, FUSED>(a, k, first_pair, n_steps, line);
}

/* The shared memory that a block can have; x gets what the rings leave. */
static cudaError_t most_shared(size_t *ret_bytes)
{
    const cudaError_t rc = sc_most_bytes(ret_bytes);
    *ret_bytes -= sizeof(kept<4>);
    return rc;
}

/* A row in shared memory. */
static size_t staged_bytes(uint32_t elements, uint32_t ld)
{
    return ((size_t)ld / elements + 31) / 32 * 128 * elements;
}

static uint32_t computed_rows(uint32_t n)
{
    return n == 3 ? 4 : n;
}

extern "C" bool sc_cuda_gemv_takes_norm(enum sc_dtype store, uint32_t ld, uint32_t n)
{
    const uint32_t elements = store == SC_DTYPE_F32 ? 4 : store == SC_DTYPE_BF16 ? 8 : 16;
    size_t most = 0;
    return most_shared(&most) == cudaSuccess &&
           RING_BYTES + computed_rows(n) * staged_bytes(elements, ld) <= most;
}

template <class W, int N, bool STAGED>
static cudaError_t launch(const sc_cuda_gemv *a, size_t x_bytes, uint32_t n_sms,
                          cudaStream_t stream)
{
    const bool wide = (uintptr_t)a->x % 16 == 0 && a->n_in % 4 == 0 &&
                      (N == 1 || a->x_stride % 4 == 0) && (uintptr_t)a->norm % 16 == 0;
    const uint32_t n_pairs = (a->n_out + 1) / 2;
    const dim3 blocks(n_pairs < n_sms ? n_pairs : n_sms);
    size_t bytes = RING_BYTES + (STAGED ? x_bytes : 0), alone = 0;
    const cudaError_t rc = sc_alone_bytes(&alone);

    if (rc != cudaSuccess)
        return rc;
    alone -= sizeof(kept<N>);
    bytes = bytes < alone ? alone : bytes;
    if (a->fused)
        return sc_overlap_launch(gemv_kernel<W, N, true, STAGED>, blocks, dim3(THREADS), bytes,
                                 stream, *a, wide);
    return sc_overlap_launch(gemv_kernel<W, N, false, STAGED>, blocks, dim3(THREADS), bytes, stream,
                             *a, wide);
}

/* Rows of x that do not fit together go one after the other. */
template <class W>
static cudaError_t launch_each(const sc_cuda_gemv *a, size_t row_bytes, bool staged, uint32_t n_sms,
                               cudaStream_t stream)
{
    cudaError_t rc = cudaSuccess;
    for (uint32_t r = 0; r < a->n && rc == cudaSuccess; r++) {
        sc_cuda_gemv one = *a;
        one.x += (size_t)r * a->x_stride;
        one.y += (size_t)r * a->y_stride;
        one.n = 1;
        rc = staged ? launch<W, 1, true>(&one, row_bytes, n_sms, stream)
                    : launch<W, 1, false>(&one, row_bytes, n_sms, stream);
    }
    return rc;
}

template <class W>
static cudaError_t launch_rows(const sc_cuda_gemv *a, uint32_t n_sms, cudaStream_t stream)
{
    const size_t row_bytes = staged_bytes(W::ELEMENTS, a->ld);
    const uint32_t rows = computed_rows(a->n);
    size_t most = 0;
    cudaError_t rc = most_shared(&most);

    if (rc != cudaSuccess)
        return rc;
    if (a->n == 0 || a->n > SC_CUDA_GEMV_ROWS_MAX)
        return cudaErrorInvalidValue;
    if (a->norm != NULL && !sc_cuda_gemv_takes_norm(a->store, a->ld, a->n))
        return cudaErrorInvalidValue;
    if (RING_BYTES + rows * row_bytes > most || rows == 1)
        return launch_each<W>(a, row_bytes, RING_BYTES + row_bytes <= most, n_sms, stream);
    return rows == 2 ? launch<W, 2, true>(a, 2 * row_bytes, n_sms, stream)
                     : launch<W, 4, true>(a, 4 * row_bytes, n_sms, stream);
}

extern "C" cudaError_t sc_cuda_launch_gemv(const struct sc_cuda_gemv *a, uint32_t n_sms,
                                           cudaStream_t stream)
{
    switch (a->store) {
    case SC_DTYPE_BF16:
        return launch_rows<weights_bf16>(a, n_sms, stream);
    case SC_DTYPE_F32:
        return launch_rows<weights_f32>(a, n_sms, stream);
    case SC_DTYPE_I8:
        return launch_rows<weights_i8>(a, n_sms, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

template <class W, int N, bool STAGED> static cudaError_t allow_shared(size_t bytes)
{
    const cudaFuncAttribute attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    cudaError_t rc = cudaFuncSetAttribute(gemv_kernel<W, N, false, STAGED>, attribute, (int)bytes);
    return rc != cudaSuccess
               ? rc
               : cudaFuncSetAttribute(gemv_kernel<W, N, true, STAGED>, attribute, (int)bytes);
}

template <class W> static cudaError_t allow_rows(size_t bytes)
{
    cudaError_t rc = allow_shared<W, 1, true>(bytes);
    if (rc == cudaSuccess)
        rc = allow_shared<W, 1, false>(bytes);
    if (rc == cudaSuccess)
        rc = allow_shared<W, 2, true>(bytes);
    return rc == cudaSuccess ? allow_shared<W, 4, true>(bytes) : rc;
}

extern "C" cudaError_t sc_cuda_gemv_init(void)
{
    size_t bytes = 0;
    cudaError_t rc = most_shared(&bytes);
    if (rc == cudaSuccess)
        rc = allow_rows<weights_bf16>(bytes);
    if (rc == cudaSuccess)
        rc = allow_rows<weights_f32>(bytes);
    return rc == cudaSuccess ? allow_rows<weights_i8>(bytes) : rc;
}
