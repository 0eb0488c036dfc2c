/* cuda/kernels_peers.h - launchers of sums over ranks, and of what sums travel as. */
#ifndef SC_CUDA_KERNELS_PEERS_H
#define SC_CUDA_KERNELS_PEERS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SC_CUDA_PEERS_MAX 64u

#ifdef __cplusplus
extern "C" {
#endif

/* dst[i] = the sum of srcs[r][i] in order of r, i < n; the pointers travel with the launch. */
struct sc_cuda_sum {
    const void *srcs[SC_CUDA_PEERS_MAX];
    void *dst;
    size_t n;
    uint32_t n_srcs; /* > 0 */
    bool i32;        /* wraps; else f32 */
};
cudaError_t sc_cuda_launch_sum(const struct sc_cuda_sum *args, cudaStream_t stream);

/* n elements from f32 to bf16, to nearest, and back; n > 0. */
cudaError_t sc_cuda_launch_to_bf16(const float *x, size_t n, uint16_t *y, cudaStream_t stream);
cudaError_t sc_cuda_launch_from_bf16(const uint16_t *x, size_t n, float *y, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
