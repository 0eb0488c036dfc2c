#include "scheduler/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/prefix_internal.h"

/* Children looked at where a prompt leaves the tree, the youngest first: thousands may begin alike,
 * or not at all alike. */
#define KIN_MAX 128u

enum sc_status sc_prefix_open(uint32_t max_snaps, uint32_t max_nodes, struct sc_kv_log *log,
                              struct sc_prefix **ret_prefix, struct sc_err *err)
{
    if (max_nodes == 0 || max_nodes > SC_PREFIX_NODES_MAX)
        return sc_fail(err, SC_EINVAL, "prefix nodes: %u, limits 1..%u", max_nodes,
                       SC_PREFIX_NODES_MAX);
    struct sc_prefix *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return sc_fail(err, SC_ENOMEM, "a prefix tree");
    p->log = log;
    p->first_root = SC_NODE_NONE;
    p->max_nodes = max_nodes;
    p->max_snaps = max_snaps;
    p->n_buckets = 16;
    while (p->n_buckets < max_nodes * 2u)
        p->n_buckets *= 2;
    p->nodes = calloc(max_nodes, sizeof(*p->nodes));
    p->tokens = calloc(max_nodes, SC_PREFIX_BLOCK * sizeof(*p->tokens));
    p->buckets = calloc(p->n_buckets, sizeof(*p->buckets));
    p->kin = calloc(p->n_buckets, sizeof(*p->kin));
    p->free_snaps = calloc(max_snaps > 0 ? max_snaps : 1, sizeof(*p->free_snaps));
    if (p->nodes == NULL || p->tokens == NULL || p->buckets == NULL || p->kin == NULL ||
        p->free_snaps == NULL) {
        sc_prefix_close(p);
        return sc_fail(err, SC_ENOMEM, "a prefix tree of %u nodes", max_nodes);
    }
    for (uint32_t i = 0; i < p->n_buckets; i++)
        p->buckets[i] = p->kin[i] = SC_NODE_NONE;
    for (uint32_t i = 0; i < max_nodes; i++)
        p->nodes[i].next = i + 1 < max_nodes ? i + 1 : SC_NODE_NONE;
    for (uint32_t i = 0; i < max_snaps; i++)
        p->free_snaps[i] = max_snaps - 1 - i;
    p->n_free_snaps = max_snaps;
    for (uint32_t i = 0; i < LIST_COUNT; i++)
        p->lists[i] = (struct sc_prefix_lru){SC_NODE_NONE, SC_NODE_NONE};
    *ret_prefix = p;
    return SC_OK;
}

void sc_prefix_close(struct sc_prefix *p)
{
    if (p == NULL)
        return;
    free(p->nodes);
    free(p->tokens);
    free(p->buckets);
    free(p->kin);
    free(p->free_snaps);
    free(p);
}

static uint32_t bucket_of(const struct sc_prefix *p, const struct sc_hash *key)
{
    uint32_t x;
    memcpy(&x, key->bytes, sizeof(x));
    return x & (p->n_buckets - 1);
}

uint32_t sc_prefix_lookup(const struct sc_prefix *p, const struct sc_hash *key)
{
    uint32_t i = p->buckets[bucket_of(p, key)];
    while (i != SC_NODE_NONE && memcmp(&p->nodes[i].key, key, sizeof(*key)) != 0)
        i = p->nodes[i].hash_next;
    return i;
}

/* ---- nodes ---- */

/* Children of one parent with the same first tokens; shorter ones are in no such list. */
static uint32_t *kin_of(const struct sc_prefix *p, uint32_t parent, const int32_t *tokens)
{
    uint64_t h = parent;
    for (uint32_t i = 0; i < SC_PREFIX_MIN; i++)
        h = sc_mix64(h ^ (uint32_t)tokens[i]);
    return &p->kin[h & (p->n_buckets - 1)];
}

static uint32_t new_node(struct sc_prefix *p, uint32_t parent, const struct sc_hash *key,
                         const int32_t *tokens, uint32_t pos0, uint32_t n,
                         const struct sc_prefix_root *root)
{
    uint32_t i = p->free_node;
    if (i == SC_NODE_NONE)
        return i;
    struct sc_prefix_node *node = &p->nodes[i];
    p->free_node = node->next;
    uint32_t b = bucket_of(p, key);
    *node = (struct sc_prefix_node){.key = *key,
                                    .root = parent != SC_NODE_NONE ? p->nodes[parent].root : i,
                                    .parent = parent,
                                    .first_child = SC_NODE_NONE,
                                    .next = SC_NODE_NONE,
                                    .prev = SC_NODE_NONE,
                                    .hash_next = p->buckets[b],
                                    .pos0 = pos0,
                                    .n = n,
                                    .snap = SC_NO_SNAP,
                                    .list = LIST_NONE,
                                    .recipe_id = root->recipe_id,
                                    .in_use = true,
                                    .compressed = root->compressed};
    p->buckets[b] = i;
    p->n_touched = i >= p->n_touched ? i + 1 : p->n_touched;
    if (parent == SC_NODE_NONE) {
        memcpy(sc_prefix_tokens(p, i), root->ns, sizeof(root->ns));
        node->offset = root->offset;
        node->next = p->first_root;
        if (p->first_root != SC_NODE_NONE)
            p->nodes[p->first_root].prev = i;
        p->first_root = i;
    }
    memcpy(sc_prefix_tokens(p, i), tokens, n * sizeof(*tokens));
    if (parent != SC_NODE_NONE) {
        struct sc_prefix_node *up = &p->nodes[parent];
        node->next = up->first_child;
        if (up->first_child != SC_NODE_NONE)
            p->nodes[up->first_child].prev = i;
        up->first_child = i;
        up->n_children++;
        if (n >= SC_PREFIX_MIN) {
            uint32_t *kin = kin_of(p, parent, tokens);
            node->kin_next = *kin;
            *kin = i;
        }
        if (up->n_children == 1 && up->list == LIST_RECENT)
            sc_prefix_relist(p, parent); /* its tail is inside now */
    }
    return i;
}

static void unlink_kin(struct sc_prefix *p, uint32_t i)
{
    const struct sc_prefix_node *n = &p->nodes[i];
    if (n->n < SC_PREFIX_MIN)
        return;
    uint32_t *link = kin_of(p, n->parent, sc_prefix_tokens(p, i));
    while (*link != i)
        link = &p->nodes[*link].kin_next;
    *link = n->kin_next;
}

void sc_prefix_prune(struct sc_prefix *p, uint32_t i)
{
    while (i != SC_NODE_NONE) {
        struct sc_prefix_node *n = &p->nodes[i];
        if (n->snap != SC_NO_SNAP || n->holds > 0 || n->n_children > 0)
            return;
        sc_prefix_unlink_lru(p, i);
        uint32_t *link = &p->buckets[bucket_of(p, &n->key)];
        while (*link != i)
            link = &p->nodes[*link].hash_next;
        *link = n->hash_next;
        uint32_t parent = n->parent;
        if (parent != SC_NODE_NONE)
            unlink_kin(p, i);
        *(n->prev != SC_NODE_NONE  ? &p->nodes[n->prev].next
          : parent != SC_NODE_NONE ? &p->nodes[parent].first_child
                                   : &p->first_root) = n->next;
        if (n->next != SC_NODE_NONE)
            p->nodes[n->next].prev = n->prev;
        if (parent != SC_NODE_NONE && --p->nodes[parent].n_children == 0 &&
            p->nodes[parent].list == LIST_TAILS)
            sc_prefix_relist(p, parent);
        n->in_use = false;
        n->next = p->free_node;
        p->free_node = i;
        i = parent;
    }
}

static bool is_child(const struct sc_prefix *p, uint32_t i, uint32_t parent, const int32_t *tokens,
                     uint32_t n)
{
    const struct sc_prefix_node *c = &p->nodes[i];
    return c->parent == parent && c->n == n &&
           memcmp(sc_prefix_tokens(p, i), tokens, n * sizeof(*tokens)) == 0;
}

static uint32_t common(const int32_t *a, const int32_t *b, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

static void consider(const struct sc_prefix *p, uint32_t i, uint32_t n, struct sc_prefix_hit *best)
{
    const struct sc_prefix_node *c = &p->nodes[i];
    if (c->live && n >= c->min_logical && n >= SC_PREFIX_MIN && n > best->n)
        *best = (struct sc_prefix_hit){.node = i, .snap = c->snap, .n = n};
}

/* n_max: of what is used. */
static void consider_child(const struct sc_prefix *p, uint32_t i, const int32_t *tokens, uint32_t n,
                           uint32_t n_max, struct sc_prefix_peek *best)
{
    const struct sc_prefix_node *c = &p->nodes[i];
    uint32_t most = c->n < n - c->pos0 ? c->n : n - c->pos0;
    uint32_t alike = common(sc_prefix_tokens(p, i), tokens + c->pos0, most), to = c->pos0 + alike;
    consider(p, i, to < n_max ? to : n_max, &best->hit);
    if (to < best->known || (to == best->known && best->differs))
        return;
    best->known = to;
    best->differs = alike < most;
    best->held = alike < most ? sc_prefix_tokens(p, i)[alike] : 0;
}

/* Those that begin as the rest of the prompt does, and some others: they are short, or serve the
 * prefix before them. */
static void consider_children(const struct sc_prefix *p, uint32_t at, const int32_t *tokens,
                              uint32_t pos, uint32_t n, uint32_t n_max, struct sc_prefix_peek *best)
{
    uint32_t left = KIN_MAX;
    if (n - pos >= SC_PREFIX_MIN)
        for (uint32_t i = *kin_of(p, at, tokens + pos); i != SC_NODE_NONE && left > 0;
             i = p->nodes[i].kin_next, left--)
            if (p->nodes[i].parent == at)
                consider_child(p, i, tokens, n, n_max, best);
    left = KIN_MAX;
    for (uint32_t i = p->nodes[at].first_child; i != SC_NODE_NONE && left > 0;
         i = p->nodes[i].next, left--)
        consider_child(p, i, tokens, n, n_max, best);
}

/* ret_at: the last node whose tokens are all the prompt's, or SC_NODE_NONE. */
static struct sc_prefix_peek look(const struct sc_prefix *p, const struct sc_prefix_root *root,
                                  const int32_t *tokens, uint32_t n, uint32_t n_max,
                                  uint32_t *ret_at)
{
    struct sc_prefix_peek best = {.hit.node = SC_NODE_NONE};
    uint32_t at = sc_prefix_lookup(p, &root->key), pos = 0;
    *ret_at = at;
    if (at == SC_NODE_NONE)
        return best;
    for (;;) { /* down while whole blocks agree */
        uint32_t end = sc_prefix_boundary(root, pos);
        if (end > n)
            break;
        struct sc_hash key = sc_prefix_child_key(&p->nodes[at].key, tokens + pos, end - pos);
        uint32_t child = sc_prefix_lookup(p, &key);
        if (child == SC_NODE_NONE || !is_child(p, child, at, tokens + pos, end - pos))
            break;
        at = child;
        pos = end;
    }
    best.known = pos;
    consider_children(p, at, tokens, pos, n, n_max, &best);
    for (uint32_t i = at; i != SC_NODE_NONE && p->nodes[i].pos0 + p->nodes[i].n > best.hit.n;
         i = p->nodes[i].parent) {
        uint32_t end = p->nodes[i].pos0 + p->nodes[i].n;
        consider(p, i, end < n_max ? end : n_max, &best.hit);
    }
    *ret_at = at;
    return best;
}

struct sc_prefix_hit sc_prefix_find(struct sc_prefix *p, const struct sc_prefix_root *root,
                                    const int32_t *tokens, uint32_t n, uint32_t n_max,
                                    uint64_t now_us)
{
    uint32_t at;
    struct sc_prefix_hit hit = look(p, root, tokens, n, n_max, &at).hit;
    sc_prefix_touch(p, hit.node != SC_NODE_NONE ? hit.node : at, now_us);
    return hit;
}

struct sc_prefix_peek sc_prefix_peek(const struct sc_prefix *p, const struct sc_prefix_root *root,
                                     const int32_t *tokens, uint32_t n, uint32_t n_max)
{
    uint32_t at;
    return look(p, root, tokens, n, n_max, &at);
}

uint32_t sc_prefix_next_root(const struct sc_prefix *p, uint32_t node,
                             struct sc_prefix_root *ret_root)
{
    uint32_t i = node == SC_NODE_NONE ? p->first_root : p->nodes[node].next;
    if (i == SC_NODE_NONE)
        return i;
    const struct sc_prefix_node *n = &p->nodes[i];
    *ret_root = (struct sc_prefix_root){
        .key = n->key, .recipe_id = n->recipe_id, .offset = n->offset, .compressed = n->compressed};
    memcpy(ret_root->ns, sc_prefix_ns(p, i), sizeof(ret_root->ns));
    return i;
}

static uint32_t step_down(struct sc_prefix *p, const struct sc_prefix_root *root, uint32_t at,
                          const int32_t *tokens, uint32_t pos, uint32_t end)
{
    struct sc_hash key = sc_prefix_child_key(&p->nodes[at].key, tokens + pos, end - pos);
    uint32_t child = sc_prefix_lookup(p, &key);
    if (child == SC_NODE_NONE)
        child = new_node(p, at, &key, tokens + pos, pos, end - pos, root);
    return child;
}

uint32_t sc_prefix_hold_child(struct sc_prefix *p, const struct sc_prefix_root *root, uint32_t node,
                              const int32_t *tokens, uint32_t n, uint64_t now_us)
{
    uint32_t at = node, pos = p->nodes[node].pos0 + p->nodes[node].n;
    while (at != SC_NODE_NONE && pos < n) {
        uint32_t end = sc_prefix_boundary(root, pos), next;
        end = end < n ? end : n;
        next = step_down(p, root, at, tokens, pos, end);
        if (next == SC_NODE_NONE)
            sc_prefix_prune(p, at); /* what was made on the way, unless it is held */
        at = next;
        pos = end;
    }
    if (at != SC_NODE_NONE) {
        p->nodes[at].holds++;
        if (p->nodes[at].live) /* used again: its place in the list tells so, too */
            sc_prefix_touch(p, at, now_us);
        else
            p->nodes[at].used_us = now_us;
    }
    return at;
}

uint32_t sc_prefix_hold(struct sc_prefix *p, const struct sc_prefix_root *root,
                        const int32_t *tokens, uint32_t n, uint64_t now_us)
{
    uint32_t at = sc_prefix_lookup(p, &root->key);
    if (at == SC_NODE_NONE)
        at = new_node(p, SC_NODE_NONE, &root->key, tokens, 0, 0, root);
    if (at == SC_NODE_NONE)
        return at;
    p->nodes[at].holds++; /* on the way down it must not be pruned */
    uint32_t node = sc_prefix_hold_child(p, root, at, tokens, n, now_us);
    sc_prefix_unhold(p, at);
    return node;
}

void sc_prefix_unhold(struct sc_prefix *p, uint32_t node)
{
    if (node == SC_NODE_NONE)
        return;
    SC_ASSERT(p->nodes[node].holds > 0);
    p->nodes[node].holds--;
    sc_prefix_prune(p, node);
}
