/* scheduler/prefix_internal.h - the tree's memory, shared by its source files only.
 *
 * prefix_key.c: keys and blocks. prefix.c: nodes, what is found. prefix_snaps.c: snapshots on them,
 * and the order in which they go.
 */
#ifndef SC_SCHEDULER_PREFIX_INTERNAL_H
#define SC_SCHEDULER_PREFIX_INTERNAL_H

#include <assert.h>

#include "scheduler/prefix.h"

#define SC_NO_SNAP UINT32_MAX

enum sc_prefix_list {
    LIST_TAILS,
    LIST_RECENT,
    LIST_DOCUMENTS,
    LIST_PINNED,
    LIST_COUNT,
    LIST_NONE = LIST_COUNT
};

struct sc_prefix_node {
    struct sc_hash key, recipe_id;
    uint32_t root;   /* whose tokens' place holds the namespace: a root has none */
    uint32_t offset; /* of a root: where its blocks end */
    uint32_t parent, first_child, next, prev; /* siblings; next: also the free list */
    uint32_t hash_next, kin_next;
    uint32_t pos0, n; /* its tokens are [pos0, pos0 + n) of the prompt */
    uint32_t snap, min_logical, n_pages;
    uint32_t holds, locks, n_children;
    uint32_t list, lru_next, lru_prev;
    uint64_t used_us, pin_until_us;
    bool in_use, compressed, live, retained, saved;
};

struct sc_prefix_lru {
    uint32_t oldest, newest;
};

struct sc_prefix {
    uint32_t max_nodes, max_snaps, n_buckets;
    struct sc_prefix_node *nodes;
    int32_t *tokens;     /* [max_nodes, SC_PREFIX_BLOCK]; what is never used is never touched */
    uint32_t *buckets;   /* heads of hash chains */
    uint32_t *kin;       /* [n_buckets]: the same of siblings that begin alike */
    uint32_t first_root; /* roots are siblings */
    uint32_t free_node, n_touched; /* nodes from n_touched on were never used */
    struct sc_kv_log *log;
    uint32_t *free_snaps, n_free_snaps;
    uint32_t n_live;
    uint64_t pinned_pages, pins_version;
    struct sc_prefix_lru lists[LIST_COUNT];
};

static inline int32_t *sc_prefix_tokens(const struct sc_prefix *p, uint32_t i)
{
    return p->tokens + (size_t)i * SC_PREFIX_BLOCK;
}

static_assert(SC_NAMESPACE_BYTES_MAX < SC_PREFIX_BLOCK * sizeof(int32_t),
              "a root holds its namespace");
static inline const char *sc_prefix_ns(const struct sc_prefix *p, uint32_t i)
{
    return (const char *)sc_prefix_tokens(p, p->nodes[i].root);
}

struct sc_hash sc_prefix_child_key(const struct sc_hash *parent, const int32_t *tokens, uint32_t n);
/* Frees the node when nothing needs it any more, and then its parents. */
void sc_prefix_prune(struct sc_prefix *p, uint32_t node);
void sc_prefix_unlink_lru(struct sc_prefix *p, uint32_t node);
/* Puts a node where it belongs, as the most recently used. */
void sc_prefix_relist(struct sc_prefix *p, uint32_t node);
/* The whole path, the end first: of two that were used together the leaf goes before its parent. */
void sc_prefix_touch(struct sc_prefix *p, uint32_t node, uint64_t now_us);

#endif
