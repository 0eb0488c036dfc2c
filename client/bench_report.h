/* client/bench_report.h - what a load run measured, as JSON and as a table.
 *
 * Threads: pure apart from the stream.
 */
#ifndef SC_CLIENT_BENCH_REPORT_H
#define SC_CLIENT_BENCH_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "client/bench_load.h"

/* requests, tokens, rates, errors by status, ttft_ms, gap_ms, total_ms, past_deadline_ms. NULL: no
 * memory. */
json_t *sc_load_json(struct sc_load_result *result);

/* Several lines; at the end the table of times. */
void sc_load_print(FILE *out, struct sc_load_result *result);

/* The table's head and a row of it, in milliseconds. */
void sc_stats_print_head(FILE *out);
void sc_stats_print_row(FILE *out, const char *name, struct sc_stats *stats);

/* SC_EPEER when requests failed: how many, and what the first one's server said. */
enum sc_status sc_load_check(const struct sc_load_result *result, struct sc_err *err) SC_MUST_CHECK;

/* part / whole, 0 for a whole of 0. */
double sc_share(double part, double whole);

#endif
