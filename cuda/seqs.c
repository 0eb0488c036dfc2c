#include "cuda/seqs.h"

#include <string.h>

#include "cuda/device.h"
#include "cuda/splits.h"
#include "cuda/tables.h"

static uint32_t pages_of(uint32_t n_entries)
{
    return n_entries / SC_PAGE_ENTRIES + (n_entries % SC_PAGE_ENTRIES != 0);
}

/* Exact pages first .. end, by absolute number, that some row reads. */
static void exact_range(const struct sc_attn_seq *seq, uint32_t *ret_first, uint32_t *ret_end)
{
    uint64_t from = seq->exact_lo, end = (uint64_t)seq->pos0 + seq->n_rows;

    if (seq->window != 0 && (uint64_t)seq->pos0 + 1 > from + seq->window)
        from = (uint64_t)seq->pos0 + 1 - seq->window;
    *ret_first = (uint32_t)(from / SC_PAGE_ENTRIES);
    *ret_end = seq->n_rows == 0 ? *ret_first : (uint32_t)((end - 1) / SC_PAGE_ENTRIES) + 1;
}

enum sc_status sc_cuda_seqs_check(const struct sc_kv_pool *pool, const struct sc_attn_seq *seqs,
                                  uint32_t n_seqs, struct sc_err *err)
{
    for (uint32_t i = 0; i < n_seqs; i++) {
        const struct sc_attn_seq *seq = &seqs[i];
        uint64_t end = (uint64_t)seq->pos0 + seq->n_rows;
        if ((uint64_t)seq->n_cores > (uint64_t)pool->n_pages * SC_PAGE_ENTRIES)
            return sc_fail(err, SC_EINVAL, "attention: sequence %u: %u cores in a pool of %u pages",
                           i, seq->n_cores, pool->n_pages);
        if (end > UINT32_MAX || (uint64_t)seq->row0 + seq->n_rows > SC_CUDA_ROWS_MAX ||
            seq->exact_lo > seq->pos0)
            return sc_fail(err, SC_EINVAL,
                           "attention: sequence %u: rows %u + %u (limit %u) at %u, exact from %u",
                           i, seq->row0, seq->n_rows, SC_CUDA_ROWS_MAX, seq->pos0, seq->exact_lo);
        if (seq->window != 0 && seq->n_cores != 0)
            return sc_fail(err, SC_EINVAL, "attention: sequence %u: window %u with %u cores", i,
                           seq->window, seq->n_cores);
    }
    return SC_OK;
}

enum sc_status sc_cuda_seqs_check_pages(const struct sc_kv_pool *pool,
                                        const struct sc_attn_seq *seqs, uint32_t n_seqs,
                                        struct sc_err *err)
{
    enum sc_status st = SC_OK;
    for (uint32_t i = 0; i < n_seqs && st == SC_OK; i++) {
        uint32_t first, end;
        if (seqs[i].n_rows == 0)
            continue;
        exact_range(&seqs[i], &first, &end);
        st = sc_cuda_check_pages("attention cores", pool, seqs[i].core_pages, 0,
                                 pages_of(seqs[i].n_cores), err);
        if (st == SC_OK)
            st = sc_cuda_check_pages("attention", pool, seqs[i].exact_pages, first, end, err);
    }
    return st;
}

static size_t place(size_t *at, size_t bytes)
{
    const size_t here = *at;
    *at += SC_CUDA_ALIGN(bytes);
    return here;
}

struct sc_cuda_seq sc_cuda_seq_of(const struct sc_attn_seq *seq, uint32_t table)
{
    uint32_t first, end, n_core_pages = seq->n_rows != 0 ? pages_of(seq->n_cores) : 0;
    exact_range(seq, &first, &end);
    return (struct sc_cuda_seq){.row0 = seq->row0,
                                .n_rows = seq->n_rows,
                                .pos0 = seq->pos0,
                                .n_cores = seq->n_cores,
                                .exact_lo = seq->exact_lo,
                                .window = seq->window,
                                .table = table,
                                .n_core_pages = n_core_pages,
                                .exact_page0 = first,
                                .n_pages = n_core_pages + (end - first)};
}

struct sc_cuda_seqs_layout sc_cuda_seqs_lay_out(const struct sc_attn_seq *seqs, uint32_t n_seqs,
                                                uint32_t n_layers, bool there)
{
    const size_t n = (size_t)n_seqs * n_layers;
    struct sc_cuda_seqs_layout l = {.n_seqs = n_seqs};
    uint64_t words = 0;
    size_t at = 0;

    for (size_t i = 0; i < n && !there; i++)
        words += sc_cuda_seq_of(&seqs[i], 0).n_pages;
    l.seqs = place(&at, n * sizeof(struct sc_cuda_seq));
    l.cohorts = place(&at, n_layers * sc_cuda_cohorts_most(n_seqs) * sizeof(struct sc_cuda_cohort));
    l.members = place(&at, n_seqs * sizeof(uint32_t));
    l.tables = place(&at, words * sizeof(uint32_t));
    l.bytes = at;
    return l;
}

static void copy_pages(const struct sc_attn_seq *seq, const struct sc_cuda_seq *s, uint32_t *table)
{
    const uint32_t n_exact = s->n_pages - s->n_core_pages;
    if (s->n_core_pages != 0)
        memcpy(table, seq->core_pages, s->n_core_pages * sizeof(*table));
    if (n_exact != 0)
        memcpy(table + s->n_core_pages, seq->exact_pages + s->exact_page0,
               n_exact * sizeof(*table));
}

/* The cohorts of before, unless a sequence has other rows now. */
static bool take_cohorts(const struct sc_cuda_seqs_pack *a, const struct sc_cuda_seqs_layout *at,
                         struct sc_cuda_seq *packed, uint8_t *bytes)
{
    const size_t n = (size_t)at->n_seqs * a->n_layers;
    const uint8_t *from = a->before;
    if (from == NULL)
        return false;
    const struct sc_cuda_seq *before = (const struct sc_cuda_seq *)(const void *)(from + at->seqs);
    for (size_t i = 0; i < n; i++)
        if (packed[i].n_rows != before[i].n_rows)
            return false;
    for (size_t i = 0; i < n; i++)
        packed[i].n_shared = before[i].n_shared;
    if (a->before_bounds.n_cohorts != 0)
        memcpy(bytes + at->cohorts, from + at->cohorts, at->tables - at->cohorts);
    return true;
}

struct sc_cuda_seqs sc_cuda_seqs_pack(const struct sc_cuda_seqs_pack *a,
                                      const struct sc_cuda_seqs_layout *at, void *to)
{
    uint8_t *bytes = to;
    struct sc_cuda_seq *packed = (struct sc_cuda_seq *)(void *)(bytes + at->seqs);
    uint32_t *here = (uint32_t *)(void *)(bytes + at->tables), words = 0;
    struct sc_cuda_seqs ret = {.n_seqs = at->n_seqs, .n_kv_heads = a->n_kv_heads};

    for (size_t i = 0; i < (size_t)at->n_seqs * a->n_layers; i++) {
        packed[i] = sc_cuda_seq_of(&a->seqs[i], words);
        if (a->there != NULL) {
            packed[i].table = (uint32_t)sc_cuda_tables_at(
                a->there, (uint32_t)(i % at->n_seqs), (uint32_t)(i / at->n_seqs),
                packed[i].exact_page0, packed[i].n_core_pages);
        } else {
            copy_pages(&a->seqs[i], &packed[i], here + words);
            words += packed[i].n_pages;
        }
        packed[i].split_pages = sc_cuda_split_pages(packed[i].n_pages, a->n_kv_heads);
        if (packed[i].n_rows > ret.max_rows)
            ret.max_rows = packed[i].n_rows;
        if (packed[i].n_pages > ret.max_pages)
            ret.max_pages = packed[i].n_pages;
    }
    if (!a->cascade)
        return ret;
    if (take_cohorts(a, at, packed, bytes))
        ret.bounds = a->before_bounds;
    else
        sc_cuda_cohorts_find(packed, a->there != NULL ? a->there->host : here, at->n_seqs,
                             a->n_layers, (struct sc_cuda_cohort *)(void *)(bytes + at->cohorts),
                             (uint32_t *)(void *)(bytes + at->members), &ret.bounds);
    return ret;
}

struct sc_cuda_seqs sc_cuda_seqs_of_layer(const struct sc_cuda_seqs *packed,
                                          const struct sc_cuda_seqs_layout *at, const void *device,
                                          uint32_t layer)
{
    const uint8_t *bytes = device;
    struct sc_cuda_seqs ret = *packed;
    ret.seqs =
        (const struct sc_cuda_seq *)(const void *)(bytes + at->seqs) + (size_t)layer * at->n_seqs;
    ret.cohorts = (const struct sc_cuda_cohort *)(const void *)(bytes + at->cohorts) +
                  (size_t)layer * ret.bounds.n_cohorts;
    ret.members = (const uint32_t *)(const void *)(bytes + at->members);
    ret.tables = (const uint32_t *)(const void *)(bytes + at->tables);
    return ret;
}
