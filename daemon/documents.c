#include "daemon/documents.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/utf8.h"

struct sc_documents {
    const char *dir; /* NULL: nothing is kept */
    int lock_fd;     /* of it; -1: none */
    uint32_t max;
    uint64_t memory_max;
    uint32_t vocab;
    struct sc_hash model;
    pthread_mutex_t mu;        /* guards what follows */
    uint64_t memory;           /* of documents, and of texts that are being put */
    struct sc_document **list; /* [max], sorted by namespace, then id */
    size_t n;
};

int64_t sc_unix_us(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

void sc_document_unref(struct sc_document *d)
{
    if (d == NULL || atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(d->tokens);
    free(d->kv);
    free(d);
}

static void ref(struct sc_document *d)
{
    (void)atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
}

enum sc_status sc_document_check_id(const char *id, struct sc_err *err)
{
    size_t len = strlen(id);

    if (len == 0 || len > SC_DOCUMENT_ID_MAX)
        return sc_fail(err, SC_EINVAL, "document_id: %zu bytes, limits 1..%u", len,
                       SC_DOCUMENT_ID_MAX);
    for (size_t i = 0; i < len; i++)
        if (id[i] < 0x21 || id[i] > 0x7e)
            return sc_fail(err, SC_EINVAL,
                           "document_id: byte 0x%02x at %zu, must be printable ASCII without "
                           "spaces",
                           (unsigned char)id[i], i);
    return SC_OK;
}

/* The tokenizer's own special tokens around a text, found by encoding one with and without. */
enum sc_status sc_document_tokenize(const struct sc_model *model, const char *text, size_t len,
                                    struct sc_ids *ids, uint32_t *ret_n_prefix, struct sc_err *err)
{
    static const struct sc_encode_opts special = {.add_special_tokens = true}, plain = {0},
                                       strangers = {.no_special_parsing = true};
    struct sc_ids with = {0}, without = {0}, body = {0};
    size_t n_prefix = 0;
    enum sc_status st = sc_tokenizer_encode(model->tok, "a", 1, &special, &with, err);

    if (st == SC_OK)
        st = sc_tokenizer_encode(model->tok, "a", 1, &plain, &without, err);
    if (st == SC_OK)
        st = sc_tokenizer_encode(model->tok, text, len, &strangers, &body, err);
    while (st == SC_OK && n_prefix + without.n < with.n &&
           memcmp(with.ids + n_prefix, without.ids, without.n * sizeof(*with.ids)) != 0)
        n_prefix++;
    if (st == SC_OK) {
        ids->ids = malloc((n_prefix + body.n + 1) * sizeof(*ids->ids));
        if (ids->ids == NULL)
            st = sc_fail(err, SC_ENOMEM, "no memory for %zu tokens", n_prefix + body.n);
    }
    if (st == SC_OK) {
        memcpy(ids->ids, with.ids, n_prefix * sizeof(*ids->ids));
        if (body.n > 0)
            memcpy(ids->ids + n_prefix, body.ids, body.n * sizeof(*ids->ids));
        ids->n = ids->cap = n_prefix + body.n;
        *ret_n_prefix = (uint32_t)n_prefix;
    }
    sc_ids_fini(&with);
    sc_ids_fini(&without);
    sc_ids_fini(&body);
    return st;
}

/* ---- the registry ---- */

static int compare(const struct sc_document *d, const char *ns, const char *id)
{
    int c = strcmp(d->ns, ns);
    return c != 0 ? c : strcmp(d->id, id);
}

/* The first that is not below. */
static size_t place_locked(const struct sc_documents *ds, const char *ns, const char *id)
{
    size_t lo = 0, hi = ds->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (compare(ds->list[mid], ns, id) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool is_at_locked(const struct sc_documents *ds, size_t at, const char *ns, const char *id)
{
    return at < ds->n && compare(ds->list[at], ns, id) == 0;
}

static uint64_t memory_of(const struct sc_document *d)
{
    return sizeof(*d) + d->kv_bytes + (uint64_t)d->n_tokens * sizeof(*d->tokens);
}

static enum sc_status reserve_locked(struct sc_documents *ds, uint64_t bytes, struct sc_err *err)
{
    if (bytes > ds->memory_max || ds->memory > ds->memory_max - bytes)
        return sc_fail(err, SC_EFULL,
                       "documents take %" PRIu64 " bytes, %" PRIu64
                       " more pass the limit of %" PRIu64 " (documents.memory)",
                       ds->memory, bytes, ds->memory_max);
    ds->memory += bytes;
    return SC_OK;
}

static void release_locked(struct sc_documents *ds, uint64_t bytes)
{
    SC_ASSERT(bytes <= ds->memory);
    ds->memory -= bytes;
}

enum sc_status sc_documents_reserve(struct sc_documents *ds, uint64_t bytes, struct sc_err *err)
{
    (void)pthread_mutex_lock(&ds->mu);
    enum sc_status st = reserve_locked(ds, bytes, err);
    (void)pthread_mutex_unlock(&ds->mu);
    return st;
}

void sc_documents_release(struct sc_documents *ds, uint64_t bytes)
{
    (void)pthread_mutex_lock(&ds->mu);
    release_locked(ds, bytes);
    (void)pthread_mutex_unlock(&ds->mu);
}

static bool share_locked(const struct sc_documents *ds, const struct sc_hash *key)
{
    for (size_t i = 0; i < ds->n; i++)
        if (memcmp(&ds->list[i]->prefix_key, key, sizeof(*key)) == 0)
            return true;
    return false;
}

bool sc_documents_share(struct sc_documents *ds, const struct sc_hash *prefix_key)
{
    (void)pthread_mutex_lock(&ds->mu);
    bool yes = share_locked(ds, prefix_key);
    (void)pthread_mutex_unlock(&ds->mu);
    return yes;
}

static void insert_locked(struct sc_documents *ds, size_t at, struct sc_document *d)
{
    memmove(ds->list + at + 1, ds->list + at, (ds->n - at) * sizeof(*ds->list));
    ds->list[at] = d;
    ds->n++;
}

static bool has_tokens(const struct sc_documents *ds, const struct sc_document *d)
{
    for (uint32_t i = 0; i < d->n_tokens; i++)
        if ((uint32_t)d->tokens[i] >= ds->vocab)
            return false;
    return true;
}

static void take_read(void *ctx, struct sc_document *d)
{
    struct sc_documents *ds = ctx;
    size_t at = place_locked(ds, d->ns, d->id);
    struct sc_err err = SC_ERR_INIT;

    if (memcmp(&d->model, &ds->model, sizeof(d->model)) != 0) {
        sc_warn("document skipped", "id=%s reason=\"it was put for another model\"", d->id);
        sc_document_unref(d);
    } else if (!has_tokens(ds, d)) {
        sc_warn("document skipped", "id=%s reason=\"the model lacks some of its tokens\"", d->id);
        sc_document_unref(d);
    } else if (ds->n == ds->max || is_at_locked(ds, at, d->ns, d->id)) {
        sc_warn("document skipped", "id=%s reason=\"documents.max is %u\"", d->id, ds->max);
        sc_document_unref(d);
    } else if (reserve_locked(ds, memory_of(d), &err) != SC_OK) {
        sc_warn("document skipped", "id=%s reason=\"%s\"", d->id, err.text);
        sc_document_unref(d);
    } else {
        insert_locked(ds, at, d);
    }
}

enum sc_status sc_documents_open(struct sc_app *app, struct sc_documents **ret_documents,
                                 struct sc_err *err)
{
    const struct sc_config *c = app->config;
    struct sc_documents *ds = calloc(1, sizeof(*ds));
    enum sc_status st = SC_OK;

    if (ds == NULL || (ds->list = calloc(c->documents_max, sizeof(struct sc_document *))) == NULL) {
        free(ds);
        return sc_fail(err, SC_ENOMEM, "no memory for %u documents", c->documents_max);
    }
    (void)pthread_mutex_init(&ds->mu, NULL);
    ds->max = c->documents_max;
    ds->memory_max = c->documents_memory_bytes;
    ds->dir = c->documents_dir[0] != '\0' ? c->documents_dir : NULL;
    ds->model = app->model->fingerprint;
    ds->vocab = app->model->config.vocab;
    ds->lock_fd = -1;
    if (ds->dir != NULL)
        st = sc_document_lock_dir(ds->dir, &ds->lock_fd, err);
    if (ds->dir != NULL && st == SC_OK)
        st = sc_document_read_dir(ds->dir, take_read, ds, err);
    if (st != SC_OK) {
        sc_documents_close(ds);
        return st;
    }
    if (ds->n > 0)
        sc_notice("documents", "known=%zu dir=%s", ds->n, ds->dir);
    *ret_documents = ds;
    return SC_OK;
}

void sc_documents_close(struct sc_documents *ds)
{
    if (ds == NULL)
        return;
    for (size_t i = 0; i < ds->n; i++)
        sc_document_unref(ds->list[i]);
    if (ds->lock_fd >= 0)
        (void)close(ds->lock_fd);
    (void)pthread_mutex_destroy(&ds->mu);
    free(ds->list);
    free(ds);
}

uint32_t sc_documents_count(struct sc_documents *ds)
{
    (void)pthread_mutex_lock(&ds->mu);
    size_t n = ds->n;
    (void)pthread_mutex_unlock(&ds->mu);
    return (uint32_t)n;
}

struct sc_document *sc_documents_find(struct sc_documents *ds, const char *ns, const char *id)
{
    struct sc_document *d = NULL;

    (void)pthread_mutex_lock(&ds->mu);
    size_t at = place_locked(ds, ns, id);
    if (is_at_locked(ds, at, ns, id)) {
        d = ds->list[at];
        ref(d);
    }
    (void)pthread_mutex_unlock(&ds->mu);
    return d;
}

/* The file first: a document that a client was told of is there after a crash. */
static enum sc_status add_locked(struct sc_documents *ds, struct sc_document *d, bool replace,
                                 struct sc_document **ret_old, struct sc_err *err)
{
    size_t at = place_locked(ds, d->ns, d->id);
    bool known = is_at_locked(ds, at, d->ns, d->id);
    enum sc_status st;

    if (known && !replace)
        return sc_fail(err, SC_EEXIST, "document_id: \"%s\" exists; say replace to put it anew",
                       d->id);
    if (!known && ds->n == ds->max)
        return sc_fail(err, SC_EFULL, "documents: %u are known, limit %u (documents.max)", ds->max,
                       ds->max);
    st = reserve_locked(ds, memory_of(d), err);
    if (st != SC_OK)
        return st;
    if (ds->dir != NULL) /* rare, and a document's name must not be taken twice */
        st = sc_document_write(ds->dir, d, err);
    if (st != SC_OK) {
        release_locked(ds, memory_of(d));
        return st;
    }
    ref(d);
    *ret_old = known ? ds->list[at] : NULL;
    if (known) {
        release_locked(ds, memory_of(ds->list[at]));
        ds->list[at] = d;
    } else {
        insert_locked(ds, at, d);
    }
    return SC_OK;
}

enum sc_status sc_documents_add(struct sc_documents *ds, struct sc_document *d, bool replace,
                                struct sc_document **ret_old, struct sc_err *err)
{
    (void)pthread_mutex_lock(&ds->mu);
    enum sc_status st = add_locked(ds, d, replace, ret_old, err);
    (void)pthread_mutex_unlock(&ds->mu);
    return st;
}

enum sc_status sc_documents_remove(struct sc_documents *ds, const char *ns, const char *id,
                                   struct sc_document **ret_document, bool *ret_shared,
                                   struct sc_err *err)
{
    struct sc_document *d = NULL;

    *ret_shared = false;
    (void)pthread_mutex_lock(&ds->mu);
    size_t at = place_locked(ds, ns, id);
    if (is_at_locked(ds, at, ns, id)) {
        d = ds->list[at];
        memmove(ds->list + at, ds->list + at + 1, (ds->n - at - 1) * sizeof(*ds->list));
        ds->n--;
        release_locked(ds, memory_of(d));
        *ret_shared = share_locked(ds, &d->prefix_key);
        if (ds->dir != NULL)
            sc_document_unlink(ds->dir, d);
    }
    (void)pthread_mutex_unlock(&ds->mu);
    if (d == NULL)
        return sc_fail(err, SC_ENOENT, "document_id: there is no \"%s\"", id);
    *ret_document = d;
    return SC_OK;
}

void sc_documents_save(struct sc_documents *ds, struct sc_document *d)
{
    struct sc_err err = SC_ERR_INIT;

    if (ds->dir == NULL)
        return;
    (void)pthread_mutex_lock(&ds->mu);
    size_t at = place_locked(ds, d->ns, d->id);
    if (is_at_locked(ds, at, d->ns, d->id) && ds->list[at] == d &&
        sc_document_write(ds->dir, d, &err) != SC_OK)
        sc_warn("document not written", "id=%s error=\"%s\"", d->id, err.text);
    (void)pthread_mutex_unlock(&ds->mu);
}

static size_t after_locked(const struct sc_documents *ds, const char *ns, const char *after)
{
    size_t at = place_locked(ds, ns, after);

    return is_at_locked(ds, at, ns, after) ? at + 1 : at;
}

/* The document at that place, or NULL where the namespace ends. */
static struct sc_document *of_ns_locked(const struct sc_documents *ds, size_t at, const char *ns)
{
    return at < ds->n && strcmp(ds->list[at]->ns, ns) == 0 ? ds->list[at] : NULL;
}

size_t sc_documents_list(struct sc_documents *ds, const char *ns, const char *shared_ns,
                         const char *after, struct sc_document **list, size_t max)
{
    size_t n = 0;

    (void)pthread_mutex_lock(&ds->mu);
    size_t own = after_locked(ds, ns, after);
    size_t shared = shared_ns != NULL ? after_locked(ds, shared_ns, after) : ds->n;
    while (n < max) { /* two sorted lists become one */
        struct sc_document *a = of_ns_locked(ds, own, ns);
        struct sc_document *b = shared_ns != NULL ? of_ns_locked(ds, shared, shared_ns) : NULL;
        if (a == NULL && b == NULL)
            break;
        int order = a == NULL ? 1 : b == NULL ? -1 : strcmp(a->id, b->id);
        own += order <= 0 ? 1 : 0;
        shared += order >= 0 ? 1 : 0;
        list[n] = order <= 0 ? a : b;
        ref(list[n++]);
    }
    (void)pthread_mutex_unlock(&ds->mu);
    return n;
}

size_t sc_documents_walk(struct sc_documents *ds, const char *ns, const char *id,
                         struct sc_document **list, size_t max)
{
    size_t n = 0;

    (void)pthread_mutex_lock(&ds->mu);
    for (size_t at = after_locked(ds, ns, id); at < ds->n && n < max; at++) {
        ref(ds->list[at]);
        list[n++] = ds->list[at];
    }
    (void)pthread_mutex_unlock(&ds->mu);
    return n;
}
