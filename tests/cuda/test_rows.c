/* Row operations against the CPU twin. f32 on both sides: they differ in the order of a row's sum
 * and in the last bits of exp, sine and cosine. */
#include "tests/cuda/support.h"

#define F32_LIMIT 2e-6

static void run_norm(struct sc_backend *be, const struct sc_norm_args *host, float **ret_resid,
                     float **ret_y)
{
    const size_t bytes = (size_t)host->n_rows * host->dim * sizeof(float);
    struct sc_norm_args a = *host;
    a.resid = on_device(be, host->resid, bytes);
    a.delta = host->delta != NULL ? on_device(be, host->delta, bytes) : NULL;
    a.w = on_device(be, host->w, host->dim * sizeof(float));
    a.y = on_device(be, NULL, bytes);
    assert_ok(be->ops->norm(be, &a, err));
    *ret_resid = from_device(be, a.resid, bytes);
    *ret_y = from_device(be, a.y, bytes);
    be->ops->free(be, a.resid);
    be->ops->free(be, (void *)(uintptr_t)a.delta);
    be->ops->free(be, (void *)(uintptr_t)a.w);
    be->ops->free(be, a.y);
}

static void norm_is_that_of_the_cpu(void **state)
{
    static const uint32_t dims[] = {1,   2,    3,    30,   33,   64,   100,   256,
                                    768, 1000, 2049, 4096, 5120, 9000, 16384, 20000};
    static const uint32_t rows[] = {1, 2, 5, 17, 130};
    struct rng r = {1};
    struct sc_backend *cpu = open_backend(SC_CPU_ISA_PLAIN, 2);
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false);
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(dims) * 2; i++) {
        if (small_run() && dims[i / 2] < 1000 && dims[i / 2] != 33)
            continue; /* as many pieces a thread as 1000, or none as 33 */
        const uint32_t dim = dims[i / 2], n = rows[i % (small_run() ? 2 : SC_ARRAY_LEN(rows))];
        const size_t size = (size_t)n * dim;
        float *resid = random_floats(&r, size), *delta = random_floats(&r, size);
        float *w = random_floats(&r, dim), *want = malloc(size * 4), *got_resid, *got;
        struct sc_norm_args a = {resid, i % 2 ? delta : NULL, w, want, n, dim, 1e-5f, NULL};
        char name[64];
        run_norm(be, &a, &got_resid, &got);
        assert_ok(cpu->ops->norm(cpu, &a, err));
        (void)snprintf(name, sizeof(name), "norm [%u, %u]%s", n, dim, i % 2 ? " + delta" : "");
        assert_memory_equal(got_resid, resid, size * 4);
        assert_close(name, got, want, size, F32_LIMIT);
        free(got_resid);
        free(got);
        free(resid);
        free(delta);
        free(w);
        free(want);
    }
    cpu->ops->close(cpu);
    be->ops->close(be);
}

static void norm_without_output_only_adds(void **state)
{
    const float resid[5] = {1, 2, 3, 4, 5}, delta[5] = {1, 1, 1, 1, 1};
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    float *got;
    (void)state;
    for (uint32_t dim = 4; dim <= 5; dim++) {
        struct sc_norm_args a = {.n_rows = 1, .dim = dim};
        a.resid = on_device(be, resid, sizeof(resid));
        a.delta = on_device(be, delta, sizeof(delta));
        assert_ok(be->ops->norm(be, &a, err));
        got = from_device(be, a.resid, sizeof(resid));
        for (uint32_t i = 0; i < 5; i++)
            assert_true(got[i] == resid[i] + (i < dim ? 1.0f : 0.0f));
        a.y = a.resid;
        assert_fails(SC_EINVAL, be->ops->norm(be, &a, err));
        a.n_rows = 0;
        a.y = NULL;
        assert_ok(be->ops->norm(be, &a, err));
        be->ops->free(be, a.resid);
        be->ops->free(be, (void *)(uintptr_t)a.delta);
        free(got);
    }
    be->ops->close(be);
}

static void swiglu_matches_double_precision_over_the_whole_range(void **state)
{
    static const uint32_t widths[] = {1, 2, 30, 33, 64, 100, 256, 1000, 4096};
    struct rng r = {2};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, false);
    (void)state;
    for (size_t s = 0; s < SC_ARRAY_LEN(widths); s++) {
        const uint32_t ffn = widths[s], n = 1 + rng_below(&r, 20);
        float *in = random_floats(&r, (size_t)n * 2 * ffn);
        for (size_t i = 0; i < (size_t)n * 2 * ffn; i++)
            in[i] *= i % 7 == 0 ? 30.0f : 2.0f;
        in[0] = s % 3 == 0 ? -120.0f : s % 3 == 1 ? 120.0f : -0.0f;
        void *gate_up = on_device(be, in, (size_t)n * 2 * ffn * 4);
        void *y = on_device(be, NULL, ((size_t)n * ffn + 1) * 4);
        assert_ok(be->ops->swiglu(be, gate_up, y, n, ffn, err));
        float *got = from_device(be, y, ((size_t)n * ffn + 1) * 4);
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t d = 0; d < ffn; d++) {
                double g = in[(size_t)i * 2 * ffn + d], u = in[(size_t)i * 2 * ffn + ffn + d];
                double want = g / (1.0 + exp(-g)) * u;
                assert_true(fabs(got[(size_t)i * ffn + d] - want) <= 1e-6 * fabs(want) + 1e-34);
            }
        }
        assert_true(isnan(got[(size_t)n * ffn]));
        free(got);
        free(in);
        be->ops->free(be, gate_up);
        be->ops->free(be, y);
    }
    be->ops->close(be);
}

static void rows_do_not_depend_on_their_neighbours(void **state)
{
    static const uint32_t dims[] = {96, 531, 4096};
    enum { N_MAX = 70, ROW = 12 };
    const uint32_t n_rows = small_run() ? 14 : N_MAX;
    struct rng r = {3};
    struct sc_backend *be = open_cuda(SC_MATH_BF16, true);
    (void)state;
    for (size_t s = 0; s < SC_ARRAY_LEN(dims); s++) {
        const uint32_t dim = dims[s];
        float *x = random_floats(&r, (size_t)2 * n_rows * dim), *w = random_floats(&r, dim);
        float *in = on_device(be, x, (size_t)2 * n_rows * dim * 4), *dw = on_device(be, w, dim * 4);
        float *y = on_device(be, NULL, (size_t)n_rows * dim * 4);
        struct sc_norm_args a = {in, NULL, dw, y, n_rows, dim, 1e-6f, NULL};
        assert_ok(be->ops->norm(be, &a, err));
        float *whole = from_device(be, y, (size_t)n_rows * dim * 4);
        a.resid = in + (size_t)ROW * dim;
        a.n_rows = 1;
        assert_ok(be->ops->norm(be, &a, err));
        float *part = from_device(be, y, (size_t)dim * 4);
        assert_memory_equal(part, whole + (size_t)ROW * dim, (size_t)dim * 4);
        free(whole);
        free(part);
        assert_ok(be->ops->swiglu(be, in, y, n_rows, dim, err));
        whole = from_device(be, y, (size_t)n_rows * dim * 4);
        assert_ok(be->ops->swiglu(be, in + (size_t)2 * ROW * dim, y, 1, dim, err));
        part = from_device(be, y, (size_t)dim * 4);
        assert_memory_equal(part, whole + (size_t)ROW * dim, (size_t)dim * 4);
        free(whole);
        free(part);
        free(x);
        free(w);
        be->ops->free(be, in);
        be->ops->free(be, dw);
        be->ops->free(be, y);
    }
    be->ops->close(be);
}

static void embedding_reads_its_slice_in_every_type_and_zeroes_the_rest(void **state)
{
    enum { VOCAB = 20 };
    static const uint32_t dims[] = {1, 11, 64, 1000};
    static const enum sc_dtype types[] = {SC_DTYPE_F32, SC_DTYPE_BF16, SC_DTYPE_F16};
    const int32_t ids[8] = {4, 9, 3, 10, -1, 7, INT32_MAX, INT32_MIN};
    struct rng r = {4};
    struct sc_backend *cpu = open_backend(SC_CPU_ISA_PLAIN, 1);
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(dims) * 3; i++) {
        const uint32_t dim = dims[i / 3];
        const enum sc_dtype type = types[i % 3];
        uint8_t *raw = malloc((size_t)VOCAB * dim * 4 + 1);
        float *want = malloc((size_t)8 * dim * 4), *got;
        struct sc_embedding *emb = NULL, *twin = NULL;
        for (uint32_t e = 0; e < VOCAB * dim; e++) {
            float f = rng_normal(&r);
            uint16_t h = (uint16_t)(sc_f32_to_bf16(f) & (type == SC_DTYPE_F16 ? 0xbfffu : 0xffffu));
            if (type == SC_DTYPE_F32)
                memcpy(raw + 1 + (size_t)4 * e, &f, 4);
            else
                memcpy(raw + 1 + (size_t)2 * e, &h, 2);
        }
        assert_ok(be->ops->embedding_open(be, raw + 1, type, 4, 6, dim, &emb, err));
        assert_ok(cpu->ops->embedding_open(cpu, raw + 1, type, 4, 6, dim, &twin, err));
        void *out = on_device(be, NULL, (size_t)8 * dim * 4);
        assert_ok(be->ops->embed(be, emb, ids, 8, out, err));
        assert_ok(cpu->ops->embed(cpu, twin, ids, 8, want, err));
        got = from_device(be, out, (size_t)8 * dim * 4);
        assert_memory_equal(got, want, (size_t)8 * dim * 4);
        be->ops->embedding_close(be, emb);
        cpu->ops->embedding_close(cpu, twin);
        be->ops->free(be, out);
        free(got);
        free(want);
        free(raw);
    }
    struct sc_embedding *none = NULL;
    assert_fails(SC_ENOTSUP, be->ops->embedding_open(be, ids, SC_DTYPE_I32, 0, 1, 2, &none, err));
    cpu->ops->close(cpu);
    be->ops->close(be);
}

static void a_table_larger_than_the_staging_arrives_whole(void **state)
{
    enum { ROWS_MAX = 5000, DIM = 1777 }; /* 34 MiB */
    const int n_rows = small_run() ? 2500 : ROWS_MAX;
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    float *table = malloc((size_t)n_rows * DIM * 4), *got;
    int32_t ids[ROWS_MAX];
    struct sc_embedding *emb = NULL;
    (void)state;
    for (size_t i = 0; i < (size_t)n_rows * DIM; i++)
        table[i] = (float)i;
    for (int i = 0; i < n_rows; i++)
        ids[i] = n_rows - 1 - i;
    assert_ok(
        be->ops->embedding_open(be, table, SC_DTYPE_F32, 0, (uint64_t)n_rows, DIM, &emb, err));
    void *out = on_device(be, NULL, (size_t)n_rows * DIM * 4);
    assert_ok(be->ops->embed(be, emb, ids, (uint32_t)n_rows, out, err));
    got = from_device(be, out, (size_t)n_rows * DIM * 4);
    for (int i = 0; i < n_rows; i++)
        assert_memory_equal(got + (size_t)i * DIM, table + (size_t)ids[i] * DIM,
                            DIM * sizeof(float));
    free(got);
    free(table);
    be->ops->free(be, out);
    be->ops->embedding_close(be, emb);
    be->ops->close(be);
}

static void rows_are_gathered(void **state)
{
    static const uint32_t dims[] = {1, 3, 64, 1001, 4096};
    struct rng r = {5};
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    (void)state;
    for (size_t s = 0; s < SC_ARRAY_LEN(dims); s++) {
        const uint32_t dim = dims[s];
        float *x = random_floats(&r, (size_t)40 * dim);
        uint32_t rows[17];
        void *src = on_device(be, x, (size_t)40 * dim * 4);
        void *dst = on_device(be, NULL, (size_t)18 * dim * 4);
        for (int i = 0; i < 17; i++)
            rows[i] = rng_below(&r, 40);
        assert_ok(be->ops->gather_rows(be, src, rows, 17, dim, dst, err));
        float *got = from_device(be, dst, (size_t)18 * dim * 4);
        for (size_t i = 0; i < 17; i++)
            assert_memory_equal(got + i * dim, x + (size_t)rows[i] * dim, (size_t)dim * 4);
        assert_true(isnan(got[(size_t)17 * dim]));
        free(got);
        free(x);
        be->ops->free(be, src);
        be->ops->free(be, dst);
    }
    be->ops->close(be);
}

static void angles_are_cos_and_sin_of_the_f32_product(void **state)
{
    static const uint32_t dims[] = {2, 80, 128, 256};
    enum { N = 37 };
    uint32_t positions[N];
    float inv_freq[128];
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    (void)state;
    for (uint32_t i = 0; i < N; i++)
        positions[i] = i * i * 760; /* to 985 000 */
    for (size_t s = 0; s < SC_ARRAY_LEN(dims); s++) {
        const uint32_t hd = dims[s];
        void *out = on_device(be, NULL, (size_t)N * hd * 4);
        for (uint32_t j = 0; j < hd / 2; j++)
            inv_freq[j] = powf(500000.0f, -2.0f * (float)j / (float)hd);
        assert_ok(be->ops->rope_angles(be, positions, N, inv_freq, hd, 1.25f, out, err));
        for (uint32_t j = 0; j < hd / 2; j++) /* the same dimension, other frequencies */
            inv_freq[j] *= 0.5f;
        assert_ok(be->ops->rope_angles(be, positions, N, inv_freq, hd, 1.25f, out, err));
        float *got = from_device(be, out, (size_t)N * hd * 4);
        for (uint32_t i = 0; i < N; i++) {
            for (uint32_t j = 0; j < hd / 2; j++) {
                float angle = (float)positions[i] * inv_freq[j];
                /* two units in the last place of the sine, and the product with the scale */
                assert_true(fabs(got[i * hd + j] - 1.25 * cos(angle)) < 3e-7);
                assert_true(fabs(got[i * hd + hd / 2 + j] - 1.25 * sin(angle)) < 3e-7);
            }
        }
        free(got);
        be->ops->free(be, out);
    }
    assert_fails(SC_EINVAL,
                 be->ops->rope_angles(be, positions, N, inv_freq, 7, 1.0f, inv_freq, err));
    be->ops->close(be);
}

struct qkv_case {
    uint32_t n_heads, n_kv_heads, head_dim, n;
    bool norms;
    enum sc_dtype dtype;
};

/* Every entry that was written, and that its neighbours were not. */
static void compare_pools(struct sc_backend *be, struct sc_backend *cpu,
                          const struct sc_qkv_args *a, const struct sc_qkv_args *twin,
                          uint32_t n_pages, enum sc_dtype dtype, bool same_keys)
{
    const uint32_t hd = a->head_dim;
    float k[2][256], v[2][256], bias[2];
    double diff = 0.0, norm = 0.0;
    for (uint32_t page = 0; page < n_pages; page++) {
        for (uint32_t slot = 0; slot < SC_PAGE_ENTRIES; slot++) {
            for (uint32_t h = 0; h < a->n_kv_heads; h++) {
                assert_ok(be->ops->kv_read(be, a->pool, page, slot, h, k[0], v[0], &bias[0], err));
                assert_ok(
                    cpu->ops->kv_read(cpu, twin->pool, page, slot, h, k[1], v[1], &bias[1], err));
                assert_int_equal(isnan(bias[0]) != 0, isnan(bias[1]) != 0);
                if (isnan(bias[1])) {
                    assert_true(isnan(k[0][hd - 1]) && isnan(v[0][hd - 1]));
                    continue;
                }
                assert_true(bias[0] == 0.0f);
                assert_memory_equal(v[0], v[1], hd * sizeof(float));
                if (same_keys)
                    assert_memory_equal(k[0], k[1], hd * sizeof(float));
                for (uint32_t d = 0; d < hd; d++) {
                    diff += ((double)k[0][d] - k[1][d]) * ((double)k[0][d] - k[1][d]);
                    norm += (double)k[1][d] * k[1][d];
                }
            }
        }
    }
    /* A last bit of f32 may tip the rounding of a few elements, by 2^-8 of each in bf16, 1/127 of
     * the row's largest in int8. */
    printf("  %s keys %.2e\n", sc_dtype_name(dtype), sqrt(diff / norm));
    assert_true(same_keys || sqrt(diff / norm) < (dtype == SC_DTYPE_F32 ? F32_LIMIT : 1e-3));
}

static void check_qkv(const struct qkv_case *c, struct rng *r)
{
    struct sc_backend *cpu = open_backend(SC_CPU_ISA_PLAIN, 2);
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    const uint32_t width = (c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    const size_t size = (size_t)c->n * width;
    const uint32_t n_pages = small_run() ? (c->n + 31) / 32 : 6;
    /* Angles of 0: then keys have the twin's bits, too. */
    const bool still = !c->norms && c->dtype == SC_DTYPE_I8;
    uint32_t pages[130], slots[130];
    float *x = random_floats(r, size), *angles = random_floats(r, (size_t)c->n * c->head_dim);
    float *norm = random_floats(r, c->head_dim), *q, *want;
    struct sc_qkv_args twin = {.qkv = x, .angles = angles, .pages = pages, .slots = slots};

    for (uint32_t i = 0; i < c->n; i++) {
        pages[i] = n_pages - 1 - i / 32;
        slots[i] = (i + 3) % 32;
        for (uint32_t d = 0; still && d < c->head_dim; d++) {
            /* as small as has a scale of few bits, and nothing */
            const float by = i == 1 ? 1e-43f : i == 2 ? 0.0f : i == 3 ? 1e37f : 1.0f;
            angles[i * c->head_dim + d] = d < c->head_dim / 2 ? 1.0f : 0.0f;
            for (uint32_t h = c->n_heads; h < width / c->head_dim; h++)
                x[(size_t)i * width + h * c->head_dim + d] *= by;
        }
    }
    twin.q_norm = c->norms ? norm : NULL;
    twin.k_norm = c->norms ? norm : NULL;
    twin.n_rows = c->n;
    twin.n_heads = c->n_heads;
    twin.n_kv_heads = c->n_kv_heads;
    twin.head_dim = c->head_dim;
    twin.eps = 1e-6f;
    struct sc_qkv_args a = twin;
    a.qkv = on_device(be, x, size * 4);
    a.angles = on_device(be, angles, (size_t)c->n * c->head_dim * 4);
    if (c->norms)
        a.q_norm = a.k_norm = on_device(be, norm, c->head_dim * 4);
    twin.pool = open_garbage_pool(cpu, c->n_kv_heads, c->head_dim, c->dtype, n_pages);
    a.pool = open_garbage_pool(be, c->n_kv_heads, c->head_dim, c->dtype, n_pages);
    assert_ok(be->ops->qkv(be, &a, err));
    assert_ok(cpu->ops->qkv(cpu, &twin, err));
    q = from_device(be, a.qkv, size * 4);
    want = malloc(size * 4);
    memcpy(want, x, size * 4);
    for (uint32_t i = 0; i < c->n; i++) { /* what follows the queries is nobody's */
        for (uint32_t d = c->n_heads * c->head_dim; d < width; d++)
            q[(size_t)i * width + d] = want[(size_t)i * width + d] = 0.0f;
    }
    assert_close("queries", q, want, size, F32_LIMIT);
    compare_pools(be, cpu, &a, &twin, n_pages, c->dtype, still);
    slots[0] = 32;
    assert_fails(SC_EINVAL, be->ops->qkv(be, &a, err));
    slots[0] = 0;
    pages[0] = n_pages;
    assert_fails(SC_EINVAL, be->ops->qkv(be, &a, err));
    be->ops->kv_close(be, a.pool);
    cpu->ops->kv_close(cpu, twin.pool);
    be->ops->free(be, a.qkv);
    be->ops->free(be, (void *)(uintptr_t)a.angles);
    be->ops->free(be, (void *)(uintptr_t)a.q_norm);
    be->ops->close(be);
    cpu->ops->close(cpu);
    free(x);
    free(angles);
    free(norm);
    free(q);
    free(want);
}

static void qkv_normalises_rotates_and_stores(void **state)
{
    static const struct qkv_case cases[] = {
        {1, 1, 8, 3, false, SC_DTYPE_F32},     {8, 2, 64, 130, true, SC_DTYPE_BF16},
        {7, 1, 24, 33, true, SC_DTYPE_F32},    {4, 4, 80, 9, false, SC_DTYPE_BF16},
        {2, 1, 128, 40, true, SC_DTYPE_BF16},  {3, 3, 2, 5, false, SC_DTYPE_F32},
        {4, 2, 96, 17, true, SC_DTYPE_F32},    {3, 1, 256, 2, true, SC_DTYPE_F32},
        {32, 8, 128, 1, false, SC_DTYPE_BF16}, {8, 2, 64, 130, true, SC_DTYPE_I8},
        {4, 4, 80, 9, false, SC_DTYPE_I8},     {2, 1, 128, 40, true, SC_DTYPE_I8},
        {3, 3, 2, 5, false, SC_DTYPE_I8},      {3, 2, 18, 70, true, SC_DTYPE_I8},
        {3, 1, 256, 33, true, SC_DTYPE_I8},    {2, 2, 64, 40, false, SC_DTYPE_I8},
        {1, 1, 18, 40, false, SC_DTYPE_I8},    {32, 8, 128, 130, false, SC_DTYPE_BF16},
        {7, 2, 256, 70, true, SC_DTYPE_F32},   {5, 1, 128, 65, true, SC_DTYPE_I8},
        {6, 1, 24, 64, true, SC_DTYPE_BF16},
    };
    /* Of each type: heads of whole pairs of pairs and not, many rows. */
    static const struct qkv_case few[] = {
        {3, 1, 18, 5, true, SC_DTYPE_F32},  {1, 1, 24, 5, false, SC_DTYPE_F32},
        {7, 1, 24, 64, true, SC_DTYPE_F32}, {3, 1, 18, 5, true, SC_DTYPE_BF16},
        {1, 1, 24, 5, true, SC_DTYPE_BF16}, {6, 1, 24, 64, false, SC_DTYPE_BF16},
        {3, 1, 18, 5, true, SC_DTYPE_I8},   {1, 1, 256, 5, false, SC_DTYPE_I8},
        {5, 1, 24, 64, true, SC_DTYPE_I8},
    };
    struct rng r = {6};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(few) && small_run(); i++)
        check_qkv(&few[i], &r);
    for (size_t i = 0; i < SC_ARRAY_LEN(cases) && !small_run(); i++)
        check_qkv(&cases[i], &r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_is_that_of_the_cpu),
        cmocka_unit_test(norm_without_output_only_adds),
        cmocka_unit_test(swiglu_matches_double_precision_over_the_whole_range),
        cmocka_unit_test(rows_do_not_depend_on_their_neighbours),
        cmocka_unit_test(embedding_reads_its_slice_in_every_type_and_zeroes_the_rest),
        cmocka_unit_test(a_table_larger_than_the_staging_arrives_whole),
        cmocka_unit_test(rows_are_gathered),
        cmocka_unit_test(angles_are_cos_and_sin_of_the_f32_product),
        cmocka_unit_test(qkv_normalises_rotates_and_stores),
    };
    skip_without_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
