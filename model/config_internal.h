/* model/config_internal.h - the parts of the config parser; for model/config*.c only.
 *
 * All take the cursor of config.json, leave an error in it, and write plain values.
 */
#ifndef SC_MODEL_CONFIG_INTERNAL_H
#define SC_MODEL_CONFIG_INTERNAL_H

#include "model/config.h"
#include "model/json.h"

/* rope_theta, rope_scaling, rope_parameters; needs head_dim and max_positions, may raise the
 * latter. */
void sc_config_rope(struct sc_json_cursor *c, struct sc_model_config *config);

/* sliding_window, use_sliding_window, max_window_layers, layer_types; needs arch and n_layers. */
void sc_config_windows(struct sc_json_cursor *c, struct sc_model_config *config);

/* bos_token_id and eos_token_id of either file; the ids are added to the union. */
void sc_config_token_ids(struct sc_json_cursor *c, struct sc_model_config *config);

/* Sampling defaults of generation_config.json. */
void sc_config_sampling(struct sc_json_cursor *c, struct sc_model_config *config);

#endif
