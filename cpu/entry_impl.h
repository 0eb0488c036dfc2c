/* cpu/entry_impl.h - entries of a page in and out, included by each kernels_*.c. Private to cpu/.
 *
 * Reads whole vectors: up to 15 entries behind the last one asked for, which lie in the block. */

static void keys_to_columns(const struct sc_kv_pool *pool, const uint8_t *block, uint32_t slot0,
                            uint32_t n, float *xt)
{
    const bool bf16 = pool->spec.dtype == SC_DTYPE_BF16;
    for (uint32_t d = 0; d < pool->spec.head_dim; d++) {
        const uint8_t *row = block + ((bf16 ? d / 2 : d) * SC_PAGE_ENTRIES + slot0) * 4;
        for (uint32_t t = 0; t < n; t += 16) {
            uint32_t count = n - t < 16 ? n - t : 16;
            vf x;
            if (!bf16)
                x = v_loadn((const float *)(const void *)row + t, count);
            else if (d % 2 == 0)
                x = v_low((const uint16_t *)(const void *)row + 2 * t);
            else
                x = v_high((const uint16_t *)(const void *)row + 2 * t);
            v_storen(xt + d * SC_CHUNK_MAX + t, x, count);
        }
    }
}

static void rotate_keys(float *xt, const float *angles, uint32_t m, uint32_t head_dim)
{
    uint32_t half = head_dim / 2 * SC_CHUNK_MAX;
    for (uint32_t d = 0; d < half; d += SC_CHUNK_MAX) {
        for (uint32_t t = 0; t < m; t += 16) {
            vf a = v_load(xt + d + t), b = v_load(xt + half + d + t);
            vf cosine = v_load(angles + d + t), sine = v_load(angles + half + d + t);
            v_store(xt + d + t, v_sub(v_mul(a, cosine), v_mul(b, sine)));
            v_store(xt + half + d + t, v_add(v_mul(b, cosine), v_mul(a, sine)));
        }
    }
}

static void entries_to_rows(const struct sc_kv_pool *pool, const uint8_t *block, uint32_t slot0,
                            uint32_t n, float *k, float *v)
{
    const uint32_t hd = pool->spec.head_dim, dim_pad = pool->dim_pad;
    const uint8_t *base = block + pool->v_offset;

    if (pool->spec.dtype == SC_DTYPE_F32) {
        for (uint32_t i = 0; i < n; i++) {
            sc_cpu_kv_get_k(pool, block, slot0 + i, k + i * hd);
            memcpy(v + i * hd, base + (size_t)(slot0 + i) * dim_pad * 4, hd * sizeof(float));
        }
        return;
    }
    for (uint32_t pair = 0; pair < hd / 2; pair++) {
        const uint32_t *words =
            (const uint32_t *)(const void *)block + pair * SC_PAGE_ENTRIES + slot0;
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t two[2] = {words[i] << 16, words[i] & 0xffff0000u};
            memcpy(k + i * hd + 2 * pair, two, sizeof(two));
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = slot0 + i;
        const uint16_t *row = (const uint16_t *)(const void *)base + (slot / 2) * 2 * dim_pad;
        for (uint32_t d = 0; d < hd; d += 16)
            v_storen(v + i * hd + d, slot % 2 == 0 ? v_low(row + 2 * d) : v_high(row + 2 * d),
                     hd - d < 16 ? hd - d : 16);
    }
}

/* Other threads may write the neighbours of the entry at the same time: elements, never words. */
static void put_entry(const struct sc_kv_pool *pool, uint8_t *block, uint32_t slot, const float *k,
                      const float *v)
{
    const uint32_t hd = pool->spec.head_dim;
    uint16_t half[SC_CPU_HEAD_DIM_MAX];

    if (pool->spec.dtype == SC_DTYPE_F32) {
        sc_cpu_kv_put_k(pool, block, slot, k);
        sc_cpu_kv_put_v(pool, block, slot, v);
        return;
    }
    uint32_t *words = (uint32_t *)(void *)block + slot;
    uint16_t *to =
        (uint16_t *)(void *)(block + pool->v_offset) + (slot / 2) * 2 * pool->dim_pad + slot % 2;
    for (uint32_t d = 0; d < hd; d++)
        half[d] = sc_f32_to_bf16(k[d]);
    for (uint32_t pair = 0; pair < hd / 2; pair++)
        words[pair * SC_PAGE_ENTRIES] = half[2 * pair] | (uint32_t)half[2 * pair + 1] << 16;
    for (uint32_t d = 0; d < hd; d++)
        half[d] = sc_f32_to_bf16(v[d]);
    for (uint32_t d = 0; d < hd; d++)
        to[2 * d] = half[d];
}
