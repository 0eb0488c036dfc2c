#include "shard/engine.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/rank.h"

/* The owner posts a job, every rank thread runs it, the owner waits for all of them. */
enum job { JOB_OPEN, JOB_STEP, JOB_REJOIN, JOB_QUIT };
enum { SLOT_CLOSES = 1, SLOT_OPENS = 2, SLOT_RUNS = 4 };

struct worker {
    struct sc_engine *engine;
    uint32_t index;
    pthread_t thread;
    bool started;
    struct sc_rank rank;
    struct sc_err err; /* of the last job; written by the worker, read after it is done */
    _Atomic uint64_t progress;
};

struct sc_engine {
    struct sc_engine_opts opts;
    uint32_t max_context;
    struct sc_local_group *group;
    struct sc_token_table *classes;
    bool ranks_open, broken;
    uint64_t steps, generation;
    uint8_t *slot_seen; /* [max_seqs], scratch of check_plan: what the plan does to each slot */
    char backend[96];   /* what rank 0's device says of itself */
    uint32_t arithmetic;

    pthread_mutex_t mu; /* guards what follows */
    pthread_cond_t posted, done;
    uint64_t job_no;
    enum job job;
    uint32_t n_running;
    const struct sc_plan *plan;
    struct sc_run_result *results;

    struct worker workers[];
};

/* The backend binds its own workers; this thread is the first of the rank's. */
static void pin_self(const struct worker *w)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(w->index * w->engine->opts.n_threads % CPU_SETSIZE, &set);
    (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set); /* a wish, not a need */
}

static void run_job(struct worker *w, enum job job)
{
    struct sc_engine *e = w->engine;
    enum sc_status st = SC_OK;

    sc_err_clear(&w->err);
    if (job == JOB_OPEN) {
        if (e->opts.pin_threads)
            pin_self(w);
        st = sc_rank_open(&e->opts, w->index, e->max_context, e->classes,
                          sc_local_group_comm(e->group, w->index), &w->rank, &w->err);
        if (st != SC_OK) /* the others may wait for this rank to size its pages */
            sc_local_group_comm(e->group, w->index)
                ->ops->abort(sc_local_group_comm(e->group, w->index));
    } else if (job == JOB_REJOIN) {
        st = w->rank.comm->ops->rejoin(w->rank.comm, &w->err);
    } else if (job == JOB_STEP) {
        st = sc_rank_execute(&w->rank, e->plan, e->steps, e->generation,
                             w->index == 0 ? e->results : NULL, &w->err);
        if (st == SC_OK)
            atomic_fetch_add_explicit(&w->progress, 1, memory_order_relaxed);
        else /* the others wait in a collective that this rank will never enter */
            w->rank.comm->ops->abort(w->rank.comm);
    }
    if (st != SC_OK && w->err.status == SC_OK)
        (void)sc_fail(&w->err, st, "rank %u: %s", w->index, sc_status_text(st));
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct sc_engine *e = w->engine;
    uint64_t seen = 0;
    char name[16];

    (void)snprintf(name, sizeof(name), "sc-rank-%u", w->index % 1000);
    (void)pthread_setname_np(pthread_self(), name);
    for (;;) {
        pthread_mutex_lock(&e->mu);
        while (e->job_no == seen)
            pthread_cond_wait(&e->posted, &e->mu);
        seen = e->job_no;
        enum job job = e->job;
        pthread_mutex_unlock(&e->mu);
        if (job == JOB_QUIT)
            break;
        run_job(w, job);
        pthread_mutex_lock(&e->mu);
        if (--e->n_running == 0)
            pthread_cond_signal(&e->done);
        pthread_mutex_unlock(&e->mu);
    }
    if (e->ranks_open || w->rank.be != NULL)
        sc_rank_close(&w->rank);
    return NULL;
}

/* Returns the first error that is not merely "another rank failed". */
static enum sc_status first_error(struct sc_engine *e, struct sc_err *err)
{
    const struct worker *found = NULL;
    for (uint32_t r = 0; r < e->opts.n_ranks; r++) {
        const struct worker *w = &e->workers[r];
        if (w->err.status != SC_OK && (found == NULL || found->err.status == SC_EPEER))
            found = w;
    }
    if (found == NULL)
        return SC_OK;
    return sc_fail(err, found->err.status, "rank %u: %s", found->index, found->err.text);
}

static enum sc_status run_on_all(struct sc_engine *e, enum job job, struct sc_err *err)
{
    pthread_mutex_lock(&e->mu);
    e->job = job;
    e->job_no++;
    e->n_running = e->opts.n_ranks;
    pthread_cond_broadcast(&e->posted);
    while (e->n_running > 0)
        pthread_cond_wait(&e->done, &e->mu);
    pthread_mutex_unlock(&e->mu);
    return first_error(e, err);
}

static enum sc_status check_opts(const struct sc_engine_opts *o, struct sc_err *err)
{
    const struct {
        const char *what;
        uint64_t value, low, high;
    } checks[] = {
        {"kv memory in percent", (uint64_t)(o->kv_share * 100.0), 0, 100},
        {"tensor parallel size", o->n_ranks, 1, SC_RANKS_MAX},
        {"threads", o->n_threads, 1, 1024},
        {"max_seqs", o->max_seqs, 1, SC_SEQS_MAX},
        {"step tokens", o->max_step_tokens, o->max_seqs, SC_STEP_TOKENS_MAX},
        {"logit rows", o->max_logit_rows, o->max_seqs, SC_STEP_TOKENS_MAX},
        {"context", o->max_context, 0, o->model->config.max_positions},
        {"snapshots", o->max_snaps, 0, SC_SNAPS_MAX},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(checks); i++)
        if (checks[i].value < checks[i].low || checks[i].value > checks[i].high)
            return sc_fail(err, SC_EINVAL, "%s: %llu, must be %llu..%llu", checks[i].what,
                           (unsigned long long)checks[i].value, (unsigned long long)checks[i].low,
                           (unsigned long long)checks[i].high);
    if (o->kv_dtype != SC_DTYPE_F32 && o->kv_dtype != SC_DTYPE_BF16)
        return sc_fail(err, SC_EINVAL, "kv dtype: %s, must be f32 or bf16",
                       sc_dtype_name(o->kv_dtype));
    if (o->weight_dtype != SC_DTYPE_F32 && o->weight_dtype != SC_DTYPE_BF16 &&
        o->weight_dtype != SC_DTYPE_I8)
        return sc_fail(err, SC_EINVAL, "weight dtype: %s, must be f32, bf16 or int8",
                       sc_dtype_name(o->weight_dtype));
    return SC_OK;
}

static bool own_devices(const struct sc_engine_opts *o)
{
    for (uint32_t a = 0; o->devices != NULL && a < o->n_ranks; a++)
        for (uint32_t b = 0; b < a; b++)
            if (o->devices[a] == o->devices[b])
                return false;
    return true;
}

static size_t largest_reduction(const struct sc_engine_opts *o)
{
    size_t activations = (size_t)o->max_step_tokens * o->model->config.hidden * sizeof(float);
    size_t distances = SC_DIST_INTS_MAX * sizeof(int32_t);
    return activations > distances ? activations : distances;
}

static enum sc_status start_workers(struct sc_engine *e, struct sc_err *err)
{
    for (uint32_t r = 0; r < e->opts.n_ranks; r++) {
        struct worker *w = &e->workers[r];
        w->engine = e;
        w->index = r;
        int rc = pthread_create(&w->thread, NULL, worker_main, w);
        if (rc != 0)
            return sc_fail(err, SC_ENOMEM, "rank %u: cannot start a thread: %s", r, strerror(rc));
        w->started = true;
    }
    return run_on_all(e, JOB_OPEN, err);
}

enum sc_status sc_engine_open(const struct sc_engine_opts *opts, struct sc_engine **ret_engine,
                              struct sc_err *err)
{
    struct sc_engine *e = NULL;
    struct sc_slice slice;
    enum sc_status st = check_opts(opts, err);

    if (st == SC_OK) /* before any thread starts: the message is clearer */
        st = sc_slice_init(&opts->model->config, 0, opts->n_ranks, &slice, err);
    if (st != SC_OK)
        return st;
    e = calloc(1, sizeof(*e) + opts->n_ranks * sizeof(e->workers[0]));
    if (e == NULL)
        return sc_fail(err, SC_ENOMEM, "engine: out of memory");
    e->opts = *opts;
    e->max_context = opts->max_context > 0 ? opts->max_context : opts->model->config.max_positions;
    e->slot_seen = calloc(opts->max_seqs, 1);
    (void)pthread_mutex_init(&e->mu, NULL);
    (void)pthread_cond_init(&e->posted, NULL);
    (void)pthread_cond_init(&e->done, NULL);
    st = e->slot_seen != NULL ? SC_OK : sc_fail(err, SC_ENOMEM, "engine: out of memory");
    if (st == SC_OK)
        st = sc_token_table_open(opts->model->tok, opts->model->config.vocab, &e->classes, err);
    if (st == SC_OK)
        st = sc_local_group_open(opts->n_ranks, largest_reduction(opts), own_devices(opts),
                                 &e->group, err);
    if (st == SC_OK)
        st = start_workers(e, err);
    if (st != SC_OK) {
        sc_engine_close(e);
        return st;
    }
    e->ranks_open = true;
    struct sc_backend *be = e->workers[0].rank.be;
    be->ops->describe(be, e->backend, sizeof(e->backend));
    e->arithmetic = be->arithmetic;
    *ret_engine = e;
    return SC_OK;
}

void sc_engine_close(struct sc_engine *e)
{
    if (e == NULL)
        return;
    pthread_mutex_lock(&e->mu);
    e->job = JOB_QUIT;
    e->job_no++;
    pthread_cond_broadcast(&e->posted);
    pthread_mutex_unlock(&e->mu);
    for (uint32_t r = 0; r < e->opts.n_ranks; r++)
        if (e->workers[r].started)
            (void)pthread_join(e->workers[r].thread, NULL);
    sc_local_group_close(e->group);
    sc_token_table_close(e->classes);
    pthread_cond_destroy(&e->done);
    pthread_cond_destroy(&e->posted);
    pthread_mutex_destroy(&e->mu);
    free(e->slot_seen);
    free(e);
}

void sc_engine_get_info(const struct sc_engine *e, struct sc_engine_info *ret_info)
{
    const struct sc_rank *r0 = &e->workers[0].rank;
    struct sc_engine_info info = {
        .n_ranks = e->opts.n_ranks,
        .max_seqs = e->opts.max_seqs,
        .max_step_tokens = e->opts.max_step_tokens,
        .max_context = e->max_context,
        .n_pages = r0->pages.n_pages,
        .n_pages_free = r0->pages.n_free,
        .n_pages_cached = r0->pages.n_cached,
        .max_snaps = r0->snaps.n_snaps,
        .page_bytes = r0->page_bytes,
        .steps = e->steps,
        .generation = e->generation,
        .kv_dtype = e->opts.kv_dtype,
        .weight_dtype = e->opts.weight_dtype,
        .arithmetic = e->arithmetic,
    };
    double error2 = 0.0, norm2 = 0.0, worst = 0.0;
    for (uint32_t r = 0; r < e->opts.n_ranks; r++) {
        const struct sc_weights *w = &e->workers[r].rank.weights;
        info.weight_bytes += w->source_bytes;
        error2 += w->error2;
        norm2 += w->norm2;
        worst = w->worst > worst ? w->worst : worst;
    }
    info.weight_error = norm2 > 0.0 ? sqrt(error2 / norm2) : 0.0;
    info.weight_error_worst = sqrt(worst);
    memcpy(info.backend, e->backend, sizeof(info.backend));
    *ret_info = info;
}

enum sc_status sc_engine_set_calibration(struct sc_engine *e, const struct sc_calibration *c,
                                         struct sc_err *err)
{
    const struct sc_model_config *config = &e->opts.model->config;
    struct sc_calibration copies[SC_RANKS_MAX] = {0};
    enum sc_status st = SC_OK;

    if (c->n_layers != config->n_layers || c->n_kv_heads != config->n_kv_heads)
        return sc_fail(err, SC_EINVAL,
                       "calibration: %u layers of %u KV heads, the model has %u of %u", c->n_layers,
                       c->n_kv_heads, config->n_layers, config->n_kv_heads);
    for (uint32_t i = 0; i < e->opts.max_seqs; i++)
        if (e->workers[0].rank.seqs[i].open &&
            e->workers[0].rank.seqs[i].recipe.mode == SC_KV_COMPRESSED)
            return sc_fail(err, SC_EINVAL, "calibration: slot %u is open and compressed", i);
    /* All ranks or none: a rank left without would fail in the first compressed sequence. */
    for (uint32_t r = 0; r < e->opts.n_ranks && st == SC_OK; r++)
        st = sc_calibration_copy(&copies[r], c, err);
    for (uint32_t r = 0; r < e->opts.n_ranks; r++) {
        if (st == SC_OK)
            sc_rank_set_calibration(&e->workers[r].rank, &copies[r]);
        else
            sc_calibration_fini(&copies[r]);
    }
    return st;
}

const struct sc_calibration *sc_engine_calibration(const struct sc_engine *e)
{
    const struct sc_calibration *c = &e->workers[0].rank.calibration;
    return c->key_var != NULL ? c : NULL;
}

/* What a COMPRESSED recipe needs of this model, beyond being well-formed. */
static enum sc_status check_compressed(const struct sc_engine *e, const struct sc_recipe *r,
                                       struct sc_err *err)
{
    const struct sc_model_config *c = &e->opts.model->config;
    const struct sc_slice *s = &e->workers[0].rank.slice;
    size_t n_ints = (size_t)s->n_kv_heads * r->chunk_max * r->chunk_max;

    if (sc_engine_calibration(e) == NULL)
        return sc_fail(err, SC_EINVAL, "plan: a COMPRESSED sequence needs a calibration");
    for (uint32_t l = 0; l < c->n_layers;
         l++) /* it forgets its first positions: no chunk is whole */
        if (c->sliding_window[l] != 0 && !sc_recipe_layer_is_exact(r, l))
            return sc_fail(err, SC_EINVAL,
                           "exact_layers: layer %u has a sliding window of %u and must be in it", l,
                           c->sliding_window[l]);
    if (r->label_scope == SC_LABELS_PER_HEAD && n_ints > SC_DIST_INTS_MAX)
        return sc_fail(
            err, SC_ENOTSUP,
            "labels per_head: %u KV heads of a rank and chunks of %u need %zu distances, "
            "limit %zu",
            s->n_kv_heads, r->chunk_max, n_ints, SC_DIST_INTS_MAX);
    return SC_OK;
}

static const struct sc_snap *find_snap(const struct sc_engine *e, uint32_t snap)
{
    const struct sc_snaps *s = &e->workers[0].rank.snaps;
    return snap < s->n_snaps && s->snaps[snap].used ? &s->snaps[snap] : NULL;
}

static const struct sc_plan_keep *find_keep(const struct sc_plan *plan, uint32_t snap)
{
    for (uint32_t i = 0; i < plan->n_keeps; i++)
        if (plan->keeps[i].snap == snap)
            return &plan->keeps[i];
    return NULL;
}

/* A snapshot that this very plan keeps is not there yet: keep it in the step before. */
static enum sc_status check_from(const struct sc_engine *e, const struct sc_plan *plan,
                                 const struct sc_plan_open *o, struct sc_err *err)
{
    const struct sc_snap *snap = find_snap(e, o->from);
    static const struct sc_recipe_context none = {0};

    for (uint32_t i = 0; i < plan->n_drops; i++)
        if (plan->drops[i] == o->from)
            snap = NULL;
    if (snap == NULL || o->from_tokens == NULL)
        return sc_fail(err, SC_EINVAL, "plan: slot %u begins from snapshot %u, which is not there",
                       o->slot, o->from);
    struct sc_hash a = sc_recipe_id(o->recipe, &none), b = sc_recipe_id(&snap->recipe, &none);
    if (memcmp(&a, &b, sizeof(a)) != 0)
        return sc_fail(err, SC_EINVAL, "plan: slot %u begins from a snapshot of another recipe",
                       o->slot);
    if (o->n_from < snap->min_logical || o->n_from > snap->n_logical)
        return sc_fail(err, SC_EINVAL,
                       "plan: slot %u begins with %u tokens, the snapshot has %u..%u", o->slot,
                       o->n_from, snap->min_logical, snap->n_logical);
    return SC_OK;
}

/* Keeps, makes, moves and drops: ids that exist or are free, and room for their tables. */
static enum sc_status check_snaps(const struct sc_engine *e, const struct sc_plan *plan,
                                  uint64_t *ret_pages, struct sc_err *err)
{
    const struct sc_rank *r0 = &e->workers[0].rank;
    uint64_t blocks = 0;

    for (uint32_t i = 0; i < plan->n_keeps; i++) {
        const struct sc_plan_keep *k = &plan->keeps[i];
        if (k->slot >= e->opts.max_seqs || !r0->seqs[k->slot].open ||
            r0->seqs[k->slot].n_logical == 0 || k->snap >= r0->snaps.n_snaps ||
            find_snap(e, k->snap) != NULL)
            return sc_fail(err, SC_EINVAL, "plan: slot %u cannot be kept as snapshot %u", k->slot,
                           k->snap);
        blocks += sc_engine_snap_words_needed(e, k->slot) / SC_SNAP_BLOCK_WORDS;
    }
    for (uint32_t i = 0; i < plan->n_makes; i++) {
        const struct sc_plan_make *m = &plan->makes[i];
        if (m->snap >= r0->snaps.n_snaps || find_snap(e, m->snap) != NULL ||
            m->shape->n_logical == 0 || m->shape->n_logical > e->max_context)
            return sc_fail(err, SC_EINVAL, "plan: snapshot %u cannot be made", m->snap);
        blocks += sc_engine_shape_words(e, m->shape) / SC_SNAP_BLOCK_WORDS;
        *ret_pages += sc_engine_shape_pages(e, m->shape);
    }
    for (uint32_t i = 0; i < plan->n_moves; i++) {
        const struct sc_plan_move *m = &plan->moves[i];
        bool made = false;
        for (uint32_t k = 0; k < plan->n_makes; k++)
            made = made || plan->makes[k].snap == m->snap;
        if ((find_snap(e, m->snap) == NULL && !made) || m->layer >= r0->config->n_layers ||
            m->head >= r0->config->n_kv_heads || m->host == NULL)
            return sc_fail(err, SC_EINVAL, "plan: move of snapshot %u, layer %u, head %u", m->snap,
                           m->layer, m->head);
    }
    for (uint32_t i = 0; i < plan->n_drops; i++)
        if (find_snap(e, plan->drops[i]) == NULL || find_keep(plan, plan->drops[i]) != NULL)
            return sc_fail(err, SC_EINVAL, "plan: snapshot %u dropped, but it is not there",
                           plan->drops[i]);
    if (blocks > r0->snaps.n_blocks_free)
        return sc_fail(err, SC_EINVAL, "plan: page tables of snapshots: %llu blocks, %u free",
                       (unsigned long long)blocks, r0->snaps.n_blocks_free);
    return SC_OK;
}

static enum sc_status check_open(const struct sc_engine *e, const struct sc_plan *plan,
                                 const struct sc_plan_open *o, struct sc_err *err)
{
    enum sc_status st;

    if (o->slot >= e->opts.max_seqs)
        return sc_fail(err, SC_EINVAL, "plan: slot %u, limit %u", o->slot, e->opts.max_seqs);
    if ((e->slot_seen[o->slot] & SLOT_OPENS) != 0)
        return sc_fail(err, SC_EINVAL, "plan: slot %u is opened twice", o->slot);
    if (e->workers[0].rank.seqs[o->slot].open && (e->slot_seen[o->slot] & SLOT_CLOSES) == 0)
        return sc_fail(err, SC_EINVAL, "plan: slot %u is in use", o->slot);
    st = sc_recipe_check(o->recipe, err);
    if (st == SC_OK && o->recipe->mode == SC_KV_COMPRESSED)
        st = check_compressed(e, o->recipe, err);
    if (st == SC_OK && o->n_from > 0)
        st = check_from(e, plan, o, err);
    return st;
}

static enum sc_status check_run(const struct sc_engine *e, const struct sc_plan *plan,
                                const struct sc_plan_run *run, struct sc_err *err)
{
    const struct sc_seq *seq = NULL;
    const struct sc_recipe *recipe = NULL;
    uint32_t prompt_len = 0, n_logical = 0;

    if (run->slot >= e->opts.max_seqs)
        return sc_fail(err, SC_EINVAL, "plan: slot %u, limit %u", run->slot, e->opts.max_seqs);
    seq = &e->workers[0].rank.seqs[run->slot];
    if (seq->open) {
        recipe = &seq->recipe;
        prompt_len = seq->prompt_len;
        n_logical = seq->n_logical;
    }
    for (uint32_t i = 0; i < plan->n_opens; i++)
        if (plan->opens[i].slot == run->slot) {
            recipe = plan->opens[i].recipe;
            prompt_len = plan->opens[i].prompt_len;
            n_logical = plan->opens[i].n_from;
        }
    if (recipe == NULL)
        return sc_fail(err, SC_EINVAL, "plan: slot %u is not open", run->slot);
    if (run->n_tokens == 0 || run->pos0 != n_logical)
        return sc_fail(err, SC_EINVAL, "plan: slot %u runs %u tokens from %u, it has %u", run->slot,
                       run->n_tokens, run->pos0, n_logical);
    if (run->n_tokens > e->max_context - n_logical)
        return sc_fail(err, SC_ERANGE, "plan: slot %u would hold %u tokens, the context is %u",
                       run->slot, n_logical + run->n_tokens, e->max_context);
    if (sc_recipe_next_cut(recipe, prompt_len, run->pos0) - run->pos0 < run->n_tokens)
        return sc_fail(err, SC_EINVAL, "plan: slot %u crosses the epoch cut at %u", run->slot,
                       sc_recipe_next_cut(recipe, prompt_len, run->pos0));
    for (uint32_t t = 0; t < run->n_tokens; t++)
        if (run->tokens[t] < 0 || (uint32_t)run->tokens[t] >= e->opts.model->config.vocab)
            return sc_fail(err, SC_EINVAL, "plan: token %d, vocabulary %u", run->tokens[t],
                           e->opts.model->config.vocab);
    return SC_OK;
}

static uint32_t pages_for(uint32_t entries)
{
    return (entries + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
}

static enum sc_status check_plan(struct sc_engine *e, const struct sc_plan *plan,
                                 struct sc_err *err)
{
    const struct sc_rank *r0 = &e->workers[0].rank;
    uint64_t rows = 0, logit_rows = 0, pages = 0, freed = 0;
    enum sc_status st = SC_OK;

    memset(e->slot_seen, 0, e->opts.max_seqs);
    for (uint32_t i = 0; i < plan->n_closes; i++) {
        uint32_t slot = plan->closes[i];
        if (slot >= e->opts.max_seqs || !r0->seqs[slot].open || e->slot_seen[slot] != 0)
            return sc_fail(err, SC_EINVAL, "plan: slot %u closed, but it is not open", slot);
        e->slot_seen[slot] = SLOT_CLOSES;
        freed += sc_engine_seq_private_pages(e, slot);
    }
    st = check_snaps(e, plan, &pages, err);
    /* A snapshot of a sequence that the same plan closes keeps its pages. */
    for (uint32_t i = 0; i < plan->n_keeps && st == SC_OK; i++)
        if (e->slot_seen[plan->keeps[i].slot] == SLOT_CLOSES)
            freed -= sc_engine_seq_private_pages(e, plan->keeps[i].slot);
    for (uint32_t i = 0; i < plan->n_opens && st == SC_OK; i++) {
        st = check_open(e, plan, &plan->opens[i], err);
        if (st != SC_OK)
            break;
        e->slot_seen[plan->opens[i].slot] |= SLOT_OPENS;
        pages += sc_seq_pages_to_open(r0, &plan->opens[i], 0);
    }
    for (uint32_t i = 0; i < plan->n_runs && st == SC_OK; i++) {
        const struct sc_plan_run *run = &plan->runs[i];
        st = check_run(e, plan, run, err);
        if (st != SC_OK)
            break;
        uint8_t *seen = &e->slot_seen[run->slot];
        if (*seen == SLOT_CLOSES || (*seen & SLOT_RUNS) != 0)
            return sc_fail(err, SC_EINVAL, "plan: slot %u is closed or runs twice", run->slot);
        rows += run->n_tokens;
        logit_rows += run->want == SC_LOGITS_ALL ? run->n_tokens : run->want == SC_LOGITS_LAST;
        pages += (*seen & SLOT_OPENS) != 0
                     ? (pages_for(run->pos0 + run->n_tokens) - (uint64_t)pages_for(run->pos0)) *
                           r0->config->n_layers
                     : sc_seq_pages_needed(r0, &r0->seqs[run->slot], run->n_tokens);
        *seen |= SLOT_RUNS;
    }
    if (st != SC_OK)
        return st;
    if (rows > e->opts.max_step_tokens || logit_rows > e->opts.max_logit_rows)
        return sc_fail(err, SC_EINVAL, "plan: %llu rows and %llu logit rows, limits %u and %u",
                       (unsigned long long)rows, (unsigned long long)logit_rows,
                       e->opts.max_step_tokens, e->opts.max_logit_rows);
    if (pages > r0->pages.n_free + freed)
        return sc_fail(err, SC_EFULL, "kv pages: %llu needed, %llu free of %u",
                       (unsigned long long)pages, (unsigned long long)(r0->pages.n_free + freed),
                       r0->pages.n_pages);
    return SC_OK;
}

enum sc_status sc_engine_step(struct sc_engine *e, const struct sc_plan *plan,
                              struct sc_run_result *results, struct sc_err *err)
{
    enum sc_status st;

    if (e->broken)
        return sc_fail(err, SC_EUNAVAIL, "the rank group failed; it must be reset");
    st = check_plan(e, plan, err);
    if (st != SC_OK)
        return st;
    e->plan = plan;
    e->results = results;
    e->steps++;
    st = run_on_all(e, JOB_STEP, err);
    e->broken = st != SC_OK;
    return st;
}

enum sc_status sc_engine_reset(struct sc_engine *e, struct sc_err *err)
{
    sc_local_group_reset(e->group);
    enum sc_status st = run_on_all(e, JOB_REJOIN, err);
    if (st != SC_OK)
        return st;
    for (uint32_t r = 0; r < e->opts.n_ranks; r++)
        sc_rank_reset(&e->workers[r].rank);
    e->generation++;
    e->broken = false;
    return SC_OK;
}

uint32_t sc_engine_pages_needed(const struct sc_engine *e, uint32_t slot, uint32_t n_tokens)
{
    const struct sc_rank *r0 = &e->workers[0].rank;
    SC_ASSERT(slot < e->opts.max_seqs);
    return sc_seq_pages_needed(r0, &r0->seqs[slot], n_tokens);
}

uint32_t sc_engine_pages_to_open(const struct sc_engine *e, const struct sc_plan_open *open,
                                 uint32_t n_tokens)
{
    return sc_seq_pages_to_open(&e->workers[0].rank, open, n_tokens);
}

struct page_counts {
    const struct sc_pages *pages;
    uint32_t n_private, n_in_use;
};

static void count_page(void *ctx, uint32_t layer, bool core, uint32_t index, uint32_t page)
{
    struct page_counts *c = ctx;
    (void)layer;
    (void)core;
    (void)index;
    c->n_private += sc_pages_is_private(c->pages, page);
    c->n_in_use += c->pages->seq_refs[page] > 0;
}

void sc_engine_snap_info(const struct sc_engine *e, uint32_t snap, struct sc_snap_info *ret_info)
{
    const struct sc_rank *r0 = &e->workers[0].rank;
    struct page_counts counts = {.pages = &r0->pages};
    SC_ASSERT(snap < r0->snaps.n_snaps && r0->snaps.snaps[snap].used);
    const struct sc_snap *s = &r0->snaps.snaps[snap];
    sc_snap_each_page(r0, s, count_page, &counts);
    *ret_info = (struct sc_snap_info){.n_logical = s->n_logical,
                                      .min_logical = s->min_logical,
                                      .n_pages = s->n_pages,
                                      .n_private = counts.n_private,
                                      .n_in_use = counts.n_in_use};
}

uint32_t sc_engine_seq_private_pages(const struct sc_engine *e, uint32_t slot)
{
    const struct sc_rank *r0 = &e->workers[0].rank;
    const struct sc_seq *seq = &r0->seqs[slot];
    uint32_t n = 0;
    if (r0->pages.n_cached == 0 && r0->snaps.n_snaps == 0)
        return seq->stats.pages;
    for (uint32_t l = 0; l < r0->config->n_layers; l++) {
        const struct sc_seq_layer *layer = &seq->layers[l];
        for (uint32_t i = 0; i < pages_for(layer->n_cores); i++)
            n += sc_pages_is_private(&r0->pages, layer->core_pages[i]);
        for (uint32_t i = layer->exact_lo / SC_PAGE_ENTRIES; i < pages_for(seq->n_logical); i++)
            n += sc_pages_is_private(&r0->pages, layer->exact_pages[i]);
    }
    return n;
}

/* Tables take whole blocks. */
static uint64_t block_words(uint64_t words)
{
    return (words + SC_SNAP_BLOCK_WORDS - 1) / SC_SNAP_BLOCK_WORDS * SC_SNAP_BLOCK_WORDS;
}

uint64_t sc_engine_snap_words_free(const struct sc_engine *e)
{
    return (uint64_t)e->workers[0].rank.snaps.n_blocks_free * SC_SNAP_BLOCK_WORDS;
}

uint64_t sc_engine_snap_words_needed(const struct sc_engine *e, uint32_t slot)
{
    SC_ASSERT(slot < e->opts.max_seqs);
    return block_words(e->workers[0].rank.seqs[slot].stats.pages);
}

uint64_t sc_engine_shape_words(const struct sc_engine *e, const struct sc_snap_shape *shape)
{
    return block_words(sc_engine_shape_pages(e, shape));
}

uint32_t sc_engine_shape_pages(const struct sc_engine *e, const struct sc_snap_shape *shape)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < e->opts.model->config.n_layers; l++)
        n += pages_for(shape->n_cores[l]) + pages_for(shape->n_logical) -
             shape->exact_lo[l] / SC_PAGE_ENTRIES;
    return n;
}

void sc_engine_snap_shape(const struct sc_engine *e, uint32_t snap, struct sc_snap_shape *shape)
{
    const struct sc_snap *s = find_snap(e, snap);
    SC_ASSERT(s != NULL);
    shape->n_logical = s->n_logical;
    shape->prompt_len = s->prompt_len;
    shape->compressed_to = s->compressed_to;
    shape->epoch_done = s->epoch_done;
    for (uint32_t l = 0; l < e->opts.model->config.n_layers; l++) {
        shape->n_cores[l] = s->layers[l].n_cores;
        shape->exact_lo[l] = s->layers[l].exact_lo;
        shape->carry[l] = s->layers[l].carry;
    }
}

size_t sc_engine_move_bytes(const struct sc_engine *e, uint32_t n_entries)
{
    size_t row = (size_t)e->opts.model->config.head_dim * sc_dtype_bytes(e->opts.kv_dtype);
    return n_entries * (2 * row + sizeof(float));
}

uint32_t sc_engine_pages_estimate(const struct sc_engine *e, const struct sc_recipe *recipe,
                                  uint32_t n_tokens)
{
    const struct sc_model_config *c = &e->opts.model->config;
    uint64_t exact = (n_tokens + SC_PAGE_ENTRIES - 1ull) / SC_PAGE_ENTRIES;
    /* Cores and the exact window; at a cut also an epoch that is exact, its cores in the worst
     * case, and the run that follows: what sc_engine_pages_needed may ask for. Before the first
     * cut, and where the whole prompt stays exact until its end, everything is exact, plus the
     * cores of one epoch. */
    uint64_t cores = (uint64_t)(n_tokens * (double)recipe->target_ratio * 1.1) + recipe->window +
                     3ull * recipe->epoch + 2 * SC_CHUNK_MAX;
    uint64_t compressed = (cores + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES + 8, pages = 0;

    uint64_t first = exact;
    if (sc_recipe_compressed_limit(recipe, 0, n_tokens) > 0)
        first += sc_seq_cores_at_once(recipe);
    if (compressed > first || recipe->exact_then_compress)
        compressed = first;
    for (uint32_t l = 0; l < c->n_layers; l++)
        pages += sc_recipe_layer_is_exact(recipe, l) ? exact : compressed;
    return pages < UINT32_MAX ? (uint32_t)pages : UINT32_MAX;
}

void sc_engine_seq_stats(const struct sc_engine *e, uint32_t slot, struct sc_seq_stats *ret_stats)
{
    SC_ASSERT(slot < e->opts.max_seqs);
    *ret_stats = e->workers[0].rank.seqs[slot].stats;
}

struct sc_rank *sc_engine_rank(struct sc_engine *e, uint32_t r)
{
    SC_ASSERT(r < e->opts.n_ranks);
    return &e->workers[r].rank;
}

uint64_t sc_engine_progress(const struct sc_engine *e, uint32_t rank)
{
    SC_ASSERT(rank < e->opts.n_ranks);
    return atomic_load_explicit(&e->workers[rank].progress, memory_order_relaxed);
}

uint32_t sc_engine_layer_cores(const struct sc_engine *e, uint32_t slot, uint32_t layer)
{
    return e->workers[0].rank.seqs[slot].layers[layer].n_cores;
}

uint32_t sc_engine_layer_entries(const struct sc_engine *e, uint32_t slot, uint32_t layer)
{
    const struct sc_seq *seq = &e->workers[0].rank.seqs[slot];
    return seq->layers[layer].n_cores + seq->n_logical - seq->layers[layer].exact_lo;
}

enum sc_status sc_engine_read_entry(struct sc_engine *e, uint32_t slot, uint32_t layer,
                                    uint32_t entry, uint32_t head, float *k, float *v, float *bias,
                                    struct sc_err *err)
{
    struct sc_rank *rank = NULL;

    if (slot >= e->opts.max_seqs || layer >= e->opts.model->config.n_layers ||
        head >= e->opts.model->config.n_kv_heads || !e->workers[0].rank.seqs[slot].open ||
        entry >= sc_engine_layer_entries(e, slot, layer))
        return sc_fail(err, SC_EINVAL, "entry %u of slot %u, layer %u, head %u does not exist",
                       entry, slot, layer, head);
    for (uint32_t r = 0; r < e->opts.n_ranks && rank == NULL; r++) {
        const struct sc_slice *s = &e->workers[r].rank.slice;
        if (head >= s->kv_head0 && head < s->kv_head0 + s->n_kv_heads)
            rank = &e->workers[r].rank;
    }
    SC_ASSERT(rank != NULL);
    const struct sc_seq_layer *l = &rank->seqs[slot].layers[layer];
    bool core = entry < l->n_cores;
    uint32_t at = core ? entry : l->exact_lo + entry - l->n_cores;
    const uint32_t *table = core ? l->core_pages : l->exact_pages;
    return rank->be->ops->kv_read(rank->be, rank->pool, table[at / SC_PAGE_ENTRIES],
                                  at % SC_PAGE_ENTRIES, head - rank->slice.kv_head0, k, v, bias,
                                  err);
}
