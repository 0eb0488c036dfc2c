/* cuda/kernels_few.h - launcher of products of a few rows in bf16 with weights in bf16 or int8, on
 * tensor cores. Device pointers. It puts work on the stream and returns; no allocation. */
#ifndef SC_CUDA_KERNELS_FEW_H
#define SC_CUDA_KERNELS_FEW_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"

/* So many rows go here, fewer to kernels_gemv.h, more to cuBLASLt. FROM may be 1 as well, TO at
 * most 16 by bf16 weights and 32 by int8 ones; FROM beyond TO: none. */
#define SC_CUDA_FEW_FROM  2u
#define SC_CUDA_FEW_TO    16u
#define SC_CUDA_FEW_TO_I8 32u
/* By int8 weights more rows than a block has room for are so many launches, and each reads all
 * weights. cuBLASLt costs five bytes for one of them: it is read, written as bf16 and read again.
 */
#define SC_CUDA_FEW_LAUNCHES_I8 2u

#ifdef __cplusplus
extern "C" {
#endif

/* Squares of so many columns of y, a tile's, are one sum. */
#define SC_CUDA_FEW_SQUARED 16u

/* y [n, n_out] = x W^T * scale + bias, in f32. Rows of w are ld elements, a multiple of 16 bytes,
 * rows of x are x_ld: ld beside bf16 weights, else a multiple of 8, at most ld. Where w ends before
 * ld it is zero, x is where it ends before x_ld; w and x 16-byte aligned. fused: y [n, n_out / 2] =
 * silu(row i) * row i + n_out / 2, and image, dense, is its bf16; both or either. add: what y holds
 * is added; not with fused. image may not overlap x.
 *
 * A norm of y that the next product's rows are is begun and ended by the products. gain, with add:
 * image [n, n_out] is the bf16 of y * gain, and squares [n, n_out / SC_CUDA_FEW_SQUARED, rounded
 * up] sums of squares of y. x_squares: such sums of the x_dim columns that x came from, which it
 * lacks the factor of: each row's product is that of x / sqrt(mean square + eps). */
struct sc_cuda_few {
    const void *w;
    const uint16_t *x;
    const float *bias; /* [n_out] or NULL */
    float *y;
    uint16_t *image;
    uint32_t ld, n_out, y_stride, n; /* n in 1..sc_cuda_few_most */
    bool fused, add;
    enum sc_dtype store; /* BF16, I8 */
    uint32_t x_ld;
    const float *scale; /* [n_out], I8 only */
    const float *gain;  /* [n_out] or NULL */
    float *squares;
    const float *x_squares; /* or NULL */
    uint32_t x_dim;
    float eps;
};
/* Rows that the shared memory of a block of this device allows: 16, 8 or 0, by int8 weights
 * SC_CUDA_FEW_LAUNCHES_I8 times as many. */
uint32_t sc_cuda_few_most(enum sc_dtype store);
cudaError_t sc_cuda_launch_few(const struct sc_cuda_few *args, uint32_t n_sms, cudaStream_t stream);
/* Once a device, before the first launch: lets the kernels have the shared memory they need. */
cudaError_t sc_cuda_few_init(void);

#ifdef __cplusplus
}
#endif

#endif
