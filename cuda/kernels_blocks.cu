/* cuda/kernels_blocks.cu - blocks of one KV head from pages to one piece of memory, or back: one
 * copy over the bus for a whole document's head, not one a page. A thread block carries one. */
#include "cuda/kernels_blocks.h"

#define THREADS 256

static __global__ void __launch_bounds__(THREADS)
    blocks_kernel(const __grid_constant__ sc_cuda_blocks a)
{
    uint4 *page = (uint4 *)(a.mem + a.pages[blockIdx.x] * a.page_bytes);
    uint4 *piece = (uint4 *)(a.piece + blockIdx.x * a.block_bytes);
    const uint4 *from = a.to_pages ? piece : page;
    uint4 *to = a.to_pages ? page : piece;
    for (size_t i = threadIdx.x; i < a.block_bytes / sizeof(uint4); i += THREADS)
        to[i] = from[i];
}

extern "C" cudaError_t sc_cuda_launch_blocks(const struct sc_cuda_blocks *a, cudaStream_t stream)
{
    blocks_kernel<<<a->n, THREADS, 0, stream>>>(*a);
    return cudaGetLastError();
}
