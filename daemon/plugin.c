#include "daemon/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static enum sc_status open_file(const char *path, const struct sc_backend_plugin **ret_plugin,
                                struct sc_err *err)
{
    if (access(path, R_OK) != 0)
        return sc_fail(err, SC_ENOENT, "no CUDA plugin at %s", path);
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (lib == NULL)
        return sc_fail(err, SC_EUNAVAIL, "CUDA plugin: %s", dlerror());
    const struct sc_backend_plugin *plugin = dlsym(lib, SC_BACKEND_PLUGIN_SYMBOL);
    if (plugin == NULL || plugin->abi != SC_BACKEND_ABI) {
        (void)sc_fail(err, SC_ENOTSUP, "CUDA plugin %s: ABI %u, this daemon needs %u", path,
                      plugin != NULL ? plugin->abi : 0, SC_BACKEND_ABI);
        (void)dlclose(lib);
        return SC_ENOTSUP;
    }
    *ret_plugin = plugin;
    return SC_OK;
}

enum sc_status sc_plugin_open(const char *path, const struct sc_backend_plugin **ret_plugin,
                              struct sc_err *err)
{
    static const char *const beside[] = {"/../lib/", "/../lib/semanticache/"};
    char exe[PATH_MAX], file[PATH_MAX + 64];
    enum sc_status st = SC_ENOENT;

    if (path != NULL)
        return open_file(path, ret_plugin, err);
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    exe[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(exe, '/');
    for (size_t i = 0; slash != NULL && i < SC_ARRAY_LEN(beside) && st == SC_ENOENT; i++) {
        *slash = '\0';
        (void)snprintf(file, sizeof(file), "%s%s%s", exe, beside[i], SC_CUDA_PLUGIN_FILE);
        sc_err_clear(err);
        st = open_file(file, ret_plugin, err);
    }
    if (st == SC_ENOENT) {
        sc_err_clear(err);
        st = open_file(SC_PLUGIN_DIR "/" SC_CUDA_PLUGIN_FILE, ret_plugin, err);
    }
    return st;
}

enum sc_status sc_plugin_try(const struct sc_backend_plugin *plugin, struct sc_err *err)
{
    const struct sc_backend_opts opts = {.rank = 0, .n_ranks = 1, .n_threads = 1};
    struct sc_backend *be = NULL;
    enum sc_status st = plugin->open(&opts, &be, err);

    if (st == SC_OK)
        be->ops->close(be);
    return st;
}
