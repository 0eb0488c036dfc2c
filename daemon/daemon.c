#include "daemon/daemon.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/app.h"
#include "daemon/clock.h"
#include "daemon/generation.h"
#include "daemon/keys.h"
#include "daemon/probe.h"
#include "daemon/reload.h"
#include "daemon/sdnotify.h"
#include "daemon/server.h"
#include "daemon/services.h"
#include "daemon/svc_events.h"

#define TICK_MS           200
#define DRAIN_TICK_MS     10
#define SECOND            UINT64_C(1000000)
#define EXTEND_US         (30 * SECOND)
#define ABORT_GRACE_US    (5 * SECOND) /* for the statuses of requests that a drain has ended */
#define PROBE_EVERY_US    (5 * SECOND)
#define PROBE_PATIENCE_US (10 * SECOND)
#define TRIM_EVERY_US     (30 * SECOND)
#define STOP_PATIENCE_US  (10 * SECOND) /* for the engine to let go of cancelled requests */

struct daemon {
    const struct sc_config *config; /* as of start */
    struct sc_config current;       /* with what reloads changed */
    const struct sc_options *options;
    struct sc_app app;
    struct sc_server *server;
    struct sc_health health;
    struct sc_probe probe;
    bool accepts; /* what the probe said */
    int signal_fd;
    unsigned n_terms; /* SIGTERM and SIGINT so far */

    pthread_t loader;
    bool loader_started, loader_joined;
    atomic_bool loader_done;
    enum sc_status load_status; /* written before loader_done */
    struct sc_err load_err;

    uint64_t extended_us, watchdog_us, watchdog_interval_us, trimmed_us;
};

/* ---- loading ---- */

static void *loader(void *arg)
{
    struct daemon *d = arg;
    uint64_t one = 1;

    d->load_status = sc_app_load(&d->app, &d->load_err);
    atomic_store(&d->loader_done, true);
    (void)!write(d->app.wake_fd, &one, sizeof(one));
    return NULL;
}

static void log_ready(const struct daemon *d)
{
    const struct sc_engine_info *info = &d->app.engine_info;

    sc_notice("ready",
              "model=%s arch=%s backend=\"%s\" ranks=%u pages=%u page_bytes=%zu context=%u "
              "load_ms=%" PRIu64,
              d->config->model_dir, sc_arch_name(d->app.model->config.arch), info->backend,
              info->n_ranks, info->n_pages, info->page_bytes, info->max_context,
              (sc_now_us() - d->app.start_us) / 1000);
}

/* ---- health ---- */

static void set_state(struct daemon *d, enum sc_health_state state)
{
    enum sc_health_state old = atomic_exchange(&d->app.state, state);

    if (old != state) {
        if (state == SC_HEALTH_STUCK || state == SC_HEALTH_FAILED)
            sc_error("health", "state=%s was=%s", sc_health_name(state), sc_health_name(old));
        else
            sc_notice("health", "state=%s was=%s", sc_health_name(state), sc_health_name(old));
        sc_notify_status("%s", sc_health_name(state));
        if (old == SC_HEALTH_LOADING && state == SC_HEALTH_READY) {
            log_ready(d);
            sc_notify_ready();
        }
    }
    sc_watchers_tell(d->app.watchers, state);
    if (state == SC_HEALTH_DRAINING)
        sc_followers_end(d->app.followers);
}

static bool listener_accepts(struct daemon *d, uint64_t now_us)
{
    bool accepts = sc_probe_tick(&d->probe, now_us);

    if (accepts != d->accepts) {
        if (accepts)
            sc_notice("listener", "accepts=yes");
        else
            sc_error("listener", "accepts=no address=%s", d->config->listen[0]);
        d->accepts = accepts;
    }
    return accepts;
}

static void watch_health(struct daemon *d, bool draining)
{
    struct sc_health_view view = {
        .now_us = sc_now_us(), .loaded = atomic_load(&d->app.loaded), .draining = draining};
    struct sc_sched_stats stats;
    enum sc_health_state state;

    if (view.loaded) {
        sc_sched_get_stats(d->app.sched, &stats);
        view.work = stats.waiting + stats.running;
        view.failed = stats.failed_group;
        view.progress = sc_app_progress(&d->app);
    }
    state = sc_health_update(&d->health, &view);
    set_state(d, state);
    if (!listener_accepts(d, view.now_us) || state == SC_HEALTH_STUCK || state == SC_HEALTH_FAILED)
        return; /* no WATCHDOG=1: systemd restarts us */
    if (d->watchdog_interval_us > 0 && view.now_us - d->watchdog_us > d->watchdog_interval_us / 3) {
        sc_notify_watchdog();
        d->watchdog_us = view.now_us;
    }
    if ((state == SC_HEALTH_LOADING || draining) && view.now_us - d->extended_us > EXTEND_US / 3) {
        sc_notify_extend(EXTEND_US);
        d->extended_us = view.now_us;
    }
}

/* What many calls at once leave free is scattered over the allocator's arenas, and stays resident:
 * memory would creep up to what the largest crowd ever took. */
static void give_memory_back(struct daemon *d)
{
    uint64_t now_us = sc_now_us();

    if (now_us - d->trimmed_us < TRIM_EVERY_US)
        return;
    (void)malloc_trim(0);
    d->trimmed_us = now_us;
}

/* ---- signals ---- */

static void reload_keys(struct daemon *d)
{
    struct sc_err err = SC_ERR_INIT;

    if (d->app.keys == NULL)
        return;
    if (sc_keys_reload(d->app.keys, &err) == SC_OK)
        sc_notice("reload", "key=auth.keys_file applied=yes");
    else
        sc_warn("reload failed", "error=\"%s\" does=\"go on with the old keys\"", err.text);
}

static void read_signals(struct daemon *d)
{
    struct signalfd_siginfo info;

    while (read(d->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGHUP) {
            sc_notify_reloading();
            sc_reload(d->options, &d->current);
            reload_keys(d);
            if (atomic_load(&d->app.state) == SC_HEALTH_READY)
                sc_notify_ready();
        } else {
            d->n_terms++;
        }
    }
}

/* Sleeps until a signal, a wake or the timeout. */
static void wait_for_news(struct daemon *d, int timeout_ms)
{
    struct pollfd fds[2] = {{.fd = d->signal_fd, .events = POLLIN},
                            {.fd = d->app.wake_fd, .events = POLLIN}};
    uint64_t wakes;

    (void)poll(fds, 2, timeout_ms);
    (void)!read(d->app.wake_fd, &wakes, sizeof(wakes));
    read_signals(d);
}

/* ---- the drain ---- */

static bool calls_end_until(struct daemon *d, uint64_t deadline_us, bool foreground,
                            unsigned terms_that_break)
{
    for (;;) {
        uint32_t n =
            foreground ? sc_server_foreground_calls(d->server) : sc_server_calls(d->server);
        if (n == 0)
            return true;
        if (sc_now_us() >= deadline_us || d->n_terms >= terms_that_break)
            return false;
        wait_for_news(d, DRAIN_TICK_MS);
        watch_health(d, true);
    }
}

static void end_requests(struct daemon *d, const char *why)
{
    unsigned n =
        sc_generation_abort(&d->app, NULL, NULL, SC_EUNAVAIL, "the server is shutting down");

    sc_warn("requests ended", "n=%u why=\"%s\"", n, why);
    if (!calls_end_until(d, sc_now_us() + ABORT_GRACE_US, true, UINT32_MAX))
        sc_warn("calls still open", "n=%u does=\"cut them\"",
                sc_server_foreground_calls(d->server));
}

static void drain(struct daemon *d)
{
    uint64_t timeout_us = atomic_load(&d->app.drain_timeout_us);
    uint64_t start_us = sc_now_us();

    sc_notify_stopping();
    watch_health(d, true);
    sc_notice("draining", "calls=%u timeout_ms=%" PRIu64, sc_server_foreground_calls(d->server),
              timeout_us / 1000);
    if (!calls_end_until(d, start_us + timeout_us, true, 2))
        end_requests(d, d->n_terms >= 2 ? "second signal" : "drain timeout");
    if (d->n_terms < 2)
        (void)usleep((useconds_t)d->config->drain_linger_us);
    sc_notice("drained", "ms=%" PRIu64, (sc_now_us() - start_us) / 1000);
}

/* ---- start and stop ---- */

static enum sc_status block_signals(struct daemon *d, struct sc_err *err)
{
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)signal(SIGPIPE, SIG_IGN);
    /* Before any thread is started, so that none of them gets one. */
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
        return sc_fail(err, SC_EIO, "signals cannot be blocked");
    d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (d->signal_fd < 0)
        return sc_fail(err, SC_EIO, "signalfd: %s", strerror(errno));
    return SC_OK;
}

/* Weights are read from their mapped files. One that is made shorter under us cannot be survived,
 * but the log can say why. */
static void on_bus_error(int signal_number)
{
    static const char text[] = "error: a mapped file was cut off: model files must be replaced by "
                               "renaming new ones over them, not written in place\n";

    (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
    (void)raise(signal_number); /* the default action: SA_RESETHAND */
}

static void explain_bus_error(void)
{
    struct sigaction old, action = {.sa_handler = on_bus_error, .sa_flags = (int)SA_RESETHAND};

    /* A sanitizer's own handler says more. */
    if (sigaction(SIGBUS, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
        (void)sigaction(SIGBUS, &action, NULL);
}

/* A listener that once ran out of descriptors never accepts again: have as many as we may. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        sc_warn("descriptor limit", "error=\"%s\"", strerror(errno));
}

static enum sc_status start(struct daemon *d, struct sc_err *err)
{
    enum sc_status st;
    int e;

    raise_descriptor_limit();
    explain_bus_error();
    st = block_signals(d, err);
    if (st == SC_OK)
        st = sc_app_open(d->config, &d->app, err);
    if (st == SC_OK)
        st = sc_server_open(d->config, &d->app, sc_services, sc_n_services, &d->server, err);
    if (st != SC_OK)
        return st;
    d->app.server = d->server;
    sc_health_init(&d->health, d->config->stuck_after_us, sc_now_us());
    st = sc_server_start(d->server, err);
    if (st != SC_OK)
        return st;
    for (uint32_t i = 0; i < d->config->n_listen; i++)
        sc_notice("listening", "address=%s port=%d", d->config->listen[i],
                  sc_server_port(d->server, i));
    if (sc_probe_init(&d->probe, d->config->listen[0], sc_server_port(d->server, 0), PROBE_EVERY_US,
                      PROBE_PATIENCE_US, NULL) != SC_OK)
        sc_info("listener is not probed", "address=%s", d->config->listen[0]);
    sc_notify_status("loading %s", d->config->model_dir);
    e = pthread_create(&d->loader, NULL, loader, d);
    if (e != 0)
        return sc_fail(err, SC_EIO, "loader thread: %s", strerror(e));
    d->loader_started = true;
    return SC_OK;
}

static enum sc_exit stop(struct daemon *d)
{
    sc_probe_fini(&d->probe);
    d->probe.address_len = 0; /* no more: the listener goes */
    if (d->server != NULL) {
        sc_server_shutdown(d->server);
        if (!calls_end_until(d, sc_now_us() + STOP_PATIENCE_US, false, UINT32_MAX)) {
            /* A rank that does not come back cannot be joined: leave without it. */
            sc_error("engine does not stop", "calls=%u does=\"exit\"", sc_server_calls(d->server));
            _exit(SC_EXIT_FAILED);
        }
    }
    sc_app_stop(&d->app);
    sc_dispatch_close(d->app.dispatch); /* nobody posts any more */
    d->app.dispatch = NULL;
    sc_server_close(d->server);
    sc_app_close(&d->app);
    if (d->signal_fd >= 0)
        (void)close(d->signal_fd);
    return SC_EXIT_OK;
}

/* Until a drain is wanted, or loading has failed. */
static enum sc_status serve(struct daemon *d, struct sc_err *err)
{
    while (d->n_terms == 0 && !atomic_load(&d->app.drain_wanted)) {
        if (!d->loader_joined && atomic_load(&d->loader_done)) {
            (void)pthread_join(d->loader, NULL);
            d->loader_joined = true;
            if (d->load_status != SC_OK) {
                *err = d->load_err;
                return d->load_status;
            }
        }
        watch_health(d, false);
        give_memory_back(d);
        wait_for_news(d, TICK_MS);
    }
    return SC_OK;
}

enum sc_exit sc_daemon_run(const struct sc_config *config, const struct sc_options *options)
{
    struct daemon d = {.config = config,
                       .current = *config,
                       .options = options,
                       .signal_fd = -1,
                       .accepts = true,
                       .probe.fd = -1};
    struct sc_err err = SC_ERR_INIT;
    uint64_t start_us = sc_now_us();
    enum sc_status st;

    d.watchdog_interval_us = sc_notify_watchdog_us();
    st = start(&d, &err);
    if (st == SC_OK)
        st = serve(&d, &err);
    if (st == SC_OK && !d.loader_joined) {
        /* Loading cannot be interrupted, and nothing of it needs to be undone. */
        sc_notify_stopping();
        sc_notice("stopped", "while=loading");
        sc_server_shutdown(d.server);
        _exit(SC_EXIT_OK);
    }
    if (st == SC_OK)
        drain(&d);
    else
        sc_error("cannot start", "status=%s error=\"%s\"", sc_status_name(st), err.text);
    if (d.loader_started && !d.loader_joined)
        (void)pthread_join(d.loader, NULL);
    (void)stop(&d);
    if (st == SC_OK)
        sc_notice("stopped", "uptime_s=%" PRIu64, (sc_now_us() - start_us) / SECOND);
    return st == SC_OK ? SC_EXIT_OK : SC_EXIT_FAILED;
}
