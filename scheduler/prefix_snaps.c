/* Snapshots on the nodes, and the lists that say which goes first. */
#include <string.h>

#include "scheduler/prefix_internal.h"

/* ---- lists ---- */

void sc_prefix_unlink_lru(struct sc_prefix *p, uint32_t i)
{
    struct sc_prefix_node *n = &p->nodes[i];
    if (n->list == LIST_NONE)
        return;
    struct sc_prefix_lru *l = &p->lists[n->list];
    *(n->lru_prev != SC_NODE_NONE ? &p->nodes[n->lru_prev].lru_next : &l->oldest) = n->lru_next;
    *(n->lru_next != SC_NODE_NONE ? &p->nodes[n->lru_next].lru_prev : &l->newest) = n->lru_prev;
    if (n->list == LIST_PINNED)
        p->pinned_pages -= n->n_pages;
    n->list = LIST_NONE;
}

void sc_prefix_relist(struct sc_prefix *p, uint32_t i)
{
    struct sc_prefix_node *n = &p->nodes[i];
    sc_prefix_unlink_lru(p, i);
    if (!n->live)
        return;
    n->list = n->pin_until_us != 0                 ? LIST_PINNED
              : n->retained                        ? LIST_DOCUMENTS
              : n->compressed && n->n_children > 0 ? LIST_TAILS
                                                   : LIST_RECENT;
    struct sc_prefix_lru *l = &p->lists[n->list];
    n->lru_next = SC_NODE_NONE;
    n->lru_prev = l->newest;
    *(l->newest != SC_NODE_NONE ? &p->nodes[l->newest].lru_next : &l->oldest) = i;
    l->newest = i;
    if (n->list == LIST_PINNED)
        p->pinned_pages += n->n_pages;
}

void sc_prefix_touch(struct sc_prefix *p, uint32_t i, uint64_t now_us)
{
    for (; i != SC_NODE_NONE; i = p->nodes[i].parent) {
        p->nodes[i].used_us = now_us;
        sc_prefix_relist(p, i);
    }
}

/* ---- snapshots ---- */

static struct sc_kv_event event_of(const struct sc_prefix *p, uint32_t i,
                                   enum sc_kv_event_kind kind)
{
    const struct sc_prefix_node *n = &p->nodes[i];
    struct sc_kv_event e = {
        .kind = kind, .start = n->pos0, .n_tokens = n->n, .key = n->key, .recipe_id = n->recipe_id};
    if (n->parent != SC_NODE_NONE)
        e.parent = p->nodes[n->parent].key;
    memcpy(e.ns, sc_prefix_ns(p, i), sizeof(e.ns));
    return e;
}

static void tell(struct sc_prefix *p, uint32_t i, enum sc_kv_event_kind kind)
{
    if (p->log == NULL)
        return;
    struct sc_kv_event e = event_of(p, i, kind);
    sc_kv_log_add(p->log, &e);
}

uint32_t sc_prefix_list(const struct sc_prefix *p, const struct sc_kv_view *view, uint32_t *at,
                        struct sc_kv_event *events, uint32_t cap)
{
    uint32_t n = 0, i = *at;
    for (; i < p->n_touched && i - *at < SC_PREFIX_LIST_SCAN && n < cap; i++)
        if (p->nodes[i].in_use && p->nodes[i].live &&
            sc_kv_view_shows(view, SC_KV_STORED, sc_prefix_ns(p, i)))
            events[n++] = event_of(p, i, SC_KV_STORED);
    *at = i < p->n_touched ? i : UINT32_MAX;
    return n;
}

bool sc_prefix_snap_take(struct sc_prefix *p, uint32_t node, uint32_t *ret_snap)
{
    SC_ASSERT(p->nodes[node].snap == SC_NO_SNAP);
    if (p->n_free_snaps == 0)
        return false;
    *ret_snap = p->nodes[node].snap = p->free_snaps[--p->n_free_snaps];
    return true;
}

void sc_prefix_snap_live(struct sc_prefix *p, uint32_t node, uint32_t min_logical, uint32_t n_pages,
                         uint64_t now_us)
{
    struct sc_prefix_node *n = &p->nodes[node];
    SC_ASSERT(n->snap != SC_NO_SNAP && !n->live);
    n->live = true;
    n->min_logical = min_logical;
    n->n_pages = n_pages;
    p->n_live++;
    sc_prefix_touch(p, node, now_us);
    tell(p, node, SC_KV_STORED);
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

static uint32_t snap_remove(struct sc_prefix *p, uint32_t node)
{
    struct sc_prefix_node *n = &p->nodes[node];
    uint32_t snap = n->snap;
    SC_ASSERT(snap != SC_NO_SNAP && n->locks == 0);
    sc_prefix_unlink_lru(p, node);
    p->n_live -= n->live;
    p->pins_version += n->pin_until_us != 0;
    n->live = false;
    n->snap = SC_NO_SNAP;
    n->retained = false;
    n->pin_until_us = 0;
    sc_prefix_prune(p, node);
    return snap;
}

uint32_t sc_prefix_snap_remove(struct sc_prefix *p, uint32_t node)
{
    if (p->nodes[node].live)
        tell(p, node, SC_KV_REMOVED);
    return snap_remove(p, node);
}

void sc_prefix_snap_give(struct sc_prefix *p, uint32_t snap)
{
    SC_ASSERT(p->n_free_snaps < p->max_snaps);
    p->free_snaps[p->n_free_snaps++] = snap;
}

void sc_prefix_reset(struct sc_prefix *p)
{
    for (uint32_t i = 0; i < p->max_nodes; i++)
        if (p->nodes[i].in_use && p->nodes[i].snap != SC_NO_SNAP)
            sc_prefix_snap_give(p, snap_remove(p, i));
    struct sc_kv_event cleared = {.kind = SC_KV_CLEARED};
    if (p->log != NULL)
        sc_kv_log_add(p->log, &cleared);
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
        for (; i != SC_NODE_NONE && p->nodes[i].used_us < before_us; i = p->nodes[i].lru_next)
            if (p->nodes[i].locks == 0)
                return i;
    }
    return SC_NODE_NONE;
}

void sc_prefix_retain(struct sc_prefix *p, uint32_t node, bool retain, uint64_t pin_until_us)
{
    sc_prefix_unlink_lru(p, node);
    p->pins_version += (p->nodes[node].pin_until_us != 0) != (pin_until_us != 0);
    p->nodes[node].retained = retain;
    p->nodes[node].pin_until_us = pin_until_us;
    sc_prefix_relist(p, node);
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

uint32_t sc_prefix_next_pinned(const struct sc_prefix *p, uint32_t node)
{
    return node == SC_NODE_NONE ? p->lists[LIST_PINNED].oldest : p->nodes[node].lru_next;
}

uint64_t sc_prefix_pins_version(const struct sc_prefix *p)
{
    return p->pins_version;
}

uint64_t sc_prefix_pin_ends(const struct sc_prefix *p)
{
    uint64_t first = UINT64_MAX;
    for (uint32_t i = p->lists[LIST_PINNED].oldest; i != SC_NODE_NONE; i = p->nodes[i].lru_next)
        if (p->nodes[i].pin_until_us < first)
            first = p->nodes[i].pin_until_us;
    return first;
}

struct sc_prefix_node_info sc_prefix_node(const struct sc_prefix *p, uint32_t node)
{
    const struct sc_prefix_node *n = &p->nodes[node];
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
