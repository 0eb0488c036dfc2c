/* A document's blob: header, shape, then for each layer and (global) head K, V and biases as the
 * engine moves them. Little-endian. The store adds the checksum, and the labels that model and
 * recipe must match. */
#include <string.h>

#include "scheduler/internal.h"

#define MAGIC      0x31504e53u /* "SNP1" */
#define HEAD_WORDS 10u

size_t sc_tier_shape_bytes(uint32_t n_layers)
{
    return HEAD_WORDS * 4u + n_layers * 16u;
}

uint32_t sc_tier_entries(const struct sc_snap_shape *shape, uint32_t layer)
{
    return shape->n_cores[layer] + shape->n_logical - shape->exact_lo[layer];
}

size_t sc_tier_blob_bytes(const struct sc_sched *s, const struct sc_snap_shape *shape)
{
    const struct sc_model_config *c = &s->limits.model->config;
    size_t bytes = sc_tier_shape_bytes(c->n_layers);
    for (uint32_t l = 0; l < c->n_layers; l++)
        bytes += c->n_kv_heads * sc_engine_move_bytes(s->engine, sc_tier_entries(shape, l));
    return bytes;
}

static void head_words(const struct sc_sched *s, const struct sc_snap_shape *shape,
                       uint32_t words[HEAD_WORDS])
{
    const struct sc_model_config *c = &s->limits.model->config;
    const uint32_t w[HEAD_WORDS] = {MAGIC,
                                    c->n_layers,
                                    c->n_kv_heads,
                                    c->head_dim,
                                    s->limits.recipe_context.kv_dtype,
                                    shape->n_logical,
                                    shape->prompt_len,
                                    shape->compressed_to,
                                    shape->epoch_done,
                                    0};
    memcpy(words, w, sizeof(w));
}

void sc_tier_write_shape(const struct sc_sched *s, const struct sc_snap_shape *shape, uint8_t *to)
{
    uint32_t words[HEAD_WORDS];
    head_words(s, shape, words);
    memcpy(to, words, sizeof(words));
    to += sizeof(words);
    for (uint32_t l = 0; l < s->limits.model->config.n_layers; l++) {
        memcpy(to, &shape->n_cores[l], 4);
        memcpy(to + 4, &shape->exact_lo[l], 4);
        memcpy(to + 8, &shape->carry[l], 8);
        to += 16;
    }
}

bool sc_tier_read_shape(const struct sc_sched *s, struct sc_blob *blob, uint32_t n,
                        struct sc_snap_shape *shape)
{
    const uint32_t n_layers = s->limits.model->config.n_layers;
    const uint8_t *from = sc_blob_bytes(blob);
    uint32_t words[HEAD_WORDS], want[HEAD_WORDS];
    if (sc_blob_size(blob) < sc_tier_shape_bytes(n_layers))
        return false;
    memcpy(words, from, sizeof(words));
    shape->n_logical = words[5];
    shape->prompt_len = words[6];
    shape->compressed_to = words[7];
    shape->epoch_done = words[8];
    head_words(s, shape, want);
    if (memcmp(words, want, sizeof(words)) != 0 || shape->n_logical != n ||
        shape->compressed_to > n || shape->epoch_done > n)
        return false;
    from += sizeof(words);
    for (uint32_t l = 0; l < n_layers; l++, from += 16) {
        memcpy(&shape->n_cores[l], from, 4);
        memcpy(&shape->exact_lo[l], from + 4, 4);
        memcpy(&shape->carry[l], from + 8, 8);
        if (shape->exact_lo[l] > n || shape->n_cores[l] > n)
            return false;
    }
    return sc_blob_size(blob) == sc_tier_blob_bytes(s, shape);
}
