/* daemon/inflate.h - compressed messages (gzip, deflate), with a limit.
 *
 * The core's own decompression has none: a message of 64 MiB can hold 64 GiB. So it is switched
 * off, and done here. Threads: a pure function.
 */
#ifndef SC_DAEMON_INFLATE_H
#define SC_DAEMON_INFLATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* zlib's or gzip's format, which one is seen from its head. On success the caller frees *ret_data.
 * SC_EFULL: more than limit_bytes; SC_EINVAL: malformed, cut off, or something follows. */
enum sc_status sc_inflate(const void *data, size_t len, size_t limit_bytes, uint8_t **ret_data,
                          size_t *ret_len, struct sc_err *err) SC_MUST_CHECK;

#endif
