#include "cuda/kernels_best.h"

#include "cuda/overlap.cuh"

#define THREADS   1024
#define IN_FLIGHT 4

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

/* One block a row: of pieces of VALUES columns that begin at a multiple of them, then the rest. */
template <int VALUES>
static __global__ void __launch_bounds__(THREADS)
    row_max_kernel(const float *x, uint32_t width, uint32_t n_cols, float *best)
{
    __shared__ pair found[THREADS / 32];
    const float *row = x + (size_t)blockIdx.x * width;
    const uint32_t n_pieces = n_cols / VALUES;
    pair p = {-INFINITY, 0};

    sc_next_may_start();
    sc_inputs_ready();
    for (uint32_t c = threadIdx.x; c < n_pieces; c += IN_FLIGHT * THREADS) {
        float v[IN_FLIGHT][VALUES];
#pragma unroll
        for (uint32_t k = 0; k < IN_FLIGHT; k++) {
            const uint32_t at = min(c + k * THREADS, n_pieces - 1);
            if (VALUES == 4)
                *(float4 *)v[k] = *(const float4 *)(row + 4 * (size_t)at);
            else
                v[k][0] = row[at];
        }
#pragma unroll
        for (uint32_t k = 0; k < IN_FLIGHT; k++) {
#pragma unroll
            for (uint32_t j = 0; j < VALUES; j++)
                p = better(p, pair{v[k][j], min(c + k * THREADS, n_pieces - 1) * VALUES + j});
        }
    }
    for (uint32_t at = n_pieces * VALUES + threadIdx.x; at < n_cols; at += THREADS)
        p = better(p, pair{row[at], at});
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

extern "C" cudaError_t sc_cuda_launch_row_max(const float *x, uint32_t n_rows, uint32_t width,
                                              uint32_t n_cols, float *best, cudaStream_t stream)
{
    if (width % 4 == 0 && (uintptr_t)x % 16 == 0)
        return sc_overlap_launch(row_max_kernel<4>, n_rows, THREADS, 0, stream, x, width, n_cols,
                                 best);
    return sc_overlap_launch(row_max_kernel<1>, n_rows, THREADS, 0, stream, x, width, n_cols, best);
}
