/* base/utf8.h - whole characters of UTF-8 (RFC 3629: no surrogates, no overlong forms), wherever a
 * text was cut.
 *
 * Threads: pure functions.
 */
#ifndef SC_BASE_UTF8_H
#define SC_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

#define SC_UTF8_BYTES_MAX   4u
#define SC_UTF8_REPLACEMENT "\xEF\xBF\xBD"

/* Length of the character at text, 1..4. 0: it is cut short by len, so far valid. -1: not UTF-8
 * (the first byte is to be skipped). len >= 1. */
int sc_utf8_char_len(const char *text, size_t len);

/* Bytes of text up to its last whole character; the rest (at most 3) may become one. Bytes that
 * never will are counted as whole. */
size_t sc_utf8_whole(const char *text, size_t len);

/* True when all of text is UTF-8; else *ret_at is the offset of the first byte that is not. */
bool sc_utf8_valid(const char *text, size_t len, size_t *ret_at);

/* The same as a length: of the longest valid prefix that ends at a character. */
size_t sc_utf8_valid_prefix(const void *text, size_t len);

/* A malloc'ed copy, NUL-terminated, with U+FFFD for each byte that is not UTF-8. The caller frees
 * it. NULL: no memory. */
char *sc_utf8_clean(const char *text, size_t len, size_t *ret_len);

#endif
