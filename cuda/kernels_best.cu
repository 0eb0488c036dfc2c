#include "cuda/kernels_best.h"

#define THREADS 1024

struct pair {
    float value;
    uint32_t at;
};

/* NaN wins over everything; of equals the lower column wins, so the order of comparing is free. */
static __device__ pair better(pair a, pair b)
{
    if (a.value != a.value)
        return a;
    if (b.value != b.value)
        return b;
    if (a.value == b.value)
        return a.at <= b.at ? a : b;
    return a.value > b.value ? a : b;
}

static __device__ pair of_warp(pair p)
{
    for (int d = 16; d > 0; d /= 2) {
        pair other;
        other.value = __shfl_xor_sync(0xffffffffu, p.value, d);
        other.at = __shfl_xor_sync(0xffffffffu, p.at, d);
        p = better(p, other);
    }
    return p;
}

/* One block a row. */
__global__ void __launch_bounds__(THREADS) sc_row_max(const float *__restrict__ x, uint32_t width,
                                                      uint32_t n_cols, float *__restrict__ best)
{
    __shared__ pair found[THREADS / 32];
    const float *row = x + (size_t)blockIdx.x * width;
    pair p = {-INFINITY, 0};

    for (uint32_t c = threadIdx.x; c < n_cols; c += 4 * THREADS) {
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t at = c + k * THREADS;
            if (at < n_cols)
                p = better(p, pair{row[at], at});
        }
    }
    p = of_warp(p);
    if (threadIdx.x % 32 == 0)
        found[threadIdx.x / 32] = p;
    __syncthreads();
    if (threadIdx.x < 32) {
        p = of_warp(found[threadIdx.x]);
        if (threadIdx.x == 0) {
            best[2 * blockIdx.x] = p.value;
            best[2 * blockIdx.x + 1] = __uint_as_float(p.at);
        }
    }
}

cudaError_t sc_cuda_launch_row_max(const float *x, uint32_t n_rows, uint32_t width, uint32_t n_cols,
                                   float *best, cudaStream_t stream)
{
    sc_row_max<<<n_rows, THREADS, 0, stream>>>(x, width, n_cols, best);
    return cudaGetLastError();
}
