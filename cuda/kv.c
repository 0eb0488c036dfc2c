#include "cuda/device.h"

#include "base/backend_check.h"

#include <stdlib.h>
#include <string.h>

/* K and V of a head lie entry after entry, as core files keep them: pack and unpack are copies.
 * The parts of a block are multiples of 64 bytes times an even head_dim, so 128-byte aligned. */
static enum sc_status layout(const struct sc_kv_spec *spec, struct sc_kv_pool *pool,
                             struct sc_err *err)
{
    size_t element = sc_dtype_bytes(spec->dtype);
    if (spec->dtype != SC_DTYPE_F32 && spec->dtype != SC_DTYPE_BF16)
        return sc_fail(err, SC_ENOTSUP, "kv pool: dtype %s, allowed f32 and bf16",
                       sc_dtype_name(spec->dtype));
    if (spec->head_dim == 0 || spec->head_dim > SC_CUDA_HEAD_DIM_MAX || spec->head_dim % 2 != 0)
        return sc_fail(err, SC_EINVAL, "kv pool: head_dim %u, allowed even numbers up to %u",
                       spec->head_dim, SC_CUDA_HEAD_DIM_MAX);
    if (spec->n_kv_heads == 0 || spec->n_kv_heads > SC_CUDA_HEADS_MAX)
        return sc_fail(err, SC_EINVAL, "kv pool: %u KV heads, allowed 1 to %u", spec->n_kv_heads,
                       SC_CUDA_HEADS_MAX);
    pool->spec = *spec;
    pool->v_offset = SC_PAGE_ENTRIES * spec->head_dim * element;
    pool->bias_offset = 2 * pool->v_offset;
    pool->head_bytes = pool->bias_offset + SC_PAGE_ENTRIES * sizeof(float);
    pool->page_bytes = pool->head_bytes * spec->n_kv_heads;
    return SC_OK;
}

size_t sc_cuda_kv_page_bytes(struct sc_backend *be, const struct sc_kv_spec *spec)
{
    struct sc_kv_pool pool = {0};
    (void)be;
    return layout(spec, &pool, NULL) == SC_OK ? pool.page_bytes : 0;
}

enum sc_status sc_cuda_kv_open(struct sc_backend *be, const struct sc_kv_spec *spec,
                               uint32_t n_pages, struct sc_kv_pool **ret_pool, struct sc_err *err)
{
    struct sc_kv_pool *pool = calloc(1, sizeof(*pool));
    void *mem = NULL;
    enum sc_status st;

    if (pool == NULL)
        return sc_fail(err, SC_ENOMEM, "kv pool: %zu bytes", sizeof(*pool));
    st = layout(spec, pool, err);
    if (st != SC_OK)
        goto fail;
    if (n_pages == 0 || n_pages > SIZE_MAX / 4 / pool->page_bytes) {
        st = sc_fail(err, SC_EINVAL, "kv pool: %u pages of %zu bytes", n_pages, pool->page_bytes);
        goto fail;
    }
    st = sc_cuda_alloc(be, n_pages * pool->page_bytes, &mem, err);
    if (st != SC_OK)
        goto fail;
    pool->n_pages = n_pages;
    pool->mem = mem;
    sc_cuda_tensor_map_make(sc_cuda_device(be), pool);
    *ret_pool = pool;
    return SC_OK;

fail:
    sc_cuda_kv_close(be, pool);
    return st;
}

void sc_cuda_kv_close(struct sc_backend *be, struct sc_kv_pool *pool)
{
    if (pool == NULL)
        return;
    sc_cuda_free(be, pool->mem);
    free(pool);
}

static uint8_t *block_at(const struct sc_kv_pool *pool, uint32_t page, uint32_t head)
{
    return pool->mem + page * pool->page_bytes + head * pool->head_bytes;
}

enum sc_status sc_cuda_kv_read(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                               uint32_t slot, uint32_t head, float *k, float *v, float *bias,
                               struct sc_err *err)
{
    uint16_t k16[SC_CUDA_HEAD_DIM_MAX], v16[SC_CUDA_HEAD_DIM_MAX];
    bool bf16 = pool->spec.dtype == SC_DTYPE_BF16;
    enum sc_status st = sc_check_entry(&pool->spec, pool->n_pages, page, slot, head, err);
    if (st == SC_OK)
        st = sc_cuda_kv_pack(be, pool, page, slot, 1, head, bf16 ? (void *)k16 : k,
                             bf16 ? (void *)v16 : v, bias, err);
    for (uint32_t d = 0; st == SC_OK && bf16 && d < pool->spec.head_dim; d++) {
        k[d] = sc_bf16_to_f32(k16[d]);
        v[d] = sc_bf16_to_f32(v16[d]);
    }
    return st;
}

enum sc_status sc_cuda_kv_write(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                                uint32_t slot, uint32_t head, const float *k, const float *v,
                                float bias, struct sc_err *err)
{
    uint16_t k16[SC_CUDA_HEAD_DIM_MAX], v16[SC_CUDA_HEAD_DIM_MAX];
    bool bf16 = pool->spec.dtype == SC_DTYPE_BF16;
    enum sc_status st = sc_check_entry(&pool->spec, pool->n_pages, page, slot, head, err);
    if (st != SC_OK)
        return st;
    for (uint32_t d = 0; bf16 && d < pool->spec.head_dim; d++) {
        k16[d] = sc_f32_to_bf16(k[d]);
        v16[d] = sc_f32_to_bf16(v[d]);
    }
    return sc_cuda_kv_unpack(be, pool, page, slot, 1, head, bf16 ? (const void *)k16 : k,
                             bf16 ? (const void *)v16 : v, &bias, err);
}

enum sc_status sc_cuda_kv_pack(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                               uint32_t slot0, uint32_t n, uint32_t head, void *k, void *v,
                               float *bias, struct sc_err *err)
{
    const enum cudaMemcpyKind down = cudaMemcpyDeviceToHost;
    cudaStream_t stream = sc_cuda_device(be)->stream;
    enum sc_status st = sc_check_span(&pool->spec, pool->n_pages, page, slot0, n, head, err);
    if (st != SC_OK)
        return st;
    const size_t row = pool->v_offset / SC_PAGE_ENTRIES;
    const uint8_t *block = block_at(pool, page, head);
    cudaError_t rc = cudaMemcpyAsync(k, block + slot0 * row, n * row, down, stream);
    if (rc == cudaSuccess)
        rc = cudaMemcpyAsync(v, block + pool->v_offset + slot0 * row, n * row, down, stream);
    if (rc == cudaSuccess)
        rc = cudaMemcpyAsync(bias, block + pool->bias_offset + slot0 * sizeof(*bias),
                             n * sizeof(*bias), down, stream);
    st = sc_cuda_check(rc, "kv entries to the host", err);
    return st == SC_OK ? sc_cuda_sync(be, err) : st;
}

enum sc_status sc_cuda_kv_unpack(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                                 uint32_t slot0, uint32_t n, uint32_t head, const void *k,
                                 const void *v, const float *bias, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    enum sc_status st = sc_check_span(&pool->spec, pool->n_pages, page, slot0, n, head, err);
    if (st != SC_OK)
        return st;
    const size_t row = pool->v_offset / SC_PAGE_ENTRIES, bias_row = sizeof(*bias);
    uint8_t *block = block_at(pool, page, head), *host;
    void *staged, *unused;
    /* Through pinned memory, so that a restored document's many pages need not wait for each
     * other: a whole page is one copy. */
    st = sc_cuda_stage_take(dev, n * (2 * row + bias_row), "kv entries", &staged, &unused, err);
    if (st != SC_OK)
        return st;
    host = staged;
    memcpy(host, k, n * row);
    memcpy(host + n * row, v, n * row);
    memcpy(host + 2 * n * row, bias, n * bias_row);
    if (n == SC_PAGE_ENTRIES)
        return sc_cuda_stage_send(dev, host, block, pool->head_bytes, err);
    st = sc_cuda_stage_send(dev, host, block + slot0 * row, n * row, err);
    if (st == SC_OK)
        st = sc_cuda_stage_send(dev, host + n * row, block + pool->v_offset + slot0 * row, n * row,
                                err);
    if (st == SC_OK)
        st = sc_cuda_stage_send(dev, host + 2 * n * row,
                                block + pool->bias_offset + slot0 * bias_row, n * bias_row, err);
    return st;
}

enum sc_status sc_cuda_kv_copy(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t dst_page,
                               uint32_t src_page, struct sc_err *err)
{
    if (dst_page >= pool->n_pages || src_page >= pool->n_pages)
        return sc_fail(err, SC_EINVAL, "kv copy: page %u to %u of %u", src_page, dst_page,
                       pool->n_pages);
    if (dst_page == src_page)
        return SC_OK;
    return sc_cuda_check(cudaMemcpyAsync(block_at(pool, dst_page, 0), block_at(pool, src_page, 0),
                                         pool->page_bytes, cudaMemcpyDeviceToDevice,
                                         sc_cuda_device(be)->stream),
                         "kv copy", err);
}

enum sc_status sc_cuda_check_pool(const char *op, const struct sc_kv_pool *pool,
                                  uint32_t n_kv_heads, uint32_t head_dim, struct sc_err *err)
{
    return sc_check_pool(op, pool != NULL ? &pool->spec : NULL, n_kv_heads, head_dim, err);
}

enum sc_status sc_cuda_check_pages(const char *op, const struct sc_kv_pool *pool,
                                   const uint32_t *pages, uint32_t first, uint32_t end,
                                   struct sc_err *err)
{
    return sc_check_pages(op, pool->n_pages, pages, first, end, err);
}
