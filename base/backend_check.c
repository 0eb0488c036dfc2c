#include "base/backend_check.h"

enum sc_status sc_check_pool(const char *op, const struct sc_kv_spec *spec, uint32_t n_kv_heads,
                             uint32_t head_dim, struct sc_err *err)
{
    if (spec == NULL)
        return sc_fail(err, SC_EINVAL, "%s: no pool", op);
    if (n_kv_heads != spec->n_kv_heads || head_dim != spec->head_dim)
        return sc_fail(err, SC_EINVAL, "%s: %u KV heads of %u, but the pool has %u of %u", op,
                       n_kv_heads, head_dim, spec->n_kv_heads, spec->head_dim);
    return SC_OK;
}

enum sc_status sc_check_pages(const char *op, uint32_t n_pages, const uint32_t *pages,
                              uint32_t first, uint32_t end, struct sc_err *err)
{
    for (uint32_t i = first; i < end; i++) {
        if (pages[i] >= n_pages)
            return sc_fail(err, SC_EINVAL, "%s: page table entry %u is %u, the pool has %u", op, i,
                           pages[i], n_pages);
    }
    return SC_OK;
}

enum sc_status sc_check_entry(const struct sc_kv_spec *spec, uint32_t n_pages, uint32_t page,
                              uint32_t slot, uint32_t head, struct sc_err *err)
{
    if (page >= n_pages || slot >= SC_PAGE_ENTRIES || head >= spec->n_kv_heads)
        return sc_fail(err, SC_EINVAL, "kv entry: page %u of %u, slot %u of %u, head %u of %u",
                       page, n_pages, slot, SC_PAGE_ENTRIES, head, spec->n_kv_heads);
    return SC_OK;
}

enum sc_status sc_check_span(const struct sc_kv_spec *spec, uint32_t n_pages, const uint32_t *pages,
                             uint32_t first, uint32_t n, uint32_t head, struct sc_err *err)
{
    if (n == 0 || n > UINT32_MAX - first || head >= spec->n_kv_heads)
        return sc_fail(err, SC_EINVAL, "kv entries: %u from %u on, head %u of %u", n, first, head,
                       spec->n_kv_heads);
    return sc_check_pages("kv entries", n_pages, pages, first / SC_PAGE_ENTRIES,
                          (first + n - 1) / SC_PAGE_ENTRIES + 1, err);
}

enum sc_status sc_check_job(const char *op, uint32_t n_pages, const struct sc_chunk_job *job,
                            uint32_t index, struct sc_err *err)
{
    uint64_t last = (uint64_t)job->pos0 + job->m - 1;
    if (job->m == 0 || job->m > SC_CHUNK_MAX || last > UINT32_MAX)
        return sc_fail(err, SC_EINVAL, "%s: job %u: %u tokens at %u, a chunk has 1 to %u", op,
                       index, job->m, job->pos0, SC_CHUNK_MAX);
    if (n_pages == 0)
        return SC_OK;
    return sc_check_pages(op, n_pages, job->exact_pages, job->pos0 / SC_PAGE_ENTRIES,
                          (uint32_t)(last / SC_PAGE_ENTRIES) + 1, err);
}

enum sc_status sc_check_planes(const char *op, uint32_t n_planes, uint32_t n_kv_heads,
                               uint32_t n_jobs, uint32_t limit, struct sc_err *err)
{
    if ((n_planes != 1 && n_planes != n_kv_heads) || (uint64_t)n_planes * n_jobs > limit)
        return sc_fail(err, SC_EINVAL, "%s: %u jobs of %u planes, %u KV heads, limit %u planes", op,
                       n_jobs, n_planes, n_kv_heads, limit);
    return SC_OK;
}

enum sc_status sc_check_distances(const struct sc_dist_args *a, const struct sc_kv_spec *spec,
                                  uint32_t n_pages, uint32_t limit, struct sc_err *err)
{
    enum sc_status st = sc_check_pool("distances", spec, a->n_kv_heads, a->head_dim, err);
    if (st == SC_OK)
        st = sc_check_planes("distances", a->n_planes, a->n_kv_heads, a->n_jobs, limit, err);
    for (uint32_t i = 0; st == SC_OK && i < a->n_jobs; i++) {
        st = sc_check_job("distances", n_pages, &a->jobs[i], i, err);
        if (st == SC_OK && !sc_metric_is_cosine(a->metric) && a->jobs[i].inv_var == NULL)
            st = sc_fail(err, SC_EINVAL, "distances: job %u: no inv_var", i);
        if (st == SC_OK && (a->jobs[i].mean_key == NULL) != (a->jobs[0].mean_key == NULL))
            st = sc_fail(err, SC_EINVAL, "distances: job %u: mean_key for some jobs only", i);
        if (st == SC_OK && a->jobs[i].mean_key != NULL &&
            (a->jobs[i].inv_var == NULL || a->inv_freq == NULL))
            st = sc_fail(err, SC_EINVAL, "distances: job %u: mean_key without inv_var or inv_freq",
                         i);
    }
    if (st != SC_OK)
        return st;
    if ((unsigned)a->metric > SC_METRIC_COS_POST ||
        (sc_metric_is_pre(a->metric) && a->inv_freq == NULL))
        return sc_fail(err, SC_EINVAL, "distances: metric %d%s", (int)a->metric,
                       a->inv_freq == NULL ? " without inv_freq" : "");
    if (a->cap < 0 || (int64_t)a->cap * (a->n_planes == 1 ? a->n_kv_heads : 1) > INT32_MAX)
        return sc_fail(err, SC_EINVAL, "distances: cap %d, the sum of %u heads would pass %d",
                       a->cap, a->n_kv_heads, INT32_MAX);
    return SC_OK;
}

enum sc_status sc_check_merge(const struct sc_merge_args *a, const struct sc_kv_spec *spec,
                              uint32_t n_pages, uint32_t limit, struct sc_err *err)
{
    enum sc_status st = sc_check_pool("merge", spec, a->n_kv_heads, a->head_dim, err);

    if (st != SC_OK)
        return st;
    if ((a->n_planes != 1 && a->n_planes != a->n_kv_heads) ||
        (unsigned)a->representative > SC_REP_LAST || (uint64_t)a->n_jobs * a->n_kv_heads > limit)
        return sc_fail(err, SC_EINVAL, "merge: %u jobs, %u planes, %u KV heads, representative %d",
                       a->n_jobs, a->n_planes, a->n_kv_heads, (int)a->representative);
    for (uint32_t i = 0; st == SC_OK && i < a->n_jobs; i++) {
        const struct sc_chunk_job *job = &a->jobs[i];
        st = sc_check_job("merge", n_pages, job, i, err);
        if (st == SC_OK && (a->n_cores[i] == 0 || a->n_cores[i] > SC_CHUNK_MAX ||
                            job->core0 > UINT32_MAX - SC_CHUNK_MAX))
            st = sc_fail(err, SC_EINVAL, "merge: job %u: %u entries from %u, at most %u", i,
                         a->n_cores[i], job->core0, SC_CHUNK_MAX);
        if (st == SC_OK)
            st = sc_check_pages("merge cores", n_pages, job->core_pages,
                                job->core0 / SC_PAGE_ENTRIES,
                                (job->core0 + a->n_cores[i] - 1) / SC_PAGE_ENTRIES + 1, err);
    }
    return st;
}
