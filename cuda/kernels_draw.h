/* cuda/kernels_draw.h - a token drawn from each row, see sc_backend_ops.draw. */
#ifndef SC_CUDA_KERNELS_DRAW_H
#define SC_CUDA_KERNELS_DRAW_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sc_draw;

/* draws: device [n_rows]; best: as row_max left it. */
cudaError_t sc_cuda_launch_draw(const float *x, uint32_t n_rows, uint32_t width, uint32_t n_cols,
                                const struct sc_draw *draws, float *best, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
