/* bf16 weights in 12 bits: the same bits as in 16, whatever the weights, and less memory. */
#include "tests/cpu/support.h"

/* What a matrix's weights are like. */
enum kind { NORMAL, SPREAD, MIXED, ZEROS, N_KINDS };

static struct sc_backend *open_weights(enum sc_cpu_isa isa, uint32_t n_threads, bool plain)
{
    struct sc_backend_opts opts = {.n_threads = n_threads, .n_ranks = 1, .plain_weights = plain};
    struct sc_backend *be = NULL;
    assert_ok(sc_cpu_backend_open_isa(&opts, isa, &be, err));
    return be;
}

/* Finite; where an exponent is any of 256 nothing can be saved. */
static uint16_t weight(struct rng *r, enum kind kind)
{
    uint16_t bits = sc_f32_to_bf16(rng_normal(r) * 0.02f), any = (uint16_t)rng_u32(r);
    any = (any >> 7 & 0xff) == 0xff ? (uint16_t)(any & 0xbfff) : any;
    switch (kind) {
    case SPREAD:
        return any;
    case MIXED: /* subnormals, zeros and the largest among the rare ones */
        return rng_below(r, 60) == 0 ? any : rng_below(r, 400) == 0 ? any & 0x807f : bits;
    case ZEROS:
        return rng_below(r, 3) == 0 ? 0x8000 : 0;
    default:
        return bits;
    }
}

static uint16_t *weights(struct rng *r, enum kind kind, size_t n)
{
    uint16_t *w = malloc(n * sizeof(*w));
    for (size_t i = 0; i < n; i++)
        w[i] = weight(r, kind);
    if (kind == MIXED) { /* the first and the last of all panels' ends */
        w[0] = 0x7f7f;
        w[n - 1] = 0x0001;
    }
    return w;
}

/* In three parts, as the projections of attention are. */
static struct sc_matrix *open_parts(struct sc_backend *be, const uint16_t *w, uint32_t n_out,
                                    uint32_t n_in, const float *bias)
{
    const uint32_t a = n_out / 2, b = n_out / 5;
    const struct sc_matrix_part parts[] = {
        {w, SC_DTYPE_BF16, a, n_in, 0},
        {w + (size_t)a * n_in, SC_DTYPE_BF16, b, n_in, 0},
        {w + (size_t)(a + b) * n_in, SC_DTYPE_BF16, n_out - a - b, n_in, 0},
    };
    struct sc_matrix *m = NULL;
    assert_ok(be->ops->matrix_open(be, parts, 3, n_in, bias, SC_DTYPE_BF16, &m, err));
    return m;
}

static void compare(enum sc_cpu_isa isa, uint32_t n_threads, enum kind kind, uint32_t n_out,
                    uint32_t n_in, struct rng *r)
{
    static const uint32_t counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 40, 300};
    struct sc_backend *plain = open_weights(isa, n_threads, true);
    struct sc_backend *packed = open_weights(isa, n_threads, false);
    uint16_t *w = weights(r, kind, (size_t)n_out * n_in);
    float *x = random_floats(r, (size_t)300 * n_in), *bias = random_floats(r, n_out);
    float *want = malloc((size_t)300 * n_out * 4), *got = malloc((size_t)300 * n_out * 4);
    const float *b = n_in % 2 ? bias : NULL;
    struct sc_matrix *mp = open_parts(plain, w, n_out, n_in, b);
    struct sc_matrix *mk = open_parts(packed, w, n_out, n_in, b);

    if (isa == SC_CPU_ISA_PLAIN || (kind == SPREAD && n_in > 1))
        assert_int_equal(packed->ops->matrix_bytes(mk), plain->ops->matrix_bytes(mp));
    else
        assert_true(packed->ops->matrix_bytes(mk) < plain->ops->matrix_bytes(mp) / 10 * 9 + 1);
    for (size_t c = 0; c < SC_ARRAY_LEN(counts); c++) {
        uint32_t n = counts[c];
        memset(got, 0xee, (size_t)n * n_out * 4);
        assert_ok(plain->ops->matmul(plain, mp, x, n_in, want, n_out, n, err));
        assert_ok(packed->ops->matmul(packed, mk, x, n_in, got, n_out, n, err));
        for (size_t i = 0; i < (size_t)n * n_out; i++) {
            if (memcmp(&got[i], &want[i], 4) != 0)
                fail_msg("%s [%u, %u] kind %d x %u: row %zu output %zu: %a, not %a",
                         sc_cpu_isa_name(isa), n_out, n_in, kind, n, i / n_out, i % n_out, got[i],
                         want[i]);
        }
    }
    plain->ops->matrix_close(plain, mp);
    packed->ops->matrix_close(packed, mk);
    plain->ops->close(plain);
    packed->ops->close(packed);
    free(w);
    free(x);
    free(bias);
    free(want);
    free(got);
}

static void packed_weights_give_the_bits_of_plain_ones(void **state)
{
    static const uint32_t shapes[][2] = {{64, 64}, {63, 65},   {5, 1},     {130, 33},
                                         {65, 96}, {200, 700}, {147, 2339}};
    struct rng r = {31};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (size_t s = 0; s < SC_ARRAY_LEN(shapes); s++) {
            for (enum kind kind = 0; kind < N_KINDS; kind++)
                compare(isa, 1 + (uint32_t)s % 3, kind, shapes[s][0], shapes[s][1], &r);
        }
    }
}

static void normal_weights_take_three_quarters_of_the_memory(void **state)
{
    enum { OUT = 512, IN = 1024 };
    struct rng r = {32};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_weights(isa, 2, false);
        uint16_t *w = weights(&r, NORMAL, (size_t)OUT * IN);
        struct sc_matrix *m = open_parts(be, w, OUT, IN, NULL);
        double share = (double)be->ops->matrix_bytes(m) / ((double)OUT * IN * 2);
        if (isa == SC_CPU_ISA_PLAIN)
            assert_true(share == 1.0);
        else if (!(share >= 0.75 && share < 0.753))
            fail_msg("%s: %.4f of the memory", sc_cpu_isa_name(isa), share);
        be->ops->matrix_close(be, m);
        be->ops->close(be);
        free(w);
    }
}

/* Not finite: what they make is not finite either, in the same places. */
static void weights_that_are_not_finite_stay_so(void **state)
{
    enum { OUT = 70, IN = 128 };
    struct rng r = {33};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_weights(isa, 1, false);
        uint16_t *w = weights(&r, NORMAL, (size_t)OUT * IN);
        float x[IN], y[OUT];
        w[3 * IN + 100] = 0x7f80;  /* inf */
        w[66 * IN + 127] = 0xffc0; /* nan */
        for (uint32_t i = 0; i < IN; i++)
            x[i] = 1.0f;
        struct sc_matrix *m = open_parts(be, w, OUT, IN, NULL);
        assert_ok(be->ops->matmul(be, m, x, IN, y, OUT, 1, err));
        for (uint32_t i = 0; i < OUT; i++)
            assert_int_equal(isfinite(y[i]), i != 3 && i != 66);
        assert_true(isinf(y[3]) && isnan(y[66]));
        be->ops->matrix_close(be, m);
        be->ops->close(be);
        free(w);
    }
}

/* Products read whole steps of 32 inputs: what a thread's memory held before must not be in them.
 */
static void an_earlier_product_leaves_nothing_behind(void **state)
{
    static const uint32_t widths[] = {1, 33, 48, 63, 80, 130, 1040};
    enum { N = 300, OUT = 64 };
    struct rng r = {34};
    float *x = random_floats(&r, (size_t)N * 1040), *y = malloc(N * OUT * sizeof(float));
    uint16_t *all_inf = malloc((size_t)OUT * 2048 * sizeof(*all_inf));
    float *ones = malloc((size_t)N * 2048 * sizeof(*ones));
    (void)state;
    for (size_t i = 0; i < (size_t)OUT * 2048; i++)
        all_inf[i] = 0x7f80;
    for (size_t i = 0; i < (size_t)N * 2048; i++)
        ones[i] = 1.0f;
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_weights(isa, 1, false);
        struct sc_matrix *before = open_parts(be, all_inf, OUT, 2048, NULL);
        for (size_t s = 0; s < SC_ARRAY_LEN(widths); s++) {
            uint16_t *w = weights(&r, NORMAL, (size_t)OUT * widths[s]);
            struct sc_matrix *m = open_parts(be, w, OUT, widths[s], NULL);
            for (uint32_t n = 1; n <= N; n += n < 18 ? 8 : 250) {
                assert_ok(be->ops->matmul(be, before, ones, 2048, y, OUT, N, err));
                assert_ok(be->ops->matmul(be, m, x, widths[s], y, OUT, n, err));
                for (uint32_t i = 0; i < n * OUT; i++)
                    if (!isfinite(y[i]))
                        fail_msg("%s, %u inputs, %u rows: output %u is %g", sc_cpu_isa_name(isa),
                                 widths[s], n, i, (double)y[i]);
            }
            be->ops->matrix_close(be, m);
            free(w);
        }
        be->ops->matrix_close(be, before);
        be->ops->close(be);
    }
    free(x);
    free(y);
    free(ones);
    free(all_inf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_earlier_product_leaves_nothing_behind),
        cmocka_unit_test(packed_weights_give_the_bits_of_plain_ones),
        cmocka_unit_test(normal_weights_take_three_quarters_of_the_memory),
        cmocka_unit_test(weights_that_are_not_finite_stay_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
