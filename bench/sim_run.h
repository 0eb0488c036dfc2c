/* bench/sim_run.h - a discrete-event simulation: groups of ranks, each under a scheduler of its
 * own, requests that arrive at random, and a router.
 *
 * Time is virtual: a step of an engine takes what its cost model says, and an idle group jumps to
 * the next arrival. Everything follows from the seed. Threads: one.
 */
#ifndef SC_BENCH_SIM_RUN_H
#define SC_BENCH_SIM_RUN_H

#include "bench/sim_engine.h"
#include "scheduler/scheduler.h"

#define SIM_NAMESPACES_MAX 16u

enum sim_router {
    SIM_ROUTER_RANDOM,  /* each in turn */
    SIM_ROUTER_PREFIX,  /* by a hash of the document */
    SIM_ROUTER_BOUNDED, /* the same, and on to the next where many more wait than elsewhere */
};

struct sim_opts {
    double rate, seconds; /* requests a second of all groups; time of arrivals */
    double zipf;          /* popularity of document i: 1 / (i + 1)^zipf */
    uint32_t documents, doc_len, question_len, output_len; /* means; lengths vary by half */
    uint32_t groups, pages, snapshots, max_seqs, step_tokens, prefill_tokens, queue_max;
    uint32_t namespaces;
    uint32_t first_ns_percent; /* of the requests come from namespace 0; 0: as from any */
    uint32_t priority_percent; /* of the requests go before the others */
    uint32_t cancel_percent;   /* one half is cancelled, the other has a deadline */
    uint32_t retain_percent;   /* only read a document, which is retained; some are pinned */
    enum sc_kv_choice kv;
    bool exact_then_compress; /* of the recipe; then nothing can be retained */
    bool sharing;
    enum sim_router router;
    struct sim_costs costs;
    uint64_t seed;
    bool check;       /* every turn; see sim_check.h */
    bool expect_fair; /* fails when namespaces 0 and 1 were served unequally by 20 % and more */
};

struct sim_quantiles {
    double p50, p90, p99;
};

struct sim_result {
    uint64_t requests, served, canceled, late, refused, failed; /* late: past the deadline */
    double simulated_s, wall_s;
    double requests_per_s, prompt_per_s, output_per_s; /* prompt: cached tokens, too */
    double hit_percent;                                /* of prompt tokens */
    struct sim_quantiles ttft_ms, queue_ms;            /* of those that got a token */
    uint32_t waiting_max;                              /* of one group */
    uint64_t evictions, preemptions, steps;
    double pages_peak_percent; /* held by sequences, of the fullest group */
    uint64_t ns_tokens[SIM_NAMESPACES_MAX];
    char failure[160]; /* of the first that failed */
};

/* SC_EINTERNAL: a check failed. */
enum sc_status sim_run(const struct sim_opts *opts, struct sim_result *ret_result,
                       struct sc_err *err) SC_MUST_CHECK;

#endif
