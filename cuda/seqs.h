/* cuda/seqs.h - the sequences of an attention call as kernels read them: struct sc_attn_seq with
 * its page tables in device memory. Private to cuda/; included by host files and kernels. */
#ifndef SC_CUDA_SEQS_H
#define SC_CUDA_SEQS_H

#include <stddef.h>
#include <stdint.h>

#include "cuda/cohorts.h"

/* Page i of a sequence, i < n_core_pages: cores 32 i ..; behind them exact pages: page i holds
 * positions 32 (exact_page0 + i - n_core_pages) .. */
struct sc_cuda_seq {
    uint32_t row0, n_rows, pos0, n_cores;
    uint32_t exact_lo, window;
    uint32_t table;        /* first entry of its page ids in sc_cuda_seqs.tables */
    uint32_t n_core_pages; /* ceil(n_cores / 32) */
    uint32_t exact_page0;  /* exact_lo / 32 (window > 0: of the first position any row sees) */
    uint32_t n_pages;      /* in all, to the page of position pos0 + n_rows - 1; 0: no rows */
    uint32_t split_pages;  /* of one split, see splits.h */
    uint32_t n_shared;     /* splits, from the first on, that its cohort reads; 0: in none */
};

struct sc_cuda_seqs {
    const struct sc_cuda_seq *seqs; /* device [n_seqs] */
    const uint32_t *tables;         /* device */
    /* What the grid is sized by; host. In a recorded step they bound what later steps may bring. */
    uint32_t n_seqs, max_rows, max_pages;
    uint32_t n_kv_heads;                  /* that splits were made for */
    const struct sc_cuda_cohort *cohorts; /* device [n_cohorts], of this layer */
    const uint32_t *members;              /* device: sequences */
    struct sc_cuda_cohort_bounds bounds;  /* n_cohorts 0: n_shared does not count */
};

/* seqs.c: host side. */
#ifndef __CUDACC__
#include <stdbool.h>

#include "base/status.h"

struct sc_attn_seq;
struct sc_kv_pool;
struct sc_cuda_tables;

/* Its list of pages from word `table` on; not cut yet. */
struct sc_cuda_seq sc_cuda_seq_of(const struct sc_attn_seq *seq, uint32_t table);

/* Everything about the sequences but their pages, against limits and the pool. */
enum sc_status sc_cuda_seqs_check(const struct sc_kv_pool *pool, const struct sc_attn_seq *seqs,
                                  uint32_t n_seqs, struct sc_err *err);
/* That the pool has the pages they will read; they passed sc_cuda_seqs_check. */
enum sc_status sc_cuda_seqs_check_pages(const struct sc_kv_pool *pool,
                                        const struct sc_attn_seq *seqs, uint32_t n_seqs,
                                        struct sc_err *err);
/* What the device gets of the sequences of n_layers layers: offsets of descriptors, cohorts, their
 * members and, last, page ids, which alone grow while sequences do; none where they are there. */
struct sc_cuda_seqs_layout {
    uint32_t n_seqs; /* of a layer */
    size_t seqs, cohorts, members, tables, bytes;
};

/* seqs [n_layers, n_seqs]; there: page ids are in struct sc_cuda_tables. */
struct sc_cuda_seqs_layout sc_cuda_seqs_lay_out(const struct sc_attn_seq *seqs, uint32_t n_seqs,
                                                uint32_t n_layers, bool there);

struct sc_cuda_seqs_pack {
    const struct sc_attn_seq *seqs;
    uint32_t n_layers, n_kv_heads;
    bool cascade;                       /* cohorts are looked for */
    const struct sc_cuda_tables *there; /* where page ids are; NULL: they are packed */
    /* What was packed into the same layout for the same sequences with the same pages, and its
     * bounds: cohorts are those. NULL: they are found. */
    const void *before;
    struct sc_cuda_cohort_bounds before_bounds;
};
/* Fills `to` [at->bytes]. Returns bounds of all layers. */
struct sc_cuda_seqs sc_cuda_seqs_pack(const struct sc_cuda_seqs_pack *args,
                                      const struct sc_cuda_seqs_layout *at, void *to);
/* Those of one layer, by what pack returned and where it went on the device. */
struct sc_cuda_seqs sc_cuda_seqs_of_layer(const struct sc_cuda_seqs *packed,
                                          const struct sc_cuda_seqs_layout *at, const void *device,
                                          uint32_t layer);
#endif

#endif
