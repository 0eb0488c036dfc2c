/* cuda/seqs.h - the sequences of an attention call as kernels read them: struct sc_attn_seq with
 * its page tables in device memory. Private to cuda/; included by host files and kernels. */
#ifndef SC_CUDA_SEQS_H
#define SC_CUDA_SEQS_H

#include <stddef.h>
#include <stdint.h>

/* Page i of a sequence, i < n_core_pages: cores 32 i ..; behind them exact pages: page i holds
 * positions 32 (exact_page0 + i - n_core_pages) .. */
struct sc_cuda_seq {
    uint32_t row0, n_rows, pos0, n_cores;
    uint32_t exact_lo, window;
    uint32_t table;        /* first entry of its page ids in sc_cuda_seqs.tables */
    uint32_t n_core_pages; /* ceil(n_cores / 32) */
    uint32_t exact_page0;  /* exact_lo / 32 (window > 0: of the first position any row sees) */
    uint32_t n_pages;      /* in all, to the page of position pos0 + n_rows - 1; 0: no rows */
};

struct sc_cuda_seqs {
    const struct sc_cuda_seq *seqs; /* device [n_seqs] */
    const uint32_t *tables;         /* device */
    /* What the grid is sized by; host. In a recorded step they bound what later steps may bring. */
    uint32_t n_seqs, max_rows, max_pages;
};

/* seqs.c: host side. */
#ifndef __CUDACC__
#include "base/status.h"

struct sc_attn_seq;
struct sc_kv_pool;

/* Everything about the sequences but their pages, against limits and the pool. */
enum sc_status sc_cuda_seqs_check(const struct sc_kv_pool *pool, const struct sc_attn_seq *seqs,
                                  uint32_t n_seqs, struct sc_err *err);
/* That the pool has the pages they will read; they passed sc_cuda_seqs_check. */
enum sc_status sc_cuda_seqs_check_pages(const struct sc_kv_pool *pool,
                                        const struct sc_attn_seq *seqs, uint32_t n_seqs,
                                        struct sc_err *err);
/* Page ids of all of them together. */
uint64_t sc_cuda_seqs_words(const struct sc_attn_seq *seqs, uint32_t n_seqs);
/* Host memory for one call: descriptors, then page ids. */
uint64_t sc_cuda_seqs_bytes(const struct sc_attn_seq *seqs, uint32_t n_seqs);
/* Fills ret_seqs [n_seqs], and ret_tables with the page ids; ret_tables[0] will be entry table0 of
 * the table on the device. Raises *max_rows and *max_pages. Returns the page ids written. */
uint32_t sc_cuda_seqs_pack(const struct sc_attn_seq *seqs, uint32_t n_seqs, uint32_t table0,
                           struct sc_cuda_seq *ret_seqs, uint32_t *ret_tables, uint32_t *max_rows,
                           uint32_t *max_pages);
#endif

#endif
