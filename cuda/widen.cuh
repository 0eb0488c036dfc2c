/* cuda/widen.cuh - int8 as bf16, for tensor cores. Included by .cu files only. */
#ifndef SC_CUDA_WIDEN_CUH
#define SC_CUDA_WIDEN_CUH

#include "cuda/ptx.cuh"

/* Bytes 0 and 2 as a pair, exactly. Their low seven bits are those of a number from 128 to 255, of
 * which 128 is too much, or 256 where the sign is set: three instructions for two numbers. */
__device__ __forceinline__ uint32_t widen_pair(uint32_t bytes)
{
    return add_bf16((bytes & 0x007f007fu) | 0x43004300u, (bytes & 0x00800080u) | 0xc300c300u);
}

#endif
