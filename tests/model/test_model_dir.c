#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "model/json.h"
#include "model/model_dir.h"

#define GOLDEN SC_SOURCE_DIR "/tests/golden/"

static const char *const golden_names[] = {"llama31", "llama-linear", "llama-yarn",   "mistral",
                                           "qwen2",   "qwen3",        "llama31-bf16", "qwen2-f16"};

/* ---- whole directories, changed copies of golden ones ---- */

struct dir {
    char path[64];
};

static int dir_make(void **state)
{
    struct dir *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return -1;
    (void)snprintf(d->path, sizeof(d->path), "/tmp/sc-model-dir-XXXXXX");
    *state = d;
    return mkdtemp(d->path) != NULL ? 0 : -1;
}

static int dir_drop(void **state)
{
    struct dir *d = *state;
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf -- '%s'", d->path);
    int rc = system(command);
    free(d);
    return rc;
}

static void copy_golden(const struct dir *d, const char *name)
{
    char command[512];
    (void)snprintf(command, sizeof(command),
                   "rm -rf '%s'/* && cp '" GOLDEN "%s'/* '%s'/ && chmod u+w '%s'/*", d->path, name,
                   d->path, d->path);
    assert_int_equal(system(command), 0);
}

static void patch_file(const struct dir *d, const char *file, const char *field, json_t *value)
{
    char path[200];
    json_error_t je;
    (void)snprintf(path, sizeof(path), "%s/%s", d->path, file);
    json_t *root = json_load_file(path, 0, &je);
    assert_non_null(root);
    assert_int_equal(json_object_set_new(root, field, value), 0);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
}

static void flip_byte(const struct dir *d, const char *file, long at_from_end)
{
    char path[200];
    (void)snprintf(path, sizeof(path), "%s/%s", d->path, file);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, -at_from_end, SEEK_END), 0);
    int c = fgetc(f);
    assert_int_not_equal(c, EOF);
    assert_int_equal(fseek(f, -at_from_end, SEEK_END), 0);
    assert_int_not_equal(fputc(c ^ 1, f), EOF);
    assert_int_equal(fclose(f), 0);
}

static void refuse_dir(const struct dir *d, enum sc_status want, const char *text)
{
    struct sc_model *m = NULL;
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = sc_model_open(d->path, &m, &err);
    if (st != want || strstr(err.text, text) == NULL)
        fail_msg("got %s \"%s\", expected %s with \"%s\"", sc_status_name(st), err.text,
                 sc_status_name(want), text);
    assert_null(m);
}

static struct sc_hash fingerprint_of(const char *dir)
{
    struct sc_model *m = NULL;
    struct sc_err err = SC_ERR_INIT;
    if (sc_model_open(dir, &m, &err) != SC_OK)
        fail_msg("%s", err.text);
    struct sc_hash hash = m->fingerprint;
    sc_model_close(m);
    return hash;
}

static void every_golden_model_opens(void **state)
{
    (void)state;
    struct sc_hash seen[SC_ARRAY_LEN(golden_names)];
    for (size_t i = 0; i < SC_ARRAY_LEN(golden_names); i++) {
        char path[400];
        struct sc_model *m = NULL;
        struct sc_err err = SC_ERR_INIT;
        (void)snprintf(path, sizeof(path), GOLDEN "%s", golden_names[i]);
        if (sc_model_open(path, &m, &err) != SC_OK)
            fail_msg("%s: %s", golden_names[i], err.text);
        assert_string_equal(m->dir, path);
        assert_non_null(m->tensors);
        assert_non_null(m->tok);
        assert_int_equal(m->config.n_heads, 8);
        assert_int_equal(m->config.vocab, 256);
        seen[i] = m->fingerprint;
        for (size_t k = 0; k < i; k++)
            assert_memory_not_equal(&seen[k], &seen[i], sizeof(seen[i]));
        sc_model_close(m);
    }
}

static void a_real_model_directory_opens(void **state)
{
    (void)state;
    struct sc_model *m = NULL;
    struct sc_err err = SC_ERR_INIT;
    if (access(SC_FIXTURES_DIR "/stories260K/hf/config.json", R_OK) != 0) {
        print_message("skipped: no fixtures beside the checkout\n");
        skip();
    }
    if (sc_model_open(SC_FIXTURES_DIR "/stories260K/hf", &m, &err) != SC_OK)
        fail_msg("%s", err.text);
    assert_int_equal(m->config.n_layers, 5);
    assert_int_equal(m->config.vocab, 512);
    assert_true(m->config.tied_embeddings);
    assert_int_equal(m->config.n_eos_ids, 2);
    sc_model_close(m);
}

static void fingerprint_is_of_config_tokenizer_and_weights_only(void **state)
{
    struct dir *d = *state;
    copy_golden(d, "llama31");
    struct sc_hash base = fingerprint_of(d->path), again = fingerprint_of(GOLDEN "llama31");
    assert_memory_equal(&base, &again, sizeof(base)); /* the directory's name is not in it */

    patch_file(d, "generation_config.json", "temperature", json_real(0.1));
    again = fingerprint_of(d->path);
    assert_memory_equal(&base, &again, sizeof(base));

    flip_byte(d, "model.safetensors", 5000); /* not at the file's end */
    again = fingerprint_of(d->path);
    assert_memory_not_equal(&base, &again, sizeof(base));
    flip_byte(d, "model.safetensors", 5000);
    again = fingerprint_of(d->path);
    assert_memory_equal(&base, &again, sizeof(base));

    patch_file(d, "config.json", "rms_norm_eps", json_real(2e-5));
    again = fingerprint_of(d->path);
    assert_memory_not_equal(&base, &again, sizeof(base));
}

static void weights_that_do_not_fit_the_config_are_refused(void **state)
{
    struct dir *d = *state;
    copy_golden(d, "llama31");
    patch_file(d, "config.json", "intermediate_size", json_integer(96));
    refuse_dir(d, SC_EINVAL,
               "tensor model.layers.0.mlp.gate_proj.weight: shape [64, 64], expected [96, 64]");
    copy_golden(d, "llama31");
    patch_file(d, "config.json", "num_hidden_layers", json_integer(3));
    refuse_dir(d, SC_ENOENT, "tensor model.layers.2.input_layernorm.weight is missing");
    copy_golden(d, "llama31");
    patch_file(d, "config.json", "num_hidden_layers", json_integer(1));
    refuse_dir(d, SC_ENOTSUP, "tensor model.layers.1.");
    copy_golden(d, "llama31");
    patch_file(d, "config.json", "num_key_value_heads", json_integer(2));
    refuse_dir(d, SC_EINVAL, "self_attn.k_proj.weight: shape [32, 64], expected [16, 64]");
    copy_golden(d, "qwen2");
    patch_file(d, "config.json", "tie_word_embeddings", json_false());
    refuse_dir(d, SC_ENOENT, "tensor lm_head.weight is missing");
    copy_golden(d, "llama31");
    patch_file(d, "config.json", "vocab_size", json_integer(255));
    refuse_dir(d, SC_EINVAL, "model.embed_tokens.weight: shape [256, 64], expected [255, 64]");
}

static void another_family_s_tensors_are_refused_by_name(void **state)
{
    struct dir *d = *state;
    copy_golden(d, "qwen2"); /* biases that a llama would silently leave out */
    patch_file(d, "config.json", "model_type", json_string("llama"));
    patch_file(d, "config.json", "architectures", json_null());
    patch_file(d, "config.json", "layer_types", json_null());
    patch_file(d, "config.json", "sliding_window", json_null());
    refuse_dir(d, SC_ENOTSUP, "self_attn.k_proj.bias: not part of a llama model of 3 layers");
    copy_golden(d, "llama31");
    patch_file(d, "config.json", "model_type", json_string("qwen2"));
    patch_file(d, "config.json", "architectures", json_null());
    refuse_dir(d, SC_ENOENT, "tensor model.layers.0.self_attn.q_proj.bias is missing");
    copy_golden(d, "qwen3");
    patch_file(d, "config.json", "model_type", json_string("llama"));
    patch_file(d, "config.json", "architectures", json_null());
    refuse_dir(d, SC_ENOTSUP, "self_attn.k_norm.weight: not part of a llama model");
}

static void missing_files_are_named(void **state)
{
    struct dir *d = *state;
    char path[200];
    refuse_dir(d, SC_ENOENT, "/config.json: open: ");
    copy_golden(d, "llama31");
    (void)snprintf(path, sizeof(path), "%s/tokenizer.json", d->path);
    assert_int_equal(unlink(path), 0);
    refuse_dir(d, SC_ENOENT, "tokenizer.json");
    copy_golden(d, "llama31");
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", d->path);
    assert_int_equal(unlink(path), 0);
    refuse_dir(d, SC_ENOENT, "neither model.safetensors nor ");
}

static void a_tokenizer_larger_than_the_embedding_is_refused(void **state)
{
    struct dir *d = *state;
    char path[200];
    json_error_t je;
    copy_golden(d, "llama31");
    (void)snprintf(path, sizeof(path), "%s/tokenizer.json", d->path);
    json_t *root = json_load_file(path, 0, &je);
    assert_non_null(root);
    json_t *added = json_object_get(root, "added_tokens");
    assert_int_equal(
        json_array_append_new(added, json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", 256,
                                               "content", "<extra>", "single_word", 0, "lstrip", 0,
                                               "rstrip", 0, "normalized", 0, "special", 1)),
        0);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
    refuse_dir(d, SC_EINVAL, "ids up to 256, but vocab_size of config.json is 256");
}

/* ---- one-layer models made of a header, for sets of tensors that no library would write ---- */

struct made {
    unsigned char *file;
    struct sc_tensors *tensors;
    struct sc_model_config config;
};

/* hidden 4, 2 heads of 2, 1 KV head, ffn 3, vocab 5; F32. extra: name and number of elements as
 * [rows, 4]; fill: what every byte of tensor number i is (i + fill for extras). */
static void add_tensor(json_t *header, const char *name, int rows, int cols, size_t *at)
{
    size_t end = *at + (size_t)rows * (size_t)(cols == 0 ? 1 : cols) * 4;
    json_t *shape = cols == 0 ? json_pack("[i]", rows) : json_pack("[ii]", rows, cols);
    json_object_set_new(header, name,
                        json_pack("{s:s,s:o,s:[II]}", "dtype", "F32", "shape", shape,
                                  "data_offsets", (json_int_t)*at, (json_int_t)end));
    *at = end;
}

static struct made make(bool tied, const char *extra, int extra_rows, unsigned char extra_fill)
{
    struct made m = {0};
    size_t at = 0;
    json_t *h = json_object();
    add_tensor(h, "model.embed_tokens.weight", 5, 4, &at);
    add_tensor(h, "model.norm.weight", 4, 0, &at);
    add_tensor(h, "model.layers.0.input_layernorm.weight", 4, 0, &at);
    add_tensor(h, "model.layers.0.post_attention_layernorm.weight", 4, 0, &at);
    add_tensor(h, "model.layers.0.self_attn.q_proj.weight", 4, 4, &at);
    add_tensor(h, "model.layers.0.self_attn.k_proj.weight", 2, 4, &at);
    add_tensor(h, "model.layers.0.self_attn.v_proj.weight", 2, 4, &at);
    add_tensor(h, "model.layers.0.self_attn.o_proj.weight", 4, 4, &at);
    add_tensor(h, "model.layers.0.mlp.gate_proj.weight", 3, 4, &at);
    add_tensor(h, "model.layers.0.mlp.up_proj.weight", 3, 4, &at);
    add_tensor(h, "model.layers.0.mlp.down_proj.weight", 4, 3, &at);
    size_t extra_at = at;
    if (extra != NULL)
        add_tensor(h, extra, extra_rows, 4, &at);
    char *text = json_dumps(h, JSON_COMPACT);
    size_t n = strlen(text), len = 8 + n + at;
    m.file = calloc(1, len);
    assert_non_null(m.file);
    for (int i = 0; i < 8; i++)
        m.file[i] = (unsigned char)((uint64_t)n >> (8 * i));
    memcpy(m.file + 8, text, n);
    memset(m.file + 8 + n + extra_at, extra_fill, at - extra_at);
    free(text);
    json_decref(h);
    struct sc_err err = SC_ERR_INIT;
    if (sc_tensors_open_memory(m.file, len, &m.tensors, &err) != SC_OK)
        fail_msg("%s", err.text);
    m.config = (struct sc_model_config){.n_layers = 1,
                                        .hidden = 4,
                                        .n_heads = 2,
                                        .n_kv_heads = 1,
                                        .head_dim = 2,
                                        .ffn = 3,
                                        .vocab = 5,
                                        .tied_embeddings = tied};
    return m;
}

static void made_free(struct made *m)
{
    sc_tensors_close(m->tensors);
    free(m->file);
}

static void a_tied_head_that_is_stored_counts_only_if_it_differs(void **state)
{
    (void)state;
    struct sc_err err = SC_ERR_INIT;
    struct made m = make(true, NULL, 0, 0);
    assert_int_equal(sc_model_check_tensors(&m.config, m.tensors, &err), SC_OK);
    assert_true(m.config.tied_embeddings);
    made_free(&m);
    m = make(true, "lm_head.weight", 5, 0); /* the same bytes as the embedding */
    assert_int_equal(sc_model_check_tensors(&m.config, m.tensors, &err), SC_OK);
    assert_true(m.config.tied_embeddings);
    made_free(&m);
    m = make(true, "lm_head.weight", 5, 7);
    assert_int_equal(sc_model_check_tensors(&m.config, m.tensors, &err), SC_OK);
    assert_false(m.config.tied_embeddings);
    made_free(&m);
    m = make(true, "lm_head.weight", 6, 0);
    assert_int_equal(sc_model_check_tensors(&m.config, m.tensors, &err), SC_EINVAL);
    assert_string_equal(err.text, "tensor lm_head.weight: shape [6, 4], expected [5, 4]");
    made_free(&m);
}

static void leftover_tensors_count_only_inside_the_model(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum sc_status status;
    } rows[] = {
        {"model.layers.0.self_attn.rotary_emb.inv_freq", SC_OK},
        {"score.weight", SC_OK},
        {"v_head.summary.weight", SC_OK},
        {"mtp.layers.0.mlp.up_proj.weight", SC_OK},
        {"model.layers.0.self_attn.q_proj.bias", SC_ENOTSUP},
        {"model.layers.0.self_attn.q_norm.weight", SC_ENOTSUP},
        {"model.layers.0.self_attn.q_proj.weight_scale", SC_ENOTSUP},
        {"model.layers.0.mlp.experts.0.up_proj.weight", SC_ENOTSUP},
        {"model.layers.1.input_layernorm.weight", SC_ENOTSUP},
        {"model.layers.-1.input_layernorm.weight", SC_ENOTSUP},
        {"model.layers.00000000000.input_layernorm.weight", SC_ENOTSUP},
        {"model.layers.4294967296.input_layernorm.weight", SC_ENOTSUP},
        {"model.layers.0", SC_ENOTSUP},
        {"model.layers.00.input_layernorm.weight", SC_ENOTSUP},
        {"model.layers.+0.input_layernorm.weight", SC_ENOTSUP},
        {"model.norm.bias", SC_ENOTSUP},
        {"model.embed_positions.weight", SC_ENOTSUP},
        {"lm_head.bias", SC_ENOTSUP},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(rows); i++) {
        struct sc_err err = SC_ERR_INIT;
        struct made m = make(true, rows[i].name, 1, 0);
        enum sc_status st = sc_model_check_tensors(&m.config, m.tensors, &err);
        if (st != rows[i].status || (st != SC_OK && strstr(err.text, rows[i].name) == NULL))
            fail_msg("%s: %s \"%s\"", rows[i].name, sc_status_name(st), err.text);
        made_free(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_golden_model_opens),
        cmocka_unit_test(a_real_model_directory_opens),
        cmocka_unit_test_setup_teardown(fingerprint_is_of_config_tokenizer_and_weights_only,
                                        dir_make, dir_drop),
        cmocka_unit_test_setup_teardown(weights_that_do_not_fit_the_config_are_refused, dir_make,
                                        dir_drop),
        cmocka_unit_test_setup_teardown(another_family_s_tensors_are_refused_by_name, dir_make,
                                        dir_drop),
        cmocka_unit_test_setup_teardown(missing_files_are_named, dir_make, dir_drop),
        cmocka_unit_test_setup_teardown(a_tokenizer_larger_than_the_embedding_is_refused, dir_make,
                                        dir_drop),
        cmocka_unit_test(a_tied_head_that_is_stored_counts_only_if_it_differs),
        cmocka_unit_test(leftover_tensors_count_only_inside_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
