/* Events of the cache: who follows them knows exactly which blocks are held, through evictions,
 * preemptions, flushes and from the middle; namespaces stay apart; nobody waits for a reader. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "scheduler/prefix.h"
#include "tests/scheduler/sharing_rig.h"

#define BLOCKS_MAX 512u

static const struct sc_kv_view everything = {.all = true};

/* What a follower knows. */
struct mirror {
    struct sc_kv_event blocks[BLOCKS_MAX];
    uint32_t n, n_stored, n_removed;
    uint64_t at;
    bool strict; /* what is stored is new, what is removed was known, no number is left out */
};

static uint32_t find(const struct mirror *m, const struct sc_hash *key)
{
    uint32_t i = 0;
    while (i < m->n && !sc_hash_equal(&m->blocks[i].key, key))
        i++;
    return i;
}

static void apply(struct mirror *m, const struct sc_kv_event *e)
{
    uint32_t i = find(m, &e->key);
    if (e->kind == SC_KV_CLEARED) {
        m->n = 0;
    } else if (e->kind == SC_KV_STORED) {
        assert_true(!m->strict || i == m->n);
        assert_true(e->n_tokens > 0 && e->n_tokens <= SC_PREFIX_BLOCK);
        assert_true(m->n < BLOCKS_MAX);
        m->blocks[i] = *e;
        m->n += i == m->n;
        m->n_stored++;
    } else {
        assert_true(!m->strict || i < m->n);
        if (i < m->n) {
            assert_int_equal(m->blocks[i].n_tokens, e->n_tokens);
            assert_string_equal(m->blocks[i].ns, e->ns);
            assert_true(sc_hash_equal(&m->blocks[i].parent, &e->parent));
            m->blocks[i] = m->blocks[--m->n];
        }
        m->n_removed++;
    }
}

static void follow(struct server *s, const struct sc_kv_view *view, struct mirror *m)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_kv_event e[7];
    uint32_t n;
    do {
        must(sc_kv_log_read(sc_sched_kv_log(s->sched), view, &m->at, e, 7, &n, &err), &err);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(sc_kv_view_shows(view, e[i].kind, e[i].ns));
            if (m->strict && view->all && m->n_stored > 0)
                assert_int_equal(e[i].sequence, m->at - n + i);
            apply(m, &e[i]);
        }
    } while (n > 0);
}

static uint32_t list(struct server *s, const struct sc_kv_view *view, uint32_t piece,
                     struct sc_kv_event *blocks)
{
    struct sc_err err = SC_ERR_INIT;
    uint32_t at = 0, n = 0, got;
    while (at != UINT32_MAX) {
        assert_true(n + piece <= BLOCKS_MAX);
        must(sc_sched_kv_blocks(s->sched, view, &at, blocks + n, piece, &got, &err), &err);
        n += got;
    }
    return n;
}

/* Events and the tree tell the same: looked at while nothing comes. */
static void assert_mirrors(struct server *s, const struct sc_kv_view *view, struct mirror *m)
{
    static struct sc_kv_event blocks[BLOCKS_MAX];
    struct sc_kv_log *log = sc_sched_kv_log(s->sched);
    uint64_t before;
    uint32_t n;
    do {
        before = sc_kv_log_next(log);
        n = list(s, view, 64, blocks);
    } while (sc_kv_log_next(log) != before);
    follow(s, view, m);
    if (m->at != before) /* a keep that was still to come */
        n = list(s, view, 64, blocks);
    assert_int_equal(n, m->n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = find(m, &blocks[i].key);
        assert_true(k < m->n);
        assert_string_equal(m->blocks[k].ns, blocks[i].ns);
        assert_int_equal(m->blocks[k].start, blocks[i].start);
        assert_true(sc_hash_equal(&m->blocks[k].parent, &blocks[i].parent));
        assert_true(sc_hash_equal(&m->blocks[k].recipe_id, &blocks[i].recipe_id));
    }
}

static void wait_quiet(struct server *s)
{
    struct sc_sched_stats stats;
    uint64_t seen;
    do { /* what was kept at a request's end is kept with the next step */
        seen = sc_kv_log_next(sc_sched_kv_log(s->sched));
        usleep(3000);
        sc_sched_get_stats(s->sched, &stats);
    } while (stats.running + stats.waiting > 0 ||
             sc_kv_log_next(sc_sched_kv_log(s->sched)) != seen);
}

#define CROWD 12u

static void crowd(struct server *s, uint32_t round, struct answer *a)
{
    static int32_t ids[CROWD][1100];
    for (uint32_t k = 0; k < CROWD; k++) {
        uint64_t x = sc_mix64(round * 100 + k);
        uint32_t n = 100 + (uint32_t)(x % 1000);
        prompt_of(ids[k], n, s->rig.model->config.vocab, (x >> 20) % 4, (x >> 30) % 1100, k);
        struct sc_request_opts o =
            ask(s, ids[k], n, k % 3 == 0 ? SC_KV_CHOICE_EXACT : SC_KV_CHOICE_COMPRESSED);
        o.ns = k % 2 == 0 ? "x" : "y";
        submit(s, o, &a[k]);
    }
}

static uint64_t small_pool(void)
{
    struct sc_engine_info info;
    struct server s;
    server_open(&s, 1, true, 0, NULL);
    sc_engine_get_info(s.rig.engine, &info);
    uint64_t bytes = info.page_bytes * s.rig.model->config.n_layers * 90;
    server_close(&s);
    return bytes;
}

static void events_mirror_the_cache_through_evictions_and_flushes(void **state)
{
    static struct mirror m, x;
    const struct sc_kv_view only_x = {.ns = "x"};
    struct sc_err err = SC_ERR_INIT;
    struct answer a[CROWD];
    struct server s;
    uint64_t pages;
    (void)state;
    server_open(&s, 1, true, small_pool(), NULL);
    m = (struct mirror){.strict = true, .at = sc_kv_log_next(sc_sched_kv_log(s.sched))};
    x = m;
    for (uint32_t round = 0; round < 5; round++) {
        crowd(&s, round, a);
        for (uint32_t k = 0; k < CROWD; k++)
            wait_done(&a[k]);
        wait_quiet(&s);
        assert_mirrors(&s, &everything, &m);
        assert_mirrors(&s, &only_x, &x);
        assert_true(m.n > 0 && x.n <= m.n);
        if (round == 2) {
            must(sc_sched_flush(s.sched, &pages, &err), &err);
            assert_mirrors(&s, &everything, &m);
            assert_int_equal(m.n, 0);
        }
    }
    assert_true(m.n_removed > 20 && x.n_stored > 0 && x.n_stored < m.n_stored);
    assert_int_equal(m.at, sc_kv_log_next(sc_sched_kv_log(s.sched)));
    server_close(&s);
}

/* A reader on its own thread, which begins while requests run: first what is there, in pieces, then
 * the events since. */
struct late {
    struct server *s;
    struct mirror m;
    volatile bool *over;
};

static void *late_reader(void *arg)
{
    struct late *l = arg;
    static struct sc_kv_event blocks[BLOCKS_MAX];
    l->m.at = sc_kv_log_next(sc_sched_kv_log(l->s->sched));
    uint32_t n = list(l->s, &everything, 3, blocks);
    for (uint32_t i = 0; i < n; i++)
        apply(&l->m, &blocks[i]);
    while (!__atomic_load_n(l->over, __ATOMIC_ACQUIRE)) {
        follow(l->s, &everything, &l->m);
        usleep(1000);
    }
    return NULL;
}

static void a_reader_that_begins_in_the_middle_knows_as_much(void **state)
{
    static struct late late;
    struct answer a[CROWD], b[CROWD];
    volatile bool over = false;
    pthread_t thread;
    struct server s;
    (void)state;
    server_open(&s, 1, true, small_pool(), NULL);
    late = (struct late){.s = &s, .over = &over};
    crowd(&s, 70, a);
    for (uint32_t k = 0; k < CROWD; k++)
        wait_done(&a[k]);
    crowd(&s, 71, b);
    wait_done(&b[0]);
    assert_int_equal(pthread_create(&thread, NULL, late_reader, &late), 0);
    for (uint32_t k = 1; k < CROWD; k++)
        wait_done(&b[k]);
    wait_quiet(&s);
    __atomic_store_n(&over, true, __ATOMIC_RELEASE);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_mirrors(&s, &everything, &late.m);
    assert_true(late.m.n > 0);
    server_close(&s);
}

/* What a router computes itself: docs/sharing.md, "Events". */
static void block_keys_are_those_of_the_prompt(void **state)
{
    static struct mirror m;
    int32_t ids[700];
    struct server s;
    (void)state;
    server_open(&s, 1, true, 0, NULL);
    m = (struct mirror){.strict = true, .at = sc_kv_log_next(sc_sched_kv_log(s.sched))};
    prompt_of(ids, 700, s.rig.model->config.vocab, 1, 700, 0);
    struct sc_request_opts o = ask(&s, ids, 700, SC_KV_CHOICE_COMPRESSED);
    o.ns = "router";
    struct answer a = run(&s, o);
    wait_quiet(&s);
    follow(&s, &everything, &m);
    const struct sc_prefix_root root = sc_prefix_root(
        &s.rig.model->fingerprint, &a.receipt.recipe_id, "router", &o.recipe, o.n_prompt);
    uint32_t start = 0;
    struct sc_hash parent = root.key;
    while (start < 700) {
        uint32_t end = sc_prefix_boundary(&root, start);
        end = end < 700 ? end : 700;
        struct sc_hash key = sc_prefix_key(&root, ids, end);
        uint32_t i = find(&m, &key);
        assert_true(i < m.n);
        assert_int_equal(m.blocks[i].start, start);
        assert_int_equal(m.blocks[i].n_tokens, end - start);
        assert_true(sc_hash_equal(&m.blocks[i].parent, &parent));
        assert_true(sc_hash_equal(&m.blocks[i].recipe_id, &a.receipt.recipe_id));
        assert_string_equal(m.blocks[i].ns, "router");
        parent = key;
        start = end;
    }
    server_close(&s);
}

/* ---- the log alone ---- */

static void a_reader_that_was_overrun_is_told(void **state)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_kv_event e = {.kind = SC_KV_STORED, .ns = "a"}, got[4];
    struct sc_kv_log *log;
    uint64_t at = 100;
    uint32_t n = 9;
    (void)state;
    must(sc_kv_log_open(100, &log, &err), &err);
    must(sc_kv_log_read(log, &everything, &at, got, 4, &n, &err), &err);
    assert_int_equal(n, 0);
    for (uint32_t i = 0; i < SC_KV_LOG_EVENTS; i++)
        sc_kv_log_add(log, &e);
    must(sc_kv_log_read(log, &everything, &at, got, 4, &n, &err), &err); /* just in time */
    assert_int_equal(n, 4);
    assert_int_equal(got[0].sequence, 100);
    assert_int_equal(at, 104);
    for (uint32_t i = 0; i < 5; i++)
        sc_kv_log_add(log, &e);
    assert_int_equal(sc_kv_log_read(log, &everything, &at, got, 4, &n, &err), SC_ERANGE);
    assert_int_equal(at, 104);
    const uint64_t never[] = {0, 99, 104, sc_kv_log_next(log) + 1, UINT64_MAX};
    for (size_t i = 0; i < SC_ARRAY_LEN(never); i++) {
        at = never[i];
        sc_err_clear(&err);
        assert_int_equal(sc_kv_log_read(log, &everything, &at, got, 4, &n, &err), SC_ERANGE);
        assert_non_null(strstr(err.text, "held are 105..16488"));
    }
    sc_kv_log_close(log);
}

static void a_view_shows_its_own_the_shared_and_what_was_cleared(void **state)
{
    const char *names[] = {"a", "b", "common", "ab"};
    const struct sc_kv_view view = {.ns = "a", .shared_ns = "common"}, nobody = {.ns = "z"};
    struct sc_err err = SC_ERR_INIT;
    struct sc_kv_event got[8];
    struct sc_kv_log *log;
    uint64_t at = 1;
    uint32_t n;
    (void)state;
    must(sc_kv_log_open(1, &log, &err), &err);
    for (uint32_t i = 0; i < 2000; i++) {
        struct sc_kv_event e = {.kind = i == 1999 ? SC_KV_CLEARED : SC_KV_STORED};
        (void)strcpy(e.ns, i == 1999 ? "" : i < 4 ? names[i] : "b");
        sc_kv_log_add(log, &e);
    }
    must(sc_kv_log_read(log, &view, &at, got, 8, &n, &err), &err);
    assert_int_equal(n, 3);
    assert_string_equal(got[0].ns, "a");
    assert_string_equal(got[1].ns, "common");
    assert_int_equal(got[2].kind, SC_KV_CLEARED);
    assert_int_equal(at, 2001);
    at = 1;
    must(sc_kv_log_read(log, &nobody, &at, got, 8, &n, &err), &err);
    assert_int_equal(n, 1);
    sc_kv_log_close(log);
}

static void a_reset_is_one_event(void **state)
{
    const struct sc_hash none = {{0}};
    const struct sc_recipe exact = {.mode = SC_KV_EXACT};
    struct sc_err err = SC_ERR_INIT;
    struct sc_kv_event got[8];
    struct sc_prefix *p;
    struct sc_kv_log *log;
    int32_t ids[600] = {0};
    uint64_t at = 1;
    uint32_t n, snap;
    (void)state;
    must(sc_kv_log_open(1, &log, &err), &err);
    must(sc_prefix_open(4, 16, log, &p, &err), &err);
    const struct sc_prefix_root root = sc_prefix_root(&none, &none, "a", &exact, 600);
    for (uint32_t i = 0; i < 3; i++) {
        ids[599] = (int32_t)i;
        uint32_t node = sc_prefix_hold(p, &root, ids, 600, 1);
        assert_true(sc_prefix_snap_take(p, node, &snap));
        if (i < 2) /* the third is not there yet: nobody was told of it */
            sc_prefix_snap_live(p, node, 1, 1, 1);
        sc_prefix_unhold(p, node);
    }
    sc_prefix_reset(p);
    must(sc_kv_log_read(log, &everything, &at, got, 8, &n, &err), &err);
    assert_int_equal(n, 3);
    assert_int_equal(got[1].kind, SC_KV_STORED);
    assert_int_equal(got[2].kind, SC_KV_CLEARED);
    sc_prefix_close(p);
    sc_kv_log_close(log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_mirror_the_cache_through_evictions_and_flushes),
        cmocka_unit_test(a_reader_that_begins_in_the_middle_knows_as_much),
        cmocka_unit_test(block_keys_are_those_of_the_prompt),
        cmocka_unit_test(a_reader_that_was_overrun_is_told),
        cmocka_unit_test(a_view_shows_its_own_the_shared_and_what_was_cleared),
        cmocka_unit_test(a_reset_is_one_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
