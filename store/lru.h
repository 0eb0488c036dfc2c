/* store/lru.h - nodes by key, in the order of their last use, with the sum of their bytes.
 *
 * Nodes are embedded by the caller, who owns them. Memory: a table of buckets, which grows with the
 * nodes; where it cannot, chains get longer. Threads: one owner, or the owner's lock.
 */
#ifndef SC_STORE_LRU_H
#define SC_STORE_LRU_H

#include "store/store.h"

struct sc_lru_node {
    struct sc_hash key;
    uint64_t bytes;
    struct sc_lru_node *chain; /* of the bucket */
    struct sc_lru_node *newer, *older;
};

struct sc_lru {
    struct sc_lru_node **buckets;
    size_t n_buckets, n_nodes;
    uint64_t bytes;
    struct sc_lru_node *newest, *oldest;
};

enum sc_status sc_lru_init(struct sc_lru *lru, struct sc_err *err) SC_MUST_CHECK;
void sc_lru_fini(struct sc_lru *lru); /* the nodes are the caller's */
struct sc_lru_node *sc_lru_find(const struct sc_lru *lru, const struct sc_hash *key); /* or NULL */
void sc_lru_add(struct sc_lru *lru, struct sc_lru_node *node); /* as the newest; key not in it */
void sc_lru_take(struct sc_lru *lru, struct sc_lru_node *node);
void sc_lru_touch(struct sc_lru *lru, struct sc_lru_node *node); /* the newest now */

#endif
