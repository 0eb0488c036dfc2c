#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)64 << 10)
#define ALIGN       ((size_t)16)

struct sc_arena_block {
    struct sc_arena_block *next;
    size_t used, cap;
    _Alignas(16) char bytes[];
};

void sc_arena_init(struct sc_arena *arena, size_t limit_bytes)
{
    *arena = (struct sc_arena){.limit_bytes = limit_bytes};
}

void sc_arena_fini(struct sc_arena *arena)
{
    while (arena->blocks != NULL) {
        struct sc_arena_block *next = arena->blocks->next;
        free(arena->blocks);
        arena->blocks = next;
    }
    arena->used_bytes = 0;
}

static struct sc_arena_block *block_add(struct sc_arena *arena, size_t cap)
{
    struct sc_arena_block *b = malloc(sizeof(*b) + cap);
    if (b == NULL)
        return NULL;
    b->next = arena->blocks;
    b->used = 0;
    b->cap = cap;
    arena->blocks = b;
    return b;
}

void *sc_arena_take(struct sc_arena *arena, size_t bytes)
{
    struct sc_arena_block *b = arena->blocks;
    if (bytes > arena->limit_bytes - arena->used_bytes || bytes > SIZE_MAX / 2)
        return NULL; /* the second: rounding up must not wrap */
    size_t rounded = (bytes + ALIGN - 1) & ~(ALIGN - 1);
#if defined(SC_ASAN)
    b = block_add(arena, bytes); /* its own malloc, exactly as long as asked */
#else
    if (b == NULL || b->cap - b->used < rounded)
        b = block_add(arena, rounded > BLOCK_BYTES ? rounded : BLOCK_BYTES);
#endif
    if (b == NULL)
        return NULL;
    void *p = b->bytes + b->used;
    b->used += b->cap - b->used < rounded ? b->cap - b->used : rounded;
    arena->used_bytes += bytes;
    memset(p, 0, bytes);
    return p;
}

char *sc_arena_copy(struct sc_arena *arena, const char *text, size_t len)
{
    char *p = len < SIZE_MAX ? sc_arena_take(arena, len + 1) : NULL;
    if (p != NULL && len > 0)
        memcpy(p, text, len);
    return p;
}
