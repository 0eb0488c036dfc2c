/* cuda/rows.cuh - device functions that several kernels of rows and products share. Included by .cu
 * files only. */
#ifndef SC_CUDA_ROWS_CUH
#define SC_CUDA_ROWS_CUH

#include <cuda_bf16.h>
#include <stdint.h>

/* The same value wherever it is computed: swiglu and the fused product must agree. */
static __device__ inline float sc_silu(float x)
{
    return x / (1.0f + expf(-x));
}

/* a in the low half; to the nearest, ties to even. */
static __device__ inline uint32_t sc_pack_bf16(float a, float b)
{
    uint32_t low = __bfloat16_as_ushort(__float2bfloat16_rn(a));
    uint32_t high = __bfloat16_as_ushort(__float2bfloat16_rn(b));
    return low | high << 16;
}

static __device__ inline float sc_low_bf16(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}

static __device__ inline float sc_high_bf16(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

/* Every lane gets the sum, by the same tree. */
static __device__ inline float sc_warp_sum(float x)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

#endif
