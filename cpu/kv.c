#include "cpu/device.h"

#include "base/backend_check.h"

#include <stdlib.h>

#include "cpu/memory.h"

static enum sc_status layout(const struct sc_kv_spec *spec, struct sc_kv_pool *pool,
                             struct sc_err *err)
{
    size_t element = sc_dtype_bytes(spec->dtype);
    if (spec->dtype != SC_DTYPE_F32 && spec->dtype != SC_DTYPE_BF16 && spec->dtype != SC_DTYPE_I8)
        return sc_fail(err, SC_ENOTSUP, "kv pool: dtype %s, allowed f32, bf16 and int8",
                       sc_dtype_name(spec->dtype));
    if (spec->head_dim == 0 || spec->head_dim > SC_CPU_HEAD_DIM_MAX || spec->head_dim % 2 != 0)
        return sc_fail(err, SC_EINVAL, "kv pool: head_dim %u, allowed even numbers up to %u",
                       spec->head_dim, SC_CPU_HEAD_DIM_MAX);
    if (spec->n_kv_heads == 0 || spec->n_kv_heads > SC_CPU_HEADS_MAX)
        return sc_fail(err, SC_EINVAL, "kv pool: %u KV heads, allowed 1 to %u", spec->n_kv_heads,
                       SC_CPU_HEADS_MAX);
    pool->spec = *spec;
    const uint32_t row = spec->dtype == SC_DTYPE_I8 ? 32 : 16; /* what vectors of V hold */
    pool->dim_pad = (spec->head_dim + row - 1) / row * row;
    pool->v_offset = SC_PAGE_ENTRIES * spec->head_dim * element;
    pool->bias_offset = pool->v_offset + SC_PAGE_ENTRIES * pool->dim_pad * element;
    if (spec->dtype == SC_DTYPE_I8)
        pool->bias_offset += 2 * SC_PAGE_ENTRIES * sizeof(float);
    pool->head_bytes = pool->bias_offset + SC_PAGE_ENTRIES * sizeof(float);
    pool->page_bytes = pool->head_bytes * spec->n_kv_heads;
    return SC_OK;
}

size_t sc_cpu_kv_page_bytes(struct sc_backend *be, const struct sc_kv_spec *spec)
{
    struct sc_kv_pool pool = {0};
    (void)be;
    return layout(spec, &pool, NULL) == SC_OK ? pool.page_bytes : 0;
}

enum sc_status sc_cpu_kv_open(struct sc_backend *be, const struct sc_kv_spec *spec,
                              uint32_t n_pages, struct sc_kv_pool **ret_pool, struct sc_err *err)
{
    struct sc_kv_pool *pool;
    void *mem = NULL;
    enum sc_status st;
    (void)be;

    pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        return sc_fail(err, SC_ENOMEM, "kv pool: %zu bytes", sizeof(*pool));
    st = layout(spec, pool, err);
    if (st != SC_OK)
        goto fail;
    if (n_pages == 0 || n_pages > SIZE_MAX / 4 / pool->page_bytes) {
        st = sc_fail(err, SC_EINVAL, "kv pool: %u pages of %zu bytes", n_pages, pool->page_bytes);
        goto fail;
    }
    st = sc_cpu_memory_take(n_pages * pool->page_bytes, "kv pool", &mem, err);
    if (st != SC_OK)
        goto fail;
    pool->n_pages = n_pages;
    pool->mem = mem;
    pool->mem_bytes = n_pages * pool->page_bytes;
    *ret_pool = pool;
    return SC_OK;

fail:
    sc_cpu_kv_close(be, pool);
    return st;
}

void sc_cpu_kv_close(struct sc_backend *be, struct sc_kv_pool *pool)
{
    (void)be;
    if (pool == NULL)
        return;
    sc_cpu_memory_give(pool->mem, pool->mem_bytes);
    free(pool);
}

enum sc_status sc_cpu_kv_read(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                              uint32_t slot, uint32_t head, float *k, float *v, float *bias,
                              struct sc_err *err)
{
    enum sc_status st = sc_check_entry(&pool->spec, pool->n_pages, page, slot, head, err);
    uint8_t *block;
    (void)be;
    if (st != SC_OK)
        return st;
    block = sc_cpu_kv_block(pool, page, head);
    sc_cpu_kv_get_k(pool, block, slot, k);
    sc_cpu_kv_get_v(pool, block, slot, v);
    *bias = sc_cpu_kv_bias(pool, block)[slot];
    return SC_OK;
}

enum sc_status sc_cpu_kv_write(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                               uint32_t slot, uint32_t head, const float *k, const float *v,
                               float bias, struct sc_err *err)
{
    enum sc_status st = sc_check_entry(&pool->spec, pool->n_pages, page, slot, head, err);
    uint8_t *block;
    (void)be;
    if (st != SC_OK)
        return st;
    block = sc_cpu_kv_block(pool, page, head);
    sc_cpu_kv_put_k(pool, block, slot, k);
    sc_cpu_kv_put_v(pool, block, slot, v);
    sc_cpu_kv_bias(pool, block)[slot] = bias;
    return SC_OK;
}

/* An entry of K is a column of the page, of V a row (f32) or every second element of one. */
#define COPY_SPAN(type, to_page)                                                                   \
    do {                                                                                           \
        const bool bf = sizeof(type) == 2;                                                         \
        for (uint32_t i = 0; i < n; i++) {                                                         \
            uint32_t slot = slot0 + i;                                                             \
            type *pk = (type *)(void *)block;                                                      \
            type *pv = (type *)(void *)(block + pool->v_offset) +                                  \
                       (bf ? (slot / 2) * 2 * pool->dim_pad + slot % 2 : slot * pool->dim_pad);    \
            for (uint32_t d = 0; d < hd; d++) {                                                    \
                type *ek = &pk[bf ? sc_cpu_kv_k_at(slot, d) : d * SC_PAGE_ENTRIES + slot];         \
                type *ev = &pv[bf ? 2 * d : d];                                                    \
                if (to_page) {                                                                     \
                    *ek = ((const type *)k)[i * hd + d];                                           \
                    *ev = ((const type *)v)[i * hd + d];                                           \
                } else {                                                                           \
                    ((type *)k_out)[i * hd + d] = *ek;                                             \
                    ((type *)v_out)[i * hd + d] = *ev;                                             \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* I8: rows of whole numbers, each with its scale behind it. */
static void pack_i8(const struct sc_kv_pool *pool, uint8_t *block, uint32_t slot0, uint32_t n,
                    uint8_t *k, uint8_t *v)
{
    const uint32_t hd = pool->spec.head_dim;
    const uint8_t *values = block + pool->v_offset;
    for (uint32_t slot = slot0; slot < slot0 + n; slot++) {
        const float *scales = sc_cpu_kv_scales(pool, block) + slot;
        for (uint32_t d = 0; d < hd; d++) {
            *k++ = (uint8_t)sc_cpu_i8_whole(block[sc_cpu_i8_at(sc_cpu_kv_k_at(slot, d))]);
            *v++ = (uint8_t)sc_cpu_i8_whole(values[sc_cpu_i8_at(sc_cpu_kv_v_at(pool, slot, d))]);
        }
        memcpy(k, scales, sizeof(*scales));
        memcpy(v, scales + SC_PAGE_ENTRIES, sizeof(*scales));
        k += sizeof(*scales);
        v += sizeof(*scales);
    }
}

static void unpack_i8(const struct sc_kv_pool *pool, uint8_t *block, uint32_t slot0, uint32_t n,
                      const uint8_t *k, const uint8_t *v)
{
    const uint32_t hd = pool->spec.head_dim;
    uint8_t *values = block + pool->v_offset;
    for (uint32_t slot = slot0; slot < slot0 + n; slot++) {
        float *scales = sc_cpu_kv_scales(pool, block) + slot;
        for (uint32_t d = 0; d < hd; d++) {
            block[sc_cpu_i8_at(sc_cpu_kv_k_at(slot, d))] = sc_cpu_i8_byte((int8_t)*k++);
            values[sc_cpu_i8_at(sc_cpu_kv_v_at(pool, slot, d))] = sc_cpu_i8_byte((int8_t)*v++);
        }
        memcpy(scales, k, sizeof(*scales));
        memcpy(scales + SC_PAGE_ENTRIES, v, sizeof(*scales));
        k += sizeof(*scales);
        v += sizeof(*scales);
    }
}

/* Within one page. */
static void pack_page(const struct sc_kv_pool *pool, uint8_t *block, uint32_t slot0, uint32_t n,
                      uint8_t *k_out, uint8_t *v_out, float *bias)
{
    const void *k = NULL, *v = NULL;
    const uint32_t hd = pool->spec.head_dim;
    if (pool->spec.dtype == SC_DTYPE_F32)
        COPY_SPAN(uint32_t, false);
    else if (pool->spec.dtype == SC_DTYPE_I8)
        pack_i8(pool, block, slot0, n, k_out, v_out);
    else
        COPY_SPAN(uint16_t, false);
    memcpy(bias, sc_cpu_kv_bias(pool, block) + slot0, n * sizeof(*bias));
}

static void unpack_page(const struct sc_kv_pool *pool, uint8_t *block, uint32_t slot0, uint32_t n,
                        const uint8_t *k, const uint8_t *v, const float *bias)
{
    void *k_out = NULL, *v_out = NULL;
    const uint32_t hd = pool->spec.head_dim;
    if (pool->spec.dtype == SC_DTYPE_F32)
        COPY_SPAN(uint32_t, true);
    else if (pool->spec.dtype == SC_DTYPE_I8)
        unpack_i8(pool, block, slot0, n, k, v);
    else
        COPY_SPAN(uint16_t, true);
    memcpy(sc_cpu_kv_bias(pool, block) + slot0, bias, n * sizeof(*bias));
}

enum sc_status sc_cpu_kv_pack(struct sc_backend *be, struct sc_kv_pool *pool, const uint32_t *pages,
                              uint32_t first, uint32_t n, uint32_t head, void *k, void *v,
                              float *bias, struct sc_err *err)
{
    const size_t row = sc_kv_row_bytes(pool->spec.dtype, pool->spec.head_dim);
    enum sc_status st = sc_check_span(&pool->spec, pool->n_pages, pages, first, n, head, err);
    (void)be;
    for (uint32_t i = 0, some; st == SC_OK && i < n; i += some) {
        some = sc_entries_in_page(first + i, n - i);
        pack_page(pool, sc_cpu_kv_block(pool, pages[(first + i) / SC_PAGE_ENTRIES], head),
                  (first + i) % SC_PAGE_ENTRIES, some, (uint8_t *)k + i * row,
                  (uint8_t *)v + i * row, bias + i);
    }
    return st;
}

enum sc_status sc_cpu_kv_unpack(struct sc_backend *be, struct sc_kv_pool *pool,
                                const uint32_t *pages, uint32_t first, uint32_t n, uint32_t head,
                                const void *k, const void *v, const float *bias, struct sc_err *err)
{
    const size_t row = sc_kv_row_bytes(pool->spec.dtype, pool->spec.head_dim);
    enum sc_status st = sc_check_span(&pool->spec, pool->n_pages, pages, first, n, head, err);
    (void)be;
    for (uint32_t i = 0, some; st == SC_OK && i < n; i += some) {
        some = sc_entries_in_page(first + i, n - i);
        unpack_page(pool, sc_cpu_kv_block(pool, pages[(first + i) / SC_PAGE_ENTRIES], head),
                    (first + i) % SC_PAGE_ENTRIES, some, (const uint8_t *)k + i * row,
                    (const uint8_t *)v + i * row, bias + i);
    }
    return st;
}

enum sc_status sc_cpu_kv_copy(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t dst_page,
                              uint32_t src_page, struct sc_err *err)
{
    (void)be;
    if (dst_page >= pool->n_pages || src_page >= pool->n_pages)
        return sc_fail(err, SC_EINVAL, "kv copy: page %u to %u of %u", src_page, dst_page,
                       pool->n_pages);
    memmove(pool->mem + dst_page * pool->page_bytes, pool->mem + src_page * pool->page_bytes,
            pool->page_bytes);
    return SC_OK;
}

enum sc_status sc_cpu_check_pool(const char *op, const struct sc_kv_pool *pool, uint32_t n_kv_heads,
                                 uint32_t head_dim, struct sc_err *err)
{
    return sc_check_pool(op, pool != NULL ? &pool->spec : NULL, n_kv_heads, head_dim, err);
}

enum sc_status sc_cpu_check_pages(const char *op, const struct sc_kv_pool *pool,
                                  const uint32_t *pages, uint32_t first, uint32_t end,
                                  struct sc_err *err)
{
    return sc_check_pages(op, pool->n_pages, pages, first, end, err);
}
