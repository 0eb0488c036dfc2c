/* cpu/attention_dot_impl.h - the products of attention_bf16_impl.h with the AVX-512 dot product,
 * included before it. Private to cpu/.
 *
 * int8 pages are widened in registers: their whole numbers as bf16, two vectors of pairs a line.
 */
#include "cpu/attention_soon_impl.h"

INLINE void load_pairs(const bool i8, const uint8_t *p, __m512bh *a, __m512bh *b)
{
    if (i8) {
        __m512i x, y;
        v_widen_pairs(p, &x, &y);
        *a = (__m512bh)x;
        *b = (__m512bh)y;
    } else {
        *a = (__m512bh)_mm512_loadu_si512(p);
        *b = (__m512bh)_mm512_loadu_si512(p + SC_CPU_LINE);
    }
}

/* Scores of nq queries of one tile, 32 entries. A page's K or V is too short for the hardware to
 * see where it leads: int8 keys ask for what lies `ahead` meanwhile, line for line, bf16 keys for
 * what comes `soon`. */
INLINE void qk_rows(const int nq, const bool i8, const uint32_t *q, uint32_t head_dim,
                    const uint8_t *k, const float *bias, const float *scale, float *scores,
                    const uint8_t *ahead, const struct soon *soon)
{
    const uint32_t step = i8 ? SC_CPU_LINE : 2 * SC_CPU_LINE;
    const uint8_t *ask = soon != NULL ? soon->values : NULL;
    __m512 s[8][2];
#pragma GCC unroll 8
    for (int i = 0; i < nq; i++) {
        s[i][0] = scale != NULL ? _mm512_setzero_ps() : _mm512_loadu_ps(bias);
        s[i][1] = scale != NULL ? _mm512_setzero_ps() : _mm512_loadu_ps(bias + 16);
    }
    for (uint32_t d = 0; d < head_dim; d += TILE_COLS, q += TILE_WORDS) {
        uint32_t n_pairs = head_dim - d < TILE_COLS ? (head_dim - d) / 2 : TILE_COLS / 2;
        if (soon != NULL && 2 * d >= head_dim && 2 * d < head_dim + 2 * TILE_COLS)
            ask = soon->keys;
        for (uint32_t pair = 0; pair < n_pairs; pair++, k += step) {
            __m512bh a, b;
            load_pairs(i8, k, &a, &b);
            if (i8 && ahead != NULL) {
                _mm_prefetch(ahead, _MM_HINT_T1);
                ahead += step;
            }
            if (!i8 && soon != NULL) {
                ask_lines(ask, 4);
                ask += 4 * SC_CPU_LINE;
            }
#pragma GCC unroll 8
            for (int i = 0; i < nq; i++) {
                __m512bh x = (__m512bh)_mm512_set1_epi32((int)q[16 * i + (int)pair]);
                s[i][0] = _mm512_dpbf16_ps(s[i][0], a, x);
                s[i][1] = _mm512_dpbf16_ps(s[i][1], b, x);
            }
        }
    }
    if (scale != NULL) {
        __m512 scale0 = _mm512_loadu_ps(scale), scale1 = _mm512_loadu_ps(scale + 16);
        __m512 bias0 = _mm512_loadu_ps(bias), bias1 = _mm512_loadu_ps(bias + 16);
#pragma GCC unroll 8
        for (int i = 0; i < nq; i++) {
            s[i][0] = _mm512_fmadd_ps(s[i][0], scale0, bias0);
            s[i][1] = _mm512_fmadd_ps(s[i][1], scale1, bias1);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < nq; i++) {
        _mm512_storeu_ps(scores + i * (int)SC_CPU_STRETCH, s[i][0]);
        _mm512_storeu_ps(scores + i * (int)SC_CPU_STRETCH + 16, s[i][1]);
    }
}

#define CASES_8(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8)
#define CASES_4(DO) DO(1) DO(2) DO(3) DO(4)

INLINE void qk_any(uint32_t nq, const bool i8, const uint32_t *q, uint32_t head_dim,
                   const uint8_t *const *pages, uint32_t n, const float *bias,
                   const float *const *scales, float *scores, const struct ahead *ahead)
{
    for (uint32_t p = 0; p < n; p++) {
        for (uint32_t i = 0; i < nq; i += 8) {
            const uint8_t *next = ahead != NULL && i == 0 ? ahead->far : NULL;
            const uint32_t *from = q + i / TILE_ROWS * round_words(head_dim) + i % TILE_ROWS * 16;
            float *to = scores + i * SC_CPU_STRETCH + p * SC_PAGE_ENTRIES;
            switch (nq - i < 8 ? nq - i : 8) {
#define QK_CASE(m)                                                                                 \
    case m:                                                                                        \
        qk_rows(m, i8, from, head_dim, pages[p], bias + p * SC_PAGE_ENTRIES,                       \
                scales != NULL ? scales[p] : NULL, to, next, NULL);                                \
        break;
                CASES_8(QK_CASE)
#undef QK_CASE
            default:
                break;
            }
        }
    }
}

static void qk_pages(bool i8, uint32_t nq, const uint32_t *q, uint32_t head_dim,
                     const uint8_t *const *pages, uint32_t n, const float *bias,
                     const float *const *scales, float *scores, const struct ahead *ahead)
{
    if (i8)
        qk_any(nq, true, q, head_dim, pages, n, bias, scales, scores, ahead);
    else
        qk_any(nq, false, q, head_dim, pages, n, bias, scales, scores, ahead);
}

/* nc vectors of dimensions of nq queries, int8: 2 or 4; v_skip: bytes from a page's V to the first
 * of them. */
INLINE void pv_rows(const int nq, const bool i8, const int nc, const uint32_t *weights,
                    const uint8_t *const *pages, uint32_t n, uint32_t v_skip, uint32_t dim_pad,
                    float *o, uint32_t stride, const struct ahead *ahead)
{
    const uint32_t row = i8 ? dim_pad * 2 : dim_pad * 4;
    __m512 acc[4][4];
#pragma GCC unroll 4
    for (int i = 0; i < nq; i++) {
#pragma GCC unroll 4
        for (int c = 0; c < nc; c++)
            acc[i][c] = _mm512_loadu_ps(o + (uint32_t)i * stride + 16 * c);
    }
    for (uint32_t p = 0; p < n; p++, weights += TILE_WORDS) {
        const uint8_t *v = pages[p] + v_skip;
        const uint8_t *next = ahead != NULL && ahead->far != NULL ? ahead->far + v_skip : NULL;
        for (uint32_t pair = 0; pair < 16; pair++, v += row) {
            __m512bh x[4];
            if (i8 && next != NULL) {
                _mm_prefetch(next, _MM_HINT_T1);
                if (nc == 4)
                    _mm_prefetch(next + SC_CPU_LINE, _MM_HINT_T1);
                next += row;
            }
#pragma GCC unroll 4
            for (int c = 0; c < nc; c++) {
                if (!i8)
                    x[c] = (__m512bh)_mm512_loadu_si512(v + SC_CPU_LINE * c);
                else if (c % 2 == 0)
                    load_pairs(true, v + SC_CPU_LINE * (c / 2), &x[c], &x[c + 1]);
            }
#pragma GCC unroll 4
            for (int i = 0; i < nq; i++) {
                __m512bh w = (__m512bh)_mm512_set1_epi32((int)weights[16 * i + (int)pair]);
#pragma GCC unroll 4
                for (int c = 0; c < nc; c++)
                    acc[i][c] = _mm512_dpbf16_ps(acc[i][c], x[c], w);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < nq; i++) {
#pragma GCC unroll 4
        for (int c = 0; c < nc; c++)
            _mm512_storeu_ps(o + (uint32_t)i * stride + 16 * c, acc[i][c]);
    }
}

INLINE void pv_dims(const int nq, const bool i8, const uint32_t *weights,
                    const uint8_t *const *pages, uint32_t n, uint32_t dim_pad, float *o,
                    uint32_t stride, const struct ahead *ahead)
{
    const uint32_t bytes = i8 ? 2 : 4; /* of a pair */
    const int least = i8 ? 2 : 1;
    uint32_t d = 0;
    for (; d + 64 <= dim_pad; d += 64)
        pv_rows(nq, i8, 4, weights, pages, n, d * bytes, dim_pad, o + d, stride, ahead);
    for (; d < dim_pad; d += 16 * (uint32_t)least)
        pv_rows(nq, i8, least, weights, pages, n, d * bytes, dim_pad, o + d, stride, ahead);
}

INLINE void pv_any(uint32_t nq, const bool i8, const uint32_t *weights, const uint8_t *const *pages,
                   uint32_t n, uint32_t dim_pad, float *o, uint32_t stride,
                   const struct ahead *ahead)
{
    for (uint32_t i = 0; i < nq; i += 4) {
        const uint32_t *from =
            weights + i / TILE_ROWS * SC_CPU_STRETCH_PAGES * TILE_WORDS + i % TILE_ROWS * 16;
        switch (nq - i < 4 ? nq - i : 4) {
#define PV_CASE(m)                                                                                 \
    case m:                                                                                        \
        pv_dims(m, i8, from, pages, n, dim_pad, o + i * stride, stride, i == 0 ? ahead : NULL);    \
        break;
            CASES_4(PV_CASE)
#undef PV_CASE
        default:
            break;
        }
    }
}

static void pv_pages(bool i8, uint32_t nq, const uint32_t *weights, const uint8_t *const *pages,
                     uint32_t n, uint32_t dim_pad, float *o, uint32_t stride,
                     const struct ahead *ahead)
{
    if (i8)
        pv_any(nq, true, weights, pages, n, dim_pad, o, stride, ahead);
    else
        pv_any(nq, false, weights, pages, n, dim_pad, o, stride, ahead);
}

static void at_begin(uint32_t rows)
{
    (void)rows;
}
