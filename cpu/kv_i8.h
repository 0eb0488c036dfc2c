/* cpu/kv_i8.h - how int8 entries are rounded, and how their bytes lie in a page. Private to cpu/.
 *
 * A byte is sign (bit 7) and magnitude: the magnitude indexes a table of bf16, the sign is or-ed to
 * what it finds. 64 bytes, a line, are what 128 bytes of a bf16 page are: two vectors a and b of
 * sixteen pairs. The bytes of a are the low eight of each of the line's four lanes of 16 bytes, in
 * order, those of b the high eight: unpack instructions, which keep to lanes, then leave both in
 * order. Any byte is a finite number.
 */
#ifndef SC_CPU_KV_I8_H
#define SC_CPU_KV_I8_H

#include <stdint.h>
#include <string.h>

#include "base/row_i8.h"

#define SC_CPU_LINE 64u

/* The byte for element i of a bf16 page. */
static inline size_t sc_cpu_i8_at(size_t i)
{
    return i / 64 * 64 + i % 32 / 8 * 16 + i % 64 / 32 * 8 + i % 8;
}

static inline int8_t sc_cpu_i8_whole(uint8_t byte)
{
    int magnitude = byte & 127;
    return (int8_t)(byte > 127 ? -magnitude : magnitude);
}

static inline uint8_t sc_cpu_i8_byte(int8_t whole)
{
    return (uint8_t)(whole < 0 ? 128 | (-whole & 127) : whole);
}

/* x [n] as bytes; returns the scale. Loops that compilers turn into vectors. */
static inline float sc_cpu_i8_round(const float *x, uint32_t n, uint8_t *bytes)
{
    uint32_t most = 0;
    float scale;

    for (uint32_t i = 0; i < n; i++) {
        const uint32_t magnitude = sc_row_i8_magnitude(x[i]);
        most = magnitude > most ? magnitude : most;
    }
    scale = sc_row_i8_scale(most);
    if (!(scale > 0.0f)) { /* zeros, or too small for a scale, or not finite */
        memset(bytes, 0, n);
        return scale;
    }
    for (uint32_t i = 0; i < n; i++)
        bytes[i] = sc_cpu_i8_byte((int8_t)sc_row_i8_round(x[i], scale));
    return scale;
}

#endif
