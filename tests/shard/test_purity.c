/* The cache after a prefix is a function of its tokens, the recipe and the model: whatever the
 * blocks, the batch mates, the threads or the history, entries and logits have the same bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu.h"
#include "tests/shard/engine_util.h"

#define N 420u

struct outcome {
    uint64_t entries;
    float *logits; /* [N, vocab] */
    struct sc_seq_stats stats;
};

static void three_threads(struct sc_engine_opts *opts)
{
    opts->n_threads = 3;
}

static void bf16_pages(struct sc_engine_opts *opts)
{
    opts->kv_dtype = SC_DTYPE_BF16;
    opts->weight_dtype = SC_DTYPE_BF16;
}

/* Of the CPU, whatever else the tests run on: not every backend has them. */
static void int8_pages(struct sc_engine_opts *opts)
{
    opts->open_backend = sc_cpu_backend_open;
    opts->kv_dtype = SC_DTYPE_I8;
}

static void int8_pages_and_threads(struct sc_engine_opts *opts)
{
    int8_pages(opts);
    opts->n_threads = 3;
    opts->weight_dtype = SC_DTYPE_BF16;
}

static struct outcome run_alone(struct rig *rig, uint32_t slot, const struct sc_recipe *recipe,
                                const int32_t *ids, uint32_t prompt_len, uint32_t block)
{
    struct outcome o = {.logits = malloc((size_t)N * rig->model->config.vocab * sizeof(float))};
    seq_open(rig, slot, recipe, prompt_len);
    seq_run(rig, slot, recipe, prompt_len, ids, 0, N, block, o.logits);
    o.entries = seq_entries_hash(rig, slot);
    sc_engine_seq_stats(rig->engine, slot, &o.stats);
    seq_close(rig, slot);
    return o;
}

static void assert_same(const struct rig *rig, const struct outcome *a, const struct outcome *b)
{
    assert_memory_equal(a->logits, b->logits, (size_t)N * rig->model->config.vocab * sizeof(float));
    assert_true(a->entries == b->entries);
    assert_true(a->stats.physical_entries == b->stats.physical_entries);
}

static void check_blocks(const char *model, uint32_t n_ranks, enum sc_kv_mode mode,
                         rig_tweak *tweak)
{
    struct rig rig;
    int32_t ids[N];
    const uint32_t blocks[] = {256, 97, 32, 1};

    rig_open_golden(&rig, model, 512, n_ranks, tweak);
    make_tokens(ids, N, rig.model->config.vocab, 11);
    struct sc_recipe recipe = small_recipe(&rig, mode);
    struct outcome first = run_alone(&rig, 0, &recipe, ids, 300, blocks[0]);
    for (size_t i = 1; i < SC_ARRAY_LEN(blocks); i++) {
        struct outcome other = run_alone(&rig, (uint32_t)i, &recipe, ids, 300, blocks[i]);
        assert_same(&rig, &first, &other);
        free(other.logits);
    }
    if (mode == SC_KV_COMPRESSED && (recipe.exact_layers[0] & 1) == 0)
        assert_true(first.stats.cores < first.stats.compressed_tokens);
    free(first.logits);
    rig_close(&rig);
}

static void exact_blocks_and_single_tokens_give_the_same_bits(void **state)
{
    (void)state;
    check_blocks("llama31", 1, SC_KV_EXACT, NULL);
    check_blocks("mistral", 2, SC_KV_EXACT, NULL);
}

static void compressed_blocks_and_single_tokens_give_the_same_bits(void **state)
{
    (void)state;
    check_blocks("llama31", 1, SC_KV_COMPRESSED, NULL);
    check_blocks("qwen3", 2, SC_KV_COMPRESSED, NULL);
    check_blocks("llama-linear", 4, SC_KV_COMPRESSED, NULL);
}

static void threads_change_nothing(void **state)
{
    (void)state;
    check_blocks("llama31", 1, SC_KV_COMPRESSED, three_threads);
}

static void bf16_pages_keep_the_rule(void **state)
{
    (void)state;
    check_blocks("llama31", 2, SC_KV_COMPRESSED, bf16_pages);
}

static void int8_pages_keep_the_rule(void **state)
{
    (void)state;
    check_blocks("llama31", 1, SC_KV_COMPRESSED, int8_pages);
    check_blocks("qwen3", 2, SC_KV_EXACT, int8_pages);
    check_blocks("mistral", 2, SC_KV_COMPRESSED, int8_pages_and_threads);
}

/* Five sequences of different modes and lengths run in one plan each step; the first must not
 * notice. */
static void check_mates(rig_tweak *tweak)
{
    enum { MATES = 5 };
    struct rig rig;
    int32_t ids[MATES][N];
    uint32_t pos[MATES] = {0};
    rig_open_golden(&rig, "llama31", 512, 2, tweak);
    const uint32_t vocab = rig.model->config.vocab;
    struct sc_recipe recipes[MATES];
    for (uint32_t s = 0; s < MATES; s++) {
        make_tokens(ids[s], N, vocab, 11 + s);
        recipes[s] = small_recipe(&rig, s % 2 == 0 ? SC_KV_COMPRESSED : SC_KV_EXACT);
    }
    struct outcome alone = run_alone(&rig, 7, &recipes[0], ids[0], 300, 256);
    float *logits = malloc((size_t)N * vocab * sizeof(float));
    for (uint32_t s = 0; s < MATES; s++)
        seq_open(&rig, s, &recipes[s], 300);
    while (pos[0] < N) {
        struct sc_plan_run runs[MATES];
        struct sc_run_result results[MATES];
        struct sc_err err = SC_ERR_INIT;
        uint32_t n_runs = 0, first = UINT32_MAX;
        for (uint32_t i = 0; i < MATES; i++) {
            uint32_t s = (i + pos[0]) % MATES; /* another order each step */
            uint32_t n = 1 + (uint32_t)(sc_mix64(pos[s] * 7 + s) % 40);
            uint32_t cut = sc_recipe_next_cut(&recipes[s], 300, pos[s]);
            n = n < N - pos[s] ? n : N - pos[s];
            n = n < cut - pos[s] ? n : cut - pos[s];
            if (n == 0)
                continue;
            first = s == 0 ? n_runs : first;
            runs[n_runs++] = (struct sc_plan_run){.slot = s,
                                                  .pos0 = pos[s],
                                                  .n_tokens = n,
                                                  .tokens = ids[s] + pos[s],
                                                  .want = s == 0 ? SC_LOGITS_ALL : SC_LOGITS_LAST};
        }
        const struct sc_plan plan = {.runs = runs, .n_runs = n_runs};
        must(sc_engine_step(rig.engine, &plan, results, &err), &err);
        memcpy(logits + (size_t)pos[0] * vocab, results[first].logits,
               (size_t)runs[first].n_tokens * vocab * sizeof(float));
        for (uint32_t i = 0; i < n_runs; i++)
            pos[runs[i].slot] += runs[i].n_tokens;
    }
    assert_memory_equal(logits, alone.logits, (size_t)N * vocab * sizeof(float));
    assert_true(seq_entries_hash(&rig, 0) == alone.entries);
    free(logits);
    free(alone.logits);
    rig_close(&rig);
}

static void batch_mates_change_nothing(void **state)
{
    (void)state;
    check_mates(NULL);
    check_mates(int8_pages);
}

/* Preemption drops a sequence and prefills it again, generated tokens included. */
static void a_resumed_sequence_has_the_same_entries(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N];
    rig_open_golden(&rig, "llama31", 512, 2, NULL);
    make_tokens(ids, N, rig.model->config.vocab, 5);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    recipe.exact_then_compress = true;
    seq_open(&rig, 1, &recipe, 250);
    seq_run(&rig, 1, &recipe, 250, ids, 0, 250, 100, NULL);
    for (uint32_t p = 250; p < N; p++) /* decode */
        seq_run(&rig, 1, &recipe, 250, ids, p, 1, 1, NULL);
    uint64_t cold = seq_entries_hash(&rig, 1);
    seq_close(&rig, 1);
    seq_open(&rig, 2, &recipe, 250);
    seq_run(&rig, 2, &recipe, 250, ids, 0, N, 77, NULL);
    assert_true(seq_entries_hash(&rig, 2) == cold);
    rig_close(&rig);
}

/* What follows a prefix must not reach back into its entries. */
static void later_tokens_do_not_change_earlier_entries(void **state)
{
    (void)state;
    struct rig rig;
    int32_t a[N], b[N];
    float *la, *lb;
    rig_open_golden(&rig, "llama31", 512, 1, NULL);
    const uint32_t vocab = rig.model->config.vocab, same = 333;
    make_tokens(a, N, vocab, 21);
    make_tokens(b, N, vocab, 22);
    memcpy(b, a, same * sizeof(a[0]));
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    la = malloc((size_t)N * vocab * sizeof(float));
    lb = malloc((size_t)N * vocab * sizeof(float));
    seq_open(&rig, 0, &recipe, N);
    seq_open(&rig, 1, &recipe, N);
    seq_run(&rig, 0, &recipe, N, a, 0, N, 64, la);
    seq_run(&rig, 1, &recipe, N, b, 0, N, 64, lb);
    assert_memory_equal(la, lb, (size_t)same * vocab * sizeof(float));
    assert_memory_not_equal(la + (size_t)same * vocab, lb + (size_t)same * vocab,
                            (size_t)vocab * sizeof(float));
    free(la);
    free(lb);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_blocks_and_single_tokens_give_the_same_bits),
        cmocka_unit_test(compressed_blocks_and_single_tokens_give_the_same_bits),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(bf16_pages_keep_the_rule),
        cmocka_unit_test(int8_pages_keep_the_rule),
        cmocka_unit_test(batch_mates_change_nothing),
        cmocka_unit_test(a_resumed_sequence_has_the_same_entries),
        cmocka_unit_test(later_tokens_do_not_change_earlier_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
