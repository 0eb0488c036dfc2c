/* cuda/overlap.cuh - kernels that start while the one before them still runs (programmatic dependent
 * launch): what a kernel can do without its predecessor's results, such as fetching weights, then
 * costs nothing.
 *
 * Rules for every kernel launched with sc_overlap_launch:
 *   1. Each of its threads calls sc_inputs_ready() before it reads what earlier kernels wrote, before
 *      it writes anything, and before it leaves, also when it leaves early. Else a kernel could
 *      complete before its predecessor, and its successor would read too soon.
 *   2. Before that only memory that no kernel writes may be read: weights.
 *   3. sc_next_may_start() is called by every thread as early as its block's resources allow.
 */
#ifndef SC_CUDA_OVERLAP_CUH
#define SC_CUDA_OVERLAP_CUH

#include <cuda_runtime.h>

static __device__ __forceinline__ void sc_inputs_ready(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ void sc_next_may_start(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Like kernel<<<grid, block, shared, stream>>>(args...). Devices before 9.0 launch one after the
 * other. */
template <class... Wanted, class... Given>
static cudaError_t sc_overlap_launch(void (*kernel)(Wanted...), dim3 grid, dim3 block, size_t shared,
                                     cudaStream_t stream, Given... args)
{
    cudaLaunchAttribute attribute = {};
    cudaLaunchConfig_t config = {};
    int device = 0, major = 0;
    cudaError_t rc = cudaGetDevice(&device);

    if (rc == cudaSuccess)
        rc = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (rc != cudaSuccess)
        return rc;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = major >= 9 ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Wanted>(args)...);
}

#endif
