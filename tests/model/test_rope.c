#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "model/config.h"

#define GOLDEN SC_SOURCE_DIR "/tests/golden/"

/* Our power is rounded once from double; that of torch's vector code may be the neighbour. */
#define STEPS_MAX 1

static int64_t steps_between(float a, float b)
{
    int32_t x, y;
    memcpy(&x, &a, sizeof(x));
    memcpy(&y, &b, sizeof(y));
    return llabs((int64_t)x - y); /* frequencies are positive */
}

static json_t *load(const char *path)
{
    json_error_t je;
    json_t *root = json_load_file(path, 0, &je);
    if (root == NULL)
        fail_msg("%s: %s", path, je.text);
    return root;
}

static void compare(const char *name, const struct sc_model_config *c, const json_t *inv_freq,
                    double scale)
{
    float inv[SC_HEAD_DIM_MAX / 2], got_scale;
    sc_rope_frequencies(&c->rope, c->head_dim, c->max_positions, inv, &got_scale);
    assert_int_equal(json_array_size(inv_freq), c->head_dim / 2);
    for (uint32_t i = 0; i < c->head_dim / 2; i++) {
        float want = (float)json_number_value(json_array_get(inv_freq, i));
        if (!(want > 0.0f) || steps_between(inv[i], want) > STEPS_MAX)
            fail_msg("%s: inv_freq[%u] is %.9g, transformers has %.9g: %lld steps, limit %d", name,
                     i, (double)inv[i], (double)want, (long long)steps_between(inv[i], want),
                     STEPS_MAX);
    }
    if (fabs((double)got_scale - scale) > 1e-7 * scale)
        fail_msg("%s: scale %.9g, transformers has %.9g", name, (double)got_scale, scale);
}

static void settings_of_real_models_give_the_frequencies_of_transformers(void **state)
{
    (void)state;
    json_t *root = load(GOLDEN "rope.json"), *entry;
    size_t i, n_kinds[4] = {0};
    json_array_foreach(json_object_get(root, "cases"), i, entry)
    {
        struct sc_err err = SC_ERR_INIT;
        struct sc_model_config c;
        const char *name = json_string_value(json_object_get(entry, "name"));
        char *text = json_dumps(json_object_get(entry, "config"), 0);
        if (sc_model_config_parse(text, strlen(text), NULL, 0, &c, &err) != SC_OK)
            fail_msg("%s: %s", name, err.text);
        free(text);
        compare(name, &c, json_object_get(entry, "inv_freq"),
                json_number_value(json_object_get(entry, "scale")));
        n_kinds[c.rope.kind]++;
    }
    for (size_t kind = 0; kind < SC_ARRAY_LEN(n_kinds); kind++)
        assert_true(n_kinds[kind] > 0); /* every kind was seen */
    json_decref(root);
}

static void golden_models_have_the_frequencies_of_transformers(void **state)
{
    (void)state;
    static const char *const names[] = {"llama31", "llama-linear", "llama-yarn",   "mistral",
                                        "qwen2",   "qwen3",        "llama31-bf16", "qwen2-f16"};
    for (size_t i = 0; i < SC_ARRAY_LEN(names); i++) {
        char dir[512], path[600];
        struct sc_err err = SC_ERR_INIT;
        struct sc_model_config c;
        (void)snprintf(dir, sizeof(dir), GOLDEN "%s", names[i]);
        (void)snprintf(path, sizeof(path), "%s/golden.json", dir);
        if (sc_model_config_load(dir, &c, &err) != SC_OK)
            fail_msg("%s", err.text);
        json_t *root = load(path), *rope = json_object_get(root, "rope");
        compare(names[i], &c, json_object_get(rope, "inv_freq"),
                json_number_value(json_object_get(rope, "scale")));
        json_decref(root);
    }
}

static void default_rope_of_two_dimensions_is_one_radian_a_token(void **state)
{
    (void)state;
    const struct sc_rope rope = {.kind = SC_ROPE_DEFAULT, .theta = 10000.0};
    float inv[1], scale;
    sc_rope_frequencies(&rope, 2, 4096, inv, &scale);
    assert_float_equal(inv[0], 1.0f, 0.0);
    assert_float_equal(scale, 1.0f, 0.0);
}

static void yarn_ramp_of_no_width_stays_finite(void **state)
{
    (void)state;
    /* both corrections fall below zero and are clamped to the same dimension */
    const struct sc_rope rope = {.kind = SC_ROPE_YARN,
                                 .theta = 10000.0,
                                 .factor = 4.0,
                                 .original_max_positions = 1,
                                 .beta_fast = 32.0,
                                 .beta_slow = 32.0,
                                 .attention_factor = 1.0,
                                 .truncate = false};
    float inv[64], scale;
    sc_rope_frequencies(&rope, 128, 4, inv, &scale);
    for (int i = 0; i < 64; i++)
        assert_true(isfinite(inv[i]) && inv[i] > 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settings_of_real_models_give_the_frequencies_of_transformers),
        cmocka_unit_test(golden_models_have_the_frequencies_of_transformers),
        cmocka_unit_test(default_rope_of_two_dimensions_is_one_radian_a_token),
        cmocka_unit_test(yarn_ramp_of_no_width_stays_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
