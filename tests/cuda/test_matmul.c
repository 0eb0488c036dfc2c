/* Products against the CPU twin, whose sums are f32 and whose activations are not rounded.
 *
 * Tolerances, relative to the norm of the result. DIRECT: f32 on both sides, sums of up to 4096
 * products in another order. TENSOR: the tensor cores cut the last bits of a sum after every few
 * products instead of rounding it, half a unit in the last place on average and always towards
 * zero. ROUNDED: activations lose all but 8 bits. */
#include "tests/cuda/products.h"

#define DIRECT_LIMIT       4e-6
#define LONG_LIMIT         6e-6 /* beyond 16384 summands, in another order */
#define TENSOR_LIMIT(n_in) (DIRECT_LIMIT + 1e-8 * (n_in))
#define ROUNDED_LIMIT      4e-3
#define FUSED_LIMIT        8e-3 /* gate and up are rounded too */

#define N_MAX  130u
#define FEW    4u /* rows that are read straight from the weights ... */
#define FEW_BF 1u /* ... where activations may be rounded and weights are not f32 */

/* x rows at a stride, NaN between them. */
static void fill(struct problem *p, struct rng *r, bool bias)
{
    p->raw = random_weights(r, (size_t)p->n_in * p->n_out, p->source);
    p->b = bias ? random_floats(r, p->n_out) : NULL;
    p->x = random_floats(r, (size_t)N_MAX * p->x_stride);
    for (uint32_t i = 0; i < N_MAX; i++) {
        for (uint32_t k = p->n_in; k < p->x_stride; k++)
            p->x[(size_t)i * p->x_stride + k] = NAN;
    }
}

static void expect(struct problem *p)
{
    struct sc_backend *cpu = open_backend(SC_CPU_ISA_PLAIN, 2);
    p->want = malloc((size_t)N_MAX * p->n_out * 4);
    struct sc_matrix *m = open_matrix(p, cpu);
    assert_ok(cpu->ops->matmul(cpu, m, p->x, p->x_stride, p->want, p->n_out, N_MAX, err));
    cpu->ops->matrix_close(cpu, m);
    cpu->ops->close(cpu);
}

static void make(struct problem *p, struct rng *r, bool bias)
{
    fill(p, r, bias);
    expect(p);
}

static void drop(struct problem *p)
{
    free(p->raw - 1);
    free(p->b);
    free(p->x);
    free(p->want);
}

static double limit(const struct problem *p, bool bf16, bool strict, uint32_t n)
{
    if (p->store == SC_DTYPE_F32 || (n <= (bf16 ? FEW_BF : FEW) && !strict))
        return p->n_in > 41000   ? 2 * LONG_LIMIT /* of a few results */
               : p->n_in > 16384 ? LONG_LIMIT
                                 : DIRECT_LIMIT;
    return bf16 ? ROUNDED_LIMIT : TENSOR_LIMIT(p->n_in);
}

/* Against the norm that such results have: a few of them may be small by chance. */
static double error_of(const float *got, const float *want, size_t n, double usual)
{
    double norm = 0.0, e = relative_error(got, want, n);
    for (size_t i = 0; i < n; i++)
        norm += (double)want[i] * want[i];
    if (norm == 0.0)
        return e / (usual * sqrt((double)n));
    return e * fmin(1.0, sqrt(norm) / (usual * sqrt((double)n)));
}

/* Every number of rows, at a dense and at an odd stride, twice with the same bits. */
static void check_problem(const struct backends *all, struct problem *p, bool bf16, bool strict,
                          double *worst)
{
    static const uint32_t rows[] = {1, 2, 3, 4, 5, 8, 12, 17, 33, 64, N_MAX};
    struct sc_backend *be = all->be[bf16][strict];
    struct sc_matrix *m = open_matrix(p, be);

    p->x_device = on_device(be, p->x, (size_t)N_MAX * p->x_stride * 4);
    for (size_t s = 0; s < SC_ARRAY_LEN(rows); s++) {
        const uint32_t n = rows[s], y_stride = p->n_out + (s % 2 == 0 ? 0 : 3);
        if (small_run() && (n == 4 || n == 8 || n > 17))
            continue; /* as 3, 5 and 17 rows are multiplied */
        if (stand_in() && n > 33)
            continue; /* those are its own */
        const double most = limit(p, bf16, strict, n);
        float *got = multiply(be, p, m, 0, n, y_stride);
        float *again = stand_in() ? NULL : multiply(be, p, m, 0, n, y_stride);
        double e = error_of(got, p->want, (size_t)n * p->n_out, sqrt(p->n_in));
        if (!(e <= most))
            fail_msg("[%u, %u] x %u, %s as %s, %s%s%s: relative error %g, limit %g", p->n_out,
                     p->n_in, n, sc_dtype_name(p->source), sc_dtype_name(p->store),
                     bf16 ? "bf16" : "f32", strict ? ", strict" : "", p->b != NULL ? ", bias" : "",
                     e, most);
        if (again != NULL)
            assert_memory_equal(got, again, (size_t)n * p->n_out * 4);
        size_t kind = most == DIRECT_LIMIT || most == LONG_LIMIT ? 0
                      : most == ROUNDED_LIMIT                    ? 2
                                                                 : 1;
        worst[kind] = e > worst[kind] ? e : worst[kind];
        free(got);
        free(again);
    }
    be->ops->matrix_close(be, m);
    be->ops->free(be, p->x_device);
}

static void products_are_those_of_the_cpu_on_odd_shapes(void **state)
{
    static const uint32_t shapes[][2] = {{1, 1},     {2, 2},     {30, 33},    {33, 30},
                                         {64, 100},  {100, 64},  {256, 1000}, {1000, 256},
                                         {4096, 67}, {67, 4096}, {14336, 40}, {41000, 9}};
    /* The last: a row that no shared memory holds. */
    static const uint32_t few[][2] = {{33, 30}, {64, 100}, {50000, 5}};
    static const enum sc_dtype types[][2] = {
        {SC_DTYPE_F32, SC_DTYPE_F32},   {SC_DTYPE_F32, SC_DTYPE_BF16},
        {SC_DTYPE_BF16, SC_DTYPE_BF16}, {SC_DTYPE_F16, SC_DTYPE_BF16},
        {SC_DTYPE_BF16, SC_DTYPE_F32},  {SC_DTYPE_BF16, SC_DTYPE_I8},
        {SC_DTYPE_F32, SC_DTYPE_I8},    {SC_DTYPE_F16, SC_DTYPE_F32}};
    struct rng r = {1};
    struct backends all = open_all();
    double worst[3] = {0.0};
    (void)state;
    for (size_t s = 0; s < (small_run() ? SC_ARRAY_LEN(few) : SC_ARRAY_LEN(shapes)); s++) {
        const uint32_t *shape = small_run() ? few[s] : shapes[s];
        for (size_t t = 0; t < SC_ARRAY_LEN(types); t++) {
            if (small_run() && t % 3 != s && (s != 2 || t != 0))
                continue; /* each pair of types with one of them */
            if (stand_in() && s > 5 && (s + t) % 2 != 0)
                continue; /* long ones with every other */
            struct problem p = {.n_in = shape[0],
                                .n_out = shape[1],
                                .x_stride = shape[0] + (uint32_t)(s + t) % 3 * 2,
                                .source = types[t][0],
                                .store = types[t][1]};
            make(&p, &r, (s + t) % 2 == 0);
            for (size_t i = 0; i < 3; i++) /* strict: each math every other time */
                check_problem(&all, &p, i < 2 ? i : (s + t) % 2, i == 2, worst);
            drop(&p);
        }
    }
    close_all(&all);
    printf("  worst: direct %.2e (limit %.0e), tensor cores %.2e (%.0e), rounded %.2e (%.0e)\n",
           worst[0], DIRECT_LIMIT, worst[1], TENSOR_LIMIT(4096), worst[2], ROUNDED_LIMIT);
}

static void strict_rows_have_the_same_bits_in_any_number(void **state)
{
    static const uint32_t spans[][2] = {{0, 1}, {129, 1}, {0, 7}, {5, 2}, {60, 64}, {3, 127}};
    static const uint32_t shapes[][2] = {{1339, 147}, {512, 1024}, {4096, 256}};
    struct rng r = {2};
    struct backends all = open_all();
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(shapes) * 6; i++) {
        enum sc_dtype store = (enum sc_dtype)(i % 3); /* F32, BF16, I8 */
        struct problem p = {.n_in = shapes[i / 6][0],
                            .n_out = shapes[i / 6][1],
                            .x_stride = shapes[i / 6][0],
                            .source = SC_DTYPE_F32,
                            .store = store};
        struct sc_backend *be = all.be[i % 6 < 3][1];
        make(&p, &r, i % 2 == 0);
        struct sc_matrix *m = open_matrix(&p, be);
        p.x_device = on_device(be, p.x, (size_t)N_MAX * p.x_stride * 4);
        float *whole = multiply(be, &p, m, 0, N_MAX, p.n_out);
        for (size_t s = 0; s < SC_ARRAY_LEN(spans); s++) {
            const uint32_t row0 = spans[s][0], n = spans[s][1];
            float *part = multiply(be, &p, m, row0, n, p.n_out);
            if (memcmp(part, whole + (size_t)row0 * p.n_out, (size_t)n * p.n_out * 4) != 0)
                fail_msg("[%u, %u] as %s: rows %u + %u differ from those among %u", p.n_out, p.n_in,
                         sc_dtype_name(store), row0, n, N_MAX);
            free(part);
        }
        free(whole);
        drop(&p);
        be->ops->matrix_close(be, m);
        be->ops->free(be, p.x_device);
    }
    close_all(&all);
}

/* More rows than are rounded at a time. */
static void long_prompts_go_in_pieces(void **state)
{
    enum { IN = 72, OUT = 40, N = 2 * 2048 + 3 };
    struct rng r = {3};
    struct problem p = {IN, OUT, IN, SC_DTYPE_BF16, SC_DTYPE_BF16, NULL, NULL, NULL, NULL, NULL};
    float *x = random_floats(&r, (size_t)N * IN), *want = malloc((size_t)N * OUT * 4);
    struct sc_backend *cpu = open_backend(SC_CPU_ISA_PLAIN, 2);
    (void)state;
    p.raw = random_weights(&r, IN * OUT, p.source);
    struct sc_matrix *m = open_matrix(&p, cpu);
    assert_ok(cpu->ops->matmul(cpu, m, x, IN, want, OUT, N, err));
    cpu->ops->matrix_close(cpu, m);
    for (int math = SC_MATH_F32; math <= SC_MATH_BF16; math++) {
        struct sc_backend *be = open_cuda((enum sc_math)math, math == SC_MATH_BF16);
        m = open_matrix(&p, be);
        p.x_device = on_device(be, x, (size_t)N * IN * 4);
        float *got = multiply(be, &p, m, 0, N, OUT + 4);
        assert_close("4099 rows", got, want, (size_t)N * OUT,
                     math == SC_MATH_F32 ? TENSOR_LIMIT(IN) : ROUNDED_LIMIT);
        free(got);
        be->ops->matrix_close(be, m);
        be->ops->free(be, p.x_device);
        be->ops->close(be);
    }
    cpu->ops->close(cpu);
    free(p.raw - 1);
    free(x);
    free(want);
}

static void a_product_with_swiglu_is_the_two_in_turn(void **state)
{
    static const uint32_t shapes[][2] = {{64, 33}, {30, 100}, {256, 1000}, {100, 2}};
    static const uint32_t few[][2] = {{64, 33}, {30, 100}, {50000, 8}};
    static const uint32_t rows[] = {1, 2, 3, 4, 5, 8, 9, 19, 64};
    struct rng r = {6};
    struct backends all = open_all();
    struct sc_backend *cpu = open_backend(SC_CPU_ISA_PLAIN, 2);
    (void)state;
    for (size_t i = 0; i < (small_run() ? SC_ARRAY_LEN(few) : SC_ARRAY_LEN(shapes)) * 12; i++) {
        const uint32_t *shape = small_run() ? few[i / 12] : shapes[i / 12];
        const uint32_t n_in = shape[0], ffn = shape[1];
        if (n_in == 50000 && i % 4 != 0)
            continue; /* one row of each type, by one math */
        const bool bf16 = i % 2, strict = i / 2 % 2;
        struct problem p = {.n_in = n_in, .n_out = 2 * ffn, .x_stride = n_in};
        struct sc_backend *be = all.be[bf16][strict];
        float *want = malloc((size_t)N_MAX * ffn * 4), *seven = NULL;
        p.source = SC_DTYPE_F32;
        p.store = (enum sc_dtype)(i / 4 % 3);
        make(&p, &r, i % 5 == 0);
        assert_ok(cpu->ops->swiglu(cpu, p.want, want, N_MAX, ffn, err));
        struct sc_matrix *m = open_matrix(&p, be);
        for (size_t s = 0; s < SC_ARRAY_LEN(rows); s++) {
            const double most = limit(&p, bf16, strict, rows[s]);
            if (small_run() &&
                (rows[s] == 4 || rows[s] == 8 || rows[s] > 9 || n_in * rows[s] > 50000))
                continue; /* as 3, 5 and 9 rows are multiplied, and several long ones one by one */
            float *got = run_swiglu(be, m, p.x, n_in, rows[s], ffn);
            double e = error_of(got, want, (size_t)rows[s] * ffn, 0.7 * n_in);
            if (!(e <= (most == ROUNDED_LIMIT ? FUSED_LIMIT : 2 * most)))
                fail_msg("[2 * %u, %u] x %u as %s, %s%s: relative error %g", ffn, n_in, rows[s],
                         sc_dtype_name(p.store), bf16 ? "bf16" : "f32", strict ? ", strict" : "",
                         e);
            free(got);
        }
        if (strict) {
            seven = run_swiglu(be, m, p.x, n_in, 7, ffn);
            for (uint32_t row = 0; row < 7; row += 3) {
                float *one = run_swiglu(be, m, p.x + (size_t)row * n_in, n_in, 1, ffn);
                assert_memory_equal(one, seven + (size_t)row * ffn, ffn * sizeof(float));
                free(one);
            }
        }
        assert_fails(SC_EINVAL,
                     be->ops->matmul_swiglu(be, m, p.x, want, want, 1, ffn + 1, NULL, err));
        be->ops->matrix_close(be, m);
        drop(&p);
        free(want);
        free(seven);
    }
    cpu->ops->close(cpu);
    close_all(&all);
}

/* The rows of a call against those of other calls (the first call gives them; bits: NULL, more
 * than a few, not against those) and of the CPU. */
static void check_few(const struct problem *p, const char *what, const float *got, float *bits,
                      uint32_t row0, uint32_t n, uint32_t width, const float *want, double usual)
{
    /* Beyond them gate and up of swiglu may pass through bf16. */
    const double most = bits == NULL ? FUSED_LIMIT : 2 * TENSOR_LIMIT(p->n_in),
                 e = error_of(got, want + (size_t)row0 * width, (size_t)n * width, usual);
    if (!(e <= most))
        fail_msg("[%u, %u] x %u, %s: relative error %g, limit %g", p->n_out, p->n_in, n, what, e,
                 most);
    for (uint32_t i = 0; i < n && n > FEW_BF && bits != NULL; i++) {
        float *row = bits + (size_t)(row0 + i) * width;
        if (isnan(row[0]))
            memcpy(row, got + (size_t)i * width, width * 4);
        if (memcmp(row, got + (size_t)i * width, width * 4) != 0)
            fail_msg("[%u, %u], %s: row %u differs among rows %u + %u", p->n_out, p->n_in, what,
                     row0 + i, row0, n);
    }
}

/* Adds to rows what multiply gave; dense. most: rows that go to kernels of few, at most. */
static void check_added(struct sc_backend *be, struct sc_matrix *m, const struct problem *p,
                        uint32_t row0, uint32_t n, uint32_t most, const float *got)
{
    const size_t size = (size_t)n * p->n_out;
    float *resid = on_device(be, p->want, size * 4 + 4), *delta = on_device(be, NULL, size * 4);
    bool added = false;
    const struct sc_matmul_add_args args = {
        m, p->x_device + (size_t)row0 * p->x_stride, delta, resid, n, NULL, NULL};
    assert_ok(be->ops->matmul_add(be, &args, &added, err));
    assert_true(added || n > most);
    float *sum = from_device(be, resid, size * 4 + 4);
    for (size_t i = 0; i <= size; i++) {
        const volatile float want = p->want[i] + (i < size && added ? got[i] : 0.0f);
        if (sum[i] != want)
            fail_msg("[%u, %u] x %u: %g + %g is %g at %zu", p->n_out, p->n_in, n, p->want[i],
                     got[i], sum[i], i);
    }
    be->ops->free(be, resid);
    be->ops->free(be, delta);
    free(sum);
}

/* Rows that bf16 holds, so that nothing but the order of sums is between the two: counts of rows,
 * from several on. */
static void check_few_of(struct sc_backend *be, struct sc_backend *cpu, struct rng *r,
                         struct problem p, bool bias, const uint32_t *counts, size_t n_counts)
{
    const bool i8 = p.store == SC_DTYPE_I8;
    const uint32_t rows = i8 ? 35 : 19, n_out = p.n_out, ffn = n_out / 2;
    const uint32_t most = most_few(be, p.store);
    const size_t size = (size_t)(rows + 1) * n_out;
    float *bits = malloc(size * 4), *gated = malloc(size * 4), *want = malloc(size * 4);

    fill(&p, r, bias);
    for (size_t i = 0; i < (size_t)N_MAX * p.n_in; i++)
        p.x[i] = sc_bf16_to_f32(sc_f32_to_bf16(p.x[i]));
    expect(&p);
    if (n_out % 2 == 0)
        assert_ok(cpu->ops->swiglu(cpu, p.want, want, rows, ffn, err));
    memset(bits, 0xff, size * 4);
    memset(gated, 0xff, size * 4);
    struct sc_matrix *m = open_matrix(&p, be);
    p.x_device = on_device(be, p.x, (size_t)N_MAX * p.n_in * 4);
    for (size_t c = 0; c < n_counts; c++) {
        const uint32_t n = counts[c];
        for (uint32_t row0 = 0; row0 + n <= (small_run() ? n : rows); row0 += i8      ? 7
                                                                              : n > 8 ? 3
                                                                                      : 5) {
            float *got = multiply(be, &p, m, row0, n, n_out + row0);
            const bool same = n <= most;
            check_added(be, m, &p, row0, n, most, got);
            check_few(&p, "alone", got, same ? bits : NULL, row0, n, n_out, p.want, sqrt(p.n_in));
            free(got);
            if (n_out % 2 != 0)
                continue;
            got = run_swiglu(be, m, p.x + (size_t)row0 * p.n_in, p.n_in, n, ffn);
            check_few(&p, "swiglu", got, same ? gated : NULL, row0, n, ffn, want, 0.7 * p.n_in);
            free(got);
        }
    }
    be->ops->matrix_close(be, m);
    be->ops->free(be, p.x_device);
    drop(&p);
    free(bits);
    free(gated);
    free(want);
}

/* Shapes: a tile and parts of one; groups of one, two and three tiles, one a block or several;
 * fewer columns than a step, and steps that end within a row's last piece. */
static void check_company(enum sc_dtype store, uint64_t seed, const uint32_t *counts,
                          size_t n_counts)
{
    static const uint32_t shapes[][2] = {{1, 1},     {8, 16},    {30, 9},    {64, 34},
                                         {72, 65},   {200, 95},  {520, 144}, {1000, 190},
                                         {513, 300}, {4104, 98}, {40, 2000}, {14336, 22}};
    struct rng r = {seed};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false),
                      *cpu = open_backend(SC_CPU_ISA_PLAIN, 2);
    for (size_t s = 0; s < 2 * SC_ARRAY_LEN(shapes); s++) {
        const uint32_t n_in = shapes[s / 2][0], n_out = shapes[s / 2][1];
        const struct problem p = {n_in, n_out, n_in, SC_DTYPE_BF16, store,
                                  NULL, NULL,  NULL, NULL,          NULL};
        check_few_of(be, cpu, &r, p, s % 2, counts, n_counts);
    }
    cpu->ops->close(cpu);
    be->ops->close(be);
}

static void a_few_rows_have_the_same_bits_in_any_company(void **state)
{
    static const uint32_t counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16};
    (void)state;
    check_company(SC_DTYPE_BF16, 10, counts, SC_ARRAY_LEN(counts));
}

static void by_int8_a_few_rows_have_the_same_bits_in_any_company(void **state)
{
    static const uint32_t counts[] = {1, 2, 3, 5, 8, 9, 11, 16, 17, 25, 32};
    (void)state;
    check_company(SC_DTYPE_I8, 12, counts, SC_ARRAY_LEN(counts));
}

/* Short, for those that watch the order of what is read and written. */
static void groups_of_a_block_follow_each_other(void **state)
{
    static const uint32_t counts[] = {4, 12, 20};
    struct rng r = {11};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false),
                      *cpu = open_backend(SC_CPU_ISA_PLAIN, 2);
    struct problem p = {1040, 450,  1040, SC_DTYPE_BF16, SC_DTYPE_BF16,
                        NULL, NULL, NULL, NULL,          NULL};
    (void)state;
    p.n_out = small_run() ? 50 : 450;
    check_few_of(be, cpu, &r, p, true, counts, 2);
    p.store = SC_DTYPE_I8;
    check_few_of(be, cpu, &r, p, true, counts, small_run() ? 2 : 3);
    cpu->ops->close(cpu);
    be->ops->close(be);
}

/* As tiles are shared out on the 132 multiprocessors of an H100 or H200: groups of one, two and
 * three, one a block; then several a block. */
static void tiles_of_many_results_are_grouped(void **state)
{
    static const uint32_t counts[] = {4, 12};
    static const uint32_t n_outs[] = {2130, 130, 4300, 6400, 9000};
    struct rng r = {12};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false),
                      *cpu = open_backend(SC_CPU_ISA_PLAIN, 2);
    (void)state;
    for (size_t i = 0; i < 2 * SC_ARRAY_LEN(n_outs); i += small_run() ? 3 : 1) {
        const struct problem p = {
            72,   n_outs[i / 2], 72,   SC_DTYPE_BF16, i % 2 ? SC_DTYPE_I8 : SC_DTYPE_BF16,
            NULL, NULL,          NULL, NULL,          NULL};
        check_few_of(be, cpu, &r, p, i % 4 < 2, counts, SC_ARRAY_LEN(counts));
    }
    cpu->ops->close(cpu);
    be->ops->close(be);
}

/* Columns that a row does not have are not those of the row behind it. */
static void a_row_that_is_no_number_spoils_no_other(void **state)
{
    enum { N = 3, OUT = 40 };
    static const uint32_t widths[] = {8, 40, 72, 200, 1000};
    struct rng r = {13};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false);
    (void)state;
    for (size_t i = 0; i < 2 * SC_ARRAY_LEN(widths); i++) {
        const uint32_t n_in = widths[i / 2];
        struct problem p = {n_in, OUT,  n_in, SC_DTYPE_BF16, i % 2 ? SC_DTYPE_I8 : SC_DTYPE_BF16,
                            NULL, NULL, NULL, NULL,          NULL};
        fill(&p, &r, false);
        struct sc_matrix *m = open_matrix(&p, be);
        p.x_device = on_device(be, p.x, (size_t)N * n_in * 4);
        float *want = multiply(be, &p, m, 0, N, OUT);
        be->ops->free(be, p.x_device);
        for (uint32_t k = 0; k < n_in; k++)
            p.x[n_in + k] = NAN;
        p.x_device = on_device(be, p.x, (size_t)N * n_in * 4);
        float *got = multiply(be, &p, m, 0, N, OUT);
        for (uint32_t row = 0; row < N; row += 2)
            assert_memory_equal(got + (size_t)row * OUT, want + (size_t)row * OUT, OUT * 4);
        assert_true(isnan(got[OUT]) && isnan(got[2 * OUT - 1]));
        be->ops->matrix_close(be, m);
        be->ops->free(be, p.x_device);
        drop(&p);
        free(want);
        free(got);
    }
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_those_of_the_cpu_on_odd_shapes),
        cmocka_unit_test(strict_rows_have_the_same_bits_in_any_number),
        cmocka_unit_test(long_prompts_go_in_pieces),
        cmocka_unit_test(a_product_with_swiglu_is_the_two_in_turn),
        cmocka_unit_test(a_few_rows_have_the_same_bits_in_any_company),
        cmocka_unit_test(by_int8_a_few_rows_have_the_same_bits_in_any_company),
        cmocka_unit_test(groups_of_a_block_follow_each_other),
        cmocka_unit_test(tiles_of_many_results_are_grouped),
        cmocka_unit_test(a_row_that_is_no_number_spoils_no_other),
    };
    skip_without_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
