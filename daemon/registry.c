#include "daemon/registry.h"

#include <string.h>

void sc_registry_init(struct sc_registry *r)
{
    (void)pthread_mutex_init(&r->mu, NULL);
    r->head = NULL;
}

void sc_registry_fini(struct sc_registry *r)
{
    SC_ASSERT(r->head == NULL);
    (void)pthread_mutex_destroy(&r->mu);
}

enum sc_status sc_registry_add(struct sc_registry *r, struct sc_registry_entry *entry,
                               struct sc_err *err)
{
    enum sc_status st = SC_OK;

    (void)pthread_mutex_lock(&r->mu);
    for (const struct sc_registry_entry *e = r->head; e != NULL; e = e->next) {
        if (strcmp(e->id, entry->id) == 0 && strcmp(e->ns, entry->ns) == 0)
            st = SC_EEXIST;
    }
    if (st == SC_OK) {
        entry->prev = NULL;
        entry->next = r->head;
        if (r->head != NULL)
            r->head->prev = entry;
        r->head = entry;
        entry->listed = true;
    }
    (void)pthread_mutex_unlock(&r->mu);
    if (st != SC_OK)
        return sc_fail(err, st, "request_id: \"%s\" is in use by a request that runs", entry->id);
    return SC_OK;
}

void sc_registry_remove(struct sc_registry *r, struct sc_registry_entry *entry)
{
    (void)pthread_mutex_lock(&r->mu);
    if (entry->listed) {
        if (entry->prev != NULL)
            entry->prev->next = entry->next;
        else
            r->head = entry->next;
        if (entry->next != NULL)
            entry->next->prev = entry->prev;
        entry->listed = false;
    }
    (void)pthread_mutex_unlock(&r->mu);
}

unsigned sc_registry_each(struct sc_registry *r, const char *ns, const char *id,
                          void (*fn)(struct sc_registry_entry *entry, void *ctx), void *ctx)
{
    unsigned n = 0;

    (void)pthread_mutex_lock(&r->mu);
    for (struct sc_registry_entry *e = r->head; e != NULL; e = e->next) {
        if (id == NULL || (strcmp(e->id, id) == 0 && strcmp(e->ns, ns) == 0)) {
            fn(e, ctx);
            n++;
        }
    }
    (void)pthread_mutex_unlock(&r->mu);
    return n;
}
