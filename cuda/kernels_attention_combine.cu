/* cuda/kernels_attention_combine.cu - adds up what the splits of a small sequence found, where the
 * block that leaves the last part does not: parts of the plain kernel, and very many of a row.
 *
 * One block per (row of the tile, KV head, sequence); a warp has a slice of the splits. The order
 * is that of kernels_attention_parts.cuh whatever else is in the call. It is all waiting for
 * memory: every load of a thread is on its way before the first is used.
 */
#include "cuda/kernels_attention_parts.cuh"
#include "cuda/overlap.cuh"

#define WARPS SLICES
#define DIMS  256 /* most of a head */

/* NV: pairs of dimensions that a lane has. */
template <int NV>
__device__ __forceinline__ void combine(const sc_cuda_attn &a, const view &v, int n_splits,
                                        float (&sums)[WARPS][DIMS])
{
    const int tid = (int)threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int dim = (int)a.head_dim, row_floats = dim + SC_CUDA_ATTN_PART_PAD;
    const uint32_t x = blockIdx.x, head = a.head0 + blockIdx.y;
    const float *part = part_of(a, blockIdx.z, blockIdx.y, 0) + x * row_floats;
    const int stride = (int)a.part_rows * row_floats; /* from split to split */
    float2 found[PER_LANE], o[SLICE][NV], sum[NV] = {};

#pragma unroll
    for (int k = 0; k < SLICE; k++) {
        const int i = warp * SLICE + k;
        const float *from = part + i * stride;
#pragma unroll
        for (int j = 0; j < NV; j++)
            o[k][j] = i < n_splits && 2 * (lane + 32 * j) < dim
                          ? __ldcg((const float2 *)(from + 2 * (lane + 32 * j)))
                          : make_float2(0.0f, 0.0f);
    }
    load_tops(found, part + dim, stride, n_splits, lane);
    const float total = weigh_splits(found);
    float weight = found[0].x; /* of the warp's splits in lanes warp * SLICE % 32 .. */
#pragma unroll
    for (int j = 1; j < PER_LANE; j++)
        weight = warp * SLICE / 32 == j ? found[j].x : weight;
#pragma unroll
    for (int k = 0; k < SLICE; k++) {
        const float w = __shfl_sync(0xffffffffu, weight, warp * SLICE % 32 + k);
#pragma unroll
        for (int j = 0; j < NV; j++) {
            sum[j].x = fmaf(w, o[k][j].x, sum[j].x);
            sum[j].y = fmaf(w, o[k][j].y, sum[j].y);
        }
    }
#pragma unroll
    for (int j = 0; j < NV; j++)
        *(float2 *)&sums[warp][2 * (lane + 32 * j)] = sum[j];
    __syncthreads();

    for (int d = tid; d < dim; d += WARPS * 32) {
        float y = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            y += sums[w][d];
        size_t at = (size_t)(v.row0 + x / a.group) * a.n_heads * dim +
                    (size_t)(head * a.group + x % a.group) * dim + d;
        y = total == 0.0f ? 0.0f : y / total;
        if (a.out != NULL)
            a.out[at] = y;
        if (a.image != NULL)
            a.image[at] = (uint16_t)pack_bf16(y, 0.0f);
    }
}

template <int NV>
__global__ void __launch_bounds__(WARPS * 32) combine_kernel(const __grid_constant__ sc_cuda_attn a)
{
    __shared__ __align__(8) float sums[WARPS][DIMS];
    sc_next_may_start();
    /* Descriptors are copied before a step's first kernel; no kernel writes them. */
    const view v = view_of(a, a.seq0 + blockIdx.z, 1);
    const int n_splits = splits_of(v);
    sc_inputs_ready();
    if (n_splits < 2 || !is_small(a, v.n_rows) || blockIdx.x >= v.n_rows * a.group)
        return;
    combine<NV>(a, v, n_splits, sums);
}

template <int NV> static cudaError_t launch(const sc_cuda_attn *a, cudaStream_t stream)
{
    return sc_overlap_launch(combine_kernel<NV>, dim3(a->part_rows, a->n_heads_now, a->n_seqs),
                             WARPS * 32, 0, stream, *a);
}

extern "C" cudaError_t sc_cuda_attn_combine(const struct sc_cuda_attn *a, cudaStream_t stream)
{
    if (a->head_dim <= 64)
        return launch<1>(a, stream);
    return a->head_dim <= 128 ? launch<2>(a, stream) : launch<4>(a, stream);
}
