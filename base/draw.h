/* base/draw.h - a token drawn from a row of logits, the same one on every backend.
 *
 * With d = largest logit - logit, a token's mass is 2^30 e^(-d / temperature), rounded to a whole
 * number: sums of masses are exact in any order, so threads and blocks of a GPU may add as they
 * like, and the arithmetic below rounds alike everywhere (no fused multiply-add). What stays:
 *   min-p   tokens with d <= last
 *   top-k   of these, those with d <= the k-th smallest of all: ties with the k-th stay
 *   top-p   of these, the fewest whose mass reaches top_p of theirs, by rising d, of equals by
 *           rising id
 * Drawn is the first token, in order of ids, at which the sum of the masses that stayed exceeds
 * random / 2^64 of them all. Mass 0, less than half of 2^-30 of the likeliest, is never drawn.
 */
#ifndef SC_BASE_DRAW_H
#define SC_BASE_DRAW_H

#include "base/twin.h"

#define SC_DRAW_TOKENS_MAX (1u << 20)
#define SC_DRAW_ONE        (1u << 30) /* the mass of the likeliest token */
#define SC_DRAW_UNDECIDED  UINT32_MAX

struct sc_draw {
    float scale; /* -log2(e) / temperature; 0: greedy, and nothing else counts */
    float top_p;
    uint32_t top_k; /* 0: off */
    uint32_t last;  /* bits of a distance */
    uint64_t random;
};

#ifdef __CUDACC__
#define SC_DRAW_ROUND(f) ((uint32_t)__float2int_rn(f))
#else
#include <math.h>
#define SC_DRAW_ROUND(f) ((uint32_t)lrintf(f))
#endif

/* Taylor series of 2^f, |f| <= 1/2, to the sixth power. */
#define SC_DRAW_C1     6.93147182e-1f
#define SC_DRAW_C2     2.40226507e-1f
#define SC_DRAW_C3     5.55041087e-2f
#define SC_DRAW_C4     9.61812911e-3f
#define SC_DRAW_C5     1.33335581e-3f
#define SC_DRAW_C6     1.54035304e-4f
#define SC_DRAW_LOWEST (-32.0f)    /* 2^30 times 2 to this power rounds to 0 */
#define SC_DRAW_MAGIC  12582912.0f /* 1.5 * 2^23: a sum with it keeps whole numbers */

/* d >= 0 orders as its bits do, +inf (a masked token) last; the sum with 0 makes -0 of +0. */
SC_TWIN_FN uint32_t sc_draw_distance(float max, float logit)
{
    return SC_TWIN_BITS(SC_TWIN_ADD(SC_TWIN_ADD(max, -logit), 0.0f));
}

SC_TWIN_FN uint32_t sc_draw_mass(uint32_t distance, float scale)
{
    const float power = SC_TWIN_MUL(SC_TWIN_FLOAT(distance), scale);
    const float t = power > SC_DRAW_LOWEST ? power : SC_DRAW_LOWEST;
    const float whole = SC_TWIN_ADD(t, SC_DRAW_MAGIC);
    const float f = SC_TWIN_ADD(t, -SC_TWIN_ADD(whole, -SC_DRAW_MAGIC));
    float y = SC_DRAW_C6;
    y = SC_TWIN_ADD(SC_TWIN_MUL(y, f), SC_DRAW_C5);
    y = SC_TWIN_ADD(SC_TWIN_MUL(y, f), SC_DRAW_C4);
    y = SC_TWIN_ADD(SC_TWIN_MUL(y, f), SC_DRAW_C3);
    y = SC_TWIN_ADD(SC_TWIN_MUL(y, f), SC_DRAW_C2);
    y = SC_TWIN_ADD(SC_TWIN_MUL(y, f), SC_DRAW_C1);
    y = SC_TWIN_ADD(SC_TWIN_MUL(y, f), 1.0f);
    y = SC_TWIN_FLOAT(SC_TWIN_BITS(y) + (SC_TWIN_BITS(whole) << 23));
    return SC_DRAW_ROUND(SC_TWIN_MUL(y, (float)SC_DRAW_ONE));
}

#ifndef __CUDACC__

/* Inner loops, for the instruction sets that a backend has. */
struct sc_draw_loops {
    /* Masses of n tokens, 0 of those beyond `last`. */
    void (*masses)(const float *x, uint32_t n, float max, const struct sc_draw *draw, uint32_t *to);
    /* The largest; NaN if any is NaN; -inf for n = 0. */
    float (*largest)(const float *x, uint32_t n);
};

/* x [n]: 1 <= n <= SC_DRAW_TOKENS_MAX logits, none NaN, the largest of them finite: max. loops
 * NULL: plain C. Takes 0.2 MiB of stack. Threads: any. */
uint32_t sc_draw_token(const float *x, uint32_t n, float max, const struct sc_draw *draw,
                       const struct sc_draw_loops *loops);

/* The largest as sc_draw_loops has it, and the lowest id that has it (0 for n = 0). */
float sc_draw_largest(const float *x, uint32_t n, const struct sc_draw_loops *loops,
                      uint32_t *ret_id);

#endif

#endif
