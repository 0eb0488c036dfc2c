/* cuda/kernels_attention_prefill.cu - attention of blocks of rows, on tensor cores.
 *
 * One block per (tile of 128 rows, KV head, sequence); a row is a (token, query head of the group).
 * Four warps of 32 rows each go through all entries that the tile sees, 64 at a time, in rising
 * order, with the next 64 on their way. Keeping 32 rows a warp halves what is read of K and V from
 * shared memory, which is what bounds this kernel beside the tensor cores. Tiles with the longest
 * way to go start first.
 *
 * What a row's sums are made of, and their order, follows from its own entries alone: tiles of 64
 * are counted from the start of the list of pages, and what it does not see adds nothing.
 */
#include "cuda/kernels_attention.cuh"

#define WARPS   4
#define THREADS (WARPS * 32)
#define ROWS    (WARPS * 32)
#define KEYS    64 /* two pages */
#define STAGES  2

/* What the loop over tiles of keys reads anew each time: the sums take the registers. */
struct limits {
    int low[ROWS], own[ROWS]; /* first and last exact entry that each row sees; rows beyond the
                                 sequence are like its last */
    view v;
    const uint8_t *base; /* of the KV head */
};

template <int D> struct layout {
    static constexpr int tile = KEYS * D * 2, stage = 2 * tile;
    static constexpr int kv = ROWS * D * 2, bias = kv + STAGES * stage;
    static constexpr int limits = bias + STAGES * KEYS * 4;
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
            copy_async(at + layout<D>::tile, from + a.v_offset + i * D * 2, n);
        }
        if (threadIdx.x < ENTRIES / 4)
            copy_async(bias_to + (page * ENTRIES / 4 + threadIdx.x) * 16,
                       block + a.bias_offset + threadIdx.x * 16, any_slot(s) ? 16 : 0);
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

/* Scores of 2 x 16 rows and 64 entries. */
template <int D>
__device__ __forceinline__ void score(float (&s)[2][KEYS / 8][4], uint32_t q_at, uint32_t k_at,
                                      const float *bias, float inverse, int lane)
{
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
        float2 b = *(const float2 *)(bias + 8 * n + lane % 4 * 2);
        b.x *= inverse;
        b.y *= inverse;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            s[i][n][0] = s[i][n][2] = b.x;
            s[i][n][1] = s[i][n][3] = b.y;
        }
    }
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t q[2][4];
        load_matrices(q[0], chunk_from<D>(q_at, 0, 2 * k));
        load_matrices(q[1], chunk_from<D>(q_at, 16, 2 * k));
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) {
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
template <int D>
__device__ __forceinline__ void weigh(float (&s)[2][KEYS / 8][4], float (&o)[2][D / 8][4],
                                      float (&m)[4], float (&l)[4], float c, float slack)
{
    float factor[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        float highest = -INFINITY;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
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
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &x = s[r / 2][n][r % 2 * 2 + i];
                x = exp2_fast(fmaf(x, c, offset));
                l[r] += x;
            }
        }
    }
}

template <int D>
__device__ __forceinline__ void add_values(float (&o)[2][D / 8][4],
                                           const float (&s)[2][KEYS / 8][4], uint32_t v_at)
{
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
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

__device__ __forceinline__ void hide(const limits &b, int t, float (&s)[2][KEYS / 8][4])
{
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int n_cores = b.v.n_cores, low = b.low[row_of(r)], own = b.own[row_of(r)];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int e = t * KEYS + 8 * n + (int)threadIdx.x % 4 * 2 + i;
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
            *(float2 *)(a.out + at + 8 * n) = y;
            if (a.image != NULL)
                *(uint32_t *)(a.image + at + 8 * n) = pack_bf16(y.x, y.y);
        }
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 2)
    prefill_kernel(const __grid_constant__ sc_cuda_attn a, uint32_t n_tiles)
{
    extern __shared__ __align__(1024) uint8_t shared[];
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const uint32_t head = blockIdx.x % a.n_kv_heads;
    const uint32_t seq = blockIdx.x / a.n_kv_heads % a.seqs.n_seqs;
    const uint32_t tile = n_tiles - 1 - blockIdx.x / a.n_kv_heads / a.seqs.n_seqs;
    const uint32_t x0 = tile * ROWS, n_rows = a.seqs.seqs[seq].n_rows * a.group;

    if (x0 >= n_rows || (a.split && is_small(a, a.seqs.seqs[seq].n_rows)))
        return;
    limits &b = *(limits *)(shared + layout<D>::limits);
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
    const uint32_t kv = shared_address(shared + layout<D>::kv);
    const uint32_t bias_to = shared_address(shared + layout<D>::bias);
    const float *bias = (const float *)(shared + layout<D>::bias);
    const float c = a.scale * LOG2E, inverse = 1.0f / a.scale, slack = SLACK / c;
    load_keys<D>(a, b, ids_of(b.v, first, last), first, kv, bias_to);
    copy_commit();
    uint2 ids = ids_of(b.v, first + 1, last);

    const int row0 = warp * 32, row1 = row0 + 31; /* the warp's */
    const bool idle = x0 + (uint32_t)row0 >= n_rows;
    const uint32_t q_at = shared_address(shared) + chunk_at<D>(row0 + (lane & 15), lane >> 4);
    const uint32_t k_at = kv + chunk_at<D>((lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1);
    const uint32_t v_at = kv + layout<D>::tile + chunk_at<D>(lane & 15, lane >> 4);
    float o[2][D / 8][4] = {}, l[4] = {};
    float m[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};

#pragma unroll 1
    for (int t = first; t <= last; t++) {
        const int stage = (t - first) % STAGES, other = (stage + 1) % STAGES;
        copy_wait<0>();
        __syncthreads(); /* tile t is there for all, and all are past tile t - 1 */
        if (t < last)
            load_keys<D>(a, b, ids, t + 1, kv + other * layout<D>::stage,
                         bias_to + other * KEYS * 4);
        copy_commit();
        ids = ids_of(b.v, t + 2, last);
        if (idle ||
            (t * KEYS >= b.v.n_cores && (t * KEYS > b.own[row1] || t * KEYS + KEYS <= b.low[row0])))
            continue; /* no row of the warp sees any of it */

        float s[2][KEYS / 8][4];
        score<D>(s, q_at, k_at + stage * layout<D>::stage, bias + stage * KEYS, inverse, lane);
        if (!all_slots(slots_of(b.v, 2 * t, b.low[row1], b.own[row0])) ||
            !all_slots(slots_of(b.v, 2 * t + 1, b.low[row1], b.own[row0])))
            hide(b, t, s);
        weigh<D>(s, o, m, l, c, slack);
        add_values<D>(o, s, v_at + stage * layout<D>::stage);
    }
    store<D>(a, seq, head, x0, o, l);
}

template <int D> static cudaError_t launch(const sc_cuda_attn *a, cudaStream_t stream)
{
    uint32_t n_tiles = (a->seqs.max_rows * a->group + ROWS - 1) / ROWS;
    uint64_t n_blocks = (uint64_t)n_tiles * a->n_kv_heads * a->seqs.n_seqs;
    if (n_blocks == 0 || n_blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    prefill_kernel<D><<<(unsigned)n_blocks, THREADS, layout<D>::bytes, stream>>>(*a, n_tiles);
    return cudaGetLastError();
}

extern "C" cudaError_t sc_cuda_attn_prefill(const struct sc_cuda_attn *a, cudaStream_t stream)
{
    switch (a->head_dim) {
    case 32:
        return launch<32>(a, stream);
    case 64:
        return launch<64>(a, stream);
    case 128:
        return launch<128>(a, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

template <int D> static cudaError_t allow(void)
{
    return cudaFuncSetAttribute(prefill_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                layout<D>::bytes);
}

extern "C" cudaError_t sc_cuda_attn_prefill_init(void)
{
    cudaError_t rc = allow<32>();
    if (rc == cudaSuccess)
        rc = allow<64>();
    return rc == cudaSuccess ? allow<128>() : rc;
}
