#include "cuda/kernels_best.h"

#include "cuda/overlap.cuh"

#define THREADS   256u
#define WARPS     (THREADS / 32)
#define IN_FLIGHT 4u
#define PARTS_MAX 32u /* of a row: one warp compares them */
#define ALL_LANES 0xffffffffu

struct pair {
    float value;
    uint32_t at;
};

/* NaN wins over everything; of equals the lower column wins, so the order of comparing is free. */
static __device__ pair better(pair a, pair b)
{
    const bool a_is_nan = a.value != a.value, b_is_nan = b.value != b.value;
    if (a.value == b.value || (a_is_nan && b_is_nan))
        return a.at <= b.at ? a : b;
    return a_is_nan || a.value > b.value ? a : b;
}

/* better of p and a column behind p's. */
static __device__ void see(pair &p, float value, uint32_t at)
{
    if (!(value <= p.value) && p.value == p.value)
        p = {value, at};
}

static __device__ pair of_warp(pair p)
{
    for (int d = 16; d > 0; d /= 2) {
        pair other;
        other.value = __shfl_xor_sync(ALL_LANES, p.value, d);
        other.at = __shfl_xor_sync(ALL_LANES, p.at, d);
        p = better(p, other);
    }
    return p;
}

/* n_parts blocks a row, which take turns with pieces of VALUES columns that begin at a multiple of
 * them; the last takes the rest, too. Of several blocks each leaves its best in found, and the one
 * that arrives last compares them. arrived is zero before and after: calls that follow come with
 * other numbers of rows and parts. */
template <int VALUES>
static __global__ void __launch_bounds__(THREADS)
    row_max_kernel(const float *x, uint32_t width, uint32_t n_cols, uint32_t n_parts, float2 *found,
                   uint32_t *arrived, float *best)
{
    __shared__ pair of_warps[WARPS];
    const uint32_t row = blockIdx.x / n_parts, part = blockIdx.x % n_parts;
    const uint32_t lane = threadIdx.x % 32, step = n_parts * THREADS;
    const float *from = x + (size_t)row * width;
    const uint32_t n_pieces = n_cols / VALUES;
    pair p = {-INFINITY, 0};

    sc_next_may_start();
    sc_inputs_ready();
    for (uint32_t c = part * THREADS + threadIdx.x; c < n_pieces; c += IN_FLIGHT * step) {
        float v[IN_FLIGHT][VALUES];
#pragma unroll
        for (uint32_t k = 0; k < IN_FLIGHT; k++) {
            const uint32_t at = min(c + k * step, n_pieces - 1);
            if (VALUES == 4)
                *(float4 *)v[k] = *(const float4 *)(from + 4 * (size_t)at);
            else
                v[k][0] = from[at];
        }
#pragma unroll
        for (uint32_t k = 0; k < IN_FLIGHT; k++) {
#pragma unroll
            for (uint32_t j = 0; j < VALUES; j++)
                see(p, v[k][j], min(c + k * step, n_pieces - 1) * VALUES + j);
        }
    }
    if (part == n_parts - 1)
        for (uint32_t at = n_pieces * VALUES + threadIdx.x; at < n_cols; at += THREADS)
            see(p, from[at], at);
    p = of_warp(p);
    if (lane == 0)
        of_warps[threadIdx.x / 32] = p;
    __syncthreads();
    if (threadIdx.x >= 32)
        return;
    p = of_warp(of_warps[lane % WARPS]);
    if (n_parts > 1) {
        uint32_t before = 0;
        if (lane == 0) {
            found[blockIdx.x] = make_float2(p.value, __uint_as_float(p.at));
            __threadfence(); /* whoever sees the count sees the pair */
            before = atomicAdd(&arrived[row], 1u);
        }
        if (__shfl_sync(ALL_LANES, before, 0) != n_parts - 1)
            return;
        __threadfence();
        const float2 f = __ldcg(found + row * n_parts + lane % n_parts);
        p = of_warp(pair{f.x, __float_as_uint(f.y)});
        if (lane == 0)
            arrived[row] = 0;
    }
    if (lane == 0) {
        best[2 * row] = p.value;
        best[2 * row + 1] = __uint_as_float(p.at);
    }
}

extern "C" cudaError_t sc_cuda_launch_row_max(const float *x, uint32_t n_rows, uint32_t width,
                                              uint32_t n_cols, void *scratch, float *best,
                                              cudaStream_t stream)
{
    const bool by_four = width % 4 == 0 && (uintptr_t)x % 16 == 0;
    const uint32_t each = THREADS * IN_FLIGHT * (by_four ? 4 : 1); /* what is in flight at once */
    float2 *found = (float2 *)scratch;
    uint32_t *arrived = (uint32_t *)(found + SC_CUDA_BEST_BLOCKS);
    uint32_t n_parts = n_cols / each + (n_cols % each != 0);

    n_parts = min(n_parts, min(PARTS_MAX, SC_CUDA_BEST_BLOCKS / n_rows));
    n_parts = max(n_parts, 1u);
    return sc_overlap_launch(by_four ? row_max_kernel<4> : row_max_kernel<1>, n_rows * n_parts,
                             THREADS, 0, stream, x, width, n_cols, n_parts, found, arrived, best);
}
