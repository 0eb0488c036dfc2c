/* Prompts made of documents; no engine. */
#include "documents_world.h"

#include "daemon/convert_documents.h"
#include "proto/optional.h"

struct prompt {
    struct sc_convert convert;
    struct sc_identity identity;
    bool parse_special; /* asked for */
};

static void prompt_open(struct world *w, struct prompt *p)
{
    struct sc_err err = SC_ERR_INIT;

    (void)snprintf(w->f->config.shared_namespace, SC_CONFIG_PATH_BYTES, "common");
    p->parse_special = false;
    p->convert = w->f->convert;
    p->convert.documents = w->ds;
    p->identity = (struct sc_identity){.ns = "team"};
    p->convert.identity = &p->identity;
    assert_ok(add(w, make(w, "team", "land", "the land", SC_KV_EXACT), false, &err));
    assert_ok(add(w, make(w, "team", "water", "the water", SC_KV_COMPRESSED), false, &err));
    assert_ok(add(w, make(w, "other", "secret", "the secret", SC_KV_EXACT), false, &err));
    assert_ok(add(w, make(w, "common", "all", "for all", SC_KV_COMPRESSED), false, &err));
}

static enum sc_status compose(const struct prompt *w, const char *const *ids, size_t n,
                              const char *question, const Semanticache__V1__KvOptions *kv,
                              struct sc_params *p, struct sc_err *err)
{
    Semanticache__V1__GenerateRequest m = SEMANTICACHE__V1__GENERATE_REQUEST__INIT;
    Semanticache__V1__DocumentPrompt d = SEMANTICACHE__V1__DOCUMENT_PROMPT__INIT;

    d.document_ids = (char **)(uintptr_t)ids;
    d.n_document_ids = n;
    d.question.data = (uint8_t *)(uintptr_t)question;
    d.question.len = strlen(question);
    m.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_DOCUMENTS;
    m.documents = &d;
    if (w->parse_special)
        SC_PB_SET(&m, parse_special_tokens, true);
    m.kv = (Semanticache__V1__KvOptions *)(uintptr_t)kv;
    sc_err_clear(err);
    return sc_convert_generate(&w->convert, &m, p, err);
}

static void encode(const struct world *w, const char *text, bool special, struct sc_ids *ids)
{
    const struct sc_encode_opts opts = {.add_special_tokens = special};
    struct sc_err err = SC_ERR_INIT;

    assert_ok(sc_tokenizer_encode(w->f->model.tok, text, strlen(text), &opts, ids, &err));
}

static void a_prompt_is_the_documents_then_the_question(void **state)
{
    static const char *const ids[] = {"land", "water"};
    struct world *w = *state;
    struct sc_ids want = {0};
    struct prompt prompt;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;
    size_t breakpoint;

    prompt_open(w, &prompt);
    assert_ok(compose(&prompt, ids, 2, "\n\nwhat?", NULL, &p, &err));
    encode(w, "the land", true, &want);
    assert_int_equal(p.opts.document_tokens, want.n); /* the first one can be brought back */
    encode(w, "\n\n", false, &want);
    encode(w, "the water", false, &want); /* one begin-of-text a prompt */
    breakpoint = want.n;
    encode(w, "\n\nwhat?", false, &want);
    assert_int_equal(p.opts.n_prompt, want.n);
    assert_memory_equal(p.opts.prompt, want.ids, want.n * sizeof(want.ids[0]));
    assert_int_equal(p.opts.breakpoint, breakpoint);
    assert_false(p.opts.retain);
    assert_string_equal(p.opts.ns, "team");
    assert_string_equal(p.opts.shared_ns, "common");
    sc_params_fini(&p);
    sc_ids_fini(&want);
}

static bool holds(const struct sc_params *p, uint32_t from, uint32_t to, int32_t id)
{
    for (uint32_t i = from; i < to; i++)
        if (p->opts.prompt[i] == id)
            return true;
    return false;
}

/* A text that ends its own turn, or begins a new one, would speak with another's voice. */
static void what_spells_a_special_token_in_a_document_or_a_question_stays_text(void **state)
{
    static const char *const ids[] = {"letter", "land"};
    struct world *w = *state;
    int32_t eos = sc_tokenizer_eos(w->f->model.tok);
    struct sc_text name = {0};
    struct prompt prompt;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;
    char text[128];

    assert_ok(sc_tokenizer_decode(w->f->model.tok, &eos, 1, false, &name, &err));
    assert_true(name.len > 0);
    (void)snprintf(text, sizeof(text), "dear %.*s you", (int)name.len, name.bytes);
    prompt_open(w, &prompt);
    assert_ok(add(w, make(w, "team", "letter", text, SC_KV_EXACT), false, &err));
    assert_ok(compose(&prompt, ids, 2, text, NULL, &p, &err));
    assert_false(holds(&p, 1, p.opts.n_prompt, eos));
    sc_params_fini(&p);
    prompt.parse_special = true; /* the question's author is trusted, the document's is not */
    assert_ok(compose(&prompt, ids, 2, text, NULL, &p, &err));
    assert_false(holds(&p, 1, p.opts.breakpoint, eos));
    assert_true(holds(&p, p.opts.breakpoint, p.opts.n_prompt, eos));
    sc_params_fini(&p);
    sc_text_fini(&name);
}

static void kv_options_are_the_first_documents_unless_the_request_has_some(void **state)
{
    static const char *const land[] = {"land", "water"}, *const water[] = {"water"};
    static const enum sc_kv_default defaults[] = {SC_KV_DEFAULT_AUTO, SC_KV_DEFAULT_EXACT,
                                                  SC_KV_DEFAULT_COMPRESSED};
    Semanticache__V1__KvOptions kv = SEMANTICACHE__V1__KV_OPTIONS__INIT;
    struct world *w = *state;
    struct prompt prompt;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;

    prompt_open(w, &prompt);
    for (size_t i = 0; i < SC_ARRAY_LEN(defaults); i++) { /* whatever the defaults are by now */
        w->f->config.kv_mode = defaults[i];
        assert_ok(compose(&prompt, land, 2, "q", NULL, &p, &err));
        assert_int_equal(p.opts.kv, SC_KV_CHOICE_EXACT);
        sc_params_fini(&p);
        assert_ok(compose(&prompt, water, 1, "q", &kv, &p, &err)); /* mode unspecified */
        assert_int_equal(p.opts.kv, SC_KV_CHOICE_COMPRESSED);
        assert_int_equal(p.opts.recipe.mode, SC_KV_COMPRESSED);
        sc_params_fini(&p);
    }
    kv.mode = SEMANTICACHE__V1__KV_MODE__KV_MODE_EXACT;
    assert_ok(compose(&prompt, water, 1, "q", &kv, &p, &err));
    assert_int_equal(p.opts.kv, SC_KV_CHOICE_EXACT);
    sc_params_fini(&p);
}

/* Taking the document's without a word would answer with another ratio than was asked for. */
static void options_without_a_mode_are_the_documents_or_refused(void **state)
{
    static const char *const water[] = {"water"}, *const half[] = {"half"};
    Semanticache__V1__KvOptions kv = SEMANTICACHE__V1__KV_OPTIONS__INIT;
    struct world *w = *state;
    struct sc_document *d = make(w, "team", "half", "the half", SC_KV_COMPRESSED);
    struct prompt prompt;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;

    SC_PB_SET(&kv, target_ratio, 0.5f);
    kv.mode = SEMANTICACHE__V1__KV_MODE__KV_MODE_COMPRESSED;
    d->kv_bytes = protobuf_c_message_get_packed_size(&kv.base);
    free(d->kv);
    d->kv = malloc(d->kv_bytes);
    assert_non_null(d->kv);
    (void)protobuf_c_message_pack(&kv.base, d->kv);
    prompt_open(w, &prompt);
    assert_ok(add(w, d, false, &err));
    kv.mode = SEMANTICACHE__V1__KV_MODE__KV_MODE_UNSPECIFIED;
    assert_int_equal(compose(&prompt, water, 1, "q", &kv, &p, &err), SC_EINVAL);
    assert_text_has(err.text, "not those that \"water\" was put with: say a mode");
    assert_ok(compose(&prompt, half, 1, "q", &kv, &p, &err));
    assert_float_equal(p.opts.recipe.target_ratio, 0.5f, 0);
    sc_params_fini(&p);
    kv.target_ratio = 0.25f;
    assert_int_equal(compose(&prompt, half, 1, "q", &kv, &p, &err), SC_EINVAL);
    kv.mode = SEMANTICACHE__V1__KV_MODE__KV_MODE_COMPRESSED;
    assert_ok(compose(&prompt, half, 1, "q", &kv, &p, &err));
    assert_float_equal(p.opts.recipe.target_ratio, 0.25f, 0);
    sc_params_fini(&p);
}

static void only_documents_one_may_read_are_found(void **state)
{
    static const char *const secret[] = {"land", "secret"}, *const all[] = {"all"};
    static const char *many[SC_PROMPT_DOCUMENTS_MAX + 1];
    struct world *w = *state;
    struct prompt prompt;
    struct sc_params p;
    struct sc_err err = SC_ERR_INIT;

    prompt_open(w, &prompt);
    assert_int_equal(compose(&prompt, secret, 2, "q", NULL, &p, &err), SC_ENOENT);
    assert_text_has(err.text, "no document \"secret\"");
    assert_ok(compose(&prompt, all, 1, "q", NULL, &p, &err));
    sc_params_fini(&p);
    w->f->config.shared_namespace[0] = '\0';
    assert_int_equal(compose(&prompt, all, 1, "q", NULL, &p, &err), SC_ENOENT);
    assert_int_equal(compose(&prompt, all, 0, "q", NULL, &p, &err), SC_EINVAL);
    for (size_t i = 0; i < SC_ARRAY_LEN(many); i++)
        many[i] = "land";
    assert_int_equal(compose(&prompt, many, SC_ARRAY_LEN(many), "q", NULL, &p, &err), SC_EINVAL);
    assert_int_equal(compose(&prompt, many, 1, "\xff", NULL, &p, &err), SC_EINVAL);
    assert_text_has(err.text, "documents.question");
    prompt.convert.max_context = 10;
    assert_int_equal(compose(&prompt, many, 20, "q", NULL, &p, &err), SC_ERANGE);
    assert_text_has(err.text, "the context holds 10");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_WORLD(a_prompt_is_the_documents_then_the_question),
        IN_WORLD(what_spells_a_special_token_in_a_document_or_a_question_stays_text),
        IN_WORLD(kv_options_are_the_first_documents_unless_the_request_has_some),
        IN_WORLD(options_without_a_mode_are_the_documents_or_refused),
        IN_WORLD(only_documents_one_may_read_are_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
