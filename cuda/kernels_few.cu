/* cuda/kernels_few.cu - products of a few rows on tensor cores, up to 16 in a launch.
 *
 * Bound by reading the weights once, as that of kernels_gemv.cu, which has too much to compute for
 * more than one row. cuBLASLt's kernels neither begin before the one before has ended nor let the
 * next one in: with them, a step of four sequences of an 8B model took 0.4 ms of 4.7 longer than
 * one of one sequence (H200).
 *
 * A tile is 16 rows of W and eight rows of x. M tiles that lie together are a group, for which x is
 * read once; a step is 128 bytes of each of a group's rows, 64 columns of bf16 or 128 of int8. A
 * block works through its share of groups one after the other, and its warps take the steps of each
 * in turns, so that what is asked for at a time are long pieces of rows (a part of the columns for
 * each warp: decoding took 1.02 times as long, and 1.08 times where only half of each 128 bytes is
 * asked for at once; H200). Their sums are added up in order. A warp keeps STAGES - 1 tiles of a
 * step on their way into a ring in shared memory, also of the group that comes next: 80 KiB a
 * multiprocessor (with 48, 1.03 times; with 112 the same). x comes the same way, step by step: so
 * nothing has to be staged before the weights flow, and rows of x may have any length.
 *
 * In which order the products of a row are summed is free as long as W and x agree, so a lane needs
 * no weight that another one has copied: 16 bytes of a row, eight columns of bf16 that lie
 * together, are its share of two instructions, and as many of x are its own too. Hence no barrier
 * and no transposing loads.
 *
 * int8 becomes bf16 in registers, exactly: seven instructions for four numbers, once for all rows
 * of x. The four's even and odd ones are pairs then, so x's are put into that order, once for all
 * tiles of a group. Sums are scaled at the end. Beside int8 a step of x is twice as long: only of
 * up to eight rows is there room for as many tiles on their way as of bf16, and between lanes of a
 * warp there is a barrier (kernels_few.cuh).
 *
 * A multiprocessor has one block (see overlap.cuh): with room for two, decoding took longer than by
 * cuBLASLt.
 *
 * RMSNorm between two such products is theirs: as x / rms * gain, times W, is x * gain, times W, /
 * rms, the one that adds to x leaves the bf16 of x * gain and sums of its squares, and the one that
 * reads multiplies its sums at the end.
 *
 * A row's bits depend on the shape of W alone: a column of a tensor core's tile knows nothing of
 * the others, M only says which tiles go together, STAGES when they come. */
#include "cuda/kernels_few.cuh"

#include "cuda/line.cuh"
#include "cuda/overlap.cuh"
#include "cuda/rows.cuh"

#define FACTORS    16u         /* rows of x in a launch, at most */
#define LAST_BYTES (16u << 10) /* of a warp's weights when the next kernel is let in: some 4 us */

/* Which sum i of a lane is, i in 4 M X: row of W, row of x. */
template <int M, int X> static __device__ inline uint2 place_of(uint32_t group, uint32_t i)
{
    const uint32_t lane = threadIdx.x % 32;
    return make_uint2((group * M + i / 4 / X) * 16 + i % 4 / 2 * 8 + lane / 4,
                      i / 4 % X * 8 + lane % 4 * 2 + i % 2);
}

/* What this lane's sums are added to, on its way into shared memory. */
template <int M, int X>
static __device__ inline void ask_old(const sc_cuda_few &a, uint32_t group, float *old)
{
#pragma unroll
    for (uint32_t i = 0; i < 4 * M * X; i++) {
        const uint2 at = place_of<M, X>(group, i);
        const bool in = at.x < a.n_out && at.y < a.n;
        copy_async_word(shared_address(old + i * 32),
                        in ? a.y + (size_t)at.y * a.y_stride + at.x : a.y, in ? 4 : 0);
    }
}

/* Scaled first and rounded: what a sum is added to is to change no bit of it. */
template <class W>
static __device__ inline float finish(const sc_cuda_few &a, uint32_t row, float sum)
{
    if (W::SCALED)
        sum = __fmul_rn(sum, a.scale[row]);
    return a.bias != NULL ? sum + a.bias[row] : sum;
}

/* What rows are multiplied with: 1 / rms of what they came from. A warp finds that of every eighth.
 */
static __device__ inline void find_factors(const sc_cuda_few &a, float *factors)
{
    const uint32_t n_sums = sums_of(a.x_dim);
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t r = threadIdx.x / 32; r < a.n; r += WARPS) {
        float sum = 0.0f;
#pragma unroll 8
        for (uint32_t i = lane; i < n_sums; i += 32)
            sum += a.x_squares[(size_t)r * n_sums + i];
        sum = sc_warp_sum(sum);
        if (lane == 0)
            factors[r] = 1.0f / sqrtf(sum / (float)a.x_dim + a.eps);
    }
}

/* Those of this lane's rows of W: 2 m + i is of tile m, row lane / 4 or eight below. */
template <int M>
static __device__ inline void load_gains(const sc_cuda_few &a, uint32_t group,
                                         float (&gains)[2 * M])
{
#pragma unroll
    for (uint32_t i = 0; i < 2 * M; i++) {
        const uint32_t row = (group * M + i / 2) * 16 + i % 2 * 8 + threadIdx.x % 32 / 4;
        gains[i] = row < a.n_out ? a.gain[row] : 0.0f;
    }
}

/* squares[t][i]: of tile t / X of W and row t % X * 8 + lane % 4 * 2 + i of x, this lane's two. */
template <int M, int X>
static __device__ inline void write_squares(const sc_cuda_few &a, uint32_t group,
                                            float (&squares)[M * X][2])
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t n_sums = sums_of(a.n_out);
#pragma unroll
    for (uint32_t i = 0; i < 2 * M * X; i++) {
        const uint32_t t = i / 2, r = t % X * 8 + lane % 4 * 2 + i % 2, tile = group * M + t / X;
        float sum = squares[t][i % 2];
#pragma unroll
        for (int step = 4; step < 32; step *= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (lane < 4 && r < a.n && tile < n_sums)
            a.squares[(size_t)r * n_sums + tile] = sum;
    }
}

/* factors: of rows of x, or NULL. */
template <class W, int M, int X, bool FUSED>
static __device__ inline void write_group(const sc_cuda_few &a, uint32_t group,
                                          const float *factors, const float (&gains)[2 * M],
                                          const sums<M * X> &old, const sums<M * X> &sum)
{
    const uint32_t lane = threadIdx.x % 32, half = a.n_out / 2;
    float squares[M * X][2] = {};
#pragma unroll
    for (uint32_t i = 0; i < (FUSED ? 2 : 4) * M * X; i++) {
        const uint32_t t = i % (M * X), j = i / (M * X), r = t % X * 8 + lane % 4 * 2 + j % 2;
        const uint32_t row = (group * M + t / X) * TILE_ROWS<FUSED> + j / 2 * 8 + lane / 4;
        if (r >= a.n || row >= (FUSED ? half : a.n_out))
            continue;
        const float factor = factors != NULL ? factors[r] : 1.0f;
        float v = finish<W>(a, row, __fmul_rn(factor, sum[t][j]));
        if (!FUSED) {
            v = a.add ? old[t][j] + v : v;
            a.y[(size_t)r * a.y_stride + row] = v;
            if (a.gain == NULL)
                continue;
            a.image[(size_t)r * a.n_out + row] =
                (uint16_t)sc_pack_bf16(v * gains[t / X * 2 + j / 2], 0.0f);
            squares[t][j % 2] += v * v;
            continue;
        }
        v = sc_silu(v) * finish<W>(a, half + row, __fmul_rn(factor, sum[t][j + 2]));
        if (a.y != NULL)
            a.y[(size_t)r * a.y_stride + row] = v;
        if (a.image != NULL)
            a.image[(size_t)r * half + row] = (uint16_t)sc_pack_bf16(v, 0.0f);
    }
    if (!FUSED && a.gain != NULL)
        write_squares<M, X>(a, group, squares);
}

/* Adds up what all warps found of a group. */
template <int MX> static __device__ inline void join(const float4 *found, sums<MX> &sum)
{
#pragma unroll 2
    for (uint32_t warp = 0; warp < WARPS; warp++) {
#pragma unroll
        for (int t = 0; t < MX; t++) {
            const float4 v = found[(warp * MX + t) * 32 + threadIdx.x % 32];
            sum[t][0] = warp > 0 ? sum[t][0] + v.x : v.x;
            sum[t][1] = warp > 0 ? sum[t][1] + v.y : v.y;
            sum[t][2] = warp > 0 ? sum[t][2] + v.z : v.z;
            sum[t][3] = warp > 0 ? sum[t][3] + v.w : v.w;
        }
    }
}

/* X: tiles of eight rows of x. */
template <class W, int M, int X, bool FUSED>
static __global__ void __launch_bounds__(THREADS, 1)
    few_kernel(const __grid_constant__ sc_cuda_few a, uint32_t n_groups)
{
    extern __shared__ uint4 rings[];
    constexpr uint32_t STAGES = W::STAGES, X_STAGES = x_stages(STAGES, M);
    constexpr uint32_t LAST = LAST_BYTES / (M * TILE_PIECES * 16), FOUND = WARPS * M * X * 32;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t x_pieces = x_ring<W>(M, a.n), x_step = a.n * X_STEP<W>;
    const uint4 *w_ring = rings + warp * W_RING<W> + lane;
    const uint4 *xs = rings + WARPS * W_RING<W> + warp * x_pieces;
    const uint4 *mine = xs + W::place(a.n);
    float *factors = (float *)(rings + WARPS * (W_RING<W> + x_pieces));    /* of rows of x */
    float4 *found = (float4 *)(factors + FACTORS);                         /* [2] in turns */
    float *olds = (float *)(found + 2 * FOUND + warp * M * X * 32) + lane; /* if a.add */
    const uint32_t w_at = shared_address(w_ring), x_at = shared_address(xs + lane);
    const uint32_t first = cut(n_groups, blockIdx.x, gridDim.x);
    const uint32_t end = cut(n_groups, blockIdx.x + 1, gridDim.x);
    source from;
    uint32_t slot = 0, x_slot = 0;

    from.n_pieces = a.ld / (8 * W::X_PIECES);
    from.n_steps = (from.n_pieces + STEP_PIECES - 1) / STEP_PIECES;
    from.group = first;
    from.step = warp;
    const uint32_t of_x = W::X_PIECES == 1 ? from.n_pieces : a.x_ld / 8;
    const uint32_t n_mine = warp < from.n_steps ? (from.n_steps - warp - 1) / WARPS + 1 : 0;
    uint32_t left = (end - first) * n_mine; /* steps of this warp */

    enter_group<M, FUSED>(a, from);
#pragma unroll
    for (uint32_t i = 0; i + 1 < STAGES; i++) {
        if (left > i / M)
            ask_w<M, FUSED>(a, from, i % M, w_at + i * TILE_PIECES * 16);
    }
    sc_inputs_ready();
    if (a.add && first % WARPS == warp)
        ask_old<M, X>(a, first, olds);
#pragma unroll
    for (uint32_t i = 0; i + 1 < STAGES; i++) {
        if (i % M == 0 && left > i / M)
            ask_x<W, X>(a, of_x, warp + i / M % n_mine * WARPS, x_at + i / M * x_step * 16);
        copy_commit(); /* the first group of copies holds all that was asked for of W */
    }
    if (left <= LAST)
        sc_next_may_start();
    bool to_find = a.x_squares != NULL; /* in its second step, when all of the ring is on its way */
#pragma unroll 1
    for (uint32_t group = first; group < end; group++) {
        sums<M *X> sum = {};
        float gains[2 * M] = {};
        if (!FUSED && a.gain != NULL && group % WARPS == warp)
            load_gains<M>(a, group, gains);
        if (a.add && group > first && group % WARPS == warp)
            ask_old<M, X>(a, group, olds);
#pragma unroll 1
        for (uint32_t i = 0; i < n_mine; i++, left--) {
            typename W::columns x[X] = {}; /* zeros: of rows that there are not */
            if (left == LAST)
                sc_next_may_start();
            if (to_find && i == 1) {
                find_factors(a, factors);
                to_find = false;
            }
#pragma unroll
            for (int m = 0; m < M; m++) {
                constexpr uint32_t AHEAD = STAGES - 1;
                const uint32_t before = slot > 0 ? slot - 1 : STAGES - 1;
                copy_wait<STAGES - 2>();
                if (W::X_PIECES > 1) /* what others brought is there, what they read is free */
                    __syncwarp();
                const uint4 *at = w_ring + slot * TILE_PIECES;
                const tile w = {at[0], at[32], at[64], at[96]};
#pragma unroll
                for (uint32_t k = 0; m == 0 && k < X; k++) {
                    if (lane + 32 * k < 4 * a.n)
                        W::load(x[k], mine + x_slot * x_step + 32 * k, a.n);
                }
                if (left > (m + AHEAD) / M) { /* to where what was used before this tile is */
                    if ((m + AHEAD) % M == 0)
                        ask_x<W, X>(a, of_x, from.step,
                                    x_at + (x_slot + (m + AHEAD) / M) % X_STAGES * x_step * 16);
                    ask_w<M, FUSED>(a, from, (m + AHEAD) % M, w_at + before * TILE_PIECES * 16);
                }
                copy_commit(); /* also of nothing: groups are counted */
                W::template multiply<X>(sum, m * X, w, x);
                slot = slot + 1 < STAGES ? slot + 1 : 0;
            }
            x_slot = x_slot + 1 < X_STAGES ? x_slot + 1 : 0;
        }
        if (to_find) {
            find_factors(a, factors);
            to_find = false;
        }
        float4 *here = found + (group - first) % 2 * FOUND;
#pragma unroll
        for (int t = 0; t < M * X; t++)
            here[(warp * M * X + t) * 32 + lane] =
                make_float4(sum[t][0], sum[t][1], sum[t][2], sum[t][3]);
        __syncthreads(); /* also: what was found two groups ago has been read */
        if (group % WARPS != warp)
            continue;
        sums<M *X> old = {};
        join<M * X>(here, sum);
        if (a.add) {
            if (n_mine * M < STAGES) { /* else it came while steps were waited for */
                copy_commit();
                copy_wait<0>();
            }
#pragma unroll
            for (int i = 0; i < 4 * M * X; i++)
                old[i / 4][i % 4] = olds[i * 32];
        }
        write_group<W, M, X, FUSED>(a, group, a.x_squares != NULL ? factors : NULL, gains, old,
                                    sum);
    }
}

template <class W> static size_t shared_bytes(uint32_t m, uint32_t n, bool add)
{
    const uint32_t tiles = m * ((n + 7) / 8);
    return 16 * (size_t)WARPS * (W_RING<W> + x_ring<W>(m, n) + (add ? 3 : 2) * tiles * 32) +
           FACTORS * sizeof(float);
}

template <class W> static bool fits(uint32_t n, size_t most)
{
    for (uint32_t m = 1; m <= TILES_MAX; m++) {
        if (shared_bytes<W>(m, n, true) > most)
            return false;
    }
    return true;
}

/* Rows of a launch, at most: 16, 8 or 0. */
static uint32_t rows_at_once(enum sc_dtype store, size_t most)
{
    if (store == SC_DTYPE_BF16)
        return fits<few_bf16>(16, most) ? 16 : fits<few_bf16>(8, most) ? 8 : 0;
    return fits<few_i8<4>>(16, most) ? 16 : fits<few_i8<4>>(8, most) ? 8 : 0;
}

extern "C" uint32_t sc_cuda_few_most(enum sc_dtype store)
{
    size_t most = 0;
    if (sc_most_bytes(&most) != cudaSuccess)
        return 0;
    return rows_at_once(store, most) * (store == SC_DTYPE_I8 ? SC_CUDA_FEW_LAUNCHES_I8 : 1);
}

/* The tiles of a group: the busiest block reads the least, x (of 8 rows, or of 16, each as long as
 * X_PIECES of W) counted by half as it comes from the second cache. */
template <class W> static uint32_t best_tiles(uint32_t n_tiles, uint32_t n, uint32_t n_sms)
{
    uint32_t best = 1;
    uint64_t least = UINT64_MAX;
    for (uint32_t m = 1; m <= TILES_MAX; m++) {
        const uint32_t n_groups = (n_tiles + m - 1) / m;
        const uint32_t rows = 16 * m + (n > 8 ? 8 : 4) * W::X_PIECES;
        const uint64_t cost = (uint64_t)((n_groups + n_sms - 1) / n_sms) * rows;
        if (cost < least) {
            least = cost;
            best = m;
        }
    }
    return best;
}

template <class W, int M, int X, bool FUSED>
static cudaError_t launch(const sc_cuda_few *a, uint32_t n_tiles, uint32_t n_sms,
                          cudaStream_t stream)
{
    const uint32_t n_groups = (n_tiles + M - 1) / M;
    const dim3 blocks(n_groups < n_sms ? n_groups : n_sms);
    size_t bytes = shared_bytes<W>(M, a->n, a->add), alone = 0;
    const cudaError_t rc = sc_alone_bytes(&alone);

    if (rc != cudaSuccess)
        return rc;
    return sc_overlap_launch(few_kernel<W, M, X, FUSED>, blocks, dim3(THREADS),
                             bytes < alone ? alone : bytes, stream, *a, n_groups);
}

template <class W, int X, bool FUSED>
static cudaError_t launch_tiles(const sc_cuda_few *a, uint32_t n_sms, cudaStream_t stream)
{
    const uint32_t n_tiles = ((FUSED ? a->n_out / 2 : a->n_out) - 1) / TILE_ROWS<FUSED> + 1;
    switch (best_tiles<W>(n_tiles, a->n, n_sms)) {
    case 1:
        return launch<W, 1, X, FUSED>(a, n_tiles, n_sms, stream);
    case 2:
        return launch<W, 2, X, FUSED>(a, n_tiles, n_sms, stream);
    default:
        return launch<W, 3, X, FUSED>(a, n_tiles, n_sms, stream);
    }
}

template <class W, int X>
static cudaError_t launch_rows(const sc_cuda_few *a, uint32_t n_sms, cudaStream_t stream)
{
    return a->fused ? launch_tiles<W, X, true>(a, n_sms, stream)
                    : launch_tiles<W, X, false>(a, n_sms, stream);
}

static cudaError_t launch_once(const sc_cuda_few *a, size_t most, uint32_t n_sms,
                               cudaStream_t stream)
{
    if (a->store == SC_DTYPE_BF16)
        return a->n > 8 ? launch_rows<few_bf16, 2>(a, n_sms, stream)
                        : launch_rows<few_bf16, 1>(a, n_sms, stream);
    if (a->n > 8)
        return launch_rows<few_i8<4>, 2>(a, n_sms, stream);
    return fits<few_i8<6>>(a->n, most) ? launch_rows<few_i8<6>, 1>(a, n_sms, stream)
                                       : launch_rows<few_i8<4>, 1>(a, n_sms, stream);
}

/* Rows in equal parts, each of which reads all weights. */
extern "C" cudaError_t sc_cuda_launch_few(const struct sc_cuda_few *a, uint32_t n_sms,
                                          cudaStream_t stream)
{
    const uint32_t aligned = a->store == SC_DTYPE_I8 ? 16 : 8;
    size_t most = 0;
    cudaError_t rc = sc_most_bytes(&most);

    if (rc != cudaSuccess)
        return rc;
    const uint32_t at_once = rows_at_once(a->store, most);
    if ((a->store != SC_DTYPE_BF16 && a->store != SC_DTYPE_I8) || a->n == 0 || at_once == 0 ||
        a->n > sc_cuda_few_most(a->store) || a->ld % aligned != 0 || a->x_ld % 8 != 0 ||
        a->x_ld > a->ld || (a->store == SC_DTYPE_BF16 && a->x_ld != a->ld) || a->n_out == 0 ||
        (a->fused && a->n_out % 2 != 0) ||
        (a->gain != NULL && (!a->add || a->image == NULL || a->squares == NULL)))
        return cudaErrorInvalidValue;
    const uint32_t n_parts = (a->n + at_once - 1) / at_once;
    const uint32_t part = (a->n + n_parts - 1) / n_parts;
    for (uint32_t row = 0; row < a->n && rc == cudaSuccess; row += part) {
        sc_cuda_few some = *a;
        some.n = a->n - row < part ? a->n - row : part;
        some.x += (size_t)row * a->x_ld;
        if (a->y != NULL)
            some.y += (size_t)row * a->y_stride;
        if (a->image != NULL)
            some.image += (size_t)row * (a->fused ? a->n_out / 2 : a->n_out);
        if (a->gain != NULL)
            some.squares += (size_t)row * sums_of(a->n_out);
        if (a->x_squares != NULL)
            some.x_squares += (size_t)row * sums_of(a->x_dim);
        rc = launch_once(&some, most, n_sms, stream);
    }
    return rc;
}

template <class W, int M, int X> static cudaError_t allow_shared(size_t most)
{
    const cudaFuncAttribute attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    cudaError_t rc = cudaFuncSetAttribute(few_kernel<W, M, X, false>, attribute, (int)most);
    return rc == cudaSuccess ? cudaFuncSetAttribute(few_kernel<W, M, X, true>, attribute, (int)most)
                             : rc;
}

template <class W, int X> static cudaError_t allow_all(size_t most)
{
    cudaError_t rc = allow_shared<W, 1, X>(most);
    if (rc == cudaSuccess)
        rc = allow_shared<W, 2, X>(most);
    return rc == cudaSuccess ? allow_shared<W, 3, X>(most) : rc;
}

extern "C" cudaError_t sc_cuda_few_init(void)
{
    size_t most = 0;
    cudaError_t rc = sc_most_bytes(&most);
    if (rc != cudaSuccess)
        return rc;
    const uint32_t bf16 = rows_at_once(SC_DTYPE_BF16, most), i8 = rows_at_once(SC_DTYPE_I8, most);
    if (bf16 >= 8)
        rc = allow_all<few_bf16, 1>(most);
    if (rc == cudaSuccess && bf16 == 16)
        rc = allow_all<few_bf16, 2>(most);
    if (rc == cudaSuccess && i8 >= 8)
        rc = allow_all<few_i8<6>, 1>(most);
    if (rc == cudaSuccess && i8 >= 8)
        rc = allow_all<few_i8<4>, 1>(most);
    return rc == cudaSuccess && i8 == 16 ? allow_all<few_i8<4>, 2>(most) : rc;
}
