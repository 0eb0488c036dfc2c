/* cpu/kernels_avx512vnni.c - int8 times int8 with the AVX-512 dot product, four products a lane. */
#include "cpu/kernels.h"
#define SC_SIMD_AVX512
#include "cpu/simd.h"

#include "cpu/int8_impl.h"

/* Register tiles, sums of a group and of all groups both in registers: up to three rows take the
 * panel in one go, front to back; more rows take half of it at a time. */
#define ROWS 6
#define COLS 4

/* mr rows of a block, from row r0 on, nc vectors of outputs, w and y at the first of them. */
INLINE void mm_rows(const int mr, const int nc, const struct sc_cpu_mm *mm, struct i8_rows rows,
                    const uint32_t r0, const uint32_t c0, float *y, size_t ys)
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

static void mm_any_rows(uint32_t n, const struct sc_cpu_mm *mm, struct i8_rows rows, uint32_t r0,
                        float *y, size_t ys)
{
    switch (n) {
#define FEW_CASE(m)                                                                                \
    case m:                                                                                        \
        mm_rows(m, COLS, mm, rows, r0, 0, y, ys);                                                  \
        break;
#define CASE(m)                                                                                    \
    case m:                                                                                        \
        mm_rows(m, COLS / 2, mm, rows, r0, 0, y, ys);                                              \
        mm_rows(m, COLS / 2, mm, rows, r0, 16 * COLS / 2, y, ys);                                  \
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
        mm_any_rows(piece, mm, rows, done, y + done * ys, ys);
        done += piece;
    }
}

/* The last panel may have fewer than 64 valid outputs: it works on a full-width copy of y. */
static void mm_narrow(const struct sc_cpu_mm *mm, struct i8_rows rows, float *y, uint32_t n)
{
    float full[I8_ROWS][SC_CPU_PANEL];
    memset(full, 0, sizeof(full));
    for (uint32_t r = 0; !mm->first && r < n; r++)
        memcpy(full[r], y + r * mm->y_stride, mm->cols * sizeof(float));
    mm_block(mm, rows, full[0], SC_CPU_PANEL, n);
    for (uint32_t r = 0; r < n; r++)
        memcpy(y + r * mm->y_stride, full[r], mm->cols * sizeof(float));
}

static void matmul_i8(const struct sc_cpu_mm *mm)
{
    const uint32_t *block = mm->x;
    for (uint32_t row = 0; row < mm->rows; row += I8_ROWS, block += mm->x_stride) {
        uint32_t n = mm->rows - row < I8_ROWS ? mm->rows - row : I8_ROWS;
        struct i8_rows rows = i8_rows_at(mm, block);
        float *y = mm->y + row * mm->y_stride;
        if (mm->cols == SC_CPU_PANEL)
            mm_block(mm, rows, y, mm->y_stride, n);
        else
            mm_narrow(mm, rows, y, n);
    }
}

void sc_cpu_kernels_avx512vnni(struct sc_cpu_kernels *kernels)
{
    kernels->matmul_i8 = matmul_i8;
    kernels->i8_round_rows = i8_round_rows;
    kernels->i8_words = i8_words;
}
