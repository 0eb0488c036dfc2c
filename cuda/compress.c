/* The host side of compression: what is wrong with a job is found here, then the jobs travel with
 * only the page ids they touch. Of one call everything is staged in one piece. */
#include "cuda/device.h"

#include "base/backend_check.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "cuda/kernels_compress.h"

static_assert(SC_CUDA_CHUNK == SC_CHUNK_MAX && SC_CUDA_PAGE == SC_PAGE_ENTRIES &&
                  SC_CUDA_CHUNK_PAGES == (SC_CHUNK_MAX - 2) / SC_PAGE_ENTRIES + 2 &&
                  SC_CUDA_DIST_SIZES == SC_CHUNK_MAX / 32,
              "kernels_compress.h against base/backend.h");
static_assert((int)SC_CUDA_PICK_MEAN == SC_REP_MEAN && (int)SC_CUDA_PICK_SEED == SC_REP_SEED &&
                  (int)SC_CUDA_PICK_LAST == SC_REP_LAST,
              "enum sc_representative");

/* Parts of the one piece, each aligned. */
static size_t part(size_t *bytes, size_t n, size_t each)
{
    size_t at = *bytes;
    *bytes += SC_CUDA_ALIGN(n * each);
    return at;
}

static struct sc_cuda_kv_view view(const struct sc_kv_pool *pool)
{
    return (struct sc_cuda_kv_view){.mem = pool->mem,
                                    .page_bytes = pool->page_bytes,
                                    .head_bytes = pool->head_bytes,
                                    .v_offset = pool->v_offset,
                                    .bias_offset = pool->bias_offset,
                                    .head_dim = pool->spec.head_dim,
                                    .dtype = pool->spec.dtype};
}

/* The pages of entries first .. first + n - 1. */
static void pack_pages(const uint32_t *pages, uint32_t first, uint32_t n,
                       uint32_t to[SC_CUDA_CHUNK_PAGES])
{
    uint32_t p0 = first / SC_PAGE_ENTRIES;
    uint32_t count = (uint32_t)(((uint64_t)first + n - 1) / SC_PAGE_ENTRIES) - p0 + 1;
    memset(to, 0, SC_CUDA_CHUNK_PAGES * sizeof(*to));
    memcpy(to, pages + p0, count * sizeof(*to));
}

/* ---- distances ---- */

/* Jobs of one layer share its mean keys, which travel once. */
#define MEANS_MAX 256u

struct means {
    const float *keys[MEANS_MAX];
    uint32_t n;
};

/* means->n: not among them. */
static uint32_t means_find(const struct means *means, const float *key)
{
    uint32_t i = 0;
    while (i < means->n && means->keys[i] != key)
        i++;
    return i;
}

static enum sc_status find_means(const struct sc_dist_args *a, struct means *means,
                                 struct sc_err *err)
{
    means->n = 0;
    for (uint32_t i = 0; i < a->n_jobs && a->jobs[i].mean_key != NULL; i++) {
        if (means_find(means, a->jobs[i].mean_key) < means->n)
            continue;
        if (means->n == MEANS_MAX)
            return sc_fail(err, SC_EINVAL, "distances: more than %u different mean keys",
                           MEANS_MAX);
        means->keys[means->n++] = a->jobs[i].mean_key;
    }
    return SC_OK;
}

/* Jobs go by size, so that a launch has blocks of one size. */
static void sort_jobs(const struct sc_dist_args *a, const struct means *means,
                      const uint32_t n_jobs[SC_CUDA_DIST_SIZES], struct sc_cuda_dist_job *jobs,
                      float *inv_var)
{
    uint32_t next[SC_CUDA_DIST_SIZES] = {0};
    uint64_t at = 0;

    for (uint32_t s = 1; s < SC_CUDA_DIST_SIZES; s++)
        next[s] = next[s - 1] + n_jobs[s - 1];
    for (uint32_t i = 0; i < a->n_jobs; i++) {
        const struct sc_chunk_job *job = &a->jobs[i];
        uint32_t to = next[(job->m - 1) / 32]++;
        jobs[to].dist_at = at;
        jobs[to].m = job->m;
        jobs[to].pos0 = job->pos0;
        jobs[to].slot0 = job->pos0 % SC_PAGE_ENTRIES;
        jobs[to].mean = means_find(means, job->mean_key);
        pack_pages(job->exact_pages, job->pos0, job->m, jobs[to].pages);
        if (!sc_metric_is_cosine(a->metric) || means->n > 0)
            memcpy(inv_var + (size_t)to * a->n_kv_heads, job->inv_var,
                   a->n_kv_heads * sizeof(*inv_var));
        at += (uint64_t)a->n_planes * job->m * job->m;
    }
}

enum sc_status sc_cuda_distances(struct sc_backend *be, const struct sc_dist_args *a,
                                 struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    struct sc_cuda_dist_launch launch = {0};
    size_t bytes = 0, sent, jobs_at, var_at, freq_at, means_at, turns_at;
    struct means means;
    void *host, *device;
    enum sc_status st =
        sc_check_distances(a, a->pool != NULL ? &a->pool->spec : NULL,
                           a->pool != NULL ? a->pool->n_pages : 0, SC_CUDA_ROWS_MAX, err);

    if (st == SC_OK)
        st = find_means(a, &means, err);
    if (st != SC_OK || a->n_jobs == 0)
        return st;
    sc_cuda_forget(dev);
    for (uint32_t i = 0; i < a->n_jobs; i++) {
        uint32_t m = a->jobs[i].m;
        launch.n_jobs[(m - 1) / 32]++;
        launch.n_dist += (size_t)a->n_planes * m * m;
        launch.max_m = m > launch.max_m ? m : launch.max_m;
    }
    if (!a->contributes)
        return sc_cuda_check(
            cudaMemsetAsync(a->dist, 0, launch.n_dist * sizeof(*a->dist), dev->stream), "distances",
            err);
    const size_t half = a->head_dim / 2;
    const bool pre = sc_metric_is_pre(a->metric), cosine = sc_metric_is_cosine(a->metric);
    jobs_at = part(&bytes, a->n_jobs, sizeof(*launch.jobs));
    const bool angles = pre || means.n > 0, scaled = !cosine || means.n > 0;
    const size_t per_mean = (size_t)a->n_kv_heads * a->head_dim;
    var_at = part(&bytes, scaled ? (size_t)a->n_jobs * a->n_kv_heads : 0, sizeof(float));
    freq_at = part(&bytes, angles ? half : 0, sizeof(float));
    means_at = part(&bytes, means.n * per_mean, sizeof(float));
    sent = bytes;
    turns_at = part(&bytes, angles ? launch.max_m * half : 0, 2 * sizeof(float));
    st = sc_cuda_stage_take(dev, bytes, "distances", &host, &device, err);
    if (st != SC_OK)
        return st;
    uint8_t *h = host, *d = device;
    sort_jobs(a, &means, launch.n_jobs, (struct sc_cuda_dist_job *)(void *)(h + jobs_at),
              (float *)(void *)(h + var_at));
    if (angles)
        memcpy(h + freq_at, a->inv_freq, half * sizeof(float));
    for (uint32_t i = 0; i < means.n; i++)
        memcpy(h + means_at + i * per_mean * sizeof(float), means.keys[i],
               per_mean * sizeof(float));
    st = sc_cuda_stage_send(dev, host, device, sent, err);
    if (st != SC_OK)
        return st;
    launch.kv = view(a->pool);
    launch.jobs = (const struct sc_cuda_dist_job *)(const void *)(d + jobs_at);
    launch.inv_var = (const float *)(const void *)(d + var_at);
    launch.mean_key = (const float *)(const void *)(d + means_at);
    launch.inv_freq = angles ? (const float *)(const void *)(d + freq_at) : NULL;
    launch.turns = angles ? (float *)(void *)(d + turns_at) : NULL;
    launch.dist = a->dist;
    launch.n_planes = a->n_planes;
    launch.n_kv_heads = a->n_kv_heads;
    launch.cap = a->cap;
    launch.pre = pre;
    launch.cosine = cosine;
    cudaError_t rc = sc_cuda_launch_distances(&launch, (uint32_t)dev->n_sms, dev->stream);
    if (rc == cudaSuccess && means.n > 0)
        rc = sc_cuda_launch_outliers(&launch, dev->stream);
    return sc_cuda_check(rc, "distances", err);
}

/* ---- clusters ---- */

static enum sc_status check_cluster(const struct sc_cluster_args *a, struct sc_err *err)
{
    enum sc_status st =
        sc_check_planes("cluster", a->n_planes, a->n_planes, a->n_jobs, SC_CUDA_ROWS_MAX, err);
    if (st == SC_OK && a->n_planes == 0)
        st = sc_fail(err, SC_EINVAL, "cluster: no planes");
    if (st == SC_OK && (unsigned)a->seed_order > SC_SEED_SCAN)
        st = sc_fail(err, SC_EINVAL, "cluster: seed order %d", (int)a->seed_order);
    for (uint32_t i = 0; st == SC_OK && i < a->n_jobs; i++)
        st = sc_check_job("cluster", 0, &a->jobs[i], i, err);
    return st;
}

static void fill_cluster_jobs(const struct sc_cluster_args *a, struct sc_cuda_cluster_job *jobs)
{
    uint64_t dist_at = 0, label_at = 0;
    for (uint32_t i = 0; i < a->n_jobs; i++) {
        const struct sc_chunk_job *job = &a->jobs[i];
        jobs[i].dist_at = dist_at;
        jobs[i].label_at = label_at;
        memcpy(jobs[i].forced, job->forced, sizeof(jobs[i].forced));
        jobs[i].tau = job->tau;
        jobs[i].alone_above = job->alone_above;
        jobs[i].most_alone = job->most_alone;
        jobs[i].m = job->m;
        jobs[i].budget = job->budget;
        dist_at += (uint64_t)a->n_planes * job->m * job->m;
        label_at += (uint64_t)a->n_planes * job->m;
    }
}

/* What the kernel finds comes back through the staging area, which is pinned: the counts, and
 * unless they are kept, labels and seeds, which lie before them. */
enum sc_status sc_cuda_cluster(struct sc_backend *be, const struct sc_cluster_args *a,
                               struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    struct sc_cuda_cluster_launch launch = {0};
    size_t bytes = 0, sent, n_labels = 0, labels_at, seeds_at, counts_at;
    const size_t n_counts = (size_t)a->n_jobs * a->n_planes;
    void *host, *device;
    enum sc_status st = check_cluster(a, err);

    dev->kept.labels = NULL;
    if (st != SC_OK || a->n_jobs == 0)
        return st;
    for (uint32_t i = 0; i < a->n_jobs; i++) {
        n_labels += (size_t)a->n_planes * a->jobs[i].m;
        launch.max_m = a->jobs[i].m > launch.max_m ? a->jobs[i].m : launch.max_m;
    }
    (void)part(&bytes, a->n_jobs, sizeof(*launch.jobs));
    sent = bytes;
    labels_at = part(&bytes, n_labels, 1);
    seeds_at = part(&bytes, n_labels, 1);
    counts_at = part(&bytes, n_counts, sizeof(*a->counts));
    st = sc_cuda_stage_take(dev, bytes, "cluster", &host, &device, err);
    if (st != SC_OK)
        return st;
    uint8_t *h = host, *d = device;
    fill_cluster_jobs(a, host);
    st = sc_cuda_stage_send(dev, host, device, sent, err);
    if (st != SC_OK)
        return st;
    launch.jobs = device;
    launch.dist = a->dist;
    launch.labels = d + labels_at;
    launch.seeds = d + seeds_at;
    launch.counts = (uint32_t *)(void *)(d + counts_at);
    launch.n_jobs = a->n_jobs;
    launch.n_planes = a->n_planes;
    launch.scan = a->seed_order == SC_SEED_SCAN;
    const size_t back_at = a->keep ? counts_at : labels_at;
    st = sc_cuda_check(sc_cuda_launch_cluster(&launch, dev->stream), "cluster", err);
    if (st == SC_OK)
        st = sc_cuda_check(cudaMemcpyAsync(h + back_at, d + back_at, bytes - back_at,
                                           cudaMemcpyDeviceToHost, dev->stream),
                           "cluster", err);
    if (st == SC_OK)
        st = sc_cuda_sync(be, err);
    if (st != SC_OK)
        return st;
    memcpy(a->counts, h + counts_at, n_counts * sizeof(*a->counts));
    if (a->keep) {
        dev->kept = (struct sc_cuda_kept){.labels = launch.labels,
                                          .seeds = launch.seeds,
                                          .counts = launch.counts,
                                          .n_labels = n_labels,
                                          .n_jobs = a->n_jobs,
                                          .n_planes = a->n_planes,
                                          .turn = dev->stage.turn};
        return SC_OK;
    }
    memcpy(a->labels, h + labels_at, n_labels);
    memcpy(a->seeds, h + seeds_at, n_labels);
    return SC_OK;
}

/* ---- merge ---- */

/* The first of n bytes that is not below limit, or n. Eight at a time: an epoch has tens of
 * thousands of labels, and nothing of the merge is on the device before they are checked. */
static uint32_t first_not_below(const uint8_t *x, uint32_t n, uint32_t limit)
{
    const uint64_t ones = 0x0101010101010101u, tops = ones << 7;
    const uint64_t add = (0x80u - limit) * ones; /* limit is at most SC_CHUNK_MAX */
    uint32_t i = 0;

    for (; i + sizeof(ones) <= n; i += sizeof(ones)) {
        uint64_t word;
        memcpy(&word, x + i, sizeof(word));
        if (((word | ((word & ~tops) + add)) & tops) != 0) /* a byte of 128, or that becomes one */
            break;
    }
    while (i < n && x[i] < limit)
        i++;
    return i;
}

/* Labels and seeds come from the host, unless they are kept: what they index is checked here, once.
 */
static enum sc_status check_labels(const struct sc_merge_args *a, uint32_t index, size_t at,
                                   struct sc_err *err)
{
    uint32_t m = a->jobs[index].m;
    for (uint32_t plane = 0; plane < a->n_planes; plane++) {
        const uint8_t *labels = a->labels + at + (size_t)plane * m;
        const uint8_t *seeds = a->seeds + at + (size_t)plane * m;
        uint32_t count = a->counts[index * a->n_planes + plane];
        if (count == 0 || count > m || count > a->n_cores[index])
            return sc_fail(err, SC_EINVAL, "merge: job %u: %u clusters of %u tokens, %u entries",
                           index, count, m, a->n_cores[index]);
        if (a->kept)
            continue;
        uint32_t i = first_not_below(labels, m, count);
        if (i < m)
            return sc_fail(err, SC_EINVAL, "merge: job %u: token %u: label %u of %u", index, i,
                           labels[i], count);
        i = first_not_below(seeds, count, m);
        if (i < count)
            return sc_fail(err, SC_EINVAL, "merge: job %u: cluster %u: seed %u of %u tokens", index,
                           i, seeds[i], m);
    }
    return SC_OK;
}

/* *ret_n: labels of all jobs. */
static enum sc_status check_merge(const struct sc_merge_args *a, const struct sc_cuda_kept *kept,
                                  size_t *ret_n, struct sc_err *err)
{
    enum sc_status st =
        sc_check_merge(a, a->pool != NULL ? &a->pool->spec : NULL,
                       a->pool != NULL ? a->pool->n_pages : 0, SC_CUDA_ROWS_MAX, err);
    size_t at = 0;

    for (uint32_t i = 0; st == SC_OK && i < a->n_jobs; i++) {
        st = check_labels(a, i, at, err);
        at += (size_t)a->n_planes * a->jobs[i].m;
    }
    if (st == SC_OK && a->kept && a->n_jobs > 0 &&
        (kept->labels == NULL || kept->n_jobs != a->n_jobs || kept->n_planes != a->n_planes ||
         kept->n_labels != at))
        st = sc_fail(err, SC_EINVAL, "merge: %u jobs, %u planes, %zu labels, kept are %u, %u, %zu",
                     a->n_jobs, a->n_planes, at, kept->n_jobs, kept->n_planes, kept->n_labels);
    *ret_n = at;
    return st;
}

static void fill_merge_jobs(const struct sc_merge_args *a, struct sc_cuda_merge_job *jobs)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < a->n_jobs; i++) {
        const struct sc_chunk_job *job = &a->jobs[i];
        jobs[i].label_at = at;
        jobs[i].m = job->m;
        jobs[i].slot0 = job->pos0 % SC_PAGE_ENTRIES;
        jobs[i].core_slot0 = job->core0 % SC_PAGE_ENTRIES;
        jobs[i].n_cores = a->n_cores[i];
        pack_pages(job->exact_pages, job->pos0, job->m, jobs[i].pages);
        pack_pages(job->core_pages, job->core0, a->n_cores[i], jobs[i].core_pages);
        at += (uint64_t)a->n_planes * job->m;
    }
}

/* The host's logarithms: the device's own differ from the twin's in their last bits. */
enum sc_status sc_cuda_merge_open(struct sc_cuda_device *dev, struct sc_err *err)
{
    float biases[2][SC_CHUNK_MAX + 1] = {{0}};
    void *mem = NULL;

    for (uint32_t n = 1; n <= SC_CHUNK_MAX; n++)
        biases[1][n] = logf((float)n);
    enum sc_status st = sc_cuda_alloc(&dev->base, sizeof(biases), &mem, err);
    if (st != SC_OK)
        return st;
    dev->biases = mem;
    return sc_cuda_upload(&dev->base, mem, biases, sizeof(biases), err);
}

/* Where in what is staged for a merge its parts are; jobs are first. */
struct staged {
    size_t labels, seeds, counts, bytes;
};

static struct staged lay_out(const struct sc_merge_args *a, size_t n_labels)
{
    const size_t n_seeds = a->representative == SC_REP_SEED ? n_labels : 0;
    struct staged at = {0};

    (void)part(&at.bytes, a->n_jobs, sizeof(struct sc_cuda_merge_job));
    if (a->kept)
        return at;
    at.labels = part(&at.bytes, n_labels, 1);
    at.seeds = part(&at.bytes, n_seeds, 1);
    at.counts = part(&at.bytes, (size_t)a->n_jobs * a->n_planes, sizeof(*a->counts));
    return at;
}

enum sc_status sc_cuda_merge(struct sc_backend *be, const struct sc_merge_args *a,
                             struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    const struct sc_cuda_kept *kept = &dev->kept;
    size_t n_labels = 0;
    void *host, *device;
    enum sc_status st = check_merge(a, kept, &n_labels, err);

    if (st != SC_OK || a->n_jobs == 0)
        return st;
    const struct staged at = lay_out(a, n_labels);
    st = sc_cuda_stage_take(dev, at.bytes, "merge", &host, &device, err);
    if (st == SC_OK && a->kept && dev->stage.turn - kept->turn > 1)
        st = sc_fail(err, SC_EINVAL, "merge: what cluster kept was written over");
    if (st != SC_OK)
        return st;
    uint8_t *h = host, *d = device;
    fill_merge_jobs(a, host);
    if (!a->kept) {
        memcpy(h + at.labels, a->labels, n_labels);
        if (a->representative == SC_REP_SEED)
            memcpy(h + at.seeds, a->seeds, n_labels);
        memcpy(h + at.counts, a->counts, (size_t)a->n_jobs * a->n_planes * sizeof(*a->counts));
    }
    st = sc_cuda_stage_send(dev, host, device, at.bytes, err);
    if (st != SC_OK)
        return st;
    const struct sc_cuda_merge_launch launch = {
        .kv = view(a->pool),
        .jobs = device,
        .labels = a->kept ? kept->labels : d + at.labels,
        .seeds = a->kept ? kept->seeds : d + at.seeds,
        .counts = a->kept ? kept->counts : (const uint32_t *)(const void *)(d + at.counts),
        .bias = dev->biases + (a->log_bias ? SC_CHUNK_MAX + 1 : 0),
        .n_jobs = a->n_jobs,
        .n_planes = a->n_planes,
        .n_kv_heads = a->n_kv_heads,
        .pick = (enum sc_cuda_pick)a->representative,
    };
    sc_cuda_pages_write(dev, false);
    return sc_cuda_check(sc_cuda_launch_merge(&launch, dev->stream), "merge", err);
}
