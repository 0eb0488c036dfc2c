/* base/arena.h - many small pieces, freed whole.
 *
 * One arena per parse or request. Pieces are zeroed and aligned to 16 bytes. In sanitizer builds
 * each piece is its own malloc, so overruns are seen. The limit bounds what bad input can make us
 * take. Threads: one owner at a time.
 */
#ifndef SC_BASE_ARENA_H
#define SC_BASE_ARENA_H

#include "base/status.h"

struct sc_arena_block;

struct sc_arena {
    struct sc_arena_block *blocks;
    size_t used_bytes;  /* sum of all pieces */
    size_t limit_bytes; /* a piece that would pass it is refused */
};

void sc_arena_init(struct sc_arena *arena, size_t limit_bytes);
void sc_arena_fini(struct sc_arena *arena); /* frees every piece */

/* NULL when the limit or the memory is exhausted; zero bytes give a valid pointer. */
void *sc_arena_take(struct sc_arena *arena, size_t bytes);
char *sc_arena_copy(struct sc_arena *arena, const char *text, size_t len); /* NUL-terminated */

#endif
