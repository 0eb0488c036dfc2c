/* cpu/simd.h - sixteen f32 lanes, the same operations for every instruction set. Private to cpu/.
 *
 * Included once per kernels_*.c, which first defines SC_SIMD_AVX512, SC_SIMD_AVX2 or nothing. Each
 * operation rounds alike everywhere, except that PLAIN has no fused multiply-add.
 *   vf          sixteen lanes; v_loadn/v_storen touch n < 16 lanes, the others read as zero
 *   v_fma(a, b, c)   a * b + c
 *   v_max(a, b), v_min(a, b)  b where either is NaN
 *   v_keep(x, lo, hi, other)  x in lanes lo <= i < hi, other elsewhere
 *   v_low(p), v_high(p)  the low (high) bf16 of sixteen pairs
 *   v_widen(p, q)    a line of an I8 page (kv_i8.h) to 64 bf16, exactly
 *   v_sum, v_top     lanes reduced as a fixed tree: i with i + 8, i + 4, i + 2, i + 1
 *   v_quantise(x, cap, p)  p[i] = x[i] < cap ? round(x[i]), at least 0 : cap; NaN gives cap
 *   v_add_quantised(x, cap, p, n)  the same, added to p[i], i < n <= 16
 *   v_transpose(x)   x[i] lane j becomes x[j] lane i, of sixteen; any bits
 *   v_unpair(x, a, b)  sixteen pairs of bf16 as the first sixteen and the last of their 32 numbers
 */
#ifndef SC_CPU_SIMD_H
#define SC_CPU_SIMD_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))

#if defined(SC_SIMD_AVX512)
#include "cpu/simd_avx512.h"
#elif defined(SC_SIMD_AVX2)
#include "cpu/simd_avx2.h"
#else
#include "cpu/simd_plain.h"
#endif

/* exp(x), about 2e-7 relative; 0 below -87; saturates above 88. Taylor to the sixth power on
 * [-ln 2 / 2, ln 2 / 2] after x = n ln 2 + r. 1.5 * 2^23 added to n leaves n in the low bits. */
INLINE vf v_exp(vf x)
{
    const float magic = 12582912.0f;
    vf c = v_min(v_set1(88.0f), v_max(v_set1(-87.0f), x));
    vf t = v_fma(c, v_set1(1.44269504f), v_set1(magic));
    vf n = v_sub(t, v_set1(magic));
    vf r = v_fma(n, v_set1(-0.693359375f), c);
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    vf y = v_set1(1.0f / 720.0f);
    y = v_fma(y, r, v_set1(1.0f / 120.0f));
    y = v_fma(y, r, v_set1(1.0f / 24.0f));
    y = v_fma(y, r, v_set1(1.0f / 6.0f));
    y = v_fma(y, r, v_set1(0.5f));
    y = v_fma(y, r, v_set1(1.0f));
    y = v_fma(y, r, v_set1(1.0f));
    return v_zero_below(x, v_set1(-87.0f), v_mul(y, v_pow2_low_bits(t)));
}

#endif
