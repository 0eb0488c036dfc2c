#include "cpu/device.h"

#include <math.h>

struct merge_work {
    struct sc_cpu_device *dev;
    const struct sc_merge_args *a;
};

struct merge_job {
    const struct sc_chunk_job *job;
    const uint8_t *labels, *seeds; /* of this head */
    uint32_t count;                /* clusters of this head */
    uint32_t n_cores;              /* entries of the job */
    uint32_t head;
};

static void load_token(const struct sc_merge_args *a, const struct merge_job *mj, uint32_t token,
                       bool key, float *x)
{
    uint32_t pos = mj->job->pos0 + token;
    const uint8_t *block =
        sc_cpu_kv_block(a->pool, mj->job->exact_pages[pos / SC_PAGE_ENTRIES], mj->head);
    if (key)
        sc_cpu_kv_get_k(a->pool, block, pos % SC_PAGE_ENTRIES, x);
    else
        sc_cpu_kv_get_v(a->pool, block, pos % SC_PAGE_ENTRIES, x);
}

static void add_token(const struct sc_merge_args *a, const struct merge_job *mj, uint32_t token,
                      bool key, struct sc_cpu_scratch *s)
{
    float *sum = key ? s->merge.k : s->merge.v;
    load_token(a, mj, token, key, s->merge.x);
    for (uint32_t d = 0; d < a->head_dim; d++)
        sum[d] += s->merge.x[d];
}

/* K and V of cluster c into s->merge; returns the number of members. */
static uint32_t represent(const struct sc_merge_args *a, const struct merge_job *mj, uint32_t c,
                          struct sc_cpu_scratch *s)
{
    uint32_t n = 0, chosen = mj->seeds[c];

    memset(s->merge.k, 0, sizeof(s->merge.k));
    memset(s->merge.v, 0, sizeof(s->merge.v));
    for (uint32_t i = 0; i < mj->job->m; i++) {
        if (mj->labels[i] != c)
            continue;
        n++;
        if (a->representative == SC_REP_LAST)
            chosen = i;
        if (a->representative == SC_REP_MEAN) {
            add_token(a, mj, i, true, s);
            add_token(a, mj, i, false, s);
        }
    }
    if (a->representative != SC_REP_MEAN) {
        load_token(a, mj, chosen, true, s->merge.k);
        load_token(a, mj, chosen, false, s->merge.v);
        return n;
    }
    for (uint32_t d = 0; d < a->head_dim; d++) {
        s->merge.k[d] /= (float)n;
        s->merge.v[d] /= (float)n;
    }
    return n;
}

static void merge_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct merge_work *w = ctx;
    const struct sc_merge_args *a = w->a;
    struct sc_cpu_scratch *s = &w->dev->scratch[thread];
    uint32_t index = task / a->n_kv_heads, head = task % a->n_kv_heads;
    uint32_t plane = a->n_planes == 1 ? 0 : head;
    struct merge_job mj = {.job = &a->jobs[index], .n_cores = a->n_cores[index], .head = head};
    size_t at = 0;

    for (uint32_t j = 0; j < index; j++)
        at += (size_t)a->n_planes * a->jobs[j].m;
    at += (size_t)plane * mj.job->m;
    mj.labels = a->labels + at;
    mj.seeds = a->seeds + at;
    mj.count = a->counts[index * a->n_planes + plane];
    for (uint32_t c = 0; c < mj.n_cores; c++) {
        uint32_t entry = mj.job->core0 + c, slot = entry % SC_PAGE_ENTRIES;
        uint8_t *block =
            sc_cpu_kv_block(a->pool, mj.job->core_pages[entry / SC_PAGE_ENTRIES], head);
        float bias = -INFINITY;
        if (c < mj.count) {
            uint32_t n = represent(a, &mj, c, s);
            bias = a->log_bias ? w->dev->log_count[n] : 0.0f;
        } else {
            memset(s->merge.k, 0, sizeof(s->merge.k));
            memset(s->merge.v, 0, sizeof(s->merge.v));
        }
        sc_cpu_kv_put_k(a->pool, block, slot, s->merge.k);
        sc_cpu_kv_put_v(a->pool, block, slot, s->merge.v);
        sc_cpu_kv_bias(a->pool, block)[slot] = bias;
    }
}

/* Labels and seeds come from the host: what they index is checked here, once. */
static enum sc_status check_labels(const struct sc_merge_args *a, uint32_t index, size_t at,
                                   struct sc_err *err)
{
    uint32_t m = a->jobs[index].m;
    for (uint32_t plane = 0; plane < a->n_planes; plane++) {
        uint32_t count = a->counts[index * a->n_planes + plane];
        if (count == 0 || count > m || count > a->n_cores[index])
            return sc_fail(err, SC_EINVAL, "merge: job %u: %u clusters of %u tokens, %u entries",
                           index, count, m, a->n_cores[index]);
        for (uint32_t i = 0; i < m; i++) {
            size_t k = at + (size_t)plane * m + i;
            if (a->labels[k] >= count || (i < count && a->seeds[k] >= m))
                return sc_fail(err, SC_EINVAL, "merge: job %u: token %u: label %u of %u", index, i,
                               a->labels[k], count);
        }
    }
    return SC_OK;
}

static enum sc_status check_merge(const struct sc_merge_args *a, struct sc_err *err)
{
    enum sc_status st = sc_cpu_check_pool("merge", a->pool, a->n_kv_heads, a->head_dim, err);
    size_t at = 0;

    if (st != SC_OK)
        return st;
    if ((a->n_planes != 1 && a->n_planes != a->n_kv_heads) ||
        (unsigned)a->representative > SC_REP_LAST ||
        (uint64_t)a->n_jobs * a->n_kv_heads > SC_CPU_ROWS_MAX)
        return sc_fail(err, SC_EINVAL, "merge: %u jobs, %u planes, %u KV heads, representative %d",
                       a->n_jobs, a->n_planes, a->n_kv_heads, (int)a->representative);
    for (uint32_t i = 0; st == SC_OK && i < a->n_jobs; i++) {
        const struct sc_chunk_job *job = &a->jobs[i];
        st = sc_cpu_check_job("merge", a->pool, job, i, err);
        if (st == SC_OK && (a->n_cores[i] == 0 || a->n_cores[i] > SC_CHUNK_MAX ||
                            job->core0 > UINT32_MAX - SC_CHUNK_MAX))
            st = sc_fail(err, SC_EINVAL, "merge: job %u: %u entries from %u, at most %u", i,
                         a->n_cores[i], job->core0, SC_CHUNK_MAX);
        if (st == SC_OK)
            st = sc_cpu_check_pages("merge cores", a->pool, job->core_pages,
                                    job->core0 / SC_PAGE_ENTRIES,
                                    (job->core0 + a->n_cores[i] - 1) / SC_PAGE_ENTRIES + 1, err);
        if (st == SC_OK)
            st = check_labels(a, i, at, err);
        at += (size_t)a->n_planes * job->m;
    }
    return st;
}

enum sc_status sc_cpu_merge(struct sc_backend *be, const struct sc_merge_args *a,
                            struct sc_err *err)
{
    struct merge_work w = {sc_cpu_device(be), a};
    enum sc_status st = check_merge(a, err);
    if (st == SC_OK)
        sc_cpu_threads_run(w.dev->threads, merge_task, &w, a->n_jobs * a->n_kv_heads);
    return st;
}
