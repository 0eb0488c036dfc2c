#include "tests/cpu/support.h"

#define HEADS_MAX 8u
#define CAP       (40 * 65536)

/* Chunks of one layer in a scattered page table; the rest of the pool is NaN. */
struct scene {
    struct sc_backend *be;
    struct sc_kv_pool *pool;
    uint32_t n_kv_heads, head_dim, n_jobs;
    enum sc_dtype dtype;
    uint32_t exact_pages[16], core_pages[16];
    struct sc_chunk_job jobs[3];
    float inv_freq[SC_CPU_HEAD_DIM_MAX / 2], inv_var[HEADS_MAX];
    float *k, *v; /* [position][head][d], as stored */
    uint32_t n_positions;
};

static float *entry_at(const struct scene *s, float *base, uint32_t pos, uint32_t h)
{
    return base + ((size_t)pos * s->n_kv_heads + h) * s->head_dim;
}

static void write_positions(struct scene *s)
{
    for (uint32_t pos = 0; pos < s->n_positions; pos++) {
        for (uint32_t h = 0; h < s->n_kv_heads; h++)
            assert_ok(s->be->ops->kv_write(s->be, s->pool, s->exact_pages[pos / 32], pos % 32, h,
                                           entry_at(s, s->k, pos, h), entry_at(s, s->v, pos, h),
                                           0.0f, err));
    }
}

/* Three chunks: a full one that begins inside a page, a single token, and an odd length. */
static void scene_open(struct scene *s, enum sc_cpu_isa isa, uint32_t threads, uint32_t n_kv_heads,
                       uint32_t head_dim, enum sc_dtype dtype)
{
    static const uint32_t lengths[3] = {128, 1, 45};
    struct rng r = {n_kv_heads * 1000 + head_dim};
    uint32_t pos = 37, core = 5;

    memset(s, 0, sizeof(*s));
    s->be = open_backend(isa, threads);
    s->n_kv_heads = n_kv_heads;
    s->head_dim = head_dim;
    s->dtype = dtype;
    s->n_jobs = 3;
    s->n_positions = 37 + 128 + 1 + 45;
    s->pool = open_garbage_pool(s->be, n_kv_heads, head_dim, dtype, 20);
    for (uint32_t i = 0; i < 10; i++) {
        s->exact_pages[i] = 19 - 2 * i;
        s->core_pages[i] = 2 * i;
    }
    s->k = random_floats(&r, (size_t)s->n_positions * n_kv_heads * head_dim);
    s->v = random_floats(&r, (size_t)s->n_positions * n_kv_heads * head_dim);
    for (size_t i = 0; i < (size_t)s->n_positions * n_kv_heads * head_dim; i += head_dim) {
        to_kept_row(s->k + i, head_dim, dtype);
        to_kept_row(s->v + i, head_dim, dtype);
    }
    for (uint32_t j = 0; j < head_dim / 2; j++)
        s->inv_freq[j] = powf(10000.0f, -2.0f * (float)j / (float)head_dim);
    for (uint32_t h = 0; h < n_kv_heads; h++)
        s->inv_var[h] = 0.5f / (float)head_dim * (float)(h + 1);
    for (uint32_t j = 0; j < 3; j++) {
        s->jobs[j] = (struct sc_chunk_job){.exact_pages = s->exact_pages,
                                           .core_pages = s->core_pages,
                                           .pos0 = pos,
                                           .m = lengths[j],
                                           .core0 = core,
                                           .inv_var = s->inv_var};
        pos += lengths[j];
        core += lengths[j];
    }
    write_positions(s);
}

static void scene_close(struct scene *s)
{
    s->be->ops->kv_close(s->be, s->pool);
    s->be->ops->close(s->be);
    free(s->k);
    free(s->v);
}

static struct sc_dist_args dist_args(const struct scene *s, enum sc_metric metric,
                                     uint32_t n_planes, int32_t *dist)
{
    return (struct sc_dist_args){.pool = s->pool,
                                 .jobs = s->jobs,
                                 .n_jobs = s->n_jobs,
                                 .n_planes = n_planes,
                                 .n_kv_heads = s->n_kv_heads,
                                 .head_dim = s->head_dim,
                                 .metric = metric,
                                 .inv_freq = s->inv_freq,
                                 .cap = CAP,
                                 .contributes = true,
                                 .dist = dist};
}

static size_t dist_count(const struct scene *s, uint32_t n_planes)
{
    size_t n = 0;
    for (uint32_t j = 0; j < s->n_jobs; j++)
        n += (size_t)n_planes * s->jobs[j].m * s->jobs[j].m;
    return n;
}

/* The key of a chunk's token i, de-rotated, in double precision. */
static void reference_key(struct scene *s, const struct sc_chunk_job *job, uint32_t i, uint32_t h,
                          bool pre, double *x)
{
    const float *k = entry_at(s, s->k, job->pos0 + i, h);
    uint32_t half = s->head_dim / 2;
    for (uint32_t d = 0; d < half; d++) {
        double angle = pre ? (float)i * s->inv_freq[d] : 0.0;
        x[d] = k[d] * cos(angle) + k[d + half] * sin(angle);
        x[d + half] = k[d + half] * cos(angle) - k[d] * sin(angle);
    }
}

static double reference_distance(struct scene *s, const struct sc_chunk_job *job, uint32_t i,
                                 uint32_t j, uint32_t h, enum sc_metric metric)
{
    double a[SC_CPU_HEAD_DIM_MAX], b[SC_CPU_HEAD_DIM_MAX], diff = 0, dot = 0, aa = 0, bb = 0;
    bool pre = metric == SC_METRIC_L2_PRE || metric == SC_METRIC_COS_PRE;
    reference_key(s, job, i, h, pre, a);
    reference_key(s, job, j, h, pre, b);
    for (uint32_t d = 0; d < s->head_dim; d++) {
        diff += (a[d] - b[d]) * (a[d] - b[d]);
        dot += a[d] * b[d];
        aa += a[d] * a[d];
        bb += b[d] * b[d];
    }
    if (metric == SC_METRIC_L2_PRE || metric == SC_METRIC_L2_POST)
        return diff * s->inv_var[h] * SC_DIST_ONE;
    return (1.0 - dot / sqrt(aa * bb)) * SC_DIST_ONE;
}

static void check_plane(struct scene *s, const struct sc_chunk_job *job, enum sc_metric metric,
                        uint32_t h0, uint32_t h1, const int32_t *dist)
{
    for (uint32_t i = 0; i < job->m; i++) {
        assert_int_equal(dist[i * job->m + i], 0);
        for (uint32_t j = 0; j < i; j++) {
            double want = 0.0;
            for (uint32_t h = h0; h < h1; h++)
                want += fmin(reference_distance(s, job, i, j, h, metric), CAP);
            assert_int_equal(dist[i * job->m + j], dist[j * job->m + i]);
            /* half a unit of rounding a head, and f32 sums: 1e-6 relative */
            if (!(fabs(dist[i * job->m + j] - want) <= 0.6 * (h1 - h0) + 2e-6 * want))
                fail_msg("metric %d, %u, %u: %d, not %f", (int)metric, i, j, dist[i * job->m + j],
                         want);
        }
    }
}

static void distances_match_double_precision_for_every_metric(void **state)
{
    static const uint32_t shapes[][2] = {{1, 8}, {2, 24}, {3, 64}, {2, 80}, {1, 128}};
    (void)state;
    announce_isas();
    FOR_EACH_ISA(isa)
    {
        for (size_t i = 0; i < 2 * SC_ARRAY_LEN(shapes); i++) {
            const uint32_t *shape = shapes[i / 2];
            struct scene s;
            scene_open(&s, isa, 2, shape[0], shape[1],
                       i % 2       ? SC_DTYPE_I8
                       : i / 2 % 2 ? SC_DTYPE_BF16
                                   : SC_DTYPE_F32);
            for (int metric = 0; metric < 4; metric++) {
                int32_t *sum = malloc(4 * dist_count(&s, 1)), *at = sum, *heads, *ah;
                struct sc_dist_args a = dist_args(&s, (enum sc_metric)metric, 1, sum);
                heads = ah = malloc(4 * dist_count(&s, s.n_kv_heads));
                assert_ok(s.be->ops->distances(s.be, &a, err));
                a = dist_args(&s, (enum sc_metric)metric, s.n_kv_heads, heads);
                assert_ok(s.be->ops->distances(s.be, &a, err));
                for (uint32_t j = 0; j < s.n_jobs; j++) {
                    const struct sc_chunk_job *job = &s.jobs[j];
                    check_plane(&s, job, a.metric, 0, s.n_kv_heads, at);
                    at += job->m * job->m;
                    for (uint32_t h = 0; h < s.n_kv_heads; h++, ah += job->m * job->m)
                        check_plane(&s, job, a.metric, h, h + 1, ah);
                }
                free(sum);
                free(heads);
            }
            scene_close(&s);
        }
    }
}

static void far_broken_and_zero_keys_reach_the_cap_and_no_more(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct scene s;
        int32_t *dist;
        scene_open(&s, isa, 1, 1, 16, SC_DTYPE_F32);
        dist = malloc(4 * dist_count(&s, 1));
        s.k[37 * 16] = NAN_KEY;       /* token 0 of the first chunk */
        s.k[38 * 16 + 3] = 1e30f;     /* token 1 */
        s.k[39 * 16 + 3] = -INFINITY; /* token 2 */
        memset(s.k + 40 * 16, 0, 64); /* token 3: no direction */
        write_positions(&s);
        for (int metric = 0; metric < 4; metric++) {
            struct sc_dist_args a = dist_args(&s, (enum sc_metric)metric, 1, dist);
            bool cosine = metric >= SC_METRIC_COS_PRE;
            assert_ok(s.be->ops->distances(s.be, &a, err));
            for (uint32_t i = 0; i < 128; i++) {
                assert_int_equal(dist[i * 128 + i], 0);
                for (uint32_t bad = 0; bad < 3; bad++) {
                    if (i != bad && !(cosine && bad == 1))
                        assert_int_equal(dist[i * 128 + bad], CAP);
                }
                if (cosine && i != 3)
                    assert_int_equal(dist[3 * 128 + i], CAP);
                assert_in_range(dist[5 * 128 + i], 0, CAP);
            }
        }
        free(dist);
        scene_close(&s);
    }
}

static void a_replica_contributes_zeros(void **state)
{
    struct scene s;
    int32_t *dist;
    (void)state;
    scene_open(&s, sc_cpu_isa_best(), 2, 2, 8, SC_DTYPE_F32);
    dist = malloc(4 * dist_count(&s, 2));
    struct sc_dist_args a = dist_args(&s, SC_METRIC_L2_PRE, 2, dist);
    memset(dist, 0x55, 4 * dist_count(&s, 2));
    a.contributes = false;
    assert_ok(s.be->ops->distances(s.be, &a, err));
    for (size_t i = 0; i < dist_count(&s, 2); i++)
        assert_int_equal(dist[i], 0);
    free(dist);
    scene_close(&s);
}

/* Four heads on one rank, or two ranks of two, or four of one, with one to three threads. */
static void any_split_of_the_heads_sums_to_the_same_integers(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct scene one;
        scene_open(&one, isa, 1, 4, 40, SC_DTYPE_BF16);
        size_t n = dist_count(&one, 1);
        int32_t *whole = malloc(4 * n), *part = malloc(4 * n), *sum = malloc(4 * n);
        for (int metric = 0; metric < 4; metric++) {
            struct sc_dist_args a = dist_args(&one, (enum sc_metric)metric, 1, whole);
            assert_ok(one.be->ops->distances(one.be, &a, err));
            for (uint32_t ranks = 2; ranks <= 4; ranks *= 2) {
                memset(sum, 0, 4 * n);
                for (uint32_t rank = 0; rank < ranks; rank++) {
                    struct scene s;
                    uint32_t heads = 4 / ranks;
                    scene_open(&s, isa, 1 + rank % 3, heads, 40, SC_DTYPE_BF16);
                    for (uint32_t pos = 0; pos < s.n_positions; pos++)
                        memcpy(entry_at(&s, s.k, pos, 0), entry_at(&one, one.k, pos, rank * heads),
                               heads * 40 * sizeof(float));
                    write_positions(&s);
                    for (uint32_t j = 0; j < 3; j++)
                        s.jobs[j].inv_var = one.inv_var + rank * heads;
                    a = dist_args(&s, (enum sc_metric)metric, 1, part);
                    assert_ok(s.be->ops->distances(s.be, &a, err));
                    for (size_t i = 0; i < n; i++)
                        sum[i] += part[i];
                    scene_close(&s);
                }
                assert_memory_equal(sum, whole, 4 * n);
            }
        }
        free(whole);
        free(part);
        free(sum);
        scene_close(&one);
    }
}

struct clusters {
    uint8_t labels[HEADS_MAX * 174], seeds[HEADS_MAX * 174];
    uint32_t counts[3 * HEADS_MAX], n_cores[3];
};

/* Distances and clusters of a scene; n_cores: the largest count of a job's planes. */
static void cluster_scene(struct scene *s, uint32_t n_planes, struct clusters *c)
{
    int32_t *dist = malloc(4 * dist_count(s, n_planes));
    struct sc_dist_args a = dist_args(s, SC_METRIC_L2_PRE, n_planes, dist);
    struct sc_cluster_args ca = {.jobs = s->jobs,
                                 .n_jobs = s->n_jobs,
                                 .n_planes = n_planes,
                                 .dist = dist,
                                 .labels = c->labels,
                                 .seeds = c->seeds,
                                 .counts = c->counts};
    s->jobs[0].budget = 30;
    s->jobs[2].tau = 65536;
    s->jobs[2].forced[0] = 0x7000;
    assert_ok(s->be->ops->distances(s->be, &a, err));
    assert_ok(s->be->ops->cluster(s->be, &ca, err));
    for (uint32_t j = 0; j < s->n_jobs; j++) {
        c->n_cores[j] = 0;
        for (uint32_t p = 0; p < n_planes; p++) {
            if (c->counts[j * n_planes + p] > c->n_cores[j])
                c->n_cores[j] = c->counts[j * n_planes + p];
        }
    }
    assert_in_range(c->n_cores[0], 2, 30);
    assert_int_equal(c->n_cores[1], 1);
    free(dist);
}

static struct sc_merge_args merge_args(const struct scene *s, uint32_t n_planes,
                                       enum sc_representative rep, const struct clusters *c)
{
    return (struct sc_merge_args){.pool = s->pool,
                                  .jobs = s->jobs,
                                  .n_jobs = s->n_jobs,
                                  .n_planes = n_planes,
                                  .n_kv_heads = s->n_kv_heads,
                                  .head_dim = s->head_dim,
                                  .representative = rep,
                                  .log_bias = true,
                                  .labels = c->labels,
                                  .seeds = c->seeds,
                                  .counts = c->counts,
                                  .n_cores = c->n_cores};
}

/* f32 sums in member order, then a division: the contract, so the bits are known. */
static uint32_t reference_core(struct scene *s, const struct sc_chunk_job *job, uint32_t h,
                               enum sc_representative rep, const uint8_t *labels, uint32_t seed,
                               uint32_t c, float *k, float *v)
{
    uint32_t n = 0, last = 0;
    memset(k, 0, s->head_dim * sizeof(float));
    memset(v, 0, s->head_dim * sizeof(float));
    for (uint32_t i = 0; i < job->m; i++) {
        if (labels[i] != c)
            continue;
        n++;
        last = i;
        for (uint32_t d = 0; d < s->head_dim; d++) {
            k[d] += entry_at(s, s->k, job->pos0 + i, h)[d];
            v[d] += entry_at(s, s->v, job->pos0 + i, h)[d];
        }
    }
    last = rep == SC_REP_SEED ? seed : last;
    for (uint32_t d = 0; d < s->head_dim; d++) {
        bool mean = rep == SC_REP_MEAN;
        k[d] = mean ? k[d] / (float)n : entry_at(s, s->k, job->pos0 + last, h)[d];
        v[d] = mean ? v[d] / (float)n : entry_at(s, s->v, job->pos0 + last, h)[d];
    }
    to_kept_row(k, s->head_dim, s->dtype);
    to_kept_row(v, s->head_dim, s->dtype);
    return n;
}

static void check_cores(struct scene *s, const struct sc_merge_args *a, const struct clusters *c)
{
    float k[SC_CPU_HEAD_DIM_MAX], v[SC_CPU_HEAD_DIM_MAX], wk[SC_CPU_HEAD_DIM_MAX],
        wv[SC_CPU_HEAD_DIM_MAX], bias;
    size_t at = 0;
    for (uint32_t j = 0; j < s->n_jobs; j++) {
        const struct sc_chunk_job *job = &s->jobs[j];
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            uint32_t plane = a->n_planes == 1 ? 0 : h;
            const uint8_t *labels = c->labels + at + plane * job->m;
            const uint8_t *seeds = c->seeds + at + plane * job->m;
            for (uint32_t core = 0; core < c->n_cores[j]; core++) {
                uint32_t e = job->core0 + core;
                assert_ok(s->be->ops->kv_read(s->be, s->pool, s->core_pages[e / 32], e % 32, h, k,
                                              v, &bias, err));
                if (core >= c->counts[j * a->n_planes + plane]) {
                    memset(wk, 0, sizeof(wk));
                    assert_memory_equal(k, wk, s->head_dim * sizeof(float));
                    assert_memory_equal(v, wk, s->head_dim * sizeof(float));
                    assert_true(bias == -INFINITY);
                    continue;
                }
                uint32_t n =
                    reference_core(s, job, h, a->representative, labels, seeds[core], core, wk, wv);
                assert_memory_equal(k, wk, s->head_dim * sizeof(float));
                assert_memory_equal(v, wv, s->head_dim * sizeof(float));
                assert_true(fabs(bias - (a->log_bias ? log(n) : 0.0)) < 1e-6);
            }
        }
        at += (size_t)a->n_planes * job->m;
    }
}

static void cores_match_the_reference_for_every_representative(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (int round = 0; round < 24; round++) {
            const int i = round / 2;
            struct scene s;
            static struct clusters c;
            scene_open(&s, isa, 1 + (uint32_t)i % 3, 3, i % 2 ? 64 : 18,
                       round % 2   ? SC_DTYPE_I8
                       : i % 4 < 2 ? SC_DTYPE_BF16
                                   : SC_DTYPE_F32);
            uint32_t n_planes = i < 6 ? 1 : 3;
            cluster_scene(&s, n_planes, &c);
            struct sc_merge_args a = merge_args(&s, n_planes, (enum sc_representative)(i % 3), &c);
            a.log_bias = i % 5 != 0;
            assert_ok(s.be->ops->merge(s.be, &a, err));
            check_cores(&s, &a, &c);
            scene_close(&s);
        }
    }
}

static void entries_beside_the_cores_are_left_alone(void **state)
{
    struct scene s;
    static struct clusters c;
    float k[8], v[8], bias;
    (void)state;
    scene_open(&s, sc_cpu_isa_best(), 1, 1, 8, SC_DTYPE_F32);
    cluster_scene(&s, 1, &c);
    struct sc_merge_args a = merge_args(&s, 1, SC_REP_MEAN, &c);
    a.n_jobs = 1;
    assert_ok(s.be->ops->merge(s.be, &a, err));
    for (int side = 0; side < 2; side++) {
        uint32_t e = side == 0 ? s.jobs[0].core0 - 1 : s.jobs[0].core0 + c.n_cores[0];
        assert_ok(
            s.be->ops->kv_read(s.be, s.pool, s.core_pages[e / 32], e % 32, 0, k, v, &bias, err));
        assert_true(isnan(bias) && isnan(k[0]) && isnan(v[7]));
    }
    scene_close(&s);
}

static void bad_jobs_are_refused(void **state)
{
    struct scene s;
    static struct clusters c;
    static int32_t dist[128 * 128 + 1 + 45 * 45];
    (void)state;
    scene_open(&s, SC_CPU_ISA_PLAIN, 1, 1, 8, SC_DTYPE_F32);
    cluster_scene(&s, 1, &c);
    struct sc_dist_args d = dist_args(&s, SC_METRIC_L2_PRE, 1, dist);
    struct sc_merge_args m = merge_args(&s, 1, SC_REP_MEAN, &c);
    struct sc_cluster_args g = {.jobs = s.jobs,
                                .n_jobs = 3,
                                .n_planes = 1,
                                .dist = dist,
                                .labels = c.labels,
                                .seeds = c.seeds,
                                .counts = c.counts};

    s.jobs[0].m = 129;
    assert_fails(SC_EINVAL, s.be->ops->distances(s.be, &d, err));
    assert_fails(SC_EINVAL, s.be->ops->cluster(s.be, &g, err));
    assert_fails(SC_EINVAL, s.be->ops->merge(s.be, &m, err));
    s.jobs[0].m = 128;
    d.n_planes = 2;
    assert_fails(SC_EINVAL, s.be->ops->distances(s.be, &d, err));
    d.n_planes = 1;
    d.cap = -1;
    assert_fails(SC_EINVAL, s.be->ops->distances(s.be, &d, err));
    d.cap = CAP;
    d.inv_freq = NULL;
    assert_fails(SC_EINVAL, s.be->ops->distances(s.be, &d, err));
    g.n_planes = 0;
    assert_fails(SC_EINVAL, s.be->ops->cluster(s.be, &g, err));
    c.labels[3] = 200;
    assert_fails(SC_EINVAL, s.be->ops->merge(s.be, &m, err));
    c.labels[3] = 0;
    c.counts[0] = 0;
    assert_fails(SC_EINVAL, s.be->ops->merge(s.be, &m, err));
    s.exact_pages[1] = 20;
    assert_fails(SC_EINVAL, s.be->ops->distances(s.be, &d, err));
    scene_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distances_match_double_precision_for_every_metric),
        cmocka_unit_test(far_broken_and_zero_keys_reach_the_cap_and_no_more),
        cmocka_unit_test(a_replica_contributes_zeros),
        cmocka_unit_test(any_split_of_the_heads_sums_to_the_same_integers),
        cmocka_unit_test(cores_match_the_reference_for_every_representative),
        cmocka_unit_test(entries_beside_the_cores_are_left_alone),
        cmocka_unit_test(bad_jobs_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
