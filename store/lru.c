#include "store/lru.h"

#include <string.h>

#include "store/internal.h"

#define BUCKETS_MIN 64u

/* Keys are hashes, so any of their bits will do. */
static struct sc_lru_node **bucket(const struct sc_lru *lru, const struct sc_hash *key)
{
    uint64_t bits;

    memcpy(&bits, key->bytes, sizeof(bits));
    return &lru->buckets[sc_mix64(bits) & (lru->n_buckets - 1)];
}

enum sc_status sc_lru_init(struct sc_lru *lru, struct sc_err *err)
{
    *lru = (struct sc_lru){.n_buckets = BUCKETS_MIN};
    lru->buckets = calloc(BUCKETS_MIN, sizeof(struct sc_lru_node *));
    return lru->buckets != NULL ? SC_OK : sc_fail(err, SC_ENOMEM, "store: no memory for an index");
}

void sc_lru_fini(struct sc_lru *lru)
{
    free(lru->buckets);
    lru->buckets = NULL;
}

struct sc_lru_node *sc_lru_find(const struct sc_lru *lru, const struct sc_hash *key)
{
    struct sc_lru_node *node = *bucket(lru, key);

    while (node != NULL && !sc_store_same(&node->key, key))
        node = node->chain;
    return node;
}

static void grow(struct sc_lru *lru)
{
    struct sc_lru_node **buckets = calloc(2 * lru->n_buckets, sizeof(struct sc_lru_node *));

    if (buckets == NULL)
        return;
    free(lru->buckets);
    lru->buckets = buckets;
    lru->n_buckets *= 2;
    for (struct sc_lru_node *node = lru->newest; node != NULL; node = node->older) {
        struct sc_lru_node **at = bucket(lru, &node->key);
        node->chain = *at;
        *at = node;
    }
}

static void link_newest(struct sc_lru *lru, struct sc_lru_node *node)
{
    node->newer = NULL;
    node->older = lru->newest;
    if (lru->newest != NULL)
        lru->newest->newer = node;
    else
        lru->oldest = node;
    lru->newest = node;
}

static void unlink_node(struct sc_lru *lru, struct sc_lru_node *node)
{
    if (node->newer != NULL)
        node->newer->older = node->older;
    else
        lru->newest = node->older;
    if (node->older != NULL)
        node->older->newer = node->newer;
    else
        lru->oldest = node->newer;
}

void sc_lru_add(struct sc_lru *lru, struct sc_lru_node *node)
{
    if (lru->n_nodes >= lru->n_buckets)
        grow(lru);
    struct sc_lru_node **at = bucket(lru, &node->key);
    node->chain = *at;
    *at = node;
    link_newest(lru, node);
    lru->n_nodes++;
    lru->bytes += node->bytes;
}

void sc_lru_take(struct sc_lru *lru, struct sc_lru_node *node)
{
    struct sc_lru_node **at = bucket(lru, &node->key);

    while (*at != node) {
        SC_ASSERT(*at != NULL);
        at = &(*at)->chain;
    }
    *at = node->chain;
    unlink_node(lru, node);
    lru->n_nodes--;
    lru->bytes -= node->bytes;
}

void sc_lru_touch(struct sc_lru *lru, struct sc_lru_node *node)
{
    unlink_node(lru, node);
    link_newest(lru, node);
}
