/* Templates of real models, rendered for many conversations, against what Jinja2 made of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "model/chat_template.h"

#define DIR_PATH SC_FIXTURES_DIR "/chat-templates/"
#define SHOWN    5 /* failures printed in full */

struct totals {
    unsigned n, passed, errors;
};

static char *read_file(const char *name, size_t *ret_len)
{
    char path[4096];
    (void)snprintf(path, sizeof(path), DIR_PATH "%s", name);
    FILE *f = fopen(path, "rb");
    char *bytes = malloc((size_t)2 << 20);
    assert_non_null(f);
    assert_non_null(bytes);
    *ret_len = fread(bytes, 1, (size_t)2 << 20, f);
    (void)fclose(f);
    return bytes;
}

/* The expected error is "TemplateError: " and the message given to raise_exception. */
static bool as_expected(const json_t *row, enum sc_status st, const struct sc_text *out,
                        const struct sc_err *err)
{
    const char *text = json_string_value(json_object_get(row, "text"));
    const char *error = json_string_value(json_object_get(row, "error"));
    if (text != NULL)
        return st == SC_OK && out->len == json_string_length(json_object_get(row, "text")) &&
               memcmp(out->bytes, text, out->len) == 0;
    return st == SC_EINVAL && strncmp(error, "TemplateError: ", 15) == 0 &&
           strcmp(error + 15, err->text) == 0;
}

static void check_row(json_t *row, struct totals *t)
{
    static const struct tm frozen = {
        .tm_year = 125, .tm_mon = 0, .tm_mday = 15, .tm_hour = 12, .tm_wday = 3, .tm_yday = 14};
    const char *name = json_string_value(json_object_get(row, "template"));
    json_t *context = json_object_get(row, "context");
    char *messages = json_dumps(json_object_get(context, "messages"), JSON_COMPACT);
    bool prompt = json_is_true(json_object_get(context, "add_generation_prompt"));
    (void)json_object_del(context, "messages");
    (void)json_object_del(context, "add_generation_prompt");
    char *variables = json_dumps(context, JSON_COMPACT);
    struct sc_chat_request req = {.messages_json = messages,
                                  .messages_json_len = strlen(messages),
                                  .add_generation_prompt = prompt,
                                  .variables_json = variables,
                                  .variables_json_len = strlen(variables),
                                  .now = &frozen};
    struct sc_chat_template *tpl = NULL;
    struct sc_text out = {0};
    struct sc_err err = SC_ERR_INIT;
    size_t len;
    char *source = read_file(name, &len);
    enum sc_status st = sc_chat_template_open(source, len, &tpl, &err);
    if (st == SC_OK)
        st = sc_chat_template_render(tpl, &req, &out, &err);
    bool ok = as_expected(row, st, &out, &err);
    if (!ok && t->n - t->passed < SHOWN)
        print_error("%s, %s: %s %s\n--- got\n%s\n--- want\n%s\n", name,
                    json_string_value(json_object_get(row, "conv")), sc_status_name(st), err.text,
                    out.bytes != NULL ? out.bytes : "",
                    json_string_value(
                        json_object_get(row, json_object_get(row, "text") ? "text" : "error")));
    t->n++;
    t->passed += ok;
    t->errors += ok && st != SC_OK;
    sc_chat_template_close(tpl);
    sc_text_fini(&out);
    free(source);
    free(messages);
    free(variables);
}

static void every_real_template_renders_as_jinja2_does(void **state)
{
    (void)state;
    struct totals t = {0};
    size_t cap = 0;
    char *line = NULL;
    FILE *f = fopen(DIR_PATH "cases.jsonl", "rb");
    assert_non_null(f);
    for (ssize_t n; (n = getline(&line, &cap, f)) > 0;) {
        json_t *row = json_loadb(line, (size_t)n, 0, NULL);
        assert_non_null(row);
        check_row(row, &t);
        json_decref(row);
    }
    free(line);
    (void)fclose(f);
    print_message("%u of %u renderings as expected, %u of them refusals\n", t.passed, t.n,
                  t.errors);
    assert_true(t.n >= 700);
    assert_int_equal(t.passed, t.n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_real_template_renders_as_jinja2_does),
    };
    if (access(DIR_PATH "cases.jsonl", R_OK) != 0) {
        (void)fprintf(stderr, "skipped: %scases.jsonl is not here\n", DIR_PATH);
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
