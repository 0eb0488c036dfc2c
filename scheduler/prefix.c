#include "scheduler/prefix.h"

#include <stdlib.h>
#include <string.h>

#define NO_SNAP UINT32_MAX

/* Children looked at where a prompt leaves the tree, the youngest first: thousands may begin alike,
 * or not at all alike. */
#define KIN_MAX 128u

enum list {
    LIST_TAILS,
    LIST_RECENT,
    LIST_DOCUMENTS,
    LIST_PINNED,
    LIST_COUNT,
    LIST_NONE = LIST_COUNT
};

struct node {
    struct sc_hash key, recipe_id;
    uint32_t parent, first_child, next, prev; /* siblings; next: also the free list */
    uint32_t hash_next, kin_next;
    uint32_t pos0, n; /* its tokens are [pos0, pos0 + n) of the prompt */
    uint32_t snap, min_logical, n_pages;
    uint32_t holds, locks, n_children;
    uint32_t list, lru_next, lru_prev;
    uint64_t used_us, pin_until_us;
    bool in_use, compressed, live, retained, saved;
};

struct lru {
    uint32_t oldest, newest;
};

struct sc_prefix {
    uint32_t max_nodes, max_snaps, n_buckets;
    struct node *nodes;
    int32_t *tokens;   /* [max_nodes, SC_PREFIX_BLOCK]; what is never used is never touched */
    uint32_t *buckets; /* heads of hash chains */
    uint32_t *kin;     /* [n_buckets]: the same of siblings that begin alike */
    uint32_t free_node;
    uint32_t *free_snaps, n_free_snaps;
    uint32_t n_live;
    uint64_t pinned_pages;
    struct lru lists[LIST_COUNT];
};

static int32_t *tokens_of(const struct sc_prefix *p, uint32_t i)
{
    return p->tokens + (size_t)i * SC_PREFIX_BLOCK;
}

enum sc_status sc_prefix_open(uint32_t max_snaps, uint32_t max_nodes, struct sc_prefix **ret_prefix,
                              struct sc_err *err)
{
    if (max_nodes == 0 || max_nodes > SC_PREFIX_NODES_MAX)
        return sc_fail(err, SC_EINVAL, "prefix nodes: %u, limits 1..%u", max_nodes,
                       SC_PREFIX_NODES_MAX);
    struct sc_prefix *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return sc_fail(err, SC_ENOMEM, "a prefix tree");
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
        p->lists[i] = (struct lru){SC_NODE_NONE, SC_NODE_NONE};
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

/* ---- keys ---- */

struct sc_prefix_root sc_prefix_root(const struct sc_hash *model, const struct sc_hash *recipe_id,
                                     const char *ns, const struct sc_recipe *recipe,
                                     uint32_t prompt_len)
{
    struct sc_prefix_root root = {.recipe_id = *recipe_id,
                                  .compressed = recipe->mode == SC_KV_COMPRESSED};
    /* A chunk's end looks at most chunk_max + 1 tokens ahead: with a window longer than that, what
     * is compressed cannot have seen the prompt's end. */
    bool own_ends =
        root.compressed && (recipe->exact_then_compress || recipe->window < recipe->chunk_max + 2);
    struct sc_hasher h;
    sc_hasher_init(&h);
    sc_hasher_str(&h, "semanticache prefix 1");
    sc_hasher_bytes(&h, model->bytes, SC_HASH_BYTES);
    sc_hasher_bytes(&h, recipe_id->bytes, SC_HASH_BYTES);
    sc_hasher_str(&h, ns);
    sc_hasher_u32(&h, own_ends ? prompt_len : 0);
    root.key = sc_hasher_end(&h);
    if (root.compressed)
        root.offset = recipe->window % SC_PREFIX_BLOCK;
    return root;
}

uint32_t sc_prefix_boundary(const struct sc_prefix_root *root, uint32_t pos)
{
    if (pos < SC_PREFIX_BLOCK)
        return SC_PREFIX_BLOCK;
    return root->offset + ((pos - root->offset) / SC_PREFIX_BLOCK + 1) * SC_PREFIX_BLOCK;
}

uint32_t sc_prefix_boundary_before(const struct sc_prefix_root *root, uint32_t pos)
{
    if (pos < SC_PREFIX_BLOCK)
        return 0;
    uint32_t before = pos - (pos - root->offset) % SC_PREFIX_BLOCK;
    return before < SC_PREFIX_BLOCK ? SC_PREFIX_BLOCK : before;
}

static struct sc_hash child_key(const struct sc_hash *parent, const int32_t *tokens, uint32_t n)
{
    struct sc_hasher h;
    sc_hasher_init(&h);
    sc_hasher_bytes(&h, parent->bytes, SC_HASH_BYTES);
    sc_hasher_u32(&h, n);
    sc_hasher_bytes(&h, tokens, n * sizeof(*tokens));
    return sc_hasher_end(&h);
}

struct sc_hash sc_prefix_key(const struct sc_prefix_root *root, const int32_t *tokens, uint32_t n)
{
    struct sc_hash key = root->key;
    for (uint32_t pos = 0; pos < n;) {
        uint32_t end = sc_prefix_boundary(root, pos);
        end = end < n ? end : n;
        key = child_key(&key, tokens + pos, end - pos);
        pos = end;
    }
    return key;
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

/* ---- lists ---- */

static void unlink_lru(struct sc_prefix *p, uint32_t i)
{
    struct node *n = &p->nodes[i];
    if (n->list == LIST_NONE)
        return;
    struct lru *l = &p->lists[n->list];
    *(n->lru_prev != SC_NODE_NONE ? &p->nodes[n->lru_prev].lru_next : &l->oldest) = n->lru_next;
    *(n->lru_next != SC_NODE_NONE ? &p->nodes[n->lru_next].lru_prev : &l->newest) = n->lru_prev;
    if (n->list == LIST_PINNED)
        p->pinned_pages -= n->n_pages;
    n->list = LIST_NONE;
}

/* Puts a node where it belongs, as the most recently used. */
static void relist(struct sc_prefix *p, uint32_t i)
{
    struct node *n = &p->nodes[i];
    unlink_lru(p, i);
    if (!n->live)
        return;
    n->list = n->pin_until_us != 0                 ? LIST_PINNED
              : n->retained                        ? LIST_DOCUMENTS
              : n->compressed && n->n_children > 0 ? LIST_TAILS
                                                   : LIST_RECENT;
    struct lru *l = &p->lists[n->list];
    n->lru_next = SC_NODE_NONE;
    n->lru_prev = l->newest;
    *(l->newest != SC_NODE_NONE ? &p->nodes[l->newest].lru_next : &l->oldest) = i;
    l->newest = i;
    if (n->list == LIST_PINNED)
        p->pinned_pages += n->n_pages;
}

/* The whole path, the end first: of two that were used together the leaf goes before its parent. */
static void touch(struct sc_prefix *p, uint32_t i, uint64_t now_us)
{
    for (; i != SC_NODE_NONE; i = p->nodes[i].parent) {
        p->nodes[i].used_us = now_us;
        relist(p, i);
    }
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
    struct node *node = &p->nodes[i];
    p->free_node = node->next;
    uint32_t b = bucket_of(p, key);
    *node = (struct node){.key = *key,
                          .parent = parent,
                          .first_child = SC_NODE_NONE,
                          .next = SC_NODE_NONE,
                          .prev = SC_NODE_NONE,
                          .hash_next = p->buckets[b],
                          .pos0 = pos0,
                          .n = n,
                          .snap = NO_SNAP,
                          .list = LIST_NONE,
                          .recipe_id = root->recipe_id,
                          .in_use = true,
                          .compressed = root->compressed};
    p->buckets[b] = i;
    memcpy(tokens_of(p, i), tokens, n * sizeof(*tokens));
    if (parent != SC_NODE_NONE) {
        struct node *up = &p->nodes[parent];
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
            relist(p, parent); /* its tail is inside now */
    }
    return i;
}

static void unlink_kin(struct sc_prefix *p, uint32_t i)
{
    const struct node *n = &p->nodes[i];
    if (n->n < SC_PREFIX_MIN)
        return;
    uint32_t *link = kin_of(p, n->parent, tokens_of(p, i));
    while (*link != i)
        link = &p->nodes[*link].kin_next;
    *link = n->kin_next;
}

/* Frees the node when nothing needs it any more, and then its parents. */
static void prune(struct sc_prefix *p, uint32_t i)
{
    while (i != SC_NODE_NONE) {
        struct node *n = &p->nodes[i];
        if (n->snap != NO_SNAP || n->holds > 0 || n->n_children > 0)
            return;
        unlink_lru(p, i);
        uint32_t *link = &p->buckets[bucket_of(p, &n->key)];
        while (*link != i)
            link = &p->nodes[*link].hash_next;
        *link = n->hash_next;
        uint32_t parent = n->parent;
        if (parent != SC_NODE_NONE) {
            unlink_kin(p, i);
            *(n->prev != SC_NODE_NONE ? &p->nodes[n->prev].next : &p->nodes[parent].first_child) =
                n->next;
            if (n->next != SC_NODE_NONE)
                p->nodes[n->next].prev = n->prev;
            if (--p->nodes[parent].n_children == 0 && p->nodes[parent].list == LIST_TAILS)
                relist(p, parent);
        }
        n->in_use = false;
        n->next = p->free_node;
        p->free_node = i;
        i = parent;
    }
}

static bool is_child(const struct sc_prefix *p, uint32_t i, uint32_t parent, const int32_t *tokens,
                     uint32_t n)
{
    const struct node *c = &p->nodes[i];
    return c->parent == parent && c->n == n &&
           memcmp(tokens_of(p, i), tokens, n * sizeof(*tokens)) == 0;
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
    const struct node *c = &p->nodes[i];
    if (c->live && n >= c->min_logical && n >= SC_PREFIX_MIN && n > best->n)
        *best = (struct sc_prefix_hit){.node = i, .snap = c->snap, .n = n};
}

static void consider_child(const struct sc_prefix *p, uint32_t i, const int32_t *tokens, uint32_t n,
                           uint32_t n_max, struct sc_prefix_hit *best)
{
    uint32_t pos = p->nodes[i].pos0;
    uint32_t most = p->nodes[i].n < n - pos ? p->nodes[i].n : n - pos;
    uint32_t to = pos + common(tokens_of(p, i), tokens + pos, most);
    consider(p, i, to < n_max ? to : n_max, best);
}

/* Those that begin as the rest of the prompt does, and some others: they are short, or serve the
 * prefix before them. */
static void consider_children(const struct sc_prefix *p, uint32_t at, const int32_t *tokens,
                              uint32_t pos, uint32_t n, uint32_t n_max, struct sc_prefix_hit *best)
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

struct sc_prefix_hit sc_prefix_find(struct sc_prefix *p, const struct sc_prefix_root *root,
                                    const int32_t *tokens, uint32_t n, uint32_t n_max,
                                    uint64_t now_us)
{
    struct sc_prefix_hit best = {.node = SC_NODE_NONE};
    uint32_t at = sc_prefix_lookup(p, &root->key), pos = 0;
    if (at == SC_NODE_NONE)
        return best;
    for (;;) { /* down while whole blocks agree */
        uint32_t end = sc_prefix_boundary(root, pos);
        if (end > n)
            break;
        struct sc_hash key = child_key(&p->nodes[at].key, tokens + pos, end - pos);
        uint32_t child = sc_prefix_lookup(p, &key);
        if (child == SC_NODE_NONE || !is_child(p, child, at, tokens + pos, end - pos))
            break;
        at = child;
        pos = end;
    }
    consider_children(p, at, tokens, pos, n, n_max, &best);
    for (uint32_t i = at; i != SC_NODE_NONE && p->nodes[i].pos0 + p->nodes[i].n > best.n;
         i = p->nodes[i].parent) {
        uint32_t end = p->nodes[i].pos0 + p->nodes[i].n;
        consider(p, i, end < n_max ? end : n_max, &best);
    }
    touch(p, best.node != SC_NODE_NONE ? best.node : at, now_us);
    return best;
}

static uint32_t step_down(struct sc_prefix *p, const struct sc_prefix_root *root, uint32_t at,
                          const int32_t *tokens, uint32_t pos, uint32_t end)
{
    struct sc_hash key = child_key(&p->nodes[at].key, tokens + pos, end - pos);
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
            prune(p, at); /* what was made on the way, unless it is held */
        at = next;
        pos = end;
    }
    if (at != SC_NODE_NONE) {
        p->nodes[at].holds++;
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
    prune(p, node);
}

/* ---- snapshots ---- */

bool sc_prefix_snap_take(struct sc_prefix *p, uint32_t node, uint32_t *ret_snap)
{
    SC_ASSERT(p->nodes[node].snap == NO_SNAP);
    if (p->n_free_snaps == 0)
        return false;
    *ret_snap = p->nodes[node].snap = p->free_snaps[--p->n_free_snaps];
    return true;
}

void sc_prefix_snap_live(struct sc_prefix *p, uint32_t node, uint32_t min_logical, uint32_t n_pages,
                         uint64_t now_us)
{
    struct node *n = &p->nodes[node];
    SC_ASSERT(n->snap != NO_SNAP && !n->live);
    n->live = true;
    n->min_logical = min_logical;
    n->n_pages = n_pages;
    p->n_live++;
    touch(p, node, now_us);
}

void sc_prefix_lock(struct sc_prefix *p, uint32_t node)
{
    p->nodes[node].locks++;
    p->nodes[node].holds++;
}

void sc_prefix_unlock(struct sc_prefix *p, uint32_t node)
{
    SC_ASSERT(p->nodes[node].locks > 0);
    p->nodes[node].locks--;
    sc_prefix_unhold(p, node);
}

uint32_t sc_prefix_snap_remove(struct sc_prefix *p, uint32_t node)
{
    struct node *n = &p->nodes[node];
    uint32_t snap = n->snap;
    SC_ASSERT(snap != NO_SNAP && n->locks == 0);
    unlink_lru(p, node);
    p->n_live -= n->live;
    n->live = false;
    n->snap = NO_SNAP;
    n->retained = false;
    n->pin_until_us = 0;
    prune(p, node);
    return snap;
}

void sc_prefix_snap_give(struct sc_prefix *p, uint32_t snap)
{
    SC_ASSERT(p->n_free_snaps < p->max_snaps);
    p->free_snaps[p->n_free_snaps++] = snap;
}

void sc_prefix_reset(struct sc_prefix *p)
{
    for (uint32_t i = 0; i < p->max_nodes; i++)
        if (p->nodes[i].in_use && p->nodes[i].snap != NO_SNAP)
            sc_prefix_snap_give(p, sc_prefix_snap_remove(p, i));
}

uint32_t sc_prefix_victim(const struct sc_prefix *p)
{
    for (int l = LIST_TAILS; l <= LIST_DOCUMENTS; l++)
        for (uint32_t i = p->lists[l].oldest; i != SC_NODE_NONE; i = p->nodes[i].lru_next)
            if (p->nodes[i].locks == 0)
                return i;
    return SC_NODE_NONE;
}

uint32_t sc_prefix_idle(const struct sc_prefix *p, uint64_t before_us)
{
    for (int l = LIST_TAILS; l <= LIST_DOCUMENTS; l++) {
        uint32_t i = p->lists[l].oldest;
        if (i != SC_NODE_NONE && p->nodes[i].used_us < before_us && p->nodes[i].locks == 0)
            return i;
    }
    return SC_NODE_NONE;
}

void sc_prefix_retain(struct sc_prefix *p, uint32_t node, bool retain, uint64_t pin_until_us)
{
    unlink_lru(p, node);
    p->nodes[node].retained = retain;
    p->nodes[node].pin_until_us = pin_until_us;
    relist(p, node);
}

void sc_prefix_unpin_due(struct sc_prefix *p, uint64_t now_us)
{
    for (uint32_t i = p->lists[LIST_PINNED].oldest; i != SC_NODE_NONE;) {
        uint32_t next = p->nodes[i].lru_next;
        if (p->nodes[i].pin_until_us <= now_us)
            sc_prefix_retain(p, i, p->nodes[i].retained, 0);
        i = next;
    }
}

struct sc_prefix_node_info sc_prefix_node(const struct sc_prefix *p, uint32_t node)
{
    const struct node *n = &p->nodes[node];
    return (struct sc_prefix_node_info){.key = n->key,
                                        .recipe_id = n->recipe_id,
                                        .snap = n->snap,
                                        .end = n->pos0 + n->n,
                                        .n_pages = n->n_pages,
                                        .live = n->live,
                                        .retained = n->retained,
                                        .saved = n->saved,
                                        .locked = n->locks > 0,
                                        .pin_until_us = n->pin_until_us};
}

void sc_prefix_set_saved(struct sc_prefix *p, uint32_t node, bool saved)
{
    p->nodes[node].saved = saved;
}

uint32_t sc_prefix_snaps_free(const struct sc_prefix *p)
{
    return p->n_free_snaps;
}

uint32_t sc_prefix_n_live(const struct sc_prefix *p)
{
    return p->n_live;
}

uint64_t sc_prefix_pinned_pages(const struct sc_prefix *p)
{
    return p->pinned_pages;
}
