/* cuda/kernels_qkv.cu - rotation angles, and qkv rows split into queries and entries of pages.
 *
 * qkv: one warp a head of a row; a lane holds up to four pairs (i, i + head_dim / 2), so the norm's
 * sum, the rotation and the store need no shared memory. Reference: cpu/qkv.c. */
#include "cuda/kernels_qkv.h"

#include "base/row_i8.h"
#include "cuda/overlap.cuh"
#include "cuda/page.h"
#include "cuda/rows.cuh"

#define QKV_WARPS     4
#define LANE_PAIRS    4 /* 32 lanes of them: head_dim 256 */
#define ANGLE_THREADS 128

/* The full-range sine and cosine: positions go to 2^20 and the product is not reduced before. */
static __global__ void __launch_bounds__(ANGLE_THREADS)
    angles_kernel(const uint32_t *positions, const float *inv_freq, uint32_t half, float scale,
                  float *angles)
{
    const uint32_t i = threadIdx.x;
    float *out = angles + (size_t)blockIdx.x * 2 * half;
    float sine, cosine;

    sc_next_may_start();
    sc_inputs_ready();
    if (i >= half)
        return;
    sincosf(__fmul_rn((float)positions[blockIdx.x], inv_freq[i]), &sine, &cosine);
    out[i] = cosine * scale;
    out[half + i] = sine * scale;
}

extern "C" cudaError_t sc_cuda_launch_angles(const uint32_t *positions, uint32_t n,
                                             const float *inv_freq, uint32_t head_dim, float scale,
                                             float *angles, cudaStream_t stream)
{
    if (head_dim > 2 * ANGLE_THREADS)
        return cudaErrorInvalidValue;
    return sc_overlap_launch(angles_kernel, n, ANGLE_THREADS, 0, stream, positions, inv_freq,
                             head_dim / 2, scale, angles);
}

struct pairs {
    float low[LANE_PAIRS], high[LANE_PAIRS];
};

static __device__ inline pairs load_pairs(const float *x, uint32_t half, unsigned lane)
{
    pairs p;
#pragma unroll
    for (int j = 0; j < LANE_PAIRS; j++) {
        const uint32_t i = lane + 32 * j;
        p.low[j] = i < half ? x[i] : 0.0f;
        p.high[j] = i < half ? x[half + i] : 0.0f;
    }
    return p;
}

static __device__ inline void normalise(pairs &p, const pairs &v, uint32_t half, float eps)
{
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < LANE_PAIRS; j++)
        squares += p.low[j] * p.low[j] + p.high[j] * p.high[j];
    const float scale = 1.0f / sqrtf(sc_warp_sum(squares) / (float)(2 * half) + eps);
#pragma unroll
    for (int j = 0; j < LANE_PAIRS; j++) {
        p.low[j] = p.low[j] * scale * v.low[j];
        p.high[j] = p.high[j] * scale * v.high[j];
    }
}

static __device__ inline void rotate(pairs &p, const pairs &a)
{
#pragma unroll
    for (int j = 0; j < LANE_PAIRS; j++) {
        const float low = p.low[j], high = p.high[j];
        p.low[j] = low * a.low[j] - high * a.high[j];
        p.high[j] = high * a.low[j] + low * a.high[j];
    }
}

static __device__ inline void put(float *to, float x)
{
    *to = x;
}

static __device__ inline void put(__nv_bfloat16 *to, float x)
{
    *to = __float2bfloat16_rn(x);
}

template <typename T>
static __device__ inline void store_pairs(T *to, const pairs &p, uint32_t half, unsigned lane)
{
#pragma unroll
    for (int j = 0; j < LANE_PAIRS; j++) {
        const uint32_t i = lane + 32 * j;
        if (i < half) {
            put(to + i, p.low[j]);
            put(to + half + i, p.high[j]);
        }
    }
}

static __device__ inline void store_i8(int8_t *to, float *scale_to, const pairs &p, uint32_t half,
                                       unsigned lane)
{
    uint32_t largest = 0; /* what lies beyond head_dim is zero */

#pragma unroll
    for (int j = 0; j < LANE_PAIRS; j++)
        largest = max(largest, max(sc_row_i8_magnitude(p.low[j]), sc_row_i8_magnitude(p.high[j])));
    const float scale = sc_row_i8_scale(__reduce_max_sync(0xffffffffu, largest));
    const bool kept = scale > 0.0f;
#pragma unroll
    for (int j = 0; j < LANE_PAIRS; j++) {
        const uint32_t i = lane + 32 * j;
        if (i < half) {
            to[i] = (int8_t)(kept ? sc_row_i8_round(p.low[j], scale) : 0);
            to[half + i] = (int8_t)(kept ? sc_row_i8_round(p.high[j], scale) : 0);
        }
    }
    if (lane == 0)
        *scale_to = scale;
}

template <typename T>
static __global__ void __launch_bounds__(32 * QKV_WARPS) qkv_kernel(sc_cuda_qkv_split a)
{
    const uint32_t row = blockIdx.x, head = blockIdx.y * QKV_WARPS + threadIdx.x / 32;
    const unsigned lane = threadIdx.x % 32;
    const uint32_t half = a.head_dim / 2, n_all = a.n_heads + 2 * a.n_kv_heads;
    const bool is_query = head < a.n_heads, is_key = !is_query && head < a.n_heads + a.n_kv_heads;
    const float *norm = is_query ? a.q_norm : is_key ? a.k_norm : NULL;
    pairs scales = {};

    sc_next_may_start();
    if (norm != NULL)
        scales = load_pairs(norm, half, lane);
    sc_inputs_ready();
    if (head >= n_all)
        return; /* the whole warp */
    float *x = a.qkv + ((size_t)row * n_all + head) * a.head_dim;
    const float *angles = a.angles + (size_t)row * a.head_dim;
    const uint32_t slot = a.slots[row];
    const size_t page = a.pages[row]; /* with the rest: all loads are on their way at once */
    const pairs turn = load_pairs(angles, half, lane); /* cosines low, sines high */
    pairs p = load_pairs(x, half, lane);

    if (norm != NULL)
        normalise(p, scales, half, a.eps);
    if (is_query) {
        rotate(p, turn);
        store_pairs(x, p, half, lane);
        return;
    }
    const uint32_t kv_head = head - a.n_heads - (is_key ? 0 : a.n_kv_heads);
    uint8_t *block = a.mem + page * a.page_bytes + kv_head * a.head_bytes;

    float *scale_to = (float *)(block + SC_CUDA_V_SCALES(a.bias_offset)); /* of I8 */
    if (is_key) {
        rotate(p, turn);
        if (lane == 0)
            ((float *)(block + a.bias_offset))[slot] = 0.0f;
        scale_to = (float *)(block + SC_CUDA_K_SCALES(a.bias_offset));
    } else {
        block += a.v_offset;
    }
    T *to = (T *)block + (size_t)slot * a.head_dim;
    if constexpr (sizeof(T) == 1)
        store_i8(to, scale_to + slot, p, half, lane);
    else
        store_pairs(to, p, half, lane);
}

extern "C" cudaError_t sc_cuda_launch_qkv(const struct sc_cuda_qkv_split *a, cudaStream_t stream)
{
    const uint32_t n_all = a->n_heads + 2 * a->n_kv_heads;
    const dim3 grid(a->n_rows, (n_all + QKV_WARPS - 1) / QKV_WARPS);

    if (a->head_dim > 2 * 32 * LANE_PAIRS)
        return cudaErrorInvalidValue;
    if (a->dtype == SC_DTYPE_I8)
        return sc_overlap_launch(qkv_kernel<int8_t>, grid, 32 * QKV_WARPS, 0, stream, *a);
    if (a->dtype == SC_DTYPE_BF16)
        return sc_overlap_launch(qkv_kernel<__nv_bfloat16>, grid, 32 * QKV_WARPS, 0, stream, *a);
    return sc_overlap_launch(qkv_kernel<float>, grid, 32 * QKV_WARPS, 0, stream, *a);
}
