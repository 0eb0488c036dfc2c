#include "cpu/device.h"

#include <math.h>

struct angles_work {
    const uint32_t *positions;
    const float *inv_freq;
    float *angles;
    float scale;
    uint32_t head_dim;
};

static void angles_row(void *ctx, uint32_t i, uint32_t thread)
{
    const struct angles_work *w = ctx;
    uint32_t half = w->head_dim / 2;
    float *out = w->angles + (size_t)i * w->head_dim;
    (void)thread;
    for (uint32_t j = 0; j < half; j++) {
        float sine, cosine;
        sincosf((float)w->positions[i] * w->inv_freq[j], &sine, &cosine);
        out[j] = cosine * w->scale;
        out[half + j] = sine * w->scale;
    }
}

enum sc_status sc_cpu_rope_angles(struct sc_backend *be, const uint32_t *positions, uint32_t n,
                                  const float *inv_freq, uint32_t head_dim, float scale,
                                  float *angles, struct sc_err *err)
{
    struct angles_work w = {positions, inv_freq, angles, scale, head_dim};
    if (n > SC_CPU_ROWS_MAX || head_dim == 0 || head_dim > SC_CPU_HEAD_DIM_MAX || head_dim % 2 != 0)
        return sc_fail(err, SC_EINVAL, "rope_angles: shape [%u, %u], limit [%u, %u], even", n,
                       head_dim, SC_CPU_ROWS_MAX, SC_CPU_HEAD_DIM_MAX);
    if ((uint64_t)n * head_dim * 8 < SC_CPU_SMALL) {
        for (uint32_t i = 0; i < n; i++)
            angles_row(&w, i, 0);
    } else {
        sc_cpu_threads_run(sc_cpu_device(be)->threads, angles_row, &w, n);
    }
    return SC_OK;
}

struct qkv_work {
    const struct sc_cpu_device *dev;
    const struct sc_qkv_args *a;
    uint32_t task_rows;
};

/* Normalises and rotates one head in place. */
static void place_head(const struct qkv_work *w, float *x, const float *norm, const float *angles)
{
    const struct sc_qkv_args *a = w->a;
    if (norm != NULL)
        w->dev->kernels.norm_row(x, NULL, norm, x, a->head_dim, a->eps);
    w->dev->kernels.rotate(x, angles, a->head_dim);
}

static void qkv_row(const struct qkv_work *w, uint32_t i)
{
    const struct sc_qkv_args *a = w->a;
    uint32_t hd = a->head_dim;
    float *row = a->qkv + (size_t)i * (a->n_heads + 2 * a->n_kv_heads) * hd;
    const float *angles = a->angles + (size_t)i * hd;

    for (uint32_t h = 0; h < a->n_heads; h++)
        place_head(w, row + h * hd, a->q_norm, angles);
    for (uint32_t h = 0; h < a->n_kv_heads; h++) {
        float *k = row + (a->n_heads + h) * hd, *v = k + a->n_kv_heads * hd;
        uint8_t *block = sc_cpu_kv_block(a->pool, a->pages[i], h);
        place_head(w, k, a->k_norm, angles);
        w->dev->kernels.put_entry(a->pool, block, a->slots[i], k, v);
        sc_cpu_kv_bias(a->pool, block)[a->slots[i]] = 0.0f;
    }
}

static void qkv_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct qkv_work *w = ctx;
    uint32_t row = task * w->task_rows, left = w->a->n_rows - row;
    (void)thread;
    for (uint32_t end = row + (left < w->task_rows ? left : w->task_rows); row < end; row++)
        qkv_row(w, row);
}

enum sc_status sc_cpu_qkv(struct sc_backend *be, const struct sc_qkv_args *a, struct sc_err *err)
{
    struct qkv_work w = {sc_cpu_device(be), a, 1};
    enum sc_status st = sc_cpu_check_pool("qkv", a->pool, a->n_kv_heads, a->head_dim, err);
    if (st == SC_OK)
        st = sc_cpu_check_pages("qkv", a->pool, a->pages, 0, a->n_rows, err);
    if (st != SC_OK)
        return st;
    if (a->n_heads == 0 || a->n_heads > SC_CPU_HEADS_MAX || a->n_rows > SC_CPU_ROWS_MAX)
        return sc_fail(err, SC_EINVAL, "qkv: %u rows of %u heads, limits %u and %u", a->n_rows,
                       a->n_heads, SC_CPU_ROWS_MAX, SC_CPU_HEADS_MAX);
    for (uint32_t i = 0; i < a->n_rows; i++) {
        if (a->slots[i] >= SC_PAGE_ENTRIES)
            return sc_fail(err, SC_EINVAL, "qkv: row %u: slot %u, a page has %u", i, a->slots[i],
                           SC_PAGE_ENTRIES);
    }
    if ((uint64_t)a->n_rows * a->n_heads * a->head_dim < SC_CPU_SMALL) {
        for (uint32_t i = 0; i < a->n_rows; i++)
            qkv_row(&w, i);
    } else {
        /* Neighbours share the cache lines of a page: a prompt's rows go by the page. */
        uint32_t share = a->n_rows / sc_cpu_threads_count(w.dev->threads);
        w.task_rows = share == 0 ? 1 : share < SC_PAGE_ENTRIES ? share : SC_PAGE_ENTRIES;
        sc_cpu_threads_run(w.dev->threads, qkv_task, &w,
                           (a->n_rows + w.task_rows - 1) / w.task_rows);
    }
    return SC_OK;
}
