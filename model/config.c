#include "model/config.h"

#include <stdlib.h>
#include <string.h>

#include "model/config_internal.h"

/* Where a field is absent, the value is the default of transformers' config class: that is what the
 * checkpoint was saved against. Fields without an agreed default are required. */

static const struct {
    const char *name, *model_type, *architecture;
} families[SC_ARCH_COUNT] = {
    [SC_ARCH_LLAMA] = {"llama", "llama", "LlamaForCausalLM"},
    [SC_ARCH_MISTRAL] = {"mistral", "mistral", "MistralForCausalLM"},
    [SC_ARCH_QWEN2] = {"qwen2", "qwen2", "Qwen2ForCausalLM"},
    [SC_ARCH_QWEN3] = {"qwen3", "qwen3", "Qwen3ForCausalLM"},
};

const char *sc_arch_name(enum sc_arch arch)
{
    return (unsigned)arch < SC_ARCH_COUNT ? families[arch].name : "unknown";
}

static void parse_arch(struct sc_json_cursor *c, struct sc_model_config *config)
{
    const char *type = sc_json_str_or(c, "model_type", NULL);
    unsigned arch = 0;
    if (type == NULL) {
        sc_json_refuse(c, SC_EINVAL, "model_type", "known: llama, mistral, qwen2, qwen3");
        return;
    }
    while (arch < SC_ARCH_COUNT && strcmp(type, families[arch].model_type) != 0)
        arch++;
    if (arch == SC_ARCH_COUNT) {
        sc_json_refuse(c, SC_ENOTSUP, "model_type", "known: llama, mistral, qwen2, qwen3");
        return;
    }
    config->arch = (enum sc_arch)arch;
    const json_t *list = sc_json_get(c, "architectures");
    if (list == NULL)
        return;
    const char *first = json_string_value(json_array_get(list, 0));
    if (json_array_size(list) != 1 || first == NULL)
        sc_json_refuse(c, SC_EINVAL, "architectures", "expected a list of one name");
    else if (strcmp(first, families[arch].architecture) != 0)
        c->status =
            sc_fail(c->err, SC_ENOTSUP, "%s: architectures is [\"%.80s\"], expected %s for %s",
                    c->what, first, families[arch].architecture, type);
}

static void parse_dims(struct sc_json_cursor *c, struct sc_model_config *config)
{
    config->hidden = (uint32_t)sc_json_int(c, "hidden_size", 1, SC_HIDDEN_MAX);
    config->ffn = (uint32_t)sc_json_int(c, "intermediate_size", 1, SC_FFN_MAX);
    config->n_layers = (uint32_t)sc_json_int(c, "num_hidden_layers", 1, SC_LAYERS_MAX);
    config->n_heads = (uint32_t)sc_json_int(c, "num_attention_heads", 1, SC_HEADS_MAX);
    config->vocab = (uint32_t)sc_json_int(c, "vocab_size", 1, SC_VOCAB_MAX);
    config->max_positions = (uint32_t)sc_json_int(c, "max_position_embeddings", 1, SC_CONTEXT_MAX);
    config->rms_eps = (float)sc_json_num_or(c, "rms_norm_eps", 1e-12, 0.1, 1e-6);

    /* Only Llama's class takes an absent count as "as many as heads"; null means that everywhere.
     */
    if (config->arch != SC_ARCH_LLAMA && c->status == SC_OK &&
        json_object_get(c->obj, "num_key_value_heads") == NULL)
        sc_json_refuse(c, SC_EINVAL, "num_key_value_heads", "expected an integer or null");
    config->n_kv_heads =
        (uint32_t)sc_json_int_or(c, "num_key_value_heads", 1, SC_HEADS_MAX, config->n_heads);
    if (c->status == SC_OK && config->n_heads % config->n_kv_heads != 0)
        sc_json_refuse(c, SC_EINVAL, "num_key_value_heads",
                       "which does not divide num_attention_heads %u", config->n_heads);
}

static void parse_head_dim(struct sc_json_cursor *c, struct sc_model_config *config)
{
    if (config->arch == SC_ARCH_QWEN3 && c->status == SC_OK && sc_json_get(c, "head_dim") == NULL)
        sc_json_refuse(c, SC_EINVAL, "head_dim", "required for qwen3");
    config->head_dim = (uint32_t)sc_json_int_or(c, "head_dim", 2, SC_HEAD_DIM_MAX, 0);
    if (c->status == SC_OK && config->head_dim == 0) {
        if (config->hidden % config->n_heads != 0) {
            sc_json_refuse(c, SC_EINVAL, "hidden_size",
                           "not a multiple of num_attention_heads %u, and no head_dim is given",
                           config->n_heads);
            return;
        }
        config->head_dim = config->hidden / config->n_heads;
    }
    if (c->status == SC_OK && (config->head_dim % 2 != 0 || config->head_dim > SC_HEAD_DIM_MAX))
        c->status =
            sc_fail(c->err, SC_ERANGE, "%s: head_dim is %u, expected an even number of at most %u",
                    c->what, config->head_dim, SC_HEAD_DIM_MAX);
}

/* Fields that would change the forward pass, and the one value at which they do not. Absent and
 * null are fine. */
enum neutral { NEUTRAL_FALSE, NEUTRAL_ZERO, NEUTRAL_ONE, NEUTRAL_NONE };
static const struct {
    const char *field;
    enum neutral neutral;
} refusals[] = {
    {"attention_bias", NEUTRAL_FALSE},
    {"qkv_bias", NEUTRAL_FALSE},
    {"mlp_bias", NEUTRAL_FALSE},
    {"add_cross_attention", NEUTRAL_FALSE},
    {"is_encoder_decoder", NEUTRAL_FALSE},
    {"use_qk_norm", NEUTRAL_FALSE},
    {"qk_layernorm", NEUTRAL_FALSE},
    {"use_mrope", NEUTRAL_FALSE},
    {"rope_interleaved", NEUTRAL_FALSE},
    {"rope_interleave", NEUTRAL_FALSE},
    {"scale_embedding", NEUTRAL_FALSE},
    {"pretraining_tp", NEUTRAL_ONE},
    {"partial_rotary_factor", NEUTRAL_ONE},
    {"rotary_pct", NEUTRAL_ONE},
    {"embedding_multiplier", NEUTRAL_ONE},
    {"residual_multiplier", NEUTRAL_ONE},
    {"logits_scaling", NEUTRAL_ONE},
    {"logit_scale", NEUTRAL_ONE},
    {"num_experts", NEUTRAL_ZERO},
    {"num_local_experts", NEUTRAL_ZERO},
    {"n_routed_experts", NEUTRAL_ZERO},
    {"num_experts_per_tok", NEUTRAL_ZERO},
    {"moe_intermediate_size", NEUTRAL_ZERO},
    {"shared_expert_intermediate_size", NEUTRAL_ZERO},
    {"quantization_config", NEUTRAL_NONE},
    {"compression_config", NEUTRAL_NONE},
    {"quantization", NEUTRAL_NONE},
    {"text_config", NEUTRAL_NONE},
    {"vision_config", NEUTRAL_NONE},
    {"audio_config", NEUTRAL_NONE},
    {"attn_logit_softcapping", NEUTRAL_NONE},
    {"final_logit_softcapping", NEUTRAL_NONE},
    {"query_pre_attn_scalar", NEUTRAL_NONE},
    {"attention_multiplier", NEUTRAL_NONE},
    {"attention_chunk_size", NEUTRAL_NONE},
    {"sliding_window_pattern", NEUTRAL_NONE},
    {"clip_qkv", NEUTRAL_NONE},
    {"no_rope_layers", NEUTRAL_NONE},
    {"no_rope_layer_interval", NEUTRAL_NONE},
    {"rope_local_base_freq", NEUTRAL_NONE},
    {"dual_chunk_attention_config", NEUTRAL_NONE},
    {"q_lora_rank", NEUTRAL_NONE},
    {"kv_lora_rank", NEUTRAL_NONE},
    {"per_layer_config", NEUTRAL_NONE},
    {"block_configs", NEUTRAL_NONE},
};

static bool is_neutral(const json_t *v, enum neutral neutral)
{
    switch (neutral) {
    case NEUTRAL_FALSE:
        return json_is_false(v);
    case NEUTRAL_ZERO:
        return json_is_number(v) && json_number_value(v) == 0.0;
    case NEUTRAL_ONE:
        return json_is_number(v) && json_number_value(v) == 1.0;
    default:
        return false;
    }
}

static void parse_refusals(struct sc_json_cursor *c)
{
    static const char *const rules[] = {
        [NEUTRAL_FALSE] = "supported: false",
        [NEUTRAL_ZERO] = "supported: 0",
        [NEUTRAL_ONE] = "supported: 1",
        [NEUTRAL_NONE] = "supported: null",
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(refusals); i++) {
        const json_t *v = sc_json_get(c, refusals[i].field);
        if (v != NULL && !is_neutral(v, refusals[i].neutral))
            sc_json_refuse(c, SC_ENOTSUP, refusals[i].field, "%s", rules[refusals[i].neutral]);
    }
    static const char *const act_fields[] = {"hidden_act", "hidden_activation"};
    for (size_t i = 0; i < SC_ARRAY_LEN(act_fields); i++) {
        const char *act = sc_json_str_or(c, act_fields[i], "silu");
        if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
            sc_json_refuse(c, SC_ENOTSUP, act_fields[i], "supported: \"silu\"");
    }
}

/* `dtype` replaced `torch_dtype`; the tensors tell their own, so a conflict is only worth refusing
 * because it means that the file was edited by hand. */
static void parse_dtype(struct sc_json_cursor *c, struct sc_model_config *config)
{
    static const struct {
        const char *name;
        enum sc_dtype dtype;
    } names[] = {{"float32", SC_DTYPE_F32}, {"bfloat16", SC_DTYPE_BF16}, {"float16", SC_DTYPE_F16}};
    const char *old = sc_json_str_or(c, "torch_dtype", NULL);
    const char *name = sc_json_str_or(c, "dtype", old);
    config->dtype = SC_DTYPE_F32;
    if (c->status != SC_OK || name == NULL)
        return;
    if (old != NULL && strcmp(old, name) != 0) {
        sc_json_refuse(c, SC_EINVAL, "dtype", "but torch_dtype is \"%.40s\"", old);
        return;
    }
    for (size_t i = 0; i < SC_ARRAY_LEN(names); i++)
        if (strcmp(name, names[i].name) == 0) {
            config->dtype = names[i].dtype;
            return;
        }
    sc_json_refuse(c, SC_ENOTSUP, sc_json_get(c, "dtype") != NULL ? "dtype" : "torch_dtype",
                   "supported: float32, bfloat16, float16");
}

static enum sc_status parse_config(const json_t *root, struct sc_model_config *config,
                                   struct sc_err *err)
{
    struct sc_json_cursor c = {.obj = root, .what = "config.json", .err = err};
    *config = (struct sc_model_config){
        .bos_id = -1,
        .default_temperature = -1.0f,
        .default_top_p = -1.0f,
        .default_repetition_penalty = -1.0f,
        .default_top_k = -1,
    };
    parse_arch(&c, config);
    parse_refusals(&c); /* before the shapes: these say best why a model cannot run */
    parse_dims(&c, config);
    parse_head_dim(&c, config);
    parse_dtype(&c, config);
    config->tied_embeddings = sc_json_bool_or(&c, "tie_word_embeddings", false);
    config->qkv_bias = config->arch == SC_ARCH_QWEN2;
    config->qk_norm = config->arch == SC_ARCH_QWEN3;
    sc_config_windows(&c, config);
    sc_config_rope(&c, config);
    sc_config_token_ids(&c, config);
    return c.status;
}

static enum sc_status parse_generation(const json_t *root, struct sc_model_config *config,
                                       struct sc_err *err)
{
    struct sc_json_cursor c = {.obj = root, .what = "generation_config.json", .err = err};
    sc_config_token_ids(&c, config);
    sc_config_sampling(&c, config);
    return c.status;
}

enum sc_status sc_model_config_parse(const char *json, size_t len, const char *gen_json,
                                     size_t gen_len, struct sc_model_config *ret_config,
                                     struct sc_err *err)
{
    struct sc_model_config config;
    json_t *root = NULL, *gen = NULL;
    enum sc_status st = len > SC_CONFIG_FILE_BYTES_MAX || gen_len > SC_CONFIG_FILE_BYTES_MAX
                            ? sc_fail(err, SC_ERANGE, "config.json: %zu bytes, limit %zu",
                                      len > gen_len ? len : gen_len, SC_CONFIG_FILE_BYTES_MAX)
                            : sc_json_parse(json, len, "config.json", &root, err);
    if (st != SC_OK)
        goto out;
    st = parse_config(root, &config, err);
    if (st != SC_OK)
        goto out;
    if (gen_json != NULL) {
        st = sc_json_parse(gen_json, gen_len, "generation_config.json", &gen, err);
        if (st != SC_OK)
            goto out;
        st = parse_generation(gen, &config, err);
        if (st != SC_OK)
            goto out;
    }
    *ret_config = config;
out:
    json_decref(gen);
    json_decref(root);
    return st;
}

enum sc_status sc_model_config_load(const char *dir, struct sc_model_config *ret_config,
                                    struct sc_err *err)
{
    char *json = NULL, *gen = NULL;
    size_t len = 0, gen_len = 0;
    struct sc_err absent = SC_ERR_INIT;
    enum sc_status st =
        sc_file_read(dir, "config.json", SC_CONFIG_FILE_BYTES_MAX, &json, &len, err);
    if (st != SC_OK)
        goto out;
    st = sc_file_read(dir, "generation_config.json", SC_CONFIG_FILE_BYTES_MAX, &gen, &gen_len,
                      &absent);
    if (st != SC_OK && st != SC_ENOENT) {
        st = sc_fail(err, st, "%s", absent.text);
        goto out;
    }
    st = sc_model_config_parse(json, len, gen, gen_len, ret_config, err);
    if (st != SC_OK)
        st = sc_err_prefix(err, st, "%s", dir);
out:
    free(gen);
    free(json);
    return st;
}
