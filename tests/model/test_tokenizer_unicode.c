/* Character classes, regular expressions and normal forms. */
#include "tests/model/tokenizer_util.h"

#include "model/tokenizer_internal.h"

/* Every code point that can stand in a text, as UTF-8; each is one call of find. */
static struct sc_text all_characters(void)
{
    struct sc_text t = {0};
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        char bytes[4];
        if (cp < 0xd800 || cp >= 0xe000)
            assert_int_equal(sc_text_append(&t, bytes, sc_utf8_put(bytes, cp), NULL), SC_OK);
    }
    return t;
}

/* The pattern matches exactly the characters that is says, over all of Unicode. */
static void expect_class(const char *regex, bool (*is)(uint32_t cp, const void *arg),
                         const void *arg, const struct sc_text *all)
{
    struct sc_tok_pattern p = {0};
    struct sc_tok_matcher m = {0};
    struct sc_err err = SC_ERR_INIT;
    if (sc_tok_pattern_regex(&p, regex, strlen(regex), &err) != SC_OK)
        fail_msg("%s: %s", regex, err.text);
    size_t pos = 0, start = 0, end = 0;
    assert_int_equal(sc_tok_pattern_find(&p, &m, all->bytes, all->len, 0, &start, &end, &err),
                     SC_OK);
    while (pos < all->len) {
        size_t at = pos;
        uint32_t cp = sc_utf8_next(all->bytes, &pos);
        bool matched = start == at && at < all->len;
        if (matched != is(cp, arg))
            fail_msg("%s: U+%04X %s", regex, (unsigned)cp, matched ? "matches" : "does not match");
        if (matched)
            assert_int_equal(
                sc_tok_pattern_find(&p, &m, all->bytes, all->len, pos, &start, &end, &err), SC_OK);
    }
    sc_tok_matcher_fini(&m);
    sc_tok_pattern_fini(&p);
}

static bool in_class(uint32_t cp, const void *arg)
{
    return sc_unicode_is(*(const enum sc_unicode_class_id *)arg, cp);
}

static bool not_in_class(uint32_t cp, const void *arg)
{
    return !in_class(cp, arg);
}

static bool is_space(uint32_t cp, const void *arg)
{
    (void)arg;
    return sc_unicode_is_space(cp);
}

static bool not_space(uint32_t cp, const void *arg)
{
    return !is_space(cp, arg);
}

static void property_classes_are_those_of_the_table_whatever_pcre2_knows(void **state)
{
    (void)state;
    struct sc_text all = all_characters();
    for (int id = 0; id < SC_UNICODE_CLASS_COUNT; id++) {
        char regex[32];
        enum sc_unicode_class_id which = (enum sc_unicode_class_id)id;
        snprintf(regex, sizeof(regex), "\\p{%s}", sc_unicode_classes[id].name);
        expect_class(regex, in_class, &which, &all);
        snprintf(regex, sizeof(regex), "[^\\p{%s}]", sc_unicode_classes[id].name);
        expect_class(regex, not_in_class, &which, &all);
    }
    sc_text_fini(&all);
}

static void white_space_has_25_characters_in_every_spelling(void **state)
{
    (void)state;
    struct sc_text all = all_characters();
    expect_class("\\s", is_space, NULL, &all);
    expect_class("[\\s]", is_space, NULL, &all);
    expect_class("\\S", not_space, NULL, &all);
    expect_class("[\\S]", not_space, NULL, &all);
    expect_class("[^\\s]", not_space, NULL, &all);
    sc_text_fini(&all);
    unsigned n = 0;
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++)
        n += sc_unicode_is_space(cp);
    assert_int_equal(n, 25);
}

static void syntax_that_means_another_thing_in_pcre2_is_refused(void **state)
{
    (void)state;
    static const char *const refused[] = {"^a",         "a{1,2}+", "a{2}?",    "a{,3}",
                                          "[a[b]]",     "[a&&b]",  "(?m)a",    "(?<n>a)",
                                          "(a)\\1",     "\\h",     "\\p{Han}", "\\P{Han}",
                                          "[\\P{L}]",   "[\\D]",   "\\xff",    "\\x{110000000}",
                                          "a\\",        "[a",      "\\p{L",    "\\p",
                                          "(*UTF)a",    "(?",      "a{",       "\\R",
                                          "[[:alpha:]]"};
    for (size_t i = 0; i < SC_ARRAY_LEN(refused); i++) {
        struct sc_tok_pattern p = {0};
        struct sc_err err = SC_ERR_INIT;
        enum sc_status st = sc_tok_pattern_regex(&p, refused[i], strlen(refused[i]), &err);
        if (st == SC_OK || !strstr(err.text, "regular expression"))
            fail_msg("%s: %s", refused[i], err.text);
        sc_tok_pattern_fini(&p);
    }
}

static void expect_match(const char *regex, const char *text, size_t start, size_t end)
{
    struct sc_tok_pattern p = {0};
    struct sc_tok_matcher m = {0};
    struct sc_err err = SC_ERR_INIT;
    size_t got_start = 0, got_end = 0;
    if (sc_tok_pattern_regex(&p, regex, strlen(regex), &err) != SC_OK)
        fail_msg("%s: %s", regex, err.text);
    assert_int_equal(sc_tok_pattern_find(&p, &m, text, strlen(text), 0, &got_start, &got_end, &err),
                     SC_OK);
    if (got_start != start || got_end != end)
        fail_msg("%s: [%zu, %zu)", regex, got_start, got_end);
    sc_tok_matcher_fini(&m);
    sc_tok_pattern_fini(&p);
}

static void syntax_of_both_means_the_same(void **state)
{
    (void)state;
    expect_match("[\\s-x]+", "a-x ", 1, 4); /* a hyphen beside a class is a hyphen */
    expect_match("[!-\\p{L}]+", "\".a!-", 2, 5);
    expect_match("a$", "a\nb", 0, 1); /* the end of any line */
    expect_match("(?i:'S)", "x's", 1, 3);
    expect_match("\\u00e9|\\x{e8}", "x\xc3\xa8", 1, 3);
    expect_match("[\\w]+", "\xe2\x86\x92 \xc3\xa9_9", 4, 8);
    expect_match("b{2,}", "bab", 3, 3);
}

/* ------------------------------------------------------------------------------ normal forms */

static void expect_form(enum sc_unicode_form form, const char *text, const char *want)
{
    struct sc_text out = {0};
    assert_int_equal(sc_unicode_normalize(form, text, strlen(text), &out, NULL), SC_OK);
    assert_string_equal(out.bytes, want);
    sc_text_fini(&out);
}

static void text_is_composed_and_decomposed(void **state)
{
    (void)state;
    expect_form(SC_UNICODE_NFC, "plain", "plain");
    expect_form(SC_UNICODE_NFC, "e\xcc\x81x", "\xc3\xa9x");
    expect_form(SC_UNICODE_NFD, "\xc3\xa9x", "e\xcc\x81x");
    expect_form(SC_UNICODE_NFC, "q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87"); /* marks in order */
    expect_form(SC_UNICODE_NFKC, "\xef\xac\x81", "fi");
    expect_form(SC_UNICODE_NFC, "\xef\xac\x81", "\xef\xac\x81");
    expect_form(SC_UNICODE_NFC, "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81");
    expect_form(SC_UNICODE_NFC, "\xea\xb0\x80\xe1\x86\xa8", "\xea\xb0\x81"); /* LV and T */
    expect_form(SC_UNICODE_NFC, "\xe2\x84\xab", "\xc3\x85");
}

static void marks_newer_than_the_tables_stay_in_place(void **state)
{
    (void)state;
    /* U+0898 (class 220) after U+0301 (230) would go first, were it known. */
    expect_form(SC_UNICODE_NFC, "x\xcc\x81\xe0\xa2\x98", "x\xcc\x81\xe0\xa2\x98");
    expect_form(SC_UNICODE_NFC, "e\xe0\xa2\x98\xcc\x81", "e\xe0\xa2\x98\xcc\x81");
}

static void a_million_marks_take_linear_time(void **state)
{
    (void)state;
    struct sc_text in = {0}, out = {0};
    assert_int_equal(sc_text_append(&in, "q", 1, NULL), SC_OK);
    for (int i = 0; i < 500000; i++)
        assert_int_equal(sc_text_append(&in, "\xcc\x87\xcc\xa3", 4, NULL), SC_OK);
    assert_int_equal(sc_unicode_normalize(SC_UNICODE_NFC, in.bytes, in.len, &out, NULL), SC_OK);
    assert_int_equal(out.len, in.len);
    assert_memory_equal(out.bytes + 1, "\xcc\xa3\xcc\xa3", 4);
    assert_memory_equal(out.bytes + out.len - 4, "\xcc\x87\xcc\x87", 4);
    sc_text_fini(&in);
    sc_text_fini(&out);
}

static void ill_formed_parts_are_told_apart(void **state)
{
    (void)state;
    unsigned bad;
    bool cut;
    assert_int_equal(sc_utf8_sequence("\xf0\x9f\x98\x80", 4, &bad, &cut), 4);
    assert_int_equal(sc_utf8_sequence("\xf0\x9f\x98", 3, &bad, &cut), 0);
    assert_true(cut && bad == 3);
    assert_int_equal(sc_utf8_sequence("\xf0\x9f"
                                      "a",
                                      3, &bad, &cut),
                     0);
    assert_true(!cut && bad == 2);
    assert_int_equal(sc_utf8_sequence("\xf0\x80", 2, &bad, &cut), 0);
    assert_true(!cut && bad == 1);
    assert_int_equal(sc_utf8_valid_bytes("abcdefghi\xc3", 10), 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(property_classes_are_those_of_the_table_whatever_pcre2_knows),
        cmocka_unit_test(white_space_has_25_characters_in_every_spelling),
        cmocka_unit_test(syntax_that_means_another_thing_in_pcre2_is_refused),
        cmocka_unit_test(syntax_of_both_means_the_same),
        cmocka_unit_test(text_is_composed_and_decomposed),
        cmocka_unit_test(marks_newer_than_the_tables_stay_in_place),
        cmocka_unit_test(a_million_marks_take_linear_time),
        cmocka_unit_test(ill_formed_parts_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
