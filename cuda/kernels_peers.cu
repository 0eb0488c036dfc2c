/* cuda/kernels_peers.cu - the sum over ranks of one process, and f32 to bf16 and back for sums that
 * travel in half the bytes.
 *
 * Each thread owns elements of the result, reads them from every rank in order and writes once: the
 * bits are those of a loop over the ranks, on every rank alike. 16-byte accesses where all the
 * pointers allow them. */
#include <cuda_bf16.h>

#include "cuda/kernels_peers.h"

#define SUM_THREADS    256
#define SUM_BLOCKS_MAX 1024

static __device__ inline float add(float a, float b)
{
    return a + b;
}

static __device__ inline uint32_t add(uint32_t a, uint32_t b)
{
    return a + b;
}

static __device__ inline float4 add(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

static __device__ inline uint4 add(uint4 a, uint4 b)
{
    return make_uint4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

template <typename T>
static __global__ void __launch_bounds__(SUM_THREADS)
    sum_kernel(const __grid_constant__ sc_cuda_sum a, size_t first, size_t n)
{
    const size_t step = (size_t)gridDim.x * SUM_THREADS;
    for (size_t i = (size_t)blockIdx.x * SUM_THREADS + threadIdx.x; i < n; i += step) {
        T sum = ((const T *)a.srcs[0])[first + i];
#pragma unroll 4
        for (uint32_t r = 1; r < a.n_srcs; r++)
            sum = add(sum, ((const T *)a.srcs[r])[first + i]);
        ((T *)a.dst)[first + i] = sum;
    }
}

static unsigned blocks_of(size_t n)
{
    const size_t blocks = (n + SUM_THREADS - 1) / SUM_THREADS;
    return (unsigned)(blocks < SUM_BLOCKS_MAX ? blocks : SUM_BLOCKS_MAX);
}

/* Elements first .. first + n, counted in T. */
template <typename T>
static void launch(const sc_cuda_sum *a, size_t first, size_t n, cudaStream_t stream)
{
    if (n != 0)
        sum_kernel<T><<<blocks_of(n), SUM_THREADS, 0, stream>>>(*a, first, n);
}

extern "C" cudaError_t sc_cuda_launch_sum(const struct sc_cuda_sum *a, cudaStream_t stream)
{
    uintptr_t bits = (uintptr_t)a->dst;
    for (uint32_t r = 0; r < a->n_srcs; r++)
        bits |= (uintptr_t)a->srcs[r];
    const size_t wide = bits % 16 == 0 ? a->n / 4 : 0;

    if (a->i32) {
        launch<uint4>(a, 0, wide, stream);
        launch<uint32_t>(a, 4 * wide, a->n - 4 * wide, stream);
    } else {
        launch<float4>(a, 0, wide, stream);
        launch<float>(a, 4 * wide, a->n - 4 * wide, stream);
    }
    return cudaGetLastError();
}

static __global__ void __launch_bounds__(SUM_THREADS)
    to_bf16_kernel(const float *x, size_t n, uint16_t *y)
{
    const size_t step = (size_t)gridDim.x * SUM_THREADS;
    for (size_t i = (size_t)blockIdx.x * SUM_THREADS + threadIdx.x; i < n; i += step)
        y[i] = __bfloat16_as_ushort(__float2bfloat16_rn(x[i]));
}

static __global__ void __launch_bounds__(SUM_THREADS)
    from_bf16_kernel(const uint16_t *x, size_t n, float *y)
{
    const size_t step = (size_t)gridDim.x * SUM_THREADS;
    for (size_t i = (size_t)blockIdx.x * SUM_THREADS + threadIdx.x; i < n; i += step)
        y[i] = __uint_as_float((uint32_t)x[i] << 16);
}

extern "C" cudaError_t sc_cuda_launch_to_bf16(const float *x, size_t n, uint16_t *y,
                                              cudaStream_t stream)
{
    to_bf16_kernel<<<blocks_of(n), SUM_THREADS, 0, stream>>>(x, n, y);
    return cudaGetLastError();
}

extern "C" cudaError_t sc_cuda_launch_from_bf16(const uint16_t *x, size_t n, float *y,
                                                cudaStream_t stream)
{
    from_bf16_kernel<<<blocks_of(n), SUM_THREADS, 0, stream>>>(x, n, y);
    return cudaGetLastError();
}
