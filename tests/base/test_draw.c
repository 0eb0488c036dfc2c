/* Draws against a sort-based reference in whole numbers: the same token, always. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/draw.h"
#include "base/hash.h"

struct token {
    uint32_t id, distance, mass;
    bool kept;
};

static int by_distance(const void *a, const void *b)
{
    const struct token *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static int by_id(const void *a, const void *b)
{
    return ((const struct token *)a)->id < ((const struct token *)b)->id ? -1 : 1;
}

static uint64_t kept_mass(const struct token *t, uint32_t n)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += t[i].kept ? t[i].mass : 0;
    return sum;
}

static uint32_t reference(const float *x, uint32_t n, float max, const struct sc_draw *draw)
{
    struct token *t = malloc(n * sizeof(*t));
    uint32_t chosen = UINT32_MAX;
    uint64_t total, target, sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t distance = sc_draw_distance(max, x[i]);
        t[i] = (struct token){i, distance, sc_draw_mass(distance, draw->scale),
                              distance <= draw->last};
    }
    qsort(t, n, sizeof(*t), by_distance);
    for (uint32_t i = 0; draw->top_k > 0 && i < n; i++)
        if (i >= draw->top_k && t[i].distance > t[draw->top_k - 1].distance)
            t[i].kept = false;
    if (draw->top_p < 1.0f) {
        uint64_t need = (uint64_t)ceil((double)kept_mass(t, n) * (double)draw->top_p);
        for (uint32_t i = 0; i < n; i++) {
            t[i].kept &= sum < (need > 0 ? need : 1);
            sum += t[i].kept ? t[i].mass : 0;
        }
    }
    qsort(t, n, sizeof(*t), by_id);
    total = kept_mass(t, n);
    target = (uint64_t)((unsigned __int128)draw->random * total >> 64);
    sum = 0;
    for (uint32_t i = 0; i < n && chosen == UINT32_MAX; i++) {
        sum += t[i].kept ? t[i].mass : 0;
        if (sum > target)
            chosen = i;
    }
    free(t);
    return chosen;
}

/* Kinds of rows: many ties and masked tokens; peaked; flat, so that no short list will do. */
static void fill(float *x, uint32_t n, uint32_t kind, uint64_t key)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t r = sc_mix64(key * 1000003u + i);
        double u = (double)(r >> 11) * 0x1p-53;
        x[i] = kind == 0   ? (float)(r % 17) * 0.25f - 1.0f
               : kind == 1 ? (float)(-3.0 * log(u + 1e-12)) - 50.0f
                           : (float)u * 0.01f;
        if (kind != 2 && r % 23 == 0)
            x[i] = -INFINITY;
    }
    x[key % n] = kind == 2 ? 0.005f : 3.0f;
}

static void check(const float *x, uint32_t n, uint32_t kind, uint64_t key)
{
    static const uint32_t ks[] = {0, 1, 2, 7, 50, 1000, 100000};
    static const float ps[] = {1.0f, 1.0f, 0.999f, 0.95f, 0.5f, 0.01f};
    static const float temperatures[] = {1e-6f, 0.3f, 1.0f, 2.0f, 100.0f};
    const uint64_t r = sc_mix64(key);
    struct sc_draw draw = {
        .scale = -1.44269504f / temperatures[r % 5],
        .top_p = ps[(r >> 8) % 6],
        .top_k = ks[(r >> 16) % 7],
        .last = (r >> 24) % 3 == 0 ? SC_TWIN_BITS((float)((r >> 32) % 100) * 0.05f)
                                   : SC_TWIN_BITS(INFINITY) - 1,
        .random = key % 7 == 0   ? 0
                  : key % 7 == 1 ? UINT64_MAX
                                 : sc_mix64(r),
    };
    uint32_t id, want, got;
    float max = sc_draw_largest(x, n, NULL, &id);
    assert_true(isfinite(max) && x[id] == max);
    want = reference(x, n, max, &draw);
    got = sc_draw_token(x, n, max, &draw, NULL);
    if (got != want)
        fail_msg("%u tokens of kind %u, key %llu: top_k %u top_p %g last %#x: %u, not %u", n, kind,
                 (unsigned long long)key, draw.top_k, (double)draw.top_p, draw.last, got, want);
}

static void draws_are_those_of_the_reference(void **state)
{
    static const uint32_t sizes[] = {1, 2, 63, 64, 65, 500, 1024, 1025, 5000, 9000};
    float *x = malloc(9000 * sizeof(*x));
    (void)state;
    for (uint64_t key = 1; key < 3000; key++) {
        uint32_t n = sizes[key % 10], kind = (uint32_t)(key / 10 % 3);
        fill(x, n, kind, key);
        check(x, n, kind, key);
    }
    free(x);
}

static void large_vocabularies_too(void **state)
{
    const uint32_t n = 151936;
    float *x = malloc(n * sizeof(*x));
    (void)state;
    for (uint64_t key = 1; key < 60; key++) {
        fill(x, n, (uint32_t)(key % 3), key);
        check(x, n, (uint32_t)(key % 3), key);
    }
    free(x);
}

static void a_mass_is_the_exponential(void **state)
{
    (void)state;
    for (uint32_t i = 0; i <= 400000; i++) {
        float d = (float)i * 0x1p-14f, scale = -1.44269504f;
        double want = exp(-(double)d) * SC_DRAW_ONE;
        uint32_t got = sc_draw_mass(SC_TWIN_BITS(d), scale);
        if (fabs(got - want) > 0.5 + 2e-6 * want)
            fail_msg("e^-%g: %u, not %.1f", (double)d, got, want);
    }
    assert_int_equal(sc_draw_mass(0, -1e30f), SC_DRAW_ONE);
    assert_int_equal(sc_draw_mass(SC_TWIN_BITS(INFINITY), -0.01f), 0);
    assert_int_equal(sc_draw_mass(SC_TWIN_BITS(3.4e38f), -1e30f), 0);
}

static void the_largest_is_found(void **state)
{
    float x[] = {-INFINITY, 2.0f, 7.0f, 7.0f, -1.0f, NAN};
    uint32_t id = 9;
    (void)state;
    assert_true(sc_draw_largest(x, 5, NULL, &id) == 7.0f && id == 2);
    assert_true(isnan(sc_draw_largest(x, 6, NULL, &id)));
    assert_true(sc_draw_largest(x, 1, NULL, &id) == -INFINITY && id == 0);
    assert_true(sc_draw_largest(x, 0, NULL, &id) == -INFINITY && id == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_are_those_of_the_reference),
        cmocka_unit_test(large_vocabularies_too),
        cmocka_unit_test(a_mass_is_the_exponential),
        cmocka_unit_test(the_largest_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
