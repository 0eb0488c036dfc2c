#include "store/memory.h"

#include "store/internal.h"

enum sc_status sc_memory_init(struct sc_memory *m, uint64_t limit_bytes, struct sc_err *err)
{
    m->limit_bytes = limit_bytes;
    return sc_lru_init(&m->lru, err);
}

static void bury(struct sc_memory *m, struct sc_lru_node *node, struct sc_memory_node **dead)
{
    sc_lru_take(&m->lru, node);
    node->chain = *dead != NULL ? &(*dead)->lru : NULL;
    *dead = (struct sc_memory_node *)node;
}

void sc_memory_free(struct sc_memory_node *dead)
{
    while (dead != NULL) {
        struct sc_memory_node *next = (struct sc_memory_node *)dead->lru.chain;
        sc_blob_unref(dead->blob);
        free(dead);
        dead = next;
    }
}

void sc_memory_fini(struct sc_memory *m)
{
    struct sc_memory_node *dead = NULL;

    while (m->lru.oldest != NULL)
        bury(m, m->lru.oldest, &dead);
    sc_memory_free(dead);
    sc_lru_fini(&m->lru);
}

struct sc_blob *sc_memory_find(struct sc_memory *m, const struct sc_hash *key,
                               const struct sc_store_label *label)
{
    struct sc_memory_node *node = (struct sc_memory_node *)sc_lru_find(&m->lru, key);

    if (node == NULL || !sc_store_same_label(&node->label, label))
        return NULL;
    sc_lru_touch(&m->lru, &node->lru);
    return node->blob;
}

bool sc_memory_has(const struct sc_memory *m, const struct sc_hash *key)
{
    return sc_lru_find(&m->lru, key) != NULL;
}

enum sc_status sc_memory_put(struct sc_memory *m, const struct sc_hash *key,
                             const struct sc_store_label *label, struct sc_blob *blob,
                             struct sc_memory_node **dead, uint64_t *n_evicted, struct sc_err *err)
{
    struct sc_memory_node *node;
    /* A node counts with its blob, so that empty blobs cannot fill the memory. */
    uint64_t bytes = sc_blob_size(blob) + sizeof(*node);

    if (sc_blob_size(blob) > m->limit_bytes || sc_memory_find(m, key, label) != NULL)
        return SC_OK;
    if (bytes > m->limit_bytes)
        return SC_OK;
    node = malloc(sizeof(*node));
    if (node == NULL)
        return sc_fail(err, SC_ENOMEM, "store: no memory for an entry of the memory tier");
    sc_memory_remove(m, key, dead);
    while (m->lru.bytes + bytes > m->limit_bytes) {
        bury(m, m->lru.oldest, dead);
        (*n_evicted)++;
    }
    *node = (struct sc_memory_node){.lru = {.key = *key, .bytes = bytes}, .label = *label};
    node->blob = blob;
    sc_blob_ref(blob);
    sc_lru_add(&m->lru, &node->lru);
    return SC_OK;
}

void sc_memory_remove(struct sc_memory *m, const struct sc_hash *key, struct sc_memory_node **dead)
{
    struct sc_lru_node *node = sc_lru_find(&m->lru, key);

    if (node != NULL)
        bury(m, node, dead);
}
