/* scheduler/kv_log.h - what enters and leaves the cache of prefixes, for those who follow it.
 *
 * A ring of the last SC_KV_LOG_EVENTS events, numbered without gaps. The scheduler's thread writes;
 * readers pull, each from a place of its own. So one that does not read costs nobody time or
 * memory: the ring overruns it, and it is told. Memory: SC_KV_LOG_EVENTS events of about 200 bytes
 * (3.3 MB), taken at open. Threads: one writer, any readers; the lock is held for copying an event,
 * or for looking at SC_KV_LOG_SCAN.
 */
#ifndef SC_SCHEDULER_KV_LOG_H
#define SC_SCHEDULER_KV_LOG_H

#include <stdbool.h>

#include "base/hash.h"

#define SC_NAMESPACE_BYTES_MAX 64u
#define SC_KV_LOG_EVENTS       16384u
#define SC_KV_LOG_SCAN         256u

enum sc_kv_event_kind {
    SC_KV_STORED,  /* a prompt that begins with the prefix up to this block's end begins there */
    SC_KV_REMOVED, /* no longer */
    SC_KV_CLEARED, /* everything was lost; nothing else is set */
};

struct sc_kv_event {
    uint64_t sequence;
    enum sc_kv_event_kind kind;
    uint32_t start, n_tokens;   /* the block's tokens are [start, start + n_tokens) */
    struct sc_hash key, parent; /* of the block, and of what it hangs from */
    struct sc_hash recipe_id;
    char ns[SC_NAMESPACE_BYTES_MAX + 1];
};

/* Whose events: all, or those of one namespace and of a shared one (NULL: none). */
struct sc_kv_view {
    bool all;
    const char *ns, *shared_ns;
};
bool sc_kv_view_shows(const struct sc_kv_view *view, enum sc_kv_event_kind kind, const char *ns);

struct sc_kv_log;

/* first: the number of the first event, >= 1. */
enum sc_status sc_kv_log_open(uint64_t first, struct sc_kv_log **ret_log,
                              struct sc_err *err) SC_MUST_CHECK;
void sc_kv_log_close(struct sc_kv_log *log);                          /* NULL is fine */
void sc_kv_log_add(struct sc_kv_log *log, struct sc_kv_event *event); /* sets the sequence */
uint64_t sc_kv_log_oldest(struct sc_kv_log *log); /* of those held; the next, if none is */
uint64_t sc_kv_log_next(struct sc_kv_log *log);   /* the number of the next event */

/* Up to cap of the events from number *at on that the view shows; *at becomes where to go on. None:
 * there are no more yet. SC_ERANGE: *at is no longer in the ring, or was never given out. */
enum sc_status sc_kv_log_read(struct sc_kv_log *log, const struct sc_kv_view *view, uint64_t *at,
                              struct sc_kv_event *events, uint32_t cap, uint32_t *ret_n,
                              struct sc_err *err) SC_MUST_CHECK;

#endif
