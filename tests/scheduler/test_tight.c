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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_load_that_pins_leave_no_room_for_is_not_begun),
        cmocka_unit_test(a_load_finds_room_beside_a_pin_that_is_in_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
