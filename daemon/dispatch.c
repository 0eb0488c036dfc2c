#include "daemon/dispatch.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct sc_dispatch {
    pthread_t thread;
    pthread_mutex_t mu; /* guards what follows */
    pthread_cond_t wake;
    struct sc_dispatch_item *head, **tail;
    bool stop;
};

static void run_list(struct sc_dispatch_item *item)
{
    while (item != NULL) {
        struct sc_dispatch_item *next = item->next;
        /* Before run: what happens from here on needs another run. */
        atomic_store_explicit(&item->queued, false, memory_order_release);
        item->run(item);
        item = next;
    }
}

static void *dispatcher(void *arg)
{
    struct sc_dispatch *d = arg;
    bool stop;

    do {
        struct sc_dispatch_item *list;
        (void)pthread_mutex_lock(&d->mu);
        while (d->head == NULL && !d->stop)
            (void)pthread_cond_wait(&d->wake, &d->mu);
        list = d->head;
        d->head = NULL;
        d->tail = &d->head;
        stop = d->stop && list == NULL;
        (void)pthread_mutex_unlock(&d->mu);
        run_list(list);
    } while (!stop);
    return NULL;
}

enum sc_status sc_dispatch_open(struct sc_dispatch **ret_dispatch, struct sc_err *err)
{
    struct sc_dispatch *d = calloc(1, sizeof(*d));
    int e;

    if (d == NULL)
        return sc_fail(err, SC_ENOMEM, "dispatcher: no memory");
    d->tail = &d->head;
    (void)pthread_mutex_init(&d->mu, NULL);
    (void)pthread_cond_init(&d->wake, NULL);
    e = pthread_create(&d->thread, NULL, dispatcher, d);
    if (e != 0) {
        (void)pthread_cond_destroy(&d->wake);
        (void)pthread_mutex_destroy(&d->mu);
        free(d);
        return sc_fail(err, SC_EIO, "dispatcher thread: %s", strerror(e));
    }
    *ret_dispatch = d;
    return SC_OK;
}

void sc_dispatch_close(struct sc_dispatch *d)
{
    if (d == NULL)
        return;
    (void)pthread_mutex_lock(&d->mu);
    d->stop = true;
    (void)pthread_cond_signal(&d->wake);
    (void)pthread_mutex_unlock(&d->mu);
    (void)pthread_join(d->thread, NULL);
    (void)pthread_cond_destroy(&d->wake);
    (void)pthread_mutex_destroy(&d->mu);
    free(d);
}

bool sc_dispatch_post(struct sc_dispatch *d, struct sc_dispatch_item *item)
{
    bool was_empty;

    if (atomic_exchange_explicit(&item->queued, true, memory_order_acq_rel))
        return false;
    item->next = NULL;
    (void)pthread_mutex_lock(&d->mu);
    was_empty = d->head == NULL;
    *d->tail = item;
    d->tail = &item->next;
    if (was_empty)
        (void)pthread_cond_signal(&d->wake);
    (void)pthread_mutex_unlock(&d->mu);
    return true;
}
