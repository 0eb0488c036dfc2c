/* tests/cuda/simt/include/cuda_fp16.h - f16 as the kernels use it: read. */
#ifndef SC_SIMT_CUDA_FP16_H
#define SC_SIMT_CUDA_FP16_H

#include "tests/cuda/simt/arithmetic.h"

struct __half {
    uint16_t bits;
};

static inline float __half2float(__half h)
{
    const uint32_t sign = (uint32_t)(h.bits & 0x8000u) << 16, e = h.bits >> 10 & 31u;
    const uint32_t m = h.bits & 0x3ffu;
    if (e == 0) /* also zero */
        return (sign != 0 ? -1.0f : 1.0f) * (float)m * 0x1p-24f;
    return __uint_as_float(sign | (e == 31 ? 0x7f800000u : (e + 112) << 23) | m << 13);
}

#endif
