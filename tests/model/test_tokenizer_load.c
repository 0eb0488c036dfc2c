/* What a tokenizer refuses at load, and what tokenizer_config.json changes. */
#include "tests/model/tokenizer_util.h"

#include <stdio.h>
#include <unistd.h>

#include "model/tokenizer_internal.h"

/* A good tokenizer.json is HEAD + these + TAIL. */
#define BPE(more)                                                                                  \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]" more

struct refusal {
    const char *json;
    enum sc_status st;
    const char *says;
};

static void expect_refusal(const char *json, size_t len, enum sc_status want, const char *says)
{
    struct sc_tokenizer *tok = NULL;
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = sc_tokenizer_open_memory(json, len, NULL, 0, &tok, &err);
    if (st != want || !strstr(err.text, says))
        fail_msg("%s\n gave %s: %s", json, sc_status_name(st), err.text);
    assert_null(tok);
}

static void what_is_not_understood_is_refused_by_name(void **state)
{
    (void)state;
    static const struct refusal list[] = {
        {"", SC_EFORMAT, "tokenizer.json"},
        {"{\"model\":", SC_EFORMAT, "tokenizer.json: line 1"},
        {"[]", SC_EFORMAT, "not an object"},
        {"{}", SC_EFORMAT, "model: missing"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0.0]]}}", SC_ENOTSUP, "Unigram"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", SC_ENOTSUP, "WordPiece"},
        {"{\"model\":{\"vocab\":{\"a\":0}}}", SC_ENOTSUP, "only BPE"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", SC_EFORMAT, "model.vocab"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", SC_EFORMAT, "model.merges"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", SC_ERANGE, "\"a\""},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4194304},\"merges\":[]}}", SC_ERANGE,
         "4194303"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", SC_ERANGE,
         "\"a\""},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", SC_EFORMAT,
         "id 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", SC_EFORMAT,
         "duplicate"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}",
         SC_EFORMAT, "\"ab\" is not"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"ab\":1},\"merges\":[\"a b\"]}}",
         SC_EFORMAT, "\"b\" is not"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", SC_EFORMAT,
         "merges[0]"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b c\"]}}", SC_EFORMAT,
         "merges[0]"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"\":1},\"merges\":[\"a \"]}}",
         SC_EFORMAT, "merges[0]"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", SC_EFORMAT,
         "merges[0]"},
        {BPE(",\"dropout\":0.1}}"), SC_ENOTSUP, "dropout"},
        {BPE(",\"continuing_subword_prefix\":\"##\"}}"), SC_ENOTSUP, "continuing_subword_prefix"},
        {BPE(",\"end_of_word_suffix\":\"</w>\"}}"), SC_ENOTSUP, "end_of_word_suffix"},
        {BPE(",\"byte_fallback\":1}}"), SC_EFORMAT, "byte_fallback"},
        {BPE("},\"normalizer\":{\"type\":\"Precompiled\"}}"), SC_ENOTSUP, "Precompiled"},
        {BPE("},\"normalizer\":{\"type\":\"BertNormalizer\"}}"), SC_ENOTSUP, "BertNormalizer"},
        {BPE("},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}"), SC_ENOTSUP, "BertPre"},
        {BPE("},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},"
             "\"behavior\":\"Isolated\"}}"),
         SC_EFORMAT, "regular expression"},
        {BPE("},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a*\"},"
             "\"behavior\":\"Isolated\"}}"),
         SC_ENOTSUP, "empty"},
        {BPE("},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},"
             "\"behavior\":\"Sideways\"}}"),
         SC_ENOTSUP, "Sideways"},
        {BPE("},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Glob\":\"a\"},"
             "\"behavior\":\"Isolated\"}}"),
         SC_EFORMAT, "pattern"},
        {BPE("},\"decoder\":{\"type\":\"WordPiece\"}}"), SC_ENOTSUP, "WordPiece"},
        {BPE("},\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}}"),
         SC_ENOTSUP, "Strip"},
        {BPE("},\"post_processor\":{\"type\":\"Odd\"}}"), SC_ENOTSUP, "Odd"},
        {BPE("},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
             "{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"x\":{\"ids\":[3]"
             "}}}}"),
         SC_ERANGE, "post_processor"},
        {BPE("},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}}"), SC_ENOTSUP,
         "0 times"},
        {BPE("},\"added_tokens\":[{\"id\":7,\"content\":\"<x>\"}]}"), SC_EFORMAT, "id 7"},
        {BPE("},\"added_tokens\":[{\"id\":1,\"content\":\"a\"}]}"), SC_EFORMAT, "\"a\""},
        {BPE("},\"added_tokens\":[{\"id\":3}]}"), SC_EFORMAT, "content"},
        {BPE("},\"added_tokens\":[{\"content\":\"<x>\"}]}"), SC_EFORMAT, "id"},
        {BPE("},\"added_tokens\":{}}"), SC_EFORMAT, "not an array"},
        {BPE("},\"normalizer\":{\"type\":\"Strip\"},\"added_tokens\":[{\"id\":3,\"content\":\" "
             "\"}]}"),
         SC_ENOTSUP, "nothing is left"},
    };
    struct sc_tokenizer *good = open_text(BPE("}}"), NULL);
    sc_tokenizer_close(good);
    for (size_t i = 0; i < SC_ARRAY_LEN(list); i++)
        expect_refusal(list[i].json, strlen(list[i].json), list[i].st, list[i].says);
}

static void every_cut_of_a_good_file_is_refused(void **state)
{
    (void)state;
    struct sc_text t = {0};
    put_spm(&t, NULL, NULL, NULL, NULL);
    for (size_t len = 0; len < t.len; len += 37)
        expect_refusal(t.bytes, len, SC_EFORMAT, "tokenizer.json");
    free(t.bytes);
}

static void deep_nesting_is_refused(void **state)
{
    (void)state;
    struct sc_text t = {0};
    put(&t, BPE("},\"normalizer\":"));
    for (int i = 0; i < 20; i++)
        put(&t, "{\"type\":\"Sequence\",\"normalizers\":[");
    put(&t, "{\"type\":\"NFC\"}");
    for (int i = 0; i < 20; i++)
        put(&t, "]}");
    put(&t, "}");
    expect_refusal(t.bytes, t.len, SC_ERANGE, "nested");
    free(t.bytes);
}

static void too_many_steps_are_refused(void **state)
{
    (void)state;
    struct sc_text t = {0};
    put(&t, BPE("},\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["));
    for (int i = 0; i <= SC_TOK_STEPS_MAX; i++)
        put(&t, "%s{\"type\":\"NFC\"}", i ? "," : "");
    put(&t, "]}}");
    expect_refusal(t.bytes, t.len, SC_ERANGE, "32 steps");
    free(t.bytes);
}

static void the_post_processor_adds_bos(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_spm(NULL, NULL, NULL, NULL, NULL);
    EXPECT_IDS_OPTS(tok, "hello", {.add_special_tokens = true}, 1, SPM_SPACE_HELLO);
    assert_int_equal(sc_tokenizer_bos(tok), 1);
    assert_int_equal(sc_tokenizer_eos(tok), -1);
    sc_tokenizer_close(tok);
}

static void a_llama_config_says_itself_what_is_added(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_spm(
        NULL, NULL, NULL, NULL,
        "{\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":false,\"add_eos_token\":true,"
        "\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\",\"model_max_length\":"
        "1000000000000000019884624838656}");
    EXPECT_IDS_OPTS(tok, "hello", {.add_special_tokens = true}, SPM_SPACE_HELLO, 2);
    assert_int_equal(sc_tokenizer_bos(tok), 1);
    assert_int_equal(sc_tokenizer_eos(tok), 2);
    sc_tokenizer_close(tok);
    /* Another class keeps the file's template. */
    tok = open_spm(NULL, NULL, NULL, NULL,
                   "{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"add_bos_token\":false}");
    EXPECT_IDS_OPTS(tok, "hello", {.add_special_tokens = true}, 1, SPM_SPACE_HELLO);
    sc_tokenizer_close(tok);
}

static void the_config_adds_tokens_and_its_flags_win(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_spm(
        NULL, NULL, NULL, NULL,
        "{\"added_tokens_decoder\":{"
        "\"271\":{\"content\":\"<new>\",\"special\":true,\"normalized\":false},"
        "\"2\":{\"content\":\"</s>\",\"special\":true,\"normalized\":false,\"rstrip\":true}}}");
    EXPECT_IDS(tok, "<new></s>  hello", 271, 2, SPM_SPACE_HELLO);
    sc_tokenizer_close(tok);
    struct sc_text t = {0};
    struct sc_err err = SC_ERR_INIT;
    static const char lies[] = "{\"added_tokens_decoder\":{\"300\":{\"content\":\"<new>\"}}}";
    put_spm(&t, NULL, NULL, NULL, NULL);
    assert_int_equal(sc_tokenizer_open_memory(t.bytes, t.len, lies, sizeof(lies) - 1, &tok, &err),
                     SC_EFORMAT);
    assert_non_null(strstr(err.text, "id 300"));
    free(t.bytes);
}

static void tokens_of_the_vocabulary_that_the_list_numbers_anew_shift_the_rest(void **state)
{
    (void)state;
    struct sc_tokenizer *tok = open_text(BPE("},\"added_tokens\":[{\"id\":3,\"content\":\"<x>\"},"
                                             "{\"id\":4,\"content\":\"b\"},"
                                             "{\"id\":5,\"content\":\"<y>\"}]}"),
                                         NULL);
    EXPECT_IDS(tok, "<x>b<y>", 3, 1, 4);
    sc_tokenizer_close(tok);
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static void a_directory_is_opened_with_its_config_or_without(void **state)
{
    (void)state;
    char dir[] = "/tmp/sc_tokenizer_XXXXXX", path[600];
    struct sc_tokenizer *tok = NULL;
    struct sc_err err = SC_ERR_INIT;
    struct sc_text t = {0};
    assert_non_null(mkdtemp(dir));
    assert_int_equal(sc_tokenizer_open_dir(dir, &tok, &err), SC_ENOENT);
    assert_non_null(strstr(err.text, "tokenizer.json"));
    put_spm(&t, NULL, NULL, NULL, NULL);
    write_file(dir, "tokenizer.json", t.bytes);
    sc_err_clear(&err);
    assert_int_equal(sc_tokenizer_open_dir(dir, &tok, &err), SC_OK);
    assert_int_equal(sc_tokenizer_eos(tok), -1);
    sc_tokenizer_close(tok);
    write_file(dir, "tokenizer_config.json", "{\"eos_token\":\"</s>\"}");
    assert_int_equal(sc_tokenizer_open_dir(dir, &tok, &err), SC_OK);
    assert_int_equal(sc_tokenizer_eos(tok), 2);
    sc_tokenizer_close(tok);
    write_file(dir, "tokenizer_config.json", "{");
    assert_int_equal(sc_tokenizer_open_dir(dir, &tok, &err), SC_EFORMAT);
    assert_non_null(strstr(err.text, "tokenizer_config.json"));
    snprintf(path, sizeof(path), "%s/tokenizer_config.json", dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
    unlink(path);
    rmdir(dir);
    free(t.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_understood_is_refused_by_name),
        cmocka_unit_test(every_cut_of_a_good_file_is_refused),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(too_many_steps_are_refused),
        cmocka_unit_test(the_post_processor_adds_bos),
        cmocka_unit_test(a_llama_config_says_itself_what_is_added),
        cmocka_unit_test(the_config_adds_tokens_and_its_flags_win),
        cmocka_unit_test(tokens_of_the_vocabulary_that_the_list_numbers_anew_shift_the_rest),
        cmocka_unit_test(a_directory_is_opened_with_its_config_or_without),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
