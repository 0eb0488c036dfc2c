/* shard/engine.h - a group of tensor-parallel ranks that runs step plans.
 *
 * The engine owns one thread (a lone rank that is not pinned: the caller's) and one backend per
 * rank, the weights, the pages and the sequences' page tables. It decides nothing: sc_engine_step
 * executes exactly the plan it is given, on all ranks, and returns when all have finished; a lone
 * rank's device may still be at work within a prompt that the next step compresses. Purity: entries
 * and logits of a sequence depend on its tokens, its recipe, prompt_len and the model alone
 * (base/backend.h). Memory: everything is taken at open; a step allocates nothing. Threads: every
 * call comes from one owner (the scheduler thread), except sc_engine_progress.
 */
#ifndef SC_SHARD_ENGINE_H
#define SC_SHARD_ENGINE_H

#include "base/backend.h"
#include "model/model_dir.h"
#include "shard/calibration.h"
#include "shard/recipe.h"
#include "shard/sampler.h"

#define SC_RANKS_MAX       64u
#define SC_SEQS_MAX        4096u
#define SC_STEP_TOKENS_MAX 8192u
#define SC_SNAPS_MAX       (1u << 20)

struct sc_engine;

struct sc_engine_opts {
    const struct sc_model *model; /* borrowed, must outlive the engine */
    sc_backend_open_fn *open_backend;
    uint32_t n_ranks;   /* tensor-parallel size: divides heads, ffn; KV heads divide or replicate */
    uint32_t n_threads; /* CPU threads of each rank */
    bool pin_threads;
    bool plain_weights;         /* sc_backend_opts.plain_weights */
    uint32_t max_seqs;          /* sequence slots */
    uint32_t max_step_tokens;   /* rows of one step, all runs together */
    uint32_t max_logit_rows;    /* rows of logits of one step; >= max_seqs */
    uint32_t max_context;       /* logical tokens of one sequence; 0: the model's */
    uint32_t max_snaps;         /* snapshots held at once; 0: none */
    uint64_t kv_bytes;          /* memory for pages, of each rank; 0: by kv_share */
    double kv_share;            /* 0..1: of what the device has left after weights and activations;
                                   only where its memory is its own */
    enum sc_dtype kv_dtype;     /* F32, BF16 or I8; not every backend has I8 */
    enum sc_dtype weight_dtype; /* F32, BF16 or I8 */
    enum sc_math math;
    bool strict; /* sc_backend_opts.strict */
    /* What partial sums of activations are as they travel between ranks: F32, or BF16, half the
     * bytes and rounded. Only for ranks with a device each and a network, and not with strict. */
    enum sc_dtype reduce_dtype;
    const int *devices; /* [n_ranks]: GPU of each rank, borrowed; NULL: rank r has GPU r */
    /* NULL, or told by each rank's thread how many of its layers are loaded. */
    void (*on_load)(void *ctx, uint32_t rank, uint32_t done, uint32_t total);
    void *on_load_ctx;
};

enum sc_status sc_engine_open(const struct sc_engine_opts *opts, struct sc_engine **ret_engine,
                              struct sc_err *err) SC_MUST_CHECK;
void sc_engine_close(struct sc_engine *engine); /* joins the rank threads, if any; NULL is fine */

struct sc_engine_info {
    uint32_t n_ranks, max_seqs, max_step_tokens, max_context;
    uint32_t n_pages, n_pages_free; /* of each rank; the same on all */
    uint32_t n_pages_cached;        /* held by snapshots alone */
    uint32_t n_counted_cached;      /* of those, counted by sc_engine_count_pages */
    uint32_t max_snaps;
    size_t page_bytes;     /* of each rank */
    uint64_t weight_bytes; /* source bytes of all ranks' slices */
    uint64_t kept_bytes;   /* memory of all ranks' matrices */
    uint64_t steps, generation;
    enum sc_dtype kv_dtype, weight_dtype;
    uint32_t arithmetic; /* sc_backend.arithmetic, and reduce_dtype */
    double weight_error; /* relative rms of weights as kept against the checkpoint; 0 when exact */
    double weight_error_worst; /* of one matrix */
    char backend[96];
};
void sc_engine_get_info(const struct sc_engine *engine, struct sc_engine_info *ret_info);

/* Needed before the first COMPRESSED sequence: key variances and thresholds. Copies, for all ranks
 * or for none. SC_EINVAL: another model's shape, or a COMPRESSED sequence is open. */
enum sc_status sc_engine_set_calibration(struct sc_engine *engine,
                                         const struct sc_calibration *calibration,
                                         struct sc_err *err) SC_MUST_CHECK;
const struct sc_calibration *sc_engine_calibration(const struct sc_engine *engine); /* or NULL */

/* What compression did, for `inspect`: rank 0 calls it for each (layer, chunk) as it is compressed,
 * during a step, in order of layer within an epoch. Must not block. */
struct sc_chunk_event {
    uint32_t slot, layer, pos0, n_tokens, n_cores;
    const uint8_t *labels; /* [n_tokens]; valid during the call */
};
typedef void sc_chunk_fn(void *ctx, const struct sc_chunk_event *event);

struct sc_plan_open {
    uint32_t slot; /* must be free */
    const struct sc_recipe *recipe;
    uint32_t prompt_len; /* logical tokens of the prompt; later tokens are generated */
    /* Where it begins: with the first n_from tokens of a snapshot made under the same recipe, which
     * must be in its range (sc_engine_snap_info), without reading them again. n_from 0: empty. */
    uint32_t from, n_from;
    const int32_t *from_tokens; /* [n_from]: the tokens themselves */
    sc_chunk_fn *on_chunk;      /* or NULL */
    void *on_chunk_ctx;
};

enum sc_logits_want { SC_LOGITS_NONE, SC_LOGITS_LAST, SC_LOGITS_ALL };

struct sc_plan_run {
    uint32_t slot;
    uint32_t pos0;         /* must equal the sequence's logical length */
    uint32_t n_tokens;     /* >= 1; must not cross sc_recipe_next_cut */
    const int32_t *tokens; /* in 0..vocab-1 */
    enum sc_logits_want want;
    struct sc_sampler *sampler; /* or NULL; with SC_LOGITS_LAST: samples the next token */
};

/* A snapshot is the immutable state of a sequence: page tables whose pages it shares with the
 * sequence and with those that begin from it. Pages are written once: the sequence goes on
 * appending behind what the snapshot sees; one that begins from it copies the partly filled last
 * pages. */
struct sc_plan_keep {
    uint32_t slot; /* as the step before left it */
    uint32_t snap; /* must be free, < max_snaps */
};

/* What a snapshot is, without its entries; arrays [n_layers]. */
struct sc_snap_shape {
    uint32_t n_logical, prompt_len, compressed_to, epoch_done;
    uint32_t *n_cores, *exact_lo;
    double *carry;
};

/* A snapshot from outside: its pages are taken, and then filled by moves. */
struct sc_plan_make {
    uint32_t snap;
    const struct sc_recipe *recipe;
    const struct sc_snap_shape *shape;
};

/* The entries of one layer and (global) KV head of a snapshot to or from host memory: K [n,
 * head_dim], V [n, head_dim] in the cache's dtype, bias f32 [n]; cores, then exact entries, n =
 * n_cores + n_logical - exact_lo. The same bytes at any tensor-parallel size. */
struct sc_plan_move {
    uint32_t snap, layer, head;
    bool in;       /* into the pages */
    uint8_t *host; /* [sc_engine_move_bytes(n)] */
};

/* Executed in this order: keeps, makes, moves, drops, closes, opens, runs. A slot has at most one
 * run; a snapshot that is dropped is not used otherwise. */
struct sc_plan {
    const uint32_t *closes;
    const struct sc_plan_open *opens;
    const struct sc_plan_run *runs;
    uint32_t n_closes, n_opens, n_runs;
    const struct sc_plan_keep *keeps;
    const struct sc_plan_make *makes;
    const struct sc_plan_move *moves;
    const uint32_t *drops;
    uint32_t n_keeps, n_makes, n_moves, n_drops;
};

struct sc_run_result {
    enum sc_status status; /* of sampling; SC_OK where nothing was sampled */
    struct sc_sampled sampled;
    const float *logits; /* [n_logit_rows, vocab], valid until the next step. NULL: none
                            were asked for, or the backend chose every token of the step. Those of
                            the row that a sampler drew from may be overwritten */
    uint32_t n_logit_rows;
};

/* results [plan->n_runs]. SC_EFULL: not enough free pages, nothing was executed: normal
 * back-pressure. SC_EINVAL: the plan is wrong, nothing was executed. Anything else: the group
 * failed, all sequences are lost, call sc_engine_reset; what failed may be the step before, if its
 * runs were all within prompts that this one compressed. */
enum sc_status sc_engine_step(struct sc_engine *engine, const struct sc_plan *plan,
                              struct sc_run_result *results, struct sc_err *err) SC_MUST_CHECK;

/* Drops all sequences and snapshots and starts a new generation. */
enum sc_status sc_engine_reset(struct sc_engine *engine, struct sc_err *err) SC_MUST_CHECK;

/* Pages that a run of n_tokens would take at most beyond those held. kept: its plan keeps the
 * sequence as a snapshot, too, which holds on to what compression would give back. wanted: those
 * with which it compresses in one go, and not piece by piece. */
uint32_t sc_engine_pages_needed(const struct sc_engine *engine, uint32_t slot, uint32_t n_tokens,
                                bool kept);
uint32_t sc_engine_pages_wanted(const struct sc_engine *engine, uint32_t slot, uint32_t n_tokens);
/* The same for a sequence that a plan would open and run. */
uint32_t sc_engine_pages_to_open(const struct sc_engine *engine, const struct sc_plan_open *open,
                                 uint32_t n_tokens);
/* Pages that a sequence of that many logical tokens may hold at its peak, estimated from the
 * recipe: exact for EXACT; for COMPRESSED from target_ratio, or what it needs should nothing of it
 * merge, if that is less: the pages of EXACT and a few. exact_then_compress: of a prompt of that
 * many that something follows, up to its compression; from there on it is as without. For
 * admission. */
uint32_t sc_engine_pages_estimate(const struct sc_engine *engine, const struct sc_recipe *recipe,
                                  uint32_t n_tokens);

struct sc_seq_stats {
    uint32_t logical_tokens;
    uint64_t exact_entries;     /* logical tokens x layers: what EXACT would hold */
    uint64_t physical_entries;  /* held now, all layers */
    uint64_t peak_entries;      /* most ever held, all layers */
    uint64_t cores;             /* entries of compressed chunks, all layers (singletons included) */
    uint64_t compressed_tokens; /* token entries those cores stand for */
    uint32_t pages;
    uint64_t compress_us; /* distances, agreement, clustering, merge; rank 0 */
};
void sc_engine_seq_stats(const struct sc_engine *engine, uint32_t slot,
                         struct sc_seq_stats *ret_stats);

struct sc_snap_info {
    uint32_t n_logical; /* it serves prefixes of min_logical..n_logical tokens */
    uint32_t min_logical;
    uint32_t n_pages;   /* in all layers */
    uint32_t n_private; /* of those, held by nobody else: what a drop would free */
    uint32_t n_in_use;  /* of those, held by a sequence, too */
};
void sc_engine_snap_info(const struct sc_engine *engine, uint32_t snap,
                         struct sc_snap_info *ret_info);
/* Pages of several snapshots, each counted once: those of this one that no call has counted since
 * count_anew. How many of all of them are cached is known at any time (sc_engine_info). */
uint32_t sc_engine_count_pages(struct sc_engine *engine, uint32_t snap);
void sc_engine_count_anew(struct sc_engine *engine);
/* Pages that closing the sequence would free: held by nobody else. */
uint32_t sc_engine_seq_private_pages(const struct sc_engine *engine, uint32_t slot);
/* Page tables of snapshots come from a store of fixed size: what is left of it, and what the
 * sequence's snapshot (or one of that shape) would take. */
uint64_t sc_engine_snap_words_free(const struct sc_engine *engine);
uint64_t sc_engine_snap_words_needed(const struct sc_engine *engine, uint32_t slot);
uint64_t sc_engine_shape_words(const struct sc_engine *engine, const struct sc_snap_shape *shape);
uint32_t sc_engine_shape_pages(const struct sc_engine *engine, const struct sc_snap_shape *shape);
/* Copies the shape into the caller's arrays. */
void sc_engine_snap_shape(const struct sc_engine *engine, uint32_t snap,
                          struct sc_snap_shape *shape);
size_t sc_engine_move_bytes(const struct sc_engine *engine, uint32_t n_entries);

/* Steps completed by a rank; any thread. For health and the watchdog. */
uint64_t sc_engine_progress(const struct sc_engine *engine, uint32_t rank);

/* Reads entry i of a layer as rank 0..n-1 hold it: cores first, then exact entries in order. For
 * tests and calibration, between steps. head: global KV head. k, v [head_dim]. */
enum sc_status sc_engine_read_entry(struct sc_engine *engine, uint32_t slot, uint32_t layer,
                                    uint32_t entry, uint32_t head, float *k, float *v, float *bias,
                                    struct sc_err *err) SC_MUST_CHECK;
uint32_t sc_engine_layer_entries(const struct sc_engine *engine, uint32_t slot, uint32_t layer);
uint32_t sc_engine_layer_cores(const struct sc_engine *engine, uint32_t slot, uint32_t layer);

#endif
