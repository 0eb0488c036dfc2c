/* What the engine does for backends with memory of their own: sums and gathers through the backend,
 * steps told whole, tokens chosen on the device, pages sized by a share. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#include "tests/shard/device_clothes.h"

static void a_device_gives_what_the_host_gives(void **state)
{
    static float a[1 << 18], b[1 << 18];
    (void)state;
    for (uint32_t n_ranks = 1; n_ranks <= 2; n_ranks++)
        for (int mode = SC_KV_EXACT; mode <= SC_KV_COMPRESSED; mode++) {
            int32_t host[N_OUTPUT] = {0}, device[N_OUTPUT] = {0};
            memset(a, 0, sizeof(a));
            memset(b, 0, sizeof(b));
            uint64_t want = run(NULL, n_ranks, (enum sc_kv_mode)mode, host, a);
            seen.sums = seen.copies = seen.steps = seen.maxima = seen.fused = seen.keeps = 0;
            uint64_t got = run(on_device, n_ranks, (enum sc_kv_mode)mode, device, b);
            assert_int_equal(got, want);
            assert_memory_equal(host, device, sizeof(host));
            assert_memory_equal(a, b, sizeof(a));
            assert_true(seen.steps > N_OUTPUT && seen.maxima >= N_OUTPUT && seen.fused > 0);
            assert_true(n_ranks == 1 ? seen.sums == 0 : seen.sums > 0 && seen.copies > seen.sums);
            assert_true((seen.keeps > 0) == (n_ranks == 1 && mode == SC_KV_COMPRESSED));
        }
}

struct heard {
    uint64_t hash;
    uint32_t n_chunks, n_cores;
};

static void hear(void *ctx, const struct sc_chunk_event *e)
{
    struct heard *h = ctx;
    h->n_chunks++;
    h->n_cores += e->n_cores;
    h->hash = sc_mix64(h->hash ^ e->pos0 ^ (uint64_t)e->layer << 32);
    for (uint32_t i = 0; i < e->n_tokens; i++)
        h->hash = sc_mix64(h->hash ^ e->labels[i]);
}

/* Labels shared or per head, entries that are means or members, a layer kept exact, a budget. */
static void vary(struct sc_recipe *recipe, int variant)
{
    recipe->label_scope = variant & 1 ? SC_LABELS_PER_HEAD : recipe->label_scope;
    recipe->representative = variant & 2 ? SC_REP_SEED : recipe->representative;
    recipe->budget = variant == 4 ? SC_BUDGET_PER_CHUNK : recipe->budget;
    recipe->exact_layers[0] = variant == 3 ? 1 : 0;
}

static uint64_t hear_prompt(rig_tweak *tweak, int variant, bool listen, struct heard *ret_heard)
{
    struct rig rig;
    int32_t ids[N_PROMPT];
    struct sc_err err = SC_ERR_INIT;
    rig_open_golden(&rig, "llama31", 1024, 1, tweak);
    struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    vary(&recipe, variant);
    make_tokens(ids, N_PROMPT, rig.model->config.vocab, 7);
    const struct sc_plan_open open = {.slot = 3,
                                      .recipe = &recipe,
                                      .prompt_len = N_PROMPT,
                                      .on_chunk = listen ? hear : NULL,
                                      .on_chunk_ctx = ret_heard};
    const struct sc_plan plan = {.opens = &open, .n_opens = 1};
    must(sc_engine_step(rig.engine, &plan, NULL, &err), &err);
    seq_run(&rig, 3, &recipe, N_PROMPT, ids, 0, N_PROMPT - 1, 50, NULL);
    uint64_t hash = seq_entries_hash(&rig, 3);
    rig_close(&rig);
    return hash;
}

/* A device keeps labels only where nobody is to be told of them. */
static void a_listener_hears_of_the_same_labels(void **state)
{
    (void)state;
    for (int variant = 0; variant < 5; variant++) {
        struct heard host = {0}, device = {0};
        uint64_t want = hear_prompt(NULL, variant, true, &host);
        seen.keeps = 0;
        assert_int_equal(hear_prompt(on_device, variant, true, &device), want);
        assert_int_equal(seen.keeps, 0);
        assert_true(host.n_chunks > 0 && device.n_chunks == host.n_chunks);
        assert_int_equal(device.n_cores, host.n_cores);
        assert_int_equal(device.hash, host.hash);
        assert_int_equal(hear_prompt(on_device, variant, false, NULL), want);
        assert_true(seen.keeps > 0);
    }
}

/* The engine goes on after a reset, with all its pages, and what was kept is of no consequence. */
static void a_lost_merge_fails_the_step_alone(void **state)
{
    struct rig rig;
    int32_t ids[N_PROMPT];
    struct sc_err err = SC_ERR_INIT;
    struct sc_run_result result;
    struct sc_engine_info info;
    struct heard unheard;
    (void)state;
    uint64_t want = hear_prompt(on_device, 0, false, &unheard);
    rig_open_golden(&rig, "llama31", 1024, 1, on_device);
    const struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    make_tokens(ids, N_PROMPT, rig.model->config.vocab, 7);
    seq_open(&rig, 3, &recipe, N_PROMPT);
    seq_run(&rig, 3, &recipe, N_PROMPT, ids, 0, 192, 192, NULL); /* up to the first cut */
    const struct sc_plan_run run = {.slot = 3, .pos0 = 192, .n_tokens = 1, .tokens = ids + 192};
    const struct sc_plan plan = {.runs = &run, .n_runs = 1};
    seen.lose_merge = true;
    assert_int_equal(sc_engine_step(rig.engine, &plan, &result, &err), SC_EDEVICE);
    seen.lose_merge = false;
    sc_err_clear(&err);
    must(sc_engine_reset(rig.engine, &err), &err);
    sc_engine_get_info(rig.engine, &info);
    assert_int_equal(info.n_pages_free, info.n_pages);
    seq_open(&rig, 3, &recipe, N_PROMPT);
    seq_run(&rig, 3, &recipe, N_PROMPT, ids, 0, N_PROMPT - 1, 50, NULL);
    assert_int_equal(seq_entries_hash(&rig, 3), want);
    rig_close(&rig);
}

/* A step is not waited for only where the next compresses what it read, and waits for that. */
static void a_step_within_a_compressed_prompt_is_not_waited_for(void **state)
{
    static float logits[1 << 18];
    int32_t output[N_OUTPUT];
    (void)state;
    for (uint32_t n_ranks = 1; n_ranks <= 2; n_ranks++)
        for (int mode = SC_KV_EXACT; mode <= SC_KV_COMPRESSED; mode++) {
            seen.steps = seen.syncs = seen.enters = seen.waits = 0;
            (void)run(on_device, n_ranks, (enum sc_kv_mode)mode, output, logits);
            assert_true(seen.steps > n_ranks * N_OUTPUT);
            assert_true(seen.enters >= seen.steps); /* also of steps without rows */
            if (n_ranks > 1)
                assert_true(seen.syncs >= seen.steps);
            else if (mode == SC_KV_EXACT)
                assert_int_equal(seen.syncs, seen.steps);
            else
                assert_true(seen.syncs < seen.steps && seen.syncs > N_OUTPUT &&
                            seen.steps - seen.syncs <= seen.waits);
        }
}

/* Else a device would be sent all of them with every token. */
static void page_tables_keep_their_name(void **state)
{
    static float logits[1 << 18];
    int32_t output[N_OUTPUT];
    (void)state;
    seen.names = 0;
    (void)run(on_device, 1, SC_KV_EXACT, output, logits);
    assert_int_equal(seen.names, 1);
    seen.names = 0;
    (void)run(on_device, 1, SC_KV_COMPRESSED, output, logits);
    assert_true(seen.names > 1 && seen.names < N_OUTPUT);
}

/* What is still to be done of the step before is not the compression's. */
static void compression_is_timed_from_where_it_begins(void **state)
{
    struct rig rig;
    int32_t ids[N_PROMPT];
    struct sc_seq_stats stats;
    (void)state;
    seen.wait_ms = 300; /* longer than all of this takes without */
    rig_open_golden(&rig, "llama31", 1024, 1, on_device);
    const struct sc_recipe recipe = small_recipe(&rig, SC_KV_COMPRESSED);
    make_tokens(ids, N_PROMPT, rig.model->config.vocab, 7);
    seq_open(&rig, 3, &recipe, N_PROMPT);
    seq_run(&rig, 3, &recipe, N_PROMPT, ids, 0, N_PROMPT - 1, 50, NULL);
    sc_engine_seq_stats(rig.engine, 3, &stats);
    assert_true(stats.compressed_tokens > 0);
    assert_true(stats.compress_us > 0 && stats.compress_us < 300000);
    rig_close(&rig);
    seen.wait_ms = 0;
}

static void drawn_tokens_are_those_of_the_host(void **state)
{
    static float a[1 << 18], b[1 << 18];
    (void)state;
    (void)pthread_barrier_init(&seen.both, NULL, 2);
    temperature = 2.0f;
    for (uint32_t n_ranks = 1; n_ranks <= 2; n_ranks++)
        for (int network = 0; network < (n_ranks == 2 ? 2 : 1); network++) {
            int32_t host[N_OUTPUT] = {0}, device[N_OUTPUT] = {0};
            uint64_t want = run(NULL, n_ranks, SC_KV_EXACT, host, a);
            seen.network = network == 1;
            seen.puts = 0;
            assert_int_equal(run(on_device, n_ranks, SC_KV_EXACT, device, b), want);
            assert_memory_equal(host, device, sizeof(host));
            assert_memory_equal(a, b, sizeof(a));
            /* A gather a token: rank 0's copies of all columns, or each rank's of its own. */
            assert_int_equal(seen.puts, n_ranks == 1 ? 0 : N_OUTPUT * n_ranks);
        }
    temperature = 0.0f;
    seen.network = false;
    (void)pthread_barrier_destroy(&seen.both);
}

static void a_token_from_broken_logits_is_an_error(void **state)
{
    struct rig rig;
    int32_t ids[8];
    struct sc_sampling greedy = SC_SAMPLING_GREEDY;
    struct sc_sampler *sampler = NULL;
    struct sc_err err = SC_ERR_INIT;
    struct sc_run_result result;
    (void)state;

    rig_open_golden(&rig, "llama31", 256, 1, on_device);
    const struct sc_recipe recipe = small_recipe(&rig, SC_KV_EXACT);
    make_tokens(ids, 8, rig.model->config.vocab, 1);
    must(sc_sampler_open(&greedy, sc_tokenizer_vocab(rig.model->tok), NULL, 0, 0, &sampler, &err),
         &err);
    seq_open(&rig, 0, &recipe, 8);
    const struct sc_plan_run r = {
        .n_tokens = 8, .tokens = ids, .want = SC_LOGITS_LAST, .sampler = sampler};
    const struct sc_plan plan = {.runs = &r, .n_runs = 1};
    seen.wrong_max = true;
    must(sc_engine_step(rig.engine, &plan, &result, &err), &err);
    seen.wrong_max = false;
    assert_int_equal(result.status, SC_EINTERNAL);
    sc_sampler_close(sampler);
    rig_close(&rig);
}

static void a_share(struct sc_engine_opts *opts)
{
    static const int devices[] = {0, 0};
    opts->open_backend = open_device;
    opts->kv_bytes = 0;
    opts->kv_share = 0.5;
    opts->devices = devices;
}

static void pages_are_a_share_of_the_device(void **state)
{
    struct rig rig;
    struct sc_engine_info info;
    (void)state;
    seen.memory = (uint64_t)40 << 20;
    for (uint32_t n_ranks = 1; n_ranks <= 2; n_ranks++) { /* both on one device */
        rig_open(&rig, SC_SOURCE_DIR "/tests/golden/llama31", 256, n_ranks, a_share);
        sc_engine_get_info(rig.engine, &info);
        assert_int_equal(info.n_pages, (seen.memory / 2 / n_ranks) / info.page_bytes);
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_gives_what_the_host_gives),
        cmocka_unit_test(a_listener_hears_of_the_same_labels),
        cmocka_unit_test(a_lost_merge_fails_the_step_alone),
        cmocka_unit_test(a_step_within_a_compressed_prompt_is_not_waited_for),
        cmocka_unit_test(page_tables_keep_their_name),
        cmocka_unit_test(compression_is_timed_from_where_it_begins),
        cmocka_unit_test(drawn_tokens_are_those_of_the_host),
        cmocka_unit_test(a_token_from_broken_logits_is_an_error),
        cmocka_unit_test(pages_are_a_share_of_the_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
