/* cuda/kernels_attention_decode.cu - attention of few rows over many pages, on tensor cores.
 *
 * One block per (split, KV head, sequence), of four warps. All rows (tokens x query heads of the
 * group) are one tile of 16, so a page is read once. The warps' results are added in the order of
 * warps. Memory bound: three blocks of a multiprocessor have 96 to 192 KiB of pages on their way.
 * Splits that a cohort reads together are left out: kernels_attention_cohort.cu has them.
 */
#include "cuda/kernels_attention_decode.cuh"

/* The split of this block. */
__device__ __forceinline__ int split_of(const sc_cuda_attn &a)
{
    const uint32_t shared =
        a.seqs.bounds.n_cohorts != 0 ? a.seqs.seqs[a.seq0 + blockIdx.z].n_shared : 0;
    return (int)(blockIdx.x + shared);
}

/* For attend_split: a sequence's rows. */
template <int D> struct rows_of_one {
    const sc_cuda_attn &a;
    const view &v;
    uint32_t head;
    int low_all, own_all; /* exact entries that they see all together */
    const int *low, *own; /* [16], in shared memory: of each row */

    __device__ __forceinline__ bool busy(int) const
    {
        return true;
    }
    __device__ __forceinline__ slots seen(int page) const
    {
        return slots_of(v, page, low_all, own_all);
    }
    __device__ __forceinline__ void hide(float (&s)[4][4], int page) const
    {
        const int lane = (int)threadIdx.x % 32;
        if (all_slots(slots_of(v, page, low[15], own[0])))
            return;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int e = page * ENTRIES + lane % 4 * 2 + i % 2, r = lane / 4 + i / 2 * 8;
            int lo = low[r], hi = own[r];
#pragma unroll
            for (int n = 0; n < 4; n++, e += 8) {
                if (e >= v.n_cores && (e < lo || e > hi))
                    s[n][i] = -INFINITY;
            }
        }
    }
    __device__ __forceinline__ uint4 chunk(int, int row, int i) const
    {
        return query_chunk<D>(a, v, head, (uint32_t)row, i);
    }
};

/* The block's rows from its warps' sums: the result itself, or a part. */
template <int D, bool I8>
__device__ __forceinline__ void put_rows(const sc_cuda_attn &a, const uint8_t *shared,
                                         const found &f)
{
    /* Read again rather than kept in registers through the loop over pages. */
    const view v = view_of(a, a.seq0 + blockIdx.z, 1);
    const bool whole = split_pages(v.n_pages) >= v.n_pages;
    const uint32_t head = a.head0 + blockIdx.y, split = (uint32_t)split_of(a);
    const int n = (int)(v.n_rows * a.group) * D;
    for (int i = (int)threadIdx.x; i < n; i += WARPS * 32) {
        int r = i / D, d = i % D;
        float m, l, o;
        add_warps<D, I8, 1>(shared, f, r, d, m, l, o);
        if (whole) {
            float x = l == 0.0f ? 0.0f : o / l;
            size_t at = (size_t)(v.row0 + (uint32_t)r / a.group) * a.n_heads * D +
                        (size_t)(head * a.group + (uint32_t)r % a.group) * D + d;
            a.out[at] = x;
            if (a.image != NULL)
                a.image[at] = (uint16_t)pack_bf16(x, 0.0f);
        } else {
            put_part(part_of(a, blockIdx.z, blockIdx.y, split) + r * (D + SC_CUDA_ATTN_PART_PAD), d,
                     D, m, l, o);
        }
    }
}

template <int D, int BLOCKS, bool I8>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS)
    decode_kernel(const __grid_constant__ sc_cuda_attn a)
{
    using at = layout<D, I8, 1>;
    extern __shared__ __align__(1024) uint8_t shared[];
    __shared__ found f;
    __shared__ int low[16], own[16]; /* of each row */
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    sc_next_may_start();
    /* Descriptors and page tables are copied before a step's first kernel; no kernel writes them.
     */
    const view v = view_of(a, a.seq0 + blockIdx.z, 1);
    const int per_split = split_pages(v.n_pages), begin = split_of(a) * per_split;
    const uint32_t head = a.head0 + blockIdx.y;

    if (begin >= v.n_pages || !is_small(a, v.n_rows)) {
        sc_inputs_ready();
        return;
    }
    /* What the rows see all together. */
    const int low_all = low_entry(v, 0), own_all = own_entry(v, v.n_rows - 1);
    if (threadIdx.x < 16) {
        uint32_t t = min(threadIdx.x / a.group, v.n_rows - 1);
        low[threadIdx.x] = low_entry(v, t);
        own[threadIdx.x] = own_entry(v, t);
    }
    const rows_of_one<D> rows = {a, v, head, low_all, own_all, low, own};
    float o[D / 8][4] = {};
    attend_split<D, I8, 1>(a, v, head, begin, min(begin + per_split, v.n_pages), rows, shared, o,
                           &f);
    put_sums<D, I8>((float *)(shared + warp * at::warp), o, lane);
    __syncthreads();
    put_rows<D, I8>(a, shared, f);
}

template <int D, int BLOCKS, bool I8> static cudaError_t allow(void)
{
    return cudaFuncSetAttribute(decode_kernel<D, BLOCKS, I8>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                layout<D, I8, 1>::bytes);
}

template <bool I8> static cudaError_t allow_all(void)
{
    cudaError_t rc = allow<32, 5, I8>();
    if (rc == cudaSuccess)
        rc = allow<64, 4, I8>();
    return rc == cudaSuccess ? allow<128, 3, I8>() : rc;
}

extern "C" cudaError_t sc_cuda_attn_decode_init(void)
{
    cudaError_t rc = allow_all<false>();
    return rc == cudaSuccess ? allow_all<true>() : rc;
}

template <int D, int BLOCKS, bool I8>
static cudaError_t launch(const sc_cuda_attn *a, cudaStream_t stream)
{
    return sc_overlap_launch(decode_kernel<D, BLOCKS, I8>,
                             dim3(a->n_own_splits, a->n_heads_now, a->n_seqs), WARPS * 32,
                             layout<D, I8, 1>::bytes, stream, with_scale(a));
}

template <bool I8> static cudaError_t launch_width(const sc_cuda_attn *a, cudaStream_t stream)
{
    switch (a->head_dim) {
    case 32:
        return launch<32, 5, I8>(a, stream);
    case 64:
        return launch<64, 4, I8>(a, stream);
    case 128:
        return launch<128, 3, I8>(a, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

extern "C" cudaError_t sc_cuda_attn_decode(const struct sc_cuda_attn *a, cudaStream_t stream)
{
    if (a->dtype == SC_DTYPE_I8)
        return launch_width<true>(a, stream);
    return launch_width<false>(a, stream);
}
