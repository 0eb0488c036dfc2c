#include "cpu/threads.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPIN_NS  20000 /* a worker spins this long for the next loop before it sleeps */
#define JOB_OPEN 0x80000000u

struct worker {
    struct sc_cpu_threads *threads;
    uint32_t index;
    pthread_t id;
};

struct sc_cpu_threads {
    /* The loop being run; written only while `state` is 0: closed and nobody inside. */
    sc_cpu_task_fn *fn;
    void *ctx;
    uint32_t n_tasks;
    _Alignas(64) atomic_uint next;       /* first unclaimed task */
    _Alignas(64) atomic_uint state;      /* JOB_OPEN | number of workers inside */
    _Alignas(64) atomic_uint generation; /* changes with every loop; sleepers wait on it */
    atomic_uint n_sleeping;
    atomic_bool stop;
    uint32_t n_threads, n_started;
    struct worker workers[];
};

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void futex_wait(atomic_uint *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake_all(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void run_tasks(struct sc_cpu_threads *th, uint32_t thread)
{
    for (;;) {
        uint32_t task = atomic_fetch_add_explicit(&th->next, 1, memory_order_relaxed);
        if (task >= th->n_tasks)
            return;
        th->fn(th->ctx, task, thread);
    }
}

/* Spins, then sleeps, until the generation is no longer `seen`. */
static uint32_t await_generation(struct sc_cpu_threads *th, uint32_t seen)
{
    int64_t until = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 32; i++) {
            uint32_t gen = atomic_load_explicit(&th->generation, memory_order_acquire);
            if (gen != seen)
                return gen;
            cpu_relax();
        }
    } while (now_ns() < until);

    atomic_fetch_add(&th->n_sleeping, 1);
    while (atomic_load(&th->generation) == seen)
        futex_wait(&th->generation, seen);
    atomic_fetch_sub(&th->n_sleeping, 1);
    return atomic_load(&th->generation);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct sc_cpu_threads *th = w->threads;
    uint32_t seen = 0;

    for (;;) {
        uint32_t state;
        seen = await_generation(th, seen);
        if (atomic_load(&th->stop))
            return NULL;
        state = atomic_load_explicit(&th->state, memory_order_relaxed);
        while (state & JOB_OPEN) {
            if (!atomic_compare_exchange_weak_explicit(&th->state, &state, state + 1,
                                                       memory_order_acquire, memory_order_relaxed))
                continue;
            run_tasks(th, w->index);
            atomic_fetch_sub_explicit(&th->state, 1, memory_order_release);
            break;
        }
    }
}

void sc_cpu_threads_run(struct sc_cpu_threads *th, sc_cpu_task_fn *fn, void *ctx, uint32_t n_tasks)
{
    if (n_tasks <= 1 || th->n_started == 0) {
        for (uint32_t task = 0; task < n_tasks; task++)
            fn(ctx, task, 0);
        return;
    }
    th->fn = fn;
    th->ctx = ctx;
    th->n_tasks = n_tasks;
    atomic_store_explicit(&th->next, 0, memory_order_relaxed);
    atomic_store_explicit(&th->state, JOB_OPEN, memory_order_release);
    atomic_fetch_add(&th->generation, 1);
    if (atomic_load(&th->n_sleeping) != 0)
        futex_wake_all(&th->generation);

    run_tasks(th, 0);
    atomic_fetch_and_explicit(&th->state, ~JOB_OPEN, memory_order_acq_rel);
    /* More threads than cores: give the core to whoever still holds a task. */
    for (uint32_t spins = 0; atomic_load_explicit(&th->state, memory_order_acquire) != 0; spins++) {
        if (spins < 2000)
            cpu_relax();
        else
            sched_yield();
    }
}

uint32_t sc_cpu_threads_count(const struct sc_cpu_threads *th)
{
    return th->n_threads;
}

static enum sc_status pin(const struct worker *w, const struct sc_backend_opts *opts,
                          struct sc_err *err)
{
    uint64_t core = (uint64_t)opts->rank * opts->n_threads + w->index;
    cpu_set_t set;
    int rc;

    if (core >= CPU_SETSIZE)
        return sc_fail(err, SC_EINVAL, "pin_threads: core %llu, limit %d", (unsigned long long)core,
                       CPU_SETSIZE - 1);
    CPU_ZERO(&set);
    CPU_SET((int)core, &set);
    rc = pthread_setaffinity_np(w->id, sizeof(set), &set);
    if (rc != 0)
        return sc_fail(err, SC_EINVAL, "pin_threads: rank %u thread %u to core %llu: errno %d",
                       opts->rank, w->index, (unsigned long long)core, rc);
    return SC_OK;
}

enum sc_status sc_cpu_threads_open(const struct sc_backend_opts *opts,
                                   struct sc_cpu_threads **ret_threads, struct sc_err *err)
{
    size_t bytes = sizeof(struct sc_cpu_threads) + (opts->n_threads - 1) * sizeof(struct worker);
    struct sc_cpu_threads *th = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    enum sc_status st = SC_OK;

    if (th == NULL)
        return sc_fail(err, SC_ENOMEM, "cpu threads: %zu bytes", bytes);
    atomic_init(&th->next, 0);
    atomic_init(&th->state, 0);
    atomic_init(&th->generation, 0);
    atomic_init(&th->n_sleeping, 0);
    atomic_init(&th->stop, false);
    th->n_threads = opts->n_threads;
    th->n_started = 0;
    while (st == SC_OK && th->n_started + 1 < opts->n_threads) {
        struct worker *w = &th->workers[th->n_started];
        int rc;
        w->threads = th;
        w->index = th->n_started + 1;
        rc = pthread_create(&w->id, NULL, worker_main, w);
        if (rc != 0) {
            st = sc_fail(err, SC_ENOMEM, "cpu threads: thread %u of %u: errno %d", w->index,
                         opts->n_threads, rc);
            break;
        }
        th->n_started++;
        if (opts->pin_threads)
            st = pin(w, opts, err);
    }
    if (st != SC_OK) {
        sc_cpu_threads_close(th);
        return st;
    }
    *ret_threads = th;
    return SC_OK;
}

void sc_cpu_threads_close(struct sc_cpu_threads *th)
{
    if (th == NULL)
        return;
    atomic_store(&th->stop, true);
    atomic_fetch_add(&th->generation, 1);
    futex_wake_all(&th->generation);
    for (uint32_t i = 0; i < th->n_started; i++)
        pthread_join(th->workers[i].id, NULL);
    free(th);
}
