#include "client/bench_report.h"

#include <inttypes.h>

double sc_share(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

static json_t *errors_json(const struct sc_load_result *r)
{
    json_t *object = json_object();
    for (int code = 0; code < SC_LOAD_CODES && object != NULL; code++) {
        if (r->errors[code] == 0)
            continue;
        if (json_object_set_new(object, sc_rpc_status_name(code),
                                json_integer((json_int_t)r->errors[code])) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

json_t *sc_load_json(struct sc_load_result *r)
{
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:f, s:i, s:I, s:I, s:I, s:f, s:I, s:I, "
        "s:f, s:f, s:f, s:o, s:o, s:o, s:o}",
        "started", (json_int_t)r->n_started, "completed", (json_int_t)r->n_completed, "cancelled",
        (json_int_t)r->n_cancelled, "deadlines", (json_int_t)r->n_deadlines, "expired",
        (json_int_t)r->n_expired, "interrupted", (json_int_t)r->n_interrupted, "failed",
        (json_int_t)r->n_failed, "errors", errors_json(r), "first_error", r->first_error.text,
        "wall_s", r->wall_s, "peak_streams", (int)r->peak_streams, "prompt_tokens",
        (json_int_t)r->prompt_tokens, "cached_tokens", (json_int_t)r->cached_tokens,
        "completion_tokens", (json_int_t)r->completion_tokens, "hit_rate",
        sc_share((double)r->cached_tokens, (double)r->prompt_tokens), "tokens_received",
        (json_int_t)r->tokens_received, "preemptions", (json_int_t)r->preemptions, "requests_per_s",
        sc_share((double)r->n_completed, r->wall_s), "prompt_tokens_per_s",
        sc_share((double)r->prompt_tokens, r->wall_s), "completion_tokens_per_s",
        sc_share((double)r->tokens_received, r->wall_s), "ttft_ms", sc_stats_json(&r->ttft),
        "gap_ms", sc_stats_json(&r->gap), "total_ms", sc_stats_json(&r->total), "past_deadline_ms",
        sc_stats_json(&r->past_deadline));
}

void sc_stats_print_head(FILE *out)
{
    (void)fprintf(out, "%-13s %7s %10s %10s %10s %10s\n", "ms", "n", "p50", "p90", "p99", "max");
}

void sc_stats_print_row(FILE *out, const char *name, struct sc_stats *s)
{
    (void)fprintf(out, "%-13s %7zu %10.1f %10.1f %10.1f %10.1f\n", name, s->n,
                  sc_stats_percentile_us(s, 500) / 1e3, sc_stats_percentile_us(s, 900) / 1e3,
                  sc_stats_percentile_us(s, 990) / 1e3, sc_stats_percentile_us(s, 1000) / 1e3);
}

void sc_load_print(FILE *out, struct sc_load_result *r)
{
    (void)fprintf(out,
                  "requests    %" PRIu64 " completed, %" PRIu64 " cancelled as asked, %" PRIu64
                  " failed in %.2f s (%.2f/s), at most %u at once\n",
                  r->n_completed, r->n_cancelled, r->n_failed, r->wall_s,
                  sc_share((double)r->n_completed, r->wall_s), r->peak_streams);
    if (r->n_deadlines > 0)
        (void)fprintf(out, "deadlines   %" PRIu64 " set, %" PRIu64 " ended there as asked\n",
                      r->n_deadlines, r->n_expired);
    if (r->n_interrupted > 0)
        (void)fprintf(out, "interrupted %" PRIu64 " that ran when the signal came\n",
                      r->n_interrupted);
    for (int code = 0; code < SC_LOAD_CODES; code++)
        if (r->errors[code] > 0)
            (void)fprintf(out, "errors      %" PRIu64 " %s\n", r->errors[code],
                          sc_rpc_status_name(code));
    (void)fprintf(out,
                  "tokens      %" PRIu64 " prompt (%.1f%% cached, %.1f/s), %" PRIu64
                  " generated (%.1f/s); %" PRIu64 " preemptions\n",
                  r->prompt_tokens,
                  100 * sc_share((double)r->cached_tokens, (double)r->prompt_tokens),
                  sc_share((double)r->prompt_tokens, r->wall_s), r->tokens_received,
                  sc_share((double)r->tokens_received, r->wall_s), r->preemptions);
    if (r->ttft.n_lost + r->gap.n_lost + r->total.n_lost > 0)
        (void)fprintf(out, "samples     %" PRIu64 " found no room and are not in the table\n",
                      r->ttft.n_lost + r->gap.n_lost + r->total.n_lost);
    sc_stats_print_head(out);
    sc_stats_print_row(out, "TTFT", &r->ttft);
    sc_stats_print_row(out, "token gap", &r->gap);
    sc_stats_print_row(out, "end to end", &r->total);
    if (r->n_deadlines > 0)
        sc_stats_print_row(out, "past deadline", &r->past_deadline);
}

enum sc_status sc_load_check(const struct sc_load_result *r, struct sc_err *err)
{
    if (r->n_failed == 0)
        return SC_OK;
    return sc_fail(err, SC_EPEER, "%" PRIu64 " of %" PRIu64 " requests failed, the first with %s",
                   r->n_failed, r->n_started, r->first_error.text);
}
