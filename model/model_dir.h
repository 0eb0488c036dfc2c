/* model/model_dir.h - a Hugging Face model directory, opened and checked as a whole.
 *
 * After open every tensor that the forward pass reads exists with the right shape and a float type,
 * and no tensor is left over that would change the result, so that shard/ can get its slices
 * without surprises. Weights stay in the page cache; nothing is copied. Threads: read-only after
 * open.
 */
#ifndef SC_MODEL_MODEL_DIR_H
#define SC_MODEL_MODEL_DIR_H

#include "base/hash.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "model/tokenizer.h"

struct sc_model {
    struct sc_model_config config;
    struct sc_tensors *tensors;
    struct sc_tokenizer *tok;
    /* What the cache entries depend on: config.json, tokenizer.json and the weights
     * (sc_tensors_fingerprint). generation_config.json, tokenizer_config.json and templates are not
     * in it: they only choose which tokens are sent. */
    struct sc_hash fingerprint;
    char *dir; /* as given */
};

/* When tie_word_embeddings is true but lm_head.weight exists and differs from the embedding, the
 * two are not tied (as transformers does) and config.tied_embeddings is false. That comparison is
 * the only read of whole tensors. */
enum sc_status sc_model_open(const char *dir, struct sc_model **ret_model,
                             struct sc_err *err) SC_MUST_CHECK;
void sc_model_close(struct sc_model *model); /* NULL is fine */

/* The checks of open on parts already opened; may clear config->tied_embeddings. For tests. */
enum sc_status sc_model_check_tensors(struct sc_model_config *config,
                                      const struct sc_tensors *tensors,
                                      struct sc_err *err) SC_MUST_CHECK;

#endif
