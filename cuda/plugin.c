/* libsemanticache-cuda.so: what the daemon's loader finds. */
#include "base/plugin.h"

#include <stdio.h>

#include "cuda/cuda.h"
#include "cuda/device.h"

static enum sc_status probe(char *text, size_t bytes, struct sc_err *err)
{
    int n = 0, driver = 0;
    size_t at = 0;
    enum sc_status st = sc_cuda_check(cudaDriverGetVersion(&driver), "CUDA driver", err);

    if (st == SC_OK && driver == 0)
        return sc_fail(err, SC_EUNAVAIL, "CUDA driver: none is installed");
    if (st == SC_OK)
        st = sc_cuda_check(cudaGetDeviceCount(&n), "CUDA devices", err);
    if (st != SC_OK) { /* also a driver too old: cudaErrorInsufficientDriver */
        err->status = SC_EUNAVAIL;
        return SC_EUNAVAIL;
    }
    if (n == 0)
        return sc_fail(err, SC_EUNAVAIL, "CUDA devices: none");
    for (int i = 0; i < n && st == SC_OK && at < bytes; i++) {
        struct cudaDeviceProp prop;
        st = sc_cuda_check(cudaGetDeviceProperties(&prop, i), "CUDA device", err);
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
    return st == SC_OK ? sc_cuda_backend_open(opts, ret_be, err) : st;
}

/* The one exported symbol; everything else is hidden. */
__attribute__((visibility("default"))) extern const struct sc_backend_plugin sc_backend_plugin;
const struct sc_backend_plugin sc_backend_plugin = {
    .abi = SC_BACKEND_ABI,
    .name = "cuda",
    .probe = probe,
    .open = open_backend,
};
