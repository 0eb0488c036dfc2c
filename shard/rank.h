/* shard/rank.h - one tensor-parallel rank: its slice of the weights, its pages, its forward pass.
 *
 * Internal to shard/. A rank is driven by its own thread in engine.c; every rank executes the same
 * plans and keeps the same sequence states and page tables, so no table ever travels.
 * Memory: all at open; execute allocates nothing. Threads: one owner.
 */
#ifndef SC_SHARD_RANK_H
#define SC_SHARD_RANK_H

#include "shard/chunker.h"
#include "shard/comm.h"
#include "shard/engine.h"
#include "shard/pages.h"

/* Capacity of one batch of chunk jobs; an epoch of a large model takes several batches. */
#define SC_JOBS_MAX      2048u
#define SC_DIST_INTS_MAX ((size_t)4 << 20)

/* What of the model a rank holds. KV heads are replicated where there are more ranks than heads. */
struct sc_slice {
    uint32_t head0, n_heads, kv_head0, n_kv_heads;
    bool owns_kv; /* false: another rank counts these KV heads' distances */
    uint32_t ffn0, ffn, vocab0, n_vocab;
    uint32_t vocab_widths[SC_RANKS_MAX]; /* of all ranks */
};

/* SC_EINVAL when the model does not divide by n_ranks; names the field. */
enum sc_status sc_slice_init(const struct sc_model_config *config, uint32_t rank, uint32_t n_ranks,
                             struct sc_slice *ret_slice, struct sc_err *err) SC_MUST_CHECK;

struct sc_layer {
    float *in_norm, *post_norm, *q_norm, *k_norm;
    struct sc_matrix *qkv, *o, *gate_up, *down;
};

struct sc_weights {
    struct sc_embedding *embedding;
    struct sc_layer *layers;
    float *final_norm;
    struct sc_matrix *lm_head;
    uint64_t source_bytes; /* of this slice in the checkpoint */
    uint64_t kept_bytes;   /* of all matrices, see matrix_bytes */
    double error2, norm2;  /* sums over all matrices, see matrix_error */
    double worst;          /* largest error2 / norm2 of one matrix */
};

/* rank: its backend, options and slice are set. */
struct sc_rank;
enum sc_status sc_weights_open(const struct sc_rank *rank, struct sc_weights *ret_weights,
                               struct sc_err *err) SC_MUST_CHECK;
void sc_weights_close(struct sc_backend *be, uint32_t n_layers, struct sc_weights *weights);

/* Page tables of one layer of one sequence. exact_pages is indexed by position / SC_PAGE_ENTRIES.
 */
struct sc_seq_layer {
    uint32_t n_cores;
    uint32_t exact_lo; /* first position still held exactly */
    uint32_t *core_pages, *exact_pages;
    double carry;       /* entries that earlier chunks did not use of what they were allowed */
    double epoch_carry; /* the same as this epoch began */
    double share[2];    /* entries per token that are wanted; prompt, generated */
};

struct sc_seq {
    bool open;
    uint32_t slot;
    struct sc_recipe recipe;
    uint32_t prompt_len, n_logical;
    uint32_t compressed_to; /* end of the last compressed chunk */
    uint32_t epoch_done;    /* sc_recipe_compressed_limit reached so far */
    uint64_t tables;        /* sc_attn_seq.tables: another one whenever a page id is replaced */
    int32_t *tokens;        /* [max_context] */
    struct sc_seq_layer *layers;
    int64_t *tau;         /* [2, n_layers]: prompt, generated */
    int64_t *alone_above; /* the same */
    sc_chunk_fn *on_chunk;
    void *on_chunk_ctx;
    struct sc_seq_stats stats;
};

/* The immutable state of a sequence (shard/engine.h). Its page ids, layer by layer, cores before
 * exact ones, lie in blocks of the word store: the first at `head`. */
#define SC_SNAP_BLOCK_WORDS 63u
struct sc_snap_block {
    uint32_t next; /* or SC_SNAP_NO_BLOCK */
    uint32_t words[SC_SNAP_BLOCK_WORDS];
};
#define SC_SNAP_NO_BLOCK UINT32_MAX

struct sc_snap_layer {
    uint32_t n_cores, exact_lo;
    double carry;
};

struct sc_snap {
    bool used;
    struct sc_recipe recipe;
    uint32_t n_logical, min_logical, prompt_len, compressed_to, epoch_done;
    uint32_t head, n_pages;
    struct sc_snap_layer *layers; /* [n_layers] */
};

struct sc_snaps {
    uint32_t n_snaps, n_blocks, n_blocks_free, free_block;
    struct sc_snap *snaps;
    struct sc_snap_layer *layers; /* [n_snaps, n_layers] */
    struct sc_snap_block *blocks;
    uint32_t *move_pages; /* scratch: page ids of one layer */
};

/* Rows of one step, filled by plan order. */
struct sc_rows {
    uint32_t n, n_logits;
    bool delta;                               /* rank->delta is still to be added to resid */
    uint32_t *positions, *slots, *logit_rows; /* [max_step_tokens] */
    int32_t *tokens;
    uint32_t *pages;          /* [n_layers, n] of a step */
    struct sc_attn_seq *attn; /* [n_layers, n_runs] of a step */
};

struct sc_rank {
    uint32_t rank, n_ranks;
    const struct sc_engine_opts *opts; /* the engine's copy */
    const struct sc_model_config *config;
    const struct sc_token_table *classes;
    struct sc_backend *be;
    struct sc_comm *comm;
    struct sc_slice slice;
    struct sc_weights weights;
    struct sc_kv_pool *pool;
    struct sc_pages pages;
    struct sc_calibration calibration; /* key_var NULL: none yet */
    float *inv_var;                    /* [n_layers, n_kv_heads of the slice] */
    float *mean_key;                   /* [n_layers, n_kv_heads of the slice, head_dim] */
    float *inv_freq;
    float rope_scale;
    uint32_t max_context;
    size_t page_bytes;

    struct sc_seq *seqs; /* [max_seqs] */
    uint64_t n_tables;   /* names that were given to page tables */
    void *seq_memory[4]; /* what seqs' pointers point into */
    struct sc_snaps snaps;

    struct sc_rows rows;
    float *resid, *x, *qkv, *attn, *delta, *gate_up, *act, *angles, *last,
        *logits_local; /* device */
    float *best;       /* device [max_logit_rows, 2]: row_max of logits_local or whole */
    float *whole;      /* device [max_logit_rows, vocab]: logits_local of one rank; of several
                          what rank 0 gathered, and the others' scratch for it, or NULL */
    int32_t *dist;     /* device */
    float *logits;     /* rank 0, host: [max_logit_rows, vocab]; whole, if that is the host's */
    float *bests;      /* rank 0, host: [max_logit_rows, n_ranks, 2]; if whole_rows: [.., 1, 2] */
    struct sc_draw *draws; /* host [max_logit_rows] */
    bool *chosen;          /* [max_logit_rows]: the row's token is found by the backend */
    bool only_best;        /* this step: all are, and no logits are asked for */
    uint32_t n_chosen;     /* of them; n_drawn: not the likeliest ones */
    uint32_t n_drawn;
    bool whole_rows;    /* rank 0 needs whole rows of logits, not each rank's best alone */
    uint32_t n_choices; /* tokens that can be sampled: the tokenizer's, without padding */

    struct sc_chunk_job *jobs; /* [SC_JOBS_MAX] */
    uint32_t *job_layers, *job_cores;
    uint32_t *counts;
    uint8_t *labels, *seeds;
    uint32_t n_jobs;
    size_t n_dist, n_labels;
    uint64_t compress_from_us; /* since when the sequence that is being compressed takes time */
};

static inline uint32_t sc_pages_for(uint32_t entries)
{
    return (entries + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
}

enum sc_status sc_rank_open(const struct sc_engine_opts *opts, uint32_t rank, uint32_t max_context,
                            const struct sc_token_table *classes, struct sc_comm *comm,
                            struct sc_rank *ret_rank, struct sc_err *err) SC_MUST_CHECK;
void sc_rank_close(struct sc_rank *rank);

/* One plan, already checked against this state. results: rank 0 only, else NULL. */
enum sc_status sc_rank_execute(struct sc_rank *rank, const struct sc_plan *plan, uint64_t step,
                               uint64_t generation, struct sc_run_result *results,
                               struct sc_err *err) SC_MUST_CHECK;
void sc_rank_reset(struct sc_rank *rank); /* drops all sequences */
/* Takes the value over; its shape was checked. */
static inline const float *sc_rank_mean_keys(const struct sc_rank *rank, uint32_t layer)
{
    return rank->mean_key + (size_t)layer * rank->slice.n_kv_heads * rank->config->head_dim;
}
void sc_rank_set_calibration(struct sc_rank *rank, struct sc_calibration *c);
/* Only the key variances, borrowed for now: what distances need while a calibration is made. */
void sc_rank_use_variances(struct sc_rank *rank, const struct sc_calibration *c);

/* snap.c */
enum sc_status sc_snaps_open(struct sc_rank *rank, struct sc_err *err) SC_MUST_CHECK;
void sc_snaps_close(struct sc_snaps *snaps);
void sc_snaps_reset(struct sc_snaps *snaps); /* forgets all, without giving pages back */
void sc_snap_keep(struct sc_rank *rank, const struct sc_plan_keep *keep);
void sc_snap_make(struct sc_rank *rank, const struct sc_plan_make *make);
enum sc_status sc_snap_move(struct sc_rank *rank, const struct sc_plan_move *move,
                            struct sc_err *err) SC_MUST_CHECK;
void sc_snap_drop(struct sc_rank *rank, uint32_t snap);
/* The pages of the snapshot in order of layer: fn gets the page's index within the layer's cores or
 * exact pages (absolute, as in sc_seq_layer). */
typedef void sc_snap_page_fn(void *ctx, uint32_t layer, bool core, uint32_t index, uint32_t page);
void sc_snap_each_page(const struct sc_rank *rank, const struct sc_snap *snap, sc_snap_page_fn *fn,
                       void *ctx);
/* Gives an empty sequence the first n tokens of a snapshot; copies the partly filled last pages. */
enum sc_status sc_snap_begin(struct sc_rank *rank, struct sc_seq *seq, const struct sc_snap *snap,
                             uint32_t n, struct sc_err *err) SC_MUST_CHECK;
/* Pages that begin takes, in all layers. */
uint32_t sc_snap_begin_pages(const struct sc_rank *rank, const struct sc_snap *snap, uint32_t n);

/* seq.c */
/* Begins from a snapshot where the plan says so: copies pages on the device. */
enum sc_status sc_seq_open(struct sc_rank *rank, const struct sc_plan_open *open,
                           struct sc_err *err) SC_MUST_CHECK;
void sc_seq_close(struct sc_rank *rank, uint32_t slot);
/* Closed and empty, without giving pages back: for a pool that is reset whole. */
void sc_seq_forget(struct sc_rank *rank, struct sc_seq *seq);
/* Takes the pages that n_tokens more will be written to, in all layers. */
void sc_seq_extend(struct sc_rank *rank, struct sc_seq *seq, const int32_t *tokens,
                   uint32_t n_tokens);
/* Gives back exact pages that no query will read again: below exact_lo of each layer. */
void sc_seq_trim(struct sc_rank *rank, struct sc_seq *seq);
/* The same of one layer, whose entries below new_lo are cores now. */
void sc_seq_trim_layer(struct sc_rank *rank, struct sc_seq *seq, uint32_t l, uint32_t new_lo);
void sc_seq_count(struct sc_rank *rank,
                  struct sc_seq *seq); /* refreshes physical and peak entries */
/* Core pages of one layer that compression to limit takes at most where snapshots hold on to the
 * exact pages. */
uint32_t sc_seq_cores_until(const struct sc_recipe *recipe, uint32_t epoch_done, uint32_t limit);
/* As sc_engine_pages_needed. */
uint32_t sc_seq_pages_needed(const struct sc_rank *rank, const struct sc_seq *seq,
                             uint32_t n_tokens, bool kept);
/* The same for one that is about to be opened. */
uint32_t sc_seq_pages_to_open(const struct sc_rank *rank, const struct sc_plan_open *open,
                              uint32_t n_tokens);

/* compress.c: the credit that a layer begins with. */
double sc_seq_first_carry(const struct sc_recipe *recipe);
/* compress.c: brings a sequence to the state that a query at its next position must see. */
enum sc_status sc_seq_compress(struct sc_rank *rank, struct sc_seq *seq,
                               struct sc_err *err) SC_MUST_CHECK;

/* forward.c: runs rows through the model, and chooses from the logits of rows.logit_rows. */
enum sc_status sc_rank_forward(struct sc_rank *rank, const struct sc_plan *plan,
                               struct sc_err *err) SC_MUST_CHECK;

/* choose.c, in the order of a step. What of the step's tokens the backend finds, and what for that
 * must be brought together: all ranks plan alike, before the digest says so and rank 0 samples. */
void sc_rank_plan_choices(struct sc_rank *rank, const struct sc_plan *plan);
/* The largest of each row of this rank's logits, where that is of use. */
enum sc_status sc_rank_best_of_slice(struct sc_rank *rank, struct sc_err *err) SC_MUST_CHECK;
/* A collective: what was chosen, and logits if somebody needs them, come to rank 0's host. */
enum sc_status sc_rank_choose(struct sc_rank *rank, struct sc_err *err) SC_MUST_CHECK;
/* Rank 0: tells the samplers, or has them draw, in plan order. */
void sc_rank_sample(struct sc_rank *rank, const struct sc_plan *plan,
                    struct sc_run_result *results);

/* engine.c: rank r of an idle engine, for calibration. */
struct sc_rank *sc_engine_rank(struct sc_engine *engine, uint32_t r);

#endif
