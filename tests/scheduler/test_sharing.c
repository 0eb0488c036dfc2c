/* Prefix sharing on the real engine: what is found in the cache gives the tokens and the
 * log-probabilities, bit for bit, of a server that shares nothing; through evictions, preemptions,
 * cancels, namespaces, documents and a store. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "tests/scheduler/sharing_rig.h"

/* ---- one after the other ---- */

static void check_warm(enum sc_kv_choice kv, uint32_t n_ranks)
{
    struct server cold, warm;
    int32_t ids[CONTEXT], other[CONTEXT];
    const uint32_t lengths[] = {40, 144, 272, 273, 655, 656, 657, 1200, 1700};
    server_open(&cold, n_ranks, false, 0, NULL);
    server_open(&warm, n_ranks, true, 0, NULL);
    uint32_t vocab = warm.rig.model->config.vocab;
    for (size_t i = 0; i < SC_ARRAY_LEN(lengths); i++) {
        uint32_t n = lengths[i];
        prompt_of(ids, n, vocab, 100 + i, n, 0);
        struct answer want = run(&cold, ask(&cold, ids, n, kv));
        assert_int_equal(want.receipt.cached_tokens, 0);
        struct answer first = run(&warm, ask(&warm, ids, n, kv));
        assert_int_equal(first.receipt.cached_tokens, 0);
        assert_same(&want, &first);
        struct answer again = run(&warm, ask(&warm, ids, n, kv));
        assert_int_equal(again.receipt.cached_tokens, n - 1); /* all but the last */
        assert_same(&want, &again);
        assert_true(again.receipt.kv.physical_entries == want.receipt.kv.physical_entries);
        /* Another prompt leaves it in the middle of a block. */
        uint32_t split = n - n / 5;
        memcpy(other, ids, split * sizeof(*ids));
        make_tokens(other + split, n - split, vocab, 999 + i);
        other[split] = (ids[split] + 1) % (int32_t)vocab;
        want = run(&cold, ask(&cold, other, n, kv));
        struct answer branch = run(&warm, ask(&warm, other, n, kv));
        assert_same(&want, &branch);
        if (kv == SC_KV_CHOICE_EXACT)
            assert_int_equal(branch.receipt.cached_tokens, split);
        else /* at worst from the last epoch's end below */
            assert_true(branch.receipt.cached_tokens + 512 + 128 >= split);
    }
    server_close(&cold);
    server_close(&warm);
}

static void a_repeated_exact_prompt_is_found_and_gives_the_same_bits(void **state)
{
    (void)state;
    check_warm(SC_KV_CHOICE_EXACT, 1);
    check_warm(SC_KV_CHOICE_EXACT, 2);
}

static void a_repeated_compressed_prompt_is_found_and_gives_the_same_bits(void **state)
{
    (void)state;
    check_warm(SC_KV_CHOICE_COMPRESSED, 1);
    check_warm(SC_KV_CHOICE_COMPRESSED, 2);
}

static void exact_and_compressed_live_side_by_side(void **state)
{
    struct server s;
    int32_t ids[1000];
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    prompt_of(ids, 1000, s.rig.model->config.vocab, 1, 1000, 0);
    struct answer c = run(&s, ask(&s, ids, 1000, SC_KV_CHOICE_COMPRESSED));
    struct answer e = run(&s, ask(&s, ids, 1000, SC_KV_CHOICE_EXACT));
    assert_int_equal(e.receipt.cached_tokens, 0); /* a compressed entry never answers EXACT */
    assert_true(e.receipt.kv.physical_entries > c.receipt.kv.physical_entries);
    struct sc_request_opts milder = ask(&s, ids, 1000, SC_KV_CHOICE_COMPRESSED);
    milder.recipe.target_ratio = 0.5f;
    struct answer other_recipe = run(&s, milder);
    assert_int_equal(other_recipe.receipt.cached_tokens, 0);
    struct answer c2 = run(&s, ask(&s, ids, 1000, SC_KV_CHOICE_COMPRESSED));
    assert_int_equal(c2.receipt.cached_tokens, 999);
    assert_same(&c, &c2);
    server_close(&s);
}

/* Where a recipe's entries depend on the prompt's end, another length shares nothing, and the same
 * length does. */
static void recipes_that_see_the_prompts_end_share_only_equal_lengths(void **state)
{
    struct server cold, s;
    int32_t ids[900];
    (void)state;
    server_open(&cold, 1, false, 0, NULL);
    server_open(&s, 1, true, 0, NULL);
    prompt_of(ids, 900, s.rig.model->config.vocab, 1, 900, 0);
    for (int kind = 0; kind < 2; kind++)
        for (uint32_t n = 890; n <= 900; n += 10) {
            struct sc_request_opts o = ask(&s, ids, n, SC_KV_CHOICE_COMPRESSED);
            o.recipe.window = kind == 0 ? 32 : 144;
            o.recipe.exact_then_compress = kind == 1;
            struct answer want = run(&cold, o);
            struct answer first = run(&s, o);
            assert_int_equal(first.receipt.cached_tokens, 0);
            struct answer again = run(&s, o);
            assert_true(again.receipt.cached_tokens > 0);
            assert_same(&want, &first);
            assert_same(&want, &again);
        }
    server_close(&cold);
    server_close(&s);
}

static void namespaces_share_nothing_but_the_shared_one(void **state)
{
    struct server s;
    int32_t ids[700];
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    prompt_of(ids, 700, s.rig.model->config.vocab, 1, 700, 0);
    struct sc_request_opts a = ask(&s, ids, 700, SC_KV_CHOICE_COMPRESSED), b = a, common = a;
    a.ns = "a";
    b.ns = "b";
    common.ns = "common";
    assert_int_equal(run(&s, a).receipt.cached_tokens, 0);
    assert_int_equal(run(&s, b).receipt.cached_tokens, 0);
    assert_int_equal(run(&s, a).receipt.cached_tokens, 699);
    assert_int_equal(run(&s, b).receipt.cached_tokens, 699);
    ids[3]++; /* another prompt, first read by the shared namespace */
    assert_int_equal(run(&s, common).receipt.cached_tokens, 0);
    assert_int_equal(run(&s, a).receipt.cached_tokens, 0); /* did not ask for it */
    b.shared_ns = "common";
    assert_int_equal(run(&s, b).receipt.cached_tokens, 699);
    ids[5]++; /* what it reads itself does not go into the shared one */
    assert_int_equal(run(&s, b).receipt.cached_tokens, 0);
    assert_int_equal(run(&s, common).receipt.cached_tokens, 0);
    server_close(&s);
}

/* ---- together ---- */

/* The first reads, the others wait for it: the prefix is read once. */
static void requests_that_arrive_together_read_a_prefix_once(void **state)
{
    struct server cold, s;
    int32_t ids[8][1200];
    struct answer a[8];
    struct sc_sched_stats st;
    (void)state;
    server_open(&cold, 1, false, 0, NULL);
    server_open(&s, 1, true, 0, NULL);
    for (uint32_t kv = SC_KV_CHOICE_EXACT; kv <= SC_KV_CHOICE_COMPRESSED; kv++) {
        uint64_t before = 0;
        sc_sched_get_stats(s.sched, &st);
        before = st.prefix_hit_tokens;
        for (uint32_t i = 0; i < 8; i++) {
            prompt_of(ids[i], 1200, s.rig.model->config.vocab, 7 + kv, 1150, i + 1);
            submit(&s, ask(&s, ids[i], 1200, (enum sc_kv_choice)kv), &a[i]);
        }
        for (uint32_t i = 0; i < 8; i++) {
            wait_done(&a[i]);
            struct answer want = run(&cold, ask(&cold, ids[i], 1200, (enum sc_kv_choice)kv));
            assert_same(&want, &a[i]);
        }
        sc_sched_get_stats(s.sched, &st);
        assert_true(st.prefix_hit_tokens - before >= 7u * 1040);
    }
    server_close(&cold);
    server_close(&s);
}

#ifdef SC_TSAN /* slow */
#define CROWD 30u
#else
#define CROWD 90u
#endif

/* Families of prompts, modes, seeds, cancels and a pool for a few of them: every answer that comes
 * is the one it gets alone. */
static void check_crowd(uint32_t n_ranks, uint64_t kv_bytes, uint32_t seed)
{
    struct server cold, s;
    static int32_t ids[CROWD][1100];
    static struct answer a[CROWD], want[CROWD];
    struct sc_sched_stats st;
    server_open(&cold, n_ranks, false, 0, NULL);
    server_open(&s, n_ranks, true, kv_bytes, NULL);
    for (uint32_t round = 0; round < CROWD; round += 30) {
        struct sc_request_opts o[30];
        for (uint32_t k = 0; k < 30; k++) {
            uint32_t i = round + k;
            uint64_t x = sc_mix64(seed * 1000 + i);
            uint32_t n = 100 + (uint32_t)(x % 1000), family = (uint32_t)(x >> 20) % 4;
            prompt_of(ids[i], n, s.rig.model->config.vocab, family, (uint32_t)((x >> 30) % 1100),
                      i);
            o[k] = ask(&s, ids[i], n, i % 3 == 0 ? SC_KV_CHOICE_EXACT : SC_KV_CHOICE_COMPRESSED);
            o[k].sampling.temperature = i % 2 ? 0.8f : 0.0f;
            o[k].sampling.seed = i;
            o[k].priority = (int32_t)(x >> 40) % 3;
            o[k].ns = i % 5 == 0 ? "x" : "y";
            want[i] = run(&cold, o[k]);
        }
        for (uint32_t k = 0; k < 30; k++)
            submit(&s, o[k], &a[round + k]);
        for (uint32_t k = 0; k < 30; k++)
            if (sc_mix64(seed + k) % 4 == 0)
                sc_sched_cancel(s.sched, a[round + k].request);
        for (uint32_t k = 0; k < 30; k++) {
            wait_done(&a[round + k]);
            if (a[round + k].status == SC_ECANCELED)
                continue;
            assert_int_equal(a[round + k].status, SC_OK);
            assert_same(&want[round + k], &a[round + k]);
        }
    }
    sc_sched_get_stats(s.sched, &st);
    assert_true(st.prefix_hit_tokens > 0);
    if (kv_bytes > 0)
        assert_true(st.prefix_evictions > 0);
    server_close(&cold);
    server_close(&s);
}

static void a_crowd_gets_the_answers_that_each_gets_alone(void **state)
{
    (void)state;
    check_crowd(1, 0, 1);
    check_crowd(2, 0, 2);
}

static void evictions_and_preemptions_change_no_answer(void **state)
{
    struct sc_engine_info info;
    struct server s;
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    sc_engine_get_info(s.rig.engine, &info);
    uint64_t page = info.page_bytes;
    uint32_t layers = s.rig.model->config.n_layers;
    server_close(&s);
    check_crowd(1, page * layers * 90, 3); /* about two prompts */
    check_crowd(1, page * layers * 60, 4);
}

/* ---- documents ---- */

static struct sc_hash put(struct server *s, const int32_t *ids, uint32_t n, uint64_t pin_until)
{
    return put_as(s, ids, n, pin_until, SC_KV_CHOICE_COMPRESSED);
}

static void documents_are_pinned_found_and_forgotten(void **state)
{
    struct server s;
    int32_t ids[900];
    uint64_t pages;
    struct sc_err err = SC_ERR_INIT;
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    prompt_of(ids, 900, s.rig.model->config.vocab, 1, 800, 2);
    struct sc_hash key = put(&s, ids, 800, 0);
    struct sc_prefix_item item = order(&s, SC_PREFIX_QUERY, &key);
    assert_int_equal(item.state, SC_PREFIX_DEVICE);
    assert_true(item.pages > 0);
    struct sc_request_opts q = ask(&s, ids, 900, SC_KV_CHOICE_COMPRESSED);
    q.breakpoint = 800;
    assert_int_equal(run(&s, q).receipt.cached_tokens, 800);
    item = order(&s, SC_PREFIX_QUERY, &key);
    uint32_t cached = stats_of(&s).pages_cached;
    assert_int_equal(order(&s, SC_PREFIX_PIN, &key).status, SC_OK);
    assert_int_equal(stats_of(&s).pages_cached, cached - item.pages); /* nobody gets those */
    must(sc_sched_flush(s.sched, &pages, &err), &err);
    assert_true(pages > 0); /* the question's own, and the tails inside */
    assert_int_equal(stats_of(&s).pages_cached, 0);
    assert_int_equal(order(&s, SC_PREFIX_QUERY, &key).state, SC_PREFIX_DEVICE);
    ids[850]++;
    assert_int_equal(run(&s, q).receipt.cached_tokens, 800);
    assert_int_equal(order(&s, SC_PREFIX_UNPIN, &key).status, SC_OK);
    must(sc_sched_flush(s.sched, &pages, &err), &err);
    assert_int_equal(order(&s, SC_PREFIX_QUERY, &key).state, SC_PREFIX_ABSENT);
    assert_int_equal(order(&s, SC_PREFIX_PIN, &key).status, SC_ENOENT);
    key = put(&s, ids, 800, UINT64_MAX);
    assert_int_equal(order(&s, SC_PREFIX_FORGET, &key).state, SC_PREFIX_ABSENT);
    ids[860]++;
    assert_true(run(&s, q).receipt.cached_tokens < 800);
    server_close(&s);
}

static void documents_outlive_the_prompts_that_come_and_go(void **state)
{
    struct sc_engine_info info;
    struct server s;
    int32_t doc[700], ids[700];
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    sc_engine_get_info(s.rig.engine, &info);
    uint64_t bytes = info.page_bytes * s.rig.model->config.n_layers * 90;
    server_close(&s);
    server_open(&s, 1, true, bytes, NULL);
    uint32_t vocab = s.rig.model->config.vocab;
    prompt_of(doc, 700, vocab, 1, 700, 0);
    struct sc_hash key = put(&s, doc, 700, 0);
    for (uint32_t i = 0; i < 12; i++) {
        prompt_of(ids, 700, vocab, 50 + i, 700, 0);
        (void)run(&s, ask(&s, ids, 700, SC_KV_CHOICE_COMPRESSED));
    }
    assert_int_equal(order(&s, SC_PREFIX_QUERY, &key).state, SC_PREFIX_DEVICE);
    server_close(&s);
}

static uint64_t now_us(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

/* What it needs is pinned. With a pin's end it waits, and others go by; without, it fails at once;
 * a deadline and a cancel end the wait, and so does an unpin. */
static void a_request_waits_for_a_pin_that_will_end(void **state)
{
    struct sc_engine_info info;
    struct server s;
    int32_t doc[1000], ids[1500];
    static struct answer big, small;
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    sc_engine_get_info(s.rig.engine, &info);
    uint64_t bytes = info.page_bytes * s.rig.model->config.n_layers * 60;
    server_close(&s);
    server_open(&s, 1, true, bytes, NULL);
    uint32_t vocab = s.rig.model->config.vocab;
    prompt_of(doc, 1000, vocab, 1, 1000, 0);
    prompt_of(ids, 1500, vocab, 2, 1500, 0);
    struct sc_request_opts reading = ask(&s, doc, 1000, SC_KV_CHOICE_EXACT), o;
    struct sc_request_opts question = ask(&s, doc, 100, SC_KV_CHOICE_EXACT);
    reading.prefill_only = reading.retain = true;
    reading.max_tokens = 0;
    uint64_t pace = 0; /* what the document takes here to be read: sanitizers are slow */
    for (int kind = 0; kind < 5; kind++) {
        const uint64_t begin = now_us(), end = begin + 400000 + 4 * pace;
        reading.pin_until_us = kind == 0 ? UINT64_MAX : kind == 1 ? end : end + 60000000;
        struct sc_hash key = run(&s, reading).key;
        pace = kind == 0 ? now_us() - begin : pace;
        assert_int_equal(order(&s, SC_PREFIX_QUERY, &key).state, SC_PREFIX_DEVICE);
        o = ask(&s, ids, 1500, SC_KV_CHOICE_EXACT);
        o.deadline_us = kind == 2 ? now_us() + 200000 + 2 * pace : 0;
        submit(&s, o, &big);
        if (kind > 0) {
            usleep(50000);
            submit(&s, question, &small);
            wait_done(&small);
            assert_int_equal(small.status, SC_OK);
            pthread_mutex_lock(&big.mu);
            assert_false(big.done);
            pthread_mutex_unlock(&big.mu);
        }
        if (kind == 3)
            sc_sched_cancel(s.sched, big.request);
        if (kind == 4)
            assert_int_equal(order(&s, SC_PREFIX_UNPIN, &key).status, SC_OK);
        wait_done(&big);
        const enum sc_status want[] = {SC_EFULL, SC_OK, SC_ETIMEDOUT, SC_ECANCELED, SC_OK};
        assert_int_equal(big.status, want[kind]);
        assert_true(kind != 1 || now_us() >= end);
        assert_true(now_us() < end + 30000000);
        (void)order(&s, SC_PREFIX_FORGET, &key);
    }
    server_close(&s);
}

/* ---- the store ---- */

/* As n_ranks measure it, but for the last bit of a number: other numbers of ranks differ by that,
 * on some backends. The store's entries are found with the calibration that they were made with
 * only, and the daemon keeps it beside them. */
static void measure(uint32_t n_ranks, struct sc_calibration *ret_c)
{
    struct sc_err err = SC_ERR_INIT;
    struct server s;
    server_open(&s, n_ranks, false, 0, NULL);
    must(sc_calibration_copy(ret_c, sc_engine_calibration(s.rig.engine), &err), &err);
    ret_c->key_var[0] = nextafterf(ret_c->key_var[0], INFINITY);
    server_close(&s);
}

static void check_store(enum sc_kv_choice kv, uint32_t ranks_before, uint32_t ranks_after)
{
    char dir[] = "/tmp/sc-sharing-XXXXXX", command[128];
    struct sc_store *store;
    struct server s, cold;
    int32_t ids[1100];
    struct sc_err err = SC_ERR_INIT;
    struct sc_sched_stats st;
    struct sc_calibration calibration;
    measure(ranks_before, &calibration);
    assert_non_null(mkdtemp(dir));
    const struct sc_store_opts opts = {.dir = dir, .dir_bytes = (uint64_t)1 << 30};
    must(sc_store_open(&opts, &store, &err), &err);
    server_open_calibrated(&s, ranks_before, true, store, &calibration);
    prompt_of(ids, 1100, s.rig.model->config.vocab, 1, 1000, 3);
    struct sc_hash key = put_as(&s, ids, 1000, 0, kv);
    for (int i = 0; i < 5000 && !sc_store_has(store, &key); i++)
        usleep(2000);
    assert_true(sc_store_has(store, &key));
    server_close(&s);
    sc_store_close(store);

    must(sc_store_open(&opts, &store, &err), &err);
    server_open_calibrated(&cold, ranks_after, false, NULL, &calibration);
    server_open_calibrated(&s, ranks_after, true, store, &calibration);
    sc_calibration_fini(&calibration);
    assert_int_equal(order(&s, SC_PREFIX_QUERY, &key).state, SC_PREFIX_STORED);
    struct sc_request_opts q = ask(&s, ids, 1100, kv);
    q.breakpoint = 1000;
    struct answer want = run(&cold, q);
    struct answer a[3];
    for (int i = 0; i < 3; i++) /* one load serves those that wait for it */
        submit(&s, q, &a[i]);
    for (int i = 0; i < 3; i++) {
        wait_done(&a[i]);
        assert_int_equal(a[i].status, SC_OK);
        assert_true(a[i].receipt.cached_tokens >= 1000);
        if (ranks_before == ranks_after)
            assert_same(&want, &a[i]);
    }
    sc_sched_get_stats(s.sched, &st);
    assert_int_equal(st.store_hits, 1);
    assert_int_equal(order(&s, SC_PREFIX_QUERY, &key).state, SC_PREFIX_DEVICE);
    q.ns = "stranger"; /* keys name the namespace */
    assert_int_equal(run(&s, q).receipt.cached_tokens, 0);
    server_close(&s);
    server_close(&cold);
    sc_store_close(store);
    (void)snprintf(command, sizeof(command), "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

static void documents_come_back_from_the_store(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        const enum sc_kv_choice kv = i == 0 ? SC_KV_CHOICE_COMPRESSED : SC_KV_CHOICE_EXACT;
        check_store(kv, 1, 1);
        check_store(kv, 2, 2);
        check_store(kv, 2, 1);
        check_store(kv, 2, 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_repeated_exact_prompt_is_found_and_gives_the_same_bits),
        cmocka_unit_test(a_repeated_compressed_prompt_is_found_and_gives_the_same_bits),
        cmocka_unit_test(exact_and_compressed_live_side_by_side),
        cmocka_unit_test(recipes_that_see_the_prompts_end_share_only_equal_lengths),
        cmocka_unit_test(namespaces_share_nothing_but_the_shared_one),
        cmocka_unit_test(requests_that_arrive_together_read_a_prefix_once),
        cmocka_unit_test(a_crowd_gets_the_answers_that_each_gets_alone),
        cmocka_unit_test(evictions_and_preemptions_change_no_answer),
        cmocka_unit_test(documents_are_pinned_found_and_forgotten),
        cmocka_unit_test(documents_outlive_the_prompts_that_come_and_go),
        cmocka_unit_test(a_request_waits_for_a_pin_that_will_end),
        cmocka_unit_test(documents_come_back_from_the_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
