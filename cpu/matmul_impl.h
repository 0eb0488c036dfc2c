/* cpu/matmul_impl.h - rows x 64 outputs, included by each kernels_*.c. Private to cpu/.
 *
 * One accumulator per output takes its products in rising order of k, whatever the number of rows,
 * and passes through y between slices of k: so a row's bits do not depend on the rows beside it. */

/* One tile: mr rows x MM_COLS vectors; w at its first column. */
INLINE void mm_tile_f32(const int mr, const float *w, const float *x, size_t xs, uint32_t n_k,
                        vf acc[MM_ROWS][MM_COLS])
{
    for (uint32_t k = 0; k < n_k; k++) {
        vf wv[MM_COLS];
#pragma GCC unroll 8
        for (int c = 0; c < MM_COLS; c++)
            wv[c] = v_load(w + (size_t)k * SC_CPU_PANEL + 16 * c);
#pragma GCC unroll 8
        for (int r = 0; r < mr; r++) {
            vf xv = v_set1(x[(size_t)r * xs + k]);
#pragma GCC unroll 8
            for (int c = 0; c < MM_COLS; c++)
                acc[r][c] = v_fma(wv[c], xv, acc[r][c]);
        }
    }
}

INLINE void mm_step_bf16(const int mr, const vf *wv, const float *x, size_t xs,
                         vf acc[MM_ROWS][MM_COLS])
{
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) {
        vf xv = v_set1(x[(size_t)r * xs]);
#pragma GCC unroll 8
        for (int c = 0; c < MM_COLS; c++)
            acc[r][c] = v_fma(wv[c], xv, acc[r][c]);
    }
}

INLINE void mm_tile_bf16(const int mr, const uint16_t *w, const float *x, size_t xs, uint32_t n_k,
                         vf acc[MM_ROWS][MM_COLS])
{
    vf wv[MM_COLS];
    for (uint32_t k = 0; k + 1 < n_k; k += 2) {
#pragma GCC unroll 8
        for (int c = 0; c < MM_COLS; c++)
            wv[c] = v_low(w + (size_t)k * SC_CPU_PANEL + 32 * c);
        mm_step_bf16(mr, wv, x + k, xs, acc);
#pragma GCC unroll 8
        for (int c = 0; c < MM_COLS; c++)
            wv[c] = v_high(w + (size_t)k * SC_CPU_PANEL + 32 * c);
        mm_step_bf16(mr, wv, x + k + 1, xs, acc);
    }
    if (n_k % 2 != 0) {
#pragma GCC unroll 8
        for (int c = 0; c < MM_COLS; c++)
            wv[c] = v_low(w + (size_t)(n_k - 1) * SC_CPU_PANEL + 32 * c);
        mm_step_bf16(mr, wv, x + n_k - 1, xs, acc);
    }
}

/* mr rows; y holds 64 columns a row. */
INLINE void mm_rows(const int mr, const bool bf16, const struct sc_cpu_mm *mm, const float *x,
                    float *y, size_t ys)
{
    for (uint32_t col = 0; col < SC_CPU_PANEL; col += 16 * MM_COLS) {
        vf acc[MM_ROWS][MM_COLS];
#pragma GCC unroll 8
        for (int r = 0; r < mr; r++) {
#pragma GCC unroll 8
            for (int c = 0; c < MM_COLS; c++)
                acc[r][c] = mm->first ? v_zero() : v_load(y + r * ys + col + 16 * c);
        }
        if (bf16)
            mm_tile_bf16(mr, (const uint16_t *)mm->panel + 2 * col, x, mm->x_stride, mm->k, acc);
        else
            mm_tile_f32(mr, (const float *)mm->panel + col, x, mm->x_stride, mm->k, acc);
#pragma GCC unroll 8
        for (int r = 0; r < mr; r++) {
#pragma GCC unroll 8
            for (int c = 0; c < MM_COLS; c++) {
                vf sum = acc[r][c];
                if (mm->bias != NULL)
                    sum = v_add(sum, v_load(mm->bias + col + 16 * c));
                v_store(y + r * ys + col + 16 * c, sum);
            }
        }
    }
}

INLINE void mm_any_rows(uint32_t rows, const bool bf16, const struct sc_cpu_mm *mm, const float *x,
                        float *y, size_t ys)
{
    switch (rows) {
    case 1:
        mm_rows(1, bf16, mm, x, y, ys);
        break;
    case 2:
        mm_rows(2, bf16, mm, x, y, ys);
        break;
#if MM_ROWS > 2
    case 3:
        mm_rows(3, bf16, mm, x, y, ys);
        break;
    case 4:
        mm_rows(4, bf16, mm, x, y, ys);
        break;
    case 5:
        mm_rows(5, bf16, mm, x, y, ys);
        break;
    case 6:
        mm_rows(6, bf16, mm, x, y, ys);
        break;
#endif
    default:
        break;
    }
}

/* The last panel may have fewer than 64 valid outputs: it works on a full-width copy of y. */
INLINE void mm_narrow_rows(uint32_t rows, const bool bf16, const struct sc_cpu_mm *mm,
                           const float *x, float *y)
{
    float full[MM_ROWS][SC_CPU_PANEL];
    memset(full, 0, sizeof(full));
    for (uint32_t r = 0; !mm->first && r < rows; r++)
        memcpy(full[r], y + r * mm->y_stride, mm->cols * sizeof(float));
    mm_any_rows(rows, bf16, mm, x, full[0], SC_CPU_PANEL);
    for (uint32_t r = 0; r < rows; r++)
        memcpy(y + r * mm->y_stride, full[r], mm->cols * sizeof(float));
}

INLINE void mm_run(const bool bf16, const struct sc_cpu_mm *mm)
{
    for (uint32_t row = 0; row < mm->rows; row += MM_ROWS) {
        uint32_t rows = mm->rows - row < MM_ROWS ? mm->rows - row : MM_ROWS;
        const float *x = (const float *)mm->x + row * mm->x_stride;
        float *y = mm->y + row * mm->y_stride;
        if (mm->cols == SC_CPU_PANEL)
            mm_any_rows(rows, bf16, mm, x, y, mm->y_stride);
        else
            mm_narrow_rows(rows, bf16, mm, x, y);
    }
}

static void matmul_f32(const struct sc_cpu_mm *mm)
{
    mm_run(false, mm);
}

static void matmul_bf16(const struct sc_cpu_mm *mm)
{
    mm_run(true, mm);
}

/* The high half of a whole number up to 127 as f32 is its bf16, exactly. */
INLINE uint32_t bits_of_i8(int8_t x)
{
    float f = x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

static void widen_i8(const int8_t *from, size_t n, uint16_t *to)
{
    for (size_t i = 0; i < n; i += 2 * SC_CPU_PANEL) {
        uint32_t pairs[SC_CPU_PANEL];
        for (uint32_t c = 0; c < SC_CPU_PANEL; c++)
            pairs[c] = bits_of_i8(from[i + c]) >> 16 | bits_of_i8(from[i + SC_CPU_PANEL + c]);
        memcpy(to + i, pairs, sizeof(pairs));
    }
}
