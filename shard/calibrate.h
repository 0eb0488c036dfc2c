/* shard/calibrate.h - measures on sample text what GSC needs: key variances and thresholds.
 *
 * Runs the text EXACT through an idle engine, takes each head's key variance, and finds for each
 * metric, layer and ratio the threshold at which clustering the text's chunks keeps that share of
 * entries. Blocks for as long as a prefill of the text plus some seconds of clustering. Threads:
 * the engine's owner.
 */
#ifndef SC_SHARD_CALIBRATE_H
#define SC_SHARD_CALIBRATE_H

#include "shard/engine.h"

#define SC_CALIBRATION_TOKENS_MIN 64u
#define SC_CALIBRATION_TOKENS_MAX 8192u

/* tokens: SC_CALIBRATION_TOKENS_MIN .. _MAX, within the context. Slot 0 must be free. The result is
 * set on the engine and, when ret_c is not NULL, given to the caller. */
enum sc_status sc_calibrate(struct sc_engine *engine, const struct sc_model *model,
                            const int32_t *tokens, uint32_t n_tokens, struct sc_calibration *ret_c,
                            struct sc_err *err) SC_MUST_CHECK;

/* On the built-in text; set on the engine. Two engines of one kind measure the same numbers; with
 * another number of ranks, another backend or type they may differ in their last bits. */
enum sc_status sc_calibrate_builtin(struct sc_engine *engine, const struct sc_model *model,
                                    struct sc_err *err) SC_MUST_CHECK;
/* Names what would be measured (the text's tokens, as many as the context takes) and the way to do
 * it; nothing of ranks, backend or types, since one calibration serves them all. */
enum sc_status sc_calibrate_builtin_id(const struct sc_engine *engine, const struct sc_model *model,
                                       struct sc_hash *ret_id, struct sc_err *err) SC_MUST_CHECK;
/* Statuses as sc_calibration_load's. On failure the engine has what it had before. */
enum sc_status sc_calibrate_from_file(struct sc_engine *engine, const struct sc_model *model,
                                      const char *path, struct sc_err *err) SC_MUST_CHECK;

/* The model's own file, where there is one (*ret_found): an error if it cannot be used. */
enum sc_status sc_calibrate_own(struct sc_engine *engine, const struct sc_model *model,
                                bool *ret_found, struct sc_err *err) SC_MUST_CHECK;
/* For programs that keep nothing: the file in the model directory if there is one, else the
 * built-in text. */
enum sc_status sc_calibrate_default(struct sc_engine *engine, const struct sc_model *model,
                                    bool *ret_builtin, struct sc_err *err) SC_MUST_CHECK;

/* Plain English prose for models that bring no file. */
const char *sc_calibration_text(void);

#endif
