/* model/json.h - reading the JSON files of a model directory, over jansson.
 *
 * Files are read whole, up to a limit. Objects are read through a cursor: after the first bad field
 * every read is a no-op that returns the default, and the caller checks `status` once. Duplicate
 * keys, NaN and Infinity are refused by the parser, with line and column. Memory: json_t references
 * belong to the caller. Threads: no shared state.
 */
#ifndef SC_MODEL_JSON_H
#define SC_MODEL_JSON_H

#include <stdbool.h>

#include <jansson.h>

#include "base/status.h"

#define SC_MODEL_PATH_BYTES 4096u

/* A regular file of dir (dir NULL: name is a path), at most limit bytes. The caller frees
 * *ret_bytes, which is NUL-terminated beyond its length. SC_ENOENT when there is none. */
enum sc_status sc_file_read(const char *dir, const char *name, size_t limit, char **ret_bytes,
                            size_t *ret_len, struct sc_err *err) SC_MUST_CHECK;

/* The root must be an object. what: the file's name for messages. */
enum sc_status sc_json_parse(const char *text, size_t len, const char *what, json_t **ret_root,
                             struct sc_err *err) SC_MUST_CHECK;

/* For messages: `"text"`, `12`, `true`, `an object`, ...; long strings are cut. */
#define SC_JSON_SHOW_BYTES 64
const char *sc_json_show(const json_t *value, char buf[SC_JSON_SHOW_BYTES]);

struct sc_json_cursor {
    const json_t *obj;
    const char *what;      /* "config.json" or "config.json: rope_scaling" */
    enum sc_status status; /* SC_OK until the first bad field */
    struct sc_err *err;
};

/* The member, or NULL when absent, null, or the cursor failed. */
const json_t *sc_json_get(const struct sc_json_cursor *c, const char *field);

/* Integers in [min, max]; strings and reals such as 3.0 are refused. Without _or the field is
 * required; with it absent and null give dflt, which is not checked. */
int64_t sc_json_int(struct sc_json_cursor *c, const char *field, int64_t min, int64_t max);
int64_t sc_json_int_or(struct sc_json_cursor *c, const char *field, int64_t min, int64_t max,
                       int64_t dflt);
/* Numbers in [min, max]; integers are fine. */
double sc_json_num(struct sc_json_cursor *c, const char *field, double min, double max);
double sc_json_num_or(struct sc_json_cursor *c, const char *field, double min, double max,
                      double dflt);
bool sc_json_bool_or(struct sc_json_cursor *c, const char *field, bool dflt);
/* Lives as long as the object. */
const char *sc_json_str_or(struct sc_json_cursor *c, const char *field, const char *dflt);

/* Fails the cursor with "what: field is value, fmt...". fmt names the limit. */
void sc_json_refuse(struct sc_json_cursor *c, enum sc_status st, const char *field, const char *fmt,
                    ...) SC_PRINTF(4, 5);

#endif
