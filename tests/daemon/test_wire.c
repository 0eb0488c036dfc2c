#include "testing.h"

#include "daemon/unpack.h"
#include "base/utf8.h"
#include "daemon/wire.h"
#include "semanticache/v1/inference.pb-c.h"

#define REQUEST (&semanticache__v1__generate_request__descriptor)

static void utf8_is_judged_as_the_standard_says(void **state)
{
    static const struct {
        const char *text;
        size_t valid;
    } cases[] = {
        {"", 0},
        {"abc", 3},
        {"gr\xc3\xbcn", 5},
        {"\xe2\x82\xac", 3},
        {"\xf0\x9f\x98\x80", 4},
        {"a\xff", 1},
        {"\xc0\x80", 0},         /* overlong */
        {"\xe0\x80\x80", 0},     /* overlong */
        {"\xed\xa0\x80", 0},     /* surrogate */
        {"\xf4\x90\x80\x80", 0}, /* above U+10FFFF */
        {"\xf0\x80\x80\x80", 0}, /* overlong */
        {"ab\xe2\x82", 2},       /* cut */
        {"\x80", 0},             /* continuation alone */
        {"\xe2\x28\xa1", 0},
    };

    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++)
        assert_int_equal(sc_utf8_valid_prefix(cases[i].text, strlen(cases[i].text)),
                         cases[i].valid);
    assert_int_equal(sc_utf8_valid_prefix("a\0b", 3), 3);
}

static void malformed_messages_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {
        {"\xff\xff\xff\xff", 4},
        {"\x08", 1},
        {"\x12\xff\xff\xff\xff\x7f", 6},
        {"\x00\x00", 2},
        {"\x0b\x0c", 2}, /* a group */
        {"\x12\x05"
         "abc",
         5},                                                      /* shorter than it says */
        {"\x09\x01\x02", 3},                                      /* 64 bits that are not there */
        {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12}, /* varint of 11 bytes */
        {"\x32\x02\x08", 3},
        {"\x32\x01\x08", 3}, /* bad inside `sampling` */
    };

    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct sc_err err = SC_ERR_INIT;
        struct sc_unpacked u = {0};
        if (sc_unpack(REQUEST, cases[i].bytes, cases[i].len, &u, &err) != SC_EINVAL)
            fail_msg("case %zu was taken", i);
        assert_text_has(err.text, "malformed");
    }
}

static void strings_that_are_no_text_are_named(void **state)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_unpacked u = {0};

    (void)state;
    assert_int_equal(sc_unpack(REQUEST,
                               "\x0a\x03"
                               "a\xff"
                               "b",
                               5, &u, &err),
                     SC_EINVAL);
    assert_text_has(err.text, "request_id: not valid UTF-8 at byte 1 of 3");
    sc_err_clear(&err);
    /* sampling (6) { stop (10): "a\0b" } */
    assert_int_equal(sc_unpack(REQUEST,
                               "\x32\x05\x52\x03"
                               "a\0b",
                               7, &u, &err),
                     SC_EINVAL);
    assert_text_has(err.text, "sampling.stop: holds a NUL byte");
    sc_err_clear(&err);
    /* bytes may hold anything: text (2) */
    assert_ok(sc_unpack(REQUEST, "\x12\x02\xff\x00", 4, &u, &err));
    assert_int_equal(((Semanticache__V1__GenerateRequest *)u.message)->text.len, 2);
    sc_unpacked_fini(&u);
    assert_int_equal(u.used_bytes, 0);
}

static void unknown_fields_are_passed_over(void **state)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_unpacked u = {0};

    (void)state;
    assert_ok(sc_unpack(REQUEST, "\x98\x06\x07\x12\x01x", 6, &u, &err)); /* field 99: 7 */
    assert_int_equal(((Semanticache__V1__GenerateRequest *)u.message)->text.len, 1);
    sc_unpacked_fini(&u);
}

static void a_small_message_cannot_take_much_memory(void **state)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_unpacked u = {0};
    size_t n = 1000000, len = 6 + 2 * n;
    uint8_t *bytes = malloc(len), *at = bytes;
    uint64_t left = 2 * n;

    (void)state;
    *at++ = 0x22; /* messages (4), 2n bytes of: */
    for (int i = 0; i < 3; i++, left >>= 7)
        *at++ = (uint8_t)(left & 0x7f) | (left >= 128 ? 0x80 : 0);
    for (size_t i = 0; i < n; i++) {
        *at++ = 0x0a; /* messages (1), empty */
        *at++ = 0;
    }
    assert_int_equal(sc_unpack(REQUEST, bytes, (size_t)(at - bytes), &u, &err), SC_EFULL);
    assert_text_has(err.text, "memory");
    assert_int_equal(u.used_bytes, 0);
    free(bytes);
}

static void many_packed_ids_are_no_attack(void **state)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_unpacked u = {0};
    Semanticache__V1__TokenizeResponse m = SEMANTICACHE__V1__TOKENIZE_RESPONSE__INIT;
    size_t n = 1000000, len;
    uint8_t *bytes;

    (void)state;
    m.token_ids = calloc(n, sizeof(*m.token_ids));
    m.n_token_ids = n;
    bytes = malloc(semanticache__v1__tokenize_response__get_packed_size(&m));
    len = semanticache__v1__tokenize_response__pack(&m, bytes);
    assert_ok(sc_unpack(&semanticache__v1__tokenize_response__descriptor, bytes, len, &u, &err));
    assert_int_equal(((Semanticache__V1__TokenizeResponse *)u.message)->n_token_ids, n);
    sc_unpacked_fini(&u);
    free(m.token_ids);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_is_judged_as_the_standard_says),
        cmocka_unit_test(malformed_messages_are_refused),
        cmocka_unit_test(strings_that_are_no_text_are_named),
        cmocka_unit_test(unknown_fields_are_passed_over),
        cmocka_unit_test(a_small_message_cannot_take_much_memory),
        cmocka_unit_test(many_packed_ids_are_no_attack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
