#include "cpu/device.h"

#include <stdlib.h>

struct sc_embedding {
    const uint8_t *data; /* not owned */
    enum sc_dtype dtype;
    uint64_t row0, n_rows;
    uint32_t dim;
};

/* Runs fn for every one of n rows of `width` elements; small work stays on the caller's thread. */
static void for_rows(struct sc_cpu_device *dev, sc_cpu_task_fn *fn, void *ctx, uint32_t n,
                     uint32_t width)
{
    if ((uint64_t)n * width >= SC_CPU_SMALL) {
        sc_cpu_threads_run(dev->threads, fn, ctx, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        fn(ctx, i, 0);
}

static enum sc_status check_rows(const char *op, uint32_t n, uint32_t width, struct sc_err *err)
{
    if (n > SC_CPU_ROWS_MAX || width == 0 || width > SC_CPU_DIM_MAX)
        return sc_fail(err, SC_EINVAL, "%s: shape [%u, %u], limit [%u, %u]", op, n, width,
                       SC_CPU_ROWS_MAX, SC_CPU_DIM_MAX);
    return SC_OK;
}

enum sc_status sc_cpu_embedding_open(struct sc_backend *be, const void *data, enum sc_dtype dtype,
                                     uint64_t row0, uint64_t n_rows, uint32_t dim,
                                     struct sc_embedding **ret_emb, struct sc_err *err)
{
    struct sc_embedding *emb;
    (void)be;
    if (dtype != SC_DTYPE_F32 && dtype != SC_DTYPE_BF16 && dtype != SC_DTYPE_F16)
        return sc_fail(err, SC_ENOTSUP, "embedding: dtype %s", sc_dtype_name(dtype));
    if (data == NULL || dim == 0 || dim > SC_CPU_DIM_MAX || n_rows > SC_CPU_OUT_MAX ||
        row0 > SC_CPU_OUT_MAX)
        return sc_fail(err, SC_EINVAL, "embedding: rows %llu + %llu of %u, limits %u and %u",
                       (unsigned long long)row0, (unsigned long long)n_rows, dim, SC_CPU_OUT_MAX,
                       SC_CPU_DIM_MAX);
    emb = calloc(1, sizeof(*emb));
    if (emb == NULL)
        return sc_fail(err, SC_ENOMEM, "embedding: %zu bytes", sizeof(*emb));
    emb->data = data;
    emb->dtype = dtype;
    emb->row0 = row0;
    emb->n_rows = n_rows;
    emb->dim = dim;
    *ret_emb = emb;
    return SC_OK;
}

void sc_cpu_embedding_close(struct sc_backend *be, struct sc_embedding *emb)
{
    (void)be;
    free(emb);
}

struct embed_work {
    const struct sc_embedding *emb;
    const int32_t *ids;
    float *out;
};

static void embed_row(void *ctx, uint32_t i, uint32_t thread)
{
    const struct embed_work *w = ctx;
    const struct sc_embedding *emb = w->emb;
    float *out = w->out + (size_t)i * emb->dim;
    const uint8_t *from;
    uint16_t half;
    (void)thread;

    if (w->ids[i] < 0 || (uint64_t)w->ids[i] < emb->row0 ||
        (uint64_t)w->ids[i] - emb->row0 >= emb->n_rows) {
        memset(out, 0, emb->dim * sizeof(float));
        return;
    }
    /* data is the whole table: its row 0 is token 0 */
    from = emb->data + (uint64_t)w->ids[i] * emb->dim * sc_dtype_bytes(emb->dtype);
    if (emb->dtype == SC_DTYPE_F32) {
        memcpy(out, from, emb->dim * sizeof(float));
        return;
    }
    for (uint32_t d = 0; d < emb->dim; d++) {
        memcpy(&half, from + 2u * d, 2);
        out[d] = emb->dtype == SC_DTYPE_BF16 ? sc_bf16_to_f32(half) : sc_f16_to_f32(half);
    }
}

enum sc_status sc_cpu_embed(struct sc_backend *be, const struct sc_embedding *emb,
                            const int32_t *ids, uint32_t n, float *out, struct sc_err *err)
{
    struct embed_work w = {emb, ids, out};
    enum sc_status st = check_rows("embed", n, emb->dim, err);
    if (st == SC_OK)
        for_rows(sc_cpu_device(be), embed_row, &w, n, emb->dim);
    return st;
}

struct norm_work {
    const struct sc_cpu_device *dev;
    const struct sc_norm_args *a;
};

static void norm_task(void *ctx, uint32_t i, uint32_t thread)
{
    const struct norm_work *w = ctx;
    const struct sc_norm_args *a = w->a;
    size_t at = (size_t)i * a->dim;
    (void)thread;
    w->dev->kernels.norm_row(a->resid + at, a->delta != NULL ? a->delta + at : NULL, a->w,
                             a->y != NULL ? a->y + at : NULL, a->dim, a->eps);
}

enum sc_status sc_cpu_norm(struct sc_backend *be, const struct sc_norm_args *args,
                           struct sc_err *err)
{
    struct norm_work w = {sc_cpu_device(be), args};
    enum sc_status st = check_rows("norm", args->n_rows, args->dim, err);
    if (st != SC_OK)
        return st;
    if (args->resid == NULL || (args->y != NULL && args->w == NULL))
        return sc_fail(err, SC_EINVAL, "norm: no %s", args->resid == NULL ? "rows" : "weights");
    for_rows(sc_cpu_device(be), norm_task, &w, args->n_rows, args->dim);
    return SC_OK;
}

struct swiglu_work {
    const struct sc_cpu_device *dev;
    const float *gate_up;
    float *y;
    uint32_t ffn;
};

static void swiglu_task(void *ctx, uint32_t i, uint32_t thread)
{
    const struct swiglu_work *w = ctx;
    const float *gate = w->gate_up + (size_t)i * 2 * w->ffn;
    (void)thread;
    w->dev->kernels.swiglu_row(gate, gate + w->ffn, w->y + (size_t)i * w->ffn, w->ffn);
}

enum sc_status sc_cpu_swiglu(struct sc_backend *be, const float *gate_up, float *y, uint32_t n,
                             uint32_t ffn, struct sc_err *err)
{
    struct swiglu_work w = {sc_cpu_device(be), gate_up, y, ffn};
    enum sc_status st = check_rows("swiglu", n, ffn, err);
    if (st == SC_OK)
        for_rows(sc_cpu_device(be), swiglu_task, &w, n, ffn);
    return st;
}

enum sc_status sc_cpu_gather_rows(struct sc_backend *be, const float *src, const uint32_t *rows,
                                  uint32_t n, uint32_t dim, float *dst, struct sc_err *err)
{
    enum sc_status st = check_rows("gather_rows", n, dim, err);
    (void)be;
    for (uint32_t i = 0; st == SC_OK && i < n; i++)
        memcpy(dst + (size_t)i * dim, src + (size_t)rows[i] * dim, dim * sizeof(float));
    return st;
}
