/* cuda/kernels_qkv.cu - rotation angles, and qkv rows split into queries and entries of pages.
 *
 * qkv: one warp a head of a row, or several; a lane holds up to four pairs (i, i + head_dim / 2),
 * so the norm's sum, the rotation and the store need no shared memory. What is
 * contracted is written out: kernels of one and of several heads must agree. Reference: cpu/qkv.c.
 */
#include "cuda/kernels_qkv.h"

#include "base/row_i8.h"
#include "cuda/overlap.cuh"
#include "cuda/page.h"
#include "cuda/rows.cuh"

#define QKV_WARPS     4
#define LANE_PAIRS    4 /* 32 lanes of them: head_dim 256 */
#define ANGLE_THREADS 128
#define MANY_ROWS     64

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

/* The pair that place j of a lane has; WIDE: two neighbours lie together. */
template <bool WIDE> static __device__ inline uint32_t pair_of(int j, unsigned lane)
{
    return WIDE ? 64 * (j / 2) + 2 * lane + j % 2 : 32 * j + lane;
}

template <bool WIDE>
static __device__ inline pairs load_pairs(const float *x, uint32_t half, unsigned lane)
{
    pairs p;
    if constexpr (WIDE) {
#pragma unroll
        for (int j = 0; j < LANE_PAIRS; j += 2) {
            const uint32_t i = pair_of<true>(j, lane);
            const float2 none = make_float2(0.0f, 0.0f);
            const float2 low = i < half ? *(const float2 *)(x + i) : none;
            const float2 high = i < half ? *(const float2 *)(x + half + i) : none;
            p.low[j] = low.x;
            p.low[j + 1] = low.y;
            p.high[j] = high.x;
            p.high[j + 1] = high.y;
        }
    } else {
#pragma unroll
        for (int j = 0; j < LANE_PAIRS; j++) {
            const uint32_t i = pair_of<false>(j, lane);
            p.low[j] = i < half ? x[i] : 0.0f;
            p.high[j] = i < half ? x[half + i] : 0.0f;
        }
    }
    return p;
}

static __device__ inline void normalise(pairs &p, const pairs &v, uint32_t half, float eps)
{
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < LANE_PAIRS; j++)
        squares = fmaf(p.high[j], p.high[j], fmaf(p.low[j], p.low[j], squares));
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
        p.low[j] = fmaf(low, a.low[j], -__fmul_rn(high, a.high[j]));
        p.high[j] = fmaf(high, a.low[j], __fmul_rn(low, a.high[j]));
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

static __device__ inline void put(float *to, float x, float y)
{
    *(float2 *)to = make_float2(x, y);
}

static __device__ inline void put(__nv_bfloat16 *to, float x, float y)
{
    *(uint32_t *)to = sc_pack_bf16(x, y);
}

template <bool WIDE, typename T>
static __device__ inline void store_pairs(T *to, const pairs &p, uint32_t half, unsigned lane)
{
#pragma unroll
    for (int j = 0; j < LANE_PAIRS; j += 1 + WIDE) {
        const uint32_t i = pair_of<WIDE>(j, lane);
        if (i >= half)
            break;
        if constexpr (WIDE) {
            put(to + i, p.low[j], p.low[j + 1]);
            put(to + half + i, p.high[j], p.high[j + 1]);
        } else {
            put(to + i, p.low[j]);
            put(to + half + i, p.high[j]);
        }
    }
}

template <bool WIDE>
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
        const uint32_t i = pair_of<WIDE>(j, lane);
        if (i < half) {
            to[i] = (int8_t)(kept ? sc_row_i8_round(p.low[j], scale) : 0);
            to[half + i] = (int8_t)(kept ? sc_row_i8_round(p.high[j], scale) : 0);
        }
    }
    if (lane == 0)
        *scale_to = scale;
}

/* What the heads of a row share. */
struct place {
    uint32_t row, slot;
    size_t page;
    pairs turn; /* cosines low, sines high */
};

/* One head of a row, by one warp. */
template <typename T, bool WIDE>
static __device__ inline void split_head(const sc_cuda_qkv_split &a, const place &at, uint32_t head,
                                         const pairs &scales, pairs p)
{
    const unsigned lane = threadIdx.x % 32;
    const uint32_t half = a.head_dim / 2, n_all = a.n_heads + 2 * a.n_kv_heads;
    const bool is_query = head < a.n_heads, is_key = !is_query && head < a.n_heads + a.n_kv_heads;

    if (is_query || is_key) {
        if ((is_query ? a.q_norm : a.k_norm) != NULL)
            normalise(p, scales, half, a.eps);
        rotate(p, at.turn);
    }
    if (is_query) {
        store_pairs<WIDE>(a.qkv + ((size_t)at.row * n_all + head) * a.head_dim, p, half, lane);
        return;
    }
    const uint32_t kv_head = head - a.n_heads - (is_key ? 0 : a.n_kv_heads);
    uint8_t *block = a.mem + at.page * a.page_bytes + kv_head * a.head_bytes;
    float *scale_to = (float *)(block + SC_CUDA_V_SCALES(a.bias_offset)); /* of I8 */
    if (is_key) {
        if (lane == 0)
            ((float *)(block + a.bias_offset))[at.slot] = 0.0f;
        scale_to = (float *)(block + SC_CUDA_K_SCALES(a.bias_offset));
    } else {
        block += a.v_offset;
    }
    T *to = (T *)block + (size_t)at.slot * a.head_dim;
    if constexpr (sizeof(T) == 1)
        store_i8<WIDE>(to, scale_to + at.slot, p, half, lane);
    else
        store_pairs<WIDE>(to, p, half, lane);
}

/* HEADS of a row a warp, QKV_WARPS apart, whose loads are all on their way before the first is
 * used.
 */
template <typename T, bool WIDE, int HEADS>
static __global__ void __launch_bounds__(32 * QKV_WARPS) qkv_kernel(sc_cuda_qkv_split a)
{
    const uint32_t first = blockIdx.y * QKV_WARPS * HEADS + threadIdx.x / 32;
    const unsigned lane = threadIdx.x % 32;
    const uint32_t half = a.head_dim / 2, n_all = a.n_heads + 2 * a.n_kv_heads;
    pairs scales[HEADS] = {}, p[HEADS];
    place at;

    sc_next_may_start();
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        const uint32_t head = first + h * QKV_WARPS;
        const float *norm = head < a.n_heads                  ? a.q_norm
                            : head < a.n_heads + a.n_kv_heads ? a.k_norm
                                                              : NULL;
        if (norm != NULL)
            scales[h] = load_pairs<WIDE>(norm, half, lane);
    }
    sc_inputs_ready();
    at.row = blockIdx.x;
    at.slot = a.slots[at.row];
    at.page = a.pages[at.row];
    at.turn = load_pairs<WIDE>(a.angles + (size_t)at.row * a.head_dim, half, lane);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        const uint32_t head = min(first + h * QKV_WARPS, n_all - 1);
        p[h] = load_pairs<WIDE>(a.qkv + ((size_t)at.row * n_all + head) * a.head_dim, half, lane);
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (first + h * QKV_WARPS >= n_all)
            return; /* the whole warp */
        split_head<T, WIDE>(a, at, first + h * QKV_WARPS, scales[h], p[h]);
    }
}

template <typename T, bool WIDE, int HEADS>
static cudaError_t launch_heads(const struct sc_cuda_qkv_split *a, cudaStream_t stream)
{
    const uint32_t n_all = a->n_heads + 2 * a->n_kv_heads, per_block = QKV_WARPS * HEADS;
    const dim3 grid(a->n_rows, (n_all + per_block - 1) / per_block);
    return sc_overlap_launch(qkv_kernel<T, WIDE, HEADS>, grid, 32 * QKV_WARPS, 0, stream, *a);
}

static bool aligned8(const void *p)
{
    return (uintptr_t)p % 8 == 0;
}

template <typename T>
static cudaError_t launch_rows(const struct sc_cuda_qkv_split *a, cudaStream_t stream)
{
    if (a->head_dim % 4 != 0 || !aligned8(a->qkv) || !aligned8(a->q_norm) || !aligned8(a->k_norm) ||
        !aligned8(a->angles))
        return launch_heads<T, false, 1>(a, stream);
    /* A few rows want to be done soon, many to have much on its way. */
    return a->n_rows < MANY_ROWS ? launch_heads<T, true, 1>(a, stream)
                                 : launch_heads<T, true, 3>(a, stream);
}

extern "C" cudaError_t sc_cuda_launch_qkv(const struct sc_cuda_qkv_split *a, cudaStream_t stream)
{
    if (a->head_dim > 2 * 32 * LANE_PAIRS)
        return cudaErrorInvalidValue;
    if (a->dtype == SC_DTYPE_I8)
        return launch_rows<int8_t>(a, stream);
    if (a->dtype == SC_DTYPE_BF16)
        return launch_rows<__nv_bfloat16>(a, stream);
    return launch_rows<float>(a, stream);
}
