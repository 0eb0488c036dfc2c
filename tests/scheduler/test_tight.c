/* A pool that holds little more than what runs: who is let in, who waits, what is refused, and what
 * is dropped for it. Pools are given in pages of each layer: 32 exact tokens a page. */
#include <string.h>
#include <unistd.h>

#include "tests/scheduler/sharing_rig.h"

static void open_tight(struct server *s, uint32_t pages, struct sc_store *store)
{
    struct sc_engine_info info;
    server_open(s, 1, true, 0, NULL);
    sc_engine_get_info(s->rig.engine, &info);
    uint64_t bytes = info.page_bytes * s->rig.model->config.n_layers * pages;
    server_close(s);
    server_open(s, 1, true, bytes, store);
}

/* Waits until it has been told of n tokens. */
static void wait_tokens(struct answer *a, uint32_t n)
{
    pthread_mutex_lock(&a->mu);
    while (a->n_all < n && !a->done)
        pthread_cond_wait(&a->changed, &a->mu);
    assert_false(a->done);
    pthread_mutex_unlock(&a->mu);
}

static bool is_done(struct answer *a)
{
    pthread_mutex_lock(&a->mu);
    bool done = a->done;
    pthread_mutex_unlock(&a->mu);
    return done;
}

/* ---- a load from the store ---- */

#define DOC  1536u /* 48 pages, in the store */
#define HEAD 1024u /* of them, 32 pages, what somebody reads behind */

struct scene {
    struct server s;
    struct sc_store *store;
    int32_t doc[DOC + 60], head[HEAD + 16], other[480], idle[600];
    struct answer elder, question;
};

static void open_scene(struct scene *c, uint32_t pages)
{
    const struct sc_store_opts opts = {.memory_bytes = (uint64_t)1 << 30};
    struct sc_err err = SC_ERR_INIT;
    must(sc_store_open(&opts, &c->store, &err), &err);
    server_open(&c->s, 1, true, 0, c->store);
    uint32_t vocab = c->s.rig.model->config.vocab;
    prompt_of(c->doc, DOC + 60, vocab, 1, DOC, 2);
    prompt_of(c->head, HEAD + 16, vocab, 1, HEAD, 3);
    prompt_of(c->other, 480, vocab, 4, 480, 0);
    prompt_of(c->idle, 600, vocab, 5, 600, 0);
    struct sc_hash key = put_as(&c->s, c->doc, DOC, 0, SC_KV_CHOICE_EXACT);
    for (int i = 0; i < 5000 && !sc_store_has(c->store, &key); i++)
        usleep(2000);
    assert_true(sc_store_has(c->store, &key));
    server_close(&c->s);
    open_tight(&c->s, pages, c->store);
}

/* Somebody decodes behind the document's head: holds 33 pages, and 22 more in the end. Then comes a
 * question on the whole document, 51 pages, and is answered first. */
static void ask_behind_the_elder(struct scene *c)
{
    struct sc_request_opts o = ask(&c->s, c->head, HEAD + 16, SC_KV_CHOICE_EXACT);
    o.max_tokens = 700;
    submit(&c->s, o, &c->elder);
    wait_tokens(&c->elder, 1);
    o = ask(&c->s, c->doc, DOC + 60, SC_KV_CHOICE_EXACT);
    o.breakpoint = DOC;
    submit(&c->s, o, &c->question);
    wait_done(&c->question);
    assert_int_equal(c->question.status, SC_OK);
    assert_false(is_done(&c->elder));
}

static void close_scene(struct scene *c, const struct sc_hash *pinned)
{
    sc_sched_cancel(c->s.sched, c->elder.request);
    wait_done(&c->elder);
    assert_int_equal(order(&c->s, SC_PREFIX_UNPIN, pinned).status, SC_OK);
    server_close(&c->s);
    sc_store_close(c->store);
}

/* The question reads the rest behind the head, at once. It neither waits for the other's end, nor
 * is a prefix dropped for a load that cannot be. */
static void a_load_that_pins_leave_no_room_for_is_not_begun(void **state)
{
    static struct scene c;
    (void)state;
    open_scene(&c, 33 + 15 + 6 + 39);
    struct sc_hash pinned = put_as(&c.s, c.other, 480, UINT64_MAX, SC_KV_CHOICE_EXACT);
    (void)run(&c.s, ask(&c.s, c.idle, 160, SC_KV_CHOICE_EXACT));
    ask_behind_the_elder(&c);
    assert_int_equal(c.question.receipt.cached_tokens, HEAD);
    assert_int_equal(stats_of(&c.s).store_hits, 0);
    assert_int_equal(stats_of(&c.s).store_misses, 1);
    assert_int_equal(stats_of(&c.s).prefix_evictions, 0);
    close_scene(&c, &pinned);
}

/* What is pinned and in use takes nothing from what idle prefixes hold. */
static void a_load_finds_room_beside_a_pin_that_is_in_use(void **state)
{
    static struct scene c;
    (void)state;
    open_scene(&c, 33 + 20 + 43);
    struct sc_hash pinned = put_as(&c.s, c.head, HEAD, UINT64_MAX, SC_KV_CHOICE_EXACT);
    (void)run(&c.s, ask(&c.s, c.idle, 600, SC_KV_CHOICE_EXACT));
    ask_behind_the_elder(&c);
    assert_int_equal(c.question.receipt.cached_tokens, DOC);
    assert_int_equal(stats_of(&c.s).store_hits, 1);
    assert_true(stats_of(&c.s).prefix_evictions > 0);
    close_scene(&c, &pinned);
}

/* ---- beside a pin in use ---- */

#define IDLE 640u /* 20 pages */

struct beside {
    struct server s;
    int32_t head[HEAD + 16], idle[IDLE], third[600], small[64];
    struct sc_hash pinned;
    struct answer elder, other, question;
};

/* A pinned document, 32 pages, with what is not pinned and nobody uses: n_idle tokens. */
static void open_beside(struct beside *c, uint32_t pages, uint32_t n_idle)
{
    open_tight(&c->s, pages, NULL);
    uint32_t vocab = c->s.rig.model->config.vocab;
    prompt_of(c->head, HEAD + 16, vocab, 1, HEAD, 3);
    prompt_of(c->idle, IDLE, vocab, 5, IDLE, 0);
    prompt_of(c->third, 600, vocab, 6, 600, 0);
    prompt_of(c->small, 64, vocab, 7, 64, 0);
    c->pinned = put_as(&c->s, c->head, HEAD, UINT64_MAX, SC_KV_CHOICE_EXACT);
    if (n_idle > 0)
        (void)put_as(&c->s, c->idle, n_idle, 0, SC_KV_CHOICE_EXACT);
    /* Answered when all that is to be kept is there. */
    assert_int_equal(order(&c->s, SC_PREFIX_PIN, &c->pinned).status, SC_OK);
}

/* Reads behind the document: 33 pages of which 32 are pinned, and 22 more in the end. */
static struct sc_request_opts behind(struct beside *c)
{
    struct sc_request_opts o = ask(&c->s, c->head, HEAD + 16, SC_KV_CHOICE_EXACT);
    o.max_tokens = 700;
    return o;
}

/* 3 pages. */
static struct sc_request_opts small(struct beside *c)
{
    return ask(&c->s, c->small, 64, SC_KV_CHOICE_EXACT);
}

/* The question is answered while the elder is at it. */
static void close_beside(struct beside *c)
{
    wait_done(&c->question);
    assert_int_equal(c->question.status, SC_OK);
    sc_sched_cancel(c->s.sched, c->elder.request);
    wait_done(&c->elder);
    assert_true(c->question.rank < c->elder.rank);
    assert_int_equal(order(&c->s, SC_PREFIX_UNPIN, &c->pinned).status, SC_OK);
    server_close(&c->s);
}

static void what_is_idle_beside_a_pin_in_use_lets_others_in(void **state)
{
    static struct beside c;
    (void)state;
    open_beside(&c, 33 + 22 + 20 + 2, IDLE);
    submit(&c.s, behind(&c), &c.elder);
    wait_tokens(&c.elder, 1);
    submit(&c.s, small(&c), &c.question);
    close_beside(&c);
}

/* Both wait for another's end, and the elder is let in: what it will share is in nobody's use as
 * yet, and counts as its own. */
static void who_waits_comes_in_when_a_pin_has_come_into_use(void **state)
{
    static struct beside c;
    (void)state;
    open_beside(&c, 33 + 22 + 20 + 3 + 2, IDLE);
    pthread_mutex_lock(&c.s.gate); /* the other cannot end before they are there */
    submit(&c.s, ask(&c.s, c.third, 64, SC_KV_CHOICE_EXACT), &c.other);
    submit(&c.s, behind(&c), &c.elder);
    submit(&c.s, small(&c), &c.question);
    pthread_mutex_unlock(&c.s.gate);
    wait_done(&c.other);
    close_beside(&c);
}

/* What the other leaves is kept, and less than what is pinned and in use: idle all the same. */
static void who_waits_comes_in_when_a_prefix_becomes_idle_beside_a_pin_in_use(void **state)
{
    static struct beside c;
    (void)state;
    open_beside(&c, 33 + 22 + 21 + 2, 0);
    submit(&c.s, behind(&c), &c.elder);
    wait_tokens(&c.elder, 1);
    struct sc_request_opts o = ask(&c.s, c.third, 600, SC_KV_CHOICE_EXACT);
    o.max_tokens = 72;
    submit(&c.s, o, &c.other);
    wait_tokens(&c.other, 1);
    submit(&c.s, small(&c), &c.question);
    wait_done(&c.other);
    close_beside(&c);
    assert_true(c.other.rank < c.question.rank);
}

/* Two documents behind one head: 40 pages, of which 32 would be counted twice. Beside them 30 that
 * are idle, 21 for who runs, and 2: the small one needs one of the idle ones. */
static void what_two_pins_share_is_counted_once(void **state)
{
    static struct answer elder, question;
    struct server s;
    int32_t docs[2][HEAD + 128], idle[960], third[64], one[64];
    struct sc_hash pinned[2];
    (void)state;
    open_tight(&s, 32 + 2 * 4 + 30 + 21 + 2, NULL);
    uint32_t vocab = s.rig.model->config.vocab;
    for (uint32_t i = 0; i < 2; i++) {
        prompt_of(docs[i], HEAD + 128, vocab, 1, HEAD, 2 + i);
        pinned[i] = put_as(&s, docs[i], HEAD + 128, UINT64_MAX, SC_KV_CHOICE_EXACT);
    }
    prompt_of(idle, 960, vocab, 5, 960, 0);
    prompt_of(third, 64, vocab, 6, 64, 0);
    prompt_of(one, 64, vocab, 7, 64, 0);
    (void)put_as(&s, idle, 960, 0, SC_KV_CHOICE_EXACT);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(order(&s, SC_PREFIX_PIN, &pinned[i]).status, SC_OK);
    struct sc_request_opts o = ask(&s, third, 64, SC_KV_CHOICE_EXACT);
    o.max_tokens = 600;
    submit(&s, o, &elder);
    wait_tokens(&elder, 1);
    submit(&s, ask(&s, one, 64, SC_KV_CHOICE_EXACT), &question);
    wait_done(&question);
    assert_int_equal(question.status, SC_OK);
    assert_false(is_done(&elder));
    sc_sched_cancel(s.sched, elder.request);
    wait_done(&elder);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(order(&s, SC_PREFIX_UNPIN, &pinned[i]).status, SC_OK);
    server_close(&s);
}

/* ---- compressed when the prompt has been read ---- */

#define LATE     1000u /* 32 pages, and 64 for the cores of its 6 epochs should none of it merge */
#define LATE_MAX 1800u

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

/* Its cores are never made: no token is read behind the prompt. */
static void a_prompt_too_short_to_be_compressed_needs_no_room_for_cores(void **state)
{
    struct server s;
    (void)state;
    open_tight(&s, 8, NULL); /* the prompt takes 5 */
    struct sc_request_opts o = late(&s, 140, 0);
    o.max_tokens = 4;
    assert_int_equal(run(&s, o).n_all, 4);
    server_close(&s);
}

static void an_answer_of_one_token_needs_no_room_for_cores(void **state)
{
    struct server s;
    (void)state;
    open_tight(&s, 40, NULL);
    struct sc_request_opts o = late(&s, LATE, 0);
    o.max_tokens = 1;
    assert_int_equal(run(&s, o).n_all, 1);
    server_close(&s);
}

/* What is generated is compressed as it comes. Exact it would be 60 pages, and 14 for cores. */
static void a_long_output_needs_no_room_for_being_exact(void **state)
{
    struct server s;
    (void)state;
    open_tight(&s, 70, NULL);
    struct sc_request_opts o = late(&s, 100, 0);
    o.max_tokens = 1800;
    assert_int_equal(run(&s, o).n_all, 1800);
    server_close(&s);
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

/* The elder's prompt holds 57 pages when it has to wait for a pin's end, and 51 are counted once it
 * is compressed. That leaves 141: the younger's prompt is counted with 138. */
static void others_come_in_when_what_was_put_off_has_been_compressed(void **state)
{
    static struct answer elder, younger;
    static int32_t doc[1280];
    struct server s;
    (void)state;
    open_tight(&s, 192, NULL);
    prompt_of(doc, 1280, s.rig.model->config.vocab, 1, 1280, 0);
    /* With an end that does not come: without one nobody waits for it. */
    struct sc_hash pinned = put_as(&s, doc, 1280, UINT64_MAX - 1, SC_KV_CHOICE_EXACT);
    struct sc_request_opts o = late(&s, LATE_MAX, 0);
    o.max_tokens = 150;
    submit(&s, o, &elder);
    for (int i = 0; i < 5000 && stats_of(&s).preempted == 0; i++)
        usleep(2000);
    pthread_mutex_lock(&s.gate); /* the younger is there before the elder has an end */
    assert_int_equal(order(&s, SC_PREFIX_UNPIN, &pinned).status, SC_OK);
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
    static int32_t ids[LATE];
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_load_that_pins_leave_no_room_for_is_not_begun),
        cmocka_unit_test(a_load_finds_room_beside_a_pin_that_is_in_use),
        cmocka_unit_test(what_is_idle_beside_a_pin_in_use_lets_others_in),
        cmocka_unit_test(who_waits_comes_in_when_a_pin_has_come_into_use),
        cmocka_unit_test(who_waits_comes_in_when_a_prefix_becomes_idle_beside_a_pin_in_use),
        cmocka_unit_test(what_two_pins_share_is_counted_once),
        cmocka_unit_test(a_prompt_too_long_to_be_compressed_at_its_end_is_refused_unread),
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
