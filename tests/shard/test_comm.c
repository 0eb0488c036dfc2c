/* Local collectives: threads as ranks. Runs under ThreadSanitizer too. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "shard/comm.h"

#define RANKS  4u
#define ROUNDS 300

struct ctx {
    struct sc_comm *comm;
    enum sc_status st;
    uint64_t hash; /* of all results: must be equal on all ranks */
    bool refuse;
};

static void on_ranks(struct sc_local_group *g, uint32_t n, struct ctx *c, void *(*run)(void *))
{
    pthread_t threads[RANKS];
    for (uint32_t r = 0; r < n; r++) {
        c[r].comm = sc_local_group_comm(g, r);
        assert_int_equal(pthread_create(&threads[r], NULL, run, &c[r]), 0);
    }
    for (uint32_t r = 0; r < n; r++)
        assert_int_equal(pthread_join(threads[r], NULL), 0);
}

static float value(uint32_t rank, uint32_t round, uint32_t i)
{
    return (float)((rank + 1) * 1000.1 + round * 0.37 + i * 1e-3) * (i % 2 == 0 ? 1.0f : -1.0f);
}

static void *many_sums(void *arg)
{
    struct ctx *c = arg;
    struct sc_err err = SC_ERR_INIT;
    float f[1000];
    int32_t ints[77];
    uint64_t words[2];
    uint32_t m[5];
    for (uint32_t round = 0; round < ROUNDS && c->st == SC_OK; round++) {
        uint32_t n = 1 + round * 13 % 1000;
        for (uint32_t i = 0; i < n; i++)
            f[i] = value(c->comm->rank, round, i);
        c->st = c->comm->ops->sum_f32(c->comm, f, n, &err);
        for (uint32_t i = 0; i < n && c->st == SC_OK; i++) {
            float want = value(0, round, i);
            for (uint32_t r = 1; r < c->comm->n_ranks; r++)
                want += value(r, round, i); /* rank order, to the bit */
            if (memcmp(&want, &f[i], sizeof(want)) != 0)
                c->st = SC_EINTERNAL;
        }
        for (uint32_t i = 0; i < 77; i++)
            ints[i] = (int32_t)(round * 1000 + i * (c->comm->rank + 1));
        if (c->st == SC_OK)
            c->st = c->comm->ops->sum_i32(c->comm, ints, 77, &err);
        words[0] = 100 + (c->comm->rank + round) % c->comm->n_ranks;
        words[1] = ~words[0];
        if (c->st == SC_OK)
            c->st = c->comm->ops->min_u64(c->comm, words, 2, &err);
        for (uint32_t i = 0; i < 5; i++)
            m[i] = (c->comm->rank * 7 + i * 3) % 11;
        if (c->st == SC_OK)
            c->st = c->comm->ops->max_u32(c->comm, m, 5, &err);
        c->hash = c->hash * 31 + (uint64_t)ints[76] + words[0] + ~words[1] + m[4];
        if (words[0] != 100 || ~words[1] != 100 + c->comm->n_ranks - 1)
            c->st = c->st == SC_OK ? SC_EINTERNAL : c->st;
    }
    return NULL;
}

static void sums_are_in_rank_order_and_the_same_on_all_ranks(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= RANKS; n++) {
        struct sc_local_group *g;
        struct sc_err err = SC_ERR_INIT;
        struct ctx c[RANKS] = {0};
        assert_int_equal(sc_local_group_open(n, 8000, true, &g, &err), SC_OK);
        on_ranks(g, n, c, many_sums);
        for (uint32_t r = 0; r < n; r++) {
            assert_int_equal(c[r].st, SC_OK);
            assert_true(c[r].hash == c[0].hash);
        }
        sc_local_group_close(g);
    }
}

static float gathered[3 * 10];

static void *gather(void *arg)
{
    struct ctx *c = arg;
    struct sc_err err = SC_ERR_INIT;
    const uint32_t widths[RANKS] = {3, 3, 2, 2};
    float src[3 * 3];
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t j = 0; j < widths[c->comm->rank]; j++)
            src[i * widths[c->comm->rank] + j] = (float)(100 * i + 10 * c->comm->rank + j);
    c->st = c->comm->ops->gather_cols(c->comm, src, 3, widths, c->comm->rank == 0 ? gathered : NULL,
                                      &err);
    return NULL;
}

static void columns_arrive_side_by_side(void **state)
{
    (void)state;
    struct sc_local_group *g;
    struct sc_err err = SC_ERR_INIT;
    struct ctx c[RANKS] = {0};
    const float want[10] = {0, 1, 2, 10, 11, 12, 20, 21, 30, 31};
    assert_int_equal(sc_local_group_open(RANKS, 64, true, &g, &err), SC_OK);
    on_ranks(g, RANKS, c, gather);
    for (uint32_t i = 0; i < 30; i++)
        assert_true(gathered[i] == want[i % 10] + (float)(i / 10 * 100));
    sc_local_group_close(g);
}

static void *one_refuses(void *arg)
{
    struct ctx *c = arg;
    struct sc_err err = SC_ERR_INIT;
    float f[8] = {0};
    if (c->refuse) {
        (void)usleep(20000);
        c->comm->ops->abort(c->comm);
        return NULL;
    }
    c->st = c->comm->ops->sum_f32(c->comm, f, 8, &err);
    return NULL;
}

static void an_abort_releases_everybody_and_reset_mends_the_group(void **state)
{
    (void)state;
    struct sc_local_group *g;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_local_group_open(RANKS, 8000, true, &g, &err), SC_OK);
    for (uint32_t victim = 0; victim < RANKS; victim++) {
        struct ctx c[RANKS] = {0};
        c[victim].refuse = true;
        on_ranks(g, RANKS, c, one_refuses);
        for (uint32_t r = 0; r < RANKS; r++)
            assert_int_equal(c[r].st, r == victim ? SC_OK : SC_EPEER);
        sc_local_group_reset(g);
        struct ctx again[RANKS] = {0};
        on_ranks(g, RANKS, again, many_sums);
        for (uint32_t r = 0; r < RANKS; r++)
            assert_int_equal(again[r].st, SC_OK);
    }
    sc_local_group_close(g);
}

static void *different_lengths(void *arg)
{
    struct ctx *c = arg;
    struct sc_err err = SC_ERR_INIT;
    float f[8] = {0};
    c->st = c->comm->ops->sum_f32(c->comm, f, c->refuse ? 7 : 8, &err);
    return NULL;
}

static void ranks_that_disagree_on_a_length_are_stopped(void **state)
{
    (void)state;
    struct sc_local_group *g;
    struct sc_err err = SC_ERR_INIT;
    struct ctx c[RANKS] = {0};
    assert_int_equal(sc_local_group_open(RANKS, 64, true, &g, &err), SC_OK);
    c[2].refuse = true;
    on_ranks(g, RANKS, c, different_lengths);
    for (uint32_t r = 0; r < RANKS; r++)
        assert_true(c[r].st == SC_EDIVERGED || c[r].st == SC_EPEER);
    float big[100] = {0};
    sc_local_group_reset(g);
    assert_int_equal(c[0].comm->ops->sum_f32(c[0].comm, big, 100, &err), SC_EINTERNAL);
    sc_local_group_close(g);
    sc_err_clear(&err);
    assert_int_equal(sc_local_group_open(0, 64, true, &g, &err), SC_EINVAL);
}

static uint32_t odd_one; /* what the rank that refuses calls instead of sum_f32 */

static void *different_operations(void *arg)
{
    struct ctx *c = arg;
    struct sc_err err = SC_ERR_INIT;
    const struct sc_comm_ops *ops = c->comm->ops;
    const uint32_t widths[RANKS] = {2, 2, 2, 2};
    float f[8 * RANKS * 2] = {0};
    int32_t i[8] = {0};
    uint32_t u[8] = {0};
    if (!c->refuse)
        c->st = ops->sum_f32(c->comm, f, 8, &err);
    else if (odd_one == 0)
        c->st = ops->sum_i32(c->comm, i, 8, &err);
    else if (odd_one == 1)
        c->st = ops->max_u32(c->comm, u, 8, &err);
    else
        c->st = ops->gather_cols(c->comm, f, 8, widths, f, &err);
    return NULL;
}

static void ranks_that_disagree_on_the_operation_are_stopped(void **state)
{
    (void)state;
    struct sc_local_group *g;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_local_group_open(RANKS, 64, true, &g, &err), SC_OK);
    for (odd_one = 0; odd_one < 3; odd_one++) {
        struct ctx c[RANKS] = {0};
        c[odd_one].refuse = true;
        on_ranks(g, RANKS, c, different_operations);
        uint32_t n_diverged = 0;
        for (uint32_t r = 0; r < RANKS; r++) {
            assert_true(c[r].st == SC_EDIVERGED || c[r].st == SC_EPEER);
            n_diverged += c[r].st == SC_EDIVERGED;
        }
        assert_true(n_diverged > 0);
        sc_local_group_reset(g);
    }
    sc_local_group_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_in_rank_order_and_the_same_on_all_ranks),
        cmocka_unit_test(columns_arrive_side_by_side),
        cmocka_unit_test(an_abort_releases_everybody_and_reset_mends_the_group),
        cmocka_unit_test(ranks_that_disagree_on_a_length_are_stopped),
        cmocka_unit_test(ranks_that_disagree_on_the_operation_are_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
