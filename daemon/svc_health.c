#include "daemon/services.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "grpc/health/v1/health.pb-c.h"

typedef Grpc__Health__V1__HealthCheckResponse Response;
typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus Serving;

#define UNKNOWN     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN
#define SERVING     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING

/* One Watch call. */
struct watcher {
    struct watcher *prev, *next; /* guarded by the watchers' lock */
    uint64_t version;            /* the same: of the state it was told to tell */
    struct sc_watchers *list;
    struct sc_rpc *rpc;
    bool known;  /* the service exists */
    bool served; /* and has methods that are served */
    atomic_uint refs;
    pthread_mutex_t mu; /* guards what follows */
    bool sending, closed, ended;
    bool told; /* last is what the client knows */
    Serving last, wanted;
    bool end_wanted;
};

struct sc_watchers {
    pthread_mutex_t mu; /* guards what follows; taken before a watcher's own */
    struct watcher *head;
    enum sc_health_state state;
    uint64_t version; /* of the state */
};

static Serving serving(enum sc_health_state state, bool known, bool served)
{
    if (!known)
        return UNKNOWN;
    return served && state == SC_HEALTH_READY ? SERVING : NOT_SERVING;
}

/* "" is the server as a whole. */
static bool find_service(const char *name, bool *ret_served)
{
    *ret_served = true;
    if (name[0] == '\0')
        return true;
    for (size_t i = 0; i < sc_n_services; i++) {
        if (strcmp(sc_services[i]->descriptor->name, name) == 0) {
            *ret_served = sc_service_is_served(sc_services[i]);
            return true;
        }
    }
    return false;
}

static void check(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const char *name = ((const Grpc__Health__V1__HealthCheckRequest *)message)->service;
    Response m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    struct sc_err err = SC_ERR_INIT;
    bool served;

    if (!find_service(name, &served)) {
        (void)sc_fail(&err, SC_ENOENT, "service: there is no \"%.100s\" here", name);
        sc_rpc_fail(rpc, SC_ENOENT, err.text);
        return;
    }
    m.status = serving(atomic_load(&sc_rpc_app(rpc)->state), true, served);
    sc_rpc_reply(rpc, &m.base);
}

/* ---- Watch ---- */

static void watcher_unref(struct watcher *w)
{
    if (atomic_fetch_sub_explicit(&w->refs, 1, memory_order_acq_rel) != 1)
        return;
    sc_rpc_unref(w->rpc);
    (void)pthread_mutex_destroy(&w->mu);
    free(w);
}

/* Sends what the client does not know yet, when no message is out. */
static void watcher_pump(struct watcher *w)
{
    Response m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    bool send = false, end = false;

    (void)pthread_mutex_lock(&w->mu);
    if (!w->sending && !w->closed && !w->ended) {
        send = !w->told || w->last != w->wanted;
        end = !send && w->end_wanted;
        w->last = m.status = w->wanted;
        w->told = true;
        w->sending = send;
        w->ended = end;
    }
    (void)pthread_mutex_unlock(&w->mu);
    if (send) {
        (void)atomic_fetch_add(&w->refs, 1); /* dropped by on_sent */
        sc_rpc_send(w->rpc, &m.base);
    } else if (end) {
        sc_rpc_fail(w->rpc, SC_EUNAVAIL, "the server is shutting down");
    }
}

static void on_sent(struct sc_rpc *rpc, void *state)
{
    struct watcher *w = state;

    (void)rpc;
    (void)pthread_mutex_lock(&w->mu);
    w->sending = false;
    (void)pthread_mutex_unlock(&w->mu);
    watcher_pump(w);
    watcher_unref(w);
}

static void on_closed(struct sc_rpc *rpc, void *state, bool cancelled)
{
    struct watcher *w = state;

    (void)rpc;
    (void)cancelled;
    (void)pthread_mutex_lock(&w->list->mu);
    if (w->prev != NULL)
        w->prev->next = w->next;
    else
        w->list->head = w->next;
    if (w->next != NULL)
        w->next->prev = w->prev;
    (void)pthread_mutex_unlock(&w->list->mu);
    (void)pthread_mutex_lock(&w->mu);
    w->closed = true;
    (void)pthread_mutex_unlock(&w->mu);
    watcher_unref(w);
}

static const struct sc_rpc_hooks hooks = {.on_sent = on_sent, .on_closed = on_closed};

static void watch(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const char *name = ((const Grpc__Health__V1__HealthCheckRequest *)message)->service;
    struct sc_watchers *list = sc_rpc_app(rpc)->watchers;
    struct watcher *w = calloc(1, sizeof(*w));

    if (w == NULL) {
        sc_rpc_fail(rpc, SC_ENOMEM, "no memory for the subscription");
        return;
    }
    w->list = list;
    w->rpc = rpc;
    sc_rpc_ref(rpc);
    w->known = find_service(name, &w->served);
    atomic_init(&w->refs, 2); /* the open call's and ours */
    (void)pthread_mutex_init(&w->mu, NULL);
    (void)pthread_mutex_lock(&list->mu);
    w->wanted = serving(list->state, w->known, w->served);
    w->end_wanted = list->state == SC_HEALTH_DRAINING;
    w->version = list->version;
    w->next = list->head;
    if (list->head != NULL)
        list->head->prev = w;
    list->head = w;
    (void)pthread_mutex_unlock(&list->mu);
    sc_rpc_set_hooks(rpc, &hooks, w);
    watcher_pump(w);
    watcher_unref(w);
}

enum sc_status sc_watchers_open(struct sc_watchers **ret_watchers, struct sc_err *err)
{
    struct sc_watchers *list = calloc(1, sizeof(*list));

    if (list == NULL)
        return sc_fail(err, SC_ENOMEM, "health: no memory");
    (void)pthread_mutex_init(&list->mu, NULL);
    list->state = SC_HEALTH_LOADING;
    *ret_watchers = list;
    return SC_OK;
}

void sc_watchers_close(struct sc_watchers *list)
{
    if (list == NULL)
        return;
    SC_ASSERT(list->head == NULL);
    (void)pthread_mutex_destroy(&list->mu);
    free(list);
}

/* Takes one watcher that has not heard of the present state; referenced. */
static struct watcher *next_unaware(struct sc_watchers *list)
{
    struct watcher *w;

    (void)pthread_mutex_lock(&list->mu);
    for (w = list->head; w != NULL && w->version == list->version; w = w->next)
        ;
    if (w != NULL) {
        (void)atomic_fetch_add(&w->refs, 1);
        w->version = list->version;
        (void)pthread_mutex_lock(&w->mu);
        w->wanted = serving(list->state, w->known, w->served);
        w->end_wanted = list->state == SC_HEALTH_DRAINING;
        (void)pthread_mutex_unlock(&w->mu);
    }
    (void)pthread_mutex_unlock(&list->mu);
    return w;
}

void sc_watchers_tell(struct sc_watchers *list, enum sc_health_state state)
{
    struct watcher *w;

    (void)pthread_mutex_lock(&list->mu);
    if (list->state != state) {
        list->state = state;
        list->version++;
    }
    (void)pthread_mutex_unlock(&list->mu);
    while ((w = next_unaware(list)) != NULL) { /* no lock is held across a send */
        watcher_pump(w);
        watcher_unref(w);
    }
}

static const struct sc_service_method methods[] = {
    {.name = "Check", .handler = check, .open_to_all = true, .always = true},
    {.name = "Watch", .handler = watch, .open_to_all = true, .always = true, .background = true},
};

const struct sc_service sc_service_health = {
    &grpc__health__v1__health__descriptor,
    methods,
    SC_ARRAY_LEN(methods),
};
