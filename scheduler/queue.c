#include "scheduler/queue.h"

#include <stdlib.h>

#define N_LEVELS (2u * SC_PRIORITY_MAX + 1u)

struct list {
    struct sc_request *head, *tail;
};

/* One priority. */
struct level {
    uint32_t n;
    struct list preempted;             /* the last one first */
    uint64_t some[SC_NS_BUCKETS / 64]; /* bit of a bucket: its list is not empty */
    struct list buckets[SC_NS_BUCKETS];
};

struct sc_queue {
    uint32_t n;
    uint64_t n_arrived;
    uint32_t top; /* no level above it has anybody */
    struct level levels[N_LEVELS];
};

enum sc_status sc_queue_open(struct sc_queue **ret_queue, struct sc_err *err)
{
    struct sc_queue *q = calloc(1, sizeof(*q));
    if (q == NULL)
        return sc_fail(err, SC_ENOMEM, "a queue: %zu bytes", sizeof(*q));
    *ret_queue = q;
    return SC_OK;
}

void sc_queue_close(struct sc_queue *q)
{
    free(q);
}

uint32_t sc_queue_n(const struct sc_queue *q)
{
    return q->n;
}

static uint32_t level_of(const struct sc_request *r)
{
    SC_ASSERT(r->priority >= -SC_PRIORITY_MAX && r->priority <= SC_PRIORITY_MAX);
    return (uint32_t)(r->priority + SC_PRIORITY_MAX);
}

static struct list *list_of(struct level *l, const struct sc_request *r)
{
    return r->preempted ? &l->preempted : &l->buckets[r->ns_bucket];
}

static void mark(struct level *l, uint32_t bucket)
{
    uint64_t bit = UINT64_C(1) << (bucket % 64);
    if (l->buckets[bucket].head != NULL)
        l->some[bucket / 64] |= bit;
    else
        l->some[bucket / 64] &= ~bit;
}

void sc_queue_push(struct sc_queue *q, struct sc_request *r)
{
    uint32_t i = level_of(r);
    struct level *l = &q->levels[i];
    struct list *list = list_of(l, r);
    r->arrival = ++q->n_arrived;
    r->next = r->preempted ? list->head : NULL;
    if (list->head == NULL)
        list->head = list->tail = r;
    else if (r->preempted)
        list->head = r;
    else
        list->tail = list->tail->next = r;
    mark(l, r->ns_bucket);
    q->top = i > q->top ? i : q->top;
    l->n++;
    q->n++;
}

static struct sc_request *next_of(const struct level *l, const uint64_t *served)
{
    struct sc_request *best = l->preempted.head;
    if (best != NULL)
        return best;
    for (uint32_t w = 0; w < SC_NS_BUCKETS / 64; w++)
        for (uint64_t left = l->some[w]; left != 0; left &= left - 1) {
            struct sc_request *r = l->buckets[w * 64 + (uint32_t)__builtin_ctzll(left)].head;
            uint64_t mine = served[r->ns_bucket];
            if (best == NULL || mine < served[best->ns_bucket] ||
                (mine == served[best->ns_bucket] && r->arrival < best->arrival))
                best = r;
        }
    return best;
}

struct sc_request *sc_queue_next(const struct sc_queue *q, const uint64_t *served)
{
    if (q->n == 0)
        return NULL;
    uint32_t i = q->top;
    while (q->levels[i].n == 0)
        i--;
    return next_of(&q->levels[i], served);
}

/* before: in the same list, or NULL. */
static void unlink_after(struct sc_queue *q, struct level *l, struct list *list,
                         struct sc_request *before, struct sc_request *r)
{
    *(before != NULL ? &before->next : &list->head) = r->next;
    if (list->tail == r)
        list->tail = before;
    r->next = NULL;
    mark(l, r->ns_bucket);
    l->n--;
    q->n--;
    while (q->top > 0 && q->levels[q->top].n == 0)
        q->top--;
}

void sc_queue_take(struct sc_queue *q, struct sc_request *r)
{
    struct level *l = &q->levels[level_of(r)];
    struct list *list = list_of(l, r);
    SC_ASSERT(list->head == r);
    unlink_after(q, l, list, NULL, r);
}

static void sweep_list(struct sc_queue *q, struct level *l, struct list *list,
                       bool (*leaves)(void *ctx, const struct sc_request *r), void *ctx,
                       struct sc_request **gone)
{
    struct sc_request *before = NULL, *next;
    for (struct sc_request *r = list->head; r != NULL; r = next) {
        next = r->next;
        if (!leaves(ctx, r)) {
            before = r;
            continue;
        }
        unlink_after(q, l, list, before, r);
        r->next = *gone;
        *gone = r;
    }
}

struct sc_request *sc_queue_sweep(struct sc_queue *q,
                                  bool (*leaves)(void *ctx, const struct sc_request *r), void *ctx)
{
    struct sc_request *gone = NULL;
    for (uint32_t i = 0; i < N_LEVELS; i++) {
        struct level *l = &q->levels[i];
        if (l->n == 0)
            continue;
        sweep_list(q, l, &l->preempted, leaves, ctx, &gone);
        for (uint32_t b = 0; b < SC_NS_BUCKETS; b++)
            sweep_list(q, l, &l->buckets[b], leaves, ctx, &gone);
    }
    return gone;
}
