/* cpu/int8_impl.h - activations as int8, for int8 weights, included by each kernels_*.c that has
 * such products. Private to cpu/.
 *
 * A row is cut into groups of I8_GROUP inputs; each group has one scale, largest / 127, and holds
 * x / scale rounded to the nearest, ties to even. A product sums a group in int32, which is exact
 * in any order, and adds the groups in rising order in f32: so every instruction set with a fused
 * multiply-add gives the same bits, for any number of rows.
 *
 * A block of 16 rows, zeros behind the last input:
 *   int8 [groups][16][I8_GROUP], f32 scale [groups][16], int32 offset [groups][16]
 * Panels hold weight + 128 as unsigned bytes, [k / 4][64][4], because the instruction multiplies
 * unsigned by signed; offset, -128 times the sum of the group, takes that out again.
 */
#define I8_GROUP      64u
#define I8_ROWS       SC_CPU_ROUND_ROWS
#define I8_TILE_WORDS (I8_ROWS * I8_GROUP / 4)
#define I8_STEPS      (I8_GROUP / 4) /* of four inputs */

static uint32_t i8_words(uint32_t n_in)
{
    return (n_in + I8_GROUP - 1) / I8_GROUP * (I8_TILE_WORDS + 2 * I8_ROWS);
}

struct i8_rows {
    const uint32_t *x; /* tile of the first group */
    const float *scale;
    const int32_t *offset;
};

/* The block that holds a row, from the group of input k0 on. */
INLINE struct i8_rows i8_rows_at(const struct sc_cpu_mm *mm, const uint32_t *block)
{
    size_t n_groups = mm->x_stride / (I8_TILE_WORDS + 2 * I8_ROWS), g = mm->k0 / I8_GROUP;
    const uint32_t *behind = block + n_groups * I8_TILE_WORDS;
    return (struct i8_rows){
        .x = block + g * I8_TILE_WORDS,
        .scale = (const float *)(const void *)behind + g * I8_ROWS,
        .offset = (const int32_t *)(const void *)(behind + (n_groups + g) * I8_ROWS),
    };
}

/* One group of one row; returns its scale. What is not finite makes the scale NaN, and so the
 * results; what is too small to divide by is zero. */
INLINE float i8_group(const float *x, int8_t *to, int32_t *offset)
{
    uint32_t largest = 0;
    int32_t sum = 0;
    float top, inverse;

    for (uint32_t i = 0; i < I8_GROUP; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof(bits));
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    memcpy(&top, &largest, sizeof(top));
    if (largest >= 0x7f800000u || top < 0x1p-100f) {
        memset(to, 0, I8_GROUP);
        *offset = 0;
        return largest >= 0x7f800000u ? NAN : 0.0f;
    }
    inverse = 127.0f / top;
    for (uint32_t i = 0; i < I8_GROUP; i++) {
        float shifted = x[i] * inverse + 0x1.8p23f;
        int32_t bits;
        memcpy(&bits, &shifted, sizeof(bits));
        bits -= 0x4b400000;
        sum += bits;
        to[i] = (int8_t)bits;
    }
    *offset = -128 * sum;
    return top / 127.0f;
}

/* Rows that do not exist are not written: no kernel uses what it multiplies them to. */
static void i8_round_rows(const float *x, size_t x_stride, uint32_t n_rows, uint32_t n_in,
                          uint32_t *block)
{
    uint32_t n_groups = (n_in + I8_GROUP - 1) / I8_GROUP;
    float *scale = (float *)(void *)(block + (size_t)n_groups * I8_TILE_WORDS);
    int32_t *offset = (int32_t *)(void *)(scale + (size_t)n_groups * I8_ROWS);

    for (uint32_t r = 0; r < n_rows; r++) {
        const float *from = x + r * x_stride;
        int8_t *to = (int8_t *)block + (size_t)r * I8_GROUP;
        for (uint32_t g = 0; g < n_groups; g++, from += I8_GROUP, to += I8_TILE_WORDS * 4) {
            uint32_t at = g * I8_ROWS + r, left = n_in - g * I8_GROUP;
            float padded[I8_GROUP] = {0};
            if (left < I8_GROUP)
                memcpy(padded, from, left * sizeof(float));
            scale[at] = i8_group(left < I8_GROUP ? padded : from, to, &offset[at]);
        }
    }
}
