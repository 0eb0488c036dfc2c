/* cuda/seqs.h - the sequences of an attention call as kernels read them: struct sc_attn_seq with
 * its page tables in device memory. Private to cuda/; included by host files and kernels. */
#ifndef SC_CUDA_SEQS_H
#define SC_CUDA_SEQS_H

#include <stdint.h>

/* Page i of a sequence, i < n_core_pages: cores 32 i ..; behind them exact pages: page i holds
 * positions 32 (exact_page0 + i - n_core_pages) .. */
struct sc_cuda_seq {
    uint32_t row0, n_rows, pos0, n_cores;
    uint32_t exact_lo, window;
    uint32_t table;        /* first entry of its page ids in sc_cuda_seqs.tables */
    uint32_t n_core_pages; /* ceil(n_cores / 32) */
    uint32_t exact_page0;  /* exact_lo / 32 (window > 0: of the first position any row sees) */
    uint32_t n_pages;      /* in all, to the page of position pos0 + n_rows - 1 */
};

struct sc_cuda_seqs {
    const struct sc_cuda_seq *seqs; /* device [n_seqs] */
    const uint32_t *tables;         /* device */
    /* What the grid is sized by; host. In a recorded step they bound what later steps may bring. */
    uint32_t n_seqs, max_rows, max_pages;
};

#endif
