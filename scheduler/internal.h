/* scheduler/internal.h - the scheduler's state, shared by its source files only.
 *
 * scheduler.c: the public calls and the thread's loop. plan.c: admission, preemption, the step
 * plan. share.c, tier.c: prefixes. orders.c: what other threads ask of them. events.c: what a
 * request's owner is told, and how requests end. output.c: from a sampled token to text and stops.
 */
#ifndef SC_SCHEDULER_INTERNAL_H
#define SC_SCHEDULER_INTERNAL_H

#include <pthread.h>

#include "scheduler/queue.h"
#include "scheduler/request.h"

/* Text of one request in one step: what was held back and what one token adds. A longer piece grows
 * it once. */
#define SC_STEP_TEXT_BYTES ((size_t)64 << 10)

/* Steps that a sequence may be left out for want of pages before the youngest is preempted: pages
 * needed for a moment, while an epoch is compressed, come back by themselves. */
#define SC_STARVED_STEPS_MAX 4u

/* Of one plan; what does not fit waits for the next. */
#define SC_PLAN_DROPS_MAX 256u
#define SC_PLAN_MOVES_MAX 4u

/* Snapshots and page tables kept ready, so that a document's is never refused for want of them. */
#define SC_SNAPS_SPARE      8u
#define SC_SNAP_WORDS_SPARE 16u /* one of so many */

struct sc_tier;

struct sc_request_list {
    struct sc_request *head, *tail;
    uint32_t n;
};

/* A snapshot that the next plan keeps. */
struct sc_pending_keep {
    uint32_t node; /* locked */
    bool retain;
    uint64_t pin_until_us;
};

/* A piece of what the cache holds. */
struct sc_kv_list {
    const struct sc_kv_view *view;
    uint32_t at, cap, n;
    struct sc_kv_event *events;
};

struct sc_lookup_order {
    const struct sc_request *request;
    struct sc_lookup *lookup;
};

/* A call of sc_sched_prefixes, sc_sched_flush or sc_sched_kv_blocks that waits for the scheduler's
 * thread. */
struct sc_order {
    struct sc_order *next;
    struct sc_prefix_item *items;
    size_t n;
    struct sc_kv_list *list;      /* or NULL */
    struct sc_lookup_order *look; /* or NULL */
    bool flush, done;
    uint64_t pages;
    enum sc_status status;
};

struct sc_sched {
    /* Fixed at open. */
    struct sc_engine *engine;
    struct sc_request_limits limits;
    uint32_t queue_max, prefill_tokens;
    uint32_t max_seqs, max_step_tokens, n_pages;
    uint64_t prefix_ttl_us;
    struct sc_store *store; /* or NULL */
    uint64_t snap_words;    /* of the engine's store of page tables */
    bool manual;
    pthread_t thread;

    pthread_mutex_t mu;
    pthread_cond_t wake; /* the scheduler thread waits for work */
    /* Guarded by mu. */
    struct sc_request_list inbox;
    struct sc_order *orders; /* FIFO */
    pthread_cond_t answered;
    bool closing;
    bool store_answered; /* a load has come in */
    bool any_canceled;
    struct sc_sched_stats stats; /* .waiting counts the queue, not the inbox */

    /* The scheduler thread's. */
    struct sc_queue *queue;
    /* Too large for the pages that are not pinned; they wait until pins end. */
    struct sc_request_list parked;
    uint64_t parked_until_us;
    uint64_t queue_deadline_us;  /* earliest in the queue; UINT64_MAX: none */
    struct sc_request **running; /* [max_seqs], in order of admission: the last is the youngest */
    uint32_t n_running;
    uint32_t *free_slots; /* [max_seqs] */
    uint32_t n_free_slots;
    uint64_t next_ticket;
    uint64_t prefill_turn;  /* ticket of the last request that got a prefill block */
    uint32_t closing_pages; /* held by the slots in closes */
    bool failed;
    bool all_wait;            /* nobody could run: each waits for the store */
    struct sc_kv_log *kv_log; /* NULL, as prefix */
    void (*on_kv_events)(void *ctx);
    void *kv_ctx;
    uint64_t kv_told;         /* events before this number were announced */
    struct sc_prefix *prefix; /* NULL: nothing is shared */
    uint64_t pins_counted;    /* what the engine has counted is that version of the pins */
    uint64_t pages_pinned;    /* the same: how many */
    struct sc_tier *tier;     /* NULL without a store */
    uint64_t ns_floor; /* of the namespace admitted last: one that was away starts from here */
    bool blocked;      /* the next in the queue found no room; until there is more, or others */
    uint32_t blocked_running;
    int64_t blocked_room;
    uint64_t ns_served[SC_NS_BUCKETS]; /* tokens run for namespaces that hash there: fair share */

    /* The plan; arrays [max_seqs]. closes survive until a step has executed them. */
    uint32_t *closes;
    struct sc_plan_open *opens;
    struct sc_plan_run *runs;
    struct sc_request **run_requests;
    struct sc_run_result *results;
    uint32_t n_closes, n_opens, n_runs;
    struct sc_plan_keep *keeps; /* [max_seqs * 2]; like closes */
    struct sc_pending_keep *pending_keeps;
    uint32_t n_keeps;
    uint64_t keep_words;
    uint32_t drops[SC_PLAN_DROPS_MAX]; /* like closes */
    uint32_t n_drops;
    struct sc_plan_make make;
    struct sc_plan_move moves[SC_PLAN_MOVES_MAX];
    uint32_t n_makes, n_moves;
    struct sc_text text;
};

void sc_list_push(struct sc_request_list *list, struct sc_request *r);
struct sc_request *sc_list_pop(struct sc_request_list *list);

/* plan.c. arrive: estimates pages and queues, or ends the request that can never fit. */
void sc_plan_arrive(struct sc_sched *s, struct sc_request *r);
void sc_plan_admit(struct sc_sched *s);
/* Those that waited for pins, back to the queue, when a pin has ended. */
void sc_plan_unpark(struct sc_sched *s);
/* Fills the plan so that its runs fit into the free pages, preempting where they do not. False:
 * there is nothing to execute. may_evict: where pages are short, the plan is without runs: keeps,
 * drops and closes, after which more are free. */
bool sc_plan_build(struct sc_sched *s, bool may_evict);
/* After SC_EFULL from the engine: preempts the youngest, or parks or ends the only one. */
void sc_plan_make_room(struct sc_sched *s, const struct sc_err *err);
/* After the step: the engine has executed the plan, which it began at start_us. */
void sc_plan_commit(struct sc_sched *s, uint64_t start_us);
/* What is there to execute beside runs: keeps, drops, closes. */
bool sc_plan_has_chores(const struct sc_sched *s);
uint64_t sc_plan_pages_wanted(const struct sc_sched *s); /* by the runs chosen */
/* Of all pins, shared ones once. Looks at all of them when a pin came or went. */
uint64_t sc_plan_pages_pinned(struct sc_sched *s);
/* Held by the cache alone, and not pinned: free when somebody needs them. Of the engine as it is
 * now. */
uint32_t sc_plan_pages_cached(struct sc_sched *s, struct sc_engine_info *ret_info);
/* Gives the request's slot back; closes its sequence with the next step. */
void sc_plan_release(struct sc_sched *s, struct sc_request *r);

/* share.c: prefixes. attach finds where a request that is not open begins, and whom or what it
 * waits for. may_run: false while it waits. */
void sc_share_attach(struct sc_sched *s, struct sc_request *r);
bool sc_share_may_run(struct sc_sched *s, struct sc_request *r);
void sc_share_detach(struct sc_sched *s, struct sc_request *r); /* gives locks and holds back */
/* After its sequence was opened: the snapshot is not needed any more. */
void sc_share_opened(struct sc_sched *s, struct sc_request *r);
/* Keeps the sequence's state where another request may want it: at ends of blocks and the prompt.
 */
void sc_share_after_run(struct sc_sched *s, struct sc_request *r);
/* Keeps whatever it has, before its pages are taken away or it ends. */
void sc_share_before_close(struct sc_sched *s, struct sc_request *r, bool comes_back);
/* After a plan was executed: keeps are live, dropped ids are free. */
void sc_share_commit(struct sc_sched *s);
/* Drops the next snapshot; freed (may be NULL) grows by the pages that only it held. False: none
 * can go, or the plan has no room for more. */
bool sc_share_evict(struct sc_sched *s, uint64_t *freed);
void sc_share_tend(struct sc_sched *s); /* once a loop: spare ids, idle and due ones */
void sc_share_lost(struct sc_sched *s); /* the engine has lost everything */
/* Pages that this admission would find in use already. */
uint32_t sc_share_pages_in_use(const struct sc_sched *s, const struct sc_request *r);
bool sc_share_drop(struct sc_sched *s, uint32_t node); /* false: NONE, or the plan is full */
/* SC_EFULL: too much is pinned. */
enum sc_status sc_share_pin(struct sc_sched *s, uint32_t node, uint64_t until_us) SC_MUST_CHECK;

void sc_lookup_answer(const struct sc_sched *s, const struct sc_lookup_order *order); /* lookup.c */

/* orders.c: waits for the answer. */
enum sc_status sc_orders_give(struct sc_sched *s, struct sc_order *order,
                              struct sc_err *err) SC_MUST_CHECK;
/* Answers the orders that wait, or refuses them all. Those that may change something, or
 * ask for what is kept, wait until the plan has no chores. */
void sc_orders_answer(struct sc_sched *s, enum sc_status refuse);

/* tier.c: documents to the store and back. */
enum sc_status sc_tier_open(struct sc_sched *s, struct sc_err *err) SC_MUST_CHECK;
void sc_tier_close(struct sc_sched *s);
/* Starts to load tokens [0, n) of the request's prompt, under one of its roots. False: not to be
 * had. */
bool sc_tier_load(struct sc_sched *s, const struct sc_request *r, const struct sc_prefix_root *root,
                  const struct sc_hash *key, uint32_t n);
bool sc_tier_is_loading(const struct sc_sched *s, const struct sc_hash *key);
void sc_tier_save(struct sc_sched *s, uint32_t node); /* live; written in slices, one a step */
bool sc_tier_has_work(const struct sc_sched *s);      /* moves for the next plan */
bool sc_tier_add(struct sc_sched *s); /* to the plan; true: it has something to do there */
void sc_tier_commit(struct sc_sched *s);
void sc_tier_lost(struct sc_sched *s); /* the engine has lost everything */

/* tier_blob.c: what a document is in the store. */
size_t sc_tier_shape_bytes(uint32_t n_layers); /* what comes before the entries */
size_t sc_tier_blob_bytes(const struct sc_sched *s, const struct sc_snap_shape *shape);
uint32_t sc_tier_entries(const struct sc_snap_shape *shape, uint32_t layer);
void sc_tier_write_shape(const struct sc_sched *s, const struct sc_snap_shape *shape, uint8_t *to);
/* False: not n tokens of this model's shape, or its parts do not fit together. */
bool sc_tier_read_shape(const struct sc_sched *s, struct sc_blob *blob, uint32_t n,
                        struct sc_snap_shape *shape);

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
