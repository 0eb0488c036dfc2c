/* Who chooses a step's tokens makes no difference: the backend, the sampler, or one for some rows
 * and the other for the rest; of one rank or of several. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/backend.h"
#include "tests/shard/engine_util.h"

#define N_RUNS    5u
#define N_STEPS   40u
#define N_PROMPT  60u
#define RANKS_MAX 4u

/* What the backend of the run says to draws. */
static enum { DRAWS, DRAWS_SOME, DRAWS_NONE, LACKS_DRAW, LACKS_BOTH } manner;
static unsigned n_drawn; /* calls: by one rank only */
static const struct sc_backend_ops *real_ops;

static void make_undecided(struct sc_backend *be, float *best)
{
    static const uint32_t undecided = SC_DRAW_UNDECIDED;
    struct sc_err err = SC_ERR_INIT;
    must(be->ops->upload(be, best + 1, &undecided, sizeof(undecided), &err), &err);
}

static enum sc_status draw_some(struct sc_backend *be, const float *x, uint32_t n_rows,
                                uint32_t width, uint32_t n_cols, const struct sc_draw *draws,
                                float *best, struct sc_err *err)
{
    enum sc_status st = SC_OK;
    n_drawn++;
    if (manner != DRAWS_NONE)
        st = real_ops->draw(be, x, n_rows, width, n_cols, draws, best, err);
    for (uint32_t i = 0; i < n_rows && manner != DRAWS; i++)
        if (draws[i].scale != 0.0f && (manner == DRAWS_NONE || i % 2 == n_drawn % 2))
            make_undecided(be, best + 2 * i);
    return st;
}

static enum sc_status open_manner(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                                  struct sc_err *err)
{
    static struct sc_backend_ops all_ops[RANKS_MAX]; /* others read theirs meanwhile */
    struct sc_backend_ops *ops = &all_ops[opts->rank];
    enum sc_status st = test_backend_open(opts, ret_be, err);
    if (st != SC_OK)
        return st;
    *ops = *(*ret_be)->ops;
    if (opts->rank == 0)
        real_ops = (*ret_be)->ops;
    ops->draw = manner <= DRAWS_NONE ? draw_some : NULL;
    if (manner == LACKS_BOTH)
        ops->row_max = NULL;
    (*ret_be)->ops = ops;
    return SC_OK;
}

static void tweak(struct sc_engine_opts *opts)
{
    opts->open_backend = open_manner;
}

/* Greedy, plain, filtered, and (if mixed) two that need the sampler. */
static void open_samplers(uint32_t vocab, bool mixed, struct sc_sampler **samplers)
{
    struct sc_sampling p[N_RUNS] = {SC_SAMPLING_GREEDY, SC_SAMPLING_GREEDY, SC_SAMPLING_GREEDY,
                                    SC_SAMPLING_GREEDY, SC_SAMPLING_GREEDY};
    struct sc_err err = SC_ERR_INIT;
    for (uint32_t i = 1; i < N_RUNS; i++) {
        p[i].temperature = 0.5f + (float)i;
        p[i].seed = 40 + i;
    }
    p[2].top_p = 0.8f;
    p[3].top_k = 9;
    p[3].min_p = 0.01f;
    if (mixed) {
        p[3].repetition_penalty = 1.3f;
        p[4].logprobs = true;
    }
    for (uint32_t i = 0; i < N_RUNS; i++)
        must(sc_sampler_open(&p[i], vocab, NULL, 0, 0, &samplers[i], &err), &err);
}

/* A plugin's device may be emulated: less to do. */
static uint32_t n_steps(void)
{
    return test_plugin() != NULL ? 5 : N_STEPS;
}

static uint32_t n_prompt(void)
{
    return test_plugin() != NULL ? 3 : N_PROMPT;
}

static void run(int how, uint32_t n_ranks, bool mixed, int32_t tokens[N_STEPS][N_RUNS])
{
    struct rig rig;
    struct sc_sampler *samplers[N_RUNS] = {NULL};
    const uint32_t prompt = n_prompt();
    int32_t ids[N_RUNS][N_PROMPT + N_STEPS];
    struct sc_err err = SC_ERR_INIT;

    manner = how;
    n_drawn = 0;
    memset(tokens, 0, sizeof(*tokens) * N_STEPS);
    rig_open(&rig, SC_SOURCE_DIR "/tests/golden/llama31", 1024, n_ranks, tweak);
    const struct sc_recipe recipe = small_recipe(&rig, SC_KV_EXACT);
    open_samplers(sc_tokenizer_vocab(rig.model->tok), mixed, samplers);
    for (uint32_t i = 0; i < N_RUNS; i++) {
        make_tokens(ids[i], prompt, rig.model->config.vocab, 7 + i);
        seq_open(&rig, i, &recipe, prompt);
        seq_run(&rig, i, &recipe, prompt, ids[i], 0, prompt - 1, 50, NULL);
    }
    for (uint32_t s = 0; s < n_steps(); s++) {
        struct sc_plan_run runs[N_RUNS];
        struct sc_run_result results[N_RUNS];
        const struct sc_plan plan = {.runs = runs, .n_runs = N_RUNS};
        for (uint32_t i = 0; i < N_RUNS; i++)
            runs[i] = (struct sc_plan_run){.slot = i,
                                           .pos0 = prompt - 1 + s,
                                           .n_tokens = 1,
                                           .tokens = &ids[i][prompt - 1 + s],
                                           .want = SC_LOGITS_LAST,
                                           .sampler = samplers[i]};
        must(sc_engine_step(rig.engine, &plan, results, &err), &err);
        for (uint32_t i = 0; i < N_RUNS; i++) {
            assert_int_equal(results[i].status, SC_OK);
            assert_int_equal(results[i].logits == NULL, how <= DRAWS_NONE && !mixed);
            ids[i][prompt + s] = tokens[s][i] = results[i].sampled.token;
        }
    }
    assert_int_equal(n_drawn, how <= DRAWS_NONE ? n_steps() : 0);
    for (uint32_t i = 0; i < N_RUNS; i++)
        sc_sampler_close(samplers[i]);
    rig_close(&rig);
}

static void tokens_do_not_depend_on_who_draws(void **state)
{
    (void)state;
    for (int mixed = 0; mixed < 2; mixed++) {
        int32_t want[N_STEPS][N_RUNS], got[N_STEPS][N_RUNS];
        uint32_t distinct = 0;
        run(LACKS_BOTH, 1, mixed, want);
        for (uint32_t s = 1; s < n_steps(); s++)
            distinct += want[s][1] != want[s - 1][1];
        assert_true(distinct > n_steps() / 2); /* draws, not one token again and again */
        for (uint32_t n_ranks = 1; n_ranks <= RANKS_MAX; n_ranks *= 2)
            for (int how = DRAWS; how <= LACKS_BOTH; how++) {
                run(how, n_ranks, mixed, got);
                assert_memory_equal(got, want, sizeof(want));
            }
    }
}

/* Who asks for the logits of all tokens gets them, whatever else is chosen where. */
static void all_logits(int how, uint32_t n_ranks, uint32_t n_tokens, float *logits,
                       int32_t *ret_token)
{
    struct rig rig;
    struct sc_sampler *samplers[N_RUNS] = {NULL};
    int32_t ids[N_PROMPT];
    struct sc_err err = SC_ERR_INIT;
    struct sc_run_result result;

    manner = how;
    rig_open(&rig, SC_SOURCE_DIR "/tests/golden/llama31", 1024, n_ranks, tweak);
    const struct sc_recipe recipe = small_recipe(&rig, SC_KV_EXACT);
    open_samplers(sc_tokenizer_vocab(rig.model->tok), false, samplers);
    make_tokens(ids, N_PROMPT, rig.model->config.vocab, 3);
    seq_open(&rig, 0, &recipe, N_PROMPT);
    const struct sc_plan_run r = {
        .n_tokens = n_tokens, .tokens = ids, .want = SC_LOGITS_ALL, .sampler = samplers[1]};
    const struct sc_plan plan = {.runs = &r, .n_runs = 1};
    must(sc_engine_step(rig.engine, &plan, &result, &err), &err);
    assert_int_equal(result.status, SC_OK);
    assert_int_equal(result.n_logit_rows, n_tokens);
    memcpy(logits, result.logits, n_tokens * rig.model->config.vocab * sizeof(*logits));
    *ret_token = result.sampled.token;
    for (uint32_t i = 0; i < N_RUNS; i++)
        sc_sampler_close(samplers[i]);
    rig_close(&rig);
}

static void all_logits_are_given_beside_a_draw(void **state)
{
    static float want[1 << 16], got[1 << 16];
    (void)state;
    for (uint32_t i = 0; i < 6; i++) {
        const uint32_t n = 1 + i % 3, n_ranks = 1 + i / 3;
        int32_t token, other;
        memset(want, 0, sizeof(want));
        memset(got, 0, sizeof(got));
        all_logits(LACKS_BOTH, n_ranks, n, want, &token);
        all_logits(DRAWS, n_ranks, n, got, &other);
        assert_int_equal(other, token);
        assert_memory_equal(got, want, sizeof(want));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_logits_are_given_beside_a_draw),
        cmocka_unit_test(tokens_do_not_depend_on_who_draws),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
