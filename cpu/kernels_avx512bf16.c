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

#include "cpu/attention_dot_impl.h"
#define SETTLE_PAGES(i8) ((i8) ? SC_CPU_STRETCH_PAGES : 1u)
#define SC_FEW_BY_PAGE
#include "cpu/attention_bf16_impl.h"
#include "cpu/attention_few_impl.h"

void sc_cpu_kernels_avx512bf16(struct sc_cpu_kernels *kernels)
{
    kernels->matmul_bf16 = matmul_bf16;
    kernels->widen_i8 = widen_i8;
    kernels->round_rows = round_rows;
    kernels->round_words = round_words;
    kernels->attention_bf16 = attend_spans;
    kernels->attention_i8 = attend_spans;
    kernels->combine_bf16 = state_combine;
    kernels->combine_i8 = state_combine;
}
