/* Operations in the order in which a layer calls them: what one leaves for the next (the bf16 image
 * of rows, sums that are still to be added) changes no bit. */
#include "tests/cuda/products.h"

#define FEW          4u   /* rows that are multiplied as they are, at most ... */
#define FEW_BF       1u   /* ... where activations may be rounded and weights are not f32 */
#define SCALED_LIMIT 1e-6 /* of sums of 128 and 352 products */
#define TWIN_LIMIT   1e-5 /* of 264 and 600, in another order */

/* A product that finds its activations rounded gives what one gives that rounds them itself. */
static void an_image_left_by_norm_or_swiglu_changes_no_bit(void **state)
{
    static const uint32_t dims[] = {256, 1000, 100}; /* 100 leaves none */
    enum { OUT = 96 };
    struct rng r = {4};
    struct backends all = open_all();
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(dims) * 8; i++) {
        const uint32_t dim = dims[i / 8], n = i % 2 ? 17 : 3;
        const size_t bytes = (size_t)n * dim * 4;
        struct problem p = {
            dim,  OUT,  dim,  SC_DTYPE_BF16, i / 4 % 2 ? SC_DTYPE_I8 : SC_DTYPE_BF16,
            NULL, NULL, NULL, NULL,          NULL};
        struct sc_backend *be = all.be[1][i % 4 < 2];
        float *x = random_floats(&r, (size_t)2 * n * dim), *w = random_floats(&r, dim);
        p.raw = random_weights(&r, (size_t)dim * OUT, p.source);
        struct sc_matrix *m = open_matrix(&p, be);
        float *in = on_device(be, x, 2 * bytes), *dw = on_device(be, w, dim * 4);
        float *y = on_device(be, NULL, bytes);
        void *out = on_device(be, NULL, (size_t)n * OUT * 4);
        struct sc_norm_args norm = {in, NULL, dw, y, n, dim, 1e-5f, NULL};
        for (int op = 0; op < 2; op++) {
            if (op == 0)
                assert_ok(be->ops->norm(be, &norm, err));
            else
                assert_ok(be->ops->swiglu(be, in, y, n, dim, err));
            assert_ok(be->ops->matmul(be, m, y, dim, out, OUT, n, err));
            float *got = from_device(be, out, (size_t)n * OUT * 4),
                  *host = from_device(be, y, bytes);
            p.x_device = on_device(be, host, bytes);
            float *want = multiply(be, &p, m, 0, n, OUT);
            assert_memory_equal(got, want, (size_t)n * OUT * 4);
            be->ops->free(be, p.x_device);
            free(got);
            free(host);
            free(want);
        }
        be->ops->matrix_close(be, m);
        be->ops->free(be, in);
        be->ops->free(be, dw);
        be->ops->free(be, y);
        be->ops->free(be, out);
        free(p.raw - 1);
        free(x);
        free(w);
    }
    close_all(&all);
}

/* What an upload, or another operation, put where a norm's result was. */
static void an_image_of_rows_that_changed_is_not_used(void **state)
{
    enum { DIM = 64, OUT = 32, N = 9 };
    struct rng r = {5};
    struct problem p = {DIM, OUT, DIM, SC_DTYPE_BF16, SC_DTYPE_BF16, NULL, NULL, NULL, NULL, NULL};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false);
    float *x = random_floats(&r, N * DIM), *other = random_floats(&r, N * DIM);
    float *w = random_floats(&r, DIM);
    (void)state;
    p.raw = random_weights(&r, DIM * OUT, p.source);
    struct sc_matrix *m = open_matrix(&p, be);
    float *in = on_device(be, x, N * DIM * 4), *dw = on_device(be, w, DIM * 4);
    float *y = on_device(be, NULL, N * DIM * 4), *from = on_device(be, other, N * DIM * 4);
    struct sc_norm_args norm = {in, NULL, dw, y, N, DIM, 1e-5f, NULL};
    p.x_device = from;
    float *want = multiply(be, &p, m, 0, N, OUT);
    p.x_device = y;
    assert_ok(be->ops->norm(be, &norm, err));
    assert_ok(be->ops->upload(be, y, other, N * DIM * 4, err));
    float *got = multiply(be, &p, m, 0, N, OUT);
    assert_memory_equal(got, want, N * OUT * 4);
    free(got);
    void *out = on_device(be, NULL, N * OUT * 4);
    assert_ok(be->ops->norm(be, &norm, err));
    assert_ok(be->ops->copy(be, y, from, N * DIM * 4, err));
    assert_ok(be->ops->matmul(be, m, y, DIM, out, OUT, N, err));
    got = from_device(be, out, N * OUT * 4);
    assert_memory_equal(got, want, N * OUT * 4);
    free(got);
    struct problem wide = {4 * DIM, 8,    4 * DIM, SC_DTYPE_F32, SC_DTYPE_BF16,
                           NULL,    NULL, NULL,    NULL,         NULL};
    wide.raw = random_weights(&r, 4 * DIM * 8, wide.source);
    assert_ok(be->ops->norm(be, &norm, err));
    struct sc_matrix *grown = open_matrix(&wide, be); /* images move to where there is more room */
    assert_ok(be->ops->matmul(be, m, y, DIM, out, OUT, N, err));
    float *host = from_device(be, y, N * DIM * 4), *after = from_device(be, out, N * OUT * 4);
    p.x_device = on_device(be, host, N * DIM * 4);
    got = multiply(be, &p, m, 0, N, OUT);
    assert_memory_equal(got, after, N * OUT * 4);
    be->ops->matrix_close(be, grown);
    be->ops->free(be, p.x_device);
    free(wide.raw - 1);
    free(host);
    free(after);
    be->ops->free(be, out);
    be->ops->free(be, in);
    be->ops->free(be, dw);
    be->ops->free(be, y);
    be->ops->free(be, from);
    be->ops->matrix_close(be, m);
    be->ops->close(be);
    free(got);
    free(want);
    free(x);
    free(other);
    free(w);
    free(p.raw - 1);
}

/* gate_up, swiglu and down in turn, as a layer does: the images are taken over. */
static void layer_in_turn(enum sc_dtype store, uint32_t n)
{
    enum { DIM = 128, FFN = 352 };
    struct rng r = {7};
    struct problem up = {DIM, 2 * FFN, DIM, SC_DTYPE_BF16, store, NULL, NULL, NULL, NULL, NULL};
    struct problem down = {FFN, DIM, FFN, SC_DTYPE_BF16, store, NULL, NULL, NULL, NULL, NULL};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false);
    float *x = random_floats(&r, n * DIM), *w = random_floats(&r, DIM);
    up.raw = random_weights(&r, 2 * FFN * DIM, up.source);
    down.raw = random_weights(&r, FFN * DIM, down.source);
    struct sc_matrix *m_up = open_matrix(&up, be), *m_down = open_matrix(&down, be);
    float *in = on_device(be, x, n * DIM * 4), *dw = on_device(be, w, DIM * 4);
    float *y = on_device(be, NULL, n * DIM * 4), *act = on_device(be, NULL, n * FFN * 4);
    float *scratch = on_device(be, NULL, n * 2 * FFN * 4), *out = on_device(be, NULL, n * DIM * 4);
    struct sc_norm_args norm = {in, NULL, dw, y, n, DIM, 1e-5f, NULL};
    assert_ok(be->ops->norm(be, &norm, err));
    assert_ok(be->ops->matmul_swiglu(be, m_up, y, scratch, act, n, FFN, NULL, err));
    assert_ok(be->ops->matmul(be, m_down, act, FFN, out, DIM, n, err));
    float *got = from_device(be, out, n * DIM * 4), *host = from_device(be, y, n * DIM * 4);
    float *host_act = run_swiglu(be, m_up, host, DIM, n, FFN);
    down.x_device = on_device(be, host_act, n * FFN * 4);
    float *want = multiply(be, &down, m_down, 0, n, DIM);
    assert_memory_equal(got, want, n * DIM * 4);
    void *mems[] = {in, dw, y, act, scratch, out, down.x_device};
    for (size_t i = 0; i < SC_ARRAY_LEN(mems); i++)
        be->ops->free(be, mems[i]);
    be->ops->matrix_close(be, m_up);
    be->ops->matrix_close(be, m_down);
    be->ops->close(be);
    free(got);
    free(host);
    free(host_act);
    free(want);
    free(x);
    free(w);
    free(up.raw - 1);
    free(down.raw - 1);
}

static void a_layer_in_turn_gives_what_its_steps_give(void **state)
{
    (void)state;
    layer_in_turn(SC_DTYPE_BF16, 21);
    layer_in_turn(SC_DTYPE_I8, 12);
    layer_in_turn(SC_DTYPE_I8, 21);
}

/* The second half of a layer from resid on; told: whoever makes rows knows their only reader, and
 * the sum is added by whom the backend likes. */
static float *half_a_layer(struct sc_backend *be, struct sc_matrix *up, struct sc_matrix *down,
                           const float *x, const float *w, uint32_t n, uint32_t dim, uint32_t ffn,
                           bool told)
{
    const size_t bytes = (size_t)n * dim * 4;
    float *resid = on_device(be, x, bytes), *dw = on_device(be, w, dim * 4);
    float *y = on_device(be, NULL, bytes), *delta = on_device(be, NULL, bytes);
    float *act = on_device(be, NULL, (size_t)n * ffn * 4);
    float *scratch = on_device(be, NULL, (size_t)2 * n * ffn * 4);
    struct sc_norm_args norm = {resid, NULL, dw, y, n, dim, 1e-5f, told ? up : NULL};
    bool added = false;

    assert_ok(be->ops->norm(be, &norm, err));
    assert_ok(be->ops->matmul_swiglu(be, up, y, scratch, act, n, ffn, told ? down : NULL, err));
    const struct sc_matmul_add_args add = {down, act, delta, resid, n, NULL, NULL};
    if (told)
        assert_ok(be->ops->matmul_add(be, &add, &added, err));
    else
        assert_ok(be->ops->matmul(be, down, act, ffn, delta, dim, n, err));
    norm = (struct sc_norm_args){.resid = resid, .delta = delta, .n_rows = n, .dim = dim};
    if (!added)
        assert_ok(be->ops->norm(be, &norm, err));
    float *got = from_device(be, resid, bytes);
    void *mems[] = {resid, dw, y, delta, act, scratch};
    for (size_t i = 0; i < SC_ARRAY_LEN(mems); i++)
        be->ops->free(be, mems[i]);
    return got;
}

static void who_reads_and_who_adds_changes_nothing(void **state)
{
    enum { N = 33, DIM_MAX = 2048 };
    static const uint32_t rows[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 21, N};
    static const uint32_t dims[][2] = {{128, 352}, {30, 33}, {DIM_MAX, 40}};
    struct rng r = {8};
    struct backends all = open_all();
    float *x = random_floats(&r, N * DIM_MAX), *w = random_floats(&r, DIM_MAX);
    (void)state;
    for (size_t i = 0; i < 12 * SC_ARRAY_LEN(dims); i++) {
        const uint32_t dim = dims[i / 12][0], ffn = dims[i / 12][1];
        const enum sc_dtype store =
            (enum sc_dtype[]){SC_DTYPE_F32, SC_DTYPE_BF16, SC_DTYPE_I8}[i / 4 % 3];
        struct problem up = {dim, 2 * ffn, dim, SC_DTYPE_BF16, store, NULL, NULL, NULL, NULL, NULL};
        struct problem down = {ffn, dim, ffn, SC_DTYPE_BF16, store, NULL, NULL, NULL, NULL, NULL};
        struct sc_backend *be = all.be[i % 2][i / 2 % 2];
        const bool scarce = most_few(all.be[1][0], store) == 0; /* shared memory */
        const uint32_t few = i % 2 && store != SC_DTYPE_F32 && !scarce ? FEW_BF : FEW;
        /* A small run leaves out what a library multiplies, and bf16 math where it differs only
         * in that. */
        if (small_run() && (i / 2 % 2 || dim == DIM_MAX || (i % 2 && store != SC_DTYPE_BF16)))
            continue;
        up.raw = random_weights(&r, (size_t)2 * ffn * dim, up.source);
        down.raw = random_weights(&r, (size_t)ffn * dim, down.source);
        struct sc_matrix *m_up = open_matrix(&up, be), *m_down = open_matrix(&down, be);
        for (size_t s = 0; s < SC_ARRAY_LEN(rows); s++) {
            if (small_run() &&
                (rows[s] == 3 || rows[s] == 8 || rows[s] > (few == FEW_BF ? 9 : FEW)))
                continue;
            float *want = half_a_layer(be, m_up, m_down, x, w, rows[s], dim, ffn, false);
            float *got = half_a_layer(be, m_up, m_down, x, w, rows[s], dim, ffn, true);
            /* A few rows may be scaled before they are summed or afterwards. */
            if (rows[s] > few || i / 2 % 2)
                assert_memory_equal(got, want, (size_t)rows[s] * dim * 4);
            else if (relative_error(got, want, (size_t)rows[s] * dim) > SCALED_LIMIT)
                fail_msg("%u rows: relative error %g", rows[s],
                         relative_error(got, want, (size_t)rows[s] * dim));
            free(got);
            free(want);
        }
        be->ops->matrix_close(be, m_up);
        be->ops->matrix_close(be, m_down);
        free(up.raw - 1);
        free(down.raw - 1);
    }
    close_all(&all);
    free(x);
    free(w);
}

static float *half_on_the_cpu(struct sc_backend *cpu, struct sc_matrix *up, struct sc_matrix *down,
                              const float *x, const float *w, uint32_t n, uint32_t dim,
                              uint32_t ffn)
{
    const size_t size = (size_t)n * dim;
    float *resid = malloc(size * 4), *y = malloc(size * 4), *delta = malloc(size * 4);
    float *both = malloc((size_t)2 * n * ffn * 4), *act = malloc((size_t)n * ffn * 4);
    const struct sc_norm_args first = {resid, NULL, w, y, n, dim, 1e-5f, NULL};
    const struct sc_norm_args last = {.resid = resid, .delta = delta, .n_rows = n, .dim = dim};

    memcpy(resid, x, size * 4);
    assert_ok(cpu->ops->norm(cpu, &first, err));
    assert_ok(cpu->ops->matmul(cpu, up, y, dim, both, 2 * ffn, n, err));
    assert_ok(cpu->ops->swiglu(cpu, both, act, n, ffn, err));
    assert_ok(cpu->ops->matmul(cpu, down, act, ffn, delta, dim, n, err));
    assert_ok(cpu->ops->norm(cpu, &last, err));
    free(y);
    free(delta);
    free(both);
    free(act);
    return resid;
}

/* Against the CPU, in as few launches as there are kernels: a racecheck takes seconds for each. A
 * block has several results, warps share them; the kernels make the norm's rows and add. */
static void check_weights(enum sc_dtype store)
{
    enum { N = 4, DIM = 264, FFN = 600 };
    static const uint32_t rows[] = {1, 2, N};
    struct rng r = {10};
    struct problem up = {DIM, 2 * FFN, DIM, SC_DTYPE_BF16, store, NULL, NULL, NULL, NULL, NULL};
    struct problem down = {FFN, DIM, FFN, SC_DTYPE_BF16, store, NULL, NULL, NULL, NULL, NULL};
    struct sc_backend *be = open_cuda(SC_MATH_F32, false), *cpu = open_backend(SC_CPU_ISA_PLAIN, 2);
    float *x = random_floats(&r, N * DIM), *w = random_floats(&r, DIM);

    up.raw = random_weights(&r, 2 * FFN * DIM, up.source);
    down.raw = random_weights(&r, FFN * DIM, down.source);
    struct sc_matrix *m_up = open_matrix(&up, be), *m_down = open_matrix(&down, be);
    struct sc_matrix *twin_up = open_matrix(&up, cpu), *twin_down = open_matrix(&down, cpu);
    for (size_t s = 0; s < SC_ARRAY_LEN(rows); s++) {
        float *got = half_a_layer(be, m_up, m_down, x, w, rows[s], DIM, FFN, true);
        float *want = half_on_the_cpu(cpu, twin_up, twin_down, x, w, rows[s], DIM, FFN);
        assert_close(sc_dtype_name(store), got, want, (size_t)rows[s] * DIM, TWIN_LIMIT);
        free(got);
        free(want);
    }
    be->ops->matrix_close(be, m_up);
    be->ops->matrix_close(be, m_down);
    cpu->ops->matrix_close(cpu, twin_up);
    cpu->ops->matrix_close(cpu, twin_down);
    be->ops->close(be);
    cpu->ops->close(cpu);
    free(up.raw - 1);
    free(down.raw - 1);
    free(x);
    free(w);
}

static void weights_of_f32_meet_a_few_rows(void **state)
{
    (void)state;
    check_weights(SC_DTYPE_F32);
}

static void weights_of_bf16_meet_a_few_rows(void **state)
{
    (void)state;
    check_weights(SC_DTYPE_BF16);
}

static void weights_of_int8_meet_a_few_rows(void **state)
{
    (void)state;
    check_weights(SC_DTYPE_I8);
}

static void check_refused(enum sc_dtype store)
{
    enum { DIM = 64, OUT = 32, N = 9 };
    struct rng r = {9};
    struct problem p = {DIM, OUT, DIM, SC_DTYPE_BF16, store, NULL, NULL, NULL, NULL, NULL};
    struct problem wide = p;
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false);
    float *x = random_floats(&r, N * DIM), *w = random_floats(&r, DIM);
    p.raw = random_weights(&r, DIM * OUT, p.source);
    wide.raw = random_weights(&r, DIM * OUT, p.source);
    wide.store = SC_DTYPE_F32;
    struct sc_matrix *m = open_matrix(&p, be), *f32 = open_matrix(&wide, be);
    float *in = on_device(be, x, N * DIM * 4), *dw = on_device(be, w, DIM * 4);
    float *y = on_device(be, NULL, N * DIM * 4), *out = on_device(be, NULL, N * OUT * 4);
    struct sc_norm_args norm = {in, NULL, dw, y, N, DIM, 1e-5f, m};
    const struct sc_matmul_add_args add = {m, y, out, out, N, NULL, NULL};
    bool added;

    assert_ok(be->ops->norm(be, &norm, err));
    assert_fails(SC_EINVAL, be->ops->matmul(be, f32, y, DIM, out, OUT, N, err));
    assert_fails(SC_EINVAL, be->ops->matmul(be, m, y, DIM, out, OUT, 1, err));
    assert_ok(be->ops->matmul(be, m, y, DIM, out, OUT, N, err));
    assert_fails(SC_EINVAL, be->ops->matmul(be, m, y, DIM, out, OUT, N, err));
    assert_fails(SC_EINVAL, be->ops->matmul_add(be, &add, &added, err));
    assert_ok(be->ops->upload(be, y, x, N * DIM * 4, err)); /* whole again */
    assert_ok(be->ops->matmul(be, f32, y, DIM, out, OUT, N, err));
    assert_ok(be->ops->norm(be, &norm, err));
    assert_ok(be->ops->copy(be, y, in, N * DIM * 4, err)); /* so they are here */
    assert_ok(be->ops->matmul(be, f32, y, DIM, out, OUT, N, err));
    assert_ok(be->ops->norm(be, &norm, err));
    norm.next = NULL;
    assert_ok(be->ops->norm(be, &norm, err));
    assert_ok(be->ops->matmul(be, f32, y, DIM, out, OUT, N, err));
    norm.next = m; /* of a few rows nothing at all is made */
    norm.n_rows = 1;
    for (int i = 0; i < 3; i++) {
        assert_ok(be->ops->norm(be, &norm, err));
        if (i == 0) /* another call came between */
            assert_ok(be->ops->copy(be, out, in, OUT * 4, err));
        if (i == 2)
            assert_ok(be->ops->matmul(be, m, y, DIM, out, OUT, 1, err));
        else
            assert_fails(SC_EINVAL,
                         be->ops->matmul(be, i == 1 ? f32 : m, y, DIM, out, OUT, 1, err));
    }
    assert_ok(be->ops->norm(be, &norm, err)); /* into rows that others have yet to read */
    assert_fails(SC_EINVAL, be->ops->matmul(be, m, y, DIM, in, OUT, 1, err));
    /* One row may come with any stride. */
    assert_ok(be->ops->norm(be, &norm, err));
    assert_ok(be->ops->matmul(be, m, y, 0, out, OUT, 1, err));
    void *mems[] = {in, dw, y, out};
    for (size_t i = 0; i < SC_ARRAY_LEN(mems); i++)
        be->ops->free(be, mems[i]);
    be->ops->matrix_close(be, m);
    be->ops->matrix_close(be, f32);
    be->ops->close(be);
    free(x);
    free(w);
    free(p.raw - 1);
    free(wide.raw - 1);
}

/* Rows of which nothing was written but what one product wants are refused to others. */
static void rows_made_for_another_product_are_refused(void **state)
{
    (void)state;
    check_refused(SC_DTYPE_BF16);
    check_refused(SC_DTYPE_I8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_image_left_by_norm_or_swiglu_changes_no_bit),
        cmocka_unit_test(an_image_of_rows_that_changed_is_not_used),
        cmocka_unit_test(a_layer_in_turn_gives_what_its_steps_give),
        cmocka_unit_test(who_reads_and_who_adds_changes_nothing),
        cmocka_unit_test(weights_of_f32_meet_a_few_rows),
        cmocka_unit_test(weights_of_bf16_meet_a_few_rows),
        cmocka_unit_test(weights_of_int8_meet_a_few_rows),
        cmocka_unit_test(rows_made_for_another_product_are_refused),
    };
    skip_without_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
