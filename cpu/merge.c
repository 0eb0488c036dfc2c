#include "cpu/device.h"

#include "base/backend_check.h"

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

/* K and V of the whole chunk into s->merge. */
static void load_chunk(const struct merge_work *w, const struct merge_job *mj,
                       struct sc_cpu_scratch *s)
{
    const struct sc_merge_args *a = w->a;
    for (uint32_t i = 0, n; i < mj->job->m; i += n) {
        uint32_t pos = mj->job->pos0 + i, slot = pos % SC_PAGE_ENTRIES;
        n = SC_PAGE_ENTRIES - slot < mj->job->m - i ? SC_PAGE_ENTRIES - slot : mj->job->m - i;
        w->dev->kernels.entries_to_rows(
            a->pool,
            sc_cpu_kv_block(a->pool, mj->job->exact_pages[pos / SC_PAGE_ENTRIES], mj->head), slot,
            n, s->merge.k + i * a->head_dim, s->merge.v + i * a->head_dim);
    }
}

/* Cores of all clusters into s->merge, and how many members each has. Members are added in order of
 * their positions. */
static void represent(const struct merge_work *w, const struct merge_job *mj,
                      struct sc_cpu_scratch *s)
{
    const struct sc_merge_args *a = w->a;
    const uint32_t hd = a->head_dim;
    const bool mean = a->representative == SC_REP_MEAN;
    uint32_t chosen[SC_CHUNK_MAX];
    float *core_k_of[SC_CHUNK_MAX], *core_v_of[SC_CHUNK_MAX];

    memset(s->merge.members, 0, mj->count * sizeof(s->merge.members[0]));
    for (uint32_t c = 0; c < mj->count; c++)
        chosen[c] = mj->seeds[c];
    for (uint32_t i = 0; i < mj->job->m; i++) {
        uint32_t c = mj->labels[i];
        s->merge.members[c]++;
        if (a->representative == SC_REP_LAST)
            chosen[c] = i;
        core_k_of[i] = s->merge.core_k + c * hd;
        core_v_of[i] = s->merge.core_v + c * hd;
    }
    if (mean) {
        memset(s->merge.core_k, 0, (size_t)mj->count * hd * sizeof(float));
        memset(s->merge.core_v, 0, (size_t)mj->count * hd * sizeof(float));
        w->dev->kernels.add_rows(core_k_of, s->merge.k, mj->job->m, hd);
        w->dev->kernels.add_rows(core_v_of, s->merge.v, mj->job->m, hd);
    }
    for (uint32_t c = 0; c < mj->count; c++) {
        float *core_k = s->merge.core_k + c * hd, *core_v = s->merge.core_v + c * hd;
        float n = (float)s->merge.members[c];
        for (uint32_t d = 0; d < hd; d++) {
            core_k[d] = mean ? core_k[d] / n : s->merge.k[chosen[c] * hd + d];
            core_v[d] = mean ? core_v[d] / n : s->merge.v[chosen[c] * hd + d];
        }
    }
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
    load_chunk(w, &mj, s);
    represent(w, &mj, s);
    for (uint32_t c = 0; c < mj.n_cores; c++) {
        static const float zeros[SC_CPU_HEAD_DIM_MAX];
        uint32_t entry = mj.job->core0 + c, slot = entry % SC_PAGE_ENTRIES;
        uint8_t *block =
            sc_cpu_kv_block(a->pool, mj.job->core_pages[entry / SC_PAGE_ENTRIES], head);
        bool real = c < mj.count; /* a head may have fewer clusters than the job has entries */
        float bias = !real         ? -INFINITY
                     : a->log_bias ? w->dev->log_count[s->merge.members[c]]
                                   : 0.0f;
        w->dev->kernels.put_entry(a->pool, block, slot,
                                  real ? s->merge.core_k + c * a->head_dim : zeros,
                                  real ? s->merge.core_v + c * a->head_dim : zeros);
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
    enum sc_status st =
        sc_check_merge(a, a->pool != NULL ? &a->pool->spec : NULL,
                       a->pool != NULL ? a->pool->n_pages : 0, SC_CPU_ROWS_MAX, err);
    size_t at = 0;

    for (uint32_t i = 0; st == SC_OK && i < a->n_jobs; i++) {
        st = check_labels(a, i, at, err);
        at += (size_t)a->n_planes * a->jobs[i].m;
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
