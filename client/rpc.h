/* client/rpc.h - blocking calls to one server over the gRPC C core.
 *
 * A call sends one message and receives one (unary) or many (server stream). SIGINT and SIGTERM are
 * blocked while a connection is open and looked at during calls: they cancel the call.
 * Memory: each reply is handed to the caller's function, which owns it.
 * Threads: one owner; gRPC keeps threads of its own.
 */
#ifndef SC_CLIENT_RPC_H
#define SC_CLIENT_RPC_H

#include <protobuf-c/protobuf-c.h>

#include "base/status.h"

#define SC_RPC_REPLY_BYTES_MAX (256u << 20)

struct sc_rpc;

/* address: HOST:PORT or unix:PATH. timeout_s: of each call; 0: none. Does not connect yet: the
 * first call does. */
enum sc_status sc_rpc_open(const char *address, double timeout_s, struct sc_rpc **ret_rpc,
                           struct sc_err *err) SC_MUST_CHECK;
void sc_rpc_close(struct sc_rpc *rpc); /* NULL is fine; the signal mask is as before again */

/* Takes message, to be freed with protobuf_c_message_free_unpacked(message, NULL). Anything but
 * SC_OK cancels the call. */
typedef enum sc_status sc_rpc_reply_fn(void *ctx, ProtobufCMessage *message, struct sc_err *err);

/* Returns when the call has ended.
 * SC_EPEER: the server, or the way to it, answered with an error: "STATUS_NAME: its message".
 * SC_ECANCELED: interrupted by a signal. SC_EFORMAT: the reply cannot be read. Or what on_reply
 * returned. */
enum sc_status sc_rpc_call(struct sc_rpc *rpc, const ProtobufCServiceDescriptor *service,
                           const char *method, const ProtobufCMessage *request,
                           sc_rpc_reply_fn *on_reply, void *ctx, struct sc_err *err) SC_MUST_CHECK;

/* A call with exactly one reply, which the caller then owns. */
enum sc_status sc_rpc_unary(struct sc_rpc *rpc, const ProtobufCServiceDescriptor *service,
                            const char *method, const ProtobufCMessage *request,
                            ProtobufCMessage **ret_reply, struct sc_err *err) SC_MUST_CHECK;

const char *sc_rpc_status_name(int code); /* "UNAVAILABLE"; never NULL */

#endif
