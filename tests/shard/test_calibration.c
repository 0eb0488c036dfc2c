#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "shard/rank.h"
#include "tests/shard/engine_util.h"

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void thresholds_fall_with_the_ratio_and_do_not_depend_on_the_ranks(void **state)
{
    (void)state;
    float tau[2][SC_CALIBRATION_RATIOS];
    for (uint32_t tp = 1; tp <= 2; tp++) {
        struct rig rig;
        rig_open_golden(&rig, "llama31", 512, tp, NULL);
        const struct sc_calibration *c = sc_engine_calibration(rig.engine);
        for (uint32_t i = 0; i < SC_CALIBRATION_RATIOS; i++) {
            tau[tp - 1][i] = c->tau[i]; /* l2_pre, layer 0: the same keys at every size */
            assert_true(c->tau[i] > 0.0f && (i == 0 || c->tau[i] >= c->tau[i - 1]));
        }
        for (uint32_t i = 0; i < c->n_layers * c->n_kv_heads; i++)
            assert_true(c->key_var[i] > 0.0f);
        float between = sc_calibration_tau(c, SC_METRIC_L2_PRE, 1, 0.3f);
        assert_true(between >= sc_calibration_tau(c, SC_METRIC_L2_PRE, 1, 0.333f));
        assert_true(between <= sc_calibration_tau(c, SC_METRIC_L2_PRE, 1, 0.25f));
        rig_close(&rig);
    }
    assert_memory_equal(tau[0], tau[1], sizeof(tau[0]));
}

/* Every bit: it is part of every cache key, and one server's entries are another's. */
static void two_engines_measure_the_same(void **state)
{
    (void)state;
    struct sc_hash digest[2];
    struct sc_err err = SC_ERR_INIT;
    for (uint32_t i = 0; i < 2; i++) {
        struct rig rig;
        bool builtin = false;
        rig_open(&rig, SC_SOURCE_DIR "/tests/golden/llama31", 512, 2, NULL);
        assert_null(sc_engine_calibration(rig.engine));
        must(sc_calibrate_default(rig.engine, rig.model, &builtin, &err), &err);
        assert_true(builtin);
        digest[i] = sc_calibration_hash(sc_engine_calibration(rig.engine));
        rig_close(&rig);
    }
    assert_memory_equal(&digest[0], &digest[1], sizeof(digest[0]));
}

static void calibrated_text_is_kept_at_the_ratio_asked_for(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    struct sc_ids ids = {0};
    const struct sc_encode_opts opts = {.add_special_tokens = true};
    rig_open_golden(&rig, "llama31", 1024, 1, NULL);
    const char *text = sc_calibration_text();
    must(sc_tokenizer_encode(rig.model->tok, text, strlen(text), &opts, &ids, &err), &err);
    const float ratios[] = {0.5f, 0.25f, 0.1f};
    for (size_t i = 0; i < SC_ARRAY_LEN(ratios); i++) {
        struct sc_recipe r = small_recipe(&rig, SC_KV_COMPRESSED);
        struct sc_seq_stats stats;
        r.target_ratio = ratios[i];
        r.n_sinks = 0;
        seq_open(&rig, 0, &r, 1000);
        seq_run(&rig, 0, &r, 1000, ids.ids, 0, 1000, 128, NULL);
        sc_engine_seq_stats(rig.engine, 0, &stats);
        double got = (double)stats.cores / (double)stats.compressed_tokens;
        print_message("asked %.2f, kept %.3f of the calibration text\n", (double)ratios[i], got);
        assert_true(got > (double)ratios[i] * 0.75 && got < (double)ratios[i] * 1.25);
        seq_close(&rig, 0);
    }
    sc_ids_fini(&ids);
    rig_close(&rig);
}

static void a_saved_file_is_read_back_and_bad_ones_are_refused(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    struct sc_calibration back = {0};
    char path[] = "/tmp/sc-calibration-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    rig_open_golden(&rig, "qwen3", 512, 1, NULL);
    const struct sc_calibration *c = sc_engine_calibration(rig.engine);
    must(sc_calibration_save(c, path, &err), &err);
    must(sc_calibration_load(path, &rig.model->config, &rig.model->fingerprint, &back, &err), &err);
    struct sc_hash a = sc_calibration_hash(c), b = sc_calibration_hash(&back);
    assert_memory_equal(&a, &b, sizeof(a));
    sc_calibration_fini(&back);

    struct sc_hash other = {{1}};
    assert_int_equal(sc_calibration_load(path, &rig.model->config, &other, &back, &err),
                     SC_EFORMAT);
    assert_non_null(strstr(err.text, "model: made for"));
    const struct {
        const char *text, *says;
    } bad[] = {
        {"{", ":1:"},
        {"{\"version\": 1}", "version: 1, must be 2"},
        {"[]", "the root is a list"},
        {"{}", "version: 0"},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(bad); i++) {
        sc_err_clear(&err);
        write_text(path, bad[i].text);
        assert_int_equal(
            sc_calibration_load(path, &rig.model->config, &rig.model->fingerprint, &back, &err),
            SC_EFORMAT);
        assert_non_null(strstr(err.text, bad[i].says));
    }
    (void)unlink(path);
    sc_err_clear(&err);
    assert_int_equal(
        sc_calibration_load(path, &rig.model->config, &rig.model->fingerprint, &back, &err),
        SC_ENOENT);
    rig_close(&rig);
}

static void read_text(const char *path, char *text, size_t bytes)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(text, 1, bytes - 1, f);
    assert_true(n > 0 && n < bytes - 1);
    text[n] = '\0';
    (void)fclose(f);
}

/* Files without the field read as before, and have the digest that they had. */
static void exact_layers_are_kept_where_they_are_known(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    struct sc_calibration c = {0}, back = {0};
    static char text[1 << 16];
    char path[] = "/tmp/sc-calibration-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    rig_open_golden(&rig, "llama31", 512, 1, NULL);
    const struct sc_model *m = rig.model;
    must(sc_calibration_copy(&c, sc_engine_calibration(rig.engine), &err), &err);
    const struct sc_hash unknown = sc_calibration_hash(&c);
    c.knows_exact_layers = true;
    for (uint64_t layers = 0; layers <= 2; layers += 2) { /* none, and layer 1 */
        c.exact_layers[0] = layers;
        must(sc_calibration_save(&c, path, &err), &err);
        must(sc_calibration_load(path, &m->config, &m->fingerprint, &back, &err), &err);
        const struct sc_hash known = sc_calibration_hash(&back);
        assert_true(back.knows_exact_layers);
        assert_true(back.exact_layers[0] == layers);
        assert_memory_not_equal(&known, &unknown, sizeof(known));
        sc_calibration_fini(&back);
    }
    read_text(path, text, sizeof(text));
    char *at = strstr(text, "\"exact_layers\"");
    assert_non_null(at);
    *strchr(at, '1') = '9';
    write_text(path, text);
    assert_int_equal(sc_calibration_load(path, &m->config, &m->fingerprint, &back, &err),
                     SC_EFORMAT);
    assert_non_null(strstr(err.text, "exact_layers[0]: must be a layer"));
    (void)unlink(path);
    sc_calibration_fini(&c);
    rig_close(&rig);
}

/* Mean share of the layers that a recipe compresses. */
static double mean_ratio(const struct sc_calibration *c, const struct sc_recipe *r, bool generated)
{
    double sum = 0.0;
    uint32_t n = 0;
    for (uint32_t l = 0; l < c->n_layers; l++)
        if (!sc_recipe_layer_is_exact(r, l)) {
            sum += (double)sc_calibration_ratio(c, r, l, generated);
            n++;
        }
    return sum / n;
}

static void the_ratio_is_spread_over_the_layers_by_their_weights(void **state)
{
    (void)state;
    struct sc_err err = SC_ERR_INIT;
    struct sc_calibration c;
    struct sc_recipe r = {.mode = SC_KV_COMPRESSED, .target_ratio = 0.1f, .generated_ratio = 0.5f};
    must(sc_calibration_init(&c, 4, 1, 8, &err), &err);
    for (uint32_t l = 0; l < 4; l++) /* as long as nobody knows better */
        assert_float_equal(sc_calibration_ratio(&c, &r, l, false), 0.1, 1e-6);
    c.layer_weights[1] = 5.0f;
    assert_float_equal(sc_calibration_ratio(&c, &r, 0, false), 0.05, 1e-6);
    assert_float_equal(sc_calibration_ratio(&c, &r, 1, false), 0.25, 1e-6);
    assert_float_equal(sc_calibration_ratio(&c, &r, 1, true), 1.0,
                       1e-6); /* 1.25: no more than all */
    assert_float_equal(sc_calibration_ratio(&c, &r, 0, true), 1.0 / 3.0, 1e-6);
    c.layer_weights[0] = 20.0f; /* full because layer 1 is, and cannot take its part */
    c.layer_weights[1] = 60.0f;
    r.generated_ratio = 0.6f;
    assert_float_equal(sc_calibration_ratio(&c, &r, 0, true), 1.0, 1e-6);
    assert_float_equal(sc_calibration_ratio(&c, &r, 2, true), 0.2, 1e-6);
    for (float ratio = 0.05f; ratio <= 1.0f; ratio += 0.05f) {
        r.generated_ratio = r.target_ratio = ratio;
        r.exact_layers[0] = 0;
        assert_float_equal(mean_ratio(&c, &r, false), (double)ratio, 1e-5);
        r.exact_layers[0] = 2; /* the others share among themselves */
        assert_float_equal(mean_ratio(&c, &r, true), (double)ratio, 1e-5);
    }
    r.target_ratio = 1.0f;
    for (uint32_t l = 0; l < 4; l++)
        assert_float_equal(sc_calibration_ratio(&c, &r, l, false), 1.0, 1e-6);
    sc_calibration_fini(&c);
}

static void weights_of_layers_are_kept_and_wrong_ones_refused(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    struct sc_calibration c = {0}, back = {0};
    char path[] = "/tmp/sc-calibration-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    rig_open_golden(&rig, "llama31", 512, 1, NULL);
    const struct sc_model *m = rig.model;
    must(sc_calibration_copy(&c, sc_engine_calibration(rig.engine), &err), &err);
    const struct sc_hash even = sc_calibration_hash(&c);
    c.layer_weights[1] = 2.5f;
    const struct sc_hash uneven = sc_calibration_hash(&c);
    assert_memory_not_equal(&even, &uneven, sizeof(even)); /* and so the recipe ids differ */
    must(sc_calibration_save(&c, path, &err), &err);
    must(sc_calibration_load(path, &m->config, &m->fingerprint, &back, &err), &err);
    assert_true(back.layer_weights[0] == 1.0f && back.layer_weights[1] == 2.5f);
    sc_calibration_fini(&back);
    c.layer_weights[1] = 0.0f;
    must(sc_calibration_save(&c, path, &err), &err);
    assert_int_equal(sc_calibration_load(path, &m->config, &m->fingerprint, &back, &err),
                     SC_EFORMAT);
    assert_non_null(strstr(err.text, "layer_weights[1]: 0, must be 0.001..1000"));
    (void)unlink(path);
    sc_calibration_fini(&c);
    rig_close(&rig);
}

static void one_changed_digit_is_found(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    struct sc_calibration back = {0};
    static char text[1 << 16];
    char path[] = "/tmp/sc-calibration-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    rig_open_golden(&rig, "llama31", 512, 1, NULL);
    must(sc_calibration_save(sc_engine_calibration(rig.engine), path, &err), &err);
    read_text(path, text, sizeof(text));
    const char *const fields[] = {"\"key_var\"", "\"l2_pre\"", "\"cos_post\""};
    for (size_t i = 0; i < SC_ARRAY_LEN(fields); i++) {
        char *digit = strchr(strstr(text, fields[i]), '.') + 1, was = *digit;
        *digit = was == '5' ? '6' : '5';
        write_text(path, text);
        sc_err_clear(&err);
        assert_int_equal(
            sc_calibration_load(path, &rig.model->config, &rig.model->fingerprint, &back, &err),
            SC_EFORMAT);
        assert_non_null(strstr(err.text, "the file is damaged"));
        *digit = was;
    }
    char *digest = strstr(text, "\"digest\""); /* without it nothing is compared */
    memcpy(digest, "\"remark\"", 8);
    write_text(path, text);
    sc_err_clear(&err);
    must(sc_calibration_load(path, &rig.model->config, &rig.model->fingerprint, &back, &err), &err);
    sc_calibration_fini(&back);
    (void)unlink(path);
    rig_close(&rig);
}

/* "No file" makes a server calibrate on its own text: one that is there and cannot be read must
 * not. */
static void a_file_that_cannot_be_read_is_not_a_missing_one(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    struct sc_calibration back = {0};
    char path[1024], dir[] = "/tmp/sc-calibration-XXXXXX";
    rig_open_golden(&rig, "llama31", 512, 1, NULL);
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/loop", dir);
    assert_int_equal(symlink("loop", path), 0);
    assert_int_equal(
        sc_calibration_load(path, &rig.model->config, &rig.model->fingerprint, &back, &err),
        SC_EIO);
    assert_non_null(strstr(err.text, "open: "));
    (void)unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); /* nor is it waited for */
    sc_err_clear(&err);
    assert_int_equal(
        sc_calibration_load(path, &rig.model->config, &rig.model->fingerprint, &back, &err),
        SC_EINVAL);
    (void)unlink(path);
    (void)rmdir(dir);
    rig_close(&rig);
}

static void an_engine_in_use_is_not_calibrated(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    int32_t ids[200];
    struct sc_calibration copy = {0};
    rig_open_golden(&rig, "llama31", 512, 2, NULL);
    make_tokens(ids, 200, rig.model->config.vocab, 2);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_EXACT);
    for (uint32_t slot = 0; slot < 2; slot++) {
        seq_open(&rig, slot, &recipe, 200);
        seq_run(&rig, slot, &recipe, 200, ids, 0, 100, 100, NULL);
        uint64_t entries = seq_entries_hash(&rig, slot);
        sc_err_clear(&err);
        assert_int_equal(sc_calibrate(rig.engine, rig.model, ids, 200, NULL, &err), SC_EINVAL);
        assert_non_null(strstr(err.text, "the engine must be idle"));
        assert_true(seq_entries_hash(&rig, slot) == entries); /* and it lives on */
        seq_run(&rig, slot, &recipe, 200, ids, 100, 100, 100, NULL);
        seq_close(&rig, slot);
    }
    sc_err_clear(&err);
    must(sc_calibration_copy(&copy, sc_engine_calibration(rig.engine), &err), &err);
    recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    seq_open(&rig, 3, &recipe, 200);
    assert_int_equal(sc_engine_set_calibration(rig.engine, &copy, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "slot 3 is open and compressed"));
    seq_close(&rig, 3);
    sc_err_clear(&err);
    must(sc_engine_set_calibration(rig.engine, &copy, &err), &err);
    copy.n_layers--;
    assert_int_equal(sc_engine_set_calibration(rig.engine, &copy, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "calibration: 1 layers of 4 KV heads, the model has 2 of 4"));
    sc_calibration_fini(&copy);
    rig_close(&rig);
}

static void a_head_whose_keys_hardly_vary_has_no_say(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_err err = SC_ERR_INIT;
    struct sc_calibration c = {0};
    rig_open_golden(&rig, "llama31", 512, 2, NULL); /* 4 KV heads: two on each rank */
    must(sc_calibration_copy(&c, sc_engine_calibration(rig.engine), &err), &err);
    c.key_var[0] = 0.0f;
    c.key_var[1] = 1e-40f; /* 1 / this is infinite */
    c.key_var[2] = 4.0f;
    c.key_var[3] = 8.0f;
    must(sc_engine_set_calibration(rig.engine, &c, &err), &err);
    assert_true(sc_engine_rank(rig.engine, 0)->inv_var[0] == 0.0f);
    assert_true(sc_engine_rank(rig.engine, 0)->inv_var[1] == 0.0f);
    assert_true(sc_engine_rank(rig.engine, 1)->inv_var[0] == 0.25f);
    assert_true(sc_engine_rank(rig.engine, 1)->inv_var[1] == 0.125f);
    sc_calibration_fini(&c);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thresholds_fall_with_the_ratio_and_do_not_depend_on_the_ranks),
        cmocka_unit_test(two_engines_measure_the_same),
        cmocka_unit_test(calibrated_text_is_kept_at_the_ratio_asked_for),
        cmocka_unit_test(a_saved_file_is_read_back_and_bad_ones_are_refused),
        cmocka_unit_test(exact_layers_are_kept_where_they_are_known),
        cmocka_unit_test(the_ratio_is_spread_over_the_layers_by_their_weights),
        cmocka_unit_test(weights_of_layers_are_kept_and_wrong_ones_refused),
        cmocka_unit_test(one_changed_digit_is_found),
        cmocka_unit_test(a_file_that_cannot_be_read_is_not_a_missing_one),
        cmocka_unit_test(an_engine_in_use_is_not_calibrated),
        cmocka_unit_test(a_head_whose_keys_hardly_vary_has_no_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
