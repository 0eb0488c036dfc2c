/* client/quality_suite.h - suites of documents and questions: JSON Lines, one document a line.
 *
 *     {"id", "task", "length", "depth", "document", "questions": [{"q", "a": ["..."], "depth"}]}
 *
 * bench/quality_suites.py writes them. A question without a depth has the document's. Other keys
 * are ignored. Memory: one line at a time; what is parsed lives in the caller's arena. Threads: one
 * owner.
 */
#ifndef SC_CLIENT_QUALITY_SUITE_H
#define SC_CLIENT_QUALITY_SUITE_H

#include <stdbool.h>
#include <stdio.h>

#include "client/prompt.h"

#define SC_SUITE_QUESTIONS_MAX 4096u /* of a document */
#define SC_SUITE_NAME_MAX      127u  /* bytes of an id or a task */

struct sc_suite_question {
    const char *text;
    const char *wanted; /* the answers with " and " between them */
    int32_t depth;      /* tenths of the document in front of what is asked for; -1: all over it */
};

struct sc_suite_document {
    const char *id, *task;
    uint32_t length; /* in tokens, as whoever made the suite counted them */
    struct sc_text text;
    const struct sc_suite_question *questions;
    uint32_t n_questions;
};

/* SC_EFORMAT, SC_EINVAL: what is wrong with the line, without its place. */
enum sc_status sc_suite_parse(struct sc_arena *arena, const char *json, size_t len,
                              struct sc_suite_document *ret_document,
                              struct sc_err *err) SC_MUST_CHECK;

struct sc_suite {
    const char *path; /* borrowed */
    FILE *file;
    char *line;
    size_t line_room;
    uint64_t n_lines;
};

enum sc_status sc_suite_open(const char *path, struct sc_suite *ret_suite,
                             struct sc_err *err) SC_MUST_CHECK;
void sc_suite_close(struct sc_suite *suite); /* zeroed is fine */

/* *ret_any is false at the end of the file. Messages begin with "PATH:LINE: ". */
enum sc_status sc_suite_next(struct sc_suite *suite, struct sc_arena *arena,
                             struct sc_suite_document *ret_document, bool *ret_any,
                             struct sc_err *err) SC_MUST_CHECK;

#endif
