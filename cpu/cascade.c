#include "cpu/cascade.h"

#define SPAN_ENTRIES (SC_CPU_SPAN_PAGES * SC_PAGE_ENTRIES)

static const struct sc_attn_seq *seq_of(const struct sc_cpu_cascade *c, uint32_t member)
{
    return &c->args->seqs[c->members[member].seq];
}

static size_t span_floats(const struct sc_cpu_cascade *c)
{
    return (size_t)c->args->n_heads * sc_cpu_attn_part_floats(c->args->pool);
}

/* ---- who shares what ---- */

static bool same_pages(const uint32_t *a, const uint32_t *b, uint32_t first, uint32_t end)
{
    return memcmp(a + first, b + first, (end - first) * sizeof(*a)) == 0;
}

/* Spans, from the first on, that are the same for the one row of a and that of b. */
static uint32_t common_spans(const struct sc_attn_seq *a, const struct sc_attn_seq *b)
{
    const struct sc_cpu_attn_spans sa = sc_cpu_attn_spans(a, 0, 1), sb = sc_cpu_attn_spans(b, 0, 1);
    const uint32_t n_cores = a->n_cores < b->n_cores ? a->n_cores : b->n_cores;
    const uint32_t n_core_spans =
        sa.n_core_spans < sb.n_core_spans ? sa.n_core_spans : sb.n_core_spans;
    const uint32_t pos = a->pos0 < b->pos0 ? a->pos0 : b->pos0;
    uint32_t n = 0;

    for (; n < n_core_spans; n++) {
        const uint32_t first = n * SC_CPU_SPAN_PAGES;
        uint32_t end = first + SC_CPU_SPAN_PAGES;
        if (end > sa.n_core_pages)
            end = sa.n_core_pages;
        if ((uint64_t)(n + 1) * SPAN_ENTRIES > n_cores && a->n_cores != b->n_cores)
            return n;
        if (!same_pages(a->core_pages, b->core_pages, first, end))
            return n;
    }
    if (sa.n_core_spans != sb.n_core_spans || a->exact_lo != b->exact_lo)
        return n;
    for (;; n++) { /* exact pages: whole spans that both see to their end */
        const uint32_t span = sa.exact_span0 + n - n_core_spans;
        const uint32_t page = span * SC_CPU_SPAN_PAGES;
        if ((uint64_t)(span + 1) * SPAN_ENTRIES > (uint64_t)pos + 1 ||
            !same_pages(a->exact_pages, b->exact_pages,
                        page > sa.exact_page0 ? page : sa.exact_page0, page + SC_CPU_SPAN_PAGES))
            return n;
    }
}

/* The last page of a span: where these are the same, so is nearly always all before them. */
static uint32_t end_of_span(const struct sc_attn_seq *seq, const struct sc_cpu_attn_spans *spans,
                            uint32_t span)
{
    uint32_t last;
    if (span < spans->n_core_spans) {
        last = (span + 1) * SC_CPU_SPAN_PAGES - 1;
        return seq->core_pages[last < spans->n_core_pages ? last : spans->n_core_pages - 1];
    }
    last = (spans->exact_span0 + span - spans->n_core_spans + 1) * SC_CPU_SPAN_PAGES - 1;
    return seq->exact_pages[last < spans->exact_page1 ? last : spans->exact_page1 - 1];
}

static bool comes_before(const struct sc_attn_seq *a, const struct sc_attn_seq *b)
{
    const struct sc_cpu_attn_spans sa = sc_cpu_attn_spans(a, 0, 1), sb = sc_cpu_attn_spans(b, 0, 1);
    for (uint32_t span = 0; span < sa.n && span < sb.n; span++) {
        const uint32_t x = end_of_span(a, &sa, span), y = end_of_span(b, &sb, span);
        if (x != y)
            return x < y;
    }
    return sa.n < sb.n;
}

/* Sequences that may be members, those that share most side by side. */
static void sort_by_spans(struct sc_cpu_cascade *c)
{
    const struct sc_attn_args *a = c->args;
    for (uint32_t i = 0; i < a->n_seqs && i < SC_CPU_CASCADE_SEQS; i++) {
        uint32_t at = c->n_members;
        if (a->seqs[i].n_rows != 1 || a->seqs[i].window != 0)
            continue;
        for (; at > 0 && comes_before(&a->seqs[i], seq_of(c, at - 1)); at--)
            c->members[at] = c->members[at - 1];
        c->members[at].seq = i;
        c->n_members++;
    }
}

/* A cohort of the first of the sorted sequences and those behind it, as many as save most reading,
 * which become members; *floats: room that is left for parts. Returns how many were dealt with. */
static uint32_t make_cohort(struct sc_cpu_cascade *c, const uint32_t *sorted, uint32_t n,
                            size_t *floats)
{
    const struct sc_attn_seq *seqs = c->args->seqs, *base = &seqs[sorted[0]];
    const uint32_t most = SC_CPU_QUERIES / c->group;
    uint32_t count = 1, n_shared = 0, least = UINT32_MAX;
    size_t wanted = sc_cpu_attn_spans(base, 0, 1).n * span_floats(c), taken = 0;

    for (uint32_t i = 1; i < n && i < most; i++) {
        const uint32_t common = common_spans(base, &seqs[sorted[i]]);
        wanted += sc_cpu_attn_spans(&seqs[sorted[i]], 0, 1).n * span_floats(c);
        if (common == 0 || wanted > *floats)
            break;
        least = common < least ? common : least;
        if (i * least >= (count - 1) * n_shared) {
            count = i + 1;
            n_shared = least;
            taken = wanted;
        }
    }
    if (count == 1)
        return 1;
    *floats -= taken;
    c->cohorts[c->n_cohorts++] =
        (struct sc_cpu_cohort){.first = c->n_members, .n = count, .n_shared = n_shared};
    for (uint32_t i = 0; i < count; i++) {
        c->members[c->n_members++].seq = sorted[i];
        c->is_member[sorted[i]] = true;
    }
    return count;
}

/* ---- how it becomes tasks ---- */

static void plan_tasks(struct sc_cpu_cascade *c, uint32_t n_threads)
{
    const uint32_t n_kv = c->args->n_kv_heads;
    size_t floats = 0;

    c->part_heads = SC_CPU_QUERIES / c->group < n_kv ? SC_CPU_QUERIES / c->group : n_kv;
    c->n_parts = (n_kv + c->part_heads - 1) / c->part_heads;
    for (uint32_t i = 0; i < c->n_cohorts; i++) {
        struct sc_cpu_cohort *cohort = &c->cohorts[i];
        const uint32_t most = SC_CPU_QUERIES / (c->group * cohort->n);
        const uint32_t wanted = (2 * n_threads + cohort->n_shared - 1) / cohort->n_shared;
        cohort->part_heads = wanted < n_kv ? (n_kv + wanted - 1) / wanted : 1;
        if (cohort->part_heads > most)
            cohort->part_heads = most;
        cohort->n_parts = (n_kv + cohort->part_heads - 1) / cohort->part_heads;
        cohort->task0 = c->n_shared_tasks;
        c->n_shared_tasks += cohort->n_shared * cohort->n_parts;
        for (uint32_t m = cohort->first; m < cohort->first + cohort->n; m++) {
            const uint32_t n_spans = sc_cpu_attn_spans(seq_of(c, m), 0, 1).n;
            c->members[m].own0 = c->n_own_tasks;
            c->members[m].part0 = floats;
            c->n_own_tasks += (n_spans - cohort->n_shared) * c->n_parts;
            floats += n_spans * span_floats(c);
        }
    }
}

bool sc_cpu_cascade_find(const struct sc_cpu_device *dev, const struct sc_attn_args *args,
                         struct sc_cpu_cascade *c)
{
    uint32_t sorted[SC_CPU_CASCADE_SEQS], n;
    size_t floats = SC_CPU_PARTS_BYTES / sizeof(float);

    if (args->n_seqs < 2)
        return false;
    c->args = args;
    c->group = args->n_heads / args->n_kv_heads;
    c->n_cohorts = c->n_members = c->n_shared_tasks = c->n_own_tasks = 0;
    memset(c->is_member, 0, sizeof(c->is_member));
    sort_by_spans(c);
    n = c->n_members;
    for (uint32_t i = 0; i < n; i++)
        sorted[i] = c->members[i].seq;
    c->n_members = 0;
    for (uint32_t i = 0; i < n;)
        i += make_cohort(c, sorted + i, n - i, &floats);
    if (c->n_cohorts == 0)
        return false;
    plan_tasks(c, sc_cpu_threads_count(dev->threads));
    return true;
}

/* ---- tasks ---- */

static struct sc_cpu_attn attn_of(const struct sc_cpu_cascade *c, uint32_t member, uint32_t part,
                                  uint32_t part_heads)
{
    const struct sc_attn_args *a = c->args;
    const uint32_t head0 = part * part_heads, left = a->n_kv_heads - head0;
    const struct sc_attn_seq *seq = seq_of(c, member);
    const size_t first = (size_t)head0 * c->group * a->head_dim;
    struct sc_cpu_attn attn = {
        .pool = a->pool,
        .seq = seq,
        .head0 = head0,
        .n_heads = left < part_heads ? left : part_heads,
        .n_tokens = 1,
        .group = c->group,
        .n_spans = 1,
        .q_stride = a->q_stride,
        .out_stride = (size_t)a->n_heads * a->head_dim,
        .scale = a->scale,
    };
    attn.q = a->q + seq->row0 * attn.q_stride + first;
    attn.out = a->out + seq->row0 * attn.out_stride + first;
    return attn;
}

static float *part_at(const struct sc_cpu_device *dev, const struct sc_cpu_cascade *c,
                      uint32_t member, uint32_t span, uint32_t head0)
{
    return dev->parts + c->members[member].part0 + span * span_floats(c) +
           (size_t)head0 * c->group * sc_cpu_attn_part_floats(c->args->pool);
}

static void shared_span(const struct sc_cpu_device *dev, const struct sc_cpu_cascade *c,
                        uint32_t task, uint32_t thread)
{
    const struct sc_cpu_cohort *cohort = c->cohorts;
    const float *rows[SC_CPU_QUERIES];
    float *parts[SC_CPU_QUERIES];

    while (task >= cohort->task0 + cohort->n_shared * cohort->n_parts)
        cohort++;
    task -= cohort->task0;
    struct sc_cpu_attn attn = attn_of(c, cohort->first, task % cohort->n_parts, cohort->part_heads);
    attn.span0 = task / cohort->n_parts;
    attn.n_tokens = cohort->n;
    attn.rows = rows;
    attn.parts = parts;
    for (uint32_t i = 0; i < cohort->n; i++) {
        const uint32_t member = cohort->first + i;
        rows[i] = c->args->q + seq_of(c, member)->row0 * attn.q_stride +
                  (size_t)attn.head0 * c->group * c->args->head_dim;
        parts[i] = part_at(dev, c, member, attn.span0, attn.head0);
    }
    attn.part = parts[0];
    sc_cpu_attend(dev, &attn, thread);
}

static const struct sc_cpu_cohort *cohort_of(const struct sc_cpu_cascade *c, uint32_t member)
{
    const struct sc_cpu_cohort *cohort = c->cohorts;
    while (member >= cohort->first + cohort->n)
        cohort++;
    return cohort;
}

static void own_span(const struct sc_cpu_device *dev, const struct sc_cpu_cascade *c, uint32_t task,
                     uint32_t thread)
{
    uint32_t member = 0;
    while (member + 1 < c->n_members && task >= c->members[member + 1].own0)
        member++;
    task -= c->members[member].own0;
    struct sc_cpu_attn attn = attn_of(c, member, task % c->n_parts, c->part_heads);
    attn.span0 = cohort_of(c, member)->n_shared + task / c->n_parts;
    attn.part = part_at(dev, c, member, attn.span0, attn.head0);
    sc_cpu_attend(dev, &attn, thread);
}

void sc_cpu_cascade_span(const struct sc_cpu_device *dev, const struct sc_cpu_cascade *c,
                         uint32_t task, uint32_t thread)
{
    if (task < c->n_shared_tasks)
        shared_span(dev, c, task, thread);
    else
        own_span(dev, c, task - c->n_shared_tasks, thread);
}

void sc_cpu_cascade_combine(const struct sc_cpu_device *dev, const struct sc_cpu_cascade *c,
                            uint32_t task, uint32_t thread)
{
    const uint32_t member = task / c->n_parts;
    struct sc_cpu_attn attn = attn_of(c, member, task % c->n_parts, c->part_heads);
    attn.n_spans = sc_cpu_attn_spans(attn.seq, 0, 1).n;
    attn.part_span = span_floats(c);
    sc_cpu_combine(dev, &attn, part_at(dev, c, member, 0, attn.head0), thread);
}
