#include "tests/cuda/support.h"

/* head_dim 2 and 18: rows that no wide access fits; 8 heads of 128: the shape of an 8B model. */
static const struct sc_kv_spec specs[] = {
    {1, 2, SC_DTYPE_F32},   {3, 18, SC_DTYPE_F32},   {2, 64, SC_DTYPE_F32},
    {1, 256, SC_DTYPE_F32}, {1, 2, SC_DTYPE_BF16},   {3, 18, SC_DTYPE_BF16},
    {2, 80, SC_DTYPE_BF16}, {8, 128, SC_DTYPE_BF16}, {1, 256, SC_DTYPE_BF16},
    {1, 2, SC_DTYPE_I8},    {3, 18, SC_DTYPE_I8},    {2, 80, SC_DTYPE_I8},
    {8, 128, SC_DTYPE_I8},  {1, 256, SC_DTYPE_I8}};

#define N_PAGES 3u

static struct sc_backend *be, *cpu;

/* To a kernel entries are bytes: a small run does without many heads and long rows. */
static bool left_out(const struct sc_kv_spec *spec)
{
    return small_run() && (spec->n_kv_heads > 3 || spec->head_dim > 80);
}

static struct sc_kv_pool *open_pool(struct sc_backend *on, const struct sc_kv_spec *spec)
{
    struct sc_kv_pool *pool = NULL;
    assert_ok(on->ops->kv_open(on, spec, N_PAGES, &pool, err));
    return pool;
}

static void entries_are_read_as_they_were_written(void **state)
{
    struct rng r = {1};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(specs); i++) {
        const uint32_t hd = specs[i].head_dim, heads = specs[i].n_kv_heads;
        if (left_out(&specs[i]))
            continue;
        struct sc_kv_pool *pool = open_pool(be, &specs[i]);
        const size_t n = (size_t)N_PAGES * SC_PAGE_ENTRIES * heads, step = small_run() ? 11 : 1;
        float *k = random_floats(&r, n * hd), *v = random_floats(&r, n * hd);
        float got_k[256], got_v[256], bias;
        for (size_t e = 0; e < n; e += step)
            assert_ok(be->ops->kv_write(be, pool, (uint32_t)(e / heads / SC_PAGE_ENTRIES),
                                        e / heads % SC_PAGE_ENTRIES, e % heads, k + e * hd,
                                        v + e * hd, (float)e, err));
        for (size_t e = 0; e < n; e += step) {
            assert_ok(be->ops->kv_read(be, pool, (uint32_t)(e / heads / SC_PAGE_ENTRIES),
                                       e / heads % SC_PAGE_ENTRIES, e % heads, got_k, got_v, &bias,
                                       err));
            to_kept_row(k + e * hd, hd, specs[i].dtype);
            to_kept_row(v + e * hd, hd, specs[i].dtype);
            assert_memory_equal(got_k, k + e * hd, hd * sizeof(float));
            assert_memory_equal(got_v, v + e * hd, hd * sizeof(float));
            assert_true(bias == (float)e);
        }
        free(k);
        free(v);
        be->ops->kv_close(be, pool);
    }
}

/* What one backend packs the other unpacks: a core file goes from one to the other. Runs over
 * several pages, in any order, begin and end anywhere in one. */
static void packed_entries_are_the_same_bytes_on_both_backends(void **state)
{
    enum { MOST = N_PAGES * SC_PAGE_ENTRIES };
    static uint8_t k[2][MOST * 256 * 4], v[2][MOST * 256 * 4];
    static const uint32_t orders[][N_PAGES] = {{0, 1, 2}, {2, 0, 1}, {1, 2, 0}};
    float bias[2][MOST];
    struct rng r = {2};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(specs); i++) {
        const uint32_t hd = specs[i].head_dim, heads = specs[i].n_kv_heads;
        const size_t row = sc_kv_row_bytes(specs[i].dtype, hd);
        if (left_out(&specs[i]))
            continue;
        struct sc_kv_pool *pool = open_pool(be, &specs[i]), *twin = open_pool(cpu, &specs[i]);
        fill_pools(&r, be, pool, cpu, twin, N_PAGES, heads, hd, specs[i].dtype);
        for (int round = 0; round < (small_run() ? 6 : 60); round++) {
            const uint32_t *from = orders[rng_below(&r, 3)], *to = orders[rng_below(&r, 3)];
            uint32_t first = rng_below(&r, MOST), n = 1 + rng_below(&r, MOST - first);
            uint32_t h = rng_below(&r, heads), g = rng_below(&r, heads);
            n = round % 3 == 0 && n > 20 ? 20 : n;
            assert_ok(be->ops->kv_pack(be, pool, from, first, n, h, k[0], v[0], bias[0], err));
            assert_ok(cpu->ops->kv_pack(cpu, twin, from, first, n, h, k[1], v[1], bias[1], err));
            assert_memory_equal(k[0], k[1], n * row);
            assert_memory_equal(v[0], v[1], n * row);
            assert_memory_equal(bias[0], bias[1], n * sizeof(float));
            first = rng_below(&r, MOST + 1 - n);
            assert_ok(be->ops->kv_unpack(be, pool, to, first, n, g, k[1], v[1], bias[1], err));
            assert_ok(cpu->ops->kv_unpack(cpu, twin, to, first, n, g, k[0], v[0], bias[0], err));
        }
        be->ops->kv_close(be, pool);
        cpu->ops->kv_close(cpu, twin);
    }
}

/* More than there is pinned memory for at once. */
static void a_long_run_is_packed_whole(void **state)
{
    enum { HD = 256, PAGES = 300, N = PAGES * SC_PAGE_ENTRIES - 9 };
    const struct sc_kv_spec spec = {1, HD, SC_DTYPE_F32};
    struct sc_kv_pool *pool = NULL;
    struct rng r = {5};
    uint32_t pages[PAGES];
    float *rows = random_floats(&r, (size_t)(N + 1) * HD), *bias = random_floats(&r, N);
    float *k = malloc((size_t)N * HD * 4), *v = malloc((size_t)N * HD * 4), *b = malloc(N * 4);
    (void)state;
    assert_ok(be->ops->kv_open(be, &spec, PAGES, &pool, err));
    for (uint32_t i = 0; i < PAGES; i++)
        pages[i] = (i * 7 + 3) % PAGES;
    assert_ok(be->ops->kv_unpack(be, pool, pages, 5, N, 0, rows, rows + HD / 2, bias, err));
    assert_ok(be->ops->kv_pack(be, pool, pages, 5, N, 0, k, v, b, err));
    assert_memory_equal(k, rows, (size_t)N * HD * 4);
    assert_memory_equal(v, rows + HD / 2, (size_t)N * HD * 4);
    assert_memory_equal(b, bias, N * 4);
    be->ops->kv_close(be, pool);
    free(rows);
    free(bias);
    free(k);
    free(v);
    free(b);
}

/* A file may hold anything that a checksum lets through; -128 and any scale are in it. */
static void any_bytes_of_int8_rows_mean_what_they_mean_to_the_cpu(void **state)
{
    enum { HD = 64, ROW = HD + 4 };
    const struct sc_kv_spec spec = {1, HD, SC_DTYPE_I8};
    struct sc_kv_pool *pool = open_pool(be, &spec), *twin = open_pool(cpu, &spec);
    uint8_t k[2][32 * ROW], v[2][32 * ROW];
    float bias[2][32] = {{0}}, x[2][HD], y[2][HD], b[2];
    struct rng r = {4};
    (void)state;
    for (uint32_t i = 0; i < 32 * ROW; i++) {
        k[0][i] = (uint8_t)rng_u32(&r);
        v[0][i] = (uint8_t)i;
    }
    assert_ok(
        be->ops->kv_unpack(be, pool, (const uint32_t[]){1}, 0, 32, 0, k[0], v[0], bias[0], err));
    assert_ok(
        cpu->ops->kv_unpack(cpu, twin, (const uint32_t[]){1}, 0, 32, 0, k[0], v[0], bias[0], err));
    assert_ok(
        be->ops->kv_pack(be, pool, (const uint32_t[]){1}, 0, 32, 0, k[0], v[0], bias[0], err));
    assert_ok(
        cpu->ops->kv_pack(cpu, twin, (const uint32_t[]){1}, 0, 32, 0, k[1], v[1], bias[1], err));
    assert_memory_equal(k[0], k[1], sizeof(k[0]));
    assert_memory_equal(v[0], v[1], sizeof(v[0]));
    for (uint32_t slot = 0; slot < 32; slot++) {
        assert_ok(be->ops->kv_read(be, pool, 1, slot, 0, x[0], y[0], &b[0], err));
        assert_ok(cpu->ops->kv_read(cpu, twin, 1, slot, 0, x[1], y[1], &b[1], err));
        for (uint32_t d = 0; d < HD; d++)
            assert_true(x[0][d] == x[1][d] || (isnan(x[0][d]) && isnan(x[1][d])));
    }
    be->ops->kv_close(be, pool);
    cpu->ops->kv_close(cpu, twin);
}

static void a_copied_page_holds_all_heads_and_leaves_the_others_alone(void **state)
{
    struct rng r = {3};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(specs); i++) {
        const uint32_t hd = specs[i].head_dim, heads = specs[i].n_kv_heads;
        if (left_out(&specs[i]))
            continue;
        struct sc_kv_pool *pool = open_pool(be, &specs[i]), *twin = open_pool(cpu, &specs[i]);
        float k[2][256], v[2][256], bias[2];
        fill_pools(&r, be, pool, cpu, twin, N_PAGES, heads, hd, specs[i].dtype);
        assert_ok(be->ops->kv_copy(be, pool, 2, 0, err));
        assert_ok(be->ops->kv_copy(be, pool, 1, 1, err));
        for (uint32_t e = 0; e < N_PAGES * 32 * heads; e += small_run() ? 11 : 1) {
            uint32_t page = e / heads / 32, slot = e / heads % 32, h = e % heads;
            assert_ok(be->ops->kv_read(be, pool, page, slot, h, k[0], v[0], &bias[0], err));
            assert_ok(cpu->ops->kv_read(cpu, twin, page % 2, slot, h, k[1], v[1], &bias[1], err));
            assert_memory_equal(k[0], k[1], hd * sizeof(float));
            assert_memory_equal(v[0], v[1], hd * sizeof(float));
            assert_true(bias[0] == bias[1]);
        }
        be->ops->kv_close(be, pool);
        cpu->ops->kv_close(cpu, twin);
    }
}

static void bad_shapes_and_entries_are_refused(void **state)
{
    const struct sc_kv_spec good = {2, 16, SC_DTYPE_F32};
    const struct sc_kv_spec bad[] = {{0, 16, SC_DTYPE_F32},  {5000, 16, SC_DTYPE_F32},
                                     {2, 0, SC_DTYPE_F32},   {2, 17, SC_DTYPE_F32},
                                     {2, 258, SC_DTYPE_F32}, {2, 16, SC_DTYPE_F16}};
    struct sc_kv_pool *pool = NULL;
    float k[32 * 16] = {0}, v[32 * 16] = {0}, bias[32] = {0};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(bad); i++) {
        assert_fails(bad[i].dtype == SC_DTYPE_F16 ? SC_ENOTSUP : SC_EINVAL,
                     be->ops->kv_open(be, &bad[i], 1, &pool, err));
        assert_int_equal(be->ops->kv_page_bytes(be, &bad[i]), 0);
    }
    assert_true(be->ops->kv_page_bytes(be, &good) >= (2 * 16 + 1) * 32 * 2 * sizeof(float));
    assert_fails(SC_EINVAL, be->ops->kv_open(be, &good, 0, &pool, err));
    /* 36 TB: more than any device has, and the message says how much there is. */
    assert_fails(SC_ENOMEM, be->ops->kv_open(be, &good, UINT32_MAX, &pool, err));
    be->ops->kv_close(be, NULL);

    pool = open_pool(be, &good);
    assert_fails(SC_EINVAL, be->ops->kv_read(be, pool, N_PAGES, 0, 0, k, v, bias, err));
    assert_fails(SC_EINVAL, be->ops->kv_read(be, pool, 0, 32, 0, k, v, bias, err));
    assert_fails(SC_EINVAL, be->ops->kv_write(be, pool, 0, 0, 2, k, v, 0.0f, err));
    const uint32_t pages[] = {0, N_PAGES}; /* the second does not exist */
    assert_fails(SC_EINVAL, be->ops->kv_pack(be, pool, pages, 1, 32, 0, k, v, bias, err));
    assert_fails(SC_EINVAL, be->ops->kv_pack(be, pool, pages, 32, 1, 0, k, v, bias, err));
    assert_fails(SC_EINVAL, be->ops->kv_pack(be, pool, pages, 0, 0, 0, k, v, bias, err));
    assert_fails(SC_EINVAL, be->ops->kv_pack(be, pool, pages, 0, 1, 2, k, v, bias, err));
    assert_fails(SC_EINVAL, be->ops->kv_unpack(be, pool, pages, UINT32_MAX, 2, 0, k, v, bias, err));
    assert_fails(SC_EINVAL, be->ops->kv_unpack(be, pool, pages, 0, 33, 0, k, v, bias, err));
    assert_fails(SC_EINVAL, be->ops->kv_copy(be, pool, N_PAGES, 0, err));
    assert_fails(SC_EINVAL, be->ops->kv_copy(be, pool, 0, N_PAGES, err));
    be->ops->kv_close(be, pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_are_read_as_they_were_written),
        cmocka_unit_test(packed_entries_are_the_same_bytes_on_both_backends),
        cmocka_unit_test(a_long_run_is_packed_whole),
        cmocka_unit_test(any_bytes_of_int8_rows_mean_what_they_mean_to_the_cpu),
        cmocka_unit_test(a_copied_page_holds_all_heads_and_leaves_the_others_alone),
        cmocka_unit_test(bad_shapes_and_entries_are_refused),
    };
    skip_without_device();
    be = open_cuda(SC_MATH_AUTO, false);
    cpu = open_backend(SC_CPU_ISA_PLAIN, 1);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    be->ops->close(be);
    cpu->ops->close(cpu);
    return failed;
}
