/* bench/cuda_compress.c - what compression costs on a backend plugin: distances, clusters, merge.
 *
 *   bench-cuda-compress PLUGIN [device]
 *
 * The shape of an 8B model: 32 layers, 8 KV heads of 128 in bf16, tau or a budget of a quarter. An
 * epoch of 512 tokens, 64K behind the beginning, is 256 chunks of 64 or 128 of 128. Keys are at
 * random, which gives seeds and members in numbers that real keys give too. Distances are measured
 * without and with those to the mean key, which find outliers. Median of the runs, from the call
 * until the device is done. Then all three behind each other, labels kept on the device or sent
 * forth and back, without the pages that the engine gives out in between; and what it would cost to
 * hide that wait by working on two halves: distances in two calls, the clusters of one half.
 */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/plugin.h"

enum {
    LAYERS = 32,
    EPOCH = 512,
    HEADS = 8,
    HEAD_DIM = 128,
    EPOCH_PAGES = EPOCH / SC_PAGE_ENTRIES,
    POSITION = 65536, /* of the epoch's first token */
    PAGE0 = POSITION / SC_PAGE_ENTRIES,
    JOBS_MAX = 256,
    RUNS = 51
};

struct bench {
    struct sc_backend *be;
    struct sc_kv_pool *pool;
    uint32_t exact[LAYERS][PAGE0 + EPOCH_PAGES], cores[LAYERS][EPOCH_PAGES];
    float means[LAYERS][HEADS][HEAD_DIM];
    struct sc_chunk_job jobs[JOBS_MAX];
    float inv_freq[HEAD_DIM / 2], inv_var[HEADS];
    uint8_t labels[LAYERS * EPOCH], seeds[LAYERS * EPOCH];
    uint32_t counts[JOBS_MAX];
    struct sc_dist_args dist;
    struct sc_cluster_args cluster;
    struct sc_merge_args merge;
};

static double now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec * 1e-3;
}

static void must(enum sc_status st, const struct sc_err *err)
{
    if (st != SC_OK) {
        fprintf(stderr, "bench-cuda-compress: %s: %s\n", sc_status_text(st), err->text);
        exit(1);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

enum op { DISTANCES, CLUSTER, MERGE, ALL, DISTANCES_HALVES, CLUSTER_HALF };

static enum sc_status call_all(struct bench *b, struct sc_err *err)
{
    const struct sc_backend_ops *ops = b->be->ops;
    enum sc_status st = ops->distances(b->be, &b->dist, err);
    if (st == SC_OK)
        st = ops->cluster(b->be, &b->cluster, err);
    return st == SC_OK ? ops->merge(b->be, &b->merge, err) : st;
}

/* Jobs are all of one length. */
static enum sc_status call_halves(struct bench *b, struct sc_err *err)
{
    struct sc_dist_args half = b->dist;
    const uint32_t n = b->dist.n_jobs / 2, m = b->jobs[0].m;
    half.n_jobs = n;
    enum sc_status st = b->be->ops->distances(b->be, &half, err);
    half.jobs += n;
    half.dist += (size_t)n * m * m;
    return st == SC_OK ? b->be->ops->distances(b->be, &half, err) : st;
}

static enum sc_status call(struct bench *b, enum op op, struct sc_err *err)
{
    const struct sc_backend_ops *ops = b->be->ops;
    struct sc_cluster_args half = b->cluster;
    half.n_jobs /= 2;
    switch (op) {
    case DISTANCES:
        return ops->distances(b->be, &b->dist, err);
    case CLUSTER:
        return ops->cluster(b->be, &b->cluster, err);
    case MERGE:
        return ops->merge(b->be, &b->merge, err);
    case ALL:
        return call_all(b, err);
    case DISTANCES_HALVES:
        return call_halves(b, err);
    case CLUSTER_HALF:
        return ops->cluster(b->be, &half, err);
    }
    return sc_fail(err, SC_EINVAL, "operation %d", (int)op);
}

static double median_us(struct bench *b, enum op op)
{
    struct sc_err err = SC_ERR_INIT;
    double us[RUNS];
    for (int i = -3; i < RUNS; i++) {
        must(b->be->ops->sync(b->be, &err), &err);
        double start = now_us();
        must(call(b, op, &err), &err);
        must(b->be->ops->sync(b->be, &err), &err);
        if (i >= 0)
            us[i] = now_us() - start;
    }
    qsort(us, RUNS, sizeof(us[0]), by_value);
    return us[RUNS / 2];
}

static void fill_pages(struct bench *b)
{
    const struct sc_kv_spec spec = {HEADS, HEAD_DIM, SC_DTYPE_BF16};
    const size_t n = (size_t)SC_PAGE_ENTRIES * HEAD_DIM;
    uint16_t *kv = malloc(2 * n * sizeof(*kv));
    float bias[SC_PAGE_ENTRIES] = {0};
    struct sc_err err = SC_ERR_INIT;
    uint64_t seed = 1;

    if (kv == NULL)
        exit(1);
    must(b->be->ops->kv_open(b->be, &spec, 2 * LAYERS * EPOCH_PAGES, &b->pool, &err), &err);
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t i = 0; i < EPOCH_PAGES; i++) {
            b->exact[l][PAGE0 + i] = 2 * (i * LAYERS + l);
            b->cores[l][i] = b->exact[l][PAGE0 + i] + 1;
            for (uint32_t h = 0; h < HEADS; h++) {
                for (size_t k = 0; k < 2 * n; k++) {
                    seed = seed * 6364136223846793005u + 1442695040888963407u;
                    kv[k] = sc_f32_to_bf16((float)(seed >> 40) * 0x1p-23f - 1.0f);
                }
                must(b->be->ops->kv_unpack(b->be, b->pool,
                                           (const uint32_t[]){b->exact[l][PAGE0 + i]}, 0,
                                           SC_PAGE_ENTRIES, h, kv, kv + n, bias, &err),
                     &err);
            }
        }
    }
    free(kv);
}

static void prepare(struct bench *b, uint32_t m, uint32_t budget, int64_t tau, bool outliers)
{
    const uint32_t n_chunks = EPOCH / m;
    for (uint32_t j = 0; j < LAYERS * n_chunks; j++) {
        const uint32_t l = j / n_chunks, c = j % n_chunks;
        b->jobs[j] = (struct sc_chunk_job){.exact_pages = b->exact[l],
                                           .core_pages = b->cores[l],
                                           .pos0 = POSITION + c * m,
                                           .m = m,
                                           .core0 = c * m,
                                           .tau = tau,
                                           .budget = budget,
                                           .inv_var = b->inv_var,
                                           .mean_key = outliers ? b->means[l][0] : NULL,
                                           .alone_above = INT64_MAX};
    }
    b->dist.n_jobs = b->cluster.n_jobs = b->merge.n_jobs = LAYERS * n_chunks;
}

static void run(struct bench *b, uint32_t m)
{
    struct sc_err err = SC_ERR_INIT;
    double budget_us, dist_us, means_us, merge_us, tau_us, half_us, halves_us, all_us[2];
    int32_t *dist = malloc((size_t)m * m * sizeof(*dist));
    if (dist == NULL)
        exit(1);
    prepare(b, m, m / 4, 0, true);
    means_us = median_us(b, DISTANCES);
    prepare(b, m, m / 4, 0, false);
    dist_us = median_us(b, DISTANCES);
    budget_us = median_us(b, CLUSTER);
    merge_us = median_us(b, MERGE);
    /* A tau that joins about as many: a low value of the first chunk. */
    must(b->be->ops->download(b->be, dist, b->dist.dist, (size_t)m * m * sizeof(*dist), &err),
         &err);
    int32_t least = INT32_MAX, most = 0;
    for (uint32_t i = 0; i < m * m; i++) {
        least = i / m != i % m && dist[i] < least ? dist[i] : least;
        most = dist[i] > most ? dist[i] : most;
    }
    prepare(b, m, 0, least + (most - least) / 4, false);
    tau_us = median_us(b, CLUSTER);
    printf("%4u jobs of %3u tokens: distances %7.1f us (with means %7.1f us), cluster %7.1f us "
           "(budget %7.1f us), merge %7.1f us, %u clusters in the first\n",
           b->dist.n_jobs, m, dist_us, means_us, tau_us, budget_us, merge_us, b->counts[0]);
    free(dist);
    prepare(b, m, 0, b->jobs[0].tau, true);
    for (int keep = 0; keep < 2; keep++) {
        b->cluster.keep = b->merge.kept = keep == 1;
        all_us[keep] = median_us(b, ALL);
    }
    half_us = median_us(b, CLUSTER_HALF);
    tau_us = median_us(b, CLUSTER);
    b->cluster.keep = b->merge.kept = false;
    means_us = median_us(b, DISTANCES);
    halves_us = median_us(b, DISTANCES_HALVES);
    printf(
        "     all three (with means, tau) %7.1f us, labels kept %7.1f us; distances %7.1f us, in "
        "two halves %7.1f us; cluster, kept, %7.1f us, of one half %7.1f us\n",
        all_us[0], all_us[1], means_us, halves_us, tau_us, half_us);
}

static struct sc_backend *open_plugin(const char *path, int device)
{
    const struct sc_backend_opts opts = {.n_ranks = 1, .n_threads = 1, .device = device};
    struct sc_err err = SC_ERR_INIT;
    struct sc_backend *be = NULL;
    char text[256];
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const struct sc_backend_plugin *plugin =
        lib != NULL ? dlsym(lib, SC_BACKEND_PLUGIN_SYMBOL) : NULL;
    if (plugin == NULL || plugin->abi != SC_BACKEND_ABI) {
        fprintf(stderr, "bench-cuda-compress: %s: %s\n", path,
                lib == NULL ? dlerror() : "not a plugin of this version");
        exit(1);
    }
    must(plugin->open(&opts, &be, &err), &err);
    be->ops->describe(be, text, sizeof(text));
    printf("%s\n", text);
    return be;
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct sc_err err = SC_ERR_INIT;
    void *dist = NULL;

    if (argc < 2) {
        fprintf(stderr, "usage: bench-cuda-compress PLUGIN [device]\n");
        return 2;
    }
    b.be = open_plugin(argv[1], argc > 2 ? atoi(argv[2]) : 0);
    fill_pages(&b);
    for (uint32_t d = 0; d < HEAD_DIM / 2; d++)
        b.inv_freq[d] = powf(500000.0f, -2.0f * (float)d / HEAD_DIM);
    for (uint32_t h = 0; h < HEADS; h++)
        b.inv_var[h] = 1.0f / HEAD_DIM;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t i = 0; i < HEADS * HEAD_DIM; i++)
            b.means[l][i / HEAD_DIM][i % HEAD_DIM] = (float)(i % 17) * 0.05f - 0.4f;
    must(b.be->ops->alloc(b.be, (size_t)LAYERS * EPOCH * SC_CHUNK_MAX * sizeof(int32_t), &dist,
                          &err),
         &err);
    b.dist = (struct sc_dist_args){.pool = b.pool,
                                   .jobs = b.jobs,
                                   .n_planes = 1,
                                   .n_kv_heads = HEADS,
                                   .head_dim = HEAD_DIM,
                                   .metric = SC_METRIC_L2_PRE,
                                   .inv_freq = b.inv_freq,
                                   .cap = INT32_MAX / HEADS,
                                   .contributes = true,
                                   .dist = dist};
    b.cluster = (struct sc_cluster_args){.jobs = b.jobs,
                                         .n_planes = 1,
                                         .dist = dist,
                                         .labels = b.labels,
                                         .seeds = b.seeds,
                                         .counts = b.counts};
    b.merge = (struct sc_merge_args){.pool = b.pool,
                                     .jobs = b.jobs,
                                     .n_planes = 1,
                                     .n_kv_heads = HEADS,
                                     .head_dim = HEAD_DIM,
                                     .log_bias = true,
                                     .labels = b.labels,
                                     .seeds = b.seeds,
                                     .counts = b.counts,
                                     .n_cores = b.counts};
    run(&b, 64);
    run(&b, 128);
    b.be->ops->free(b.be, dist);
    b.be->ops->kv_close(b.be, b.pool);
    b.be->ops->close(b.be);
    return 0;
}
