/* A pool that holds little more than what runs, and requests of which more is held at one time than
 * at another: compressed when the prompt has been read, or with a long output. */
#include <string.h>
#include <unistd.h>

#include "tests/scheduler/sharing_rig.h"

/* ---- compressed when the prompt has been read ---- */

#define LATE      1000u /* 32 pages, and 64 for the cores of its 6 epochs should none of it merge */
#define LATE_MAX  1800u
#define LATE_FULL 1024u /* pages that are full */
#define LATE_LONG 1700u

/* The prompt is `seed`'s. */
static struct sc_request_opts late(const struct server *s, uint32_t n, uint32_t seed)
{
    static int32_t ids[2][LATE_MAX];
    int32_t *to = ids[seed % 2];
    prompt_of(to, n, s->rig.model->config.vocab, 10 + seed, n, 0);
    struct sc_request_opts o = ask(s, to, n, SC_KV_CHOICE_COMPRESSED);
    o.recipe.exact_then_compress = true;
    return o;
}

static void a_prompt_too_long_to_be_compressed_at_its_end_is_refused_unread(void **state)
{
    static struct answer a;
    struct server s;
    (void)state;
    open_tight(&s, 95, NULL);
    submit(&s, late(&s, LATE, 0), &a);
    wait_done(&a);
    assert_int_equal(a.status, SC_EFULL);
    assert_int_equal(stats_of(&s).steps, 0);
    server_close(&s);
    open_tight(&s, 96, NULL);
    (void)run(&s, late(&s, LATE, 0));
    server_close(&s);
}

/* A layer that stays exact needs the page of what follows the prompt, too. */
static void a_prompt_that_fits_but_for_the_page_after_it_is_refused_unread(void **state)
{
    static struct answer a;
    (void)state;
    for (uint32_t fits = 0; fits < 2; fits++) {
        struct server s;
        struct sc_request_opts o;
        server_open(&s, 1, true, 0, NULL);
        o = late(&s, LATE_FULL, 0);
        o.recipe.exact_layers[0] = 1;
        o.max_tokens = 4;
        const uint32_t pages = sc_engine_pages_estimate(s.rig.engine, &o.recipe, LATE_FULL);
        struct sc_engine_info info;
        sc_engine_get_info(s.rig.engine, &info);
        server_close(&s);
        server_open(&s, 1, true, info.page_bytes * (pages - 1 + fits), NULL);
        memset(&a, 0, sizeof(a));
        submit(&s, o, &a);
        wait_done(&a);
        assert_int_equal(a.status, fits ? SC_OK : SC_EFULL);
        assert_int_equal(stats_of(&s).steps == 0, !fits);
        server_close(&s);
    }
}

static void of_two_that_compress_at_their_end_neither_pushes_the_other_out(void **state)
{
    static struct answer a[2];
    struct server s;
    (void)state;
    open_tight(&s, 120, NULL);
    pthread_mutex_lock(&s.gate); /* both are there before the first has read all */
    for (uint32_t i = 0; i < 2; i++)
        submit(&s, late(&s, LATE, i), &a[i]);
    pthread_mutex_unlock(&s.gate);
    for (uint32_t i = 0; i < 2; i++) {
        wait_done(&a[i]);
        assert_int_equal(a[i].status, SC_OK);
        assert_int_equal(a[i].receipt.preemptions, 0);
    }
    server_close(&s);
}

/* Alone, in a pool of so many pages a layer. */
static void runs_to_its_limit(uint32_t pages, uint32_t n_prompt, uint32_t max_tokens)
{
    struct server s;
    open_tight(&s, pages, NULL);
    struct sc_request_opts o = late(&s, n_prompt, 0);
    o.max_tokens = max_tokens;
    assert_int_equal(run(&s, o).n_all, max_tokens);
    server_close(&s);
}

static void a_prompt_too_short_to_be_compressed_needs_no_room_for_cores(void **state)
{
    (void)state;
    runs_to_its_limit(8, 140, 4); /* the prompt takes 5 pages */
}

/* Its cores are never made: no token is read behind the prompt. */
static void an_answer_of_one_token_needs_no_room_for_cores(void **state)
{
    (void)state;
    runs_to_its_limit(40, LATE, 1);
}

/* What is generated is compressed as it comes. Exact it would be 60 pages, and 14 for cores. */
static void a_long_output_needs_no_room_for_being_exact(void **state)
{
    (void)state;
    runs_to_its_limit(70, 100, 1800);
}

static void others_come_in_when_the_prompt_has_been_compressed(void **state)
{
    static struct answer elder;
    struct server s;
    int32_t ids[LATE];
    (void)state;
    open_tight(&s, 100, NULL);
    prompt_of(ids, LATE, s.rig.model->config.vocab, 1, LATE, 0);
    struct sc_request_opts o = late(&s, LATE, 0);
    o.max_tokens = 700;
    submit(&s, o, &elder);
    wait_tokens(&elder, 2);
    (void)run(&s, ask(&s, ids, LATE, SC_KV_CHOICE_EXACT));
    assert_false(is_done(&elder));
    sc_sched_cancel(s.sched, elder.request);
    wait_done(&elder);
    server_close(&s);
}

/* The elder's prompt holds 57 pages when it has to wait for a pin's end, as 134 are pinned and one
 * is left, and 51 are counted once it is compressed. That leaves 141: the younger's prompt is
 * counted with 138. */
static void others_come_in_when_what_was_put_off_has_been_compressed(void **state)
{
    static struct answer elder, younger;
    static int32_t doc[2000];
    static const uint32_t lengths[] = {2000, 2000, 256};
    struct sc_hash pinned[3];
    struct server s;
    (void)state;
    open_tight(&s, 192, NULL);
    for (uint32_t i = 0; i < 3; i++) { /* with ends that do not come: without, nobody waits */
        prompt_of(doc, 2000, s.rig.model->config.vocab, 1 + i, 2000, 0);
        pinned[i] = put_as(&s, doc, lengths[i], UINT64_MAX - 1, SC_KV_CHOICE_EXACT);
    }
    struct sc_request_opts o = late(&s, LATE_MAX, 0);
    o.max_tokens = 150;
    submit(&s, o, &elder);
    for (int i = 0; i < 5000 && stats_of(&s).preempted == 0; i++)
        usleep(2000);
    pthread_mutex_lock(&s.gate); /* the younger is there before the elder has an end */
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(order(&s, SC_PREFIX_UNPIN, &pinned[i]).status, SC_OK);
    submit(&s, late(&s, 1400, 1), &younger);
    pthread_mutex_unlock(&s.gate);
    wait_done(&younger);
    assert_int_equal(younger.status, SC_OK);
    wait_done(&elder);
    assert_int_equal(elder.receipt.preemptions, 1);
    assert_true(younger.rank < elder.rank);
    server_close(&s);
}

/* ---- a long output ---- */

#define SHORT 100u

static struct sc_request_opts at_length(const struct server *s, uint32_t n, uint32_t max_tokens)
{
    static int32_t ids[LATE_LONG];
    prompt_of(ids, n, s->rig.model->config.vocab, 1, n, 0);
    struct sc_request_opts o = ask(s, ids, n, SC_KV_CHOICE_COMPRESSED);
    o.max_tokens = max_tokens;
    return o;
}

static struct answer ended(struct server *s, struct sc_request_opts o)
{
    static struct answer a;
    submit(s, o, &a);
    wait_done(&a);
    return a;
}

/* By target_ratio, which is the prompt's, it would be 49 pages; by what it takes, 65. Exact it
 * would be 60. Let in, it ends after 1581 tokens. */
static void an_output_too_long_for_the_pool_is_refused_at_once(void **state)
{
    struct server s;
    (void)state;
    open_tight(&s, 58, NULL);
    struct answer a = ended(&s, at_length(&s, SHORT, 1800));
    assert_int_equal(a.status, SC_EFULL);
    assert_int_equal(a.n_all, 0);
    assert_int_equal(stats_of(&s).steps, 0);
    server_close(&s);
    open_tight(&s, 66, NULL);
    assert_int_equal(run(&s, at_length(&s, SHORT, 1800)).n_all, 1800);
    server_close(&s);
}

/* 60 pages, and at a cut those for an epoch's cores, whatever the ratio that nothing is compressed
 * by. */
static void an_output_that_stays_exact_is_counted_so(void **state)
{
    struct server s;
    (void)state;
    open_tight(&s, 59, NULL);
    struct sc_request_opts o = at_length(&s, SHORT, 1800);
    o.recipe.compress_generated = false;
    o.recipe.generated_ratio = 0.1f;
    assert_int_equal(ended(&s, o).status, SC_EFULL);
    assert_int_equal(stats_of(&s).steps, 0);
    server_close(&s);
    open_tight(&s, 74, NULL);
    assert_int_equal(run(&s, o).n_all, 1800);
    server_close(&s);
}

/* With the cores of an epoch it is 63 pages, exact it is 57. */
static void a_limit_that_is_let_in_exact_is_let_in_compressed(void **state)
{
    struct server s;
    (void)state;
    open_tight(&s, 57, NULL);
    const int32_t stop = run(&s, at_length(&s, SHORT, 2)).tokens[1].token;
    struct sc_request_opts o = at_length(&s, SHORT, 1700);
    o.stop_ids = &stop;
    o.n_stop_ids = 1;
    assert_true(run(&s, o).n_all <= 2);
    server_close(&s);
}

/* 57 pages each, and at a cut 14 more. At target_ratio, which is for prompts, 48. */
static void of_two_with_long_outputs_neither_pushes_the_other_out(void **state)
{
    static struct answer a[2];
    struct server s;
    (void)state;
    open_tight(&s, 96, NULL);
    pthread_mutex_lock(&s.gate);
    for (uint32_t i = 0; i < 2; i++) {
        struct sc_request_opts o = at_length(&s, SHORT + i, 1700);
        o.recipe.compress_generated = false;
        submit(&s, o, &a[i]);
    }
    pthread_mutex_unlock(&s.gate);
    for (uint32_t i = 0; i < 2; i++) {
        wait_done(&a[i]);
        assert_int_equal(a[i].status, SC_OK);
        assert_int_equal(a[i].receipt.preemptions, 0);
    }
    server_close(&s);
}

/* ---- little merges ---- */

/* 54 pages exact, 48 by its ratio. With fewer than 14 to spare at a cut its epochs are compressed
 * piece by piece: the answer is the same. */
static void a_prompt_that_fits_exact_is_read_though_little_of_it_merges(void **state)
{
    static const uint32_t pages[] = {0, 58};
    static struct answer a[2];
    (void)state;
    for (uint32_t sharing = 0; sharing < 2; sharing++) {
        for (uint32_t i = 0; i < 2; i++) {
            struct server s;
            struct sc_engine_info info;
            server_open(&s, 1, sharing != 0, 0, NULL);
            sc_engine_get_info(s.rig.engine, &info);
            uint64_t bytes = info.page_bytes * s.rig.model->config.n_layers * pages[i];
            server_close(&s);
            server_open(&s, 1, sharing != 0, bytes, NULL);
            struct sc_request_opts o = at_length(&s, LATE_LONG, N_OUTPUT);
            o.recipe.similarity_threshold = 0.999f;
            a[i] = run(&s, o);
            assert_true((double)a[i].receipt.kv.cores >
                        0.8 * (double)a[i].receipt.kv.compressed_tokens);
            server_close(&s);
        }
        assert_same(&a[0], &a[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_too_long_to_be_compressed_at_its_end_is_refused_unread),
        cmocka_unit_test(a_prompt_that_fits_but_for_the_page_after_it_is_refused_unread),
        cmocka_unit_test(of_two_that_compress_at_their_end_neither_pushes_the_other_out),
        cmocka_unit_test(a_prompt_too_short_to_be_compressed_needs_no_room_for_cores),
        cmocka_unit_test(an_answer_of_one_token_needs_no_room_for_cores),
        cmocka_unit_test(a_long_output_needs_no_room_for_being_exact),
        cmocka_unit_test(others_come_in_when_the_prompt_has_been_compressed),
        cmocka_unit_test(others_come_in_when_what_was_put_off_has_been_compressed),
        cmocka_unit_test(an_output_too_long_for_the_pool_is_refused_at_once),
        cmocka_unit_test(an_output_that_stays_exact_is_counted_so),
        cmocka_unit_test(a_limit_that_is_let_in_exact_is_let_in_compressed),
        cmocka_unit_test(of_two_with_long_outputs_neither_pushes_the_other_out),
        cmocka_unit_test(a_prompt_that_fits_exact_is_read_though_little_of_it_merges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
