/* What other threads ask of the prefixes: they wait, and the scheduler's thread answers between two
 * steps. */
#include <string.h>

#include "scheduler/internal.h"

static void answer_item(struct sc_sched *s, struct sc_prefix_item *item)
{
    uint32_t node = s->prefix != NULL ? sc_prefix_lookup(s->prefix, &item->key) : SC_NODE_NONE;
    struct sc_prefix_node_info info = {.live = false};
    if (node != SC_NODE_NONE)
        info = sc_prefix_node(s->prefix, node);
    item->status = SC_OK;
    if (item->op == SC_PREFIX_PIN)
        item->status = info.live ? sc_share_pin(s, node, item->until_us) : SC_ENOENT;
    if (item->op == SC_PREFIX_UNPIN && info.live)
        sc_prefix_retain(s->prefix, node, info.retained, 0);
    if (item->op == SC_PREFIX_FORGET) {
        if (info.live && info.locked) /* in use: it goes as any other */
            sc_prefix_retain(s->prefix, node, false, 0);
        else if (info.live && s->n_drops < SC_PLAN_DROPS_MAX)
            (void)sc_share_drop(s, node);
        if (s->store != NULL)
            sc_store_remove(s->store, &item->key);
        info.live = false;
    }
    item->pages = info.live ? info.n_pages : 0;
    item->state =
        info.live ? SC_PREFIX_DEVICE
        : item->op != SC_PREFIX_FORGET && s->store != NULL && sc_store_has(s->store, &item->key)
            ? SC_PREFIX_STORED
            : SC_PREFIX_ABSENT;
}

/* In pieces of a plan's drops. Called with no chores pending; nothing runs meanwhile. */
static void flush(struct sc_sched *s, struct sc_order *order)
{
    struct sc_engine_info before, after;
    sc_engine_get_info(s->engine, &before);
    while (sc_share_evict(s, NULL)) {
        struct sc_err err = SC_ERR_INIT;
        while (sc_share_evict(s, NULL))
            continue;
        const struct sc_plan plan = {.drops = s->drops, .n_drops = s->n_drops};
        order->status = sc_engine_step(s->engine, &plan, s->results, &err);
        if (order->status != SC_OK)
            return; /* the next step meets the same, and resets the engine */
        sc_share_commit(s);
    }
    sc_engine_get_info(s->engine, &after);
    order->pages = after.n_pages_free - before.n_pages_free;
}

/* Who asks next is told what a flush freed, or a pin took away. */
static void publish_pages(struct sc_sched *s)
{
    struct sc_engine_info info;
    uint32_t cached = sc_plan_pages_cached(s, &info);
    pthread_mutex_lock(&s->mu);
    s->stats.pages_free = info.n_pages_free;
    s->stats.pages_cached = cached;
    s->stats.snapshots = sc_prefix_n_live(s->prefix);
    pthread_mutex_unlock(&s->mu);
}

static void answer(struct sc_sched *s, struct sc_order *order)
{
    struct sc_kv_list *list = order->list;
    order->status = SC_OK;
    if (list != NULL)
        list->n = sc_prefix_list(s->prefix, list->view, &list->at, list->events, list->cap);
    if (order->look != NULL)
        sc_lookup_answer(s, order->look);
    for (size_t i = 0; i < order->n; i++)
        answer_item(s, &order->items[i]);
    if (order->flush && s->prefix != NULL)
        flush(s, order);
    if ((order->flush || order->n > 0) && s->prefix != NULL)
        publish_pages(s);
}

/* The next that can be answered now, in order of arrival. */
static struct sc_order *take_order(struct sc_sched *s, bool any)
{
    pthread_mutex_lock(&s->mu);
    struct sc_order **link = &s->orders;
    while (*link != NULL && !any && (*link)->list == NULL && (*link)->look == NULL)
        link = &(*link)->next;
    struct sc_order *order = *link;
    if (order != NULL)
        *link = order->next;
    pthread_mutex_unlock(&s->mu);
    return order;
}

void sc_orders_answer(struct sc_sched *s, enum sc_status refuse)
{
    for (;;) {
        /* An answer may itself give the plan something to do. */
        bool any = refuse != SC_OK || !sc_plan_has_chores(s);
        struct sc_order *order = take_order(s, any);
        if (order == NULL)
            return;
        if (refuse == SC_OK)
            answer(s, order);
        else
            order->status = refuse;
        pthread_mutex_lock(&s->mu);
        order->done = true; /* its memory is its caller's again */
        pthread_cond_broadcast(&s->answered);
        pthread_mutex_unlock(&s->mu);
    }
}

enum sc_status sc_orders_give(struct sc_sched *s, struct sc_order *order, struct sc_err *err)
{
    pthread_mutex_lock(&s->mu);
    if (s->closing) {
        pthread_mutex_unlock(&s->mu);
        return sc_fail(err, SC_EUNAVAIL, "the server is shutting down");
    }
    struct sc_order **tail = &s->orders;
    while (*tail != NULL)
        tail = &(*tail)->next;
    *tail = order;
    pthread_cond_signal(&s->wake);
    while (!order->done)
        pthread_cond_wait(&s->answered, &s->mu);
    pthread_mutex_unlock(&s->mu);
    if (order->status != SC_OK)
        return sc_fail(err, order->status, "%s", sc_status_text(order->status));
    return SC_OK;
}

enum sc_status sc_sched_prefixes(struct sc_sched *sched, struct sc_prefix_item *items, size_t n,
                                 struct sc_err *err)
{
    struct sc_order order = {.items = items, .n = n};
    return sc_orders_give(sched, &order, err);
}

enum sc_status sc_sched_flush(struct sc_sched *sched, uint64_t *ret_pages, struct sc_err *err)
{
    struct sc_order order = {.flush = true};
    enum sc_status st = sc_orders_give(sched, &order, err);
    if (st == SC_OK)
        *ret_pages = order.pages;
    return st;
}

struct sc_kv_log *sc_sched_kv_log(struct sc_sched *sched)
{
    return sched->kv_log;
}

enum sc_status sc_sched_kv_blocks(struct sc_sched *sched, const struct sc_kv_view *view,
                                  uint32_t *at, struct sc_kv_event *events, uint32_t cap,
                                  uint32_t *ret_n, struct sc_err *err)
{
    struct sc_kv_list list = {.view = view, .at = *at, .events = events, .cap = cap};
    struct sc_order order = {.list = &list};
    SC_ASSERT(sched->prefix != NULL && cap > 0);
    enum sc_status st = sc_orders_give(sched, &order, err);
    if (st != SC_OK)
        return st;
    *at = list.at;
    *ret_n = list.n;
    return SC_OK;
}
