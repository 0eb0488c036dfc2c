/* cpu/attention_bf16_impl.h - attention over bf16 pages with bf16 queries and weights, included by
 * the kernels that multiply bf16 by bf16. Private to cpu/.
 *
 * Per KV head, tile of SC_CPU_BF16_TILE queries and stretch of pages: all scores, then all weights,
 * then the weighted sum of the values. The including file has the two products:
 *
 *   at_begin(rows)   once a tile of `rows` queries
 *   qk_pages(i8, rows, q, head_dim, pages, n, bias, scales, scores, ahead)
 *       scores [rows][SC_CPU_STRETCH], page p at 32 p: bias + q k, or with scales (NULL: none; by
 *       page) (q k) scale + bias, rounded once; i8: pages are int8
 *   pv_pages(i8, rows, p16, pages, n, dim_pad, o, o_stride, ahead)
 *       o [rows] += p V
 *   ahead: NULL (many queries: `n` pages), or what to bring nearer while one page is used.
 *
 * and SETTLE_PAGES(i8), how many pages go by before the reference of a query's weights may rise: by
 * it, and not by how many queries come together, results depend.
 *
 * Exponentials are powers of two: queries and biases carry the factor log2 e. Queries, weights and
 * nothing else are rounded to bf16; sums are f32. The order of every sum follows from the absolute
 * number of an entry. Entries that nobody in the tile sees are replaced by zeros, because their
 * memory may hold anything; those that only others see are added with weight zero, which changes no
 * bit as long as the sequence's own values are finite.
 *
 * int8 pages are multiplied as whole numbers, which bf16 is exact for; the scale of K goes to the
 * score, that of V to the weight before it is rounded. Their bytes are always finite, and the scale
 * of an entry that a query does not see counts as zero. Many queries use a copy that was widened
 * once a stretch.
 */
#define SLACK2 11.0f
#define LOG2E  1.44269504f
#define AT_EXP v_exp2

/* 2^x, about 4e-6 relative, exactly 1 at whole x = 0; 0 for -inf; NaN stays. */
INLINE vf v_exp2(vf x)
{
    vf r = _mm512_reduce_ps(x, 0x01); /* x - floor(x) */
    vf y = v_set1(0.0135557577f);
    y = v_fma(y, r, v_set1(0.0520323499f));
    y = v_fma(y, r, v_set1(0.241379763f));
    y = v_fma(y, r, v_set1(0.693032121f));
    y = v_fma(y, r, v_set1(1.0f));
    return _mm512_scalef_ps(y, x);
}

#include "cpu/attention_state.h"

/* Queries in tiles: per head, rows from the first to the last, tiles of 16. */
static void load_queries(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s)
{
    uint32_t hd = a->pool->spec.head_dim, n = a->n_tokens * a->group;
    uint32_t words = round_words(hd), tiles = (n + TILE_ROWS - 1) / TILE_ROWS;
    vf scale = v_set1(a->scale * LOG2E);

    for (uint32_t i = 0; i < query_count(a); i++) {
        const float *from = query_from(a, i);
        uint32_t tile = i / n * tiles + i % n / TILE_ROWS;
        uint32_t *to = (uint32_t *)(void *)s->attn.q16 + tile * words + i % n % TILE_ROWS * 16;
        for (uint32_t d = 0; d < hd; d += TILE_COLS, to += TILE_WORDS) {
            uint32_t left = hd - d;
            vf x = v_loadn(from + d, left < 16 ? left : 16), y = v_zero();
            if (left > 16)
                y = v_loadn(from + d + 16, left < 32 ? left - 16 : 16);
            _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(v_mul(y, scale), v_mul(x, scale)));
        }
    }
}

/* Pages of one stretch. Entries are counted from its first. */
struct stretch {
    uint32_t n_pages;
    bool is_core, cold; /* cold: nobody has asked for it */
    uint32_t end;       /* cores: entries behind this one do not exist */
    uint64_t base;      /* exact: position of entry 0 */
    uint32_t pages[SC_CPU_STRETCH_PAGES];
    uint32_t page0;  /* the first that exists */
    uint32_t n_next; /* pages of the stretch after it, from its first on */
    uint32_t next[SC_CPU_STRETCH_PAGES];
};

struct seen {
    uint32_t lo, hi; /* entries of the stretch */
};

/* What token t of the block sees. Both ends only move upwards from token to token. */
static struct seen seen_by(const struct sc_cpu_attn *a, const struct stretch *st, uint32_t t)
{
    const struct sc_attn_seq *seq = a->seq;
    uint64_t own = (uint64_t)seq->pos0 + a->token0 + t, from = seq->exact_lo;
    struct seen r;

    if (st->is_core)
        return (struct seen){0, st->end};
    if (seq->window != 0 && own + 1 > seq->window && own + 1 - seq->window > from)
        from = own + 1 - seq->window;
    r.lo = from <= st->base                    ? 0
           : from - st->base >= SC_CPU_STRETCH ? SC_CPU_STRETCH
                                               : (uint32_t)(from - st->base);
    r.hi = own < st->base                         ? 0
           : own + 1 - st->base >= SC_CPU_STRETCH ? SC_CPU_STRETCH
                                                  : (uint32_t)(own + 1 - st->base);
    return r;
}

/* Entries e .. e + 16 of x, and `other` where they are not seen. */
INLINE vf keep_seen(vf x, struct seen r, uint32_t e, vf other)
{
    uint32_t lo = r.lo <= e ? 0 : r.lo - e < 16 ? r.lo - e : 16;
    uint32_t hi = r.hi <= e ? 0 : r.hi - e < 16 ? r.hi - e : 16;
    return v_keep(x, lo, hi, other);
}

/* Gives what a query does not see no weight: scores of pages pa .. pb. */
static void hide(float *scores, struct seen r, uint32_t pa, uint32_t pb)
{
    const uint32_t first = pa * SC_PAGE_ENTRIES, end = pb * SC_PAGE_ENTRIES;
    if (r.lo <= first && r.hi >= end)
        return;
    for (uint32_t e = first; e < end; e += 16)
        v_store(scores + e, keep_seen(v_load(scores + e), r, e, v_set1(-INFINITY)));
}

INLINE vf highest_of(const float *scores, uint32_t pa, uint32_t pb)
{
    vf highest = v_set1(-INFINITY);
    for (uint32_t e = pa * SC_PAGE_ENTRIES; e < pb * SC_PAGE_ENTRIES; e += 32)
        highest = v_max(highest, v_max(v_load(scores + e), v_load(scores + e + 16)));
    return highest;
}

/* A query's weights are relative to 2^top. Takes a new top, and brings what was gathered down to
 * it. */
static void raise(float higher, float *top, float *sum, float *o, uint32_t dim_pad)
{
    if (*top > -INFINITY) { /* else there is nothing to rescale */
        vf shrink = v_exp2(v_set1(*top - higher));
        v_store(sum, v_mul(v_load(sum), shrink));
        for (uint32_t d = 0; d < dim_pad; d += 16)
            v_store(o + d, v_mul(v_load(o + d), shrink));
    }
    *top = higher;
}

/* Raises the top where pages from pa on want that, all before pa being in o. Returns the page
 * before which it must rise again, or pb: that one is multiplied first. */
static uint32_t settle(const float *scores, uint32_t pa, uint32_t pb, uint32_t step, float *top,
                       float *sum, float *o, uint32_t dim_pad)
{
    const vf highest = highest_of(scores, pa, pb);
    for (uint32_t p = pa, end; p < pb; p = end) {
        vf here;
        if (!v_any_above(highest, highest, v_set1(*top + SLACK2)))
            return pb; /* most often at once */
        end = (p / step + 1) * step;
        end = end < pb ? end : pb;
        here = highest_of(scores, p, end);
        if (!v_any_above(here, here, v_set1(*top + SLACK2)))
            continue;
        if (p != pa)
            return p;
        raise(v_top(here), top, sum, o, dim_pad);
    }
    return pb;
}

/* Scores of one query, pages pa .. pb, into bf16 weights; page p goes to weights + (p - pa) tiles.
 * scales: by page, of int8 pages, else NULL. */
INLINE void weigh(const float *scores, const float *const *scales, struct seen r, uint32_t pa,
                  uint32_t pb, float top, float *sum, uint16_t *weights)
{
    const uint32_t first = pa * SC_PAGE_ENTRIES, end = pb * SC_PAGE_ENTRIES;
    const bool cut = r.lo > first || r.hi < end;
    const vf ref = v_set1(top > -INFINITY ? top : 0.0f);
    vf lanes = v_load(sum);

    for (uint32_t e = first; e < end; e += 32, weights += 2 * TILE_WORDS) {
        vf x = v_exp2(v_sub(v_load(scores + e), ref));
        vf y = v_exp2(v_sub(v_load(scores + e + 16), ref));
        lanes = v_add(lanes, v_add(x, y));
        if (scales != NULL) {
            const float *of_v = scales[e / SC_PAGE_ENTRIES] + SC_PAGE_ENTRIES;
            vf sx = v_load(of_v), sy = v_load(of_v + 16);
            x = v_mul(x, cut ? keep_seen(sx, r, e, v_zero()) : sx);
            y = v_mul(y, cut ? keep_seen(sy, r, e + 16, v_zero()) : sy);
        }
        _mm512_storeu_si512(weights, (__m512i)_mm512_cvtne2ps_pbh(y, x));
    }
    v_store(sum, lanes);
}

/* V of a page with entries outside [lo, hi) zero. */
static void mask_v(const uint8_t *v, uint32_t dim_pad, uint32_t lo, uint32_t hi, uint16_t *out)
{
    for (uint32_t pair = 0; pair < SC_PAGE_ENTRIES / 2; pair++) {
        uint32_t mask = (2 * pair >= lo && 2 * pair < hi ? 0xffffu : 0) |
                        (2 * pair + 1 >= lo && 2 * pair + 1 < hi ? 0xffff0000u : 0);
        const uint8_t *from = v + (size_t)pair * dim_pad * 4;
        for (uint32_t d = 0; d < dim_pad; d += 16)
            _mm512_storeu_si512(
                out + (pair * dim_pad + d) * 2,
                _mm512_and_si512(_mm512_loadu_si512(from + d * 4), _mm512_set1_epi32((int)mask)));
    }
}

/* Where the weights of a row of scratch begin, in words. */
INLINE uint32_t row_words(uint32_t row)
{
    return row / TILE_ROWS * SC_CPU_STRETCH_PAGES * TILE_WORDS + row % TILE_ROWS * 16;
}

/* The blocks of one head in a stretch. */
struct blocks {
    const uint8_t *k[SC_CPU_STRETCH_PAGES], *v[SC_CPU_STRETCH_PAGES]; /* int8: widened */
    const float *scales[SC_CPU_STRETCH_PAGES];                        /* int8 */
};

/* Queries q0 .. q0 + nq of one head; base: the head's first query in scratch. */
static void attend_tile(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s,
                        const struct stretch *st, const struct blocks *blocks, uint32_t head,
                        uint32_t q0, uint32_t nq)
{
    const struct sc_kv_pool *pool = a->pool;
    const uint32_t n = a->n_tokens * a->group, base = head * n + q0,
                   words = round_words(pool->spec.head_dim);
    const uint32_t tile = head * ((n + TILE_ROWS - 1) / TILE_ROWS) + q0 / TILE_ROWS;
    const uint32_t stride = query_stride(pool->dim_pad);
    struct sc_cpu_attn_state *state = &s->attn.span;
    struct seen low = seen_by(a, st, q0 / a->group),
                high = seen_by(a, st, (q0 + nq - 1) / a->group);
    const uint8_t *v[SC_CPU_STRETCH_PAGES];
    const bool i8 = pool->spec.dtype == SC_DTYPE_I8;
    uint32_t pa = low.lo / SC_PAGE_ENTRIES, pb = (high.hi + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;

    if (high.hi == 0 || low.lo == SC_CPU_STRETCH)
        return;
    at_begin(nq);
    qk_pages(false, nq, (const uint32_t *)(const void *)s->attn.q16 + tile * words,
             pool->spec.head_dim, blocks->k + pa, pb - pa, s->attn.bias + pa * SC_PAGE_ENTRIES,
             i8 ? blocks->scales + pa : NULL, s->attn.scores + pa * SC_PAGE_ENTRIES, NULL);
    memcpy(v + pa, blocks->v + pa, (pb - pa) * sizeof(v[0]));
    if (!i8 &&
        (low.lo % SC_PAGE_ENTRIES != 0 || (pb - pa == 1 && high.hi % SC_PAGE_ENTRIES != 0))) {
        uint32_t end = high.hi - pa * SC_PAGE_ENTRIES;
        mask_v(v[pa], pool->dim_pad, low.lo % SC_PAGE_ENTRIES,
               end < SC_PAGE_ENTRIES ? end : SC_PAGE_ENTRIES, s->attn.v[0]);
        v[pa] = (const uint8_t *)s->attn.v[0];
    }
    if (!i8 && pb - pa > 1 && high.hi % SC_PAGE_ENTRIES != 0) {
        mask_v(v[pb - 1], pool->dim_pad, 0, high.hi % SC_PAGE_ENTRIES, s->attn.v[1]);
        v[pb - 1] = (const uint8_t *)s->attn.v[1];
    }
    for (uint32_t i = 0; i < nq; i++)
        hide(s->attn.scores + i * SC_CPU_STRETCH, seen_by(a, st, (q0 + i) / a->group), pa, pb);
    for (uint32_t end; pa < pb; pa = end) { /* most often at one go */
        end = pb;
        for (uint32_t i = 0; i < nq; i++)
            end = settle(s->attn.scores + i * SC_CPU_STRETCH, pa, end, SETTLE_PAGES(i8),
                         &state->top[base + i], state->sum + (base + i) * 16,
                         state->o + (base + i) * stride, pool->dim_pad);
        for (uint32_t i = 0; i < nq; i++)
            weigh(s->attn.scores + i * SC_CPU_STRETCH, i8 ? blocks->scales : NULL,
                  seen_by(a, st, (q0 + i) / a->group), pa, end, state->top[base + i],
                  state->sum + (base + i) * 16, s->attn.p16 + 2 * row_words(i));
        pv_pages(false, nq, (const uint32_t *)(const void *)s->attn.p16, v + pa, end - pa,
                 pool->dim_pad, state->o + base * stride, stride, NULL);
    }
}

/* Biases of a page's block, times log2 e. */
INLINE void scale_bias(const struct sc_kv_pool *pool, uint8_t *block, float *to)
{
    const float *bias = sc_cpu_kv_bias(pool, block);
    for (uint32_t e = 0; e < SC_PAGE_ENTRIES; e += 16)
        v_store(to + e, v_mul(v_load(bias + e), v_set1(LOG2E)));
}

/* Asks for bytes [from, end) of a block. */
INLINE void fetch(const uint8_t *block, size_t from, size_t end)
{
    for (; from < end; from += 64)
        _mm_prefetch(block + from, _MM_HINT_T1);
}

/* The same for so few queries that attention waits for memory: n_heads heads together, page after
 * page, so that memory is read in the order in which it lies. `rows` of the scratch for each head,
 * n_heads * rows <= SC_CPU_BF16_TILE. While keys are used the values come near, and with them the
 * keys of the next stretch; those of a task's first stretch come page by page. */
static void attend_few(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s,
                       const struct stretch *st, uint32_t head0, uint32_t n_heads, uint32_t rows)
{
    const struct sc_kv_pool *pool = a->pool;
    const uint32_t n = a->n_tokens * a->group, words = round_words(pool->spec.head_dim);
    const uint32_t stride = query_stride(pool->dim_pad);
    const struct seen low = seen_by(a, st, 0), high = seen_by(a, st, a->n_tokens - 1);
    const uint32_t pa = low.lo / SC_PAGE_ENTRIES;
    const uint32_t pb = (high.hi + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
    const uint32_t *q = (const uint32_t *)(const void *)s->attn.q16;
    uint32_t *weights = (uint32_t *)(void *)s->attn.p16;
    struct sc_cpu_attn_state *state = &s->attn.span;
    const bool i8 = pool->spec.dtype == SC_DTYPE_I8;
    /* Where scales and biases begin. */
    const size_t tail = pool->bias_offset - (i8 ? 2 * SC_PAGE_ENTRIES * sizeof(float) : 0);

    if (high.hi == 0 || low.lo == SC_CPU_STRETCH)
        return;
    at_begin(n);
    for (uint32_t p = pa; p < pb; p++) {
        for (uint32_t h = 0; h < n_heads; h++) {
            uint8_t *k = sc_cpu_kv_block(pool, st->pages[p], a->head0 + head0 + h);
            const uint8_t *v = k + pool->v_offset;
            const float *scales = sc_cpu_kv_scales(pool, k);
            if (st->cold && p + 1 < pb) {
                const uint8_t *next = sc_cpu_kv_block(pool, st->pages[p + 1], a->head0 + head0 + h);
                fetch(next, 0, pool->v_offset);
                fetch(next, tail, pool->head_bytes);
            }
            scale_bias(pool, k, s->attn.bias);
            const bool last = h + 1 == n_heads;
            const struct ahead ahead = {
                .near = !last        ? k + pool->head_bytes
                        : p + 1 < pb ? sc_cpu_kv_block(pool, st->pages[p + 1], a->head0 + head0)
                                     : NULL,
                .far = v};
            qk_pages(i8, n, q + (head0 + h) * words, pool->spec.head_dim,
                     (const uint8_t *const *)&k, 1, s->attn.bias, i8 ? &scales : NULL,
                     s->attn.scores + h * rows * SC_CPU_STRETCH + p * SC_PAGE_ENTRIES, &ahead);
        }
    }
    for (uint32_t h = 0; h < n_heads; h++) {
        const float *scales[SC_CPU_STRETCH_PAGES];
        for (uint32_t p = pa; i8 && p < pb; p++)
            scales[p] =
                sc_cpu_kv_scales(pool, sc_cpu_kv_block(pool, st->pages[p], a->head0 + head0 + h));
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t row = h * rows + i, query = (head0 + h) * n + i;
            const struct seen r = seen_by(a, st, i / a->group);
            float *scores = s->attn.scores + row * SC_CPU_STRETCH, *sum = state->sum + query * 16;
            hide(scores, r, pa, pb);
            (void)settle(scores, pa, pb, SETTLE_PAGES(i8), &state->top[query], sum,
                         state->o + query * stride, pool->dim_pad);
            weigh(scores, i8 ? scales : NULL, r, pa, pb, state->top[query], sum,
                  (uint16_t *)(void *)(weights + row_words(row)));
        }
    }
    for (uint32_t p = pa; p < pb; p++) {
        const uint32_t first = p * SC_PAGE_ENTRIES;
        const uint32_t lo = low.lo > first ? low.lo - first : 0;
        const uint32_t hi = high.hi - first < SC_PAGE_ENTRIES ? high.hi - first : SC_PAGE_ENTRIES;
        for (uint32_t h = 0; h < n_heads; h++) {
            const uint8_t *v = sc_cpu_kv_block(pool, st->pages[p], a->head0 + head0 + h);
            const uint8_t *next =
                p < st->n_next ? sc_cpu_kv_block(pool, st->next[p], a->head0 + head0 + h) : NULL;
            v += pool->v_offset;
            if (next != NULL)
                fetch(next, tail, pool->head_bytes);
            const bool last = h + 1 == n_heads;
            const struct ahead ahead = {
                .near = !last        ? v + pool->head_bytes
                        : p + 1 < pb ? sc_cpu_kv_block(pool, st->pages[p + 1], a->head0 + head0) +
                                           pool->v_offset
                                     : NULL,
                .far = next};
            if (!i8 && (lo != 0 || hi != SC_PAGE_ENTRIES)) {
                mask_v(v, pool->dim_pad, lo, hi, s->attn.v[0]);
                v = (const uint8_t *)s->attn.v[0];
            }
            pv_pages(i8, n, weights + row_words(h * rows) + (p - pa) * TILE_WORDS, &v, 1,
                     pool->dim_pad, state->o + (head0 + h) * n * stride, stride, &ahead);
        }
    }
}

/* For attend_tile: the block of page p of the stretch, and what its scores begin as. */
static void find_block(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s, uint8_t *block,
                       uint32_t p, struct blocks *blocks)
{
    const struct sc_kv_pool *pool = a->pool;
    uint16_t *wide = s->attn.pages[p];

    blocks->k[p] = block;
    blocks->v[p] = block + pool->v_offset;
    scale_bias(pool, block, s->attn.bias + p * SC_PAGE_ENTRIES);
    if (pool->spec.dtype != SC_DTYPE_I8)
        return;
    for (uint32_t line = 0; line < sc_cpu_kv_lines(pool); line++)
        v_widen(block + line * SC_CPU_LINE, wide + line * SC_CPU_LINE);
    blocks->k[p] = (const uint8_t *)wide;
    blocks->v[p] = blocks->k[p] + 2 * pool->v_offset;
    blocks->scales[p] = sc_cpu_kv_scales(pool, block);
}

#ifdef SC_FEW_BY_PAGE /* attention_few_impl.h */
static void attend_pages(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s,
                         const struct stretch *st);
#endif

static void attend_stretch(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s,
                           const struct stretch *st)
{
    uint32_t n = a->n_tokens * a->group, rows = 1;
#ifdef SC_FEW_BY_PAGE
    if (n <= TILE_ROWS && a->pool->spec.dtype != SC_DTYPE_I8) {
        attend_pages(a, s, st);
        return;
    }
#endif
    if (n <= TILE_ROWS) {
        while (rows < n) /* those of a head lie in one tile */
            rows *= 2;
        for (uint32_t h = 0; h < a->n_heads; h += SC_CPU_BF16_TILE / rows) {
            uint32_t left = a->n_heads - h, most = SC_CPU_BF16_TILE / rows;
            attend_few(a, s, st, h, left < most ? left : most, rows);
        }
        return;
    }
    for (uint32_t h = 0; h < a->n_heads; h++) {
        struct blocks blocks;
        for (uint32_t p = st->page0; p < st->n_pages; p++)
            find_block(a, s, sc_cpu_kv_block(a->pool, st->pages[p], a->head0 + h), p, &blocks);
        for (uint32_t q0 = 0; q0 < n; q0 += SC_CPU_BF16_TILE)
            attend_tile(a, s, st, &blocks, h, q0,
                        n - q0 < SC_CPU_BF16_TILE ? n - q0 : SC_CPU_BF16_TILE);
    }
}

/* Stretches of one span: pages [page, end) of a table. */
static void attend_span(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s,
                        const struct sc_cpu_attn_spans *spans, uint32_t span)
{
    const struct sc_attn_seq *seq = a->seq;
    const bool is_core = span < spans->n_core_spans;
    const uint32_t *table = is_core ? seq->core_pages : seq->exact_pages;
    uint32_t first = is_core ? 0 : spans->exact_page0;
    uint32_t last = is_core ? spans->n_core_pages : spans->exact_page1;
    uint32_t page =
        (is_core ? span : spans->exact_span0 + span - spans->n_core_spans) * SC_CPU_SPAN_PAGES;
    uint32_t end = page + SC_CPU_SPAN_PAGES;
    /* The next span is another thread's, if it is not this task's. */
    const uint32_t asked = span + 1 < a->span0 + a->n_spans || last < end ? last : end;
    bool cold = span == a->span0 || span == spans->n_core_spans;

    for (; page < end && page < last; page += SC_CPU_STRETCH_PAGES) {
        struct stretch st = {
            .is_core = is_core, .cold = cold, .base = (uint64_t)page * SC_PAGE_ENTRIES};
        if (page + SC_CPU_STRETCH_PAGES <= first)
            continue;
        cold = false;
        st.page0 = page < first ? first - page : 0;
        st.n_pages = last - page < SC_CPU_STRETCH_PAGES ? last - page : SC_CPU_STRETCH_PAGES;
        for (uint32_t p = st.page0; p < st.n_pages; p++)
            st.pages[p] = table[page + p];
        for (uint32_t next = page + SC_CPU_STRETCH_PAGES;
             st.n_next < SC_CPU_STRETCH_PAGES && next + st.n_next < asked; st.n_next++)
            st.next[st.n_next] = table[next + st.n_next];
        if (is_core) {
            uint32_t left = seq->n_cores - page * SC_PAGE_ENTRIES;
            st.end = left < SC_CPU_STRETCH ? left : SC_CPU_STRETCH;
        }
        attend_stretch(a, s, &st);
    }
}
