/* Any bytes as config.json, and after the first NUL as generation_config.json: refused with a
 * message, or a config that the forward pass can be sized from. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sc_model_config c;
    struct sc_err err = SC_ERR_INIT;
    const char *text = (const char *)data;
    const char *nul = size > 0 ? memchr(data, 0, size) : NULL;
    size_t len = nul != NULL ? (size_t)(nul - text) : size;
    float inv[SC_HEAD_DIM_MAX / 2], scale;
    if (sc_model_config_parse(text, len, nul != NULL ? nul + 1 : NULL,
                              nul != NULL ? size - len - 1 : 0, &c, &err) != SC_OK) {
        SC_ASSERT(err.text[0] != '\0');
        return 0;
    }
    SC_ASSERT(c.n_layers >= 1 && c.n_layers <= SC_LAYERS_MAX);
    SC_ASSERT(c.n_heads >= 1 && c.n_kv_heads >= 1 && c.n_heads % c.n_kv_heads == 0);
    SC_ASSERT(c.head_dim >= 2 && c.head_dim <= SC_HEAD_DIM_MAX && c.head_dim % 2 == 0);
    SC_ASSERT(c.max_positions >= 1 && c.max_positions <= SC_CONTEXT_MAX);
    SC_ASSERT(c.bos_id < (int32_t)c.vocab && c.n_eos_ids <= SC_EOS_MAX);
    SC_ASSERT(c.rms_eps > 0.0f);
    for (uint32_t i = 0; i < c.n_eos_ids; i++)
        SC_ASSERT(c.eos_ids[i] >= 0 && c.eos_ids[i] < (int32_t)c.vocab);
    sc_rope_frequencies(&c.rope, c.head_dim, c.max_positions, inv, &scale);
    SC_ASSERT(isfinite(scale) && scale > 0.0f);
    for (uint32_t i = 0; i < c.head_dim / 2; i++)
        SC_ASSERT(isfinite(inv[i]) && inv[i] > 0.0f && inv[i] <= 1.0f);
    return 0;
}
