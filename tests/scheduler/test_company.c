/* A request gives the same tokens alone and in any company: batch mates, preemptions, small pools.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "tests/scheduler/rig.h"

#define N_REQUESTS 64u
#define PROMPT_MAX 420u

struct item {
    int32_t prompt[PROMPT_MAX];
    uint32_t n_prompt, max_tokens;
    struct sc_request_opts opts;
    struct client alone, together;
};

static const char *const item_stops[] = {"\n\n", "e", "xy"};

static void make_item(struct item *it, uint64_t key)
{
    uint64_t r = sc_mix64(key);
    it->n_prompt = 1 + (uint32_t)(r % (PROMPT_MAX - 1));
    it->max_tokens = 4 + (uint32_t)((r >> 16) % 120);
    make_prompt(it->prompt, it->n_prompt, key);
    it->opts = client_opts(it->prompt, it->n_prompt, it->max_tokens);
    it->opts.ignore_eos = (r >> 24) % 4 != 0;
    it->opts.kv = (r >> 26) % 2 ? SC_KV_CHOICE_COMPRESSED : SC_KV_CHOICE_EXACT;
    it->opts.recipe.exact_then_compress = (r >> 27) % 2;
    struct sc_sampling *s = &it->opts.sampling;
    if ((r >> 28) % 4 == 0)
        return;
    s->temperature = 0.5f + (float)((r >> 30) % 8) * 0.2f;
    s->seed = r;
    s->top_p = (r >> 33) % 2 ? 0.9f : 1.0f;
    s->top_k = (r >> 34) % 2 ? 40 : 0;
    s->repetition_penalty = (r >> 35) % 2 ? 1.3f : 1.0f;
    s->frequency_penalty = (r >> 36) % 2 ? 0.7f : 0.0f;
    if ((r >> 37) % 3 == 0) {
        it->opts.stop_strings = item_stops;
        it->opts.n_stop_strings = 3;
    }
}

static void assert_same(const struct client *a, const struct client *b, uint32_t index)
{
    if (a->n_tokens != b->n_tokens ||
        memcmp(a->tokens, b->tokens, a->n_tokens * sizeof(a->tokens[0])) != 0)
        fail_msg("request %u: other tokens (%u and %u of them)", index, a->n_tokens, b->n_tokens);
    if (a->text_len != b->text_len || memcmp(a->text, b->text, a->text_len) != 0)
        fail_msg("request %u: other text", index);
    assert_int_equal(a->done.finish, b->done.finish);
    assert_int_equal(a->done.stop_id, b->done.stop_id);
    assert_string_equal(a->stop_string, b->stop_string);
    assert_int_equal(a->done.receipt.mode, b->done.receipt.mode);
}

static void run_alone(struct item *items, uint32_t n)
{
    struct rig rig;
    rig_open(&rig, &(struct rig_opts){.max_seqs = 1});
    for (uint32_t i = 0; i < n; i++) {
        client_run(&rig, &items[i].alone, items[i].opts);
        assert_int_equal(items[i].alone.done.status, SC_OK);
        client_fini(&items[i].alone);
    }
    rig_close(&rig);
}

static void pause_us(uint64_t us)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)us * 1000}, NULL);
}

/* Submits at random times, cancels others in between, and compares with what each gave alone. */
static void run_together(struct item *items, uint32_t n, const struct rig_opts *opts, uint64_t key,
                         uint64_t *ret_preempted)
{
    struct rig rig;
    struct client *noise = calloc(n, sizeof(*noise));
    assert_non_null(noise);
    rig_open(&rig, opts);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t r = sc_mix64(key + i);
        client_submit(&rig, &items[i].together, items[i].opts);
        client_submit(&rig, &noise[i], items[(i * 7 + 3) % n].opts);
        if (r % 3 == 0)
            pause_us(r % 1500);
        if (r % 5 != 0)
            sc_sched_cancel(rig.sched, noise[(r >> 20) % (i + 1)].request);
    }
    for (uint32_t i = 0; i < n; i++) {
        client_wait(&items[i].together);
        client_wait(&noise[i]);
        if (items[i].together.done.status != SC_OK)
            fail_msg("request %u: %s", i, items[i].together.error);
        assert_same(&items[i].alone, &items[i].together, i);
        if (noise[i].done.status == SC_OK)
            assert_same(&items[(i * 7 + 3) % n].alone, &noise[i], i);
        else
            assert_int_equal(noise[i].done.status, SC_ECANCELED);
        client_fini(&noise[i]);
        client_fini(&items[i].together);
    }
    rig_wait_idle(&rig);
    struct sc_sched_stats st;
    sc_sched_get_stats(rig.sched, &st);
    *ret_preempted = st.preempted;
    rig_close(&rig);
    free(noise);
}

static struct item *make_items(uint64_t key)
{
    struct item *items = calloc(N_REQUESTS, sizeof(*items));
    assert_non_null(items);
    for (uint32_t i = 0; i < N_REQUESTS; i++)
        make_item(&items[i], key * 1000 + i);
    run_alone(items, N_REQUESTS);
    return items;
}

static void company_changes_no_token(void **state)
{
    (void)state;
    struct item *items = make_items(1);
    uint64_t preempted;
    for (uint32_t budget = 33; budget <= 256; budget += 111)
        run_together(items, N_REQUESTS, &(struct rig_opts){.prefill_tokens = budget}, budget,
                     &preempted);
    free(items);
}

/* The pool holds a few sequences, and estimates are a third of the truth: admission is far too
 * hopeful, preemption has to save the day. */
static void preemption_changes_no_token_and_loses_no_request(void **state)
{
    (void)state;
    struct item *items = make_items(2);
    for (uint64_t round = 0; round < 3; round++) {
        uint64_t preempted = 0;
        run_together(
            items, N_REQUESTS,
            &(struct rig_opts){.n_pages = 60 + 30 * (uint32_t)round, .estimate_percent = 30},
            77 + round, &preempted);
        assert_true(preempted > 0);
    }
    free(items);
}

/* Two slots, a third request waits: the preempted one comes back before it. */
static void the_youngest_is_preempted_and_returns_to_the_front(void **state)
{
    (void)state;
    int32_t prompt[3][200];
    struct sc_request_opts opts[3];
    struct client alone[3], c[3];
    struct rig rig;
    rig_open(&rig, &(struct rig_opts){.max_seqs = 2});
    for (int i = 0; i < 3; i++) {
        make_prompt(prompt[i], 200, 50 + (uint64_t)i);
        opts[i] = client_opts(prompt[i], 200, 60);
        opts[i].ignore_eos = true;
        client_run(&rig, &alone[i], opts[i]);
    }
    fake_hold(rig.engine, 1);
    client_submit(&rig, &c[0], opts[0]);
    fake_wait_held(rig.engine);
    client_submit(&rig, &c[1], opts[1]);
    client_submit(&rig, &c[2], opts[2]);
    fake_refuse_step(rig.engine, 20); /* both decode by then */
    fake_release(rig.engine);
    for (int i = 0; i < 3; i++) {
        client_wait(&c[i]);
        assert_same(&alone[i], &c[i], (uint32_t)i);
        assert_int_equal(c[i].done.receipt.preemptions, i == 1);
    }
    assert_true(c[2].first_at > c[0].done_at);
    assert_true(c[1].done.timings.compress_us > 259); /* both lives of the sequence count */
    for (int i = 0; i < 3; i++) {
        client_fini(&alone[i]);
        client_fini(&c[i]);
    }
    rig_close(&rig);
}

static void a_lone_sequence_that_outgrows_the_pool_fails_with_numbers(void **state)
{
    (void)state;
    struct rig rig;
    struct client c, next;
    int32_t prompt[300];
    make_prompt(prompt, 300, 9);
    rig_open(&rig, &(struct rig_opts){.n_pages = 24, .estimate_percent = 10}); /* 384 tokens */
    struct sc_request_opts opts = client_opts(prompt, 300, 500);
    opts.ignore_eos = true;
    client_submit(&rig, &c, opts);
    client_submit(&rig, &next, client_opts(prompt, 100, 3));
    client_wait(&c);
    client_wait(&next);
    assert_int_equal(c.done.status, SC_EFULL);
    assert_non_null(strstr(c.error, "24"));
    assert_int_equal(c.done.completion_tokens, 384 - 300 + 1);
    assert_int_equal(next.done.status, SC_OK);
    client_fini(&c);
    client_fini(&next);
    rig_wait_idle(&rig);
    rig_close(&rig);
}

static void admission_waits_rather_than_preempts_when_estimates_are_true(void **state)
{
    (void)state;
    struct rig rig;
    struct client c[12];
    int32_t prompt[12][150];
    rig_open(&rig, &(struct rig_opts){.n_pages = 50});
    for (uint32_t i = 0; i < 12; i++) {
        make_prompt(prompt[i], 150, 200 + i);
        struct sc_request_opts opts = client_opts(prompt[i], 150, 100);
        opts.ignore_eos = true; /* 250 tokens: 16 pages of 50, so three at a time */
        client_submit(&rig, &c[i], opts);
    }
    for (uint32_t i = 0; i < 12; i++) {
        client_wait(&c[i]);
        assert_int_equal(c[i].done.status, SC_OK);
        assert_int_equal(c[i].done.receipt.preemptions, 0);
        client_fini(&c[i]);
    }
    rig_close(&rig);
}

static void a_short_prompt_does_not_wait_for_a_long_one(void **state)
{
    (void)state;
    static int32_t prompt[3900];
    struct rig rig;
    struct client big, small;
    make_prompt(prompt, 3900, 10);
    rig_open(&rig, &(struct rig_opts){.prefill_tokens = 64});
    fake_hold(rig.engine, 1);
    client_submit(&rig, &big, client_opts(prompt, 3900, 2));
    fake_wait_held(rig.engine);
    client_submit(&rig, &small, client_opts(prompt, 40, 4));
    uint64_t steps = fake_counts(rig.engine).steps;
    fake_sleep(rig.engine, 500);
    fake_release(rig.engine);
    client_wait(&small);
    steps = fake_counts(rig.engine).steps - steps;
    if (steps > 12) /* of the 61 that the long one takes */
        fail_msg("the short prompt took %u steps", (unsigned)steps);
    fake_sleep(rig.engine, 0);
    client_wait(&big);
    client_fini(&big);
    client_fini(&small);
    rig_close(&rig);
}

static void blocks_fill_the_budget_and_end_at_cuts(void **state)
{
    (void)state;
    int32_t prompt[1000];
    make_prompt(prompt, 1000, 11);
    for (int compressed = 0; compressed < 2; compressed++) {
        struct rig rig;
        struct client c;
        rig_open(&rig, &(struct rig_opts){.prefill_tokens = 200});
        struct sc_request_opts opts = client_opts(prompt, 1000, 1);
        opts.kv = compressed ? SC_KV_CHOICE_COMPRESSED : SC_KV_CHOICE_EXACT;
        client_run(&rig, &c, opts);
        /* Cuts at 96, 160, 224 .. 992 and the prompt's end; or blocks of 200. */
        assert_int_equal(c.n_progress, compressed ? 16 : 5);
        assert_int_equal(fake_counts(rig.engine).max_block, compressed ? 96 : 200);
        client_fini(&c);
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(company_changes_no_token),
        cmocka_unit_test(preemption_changes_no_token_and_loses_no_request),
        cmocka_unit_test(the_youngest_is_preempted_and_returns_to_the_front),
        cmocka_unit_test(a_lone_sequence_that_outgrows_the_pool_fails_with_numbers),
        cmocka_unit_test(admission_waits_rather_than_preempts_when_estimates_are_true),
        cmocka_unit_test(a_short_prompt_does_not_wait_for_a_long_one),
        cmocka_unit_test(blocks_fill_the_budget_and_end_at_cuts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
