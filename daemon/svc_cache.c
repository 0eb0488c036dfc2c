#include "daemon/svc_cache.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/clock.h"
#include "daemon/run_request.h"
#include "semanticache/v1/control.pb-c.h"

void sc_control_flush_cache(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    Semanticache__V1__FlushCacheResponse m = SEMANTICACHE__V1__FLUSH_CACHE_RESPONSE__INIT;
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = sc_sched_flush(sc_rpc_app(rpc)->sched, &m.pages_freed, &err);

    (void)message;
    if (st == SC_OK)
        sc_rpc_reply(rpc, &m.base);
    else
        sc_rpc_fail(rpc, st, err.text);
}

/* ---- the self-test ---- */

#define TEST_TOKENS  96u
#define TEST_SECONDS 60u
#define FINDINGS_MAX 8u

struct self_test {
    struct sc_app *app;
    struct sc_runner runner;
    int32_t prompt[TEST_TOKENS];
    uint32_t n_prompt;
    char ns[2][SC_NAMESPACE_BYTES_MAX + 1];
    char texts[FINDINGS_MAX][160];
    char *list[FINDINGS_MAX];
    size_t n;
    bool passed;
};

static void find_out(struct self_test *t, bool good, const char *what, uint32_t cached)
{
    char *text = t->texts[t->n];

    SC_ASSERT(t->n < FINDINGS_MAX);
    (void)snprintf(text, sizeof(t->texts[0]), "%s: %s, cached_tokens %u of %u",
                   good ? "ok" : "FAILED", what, cached, t->n_prompt);
    t->list[t->n++] = text;
    t->passed = t->passed && good;
}

/* Random tokens, so that nobody has read them before, in namespaces that no key can have: '~' is
 * in no name of the keys file. */
static enum sc_status prepare(struct self_test *t, struct sc_err *err)
{
    uint32_t random[TEST_TOKENS], vocab = t->app->model->config.vocab;
    uint32_t room = t->app->engine_info.max_context;

    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return sc_fail(err, SC_EIO, "no random numbers");
    t->n_prompt = room > TEST_TOKENS ? TEST_TOKENS : room - 1;
    for (uint32_t i = 0; i < t->n_prompt; i++)
        t->prompt[i] = (int32_t)(random[i] % vocab);
    for (int i = 0; i < 2; i++)
        (void)snprintf(t->ns[i], sizeof(t->ns[i]), "~self-test-%08" PRIx32 "%08" PRIx32 "-%c",
                       random[0], random[1], 'a' + i);
    return SC_OK;
}

/* shared_ns stays unset: what is asked is whether two namespaces meet that share nothing. */
static enum sc_status ask(struct self_test *t, int who, uint32_t *ret_cached, struct sc_err *err)
{
    struct sc_request_opts opts = {
        .prompt = t->prompt,
        .n_prompt = t->n_prompt,
        .max_tokens = 1,
        .ignore_eos = true,
        .sampling = SC_SAMPLING_GREEDY,
        .kv = SC_KV_CHOICE_EXACT,
        .deadline_us = sc_now_us() + TEST_SECONDS * UINT64_C(1000000),
        .ns = t->ns[who],
        .breakpoint = t->n_prompt - 1,
    };
    struct sc_event end;
    enum sc_status st;

    sc_recipe_default(&t->app->model->config, SC_KV_EXACT, &opts.recipe);
    st = sc_runner_run(&t->runner, t->app->sched, &opts, &end, err);
    if (st == SC_OK)
        *ret_cached = end.receipt.cached_tokens;
    return st;
}

static enum sc_status run(struct self_test *t, struct sc_err *err)
{
    bool sharing = t->app->config->kv_sharing;
    uint32_t cached = 0;
    enum sc_status st = ask(t, 0, &cached, err);

    if (st != SC_OK)
        return st;
    find_out(t, cached == 0, "a random prompt is new to its namespace", cached);
    st = ask(t, 1, &cached, err);
    if (st != SC_OK)
        return st;
    find_out(t, cached == 0, "another namespace does not find it", cached);
    st = ask(t, 0, &cached, err);
    if (st != SC_OK)
        return st;
    if (sharing)
        find_out(t, cached > 0, "its own namespace finds it, so the test can tell", cached);
    else
        find_out(t, cached == 0, "kv.sharing is false: nobody finds anything", cached);
    st = ask(t, 1, &cached, err);
    if (st == SC_OK && sharing)
        find_out(t, cached > 0, "the other one finds what it has read itself", cached);
    return st;
}

void sc_control_self_test_isolation(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    Semanticache__V1__SelfTestIsolationResponse m =
        SEMANTICACHE__V1__SELF_TEST_ISOLATION_RESPONSE__INIT;
    struct self_test t = {.app = sc_rpc_app(rpc), .passed = true};
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st;

    (void)message;
    sc_runner_init(&t.runner);
    st = prepare(&t, &err);
    if (st == SC_OK)
        st = run(&t, &err);
    sc_runner_fini(&t.runner);
    if (st != SC_OK) {
        sc_rpc_fail(rpc, st, err.text);
        return;
    }
    m.passed = t.passed;
    m.findings = t.list;
    m.n_findings = t.n;
    sc_rpc_reply(rpc, &m.base);
}
