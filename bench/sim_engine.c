#include "bench/sim_engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shard/pages.h"

/* As the real engine's store of page tables: words per page of the pool, in blocks. */
#define WORDS_PER_PAGE 8u
#define BLOCK_WORDS    32u
#define NOBODY         UINT32_MAX

/* Entries of a table: cores, then exact ones from exact_lo on. Pages of both are listed apart. */
struct shape {
    struct sc_recipe recipe;
    uint32_t prompt_len, n_logical, epoch_done, n_cores;
};

struct seq {
    bool open;
    struct shape at;
    uint32_t *cores, *exact; /* [pages of the context]; exact by logical page */
    uint64_t peak;
};

struct snap {
    bool used;
    struct shape at;
    uint32_t min_logical, n_pages;
    uint32_t *pages; /* cores, then exact */
};

struct sc_engine {
    struct sim_engine_opts opts;
    struct sc_pages pages;
    struct seq *seqs;
    struct snap *snaps;
    uint32_t *tables;
    uint32_t *writer; /* [n_pages]: the only slot that may append, or NOBODY */
    uint8_t *seen;    /* [max_seqs], scratch: what the plan does to each slot */
    uint32_t *refs;   /* [2 * n_pages], scratch of the check */
    uint64_t words_used, steps, generation;
    double rest_us; /* of the cost, below a microsecond */
    struct sc_calibration calibration;
    struct sim_counts counts;
    char violation[192];
};

enum { CLOSES = 1, OPENS = 2, RUNS = 4, KEPT = 8 };

static uint32_t pages_for(uint32_t entries)
{
    return (entries + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
}

static uint32_t cores_of(const struct sc_recipe *r, uint32_t limit)
{
    return limit == 0 ? 0 : (uint32_t)ceilf((float)limit * r->target_ratio);
}

static uint32_t exact_page0(const struct shape *a)
{
    return a->epoch_done / SC_PAGE_ENTRIES;
}

static uint32_t table_pages(const struct shape *a)
{
    return pages_for(a->n_cores) + pages_for(a->n_logical) - exact_page0(a);
}

static uint32_t physical(const struct shape *a)
{
    return a->n_cores + a->n_logical - a->epoch_done;
}

/* The real engine cannot know how many cores come: it asks for the worst case. */
static uint32_t cores_at_once(const struct sc_recipe *r)
{
    return pages_for(r->epoch + SC_CHUNK_MAX) + 2;
}

/* What a run takes before it gives the compressed pages back. */
static uint32_t pages_to_run(const struct shape *a, uint32_t n_tokens)
{
    uint32_t limit = sc_recipe_compressed_limit(&a->recipe, a->prompt_len, a->n_logical);
    uint32_t need = pages_for(a->n_logical + n_tokens) - pages_for(a->n_logical);
    if (limit > a->epoch_done)
        need += cores_at_once(&a->recipe);
    return need;
}

static uint32_t pages_to_begin(const struct snap *s, uint32_t n)
{
    return (s->at.n_cores % SC_PAGE_ENTRIES != 0) +
           (n % SC_PAGE_ENTRIES != 0 && pages_for(n) > exact_page0(&s->at));
}

static struct shape opened(const struct sc_engine *e, const struct sc_plan_open *o)
{
    struct shape a = {.recipe = *o->recipe, .prompt_len = o->prompt_len, .n_logical = o->n_from};
    if (o->n_from > 0) {
        a.epoch_done = e->snaps[o->from].at.epoch_done;
        a.n_cores = e->snaps[o->from].at.n_cores;
    }
    return a;
}

static uint64_t block_words(uint64_t words)
{
    return (words + BLOCK_WORDS - 1) / BLOCK_WORDS * BLOCK_WORDS;
}

static uint64_t words_total(const struct sc_engine *e)
{
    return block_words((uint64_t)e->opts.n_pages * WORDS_PER_PAGE) +
           (uint64_t)e->opts.max_snaps * BLOCK_WORDS;
}

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

/* ---- the rules of a plan ---- */

static bool require(struct sc_engine *e, bool ok, const char *what, uint32_t value)
{
    if (!ok && e->violation[0] == '\0')
        (void)snprintf(e->violation, sizeof(e->violation), "plan of step %llu: %s (%u)",
                       (unsigned long long)e->steps, what, value);
    return ok;
}

static bool is_dropped(const struct sc_plan *plan, uint32_t snap)
{
    for (uint32_t i = 0; i < plan->n_drops; i++)
        if (plan->drops[i] == snap)
            return true;
    return false;
}

static bool check_keeps(struct sc_engine *e, const struct sc_plan *plan)
{
    uint64_t words = 0;
    bool ok = require(e, plan->n_makes + plan->n_moves == 0, "moves without a store", 0);
    for (uint32_t i = 0; i < plan->n_keeps && ok; i++) {
        const struct sc_plan_keep *k = &plan->keeps[i];
        ok = require(e, k->slot < e->opts.max_seqs && e->seqs[k->slot].open,
                     "keeps a slot that is not open", k->slot) &&
             require(e, k->snap < e->opts.max_snaps && !e->snaps[k->snap].used,
                     "keeps as a snapshot in use", k->snap) &&
             require(e, !is_dropped(plan, k->snap), "keeps and drops a snapshot", k->snap);
        for (uint32_t j = 0; j < i && ok; j++)
            ok = require(e, plan->keeps[j].snap != k->snap, "keeps a snapshot twice", k->snap);
        if (!ok)
            break;
        words += block_words(table_pages(&e->seqs[k->slot].at));
        e->seen[k->slot] |= KEPT;
    }
    for (uint32_t i = 0; i < plan->n_drops && ok; i++) {
        ok = require(e, plan->drops[i] < e->opts.max_snaps && e->snaps[plan->drops[i]].used,
                     "drops a snapshot that is not there", plan->drops[i]);
        for (uint32_t j = 0; j < i && ok; j++)
            ok = require(e, plan->drops[j] != plan->drops[i], "drops a snapshot twice",
                         plan->drops[i]);
    }
    return ok && require(e, words <= words_total(e) - e->words_used, "page tables are short", 0);
}

static bool check_open(struct sc_engine *e, const struct sc_plan *plan,
                       const struct sc_plan_open *o, uint64_t *needed)
{
    static const struct sc_recipe_context none = {0};
    if (!require(e, o->slot < e->opts.max_seqs && (e->seen[o->slot] & OPENS) == 0,
                 "opens a slot twice", o->slot) ||
        !require(e, !e->seqs[o->slot].open || (e->seen[o->slot] & CLOSES) != 0,
                 "opens a slot in use", o->slot) ||
        !require(e, o->prompt_len >= 1 && sc_recipe_check(o->recipe, NULL) == SC_OK, "a bad open",
                 o->slot))
        return false;
    e->seen[o->slot] |= OPENS;
    if (o->n_from == 0)
        return true;
    if (!require(e, o->from < e->opts.max_snaps && e->snaps[o->from].used, "begins from nothing",
                 o->from) ||
        !require(e, !is_dropped(plan, o->from), "begins from a snapshot it drops", o->from))
        return false;
    const struct snap *s = &e->snaps[o->from];
    struct sc_hash a = sc_recipe_id(o->recipe, &none), b = sc_recipe_id(&s->at.recipe, &none);
    *needed += pages_to_begin(s, o->n_from);
    return require(e, memcmp(&a, &b, sizeof(a)) == 0, "begins from another recipe", o->from) &&
           require(e, o->n_from >= s->min_logical && o->n_from <= s->at.n_logical,
                   "begins out of the snapshot's range", o->n_from);
}

static bool check_run(struct sc_engine *e, const struct sc_plan *plan,
                      const struct sc_plan_run *run, uint64_t *needed)
{
    if (!require(e, run->slot < e->opts.max_seqs, "runs no slot", run->slot))
        return false;
    uint8_t *seen = &e->seen[run->slot];
    struct shape at = e->seqs[run->slot].at;
    bool open = e->seqs[run->slot].open && (*seen & CLOSES) == 0;
    for (uint32_t i = 0; i < plan->n_opens && (*seen & OPENS) != 0; i++)
        if (plan->opens[i].slot == run->slot) {
            at = opened(e, &plan->opens[i]);
            open = true;
        }
    if (!require(e, open && (*seen & RUNS) == 0, "runs a closed slot, or twice", run->slot))
        return false;
    *seen |= RUNS;
    *needed += pages_to_run(&at, run->n_tokens);
    uint32_t end = run->pos0 + run->n_tokens;
    return require(e, run->n_tokens >= 1 && run->pos0 == at.n_logical, "runs from elsewhere",
                   run->pos0) &&
           require(e, end <= sc_recipe_next_cut(&at.recipe, at.prompt_len, run->pos0),
                   "crosses a cut", end) &&
           require(e, run->pos0 >= at.prompt_len || end <= at.prompt_len,
                   "crosses the prompt's end", end) &&
           require(e, end <= e->opts.max_context, "runs beyond the context", end);
}

/* False: the plan is wrong. needed: pages of its opens and runs; freed: by its closes. */
static bool check_plan(struct sc_engine *e, const struct sc_plan *plan, uint64_t *needed,
                       uint64_t *freed)
{
    uint64_t rows = 0;
    *needed = *freed = 0;
    memset(e->seen, 0, e->opts.max_seqs);
    if (!check_keeps(e, plan))
        return false;
    for (uint32_t i = 0; i < plan->n_closes; i++) {
        uint32_t slot = plan->closes[i];
        if (!require(e,
                     slot < e->opts.max_seqs && e->seqs[slot].open && (e->seen[slot] & CLOSES) == 0,
                     "closes a free slot", slot))
            return false;
        if ((e->seen[slot] & KEPT) == 0)
            *freed += sc_engine_seq_private_pages(e, slot);
        e->seen[slot] |= CLOSES;
    }
    for (uint32_t i = 0; i < plan->n_opens; i++)
        if (!check_open(e, plan, &plan->opens[i], needed))
            return false;
    for (uint32_t i = 0; i < plan->n_runs; i++) {
        if (!check_run(e, plan, &plan->runs[i], needed))
            return false;
        rows += plan->runs[i].n_tokens;
    }
    return require(e, rows <= e->opts.max_step_tokens, "too many rows", (uint32_t)rows);
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
        (void)require(e, e->writer[table[from / SC_PAGE_ENTRIES]] == slot,
                      "writes into another's page", slot);
    for (uint32_t i = pages_for(from); i < pages_for(to); i++)
        table[i] = take(e, slot);
}

static void run_seq(struct sc_engine *e, const struct sc_plan_run *run,
                    struct sc_run_result *result)
{
    struct seq *q = &e->seqs[run->slot];
    struct shape *a = &q->at;
    uint32_t limit = sc_recipe_compressed_limit(&a->recipe, a->prompt_len, a->n_logical);
    uint32_t page0 = exact_page0(a);
    append(e, run->slot, q->exact, a->n_logical, a->n_logical + run->n_tokens);
    if (limit > a->epoch_done) {
        uint32_t n_cores = cores_of(&a->recipe, limit);
        append(e, run->slot, q->cores, a->n_cores, n_cores);
        for (uint32_t i = page0; i < limit / SC_PAGE_ENTRIES; i++)
            give(e, run->slot, q->exact[i]);
        a->n_cores = n_cores;
        a->epoch_done = limit;
    }
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
    if (!check_plan(e, plan, &needed, &freed))
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
                                        .max_snaps = e->opts.max_snaps,
                                        .steps = e->steps,
                                        .generation = e->generation,
                                        .backend = "simulation"};
}

const struct sc_calibration *sc_engine_calibration(const struct sc_engine *e)
{
    return &e->calibration; /* of no layers; its presence is what counts */
}

uint32_t sc_engine_pages_needed(const struct sc_engine *e, uint32_t slot, uint32_t n_tokens)
{
    SC_ASSERT(slot < e->opts.max_seqs && e->seqs[slot].open);
    return pages_to_run(&e->seqs[slot].at, n_tokens);
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
    uint32_t first = pages_for(n);
    (void)e;
    if (r->mode == SC_KV_EXACT)
        return first;
    uint32_t cores =
        (uint32_t)(n * (double)r->target_ratio * 1.1) + r->window + 3 * r->epoch + 2 * SC_CHUNK_MAX;
    uint32_t streamed = pages_for(cores) + 8;
    if (sc_recipe_compressed_limit(r, 0, n) > 0)
        first += cores_at_once(r);
    return streamed > first || r->exact_then_compress ? first : streamed;
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
