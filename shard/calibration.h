/* shard/calibration.h - what GSC has to know of a model: key variances and thresholds per layer.
 *
 * Measured on sample text by sc_calibrate (shard/calibrate.h) and kept beside the model as
 * semanticache-calibration.json. One serves every tensor-parallel size, backend and type; measured
 * again at another of them, its numbers may differ in their last bits.
 * Threads: a plain value, read-only once made.
 */
#ifndef SC_SHARD_CALIBRATION_H
#define SC_SHARD_CALIBRATION_H

#include "base/backend.h"
#include "base/hash.h"
#include "model/config.h"

#define SC_CALIBRATION_VERSION 2u /* of the file */
#define SC_CALIBRATION_FILE    "semanticache-calibration.json"
#define SC_CALIBRATION_RATIOS  13u
#define SC_METRIC_COUNT        4u
#define SC_OUTLIER_SHARE       0.75f /* of the entries that a layer keeps */
#define SC_LAYER_WEIGHT_MIN    1e-3f
#define SC_LAYER_WEIGHT_MAX    1e3f

struct sc_calibration {
    uint32_t n_layers, n_kv_heads, head_dim;
    uint32_t n_tokens; /* of the sample */
    float *key_var;    /* [n_layers, n_kv_heads]: trace of the de-rotated keys' covariance */
    float *mean_key;   /* [n_layers, n_kv_heads, head_dim]: of the de-rotated keys */
    float ratios[SC_CALIBRATION_RATIOS]; /* descending */
    /* [n_layers, SC_CALIBRATION_RATIOS]: tokens further than this from the mean key stay alone, and
     * are SC_OUTLIER_SHARE of what the layer keeps. Units of D. */
    float *alone;
    float *tau;           /* [SC_METRIC_COUNT, n_layers, SC_CALIBRATION_RATIOS], units of D */
    struct sc_hash model; /* fingerprint of the model it was made for */
    /* Layer l keeps a share in proportion to layer_weights[l]: target_ratio is the mean over the
     * compressed layers. All 1 unless someone measured better ones (bench/layer_weights.py). */
    float *layer_weights; /* [n_layers] */
    /* The layers that this model's recipes leave exact unless a request says otherwise, found by
     * measuring answers (bench/quality_results.py). Not known: the rule of sc_recipe_default. */
    bool knows_exact_layers;
    uint64_t exact_layers[SC_LAYERS_MAX / 64]; /* bit l: layer l */
};

enum sc_status sc_calibration_init(struct sc_calibration *c, uint32_t n_layers, uint32_t n_kv_heads,
                                   uint32_t head_dim, struct sc_err *err) SC_MUST_CHECK;
void sc_calibration_fini(struct sc_calibration *c); /* zeroed or half-built is fine */
enum sc_status sc_calibration_copy(struct sc_calibration *dst, const struct sc_calibration *src,
                                   struct sc_err *err) SC_MUST_CHECK;
/* Threshold of a layer for a ratio, interpolated in log(ratio); clamped at the grid's ends. */
float sc_calibration_tau(const struct sc_calibration *c, enum sc_metric metric, uint32_t layer,
                         float ratio);
struct sc_recipe;
/* The share of its entries that a layer is to keep: the recipe's ratio for prompt or generated
 * text, spread over the compressed layers by their weights. None is asked for more than all of its
 * entries: the others then share the rest. */
float sc_calibration_ratio(const struct sc_calibration *c, const struct sc_recipe *recipe,
                           uint32_t layer, bool generated);
/* The threshold of a layer in fixed point, as the recipe asks: from similarity_threshold when it is
 * set (1 - D / D0, where D0 is the distance of two unrelated tokens: 2 per KV head for l2, 1 for
 * cos), else from sc_calibration_ratio. */
int64_t sc_calibration_tau_fixed(const struct sc_calibration *c, const struct sc_recipe *recipe,
                                 uint32_t layer, bool generated);
/* What chunk jobs have as alone_above; INT64_MAX where no token stays alone as an outlier: the
 * recipe does not want it, or has a budget that must hold. */
int64_t sc_calibration_alone_fixed(const struct sc_calibration *c, const struct sc_recipe *recipe,
                                   uint32_t layer, bool generated);
struct sc_hash sc_calibration_hash(const struct sc_calibration *c);

/* SC_ENOENT: no file. Anything else: there is one that cannot be read, or is too long (SC_EIO,
 * SC_EINVAL, SC_ERANGE), damaged, or of another model, shape or version (SC_EFORMAT). */
enum sc_status sc_calibration_load(const char *path, const struct sc_model_config *config,
                                   const struct sc_hash *model, struct sc_calibration *ret_c,
                                   struct sc_err *err) SC_MUST_CHECK;
/* Written to a temporary file in the same directory, synced, then renamed. SC_EIO, SC_ENOMEM: what
 * was there before is as it was. */
enum sc_status sc_calibration_save(const struct sc_calibration *c, const char *path,
                                   struct sc_err *err) SC_MUST_CHECK;
/* Never replaces: of several that write at once the first one's stays, and the others get
 * SC_EEXIST and may read it. */
enum sc_status sc_calibration_save_first(const struct sc_calibration *c, const char *path,
                                         struct sc_err *err) SC_MUST_CHECK;
/* Removes what sc_calibration_load has refused as damaged, and nothing else: *ret_other tells that
 * another has written there since, which stays. On failure either may be the case. */
enum sc_status sc_calibration_remove_damaged(const char *path, const struct sc_model_config *config,
                                             const struct sc_hash *model, bool *ret_other,
                                             struct sc_err *err) SC_MUST_CHECK;
#define SC_CALIBRATION_TMP_AGE_S 3600 /* a temporary file as old as that has no writer any more */
/* Removes what crashes left beside the file at path: its temporary files, when they are old. */
void sc_calibration_clean(const char *path);

#endif
