/* Conversions against slow arithmetic in double, over every 16-bit value. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/hash.h"

static uint32_t bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

/* The value of a binary float of `exp_bits` and `man_bits`, from its definition. */
static double slow_value(uint32_t v, int exp_bits, int man_bits)
{
    int bias = (1 << (exp_bits - 1)) - 1;
    int exp = (int)(v >> man_bits) & ((1 << exp_bits) - 1);
    double man = (double)(v & ((1u << man_bits) - 1)), one = ldexp(1.0, man_bits), x;
    if (exp == (1 << exp_bits) - 1)
        x = man == 0.0 ? (double)INFINITY : (double)NAN;
    else if (exp == 0)
        x = ldexp(man / one, 1 - bias);
    else
        x = ldexp(1.0 + man / one, exp - bias);
    return (v >> (exp_bits + man_bits)) & 1 ? -x : x;
}

static void assert_value(float got, double want, uint32_t v)
{
    if (isnan(want) ? !isnan(got) : bits(got) != bits((float)want))
        fail_msg("0x%04x gives %a, expected %a", v, (double)got, want);
}

static void every_f16_is_read_as_its_value(void **state)
{
    (void)state;
    for (uint32_t v = 0; v <= 0xffff; v++)
        assert_value(sc_f16_to_f32((uint16_t)v), slow_value(v, 5, 10), v);
}

static void every_bf16_is_read_as_its_value_and_written_back(void **state)
{
    (void)state;
    for (uint32_t v = 0; v <= 0xffff; v++) {
        float f = sc_bf16_to_f32((uint16_t)v);
        assert_value(f, slow_value(v, 8, 7), v);
        if (isnan(f))
            assert_true(isnan(sc_bf16_to_f32(sc_f32_to_bf16(f))));
        else
            assert_int_equal(sc_f32_to_bf16(f), v);
    }
}

/* Nearest of the two neighbours by distance in double; ties to the even one. Above the largest
 * finite value the next step counts as infinity, as IEEE rounding has it. */
static uint16_t slow_bf16(float f)
{
    uint16_t low = (uint16_t)(bits(f) >> 16); /* towards zero */
    double x = fabs((double)f), a = fabs(slow_value(low, 8, 7));
    double b = (low & 0x7fff) == 0x7f7f ? ldexp(1.0, 128) : fabs(slow_value(low + 1u, 8, 7));
    if (isinf(f))
        return low;
    if (x - a != b - x)
        return x - a < b - x ? low : (uint16_t)(low + 1);
    return (low & 1) == 0 ? low : (uint16_t)(low + 1);
}

static void f32_rounds_to_the_nearest_bf16_and_ties_to_even(void **state)
{
    (void)state;
    static const uint32_t tails[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    for (uint32_t high = 0; high <= 0xffff; high++)
        for (size_t t = 0; t <= SC_ARRAY_LEN(tails); t++) {
            uint32_t tail = t < SC_ARRAY_LEN(tails) ? tails[t] : (uint32_t)sc_mix64(high) & 0xffff;
            float f = from_bits(high << 16 | tail);
            if (isnan(f)) {
                uint16_t h = sc_f32_to_bf16(f);
                assert_true(isnan(sc_bf16_to_f32(h)));
                assert_int_equal(h & 0x8000, high & 0x8000); /* the sign stays */
            } else if (sc_f32_to_bf16(f) != slow_bf16(f)) {
                fail_msg("%a gives 0x%04x, expected 0x%04x", (double)f, sc_f32_to_bf16(f),
                         slow_bf16(f));
            }
        }
}

static void types_have_names_and_sizes(void **state)
{
    (void)state;
    assert_string_equal(sc_dtype_name(SC_DTYPE_BF16), "bf16");
    assert_string_equal(sc_dtype_name((enum sc_dtype)77), "unknown");
    assert_int_equal(sc_dtype_bytes(SC_DTYPE_F32), 4);
    assert_int_equal(sc_dtype_bytes(SC_DTYPE_BF16), 2);
    assert_int_equal(sc_dtype_bytes(SC_DTYPE_F16), 2);
    assert_int_equal(sc_dtype_bytes(SC_DTYPE_I32), 4);
}

/* One element that is not finite among others, at every place around the ends of the blocks that
 * are looked at together, and of rows that are no whole words. */
static void the_first_that_is_not_finite_is_found(void **state)
{
    enum { N = 5000 };
    static const struct {
        enum sc_dtype dtype;
        uint32_t bad[4], good[4]; /* the good ones: the largest, zeros, a subnormal */
    } cases[] = {
        {SC_DTYPE_F32,
         {0x7f800000, 0xff800000, 0x7f800001, 0xffffffff},
         {0x7f7fffff, 0xff7fffff, 0x80000000, 1}},
        {SC_DTYPE_BF16, {0x7f80, 0xff80, 0x7f81, 0xffff}, {0x7f7f, 0xff7f, 0x8000, 1}},
        {SC_DTYPE_F16, {0x7c00, 0xfc00, 0x7c01, 0xffff}, {0x7bff, 0xfbff, 0x8000, 1}},
    };
    static unsigned char bytes[4 * N + 1];
    unsigned char *data = bytes + 1;
    (void)state;
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        const size_t size = sc_dtype_bytes(cases[c].dtype);
        for (size_t i = 0; i < N; i++)
            memcpy(data + i * size, &cases[c].good[i % 4], size);
        for (size_t n = 0; n < N; n += n < 40 ? 1 : 97)
            assert_int_equal(sc_dtype_count_finite(data, cases[c].dtype, n), n);
        for (size_t at = 0; at < N; at++) {
            memcpy(data + at * size, &cases[c].bad[at % 4], size);
            if (sc_dtype_count_finite(data, cases[c].dtype, N) != at)
                fail_msg("%s at %zu", sc_dtype_name(cases[c].dtype), at);
            assert_int_equal(sc_dtype_count_finite(data, cases[c].dtype, at), at);
            memcpy(data + at * size, &cases[c].good[at % 4], size);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16_is_read_as_its_value),
        cmocka_unit_test(every_bf16_is_read_as_its_value_and_written_back),
        cmocka_unit_test(f32_rounds_to_the_nearest_bf16_and_ties_to_even),
        cmocka_unit_test(types_have_names_and_sizes),
        cmocka_unit_test(the_first_that_is_not_finite_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
