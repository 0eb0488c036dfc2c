/* What only compute capability 9.0 has: the stand-in device is of 8.0, so nobody calls it. */
#include "cuda/device.h"
#include "cuda/kernels_attention.h"

void sc_cuda_tensor_map_make(const struct sc_cuda_device *dev, struct sc_kv_pool *pool)
{
    (void)dev;
    (void)pool;
}

cudaError_t sc_cuda_attn_prefill_hopper_init(void)
{
    return cudaErrorInvalidDeviceFunction;
}

cudaError_t sc_cuda_attn_prefill_hopper(const struct sc_cuda_attn *a, cudaStream_t stream)
{
    (void)a;
    (void)stream;
    return cudaErrorInvalidDeviceFunction;
}

cudaError_t sc_cuda_attn_prefill_tasks_init(void)
{
    return cudaErrorInvalidDeviceFunction;
}

cudaError_t sc_cuda_attn_prefill_tasks(const struct sc_cuda_attn *a, uint32_t n_sms,
                                       cudaStream_t stream)
{
    (void)a;
    (void)n_sms;
    (void)stream;
    return cudaErrorInvalidDeviceFunction;
}
