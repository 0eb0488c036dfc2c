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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_and_its_lowest_column),
    };
    skip_without_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
