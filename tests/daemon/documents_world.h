/* tests/daemon/documents_world.h - a registry of documents over the fixture's model; no engine. */
#ifndef SC_TESTS_DAEMON_DOCUMENTS_WORLD_H
#define SC_TESTS_DAEMON_DOCUMENTS_WORLD_H

#include "testing.h"

#include "daemon/documents.h"
#include "fixture.h"

struct world {
    struct fixture *f;
    struct sc_app app;
    struct sc_documents *ds;
    char dir[64];
};

static inline void open_registry(struct world *w)
{
    struct sc_err err = SC_ERR_INIT;

    assert_ok(sc_documents_open(&w->app, &w->ds, &err));
}

static inline int world_open(void **state)
{
    struct world *w = calloc(1, sizeof(*w));

    if (fixture_open((void **)&w->f) != 0)
        return -1;
    (void)snprintf(w->dir, sizeof(w->dir), "/tmp/sc-documents-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    (void)snprintf(w->f->config.documents_dir, SC_CONFIG_PATH_BYTES, "%s/made", w->dir);
    w->f->config.documents_max = 10;
    w->app.config = &w->f->config;
    w->app.model = &w->f->model;
    open_registry(w);
    *state = w;
    return 0;
}

static inline int world_close(void **state)
{
    struct world *w = *state;
    char command[128];

    sc_documents_close(w->ds);
    (void)fixture_close((void **)&w->f);
    (void)snprintf(command, sizeof(command), "rm -r %s", w->dir);
    free(w);
    return system(command);
}

static inline struct sc_document *make(const struct world *w, const char *ns, const char *id,
                                       const char *text, enum sc_kv_mode mode)
{
    struct sc_document *d = calloc(1, sizeof(*d));
    struct sc_ids ids = {0};
    struct sc_err err = SC_ERR_INIT;

    atomic_init(&d->refs, 1);
    (void)snprintf(d->ns, sizeof(d->ns), "%s", ns);
    (void)snprintf(d->id, sizeof(d->id), "%s", id);
    (void)snprintf(d->title, sizeof(d->title), "Title \xc3\xa4");
    assert_ok(sc_document_tokenize(&w->f->model, text, strlen(text), &ids, &d->n_prefix, &err));
    d->tokens = ids.ids;
    d->n_tokens = (uint32_t)ids.n;
    d->bytes = strlen(text);
    d->model = w->f->model.fingerprint;
    d->prefix_key.bytes[0] = (uint8_t)strlen(text);
    d->receipt.mode = mode;
    d->receipt.kv.cores = 77;
    d->created_us = 1700000000000000;
    atomic_store(&d->pinned_until_us, INT64_MAX);
    return d;
}

/* The registry's reference is the only one left. */
static inline enum sc_status add(struct world *w, struct sc_document *d, bool replace,
                                 struct sc_err *err)
{
    struct sc_document *old = NULL;
    enum sc_status st;

    sc_err_clear(err);
    st = sc_documents_add(w->ds, d, replace, &old, err);
    sc_document_unref(old);
    sc_document_unref(d);
    return st;
}

#define IN_WORLD(name) cmocka_unit_test_setup_teardown(name, world_open, world_close)

#endif
