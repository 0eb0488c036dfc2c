#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "scheduler/stops.h"

#define STOP(s)                                                                                    \
    {                                                                                              \
        s, sizeof(s) - 1                                                                           \
    }

static void the_stop_string_complete_first_wins(void **state)
{
    (void)state;
    const struct sc_stop_string stops[] = {STOP("abcdef"), STOP("cd"), STOP("xx")};
    struct sc_stop_match m;
    assert_true(sc_stops_find(stops, 3, "..abcdef", 8, 0, &m));
    assert_int_equal(m.which, 1);
    assert_int_equal(m.start, 4);
    assert_int_equal(m.end, 6);
}

static void of_those_that_end_together_the_longest_wins(void **state)
{
    (void)state;
    const struct sc_stop_string stops[] = {STOP("b"), STOP("aab"), STOP("ab")};
    struct sc_stop_match m;
    assert_true(sc_stops_find(stops, 3, "aaab", 4, 0, &m));
    assert_int_equal(m.which, 1);
    assert_int_equal(m.start, 1);
}

static void what_was_searched_before_is_not_found_again(void **state)
{
    (void)state;
    const struct sc_stop_string stops[] = {STOP("ab")};
    struct sc_stop_match m;
    assert_false(sc_stops_find(stops, 1, "ab.a", 4, 2, &m));
    assert_true(sc_stops_find(stops, 1, "ab.ab", 5, 4, &m));
    assert_int_equal(m.start, 3);
    assert_false(sc_stops_find(stops, 1, "a", 1, 0, &m));
    assert_false(sc_stops_find(stops, 0, "ab", 2, 0, &m));
    assert_false(sc_stops_find(stops, 1, "", 0, 0, &m));
}

static void only_what_may_begin_a_stop_string_is_held(void **state)
{
    (void)state;
    const struct sc_stop_string stops[] = {STOP("</s>"), STOP("s>>")};
    assert_int_equal(sc_stops_held(stops, 2, "hello", 5), 0);
    assert_int_equal(sc_stops_held(stops, 2, "hello<", 6), 1);
    assert_int_equal(sc_stops_held(stops, 2, "hello</s", 8), 3);
    assert_int_equal(sc_stops_held(stops, 2, "s>", 2), 2);
    assert_int_equal(sc_stops_held(stops, 2, "</", 2), 2);
    assert_int_equal(sc_stops_held(stops, 2, "", 0), 0);
}

/* However a text is cut, the emitted bytes and the stop are those of the text in one piece. */
static void pieces_do_not_change_the_result(void **state)
{
    (void)state;
    const struct sc_stop_string stops[] = {STOP("abab"), STOP("bba"), STOP("aaaaa")};
    for (uint64_t key = 0; key < 3000; key++) {
        char text[24], emitted[24], buf[48];
        size_t n_emitted = 0, held = 0;
        struct sc_stop_match whole, m;
        for (size_t i = 0; i < sizeof(text); i++)
            text[i] = sc_mix64(key * 100 + i) % 2 ? 'a' : 'b';
        bool expected = sc_stops_find(stops, 3, text, sizeof(text), 0, &whole), found = false;
        for (size_t at = 0; at < sizeof(text) && !found;) {
            size_t n = 1 + sc_mix64(key * 77 + at) % 5;
            n = n < sizeof(text) - at ? n : sizeof(text) - at;
            memcpy(buf + held, text + at, n);
            found = sc_stops_find(stops, 3, buf, held + n, held, &m);
            size_t len = held + n;
            held = found ? 0 : sc_stops_held(stops, 3, buf, len);
            size_t out = found ? m.start : len - held;
            memcpy(emitted + n_emitted, buf, out);
            memmove(buf, buf + out, held);
            n_emitted += out;
            at += n;
        }
        assert_int_equal(found, expected);
        if (found) {
            assert_int_equal(m.which, whole.which);
            assert_int_equal(n_emitted, whole.start);
        } else {
            assert_int_equal(n_emitted + held, sizeof(text));
        }
        assert_memory_equal(emitted, text, n_emitted);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_stop_string_complete_first_wins),
        cmocka_unit_test(of_those_that_end_together_the_longest_wins),
        cmocka_unit_test(what_was_searched_before_is_not_found_again),
        cmocka_unit_test(only_what_may_begin_a_stop_string_is_held),
        cmocka_unit_test(pieces_do_not_change_the_result),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
