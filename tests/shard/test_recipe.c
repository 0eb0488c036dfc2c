#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "shard/recipe.h"

static struct sc_recipe make(enum sc_kv_mode mode)
{
    struct sc_model_config config = {.n_layers = 4};
    struct sc_recipe r;
    sc_recipe_default(&config, mode, &r);
    return r;
}

static void nothing_is_compressed_before_a_window_and_an_epoch(void **state)
{
    (void)state;
    struct sc_recipe r = make(SC_KV_COMPRESSED);
    assert_int_equal(sc_recipe_compressed_limit(&r, 10000, 0), 0);
    assert_int_equal(sc_recipe_compressed_limit(&r, 10000, 767), 0);
    assert_int_equal(sc_recipe_compressed_limit(&r, 10000, 768), 512);
    assert_int_equal(sc_recipe_compressed_limit(&r, 10000, 1279), 512);
    assert_int_equal(sc_recipe_compressed_limit(&r, 10000, 1280), 1024);
}

static void the_limit_changes_exactly_at_the_cuts(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        struct sc_recipe r = make(SC_KV_COMPRESSED);
        const uint32_t prompt = 1500;
        r.exact_then_compress = variant == 1;
        r.window = variant == 2 ? 100 : 256;
        r.epoch = variant == 3 ? 64 : 512;
        uint32_t cut = sc_recipe_next_cut(&r, prompt, 0);
        for (uint32_t t = 1; t < 5000; t++) {
            uint32_t before = sc_recipe_compressed_limit(&r, prompt, t - 1);
            uint32_t now = sc_recipe_compressed_limit(&r, prompt, t);
            assert_true(now >= before);
            if (now != before)
                assert_int_equal(t, cut);
            if (t == cut)
                cut = sc_recipe_next_cut(&r, prompt, t);
            assert_true(cut > t);
        }
    }
}

static void exact_recipes_have_no_cuts_and_one_id(void **state)
{
    (void)state;
    struct sc_recipe a = make(SC_KV_EXACT), b = a;
    struct sc_recipe_context none = {0}, other = {.calibration = {{1}}};
    b.target_ratio = 0.5f;
    assert_int_equal(sc_recipe_next_cut(&a, 100, 5), UINT32_MAX);
    for (uint32_t t = 0; t < 100000; t += 37) {
        assert_int_equal(sc_recipe_next_cut(&a, 100, t), UINT32_MAX);
        assert_int_equal(sc_recipe_compressed_limit(&a, 100, t), 0);
    }
    for (uint32_t l = 0; l < SC_LAYERS_MAX; l++) /* whatever the mask of exact layers holds */
        assert_true(sc_recipe_layer_is_exact(&a, l));
    struct sc_hash ia = sc_recipe_id(&a, &none), ib = sc_recipe_id(&b, &other);
    assert_memory_equal(&ia, &ib, sizeof(ia));
}

static void every_field_of_a_compressed_recipe_is_in_its_id(void **state)
{
    (void)state;
    struct sc_recipe v[21];
    struct sc_hash ids[28];
    struct sc_recipe_context none = {0}, other = {.calibration = {{1}}};
    for (size_t i = 0; i < SC_ARRAY_LEN(v); i++)
        v[i] = make(SC_KV_COMPRESSED);
    v[1].metric = SC_METRIC_COS_PRE;
    v[2].seed_order = SC_SEED_SCAN;
    v[3].representative = SC_REP_LAST;
    v[4].chunking = SC_CHUNKS_FIXED;
    v[5].budget = SC_BUDGET_PER_CHUNK;
    v[6].label_scope = SC_LABELS_PER_HEAD;
    v[7].log_bias = false;
    v[8].exact_then_compress = true;
    v[9].compress_generated = false;
    v[10].target_ratio = 0.3f;
    v[11].generated_ratio = 0.3f;
    v[12].similarity_threshold = 0.3f;
    v[13].window = 64;
    v[14].epoch = 256;
    v[15].n_sinks = 4;
    v[16].chunk_min = 16;
    v[17].chunk_target = 48;
    v[18].chunk_max = 96;
    v[19].exact_layers[3] = 1;
    v[20].keep_outliers = false;
    for (size_t i = 0; i < SC_ARRAY_LEN(v); i++)
        ids[i] = sc_recipe_id(&v[i], &none);
    ids[21] = sc_recipe_id(&v[0], &other);
    struct sc_recipe exact = make(SC_KV_EXACT);
    ids[22] = sc_recipe_id(&exact, &none);
    struct sc_recipe_context kv = {.kv_dtype = SC_DTYPE_BF16},
                             weights = {.weight_dtype = SC_DTYPE_BF16},
                             arithmetic = {.arithmetic = 2};
    ids[23] = sc_recipe_id(&v[0], &kv);
    ids[24] = sc_recipe_id(&v[0], &weights);
    ids[25] = sc_recipe_id(&exact, &kv);
    ids[26] = sc_recipe_id(&exact, &weights);
    ids[27] = sc_recipe_id(&exact, &arithmetic);
    for (size_t i = 0; i < SC_ARRAY_LEN(ids); i++)
        for (size_t j = 0; j < i; j++)
            if (memcmp(&ids[i], &ids[j], sizeof(ids[i])) == 0)
                fail_msg("recipes %zu and %zu share an id", i, j);
}

static void bad_values_are_named_with_their_limits(void **state)
{
    (void)state;
    struct sc_err err = SC_ERR_INIT;
    struct sc_recipe r = make(SC_KV_COMPRESSED);
    assert_int_equal(sc_recipe_check(&r, &err), SC_OK);
    r.target_ratio = 0.01f; /* the limit, as a float is */
    assert_int_equal(sc_recipe_check(&r, &err), SC_OK);
    r.target_ratio = 1.5f;
    assert_int_equal(sc_recipe_check(&r, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "target_ratio: 1.5"));
    sc_err_clear(&err);
    r = make(SC_KV_COMPRESSED);
    r.target_ratio = __builtin_nanf("");
    assert_int_equal(sc_recipe_check(&r, &err), SC_EINVAL);
    sc_err_clear(&err);
    r = make(SC_KV_COMPRESSED);
    r.chunk_max = SC_CHUNK_MAX + 1;
    assert_int_equal(sc_recipe_check(&r, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "chunk_max: 129, must be 4..128"));
}

static void deep_models_keep_two_layers_and_sliding_layers_exact(void **state)
{
    (void)state;
    struct sc_model_config config = {.n_layers = 20};
    struct sc_recipe r;
    config.sliding_window[7] = 4096;
    sc_recipe_default(&config, SC_KV_COMPRESSED, &r);
    for (uint32_t l = 0; l < 20; l++)
        assert_int_equal(sc_recipe_layer_is_exact(&r, l), l < 2 || l == 7);
    config.n_layers = 4;
    sc_recipe_default(&config, SC_KV_COMPRESSED, &r);
    assert_false(sc_recipe_layer_is_exact(&r, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_compressed_before_a_window_and_an_epoch),
        cmocka_unit_test(the_limit_changes_exactly_at_the_cuts),
        cmocka_unit_test(exact_recipes_have_no_cuts_and_one_id),
        cmocka_unit_test(every_field_of_a_compressed_recipe_is_in_its_id),
        cmocka_unit_test(bad_values_are_named_with_their_limits),
        cmocka_unit_test(deep_models_keep_two_layers_and_sliding_layers_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
