#include "client/stats.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct sc_stats of(const double *us, size_t n)
{
    struct sc_stats stats = {0};
    for (size_t i = 0; i < n; i++)
        sc_stats_add(&stats, us[i]);
    return stats;
}

static void percentiles_are_samples_of_the_nearest_rank(void **state)
{
    (void)state;
    /* The textbook's example. */
    const double us[] = {50, 15, 35, 20, 40};
    struct sc_stats stats = of(us, 5);
    assert_true(sc_stats_percentile_us(&stats, 50) == 15);
    assert_true(sc_stats_percentile_us(&stats, 200) == 15);
    assert_true(sc_stats_percentile_us(&stats, 201) == 20);
    assert_true(sc_stats_percentile_us(&stats, 300) == 20);
    assert_true(sc_stats_percentile_us(&stats, 400) == 20);
    assert_true(sc_stats_percentile_us(&stats, 500) == 35);
    assert_true(sc_stats_percentile_us(&stats, 1000) == 50);
    assert_true(sc_stats_mean_us(&stats) == 32);
    sc_stats_fini(&stats);
}

static void ranks_of_round_numbers_are_exact(void **state)
{
    (void)state;
    struct sc_stats stats = {0};
    for (int i = 1000; i >= 1; i--)
        sc_stats_add(&stats, i);
    for (uint32_t p = 1; p <= 1000; p++)
        assert_true(sc_stats_percentile_us(&stats, p) == p);
    /* Samples that come after a look count. */
    sc_stats_add(&stats, 0);
    assert_true(sc_stats_percentile_us(&stats, 1) == 1);
    assert_true(sc_stats_percentile_us(&stats, 1000) == 1000);
    sc_stats_fini(&stats);
}

static void one_sample_is_every_percentile_and_none_is_zero(void **state)
{
    (void)state;
    const double us[] = {7};
    struct sc_stats stats = of(us, 1), none = {0};
    assert_true(sc_stats_percentile_us(&stats, 1) == 7);
    assert_true(sc_stats_percentile_us(&stats, 990) == 7);
    assert_true(sc_stats_percentile_us(&none, 990) == 0);
    assert_true(sc_stats_mean_us(&none) == 0);
    sc_stats_fini(&stats);
    sc_stats_fini(&none);
}

static void durations_are_held_within_their_range(void **state)
{
    (void)state;
    const double us[] = {-5, 1e12};
    struct sc_stats stats = of(us, 2);
    assert_true(sc_stats_percentile_us(&stats, 500) == 0);
    assert_true(sc_stats_percentile_us(&stats, 1000) == UINT32_MAX);
    sc_stats_fini(&stats);
}

static void json_is_in_milliseconds(void **state)
{
    (void)state;
    const double us[] = {1000, 3000};
    struct sc_stats stats = of(us, 2);
    json_t *json = sc_stats_json(&stats);
    assert_non_null(json);
    assert_int_equal(json_integer_value(json_object_get(json, "n")), 2);
    assert_true(json_real_value(json_object_get(json, "mean")) == 2);
    assert_true(json_real_value(json_object_get(json, "p50")) == 1);
    assert_true(json_real_value(json_object_get(json, "p90")) == 3);
    assert_true(json_real_value(json_object_get(json, "max")) == 3);
    assert_null(json_object_get(json, "lost"));
    json_decref(json);
    stats.n_lost = 2;
    json = sc_stats_json(&stats);
    assert_int_equal(json_integer_value(json_object_get(json, "lost")), 2);
    json_decref(json);
    sc_stats_fini(&stats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles_are_samples_of_the_nearest_rank),
        cmocka_unit_test(ranks_of_round_numbers_are_exact),
        cmocka_unit_test(one_sample_is_every_percentile_and_none_is_zero),
        cmocka_unit_test(durations_are_held_within_their_range),
        cmocka_unit_test(json_is_in_milliseconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
