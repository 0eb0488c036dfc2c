#include "testing.h"

#include <math.h>

#include "fixture.h"
#include "proto/optional.h"

typedef Semanticache__V1__KvOptions Kv;

static enum sc_status convert(struct fixture *f, const Kv *kv, struct sc_request_opts *opts,
                              struct sc_err *err)
{
    sc_err_clear(err);
    memset(opts, 0, sizeof(*opts));
    return sc_convert_kv(&f->convert, kv, SC_KV_CHOICE_AUTO, opts, err);
}

#define REFUSED_ENUM(field, value)                                                                 \
    do {                                                                                           \
        Kv kv = SEMANTICACHE__V1__KV_OPTIONS__INIT;                                                \
        struct sc_request_opts opts;                                                               \
        struct sc_err err = SC_ERR_INIT;                                                           \
        *(int *)(void *)&kv.field = value;                                                         \
        assert_int_equal(convert(*state, &kv, &opts, &err), SC_EINVAL);                            \
        assert_text_has(err.text, "kv." #field);                                                   \
    } while (0)

#define REFUSED(field, value)                                                                      \
    do {                                                                                           \
        Kv kv = SEMANTICACHE__V1__KV_OPTIONS__INIT;                                                \
        struct sc_request_opts opts;                                                               \
        struct sc_err err = SC_ERR_INIT;                                                           \
        SC_PB_SET(&kv, field, value);                                                              \
        if (convert(*state, &kv, &opts, &err) != SC_EINVAL)                                        \
            fail_msg("%s = %s was taken", #field, #value);                                         \
        assert_text_has(err.text, "kv");                                                           \
        assert_text_has(err.text, #field);                                                         \
    } while (0)

static void each_bad_field_is_named(void **state)
{
    REFUSED_ENUM(mode, 4);
    REFUSED_ENUM(mode, -1);
    REFUSED_ENUM(prefill, 3);
    REFUSED_ENUM(metric, 5);
    REFUSED_ENUM(seed_order, 3);
    REFUSED_ENUM(bias, 3);
    REFUSED_ENUM(representative, 4);
    REFUSED_ENUM(chunking, 5);
    REFUSED_ENUM(budget, 3);
    REFUSED_ENUM(labels, 3);
    REFUSED(target_ratio, 0.0f);
    REFUSED(target_ratio, 1.5f);
    REFUSED(target_ratio, NAN);
    REFUSED(generated_ratio, 0.0f);
    REFUSED(similarity_threshold, 0.0f);
    REFUSED(similarity_threshold, 1.0f);
    REFUSED(similarity_threshold, NAN);
    REFUSED(window, SC_WINDOW_MAX + 1);
    REFUSED(epoch, 0);
    REFUSED(epoch, SC_EPOCH_MAX + 1);
    REFUSED(sinks, SC_WINDOW_MAX + 1);
    REFUSED(chunk_min, 3);
    REFUSED(chunk_target, 20);
    REFUSED(chunk_max, 129);
}

static void layers_beyond_the_model_are_refused(void **state)
{
    struct fixture *f = *state;
    Semanticache__V1__LayerList layers = SEMANTICACHE__V1__LAYER_LIST__INIT;
    Kv kv = SEMANTICACHE__V1__KV_OPTIONS__INIT;
    uint32_t layer = f->model.config.n_layers;
    struct sc_request_opts opts;
    struct sc_err err = SC_ERR_INIT;

    kv.exact_layers = &layers;
    layers.layers = &layer;
    layers.n_layers = 1;
    assert_int_equal(convert(f, &kv, &opts, &err), SC_EINVAL);
    assert_text_has(err.text, "kv.exact_layers: layer");
    layer = 1;
    kv.mode = SEMANTICACHE__V1__KV_MODE__KV_MODE_COMPRESSED;
    assert_ok(convert(f, &kv, &opts, &err));
    assert_true(sc_recipe_layer_is_exact(&opts.recipe, 1));
    assert_false(sc_recipe_layer_is_exact(&opts.recipe, 0));
}

static void the_calibrations_layers_are_exact_unless_a_request_says_otherwise(void **state)
{
    struct fixture *f = *state;
    const uint64_t known[SC_LAYERS_MAX / 64] = {2};
    Semanticache__V1__LayerList layers = SEMANTICACHE__V1__LAYER_LIST__INIT;
    Kv kv = SEMANTICACHE__V1__KV_OPTIONS__INIT;
    struct sc_request_opts opts;
    struct sc_err err = SC_ERR_INIT;

    f->convert.exact_layers = known;
    kv.mode = SEMANTICACHE__V1__KV_MODE__KV_MODE_COMPRESSED;
    assert_ok(convert(f, &kv, &opts, &err));
    assert_true(sc_recipe_layer_is_exact(&opts.recipe, 1));
    assert_false(sc_recipe_layer_is_exact(&opts.recipe, 0));
    kv.exact_layers = &layers; /* none */
    assert_ok(convert(f, &kv, &opts, &err));
    assert_false(sc_recipe_layer_is_exact(&opts.recipe, 1));
}

static void every_field_reaches_the_recipe(void **state)
{
    Kv kv = SEMANTICACHE__V1__KV_OPTIONS__INIT;
    struct sc_request_opts o;
    struct sc_err err = SC_ERR_INIT;

    kv.mode = SEMANTICACHE__V1__KV_MODE__KV_MODE_COMPRESSED;
    kv.prefill = SEMANTICACHE__V1__KV_PREFILL__KV_PREFILL_EXACT_THEN_COMPRESS;
    kv.metric = SEMANTICACHE__V1__KV_METRIC__KV_METRIC_COS_PRE;
    kv.seed_order = SEMANTICACHE__V1__KV_SEED_ORDER__KV_SEED_ORDER_SCAN;
    kv.bias = SEMANTICACHE__V1__KV_BIAS__KV_BIAS_NONE;
    kv.representative = SEMANTICACHE__V1__KV_REPRESENTATIVE__KV_REPRESENTATIVE_LAST;
    kv.chunking = SEMANTICACHE__V1__KV_CHUNKING__KV_CHUNKING_CLAUSE;
    kv.budget = SEMANTICACHE__V1__KV_BUDGET__KV_BUDGET_PER_CHUNK;
    SC_PB_SET(&kv, target_ratio, 0.125f);
    SC_PB_SET(&kv, window, 64);
    SC_PB_SET(&kv, epoch, 128);
    SC_PB_SET(&kv, sinks, 4);
    SC_PB_SET(&kv, chunk_min, 8);
    SC_PB_SET(&kv, chunk_target, 16);
    SC_PB_SET(&kv, chunk_max, 32);
    SC_PB_SET(&kv, compress_generated, 0);
    SC_PB_SET(&kv, keep_outliers, 0);
    SC_PB_SET(&kv, generated_ratio, 0.75f);
    assert_ok(convert(*state, &kv, &o, &err));
    assert_int_equal(o.kv, SC_KV_CHOICE_COMPRESSED);
    assert_int_equal(o.recipe.mode, SC_KV_COMPRESSED);
    assert_true(o.recipe.exact_then_compress);
    assert_int_equal(o.recipe.metric, SC_METRIC_COS_PRE);
    assert_int_equal(o.recipe.seed_order, SC_SEED_SCAN);
    assert_false(o.recipe.log_bias);
    assert_int_equal(o.recipe.representative, SC_REP_LAST);
    assert_int_equal(o.recipe.chunking, SC_CHUNKS_CLAUSE);
    assert_int_equal(o.recipe.budget, SC_BUDGET_PER_CHUNK);
    assert_float_equal(o.recipe.target_ratio, 0.125f, 0);
    assert_int_equal(o.recipe.window, 64);
    assert_int_equal(o.recipe.epoch, 128);
    assert_int_equal(o.recipe.n_sinks, 4);
    assert_int_equal(o.recipe.chunk_min, 8);
    assert_int_equal(o.recipe.chunk_target, 16);
    assert_int_equal(o.recipe.chunk_max, 32);
    assert_false(o.recipe.compress_generated);
    assert_false(o.recipe.keep_outliers);
    assert_float_equal(o.recipe.generated_ratio, 0.75f, 0);

    semanticache__v1__kv_options__init(&kv);
    kv.labels = SEMANTICACHE__V1__KV_LABELS__KV_LABELS_PER_HEAD;
    SC_PB_SET(&kv, similarity_threshold, 0.5f);
    assert_ok(convert(*state, &kv, &o, &err));
    assert_int_equal(o.recipe.label_scope, SC_LABELS_PER_HEAD);
    assert_float_equal(o.recipe.similarity_threshold, 0.5f, 0);
    kv.labels = SEMANTICACHE__V1__KV_LABELS__KV_LABELS_UNSPECIFIED;
    kv.budget = SEMANTICACHE__V1__KV_BUDGET__KV_BUDGET_PER_CHUNK;
    assert_int_equal(convert(*state, &kv, &o, &err), SC_EINVAL);
    assert_text_has(err.text, "kv.similarity_threshold: not with budget per_chunk");
    sc_err_clear(&err);
    kv.budget = SEMANTICACHE__V1__KV_BUDGET__KV_BUDGET_UNSPECIFIED;
    SC_PB_SET(&kv, target_ratio, 0.5f);
    assert_int_equal(convert(*state, &kv, &o, &err), SC_EINVAL);
    assert_text_has(err.text, "instead of target_ratio");
}

static void the_servers_default_mode_counts_where_none_is_said(void **state)
{
    struct fixture *f = *state;
    Semanticache__V1__GenerateRequest m = SEMANTICACHE__V1__GENERATE_REQUEST__INIT;
    Semanticache__V1__TokenIds ids = SEMANTICACHE__V1__TOKEN_IDS__INIT;
    int32_t id = 0;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;

    ids.ids = &id;
    ids.n_ids = 1;
    m.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    m.token_ids = &ids;
    f->config.kv_mode = SC_KV_DEFAULT_EXACT;
    assert_ok(sc_convert_generate(&f->convert, &m, &p, &err));
    assert_int_equal(p.opts.kv, SC_KV_CHOICE_EXACT);
    assert_int_equal(p.opts.recipe.mode, SC_KV_EXACT);
    sc_params_fini(&p);
    f->config.kv_mode = SC_KV_DEFAULT_COMPRESSED;
    assert_ok(sc_convert_generate(&f->convert, &m, &p, &err));
    assert_int_equal(p.opts.kv, SC_KV_CHOICE_COMPRESSED);
    sc_params_fini(&p);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_bad_field_is_named),
        TEST(layers_beyond_the_model_are_refused),
        TEST(the_calibrations_layers_are_exact_unless_a_request_says_otherwise),
        TEST(every_field_reaches_the_recipe),
        TEST(the_servers_default_mode_counts_where_none_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
