#include "bench/sim_engine.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "bench/sim_engine_internal.h"

struct sc_engine *sim_engine_open(const struct sim_engine_opts *opts)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_engine *e = calloc(1, sizeof(*e));
    if (e == NULL)
        return NULL;
    e->opts = *opts;
    size_t n_table = pages_for(opts->max_context), n_seqs = opts->max_seqs;
    e->seqs = calloc(n_seqs, sizeof(*e->seqs));
    e->snaps = calloc((size_t)opts->max_snaps + 1, sizeof(*e->snaps));
    e->tables = calloc(n_seqs * 2 * n_table, sizeof(*e->tables));
    e->writer = calloc(opts->n_pages, sizeof(*e->writer));
    e->seen = calloc(n_seqs, sizeof(*e->seen));
    e->refs = calloc((size_t)opts->n_pages * 2, sizeof(*e->refs));
    if (e->seqs == NULL || e->snaps == NULL || e->tables == NULL || e->writer == NULL ||
        e->seen == NULL || e->refs == NULL ||
        sc_pages_open(&e->pages, opts->n_pages, &err) != SC_OK) {
        sim_engine_close(e);
        return NULL;
    }
    for (size_t i = 0; i < n_seqs; i++) {
        e->seqs[i].cores = e->tables + i * 2 * n_table;
        e->seqs[i].exact = e->seqs[i].cores + n_table;
    }
    return e;
}

void sim_engine_close(struct sc_engine *e)
{
    if (e == NULL)
        return;
    for (uint32_t i = 0; e->snaps != NULL && i < e->opts.max_snaps; i++)
        free(e->snaps[i].pages);
    sc_pages_close(&e->pages);
    free(e->seqs);
    free(e->snaps);
    free(e->tables);
    free(e->writer);
    free(e->seen);
    free(e->refs);
    free(e);
}

/* ---- its execution ---- */

static void keep(struct sc_engine *e, const struct sc_plan_keep *k)
{
    const struct seq *q = &e->seqs[k->slot];
    struct snap *s = &e->snaps[k->snap];
    uint32_t n = table_pages(&q->at), n_core = pages_for(q->at.n_cores), at = 0;
    *s = (struct snap){.used = true, .at = q->at, .n_pages = n, .min_logical = 1};
    if (q->at.epoch_done > 0)
        s->min_logical = q->at.recipe.exact_then_compress ? q->at.n_logical
                                                          : q->at.epoch_done + q->at.recipe.window;
    s->pages = malloc((size_t)(n + 1) * sizeof(*s->pages));
    SC_ASSERT(s->pages != NULL);
    for (uint32_t i = 0; i < n_core; i++)
        s->pages[at++] = q->cores[i];
    for (uint32_t i = exact_page0(&q->at); i < pages_for(q->at.n_logical); i++)
        s->pages[at++] = q->exact[i];
    for (uint32_t i = 0; i < n; i++)
        sc_pages_snap_ref(&e->pages, s->pages[i]);
    e->words_used += block_words(n);
    e->counts.n_keeps++;
    e->counts.snaps++;
}

static void drop(struct sc_engine *e, uint32_t snap)
{
    struct snap *s = &e->snaps[snap];
    for (uint32_t i = 0; i < s->n_pages; i++)
        sc_pages_snap_unref(&e->pages, s->pages[i]);
    e->words_used -= block_words(s->n_pages);
    e->counts.n_drops++;
    e->counts.snaps--;
    free(s->pages);
    *s = (struct snap){0};
}

static uint32_t take(struct sc_engine *e, uint32_t slot)
{
    uint32_t page = sc_pages_take(&e->pages);
    e->writer[page] = slot;
    return page;
}

static void give(struct sc_engine *e, uint32_t slot, uint32_t page)
{
    if (e->writer[page] == slot)
        e->writer[page] = NOBODY;
    sc_pages_unref(&e->pages, page);
}

static void close_seq(struct sc_engine *e, uint32_t slot)
{
    struct seq *q = &e->seqs[slot];
    for (uint32_t i = 0; i < pages_for(q->at.n_cores); i++)
        give(e, slot, q->cores[i]);
    for (uint32_t i = exact_page0(&q->at); i < pages_for(q->at.n_logical); i++)
        give(e, slot, q->exact[i]);
    q->open = false;
    e->counts.open_seqs--;
}

/* A whole page of the snapshot is shared; a partly filled one is copied. */
static uint32_t begin_page(struct sc_engine *e, uint32_t slot, uint32_t page, bool whole)
{
    if (!whole)
        return take(e, slot);
    sc_pages_ref(&e->pages, page);
    return page;
}

static void open_seq(struct sc_engine *e, const struct sc_plan_open *o)
{
    struct seq *q = &e->seqs[o->slot];
    q->open = true;
    q->at = opened(e, o);
    q->peak = 0;
    e->counts.open_seqs++;
    if (o->n_from == 0)
        return;
    const uint32_t *page = e->snaps[o->from].pages;
    for (uint32_t i = 0; i < pages_for(q->at.n_cores); i++)
        q->cores[i] = begin_page(e, o->slot, *page++, (i + 1) * SC_PAGE_ENTRIES <= q->at.n_cores);
    for (uint32_t i = exact_page0(&q->at); i < pages_for(o->n_from); i++)
        q->exact[i] = begin_page(e, o->slot, *page++, (i + 1) * SC_PAGE_ENTRIES <= o->n_from);
}

/* Entries [from, to) are written: into pages that nobody else writes. */
static void append(struct sc_engine *e, uint32_t slot, uint32_t *table, uint32_t from, uint32_t to)
{
    if (from % SC_PAGE_ENTRIES != 0 && to > from)
        (void)sim_rules_require(e, e->writer[table[from / SC_PAGE_ENTRIES]] == slot,
                                "writes into another's page", slot);
    for (uint32_t i = pages_for(from); i < pages_for(to); i++)
        table[i] = take(e, slot);
}

/* A chunk at a time, whose exact pages come back before the next: it finds pages where the real
 * engine does. */
static void compress(struct sc_engine *e, uint32_t slot, struct seq *q, uint32_t limit)
{
    struct shape *a = &q->at;
    while (a->epoch_done < limit) {
        uint32_t to = limit - a->epoch_done < SC_CHUNK_MAX ? limit : a->epoch_done + SC_CHUNK_MAX;
        uint32_t n_cores = cores_of(&a->recipe, to);
        append(e, slot, q->cores, a->n_cores, n_cores);
        for (uint32_t i = exact_page0(a); i < to / SC_PAGE_ENTRIES; i++)
            give(e, slot, q->exact[i]);
        a->n_cores = n_cores;
        a->epoch_done = to;
    }
}

static void run_seq(struct sc_engine *e, const struct sc_plan_run *run,
                    struct sc_run_result *result)
{
    struct seq *q = &e->seqs[run->slot];
    struct shape *a = &q->at;
    uint32_t limit = sc_recipe_compressed_limit(&a->recipe, a->prompt_len, a->n_logical);
    compress(e, run->slot, q, limit);
    append(e, run->slot, q->exact, a->n_logical, a->n_logical + run->n_tokens);
    bool decodes = run->pos0 >= a->prompt_len;
    a->n_logical += run->n_tokens;
    q->peak = physical(a) > q->peak ? physical(a) : q->peak;
    e->counts.prefill_tokens += decodes ? 0 : run->n_tokens;
    e->counts.decode_rows += decodes ? run->n_tokens : 0;
    e->counts.entries += physical(a);
    *result = (struct sc_run_result){.status = SC_OK};
    if (run->sampler != NULL) /* a letter: every tokenizer of bytes has it */
        result->sampled.token = 'a' + (int32_t)(sc_mix64(a->n_logical) % 26);
}

static void spend(struct sc_engine *e, const struct sim_counts *before, bool runs)
{
    const struct sim_costs *c = &e->opts.costs;
    const struct sim_counts *now = &e->counts;
    double us = runs ? c->fixed : c->chore;
    us += c->prefill_token * (double)(now->prefill_tokens - before->prefill_tokens);
    us += c->decode_row * (double)(now->decode_rows - before->decode_rows);
    us += c->entry * (double)(now->entries - before->entries) + e->rest_us;
    uint64_t whole = (uint64_t)us;
    e->rest_us = us - (double)whole;
    *e->opts.now_us += whole;
}

enum sc_status sc_engine_step(struct sc_engine *e, const struct sc_plan *plan,
                              struct sc_run_result *results, struct sc_err *err)
{
    uint64_t needed, freed;
    const struct sim_counts before = e->counts;
    if (!sim_rules_check(e, plan, &needed, &freed))
        return sc_fail(err, SC_EINVAL, "%s", e->violation);
    if (needed > e->pages.n_free + freed) {
        e->counts.n_full++;
        return sc_fail(err, SC_EFULL, "kv pages: %llu needed, %llu free of %u",
                       (unsigned long long)needed, (unsigned long long)(e->pages.n_free + freed),
                       e->opts.n_pages);
    }
    for (uint32_t i = 0; i < plan->n_keeps; i++)
        keep(e, &plan->keeps[i]);
    for (uint32_t i = 0; i < plan->n_drops; i++)
        drop(e, plan->drops[i]);
    for (uint32_t i = 0; i < plan->n_closes; i++)
        close_seq(e, plan->closes[i]);
    for (uint32_t i = 0; i < plan->n_opens; i++)
        open_seq(e, &plan->opens[i]);
    for (uint32_t i = 0; i < plan->n_runs; i++)
        run_seq(e, &plan->runs[i], &results[i]);
    spend(e, &before, plan->n_runs > 0);
    e->steps++;
    uint32_t held = e->opts.n_pages - e->pages.n_free - e->pages.n_cached;
    e->counts.peak_pages = held > e->counts.peak_pages ? held : e->counts.peak_pages;
    return SC_OK;
}

enum sc_status sc_engine_reset(struct sc_engine *e, struct sc_err *err)
{
    (void)err;
    for (uint32_t i = 0; i < e->opts.max_seqs; i++)
        if (e->seqs[i].open)
            close_seq(e, i);
    for (uint32_t i = 0; i < e->opts.max_snaps; i++)
        if (e->snaps[i].used)
            drop(e, i);
    e->generation++;
    return SC_OK;
}

/* ---- the check ---- */

static void count_seq(const struct sc_engine *e, const struct seq *q)
{
    for (uint32_t i = 0; i < pages_for(q->at.n_cores); i++)
        e->refs[2 * q->cores[i]]++;
    for (uint32_t i = exact_page0(&q->at); i < pages_for(q->at.n_logical); i++)
        e->refs[2 * q->exact[i]]++;
}

enum sc_status sim_engine_check(const struct sc_engine *e, struct sc_err *err)
{
    uint32_t free = 0, cached = 0, held = 0;
    if (e->violation[0] != '\0')
        return sc_fail(err, SC_EINTERNAL, "%s", e->violation);
    memset(e->refs, 0, (size_t)e->opts.n_pages * 2 * sizeof(*e->refs));
    for (uint32_t i = 0; i < e->opts.max_seqs; i++)
        if (e->seqs[i].open)
            count_seq(e, &e->seqs[i]);
    for (uint32_t i = 0; i < e->opts.max_snaps; i++)
        for (uint32_t k = 0; k < e->snaps[i].n_pages; k++)
            e->refs[2 * e->snaps[i].pages[k] + 1]++;
    for (uint32_t i = 0; i < e->opts.n_pages; i++) {
        const uint32_t *r = &e->refs[2 * i];
        if (r[0] != e->pages.seq_refs[i] || r[1] != e->pages.snap_refs[i])
            return sc_fail(err, SC_EINTERNAL,
                           "page %u: %u sequences and %u snapshots hold it, %u and %u counted", i,
                           r[0], r[1], e->pages.seq_refs[i], e->pages.snap_refs[i]);
        free += r[0] + r[1] == 0;
        cached += r[0] == 0 && r[1] > 0;
        held += r[0] > 0;
    }
    if (free != e->pages.n_free || cached != e->pages.n_cached ||
        free + cached + held != e->opts.n_pages)
        return sc_fail(err, SC_EINTERNAL,
                       "pages: %u free, %u cached, %u held of %u; counted %u free, %u cached", free,
                       cached, held, e->opts.n_pages, e->pages.n_free, e->pages.n_cached);
    return SC_OK;
}

uint32_t sim_engine_idle_pages(const struct sc_engine *e, uint32_t snap, bool first)
{
    const struct snap *s = &e->snaps[snap];
    uint32_t n = 0;
    if (first)
        memset(e->refs, 0, (size_t)e->opts.n_pages * 2 * sizeof(*e->refs));
    for (uint32_t i = 0; i < s->n_pages; i++)
        n += e->pages.seq_refs[s->pages[i]] == 0 && e->refs[s->pages[i]]++ == 0;
    return n;
}

struct sim_counts sim_engine_counts(const struct sc_engine *e)
{
    return e->counts;
}

/* ---- what the scheduler asks ---- */

void sc_engine_get_info(const struct sc_engine *e, struct sc_engine_info *ret_info)
{
    *ret_info = (struct sc_engine_info){.n_ranks = 1,
                                        .max_seqs = e->opts.max_seqs,
                                        .max_step_tokens = e->opts.max_step_tokens,
                                        .max_context = e->opts.max_context,
                                        .n_pages = e->opts.n_pages,
                                        .n_pages_free = e->pages.n_free,
                                        .n_pages_cached = e->pages.n_cached,
                                        .n_counted_cached = e->pages.n_marked_cached,
                                        .max_snaps = e->opts.max_snaps,
                                        .steps = e->steps,
                                        .generation = e->generation,
                                        .backend = "simulation"};
}

const struct sc_calibration *sc_engine_calibration(const struct sc_engine *e)
{
    return &e->calibration; /* of no layers; its presence is what counts */
}

uint32_t sc_engine_pages_needed(const struct sc_engine *e, uint32_t slot, uint32_t n_tokens,
                                bool kept)
{
    SC_ASSERT(slot < e->opts.max_seqs && e->seqs[slot].open);
    const struct seq *q = &e->seqs[slot];
    const struct shape *a = &q->at;
    uint32_t limit = sc_recipe_compressed_limit(&a->recipe, a->prompt_len, a->n_logical);
    uint32_t most = pages_to_run(a, n_tokens);
    uint32_t need = pages_for(a->n_logical + n_tokens) - pages_for(a->n_logical);
    if (limit <= a->epoch_done)
        return need;
    need += 1 + pages_for(SC_CHUNK_MAX);
    for (uint32_t i = exact_page0(a); i < limit / SC_PAGE_ENTRIES; i++)
        need += kept || !sc_pages_is_private(&e->pages, q->exact[i]);
    return need < most ? need : most;
}

uint32_t sc_engine_pages_wanted(const struct sc_engine *e, uint32_t slot, uint32_t n_tokens)
{
    return sc_engine_pages_needed(e, slot, n_tokens, true);
}

uint32_t sc_engine_pages_to_open(const struct sc_engine *e, const struct sc_plan_open *open,
                                 uint32_t n_tokens)
{
    const struct shape at = opened(e, open);
    uint32_t pages = pages_to_run(&at, n_tokens);
    if (open->n_from > 0)
        pages += pages_to_begin(&e->snaps[open->from], open->n_from);
    return pages;
}

/* As the real one. */
uint32_t sc_engine_pages_estimate(const struct sc_engine *e, const struct sc_recipe *r, uint32_t n)
{
    uint32_t limit = sc_recipe_compressed_limit(r, 0, n);
    (void)e;
    if (r->mode == SC_KV_EXACT)
        return pages_for(n);
    if (r->exact_then_compress)
        return pages_for(n + 1) + (limit > 0 ? cores_until(0, limit) : 0);
    uint32_t cores =
        (uint32_t)(n * (double)r->target_ratio * 1.1) + r->window + 3 * r->epoch + 2 * SC_CHUNK_MAX;
    uint32_t streamed = pages_for(cores) + 8;
    uint32_t unmerged = pages_for(n) + (limit > 0 ? 2 + pages_for(SC_CHUNK_MAX) : 0);
    return streamed > unmerged ? unmerged : streamed;
}

void sc_engine_seq_stats(const struct sc_engine *e, uint32_t slot, struct sc_seq_stats *ret_stats)
{
    SC_ASSERT(slot < e->opts.max_seqs && e->seqs[slot].open);
    const struct seq *q = &e->seqs[slot];
    *ret_stats = (struct sc_seq_stats){.logical_tokens = q->at.n_logical,
                                       .exact_entries = q->at.n_logical,
                                       .physical_entries = physical(&q->at),
                                       .peak_entries = q->peak,
                                       .cores = q->at.n_cores,
                                       .compressed_tokens = q->at.epoch_done,
                                       .pages = table_pages(&q->at)};
}

void sc_engine_snap_info(const struct sc_engine *e, uint32_t snap, struct sc_snap_info *ret_info)
{
    SC_ASSERT(snap < e->opts.max_snaps && e->snaps[snap].used);
    const struct snap *s = &e->snaps[snap];
    *ret_info = (struct sc_snap_info){
        .n_logical = s->at.n_logical, .min_logical = s->min_logical, .n_pages = s->n_pages};
    for (uint32_t i = 0; i < s->n_pages; i++) {
        ret_info->n_private += sc_pages_is_private(&e->pages, s->pages[i]);
        ret_info->n_in_use += e->pages.seq_refs[s->pages[i]] > 0;
    }
}

uint32_t sc_engine_count_pages(struct sc_engine *e, uint32_t snap)
{
    SC_ASSERT(snap < e->opts.max_snaps && e->snaps[snap].used);
    const struct snap *s = &e->snaps[snap];
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_pages; i++)
        n += sc_pages_mark(&e->pages, s->pages[i]);
    return n;
}

void sc_engine_count_anew(struct sc_engine *e)
{
    sc_pages_unmark_all(&e->pages);
}

uint32_t sc_engine_seq_private_pages(const struct sc_engine *e, uint32_t slot)
{
    const struct seq *q = &e->seqs[slot];
    uint32_t n = 0;
    for (uint32_t i = 0; i < pages_for(q->at.n_cores); i++)
        n += sc_pages_is_private(&e->pages, q->cores[i]);
    for (uint32_t i = exact_page0(&q->at); i < pages_for(q->at.n_logical); i++)
        n += sc_pages_is_private(&e->pages, q->exact[i]);
    return n;
}

uint64_t sc_engine_snap_words_free(const struct sc_engine *e)
{
    return words_total(e) - e->words_used;
}

uint64_t sc_engine_snap_words_needed(const struct sc_engine *e, uint32_t slot)
{
    return block_words(table_pages(&e->seqs[slot].at));
}

/* Documents do not move: the simulated scheduler has no store. */
uint64_t sc_engine_shape_words(const struct sc_engine *e, const struct sc_snap_shape *shape)
{
    return block_words(sc_engine_shape_pages(e, shape));
}

uint32_t sc_engine_shape_pages(const struct sc_engine *e, const struct sc_snap_shape *shape)
{
    (void)e;
    return pages_for(shape->n_cores[0]) + pages_for(shape->n_logical) -
           shape->exact_lo[0] / SC_PAGE_ENTRIES;
}

void sc_engine_snap_shape(const struct sc_engine *e, uint32_t snap, struct sc_snap_shape *shape)
{
    const struct shape *a = &e->snaps[snap].at;
    shape->n_logical = a->n_logical;
    shape->prompt_len = a->prompt_len;
    shape->compressed_to = shape->epoch_done = a->epoch_done;
    shape->n_cores[0] = a->n_cores;
    shape->exact_lo[0] = a->epoch_done;
    shape->carry[0] = 0.0;
}

size_t sc_engine_move_bytes(const struct sc_engine *e, uint32_t n_entries)
{
    (void)e;
    return n_entries;
}
