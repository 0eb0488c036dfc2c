/* cuda/kernels_best.h - the largest of each row, see sc_backend_ops.row_max. */
#ifndef SC_CUDA_KERNELS_BEST_H
#define SC_CUDA_KERNELS_BEST_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

cudaError_t sc_cuda_launch_row_max(const float *x, uint32_t n_rows, uint32_t width, uint32_t n_cols,
                                   float *best, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
