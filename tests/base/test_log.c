/* Lines as they reach stderr: read back from a file in its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/log.h"

static FILE *file;
static int saved_stderr;
static char out[16384];

static void capture(void)
{
    file = tmpfile();
    assert_non_null(file);
    saved_stderr = dup(STDERR_FILENO);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
}

static void release(void)
{
    assert_true(dup2(saved_stderr, STDERR_FILENO) >= 0);
    (void)close(saved_stderr);
    rewind(file);
    out[fread(out, 1, sizeof(out) - 1, file)] = '\0';
    (void)fclose(file);
}

static size_t count_lines(void)
{
    size_t n = 0;
    for (const char *p = out; *p != '\0'; p++)
        n += *p == '\n';
    return n;
}

static void text_is_time_level_event_values_on_one_line(void **state)
{
    (void)state;
    sc_log_configure(SC_LOG_INFO, SC_LOG_TEXT);
    capture();
    sc_warn("request refused", "id=%d text=%s", 7, "a\nb\x1b[31m");
    release();
    assert_int_equal(count_lines(), 1);
    assert_int_equal(out[4], '-');
    assert_int_equal(out[10], 'T');
    assert_string_equal(out + 23, "Z warning: request refused id=7 text=a b [31m\n");
    capture();
    sc_notice("ready", "%s", "");
    release();
    assert_string_equal(out + 23, "Z notice: ready\n");
}

static void levels_above_the_limit_write_nothing(void **state)
{
    (void)state;
    for (int max = SC_LOG_ERROR; max <= SC_LOG_DEBUG; max++) {
        sc_log_configure((enum sc_log_level)max, SC_LOG_TEXT);
        capture();
        for (int l = SC_LOG_ERROR; l <= SC_LOG_DEBUG; l++)
            sc_log((enum sc_log_level)l, "event", "level=%d", l);
        release();
        assert_int_equal(count_lines(), max + 1);
    }
}

/* Parses the one line that was written. */
static json_t *parsed(void)
{
    json_error_t e;
    assert_int_equal(count_lines(), 1);
    json_t *root = json_loads(out, 0, &e);
    if (root == NULL)
        fail_msg("%s in: %s", e.text, out);
    return root;
}

static void json_lines_parse_whatever_the_values_hold(void **state)
{
    (void)state;
    static const char *const values[][2] = {
        {"plain", "plain"},
        {"quote \" backslash \\ newline \n tab \t bell \x07 del \x7f", NULL},
        {"\u00e9\u20ac\U0001f600", "\u00e9\u20ac\U0001f600"},
        {"stray \x80 byte", "stray \ufffd byte"},
        {"overlong \xc0\xaf", "overlong \ufffd\ufffd"},
        {"surrogate \xed\xa0\x80", "surrogate \ufffd\ufffd\ufffd"},
        {"too high \xf4\x90\x80\x80", "too high \ufffd\ufffd\ufffd\ufffd"},
        {"cut \xe2\x82", "cut \ufffd\ufffd"},
        {"", ""},
    };
    sc_log_configure(SC_LOG_INFO, SC_LOG_JSON);
    for (size_t i = 0; i < SC_ARRAY_LEN(values); i++) {
        capture();
        sc_error("an \"event\"", "%s", values[i][0]);
        release();
        json_t *root = parsed();
        assert_string_equal(json_string_value(json_object_get(root, "level")), "error");
        assert_string_equal(json_string_value(json_object_get(root, "event")), "an \"event\"");
        assert_string_equal(json_string_value(json_object_get(root, "values")),
                            values[i][1] != NULL ? values[i][1] : values[i][0]);
        assert_int_equal(json_string_length(json_object_get(root, "time")), 24);
        json_decref(root);
    }
}

static void long_values_are_cut_and_the_line_stays_whole(void **state)
{
    (void)state;
    static const char *const fills[] = {"x", "\n", "\"", "\u20ac", "\xff"};
    static char big[9000], event[5000];
    for (int format = SC_LOG_TEXT; format <= SC_LOG_JSON; format++)
        for (size_t f = 0; f < SC_ARRAY_LEN(fills); f++)
            for (size_t n = 300; n < 2100; n += 97)
                for (int long_event = 0; long_event < 2; long_event++) {
                    big[0] = event[0] = '\0';
                    for (size_t i = 0; i < n; i++)
                        (void)memcpy(big + i * strlen(fills[f]), fills[f], strlen(fills[f]) + 1);
                    memset(event, 'e', n);
                    event[n] = '\0';
                    sc_log_configure(SC_LOG_INFO, (enum sc_log_format)format);
                    capture();
                    sc_log(SC_LOG_ERROR, long_event ? event : "event", "%s", big);
                    release();
                    assert_int_equal(count_lines(), 1);
                    assert_true(strlen(out) <= 2048);
                    assert_int_equal(out[strlen(out) - 1], '\n');
                    if (format == SC_LOG_JSON)
                        json_decref(parsed());
                }
}

static void level_names_parse_back_and_others_are_refused(void **state)
{
    (void)state;
    enum sc_log_level level = SC_LOG_INFO;
    for (int l = SC_LOG_ERROR; l <= SC_LOG_DEBUG; l++) {
        assert_int_equal(sc_log_level_parse(sc_log_level_name((enum sc_log_level)l), &level),
                         SC_OK);
        assert_int_equal(level, l);
    }
    level = SC_LOG_INFO;
    assert_int_equal(sc_log_level_parse("Debug", &level), SC_EINVAL);
    assert_int_equal(sc_log_level_parse("", &level), SC_EINVAL);
    assert_int_equal(level, SC_LOG_INFO);
    assert_string_equal(sc_log_level_name((enum sc_log_level)17), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_time_level_event_values_on_one_line),
        cmocka_unit_test(levels_above_the_limit_write_nothing),
        cmocka_unit_test(json_lines_parse_whatever_the_values_hold),
        cmocka_unit_test(long_values_are_cut_and_the_line_stays_whole),
        cmocka_unit_test(level_names_parse_back_and_others_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
