/* cpu/kv.h - how a page of the pool lies in memory. Private to cpu/.
 *
 * page p: one block per KV head, each block 64-byte aligned:
 *   K    transposed, so that the scores of 32 entries need no horizontal sums: f32 [head_dim][32],
 *        bf16 pairs of dimensions [head_dim / 2][32][2]
 *   V    f32: [32][dim_pad]; bf16: entry pairs [16][dim_pad][2];   dim_pad: head_dim up to 16s
 *   bias f32 [32].
 * bf16 comes in pairs that share 32 bits: dot-product instructions want the two neighbours of a sum
 * side by side, and widening the low and the high half of a 64-byte load takes one instruction
 * each.
 */
#ifndef SC_CPU_KV_H
#define SC_CPU_KV_H

#include "base/backend.h"

struct sc_kv_pool {
    struct sc_kv_spec spec;
    uint32_t n_pages;
    uint32_t dim_pad;
    size_t v_offset, bias_offset; /* in a block */
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

/* Where dimension d of an entry's K lies, in bf16 elements. */
static inline size_t sc_cpu_kv_k_at(uint32_t slot, uint32_t d)
{
    return (size_t)(d / 2) * 2 * SC_PAGE_ENTRIES + 2 * slot + d % 2;
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
    } else {
        uint16_t *v = (uint16_t *)(void *)base + (slot / 2) * 2 * pool->dim_pad + slot % 2;
        for (uint32_t d = 0; d < hd; d++)
            v[2 * d] = sc_f32_to_bf16(x[d]);
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
    } else {
        const uint16_t *v =
            (const uint16_t *)(const void *)base + (slot / 2) * 2 * pool->dim_pad + slot % 2;
        for (uint32_t d = 0; d < hd; d++)
            x[d] = sc_bf16_to_f32(v[2 * d]);
    }
}

#endif
