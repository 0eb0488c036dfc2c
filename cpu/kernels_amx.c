/* cpu/kernels_amx.c - bf16 times bf16 with the matrix unit: 16 x 32 by 32 x 16 in one instruction.
 *
 * The instruction sums the even and the odd products of its 32 columns apart and adds both sums to
 * the accumulator: a row's bits follow from that row and from where the steps of 32 begin, never
 * from the number of rows. */
#include "cpu/kernels.h"
#define SC_SIMD_AVX512
#include "cpu/simd.h"

#include "cpu/bf16_impl.h"

#include "cpu/amx_impl.h"

/* Words of a panel that are asked for before they are used. */
#define PANEL_AHEAD (4 * W_STEP)

/* Up to 16 rows, all 64 outputs at once: the panel is read once, front to back. */
static void mm_one(const struct sc_cpu_mm *mm, const uint32_t *x, float *y, size_t ys)
{
    const uint32_t *w = mm->panel;
    if (mm->first) {
        zero_sums();
    } else {
        _tile_loadd(0, y, ys * 4);
        _tile_loadd(1, y + 16, ys * 4);
        _tile_loadd(2, y + 32, ys * 4);
        _tile_loadd(3, y + 48, ys * 4);
    }
    for (uint32_t k = 0; k < mm->k; k += TILE_COLS, x += TILE_WORDS, w += W_STEP) {
        for (uint32_t line = 0; line < W_STEP / 16; line++)
            _mm_prefetch(w + PANEL_AHEAD + 16 * line, _MM_HINT_T1);
        step_one(x, w);
    }
    store_one(y, ys);
}

/* 32 outputs of two blocks of rows, the second x2 words behind the first. ahead: NULL, or of what
 * is used later so many lines a step are asked for. */
INLINE void mm_two(const struct sc_cpu_mm *mm, const uint32_t *x, size_t x2, const uint32_t *w,
                   float *y, size_t ys, const uint32_t *ahead, uint32_t lines)
{
    float *y2 = y + TILE_ROWS * ys;
    if (mm->first) {
        zero_sums();
    } else {
        _tile_loadd(0, y, ys * 4);
        _tile_loadd(1, y + 16, ys * 4);
        _tile_loadd(2, y2, ys * 4);
        _tile_loadd(3, y2 + 16, ys * 4);
    }
    for (uint32_t k = 0; k < mm->k; k += TILE_COLS, x += TILE_WORDS, w += W_STEP) {
        for (uint32_t line = 0; ahead != NULL && line < lines; line++, ahead += 16)
            _mm_prefetch(ahead, _MM_HINT_T1);
        _tile_loadd(4, x, 64);
        _tile_loadd(5, x + x2, 64);
        _tile_loadd(6, w, W_ROW);
        _tile_loadd(7, w + 16, W_ROW);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, y, ys * 4);
    _tile_stored(1, y + 16, ys * 4);
    _tile_stored(2, y2, ys * 4);
    _tile_stored(3, y2 + 16, ys * 4);
}

/* The last panel may have fewer than 64 valid outputs: it works on a full-width copy of y. */
static void mm_narrow(const struct sc_cpu_mm *mm, const uint32_t *x, float *y, uint32_t rows)
{
    float full[TILE_ROWS][SC_CPU_PANEL];
    memset(full, 0, sizeof(full));
    for (uint32_t r = 0; !mm->first && r < rows; r++)
        memcpy(full[r], y + r * mm->y_stride, mm->cols * sizeof(float));
    mm_one(mm, x, full[0], SC_CPU_PANEL);
    add_bias(mm, full[0], SC_CPU_PANEL, rows);
    for (uint32_t r = 0; r < rows; r++)
        memcpy(y + r * mm->y_stride, full[r], mm->cols * sizeof(float));
}

INLINE const uint32_t *rows_at(const struct sc_cpu_mm *mm, uint32_t row)
{
    return (const uint32_t *)mm->x + row / TILE_ROWS * mm->x_stride +
           mm->k0 / TILE_COLS * TILE_WORDS;
}

/* Pairs of blocks of n whole panels; returns the row behind the last. Weights stay in the
 * second-level cache while rows go by: of several panels, each asks for its share of the next pair.
 */
static uint32_t mm_pairs(const struct sc_cpu_mm *mm, uint32_t n)
{
    const uint32_t pair = 2 * TILE_ROWS, lines = (TILE_ROWS + n - 1) / n;
    uint32_t row = 0;

    if (mm->rows < pair)
        return 0;
    tiles_open(TILE_ROWS, TILE_ROWS, false, TILE_COLS);
    for (; row + pair <= mm->rows; row += pair) {
        const uint32_t *x = rows_at(mm, row), *next = NULL, *next2 = NULL;
        if (n > 1 && row + 2 * pair <= mm->rows) {
            next = rows_at(mm, row + pair);
            next2 = next + mm->x_stride;
        }
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t *w = mm[i].panel;
            float *y = mm[i].y + row * mm->y_stride;
            mm_two(&mm[i], x, mm->x_stride, w, y, mm->y_stride, next, lines);
            mm_two(&mm[i], x, mm->x_stride, w + 32, y + 32, mm->y_stride, next2, lines);
            add_bias(&mm[i], y, mm->y_stride, pair);
            if (next != NULL) {
                next += mm->k / TILE_COLS * lines * 16;
                next2 += mm->k / TILE_COLS * lines * 16;
            }
        }
    }
    return row;
}

/* Rows from `row` on, a multiple of 16. */
static void mm_rest(const struct sc_cpu_mm *mm, uint32_t row)
{
    for (; row < mm->rows; row += TILE_ROWS) {
        const uint32_t rows = mm->rows - row < TILE_ROWS ? mm->rows - row : TILE_ROWS;
        float *y = mm->y + row * mm->y_stride;
        tiles_open(rows, 0, true, TILE_COLS);
        if (mm->cols < SC_CPU_PANEL) {
            mm_narrow(mm, rows_at(mm, row), y, rows);
        } else {
            mm_one(mm, rows_at(mm, row), y, mm->y_stride);
            add_bias(mm, y, mm->y_stride, rows);
        }
    }
}

static void matmul_panels(const struct sc_cpu_mm *mm, uint32_t n)
{
    const uint32_t whole = mm[n - 1].cols == SC_CPU_PANEL ? n : n - 1;
    const uint32_t row = whole > 0 ? mm_pairs(mm, whole) : 0;

    for (uint32_t i = 0; i < n; i++)
        mm_rest(&mm[i], i < whole ? row : 0);
    _tile_release();
}

static void matmul_bf16(const struct sc_cpu_mm *mm)
{
    matmul_panels(mm, 1);
}

#define S_ROW (SC_CPU_STRETCH * 4) /* bytes */
#define K_ROW (SC_PAGE_ENTRIES * 4)

/* Of a tile of nq queries. */
static void query_tiles_open(uint32_t nq, uint32_t n_in)
{
    tiles_open(nq < TILE_ROWS ? nq : TILE_ROWS, nq > TILE_ROWS ? nq - TILE_ROWS : 0, false, n_in);
}

/* Asks for n lines of both. */
INLINE void bring(const struct ahead *ahead, uint32_t n)
{
    for (uint32_t line = 0; ahead->near != NULL && line < n; line++)
        _mm_prefetch(ahead->near + SC_CPU_LINE * line, _MM_HINT_T0);
    for (uint32_t line = 0; ahead->far != NULL && line < n; line++)
        _mm_prefetch(ahead->far + SC_CPU_LINE * line, _MM_HINT_T1);
}

/* Adds n_steps steps of dimensions to the scores, which begin as `from`, from_row bytes a row. */
INLINE void qk_steps(const bool two, const uint32_t *q, const uint32_t *q2, uint32_t n_steps,
                     const uint8_t *k, const float *from, size_t from_row, float *scores)
{
    const float *from2 = from + TILE_ROWS * (from_row / sizeof(float));
    written();
    _tile_loadd(0, from, from_row);
    _tile_loadd(1, from + 16, from_row);
    if (two) {
        _tile_loadd(2, from2, from_row);
        _tile_loadd(3, from2 + 16, from_row);
    }
    for (uint32_t step = 0; step < n_steps; step++, k += 16 * K_ROW) {
        _tile_loadd(4, q + step * TILE_WORDS, 64);
        _tile_loadd(6, k, K_ROW);
        _tile_loadd(7, k + 64, K_ROW);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (two) {
            _tile_loadd(5, q2 + step * TILE_WORDS, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, scores, S_ROW);
    _tile_stored(1, scores + 16, S_ROW);
    if (two) {
        _tile_stored(2, scores + TILE_ROWS * SC_CPU_STRETCH, S_ROW);
        _tile_stored(3, scores + TILE_ROWS * SC_CPU_STRETCH + 16, S_ROW);
    }
}

/* Whole steps first; dimensions that fill no step go through smaller tiles, because what lies
 * behind the keys may be anything. */
static void qk_bf16(uint32_t nq, const uint32_t *q, uint32_t head_dim, const uint8_t *const *pages,
                    uint32_t n, const float *bias, float *scores)
{
    const uint32_t *q2 = q + round_words(head_dim);
    const uint32_t n_steps = head_dim / TILE_COLS, rest = head_dim % TILE_COLS;
    const bool two = nq > TILE_ROWS;

    for (uint32_t p = 0; n_steps > 0 && p < n; p++) /* every row begins as the entries' biases */
        qk_steps(two, q, q2, n_steps, pages[p], bias + p * SC_PAGE_ENTRIES, 0,
                 scores + p * SC_PAGE_ENTRIES);
    if (rest == 0)
        return;
    query_tiles_open(nq, rest);
    for (uint32_t p = 0; p < n; p++) {
        float *to = scores + p * SC_PAGE_ENTRIES;
        qk_steps(two, q + n_steps * TILE_WORDS, q2 + n_steps * TILE_WORDS, 1,
                 pages[p] + (size_t)n_steps * 16 * K_ROW,
                 n_steps > 0 ? to : bias + p * SC_PAGE_ENTRIES, n_steps > 0 ? S_ROW : 0, to);
    }
    query_tiles_open(nq, TILE_COLS);
}

/* K or V of one head of an int8 page, widened. */
struct wide {
    _Alignas(64) uint16_t pairs[SC_PAGE_ENTRIES * SC_CPU_HEAD_DIM_MAX];
};

INLINE const uint8_t *widen_lines(const uint8_t *from, uint32_t n, struct wide *to)
{
    for (uint32_t line = 0; line < n; line++)
        v_widen(from + line * SC_CPU_LINE, to->pairs + line * SC_CPU_LINE);
    return (const uint8_t *)to->pairs;
}

static void qk_pages(bool i8, uint32_t nq, const uint32_t *q, uint32_t head_dim,
                     const uint8_t *const *pages, uint32_t n, const float *bias,
                     const float *const *scales, float *scores, const struct ahead *ahead)
{
    static const float zeros[SC_PAGE_ENTRIES];
    struct wide wide;
    if (ahead != NULL)
        bring(ahead, i8 ? head_dim / 2 : head_dim);
    if (scales == NULL) {
        qk_bf16(nq, q, head_dim, pages, n, bias, scores);
        return;
    }
    for (uint32_t p = 0; p < n; p++, bias += SC_PAGE_ENTRIES, scores += SC_PAGE_ENTRIES) {
        const uint8_t *k = i8 ? widen_lines(pages[p], head_dim / 2, &wide) : pages[p];
        qk_bf16(nq, q, head_dim, &k, 1, zeros, scores);
        for (uint32_t i = 0; i < nq; i++) {
            float *row = scores + i * SC_CPU_STRETCH;
            for (uint32_t e = 0; e < SC_PAGE_ENTRIES; e += 16)
                v_store(row + e, v_fma(v_load(row + e), v_load(scales[p] + e), v_load(bias + e)));
        }
    }
}

/* nc = 1 or 2 vectors of dimensions. */
INLINE void pv_columns(const bool two, const int nc, const uint32_t *weights,
                       const uint8_t *const *pages, uint32_t n, uint32_t v_skip, uint32_t dim_pad,
                       float *o, uint32_t stride)
{
    const uint32_t *weights2 = weights + SC_CPU_STRETCH_PAGES * TILE_WORDS;
    float *o2 = o + TILE_ROWS * stride;
    written();
    _tile_loadd(0, o, stride * 4);
    if (nc == 2)
        _tile_loadd(1, o + 16, stride * 4);
    if (two) {
        _tile_loadd(2, o2, stride * 4);
        if (nc == 2)
            _tile_loadd(3, o2 + 16, stride * 4);
    }
    for (uint32_t p = 0; p < n; p++, weights += TILE_WORDS, weights2 += TILE_WORDS) {
        const uint8_t *v = pages[p] + v_skip;
        _tile_loadd(4, weights, 64);
        _tile_loadd(6, v, dim_pad * 4);
        _tile_dpbf16ps(0, 4, 6);
        if (nc == 2) {
            _tile_loadd(7, v + 64, dim_pad * 4);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (two) {
            _tile_loadd(5, weights2, 64);
            _tile_dpbf16ps(2, 5, 6);
            if (nc == 2)
                _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, o, stride * 4);
    if (nc == 2)
        _tile_stored(1, o + 16, stride * 4);
    if (two) {
        _tile_stored(2, o2, stride * 4);
        if (nc == 2)
            _tile_stored(3, o2 + 16, stride * 4);
    }
}

static void pv_bf16(uint32_t nq, const uint32_t *weights, const uint8_t *const *pages, uint32_t n,
                    uint32_t dim_pad, float *o, uint32_t stride)
{
    const bool two = nq > TILE_ROWS;
    uint32_t d = 0;
    for (; d + 32 <= dim_pad; d += 32) {
        if (two)
            pv_columns(true, 2, weights, pages, n, d * 4, dim_pad, o + d, stride);
        else
            pv_columns(false, 2, weights, pages, n, d * 4, dim_pad, o + d, stride);
    }
    if (d < dim_pad)
        pv_columns(two, 1, weights, pages, n, d * 4, dim_pad, o + d, stride);
}

static void pv_pages(bool i8, uint32_t nq, const uint32_t *weights, const uint8_t *const *pages,
                     uint32_t n, uint32_t dim_pad, float *o, uint32_t stride,
                     const struct ahead *ahead)
{
    struct wide wide;
    if (ahead != NULL)
        bring(ahead, i8 ? dim_pad / 2 : dim_pad);
    if (!i8) {
        pv_bf16(nq, weights, pages, n, dim_pad, o, stride);
        return;
    }
    for (uint32_t p = 0; p < n; p++) {
        const uint8_t *v = widen_lines(pages[p], dim_pad / 2, &wide);
        pv_bf16(nq, weights + p * TILE_WORDS, &v, 1, dim_pad, o, stride);
    }
}

static void at_begin(uint32_t rows)
{
    query_tiles_open(rows, TILE_COLS);
}

#define SETTLE_PAGES(i8) SC_CPU_STRETCH_PAGES
#include "cpu/attention_bf16_impl.h"

static void attention_rounded(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s)
{
    attend_spans(a, s);
    _tile_release();
}

void sc_cpu_kernels_amx(struct sc_cpu_kernels *kernels)
{
    kernels->matmul_bf16 = matmul_bf16;
    kernels->matmul_panels = matmul_panels;
    kernels->widen_i8 = widen_i8;
    kernels->round_rows = round_rows;
    kernels->round_words = round_words;
    kernels->attention_bf16 = attention_rounded;
    kernels->attention_i8 = attention_rounded;
    kernels->combine_bf16 = state_combine;
    kernels->combine_i8 = state_combine;
}
