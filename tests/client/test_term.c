#include "client/term.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct capture {
    char *text;
    size_t len;
    FILE *file;
};

static void capture_start(struct capture *c)
{
    c->file = open_memstream(&c->text, &c->len);
    assert_non_null(c->file);
}

static void capture_end(struct capture *c)
{
    assert_int_equal(fclose(c->file), 0);
}

static const char MIXED[] = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82z";

static void characters_survive_any_cut(void **state)
{
    (void)state;
    const size_t len = strlen(MIXED);
    for (size_t a = 0; a <= len; a++) {
        for (size_t b = a; b <= len; b++) {
            struct capture c = {0};
            struct sc_text_out out;
            capture_start(&c);
            sc_text_out_init(&out, c.file, true);
            assert_int_equal(sc_text_out_write(&out, MIXED, a, NULL), SC_OK);
            /* What is shown so far ends with a whole character. */
            size_t bad = 0;
            assert_true(sc_utf8_valid(c.text != NULL ? c.text : "", c.len, &bad));
            assert_int_equal(sc_text_out_write(&out, MIXED + a, b - a, NULL), SC_OK);
            assert_true(sc_utf8_valid(c.text != NULL ? c.text : "", c.len, &bad));
            assert_int_equal(sc_text_out_write(&out, MIXED + b, len - b, NULL), SC_OK);
            assert_int_equal(sc_text_out_finish(&out, NULL), SC_OK);
            capture_end(&c);
            assert_int_equal(c.len, len + 1); /* and a newline for the prompt of the shell */
            assert_memory_equal(c.text, MIXED, len);
            free(c.text);
        }
    }
}

static void byte_by_byte_is_the_same(void **state)
{
    (void)state;
    struct capture c = {0};
    struct sc_text_out out;
    capture_start(&c);
    sc_text_out_init(&out, c.file, true);
    for (size_t i = 0; i < strlen(MIXED); i++)
        assert_int_equal(sc_text_out_write(&out, MIXED + i, 1, NULL), SC_OK);
    capture_end(&c);
    assert_string_equal(c.text, MIXED);
    free(c.text);
}

static void a_terminal_gets_no_control_characters(void **state)
{
    (void)state;
    static const char in[] = "a\033[2Jb\tc\nd\x7F\xC2\x9B"
                             "e\xFF\xC3";
    static const char want[] = "a\xEF\xBF\xBD[2Jb\tc\nd\xEF\xBF\xBD\xEF\xBF\xBD"
                               "e\xEF\xBF\xBD\xEF\xBF\xBD\n";
    struct capture c = {0};
    struct sc_text_out out;
    capture_start(&c);
    sc_text_out_init(&out, c.file, true);
    assert_int_equal(sc_text_out_write(&out, in, strlen(in), NULL), SC_OK);
    assert_int_equal(sc_text_out_finish(&out, NULL), SC_OK);
    capture_end(&c);
    assert_string_equal(c.text, want);
    free(c.text);
}

static void a_pipe_gets_every_byte_as_it_came(void **state)
{
    (void)state;
    static const char in[] = "a\033\xFF\xC3";
    struct capture c = {0};
    struct sc_text_out out;
    capture_start(&c);
    sc_text_out_init(&out, c.file, false);
    assert_int_equal(sc_text_out_write(&out, in, strlen(in), NULL), SC_OK);
    assert_int_equal(sc_text_out_finish(&out, NULL), SC_OK);
    capture_end(&c);
    assert_string_equal(c.text, in);
    free(c.text);
}

static void a_full_disk_is_an_error(void **state)
{
    (void)state;
    struct sc_text_out out;
    struct sc_err err = SC_ERR_INIT;
    FILE *full = fopen("/dev/full", "w");
    assert_non_null(full);
    sc_text_out_init(&out, full, false);
    assert_int_equal(sc_text_out_write(&out, "x", 1, &err), SC_EIO);
    assert_non_null(strstr(err.text, "No space left"));
    (void)fclose(full);
}

static void only_utf8_is_utf8(void **state)
{
    (void)state;
    static const char *const bad[] = {"\x80",         "\xC0\xAF",         "\xE0\x80\x80",
                                      "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
                                      "\xC3",         "\xE2\x82",         "\xC3("};
    size_t at = 99, len = 0;
    for (size_t i = 0; i < SC_ARRAY_LEN(bad); i++) {
        assert_false(sc_utf8_valid(bad[i], strlen(bad[i]), &at));
        assert_int_equal(at, 0);
    }
    assert_true(sc_utf8_valid(MIXED, strlen(MIXED), &at));
    assert_true(sc_utf8_valid("", 0, &at));
    char *clean = sc_utf8_clean("a\xE2\x82z", 4, &len);
    assert_string_equal(clean, "a" SC_UTF8_REPLACEMENT SC_UTF8_REPLACEMENT "z");
    assert_int_equal(len, strlen(clean));
    free(clean);
}

static void progress_is_drawn_for_terminals_only_and_cleared(void **state)
{
    (void)state;
    struct capture c = {0};
    capture_start(&c);
    struct sc_progress bar = {.file = c.file, .terminal = true};
    sc_progress_show(&bar, "reading", 50, 100);
    sc_progress_clear(&bar);
    sc_progress_clear(&bar);
    sc_progress_show(&bar, "reading", 1, 0);
    bar.terminal = false;
    sc_progress_show(&bar, "reading", 1, 2);
    sc_progress_clear(&bar);
    capture_end(&c);
    assert_string_equal(c.text, "\rreading [###############...............] 50/100 tokens\r\033[K");
    free(c.text);
}

static void sizes_have_units(void **state)
{
    (void)state;
    char text[SC_BYTES_TEXT_BYTES];
    assert_string_equal(sc_bytes_text(0, text), "0 B");
    assert_string_equal(sc_bytes_text(1023, text), "1023 B");
    assert_string_equal(sc_bytes_text(1536, text), "1.5 KiB");
    assert_string_equal(sc_bytes_text(3.0 * 1024 * 1024 * 1024, text), "3.0 GiB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(characters_survive_any_cut),
        cmocka_unit_test(byte_by_byte_is_the_same),
        cmocka_unit_test(a_terminal_gets_no_control_characters),
        cmocka_unit_test(a_pipe_gets_every_byte_as_it_came),
        cmocka_unit_test(a_full_disk_is_an_error),
        cmocka_unit_test(only_utf8_is_utf8),
        cmocka_unit_test(progress_is_drawn_for_terminals_only_and_cleared),
        cmocka_unit_test(sizes_have_units),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
