/* cuda/kernels_blocks.h - launcher of what carries blocks of one KV head between pages and a piece
 * of memory in which they lie one after the other. It puts work on the stream and returns. */
#ifndef SC_CUDA_KERNELS_BLOCKS_H
#define SC_CUDA_KERNELS_BLOCKS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Device pointers. Block i: block_bytes at mem + pages[i] * page_bytes, and at piece + i *
 * block_bytes. All are multiples of 16 bytes. */
struct sc_cuda_blocks {
    uint8_t *mem; /* of page 0's block */
    size_t page_bytes, block_bytes;
    const uint32_t *pages;
    uint8_t *piece;
    uint32_t n; /* > 0 */
    bool to_pages;
};
cudaError_t sc_cuda_launch_blocks(const struct sc_cuda_blocks *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
