#include "tests/cuda/support.h"

#define HEADS_MAX 8u
#define JOBS_MAX  16u
#define CAP       (40 * 65536)
#define TOKENS    1400u /* positions that a scene can have */
#define PAGES     (TOKENS / SC_PAGE_ENTRIES + 1)

/* Chunks of one layer, with the same entries in a pool of each backend. */
struct scene {
    struct sc_backend *be[2]; /* the device, its twin */
    struct sc_kv_pool *pool[2];
    uint32_t n_kv_heads, head_dim, n_jobs, n_positions;
    enum sc_dtype dtype;
    uint32_t exact_pages[PAGES], core_pages[PAGES];
    struct sc_chunk_job jobs[JOBS_MAX];
    float inv_freq[128], inv_var[HEADS_MAX];
    float mean_key[HEADS_MAX * 256]; /* of scenes with an odd number of heads */
};

static struct sc_backend *cuda, *cpu;

/* Writes one head of a page to both; positions NULL: NaN. Keys lie around a few centres and are
 * rotated by their position, so that de-rotated ones are near each other. */
static void fill_page(struct scene *s, struct rng *r, const float *centres, uint32_t page,
                      uint32_t head, const uint32_t *pos0)
{
    const uint32_t hd = s->head_dim, half = hd / 2;
    static uint8_t rows[2][32 * 256 * 4];
    uint8_t *k_to = rows[0], *v_to = rows[1];
    float k[256], v[256], bias[32];
    for (uint32_t i = 0; i < 32; i++) {
        const float *centre = centres + (rng_below(r, 6) * HEADS_MAX + head) * 256;
        bias[i] = pos0 != NULL ? 0.0f : NAN_KEY;
        for (uint32_t d = 0; d < hd; d++) {
            k[d] = pos0 != NULL ? centre[d] + 0.2f * rng_normal(r) : NAN_KEY;
            v[d] = pos0 != NULL ? rng_normal(r) : NAN_KEY;
        }
        for (uint32_t d = 0; pos0 != NULL && d < half; d++) {
            float angle = (float)(*pos0 + i) * s->inv_freq[d];
            float a = k[d], b = k[d + half];
            k[d] = a * cosf(angle) - b * sinf(angle);
            k[d + half] = b * cosf(angle) + a * sinf(angle);
        }
        k_to = pack_row(k_to, k, hd, s->dtype);
        v_to = pack_row(v_to, v, hd, s->dtype);
    }
    for (int b = 0; b < 2; b++)
        assert_ok(s->be[b]->ops->kv_unpack(s->be[b], s->pool[b], (const uint32_t[]){page}, 0, 32,
                                           head, rows[0], rows[1], bias, err));
}

/* Chunks of the given lengths, one behind the other from pos0; cores from entry 5. */
static void scene_open(struct scene *s, uint32_t seed, uint32_t n_kv_heads, uint32_t head_dim,
                       enum sc_dtype dtype, uint32_t pos0, const uint32_t *lengths, uint32_t n)
{
    const struct sc_kv_spec spec = {n_kv_heads, head_dim, dtype};
    struct rng r = {seed};
    float *centres = random_floats(&r, (size_t)6 * HEADS_MAX * 256);
    uint32_t pos = pos0, core = 5;

    *s = (struct scene){.be = {cuda, cpu},
                        .n_kv_heads = n_kv_heads,
                        .head_dim = head_dim,
                        .n_jobs = n,
                        .dtype = dtype};
    for (uint32_t d = 0; d < head_dim / 2; d++)
        s->inv_freq[d] = powf(10000.0f, -2.0f * (float)d / (float)head_dim);
    for (uint32_t h = 0; h < n_kv_heads; h++)
        s->inv_var[h] = 0.5f / (float)head_dim * (float)(h + 1);
    for (uint32_t i = 0; i < n_kv_heads * head_dim; i++)
        s->mean_key[i] = centres[i];
    for (uint32_t j = 0; j < n; j++) {
        s->jobs[j] = (struct sc_chunk_job){.exact_pages = s->exact_pages,
                                           .core_pages = s->core_pages,
                                           .pos0 = pos,
                                           .m = lengths[j],
                                           .core0 = core,
                                           .inv_var = s->inv_var,
                                           .mean_key = n_kv_heads % 2 ? s->mean_key : NULL};
        pos += lengths[j];
        core += lengths[j];
    }
    s->n_positions = pos;
    const uint32_t n_pages = (pos + 31) / 32, n_core_pages = (core + 31) / 32;
    for (int b = 0; b < 2; b++)
        assert_ok(
            s->be[b]->ops->kv_open(s->be[b], &spec, n_pages + n_core_pages, &s->pool[b], err));
    /* Exact pages and core pages in turns, from the end. */
    for (uint32_t i = 0, next = n_pages + n_core_pages; i < n_pages || i < n_core_pages; i++) {
        if (i < n_pages)
            s->exact_pages[i] = --next;
        if (i < n_core_pages)
            s->core_pages[i] = --next;
    }
    for (uint32_t h = 0; h < n_kv_heads; h++) {
        for (uint32_t i = 0; i < n_pages; i++)
            fill_page(s, &r, centres, s->exact_pages[i], h, &(uint32_t){32 * i});
        for (uint32_t i = 0; i < n_core_pages; i++)
            fill_page(s, &r, centres, s->core_pages[i], h, NULL);
    }
    free(centres);
}

static void scene_close(struct scene *s)
{
    for (int b = 0; b < 2; b++)
        s->be[b]->ops->kv_close(s->be[b], s->pool[b]);
}

static struct sc_dist_args dist_args(const struct scene *s, int b, enum sc_metric metric,
                                     uint32_t n_planes, int32_t *dist)
{
    return (struct sc_dist_args){.pool = s->pool[b],
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

/* On the host, whichever backend made them. */
static int32_t *distances(const struct scene *s, int b, struct sc_dist_args a)
{
    const size_t bytes = dist_count(s, a.n_planes) * sizeof(int32_t);
    a.dist = on_device(s->be[b], NULL, bytes);
    assert_ok(s->be[b]->ops->distances(s->be[b], &a, err));
    int32_t *host = from_device(s->be[b], a.dist, bytes);
    s->be[b]->ops->free(s->be[b], a.dist);
    return host;
}

static void compare_distances(const struct scene *s, enum sc_metric metric, uint32_t n_planes,
                              double *worst)
{
    int32_t *got = distances(s, 0, dist_args(s, 0, metric, n_planes, NULL)), *at = got;
    int32_t *want = distances(s, 1, dist_args(s, 1, metric, n_planes, NULL)), *wt = want;
    const double heads = n_planes == 1 ? s->n_kv_heads : 1;
    for (uint32_t j = 0; j < s->n_jobs * n_planes; j++) {
        const uint32_t m = s->jobs[j / n_planes].m;
        for (uint32_t i = 0; i < m * m; i++) {
            /* Sums of up to 256 terms in f32 in another order, angles to the last bit but one, and
             * a rounding to the next integer in every head. */
            double diff = fabs((double)at[i] - wt[i]), limit = heads + 2e-5 * wt[i];
            *worst = fmax(*worst, fmax(diff - heads, 0.0) / fmax(wt[i], 1.0));
            if (!(diff <= limit))
                fail_msg("metric %d, plane %u, m %u, pair %u %u: %d, not %d", (int)metric, j, m,
                         i / m, i % m, at[i], wt[i]);
            assert_int_equal(at[i], at[i % m * m + i / m]);
            if (i % m == i / m && s->jobs[0].mean_key == NULL)
                assert_int_equal(at[i], 0);
        }
        at += m * m;
        wt += m * m;
    }
    free(got);
    free(want);
}

static void distances_match_the_twin_for_every_metric_and_length(void **state)
{
    static const uint32_t shapes[][2] = {{1, 2},  {3, 18}, {2, 24},  {2, 64}, {3, 80},
                                         {1, 96}, {1, 72}, {8, 128}, {1, 256}};
    static const uint32_t few[] = {1, 45, 96, 97}; /* of each size of kernels one */
    double worst = 0.0;
    (void)state;
    for (size_t i = 0; i < 3 * SC_ARRAY_LEN(shapes); i++) {
        struct scene s;
        struct rng r = {i};
        uint32_t lengths[11] = {1, 128, 45, 32, 2, 64, 33, 96, 97};
        if (small_run() && shapes[i / 3][1] != 18 && shapes[i / 3][1] != 72)
            continue; /* halves of whole fours and not, of one slab and of two */
        lengths[9] = 1 + rng_below(&r, 128);
        lengths[10] = 1 + rng_below(&r, 128);
        scene_open(&s, (uint32_t)i, shapes[i / 3][0], shapes[i / 3][1], kv_dtypes[i % 3],
                   rng_below(&r, 100), small_run() ? few : lengths, small_run() ? 4 : 11);
        for (int metric = 0; metric < 4; metric++) {
            compare_distances(&s, (enum sc_metric)metric, 1, &worst);
            compare_distances(&s, (enum sc_metric)metric, s.n_kv_heads, &worst);
        }
        scene_close(&s);
    }
    printf("  distances beyond one unit a head: %.1e relative (limit 2e-05)\n", worst);
}

static void every_length_from_every_slot_is_measured(void **state)
{
    double worst = 0.0;
    (void)state;
    for (uint32_t m0 = 1; m0 <= SC_CHUNK_MAX; m0 += small_run() ? 40 : 8) {
        struct scene s;
        uint32_t lengths[8];
        for (uint32_t i = 0; i < 8; i++)
            lengths[i] = m0 + i;
        scene_open(&s, m0, 1, 16, m0 / 8 % 2 ? SC_DTYPE_I8 : SC_DTYPE_BF16, m0 / 8 * 5 % 32,
                   lengths, 8);
        compare_distances(&s, SC_METRIC_L2_PRE, 1, &worst);
        scene_close(&s);
    }
}

/* Head dimensions whose halves are multiples of eight and others, as many heads as are read at one
 * time, fewer and more, and two layers, each with mean keys of its own. */
static void outliers_match_the_twin_for_every_head_dim_and_number_of_heads(void **state)
{
    static const uint32_t shapes[][2] = {{1, 16},  {2, 18},  {3, 64},  {4, 30},  {5, 128}, {6, 34},
                                         {7, 112}, {8, 128}, {2, 250}, {3, 256}, {4, 2},   {5, 46}};
    static const uint32_t lengths[] = {1, 31, 33, 64, 127, 128, 2, 95};
    double worst = 0.0;
    (void)state;
    for (size_t i = 0; i < 3 * SC_ARRAY_LEN(shapes); i++) {
        struct scene s;
        struct rng r = {1000 + i}; /* not the mean keys of the scene */
        if (small_run() && shapes[i / 3][1] != 18 && shapes[i / 3][1] != 64)
            continue; /* halves of whole eights and not, an odd number of heads and an even one */
        float *second = random_floats(&r, (size_t)HEADS_MAX * 256);
        scene_open(&s, (uint32_t)i, shapes[i / 3][0], shapes[i / 3][1], kv_dtypes[i % 3],
                   (small_run() ? 0 : 800) + rng_below(&r, 100), lengths,
                   small_run() ? 3 : SC_ARRAY_LEN(lengths));
        for (uint32_t j = 0; j < s.n_jobs; j++)
            s.jobs[j].mean_key = j % 3 == 1 ? second : s.mean_key;
        for (int metric = (int)i % 2; metric < 4; metric += 2) {
            compare_distances(&s, (enum sc_metric)metric, 1, &worst);
            compare_distances(&s, (enum sc_metric)metric, s.n_kv_heads, &worst);
        }
        scene_close(&s);
        free(second);
    }
    printf("  distances beyond one unit a head: %.1e relative (limit 2e-05)\n", worst);
}

/* So many long chunks that a block takes all heads of one, beside a short one whose heads blocks
 * share: where that is so depends on the device. */
static void many_chunks_give_what_two_give(void **state)
{
    enum { MANY = 1024 };
    static const uint32_t lengths[] = {128, 64};
    static struct sc_chunk_job jobs[MANY + 1];
    const uint32_t many = small_run() ? 200 : MANY;
    struct scene s;
    (void)state;
    scene_open(&s, 3, 2, 16, SC_DTYPE_BF16, 11, lengths, 2);
    struct sc_dist_args a = dist_args(&s, 0, SC_METRIC_L2_PRE, 1, NULL);
    int32_t *two = distances(&s, 0, a);
    for (uint32_t i = 0; i <= many; i++)
        jobs[i] = s.jobs[i == many];
    a.jobs = jobs;
    a.n_jobs = many + 1;
    const size_t bytes = ((size_t)many * 128 * 128 + 64 * 64) * sizeof(int32_t);
    a.dist = on_device(cuda, NULL, bytes);
    assert_ok(cuda->ops->distances(cuda, &a, err));
    int32_t *all = from_device(cuda, a.dist, bytes);
    for (uint32_t i = 0; i < many; i++)
        assert_memory_equal(all + (size_t)i * 128 * 128, two, 128 * 128 * sizeof(*two));
    assert_memory_equal(all + (size_t)many * 128 * 128, two + 128 * 128, 64 * 64 * sizeof(*two));
    cuda->ops->free(cuda, a.dist);
    free(all);
    free(two);
    scene_close(&s);
}

/* The twin's own rules for what has no distance; tests/cpu/test_compress.c spells them out. */
static void far_broken_and_zero_keys_give_what_the_twin_gives(void **state)
{
    static const uint32_t lengths[] = {64, 100};
    (void)state;
    for (int dtype = 0; dtype < 3; dtype++) {
        struct scene s;
        double worst = 0.0;
        scene_open(&s, 9, 2, 16, kv_dtypes[dtype], 37, lengths, 2);
        for (uint32_t i = 0; i < 8; i++) {
            const uint32_t pos = 37 + 20 * i;
            const float bad[] = {NAN_KEY, 1e30f, -INFINITY, 0.0f};
            float k[16] = {0}, v[16] = {0};
            k[3 + i] = bad[i % 4];
            for (int b = 0; b < 2; b++)
                assert_ok(s.be[b]->ops->kv_write(s.be[b], s.pool[b], s.exact_pages[pos / 32],
                                                 pos % 32, i % 2, k, v, 0.0f, err));
        }
        for (int metric = 0; metric < 4; metric++) {
            compare_distances(&s, (enum sc_metric)metric, 1, &worst);
            compare_distances(&s, (enum sc_metric)metric, 2, &worst);
        }
        struct sc_dist_args a = dist_args(&s, 0, SC_METRIC_L2_POST, 1, NULL);
        a.cap = 3;
        int32_t *dist = distances(&s, 0, a);
        for (uint32_t i = 0; i < 64 * 64; i++)
            assert_in_range(dist[i], 0, 6);
        assert_int_equal(dist[1], 6);
        a.contributes = false;
        free(dist);
        dist = distances(&s, 0, a);
        for (size_t i = 0; i < dist_count(&s, 1); i++)
            assert_int_equal(dist[i], 0);
        free(dist);
        scene_close(&s);
    }
}

struct clusters {
    uint8_t labels[HEADS_MAX * TOKENS], seeds[HEADS_MAX * TOKENS];
    uint32_t counts[JOBS_MAX * HEADS_MAX], n_cores[JOBS_MAX];
};

/* Clusters at random: as many as a budget leaves, on distances at random. */
static void cluster_at_random(struct scene *s, struct rng *r, uint32_t n_planes, struct clusters *c)
{
    const size_t n = dist_count(s, n_planes);
    int32_t *dist = malloc(n * sizeof(*dist));
    struct sc_cluster_args a = {.jobs = s->jobs,
                                .n_jobs = s->n_jobs,
                                .n_planes = n_planes,
                                .seed_order = (enum sc_seed_order)rng_below(r, 2),
                                .dist = dist,
                                .labels = c->labels,
                                .seeds = c->seeds,
                                .counts = c->counts};
    for (size_t i = 0; i < n; i++)
        dist[i] = (int32_t)rng_below(r, 1000);
    for (uint32_t j = 0; j < s->n_jobs; j++)
        s->jobs[j].budget = 1 + rng_below(r, s->jobs[j].m);
    assert_ok(cpu->ops->cluster(cpu, &a, err));
    for (uint32_t j = 0; j < s->n_jobs; j++) {
        c->n_cores[j] = 0;
        for (uint32_t p = 0; p < n_planes; p++) {
            uint32_t count = c->counts[j * n_planes + p];
            c->n_cores[j] = count > c->n_cores[j] ? count : c->n_cores[j];
        }
    }
    free(dist);
}

static struct sc_merge_args merge_args(const struct scene *s, int b, uint32_t n_planes,
                                       const struct clusters *c)
{
    return (struct sc_merge_args){.pool = s->pool[b],
                                  .jobs = s->jobs,
                                  .n_jobs = s->n_jobs,
                                  .n_planes = n_planes,
                                  .n_kv_heads = s->n_kv_heads,
                                  .head_dim = s->head_dim,
                                  .log_bias = true,
                                  .labels = c->labels,
                                  .seeds = c->seeds,
                                  .counts = c->counts,
                                  .n_cores = c->n_cores};
}

/* Every byte of both pools: cores, what lies beside them, and the chunks, which stay. */
static void compare_pools(const struct scene *s)
{
    const size_t bytes = 32 * sc_kv_row_bytes(s->dtype, s->head_dim);
    static uint8_t k[2][32 * 256 * 4], v[2][32 * 256 * 4];
    float bias[2][32];
    const uint32_t last = s->exact_pages[0]; /* pages were given out from the end */
    for (uint32_t e = 0; e <= last * s->n_kv_heads; e++) {
        uint32_t page = e / s->n_kv_heads, h = e % s->n_kv_heads;
        for (int b = 0; b < 2; b++)
            assert_ok(s->be[b]->ops->kv_pack(s->be[b], s->pool[b], (const uint32_t[]){page}, 0, 32,
                                             h, k[b], v[b], bias[b], err));
        assert_memory_equal(k[0], k[1], bytes);
        assert_memory_equal(v[0], v[1], bytes);
        assert_memory_equal(bias[0], bias[1], sizeof(bias[0]));
    }
}

static void cores_are_the_twins_bit_for_bit(void **state)
{
    static const uint32_t lengths[] = {128, 1, 45, 64, 33, 2, 100}, few[] = {1, 100};
    static const uint32_t shapes[][2] = {{1, 2}, {3, 18}, {3, 64}, {2, 80}, {4, 128}, {1, 256}};
    static struct clusters c;
    struct rng r = {5};
    (void)state;
    for (uint32_t i = 0; i < 6 * SC_ARRAY_LEN(shapes); i++) {
        struct scene s;
        if (small_run() && shapes[i / 6][1] != (i % 6 < 3 ? 18 : 80))
            continue; /* rows of whole fours and not */
        scene_open(&s, i, shapes[i / 6][0], shapes[i / 6][1], kv_dtypes[i % 3], 37,
                   small_run() ? few : lengths, small_run() ? 2 : SC_ARRAY_LEN(lengths));
        const uint32_t n_planes = i % 6 < 3 ? 1 : s.n_kv_heads;
        for (int rep = 0; rep < 4; rep++) { /* the last: a mean without bias */
            cluster_at_random(&s, &r, n_planes, &c);
            for (int b = 0; b < 2; b++) {
                struct sc_merge_args a = merge_args(&s, b, n_planes, &c);
                a.representative = (enum sc_representative)(rep % 3);
                a.log_bias = rep != 3;
                assert_ok(s.be[b]->ops->merge(s.be[b], &a, err));
            }
            compare_pools(&s);
        }
        scene_close(&s);
    }
}

static void bad_jobs_are_refused(void **state)
{
    static const uint32_t lengths[] = {128, 1, 45};
    static struct clusters c;
    struct rng r = {6};
    struct scene s;
    (void)state;
    scene_open(&s, 1, 2, 8, SC_DTYPE_F32, 37, lengths, 3);
    cluster_at_random(&s, &r, 1, &c);
    int32_t *dist = on_device(cuda, NULL, dist_count(&s, 1) * sizeof(*dist));
    struct sc_dist_args d = dist_args(&s, 0, SC_METRIC_L2_PRE, 1, dist);
    struct sc_merge_args m = merge_args(&s, 0, 1, &c);
    struct sc_cluster_args g = {.jobs = s.jobs,
                                .n_jobs = 3,
                                .n_planes = 1,
                                .dist = dist,
                                .labels = c.labels,
                                .seeds = c.seeds,
                                .counts = c.counts};
#define REFUSED(op, args, set, unset)                                                              \
    do {                                                                                           \
        set;                                                                                       \
        assert_fails(SC_EINVAL, cuda->ops->op(cuda, &(args), err));                                \
        unset;                                                                                     \
    } while (0)
    REFUSED(distances, d, s.jobs[0].m = 129, s.jobs[0].m = 128);
    REFUSED(cluster, g, s.jobs[0].m = 129, s.jobs[0].m = 128);
    REFUSED(merge, m, s.jobs[0].m = 0, s.jobs[0].m = 128);
    REFUSED(distances, d, s.jobs[1].pos0 = UINT32_MAX; s.jobs[1].m = 2, s.jobs[1].pos0 = 165;
            s.jobs[1].m = 1);
    REFUSED(distances, d, d.n_planes = 3, d.n_planes = 1);
    REFUSED(distances, d, d.n_kv_heads = 1, d.n_kv_heads = 2);
    REFUSED(distances, d, d.cap = -1, d.cap = CAP);
    REFUSED(distances, d, d.cap = INT32_MAX, d.cap = CAP);
    REFUSED(distances, d, d.inv_freq = NULL, d.inv_freq = s.inv_freq);
    REFUSED(distances, d, d.metric = (enum sc_metric)4, d.metric = SC_METRIC_L2_PRE);
    REFUSED(distances, d, s.jobs[2].inv_var = NULL, s.jobs[2].inv_var = s.inv_var);
    REFUSED(cluster, g, g.n_planes = 0, g.n_planes = 1);
    REFUSED(cluster, g, g.seed_order = (enum sc_seed_order)2, g.seed_order = SC_SEED_DENSE);
    REFUSED(merge, m, m.representative = (enum sc_representative)3, m.representative = SC_REP_SEED);
    const uint32_t page = s.exact_pages[1], core_page = s.core_pages[0], count = c.counts[0];
    const uint8_t label = c.labels[3], seed = c.seeds[0];
    REFUSED(distances, d, s.exact_pages[1] = 100, s.exact_pages[1] = page);
    REFUSED(merge, m, s.exact_pages[1] = 100, s.exact_pages[1] = page);
    REFUSED(merge, m, s.core_pages[0] = 100, s.core_pages[0] = core_page);
    REFUSED(merge, m, c.labels[3] = 200, c.labels[3] = label);
    REFUSED(merge, m, c.seeds[0] = 128, c.seeds[0] = seed);
    REFUSED(merge, m, c.counts[0] = 0, c.counts[0] = count);
    REFUSED(merge, m, c.n_cores[0] = 0, c.n_cores[0] = count);
    assert_ok(cuda->ops->distances(cuda, &d, err));
    assert_ok(cuda->ops->cluster(cuda, &g, err));
    d.n_jobs = g.n_jobs = m.n_jobs = 0;
    assert_ok(cuda->ops->distances(cuda, &d, err));
    assert_ok(cuda->ops->cluster(cuda, &g, err));
    assert_ok(cuda->ops->merge(cuda, &m, err));
    cuda->ops->free(cuda, dist);
    scene_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distances_match_the_twin_for_every_metric_and_length),
        cmocka_unit_test(every_length_from_every_slot_is_measured),
        cmocka_unit_test(outliers_match_the_twin_for_every_head_dim_and_number_of_heads),
        cmocka_unit_test(many_chunks_give_what_two_give),
        cmocka_unit_test(far_broken_and_zero_keys_give_what_the_twin_gives),
        cmocka_unit_test(cores_are_the_twins_bit_for_bit),
        cmocka_unit_test(bad_jobs_are_refused),
    };
    skip_without_device();
    cuda = open_cuda(SC_MATH_AUTO, false);
    cpu = open_backend(SC_CPU_ISA_PLAIN, 2);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cuda->ops->close(cuda);
    cpu->ops->close(cpu);
    return failed;
}
