/* cuda/kernels_gemv.h - launcher of products of a few rows, read straight from the weights. Device
 * pointers. It puts work on the stream and returns; no allocation. */
#ifndef SC_CUDA_KERNELS_GEMV_H
#define SC_CUDA_KERNELS_GEMV_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "cuda/kernels_few.h"

#define SC_CUDA_GEMV_ROWS_MAX 4u
/* Where activations may be rounded and weights are bf16 or int8, so few rows go here: for more,
 * kernels_few.h. Four rows of an 8B model in bf16 here: decoding takes 1.6 times as long. */
#define SC_CUDA_GEMV_ROWS (SC_CUDA_FEW_FROM - 1u)
/* By bf16 weights on devices that have no room for that of kernels_few.h. */
#define SC_CUDA_GEMV_ROWS_ALONE 2u

#ifdef __cplusplus
extern "C" {
#endif

/* y [n, n_out] = x W^T * scale + bias. Rows of w are ld elements, a multiple of 16 bytes, and zero
 * from n_in on; w 16-byte aligned. fused: y [n, n_out / 2] = silu(row i) * row i + n_out / 2. add:
 * what y holds is added; not with fused. norm [n_in]: the rows multiplied are x * rsqrt(mean(x^2) +
 * eps) * norm; NULL: x. */
struct sc_cuda_gemv {
    const void *w;
    enum sc_dtype store;       /* F32, BF16, I8 */
    const float *scale, *bias; /* [n_out] or NULL */
    const float *x;
    float *y;
    uint32_t n_in, ld, n_out, x_stride, y_stride, n; /* n in 1..SC_CUDA_GEMV_ROWS_MAX */
    bool fused, add;
    const float *norm;
    float eps;
};
/* Do n rows of ld fit into a block's shared memory, and can they be normed on their way there? */
bool sc_cuda_gemv_takes_norm(enum sc_dtype store, uint32_t ld, uint32_t n);
cudaError_t sc_cuda_launch_gemv(const struct sc_cuda_gemv *args, uint32_t n_sms,
                                cudaStream_t stream);
/* Once a device, before the first launch: lets the kernels have the shared memory they need. */
cudaError_t sc_cuda_gemv_init(void);

#ifdef __cplusplus
}
#endif

#endif
