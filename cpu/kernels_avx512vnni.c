/* cpu/kernels_avx512vnni.c - int8 times int8 with the AVX-512 dot product, four products a lane. */
#include "cpu/kernels.h"
#define SC_SIMD_AVX512
#include "cpu/simd.h"

#include "cpu/int8_impl.h"

/* Register tiles, sums of a group and of all groups both in registers: up to FEW rows take the
 * panel in one go, front to back; more rows take half of it at a time. */
#define FEW  3u
#define ROWS 6
#define COLS 4
/* Bytes of a panel that FEW rows ask for before they use them. */
#define FEW_AHEAD 8192u
/* Up to a block of rows reads every weight once, from memory, and goes through a panel in slices of
 * so many inputs: one lies in the first-level cache and is used by all pieces of the block, which
 * ask for the next one meanwhile. */
#define SLICE_IN 256u

/* mr rows of a block, from row r0 on, nc vectors of outputs from c0 on. `lines` of `ahead` are
 * asked for with every four inputs. */
INLINE void mm_rows(const int mr, const int nc, const int lines, const uint8_t *ahead,
                    const struct sc_cpu_mm *mm, struct i8_rows rows, const uint32_t r0,
                    const uint32_t c0, float *y, size_t ys)
{
    const uint32_t *w = (const uint32_t *)mm->panel + c0;
    __m512 acc[ROWS][COLS];

#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) {
#pragma GCC unroll 4
        for (int c = 0; c < nc; c++)
            acc[r][c] =
                mm->first ? _mm512_setzero_ps() : _mm512_loadu_ps(y + (size_t)r * ys + c0 + 16 * c);
    }
    rows.x += r0 * I8_STEPS;
    rows.scale += r0;
    rows.offset += r0;
    for (uint32_t k = 0; k < mm->k; k += I8_GROUP) {
        __m512i sum[ROWS][COLS];
#pragma GCC unroll 8
        for (int r = 0; r < mr; r++) {
#pragma GCC unroll 4
            for (int c = 0; c < nc; c++)
                sum[r][c] = _mm512_set1_epi32(rows.offset[r]);
        }
#pragma GCC unroll 2
        for (uint32_t s = 0; s < I8_STEPS; s++, w += SC_CPU_PANEL) {
            __m512i wv[COLS];
#pragma GCC unroll 4
            for (int i = 0; i < lines; i++, ahead += 64)
                _mm_prefetch(ahead, lines == COLS ? _MM_HINT_T1 : _MM_HINT_T0);
#pragma GCC unroll 4
            for (int c = 0; c < nc; c++)
                wv[c] = _mm512_loadu_si512(w + 16 * c);
#pragma GCC unroll 8
            for (int r = 0; r < mr; r++) {
                __m512i xv = _mm512_set1_epi32((int)rows.x[(uint32_t)r * I8_STEPS + s]);
#pragma GCC unroll 4
                for (int c = 0; c < nc; c++)
                    sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], wv[c], xv);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < mr; r++) {
            __m512 scale = _mm512_set1_ps(rows.scale[r]);
#pragma GCC unroll 4
            for (int c = 0; c < nc; c++)
                acc[r][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][c]), scale, acc[r][c]);
        }
        rows.x += I8_TILE_WORDS;
        rows.scale += I8_ROWS;
        rows.offset += I8_ROWS;
    }
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) {
#pragma GCC unroll 4
        for (int c = 0; c < nc; c++) {
            uint32_t at = c0 + 16 * (uint32_t)c;
            __m512 out = acc[r][c];
            if (mm->scale != NULL)
                out = _mm512_mul_ps(out, _mm512_loadu_ps(mm->scale + at));
            if (mm->bias != NULL)
                out = _mm512_add_ps(out, _mm512_loadu_ps(mm->bias + at));
            _mm512_storeu_ps(y + (size_t)r * ys + at, out);
        }
    }
}

/* ahead: what both halves together ask for. */
INLINE void mm_any_rows(uint32_t n, const int lines, const uint8_t *ahead,
                        const struct sc_cpu_mm *mm, struct i8_rows rows, uint32_t r0, float *y,
                        size_t ys)
{
    const uint8_t *second = ahead + (size_t)lines * 64 * SLICE_IN / 4;
    switch (n) {
#define FEW_CASE(m)                                                                                \
    case m:                                                                                        \
        mm_rows(m, COLS, COLS, (const uint8_t *)mm->panel + FEW_AHEAD, mm, rows, r0, 0, y, ys);    \
        break;
#define CASE(m)                                                                                    \
    case m:                                                                                        \
        mm_rows(m, COLS / 2, lines, ahead, mm, rows, r0, 0, y, ys);                                \
        mm_rows(m, COLS / 2, lines, second, mm, rows, r0, 16 * COLS / 2, y, ys);                   \
        break;
        FEW_CASE(1)
        FEW_CASE(2)
        FEW_CASE(3) CASE(4) CASE(5) CASE(6)
#undef CASE
#undef FEW_CASE
            default : break;
    }
}

/* A block of up to 16 rows, in pieces of about the same size. */
static void mm_block(const struct sc_cpu_mm *mm, struct i8_rows rows, float *y, size_t ys,
                     uint32_t n)
{
    uint32_t pieces = (n + ROWS - 1) / ROWS, done = 0;
    for (; pieces > 0; pieces--) {
        uint32_t piece = (n - done + pieces - 1) / pieces;
        mm_any_rows(piece, 0, NULL, mm, rows, done, y + done * ys, ys);
        done += piece;
    }
}

/* The same for all rows there are: slice by slice. A slice is four lines every four inputs. */
static void mm_few(const struct sc_cpu_mm *mm, struct i8_rows rows, float *y, size_t ys)
{
    const uint32_t pieces = (mm->rows + ROWS - 1) / ROWS;
    struct sc_cpu_mm slice = *mm;

    for (uint32_t k = 0; k < mm->k; k += SLICE_IN) {
        const uint8_t *next = (const uint8_t *)slice.panel + SLICE_IN * SC_CPU_PANEL;
        uint32_t done = 0;
        bool last = mm->k - k <= SLICE_IN;
        slice.k = last ? mm->k - k : SLICE_IN;
        slice.first = mm->first && k == 0;
        slice.scale = last ? mm->scale : NULL;
        slice.bias = last ? mm->bias : NULL;
        for (uint32_t piece = 0; piece < pieces; piece++) {
            uint32_t n = (mm->rows - done + pieces - piece - 1) / (pieces - piece);
            if (pieces == 1)
                mm_any_rows(n, 2, next, &slice, rows, 0, y, ys);
            else if (piece < 2)
                mm_any_rows(n, 1, next + piece * SLICE_IN * SC_CPU_PANEL / 2, &slice, rows, done,
                            y + done * ys, ys);
            else
                mm_any_rows(n, 0, NULL, &slice, rows, done, y + done * ys, ys);
            done += n;
        }
        slice.panel = next;
        rows.x += SLICE_IN / I8_GROUP * I8_TILE_WORDS;
        rows.scale += SLICE_IN / I8_GROUP * I8_ROWS;
        rows.offset += SLICE_IN / I8_GROUP * I8_ROWS;
    }
}

void sc_cpu_matmul_vnni(const struct sc_cpu_mm *mm)
{
    const uint32_t *block = mm->x;
    float full[I8_ROWS][SC_CPU_PANEL];

    for (uint32_t row = 0; row < mm->rows; row += I8_ROWS, block += mm->x_stride) {
        uint32_t n = mm->rows - row < I8_ROWS ? mm->rows - row : I8_ROWS;
        struct i8_rows rows = i8_rows_at(mm, block);
        float *y = mm->y + row * mm->y_stride, *to = y;
        size_t ys = mm->y_stride;
        if (mm->cols < SC_CPU_PANEL) { /* the last panel: works on a full-width copy of y */
            memset(full, 0, sizeof(full));
            for (uint32_t r = 0; !mm->first && r < n; r++)
                memcpy(full[r], y + r * ys, mm->cols * sizeof(float));
            to = full[0];
            ys = SC_CPU_PANEL;
        }
        if (mm->rows > FEW && mm->rows <= I8_ROWS)
            mm_few(mm, rows, to, ys);
        else
            mm_block(mm, rows, to, ys, n);
        for (uint32_t r = 0; to != y && r < n; r++)
            memcpy(y + r * mm->y_stride, full[r], mm->cols * sizeof(float));
    }
}

void sc_cpu_kernels_avx512vnni(struct sc_cpu_kernels *kernels)
{
    kernels->matmul_i8 = sc_cpu_matmul_vnni;
    kernels->i8_round_rows = i8_round_rows;
    kernels->i8_words = i8_words;
}
