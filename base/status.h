/* base/status.h - the one result type of every function that can fail.
 *
 * A function that can fail returns enum sc_status and, last, takes a struct sc_err that carries a
 * sentence for a person: what was wrong, its value and the limit. Outputs are untouched on failure.
 * Threads: values, no shared state.
 */
#ifndef SC_BASE_STATUS_H
#define SC_BASE_STATUS_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#define SC_MUST_CHECK         __attribute__((warn_unused_result))
#define SC_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))

/* name, text for a person. The daemon maps these to gRPC codes in one table. */
#define SC_STATUS_LIST(X)                                                                          \
    X(SC_OK, "ok")                                                                                 \
    X(SC_EINVAL, "invalid argument")                                                               \
    X(SC_ERANGE, "out of range")                                                                   \
    X(SC_ENOTSUP, "not supported")                                                                 \
    X(SC_ENOENT, "not found")                                                                      \
    X(SC_EEXIST, "already exists")                                                                 \
    X(SC_EFULL, "full")                                                                            \
    X(SC_ENOMEM, "out of memory")                                                                  \
    X(SC_EIO, "input/output error")                                                                \
    X(SC_EFORMAT, "malformed data")                                                                \
    X(SC_ETIMEDOUT, "deadline exceeded")                                                           \
    X(SC_ECANCELED, "cancelled")                                                                   \
    X(SC_EUNAVAIL, "unavailable")                                                                  \
    X(SC_EDEVICE, "device error")                                                                  \
    X(SC_EPEER, "peer lost")                                                                       \
    X(SC_EDIVERGED, "ranks disagree")                                                              \
    X(SC_EPERM, "permission denied")                                                               \
    X(SC_EUNAUTH, "not authenticated")                                                             \
    X(SC_EINTERNAL, "internal error")

enum sc_status {
#define SC_STATUS_ENUM(name, text) name,
    SC_STATUS_LIST(SC_STATUS_ENUM)
#undef SC_STATUS_ENUM
        SC_STATUS_COUNT
};

#define SC_ERR_TEXT_BYTES 384

struct sc_err {
    enum sc_status status;
    char text[SC_ERR_TEXT_BYTES]; /* NUL-terminated, no newline; cut between characters when longer
                                   */
};

#define SC_ERR_INIT                                                                                \
    {                                                                                              \
        SC_OK,                                                                                     \
        {                                                                                          \
            0                                                                                      \
        }                                                                                          \
    }

const char *sc_status_name(enum sc_status st); /* "SC_EINVAL"; never NULL */
const char *sc_status_text(enum sc_status st); /* "invalid argument"; never NULL */

/* Fills err (may be NULL) unless it already holds an error, and returns st, so that a caller writes
 * `return sc_fail(err, SC_EINVAL, "heads: %d, limit %d", n, max);`. Never pass SC_OK. */
enum sc_status sc_fail(struct sc_err *err, enum sc_status st, const char *fmt, ...) SC_PRINTF(3, 4);
enum sc_status sc_vfail(struct sc_err *err, enum sc_status st, const char *fmt, va_list ap);

/* Puts "prefix: " before err's text; keeps the status. For callers that know the file's name. */
enum sc_status sc_err_prefix(struct sc_err *err, enum sc_status st, const char *fmt, ...)
    SC_PRINTF(3, 4);

void sc_err_clear(struct sc_err *err);

/* For what only our own bug can break; on in every build. Prints and aborts. */
void sc_assert_failed(const char *expr, const char *file, int line) __attribute__((noreturn));
#define SC_ASSERT(expr) ((expr) ? (void)0 : sc_assert_failed(#expr, __FILE__, __LINE__))

#define SC_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
