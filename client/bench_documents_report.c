#include "client/bench_documents.h"
#include "client/bench_report.h"
#include "client/term.h"

#include <inttypes.h>

void sc_documents_result_fini(struct sc_documents_result *result)
{
    sc_stats_fini(&result->ingest);
    sc_load_result_fini(&result->cold);
    sc_load_result_fini(&result->warm);
}

json_t *sc_documents_json(struct sc_documents_result *r)
{
    json_t *ingest =
        json_pack("{s:i, s:i, s:s, s:I, s:f, s:f, s:f, s:o}", "documents", (int)r->n_put, "failed",
                  (int)r->n_put_failed, "first_error", r->first_put_error.text, "tokens",
                  (json_int_t)r->tokens, "seconds", r->ingest_s, "tokens_per_s",
                  sc_share((double)r->tokens, r->ingest_s), "ratio",
                  sc_share((double)r->physical_entries, (double)r->exact_entries), "ms",
                  sc_stats_json(&r->ingest));
    return json_pack("{s:o, s:{s:i, s:i}, s:f, s:I, s:f, s:f, s:o, s:o}", "ingest", ingest,
                     "resident", "after_ingest", (int)r->n_resident_first, "at_end",
                     (int)r->n_resident_last, "bytes_per_document", r->bytes_per_document,
                     "peak_bytes", (json_int_t)r->peak_bytes, "hit_rate",
                     sc_share((double)r->warm.cached_tokens, (double)r->warm.prompt_tokens),
                     "qa_per_s", sc_share((double)r->warm.n_completed, r->warm.wall_s), "cold",
                     sc_load_json(&r->cold), "warm", sc_load_json(&r->warm));
}

void sc_documents_print(FILE *out, struct sc_documents_result *r)
{
    char each[SC_BYTES_TEXT_BYTES], peak[SC_BYTES_TEXT_BYTES];
    (void)fprintf(out,
                  "documents   %u put in %.2f s, %u failed; %u ready after that, %u at the end\n",
                  r->n_put, r->ingest_s, r->n_put_failed, r->n_resident_first, r->n_resident_last);
    (void)fprintf(
        out, "ingest      %" PRIu64 " tokens (%.0f/s), ratio %.3f; %s a document, peak %s\n",
        r->tokens, sc_share((double)r->tokens, r->ingest_s),
        sc_share((double)r->physical_entries, (double)r->exact_entries),
        sc_bytes_text(r->bytes_per_document, each), sc_bytes_text((double)r->peak_bytes, peak));
    (void)fprintf(out,
                  "questions   %" PRIu64 " answered in %.2f s (%.2f/s), %" PRIu64
                  " failed; %.1f%% of prompt tokens cached\n",
                  r->warm.n_completed, r->warm.wall_s,
                  sc_share((double)r->warm.n_completed, r->warm.wall_s), r->warm.n_failed,
                  100 * sc_share((double)r->warm.cached_tokens, (double)r->warm.prompt_tokens));
    if (r->cold.cached_tokens > 0)
        (void)fprintf(out,
                      "warning     %.1f%% of the cold prompts' tokens were cached: take another "
                      "--seed\n",
                      100 * sc_share((double)r->cold.cached_tokens, (double)r->cold.prompt_tokens));
    sc_stats_print_head(out);
    sc_stats_print_row(out, "ingest", &r->ingest);
    sc_stats_print_row(out, "TTFT cold", &r->cold.ttft);
    sc_stats_print_row(out, "TTFT warm", &r->warm.ttft);
    sc_stats_print_row(out, "token gap", &r->warm.gap);
    sc_stats_print_row(out, "answer", &r->warm.total);
}

enum sc_status sc_documents_check(const struct sc_documents_result *r, struct sc_err *err)
{
    if (r->n_put_failed > 0)
        return sc_fail(err, SC_EPEER, "%u of %u documents were not put, the first for %s",
                       r->n_put_failed, r->n_put + r->n_put_failed, r->first_put_error.text);
    enum sc_status st = sc_load_check(&r->cold, err);
    return st == SC_OK ? sc_load_check(&r->warm, err) : st;
}
