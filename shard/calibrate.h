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

/* What a server does at start: the file in the model directory if there is one, else the built-in
 * text. */
enum sc_status sc_calibrate_default(struct sc_engine *engine, const struct sc_model *model,
                                    bool *ret_builtin, struct sc_err *err) SC_MUST_CHECK;

/* Plain English prose for models that bring no file. */
const char *sc_calibration_text(void);

#endif
