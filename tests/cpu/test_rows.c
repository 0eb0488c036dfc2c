#include "tests/cpu/support.h"

static void norm_adds_and_scales_like_double_precision(void **state)
{
    static const uint32_t dims[] = {1, 8, 15, 16, 17, 100, 768, 2049};
    struct rng r = {1};
    (void)state;
    announce_isas();
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_backend(isa, 2);
        for (size_t i = 0; i < SC_ARRAY_LEN(dims) * 2; i++) {
            uint32_t dim = dims[i / 2], n = 1 + rng_below(&r, 40);
            float *resid = random_floats(&r, (size_t)n * dim), *w = random_floats(&r, dim);
            float *delta = random_floats(&r, (size_t)n * dim), *y = malloc(4u * n * dim);
            double *sum = malloc(8u * n * dim);
            struct sc_norm_args args = {resid, i % 2 ? delta : NULL, w, y, n, dim, 1e-5f, NULL};
            for (uint32_t j = 0; j < n * dim; j++)
                sum[j] = i % 2 ? resid[j] + delta[j] : resid[j];
            assert_ok(be->ops->norm(be, &args, err));
            for (uint32_t row = 0; row < n; row++) {
                double squares = 0.0;
                for (uint32_t d = 0; d < dim; d++)
                    squares += sum[row * dim + d] * sum[row * dim + d];
                for (uint32_t d = 0; d < dim; d++) {
                    double want = sum[row * dim + d] / sqrt(squares / dim + 1e-5) * w[d];
                    assert_true(resid[row * dim + d] == (float)sum[row * dim + d]);
                    /* the mean of up to 2049 squares in sixteen f32 lanes: a few ulps */
                    assert_true(fabs(y[row * dim + d] - want) <= 2e-6 * (1e-3 + fabs(want)));
                }
            }
            free(resid);
            free(w);
            free(delta);
            free(y);
            free(sum);
        }
        be->ops->close(be);
    }
}

static void norm_without_output_only_adds(void **state)
{
    float resid[5] = {1, 2, 3, 4, 5}, delta[5] = {1, 1, 1, 1, 1};
    struct sc_norm_args args = {.resid = resid, .delta = delta, .n_rows = 1, .dim = 5};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_backend(isa, 1);
        float before = resid[4];
        assert_ok(be->ops->norm(be, &args, err));
        assert_true(resid[4] == before + 1.0f);
        args.y = delta;
        assert_fails(SC_EINVAL, be->ops->norm(be, &args, err));
        args.y = NULL;
        be->ops->close(be);
    }
}

static void swiglu_matches_double_precision_over_the_whole_range(void **state)
{
    enum { FFN = 37, N = 600 };
    float *in = malloc(sizeof(float) * N * 2 * FFN), y[N * FFN];
    struct rng r = {2};
    (void)state;
    for (uint32_t i = 0; i < N * 2 * FFN; i++)
        in[i] = rng_normal(&r) * (i % 7 == 0 ? 30.0f : 2.0f);
    in[0] = 0.0f;
    in[1] = -120.0f;
    in[2] = 120.0f;
    in[3] = -0.0f;
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_backend(isa, 3);
        assert_ok(be->ops->swiglu(be, in, y, N, FFN, err));
        for (uint32_t i = 0; i < N; i++) {
            for (uint32_t d = 0; d < FFN; d++) {
                double g = in[i * 2 * FFN + d], u = in[i * 2 * FFN + FFN + d];
                double want = g / (1.0 + exp(-g)) * u;
                /* below -87 the exponential saturates; such gates are zero but for 1e-36 */
                assert_true(fabs(y[i * FFN + d] - want) <= 1e-6 * fabs(want) + 1e-34);
            }
        }
        be->ops->close(be);
    }
    free(in);
}

static void embedding_reads_its_slice_in_every_type_and_zeroes_the_rest(void **state)
{
    enum { VOCAB = 20, DIM = 11 };
    struct rng r = {3};
    float *table = random_floats(&r, VOCAB * DIM), out[6 * DIM];
    const int32_t ids[6] = {4, 9, 3, 10, -1, 7};
    uint8_t raw[VOCAB * DIM * 4 + 1];
    (void)state;
    for (int type = 0; type < 3; type++) {
        static const enum sc_dtype types[] = {SC_DTYPE_F32, SC_DTYPE_BF16, SC_DTYPE_F16};
        struct sc_backend *be = open_backend(sc_cpu_isa_best(), 1);
        struct sc_embedding *emb = NULL;
        for (uint32_t i = 0; i < VOCAB * DIM; i++) {
            uint16_t h =
                sc_f32_to_bf16(table[i]) & (types[type] == SC_DTYPE_F16 ? 0xbfffu : 0xffffu);
            if (types[type] == SC_DTYPE_F32)
                memcpy(raw + 1 + 4 * i, &table[i], 4);
            else
                memcpy(raw + 1 + 2 * i, &h, 2);
        }
        assert_ok(be->ops->embedding_open(be, raw + 1, types[type], 4, 6, DIM, &emb, err));
        assert_ok(be->ops->embed(be, emb, ids, 6, out, err));
        for (uint32_t i = 0; i < 6; i++) {
            bool inside = ids[i] >= 4 && ids[i] < 10;
            for (uint32_t d = 0; d < DIM; d++) {
                float want = 0.0f;
                if (inside) {
                    float f = table[ids[i] * DIM + (int)d];
                    uint16_t h = sc_f32_to_bf16(f);
                    want = type == 0   ? f
                           : type == 1 ? sc_bf16_to_f32(h)
                                       : sc_f16_to_f32((uint16_t)(h & 0xbfffu));
                }
                assert_true(out[i * DIM + d] == want);
            }
        }
        be->ops->embedding_close(be, emb);
        assert_fails(SC_ENOTSUP,
                     be->ops->embedding_open(be, raw, SC_DTYPE_I32, 0, 1, DIM, &emb, err));
        be->ops->close(be);
    }
    free(table);
}

static void angles_are_cos_and_sin_of_the_f32_product(void **state)
{
    enum { HD = 80, N = 37 };
    uint32_t positions[N];
    float inv_freq[HD / 2], angles[N * HD];
    struct sc_backend *be = open_backend(sc_cpu_isa_best(), 2);
    (void)state;
    for (int i = 0; i < N; i++)
        positions[i] = (uint32_t)(i * i * 90);
    for (int j = 0; j < HD / 2; j++)
        inv_freq[j] = powf(500000.0f, -2.0f * (float)j / HD);
    assert_ok(be->ops->rope_angles(be, positions, N, inv_freq, HD, 1.25f, angles, err));
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < HD / 2; j++) {
            float angle = (float)positions[i] * inv_freq[j];
            assert_true(fabs(angles[i * HD + j] - 1.25 * cos(angle)) < 2e-7);
            assert_true(fabs(angles[i * HD + HD / 2 + j] - 1.25 * sin(angle)) < 2e-7);
        }
    }
    assert_fails(SC_EINVAL, be->ops->rope_angles(be, positions, N, inv_freq, 7, 1.0f, angles, err));
    be->ops->close(be);
}

struct qkv_case {
    uint32_t n_heads, n_kv_heads, head_dim, n;
    bool norms;
    enum sc_dtype dtype;
};

/* RMSNorm, then rotation, of one head, in double precision. */
static void place_reference(const float *x, const float *norm, const float *angles, uint32_t hd,
                            double *out)
{
    double squares = 0.0, y[SC_CPU_HEAD_DIM_MAX];
    for (uint32_t d = 0; d < hd; d++)
        squares += (double)x[d] * x[d];
    for (uint32_t d = 0; d < hd; d++)
        y[d] = norm == NULL ? x[d] : x[d] / sqrt(squares / hd + 1e-6) * norm[d];
    for (uint32_t d = 0; d < hd / 2; d++) {
        double c = angles[d], s = angles[hd / 2 + d];
        out[d] = y[d] * c - y[d + hd / 2] * s;
        out[d + hd / 2] = y[d + hd / 2] * c + y[d] * s;
    }
}

static void check_qkv_row(struct sc_backend *be, const struct qkv_case *c, struct sc_qkv_args *a,
                          const float *before, uint32_t i)
{
    uint32_t hd = c->head_dim, width = (c->n_heads + 2 * c->n_kv_heads) * hd;
    double tolerance = c->dtype == SC_DTYPE_BF16 ? 0x1p-8 : 3e-6, want[SC_CPU_HEAD_DIM_MAX];
    float k[SC_CPU_HEAD_DIM_MAX], v[SC_CPU_HEAD_DIM_MAX], bias = 1.0f;

    for (uint32_t h = 0; h < c->n_heads; h++) {
        place_reference(before + i * width + h * hd, a->q_norm, a->angles + i * hd, hd, want);
        for (uint32_t d = 0; d < hd; d++)
            assert_true(fabs(a->qkv[i * width + h * hd + d] - want[d]) <
                        3e-6 * (1 + fabs(want[d])));
    }
    for (uint32_t h = 0; h < c->n_kv_heads; h++) {
        const float *from = before + i * width + (c->n_heads + h) * hd;
        place_reference(from, a->k_norm, a->angles + i * hd, hd, want);
        assert_ok(be->ops->kv_read(be, a->pool, a->pages[i], a->slots[i], h, k, v, &bias, err));
        assert_true(bias == 0.0f);
        for (uint32_t d = 0; d < hd; d++) {
            assert_true(fabs(k[d] - want[d]) < tolerance * (1 + fabs(want[d])));
            assert_true(v[d] == to_dtype(from[c->n_kv_heads * hd + d], c->dtype));
        }
    }
}

static void qkv_normalises_rotates_and_stores(void **state)
{
    static const struct qkv_case cases[] = {
        {1, 1, 8, 3, false, SC_DTYPE_F32},    {8, 2, 64, 130, true, SC_DTYPE_BF16},
        {7, 1, 24, 33, true, SC_DTYPE_F32},   {4, 4, 80, 9, false, SC_DTYPE_BF16},
        {2, 1, 128, 40, true, SC_DTYPE_BF16}, {3, 3, 2, 5, false, SC_DTYPE_F32},
        {4, 2, 96, 17, true, SC_DTYPE_F32},
    };
    struct rng r = {5};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
            const struct qkv_case *c = &cases[i];
            struct sc_backend *be = open_backend(isa, 1 + (uint32_t)i % 3);
            uint32_t width = (c->n_heads + 2 * c->n_kv_heads) * c->head_dim, pages[130], slots[130];
            float *x = random_floats(&r, (size_t)c->n * width), *before = malloc(4u * c->n * width);
            float *angles = random_floats(&r, (size_t)c->n * c->head_dim);
            float *norm = random_floats(&r, c->head_dim);
            struct sc_qkv_args args = {.qkv = x, .angles = angles, .pages = pages, .slots = slots};
            memcpy(before, x, 4u * c->n * width);
            for (uint32_t row = 0; row < c->n; row++) {
                pages[row] = 5 - row / 32;
                slots[row] = (row + 3) % 32;
            }
            args.q_norm = args.k_norm = c->norms ? norm : NULL;
            args.pool = open_garbage_pool(be, c->n_kv_heads, c->head_dim, c->dtype, 6);
            args.n_rows = c->n;
            args.n_heads = c->n_heads;
            args.n_kv_heads = c->n_kv_heads;
            args.head_dim = c->head_dim;
            args.eps = 1e-6f;
            assert_ok(be->ops->qkv(be, &args, err));
            for (uint32_t row = 0; row < c->n; row++)
                check_qkv_row(be, c, &args, before, row);
            slots[0] = 32;
            assert_fails(SC_EINVAL, be->ops->qkv(be, &args, err));
            slots[0] = 0;
            pages[0] = 6;
            assert_fails(SC_EINVAL, be->ops->qkv(be, &args, err));
            be->ops->kv_close(be, args.pool);
            be->ops->close(be);
            free(x);
            free(before);
            free(angles);
            free(norm);
        }
    }
}

static void rows_do_not_depend_on_their_neighbours_or_threads(void **state)
{
    enum { N = 70, DIM = 531 };
    struct rng r = {6};
    float *x = random_floats(&r, 2 * N * DIM), *w = random_floats(&r, DIM);
    float *whole = malloc(4 * N * DIM), *part = malloc(4 * N * DIM);
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (uint32_t threads = 1; threads <= 3; threads++) {
            struct sc_backend *be = open_backend(isa, threads);
            struct sc_norm_args a = {x, NULL, w, whole, N, DIM, 1e-6f, NULL};
            assert_ok(be->ops->norm(be, &a, err));
            a = (struct sc_norm_args){x + 13 * DIM, NULL, w, part, 1, DIM, 1e-6f, NULL};
            assert_ok(be->ops->norm(be, &a, err));
            assert_memory_equal(part, whole + 13 * DIM, 4 * DIM);
            assert_ok(be->ops->swiglu(be, x, whole, N, DIM, err));
            assert_ok(be->ops->swiglu(be, x + 26 * DIM, part, 1, DIM, err));
            assert_memory_equal(part, whole + 13 * DIM, 4 * DIM);
            be->ops->close(be);
        }
    }
    free(x);
    free(w);
    free(whole);
    free(part);
}

static void rows_are_gathered_and_pages_copied(void **state)
{
    struct sc_backend *be = open_backend(sc_cpu_isa_best(), 1);
    struct sc_kv_pool *pool = open_garbage_pool(be, 2, 6, SC_DTYPE_BF16, 3);
    float src[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, dst[6], k[6], v[6], bias;
    const uint32_t rows[2] = {3, 0};
    (void)state;
    assert_ok(be->ops->gather_rows(be, src, rows, 2, 3, dst, err));
    assert_true(dst[0] == 9 && dst[2] == 11 && dst[3] == 0 && dst[5] == 2);

    assert_ok(be->ops->kv_write(be, pool, 2, 31, 1, src, src + 6, -2.5f, err));
    assert_ok(be->ops->kv_copy(be, pool, 0, 2, err));
    assert_ok(be->ops->kv_read(be, pool, 0, 31, 1, k, v, &bias, err));
    assert_memory_equal(k, src, sizeof(k));
    assert_memory_equal(v, src + 6, sizeof(v));
    assert_true(bias == -2.5f);
    assert_fails(SC_EINVAL, be->ops->kv_copy(be, pool, 3, 0, err));
    assert_fails(SC_EINVAL, be->ops->kv_read(be, pool, 0, 32, 0, k, v, &bias, err));
    assert_fails(SC_EINVAL, be->ops->kv_write(be, pool, 0, 0, 2, k, v, 0.0f, err));
    be->ops->kv_close(be, pool);
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_adds_and_scales_like_double_precision),
        cmocka_unit_test(norm_without_output_only_adds),
        cmocka_unit_test(swiglu_matches_double_precision_over_the_whole_range),
        cmocka_unit_test(embedding_reads_its_slice_in_every_type_and_zeroes_the_rest),
        cmocka_unit_test(angles_are_cos_and_sin_of_the_f32_product),
        cmocka_unit_test(qkv_normalises_rotates_and_stores),
        cmocka_unit_test(rows_do_not_depend_on_their_neighbours_or_threads),
        cmocka_unit_test(rows_are_gathered_and_pages_copied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
