#include "scheduler/kv_log.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct sc_kv_log {
    pthread_mutex_t mu; /* guards what follows */
    uint64_t first, next;
    struct sc_kv_event ring[SC_KV_LOG_EVENTS]; /* number n is at n % SC_KV_LOG_EVENTS */
};

bool sc_kv_view_shows(const struct sc_kv_view *view, enum sc_kv_event_kind kind, const char *ns)
{
    return view->all || kind == SC_KV_CLEARED || strcmp(ns, view->ns) == 0 ||
           (view->shared_ns != NULL && strcmp(ns, view->shared_ns) == 0);
}

enum sc_status sc_kv_log_open(uint64_t first, struct sc_kv_log **ret_log, struct sc_err *err)
{
    struct sc_kv_log *log = calloc(1, sizeof(*log));
    if (log == NULL)
        return sc_fail(err, SC_ENOMEM, "events of the cache: %zu bytes", sizeof(*log));
    pthread_mutex_init(&log->mu, NULL);
    log->first = log->next = first;
    *ret_log = log;
    return SC_OK;
}

void sc_kv_log_close(struct sc_kv_log *log)
{
    if (log == NULL)
        return;
    pthread_mutex_destroy(&log->mu);
    free(log);
}

void sc_kv_log_add(struct sc_kv_log *log, struct sc_kv_event *event)
{
    pthread_mutex_lock(&log->mu);
    event->sequence = log->next++;
    log->ring[event->sequence % SC_KV_LOG_EVENTS] = *event;
    pthread_mutex_unlock(&log->mu);
}

uint64_t sc_kv_log_next(struct sc_kv_log *log)
{
    pthread_mutex_lock(&log->mu);
    uint64_t next = log->next;
    pthread_mutex_unlock(&log->mu);
    return next;
}

static uint64_t oldest_locked(const struct sc_kv_log *log)
{
    return log->next - log->first > SC_KV_LOG_EVENTS ? log->next - SC_KV_LOG_EVENTS : log->first;
}

uint64_t sc_kv_log_oldest(struct sc_kv_log *log)
{
    pthread_mutex_lock(&log->mu);
    uint64_t oldest = oldest_locked(log);
    pthread_mutex_unlock(&log->mu);
    return oldest;
}

/* A part of the way, so that the writer never waits for a long one. */
static enum sc_status read_some(struct sc_kv_log *log, const struct sc_kv_view *view, uint64_t *at,
                                struct sc_kv_event *events, uint32_t cap, uint32_t *n, bool *more,
                                struct sc_err *err)
{
    enum sc_status st = SC_OK;
    pthread_mutex_lock(&log->mu);
    uint64_t oldest = oldest_locked(log);
    if (*at < oldest || *at > log->next)
        st = sc_fail(err, SC_ERANGE, "event %" PRIu64 ": those held are %" PRIu64 "..%" PRIu64, *at,
                     oldest, log->next - 1);
    for (uint32_t i = 0; st == SC_OK && i < SC_KV_LOG_SCAN && *at < log->next && *n < cap; i++) {
        const struct sc_kv_event *e = &log->ring[(*at)++ % SC_KV_LOG_EVENTS];
        if (sc_kv_view_shows(view, e->kind, e->ns))
            events[(*n)++] = *e;
    }
    *more = st == SC_OK && *at < log->next && *n < cap;
    pthread_mutex_unlock(&log->mu);
    return st;
}

enum sc_status sc_kv_log_read(struct sc_kv_log *log, const struct sc_kv_view *view, uint64_t *at,
                              struct sc_kv_event *events, uint32_t cap, uint32_t *ret_n,
                              struct sc_err *err)
{
    uint64_t to = *at;
    uint32_t n = 0;
    bool more = true;
    while (more) {
        enum sc_status st = read_some(log, view, &to, events, cap, &n, &more, err);
        if (st != SC_OK)
            return st;
    }
    *at = to;
    *ret_n = n;
    return SC_OK;
}
