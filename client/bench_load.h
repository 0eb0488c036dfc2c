/* client/bench_load.h - many GenerateStream calls at once, measured.
 *
 * One thread and one completion queue, however many calls. All times are the client's: from when a
 * request is due (in a closed loop: sent) to what arrives.
 * Memory: a slot a stream, the samples, and what gRPC holds.
 * Threads: one owner.
 */
#ifndef SC_CLIENT_BENCH_LOAD_H
#define SC_CLIENT_BENCH_LOAD_H

#include "client/rpc.h"
#include "client/stats.h"
#include "semanticache/v1/inference.pb-c.h"

#define SC_LOAD_CODES 17 /* gRPC statuses */

struct sc_load_opts {
    uint32_t n_streams;      /* at once */
    uint64_t n_requests;     /* 0: as many as start within the duration */
    double rate_per_s;       /* Poisson arrivals; 0: closed loop. Late ones wait, and that counts */
    double duration_s;       /* no request starts later; 0: no limit */
    uint32_t slow_reader_ms; /* wait before each message is read */
    uint64_t seed;           /* of the arrivals */
};

#define SC_LOAD_NO_CANCEL UINT32_MAX

struct sc_load_request {
    Semanticache__V1__GenerateRequest wire;
    Semanticache__V1__SamplingParams sampling;
    Semanticache__V1__TokenIds token_ids;
    Semanticache__V1__DocumentPrompt documents;
    uint32_t cancel_after; /* tokens; 0: at the first message of any kind */
    uint32_t deadline_ms;  /* from when it is sent; 0: none */
};

/* Fills request, which is initialised, for number `index`. What it points to is used before the
 * next call. */
typedef enum sc_status sc_load_make_fn(void *ctx, uint64_t index, struct sc_load_request *request,
                                       struct sc_err *err);

struct sc_load_result {
    struct sc_stats ttft, gap, total; /* gap: between messages with tokens; total: completed ones */
    struct sc_stats past_deadline;    /* how long after theirs the expired ones ended */
    uint64_t n_started, n_completed;
    uint64_t n_cancelled;   /* as asked */
    uint64_t n_deadlines;   /* requests that had one */
    uint64_t n_expired;     /* ended at it, and not before */
    uint64_t n_interrupted; /* by a signal */
    uint64_t n_failed, errors[SC_LOAD_CODES];
    struct sc_err first_error;
    uint64_t prompt_tokens, cached_tokens, completion_tokens, preemptions; /* of completed ones */
    uint64_t tokens_received;                                              /* of all */
    uint32_t peak_streams;
    double wall_s;
};

/* Returns when every call has ended; requests that failed are counted, not returned. SC_ECANCELED:
 * a signal came. ret_result is filled, and to be freed, in every case. */
enum sc_status sc_load_run(struct sc_rpc *rpc, const struct sc_load_opts *opts,
                           sc_load_make_fn *make, void *ctx, struct sc_load_result *ret_result,
                           struct sc_err *err) SC_MUST_CHECK;
/* Runs that followed each other, as one. */
void sc_load_result_add(struct sc_load_result *sum, const struct sc_load_result *result);
void sc_load_result_fini(struct sc_load_result *result);

#endif
