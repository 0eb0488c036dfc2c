#include "tests/cpu/support.h"

struct problem {
    uint32_t n_in, n_out, n;
    enum sc_dtype source, store;
    bool bias;
    float *w, *b, *x;
    void *raw; /* w in the source type */
    struct sc_matrix *m;
};

static void make(struct problem *p, struct rng *r)
{
    size_t n_w = (size_t)p->n_in * p->n_out;
    p->w = random_floats(r, n_w);
    p->b = random_floats(r, p->n_out);
    p->x = random_floats(r, (size_t)p->n * p->n_in);
    p->raw = malloc(n_w * 4 + 1);
    for (size_t i = 0; i < n_w; i++) {
        uint16_t h = sc_f32_to_bf16(p->w[i]);
        if (p->source == SC_DTYPE_F32) {
            memcpy((char *)p->raw + 4 * i, &p->w[i], 4);
        } else {
            /* f16: these bits are some number; what counts is that we read the same one. */
            h = p->source == SC_DTYPE_F16 ? (uint16_t)(h & 0xbfffu) : h;
            memcpy((char *)p->raw + 2 * i, &h, 2);
            p->w[i] = p->source == SC_DTYPE_F16 ? sc_f16_to_f32(h) : sc_bf16_to_f32(h);
        }
        p->w[i] = to_dtype(p->w[i], p->store);
    }
    for (uint32_t o = 0; p->store == SC_DTYPE_I8 && o < p->n_out; o++) {
        float *w = p->w + (size_t)o * p->n_in, largest = 0.0f;
        for (uint32_t k = 0; k < p->n_in; k++)
            largest = fmaxf(largest, fabsf(w[k]));
        for (uint32_t k = 0; k < p->n_in && largest > 0.0f; k++)
            w[k] = rintf(w[k] / (largest / 127.0f)) * (largest / 127.0f);
    }
}

static void open_matrix(struct problem *p, struct sc_backend *be)
{
    struct sc_matrix_part part = {p->raw, p->source, p->n_out, p->n_in, 0};
    assert_ok(
        be->ops->matrix_open(be, &part, 1, p->n_in, p->bias ? p->b : NULL, p->store, &p->m, err));
}

static void drop(struct problem *p, struct sc_backend *be)
{
    be->ops->matrix_close(be, p->m);
    free(p->w);
    free(p->b);
    free(p->x);
    free(p->raw);
}

/* Rounding of a chain of k sums: each step adds at most 2^-24 of a partial sum, and those grow with
 * the root of k for random signs; with bf16 activations each product is off by up to 2^-9. */
static double tolerance(const struct problem *p, enum sc_cpu_isa isa, double magnitude)
{
    bool rounds = isa >= SC_CPU_ISA_AVX512BF16 && p->store != SC_DTYPE_F32;
    return magnitude * (rounds ? 0x1p-8 : 0x1p-23 * (2.0 + sqrt(p->n_in)));
}

static void check_problem(enum sc_cpu_isa isa, struct problem *p, struct rng *r)
{
    struct sc_backend *be = open_backend(isa, 2);
    uint32_t y_stride = p->n_out + 3;
    float *y = malloc((size_t)p->n * y_stride * sizeof(float));

    make(p, r);
    open_matrix(p, be);
    for (size_t i = 0; i < (size_t)p->n * y_stride; i++)
        y[i] = 77.0f;
    assert_ok(be->ops->matmul(be, p->m, p->x, p->n_in, y, y_stride, p->n, err));
    for (uint32_t i = 0; i < p->n; i++) {
        for (uint32_t o = 0; o < p->n_out; o++) {
            double want = 0.0, size = 0.0;
            for (uint32_t k = 0; k < p->n_in; k++) {
                double t = (double)p->w[(size_t)o * p->n_in + k] * p->x[(size_t)i * p->n_in + k];
                want += t;
                size += fabs(t);
            }
            if (p->bias) {
                want += p->b[o];
                size += fabs(p->b[o]);
            }
            float got = y[(size_t)i * y_stride + o];
            if (!(fabs(got - want) <= tolerance(p, isa, size)))
                fail_msg("%s [%u, %u] x %u: row %u output %u: %.9g, not %.9g", sc_cpu_isa_name(isa),
                         p->n_out, p->n_in, p->n, i, o, got, want);
        }
        for (uint32_t o = p->n_out; o < y_stride; o++)
            assert_true(y[(size_t)i * y_stride + o] == 77.0f);
    }
    free(y);
    drop(p, be);
    be->ops->close(be);
}

static void products_match_double_precision_on_odd_shapes(void **state)
{
    static const uint32_t shapes[][3] = {{1, 1, 1},    {7, 3, 2},     {64, 64, 6},  {65, 63, 7},
                                         {130, 65, 5}, {33, 200, 13}, {96, 129, 1}, {257, 70, 130},
                                         {48, 16, 3},  {1025, 66, 8}, {2050, 5, 7}};
    static const enum sc_dtype types[][2] = {
        {SC_DTYPE_F32, SC_DTYPE_F32},   {SC_DTYPE_F32, SC_DTYPE_BF16},
        {SC_DTYPE_BF16, SC_DTYPE_BF16}, {SC_DTYPE_BF16, SC_DTYPE_F32},
        {SC_DTYPE_F16, SC_DTYPE_F32},   {SC_DTYPE_BF16, SC_DTYPE_I8},
        {SC_DTYPE_F32, SC_DTYPE_I8}};
    struct rng r = {1};
    (void)state;
    announce_isas();
    FOR_EACH_ISA(isa)
    {
        for (size_t s = 0; s < SC_ARRAY_LEN(shapes); s++) {
            for (size_t t = 0; t < SC_ARRAY_LEN(types); t++) {
                struct problem p = {.n_in = shapes[s][0],
                                    .n_out = shapes[s][1],
                                    .n = shapes[s][2],
                                    .source = types[t][0],
                                    .store = types[t][1],
                                    .bias = (s + t) % 2 == 0};
                check_problem(isa, &p, &r);
            }
        }
    }
}

static void a_row_has_the_same_bits_alone_in_any_block_and_with_any_threads(void **state)
{
    enum { N = 391, IN = 1339, OUT = 147 };
    static const uint32_t starts[][2] = {{0, 1},    {5, 1},     {5, 2},  {3, 7},
                                         {100, 33}, {199, 192}, {390, 1}};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (enum sc_dtype store = SC_DTYPE_F32; store <= SC_DTYPE_I8; store++) {
            struct rng r = {2};
            struct problem p = {.n_in = IN, .n_out = OUT, .n = N, .bias = true};
            float *whole = malloc(sizeof(float) * N * OUT), *part = malloc(sizeof(float) * N * OUT);
            p.store = store;
            p.source = store == SC_DTYPE_F32 ? SC_DTYPE_F32 : SC_DTYPE_BF16;
            for (uint32_t threads = 1; threads <= 3; threads++) {
                struct sc_backend *be = open_backend(isa, threads);
                struct rng same = r;
                make(&p, &same);
                open_matrix(&p, be);
                if (threads == 1)
                    assert_ok(be->ops->matmul(be, p.m, p.x, IN, whole, OUT, N, err));
                assert_ok(be->ops->matmul(be, p.m, p.x, IN, part, OUT, N, err));
                assert_memory_equal(part, whole, sizeof(float) * N * OUT);
                for (size_t s = 0; s < SC_ARRAY_LEN(starts); s++) {
                    uint32_t at = starts[s][0], n = starts[s][1];
                    assert_ok(
                        be->ops->matmul(be, p.m, p.x + (size_t)at * IN, IN, part, OUT, n, err));
                    assert_memory_equal(part, whole + (size_t)at * OUT, sizeof(float) * n * OUT);
                }
                drop(&p, be);
                be->ops->close(be);
            }
            free(whole);
            free(part);
        }
    }
}

/* Where a kernel takes several panels while rows go by, a panel and a row come out as alone: runs
 * of three and four panels, the last one narrow, two slices, pairs of blocks and a rest. */
static void panels_together_give_the_bits_of_one(void **state)
{
    enum { N = 86, IN = 1100, OUT = 595 };
    float *whole = malloc(sizeof(float) * N * OUT), *alone = malloc(sizeof(float) * N * OUT);
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (int kind = 0; kind < 3; kind++) {
            struct rng r = {9};
            struct problem p = {.n_in = IN, .n_out = OUT, .n = N, .bias = true};
            const struct sc_backend_opts opts = {
                .n_ranks = 1, .n_threads = 1, .plain_weights = kind == 1};
            struct sc_backend *be = NULL;
            p.store = kind == 2 ? SC_DTYPE_I8 : SC_DTYPE_BF16;
            p.source = SC_DTYPE_BF16;
            assert_ok(sc_cpu_backend_open_isa(&opts, isa, &be, err));
            make(&p, &r);
            open_matrix(&p, be);
            assert_ok(be->ops->matmul(be, p.m, p.x, IN, whole, OUT, N, err));
            for (uint32_t i = 0; i < N; i += 2)
                assert_ok(be->ops->matmul(be, p.m, p.x + (size_t)i * IN, IN,
                                          alone + (size_t)i * OUT, OUT, 2, err));
            assert_memory_equal(whole, alone, sizeof(float) * N * OUT);
            drop(&p, be);
            be->ops->close(be);
        }
    }
    free(whole);
    free(alone);
}

/* The scale of a row is that of all its columns, so ranks that have some of them agree; the error
 * is told; weights that are no numbers are refused. */
static void int8_weights_do_not_depend_on_the_split(void **state)
{
    enum { IN = 192, OUT = 70 };
    struct rng r = {5};
    float *w = random_floats(&r, (size_t)IN * OUT), x[IN] = {0}, whole[OUT], half[OUT];
    double error2 = 0.0, norm2 = 0.0, want2 = 0.0;
    struct sc_matrix_part all = {w, SC_DTYPE_F32, OUT, IN, 0}, right = all;
    struct sc_matrix *m = NULL;
    struct sc_backend *be = open_backend(sc_cpu_isa_best(), 2);
    (void)state;

    for (uint32_t o = 0; o < OUT; o++)
        w[(size_t)o * IN + 3] *= 10.0f; /* the largest lies in the left half */
    right.col0 = IN / 2;
    x[IN / 2 + 7] = 1.0f; /* picks one weight of each row */
    assert_ok(be->ops->matrix_open(be, &all, 1, IN, NULL, SC_DTYPE_I8, &m, err));
    assert_ok(be->ops->matmul(be, m, x, IN, whole, OUT, 1, err));
    be->ops->matrix_error(m, &error2, &norm2);
    be->ops->matrix_close(be, m);
    assert_ok(be->ops->matrix_open(be, &right, 1, IN / 2, NULL, SC_DTYPE_I8, &m, err));
    assert_ok(be->ops->matmul(be, m, x + IN / 2, IN, half, OUT, 1, err));
    be->ops->matrix_close(be, m);
    assert_memory_equal(half, whole, sizeof(whole));
    for (uint32_t o = 0; o < OUT; o++) {
        float largest = 0.0f;
        for (uint32_t k = 0; k < IN; k++)
            largest = fmaxf(largest, fabsf(w[o * IN + k]));
        for (uint32_t k = 0; k < IN; k++) {
            float scale = largest / 127.0f;
            double e = (double)w[o * IN + k] - (double)rintf(w[o * IN + k] / scale) * scale;
            want2 += e * e;
        }
    }
    assert_true(fabs(error2 - want2) <= 1e-6 * want2);
    assert_true(error2 / norm2 > 1e-7 && error2 / norm2 < 1e-2);
    w[IN + 1] = NAN;
    assert_fails(SC_EINVAL, be->ops->matrix_open(be, &all, 1, IN, NULL, SC_DTYPE_I8, &m, err));
    free(w);
    be->ops->close(be);
}

/* In the columns that the matrix has; its neighbours in the source are of no concern. */
static void expect_finite(struct sc_backend *be, const struct sc_matrix_part *parts, uint32_t n_in,
                          enum sc_dtype store, bool want)
{
    struct sc_matrix *m = NULL;
    assert_ok(be->ops->matrix_open(be, parts, 2, n_in, NULL, store, &m, err));
    if (be->ops->matrix_is_finite(m) != want)
        fail_msg("%s kept as %s: %s", sc_dtype_name(parts[1].dtype), sc_dtype_name(store),
                 want ? "said to have a weight that is not finite" : "NaN or infinity not seen");
    be->ops->matrix_close(be, m);
}

static void a_weight_that_is_not_finite_is_told(void **state)
{
    enum { IN = 100, STRIDE = 160, COL0 = 30, OUT = 70 };
    static const struct {
        enum sc_dtype dtype;
        uint32_t bad[3], good;
    } types[] = {{SC_DTYPE_F32, {0x7fc00000, 0x7f800000, 0xff800001}, 0x3c000000},
                 {SC_DTYPE_BF16, {0x7fc0, 0x7f80, 0xff81}, 0x3c00},
                 {SC_DTYPE_F16, {0x7e00, 0x7c00, 0xfc01}, 0x3c00}};
    static const struct {
        uint32_t row, col;
        bool seen;
    } places[] = {{0, COL0, true},       {OUT - 1, COL0 + IN - 1, true}, {OUT / 2, COL0 + 50, true},
                  {3, COL0 - 1, false},  {66, COL0 + IN, false},         {OUT, COL0, false},
                  {63, COL0 + 63, true}, {64, COL0 + 64, true}};
    static uint8_t w[4 * STRIDE * (OUT + 1)];
    (void)state;
    for (size_t t = 0; t < 2 * SC_ARRAY_LEN(types); t++) {
        const size_t bytes = sc_dtype_bytes(types[t / 2].dtype);
        struct sc_backend_opts opts = {.n_threads = 2, .n_ranks = 1, .plain_weights = t % 2 != 0};
        struct sc_backend *be = NULL;
        const struct sc_matrix_part parts[] = {
            {w, types[t / 2].dtype, 7, STRIDE, COL0},
            {w + 7 * STRIDE * bytes, types[t / 2].dtype, OUT - 7, STRIDE, COL0}};
        assert_ok(sc_cpu_backend_open_isa(&opts, sc_cpu_isa_best(), &be, err));
        for (size_t i = 0; i < (size_t)STRIDE * (OUT + 1); i++)
            memcpy(w + i * bytes, &types[t / 2].good, bytes);
        for (size_t i = 0; i < SC_ARRAY_LEN(places); i++) {
            uint8_t *at = w + (places[i].row * STRIDE + places[i].col) * bytes;
            memcpy(at, &types[t / 2].bad[i % 3], bytes);
            expect_finite(be, parts, IN, SC_DTYPE_F32, !places[i].seen);
            expect_finite(be, parts, IN, SC_DTYPE_BF16, !places[i].seen);
            memcpy(at, &types[t / 2].good, bytes);
        }
        expect_finite(be, parts, IN, SC_DTYPE_BF16, true);
        be->ops->close(be);
    }
}

static void avx2_and_avx512_give_the_same_bits(void **state)
{
    enum { N = 9, IN = 1500, OUT = 100 };
    static float y[2][N * OUT];
    (void)state;
    if (sc_cpu_isa_best() < SC_CPU_ISA_AVX512)
        skip();
    for (int bf16 = 0; bf16 < 2; bf16++) {
        for (int i = 0; i < 2; i++) {
            struct sc_backend *be = open_backend(i ? SC_CPU_ISA_AVX512 : SC_CPU_ISA_AVX2, 1);
            struct rng r = {3};
            struct problem p = {.n_in = IN, .n_out = OUT, .n = N};
            p.source = p.store = bf16 ? SC_DTYPE_BF16 : SC_DTYPE_F32;
            make(&p, &r);
            open_matrix(&p, be);
            assert_ok(be->ops->matmul(be, p.m, p.x, IN, y[i], OUT, N, err));
            drop(&p, be);
            be->ops->close(be);
        }
        assert_memory_equal(y[0], y[1], sizeof(y[0]));
    }
}

/* [q; k; v] of one rank: row slices of three matrices, and a column slice for the output matrix. */
static void parts_are_stacked_and_columns_sliced(void **state)
{
    enum { IN = 37, STRIDE = 50, COL0 = 9 };
    struct rng r = {4};
    float *a = random_floats(&r, 20 * STRIDE), *b = random_floats(&r, 71 * STRIDE);
    float *x = random_floats(&r, IN), y[91];
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_backend(isa, 1);
        struct sc_matrix_part parts[2] = {{a, SC_DTYPE_F32, 20, STRIDE, COL0},
                                          {b, SC_DTYPE_F32, 71, STRIDE, COL0}};
        struct sc_matrix *m = NULL;
        assert_ok(be->ops->matrix_open(be, parts, 2, IN, NULL, SC_DTYPE_F32, &m, err));
        assert_ok(be->ops->matmul(be, m, x, IN, y, 91, 1, err));
        for (int o = 0; o < 91; o++) {
            const float *row = (o < 20 ? a + o * STRIDE : b + (o - 20) * STRIDE) + COL0;
            double want = 0.0;
            for (int k = 0; k < IN; k++)
                want += (double)row[k] * x[k];
            assert_true(fabs(y[o] - want) < 1e-4);
        }
        be->ops->matrix_close(be, m);
        be->ops->close(be);
    }
    free(a);
    free(b);
    free(x);
}

static void bad_shapes_are_refused(void **state)
{
    struct sc_backend *be = open_backend(SC_CPU_ISA_PLAIN, 1);
    float w[64] = {0}, y[64];
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
    assert_fails(SC_EINVAL, be->ops->matmul(be, m, w, 7, y, 8, 2, err));
    assert_fails(SC_EINVAL, be->ops->matmul(be, m, w, 8, y, 7, 2, err));
    assert_ok(be->ops->matmul(be, m, w, 8, y, 8, 0, err));
    be->ops->matrix_close(be, m);
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_match_double_precision_on_odd_shapes),
        cmocka_unit_test(a_row_has_the_same_bits_alone_in_any_block_and_with_any_threads),
        cmocka_unit_test(panels_together_give_the_bits_of_one),
        cmocka_unit_test(int8_weights_do_not_depend_on_the_split),
        cmocka_unit_test(a_weight_that_is_not_finite_is_told),
        cmocka_unit_test(avx2_and_avx512_give_the_same_bits),
        cmocka_unit_test(parts_are_stacked_and_columns_sliced),
        cmocka_unit_test(bad_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
