/* tests/cuda/simt/include/cuda/wgmma.cuh - what stands for cuda/wgmma.cuh: the same functions,
 * without assembly. */
#ifndef SC_CUDA_WGMMA_CUH
#define SC_CUDA_WGMMA_CUH

#include <cuda_runtime.h>

#include "cuda/panel.cuh"
#include "tests/cuda/simt/hopper.h"

static inline void group_fence()
{
    simt::products_fence();
}

static inline void group_commit()
{
    simt::products_commit();
}

template <int n> static inline void group_wait()
{
    simt::products_wait(n);
}

/* Nothing comes in another order here. */
static inline void shared_fence()
{
}

template <bool ADD = true>
static inline void group_multiply_128(float (&d)[16][4], uint64_t a, uint64_t b)
{
    simt::product_begin({d[0], NULL, a, b, 128, ADD, false, 0});
}

static inline void group_add_rows(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b)
{
    simt::product_begin({d[0], a, 0, b, 128, true, true, 0});
}

static inline void group_add_rows(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b)
{
    simt::product_begin({d[0], a, 0, b, 64, true, true, 0});
}

#endif
