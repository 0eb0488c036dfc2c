#include "cuda/device.h"

#include "base/backend_check.h"

#include <stdlib.h>
#include <string.h>

#include "base/row_i8.h"
#include "cuda/kernels_blocks.h"
#include "cuda/page.h"

/* K and V of a head lie entry after entry, as core files keep them: pack and unpack are copies,
 * but of I8, whose scales are behind their rows there. The parts of a block are multiples of 32
 * bytes times an even head_dim, so 64-byte aligned, and blocks are of 128 bytes. */
static enum sc_status layout(const struct sc_kv_spec *spec, struct sc_kv_pool *pool,
                             struct sc_err *err)
{
    size_t element = sc_dtype_bytes(spec->dtype);
    if (spec->dtype != SC_DTYPE_F32 && spec->dtype != SC_DTYPE_BF16 && spec->dtype != SC_DTYPE_I8)
        return sc_fail(err, SC_ENOTSUP, "kv pool: dtype %s, allowed f32, bf16 and int8",
                       sc_dtype_name(spec->dtype));
    if (spec->head_dim == 0 || spec->head_dim > SC_CUDA_HEAD_DIM_MAX || spec->head_dim % 2 != 0)
        return sc_fail(err, SC_EINVAL, "kv pool: head_dim %u, allowed even numbers up to %u",
                       spec->head_dim, SC_CUDA_HEAD_DIM_MAX);
    if (spec->n_kv_heads == 0 || spec->n_kv_heads > SC_CUDA_HEADS_MAX)
        return sc_fail(err, SC_EINVAL, "kv pool: %u KV heads, allowed 1 to %u", spec->n_kv_heads,
                       SC_CUDA_HEADS_MAX);
    pool->spec = *spec;
    pool->v_offset = SC_PAGE_ENTRIES * spec->head_dim * element;
    pool->bias_offset =
        2 * (pool->v_offset + (spec->dtype == SC_DTYPE_I8 ? SC_CUDA_SCALES_BYTES : 0));
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

/* A row as it is packed, and back. */
static void narrow_row(const struct sc_kv_spec *spec, const float *x, uint8_t *row)
{
    const uint32_t hd = spec->head_dim;
    uint16_t *row16 = (uint16_t *)(void *)row;
    uint32_t most = 0;

    if (spec->dtype == SC_DTYPE_F32)
        memcpy(row, x, hd * sizeof(*x));
    for (uint32_t d = 0; spec->dtype == SC_DTYPE_BF16 && d < hd; d++)
        row16[d] = sc_f32_to_bf16(x[d]);
    if (spec->dtype != SC_DTYPE_I8)
        return;
    for (uint32_t d = 0; d < hd; d++) {
        const uint32_t magnitude = sc_row_i8_magnitude(x[d]);
        most = magnitude > most ? magnitude : most;
    }
    const float scale = sc_row_i8_scale(most);
    for (uint32_t d = 0; d < hd; d++)
        row[d] = (uint8_t)(scale > 0.0f ? sc_row_i8_round(x[d], scale) : 0);
    memcpy(row + hd, &scale, sizeof(scale));
}

static void widen_row(const struct sc_kv_spec *spec, const uint8_t *row, float *x)
{
    const uint32_t hd = spec->head_dim;
    const uint16_t *row16 = (const uint16_t *)(const void *)row;
    float scale;

    if (spec->dtype == SC_DTYPE_F32)
        memcpy(x, row, hd * sizeof(*x));
    for (uint32_t d = 0; spec->dtype == SC_DTYPE_BF16 && d < hd; d++)
        x[d] = sc_bf16_to_f32(row16[d]);
    if (spec->dtype != SC_DTYPE_I8)
        return;
    memcpy(&scale, row + hd, sizeof(scale));
    for (uint32_t d = 0; d < hd; d++)
        x[d] = scale * (float)(int8_t)row[d];
}

enum sc_status sc_cuda_kv_read(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                               uint32_t slot, uint32_t head, float *k, float *v, float *bias,
                               struct sc_err *err)
{
    float rows[2][SC_CUDA_HEAD_DIM_MAX]; /* of any type: int8 with its scale is shorter */
    enum sc_status st = sc_check_entry(&pool->spec, pool->n_pages, page, slot, head, err);
    if (st == SC_OK)
        st = sc_cuda_kv_pack(be, pool, &page, slot, 1, head, rows[0], rows[1], bias, err);
    if (st != SC_OK)
        return st;
    widen_row(&pool->spec, (const uint8_t *)rows[0], k);
    widen_row(&pool->spec, (const uint8_t *)rows[1], v);
    return SC_OK;
}

enum sc_status sc_cuda_kv_write(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t page,
                                uint32_t slot, uint32_t head, const float *k, const float *v,
                                float bias, struct sc_err *err)
{
    float rows[2][SC_CUDA_HEAD_DIM_MAX];
    enum sc_status st = sc_check_entry(&pool->spec, pool->n_pages, page, slot, head, err);
    if (st != SC_OK)
        return st;
    narrow_row(&pool->spec, k, (uint8_t *)rows[0]);
    narrow_row(&pool->spec, v, (uint8_t *)rows[1]);
    return sc_cuda_kv_unpack(be, pool, &page, slot, 1, head, rows[0], rows[1], &bias, err);
}

/* Rows slot0 .. of a block that came from the device. */
static void pack_block(const struct sc_kv_pool *pool, const uint8_t *block, uint32_t slot0,
                       uint32_t n, uint8_t *k, uint8_t *v, float *bias)
{
    const size_t row = pool->v_offset / SC_PAGE_ENTRIES;
    const uint8_t *ks = block + slot0 * row, *vs = ks + pool->v_offset;

    memcpy(bias, block + pool->bias_offset + slot0 * sizeof(*bias), n * sizeof(*bias));
    if (pool->spec.dtype != SC_DTYPE_I8) {
        memcpy(k, ks, n * row);
        memcpy(v, vs, n * row);
        return;
    }
    const uint8_t *k_scales = block + SC_CUDA_K_SCALES(pool->bias_offset) + slot0 * 4;
    const uint8_t *v_scales = block + SC_CUDA_V_SCALES(pool->bias_offset) + slot0 * 4;
    for (uint32_t i = 0; i < n; i++, k += row + 4, v += row + 4) {
        memcpy(k, ks + i * row, row);
        memcpy(v, vs + i * row, row);
        memcpy(k + row, k_scales + (size_t)i * 4, 4);
        memcpy(v + row, v_scales + (size_t)i * 4, 4);
    }
}

/* Pinned and device memory for n blocks, and the ids of their pages on the device behind them. */
struct batch {
    uint8_t *host;
    struct sc_cuda_blocks blocks;
};

static uint32_t batch_most(const struct sc_kv_pool *pool)
{
    return (uint32_t)((SC_CUDA_STAGE_BYTES - 16) / (pool->head_bytes + sizeof(uint32_t)));
}

static enum sc_status batch_take(struct sc_cuda_device *dev, const struct sc_kv_pool *pool,
                                 const uint32_t *pages, uint32_t n, uint32_t head, bool to_pages,
                                 struct batch *ret, struct sc_err *err)
{
    const size_t bytes = n * pool->head_bytes;
    void *host, *device;
    enum sc_status st =
        sc_cuda_stage_take(dev, bytes + n * sizeof(*pages), "kv entries", &host, &device, err);
    if (st != SC_OK)
        return st;
    ret->host = host;
    ret->blocks = (struct sc_cuda_blocks){
        .mem = block_at(pool, 0, head),
        .page_bytes = pool->page_bytes,
        .block_bytes = pool->head_bytes,
        .pages = (const uint32_t *)(const void *)((uint8_t *)device + bytes),
        .piece = device,
        .n = n,
        .to_pages = to_pages,
    };
    memcpy(ret->host + bytes, pages, n * sizeof(*pages));
    return SC_OK;
}

/* Whole blocks come, as many as there is room for, and are waited for once. */
static enum sc_status fetch_blocks(struct sc_cuda_device *dev, const struct sc_kv_pool *pool,
                                   const uint32_t *pages, uint32_t n, uint32_t head,
                                   struct batch *b, struct sc_err *err)
{
    const size_t bytes = n * pool->head_bytes;
    enum sc_status st = batch_take(dev, pool, pages, n, head, false, b, err);
    if (st == SC_OK)
        st = sc_cuda_stage_send(dev, b->host + bytes, b->blocks.piece + bytes, n * sizeof(*pages),
                                err);
    if (st == SC_OK)
        st = sc_cuda_check(sc_cuda_launch_blocks(&b->blocks, dev->stream), "kv entries", err);
    if (st == SC_OK)
        st = sc_cuda_check(
            cudaMemcpyAsync(b->host, b->blocks.piece, bytes, cudaMemcpyDeviceToHost, dev->stream),
            "kv entries to the host", err);
    return st == SC_OK ? sc_cuda_sync(&dev->base, err) : st;
}

enum sc_status sc_cuda_kv_pack(struct sc_backend *be, struct sc_kv_pool *pool,
                               const uint32_t *pages, uint32_t first, uint32_t n, uint32_t head,
                               void *k, void *v, float *bias, struct sc_err *err)
{
    const size_t row = sc_kv_row_bytes(pool->spec.dtype, pool->spec.head_dim);
    const uint32_t most = batch_most(pool) * SC_PAGE_ENTRIES;
    enum sc_status st = sc_check_span(&pool->spec, pool->n_pages, pages, first, n, head, err);

    for (uint32_t done = 0, some; st == SC_OK && done < n; done += some) {
        const uint32_t begin = first + done, page0 = begin / SC_PAGE_ENTRIES;
        const uint32_t room = most - begin % SC_PAGE_ENTRIES;
        struct batch b;
        some = n - done < room ? n - done : room;
        st = fetch_blocks(sc_cuda_device(be), pool, pages + page0,
                          (begin + some - 1) / SC_PAGE_ENTRIES + 1 - page0, head, &b, err);
        for (uint32_t i = 0, now; st == SC_OK && i < some; i += now) {
            const uint32_t entry = begin + i, at = done + i;
            now = sc_entries_in_page(entry, some - i);
            pack_block(pool, b.host + (entry / SC_PAGE_ENTRIES - page0) * pool->head_bytes,
                       entry % SC_PAGE_ENTRIES, now, (uint8_t *)k + at * row,
                       (uint8_t *)v + at * row, bias + at);
        }
    }
    return st;
}

/* Packed rows of K or V apart from their scales. No row that was rounded holds -128: in one from a
 * file it is 0, as on the CPU. */
static void split_rows(const uint8_t *from, uint32_t n, uint32_t hd, uint8_t *rows, uint8_t *scales)
{
    for (uint32_t i = 0; i < n; i++, from += hd + 4, rows += hd) {
        for (uint32_t d = 0; d < hd; d++)
            rows[d] = from[d] == 0x80 ? 0 : from[d];
        memcpy(scales + (size_t)i * 4, from + hd, 4);
    }
}

/* Of n entries the parts of a block, one behind the other: a whole page's are its block. */
#define PARTS 5
struct parts {
    size_t at[PARTS], bytes[PARTS]; /* where each lies in a block, and bytes of an entry */
};

static struct parts parts_of(const struct sc_kv_pool *pool)
{
    const size_t row = pool->v_offset / SC_PAGE_ENTRIES;
    const size_t scale = pool->spec.dtype == SC_DTYPE_I8 ? sizeof(float) : 0;
    return (struct parts){{0, pool->v_offset, SC_CUDA_K_SCALES(pool->bias_offset),
                           SC_CUDA_V_SCALES(pool->bias_offset), pool->bias_offset},
                          {row, row, scale, scale, sizeof(float)}};
}

static void fill_parts(const struct sc_kv_pool *pool, const struct parts *p, uint32_t n,
                       const void *k, const void *v, const float *bias, uint8_t *to[PARTS])
{
    for (size_t i = 1; i < PARTS; i++)
        to[i] = to[i - 1] + n * p->bytes[i - 1];
    if (pool->spec.dtype == SC_DTYPE_I8) {
        split_rows(k, n, pool->spec.head_dim, to[0], to[2]);
        split_rows(v, n, pool->spec.head_dim, to[1], to[3]);
    } else {
        memcpy(to[0], k, n * p->bytes[0]);
        memcpy(to[1], v, n * p->bytes[1]);
    }
    memcpy(to[4], bias, n * sizeof(*bias));
}

/* Some entries of a page, which leave the others as they are. */
static enum sc_status unpack_some(struct sc_cuda_device *dev, const struct sc_kv_pool *pool,
                                  uint8_t *block, uint32_t slot0, uint32_t n, const void *k,
                                  const void *v, const float *bias, struct sc_err *err)
{
    const struct parts p = parts_of(pool);
    uint8_t *host[PARTS];
    void *staged, *unused;
    enum sc_status st =
        sc_cuda_stage_take(dev, pool->head_bytes, "kv entries", &staged, &unused, err);
    if (st != SC_OK)
        return st;
    host[0] = staged;
    fill_parts(pool, &p, n, k, v, bias, host);
    for (size_t i = 0; st == SC_OK && i < PARTS; i++)
        st = sc_cuda_stage_send(dev, host[i], block + p.at[i] + slot0 * p.bytes[i], n * p.bytes[i],
                                err);
    return st;
}

/* n whole pages: one copy to the device, from where they are shared out. */
static enum sc_status unpack_pages(struct sc_cuda_device *dev, const struct sc_kv_pool *pool,
                                   const uint32_t *pages, uint32_t n, uint32_t head,
                                   const uint8_t *k, const uint8_t *v, const float *bias,
                                   struct sc_err *err)
{
    const size_t page_rows =
        SC_PAGE_ENTRIES * sc_kv_row_bytes(pool->spec.dtype, pool->spec.head_dim);
    const struct parts p = parts_of(pool);
    struct batch b;
    enum sc_status st = batch_take(dev, pool, pages, n, head, true, &b, err);
    if (st != SC_OK)
        return st;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *to[PARTS] = {b.host + i * pool->head_bytes};
        fill_parts(pool, &p, SC_PAGE_ENTRIES, k + i * page_rows, v + i * page_rows,
                   bias + (size_t)i * SC_PAGE_ENTRIES, to);
    }
    st = sc_cuda_stage_send(dev, b.host, b.blocks.piece, n * (pool->head_bytes + sizeof(*pages)),
                            err);
    if (st == SC_OK)
        st = sc_cuda_check(sc_cuda_launch_blocks(&b.blocks, dev->stream), "kv entries", err);
    return st;
}

enum sc_status sc_cuda_kv_unpack(struct sc_backend *be, struct sc_kv_pool *pool,
                                 const uint32_t *pages, uint32_t first, uint32_t n, uint32_t head,
                                 const void *k, const void *v, const float *bias,
                                 struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    const size_t row = sc_kv_row_bytes(pool->spec.dtype, pool->spec.head_dim);
    enum sc_status st = sc_check_span(&pool->spec, pool->n_pages, pages, first, n, head, err);

    sc_cuda_pages_write(dev, false);
    for (uint32_t i = 0, some; st == SC_OK && i < n; i += some) {
        const uint32_t slot = (first + i) % SC_PAGE_ENTRIES;
        const uint32_t *page = pages + (first + i) / SC_PAGE_ENTRIES;
        const uint8_t *ks = (const uint8_t *)k + i * row, *vs = (const uint8_t *)v + i * row;
        uint32_t whole = (n - i) / SC_PAGE_ENTRIES;
        if (slot == 0 && whole > 0) {
            whole = whole < batch_most(pool) ? whole : batch_most(pool);
            some = whole * SC_PAGE_ENTRIES;
            st = unpack_pages(dev, pool, page, whole, head, ks, vs, bias + i, err);
        } else {
            some = sc_entries_in_page(first + i, n - i);
            st = unpack_some(dev, pool, block_at(pool, *page, head), slot, some, ks, vs, bias + i,
                             err);
        }
    }
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
    sc_cuda_pages_write(sc_cuda_device(be), false);
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
