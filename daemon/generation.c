#include "daemon/generation_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/clock.h"
#include "daemon/keys.h"

void sc_generation_ref(struct sc_generation *g)
{
    (void)atomic_fetch_add_explicit(&g->refs, 1, memory_order_relaxed);
}

void sc_pending_fini(struct sc_pending *p)
{
    free(p->text);
    free(p->ids);
    free(p->sampled);
    memset(p, 0, sizeof(*p));
}

void sc_generation_unref(struct sc_generation *g)
{
    if (atomic_fetch_sub_explicit(&g->refs, 1, memory_order_acq_rel) != 1)
        return;
    sc_registry_remove(&g->app->registry, &g->entry);
    for (uint32_t i = 0; i < g->n_outputs; i++) {
        if (g->outputs[i].request != NULL)
            sc_request_unref(g->outputs[i].request);
        sc_pending_fini(&g->outputs[i].pending);
    }
    sc_inspect_close(g->inspect);
    sc_rpc_unref(g->rpc);
    (void)pthread_mutex_destroy(&g->mu);
    free(g);
}

/* ---- events: the scheduler thread ---- */

static bool grow(void **mem, size_t *cap, size_t need, size_t item_bytes)
{
    size_t next = *cap > 0 ? *cap : 32;
    void *bigger;

    if (need <= *cap)
        return true;
    while (next < need)
        next *= 2;
    bigger = realloc(*mem, next * item_bytes);
    if (bigger == NULL)
        return false;
    *mem = bigger;
    *cap = next;
    return true;
}

static bool append_delta(struct sc_pending *p, const struct sc_event *e, bool logprobs)
{
    if (!grow((void **)&p->text, &p->text_cap, p->text_len + e->text_len, 1) ||
        !grow((void **)&p->ids, &p->ids_cap, p->n_ids + e->n_tokens, sizeof(*p->ids)))
        return false;
    if (logprobs &&
        !grow((void **)&p->sampled, &p->sampled_cap, p->n_ids + e->n_tokens, sizeof(*p->sampled)))
        return false;
    if (e->text_len > 0)
        memcpy(p->text + p->text_len, e->text, e->text_len);
    p->text_len += e->text_len;
    for (uint32_t i = 0; i < e->n_tokens; i++) {
        p->ids[p->n_ids + i] = e->tokens[i].token;
        if (logprobs)
            p->sampled[p->n_ids + i] = e->tokens[i];
    }
    p->n_ids += e->n_tokens;
    return true;
}

static void note_error_locked(struct sc_generation *g, enum sc_status st, const char *text)
{
    if (g->status != SC_OK)
        return;
    if (st == SC_ECANCELED && g->cause != SC_OK) {
        st = g->cause;
        text = g->cause_text;
    }
    g->status = st;
    (void)snprintf(g->error, sizeof(g->error), "%s", text != NULL ? text : sc_status_text(st));
}

static void note_locked(struct sc_output *out, const struct sc_event *e)
{
    struct sc_generation *g = out->g;

    switch (e->kind) {
    case SC_EVENT_PROGRESS:
        out->prompt_done = e->prompt_done;
        out->prompt_total = e->prompt_total;
        out->has_progress = true;
        break;
    case SC_EVENT_DELTA:
        if (!append_delta(&out->pending, e, g->logprobs))
            note_error_locked(g, SC_ENOMEM, "no memory for the output");
        break;
    case SC_EVENT_DONE:
        sc_ending_take(e, sc_now_us() - g->start_us, out->seed, &out->ending);
        if (e->finish == SC_FINISH_ERROR)
            note_error_locked(g, e->status, e->error);
        out->done = true;
        g->n_done++;
        break;
    }
}

static void post(struct sc_generation *g)
{
    sc_generation_ref(g);
    if (!sc_dispatch_post(g->app->dispatch, &g->item))
        sc_generation_unref(g);
}

static void on_event(void *ctx, const struct sc_event *e)
{
    struct sc_output *out = ctx;
    struct sc_generation *g = out->g;
    bool last, tell;

    (void)pthread_mutex_lock(&g->mu);
    note_locked(out, e);
    last = e->kind == SC_EVENT_DONE && g->n_done == g->n_submitted;
    /* A unary call has nothing to send before its end. */
    tell = g->kind == SC_GENERATE_STREAM || e->kind == SC_EVENT_DONE || g->status != SC_OK;
    (void)pthread_mutex_unlock(&g->mu);
    if (last) /* the id is free again before the client can know that it ended */
        sc_registry_remove(&g->app->registry, &g->entry);
    if (tell)
        post(g);
    if (e->kind == SC_EVENT_DONE)
        sc_generation_unref(g);
}

static void on_chunk(void *ctx, const struct sc_chunk_event *event)
{
    struct sc_output *out = ctx;

    sc_inspect_note(out->g->inspect, event);
}

static void run_item(struct sc_dispatch_item *item)
{
    struct sc_generation *g = (struct sc_generation *)item;

    sc_generation_pump(g);
    sc_generation_unref(g);
}

/* ---- the end from outside ---- */

void sc_generation_cancel(struct sc_generation *g)
{
    (void)pthread_mutex_lock(&g->mu);
    g->cancel_wanted = true;
    (void)pthread_mutex_unlock(&g->mu);
    for (uint32_t i = 0; i < g->n_outputs; i++) {
        struct sc_request *request;
        (void)pthread_mutex_lock(&g->mu);
        request = g->outputs[i].done ? NULL : g->outputs[i].request;
        (void)pthread_mutex_unlock(&g->mu);
        if (request != NULL)
            sc_sched_cancel(g->app->sched, request);
    }
}

static void on_closed(struct sc_rpc *rpc, void *state, bool cancelled)
{
    struct sc_generation *g = state;

    (void)rpc;
    (void)pthread_mutex_lock(&g->mu);
    g->closed = true;
    (void)pthread_mutex_unlock(&g->mu);
    if (cancelled)
        sc_generation_cancel(g);
    sc_generation_unref(g);
}

static void on_sent(struct sc_rpc *rpc, void *state)
{
    struct sc_generation *g = state;

    (void)rpc;
    (void)pthread_mutex_lock(&g->mu);
    g->sending = false;
    (void)pthread_mutex_unlock(&g->mu);
    sc_generation_pump(g);
    sc_generation_unref(g);
}

static const struct sc_rpc_hooks hooks = {.on_sent = on_sent, .on_closed = on_closed};

struct abort_order {
    enum sc_status st;
    const char *text;
    struct sc_generation **list; /* referenced */
    unsigned n, cap;
};

static void collect(struct sc_registry_entry *entry, void *ctx)
{
    struct sc_generation *g =
        (struct sc_generation *)(void *)((char *)entry - offsetof(struct sc_generation, entry));
    struct abort_order *order = ctx;

    if (order->n == order->cap)
        return; /* counted first: more came in since; the caller asks again */
    sc_generation_ref(g);
    order->list[order->n++] = g;
}

static void count(struct sc_registry_entry *entry, void *ctx)
{
    (void)entry;
    (void)ctx;
}

unsigned sc_generation_abort(struct sc_app *app, const char *ns, const char *request_id,
                             enum sc_status st, const char *text)
{
    struct abort_order order = {.st = st, .text = text};

    order.cap = sc_registry_each(&app->registry, ns, request_id, count, NULL);
    order.list = calloc(order.cap > 0 ? order.cap : 1, sizeof(struct sc_generation *));
    if (order.list == NULL)
        return 0;
    (void)sc_registry_each(&app->registry, ns, request_id, collect, &order);
    for (unsigned i = 0; i < order.n; i++) {
        struct sc_generation *g = order.list[i];
        (void)pthread_mutex_lock(&g->mu);
        if (g->cause == SC_OK) {
            g->cause = st;
            g->cause_text = text;
        }
        (void)pthread_mutex_unlock(&g->mu);
        sc_generation_cancel(g);
        sc_generation_unref(g);
    }
    free(order.list);
    return order.n;
}

/* ---- the beginning ---- */

static struct sc_generation *create(struct sc_app *app, struct sc_rpc *rpc,
                                    const struct sc_generation_opts *opts)
{
    uint32_t n = opts->params->n_outputs;
    struct sc_generation *g = calloc(1, sizeof(*g) + n * sizeof(g->outputs[0]));
    uint64_t random[2] = {0};

    if (g == NULL)
        return NULL;
    g->item.run = run_item;
    atomic_init(&g->refs, 1);
    g->app = app;
    g->rpc = rpc;
    sc_rpc_ref(rpc);
    g->entry.ns = sc_rpc_identity(rpc)->ns; /* g holds the rpc */
    g->kind = opts->kind;
    g->progress = opts->progress;
    g->logprobs = opts->params->opts.sampling.logprobs;
    g->start_us = opts->start_us;
    (void)pthread_mutex_init(&g->mu, NULL);
    g->n_outputs = n;
    g->n_submitted = n; /* until we know better: nothing is over before all were submitted */
    for (uint32_t i = 0; i < n; i++) {
        g->outputs[i].g = g;
        g->outputs[i].index = i;
        g->outputs[i].seed = opts->params->opts.sampling.seed + i;
    }
    (void)!getrandom(random, sizeof(random), 0);
    if (opts->request_id[0] != '\0')
        (void)snprintf(g->entry.id, sizeof(g->entry.id), "%s", opts->request_id);
    else
        (void)snprintf(g->entry.id, sizeof(g->entry.id), "r-%016" PRIx64 "%016" PRIx64, random[0],
                       random[1]);
    return g;
}

/* The output's reference is taken before: its DONE may come before submit returns. */
static enum sc_status submit(struct sc_generation *g, struct sc_output *out,
                             const struct sc_request_opts *base, struct sc_err *err)
{
    struct sc_request_opts opts = *base;
    struct sc_request *request;
    enum sc_status st;

    opts.sampling.seed = out->seed;
    opts.deadline_us = sc_rpc_deadline_us(g->rpc);
    opts.on_event = on_event;
    opts.ctx = out;
    opts.on_chunk = g->inspect != NULL ? on_chunk : NULL;
    sc_generation_ref(g);
    st = sc_sched_submit(g->app->sched, &opts, &request, err);
    (void)pthread_mutex_lock(&g->mu);
    if (st == SC_OK)
        out->request = request;
    (void)pthread_mutex_unlock(&g->mu);
    if (st != SC_OK)
        sc_generation_unref(g);
    return st;
}

/* Submits every output; the first that is refused ends those before it. */
static void submit_all(struct sc_generation *g, const struct sc_request_opts *opts)
{
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = SC_OK;
    bool cancel, over;
    uint32_t n = 0;

    while (n < g->n_outputs && st == SC_OK) {
        st = submit(g, &g->outputs[n], opts, &err);
        n += st == SC_OK ? 1 : 0;
    }
    (void)pthread_mutex_lock(&g->mu);
    g->n_submitted = n;
    if (st != SC_OK)
        note_error_locked(g, st, err.text);
    over = g->n_done == n;
    cancel = g->cancel_wanted || st != SC_OK; /* also: it was wanted before there was a request */
    (void)pthread_mutex_unlock(&g->mu);
    if (over)
        sc_registry_remove(&g->app->registry, &g->entry);
    if (cancel)
        sc_generation_cancel(g);
    if (st != SC_OK)
        post(g);
}

void sc_generation_start(struct sc_app *app, struct sc_rpc *rpc,
                         const struct sc_generation_opts *opts)
{
    struct sc_generation *g = create(app, rpc, opts);
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st;

    if (g == NULL) {
        sc_rpc_fail(rpc, SC_ENOMEM, "no memory for the request");
        return;
    }
    st = sc_registry_add(&app->registry, &g->entry, &err);
    if (st == SC_OK && opts->kind == SC_GENERATE_INSPECT)
        st = sc_inspect_open(app->model, &opts->params->opts, opts->layers, opts->lookup,
                             &g->inspect, &err);
    if (st != SC_OK) {
        sc_rpc_fail(rpc, st, err.text);
        sc_generation_unref(g);
        return;
    }
    sc_generation_ref(g); /* the open call's; dropped by on_closed */
    sc_rpc_set_hooks(rpc, &hooks, g);
    submit_all(g, &opts->params->opts);
    sc_generation_unref(g);
}
