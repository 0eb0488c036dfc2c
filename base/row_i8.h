/* base/row_i8.h - a row of a KV entry rounded to int8, to the same bits on every backend: plain
 * division and rounding of f32. What the numbers mean: struct sc_kv_spec in base/backend.h.
 */
#ifndef SC_BASE_ROW_I8_H
#define SC_BASE_ROW_I8_H

#include <stdint.h>

#define SC_ROW_I8_INF 0x7f800000u
#define SC_ROW_I8_NAN 0x7fc00000u
#define SC_ROW_I8_MAGIC                                                                            \
    0x4b400000u /* 1.5 * 2^23: added, it leaves a whole number in the low bits */

#ifdef __CUDACC__
#define SC_ROW_I8_FN        static __device__ __forceinline__
#define SC_ROW_I8_ADD(a, b) __fadd_rn(a, b)
#define SC_ROW_I8_DIV(a, b) __fdiv_rn(a, b)
#define SC_ROW_I8_BITS(f)   __float_as_uint(f)
#define SC_ROW_I8_FLOAT(u)  __uint_as_float(u)
#else
#include <string.h>
#define SC_ROW_I8_FN        static inline
#define SC_ROW_I8_ADD(a, b) ((a) + (b))
#define SC_ROW_I8_DIV(a, b) ((a) / (b))
static inline uint32_t SC_ROW_I8_BITS(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}
static inline float SC_ROW_I8_FLOAT(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}
#endif

/* Orders as |x| does, infinities and NaN above all: of a row the largest makes the scale. */
SC_ROW_I8_FN uint32_t sc_row_i8_magnitude(float x)
{
    return SC_ROW_I8_BITS(x) & 0x7fffffffu;
}

/* Without branches, as loops around it become vectors. */
SC_ROW_I8_FN float sc_row_i8_scale(uint32_t largest)
{
    const float scale = SC_ROW_I8_DIV(SC_ROW_I8_FLOAT(largest), 127.0f);
    return largest >= SC_ROW_I8_INF ? SC_ROW_I8_FLOAT(SC_ROW_I8_NAN) : scale;
}

/* -127 .. 127: a scale of few bits would leave that range. scale > 0; without one all are 0. */
SC_ROW_I8_FN int32_t sc_row_i8_round(float x, float scale)
{
    const float shifted = SC_ROW_I8_ADD(SC_ROW_I8_DIV(x, scale), SC_ROW_I8_FLOAT(SC_ROW_I8_MAGIC));
    const int32_t whole = (int32_t)(SC_ROW_I8_BITS(shifted) - SC_ROW_I8_MAGIC);
    return whole > 127 ? 127 : whole < -127 ? -127 : whole;
}

#endif
