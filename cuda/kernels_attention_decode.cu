/* cuda/kernels_attention_decode.cu - attention of few rows over many pages, on tensor cores, and
 * the sum of what its splits found: a kernel more would wait for this one to end.
 *
 * One block per (split, KV head, sequence), of four warps. All rows (tokens x query heads of the
 * group) are one tile of 16, so a page is read once. The warps' results are added in the order of
 * warps. Memory bound: three blocks of a multiprocessor have 96 to 192 KiB of pages on their way.
 * Splits that a cohort reads together are left out: kernels_attention_cohort.cu has them, and their
 * parts are complete when this kernel reads them (sc_inputs_ready). Each sequence has at least
 * one of its own.
 *
 * A block that leaves a part counts it, and the one that finds all others of its sequence counted
 * adds them up, in the same order whichever block that is. Counts are back at 0 when a launch ends.
 * One that is refused has run no block, and an error within a kernel takes the device's context
 * with it, so there is nothing to clear between launches.
 */
#include "cuda/kernels_attention_decode.cuh"
#include "cuda/kernels_attention_parts.cuh"

/* Splits of this block's sequence that its cohort has read. */
__device__ __forceinline__ int n_shared_of(const sc_cuda_attn &a)
{
    return a.seqs.bounds.n_cohorts != 0 ? (int)a.seqs.seqs[a.seq0 + blockIdx.z].n_shared : 0;
}

/* The split of this block. */
__device__ __forceinline__ int split_of(const sc_cuda_attn &a)
{
    return (int)blockIdx.x + n_shared_of(a);
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
    /* Rows' own entries are the last ones. */
    __device__ __forceinline__ bool settled(int page) const
    {
        return a.settled && (page + 1) * ENTRIES <= own_all - (int)(v.n_rows - 1);
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

/* What is added up, once the loop over pages has left registers for it. */
struct whole {
    int n_rows, n_splits, n_shared;
    uint32_t row0;
};

__device__ __forceinline__ whole whole_of(const sc_cuda_attn &a)
{
    const view v = view_of(a, a.seq0 + blockIdx.z, 1);
    return {(int)(v.n_rows * a.group), splits_of(v), n_shared_of(a), v.row0};
}

/* Where row r of the sequence and of the block's head begins in the result. */
template <int D>
__device__ __forceinline__ size_t row_at(const sc_cuda_attn &a, const whole &all, uint32_t r)
{
    return (size_t)(all.row0 + r / a.group) * a.n_heads * D +
           (size_t)((a.head0 + blockIdx.y) * a.group + r % a.group) * D;
}

/* The block's rows from its warps' sums: the result itself, or a part. */
template <int D, bool I8>
__device__ __forceinline__ void put_rows(const sc_cuda_attn &a, const whole &all,
                                         const uint8_t *shared, const found &f)
{
    const uint32_t split = blockIdx.x + (uint32_t)all.n_shared;
    for (int i = (int)threadIdx.x; i < all.n_rows * D; i += WARPS * 32) {
        int r = i / D, d = i % D;
        float m, l, o;
        add_warps<D, I8, 1>(shared, f, r, d, m, l, o);
        if (all.n_splits == 1) {
            float x = l == 0.0f ? 0.0f : o / l;
            size_t at = row_at<D>(a, all, (uint32_t)r) + d;
            if (a.out != NULL)
                a.out[at] = x;
            if (a.image != NULL)
                a.image[at] = (uint16_t)pack_bf16(x, 0.0f);
        } else {
            put_part(part_of(a, blockIdx.z, blockIdx.y, split) + r * (D + SC_CUDA_ATTN_PART_PAD), d,
                     D, m, l, o);
        }
    }
}

/* All threads, after put_rows: is the block's part the last? If so it sees the others. */
__device__ __forceinline__ bool is_last(const sc_cuda_attn &a, const whole &all)
{
    __shared__ bool last;
    __syncthreads(); /* all threads have put their columns */
    if (threadIdx.x == 0) {
        const uint32_t others = (uint32_t)(all.n_splits - all.n_shared) - 1;
        /* The last sets the count back to 0. */
        last = count_up(a.n_put + blockIdx.z * a.n_heads_now + blockIdx.y, others) == others;
    }
    __syncthreads();
    return last;
}

/* Columns 4 c .. of a sequence's rows. */
template <int D>
__device__ __forceinline__ void put_result(const sc_cuda_attn &a, const whole &all, int c,
                                           float4 sum, float total)
{
    const size_t at = row_at<D>(a, all, (uint32_t)c / (D / 4)) + c % (D / 4) * 4;
    float4 y = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (total != 0.0f)
        y = make_float4(sum.x / total, sum.y / total, sum.z / total, sum.w / total);
    if (a.out != NULL)
        *(float4 *)(a.out + at) = y;
    if (a.image != NULL)
        *(uint2 *)(a.image + at) = make_uint2(pack_bf16(y.x, y.y), pack_bf16(y.z, y.w));
}

__device__ __forceinline__ void add(float4 &sum, float w, float4 x)
{
    sum.x = fmaf(w, x.x, sum.x);
    sum.y = fmaf(w, x.y, sum.y);
    sum.z = fmaf(w, x.z, sum.z);
    sum.w = fmaf(w, x.w, sum.w);
}

__device__ __forceinline__ void add(float4 &sum, float4 x)
{
    sum.x += x.x;
    sum.y += x.y;
    sum.z += x.z;
    sum.w += x.w;
}

/* By the block: the result from all parts of its sequence. A thread has four columns at a time, and
 * BATCH splits of them on their way. Where that leaves warps without columns, groups of threads
 * take batches in turn. All of it is waiting for memory: references and sums of weights, two rows
 * of a warp at a time, and the first batch are asked for together. */
template <int D, bool I8>
__device__ __forceinline__ void add_parts(const sc_cuda_attn &a, const whole &all, uint8_t *shared)
{
    constexpr int THREADS = WARPS * 32, ROW = D + SC_CUDA_ATTN_PART_PAD,
                  BYTES = layout<D, I8, 1>::bytes;
    constexpr int BATCH = D == 32 ? 8 : 16; /* five blocks have fewer registers */
    constexpr int WEIGHTS = SC_CUDA_ATTN_SPLITS_MAX * 4, SUMS = SLICES * 16; /* bytes of a row .. */
    static_assert(16 * WEIGHTS <= BYTES, "weights go where pages were");
    __shared__ float totals[16];
    const int tid = (int)threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int n = all.n_rows * (D / 4);
    const int stride = (int)a.part_rows * ROW; /* from split to split */
    const float *parts = part_of(a, blockIdx.z, blockIdx.y, 0);
    auto *weights = (float(*)[SC_CUDA_ATTN_SPLITS_MAX])shared; /* of rows */
    auto *sums = (float4 *)(shared + all.n_rows * WEIGHTS);    /* of groups: [SLICES][n] */
    const bool fits = all.n_rows * WEIGHTS + n * SUMS <= BYTES;
    const int width = !fits || n > 64 ? THREADS : n > 32 ? 64 : 32; /* of a group */
    const int first = tid / width * BATCH, step = THREADS / width * BATCH;
    int c = tid & (width - 1), at = first;
    float4 x[BATCH], sum_of_all = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float2 found[2][PER_LANE];

    auto load = [&]() {
        const float *from = parts + c / (D / 4) * ROW + c % (D / 4) * 4 + at * stride;
        const int here = c < n ? all.n_splits - at : 0;
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            x[k] = k < here ? __ldcg((const float4 *)(from + k * stride))
                            : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    };
    auto load_rows = [&](int r) {
#pragma unroll
        for (int i = 0; i < 2; i++, r += WARPS)
            load_tops(found[i], parts + r * ROW + D, stride, r < all.n_rows ? all.n_splits : 0,
                      lane);
    };
    auto weigh_rows = [&](int r) {
#pragma unroll
        for (int i = 0; i < 2; i++, r += WARPS) {
            if (r >= all.n_rows)
                break;
            const float total = weigh_splits(found[i]);
#pragma unroll
            for (int j = 0; j < PER_LANE; j++)
                weights[r][lane + 32 * j] = found[i][j].x;
            if (lane == 0)
                totals[r] = total;
        }
    };

    load_rows(warp);
    load();
    weigh_rows(warp);
#pragma unroll 1
    for (int r = warp + 2 * WARPS; r < all.n_rows; r += 2 * WARPS) {
        load_rows(r);
        weigh_rows(r);
    }
    __syncthreads();
#pragma unroll 1
    while (c < n) {
#pragma unroll
        for (int s = 0; s < BATCH; s += SLICE) {
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (int k = s; k < s + SLICE; k++)
                add(sum, weights[c / (D / 4)][at + k], x[k]);
            if (width < THREADS)
                sums[(at + s) / SLICE * n + c] = sum;
            else
                add(sum_of_all, sum);
        }
        at += step;
        if (at >= all.n_splits) {
            if (width == THREADS)
                put_result<D>(a, all, c, sum_of_all, totals[c / (D / 4)]);
            sum_of_all = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            at = first;
            c += THREADS;
        }
        load();
    }
    if (width == THREADS)
        return;
    __syncthreads();
    if (tid >= n)
        return;
    for (int s = 0; s * SLICE < all.n_splits; s++)
        add(sum_of_all, sums[s * n + tid]);
    put_result<D>(a, all, tid, sum_of_all, totals[tid / (D / 4)]);
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
    const int per_split = v.split_pages, begin = split_of(a) * per_split;
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
    const whole all = whole_of(a);
    put_rows<D, I8>(a, all, shared, f);
    if (all.n_splits > 1 && !a.apart && is_last(a, all))
        add_parts<D, I8>(a, all, shared);
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
