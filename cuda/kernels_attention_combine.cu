/* cuda/kernels_attention_combine.cu - adds up what the splits of a small sequence found.
 *
 * One block per (row of the tile, KV head, sequence). Warp w takes splits w, w + WARPS, ..; then
 * the warps' sums are added in the order of warps: the same order whatever else is in the call.
 */
#include "cuda/kernels_attention.cuh"
#include "cuda/overlap.cuh"

#define WARPS 8
#define DIMS  256 /* most of a head */

__global__ void __launch_bounds__(WARPS * 32, 2)
    combine_kernel(const __grid_constant__ sc_cuda_attn a)
{
    __shared__ float sums[WARPS][DIMS], weight[SC_CUDA_ATTN_SPLITS_MAX], totals[WARPS];
    const int tid = (int)threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int dim = (int)a.head_dim, row_floats = dim + SC_CUDA_ATTN_PART_PAD;
    sc_inputs_ready();
    sc_next_may_start();
    const view v = view_of(a, a.seq0 + blockIdx.z, 1);
    const int n_splits = splits_of(v.n_pages);
    const uint32_t x = blockIdx.x, head = a.head0 + blockIdx.y;

    if (n_splits < 2 || !is_small(a, v.n_rows) || x >= v.n_rows * a.group)
        return;
    const float *part = part_of(a, blockIdx.z, blockIdx.y, 0) + x * row_floats;
    const size_t stride = (size_t)a.part_rows * row_floats; /* from split to split */

    /* Every warp finds the highest reference for itself. */
    float m = -INFINITY;
    for (int i = lane; i < n_splits; i += 32)
        m = fmaxf(m, part[i * stride + dim]);
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, i));
    m = m == -INFINITY ? 0.0f : m;
    for (int i = tid; i < n_splits; i += WARPS * 32)
        weight[i] = exp2_fast(part[i * stride + dim] - m);
    __syncthreads();

    float o[DIMS / 32] = {}, l = 0.0f;
#pragma unroll 4
    for (int i = warp; i < n_splits; i += WARPS) {
        const float *from = part + i * stride;
#pragma unroll
        for (int j = 0; j < DIMS / 32; j++) {
            if (lane + 32 * j < dim)
                o[j] += weight[i] * from[lane + 32 * j];
        }
        l += weight[i] * from[dim + 1];
    }
#pragma unroll
    for (int j = 0; j < DIMS / 32; j++)
        sums[warp][lane + 32 * j] = o[j];
    if (lane == 0)
        totals[warp] = l;
    __syncthreads();

    for (int d = tid; d < dim; d += WARPS * 32) {
        float sum = 0.0f, total = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            sum += sums[w][d];
            total += totals[w];
        }
        size_t at = (size_t)(v.row0 + x / a.group) * a.n_heads * dim +
                    (size_t)(head * a.group + x % a.group) * dim + d;
        float y = total == 0.0f ? 0.0f : sum / total;
        a.out[at] = y;
        if (a.image != NULL)
            a.image[at] = (uint16_t)pack_bf16(y, 0.0f);
    }
}

extern "C" cudaError_t sc_cuda_attn_combine(const struct sc_cuda_attn *a, cudaStream_t stream)
{
    return sc_overlap_launch(combine_kernel, dim3(a->part_rows, a->n_heads_now, a->n_seqs),
                             WARPS * 32, 0, stream, *a);
}
