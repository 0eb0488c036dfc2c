#include "shard/engine.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/engine_internal.h"

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
        if (w->rank.be->ops->enter != NULL)
            w->rank.be->ops->enter(w->rank.be);
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

static void close_rank(struct worker *w)
{
    if (w->engine->ranks_open || w->rank.be != NULL)
        sc_rank_close(&w->rank);
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
    close_rank(w);
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

/* A lone rank works in the caller's thread: to hand a step over and to be told of its end takes
 * 40 us, of a step of a few milliseconds on a GPU. Pinned, it has a thread of its own: the caller's
 * is not ours to bind. */
static bool has_no_threads(const struct sc_engine *e)
{
    return e->opts.n_ranks == 1 && !e->opts.pin_threads;
}

static enum sc_status run_on_all(struct sc_engine *e, enum job job, struct sc_err *err)
{
    if (has_no_threads(e)) {
        run_job(&e->workers[0], job);
        return first_error(e, err);
    }
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

/* In an engine's arithmetic, beside the backend's bits. */
#define BF16_SUMS 0x80000000u

static enum sc_status check_reduce(const struct sc_engine_opts *o, struct sc_err *err)
{
    if (o->reduce_dtype == SC_DTYPE_F32)
        return SC_OK;
    if (o->reduce_dtype != SC_DTYPE_BF16)
        return sc_fail(err, SC_EINVAL, "reduce dtype: %s, must be f32 or bf16",
                       sc_dtype_name(o->reduce_dtype));
    if (o->n_ranks == 1)
        return sc_fail(err, SC_EINVAL,
                       "reduce dtype: bf16 with a tensor parallel size of 1, at least 2 is needed: "
                       "one rank sends no sums");
    if (o->strict)
        return sc_fail(err, SC_EINVAL,
                       "reduce dtype: bf16 with strict determinism, which needs f32: the last bits "
                       "depend on how many sums are sent together");
    return SC_OK;
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
    if (o->kv_dtype != SC_DTYPE_F32 && o->kv_dtype != SC_DTYPE_BF16 && o->kv_dtype != SC_DTYPE_I8)
        return sc_fail(err, SC_EINVAL, "kv dtype: %s, must be f32, bf16 or int8",
                       sc_dtype_name(o->kv_dtype));
    if (o->weight_dtype != SC_DTYPE_F32 && o->weight_dtype != SC_DTYPE_BF16 &&
        o->weight_dtype != SC_DTYPE_I8)
        return sc_fail(err, SC_EINVAL, "weight dtype: %s, must be f32, bf16 or int8",
                       sc_dtype_name(o->weight_dtype));
    return check_reduce(o, err);
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
        if (has_no_threads(e))
            break;
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
    e->arithmetic = be->arithmetic | (opts->reduce_dtype == SC_DTYPE_BF16 ? BF16_SUMS : 0);
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
    if (has_no_threads(e) && e->workers[0].engine != NULL)
        close_rank(&e->workers[0]);
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
        .n_counted_cached = r0->pages.n_marked_cached,
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
        info.kept_bytes += w->kept_bytes;
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

enum sc_status sc_engine_step(struct sc_engine *e, const struct sc_plan *plan,
                              struct sc_run_result *results, struct sc_err *err)
{
    enum sc_status st;

    if (e->broken)
        return sc_fail(err, SC_EUNAVAIL, "the rank group failed; it must be reset");
    st = sc_engine_check_plan(e, plan, err);
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
