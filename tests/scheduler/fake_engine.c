#include "tests/scheduler/fake_engine.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"

#define LAYERS 2u

struct seq {
    bool open;
    struct sc_recipe recipe;
    uint32_t prompt_len, len, pages;
    uint64_t hash;
};

struct sc_engine {
    struct fake_opts opts;
    struct seq *seqs;
    float *logits;
    struct sc_calibration calibration; /* of no layers; its presence is what counts */
    bool lost;                         /* after a failed step, until reset */
    uint32_t used;                     /* pages */

    pthread_mutex_t mu;
    pthread_cond_t changed;
    /* Guarded by mu. */
    const int32_t *script;
    uint32_t n_script;
    uint32_t hold_in, fail_in, refuse_in, nan_at, sleep_us;
    enum sc_status fail_status;
    bool fail_reset, hold, held;
    struct fake_counts counts;
    char violation[256];
};

static uint32_t pages_for(uint32_t entries)
{
    return (entries + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
}

static uint32_t core_pages(const struct sc_recipe *r, uint32_t n)
{
    return pages_for((uint32_t)ceilf((float)n * r->target_ratio));
}

static uint32_t pages_at(const struct sc_recipe *r, uint32_t prompt_len, uint32_t len)
{
    uint32_t limit = sc_recipe_compressed_limit(r, prompt_len, len);
    return LAYERS * (pages_for(len) - limit / SC_PAGE_ENTRIES + core_pages(r, limit));
}

static uint32_t seq_needs(const struct seq *q, uint32_t n)
{
    uint32_t need = pages_for(q->len + n) - pages_for(q->len);
    if (sc_recipe_compressed_limit(&q->recipe, q->prompt_len, q->len + n) >
        sc_recipe_compressed_limit(&q->recipe, q->prompt_len, q->len))
        need += core_pages(&q->recipe, q->recipe.epoch) + 1;
    return LAYERS * need;
}

struct sc_engine *fake_open(const struct fake_opts *opts)
{
    struct sc_engine *e = calloc(1, sizeof(*e));
    SC_ASSERT(e != NULL);
    e->opts = *opts;
    e->seqs = calloc(opts->max_seqs, sizeof(*e->seqs));
    e->logits = calloc(opts->vocab, sizeof(*e->logits));
    SC_ASSERT(e->seqs != NULL && e->logits != NULL);
    pthread_mutex_init(&e->mu, NULL);
    pthread_cond_init(&e->changed, NULL);
    e->nan_at = UINT32_MAX;
    e->counts.pages_free = opts->n_pages;
    return e;
}

void fake_close(struct sc_engine *e)
{
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->mu);
    free(e->logits);
    free(e->seqs);
    free(e);
}

/* The rules of a plan. The first broken one is kept for the test to show. */
struct checker {
    struct sc_engine *e;
    bool *open;    /* slots as the plan goes on */
    bool *has_run; /* slots that ran */
    bool wrong;
};

static bool require(struct checker *c, bool ok, const char *what, uint32_t slot, uint32_t value)
{
    if (ok || c->wrong)
        return ok;
    c->wrong = true;
    pthread_mutex_lock(&c->e->mu);
    if (c->e->violation[0] == '\0')
        snprintf(c->e->violation, sizeof(c->e->violation), "%s: slot %u, value %u", what, slot,
                 value);
    pthread_mutex_unlock(&c->e->mu);
    return false;
}

static void check_run(struct checker *c, const struct sc_plan_run *run, const struct seq *q)
{
    uint32_t end = run->pos0 + run->n_tokens;
    require(c, !c->has_run[run->slot], "two runs of one slot", run->slot, 0);
    c->has_run[run->slot] = true;
    require(c, run->n_tokens >= 1, "an empty run", run->slot, 0);
    require(c, run->pos0 == q->len, "pos0 is not the length", run->slot, run->pos0);
    require(c, end <= sc_recipe_next_cut(&q->recipe, q->prompt_len, run->pos0), "crosses a cut",
            run->slot, run->pos0);
    require(c, run->pos0 >= q->prompt_len || end <= q->prompt_len, "crosses the prompt's end",
            run->slot, run->pos0);
    require(c, end <= c->e->opts.max_context, "beyond the context", run->slot, end);
    require(c, run->sampler == NULL || run->want == SC_LOGITS_LAST, "a sampler without logits",
            run->slot, 0);
    for (uint32_t i = 0; i < run->n_tokens; i++)
        require(c, run->tokens[i] >= 0 && (uint32_t)run->tokens[i] < c->e->opts.vocab,
                "a token out of range", run->slot, (uint32_t)run->tokens[i]);
}

static const struct sc_plan_open *find_open(const struct sc_plan *plan, uint32_t slot)
{
    for (uint32_t i = 0; i < plan->n_opens; i++)
        if (plan->opens[i].slot == slot)
            return &plan->opens[i];
    return NULL;
}

/* False: the plan is wrong. *ret_needed: pages that its runs take, *ret_freed: that its closes
 * give. */
static bool check_plan(struct sc_engine *e, const struct sc_plan *plan, uint64_t *ret_needed,
                       uint64_t *ret_freed)
{
    bool open[SC_SEQS_MAX], has_run[SC_SEQS_MAX] = {false};
    struct checker c = {.e = e, .open = open, .has_run = has_run};
    uint32_t max = e->opts.max_seqs;
    uint64_t rows = 0, needed = 0, freed = 0;
    require(&c, !e->lost, "a step without a reset", 0, 0);
    require(&c, plan->n_closes + plan->n_opens + plan->n_runs > 0, "an empty plan", 0, 0);
    for (uint32_t i = 0; i < max; i++)
        open[i] = e->seqs[i].open;
    for (uint32_t i = 0; i < plan->n_closes; i++) {
        uint32_t slot = plan->closes[i];
        if (!require(&c, slot < max && open[slot], "closes a free slot", slot, 0))
            return false;
        open[slot] = false;
        freed += e->seqs[slot].pages;
    }
    for (uint32_t i = 0; i < plan->n_opens; i++) {
        const struct sc_plan_open *o = &plan->opens[i];
        if (!require(&c, o->slot < max && !open[o->slot], "opens a used slot", o->slot, 0))
            return false;
        require(&c, o->prompt_len >= 1 && sc_recipe_check(o->recipe, NULL) == SC_OK, "a bad open",
                o->slot, o->prompt_len);
        open[o->slot] = true;
    }
    for (uint32_t i = 0; i < plan->n_runs; i++) {
        const struct sc_plan_run *run = &plan->runs[i];
        if (!require(&c, run->slot < max && open[run->slot], "runs a free slot", run->slot, 0))
            return false;
        const struct sc_plan_open *o = find_open(plan, run->slot);
        struct seq fresh = {.open = true};
        const struct seq *q = &e->seqs[run->slot];
        if (o != NULL) {
            fresh.recipe = *o->recipe;
            fresh.prompt_len = o->prompt_len;
            q = &fresh;
        }
        check_run(&c, run, q);
        rows += run->n_tokens;
        needed += seq_needs(q, run->n_tokens);
    }
    require(&c, rows <= e->opts.max_step_tokens, "too many rows", 0, (uint32_t)rows);
    *ret_needed = needed;
    *ret_freed = freed;
    return !c.wrong;
}

static void make_logits(struct sc_engine *e, const struct seq *q, bool nan)
{
    uint32_t out = q->len - q->prompt_len; /* of the token to be chosen */
    for (uint32_t v = 0; v < e->opts.vocab; v++)
        e->logits[v] = 8.0f * (float)(sc_mix64(q->hash + v) >> 40) / (float)(1 << 24);
    pthread_mutex_lock(&e->mu);
    if (out < e->n_script)
        e->logits[e->script[out]] = 1000.0f;
    pthread_mutex_unlock(&e->mu);
    if (nan)
        e->logits[3] = NAN;
}

static void execute_run(struct sc_engine *e, const struct sc_plan_run *run,
                        struct sc_run_result *result)
{
    struct seq *q = &e->seqs[run->slot];
    *result = (struct sc_run_result){.status = SC_OK};
    for (uint32_t i = 0; i < run->n_tokens; i++)
        q->hash = sc_mix64(q->hash ^ ((uint64_t)(run->pos0 + i) << 32) ^ (uint32_t)run->tokens[i]);
    q->len += run->n_tokens;
    e->used -= q->pages;
    q->pages = pages_at(&q->recipe, q->prompt_len, q->len);
    e->used += q->pages;
    if (run->sampler == NULL)
        return;
    pthread_mutex_lock(&e->mu);
    bool nan = e->nan_at == q->len;
    if (nan)
        e->nan_at = UINT32_MAX;
    pthread_mutex_unlock(&e->mu);
    make_logits(e, q, nan);
    result->status = sc_sampler_sample(run->sampler, e->logits, q->len, &result->sampled, NULL);
}

static void execute(struct sc_engine *e, const struct sc_plan *plan, struct sc_run_result *results)
{
    for (uint32_t i = 0; i < plan->n_closes; i++) {
        e->used -= e->seqs[plan->closes[i]].pages;
        e->seqs[plan->closes[i]] = (struct seq){0};
    }
    for (uint32_t i = 0; i < plan->n_opens; i++) {
        const struct sc_plan_open *o = &plan->opens[i];
        e->seqs[o->slot] = (struct seq){.open = true,
                                        .recipe = *o->recipe,
                                        .prompt_len = o->prompt_len,
                                        .hash = sc_mix64(o->prompt_len * 2u + o->recipe->mode)};
    }
    for (uint32_t i = 0; i < plan->n_runs; i++)
        execute_run(e, &plan->runs[i], &results[i]);
}

static void lose_all(struct sc_engine *e)
{
    for (uint32_t i = 0; i < e->opts.max_seqs; i++)
        e->seqs[i] = (struct seq){0};
    e->used = 0;
}

/* The gate, the sleep and the orders for this step. */
static enum sc_status enter_step(struct sc_engine *e)
{
    enum sc_status st = SC_OK;
    pthread_mutex_lock(&e->mu);
    e->hold = e->hold || (e->hold_in > 0 && --e->hold_in == 0);
    while (e->hold) {
        e->held = true;
        pthread_cond_broadcast(&e->changed);
        pthread_cond_wait(&e->changed, &e->mu);
    }
    e->held = false;
    uint32_t sleep_us = e->sleep_us;
    if (e->fail_in > 0 && --e->fail_in == 0)
        st = e->fail_status;
    if (st == SC_OK && e->refuse_in > 0 && --e->refuse_in == 0)
        st = SC_EFULL;
    pthread_mutex_unlock(&e->mu);
    if (sleep_us > 0)
        nanosleep(&(struct timespec){.tv_nsec = (long)sleep_us * 1000}, NULL);
    return st;
}

static void count_step(struct sc_engine *e, const struct sc_plan *plan)
{
    pthread_mutex_lock(&e->mu);
    struct fake_counts *c = &e->counts;
    c->steps++;
    c->runs += plan->n_runs;
    for (uint32_t i = 0; i < plan->n_runs; i++)
        c->max_block =
            plan->runs[i].n_tokens > c->max_block ? plan->runs[i].n_tokens : c->max_block;
    c->open_seqs = 0;
    for (uint32_t i = 0; i < e->opts.max_seqs; i++)
        c->open_seqs += e->seqs[i].open;
    c->pages_free = e->opts.n_pages - e->used;
    pthread_mutex_unlock(&e->mu);
}

enum sc_status sc_engine_step(struct sc_engine *e, const struct sc_plan *plan,
                              struct sc_run_result *results, struct sc_err *err)
{
    uint64_t needed, freed;
    enum sc_status st = enter_step(e);
    if (!check_plan(e, plan, &needed, &freed))
        return sc_fail(err, SC_EINVAL, "the plan is wrong");
    if (st == SC_OK && needed > e->opts.n_pages - e->used + freed)
        st = SC_EFULL;
    if (st == SC_EFULL) {
        pthread_mutex_lock(&e->mu);
        e->counts.n_full++;
        pthread_mutex_unlock(&e->mu);
        return sc_fail(err, SC_EFULL, "pages: %u needed", (unsigned)needed);
    }
    execute(e, plan, results);
    if (st != SC_OK) {
        lose_all(e);
        e->lost = true;
    }
    count_step(e, plan);
    return st == SC_OK ? SC_OK : sc_fail(err, st, "rank 1 does not answer");
}

enum sc_status sc_engine_reset(struct sc_engine *e, struct sc_err *err)
{
    pthread_mutex_lock(&e->mu);
    bool fail = e->fail_reset;
    e->counts.resets++;
    e->counts.open_seqs = 0;
    e->counts.pages_free = e->opts.n_pages;
    pthread_mutex_unlock(&e->mu);
    if (fail)
        return sc_fail(err, SC_EPEER, "rank 1 is gone");
    lose_all(e);
    e->lost = false;
    return SC_OK;
}

void sc_engine_get_info(const struct sc_engine *e, struct sc_engine_info *ret_info)
{
    *ret_info = (struct sc_engine_info){.n_ranks = 1,
                                        .max_seqs = e->opts.max_seqs,
                                        .max_step_tokens = e->opts.max_step_tokens,
                                        .max_context = e->opts.max_context,
                                        .n_pages = e->opts.n_pages,
                                        .n_pages_free = e->opts.n_pages - e->used};
}

const struct sc_calibration *sc_engine_calibration(const struct sc_engine *e)
{
    return e->opts.calibrated ? &e->calibration : NULL;
}

uint32_t sc_engine_pages_needed(const struct sc_engine *e, uint32_t slot, uint32_t n_tokens,
                                bool kept)
{
    (void)kept;
    SC_ASSERT(slot < e->opts.max_seqs && e->seqs[slot].open);
    return seq_needs(&e->seqs[slot], n_tokens);
}

uint32_t sc_engine_pages_wanted(const struct sc_engine *e, uint32_t slot, uint32_t n_tokens)
{
    return sc_engine_pages_needed(e, slot, n_tokens, true);
}

/* It holds no snapshots (max_snaps 0): the scheduler does not ask for any. Sharing is tested on the
 * real engine. */
uint32_t sc_engine_pages_to_open(const struct sc_engine *e, const struct sc_plan_open *open,
                                 uint32_t n_tokens)
{
    SC_ASSERT(open->n_from == 0);
    const struct seq fresh = {.recipe = *open->recipe, .prompt_len = open->prompt_len};
    (void)e;
    return seq_needs(&fresh, n_tokens);
}

uint32_t sc_engine_seq_private_pages(const struct sc_engine *e, uint32_t slot)
{
    return e->seqs[slot].pages;
}

void sc_engine_snap_info(const struct sc_engine *e, uint32_t snap, struct sc_snap_info *ret_info)
{
    (void)e;
    (void)ret_info;
    SC_ASSERT(snap == UINT32_MAX);
}

uint32_t sc_engine_count_pages(struct sc_engine *e, uint32_t snap)
{
    (void)e;
    SC_ASSERT(snap == UINT32_MAX);
    return 0;
}

void sc_engine_count_anew(struct sc_engine *e)
{
    (void)e;
}

uint64_t sc_engine_snap_words_free(const struct sc_engine *e)
{
    (void)e;
    return 0;
}

uint64_t sc_engine_snap_words_needed(const struct sc_engine *e, uint32_t slot)
{
    (void)e;
    return slot;
}

uint64_t sc_engine_shape_words(const struct sc_engine *e, const struct sc_snap_shape *shape)
{
    (void)e;
    return shape->n_logical;
}

uint32_t sc_engine_shape_pages(const struct sc_engine *e, const struct sc_snap_shape *shape)
{
    (void)e;
    return shape->n_logical;
}

void sc_engine_snap_shape(const struct sc_engine *e, uint32_t snap, struct sc_snap_shape *shape)
{
    (void)e;
    (void)shape;
    SC_ASSERT(snap == UINT32_MAX);
}

size_t sc_engine_move_bytes(const struct sc_engine *e, uint32_t n_entries)
{
    (void)e;
    return n_entries;
}

uint32_t sc_engine_pages_estimate(const struct sc_engine *e, const struct sc_recipe *r, uint32_t n)
{
    uint32_t pages = pages_for(n);
    if (r->mode == SC_KV_COMPRESSED) {
        uint32_t limit = sc_recipe_compressed_limit(r, n, n);
        pages = pages_for(n - limit + r->epoch) + core_pages(r, limit + r->epoch) + 1;
    }
    pages = LAYERS * pages * e->opts.estimate_percent / 100;
    return pages > 0 ? pages : 1;
}

void sc_engine_seq_stats(const struct sc_engine *e, uint32_t slot, struct sc_seq_stats *ret_stats)
{
    SC_ASSERT(slot < e->opts.max_seqs && e->seqs[slot].open);
    const struct seq *q = &e->seqs[slot];
    *ret_stats = (struct sc_seq_stats){.logical_tokens = q->len,
                                       .exact_entries = (uint64_t)q->len * LAYERS,
                                       .pages = q->pages,
                                       .compress_us = q->len};
}

void fake_set_script(struct sc_engine *e, const int32_t *tokens, uint32_t n)
{
    pthread_mutex_lock(&e->mu);
    e->script = tokens;
    e->n_script = n;
    pthread_mutex_unlock(&e->mu);
}

void fake_fail_step(struct sc_engine *e, uint32_t n, enum sc_status status)
{
    pthread_mutex_lock(&e->mu);
    e->fail_in = n;
    e->fail_status = status;
    pthread_mutex_unlock(&e->mu);
}

void fake_fail_reset(struct sc_engine *e, bool fail)
{
    pthread_mutex_lock(&e->mu);
    e->fail_reset = fail;
    pthread_mutex_unlock(&e->mu);
}

void fake_refuse_step(struct sc_engine *e, uint32_t n)
{
    pthread_mutex_lock(&e->mu);
    e->refuse_in = n;
    pthread_mutex_unlock(&e->mu);
}

void fake_nan_at(struct sc_engine *e, uint32_t position)
{
    pthread_mutex_lock(&e->mu);
    e->nan_at = position;
    pthread_mutex_unlock(&e->mu);
}

void fake_sleep(struct sc_engine *e, uint32_t step_us)
{
    pthread_mutex_lock(&e->mu);
    e->sleep_us = step_us;
    pthread_mutex_unlock(&e->mu);
}

void fake_hold(struct sc_engine *e, uint32_t n)
{
    pthread_mutex_lock(&e->mu);
    e->hold_in = n;
    pthread_mutex_unlock(&e->mu);
}

void fake_wait_held(struct sc_engine *e)
{
    pthread_mutex_lock(&e->mu);
    while (!e->held)
        pthread_cond_wait(&e->changed, &e->mu);
    pthread_mutex_unlock(&e->mu);
}

void fake_release(struct sc_engine *e)
{
    pthread_mutex_lock(&e->mu);
    e->hold = e->held = false;
    e->hold_in = 0;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->mu);
}

struct fake_counts fake_counts(struct sc_engine *e)
{
    pthread_mutex_lock(&e->mu);
    struct fake_counts c = e->counts;
    pthread_mutex_unlock(&e->mu);
    return c;
}

const char *fake_violation(struct sc_engine *e)
{
    pthread_mutex_lock(&e->mu);
    const char *text = e->violation[0] != '\0' ? e->violation : NULL;
    pthread_mutex_unlock(&e->mu);
    return text;
}
