/* cpu/kv.h - how a page of the pool lies in memory. Private to cpu/.
 *
 * page p: one block per KV head, each block 64-byte aligned:
 *   K    transposed, so that the scores of 32 entries need no horizontal sums: f32 [head_dim][32],
 *        bf16 pairs of dimensions [head_dim / 2][32][2]
 *   V    f32: [32][dim_pad]; bf16: entry pairs [16][dim_pad][2];   dim_pad: head_dim up to 16s
 *   I8: two f32 [32], the scales of K and of V
 *   bias f32 [32].
 * I8 pages are bf16 pages in half the bytes, dim_pad up to 32s: kv_i8.h. bf16 comes in pairs that
 * share 32 bits: dot-product instructions want the two neighbours of a sum side by side, and
 * widening the low and the high half of a 64-byte load takes one instruction each.
 */
#ifndef SC_CPU_KV_H
#define SC_CPU_KV_H

#include "base/backend.h"
#include "cpu/cpu.h"
#include "cpu/kv_i8.h"

struct sc_kv_pool {
    struct sc_kv_spec spec;
    uint32_t n_pages;
    uint32_t dim_pad;
    size_t v_offset, bias_offset; /* in a block; I8: scales lie before the biases */
    size_t head_bytes, page_bytes;
    size_t mem_bytes;
    uint8_t *mem;
};

static inline uint8_t *sc_cpu_kv_block(const struct sc_kv_pool *pool, uint32_t page, uint32_t head)
{
    return pool->mem + page * pool->page_bytes + head * pool->head_bytes;
}

static inline float *sc_cpu_kv_bias(const struct sc_kv_pool *pool, uint8_t *block)
{
    return (float *)(void *)(block + pool->bias_offset);
}

/* I8: scales of K [32], then those of V, then the biases. */
static inline float *sc_cpu_kv_scales(const struct sc_kv_pool *pool, uint8_t *block)
{
    return sc_cpu_kv_bias(pool, block) - 2 * SC_PAGE_ENTRIES;
}

/* I8: lines of K and V, which lie one behind the other. */
static inline uint32_t sc_cpu_kv_lines(const struct sc_kv_pool *pool)
{
    return (pool->spec.head_dim + pool->dim_pad) / 2;
}

/* Where dimension d of an entry's K (V) lies, in bf16 elements. */
static inline size_t sc_cpu_kv_k_at(uint32_t slot, uint32_t d)
{
    return (size_t)(d / 2) * 2 * SC_PAGE_ENTRIES + 2 * slot + d % 2;
}

static inline size_t sc_cpu_kv_v_at(const struct sc_kv_pool *pool, uint32_t slot, uint32_t d)
{
    return (size_t)(slot / 2) * 2 * pool->dim_pad + 2 * d + slot % 2;
}

/* Stores x [head_dim] as the K (V) of an entry. */
static inline void sc_cpu_kv_put_k(const struct sc_kv_pool *pool, uint8_t *block, uint32_t slot,
                                   const float *x)
{
    uint32_t hd = pool->spec.head_dim;
    if (pool->spec.dtype == SC_DTYPE_F32) {
        float *k = (float *)(void *)block + slot;
        for (uint32_t d = 0; d < hd; d++)
            k[d * SC_PAGE_ENTRIES] = x[d];
    } else if (pool->spec.dtype == SC_DTYPE_I8) {
        uint8_t bytes[SC_CPU_HEAD_DIM_MAX];
        sc_cpu_kv_scales(pool, block)[slot] = sc_cpu_i8_round(x, hd, bytes);
        for (uint32_t d = 0; d < hd; d++)
            block[sc_cpu_i8_at(sc_cpu_kv_k_at(slot, d))] = bytes[d];
    } else {
        uint16_t *k = (uint16_t *)(void *)block;
        for (uint32_t d = 0; d < hd; d++)
            k[sc_cpu_kv_k_at(slot, d)] = sc_f32_to_bf16(x[d]);
    }
}

static inline void sc_cpu_kv_put_v(const struct sc_kv_pool *pool, uint8_t *block, uint32_t slot,
                                   const float *x)
{
    uint32_t hd = pool->spec.head_dim;
    uint8_t *base = block + pool->v_offset;
    if (pool->spec.dtype == SC_DTYPE_F32) {
        memcpy(base + (size_t)slot * pool->dim_pad * 4, x, hd * 4u);
    } else if (pool->spec.dtype == SC_DTYPE_I8) {
        uint8_t bytes[SC_CPU_HEAD_DIM_MAX];
        sc_cpu_kv_scales(pool, block)[SC_PAGE_ENTRIES + slot] = sc_cpu_i8_round(x, hd, bytes);
        for (uint32_t d = 0; d < hd; d++)
            base[sc_cpu_i8_at(sc_cpu_kv_v_at(pool, slot, d))] = bytes[d];
    } else {
        uint16_t *v = (uint16_t *)(void *)base;
        for (uint32_t d = 0; d < hd; d++)
            v[sc_cpu_kv_v_at(pool, slot, d)] = sc_f32_to_bf16(x[d]);
    }
}

static inline void sc_cpu_kv_get_k(const struct sc_kv_pool *pool, const uint8_t *block,
                                   uint32_t slot, float *x)
{
    uint32_t hd = pool->spec.head_dim;
    if (pool->spec.dtype == SC_DTYPE_F32) {
        const float *k = (const float *)(const void *)block + slot;
        for (uint32_t d = 0; d < hd; d++)
            x[d] = k[d * SC_PAGE_ENTRIES];
    } else if (pool->spec.dtype == SC_DTYPE_I8) {
        float scale = sc_cpu_kv_scales(pool, (uint8_t *)(uintptr_t)block)[slot];
        for (uint32_t d = 0; d < hd; d++)
            x[d] = scale * sc_cpu_i8_whole(block[sc_cpu_i8_at(sc_cpu_kv_k_at(slot, d))]);
    } else {
        const uint16_t *k = (const uint16_t *)(const void *)block;
        for (uint32_t d = 0; d < hd; d++)
            x[d] = sc_bf16_to_f32(k[sc_cpu_kv_k_at(slot, d)]);
    }
}

static inline void sc_cpu_kv_get_v(const struct sc_kv_pool *pool, const uint8_t *block,
                                   uint32_t slot, float *x)
{
    uint32_t hd = pool->spec.head_dim;
    const uint8_t *base = block + pool->v_offset;
    if (pool->spec.dtype == SC_DTYPE_F32) {
        memcpy(x, base + (size_t)slot * pool->dim_pad * 4, hd * 4u);
    } else if (pool->spec.dtype == SC_DTYPE_I8) {
        float scale = sc_cpu_kv_scales(pool, (uint8_t *)(uintptr_t)block)[SC_PAGE_ENTRIES + slot];
        for (uint32_t d = 0; d < hd; d++)
            x[d] = scale * sc_cpu_i8_whole(base[sc_cpu_i8_at(sc_cpu_kv_v_at(pool, slot, d))]);
    } else {
        const uint16_t *v = (const uint16_t *)(const void *)base;
        for (uint32_t d = 0; d < hd; d++)
            x[d] = sc_bf16_to_f32(v[sc_cpu_kv_v_at(pool, slot, d)]);
    }
}

#endif
