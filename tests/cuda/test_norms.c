/* Norms between two products of a few rows: the one before leaves the rows without their factors
 * and sums of squares, the one behind multiplies by the factors. Against the CPU, and against the
 * norm's own kernel. */
#include "tests/cuda/products.h"

#define ROWS_MAX 35u
#define N_MEMS   8
#define EPS      50.0f /* some of the mean squares, so that it counts */
#define ROUNDED  1e-2  /* relative rms of rows that were rounded to bf16 three times on their way */
#define WIDE     16400u /* more columns than sums of squares are kept of */

/* Output projection, feed-forward part, and qkv of the next layer. */
struct half {
    uint32_t n_in, dim, ffn, n_out; /* of o: n_in to dim; of the last: dim to n_out */
    struct problem o, up, down, last;
    float *x, *resid, *gain[2];
};

struct matrices {
    struct sc_backend *be;
    struct sc_matrix *o, *up, *down, *last;
};

static struct problem weights(struct rng *r, uint32_t n_in, uint32_t n_out, enum sc_dtype store,
                              bool bias)
{
    struct problem p = {
        .n_in = n_in, .n_out = n_out, .x_stride = n_in, .source = SC_DTYPE_BF16, .store = store};
    p.raw = random_weights(r, (size_t)n_in * n_out, p.source);
    p.b = bias ? random_floats(r, n_out) : NULL;
    return p;
}

static struct half make_half(struct rng *r, const uint32_t (*shape)[4], enum sc_dtype store,
                             bool bias)
{
    struct half h = {(*shape)[0], (*shape)[1], (*shape)[2], (*shape)[3], .x = NULL};
    h.o = weights(r, h.n_in, h.dim, store, false);
    h.up = weights(r, h.dim, 2 * h.ffn, store, bias);
    h.down = weights(r, h.ffn, h.dim, store, false);
    h.last = weights(r, h.dim, h.n_out, store, bias);
    h.x = random_floats(r, (size_t)ROWS_MAX * h.n_in);
    h.resid = random_floats(r, (size_t)ROWS_MAX * h.dim);
    for (size_t i = 0; i < (size_t)ROWS_MAX * h.dim; i++) /* rows of unlike size */
        h.resid[i] *= 20.0f * (float)(1 + i / h.dim % 7);
    for (int g = 0; g < 2; g++)
        h.gain[g] = random_floats(r, h.dim);
    return h;
}

static void drop_half(struct half *h)
{
    const struct problem *all[] = {&h->o, &h->up, &h->down, &h->last};
    for (size_t i = 0; i < SC_ARRAY_LEN(all); i++) {
        free(all[i]->raw - 1);
        free(all[i]->b);
    }
    free(h->x);
    free(h->resid);
    free(h->gain[0]);
    free(h->gain[1]);
}

static struct matrices open_matrices(const struct half *h, struct sc_backend *be)
{
    return (struct matrices){be, open_matrix(&h->o, be), open_matrix(&h->up, be),
                             open_matrix(&h->down, be), open_matrix(&h->last, be)};
}

static void close_matrices(struct matrices *m)
{
    m->be->ops->matrix_close(m->be, m->o);
    m->be->ops->matrix_close(m->be, m->up);
    m->be->ops->matrix_close(m->be, m->down);
    m->be->ops->matrix_close(m->be, m->last);
}

static void add(const struct matrices *m, struct sc_matrix *w, float *x, float *delta, float *resid,
                uint32_t n, uint32_t dim, const float *norm, const struct sc_matrix *next)
{
    const struct sc_matmul_add_args args = {w, x, delta, resid, n, norm, next};
    const struct sc_norm_args rest = {.resid = resid, .delta = delta, .n_rows = n, .dim = dim};
    bool added = false;
    assert_ok(m->be->ops->matmul_add(m->be, &args, &added, err));
    if (!added)
        assert_ok(m->be->ops->norm(m->be, &rest, err));
}

/* Rows row0 + [0, n). told: products know the norm that follows. What becomes of resid, if wanted,
 * and what the last product gives. */
static float *run_half(const struct half *h, const struct matrices *m, uint32_t row0, uint32_t n,
                       bool told, float **ret_resid)
{
    struct sc_backend *be = m->be;
    const size_t size = (size_t)n * h->dim * 4;
    float *x = on_device(be, h->x + (size_t)row0 * h->n_in, (size_t)n * h->n_in * 4);
    float *resid = on_device(be, h->resid + (size_t)row0 * h->dim, size);
    float *g0 = on_device(be, h->gain[0], h->dim * 4), *g1 = on_device(be, h->gain[1], h->dim * 4);
    float *y = on_device(be, NULL, size), *act = on_device(be, NULL, (size_t)n * h->ffn * 4);
    float *scratch = on_device(be, NULL, (size_t)n * h->ffn * 8 + size);
    float *out = on_device(be, NULL, (size_t)n * h->n_out * 4);
    struct sc_norm_args norm = {resid, NULL, g0, y, n, h->dim, EPS, m->up};

    add(m, m->o, x, scratch, resid, n, h->dim, told ? g0 : NULL, told ? m->up : NULL);
    assert_ok(be->ops->norm(be, &norm, err));
    assert_ok(be->ops->matmul_swiglu(be, m->up, y, scratch, act, n, h->ffn, m->down, err));
    add(m, m->down, act, scratch, resid, n, h->dim, told ? g1 : NULL, told ? m->last : NULL);
    norm.w = g1;
    norm.next = m->last;
    assert_ok(be->ops->norm(be, &norm, err));
    assert_ok(be->ops->matmul(be, m->last, y, h->dim, out, h->n_out, n, err));
    float *got = from_device(be, out, (size_t)n * h->n_out * 4);
    if (ret_resid != NULL)
        *ret_resid = from_device(be, resid, size);
    void *mems[N_MEMS] = {x, resid, g0, g1, y, act, scratch, out};
    for (size_t i = 0; i < N_MEMS; i++)
        be->ops->free(be, mems[i]);
    return got;
}

static float *half_on_the_cpu(const struct half *h, const struct matrices *m, uint32_t n)
{
    struct sc_backend *cpu = m->be;
    const size_t size = (size_t)n * h->dim;
    float *resid = malloc(size * 4), *y = malloc(size * 4), *delta = malloc(size * 4);
    float *both = malloc((size_t)2 * n * h->ffn * 4), *act = malloc((size_t)n * h->ffn * 4);
    float *out = malloc((size_t)n * h->n_out * 4);
    struct sc_norm_args norm = {resid, delta, h->gain[0], y, n, h->dim, EPS, NULL};

    memcpy(resid, h->resid, size * 4);
    assert_ok(cpu->ops->matmul(cpu, m->o, h->x, h->n_in, delta, h->dim, n, err));
    assert_ok(cpu->ops->norm(cpu, &norm, err));
    assert_ok(cpu->ops->matmul(cpu, m->up, y, h->dim, both, 2 * h->ffn, n, err));
    assert_ok(cpu->ops->swiglu(cpu, both, act, n, h->ffn, err));
    assert_ok(cpu->ops->matmul(cpu, m->down, act, h->ffn, delta, h->dim, n, err));
    norm.w = h->gain[1];
    assert_ok(cpu->ops->norm(cpu, &norm, err));
    assert_ok(cpu->ops->matmul(cpu, m->last, y, h->dim, out, h->n_out, n, err));
    float *mems[] = {resid, y, delta, both, act};
    for (size_t i = 0; i < SC_ARRAY_LEN(mems); i++)
        free(mems[i]);
    return out;
}

/* Tiles of W that end within sixteen columns, several groups a block, rows that are no multiple of
 * eight (whose norms stay kernels), and more columns than there is room for sums of. */
static const uint32_t shapes[][4] = {
    {64, 128, 352, 96}, {40, 24, 64, 17}, {264, 600, 40, 200}, {32, 30, 33, 16}, {16, WIDE, 8, 8}};

static bool are_theirs(const struct half *h, const struct matrices *m, uint32_t n)
{
    return n >= 2 && n <= most_few(m->be, h->o.store) && h->dim % 8 == 0 && h->dim < WIDE;
}

static void check_rows(const struct half *h, const struct matrices *m, const float *want,
                       float *bits, uint32_t row0, uint32_t n)
{
    const size_t size = (size_t)n * h->n_out;
    float *resid[2];
    float *got = run_half(h, m, row0, n, true, &resid[0]);
    float *apart = run_half(h, m, row0, n, false, &resid[1]);
    const bool theirs = are_theirs(h, m, n);

    const double e = relative_error(got, want + (size_t)row0 * h->n_out, size);
    if (!(e <= ROUNDED))
        fail_msg("[%u, %u] x %u: relative error %g, limit %g", h->n_out, h->dim, n, e, ROUNDED);
    if ((memcmp(got, apart, size * 4) != 0) != theirs)
        fail_msg("[%u, %u] x %u: the norm is %s", h->n_out, h->dim, n,
                 theirs ? "a kernel of its own" : "left to products");
    for (uint32_t i = 0; i < n && theirs; i++) {
        float *row = bits + (size_t)(row0 + i) * h->n_out;
        if (isnan(row[0]))
            memcpy(row, got + (size_t)i * h->n_out, h->n_out * 4);
        assert_memory_equal(row, got + (size_t)i * h->n_out, h->n_out * 4);
    }
    free(got);
    free(apart);
    free(resid[0]);
    free(resid[1]);
}

static void check_store(enum sc_dtype store)
{
    static const uint32_t counts[] = {1, 2, 3, 8, 9, 16, 17, 32, 33};
    struct rng r = {20};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false),
                      *cpu = open_backend(SC_CPU_ISA_PLAIN, 2);
    for (size_t s = 0; s < SC_ARRAY_LEN(shapes); s++) {
        if (small_run() && s != 2)
            continue;
        struct half h = make_half(&r, &shapes[s], store, s % 2);
        struct matrices m = open_matrices(&h, be), twin = open_matrices(&h, cpu);
        float *want = half_on_the_cpu(&h, &twin, ROWS_MAX);
        float *bits = malloc((size_t)ROWS_MAX * h.n_out * 4);
        memset(bits, 0xff, (size_t)ROWS_MAX * h.n_out * 4);
        for (size_t c = 0; c < SC_ARRAY_LEN(counts); c++) {
            if ((small_run() && counts[c] != 3 && counts[c] != 9) ||
                (h.dim == WIDE && counts[c] != 3))
                continue;
            for (uint32_t row0 = 0; row0 + counts[c] <= (small_run() ? counts[c] : ROWS_MAX);
                 row0 += 13)
                check_rows(&h, &m, want, bits, row0, counts[c]);
        }
        close_matrices(&m);
        close_matrices(&twin);
        free(want);
        free(bits);
        drop_half(&h);
    }
    be->ops->close(be);
    cpu->ops->close(cpu);
}

static void norms_between_products_of_bf16_are_theirs(void **state)
{
    (void)state;
    check_store(SC_DTYPE_BF16);
}

static void norms_between_products_of_int8_are_theirs(void **state)
{
    (void)state;
    check_store(SC_DTYPE_I8);
}

/* Strict, and where activations are not rounded, nobody begins a norm. */
static void other_settings_leave_norms_alone(void **state)
{
    struct rng r = {21};
    struct backends all = open_all();
    struct half h = make_half(&r, &shapes[0], SC_DTYPE_BF16, false);
    (void)state;
    for (int i = 0; i < 3; i++) { /* all but bf16, fast */
        struct sc_backend *be = all.be[i == 0][i < 2];
        struct matrices m = open_matrices(&h, be);
        float *got = run_half(&h, &m, 0, 5, true, NULL),
              *want = run_half(&h, &m, 0, 5, false, NULL);
        assert_memory_equal(got, want, (size_t)5 * h.n_out * 4);
        close_matrices(&m);
        free(got);
        free(want);
    }
    drop_half(&h);
    close_all(&all);
}

/* A norm that was begun, and then another one is asked for, or resid is no longer what it was; and
 * rows that lack their factors are refused to any product but the one that has them. */
static void a_norm_begun_in_vain_is_made(void **state)
{
    enum { N = 5 };
    struct rng r = {22};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false);
    struct half h = make_half(&r, &shapes[0], SC_DTYPE_BF16, false);
    struct matrices m = open_matrices(&h, be);
    const size_t size = (size_t)N * h.dim * 4, out_size = (size_t)N * h.n_out * 4;
    float *x = on_device(be, h.x, (size_t)N * h.n_in * 4), *other = on_device(be, h.x, size);
    float *resid = on_device(be, NULL, size), *y = on_device(be, NULL, size);
    float *g[2] = {on_device(be, h.gain[0], h.dim * 4), on_device(be, h.gain[1], h.dim * 4)};
    float *scratch = on_device(be, NULL, size), *out = on_device(be, NULL, out_size);
    const bool theirs = are_theirs(&h, &m, N);
    (void)state;
    for (int way = 0; way < 7; way++) {
        float *got[2];
        for (int told = 0; told < 2; told++) {
            struct sc_norm_args norm = {resid, NULL, g[way == 1], y, N, h.dim, EPS, m.last};
            assert_ok(be->ops->upload(be, resid, h.resid, size, err));
            add(&m, m.o, x, scratch, resid, N, h.dim, told ? g[0] : NULL,
                !told      ? NULL
                : way == 2 ? m.up
                           : m.last);
            if (way == 0) /* another call */
                assert_ok(be->ops->copy(be, out, x, h.n_in * 4, err));
            if (way == 3) /* other rows there */
                assert_ok(be->ops->upload(be, resid, h.x, size, err));
            if (way == 4)
                norm.n_rows = N - 1;
            if (way == 5)
                norm.resid = other;
            if (way != 6) /* then resid itself is multiplied */
                assert_ok(be->ops->norm(be, &norm, err));
            assert_ok(be->ops->matmul(be, m.last, way == 6 ? resid : y, h.dim, out, h.n_out,
                                      norm.n_rows, err));
            got[told] = from_device(be, out, out_size);
        }
        assert_memory_equal(got[0], got[1], (size_t)(way == 4 ? N - 1 : N) * h.n_out * 4);
        free(got[0]);
        free(got[1]);
    }
    struct sc_norm_args norm = {resid, NULL, g[0], y, N, h.dim, EPS, m.last};
    add(&m, m.o, x, scratch, resid, N, h.dim, g[0], m.last);
    assert_ok(be->ops->norm(be, &norm, err));
    if (theirs)
        assert_fails(SC_EINVAL,
                     be->ops->matmul_swiglu(be, m.up, y, scratch, scratch, N, h.ffn, NULL, err));
    if (theirs)
        assert_fails(SC_EINVAL, be->ops->matmul(be, m.last, y, h.dim, out, h.n_out, N - 1, err));
    assert_ok(be->ops->matmul(be, m.last, y, h.dim, out, h.n_out, N, err));
    if (theirs)
        assert_fails(SC_EINVAL, be->ops->matmul(be, m.last, y, h.dim, out, h.n_out, N, err));
    void *mems[] = {x, other, resid, y, g[0], g[1], scratch, out};
    for (size_t i = 0; i < SC_ARRAY_LEN(mems); i++)
        be->ops->free(be, mems[i]);
    close_matrices(&m);
    be->ops->close(be);
    drop_half(&h);
}

/* Its sums of squares would be where those are that it reads. */
static void a_product_that_ends_a_norm_begins_none(void **state)
{
    enum { N = 5, OUT = 40 };
    struct rng r = {23};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false);
    struct half h = make_half(&r, &shapes[0], SC_DTYPE_BF16, false);
    struct matrices m = open_matrices(&h, be);
    struct problem p = weights(&r, h.n_out, OUT, SC_DTYPE_BF16, false);
    struct sc_matrix *behind = open_matrix(&p, be);
    const size_t size = (size_t)N * h.dim * 4, wide = (size_t)N * h.n_out * 4;
    float *got[2];
    (void)state;
    for (int told = 0; told < 2; told++) {
        float *x = on_device(be, h.x, (size_t)N * h.n_in * 4),
              *resid = on_device(be, h.resid, size);
        float *g[2] = {on_device(be, h.gain[0], h.dim * 4), on_device(be, h.gain[1], h.n_out * 4)};
        float *y = on_device(be, NULL, size), *scratch = on_device(be, NULL, size);
        float *other = on_device(be, h.x, wide), *out = on_device(be, NULL, (size_t)N * OUT * 4);
        struct sc_norm_args norm = {resid, NULL, g[0], y, N, h.dim, EPS, m.last};
        add(&m, m.o, x, scratch, resid, N, h.dim, told ? g[0] : NULL, told ? m.last : NULL);
        assert_ok(be->ops->norm(be, &norm, err));
        add(&m, m.last, y, scratch, other, N, h.n_out, told ? g[1] : NULL, told ? behind : NULL);
        norm = (struct sc_norm_args){other, NULL, g[1], y, N, h.n_out, EPS, behind};
        assert_ok(be->ops->norm(be, &norm, err));
        assert_ok(be->ops->matmul(be, behind, y, h.n_out, out, OUT, N, err));
        got[told] = from_device(be, out, (size_t)N * OUT * 4);
        void *mems[N_MEMS] = {x, resid, g[0], g[1], y, scratch, other, out};
        for (size_t i = 0; i < N_MEMS; i++)
            be->ops->free(be, mems[i]);
    }
    if (!(relative_error(got[1], got[0], N * OUT) <= ROUNDED))
        fail_msg("relative error %g", relative_error(got[1], got[0], N * OUT));
    be->ops->matrix_close(be, behind);
    free(p.raw - 1);
    free(got[0]);
    free(got[1]);
    close_matrices(&m);
    be->ops->close(be);
    drop_half(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_between_products_of_bf16_are_theirs),
        cmocka_unit_test(norms_between_products_of_int8_are_theirs),
        cmocka_unit_test(other_settings_leave_norms_alone),
        cmocka_unit_test(a_norm_begun_in_vain_is_made),
        cmocka_unit_test(a_product_that_ends_a_norm_begins_none),
    };
    skip_without_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
