#include "tests/cpu/support.h"

#include <stdatomic.h>
#include <unistd.h>

#include "cpu/threads.h"

enum { TASKS = 200 };

struct work {
    atomic_uint runs[TASKS];
    uint32_t last[8]; /* per thread: the last task it ran */
    uint32_t n_threads;
    atomic_uint n_bad;
};

static void count(void *ctx, uint32_t task, uint32_t thread)
{
    struct work *w = ctx;
    atomic_fetch_add(&w->runs[task], 1);
    if (thread >= w->n_threads || (w->last[thread] != UINT32_MAX && w->last[thread] >= task))
        atomic_fetch_add(&w->n_bad, 1);
    w->last[thread] = task;
}

static void run_once(struct sc_cpu_threads *th, uint32_t n_threads, uint32_t n_tasks)
{
    struct work w = {.n_threads = n_threads};
    memset(w.last, 0xff, sizeof(w.last));
    sc_cpu_threads_run(th, count, &w, n_tasks);
    assert_int_equal(atomic_load(&w.n_bad), 0);
    for (uint32_t i = 0; i < TASKS; i++)
        assert_int_equal(atomic_load(&w.runs[i]), i < n_tasks);
}

static void every_task_runs_once_in_rising_order_per_thread(void **state)
{
    struct rng r = {1};
    (void)state;
    for (uint32_t n = 1; n <= 5; n++) {
        struct sc_backend_opts opts = {.n_threads = n};
        struct sc_cpu_threads *th = NULL;
        assert_ok(sc_cpu_threads_open(&opts, &th, err));
        assert_int_equal(sc_cpu_threads_count(th), n);
        for (int round = 0; round < 1500; round++) {
            run_once(th, n, rng_below(&r, TASKS + 1));
            if (round % 500 == 0)
                usleep(2000); /* the workers fall asleep */
        }
        sc_cpu_threads_close(th);
    }
}

static void closing_wakes_sleeping_and_spinning_workers(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++) {
        struct sc_backend_opts opts = {.n_threads = 3};
        struct sc_cpu_threads *th = NULL;
        assert_ok(sc_cpu_threads_open(&opts, &th, err));
        if (i % 2 == 0)
            usleep(500);
        if (i % 3 == 0)
            run_once(th, 3, 7);
        sc_cpu_threads_close(th);
    }
    sc_cpu_threads_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once_in_rising_order_per_thread),
        cmocka_unit_test(closing_wakes_sleeping_and_spinning_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
