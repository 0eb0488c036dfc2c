#include "daemon/svc_events.h"

#include <inttypes.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/keys.h"
#include "proto/optional.h"
#include "semanticache/v1/control.pb-c.h"

#define READ_EVENTS  16u   /* taken from the ring at once */
#define WHOLE_EVENTS 1024u /* asked of the scheduler at once */

enum phase { CLEARED, WHOLE, SYNCED, EVENTS };

/* One open call. */
struct follower {
    struct follower *prev, *next; /* guarded by the list's lock */
    uint64_t round;               /* the same: of the telling that has reached it */
    struct sc_followers *list;
    struct sc_rpc *rpc;
    struct sc_kv_view view; /* names are the rpc's and the configuration's */
    atomic_uint refs;
    pthread_mutex_t mu; /* guards what follows */
    bool sending, closed, ended, end_wanted;
    enum phase phase;
    struct sc_kv_event *whole; /* [n_whole], until it is sent */
    uint32_t n_whole, i_whole;
    uint64_t at; /* the next event to read */
    struct sc_kv_event read[READ_EVENTS];
    uint32_t n_read, i_read;
};

struct sc_followers {
    struct sc_dispatch_item item; /* first; posted when there are events */
    struct sc_app *app;
    pthread_mutex_t mu; /* guards what follows; taken before a follower's own */
    struct follower *head;
    uint32_t n;
    uint64_t round;
    bool over; /* the server drains */
};

static void follower_unref(struct follower *f)
{
    if (atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
        return;
    sc_rpc_unref(f->rpc);
    (void)pthread_mutex_destroy(&f->mu);
    free(f->whole);
    free(f);
}

/* ---- what comes next ---- */

enum next { NEXT_NONE, NEXT_EVENT, NEXT_SYNCED, NEXT_FAIL };

/* SC_ERANGE: the ring has overrun it. */
static enum next next_read_locked(struct follower *f, struct sc_kv_event *event, struct sc_err *err)
{
    if (f->i_read == f->n_read) {
        f->i_read = f->n_read = 0;
        if (sc_kv_log_read(f->list->app->kv_log, &f->view, &f->at, f->read, READ_EVENTS, &f->n_read,
                           err) != SC_OK) {
            struct sc_err why = *err;
            sc_err_clear(err);
            (void)sc_fail(err, SC_EFULL, "the subscriber is too slow: %s; subscribe again",
                          why.text);
            return NEXT_FAIL;
        }
    }
    if (f->i_read == f->n_read)
        return NEXT_NONE;
    *event = f->read[f->i_read++];
    return NEXT_EVENT;
}

static enum next next_locked(struct follower *f, struct sc_kv_event *event, struct sc_err *err)
{
    if (f->end_wanted) {
        (void)sc_fail(err, SC_EUNAVAIL, "the server is shutting down");
        return NEXT_FAIL;
    }
    switch (f->phase) {
    case CLEARED:
        f->phase = WHOLE;
        *event = (struct sc_kv_event){.kind = SC_KV_CLEARED};
        return NEXT_EVENT;
    case WHOLE:
        if (f->i_whole < f->n_whole) {
            *event = f->whole[f->i_whole++];
            return NEXT_EVENT;
        }
        free(f->whole);
        f->whole = NULL;
        f->phase = SYNCED;
        /* fall through */
    case SYNCED:
        f->phase = EVENTS;
        event->sequence = f->at - 1;
        return NEXT_SYNCED;
    case EVENTS:
        break;
    }
    return next_read_locked(f, event, err);
}

static void send_event(struct follower *f, const struct sc_kv_event *e, bool synced)
{
    Semanticache__V1__KvEvent m = SEMANTICACHE__V1__KV_EVENT__INIT;
    Semanticache__V1__KvBlocks blocks = SEMANTICACHE__V1__KV_BLOCKS__INIT;
    Semanticache__V1__KvCleared none = SEMANTICACHE__V1__KV_CLEARED__INIT;
    Semanticache__V1__KvSynced whole = SEMANTICACHE__V1__KV_SYNCED__INIT;
    ProtobufCBinaryData key = {SC_HASH_BYTES, (uint8_t *)(uintptr_t)e->key.bytes};
    char recipe[2 * SC_HASH_BYTES + 1];

    m.sequence = e->sequence;
    if (synced) {
        m.event_case = SEMANTICACHE__V1__KV_EVENT__EVENT_SYNCED;
        m.synced = &whole;
    } else if (e->kind == SC_KV_CLEARED) {
        m.event_case = SEMANTICACHE__V1__KV_EVENT__EVENT_CLEARED;
        m.cleared = &none;
    } else {
        sc_hash_hex(&e->recipe_id, recipe);
        blocks.block_keys = &key;
        blocks.n_block_keys = 1;
        blocks.parent_key.data = (uint8_t *)(uintptr_t)e->parent.bytes;
        blocks.parent_key.len = SC_HASH_BYTES;
        blocks.recipe_id = recipe;
        blocks.block_tokens = e->n_tokens;
        blocks.start = e->start;
        blocks.namespace_ = (char *)(uintptr_t)e->ns;
        m.event_case = e->kind == SC_KV_STORED ? SEMANTICACHE__V1__KV_EVENT__EVENT_STORED
                                               : SEMANTICACHE__V1__KV_EVENT__EVENT_REMOVED;
        m.stored = &blocks; /* or removed: a union */
    }
    sc_rpc_send(f->rpc, &m.base);
}

/* Sends the next event when no message is out. */
static void pump(struct follower *f)
{
    struct sc_kv_event event = {0};
    struct sc_err err = SC_ERR_INIT;
    enum next next = NEXT_NONE;

    (void)pthread_mutex_lock(&f->mu);
    if (!f->sending && !f->closed && !f->ended)
        next = next_locked(f, &event, &err);
    f->sending = f->sending || next == NEXT_EVENT || next == NEXT_SYNCED;
    f->ended = f->ended || next == NEXT_FAIL;
    (void)pthread_mutex_unlock(&f->mu);
    if (next == NEXT_FAIL) {
        sc_rpc_fail(f->rpc, err.status, err.text);
    } else if (next != NEXT_NONE) {
        (void)atomic_fetch_add(&f->refs, 1); /* dropped by on_sent */
        send_event(f, &event, next == NEXT_SYNCED);
    }
}

static void on_sent(struct sc_rpc *rpc, void *state)
{
    struct follower *f = state;

    (void)rpc;
    (void)pthread_mutex_lock(&f->mu);
    f->sending = false;
    (void)pthread_mutex_unlock(&f->mu);
    pump(f);
    follower_unref(f);
}

static void on_closed(struct sc_rpc *rpc, void *state, bool cancelled)
{
    struct follower *f = state;

    (void)rpc;
    (void)cancelled;
    (void)pthread_mutex_lock(&f->list->mu);
    if (f->prev != NULL)
        f->prev->next = f->next;
    else
        f->list->head = f->next;
    if (f->next != NULL)
        f->next->prev = f->prev;
    f->list->n--;
    (void)pthread_mutex_unlock(&f->list->mu);
    (void)pthread_mutex_lock(&f->mu);
    f->closed = true;
    (void)pthread_mutex_unlock(&f->mu);
    follower_unref(f);
}

static const struct sc_rpc_hooks hooks = {.on_sent = on_sent, .on_closed = on_closed};

/* ---- the beginning ---- */

/* What is held now; the events from f->at on come after it. */
static enum sc_status take_whole(struct follower *f, struct sc_err *err)
{
    struct sc_sched *sched = f->list->app->sched;
    uint32_t at = 0, cap = 0, got;

    f->at = sc_kv_log_next(f->list->app->kv_log);
    while (at != UINT32_MAX) {
        if (cap - f->n_whole < WHOLE_EVENTS) {
            struct sc_kv_event *more;
            cap = f->n_whole + WHOLE_EVENTS;
            more = realloc(f->whole, cap * sizeof(*more));
            if (more == NULL)
                return sc_fail(err, SC_ENOMEM, "no memory for %u blocks", cap);
            f->whole = more;
        }
        enum sc_status st = sc_sched_kv_blocks(sched, &f->view, &at, f->whole + f->n_whole,
                                               cap - f->n_whole, &got, err);
        if (st != SC_OK)
            return st;
        f->n_whole += got;
    }
    return SC_OK;
}

/* True: the events from there on are held, and the caller knows what came before. */
static bool can_go_on(struct follower *f, const Semanticache__V1__SubscribeKvEventsRequest *request)
{
    struct sc_kv_log *log = f->list->app->kv_log;
    struct sc_err err = SC_ERR_INIT;

    f->at = SC_PB_GET(request, from_sequence, 0);
    return SC_PB_HAS(request, from_sequence) &&
           sc_kv_log_read(log, &f->view, &f->at, f->read, READ_EVENTS, &f->n_read, &err) == SC_OK;
}

static struct follower *follower_new(struct sc_followers *list, struct sc_rpc *rpc)
{
    const struct sc_identity *who = sc_rpc_identity(rpc);
    const char *shared = list->app->config->shared_namespace;
    struct follower *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return NULL;
    f->list = list;
    f->rpc = rpc;
    sc_rpc_ref(rpc);
    f->view = (struct sc_kv_view){
        .all = who->admin, .ns = who->ns, .shared_ns = shared[0] != '\0' ? shared : NULL};
    atomic_init(&f->refs, 2); /* the open call's and ours */
    (void)pthread_mutex_init(&f->mu, NULL);
    return f;
}

static enum sc_status join(struct sc_followers *list, struct follower *f, struct sc_err *err)
{
    enum sc_status st = SC_OK;

    (void)pthread_mutex_lock(&list->mu);
    if (list->n == SC_FOLLOWERS_MAX) {
        st = sc_fail(err, SC_EFULL, "subscribers: %u, limit %u", list->n, SC_FOLLOWERS_MAX);
    } else {
        f->end_wanted = list->over;
        f->round = list->round;
        f->next = list->head;
        if (list->head != NULL)
            list->head->prev = f;
        list->head = f;
        list->n++;
    }
    (void)pthread_mutex_unlock(&list->mu);
    return st;
}

void sc_control_subscribe_kv_events(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    struct sc_app *app = sc_rpc_app(rpc);
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = SC_OK;
    struct follower *f;

    if (app->kv_log == NULL) {
        sc_rpc_fail(rpc, SC_ERANGE, "there are no events: prefixes are not shared (kv.sharing)");
        return;
    }
    f = follower_new(app->followers, rpc);
    if (f == NULL) {
        sc_rpc_fail(rpc, SC_ENOMEM, "no memory for the subscription");
        return;
    }
    if (can_go_on(f, (const Semanticache__V1__SubscribeKvEventsRequest *)message))
        f->phase = EVENTS;
    else
        st = take_whole(f, &err);
    if (st == SC_OK)
        st = join(app->followers, f, &err);
    if (st != SC_OK) {
        sc_rpc_fail(rpc, st, err.text);
        follower_unref(f); /* there will be no on_closed */
    } else {
        sc_rpc_set_hooks(rpc, &hooks, f);
        pump(f);
    }
    follower_unref(f);
}

/* ---- all of them ---- */

/* One that this round has not reached; referenced. */
static struct follower *next_unaware(struct sc_followers *list)
{
    struct follower *f;

    (void)pthread_mutex_lock(&list->mu);
    for (f = list->head; f != NULL && f->round == list->round; f = f->next)
        ;
    if (f != NULL) {
        (void)atomic_fetch_add(&f->refs, 1);
        f->round = list->round;
        (void)pthread_mutex_lock(&f->mu);
        f->end_wanted = list->over;
        (void)pthread_mutex_unlock(&f->mu);
    }
    (void)pthread_mutex_unlock(&list->mu);
    return f;
}

static void tell_all(struct sc_followers *list, bool over)
{
    struct follower *f;

    (void)pthread_mutex_lock(&list->mu);
    list->round++;
    list->over = list->over || over;
    (void)pthread_mutex_unlock(&list->mu);
    while ((f = next_unaware(list)) != NULL) { /* no lock is held across a send */
        pump(f);
        follower_unref(f);
    }
}

static void run_item(struct sc_dispatch_item *item)
{
    tell_all((struct sc_followers *)item, false);
}

enum sc_status sc_followers_open(struct sc_app *app, struct sc_followers **ret_followers,
                                 struct sc_err *err)
{
    struct sc_followers *list = calloc(1, sizeof(*list));

    if (list == NULL)
        return sc_fail(err, SC_ENOMEM, "subscribers: no memory");
    list->item.run = run_item;
    list->app = app;
    (void)pthread_mutex_init(&list->mu, NULL);
    *ret_followers = list;
    return SC_OK;
}

void sc_followers_close(struct sc_followers *list)
{
    if (list == NULL)
        return;
    SC_ASSERT(list->head == NULL);
    (void)pthread_mutex_destroy(&list->mu);
    free(list);
}

void sc_followers_tell(void *followers)
{
    struct sc_followers *list = followers;

    (void)sc_dispatch_post(list->app->dispatch, &list->item);
}

void sc_followers_end(struct sc_followers *list)
{
    bool told;

    (void)pthread_mutex_lock(&list->mu);
    told = list->over;
    (void)pthread_mutex_unlock(&list->mu);
    if (!told)
        tell_all(list, true);
}
