/* How matrices are read from their sources: against the CPU twin, of which no bit may differ where
 * only one weight of a row counts. */
#include "tests/cuda/support.h"

/* Picks weight k of every row of a matrix [n_out, n_in]: no sum, no rounding. */
static float *pick(struct sc_backend *be, struct sc_matrix *m, uint32_t n_in, uint32_t n_out,
                   uint32_t k)
{
    float *x = calloc(n_in, sizeof(*x));
    x[k] = 1.0f;
    void *in = on_device(be, x, n_in * 4), *y = on_device(be, NULL, n_out * 4);
    assert_ok(be->ops->matmul(be, m, in, n_in, y, n_out, 1, err));
    float *got = from_device(be, y, n_out * 4);
    be->ops->free(be, in);
    be->ops->free(be, y);
    free(x);
    return got;
}

static float *pick_on_cpu(struct sc_backend *cpu, struct sc_matrix *m, uint32_t n_in,
                          uint32_t n_out, uint32_t k)
{
    float *x = calloc(n_in, sizeof(*x)), *y = malloc(n_out * 4);
    x[k] = 1.0f;
    assert_ok(cpu->ops->matmul(cpu, m, x, n_in, y, n_out, 1, err));
    free(x);
    return y;
}

/* [q; k; v] of one rank: row slices of three matrices of different types, columns sliced. */
static void parts_are_stacked_and_columns_sliced(void **state)
{
    enum { IN = 37, STRIDE = 50, COL0 = 9, OUT = 20 + 71 + 3 };
    static const enum sc_dtype types[] = {SC_DTYPE_F32, SC_DTYPE_BF16, SC_DTYPE_F16};
    static const uint32_t rows[] = {20, 71, 3};
    struct rng r = {1};
    struct sc_backend *cpu = open_backend(SC_CPU_ISA_PLAIN, 1);
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false);
    struct sc_matrix_part parts[3];
    float *bias = random_floats(&r, OUT);
    uint8_t *raw[3];
    (void)state;
    for (int p = 0; p < 3; p++) {
        raw[p] = malloc((size_t)rows[p] * STRIDE * 4 + 1);
        for (uint32_t i = 0; i < rows[p] * STRIDE; i++) {
            float f = rng_normal(&r);
            uint16_t h = (uint16_t)(sc_f32_to_bf16(f) & (p == 2 ? 0xbfffu : 0xffffu));
            if (p == 0)
                memcpy(raw[p] + 1 + 4 * i, &f, 4);
            else
                memcpy(raw[p] + 1 + 2 * i, &h, 2);
        }
        parts[p] = (struct sc_matrix_part){raw[p] + 1, types[p], rows[p], STRIDE, COL0};
    }
    for (enum sc_dtype store = SC_DTYPE_F32; store <= SC_DTYPE_I8; store++) {
        struct sc_matrix *m = NULL, *twin = NULL;
        double got2[2] = {0.0}, want2[2] = {0.0};
        assert_ok(be->ops->matrix_open(be, parts, 3, IN, bias, store, &m, err));
        assert_ok(cpu->ops->matrix_open(cpu, parts, 3, IN, bias, store, &twin, err));
        for (uint32_t k = 0; k < IN; k++) {
            float *got = pick(be, m, IN, OUT, k), *want = pick_on_cpu(cpu, twin, IN, OUT, k);
            for (uint32_t o = 0; o < OUT; o++)
                if (!(fabsf(got[o] - want[o]) <= 2e-7f * (fabsf(want[o]) + fabsf(bias[o]))))
                    fail_msg("%s: row %u column %u: %.9g, not %.9g", sc_dtype_name(store), o, k,
                             (double)got[o], (double)want[o]);
            free(got);
            free(want);
        }
        be->ops->matrix_error(m, &got2[0], &got2[1]);
        cpu->ops->matrix_error(twin, &want2[0], &want2[1]);
        assert_true(fabs(got2[0] - want2[0]) <= 1e-6 * want2[0]);
        assert_true(fabs(got2[1] - want2[1]) <= 1e-6 * want2[1]);
        be->ops->matrix_close(be, m);
        cpu->ops->matrix_close(cpu, twin);
    }
    for (int p = 0; p < 3; p++)
        free(raw[p]);
    free(bias);
    cpu->ops->close(cpu);
    be->ops->close(be);
}

static bool is_finite(struct sc_backend *be, const struct sc_matrix_part *part, uint32_t n_in,
                      enum sc_dtype store)
{
    struct sc_matrix *m = NULL;
    assert_ok(be->ops->matrix_open(be, part, 1, n_in, NULL, store, &m, err));
    const bool finite = be->ops->matrix_is_finite(m);
    be->ops->matrix_close(be, m);
    return finite;
}

/* One weight in turn at every place of a source of which the matrix is a part. */
static void a_weight_that_is_not_finite_is_told(void **state)
{
    enum { ROWS = 5, STRIDE = 21, COL0 = 4, IN = 11 };
    static const struct {
        enum sc_dtype dtype;
        uint32_t bits;
        bool by_f32, by_bf16; /* finite as kept */
    } bad[] = {{SC_DTYPE_F32, 0x7fc00000, false, false}, {SC_DTYPE_F32, 0xff800000, false, false},
               {SC_DTYPE_F32, 0x7f7f8000, true, false},  {SC_DTYPE_F32, 0xff7f7fff, true, true},
               {SC_DTYPE_BF16, 0x7f80, false, false},    {SC_DTYPE_BF16, 0xff7f, true, true},
               {SC_DTYPE_F16, 0xfe00, false, false},     {SC_DTYPE_F16, 0x7bff, true, true}};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false);
    (void)state;
    for (size_t b = 0; b < SC_ARRAY_LEN(bad); b++) {
        const size_t bytes = sc_dtype_bytes(bad[b].dtype);
        for (uint32_t at = 0; at < ROWS * STRIDE; at += small_run() ? 13 : 1) {
            uint8_t w[ROWS * STRIDE * 4 + 1] = {0};
            const struct sc_matrix_part part = {w + 1, bad[b].dtype, ROWS, STRIDE, COL0};
            const bool used = at % STRIDE >= COL0 && at % STRIDE < COL0 + IN;
            memcpy(w + 1 + at * bytes, &bad[b].bits, bytes);
            assert_int_equal(is_finite(be, &part, IN, SC_DTYPE_F32), !used || bad[b].by_f32);
            assert_int_equal(is_finite(be, &part, IN, SC_DTYPE_BF16), !used || bad[b].by_bf16);
        }
    }
    be->ops->close(be);
}

static void a_matrix_larger_than_the_staging_arrives_whole(void **state)
{
    enum { IN = 1501, OUT_MAX = 7001 }; /* 40 MiB of f32 */
    const uint32_t n_out = small_run() ? 3001 : OUT_MAX;
    static const uint32_t columns[] = {0, 750, IN - 1};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false);
    float *w = malloc((size_t)IN * n_out * 4);
    struct sc_matrix_part part = {w, SC_DTYPE_F32, n_out, IN, 0};
    (void)state;
    for (size_t i = 0; i < (size_t)IN * n_out; i++)
        w[i] = (float)(i % 251) - 125.0f; /* exact in bf16 */
    for (enum sc_dtype store = SC_DTYPE_F32; store <= SC_DTYPE_BF16; store++) {
        struct sc_matrix *m = NULL;
        assert_ok(be->ops->matrix_open(be, &part, 1, IN, NULL, store, &m, err));
        for (size_t c = 0; c < SC_ARRAY_LEN(columns); c++) {
            float *got = pick(be, m, IN, n_out, columns[c]);
            for (size_t o = 0; o < n_out; o++)
                assert_true(got[o] == w[o * IN + columns[c]]);
            free(got);
        }
        be->ops->matrix_close(be, m);
    }
    free(w);
    be->ops->close(be);
}

/* The scale of a row is that of all its columns, so ranks that have some of them agree; weights
 * that are no numbers are refused. */
static void int8_weights_do_not_depend_on_the_split(void **state)
{
    enum { IN = 192, OUT = 70 };
    struct rng r = {2};
    float *w = random_floats(&r, (size_t)IN * OUT);
    struct sc_matrix_part all = {w, SC_DTYPE_F32, OUT, IN, 0}, right = all;
    struct sc_matrix *m = NULL;
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false);
    (void)state;
    for (uint32_t o = 0; o < OUT; o++)
        w[(size_t)o * IN + 3] *= 10.0f;                /* the largest lies in the left half */
    memset(w + (size_t)5 * IN, 0, IN * sizeof(float)); /* no scale at all */
    right.col0 = IN / 2;
    assert_ok(be->ops->matrix_open(be, &all, 1, IN, NULL, SC_DTYPE_I8, &m, err));
    float *whole = pick(be, m, IN, OUT, IN / 2 + 7);
    be->ops->matrix_close(be, m);
    assert_ok(be->ops->matrix_open(be, &right, 1, IN / 2, NULL, SC_DTYPE_I8, &m, err));
    float *half = pick(be, m, IN / 2, OUT, 7);
    be->ops->matrix_close(be, m);
    assert_memory_equal(half, whole, OUT * sizeof(float));
    assert_true(whole[5] == 0.0f);
    m = NULL;
    w[IN + 1] = NAN;
    assert_fails(SC_EINVAL, be->ops->matrix_open(be, &all, 1, IN, NULL, SC_DTYPE_I8, &m, err));
    w[IN + 1] = -INFINITY;
    assert_fails(SC_EINVAL, be->ops->matrix_open(be, &all, 1, IN, NULL, SC_DTYPE_I8, &m, err));
    assert_null(m);
    free(whole);
    free(half);
    free(w);
    be->ops->close(be);
}

static void bad_shapes_are_refused(void **state)
{
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    float w[64] = {0};
    struct sc_matrix *m = NULL;
    struct sc_matrix_part part = {w, SC_DTYPE_F32, 8, 8, 0};
    (void)state;

    assert_fails(SC_EINVAL, be->ops->matrix_open(be, &part, 1, 0, NULL, SC_DTYPE_F32, &m, err));
    assert_fails(SC_EINVAL, be->ops->matrix_open(be, &part, 1, 9, NULL, SC_DTYPE_F32, &m, err));
    assert_fails(SC_EINVAL, be->ops->matrix_open(be, &part, 0, 8, NULL, SC_DTYPE_F32, &m, err));
    assert_fails(SC_ENOTSUP, be->ops->matrix_open(be, &part, 1, 8, NULL, SC_DTYPE_F16, &m, err));
    part.dtype = SC_DTYPE_I32;
    assert_fails(SC_ENOTSUP, be->ops->matrix_open(be, &part, 1, 8, NULL, SC_DTYPE_F32, &m, err));
    part.dtype = SC_DTYPE_F32;
    part.n_rows = (uint64_t)1 << 40;
    assert_fails(SC_EINVAL, be->ops->matrix_open(be, &part, 1, 8, NULL, SC_DTYPE_F32, &m, err));
    assert_null(m);
    part.n_rows = 8;
    assert_ok(be->ops->matrix_open(be, &part, 1, 8, NULL, SC_DTYPE_F32, &m, err));
    float *x = on_device(be, w, sizeof(w)), *y = on_device(be, w, sizeof(w));
    assert_fails(SC_EINVAL, be->ops->matmul(be, m, x, 7, y, 8, 2, err));
    assert_fails(SC_EINVAL, be->ops->matmul(be, m, x, 8, y, 7, 2, err));
    assert_ok(be->ops->matmul(be, m, x, 8, y, 8, 0, err));
    be->ops->matrix_close(be, m);
    be->ops->matrix_close(be, NULL);
    be->ops->free(be, x);
    be->ops->free(be, y);
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_are_stacked_and_columns_sliced),
        cmocka_unit_test(a_weight_that_is_not_finite_is_told),
        cmocka_unit_test(a_matrix_larger_than_the_staging_arrives_whole),
        cmocka_unit_test(int8_weights_do_not_depend_on_the_split),
        cmocka_unit_test(bad_shapes_are_refused),
    };
    skip_without_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
