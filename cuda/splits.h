/* cuda/splits.h - how the pages of a small sequence are cut for attention: by their number alone;
 * and who adds up what was found in them. Private to cuda/; included by host files and kernels. */
#ifndef SC_CUDA_SPLITS_H
#define SC_CUDA_SPLITS_H

#include <stdint.h>

#define SC_CUDA_ATTN_SPLIT_PAGES 8u   /* at least, of one split; half as many .. */
#define SC_CUDA_ATTN_FEW_PAGES   64u  /* .. of a sequence of no more than these */
#define SC_CUDA_ATTN_SPLITS_MAX  128u /* of one sequence */
/* Parts of a (sequence, KV head) that one block adds up by itself, in columns (not measured): a
 * round through the second cache brings it 8192 of them and takes 0.7 us or so, and after four a
 * kernel more, of many blocks, costs no more than they do. 64 splits of 4 rows of 128. */
#define SC_CUDA_ATTN_ADD_COLUMNS 32768u

#ifdef __CUDACC__
#define SC_CUDA_BOTH_SIDES __host__ __device__
#else
#define SC_CUDA_BOTH_SIDES
#endif

/* Of a launch whose sequences have no more splits and rows than these: parts are added up by a
 * kernel of their own. */
static inline SC_CUDA_BOTH_SIDES int sc_cuda_adds_apart(uint32_t n_splits, uint32_t n_rows,
                                                        uint32_t head_dim)
{
    return n_splits * n_rows * head_dim > SC_CUDA_ATTN_ADD_COLUMNS;
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
