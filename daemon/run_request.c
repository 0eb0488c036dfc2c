#include "daemon/run_request.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

void sc_runner_init(struct sc_runner *r)
{
    memset(r, 0, sizeof(*r));
    (void)pthread_mutex_init(&r->mu, NULL);
    (void)pthread_cond_init(&r->over, NULL);
}

void sc_runner_fini(struct sc_runner *r)
{
    (void)pthread_cond_destroy(&r->over);
    (void)pthread_mutex_destroy(&r->mu);
}

static void on_event(void *ctx, const struct sc_event *event)
{
    struct sc_runner *r = ctx;

    if (event->kind != SC_EVENT_DONE)
        return;
    (void)pthread_mutex_lock(&r->mu);
    r->done = true;
    r->end = *event;
    r->end.text = r->end.error = r->end.stop_string = NULL;
    r->end.tokens = NULL;
    (void)snprintf(r->error, sizeof(r->error), "%s",
                   event->error != NULL ? event->error : sc_status_text(event->status));
    (void)pthread_cond_signal(&r->over);
    (void)pthread_mutex_unlock(&r->mu);
}

enum sc_status sc_runner_run(struct sc_runner *r, struct sc_sched *sched,
                             const struct sc_request_opts *opts, struct sc_event *ret_end,
                             struct sc_err *err)
{
    struct sc_request_opts o = *opts;
    struct sc_request *request;
    enum sc_status st;
    bool stopped;

    o.on_event = on_event;
    o.ctx = r;
    (void)pthread_mutex_lock(&r->mu);
    r->done = false;
    stopped = r->stopped;
    (void)pthread_mutex_unlock(&r->mu);
    if (stopped)
        return sc_fail(err, SC_ECANCELED, "stopped");
    st = sc_sched_submit(sched, &o, &request, err);
    if (st != SC_OK)
        return st;
    (void)pthread_mutex_lock(&r->mu);
    r->sched = sched;
    r->request = request;
    stopped = r->stopped;
    (void)pthread_mutex_unlock(&r->mu);
    if (stopped)
        sc_sched_cancel(sched, request);
    (void)pthread_mutex_lock(&r->mu);
    while (!r->done)
        (void)pthread_cond_wait(&r->over, &r->mu);
    r->request = NULL;
    (void)pthread_mutex_unlock(&r->mu);
    sc_request_unref(request);
    if (r->end.finish == SC_FINISH_ERROR)
        return sc_fail(err, r->end.status, "%s", r->error);
    *ret_end = r->end;
    return SC_OK;
}

void sc_runner_stop(struct sc_runner *r)
{
    (void)pthread_mutex_lock(&r->mu);
    r->stopped = true;
    if (r->request != NULL) /* under the lock: run gives it up under the lock, too */
        sc_sched_cancel(r->sched, r->request);
    (void)pthread_mutex_unlock(&r->mu);
}
