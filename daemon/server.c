#include "daemon/server.h"

#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/address.h"
#include "daemon/dispatch.h"
#include "daemon/tsan.h"

struct server_tag {
    struct sc_tag tag; /* first */
    struct sc_server *server;
};

struct sc_server {
    const struct sc_config *config;           /* borrowed */
    struct sc_app *app;                       /* borrowed */
    struct sc_method methods[SC_METHODS_MAX]; /* sorted by path */
    size_t n_methods;
    grpc_server *core;
    grpc_completion_queue *queue;
    pthread_t pollers[SC_POLLERS];
    unsigned n_pollers;
    int ports[SC_LISTEN_MAX];
    int locks[SC_LISTEN_MAX]; /* of unix sockets; -1: none */
    struct sc_dispatch *long_messages, *slow_calls;
    atomic_int calls, foreground;
    atomic_bool is_down;
    bool library;

    struct server_tag down_tag;
    pthread_mutex_t mu; /* guards what follows */
    pthread_cond_t changed;
    bool down_done;
};

const struct sc_method *sc_server_find(const struct sc_server *s, const char *path, size_t len)
{
    size_t lo = 0, hi = s->n_methods;

    if (len >= SC_METHOD_PATH_BYTES)
        return NULL;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const char *p = s->methods[mid].path;
        int order = strncmp(path, p, len);
        if (order == 0)
            order = p[len] == '\0' ? 0 : -1;
        if (order == 0)
            return &s->methods[mid];
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

grpc_server *sc_server_core(struct sc_server *s)
{
    return s->core;
}

grpc_completion_queue *sc_server_queue(struct sc_server *s)
{
    return s->queue;
}

struct sc_app *sc_server_app(struct sc_server *s)
{
    return s->app;
}

uint32_t sc_server_max_streams(const struct sc_server *s)
{
    return s->config->max_streams;
}

size_t sc_server_max_message(const struct sc_server *s)
{
    return (size_t)s->config->max_message_bytes;
}

struct sc_dispatch *sc_server_long_messages(struct sc_server *s)
{
    return s->long_messages;
}

struct sc_dispatch *sc_server_slow_calls(struct sc_server *s)
{
    return s->slow_calls;
}

void sc_server_count(struct sc_server *s, int calls, int foreground)
{
    (void)atomic_fetch_add(&s->calls, calls);
    (void)atomic_fetch_add(&s->foreground, foreground);
}

uint32_t sc_server_calls(const struct sc_server *s)
{
    return (uint32_t)atomic_load(&s->calls);
}

uint32_t sc_server_foreground_calls(const struct sc_server *s)
{
    return (uint32_t)atomic_load(&s->foreground);
}

bool sc_server_is_down(const struct sc_server *s)
{
    return atomic_load(&s->is_down);
}

int sc_server_port(const struct sc_server *s, size_t i)
{
    return s->ports[i];
}

/* ---- the method table ---- */

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct sc_method *)a)->path, ((const struct sc_method *)b)->path);
}

static const struct sc_service_method *find_impl(const struct sc_service *service, const char *name)
{
    for (size_t i = 0; i < service->n_methods; i++) {
        if (strcmp(service->methods[i].name, name) == 0)
            return &service->methods[i];
    }
    return NULL;
}

static void add_service(struct sc_server *s, const struct sc_service *service)
{
    const ProtobufCServiceDescriptor *d = service->descriptor;

    SC_ASSERT(d->n_methods == service->n_methods);
    for (unsigned i = 0; i < d->n_methods; i++) {
        const struct sc_service_method *impl = find_impl(service, d->methods[i].name);
        struct sc_method *m = &s->methods[s->n_methods++];
        int n;
        SC_ASSERT(impl != NULL && s->n_methods <= SC_METHODS_MAX);
        n = snprintf(m->path, sizeof(m->path), "/%s/%s", d->name, d->methods[i].name);
        SC_ASSERT(n > 0 && (size_t)n < sizeof(m->path));
        m->impl = impl;
        m->input = impl->input != NULL ? impl->input : d->methods[i].input;
    }
}

/* ---- opening ---- */

static void core_log(gpr_log_func_args *args)
{
    const char *file = strrchr(args->file, '/');

    if (args->severity == GPR_LOG_SEVERITY_ERROR)
        sc_warn("grpc", "at=%s:%d what=\"%s\"", file != NULL ? file + 1 : args->file, args->line,
                args->message);
    else
        sc_debug("grpc", "at=%s:%d what=\"%s\"", file != NULL ? file + 1 : args->file, args->line,
                 args->message);
}

static grpc_arg int_arg(const char *key, int value)
{
    grpc_arg arg = {.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key};

    arg.value.integer = value;
    return arg;
}

/* Each of these has bitten somebody: see the comment at each line. */
static grpc_server *create_core(const struct sc_config *config)
{
    grpc_arg args[] = {
        /* Two daemons would share a port silently. */
        int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0),
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)config->max_message_bytes),
        int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
        /* The core's would unpack 64 GiB out of 64 MiB: see daemon/inflate.h. */
        int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
        int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, (int)config->max_streams),
        /* More than the default 8 kB kills the whole connection, not the call. */
        int_arg(GRPC_ARG_MAX_METADATA_SIZE, 65536),
        /* The default, 300 s, cuts clients that ping during a long prefill. */
        int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000),
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, 30000),
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000),
        int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        /* Half-open connections hold descriptors, and without those nothing is accepted. */
        int_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10000),
        int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
    };
    grpc_channel_args list = {SC_ARRAY_LEN(args), args};

    return grpc_server_create(&list, NULL);
}

/* The one place where a server gets its credentials. */
static grpc_server_credentials *create_credentials(const struct sc_config *config)
{
    SC_ASSERT(config->tls_cert[0] == '\0'); /* sc_config_check refuses it */
    return grpc_insecure_server_credentials_create();
}

static enum sc_status bind_one(struct sc_server *s, size_t i, struct sc_err *err)
{
    const char *address = s->config->listen[i];
    grpc_server_credentials *credentials;

    if (sc_address_is_unix(address)) {
        enum sc_status st = sc_address_lock_unix(address, &s->locks[i], err);
        if (st != SC_OK)
            return st;
        (void)unlink(address + 5); /* ours by the lock: what is left of a daemon that is gone */
    }
    credentials = create_credentials(s->config);
    s->ports[i] = grpc_server_add_http2_port(s->core, address, credentials);
    grpc_server_credentials_release(credentials);
    if (s->ports[i] == 0)
        return sc_fail(err, SC_EIO, "%s: cannot listen there; is the address in use?", address);
    if (sc_address_is_unix(address))
        s->ports[i] = 0;
    return SC_OK;
}

enum sc_status sc_server_open(const struct sc_config *config, struct sc_app *app,
                              const struct sc_service *const *services, size_t n_services,
                              struct sc_server **ret_server, struct sc_err *err)
{
    struct sc_server *s = calloc(1, sizeof(*s));
    enum sc_status st = SC_OK;

    if (s == NULL)
        return sc_fail(err, SC_ENOMEM, "server: no memory");
    s->config = config;
    s->app = app;
    (void)pthread_mutex_init(&s->mu, NULL);
    (void)pthread_cond_init(&s->changed, NULL);
    for (size_t i = 0; i < SC_LISTEN_MAX; i++)
        s->locks[i] = -1;
    for (size_t i = 0; i < n_services; i++)
        add_service(s, services[i]);
    qsort(s->methods, s->n_methods, sizeof(s->methods[0]), by_path);

    gpr_set_log_function(core_log);
    grpc_init();
    s->library = true;
    s->core = create_core(config);
    s->queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(s->core, s->queue, NULL);
    st = sc_dispatch_open(&s->long_messages, err);
    if (st == SC_OK)
        st = sc_dispatch_open(&s->slow_calls, err);
    for (size_t i = 0; i < config->n_listen && st == SC_OK; i++)
        st = bind_one(s, i, err);
    if (st != SC_OK) {
        sc_server_shutdown(s);
        sc_server_close(s);
        return st;
    }
    *ret_server = s;
    return SC_OK;
}

/* ---- running ---- */

static void *poller(void *arg)
{
    struct sc_server *s = arg;

    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(s->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        struct sc_tag *tag = event.tag;
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (event.type != GRPC_OP_COMPLETE)
            continue;
        SC_TAG_ACQUIRE(tag);
        tag->done(tag, event.success != 0);
    }
}

static enum sc_status start_pollers(struct sc_server *s, struct sc_err *err)
{
    while (s->n_pollers < SC_POLLERS) {
        int e = pthread_create(&s->pollers[s->n_pollers], NULL, poller, s);
        if (e != 0)
            return sc_fail(err, SC_EIO, "poller thread: %s", strerror(e));
        s->n_pollers++;
    }
    return SC_OK;
}

enum sc_status sc_server_start(struct sc_server *s, struct sc_err *err)
{
    enum sc_status st = start_pollers(s, err);

    if (st != SC_OK)
        return st;
    grpc_server_start(s->core);
    for (unsigned i = 0; i < SC_CALLS_ARMED; i++)
        sc_rpc_request(s);
    return SC_OK;
}

/* ---- the end ---- */

static void on_down(struct sc_tag *tag, bool ok)
{
    struct sc_server *s = ((struct server_tag *)tag)->server;

    (void)ok;
    (void)pthread_mutex_lock(&s->mu);
    s->down_done = true;
    (void)pthread_cond_broadcast(&s->changed);
    (void)pthread_mutex_unlock(&s->mu);
}

void sc_server_shutdown(struct sc_server *s)
{
    struct sc_err err = SC_ERR_INIT;

    if (s->core == NULL || atomic_exchange(&s->is_down, true))
        return;
    /* A server that never started has no poller yet to bring the tag. */
    if (start_pollers(s, &err) != SC_OK && s->n_pollers == 0)
        return;
    s->down_tag = (struct server_tag){{on_down}, s};
    SC_TAG_RELEASE(&s->down_tag);
    grpc_server_shutdown_and_notify(s->core, s->queue, &s->down_tag);
    /* At once: without it the core waits for idle peers, up to 20 s. */
    grpc_server_cancel_all_calls(s->core);
    (void)pthread_mutex_lock(&s->mu);
    while (!s->down_done)
        (void)pthread_cond_wait(&s->changed, &s->mu);
    (void)pthread_mutex_unlock(&s->mu);
}

static void close_locks(struct sc_server *s)
{
    for (size_t i = 0; i < SC_LISTEN_MAX; i++) {
        if (s->locks[i] < 0)
            continue;
        (void)unlink(s->config->listen[i] + 5);
        (void)close(s->locks[i]); /* the lock file stays: removing it would race with the next */
    }
}

void sc_server_close(struct sc_server *s)
{
    if (s == NULL)
        return;
    sc_dispatch_close(s->long_messages); /* empty: every call is over */
    sc_dispatch_close(s->slow_calls);
    if (s->queue != NULL) {
        grpc_completion_queue_shutdown(s->queue);
        for (unsigned i = 0; i < s->n_pollers; i++)
            (void)pthread_join(s->pollers[i], NULL);
        grpc_server_destroy(s->core);
        grpc_completion_queue_destroy(s->queue);
    }
    if (s->library)
        grpc_shutdown();
    close_locks(s);
    (void)pthread_cond_destroy(&s->changed);
    (void)pthread_mutex_destroy(&s->mu);
    free(s);
}
