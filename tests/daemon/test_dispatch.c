#include "testing.h"

#include <pthread.h>

#include "daemon/dispatch.h"
#include "daemon/registry.h"

#define POSTERS 4
#define ROUNDS  20000

struct counter {
    struct sc_dispatch_item item;
    atomic_uint posted; /* events noted */
    unsigned seen;      /* dispatcher thread only: events taken */
    unsigned runs;
};

static void take(struct sc_dispatch_item *item)
{
    struct counter *c = (struct counter *)item;

    c->seen = atomic_load(&c->posted);
    c->runs++;
}

struct poster {
    struct sc_dispatch *dispatch;
    struct counter *counters;
    size_t n;
};

static void *post_many(void *arg)
{
    struct poster *p = arg;

    for (unsigned i = 0; i < ROUNDS; i++) {
        struct counter *c = &p->counters[i % p->n];
        (void)atomic_fetch_add(&c->posted, 1);
        (void)sc_dispatch_post(p->dispatch, &c->item);
    }
    return NULL;
}

static void no_event_is_lost_and_many_share_a_run(void **state)
{
    struct counter counters[8] = {0};
    struct poster poster = {.counters = counters, .n = SC_ARRAY_LEN(counters)};
    struct sc_err err = SC_ERR_INIT;
    pthread_t threads[POSTERS];

    (void)state;
    for (size_t i = 0; i < poster.n; i++)
        counters[i].item.run = take;
    assert_ok(sc_dispatch_open(&poster.dispatch, &err));
    for (int i = 0; i < POSTERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, post_many, &poster), 0);
    for (int i = 0; i < POSTERS; i++)
        (void)pthread_join(threads[i], NULL);
    sc_dispatch_close(poster.dispatch);
    for (size_t i = 0; i < poster.n; i++) {
        assert_int_equal(counters[i].seen, POSTERS * ROUNDS / poster.n);
        assert_in_range(counters[i].runs, 1, POSTERS * ROUNDS / poster.n);
    }
}

static void count(struct sc_registry_entry *entry, void *ctx)
{
    (void)entry;
    ++*(unsigned *)ctx;
}

static void an_id_is_taken_once_and_free_again_after(void **state)
{
    struct sc_registry r;
    struct sc_registry_entry a = {.id = "a", .ns = "x"}, b = {.id = "b", .ns = "x"},
                             again = {.id = "a", .ns = "x"}, other = {.id = "a", .ns = "y"};
    struct sc_err err = SC_ERR_INIT;
    unsigned n = 0;

    (void)state;
    sc_registry_init(&r);
    assert_ok(sc_registry_add(&r, &a, &err));
    assert_ok(sc_registry_add(&r, &b, &err));
    assert_int_equal(sc_registry_add(&r, &again, &err), SC_EEXIST);
    assert_text_has(err.text, "\"a\"");
    sc_registry_remove(&r, &again); /* not listed: nothing happens */
    assert_int_equal(sc_registry_each(&r, NULL, NULL, count, &n), 2);
    assert_int_equal(sc_registry_each(&r, "x", "b", count, &n), 1);
    assert_int_equal(sc_registry_each(&r, "x", "c", count, &n), 0);
    assert_int_equal(sc_registry_each(&r, "y", "b", count, &n), 0); /* another namespace */
    assert_ok(sc_registry_add(&r, &other, &err));
    assert_int_equal(sc_registry_each(&r, "x", "a", count, &n), 1);
    sc_registry_remove(&r, &other);
    assert_int_equal(n, 4);
    sc_registry_remove(&r, &a);
    sc_err_clear(&err);
    assert_ok(sc_registry_add(&r, &again, &err));
    sc_registry_remove(&r, &again);
    sc_registry_remove(&r, &b);
    sc_registry_fini(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_event_is_lost_and_many_share_a_run),
        cmocka_unit_test(an_id_is_taken_once_and_free_again_after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
