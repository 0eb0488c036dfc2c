/* tests/cuda/simt/arithmetic.h - the intrinsics of CUDA C++ that kernels use. */
#ifndef SC_SIMT_ARITHMETIC_H
#define SC_SIMT_ARITHMETIC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t __float_as_uint(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    return u;
}

static inline float __uint_as_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof(x));
    return x;
}

static inline float __int_as_float(int32_t i)
{
    return __uint_as_float((uint32_t)i);
}

/* Kernels may be built as nvcc builds them: a product and a sum become one operation. Not so what
 * these return, which the compiler does not see into. */
#if defined(__x86_64__)
#define SC_SIMT_ROUNDED(x) __asm__("" : "+x"(x))
#elif defined(__aarch64__)
#define SC_SIMT_ROUNDED(x) __asm__("" : "+w"(x))
#else
#define SC_SIMT_ROUNDED(x) __asm__("" : "+m"(x))
#endif

static inline float __fadd_rn(float a, float b)
{
    float x = a + b;
    SC_SIMT_ROUNDED(x);
    return x;
}

static inline float __fsub_rn(float a, float b)
{
    return __fadd_rn(a, -b);
}

static inline float __fmul_rn(float a, float b)
{
    float x = a * b;
    SC_SIMT_ROUNDED(x);
    return x;
}

static inline double __dmul_rn(double a, double b)
{
    double x = a * b;
    SC_SIMT_ROUNDED(x);
    return x;
}

static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}

static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}

static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}

static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}

/* To the nearest, ties to even; NaN is 0, what does not fit the limit. */
static inline int32_t __float2int_rn(float x)
{
    if (x != x)
        return 0;
    if (x >= 2147483648.0f)
        return INT32_MAX;
    return x < -2147483648.0f ? INT32_MIN : (int32_t)rintf(x);
}

static inline uint64_t __umul64hi(uint64_t a, uint64_t b)
{
    return (uint64_t)((unsigned __int128)a * b >> 64);
}

static inline int __popc(uint32_t x)
{
    return __builtin_popcount(x);
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

static inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t select)
{
    const uint64_t bytes = (uint64_t)high << 32 | low;
    uint32_t r = 0;
    for (unsigned i = 0; i < 4; i++)
        r |= (uint32_t)(bytes >> (select >> (4 * i) & 7) * 8 & 0xff) << (8 * i);
    return r;
}

static inline int min(int a, int b)
{
    return a < b ? a : b;
}

static inline uint32_t min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline int max(int a, int b)
{
    return a > b ? a : b;
}

static inline uint32_t max(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

#endif
