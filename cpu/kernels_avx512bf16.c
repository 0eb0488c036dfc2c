/* cpu/kernels_avx512bf16.c - bf16 weights times activations rounded to bf16, two products a lane.
 *
 * The same tile and order as matmul_impl.h, with pairs of k in place of single ones. Not exact: see
 * cpu/cpu.h for what it costs and gives. */
#include "cpu/kernels.h"

#include <immintrin.h>

#define ROWS 6
#define COLS 4

#define INLINE static inline __attribute__((always_inline))

INLINE void tile(const int mr, const struct sc_cpu_mm *mm, const uint32_t *x, float *y, size_t ys)
{
    const uint32_t *w = mm->panel;
    uint32_t n_pairs = (mm->k + 1) / 2;
    __m512 acc[ROWS][COLS];

#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < COLS; c++)
            acc[r][c] = mm->first ? _mm512_setzero_ps() : _mm512_loadu_ps(y + r * ys + 16 * c);
    }
    for (uint32_t k = 0; k < n_pairs; k++) {
        __m512bh wv[COLS];
#pragma GCC unroll 8
        for (int c = 0; c < COLS; c++)
            wv[c] = (__m512bh)_mm512_loadu_si512(w + (size_t)k * SC_CPU_PANEL + 16 * c);
#pragma GCC unroll 8
        for (int r = 0; r < mr; r++) {
            __m512bh xv = (__m512bh)_mm512_set1_epi32((int)x[(size_t)r * mm->x_stride + k]);
#pragma GCC unroll 8
            for (int c = 0; c < COLS; c++)
                acc[r][c] = _mm512_dpbf16_ps(acc[r][c], wv[c], xv);
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

static void any_rows(uint32_t rows, const struct sc_cpu_mm *mm, const uint32_t *x, float *y,
                     size_t ys)
{
    switch (rows) {
    case 1:
        tile(1, mm, x, y, ys);
        break;
    case 2:
        tile(2, mm, x, y, ys);
        break;
    case 3:
        tile(3, mm, x, y, ys);
        break;
    case 4:
        tile(4, mm, x, y, ys);
        break;
    case 5:
        tile(5, mm, x, y, ys);
        break;
    case 6:
        tile(6, mm, x, y, ys);
        break;
    default:
        break;
    }
}

void sc_cpu_matmul_avx512bf16(const struct sc_cpu_mm *mm)
{
    for (uint32_t row = 0; row < mm->rows; row += ROWS) {
        uint32_t rows = mm->rows - row < ROWS ? mm->rows - row : ROWS;
        const uint32_t *x = (const uint32_t *)mm->x + row * mm->x_stride;
        float *y = mm->y + row * mm->y_stride;
        float full[ROWS][SC_CPU_PANEL];
        if (mm->cols == SC_CPU_PANEL) {
            any_rows(rows, mm, x, y, mm->y_stride);
            continue;
        }
        memset(full, 0, sizeof(full));
        for (uint32_t r = 0; !mm->first && r < rows; r++)
            memcpy(full[r], y + r * mm->y_stride, mm->cols * sizeof(float));
        any_rows(rows, mm, x, full[0], SC_CPU_PANEL);
        for (uint32_t r = 0; r < rows; r++)
            memcpy(y + r * mm->y_stride, full[r], mm->cols * sizeof(float));
    }
}

void sc_cpu_round_row_avx512bf16(const float *x, uint32_t n_in, uint32_t *pairs)
{
    uint16_t *out = (uint16_t *)(void *)pairs;
    uint32_t i = 0;
    for (; i + 16 <= n_in; i += 16)
        _mm256_storeu_si256((__m256i *)(void *)(out + i),
                            (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
    if (i < n_in) {
        __mmask16 rest = (__mmask16)((1u << (n_in - i)) - 1u);
        __m256i last = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(rest, x + i));
        _mm256_mask_storeu_epi16(out + i, (__mmask16)((1u << ((n_in - i + 1) / 2 * 2)) - 1u), last);
    }
}
