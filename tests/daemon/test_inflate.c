/* Compressed messages: unpacked whole, up to a limit, or refused. */
#include "testing.h"

#include <zlib.h>

#include "daemon/inflate.h"

#define PLAIN_BYTES 300000u

struct packed {
    uint8_t plain[PLAIN_BYTES];
    uint8_t data[PLAIN_BYTES];
    size_t len;
};

/* window_bits: 15 is zlib's format, 31 gzip's. */
static struct packed *pack(int window_bits, size_t n_plain)
{
    struct packed *p = calloc(1, sizeof(*p));
    z_stream z = {0};

    for (size_t i = 0; i < n_plain; i++)
        p->plain[i] = (uint8_t)((i * i) >> 7);
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = p->plain;
    z.avail_in = (uInt)n_plain;
    z.next_out = p->data;
    z.avail_out = sizeof(p->data);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    p->len = z.total_out;
    assert_int_equal(deflateEnd(&z), Z_OK);
    return p;
}

static void both_formats_are_unpacked_up_to_the_limit(void **state)
{
    static const size_t sizes[] = {0, 1, 65535, 65536, 65537, PLAIN_BYTES};

    (void)state;
    for (size_t i = 0; i < 2 * SC_ARRAY_LEN(sizes); i++) {
        size_t n = sizes[i / 2], len = 7;
        struct packed *p = pack(i % 2 == 0 ? 15 : 31, n);
        struct sc_err err = SC_ERR_INIT;
        uint8_t *out = NULL;
        assert_ok(sc_inflate(p->data, p->len, n, &out, &len, &err));
        assert_int_equal(len, n);
        assert_memory_equal(out, p->plain, n);
        free(out);
        out = NULL;
        if (n > 0) {
            assert_int_equal(sc_inflate(p->data, p->len, n - 1, &out, &len, &err), SC_EFULL);
            assert_null(out);
            assert_text_has(err.text, "when unpacked");
        }
        free(p);
    }
}

static void every_cut_is_refused(void **state)
{
    struct packed *p = pack(31, 500);

    (void)state;
    for (size_t n = 0; n < p->len; n++) {
        struct sc_err err = SC_ERR_INIT;
        uint8_t *out = NULL;
        size_t len;
        assert_int_equal(sc_inflate(p->data, n, PLAIN_BYTES, &out, &len, &err), SC_EINVAL);
        assert_null(out);
    }
    free(p);
}

static void bytes_that_are_not_of_the_stream_are_refused(void **state)
{
    struct packed *p = pack(15, 500);
    struct sc_err err = SC_ERR_INIT;
    uint8_t *out = NULL;
    size_t len;

    (void)state;
    assert_int_equal(sc_inflate(p->data, p->len + 3, PLAIN_BYTES, &out, &len, &err), SC_EINVAL);
    assert_text_has(err.text, "3 bytes follow");
    sc_err_clear(&err);
    assert_int_equal(sc_inflate("plain text", 10, PLAIN_BYTES, &out, &len, &err), SC_EINVAL);
    assert_text_has(err.text, "malformed");
    p->data[p->len - 1] ^= 1; /* its checksum */
    assert_int_equal(sc_inflate(p->data, p->len, PLAIN_BYTES, &out, &len, NULL), SC_EINVAL);
    assert_null(out);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_formats_are_unpacked_up_to_the_limit),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(bytes_that_are_not_of_the_stream_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
