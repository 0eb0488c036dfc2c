/* bench/engine_options.h - what bench-engine is asked to measure. */
#ifndef SC_BENCH_ENGINE_OPTIONS_H
#define SC_BENCH_ENGINE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/backend.h"

#define SC_BENCH_LIST_MAX 16u

struct sc_bench_list {
    uint32_t v[SC_BENCH_LIST_MAX], n;
};

struct sc_bench_options {
    struct sc_bench_list prefill, depths, seqs, threads, ranks;
    const char *shapes, *backend, *json;
    bool exact, compressed, ops, pin, plain_weights, one_document, exact_layers, no_limits,
        fixed_thresholds, budget;
    bool one_device, strict;
    int isa; /* -1: the backend's choice */
    float ratio;
    float temperature, top_p; /* of decoded tokens; temperature 0: greedy */
    uint32_t step_tokens, repeats, decode_steps;
    uint64_t memory_mib;
    enum sc_math math;
    enum sc_dtype weight_dtype, kv_dtype;
};

struct sc_bench_options sc_bench_options_default(void);
/* Negative: run; else the exit code, and all has been said. */
int sc_bench_options_read(int argc, char **argv, struct sc_bench_options *o);

#endif
