#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

static void assert_hash(struct sc_hasher *h, const char *want)
{
    char hex[2 * SC_HASH_BYTES + 1];
    struct sc_hash got = sc_hasher_end(h);
    sc_hash_hex(&got, hex);
    assert_string_equal(hex, want);
}

/* BLAKE2b with a 32-byte digest, of nothing and of "abc". */
static void digests_are_those_of_blake2b(void **state)
{
    (void)state;
    struct sc_hasher h;
    sc_hasher_init(&h);
    assert_hash(&h, "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
    sc_hasher_init(&h);
    sc_hasher_bytes(&h, "abc", 3);
    assert_hash(&h, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
    sc_hasher_init(&h); /* pieces make no difference to raw bytes */
    sc_hasher_bytes(&h, "a", 1);
    sc_hasher_bytes(&h, NULL, 0);
    sc_hasher_bytes(&h, "bc", 2);
    assert_hash(&h, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
}

static struct sc_hash of_bytes(const void *data, size_t n)
{
    struct sc_hasher h;
    sc_hasher_init(&h);
    sc_hasher_bytes(&h, data, n);
    return sc_hasher_end(&h);
}

static void numbers_go_in_as_little_endian_bytes_of_fixed_width(void **state)
{
    (void)state;
    const uint8_t bytes[] = {0x04, 0x03, 0x02, 0x01, 0x08, 0x07, 0x06, 0x05,
                             0x04, 0x03, 0x02, 0x01, 0x00, 0x00, 0x80, 0x3f};
    struct sc_hasher h;
    sc_hasher_init(&h);
    sc_hasher_u32(&h, 0x01020304u);
    sc_hasher_u64(&h, 0x0102030405060708ull);
    sc_hasher_f32(&h, 1.0f);
    struct sc_hash got = sc_hasher_end(&h), want = of_bytes(bytes, sizeof(bytes));
    assert_memory_equal(&got, &want, sizeof(got));
}

static struct sc_hash of_strings(const char *a, const char *b)
{
    struct sc_hasher h;
    sc_hasher_init(&h);
    sc_hasher_str(&h, a);
    sc_hasher_str(&h, b);
    return sc_hasher_end(&h);
}

static void strings_carry_their_length(void **state)
{
    (void)state;
    const uint8_t bytes[] = {2, 0, 0, 0, 0, 0, 0, 0, 'a', 'b', 0, 0, 0, 0, 0, 0, 0, 0};
    struct sc_hash x = of_strings("ab", ""), y = of_strings("a", "b"), z = of_strings("", "ab");
    struct sc_hash want = of_bytes(bytes, sizeof(bytes));
    assert_memory_equal(&x, &want, sizeof(x));
    assert_memory_not_equal(&x, &y, sizeof(x));
    assert_memory_not_equal(&y, &z, sizeof(x));
    assert_memory_not_equal(&x, &z, sizeof(x));
}

/* The reference sequence of splitmix64 from seed 1234567. */
static void mix64_is_splitmix64(void **state)
{
    (void)state;
    static const uint64_t want[] = {6457827717110365317ull, 3203168211198807973ull,
                                    9817491932198370423ull};
    uint64_t x = 1234567;
    for (size_t i = 0; i < SC_ARRAY_LEN(want); i++, x += 0x9e3779b97f4a7c15ull)
        assert_true(sc_mix64(x) == want[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digests_are_those_of_blake2b),
        cmocka_unit_test(numbers_go_in_as_little_endian_bytes_of_fixed_width),
        cmocka_unit_test(strings_carry_their_length),
        cmocka_unit_test(mix64_is_splitmix64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
