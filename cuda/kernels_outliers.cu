/* cuda/kernels_outliers.cu - the diagonals of the distances: how far each token's key is from its
 * head's mean key; twin and reference: prepare_keys in cpu/distances.c.
 *
 * The key is turned back to the chunk's origin, the mean key forward to it. A block has tokens of
 * one chunk and all heads, so that the sines of the origin, which are of large angles and dear, and
 * the turned mean keys are found once for all its tokens. A few lanes have one token, each eight
 * rotation pairs of it: they add up what they have of a head among themselves, and the heads' whole
 * numbers in order. So there is one writer and there are no atomics. Keys of the next heads are on
 * their way while mean keys are turned.
 */
#include "cuda/kernels_compress.h"

#define ALL_LANES 0xffffffffu
#define THREADS   256u
#define BLOCKS    4u /* side by side: 512 of 32 tokens run at one time on 132 multiprocessors */
#define DIST_1    65536.0f
#define PAIRS     8u   /* of a lane */
#define HALF_MAX  128u /* head_dim 256 */

/* Heads whose keys are on their way at one time, as registers allow. */
template <typename T> constexpr uint32_t HEADS = sizeof(T) == 4 ? 1 : 2;

/* PAIRS numbers of a key as they lie in memory; T is their size, of int8 uint8_t. */
template <typename T> struct piece {
    uint32_t words[2 * sizeof(T)];
};

/* n: how many there are; the others are zeros. */
template <typename T, bool WIDE>
static __device__ void load(const T *from, uint32_t n, piece<T> &to)
{
    constexpr uint32_t words = 2 * sizeof(T), per_word = 4 / sizeof(T);
#pragma unroll
    for (uint32_t w = 0; w < words; w++)
        to.words[w] = 0;
    if constexpr (!WIDE) {
#pragma unroll
        for (uint32_t k = 0; k < PAIRS; k++)
            if (k < n)
                to.words[k / per_word] |= (uint32_t)from[k] << 8 * sizeof(T) * (k % per_word);
    } else if (n != 0) {
#pragma unroll
        for (uint32_t w = 0; w < words; w += 4) {
            if constexpr (sizeof(T) == 1) {
                const uint2 v = *(const uint2 *)from;
                to.words[0] = v.x, to.words[1] = v.y;
            } else {
                const uint4 v = *(const uint4 *)(from + w * per_word);
                to.words[w] = v.x, to.words[w + 1] = v.y;
                to.words[w + 2] = v.z, to.words[w + 3] = v.w;
            }
        }
    }
}

/* Of int8 without the scale. */
template <typename T> static __device__ float number(const piece<T> &x, uint32_t k)
{
    const uint32_t word = x.words[k * sizeof(T) / 4];
    if (sizeof(T) == 1)
        return (float)(int8_t)(word >> 8 * (k % 4));
    if (sizeof(T) == 2)
        return __uint_as_float(k % 2 == 0 ? word << 16 : word & 0xffff0000u);
    return __uint_as_float(word);
}

/* What a lane has of the keys of some heads. */
template <typename T> struct keys {
    piece<T> lo[HEADS<T>], hi[HEADS<T>];
    float scale[HEADS<T>], inv_var[HEADS<T>];
};

/* A lane's part of a token: n pairs from d on. */
struct place {
    const uint8_t *block; /* of the first head, in the page */
    uint32_t slot, d, n;
};

template <typename T, bool WIDE>
static __device__ void load_heads(const struct sc_cuda_dist_launch &a, const place &p,
                                  uint32_t head0, keys<T> &to)
{
    const uint32_t half = a.kv.head_dim / 2;
#pragma unroll
    for (uint32_t h = 0; h < HEADS<T>; h++) {
        if (head0 + h >= a.n_kv_heads)
            break;
        const uint8_t *block = p.block + (head0 + h) * a.kv.head_bytes;
        const T *key = (const T *)block + p.slot * a.kv.head_dim + p.d;
        load<T, WIDE>(key, p.n, to.lo[h]);
        load<T, WIDE>(key + half, p.n, to.hi[h]);
        if (sizeof(T) == 1)
            to.scale[h] = ((const float *)(block + SC_CUDA_K_SCALES(a.kv.bias_offset)))[p.slot];
        to.inv_var[h] = a.inv_var[(size_t)blockIdx.x * a.n_kv_heads + head0 + h];
    }
}

/* The squared distance of a lane's pairs from the mean key at the origin. */
template <typename T>
static __device__ float square(const piece<T> &lo, const piece<T> &hi, float scale,
                               const float2 (&back)[PAIRS], const float *mean_lo,
                               const float *mean_hi)
{
    float sum = 0.0f;
#pragma unroll
    for (uint32_t k = 0; k < PAIRS; k++) {
        float x = number<T>(lo, k), y = number<T>(hi, k);
        if (sizeof(T) == 1) {
            x = __fmul_rn(x, scale);
            y = __fmul_rn(y, scale);
        }
        const float dx = x * back[k].x + (y * back[k].y - mean_lo[k]);
        const float dy = y * back[k].x - (x * back[k].y + mean_hi[k]);
        sum += dx * dx + dy * dy;
    }
    return sum;
}

/* WIDE: half of head_dim is a multiple of PAIRS. A token has 1 << lanes_log2 lanes. */
template <typename T, bool WIDE>
static __global__ void __launch_bounds__(THREADS, WIDE ? BLOCKS : BLOCKS / 2)
    outliers_kernel(const __grid_constant__ struct sc_cuda_dist_launch a, uint32_t lanes_log2)
{
    __shared__ float2 there[HALF_MAX]; /* of the origin: cosine, sine */
    __shared__ __align__(16) float means[2][HEADS<T>][2][HALF_MAX]; /* of two groups of heads */
    const struct sc_cuda_dist_job &job = a.jobs[blockIdx.x];
    const uint32_t half = a.kv.head_dim / 2, padded = PAIRS << lanes_log2, m = job.m;
    const uint32_t token0 = blockIdx.y * (THREADS >> lanes_log2);
    const uint32_t token = token0 + (threadIdx.x >> lanes_log2);
    const uint32_t lane = threadIdx.x & ((1u << lanes_log2) - 1);
    const float *mean_key = a.mean_key + (size_t)job.mean * a.n_kv_heads * a.kv.head_dim;
    int32_t total = 0;

    if (token0 >= m)
        return;
    const uint32_t at = job.slot0 + min(token, m - 1); /* lanes behind the last read nothing */
    place p = {a.kv.mem + job.pages[at / SC_CUDA_PAGE] * a.kv.page_bytes, at % SC_CUDA_PAGE,
               lane * PAIRS, 0};
    if (token < m && p.d < half)
        p.n = min(PAIRS, half - p.d);
    keys<T> now;
    load_heads<T, WIDE>(a, p, 0, now);
    float2 back[PAIRS] = {}; /* cosine, sine */
    const float *turn = a.turns + 2 * ((size_t)token * half + p.d);
#pragma unroll
    for (uint32_t k = 0; k < PAIRS; k += 2) {
        if (!WIDE) {
            if (k < p.n)
                back[k] = *(const float2 *)(turn + 2 * k);
            if (k + 1 < p.n)
                back[k + 1] = *(const float2 *)(turn + 2 * k + 2);
        } else if (p.n != 0) {
            const float4 two = *(const float4 *)(turn + 2 * k);
            back[k] = make_float2(two.x, two.y);
            back[k + 1] = make_float2(two.z, two.w);
        }
    }
    if (threadIdx.x < half)
        sincosf(__fmul_rn((float)job.pos0, a.inv_freq[threadIdx.x]), &there[threadIdx.x].y,
                &there[threadIdx.x].x);
    __syncthreads();
    for (uint32_t head0 = 0; head0 < a.n_kv_heads; head0 += HEADS<T>) {
        const uint32_t n_heads = min(HEADS<T>, a.n_kv_heads - head0);
        float(*mean)[2][HALF_MAX] = means[head0 / HEADS<T> % 2];
        float sums[HEADS<T>] = {}, inv_var[HEADS<T>];

        for (uint32_t i = threadIdx.x; i < n_heads * padded; i += THREADS) {
            const uint32_t h = i / PAIRS >> lanes_log2, d = i & (padded - 1);
            float lo = 0.0f, hi = 0.0f;
            if (d < half) {
                const float *from = mean_key + (size_t)(head0 + h) * a.kv.head_dim + d;
                const float2 t = there[d];
                lo = from[0] * t.x - from[half] * t.y;
                hi = from[half] * t.x + from[0] * t.y;
            }
            mean[h][0][d] = lo;
            mean[h][1][d] = hi;
        }
        __syncthreads(); /* and none is at the group before the last, whose place comes next */
#pragma unroll
        for (uint32_t h = 0; h < HEADS<T>; h++) {
            if (h >= n_heads)
                break;
            sums[h] = square<T>(now.lo[h], now.hi[h], now.scale[h], back, mean[h][0] + p.d,
                                mean[h][1] + p.d);
            inv_var[h] = now.inv_var[h];
        }
        load_heads<T, WIDE>(a, p, head0 + HEADS<T>, now);
        for (uint32_t step = 1u << lanes_log2 >> 1; step > 0; step /= 2) {
#pragma unroll
            for (uint32_t h = 0; h < HEADS<T>; h++)
                sums[h] += __shfl_xor_sync(ALL_LANES, sums[h], (int)step);
        }
#pragma unroll
        for (uint32_t h = 0; h < HEADS<T>; h++) {
            if (h >= n_heads)
                break;
            const float value = sums[h] * inv_var[h] * DIST_1;
            const int32_t far = value < (float)a.cap ? __float2int_rn(value) : a.cap;
            total += far;
            if (a.n_planes != 1 && lane == 0 && token < m)
                a.dist[job.dist_at + (uint64_t)(head0 + h) * m * m + (uint64_t)token * (m + 1)] =
                    far;
        }
    }
    if (a.n_planes == 1 && lane == 0 && token < m)
        a.dist[job.dist_at + (uint64_t)token * (m + 1)] = total;
}

template <typename T>
static cudaError_t launch(const struct sc_cuda_dist_launch *a, uint32_t n_jobs, cudaStream_t stream)
{
    const uint32_t half = a->kv.head_dim / 2;
    uint32_t lanes_log2 = 0;
    while (PAIRS << lanes_log2 < half)
        lanes_log2++;
    const uint32_t tokens = THREADS >> lanes_log2; /* of a block */
    const dim3 grid(n_jobs, (a->max_m + tokens - 1) / tokens);
    if (half % PAIRS == 0)
        outliers_kernel<T, true><<<grid, THREADS, 0, stream>>>(*a, lanes_log2);
    else
        outliers_kernel<T, false><<<grid, THREADS, 0, stream>>>(*a, lanes_log2);
    return cudaGetLastError();
}

extern "C" cudaError_t sc_cuda_launch_outliers(const struct sc_cuda_dist_launch *a,
                                               cudaStream_t stream)
{
    uint32_t n_jobs = 0;
    for (uint32_t s = 0; s < SC_CUDA_DIST_SIZES; s++)
        n_jobs += a->n_jobs[s];
    return a->kv.dtype == SC_DTYPE_I8     ? launch<uint8_t>(a, n_jobs, stream)
           : a->kv.dtype == SC_DTYPE_BF16 ? launch<uint16_t>(a, n_jobs, stream)
                                          : launch<uint32_t>(a, n_jobs, stream);
}
