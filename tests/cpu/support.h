/* tests/cpu/support.h - what the tests of the CPU backend share: seeded numbers, backends of every
 * instruction set of this machine, and page tables filled with garbage. */
#ifndef SC_TESTS_CPU_SUPPORT_H
#define SC_TESTS_CPU_SUPPORT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"

#define NAN_KEY ((float)NAN)

#define FOR_EACH_ISA(isa)                                                                          \
    for (enum sc_cpu_isa isa = SC_CPU_ISA_PLAIN; isa <= sc_cpu_isa_best(); isa++)

#define assert_ok(call)                                                                            \
    do {                                                                                           \
        struct sc_err err_ = SC_ERR_INIT;                                                          \
        struct sc_err *err = &err_;                                                                \
        enum sc_status st_ = (call);                                                               \
        if (st_ != SC_OK)                                                                          \
            fail_msg("%s: %s", sc_status_name(st_), err_.text);                                    \
    } while (0)

#define assert_fails(status, call)                                                                 \
    do {                                                                                           \
        struct sc_err err_ = SC_ERR_INIT;                                                          \
        struct sc_err *err = &err_;                                                                \
        enum sc_status st_ = (call);                                                               \
        if (st_ != (status) || err_.text[0] == 0)                                                  \
            fail_msg("%s instead of %s: %s", sc_status_name(st_), sc_status_name(status),          \
                     err_.text);                                                                   \
    } while (0)

struct rng {
    uint64_t state;
};

static inline uint32_t rng_u32(struct rng *r)
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static inline uint32_t rng_below(struct rng *r, uint32_t n)
{
    return (uint32_t)(((uint64_t)rng_u32(r) * n) >> 32);
}

/* About normal, variance 1. */
static inline float rng_normal(struct rng *r)
{
    double sum = 0.0;
    for (int i = 0; i < 12; i++)
        sum += rng_u32(r) * 0x1p-32;
    return (float)(sum - 6.0);
}

static inline float *random_floats(struct rng *r, size_t n)
{
    float *x = malloc((n + 1) * sizeof(float));
    for (size_t i = 0; i < n; i++)
        x[i] = rng_normal(r);
    return x;
}

static inline float to_dtype(float x, enum sc_dtype dtype)
{
    return dtype == SC_DTYPE_BF16 ? sc_bf16_to_f32(sc_f32_to_bf16(x)) : x;
}

/* A row of a KV head as a pool of that dtype keeps it. */
static inline void to_kept_row(float *x, uint32_t n, enum sc_dtype dtype)
{
    float largest = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        x[i] = to_dtype(x[i], dtype);
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    }
    const float scale = largest / 127.0f;
    for (uint32_t i = 0; dtype == SC_DTYPE_I8 && i < n; i++)
        x[i] = scale > 0.0f ? scale * (float)lrintf(x[i] / scale) : 0.0f;
}

/* What pages may keep. */
static const enum sc_dtype kv_dtypes[3] = {SC_DTYPE_F32, SC_DTYPE_BF16, SC_DTYPE_I8};

static inline struct sc_backend *open_backend(enum sc_cpu_isa isa, uint32_t n_threads)
{
    struct sc_backend_opts opts = {.rank = 0, .n_ranks = 1, .n_threads = n_threads};
    struct sc_backend *be = NULL;
    assert_ok(sc_cpu_backend_open_isa(&opts, isa, &be, err));
    return be;
}

/* A pool in which every entry of every page is NaN. */
static inline struct sc_kv_pool *open_garbage_pool(struct sc_backend *be, uint32_t n_kv_heads,
                                                   uint32_t head_dim, enum sc_dtype dtype,
                                                   uint32_t n_pages)
{
    struct sc_kv_spec spec = {n_kv_heads, head_dim, dtype};
    struct sc_kv_pool *pool = NULL;
    float junk[SC_CPU_HEAD_DIM_MAX];
    for (uint32_t d = 0; d < SC_CPU_HEAD_DIM_MAX; d++)
        junk[d] = NAN_KEY;
    assert_ok(be->ops->kv_open(be, &spec, n_pages, &pool, err));
    for (uint32_t page = 0; page < n_pages; page++) {
        for (uint32_t slot = 0; slot < SC_PAGE_ENTRIES; slot++) {
            for (uint32_t h = 0; h < n_kv_heads; h++)
                assert_ok(be->ops->kv_write(be, pool, page, slot, h, junk, junk, NAN_KEY, err));
        }
    }
    return pool;
}

/* Says which instruction sets this machine cannot run, so that their absence is seen. */
static inline void announce_isas(void)
{
    for (enum sc_cpu_isa isa = SC_CPU_ISA_PLAIN; isa < SC_CPU_ISA_COUNT; isa++) {
        if (isa > sc_cpu_isa_best())
            printf("[  SKIPPED ] instruction set %s: not on this machine\n", sc_cpu_isa_name(isa));
    }
}

#endif
