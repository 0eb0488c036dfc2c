/* cpu/kernels_amxint8.c - int8 times int8 with the matrix unit: 16 x 64 by 64 x 16 in one
 * instruction, which is one group of the activations.
 *
 * A group's sums are whole numbers; they leave the tiles, and the vector unit adds them up in f32
 * as kernels_avx512vnni.c does: the same bits. Up to FEW rows take that file's kernel, which is as
 * fast as memory. */
#include "cpu/kernels.h"
#define SC_SIMD_AVX512
#include "cpu/simd.h"

#include "cpu/bf16_impl.h"

#include "cpu/amx_impl.h"
#include "cpu/int8_impl.h"

#define FEW       3u
#define MOST_ROWS (2 * I8_ROWS)
#define W_GROUP   (I8_STEPS * SC_CPU_PANEL) /* words of a panel in one group */
/* Words of a panel that a block of rows asks for before it uses them. */
#define GROUP_AHEAD (4 * W_GROUP)

/* Sums over one group, rows of 64: those of the first sixteen rows, then those of the others. */
INLINE void group_sums(const bool two, const bool few, const uint32_t *x, const uint32_t *x2,
                       const uint32_t *w, int32_t sums[MOST_ROWS][SC_CPU_PANEL])
{
    for (uint32_t line = 0; few && line < W_GROUP / 16; line++)
        _mm_prefetch(w + GROUP_AHEAD + 16 * line, _MM_HINT_T1);
    _tile_loadd(4, x, I8_GROUP);
    if (two)
        _tile_loadd(5, x2, I8_GROUP);
#pragma GCC unroll 2
    for (uint32_t c = 0; c < SC_CPU_PANEL; c += 32) {
        zero_sums();
        _tile_loadd(6, w + c, W_ROW);
        _tile_loadd(7, w + c + 16, W_ROW);
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        if (two) {
            _tile_dpbsud(2, 5, 6);
            _tile_dpbsud(3, 5, 7);
        }
        _tile_stored(0, &sums[0][c], W_ROW);
        _tile_stored(1, &sums[0][c + 16], W_ROW);
        if (two) {
            _tile_stored(2, &sums[I8_ROWS][c], W_ROW);
            _tile_stored(3, &sums[I8_ROWS][c + 16], W_ROW);
        }
    }
}

/* total += (sums + offset) scale, n rows. */
INLINE void add_group(uint32_t n, int32_t (*sums)[SC_CPU_PANEL], const float *scale,
                      const int32_t *offset, float (*total)[SC_CPU_PANEL])
{
    for (uint32_t r = 0; r < n; r++) {
        const __m512i less = _mm512_set1_epi32(offset[r]);
        const __m512 factor = _mm512_set1_ps(scale[r]);
#pragma GCC unroll 4
        for (uint32_t c = 0; c < SC_CPU_PANEL; c += 16) {
            const __m512i sum = _mm512_add_epi32(_mm512_load_si512(&sums[r][c]), less);
            _mm512_store_ps(&total[r][c], _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor,
                                                          _mm512_load_ps(&total[r][c])));
        }
    }
}

/* n rows of one block, or of two: `two`. */
INLINE void mm_rows(const bool two, const struct sc_cpu_mm *mm, const uint32_t *block, uint32_t n,
                    float (*total)[SC_CPU_PANEL])
{
    _Alignas(64) int32_t sums[2][MOST_ROWS][SC_CPU_PANEL];
    struct i8_rows a = i8_rows_at(mm, block), b = a;
    const uint32_t first = n < I8_ROWS ? n : I8_ROWS;
    const uint32_t *w = mm->panel;

    if (two)
        b = i8_rows_at(mm, block + mm->x_stride);
    tiles_open(first, n - first, false, TILE_COLS);
    /* The sums of one group are added while the next group's are made. */
    for (uint32_t k = 0, turn = 0; k < mm->k + I8_GROUP; k += I8_GROUP, turn ^= 1) {
        if (k < mm->k)
            group_sums(two, n <= I8_ROWS, a.x + k / I8_GROUP * I8_TILE_WORDS,
                       b.x + k / I8_GROUP * I8_TILE_WORDS, w, sums[turn]);
        w += W_GROUP;
        if (k == 0)
            continue;
        add_group(first, sums[turn ^ 1], a.scale, a.offset, total);
        if (two)
            add_group(n - first, sums[turn ^ 1] + I8_ROWS, b.scale, b.offset, total + I8_ROWS);
        a.scale += I8_ROWS;
        a.offset += I8_ROWS;
        b.scale += I8_ROWS;
        b.offset += I8_ROWS;
    }
    _tile_release();
}

INLINE void load_row(const struct sc_cpu_mm *mm, const float *y, float *total)
{
    for (uint32_t c = 0; c < SC_CPU_PANEL; c += 16) {
        const uint32_t left = mm->cols > c ? mm->cols - c : 0;
        v_store(total + c, mm->first ? v_zero() : v_loadn(y + c, left < 16 ? left : 16));
    }
}

INLINE void store_row(const struct sc_cpu_mm *mm, const float *total, float *y)
{
    for (uint32_t c = 0; c < mm->cols; c += 16) {
        const uint32_t left = mm->cols - c;
        vf out = v_load(total + c);
        if (mm->scale != NULL)
            out = v_mul(out, v_load(mm->scale + c));
        if (mm->bias != NULL)
            out = v_add(out, v_load(mm->bias + c));
        v_storen(y + c, out, left < 16 ? left : 16);
    }
}

static void matmul_i8(const struct sc_cpu_mm *mm)
{
    _Alignas(64) float total[MOST_ROWS][SC_CPU_PANEL];
    const uint32_t *block = mm->x;

    if (mm->rows <= FEW) {
        sc_cpu_matmul_vnni(mm);
        return;
    }
    for (uint32_t row = 0; row < mm->rows; row += MOST_ROWS, block += 2 * mm->x_stride) {
        const uint32_t n = mm->rows - row < MOST_ROWS ? mm->rows - row : MOST_ROWS;
        float *y = mm->y + row * mm->y_stride;
        for (uint32_t r = 0; r < n; r++)
            load_row(mm, y + r * mm->y_stride, total[r]);
        if (n > I8_ROWS)
            mm_rows(true, mm, block, n, total);
        else
            mm_rows(false, mm, block, n, total);
        for (uint32_t r = 0; r < n; r++)
            store_row(mm, total[r], y + r * mm->y_stride);
    }
}

void sc_cpu_kernels_amxint8(struct sc_cpu_kernels *kernels)
{
    kernels->matmul_i8 = matmul_i8;
    kernels->i8_round_rows = i8_round_rows;
    kernels->i8_words = i8_words;
}
