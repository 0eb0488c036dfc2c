/* scheduler/request.h - one request from submit to DONE, as the scheduler keeps it.
 *
 * Memory: all of it is taken at submit: the struct, one arena for stop strings and ids, one array
 * for the tokens (prompt and output; what is never reached is never touched), the sampler. Threads:
 * what is fixed at submit is read-only; references and the cancel flag are atomic; the rest belongs
 * to the scheduler thread.
 */
#ifndef SC_SCHEDULER_REQUEST_H
#define SC_SCHEDULER_REQUEST_H

#include <stdatomic.h>

#include "base/arena.h"
#include "model/tokenizer.h"
#include "scheduler/prefix.h"
#include "scheduler/scheduler.h"
#include "scheduler/stops.h"

/* An open-ended request (max_tokens 0) reserves pages for this much output only: most end long
 * before the context does, and preemption covers the others. */
#define SC_OPEN_ENDED_RESERVE 512u

/* Fair share counts the tokens of namespaces by a hash of their names; two that meet share. */
#define SC_NS_BUCKETS 256u

#define SC_SLOT_NONE UINT32_MAX

enum sc_request_state { SC_REQUEST_WAITING, SC_REQUEST_RUNNING, SC_REQUEST_ENDED };

struct sc_request {
    atomic_uint n_refs;
    atomic_bool canceled;
    struct sc_request *next; /* in the inbox or the queue */
    uint64_t arrival;        /* order in the queue */

    /* Fixed at submit. */
    struct sc_arena arena;
    const struct sc_model_config *config;
    uint32_t n_prompt, max_tokens, min_tokens;
    uint32_t reserve_tokens; /* logical length for which pages are reserved */
    bool ignore_eos, include_stop_string, prefill_only;
    struct sc_stop_string *stops;
    uint32_t n_stops;
    int32_t *stop_ids;
    uint32_t n_stop_ids;
    struct sc_recipe recipe;
    struct sc_hash recipe_id;
    char ns[SC_NAMESPACE_BYTES_MAX + 1];
    /* Where its prefixes hang: its own, those of the shared namespace (if any), and those that hold
     * generated tokens, which only this prompt's continuation may use. */
    struct sc_prefix_root root, shared_root, generated_root;
    bool has_shared_root, share;
    int32_t priority;
    uint32_t breakpoint;
    uint32_t document_end; /* of a document that the prompt begins with, or 0 */
    bool retain;
    uint64_t pin_until_us;
    uint64_t deadline_us, submit_us;
    sc_event_fn *on_event;
    void *ctx;
    sc_chunk_fn *on_chunk;

    /* The scheduler thread's. */
    enum sc_request_state state;
    uint32_t slot;            /* SC_SLOT_NONE unless running */
    bool opened;              /* the engine holds a sequence in that slot */
    uint64_t ticket;          /* order of admission */
    uint32_t reserve_pages;   /* grows to what was held when a preemption proved it too low */
    uint32_t decode_pages;    /* the same for when more than the prompt is cached */
    bool preempted;           /* waits to come back */
    uint32_t ns_bucket;       /* of the fair share */
    bool starved;             /* the plan leaves it out because its run finds no pages */
    uint32_t n_starved;       /* steps in a row */
    int32_t *tokens;          /* [n_prompt + max_tokens] */
    uint32_t n_tokens;        /* known: prompt and sampled */
    uint32_t n_fed;           /* of those, in the engine's cache */
    uint32_t path;            /* held node of the last whole block that is cached, or none */
    struct sc_prefix_hit hit; /* locked until the sequence is open: it begins with these */
    uint64_t leader;       /* ticket of an elder that reads what we would: wait for it, 0: none */
    uint32_t leader_until; /* until it has read so many tokens */
    bool loading, load_tried; /* the store is asked for the entries of the breakpoint */
    struct sc_hash load_key;
    bool looked_up;             /* cached_tokens is set */
    uint32_t n_reported;        /* prompt tokens told of by PROGRESS; never goes back */
    struct sc_sampler *sampler; /* NULL with prefill_only */
    struct sc_detok detok;
    uint32_t n_held; /* text that may begin a stop string; whole UTF-8 sequences */
    char held[SC_STOP_STRING_BYTES_MAX];
    struct sc_receipt receipt;
    uint64_t first_step_us, first_token_us, last_token_us; /* CLOCK_MONOTONIC; 0: not yet */
    uint64_t compress_us;                                  /* of sequences closed by preemption */
};

/* What a scheduler knows of its engine and model; fixed at open. */
struct sc_request_limits {
    const struct sc_model *model;
    uint32_t context; /* logical tokens of one sequence */
    uint32_t auto_min_tokens;
    bool sharing;
    uint64_t (*clock)(void *ctx); /* NULL: the machine's */
    void *clock_ctx;
    bool calibrated;
    struct sc_recipe_context recipe_context; /* the engine's: part of every recipe id */
};

/* Checks and copies everything; one reference. The errors are those of sc_sched_submit. */
enum sc_status sc_request_open(const struct sc_request_limits *limits,
                               const struct sc_request_opts *opts, struct sc_request **ret_request,
                               struct sc_err *err) SC_MUST_CHECK;

static inline void sc_request_ref(struct sc_request *r)
{
    atomic_fetch_add_explicit(&r->n_refs, 1, memory_order_relaxed);
}

static inline uint32_t sc_request_completion(const struct sc_request *r)
{
    return r->n_tokens - r->n_prompt;
}

/* All but the last known token are cached, and that one was generated. */
static inline bool sc_request_decodes(const struct sc_request *r)
{
    return r->n_fed >= r->n_prompt && r->n_tokens - r->n_fed == 1;
}

/* CLOCK_MONOTONIC in microseconds, or the simulator's time. */
uint64_t sc_request_clock(const struct sc_request_limits *limits);

#endif
