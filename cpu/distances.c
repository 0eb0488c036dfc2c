#include "cpu/device.h"

#include "base/backend_check.h"

#include <math.h>

#include "cpu/gsc.h"

/* The angles that take a token of a chunk back to the chunk's origin. */
static void prepare_unrotate(struct sc_cpu_device *dev, const float *inv_freq, uint32_t head_dim)
{
    uint32_t half = head_dim / 2;
    if (dev->unrotate_dim == head_dim &&
        memcmp(dev->unrotate_freq, inv_freq, half * sizeof(float)) == 0)
        return;
    for (uint32_t i = 0; i < SC_CHUNK_MAX; i++) {
        for (uint32_t j = 0; j < half; j++) {
            float sine, cosine;
            sincosf((float)i * inv_freq[j], &sine, &cosine);
            dev->unrotate[j][i] = cosine;
            dev->unrotate[half + j][i] = -sine;
        }
    }
    memcpy(dev->unrotate_freq, inv_freq, half * sizeof(float));
    dev->unrotate_dim = head_dim;
}

struct dist_work {
    struct sc_cpu_device *dev;
    const struct sc_dist_args *a;
};

/* Keys of one head into s->dist.xt [d][token], as stored or turned back to the chunk's origin. */
static void gather_keys(const struct dist_work *w, const struct sc_chunk_job *job, uint32_t head,
                        bool unrotate, struct sc_cpu_scratch *s)
{
    const struct sc_dist_args *a = w->a;

    for (uint32_t i = 0, n; i < job->m; i += n) {
        uint32_t pos = job->pos0 + i, slot = pos % SC_PAGE_ENTRIES;
        n = SC_PAGE_ENTRIES - slot < job->m - i ? SC_PAGE_ENTRIES - slot : job->m - i;
        w->dev->kernels.keys_to_columns(
            a->pool, sc_cpu_kv_block(a->pool, job->exact_pages[pos / SC_PAGE_ENTRIES], head), slot,
            n, s->dist.xt + i);
    }
    if (unrotate)
        w->dev->kernels.rotate_keys(s->dist.xt, w->dev->unrotate[0], job->m, a->head_dim);
}

/* The head's mean key. The keys are turned back to the chunk's origin only, so it is turned forward
 * to that. */
static void mean_at_origin(const struct dist_work *w, const struct sc_chunk_job *job, uint32_t head,
                           float *centre)
{
    const struct sc_dist_args *a = w->a;
    const uint32_t half = a->head_dim / 2;
    const float *mean = job->mean_key + (size_t)head * a->head_dim;

    for (uint32_t d = 0; d < half; d++) {
        float sine, cosine;
        sincosf((float)job->pos0 * a->inv_freq[d], &sine, &cosine);
        centre[d] = mean[d] * cosine - mean[d + half] * sine;
        centre[d + half] = mean[d + half] * cosine + mean[d] * sine;
    }
}

/* Where no mean is known, the chunk's first key stands for it: the first whose square is finite,
 * because minus any other every key would be broken. */
static void first_key(const struct sc_cpu_scratch *s, uint32_t m, uint32_t head_dim, float *centre)
{
    for (uint32_t i = 0; i < m; i++) {
        float norm2 = 0.0f;
        for (uint32_t d = 0; d < head_dim; d++) {
            centre[d] = s->dist.xt[d * SC_CHUNK_MAX + i];
            norm2 += centre[d] * centre[d];
        }
        if (isfinite(norm2))
            return;
    }
    memset(centre, 0, head_dim * sizeof(*centre));
}

/* What the metric compares into s->dist, with the squares of its lengths. far [m]: how far each
 * token's key is from the head's mean key is added. */
static void prepare_keys(const struct dist_work *w, const struct sc_chunk_job *job, uint32_t head,
                         struct sc_cpu_scratch *s, int32_t *far)
{
    const struct sc_dist_args *a = w->a;
    float centre[SC_CPU_HEAD_DIM_MAX];

    if (job->mean_key != NULL) {
        gather_keys(w, job, head, true, s);
        mean_at_origin(w, job, head, centre);
        w->dev->kernels.centre_keys(s->dist.xt, centre, job->m, a->head_dim, s->dist.norm2);
        for (uint32_t i = 0; i < job->m; i++) {
            const float value = s->dist.norm2[i] * job->inv_var[head] * SC_DIST_ONE;
            far[i] += value < (float)a->cap ? (int32_t)lrintf(value) : a->cap;
        }
        if (a->metric == SC_METRIC_L2_PRE)
            return;
    }
    gather_keys(w, job, head, sc_metric_is_pre(a->metric), s);
    if (sc_metric_is_cosine(a->metric)) /* angles are seen from the origin */
        memset(centre, 0, a->head_dim * sizeof(*centre));
    else
        first_key(s, job->m, a->head_dim, centre);
    w->dev->kernels.centre_keys(s->dist.xt, centre, job->m, a->head_dim, s->dist.norm2);
}

static int32_t *plane_at(const struct sc_dist_args *a, uint32_t job, uint32_t plane)
{
    size_t offset = 0;
    for (uint32_t j = 0; j < job; j++)
        offset += (size_t)a->n_planes * a->jobs[j].m * a->jobs[j].m;
    return a->dist + offset + (size_t)plane * a->jobs[job].m * a->jobs[job].m;
}

static void dist_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct dist_work *w = ctx;
    const struct sc_dist_args *a = w->a;
    const struct sc_chunk_job *job = &a->jobs[task / a->n_planes];
    uint32_t plane = task % a->n_planes, m = job->m;
    uint32_t head = a->n_planes == 1 ? 0 : plane,
             end = a->n_planes == 1 ? a->n_kv_heads : plane + 1;
    int32_t *dist = plane_at(a, task / a->n_planes, plane);
    struct sc_cpu_scratch *s = &w->dev->scratch[thread];
    int32_t far[SC_CHUNK_MAX] = {0};

    memset(dist, 0, (size_t)m * m * sizeof(*dist));
    if (!a->contributes)
        return;
    for (; head < end; head++) {
        struct sc_cpu_dist args = {
            .xt = s->dist.xt,
            .norm2 = s->dist.norm2,
            .cosine = sc_metric_is_cosine(a->metric),
            .m = m,
            .head_dim = a->head_dim,
            .inv_var = job->inv_var != NULL ? job->inv_var[head] : 1.0f,
            .cap = a->cap,
            .dist = dist,
        };
        prepare_keys(w, job, head, s, far);
        w->dev->kernels.distances(&args);
    }
    for (uint32_t i = 0; i < m; i++) {
        dist[(size_t)i * m + i] = far[i];
        for (uint32_t j = i + 1; j < m; j++)
            dist[(size_t)j * m + i] = dist[(size_t)i * m + j];
    }
}

enum sc_status sc_cpu_distances(struct sc_backend *be, const struct sc_dist_args *a,
                                struct sc_err *err)
{
    struct dist_work w = {sc_cpu_device(be), a};
    enum sc_status st =
        sc_check_distances(a, a->pool != NULL ? &a->pool->spec : NULL,
                           a->pool != NULL ? a->pool->n_pages : 0, SC_CPU_ROWS_MAX, err);
    if (st != SC_OK)
        return st;
    if (a->inv_freq != NULL)
        prepare_unrotate(w.dev, a->inv_freq, a->head_dim);
    sc_cpu_threads_run(w.dev->threads, dist_task, &w, a->n_jobs * a->n_planes);
    return SC_OK;
}

static void cluster_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct sc_cluster_args *a = ctx;
    uint32_t index = task / a->n_planes, plane = task % a->n_planes;
    const struct sc_chunk_job *job = &a->jobs[index];
    size_t dist_at = 0, label_at = 0;
    const int32_t *dist;
    uint8_t *labels, *seeds;
    uint64_t forced[SC_CHUNK_MAX / 64];
    (void)thread;

    for (uint32_t j = 0; j < index; j++) {
        dist_at += (size_t)a->n_planes * a->jobs[j].m * a->jobs[j].m;
        label_at += (size_t)a->n_planes * a->jobs[j].m;
    }
    dist = a->dist + dist_at + (size_t)plane * job->m * job->m;
    labels = a->labels + label_at + (size_t)plane * job->m;
    seeds = a->seeds + label_at + (size_t)plane * job->m;
    sc_gsc_force_outliers(dist, job->m, job->alone_above, job->most_alone, job->forced, forced);
    if (job->budget != 0)
        a->counts[task] =
            sc_gsc_cluster_budget(dist, job->m, job->budget, forced, a->seed_order, labels, seeds);
    else
        a->counts[task] =
            sc_gsc_cluster(dist, job->m, job->tau, forced, a->seed_order, labels, seeds);
}

enum sc_status sc_cpu_cluster(struct sc_backend *be, const struct sc_cluster_args *args,
                              struct sc_err *err)
{
    struct sc_cluster_args a = *args;
    enum sc_status st =
        sc_check_planes("cluster", a.n_planes, a.n_planes, a.n_jobs, SC_CPU_ROWS_MAX, err);
    if (st == SC_OK && a.n_planes == 0)
        st = sc_fail(err, SC_EINVAL, "cluster: no planes");
    if (st == SC_OK && (unsigned)a.seed_order > SC_SEED_SCAN)
        st = sc_fail(err, SC_EINVAL, "cluster: seed order %d", (int)a.seed_order);
    for (uint32_t i = 0; st == SC_OK && i < a.n_jobs; i++)
        st = sc_check_job("cluster", 0, &a.jobs[i], i, err);
    if (st == SC_OK)
        sc_cpu_threads_run(sc_cpu_device(be)->threads, cluster_task, &a, a.n_jobs * a.n_planes);
    return st;
}
