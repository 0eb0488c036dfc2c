/* shard/engine_internal.h - the engine's object, for the files of shard/ that are the engine:
 * engine.c (life, threads, steps), engine_check.c (what plans may ask), engine_query.c (pages,
 * snapshots and entries, read between steps). Private to them. */
#ifndef SC_SHARD_ENGINE_INTERNAL_H
#define SC_SHARD_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "shard/rank.h"

/* The owner posts a job, every rank thread runs it, the owner waits for all of them; or, with one
 * rank, runs it itself. */
enum job { JOB_OPEN, JOB_STEP, JOB_REJOIN, JOB_QUIT };

struct worker {
    struct sc_engine *engine;
    uint32_t index;
    pthread_t thread;
    bool started;
    struct sc_rank rank;
    struct sc_err err; /* of the last job; written by the worker, read after it is done */
    _Atomic uint64_t progress;
};

struct sc_engine {
    struct sc_engine_opts opts;
    uint32_t max_context;
    struct sc_local_group *group;
    struct sc_token_table *classes;
    bool ranks_open, broken;
    uint64_t steps, generation;
    uint8_t *slot_seen; /* [max_seqs], scratch of check_plan: what the plan does to each slot */
    char backend[96];   /* what rank 0's device says of itself */
    uint32_t arithmetic;

    pthread_mutex_t mu; /* guards what follows */
    pthread_cond_t posted, done;
    uint64_t job_no;
    enum job job;
    uint32_t n_running;
    const struct sc_plan *plan;
    struct sc_run_result *results;

    struct worker workers[];
};

/* engine_check.c: SC_EINVAL or SC_EFULL, and nothing was changed. */
enum sc_status sc_engine_check_plan(struct sc_engine *e, const struct sc_plan *plan,
                                    struct sc_err *err) SC_MUST_CHECK;
/* The snapshot, or NULL. */
const struct sc_snap *sc_engine_find_snap(const struct sc_engine *e, uint32_t snap);

#endif
