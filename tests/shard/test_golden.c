/* Logits against Hugging Face transformers on tiny random models, at tensor-parallel 1, 2 and 4. */
#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "cpu/cpu.h"
#include "tests/shard/engine_util.h"

/* f32 sums in another order than PyTorch's; the largest logit of the row is the scale. */
#define TOLERANCE 1e-3f
/* An element of an int8 row is off by up to 0.4 % of the largest, and these models are small and
 * random: bf16 pages are off by up to 0.014, int8 ones by 0.047. */
#define TOLERANCE_INT8 6e-2f
/* bf16 activations and pages; with weights rounded to bf16, too; with int8 weights. */
#define TOLERANCE_BF16         4e-2f
#define TOLERANCE_ROUNDED      1e-1f
#define TOLERANCE_WEIGHTS_INT8 0.15f

static float *read_floats(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long bytes = ftell(f);
    rewind(f);
    float *v = malloc((size_t)bytes);
    assert_int_equal(fread(v, 1, (size_t)bytes, f), (size_t)bytes);
    (void)fclose(f);
    *ret_n = (size_t)bytes / sizeof(float);
    return v;
}

static json_t *read_golden(const char *name, float **ret_logits, size_t *ret_n)
{
    char path[1024];
    json_error_t je;
    (void)snprintf(path, sizeof(path), "%s/tests/golden/%s/golden.json", SC_SOURCE_DIR, name);
    json_t *root = json_load_file(path, 0, &je);
    if (root == NULL)
        fail_msg("%s: %s", path, je.text);
    (void)snprintf(path, sizeof(path), "%s/tests/golden/%s/%s", SC_SOURCE_DIR, name,
                   json_string_value(json_object_get(root, "logits_file")));
    *ret_logits = read_floats(path, ret_n);
    return root;
}

static uint32_t prompt_ids(const json_t *prompt, int32_t *ids)
{
    const json_t *list = json_object_get(prompt, "ids");
    for (size_t i = 0; i < json_array_size(list); i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return (uint32_t)json_array_size(list);
}

static float worst_error(const float *got, const float *want, uint32_t rows, uint32_t vocab)
{
    float worst = 0.0f;
    for (uint32_t r = 0; r < rows; r++) {
        float scale = 0.0f, diff = 0.0f;
        for (uint32_t i = 0; i < vocab; i++) {
            scale = fmaxf(scale, fabsf(want[(size_t)r * vocab + i]));
            diff = fmaxf(diff, fabsf(want[(size_t)r * vocab + i] - got[(size_t)r * vocab + i]));
            assert_true(isfinite(got[(size_t)r * vocab + i]));
        }
        worst = fmaxf(worst, diff / scale);
    }
    return worst;
}

/* step: rows of a step, at most. */
static void check_model(const char *name, uint32_t n_ranks, rig_tweak *tweak, uint32_t step,
                        float tolerance)
{
    struct rig rig;
    int32_t ids[512];
    float *want, *got;
    size_t n_want;
    json_t *golden = read_golden(name, &want, &n_want),
           *prompts = json_object_get(golden, "prompts");
    char dir[1024];

    (void)snprintf(dir, sizeof(dir), "%s/tests/golden/%s", SC_SOURCE_DIR, name);
    rig_open(&rig, dir, 0, n_ranks, tweak);
    const uint32_t vocab = rig.model->config.vocab;
    struct sc_recipe recipe;
    sc_recipe_default(&rig.model->config, SC_KV_EXACT, &recipe);
    got = malloc(n_want * sizeof(float));
    float worst = 0.0f;
    size_t n_rows = 0;
    for (size_t i = 0; i < json_array_size(prompts); i++) {
        const json_t *prompt = json_array_get(prompts, i);
        uint32_t n = prompt_ids(prompt, ids);
        size_t row = (size_t)json_integer_value(json_object_get(prompt, "first_row"));
        assert_true((row + n) * vocab <= n_want);
        seq_open(&rig, 3, &recipe, n);
        seq_run(&rig, 3, &recipe, n, ids, 0, n, step, got);
        seq_close(&rig, 3);
        worst = fmaxf(worst, worst_error(got, want + row * vocab, n, vocab));
        n_rows += n;
    }
    print_message("%s: tensor parallel %u, %zu rows, largest relative error %.2e\n", name, n_ranks,
                  n_rows, (double)worst);
    assert_true(n_rows > 0);
    assert_true(worst <= tolerance);
    rig_close(&rig);
    free(got);
    free(want);
    json_decref(golden);
}

static void check_ranks(const char *name)
{
    check_model(name, 1, NULL, 29, TOLERANCE);
    check_model(name, 2, NULL, 29, TOLERANCE);
    check_model(name, 4, NULL, 29, TOLERANCE);
}

/* Of the CPU, whatever else the tests run on: not every backend has them. */
static void int8_pages(struct sc_engine_opts *opts)
{
    opts->open_backend = sc_cpu_backend_open;
    opts->kv_dtype = SC_DTYPE_I8;
    opts->math = SC_MATH_F32;
}

static void int8_pages_stay_near_the_reference(void **state)
{
    (void)state;
    for (uint32_t n_ranks = 1; n_ranks <= 2; n_ranks++) {
        check_model("llama31", n_ranks, int8_pages, 29, TOLERANCE_INT8);
        check_model("mistral", n_ranks, int8_pages, 29, TOLERANCE_INT8);
        check_model("qwen3", n_ranks, int8_pages, 29, TOLERANCE_INT8);
    }
}

static void rounded(struct sc_engine_opts *opts)
{
    opts->math = SC_MATH_BF16;
    opts->weight_dtype = SC_DTYPE_BF16;
    opts->kv_dtype = SC_DTYPE_BF16;
}

static void rounded_int8(struct sc_engine_opts *opts)
{
    rounded(opts);
    opts->weight_dtype = SC_DTYPE_I8;
}

/* As users run it on a device, which has kernels of its own for one row, and for a few. */
static void steps_of_few_rows_stay_near_the_reference(void **state)
{
    static const uint32_t steps[] = {1, 7, 29};
    (void)state;
    for (size_t s = 0; s < SC_ARRAY_LEN(steps); s++) {
        check_model("llama31-bf16", 1, rounded, steps[s], TOLERANCE_BF16);
        check_model("qwen3", 1, rounded, steps[s], TOLERANCE_ROUNDED);
        check_model("qwen2", 1, rounded, steps[s], TOLERANCE_ROUNDED);
        check_model("llama31-bf16", 1, rounded_int8, steps[s], TOLERANCE_WEIGHTS_INT8);
    }
}

#define GOLDEN_TEST(id, name)                                                                      \
    static void id##_logits_equal_the_reference(void **state)                                      \
    {                                                                                              \
        (void)state;                                                                               \
        check_ranks(name);                                                                         \
    }
GOLDEN_TEST(llama31, "llama31")
GOLDEN_TEST(llama_linear_with_replicated_kv_heads, "llama-linear")
GOLDEN_TEST(llama_yarn, "llama-yarn")
GOLDEN_TEST(mistral_with_sliding_window, "mistral")
GOLDEN_TEST(qwen2, "qwen2")
GOLDEN_TEST(qwen3, "qwen3")
GOLDEN_TEST(llama31_from_bf16, "llama31-bf16")
GOLDEN_TEST(qwen2_from_f16, "qwen2-f16")

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama31_logits_equal_the_reference),
        cmocka_unit_test(llama_linear_with_replicated_kv_heads_logits_equal_the_reference),
        cmocka_unit_test(llama_yarn_logits_equal_the_reference),
        cmocka_unit_test(mistral_with_sliding_window_logits_equal_the_reference),
        cmocka_unit_test(qwen2_logits_equal_the_reference),
        cmocka_unit_test(qwen3_logits_equal_the_reference),
        cmocka_unit_test(llama31_from_bf16_logits_equal_the_reference),
        cmocka_unit_test(qwen2_from_f16_logits_equal_the_reference),
        cmocka_unit_test(int8_pages_stay_near_the_reference),
        cmocka_unit_test(steps_of_few_rows_stay_near_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
