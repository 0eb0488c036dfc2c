/* scheduler/scheduler.h - requests in, events out; owns the engine's plan.
 *
 * One scheduler thread admits requests in order of arrival, batches their decode tokens with blocks
 * of prefill, runs the engine, samples, detokenises, finds stops, and reports events. It alone
 * decides. A request that finds no free pages waits; a running one that finds none is preempted
 * (youngest first): its pages are dropped and it is prefilled again later, which gives the same
 * tokens because the cache is a pure function of them. Of prompts in prefill each gets a block in
 * turn. Memory: a request's is taken at submit, the rest at open; the loop allocates nothing.
 * Threads: submit, cancel and stats from any thread; events come from the scheduler thread, must
 * not block and must not close the scheduler.
 */
#ifndef SC_SCHEDULER_SCHEDULER_H
#define SC_SCHEDULER_SCHEDULER_H

#include "model/model_dir.h"
#include "scheduler/kv_log.h"
#include "shard/engine.h"
#include "store/store.h"

#define SC_STOP_STRINGS_MAX      16u
#define SC_STOP_STRING_BYTES_MAX 256u
#define SC_STOP_IDS_MAX          64u
#define SC_QUEUE_MAX             65536u
#define SC_PRIORITY_MAX          100 /* and -100 the other way */
#define SC_PINNED_PERCENT_MAX    80u /* of the pages may be pinned */

struct sc_sched;
struct sc_request;

enum sc_finish {
    SC_FINISH_NONE,
    SC_FINISH_STOP,   /* EOS, stop id or stop string */
    SC_FINISH_LENGTH, /* max_tokens or the context's end */
    SC_FINISH_ERROR,  /* status and error tell */
};

/* Microseconds, monotonic differences. */
struct sc_timings {
    uint64_t queue_us;    /* submit to first step */
    uint64_t prefill_us;  /* first step to first token */
    uint64_t ttft_us;     /* submit to first token */
    uint64_t decode_us;   /* first to last token */
    uint64_t compress_us; /* part of the above spent on semantic cores */
};

struct sc_receipt {
    enum sc_kv_mode mode; /* what AUTO became */
    struct sc_hash recipe_id;
    struct sc_seq_stats kv; /* at the end of the request */
    uint32_t cached_tokens; /* logical prompt tokens found in the cache */
    uint32_t preemptions;
};

enum sc_event_kind { SC_EVENT_PROGRESS, SC_EVENT_DELTA, SC_EVENT_DONE };

/* Pointers are valid during the call. DONE comes exactly once and last; an error is a DONE with
 * finish = SC_FINISH_ERROR. */
struct sc_event {
    enum sc_event_kind kind;
    uint32_t prompt_done, prompt_total; /* PROGRESS: logical tokens prefilled */
    const char *text;                   /* DELTA: whole UTF-8 sequences; may be empty */
    size_t text_len;
    const struct sc_sampled *tokens; /* DELTA: tokens since the last one (a held-back stop prefix
                                        delays text, never tokens) */
    uint32_t n_tokens;
    enum sc_finish finish; /* DONE from here on */
    enum sc_status status;
    const char *error;
    int32_t stop_id;         /* the id that ended it, or -1 */
    const char *stop_string; /* the string that ended it, or NULL */
    uint32_t prompt_tokens, completion_tokens;
    struct sc_receipt receipt;
    struct sc_timings timings;
    struct sc_hash prefix_key; /* of the entries after the whole prompt; names them in
                                  sc_sched_prefixes */
};

typedef void sc_event_fn(void *ctx, const struct sc_event *event);

enum sc_kv_choice { SC_KV_CHOICE_AUTO, SC_KV_CHOICE_EXACT, SC_KV_CHOICE_COMPRESSED };

struct sc_request_opts {
    const int32_t *prompt; /* copied; ids in 0..vocab-1 */
    uint32_t n_prompt;     /* >= 1 */
    uint32_t max_tokens;   /* 0: as many as the context holds; n_prompt + max_tokens <= context */
    uint32_t min_tokens;   /* no stop before so many: its ids are banned, its strings overlooked */
    bool ignore_eos;
    bool skip_special_tokens;
    bool include_stop_string;        /* the stop string stays in the text */
    const char *const *stop_strings; /* copied, UTF-8 */
    uint32_t n_stop_strings;
    const int32_t *stop_ids;
    uint32_t n_stop_ids;
    struct sc_sampling sampling;
    enum sc_kv_choice kv;
    struct sc_recipe recipe; /* used when the choice (or AUTO) comes out as COMPRESSED */
    uint64_t deadline_us;    /* CLOCK_MONOTONIC; 0: none; counts time in the queue */
    bool prefill_only;       /* ends (SC_FINISH_LENGTH) after the prompt, no token sampled */
    const char *ns; /* namespace: nothing is shared across two of them; from the caller's identity,
                       never from what it asks. NULL: "". At most SC_NAMESPACE_BYTES_MAX */
    const char *shared_ns; /* or NULL: entries of this one may be read, too */
    int32_t priority;      /* higher is admitted first */
    uint32_t breakpoint;   /* prompt tokens that other requests will share (documents, a system
                              prompt), looked for in the store; 0: none; <= n_prompt */
    /* The prompt begins with a document of so many tokens (0: none; < n_prompt), whose end has this
     * key: where its entries are gone they are kept again as a document's. What recipe or namespace
     * give another key is not this document. */
    uint32_t document_tokens;
    struct sc_hash document_key;
    bool retain; /* prefill_only: the entries after the prompt are a document: evicted last, and
                    written to the store */
    uint64_t pin_until_us; /* retain: CLOCK_MONOTONIC until which they are not evicted at all; 0:
                              not pinned; UINT64_MAX: until unpinned */
    sc_event_fn *on_event;
    void *ctx;
    sc_chunk_fn *on_chunk; /* or NULL; called with ctx by rank 0's thread during steps; after a
                              preemption the same chunks come again */
};

struct sc_sched_opts {
    struct sc_engine *engine;     /* borrowed; used by the scheduler thread only, once open */
    const struct sc_model *model; /* borrowed */
    uint32_t queue_max;           /* waiting requests; more: SC_EFULL */
    uint32_t prefill_tokens;      /* prefill tokens of one step, at most the engine's rows */
    uint32_t auto_min_tokens;     /* AUTO: prompts at least this long are compressed */
    uint64_t prefix_ttl_us;       /* prefixes unused for so long are dropped; 0: never */
    bool no_sharing;              /* no prefix is looked up or kept; for comparison */
    uint64_t (*clock)(void *ctx); /* microseconds; NULL: CLOCK_MONOTONIC. For simulations */
    void *clock_ctx;
    bool manual;            /* no thread: the caller turns the crank, and calls all else from
                               the same thread. Not with a store, nor sc_sched_prefixes */
    struct sc_store *store; /* borrowed; where documents outlive their pages. NULL: none */
    /* or NULL: there are new events of the cache; from the scheduler's thread, must not block */
    void (*on_kv_events)(void *ctx);
    void *kv_ctx;
};

/* The engine's calibration has to be set before. SC_EINVAL: a step of the engine holds fewer tokens
 * than it has sequences, or an option is out of its limits. */
enum sc_status sc_sched_open(const struct sc_sched_opts *opts, struct sc_sched **ret_sched,
                             struct sc_err *err) SC_MUST_CHECK;
/* manual: one turn of the loop. False: there was nothing to do. */
bool sc_sched_turn(struct sc_sched *sched);
/* Ends what still runs with SC_EUNAVAIL, joins the thread. NULL is fine. Requests may be unref'd
 * later. */
void sc_sched_close(struct sc_sched *sched);

/* Does not block. SC_EFULL: queue full. SC_ERANGE: longer than the context (numbers in err).
 * SC_ENOTSUP: COMPRESSED without a calibration (AUTO is EXACT then). SC_EUNAVAIL: closing, or the
 * engine is lost. On success events will come (ret_request is set before the first); the caller
 * holds one reference. */
enum sc_status sc_sched_submit(struct sc_sched *sched, const struct sc_request_opts *opts,
                               struct sc_request **ret_request, struct sc_err *err) SC_MUST_CHECK;
/* Ends the request with SC_ECANCELED within one step; events still come, DONE last. Idempotent. Not
 * after sc_sched_close. */
void sc_sched_cancel(struct sc_sched *sched, struct sc_request *request);
void sc_request_unref(struct sc_request *request);

struct sc_sched_stats {
    uint32_t waiting, running;
    uint64_t submitted, finished, failed, canceled, preempted;
    uint64_t prompt_tokens, completion_tokens; /* totals */
    uint64_t steps;
    uint64_t last_step_us; /* CLOCK_MONOTONIC of the last completed step; 0: none yet */
    uint32_t pages_total, pages_free;
    uint32_t pages_cached; /* held by the prefix cache alone, not pinned: free when needed */
    uint32_t snapshots;    /* resume points held */
    uint64_t prefix_query_tokens, prefix_hit_tokens, prefix_evictions;
    uint64_t store_hits, store_misses; /* loads of documents: done, and not found or not usable */
    bool failed_group;                 /* the engine failed and could not be reset */
};
/* Documents, by the prefix_key of the request that read them. Runs on the scheduler's thread
 * between two steps; the call waits for that. */
enum sc_prefix_op {
    SC_PREFIX_QUERY,
    SC_PREFIX_PIN,    /* until_us; SC_EFULL: too much is pinned; SC_ENOENT: not on the device */
    SC_PREFIX_UNPIN,  /* evictable again */
    SC_PREFIX_FORGET, /* drops the entries and removes them from the store */
};
enum sc_prefix_state {
    SC_PREFIX_ABSENT, /* has to be read again */
    SC_PREFIX_STORED, /* not on the device, but the store has it */
    SC_PREFIX_DEVICE,
};
struct sc_prefix_item {
    enum sc_prefix_op op;
    struct sc_hash key;
    uint64_t until_us;          /* PIN: CLOCK_MONOTONIC; UINT64_MAX: until unpinned */
    enum sc_prefix_state state; /* out: after the operation */
    uint32_t pages;             /* out: on the device, of each rank, shared ones included */
    enum sc_status status;      /* out */
};
/* SC_EUNAVAIL: closing. */
enum sc_status sc_sched_prefixes(struct sc_sched *sched, struct sc_prefix_item *items, size_t n,
                                 struct sc_err *err) SC_MUST_CHECK;
/* Drops what no request uses and nobody pinned; the store keeps its copies. */
enum sc_status sc_sched_flush(struct sc_sched *sched, uint64_t *ret_pages,
                              struct sc_err *err) SC_MUST_CHECK;

/* What enters and leaves the cache; NULL: nothing is shared. Until sc_sched_close. Numbers begin
 * with the time of the start, so that those of an earlier process are never in the ring. */
struct sc_kv_log *sc_sched_kv_log(struct sc_sched *sched);
/* What is in the cache now, told as events that store it, in no order, in pieces: *at is 0 at
 * first, and UINT32_MAX after the last one. Waits for the scheduler's thread for each piece, and
 * the cache goes on between two: with the events from before the first piece on, applied after the
 * last one, one has the whole. sequence is not set. SC_EUNAVAIL: closing. */
enum sc_status sc_sched_kv_blocks(struct sc_sched *sched, const struct sc_kv_view *view,
                                  uint32_t *at, struct sc_kv_event *events, uint32_t cap,
                                  uint32_t *ret_n, struct sc_err *err) SC_MUST_CHECK;

/* What a request would find in the cache now, and why not more. Tells nothing of other namespaces
 * but the shared one. */
enum sc_miss {
    SC_MISS_NONE,         /* all is held but the last token, which is always read */
    SC_MISS_SHARING_OFF,  /* nothing is ever held */
    SC_MISS_SHORT,        /* too few tokens to be worth a look */
    SC_MISS_EVICTED,      /* it was held; as far as the last SC_KV_LOG_EVENTS tell */
    SC_MISS_OTHER_RECIPE, /* under another recipe more is held than this one has or had */
    SC_MISS_OTHER_LENGTH, /* the recipe's entries depend on the prompt's length, and of another
                             length more is held */
    SC_MISS_OTHER_TOKENS, /* what is held goes on with another token */
    SC_MISS_NEVER_READ,   /* nobody has read on, as far as is known */
};
struct sc_lookup {
    uint32_t n_prompt, cached_tokens;
    bool shared; /* they are the shared namespace's */
    enum sc_miss miss;
    uint32_t position; /* first tokens that a prefix of the recipe has in common with it */
    bool has_tokens;   /* OTHER_TOKENS, within the own namespace: the two at position */
    int32_t prompt_token, held_token;
    struct sc_hash recipe_id; /* of the request */
    uint32_t other_tokens;    /* OTHER_RECIPE, OTHER_LENGTH: held there */
    struct sc_hash other_recipe_id;
};
/* As a request with these options, which is not submitted; waits for the scheduler's thread.
 * SC_EUNAVAIL: closing. Other errors are those of sc_sched_submit. */
enum sc_status sc_sched_lookup(struct sc_sched *sched, const struct sc_request_opts *opts,
                               struct sc_lookup *ret_lookup, struct sc_err *err) SC_MUST_CHECK;

void sc_sched_get_stats(struct sc_sched *sched, struct sc_sched_stats *ret_stats);

#endif
