/* cuda/kernels_best.h - the largest of each row, see sc_backend_ops.row_max. */
#ifndef SC_CUDA_KERNELS_BEST_H
#define SC_CUDA_KERNELS_BEST_H

#include <cuda_runtime_api.h>
#include <stdint.h>

/* Rows are shared out among blocks as long as there are no more of them than this, about what a
 * large device runs side by side. */
#define SC_CUDA_BEST_BLOCKS 1024u
/* Of scratch: a pair of every block and a counter of every row that several share. */
#define SC_CUDA_BEST_BYTES                                                                         \
    (SC_CUDA_BEST_BLOCKS * 2 * sizeof(float) + SC_CUDA_BEST_BLOCKS / 2 * sizeof(uint32_t))

#ifdef __cplusplus
extern "C" {
#endif

/* scratch [SC_CUDA_BEST_BYTES] on the device: zero before the first call, and between calls no one
 * else's. n_rows is not 0. */
cudaError_t sc_cuda_launch_row_max(const float *x, uint32_t n_rows, uint32_t width, uint32_t n_cols,
                                   void *scratch, float *best, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
