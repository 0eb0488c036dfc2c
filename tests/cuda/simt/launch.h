/* tests/cuda/simt/launch.h - kernels on their way onto a stream; implemented in runtime.cc. */
#ifndef SC_SIMT_LAUNCH_H
#define SC_SIMT_LAUNCH_H

#include <functional>
#include <tuple>
#include <type_traits>

#include <cuda_runtime_api.h>

#include "tests/cuda/simt/executor.h"

namespace simt
{

/* Now, or when the stream comes to it, or into the graph that is being recorded. */
void enqueue(cudaStream_t stream, std::function<void()> work);
/* Would a device take it? Else the error is kept, as cudaGetLastError gives it. */
cudaError_t check_launch(const launch &l, const void *kernel);
void allow_shared(const void *kernel, size_t bytes);
cudaError_t keep(cudaError_t error);

/* Where the source launches next. */
struct site {
    const char *file;
    int line;
};
extern thread_local site next_site;

static inline void at(const char *file, int line)
{
    next_site = {file, line};
}

/* body(args...) is one thread of the kernel. */
template <class Body, class... Args>
cudaError_t start(const void *kernel, launch l, cudaStream_t stream, Body body, Args... args)
{
    l.file = next_site.file;
    l.line = next_site.line;
    const cudaError_t rc = check_launch(l, kernel);
    if (rc != cudaSuccess)
        return rc;
    enqueue(stream, [l, body, all = std::tuple<Args...>(args...)] {
        const auto thread = [&] { std::apply(body, all); };
        run(
            l, [](const void *arg) { (*(const decltype(thread) *)arg)(); }, &thread);
    });
    return cudaSuccess;
}

template <class Body, class... Args>
cudaError_t start(const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                  Body body, Args... args)
{
    return start(kernel, launch{NULL, 0, grid, block, shared}, stream, body, args...);
}

} // namespace simt

enum cudaLaunchAttributeID {
    cudaLaunchAttributeProgrammaticStreamSerialization,
    cudaLaunchAttributePreferredSharedMemoryCarveout,
};

enum { cudaSharedmemCarveoutMaxShared = 100 };

struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    union {
        int programmaticStreamSerializationAllowed, sharedMemCarveout;
    } val;
};

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

/* Nothing but sc_overlap_launch calls it. */
template <class... Wanted, class... Given>
static cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *c, void (*kernel)(Wanted...),
                                      Given... args)
{
    const simt::launch l = {NULL, 0, c->gridDim, c->blockDim, c->dynamicSmemBytes, true};
    return simt::start((const void *)kernel, l, c->stream, kernel,
                       static_cast<std::decay_t<Wanted>>(args)...);
}

template <class Kernel>
static cudaError_t cudaFuncSetAttribute(Kernel *kernel, cudaFuncAttribute, int bytes)
{
    if (bytes < 0 || (size_t)bytes > simt::shared_limit())
        return simt::keep(cudaErrorInvalidValue);
    simt::allow_shared((const void *)kernel, (size_t)bytes);
    return cudaSuccess;
}

#endif
