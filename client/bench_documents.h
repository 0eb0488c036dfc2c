/* client/bench_documents.h - what `semcache bench documents` measures, as JSON and for a person.
 *
 * Threads: pure apart from the stream.
 */
#ifndef SC_CLIENT_BENCH_DOCUMENTS_H
#define SC_CLIENT_BENCH_DOCUMENTS_H

#include <jansson.h>
#include <stdio.h>

#include "client/bench_load.h"

struct sc_documents_result {
    uint32_t n_put, n_put_failed;
    struct sc_err first_put_error;
    struct sc_stats ingest; /* one document each */
    double ingest_s;        /* all of them */
    uint64_t tokens;        /* as the server counts them */
    uint64_t generated_tokens;
    uint64_t pages; /* of each rank */
    uint64_t exact_entries, physical_entries;
    double bytes_per_document; /* pages on all ranks */
    uint64_t peak_bytes;       /* of pages in use, cached ones included, between the steps */
    uint32_t n_resident_first, n_resident_last; /* READY after the puts, and at the end */
    struct sc_load_result cold, warm;
};

void sc_documents_result_fini(struct sc_documents_result *result);
json_t *sc_documents_json(struct sc_documents_result *result); /* NULL: no memory */
void sc_documents_print(FILE *out, struct sc_documents_result *result);

/* SC_EPEER when a document was not put or a request failed. */
enum sc_status sc_documents_check(const struct sc_documents_result *result,
                                  struct sc_err *err) SC_MUST_CHECK;

#endif
