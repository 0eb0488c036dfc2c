/* cpu/entry_impl.h - entries of a page in and out, included by each kernels_*.c. Private to cpu/.
 *
 * Reads whole vectors: up to 15 entries behind the last one asked for, which lie in the block. */

/* I8: a line as bf16, with room for a whole vector behind its last pair. */
struct wide_line {
    uint16_t pairs[64 + 32];
};

INLINE struct wide_line widen_line(const uint8_t *line)
{
    struct wide_line w = {0};
    v_widen(line, w.pairs);
    return w;
}

static void keys_to_columns_i8(const struct sc_kv_pool *pool, const uint8_t *block, uint32_t slot0,
                               uint32_t n, float *xt)
{
    const float *scales = sc_cpu_kv_scales(pool, (uint8_t *)(uintptr_t)block) + slot0;
    for (uint32_t d = 0; d < pool->spec.head_dim; d += 2) {
        const struct wide_line w = widen_line(block + d / 2 * SC_CPU_LINE);
        for (uint32_t t = 0; t < n; t += 16) {
            uint32_t count = n - t < 16 ? n - t : 16;
            vf scale = v_loadn(scales + t, count);
            const uint16_t *pairs = w.pairs + 2 * (slot0 + t);
            v_storen(xt + d * SC_CHUNK_MAX + t, v_mul(v_low(pairs), scale), count);
            v_storen(xt + (d + 1) * SC_CHUNK_MAX + t, v_mul(v_high(pairs), scale), count);
        }
    }
}

static void keys_to_columns(const struct sc_kv_pool *pool, const uint8_t *block, uint32_t slot0,
                            uint32_t n, float *xt)
{
    const bool bf16 = pool->spec.dtype == SC_DTYPE_BF16;
    if (pool->spec.dtype == SC_DTYPE_I8) {
        keys_to_columns_i8(pool, block, slot0, n, xt);
        return;
    }
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

static void entries_to_rows_i8(const struct sc_kv_pool *pool, const uint8_t *block, uint32_t slot0,
                               uint32_t n, float *k, float *v)
{
    const uint32_t hd = pool->spec.head_dim;
    const float *scales = sc_cpu_kv_scales(pool, (uint8_t *)(uintptr_t)block) + slot0;

    for (uint32_t d = 0; d < hd; d += 2) {
        const struct wide_line w = widen_line(block + d / 2 * SC_CPU_LINE);
        for (uint32_t i = 0; i < n; i++) {
            k[i * hd + d] = sc_bf16_to_f32(w.pairs[2 * (slot0 + i)]) * scales[i];
            k[i * hd + d + 1] = sc_bf16_to_f32(w.pairs[2 * (slot0 + i) + 1]) * scales[i];
        }
    }
    scales += SC_PAGE_ENTRIES;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t slot = slot0 + i;
        const uint8_t *row = block + pool->v_offset + (size_t)(slot / 2) * 2 * pool->dim_pad;
        for (uint32_t d = 0; d < hd; d += 16) {
            const struct wide_line w = widen_line(row + d / 32 * SC_CPU_LINE);
            const uint16_t *pairs = w.pairs + d % 32 * 2;
            vf x = slot % 2 == 0 ? v_low(pairs) : v_high(pairs);
            v_storen(v + i * hd + d, v_mul(x, v_set1(scales[i])), hd - d < 16 ? hd - d : 16);
        }
    }
}

static void entries_to_rows(const struct sc_kv_pool *pool, const uint8_t *block, uint32_t slot0,
                            uint32_t n, float *k, float *v)
{
    const uint32_t hd = pool->spec.head_dim, dim_pad = pool->dim_pad;
    const uint8_t *base = block + pool->v_offset;

    if (pool->spec.dtype == SC_DTYPE_I8) {
        entries_to_rows_i8(pool, block, slot0, n, k, v);
        return;
    }
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

/* The two dimensions of a pair lie side by side in K, those of one entry two apart in V. */
/* to += from, for each of n rows. */
static void add_rows(float *const *to, const float *from, uint32_t n, uint32_t head_dim)
{
    for (uint32_t i = 0; i < n; i++, from += head_dim) {
        for (uint32_t d = 0; d < head_dim; d += 16) {
            const uint32_t left = head_dim - d < 16 ? head_dim - d : 16;
            v_storen(to[i] + d, v_add(v_loadn(to[i] + d, left), v_loadn(from + d, left)), left);
        }
    }
}

static void put_entry_i8(const struct sc_kv_pool *pool, uint8_t *block, uint32_t slot,
                         const float *k, const float *v)
{
    const uint32_t hd = pool->spec.head_dim;
    float *scales = sc_cpu_kv_scales(pool, block) + slot;
    uint8_t bytes[SC_CPU_HEAD_DIM_MAX];
    uint8_t *to = block + sc_cpu_i8_at(sc_cpu_kv_k_at(slot, 0));

    *scales = sc_cpu_i8_round(k, hd, bytes);
    for (uint32_t d = 0; d < hd; d += 2)
        memcpy(to + d / 2 * SC_CPU_LINE, bytes + d, 2);
    scales[SC_PAGE_ENTRIES] = sc_cpu_i8_round(v, hd, bytes);
    to = block + pool->v_offset + sc_cpu_kv_v_at(pool, slot, 0);
    for (uint32_t d = 0; d < hd; d++)
        to[sc_cpu_i8_at(2 * (size_t)d)] = bytes[d];
}

/* Other threads may write the neighbours of the entry at the same time: elements, never words. */
static void put_entry(const struct sc_kv_pool *pool, uint8_t *block, uint32_t slot, const float *k,
                      const float *v)
{
    const uint32_t hd = pool->spec.head_dim;
    uint16_t half[SC_CPU_HEAD_DIM_MAX];

    if (pool->spec.dtype == SC_DTYPE_I8) {
        put_entry_i8(pool, block, slot, k, v);
        return;
    }
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
