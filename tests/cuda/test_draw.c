/* Columns drawn on the device: those that the CPU draws from the same rows. */
#include "tests/cuda/support.h"

#include "base/draw.h"

#define ROWS 24u

/* Kinds of rows: many ties and masked columns; peaked, as a model's are; flat. */
static void fill(struct rng *r, float *x, uint32_t n, uint32_t kind)
{
    for (uint32_t i = 0; i < n; i++) {
        x[i] = kind == 0   ? 0.25f * (float)rng_below(r, 40)
               : kind == 1 ? rng_normal(r) * 2.5f - 8.0f
                           : 0.001f * (float)rng_below(r, 1000);
        if (kind != 2 && rng_below(r, 23) == 0)
            x[i] = -INFINITY;
    }
    for (uint32_t i = 0; i < 30; i++)
        x[rng_below(r, n)] = kind == 1 ? 0.3f * (float)i : 9.75f;
}

static struct sc_draw any_draw(struct rng *r)
{
    static const float ps[] = {1.0f, 1.0f, 0.95f, 0.6f, 0.05f};
    static const uint32_t ks[] = {0, 0, 1, 5, 50, 1000, 1024, 3000};
    static const float scales[] = {0.0f, -0.7f, -1.44f, -2.9f, -1e6f};
    return (struct sc_draw){
        .scale = scales[rng_below(r, 5)],
        .top_p = ps[rng_below(r, 5)],
        .top_k = ks[rng_below(r, 8)],
        .last = SC_TWIN_BITS(rng_below(r, 3) == 0 ? 3.5f : 3e38f),
        .random = rng_below(r, 9) == 0 ? UINT64_MAX : (uint64_t)rng_u32(r) << 32 | rng_u32(r),
    };
}

static uint32_t column(const float *best, uint32_t row)
{
    uint32_t id;
    memcpy(&id, &best[2 * row + 1], sizeof(id));
    return id;
}

static void compare(struct sc_backend *be, struct rng *r, uint32_t n_cols, uint32_t width)
{
    const size_t bytes = sizeof(float) * ROWS * width;
    struct sc_draw draws[ROWS];
    float *x = malloc(bytes);

    for (uint32_t i = 0; i < ROWS; i++) {
        fill(r, x + (size_t)i * width, n_cols, i % 3);
        for (uint32_t c = n_cols; c < width; c++) /* beyond what may be chosen */
            x[(size_t)i * width + c] = 1e9f;
        draws[i] = any_draw(r);
    }
    x[(size_t)7 * width] = NAN;
    float *dx = on_device(be, x, bytes), *db = on_device(be, NULL, sizeof(float) * 2 * ROWS);
    assert_ok(be->ops->row_max(be, dx, ROWS, width, n_cols, db, err));
    assert_ok(be->ops->draw(be, dx, ROWS, width, n_cols, draws, db, err));
    float *got = from_device(be, db, sizeof(float) * 2 * ROWS);
    for (uint32_t i = 0; i < ROWS; i++) {
        const float *row = x + (size_t)i * width;
        uint32_t want;
        float max = sc_draw_largest(row, n_cols, NULL, &want);
        if (i == 7) {
            assert_true(isnan(got[2 * i]));
            continue;
        }
        assert_true(got[2 * i] == max);
        if (draws[i].scale != 0.0f)
            want = sc_draw_token(row, n_cols, max, &draws[i], NULL);
        /* Of ties and flat rows more columns stay than a list holds. */
        if (column(got, i) != want)
            fail_msg("%u columns, row %u, top_k %u, top_p %g, scale %g: %u, not %u", n_cols, i,
                     draws[i].top_k, (double)draws[i].top_p, (double)draws[i].scale, column(got, i),
                     want);
    }
    be->ops->free(be, dx);
    be->ops->free(be, db);
    free(x);
    free(got);
}

static void columns_are_those_of_the_cpu(void **state)
{
    static const uint32_t widths[] = {1, 2, 31, 33, 1000, 1024, 1025, 4096, 4100, 32000};
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    struct rng r = {5};
    const uint32_t n_rounds = small_run() ? 1 : 4;
    (void)state;
    for (size_t w = 0; w < SC_ARRAY_LEN(widths); w++) {
        if (small_run() && widths[w] != 33 && widths[w] != 1025 && widths[w] != 4100)
            continue; /* of one chunk, a few, and more columns than a list holds */
        for (uint32_t round = 0; round < n_rounds; round++)
            compare(be, &r, widths[w], widths[w] + round);
    }
    assert_fails(SC_EINVAL, be->ops->draw(be, NULL, 1, 4, 5, NULL, NULL, err));
    be->ops->close(be);
}

static void a_large_vocabulary_too(void **state)
{
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    struct rng r = {6};
    (void)state;
    compare(be, &r, 151936, 152064);
    be->ops->close(be);
}

/* More columns as likely as the likeliest than a list holds: no bound lets in fewer, and of equals
 * the lowest columns stay. */
static void rows_of_ties_are_drawn(void **state)
{
    static const struct sc_draw kinds[] = {
        {.scale = -1.0f, .top_p = 0.5f, .last = UINT32_MAX},
        {.scale = -1.0f, .top_p = 1e-9f, .last = UINT32_MAX},
        {.scale = -1.0f, .top_p = 0.9f, .last = 0},
        {.scale = -1.0f, .top_p = 1.0f, .last = UINT32_MAX, .top_k = 7},
        {.scale = -1e6f, .top_p = 0.9f, .last = 0, .top_k = 2000},
        {.scale = -1.0f, .top_p = 1.0f, .last = 0, .random = UINT64_MAX},
        {.scale = -1.0f, .top_p = 0.7f, .last = UINT32_MAX, .random = UINT64_MAX},
        {.scale = -1.0f, .top_p = 0.3f, .last = UINT32_MAX, .top_k = 5000, .random = 1ull << 63},
    };
    enum { N = SC_ARRAY_LEN(kinds) };
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    static const uint32_t widths[] = {4096, 4097, 32003};
    (void)state;
    for (size_t w = 0; w < SC_ARRAY_LEN(widths); w++) {
        const uint32_t n = widths[w];
        float *x = malloc(sizeof(*x) * N * n);
        for (uint32_t i = 0; i < N * n; i++)
            x[i] = -3.5f;
        void *dx = on_device(be, x, sizeof(*x) * N * n);
        void *db = on_device(be, NULL, sizeof(float) * 2 * N);
        assert_ok(be->ops->row_max(be, dx, N, n, n, db, err));
        assert_ok(be->ops->draw(be, dx, N, n, n, kinds, db, err));
        float *got = from_device(be, db, sizeof(float) * 2 * N);
        for (uint32_t i = 0; i < N; i++) {
            assert_true(got[2 * i] == -3.5f);
            assert_int_equal(column(got, i), sc_draw_token(x, n, -3.5f, &kinds[i], NULL));
        }
        be->ops->free(be, dx);
        be->ops->free(be, db);
        free(got);
        free(x);
    }
    be->ops->close(be);
}

/* More columns stay than a list holds; the last that stay, of those that are equally far, lie among
 * nearer ones in the middle of the row, or behind its 32nd chunk: targets all over it. */
static void the_last_that_stay_are_the_lowest_of_their_distance(void **state)
{
    enum { TARGETS = 16 };
    static const struct {
        struct sc_draw draw;
        uint32_t n, n_targets;
    } kinds[] = {
        {{.scale = -1.0f, .top_p = 0.8f, .last = UINT32_MAX}, 9000, TARGETS},
        {{.scale = -1.0f, .top_p = 1.0f, .last = 0x3e800000 /* 0.25 */, .top_k = 7000}, 9000, 8},
        {{.scale = -1.0f, .top_p = 0.8f, .last = UINT32_MAX, .top_k = 5000}, 9000, TARGETS},
        {{.scale = -1.0f, .top_p = 0.97f, .last = UINT32_MAX}, 36000, 3},
    };
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    (void)state;
    for (size_t k = 0; k < SC_ARRAY_LEN(kinds); k++) {
        const uint32_t n = kinds[k].n, n_rows = small_run() ? 2 : kinds[k].n_targets;
        float *x = malloc(sizeof(*x) * n_rows * n);
        struct sc_draw draws[TARGETS];
        for (uint32_t i = 0; i < n_rows * n; i++)
            x[i] = i % n % 3 == 0   ? -0.5f
                   : i % n % 3 == 1 ? 0.0f
                                    : -0.5f * (float)(i % n % 2) - 0.25f;
        for (uint32_t i = 0; i < n_rows; i++) { /* the last row: the last column that stays */
            draws[i] = kinds[k].draw;
            draws[i].random = UINT64_MAX / n_rows * (i + 1);
        }
        void *dx = on_device(be, x, sizeof(*x) * n_rows * n);
        void *db = on_device(be, NULL, sizeof(float) * 2 * n_rows);
        assert_ok(be->ops->row_max(be, dx, n_rows, n, n, db, err));
        assert_ok(be->ops->draw(be, dx, n_rows, n, n, draws, db, err));
        float *got = from_device(be, db, sizeof(float) * 2 * n_rows);
        for (uint32_t i = 0; i < n_rows; i++)
            assert_int_equal(column(got, i), sc_draw_token(x, n, 0.0f, &draws[i], NULL));
        be->ops->free(be, dx);
        be->ops->free(be, db);
        free(got);
        free(x);
    }
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_those_of_the_cpu),
        cmocka_unit_test(a_large_vocabulary_too),
        cmocka_unit_test(rows_of_ties_are_drawn),
        cmocka_unit_test(the_last_that_stay_are_the_lowest_of_their_distance),
    };
    skip_without_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
