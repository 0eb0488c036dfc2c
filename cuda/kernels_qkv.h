/* cuda/kernels_qkv.h - launchers of the rotation angles and of the split of qkv rows. Device
 * pointers; n_rows > 0. They put work on the stream and return; no allocation. */
#ifndef SC_CUDA_KERNELS_QKV_H
#define SC_CUDA_KERNELS_QKV_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

cudaError_t sc_cuda_launch_angles(const uint32_t *positions, uint32_t n, const float *inv_freq,
                                  uint32_t head_dim, float scale, float *angles,
                                  cudaStream_t stream);

/* As struct sc_qkv_args; the page is described in cuda/device.h. */
struct sc_cuda_qkv_split {
    float *qkv;
    const float *q_norm, *k_norm, *angles;
    const uint32_t *pages, *slots;
    uint8_t *mem;
    size_t v_offset, bias_offset, head_bytes, page_bytes;
    uint32_t n_rows, n_heads, n_kv_heads, head_dim; /* head_dim even, <= 256 */
    float eps;
    enum sc_dtype dtype; /* of pages: F32, BF16 or I8 */
};
cudaError_t sc_cuda_launch_qkv(const struct sc_cuda_qkv_split *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
