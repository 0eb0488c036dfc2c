/* client/prompt.h - from files and options to the bytes of a prompt.
 *
 * Memory: everything lives in the caller's arena.
 * Threads: pure apart from reading files.
 */
#ifndef SC_CLIENT_PROMPT_H
#define SC_CLIENT_PROMPT_H

#include "base/arena.h"

#define SC_INPUT_BYTES_MAX  (64u << 20)
#define SC_FORMAT_STOPS_MAX 16u

struct sc_text {
    const char *bytes; /* NUL-terminated behind len */
    size_t len;
};

/* path "-" is stdin. SC_EFORMAT: not UTF-8; SC_ERANGE: longer than SC_INPUT_BYTES_MAX. */
enum sc_status sc_prompt_read(struct sc_arena *arena, const char *path, struct sc_text *ret_text,
                              struct sc_err *err) SC_MUST_CHECK;

/* SC_EFORMAT unless it is UTF-8; what names it in the message. */
enum sc_status sc_prompt_check(const char *what, const char *text, size_t len,
                               struct sc_err *err) SC_MUST_CHECK;

/* How `ask` puts a document and a question together. */
struct sc_prompt_format {
    const char *question_prefix;
    const char *answer_prefix;
    const char *stops[SC_FORMAT_STOPS_MAX];
    uint32_t n_stops;
};

void sc_prompt_format_default(struct sc_prompt_format *ret_format);

/* Replaces what the JSON object names: question_prefix, answer_prefix, stop. Any other key is
 * SC_EINVAL, as a misspelt one would be lost in silence. */
enum sc_status sc_prompt_format_parse(struct sc_arena *arena, const char *json, size_t len,
                                      struct sc_prompt_format *format,
                                      struct sc_err *err) SC_MUST_CHECK;

/* document, question_prefix, question, answer_prefix. Newlines at the document's end, which text
 * files have and texts do not, are left out; nothing else is trimmed and nothing added. */
enum sc_status sc_prompt_build(struct sc_arena *arena, const struct sc_prompt_format *format,
                               const struct sc_text *document, const char *question,
                               struct sc_text *ret_prompt, struct sc_err *err) SC_MUST_CHECK;

#endif
