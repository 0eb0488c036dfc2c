#include "testing.h"

#include <math.h>

#include "fixture.h"
#include "proto/optional.h"

typedef Semanticache__V1__GenerateRequest Request;
typedef Semanticache__V1__SamplingParams Sampling;

static int32_t two_ids[] = {0, 5};

/* A request that is fine: two token ids. */
struct request {
    Request m;
    Semanticache__V1__TokenIds ids;
    Sampling sampling;
};

static void init(struct request *r)
{
    semanticache__v1__generate_request__init(&r->m);
    semanticache__v1__token_ids__init(&r->ids);
    semanticache__v1__sampling_params__init(&r->sampling);
    r->ids.ids = two_ids;
    r->ids.n_ids = 2;
    r->m.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    r->m.token_ids = &r->ids;
    r->m.sampling = &r->sampling;
}

static enum sc_status convert(struct fixture *f, struct request *r, struct sc_params *p,
                              struct sc_err *err)
{
    sc_err_clear(err);
    return sc_convert_generate(&f->convert, &r->m, p, err);
}

/* Sets one sampling field to a value and says whether that is refused, by name. */
#define REFUSED(field, value, name)                                                                \
    do {                                                                                           \
        struct request r;                                                                          \
        struct sc_params p;                                                                        \
        struct sc_err err = SC_ERR_INIT;                                                           \
        init(&r);                                                                                  \
        SC_PB_SET(&r.sampling, field, value);                                                      \
        if (convert(f, &r, &p, &err) != SC_EINVAL)                                                 \
            fail_msg("%s = %s was taken", #field, #value);                                         \
        assert_text_has(err.text, "sampling." name);                                               \
    } while (0)

#define TAKEN(field, value)                                                                        \
    do {                                                                                           \
        struct request r;                                                                          \
        struct sc_params p;                                                                        \
        struct sc_err err = SC_ERR_INIT;                                                           \
        init(&r);                                                                                  \
        SC_PB_SET(&r.sampling, field, value);                                                      \
        assert_ok(convert(f, &r, &p, &err));                                                       \
        sc_params_fini(&p);                                                                        \
    } while (0)

static void each_bad_number_is_named(void **state)
{
    struct fixture *f = *state;

    REFUSED(temperature, -0.1f, "temperature");
    REFUSED(temperature, 100.5f, "temperature");
    REFUSED(temperature, NAN, "temperature");
    REFUSED(temperature, INFINITY, "temperature");
    REFUSED(top_p, 0.0f, "top_p");
    REFUSED(top_p, 1.1f, "top_p");
    REFUSED(top_p, NAN, "top_p");
    REFUSED(top_k, -2, "top_k");
    REFUSED(top_k, 257, "top_k");
    REFUSED(min_p, -0.1f, "min_p");
    REFUSED(min_p, 1.1f, "min_p");
    REFUSED(repetition_penalty, 0.0f, "repetition_penalty");
    REFUSED(repetition_penalty, 10.1f, "repetition_penalty");
    REFUSED(repetition_penalty, NAN, "repetition_penalty");
    REFUSED(presence_penalty, 2.1f, "presence_penalty");
    REFUSED(frequency_penalty, -2.1f, "frequency_penalty");
    REFUSED(logprobs, 21, "logprobs");
    REFUSED(prompt_logprobs, 21, "prompt_logprobs");
    REFUSED(max_tokens, 0, "max_tokens");
    REFUSED(n, 0, "n");
    REFUSED(n, SC_OUTPUTS_MAX + 1, "n");
}

static void the_limits_themselves_are_taken(void **state)
{
    struct fixture *f = *state;

    TAKEN(temperature, 0.0f);
    TAKEN(temperature, 100.0f);
    TAKEN(top_p, 1.0f);
    TAKEN(top_k, -1);
    TAKEN(top_k, 256);
    TAKEN(min_p, 1.0f);
    TAKEN(repetition_penalty, 10.0f);
    TAKEN(presence_penalty, -2.0f);
    TAKEN(logprobs, 20);
    TAKEN(max_tokens, 1);
    TAKEN(n, SC_OUTPUTS_MAX);
}

static void stops_are_checked(void **state)
{
    char a[] = "a", none[] = "", longest[258];
    char *many[17], *empty[] = {none};
    char *long_one[] = {longest};
    int32_t bad_id = 256, ids[65] = {0};
    struct request r;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;

    for (size_t i = 0; i < SC_ARRAY_LEN(many); i++)
        many[i] = a;
    memset(longest, 'x', 257);
    longest[257] = '\0';
    for (int i = 0; i < 5; i++) {
        init(&r);
        r.sampling.stop = i == 0 ? many : i == 1 ? empty : long_one;
        r.sampling.n_stop = i == 0 ? 17 : i < 3 ? 1 : 0;
        r.sampling.stop_token_ids = i == 3 ? &bad_id : ids;
        r.sampling.n_stop_token_ids = i == 3 ? 1 : i == 4 ? 65 : 0;
        assert_int_equal(convert(*state, &r, &p, &err), SC_EINVAL);
        assert_text_has(err.text, i < 3 ? "sampling.stop:" : "sampling.stop_token_ids:");
    }
    longest[256] = '\0';
    init(&r);
    r.sampling.stop = long_one;
    r.sampling.n_stop = 1;
    assert_ok(convert(*state, &r, &p, &err));
    assert_int_equal(p.opts.n_stop_strings, 1);
    assert_string_equal(p.opts.stop_strings[0], longest);
    sc_params_fini(&p);
}

static void logit_bias_is_checked(void **state)
{
    static const struct {
        int32_t id;
        float bias;
    } bad[] = {{256, 1}, {-1, 1}, {5, 100.5f}, {5, NAN}};
    Semanticache__V1__SamplingParams__LogitBiasEntry entry, *list[1025];
    struct request r;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;

    semanticache__v1__sampling_params__logit_bias_entry__init(&entry);
    for (size_t i = 0; i < SC_ARRAY_LEN(list); i++)
        list[i] = &entry;
    for (size_t i = 0; i < SC_ARRAY_LEN(bad); i++) {
        init(&r);
        entry.key = bad[i].id;
        entry.value = bad[i].bias;
        r.sampling.logit_bias = list;
        r.sampling.n_logit_bias = 1;
        assert_int_equal(convert(*state, &r, &p, &err), SC_EINVAL);
        assert_text_has(err.text, "sampling.logit_bias");
    }
    entry.value = 1;
    r.sampling.n_logit_bias = 2; /* the same id twice */
    assert_int_equal(convert(*state, &r, &p, &err), SC_EINVAL);
    assert_text_has(err.text, "twice");
    r.sampling.n_logit_bias = 1025;
    assert_int_equal(convert(*state, &r, &p, &err), SC_EINVAL);
    assert_text_has(err.text, "limit 1024");
}

static void absent_fields_get_the_models_defaults(void **state)
{
    struct fixture *f = *state;
    struct request r;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;

    init(&r);
    r.m.sampling = NULL;
    assert_ok(convert(f, &r, &p, &err));
    assert_float_equal(p.opts.sampling.temperature, f->model.config.default_temperature, 0);
    assert_float_equal(p.opts.sampling.top_p, f->model.config.default_top_p, 0);
    assert_float_equal(p.opts.sampling.repetition_penalty, 1, 0);
    assert_true(p.opts.skip_special_tokens);
    assert_false(p.opts.ignore_eos);
    assert_int_equal(p.opts.max_tokens, 0);
    assert_int_equal(p.n_outputs, 1);
    assert_int_equal(p.opts.kv, SC_KV_CHOICE_AUTO);
    assert_float_equal(p.opts.recipe.target_ratio, f->config.target_ratio, 0);
    sc_params_fini(&p);
}

static void an_explicit_zero_is_no_default(void **state)
{
    struct request r;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;

    init(&r);
    SC_PB_SET(&r.sampling, temperature, 0.0f);
    SC_PB_SET(&r.sampling, seed, 0);
    SC_PB_SET(&r.sampling, skip_special_tokens, 0);
    assert_ok(convert(*state, &r, &p, &err));
    assert_float_equal(p.opts.sampling.temperature, 0, 0);
    assert_int_equal(p.opts.sampling.seed, 0);
    assert_false(p.opts.skip_special_tokens);
    sc_params_fini(&p);
}

static void seeds_are_made_up_only_where_chance_decides(void **state)
{
    struct request r;
    struct sc_params a, b;
    struct sc_err err = SC_ERR_INIT;

    init(&r);
    SC_PB_SET(&r.sampling, temperature, 1.0f);
    assert_ok(convert(*state, &r, &a, &err));
    assert_ok(convert(*state, &r, &b, &err));
    assert_true(a.opts.sampling.seed != b.opts.sampling.seed);
    sc_params_fini(&a);
    sc_params_fini(&b);
    SC_PB_SET(&r.sampling, temperature, 0.0f);
    assert_ok(convert(*state, &r, &a, &err));
    assert_int_equal(a.opts.sampling.seed, 0);
    sc_params_fini(&a);
}

static void prompts_are_checked(void **state)
{
    struct fixture *f = *state;
    int32_t bad[] = {0, 256}, *many;
    struct request r;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;
    uint32_t n = f->convert.max_context + 1;

    init(&r);
    r.m.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT__NOT_SET;
    assert_int_equal(convert(f, &r, &p, &err), SC_EINVAL);
    assert_text_has(err.text, "prompt:");

    init(&r);
    r.ids.n_ids = 0;
    assert_int_equal(convert(f, &r, &p, &err), SC_EINVAL);
    assert_text_has(err.text, "token_ids");

    init(&r);
    r.ids.ids = bad;
    assert_int_equal(convert(f, &r, &p, &err), SC_EINVAL);
    assert_text_has(err.text, "token_ids: token id 256, limits 0..255");

    many = calloc(n, sizeof(*many));
    init(&r);
    r.ids.ids = many;
    r.ids.n_ids = n;
    assert_int_equal(convert(f, &r, &p, &err), SC_ERANGE);
    r.ids.n_ids = n - 5;
    SC_PB_SET(&r.sampling, max_tokens, 4);
    assert_ok(convert(f, &r, &p, &err));
    sc_params_fini(&p);
    SC_PB_SET(&r.sampling, max_tokens, 5);
    assert_int_equal(convert(f, &r, &p, &err), SC_ERANGE);
    assert_text_has(err.text, "sampling.max_tokens 5");
    free(many);
}

static void text_must_be_utf8(void **state)
{
    static uint8_t cut[] = "good \xe2\x82", good[] = "the land";
    struct request r;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;

    init(&r);
    r.m.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_TEXT;
    r.m.text = (ProtobufCBinaryData){.len = sizeof(cut) - 1, .data = cut};
    assert_int_equal(convert(*state, &r, &p, &err), SC_EINVAL);
    assert_text_has(err.text, "text: not valid UTF-8 at byte 5 of 7");
    r.m.text = (ProtobufCBinaryData){.len = sizeof(good) - 1, .data = good};
    assert_ok(convert(*state, &r, &p, &err));
    assert_true(p.opts.n_prompt > 1);
    assert_int_equal(p.opts.prompt[0], 0); /* begin of text */
    sc_params_fini(&p);
    r.m.text = (ProtobufCBinaryData){0};
    SC_PB_SET(&r.m, add_special_tokens, 0);
    assert_int_equal(convert(*state, &r, &p, &err), SC_EINVAL);
    assert_text_has(err.text, "prompt: no tokens");
}

static void what_is_not_there_yet_says_so(void **state)
{
    Semanticache__V1__ChatMessages messages = SEMANTICACHE__V1__CHAT_MESSAGES__INIT;
    Semanticache__V1__ChatMessage message = SEMANTICACHE__V1__CHAT_MESSAGE__INIT;
    Semanticache__V1__ChatMessage *list[] = {&message};
    struct request r;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;

    init(&r);
    r.m.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_MESSAGES;
    r.m.messages = &messages;
    assert_int_equal(convert(*state, &r, &p, &err), SC_EINVAL);
    assert_text_has(err.text, "messages: none");
    messages.messages = list;
    messages.n_messages = 1;
    assert_int_equal(convert(*state, &r, &p, &err), SC_ENOTSUP);
    assert_text_has(err.text, "messages: no chat template; send text");
    init(&r);
    Semanticache__V1__DocumentPrompt documents = SEMANTICACHE__V1__DOCUMENT_PROMPT__INIT;
    r.m.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_DOCUMENTS;
    r.m.documents = &documents;
    assert_int_equal(convert(*state, &r, &p, &err), SC_EINVAL);
    assert_text_has(err.text, "documents.document_ids: 0, limits 1..64");
    init(&r);
    SC_PB_SET(&r.sampling, prompt_logprobs, 1);
    assert_int_equal(convert(*state, &r, &p, &err), SC_ENOTSUP);
    assert_text_has(err.text, "sampling.prompt_logprobs");
}

/* What the prompt's ids say, special tokens included. */
static void expect_prompt(const struct fixture *f, const struct sc_params *p, const char *want)
{
    struct sc_text text = {0};
    struct sc_err err = SC_ERR_INIT;

    assert_ok(
        sc_tokenizer_decode(f->model.tok, p->opts.prompt, p->opts.n_prompt, false, &text, &err));
    assert_string_equal(text.bytes, want);
    sc_text_fini(&text);
}

static void messages_become_the_prompt_that_the_template_writes(void **state)
{
    static const char source[] =
        "{{ bos_token }}{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
        "{{ raise_exception('no role ' + m.role) }}{% endif %}[{{ m.role }}] {{ m.content|trim }}\n"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    uint8_t hello[] = " Hello ", cut[] = "a\xe2";
    Semanticache__V1__ChatMessages messages = SEMANTICACHE__V1__CHAT_MESSAGES__INIT;
    Semanticache__V1__ChatMessage message = SEMANTICACHE__V1__CHAT_MESSAGE__INIT;
    Semanticache__V1__ChatMessage *list[] = {&message};
    struct fixture *f = *state;
    struct sc_chat_template *tpl = NULL;
    struct sc_text bos = {0};
    struct sc_err err = SC_ERR_INIT;
    struct sc_params p;
    struct request r;
    int32_t bos_id = sc_tokenizer_bos(f->model.tok);
    char want[200];

    assert_ok(sc_chat_template_open(source, sizeof(source) - 1, &tpl, &err));
    f->convert.chat = tpl;
    assert_true(bos_id >= 0);
    assert_ok(sc_tokenizer_decode(f->model.tok, &bos_id, 1, false, &bos, &err));
    init(&r);
    r.m.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_MESSAGES;
    r.m.messages = &messages;
    messages.messages = list;
    messages.n_messages = 1;
    message.role = (char *)(uintptr_t) "user";
    message.content = (ProtobufCBinaryData){.len = sizeof(hello) - 1, .data = hello};
    assert_ok(convert(f, &r, &p, &err));
    assert_int_equal(p.opts.prompt[0], bos_id); /* parsed, and only the template's */
    assert_int_not_equal(p.opts.prompt[1], bos_id);
    (void)snprintf(want, sizeof(want), "%s[user] Hello\n[assistant]", bos.bytes);
    expect_prompt(f, &p, want);
    sc_params_fini(&p);
    SC_PB_SET(&messages, add_generation_prompt, 0);
    assert_ok(convert(f, &r, &p, &err));
    (void)snprintf(want, sizeof(want), "%s[user] Hello\n", bos.bytes);
    expect_prompt(f, &p, want);
    sc_params_fini(&p);
    message.role = (char *)(uintptr_t) "tool";
    assert_int_equal(convert(f, &r, &p, &err), SC_EINVAL);
    assert_string_equal(err.text, "messages: no role tool");
    message.content = (ProtobufCBinaryData){.len = sizeof(cut) - 1, .data = cut};
    assert_int_equal(convert(f, &r, &p, &err), SC_EINVAL);
    assert_text_has(err.text, "messages[0].content: not valid UTF-8 at byte 1 of 2");
    f->convert.chat = NULL;
    sc_chat_template_close(tpl);
    sc_text_fini(&bos);
}

static void request_ids_are_printable_and_short(void **state)
{
    struct sc_err err = SC_ERR_INIT;
    char text[130];

    (void)state;
    memset(text, 'x', 129);
    text[129] = '\0';
    assert_int_equal(sc_convert_request_id(text, &err), SC_EINVAL);
    sc_err_clear(&err);
    text[128] = '\0';
    assert_ok(sc_convert_request_id(text, &err));
    assert_int_equal(sc_convert_request_id("a b", &err), SC_EINVAL);
    assert_text_has(err.text, "request_id");
    sc_err_clear(&err);
    assert_int_equal(sc_convert_request_id("gr\xc3\xbcn", &err), SC_EINVAL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_bad_number_is_named),
        TEST(the_limits_themselves_are_taken),
        TEST(stops_are_checked),
        TEST(logit_bias_is_checked),
        TEST(absent_fields_get_the_models_defaults),
        TEST(an_explicit_zero_is_no_default),
        TEST(seeds_are_made_up_only_where_chance_decides),
        TEST(prompts_are_checked),
        TEST(text_must_be_utf8),
        TEST(what_is_not_there_yet_says_so),
        TEST(messages_become_the_prompt_that_the_template_writes),
        TEST(request_ids_are_printable_and_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
