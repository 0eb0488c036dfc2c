#include "shard/recipe.h"

#include <math.h>
#include <string.h>

/* From 16 layers on, the first two stay exact: the first layers want most entries, and there they
 * cost little. Below that they would be a large share of all. */
#define EXACT_LAYERS_FROM 16u

void sc_recipe_default(const struct sc_model_config *config, enum sc_kv_mode mode,
                       struct sc_recipe *ret_recipe)
{
    struct sc_recipe r = {
        .mode = mode,
        .metric = SC_METRIC_L2_PRE,
        .seed_order = SC_SEED_DENSE,
        .representative = SC_REP_MEAN,
        .chunking = SC_CHUNKS_PACKED,
        .budget = SC_BUDGET_THRESHOLD,
        .label_scope = SC_LABELS_SHARED,
        .log_bias = true,
        .keep_outliers = true,
        .compress_generated = true,
        .target_ratio = 0.25f,
        .generated_ratio = 0.5f,
        .window = 256,
        .epoch = 512,
        .n_sinks = 16,
        .chunk_min = 32,
        .chunk_target = 64,
        .chunk_max = 128,
    };
    for (uint32_t l = 0; l < config->n_layers; l++)
        if (config->sliding_window[l] != 0 || (config->n_layers >= EXACT_LAYERS_FROM && l < 2))
            r.exact_layers[l / 64] |= 1ull << (l % 64);
    *ret_recipe = r;
}

static enum sc_status check_range(struct sc_err *err, const char *what, double value, double low,
                                  double high)
{
    if (value >= low && value <= high) /* false for NaN */
        return SC_OK;
    return sc_fail(err, SC_EINVAL, "%s: %g, must be %g..%g", what, value, low, high);
}

enum sc_status sc_recipe_check(const struct sc_recipe *r, struct sc_err *err)
{
    const struct {
        const char *what;
        double value, low, high;
    } checks[] = {
        {"kv mode", r->mode, 0, SC_KV_COMPRESSED},
        {"metric", r->metric, 0, SC_METRIC_COS_POST},
        {"seed order", r->seed_order, 0, SC_SEED_SCAN},
        {"representative", r->representative, 0, SC_REP_LAST},
        {"chunks", r->chunking, 0, SC_CHUNKS_FIXED},
        {"budget", r->budget, 0, SC_BUDGET_PER_CHUNK},
        {"labels", r->label_scope, 0, SC_LABELS_PER_HEAD},
        {"target_ratio", r->target_ratio, 0.01f, 1.0},
        {"generated_ratio", r->generated_ratio, 0.01f, 1.0},
        {"similarity_threshold", r->similarity_threshold, 0.0, 1.0},
        {"window", r->window, 16, SC_WINDOW_MAX},
        {"epoch", r->epoch, 64, SC_EPOCH_MAX},
        {"sinks", r->n_sinks, 0, SC_WINDOW_MAX},
        {"chunk_max", r->chunk_max, SC_CHUNK_MIN, SC_CHUNK_MAX},
        {"chunk_target", r->chunk_target, SC_CHUNK_MIN, r->chunk_max},
        {"chunk_min", r->chunk_min, SC_CHUNK_MIN, r->chunk_target},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(checks); i++) {
        enum sc_status st =
            check_range(err, checks[i].what, checks[i].value, checks[i].low, checks[i].high);
        if (st != SC_OK)
            return st;
    }
    if (r->label_scope == SC_LABELS_PER_HEAD && r->budget == SC_BUDGET_PER_CHUNK)
        return sc_fail(err, SC_ENOTSUP, "labels per_head with budget per_chunk: use threshold");
    return SC_OK;
}

struct sc_hash sc_recipe_id(const struct sc_recipe *r, const struct sc_recipe_context *context)
{
    struct sc_hasher h;
    sc_hasher_init(&h);
    sc_hasher_str(&h, "semanticache recipe 2");
    sc_hasher_u32(&h, context->kv_dtype);
    sc_hasher_u32(&h, context->weight_dtype);
    sc_hasher_u32(&h, context->arithmetic);
    sc_hasher_u32(&h, r->mode);
    if (r->mode == SC_KV_EXACT)
        return sc_hasher_end(&h);
    const uint32_t words[] = {SC_CHUNKER_VERSION,
                              r->metric,
                              r->seed_order,
                              r->representative,
                              r->chunking,
                              r->budget,
                              r->label_scope,
                              r->log_bias,
                              r->keep_outliers,
                              r->exact_then_compress,
                              r->compress_generated,
                              r->window,
                              r->epoch,
                              r->n_sinks,
                              r->chunk_min,
                              r->chunk_target,
                              r->chunk_max};
    for (size_t i = 0; i < SC_ARRAY_LEN(words); i++)
        sc_hasher_u32(&h, words[i]);
    sc_hasher_f32(&h, r->target_ratio);
    sc_hasher_f32(&h, r->generated_ratio);
    sc_hasher_f32(&h, r->similarity_threshold);
    for (size_t i = 0; i < SC_ARRAY_LEN(r->exact_layers); i++)
        sc_hasher_u64(&h, r->exact_layers[i]);
    sc_hasher_bytes(&h, context->calibration.bytes, SC_HASH_BYTES);
    return sc_hasher_end(&h);
}

uint32_t sc_recipe_compressed_limit(const struct sc_recipe *r, uint32_t prompt_len, uint32_t t)
{
    if (r->mode == SC_KV_EXACT || t < r->window)
        return 0;
    if (r->exact_then_compress && t < prompt_len)
        return 0;
    return (t - r->window) / r->epoch * r->epoch;
}

uint32_t sc_recipe_next_cut(const struct sc_recipe *r, uint32_t prompt_len, uint32_t pos)
{
    if (r->mode == SC_KV_EXACT)
        return UINT32_MAX;
    if (r->exact_then_compress && pos < prompt_len)
        return prompt_len;
    if (pos < r->window)
        return r->window + r->epoch;
    return ((pos - r->window) / r->epoch + 1) * r->epoch + r->window;
}
