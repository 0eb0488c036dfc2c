#include "tests/cpu/support.h"

#include "cpu/gsc.h"

#define NONE ((const uint64_t[2]){0, 0})

/* Distances of points on a line, which makes cases that can be checked by eye. */
static void line(const int32_t *at, uint32_t m, int32_t *dist)
{
    for (uint32_t i = 0; i < m; i++) {
        for (uint32_t j = 0; j < m; j++)
            dist[i * m + j] = abs(at[i] - at[j]);
    }
}

static void check_labels(const uint8_t *labels, const char *want)
{
    for (uint32_t i = 0; want[i] != 0; i++) {
        if (labels[i] != want[i] - 'a')
            fail_msg("token %u: cluster %c, not %c", i, 'a' + labels[i], want[i]);
    }
}

static void the_densest_token_takes_its_neighbours_first(void **state)
{
    /* 10 and 30 see one neighbour each (20), 20 sees both: dense joins all three at 20. */
    const int32_t at[] = {10, 20, 30, 100};
    int32_t dist[16];
    uint8_t labels[4], seeds[4];
    (void)state;
    line(at, 4, dist);
    assert_int_equal(sc_gsc_cluster(dist, 4, 10, NONE, SC_SEED_DENSE, labels, seeds), 2);
    check_labels(labels, "aaab");
    assert_int_equal(seeds[0], 1);
    assert_int_equal(seeds[1], 3);
    /* Scan starts at token 0, which sees only 20. */
    assert_int_equal(sc_gsc_cluster(dist, 4, 10, NONE, SC_SEED_SCAN, labels, seeds), 3);
    check_labels(labels, "aabc");
    assert_int_equal(seeds[0], 0);
    assert_int_equal(seeds[1], 2);
}

static void ties_go_to_the_lowest_index_and_clusters_follow_their_lowest_member(void **state)
{
    /* Two pairs of equal degree, then a late dense trio that is taken first but numbered by member.
     */
    const int32_t pairs[] = {100, 0, 101, 1};
    const int32_t late[] = {500, 0, 501, 4, 8};
    int32_t dist[25];
    uint8_t labels[5], seeds[5];
    (void)state;
    line(pairs, 4, dist);
    assert_int_equal(sc_gsc_cluster(dist, 4, 1, NONE, SC_SEED_DENSE, labels, seeds), 2);
    check_labels(labels, "abab");
    assert_int_equal(seeds[0], 0);
    assert_int_equal(seeds[1], 1);
    line(late, 5, dist);
    assert_int_equal(sc_gsc_cluster(dist, 5, 4, NONE, SC_SEED_DENSE, labels, seeds), 2);
    check_labels(labels, "ababb");
    assert_int_equal(seeds[0], 0);
    assert_int_equal(seeds[1], 3);
}

static void degrees_count_only_unassigned_neighbours(void **state)
{
    /* 20 sees 10, 15, 25 and takes them; of 30's neighbours {25} none is left, so 30 stays alone.
     */
    const int32_t at[] = {10, 15, 20, 25, 35};
    int32_t dist[25];
    uint8_t labels[5], seeds[5];
    (void)state;
    line(at, 5, dist);
    assert_int_equal(sc_gsc_cluster(dist, 5, 10, NONE, SC_SEED_DENSE, labels, seeds), 2);
    check_labels(labels, "aaaab");
    assert_int_equal(seeds[0], 1);
}

static void forced_tokens_stay_alone_and_lend_no_weight(void **state)
{
    const int32_t at[] = {0, 0, 0, 0, 0};
    const uint64_t forced[2] = {1u << 1 | 1u << 4, 0};
    int32_t dist[25];
    uint8_t labels[5], seeds[5];
    (void)state;
    line(at, 5, dist);
    for (int order = SC_SEED_DENSE; order <= SC_SEED_SCAN; order++) {
        assert_int_equal(
            sc_gsc_cluster(dist, 5, 0, forced, (enum sc_seed_order)order, labels, seeds), 3);
        check_labels(labels, "abaac");
        assert_int_equal(seeds[1], 1);
        assert_int_equal(seeds[2], 4);
        assert_int_equal(
            sc_gsc_cluster_budget(dist, 5, 1, forced, (enum sc_seed_order)order, labels, seeds), 3);
    }
}

static void extremes_of_tau_give_all_or_one(void **state)
{
    struct rng r = {1};
    static int32_t dist[128 * 128];
    uint8_t labels[128], seeds[128];
    const uint64_t forced[2] = {0, (uint64_t)1 << 63};
    (void)state;
    for (uint32_t i = 0; i < 128 * 128; i++)
        dist[i] = (int32_t)rng_below(&r, INT32_MAX);
    for (int order = SC_SEED_DENSE; order <= SC_SEED_SCAN; order++) {
        assert_int_equal(
            sc_gsc_cluster(dist, 128, -1, NONE, (enum sc_seed_order)order, labels, seeds), 128);
        assert_int_equal(
            sc_gsc_cluster(dist, 128, INT64_MAX, NONE, (enum sc_seed_order)order, labels, seeds),
            1);
        assert_int_equal(
            sc_gsc_cluster(dist, 128, INT64_MAX, forced, (enum sc_seed_order)order, labels, seeds),
            2);
        assert_int_equal(labels[127], 1);
    }
    assert_int_equal(sc_gsc_cluster(dist, 1, INT64_MAX, NONE, SC_SEED_DENSE, labels, seeds), 1);
}

/* The definition, word for word, with no incremental bookkeeping. */
static uint32_t reference(const int32_t *dist, uint32_t m, int64_t tau, const uint64_t forced[2],
                          bool scan, uint8_t *labels, uint8_t *seeds)
{
    int owner[128], number[128];
    uint32_t count = 0;
    for (uint32_t i = 0; i < m; i++)
        owner[i] = (forced[i / 64] >> (i % 64)) & 1 ? (int)i : -1;
    for (;;) {
        int best = -1, most = -1;
        for (uint32_t i = 0; i < m && !(scan && best >= 0); i++) {
            int degree = 0;
            for (uint32_t j = 0; j < m; j++)
                degree += owner[j] < 0 && j != i && dist[i < j ? i * m + j : j * m + i] <= tau;
            if (owner[i] < 0 && degree > most) {
                most = degree;
                best = (int)i;
            }
        }
        if (best < 0)
            break;
        owner[best] = best;
        for (int j = 0; j < (int)m; j++) {
            if (owner[j] < 0 && dist[best < j ? best * (int)m + j : j * (int)m + best] <= tau)
                owner[j] = best;
        }
    }
    memset(number, -1, sizeof(number));
    for (uint32_t i = 0; i < m; i++) {
        if (number[owner[i]] < 0) {
            number[owner[i]] = (int)count;
            seeds[count++] = (uint8_t)owner[i];
        }
        labels[i] = (uint8_t)number[owner[i]];
    }
    return count;
}

static void random_graphs_agree_with_the_definition(void **state)
{
    struct rng r = {2};
    static int32_t dist[128 * 128];
    (void)state;
    for (int round = 0; round < 400; round++) {
        uint32_t m = 1 + rng_below(&r, 128), levels = 1 + rng_below(&r, 200);
        int64_t tau = rng_below(&r, levels) / (1 + rng_below(&r, 4));
        uint64_t forced[2] = {0, 0};
        uint8_t labels[2][128] = {{0}}, seeds[2][128] = {{0}};
        bool scan = round % 2 != 0;
        for (uint32_t i = 0; i < m; i++)
            for (uint32_t j = 0; j <= i; j++)
                dist[i * m + j] = dist[j * m + i] = (int32_t)rng_below(&r, levels);
        for (uint32_t i = 0; i < m; i++)
            forced[i / 64] |= (uint64_t)(rng_below(&r, 10) == 0) << (i % 64);
        uint32_t want = reference(dist, m, tau, forced, scan, labels[0], seeds[0]);
        assert_int_equal(sc_gsc_cluster(dist, m, tau, forced, scan ? SC_SEED_SCAN : SC_SEED_DENSE,
                                        labels[1], seeds[1]),
                         want);
        assert_memory_equal(labels[0], labels[1], 128);
        assert_memory_equal(seeds[0], seeds[1], want);
    }
}

static void a_budget_is_kept_and_not_wasted(void **state)
{
    struct rng r = {3};
    static int32_t dist[100 * 100];
    int32_t at[100];
    uint8_t labels[100], seeds[100], again[100];
    (void)state;
    for (uint32_t i = 0; i < 100; i++)
        at[i] = (int32_t)rng_below(&r, 4000);
    line(at, 100, dist);
    for (uint32_t budget = 1; budget <= 100; budget++) {
        uint32_t n = sc_gsc_cluster_budget(dist, 100, budget, NONE, SC_SEED_DENSE, labels, seeds);
        assert_in_range(n, 1, budget);
        /* On a line of 4000 with 12 bisections tau is found to the unit; steps of the count are
         * small. */
        assert_true(n + 12 >= budget || n + 12 >= 95);
        assert_int_equal(
            sc_gsc_cluster_budget(dist, 100, budget, NONE, SC_SEED_DENSE, again, seeds), n);
        assert_memory_equal(labels, again, 100);
    }
}

static void a_budget_below_the_forced_tokens_gives_the_fewest(void **state)
{
    const int32_t at[] = {0, 10, 1000, 5, 100000};
    const uint64_t forced[2] = {1u << 0 | 1u << 2, 0};
    int32_t dist[25];
    uint8_t labels[5], seeds[5];
    (void)state;
    line(at, 5, dist);
    assert_int_equal(sc_gsc_cluster_budget(dist, 5, 1, forced, SC_SEED_DENSE, labels, seeds), 3);
    check_labels(labels, "abcbb");
    assert_int_equal(sc_gsc_cluster_budget(dist, 5, 4, forced, SC_SEED_DENSE, labels, seeds), 4);
    check_labels(labels, "abcbd");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_densest_token_takes_its_neighbours_first),
        cmocka_unit_test(ties_go_to_the_lowest_index_and_clusters_follow_their_lowest_member),
        cmocka_unit_test(degrees_count_only_unassigned_neighbours),
        cmocka_unit_test(forced_tokens_stay_alone_and_lend_no_weight),
        cmocka_unit_test(extremes_of_tau_give_all_or_one),
        cmocka_unit_test(random_graphs_agree_with_the_definition),
        cmocka_unit_test(a_budget_is_kept_and_not_wasted),
        cmocka_unit_test(a_budget_below_the_forced_tokens_gives_the_fewest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
