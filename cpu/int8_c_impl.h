/* cpu/int8_c_impl.h - int8 times int8 in plain C, included by the kernels_*.c without an
 * instruction for it: the reference, and what runs where math = int8 is asked of an old machine.
 * Private to cpu/. */
#include "cpu/int8_impl.h"

/* One row, 16 outputs; w at the first of them. */
INLINE vf i8_row_16(const struct sc_cpu_mm *mm, struct i8_rows rows, uint32_t r, const uint8_t *w,
                    vf acc)
{
    for (uint32_t k = 0, g = 0; k < mm->k; k += I8_GROUP, g++) {
        const int8_t *x = (const int8_t *)(rows.x + g * I8_TILE_WORDS) + r * I8_GROUP;
        int32_t sums[16];
        float wide[16];
        for (int c = 0; c < 16; c++)
            sums[c] = rows.offset[g * I8_ROWS + r];
        for (uint32_t s = 0; s < I8_STEPS; s++, w += SC_CPU_PANEL * 4, x += 4) {
            for (int c = 0; c < 16; c++)
                sums[c] += w[4 * c] * x[0] + w[4 * c + 1] * x[1] + w[4 * c + 2] * x[2] +
                           w[4 * c + 3] * x[3];
        }
        for (int c = 0; c < 16; c++)
            wide[c] = (float)sums[c];
        acc = v_fma(v_load(wide), v_set1(rows.scale[g * I8_ROWS + r]), acc);
    }
    return acc;
}

static void matmul_i8(const struct sc_cpu_mm *mm)
{
    const uint32_t *block = mm->x;
    for (uint32_t r = 0; r < mm->rows; r++) {
        struct i8_rows rows = i8_rows_at(mm, block + r / I8_ROWS * mm->x_stride);
        float *y = mm->y + r * mm->y_stride;
        for (uint32_t c = 0; c < mm->cols; c += 16) {
            uint32_t n = mm->cols - c < 16 ? mm->cols - c : 16;
            vf acc = mm->first ? v_zero() : v_loadn(y + c, n);
            acc = i8_row_16(mm, rows, r % I8_ROWS, (const uint8_t *)mm->panel + 4 * c, acc);
            if (mm->scale != NULL)
                acc = v_mul(acc, v_load(mm->scale + c));
            if (mm->bias != NULL)
                acc = v_add(acc, v_load(mm->bias + c));
            v_storen(y + c, acc, n);
        }
    }
}
