/* Calls that are waited for, made of the calls in flight of rpc.c. */
#include "client/rpc.h"

#define WAIT_MS 1000

/* What a blocking call waits for. */
struct blocking {
    sc_rpc_source_fn *source;
    sc_rpc_reply_fn *on_reply;
    void *ctx;
    struct sc_err *err;
    enum sc_status st;
    bool interrupted, ended;
};

static enum sc_status blocking_source(void *ctx, const ProtobufCMessage **ret_message,
                                      struct sc_err *err)
{
    struct blocking *b = ctx;
    if (b->interrupted)
        return SC_ECANCELED;
    return b->source(b->ctx, ret_message, err);
}

static enum sc_status blocking_reply(void *ctx, ProtobufCMessage *message, struct sc_err *err)
{
    struct blocking *b = ctx;
    if (b->interrupted) {
        protobuf_c_message_free_unpacked(message, NULL);
        return SC_ECANCELED;
    }
    return b->on_reply(b->ctx, message, err);
}

static void blocking_end(void *ctx, enum sc_status st, int code, const struct sc_err *err)
{
    struct blocking *b = ctx;
    (void)code;
    b->ended = true;
    if (b->interrupted)
        b->st = sc_fail(b->err, SC_ECANCELED, "interrupted");
    else
        b->st = st == SC_OK ? SC_OK : sc_fail(b->err, st, "%s", err->text);
}

static enum sc_status run_call(struct sc_rpc *rpc, const ProtobufCServiceDescriptor *service,
                               const char *name, const ProtobufCMessage *request,
                               struct blocking *b)
{
    char path[SC_RPC_PATH_BYTES];
    struct sc_rpc_call *c = NULL;
    const struct sc_rpc_handler handler = {
        .source = b->source != NULL ? blocking_source : NULL,
        .on_reply = blocking_reply,
        .on_end = blocking_end,
        .ctx = b,
    };
    const ProtobufCMethodDescriptor *method = sc_rpc_method(service, name, path);
    enum sc_status st = sc_rpc_start(rpc, method, path, request, &handler, &c, b->err);
    if (st != SC_OK)
        return st;
    while (!b->ended) {
        if (sc_rpc_step(rpc, WAIT_MS, NULL) == SC_ECANCELED && !b->ended) {
            b->interrupted = true;
            sc_rpc_cancel(c);
        }
    }
    return b->st;
}

enum sc_status sc_rpc_call(struct sc_rpc *rpc, const ProtobufCServiceDescriptor *service,
                           const char *method, const ProtobufCMessage *request,
                           sc_rpc_reply_fn *on_reply, void *ctx, struct sc_err *err)
{
    struct blocking b = {.on_reply = on_reply, .ctx = ctx, .err = err};
    return run_call(rpc, service, method, request, &b);
}

enum sc_status sc_rpc_upload(struct sc_rpc *rpc, const ProtobufCServiceDescriptor *service,
                             const char *method, sc_rpc_source_fn *source,
                             sc_rpc_reply_fn *on_reply, void *ctx, struct sc_err *err)
{
    struct blocking b = {.source = source, .on_reply = on_reply, .ctx = ctx, .err = err};
    return run_call(rpc, service, method, NULL, &b);
}

static enum sc_status keep_one(void *ctx, ProtobufCMessage *message, struct sc_err *err)
{
    ProtobufCMessage **kept = ctx;
    if (*kept != NULL) {
        protobuf_c_message_free_unpacked(message, NULL);
        return sc_fail(err, SC_EFORMAT, "the server sent a second reply");
    }
    *kept = message;
    return SC_OK;
}

enum sc_status sc_rpc_unary(struct sc_rpc *rpc, const ProtobufCServiceDescriptor *service,
                            const char *method, const ProtobufCMessage *request,
                            ProtobufCMessage **ret_reply, struct sc_err *err)
{
    ProtobufCMessage *reply = NULL;
    enum sc_status st = sc_rpc_call(rpc, service, method, request, keep_one, &reply, err);
    if (st == SC_OK && reply == NULL)
        st = sc_fail(err, SC_EFORMAT, "the server sent no reply to %s", method);
    if (st != SC_OK) {
        protobuf_c_message_free_unpacked(reply, NULL);
        return st;
    }
    *ret_reply = reply;
    return SC_OK;
}
