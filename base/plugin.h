/* base/plugin.h - what a backend plugin library exports, and where daemon/ looks for it.
 *
 * A plugin is opened with dlopen, so that the daemon starts on machines without the vendor's
 * libraries. Threads: the table is constant.
 */
#ifndef SC_BASE_PLUGIN_H
#define SC_BASE_PLUGIN_H

#include "base/backend.h"

#define SC_CUDA_PLUGIN_FILE      "libsemanticache-cuda.so"
#define SC_BACKEND_PLUGIN_SYMBOL "sc_backend_plugin"

struct sc_backend_plugin {
    uint32_t abi; /* SC_BACKEND_ABI it was built with: first, so that any version can read it */
    const char *name;
    /* Finds the devices and describes them in text. SC_EUNAVAIL: none, or no usable driver. */
    enum sc_status (*probe)(char *text, size_t bytes, struct sc_err *err);
    sc_backend_open_fn *open;
};

#endif
