/* tests/backend.h - the backend that the engine's tests run on: the CPU's, or the plugin that
 * SC_TEST_BACKEND names. All ranks then share its device 0, strictly unless SC_TEST_FAST is set.
 * Without a device the test is skipped with exit code 77. After cmocka.h. */
#ifndef SC_TESTS_BACKEND_H
#define SC_TESTS_BACKEND_H

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/plugin.h"
#include "cpu/cpu.h"

static inline const struct sc_backend_plugin *test_plugin(void)
{
    static const struct sc_backend_plugin *plugin;
    const char *path = getenv("SC_TEST_BACKEND");
    struct sc_err err = SC_ERR_INIT;
    char text[256];

    if (plugin != NULL || path == NULL)
        return plugin;
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    plugin = lib != NULL ? dlsym(lib, SC_BACKEND_PLUGIN_SYMBOL) : NULL;
    if (plugin == NULL || plugin->abi != SC_BACKEND_ABI) {
        (void)fprintf(stderr, "%s: not a backend of ABI %u\n", path, SC_BACKEND_ABI);
        exit(1);
    }
    if (plugin->probe(text, sizeof(text), &err) != SC_OK) {
        (void)printf("skipped: %s\n", err.text);
        exit(77);
    }
    return plugin;
}

/* Before main: a rank's thread could not leave the program without the others' consent. On another
 * backend SC_TEST_FILTER chooses some of the tests. */
static __attribute__((constructor)) void skip_without_device(void)
{
    if (test_plugin() != NULL && getenv("SC_TEST_FILTER") != NULL)
        cmocka_set_test_filter(getenv("SC_TEST_FILTER"));
}

static inline enum sc_status test_backend_open(const struct sc_backend_opts *opts,
                                               struct sc_backend **ret_be, struct sc_err *err)
{
    const struct sc_backend_plugin *plugin = test_plugin();
    if (plugin == NULL)
        return sc_cpu_backend_open(opts, ret_be, err);
    struct sc_backend_opts o = *opts;
    o.device = 0;
    o.strict = getenv("SC_TEST_FAST") == NULL;
    return plugin->open(&o, ret_be, err);
}

#endif
