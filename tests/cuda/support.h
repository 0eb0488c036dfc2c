/* tests/cuda/support.h - what the tests of the CUDA backend share: the plugin, device memory, and
 * comparison with the CPU twin. Without a device every test is skipped with exit code 77. */
#ifndef SC_TESTS_CUDA_SUPPORT_H
#define SC_TESTS_CUDA_SUPPORT_H

#include "tests/cpu/support.h"

#include <dlfcn.h>

#include "base/plugin.h"

/* SC_CUDA_PLUGIN in the environment wins over the build's own, which a build that was carried to
 * another machine does not have at that place. */
static inline const char *cuda_plugin_path(void)
{
    const char *path = getenv("SC_CUDA_PLUGIN");
    return path != NULL ? path : SC_CUDA_PLUGIN_PATH;
}

static inline const struct sc_backend_plugin *cuda_plugin(void)
{
    static const struct sc_backend_plugin *plugin;
    if (plugin != NULL)
        return plugin;
    void *lib = dlopen(cuda_plugin_path(), RTLD_NOW | RTLD_LOCAL);
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

/* SC_TEST_SMALL in the environment: of their tables of shapes tests take the few smallest that
 * still reach every kernel. For sanitizers, to which each call and each thread takes a hundred
 * times as long. */
static inline bool small_run(void)
{
    return getenv("SC_TEST_SMALL") != NULL;
}

/* The stand-in of tests/cuda/simt: slow, the same twice, and its cuBLASLt is no device's. */
static inline bool stand_in(void)
{
#ifdef SC_TEST_STAND_IN
    return true;
#else
    return false;
#endif
}

static inline void skip_without_device(void)
{
    struct sc_err err = SC_ERR_INIT;
    char text[256] = "";
    (void)setvbuf(stdout, NULL, _IOLBF, 0); /* a log shows how far a test came that was killed */
    if (getenv("SC_TEST_FILTER") != NULL)   /* some of the tests: under a sanitizer all take long */
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

/* A row as pools of that dtype pack it; returns its end. int8: by division and rounding, as the
 * contract says. */
static inline uint8_t *pack_row(uint8_t *to, const float *x, uint32_t n, enum sc_dtype dtype)
{
    float largest = 0.0f, scale;
    bool finite = true;
    for (uint32_t i = 0; i < n; i++) {
        const uint16_t bf16 = sc_f32_to_bf16(x[i]);
        largest = fmaxf(largest, fabsf(x[i]));
        finite &= isfinite(x[i]) != 0;
        if (dtype == SC_DTYPE_F32)
            memcpy(to + 4 * i, &x[i], 4);
        else if (dtype == SC_DTYPE_BF16)
            memcpy(to + 2 * i, &bf16, 2);
    }
    scale = finite ? largest / 127.0f : NAN;
    for (uint32_t i = 0; dtype == SC_DTYPE_I8 && i < n; i++)
        to[i] = (uint8_t)(scale > 0.0f ? lrintf(x[i] / scale) : 0);
    if (dtype == SC_DTYPE_I8)
        memcpy(to + n, &scale, sizeof(scale));
    return to + sc_kv_row_bytes(dtype, n);
}

/* Writes the same random entries into pools of both backends. */
static inline void fill_pools(struct rng *r, struct sc_backend *a, struct sc_kv_pool *pa,
                              struct sc_backend *b, struct sc_kv_pool *pb, uint32_t n_pages,
                              uint32_t n_kv_heads, uint32_t head_dim, enum sc_dtype dtype)
{
    const size_t bytes = SC_PAGE_ENTRIES * sc_kv_row_bytes(dtype, head_dim);
    uint8_t *k = malloc(bytes), *v = malloc(bytes);
    float x[SC_CPU_HEAD_DIM_MAX], y[SC_CPU_HEAD_DIM_MAX], bias[SC_PAGE_ENTRIES];
    for (uint32_t p = 0; p < n_pages; p++) {
        for (uint32_t h = 0; h < n_kv_heads; h++) {
            uint8_t *k_to = k, *v_to = v;
            for (uint32_t i = 0; i < SC_PAGE_ENTRIES; i++) {
                for (uint32_t d = 0; d < head_dim; d++) {
                    x[d] = rng_normal(r) * (float)(1 + i); /* scales differ from row to row */
                    y[d] = rng_normal(r) / (float)(1 + i);
                }
                k_to = pack_row(k_to, x, head_dim, dtype);
                v_to = pack_row(v_to, y, head_dim, dtype);
                bias[i] = logf(1.0f + (float)rng_below(r, 6));
            }
            assert_ok(a->ops->kv_unpack(a, pa, (const uint32_t[]){p}, 0, SC_PAGE_ENTRIES, h, k, v,
                                        bias, err));
            assert_ok(b->ops->kv_unpack(b, pb, (const uint32_t[]){p}, 0, SC_PAGE_ENTRIES, h, k, v,
                                        bias, err));
        }
    }
    free(k);
    free(v);
}

#endif
