/* Distances as |x|^2 + |y|^2 - 2 x.y: what cancels may not be seen, and nothing but the pair may
 * count. What they are at all: test_compress.c. */
#include "tests/cpu/support.h"

#define HEADS    2u
#define HEAD_DIM 72u /* no multiple of a vector */
#define POS0     45u
#define M        128u
#define CAP      (2000 * 65536)

struct scene {
    struct sc_backend *be;
    struct sc_kv_pool *pool;
    uint32_t pages[8];
    float inv_freq[HEAD_DIM / 2], inv_var[HEADS], mean[HEADS * HEAD_DIM];
    float *k; /* [M][HEADS][HEAD_DIM], as stored */
    struct sc_chunk_job job;
};

static float *key(const struct scene *s, uint32_t i, uint32_t h)
{
    return s->k + (size_t)(i * HEADS + h) * HEAD_DIM;
}

static void write_keys(struct scene *s)
{
    for (uint32_t i = 0; i < M; i++)
        for (uint32_t h = 0; h < HEADS; h++)
            assert_ok(s->be->ops->kv_write(s->be, s->pool, s->pages[(POS0 + i) / 32],
                                           (POS0 + i) % 32, h, key(s, i, h), key(s, i, h), 0.0f,
                                           err));
}

/* Keys of variance 1 in every dimension around a mean of `far` in every dimension, which stands at
 * position 0. turning: keys of a model; without, all angles are 0, so that what is stored equal is
 * equal. */
static void scene_open(struct scene *s, enum sc_cpu_isa isa, float far, bool turning)
{
    struct rng r = {7};

    memset(s, 0, sizeof(*s));
    s->be = open_backend(isa, 2);
    s->pool = open_garbage_pool(s->be, HEADS, HEAD_DIM, SC_DTYPE_F32, 8);
    for (uint32_t i = 0; i < SC_ARRAY_LEN(s->pages); i++)
        s->pages[i] = 7 - i;
    s->k = random_floats(&r, (size_t)M * HEADS * HEAD_DIM);
    for (uint32_t d = 0; turning && d < HEAD_DIM / 2; d++)
        s->inv_freq[d] = powf(10000.0f, -2.0f * (float)d / (float)HEAD_DIM);
    for (uint32_t h = 0; h < HEADS; h++)
        s->inv_var[h] = 1.0f / (float)HEAD_DIM;
    for (uint32_t d = 0; d < HEADS * HEAD_DIM; d++)
        s->mean[d] = d % 3 == 0 ? -far : far;
    for (uint32_t i = 0; i < M; i++)
        for (uint32_t h = 0; h < HEADS; h++) {
            float *lo = key(s, i, h), *hi = lo + HEAD_DIM / 2;
            for (uint32_t d = 0; d < HEAD_DIM / 2; d++) {
                const double angle = (double)(POS0 + i) * (double)s->inv_freq[d];
                const double x = (double)(lo[d] + s->mean[h * HEAD_DIM + d]);
                const double y = (double)(hi[d] + s->mean[h * HEAD_DIM + d + HEAD_DIM / 2]);
                lo[d] = (float)(x * cos(angle) - y * sin(angle));
                hi[d] = (float)(y * cos(angle) + x * sin(angle));
            }
        }
    s->job = (struct sc_chunk_job){
        .exact_pages = s->pages, .pos0 = POS0, .m = M, .inv_var = s->inv_var, .mean_key = s->mean};
    write_keys(s);
}

static void scene_close(struct scene *s)
{
    s->be->ops->kv_close(s->be, s->pool);
    s->be->ops->close(s->be);
    free(s->k);
}

/* dist [n_planes][m][m] */
static void measure(struct scene *s, enum sc_metric metric, uint32_t m, uint32_t n_planes,
                    int32_t *dist)
{
    s->job.m = m;
    const struct sc_dist_args a = {.pool = s->pool,
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
    assert_ok(s->be->ops->distances(s->be, &a, err));
}

/* In double precision, from what is stored. */
static double reference(const struct scene *s, uint32_t i, uint32_t j, uint32_t h, bool pre)
{
    double sum = 0.0;
    for (uint32_t d = 0; d < HEAD_DIM / 2; d++) {
        double x[2], y[2];
        for (uint32_t side = 0; side < 2; side++) {
            const uint32_t t = side == 0 ? i : j;
            const double angle = pre ? (double)((float)t * s->inv_freq[d]) : 0.0;
            const double a = (double)key(s, t, h)[d], b = (double)key(s, t, h)[d + HEAD_DIM / 2];
            x[side] = a * cos(angle) + b * sin(angle);
            y[side] = b * cos(angle) - a * sin(angle);
        }
        sum += (x[0] - x[1]) * (x[0] - x[1]) + (y[0] - y[1]) * (y[0] - y[1]);
    }
    return sum * (double)s->inv_var[h] * (double)SC_DIST_ONE;
}

/* The largest error of a pair, in units of the fixed point. */
static double largest_error(struct scene *s, enum sc_metric metric)
{
    static int32_t dist[HEADS][M][M];
    double most = 0.0;
    measure(s, metric, M, HEADS, &dist[0][0][0]);
    for (uint32_t h = 0; h < HEADS; h++)
        for (uint32_t i = 0; i < M; i++)
            for (uint32_t j = 0; j < i; j++)
                most = fmax(
                    most, fabs(dist[h][i][j] - reference(s, i, j, h, metric == SC_METRIC_L2_PRE)));
    return most;
}

/* Half a unit is the rounding to whole numbers. Distances here are about 2, 131072 units. Where the
 * keys are not centred it is 67. */
static void keys_far_from_the_origin_lose_no_digits(void **state)
{
    (void)state;
    announce_isas();
    FOR_EACH_ISA(isa)
    {
        for (uint32_t turning = 0; turning < 2; turning++) {
            struct scene s;
            scene_open(&s, isa, 30.0f, turning != 0);
            const double with = largest_error(&s, SC_METRIC_L2_PRE);
            s.job.mean_key = NULL;
            const double without = largest_error(&s, SC_METRIC_L2_PRE);
            /* turned keys have no common mean where they stand */
            const double post = turning != 0 ? 0.0 : largest_error(&s, SC_METRIC_L2_POST);
            printf("%s: errors of %.2f, without a mean key %.2f, as stored %.2f units\n",
                   sc_cpu_isa_name(isa), with, without, post);
            assert_true(with < 1.5 && without < 1.5 && post < 1.5);
            scene_close(&s);
        }
    }
}

/* Far from all others, where most digits cancel, in pairs that are equal or one bit apart. */
static void equal_keys_are_at_zero_and_near_ones_not_below(void **state)
{
    static int32_t dist[HEADS][M][M];
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct scene s;
        scene_open(&s, isa, 0.0f, false);
        for (uint32_t i = 0; i < M; i += 4)
            for (uint32_t h = 0; h < HEADS; h++)
                for (uint32_t d = 0; d < HEAD_DIM; d++) {
                    float *x = &key(&s, i, h)[d];
                    *x += *x > 0.0f ? 30.0f : -30.0f;
                    key(&s, i + 1, h)[d] = *x;
                    key(&s, i + 2, h)[d] = nextafterf(*x, (float)(d % 3) * 100.0f - 100.0f);
                }
        write_keys(&s);
        for (int metric = 0; metric < 4; metric++)
            for (uint32_t known = 0; known < 2; known++) {
                s.job.mean_key = known != 0 ? s.mean : NULL;
                measure(&s, (enum sc_metric)metric, M, HEADS, &dist[0][0][0]);
                for (uint32_t h = 0; h < HEADS; h++)
                    for (uint32_t i = 0; i < M; i++)
                        for (uint32_t j = 0; j < M; j++) {
                            assert_in_range(dist[h][i][j], 0, CAP);
                            assert_int_equal(dist[h][i][j], dist[h][j][i]);
                            if (i % 4 == 0 && j == i + 1)
                                assert_int_equal(dist[h][i][j], 0);
                        }
            }
        scene_close(&s);
    }
}

/* Chunks of all sizes have all shapes of what is left at the edges. */
static void a_pair_is_the_same_in_chunks_of_every_size(void **state)
{
    static int32_t whole[M][M], part[M][M];
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct scene s;
        scene_open(&s, isa, 3.0f, true);
        for (int metric = 0; metric < 4; metric++)
            for (uint32_t known = 0; known < 2; known++) {
                s.job.mean_key = known != 0 ? s.mean : NULL;
                measure(&s, (enum sc_metric)metric, M, 1, &whole[0][0]);
                for (uint32_t m = 1; m < M; m += 1 + m / 40) {
                    const int32_t *d = &part[0][0];
                    measure(&s, (enum sc_metric)metric, m, 1, &part[0][0]);
                    for (uint32_t i = 0; i < m; i++)
                        assert_memory_equal(d + (size_t)i * m, whole[i], m * sizeof(*d));
                }
            }
        scene_close(&s);
    }
}

/* Without a mean key the first one is where the others are seen from: not if it is broken. */
static void a_broken_first_key_is_alone_with_it(void **state)
{
    static const float broken[] = {NAN, INFINITY, -INFINITY, 1e30f};
    static int32_t dist[M][M];
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct scene s;
        scene_open(&s, isa, 30.0f, true);
        for (uint32_t known = 0; known < 2; known++)
            for (size_t b = 0; b < SC_ARRAY_LEN(broken); b++) {
                s.job.mean_key = known != 0 ? s.mean : NULL;
                key(&s, 0, 0)[3] = broken[b];
                write_keys(&s);
                measure(&s, SC_METRIC_L2_PRE, M, 1, &dist[0][0]);
                for (uint32_t i = 1; i < M; i++) {
                    assert_in_range(dist[0][i], CAP, 2 * CAP);
                    for (uint32_t j = 1; j < i; j++)
                        assert_true(fabs(dist[i][j] - reference(&s, i, j, 0, true) -
                                         reference(&s, i, j, 1, true)) < 3.0);
                }
                assert_true(known != 0 ? dist[0][0] >= CAP : dist[0][0] == 0);
            }
        scene_close(&s);
    }
}

/* As the arithmetic that a backend reports says: caches are shared between them. */
static void avx2_and_avx512_give_the_same_bits(void **state)
{
    static int32_t dist[2][M][M];
    (void)state;
    if (sc_cpu_isa_best() < SC_CPU_ISA_AVX512)
        skip();
    for (int metric = 0; metric < 4; metric++) {
        for (uint32_t at = 0; at < 2; at++) {
            struct scene s;
            scene_open(&s, at == 0 ? SC_CPU_ISA_AVX2 : SC_CPU_ISA_AVX512, 3.0f, true);
            measure(&s, (enum sc_metric)metric, M - 5, 1, &dist[at][0][0]);
            scene_close(&s);
        }
        assert_memory_equal(dist[0], dist[1], sizeof(dist[0]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_far_from_the_origin_lose_no_digits),
        cmocka_unit_test(equal_keys_are_at_zero_and_near_ones_not_below),
        cmocka_unit_test(a_pair_is_the_same_in_chunks_of_every_size),
        cmocka_unit_test(a_broken_first_key_is_alone_with_it),
        cmocka_unit_test(avx2_and_avx512_give_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
