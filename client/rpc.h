/* client/rpc.h - calls to one server over the gRPC C core.
 *
 * Most commands make one call at a time and wait for its end. A load generator keeps thousands in
 * flight: all their events come over one completion queue and are handled by sc_rpc_step.
 * SIGINT and SIGTERM are blocked while a connection is open and looked at while it waits.
 * Memory: each reply is handed to the caller's function, which owns it.
 * Threads: one owner; gRPC keeps threads of its own.
 */
#ifndef SC_CLIENT_RPC_H
#define SC_CLIENT_RPC_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "base/status.h"

#define SC_RPC_REPLY_BYTES_MAX (256u << 20)

struct sc_rpc;

/* address: HOST:PORT or unix:PATH. timeout_s: of each call; 0: none. Does not connect yet: the
 * first call does. */
enum sc_status sc_rpc_open(const char *address, double timeout_s, struct sc_rpc **ret_rpc,
                           struct sc_err *err) SC_MUST_CHECK;
void sc_rpc_close(struct sc_rpc *rpc); /* NULL is fine; the signal mask is as before again */

/* Every call from now on carries `authorization: Bearer KEY`. SC_EINVAL unless the key is 1 to
 * SC_RPC_KEY_BYTES_MAX printable ASCII characters without blanks; the text does not repeat it. */
#define SC_RPC_KEY_BYTES_MAX 4096u
enum sc_status sc_rpc_authorize(struct sc_rpc *rpc, const char *key,
                                struct sc_err *err) SC_MUST_CHECK;

/* Takes message, to be freed with protobuf_c_message_free_unpacked(message, NULL). Anything but
 * SC_OK cancels the call. */
typedef enum sc_status sc_rpc_reply_fn(void *ctx, ProtobufCMessage *message, struct sc_err *err);

/* The next message of a client stream, used until the function is called again; NULL when there is
 * none left. Anything but SC_OK cancels the call. Not called again once the server has ended it. */
typedef enum sc_status sc_rpc_source_fn(void *ctx, const ProtobufCMessage **ret_message,
                                        struct sc_err *err);

/* Returns when the call has ended.
 * SC_EPEER: the server, or the way to it, answered with an error: "STATUS_NAME: its message".
 * SC_ECANCELED: interrupted by a signal. SC_EFORMAT: the reply cannot be read. Or what on_reply
 * returned. */
enum sc_status sc_rpc_call(struct sc_rpc *rpc, const ProtobufCServiceDescriptor *service,
                           const char *method, const ProtobufCMessage *request,
                           sc_rpc_reply_fn *on_reply, void *ctx, struct sc_err *err) SC_MUST_CHECK;

/* The same, sending what source gives while replies are read. */
enum sc_status sc_rpc_upload(struct sc_rpc *rpc, const ProtobufCServiceDescriptor *service,
                             const char *method, sc_rpc_source_fn *source,
                             sc_rpc_reply_fn *on_reply, void *ctx,
                             struct sc_err *err) SC_MUST_CHECK;

/* A call with exactly one reply, which the caller then owns. */
enum sc_status sc_rpc_unary(struct sc_rpc *rpc, const ProtobufCServiceDescriptor *service,
                            const char *method, const ProtobufCMessage *request,
                            ProtobufCMessage **ret_reply, struct sc_err *err) SC_MUST_CHECK;

/* A call in flight; gone once its on_end has returned. */
struct sc_rpc_call;

struct sc_rpc_handler {
    sc_rpc_source_fn *source; /* NULL: one request */
    sc_rpc_reply_fn *on_reply;
    /* st and err as sc_rpc_call returns them; code is the gRPC status. May start other calls. */
    void (*on_end)(void *ctx, enum sc_status st, int code, const struct sc_err *err);
    void *ctx;
    bool paced;       /* after each reply the next is read when sc_rpc_read_on says so */
    double timeout_s; /* where it is shorter than the connection's; 0: that one */
};

/* request is NULL where the handler has a source; it is packed before the function returns. */
enum sc_status sc_rpc_start(struct sc_rpc *rpc, const ProtobufCMethodDescriptor *method,
                            const char *path, const ProtobufCMessage *request,
                            const struct sc_rpc_handler *handler, struct sc_rpc_call **ret_call,
                            struct sc_err *err) SC_MUST_CHECK;
void sc_rpc_cancel(struct sc_rpc_call *call);  /* on_end comes later, with code CANCELLED */
void sc_rpc_read_on(struct sc_rpc_call *call); /* paced calls, once after each reply */

/* Waits for an event, at most timeout_ms, and handles it. SC_ETIMEDOUT: none came. SC_ECANCELED: a
 * signal came; calls go on until they are cancelled. */
enum sc_status sc_rpc_step(struct sc_rpc *rpc, int timeout_ms, struct sc_err *err) SC_MUST_CHECK;

/* Sleeps. SC_ECANCELED: a signal came first. */
enum sc_status sc_rpc_sleep(struct sc_rpc *rpc, double seconds, struct sc_err *err) SC_MUST_CHECK;

/* "/semanticache.v1.Inference/Tokenize"; the method must exist (asserted). */
#define SC_RPC_PATH_BYTES 256
const ProtobufCMethodDescriptor *sc_rpc_method(const ProtobufCServiceDescriptor *service,
                                               const char *name, char ret_path[SC_RPC_PATH_BYTES]);

const char *sc_rpc_status_name(int code); /* "UNAVAILABLE"; never NULL */

#endif
