#include "scheduler/scheduler.h"

#include <stdlib.h>
#include <time.h>

#include "scheduler/internal.h"

static bool parked_are_due(const struct sc_sched *s)
{
    uint64_t due =
        s->parked_until_us < s->queue_deadline_us ? s->parked_until_us : s->queue_deadline_us;
    return s->parked.n > 0 && sc_request_clock(&s->limits) >= due;
}

static bool has_work_locked(const struct sc_sched *s)
{
    bool can_go_on =
        (sc_queue_n(s->queue) > 0 || s->n_running > 0) && !(s->n_running > 0 && s->all_wait);
    return s->closing || s->inbox.head != NULL || can_go_on || s->orders != NULL ||
           s->store_answered || s->any_canceled || parked_are_due(s) || sc_plan_has_chores(s) ||
           sc_tier_has_work(s);
}

/* While requests wait for the store, deadlines still count; while none is there, idle prefixes. */
static bool sleep_locked(struct sc_sched *s)
{
    struct timespec until;
    uint32_t ms = s->n_running > 0 ? 5 : s->parked.n > 0 ? 20 : 1000;
    if (s->n_running == 0 && s->parked.n == 0 && s->prefix_ttl_us == 0) {
        pthread_cond_wait(&s->wake, &s->mu);
        return true;
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    until.tv_sec += ms / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    return pthread_cond_timedwait(&s->wake, &s->mu, &until) == 0;
}

/* Takes in what was submitted, or sleeps until there is something to do. False: time to close. */
static bool wait_for_work(struct sc_sched *s, bool *ret_any_canceled)
{
    struct sc_request_list arrived;
    pthread_mutex_lock(&s->mu);
    while (!has_work_locked(s))
        if (!sleep_locked(s))
            break;
    bool go_on = !s->closing;
    arrived = s->inbox;
    s->inbox = (struct sc_request_list){0};
    s->stats.waiting = sc_queue_n(s->queue) + s->parked.n + arrived.n;
    *ret_any_canceled = s->any_canceled;
    s->any_canceled = false;
    s->store_answered = false;
    pthread_mutex_unlock(&s->mu);
    for (struct sc_request *r = sc_list_pop(&arrived); r != NULL; r = sc_list_pop(&arrived))
        sc_plan_arrive(s, r);
    return go_on;
}

static void publish(struct sc_sched *s, bool stepped)
{
    struct sc_engine_info info;
    uint32_t cached = sc_plan_pages_cached(s, &info);
    pthread_mutex_lock(&s->mu);
    s->stats.waiting = sc_queue_n(s->queue) + s->parked.n;
    s->stats.running = s->n_running;
    s->stats.pages_free = info.n_pages_free;
    s->stats.pages_cached = cached;
    s->stats.snapshots = s->prefix != NULL ? sc_prefix_n_live(s->prefix) : 0;
    s->stats.failed_group = s->failed;
    if (stepped) {
        s->stats.steps++;
        s->stats.last_step_us = sc_request_clock(&s->limits);
    }
    pthread_mutex_unlock(&s->mu);
}

/* Once a turn, however many there were. */
static void tell_kv_events(struct sc_sched *s)
{
    uint64_t next = s->kv_log != NULL ? sc_kv_log_next(s->kv_log) : s->kv_told;
    if (next != s->kv_told && s->on_kv_events != NULL)
        s->on_kv_events(s->kv_ctx);
    s->kv_told = next;
}

/* True: the request was ended. */
static bool end_if_due(struct sc_sched *s, struct sc_request *r, uint64_t now)
{
    if (atomic_load(&r->canceled)) {
        sc_events_end(s, r, SC_FINISH_ERROR, SC_ECANCELED, "the request was cancelled");
        return true;
    }
    if (r->deadline_us != 0 && now >= r->deadline_us) {
        struct sc_err err = SC_ERR_INIT;
        sc_fail(&err, SC_ETIMEDOUT, "deadline exceeded after %u of %u prompt tokens, %u generated",
                r->n_reported, r->n_prompt, sc_request_completion(r));
        sc_events_end(s, r, SC_FINISH_ERROR, SC_ETIMEDOUT, err.text);
        return true;
    }
    return false;
}

struct due {
    uint64_t now, next_us; /* deadline of those that stay */
};

static bool is_due(void *ctx, const struct sc_request *r)
{
    struct due *due = ctx;
    if (atomic_load(&r->canceled) || (r->deadline_us != 0 && due->now >= r->deadline_us))
        return true;
    if (r->deadline_us != 0 && r->deadline_us < due->next_us)
        due->next_us = r->deadline_us;
    return false;
}

/* Cancels and deadlines. The queue may be long: it is walked only when one of its members is due.
 */
static void end_due(struct sc_sched *s, bool any_canceled)
{
    struct due due = {.now = sc_request_clock(&s->limits), .next_us = UINT64_MAX};
    struct sc_request *next;
    for (uint32_t i = 0; i < s->n_running; i++)
        end_if_due(s, s->running[i], due.now);
    sc_events_sweep(s);
    if (!any_canceled && due.now < s->queue_deadline_us)
        return;
    for (struct sc_request *r = sc_queue_sweep(s->queue, is_due, &due); r != NULL; r = next) {
        next = r->next;
        end_if_due(s, r, due.now);
        sc_request_unref(r);
    }
    struct sc_request_list parked = s->parked;
    s->parked = (struct sc_request_list){0};
    for (struct sc_request *r = sc_list_pop(&parked); r != NULL; r = sc_list_pop(&parked)) {
        if (!is_due(&due, r)) {
            sc_list_push(&s->parked, r);
            continue;
        }
        end_if_due(s, r, due.now);
        sc_request_unref(r);
    }
    s->queue_deadline_us = due.next_us;
}

static void end_queue(struct sc_sched *s, enum sc_status status, const char *error)
{
    for (struct sc_request *r = sc_list_pop(&s->parked); r != NULL; r = sc_list_pop(&s->parked))
        sc_queue_push(s->queue, r);
    for (struct sc_request *r; (r = sc_queue_next(s->queue, s->ns_served)) != NULL;) {
        sc_queue_take(s->queue, r);
        sc_events_end(s, r, SC_FINISH_ERROR, status, error);
        sc_request_unref(r);
    }
    s->queue_deadline_us = UINT64_MAX;
}

static void end_running(struct sc_sched *s, enum sc_status status, const char *error)
{
    for (uint32_t i = 0; i < s->n_running; i++)
        sc_events_end(s, s->running[i], SC_FINISH_ERROR, status, error);
    sc_events_sweep(s);
}

/* All sequences are lost: their requests end, the queue waits for the new generation. */
static void engine_failed(struct sc_sched *s, const struct sc_err *cause)
{
    struct sc_err err = SC_ERR_INIT;
    sc_fail(&err, SC_EUNAVAIL, "the engine failed: %s (%s)", cause->text,
            sc_status_name(cause->status));
    for (uint32_t i = 0; i < s->n_running; i++)
        s->running[i]->opened = false;
    s->n_closes = 0;
    s->closing_pages = 0;
    sc_share_lost(s);
    end_running(s, SC_EUNAVAIL, err.text);
    struct sc_err reset_err = SC_ERR_INIT;
    enum sc_status st = sc_engine_reset(s->engine, &reset_err);
    if (st == SC_OK)
        return;
    s->failed = true;
    sc_err_clear(&err);
    sc_fail(&err, SC_EUNAVAIL, "the engine failed and could not be reset: %s", reset_err.text);
    end_queue(s, SC_EUNAVAIL, err.text);
}

/* What comes with a plan beside runs: see shard/engine.h for the order. */
static struct sc_plan make_plan(const struct sc_sched *s)
{
    return (struct sc_plan){.closes = s->closes,
                            .opens = s->opens,
                            .runs = s->runs,
                            .n_closes = s->n_closes,
                            .n_opens = s->n_opens,
                            .n_runs = s->n_runs,
                            .keeps = s->keeps,
                            .n_keeps = s->n_keeps,
                            .makes = &s->make,
                            .n_makes = s->n_makes,
                            .moves = s->moves,
                            .n_moves = s->n_moves,
                            .drops = s->drops,
                            .n_drops = s->n_drops};
}

/* Plans without runs that free pages before one with them. */
#define CHORES_MAX 64u

/* One step. False: nothing was executed. */
static bool step(struct sc_sched *s)
{
    bool stepped = false;
    for (uint32_t chores = 0;;) {
        struct sc_err err = SC_ERR_INIT;
        bool build = sc_plan_build(s, chores < CHORES_MAX);
        if (!sc_tier_add(s) && !build && !sc_plan_has_chores(s))
            return stepped;
        const struct sc_plan plan = make_plan(s);
        uint64_t start = sc_request_clock(&s->limits);
        enum sc_status st = sc_engine_step(s->engine, &plan, s->results, &err);
        if (st == SC_EFULL && s->n_running > 0) {
            sc_plan_make_room(s, &err);
            continue;
        }
        if (st != SC_OK) {
            engine_failed(s, &err);
            return stepped;
        }
        stepped = true;
        sc_plan_commit(s, start);
        if (s->n_runs == 0 && s->n_running > 0 && !s->all_wait && ++chores <= CHORES_MAX)
            continue;
        uint64_t now = sc_request_clock(&s->limits);
        for (uint32_t i = 0; i < s->n_runs; i++)
            sc_events_after_run(s, s->run_requests[i], &s->results[i], now);
        sc_events_sweep(s);
        return true;
    }
}

static bool turn(struct sc_sched *s, bool any_canceled)
{
    end_due(s, any_canceled);
    if (s->failed)
        end_queue(s, SC_EUNAVAIL, "the engine failed and could not be reset");
    sc_share_tend(s);
    sc_orders_answer(s, SC_OK);
    sc_plan_unpark(s);
    sc_plan_admit(s);
    publish(s, false); /* who was admitted makes room in the queue before the step ends */
    bool stepped = step(s);
    publish(s, stepped);
    tell_kv_events(s);
    return stepped;
}

static void wind_up(struct sc_sched *s)
{
    end_running(s, SC_EUNAVAIL, "the server is shutting down");
    end_queue(s, SC_EUNAVAIL, "the server is shutting down");
    publish(s, s->failed ? false : step(s)); /* the sequences' slots, closed */
    sc_orders_answer(s, SC_EUNAVAIL);
}

static void *thread_main(void *arg)
{
    struct sc_sched *s = arg;
    bool any_canceled;
    while (wait_for_work(s, &any_canceled))
        (void)turn(s, any_canceled);
    wind_up(s);
    return NULL;
}

bool sc_sched_turn(struct sc_sched *s)
{
    bool any_canceled, work;
    SC_ASSERT(s->manual);
    pthread_mutex_lock(&s->mu);
    work = has_work_locked(s);
    pthread_mutex_unlock(&s->mu);
    return work && wait_for_work(s, &any_canceled) && turn(s, any_canceled);
}

static enum sc_status check_opts(const struct sc_sched_opts *opts,
                                 const struct sc_engine_info *info, struct sc_err *err)
{
    if (opts->queue_max == 0 || opts->queue_max > SC_QUEUE_MAX)
        return sc_fail(err, SC_EINVAL, "queue length: %u, limits 1..%u", opts->queue_max,
                       SC_QUEUE_MAX);
    if (opts->prefill_tokens == 0 || opts->prefill_tokens > info->max_step_tokens)
        return sc_fail(err, SC_EINVAL, "prefill tokens of a step: %u, limits 1..%u",
                       opts->prefill_tokens, info->max_step_tokens);
    if (info->max_seqs == 0 || info->max_seqs > SC_SEQS_MAX)
        return sc_fail(err, SC_EINVAL, "sequences: %u, limits 1..%u", info->max_seqs, SC_SEQS_MAX);
    if (info->max_step_tokens < info->max_seqs)
        return sc_fail(err, SC_EINVAL, "tokens of a step: %u, fewer than the %u sequences",
                       info->max_step_tokens, info->max_seqs);
    return SC_OK;
}

static enum sc_status take_arrays(struct sc_sched *s, struct sc_err *err)
{
    size_t n = s->max_seqs;
    s->running = calloc(n, sizeof(*s->running));
    s->free_slots = calloc(n, sizeof(*s->free_slots));
    s->closes = calloc(n, sizeof(*s->closes));
    s->keeps = calloc(2 * n, sizeof(*s->keeps));
    s->pending_keeps = calloc(2 * n, sizeof(*s->pending_keeps));
    s->opens = calloc(n, sizeof(*s->opens));
    s->runs = calloc(n, sizeof(*s->runs));
    s->run_requests = calloc(n, sizeof(struct sc_request *));
    s->results = calloc(n, sizeof(*s->results));
    s->text.bytes = malloc(SC_STEP_TEXT_BYTES);
    if (s->keeps == NULL || s->pending_keeps == NULL || s->running == NULL ||
        s->free_slots == NULL || s->closes == NULL || s->opens == NULL || s->runs == NULL ||
        s->run_requests == NULL || s->results == NULL || s->text.bytes == NULL)
        return sc_fail(err, SC_ENOMEM, "a scheduler for %zu sequences", n);
    enum sc_status st = sc_queue_open(&s->queue, err);
    if (st != SC_OK)
        return st;
    s->text.cap = SC_STEP_TEXT_BYTES;
    while (s->n_free_slots < s->max_seqs) { /* slot 0 is taken first */
        s->free_slots[s->n_free_slots] = s->max_seqs - 1 - s->n_free_slots;
        s->n_free_slots++;
    }
    return SC_OK;
}

static void sched_free(struct sc_sched *s)
{
    sc_queue_close(s->queue);
    sc_prefix_close(s->prefix);
    sc_kv_log_close(s->kv_log);
    free(s->keeps);
    free(s->pending_keeps);
    pthread_cond_destroy(&s->answered);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->mu);
    sc_text_fini(&s->text);
    free(s->running);
    free(s->free_slots);
    free(s->closes);
    free(s->opens);
    free(s->runs);
    free(s->run_requests);
    free(s->results);
    free(s);
}

static enum sc_status open_sharing(struct sc_sched *s, const struct sc_sched_opts *opts,
                                   const struct sc_engine_info *info, struct sc_err *err)
{
    s->prefix_ttl_us = opts->prefix_ttl_us;
    s->snap_words = sc_engine_snap_words_free(s->engine);
    s->store = opts->store;
    s->on_kv_events = opts->on_kv_events;
    s->kv_ctx = opts->kv_ctx;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    enum sc_status st = sc_kv_log_open(
        (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000, &s->kv_log, err);
    if (st != SC_OK)
        return st;
    s->kv_told = sc_kv_log_next(s->kv_log);
    st = sc_prefix_open(info->max_snaps, info->max_snaps * 2 + info->max_seqs + 64, s->kv_log,
                        &s->prefix, err);
    if (st == SC_OK && s->store != NULL)
        st = sc_tier_open(s, err);
    return st;
}

enum sc_status sc_sched_open(const struct sc_sched_opts *opts, struct sc_sched **ret_sched,
                             struct sc_err *err)
{
    struct sc_engine_info info;
    sc_engine_get_info(opts->engine, &info);
    enum sc_status st = check_opts(opts, &info, err);
    if (st != SC_OK)
        return st;
    struct sc_sched *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return sc_fail(err, SC_ENOMEM, "a scheduler");
    pthread_mutex_init(&s->mu, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&s->answered, NULL);
    const struct sc_calibration *calibration = sc_engine_calibration(opts->engine);
    s->engine = opts->engine;
    s->limits = (struct sc_request_limits){.model = opts->model,
                                           .context = info.max_context,
                                           .auto_min_tokens = opts->auto_min_tokens,
                                           .clock = opts->clock,
                                           .clock_ctx = opts->clock_ctx,
                                           .sharing = !opts->no_sharing && info.max_snaps > 0,
                                           .calibrated = calibration != NULL,
                                           .recipe_context = {.kv_dtype = info.kv_dtype,
                                                              .weight_dtype = info.weight_dtype,
                                                              .arithmetic = info.arithmetic}};
    if (calibration != NULL)
        s->limits.recipe_context.calibration = sc_calibration_hash(calibration);
    s->manual = opts->manual;
    s->queue_max = opts->queue_max;
    s->prefill_tokens = opts->prefill_tokens;
    s->max_seqs = info.max_seqs;
    s->max_step_tokens = info.max_step_tokens;
    s->n_pages = info.n_pages;
    s->queue_deadline_us = UINT64_MAX;
    s->stats.pages_total = info.n_pages;
    s->stats.pages_free = info.n_pages_free;
    st = take_arrays(s, err);
    if (st == SC_OK && s->limits.sharing)
        st = open_sharing(s, opts, &info, err);
    if (st != SC_OK)
        goto fail;
    int rc = s->manual ? 0 : pthread_create(&s->thread, NULL, thread_main, s);
    if (rc != 0) {
        st = sc_fail(err, SC_ENOMEM, "the scheduler's thread: error %d", rc);
        goto fail;
    }
    *ret_sched = s;
    return SC_OK;

fail:
    sc_tier_close(s);
    sched_free(s);
    return st;
}

void sc_sched_close(struct sc_sched *sched)
{
    if (sched == NULL)
        return;
    pthread_mutex_lock(&sched->mu);
    sched->closing = true;
    pthread_cond_signal(&sched->wake);
    pthread_mutex_unlock(&sched->mu);
    if (sched->manual)
        wind_up(sched);
    else
        pthread_join(sched->thread, NULL);
    sc_tier_close(sched);
    sched_free(sched);
}

static enum sc_status enqueue_locked(struct sc_sched *s, struct sc_request *r, struct sc_err *err)
{
    if (s->closing)
        return sc_fail(err, SC_EUNAVAIL, "the server is shutting down");
    if (s->stats.failed_group)
        return sc_fail(err, SC_EUNAVAIL, "the engine failed and could not be reset");
    if (s->stats.waiting + s->inbox.n >= s->queue_max)
        return sc_fail(err, SC_EFULL, "the queue is full: %u requests wait, limit %u",
                       s->stats.waiting + s->inbox.n, s->queue_max);
    sc_request_ref(r); /* the scheduler's own, until DONE */
    sc_list_push(&s->inbox, r);
    s->stats.submitted++;
    pthread_cond_signal(&s->wake);
    return SC_OK;
}

enum sc_status sc_sched_submit(struct sc_sched *sched, const struct sc_request_opts *opts,
                               struct sc_request **ret_request, struct sc_err *err)
{
    struct sc_request *r;
    enum sc_status st = sc_request_open(&sched->limits, opts, &r, err);
    if (st != SC_OK)
        return st;
    pthread_mutex_lock(&sched->mu);
    st = enqueue_locked(sched, r, err);
    if (st == SC_OK)
        *ret_request = r; /* before any event can come */
    pthread_mutex_unlock(&sched->mu);
    if (st != SC_OK)
        sc_request_unref(r);
    return st;
}

void sc_sched_cancel(struct sc_sched *sched, struct sc_request *request)
{
    atomic_store(&request->canceled, true);
    pthread_mutex_lock(&sched->mu);
    sched->any_canceled = true;
    pthread_cond_signal(&sched->wake);
    pthread_mutex_unlock(&sched->mu);
}

void sc_sched_get_stats(struct sc_sched *sched, struct sc_sched_stats *ret_stats)
{
    pthread_mutex_lock(&sched->mu);
    *ret_stats = sched->stats;
    ret_stats->waiting += sched->inbox.n;
    pthread_mutex_unlock(&sched->mu);
}
