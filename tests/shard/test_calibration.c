#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

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
    must(sc_calibration_load(path, &rig.model->config, &rig.model->fingerprint, &back, &err),
         &err);
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
        {"{\"version\": 2}", "version: 2, must be 1"},
        {"[]", "version: 0"},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(bad); i++) {
        sc_err_clear(&err);
        write_text(path, bad[i].text);
        assert_int_equal(sc_calibration_load(path, &rig.model->config, &rig.model->fingerprint,
                                             &back, &err), SC_EFORMAT);
        assert_non_null(strstr(err.text, bad[i].says));
    }
    (void)unlink(path);
    sc_err_clear(&err);
    assert_int_equal(sc_calibration_load(path, &rig.model->config, &rig.model->fingerprint, &back,
                                         &err), SC_ENOENT);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thresholds_fall_with_the_ratio_and_do_not_depend_on_the_ranks),
        cmocka_unit_test(calibrated_text_is_kept_at_the_ratio_asked_for),
        cmocka_unit_test(a_saved_file_is_read_back_and_bad_ones_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
