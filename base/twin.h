/* base/twin.h - f32 arithmetic that rounds alike in C and in CUDA C++, for headers that both
 * compile so that a kernel and its twin on the CPU give the same bits. No multiplication and
 * addition become one: the project builds C without contraction, and the functions of CUDA do not
 * contract. */
#ifndef SC_BASE_TWIN_H
#define SC_BASE_TWIN_H

#include <stdint.h>

#ifdef __CUDACC__
#define SC_TWIN_FN        static __device__ __forceinline__
#define SC_TWIN_ADD(a, b) __fadd_rn(a, b)
#define SC_TWIN_MUL(a, b) __fmul_rn(a, b)
#define SC_TWIN_DIV(a, b) __fdiv_rn(a, b)
#define SC_TWIN_BITS(f)   __float_as_uint(f)
#define SC_TWIN_FLOAT(u)  __uint_as_float(u)
#else
#include <string.h>
#define SC_TWIN_FN        static inline
#define SC_TWIN_ADD(a, b) ((a) + (b))
#define SC_TWIN_MUL(a, b) ((a) * (b))
#define SC_TWIN_DIV(a, b) ((a) / (b))
static inline uint32_t SC_TWIN_BITS(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}
static inline float SC_TWIN_FLOAT(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}
#endif

#endif
