/* The largest of a row, found on the device. */
#include "tests/cuda/support.h"

static void the_largest_and_its_lowest_column(void **state)
{
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    struct rng r = {1};
    static const uint32_t widths[] = {1, 2, 31, 33, 1000, 1025, 4097, 128256};
    (void)state;

    for (size_t w = 0; w < SC_ARRAY_LEN(widths); w++) {
        const uint32_t n = 5, width = widths[w], n_cols = width - (width > 3 ? 3 : 0);
        float *x = random_floats(&r, (size_t)n * width), want[10];
        for (uint32_t i = 0; i < n; i++) {
            uint32_t at = rng_below(&r, n_cols), again = rng_below(&r, n_cols);
            float *row = x + (size_t)i * width;
            if (i == 3) /* all masked but one */
                for (uint32_t c = 0; c < n_cols; c++)
                    row[c] = -INFINITY;
            row[at] = row[again] = 50.0f; /* a tie */
            for (uint32_t c = n_cols; c < width; c++)
                row[c] = 99.0f; /* beyond what may be chosen */
            if (i == 4)
                row[again] = NAN;
            at = at < again ? at : again;
            want[2 * i] = i == 4 ? NAN : 50.0f;
            memcpy(&want[2 * i + 1], &at, sizeof(at));
        }
        float *dx = on_device(be, x, (size_t)n * width * sizeof(float));
        float *db = on_device(be, NULL, sizeof(want));
        assert_ok(be->ops->row_max(be, dx, n, width, n_cols, db, err));
        float *got = from_device(be, db, sizeof(want));
        for (uint32_t i = 0; i < 4; i++) {
            assert_true(got[2 * i] == want[2 * i]);
            assert_memory_equal(&got[2 * i + 1], &want[2 * i + 1], sizeof(float));
        }
        assert_true(isnan(got[8]));
        assert_ok(be->ops->row_max(be, dx, n, width, 0, db, err));
        be->ops->free(be, dx);
        be->ops->free(be, db);
        free(x);
        free(got);
    }
    assert_fails(SC_EINVAL, be->ops->row_max(be, NULL, 1, 4, 5, NULL, err));
    be->ops->close(be);
}

/* The first of what is largest; NaN is. */
static uint32_t largest(const float *row, uint32_t n_cols)
{
    uint32_t at = 0;
    for (uint32_t c = 0; c < n_cols; c++) {
        if (isnan(row[c]))
            return c;
        if (row[c] > row[at])
            at = c;
    }
    return at;
}

static void compare(struct sc_backend *be, const float *dx, const float *x, uint32_t n_rows,
                    uint32_t width, uint32_t n_cols)
{
    const size_t bytes = (size_t)n_rows * 2 * sizeof(float);
    float *db = on_device(be, NULL, bytes);
    assert_ok(be->ops->row_max(be, dx, n_rows, width, n_cols, db, err));
    float *got = from_device(be, db, bytes);
    for (uint32_t i = 0; i < n_rows; i++) {
        const float *row = x + (size_t)i * width;
        const uint32_t want = n_cols != 0 ? largest(row, n_cols) : 0;
        uint32_t at;
        memcpy(&at, &got[2 * i + 1], sizeof(at));
        if (at != want)
            fail_msg("%u rows, %u of %u columns, row %u: column %u, not %u", n_rows, n_cols, width,
                     i, at, want);
        if (n_cols == 0)
            assert_true(got[2 * i] == -INFINITY);
        else
            assert_true(got[2 * i] == row[want] || (isnan(got[2 * i]) && isnan(row[want])));
    }
    be->ops->free(be, db);
    free(got);
}

/* One backend and calls in a row with other numbers of rows, so that rows have from one block to as
 * many as there are at most, and what a call leaves behind would be seen by the next. */
static void blocks_that_share_a_row_agree(void **state)
{
    static const uint32_t widths[] = {1, 3, 4, 1023, 1025, 2048, 4100, 8191, 32771, 33000, 131076};
    static const uint32_t rows[] = {1, 3, 2, 33, 1, 65};
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    struct rng r = {2};
    (void)state;

    for (size_t w = 0; w < SC_ARRAY_LEN(widths); w++) {
        const uint32_t width = widths[w], n_max = width > 40000 ? 4 : 65;
        float *x = random_floats(&r, (size_t)n_max * width);
        for (uint32_t i = 0; i < n_max; i++) {
            float *row = x + (size_t)i * width;
            const uint32_t kind = rng_below(&r, 6), n = kind == 0 ? 0 : 1 + rng_below(&r, 5);
            /* Plain; a tie; NaN beside a tie; nothing but -inf, or that and a tie; the last column,
             * which is not looked at in half the calls. */
            for (uint32_t c = 0; (kind == 3 || kind == 4) && c < width; c++)
                row[c] = -INFINITY;
            for (uint32_t k = 0; kind != 3 && k < n; k++)
                row[kind == 5 ? width - 1 : rng_below(&r, width)] = 40.0f;
            for (uint32_t k = 0; kind == 2 && k < n; k++)
                row[rng_below(&r, width)] = NAN;
        }
        float *dx = on_device(be, x, (size_t)n_max * width * sizeof(float));
        for (size_t k = 0; k < SC_ARRAY_LEN(rows); k++) {
            const uint32_t n_rows = rows[k] < n_max ? rows[k] : n_max;
            compare(be, dx, x, n_rows, width, width);
            compare(be, dx, x, n_rows, width, width - 1);
            compare(be, dx, x, n_rows, width, rng_below(&r, width + 1));
        }
        be->ops->free(be, dx);
        free(x);
    }
    be->ops->close(be);
}

static void more_rows_than_blocks(void **state)
{
    enum { ROWS = 1500, WIDTH = 4098 };
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    struct rng r = {3};
    float *x = random_floats(&r, (size_t)ROWS * WIDTH);
    float *dx = on_device(be, x, (size_t)ROWS * WIDTH * sizeof(float));
    (void)state;

    compare(be, dx, x, 500, WIDTH, WIDTH);
    compare(be, dx, x, ROWS, WIDTH, WIDTH - 1);
    compare(be, dx, x, 513, WIDTH, WIDTH);
    compare(be, dx, x, 512, WIDTH, WIDTH);
    compare(be, dx + 1, x + 1, 2, WIDTH, WIDTH); /* rows that begin anywhere */
    be->ops->free(be, dx);
    free(x);
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_and_its_lowest_column),
        cmocka_unit_test(blocks_that_share_a_row_agree),
        cmocka_unit_test(more_rows_than_blocks),
    };
    skip_without_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
