#include "cuda/device.h"

#include <stdlib.h>
#include <string.h>

#include "cuda/image.h"
#include "cuda/kernels_rows.h"

struct sc_embedding {
    void *table; /* device [n_rows, dim], NULL when there are none */
    enum sc_dtype dtype;
    uint64_t row0, n_rows;
    uint32_t dim;
};

/* Pinned halves in turn: one is filled while the other is on its way. */
static enum sc_status copy_table(struct sc_cuda_device *dev, const struct sc_embedding *emb,
                                 const uint8_t *from, size_t bytes, struct sc_err *err)
{
    enum sc_status st = SC_OK;
    for (size_t at = 0; at < bytes && st == SC_OK; at += SC_CUDA_STAGE_BYTES) {
        size_t n = bytes - at < SC_CUDA_STAGE_BYTES ? bytes - at : SC_CUDA_STAGE_BYTES;
        void *host, *staged;
        st = sc_cuda_stage_take(dev, n, "embedding", &host, &staged, err);
        if (st != SC_OK)
            break;
        memcpy(host, from + at, n);
        st = sc_cuda_stage_send(dev, host, (uint8_t *)emb->table + at, n, err);
    }
    return st == SC_OK ? sc_cuda_sync(&dev->base, err) : st;
}

enum sc_status sc_cuda_embedding_open(struct sc_backend *be, const void *data, enum sc_dtype dtype,
                                      uint64_t row0, uint64_t n_rows, uint32_t dim,
                                      struct sc_embedding **ret_emb, struct sc_err *err)
{
    struct sc_embedding *emb;
    enum sc_status st = SC_OK;
    size_t row_bytes = dim * sc_dtype_bytes(dtype);

    if (dtype != SC_DTYPE_F32 && dtype != SC_DTYPE_BF16 && dtype != SC_DTYPE_F16)
        return sc_fail(err, SC_ENOTSUP, "embedding: dtype %s", sc_dtype_name(dtype));
    if (data == NULL || dim == 0 || dim > SC_CUDA_DIM_MAX || n_rows > SC_CUDA_OUT_MAX ||
        row0 > SC_CUDA_OUT_MAX)
        return sc_fail(err, SC_EINVAL, "embedding: rows %llu + %llu of %u, limits %u and %u",
                       (unsigned long long)row0, (unsigned long long)n_rows, dim, SC_CUDA_OUT_MAX,
                       SC_CUDA_DIM_MAX);
    emb = calloc(1, sizeof(*emb));
    if (emb == NULL)
        return sc_fail(err, SC_ENOMEM, "embedding: %zu bytes", sizeof(*emb));
    emb->dtype = dtype;
    emb->row0 = row0;
    emb->n_rows = n_rows;
    emb->dim = dim;
    if (n_rows > 0)
        st = sc_cuda_alloc(be, n_rows * row_bytes, &emb->table, err);
    if (st == SC_OK)
        st = copy_table(sc_cuda_device(be), emb, (const uint8_t *)data + row0 * row_bytes,
                        n_rows * row_bytes, err);
    if (st != SC_OK) {
        sc_cuda_embedding_close(be, emb);
        return st;
    }
    *ret_emb = emb;
    return SC_OK;
}

void sc_cuda_embedding_close(struct sc_backend *be, struct sc_embedding *emb)
{
    if (emb == NULL)
        return;
    sc_cuda_free(be, emb->table);
    free(emb);
}

enum sc_status sc_cuda_embed(struct sc_backend *be, const struct sc_embedding *emb,
                             const int32_t *ids, uint32_t n, float *out, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    const void *device_ids = NULL;
    enum sc_status st = sc_cuda_check_rows("embed", n, emb->dim, err);

    if (st != SC_OK || n == 0)
        return st;
    sc_cuda_forget(dev);
    sc_cuda_is_written(dev, out);
    st = sc_cuda_to_device(dev, ids, n * sizeof(*ids), "embed", &device_ids, err);
    if (st != SC_OK)
        return st;
    return sc_cuda_check(sc_cuda_launch_embed(emb->table, emb->dtype, emb->row0, emb->n_rows,
                                              emb->dim, device_ids, n, out, dev->stream),
                         "embed", err);
}

/* A few rows are normed by the product that reads them, or by the one before and that: a kernel
 * less. */
static bool leave_to_product(struct sc_cuda_device *dev, const struct sc_norm_args *a)
{
    const struct sc_matrix *next = a->next;
    const struct sc_cuda_begun begun = dev->begun;

    if (next == NULL || a->y == NULL || a->delta != NULL || next->n_in != a->dim)
        return false;
    const bool ends =
        begun.of == a->resid && begun.w == a->w && begun.next == next && begun.n_rows == a->n_rows;
    if (!ends && (!sc_cuda_by_gemv(dev, next, a->n_rows) ||
                  !sc_cuda_gemv_takes_norm(next->store, next->ld, a->n_rows)))
        return false;
    sc_cuda_forget(dev);
    if (ends)
        dev->image = (struct sc_cuda_rounded){a->y, begun.at, a->n_rows, a->dim};
    dev->normed = (struct sc_cuda_normed){
        .of = a->y,
        .resid = a->resid,
        .w = a->w,
        .n_rows = a->n_rows,
        .eps = a->eps,
        .next = next,
        .squares = ends ? dev->squares : NULL,
    };
    dev->unwritten = a->y;
    return true;
}

enum sc_status sc_cuda_norm(struct sc_backend *be, const struct sc_norm_args *args,
                            struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    enum sc_status st = sc_cuda_check_rows("norm", args->n_rows, args->dim, err);

    if (st != SC_OK)
        return st;
    if (args->resid == NULL || (args->y != NULL && args->w == NULL))
        return sc_fail(err, SC_EINVAL, "norm: no %s", args->resid == NULL ? "rows" : "weights");
    if (args->n_rows == 0)
        return SC_OK;
    if (leave_to_product(dev, args))
        return SC_OK;
    uint16_t *image = sc_cuda_image_take(dev, args->y, args->n_rows, args->dim, NULL);
    const struct sc_cuda_norm norm = {
        .resid = args->resid,
        .delta = args->delta,
        .w = args->w,
        .y = sc_cuda_image_beside(dev, image, args->y, args->n_rows, args->dim, args->next),
        .image = image,
        .n_rows = args->n_rows,
        .dim = args->dim,
        .eps = args->eps,
    };
    st = sc_cuda_check(sc_cuda_launch_norm(&norm, dev->stream), "norm", err);
    if (st != SC_OK)
        sc_cuda_forget(dev);
    return st;
}

enum sc_status sc_cuda_swiglu(struct sc_backend *be, const float *gate_up, float *y, uint32_t n,
                              uint32_t ffn, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    enum sc_status st = sc_cuda_check_rows("swiglu", n, ffn, err);

    if (st != SC_OK || n == 0)
        return st;
    uint16_t *image = sc_cuda_image_take(dev, y, n, ffn, NULL);
    sc_cuda_is_written(dev, y);
    st = sc_cuda_check(sc_cuda_launch_swiglu(gate_up, SC_DTYPE_F32, y, image, n, ffn, dev->stream),
                       "swiglu", err);
    if (st != SC_OK)
        sc_cuda_forget(dev);
    return st;
}

enum sc_status sc_cuda_gather_rows(struct sc_backend *be, const float *src, const uint32_t *rows,
                                   uint32_t n, uint32_t dim, float *dst, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    const void *device_rows = NULL;
    enum sc_status st = sc_cuda_check_rows("gather_rows", n, dim, err);

    if (st != SC_OK || n == 0)
        return st;
    sc_cuda_forget(dev);
    sc_cuda_is_written(dev, dst);
    st = sc_cuda_to_device(dev, rows, n * sizeof(*rows), "gather_rows", &device_rows, err);
    if (st != SC_OK)
        return st;
    return sc_cuda_check(sc_cuda_launch_gather(src, device_rows, n, dim, dst, dev->stream),
                         "gather_rows", err);
}
