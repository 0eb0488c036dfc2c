/* shard/recipe.h - every parameter that changes the KV entries of a prompt.
 *
 * A recipe is a value. Its id (a hash) is part of every cache key: two sequences share entries only
 * when tokens, recipe id and model agree. Algorithm and reasons: docs/compression.md.
 * Threads: pure functions.
 */
#ifndef SC_SHARD_RECIPE_H
#define SC_SHARD_RECIPE_H

#include "base/backend.h"
#include "base/hash.h"
#include "model/config.h"

#define SC_EPOCH_MAX       4096u
#define SC_WINDOW_MAX      65536u
#define SC_CHUNK_MIN       4u
#define SC_CHUNKER_VERSION 1u

enum sc_kv_mode { SC_KV_EXACT, SC_KV_COMPRESSED };
enum sc_chunking { SC_CHUNKS_PACKED, SC_CHUNKS_SENTENCE, SC_CHUNKS_CLAUSE, SC_CHUNKS_FIXED };
enum sc_budget { SC_BUDGET_THRESHOLD, SC_BUDGET_PER_CHUNK };
enum sc_label_scope { SC_LABELS_SHARED, SC_LABELS_PER_HEAD };

struct sc_recipe {
    enum sc_kv_mode mode;
    enum sc_metric metric;
    enum sc_seed_order seed_order;
    enum sc_representative representative;
    enum sc_chunking chunking;
    enum sc_budget budget;
    enum sc_label_scope label_scope;
    bool log_bias;              /* proportional attention: + ln(count) */
    bool keep_outliers;         /* tokens far from the mean key stay alone */
    bool exact_then_compress;   /* the whole prompt exact, then compressed; default: streaming */
    bool compress_generated;    /* generated tokens follow the streaming rule too */
    float target_ratio;         /* cores per token within compressed chunks, (0, 1] */
    float generated_ratio;      /* the same for chunks of generated tokens */
    float similarity_threshold; /* > 0: tau is set from it instead of target_ratio, see recipe.c */
    uint32_t window;            /* latest tokens that stay exact, logical */
    uint32_t epoch;             /* compression happens every so many logical tokens */
    uint32_t n_sinks;           /* first tokens that stay exact */
    uint32_t chunk_min, chunk_target, chunk_max; /* tokens; max <= SC_CHUNK_MAX */
    uint64_t exact_layers[SC_LAYERS_MAX / 64];   /* bit l: layer l is never compressed */
};

/* The defaults of docs/compression.md for this model; layers with a sliding window are exact. */
void sc_recipe_default(const struct sc_model_config *config, enum sc_kv_mode mode,
                       struct sc_recipe *ret_recipe);
/* SC_EINVAL names the field, its value and the limits. */
enum sc_status sc_recipe_check(const struct sc_recipe *recipe, struct sc_err *err) SC_MUST_CHECK;

/* What else decides the bits of an entry, beside the tokens, the recipe and the model's
 * fingerprint. */
struct sc_recipe_context {
    struct sc_hash calibration; /* of the thresholds in use; zeros: none */
    enum sc_dtype kv_dtype, weight_dtype;
    uint32_t arithmetic; /* sc_engine_info.arithmetic */
};

/* EXACT recipes of one context all have one id, whatever their other fields say. */
struct sc_hash sc_recipe_id(const struct sc_recipe *recipe,
                            const struct sc_recipe_context *context);

static inline bool sc_recipe_layer_is_exact(const struct sc_recipe *r, uint32_t layer)
{
    return r->mode == SC_KV_EXACT || ((r->exact_layers[layer / 64] >> (layer % 64)) & 1) != 0;
}

/* A query at position t sees cores for the chunks that end at or before this logical position (0
 * for EXACT). Depends on nothing but its arguments: this is what makes the cache a pure function of
 * the tokens. prompt_len: logical tokens of the prompt, the rest is generated. */
uint32_t sc_recipe_compressed_limit(const struct sc_recipe *recipe, uint32_t prompt_len,
                                    uint32_t t);

/* The first position after pos at which the limit above changes: a run of tokens must not cross it
 * (it may end there). UINT32_MAX: none. */
uint32_t sc_recipe_next_cut(const struct sc_recipe *recipe, uint32_t prompt_len, uint32_t pos);

#endif
