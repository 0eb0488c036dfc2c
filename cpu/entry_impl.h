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
    if (pool->spec.dtype == SC_DTYPE_I8) {
        keys_to_columns_i8(pool, block, slot0, n, xt);
        return;
    }
    if (pool->spec.dtype == SC_DTYPE_F32) {
        const float *row = (const float *)(const void *)block + slot0;
        for (uint32_t d = 0; d < pool->spec.head_dim; d++)
            memcpy(xt + d * SC_CHUNK_MAX, row + d * SC_PAGE_ENTRIES, n * sizeof(*xt));
        return;
    }
    for (uint32_t d = 0; d < pool->spec.head_dim; d += 2) {
        const uint16_t *pairs = (const uint16_t *)(const void *)block + sc_cpu_kv_k_at(slot0, d);
        float *lo = xt + d * SC_CHUNK_MAX, *hi = lo + SC_CHUNK_MAX;
        uint32_t t = 0;
        for (; t + 16 <= n; t += 16) {
            v_store(lo + t, v_low(pairs + 2 * t));
            v_store(hi + t, v_high(pairs + 2 * t));
        }
        if (t < n) {
            v_storen(lo + t, v_low(pairs + 2 * t), n - t);
            v_storen(hi + t, v_high(pairs + 2 * t), n - t);
        }
    }
}

INLINE void rotate_block(float *lo, float *hi, const float *cosines, const float *sines,
                         uint32_t left)
{
    vf a = left < 16 ? v_loadn(lo, left) : v_load(lo);
    vf b = left < 16 ? v_loadn(hi, left) : v_load(hi);
    vf cosine = v_load(cosines), sine = v_load(sines);
    v_store(lo, v_sub(v_mul(a, cosine), v_mul(b, sine)));
    v_store(hi, v_add(v_mul(b, cosine), v_mul(a, sine)));
}

static void rotate_keys(float *xt, const float *angles, uint32_t m, uint32_t head_dim)
{
    const uint32_t half = head_dim / 2 * SC_CHUNK_MAX;
    for (uint32_t d = 0; d < half; d += SC_CHUNK_MAX) {
        uint32_t t = 0;
        for (; t + 16 <= m; t += 16)
            rotate_block(xt + d + t, xt + half + d + t, angles + d + t, angles + half + d + t, 16);
        if (t < m)
            rotate_block(xt + d + t, xt + half + d + t, angles + d + t, angles + half + d + t,
                         m - t);
    }
}

/* Sixteen pairs of dimensions, or the n_pairs that are left, of n <= 16 entries to rows of k.
 * words: the pairs of the first entry, one below the other, `stride` apart. scales: of the entries,
 * or NULL. */
INLINE void pairs_to_rows(const uint16_t *words, size_t stride, uint32_t n_pairs, uint32_t n,
                          const float *scales, uint32_t head_dim, float *k)
{
    vf x[16];

#pragma GCC unroll 16
    for (uint32_t p = 0; p < 16; p++) /* bits, of no meaning as numbers */
        x[p] = p < n_pairs ? v_load((const float *)(const void *)(words + p * stride)) : v_zero();
    v_transpose(x);
    for (uint32_t i = 0; i < n; i++, k += head_dim) {
        vf lo, hi;
        v_unpair(x[i], &lo, &hi);
        if (scales != NULL) {
            lo = v_mul(lo, v_set1(scales[i]));
            hi = v_mul(hi, v_set1(scales[i]));
        }
        if (n_pairs == 16) {
            v_store(k, lo);
            v_store(k + 16, hi);
        } else {
            v_storen(k, lo, n_pairs < 8 ? 2 * n_pairs : 16);
            if (n_pairs > 8)
                v_storen(k + 16, hi, 2 * n_pairs - 16);
        }
    }
}

/* words: as kept, or widened; entries slot0 .. slot0 + n. */
INLINE void keys_to_rows(const uint16_t *words, size_t stride, uint32_t n_pairs, uint32_t n,
                         const float *scales, uint32_t head_dim, float *k)
{
    for (uint32_t t = 0; t < n; t += 16) {
        const uint32_t count = n - t < 16 ? n - t : 16;
        const float *own = scales != NULL ? scales + t : NULL;
        if (n_pairs == 16)
            pairs_to_rows(words + 2 * t, stride, 16, count, own, head_dim, k + t * head_dim);
        else
            pairs_to_rows(words + 2 * t, stride, n_pairs, count, own, head_dim, k + t * head_dim);
    }
}

static void entries_to_rows_i8(const struct sc_kv_pool *pool, const uint8_t *block, uint32_t slot0,
                               uint32_t n, float *k, float *v)
{
    const uint32_t hd = pool->spec.head_dim;
    const float *scales = sc_cpu_kv_scales(pool, (uint8_t *)(uintptr_t)block) + slot0;
    _Alignas(64) struct wide_line lines[16];

    for (uint32_t d = 0; d < hd; d += 32) {
        const uint32_t n_pairs = hd - d < 32 ? (hd - d) / 2 : 16;
        for (uint32_t p = 0; p < n_pairs; p++)
            lines[p] = widen_line(block + (d / 2 + p) * SC_CPU_LINE);
        keys_to_rows(lines[0].pairs + 2 * slot0, SC_ARRAY_LEN(lines[0].pairs), n_pairs, n, scales,
                     hd, k + d);
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
    for (uint32_t d = 0; d < hd; d += 32)
        keys_to_rows((const uint16_t *)(const void *)block + sc_cpu_kv_k_at(slot0, d),
                     2 * SC_PAGE_ENTRIES, hd - d < 32 ? (hd - d) / 2 : 16, n, NULL, hd, k + d);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = slot0 + i;
        const uint16_t *row = (const uint16_t *)(const void *)base + (slot / 2) * 2 * dim_pad;
        uint32_t d = 0;
        for (; d + 16 <= hd; d += 16)
            v_store(v + i * hd + d, slot % 2 == 0 ? v_low(row + 2 * d) : v_high(row + 2 * d));
        if (d < hd)
            v_storen(v + i * hd + d, slot % 2 == 0 ? v_low(row + 2 * d) : v_high(row + 2 * d),
                     hd - d);
    }
}

/* to += from, for each of n rows. */
static void add_rows(float *const *to, const float *from, uint32_t n, uint32_t head_dim)
{
    for (uint32_t i = 0; i < n; i++, from += head_dim) {
        uint32_t d = 0;
        for (; d + 16 <= head_dim; d += 16)
            v_store(to[i] + d, v_add(v_load(to[i] + d), v_load(from + d)));
        if (d < head_dim) {
            const uint32_t left = head_dim - d;
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

/* The two dimensions of a pair lie side by side in K, those of one entry two apart in V. Other
 * threads may write the neighbours of the entry at the same time: elements, never words. */
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
