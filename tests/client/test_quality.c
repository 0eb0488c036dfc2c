#include "client/quality_against.h"
#include "client/quality_score.h"
#include "client/quality_suite.h"
#include "client/quality_tally.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void answers_are_judged_letter_by_letter_without_blanks_around_them(void **state)
{
    (void)state;
    assert_true(sc_quality_is_right(" 6386", 5, "6386"));
    assert_true(sc_quality_is_right("\t\r\n 6386 \x1f\v", 11, "6386"));
    assert_true(sc_quality_is_right("ten and one", 11, "ten and one"));
    assert_false(sc_quality_is_right("one and ten", 11, "ten and one"));
    assert_false(sc_quality_is_right("6386.", 5, "6386"));
    assert_false(sc_quality_is_right("638", 3, "6386"));
    assert_false(sc_quality_is_right("Red", 3, "red"));
    assert_false(sc_quality_is_right("6386\0", 5, "6386"));
    assert_false(sc_quality_is_right("  ", 2, "6386"));
    assert_true(sc_quality_is_right(NULL, 0, ""));
}

static void intervals_are_those_of_the_textbook(void **state)
{
    (void)state;
    static const struct {
        uint64_t right, asked;
        double low, high;
    } cases[] = {
        {48, 48, .9259, 1}, {31, 32, .8426, .9945}, {0, 6, 0, .3903}, {1, 2, .0945, .9055}};
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        const struct sc_interval w = sc_quality_wilson(cases[i].right, cases[i].asked);
        assert_true(fabs(w.low - cases[i].low) < 1e-4 && fabs(w.high - cases[i].high) < 1e-4);
    }
    assert_true(sc_quality_wilson(0, 0).low == 0 && sc_quality_wilson(0, 0).high == 1);
}

static void kl_of_distributions_that_are_known_whole_is_exact(void **state)
{
    (void)state;
    const struct sc_quality_top p[] = {{1, log(.75)}, {2, log(.25)}};
    const struct sc_quality_top q[] = {{2, log(.5)}, {1, log(.5)}};
    const double want = .75 * log(1.5) + .25 * log(.5);
    assert_true(fabs(sc_quality_kl(p, 2, q, 2) - want) < 1e-6);
    assert_true(sc_quality_kl(p, 2, p, 2) < 1e-12);
}

static uint32_t next(uint32_t *x)
{
    *x = *x * 1664525u + 1013904223u;
    return *x >> 8;
}

static int by_logprob(const void *a, const void *b)
{
    const double x = ((const struct sc_quality_top *)a)->logprob;
    const double y = ((const struct sc_quality_top *)b)->logprob;
    return (x < y) - (x > y);
}

/* Two random distributions over 60 tokens, some far apart, and the best 20 of each. */
static void kl_of_the_likeliest_tokens_is_a_lower_bound(void **state)
{
    (void)state;
    enum { N = 60, TOP = 20 };
    uint32_t x = 7;
    for (int round = 0; round < 500; round++) {
        struct sc_quality_top p[N], q[N];
        double sum_p = 0, sum_q = 0, whole = 0;
        const double sharp = 1 + round % 9;
        for (int i = 0; i < N; i++) {
            p[i] = (struct sc_quality_top){i, sharp * (next(&x) % 1000) / 1000.0};
            q[i] = (struct sc_quality_top){i, sharp * (next(&x) % 1000) / 1000.0};
            sum_p += exp(p[i].logprob);
            sum_q += exp(q[i].logprob);
        }
        for (int i = 0; i < N; i++) {
            p[i].logprob -= log(sum_p);
            q[i].logprob -= log(sum_q);
            whole += exp(p[i].logprob) * (p[i].logprob - q[i].logprob);
        }
        qsort(p, N, sizeof(p[0]), by_logprob);
        qsort(q, N, sizeof(q[0]), by_logprob);
        assert_true(sc_quality_kl(p, TOP, q, TOP) <= whole + 1e-9);
        assert_true(fabs(sc_quality_kl(p, N, q, N) - whole) < 1e-6);
    }
}

static void kl_sees_a_certain_token_that_the_other_list_lacks(void **state)
{
    (void)state;
    const struct sc_quality_top p[] = {{1, log(.99)}, {2, log(.005)}};
    const struct sc_quality_top q[] = {{3, log(.98)}, {4, log(.001)}};
    /* The other list leaves .019, of which two tokens below .001 can have .002. */
    assert_true(sc_quality_kl(p, 2, q, 2) > .995 * log(.995 / .002) - .05);
}

static struct sc_suite_document parse(struct sc_arena *arena, const char *json)
{
    struct sc_suite_document d = {0};
    struct sc_err err = SC_ERR_INIT;
    if (sc_suite_parse(arena, json, strlen(json), &d, &err) != SC_OK)
        fail_msg("%s", err.text);
    return d;
}

#define LINE                                                                                       \
    "{\"id\": \"a-1\", \"task\": \"a\", \"length\": 2048, \"depth\": 3, \"other\": [], "           \
    "\"document\": \"text\\n\", \"questions\": [{\"q\": \"Who?\", \"a\": [\"Ann\", \"Bob\"]}, "    \
    "{\"q\": \"What?\", \"a\": [\"x\"], \"depth\": null}, "                                        \
    "{\"q\": \"Why?\", \"a\": [\"y\"], \"depth\": 9}]}"

static void a_line_becomes_a_document_with_questions(void **state)
{
    (void)state;
    struct sc_arena arena;
    sc_arena_init(&arena, 1u << 20);
    const struct sc_suite_document d = parse(&arena, LINE);
    assert_string_equal(d.id, "a-1");
    assert_int_equal(d.length, 2048);
    assert_int_equal(d.text.len, 5);
    assert_int_equal(d.n_questions, 3);
    assert_string_equal(d.questions[0].wanted, "Ann and Bob");
    assert_int_equal(d.questions[0].depth, 3);
    assert_int_equal(d.questions[1].depth, -1);
    assert_int_equal(d.questions[2].depth, 9);
    sc_arena_fini(&arena);
}

static void every_field_of_a_line_is_checked(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *say;
    } cases[] = {
        {"\"a-1\"", "1", "id is not a string"},
        {"\"task\"", "\"tusk\"", "task is not a string"},
        {"2048", "-1", "length is not a whole number"},
        {"3, \"other\"", "10, \"other\"", "depth is not a whole number"},
        {"\"text\\n\"", "null", "document is not a string"},
        {"\"Who?\"", "5", "q is not a string"},
        {"[\"x\"]", "\"x\"", "a is not a list of answers"},
        {"[\"x\"]", "[\"\"]", "an item of a is not a text"},
        {"9}]", "\"9\"}]", "depth is not a whole number"},
        {"\"questions\"", "\"query\"", "questions is not a list"},
        {"{\"id\"", "[\"id\"", "column"},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct sc_arena arena;
        struct sc_suite_document d = {0};
        struct sc_err err = SC_ERR_INIT;
        char json[1024];
        const char *at = strstr(LINE, cases[i].from);
        assert_non_null(at);
        (void)snprintf(json, sizeof(json), "%.*s%s%s", (int)(at - LINE), LINE, cases[i].to,
                       at + strlen(cases[i].from));
        sc_arena_init(&arena, 1u << 20);
        assert_int_equal(sc_suite_parse(&arena, json, strlen(json), &d, &err), SC_EFORMAT);
        if (strstr(err.text, cases[i].say) == NULL)
            fail_msg("case %zu: %s", i, err.text);
        sc_arena_fini(&arena);
    }
}

/* Tokens, each certain to .75, the other of 1 and 2 to .25. */
static json_t *told(const char *tokens)
{
    json_t *list = json_array();
    for (; *tokens != '\0'; tokens++) {
        const int token = *tokens - '0';
        (void)json_array_append_new(list, json_pack("{s:i, s:f, s:[{s:i, s:f}, {s:i, s:f}]}",
                                                    "token_id", token, "logprob", log(.75), "top",
                                                    "token_id", token, "logprob", log(.75),
                                                    "token_id", 3 - token, "logprob", log(.25)));
    }
    return list;
}

static void answers_are_compared_up_to_the_first_other_token(void **state)
{
    (void)state;
    json_t *exact = told("1112"), *other = told("1211"), *empty = json_array();
    struct sc_quality_against sums = {0};
    struct sc_err err = SC_ERR_INIT;
    size_t n = 0;
    assert_int_equal(sc_quality_compare(exact, 0, other, &sums, &n, &err), SC_OK);
    assert_int_equal(n, 2);
    assert_int_equal(sums.n_tokens, 2);
    assert_int_equal(sums.n_agree, 1);
    assert_true(fabs(sums.kl - .5 * log(3)) < 1e-6);
    json_t *rest = told("121");
    assert_int_equal(sc_quality_compare(exact, 2, rest, &sums, &n, &err), SC_OK);
    assert_int_equal(n, 2); /* no more tokens of the exact answer */
    assert_int_equal(sums.n_agree, 3);
    assert_int_equal(sc_quality_compare(exact, 2, empty, &sums, &n, &err), SC_EFORMAT);
    json_decref(exact);
    json_decref(other);
    json_decref(empty);
    json_decref(rest);
}

static void sums_are_kept_by_task_length_and_depth(void **state)
{
    (void)state;
    struct sc_arena arena;
    struct sc_quality_tally tally;
    struct sc_err err = SC_ERR_INIT;
    Semanticache__V1__Usage usage = SEMANTICACHE__V1__USAGE__INIT;
    Semanticache__V1__KvReceipt receipt = SEMANTICACHE__V1__KV_RECEIPT__INIT;
    Semanticache__V1__Final final = SEMANTICACHE__V1__FINAL__INIT;
    sc_arena_init(&arena, 1u << 20);
    const struct sc_suite_document d = parse(&arena, LINE);
    assert_int_equal(sc_quality_tally_init(&tally, true, &err), SC_OK);
    struct sc_quality_answer a = {.document = &d, .text = " x", .text_len = 2, .final = &final};
    assert_int_equal(sc_quality_tally_add(&tally, &a, &err), SC_EFORMAT); /* no receipt */
    final.usage = &usage;
    final.receipt = &receipt;
    receipt.exact_entries = 100;
    receipt.physical_entries = 25;
    for (a.question = 0; a.question < 3; a.question++) {
        a.exact = (struct sc_quality_against){.text = "x", .text_len = 1, .n_tokens = 2, .kl = .5};
        assert_int_equal(sc_quality_tally_add(&tally, &a, NULL), SC_OK);
    }
    assert_int_equal(tally.n_cells, 3);
    assert_int_equal(tally.all.n_right, 1);
    assert_int_equal(tally.all.n_both_right, 1);
    json_t *json = sc_quality_json(&tally);
    assert_int_equal(json_array_size(json_object_get(json, "tasks")), 1);
    assert_int_equal(json_array_size(json_object_get(json, "depths")), 2);
    assert_int_equal(json_array_size(json_object_get(json, "failures")), 2);
    const json_t *total = json_object_get(json, "total");
    const json_t *exact = json_object_get(total, "exact");
    assert_true(fabs(json_number_value(json_object_get(exact, "kl")) - .25) < 1e-12);
    assert_true(json_number_value(json_object_get(json_object_get(total, "kept"), "share")) == .25);
    json_decref(json);
    sc_quality_tally_fini(&tally);
    sc_arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_judged_letter_by_letter_without_blanks_around_them),
        cmocka_unit_test(intervals_are_those_of_the_textbook),
        cmocka_unit_test(kl_of_distributions_that_are_known_whole_is_exact),
        cmocka_unit_test(kl_of_the_likeliest_tokens_is_a_lower_bound),
        cmocka_unit_test(kl_sees_a_certain_token_that_the_other_list_lacks),
        cmocka_unit_test(a_line_becomes_a_document_with_questions),
        cmocka_unit_test(every_field_of_a_line_is_checked),
        cmocka_unit_test(answers_are_compared_up_to_the_first_other_token),
        cmocka_unit_test(sums_are_kept_by_task_length_and_depth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
