/* cuda/kernels_matrix.h - launchers that lay out weights, and those around a product. Device
 * pointers; n_rows > 0. They put work on the stream and return; no allocation. */
#ifndef SC_CUDA_KERNELS_MATRIX_H
#define SC_CUDA_KERNELS_MATRIX_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/* dst [n_rows, ld] in f32 or bf16 = src [n_rows, n_in] in f32, bf16 or f16; zeros from n_in on. */
cudaError_t sc_cuda_launch_pack(const void *src, enum sc_dtype dtype, uint32_t n_rows,
                                uint32_t n_in, void *dst, enum sc_dtype store, uint32_t ld,
                                cudaStream_t stream);

/* Columns [col0, col0 + n_in) of src [n_rows, row_stride] as int8, one scale a row: the largest of
 * all its columns / 127, NaN when one is not finite. sums [n_rows][2]: squared errors, squares. */
struct sc_cuda_quantise {
    const void *src;
    enum sc_dtype dtype;
    uint32_t n_rows, n_in, ld;
    uint64_t row_stride, col0;
    int8_t *dst; /* [n_rows, ld] */
    float *scale;
    double *sums;
};
cudaError_t sc_cuda_launch_quantise(const struct sc_cuda_quantise *args, cudaStream_t stream);

/* dst [n_rows, k] in bf16 = src [n_rows, ld], exactly; k a multiple of 8, ld of 16. */
cudaError_t sc_cuda_launch_widen(const int8_t *src, uint32_t n_rows, uint32_t ld, uint32_t k,
                                 uint16_t *dst, cudaStream_t stream);

/* y = y * scale + bias, each [n_out] or NULL. */
cudaError_t sc_cuda_launch_finish(float *y, uint32_t y_stride, uint32_t n, uint32_t n_out,
                                  const float *scale, const float *bias, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
