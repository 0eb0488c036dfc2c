#include "model/model_dir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/json.h"

#define LAYER_PREFIX "model.layers."

/* Sizes that tensor shapes are made of; 0 as second dimension means a vector. */
enum dim { DIM_NONE, DIM_HIDDEN, DIM_Q, DIM_KV, DIM_HEAD, DIM_FFN, DIM_VOCAB };

enum need { NEED_ALWAYS, NEED_QKV_BIAS, NEED_QK_NORM, NEED_UNTIED };

struct wanted {
    const char *name;
    enum dim rows, cols;
    enum need need;
};

static const struct wanted layer_tensors[] = {
    {"input_layernorm.weight", DIM_HIDDEN, DIM_NONE, NEED_ALWAYS},
    {"post_attention_layernorm.weight", DIM_HIDDEN, DIM_NONE, NEED_ALWAYS},
    {"self_attn.q_proj.weight", DIM_Q, DIM_HIDDEN, NEED_ALWAYS},
    {"self_attn.k_proj.weight", DIM_KV, DIM_HIDDEN, NEED_ALWAYS},
    {"self_attn.v_proj.weight", DIM_KV, DIM_HIDDEN, NEED_ALWAYS},
    {"self_attn.o_proj.weight", DIM_HIDDEN, DIM_Q, NEED_ALWAYS},
    {"self_attn.q_proj.bias", DIM_Q, DIM_NONE, NEED_QKV_BIAS},
    {"self_attn.k_proj.bias", DIM_KV, DIM_NONE, NEED_QKV_BIAS},
    {"self_attn.v_proj.bias", DIM_KV, DIM_NONE, NEED_QKV_BIAS},
    {"self_attn.q_norm.weight", DIM_HEAD, DIM_NONE, NEED_QK_NORM},
    {"self_attn.k_norm.weight", DIM_HEAD, DIM_NONE, NEED_QK_NORM},
    {"mlp.gate_proj.weight", DIM_FFN, DIM_HIDDEN, NEED_ALWAYS},
    {"mlp.up_proj.weight", DIM_FFN, DIM_HIDDEN, NEED_ALWAYS},
    {"mlp.down_proj.weight", DIM_HIDDEN, DIM_FFN, NEED_ALWAYS},
};

static const struct wanted model_tensors[] = {
    {"model.embed_tokens.weight", DIM_VOCAB, DIM_HIDDEN, NEED_ALWAYS},
    {"model.norm.weight", DIM_HIDDEN, DIM_NONE, NEED_ALWAYS},
    {"lm_head.weight", DIM_VOCAB, DIM_HIDDEN, NEED_UNTIED},
};

static uint64_t dim_of(const struct sc_model_config *config, enum dim dim)
{
    switch (dim) {
    case DIM_HIDDEN:
        return config->hidden;
    case DIM_Q:
        return (uint64_t)config->n_heads * config->head_dim;
    case DIM_KV:
        return (uint64_t)config->n_kv_heads * config->head_dim;
    case DIM_HEAD:
        return config->head_dim;
    case DIM_FFN:
        return config->ffn;
    case DIM_VOCAB:
        return config->vocab;
    default:
        return 0;
    }
}

static bool is_needed(const struct sc_model_config *config, enum need need)
{
    switch (need) {
    case NEED_QKV_BIAS:
        return config->qkv_bias;
    case NEED_QK_NORM:
        return config->qk_norm;
    case NEED_UNTIED:
        return !config->tied_embeddings;
    default:
        return true;
    }
}

static enum sc_status check_one(const struct sc_model_config *config,
                                const struct sc_tensors *tensors, const struct wanted *w,
                                const char *name, struct sc_err *err)
{
    struct sc_tensor_view view;
    if (!is_needed(config, w->need))
        return SC_OK;
    return sc_tensors_get_shaped(tensors, name, dim_of(config, w->rows), dim_of(config, w->cols),
                                 &view, err);
}

static enum sc_status check_wanted(const struct sc_model_config *config,
                                   const struct sc_tensors *tensors, struct sc_err *err)
{
    char name[96];
    for (size_t i = 0; i < SC_ARRAY_LEN(model_tensors); i++) {
        enum sc_status st =
            check_one(config, tensors, &model_tensors[i], model_tensors[i].name, err);
        if (st != SC_OK)
            return st;
    }
    for (uint32_t layer = 0; layer < config->n_layers; layer++)
        for (size_t i = 0; i < SC_ARRAY_LEN(layer_tensors); i++) {
            (void)snprintf(name, sizeof(name), LAYER_PREFIX "%u.%s", layer, layer_tensors[i].name);
            enum sc_status st = check_one(config, tensors, &layer_tensors[i], name, err);
            if (st != SC_OK)
                return st;
        }
    return SC_OK;
}

static bool ends_with(const char *text, const char *suffix)
{
    size_t n = strlen(text), k = strlen(suffix);
    return n >= k && strcmp(text + n - k, suffix) == 0;
}

static bool is_wanted(const struct sc_model_config *config, const char *name)
{
    char canonical[96]; /* the longest wanted name is shorter */
    unsigned layer;
    if (strcmp(name, "lm_head.weight") == 0)
        return true; /* read, or known to equal the embedding */
    for (size_t i = 0; i < SC_ARRAY_LEN(model_tensors); i++)
        if (strcmp(name, model_tensors[i].name) == 0)
            return true;
    if (sscanf(name, LAYER_PREFIX "%9u.", &layer) != 1 || layer >= config->n_layers)
        return false;
    for (size_t i = 0; i < SC_ARRAY_LEN(layer_tensors); i++) {
        (void)snprintf(canonical, sizeof(canonical), LAYER_PREFIX "%u.%s", layer,
                       layer_tensors[i].name);
        if (strcmp(name, canonical) == 0)
            return is_needed(config, layer_tensors[i].need);
    }
    return false;
}

/* Whatever lies among the model's own modules takes part in its forward pass: a bias, a norm, a
 * layer more than config.json has, scales of quantised weights. Old checkpoints store the rope
 * frequencies, which config.json gives, too. Other modules (value heads, draft layers) are beside
 * the point. */
static enum sc_status check_leftover(const struct sc_model_config *config,
                                     const struct sc_tensors *tensors, struct sc_err *err)
{
    for (uint32_t i = 0; i < sc_tensors_count(tensors); i++) {
        const char *name = sc_tensors_name(tensors, i);
        bool own = strncmp(name, "model.", 6) == 0 || strncmp(name, "lm_head.", 8) == 0;
        if (own && !is_wanted(config, name) && !ends_with(name, ".rotary_emb.inv_freq"))
            return sc_fail(err, SC_ENOTSUP,
                           "tensor %.200s: not part of a %s model of %u layers as config.json "
                           "describes it",
                           name, sc_arch_name(config->arch), config->n_layers);
    }
    return SC_OK;
}

static enum sc_status check_tie(struct sc_model_config *config, const struct sc_tensors *tensors,
                                struct sc_err *err)
{
    struct sc_tensor_view embed, head;
    if (!config->tied_embeddings || !sc_tensors_has(tensors, "lm_head.weight"))
        return SC_OK;
    enum sc_status st =
        sc_tensors_get_shaped(tensors, "lm_head.weight", config->vocab, config->hidden, &head, err);
    if (st != SC_OK)
        return st;
    st = sc_tensors_get_shaped(tensors, "model.embed_tokens.weight", config->vocab, config->hidden,
                               &embed, err);
    if (st != SC_OK)
        return st;
    if (head.dtype != embed.dtype || memcmp(head.data, embed.data, embed.bytes) != 0)
        config->tied_embeddings = false;
    return SC_OK;
}

enum sc_status sc_model_check_tensors(struct sc_model_config *config,
                                      const struct sc_tensors *tensors, struct sc_err *err)
{
    enum sc_status st = check_wanted(config, tensors, err);
    if (st == SC_OK)
        st = check_tie(config, tensors, err);
    if (st == SC_OK)
        st = check_leftover(config, tensors, err);
    return st;
}

static enum sc_status hash_file(struct sc_hasher *h, const char *dir, const char *name,
                                size_t limit, struct sc_err *err)
{
    char *bytes = NULL;
    size_t len = 0;
    enum sc_status st = sc_file_read(dir, name, limit, &bytes, &len, err);
    if (st != SC_OK)
        return st;
    sc_hasher_str(h, name);
    sc_hasher_u64(h, len);
    sc_hasher_bytes(h, bytes, len);
    free(bytes);
    return SC_OK;
}

/* The tokenizer is in because the bytes of a token decide where chunks may end. */
static enum sc_status fingerprint(struct sc_model *model, struct sc_err *err)
{
    struct sc_hasher h;
    struct sc_hash weights;
    sc_hasher_init(&h);
    sc_hasher_str(&h, "model 1");
    enum sc_status st = hash_file(&h, model->dir, "config.json", SC_CONFIG_FILE_BYTES_MAX, err);
    if (st == SC_OK)
        st = hash_file(&h, model->dir, "tokenizer.json", SC_TOKENIZER_FILE_BYTES_MAX, err);
    if (st != SC_OK)
        return st;
    sc_tensors_fingerprint(model->tensors, &weights);
    sc_hasher_bytes(&h, weights.bytes, sizeof(weights.bytes));
    model->fingerprint = sc_hasher_end(&h);
    return SC_OK;
}

static enum sc_status open_parts(struct sc_model *model, struct sc_err *err)
{
    enum sc_status st = sc_model_config_load(model->dir, &model->config, err);
    if (st != SC_OK)
        return st;
    st = sc_tensors_open_dir(model->dir, &model->tensors, err);
    if (st != SC_OK)
        return st;
    st = sc_model_check_tensors(&model->config, model->tensors, err);
    if (st != SC_OK)
        return sc_err_prefix(err, st, "%.160s", model->dir);
    st = sc_tokenizer_open_dir(model->dir, &model->tok, err);
    if (st != SC_OK)
        return st;
    /* Padding rows of the embedding are common; an id without a row would read past its end. */
    if (sc_tokenizer_vocab(model->tok) > model->config.vocab)
        return sc_fail(err, SC_EINVAL,
                       "%.160s: tokenizer.json has ids up to %u, but vocab_size of config.json is "
                       "%u",
                       model->dir, sc_tokenizer_vocab(model->tok) - 1, model->config.vocab);
    return fingerprint(model, err);
}

enum sc_status sc_model_open(const char *dir, struct sc_model **ret_model, struct sc_err *err)
{
    struct sc_model *model = calloc(1, sizeof(*model));
    if (model == NULL)
        return sc_fail(err, SC_ENOMEM, "%.160s: %zu bytes", dir, sizeof(*model));
    enum sc_status st = SC_OK;
    model->dir = strdup(dir);
    if (model->dir == NULL)
        st = sc_fail(err, SC_ENOMEM, "%.160s: its name", dir);
    if (st == SC_OK)
        st = open_parts(model, err);
    if (st != SC_OK) {
        sc_model_close(model);
        return st;
    }
    *ret_model = model;
    return SC_OK;
}

void sc_model_close(struct sc_model *model)
{
    if (model == NULL)
        return;
    sc_tokenizer_close(model->tok);
    sc_tensors_close(model->tensors);
    free(model->dir);
    free(model);
}
