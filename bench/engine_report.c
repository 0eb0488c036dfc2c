#include "bench/engine_report.h"

static const char *kv_name(enum sc_kv_mode kv)
{
    return kv == SC_KV_EXACT ? "exact" : "compressed";
}

static void end_group(struct sc_report *r)
{
    if (r->json != NULL && r->n_groups > 0)
        (void)fprintf(r->json, "]}");
}

/* Names are of our own making or a directory's; quotes and backslashes end them. */
static void json_name(FILE *to, const char *name)
{
    for (; *name != '\0'; name++)
        if (*name != '"' && *name != '\\' && (unsigned char)*name >= ' ')
            (void)fputc(*name, to);
}

void sc_report_group(struct sc_report *r, const struct sc_report_group *g)
{
    (void)printf("\n%s (%.1f M parameters), %s; %u rank(s) of %u thread(s), weights %s, cache %s\n",
                 g->shape, 1e-6 * (double)g->n_params, g->backend, g->n_ranks, g->n_threads,
                 sc_dtype_name(g->weight_dtype), sc_dtype_name(g->kv_dtype));
    if (g->read_bytes_per_s > 0.0)
        (void)printf("limits: read %.1f GB/s, dense product %.1f GFLOP/s\n",
                     1e-9 * g->read_bytes_per_s, 1e-9 * g->matmul_flop_per_s);
    (void)printf("%-7s %-10s %6s %4s %10s %10s %19s %6s %9s %8s %5s %8s %5s %6s\n", "test", "kv",
                 "tokens", "seqs", "tokens/s", "ms", "min..max", "kept", "MiB/seq", "GB/s", "%",
                 "GFLOP/s", "%", "gsc %");
    if (r->json != NULL) {
        end_group(r);
        (void)fprintf(r->json, "%s{\"shape\":\"", r->n_groups == 0 ? "[" : ",\n");
        json_name(r->json, g->shape);
        (void)fprintf(r->json, "\",\"backend\":\"");
        json_name(r->json, g->backend);
        (void)fprintf(r->json,
                      "\",\"parameters\":%llu,\"threads\":%u,\"ranks\":%u,\"step_tokens\":%u,"
                      "\"weights\":\"%s\",\"kv_dtype\":\"%s\",\"read_gb_per_s\":%.3f,"
                      "\"matmul_gflop_per_s\":%.3f,\"rows\":[",
                      (unsigned long long)g->n_params, g->n_threads, g->n_ranks, g->step_tokens,
                      sc_dtype_name(g->weight_dtype), sc_dtype_name(g->kv_dtype),
                      1e-9 * g->read_bytes_per_s, 1e-9 * g->matmul_flop_per_s);
    }
    r->n_groups++;
    r->n_rows = 0;
}

static void print_share(double part, double whole)
{
    if (whole > 0.0 && part > 0.0)
        (void)printf(" %5.1f", 100.0 * part / whole);
    else
        (void)printf(" %5s", "-");
}

static void print_ops(const struct sc_run_row *row)
{
    double rest = row->mean_s;
    for (uint32_t op = 0; op < SC_OP_COUNT; op++) {
        rest -= row->ops.seconds[op];
        if (row->ops.calls[op] > 0)
            (void)printf("        %-12s %10.3f ms %5.1f %%\n", sc_op_name((enum sc_op)op),
                         1e3 * row->ops.seconds[op], 100.0 * row->ops.seconds[op] / row->mean_s);
    }
    (void)printf("        %-12s %10.3f ms %5.1f %%\n", "rest", 1e3 * rest,
                 100.0 * rest / row->mean_s);
}

static void json_row(struct sc_report *r, const struct sc_run_row *row)
{
    (void)fprintf(
        r->json,
        "%s\n{\"test\":\"%s\",\"kv\":\"%s\",\"tokens\":%u,\"seqs\":%u,"
        "\"tokens_per_s\":%.4f,\"median_s\":%.9f,\"mean_s\":%.9f,\"min_s\":%.9f,\"max_s\":%.9f,"
        "\"kept\":%.5f,\"kv_bytes_per_seq\":%.0f,\"bytes\":%.0f,\"flop\":%.0f,"
        "\"compress_s\":%.9f",
        r->n_rows > 0 ? "," : "", row->decode ? "decode" : "prefill", kv_name(row->kv),
        row->n_tokens, row->n_seqs, row->tokens_per_s, row->median_s, row->mean_s, row->min_s,
        row->max_s, row->kept, row->kv_bytes, row->bytes, row->flop, row->compress_s);
    if (r->ops) {
        (void)fprintf(r->json, ",\"ops_s\":{");
        for (uint32_t op = 0; op < SC_OP_COUNT; op++)
            (void)fprintf(r->json, "%s\"%s\":%.9f", op > 0 ? "," : "", sc_op_name((enum sc_op)op),
                          row->ops.seconds[op]);
        (void)fprintf(r->json, "}");
    }
    (void)fprintf(r->json, "}");
}

void sc_report_row(struct sc_report *r, const struct sc_report_group *g,
                   const struct sc_run_row *row)
{
    char range[32];
    (void)snprintf(range, sizeof(range), "%.2f..%.2f", 1e3 * row->min_s, 1e3 * row->max_s);
    (void)printf("%-7s %-10s %6u %4u %10.1f %10.2f %19s %6.3f %9.1f",
                 row->decode ? "decode" : "prefill", kv_name(row->kv), row->n_tokens, row->n_seqs,
                 row->tokens_per_s, 1e3 * row->median_s, range, row->kept,
                 row->kv_bytes / 1048576.0);
    if (row->bytes > 0.0)
        (void)printf(" %8.2f", 1e-9 * row->bytes / row->median_s);
    else
        (void)printf(" %8s", "-");
    print_share(row->bytes / row->median_s, g->read_bytes_per_s);
    (void)printf(" %8.1f", 1e-9 * row->flop / row->median_s);
    print_share(row->flop / row->median_s, g->matmul_flop_per_s);
    print_share(row->compress_s, row->mean_s);
    (void)printf("\n");
    if (r->ops)
        print_ops(row);
    if (r->json != NULL)
        json_row(r, row);
    (void)fflush(stdout);
    r->n_rows++;
}

void sc_report_end(struct sc_report *r)
{
    if (r->json == NULL)
        return;
    end_group(r);
    (void)fprintf(r->json, "%s]\n", r->n_groups == 0 ? "[" : "");
}
