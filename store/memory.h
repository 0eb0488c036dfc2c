/* store/memory.h - the memory tier: blobs up to a number of bytes; the least recently used go.
 *
 * Threads: the store's lock. Blobs that leave are handed back, so that the caller frees them after
 * it has let go of the lock.
 */
#ifndef SC_STORE_MEMORY_H
#define SC_STORE_MEMORY_H

#include "store/lru.h"

struct sc_memory_node {
    struct sc_lru_node lru; /* first */
    struct sc_store_label label;
    struct sc_blob *blob;
};

struct sc_memory {
    struct sc_lru lru;
    uint64_t limit_bytes; /* 0: nothing is kept */
};

enum sc_status sc_memory_init(struct sc_memory *m, uint64_t limit_bytes,
                              struct sc_err *err) SC_MUST_CHECK;
void sc_memory_fini(struct sc_memory *m);

/* NULL: not there, or under another label. A borrowed blob, now the most recently used. */
struct sc_blob *sc_memory_find(struct sc_memory *m, const struct sc_hash *key,
                               const struct sc_store_label *label);
bool sc_memory_has(const struct sc_memory *m, const struct sc_hash *key);

/* Takes a reference. What had to go is chained to *dead and counted in *n_evicted. A blob larger
 * than the limit is not kept, which is SC_OK. */
enum sc_status sc_memory_put(struct sc_memory *m, const struct sc_hash *key,
                             const struct sc_store_label *label, struct sc_blob *blob,
                             struct sc_memory_node **dead, uint64_t *n_evicted,
                             struct sc_err *err) SC_MUST_CHECK;
void sc_memory_remove(struct sc_memory *m, const struct sc_hash *key, struct sc_memory_node **dead);
void sc_memory_free(struct sc_memory_node *dead); /* a chain; NULL is fine */

#endif
