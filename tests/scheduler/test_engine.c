/* The scheduler on the real engine and CPU backend: a small real model answers the same alone, in
 * company and in a pool that holds only some of the requests at once. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/hash.h"
#include "tests/backend.h"
#include "scheduler/scheduler.h"
#include "shard/calibrate.h"

#define MODEL_DIR  SC_FIXTURES_DIR "/stories260K/hf"
#define N_REQUESTS 10u
#define N_OUTPUT   24u

struct answer {
    pthread_mutex_t mu;
    pthread_cond_t changed;
    int32_t tokens[N_OUTPUT];
    uint32_t n_tokens;
    bool done;
    enum sc_status status;
    uint32_t pages;
};

static void on_event(void *ctx, const struct sc_event *ev)
{
    struct answer *a = ctx;
    pthread_mutex_lock(&a->mu);
    for (uint32_t i = 0; i < ev->n_tokens && a->n_tokens < N_OUTPUT; i++)
        a->tokens[a->n_tokens++] = ev->tokens[i].token;
    if (ev->kind == SC_EVENT_DONE) {
        a->done = true;
        a->status = ev->status;
        a->pages = ev->receipt.kv.pages;
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->mu);
}

static void must(enum sc_status st, const struct sc_err *err)
{
    if (st != SC_OK)
        fail_msg("%s", err->text);
}

struct server {
    struct sc_engine *engine;
    struct sc_sched *sched;
};

/* A calibrated engine and its scheduler. */
static void server_open(struct server *s, const struct sc_model *model, uint64_t kv_bytes)
{
    struct sc_err err = SC_ERR_INIT;
    const struct sc_engine_opts eo = {.model = model,
                                      .open_backend = test_backend_open,
                                      .n_ranks = 1,
                                      .n_threads = 1,
                                      .max_seqs = 8,
                                      .max_step_tokens = 96,
                                      .max_logit_rows = 8,
                                      .kv_bytes = kv_bytes,
                                      .kv_dtype = SC_DTYPE_F32,
                                      .weight_dtype = SC_DTYPE_F32};
    bool builtin;
    must(sc_engine_open(&eo, &s->engine, &err), &err);
    must(sc_calibrate_default(s->engine, model, &builtin, &err), &err);
    const struct sc_sched_opts so = {.engine = s->engine,
                                     .model = model,
                                     .queue_max = 64,
                                     .prefill_tokens = 64,
                                     .auto_min_tokens = 100};
    must(sc_sched_open(&so, &s->sched, &err), &err);
}

static void server_close(struct server *s)
{
    struct sc_engine_info info;
    sc_sched_close(s->sched);
    sc_engine_get_info(s->engine, &info);
    assert_int_equal(info.n_pages_free, info.n_pages); /* nothing leaks */
    sc_engine_close(s->engine);
}

static struct sc_request *submit(struct server *s, const struct sc_model *model, uint32_t i,
                                 struct answer *a)
{
    int32_t prompt[300];
    uint32_t n = 60 + (uint32_t)(sc_mix64(i) % 240);
    for (uint32_t t = 0; t < n; t++)
        prompt[t] = 3 + (int32_t)(sc_mix64(i * 1000u + t) % (model->config.vocab - 3));
    struct sc_request_opts o = {.prompt = prompt,
                                .n_prompt = n,
                                .max_tokens = N_OUTPUT,
                                .ignore_eos = true,
                                .sampling = SC_SAMPLING_GREEDY,
                                .kv = i % 3 == 0 ? SC_KV_CHOICE_EXACT : SC_KV_CHOICE_COMPRESSED,
                                .on_event = on_event,
                                .ctx = a};
    sc_recipe_default(&model->config, SC_KV_COMPRESSED, &o.recipe);
    o.recipe.window = 32;
    o.recipe.epoch = 64;
    o.sampling.temperature = i % 2 ? 0.9f : 0.0f;
    o.sampling.seed = i;
    struct sc_err err = SC_ERR_INIT;
    struct sc_request *r = NULL;
    memset(a, 0, sizeof(*a));
    pthread_mutex_init(&a->mu, NULL);
    pthread_cond_init(&a->changed, NULL);
    must(sc_sched_submit(s->sched, &o, &r, &err), &err);
    return r;
}

static void wait_done(struct answer *a, struct sc_request *r)
{
    pthread_mutex_lock(&a->mu);
    while (!a->done)
        pthread_cond_wait(&a->changed, &a->mu);
    pthread_mutex_unlock(&a->mu);
    sc_request_unref(r);
    assert_int_equal(a->status, SC_OK);
    assert_int_equal(a->n_tokens, N_OUTPUT);
}

static void run_together(struct server *s, const struct sc_model *model,
                         const struct answer *expected)
{
    struct answer a[N_REQUESTS];
    struct sc_request *r[N_REQUESTS];
    for (uint32_t i = 0; i < N_REQUESTS; i++)
        r[i] = submit(s, model, i, &a[i]);
    for (uint32_t i = 0; i < N_REQUESTS; i++) {
        wait_done(&a[i], r[i]);
        assert_memory_equal(a[i].tokens, expected[i].tokens, sizeof(a[i].tokens));
    }
}

static void a_real_model_answers_the_same_alone_and_in_company(void **state)
{
    (void)state;
    struct sc_model *model = NULL;
    struct sc_err err = SC_ERR_INIT;
    struct sc_engine_info info;
    struct server s;
    struct answer alone[N_REQUESTS];
    uint32_t most = 0;
    must(sc_model_open(MODEL_DIR, &model, &err), &err);
    server_open(&s, model, (uint64_t)64 << 20);
    sc_engine_get_info(s.engine, &info);
    for (uint32_t i = 0; i < N_REQUESTS; i++) {
        wait_done(&alone[i], submit(&s, model, i, &alone[i]));
        most = alone[i].pages > most ? alone[i].pages : most;
    }
    run_together(&s, model, alone);
    server_close(&s);
    /* Room for a few sequences, and for what compressing takes for a moment. */
    server_open(&s, model, (uint64_t)(4 * most + 200) * info.page_bytes);
    run_together(&s, model, alone);
    server_close(&s);
    sc_model_close(model);
}

int main(void)
{
    if (access(MODEL_DIR "/config.json", R_OK) != 0) {
        fprintf(stderr, "skipped: no model at %s\n", MODEL_DIR);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_real_model_answers_the_same_alone_and_in_company),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
