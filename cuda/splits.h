/* cuda/splits.h - how the pages of a small sequence are cut for attention: by their number alone.
 * Private to cuda/; included by host files and kernels. */
#ifndef SC_CUDA_SPLITS_H
#define SC_CUDA_SPLITS_H

#include <stdint.h>

#define SC_CUDA_ATTN_SPLIT_PAGES 8u   /* at least, of one split; half as many .. */
#define SC_CUDA_ATTN_FEW_PAGES   64u  /* .. of a sequence of no more than these */
#define SC_CUDA_ATTN_SPLITS_MAX  128u /* of one sequence */

#ifdef __CUDACC__
#define SC_CUDA_BOTH_SIDES __host__ __device__
#else
#define SC_CUDA_BOTH_SIDES
#endif

/* Pages of one split of a sequence of n_pages. */
static inline SC_CUDA_BOTH_SIDES uint32_t sc_cuda_split_pages(uint32_t n_pages)
{
    const uint32_t least = SC_CUDA_ATTN_SPLIT_PAGES, most = least * SC_CUDA_ATTN_SPLITS_MAX;
    if (n_pages <= SC_CUDA_ATTN_FEW_PAGES)
        return least / 2;
    return least * (n_pages <= most ? 1 : (n_pages + most - 1) / most);
}

#endif
