/* client/term.h - text, colours and a progress bar for people and for pipes.
 *
 * Threads: one owner.
 */
#ifndef SC_CLIENT_TERM_H
#define SC_CLIENT_TERM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"
#include "base/utf8.h"

/* A stream of model text. To a terminal go whole characters only, and control characters and bytes
 * that are not UTF-8 as U+FFFD: a model must not steer a terminal. To a pipe or a file goes every
 * byte as it came. */
struct sc_text_out {
    FILE *file;
    bool terminal;
    bool at_line_start; /* nothing since the last newline */
    size_t n_held;      /* bytes of a character that is not whole yet */
    char held[SC_UTF8_BYTES_MAX];
};

void sc_text_out_init(struct sc_text_out *out, FILE *file, bool terminal);
/* Writes and flushes. SC_EIO: the reader went away or the disk is full. */
enum sc_status sc_text_out_write(struct sc_text_out *out, const char *text, size_t len,
                                 struct sc_err *err) SC_MUST_CHECK;
/* What was held back, then a newline where a person would miss it (terminals only). */
enum sc_status sc_text_out_finish(struct sc_text_out *out, struct sc_err *err) SC_MUST_CHECK;

/* One line that is drawn over itself. Nothing is written unless `terminal`. */
struct sc_progress {
    FILE *file;
    bool terminal;
    bool shown;
};

void sc_progress_show(struct sc_progress *progress, const char *what, uint64_t done,
                      uint64_t total);
/* Any text without control characters. */
void sc_progress_line(struct sc_progress *progress, const char *text);
void sc_progress_clear(struct sc_progress *progress);

/* 256-colour escapes; empty strings when colours are off. */
const char *sc_term_bold(bool colors);
const char *sc_term_dim(bool colors);
const char *sc_term_reset(bool colors);

/* "1234567 B" in a unit that leaves one to four digits, as "1.2 MiB". */
#define SC_BYTES_TEXT_BYTES 16
const char *sc_bytes_text(double bytes, char buffer[SC_BYTES_TEXT_BYTES]);

#endif
