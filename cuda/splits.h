/* cuda/splits.h - how the pages of a small sequence are cut for attention: by their number alone;
 * and who adds up what was found in them. Private to cuda/; included by host files and kernels. */
#ifndef SC_CUDA_SPLITS_H
#define SC_CUDA_SPLITS_H

#include <stdint.h>

#define SC_CUDA_ATTN_SPLIT_PAGES 8u   /* at least, of one split; half as many .. */
#define SC_CUDA_ATTN_FEW_PAGES   64u  /* .. of a sequence of no more than these */
#define SC_CUDA_ATTN_SPLITS_MAX  128u /* of one sequence */
/* Parts of a (sequence, KV head) that one block adds up by itself, in columns: 64 splits of 4 rows
 * of 128. Of more the second cache brings too few at a time for one block, and a kernel of many
 * blocks is faster, by 7 % of one context of 32K; unless there are so many (sequence, KV head) that
 * some are added up while others are still read (2 % the other way; H200). */
#define SC_CUDA_ATTN_ADD_COLUMNS 32768u
#define SC_CUDA_ATTN_ADD_UNITS   128u

#ifdef __CUDACC__
#define SC_CUDA_BOTH_SIDES __host__ __device__
#else
#define SC_CUDA_BOTH_SIDES
#endif

/* Of sequences that have no more splits and rows than these: parts are added up by a kernel of
 * their own. n_units: (sequence, KV head). */
static inline SC_CUDA_BOTH_SIDES int sc_cuda_adds_apart(uint32_t n_splits, uint32_t n_rows,
                                                        uint32_t head_dim, uint32_t n_units)
{
    return n_units < SC_CUDA_ATTN_ADD_UNITS &&
           n_splits * n_rows * head_dim > SC_CUDA_ATTN_ADD_COLUMNS;
}

/* Pages of one split of a sequence of n_pages. */
static inline SC_CUDA_BOTH_SIDES uint32_t sc_cuda_split_pages(uint32_t n_pages)
{
    const uint32_t least = SC_CUDA_ATTN_SPLIT_PAGES, most = least * SC_CUDA_ATTN_SPLITS_MAX;
    if (n_pages <= SC_CUDA_ATTN_FEW_PAGES)
        return least / 2;
    return least * (n_pages <= most ? 1 : (n_pages + most - 1) / most);
}

#endif
