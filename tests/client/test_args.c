#include "client/args.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define PARSE(args, err, ...)                                                                      \
    parse((args), (err), (char *const[]){(char *)"semcache", __VA_ARGS__, NULL})

static enum sc_status parse(struct sc_args *args, struct sc_err *err, char *const *argv)
{
    int argc = 0;
    while (argv[argc] != NULL)
        argc++;
    sc_err_clear(err);
    return sc_args_parse(argc, argv, args, err);
}

static char *s(const char *text)
{
    return (char *)(uintptr_t)text;
}

static void every_kind_of_value_is_read(void **state)
{
    (void)state;
    struct sc_args args;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(PARSE(&args, &err, s("generate"), s("--prompt"), s("hi"), s("--max-tokens=7"),
                           s("--top-k"), s("-1"), s("--temperature"), s("0.5"), s("--json"),
                           s("--skip-special-tokens"), s("off"), s("--kv"), s("compressed"),
                           s("--stop"), s("a"), s("--stop"), s(""), s("--token-ids"), s("1,22,3"),
                           s("--logit-bias"), s("5:-1.5,6:100"), s("--seed"),
                           s("18446744073709551615")),
                     SC_OK);
    assert_string_equal(sc_arg(&args, SC_OPT_PROMPT)->text, "hi");
    assert_int_equal(sc_arg(&args, SC_OPT_MAX_TOKENS)->u, 7);
    assert_int_equal(sc_arg(&args, SC_OPT_TOP_K)->i, -1);
    assert_true(sc_arg(&args, SC_OPT_TEMPERATURE)->real == 0.5);
    assert_true(sc_arg(&args, SC_OPT_JSON)->on);
    assert_true(sc_arg(&args, SC_OPT_SKIP_SPECIAL_TOKENS)->set);
    assert_false(sc_arg(&args, SC_OPT_SKIP_SPECIAL_TOKENS)->on);
    assert_int_equal(sc_arg(&args, SC_OPT_KV)->choice, 2);
    assert_int_equal(sc_arg(&args, SC_OPT_STOP)->n_items, 2);
    assert_string_equal(sc_arg(&args, SC_OPT_STOP)->texts[1], "");
    const struct sc_arg_value *ids = sc_arg(&args, SC_OPT_TOKEN_IDS);
    assert_int_equal(ids->n_items, 3);
    assert_int_equal(ids->ids[1], 22);
    const struct sc_arg_value *bias = sc_arg(&args, SC_OPT_LOGIT_BIAS);
    assert_int_equal(bias->n_items, 2);
    assert_int_equal(bias->ids[0], 5);
    assert_true(bias->biases[0] == -1.5f && bias->biases[1] == 100.0f);
    assert_true(sc_arg(&args, SC_OPT_SEED)->u == UINT64_MAX);
    assert_false(sc_arg(&args, SC_OPT_TOP_P)->set);
    sc_args_fini(&args);
}

static void words_and_options_mix_and_two_dashes_end_options(void **state)
{
    (void)state;
    struct sc_args args;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(PARSE(&args, &err, s("ask"), s("Who?"), s("--document"), s("-")), SC_OK);
    assert_string_equal(args.words[0], "Who?");
    assert_string_equal(sc_arg(&args, SC_OPT_DOCUMENT)->text, "-");
    sc_args_fini(&args);
    assert_int_equal(PARSE(&args, &err, s("ask"), s("--"), s("--json")), SC_OK);
    assert_string_equal(args.words[0], "--json");
    assert_false(sc_arg(&args, SC_OPT_JSON)->set);
    sc_args_fini(&args);
    assert_int_equal(PARSE(&args, &err, s("inspect"), s("-")), SC_OK);
    assert_string_equal(args.words[0], "-");
    sc_args_fini(&args);
}

static void wrong_usage_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *argv[6];
        const char *says;
    } cases[] = {
        {{"semcache"}, "command is missing"},
        {{"semcache", "frobnicate"}, "unknown command 'frobnicate'"},
        {{"semcache", "ask", "q", "--documnet", "x"}, "did you mean --document?"},
        {{"semcache", "ask", "q", "--zzzzzzzz", "x"}, "unknown option --zzzzzzzz"},
        {{"semcache", "info", "--top-p", "1"}, "--top-p does not belong to info"},
        {{"semcache", "info", "-v"}, "unknown option -v"},
        {{"semcache", "info", "word"}, "unexpected argument 'word'"},
        {{"semcache", "ask"}, "usage: semcache ask"},
        {{"semcache", "ask", "a", "b"}, "unexpected argument 'b'"},
        {{"semcache", "generate", "--prompt"}, "--prompt needs a value: TEXT"},
        {{"semcache", "generate", "--json=1"}, "--json takes no value"},
        {{"semcache", "generate", "--max-tokens", "0"}, "--max-tokens: '0', must be 1.."},
        {{"semcache", "generate", "--max-tokens", "-1"}, "not a whole number"},
        {{"semcache", "generate", "--max-tokens", "1x"}, "not a whole number"},
        {{"semcache", "generate", "--max-tokens", ""}, "not a whole number"},
        {{"semcache", "generate", "--seed", "18446744073709551616"},
         "must be 0..18446744073709551615"},
        {{"semcache", "generate", "--top-k", "-2"}, "must be -1.."},
        {{"semcache", "generate", "--top-p", "1.01"}, "must be 0..1"},
        {{"semcache", "generate", "--top-p", "nan"}, "not a number"},
        {{"semcache", "generate", "--temperature", "inf"}, "not a number"},
        {{"semcache", "generate", "--kv", "lossy"}, "one of: auto, exact, compressed"},
        {{"semcache", "generate", "--skip-special-tokens", "maybe"}, "neither true nor false"},
        {{"semcache", "generate", "--token-ids", "1,,2"}, "list of numbers"},
        {{"semcache", "generate", "--token-ids", "1,2,"}, "list of numbers"},
        {{"semcache", "generate", "--token-ids", ""}, "list of numbers"},
        {{"semcache", "generate", "--token-ids", "-4"}, "must be 0.."},
        {{"semcache", "generate", "--token-ids", "2147483648"}, "must be 0..2147483647"},
        {{"semcache", "generate", "--token-ids", "1;2"}, "unexpected ';2'"},
        {{"semcache", "generate", "--logit-bias", "1"}, "ID:BIAS"},
        {{"semcache", "generate", "--logit-bias", "1:"}, "ID:BIAS"},
        {{"semcache", "generate", "--logit-bias", "1:101"}, "must be -100..100"},
        {{"semcache", "generate", "--logit-bias", "1:nan"}, "must be -100..100"},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct sc_args args;
        struct sc_err err = SC_ERR_INIT;
        char *argv[7] = {0};
        int argc = 0;
        for (; cases[i].argv[argc] != NULL; argc++)
            argv[argc] = s(cases[i].argv[argc]);
        assert_int_equal(sc_args_parse(argc, argv, &args, &err), SC_EINVAL);
        if (strstr(err.text, cases[i].says) == NULL)
            fail_msg("case %zu says '%s', not '%s'", i, err.text, cases[i].says);
    }
}

static void a_repeatable_option_has_a_limit(void **state)
{
    (void)state;
    char *argv[2 * (SC_ARG_TEXTS_MAX + 1) + 3] = {s("semcache"), s("generate")};
    int argc = 2;
    struct sc_args args;
    struct sc_err err = SC_ERR_INIT;
    for (unsigned i = 0; i < SC_ARG_TEXTS_MAX; i++) {
        argv[argc++] = s("--stop");
        argv[argc++] = s("x");
    }
    assert_int_equal(sc_args_parse(argc, argv, &args, &err), SC_OK);
    assert_int_equal(sc_arg(&args, SC_OPT_STOP)->n_items, SC_ARG_TEXTS_MAX);
    sc_args_fini(&args);
    argv[argc++] = s("--stop");
    argv[argc++] = s("x");
    assert_int_equal(sc_args_parse(argc, argv, &args, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "more than 64 times"));
}

static void a_pin_takes_its_time_only_behind_an_equals_sign(void **state)
{
    (void)state;
    struct sc_args args;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(PARSE(&args, &err, s("ingest"), s("--pin"), s("60"), s("b")), SC_OK);
    assert_true(sc_arg(&args, SC_OPT_PIN)->set);
    assert_int_equal(sc_arg(&args, SC_OPT_PIN)->u, 0);
    assert_int_equal(args.n_words, 2);
    assert_string_equal(args.words[0], "60");
    sc_args_fini(&args);
    assert_int_equal(PARSE(&args, &err, s("ingest"), s("--pin=60"), s("b")), SC_OK);
    assert_int_equal(sc_arg(&args, SC_OPT_PIN)->u, 60);
    sc_args_fini(&args);
    assert_int_equal(PARSE(&args, &err, s("ingest"), s("--pin=soon"), s("b")), SC_EINVAL);
    assert_non_null(strstr(err.text, "--pin: 'soon'"));
}

static void documents_and_priorities_are_read(void **state)
{
    (void)state;
    struct sc_args args;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(PARSE(&args, &err, s("ask"), s("--doc"), s("a"), s("--doc=b"), s("--priority"),
                           s("-5"), s("Who?")),
                     SC_OK);
    assert_int_equal(sc_arg(&args, SC_OPT_DOC)->n_items, 2);
    assert_string_equal(sc_arg(&args, SC_OPT_DOC)->texts[1], "b");
    assert_int_equal(sc_arg(&args, SC_OPT_PRIORITY)->i, -5);
    sc_args_fini(&args);
    assert_int_equal(PARSE(&args, &err, s("ask"), s("--priority=101"), s("Who?")), SC_EINVAL);
    assert_non_null(strstr(err.text, "-100..100"));
    assert_int_equal(PARSE(&args, &err, s("ingest")), SC_EINVAL);
    assert_int_equal(PARSE(&args, &err, s("info"), s("--api-key"), s("k")), SC_EINVAL);
}

static void a_command_of_two_words_and_its_ranges_are_read(void **state)
{
    (void)state;
    struct sc_args args;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(PARSE(&args, &err, s("bench"), s("serve"), s("--prompt-len"), s("5-9"),
                           s("--output-len=7")),
                     SC_OK);
    assert_int_equal(args.cmd, SC_CMD_BENCH_SERVE);
    assert_int_equal(args.n_words, 0);
    assert_int_equal(sc_arg(&args, SC_OPT_PROMPT_LEN)->u, 5);
    assert_int_equal(sc_arg(&args, SC_OPT_PROMPT_LEN)->u_high, 9);
    assert_int_equal(sc_arg(&args, SC_OPT_OUTPUT_LEN)->u, 7);
    assert_int_equal(sc_arg(&args, SC_OPT_OUTPUT_LEN)->u_high, 7);
    sc_args_fini(&args);
    static const char *const bad[] = {"9-5", "5-", "-5", "0-3", "5-9-11", "a", "", "1-9999999"};
    for (size_t i = 0; i < SC_ARRAY_LEN(bad); i++)
        assert_int_equal(PARSE(&args, &err, s("bench"), s("serve"), s("--prompt-len"), s(bad[i])),
                         SC_EINVAL);
    assert_int_equal(PARSE(&args, &err, s("bench")), SC_EINVAL);
    assert_string_equal(err.text,
                        "command 'bench' needs a second word: `semcache help bench` has them");
    assert_int_equal(PARSE(&args, &err, s("bench"), s("nothing")), SC_EINVAL);
    assert_string_equal(err.text, "unknown command 'bench nothing'");
    assert_int_equal(PARSE(&args, &err, s("ben"), s("serve")), SC_EINVAL);
}

static void help_needs_no_other_arguments(void **state)
{
    (void)state;
    struct sc_args args;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(PARSE(&args, &err, s("ask"), s("--help")), SC_OK);
    assert_true(sc_arg(&args, SC_OPT_HELP)->set);
    sc_args_fini(&args);
    assert_int_equal(PARSE(&args, &err, s("ask"), s("-h")), SC_OK);
    assert_true(sc_arg(&args, SC_OPT_HELP)->set);
    sc_args_fini(&args);
}

static void escapes_become_what_a_shell_user_means(void **state)
{
    (void)state;
    struct sc_arena arena;
    sc_arena_init(&arena, 4096);
    assert_string_equal(sc_args_unescape(&arena, "a\\nb\\tc\\\\n\\x\\"), "a\nb\tc\\n\\x\\");
    assert_string_equal(sc_args_unescape(&arena, ""), "");
    sc_arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_value_is_read),
        cmocka_unit_test(words_and_options_mix_and_two_dashes_end_options),
        cmocka_unit_test(wrong_usage_is_named),
        cmocka_unit_test(a_repeatable_option_has_a_limit),
        cmocka_unit_test(a_pin_takes_its_time_only_behind_an_equals_sign),
        cmocka_unit_test(documents_and_priorities_are_read),
        cmocka_unit_test(a_command_of_two_words_and_its_ranges_are_read),
        cmocka_unit_test(help_needs_no_other_arguments),
        cmocka_unit_test(escapes_become_what_a_shell_user_means),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
