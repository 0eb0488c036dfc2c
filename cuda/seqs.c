#include "cuda/seqs.h"

#include <string.h>

#include "cuda/device.h"

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

uint64_t sc_cuda_seqs_words(const struct sc_attn_seq *seqs, uint32_t n_seqs)
{
    uint64_t words = 0;
    for (uint32_t i = 0; i < n_seqs; i++) {
        uint32_t first, end;
        if (seqs[i].n_rows == 0)
            continue;
        exact_range(&seqs[i], &first, &end);
        words += pages_of(seqs[i].n_cores) + (end - first);
    }
    return words;
}

uint64_t sc_cuda_seqs_bytes(const struct sc_attn_seq *seqs, uint32_t n_seqs)
{
    return SC_CUDA_ALIGN(n_seqs * sizeof(struct sc_cuda_seq)) +
           sc_cuda_seqs_words(seqs, n_seqs) * sizeof(uint32_t);
}

uint32_t sc_cuda_seqs_pack(const struct sc_attn_seq *seqs, uint32_t n_seqs, uint32_t table0,
                           struct sc_cuda_seq *ret_seqs, uint32_t *ret_tables, uint32_t *max_rows,
                           uint32_t *max_pages)
{
    uint32_t words = 0;
    for (uint32_t i = 0; i < n_seqs; i++) {
        const struct sc_attn_seq *seq = &seqs[i];
        uint32_t first, end, n_core_pages = seq->n_rows != 0 ? pages_of(seq->n_cores) : 0;
        exact_range(seq, &first, &end);
        ret_seqs[i] = (struct sc_cuda_seq){.row0 = seq->row0,
                                           .n_rows = seq->n_rows,
                                           .pos0 = seq->pos0,
                                           .n_cores = seq->n_cores,
                                           .exact_lo = seq->exact_lo,
                                           .window = seq->window,
                                           .table = table0 + words,
                                           .n_core_pages = n_core_pages,
                                           .exact_page0 = first,
                                           .n_pages = n_core_pages + (end - first)};
        if (n_core_pages != 0)
            memcpy(ret_tables + words, seq->core_pages, n_core_pages * sizeof(uint32_t));
        words += n_core_pages;
        if (end != first)
            memcpy(ret_tables + words, seq->exact_pages + first, (end - first) * sizeof(uint32_t));
        words += end - first;
        if (seq->n_rows > *max_rows)
            *max_rows = seq->n_rows;
        if (ret_seqs[i].n_pages > *max_pages)
            *max_pages = ret_seqs[i].n_pages;
    }
    return words;
}
