#include "shard/calibration.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/json.h"
#include "shard/calibration_write.h"
#include "shard/recipe.h"

#define FILE_BYTES_MAX ((size_t)64 << 20)
#define NUMBER_MAX     1e9f

static const char *const metric_names[SC_METRIC_COUNT] = {"l2_pre", "l2_post", "cos_pre",
                                                          "cos_post"};

static size_t n_vars(const struct sc_calibration *c)
{
    return (size_t)c->n_layers * c->n_kv_heads;
}

static size_t n_taus(const struct sc_calibration *c)
{
    return (size_t)SC_METRIC_COUNT * c->n_layers * SC_CALIBRATION_RATIOS;
}

static size_t n_alone(const struct sc_calibration *c)
{
    return (size_t)c->n_layers * SC_CALIBRATION_RATIOS;
}

enum sc_status sc_calibration_init(struct sc_calibration *c, uint32_t n_layers, uint32_t n_kv_heads,
                                   uint32_t head_dim, struct sc_err *err)
{
    static const float ratios[SC_CALIBRATION_RATIOS] = {0.80f, 0.65f,  0.50f, 0.40f, 0.333f,
                                                        0.25f, 0.20f,  0.15f, 0.10f, 0.07f,
                                                        0.05f, 0.035f, 0.025f};
    *c = (struct sc_calibration){
        .n_layers = n_layers, .n_kv_heads = n_kv_heads, .head_dim = head_dim};
    memcpy(c->ratios, ratios, sizeof(ratios));
    c->key_var = calloc(n_vars(c), sizeof(float));
    c->tau = calloc(n_taus(c), sizeof(float));
    c->mean_key = calloc(n_vars(c) * head_dim, sizeof(float));
    c->alone = calloc(n_alone(c), sizeof(float));
    c->layer_weights = calloc(n_layers, sizeof(float));
    if (c->key_var == NULL || c->tau == NULL || c->mean_key == NULL || c->alone == NULL ||
        c->layer_weights == NULL) {
        sc_calibration_fini(c);
        return sc_fail(err, SC_ENOMEM, "calibration: out of memory for %u layers of %u KV heads",
                       n_layers, n_kv_heads);
    }
    for (uint32_t l = 0; l < n_layers; l++)
        c->layer_weights[l] = 1.0f;
    for (size_t i = 0; i < n_alone(c); i++)
        c->alone[i] = NUMBER_MAX; /* no outliers */
    return SC_OK;
}

void sc_calibration_fini(struct sc_calibration *c)
{
    free(c->key_var);
    free(c->tau);
    free(c->layer_weights);
    free(c->mean_key);
    free(c->alone);
    *c = (struct sc_calibration){0};
}

enum sc_status sc_calibration_copy(struct sc_calibration *dst, const struct sc_calibration *src,
                                   struct sc_err *err)
{
    enum sc_status st =
        sc_calibration_init(dst, src->n_layers, src->n_kv_heads, src->head_dim, err);
    if (st != SC_OK)
        return st;
    memcpy(dst->key_var, src->key_var, n_vars(src) * sizeof(float));
    memcpy(dst->tau, src->tau, n_taus(src) * sizeof(float));
    memcpy(dst->mean_key, src->mean_key, n_vars(src) * src->head_dim * sizeof(float));
    memcpy(dst->alone, src->alone, n_alone(src) * sizeof(float));
    memcpy(dst->layer_weights, src->layer_weights, src->n_layers * sizeof(float));
    memcpy(dst->ratios, src->ratios, sizeof(src->ratios));
    memcpy(dst->exact_layers, src->exact_layers, sizeof(src->exact_layers));
    dst->knows_exact_layers = src->knows_exact_layers;
    dst->n_tokens = src->n_tokens;
    dst->model = src->model;
    return SC_OK;
}

/* by_ratio [SC_CALIBRATION_RATIOS] */
static float interpolate(const struct sc_calibration *c, const float *by_ratio, float ratio)
{
    uint32_t i = 0;

    if (ratio >= c->ratios[0])
        return by_ratio[0];
    while (i + 1 < SC_CALIBRATION_RATIOS && c->ratios[i + 1] > ratio)
        i++;
    if (i + 1 == SC_CALIBRATION_RATIOS)
        return by_ratio[i];
    float t = (logf(c->ratios[i]) - logf(ratio)) / (logf(c->ratios[i]) - logf(c->ratios[i + 1]));
    return by_ratio[i] + t * (by_ratio[i + 1] - by_ratio[i]);
}

float sc_calibration_tau(const struct sc_calibration *c, enum sc_metric metric, uint32_t layer,
                         float ratio)
{
    return interpolate(c, c->tau + ((size_t)metric * c->n_layers + layer) * SC_CALIBRATION_RATIOS,
                       ratio);
}

float sc_calibration_ratio(const struct sc_calibration *c, const struct sc_recipe *recipe,
                           uint32_t layer, bool generated)
{
    const double ratio = (double)(generated ? recipe->generated_ratio : recipe->target_ratio);
    double unit = 0.0; /* share of a layer of weight 1 */

    /* What full layers cannot take goes to the others, which may fill more of them. */
    for (double before = -1.0; unit > before;) {
        double entries = 0.0, weights = 0.0; /* of the layers that are not full */
        before = unit;
        for (uint32_t l = 0; l < c->n_layers; l++) {
            if (sc_recipe_layer_is_exact(recipe, l))
                continue;
            entries += ratio;
            if (unit * (double)c->layer_weights[l] >= 1.0)
                entries -= 1.0;
            else
                weights += (double)c->layer_weights[l];
        }
        if (weights > 0.0)
            unit = fmax(unit, entries / weights);
    }
    return (float)fmin(unit * (double)c->layer_weights[layer], 1.0);
}

int64_t sc_calibration_tau_fixed(const struct sc_calibration *c, const struct sc_recipe *recipe,
                                 uint32_t layer, bool generated)
{
    double tau;
    if (recipe->similarity_threshold > 0.0f) {
        bool l2 = recipe->metric == SC_METRIC_L2_PRE || recipe->metric == SC_METRIC_L2_POST;
        double unrelated = (l2 ? 2.0 : 1.0) * c->n_kv_heads;
        double allowed = 1.0 - (double)recipe->similarity_threshold;
        tau = unrelated * (generated ? allowed / 2 : allowed); /* generated text: tighter */
    } else {
        tau = sc_calibration_tau(c, recipe->metric, layer,
                                 sc_calibration_ratio(c, recipe, layer, generated));
    }
    if (recipe->label_scope == SC_LABELS_PER_HEAD)
        tau /= c->n_kv_heads; /* one head's share of a sum over all */
    return (int64_t)llround(tau * (double)SC_DIST_ONE);
}

int64_t sc_calibration_alone_fixed(const struct sc_calibration *c, const struct sc_recipe *recipe,
                                   uint32_t layer, bool generated)
{
    if (!recipe->keep_outliers || recipe->budget == SC_BUDGET_PER_CHUNK)
        return INT64_MAX;
    double alone = (double)interpolate(c, c->alone + (size_t)layer * SC_CALIBRATION_RATIOS,
                                       sc_calibration_ratio(c, recipe, layer, generated));
    if (recipe->label_scope == SC_LABELS_PER_HEAD)
        alone /= c->n_kv_heads;
    return (int64_t)llround(alone * (double)SC_DIST_ONE);
}

struct sc_hash sc_calibration_hash(const struct sc_calibration *c)
{
    struct sc_hasher h;
    sc_hasher_init(&h);
    sc_hasher_str(&h, "semanticache calibration");
    sc_hasher_u32(&h, c->n_layers);
    sc_hasher_u32(&h, c->n_kv_heads);
    for (size_t i = 0; i < n_vars(c); i++)
        sc_hasher_f32(&h, c->key_var[i]);
    for (size_t i = 0; i < SC_CALIBRATION_RATIOS; i++)
        sc_hasher_f32(&h, c->ratios[i]);
    for (size_t i = 0; i < n_taus(c); i++)
        sc_hasher_f32(&h, c->tau[i]);
    for (size_t i = 0; i < n_vars(c) * c->head_dim; i++)
        sc_hasher_f32(&h, c->mean_key[i]);
    for (size_t i = 0; i < n_alone(c); i++)
        sc_hasher_f32(&h, c->alone[i]);
    for (size_t i = 0; i < c->n_layers; i++)
        sc_hasher_f32(&h, c->layer_weights[i]);
    for (size_t i = 0; c->knows_exact_layers && i < SC_ARRAY_LEN(c->exact_layers); i++)
        sc_hasher_u64(&h, c->exact_layers[i]);
    return sc_hasher_end(&h);
}

/* NULL: out of memory. */
static json_t *floats_to_json(const float *v, size_t n)
{
    json_t *a = json_array();
    for (size_t i = 0; i < n; i++)
        if (json_array_append_new(a, json_real((double)v[i])) != 0) {
            json_decref(a);
            return NULL;
        }
    return a;
}

/* NULL: out of memory. */
static json_t *layers_to_json(const struct sc_calibration *c)
{
    json_t *a = json_array();
    for (uint32_t l = 0; l < c->n_layers; l++)
        if (((c->exact_layers[l / 64] >> (l % 64)) & 1) != 0 &&
            json_array_append_new(a, json_integer(l)) != 0) {
            json_decref(a);
            return NULL;
        }
    return a;
}

static json_t *to_json(const struct sc_calibration *c)
{
    char hex[2 * SC_HASH_BYTES + 1];
    const size_t per = (size_t)c->n_layers * SC_CALIBRATION_RATIOS;
    json_t *root = json_object(), *tau = json_object();
    struct sc_hash hash;
    int bad = 0;

    sc_hash_hex(&c->model, hex);
    bad |= json_object_set_new(root, "version", json_integer(SC_CALIBRATION_VERSION));
    bad |= json_object_set_new(root, "model", json_string(hex));
    bad |= json_object_set_new(root, "n_layers", json_integer(c->n_layers));
    bad |= json_object_set_new(root, "n_kv_heads", json_integer(c->n_kv_heads));
    bad |= json_object_set_new(root, "n_tokens", json_integer(c->n_tokens));
    if (c->knows_exact_layers)
        bad |= json_object_set_new(root, "exact_layers", layers_to_json(c));
    bad |=
        json_object_set_new(root, "layer_weights", floats_to_json(c->layer_weights, c->n_layers));
    bad |= json_object_set_new(root, "ratios", floats_to_json(c->ratios, SC_CALIBRATION_RATIOS));
    bad |= json_object_set_new(root, "key_var", floats_to_json(c->key_var, n_vars(c)));
    bad |=
        json_object_set_new(root, "mean_key", floats_to_json(c->mean_key, n_vars(c) * c->head_dim));
    bad |= json_object_set_new(root, "alone", floats_to_json(c->alone, n_alone(c)));
    for (uint32_t m = 0; m < SC_METRIC_COUNT; m++)
        bad |= json_object_set_new(tau, metric_names[m], floats_to_json(c->tau + m * per, per));
    bad |= json_object_set_new(root, "tau", tau);
    hash = sc_calibration_hash(c);
    sc_hash_hex(&hash, hex);
    bad |= json_object_set_new(root, "digest", json_string(hex));
    if (bad == 0)
        return root;
    json_decref(root);
    return NULL;
}

static enum sc_status save(const struct sc_calibration *c, const char *path, bool replace,
                           struct sc_err *err)
{
    json_t *root = to_json(c);
    char *text = root != NULL ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    enum sc_status st;

    if (text == NULL) /* and the file that may be there stays as it is */
        st = sc_fail(err, SC_ENOMEM, "%s: out of memory", path);
    else
        st = sc_calibration_write(path, text, replace, err);
    free(text);
    json_decref(root);
    return st;
}

enum sc_status sc_calibration_save(const struct sc_calibration *c, const char *path,
                                   struct sc_err *err)
{
    return save(c, path, true, err);
}

enum sc_status sc_calibration_save_first(const struct sc_calibration *c, const char *path,
                                         struct sc_err *err)
{
    return save(c, path, false, err);
}

static enum sc_status floats_from_json(const json_t *a, const char *field, double low, float *out,
                                       size_t n, struct sc_err *err)
{
    if (!json_is_array(a) || json_array_size(a) != n)
        return sc_fail(err, SC_EFORMAT, "%s: %zu numbers, expected %zu", field,
                       json_is_array(a) ? json_array_size(a) : 0, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(a, i);
        double d = json_number_value(v);
        if (!json_is_number(v) || !isfinite(d) || d < low || d > (double)NUMBER_MAX)
            return sc_fail(err, SC_EFORMAT, "%s[%zu]: must be a number in %g..1e9", field, i, low);
        out[i] = (float)d;
    }
    return SC_OK;
}

/* Absent in files of models for which nobody has measured them. */
static enum sc_status weights_from_json(const json_t *a, struct sc_calibration *c,
                                        struct sc_err *err)
{
    if (a == NULL)
        return SC_OK;
    enum sc_status st =
        floats_from_json(a, "layer_weights", 0.0, c->layer_weights, c->n_layers, err);
    for (uint32_t l = 0; l < c->n_layers && st == SC_OK; l++)
        if (c->layer_weights[l] < SC_LAYER_WEIGHT_MIN || c->layer_weights[l] > SC_LAYER_WEIGHT_MAX)
            st = sc_fail(err, SC_EFORMAT, "layer_weights[%u]: %g, must be %g..%g", l,
                         (double)c->layer_weights[l], (double)SC_LAYER_WEIGHT_MIN,
                         (double)SC_LAYER_WEIGHT_MAX);
    return st;
}

/* The same. */
static enum sc_status layers_from_json(const json_t *a, struct sc_calibration *c,
                                       struct sc_err *err)
{
    if (a == NULL)
        return SC_OK;
    if (!json_is_array(a))
        return sc_fail(err, SC_EFORMAT, "exact_layers: not a list");
    for (size_t i = 0; i < json_array_size(a); i++) {
        const json_t *v = json_array_get(a, i);
        const json_int_t l = json_integer_value(v);
        if (!json_is_integer(v) || l < 0 || l >= c->n_layers)
            return sc_fail(err, SC_EFORMAT, "exact_layers[%zu]: must be a layer of 0..%u", i,
                           c->n_layers - 1);
        c->exact_layers[l / 64] |= 1ull << (l % 64);
    }
    c->knows_exact_layers = true;
    return SC_OK;
}

static enum sc_status parse(const json_t *root, const struct sc_model_config *config,
                            const struct sc_hash *model, struct sc_calibration *c,
                            struct sc_err *err)
{
    char hex[2 * SC_HASH_BYTES + 1];
    const json_t *tau = json_object_get(root, "tau");
    const char *made_for = json_string_value(json_object_get(root, "model"));
    json_int_t version = json_integer_value(json_object_get(root, "version"));
    json_int_t layers = json_integer_value(json_object_get(root, "n_layers"));
    json_int_t heads = json_integer_value(json_object_get(root, "n_kv_heads"));
    enum sc_status st;

    if (version != SC_CALIBRATION_VERSION)
        return sc_fail(err, SC_EFORMAT, "version: %lld, must be %d", (long long)version,
                       SC_CALIBRATION_VERSION);
    sc_hash_hex(model, hex);
    if (made_for == NULL || strcmp(made_for, hex) != 0)
        return sc_fail(err, SC_EFORMAT, "model: made for %.64s, this model is %s",
                       made_for != NULL ? made_for : "nothing", hex);
    if (layers != config->n_layers || heads != config->n_kv_heads)
        return sc_fail(err, SC_EFORMAT, "n_layers, n_kv_heads: %lld, %lld, the model has %u, %u",
                       (long long)layers, (long long)heads, config->n_layers, config->n_kv_heads);
    c->n_tokens = (uint32_t)json_integer_value(json_object_get(root, "n_tokens"));
    c->model = *model;
    st = floats_from_json(json_object_get(root, "ratios"), "ratios", 0.0, c->ratios,
                          SC_CALIBRATION_RATIOS, err);
    if (st == SC_OK)
        st = layers_from_json(json_object_get(root, "exact_layers"), c, err);
    if (st == SC_OK)
        st = weights_from_json(json_object_get(root, "layer_weights"), c, err);
    for (uint32_t i = 1; i < SC_CALIBRATION_RATIOS && st == SC_OK; i++)
        if (c->ratios[i] >= c->ratios[i - 1] || c->ratios[i] <= 0.0f)
            st = sc_fail(err, SC_EFORMAT, "ratios[%u]: %g, must descend and be positive", i,
                         (double)c->ratios[i]);
    if (st == SC_OK)
        st = floats_from_json(json_object_get(root, "key_var"), "key_var", 0.0, c->key_var,
                              n_vars(c), err);
    if (st == SC_OK)
        st = floats_from_json(json_object_get(root, "mean_key"), "mean_key", (double)-NUMBER_MAX,
                              c->mean_key, n_vars(c) * c->head_dim, err);
    if (st == SC_OK)
        st = floats_from_json(json_object_get(root, "alone"), "alone", 0.0, c->alone, n_alone(c),
                              err);
    for (uint32_t m = 0; m < SC_METRIC_COUNT && st == SC_OK; m++) {
        size_t per = (size_t)c->n_layers * SC_CALIBRATION_RATIOS;
        st = floats_from_json(json_object_get(tau, metric_names[m]), metric_names[m], 0.0,
                              c->tau + m * per, per, err);
    }
    return st;
}

/* A lost digit would change every threshold in silence. Files that were written by hand may lack
 * it. */
static enum sc_status check_digest(const json_t *root, const struct sc_calibration *c,
                                   struct sc_err *err)
{
    char hex[2 * SC_HASH_BYTES + 1];
    const json_t *digest = json_object_get(root, "digest");
    struct sc_hash hash = sc_calibration_hash(c);

    sc_hash_hex(&hash, hex);
    if (digest == NULL || (json_is_string(digest) && strcmp(json_string_value(digest), hex) == 0))
        return SC_OK;
    return sc_fail(err, SC_EFORMAT, "digest: %.64s, the numbers give %s: the file is damaged",
                   json_is_string(digest) ? json_string_value(digest) : "not a string", hex);
}

enum sc_status sc_calibration_load(const char *path, const struct sc_model_config *config,
                                   const struct sc_hash *model, struct sc_calibration *ret_c,
                                   struct sc_err *err)
{
    struct sc_calibration c = {0};
    json_t *root = NULL;
    char *text = NULL;
    size_t len = 0;
    enum sc_status st = sc_file_read(NULL, path, FILE_BYTES_MAX, &text, &len, err);

    if (st == SC_OK)
        st = sc_json_parse(text, len, path, &root, err);
    free(text);
    if (st != SC_OK)
        return st;
    st = sc_calibration_init(&c, config->n_layers, config->n_kv_heads, config->head_dim, err);
    if (st == SC_OK)
        st = parse(root, config, model, &c, err);
    if (st == SC_OK)
        st = check_digest(root, &c, err);
    json_decref(root);
    if (st != SC_OK) {
        sc_calibration_fini(&c);
        return sc_err_prefix(err, st, "%s", path);
    }
    *ret_c = c;
    return SC_OK;
}

/* Between reading a file and removing what has its name another may have got that. So it is moved
 * first, to a name that is nobody else's, and looked at there. */
enum sc_status sc_calibration_remove_damaged(const char *path, const struct sc_model_config *config,
                                             const struct sc_hash *model, bool *ret_other,
                                             struct sc_err *err)
{
    char aside[SC_CALIBRATION_PATH_BYTES];
    struct sc_calibration c = {0};
    struct sc_err why = SC_ERR_INIT, damage = SC_ERR_INIT;
    bool other = false;
    enum sc_status st = sc_calibration_take_aside(path, aside, &why);

    if (st == SC_OK) {
        const enum sc_status read = sc_calibration_load(aside, config, model, &c, &damage);
        sc_calibration_fini(&c);
        other = read != SC_EFORMAT && read != SC_ERANGE;
        if (other)
            st = sc_calibration_put_back(aside, path, &why);
        else
            (void)unlink(aside);
    }
    /* Not there: who read it with us was quicker. */
    if (st != SC_OK && st != SC_ENOENT && st != SC_EEXIST)
        return sc_fail(err, st, "%s", why.text);
    *ret_other = other;
    return SC_OK;
}
