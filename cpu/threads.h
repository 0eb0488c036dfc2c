/* cpu/threads.h - the worker threads of one backend and the parallel loop over independent tasks.
 *
 * Tasks are claimed one by one from a counter, in rising order per thread. Which thread runs a task
 * never changes a result, because a task owns its outputs. A worker that is still asleep when the
 * tasks run out is not waited for. Memory: taken at open.
 * Threads: run is called by one thread at a time.
 */
#ifndef SC_CPU_THREADS_H
#define SC_CPU_THREADS_H

#include "base/backend.h"

struct sc_cpu_threads;

/* thread: 0 for the caller, up to n_threads - 1. */
typedef void sc_cpu_task_fn(void *ctx, uint32_t task, uint32_t thread);

enum sc_status sc_cpu_threads_open(const struct sc_backend_opts *opts,
                                   struct sc_cpu_threads **ret_threads,
                                   struct sc_err *err) SC_MUST_CHECK;
void sc_cpu_threads_close(struct sc_cpu_threads *threads); /* NULL is fine */

/* Calls fn for every task below n_tasks and returns when all are done. */
void sc_cpu_threads_run(struct sc_cpu_threads *threads, sc_cpu_task_fn *fn, void *ctx,
                        uint32_t n_tasks);

uint32_t sc_cpu_threads_count(const struct sc_cpu_threads *threads);

#endif
