/* daemon/app.h - what the daemon is made of, as handlers see it.
 *
 * Life: open (cheap), load (long, on a thread of its own, while the server already answers health
 * checks), then ready. Handlers other than `always` ones run only when load has finished, so they
 * read model, engine facts and sched freely: these do not change any more until all calls are over.
 * Threads: state, admission and drain wishes are atomic; the rest is written before ready.
 */
#ifndef SC_DAEMON_APP_H
#define SC_DAEMON_APP_H

#include <stdatomic.h>

#include "daemon/config.h"
#include "daemon/dispatch.h"
#include "daemon/health.h"
#include "daemon/registry.h"
#include "model/chat_template.h"
#include "scheduler/scheduler.h"

struct sc_server;
struct sc_watchers;
struct sc_followers;
struct sc_symbols;
struct sc_documents;
struct sc_keys;
struct sc_warm;

struct sc_app {
    const struct sc_config *config;
    uint64_t start_us;
    uint64_t next_progress_us; /* while loading: when the next line about it is due */
    uint32_t prefill_tokens;   /* of a step */
    _Atomic(enum sc_health_state) state;
    atomic_bool loaded;

    struct sc_dispatch *dispatch;
    struct sc_registry registry;    /* requests that run */
    struct sc_watchers *watchers;   /* of health */
    struct sc_followers *followers; /* of the cache's events */
    struct sc_symbols *symbols;     /* for reflection */
    struct sc_server *server;       /* borrowed; for its numbers */

    struct sc_model *model;
    struct sc_chat_template *chat; /* NULL: no_chat.text says why; all else works */
    struct sc_err no_chat;
    struct sc_engine *engine;
    struct sc_store *store; /* NULL: none is configured */
    struct sc_sched *sched;
    struct sc_kv_log *kv_log; /* the scheduler's; NULL: nothing is shared */
    struct sc_documents *documents;
    struct sc_warm *warm;              /* NULL: nothing was to be read */
    struct sc_keys *keys;              /* who may call; NULL: everybody */
    struct sc_engine_info engine_info; /* as of load; live numbers are in the scheduler's stats */
    bool calibration_builtin;
    struct sc_hash calibration_hash;
    uint32_t calibration_tokens;
    const uint64_t *exact_layers; /* the calibration's; NULL: it knows of none */

    int wake_fd;              /* eventfd of the main loop */
    atomic_bool drain_wanted; /* by Control.Drain; then the loop is woken */
    _Atomic(uint64_t) drain_timeout_us;
};

enum sc_status sc_app_open(const struct sc_config *config, struct sc_app *app,
                           struct sc_err *err) SC_MUST_CHECK;
/* Model, engine, calibration, scheduler, and one request through all of it. Blocks. */
enum sc_status sc_app_load(struct sc_app *app, struct sc_err *err) SC_MUST_CHECK;
/* Ends what runs and stops the engine; events still go to the dispatcher. */
void sc_app_stop(struct sc_app *app);
void sc_app_close(struct sc_app *app); /* zeroed or half-built is fine */

/* May a call be served now? always: before load, too; work: not while draining or failed. */
enum sc_status sc_app_admits(struct sc_app *app, bool always, bool work,
                             struct sc_err *err) SC_MUST_CHECK;
void sc_app_want_drain(struct sc_app *app, uint64_t timeout_us);
uint64_t sc_app_progress(const struct sc_app *app); /* steps of the slowest rank */

#endif
