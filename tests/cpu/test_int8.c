/* int8 weights with int8 activations: against its definition, written here a second time. */
#include "tests/cpu/support.h"

#define GROUP 64u

static struct sc_backend *open_int8(enum sc_cpu_isa isa, uint32_t n_threads)
{
    struct sc_backend_opts opts = {.n_threads = n_threads, .n_ranks = 1, .math = SC_MATH_INT8};
    struct sc_backend *be = NULL;
    assert_ok(sc_cpu_backend_open_isa(&opts, isa, &be, err));
    return be;
}

static struct sc_matrix *open_matrix(struct sc_backend *be, const float *w, uint32_t n_out,
                                     uint32_t n_in, const float *bias)
{
    struct sc_matrix_part part = {w, SC_DTYPE_F32, n_out, n_in, 0};
    struct sc_matrix *m = NULL;
    assert_ok(be->ops->matrix_open(be, &part, 1, n_in, bias, SC_DTYPE_I8, &m, err));
    return m;
}

static float largest_of(const float *x, uint32_t n)
{
    float largest = 0.0f;
    for (uint32_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf(x[i]));
    return largest;
}

/* What a row of weights and a row of activations make, and the sum of the products' sizes. */
static double defined(const float *w, const float *x, uint32_t n_in, double *ret_size)
{
    float w_scale = largest_of(w, n_in) / 127.0f;
    double sum = 0.0;
    *ret_size = 0.0;
    for (uint32_t g = 0; g < n_in; g += GROUP) {
        uint32_t n = n_in - g < GROUP ? n_in - g : GROUP;
        float top = largest_of(x + g, n), inverse = 127.0f / top;
        int32_t whole = 0, size = 0;
        for (uint32_t k = g; k < g + n && top > 0.0f; k++) {
            int32_t a = (int32_t)rintf(w[k] / w_scale), b = (int32_t)rintf(x[k] * inverse);
            assert_in_range(b + 127, 0, 254);
            whole += a * b;
            size += abs(a * b);
        }
        sum += (double)whole * (double)(top / 127.0f) * w_scale;
        *ret_size += (double)size * (double)(top / 127.0f) * w_scale;
    }
    return sum;
}

static void products_are_what_is_defined(void **state)
{
    static const uint32_t shapes[][3] = {{1, 1, 1},     {7, 3, 2},     {64, 64, 6},
                                         {65, 63, 7},   {130, 65, 5},  {33, 200, 3},
                                         {257, 70, 33}, {2050, 5, 16}, {4200, 66, 17}};
    struct rng r = {11};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (size_t s = 0; s < SC_ARRAY_LEN(shapes); s++) {
            uint32_t n_in = shapes[s][0], n_out = shapes[s][1], n = shapes[s][2];
            float *w = random_floats(&r, (size_t)n_in * n_out), *b = random_floats(&r, n_out);
            float *x = random_floats(&r, (size_t)n * n_in), *y = malloc(sizeof(float) * n * n_out);
            struct sc_backend *be = open_int8(isa, 2);
            struct sc_matrix *m = open_matrix(be, w, n_out, n_in, s % 2 ? b : NULL);
            x[0] *= 40.0f; /* one group much larger than the others */
            assert_ok(be->ops->matmul(be, m, x, n_in, y, n_out, n, err));
            for (uint32_t i = 0; i < n * n_out; i++) {
                double size, want = defined(w + (size_t)(i % n_out) * n_in,
                                            x + (size_t)(i / n_out) * n_in, n_in, &size);
                if (s % 2) {
                    want += b[i % n_out];
                    size += fabsf(b[i % n_out]);
                }
                if (!(fabs(y[i] - want) <= 1e-6 * size))
                    fail_msg("%s [%u, %u] x %u: row %u output %u: %.9g, not %.9g",
                             sc_cpu_isa_name(isa), n_out, n_in, n, i / n_out, i % n_out, y[i],
                             want);
            }
            be->ops->matrix_close(be, m);
            be->ops->close(be);
            free(w);
            free(b);
            free(x);
            free(y);
        }
    }
}

static void a_row_has_the_same_bits_alone_in_any_block_and_on_any_machine(void **state)
{
    enum { N = 391, IN = 2339, OUT = 147 };
    static const uint32_t starts[][2] = {{0, 1},   {5, 1},    {5, 2},  {9, 3},     {3, 4},  {3, 7},
                                         {20, 16}, {100, 33}, {1, 17}, {199, 192}, {390, 1}};
    struct rng r = {12};
    float *w = random_floats(&r, (size_t)IN * OUT), *x = random_floats(&r, (size_t)IN * N);
    float *whole = malloc(sizeof(float) * N * OUT), *part = malloc(sizeof(float) * N * OUT);
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (uint32_t threads = 1; threads <= 3; threads++) {
            struct sc_backend *be = open_int8(isa, threads);
            struct sc_matrix *m = open_matrix(be, w, OUT, IN, NULL);
            assert_ok(be->ops->matmul(be, m, x, IN, part, OUT, N, err));
            /* Without a fused multiply-add the last bits differ. */
            if (isa <= SC_CPU_ISA_AVX2 && threads == 1)
                memcpy(whole, part, sizeof(float) * N * OUT);
            assert_memory_equal(part, whole, sizeof(float) * N * OUT);
            for (size_t s = 0; s < SC_ARRAY_LEN(starts); s++) {
                uint32_t at = starts[s][0], n = starts[s][1];
                assert_ok(be->ops->matmul(be, m, x + (size_t)at * IN, IN, part, OUT, n, err));
                assert_memory_equal(part, whole + (size_t)at * OUT, sizeof(float) * n * OUT);
            }
            be->ops->matrix_close(be, m);
            be->ops->close(be);
        }
    }
    free(w);
    free(x);
    free(whole);
    free(part);
}

/* A row with something that is no number is no number; its neighbours are. What is too small to be
 * scaled is zero. */
static void odd_numbers_stay_in_their_row(void **state)
{
    enum { IN = 130, OUT = 3, N = 5 };
    struct rng r = {13};
    float *w = random_floats(&r, (size_t)IN * OUT), *x = random_floats(&r, (size_t)IN * N);
    float y[N * OUT], bias[OUT] = {1.0f, 2.0f, 3.0f};
    (void)state;
    x[IN + 70] = NAN;
    x[3 * IN + 129] = -INFINITY;
    for (int i = 0; i < IN; i++)
        x[4 * IN + i] = i % 2 ? 1e-40f : 0.0f;
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_int8(isa, 1);
        struct sc_matrix *m = open_matrix(be, w, OUT, IN, bias);
        assert_ok(be->ops->matmul(be, m, x, IN, y, OUT, N, err));
        for (int i = 0; i < N * OUT; i++)
            assert_int_equal(isnan(y[i]) != 0, i / OUT == 1 || i / OUT == 3);
        assert_memory_equal(y + 4 * OUT, bias, sizeof(bias));
        be->ops->matrix_close(be, m);
        be->ops->close(be);
    }
    free(w);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_what_is_defined),
        cmocka_unit_test(a_row_has_the_same_bits_alone_in_any_block_and_on_any_machine),
        cmocka_unit_test(odd_numbers_stay_in_their_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
