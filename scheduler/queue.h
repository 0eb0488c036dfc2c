/* scheduler/queue.h - requests that wait, and who is next: the order of docs/sharing.md,
 * "Fairness".
 *
 * A list for each priority and namespace bucket, so that finding the next costs the same for ten
 * and for 65536 waiting: a look at the heads of one priority. Memory: 0.9 MB at open, of which what
 * is not used is not touched; requests carry the links. Threads: one owner.
 */
#ifndef SC_SCHEDULER_QUEUE_H
#define SC_SCHEDULER_QUEUE_H

#include "scheduler/request.h"

struct sc_queue;

enum sc_status sc_queue_open(struct sc_queue **ret_queue, struct sc_err *err) SC_MUST_CHECK;
void sc_queue_close(struct sc_queue *q); /* empty; NULL is fine */

uint32_t sc_queue_n(const struct sc_queue *q);
/* A preempted one comes before all others of its priority. */
void sc_queue_push(struct sc_queue *q, struct sc_request *r);
/* Of the highest priority: the one preempted last, else of the namespaces that were served least
 * the one that waits longest. NULL: nobody waits. served [SC_NS_BUCKETS]. */
struct sc_request *sc_queue_next(const struct sc_queue *q, const uint64_t *served);
void sc_queue_take(struct sc_queue *q, struct sc_request *r); /* what next said */
/* Looks at all, and takes those out for which leaves is true: a list by next. */
struct sc_request *sc_queue_sweep(struct sc_queue *q,
                                  bool (*leaves)(void *ctx, const struct sc_request *r), void *ctx);

#endif
