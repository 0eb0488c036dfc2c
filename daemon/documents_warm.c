#include "daemon/documents_warm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/utf8.h"
#include "daemon/clock.h"
#include "daemon/convert.h"
#include "daemon/document_put.h"
#include "daemon/sdnotify.h"
#include "daemon/services.h"

#define LINE_BYTES_MAX (SC_CONFIG_PATH_BYTES + SC_DOCUMENT_ID_MAX + 32u)

struct sc_warm {
    struct sc_app *app;
    const char *ns;
    pthread_t thread;
    unsigned n_read, n_failed; /* the thread's */
    pthread_mutex_t mu;        /* guards what follows */
    pthread_cond_t over;
    struct sc_request *request; /* being read */
    bool stopping, done;
    enum sc_status status;
    struct sc_receipt receipt;
    struct sc_hash key;
    char error[SC_ERR_TEXT_BYTES];
};

static void on_event(void *ctx, const struct sc_event *e)
{
    struct sc_warm *w = ctx;

    if (e->kind != SC_EVENT_DONE)
        return;
    (void)pthread_mutex_lock(&w->mu);
    w->done = true;
    w->status = e->status;
    w->receipt = e->receipt;
    w->key = e->prefix_key;
    (void)snprintf(w->error, sizeof(w->error), "%s", e->error != NULL ? e->error : "");
    (void)pthread_cond_signal(&w->over);
    (void)pthread_mutex_unlock(&w->mu);
}

/* Reads the document's tokens, and waits for that. */
static enum sc_status read_tokens(struct sc_warm *w, struct sc_document *d, uint64_t pin_until_us,
                                  struct sc_err *err)
{
    struct sc_request_opts opts;
    struct sc_request *request;
    enum sc_status st = sc_document_reading(w->app, d, &opts, err);

    if (st != SC_OK)
        return st;
    opts.pin_until_us = pin_until_us;
    opts.on_event = on_event;
    opts.ctx = w;
    w->done = false;
    st = sc_sched_submit(w->app->sched, &opts, &request, err);
    if (st != SC_OK)
        return st;
    (void)pthread_mutex_lock(&w->mu);
    w->request = request;
    if (w->stopping)
        sc_sched_cancel(w->app->sched, request);
    while (!w->done)
        (void)pthread_cond_wait(&w->over, &w->mu);
    w->request = NULL;
    (void)pthread_mutex_unlock(&w->mu);
    sc_request_unref(request);
    d->receipt = w->receipt;
    d->prefix_key = w->key;
    return w->status == SC_OK ? SC_OK : sc_fail(err, w->status, "%s", w->error);
}

static bool stopping(struct sc_warm *w)
{
    (void)pthread_mutex_lock(&w->mu);
    bool yes = w->stopping;
    (void)pthread_mutex_unlock(&w->mu);
    return yes;
}

static enum sc_status read_text(const char *path, uint64_t max, char **ret_text, size_t *ret_len,
                                struct sc_err *err)
{
    FILE *file = fopen(path, "rb");
    char *text = malloc(max + 1);
    enum sc_status st = SC_OK;
    size_t len = 0, valid;

    if (file == NULL || text == NULL)
        st = sc_fail(err, SC_EIO, "%s", file == NULL ? strerror(errno) : "no memory");
    else
        len = fread(text, 1, max + 1, file);
    if (file != NULL)
        (void)fclose(file);
    while (st == SC_OK && len > 0 && text[len - 1] == '\n') /* as `semcache ingest` does */
        len--;
    valid = st == SC_OK ? sc_utf8_valid_prefix(text, len) : 0;
    if (st == SC_OK && (len == 0 || len > max))
        st = sc_fail(err, SC_EINVAL, "%zu bytes, limits 1..%llu", len, (unsigned long long)max);
    else if (st == SC_OK && valid != len)
        st = sc_fail(err, SC_EINVAL, "not valid UTF-8 at byte %zu", valid);
    if (st != SC_OK) {
        free(text);
        return st;
    }
    *ret_text = text;
    *ret_len = len;
    return SC_OK;
}

static enum sc_status read_document(struct sc_warm *w, const char *id, const char *path, bool pin,
                                    struct sc_err *err)
{
    struct sc_document *d = calloc(1, sizeof(*d)), *old = NULL;
    struct sc_ids ids = {0};
    char *text = NULL;
    size_t len = 0;
    enum sc_status st = d == NULL ? sc_fail(err, SC_ENOMEM, "no memory") : SC_OK;

    if (st == SC_OK) {
        atomic_init(&d->refs, 1);
        (void)snprintf(d->id, sizeof(d->id), "%s", id);
        (void)snprintf(d->ns, sizeof(d->ns), "%s", w->ns);
        d->model = w->app->model->fingerprint;
        st = sc_document_check_id(id, err);
    }
    if (st == SC_OK)
        st = read_text(path, w->app->config->document_max_bytes, &text, &len, err);
    if (st == SC_OK)
        st = sc_document_tokenize(w->app->model, text, len, &ids, &d->n_prefix, err);
    free(text);
    if (st == SC_OK) {
        d->bytes = len;
        d->tokens = ids.ids;
        d->n_tokens = (uint32_t)ids.n;
        d->created_us = sc_unix_us();
        atomic_store(&d->used_us, d->created_us);
        atomic_store(&d->pinned_until_us, pin ? INT64_MAX : 0);
        st = read_tokens(w, d, pin ? UINT64_MAX : 0, err);
    }
    if (st == SC_OK && pin) {
        st = sc_document_pin(w->app, d, 0, err);
        if (st != SC_OK) { /* it is read all the same */
            sc_warn("document not pinned", "id=%s reason=\"%s\"", id, err->text);
            atomic_store(&d->pinned_until_us, 0);
            sc_err_clear(err);
            st = SC_OK;
        }
    }
    if (st == SC_OK)
        st = sc_documents_add(w->app->documents, d, true, &old, err);
    if (old != NULL) /* its text is another one now */
        sc_document_forget(w->app, old);
    sc_document_unref(old);
    sc_document_unref(d);
    return st;
}

static void told(const char *id, enum sc_status st, const struct sc_err *err, struct sc_warm *w)
{
    w->n_read += st == SC_OK ? 1 : 0;
    w->n_failed += st == SC_OK ? 0 : 1;
    sc_notify_status("ready, reading documents: %u read, %u failed", w->n_read, w->n_failed);
    if (st == SC_OK)
        sc_notice("document read", "id=%s tokens=%u cached=%u", id, w->receipt.kv.logical_tokens,
                  w->receipt.cached_tokens);
    else
        sc_warn("document not read", "id=%s error=\"%s\"", id, err->text);
}

static void read_manifest(struct sc_warm *w, const char *manifest)
{
    FILE *file = fopen(manifest, "r");
    char line[LINE_BYTES_MAX];

    if (file == NULL) {
        sc_warn("documents.warm", "file=%s error=\"%s\"", manifest, strerror(errno));
        return;
    }
    for (unsigned no = 1; fgets(line, sizeof(line), file) != NULL && !stopping(w); no++) {
        struct sc_err err = SC_ERR_INIT;
        char *rest = NULL, *id = strtok_r(line, " \t\n", &rest);
        char *path = id != NULL ? strtok_r(NULL, " \t\n", &rest) : NULL;
        char *pin = path != NULL ? strtok_r(NULL, " \t\n", &rest) : NULL;
        if (id == NULL || id[0] == '#')
            continue;
        if (path == NULL || (pin != NULL && strcmp(pin, "pin") != 0)) {
            sc_warn("documents.warm", "file=%s line=%u error=\"wanted ID PATH or ID PATH pin\"",
                    manifest, no);
            continue;
        }
        told(id, read_document(w, id, path, pin != NULL, &err), &err, w);
    }
    (void)fclose(file);
}

/* Those that were pinned when the daemon ended are pinned again. */
static void read_pinned(struct sc_warm *w)
{
    struct sc_document *list[64];
    char ns[SC_NAMESPACE_BYTES_MAX + 1] = "", id[SC_DOCUMENT_ID_MAX + 1] = "";
    size_t n;

    while ((n = sc_documents_walk(w->app->documents, ns, id, list, SC_ARRAY_LEN(list))) > 0) {
        (void)snprintf(ns, sizeof(ns), "%s", list[n - 1]->ns);
        (void)snprintf(id, sizeof(id), "%s", list[n - 1]->id);
        for (size_t i = 0; i < n; i++) {
            struct sc_err err = SC_ERR_INIT;
            int64_t until = atomic_load(&list[i]->pinned_until_us), left = until - sc_unix_us();
            if (left > 0 && !stopping(w)) {
                /* A copy: documents are immutable, and its receipt is of the first reading. */
                struct sc_document copy = {.n_tokens = list[i]->n_tokens,
                                           .tokens = list[i]->tokens,
                                           .kv = list[i]->kv,
                                           .kv_bytes = list[i]->kv_bytes};
                (void)snprintf(copy.ns, sizeof(copy.ns), "%s", list[i]->ns);
                told(list[i]->id,
                     read_tokens(w, &copy,
                                 until == INT64_MAX ? UINT64_MAX : sc_now_us() + (uint64_t)left,
                                 &err),
                     &err, w);
            }
            sc_document_unref(list[i]);
        }
    }
}

static void *thread_main(void *arg)
{
    struct sc_warm *w = arg;

    read_pinned(w);
    if (w->app->config->documents_warm[0] != '\0' && !stopping(w))
        read_manifest(w, w->app->config->documents_warm);
    if (w->n_read + w->n_failed > 0 && !stopping(w))
        sc_notify_status("ready");
    return NULL;
}

enum sc_status sc_warm_start(struct sc_app *app, struct sc_warm **ret_warm, struct sc_err *err)
{
    const char *shared = app->config->shared_namespace;
    struct sc_warm *w;

    if (app->config->documents_warm[0] == '\0' && sc_documents_count(app->documents) == 0)
        return SC_OK;
    w = calloc(1, sizeof(*w));
    if (w == NULL)
        return sc_fail(err, SC_ENOMEM, "no memory for documents.warm");
    w->app = app;
    w->ns = shared[0] != '\0' ? shared : SC_NAMESPACE_DEFAULT;
    (void)pthread_mutex_init(&w->mu, NULL);
    (void)pthread_cond_init(&w->over, NULL);
    if (pthread_create(&w->thread, NULL, thread_main, w) != 0) {
        free(w);
        return sc_fail(err, SC_ENOMEM, "no thread for documents.warm");
    }
    *ret_warm = w;
    return SC_OK;
}

void sc_warm_stop(struct sc_warm *w)
{
    if (w == NULL)
        return;
    (void)pthread_mutex_lock(&w->mu);
    w->stopping = true;
    if (w->request != NULL)
        sc_sched_cancel(w->app->sched, w->request);
    (void)pthread_mutex_unlock(&w->mu);
    (void)pthread_join(w->thread, NULL);
    (void)pthread_cond_destroy(&w->over);
    (void)pthread_mutex_destroy(&w->mu);
    free(w);
}
