/* PutDocument: parts come in, one at a time; at the half-close the text is tokenised and read by a
 * request that samples nothing; its end makes the document. Tokenising and writing the file happen
 * on the thread of long messages, packing and sending on the dispatcher's, events are only noted.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "daemon/clock.h"
#include "daemon/convert.h"
#include "daemon/documents.h"
#include "daemon/document_put.h"
#include "daemon/reply.h"
#include "daemon/server.h"
#include "daemon/services.h"
#include "proto/optional.h"
#include "semanticache/v1/documents.pb-c.h"

struct upload {
    struct sc_dispatch_item tell, work; /* dispatcher; thread of long messages */
    atomic_uint refs;
    struct sc_app *app;
    struct sc_rpc *rpc;
    struct sc_document *document; /* ours alone until it is added */
    bool replace, has_pin;
    uint64_t pin_ttl_s, start_us;
    char *text;
    size_t len, cap;
    uint64_t reserved;          /* of documents.memory, for text */
    enum sc_prefix_state state; /* set before added */

    pthread_mutex_t mu; /* guards what follows */
    struct sc_request *request;
    bool closed, cancelled, sending, over; /* over: a status was sent, or is about to be */
    bool has_progress, done, added;
    uint64_t received;
    uint32_t tokens_done, tokens_total;
    struct sc_ending ending;
    struct sc_err err; /* of the reading */
};

static void free_text(struct upload *u)
{
    free(u->text);
    u->text = NULL;
    sc_documents_release(u->app->documents, u->reserved);
    u->reserved = 0;
}

static void unref(struct upload *u)
{
    if (atomic_fetch_sub_explicit(&u->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (u->request != NULL)
        sc_request_unref(u->request);
    sc_document_unref(u->document);
    free_text(u);
    sc_rpc_unref(u->rpc);
    (void)pthread_mutex_destroy(&u->mu);
    free(u);
}

static void ref(struct upload *u)
{
    (void)atomic_fetch_add_explicit(&u->refs, 1, memory_order_relaxed);
}

static void post(struct upload *u, struct sc_dispatch *to, struct sc_dispatch_item *item)
{
    ref(u);
    if (!sc_dispatch_post(to, item))
        unref(u);
}

/* ---- sending ---- */

static void send_progress(struct upload *u, uint64_t received, uint32_t done, uint32_t total)
{
    Semanticache__V1__PutDocumentResponse m = SEMANTICACHE__V1__PUT_DOCUMENT_RESPONSE__INIT;
    Semanticache__V1__DocumentProgress p = SEMANTICACHE__V1__DOCUMENT_PROGRESS__INIT;

    p.bytes_received = received;
    p.tokens_done = done;
    p.tokens_total = total;
    m.event_case = SEMANTICACHE__V1__PUT_DOCUMENT_RESPONSE__EVENT_PROGRESS;
    m.progress = &p;
    sc_rpc_send(u->rpc, &m.base);
}

static void send_document(struct upload *u)
{
    Semanticache__V1__PutDocumentResponse m = SEMANTICACHE__V1__PUT_DOCUMENT_RESPONSE__INIT;
    struct sc_document_message d;

    sc_document_fill(u->document, u->state, &d);
    m.event_case = SEMANTICACHE__V1__PUT_DOCUMENT_RESPONSE__EVENT_DOCUMENT;
    m.document = &d.document;
    sc_rpc_finish(u->rpc, &m.base);
}

enum next { NOTHING, PROGRESS, FINISH, FAIL };

static void pump(struct upload *u)
{
    enum next next = NOTHING;
    uint32_t done = 0, total = 0;
    uint64_t received = 0;

    (void)pthread_mutex_lock(&u->mu);
    if (!u->sending && !u->over && !u->closed) {
        if (u->added)
            next = FINISH;
        else if (u->err.status != SC_OK)
            next = FAIL;
        else if (u->has_progress)
            next = PROGRESS;
        done = u->tokens_done;
        total = u->tokens_total;
        received = u->received;
        u->has_progress = false;
        u->sending = next != NOTHING;
        u->over = next == FINISH || next == FAIL;
    }
    (void)pthread_mutex_unlock(&u->mu);
    if (next == PROGRESS) {
        ref(u); /* dropped by on_sent */
        send_progress(u, received, done, total);
    } else if (next == FINISH) {
        send_document(u);
    } else if (next == FAIL) {
        sc_rpc_fail(u->rpc, u->err.status, u->err.text);
    }
}

/* The status goes out when no message does: at once, or after on_sent. */
static void fail(struct upload *u, enum sc_status st, const char *text)
{
    (void)pthread_mutex_lock(&u->mu);
    (void)sc_fail(&u->err, st, "%s", text);
    (void)pthread_mutex_unlock(&u->mu);
    pump(u);
}

static void run_tell(struct sc_dispatch_item *item)
{
    struct upload *u = (struct upload *)item;

    pump(u);
    unref(u);
}

static void on_sent(struct sc_rpc *rpc, void *state)
{
    struct upload *u = state;

    (void)rpc;
    (void)pthread_mutex_lock(&u->mu);
    u->sending = false;
    (void)pthread_mutex_unlock(&u->mu);
    pump(u);
    unref(u);
}

static void on_closed(struct sc_rpc *rpc, void *state, bool cancelled)
{
    struct upload *u = state;
    struct sc_request *request;

    (void)rpc;
    (void)pthread_mutex_lock(&u->mu);
    u->closed = true;
    u->cancelled = cancelled;
    request = cancelled && !u->done ? u->request : NULL;
    (void)pthread_mutex_unlock(&u->mu);
    if (request != NULL)
        sc_sched_cancel(u->app->sched, request);
    unref(u);
}

static const struct sc_rpc_hooks hooks = {.on_sent = on_sent, .on_closed = on_closed};

/* ---- reading ---- */

static void on_event(void *ctx, const struct sc_event *e)
{
    struct upload *u = ctx;
    bool over = e->kind == SC_EVENT_DONE;

    (void)pthread_mutex_lock(&u->mu);
    if (e->kind == SC_EVENT_PROGRESS) {
        u->tokens_done = e->prompt_done;
        u->tokens_total = e->prompt_total;
        u->has_progress = true;
    } else if (over) {
        sc_ending_take(e, sc_now_us() - u->start_us, 0, &u->ending);
        u->document->receipt = e->receipt;
        u->document->prefix_key = e->prefix_key;
        u->done = true;
        if (e->status != SC_OK)
            (void)sc_fail(&u->err, e->status, "%s", e->error != NULL ? e->error : "");
    }
    bool good = over && e->status == SC_OK;
    (void)pthread_mutex_unlock(&u->mu);
    if (good)
        post(u, sc_server_long_messages(u->app->server), &u->work);
    else
        post(u, u->app->dispatch, &u->tell);
    if (over)
        unref(u);
}

static uint64_t pin_until(const struct upload *u)
{
    if (!u->has_pin)
        return 0;
    return u->pin_ttl_s == 0 ? UINT64_MAX : sc_now_us() + u->pin_ttl_s * 1000000;
}

static enum sc_status submit(struct upload *u, struct sc_err *err)
{
    struct sc_request_opts opts;
    struct sc_request *request;
    enum sc_status st = sc_document_reading(u->app, u->document, &opts, err);

    if (st != SC_OK)
        return st;
    opts.pin_until_us = pin_until(u);
    opts.deadline_us = sc_rpc_deadline_us(u->rpc);
    opts.on_event = on_event;
    opts.ctx = u;
    ref(u);
    st = sc_sched_submit(u->app->sched, &opts, &request, err);
    if (st != SC_OK) {
        unref(u);
        return st;
    }
    (void)pthread_mutex_lock(&u->mu);
    u->request = request;
    bool cancel = u->cancelled && !u->done;
    (void)pthread_mutex_unlock(&u->mu);
    if (cancel)
        sc_sched_cancel(u->app->sched, request);
    return SC_OK;
}

static enum sc_status begin(struct upload *u, struct sc_err *err)
{
    struct sc_document *d = u->document;
    struct sc_ids ids = {0};
    size_t valid = sc_utf8_valid_prefix(u->text, u->len);
    uint32_t context = u->app->engine_info.max_context;
    enum sc_status st;

    if (u->len == 0)
        return sc_fail(err, SC_EINVAL, "data: the document is empty");
    if (valid != u->len)
        return sc_fail(err, SC_EINVAL, "data: not valid UTF-8 at byte %zu of %zu", valid, u->len);
    st = sc_document_tokenize(u->app->model, u->text, u->len, &ids, &d->n_prefix, err);
    if (st == SC_OK && ids.n >= context)
        st = sc_fail(err, SC_ERANGE, "document: %zu tokens, the context holds %u with a question",
                     ids.n, context);
    if (st != SC_OK) {
        sc_ids_fini(&ids);
        return st;
    }
    d->tokens = ids.ids;
    d->n_tokens = (uint32_t)ids.n;
    free_text(u);
    (void)pthread_mutex_lock(&u->mu);
    u->tokens_total = d->n_tokens;
    u->has_progress = true;
    (void)pthread_mutex_unlock(&u->mu);
    return submit(u, err);
}

static enum sc_status add(struct upload *u, struct sc_err *err)
{
    struct sc_document *old = NULL;
    enum sc_status st = SC_OK;

    if (u->has_pin) /* the request asked for it, and was not told whether there was room */
        st = sc_document_pin(u->app, u->document, u->pin_ttl_s, err);
    if (st == SC_OK)
        st = sc_documents_add(u->app->documents, u->document, u->replace, &old, err);
    if (old != NULL)
        sc_document_forget(u->app, old);
    sc_document_unref(old);
    /* The end of a request comes before its entries are kept: a question that the client sends at
     * once has to find them. */
    u->state = sc_document_state(u->app, u->document);
    return st;
}

/* Twice: to tokenise and submit, and to add what was read. */
static void run_work(struct sc_dispatch_item *item)
{
    struct upload *u = (struct upload *)(void *)((char *)item - offsetof(struct upload, work));
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = SC_OK;
    bool gone;

    (void)pthread_mutex_lock(&u->mu);
    gone = u->closed;
    bool done = u->done;
    (void)pthread_mutex_unlock(&u->mu);
    if (!done && !gone) {
        st = begin(u, &err);
    } else if (done) {
        struct sc_document *d = u->document;
        d->created_us = sc_unix_us();
        atomic_store(&d->used_us, d->created_us);
        if (!gone)
            st = add(u, &err);
        if (gone || st != SC_OK) /* the client does not know it: nothing is left behind */
            sc_document_forget(u->app, d);
        (void)pthread_mutex_lock(&u->mu);
        u->added = st == SC_OK && !gone;
        (void)pthread_mutex_unlock(&u->mu);
    }
    if (st != SC_OK) {
        (void)pthread_mutex_lock(&u->mu);
        (void)sc_fail(&u->err, st, "%s", err.text);
        (void)pthread_mutex_unlock(&u->mu);
    }
    post(u, u->app->dispatch, &u->tell);
    unref(u);
}

/* ---- receiving ---- */

static enum sc_status take_header(struct upload *u, const Semanticache__V1__DocumentHeader *h,
                                  struct sc_err *err)
{
    struct sc_document *d = u->document;
    struct sc_document *old;
    enum sc_status st = sc_document_take_header(d, h, err);

    if (st != SC_OK)
        return st;
    u->replace = SC_PB_GET(h, replace, false);
    u->has_pin = SC_PB_HAS(h, pin_ttl_seconds);
    u->pin_ttl_s = h->pin_ttl_seconds;
    if (u->has_pin && u->pin_ttl_s > SC_PIN_SECONDS_MAX)
        return sc_fail(err, SC_EINVAL, "pin_ttl_seconds: %" PRIu64 ", limit %u", u->pin_ttl_s,
                       SC_PIN_SECONDS_MAX);
    old = sc_documents_find(u->app->documents, d->ns, d->id);
    sc_document_unref(old);
    if (old != NULL && !u->replace) /* before anything is read for nothing */
        return sc_fail(err, SC_EEXIST, "document_id: \"%s\" exists; say replace to put it anew",
                       d->id);
    return SC_OK;
}

static enum sc_status take_data(struct upload *u, const ProtobufCBinaryData *data,
                                struct sc_err *err)
{
    uint64_t max = u->app->config->document_max_bytes;
    size_t cap = u->cap > 0 ? u->cap : 4096;
    enum sc_status st = SC_OK;
    char *bigger;

    if (data->len > max - u->len)
        return sc_fail(err, SC_EINVAL, "data: more than %" PRIu64 " bytes (documents.max_bytes)",
                       max);
    while (cap < u->len + data->len)
        cap *= 2;
    if (cap > u->reserved)
        st = sc_documents_reserve(u->app->documents, cap - u->reserved, err);
    if (st != SC_OK)
        return st;
    u->reserved = cap;
    bigger = cap > u->cap ? realloc(u->text, cap) : u->text;
    if (bigger == NULL)
        return sc_fail(err, SC_ENOMEM, "no memory for a document of %zu bytes", u->len + data->len);
    u->text = bigger;
    u->cap = cap;
    if (data->len > 0)
        memcpy(u->text + u->len, data->data, data->len);
    u->len += data->len;
    (void)pthread_mutex_lock(&u->mu);
    u->received = u->len;
    u->has_progress = true;
    (void)pthread_mutex_unlock(&u->mu);
    return SC_OK;
}

static struct upload *open_upload(struct sc_rpc *rpc)
{
    struct upload *u = calloc(1, sizeof(*u));
    struct sc_document *d = calloc(1, sizeof(*d));

    if (u == NULL || d == NULL) {
        free(u);
        free(d);
        return NULL;
    }
    atomic_init(&d->refs, 1);
    u->app = sc_rpc_app(rpc);
    d->model = u->app->model->fingerprint;
    (void)snprintf(d->ns, sizeof(d->ns), "%s", sc_rpc_identity(rpc)->ns);
    u->document = d;
    u->tell.run = run_tell;
    u->work.run = run_work;
    atomic_init(&u->refs, 1);
    u->rpc = rpc;
    u->start_us = sc_now_us();
    sc_rpc_ref(rpc);
    (void)pthread_mutex_init(&u->mu, NULL);
    return u;
}

static void hold(void *state)
{
    ref(state);
}

static void take_part(struct upload *u, const Semanticache__V1__PutDocumentRequest *part)
{
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st;

    if (part == NULL) { /* the client has half-closed */
        u->document->bytes = u->len;
        post(u, sc_server_long_messages(u->app->server), &u->work);
        return;
    }
    if (part->part_case == SEMANTICACHE__V1__PUT_DOCUMENT_REQUEST__PART_DATA)
        st = take_data(u, &part->data, &err);
    else
        st = sc_fail(&err, SC_EINVAL, "part: a second header, or neither header nor data");
    if (st == SC_OK) {
        sc_rpc_receive(u->rpc);
        pump(u);
    } else {
        fail(u, st, err.text);
    }
}

void sc_document_put(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const Semanticache__V1__PutDocumentRequest *part =
        (const Semanticache__V1__PutDocumentRequest *)message;
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st;
    bool closed;
    struct upload *u = sc_rpc_hold_state(rpc, hold, &closed);

    if (closed)
        return;
    if (u != NULL) {
        take_part(u, part);
        unref(u);
        return;
    }
    if (part == NULL || part->part_case != SEMANTICACHE__V1__PUT_DOCUMENT_REQUEST__PART_HEADER) {
        sc_rpc_fail(rpc, SC_EINVAL, "the first part must be the header");
        return;
    }
    u = open_upload(rpc);
    if (u == NULL) {
        sc_rpc_fail(rpc, SC_ENOMEM, "no memory for a document");
        return;
    }
    st = take_header(u, part->header, &err);
    ref(u); /* the open call's; dropped by on_closed */
    sc_rpc_set_hooks(rpc, &hooks, u);
    if (st == SC_OK)
        sc_rpc_receive(rpc);
    else
        fail(u, st, err.text);
    unref(u);
}
