#include "client/json_out.h"

#include "proto/optional.h"
#include "semanticache/v1/control.pb-c.h"
#include "semanticache/v1/inference.pb-c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void expect(const ProtobufCMessage *message, const char *want)
{
    json_t *json = sc_json_message(message);
    char *text = NULL;
    size_t len = 0;
    struct sc_err err = SC_ERR_INIT;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    assert_int_equal(sc_json_print(out, json, &err), SC_OK);
    assert_int_equal(fclose(out), 0);
    assert_string_equal(text, want);
    free(text);
}

static void enums_bytes_and_numbers_have_their_shapes(void **state)
{
    (void)state;
    static char name[] = "demo";
    int32_t eos[] = {2, 3};
    Semanticache__V1__KvOptions kv;
    Semanticache__V1__GetModelInfoResponse m;
    semanticache__v1__kv_options__init(&kv);
    semanticache__v1__get_model_info_response__init(&m);
    kv.mode = SEMANTICACHE__V1__KV_MODE__KV_MODE_EXACT;
    kv.prefill = SEMANTICACHE__V1__KV_PREFILL__KV_PREFILL_EXACT_THEN_COMPRESS;
    SC_PB_SET(&kv, target_ratio, 0.05f);
    expect(&kv.base,
           "{\"mode\":\"exact\",\"target_ratio\":0.05,\"prefill\":\"exact_then_compress\","
           "\"metric\":\"unspecified\",\"seed_order\":\"unspecified\","
           "\"bias\":\"unspecified\",\"representative\":\"unspecified\","
           "\"chunking\":\"unspecified\",\"budget\":\"unspecified\","
           "\"labels\":\"unspecified\"}\n");
    m.name = name;
    m.eos_ids = eos;
    m.n_eos_ids = 2;
    json_t *json = sc_json_message(&m.base);
    assert_string_equal(json_string_value(json_object_get(json, "name")), "demo");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(json, "eos_ids"), 1)), 3);
    assert_null(json_object_get(json, "bos_id"));
    assert_null(json_object_get(json, "default_kv"));
    assert_true(json_is_false(json_object_get(json, "calibration_builtin")));
    json_decref(json);
}

static void absent_is_left_out_and_zero_is_not(void **state)
{
    (void)state;
    Semanticache__V1__SamplingParams s;
    semanticache__v1__sampling_params__init(&s);
    expect(&s.base, "{\"logit_bias\":[],\"stop\":[],\"stop_token_ids\":[]}\n");
    SC_PB_SET(&s, temperature, 0.0f);
    SC_PB_SET(&s, seed, UINT64_MAX);
    SC_PB_SET(&s, ignore_eos, false);
    expect(&s.base, "{\"temperature\":0.0,\"logit_bias\":[],\"seed\":\"18446744073709551615\","
                    "\"stop\":[],\"stop_token_ids\":[],\"ignore_eos\":false}\n");
}

static void bytes_that_are_not_utf8_become_the_replacement_character(void **state)
{
    (void)state;
    Semanticache__V1__InspectToken token;
    semanticache__v1__inspect_token__init(&token);
    token.id = -1;
    token.text = (ProtobufCBinaryData){4, (uint8_t *)(uintptr_t) "a\xC3\"b"};
    expect(&token.base, "{\"id\":-1,\"text\":\"a\xEF\xBF\xBD\\\"b\"}\n");
}

static void labels_are_numbers_and_messages_nest(void **state)
{
    (void)state;
    uint8_t labels[] = {0, 200, 0};
    Semanticache__V1__InspectLayer layer;
    Semanticache__V1__InspectLayer *layers[] = {&layer};
    Semanticache__V1__InspectChunk chunk;
    semanticache__v1__inspect_layer__init(&layer);
    semanticache__v1__inspect_chunk__init(&chunk);
    layer.layer = 3;
    layer.n_cores = 2;
    layer.labels = (ProtobufCBinaryData){3, labels};
    chunk.pos0 = 16;
    chunk.n_tokens = 3;
    chunk.layers = layers;
    chunk.n_layers = 1;
    expect(&chunk.base, "{\"pos0\":16,\"n_tokens\":3,\"text\":\"\",\"layers\":[{\"layer\":3,"
                        "\"n_cores\":2,\"labels\":[0,200,0]}]}\n");
}

static void unknown_enum_values_have_no_name(void **state)
{
    (void)state;
    char text[SC_ENUM_TEXT_BYTES] = "x";
    assert_string_equal(sc_enum_text(&semanticache__v1__kv_mode__descriptor, 99, text), "");
    assert_string_equal(sc_enum_text(&semanticache__v1__server_state__descriptor, 2, text),
                        "ready");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(enums_bytes_and_numbers_have_their_shapes),
        cmocka_unit_test(absent_is_left_out_and_zero_is_not),
        cmocka_unit_test(bytes_that_are_not_utf8_become_the_replacement_character),
        cmocka_unit_test(labels_are_numbers_and_messages_nest),
        cmocka_unit_test(unknown_enum_values_have_no_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
