/* daemon/symbols.h - finds files and symbols in a serialised FileDescriptorSet, for reflection.
 *
 * Memory: an index over the caller's bytes, which must outlive it. Threads: read-only after open.
 */
#ifndef SC_DAEMON_SYMBOLS_H
#define SC_DAEMON_SYMBOLS_H

#include "base/status.h"

#define SC_SYMBOL_FILES_MAX 64u

struct sc_symbols;

struct sc_symbol_file {
    const uint8_t *data; /* a serialised FileDescriptorProto */
    size_t len;
};

enum sc_status sc_symbols_open(const void *set, size_t len, struct sc_symbols **ret_symbols,
                               struct sc_err *err) SC_MUST_CHECK;
void sc_symbols_close(struct sc_symbols *symbols); /* NULL is fine */

/* The file and, after it, those it imports, each once: what a client needs to use it. Returns how
 * many; 0: not known. symbol: a message, enum, service, or method, fully qualified. */
size_t sc_symbols_by_file(const struct sc_symbols *symbols, const char *name,
                          struct sc_symbol_file ret_files[SC_SYMBOL_FILES_MAX]);
size_t sc_symbols_by_name(const struct sc_symbols *symbols, const char *symbol,
                          struct sc_symbol_file ret_files[SC_SYMBOL_FILES_MAX]);

#endif
