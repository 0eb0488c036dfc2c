/* A group of ranks that is misused, diverges or breaks in the middle of an epoch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/backend.h"
#include "shard/rank.h"
#include "tests/shard/engine_util.h"

#define N 1400u

static enum sc_status step(struct rig *rig, const struct sc_plan *plan, struct sc_err *err)
{
    struct sc_run_result results[4];
    sc_err_clear(err);
    return sc_engine_step(rig->engine, plan, results, err);
}

static enum sc_status run_one(struct rig *rig, uint32_t slot, uint32_t pos0, const int32_t *ids,
                              struct sc_err *err)
{
    const struct sc_plan_run run = {.slot = slot, .pos0 = pos0, .n_tokens = 1, .tokens = ids};
    const struct sc_plan plan = {.runs = &run, .n_runs = 1};
    return step(rig, &plan, err);
}

static void a_slot_is_opened_once_and_may_be_closed_and_opened_in_one_plan(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    rig_open_golden(&rig, "llama31", 512, 1, NULL);
    const struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    const struct sc_plan_open opens[] = {{.slot = 1, .recipe = &recipe, .prompt_len = 5},
                                         {.slot = 1, .recipe = &recipe, .prompt_len = 6}};
    const uint32_t close = 1;
    const struct sc_plan twice = {.opens = opens, .n_opens = 2};
    assert_int_equal(step(&rig, &twice, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "slot 1 is opened twice"));
    const struct sc_plan once = {.opens = opens, .n_opens = 1};
    must(step(&rig, &once, &err), &err);
    assert_int_equal(step(&rig, &once, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "slot 1 is in use"));
    const struct sc_plan again = {
        .closes = &close, .opens = opens + 1, .n_closes = 1, .n_opens = 1};
    must(step(&rig, &again, &err), &err);
    assert_int_equal(sc_engine_rank(rig.engine, 0)->seqs[1].prompt_len, 6);
    rig_close(&rig);
}

/* A sliding layer has given its first pages back: a chunk of them would read other sequences' keys.
 */
static void a_sliding_layer_is_never_compressed(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    rig_open_golden(&rig, "qwen2", 512, 1, NULL);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    recipe.exact_layers[0] = 2; /* the last layer is missing */
    const struct sc_plan_open open = {.slot = 0, .recipe = &recipe, .prompt_len = 5};
    const struct sc_plan plan = {.opens = &open, .n_opens = 1};
    assert_int_equal(step(&rig, &plan, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "layer 2 has a sliding window of 12"));
    recipe.mode = SC_KV_EXACT; /* there the mask means nothing */
    must(step(&rig, &plan, &err), &err);
    rig_close(&rig);
}

static void a_closed_or_lost_sequence_has_no_entries(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    int32_t ids[N];
    float k[SC_HEAD_DIM_MAX], v[SC_HEAD_DIM_MAX], bias;
    rig_open_golden(&rig, "llama31", 512, 2, NULL);
    make_tokens(ids, N, rig.model->config.vocab, 4);
    const struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    for (int lost = 0; lost < 2; lost++) {
        seq_open(&rig, 0, &recipe, 300);
        seq_run(&rig, 0, &recipe, 300, ids, 0, 300, 100, NULL);
        assert_true(sc_engine_layer_cores(rig.engine, 0, 0) > 0);
        if (lost)
            must(sc_engine_reset(rig.engine, &err), &err);
        else
            seq_close(&rig, 0);
        assert_int_equal(sc_engine_layer_cores(rig.engine, 0, 0), 0);
        assert_int_equal(sc_engine_layer_entries(rig.engine, 0, 0), 0);
        assert_int_equal(sc_engine_read_entry(rig.engine, 0, 0, 0, 0, k, v, &bias, &err),
                         SC_EINVAL);
        sc_err_clear(&err);
        assert_int_equal(sc_engine_pages_needed(rig.engine, 0, 33, false), 2 * 2);
    }
    rig_close(&rig);
}

/* Ranks that hold different thresholds would cluster differently: found when a sequence opens. */
static void ranks_with_different_thresholds_are_found_at_open(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    rig_open_golden(&rig, "llama31", 512, 2, NULL);
    const struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    const struct sc_plan_open open = {.slot = 0, .recipe = &recipe, .prompt_len = 5};
    const struct sc_plan plan = {.opens = &open, .n_opens = 1};
    struct sc_calibration *c = &sc_engine_rank(rig.engine, 1)->calibration;
    for (size_t i = 0; i < (size_t)SC_METRIC_COUNT * c->n_layers * SC_CALIBRATION_RATIOS; i++)
        c->tau[i] *= 1.01f;
    assert_int_equal(step(&rig, &plan, &err), SC_EDIVERGED);
    assert_non_null(strstr(err.text, "plan digest"));
    rig_close(&rig);
}

/* A device that fails at a chosen call, on rank 1 only. */
static atomic_int distance_calls_until_failure = -1;
static struct sc_backend_ops failing_ops;
static const struct sc_backend_ops *good_ops;

static enum sc_status failing_distances(struct sc_backend *be, const struct sc_dist_args *args,
                                        struct sc_err *err)
{
    if (distance_calls_until_failure >= 0 &&
        atomic_fetch_sub(&distance_calls_until_failure, 1) == 0)
        return sc_fail(err, SC_EDEVICE, "the device is gone");
    return good_ops->distances(be, args, err);
}

static enum sc_status open_failing_rank(const struct sc_backend_opts *opts,
                                        struct sc_backend **ret_be, struct sc_err *err)
{
    enum sc_status st = test_backend_open(opts, ret_be, err);
    if (st == SC_OK && opts->rank == 1) {
        good_ops = (*ret_be)->ops;
        failing_ops = *good_ops;
        failing_ops.distances = failing_distances;
        (*ret_be)->ops = &failing_ops;
    }
    return st;
}

static void failing_second_rank(struct sc_engine_opts *opts)
{
    opts->open_backend = open_failing_rank;
}

static struct sc_recipe long_epoch(const struct rig *rig)
{
    struct sc_recipe recipe = small_recipe(rig, SC_KV_COMPRESSED);
    recipe.window = 16;
    recipe.epoch = 1200; /* of one-token chunks: 2400 jobs of two layers, more than a batch holds */
    return recipe;
}

/* Entry e of a layer is the same in slots 0 and 1, in all heads. */
static void assert_same_entry(struct rig *rig, uint32_t layer, uint32_t e)
{
    const struct sc_model_config *c = &rig->model->config;
    struct sc_err err = SC_ERR_INIT;
    float k[2][SC_HEAD_DIM_MAX], v[2][SC_HEAD_DIM_MAX], bias[2];
    for (uint32_t h = 0; h < c->n_kv_heads; h++) {
        for (uint32_t s = 0; s < 2; s++)
            must(sc_engine_read_entry(rig->engine, s, layer, e, h, k[s], v[s], &bias[s], &err),
                 &err);
        assert_memory_equal(k[0], k[1], c->head_dim * sizeof(float));
        assert_memory_equal(v[0], v[1], c->head_dim * sizeof(float));
        assert_true(bias[0] == 0.0f && bias[1] == 0.0f);
    }
}

/* Special tokens are chunks of their own and stay exact: the cores must be the exact entries. */
static void an_epoch_of_several_batches_loses_nothing(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N] = {0};
    rig_open_golden(&rig, "llama31", N, 2, NULL);
    const struct sc_recipe recipe = long_epoch(&rig), exact = small_recipe(&rig, SC_KV_EXACT);
    assert_true(2 * recipe.epoch > SC_JOBS_MAX);
    for (uint32_t i = 0; i < N; i++)
        ids[i] = (int32_t)(i % 3); /* <s>, </s>, <pad> */
    seq_open(&rig, 0, &recipe, N);
    seq_open(&rig, 1, &exact, N);
    seq_run(&rig, 0, &recipe, N, ids, 0, N, 256, NULL);
    seq_run(&rig, 1, &exact, N, ids, 0, N, 256, NULL);
    assert_int_equal(sc_engine_layer_cores(rig.engine, 0, 0), recipe.epoch);
    assert_int_equal(sc_engine_layer_cores(rig.engine, 0, 1), recipe.epoch);
    for (uint32_t l = 0; l < rig.model->config.n_layers; l++)
        for (uint32_t e = 0; e < recipe.epoch; e++)
            assert_same_entry(&rig, l, e);
    rig_close(&rig);
}

static void a_device_that_fails_between_batches_stops_the_group(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N] = {0};
    struct sc_err err = SC_ERR_INIT;
    struct sc_engine_info info;
    rig_open_golden(&rig, "llama31", N, 2, failing_second_rank);
    const struct sc_recipe recipe = long_epoch(&rig);
    for (int call = 0; call < 2; call++) {
        struct sc_rank *r1 = sc_engine_rank(rig.engine, 1);
        seq_open(&rig, 0, &recipe, N);
        seq_run(&rig, 0, &recipe, N, ids, 0, 1216, 256, NULL);
        distance_calls_until_failure = call;
        assert_int_equal(run_one(&rig, 0, 1216, ids, &err), SC_EDEVICE);
        assert_non_null(strstr(err.text, "rank 1: the device is gone"));
        assert_true(r1->n_jobs <= SC_JOBS_MAX); /* nothing was written behind the batch */
        sc_err_clear(&err);
        must(sc_engine_reset(rig.engine, &err), &err);
        sc_engine_get_info(rig.engine, &info);
        assert_int_equal(info.n_pages_free, info.n_pages);
    }
    seq_open(&rig, 0, &recipe, N);
    seq_run(&rig, 0, &recipe, N, ids, 0, N, 256, NULL);
    seq_close(&rig, 0);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slot_is_opened_once_and_may_be_closed_and_opened_in_one_plan),
        cmocka_unit_test(a_sliding_layer_is_never_compressed),
        cmocka_unit_test(a_closed_or_lost_sequence_has_no_entries),
        cmocka_unit_test(ranks_with_different_thresholds_are_found_at_open),
        cmocka_unit_test(an_epoch_of_several_batches_loses_nothing),
        cmocka_unit_test(a_device_that_fails_between_batches_stops_the_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
