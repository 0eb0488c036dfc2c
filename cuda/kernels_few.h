/* cuda/kernels_few.h - launcher of products of a few rows in bf16 with weights in bf16, on tensor
 * cores. Device pointers. It puts work on the stream and returns; no allocation. */
#ifndef SC_CUDA_KERNELS_FEW_H
#define SC_CUDA_KERNELS_FEW_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

/* So many rows go here, fewer to kernels_gemv.h, more to cuBLASLt. FROM may be 1 as well, TO at
 * most 16; FROM beyond TO: none. */
#define SC_CUDA_FEW_FROM 2u
#define SC_CUDA_FEW_TO   16u

#ifdef __cplusplus
extern "C" {
#endif

/* y [n, n_out] = x W^T + bias, in f32. Rows of x and w are ld elements, a multiple of 8; x and w
 * 16-byte aligned. fused: y [n, n_out / 2] = silu(row i) * row i + n_out / 2, and image, dense, is
 * its bf16; both or either. add: what y holds is added; not with fused. image may not overlap x. */
struct sc_cuda_few {
    const uint16_t *w, *x;
    const float *bias; /* [n_out] or NULL */
    float *y;
    uint16_t *image;
    uint32_t ld, n_out, y_stride, n; /* n in 1..16 */
    bool fused, add;
};
/* Rows that a block of this device has shared memory for: 16, 8 or 0. */
uint32_t sc_cuda_few_most(void);
cudaError_t sc_cuda_launch_few(const struct sc_cuda_few *args, uint32_t n_sms, cudaStream_t stream);
/* Once a device, before the first launch: lets the kernels have the shared memory they need. */
cudaError_t sc_cuda_few_init(void);

#ifdef __cplusplus
}
#endif

#endif
