/* Random recipes, random blocks, random plans: purity, page accounting, and the chunks that follow
 * from the text alone. Every pool holds exactly the pages that the engine said it would need. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shard/rank.h"
#include "tests/shard/engine_util.h"

#define CONTEXT 448u

static uint64_t rng_state;

static uint32_t pick(uint32_t n)
{
    rng_state = sc_mix64(rng_state);
    return (uint32_t)(rng_state >> 20) % n;
}

#define PICK(...)                                                                                  \
    ((const uint32_t[]){                                                                           \
        __VA_ARGS__}[pick(sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))])

static struct sc_recipe random_recipe(const struct rig *rig)
{
    struct sc_recipe r;
    struct sc_err err = SC_ERR_INIT;
    sc_recipe_default(&rig->model->config, SC_KV_COMPRESSED, &r);
    r.metric = (enum sc_metric)pick(4);
    r.seed_order = (enum sc_seed_order)pick(2);
    r.representative = (enum sc_representative)pick(3);
    r.chunking = (enum sc_chunking)pick(4);
    r.budget = (enum sc_budget)pick(2);
    r.label_scope =
        r.budget == SC_BUDGET_PER_CHUNK ? SC_LABELS_SHARED : (enum sc_label_scope)pick(2);
    r.log_bias = pick(4) != 0;
    r.keep_outliers = pick(3) != 0;
    r.exact_then_compress = pick(2) != 0;
    r.compress_generated = pick(3) != 0;
    r.target_ratio = (float)PICK(5, 25, 60, 100) / 100.0f;
    r.generated_ratio = (float)PICK(5, 50, 100) / 100.0f;
    r.similarity_threshold = (float)PICK(0, 0, 5, 70, 100) / 100.0f; /* 1: nothing merges */
    r.window = PICK(16, 17, 33, 64, 200);
    r.epoch = PICK(64, 64, 65, 100, 128);
    r.n_sinks = PICK(0, 1, 16, 150, 1000);
    r.chunk_max = PICK(4, 9, 40, 128, 128);
    r.chunk_target = SC_CHUNK_MIN + pick(r.chunk_max - SC_CHUNK_MIN + 1);
    r.chunk_min = SC_CHUNK_MIN + pick(r.chunk_target - SC_CHUNK_MIN + 1);
    if (pick(4) == 0)
        r.exact_layers[0] |= 1;
    must(sc_recipe_check(&r, &err), &err);
    return r;
}

/* Text with special tokens and delimiters in it. */
static void random_text(int32_t *ids, uint32_t n, uint32_t vocab)
{
    make_tokens(ids, n, vocab, pick(1u << 30));
    for (uint32_t i = 0; i < n; i++)
        if (pick(40) == 0)
            ids[i] = (int32_t)pick(3);
}

static uint32_t pages_for(uint32_t entries)
{
    return (entries + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
}

/* Every page of a rank is free or in exactly one table, and the sequences' own counts say the same.
 */
static void check_rank_books(struct rig *rig, uint32_t r)
{
    const struct sc_rank *rank = sc_engine_rank(rig->engine, r);
    uint8_t *seen = calloc(rank->pages.n_pages, 1);
    uint32_t held = 0, counted = 0;
    for (uint32_t s = 0; s < rig->opts.max_seqs; s++) {
        const struct sc_seq *seq = &rank->seqs[s];
        for (uint32_t l = 0; seq->open && l < rank->config->n_layers; l++) {
            const struct sc_seq_layer *layer = &seq->layers[l];
            uint32_t first = layer->exact_lo / SC_PAGE_ENTRIES, end = pages_for(seq->n_logical);
            uint32_t n_cores = pages_for(layer->n_cores);
            assert_true(layer->exact_lo <= seq->n_logical);
            for (uint32_t i = 0; i < n_cores + end - first; i++) {
                uint32_t page =
                    i < n_cores ? layer->core_pages[i] : layer->exact_pages[first + i - n_cores];
                assert_true(page < rank->pages.n_pages);
                assert_int_equal(seen[page], 0);
                assert_int_equal(rank->pages.seq_refs[page], 1);
                assert_int_equal(rank->pages.snap_refs[page], 0);
                seen[page] = 1;
            }
            held += n_cores + end - first;
            if (seq->recipe.mode == SC_KV_EXACT)
                assert_int_equal(layer->n_cores, 0);
        }
        counted += seq->open ? seq->stats.pages : 0;
    }
    for (uint32_t page = 0; page < rank->pages.n_pages; page++) {
        const bool is_free = rank->pages.free_bits[page / 64] >> page % 64 & 1;
        assert_int_equal(is_free, !seen[page]);
        const bool summed = rank->pages.free_sums[page / 64 / 64] >> page / 64 % 64 & 1;
        assert_int_equal(summed, rank->pages.free_bits[page / 64] != 0);
    }
    assert_int_equal(held, rank->pages.n_pages - rank->pages.n_free);
    assert_int_equal(counted, held);
    free(seen);
}

static void check_books(struct rig *rig)
{
    for (uint32_t r = 0; r < rig->opts.n_ranks; r++)
        check_rank_books(rig, r);
}

/* Leaves n pages free on each rank until release: as if the pool were that much smaller. */
static uint32_t squeeze(struct rig *rig, uint32_t n)
{
    uint32_t kept = 0;
    for (uint32_t r = 0; r < rig->opts.n_ranks; r++) {
        struct sc_pages *p = &sc_engine_rank(rig->engine, r)->pages;
        assert_true(p->n_free >= n);
        kept = p->n_free - n;
        p->n_free = n;
    }
    return kept;
}

static void release(struct rig *rig, uint32_t kept)
{
    for (uint32_t r = 0; r < rig->opts.n_ranks; r++)
        sc_engine_rank(rig->engine, r)->pages.n_free += kept;
}

/* One plan in a pool of exactly the pages it needs; one page less must refuse it and change
 * nothing. */
static void step_in_a_tight_pool(struct rig *rig, const struct sc_plan *plan,
                                 struct sc_run_result *results, uint32_t need)
{
    struct sc_err err = SC_ERR_INIT;
    const uint32_t kept = squeeze(rig, need);
    if (need > 0 && pick(4) == 0) {
        const uint32_t hidden = squeeze(rig, need - 1);
        assert_int_equal(sc_engine_step(rig->engine, plan, results, &err), SC_EFULL);
        sc_err_clear(&err);
        release(rig, hidden);
    }
    must(sc_engine_step(rig->engine, plan, results, &err), &err);
    release(rig, kept);
    check_books(rig);
}

struct outcome {
    uint64_t entries;
    float logits[CONTEXT * 256];
};

/* block 0: a random size each time. */
static void run(struct rig *rig, uint32_t slot, const struct sc_recipe *recipe, uint32_t prompt_len,
                const int32_t *ids, uint32_t n, uint32_t block, struct outcome *ret)
{
    const uint32_t vocab = rig->model->config.vocab;
    assert_true(vocab <= 256);
    seq_open(rig, slot, recipe, prompt_len);
    for (uint32_t pos = 0; pos < n;) {
        uint32_t cut = sc_recipe_next_cut(recipe, prompt_len, pos);
        uint32_t take = block > 0 ? block : 1 + pick(PICK(3, 40, 200));
        take = take < n - pos ? take : n - pos;
        take = take < cut - pos ? take : cut - pos;
        const struct sc_plan_run r = {.slot = slot,
                                      .pos0 = pos,
                                      .n_tokens = take,
                                      .tokens = ids + pos,
                                      .want = SC_LOGITS_ALL};
        const struct sc_plan plan = {.runs = &r, .n_runs = 1};
        struct sc_run_result result;
        step_in_a_tight_pool(rig, &plan, &result,
                             sc_engine_pages_needed(rig->engine, slot, take, false));
        memcpy(ret->logits + (size_t)pos * vocab, result.logits,
               (size_t)take * vocab * sizeof(float));
        pos += take;
    }
    ret->entries = seq_entries_hash(rig, slot);
    seq_close(rig, slot);
    check_books(rig);
}

static void check_purity(const char *model, uint32_t n_ranks, uint32_t n_recipes)
{
    struct rig rig;
    int32_t ids[CONTEXT];
    struct outcome *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));
    rig_open_golden(&rig, model, CONTEXT, n_ranks, NULL);
    for (uint32_t i = 0; i < n_recipes; i++) {
        rng_state = sc_mix64(i * 977 + n_ranks);
        struct sc_recipe recipe = random_recipe(&rig);
        uint32_t n = pick(2) == 0 ? CONTEXT : 200 + pick(CONTEXT - 200);
        uint32_t prompt_len = PICK(1, n, n - 1, n - 10, 1 + pick(n), 1 + pick(n));
        random_text(ids, n, rig.model->config.vocab);
        const uint32_t blocks[] = {256, 1, 0};
        run(&rig, 0, &recipe, prompt_len, ids, n, blocks[0], a);
        for (uint32_t j = 1; j < SC_ARRAY_LEN(blocks); j++) {
            run(&rig, j, &recipe, prompt_len, ids, n, blocks[j], b);
            size_t bytes = (size_t)n * rig.model->config.vocab * sizeof(float);
            if (a->entries != b->entries || memcmp(a->logits, b->logits, bytes) != 0)
                fail_msg(
                    "%s, recipe %u: blocks of %u and %u differ (%u tokens, prompt %u, window %u, "
                    "epoch %u, chunks %d of %u, then %d)",
                    model, i, blocks[0], blocks[j], n, prompt_len, recipe.window, recipe.epoch,
                    recipe.chunking, recipe.chunk_max, recipe.exact_then_compress);
        }
    }
    rig_close(&rig);
    free(a);
    free(b);
}

static void random_recipes_are_pure_and_need_no_page_more_than_announced(void **state)
{
    (void)state;
    check_purity("llama31", 1, 8);
    check_purity("llama-linear", 4, 4); /* KV heads with replicas */
}

static void sliding_layers_beside_compressed_ones_are_pure_too(void **state)
{
    (void)state;
    check_purity("qwen2", 2, 4); /* one full layer, two with a window of 12 */
    check_purity("mistral", 1, 2);
}

/* Sequences come, run together and go in one plan; sometimes a slot is closed and opened at once.
 */
static void pages_add_up_through_random_plans(void **state)
{
    (void)state;
    enum { SEQS = 5, STEPS = 250 };
    struct rig rig;
    int32_t ids[SEQS][CONTEXT];
    struct sc_recipe recipes[SEQS];
    uint32_t prompt[SEQS] = {0}, pos[SEQS] = {0};
    bool open[SEQS] = {false};
    rig_open_golden(&rig, "qwen2", CONTEXT, 2, NULL);
    const uint32_t n_layers = rig.model->config.n_layers;
    rng_state = 5;
    for (uint32_t step = 0; step < STEPS; step++) {
        uint32_t closes[SEQS], n_closes = 0, n_opens = 0, n_runs = 0, need = 0, freed = 0;
        struct sc_plan_open opens[SEQS];
        struct sc_plan_run runs[SEQS];
        struct sc_run_result results[SEQS];
        for (uint32_t s = 0; s < SEQS; s++) {
            struct sc_seq_stats stats;
            bool fresh = false;
            if (open[s] && (pos[s] == CONTEXT || pick(60) == 0)) {
                sc_engine_seq_stats(rig.engine, s, &stats);
                freed += stats.pages;
                closes[n_closes++] = s;
                open[s] = false;
            }
            if (!open[s] && pick(3) == 0) {
                recipes[s] = random_recipe(&rig);
                recipes[s].mode = pick(3) == 0 ? SC_KV_EXACT : SC_KV_COMPRESSED;
                prompt[s] = 1 + pick(CONTEXT);
                random_text(ids[s], CONTEXT, rig.model->config.vocab);
                opens[n_opens++] = (struct sc_plan_open){
                    .slot = s, .recipe = &recipes[s], .prompt_len = prompt[s]};
                open[s] = fresh = true;
                pos[s] = 0;
            }
            if (!open[s] || pick(4) == 0)
                continue;
            uint32_t n = 1 + pick(50), cut = sc_recipe_next_cut(&recipes[s], prompt[s], pos[s]);
            n = n < CONTEXT - pos[s] ? n : CONTEXT - pos[s];
            n = n < cut - pos[s] ? n : cut - pos[s];
            need +=
                fresh ? pages_for(n) * n_layers : sc_engine_pages_needed(rig.engine, s, n, false);
            runs[n_runs++] = (struct sc_plan_run){.slot = s,
                                                  .pos0 = pos[s],
                                                  .n_tokens = n,
                                                  .tokens = ids[s] + pos[s],
                                                  .want = (enum sc_logits_want)pick(2)};
            pos[s] += n;
        }
        const struct sc_plan plan = {.closes = closes,
                                     .opens = opens,
                                     .runs = runs,
                                     .n_closes = n_closes,
                                     .n_opens = n_opens,
                                     .n_runs = n_runs};
        /* What is closed comes back first. */
        step_in_a_tight_pool(&rig, &plan, results, need > freed ? need - freed : 0);
    }
    for (uint32_t s = 0; s < SEQS; s++)
        if (open[s])
            seq_close(&rig, s);
    struct sc_engine_info info;
    sc_engine_get_info(rig.engine, &info);
    assert_int_equal(info.n_pages_free, info.n_pages);
    rig_close(&rig);
}

struct cuts {
    uint32_t n, n_gaps, end[CONTEXT];
};

static void note_cut(void *ctx, const struct sc_chunk_event *e)
{
    struct cuts *c = ctx;
    if (e->layer != 1)
        return;
    c->n_gaps += e->pos0 != (c->n > 0 ? c->end[c->n - 1] : 0); /* a hole or an overlap */
    c->end[c->n++] = e->pos0 + e->n_tokens;
}

static struct cuts run_cuts(struct rig *rig, const struct sc_recipe *recipe, uint32_t prompt_len,
                            const int32_t *ids, uint32_t n)
{
    struct cuts c = {0};
    struct sc_err err = SC_ERR_INIT;
    const struct sc_plan_open open = {.slot = 0,
                                      .recipe = recipe,
                                      .prompt_len = prompt_len,
                                      .on_chunk = note_cut,
                                      .on_chunk_ctx = &c};
    const struct sc_plan plan = {.opens = &open, .n_opens = 1};
    must(sc_engine_step(rig->engine, &plan, NULL, &err), &err);
    seq_run(rig, 0, recipe, prompt_len, ids, 0, n, 256, NULL);
    seq_close(rig, 0);
    return c;
}

/* Compressing the whole prompt at its end must judge each epoch by the same text as streaming did:
 * what lies beyond an epoch's window is not known to it. */
static void chunks_do_not_depend_on_when_an_epoch_is_compressed(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[CONTEXT];
    uint32_t n_chunks = 0;
    rig_open_golden(&rig, "llama31", CONTEXT, 1, NULL);
    for (uint32_t i = 0; i < 100; i++) {
        rng_state = sc_mix64(i * 131 + 31);
        struct sc_recipe recipe = random_recipe(&rig);
        recipe.window = 16; /* shorter than a chunk: a chunk may end before its end is known */
        recipe.chunking = i % 2 == 0 ? SC_CHUNKS_PACKED : recipe.chunking;
        recipe.chunk_max = recipe.chunk_target = i % 2 == 0 ? 128 : recipe.chunk_max;
        recipe.chunk_min = SC_CHUNK_MIN;
        uint32_t n = 150 + pick(CONTEXT - 150), prompt_len = n - 1;
        make_tokens(ids, n, rig.model->config.vocab, i); /* no special tokens: chunks grow long */
        recipe.exact_then_compress = false;
        struct cuts streamed = run_cuts(&rig, &recipe, prompt_len, ids, n);
        recipe.exact_then_compress = true;
        struct cuts after = run_cuts(&rig, &recipe, prompt_len, ids, n);
        uint32_t limit = sc_recipe_compressed_limit(&recipe, prompt_len, n - 1);
        assert_int_equal(after.n_gaps + streamed.n_gaps, 0);
        assert_int_equal(after.n, streamed.n);
        assert_memory_equal(after.end, streamed.end, after.n * sizeof(after.end[0]));
        assert_true(after.n == 0 || after.end[after.n - 1] <= limit);
        n_chunks += after.n;
    }
    assert_true(n_chunks > 100);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_recipes_are_pure_and_need_no_page_more_than_announced),
        cmocka_unit_test(sliding_layers_beside_compressed_ones_are_pure_too),
        cmocka_unit_test(pages_add_up_through_random_plans),
        cmocka_unit_test(chunks_do_not_depend_on_when_an_epoch_is_compressed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
