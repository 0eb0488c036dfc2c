/* cpu/kernels_avx512pack.c - few rows times packed weights, which become bf16 in registers.
 *
 * The same sums as matmul_bf16 of kernels_avx512bf16.c in the same order, and so the same bits. */
#include "cpu/packed.h"
#define SC_SIMD_AVX512
#include "cpu/simd.h"

#include "cpu/bf16_impl.h"
#include "cpu/packed_impl.h"

#define WHOLE_ROWS 4 /* of a register tile of 64 outputs */
#define HALF_ROWS  8 /* of 32 outputs */
/* Inputs after which the other 32 outputs have their turn: what both use stays in the first-level
 * cache. */
#define SLICE_IN 64u

struct piece {
    const uint8_t *from; /* packed rows */
    const struct sc_cpu_rare *rare;
    uint32_t row0, n_rows; /* of the panel; n_rows is a multiple of 16 */
    const uint32_t *x;     /* tiles, from the first of the rows on */
    float *y;              /* at the first output */
    size_t ys;
    const float *bias; /* added at the end, or NULL */
    bool first;
};

/* Puts a rare weight in its place; at: of 128, of which w has those from `first` on. */
INLINE void put_rare(__m512i *w, const int n, uint32_t first, uint32_t at, uint16_t bits)
{
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        const uint32_t own = at - first - 32 * (uint32_t)i;
        w[i] = _mm512_mask_set1_epi16(w[i], own < 32 ? 1u << own : 0, (short)bits);
    }
}

/* mr rows times 32 * halves outputs, the first of them those of half0. */
INLINE void mm_rows(const int mr, const int halves, const int half0, const struct tables *t,
                    const struct piece *p)
{
    __m512 acc[HALF_ROWS][2 * 2];
    const struct sc_cpu_rare *rare = p->rare;
    const uint8_t *from = p->from;
    const uint32_t *x = p->x;
    float *y = p->y + 32 * half0;
    uint32_t row = p->row0;

#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) {
#pragma GCC unroll 4
        for (int c = 0; c < 2 * halves; c++)
            acc[r][c] = p->first ? _mm512_setzero_ps() : _mm512_loadu_ps(y + r * p->ys + 16 * c);
    }
    for (uint32_t end = row + p->n_rows; row < end; x += TILE_WORDS - 16) {
        for (uint32_t pair = 0; pair < 16; pair++, row++, x++, from += SC_CPU_PACKED_ROW) {
            __m512i w[4];
            unpack_row(halves, half0, t, from, w);
            for (; __builtin_expect(rare->at / SC_CPU_ROW == row, 0); rare++)
                put_rare(w, 2 * halves, 64 * (uint32_t)half0, rare->at % SC_CPU_ROW, rare->bits);
#pragma GCC unroll 8
            for (int r = 0; r < mr; r++) {
                const __m512bh xv = (__m512bh)_mm512_set1_epi32((int)x[16 * r]);
#pragma GCC unroll 4
                for (int c = 0; c < 2 * halves; c++)
                    acc[r][c] = _mm512_dpbf16_ps(acc[r][c], (__m512bh)w[c], xv);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) {
#pragma GCC unroll 4
        for (int c = 0; c < 2 * halves; c++) {
            __m512 sum = acc[r][c];
            if (p->bias != NULL)
                sum = _mm512_add_ps(sum, _mm512_loadu_ps(p->bias + 32 * half0 + 16 * c));
            _mm512_storeu_ps(y + r * p->ys + 16 * c, sum);
        }
    }
}

static void mm_whole(uint32_t rows, const struct tables *t, const struct piece *p)
{
    switch (rows) {
#define CASE(m)                                                                                    \
    case m:                                                                                        \
        mm_rows(m, 2, 0, t, p);                                                                    \
        break;
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
#undef CASE
    default:
        break;
    }
}

INLINE void mm_half(const int half, uint32_t rows, const struct tables *t, const struct piece *p)
{
    switch (rows) {
#define CASE(m)                                                                                    \
    case m:                                                                                        \
        mm_rows(m, 1, half, t, p);                                                                 \
        break;
        CASE(4)
        CASE(5)
        CASE(6)
        CASE(7)
        CASE(8)
#undef CASE
    default:
        break;
    }
}

/* Five rows and more, slice after slice, in one piece or two of about the same size. */
static void mm_slices(uint32_t rows, const struct tables *t, const struct piece *all)
{
    const uint32_t first = rows <= HALF_ROWS ? rows : (rows + 1) / 2;
    struct piece p = *all;

    for (; p.row0 < all->n_rows; p.row0 += p.n_rows) {
        const uint32_t left = all->n_rows - p.row0;
        p.n_rows = left < SLICE_IN / 2 ? left : SLICE_IN / 2;
        p.first = p.row0 == 0;
        p.bias = p.n_rows == left ? all->bias : NULL;
        mm_half(0, first, t, &p);
        mm_half(1, first, t, &p);
        if (first < rows) {
            struct piece second = p;
            second.x += 16 * first;
            second.y += first * p.ys;
            mm_half(0, rows - first, t, &second);
            mm_half(1, rows - first, t, &second);
        }
        p.from += p.n_rows * SC_CPU_PACKED_ROW;
        p.x += p.n_rows / 16 * TILE_WORDS;
        while (p.rare->at / SC_CPU_ROW < p.row0 + p.n_rows)
            p.rare++;
    }
}

static void matmul_few_packed(const struct sc_cpu_mm *mm)
{
    const struct tables t = tables_of(mm->exponents);
    float full[SC_CPU_ROUND_ROWS][SC_CPU_PANEL];
    const bool narrow = mm->cols < SC_CPU_PANEL; /* the last panel: into memory of its own */
    const struct piece p = {
        .from = mm->panel,
        .rare = mm->rare,
        .n_rows = (mm->k + TILE_COLS - 1) / TILE_COLS * (TILE_COLS / 2),
        .x = mm->x,
        .y = narrow ? full[0] : mm->y,
        .ys = narrow ? SC_CPU_PANEL : mm->y_stride,
        .bias = mm->bias,
        .first = true,
    };

    if (mm->rows <= WHOLE_ROWS)
        mm_whole(mm->rows, &t, &p);
    else
        mm_slices(mm->rows, &t, &p);
    for (uint32_t r = 0; narrow && r < mm->rows; r++)
        memcpy(mm->y + r * mm->y_stride, full[r], mm->cols * sizeof(float));
}

void sc_cpu_kernels_avx512pack(struct sc_cpu_kernels *kernels)
{
    kernels->matmul_few_packed = matmul_few_packed;
}
