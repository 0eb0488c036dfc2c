#include "tests/cuda/support.h"

#define JOBS      96u
#define PLANES    2u
#define N_ROUNDS  24u /* of each seed order */
#define DIST_INTS ((size_t)JOBS * PLANES * SC_CHUNK_MAX * SC_CHUNK_MAX)
#define LABELS    ((size_t)JOBS * PLANES * SC_CHUNK_MAX)

static struct sc_backend *cuda, *cpu;

struct found {
    uint8_t labels[LABELS], seeds[LABELS];
    uint32_t counts[JOBS * PLANES];
};

static void put(int32_t *dist, uint32_t m, uint32_t i, uint32_t j, int32_t d)
{
    dist[i * m + j] = dist[j * m + i] = i == j ? 0 : d;
}

/* A symmetric plane of one of several kinds; returns about how large its values are. */
static uint32_t random_plane(struct rng *r, uint32_t m, int32_t *dist)
{
    static const uint32_t levels[] = {1, 2, 3, 7, 50, 1000, 1u << 20, INT32_MAX};
    const uint32_t n = levels[rng_below(r, SC_ARRAY_LEN(levels))], kind = rng_below(r, 4);
    uint32_t at[SC_CHUNK_MAX];
    for (uint32_t i = 0; i < m; i++)
        at[i] = kind == 1 ? rng_below(r, n) : rng_below(r, 1 + m / 6);
    for (uint32_t i = 0; i < m; i++) {
        for (uint32_t j = i; j < m; j++) {
            uint32_t d = rng_below(r, n); /* no structure, or many ties */
            if (kind == 1)                /* points on a line */
                d = at[i] > at[j] ? at[i] - at[j] : at[j] - at[i];
            if (kind == 2) /* groups */
                d = at[i] == at[j] ? d / 4 : n / 2 + d / 2;
            if (kind == 3) /* what is near in the text is near */
                d = (uint32_t)((uint64_t)(j - i) * n / m) / 2 + d / 2;
            put(dist, m, i, j, (int32_t)d);
        }
    }
    return n;
}

static int64_t random_tau(struct rng *r, uint32_t n)
{
    static const int64_t ends[] = {-1, 0, INT32_MAX, (int64_t)INT32_MAX + 1, INT64_MAX, INT64_MIN};
    if (rng_below(r, 8) == 0)
        return ends[rng_below(r, SC_ARRAY_LEN(ends))];
    return rng_below(r, n) / (1 + rng_below(r, 4));
}

static uint32_t random_length(struct rng *r, uint32_t most)
{
    static const uint32_t edges[] = {1, 2, 31, 32, 33, 63, 64, 65, 96, 127, 128};
    uint32_t m = edges[rng_below(r, SC_ARRAY_LEN(edges))];
    return m <= most && rng_below(r, 2) == 0 ? m : 1 + rng_below(r, most);
}

static void compare(const struct sc_cluster_args *args, const int32_t *dist, size_t n_dist)
{
    static struct found got, want;
    struct sc_cluster_args a = *args;
    size_t at = 0;

    memset(&got, 0xee, sizeof(got));
    int32_t *device = on_device(cuda, dist, n_dist * sizeof(*dist));
    a.labels = got.labels, a.seeds = got.seeds, a.counts = got.counts;
    a.dist = device;
    assert_ok(cuda->ops->cluster(cuda, &a, err));
    cuda->ops->free(cuda, device);
    a.labels = want.labels, a.seeds = want.seeds, a.counts = want.counts;
    a.dist = dist;
    assert_ok(cpu->ops->cluster(cpu, &a, err));
    for (uint32_t t = 0; t < a.n_jobs * a.n_planes; t++) {
        const struct sc_chunk_job *job = &a.jobs[t / a.n_planes];
        if (got.counts[t] != want.counts[t])
            fail_msg("job %u, m %u, tau %lld, budget %u: %u clusters, not %u", t / a.n_planes,
                     job->m, (long long)job->tau, job->budget, got.counts[t], want.counts[t]);
        assert_memory_equal(got.labels + at, want.labels + at, job->m);
        assert_memory_equal(got.seeds + at, want.seeds + at, want.counts[t]);
        at += job->m;
    }
}

/* 24 rounds of two orders, 96 jobs of one or two planes: 6912 matrices. The first four have both
 * orders, sizes and numbers of planes. */
static void labels_are_the_twins_for_any_integers(void **state)
{
    struct rng r = {1};
    static struct sc_chunk_job jobs[JOBS];
    int32_t *dist = malloc(DIST_INTS * sizeof(*dist));
    const uint32_t n_rounds = small_run() ? 4 : 2 * N_ROUNDS, n_jobs = small_run() ? 24 : JOBS;
    (void)state;
    for (uint32_t round = 0; round < n_rounds; round++) {
        const uint32_t n_planes = 1 + round / 2 % 2, most = round % 3 == 0 ? 64 : 128;
        size_t n_dist = 0;
        for (uint32_t j = 0; j < n_jobs; j++) {
            const uint32_t m = random_length(&r, most), odds = 2 + rng_below(&r, 20);
            uint32_t n = 1;
            for (uint32_t p = 0; p < n_planes; p++, n_dist += (size_t)m * m)
                n = random_plane(&r, m, dist + n_dist);
            jobs[j] = (struct sc_chunk_job){.pos0 = j, .m = m, .tau = random_tau(&r, n)};
            /* Bits behind the last token mean nothing. */
            for (uint32_t i = 0; j % 3 == 0 && i < SC_CHUNK_MAX; i++)
                jobs[j].forced[i / 64] |= (uint64_t)(rng_below(&r, odds) == 0) << (i % 64);
            if (j % 2 != 0)
                jobs[j].budget = 1 + rng_below(&r, m + 3);
            for (uint32_t i = 0; j % 4 < 2 && i < n_planes * m; i++) /* outliers */
                dist[n_dist - (size_t)n_planes * m * m + (size_t)(i / m) * m * m +
                     i % m * (m + 1)] =
                    rng_below(&r, odds) == 0 ? 1 + (int32_t)rng_below(&r, 3) : 0;
            jobs[j].most_alone = j % 8 < 4 ? 0 : 1 + rng_below(&r, 8);
        }
        const struct sc_cluster_args a = {.jobs = jobs,
                                          .n_jobs = n_jobs,
                                          .n_planes = n_planes,
                                          .seed_order = round % 2 ? SC_SEED_SCAN : SC_SEED_DENSE};
        compare(&a, dist, n_dist);
    }
    free(dist);
}

static void all_alone_all_forced_and_all_together(void **state)
{
    static const uint32_t lengths[] = {1, 2, 31, 32, 33, 64, 65, 127, 128};
    static int32_t dist[SC_CHUNK_MAX * SC_CHUNK_MAX];
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(lengths); i++) {
        const uint32_t m = lengths[i];
        for (uint32_t kind = 0; kind < 12; kind++) {
            struct sc_chunk_job job = {.m = m, .tau = kind % 2 ? -1 : INT64_MAX};
            job.budget = kind / 2 % 3 == 0 ? 0 : kind / 2 % 3 == 1 ? 1 : m;
            if (kind >= 6)
                job.forced[0] = job.forced[1] = UINT64_MAX;
            for (uint32_t k = 0; k < m * m; k++)
                dist[k] = k % m == k / m ? 0 : (int32_t)(1 + kind % 3);
            for (int order = 0; order < 2; order++) {
                const struct sc_cluster_args a = {.jobs = &job,
                                                  .n_jobs = 1,
                                                  .n_planes = 1,
                                                  .seed_order = (enum sc_seed_order)order};
                compare(&a, dist, (size_t)m * m);
            }
        }
    }
}

/* ---- an epoch at the shape of an 8B model ---- */

enum {
    LAYERS = 32,
    CHUNKS = 8,
    M = 64,
    HEADS = 8,
    HEAD_DIM = 128,
    EPOCH_PAGES = CHUNKS * M / 32,
    EPOCH_DIST = LAYERS * CHUNKS * M * M,
    ROW = HEAD_DIM * 2 /* bytes */
};

struct epoch {
    struct sc_kv_pool *pool;
    uint32_t n_layers; /* LAYERS; in a small run 1 */
    uint32_t exact[LAYERS][EPOCH_PAGES], cores[LAYERS][EPOCH_PAGES];
    struct sc_chunk_job jobs[LAYERS * CHUNKS];
    float inv_freq[HEAD_DIM / 2], inv_var[HEADS];
    int32_t *dist; /* device */
};

struct result {
    int32_t *dist;
    uint8_t labels[LAYERS * CHUNKS * M], seeds[LAYERS * CHUNKS * M], cores[4][HEADS][64][ROW];
    uint32_t counts[LAYERS * CHUNKS];
    float bias[4][HEADS][64];
};

static void epoch_open(struct epoch *e)
{
    const struct sc_kv_spec spec = {HEADS, HEAD_DIM, SC_DTYPE_BF16};
    const uint32_t n_random = 1u << 20;
    struct rng r = {7};
    uint16_t *random = malloc((n_random + 32 * HEAD_DIM) * sizeof(*random));
    float bias[32] = {0};

    e->n_layers = small_run() ? 1 : LAYERS;
    for (uint32_t i = 0; i < n_random + 32 * HEAD_DIM; i++)
        random[i] = sc_f32_to_bf16(rng_normal(&r));
    assert_ok(cuda->ops->kv_open(cuda, &spec, 2 * LAYERS * EPOCH_PAGES, &e->pool, err));
    for (uint32_t d = 0; d < HEAD_DIM / 2; d++)
        e->inv_freq[d] = powf(500000.0f, -2.0f * (float)d / HEAD_DIM);
    for (uint32_t h = 0; h < HEADS; h++)
        e->inv_var[h] = 1.0f / (float)(HEAD_DIM + h);
    for (uint32_t l = 0; l < e->n_layers; l++) {
        for (uint32_t i = 0; i < EPOCH_PAGES; i++) {
            e->exact[l][i] = 2 * (i * LAYERS + l);
            e->cores[l][i] = e->exact[l][i] + 1;
            for (uint32_t h = 0; h < HEADS; h++)
                assert_ok(cuda->ops->kv_unpack(cuda, e->pool, (const uint32_t[]){e->exact[l][i]}, 0,
                                               32, h, random + rng_below(&r, n_random),
                                               random + rng_below(&r, n_random), bias, err));
        }
        for (uint32_t c = 0; c < CHUNKS; c++)
            e->jobs[l * CHUNKS + c] = (struct sc_chunk_job){.exact_pages = e->exact[l],
                                                            .core_pages = e->cores[l],
                                                            .pos0 = c * M,
                                                            .m = M,
                                                            .core0 = c * M,
                                                            .budget = 16,
                                                            .inv_var = e->inv_var};
    }
    e->dist = on_device(cuda, NULL, EPOCH_DIST * sizeof(int32_t));
    free(random);
}

/* In calls of n jobs, or of all that there are; keep: labels and seeds stay on the device. */
static void run_epoch(struct epoch *e, uint32_t n, bool keep, struct result *to)
{
    const uint32_t n_jobs = e->n_layers * CHUNKS;
    n = n < n_jobs ? n : n_jobs;
    for (uint32_t j = 0; j < n_jobs; j += n) {
        const struct sc_dist_args d = {.pool = e->pool,
                                       .jobs = e->jobs + j,
                                       .n_jobs = n,
                                       .n_planes = 1,
                                       .n_kv_heads = HEADS,
                                       .head_dim = HEAD_DIM,
                                       .metric = SC_METRIC_L2_PRE,
                                       .inv_freq = e->inv_freq,
                                       .cap = INT32_MAX / HEADS,
                                       .contributes = true,
                                       .dist = e->dist + (size_t)j * M * M};
        const struct sc_cluster_args g = {.jobs = d.jobs,
                                          .n_jobs = n,
                                          .n_planes = 1,
                                          .dist = d.dist,
                                          .labels = to->labels + j * M,
                                          .seeds = to->seeds + j * M,
                                          .counts = to->counts + j,
                                          .keep = keep};
        const struct sc_merge_args m = {.pool = e->pool,
                                        .jobs = d.jobs,
                                        .n_jobs = n,
                                        .n_planes = 1,
                                        .n_kv_heads = HEADS,
                                        .head_dim = HEAD_DIM,
                                        .log_bias = true,
                                        .labels = g.labels,
                                        .seeds = g.seeds,
                                        .counts = g.counts,
                                        .n_cores = g.counts,
                                        .kept = keep};
        assert_ok(cuda->ops->distances(cuda, &d, err));
        assert_ok(cuda->ops->cluster(cuda, &g, err));
        assert_ok(cuda->ops->merge(cuda, &m, err));
    }
    to->dist = from_device(cuda, e->dist, EPOCH_DIST * sizeof(int32_t));
    for (uint32_t i = 0; i < 4; i++) { /* the first page of cores of some layers and chunks */
        const uint32_t l = i * 10 % e->n_layers, page = e->cores[l][i * 4];
        const uint32_t filled = to->counts[l * CHUNKS + i * 2];
        for (uint32_t h = 0; h < HEADS; h++)
            assert_ok(cuda->ops->kv_pack(cuda, e->pool, (const uint32_t[]){page}, 0, filled, h,
                                         to->cores[i][h], to->cores[i][h] + 32, to->bias[i][h],
                                         err));
    }
}

/* Whatever the number of jobs in a call, and so however their heads are shared out. */
static void an_epoch_has_the_same_bits_however_it_is_cut(void **state)
{
    static const uint32_t sizes[] = {LAYERS * CHUNKS, LAYERS * CHUNKS, CHUNKS, 1};
    static struct epoch e;
    static struct result first, again;
    (void)state;
    epoch_open(&e);
    const uint32_t n_jobs = e.n_layers * CHUNKS;
    run_epoch(&e, n_jobs, false, &first);
    for (uint32_t j = 0; j < n_jobs; j++)
        assert_in_range(first.counts[j], 2, 16);
    for (size_t i = 0; i < SC_ARRAY_LEN(sizes); i++) {
        run_epoch(&e, sizes[i], false, &again);
        assert_memory_equal(again.dist, first.dist, EPOCH_DIST * sizeof(int32_t));
        assert_memory_equal(again.labels, first.labels, sizeof(first.labels));
        assert_memory_equal(again.seeds, first.seeds, sizeof(first.seeds));
        assert_memory_equal(again.counts, first.counts, sizeof(first.counts));
        assert_memory_equal(again.cores, first.cores, sizeof(first.cores));
        assert_memory_equal(again.bias, first.bias, sizeof(first.bias));
        free(again.dist);
    }
    for (size_t i = 1; i < SC_ARRAY_LEN(sizes); i++) { /* nothing of use is in the host's arrays */
        memset(again.labels, 0xff, sizeof(again.labels));
        memset(again.seeds, 0xff, sizeof(again.seeds));
        run_epoch(&e, sizes[i], true, &again);
        assert_memory_equal(again.counts, first.counts, sizeof(first.counts));
        assert_memory_equal(again.cores, first.cores, sizeof(first.cores));
        assert_memory_equal(again.bias, first.bias, sizeof(first.bias));
        free(again.dist);
    }
    free(first.dist);
    cuda->ops->free(cuda, e.dist);
    cuda->ops->kv_close(cuda, e.pool);
}

/* ---- what a merge finds on the device ---- */

enum { STAGE = 16 << 20, KEPT_JOBS = 5 }; /* STAGE: SC_CUDA_STAGE_BYTES */

/* A few jobs with clusters of them, whose seeds become the cores, so that all three arrays count.
 */
struct kept {
    struct epoch e;
    struct result r;
    struct sc_cluster_args cluster;
    struct sc_merge_args merge;
};

static void kept_open(struct kept *k)
{
    epoch_open(&k->e);
    run_epoch(&k->e, LAYERS * CHUNKS, false, &k->r); /* for the distances */
    k->cluster = (struct sc_cluster_args){.jobs = k->e.jobs,
                                          .n_jobs = KEPT_JOBS,
                                          .n_planes = 1,
                                          .dist = k->e.dist,
                                          .labels = k->r.labels,
                                          .seeds = k->r.seeds,
                                          .counts = k->r.counts,
                                          .keep = true};
    k->merge = (struct sc_merge_args){.pool = k->e.pool,
                                      .jobs = k->e.jobs,
                                      .n_jobs = KEPT_JOBS,
                                      .n_planes = 1,
                                      .n_kv_heads = HEADS,
                                      .head_dim = HEAD_DIM,
                                      .representative = SC_REP_SEED,
                                      .log_bias = true,
                                      .labels = k->r.labels,
                                      .seeds = k->r.seeds,
                                      .counts = k->r.counts,
                                      .n_cores = k->r.counts,
                                      .kept = true};
}

static void kept_close(struct kept *k)
{
    free(k->r.dist);
    cuda->ops->free(cuda, k->e.dist);
    cuda->ops->kv_close(cuda, k->e.pool);
}

/* Takes so much of the stage, a half or less: what does not fit in this half turns to the other. */
static void use_stage(uint32_t bytes)
{
    struct sc_embedding *emb = NULL;
    void *rows = calloc(1, bytes);
    assert_ok(cuda->ops->embedding_open(cuda, rows, SC_DTYPE_F32, 0, bytes / 32, 8, &emb, err));
    cuda->ops->embedding_close(cuda, emb);
    free(rows);
}

static void read_cores(const struct kept *k, uint8_t cores[KEPT_JOBS][2][16][ROW], float *bias)
{
    for (uint32_t j = 0; j < KEPT_JOBS; j++)
        assert_ok(cuda->ops->kv_pack(cuda, k->e.pool, k->e.cores[j / CHUNKS], k->e.jobs[j].core0,
                                     k->r.counts[j], j % HEADS, cores[j][0], cores[j][1],
                                     bias + j * 16, err));
}

/* Wherever in the stage they lie, and though the merge's own arrays begin another half of it: there
 * is room for both calls in the one that is begun, for none of them, or for the first alone. */
static void kept_labels_are_there_whatever_the_stage_does(void **state)
{
    static struct kept k;
    static uint8_t want[KEPT_JOBS][2][16][ROW], got[KEPT_JOBS][2][16][ROW];
    float want_bias[KEPT_JOBS * 16] = {0}, got_bias[KEPT_JOBS * 16] = {0};
    (void)state;
    kept_open(&k);
    k.merge.kept = false;
    assert_ok(cuda->ops->merge(cuda, &k.merge, err));
    read_cores(&k, want, want_bias);
    k.merge.kept = true;
    for (uint32_t room = 0; room < 2048; room += 128) {
        memset(k.r.labels, 0xff, sizeof(k.r.labels));
        memset(k.r.seeds, 0xff, sizeof(k.r.seeds));
        k.merge.representative = SC_REP_LAST; /* other cores first */
        use_stage(STAGE - 4096);
        assert_ok(cuda->ops->cluster(cuda, &k.cluster, err));
        assert_ok(cuda->ops->merge(cuda, &k.merge, err));
        k.merge.representative = SC_REP_SEED;
        use_stage(STAGE - room);
        assert_ok(cuda->ops->cluster(cuda, &k.cluster, err));
        assert_ok(cuda->ops->merge(cuda, &k.merge, err));
        read_cores(&k, got, got_bias);
        assert_memory_equal(got, want, sizeof(want));
        assert_memory_equal(got_bias, want_bias, sizeof(want_bias));
    }
    kept_close(&k);
}

static void what_is_not_kept_is_refused(void **state)
{
    static struct kept k;
    (void)state;
    kept_open(&k);
    assert_fails(SC_EINVAL, cuda->ops->merge(cuda, &k.merge, err)); /* nothing was */
    assert_ok(cuda->ops->cluster(cuda, &k.cluster, err));
    k.merge.n_jobs--;
    assert_fails(SC_EINVAL, cuda->ops->merge(cuda, &k.merge, err));
    k.merge.n_jobs++;
    k.merge.n_cores = (const uint32_t[]){16, 16, 16, 16, 16};
    k.r.counts[1] = 17;
    assert_fails(SC_EINVAL, cuda->ops->merge(cuda, &k.merge, err));
    assert_ok(cuda->ops->cluster(cuda, &k.cluster, err));
    use_stage(STAGE - 4096); /* the next turn, with room for the merge */
    assert_ok(cuda->ops->merge(cuda, &k.merge, err));
    assert_ok(cuda->ops->cluster(cuda, &k.cluster, err));
    use_stage(STAGE - 4096);
    use_stage(STAGE - 4096);
    assert_fails(SC_EINVAL, cuda->ops->merge(cuda, &k.merge, err));
    assert_ok(cuda->ops->cluster(cuda, &k.cluster, err));
    k.cluster.keep = false;
    assert_ok(cuda->ops->cluster(cuda, &k.cluster, err));
    assert_fails(SC_EINVAL, cuda->ops->merge(cuda, &k.merge, err));
    kept_close(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_are_the_twins_for_any_integers),
        cmocka_unit_test(all_alone_all_forced_and_all_together),
        cmocka_unit_test(an_epoch_has_the_same_bits_however_it_is_cut),
        cmocka_unit_test(kept_labels_are_there_whatever_the_stage_does),
        cmocka_unit_test(what_is_not_kept_is_refused),
    };
    skip_without_device();
    cuda = open_cuda(SC_MATH_AUTO, false);
    cpu = open_backend(SC_CPU_ISA_PLAIN, 2);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cuda->ops->close(cuda);
    cpu->ops->close(cpu);
    return failed;
}
