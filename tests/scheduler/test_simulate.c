/* The scheduler under simulated load; after every turn bench/sim_check.h holds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bench/sim_run.h"

static struct sim_opts ordinary(void)
{
    return (struct sim_opts){
        .rate = 20.0,
        .seconds = 4.0,
        .zipf = 1.0,
        .documents = 100,
        .doc_len = 1200,
        .question_len = 50,
        .output_len = 12,
        .groups = 1,
        .pages = 2048,
        .snapshots = 512,
        .max_seqs = 32,
        .step_tokens = 1024,
        .prefill_tokens = 512,
        .queue_max = 1024,
        .namespaces = 1,
        .sharing = true,
        .costs = {.fixed = 5000, .prefill_token = 40, .decode_row = 20, .entry = 0.04, .chore = 50},
        .seed = 1,
        .check = true,
    };
}

/* Documents of a few pages, in a pool that holds three or four. */
static struct sim_opts tight(void)
{
    struct sim_opts o = ordinary();
    o.rate = 60.0;
    o.documents = 20;
    o.doc_len = 200;
    o.question_len = 20;
    o.pages = 34;
    o.snapshots = 16;
    o.max_seqs = 8;
    o.step_tokens = o.prefill_tokens = 128;
    o.namespaces = 2;
    o.priority_percent = 20;
    o.cancel_percent = 20;
    return o;
}

static struct sim_result must_run(const struct sim_opts *o)
{
    struct sim_result r = {0};
    struct sc_err err = SC_ERR_INIT;
    if (sim_run(o, &r, &err) != SC_OK)
        fail_msg("seed %llu: %s", (unsigned long long)o->seed, err.text);
    assert_int_equal(r.served + r.canceled + r.late + r.refused + r.failed, r.requests);
    return r;
}

static void shared_prefixes_shorten_the_wait(void **state)
{
    (void)state;
    struct sim_opts o = ordinary();
    for (int kv = SC_KV_CHOICE_EXACT; kv <= SC_KV_CHOICE_COMPRESSED; kv++) {
        o.kv = (enum sc_kv_choice)kv;
        o.sharing = false;
        struct sim_result cold = must_run(&o);
        o.sharing = true;
        struct sim_result warm = must_run(&o);
        assert_int_equal(cold.served, cold.requests);
        assert_int_equal(warm.served, warm.requests);
        assert_true(cold.hit_percent == 0.0 && warm.hit_percent > 30.0);
        assert_true(warm.ttft_ms.p50 < cold.ttft_ms.p50);
    }
}

static void the_same_seed_gives_the_same_result(void **state)
{
    (void)state;
    struct sim_opts o = tight();
    struct sim_result a = must_run(&o), b = must_run(&o);
    assert_int_equal(a.steps, b.steps);
    assert_int_equal(a.served, b.served);
    assert_true(a.ttft_ms.p99 == b.ttft_ms.p99);
}

static void tight_pages_break_no_rule(void **state)
{
    (void)state;
    struct sim_opts o = tight();
    uint64_t evictions = 0, preemptions = 0, canceled = 0, late = 0;
    for (o.seed = 1; o.seed <= 40; o.seed++) {
        struct sim_result r = must_run(&o);
        evictions += r.evictions;
        preemptions += r.preemptions;
        canceled += r.canceled;
        late += r.late;
    }
    assert_true(evictions > 0 && preemptions > 0 && canceled > 0 && late > 0);
}

static void tight_pages_and_compression_break_no_rule(void **state)
{
    (void)state;
    struct sim_opts o = tight();
    o.kv = SC_KV_CHOICE_COMPRESSED;
    o.rate = 20.0;
    o.doc_len = 1000;
    o.pages = 100;
    for (o.seed = 1; o.seed <= 20; o.seed++)
        (void)must_run(&o);
}

/* Cores of all epochs come at once, and nobody shares but who has a prompt of that length. */
static void tight_pages_and_compression_at_the_prompt_s_end_break_no_rule(void **state)
{
    (void)state;
    struct sim_opts o = tight();
    uint64_t served = 0, evictions = 0;
    o.kv = SC_KV_CHOICE_COMPRESSED;
    o.exact_then_compress = true;
    o.rate = 20.0;
    o.doc_len = 1000;
    o.pages = 140;
    for (o.seed = 1; o.seed <= 20; o.seed++) {
        struct sim_result r = must_run(&o);
        served += r.served;
        evictions += r.evictions;
    }
    assert_true(served > 0 && evictions > 0);
}

/* Above the limit a document is not pinned. */
static void pins_of_requests_leave_pages_for_others(void **state)
{
    (void)state;
    struct sim_opts o = tight();
    o.retain_percent = 40;
    for (o.seed = 1; o.seed <= 20; o.seed++)
        (void)must_run(&o);
}

/* The snapshot it would begin from is locked, and holds more than the prefix in common. */
static void a_lone_request_lets_go_of_a_snapshot_that_leaves_it_no_pages(void **state)
{
    (void)state;
    struct sim_opts o = tight();
    o.documents = 5;
    o.doc_len = 40;
    o.question_len = 60;
    o.output_len = 2;
    o.pages = 7;
    o.snapshots = 64;
    o.namespaces = 1;
    for (o.seed = 1; o.seed <= 20; o.seed++)
        assert_int_equal(must_run(&o).failed, 0);
}

/* Three of four requests come from one of them. */
static void two_namespaces_that_want_more_than_there_is_get_the_same(void **state)
{
    (void)state;
    struct sim_opts o = ordinary();
    o.rate = 200.0;
    o.seconds = 20.0; /* of less, a few requests are the fifth that may be missing */
    o.documents = 2000;
    o.zipf = 0.5;
    o.namespaces = 2;
    o.first_ns_percent = 75;
    o.expect_fair = true;
    struct sim_result r = must_run(&o);
    assert_true(r.waiting_max > 100);
}

/* A router that knows the document finds it in one group, another in any. */
static void a_router_by_prefix_hits_more(void **state)
{
    (void)state;
    struct sim_opts o = ordinary();
    o.rate = 80.0;
    o.groups = 4;
    o.router = SIM_ROUTER_RANDOM;
    struct sim_result any = must_run(&o);
    o.router = SIM_ROUTER_PREFIX;
    struct sim_result known = must_run(&o);
    o.router = SIM_ROUTER_BOUNDED;
    struct sim_result bounded = must_run(&o);
    assert_true(known.hit_percent > any.hit_percent);
    assert_true(bounded.hit_percent > any.hit_percent);
    assert_true(bounded.ttft_ms.p99 <= known.ttft_ms.p99);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_prefixes_shorten_the_wait),
        cmocka_unit_test(the_same_seed_gives_the_same_result),
        cmocka_unit_test(tight_pages_break_no_rule),
        cmocka_unit_test(tight_pages_and_compression_break_no_rule),
        cmocka_unit_test(tight_pages_and_compression_at_the_prompt_s_end_break_no_rule),
        cmocka_unit_test(pins_of_requests_leave_pages_for_others),
        cmocka_unit_test(a_lone_request_lets_go_of_a_snapshot_that_leaves_it_no_pages),
        cmocka_unit_test(two_namespaces_that_want_more_than_there_is_get_the_same),
        cmocka_unit_test(a_router_by_prefix_hits_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
