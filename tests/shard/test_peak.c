/* Streaming compression bounds memory while a long document is prefilled, not only afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/shard/engine_util.h"

#if defined(SC_ASAN) || defined(SC_TSAN)
#define TOKENS 16384u /* sanitizers are slow; the bound is the same */
#else
#define TOKENS 65536u
#endif

static void long_steps(struct sc_engine_opts *opts)
{
    opts->max_step_tokens = 512;
    opts->kv_bytes = (uint64_t)512 << 20;
}

static void a_long_document_never_holds_more_than_a_third_of_its_exact_entries(void **state)
{
    (void)state;
    struct rig rig;
    struct sc_seq_stats stats;
    int32_t *ids = malloc(TOKENS * sizeof(*ids));
    rig_open_golden(&rig, "llama-linear", TOKENS, 2, long_steps);
    const uint32_t n_layers = rig.model->config.n_layers;
    make_tokens(ids, TOKENS, rig.model->config.vocab, 8);
    struct sc_recipe recipe;
    sc_recipe_default(&rig.model->config, SC_KV_COMPRESSED, &recipe);
    recipe.target_ratio = 0.25f;
    recipe.budget = SC_BUDGET_PER_CHUNK; /* random weights: a strict budget, not a calibrated one */
    seq_open(&rig, 0, &recipe, TOKENS);
    uint64_t peak = 0;
    for (uint32_t pos = 0; pos < TOKENS; pos += 2048) {
        seq_run(&rig, 0, &recipe, TOKENS, ids, pos, 2048, 512, NULL);
        sc_engine_seq_stats(rig.engine, 0, &stats);
        assert_true(stats.peak_entries >= stats.physical_entries);
        assert_true(stats.peak_entries >= peak);
        peak = stats.peak_entries;
    }
    uint64_t exact = (uint64_t)TOKENS * n_layers;
    print_message("%u tokens: at the end %.3f, at the peak %.3f of the exact entries, r = %.3f\n",
                  TOKENS, (double)stats.physical_entries / (double)exact,
                  (double)peak / (double)exact,
                  (double)stats.cores / (double)stats.compressed_tokens);
    assert_true((double)peak <= 0.35 * (double)exact);
    seq_close(&rig, 0);
    rig_close(&rig);
    free(ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_long_document_never_holds_more_than_a_third_of_its_exact_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
