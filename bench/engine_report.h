/* bench/engine_report.h - what bench-engine prints: a table on stdout, and JSON in a file. */
#ifndef SC_BENCH_ENGINE_REPORT_H
#define SC_BENCH_ENGINE_REPORT_H

#include <stdio.h>

#include "bench/engine_run.h"

/* What a group of rows shares. */
struct sc_report_group {
    const char *shape, *backend;
    uint64_t n_params;
    uint32_t n_threads, n_ranks, step_tokens;
    enum sc_dtype weight_dtype, kv_dtype;
    double read_bytes_per_s, matmul_flop_per_s; /* 0: not measured */
};

struct sc_report {
    FILE *json; /* or NULL */
    bool ops;   /* a line for each operation */
    uint32_t n_groups, n_rows;
};

void sc_report_group(struct sc_report *report, const struct sc_report_group *group);
void sc_report_row(struct sc_report *report, const struct sc_report_group *group,
                   const struct sc_run_row *row);
void sc_report_end(struct sc_report *report);

#endif
