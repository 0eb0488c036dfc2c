/* daemon/registry.h - the generate requests that are open, by their id.
 *
 * For Abort, for refusing an id twice, and for ending all when a drain has taken too long. Entries
 * are embedded in their owners. Threads: any; one lock, held for a walk of the list.
 */
#ifndef SC_DAEMON_REGISTRY_H
#define SC_DAEMON_REGISTRY_H

#include <pthread.h>
#include <stdbool.h>

#include "base/status.h"

#define SC_REQUEST_ID_MAX 128u

struct sc_registry_entry {
    struct sc_registry_entry *prev, *next;
    const char *ns; /* outlives the entry; ids of two namespaces do not meet */
    char id[SC_REQUEST_ID_MAX + 1];
    bool listed;
};

struct sc_registry {
    pthread_mutex_t mu; /* guards what follows */
    struct sc_registry_entry *head;
};

void sc_registry_init(struct sc_registry *registry);
void sc_registry_fini(struct sc_registry *registry); /* must be empty */

/* SC_EEXIST: the id is in use in its namespace. */
enum sc_status sc_registry_add(struct sc_registry *registry, struct sc_registry_entry *entry,
                               struct sc_err *err) SC_MUST_CHECK;
void sc_registry_remove(struct sc_registry *registry, struct sc_registry_entry *entry);

/* Calls fn for the entry of that id in that namespace, or for all (id NULL), under the lock: fn
 * must not call back. Returns how many there were. */
unsigned sc_registry_each(struct sc_registry *registry, const char *ns, const char *id,
                          void (*fn)(struct sc_registry_entry *entry, void *ctx), void *ctx);

#endif
