#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/hash.h"

static void pieces_are_aligned_zeroed_and_do_not_overlap(void **state)
{
    (void)state;
    enum { PIECES = 2000 };
    static unsigned char *pieces[PIECES];
    static size_t sizes[PIECES];
    struct sc_arena a;
    size_t sum = 0;
    /* Memory that malloc hands out again is dirty: zeroing must be the arena's. */
    void *dirty = malloc(1 << 16);
    memset(dirty, 0xff, 1 << 16);
    free(dirty);
    sc_arena_init(&a, (size_t)64 << 20);
    for (uint32_t i = 0; i < PIECES; i++) {
        sizes[i] = i % 100 == 99 ? 70000 : sc_mix64(i) % 300;
        pieces[i] = sc_arena_take(&a, sizes[i]);
        assert_non_null(pieces[i]);
        assert_int_equal((uintptr_t)pieces[i] % 16, 0);
        for (size_t b = 0; b < sizes[i]; b++)
            assert_int_equal(pieces[i][b], 0);
        memset(pieces[i], (int)(i % 255 + 1), sizes[i]);
        sum += sizes[i];
    }
    assert_int_equal(a.used_bytes, sum);
    for (uint32_t i = 0; i < PIECES; i++)
        for (size_t b = 0; b < sizes[i]; b++)
            assert_int_equal(pieces[i][b], i % 255 + 1);
    sc_arena_fini(&a);
    assert_int_equal(a.used_bytes, 0);
    assert_non_null(sc_arena_take(&a, 10)); /* usable again */
    sc_arena_fini(&a);
}

static void the_limit_is_exact_and_a_refusal_changes_nothing(void **state)
{
    (void)state;
    struct sc_arena a;
    sc_arena_init(&a, 1000);
    assert_non_null(sc_arena_take(&a, 990));
    assert_null(sc_arena_take(&a, 11));
    assert_int_equal(a.used_bytes, 990);
    assert_non_null(sc_arena_take(&a, 10));
    assert_null(sc_arena_take(&a, 1));
    assert_non_null(sc_arena_take(&a, 0));
    sc_arena_fini(&a);
    sc_arena_init(&a, 0);
    assert_null(sc_arena_take(&a, 1));
    assert_non_null(sc_arena_take(&a, 0));
    sc_arena_fini(&a);
}

static void absurd_sizes_are_refused_even_without_a_limit(void **state)
{
    (void)state;
    struct sc_arena a;
    sc_arena_init(&a, SIZE_MAX);
    for (size_t less = 0; less < 64; less++) {
        assert_null(sc_arena_take(&a, SIZE_MAX - less));
        assert_null(sc_arena_copy(&a, "x", SIZE_MAX - less));
    }
    assert_int_equal(a.used_bytes, 0);
    assert_non_null(sc_arena_take(&a, 5));
    sc_arena_fini(&a);
}

static void copies_end_in_a_zero_byte(void **state)
{
    (void)state;
    struct sc_arena a;
    sc_arena_init(&a, 8);
    assert_string_equal(sc_arena_copy(&a, "abcdef", 3), "abc");
    assert_string_equal(sc_arena_copy(&a, NULL, 0), "");
    assert_int_equal(a.used_bytes, 5);
    assert_null(sc_arena_copy(&a, "abc", 3)); /* the zero byte counts */
    assert_non_null(sc_arena_copy(&a, "ab", 2));
    sc_arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_aligned_zeroed_and_do_not_overlap),
        cmocka_unit_test(the_limit_is_exact_and_a_refusal_changes_nothing),
        cmocka_unit_test(absurd_sizes_are_refused_even_without_a_limit),
        cmocka_unit_test(copies_end_in_a_zero_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
