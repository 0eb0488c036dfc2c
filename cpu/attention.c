#include "cpu/cascade.h"

struct attn_work {
    struct sc_cpu_device *dev;
    const struct sc_attn_args *a;
    uint32_t group;                       /* query heads per KV head */
    uint32_t most_tokens;                 /* of one task */
    uint32_t most_heads;                  /* KV heads of one task */
    uint32_t n_items;                     /* blocks x parts of all sequences */
    const struct sc_cpu_cascade *cascade; /* NULL, or has sequences of its own */
};

/* How one sequence is cut: blocks of tokens x parts of the KV heads. */
struct cut {
    uint32_t block_tokens, n_blocks;
    uint32_t part_heads, n_parts;
};

static struct cut cut_seq(const struct attn_work *w, const struct sc_attn_seq *seq)
{
    struct cut c;
    const size_t i = (size_t)(seq - w->a->seqs);
    c.block_tokens = seq->n_rows < w->most_tokens ? seq->n_rows : w->most_tokens;
    if (w->cascade != NULL && i < SC_CPU_CASCADE_SEQS && w->cascade->is_member[i])
        c.block_tokens = 0;
    if (c.block_tokens == 0)
        return (struct cut){0, 0, 0, 0};
    c.n_blocks = (seq->n_rows + c.block_tokens - 1) / c.block_tokens;
    c.part_heads = SC_CPU_QUERIES / (w->group * c.block_tokens);
    if (c.part_heads > w->most_heads)
        c.part_heads = w->most_heads;
    c.n_parts = (w->a->n_kv_heads + c.part_heads - 1) / c.part_heads;
    return c;
}

/* Item: some KV heads and one block of one sequence's rows. The last block of a prompt costs most
 * and goes first. */
static void find_item(const struct attn_work *w, uint32_t item, struct sc_cpu_attn *attn)
{
    const struct sc_attn_args *a = w->a;
    const struct sc_attn_seq *seq = a->seqs;
    struct cut c = cut_seq(w, seq);
    size_t row, first;

    while (item >= c.n_blocks * c.n_parts) {
        item -= c.n_blocks * c.n_parts;
        c = cut_seq(w, ++seq);
    }
    *attn = (struct sc_cpu_attn){.pool = a->pool, .seq = seq, .group = w->group, .scale = a->scale};
    attn->head0 = item % c.n_parts * c.part_heads;
    attn->n_heads = a->n_kv_heads - attn->head0;
    if (attn->n_heads > c.part_heads)
        attn->n_heads = c.part_heads;
    attn->token0 = (c.n_blocks - 1 - item / c.n_parts) * c.block_tokens;
    attn->n_tokens = seq->n_rows - attn->token0;
    if (attn->n_tokens > c.block_tokens)
        attn->n_tokens = c.block_tokens;
    row = (size_t)seq->row0 + attn->token0;
    first = (size_t)attn->head0 * w->group * a->head_dim;
    attn->q_stride = a->q_stride;
    attn->out_stride = (size_t)a->n_heads * a->head_dim;
    attn->q = a->q + row * attn->q_stride + first;
    attn->out = a->out + row * attn->out_stride + first;
    attn->n_spans = sc_cpu_attn_spans(seq, attn->token0, attn->n_tokens).n;
}

void sc_cpu_attend(const struct sc_cpu_device *dev, const struct sc_cpu_attn *attn, uint32_t thread)
{
    const struct sc_cpu_kernels *k = &dev->kernels;
    const enum sc_dtype dtype = attn->pool->spec.dtype;
    (dtype == SC_DTYPE_BF16 ? k->attention_bf16
     : dtype == SC_DTYPE_I8 ? k->attention_i8
                            : k->attention_f32)(attn, &dev->scratch[thread]);
}

void sc_cpu_combine(const struct sc_cpu_device *dev, const struct sc_cpu_attn *attn,
                    const float *parts, uint32_t thread)
{
    const struct sc_cpu_kernels *k = &dev->kernels;
    const enum sc_dtype dtype = attn->pool->spec.dtype;
    (dtype == SC_DTYPE_BF16 ? k->combine_bf16
     : dtype == SC_DTYPE_I8 ? k->combine_i8
                            : k->combine_f32)(attn, parts, &dev->scratch[thread]);
}

static void item_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct attn_work *w = ctx;
    struct sc_cpu_attn attn;
    find_item(w, task, &attn);
    sc_cpu_attend(w->dev, &attn, thread);
}

/* Floats of one span's part of an item. */
static size_t part_floats(const struct sc_cpu_attn *attn)
{
    return (size_t)attn->n_heads * attn->n_tokens * attn->group *
           sc_cpu_attn_part_floats(attn->pool);
}

/* One span of one item; only for few items. */
static void span_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct attn_work *w = ctx;
    struct sc_cpu_attn attn;
    float *part = w->dev->parts;
    uint32_t item = 0;

    for (find_item(w, 0, &attn); task >= attn.n_spans; find_item(w, ++item, &attn)) {
        task -= attn.n_spans;
        part += attn.n_spans * part_floats(&attn);
    }
    attn.part = part + task * part_floats(&attn);
    attn.span0 = task;
    attn.n_spans = 1;
    sc_cpu_attend(w->dev, &attn, thread);
}

static void combine_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct attn_work *w = ctx;
    struct sc_cpu_attn attn;
    const float *parts = w->dev->parts;

    find_item(w, 0, &attn);
    for (uint32_t item = 0; item < task; find_item(w, ++item, &attn))
        parts += attn.n_spans * part_floats(&attn);
    sc_cpu_combine(w->dev, &attn, parts, thread);
}

/* Spans of cohorts and of their members, and then the items of all others. */
static void cascade_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct attn_work *w = ctx;
    const uint32_t n = w->cascade->n_shared_tasks + w->cascade->n_own_tasks;
    if (task < n)
        sc_cpu_cascade_span(w->dev, w->cascade, task, thread);
    else
        item_task(ctx, task - n, thread);
}

static void cascade_combine_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct attn_work *w = ctx;
    sc_cpu_cascade_combine(w->dev, w->cascade, task, thread);
}

/* Fewer items than keep the threads busy: the spans are what they share. How the work is spread
 * changes no result: the same spans are combined in the same order either way. */
static bool share_spans(const struct attn_work *w)
{
    uint32_t n_threads = sc_cpu_threads_count(w->dev->threads);
    struct sc_cpu_attn attn;
    uint64_t n_tasks = 0, floats = 0;

    if (n_threads == 1 || w->n_items >= 2 * n_threads)
        return false;
    for (uint32_t item = 0; item < w->n_items; item++) {
        find_item(w, item, &attn);
        n_tasks += attn.n_spans;
        floats += attn.n_spans * part_floats(&attn);
    }
    if (n_tasks == w->n_items || floats > SC_CPU_PARTS_BYTES / sizeof(float))
        return false;
    sc_cpu_threads_run(w->dev->threads, span_task, (void *)w, (uint32_t)n_tasks);
    sc_cpu_threads_run(w->dev->threads, combine_task, (void *)w, w->n_items);
    return true;
}

static enum sc_status check_seq(const struct sc_attn_args *a, uint32_t i, struct sc_err *err)
{
    const struct sc_attn_seq *seq = &a->seqs[i];
    uint64_t end = (uint64_t)seq->pos0 + seq->n_rows, from = seq->exact_lo;
    uint32_t n_core_pages = seq->n_cores / SC_PAGE_ENTRIES + (seq->n_cores % SC_PAGE_ENTRIES != 0);
    enum sc_status st;

    if ((uint64_t)seq->n_cores > (uint64_t)a->pool->n_pages * SC_PAGE_ENTRIES)
        return sc_fail(err, SC_EINVAL, "attention: sequence %u: %u cores in a pool of %u pages", i,
                       seq->n_cores, a->pool->n_pages);
    if (end > UINT32_MAX || seq->n_rows > SC_CPU_ROWS_MAX || seq->exact_lo > seq->pos0)
        return sc_fail(err, SC_EINVAL, "attention: sequence %u: %u rows at %u, exact from %u", i,
                       seq->n_rows, seq->pos0, seq->exact_lo);
    if (seq->window != 0 && seq->n_cores != 0)
        return sc_fail(err, SC_EINVAL, "attention: sequence %u: window %u with %u cores", i,
                       seq->window, seq->n_cores);
    if (seq->n_rows == 0)
        return SC_OK;
    if (seq->window != 0 && (uint64_t)seq->pos0 + 1 > from + seq->window)
        from = (uint64_t)seq->pos0 + 1 - seq->window;
    st = sc_cpu_check_pages("attention cores", a->pool, seq->core_pages, 0, n_core_pages, err);
    if (st == SC_OK)
        st = sc_cpu_check_pages("attention", a->pool, seq->exact_pages,
                                (uint32_t)(from / SC_PAGE_ENTRIES),
                                (uint32_t)((end - 1) / SC_PAGE_ENTRIES) + 1, err);
    return st;
}

/* Every thread is to have about two tasks. Spans are what it shares first, because their entries
 * lie together in memory; where they are too few, or their parts too large, heads are cut apart. */
static uint32_t heads_of_task(const struct attn_work *w)
{
    const struct sc_attn_args *a = w->a;
    const uint32_t n_kv = a->n_kv_heads, wanted = 2 * sc_cpu_threads_count(w->dev->threads);
    uint64_t n_blocks = 0, n_spans = 0, floats = 0, n_tasks;
    uint32_t parts;

    if (wanted <= 2)
        return n_kv;
    for (uint32_t i = 0; i < a->n_seqs && n_blocks < wanted; i++) {
        const struct sc_attn_seq *seq = &a->seqs[i];
        uint32_t tokens = seq->n_rows < w->most_tokens ? seq->n_rows : w->most_tokens;
        uint32_t blocks = tokens == 0 ? 0 : (seq->n_rows + tokens - 1) / tokens;
        uint64_t spans = tokens == 0 ? 0 : sc_cpu_attn_spans(seq, 0, tokens).n;
        n_blocks += blocks;
        n_spans += blocks * spans;
        floats += spans * seq->n_rows * n_kv * w->group * sc_cpu_attn_part_floats(a->pool);
    }
    n_tasks = floats <= SC_CPU_PARTS_BYTES / sizeof(float) ? n_spans : n_blocks;
    if (n_tasks == 0 || n_tasks >= wanted)
        return n_kv;
    parts = (uint32_t)((wanted + n_tasks - 1) / n_tasks);
    return parts > n_kv ? 1 : n_kv / parts;
}

enum sc_status sc_cpu_attention(struct sc_backend *be, const struct sc_attn_args *a,
                                struct sc_err *err)
{
    struct attn_work w = {.dev = sc_cpu_device(be), .a = a};
    struct sc_cpu_cascade cascade;
    enum sc_status st = sc_cpu_check_pool("attention", a->pool, a->n_kv_heads, a->head_dim, err);
    uint64_t n_tasks = 0;

    if (st != SC_OK)
        return st;
    if (a->n_heads == 0 || a->n_heads % a->n_kv_heads != 0 ||
        a->n_heads / a->n_kv_heads > SC_CPU_GROUP_MAX ||
        (uint64_t)a->q_stride < (uint64_t)a->n_heads * a->head_dim)
        return sc_fail(err, SC_EINVAL,
                       "attention: %u heads of %u over %u KV heads (at most %u each), q stride %u",
                       a->n_heads, a->head_dim, a->n_kv_heads, SC_CPU_GROUP_MAX, a->q_stride);
    w.group = a->n_heads / a->n_kv_heads;
    w.most_tokens = SC_CPU_QUERIES / w.group;
    w.most_heads = heads_of_task(&w);
    for (uint32_t i = 0; i < a->n_seqs; i++) {
        st = check_seq(a, i, err);
        if (st != SC_OK)
            return st;
    }
    w.cascade = sc_cpu_cascade_find(w.dev, a, &cascade) ? &cascade : NULL;
    for (uint32_t i = 0; i < a->n_seqs; i++) {
        struct cut c = cut_seq(&w, &a->seqs[i]);
        n_tasks += (uint64_t)c.n_blocks * c.n_parts;
    }
    if (n_tasks > UINT32_MAX)
        return sc_fail(err, SC_EINVAL, "attention: %llu blocks of rows",
                       (unsigned long long)n_tasks);
    w.n_items = (uint32_t)n_tasks;
    if (w.cascade != NULL) {
        sc_cpu_threads_run(w.dev->threads, cascade_task, &w,
                           cascade.n_shared_tasks + cascade.n_own_tasks + w.n_items);
        sc_cpu_threads_run(w.dev->threads, cascade_combine_task, &w,
                           cascade.n_members * cascade.n_parts);
    } else if (!share_spans(&w)) {
        sc_cpu_threads_run(w.dev->threads, item_task, &w, w.n_items);
    }
    return SC_OK;
}
