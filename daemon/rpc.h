/* daemon/rpc.h - one call's life on the server, from the core's new-call event to its last batch.
 *
 * A handler gets a checked, unpacked request and answers in one of three ways:
 *
 *   - sc_rpc_reply: one message and OK (unary)
 *   - sc_rpc_send, any number of times, one at a time (on_sent tells), then sc_rpc_finish
 *   - sc_rpc_fail: a status
 *
 * Exactly one of reply, finish or fail ends a call; what comes after it, and what is sent after the
 * peer has gone, is dropped, so handlers need not look.
 *
 * References: the core holds one for each outstanding batch, sc_rpc_ref gives more.
 *
 * Threads: handlers and hooks run on poller threads, any of them, and handlers of long messages,
 * and slow ones, on a thread each (SC_SHORT_MESSAGE_BYTES); answers may come from any thread, one
 * at a time for one call.
 */
#ifndef SC_DAEMON_RPC_H
#define SC_DAEMON_RPC_H

#include <grpc/grpc.h>
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "base/status.h"

#define SC_METHOD_PATH_BYTES 128

struct sc_app;
struct sc_identity;
struct sc_rpc;
struct sc_server;

/* request lives until the handler returns. With streams_in: called for each message, then once with
 * NULL when the client has half-closed (not when it has gone: then only on_closed comes); call
 * sc_rpc_receive for the next message. */
typedef void sc_rpc_handler_fn(struct sc_rpc *rpc, const ProtobufCMessage *request);

struct sc_service_method {
    const char *name;
    sc_rpc_handler_fn *handler; /* NULL: not served, and then */
    const char *missing;        /* says what is not there */
    bool streams_in;
    bool background;  /* does not hold up a drain: subscriptions */
    bool work;        /* starts work of the engine: refused while draining */
    bool open_to_all; /* no API key is asked for */
    bool admin;       /* only for keys of that role */
    bool always;      /* served before the model is loaded, too */
    bool slow;        /* waits for the engine or a disk: runs on a thread of its own */
    const ProtobufCMessageDescriptor *input; /* NULL: the service descriptor's */
};

struct sc_service {
    const ProtobufCServiceDescriptor *descriptor;
    const struct sc_service_method *methods; /* one for each of the descriptor's, by name */
    size_t n_methods;
};

struct sc_method {
    char path[SC_METHOD_PATH_BYTES]; /* "/semanticache.v1.Inference/Generate" */
    const struct sc_service_method *impl;
    const ProtobufCMessageDescriptor *input;
};

struct sc_rpc_hooks {
    /* The last sc_rpc_send is out (or failed; the close follows). May be NULL. */
    void (*on_sent)(struct sc_rpc *rpc, void *state);
    /* Once, always: the call is over on the wire. cancelled: not by our status (client gone, its
     * deadline passed, or the server shuts down). No on_sent comes after its send's own. */
    void (*on_closed)(struct sc_rpc *rpc, void *state, bool cancelled);
};

struct sc_app *sc_rpc_app(struct sc_rpc *rpc);
/* Who calls, by its API key; valid as long as the rpc. */
const struct sc_identity *sc_rpc_identity(const struct sc_rpc *rpc);
const char *sc_rpc_path(const struct sc_rpc *rpc);
uint64_t sc_rpc_deadline_us(const struct sc_rpc *rpc); /* CLOCK_MONOTONIC; 0: none */

/* For handlers that answer later. hooks and state must stay valid until on_closed has returned. */
void sc_rpc_set_hooks(struct sc_rpc *rpc, const struct sc_rpc_hooks *hooks, void *state);
/* For handlers of streams: hold is called with the state, under the call's lock, before on_closed
 * can come. NULL: no hooks are set. ret_closed: the call is over; hold was not called. */
void *sc_rpc_hold_state(struct sc_rpc *rpc, void (*hold)(void *state), bool *ret_closed);
void sc_rpc_ref(struct sc_rpc *rpc);
void sc_rpc_unref(struct sc_rpc *rpc);

void sc_rpc_reply(struct sc_rpc *rpc, const ProtobufCMessage *message);
void sc_rpc_send(struct sc_rpc *rpc, const ProtobufCMessage *message);
/* The last message (or NULL) and OK. */
void sc_rpc_finish(struct sc_rpc *rpc, const ProtobufCMessage *message);
/* SC_EFULL carries RetryInfo. */
void sc_rpc_fail(struct sc_rpc *rpc, enum sc_status st, const char *text);
void sc_rpc_receive(struct sc_rpc *rpc);

/* For server.c: takes one new call from the core, forever, until the server shuts down. */
void sc_rpc_request(struct sc_server *server);

/* A tag of the completion queue: next() gives it back and done is called. */
struct sc_tag {
    void (*done)(struct sc_tag *tag, bool ok);
};

#endif
