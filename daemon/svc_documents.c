#include "daemon/services.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/clock.h"
#include "daemon/convert.h"
#include "daemon/document_put.h"
#include "proto/optional.h"

static char *text(const char *s)
{
    return (char *)(uintptr_t)s;
}

void sc_document_fill(const struct sc_document *d, enum sc_prefix_state state,
                      struct sc_document_message *m)
{
    const struct sc_ending ending = {.receipt = d->receipt, .stop_id = -1};
    int64_t pinned = atomic_load(&d->pinned_until_us);

    semanticache__v1__document__init(&m->document);
    sc_reply_ending(&ending, &m->parts);
    m->document.document_id = text(d->id);
    m->document.title = text(d->title);
    m->document.state = state == SC_PREFIX_ABSENT
                            ? SEMANTICACHE__V1__DOCUMENT_STATE__DOCUMENT_STATE_EVICTED
                            : SEMANTICACHE__V1__DOCUMENT_STATE__DOCUMENT_STATE_READY;
    m->document.bytes = d->bytes;
    m->document.tokens = d->n_tokens;
    m->document.receipt = &m->parts.receipt;
    m->document.created_unix_us = d->created_us;
    m->document.last_used_unix_us = atomic_load(&d->used_us);
    if (pinned > sc_unix_us())
        SC_PB_SET(&m->document, pinned_until_unix_us, pinned);
}

static enum sc_status copy_field(char *to, size_t max, const char *from, const char *name,
                                 struct sc_err *err)
{
    size_t len = strlen(from);

    if (len > max)
        return sc_fail(err, SC_EINVAL, "%s: %zu bytes, limit %zu", name, len, max);
    memcpy(to, from, len + 1);
    return SC_OK;
}

enum sc_status sc_document_take_header(struct sc_document *d,
                                       const Semanticache__V1__DocumentHeader *h,
                                       struct sc_err *err)
{
    uint64_t random[2] = {0};
    enum sc_status st;

    if (h->document_id[0] == '\0') {
        (void)!getrandom(random, sizeof(random), 0);
        (void)snprintf(d->id, sizeof(d->id), "d-%016" PRIx64 "%016" PRIx64, random[0], random[1]);
    } else {
        st = sc_document_check_id(h->document_id, err);
        if (st != SC_OK)
            return st;
        (void)snprintf(d->id, sizeof(d->id), "%s", h->document_id);
    }
    st = copy_field(d->title, SC_DOCUMENT_TITLE_MAX, h->title, "title", err);
    if (st == SC_OK && h->kv != NULL) {
        d->kv_bytes = protobuf_c_message_get_packed_size(&h->kv->base);
        d->kv = d->kv_bytes <= SC_DOCUMENT_OPTIONS_MAX ? malloc(d->kv_bytes + 1) : NULL;
        if (d->kv == NULL)
            return sc_fail(err, SC_EINVAL, "kv: %zu bytes, limit %u", d->kv_bytes,
                           SC_DOCUMENT_OPTIONS_MAX);
        (void)protobuf_c_message_pack(&h->kv->base, d->kv);
    }
    return st;
}

enum sc_status sc_document_options(const struct sc_document *d, struct sc_unpacked *ret,
                                   struct sc_err *err)
{
    if (d->kv == NULL)
        return SC_OK;
    return sc_unpack(&semanticache__v1__kv_options__descriptor, d->kv, d->kv_bytes, ret, err);
}

enum sc_status sc_document_reading(const struct sc_app *app, const struct sc_document *d,
                                   struct sc_request_opts *ret_opts, struct sc_err *err)
{
    struct sc_convert convert = sc_app_convert(app, NULL);
    struct sc_request_opts opts = {.sampling = SC_SAMPLING_GREEDY};
    struct sc_unpacked kv = {0};
    enum sc_status st = sc_document_options(d, &kv, err);

    if (st == SC_OK)
        st = sc_convert_kv(&convert, (const Semanticache__V1__KvOptions *)kv.message,
                           sc_convert_default_choice(&convert), &opts, err);
    sc_unpacked_fini(&kv);
    if (st != SC_OK)
        return st;
    opts.prompt = d->tokens;
    opts.n_prompt = opts.breakpoint = d->n_tokens;
    opts.prefill_only = opts.retain = true;
    opts.ns = d->ns;
    *ret_opts = opts;
    return SC_OK;
}

static struct sc_prefix_item one(struct sc_app *app, enum sc_prefix_op op,
                                 const struct sc_document *d, uint64_t until_us)
{
    struct sc_prefix_item item = {.op = op, .key = d->prefix_key, .until_us = until_us};
    struct sc_err err = SC_ERR_INIT;

    enum sc_status st = sc_sched_prefixes(app->sched, &item, 1, &err);

    if (st != SC_OK)
        item.status = st;
    return item;
}

void sc_document_forget(struct sc_app *app, const struct sc_document *d)
{
    if (!sc_documents_share(app->documents, &d->prefix_key))
        (void)one(app, SC_PREFIX_FORGET, d, 0);
}

/* NULL: there is none, or it is the caller's own. */
static const char *shared_ns(struct sc_rpc *rpc)
{
    const char *shared = sc_rpc_app(rpc)->config->shared_namespace;

    return shared[0] != '\0' && strcmp(shared, sc_rpc_identity(rpc)->ns) != 0 ? shared : NULL;
}

static bool is_read_only(struct sc_rpc *rpc, const struct sc_document *d)
{
    return strcmp(d->ns, sc_rpc_identity(rpc)->ns) != 0;
}

/* The caller's own, else the shared namespace's. */
static struct sc_document *look_for(struct sc_rpc *rpc, const char *id)
{
    struct sc_documents *ds = sc_rpc_app(rpc)->documents;
    struct sc_document *d = sc_documents_find(ds, sc_rpc_identity(rpc)->ns, id);

    return d == NULL && shared_ns(rpc) != NULL ? sc_documents_find(ds, shared_ns(rpc), id) : d;
}

static struct sc_document *find(struct sc_rpc *rpc, const char *id, bool to_write)
{
    struct sc_document *d = look_for(rpc, id);
    struct sc_err err = SC_ERR_INIT;

    if (d == NULL) {
        sc_rpc_fail(rpc, sc_fail(&err, SC_ENOENT, "document_id: there is no \"%.128s\"", id),
                    err.text);
    } else if (to_write && is_read_only(rpc, d)) {
        sc_rpc_fail(rpc,
                    sc_fail(&err, SC_EPERM,
                            "document_id: \"%.128s\" is the shared namespace's, which only its own "
                            "keys may change",
                            id),
                    err.text);
        sc_document_unref(d);
        d = NULL;
    }
    return d;
}

static void reply(struct sc_rpc *rpc, const struct sc_document *d, enum sc_prefix_state state)
{
    struct sc_document_message m;

    sc_document_fill(d, state, &m);
    m.document.read_only = is_read_only(rpc, d);
    sc_rpc_reply(rpc, &m.document.base);
}

static void get_document(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const Semanticache__V1__GetDocumentRequest *request =
        (const Semanticache__V1__GetDocumentRequest *)message;
    struct sc_document *d = find(rpc, request->document_id, false);

    if (d == NULL)
        return;
    reply(rpc, d, sc_document_state(sc_rpc_app(rpc), d));
    sc_document_unref(d);
}

static void send_list(struct sc_rpc *rpc, struct sc_document **list, size_t n, bool more)
{
    Semanticache__V1__ListDocumentsResponse m = SEMANTICACHE__V1__LIST_DOCUMENTS_RESPONSE__INIT;
    struct sc_document_message *messages = calloc(n + 1, sizeof(*messages));
    Semanticache__V1__Document **pointers = calloc(n + 1, sizeof(*pointers));
    struct sc_prefix_item *items = calloc(n + 1, sizeof(*items));
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = messages != NULL && pointers != NULL && items != NULL
                            ? SC_OK
                            : sc_fail(&err, SC_ENOMEM, "no memory for %zu documents", n);

    for (size_t i = 0; i < n && st == SC_OK; i++)
        items[i] = (struct sc_prefix_item){.op = SC_PREFIX_QUERY, .key = list[i]->prefix_key};
    if (st == SC_OK && n > 0)
        st = sc_sched_prefixes(sc_rpc_app(rpc)->sched, items, n, &err);
    for (size_t i = 0; i < n && st == SC_OK; i++) {
        sc_document_fill(list[i], items[i].state, &messages[i]);
        messages[i].document.read_only = is_read_only(rpc, list[i]);
        pointers[i] = &messages[i].document;
    }
    m.n_documents = n;
    m.documents = pointers;
    if (more)
        m.next_page_token = list[n - 1]->id;
    if (st == SC_OK)
        sc_rpc_reply(rpc, &m.base);
    else
        sc_rpc_fail(rpc, st, err.text);
    free(messages);
    free(pointers);
    free(items);
}

/* A page's token is the last id before it. */
static void list_documents(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const Semanticache__V1__ListDocumentsRequest *request =
        (const Semanticache__V1__ListDocumentsRequest *)message;
    uint32_t size = SC_PB_GET(request, page_size, 100);
    struct sc_document **list;
    struct sc_err err = SC_ERR_INIT;
    size_t n;

    if (size == 0 || size > SC_DOCUMENT_PAGE_MAX) {
        sc_rpc_fail(
            rpc,
            sc_fail(&err, SC_EINVAL, "page_size: %u, limits 1..%u", size, SC_DOCUMENT_PAGE_MAX),
            err.text);
        return;
    }
    list = calloc(size + 1, sizeof(struct sc_document *));
    if (list == NULL) {
        sc_rpc_fail(rpc, SC_ENOMEM, "no memory for a page of documents");
        return;
    }
    n = sc_documents_list(sc_rpc_app(rpc)->documents, sc_rpc_identity(rpc)->ns, shared_ns(rpc),
                          request->page_token, list, size + 1);
    send_list(rpc, list, n > size ? size : n, n > size);
    for (size_t i = 0; i < n; i++)
        sc_document_unref(list[i]);
    free(list);
}

static enum sc_status pin(struct sc_app *app, struct sc_document *d, uint64_t ttl_s,
                          struct sc_prefix_item *item, struct sc_err *err)
{
    if (ttl_s > SC_PIN_SECONDS_MAX)
        return sc_fail(err, SC_EINVAL, "ttl_seconds: %" PRIu64 ", limit %u", ttl_s,
                       SC_PIN_SECONDS_MAX);
    *item = one(app, SC_PREFIX_PIN, d, ttl_s == 0 ? UINT64_MAX : sc_now_us() + ttl_s * 1000000);
    if (item->status == SC_EFULL)
        return sc_fail(err, SC_EFULL, "pins: more than %u %% of the pages would be pinned",
                       SC_PINNED_PERCENT_MAX);
    if (item->status == SC_ENOENT) /* FAILED_PRECONDITION */
        return sc_fail(err, SC_ERANGE,
                       "document \"%s\" is not on the device; ask about it once, or put it again "
                       "with a pin",
                       d->id);
    if (item->status != SC_OK)
        return sc_fail(err, item->status, "%s", sc_status_text(item->status));
    atomic_store(&d->pinned_until_us,
                 ttl_s == 0 ? INT64_MAX : sc_unix_us() + (int64_t)ttl_s * 1000000);
    return SC_OK;
}

enum sc_status sc_document_pin(struct sc_app *app, struct sc_document *d, uint64_t ttl_s,
                               struct sc_err *err)
{
    struct sc_prefix_item item;

    return pin(app, d, ttl_s, &item, err);
}

enum sc_prefix_state sc_document_state(struct sc_app *app, const struct sc_document *d)
{
    return one(app, SC_PREFIX_QUERY, d, 0).state;
}

static void pin_document(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const Semanticache__V1__PinDocumentRequest *request =
        (const Semanticache__V1__PinDocumentRequest *)message;
    struct sc_app *app = sc_rpc_app(rpc);
    struct sc_document *d = find(rpc, request->document_id, true);
    struct sc_err err = SC_ERR_INIT;
    struct sc_prefix_item item;
    enum sc_status st = SC_OK;

    if (d == NULL)
        return;
    if (SC_PB_HAS(request, ttl_seconds)) {
        st = pin(app, d, request->ttl_seconds, &item, &err);
    } else {
        item = one(app, SC_PREFIX_UNPIN, d, 0);
        atomic_store(&d->pinned_until_us, 0);
    }
    if (st == SC_OK) {
        sc_documents_save(app->documents, d);
        reply(rpc, d, item.state);
    } else {
        sc_rpc_fail(rpc, st, err.text);
    }
    sc_document_unref(d);
}

static void delete_document(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const Semanticache__V1__DeleteDocumentRequest *request =
        (const Semanticache__V1__DeleteDocumentRequest *)message;
    Semanticache__V1__DeleteDocumentResponse m = SEMANTICACHE__V1__DELETE_DOCUMENT_RESPONSE__INIT;
    struct sc_app *app = sc_rpc_app(rpc);
    struct sc_document *d = find(rpc, request->document_id, true);
    struct sc_err err = SC_ERR_INIT;
    bool shared = false;

    if (d == NULL)
        return;
    sc_document_unref(d);
    enum sc_status st = sc_documents_remove(app->documents, sc_rpc_identity(rpc)->ns,
                                            request->document_id, &d, &shared, &err);

    if (st != SC_OK) {
        sc_rpc_fail(rpc, st, err.text);
        return;
    }
    if (!shared)
        (void)one(app, SC_PREFIX_FORGET, d, 0);
    sc_document_unref(d);
    sc_rpc_reply(rpc, &m.base);
}

static const struct sc_service_method methods[] = {
    {.name = "PutDocument", .handler = sc_document_put, .streams_in = true, .work = true},
    {.name = "GetDocument", .handler = get_document, .slow = true},
    {.name = "ListDocuments", .handler = list_documents, .slow = true},
    {.name = "PinDocument", .handler = pin_document, .slow = true},
    {.name = "DeleteDocument", .handler = delete_document, .slow = true},
};

const struct sc_service sc_service_documents = {
    &semanticache__v1__documents__descriptor,
    methods,
    SC_ARRAY_LEN(methods),
};
