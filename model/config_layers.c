#include <string.h>

#include "model/config_internal.h"

/* Which layers see a window, and which token ids end a text. */

#define MISTRAL_WINDOW   4096u /* class defaults of transformers */
#define QWEN_WINDOW      4096u
#define QWEN_FULL_LAYERS 28u
#define TEMPERATURE_MAX  100.0
#define REPETITION_MAX   100.0
#define REPETITION_MIN   0.01

enum layer_kind { LAYER_FULL, LAYER_SLIDING, LAYER_UNKNOWN };

static enum layer_kind layer_kind_of(const json_t *v)
{
    const char *name = json_string_value(v);
    if (name != NULL && strcmp(name, "full_attention") == 0)
        return LAYER_FULL;
    if (name != NULL && strcmp(name, "sliding_attention") == 0)
        return LAYER_SLIDING;
    return LAYER_UNKNOWN;
}

/* Checks layer_types; false when absent or bad. */
static bool layer_types_valid(struct sc_json_cursor *c, uint32_t n_layers)
{
    const json_t *list = sc_json_get(c, "layer_types");
    char buf[SC_JSON_SHOW_BYTES];
    if (list == NULL)
        return false;
    if (!json_is_array(list) || json_array_size(list) != n_layers) {
        sc_json_refuse(c, SC_EINVAL, "layer_types", "expected num_hidden_layers %u names, got %zu",
                       n_layers, json_array_size(list));
        return false;
    }
    for (uint32_t i = 0; i < n_layers; i++)
        if (layer_kind_of(json_array_get(list, i)) == LAYER_UNKNOWN) {
            c->status = sc_fail(
                c->err, SC_ENOTSUP,
                "%s: layer_types[%u] is %s, supported: \"full_attention\", \"sliding_attention\"",
                c->what, i, sc_json_show(json_array_get(list, i), buf));
            return false;
        }
    return true;
}

/* Llama and Mistral treat all layers alike, whatever layer_types says; only a list that agrees is
 * taken. */
static void check_uniform(struct sc_json_cursor *c, const struct sc_model_config *config)
{
    enum layer_kind want = config->sliding_window[0] != 0 ? LAYER_SLIDING : LAYER_FULL;
    if (!layer_types_valid(c, config->n_layers))
        return;
    const json_t *list = sc_json_get(c, "layer_types");
    for (uint32_t i = 0; i < config->n_layers; i++)
        if (layer_kind_of(json_array_get(list, i)) != want) {
            c->status = sc_fail(c->err, SC_ENOTSUP,
                                "%s: layer_types[%u] is \"%s\", but a %s model with sliding_window "
                                "%u treats all layers alike",
                                c->what, i, json_string_value(json_array_get(list, i)),
                                sc_arch_name(config->arch), config->sliding_window[0]);
            return;
        }
}

static void uniform_windows(struct sc_json_cursor *c, struct sc_model_config *config)
{
    bool off = !sc_json_bool_or(c, "use_sliding_window", true);
    bool absent = c->status == SC_OK && json_object_get(c->obj, "sliding_window") == NULL;
    uint32_t window = (uint32_t)sc_json_int_or(c, "sliding_window", 1, SC_CONTEXT_MAX, 0);
    if (config->arch == SC_ARCH_LLAMA) {
        if (window != 0 && !off)
            sc_json_refuse(c, SC_ENOTSUP, "sliding_window", "supported for llama: null");
        window = 0;
    } else if (absent) {
        window = MISTRAL_WINDOW;
    }
    if (config->arch == SC_ARCH_MISTRAL && off && window != 0) {
        sc_json_refuse(c, SC_ENOTSUP, "use_sliding_window",
                       "not a field of mistral; set sliding_window to null instead");
        return;
    }
    for (uint32_t i = 0; i < config->n_layers; i++)
        config->sliding_window[i] = window;
    check_uniform(c, config);
}

static void qwen_windows(struct sc_json_cursor *c, struct sc_model_config *config)
{
    bool on = sc_json_bool_or(c, "use_sliding_window", false);
    bool absent = c->status == SC_OK && json_object_get(c->obj, "sliding_window") == NULL;
    uint32_t window =
        (uint32_t)sc_json_int_or(c, "sliding_window", 1, SC_CONTEXT_MAX, absent ? QWEN_WINDOW : 0);
    uint32_t n_full =
        (uint32_t)sc_json_int_or(c, "max_window_layers", 0, UINT32_MAX, QWEN_FULL_LAYERS);
    bool listed = layer_types_valid(c, config->n_layers);
    const json_t *list = sc_json_get(c, "layer_types");
    if (!on)
        window = 0;
    for (uint32_t i = 0; i < config->n_layers && c->status == SC_OK; i++) {
        bool sliding = listed ? layer_kind_of(json_array_get(list, i)) == LAYER_SLIDING
                              : window != 0 && i >= n_full;
        if (sliding && window == 0)
            c->status = sc_fail(c->err, SC_EINVAL,
                                "%s: layer_types[%u] is \"sliding_attention\", but "
                                "use_sliding_window is %s and sliding_window %s",
                                c->what, i, on ? "true" : "false", on ? "null" : "unused");
        config->sliding_window[i] = sliding ? window : 0;
    }
}

void sc_config_windows(struct sc_json_cursor *c, struct sc_model_config *config)
{
    if (c->status != SC_OK)
        return;
    if (config->arch == SC_ARCH_QWEN2 || config->arch == SC_ARCH_QWEN3)
        qwen_windows(c, config);
    else
        uniform_windows(c, config);
}

static void add_eos(struct sc_json_cursor *c, struct sc_model_config *config, const json_t *v)
{
    char buf[SC_JSON_SHOW_BYTES];
    if (c->status != SC_OK)
        return;
    if (!json_is_integer(v) || json_integer_value(v) < 0 ||
        json_integer_value(v) >= (json_int_t)config->vocab) {
        c->status =
            sc_fail(c->err, SC_ERANGE, "%s: eos_token_id is %s, expected ids below vocab_size %u",
                    c->what, sc_json_show(v, buf), config->vocab);
        return;
    }
    int32_t id = (int32_t)json_integer_value(v);
    for (uint32_t i = 0; i < config->n_eos_ids; i++)
        if (config->eos_ids[i] == id)
            return;
    if (config->n_eos_ids == SC_EOS_MAX)
        c->status = sc_fail(c->err, SC_ERANGE, "%s: eos_token_id: more than %u ids in all", c->what,
                            SC_EOS_MAX);
    else
        config->eos_ids[config->n_eos_ids++] = id;
}

void sc_config_token_ids(struct sc_json_cursor *c, struct sc_model_config *config)
{
    int64_t top = (int64_t)config->vocab - 1;
    config->bos_id = (int32_t)sc_json_int_or(c, "bos_token_id", 0, top, config->bos_id);
    const json_t *eos = sc_json_get(c, "eos_token_id");
    if (eos == NULL)
        return;
    if (!json_is_array(eos)) {
        add_eos(c, config, eos);
        return;
    }
    for (size_t i = 0; i < json_array_size(eos); i++)
        add_eos(c, config, json_array_get(eos, i));
}

void sc_config_sampling(struct sc_json_cursor *c, struct sc_model_config *config)
{
    bool sample = sc_json_bool_or(c, "do_sample", true);
    float t = (float)sc_json_num_or(c, "temperature", 0.0, TEMPERATURE_MAX, -1.0);
    config->default_temperature = sample ? t : 0.0f;
    config->default_top_p = (float)sc_json_num_or(c, "top_p", 0.0, 1.0, -1.0);
    config->default_top_k = (int32_t)sc_json_int_or(c, "top_k", 0, SC_VOCAB_MAX, -1);
    config->default_repetition_penalty =
        (float)sc_json_num_or(c, "repetition_penalty", REPETITION_MIN, REPETITION_MAX, -1.0);
}
