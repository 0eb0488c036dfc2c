#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"

static void every_status_has_its_own_name_and_text(void **state)
{
    (void)state;
    for (int i = 0; i < SC_STATUS_COUNT; i++) {
        assert_int_equal(strncmp(sc_status_name((enum sc_status)i), "SC_", 3), 0);
        assert_true(strlen(sc_status_text((enum sc_status)i)) > 0);
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(sc_status_name((enum sc_status)i),
                                    sc_status_name((enum sc_status)j));
            assert_string_not_equal(sc_status_text((enum sc_status)i),
                                    sc_status_text((enum sc_status)j));
        }
    }
    assert_int_equal(SC_OK, 0);
    assert_string_equal(sc_status_name(SC_EFULL), "SC_EFULL");
    assert_string_equal(sc_status_name((enum sc_status)999), "SC_UNKNOWN");
    assert_string_equal(sc_status_text((enum sc_status)(-1)), "unknown status");
}

static void the_first_error_stays(void **state)
{
    (void)state;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_fail(&err, SC_EINVAL, "heads: %d, limit %d", 9, 8), SC_EINVAL);
    assert_int_equal(sc_fail(&err, SC_EIO, "while cleaning up"), SC_EIO);
    assert_int_equal(err.status, SC_EINVAL);
    assert_string_equal(err.text, "heads: 9, limit 8");
    sc_err_clear(&err);
    assert_int_equal(err.status, SC_OK);
    assert_string_equal(err.text, "");
    assert_int_equal(sc_fail(NULL, SC_ENOMEM, "nobody listens"), SC_ENOMEM);
    sc_err_clear(NULL);
}

static void a_message_is_one_line(void **state)
{
    (void)state;
    struct sc_err err = SC_ERR_INIT;
    (void)sc_fail(&err, SC_EINVAL, "%s", "two\nlines\tand \x01 bell");
    assert_string_equal(err.text, "two lines and   bell");
    assert_int_equal(sc_err_prefix(&err, SC_EINVAL, "file%c.json", '\n'), SC_EINVAL);
    assert_string_equal(err.text, "file .json: two lines and   bell");
}

static void a_prefix_keeps_the_status_and_an_empty_error_stays_empty(void **state)
{
    (void)state;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_err_prefix(&err, SC_OK, "a.json"), SC_OK);
    assert_string_equal(err.text, "");
    assert_int_equal(sc_err_prefix(NULL, SC_EIO, "a.json"), SC_EIO);
    (void)sc_fail(&err, SC_EFORMAT, "version: 7");
    assert_int_equal(sc_err_prefix(&err, SC_EFORMAT, "%s", "a.json"), SC_EFORMAT);
    assert_int_equal(err.status, SC_EFORMAT);
    assert_string_equal(err.text, "a.json: version: 7");
}

static void long_messages_are_cut_and_terminated(void **state)
{
    (void)state;
    char big[2 * SC_ERR_TEXT_BYTES];
    for (size_t len = SC_ERR_TEXT_BYTES - 3; len < SC_ERR_TEXT_BYTES + 3; len++) {
        struct sc_err err = SC_ERR_INIT;
        size_t kept = len < SC_ERR_TEXT_BYTES - 1 ? len : SC_ERR_TEXT_BYTES - 1;
        memset(big, 'x', len);
        big[len] = '\0';
        (void)sc_fail(&err, SC_EINVAL, "%s", big);
        assert_int_equal(strlen(err.text), kept);
        (void)sc_err_prefix(&err, SC_EINVAL, "p");
        assert_int_equal(strlen(err.text), SC_ERR_TEXT_BYTES - 1);
        assert_memory_equal(err.text, "p: xx", 5);
        (void)sc_err_prefix(&err, SC_EINVAL, "%s", big);
        assert_int_equal(strlen(err.text), SC_ERR_TEXT_BYTES - 1);
        assert_int_equal(err.text[0], 'x');
    }
}

/* A message ends in a gRPC status and in JSON logs: both want whole characters. */
static void a_cut_never_leaves_half_a_character(void **state)
{
    (void)state;
    const char *const chars[] = {"\u00e9", "\u20ac", "\U0001f600"};
    for (size_t c = 0; c < SC_ARRAY_LEN(chars); c++) {
        size_t bytes = strlen(chars[c]);
        for (size_t before = SC_ERR_TEXT_BYTES - 8; before < SC_ERR_TEXT_BYTES; before++) {
            char text[SC_ERR_TEXT_BYTES + 8];
            struct sc_err err = SC_ERR_INIT;
            memset(text, 'x', before);
            (void)snprintf(text + before, sizeof(text) - before, "%s", chars[c]);
            (void)sc_fail(&err, SC_EINVAL, "%s", text);
            bool fits = before + bytes < SC_ERR_TEXT_BYTES;
            size_t want = fits ? before + bytes : before;
            want = want < SC_ERR_TEXT_BYTES - 1 ? want : SC_ERR_TEXT_BYTES - 1;
            assert_int_equal(strlen(err.text), want);
            assert_memory_equal(err.text, text, want);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_its_own_name_and_text),
        cmocka_unit_test(the_first_error_stays),
        cmocka_unit_test(a_message_is_one_line),
        cmocka_unit_test(a_prefix_keeps_the_status_and_an_empty_error_stays_empty),
        cmocka_unit_test(long_messages_are_cut_and_terminated),
        cmocka_unit_test(a_cut_never_leaves_half_a_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
