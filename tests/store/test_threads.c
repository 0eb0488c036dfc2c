/* Many threads on one store, the queue's limit, and what close does with what waits. */
#include "tests/store/rig.h"

#include <semaphore.h>
#include <stdatomic.h>

#define MANY      ((uint64_t)1 << 30)
#define N_THREADS 4u
#define N_ROUNDS  150u
#define N_KEYS    32u

/* A callback that holds the worker: what a callback must not do, and what makes the queue fill. */
struct gate {
    sem_t entered, leave;
};

static void hold(void *ctx, struct sc_blob *blob)
{
    struct gate *gate = ctx;

    sc_blob_unref(blob);
    sem_post(&gate->entered);
    sem_wait(&gate->leave);
}

static void close_gate(struct gate *gate, struct sc_store *s)
{
    struct sc_hash key = rig_key(77777);
    struct sc_store_label label = rig_label(0);

    sem_init(&gate->entered, 0, 0);
    sem_init(&gate->leave, 0, 0);
    assert_int_equal(sc_store_get(s, &key, &label, hold, gate, NULL), SC_OK);
    sem_wait(&gate->entered);
}

static void count_answer(void *ctx, struct sc_blob *blob)
{
    atomic_uint *n = ctx;

    atomic_fetch_add(&n[blob != NULL], 1);
    sc_blob_unref(blob);
}

static void full_queue_refuses_puts_and_gets_then_serves_again(void **state)
{
    struct rig *rig = *state;
    struct sc_store *s =
        rig_open(rig, (struct sc_store_opts){.dir = rig_path(rig, "d"), .dir_bytes = MANY});
    struct sc_store_label label = rig_label(0);
    struct sc_blob *blob = rig_blob(1, 10);
    struct sc_err err = SC_ERR_INIT;
    struct sc_hash key;
    struct gate gate;
    atomic_uint n[2] = {0};

    rig_put(s, 1, 10);
    sc_store_flush(s);
    close_gate(&gate, s);
    key = rig_key(1);
    for (uint32_t i = 0; i < SC_STORE_QUEUE_MAX / 2; i++)
        assert_int_equal(sc_store_get(s, &key, &label, count_answer, n, &err), SC_OK);
    for (uint32_t i = 0; i < SC_STORE_QUEUE_MAX / 2; i++) {
        key = rig_key(100 + i);
        assert_int_equal(sc_store_put(s, &key, &label, blob, &err), SC_OK);
    }
    assert_int_equal(rig_stats(s).waiting, SC_STORE_QUEUE_MAX);
    key = rig_key(5);
    assert_int_equal(sc_store_put(s, &key, &label, blob, &err), SC_EFULL);
    assert_false(sc_store_has(s, &key));
    sc_err_clear(&err);
    assert_int_equal(sc_store_get(s, &key, &label, count_answer, n, &err), SC_EFULL);
    key = rig_key(100); /* waits already: no room is needed */
    assert_int_equal(sc_store_put(s, &key, &label, blob, &err), SC_OK);
    for (uint32_t i = 0; i < SC_STORE_QUEUE_MAX; i++)
        sc_store_remove(s, &key);
    assert_int_equal(rig_lines(rig), 0);
    sc_store_remove(s, &key);
    assert_int_equal(rig_lines(rig), 1);
    sem_post(&gate.leave);
    sc_store_flush(s);
    assert_false(sc_store_has(s, &key));
    key = rig_key(101);
    assert_true(sc_store_has(s, &key));
    assert_true(rig_hit(rig, s, 1, 10));
    assert_int_equal(n[1], SC_STORE_QUEUE_MAX / 2);
    sc_blob_unref(blob);
    sc_store_close(s);
}

static void waiting_put_is_seen_by_has_and_get(void **state)
{
    struct rig *rig = *state;
    struct sc_store *s =
        rig_open(rig, (struct sc_store_opts){.dir = rig_path(rig, "d"), .dir_bytes = MANY});
    struct sc_hash key = rig_key(1);
    struct sc_store_label label = rig_label(0), other = rig_label(9);
    struct gate gate;
    atomic_uint n[2] = {0};

    close_gate(&gate, s);
    rig_put(s, 1, 1000);
    assert_true(rig_has(s, 1));
    assert_int_equal(sc_store_get(s, &key, &label, count_answer, n, NULL), SC_OK);
    assert_int_equal(sc_store_get(s, &key, &other, count_answer, n, NULL), SC_OK);
    sem_post(&gate.leave);
    assert_false(rig_hit(rig, s, 2, 0)); /* answered after those */
    assert_true(n[0] == 1 && n[1] == 1);
    sc_store_close(s);
}

static void close_answers_what_waits_and_writes_what_was_put(void **state)
{
    struct rig *rig = *state;
    char dir[256];
    struct sc_store_opts opts = {.dir = dir, .dir_bytes = MANY};
    struct sc_store_label label = rig_label(0);
    struct sc_store *s;
    atomic_uint n[2] = {0};

    strcpy(dir, rig_path(rig, "d"));
    s = rig_open(rig, opts);
    for (uint32_t i = 0; i < 50; i++) {
        struct sc_hash key = rig_key(i);
        rig_put(s, i, 100);
        key = rig_key(i + 25);
        assert_int_equal(sc_store_get(s, &key, &label, count_answer, n, NULL), SC_OK);
    }
    sc_store_close(s);
    assert_int_equal(n[0] + n[1], 50);
    s = rig_open(rig, opts);
    assert_int_equal(rig_stats(s).dir_blobs, 50);
    sc_store_close(s);
}

struct worker {
    struct sc_store *store;
    uint32_t id;
    atomic_uint n_wrong, n_answers, n_asked;
};

struct question {
    struct worker *worker;
    uint32_t key;
};

static void check_answer(void *ctx, struct sc_blob *blob)
{
    struct question *q = ctx;

    if (blob != NULL && (sc_blob_size(blob) != 500 + q->key || !rig_right(blob, q->key)))
        atomic_fetch_add(&q->worker->n_wrong, 1);
    sc_blob_unref(blob);
    atomic_fetch_add(&q->worker->n_answers, 1);
    free(q);
}

static void *hammer(void *ctx)
{
    struct worker *w = ctx;
    struct sc_store_label label = rig_label(0);

    for (uint32_t n = 0; n < N_ROUNDS; n++) {
        uint32_t i = (uint32_t)(sc_mix64((uint64_t)w->id << 32 | n) % N_KEYS);
        struct sc_hash key = rig_key(i);
        struct sc_blob *blob = rig_blob(i, 500 + i);
        struct question *q = malloc(sizeof(*q));
        (void)!sc_store_put(w->store, &key, &label, blob, NULL);
        sc_blob_unref(blob);
        *q = (struct question){w, (i + 5) % N_KEYS};
        key = rig_key(q->key);
        atomic_fetch_add(&w->n_asked, 1);
        if (sc_store_get(w->store, &key, &label, check_answer, q, NULL) != SC_OK) {
            atomic_fetch_sub(&w->n_asked, 1);
            free(q);
        }
        (void)sc_store_has(w->store, &key);
        (void)rig_stats(w->store);
        if (n % 7 == 0)
            sc_store_remove(w->store, &key);
        if (n % 50 == 0)
            sc_store_flush(w->store);
    }
    return NULL;
}

static void threads_see_right_bytes_or_a_miss_and_every_get_is_answered(void **state)
{
    struct rig *rig = *state;
    struct sc_store *s = rig_open(rig, (struct sc_store_opts){.memory_bytes = 4000,
                                                              .dir = rig_path(rig, "d"),
                                                              .dir_bytes = 10 * 4096,
                                                              .shared_dir = rig_path(rig, "s")});
    struct worker workers[N_THREADS];
    pthread_t threads[N_THREADS];

    memset(workers, 0, sizeof(workers));
    for (uint32_t t = 0; t < N_THREADS; t++) {
        workers[t].store = s;
        workers[t].id = t;
        assert_int_equal(pthread_create(&threads[t], NULL, hammer, &workers[t]), 0);
    }
    for (uint32_t t = 0; t < N_THREADS; t++)
        pthread_join(threads[t], NULL);
    sc_store_close(s);
    for (uint32_t t = 0; t < N_THREADS; t++) {
        assert_int_equal(workers[t].n_wrong, 0);
        assert_int_equal(workers[t].n_answers, workers[t].n_asked);
        assert_true(workers[t].n_asked > 0);
    }
    assert_int_equal(rig_lines(rig), 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        CASE(full_queue_refuses_puts_and_gets_then_serves_again),
        CASE(waiting_put_is_seen_by_has_and_get),
        CASE(close_answers_what_waits_and_writes_what_was_put),
        CASE(threads_see_right_bytes_or_a_miss_and_every_get_is_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
