/* A model directory with a weight that is no number is refused, and the weight named: of every type
 * of file, kept as any type, on any number of ranks. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/backend.h"
#include "tests/shard/engine_util.h"

static const uint32_t f32_bits[] = {0x7fc00000, 0x7f800000, 0xff800000};
static const uint32_t bf16_bits[] = {0x7fc0, 0x7f80, 0xff80};
static const uint32_t f16_bits[] = {0x7e00, 0x7c00, 0xfc00};
static const char *const shown[] = {"nan", "inf", "-inf"};

/* The model's tensors in memory that may be written to, in the place of its file. */
static void thaw(struct rig *rig, const char *name, void **ret_bytes)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_tensors *tensors;
    char path[1024];
    (void)snprintf(path, sizeof(path), "%s/tests/golden/%s/model.safetensors", SC_SOURCE_DIR, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    size_t n = (size_t)ftell(f);
    rewind(f);
    *ret_bytes = malloc(n);
    assert_int_equal(fread(*ret_bytes, 1, n, f), n);
    (void)fclose(f);
    must(sc_tensors_open_memory(*ret_bytes, n, &tensors, &err), &err);
    sc_tensors_close(rig->model->tensors);
    rig->model->tensors = tensors;
}

/* Opens an engine on the model while tensor[row, col] is bits. */
static void expect_refusal(struct rig *rig, const char *tensor, uint64_t row, uint64_t col,
                           uint32_t bits, const char *value)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_tensor_view v;
    struct sc_engine *engine = NULL;
    char was[4], want[256];
    must(sc_tensors_get(rig->model->tensors, tensor, &v, &err), &err);
    const uint64_t width = v.n_dims == 2 ? v.shape[1] : 1;
    assert_true(row < v.shape[0] && col < width);
    const size_t bytes = sc_dtype_bytes(v.dtype);
    void *at = (char *)(uintptr_t)v.data + (row * width + col) * bytes;
    memcpy(was, at, bytes);
    memcpy(at, &bits, bytes);
    if (v.n_dims == 2)
        (void)snprintf(want, sizeof(want), "%s[%llu, %llu] is %s", tensor, (unsigned long long)row,
                       (unsigned long long)col, value);
    else
        (void)snprintf(want, sizeof(want), "%s[%llu] is %s", tensor, (unsigned long long)row,
                       value);
    enum sc_status st = sc_engine_open(&rig->opts, &engine, &err);
    if (st == SC_OK)
        fail_msg("%s, kept as %s on %u ranks: answers are computed from it", want,
                 sc_dtype_name(rig->opts.weight_dtype), rig->opts.n_ranks);
    assert_int_equal(st, SC_EFORMAT);
    if (strstr(err.text, want) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, want);
    memcpy(at, was, bytes);
}

/* In turn the first element, the last, and two between; in turn nan, inf and -inf. */
static void check_tensor(struct rig *rig, const char *tensor, const uint32_t *bits)
{
    static uint32_t turn;
    struct sc_err err = SC_ERR_INIT;
    struct sc_tensor_view v;
    must(sc_tensors_get(rig->model->tensors, tensor, &v, &err), &err);
    const uint64_t rows = v.shape[0], cols = v.n_dims == 2 ? v.shape[1] : 1;
    const uint64_t places[][2] = {
        {0, 0}, {rows / 2, cols - 1}, {rows - 1, cols / 2}, {rows - 1, cols - 1}};
    const uint64_t *at = places[turn % SC_ARRAY_LEN(places)];
    const uint32_t i = turn++ % SC_ARRAY_LEN(shown);
    expect_refusal(rig, tensor, at[0], at[1], bits[i], shown[i]);
}

/* A backend that does not look at weights in passing, as a device's. */
static enum sc_status open_blind(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                                 struct sc_err *err)
{
    static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER; /* every rank's thread opens its own */
    static struct sc_backend_ops ops;
    enum sc_status st = test_backend_open(opts, ret_be, err);
    if (st != SC_OK)
        return st;
    (void)pthread_mutex_lock(&mu);
    if (ops.name == NULL) {
        ops = *(*ret_be)->ops;
        ops.matrix_is_finite = NULL;
    }
    (void)pthread_mutex_unlock(&mu);
    (*ret_be)->ops = &ops;
    return SC_OK;
}

static void check_model(const char *name, const uint32_t *bits, const char *const *more)
{
    static const char *const tensors[] = {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.1.post_attention_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.v_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
    };
    static const enum sc_dtype kept[] = {SC_DTYPE_F32, SC_DTYPE_BF16, SC_DTYPE_I8};
    struct sc_err err = SC_ERR_INIT;
    struct rig rig;
    void *bytes;
    char dir[1024];
    (void)snprintf(dir, sizeof(dir), "%s/tests/golden/%s", SC_SOURCE_DIR, name);
    rig_open(&rig, dir, 512, 1, NULL);
    thaw(&rig, name, &bytes);
    for (size_t k = 0; k < 2 * SC_ARRAY_LEN(kept); k++) {
        rig.opts.weight_dtype = kept[k / 2];
        rig.opts.open_backend = k % 2 == 0 ? test_backend_open : open_blind;
        for (rig.opts.n_ranks = 1; rig.opts.n_ranks <= 4; rig.opts.n_ranks *= 2) {
            for (size_t i = 0; i < SC_ARRAY_LEN(tensors); i++)
                check_tensor(&rig, tensors[i], bits);
            for (size_t i = 0; more[i] != NULL; i++)
                check_tensor(&rig, more[i], bits);
        }
    }
    /* All is as it was again: it opens. */
    sc_engine_close(rig.engine);
    must(sc_engine_open(&rig.opts, &rig.engine, &err), &err);
    rig_close(&rig);
    free(bytes);
}

static void an_f32_weight_that_is_not_finite_is_named(void **state)
{
    static const char *const more[] = {"lm_head.weight", NULL};
    (void)state;
    check_model("llama31", f32_bits, more);
}

static void a_bf16_weight_that_is_not_finite_is_named(void **state)
{
    static const char *const more[] = {NULL};
    (void)state;
    check_model("llama31-bf16", bf16_bits, more);
}

static void an_f16_weight_that_is_not_finite_is_named_biases_too(void **state)
{
    static const char *const more[] = {"model.layers.0.self_attn.q_proj.bias",
                                       "model.layers.1.self_attn.k_proj.bias",
                                       "model.layers.2.self_attn.v_proj.bias", NULL};
    (void)state;
    check_model("qwen2-f16", f16_bits, more);
}

static void a_norm_of_heads_that_is_not_finite_is_named(void **state)
{
    static const char *const more[] = {"model.layers.0.self_attn.q_norm.weight",
                                       "model.layers.1.self_attn.k_norm.weight", NULL};
    (void)state;
    check_model("qwen3", f32_bits, more);
}

/* Finite, and infinite as it would be kept. */
static void a_weight_too_large_for_what_it_is_kept_as_is_refused(void **state)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_engine *engine = NULL;
    struct sc_tensor_view v;
    struct rig rig;
    void *bytes;
    (void)state;
    rig_open(&rig, SC_SOURCE_DIR "/tests/golden/llama31", 512, 1, NULL);
    thaw(&rig, "llama31", &bytes);
    must(sc_tensors_get(rig.model->tensors, "model.layers.0.mlp.down_proj.weight", &v, &err), &err);
    ((float *)(uintptr_t)v.data)[5] = 3.4e38f;
    rig.opts.weight_dtype = SC_DTYPE_BF16;
    assert_int_equal(sc_engine_open(&rig.opts, &engine, &err), SC_EFORMAT);
    assert_non_null(strstr(err.text, "down_proj.weight: a weight is too large for bf16"));
    sc_err_clear(&err);
    rig.opts.weight_dtype = SC_DTYPE_F32;
    sc_engine_close(rig.engine);
    must(sc_engine_open(&rig.opts, &rig.engine, &err), &err);
    rig_close(&rig);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_f32_weight_that_is_not_finite_is_named),
        cmocka_unit_test(a_bf16_weight_that_is_not_finite_is_named),
        cmocka_unit_test(an_f16_weight_that_is_not_finite_is_named_biases_too),
        cmocka_unit_test(a_norm_of_heads_that_is_not_finite_is_named),
        cmocka_unit_test(a_weight_too_large_for_what_it_is_kept_as_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
