/* cuda/kernels_rows.h - launchers of the row operations. Device pointers; n_rows and dim > 0. They
 * put work on the stream and return; no allocation. */
#ifndef SC_CUDA_KERNELS_ROWS_H
#define SC_CUDA_KERNELS_ROWS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As struct sc_norm_args. image: bf16 of y [n_rows, dim], or NULL; needs dim % 8 == 0. Both or
 * either of y and image; neither: only the sum. */
struct sc_cuda_norm {
    float *resid;
    const float *delta, *w;
    float *y;
    uint16_t *image;
    uint32_t n_rows, dim;
    float eps;
};
cudaError_t sc_cuda_launch_norm(const struct sc_cuda_norm *args, cudaStream_t stream);

/* gate_up [n, 2 * ffn] in f32 or bf16; image: bf16 of y. Both or either of y and image. */
cudaError_t sc_cuda_launch_swiglu(const void *gate_up, enum sc_dtype dtype, float *y,
                                  uint16_t *image, uint32_t n, uint32_t ffn, cudaStream_t stream);

/* Row ids[i] - row0 of the table, zeros where there is none. table: f32, bf16 or f16. */
cudaError_t sc_cuda_launch_embed(const void *table, enum sc_dtype dtype, uint64_t row0,
                                 uint64_t n_rows, uint32_t dim, const int32_t *ids, uint32_t n,
                                 float *out, cudaStream_t stream);

cudaError_t sc_cuda_launch_gather(const float *src, const uint32_t *rows, uint32_t n, uint32_t dim,
                                  float *dst, cudaStream_t stream);

/* Rows of x as bf16, zeros from n_in up to the row length k (a multiple of 8). n_parts 3: x as the
 * sum of three bf16 numbers, which is exact; part p at out + p * part_elements, largest first. */
cudaError_t sc_cuda_launch_round(const float *x, uint32_t x_stride, uint32_t n, uint32_t n_in,
                                 uint32_t k, uint32_t n_parts, size_t part_elements, uint16_t *out,
                                 cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
