#include "cpu/device.h"

#include <math.h>

#include "cpu/gsc.h"

enum sc_status sc_cpu_check_job(const char *op, const struct sc_kv_pool *pool,
                                const struct sc_chunk_job *job, uint32_t index, struct sc_err *err)
{
    uint64_t last = (uint64_t)job->pos0 + job->m - 1;
    if (job->m == 0 || job->m > SC_CHUNK_MAX || last > UINT32_MAX)
        return sc_fail(err, SC_EINVAL, "%s: job %u: %u tokens at %u, a chunk has 1 to %u", op,
                       index, job->m, job->pos0, SC_CHUNK_MAX);
    if (pool == NULL)
        return SC_OK;
    return sc_cpu_check_pages(op, pool, job->exact_pages, job->pos0 / SC_PAGE_ENTRIES,
                              (uint32_t)(last / SC_PAGE_ENTRIES) + 1, err);
}

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

static bool is_pre(enum sc_metric metric)
{
    return metric == SC_METRIC_L2_PRE || metric == SC_METRIC_COS_PRE;
}

static bool is_cosine(enum sc_metric metric)
{
    return metric == SC_METRIC_COS_PRE || metric == SC_METRIC_COS_POST;
}

/* Keys of one head into s->dist.xt [d][token], with zeros after the last token. */
static void gather_keys(const struct dist_work *w, const struct sc_chunk_job *job, uint32_t head,
                        struct sc_cpu_scratch *s)
{
    const struct sc_dist_args *a = w->a;
    const uint32_t end = (job->m + 15) / 16 * 16;

    for (uint32_t d = 0; d < a->head_dim; d++)
        memset(s->dist.xt + d * SC_CHUNK_MAX + job->m, 0, (end - job->m) * sizeof(float));
    for (uint32_t i = 0, n; i < job->m; i += n) {
        uint32_t pos = job->pos0 + i, slot = pos % SC_PAGE_ENTRIES;
        n = SC_PAGE_ENTRIES - slot < job->m - i ? SC_PAGE_ENTRIES - slot : job->m - i;
        w->dev->kernels.keys_to_columns(
            a->pool, sc_cpu_kv_block(a->pool, job->exact_pages[pos / SC_PAGE_ENTRIES], head), slot,
            n, s->dist.xt + i);
    }
    if (is_pre(a->metric))
        w->dev->kernels.rotate_keys(s->dist.xt, w->dev->unrotate[0], job->m, a->head_dim);
    for (uint32_t i = 0; is_cosine(a->metric) && i < end; i++) {
        float norm2 = 0.0f;
        for (uint32_t d = 0; d < a->head_dim; d++)
            norm2 += s->dist.xt[d * SC_CHUNK_MAX + i] * s->dist.xt[d * SC_CHUNK_MAX + i];
        s->dist.norm2[i] = norm2;
    }
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

    memset(dist, 0, (size_t)m * m * sizeof(*dist));
    if (!a->contributes)
        return;
    for (; head < end; head++) {
        struct sc_cpu_dist args = {
            .xt = s->dist.xt,
            .norm2 = is_cosine(a->metric) ? s->dist.norm2 : NULL,
            .m = m,
            .head_dim = a->head_dim,
            .inv_var = job->inv_var != NULL ? job->inv_var[head] : 1.0f,
            .cap = a->cap,
            .dist = dist,
        };
        gather_keys(w, job, head, s);
        w->dev->kernels.distances(&args);
    }
    for (uint32_t i = 0; i < m; i++) {
        for (uint32_t j = i + 1; j < m; j++)
            dist[(size_t)j * m + i] = dist[(size_t)i * m + j];
    }
}

static enum sc_status check_planes(const char *op, uint32_t n_planes, uint32_t n_kv_heads,
                                   uint32_t n_jobs, struct sc_err *err)
{
    if ((n_planes != 1 && n_planes != n_kv_heads) || (uint64_t)n_planes * n_jobs > SC_CPU_ROWS_MAX)
        return sc_fail(err, SC_EINVAL, "%s: %u jobs of %u planes, %u KV heads, limit %u planes", op,
                       n_jobs, n_planes, n_kv_heads, SC_CPU_ROWS_MAX);
    return SC_OK;
}

enum sc_status sc_cpu_distances(struct sc_backend *be, const struct sc_dist_args *a,
                                struct sc_err *err)
{
    struct dist_work w = {sc_cpu_device(be), a};
    enum sc_status st = sc_cpu_check_pool("distances", a->pool, a->n_kv_heads, a->head_dim, err);
    if (st == SC_OK)
        st = check_planes("distances", a->n_planes, a->n_kv_heads, a->n_jobs, err);
    for (uint32_t i = 0; st == SC_OK && i < a->n_jobs; i++) {
        st = sc_cpu_check_job("distances", a->pool, &a->jobs[i], i, err);
        if (st == SC_OK && !is_cosine(a->metric) && a->jobs[i].inv_var == NULL)
            st = sc_fail(err, SC_EINVAL, "distances: job %u: no inv_var", i);
    }
    if (st != SC_OK)
        return st;
    if ((unsigned)a->metric > SC_METRIC_COS_POST || (is_pre(a->metric) && a->inv_freq == NULL))
        return sc_fail(err, SC_EINVAL, "distances: metric %d%s", (int)a->metric,
                       a->inv_freq == NULL ? " without inv_freq" : "");
    if (a->cap < 0 || (int64_t)a->cap * (a->n_planes == 1 ? a->n_kv_heads : 1) > INT32_MAX)
        return sc_fail(err, SC_EINVAL, "distances: cap %d, the sum of %u heads would pass %d",
                       a->cap, a->n_kv_heads, INT32_MAX);
    if (is_pre(a->metric))
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
    (void)thread;

    for (uint32_t j = 0; j < index; j++) {
        dist_at += (size_t)a->n_planes * a->jobs[j].m * a->jobs[j].m;
        label_at += (size_t)a->n_planes * a->jobs[j].m;
    }
    dist = a->dist + dist_at + (size_t)plane * job->m * job->m;
    labels = a->labels + label_at + (size_t)plane * job->m;
    seeds = a->seeds + label_at + (size_t)plane * job->m;
    if (job->budget != 0)
        a->counts[task] = sc_gsc_cluster_budget(dist, job->m, job->budget, job->forced,
                                                a->seed_order, labels, seeds);
    else
        a->counts[task] =
            sc_gsc_cluster(dist, job->m, job->tau, job->forced, a->seed_order, labels, seeds);
}

enum sc_status sc_cpu_cluster(struct sc_backend *be, const struct sc_cluster_args *args,
                              struct sc_err *err)
{
    struct sc_cluster_args a = *args;
    enum sc_status st = check_planes("cluster", a.n_planes, a.n_planes, a.n_jobs, err);
    if (st == SC_OK && a.n_planes == 0)
        st = sc_fail(err, SC_EINVAL, "cluster: no planes");
    if (st == SC_OK && (unsigned)a.seed_order > SC_SEED_SCAN)
        st = sc_fail(err, SC_EINVAL, "cluster: seed order %d", (int)a.seed_order);
    for (uint32_t i = 0; st == SC_OK && i < a.n_jobs; i++)
        st = sc_cpu_check_job("cluster", NULL, &a.jobs[i], i, err);
    if (st == SC_OK)
        sc_cpu_threads_run(sc_cpu_device(be)->threads, cluster_task, &a, a.n_jobs * a.n_planes);
    return st;
}
