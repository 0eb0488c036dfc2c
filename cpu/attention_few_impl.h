/* cpu/attention_few_impl.h - attention of few queries over bf16 pages with the AVX-512 dot product,
 * included behind attention_bf16_impl.h. Private to cpu/.
 *
 * Page by page, as attention_soon_impl.h says. int8 pages, of which half the bytes come while the
 * same products are made, gain nothing by it.
 */
/* The block that is read after head h of page p. */
static const uint8_t *block_after(const struct sc_cpu_attn *a, const struct stretch *st, uint32_t p,
                                  uint32_t h)
{
    if (h + 1 < a->n_heads)
        return sc_cpu_kv_block(a->pool, st->pages[p], a->head0 + h + 1);
    if (p + 1 < st->n_pages)
        return sc_cpu_kv_block(a->pool, st->pages[p + 1], a->head0);
    return sc_cpu_kv_block(a->pool, st->n_next > 0 ? st->next[0] : st->pages[p], a->head0);
}

/* Scores of one block, of n queries; the first eight ask. */
static void qk_block(uint32_t n, const uint32_t *q, uint32_t head_dim, const uint8_t *k,
                     const float *bias, float *scores, const struct soon *soon)
{
    switch (n < 8 ? n : 8) {
#define QK_CASE(m)                                                                                 \
    case m:                                                                                        \
        qk_rows(m, false, q, head_dim, k, bias, NULL, scores, NULL, soon);                         \
        break;
        CASES_8(QK_CASE)
#undef QK_CASE
    default:
        break;
    }
    if (n > 8)
        qk_any(n - 8, false, q + 8 * 16, head_dim, &k, 1, bias, NULL, scores + 8 * SC_CPU_STRETCH,
               NULL);
}

/* Scores of page p, one query's, into its weights: what hide, settle and weigh do with one page. */
INLINE void weigh_page(float *scores, const struct seen *r, uint32_t p, float *top, float *sum,
                       float *o, uint32_t dim_pad, uint16_t *weights)
{
    vf x = v_load(scores), y = v_load(scores + 16), highest;
    if (r != NULL) {
        x = keep_seen(x, *r, p * SC_PAGE_ENTRIES, v_set1(-INFINITY));
        y = keep_seen(y, *r, p * SC_PAGE_ENTRIES + 16, v_set1(-INFINITY));
    }
    highest = v_max(x, y);
    if (v_any_above(highest, highest, v_set1(*top + SLACK2)))
        raise(v_top(highest), top, sum, o, dim_pad);
    const vf ref = v_set1(*top > -INFINITY ? *top : 0.0f);
    x = v_exp2(v_sub(x, ref));
    y = v_exp2(v_sub(y, ref));
    v_store(sum, v_add(v_load(sum), v_add(x, y)));
    _mm512_storeu_si512(weights, (__m512i)_mm512_cvtne2ps_pbh(y, x));
}

/* All of head h with page p of a stretch; of its entries lo .. hi are seen by some query. */
static void attend_block(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s,
                         const struct stretch *st, uint32_t p, uint32_t h, uint32_t lo, uint32_t hi,
                         bool cut)
{
    const struct sc_kv_pool *pool = a->pool;
    const uint32_t n = a->n_tokens * a->group, words = round_words(pool->spec.head_dim);
    const uint32_t stride = query_stride(pool->dim_pad), query = h * n;
    const uint32_t *q = (const uint32_t *)(const void *)s->attn.q16;
    struct sc_cpu_attn_state *state = &s->attn.span;
    uint8_t *k = sc_cpu_kv_block(pool, st->pages[p], a->head0 + h);
    const uint8_t *v = k + pool->v_offset;
    const struct soon soon = {.values = v, .keys = block_after(a, st, p, h)};

    scale_bias(pool, k, s->attn.bias);
    qk_block(n, q + h * words, pool->spec.head_dim, k, s->attn.bias, s->attn.scores, &soon);
    ask_lines(soon.keys + pool->bias_offset, 2);
    for (uint32_t i = 0; i < n; i++) {
        struct seen r;
        if (cut)
            r = seen_by(a, st, i / a->group);
        weigh_page(s->attn.scores + i * SC_CPU_STRETCH, cut ? &r : NULL, p, &state->top[query + i],
                   state->sum + (query + i) * 16, state->o + (query + i) * stride, pool->dim_pad,
                   s->attn.p16 + 2 * row_words(i));
    }
    if (lo != 0 || hi != SC_PAGE_ENTRIES) {
        mask_v(v, pool->dim_pad, lo, hi, s->attn.v[0]);
        v = (const uint8_t *)s->attn.v[0];
    }
    pv_any(n, false, (const uint32_t *)(const void *)s->attn.p16, &v, 1, pool->dim_pad,
           state->o + query * stride, stride, NULL);
}

static void attend_pages(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s,
                         const struct stretch *st)
{
    const struct seen low = seen_by(a, st, 0), high = seen_by(a, st, a->n_tokens - 1);
    const uint32_t end = (high.hi + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;

    for (uint32_t p = low.lo / SC_PAGE_ENTRIES; p < end; p++) {
        const uint32_t first = p * SC_PAGE_ENTRIES;
        const uint32_t lo = low.lo > first ? low.lo - first : 0;
        const uint32_t hi = high.hi - first < SC_PAGE_ENTRIES ? high.hi - first : SC_PAGE_ENTRIES;
        const bool cut = high.lo > first || low.hi < first + SC_PAGE_ENTRIES; /* for some query */
        for (uint32_t h = 0; h < a->n_heads; h++)
            attend_block(a, s, st, p, h, lo, hi, cut);
    }
}
