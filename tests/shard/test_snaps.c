/* Snapshots: a sequence that begins from one has the bits of one that read everything itself,
 * whatever was forked, dropped or moved through host memory in between; and no page is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu.h"
#include "shard/rank.h"
#include "tests/shard/engine_util.h"

#define N      420u
#define PROMPT 380u

static void with_snaps(struct sc_engine_opts *opts)
{
    opts->max_snaps = 8;
}

static void with_snaps_bf16(struct sc_engine_opts *opts)
{
    with_snaps(opts);
    opts->kv_dtype = SC_DTYPE_BF16;
    opts->weight_dtype = SC_DTYPE_BF16;
}

/* Of the CPU, whatever else the tests run on: not every backend has them. */
static void with_snaps_int8(struct sc_engine_opts *opts)
{
    with_snaps(opts);
    opts->open_backend = sc_cpu_backend_open;
    opts->kv_dtype = SC_DTYPE_I8;
}

static void with_few_pages(struct sc_engine_opts *opts)
{
    with_snaps(opts);
    opts->kv_bytes = (uint64_t)2 << 20;
}

static void step(struct rig *rig, const struct sc_plan *plan)
{
    struct sc_err err = SC_ERR_INIT;
    must(sc_engine_step(rig->engine, plan, NULL, &err), &err);
}

static void keep(struct rig *rig, uint32_t slot, uint32_t snap)
{
    const struct sc_plan_keep k = {.slot = slot, .snap = snap};
    step(rig, &(struct sc_plan){.keeps = &k, .n_keeps = 1});
}

static void drop(struct rig *rig, uint32_t snap)
{
    step(rig, &(struct sc_plan){.drops = &snap, .n_drops = 1});
}

static void begin(struct rig *rig, uint32_t slot, const struct sc_recipe *recipe, uint32_t snap,
                  const int32_t *ids, uint32_t n)
{
    const struct sc_plan_open o = {.slot = slot,
                                   .recipe = recipe,
                                   .prompt_len = PROMPT,
                                   .from = snap,
                                   .n_from = n,
                                   .from_tokens = ids};
    step(rig, &(struct sc_plan){.opens = &o, .n_opens = 1});
}

static uint32_t n_free(const struct rig *rig)
{
    struct sc_engine_info info;
    sc_engine_get_info(rig->engine, &info);
    return info.n_pages_free;
}

static float *cold(struct rig *rig, const struct sc_recipe *recipe, const int32_t *ids,
                   uint64_t *ret_entries)
{
    float *logits = malloc((size_t)N * rig->model->config.vocab * sizeof(float));
    seq_open(rig, 0, recipe, PROMPT);
    seq_run(rig, 0, recipe, PROMPT, ids, 0, N, 97, logits);
    *ret_entries = seq_entries_hash(rig, 0);
    seq_close(rig, 0);
    return logits;
}

/* From a snapshot after kept tokens, another sequence goes on at each of several places. Its source
 * goes on as well, with other tokens, and so does a second sequence from the same snapshot. */
static void check_forks(const char *model, uint32_t n_ranks, const struct sc_recipe *wanted,
                        enum sc_kv_mode mode, uint32_t kept, rig_tweak *tweak)
{
    struct rig rig;
    int32_t ids[N], other[N];
    uint64_t entries;
    rig_open_golden(&rig, model, 512, n_ranks, tweak);
    const uint32_t vocab = rig.model->config.vocab, all = n_free(&rig);
    make_tokens(ids, N, vocab, 11);
    make_tokens(other, N, vocab, 77);
    memcpy(other, ids, kept * sizeof(*ids));
    struct sc_recipe recipe = wanted != NULL ? *wanted : small_recipe(&rig, mode);
    float *want = cold(&rig, &recipe, ids, &entries);
    float *got = malloc((size_t)N * vocab * sizeof(float));

    seq_open(&rig, 1, &recipe, PROMPT);
    seq_run(&rig, 1, &recipe, PROMPT, ids, 0, kept, 64, NULL);
    keep(&rig, 1, 3);
    seq_run(&rig, 1, &recipe, PROMPT, other, kept, N - kept, 64, NULL);
    struct sc_snap_info info;
    struct sc_engine_info now;
    sc_engine_snap_info(rig.engine, 3, &info);
    assert_int_equal(info.n_logical, kept);
    assert_int_equal(sc_engine_count_pages(rig.engine, 3), info.n_pages);
    sc_engine_get_info(rig.engine, &now);
    assert_int_equal(now.n_counted_cached, info.n_pages - info.n_in_use);
    const uint32_t places[] = {info.n_logical, info.min_logical,
                               (info.n_logical + info.min_logical) / 2, info.n_logical - 1};
    for (size_t i = 0; i < SC_ARRAY_LEN(places); i++) {
        uint32_t at = places[i] < info.min_logical ? info.min_logical : places[i];
        begin(&rig, 2, &recipe, 3, ids, at);
        begin(&rig, 3, &recipe, 3, ids, at);
        /* The other one writes between our write and our reads: it disturbs, if it can. */
        uint32_t half = at + 9;
        seq_run(&rig, 2, &recipe, PROMPT, ids, at, half - at, 50, got + (size_t)at * vocab);
        seq_run(&rig, 3, &recipe, PROMPT, other, at, N - at, 33, NULL);
        seq_run(&rig, 2, &recipe, PROMPT, ids, half, N - half, 50, got + (size_t)half * vocab);
        assert_memory_equal(got + (size_t)at * vocab, want + (size_t)at * vocab,
                            (size_t)(N - at) * vocab * sizeof(float));
        assert_true(seq_entries_hash(&rig, 2) == entries);
        seq_close(&rig, 2);
        seq_close(&rig, 3);
    }
    seq_close(&rig, 1);
    sc_engine_get_info(rig.engine, &now);
    assert_int_equal(now.n_pages_free + now.n_pages_cached, all);
    sc_engine_snap_info(rig.engine, 3, &info);
    assert_int_equal(info.n_private, info.n_pages);
    assert_int_equal(info.n_pages, now.n_pages_cached);
    assert_int_equal(now.n_counted_cached, info.n_pages); /* as the sequences came and went */
    assert_int_equal(sc_engine_count_pages(rig.engine, 3), 0);
    sc_engine_count_anew(rig.engine);
    assert_int_equal(sc_engine_count_pages(rig.engine, 3), info.n_pages);
    drop(&rig, 3);
    sc_engine_get_info(rig.engine, &now);
    assert_int_equal(now.n_counted_cached, 0);
    assert_int_equal(n_free(&rig), all);
    free(want);
    free(got);
    rig_close(&rig);
}

static void exact_forks_have_the_bits_of_a_cold_run(void **state)
{
    (void)state;
    check_forks("llama31", 1, NULL, SC_KV_EXACT, 200, with_snaps);
    check_forks("llama31", 2, NULL, SC_KV_EXACT, 256, with_snaps_bf16);
    check_forks("llama31", 2, NULL, SC_KV_EXACT, 203, with_snaps_int8);
    check_forks("mistral", 2, NULL, SC_KV_EXACT, 130, with_snaps); /* sliding window */
}

static void compressed_forks_have_the_bits_of_a_cold_run(void **state)
{
    (void)state;
    check_forks("llama31", 1, NULL, SC_KV_COMPRESSED, 192, with_snaps); /* at the first cut */
    check_forks("llama31", 2, NULL, SC_KV_COMPRESSED, 320, with_snaps); /* at the second */
    check_forks("llama31", 2, NULL, SC_KV_COMPRESSED, 333, with_snaps_bf16);
    check_forks("llama31", 2, NULL, SC_KV_COMPRESSED, 333, with_snaps_int8);
    check_forks("qwen3", 1, NULL, SC_KV_COMPRESSED, 100, with_snaps); /* before any */
}

static void budgets_carry_over_into_forks(void **state)
{
    struct rig rig;
    (void)state;
    rig_open_golden(&rig, "llama31", 512, 1, with_snaps);
    struct sc_recipe r = small_recipe(&rig, SC_KV_COMPRESSED);
    rig_close(&rig);
    r.budget = SC_BUDGET_PER_CHUNK;
    check_forks("llama31", 1, &r, SC_KV_COMPRESSED, 333, with_snaps);
    r.budget = SC_BUDGET_THRESHOLD;
    r.exact_then_compress = true;
    check_forks("llama31", 1, &r, SC_KV_COMPRESSED, 250, with_snaps);
}

/* Out at one tensor-parallel size, in at another. */
static void check_moves(uint32_t from_ranks, uint32_t to_ranks, enum sc_kv_mode mode,
                        rig_tweak *tweak)
{
    struct rig a, b;
    int32_t ids[N];
    uint64_t entries;
    uint32_t cores[SC_LAYERS_MAX], lo[SC_LAYERS_MAX];
    double carry[SC_LAYERS_MAX];
    const uint32_t kept = 333;
    rig_open_golden(&a, "llama31", 512, from_ranks, tweak);
    rig_open_golden(&b, "llama31", 512, to_ranks, tweak);
    const struct sc_model_config *c = &a.model->config;
    const uint32_t vocab = c->vocab;
    make_tokens(ids, N, vocab, 5);
    struct sc_recipe recipe = small_recipe(&a, mode);
    seq_open(&a, 0, &recipe, PROMPT);
    seq_run(&a, 0, &recipe, PROMPT, ids, 0, kept, 64, NULL);
    keep(&a, 0, 0);
    uint64_t at_source = seq_entries_hash(&a, 0);
    struct sc_snap_shape shape = {.n_cores = cores, .exact_lo = lo, .carry = carry};
    sc_engine_snap_shape(a.engine, 0, &shape);
    const struct sc_plan_make make = {.snap = 5, .recipe = &recipe, .shape = &shape};
    step(&b, &(struct sc_plan){.makes = &make, .n_makes = 1});
    for (uint32_t l = 0; l < c->n_layers; l++)
        for (uint32_t h = 0; h < c->n_kv_heads; h++) {
            uint32_t n = cores[l] + kept - lo[l];
            uint8_t *host = malloc(sc_engine_move_bytes(a.engine, n));
            struct sc_plan_move m = {.snap = 0, .layer = l, .head = h, .host = host};
            step(&a, &(struct sc_plan){.moves = &m, .n_moves = 1});
            m.in = true;
            m.snap = 5;
            step(&b, &(struct sc_plan){.moves = &m, .n_moves = 1});
            free(host);
        }
    begin(&b, 1, &recipe, 5, ids, kept);
    assert_true(seq_entries_hash(&b, 1) == at_source);
    if (from_ranks == to_ranks) {
        float *want = cold(&b, &recipe, ids, &entries);
        float *got = malloc((size_t)N * vocab * sizeof(float));
        seq_run(&b, 1, &recipe, PROMPT, ids, kept, N - kept, 64, got);
        assert_memory_equal(got, want + (size_t)kept * vocab,
                            (size_t)(N - kept) * vocab * sizeof(float));
        free(want);
        free(got);
    }
    seq_close(&b, 1);
    rig_close(&a);
    rig_close(&b);
}

static void snapshots_move_through_host_memory_between_group_sizes(void **state)
{
    (void)state;
    check_moves(1, 1, SC_KV_COMPRESSED, with_snaps);
    check_moves(2, 2, SC_KV_EXACT, with_snaps_bf16);
    check_moves(2, 1, SC_KV_COMPRESSED, with_snaps_bf16);
    check_moves(1, 1, SC_KV_COMPRESSED, with_snaps_int8);
    check_moves(1, 2, SC_KV_COMPRESSED, with_snaps_int8);
    check_moves(2, 1, SC_KV_EXACT, with_snaps_int8);
    check_moves(2, 4, SC_KV_COMPRESSED, with_snaps); /* KV heads are replicated */
    check_moves(4, 1, SC_KV_EXACT, with_snaps);
}

static void expect_refused(struct rig *rig, const struct sc_plan *plan)
{
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_engine_step(rig->engine, plan, NULL, &err), SC_EINVAL);
    assert_true(err.text[0] != '\0');
}

static void wrong_plans_are_refused_and_change_nothing(void **state)
{
    struct rig rig;
    int32_t ids[N];
    (void)state;
    rig_open_golden(&rig, "llama31", 512, 2, with_snaps);
    make_tokens(ids, N, rig.model->config.vocab, 3);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    struct sc_recipe exact = small_recipe(&rig, SC_KV_EXACT);
    seq_open(&rig, 0, &recipe, PROMPT);
    struct sc_plan_keep k = {.slot = 0, .snap = 0};
    expect_refused(&rig, &(struct sc_plan){.keeps = &k, .n_keeps = 1}); /* nothing to keep */
    seq_run(&rig, 0, &recipe, PROMPT, ids, 0, 333, 64, NULL);
    k.snap = 8;
    expect_refused(&rig, &(struct sc_plan){.keeps = &k, .n_keeps = 1});
    keep(&rig, 0, 1);
    k.snap = 1;
    expect_refused(&rig, &(struct sc_plan){.keeps = &k, .n_keeps = 1}); /* in use */
    struct sc_plan_open o = {.slot = 1,
                             .recipe = &recipe,
                             .prompt_len = PROMPT,
                             .from = 1,
                             .n_from = 334,
                             .from_tokens = ids};
    const struct sc_plan plan = {.opens = &o, .n_opens = 1};
    expect_refused(&rig, &plan); /* longer than it is */
    o.n_from = 64 + 128;         /* entries that are gone */
    expect_refused(&rig, &plan);
    o.n_from = 333;
    o.recipe = &exact; /* a compressed entry never answers EXACT */
    expect_refused(&rig, &plan);
    o.recipe = &recipe;
    o.from = 2;
    expect_refused(&rig, &plan);
    const uint32_t one = 1, two = 2;
    o.from = 1;
    expect_refused(&rig, &(struct sc_plan){.opens = &o, .n_opens = 1, .drops = &one, .n_drops = 1});
    expect_refused(&rig, &(struct sc_plan){.drops = &two, .n_drops = 1});
    begin(&rig, 1, &recipe, 1, ids, 333);
    rig_close(&rig);
}

static void a_reset_forgets_snapshots(void **state)
{
    struct rig rig;
    int32_t ids[N];
    struct sc_err err = SC_ERR_INIT;
    (void)state;
    rig_open_golden(&rig, "llama31", 512, 1, with_snaps);
    uint32_t all = n_free(&rig);
    uint64_t words = sc_engine_snap_words_free(rig.engine);
    make_tokens(ids, N, rig.model->config.vocab, 3);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_EXACT);
    seq_open(&rig, 0, &recipe, PROMPT);
    seq_run(&rig, 0, &recipe, PROMPT, ids, 0, 100, 64, NULL);
    keep(&rig, 0, 0);
    assert_true(sc_engine_snap_words_free(rig.engine) < words);
    must(sc_engine_reset(rig.engine, &err), &err);
    assert_int_equal(n_free(&rig), all);
    assert_true(sc_engine_snap_words_free(rig.engine) == words);
    const uint32_t zero = 0;
    expect_refused(&rig, &(struct sc_plan){.drops = &zero, .n_drops = 1});
    rig_close(&rig);
}

/* A prompt that is compressed when it is complete, while a snapshot holds its exact pages: they do
 * not come back epoch by epoch, and a pool that has room for one epoch's cores has not for all. */
static void cores_of_all_epochs_must_fit_where_a_snapshot_holds_the_exact_pages(void **state)
{
    struct rig rig;
    int32_t ids[N], other[480];
    struct sc_err err = SC_ERR_INIT;
    (void)state;

    rig_open_golden(&rig, "llama31", 512, 1, with_few_pages);
    struct sc_recipe late = small_recipe(&rig, SC_KV_COMPRESSED);
    const struct sc_recipe exact = small_recipe(&rig, SC_KV_EXACT);
    late.exact_then_compress = true;
    late.target_ratio = 1.0f;
    late.window = 16;
    late.epoch = 64;
    late.chunk_max = 32;
    late.chunk_min = late.chunk_target = 16;
    make_tokens(ids, N, rig.model->config.vocab, 5);
    make_tokens(other, 480, rig.model->config.vocab, 6);
    seq_open(&rig, 0, &late, PROMPT);
    seq_run(&rig, 0, &late, PROMPT, ids, 0, PROMPT, 97, NULL);
    keep(&rig, 0, 1);
    const uint32_t for_all = sc_engine_pages_needed(rig.engine, 0, 1, false);
    assert_true(for_all > 2 * PROMPT / SC_PAGE_ENTRIES);
    uint32_t n_slots = 1;
    for (; n_slots < 8 && n_free(&rig) >= for_all; n_slots++) {
        const uint32_t slot = n_slots;
        seq_open(&rig, slot, &exact, 480);
        for (uint32_t pos = 0; pos < 480 && n_free(&rig) >= for_all; pos += 32)
            seq_run(&rig, slot, &exact, 480, other, pos, 32, 32, NULL);
    }
    assert_in_range(n_free(&rig), for_all - 2, for_all - 1);
    const struct sc_plan_run run = {
        .slot = 0, .pos0 = PROMPT, .n_tokens = 1, .tokens = &ids[PROMPT], .want = SC_LOGITS_NONE};
    const struct sc_plan plan = {.runs = &run, .n_runs = 1};
    struct sc_run_result result;
    assert_int_equal(sc_engine_step(rig.engine, &plan, &result, &err), SC_EFULL);
    for (uint32_t slot = 1; slot < n_slots; slot++)
        seq_close(&rig, slot);
    sc_err_clear(&err);
    must(sc_engine_step(rig.engine, &plan, &result, &err), &err);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cores_of_all_epochs_must_fit_where_a_snapshot_holds_the_exact_pages),
        cmocka_unit_test(exact_forks_have_the_bits_of_a_cold_run),
        cmocka_unit_test(compressed_forks_have_the_bits_of_a_cold_run),
        cmocka_unit_test(budgets_carry_over_into_forks),
        cmocka_unit_test(snapshots_move_through_host_memory_between_group_sizes),
        cmocka_unit_test(wrong_plans_are_refused_and_change_nothing),
        cmocka_unit_test(a_reset_forgets_snapshots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
