/* cuda/line.cuh - a line of steps that is cut into equal, unbroken parts: a matrix over the blocks
 * of a kernel, a block's share over its warps. Included by .cu files only. */
#ifndef SC_CUDA_LINE_CUH
#define SC_CUDA_LINE_CUH

#include <stdint.h>

/* Where part i of n of a line begins; the first parts are one longer. */
static __device__ inline uint32_t cut(uint32_t length, uint32_t i, uint32_t n)
{
    return length / n * i + min(length % n, i);
}

/* Of pieces of n_steps each, the last that a part which ends there has to do with. */
static __device__ inline uint32_t last_piece(uint32_t end, uint32_t n_steps)
{
    return (end > 0 ? end - 1 : 0) / n_steps;
}

#endif
