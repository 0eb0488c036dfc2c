/* Outliers: the distance to the mean key on the diagonal, and what clusters make of it. */
#include "tests/cpu/support.h"

#include "cpu/gsc.h"

#define HEADS    3u
#define HEAD_DIM 48u
#define POS0     1037u /* the mean key is turned far */
#define M        45u
#define CAP      (40 * 65536)

struct scene {
    struct sc_backend *be;
    struct sc_kv_pool *pool;
    uint32_t pages[40];
    float inv_freq[HEAD_DIM / 2], inv_var[HEADS], mean[HEADS * HEAD_DIM];
    float *k; /* [M][HEADS][HEAD_DIM], as stored */
    struct sc_chunk_job job;
};

static void scene_open(struct scene *s, enum sc_cpu_isa isa, enum sc_dtype dtype)
{
    struct rng r = {7};

    memset(s, 0, sizeof(*s));
    s->be = open_backend(isa, 2);
    s->pool = open_garbage_pool(s->be, HEADS, HEAD_DIM, dtype, 40);
    for (uint32_t i = 0; i < SC_ARRAY_LEN(s->pages); i++)
        s->pages[i] = 39 - i;
    s->k = random_floats(&r, (size_t)M * HEADS * HEAD_DIM);
    float *mean = random_floats(&r, (size_t)HEADS * HEAD_DIM);
    memcpy(s->mean, mean, sizeof(s->mean));
    free(mean);
    for (uint32_t d = 0; d < HEAD_DIM / 2; d++)
        s->inv_freq[d] = powf(10000.0f, -2.0f * (float)d / (float)HEAD_DIM);
    for (uint32_t h = 0; h < HEADS; h++)
        s->inv_var[h] = 0.5f / (float)HEAD_DIM * (float)(h + 1);
    for (uint32_t i = 0; i < M; i++)
        for (uint32_t h = 0; h < HEADS; h++) {
            float *k = s->k + (size_t)(i * HEADS + h) * HEAD_DIM;
            for (uint32_t d = 0; d < HEAD_DIM; d++)
                k[d] = to_dtype(k[d], dtype);
            assert_ok(s->be->ops->kv_write(s->be, s->pool, s->pages[(POS0 + i) / 32],
                                           (POS0 + i) % 32, h, k, k, 0.0f, err));
        }
    s->job = (struct sc_chunk_job){
        .exact_pages = s->pages, .pos0 = POS0, .m = M, .inv_var = s->inv_var, .mean_key = s->mean};
}

static void scene_close(struct scene *s)
{
    s->be->ops->kv_close(s->be, s->pool);
    s->be->ops->close(s->be);
    free(s->k);
}

/* Of token i's key turned back to position 0, in double precision. */
static double reference(const struct scene *s, uint32_t i, uint32_t h)
{
    const float *k = s->k + (size_t)(i * HEADS + h) * HEAD_DIM, *mean = s->mean + h * HEAD_DIM;
    double sum = 0.0;
    for (uint32_t d = 0; d < HEAD_DIM / 2; d++) {
        const double angle = (double)(POS0 + i) * (double)s->inv_freq[d];
        const double a = (double)k[d], b = (double)k[d + HEAD_DIM / 2];
        const double x = a * cos(angle) + b * sin(angle) - (double)mean[d];
        const double y = b * cos(angle) - a * sin(angle) - (double)mean[d + HEAD_DIM / 2];
        sum += x * x + y * y;
    }
    return fmin(sum * (double)s->inv_var[h] * (double)SC_DIST_ONE, CAP);
}

static struct sc_dist_args dist_args(const struct scene *s, enum sc_metric metric,
                                     uint32_t n_planes, int32_t *dist)
{
    return (struct sc_dist_args){.pool = s->pool,
                                 .jobs = &s->job,
                                 .n_jobs = 1,
                                 .n_planes = n_planes,
                                 .n_kv_heads = HEADS,
                                 .head_dim = HEAD_DIM,
                                 .metric = metric,
                                 .inv_freq = s->inv_freq,
                                 .cap = CAP,
                                 .contributes = true,
                                 .dist = dist};
}

/* Distances are taken from where the mean key is, where one is known: other roundings. */
static void check_the_rest(const int32_t *with, const int32_t *without, uint32_t n_planes)
{
    const int32_t unit = n_planes == 1 ? HEADS : 1; /* a head's value may round the other way */
    for (uint32_t at = 0; at < n_planes * M * M; at++) {
        if (at % (M * M) % (M + 1) != 0)
            assert_true(abs(with[at] - without[at]) <= unit);
    }
}

static void the_diagonal_is_the_distance_to_the_mean_key_whatever_the_metric(void **state)
{
    static int32_t with[HEADS][M][M], without[HEADS][M][M];
    (void)state;
    announce_isas();
    FOR_EACH_ISA(isa)
    {
        struct scene s;
        scene_open(&s, isa, isa % 2 ? SC_DTYPE_BF16 : SC_DTYPE_F32);
        for (int metric = 0; metric < 4; metric++)
            for (uint32_t n_planes = 1; n_planes <= HEADS; n_planes += HEADS - 1) {
                struct sc_dist_args a =
                    dist_args(&s, (enum sc_metric)metric, n_planes, &with[0][0][0]);
                assert_ok(s.be->ops->distances(s.be, &a, err));
                s.job.mean_key = NULL;
                a.dist = &without[0][0][0];
                assert_ok(s.be->ops->distances(s.be, &a, err));
                s.job.mean_key = s.mean;
                for (uint32_t p = 0; p < n_planes; p++)
                    for (uint32_t i = 0; i < M; i++) {
                        double want = 0.0;
                        for (uint32_t h = 0; h < HEADS; h++)
                            want += n_planes == 1 || h == p ? reference(&s, i, h) : 0.0;
                        /* the angle is a float of some hundreds */
                        assert_true(fabs(with[p][i][i] - want) <= 2.0 + 1e-4 * want);
                        assert_int_equal(without[p][i][i], 0);
                    }
                check_the_rest(&with[0][0][0], &without[0][0][0], n_planes);
            }
        scene_close(&s);
    }
}

static void tokens_above_the_limit_are_as_good_as_forced(void **state)
{
    static int32_t dist[M][M];
    uint8_t labels[2][M], seeds[2][M];
    uint32_t counts[2];
    struct scene s;
    (void)state;
    scene_open(&s, sc_cpu_isa_best(), SC_DTYPE_F32);
    struct sc_dist_args a = dist_args(&s, SC_METRIC_L2_PRE, 1, &dist[0][0]);
    assert_ok(s.be->ops->distances(s.be, &a, err));
    s.job.tau = INT64_MAX; /* all that may merge do */
    s.job.alone_above = (dist[3][3] + dist[7][7]) / 2;
    for (uint32_t pass = 0; pass < 2; pass++) {
        const struct sc_cluster_args c = {.jobs = &s.job,
                                          .n_jobs = 1,
                                          .n_planes = 1,
                                          .dist = &dist[0][0],
                                          .labels = labels[pass],
                                          .seeds = seeds[pass],
                                          .counts = &counts[pass]};
        assert_ok(s.be->ops->cluster(s.be, &c, err));
        for (uint32_t i = 0; i < M; i++)
            if (dist[i][i] > s.job.alone_above)
                s.job.forced[0] |= 1ull << i;
        s.job.alone_above = pass == 0 ? INT64_MAX : 0;
    }
    assert_true(counts[0] > 1 && counts[0] < M);
    assert_int_equal(counts[0], counts[1]);
    assert_memory_equal(labels[0], labels[1], sizeof(labels[0]));
    scene_close(&s);
}

/* Ties, too: of equals the one with the lowest index. */
static void of_many_outliers_the_farthest_stay_alone(void **state)
{
    enum { N = 128 };
    static int32_t dist[N][N];
    struct rng r = {21};
    (void)state;
    for (uint32_t turn = 0; turn < 200; turn++) {
        uint32_t m = 1 + rng_below(&r, N), most = rng_below(&r, m + 2),
                 spread = 1 + rng_below(&r, 40);
        uint64_t forced[2] = {0}, got[2];
        int64_t limit = rng_below(&r, spread);
        int32_t *d = &dist[0][0];
        uint32_t n_above = 0, n_alone = 0;
        for (uint32_t i = 0; i < m; i++) {
            d[(size_t)i * m + i] = (int32_t)rng_below(&r, spread + 1);
            if (rng_below(&r, 10) == 0)
                forced[i / 64] |= 1ull << (i % 64);
        }
        sc_gsc_force_outliers(d, m, limit, most, forced, got);
        for (uint32_t i = 0; i < m; i++) {
            int32_t x = d[(size_t)i * m + i];
            bool was = forced[i / 64] >> (i % 64) & 1, is = got[i / 64] >> (i % 64) & 1;
            assert_true(is || !was);
            n_above += !was && x > limit;
            n_alone += !was && is;
            assert_true(was || !is || x > limit);
            for (uint32_t j = 0; j < m; j++) { /* whoever is not alone gives way to nobody nearer */
                int32_t y = d[(size_t)j * m + j];
                bool other = got[j / 64] >> (j % 64) & 1, free = !(forced[j / 64] >> (j % 64) & 1);
                if (!was && is && free && !other)
                    assert_true(x > y || (x == y && i < j));
            }
        }
        assert_int_equal(n_alone, most == 0 || n_above < most ? n_above : most);
    }
}

static void mean_keys_need_angles_and_scales(void **state)
{
    static int32_t dist[M][M];
    struct scene s;
    (void)state;
    scene_open(&s, sc_cpu_isa_best(), SC_DTYPE_F32);
    struct sc_dist_args a = dist_args(&s, SC_METRIC_COS_POST, 1, &dist[0][0]);
    a.inv_freq = NULL;
    assert_fails(SC_EINVAL, s.be->ops->distances(s.be, &a, err));
    scene_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_diagonal_is_the_distance_to_the_mean_key_whatever_the_metric),
        cmocka_unit_test(tokens_above_the_limit_are_as_good_as_forced),
        cmocka_unit_test(of_many_outliers_the_farthest_stay_alone),
        cmocka_unit_test(mean_keys_need_angles_and_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
