/* cuda/splits.h - how the pages of a small sequence are cut for attention: by their number and that
 * of KV heads alone; and who adds up what was found in them. Private to cuda/; included by host
 * files and kernels. */
#ifndef SC_CUDA_SPLITS_H
#define SC_CUDA_SPLITS_H

#include <stdint.h>

#define SC_CUDA_ATTN_SPLIT_PAGES 8u   /* at least, of one split; half as many .. */
#define SC_CUDA_ATTN_FEW_PAGES   64u  /* .. of a sequence of no more than these */
#define SC_CUDA_ATTN_SPLITS_MAX  128u /* of one sequence */
/* Blocks of a long sequence, of all its KV heads from three to 24: what an H100 or H200 runs at
 * once (132 multiprocessors, three blocks of head_dim 128 each), so that some sequences are as many
 * full rounds of it. More would leave more parts to add up, and one round begun at the end. */
#define SC_CUDA_ATTN_BLOCKS 384u
/* Parts of a (sequence, KV head) that one block adds up by itself, in columns: 64 splits of 4 rows
 * of 128. Of more the second cache brings too few at a time for one block, and a kernel of many
 * blocks is faster, by 7 % where one context of 32K had 128 splits; unless there are so many
 * (sequence, KV head) that some are added up while others are still read (2 % the other way; H200).
 */
#define SC_CUDA_ATTN_ADD_COLUMNS 32768u
#define SC_CUDA_ATTN_ADD_UNITS   128u

/* Of sequences that have no more splits and rows than these: parts are added up by a kernel of
 * their own. n_units: (sequence, KV head). */
static inline int sc_cuda_adds_apart(uint32_t n_splits, uint32_t n_rows, uint32_t head_dim,
                                     uint32_t n_units)
{
    return n_units < SC_CUDA_ATTN_ADD_UNITS &&
           n_splits * n_rows * head_dim > SC_CUDA_ATTN_ADD_COLUMNS;
}

/* Splits that a sequence has at most. */
static inline uint32_t sc_cuda_most_splits(uint32_t n_kv_heads)
{
    const uint32_t n = SC_CUDA_ATTN_BLOCKS / (n_kv_heads > 0 ? n_kv_heads : 1);
    const uint32_t least = SC_CUDA_ATTN_FEW_PAGES / (SC_CUDA_ATTN_SPLIT_PAGES / 2);
    return n > SC_CUDA_ATTN_SPLITS_MAX ? SC_CUDA_ATTN_SPLITS_MAX : n < least ? least : n;
}

/* Pages of one split of a sequence of n_pages. */
static inline uint32_t sc_cuda_split_pages(uint32_t n_pages, uint32_t n_kv_heads)
{
    const uint32_t least = SC_CUDA_ATTN_SPLIT_PAGES, most = sc_cuda_most_splits(n_kv_heads);
    if (n_pages <= SC_CUDA_ATTN_FEW_PAGES)
        return least / 2;
    if (n_pages <= least * most)
        return least;
    return ((n_pages + most - 1) / most + 1) / 2 * 2;
}

/* Of any sequence of up to max_pages; those of few pages have smaller splits. */
static inline uint32_t sc_cuda_splits_bound(uint32_t max_pages, uint32_t n_kv_heads)
{
    const uint32_t least = SC_CUDA_ATTN_SPLIT_PAGES, most = sc_cuda_most_splits(n_kv_heads);
    const uint32_t few = max_pages < SC_CUDA_ATTN_FEW_PAGES ? max_pages : SC_CUDA_ATTN_FEW_PAGES;
    const uint32_t n = (max_pages + least - 1) / least, n_few = (few + least / 2 - 1) / (least / 2);
    const uint32_t bound = n > n_few ? n : n_few;
    return bound < most ? bound : most;
}

#endif
