/* daemon/inspect.h - gathers what compression did to one prompt, and tells it.
 *
 * note() is called by rank 0's thread during steps and must not block: it copies labels into memory
 * that grows by doubling. A preempted request is compressed again and tells the same chunks again;
 * the last telling counts. Threads: note by one thread at a time; reply after the request's DONE.
 */
#ifndef SC_DAEMON_INSPECT_H
#define SC_DAEMON_INSPECT_H

#include "base/arena.h"
#include "scheduler/scheduler.h"
#include "semanticache/v1/control.pb-c.h"

#define SC_INSPECT_TOKENS_MAX                                                                      \
    65536u /* of the prompt: an answer holds each token's text and labels */

struct sc_inspect;

/* layers: those wanted, or NULL for all. lookup: copied. SC_EINVAL: no such layer, or a prompt that
 * is too long. */
enum sc_status sc_inspect_open(const struct sc_model *model, const struct sc_request_opts *opts,
                               const Semanticache__V1__LayerList *layers,
                               const struct sc_lookup *lookup, struct sc_inspect **ret_inspect,
                               struct sc_err *err) SC_MUST_CHECK;
void sc_inspect_close(struct sc_inspect *inspect); /* NULL is fine */
void sc_inspect_note(struct sc_inspect *inspect, const struct sc_chunk_event *event);

/* The response without receipt and timings, in the arena; NULL: no memory, then or in note. */
Semanticache__V1__InspectCacheResponse *sc_inspect_reply(struct sc_inspect *inspect,
                                                         struct sc_arena *arena);

#endif
