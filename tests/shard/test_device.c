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
            seen.sums = seen.copies = seen.steps = seen.maxima = seen.fused = 0;
            uint64_t got = run(on_device, n_ranks, (enum sc_kv_mode)mode, device, b);
            assert_int_equal(got, want);
            assert_memory_equal(host, device, sizeof(host));
            assert_memory_equal(a, b, sizeof(a));
            assert_true(seen.steps > N_OUTPUT && seen.maxima >= N_OUTPUT && seen.fused > 0);
            assert_true(n_ranks == 1 ? seen.sums == 0 : seen.sums > 0 && seen.copies > seen.sums);
        }
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
        cmocka_unit_test(a_step_within_a_compressed_prompt_is_not_waited_for),
        cmocka_unit_test(page_tables_keep_their_name),
        cmocka_unit_test(compression_is_timed_from_where_it_begins),
        cmocka_unit_test(drawn_tokens_are_those_of_the_host),
        cmocka_unit_test(a_token_from_broken_logits_is_an_error),
        cmocka_unit_test(pages_are_a_share_of_the_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
