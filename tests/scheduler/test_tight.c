/* A pool that holds little more than what runs: who is let in, who waits, what is refused, and what
 * is dropped for it. Pools are given in pages of each layer: 32 exact tokens a page. */
#include <string.h>
#include <unistd.h>

#include "tests/scheduler/sharing_rig.h"

/* ---- a load from the store ---- */

#define DOC  1536u /* 48 pages, in the store */
#define HEAD 1024u /* of them, 32 pages, what somebody reads behind */

struct scene {
    struct server s;
    struct sc_store *store;
    int32_t doc[DOC + 60], head[HEAD + 16], other[480], idle[600];
    struct answer elder, question;
};

static void wait_stored(struct sc_store *store, const struct sc_hash *key)
{
    for (int i = 0; i < 5000 && !sc_store_has(store, key); i++)
        usleep(2000);
    assert_true(sc_store_has(store, key));
}

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
    wait_stored(c->store, &key);
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

/* Twelve documents of three pages wait to be written out, which takes two steps each, and a prompt
 * of 28 pages would need theirs after a few. It waits for the store. */
static void a_lone_request_waits_for_documents_that_are_being_written_out(void **state)
{
    enum { DOCS = 12, DOC_TOKENS = 96 };
    static struct answer puts[DOCS], question;
    const struct sc_store_opts opts = {.memory_bytes = (uint64_t)1 << 30};
    static int32_t docs[DOCS][DOC_TOKENS], ids[890];
    struct sc_err err = SC_ERR_INIT;
    struct sc_store *store;
    struct server s;
    (void)state;
    must(sc_store_open(&opts, &store, &err), &err);
    open_tight(&s, 40, store);
    const uint32_t vocab = s.rig.model->config.vocab;
    prompt_of(ids, 890, vocab, 90, 890, 0);
    pthread_mutex_lock(&s.gate);
    for (uint32_t i = 0; i < DOCS; i++) {
        prompt_of(docs[i], DOC_TOKENS, vocab, 10 + i, DOC_TOKENS, 0);
        struct sc_request_opts o = ask(&s, docs[i], DOC_TOKENS, SC_KV_CHOICE_EXACT);
        o.prefill_only = o.retain = true;
        o.max_tokens = 0;
        o.breakpoint = DOC_TOKENS;
        submit(&s, o, &puts[i]);
    }
    struct sc_request_opts o = ask(&s, ids, 880, SC_KV_CHOICE_EXACT);
    o.priority = -1; /* behind them */
    submit(&s, o, &question);
    pthread_mutex_unlock(&s.gate);
    wait_done(&question);
    assert_int_equal(question.status, SC_OK);
    for (uint32_t i = 0; i < DOCS; i++) {
        wait_done(&puts[i]);
        assert_int_equal(puts[i].status, SC_OK);
        wait_stored(store, &puts[i].key);
    }
    server_close(&s);
    sc_store_close(store);
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

/* Two pinned documents behind one head, 40 pages together, and 30 that are idle: somebody reads
 * behind one of them, or nobody does. */
static void what_is_cached_is_told_without_what_pins_hold_once(void **state)
{
    static struct answer reader;
    struct server s;
    int32_t docs[2][HEAD + 144], idle[960];
    struct sc_hash pinned[2];
    (void)state;
    open_tight(&s, 40 + 30 + 40, NULL);
    const uint32_t vocab = s.rig.model->config.vocab, n_layers = s.rig.model->config.n_layers;
    prompt_of(idle, 960, vocab, 5, 960, 0);
    (void)put_as(&s, idle, 960, 0, SC_KV_CHOICE_EXACT);
    for (uint32_t i = 0; i < 2; i++) {
        prompt_of(docs[i], HEAD + 144, vocab, 1, HEAD, 2 + i);
        pinned[i] = put_as(&s, docs[i], HEAD + 128, UINT64_MAX, SC_KV_CHOICE_EXACT);
    }
    assert_int_equal(order(&s, SC_PREFIX_PIN, &pinned[1]).status, SC_OK); /* it is kept by now */
    assert_int_equal(stats_of(&s).pages_cached, 30 * n_layers);
    struct sc_request_opts o = ask(&s, docs[0], HEAD + 144, SC_KV_CHOICE_EXACT);
    o.max_tokens = 700;
    submit(&s, o, &reader);
    wait_tokens(&reader, 2);
    assert_int_equal(stats_of(&s).pages_cached, 30 * n_layers);
    sc_sched_cancel(s.sched, reader.request);
    wait_done(&reader);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(order(&s, SC_PREFIX_UNPIN, &pinned[i]).status, SC_OK);
    assert_true(stats_of(&s).pages_cached >= (30 + 40) * n_layers);
    server_close(&s);
}

/* Documents that begin alike: 56 pages together, 40 each; a pool of 125, of which 100 may be
 * pinned. */
static void pins_that_share_pages_are_counted_once(void **state)
{
    static int32_t docs[3][1280];
    struct sc_hash keys[3];
    struct server s;
    (void)state;
    open_tight(&s, 125, NULL);
    uint32_t vocab = s.rig.model->config.vocab;
    prompt_of(docs[0], 1280, vocab, 1, 1024, 2);
    prompt_of(docs[1], 1280, vocab, 1, 1024, 3);
    prompt_of(docs[2], 1280, vocab, 1, 1024, 4);
    for (uint32_t i = 0; i < 3; i++) {
        keys[i] = put_as(&s, docs[i], 1280, 0, SC_KV_CHOICE_EXACT);
        assert_int_equal(order(&s, SC_PREFIX_PIN, &keys[i]).status, SC_OK);
    }
    static int32_t other[1600];
    prompt_of(other, 1600, vocab, 9, 1600, 0); /* 50 pages beside 56 */
    struct sc_hash key = put_as(&s, other, 1600, 0, SC_KV_CHOICE_EXACT);
    assert_int_equal(order(&s, SC_PREFIX_PIN, &key).status, SC_EFULL);
    assert_int_equal(order(&s, SC_PREFIX_UNPIN, &keys[2]).status, SC_OK);
    assert_int_equal(order(&s, SC_PREFIX_PIN, &key).status, SC_OK); /* 98 */
    assert_int_equal(order(&s, SC_PREFIX_PIN, &keys[2]).status, SC_EFULL);
    assert_int_equal(order(&s, SC_PREFIX_PIN, &key).status, SC_OK); /* again */
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(order(&s, SC_PREFIX_UNPIN, &keys[i]).status, SC_OK);
    assert_int_equal(order(&s, SC_PREFIX_UNPIN, &key).status, SC_OK);
    server_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pins_that_share_pages_are_counted_once),
        cmocka_unit_test(what_is_cached_is_told_without_what_pins_hold_once),
        cmocka_unit_test(a_load_that_pins_leave_no_room_for_is_not_begun),
        cmocka_unit_test(a_load_finds_room_beside_a_pin_that_is_in_use),
        cmocka_unit_test(a_lone_request_waits_for_documents_that_are_being_written_out),
        cmocka_unit_test(what_is_idle_beside_a_pin_in_use_lets_others_in),
        cmocka_unit_test(who_waits_comes_in_when_a_pin_has_come_into_use),
        cmocka_unit_test(who_waits_comes_in_when_a_prefix_becomes_idle_beside_a_pin_in_use),
        cmocka_unit_test(what_two_pins_share_is_counted_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
