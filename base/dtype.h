/* base/dtype.h - element types of tensors, and the scalar conversions between them.
 *
 * bf16 and f16 round to nearest, ties to even. Threads: pure functions.
 */
#ifndef SC_BASE_DTYPE_H
#define SC_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum sc_dtype {
    SC_DTYPE_F32,
    SC_DTYPE_BF16,
    SC_DTYPE_I8, /* weights, KV entries: with one scale a row */
    SC_DTYPE_F16,
    SC_DTYPE_I32,
    SC_DTYPE_COUNT
};

const char *sc_dtype_name(enum sc_dtype dtype); /* "f32", "bf16", "int8", "f16", "i32" */

static inline size_t sc_dtype_bytes(enum sc_dtype dtype)
{
    return dtype == SC_DTYPE_I8 ? 1 : dtype == SC_DTYPE_BF16 || dtype == SC_DTYPE_F16 ? 2 : 4;
}

static inline float sc_bf16_to_f32(uint16_t v)
{
    uint32_t u = (uint32_t)v << 16;
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static inline uint16_t sc_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u); /* NaN stays NaN */
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

float sc_f16_to_f32(uint16_t v);

/* How many of data's n elements (F32, BF16 or F16, at any address) come before the first that is
 * NaN or infinite; n when none is. About as fast as memory. */
size_t sc_dtype_count_finite(const void *data, enum sc_dtype dtype, size_t n);

#endif
