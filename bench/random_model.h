/* bench/random_model.h - a model of a named shape with random bf16 weights, made in memory.
 *
 * Speed depends on shapes and hardly on what weights say. Weights are about normal, from a fixed
 * seed, norms are one. The tokenizer knows only letters and a full stop, so that prompts have
 * sentences for the chunker: sc_random_model_tokens. Memory: one mapping as large as the bf16
 * weights; release gives back all but the embedding. Threads: one owner.
 */
#ifndef SC_BENCH_RANDOM_MODEL_H
#define SC_BENCH_RANDOM_MODEL_H

#include "model/model_dir.h"

#define SC_RANDOM_MODEL_SQUARE (7.0 / 3.0 / 4096.0) /* mean square of a weight */

struct sc_random_model;

/* Shapes in order; NULL at the end. */
const char *sc_random_model_shape(uint32_t i);

/* shape: one of the names above, or a model directory whose config.json gives the shape (its
 * weights are not read). max_positions: the longest context. */
enum sc_status sc_random_model_open(const char *shape, uint32_t max_positions,
                                    struct sc_random_model **ret_model,
                                    struct sc_err *err) SC_MUST_CHECK;
void sc_random_model_close(struct sc_random_model *model); /* NULL is fine */

/* Before each sc_engine_open: (re)makes the weights; the same every time. */
void sc_random_model_fill(struct sc_random_model *model);
/* After it, where the backend keeps copies: gives back the memory of all but the embedding. */
void sc_random_model_release(struct sc_random_model *model);
const struct sc_model *sc_random_model_get(const struct sc_random_model *model);

uint64_t sc_random_model_params(const struct sc_random_model *model);
/* Elements of all matrices that a row is multiplied with, the output matrix apart. */
uint64_t sc_random_model_layer_weights(const struct sc_random_model *model);
uint64_t sc_random_model_head_weights(const struct sc_random_model *model);

/* A prompt: sentences of about 16 tokens; of each 64 tokens, 16 are different, so that there is
 * something to cluster (docs/results/cpu.md). */
void sc_random_model_tokens(const struct sc_random_model *model, int32_t *ret_tokens, uint32_t n);

#endif
