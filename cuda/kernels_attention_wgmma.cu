/* cuda/kernels_attention_wgmma.cu - attention of blocks of rows on Hopper's warpgroup instructions.
 *
 * Does what kernels_attention_prefill.cu does, on devices of compute capability 9.0. One block per
 * (tile of 128 rows, KV head, sequence), two warpgroups of 64 rows each, 128 entries at a time. The
 * scores of the next tile and the sums of values of this one are computed while the weights of the
 * next are: O += P(t) V(t) runs during the exponentials of tile t + 1. K runs one tile ahead of V.
 */
#include "cuda/kernels_attention_group.cuh"

#define THREADS 256

/* What the loop over tiles of keys reads anew each time. */
struct limits {
    int low[ROWS], own[ROWS]; /* first and last exact entry that each row sees; rows beyond the
                                 sequence are like its last */
    view v;
    const uint8_t *base; /* of the KV head */
    float sink[THREADS]; /* see pin */
};

template <int D> struct layout {
    static constexpr int tile = KEYS * D * 2;
    static constexpr int k = ROWS * D * 2, v = k + 2 * tile, bias = v + 2 * tile;
    static constexpr int limits = bias + 2 * KEYS * 4;
    static constexpr int bytes = limits + (int)sizeof(struct limits);
};

struct page_ids {
    uint32_t id[TILE_PAGES];
};

__device__ __forceinline__ page_ids ids_of(const view &v, int t, int last)
{
    page_ids ids;
#pragma unroll
    for (int j = 0; j < TILE_PAGES; j++) {
        int i = t * TILE_PAGES + j - v.lead;
        ids.id[j] = t <= last && i >= 0 && i < v.n_pages ? v.table[i] : 0;
    }
    return ids;
}

/* K or V of tile t, from `offset` of the pages' blocks; what no row of the block sees is zero. */
template <int D>
__device__ __forceinline__ void load_tile(const sc_cuda_attn &a, const limits &b,
                                          const page_ids &ids, int t, size_t offset, uint32_t to)
{
    constexpr int step = THREADS / (D / 8); /* rows that the block copies at once, 16 or 32 */
    const int row = (int)threadIdx.x / (D / 8), chunk = (int)threadIdx.x % (D / 8);
    to += panel_at(KEYS, row, chunk);
#pragma unroll
    for (int page = 0; page < TILE_PAGES; page++) {
        const slots s = slots_of(b.v, t * TILE_PAGES + page, b.low[0], b.own[ROWS - 1]);
        /* A page that is not there: any address will do, nothing is read. */
        const uint8_t *from =
            b.base + (any_slot(s) ? ids.id[page] * a.page_bytes : 0) + offset + threadIdx.x * 16;
        if (all_slots(s)) { /* nearly always, and cheaper */
#pragma unroll
            for (int i = 0; i < ENTRIES; i += step)
                copy_async(to + (page * ENTRIES + i) * 128, from + i * D * 2);
        } else {
#pragma unroll
            for (int i = 0; i < ENTRIES; i += step)
                copy_async(to + (page * ENTRIES + i) * 128, from + i * D * 2,
                           row + i >= s.lo && row + i < s.hi ? 16 : 0);
        }
    }
}

/* Biases of tile t, by the first warp: eight threads a page. */
__device__ __forceinline__ void load_biases(const sc_cuda_attn &a, const limits &b, int t,
                                            uint32_t to)
{
    if (threadIdx.x >= 32)
        return;
    const int page = (int)threadIdx.x / 8, i = t * TILE_PAGES + page - b.v.lead;
    const slots s = slots_of(b.v, t * TILE_PAGES + page, b.low[0], b.own[ROWS - 1]);
    const uint32_t id = any_slot(s) ? b.v.table[i] : 0;
    copy_async(to + threadIdx.x * 16,
               b.base + id * a.page_bytes + a.bias_offset + threadIdx.x % 8 * 16,
               any_slot(s) ? 16 : 0);
}

template <int D>
__device__ __forceinline__ void load_rows(const sc_cuda_attn &a, const view &v, uint32_t head,
                                          uint32_t x0, uint8_t *q)
{
    for (int i = (int)threadIdx.x; i < ROWS * (D / 8); i += THREADS) {
        const int row = i / (D / 8), chunk = i % (D / 8);
        *(uint4 *)(q + panel_at(ROWS, row, chunk)) =
            query_chunk<D>(a, v, head, x0 + (uint32_t)row, chunk);
    }
}

/* Begins scores of the warpgroup's 64 rows and the 128 entries of a tile. */
template <int D>
__device__ __forceinline__ void begin_scores(float (&s)[KEYS / 8][4], uint32_t q, uint32_t k,
                                             const float *bias, float inverse)
{
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
        float2 b = *(const float2 *)(bias + 8 * n + threadIdx.x % 4 * 2);
        s[n][0] = s[n][2] = b.x * inverse;
        s[n][1] = s[n][3] = b.y * inverse;
    }
    group_fence();
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        const uint32_t panel = i / 4, at = i % 4 * 32;
        group_multiply_128(s, matrix_at(q + panel * ROWS * 128 + at, 16, 1024),
                           matrix_at(k + panel * KEYS * 128 + at, 16, 1024));
    }
    group_commit();
}

__device__ __forceinline__ void hide(const limits &b, int t, float (&s)[KEYS / 8][4])
{
    const int first = (int)threadIdx.x / 32 * 16;
    bool all = true;
#pragma unroll
    for (int page = 0; page < TILE_PAGES; page++)
        all =
            all && all_slots(slots_of(b.v, t * TILE_PAGES + page, b.low[first + 15], b.own[first]));
    if (all)
        return;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int n_cores = b.v.n_cores, low = b.low[row_of(r)], own = b.own[row_of(r)];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int e = t * KEYS + 8 * n + (int)threadIdx.x % 4 * 2 + i;
                if (e >= n_cores && (e < low || e > own))
                    s[n][2 * r + i] = -INFINITY;
            }
        }
    }
}

/* The wait that follows is not put before the exponentials, which are to be made while the matrix
 * instructions run: it stays behind a store that needs all of them. */
__device__ __forceinline__ void pin(limits &b, const float (&l)[2])
{
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(shared_address(&b.sink[threadIdx.x])),
                 "f"(l[0] + l[1])
                 : "memory");
}

template <int D>
__device__ __forceinline__ void attend(const sc_cuda_attn &a, uint32_t n_tiles, uint8_t *shared)
{
    const uint32_t head = blockIdx.x % a.n_kv_heads;
    const uint32_t seq = blockIdx.x / a.n_kv_heads % a.seqs.n_seqs;
    const uint32_t tile = n_tiles - 1 - blockIdx.x / a.n_kv_heads / a.seqs.n_seqs;
    const uint32_t x0 = tile * ROWS, n_rows = a.seqs.seqs[seq].n_rows * a.group;

    if (x0 >= n_rows || (a.split && is_small(a, a.seqs.seqs[seq].n_rows)))
        return;
    limits &b = *(limits *)(shared + layout<D>::limits);
    {
        const view v = view_of(a, seq, TILE_PAGES);
        for (int i = (int)threadIdx.x; i < ROWS; i += THREADS) {
            uint32_t token = min(x0 + (uint32_t)i, n_rows - 1) / a.group;
            b.low[i] = low_entry(v, token);
            b.own[i] = own_entry(v, token);
        }
        if (threadIdx.x == 0) {
            b.v = v;
            b.base = a.mem + head * a.head_bytes;
        }
        load_rows<D>(a, v, head, x0, shared);
    }
    __syncthreads();

    const int first = b.v.n_cores > 0 ? 0 : b.low[0] / KEYS, last = b.own[ROWS - 1] / KEYS;
    const uint32_t q = shared_address(shared) + threadIdx.x / 128 * 64 * 128;
    const uint32_t k = shared_address(shared + layout<D>::k);
    const uint32_t v = shared_address(shared + layout<D>::v);
    const uint32_t bias_to = shared_address(shared + layout<D>::bias);
    const float *bias = (const float *)(shared + layout<D>::bias);
    const float c = a.scale * LOG2E, inverse = 1.0f / a.scale, slack = SLACK / c;
    float o[D / 8][4] = {}, s[KEYS / 8][4], l[2] = {}, m[2] = {-INFINITY, -INFINITY}, factor[2];
    uint32_t p[KEYS / 16][4];

    /* K of the first tile; then its V with K of the second. Tile t is in half (t - first) % 2. */
    page_ids ids = ids_of(b.v, first, last);
    load_tile<D>(a, b, ids, first, 0, k);
    load_biases(a, b, first, bias_to);
    copy_commit();
    load_tile<D>(a, b, ids, first, a.v_offset, v);
    if (first < last) {
        ids = ids_of(b.v, first + 1, last);
        load_tile<D>(a, b, ids, first + 1, 0, k + layout<D>::tile);
        load_biases(a, b, first + 1, bias_to + KEYS * 4);
    }
    copy_commit();
    copy_wait<1>();
    shared_fence();
    __syncthreads();
    begin_scores<D>(s, q, k, bias, inverse);
    group_wait<0>();
    hide(b, first, s);
    weigh(s, m, l, factor, c, slack);
    round_weights(p, s);

#pragma unroll 1
    for (int t = first; t < last; t++) {
        const int half = (t - first) & 1, other = half ^ 1;
        copy_wait<0>();
        shared_fence();
        __syncthreads(); /* K of t + 1 and V of t are there; all are past K of t, V of t - 1 */
        begin_scores<D>(s, q, k + other * layout<D>::tile, bias + other * KEYS, inverse);
        begin_values<D>(o, p, v + half * layout<D>::tile);
        load_tile<D>(a, b, ids, t + 1, a.v_offset, v + other * layout<D>::tile);
        if (t + 1 < last) {
            ids = ids_of(b.v, t + 2, last);
            load_tile<D>(a, b, ids, t + 2, 0, k + half * layout<D>::tile);
            load_biases(a, b, t + 2, bias_to + half * KEYS * 4);
        }
        copy_commit();
        group_wait<1>();
        hide(b, t + 1, s);
        weigh(s, m, l, factor, c, slack);
        pin(b, l);
        group_wait<0>();
        rescale<D>(o, factor);
        round_weights(p, s);
    }
    copy_wait<0>();
    shared_fence();
    __syncthreads();
    begin_values<D>(o, p, v + ((last - first) & 1) * layout<D>::tile);
    group_wait<0>();
    store<D>(a, view_of(a, seq, TILE_PAGES), head, x0, o, l);
}

template <int D>
__global__ void __launch_bounds__(THREADS, 1)
    wgmma_kernel(const __grid_constant__ sc_cuda_attn a, uint32_t n_tiles)
{
    extern __shared__ __align__(1024) uint8_t shared[];
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
    attend<D>(a, n_tiles, shared);
#else
    (void)shared; /* a build without machine code for sm_90a: fail rather than write nothing */
    (void)n_tiles;
    __trap();
#endif
}

template <int D> static cudaError_t launch(const sc_cuda_attn *a, cudaStream_t stream)
{
    uint32_t n_tiles = (a->seqs.max_rows * a->group + ROWS - 1) / ROWS;
    uint64_t n_blocks = (uint64_t)n_tiles * a->n_kv_heads * a->seqs.n_seqs;
    if (n_blocks == 0 || n_blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    wgmma_kernel<D><<<(unsigned)n_blocks, THREADS, layout<D>::bytes, stream>>>(*a, n_tiles);
    return cudaGetLastError();
}

extern "C" cudaError_t sc_cuda_attn_prefill_wgmma(const struct sc_cuda_attn *a, cudaStream_t stream)
{
    switch (a->head_dim) {
    case 64:
        return launch<64>(a, stream);
    case 128:
        return launch<128>(a, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

extern "C" cudaError_t sc_cuda_attn_prefill_wgmma_init(void)
{
    cudaError_t rc = cudaFuncSetAttribute(
        wgmma_kernel<64>, cudaFuncAttributeMaxDynamicSharedMemorySize, layout<64>::bytes);
    if (rc == cudaSuccess)
        rc = cudaFuncSetAttribute(wgmma_kernel<128>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  layout<128>::bytes);
    return rc;
}
