#include "cuda/device.h"

#include <string.h>

#include "cuda/kernels_qkv.h"

/* Frequencies stay on the device from call to call: a recorded step must not refer to a staging
 * buffer that the next call overwrites. They change with the model alone. */
static enum sc_status keep_inv_freq(struct sc_cuda_device *dev, const float *inv_freq,
                                    uint32_t head_dim, struct sc_err *err)
{
    const size_t bytes = head_dim / 2 * sizeof(*inv_freq);
    if (dev->inv_freq_dim == head_dim && memcmp(dev->inv_freq_host, inv_freq, bytes) == 0)
        return SC_OK;
    dev->inv_freq_dim = 0;
    enum sc_status st = sc_cuda_upload(&dev->base, dev->inv_freq, inv_freq, bytes, err);
    if (st != SC_OK)
        return st;
    memcpy(dev->inv_freq_host, inv_freq, bytes);
    dev->inv_freq_dim = head_dim;
    return SC_OK;
}

enum sc_status sc_cuda_rope_angles(struct sc_backend *be, const uint32_t *positions, uint32_t n,
                                   const float *inv_freq, uint32_t head_dim, float scale,
                                   float *angles, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    const void *device_positions = NULL;
    enum sc_status st;

    if (n > SC_CUDA_ROWS_MAX || head_dim == 0 || head_dim > SC_CUDA_HEAD_DIM_MAX ||
        head_dim % 2 != 0)
        return sc_fail(err, SC_EINVAL, "rope_angles: shape [%u, %u], limit [%u, %u], even", n,
                       head_dim, SC_CUDA_ROWS_MAX, SC_CUDA_HEAD_DIM_MAX);
    if (n == 0)
        return SC_OK;
    sc_cuda_forget(dev);
    st = keep_inv_freq(dev, inv_freq, head_dim, err);
    if (st == SC_OK)
        st = sc_cuda_to_device(dev, positions, n * sizeof(*positions), "rope_angles",
                               &device_positions, err);
    if (st != SC_OK)
        return st;
    return sc_cuda_check(sc_cuda_launch_angles(device_positions, n, dev->inv_freq, head_dim, scale,
                                               angles, dev->stream),
                         "rope_angles", err);
}

static enum sc_status check_args(const struct sc_qkv_args *a, struct sc_err *err)
{
    enum sc_status st = sc_cuda_check_pool("qkv", a->pool, a->n_kv_heads, a->head_dim, err);
    if (st == SC_OK)
        st = sc_cuda_check_pages("qkv", a->pool, a->pages, 0, a->n_rows, err);
    if (st != SC_OK)
        return st;
    if (a->n_heads == 0 || a->n_heads > SC_CUDA_HEADS_MAX || a->n_rows > SC_CUDA_ROWS_MAX)
        return sc_fail(err, SC_EINVAL, "qkv: %u rows of %u heads, limits %u and %u", a->n_rows,
                       a->n_heads, SC_CUDA_ROWS_MAX, SC_CUDA_HEADS_MAX);
    for (uint32_t i = 0; i < a->n_rows; i++) {
        if (a->slots[i] >= SC_PAGE_ENTRIES)
            return sc_fail(err, SC_EINVAL, "qkv: row %u: slot %u, a page has %u", i, a->slots[i],
                           SC_PAGE_ENTRIES);
    }
    return SC_OK;
}

enum sc_status sc_cuda_qkv(struct sc_backend *be, const struct sc_qkv_args *a, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    const void *pages = NULL, *slots = NULL;
    enum sc_status st = check_args(a, err);

    if (st != SC_OK || a->n_rows == 0)
        return st;
    sc_cuda_forget(dev);
    st = sc_cuda_to_device(dev, a->pages, a->n_rows * sizeof(*a->pages), "qkv", &pages, err);
    if (st == SC_OK)
        st = sc_cuda_to_device(dev, a->slots, a->n_rows * sizeof(*a->slots), "qkv", &slots, err);
    if (st != SC_OK)
        return st;
    const struct sc_cuda_qkv_split split = {
        .qkv = a->qkv,
        .q_norm = a->q_norm,
        .k_norm = a->k_norm,
        .angles = a->angles,
        .pages = pages,
        .slots = slots,
        .mem = a->pool->mem,
        .v_offset = a->pool->v_offset,
        .bias_offset = a->pool->bias_offset,
        .head_bytes = a->pool->head_bytes,
        .page_bytes = a->pool->page_bytes,
        .n_rows = a->n_rows,
        .n_heads = a->n_heads,
        .n_kv_heads = a->n_kv_heads,
        .head_dim = a->head_dim,
        .eps = a->eps,
        .dtype = a->pool->spec.dtype,
    };
    sc_cuda_pages_write(dev, true);
    return sc_cuda_check(sc_cuda_launch_qkv(&split, dev->stream), "qkv", err);
}
