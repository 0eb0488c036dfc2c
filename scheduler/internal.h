/* scheduler/internal.h - the scheduler's state, shared by its source files only.
 *
 * scheduler.c: the public calls and the thread's loop. plan.c: admission, preemption, the step
 * plan. events.c: what a request's owner is told, and how requests end. output.c: from a sampled
 * token to text and stops.
 */
#ifndef SC_SCHEDULER_INTERNAL_H
#define SC_SCHEDULER_INTERNAL_H

#include <pthread.h>

#include "scheduler/request.h"

/* Text of one request in one step: what was held back and what one token adds. A longer piece grows
 * it once. */
#define SC_STEP_TEXT_BYTES ((size_t)64 << 10)

/* Steps that a sequence may be left out for want of pages before the youngest is preempted: pages
 * needed for a moment, while an epoch is compressed, come back by themselves. */
#define SC_STARVED_STEPS_MAX 4u

struct sc_request_list {
    struct sc_request *head, *tail;
    uint32_t n;
};

struct sc_sched {
    /* Fixed at open. */
    struct sc_engine *engine;
    struct sc_request_limits limits;
    uint32_t queue_max, prefill_tokens;
    uint32_t max_seqs, max_step_tokens, n_pages;
    pthread_t thread;

    pthread_mutex_t mu;
    pthread_cond_t wake; /* the scheduler thread waits for work */
    /* Guarded by mu. */
    struct sc_request_list inbox;
    bool closing;
    bool any_canceled;
    struct sc_sched_stats stats; /* .waiting counts the queue, not the inbox */

    /* The scheduler thread's. */
    struct sc_request_list queue; /* FIFO; preempted requests come back at the front */
    uint64_t queue_deadline_us;   /* earliest in the queue; UINT64_MAX: none */
    struct sc_request **running;  /* [max_seqs], in order of admission: the last is the youngest */
    uint32_t n_running;
    uint32_t *free_slots; /* [max_seqs] */
    uint32_t n_free_slots;
    uint64_t next_ticket;
    uint64_t prefill_turn;  /* ticket of the last request that got a prefill block */
    uint32_t closing_pages; /* held by the slots in closes */
    bool failed;

    /* The plan; arrays [max_seqs]. closes survive until a step has executed them. */
    uint32_t *closes;
    struct sc_plan_open *opens;
    struct sc_plan_run *runs;
    struct sc_request **run_requests;
    struct sc_run_result *results;
    uint32_t n_closes, n_opens, n_runs;
    struct sc_text text;
};

void sc_list_push(struct sc_request_list *list, struct sc_request *r);
void sc_list_push_front(struct sc_request_list *list, struct sc_request *r);
struct sc_request *sc_list_pop(struct sc_request_list *list);

/* plan.c. arrive: estimates pages and queues, or ends the request that can never fit. */
void sc_plan_arrive(struct sc_sched *s, struct sc_request *r);
void sc_plan_admit(struct sc_sched *s);
/* Fills the plan so that its runs fit into the free pages, preempting where they do not. False:
 * there is nothing to execute. */
bool sc_plan_build(struct sc_sched *s);
/* After SC_EFULL from the engine: preempts the youngest, or ends the only one. */
void sc_plan_make_room(struct sc_sched *s, const struct sc_err *err);
/* After the step: the engine has executed the plan, which it began at start_us. */
void sc_plan_commit(struct sc_sched *s, uint64_t start_us);
/* Gives the request's slot back; closes its sequence with the next step. */
void sc_plan_release(struct sc_sched *s, struct sc_request *r);

/* events.c. end: DONE, once; a running request stays in running[] until the sweep. */
void sc_events_end(struct sc_sched *s, struct sc_request *r, enum sc_finish finish,
                   enum sc_status status, const char *error);
void sc_events_after_run(struct sc_sched *s, struct sc_request *r,
                         const struct sc_run_result *result, uint64_t now_us);
void sc_events_sweep(struct sc_sched *s); /* drops ended requests from running[] */

/* output.c. */
struct sc_output {
    size_t emit_len;         /* bytes of the scratch text to send now */
    enum sc_finish finish;   /* SC_FINISH_NONE: goes on */
    int32_t stop_id;         /* or -1 */
    const char *stop_string; /* or NULL */
};
/* Takes one sampled token: text gets what was held back and what the token adds. */
enum sc_status sc_output_token(struct sc_request *r, int32_t token, struct sc_text *text,
                               struct sc_output *ret_output, struct sc_err *err) SC_MUST_CHECK;

#endif
