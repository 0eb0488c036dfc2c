#include "daemon/convert.h"

#include <math.h>
#include <string.h>

#include "proto/optional.h"

typedef Semanticache__V1__KvOptions Kv;

/* Enums of the wire are ours plus one: 0 is "unspecified", which keeps the default. */
static enum sc_status take_enum(const char *name, int wire, int n_values, int *value,
                                struct sc_err *err)
{
    if (wire < 0 || wire > n_values)
        return sc_fail(err, SC_EINVAL, "kv.%s: %d, limits 0..%d", name, wire, n_values);
    if (wire != 0)
        *value = wire - 1;
    return SC_OK;
}

_Static_assert((int)SEMANTICACHE__V1__KV_METRIC__KV_METRIC_L2_PRE == SC_METRIC_L2_PRE + 1 &&
                   (int)SEMANTICACHE__V1__KV_METRIC__KV_METRIC_COS_POST == SC_METRIC_COS_POST + 1,
               "metric");
_Static_assert((int)SEMANTICACHE__V1__KV_SEED_ORDER__KV_SEED_ORDER_SCAN == SC_SEED_SCAN + 1,
               "seed");
_Static_assert((int)SEMANTICACHE__V1__KV_REPRESENTATIVE__KV_REPRESENTATIVE_LAST == SC_REP_LAST + 1,
               "representative");
_Static_assert((int)SEMANTICACHE__V1__KV_CHUNKING__KV_CHUNKING_FIXED == SC_CHUNKS_FIXED + 1,
               "chunking");
_Static_assert((int)SEMANTICACHE__V1__KV_BUDGET__KV_BUDGET_PER_CHUNK == SC_BUDGET_PER_CHUNK + 1,
               "budget");
_Static_assert((int)SEMANTICACHE__V1__KV_LABELS__KV_LABELS_PER_HEAD == SC_LABELS_PER_HEAD + 1,
               "labels");

static enum sc_status take_enums(const Kv *kv, struct sc_recipe *r, struct sc_err *err)
{
    int metric = (int)r->metric, seed = (int)r->seed_order, rep = (int)r->representative;
    int chunking = (int)r->chunking, budget = (int)r->budget, labels = (int)r->label_scope;
    int bias = r->log_bias ? 0 : 1, prefill = r->exact_then_compress ? 1 : 0;
    const struct {
        const char *name;
        int wire, n_values;
        int *value;
    } fields[] = {
        {"prefill", (int)kv->prefill, 2, &prefill},
        {"metric", (int)kv->metric, 4, &metric},
        {"seed_order", (int)kv->seed_order, 2, &seed},
        {"bias", (int)kv->bias, 2, &bias},
        {"representative", (int)kv->representative, 3, &rep},
        {"chunking", (int)kv->chunking, 4, &chunking},
        {"budget", (int)kv->budget, 2, &budget},
        {"labels", (int)kv->labels, 2, &labels},
    };

    for (size_t i = 0; i < SC_ARRAY_LEN(fields); i++) {
        enum sc_status st =
            take_enum(fields[i].name, fields[i].wire, fields[i].n_values, fields[i].value, err);
        if (st != SC_OK)
            return st;
    }
    r->metric = (enum sc_metric)metric;
    r->seed_order = (enum sc_seed_order)seed;
    r->representative = (enum sc_representative)rep;
    r->chunking = (enum sc_chunking)chunking;
    r->budget = (enum sc_budget)budget;
    r->label_scope = (enum sc_label_scope)labels;
    r->log_bias = bias == 0;
    r->exact_then_compress = prefill == 1;
    return SC_OK;
}

/* A layer that sees a sliding window forgets old tokens anyway, and is never compressed. */
static void add_sliding_layers(const struct sc_model_config *config, struct sc_recipe *r)
{
    for (uint32_t layer = 0; layer < config->n_layers; layer++) {
        if (config->sliding_window[layer] != 0)
            r->exact_layers[layer / 64] |= 1ull << (layer % 64);
    }
}

static enum sc_status take_layers(const struct sc_convert *c, const Kv *kv, struct sc_recipe *r,
                                  struct sc_err *err)
{
    const struct sc_model_config *config = &c->model->config;

    if (kv->exact_layers == NULL)
        return SC_OK;
    memset(r->exact_layers, 0, sizeof(r->exact_layers));
    for (size_t i = 0; i < kv->exact_layers->n_layers; i++) {
        uint32_t layer = kv->exact_layers->layers[i];
        if (layer >= config->n_layers)
            return sc_fail(err, SC_EINVAL, "kv.exact_layers: layer %u, limits 0..%u", layer,
                           config->n_layers - 1);
        r->exact_layers[layer / 64] |= 1ull << (layer % 64);
    }
    add_sliding_layers(config, r);
    return SC_OK;
}

static enum sc_status take_numbers(const Kv *kv, struct sc_recipe *r, struct sc_err *err)
{
    r->target_ratio = SC_PB_GET(kv, target_ratio, r->target_ratio);
    r->generated_ratio = SC_PB_GET(kv, generated_ratio, r->generated_ratio);
    r->compress_generated = SC_PB_GET(kv, compress_generated, r->compress_generated);
    r->keep_outliers = SC_PB_GET(kv, keep_outliers, r->keep_outliers);
    r->window = SC_PB_GET(kv, window, r->window);
    r->epoch = SC_PB_GET(kv, epoch, r->epoch);
    r->n_sinks = SC_PB_GET(kv, sinks, r->n_sinks);
    r->chunk_min = SC_PB_GET(kv, chunk_min, r->chunk_min);
    r->chunk_target = SC_PB_GET(kv, chunk_target, r->chunk_target);
    r->chunk_max = SC_PB_GET(kv, chunk_max, r->chunk_max);
    if (r->chunk_min > r->chunk_target || r->chunk_target > r->chunk_max)
        return sc_fail(err, SC_EINVAL,
                       "kv.chunk_min, chunk_target, chunk_max: %u, %u, %u, must not fall",
                       r->chunk_min, r->chunk_target, r->chunk_max);
    if (SC_PB_HAS(kv, similarity_threshold)) {
        if (!(kv->similarity_threshold > 0 && kv->similarity_threshold < 1))
            return sc_fail(err, SC_EINVAL,
                           "kv.similarity_threshold: %.9g, must be above 0 and below 1",
                           (double)kv->similarity_threshold);
        if (SC_PB_HAS(kv, target_ratio))
            return sc_fail(
                err, SC_EINVAL,
                "kv.similarity_threshold: stands instead of target_ratio, not beside it");
        if (r->budget == SC_BUDGET_PER_CHUNK)
            return sc_fail(err, SC_EINVAL,
                           "kv.similarity_threshold: not with budget per_chunk, which keeps "
                           "target_ratio of each chunk");
        r->similarity_threshold = kv->similarity_threshold;
    }
    return SC_OK;
}

void sc_default_recipe(const struct sc_convert *c, enum sc_kv_mode mode,
                       struct sc_recipe *ret_recipe)
{
    sc_recipe_default(&c->model->config, mode, ret_recipe);
    if (mode == SC_KV_COMPRESSED)
        ret_recipe->target_ratio = c->config->target_ratio;
    if (c->exact_layers != NULL) {
        memcpy(ret_recipe->exact_layers, c->exact_layers, sizeof(ret_recipe->exact_layers));
        add_sliding_layers(&c->model->config, ret_recipe);
    }
}

enum sc_status sc_convert_kv(const struct sc_convert *c, const Kv *kv,
                             enum sc_kv_choice default_choice, struct sc_request_opts *opts,
                             struct sc_err *err)
{
    static const Kv none = SEMANTICACHE__V1__KV_OPTIONS__INIT;
    struct sc_recipe *r = &opts->recipe;
    int choice = (int)default_choice;
    enum sc_status st;

    _Static_assert(
        (int)SEMANTICACHE__V1__KV_MODE__KV_MODE_COMPRESSED == SC_KV_CHOICE_COMPRESSED + 1, "mode");
    if (kv == NULL)
        kv = &none;
    st = take_enum("mode", (int)kv->mode, 3, &choice, err);
    if (st != SC_OK)
        return st;
    opts->kv = (enum sc_kv_choice)choice;
    /* Ablation fields are checked in EXACT, too: a wrong one is a mistake wherever it stands. */
    sc_default_recipe(c, SC_KV_COMPRESSED, r);
    st = take_enums(kv, r, err);
    if (st == SC_OK)
        st = take_layers(c, kv, r, err);
    if (st == SC_OK)
        st = take_numbers(kv, r, err);
    if (st == SC_OK) {
        st = sc_recipe_check(r, err);
        if (st != SC_OK)
            return sc_err_prefix(err, st, "kv");
    }
    if (st == SC_OK && opts->kv == SC_KV_CHOICE_EXACT)
        sc_default_recipe(c, SC_KV_EXACT, r);
    return st;
}
