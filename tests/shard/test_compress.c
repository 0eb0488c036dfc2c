/* Compression in the engine: shards agree, ratios are met, exact stays exact, flags do what they
 * say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu.h"
#include "tests/backend.h"
#include "tests/shard/engine_util.h"

#define N 480u

/* Labels of all chunks, in the order of events. */
struct labels {
    uint64_t layer0_hash, hash;
    uint32_t n_chunks, n_tokens, n_cores, max_len, min_len, n_end_at_prompt;
    uint32_t prompt_len;
};

static void note_chunk(void *ctx, const struct sc_chunk_event *e)
{
    struct labels *l = ctx;
    uint64_t h = sc_mix64(e->pos0 ^ ((uint64_t)e->layer << 32) ^ ((uint64_t)e->n_cores << 40));
    for (uint32_t i = 0; i < e->n_tokens; i++)
        h = sc_mix64(h ^ e->labels[i]);
    l->hash = sc_mix64(l->hash ^ h);
    if (e->layer == 0)
        l->layer0_hash = sc_mix64(l->layer0_hash ^ h);
    l->n_chunks++;
    l->n_tokens += e->n_tokens;
    l->n_cores += e->n_cores;
    l->max_len = e->n_tokens > l->max_len ? e->n_tokens : l->max_len;
    l->min_len = l->min_len == 0 || e->n_tokens < l->min_len ? e->n_tokens : l->min_len;
    l->n_end_at_prompt += e->pos0 + e->n_tokens == l->prompt_len;
}

static struct labels run_labels(struct rig *rig, const struct sc_recipe *recipe, const int32_t *ids,
                                uint32_t n, uint32_t prompt_len, struct sc_seq_stats *ret_stats)
{
    struct labels l = {.prompt_len = prompt_len};
    struct sc_err err = SC_ERR_INIT;
    const struct sc_plan_open open = {.slot = 2,
                                      .recipe = recipe,
                                      .prompt_len = prompt_len,
                                      .on_chunk = note_chunk,
                                      .on_chunk_ctx = &l};
    const struct sc_plan plan = {.opens = &open, .n_opens = 1};
    must(sc_engine_step(rig->engine, &plan, NULL, &err), &err);
    seq_run(rig, 2, recipe, prompt_len, ids, 0, n, 200, NULL);
    sc_engine_seq_stats(rig->engine, 2, ret_stats);
    seq_close(rig, 2);
    return l;
}

/* Keys of the first layer do not pass through a sum over ranks: they are the same bits at every
 * tensor-parallel size, so the labels must be too. */
static void check_labels_of_sizes(rig_tweak *tweak)
{
    const char *models[] = {"llama31", "qwen3", "llama-linear"}; /* the last: 2 KV heads */
    for (size_t m = 0; m < SC_ARRAY_LEN(models); m++) {
        uint64_t first = 0;
        for (uint32_t tp = 1; tp <= 4; tp *= 2) {
            struct rig rig;
            int32_t ids[N];
            struct sc_seq_stats stats;
            rig_open_golden(&rig, models[m], 512, tp, tweak);
            make_tokens(ids, N, rig.model->config.vocab, 3);
            struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
            recipe.similarity_threshold = 0.7f; /* no calibration noise between sizes */
            struct labels l = run_labels(&rig, &recipe, ids, N, N, &stats);
            assert_true(l.n_chunks > 0);
            assert_true(l.n_cores < l.n_tokens);
            if (tp == 1)
                first = l.layer0_hash;
            assert_true(l.layer0_hash == first);
            rig_close(&rig);
        }
    }
}

/* Of the CPU, whatever else the tests run on: not every backend has them. */
static void int8_pages(struct sc_engine_opts *opts)
{
    opts->open_backend = sc_cpu_backend_open;
    opts->kv_dtype = SC_DTYPE_I8;
}

static void labels_are_the_same_at_every_tensor_parallel_size(void **state)
{
    (void)state;
    check_labels_of_sizes(NULL);
    check_labels_of_sizes(int8_pages);
}

static void the_ratio_asked_for_is_about_the_ratio_kept(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N];
    struct sc_seq_stats stats;
    rig_open_golden(&rig, "llama31", 512, 2, NULL);
    make_tokens(ids, N, rig.model->config.vocab, 3);
    double last = 2.0;
    for (float ratio = 0.8f; ratio > 0.1f; ratio /= 2) {
        struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
        recipe.target_ratio = ratio;
        recipe.budget = SC_BUDGET_PER_CHUNK;
        recipe.n_sinks = 0;
        (void)run_labels(&rig, &recipe, ids, N, N, &stats);
        double got = (double)stats.cores / (double)stats.compressed_tokens;
        print_message("asked %.2f, kept %.3f\n", (double)ratio, got);
        assert_true(got <=
                    (double)ratio + 0.02); /* a budget is strict; one core a chunk at least */
        assert_true(got < last);
        last = got;
    }
    rig_close(&rig);
}

static void every_flag_changes_the_outcome_and_none_breaks_it(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N];
    struct sc_seq_stats stats;
    uint64_t seen[32];
    uint32_t n_seen = 0;

    rig_open_golden(&rig, "llama31", 512, 2, NULL);
    make_tokens(ids, N, rig.model->config.vocab, 9);
    const struct sc_recipe base = small_recipe(&rig, SC_KV_COMPRESSED);
    struct sc_recipe variants[15];
    for (size_t i = 0; i < SC_ARRAY_LEN(variants); i++)
        variants[i] = base;
    variants[1].metric = SC_METRIC_L2_POST;
    variants[2].metric = SC_METRIC_COS_PRE;
    variants[3].metric = SC_METRIC_COS_POST;
    variants[4].seed_order = SC_SEED_SCAN;
    variants[5].log_bias = false;
    variants[6].representative = SC_REP_SEED;
    variants[7].representative = SC_REP_LAST;
    variants[8].chunking = SC_CHUNKS_FIXED;
    variants[9].budget = SC_BUDGET_PER_CHUNK;
    variants[10].label_scope = SC_LABELS_PER_HEAD;
    variants[11].similarity_threshold = 0.9f;
    variants[12].exact_layers[0] = 1;
    variants[13].n_sinks = 100;
    variants[14].keep_outliers = false;
    for (size_t i = 0; i < SC_ARRAY_LEN(variants); i++) {
        seq_open(&rig, 2, &variants[i], N);
        seq_run(&rig, 2, &variants[i], N, ids, 0, N, 100, NULL);
        uint64_t h = seq_entries_hash(&rig, 2);
        sc_engine_seq_stats(rig.engine, 2, &stats);
        seq_close(&rig, 2);
        for (uint32_t j = 0; j < n_seen; j++)
            if (seen[j] == h)
                fail_msg("recipes %zu and %u give the same entries", i, j);
        seen[n_seen++] = h;
        assert_true(stats.physical_entries < stats.exact_entries);
    }
    rig_close(&rig);
}

static void exact_layers_sinks_and_window_stay_exact(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N];
    struct sc_err err = SC_ERR_INIT;
    rig_open_golden(&rig, "qwen3", 512, 2, NULL);
    const struct sc_model_config *c = &rig.model->config;
    make_tokens(ids, N, c->vocab, 9);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED), exact = recipe;
    exact.mode = SC_KV_EXACT;
    recipe.exact_layers[0] = 1;
    recipe.similarity_threshold = 0.05f; /* everything that may merge does */
    recipe.keep_outliers = false;
    seq_open(&rig, 0, &recipe, N);
    seq_open(&rig, 1, &exact, N);
    seq_run(&rig, 0, &recipe, N, ids, 0, N, 100, NULL);
    seq_run(&rig, 1, &exact, N, ids, 0, N, 100, NULL);
    assert_int_equal(sc_engine_layer_entries(rig.engine, 0, 0), N);
    uint32_t last = sc_recipe_compressed_limit(&recipe, N, N - 1);
    assert_true(last > 0);
    /* The second layer: sinks first, one by one and unchanged. Its input comes from the first,
     * exact layer, so positions below the first cut have the same keys in both sequences. */
    for (uint32_t e = 0; e < recipe.n_sinks; e++)
        for (uint32_t h = 0; h < c->n_kv_heads; h++) {
            float k[2][SC_HEAD_DIM_MAX], v[2][SC_HEAD_DIM_MAX], bias[2];
            for (uint32_t s = 0; s < 2; s++)
                must(sc_engine_read_entry(rig.engine, s, 1, e, h, k[s], v[s], &bias[s], &err),
                     &err);
            assert_memory_equal(k[0], k[1], c->head_dim * sizeof(float));
            assert_memory_equal(v[0], v[1], c->head_dim * sizeof(float));
            assert_true(bias[0] == 0.0f && bias[1] == 0.0f);
        }
    uint32_t n = sc_engine_layer_entries(rig.engine, 0, 1),
             cores = sc_engine_layer_cores(rig.engine, 0, 1);
    assert_true(cores < 60);
    assert_true(n - cores >= N - last); /* everything after the last epoch */
    rig_close(&rig);
}

static void chunks_end_at_the_prompt_and_generated_text_is_its_own(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N];
    struct sc_seq_stats stats;
    rig_open_golden(&rig, "llama31", 512, 1, NULL);
    make_tokens(ids, N, rig.model->config.vocab, 4);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    struct labels with = run_labels(&rig, &recipe, ids, N, 150, &stats);
    assert_int_equal(with.n_end_at_prompt, rig.model->config.n_layers);
    recipe.compress_generated = false;
    struct labels without = run_labels(&rig, &recipe, ids, N, 150, &stats);
    assert_true(without.n_tokens < with.n_tokens);
    assert_int_equal(without.n_tokens, 150 * rig.model->config.n_layers);
    assert_true(stats.physical_entries >= (uint64_t)(N - 150) * rig.model->config.n_layers);
    rig_close(&rig);
}

/* Counts special tokens (ids below 3) and those that share their label. Runs on a rank's thread. */
struct alone {
    const int32_t *ids;
    uint32_t n_specials, n_shared, n_cores, n_tokens;
};

static void check_alone(void *ctx, const struct sc_chunk_event *e)
{
    struct alone *a = ctx;
    a->n_cores += e->n_cores;
    a->n_tokens += e->n_tokens;
    for (uint32_t i = 0; i < e->n_tokens; i++) {
        if (a->ids[e->pos0 + i] >= 3)
            continue;
        a->n_specials++;
        for (uint32_t j = 0; j < e->n_tokens; j++)
            a->n_shared += j != i && e->labels[j] == e->labels[i];
    }
}

static void special_tokens_stay_alone_in_their_chunks(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N];
    struct sc_err err = SC_ERR_INIT;
    struct alone alone = {.ids = ids};
    rig_open_golden(&rig, "llama31", 512, 2, NULL);
    make_tokens(ids, N, rig.model->config.vocab, 9);
    for (uint32_t i = 7; i < N; i += 13)
        ids[i] = (int32_t)(i % 3);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    recipe.n_sinks = 0;
    recipe.similarity_threshold = 0.01f; /* everything that may merge does */
    recipe.keep_outliers = false;
    const struct sc_plan_open open = {.slot = 0,
                                      .recipe = &recipe,
                                      .prompt_len = N,
                                      .on_chunk = check_alone,
                                      .on_chunk_ctx = &alone};
    const struct sc_plan plan = {.opens = &open, .n_opens = 1};
    must(sc_engine_step(rig.engine, &plan, NULL, &err), &err);
    seq_run(&rig, 0, &recipe, N, ids, 0, N, 100, NULL);
    assert_true(alone.n_specials > 40);
    assert_int_equal(alone.n_shared, 0);
    assert_true(alone.n_cores < alone.n_tokens);
    rig_close(&rig);
}

static uint32_t kept(struct rig *rig, const struct sc_recipe *recipe, const int32_t *ids,
                     uint32_t prompt_len)
{
    struct sc_seq_stats stats;
    return run_labels(rig, recipe, ids, N, prompt_len, &stats).n_cores;
}

/* Generated text has a threshold and a budget of its own; the prompt's say nothing about it. */
static void generated_text_is_kept_at_its_own_ratio(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N];
    rig_open_golden(&rig, "llama31", 512, 1, NULL);
    make_tokens(ids, N, rig.model->config.vocab, 9);
    for (int budget = SC_BUDGET_THRESHOLD; budget <= SC_BUDGET_PER_CHUNK; budget++) {
        struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
        recipe.budget = (enum sc_budget)budget;
        recipe.n_sinks = 0;
        recipe.target_ratio = 0.8f;
        recipe.generated_ratio = 0.1f;
        uint32_t few = kept(&rig, &recipe, ids, 1), many = kept(&rig, &recipe, ids, N);
        assert_true(few < many * 3 / 4);
        recipe.target_ratio = 0.1f;
        recipe.generated_ratio = 0.8f;
        assert_true(kept(&rig, &recipe, ids, N) < kept(&rig, &recipe, ids, 1) * 3 / 4);
    }
    rig_close(&rig);
}

/* A text all of which is far from the mean keys of the calibration would be all outliers. */
static void a_strange_text_is_compressed_as_well(void **state)
{
    (void)state;
    enum { LONG = 6000, CREDIT = 256 };
    struct rig rig;
    static int32_t ids[LONG];
    struct sc_err err = SC_ERR_INIT;
    struct sc_calibration strange = {0};
    rig_open_golden(&rig, "llama31", LONG, 2, NULL);
    const struct sc_model_config *c = &rig.model->config;
    make_tokens(ids, LONG, c->vocab, 9);
    must(sc_calibration_copy(&strange, sc_engine_calibration(rig.engine), &err), &err);
    for (size_t i = 0; i < (size_t)c->n_layers * c->n_kv_heads * c->head_dim; i++)
        strange.mean_key[i] += 1e3f;
    must(sc_engine_set_calibration(rig.engine, &strange, &err), &err);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    for (int i = 0; i < 2; i++) {
        recipe.target_ratio = i == 0 ? 0.1f : 0.3f;
        seq_open(&rig, 0, &recipe, LONG);
        seq_run(&rig, 0, &recipe, LONG, ids, 0, LONG, 500, NULL);
        for (uint32_t l = 0; l < c->n_layers; l++) {
            uint32_t n_cores = sc_engine_layer_cores(rig.engine, 0, l);
            /* The sinks, and what one epoch's chunks have besides outliers, come on top. */
            assert_true(n_cores <= 1.5 * (double)recipe.target_ratio * LONG + CREDIT + 100);
            /* and they are outliers, not nothing */
            assert_true(n_cores >= 1.4 * (double)recipe.target_ratio * LONG);
        }
        seq_close(&rig, 0);
    }
    sc_calibration_fini(&strange);
    rig_close(&rig);
}

/* A rank that clusters differently must be found before any shape is taken from its labels. */
static struct sc_backend_ops wrong_ops;
static const struct sc_backend_ops *right_ops;

static enum sc_status wrong_cluster(struct sc_backend *be, const struct sc_cluster_args *args,
                                    struct sc_err *err)
{
    enum sc_status st = right_ops->cluster(be, args, err);
    for (uint32_t i = 1; i < args->jobs[0].m; i++)
        if (args->labels[i] != args->labels[0]) {
            args->labels[i] = args->labels[0]; /* the count stays: only the labels' hash can tell */
            break;
        }
    return st;
}

static enum sc_status open_wrong_second_rank(const struct sc_backend_opts *opts,
                                             struct sc_backend **ret_be, struct sc_err *err)
{
    enum sc_status st = test_backend_open(opts, ret_be, err);
    if (st == SC_OK && opts->rank == 1) {
        right_ops = (*ret_be)->ops;
        wrong_ops = *right_ops;
        wrong_ops.cluster = wrong_cluster;
        (*ret_be)->ops = &wrong_ops;
    }
    return st;
}

static void wrong_second_rank(struct sc_engine_opts *opts)
{
    opts->open_backend = open_wrong_second_rank;
}

static void disagreeing_labels_stop_the_group(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N];
    struct sc_err err = SC_ERR_INIT;
    struct sc_run_result result;
    rig_open_golden(&rig, "llama31", 512, 2, wrong_second_rank);
    make_tokens(ids, N, rig.model->config.vocab, 4);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    seq_open(&rig, 0, &recipe, N);
    seq_run(&rig, 0, &recipe, N, ids, 0, 192, 192, NULL); /* up to the first cut */
    const struct sc_plan_run run = {.slot = 0, .pos0 = 192, .n_tokens = 1, .tokens = ids + 192};
    const struct sc_plan plan = {.runs = &run, .n_runs = 1};
    assert_int_equal(sc_engine_step(rig.engine, &plan, &result, &err), SC_EDIVERGED);
    assert_non_null(strstr(err.text, "clusters differ"));
    sc_err_clear(&err);
    assert_int_equal(sc_engine_step(rig.engine, &plan, &result, &err), SC_EUNAVAIL);
    sc_err_clear(&err);
    must(sc_engine_reset(rig.engine, &err), &err);
    struct sc_recipe exact = small_recipe(&rig, SC_KV_EXACT);
    seq_open(&rig, 0, &exact, N);
    seq_run(&rig, 0, &exact, N, ids, 0, N, 192, NULL);
    seq_close(&rig, 0);
    struct sc_engine_info info;
    sc_engine_get_info(rig.engine, &info);
    assert_int_equal(info.n_pages_free, info.n_pages);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_are_the_same_at_every_tensor_parallel_size),
        cmocka_unit_test(the_ratio_asked_for_is_about_the_ratio_kept),
        cmocka_unit_test(every_flag_changes_the_outcome_and_none_breaks_it),
        cmocka_unit_test(exact_layers_sinks_and_window_stay_exact),
        cmocka_unit_test(chunks_end_at_the_prompt_and_generated_text_is_its_own),
        cmocka_unit_test(special_tokens_stay_alone_in_their_chunks),
        cmocka_unit_test(generated_text_is_kept_at_its_own_ratio),
        cmocka_unit_test(a_strange_text_is_compressed_as_well),
        cmocka_unit_test(disagreeing_labels_stop_the_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
