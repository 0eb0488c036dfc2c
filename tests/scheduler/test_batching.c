/* Batching changes nothing: a request among 63 others gets the tokens and the log-probabilities,
 * bit for bit, that it gets alone: modes, seeds and temperatures mixed, arrivals at random, some
 * cancelled, and with few pages some preempted. */
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "tests/scheduler/sharing_rig.h"

#define N 64u

/* Requests that generate up to the context's end: pages are reserved for 512 tokens of their
 * output, so two that run together come to want more than there are. */
#define N_LONG      3u
#define LONG_PROMPT 1480u

#ifdef SC_TSAN /* slow */
#define PROMPT_MAX 96u
#define ROUNDS     1u
#else
#define PROMPT_MAX 256u
#define ROUNDS     3u
#endif

static int32_t prompts[N][PROMPT_MAX], long_prompts[N_LONG][LONG_PROMPT];
static struct answer alone[N], together[N];

static struct sc_request_opts request_of(const struct server *s, uint32_t seed, uint32_t i)
{
    uint64_t x = sc_mix64(seed * 1000 + i);
    uint32_t n = 8 + (uint32_t)(x % (PROMPT_MAX - 8)), vocab = s->rig.model->config.vocab;
    prompt_of(prompts[i], n, vocab, (x >> 20) % 5, (uint32_t)((x >> 24) % PROMPT_MAX), i);
    struct sc_request_opts o =
        ask(s, prompts[i], n, (x >> 32) % 2 == 0 ? SC_KV_CHOICE_EXACT : SC_KV_CHOICE_COMPRESSED);
    o.recipe.window = 40;
    o.recipe.epoch = 64;
    o.recipe.chunk_min = 8;
    o.recipe.chunk_max = 32;
    o.recipe.chunk_target = 24;
    o.recipe.compress_generated = (x >> 33) % 2 == 0;
    o.sampling.temperature = (float)((x >> 34) % 4) * 0.4f; /* a quarter is greedy */
    o.sampling.seed = x >> 40;
    o.sampling.n_logprobs = (x >> 36) % 3;
    o.max_tokens = 2 + (uint32_t)((x >> 38) % (N_OUTPUT - 1));
    return o;
}

static struct sc_request_opts long_of(const struct server *s, uint32_t seed, uint32_t i)
{
    prompt_of(long_prompts[i], LONG_PROMPT, s->rig.model->config.vocab, seed, 0, i);
    struct sc_request_opts o = ask(s, long_prompts[i], LONG_PROMPT, SC_KV_CHOICE_EXACT);
    o.sampling.temperature = 0.8f;
    o.sampling.seed = seed + i;
    o.max_tokens = 0;
    return o;
}

static void assert_whole_answer(const struct answer *a, const struct answer *b)
{
    assert_same(a, b);
    for (uint32_t i = 0; i < a->n_tokens; i++) {
        assert_int_equal(a->tokens[i].n_top, b->tokens[i].n_top);
        for (uint32_t k = 0; k < a->tokens[i].n_top; k++) {
            assert_int_equal(a->tokens[i].top[k].token, b->tokens[i].top[k].token);
            assert_memory_equal(&a->tokens[i].top[k].logprob, &b->tokens[i].top[k].logprob,
                                sizeof(float));
        }
    }
}

/* kv_bytes: 0: plenty, else for two long requests, which are among them then. Returns how many ran
 * at once. */
static uint32_t check_crowd(uint32_t n_ranks, bool sharing, uint64_t kv_bytes, uint32_t seed,
                            bool all_at_once, uint64_t *ret_preempted)
{
#define OF(server, i)                                                                              \
    (kv_bytes > 0 && (i) < N_LONG ? long_of(server, seed, i) : request_of(server, seed, i))
    struct server one, crowd;
    struct sc_sched_stats st;
    uint32_t n_canceled = 0;
    server_open_for(&one, 1, n_ranks, false, 0, NULL);
    server_open_for(&crowd, N, n_ranks, sharing, kv_bytes, NULL);
    for (uint32_t i = 0; i < N; i++)
        alone[i] = run(&one, OF(&one, i));
    if (all_at_once)
        pthread_mutex_lock(&crowd.gate); /* nobody ends before all are there */
    for (uint32_t i = 0; i < N; i++) {
        submit(&crowd, OF(&crowd, i), &together[i]);
        uint64_t x = sc_mix64(seed * 777 + i);
        if (!all_at_once && x % 4 == 0)
            usleep((useconds_t)(x >> 8) % 2000);
        if (!all_at_once && x % 9 == 0) /* itself, or one before it */
            sc_sched_cancel(crowd.sched, together[i - (i > 4 ? x % 4 : 0)].request);
    }
    if (all_at_once)
        pthread_mutex_unlock(&crowd.gate);
    for (uint32_t i = 0; i < N; i++) {
        wait_done(&together[i]);
        if (together[i].status == SC_ECANCELED) {
            n_canceled++;
            continue;
        }
        assert_int_equal(together[i].status, SC_OK);
        assert_whole_answer(&alone[i], &together[i]);
    }
    sc_sched_get_stats(crowd.sched, &st);
    *ret_preempted = st.preempted;
    assert_true(all_at_once ? n_canceled == 0 : n_canceled > 0 && n_canceled < N / 2);
    server_close(&one);
    server_close(&crowd);
    return crowd.most_running;
#undef OF
}

static void each_of_64_at_once_gets_what_it_gets_alone(void **state)
{
    uint64_t preempted;
    (void)state;
    assert_int_equal(check_crowd(1, false, 0, 1, true, &preempted), N);
    assert_int_equal(check_crowd(2, true, 0, 2, true, &preempted), N);
}

static void arrivals_cancels_and_sharing_change_no_bit(void **state)
{
    uint64_t preempted;
    (void)state;
    for (uint32_t seed = 10; seed < 10 + ROUNDS; seed++)
        (void)check_crowd(1, seed % 2 == 0, 0, seed, false, &preempted);
}

static void preemptions_change_no_bit(void **state)
{
    struct sc_engine_info info;
    struct server s;
    uint64_t preempted, all = 0;
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    sc_engine_get_info(s.rig.engine, &info);
    uint64_t page = info.page_bytes * s.rig.model->config.n_layers;
    server_close(&s);
    const uint32_t long_pages =
        (LONG_PROMPT + 512) / SC_PAGE_ENTRIES + 1; /* of a layer, reserved */
    for (uint32_t seed = 20; seed < 20 + ROUNDS; seed++) {
        (void)check_crowd(1, seed % 2 == 0, page * 2 * long_pages, seed, seed % 2 != 0, &preempted);
        all += preempted;
    }
    assert_true(all > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_of_64_at_once_gets_what_it_gets_alone),
        cmocka_unit_test(arrivals_cancels_and_sharing_change_no_bit),
        cmocka_unit_test(preemptions_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
