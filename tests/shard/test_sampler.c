/* Filters and draws against a sort-based reference; draws are counted and compared by chi-square.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "shard/sampler.h"

#define VOCAB   48u
#define N_DRAWS 20000u

static const struct sc_sampling greedy = SC_SAMPLING_GREEDY;

static struct sc_sampler *open_sampler(const struct sc_sampling *p, uint32_t vocab)
{
    struct sc_sampler *s = NULL;
    struct sc_err err = SC_ERR_INIT;
    if (sc_sampler_open(p, vocab, NULL, 0, 0, &s, &err) != SC_OK)
        fail_msg("open: %s", err.text);
    return s;
}

static struct sc_sampled sample(struct sc_sampler *s, const float *logits, uint32_t vocab,
                                uint32_t position)
{
    struct sc_sampled out;
    struct sc_err err = SC_ERR_INIT;
    float *copy = malloc(vocab * sizeof(*copy));
    assert_non_null(copy);
    memcpy(copy, logits, vocab * sizeof(*copy));
    if (sc_sampler_sample(s, copy, position, &out, &err) != SC_OK)
        fail_msg("sample: %s", err.text);
    free(copy);
    return out;
}

/* Logits in steps of 1/4, so that there are ties, some masked. */
static void make_logits(float *logits, uint32_t n, uint64_t key)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t r = sc_mix64(key * 1000003u + i);
        logits[i] = (float)(r % 17) * 0.25f - 1.0f;
        if (r % 23 == 0)
            logits[i] = -INFINITY;
    }
}

/* The reference: sorts, then walks down. */
struct ref_entry {
    uint32_t id;
    double logit, p;
    int kept;
};

static int by_logit(const void *a, const void *b)
{
    const struct ref_entry *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static double ref_renormalise(struct ref_entry *e, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += e[i].kept ? exp(e[i].logit - e[0].logit) : 0.0;
    for (uint32_t i = 0; i < n; i++)
        e[i].p = e[i].kept ? exp(e[i].logit - e[0].logit) / sum : 0.0;
    return sum;
}

static void reference(const struct sc_sampling *p, const float *logits, uint32_t n,
                      double *ret_probs)
{
    struct ref_entry *e = calloc(n, sizeof(*e));
    assert_non_null(e);
    for (uint32_t i = 0; i < n; i++)
        e[i] = (struct ref_entry){i, (double)logits[i] / (double)p->temperature, 0.0,
                                  logits[i] != -INFINITY};
    qsort(e, n, sizeof(*e), by_logit);
    ref_renormalise(e, n);
    for (uint32_t i = 0; i < n; i++)
        if (e[i].p < (double)p->min_p * e[0].p * (1 - 1e-9))
            e[i].kept = 0;
    if (p->top_k > 0 && (uint32_t)p->top_k < n)
        for (uint32_t i = (uint32_t)p->top_k; i < n; i++)
            if (e[i].logit < e[p->top_k - 1].logit)
                e[i].kept = 0;
    ref_renormalise(e, n);
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        if (sum >= (double)p->top_p * (1 - 1e-6))
            e[i].kept = 0;
        sum += e[i].p;
    }
    ref_renormalise(e, n);
    for (uint32_t i = 0; i < n; i++)
        ret_probs[e[i].id] = e[i].p;
    free(e);
}

/* A draw outside the reference's set fails at once; the counts have to fit its probabilities:
 * chi-square at most 6 standard deviations above its mean (seeds are fixed, so that this is no
 * gamble). */
static void assert_draws_fit(const struct sc_sampling *p, uint64_t key)
{
    float logits[VOCAB];
    double probs[VOCAB], chi = 0.0;
    uint32_t counts[VOCAB] = {0}, n_cells = 0;
    make_logits(logits, VOCAB, key);
    reference(p, logits, VOCAB, probs);
    struct sc_sampler *s = open_sampler(p, VOCAB);
    for (uint32_t i = 0; i < N_DRAWS; i++)
        counts[sample(s, logits, VOCAB, i).token]++;
    sc_sampler_close(s);
    for (uint32_t i = 0; i < VOCAB; i++) {
        double expected = probs[i] * N_DRAWS;
        if (probs[i] == 0.0) {
            if (counts[i] != 0)
                fail_msg("token %u was filtered but drawn %u times", i, counts[i]);
            continue;
        }
        n_cells++;
        chi += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    double df = n_cells > 1 ? n_cells - 1 : 1;
    if (chi > df + 6.0 * sqrt(2.0 * df))
        fail_msg("chi-square %.1f with %u tokens kept", chi, n_cells);
}

static struct sc_sampling warm(float temperature)
{
    struct sc_sampling p = greedy;
    p.temperature = temperature;
    p.seed = 42;
    return p;
}

static void plain_draws_follow_the_softmax_at_every_temperature(void **state)
{
    (void)state;
    const float temperatures[] = {0.3f, 1.0f, 2.5f};
    for (uint32_t i = 0; i < 3; i++) {
        struct sc_sampling p = warm(temperatures[i]);
        assert_draws_fit(&p, 1 + i);
    }
}

static void top_k_keeps_k_tokens_and_ties_with_the_last(void **state)
{
    (void)state;
    const int32_t ks[] = {1, 2, 5, 11, 47, 48, 1000, 0, -1};
    for (uint32_t i = 0; i < SC_ARRAY_LEN(ks); i++) {
        struct sc_sampling p = warm(1.2f);
        p.top_k = ks[i];
        assert_draws_fit(&p, 10 + i);
    }
}

static void top_p_keeps_the_fewest_tokens_that_reach_the_mass(void **state)
{
    (void)state;
    const float ps[] = {0.01f, 0.2f, 0.5f, 0.77f, 0.9f, 0.999f};
    for (uint32_t i = 0; i < SC_ARRAY_LEN(ps); i++) {
        struct sc_sampling p = warm(1.5f);
        p.top_p = ps[i];
        assert_draws_fit(&p, 20 + i);
    }
}

static void min_p_is_relative_to_the_best_token(void **state)
{
    (void)state;
    const float ps[] = {0.03f, 0.21f, 0.6f, 1.0f};
    for (uint32_t i = 0; i < SC_ARRAY_LEN(ps); i++) {
        struct sc_sampling p = warm(1.1f);
        p.min_p = ps[i];
        assert_draws_fit(&p, 30 + i);
    }
}

static void filters_together_apply_in_order(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 12; i++) {
        struct sc_sampling p = warm(0.7f + 0.2f * (float)i);
        p.min_p = 0.02f * (float)(i % 4);
        p.top_k = 4 + (int32_t)(3 * i);
        p.top_p = 0.95f - 0.06f * (float)i;
        p.seed = i;
        assert_draws_fit(&p, 40 + i);
    }
}

static void big_vocabularies_are_filtered_as_small_ones(void **state)
{
    (void)state;
    const uint32_t n = 128256;
    float *logits = malloc(n * sizeof(*logits));
    double *probs = malloc(n * sizeof(*probs));
    assert_non_null(logits);
    assert_non_null(probs);
    for (uint32_t i = 0; i < n; i++)
        logits[i] = 12.0f * (float)(sc_mix64(i) >> 40) / (float)(1 << 24) - 20.0f;
    for (int round = 0; round < 3; round++) {
        struct sc_sampling p = warm(1.0f);
        p.top_k = round != 1 ? 50 : 0;
        p.top_p = round != 0 ? 0.4f : 1.0f;
        reference(&p, logits, n, probs);
        struct sc_sampler *s = open_sampler(&p, n);
        for (uint32_t i = 0; i < 40; i++)
            assert_true(probs[sample(s, logits, n, i).token] > 0.0);
        sc_sampler_close(s);
    }
    free(probs);
    free(logits);
}

static void greedy_takes_the_lowest_id_of_equals(void **state)
{
    (void)state;
    float logits[VOCAB] = {0};
    logits[7] = logits[9] = logits[40] = 3.5f;
    struct sc_sampler *s = open_sampler(&greedy, VOCAB);
    assert_int_equal(sample(s, logits, VOCAB, 3).token, 7);
    for (uint32_t i = 0; i < VOCAB; i++)
        logits[i] = i % 2 ? -0.0f : 0.0f;
    assert_int_equal(sample(s, logits, VOCAB, 4).token, 0);
    sc_sampler_close(s);
}

static void padding_beyond_the_vocabulary_is_never_chosen(void **state)
{
    (void)state;
    float logits[VOCAB] = {0};
    logits[VOCAB - 1] = 99.0f;
    logits[5] = 1.0f;
    struct sc_sampler *s = open_sampler(&greedy, VOCAB - 1);
    assert_int_equal(sample(s, logits, VOCAB, 0).token, 5);
    sc_sampler_close(s);
}

static void draws_depend_on_seed_and_position_alone(void **state)
{
    (void)state;
    float logits[VOCAB];
    make_logits(logits, VOCAB, 7);
    struct sc_sampling p = warm(1.3f);
    p.top_p = 0.9f;
    struct sc_sampler *a = open_sampler(&p, VOCAB), *b = open_sampler(&p, VOCAB);
    p.seed = 43;
    struct sc_sampler *c = open_sampler(&p, VOCAB);
    int32_t first[64];
    uint32_t n_same = 0;
    for (uint32_t i = 0; i < 64; i++)
        first[i] = sample(a, logits, VOCAB, i).token;
    for (uint32_t i = 64; i-- > 0;) {
        assert_int_equal(sample(b, logits, VOCAB, i).token, first[i]);
        n_same += sample(c, logits, VOCAB, i).token == first[i];
    }
    assert_true(n_same < 32);
    sc_sampler_close(a);
    sc_sampler_close(b);
    sc_sampler_close(c);
}

/* A sampler that was told of the prompt and has chosen the tokens of output, one by one. */
static struct sc_sampler *with_history(const struct sc_sampling *p, const int32_t *prompt,
                                       uint32_t n_prompt, const int32_t *output, uint32_t n_output)
{
    struct sc_sampler *s = open_sampler(p, VOCAB);
    sc_sampler_prompt(s, prompt, n_prompt);
    for (uint32_t i = 0; i < n_output; i++) {
        float logits[VOCAB] = {0};
        for (uint32_t v = 0; v < VOCAB; v++)
            logits[v] = -1e30f;
        logits[output[i]] = 50.0f; /* positive: no penalty can make it lose */
        assert_int_equal(sample(s, logits, VOCAB, i).token, output[i]);
    }
    return s;
}

static const int32_t prompt_ids[] = {3, 4, 4, 900, -1}, output_ids[] = {4, 6, 6, 6};

/* The token's logit after penalties and bias, measured against a rival just below and just above.
 */
static void assert_effective(const struct sc_sampling *p, int32_t token, float raw, float expected)
{
    const int32_t rival = 20;
    for (int above = 0; above < 2; above++) {
        float logits[VOCAB];
        for (uint32_t v = 0; v < VOCAB; v++)
            logits[v] = -1e30f;
        logits[token] = raw;
        logits[rival] = expected + (above ? 1e-4f : -1e-4f);
        struct sc_sampler *s = with_history(p, prompt_ids, SC_ARRAY_LEN(prompt_ids), output_ids,
                                            SC_ARRAY_LEN(output_ids));
        int32_t got = sample(s, logits, VOCAB, 9).token;
        sc_sampler_close(s);
        if (got != (above ? rival : token))
            fail_msg("token %d: raw %g, expected %g, rival %s: chose %d", token, (double)raw,
                     (double)expected, above ? "above" : "below", got);
    }
}

static void penalties_count_prompt_and_output_as_vllm_does(void **state)
{
    (void)state;
    struct sc_sampling p = greedy;
    p.repetition_penalty = 1.5f;
    assert_effective(&p, 3, 3.0f, 2.0f);   /* in the prompt */
    assert_effective(&p, 6, -2.0f, -3.0f); /* in the output, below zero */
    assert_effective(&p, 8, 3.0f, 3.0f);   /* unseen */
    p = greedy;
    p.presence_penalty = 0.75f;
    assert_effective(&p, 3, 2.0f, 2.0f); /* prompt does not count */
    assert_effective(&p, 6, 2.0f, 1.25f);
    p = greedy;
    p.frequency_penalty = -0.5f;
    assert_effective(&p, 6, 1.0f, 2.5f);
    assert_effective(&p, 4, 1.0f, 1.5f);
    p.repetition_penalty = 2.0f;
    p.presence_penalty = 1.0f;
    assert_effective(&p, 6, 3.0f, 1.5f + 1.5f - 1.0f); /* repetition first */
}

static void bias_is_added_after_penalties(void **state)
{
    (void)state;
    const struct sc_logit_bias bias[] = {{6, 4.0f}, {2, -100.0f}};
    struct sc_sampling p = greedy;
    p.repetition_penalty = 2.0f;
    p.bias = bias;
    p.n_bias = 2;
    assert_effective(&p, 6, 3.0f, 5.5f);
    assert_effective(&p, 2, 3.0f, -97.0f);
}

static void banned_ids_wait_for_min_tokens(void **state)
{
    (void)state;
    const int32_t banned[] = {5, 6,
                              4000}; /* an EOS id beyond the tokenizer's vocabulary is harmless */
    float logits[VOCAB] = {0};
    struct sc_sampler *s = NULL;
    struct sc_err err = SC_ERR_INIT;
    logits[5] = 9.0f;
    logits[6] = 8.0f;
    logits[7] = 7.0f;
    assert_int_equal(sc_sampler_open(&greedy, VOCAB, banned, 3, 2, &s, &err), SC_OK);
    assert_int_equal(sample(s, logits, VOCAB, 0).token, 7);
    assert_int_equal(sample(s, logits, VOCAB, 1).token, 7);
    assert_int_equal(sample(s, logits, VOCAB, 2).token, 5);
    sc_sampler_close(s);
}

static void logprobs_are_of_the_raw_distribution(void **state)
{
    (void)state;
    const struct sc_logit_bias bias[] = {{11, 50.0f}};
    float logits[VOCAB];
    make_logits(logits, VOCAB, 99);
    logits[11] = -0.5f;
    struct sc_sampling p = warm(0.5f);
    p.bias = bias;
    p.n_bias = 1;
    p.n_logprobs = SC_TOP_LOGPROBS_MAX;
    p.repetition_penalty = 1.7f;
    struct sc_sampler *s = open_sampler(&p, VOCAB);
    struct sc_sampled got = sample(s, logits, VOCAB, 0);
    sc_sampler_close(s);
    struct sc_sampling raw = warm(1.0f);
    double probs[VOCAB];
    reference(&raw, logits, VOCAB, probs);
    assert_int_equal(got.token, 11);
    assert_true(fabs((double)got.logprob - log(probs[11])) < 1e-5);
    assert_int_equal(got.n_top, SC_TOP_LOGPROBS_MAX);
    double worst = log(probs[got.top[got.n_top - 1].token]);
    for (uint32_t i = 0; i < got.n_top; i++) {
        assert_true(fabs((double)got.top[i].logprob - log(probs[got.top[i].token])) < 1e-5);
        if (i > 0 && got.top[i].logprob == got.top[i - 1].logprob)
            assert_true(got.top[i].token > got.top[i - 1].token);
        else if (i > 0)
            assert_true(got.top[i].logprob < got.top[i - 1].logprob);
    }
    uint32_t n_better = 0;
    for (uint32_t i = 0; i < VOCAB; i++)
        n_better += probs[i] > 0.0 && log(probs[i]) > worst + 1e-6;
    assert_true(n_better < SC_TOP_LOGPROBS_MAX);
}

static void masked_tokens_have_no_logprob_entry(void **state)
{
    (void)state;
    float logits[VOCAB];
    for (uint32_t i = 0; i < VOCAB; i++)
        logits[i] = -INFINITY;
    logits[30] = 1.0f;
    logits[31] = 1.0f;
    struct sc_sampling p = greedy;
    p.logprobs = true;
    p.n_logprobs = 5;
    struct sc_sampler *s = open_sampler(&p, VOCAB);
    struct sc_sampled got = sample(s, logits, VOCAB, 0);
    sc_sampler_close(s);
    assert_int_equal(got.n_top, 2);
    assert_int_equal(got.token, 30);
    assert_true(fabs((double)got.logprob + log(2.0)) < 1e-6);
}

static void expect_sample_error(struct sc_sampler *s, float *logits, const char *needle)
{
    struct sc_sampled out = {.token = -7};
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_sampler_sample(s, logits, 12, &out, &err), SC_EINTERNAL);
    assert_non_null(strstr(err.text, needle));
    assert_non_null(strstr(err.text, "12"));
    assert_int_equal(out.token, -7);
}

static void broken_logits_are_an_error_and_change_nothing(void **state)
{
    (void)state;
    const int32_t banned[] = {1};
    struct sc_sampler *s = NULL;
    float good[VOCAB] = {0}, bad[VOCAB];
    assert_int_equal(sc_sampler_open(&greedy, VOCAB, banned, 1, 1, &s, NULL), SC_OK);
    memset(bad, 0, sizeof(bad));
    bad[17] = NAN;
    expect_sample_error(s, bad, "not a number");
    memset(bad, 0, sizeof(bad));
    bad[17] = INFINITY;
    expect_sample_error(s, bad, "no finite");
    for (uint32_t i = 0; i < VOCAB; i++)
        bad[i] = -INFINITY;
    expect_sample_error(s, bad, "no finite");
    bad[1] = 0.0f; /* the only finite one is banned */
    expect_sample_error(s, bad, "no finite");
    good[1] = 5.0f;
    good[2] = 4.0f;
    assert_int_equal(sample(s, good, VOCAB, 0).token, 2); /* the ban still holds */
    assert_int_equal(sample(s, good, VOCAB, 1).token, 1);
    sc_sampler_close(s);
}

static void expect_refused(const struct sc_sampling *p, uint32_t vocab, const int32_t *banned,
                           uint32_t n_banned, const char *needle)
{
    struct sc_sampler *s = NULL;
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_sampler_open(p, vocab, banned, n_banned, 0, &s, &err), SC_EINVAL);
    if (strstr(err.text, needle) == NULL)
        fail_msg("'%s' does not name '%s'", err.text, needle);
    assert_null(s);
}

static void every_parameter_out_of_range_is_named(void **state)
{
    (void)state;
    const struct {
        struct sc_sampling p;
        const char *needle;
    } cases[] = {
        {{.temperature = -0.1f, .top_p = 1, .repetition_penalty = 1}, "temperature"},
        {{.temperature = 100.5f, .top_p = 1, .repetition_penalty = 1}, "100.5"},
        {{.temperature = NAN, .top_p = 1, .repetition_penalty = 1}, "temperature"},
        {{.top_p = 0, .repetition_penalty = 1}, "top_p"},
        {{.top_p = 1.01f, .repetition_penalty = 1}, "top_p"},
        {{.top_p = 1, .min_p = -0.5f, .repetition_penalty = 1}, "min_p"},
        {{.top_p = 1, .min_p = NAN, .repetition_penalty = 1}, "min_p"},
        {{.top_p = 1, .repetition_penalty = 0}, "repetition_penalty"},
        {{.top_p = 1, .repetition_penalty = INFINITY}, "repetition_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .presence_penalty = 2.1f}, "presence_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .frequency_penalty = -3}, "frequency_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .n_logprobs = 21}, "21"},
        {{.top_p = 1, .repetition_penalty = 1, .n_bias = 1025}, "1025"},
    };
    for (uint32_t i = 0; i < SC_ARRAY_LEN(cases); i++)
        expect_refused(&cases[i].p, VOCAB, NULL, 0, cases[i].needle);
    const int32_t banned[] = {-4};
    expect_refused(&greedy, VOCAB, banned, 1, "-4");
    expect_refused(&greedy, VOCAB, NULL, SC_BANNED_MAX + 1, "129");
    expect_refused(&greedy, 0, NULL, 0, "vocabulary");
    expect_refused(&greedy, 1u << 30, NULL, 0, "vocabulary");
}

static void every_bad_logit_bias_is_named(void **state)
{
    (void)state;
    const struct {
        struct sc_logit_bias bias[2];
        const char *needle;
    } cases[] = {
        {{{1, 0.5f}, {48, 0.5f}}, "48"},     {{{-1, 0.5f}, {2, 0.5f}}, "-1"},
        {{{1, 100.5f}, {2, 0.5f}}, "100.5"}, {{{1, NAN}, {2, 0.5f}}, "token 1"},
        {{{9, 1.0f}, {9, 2.0f}}, "twice"},
    };
    for (uint32_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct sc_sampling p = greedy;
        p.bias = cases[i].bias;
        p.n_bias = 2;
        expect_refused(&p, VOCAB, NULL, 0, cases[i].needle);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_draws_follow_the_softmax_at_every_temperature),
        cmocka_unit_test(top_k_keeps_k_tokens_and_ties_with_the_last),
        cmocka_unit_test(top_p_keeps_the_fewest_tokens_that_reach_the_mass),
        cmocka_unit_test(min_p_is_relative_to_the_best_token),
        cmocka_unit_test(filters_together_apply_in_order),
        cmocka_unit_test(big_vocabularies_are_filtered_as_small_ones),
        cmocka_unit_test(greedy_takes_the_lowest_id_of_equals),
        cmocka_unit_test(padding_beyond_the_vocabulary_is_never_chosen),
        cmocka_unit_test(draws_depend_on_seed_and_position_alone),
        cmocka_unit_test(penalties_count_prompt_and_output_as_vllm_does),
        cmocka_unit_test(bias_is_added_after_penalties),
        cmocka_unit_test(banned_ids_wait_for_min_tokens),
        cmocka_unit_test(logprobs_are_of_the_raw_distribution),
        cmocka_unit_test(masked_tokens_have_no_logprob_entry),
        cmocka_unit_test(broken_logits_are_an_error_and_change_nothing),
        cmocka_unit_test(every_parameter_out_of_range_is_named),
        cmocka_unit_test(every_bad_logit_bias_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
