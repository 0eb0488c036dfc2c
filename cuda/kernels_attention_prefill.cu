/* cuda/kernels_attention_prefill.cu - attention of blocks of rows, on tensor cores.
 *
 * One block per (tile of 128 rows, KV head, sequence); a row is a (token, query head of the group).
 * Four warps of 32 rows each go through all entries that the tile sees, 64 at a time, in rising
 * order, with the next 64 on their way. Keeping 32 rows a warp halves what is read of K and V from
 * shared memory, which is what bounds this kernel beside the tensor cores. Tiles with the longest
 * way to go start first.
 *
 * int8 pages land in a tile of their own and become bf16 on their way to the tiles that the
 * products read, once for all warps, before the copies of the next 64 entries start.
 *
 * What a row's sums are made of, and their order, follows from its own entries alone: tiles of 64
 * are counted from the start of the list of pages, and what it does not see adds nothing.
 */
#include "cuda/kernels_attention_landing.cuh"

/* Entries that a warp has scores of at a time: with scales, those of 64 do not fit the registers
 * beside sums of 128 dimensions. */
template <int D, bool I8> __host__ __device__ constexpr int at_once()
{
    return I8 && D == 128 ? KEYS / 2 : KEYS;
}

template <int D, bool I8> struct layout {
    static constexpr int tile = KEYS * D * 2, stage = 2 * tile; /* K, V as bf16 */
    static constexpr int kv = ROWS * D * 2, landing = kv + (I8 ? 1 : STAGES) * stage;
    static constexpr int floats = landing + (I8 ? 2 * KEYS * D : 0);
    static constexpr int n_floats = I8 ? 3 * KEYS : KEYS; /* of a stage */
    static constexpr int limits = floats + STAGES * n_floats * 4;
    static constexpr int bytes = limits + (int)sizeof(struct limits);
};

/* Both pages of tile t; what no row of the block sees is zero. ids: of the two pages. */
template <int D>
__device__ __forceinline__ void load_keys(const sc_cuda_attn &a, const limits &b, uint2 ids, int t,
                                          uint32_t to, uint32_t bias_to)
{
    constexpr int step = THREADS / (D / 8); /* rows that the block copies at once */
    const int row = (int)threadIdx.x / (D / 8), chunk = (int)threadIdx.x % (D / 8);
    to += chunk_at<D>(row, chunk);
#pragma unroll
    for (int page = 0; page < 2; page++) {
        const slots s = slots_of(b.v, 2 * t + page, b.low[0], b.own[ROWS - 1]);
        /* A page that is not there: any address will do, nothing is read. */
        const uint8_t *block =
            b.base + (any_slot(s) ? (page == 0 ? ids.x : ids.y) * a.page_bytes : 0);
        const uint8_t *from = block + threadIdx.x * 16;
#pragma unroll
        for (int i = 0; i < ENTRIES; i += step) {
            int n = row + i >= s.lo && row + i < s.hi ? 16 : 0;
            uint32_t at = chunk_from<D>(to, i, 0) + page * ENTRIES * D * 2;
            copy_async(at, from + i * D * 2, n);
            copy_async(at + layout<D, false>::tile, from + a.v_offset + i * D * 2, n);
        }
        if (threadIdx.x < ENTRIES / 4)
            copy_async(bias_to + (page * ENTRIES / 4 + threadIdx.x) * 16,
                       block + a.bias_offset + threadIdx.x * 16, any_slot(s) ? 16 : 0);
    }
}

/* Scales of K, and biases, to sums of whole numbers. */
template <int N>
__device__ __forceinline__ void scale_scores(float (&s)[2][N / 8][4], const float *floats,
                                             float inverse, int lane)
{
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
        const float2 scale = *(const float2 *)(floats + 8 * n + lane % 4 * 2);
        float2 b = *(const float2 *)(floats + BIASES + 8 * n + lane % 4 * 2);
        b.x *= inverse;
        b.y *= inverse;
#pragma unroll
        for (int r = 0; r < 4; r++) {
            float *x = &s[r / 2][n][r % 2 * 2];
            x[0] = fmaf(x[0], scale.x, b.x);
            x[1] = fmaf(x[1], scale.y, b.y);
        }
    }
}

template <int N>
__device__ __forceinline__ void scale_weights(float (&s)[2][N / 8][4], const float *scales,
                                              int lane)
{
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
        const float2 scale = *(const float2 *)(scales + 8 * n + lane % 4 * 2);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            s[r / 2][n][r % 2 * 2] *= scale.x;
            s[r / 2][n][r % 2 * 2 + 1] *= scale.y;
        }
    }
}

__device__ __forceinline__ uint2 ids_of(const view &v, int t, int last)
{
    int i = 2 * t - v.lead;
    uint2 ids = make_uint2(0, 0);
    if (t <= last && i >= 0 && i < v.n_pages)
        ids.x = v.table[i];
    if (t <= last && i + 1 < v.n_pages)
        ids.y = v.table[i + 1];
    return ids;
}

/* Scores of 2 x 16 rows and N entries; I8: products with whole numbers alone. */
template <int D, bool I8, int N>
__device__ __forceinline__ void score(float (&s)[2][N / 8][4], uint32_t q_at, uint32_t k_at,
                                      const float *bias, float inverse, int lane)
{
    [[maybe_unused]] constexpr int together =
        N == KEYS ? D / 16 : 2; /* all would spill with half the entries */
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
        float2 b = make_float2(0.0f, 0.0f);
        if (!I8)
            b = *(const float2 *)(bias + 8 * n + lane % 4 * 2);
        b.x *= inverse;
        b.y *= inverse;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            s[i][n][0] = s[i][n][2] = b.x;
            s[i][n][1] = s[i][n][3] = b.y;
        }
    }
#pragma unroll together
    for (int k = 0; k < D / 16; k++) {
        uint32_t q[2][4];
        load_matrices(q[0], chunk_from<D>(q_at, 0, 2 * k));
        load_matrices(q[1], chunk_from<D>(q_at, 16, 2 * k));
#pragma unroll
        for (int n = 0; n < N / 8; n += 2) {
            uint32_t b[4];
            load_matrices(b, chunk_from<D>(k_at, 8 * n, 2 * k));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                multiply_add(s[i][n], q[i], b[0], b[1]);
                multiply_add(s[i][n + 1], q[i], b[2], b[3]);
            }
        }
    }
}

/* Scores to weights; o and l are rescaled where a reference moves. */
template <int D, int N>
__device__ __forceinline__ void weigh(float (&s)[2][N / 8][4], float (&o)[2][D / 8][4],
                                      float (&m)[4], float (&l)[4], float c, float slack)
{
    float factor[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        float highest = -INFINITY;
#pragma unroll
        for (int n = 0; n < N / 8; n++)
            highest = fmaxf(highest, fmaxf(s[r / 2][n][r % 2 * 2], s[r / 2][n][r % 2 * 2 + 1]));
        factor[r] = move_reference(m[r], quad_max(highest), c, slack);
    }
    if (__any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f || factor[2] != 1.0f ||
                                    factor[3] != 1.0f)) {
#pragma unroll
        for (int r = 0; r < 4; r++) {
            l[r] *= factor[r];
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                o[r / 2][n][r % 2 * 2] *= factor[r];
                o[r / 2][n][r % 2 * 2 + 1] *= factor[r];
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        float offset = exponent_offset(m[r], c);
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &x = s[r / 2][n][r % 2 * 2 + i];
                x = exp2_fast(fmaf(x, c, offset));
                l[r] += x;
            }
        }
    }
}

template <int D, int N>
__device__ __forceinline__ void add_values(float (&o)[2][D / 8][4], const float (&s)[2][N / 8][4],
                                           uint32_t v_at)
{
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        uint32_t p[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++)
                p[i][j] =
                    pack_bf16(s[i][2 * k + j / 2][j % 2 * 2], s[i][2 * k + j / 2][j % 2 * 2 + 1]);
        }
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            load_transposed(b, chunk_from<D>(v_at, 16 * k, n));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                multiply_add(o[i][n], p[i], b[0], b[1]);
                multiply_add(o[i][n + 1], p[i], b[2], b[3]);
            }
        }
    }
}

/* The lane's row r of four: 16 (r / 2) + 8 (r % 2) + lane / 4 of the warp's 32. */
__device__ __forceinline__ int row_of(int r)
{
    return (int)threadIdx.x / 32 * 32 + r * 8 + (int)threadIdx.x % 32 / 4;
}

/* first: the first of the N entries. */
template <int N>
__device__ __forceinline__ void hide(const limits &b, int first, float (&s)[2][N / 8][4])
{
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int n_cores = b.v.n_cores, low = b.low[row_of(r)], own = b.own[row_of(r)];
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int e = first + 8 * n + (int)threadIdx.x % 4 * 2 + i;
                if (e >= n_cores && (e < low || e > own))
                    s[r / 2][n][r % 2 * 2 + i] = -INFINITY;
            }
        }
    }
}

template <int D>
__device__ __forceinline__ void store(const sc_cuda_attn &a, uint32_t seq, uint32_t head,
                                      uint32_t x0, const float (&o)[2][D / 8][4],
                                      const float (&l)[4])
{
    const view v = view_of(a, seq, 2);
#pragma unroll
    for (int r = 0; r < 4; r++) {
        float sum = quad_sum(l[r]), inverse = sum == 0.0f ? 0.0f : __frcp_rn(sum);
        uint32_t x = x0 + (uint32_t)row_of(r);
        if (x >= v.n_rows * a.group)
            continue;
        size_t at = (size_t)(v.row0 + x / a.group) * a.n_heads * D +
                    (size_t)(head * a.group + x % a.group) * D + threadIdx.x % 4 * 2;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            float2 y =
                make_float2(o[r / 2][n][r % 2 * 2] * inverse, o[r / 2][n][r % 2 * 2 + 1] * inverse);
            if (a.out != NULL)
                *(float2 *)(a.out + at + 8 * n) = y;
            if (a.image != NULL)
                *(uint32_t *)(a.image + at + 8 * n) = pack_bf16(y.x, y.y);
        }
    }
}

template <int D, bool I8>
__global__ void __launch_bounds__(THREADS, 2)
    prefill_kernel(const __grid_constant__ sc_cuda_attn a, uint32_t n_tiles)
{
    using at = layout<D, I8>;
    constexpr int N = at_once<D, I8>();
    extern __shared__ __align__(1024) uint8_t shared[];
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const uint32_t head = blockIdx.x % a.n_kv_heads;
    const uint32_t seq = blockIdx.x / a.n_kv_heads % a.seqs.n_seqs;
    const uint32_t tile = n_tiles - 1 - blockIdx.x / a.n_kv_heads / a.seqs.n_seqs;
    const uint32_t x0 = tile * ROWS, n_rows = a.seqs.seqs[seq].n_rows * a.group;

    if (x0 >= n_rows || (a.split && is_small(a, a.seqs.seqs[seq].n_rows)))
        return;
    limits &b = *(limits *)(shared + at::limits);
    {
        const view v = view_of(a, seq, 2);
        for (int i = (int)threadIdx.x; i < ROWS; i += THREADS) {
            uint32_t token = min(x0 + (uint32_t)i, n_rows - 1) / a.group;
            b.low[i] = low_entry(v, token);
            b.own[i] = own_entry(v, token);
        }
        if (threadIdx.x == 0) {
            b.v = v;
            b.base = a.mem + head * a.head_bytes;
        }
        load_queries<D, ROWS, THREADS>(a, v, head, x0, shared);
    }
    __syncthreads();

    const int first = b.v.n_cores > 0 ? 0 : b.low[0] / KEYS, last = b.own[ROWS - 1] / KEYS;
    const uint32_t kv = shared_address(shared + at::kv);
    const uint32_t floats_to = shared_address(shared + at::floats);
    const float *floats = (const float *)(shared + at::floats);
    const float c = a.scale * LOG2E, inverse = 1.0f / a.scale, slack = SLACK / c;
    auto load = [&](uint2 ids, int t, int stage) {
        const uint32_t to = floats_to + stage * at::n_floats * 4;
        if (I8)
            load_keys_i8<D>(a, b, ids, t, shared_address(shared + at::landing), to);
        else
            load_keys<D>(a, b, ids, t, kv + stage * at::stage, to);
    };
    load(ids_of(b.v, first, last), first, 0);
    copy_commit();
    uint2 ids = ids_of(b.v, first + 1, last);

    const int row0 = warp * 32, row1 = row0 + 31; /* the warp's */
    const bool idle = x0 + (uint32_t)row0 >= n_rows;
    const uint32_t q_at = shared_address(shared) + chunk_at<D>(row0 + (lane & 15), lane >> 4);
    const uint32_t k_at = kv + chunk_at<D>((lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1);
    const uint32_t v_at = kv + at::tile + chunk_at<D>(lane & 15, lane >> 4);
    float o[2][D / 8][4] = {}, l[4] = {};
    float m[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};

#pragma unroll 1
    for (int t = first; t <= last; t++) {
        const int stage = (t - first) % STAGES, other = (stage + 1) % STAGES;
        copy_wait<0>();
        __syncthreads(); /* tile t is there for all, and all are past tile t - 1 */
        if (I8) {
            widen_keys<D>(shared + at::landing, shared + at::kv);
            __syncthreads();
        }
        if (t < last)
            load(ids, t + 1, other);
        copy_commit();
        ids = ids_of(b.v, t + 2, last);
        if (idle ||
            (t * KEYS >= b.v.n_cores && (t * KEYS > b.own[row1] || t * KEYS + KEYS <= b.low[row0])))
            continue; /* no row of the warp sees any of it */

        const uint32_t from = I8 ? 0 : stage * at::stage;
        const float *of_tile = floats + stage * at::n_floats;
#pragma unroll 1
        for (int i = 0; i < KEYS / N; i++) {
            float s[2][N / 8][4];
            const uint32_t rows = from + i * N * D * 2;
            bool all = true;
            score<D, I8, N>(s, q_at, k_at + rows, of_tile + i * N, inverse, lane);
            if (I8)
                scale_scores<N>(s, of_tile + i * N, inverse, lane);
#pragma unroll
            for (int page = 0; page < N / ENTRIES; page++)
                all = all && all_slots(slots_of(b.v, 2 * t + i + page, b.low[row1], b.own[row0]));
            if (!all)
                hide<N>(b, t * KEYS + i * N, s);
            weigh<D, N>(s, o, m, l, c, slack);
            if (I8)
                scale_weights<N>(s, of_tile + V_SCALES + i * N, lane);
            add_values<D, N>(o, s, v_at + rows);
        }
    }
    store<D>(a, seq, head, x0, o, l);
}

template <int D, bool I8> static cudaError_t launch(const sc_cuda_attn *a, cudaStream_t stream)
{
    constexpr int bytes = layout<D, I8>::bytes;
    uint32_t n_tiles = (a->seqs.max_rows * a->group + ROWS - 1) / ROWS;
    uint64_t n_blocks = (uint64_t)n_tiles * a->n_kv_heads * a->seqs.n_seqs;
    if (n_blocks == 0 || n_blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    prefill_kernel<D, I8><<<(unsigned)n_blocks, THREADS, bytes, stream>>>(*a, n_tiles);
    return cudaGetLastError();
}

template <bool I8> static cudaError_t launch_width(const sc_cuda_attn *a, cudaStream_t stream)
{
    switch (a->head_dim) {
    case 32:
        return launch<32, I8>(a, stream);
    case 64:
        return launch<64, I8>(a, stream);
    case 128:
        return launch<128, I8>(a, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

extern "C" cudaError_t sc_cuda_attn_prefill(const struct sc_cuda_attn *a, cudaStream_t stream)
{
    if (a->dtype == SC_DTYPE_I8)
        return launch_width<true>(a, stream);
    return launch_width<false>(a, stream);
}

template <int D, bool I8> static cudaError_t allow(void)
{
    return cudaFuncSetAttribute(prefill_kernel<D, I8>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                layout<D, I8>::bytes);
}

template <bool I8> static cudaError_t allow_all(void)
{
    cudaError_t rc = allow<32, I8>();
    if (rc == cudaSuccess)
        rc = allow<64, I8>();
    return rc == cudaSuccess ? allow<128, I8>() : rc;
}

extern "C" cudaError_t sc_cuda_attn_prefill_init(void)
{
    cudaError_t rc = allow_all<false>();
    return rc == cudaSuccess ? allow_all<true>() : rc;
}
