/* shard/calibration.h - what GSC has to know of a model: key variances and thresholds per layer.
 *
 * Measured on sample text by sc_calibrate (shard/calibrate.h) and kept beside the model as
 * semanticache-calibration.json. Independent of the tensor-parallel size.
 * Threads: a plain value, read-only once made.
 */
#ifndef SC_SHARD_CALIBRATION_H
#define SC_SHARD_CALIBRATION_H

#include "base/backend.h"
#include "base/hash.h"
#include "model/config.h"

#define SC_CALIBRATION_FILE   "semanticache-calibration.json"
#define SC_CALIBRATION_RATIOS 10u
#define SC_METRIC_COUNT       4u

struct sc_calibration {
    uint32_t n_layers, n_kv_heads;
    uint32_t n_tokens; /* of the sample */
    float *key_var;    /* [n_layers, n_kv_heads]: trace of the de-rotated keys' covariance */
    float ratios[SC_CALIBRATION_RATIOS]; /* descending */
    float *tau;           /* [SC_METRIC_COUNT, n_layers, SC_CALIBRATION_RATIOS], units of D */
    struct sc_hash model; /* fingerprint of the model it was made for */
    /* The layers that this model's recipes leave exact unless a request says otherwise, found by
     * measuring answers (bench/quality_results.py). Not known: the rule of sc_recipe_default. */
    bool knows_exact_layers;
    uint64_t exact_layers[SC_LAYERS_MAX / 64]; /* bit l: layer l */
};

enum sc_status sc_calibration_init(struct sc_calibration *c, uint32_t n_layers, uint32_t n_kv_heads,
                                   struct sc_err *err) SC_MUST_CHECK;
void sc_calibration_fini(struct sc_calibration *c); /* zeroed or half-built is fine */
enum sc_status sc_calibration_copy(struct sc_calibration *dst, const struct sc_calibration *src,
                                   struct sc_err *err) SC_MUST_CHECK;
/* Threshold of a layer for a ratio, interpolated in log(ratio); clamped at the grid's ends. */
float sc_calibration_tau(const struct sc_calibration *c, enum sc_metric metric, uint32_t layer,
                         float ratio);
struct sc_recipe;
/* The threshold of a layer in fixed point, as the recipe asks: from similarity_threshold when it is
 * set (1 - D / D0, where D0 is the distance of two unrelated tokens: 2 per KV head for l2, 1 for
 * cos), else from the ratio of prompt or generated text. */
int64_t sc_calibration_tau_fixed(const struct sc_calibration *c, const struct sc_recipe *recipe,
                                 uint32_t layer, bool generated);
struct sc_hash sc_calibration_hash(const struct sc_calibration *c);

/* SC_ENOENT: no file; SC_EPERM, SC_EIO: there is one that cannot be read. A file of another model
 * or shape is SC_EFORMAT and says so. */
enum sc_status sc_calibration_load(const char *path, const struct sc_model_config *config,
                                   const struct sc_hash *model, struct sc_calibration *ret_c,
                                   struct sc_err *err) SC_MUST_CHECK;
/* Written to a temporary file in the same directory, then renamed. */
enum sc_status sc_calibration_save(const struct sc_calibration *c, const char *path,
                                   struct sc_err *err) SC_MUST_CHECK;

#endif
