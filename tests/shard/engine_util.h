/* tests/shard/engine_util.h - an engine on a small model, and prompts run through it block by
 * block. */
#ifndef SC_TESTS_SHARD_ENGINE_UTIL_H
#define SC_TESTS_SHARD_ENGINE_UTIL_H

#include "shard/calibrate.h"
#include "shard/engine.h"

struct rig {
    struct sc_model *model;
    struct sc_engine *engine;
    struct sc_engine_opts opts;
};

/* Opens a model directory and an engine on it; fails the test on any error. max_positions 0: as the
 * model says. tweak may be NULL; it changes the options before the engine opens. */
typedef void rig_tweak(struct sc_engine_opts *opts);
void rig_open(struct rig *rig, const char *dir, uint32_t max_positions, uint32_t n_ranks,
              rig_tweak *tweak);
void rig_close(struct rig *rig);
/* Golden model `name` of tests/golden, with room for n_positions, calibrated: measured by the first
 * engine of its kind, told to the others. */
void rig_open_golden(struct rig *rig, const char *name, uint32_t n_positions, uint32_t n_ranks,
                     rig_tweak *tweak);

/* A recipe whose epochs are short enough for small prompts. */
struct sc_recipe small_recipe(const struct rig *rig, enum sc_kv_mode mode);

/* Pseudo-random ids in [3, vocab) with runs of repeats, so that clusters exist. */
void make_tokens(int32_t *ids, uint32_t n, uint32_t vocab, uint64_t seed);

void must(enum sc_status st, const struct sc_err *err); /* fails the test with err's text */

void seq_open(struct rig *rig, uint32_t slot, const struct sc_recipe *recipe, uint32_t prompt_len);
void seq_close(struct rig *rig, uint32_t slot);
/* Runs ids[pos0 .. pos0 + n) in blocks of at most `block`, cut at epochs; the logits of every
 * position go to logits [n, vocab] when it is not NULL. */
void seq_run(struct rig *rig, uint32_t slot, const struct sc_recipe *recipe, uint32_t prompt_len,
             const int32_t *ids, uint32_t pos0, uint32_t n, uint32_t block, float *logits);

/* Every entry of a sequence (K, V, bias of all layers and heads) as one hash. */
uint64_t seq_entries_hash(struct rig *rig, uint32_t slot);

#endif
