/* libsemanticache-cuda.so: finds CUDA devices. The kernels are not there yet, so open refuses and
 * says so; `backend = auto` then runs on the CPU. */
#include <cuda_runtime_api.h>
#include <stdio.h>

#include "base/plugin.h"

static enum sc_status cuda_status(cudaError_t rc, const char *what, struct sc_err *err)
{
    if (rc == cudaSuccess)
        return SC_OK;
    return sc_fail(err, SC_EUNAVAIL, "%s: %s", what, cudaGetErrorString(rc));
}

static enum sc_status probe(char *text, size_t bytes, struct sc_err *err)
{
    int n = 0, driver = 0;
    size_t at = 0;
    enum sc_status st = cuda_status(cudaDriverGetVersion(&driver), "CUDA driver", err);

    if (st == SC_OK && driver == 0)
        return sc_fail(err, SC_EUNAVAIL, "CUDA driver: none is installed");
    if (st == SC_OK)
        st = cuda_status(cudaGetDeviceCount(&n), "CUDA devices", err);
    if (st == SC_OK && n == 0)
        return sc_fail(err, SC_EUNAVAIL, "CUDA devices: none");
    for (int i = 0; i < n && st == SC_OK && at < bytes; i++) {
        struct cudaDeviceProp prop;
        st = cuda_status(cudaGetDeviceProperties(&prop, i), "CUDA device", err);
        if (st == SC_OK)
            at += (size_t)snprintf(text + at, bytes - at, "%s%s sm_%d%d %zu MiB", i > 0 ? ", " : "",
                                   prop.name, prop.major, prop.minor, prop.totalGlobalMem >> 20);
    }
    return st;
}

static enum sc_status open_backend(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                                   struct sc_err *err)
{
    char text[256] = "";
    enum sc_status st = probe(text, sizeof(text), err);
    (void)opts;
    (void)ret_be;
    if (st != SC_OK)
        return st;
    return sc_fail(err, SC_ENOTSUP, "this version has no CUDA kernels yet (found %s); use cpu",
                   text);
}

/* The one exported symbol; everything else is hidden. */
__attribute__((visibility("default"))) extern const struct sc_backend_plugin sc_backend_plugin;
const struct sc_backend_plugin sc_backend_plugin = {
    .abi = SC_BACKEND_ABI,
    .name = "cuda",
    .probe = probe,
    .open = open_backend,
};
