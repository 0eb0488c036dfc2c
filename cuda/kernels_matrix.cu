/* cuda/kernels_matrix.cu - weights on their way into memory, int8 weights on their way into a
 * product, and scale and bias behind it. The rules of int8 are those of cpu/matrix.c. */
#include "cuda/kernels_matrix.h"

#include <cuda_fp16.h>

#include "cuda/rows.cuh"

#define THREADS 256

static __device__ inline float as_float(float v)
{
    return v;
}

static __device__ inline float as_float(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}

static __device__ inline float as_float(__half v)
{
    return __half2float(v);
}

static __device__ inline void put(float *to, float x)
{
    *to = x;
}

static __device__ inline void put(__nv_bfloat16 *to, float x)
{
    *to = __float2bfloat16_rn(x);
}

template <typename S, typename D>
static __global__ void __launch_bounds__(THREADS)
    pack_kernel(const S *src, uint32_t n_in, D *dst, uint32_t ld)
{
    const size_t row = blockIdx.x;
    for (uint32_t i = threadIdx.x; i < ld; i += THREADS)
        put(dst + row * ld + i, i < n_in ? as_float(src[row * n_in + i]) : 0.0f);
}

template <typename S>
static void launch_pack(const S *src, uint32_t n_rows, uint32_t n_in, void *dst,
                        enum sc_dtype store, uint32_t ld, cudaStream_t stream)
{
    if (store == SC_DTYPE_F32)
        pack_kernel<<<n_rows, THREADS, 0, stream>>>(src, n_in, (float *)dst, ld);
    else
        pack_kernel<<<n_rows, THREADS, 0, stream>>>(src, n_in, (__nv_bfloat16 *)dst, ld);
}

extern "C" cudaError_t sc_cuda_launch_pack(const void *src, enum sc_dtype dtype, uint32_t n_rows,
                                           uint32_t n_in, void *dst, enum sc_dtype store,
                                           uint32_t ld, cudaStream_t stream)
{
    if (dtype == SC_DTYPE_F32)
        launch_pack((const float *)src, n_rows, n_in, dst, store, ld, stream);
    else if (dtype == SC_DTYPE_BF16)
        launch_pack((const __nv_bfloat16 *)src, n_rows, n_in, dst, store, ld, stream);
    else
        launch_pack((const __half *)src, n_rows, n_in, dst, store, ld, stream);
    return cudaGetLastError();
}

/* Over the block, the same in every thread. */
static __device__ float block_max(float x)
{
    __shared__ float all[THREADS];
    all[threadIdx.x] = x;
    __syncthreads();
    for (int step = THREADS / 2; step > 0; step /= 2) {
        if (threadIdx.x < step)
            all[threadIdx.x] = fmaxf(all[threadIdx.x], all[threadIdx.x + step]);
        __syncthreads();
    }
    return all[0];
}

static __device__ void block_sums(double error2, double norm2, double *to)
{
    __shared__ double all[2][THREADS];
    all[0][threadIdx.x] = error2;
    all[1][threadIdx.x] = norm2;
    __syncthreads();
    for (int step = THREADS / 2; step > 0; step /= 2) {
        if (threadIdx.x < step) {
            all[0][threadIdx.x] += all[0][threadIdx.x + step];
            all[1][threadIdx.x] += all[1][threadIdx.x + step];
        }
        __syncthreads();
    }
    if (threadIdx.x < 2)
        to[threadIdx.x] = all[threadIdx.x][0];
}

template <typename S>
static __global__ void __launch_bounds__(THREADS) quantise_kernel(sc_cuda_quantise a)
{
    const size_t row = blockIdx.x;
    const S *src = (const S *)a.src + row * a.row_stride;
    int8_t *dst = a.dst + row * a.ld;
    float largest = 0.0f;
    double error2 = 0.0, norm2 = 0.0;

    for (uint64_t i = threadIdx.x; i < a.row_stride; i += THREADS) {
        const float w = fabsf(as_float(src[i]));
        largest = w < INFINITY ? fmaxf(largest, w) : INFINITY; /* NaN counts as infinite */
    }
    largest = block_max(largest);
    const bool finite = largest < INFINITY;
    const float scale = finite ? __fdiv_rn(largest, 127.0f) : NAN;
    for (uint32_t i = threadIdx.x; i < a.ld; i += THREADS) {
        float q = 0.0f;
        if (i < a.n_in && finite && scale > 0.0f) {
            const float w = as_float(src[a.col0 + i]);
            q = rintf(__fdiv_rn(w, scale));
            const double e = (double)w - (double)q * (double)scale;
            error2 += e * e;
            norm2 += (double)w * (double)w;
        }
        dst[i] = (int8_t)fminf(fmaxf(q, -127.0f), 127.0f);
    }
    block_sums(error2, norm2, a.sums + 2 * row);
    if (threadIdx.x == 0)
        a.scale[row] = scale;
}

extern "C" cudaError_t sc_cuda_launch_quantise(const struct sc_cuda_quantise *a,
                                               cudaStream_t stream)
{
    if (a->dtype == SC_DTYPE_F32)
        quantise_kernel<float><<<a->n_rows, THREADS, 0, stream>>>(*a);
    else if (a->dtype == SC_DTYPE_BF16)
        quantise_kernel<__nv_bfloat16><<<a->n_rows, THREADS, 0, stream>>>(*a);
    else
        quantise_kernel<__half><<<a->n_rows, THREADS, 0, stream>>>(*a);
    return cudaGetLastError();
}

static __device__ inline uint32_t widen_pair(uint32_t v, int at)
{
    const float low = (float)(int8_t)(v >> at), high = (float)(int8_t)(v >> (at + 8));
    return sc_pack_bf16(low, high);
}

static __global__ void __launch_bounds__(THREADS)
    widen_kernel(const int8_t *src, uint32_t ld, uint32_t k, uint16_t *dst)
{
    const size_t row = blockIdx.x;
    for (uint32_t i = threadIdx.x * 8; i < k; i += THREADS * 8) {
        const uint2 v = *(const uint2 *)(src + row * ld + i);
        *(uint4 *)(dst + row * k + i) = make_uint4(widen_pair(v.x, 0), widen_pair(v.x, 16),
                                                   widen_pair(v.y, 0), widen_pair(v.y, 16));
    }
}

extern "C" cudaError_t sc_cuda_launch_widen(const int8_t *src, uint32_t n_rows, uint32_t ld,
                                            uint32_t k, uint16_t *dst, cudaStream_t stream)
{
    widen_kernel<<<n_rows, THREADS, 0, stream>>>(src, ld, k, dst);
    return cudaGetLastError();
}

static __global__ void __launch_bounds__(THREADS)
    finish_kernel(float *y, uint32_t y_stride, uint32_t n_out, const float *scale,
                  const float *bias)
{
    float *row = y + (size_t)blockIdx.x * y_stride;
    for (uint32_t i = blockIdx.y * THREADS + threadIdx.x; i < n_out; i += gridDim.y * THREADS) {
        const float v = scale != NULL ? row[i] * scale[i] : row[i];
        row[i] = bias != NULL ? v + bias[i] : v;
    }
}

extern "C" cudaError_t sc_cuda_launch_finish(float *y, uint32_t y_stride, uint32_t n,
                                             uint32_t n_out, const float *scale, const float *bias,
                                             cudaStream_t stream)
{
    const uint32_t columns = (n_out + THREADS - 1) / THREADS;
    const dim3 grid(n, columns < 65535 ? columns : 65535);
    finish_kernel<<<grid, THREADS, 0, stream>>>(y, y_stride, n_out, scale, bias);
    return cudaGetLastError();
}
