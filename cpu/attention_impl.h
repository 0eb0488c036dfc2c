/* cpu/attention_impl.h - attention of a block of queries, included by each kernels_*.c. Private to
 * cpu/.
 *
 * Per page: scores of 32 entries (lanes are entries), exponentials against a reference, weighted
 * sum of values (lanes are dimensions). The reference of a query moves only when a score exceeds it
 * by more than SLACK; weights then stay below e^SLACK, and most pages need no rescaling. What a
 * query reads and the order of its sums follow from its own entries alone: entries that it does not
 * see are never added, not even with weight zero, because their memory may hold anything.
 *
 * int8 pages are widened to bf16, which whole numbers are exactly: the scale of K goes to the
 * score, that of V to the weight.
 */
#define SLACK  8.0f
#define AT_EXP v_exp

#include "cpu/attention_soon_impl.h"
#include "cpu/attention_state.h"

struct range {
    uint32_t lo, hi; /* visible entries of a page */
};

/* Scores of nq queries into p [nq][32]; asks: for what comes soon. */
INLINE void qk_tile(const int nq, const bool bf16, const bool asks, const uint8_t *block,
                    const float *bias, const float *q, uint32_t stride, uint32_t head_dim, float *p,
                    const struct soon *soon)
{
    const uint8_t *ask = asks ? soon->values : NULL;
    for (int col = 0; col < 2; col += QK_COLS) {
        vf s[AT_TILE][QK_COLS];
#pragma GCC unroll 12
        for (int i = 0; i < nq; i++) {
#pragma GCC unroll 2
            for (int c = 0; c < QK_COLS; c++)
                s[i][c] = v_load(bias + 16 * (col + c));
        }
        for (uint32_t d = 0; d < head_dim; d++) {
            /* bf16: dimension d of entry e in the low or high half of word [d / 2][e] */
            const uint8_t *row = block + (bf16 ? d / 2 : d) * SC_PAGE_ENTRIES * 4 + 64 * col;
            vf k[QK_COLS];
            if (asks && col == 0 && !(bf16 && d % 2 != 0)) {
                if (d == head_dim / 4 * 2)
                    ask = soon->keys;
                ask_lines(ask, 4);
                ask += 4 * SC_CPU_LINE;
            }
#pragma GCC unroll 2
            for (int c = 0; c < QK_COLS; c++) {
                if (!bf16)
                    k[c] = v_load((const float *)(const void *)row + 16 * c);
                else if (d % 2 == 0)
                    k[c] = v_low((const uint16_t *)(const void *)row + 32 * c);
                else
                    k[c] = v_high((const uint16_t *)(const void *)row + 32 * c);
            }
#pragma GCC unroll 12
            for (int i = 0; i < nq; i++) {
                vf x = v_set1(q[(uint32_t)i * stride + d]);
#pragma GCC unroll 2
                for (int c = 0; c < QK_COLS; c++)
                    s[i][c] = v_fma(k[c], x, s[i][c]);
            }
        }
#pragma GCC unroll 12
        for (int i = 0; i < nq; i++) {
#pragma GCC unroll 2
            for (int c = 0; c < QK_COLS; c++)
                v_store(p + 32 * i + 16 * (col + c), s[i][c]);
        }
    }
}

/* o [nq] += p V over entries lo..hi, in rising order; nc vectors of dimensions. v points at the
 * first dimension of entry 0, o likewise. */
INLINE void pv_columns(const int nq, const int nc, const bool bf16, const uint8_t *v,
                       uint32_t dim_pad, struct range r, const float *p, float *o)
{
    vf acc[AT_TILE][PV_WIDE];
#pragma GCC unroll 12
    for (int i = 0; i < nq; i++) {
#pragma GCC unroll 4
        for (int c = 0; c < nc; c++)
            acc[i][c] = v_load(o + (uint32_t)i * query_stride(dim_pad) + 16 * c);
    }
    for (uint32_t e = r.lo; e < r.hi; e++) {
        vf x[PV_WIDE];
#pragma GCC unroll 4
        for (int c = 0; c < nc; c++) {
            if (!bf16)
                x[c] = v_load((const float *)(const void *)v + e * dim_pad + 16 * c);
            else if (e % 2 == 0)
                x[c] = v_low((const uint16_t *)(const void *)v + e * dim_pad + 32 * c);
            else
                x[c] = v_high((const uint16_t *)(const void *)v + (e - 1) * dim_pad + 32 * c);
        }
#pragma GCC unroll 12
        for (int i = 0; i < nq; i++) {
            vf w = v_set1(p[32 * i + (int)e]);
#pragma GCC unroll 4
            for (int c = 0; c < nc; c++)
                acc[i][c] = v_fma(x[c], w, acc[i][c]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < nq; i++) {
#pragma GCC unroll 4
        for (int c = 0; c < nc; c++)
            v_store(o + (uint32_t)i * query_stride(dim_pad) + 16 * c, acc[i][c]);
    }
}

INLINE void pv_tile(const int nq, const bool bf16, const uint8_t *v, uint32_t dim_pad,
                    struct range r, const float *p, float *o)
{
    uint32_t d = 0;
    /* Sixteen dimensions take 64 bytes: of one f32 entry, or of a pair of bf16 entries. */
    if (nq * PV_WIDE <=
        AT_TILE * PV_COLS) { /* few queries: read whole rows of V, in memory order */
        for (; d + 16 * PV_WIDE <= dim_pad; d += 16 * PV_WIDE)
            pv_columns(nq, PV_WIDE, bf16, v + d * 4u, dim_pad, r, p, o + d);
    }
    for (; d + 16 * PV_COLS <= dim_pad; d += 16 * PV_COLS)
        pv_columns(nq, PV_COLS, bf16, v + d * 4u, dim_pad, r, p, o + d);
    for (; d < dim_pad; d += 16)
        pv_columns(nq, 1, bf16, v + d * 4u, dim_pad, r, p, o + d);
}

#if AT_TILE == 12
#define AT_CASES(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12)
#elif AT_TILE == 6
#define AT_CASES(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6)
#else
#define AT_CASES(DO) DO(1) DO(2)
#endif

static void qk(uint32_t nq, bool bf16, const uint8_t *block, const float *bias, const float *q,
               uint32_t stride, uint32_t head_dim, float *p, const struct soon *soon)
{
    switch (nq) {
#define QK_CASE(n)                                                                                 \
    case n:                                                                                        \
        if (bf16 && soon != NULL)                                                                  \
            qk_tile(n, true, true, block, bias, q, stride, head_dim, p, soon);                     \
        else if (bf16)                                                                             \
            qk_tile(n, true, false, block, bias, q, stride, head_dim, p, NULL);                    \
        else if (soon != NULL)                                                                     \
            qk_tile(n, false, true, block, bias, q, stride, head_dim, p, soon);                    \
        else                                                                                       \
            qk_tile(n, false, false, block, bias, q, stride, head_dim, p, NULL);                   \
        break;
        AT_CASES(QK_CASE)
#undef QK_CASE
    default:
        break;
    }
}

static void pv(uint32_t nq, bool bf16, const uint8_t *v, uint32_t dim_pad, struct range r,
               const float *p, float *o)
{
    switch (nq) {
#define PV_CASE(n)                                                                                 \
    case n:                                                                                        \
        if (bf16)                                                                                  \
            pv_tile(n, true, v, dim_pad, r, p, o);                                                 \
        else                                                                                       \
            pv_tile(n, false, v, dim_pad, r, p, o);                                                \
        break;
        AT_CASES(PV_CASE)
#undef PV_CASE
    default:
        break;
    }
}

/* Turns the scores p [32] of one query into weights, 0 outside r; int8: times the scale of V, and
 * outside r anything. */
static void weigh(float *p, struct range r, const float *scales, float *top, float *sum, float *o,
                  uint32_t dim_pad)
{
    vf none = v_set1(-INFINITY), a = v_load(p), b = v_load(p + 16);
    if (scales != NULL) { /* int8: of K, of V, biases */
        a = v_fma(a, v_load(scales), v_load(scales + 2 * SC_PAGE_ENTRIES));
        b = v_fma(b, v_load(scales + 16), v_load(scales + 2 * SC_PAGE_ENTRIES + 16));
    }
    if (r.lo != 0 || r.hi != SC_PAGE_ENTRIES) {
        a = v_keep(a, r.lo < 16 ? r.lo : 16, r.hi < 16 ? r.hi : 16, none);
        b = v_keep(b, r.lo > 16 ? r.lo - 16 : 0, r.hi > 16 ? r.hi - 16 : 0, none);
    }
    if (v_any_above(a, b, v_set1(*top + SLACK))) {
        float higher = v_top(v_max(a, b));
        if (*top > -INFINITY) { /* else there is nothing to rescale */
            float shrink[16];
            v_store(shrink, v_exp(v_set1(*top - higher)));
            v_store(sum, v_mul(v_load(sum), v_set1(shrink[0])));
            for (uint32_t d = 0; d < dim_pad; d += 16)
                v_store(o + d, v_mul(v_load(o + d), v_set1(shrink[0])));
        }
        *top = higher;
    }
    vf ref = v_set1(*top > -INFINITY ? *top : 0.0f);
    a = v_exp(v_sub(a, ref));
    b = v_exp(v_sub(b, ref));
    v_store(sum, v_add(v_load(sum), v_add(a, b)));
    if (scales != NULL) {
        a = v_mul(a, v_load(scales + SC_PAGE_ENTRIES));
        b = v_mul(b, v_load(scales + SC_PAGE_ENTRIES + 16));
    }
    v_store(p, a);
    v_store(p + 16, b);
}

/* Entries of exact page `page` that token t of the block sees. */
static struct range exact_range(const struct sc_cpu_attn *a, uint32_t page, uint32_t t)
{
    const struct sc_attn_seq *seq = a->seq;
    uint64_t base = (uint64_t)page * SC_PAGE_ENTRIES;
    uint64_t own = (uint64_t)seq->pos0 + a->token0 + t, from = seq->exact_lo;
    struct range r;

    if (seq->window != 0 && own + 1 > seq->window && own + 1 - seq->window > from)
        from = own + 1 - seq->window;
    r.lo = from <= base                     ? 0
           : from - base >= SC_PAGE_ENTRIES ? SC_PAGE_ENTRIES
                                            : (uint32_t)(from - base);
    r.hi = own < base                          ? 0
           : own + 1 - base >= SC_PAGE_ENTRIES ? SC_PAGE_ENTRIES
                                               : (uint32_t)(own + 1 - base);
    return r;
}

struct page_ref {
    const uint8_t *k, *v; /* of one KV head; int8: widened */
    const float *bias;    /* of the entries; int8: zeros, weigh adds them */
    const float *scales;  /* int8, else NULL */
    uint32_t exact_page;  /* absolute number */
    bool is_core;
    struct range cores; /* when is_core: the same for all */
};

static struct range page_range(const struct sc_cpu_attn *a, const struct page_ref *pg, uint32_t t)
{
    return pg->is_core ? pg->cores : exact_range(a, pg->exact_page, t);
}

/* Queries q0 .. q0 + nq of one head against one page; base: the head's first query in scratch.
 * Neighbouring queries of one token, or of tokens that see the same entries, go together. */
static void attend_tile(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s,
                        const struct page_ref *pg, uint32_t base, uint32_t q0, uint32_t nq,
                        const struct soon *soon)
{
    const struct sc_kv_pool *pool = a->pool;
    bool bf16 = pool->spec.dtype != SC_DTYPE_F32;
    uint32_t stride = query_stride(pool->dim_pad);
    uint32_t t = q0 / a->group, t_last = (q0 + nq - 1) / a->group, end = q0 + nq;
    struct range r = page_range(a, pg, t), last = page_range(a, pg, t_last);

    if (last.hi == 0 || r.lo == SC_PAGE_ENTRIES)
        return; /* ranges only move upwards from token to token: nobody sees this page */
    qk(nq, bf16, pg->k, pg->bias, s->attn.q + (base + q0) * stride, stride, pool->spec.head_dim,
       s->attn.p, soon);
    for (uint32_t i = q0; i < end;) {
        bool same = r.lo == last.lo && r.hi == last.hi;
        uint32_t stop = same || (t + 1) * a->group > end ? end : (t + 1) * a->group;
        float *p = s->attn.p + (i - q0) * SC_PAGE_ENTRIES;
        float *o = s->attn.span.o + (base + i) * stride;
        if (r.lo < r.hi) {
            for (uint32_t j = i; j < stop; j++)
                weigh(p + (j - i) * SC_PAGE_ENTRIES, r, pg->scales, &s->attn.span.top[base + j],
                      s->attn.span.sum + (base + j) * 16, o + (j - i) * stride, pool->dim_pad);
            pv(stop - i, bf16, pg->v, pool->dim_pad, r, p, o);
        }
        i = stop;
        if (i < end)
            r = page_range(a, pg, ++t);
    }
}

/* int8: asks for `next`, a block, unless it is NULL. */
static void find_block(const struct sc_kv_pool *pool, struct sc_cpu_scratch *s, uint8_t *block,
                       const uint8_t *next, struct page_ref *pg)
{
    static const float zeros[SC_PAGE_ENTRIES];
    if (pool->spec.dtype != SC_DTYPE_I8) {
        pg->k = block;
        pg->v = block + pool->v_offset;
        pg->bias = sc_cpu_kv_bias(pool, block);
        pg->scales = NULL;
        return;
    }
    for (uint32_t line = 0; line < sc_cpu_kv_lines(pool); line++) {
        if (next != NULL)
            ask_lines(next + line * SC_CPU_LINE, 1);
        v_widen(block + line * SC_CPU_LINE, s->attn.page + line * SC_CPU_LINE);
    }
    pg->k = (const uint8_t *)s->attn.page;
    pg->v = pg->k + 2 * pool->v_offset;
    pg->bias = zeros;
    pg->scales = sc_cpu_kv_scales(pool, block);
}

/* The heads' blocks of one page lie one after the other, and are read in that order; then those of
 * page `after`. Few queries wait for memory, and ask for it. */
static void attend_page(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s, uint32_t page,
                        uint32_t after, struct page_ref *pg)
{
    const uint32_t n_queries = a->n_tokens * a->group;
    const bool few = n_queries <= AT_TILE, i8 = a->pool->spec.dtype == SC_DTYPE_I8;
    for (uint32_t h = 0; h < a->n_heads; h++) {
        uint8_t *block = sc_cpu_kv_block(a->pool, page, a->head0 + h);
        const uint8_t *next = h + 1 < a->n_heads ? block + a->pool->head_bytes
                                                 : sc_cpu_kv_block(a->pool, after, a->head0);
        const struct soon soon = {block + a->pool->v_offset, next};
        find_block(a->pool, s, block, few ? next : NULL, pg);
        if (few)
            ask_lines(next + a->pool->bias_offset, 2);
        for (uint32_t q0 = 0; q0 < n_queries; q0 += AT_TILE)
            attend_tile(a, s, pg, h * n_queries, q0,
                        n_queries - q0 < AT_TILE ? n_queries - q0 : AT_TILE,
                        few && !i8 ? &soon : NULL);
    }
}

static void load_queries(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s)
{
    uint32_t hd = a->pool->spec.head_dim, stride = query_stride(a->pool->dim_pad);
    vf scale = v_set1(a->scale);
    for (uint32_t i = 0; i < query_count(a); i++) {
        const float *from = query_from(a, i);
        float *to = s->attn.q + i * stride;
        for (uint32_t d = 0; d < hd; d += 16) {
            uint32_t n = hd - d < 16 ? hd - d : 16;
            v_storen(to + d, v_mul(v_loadn(from + d, n), scale), n);
        }
    }
}

static void attend_span(const struct sc_cpu_attn *a, struct sc_cpu_scratch *s,
                        const struct sc_cpu_attn_spans *spans, uint32_t span)
{
    const struct sc_attn_seq *seq = a->seq;
    struct page_ref pg = {.is_core = span < spans->n_core_spans};
    uint32_t page, end;

    if (pg.is_core) {
        page = span * SC_CPU_SPAN_PAGES;
        end = page + SC_CPU_SPAN_PAGES;
        for (; page < end && page < spans->n_core_pages; page++) {
            uint32_t left = seq->n_cores - page * SC_PAGE_ENTRIES;
            pg.cores = (struct range){0, left < SC_PAGE_ENTRIES ? left : SC_PAGE_ENTRIES};
            attend_page(a, s, seq->core_pages[page],
                        seq->core_pages[page + 1 < spans->n_core_pages ? page + 1 : page], &pg);
        }
        return;
    }
    page = (spans->exact_span0 + span - spans->n_core_spans) * SC_CPU_SPAN_PAGES;
    end = page + SC_CPU_SPAN_PAGES;
    for (page = page < spans->exact_page0 ? spans->exact_page0 : page;
         page < end && page < spans->exact_page1; page++) {
        pg.exact_page = page;
        attend_page(a, s, seq->exact_pages[page],
                    seq->exact_pages[page + 1 < spans->exact_page1 ? page + 1 : page], &pg);
    }
}
