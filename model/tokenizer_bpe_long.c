/* model/tokenizer_bpe_long.c - merging a word of any length in n log n.
 *
 * The symbols are a linked list in one array. A heap holds every pair that may merge, ordered by
 * rank and then by place; an entry whose pair has changed meanwhile is dropped when it comes up.
 */
#include <stdlib.h>

#include "model/tokenizer_internal.h"

#define NONE  UINT32_MAX
#define ARITY 4 /* children of a heap node: four keys share half a cache line */

static enum sc_status heap_push(struct sc_tok_bpe_scratch *s, uint64_t key, struct sc_err *err)
{
    if (s->n_heap == s->heap_cap) {
        size_t cap = s->heap_cap < 256 ? 256 : s->heap_cap + s->heap_cap / 2;
        uint64_t *grown = realloc(s->heap, cap * sizeof(*grown));
        if (!grown)
            return sc_fail(err, SC_ENOMEM, "merging %zu symbols: out of memory", s->n_symbols);
        s->heap = grown;
        s->heap_cap = cap;
    }
    size_t i = s->n_heap++;
    while (i > 0) {
        size_t parent = (i - 1) / ARITY;
        if (s->heap[parent] <= key)
            break;
        s->heap[i] = s->heap[parent];
        i = parent;
    }
    s->heap[i] = key;
    return SC_OK;
}

/* Puts key where the hole at i leads to. */
static void sift_down(uint64_t *heap, size_t n, size_t i, uint64_t key)
{
    for (;;) {
        size_t child = ARITY * i + 1;
        if (child >= n)
            break;
        size_t end = child + ARITY < n ? child + ARITY : n, least = child;
        for (size_t k = child + 1; k < end; k++)
            if (heap[k] < heap[least])
                least = k;
        if (heap[least] >= key)
            break;
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = key;
}

static uint64_t heap_pop(struct sc_tok_bpe_scratch *s)
{
    uint64_t top = s->heap[0];
    uint64_t last = s->heap[--s->n_heap];
    if (s->n_heap > 0)
        sift_down(s->heap, s->n_heap, 0, last);
    return top;
}

/* Looks up the merge of symbol i with its next one; queues it. */
static enum sc_status look(const struct sc_tok_bpe *b, struct sc_tok_bpe_scratch *s, uint32_t i,
                           struct sc_err *err)
{
    struct sc_tok_symbol *left = &s->symbols[i];
    left->rank = NONE;
    if (left->next == NONE)
        return SC_OK;
    left->rank = sc_tok_bpe_merge(b, left->id, s->symbols[left->next].id)->rank;
    return left->rank == NONE ? SC_OK : heap_push(s, (uint64_t)left->rank << 32 | i, err);
}

static void link_all(const struct sc_tok_bpe *b, struct sc_tok_bpe_scratch *s)
{
    uint32_t n = (uint32_t)s->n_symbols;
    uint64_t *heap = s->heap;
    size_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct sc_tok_symbol *symbol = &s->symbols[i];
        symbol->prev = i == 0 ? NONE : i - 1;
        symbol->next = i + 1 == n ? NONE : i + 1;
        symbol->rank = NONE;
        if (i + 1 < n)
            symbol->rank = sc_tok_bpe_merge(b, symbol->id, s->symbols[i + 1].id)->rank;
        if (symbol->rank != NONE)
            heap[count++] = (uint64_t)symbol->rank << 32 | i;
    }
    s->n_heap = count;
    for (size_t i = count / ARITY + 1; i-- > 0;)
        if (i < count)
            sift_down(heap, count, i, heap[i]);
}

enum sc_status sc_tok_bpe_merge_long(const struct sc_tok_bpe *b, struct sc_tok_bpe_scratch *s,
                                     struct sc_ids *ids, struct sc_err *err)
{
    if (s->n_symbols >= NONE)
        return sc_fail(err, SC_ERANGE, "a word of %zu symbols, limit %u", s->n_symbols, NONE - 1);
    if (s->heap_cap < s->n_symbols) {
        free(s->heap);
        s->heap = malloc(s->n_symbols * sizeof(*s->heap));
        s->heap_cap = s->heap ? s->n_symbols : 0;
        if (!s->heap)
            return sc_fail(err, SC_ENOMEM, "merging %zu symbols: out of memory", s->n_symbols);
    }
    enum sc_status st = SC_OK;
    link_all(b, s);
    while (st == SC_OK && s->n_heap > 0) {
        uint64_t top = heap_pop(s);
        uint32_t i = (uint32_t)top, rank = (uint32_t)(top >> 32);
        struct sc_tok_symbol *left = &s->symbols[i];
        if (left->id < 0 || left->rank != rank)
            continue; /* the pair is gone */
        struct sc_tok_symbol *right = &s->symbols[left->next];
        left->id = (int32_t)b->results[rank];
        left->next = right->next;
        right->id = -1;
        if (left->next != NONE)
            s->symbols[left->next].prev = i;
        st = look(b, s, i, err);
        if (st == SC_OK && left->prev != NONE)
            st = look(b, s, left->prev, err);
    }
    for (uint32_t i = 0; st == SC_OK && i < s->n_symbols; i = s->symbols[i].next) {
        st = sc_ids_append(ids, s->symbols[i].id, err);
        if (s->symbols[i].next == NONE)
            break;
    }
    return st;
}
