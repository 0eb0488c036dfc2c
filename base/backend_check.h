/* base/backend_check.h - what every backend checks of its arguments before it touches memory.
 *
 * spec, n_pages: of the call's pool (spec NULL: there is none). limit: planes of one call.
 * SC_EINVAL names what, its value and the limit. Threads: pure functions.
 */
#ifndef SC_BASE_BACKEND_CHECK_H
#define SC_BASE_BACKEND_CHECK_H

#include "base/backend.h"

enum sc_status sc_check_pool(const char *op, const struct sc_kv_spec *spec, uint32_t n_kv_heads,
                             uint32_t head_dim, struct sc_err *err);
/* All of pages[first .. end) exist. */
enum sc_status sc_check_pages(const char *op, uint32_t n_pages, const uint32_t *pages,
                              uint32_t first, uint32_t end, struct sc_err *err);
enum sc_status sc_check_entry(const struct sc_kv_spec *spec, uint32_t n_pages, uint32_t page,
                              uint32_t slot, uint32_t head, struct sc_err *err);
/* Of n entries from `first` on, those that lie in its page. */
static inline uint32_t sc_entries_in_page(uint32_t first, uint32_t n)
{
    const uint32_t left = SC_PAGE_ENTRIES - first % SC_PAGE_ENTRIES;
    return n < left ? n : left;
}
/* Entries first .. first + n - 1, at least one, of pages that exist. */
enum sc_status sc_check_span(const struct sc_kv_spec *spec, uint32_t n_pages, const uint32_t *pages,
                             uint32_t first, uint32_t n, uint32_t head,
                             struct sc_err *err) SC_MUST_CHECK;
/* n_pages 0: not its pages. */
enum sc_status sc_check_job(const char *op, uint32_t n_pages, const struct sc_chunk_job *job,
                            uint32_t index, struct sc_err *err);
enum sc_status sc_check_planes(const char *op, uint32_t n_planes, uint32_t n_kv_heads,
                               uint32_t n_jobs, uint32_t limit, struct sc_err *err);
enum sc_status sc_check_distances(const struct sc_dist_args *args, const struct sc_kv_spec *spec,
                                  uint32_t n_pages, uint32_t limit, struct sc_err *err);
/* All but labels, seeds and counts. */
enum sc_status sc_check_merge(const struct sc_merge_args *args, const struct sc_kv_spec *spec,
                              uint32_t n_pages, uint32_t limit, struct sc_err *err);

static inline bool sc_metric_is_pre(enum sc_metric metric)
{
    return metric == SC_METRIC_L2_PRE || metric == SC_METRIC_COS_PRE;
}

static inline bool sc_metric_is_cosine(enum sc_metric metric)
{
    return metric == SC_METRIC_COS_PRE || metric == SC_METRIC_COS_POST;
}

#endif
