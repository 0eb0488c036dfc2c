/* cuda/kernels_attention_combine.cu - adds up what the splits of a small sequence found.
 *
 * One block per (row of the tile, KV head, sequence). Warp w takes splits w, w + WARPS, ..; then
 * the warps' sums are added in the order of warps: the same order whatever else is in the call.
 * It is all waiting for memory: every load of a thread is on its way before the first is used.
 */
#include "cuda/kernels_attention.cuh"
#include "cuda/overlap.cuh"

#define WARPS    16
#define DIMS     256                               /* most of a head */
#define PER_WARP (SC_CUDA_ATTN_SPLITS_MAX / WARPS) /* splits */
#define PER_LANE (SC_CUDA_ATTN_SPLITS_MAX / 32)

static_assert(32 % WARPS == 0, "a warp's splits lie in the same lanes");

/* Weights of splits lane, lane + 32, ..: every warp finds them for itself. */
__device__ __forceinline__ void weigh_splits(float (&weight)[PER_LANE], const float *top,
                                             size_t stride, int n_splits, int lane)
{
    float m = -INFINITY;
#pragma unroll
    for (int j = 0; j < PER_LANE; j++)
        weight[j] = lane + 32 * j < n_splits ? top[(lane + 32 * j) * stride] : -INFINITY;
#pragma unroll
    for (int j = 0; j < PER_LANE; j++)
        m = fmaxf(m, weight[j]);
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, i));
    m = m == -INFINITY ? 0.0f : m;
#pragma unroll
    for (int j = 0; j < PER_LANE; j++)
        weight[j] = exp2_fast(weight[j] - m);
}

/* NV: pairs of dimensions that a lane has. */
template <int NV>
__device__ __forceinline__ void combine(const sc_cuda_attn &a, const view &v, int n_splits,
                                        float (&sums)[WARPS][DIMS], float (&totals)[WARPS])
{
    const int tid = (int)threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int dim = (int)a.head_dim, row_floats = dim + SC_CUDA_ATTN_PART_PAD;
    const uint32_t x = blockIdx.x, head = a.head0 + blockIdx.y;
    const float *part = part_of(a, blockIdx.z, blockIdx.y, 0) + x * row_floats;
    const size_t stride = (size_t)a.part_rows * row_floats; /* from split to split */
    float weight[PER_LANE], l[PER_WARP], total = 0.0f;
    float2 o[PER_WARP][NV], sum[NV] = {};

#pragma unroll
    for (int k = 0; k < PER_WARP; k++) {
        const int i = warp + WARPS * k;
        const float *from = part + i * stride;
        l[k] = i < n_splits ? from[dim + 1] : 0.0f;
#pragma unroll
        for (int j = 0; j < NV; j++)
            o[k][j] = i < n_splits && 2 * (lane + 32 * j) < dim
                          ? *(const float2 *)(from + 2 * (lane + 32 * j))
                          : make_float2(0.0f, 0.0f);
    }
    weigh_splits(weight, part + dim, stride, n_splits, lane);
#pragma unroll
    for (int k = 0; k < PER_WARP; k++) {
        const float w = __shfl_sync(0xffffffffu, weight[WARPS * k / 32], warp + WARPS * k % 32);
        total += w * l[k];
#pragma unroll
        for (int j = 0; j < NV; j++) {
            sum[j].x += w * o[k][j].x;
            sum[j].y += w * o[k][j].y;
        }
    }
#pragma unroll
    for (int j = 0; j < NV; j++)
        *(float2 *)&sums[warp][2 * (lane + 32 * j)] = sum[j];
    if (lane == 0)
        totals[warp] = total;
    __syncthreads();

    for (int d = tid; d < dim; d += WARPS * 32) {
        float y = 0.0f, all = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            y += sums[w][d];
            all += totals[w];
        }
        size_t at = (size_t)(v.row0 + x / a.group) * a.n_heads * dim +
                    (size_t)(head * a.group + x % a.group) * dim + d;
        y = all == 0.0f ? 0.0f : y / all;
        a.out[at] = y;
        if (a.image != NULL)
            a.image[at] = (uint16_t)pack_bf16(y, 0.0f);
    }
}

template <int NV>
__global__ void __launch_bounds__(WARPS * 32) combine_kernel(const __grid_constant__ sc_cuda_attn a)
{
    __shared__ __align__(8) float sums[WARPS][DIMS];
    __shared__ float totals[WARPS];
    sc_next_may_start();
    /* Descriptors are copied before a step's first kernel; no kernel writes them. */
    const view v = view_of(a, a.seq0 + blockIdx.z, 1);
    const int n_splits = splits_of(v.n_pages);
    sc_inputs_ready();
    if (n_splits < 2 || !is_small(a, v.n_rows) || blockIdx.x >= v.n_rows * a.group)
        return;
    combine<NV>(a, v, n_splits, sums, totals);
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
