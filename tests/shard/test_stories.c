/* A real trained checkpoint: greedy ids must be those computed in double precision. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "tests/shard/engine_util.h"

static void greedy_ids_are_the_expected_ones_at_every_size(void **state)
{
    (void)state;
    json_error_t je;
    json_t *root = json_load_file(SC_FIXTURES_DIR "/stories260K/hf/expected_greedy.json", 0, &je);
    assert_non_null(root);
    const json_t *want = json_object_get(root, "ids");
    const uint32_t n = (uint32_t)json_array_size(want);
    assert_true(n > 200);
    for (uint32_t tp = 1; tp <= 4; tp *= 2) {
        struct rig rig;
        struct sc_err err = SC_ERR_INIT;
        struct sc_recipe recipe;
        const struct sc_sampling greedy = SC_SAMPLING_GREEDY;
        struct sc_sampler *sampler = NULL;
        rig_open(&rig, SC_FIXTURES_DIR "/stories260K/hf", 0, tp, NULL);
        sc_recipe_default(&rig.model->config, SC_KV_EXACT, &recipe);
        must(sc_sampler_open(&greedy, rig.model->config.vocab, NULL, 0, 0, &sampler, &err), &err);
        seq_open(&rig, 0, &recipe, 1);
        int32_t token = (int32_t)json_integer_value(json_array_get(want, 0));
        for (uint32_t i = 0; i + 1 < n; i++) {
            const struct sc_plan_run run = {.slot = 0,
                                            .pos0 = i,
                                            .n_tokens = 1,
                                            .tokens = &token,
                                            .want = SC_LOGITS_LAST,
                                            .sampler = sampler};
            const struct sc_plan plan = {.runs = &run, .n_runs = 1};
            struct sc_run_result result;
            must(sc_engine_step(rig.engine, &plan, &result, &err), &err);
            assert_int_equal(result.status, SC_OK);
            token = result.sampled.token;
            if (token != json_integer_value(json_array_get(want, i + 1)))
                fail_msg("tensor parallel %u: id %u is %d, expected %lld", tp, i + 1, token,
                         (long long)json_integer_value(json_array_get(want, i + 1)));
        }
        sc_sampler_close(sampler);
        rig_close(&rig);
    }
    json_decref(root);
}

int main(void)
{
    if (access(SC_FIXTURES_DIR "/stories260K/hf/model.safetensors", R_OK) != 0) {
        (void)fprintf(stderr, "SKIPPED: no real checkpoint at %s\n", SC_FIXTURES_DIR);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_ids_are_the_expected_ones_at_every_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
