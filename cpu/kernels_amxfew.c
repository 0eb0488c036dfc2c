/* cpu/kernels_amxfew.c - few rows times int8 or packed weights with the matrix unit.
 *
 * Weights become bf16 some steps before they are multiplied, in memory that stays in the
 * first-level cache: the matrix unit, the vector units and the memory then work at the same time.
 * The same sums as matmul_bf16 of kernels_amx.c in the same order, and so the same bits. */
#include "cpu/packed.h"
#define SC_SIMD_AVX512
#include "cpu/simd.h"

#include "cpu/bf16_impl.h"

#include "cpu/amx_impl.h"
#define PACKED_HINT _MM_HINT_T1 /* the first level holds what was widened */
#include "cpu/packed_impl.h"

/* Steps from making bf16 to multiplying, a power of two. */
#define AHEAD 4u

/* What is left of a panel. */
struct source {
    const uint8_t *from;
    struct tables tables;           /* packed */
    const struct sc_cpu_rare *rare; /* packed */
};

/* Weights of one step. */
INLINE void widen_step(const bool packed, struct source *s, uint32_t step, uint16_t *to)
{
    if (!packed) {
        widen_i8((const int8_t *)s->from, W_STEP * 2, to);
        s->from += W_STEP * 2;
        return;
    }
    for (uint32_t row = 0; row < 16; row++, s->from += SC_CPU_PACKED_ROW) {
        __m512i w[4];
        unpack_row(2, 0, &s->tables, s->from, w);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            _mm512_store_si512(to + row * SC_CPU_ROW + 32 * i, w[i]);
    }
    for (; s->rare->at / (2 * W_STEP) == step; s->rare++)
        to[s->rare->at % (2 * W_STEP)] = s->rare->bits;
}

INLINE void mm_steps(const bool packed, struct source s, uint32_t n_steps, const uint32_t *x,
                     float *y, size_t ys)
{
    _Alignas(64) uint32_t wide[2 * AHEAD][W_STEP];

    zero_sums();
    for (uint32_t step = 0; step < n_steps + AHEAD; step++) {
        if (step < n_steps)
            widen_step(packed, &s, step, (uint16_t *)(void *)wide[step % (2 * AHEAD)]);
        written();
        if (step >= AHEAD)
            step_one(x + (size_t)(step - AHEAD) * TILE_WORDS, wide[(step - AHEAD) % (2 * AHEAD)]);
    }
    store_one(y, ys);
}

INLINE void multiply(const bool packed, const struct sc_cpu_mm *mm)
{
    const bool narrow = mm->cols < SC_CPU_PANEL; /* the last panel: into memory of its own */
    float full[SC_CPU_ROUND_ROWS][SC_CPU_PANEL];
    float *y = narrow ? full[0] : mm->y;
    const size_t ys = narrow ? SC_CPU_PANEL : mm->y_stride;
    struct source s = {.from = mm->panel, .rare = mm->rare};

    if (packed)
        s.tables = tables_of(mm->exponents);
    tiles_open(mm->rows, 0, true, TILE_COLS);
    mm_steps(packed, s, (mm->k + TILE_COLS - 1) / TILE_COLS, mm->x, y, ys);
    _tile_release();
    if (packed) /* int8 sums are scaled first */
        add_bias(mm, y, ys, mm->rows);
    for (uint32_t r = 0; narrow && r < mm->rows; r++)
        memcpy(mm->y + r * mm->y_stride, full[r], mm->cols * sizeof(float));
}

static void matmul_few_i8(const struct sc_cpu_mm *mm)
{
    multiply(false, mm);
}

static void matmul_few_packed(const struct sc_cpu_mm *mm)
{
    multiply(true, mm);
}

void sc_cpu_kernels_amxfew(struct sc_cpu_kernels *kernels)
{
    kernels->matmul_few_i8 = matmul_few_i8;
    kernels->matmul_few_packed = matmul_few_packed;
}
