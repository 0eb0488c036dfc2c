/* base/row_i8.h - a row of a KV entry rounded to int8, to the same bits on every backend: plain
 * division and rounding of f32. What the numbers mean: struct sc_kv_spec in base/backend.h.
 */
#ifndef SC_BASE_ROW_I8_H
#define SC_BASE_ROW_I8_H

#include "base/twin.h"

#define SC_ROW_I8_INF 0x7f800000u
#define SC_ROW_I8_NAN 0x7fc00000u
#define SC_ROW_I8_MAGIC                                                                            \
    0x4b400000u /* 1.5 * 2^23: added, it leaves a whole number in the low bits */

/* Orders as |x| does, infinities and NaN above all: of a row the largest makes the scale. */
SC_TWIN_FN uint32_t sc_row_i8_magnitude(float x)
{
    return SC_TWIN_BITS(x) & 0x7fffffffu;
}

/* Without branches, as loops around it become vectors. */
SC_TWIN_FN float sc_row_i8_scale(uint32_t largest)
{
    const float scale = SC_TWIN_DIV(SC_TWIN_FLOAT(largest), 127.0f);
    return largest >= SC_ROW_I8_INF ? SC_TWIN_FLOAT(SC_ROW_I8_NAN) : scale;
}

/* -127 .. 127: a scale of few bits would leave that range. scale > 0; without one all are 0. */
SC_TWIN_FN int32_t sc_row_i8_round(float x, float scale)
{
    const float shifted = SC_TWIN_ADD(SC_TWIN_DIV(x, scale), SC_TWIN_FLOAT(SC_ROW_I8_MAGIC));
    const int32_t whole = (int32_t)(SC_TWIN_BITS(shifted) - SC_ROW_I8_MAGIC);
    return whole > 127 ? 127 : whole < -127 ? -127 : whole;
}

#endif
