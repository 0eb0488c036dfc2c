/* cuda/overlap.cuh - kernels that start while the one before them still runs (programmatic
 * dependent launch): what a kernel can do without its predecessor's results, such as fetching
 * weights, then costs nothing.
 *
 * Rules for every kernel launched with sc_overlap_launch:
 *   1. Each of its threads calls sc_inputs_ready() before it reads what earlier kernels wrote,
 * before it writes anything, and before it leaves, also when it leaves early. Else a kernel could
 *      complete before its predecessor, and its successor would read too soon.
 *   2. Before that only memory that no kernel writes may be read: weights; and pages of entries,
 * where sc_cuda_pages_settled (device.h) says so.
 *   3. sc_next_may_start() is called by every thread as early as its block's resources allow.
 *
 * Why this is safe in a chain of such kernels. A kernel completes only after its predecessor did
 * (rule 1), so one that has waited sees the results of all before it, however many of them were
 * still running when it started. Copies and kernels launched in the ordinary way wait for the
 * completion of the one before them, thus of all; and what follows them waits for them whole. A
 * kernel further down the chain starts after the first of the chain has, hence after the copy that
 * this one waited for: arrays that were sent to the device before are complete for all of them. The
 * reverse holds too: a copy that overwrites an array comes after every kernel that reads it.
 * Kernels let in early hold no place that an earlier one still needs: all blocks of the earlier one
 * are running or done when it lets its successor in.
 *
 * Blocks of two kernels share a multiprocessor only when its memory is divided between cache and
 * shared memory as both need it, so all these kernels ask for the most shared memory.
 *
 * Kernels whose blocks are each a multiprocessor's share of the work ask for sc_alone_bytes at
 * least. Else, let in while others end, some of their blocks go two to a multiprocessor and others
 * get none: decoding took 1.04 (one row) to 1.18 times (two) as long (H200). Such a block starts
 * where the one of the kernel before has ended, which is early enough.
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

static inline cudaError_t sc_device_bytes(enum cudaDeviceAttr what, size_t *ret_bytes)
{
    int device = 0, bytes = 0;
    cudaError_t rc = cudaGetDevice(&device);
    if (rc == cudaSuccess)
        rc = cudaDeviceGetAttribute(&bytes, what, device);
    *ret_bytes = (size_t)bytes;
    return rc;
}

/* Shared memory that a block may have. */
static inline cudaError_t sc_most_bytes(size_t *ret_bytes)
{
    return sc_device_bytes(cudaDevAttrMaxSharedMemoryPerBlockOptin, ret_bytes);
}

/* Shared memory of a block beside which another one of as much finds no room. */
static inline cudaError_t sc_alone_bytes(size_t *ret_bytes)
{
    size_t most = 0, all = 0;
    cudaError_t rc = sc_most_bytes(&most);
    if (rc == cudaSuccess)
        rc = sc_device_bytes(cudaDevAttrMaxSharedMemoryPerMultiprocessor, &all);
    *ret_bytes = all / 2 < most ? all / 2 : most;
    return rc;
}

/* Like kernel<<<grid, block, shared, stream>>>(args...). Devices before 9.0 launch one after the
 * other. */
template <class... Wanted, class... Given>
static cudaError_t sc_overlap_launch(void (*kernel)(Wanted...), dim3 grid, dim3 block,
                                     size_t shared, cudaStream_t stream, Given... args)
{
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = {};
    int device = 0, major = 0;
    cudaError_t rc = cudaGetDevice(&device);

    if (rc == cudaSuccess)
        rc = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (rc != cudaSuccess)
        return rc;
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
    attributes[1].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = major >= 9 ? 2 : 0;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Wanted>(args)...);
}

#endif
