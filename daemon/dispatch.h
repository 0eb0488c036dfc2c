/* daemon/dispatch.h - the ready list between the scheduler thread and the streams.
 *
 * The scheduler thread must not pack or send (a start_batch costs it 9 µs and can stall); it notes
 * what happened and posts the stream. One dispatcher thread takes the whole list and serves each
 * stream once, however many events it had; the thread is woken once per list, not once per token.
 * Memory: items are embedded in their owners, nothing is allocated. Threads: post from any thread.
 */
#ifndef SC_DAEMON_DISPATCH_H
#define SC_DAEMON_DISPATCH_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/status.h"

struct sc_dispatch;

struct sc_dispatch_item {
    struct sc_dispatch_item *next;
    atomic_bool queued;
    void (*run)(struct sc_dispatch_item *item); /* on the dispatcher thread; may free the item */
};

enum sc_status sc_dispatch_open(struct sc_dispatch **ret_dispatch,
                                struct sc_err *err) SC_MUST_CHECK;
void sc_dispatch_close(struct sc_dispatch *dispatch); /* runs what is queued; NULL is fine */

/* False: it was queued already, and its run has not begun. The item must live until run. */
bool sc_dispatch_post(struct sc_dispatch *dispatch, struct sc_dispatch_item *item);

#endif
