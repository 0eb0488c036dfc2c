/* model/config.h - what config.json and generation_config.json say, checked.
 *
 * Families: Llama 2/3/3.x, Mistral, Qwen2/2.5, Qwen3 dense. Every value comes from the files; a
 * field or value that changes the forward pass and is not understood is refused with its name.
 * Threads: a plain value, read-only after parsing.
 */
#ifndef SC_MODEL_CONFIG_H
#define SC_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

#define SC_LAYERS_MAX   256u
#define SC_HEADS_MAX    512u
#define SC_HEAD_DIM_MAX 256u
#define SC_HIDDEN_MAX   65536u
#define SC_FFN_MAX      262144u
#define SC_VOCAB_MAX    1048576u
#define SC_CONTEXT_MAX  (1u << 24)
#define SC_EOS_MAX      16u

#define SC_CONFIG_FILE_BYTES_MAX ((size_t)1 << 20) /* config.json, generation_config.json */

enum sc_arch { SC_ARCH_LLAMA, SC_ARCH_MISTRAL, SC_ARCH_QWEN2, SC_ARCH_QWEN3, SC_ARCH_COUNT };

enum sc_rope_kind { SC_ROPE_DEFAULT, SC_ROPE_LINEAR, SC_ROPE_LLAMA3, SC_ROPE_YARN };

struct sc_rope {
    enum sc_rope_kind kind;
    double theta;
    double factor;                            /* linear, llama3, yarn */
    double low_freq_factor, high_freq_factor; /* llama3 */
    uint32_t original_max_positions;          /* llama3, yarn */
    double beta_fast, beta_slow;              /* yarn */
    double attention_factor;                  /* yarn; cos and sin are multiplied by it */
    bool truncate;                            /* yarn: floor/ceil of the correction range */
};

struct sc_model_config {
    enum sc_arch arch;
    uint32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, vocab;
    /* Longest context, logical tokens: max_position_embeddings; for yarn at least factor *
     * original. */
    uint32_t max_positions;
    float rms_eps;
    bool tied_embeddings; /* lm_head is the embedding (sc_model_open looks at the tensors, too) */
    bool qkv_bias;        /* Qwen2 */
    bool qk_norm;         /* Qwen3: RMSNorm over head_dim before RoPE */
    /* Keys a query sees, itself included; 0: all. Per layer. */
    uint32_t sliding_window[SC_LAYERS_MAX];
    struct sc_rope rope;
    enum sc_dtype dtype; /* of the checkpoint, as config.json says; tensors tell their own */

    int32_t bos_id; /* -1: none */
    int32_t eos_ids[SC_EOS_MAX];
    uint32_t n_eos_ids; /* union of config.json and generation_config.json */
    /* Defaults of generation_config.json; < 0: not given. do_sample = false gives temperature 0. */
    float default_temperature, default_top_p, default_repetition_penalty;
    int32_t default_top_k;
};

const char *sc_arch_name(enum sc_arch arch);

/* json: contents of config.json; gen_json: of generation_config.json or NULL. SC_ENOTSUP: a value
 * that changes the forward pass and is not implemented; SC_ERANGE, SC_EINVAL, SC_EFORMAT: the file
 * is bad. */
enum sc_status sc_model_config_parse(const char *json, size_t len, const char *gen_json,
                                     size_t gen_len, struct sc_model_config *ret_config,
                                     struct sc_err *err) SC_MUST_CHECK;
/* From files; generation_config.json is optional. */
enum sc_status sc_model_config_load(const char *dir, struct sc_model_config *ret_config,
                                    struct sc_err *err) SC_MUST_CHECK;

/* ret_inv_freq: head_dim / 2 inverse frequencies after scaling; ret_scale: factor on cos and sin.
 * Equal to transformers' (modeling_rope_utils.py) within one float32 step. max_positions is for
 * kinds whose frequencies depend on the longest context; none of today's do. */
void sc_rope_frequencies(const struct sc_rope *rope, uint32_t head_dim, uint32_t max_positions,
                         float *ret_inv_freq, float *ret_scale);

#endif
