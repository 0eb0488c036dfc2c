#include "client/prompt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct sc_arena arena;
    struct sc_err err;
    char path[64];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return -1;
    sc_arena_init(&f->arena, (size_t)2 * SC_INPUT_BYTES_MAX);
    (void)snprintf(f->path, sizeof(f->path), "/tmp/semcache-prompt-XXXXXX");
    int fd = mkstemp(f->path);
    if (fd < 0 || close(fd) != 0)
        return -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    sc_arena_fini(&f->arena);
    (void)unlink(f->path);
    free(f);
    return 0;
}

static void write_file(const struct fixture *f, const char *bytes, size_t len)
{
    FILE *out = fopen(f->path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, len, out), len);
    assert_int_equal(fclose(out), 0);
}

static void prompt_is_document_prefix_question_prefix_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    const struct sc_text document = {"  Doc.\n\nTwo. \n\n", 15};
    struct sc_prompt_format format;
    struct sc_text prompt;
    sc_prompt_format_default(&format);
    assert_int_equal(format.n_stops, 1);
    assert_string_equal(format.stops[0], "\n");
    assert_int_equal(sc_prompt_build(&f->arena, &format, &document, "Who? ", &prompt, &f->err),
                     SC_OK);
    assert_string_equal(prompt.bytes, "  Doc.\n\nTwo. \n\nQuestion: Who? \nAnswer:");
    assert_int_equal(prompt.len, strlen(prompt.bytes));
}

static void document_with_a_zero_byte_keeps_it(void **state)
{
    struct fixture *f = *state;
    struct sc_text text;
    write_file(f, "a\0b", 3);
    assert_int_equal(sc_prompt_read(&f->arena, f->path, &text, &f->err), SC_OK);
    assert_int_equal(text.len, 3);
    assert_memory_equal(text.bytes, "a\0b", 4);
}

static void format_file_replaces_what_it_names(void **state)
{
    struct fixture *f = *state;
    static const char json[] = "{\"question_prefix\": \"Q \", \"stop\": [\"\\n\", \"END\"]}";
    struct sc_prompt_format format;
    sc_prompt_format_default(&format);
    assert_int_equal(sc_prompt_format_parse(&f->arena, json, strlen(json), &format, &f->err),
                     SC_OK);
    assert_string_equal(format.question_prefix, "Q ");
    assert_string_equal(format.answer_prefix, "\nAnswer:");
    assert_int_equal(format.n_stops, 2);
    assert_string_equal(format.stops[1], "END");
}

static void wrong_format_files_are_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *json, *says;
    } cases[] = {
        {"", "line 1"},
        {"[]", "not a JSON object"},
        {"{\"question_prefix\": 3}", "question_prefix is not a string"},
        {"{\"stop\": \"x\"}", "stop must be a list"},
        {"{\"stop\": [1]}", "an item of stop"},
        {"{\"stop\": [\"\"]}", "an item of stop is empty"},
        {"{\"anwser_prefix\": \"x\"}", "unknown key 'anwser_prefix'"},
        {"{\"stop\": [], \"stop\": []}", "duplicate"},
        {"{\"stop\": [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"0\",\"1\",\"2\","
         "\"3\",\"4\",\"5\",\"6\",\"7\"]}",
         "at most 16"},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct sc_prompt_format format;
        sc_prompt_format_default(&format);
        sc_err_clear(&f->err);
        assert_int_not_equal(sc_prompt_format_parse(&f->arena, cases[i].json, strlen(cases[i].json),
                                                    &format, &f->err),
                             SC_OK);
        if (strstr(f->err.text, cases[i].says) == NULL)
            fail_msg("case %zu says '%s'", i, f->err.text);
    }
}

static void text_that_is_not_utf8_is_refused_with_its_place(void **state)
{
    struct fixture *f = *state;
    struct sc_text text = {0};
    write_file(f, "ab\xC3(", 4);
    assert_int_equal(sc_prompt_read(&f->arena, f->path, &text, &f->err), SC_EFORMAT);
    assert_non_null(strstr(f->err.text, "not UTF-8 at byte 2 (0xC3)"));
}

static void missing_file_and_directory_are_refused(void **state)
{
    struct fixture *f = *state;
    struct sc_text text = {0};
    assert_int_equal(sc_prompt_read(&f->arena, "/nonexistent/x", &text, &f->err), SC_ENOENT);
    sc_err_clear(&f->err);
    assert_int_equal(sc_prompt_read(&f->arena, "/tmp", &text, &f->err), SC_EIO);
    assert_null(text.bytes);
}

static void file_over_the_limit_is_refused(void **state)
{
    struct fixture *f = *state;
    struct sc_text text = {0};
    assert_int_equal(truncate(f->path, (off_t)SC_INPUT_BYTES_MAX + 1), 0);
    assert_int_equal(sc_prompt_read(&f->arena, f->path, &text, &f->err), SC_ERANGE);
    assert_non_null(strstr(f->err.text, "67108864"));
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(prompt_is_document_prefix_question_prefix_and_nothing_else),
        CASE(document_with_a_zero_byte_keeps_it),
        CASE(format_file_replaces_what_it_names),
        CASE(wrong_format_files_are_refused),
        CASE(text_that_is_not_utf8_is_refused_with_its_place),
        CASE(missing_file_and_directory_are_refused),
        CASE(file_over_the_limit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
