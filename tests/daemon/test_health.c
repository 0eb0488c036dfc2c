#include "testing.h"

#include "daemon/health.h"

#define STUCK 1000u

static enum sc_health_state step(struct sc_health *h, uint64_t now, uint32_t work,
                                 uint64_t progress)
{
    const struct sc_health_view view = {
        .now_us = now, .loaded = true, .work = work, .progress = progress};
    return sc_health_update(h, &view);
}

static void loading_until_loaded_then_ready(void **state)
{
    struct sc_health h;
    struct sc_health_view view = {.now_us = 100000};

    (void)state;
    sc_health_init(&h, STUCK, 0);
    assert_int_equal(sc_health_update(&h, &view), SC_HEALTH_LOADING);
    view.loaded = true;
    assert_int_equal(sc_health_update(&h, &view), SC_HEALTH_READY);
}

static void idle_is_healthy_however_long(void **state)
{
    struct sc_health h;

    (void)state;
    sc_health_init(&h, STUCK, 0);
    assert_int_equal(step(&h, 10, 0, 5), SC_HEALTH_READY);
    assert_int_equal(step(&h, 1000000, 0, 5), SC_HEALTH_READY);
    /* The time without work does not count against the first step after it. */
    assert_int_equal(step(&h, 1000000 + STUCK, 1, 5), SC_HEALTH_READY);
}

static void work_without_a_step_is_stuck_and_a_step_heals(void **state)
{
    struct sc_health h;

    (void)state;
    sc_health_init(&h, STUCK, 0);
    assert_int_equal(step(&h, 100, 3, 7), SC_HEALTH_READY);
    assert_int_equal(step(&h, 100 + STUCK, 3, 7), SC_HEALTH_READY);
    assert_int_equal(step(&h, 101 + STUCK, 3, 7), SC_HEALTH_STUCK);
    assert_int_equal(step(&h, 200 + STUCK, 3, 8), SC_HEALTH_READY);
}

static void a_failed_group_stays_failed(void **state)
{
    struct sc_health h;
    struct sc_health_view view = {.now_us = 1, .loaded = true, .failed = true};

    (void)state;
    sc_health_init(&h, STUCK, 0);
    assert_int_equal(sc_health_update(&h, &view), SC_HEALTH_FAILED);
    view.failed = false;
    assert_int_equal(sc_health_update(&h, &view), SC_HEALTH_FAILED);
}

static void draining_wins_and_stays(void **state)
{
    struct sc_health h;
    struct sc_health_view view = {.now_us = 1, .loaded = true, .failed = true, .draining = true};

    (void)state;
    sc_health_init(&h, STUCK, 0);
    assert_int_equal(sc_health_update(&h, &view), SC_HEALTH_DRAINING);
    assert_int_equal(step(&h, 2, 0, 0), SC_HEALTH_DRAINING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loading_until_loaded_then_ready),
        cmocka_unit_test(idle_is_healthy_however_long),
        cmocka_unit_test(work_without_a_step_is_stuck_and_a_step_heals),
        cmocka_unit_test(a_failed_group_stays_failed),
        cmocka_unit_test(draining_wins_and_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
