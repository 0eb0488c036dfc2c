/* Dense products: which rows meet which panels, in what order, on which thread. None of it shows in
 * a result: an output is summed over its inputs in one order. */
#include "cpu/device.h"

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
    uint32_t n_runs;      /* panels that follow each other, which one task multiplies */
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

/* Rows of a task: how many inputs at a time. */
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

static bool is_widened(const struct product *p)
{
    return p->w->store == SC_DTYPE_I8 && !p->i8;
}

/* The weights of inputs k0 .. k0 + n_k of a panel; no rows yet. */
static struct sc_cpu_mm slice_at(const struct product *p, uint32_t panel, uint32_t k0, uint32_t n_k)
{
    const struct sc_matrix *w = p->w;
    const uint32_t out0 = panel * SC_CPU_PANEL, left = w->n_out - out0;
    const bool last = k0 + n_k == w->n_in;
    return (struct sc_cpu_mm){
        .panel = w->panels + panel * w->panel_bytes +
                 (size_t)k0 * SC_CPU_PANEL * sc_dtype_bytes(w->store),
        .x_stride = p->rounded != NULL ? p->block_words : p->x_stride,
        .y_stride = p->y_stride,
        .k = n_k,
        .k0 = k0,
        .cols = left < SC_CPU_PANEL ? left : SC_CPU_PANEL,
        .scale = p->i8 && last ? w->scale + out0 : NULL,
        .bias = w->bias != NULL && last ? w->bias + out0 : NULL,
        .first = k0 == 0,
        .exponents = w->exponents != NULL ? w->exponents[panel] : NULL,
        .rare = w->exponents != NULL ? w->rare + w->rare0[panel] : NULL,
    };
}

static void set_rows(const struct product *p, uint32_t panel, uint32_t row0, uint32_t rows,
                     struct sc_cpu_mm *mm)
{
    if (p->rounded != NULL)
        mm->x = p->rounded + row0 / SC_CPU_ROUND_ROWS * p->block_words;
    else
        mm->x = p->x + row0 * p->x_stride + mm->k0;
    mm->y = p->y + row0 * p->y_stride + panel * SC_CPU_PANEL;
    mm->rows = rows;
}

/* What is multiplied by kernels that take bf16 becomes that, in `wide`; *rare: as sc_cpu_unpack
 * wants it. */
static void bring(const struct product *p, uint32_t panel, const struct sc_cpu_rare **rare,
                  uint16_t *wide, struct sc_cpu_mm *mm)
{
    if (p->w->exponents != NULL) {
        sc_cpu_unpack(p->dev, p->w, panel, mm->k0, mm->k, rare, wide);
        mm->panel = wide;
    } else if (is_widened(p)) {
        p->dev->kernels.widen_i8(mm->panel, (size_t)(mm->k + 31) / 32 * 32 * SC_CPU_PANEL, wide);
        mm->panel = wide;
        mm->bias = NULL; /* scale_rows adds it */
    }
}

static void multiply_slice(const struct product *p, const struct sc_cpu_mm *mm)
{
    const struct sc_cpu_kernels *kernels = &p->dev->kernels;
    if (p->i8)
        kernels->matmul_i8(mm);
    else if (p->w->store == SC_DTYPE_F32)
        kernels->matmul_f32(mm);
    else
        kernels->matmul_bf16(mm);
}

/* Few rows, where a kernel takes a whole panel as it is kept. False: none does. */
static bool multiply_fused(const struct product *p, uint32_t panel, uint32_t row0, uint32_t rows)
{
    const struct sc_cpu_kernels *kernels = &p->dev->kernels;
    void (*kernel)(const struct sc_cpu_mm *mm) = p->w->exponents != NULL
                                                     ? kernels->matmul_few_packed
                                                 : is_widened(p) ? kernels->matmul_few_i8
                                                                 : NULL;
    struct sc_cpu_mm mm = slice_at(p, panel, 0, p->w->n_in);

    if (kernel == NULL)
        return false;
    set_rows(p, panel, row0, rows, &mm);
    if (is_widened(p))
        mm.bias = NULL;
    kernel(&mm);
    if (is_widened(p))
        scale_rows(p->w, panel * SC_CPU_PANEL, &mm);
    return true;
}

/* One panel, or as many as matmul_panels takes: a slice of each with all rows, before the next
 * slice. */
static void multiply_panels(const struct product *p, uint32_t panel0, uint32_t n_panels,
                            uint32_t row0, uint32_t rows, uint32_t thread)
{
    const uint32_t n_in = p->w->n_in, slice = slice_of(p, rows);
    const struct sc_cpu_rare *rare[SC_CPU_PANELS];
    struct sc_cpu_mm mm[SC_CPU_PANELS];

    for (uint32_t k0 = 0; k0 < n_in; k0 += slice) {
        for (uint32_t i = 0; i < n_panels; i++) {
            mm[i] = slice_at(p, panel0 + i, k0, n_in - k0 < slice ? n_in - k0 : slice);
            if (k0 == 0)
                rare[i] = mm[i].rare;
            set_rows(p, panel0 + i, row0, rows, &mm[i]);
            bring(p, panel0 + i, &rare[i], p->dev->scratch[thread].weights[i], &mm[i]);
        }
        if (n_panels > 1)
            p->dev->kernels.matmul_panels(mm, n_panels);
        else
            multiply_slice(p, mm);
        for (uint32_t i = 0; i < n_panels && is_widened(p) && k0 + slice >= n_in; i++)
            scale_rows(p->w, (panel0 + i) * SC_CPU_PANEL, &mm[i]);
    }
}

static void multiply_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct product *p = ctx;
    const uint64_t run = task / p->n_groups, n_panels = p->w->n_panels;
    const uint32_t row0 = task % p->n_groups * p->task_rows;
    const uint32_t rows = p->n - row0 < p->task_rows ? p->n - row0 : p->task_rows;
    const uint32_t panel0 = (uint32_t)(run * n_panels / p->n_runs),
                   end = (uint32_t)((run + 1) * n_panels / p->n_runs);
    if (rows > SC_CPU_ROUND_ROWS) {
        multiply_panels(p, panel0, end - panel0, row0, rows, thread);
        return;
    }
    for (uint32_t panel = panel0; panel < end; panel++)
        if (!multiply_fused(p, panel, row0, rows))
            multiply_panels(p, panel, 1, row0, rows, thread);
}

/* Shares panels and rows out. Few rows wait for memory, which is faster the longer it is read in
 * one go: two tasks a thread. Of many rows a task is some with one panel; or, where a kernel takes
 * several panels and there are enough for all threads, all rows with them. */
static void plan_tasks(struct product *p)
{
    const uint32_t n_panels = p->w->n_panels, n_threads = sc_cpu_threads_count(p->dev->threads);
    const bool several = p->dev->kernels.matmul_panels != NULL && !p->i8 &&
                         p->w->store != SC_DTYPE_F32 && n_panels >= 2 * n_threads;

    p->task_rows = p->n;
    p->n_runs = 2 * n_threads;
    if (p->n > SC_CPU_ROUND_ROWS && several) {
        while (p->n_runs * SC_CPU_PANELS < n_panels)
            p->n_runs += n_threads;
    } else if (p->n > SC_CPU_ROUND_ROWS) {
        const bool more = p->rounded != NULL || p->w->exponents != NULL;
        p->task_rows = more ? TASK_ROWS_MORE : TASK_ROWS;
        p->n_runs = n_panels;
    }
    if (p->n_runs > n_panels)
        p->n_runs = n_panels;
    p->n_groups = (p->n + p->task_rows - 1) / p->task_rows;
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
    if (rounds || p.i8) {
        p.block_words = (p.i8 ? dev->kernels.i8_words : dev->kernels.round_words)(w->n_in);
        p.rounded = dev->rounded;
        batch = (uint32_t)(SC_CPU_ROUNDED_BYTES / 4 / p.block_words) * SC_CPU_ROUND_ROWS;
    }
    for (uint32_t row = 0; row < n; row += batch) {
        p.n = n - row < batch ? n - row : batch;
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
        plan_tasks(&p);
        sc_cpu_threads_run(dev->threads, multiply_task, &p, p.n_runs * p.n_groups);
    }
    return SC_OK;
}
