/* base/secret.h - reading a file that others must not see: passwords, keys.
 *
 * Errors name the file and never show what it holds. Memory: the caller's, and the caller's to
 * wipe. Threads: any.
 */
#ifndef SC_BASE_SECRET_H
#define SC_BASE_SECRET_H

#include <stddef.h>

#include "base/status.h"

/* The bytes of the file into buf [max + 1], with a 0 behind them. what: for the message, "the
 * keys". SC_ENOENT; SC_EIO: it cannot be read, or is no file; SC_EPERM: others may read or write
 * it; SC_EINVAL: longer than max. On failure nothing of it is left in buf. */
enum sc_status sc_secret_read(const char *path, const char *what, char *buf, size_t max,
                              size_t *ret_len, struct sc_err *err) SC_MUST_CHECK;

#endif
