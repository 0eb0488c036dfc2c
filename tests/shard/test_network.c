/* Ranks with a device each: sums and gathers through the network between them, what they are on it,
 * and what happens where it is missing or fails. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cpu/cpu.h"
#include "tests/shard/device_clothes.h"

static void ranks_with_a_device_each_use_its_network(void **state)
{
    static float a[1 << 18], b[1 << 18];
    int32_t host[N_OUTPUT] = {0}, device[N_OUTPUT] = {0};
    (void)state;
    (void)pthread_barrier_init(&seen.both, NULL, 2);
    uint64_t want = run(NULL, 2, SC_KV_COMPRESSED, host, a);
    for (int joins = 0; joins < 2; joins++) {
        seen.network = true;
        seen.second_cannot_join = !joins;
        seen.joins = seen.leaves = seen.network_sums = seen.copies = 0;
        assert_int_equal(run(on_device, 2, SC_KV_COMPRESSED, device, b), want);
        assert_memory_equal(host, device, sizeof(host));
        assert_memory_equal(a, b, sizeof(a));
        assert_int_equal(seen.network_sums > 0, joins);
        assert_int_equal(seen.copies > 0, !joins); /* one that cannot join: nobody does */
        assert_int_equal(seen.joins, joins ? 2 : 1);
        assert_int_equal(seen.leaves, 2);
    }
    seen.network = false;
    (void)pthread_barrier_destroy(&seen.both);
}

static void one_device_for_all(struct sc_engine_opts *opts)
{
    static const int devices[] = {0, 0};
    opts->open_backend = open_device;
    opts->devices = devices;
}

static void ranks_that_share_a_device_do_not(void **state)
{
    static float a[1 << 18];
    int32_t output[N_OUTPUT] = {0};
    (void)state;
    seen.network = true;
    seen.joins = seen.copies = 0;
    (void)run(one_device_for_all, 2, SC_KV_EXACT, output, a);
    assert_int_equal(seen.joins, 0);
    assert_true(seen.copies > 0);
    seen.network = false;
}

static void after_a_reset_all_join_again(void **state)
{
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    (void)state;
    (void)pthread_barrier_init(&seen.both, NULL, 2);
    seen.network = true;
    seen.second_cannot_join = false;
    seen.joins = 0;
    rig_open_golden(&rig, "llama31", 256, 2, on_device);
    assert_int_equal(seen.joins, 2);
    must(sc_engine_reset(rig.engine, &err), &err);
    assert_int_equal(seen.joins, 4);
    rig_close(&rig);
    seen.network = false;
    (void)pthread_barrier_destroy(&seen.both);
}

static void a_rank_lost_in_a_gather_breaks_the_group_until_it_is_reset(void **state)
{
    struct rig rig;
    int32_t ids[8];
    struct sc_err err = SC_ERR_INIT;
    struct sc_run_result result;
    (void)state;
    (void)pthread_barrier_init(&seen.both, NULL, 2);
    seen.network = true;
    rig_open_golden(&rig, "llama31", 256, 2, on_device);
    const struct sc_recipe recipe = small_recipe(&rig, SC_KV_EXACT);
    make_tokens(ids, 8, rig.model->config.vocab, 1);
    const struct sc_plan_run r = {.n_tokens = 8, .tokens = ids, .want = SC_LOGITS_LAST};
    const struct sc_plan plan = {.runs = &r, .n_runs = 1};
    seq_open(&rig, 0, &recipe, 8);
    seen.lose_gather = true;
    assert_int_equal(sc_engine_step(rig.engine, &plan, &result, &err), SC_EPEER);
    assert_non_null(strstr(err.text, "the other rank is gone"));
    seen.lose_gather = false;
    sc_err_clear(&err);
    assert_int_equal(sc_engine_step(rig.engine, &plan, &result, &err), SC_EUNAVAIL);
    sc_err_clear(&err);
    must(sc_engine_reset(rig.engine, &err), &err);
    seq_open(&rig, 0, &recipe, 8);
    must(sc_engine_step(rig.engine, &plan, &result, &err), &err);
    assert_non_null(result.logits);
    rig_close(&rig);
    seen.network = false;
    (void)pthread_barrier_destroy(&seen.both);
}

static void with_bf16_sums(struct sc_engine_opts *opts)
{
    on_device(opts);
    opts->reduce_dtype = SC_DTYPE_BF16;
}

/* Of all tokens of a prompt. */
static void prompt_logits(rig_tweak *tweak, float *logits, uint32_t *ret_n)
{
    enum { N = 200 };
    int32_t ids[N];
    struct rig rig;
    rig_open_golden(&rig, "llama31", 1024, 2, tweak);
    const struct sc_recipe recipe = small_recipe(&rig, SC_KV_EXACT);
    make_tokens(ids, N, rig.model->config.vocab, 7);
    seq_open(&rig, 3, &recipe, N);
    seq_run(&rig, 3, &recipe, N, ids, 0, N, 50, logits);
    *ret_n = N * rig.model->config.vocab;
    rig_close(&rig);
}

/* Nearly what f32 sums give; gathers stay whole numbers. Exact entries, as others may merge
 * otherwise. */
static void sums_travel_as_bf16_where_that_is_asked_for(void **state)
{
    static float a[1 << 18], b[1 << 18];
    double error2 = 0.0, norm2 = 0.0;
    uint32_t n;
    (void)state;
    (void)pthread_barrier_init(&seen.both, NULL, 2);
    seen.network = true;
    seen.bf16_sums = 0;
    prompt_logits(on_device, a, &n);
    assert_int_equal(seen.bf16_sums, 0);
    seen.network_sums = seen.copies = 0;
    prompt_logits(with_bf16_sums, b, &n);
    assert_true(seen.bf16_sums > 0 && seen.bf16_sums < seen.network_sums);
    assert_int_equal(seen.copies, 0);
    for (uint32_t i = 0; i < n; i++) {
        error2 += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
        norm2 += (double)a[i] * (double)a[i];
    }
    printf("  relative error %.2e\n", sqrt(error2 / norm2));
    assert_true(error2 > 0.0 && error2 < 0.02 * 0.02 * norm2); /* 8 bits of mantissa, five sums */
    seen.network = false;
    (void)pthread_barrier_destroy(&seen.both);
}

static void f32_and_bf16_sums_share_no_entries(void **state)
{
    struct sc_engine_info f32, bf16;
    struct rig rig;
    (void)state;
    (void)pthread_barrier_init(&seen.both, NULL, 2);
    seen.network = true;
    rig_open(&rig, SC_SOURCE_DIR "/tests/golden/llama31", 256, 2, on_device);
    sc_engine_get_info(rig.engine, &f32);
    rig_close(&rig);
    rig_open(&rig, SC_SOURCE_DIR "/tests/golden/llama31", 256, 2, with_bf16_sums);
    sc_engine_get_info(rig.engine, &bf16);
    assert_true(f32.arithmetic != bf16.arithmetic);
    rig_close(&rig);
    seen.network = false;
    (void)pthread_barrier_destroy(&seen.both);
}

static void bf16_sums_are_refused_where_they_cannot_be(void **state)
{
    static const int shared[] = {0, 0};
    static const struct {
        uint32_t n_ranks;
        enum sc_dtype dtype;
        bool strict, cpu, network, second_cannot_join;
        const int *devices;
        enum sc_status status;
        const char *says;
    } cases[] = {
        {1, SC_DTYPE_BF16, .network = true, .status = SC_EINVAL, .says = "size of 1"},
        {2, SC_DTYPE_BF16, true, .network = true, .status = SC_EINVAL, .says = "strict"},
        {2, SC_DTYPE_I8, .network = true, .status = SC_EINVAL, .says = "int8, must be"},
        {2, SC_DTYPE_BF16, .cpu = true, .status = SC_ENOTSUP,
         .says = "cpu backend adds f32 in order"},
        {2, SC_DTYPE_BF16, .network = true, .devices = shared, .status = SC_ENOTSUP,
         .says = "share a device"},
        {2, SC_DTYPE_BF16, .status = SC_ENOTSUP, .says = "no network"},
        {2, SC_DTYPE_BF16, .network = true, .second_cannot_join = true, .status = SC_ENOTSUP,
         .says = "no way"},
    };
    struct sc_model *model = NULL;
    struct sc_err err = SC_ERR_INIT;
    (void)state;
    must(sc_model_open(SC_SOURCE_DIR "/tests/golden/llama31", &model, &err), &err);
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        const struct sc_engine_opts opts = {.model = model,
                                            .open_backend =
                                                cases[i].cpu ? sc_cpu_backend_open : open_device,
                                            .n_ranks = cases[i].n_ranks,
                                            .n_threads = 1,
                                            .max_seqs = 2,
                                            .max_step_tokens = 16,
                                            .max_logit_rows = 2,
                                            .max_context = 64,
                                            .kv_bytes = 1 << 20,
                                            .strict = cases[i].strict,
                                            .devices = cases[i].devices,
                                            .reduce_dtype = cases[i].dtype};
        struct sc_engine *engine = NULL;
        struct sc_err why = SC_ERR_INIT;
        seen.network = cases[i].network;
        seen.second_cannot_join = cases[i].second_cannot_join;
        assert_int_equal(sc_engine_open(&opts, &engine, &why), cases[i].status);
        assert_null(engine);
        if (strstr(why.text, "reduce dtype") == NULL || strstr(why.text, cases[i].says) == NULL)
            fail_msg("case %zu: %s", i, why.text);
    }
    seen.network = seen.second_cannot_join = false;
    sc_model_close(model);
}

/* A reset that finds no network any more must not go on with other sums. */
static void a_reset_without_the_network_is_refused(void **state)
{
    struct sc_err err = SC_ERR_INIT;
    struct rig rig;
    (void)state;
    (void)pthread_barrier_init(&seen.both, NULL, 2);
    seen.network = true;
    rig_open(&rig, SC_SOURCE_DIR "/tests/golden/llama31", 256, 2, with_bf16_sums);
    seen.network = false;
    assert_int_equal(sc_engine_reset(rig.engine, &err), SC_ENOTSUP);
    assert_non_null(strstr(err.text, "no network"));
    rig_close(&rig);
    (void)pthread_barrier_destroy(&seen.both);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_with_a_device_each_use_its_network),
        cmocka_unit_test(ranks_that_share_a_device_do_not),
        cmocka_unit_test(after_a_reset_all_join_again),
        cmocka_unit_test(a_rank_lost_in_a_gather_breaks_the_group_until_it_is_reset),
        cmocka_unit_test(sums_travel_as_bf16_where_that_is_asked_for),
        cmocka_unit_test(f32_and_bf16_sums_share_no_entries),
        cmocka_unit_test(bf16_sums_are_refused_where_they_cannot_be),
        cmocka_unit_test(a_reset_without_the_network_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
