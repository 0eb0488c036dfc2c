#include "client/request.h"

#include "client/json_out.h"
#include "proto/optional.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const ProtobufCFieldDescriptor *field_of(enum sc_opt_id id)
{
    const struct sc_opt_spec *spec = sc_opt_spec(id);
    const ProtobufCMessageDescriptor *message =
        id >= SC_OPT_KV ? &semanticache__v1__kv_options__descriptor
                        : &semanticache__v1__sampling_params__descriptor;
    return protobuf_c_message_descriptor_get_field_by_name(message, spec->field);
}

static void choices_are_the_enum_values_in_order(void **state)
{
    (void)state;
    int n_choices = 0;
    for (int id = SC_OPT_MAX_TOKENS; id < SC_OPT_COUNT; id++) {
        const struct sc_opt_spec *spec = sc_opt_spec((enum sc_opt_id)id);
        if (spec->kind != SC_ARG_CHOICE)
            continue;
        const ProtobufCFieldDescriptor *f = field_of((enum sc_opt_id)id);
        assert_non_null(f);
        assert_int_equal(f->type, PROTOBUF_C_TYPE_ENUM);
        const ProtobufCEnumDescriptor *type = f->descriptor;
        unsigned c = 0;
        for (; c < SC_CHOICES_MAX && spec->choices[c] != NULL; c++) {
            char name[SC_ENUM_TEXT_BYTES];
            assert_string_equal(sc_enum_text(type, (int)c + 1, name), spec->choices[c]);
        }
        assert_int_equal(type->n_values, c + 1); /* none is missing; 0 is UNSPECIFIED */
        n_choices++;
    }
    assert_int_equal(n_choices, 9);
}

static void every_scalar_field_of_a_request_has_an_option(void **state)
{
    (void)state;
    static const char *const without[] = {"prompt_logprobs", "n"}; /* of no use on a terminal */
    const ProtobufCMessageDescriptor *const messages[] = {
        &semanticache__v1__sampling_params__descriptor, &semanticache__v1__kv_options__descriptor};
    for (size_t m = 0; m < SC_ARRAY_LEN(messages); m++) {
        for (unsigned i = 0; i < messages[m]->n_fields; i++) {
            const ProtobufCFieldDescriptor *f = &messages[m]->fields[i];
            bool found =
                f->label == PROTOBUF_C_LABEL_REPEATED || f->type == PROTOBUF_C_TYPE_MESSAGE;
            for (size_t w = 0; w < SC_ARRAY_LEN(without); w++)
                found = found || strcmp(f->name, without[w]) == 0;
            for (int id = SC_OPT_MAX_TOKENS; id < SC_OPT_COUNT && !found; id++)
                if (sc_opt_spec((enum sc_opt_id)id)->field != NULL)
                    found = field_of((enum sc_opt_id)id) == f;
            if (!found)
                fail_msg("no option sets %s.%s", messages[m]->short_name, f->name);
        }
    }
}

struct built {
    struct sc_args args;
    struct sc_arena arena;
    Semanticache__V1__SamplingParams sampling;
    Semanticache__V1__KvOptions kv;
    bool any_kv;
};

static void build(struct built *b, int argc, const char *const *argv,
                  const struct sc_prompt_format *format)
{
    struct sc_err err = SC_ERR_INIT;
    sc_arena_init(&b->arena, 1u << 20);
    assert_int_equal(sc_args_parse(argc, (char *const *)(uintptr_t)argv, &b->args, &err), SC_OK);
    semanticache__v1__sampling_params__init(&b->sampling);
    semanticache__v1__kv_options__init(&b->kv);
    assert_int_equal(sc_request_sampling(&b->arena, &b->args, format, &b->sampling, &err), SC_OK);
    assert_int_equal(sc_request_kv(&b->arena, &b->args, &b->kv, &b->any_kv, &err), SC_OK);
}

static void drop(struct built *b)
{
    sc_args_fini(&b->args);
    sc_arena_fini(&b->arena);
}

static void options_reach_their_fields(void **state)
{
    (void)state;
    const char *argv[] = {"semcache",
                          "generate",
                          "--temperature=0",
                          "--top-k=-1",
                          "--seed=9",
                          "--ignore-eos",
                          "--skip-special-tokens=no",
                          "--max-tokens=3",
                          "--kv=exact",
                          "--metric=cos_post",
                          "--compress-generated=false",
                          "--window=0064",
                          "--exact-layers=0,3",
                          "--stop=a\\n",
                          "--stop-token-ids=7,8",
                          "--logit-bias=4:-2"};
    struct built b;
    build(&b, (int)SC_ARRAY_LEN(argv), argv, NULL);
    assert_true(SC_PB_HAS(&b.sampling, temperature) && b.sampling.temperature == 0.0f);
    assert_true(SC_PB_HAS(&b.sampling, top_k) && b.sampling.top_k == -1);
    assert_true(SC_PB_HAS(&b.sampling, seed) && b.sampling.seed == 9);
    assert_true(SC_PB_HAS(&b.sampling, ignore_eos) && b.sampling.ignore_eos);
    assert_true(SC_PB_HAS(&b.sampling, skip_special_tokens) && !b.sampling.skip_special_tokens);
    assert_true(SC_PB_HAS(&b.sampling, max_tokens) && b.sampling.max_tokens == 3);
    assert_false(SC_PB_HAS(&b.sampling, top_p));
    assert_int_equal(b.sampling.n_stop, 1);
    assert_string_equal(b.sampling.stop[0], "a\n");
    assert_int_equal(b.sampling.n_stop_token_ids, 2);
    assert_int_equal(b.sampling.n_logit_bias, 1);
    assert_int_equal(b.sampling.logit_bias[0]->key, 4);
    assert_true(b.sampling.logit_bias[0]->value == -2.0f);
    assert_true(b.any_kv);
    assert_int_equal(b.kv.mode, SEMANTICACHE__V1__KV_MODE__KV_MODE_EXACT);
    assert_int_equal(b.kv.metric, SEMANTICACHE__V1__KV_METRIC__KV_METRIC_COS_POST);
    assert_true(SC_PB_HAS(&b.kv, compress_generated) && !b.kv.compress_generated);
    assert_true(SC_PB_HAS(&b.kv, window) && b.kv.window == 64);
    assert_non_null(b.kv.exact_layers);
    assert_int_equal(b.kv.exact_layers->n_layers, 2);
    assert_int_equal(b.kv.exact_layers->layers[1], 3);
    drop(&b);
}

static void no_exact_layers_are_an_empty_list(void **state)
{
    (void)state;
    const char *argv[] = {"semcache", "generate", "--exact-layers=0,3", "--exact-layers=none"};
    struct built b;
    build(&b, (int)SC_ARRAY_LEN(argv), argv, NULL);
    assert_non_null(b.kv.exact_layers);
    assert_int_equal(b.kv.exact_layers->n_layers, 0);
    drop(&b);
}

static void what_is_not_given_stays_absent(void **state)
{
    (void)state;
    const char *argv[] = {"semcache", "generate"};
    struct built b;
    build(&b, 2, argv, NULL);
    assert_int_equal(protobuf_c_message_get_packed_size(&b.sampling.base), 0);
    assert_int_equal(protobuf_c_message_get_packed_size(&b.kv.base), 0);
    assert_false(b.any_kv);
    drop(&b);
}

static void stops_of_the_format_count_unless_there_is_an_option(void **state)
{
    (void)state;
    const struct sc_prompt_format format = {.stops = {"\\n", "E"}, .n_stops = 2};
    const char *none[] = {"semcache", "ask", "q"};
    const char *one[] = {"semcache", "ask", "q", "--stop", "X"};
    struct built b;
    build(&b, 3, none, &format);
    assert_int_equal(b.sampling.n_stop, 2);
    assert_string_equal(b.sampling.stop[0], "\\n"); /* a file's text is not unescaped again */
    drop(&b);
    build(&b, 5, one, &format);
    assert_int_equal(b.sampling.n_stop, 1);
    assert_string_equal(b.sampling.stop[0], "X");
    drop(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_are_the_enum_values_in_order),
        cmocka_unit_test(every_scalar_field_of_a_request_has_an_option),
        cmocka_unit_test(options_reach_their_fields),
        cmocka_unit_test(no_exact_layers_are_an_empty_list),
        cmocka_unit_test(what_is_not_given_stays_absent),
        cmocka_unit_test(stops_of_the_format_count_unless_there_is_an_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
