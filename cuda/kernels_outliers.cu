/* cuda/kernels_outliers.cu - the diagonals of the distances: how far each token's key is from its
 * head's mean key; twin and reference: add_outlyingness in cpu/distances.c.
 *
 * One warp per token of a plane, lanes over rotation pairs, heads in order, so that there is one
 * writer and no atomics. The key is turned back to the chunk's origin, the mean key forward to it;
 * both turns are the same for all heads, and sines of large angles are dear.
 */
#include "cuda/kernels_compress.h"

#define ALL_LANES 0xffffffffu
#define WARPS     8u
#define DIST_1    65536.0f
#define PAIRS     4u /* of a lane: head_dim 256 */

static __device__ float widen(uint16_t x)
{
    return __uint_as_float((uint32_t)x << 16);
}

static __device__ float widen(float x)
{
    return x;
}

static __device__ float widen(int8_t x)
{
    return (float)x;
}

template <typename T> static __global__ void outliers_kernel(struct sc_cuda_dist_launch a)
{
    const uint32_t index = blockIdx.x / a.n_planes, on_plane = blockIdx.x % a.n_planes;
    const uint32_t lane = threadIdx.x % 32, token = blockIdx.y * WARPS + threadIdx.x / 32;
    const struct sc_cuda_dist_job &job = a.jobs[index];
    const uint32_t head_dim = a.kv.head_dim, half = head_dim / 2;
    const uint32_t first = a.n_planes == 1 ? 0 : on_plane;
    const uint32_t end = a.n_planes == 1 ? a.n_kv_heads : on_plane + 1;
    __shared__ float2 there[32 * PAIRS]; /* of the chunk's origin */
    int32_t total = 0;

    if (threadIdx.x < half)
        sincosf(__fmul_rn((float)job.pos0, a.inv_freq[threadIdx.x]), &there[threadIdx.x].y,
                &there[threadIdx.x].x);
    __syncthreads();
    if (token >= job.m)
        return;
    float2 back[PAIRS]; /* cosine, sine */
#pragma unroll
    for (uint32_t p = 0; p < PAIRS; p++) {
        const uint32_t d = lane + 32 * p;
        if (d >= half)
            break;
        if (a.turns != NULL)
            back[p] = *(const float2 *)(a.turns + 2 * ((size_t)token * half + d));
        else
            sincosf(__fmul_rn((float)token, a.inv_freq[d]), &back[p].y, &back[p].x);
    }
    const uint32_t at = job.slot0 + token;
    const uint8_t *page = a.kv.mem + job.pages[at / SC_CUDA_PAGE] * a.kv.page_bytes;
    for (uint32_t head = first; head < end; head++) {
        const T *key =
            (const T *)(page + head * a.kv.head_bytes) + (size_t)(at % SC_CUDA_PAGE) * head_dim;
        const float *mean = a.mean_key + ((size_t)job.mean * a.n_kv_heads + head) * head_dim;
        float sum = 0.0f, scale = 1.0f;
        if (sizeof(T) == 1)
            scale = ((const float *)(page + head * a.kv.head_bytes +
                                     SC_CUDA_K_SCALES(a.kv.bias_offset)))[at % SC_CUDA_PAGE];
#pragma unroll
        for (uint32_t p = 0; p < PAIRS; p++) {
            const uint32_t d = lane + 32 * p;
            if (d >= half)
                break;
            float lo = widen(key[d]), hi = widen(key[d + half]);
            if (sizeof(T) == 1) {
                lo = __fmul_rn(lo, scale);
                hi = __fmul_rn(hi, scale);
            }
            const float2 b = back[p], t = there[d];
            const float x = lo * b.x + hi * b.y, y = hi * b.x - lo * b.y;
            const float dx = x - (mean[d] * t.x - mean[d + half] * t.y);
            const float dy = y - (mean[d + half] * t.x + mean[d] * t.y);
            sum += dx * dx + dy * dy;
        }
        for (uint32_t step = 16; step > 0; step /= 2)
            sum += __shfl_xor_sync(ALL_LANES, sum, (int)step);
        const float value = sum * a.inv_var[(size_t)index * a.n_kv_heads + head] * DIST_1;
        total += value < (float)a.cap ? __float2int_rn(value) : a.cap;
    }
    if (lane == 0)
        a.dist[job.dist_at + (uint64_t)on_plane * job.m * job.m + (uint64_t)token * job.m + token] =
            total;
}

extern "C" cudaError_t sc_cuda_launch_outliers(const struct sc_cuda_dist_launch *a,
                                               cudaStream_t stream)
{
    uint32_t n_jobs = 0;
    for (uint32_t s = 0; s < SC_CUDA_DIST_SIZES; s++)
        n_jobs += a->n_jobs[s];
    const dim3 grid(n_jobs * a->n_planes, (a->max_m + WARPS - 1) / WARPS);
    if (a->kv.dtype == SC_DTYPE_I8)
        outliers_kernel<int8_t><<<grid, 32 * WARPS, 0, stream>>>(*a);
    else if (a->kv.dtype == SC_DTYPE_BF16)
        outliers_kernel<uint16_t><<<grid, 32 * WARPS, 0, stream>>>(*a);
    else
        outliers_kernel<float><<<grid, 32 * WARPS, 0, stream>>>(*a);
    return cudaGetLastError();
}
