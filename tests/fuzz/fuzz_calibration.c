/* tests/fuzz/fuzz_calibration.c - any bytes as semanticache-calibration.json of a small model:
 * refused with a message, or numbers that are thresholds for every layer. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shard/calibration.h"
#include "shard/recipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct sc_calibration *c, const struct sc_model_config *config)
{
    struct sc_recipe recipe;

    SC_ASSERT(c->n_layers == config->n_layers && c->n_kv_heads == config->n_kv_heads);
    for (uint32_t i = 0; i < c->n_layers * c->n_kv_heads; i++)
        SC_ASSERT(isfinite(c->key_var[i]) && c->key_var[i] >= 0.0f);
    for (uint32_t i = 1; i < SC_CALIBRATION_RATIOS; i++)
        SC_ASSERT(c->ratios[i] < c->ratios[i - 1]);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        SC_ASSERT(isfinite(sc_calibration_tau(c, SC_METRIC_L2_PRE, l, 0.25f)));
        sc_recipe_default(config, SC_KV_COMPRESSED, &recipe);
        SC_ASSERT(sc_calibration_tau_fixed(c, &recipe, l, false) >= 0);
        recipe.similarity_threshold = 0.5f;
        SC_ASSERT(sc_calibration_tau_fixed(c, &recipe, l, true) >= 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sc_model_config config = {.n_layers = 2, .n_kv_heads = 2, .n_heads = 4, .vocab = 64};
    static const struct sc_hash model; /* zeros: what the corpus was made for */
    struct sc_calibration c;
    struct sc_err err = SC_ERR_INIT;
    char path[64];
    int fd = memfd_create("calibration", MFD_CLOEXEC);

    SC_ASSERT(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (sc_calibration_load(path, &config, &model, &c, &err) == SC_OK) {
        check(&c, &config);
        sc_calibration_fini(&c);
    } else {
        SC_ASSERT(err.text[0] != '\0');
    }
    (void)close(fd);
    return 0;
}
