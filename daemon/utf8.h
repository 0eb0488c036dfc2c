/* daemon/utf8.h - is a byte string valid UTF-8 (RFC 3629: no surrogates, no overlong forms)?
 *
 * Threads: pure function.
 */
#ifndef SC_DAEMON_UTF8_H
#define SC_DAEMON_UTF8_H

#include <stddef.h>

/* Length of the longest valid prefix that ends at a character: len when all is valid. */
size_t sc_utf8_valid_prefix(const void *text, size_t len);

#endif
