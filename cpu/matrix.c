#include "cpu/device.h"

#include <math.h>
#include <stdlib.h>

#include "cpu/memory.h"
#include "cpu/packed.h"

/* Rows of one task: enough that a panel slice, read from the second-level cache or unpacked into
 * it, is paid for, and so few that a slice of them stays there too; multiples of SC_CPU_ROUND_ROWS.
 */
#define TASK_ROWS      192u
#define TASK_ROWS_MORE 256u /* where rows are rounded, or weights unpacked */
/* So few rows read every weight once: bf16 and f32 panels are not sliced for them. */
#define FEW_ROWS 6u
/* int8 weights of few rows: a slice, widened, stays in the first-level cache. */
#define SLICE_FEW_IN 256u
/* Packed ones of up to a block of rows: what lies ahead of them is on its way meanwhile. */
#define SLICE_PACKED_IN 64u

struct pack {
    const struct sc_matrix_part *parts;
    uint32_t n_parts;
    struct sc_matrix *m;
    bool quads;        /* I8: packed for int8 activations */
    double (*sums)[2]; /* I8: squared errors and squares of each panel */
};

static void pack_row(struct sc_matrix *m, uint32_t out, const struct sc_matrix_part *part,
                     uint64_t row)
{
    uint8_t *panel = m->panels + out / SC_CPU_PANEL * m->panel_bytes;
    uint64_t first = row * part->row_stride + part->col0;
    uint32_t col = out % SC_CPU_PANEL;

    if (m->store == SC_DTYPE_F32) {
        float *to = (float *)(void *)panel + col;
        for (uint32_t k = 0; k < m->n_in; k++)
            to[(size_t)k * SC_CPU_PANEL] = sc_cpu_weight(part, first + k);
        return;
    }
    uint16_t *to = (uint16_t *)(void *)panel + 2 * col;
    for (uint32_t k = 0; k < m->n_in; k++)
        to[(size_t)(k / 2) * 2 * SC_CPU_PANEL + k % 2] = sc_cpu_weight_bf16(part, first + k);
}

/* Symmetric, one scale a row: that of the whole row of the source, of which this matrix may have
 * but some columns. A row with a weight that is not finite gets the scale NaN. */
static void pack_row_i8(struct sc_matrix *m, bool quads, uint32_t out,
                        const struct sc_matrix_part *part, uint64_t row, double *sums)
{
    uint8_t *panel = m->panels + out / SC_CPU_PANEL * m->panel_bytes;
    uint32_t col = out % SC_CPU_PANEL;
    uint64_t first = row * part->row_stride;
    float largest = 0.0f, scale;
    bool finite = true;

    for (uint64_t k = 0; k < part->row_stride; k++) {
        float w = fabsf(sc_cpu_weight(part, first + k));
        largest = w > largest ? w : largest;
        finite &= w < INFINITY;
    }
    scale = m->scale[out] = finite ? largest / 127.0f : NAN;
    if (!finite || scale == 0.0f)
        return;
    for (uint32_t k = 0; k < m->n_in; k++) {
        float w = sc_cpu_weight(part, first + part->col0 + k);
        float q = (w / scale + 0x1.8p23f) - 0x1.8p23f; /* to the nearest, ties to even */
        double e = (double)w - (double)q * scale;
        q = q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q;
        if (quads)
            panel[(size_t)(k / 4 * SC_CPU_PANEL + col) * 4 + k % 4] = (uint8_t)((int)q + 128);
        else
            panel[(size_t)k * SC_CPU_PANEL + col] = (uint8_t)(int8_t)q;
        sums[0] += e * e;
        sums[1] += (double)w * w;
    }
}

static void pack_panel(void *ctx, uint32_t panel, uint32_t thread)
{
    struct pack *p = ctx;
    uint64_t out = (uint64_t)panel * SC_CPU_PANEL, end = out + SC_CPU_PANEL, part0 = 0;
    (void)thread;
    for (uint32_t i = 0; i < p->n_parts; i++) {
        uint64_t part_end = part0 + p->parts[i].n_rows;
        for (; out < end && out < part_end; out++) {
            if (p->m->store == SC_DTYPE_I8)
                pack_row_i8(p->m, p->quads, (uint32_t)out, &p->parts[i], out - part0,
                            p->sums[panel]);
            else
                pack_row(p->m, (uint32_t)out, &p->parts[i], out - part0);
        }
        part0 = part_end;
    }
}

static enum sc_status check_parts(const struct sc_matrix_part *parts, uint32_t n_parts,
                                  uint64_t n_in, enum sc_dtype store, uint64_t *ret_out,
                                  struct sc_err *err)
{
    uint64_t n_out = 0;
    if (store != SC_DTYPE_F32 && store != SC_DTYPE_BF16 && store != SC_DTYPE_I8)
        return sc_fail(err, SC_ENOTSUP, "matrix: stored as %s, allowed f32, bf16 and int8",
                       sc_dtype_name(store));
    if (n_in == 0 || n_in > SC_CPU_DIM_MAX)
        return sc_fail(err, SC_EINVAL, "matrix: %llu columns, allowed 1 to %u",
                       (unsigned long long)n_in, SC_CPU_DIM_MAX);
    for (uint32_t i = 0; i < n_parts; i++) {
        const struct sc_matrix_part *p = &parts[i];
        if (p->dtype != SC_DTYPE_F32 && p->dtype != SC_DTYPE_BF16 && p->dtype != SC_DTYPE_F16)
            return sc_fail(err, SC_ENOTSUP, "matrix: part %u is %s", i, sc_dtype_name(p->dtype));
        if (p->col0 > p->row_stride || n_in > p->row_stride - p->col0)
            return sc_fail(err, SC_EINVAL, "matrix: part %u: columns %llu + %llu, row stride %llu",
                           i, (unsigned long long)p->col0, (unsigned long long)n_in,
                           (unsigned long long)p->row_stride);
        if (p->n_rows > SC_CPU_OUT_MAX - n_out)
            return sc_fail(err, SC_EINVAL, "matrix: %llu rows and more, limit %u",
                           (unsigned long long)(n_out + p->n_rows), SC_CPU_OUT_MAX);
        n_out += p->n_rows;
    }
    if (n_out == 0)
        return sc_fail(err, SC_EINVAL, "matrix: no rows");
    *ret_out = n_out;
    return SC_OK;
}

static enum sc_status take_row(uint32_t n_panels, const char *what, float **ret_mem,
                               size_t *ret_bytes, struct sc_err *err)
{
    size_t bytes = (size_t)n_panels * SC_CPU_PANEL * sizeof(float);
    void *mem = NULL;
    enum sc_status st = sc_cpu_memory_take(bytes, what, &mem, err);
    if (st == SC_OK) {
        *ret_mem = mem;
        *ret_bytes = bytes;
    }
    return st;
}

static enum sc_status take_panels(struct sc_matrix *m, struct sc_err *err)
{
    const size_t in = m->store == SC_DTYPE_F32
                          ? (size_t)m->n_in * sizeof(float)
                          : (size_t)((m->n_in + 63) / 64) * 64 * sc_dtype_bytes(m->store);
    void *mem = NULL;
    enum sc_status st;

    m->panel_bytes = in * SC_CPU_PANEL;
    st = sc_cpu_memory_take(m->panel_bytes * m->n_panels, "matrix", &mem, err);
    if (st == SC_OK) {
        m->panels = mem;
        m->panels_bytes = m->panel_bytes * m->n_panels;
    }
    return st;
}

/* The sums of all panels, in order; a row that could not be scaled is named. */
static enum sc_status check_scales(struct sc_matrix *m, double (*sums)[2], struct sc_err *err)
{
    for (uint32_t i = 0; i < m->n_panels; i++) {
        m->error2 += sums[i][0];
        m->norm2 += sums[i][1];
    }
    for (uint32_t i = 0; i < m->n_out; i++) {
        if (isnan(m->scale[i]))
            return sc_fail(err, SC_EINVAL, "matrix: row %u has a weight that is not finite", i);
    }
    return SC_OK;
}

enum sc_status sc_cpu_matrix_open(struct sc_backend *be, const struct sc_matrix_part *parts,
                                  uint32_t n_parts, uint64_t n_in, const float *bias,
                                  enum sc_dtype store, struct sc_matrix **ret_matrix,
                                  struct sc_err *err)
{
    struct sc_cpu_device *dev = sc_cpu_device(be);
    struct sc_matrix *m;
    struct pack pack = {.parts = parts, .n_parts = n_parts, .quads = dev->i8};
    uint64_t n_out = 0;
    enum sc_status st = check_parts(parts, n_parts, n_in, store, &n_out, err);

    if (st != SC_OK)
        return st;
    m = calloc(1, sizeof(*m));
    if (m == NULL)
        return sc_fail(err, SC_ENOMEM, "matrix: %zu bytes", sizeof(*m));
    m->store = store;
    m->n_in = (uint32_t)n_in;
    m->n_out = (uint32_t)n_out;
    m->n_panels = (m->n_out + SC_CPU_PANEL - 1) / SC_CPU_PANEL;
    if (store != SC_DTYPE_BF16 || !dev->packs || !sc_cpu_pack(dev, parts, n_parts, m)) {
        st = take_panels(m, err);
        if (st != SC_OK)
            goto fail;
    }
    if (bias != NULL) {
        st = take_row(m->n_panels, "matrix bias", &m->bias, &m->bias_bytes, err);
        if (st != SC_OK)
            goto fail;
        memcpy(m->bias, bias, m->n_out * sizeof(float));
    }
    if (store == SC_DTYPE_I8) {
        st = take_row(m->n_panels, "matrix scales", &m->scale, &m->scale_bytes, err);
        if (st != SC_OK)
            goto fail;
        pack.sums = calloc(m->n_panels, sizeof(*pack.sums));
        if (pack.sums == NULL) {
            st = sc_fail(err, SC_ENOMEM, "matrix: sums of %u panels", m->n_panels);
            goto fail;
        }
    }
    pack.m = m;
    if (m->exponents == NULL)
        sc_cpu_threads_run(dev->threads, pack_panel, &pack, m->n_panels);
    if (store == SC_DTYPE_I8)
        st = check_scales(m, pack.sums, err);
    free(pack.sums);
    if (st != SC_OK)
        goto fail;
    *ret_matrix = m;
    return SC_OK;

fail:
    sc_cpu_matrix_close(be, m);
    return st;
}

void sc_cpu_matrix_error(const struct sc_matrix *m, double *error2, double *norm2)
{
    *error2 += m->error2;
    *norm2 += m->norm2;
}

uint64_t sc_cpu_matrix_bytes(const struct sc_matrix *m)
{
    uint64_t rare = m->rare0 != NULL ? m->rare0[m->n_panels] : 0;
    return m->panels_bytes + m->scale_bytes + rare * sizeof(*m->rare);
}

void sc_cpu_matrix_close(struct sc_backend *be, struct sc_matrix *m)
{
    (void)be;
    if (m == NULL)
        return;
    sc_cpu_memory_give(m->panels, m->panels_bytes);
    sc_cpu_memory_give(m->bias, m->bias_bytes);
    sc_cpu_memory_give(m->scale, m->scale_bytes);
    sc_cpu_pack_close(m);
    free(m);
}

struct product {
    const struct sc_cpu_device *dev;
    const struct sc_matrix *w;
    const float *x;
    size_t x_stride;
    const uint32_t *rounded; /* x, block_words a block of SC_CPU_ROUND_ROWS rows; or NULL */
    size_t block_words;
    bool i8; /* rounded to int8 */
    float *y;
    size_t y_stride;
    uint32_t n, n_groups; /* rows, groups of them */
    uint32_t task_rows;   /* of a group */
    uint32_t run;         /* panels of one task, which follow each other */
};

/* y = y * scale + bias, for int8 weights that were widened. */
static void scale_rows(const struct sc_matrix *w, uint32_t out0, const struct sc_cpu_mm *mm)
{
    for (uint32_t r = 0; r < mm->rows; r++) {
        float *y = mm->y + r * mm->y_stride;
        for (uint32_t c = 0; c < mm->cols; c++)
            y[c] *= w->scale[out0 + c];
        for (uint32_t c = 0; w->bias != NULL && c < mm->cols; c++)
            y[c] += w->bias[out0 + c];
    }
}

/* Rows of a task with one panel: how many inputs at a time. */
static uint32_t slice_of(const struct product *p, uint32_t rows)
{
    if (p->i8)
        return rows <= SC_CPU_ROUND_ROWS ? p->w->n_in : 2 * SC_CPU_SLICE_IN;
    if (p->w->exponents != NULL && rows <= SC_CPU_ROUND_ROWS)
        return SLICE_PACKED_IN;
    if (rows > FEW_ROWS)
        return SC_CPU_SLICE_IN;
    return p->w->store == SC_DTYPE_I8 ? SLICE_FEW_IN : p->w->n_in;
}

/* One slice of int8 weights with activations that are f32 or bf16. */
static void multiply_widened(const struct product *p, struct sc_cpu_mm *mm, uint32_t out0,
                             bool last, uint32_t thread)
{
    uint16_t *wide = p->dev->scratch[thread].weights;
    size_t n = (size_t)(mm->k + 31) / 32 * 32 * SC_CPU_PANEL;
    p->dev->kernels.widen_i8(mm->panel, n, wide);
    mm->panel = wide;
    mm->bias = NULL;
    p->dev->kernels.matmul_bf16(mm);
    if (last)
        scale_rows(p->w, out0, mm);
}

/* One slice of packed weights. */
static void multiply_packed(const struct product *p, struct sc_cpu_mm *mm, uint32_t panel,
                            uint32_t thread)
{
    uint16_t *wide = p->dev->scratch[thread].weights;
    sc_cpu_unpack(p->dev, p->w, panel, mm->k0, mm->k, &mm->rare, wide);
    mm->panel = wide;
    p->dev->kernels.matmul_bf16(mm);
}

static void multiply_panel(const struct product *p, uint32_t panel, uint32_t row0, uint32_t thread)
{
    const struct sc_matrix *w = p->w;
    const struct sc_cpu_kernels *kernels = &p->dev->kernels;
    uint32_t rows = p->n - row0 < p->task_rows ? p->n - row0 : p->task_rows;
    uint32_t out0 = panel * SC_CPU_PANEL, left = w->n_out - out0;
    const bool few = rows <= SC_CPU_ROUND_ROWS, packed = w->exponents != NULL;
    const bool fused_i8 =
        w->store == SC_DTYPE_I8 && !p->i8 && few && kernels->matmul_few_i8 != NULL;
    const bool fused_packed = packed && few && kernels->matmul_few_packed != NULL;
    const struct sc_cpu_rare *rare = packed ? w->rare + w->rare0[panel] : NULL;
    uint32_t slice = fused_i8 || fused_packed ? w->n_in : slice_of(p, rows);

    for (uint32_t k0 = 0; k0 < w->n_in; k0 += slice) {
        uint32_t n_k = w->n_in - k0 < slice ? w->n_in - k0 : slice;
        bool last = k0 + n_k == w->n_in;
        struct sc_cpu_mm mm = {
            .panel = w->panels + panel * w->panel_bytes +
                     (size_t)k0 * SC_CPU_PANEL * sc_dtype_bytes(w->store),
            .x = p->x + row0 * p->x_stride + k0,
            .x_stride = p->x_stride,
            .y = p->y + row0 * p->y_stride + out0,
            .y_stride = p->y_stride,
            .rows = rows,
            .k = n_k,
            .k0 = k0,
            .cols = left < SC_CPU_PANEL ? left : SC_CPU_PANEL,
            .scale = p->i8 && last ? w->scale + out0 : NULL,
            .bias = w->bias != NULL && last ? w->bias + out0 : NULL,
            .first = k0 == 0,
            .exponents = packed ? w->exponents[panel] : NULL,
            .rare = rare,
        };
        if (p->rounded != NULL) {
            mm.x = p->rounded + row0 / SC_CPU_ROUND_ROWS * p->block_words;
            mm.x_stride = p->block_words;
        }
        if (p->i8) {
            kernels->matmul_i8(&mm);
        } else if (fused_i8) {
            kernels->matmul_few_i8(&mm);
            scale_rows(w, out0, &mm);
        } else if (w->store == SC_DTYPE_I8) {
            multiply_widened(p, &mm, out0, last, thread);
        } else if (fused_packed) {
            kernels->matmul_few_packed(&mm);
        } else if (packed) {
            multiply_packed(p, &mm, panel, thread);
            rare = mm.rare;
        } else if (w->store == SC_DTYPE_F32) {
            kernels->matmul_f32(&mm);
        } else {
            kernels->matmul_bf16(&mm);
        }
    }
}

static void multiply_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct product *p = ctx;
    uint32_t panel = task / p->n_groups * p->run, row0 = task % p->n_groups * p->task_rows;
    uint32_t end = panel + p->run < p->w->n_panels ? panel + p->run : p->w->n_panels;
    for (; panel < end; panel++)
        multiply_panel(p, panel, row0, thread);
}

/* Few rows wait for memory, which is faster the longer it is read in one go: two tasks a thread.
 * Of many rows a task is one panel. */
static uint32_t panels_of_task(const struct product *p)
{
    uint32_t n = 2 * sc_cpu_threads_count(p->dev->threads);
    return p->n <= SC_CPU_ROUND_ROWS ? (p->w->n_panels + n - 1) / n : 1;
}

static void round_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct product *p = ctx;
    const struct sc_cpu_kernels *k = &p->dev->kernels;
    uint32_t row0 = task * SC_CPU_ROUND_ROWS, left = p->n - row0;
    (void)thread;
    (p->i8 ? k->i8_round_rows : k->round_rows)(p->x + row0 * p->x_stride, p->x_stride,
                                               left < SC_CPU_ROUND_ROWS ? left : SC_CPU_ROUND_ROWS,
                                               p->w->n_in, p->dev->rounded + task * p->block_words);
}

enum sc_status sc_cpu_matmul(struct sc_backend *be, const struct sc_matrix *w, const float *x,
                             uint32_t x_stride, float *y, uint32_t y_stride, uint32_t n,
                             struct sc_err *err)
{
    struct sc_cpu_device *dev = sc_cpu_device(be);
    struct product p = {.dev = dev, .w = w, .x_stride = x_stride, .y_stride = y_stride};
    bool rounds = w->store != SC_DTYPE_F32 && dev->kernels.round_rows != NULL;
    uint32_t batch = n;

    if (n > SC_CPU_ROWS_MAX || (n > 1 && (x_stride < w->n_in || y_stride < w->n_out)))
        return sc_fail(err, SC_EINVAL, "matmul [%u, %u]: %u rows, x stride %u, y stride %u",
                       w->n_out, w->n_in, n, x_stride, y_stride);
    p.i8 = w->store == SC_DTYPE_I8 && dev->i8;
    p.task_rows = rounds || p.i8 || w->exponents != NULL ? TASK_ROWS_MORE : TASK_ROWS;
    if (rounds || p.i8) {
        p.block_words = (p.i8 ? dev->kernels.i8_words : dev->kernels.round_words)(w->n_in);
        p.rounded = dev->rounded;
        batch = (uint32_t)(SC_CPU_ROUNDED_BYTES / 4 / p.block_words) * SC_CPU_ROUND_ROWS;
    }
    for (uint32_t row = 0; row < n; row += batch) {
        p.n = n - row < batch ? n - row : batch;
        p.n_groups = (p.n + p.task_rows - 1) / p.task_rows;
        p.x = x + (size_t)row * x_stride;
        p.y = y + (size_t)row * y_stride;
        if (p.rounded != NULL) {
            uint32_t n_blocks = (p.n + SC_CPU_ROUND_ROWS - 1) / SC_CPU_ROUND_ROWS;
            if ((uint64_t)p.n * w->n_in < SC_CPU_SMALL) {
                for (uint32_t i = 0; i < n_blocks; i++)
                    round_task(&p, i, 0);
            } else {
                sc_cpu_threads_run(dev->threads, round_task, &p, n_blocks);
            }
        }
        p.run = panels_of_task(&p);
        sc_cpu_threads_run(dev->threads, multiply_task, &p,
                           (w->n_panels + p.run - 1) / p.run * p.n_groups);
    }
    return SC_OK;
}
