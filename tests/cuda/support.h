/* tests/cuda/support.h - what the tests of the CUDA backend share: the plugin, device memory, and
 * comparison with the CPU twin. Without a device every test is skipped with exit code 77. */
#ifndef SC_TESTS_CUDA_SUPPORT_H
#define SC_TESTS_CUDA_SUPPORT_H

#include "tests/cpu/support.h"

#include <dlfcn.h>

#include "base/plugin.h"

/* SC_CUDA_PLUGIN in the environment wins over the build's own. */
static inline const struct sc_backend_plugin *cuda_plugin(void)
{
    static const struct sc_backend_plugin *plugin;
    const char *path = getenv("SC_CUDA_PLUGIN");
    if (plugin != NULL)
        return plugin;
    void *lib = dlopen(path != NULL ? path : SC_CUDA_PLUGIN_PATH, RTLD_NOW | RTLD_LOCAL);
    if (lib == NULL) {
        fprintf(stderr, "plugin: %s\n", dlerror());
        exit(1);
    }
    plugin = dlsym(lib, SC_BACKEND_PLUGIN_SYMBOL);
    if (plugin == NULL || plugin->abi != SC_BACKEND_ABI) {
        fprintf(stderr, "plugin: no symbol or another ABI\n");
        exit(1);
    }
    return plugin;
}

static inline void skip_without_device(void)
{
    struct sc_err err = SC_ERR_INIT;
    char text[256] = "";
    if (getenv("SC_TEST_FILTER") != NULL) /* some of the tests: under a sanitizer all take long */
        cmocka_set_test_filter(getenv("SC_TEST_FILTER"));
    if (cuda_plugin()->probe(text, sizeof(text), &err) == SC_OK)
        return;
    printf("skipped: %s\n", err.text);
    exit(77);
}

static inline struct sc_backend *open_cuda(enum sc_math math, bool strict)
{
    struct sc_backend_opts opts = {.n_ranks = 1, .n_threads = 1, .math = math, .strict = strict};
    struct sc_backend *be = NULL;
    assert_ok(cuda_plugin()->open(&opts, &be, err));
    return be;
}

/* Memory of a backend with the host's floats in it; data NULL: NaN, so that what no kernel wrote is
 * seen. */
static inline void *on_device(struct sc_backend *be, const void *data, size_t bytes)
{
    void *mem = NULL;
    uint8_t *junk = NULL;
    assert_ok(be->ops->alloc(be, bytes, &mem, err));
    if (data == NULL) {
        junk = malloc(bytes);
        memset(junk, 0xff, bytes);
    }
    assert_ok(be->ops->upload(be, mem, data != NULL ? data : junk, bytes, err));
    free(junk);
    return mem;
}

static inline void *from_device(struct sc_backend *be, const void *mem, size_t bytes)
{
    void *host = malloc(bytes);
    assert_ok(be->ops->download(be, host, mem, bytes, err));
    return host;
}

/* |got - want| / |want|; anything not finite counts as 1e30. */
static inline double relative_error(const float *got, const float *want, size_t n)
{
    double diff = 0.0, norm = 0.0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - want[i];
        if (!isfinite(got[i]))
            return 1e30;
        diff += d * d;
        norm += (double)want[i] * want[i];
    }
    return norm > 0.0 ? sqrt(diff / norm) : sqrt(diff);
}

/* Prints what was reached, so that a table of tolerances can be read off a run. */
#define assert_close(what, got, want, n, limit)                                                    \
    do {                                                                                           \
        double e_ = relative_error(got, want, n);                                                  \
        printf("  %-52s %.2e (limit %.0e)\n", what, e_, (double)(limit));                          \
        if (!(e_ <= (limit)))                                                                      \
            fail_msg("%s: relative error %g, limit %g", what, e_, (double)(limit));                \
    } while (0)

/* Writes the same random entries into pools of both backends. */
static inline void fill_pools(struct rng *r, struct sc_backend *a, struct sc_kv_pool *pa,
                              struct sc_backend *b, struct sc_kv_pool *pb, uint32_t n_pages,
                              uint32_t n_kv_heads, uint32_t head_dim, enum sc_dtype dtype)
{
    const size_t n = (size_t)SC_PAGE_ENTRIES * head_dim;
    float *k = malloc(n * sizeof(*k)), *v = malloc(n * sizeof(*v)), bias[SC_PAGE_ENTRIES];
    for (uint32_t p = 0; p < n_pages; p++) {
        for (uint32_t h = 0; h < n_kv_heads; h++) {
            uint16_t *k16 = (uint16_t *)(void *)k, *v16 = (uint16_t *)(void *)v;
            for (size_t i = 0; i < n; i++) {
                float x = rng_normal(r), y = rng_normal(r);
                if (dtype == SC_DTYPE_BF16) {
                    k16[i] = sc_f32_to_bf16(x);
                    v16[i] = sc_f32_to_bf16(y);
                } else {
                    k[i] = x;
                    v[i] = y;
                }
            }
            for (uint32_t i = 0; i < SC_PAGE_ENTRIES; i++)
                bias[i] = logf(1.0f + (float)rng_below(r, 6));
            assert_ok(a->ops->kv_unpack(a, pa, p, 0, SC_PAGE_ENTRIES, h, k, v, bias, err));
            assert_ok(b->ops->kv_unpack(b, pb, p, 0, SC_PAGE_ENTRIES, h, k, v, bias, err));
        }
    }
    free(k);
    free(v);
}

#endif
