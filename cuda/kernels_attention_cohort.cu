/* cuda/kernels_attention_cohort.cu - the splits that sequences of a cohort share, on tensor cores.
 *
 * One block per (team, split, KV head of a cohort). A team is as many members as TILES tiles of 16
 * rows have room for, 16 / group a tile: a page lands in shared memory once for all of them. Larger
 * cohorts are several teams, whose blocks are neighbours in the grid, so that the later ones find
 * the pages in the second cache. Each member's rows are a part, as a block of its own
 * (kernels_attention_decode.cu) would have left it.
 *
 * What members see of a shared page is the same for all, and is read from the first one's
 * descriptor.
 */
#include "cuda/kernels_attention_decode.cuh"

#define NOBODY 0xffffffffu

/* What the loop over pages reads anew each time: sums take the registers. */
struct team {
    uint32_t seq[2][16], row0[2][16]; /* of a tile, by place: 16 / group, the others are NOBODY */
    view v;                           /* the first member's, and what all see of shared pages: */
    int low, own;                     /* its exact entries */
};

__device__ __forceinline__ void find_team(const sc_cuda_attn &a, const sc_cuda_cohort &cohort,
                                          uint32_t first, uint32_t per_tile, int n_tiles, team &ret)
{
    const uint32_t tile = threadIdx.x / 16, place = threadIdx.x % 16;
    const uint32_t member = first + tile * per_tile + place;
    uint32_t seq = NOBODY;
    if (tile >= (uint32_t)n_tiles)
        return;
    if (place < per_tile && member < cohort.n)
        seq = a.seqs.members[cohort.first + member];
    ret.seq[tile][place] = seq;
    ret.row0[tile][place] = seq != NOBODY ? a.seqs.seqs[seq].row0 : 0;
}

/* For attend_split: a team's rows. */
template <int D> struct rows_of_team {
    const sc_cuda_attn &a;
    const team &who; /* in shared memory */
    uint32_t head;

    __device__ __forceinline__ bool busy(int tile) const
    {
        return who.seq[tile][0] != NOBODY;
    }
    __device__ __forceinline__ slots seen(int page) const
    {
        return slots_of(who.v, page, who.low, who.own);
    }
    __device__ __forceinline__ void hide(float (&s)[4][4], int page) const
    {
        const int lane = (int)threadIdx.x % 32;
        const slots all = seen(page);
        if (all_slots(all))
            return;
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int n = 0; n < 4; n++) {
                const int slot = 8 * n + lane % 4 * 2 + i % 2;
                if (slot < all.lo || slot >= all.hi)
                    s[n][i] = -INFINITY;
            }
        }
    }
    __device__ __forceinline__ bool settled(int) const
    {
        return a.settled; /* nobody's last page is shared */
    }
    __device__ __forceinline__ uint4 chunk(int tile, int row, int i) const
    {
        const uint32_t place = (uint32_t)row / a.group, x = (uint32_t)row % a.group;
        if (who.seq[tile][place] == NOBODY)
            return make_uint4(0, 0, 0, 0);
        return round_chunk(a.q + (size_t)who.row0[tile][place] * a.q_stride +
                           (size_t)(head * a.group + x) * D + i * 8);
    }
};

/* A tile's rows from its warps' sums, each to its sequence's part. */
template <int D, bool I8, int TILES>
__device__ __forceinline__ void put_parts(const sc_cuda_attn &a, const uint8_t *shared,
                                          const found &f, const uint32_t (&seqs)[16],
                                          uint32_t split, uint32_t head)
{
    const int n = (int)(16 / a.group * a.group) * D;
    for (int i = (int)threadIdx.x; i < n; i += TILES * WARPS * 32) {
        const int r = i / D, d = i % D;
        const uint32_t seq = seqs[(uint32_t)r / a.group], x = (uint32_t)r % a.group;
        float m, l, o;
        if (seq == NOBODY)
            continue;
        add_warps<D, I8, TILES>(shared, f, r, d, m, l, o);
        put_part(part_of(a, seq, head, split) + x * (D + SC_CUDA_ATTN_PART_PAD), d, D, m, l, o);
    }
}

template <int D, int TILES, int BLOCKS, bool I8>
__global__ void __launch_bounds__(TILES *WARPS * 32, BLOCKS)
    cohort_kernel(const __grid_constant__ sc_cuda_attn a)
{
    using at = layout<D, I8, TILES>;
    extern __shared__ __align__(1024) uint8_t shared[];
    __shared__ found f[TILES];
    __shared__ team who;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32 % WARPS;
    const int tile = TILES == 1 ? 0 : (int)threadIdx.x / (WARPS * 32);
    sc_next_may_start();
    /* Descriptors, page tables and cohorts are copied before a step's first kernel; no kernel
     * writes them. */
    const sc_cuda_cohort cohort = a.seqs.cohorts[blockIdx.z % a.seqs.bounds.n_cohorts];
    const uint32_t head = blockIdx.z / a.seqs.bounds.n_cohorts; /* of the launch */
    const uint32_t per_tile = 16 / a.group, first = blockIdx.x * TILES * per_tile;

    if (blockIdx.y >= cohort.n_shared || first >= cohort.n) {
        sc_inputs_ready();
        return;
    }
    find_team(a, cohort, first, per_tile, TILES, who);
    if (threadIdx.x == 0) {
        const view v = view_of(a, a.seqs.members[cohort.first], 1);
        who.v = v;
        who.low = low_entry(v, 0);
        who.own = own_entry(v, 0);
    }
    __syncthreads();
    const int per_split = who.v.split_pages, begin = (int)blockIdx.y * per_split;
    const rows_of_team<D> rows = {a, who, a.head0 + head};
    float o[D / 8][4] = {};
    attend_split<D, I8, TILES>(a, who.v, a.head0 + head, begin, begin + per_split, rows, shared, o,
                               &f[tile]);
    /* A tile's sums take the place of the pages, one tile after the other. */
#pragma unroll 1
    for (int t = 0; t < TILES && rows.busy(t); t++) {
        __syncthreads();
        if (tile == t)
            put_sums<D, I8>((float *)(shared + warp * at::warp), o, lane);
        __syncthreads();
        put_parts<D, I8, TILES>(a, shared, f[t], who.seq[t], blockIdx.y, head);
    }
}

template <int D, int TILES, int BLOCKS, bool I8> static cudaError_t allow(void)
{
    return cudaFuncSetAttribute(cohort_kernel<D, TILES, BLOCKS, I8>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                layout<D, I8, TILES>::bytes);
}

template <bool I8> static cudaError_t allow_all(void)
{
    cudaError_t rc = allow<32, 1, 5, I8>();
    if (rc == cudaSuccess)
        rc = allow<32, 2, 2, I8>();
    if (rc == cudaSuccess)
        rc = allow<64, 1, 4, I8>();
    if (rc == cudaSuccess)
        rc = allow<64, 2, 2, I8>();
    if (rc == cudaSuccess)
        rc = allow<128, 1, 3, I8>();
    return rc == cudaSuccess ? allow<128, 2, 2, I8>() : rc;
}

extern "C" cudaError_t sc_cuda_attn_cohort_init(void)
{
    cudaError_t rc = allow_all<false>();
    return rc == cudaSuccess ? allow_all<true>() : rc;
}

template <int D, int TILES, int BLOCKS, bool I8>
static cudaError_t launch(const sc_cuda_attn *a, cudaStream_t stream)
{
    const uint32_t members = TILES * (16 / a->group);
    const uint32_t teams = (a->seqs.bounds.max_members + members - 1) / members;
    return sc_overlap_launch(
        cohort_kernel<D, TILES, BLOCKS, I8>,
        dim3(teams, a->seqs.bounds.max_shared, a->seqs.bounds.n_cohorts * a->n_heads_now),
        TILES * WARPS * 32, layout<D, I8, TILES>::bytes, stream, with_scale(a));
}

template <bool I8> static cudaError_t launch_width(const sc_cuda_attn *a, cudaStream_t stream)
{
    const bool one_tile = a->seqs.bounds.max_members <= 16 / a->group;
    switch (a->head_dim) {
    case 32:
        return one_tile ? launch<32, 1, 5, I8>(a, stream) : launch<32, 2, 2, I8>(a, stream);
    case 64:
        return one_tile ? launch<64, 1, 4, I8>(a, stream) : launch<64, 2, 2, I8>(a, stream);
    case 128:
        return one_tile ? launch<128, 1, 3, I8>(a, stream) : launch<128, 2, 2, I8>(a, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

extern "C" cudaError_t sc_cuda_attn_cohort(const struct sc_cuda_attn *a, cudaStream_t stream)
{
    if (a->dtype == SC_DTYPE_I8)
        return launch_width<true>(a, stream);
    return launch_width<false>(a, stream);
}
