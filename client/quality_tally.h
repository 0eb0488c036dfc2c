/* client/quality_tally.h - what `semcache bench quality` found, by task, length and depth, as JSON
 * and as tables.
 *
 * Memory: grows to SC_QUALITY_CELLS_MAX cells; answers and failures are JSON. Threads: one owner.
 */
#ifndef SC_CLIENT_QUALITY_TALLY_H
#define SC_CLIENT_QUALITY_TALLY_H

#include <jansson.h>
#include <stdio.h>

#include "client/quality_suite.h"
#include "semanticache/v1/inference.pb-c.h"

#define SC_QUALITY_CELLS_MAX 4096u

/* Of the answer with the exact cache, and of the next tokens on its way. */
struct sc_quality_against {
    const char *text; /* NULL: not asked for */
    size_t text_len;
    uint32_t n_tokens; /* of that answer, the one that ended it included */
    uint32_t n_agree;  /* those that the other cache holds likeliest, too */
    double kl;         /* summed over the tokens */
    uint64_t kv_bytes; /* 0: not known */
};

struct sc_quality_answer {
    const struct sc_suite_document *document;
    uint32_t question; /* index */
    const char *text;
    size_t text_len;
    const Semanticache__V1__Final *final;
    uint64_t kv_bytes; /* of the pages at the end, on all ranks; 0: not known */
    struct sc_quality_against exact;
};

/* Sums over questions. */
struct sc_quality_sums {
    uint64_t n_asked, n_right;
    uint64_t n_exact_right, n_both_right; /* with the exact cache, and with both */
    uint64_t physical_entries, exact_entries;
    double shares; /* of entries kept, one a question */
    uint64_t kv_bytes, exact_kv_bytes;
    uint64_t prompt_tokens, cached_tokens;
    uint64_t n_tokens, n_agree;
    double kl;
};

struct sc_quality_cell {
    char task[SC_SUITE_NAME_MAX + 1];
    uint32_t length;
    int32_t depth; /* -1: all over the document */
    struct sc_quality_sums sums;
};

struct sc_quality_tally {
    bool against_exact;
    struct sc_quality_cell *cells; /* in the order in which they came */
    uint32_t n_cells, room;
    struct sc_quality_sums all;
    json_t *answers, *failures;
};

enum sc_status sc_quality_tally_init(struct sc_quality_tally *tally, bool against_exact,
                                     struct sc_err *err) SC_MUST_CHECK;
void sc_quality_tally_fini(struct sc_quality_tally *tally); /* zeroed is fine */

/* Judges and counts. answer->final has usage and receipt, or it is SC_EFORMAT. */
enum sc_status sc_quality_tally_add(struct sc_quality_tally *tally,
                                    const struct sc_quality_answer *answer,
                                    struct sc_err *err) SC_MUST_CHECK;

/* {"total", "tasks": one a task and length, "depths": one a depth, "cells", "answers", "failures"};
 * NULL: no memory. */
json_t *sc_quality_json(const struct sc_quality_tally *tally);
void sc_quality_print(FILE *out, const struct sc_quality_tally *tally);

#endif
