#include "client/bench_input.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <cmocka.h>

static void the_same_seed_and_key_give_the_same_input(void **state)
{
    (void)state;
    char a[500], b[500];
    struct sc_rand one = sc_rand_init(7, 3), two = sc_rand_init(7, 3), three = sc_rand_init(7, 4);
    sc_rand_text(&one, a, sizeof(a));
    sc_rand_text(&two, b, sizeof(b));
    assert_memory_equal(a, b, sizeof(a));
    sc_rand_text(&three, b, sizeof(b));
    assert_memory_not_equal(a, b, sizeof(a));
    one = sc_rand_init(3, 7); /* seed and key are not one number */
    sc_rand_text(&one, b, sizeof(b));
    assert_memory_not_equal(a, b, sizeof(a));
}

static void text_is_words_and_sentences_of_any_length(void **state)
{
    (void)state;
    char text[4000];
    for (size_t len = 0; len < sizeof(text); len += 97) {
        struct sc_rand rand = sc_rand_init(1, len);
        memset(text, '#', sizeof(text));
        sc_rand_text(&rand, text, len);
        for (size_t i = 0; i < len; i++) {
            const char c = text[i];
            assert_true((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == ' ' || c == '.');
            assert_false(c == ' ' && i > 0 && text[i - 1] == ' ');
        }
        assert_int_equal(text[len], '#');
    }
    assert_non_null(memmem(text, 3000, ". ", 2));
}

static void numbers_stay_in_their_range_and_reach_its_ends(void **state)
{
    (void)state;
    struct sc_rand rand = sc_rand_init(1, 1);
    bool low = false, high = false;
    for (int i = 0; i < 1000; i++) {
        uint64_t n = sc_rand_between(&rand, 5, 9);
        assert_in_range(n, 5, 9);
        low = low || n == 5;
        high = high || n == 9;
        assert_in_range(sc_rand_below(&rand, 3), 0, 2);
        double unit = sc_rand_unit(&rand);
        assert_true(unit >= 0 && unit < 1);
    }
    assert_true(low && high);
    assert_int_equal(sc_rand_between(&rand, 4, 4), 4);
    assert_int_equal(sc_rand_below(&rand, 0), 0);
}

static void gaps_between_arrivals_have_their_mean(void **state)
{
    (void)state;
    struct sc_rand rand = sc_rand_init(2, 2);
    double sum = 0;
    int n_over = 0;
    for (int i = 0; i < 100000; i++) {
        double gap = sc_rand_exponential(&rand, 10);
        assert_true(gap >= 0);
        sum += gap;
        n_over += gap > 10;
    }
    /* The mean of 100000 has a deviation of 0.03; a share of 1/e is over the mean, +- 0.002. */
    assert_true(sum / 100000 > 9.85 && sum / 100000 < 10.15);
    assert_in_range(n_over, 36000, 37600);
}

static void an_order_has_each_number_once(void **state)
{
    (void)state;
    struct sc_rand rand = sc_rand_init(3, 3);
    uint32_t order[50];
    bool seen[50] = {false}, moved = false;
    sc_rand_order(&rand, order, 50);
    for (uint32_t i = 0; i < 50; i++) {
        assert_true(order[i] < 50 && !seen[order[i]]);
        seen[order[i]] = true;
        moved = moved || order[i] != i;
    }
    assert_true(moved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_seed_and_key_give_the_same_input),
        cmocka_unit_test(text_is_words_and_sentences_of_any_length),
        cmocka_unit_test(numbers_stay_in_their_range_and_reach_its_ends),
        cmocka_unit_test(gaps_between_arrivals_have_their_mean),
        cmocka_unit_test(an_order_has_each_number_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
