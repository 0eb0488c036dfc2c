/* cpu/kernels_avx512bf16.c - bf16 times bf16 with the AVX-512 dot product, two products a lane.
 *
 * One accumulator per output takes its pairs in rising order, whatever the number of rows. */
#include "cpu/kernels.h"
#define SC_SIMD_AVX512
#include "cpu/simd.h"

#include "cpu/bf16_impl.h"

#define ROWS 6 /* of a register tile */
#define COLS 4
/* Up to a block of rows reads every weight once, from memory, and goes through a panel in slices of
 * so many inputs: one lies in the first-level cache and is used by all pieces of the block, which
 * ask for the next one meanwhile. */
#define SLICE_IN 128u

/* mr rows of a block of 16, from x on, times one panel slice. `lines` of `ahead` are asked for with
 * every pair of inputs. */
INLINE void mm_rows(const int mr, const int lines, const uint8_t *ahead, const struct sc_cpu_mm *mm,
                    const uint32_t *x, float *y, size_t ys)
{
    const uint32_t *w = mm->panel;
    __m512 acc[ROWS][COLS];

#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < COLS; c++)
            acc[r][c] = mm->first ? _mm512_setzero_ps() : _mm512_loadu_ps(y + r * ys + 16 * c);
    }
    for (uint32_t k = 0; k < mm->k; k += TILE_COLS, x += TILE_WORDS) {
        for (uint32_t pair = 0; pair < 16; pair++, w += SC_CPU_PANEL) {
            __m512bh wv[COLS];
#pragma GCC unroll 4
            for (int i = 0; i < lines; i++, ahead += 64)
                _mm_prefetch(ahead, _MM_HINT_T0);
#pragma GCC unroll 8
            for (int c = 0; c < COLS; c++)
                wv[c] = (__m512bh)_mm512_loadu_si512(w + 16 * c);
#pragma GCC unroll 8
            for (int r = 0; r < mr; r++) {
                __m512bh xv = (__m512bh)_mm512_set1_epi32((int)x[16 * r + (int)pair]);
#pragma GCC unroll 8
                for (int c = 0; c < COLS; c++)
                    acc[r][c] = _mm512_dpbf16_ps(acc[r][c], wv[c], xv);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < COLS; c++) {
            __m512 sum = acc[r][c];
            if (mm->bias != NULL)
                sum = _mm512_add_ps(sum, _mm512_loadu_ps(mm->bias + 16 * c));
            _mm512_storeu_ps(y + r * ys + 16 * c, sum);
        }
    }
}

INLINE void mm_any_rows(uint32_t rows, const int lines, const uint8_t *ahead,
                        const struct sc_cpu_mm *mm, const uint32_t *x, float *y, size_t ys)
{
    switch (rows) {
#define CASE(m)                                                                                    \
    case m:                                                                                        \
        mm_rows(m, lines, ahead, mm, x, y, ys);                                                    \
        break;
        CASE(1)
        CASE(2)
        CASE(3) CASE(4) CASE(5) CASE(6)
#undef CASE
            default : break;
    }
}

/* Some of a block of up to 16 rows, in pieces of about the same size. */
static void mm_block(const struct sc_cpu_mm *mm, const uint32_t *x, float *y, size_t ys,
                     uint32_t rows)
{
    uint32_t pieces = (rows + ROWS - 1) / ROWS, done = 0;
    for (; pieces > 0; pieces--) {
        uint32_t n = (rows - done + pieces - 1) / pieces;
        mm_any_rows(n, 0, NULL, mm, x + 16 * done, y + done * ys, ys);
        done += n;
    }
}

/* The same for all rows there are: slice by slice. A slice is four lines a pair of inputs. */
static void mm_few(const struct sc_cpu_mm *mm, const uint32_t *x, float *y, size_t ys)
{
    const uint32_t pieces = (mm->rows + ROWS - 1) / ROWS;
    struct sc_cpu_mm slice = *mm;

    for (uint32_t k = 0; k < mm->k; k += SLICE_IN, x += SLICE_IN / TILE_COLS * TILE_WORDS) {
        uint32_t done = 0;
        slice.k = mm->k - k < SLICE_IN ? mm->k - k : SLICE_IN;
        slice.first = mm->first && k == 0;
        slice.bias = k + slice.k == mm->k ? mm->bias : NULL;
        for (uint32_t piece = 0; piece < pieces; piece++) {
            uint32_t n = (mm->rows - done + pieces - piece - 1) / (pieces - piece);
            const uint8_t *next = (const uint8_t *)slice.panel + SLICE_IN * SC_CPU_PANEL * 2;
            if (pieces == 1)
                mm_any_rows(n, 4, next, &slice, x, y, ys);
            else if (piece < 2)
                mm_any_rows(n, 2, next + piece * SLICE_IN * SC_CPU_PANEL, &slice, x + 16 * done,
                            y + done * ys, ys);
            else
                mm_any_rows(n, 0, NULL, &slice, x + 16 * done, y + done * ys, ys);
            done += n;
        }
        slice.panel = (const uint8_t *)slice.panel + SLICE_IN * SC_CPU_PANEL * 2;
    }
}

static void matmul_bf16(const struct sc_cpu_mm *mm)
{
    const uint32_t *x = (const uint32_t *)mm->x + mm->k0 / TILE_COLS * TILE_WORDS;
    float full[TILE_ROWS][SC_CPU_PANEL];

    for (uint32_t row = 0; row < mm->rows; row += TILE_ROWS, x += mm->x_stride) {
        uint32_t rows = mm->rows - row < TILE_ROWS ? mm->rows - row : TILE_ROWS;
        float *y = mm->y + row * mm->y_stride, *to = y;
        size_t ys = mm->y_stride;
        if (mm->cols < SC_CPU_PANEL) { /* the last panel: works on a full-width copy of y */
            memset(full, 0, sizeof(full));
            for (uint32_t r = 0; !mm->first && r < rows; r++)
                memcpy(full[r], y + r * ys, mm->cols * sizeof(float));
            to = full[0];
            ys = SC_CPU_PANEL;
        }
        if (mm->rows <= TILE_ROWS)
            mm_few(mm, x, to, ys);
        else
            mm_block(mm, x, to, ys, rows);
        for (uint32_t r = 0; to != y && r < rows; r++)
            memcpy(y + r * mm->y_stride, full[r], mm->cols * sizeof(float));
    }
}

/* Scores of nq queries of one tile, 32 entries. What is read next goes to the second-level cache
 * meanwhile, line for line: a page's K or V is too short for the hardware to see where it leads. */
INLINE void qk_rows(const int nq, const uint32_t *q, uint32_t head_dim, const uint8_t *k,
                    const float *bias, float *scores, const uint8_t *ahead)
{
    __m512 s[8][2];
#pragma GCC unroll 8
    for (int i = 0; i < nq; i++) {
        s[i][0] = _mm512_loadu_ps(bias);
        s[i][1] = _mm512_loadu_ps(bias + 16);
    }
    for (uint32_t d = 0; d < head_dim; d += TILE_COLS, q += TILE_WORDS) {
        uint32_t n_pairs = head_dim - d < TILE_COLS ? (head_dim - d) / 2 : TILE_COLS / 2;
        for (uint32_t pair = 0; pair < n_pairs; pair++, k += SC_PAGE_ENTRIES * 4) {
            __m512bh a = (__m512bh)_mm512_loadu_si512(k);
            __m512bh b = (__m512bh)_mm512_loadu_si512(k + 64);
            if (ahead != NULL) {
                _mm_prefetch(ahead, _MM_HINT_T1);
                _mm_prefetch(ahead + 64, _MM_HINT_T1);
                ahead += SC_PAGE_ENTRIES * 4;
            }
#pragma GCC unroll 8
            for (int i = 0; i < nq; i++) {
                __m512bh x = (__m512bh)_mm512_set1_epi32((int)q[16 * i + (int)pair]);
                s[i][0] = _mm512_dpbf16_ps(s[i][0], a, x);
                s[i][1] = _mm512_dpbf16_ps(s[i][1], b, x);
            }
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

static void qk_pages(uint32_t nq, const uint32_t *q, uint32_t head_dim, const uint8_t *const *pages,
                     uint32_t n, const float *bias, float *scores, const uint8_t *const *ahead)
{
    for (uint32_t p = 0; p < n; p++) {
        for (uint32_t i = 0; i < nq; i += 8) {
            const uint8_t *next = ahead != NULL && i == 0 ? ahead[p] : NULL;
            const uint32_t *from = q + i / TILE_ROWS * round_words(head_dim) + i % TILE_ROWS * 16;
            float *to = scores + i * SC_CPU_STRETCH + p * SC_PAGE_ENTRIES;
            switch (nq - i < 8 ? nq - i : 8) {
#define QK_CASE(m)                                                                                 \
    case m:                                                                                        \
        qk_rows(m, from, head_dim, pages[p], bias + p * SC_PAGE_ENTRIES, to, next);                \
        break;
                CASES_8(QK_CASE)
#undef QK_CASE
            default:
                break;
            }
        }
    }
}

/* nc vectors of dimensions of nq queries; v_skip: bytes from a page's V to the first of them. */
INLINE void pv_rows(const int nq, const int nc, const uint32_t *weights,
                    const uint8_t *const *pages, uint32_t n, uint32_t v_skip, uint32_t dim_pad,
                    float *o, uint32_t stride, const uint8_t *const *ahead)
{
    __m512 acc[4][4];
#pragma GCC unroll 4
    for (int i = 0; i < nq; i++) {
#pragma GCC unroll 4
        for (int c = 0; c < nc; c++)
            acc[i][c] = _mm512_loadu_ps(o + (uint32_t)i * stride + 16 * c);
    }
    for (uint32_t p = 0; p < n; p++, weights += TILE_WORDS) {
        const uint8_t *v = pages[p] + v_skip, *next = ahead != NULL ? ahead[p] + v_skip : NULL;
        for (uint32_t pair = 0; pair < 16; pair++, v += dim_pad * 4) {
            __m512bh x[4];
            if (ahead != NULL) {
#pragma GCC unroll 4
                for (int c = 0; c < nc; c++)
                    _mm_prefetch(next + 64 * c, _MM_HINT_T1);
                next += dim_pad * 4;
            }
#pragma GCC unroll 4
            for (int c = 0; c < nc; c++)
                x[c] = (__m512bh)_mm512_loadu_si512(v + 64 * c);
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

INLINE void pv_dims(const int nq, const uint32_t *weights, const uint8_t *const *pages, uint32_t n,
                    uint32_t dim_pad, float *o, uint32_t stride, const uint8_t *const *ahead)
{
    uint32_t d = 0;
    for (; d + 64 <= dim_pad; d += 64)
        pv_rows(nq, 4, weights, pages, n, d * 4, dim_pad, o + d, stride, ahead);
    for (; d < dim_pad; d += 16)
        pv_rows(nq, 1, weights, pages, n, d * 4, dim_pad, o + d, stride, ahead);
}

static void pv_pages(uint32_t nq, const uint32_t *weights, const uint8_t *const *pages, uint32_t n,
                     uint32_t dim_pad, float *o, uint32_t stride, const uint8_t *const *ahead)
{
    for (uint32_t i = 0; i < nq; i += 4) {
        const uint32_t *from =
            weights + i / TILE_ROWS * SC_CPU_STRETCH_PAGES * TILE_WORDS + i % TILE_ROWS * 16;
        switch (nq - i < 4 ? nq - i : 4) {
#define PV_CASE(m)                                                                                 \
    case m:                                                                                        \
        pv_dims(m, from, pages, n, dim_pad, o + i * stride, stride, i == 0 ? ahead : NULL);        \
        break;
            CASES_4(PV_CASE)
#undef PV_CASE
        default:
            break;
        }
    }
}

static void at_begin(uint32_t rows)
{
    (void)rows;
}

#include "cpu/attention_bf16_impl.h"

void sc_cpu_kernels_avx512bf16(struct sc_cpu_kernels *kernels)
{
    kernels->matmul_bf16 = matmul_bf16;
    kernels->widen_i8 = widen_i8;
    kernels->round_rows = round_rows;
    kernels->round_words = round_words;
    kernels->attention_bf16 = attend_spans;
    kernels->combine_bf16 = state_combine;
}
