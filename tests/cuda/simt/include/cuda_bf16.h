/* tests/cuda/simt/include/cuda_bf16.h - bf16 as the kernels use it. */
#ifndef SC_SIMT_CUDA_BF16_H
#define SC_SIMT_CUDA_BF16_H

#include "tests/cuda/simt/arithmetic.h"

struct __nv_bfloat16 {
    uint16_t bits;
};

/* To the nearest, ties to even; every NaN becomes the device's. */
static inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
    const uint32_t u = __float_as_uint(x);
    if (x != x)
        return {0x7fff};
    return {(uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
}

static inline float __bfloat162float(__nv_bfloat16 x)
{
    return __uint_as_float((uint32_t)x.bits << 16);
}

static inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 x)
{
    return x.bits;
}

#endif
