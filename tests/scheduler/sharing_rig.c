#include "tests/scheduler/sharing_rig.h"

#include <string.h>

#include "base/hash.h"

static uint64_t pool_bytes; /* for sharing_engine, which gets no context */
static uint32_t most_seqs;

static void sharing_engine(struct sc_engine_opts *opts)
{
    opts->max_snaps = 64;
    if (most_seqs > 0)
        opts->max_seqs = most_seqs;
    opts->max_step_tokens = 160;
    if (pool_bytes > 0)
        opts->kv_bytes = pool_bytes;
}

/* calibration: NULL: as measured. */
static void open_on(struct server *s, uint32_t max_seqs, uint32_t n_ranks, bool sharing,
                    uint64_t kv_bytes, struct sc_store *store,
                    const struct sc_calibration *calibration)
{
    struct sc_err err = SC_ERR_INIT;
    most_seqs = max_seqs;
    s->most_running = s->n_done = 0;
    pthread_mutex_init(&s->gate, NULL);
    pool_bytes = kv_bytes;
    rig_open_golden(&s->rig, "llama31", CONTEXT, n_ranks, sharing_engine);
    if (calibration != NULL)
        must(sc_engine_set_calibration(s->rig.engine, calibration, &err), &err);
    const struct sc_sched_opts so = {.engine = s->rig.engine,
                                     .model = s->rig.model,
                                     .queue_max = 256,
                                     .prefill_tokens = 128,
                                     .auto_min_tokens = 100,
                                     .no_sharing = !sharing,
                                     .store = store};
    must(sc_sched_open(&so, &s->sched, &err), &err);
}

void server_open(struct server *s, uint32_t n_ranks, bool sharing, uint64_t kv_bytes,
                 struct sc_store *store)
{
    open_on(s, 0, n_ranks, sharing, kv_bytes, store, NULL);
}

void server_open_for(struct server *s, uint32_t max_seqs, uint32_t n_ranks, bool sharing,
                     uint64_t kv_bytes, struct sc_store *store)
{
    open_on(s, max_seqs, n_ranks, sharing, kv_bytes, store, NULL);
}

void server_open_calibrated(struct server *s, uint32_t n_ranks, bool sharing,
                            struct sc_store *store, const struct sc_calibration *calibration)
{
    open_on(s, 0, n_ranks, sharing, 0, store, calibration);
}

void server_close(struct server *s)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_engine_info info;
    struct sc_sched_stats stats;
    uint64_t pages;
    must(sc_sched_flush(s->sched, &pages, &err), &err);
    sc_sched_get_stats(s->sched, &stats);
    assert_int_equal(stats.pages_free, stats.pages_total);
    sc_sched_close(s->sched);
    sc_engine_get_info(s->rig.engine, &info);
    assert_int_equal(info.n_pages_free, info.n_pages);
    rig_close(&s->rig);
}

static void on_event(void *ctx, const struct sc_event *ev)
{
    struct answer *a = ctx;
    struct server *s = a->server;
    struct sc_sched_stats st;
    pthread_mutex_lock(&s->gate);
    sc_sched_get_stats(s->sched, &st);
    s->most_running = st.running > s->most_running ? st.running : s->most_running;
    if (ev->kind == SC_EVENT_DONE)
        a->rank = ++s->n_done;
    pthread_mutex_unlock(&s->gate);
    pthread_mutex_lock(&a->mu);
    for (uint32_t i = 0; i < ev->n_tokens && a->n_tokens < N_OUTPUT; i++)
        a->tokens[a->n_tokens++] = ev->tokens[i];
    for (uint32_t i = 0; i < ev->n_tokens; i++) {
        uint32_t bits;
        memcpy(&bits, &ev->tokens[i].logprob, sizeof(bits));
        a->digest = sc_mix64(a->digest ^ (uint64_t)(uint32_t)ev->tokens[i].token << 32 ^ bits);
        a->n_all++;
    }
    if (ev->kind == SC_EVENT_DONE) {
        a->done = true;
        a->status = ev->status;
        a->receipt = ev->receipt;
        a->key = ev->prefix_key;
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->mu);
}

struct sc_request_opts ask(const struct server *s, const int32_t *prompt, uint32_t n,
                           enum sc_kv_choice kv)
{
    struct sc_request_opts o = {.prompt = prompt,
                                .n_prompt = n,
                                .max_tokens = N_OUTPUT,
                                .ignore_eos = true,
                                .sampling = SC_SAMPLING_GREEDY,
                                .kv = kv};
    sc_recipe_default(&s->rig.model->config, SC_KV_COMPRESSED, &o.recipe);
    o.recipe.window = 144; /* longer than a chunk: prompts of all lengths share */
    o.recipe.epoch = 128;
    o.sampling.logprobs = true;
    return o;
}

void submit(struct server *s, struct sc_request_opts o, struct answer *a)
{
    struct sc_err err = SC_ERR_INIT;
    memset(a, 0, sizeof(*a));
    pthread_mutex_init(&a->mu, NULL);
    pthread_cond_init(&a->changed, NULL);
    a->server = s;
    o.on_event = on_event;
    o.ctx = a;
    must(sc_sched_submit(s->sched, &o, &a->request, &err), &err);
}

void wait_done(struct answer *a)
{
    pthread_mutex_lock(&a->mu);
    while (!a->done)
        pthread_cond_wait(&a->changed, &a->mu);
    pthread_mutex_unlock(&a->mu);
    sc_request_unref(a->request);
}

struct answer run(struct server *s, struct sc_request_opts o)
{
    static struct answer a;
    submit(s, o, &a);
    wait_done(&a);
    assert_int_equal(a.status, SC_OK);
    return a;
}

struct sc_hash put_as(struct server *s, const int32_t *ids, uint32_t n, uint64_t pin_until,
                      enum sc_kv_choice kv)
{
    struct sc_request_opts o = ask(s, ids, n, kv);
    o.prefill_only = true;
    o.max_tokens = 0;
    o.retain = true;
    o.breakpoint = n;
    o.pin_until_us = pin_until;
    return run(s, o).key;
}

struct sc_prefix_item order(struct server *s, enum sc_prefix_op op, const struct sc_hash *key)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_prefix_item item = {.op = op, .key = *key, .until_us = UINT64_MAX};
    must(sc_sched_prefixes(s->sched, &item, 1, &err), &err);
    return item;
}

struct sc_sched_stats stats_of(struct server *s)
{
    struct sc_sched_stats st;
    sc_sched_get_stats(s->sched, &st);
    return st;
}

void assert_same(const struct answer *a, const struct answer *b)
{
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_int_equal(a->n_all, b->n_all);
    assert_true(a->digest == b->digest);
    for (uint32_t i = 0; i < a->n_tokens; i++) {
        assert_int_equal(a->tokens[i].token, b->tokens[i].token);
        assert_memory_equal(&a->tokens[i].logprob, &b->tokens[i].logprob, sizeof(float));
    }
}

void prompt_of(int32_t *ids, uint32_t n, uint32_t vocab, uint64_t family, uint32_t shared,
               uint64_t own)
{
    make_tokens(ids, n, vocab, family * 1000);
    if (shared < n)
        make_tokens(ids + shared, n - shared, vocab, own * 77 + 5);
}

void open_tight(struct server *s, uint32_t pages, struct sc_store *store)
{
    struct sc_engine_info info;
    server_open(s, 1, true, 0, NULL);
    sc_engine_get_info(s->rig.engine, &info);
    uint64_t bytes = info.page_bytes * s->rig.model->config.n_layers * pages;
    server_close(s);
    server_open(s, 1, true, bytes, store);
}

void wait_tokens(struct answer *a, uint32_t n)
{
    pthread_mutex_lock(&a->mu);
    while (a->n_all < n && !a->done)
        pthread_cond_wait(&a->changed, &a->mu);
    assert_false(a->done);
    pthread_mutex_unlock(&a->mu);
}

bool is_done(struct answer *a)
{
    pthread_mutex_lock(&a->mu);
    bool done = a->done;
    pthread_mutex_unlock(&a->mu);
    return done;
}
