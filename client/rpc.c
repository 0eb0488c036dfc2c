#include "client/rpc.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define METADATA_BYTES_MAX   65536
#define KEEPALIVE_MS         30000
#define KEEPALIVE_TIMEOUT_MS 10000
#define SIGNAL_POLL_MS       50
#define METHOD_BYTES_MAX     256

struct sc_rpc {
    grpc_channel *channel;
    grpc_completion_queue *cq;
    double timeout_s;
    sigset_t old_mask;
};

enum tag { TAG_START = 1, TAG_MESSAGE, TAG_STATUS };

struct call {
    grpc_call *call;
    unsigned n_pending; /* batches whose event has not come */
    bool interrupted;
    grpc_byte_buffer *received;
    grpc_metadata_array initial, trailing;
    grpc_status_code code;
    grpc_slice details;
};

const char *sc_rpc_status_name(int code)
{
    static const char *const names[] = {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    };
    return code >= 0 && (size_t)code < SC_ARRAY_LEN(names) ? names[code] : "UNKNOWN";
}

static void stop_signals(sigset_t *ret_set)
{
    (void)sigemptyset(ret_set);
    (void)sigaddset(ret_set, SIGINT);
    (void)sigaddset(ret_set, SIGTERM);
}

static grpc_arg int_arg(char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = key, .value.integer = value};
}

static grpc_channel *open_channel(const char *address)
{
    grpc_arg args[] = {
        /* The C core obeys http_proxy even for 127.0.0.1, where nobody means it. */
        int_arg((char *)GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        int_arg((char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)SC_RPC_REPLY_BYTES_MAX),
        int_arg((char *)GRPC_ARG_MAX_METADATA_SIZE, METADATA_BYTES_MAX),
        int_arg((char *)GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS),
        int_arg((char *)GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS),
        /* A long prompt is read in silence: pings must not stop for lack of data. */
        int_arg((char *)GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        {.type = GRPC_ARG_STRING,
         .key = (char *)GRPC_ARG_PRIMARY_USER_AGENT_STRING,
         .value.string = (char *)"semcache/" SC_VERSION},
    };
    const grpc_channel_args channel_args = {SC_ARRAY_LEN(args), args};
    grpc_channel_credentials *creds = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(address, creds, &channel_args);
    grpc_channel_credentials_release(creds);
    return channel;
}

enum sc_status sc_rpc_open(const char *address, double timeout_s, struct sc_rpc **ret_rpc,
                           struct sc_err *err)
{
    sigset_t set;
    if (strchr(address, ':') == NULL)
        return sc_fail(err, SC_EINVAL, "server '%.128s': must be HOST:PORT or unix:PATH", address);
    struct sc_rpc *rpc = calloc(1, sizeof(*rpc));
    if (rpc == NULL)
        return sc_fail(err, SC_ENOMEM, "connection: no memory");
    rpc->timeout_s = timeout_s;
    /* Before grpc_init, so that its threads inherit the mask. */
    stop_signals(&set);
    (void)pthread_sigmask(SIG_BLOCK, &set, &rpc->old_mask);
    grpc_init();
    rpc->cq = grpc_completion_queue_create_for_next(NULL);
    rpc->channel = open_channel(address);
    *ret_rpc = rpc;
    return SC_OK;
}

void sc_rpc_close(struct sc_rpc *rpc)
{
    if (rpc == NULL)
        return;
    grpc_channel_destroy(rpc->channel);
    grpc_completion_queue_shutdown(rpc->cq);
    while (grpc_completion_queue_next(rpc->cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
           GRPC_QUEUE_SHUTDOWN)
        continue;
    grpc_completion_queue_destroy(rpc->cq);
    grpc_shutdown();
    (void)pthread_sigmask(SIG_SETMASK, &rpc->old_mask, NULL);
    free(rpc);
}

static void start_batch(struct call *c, const grpc_op *ops, size_t n_ops, enum tag tag)
{
    grpc_call_error error =
        grpc_call_start_batch(c->call, ops, n_ops, (void *)(uintptr_t)tag, NULL);
    SC_ASSERT(error == GRPC_CALL_OK); /* anything else is a wrong sequence of ours */
    c->n_pending++;
}

static void receive_message(struct call *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &c->received;
    start_batch(c, &op, 1, TAG_MESSAGE);
}

static void start_call(struct call *c, grpc_byte_buffer *payload)
{
    grpc_op ops[4] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                      {.op = GRPC_OP_SEND_MESSAGE},
                      {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
                      {.op = GRPC_OP_RECV_INITIAL_METADATA}};
    ops[1].data.send_message.send_message = payload;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &c->initial;
    start_batch(c, ops, SC_ARRAY_LEN(ops), TAG_START);

    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    status.data.recv_status_on_client.trailing_metadata = &c->trailing;
    status.data.recv_status_on_client.status = &c->code;
    status.data.recv_status_on_client.status_details = &c->details;
    start_batch(c, &status, 1, TAG_STATUS);
    receive_message(c);
}

static grpc_byte_buffer *pack(const ProtobufCMessage *message)
{
    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));
    (void)protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

/* Frees the buffer. */
static enum sc_status unpack(grpc_byte_buffer *buffer, const ProtobufCMessageDescriptor *type,
                             ProtobufCMessage **ret_message, struct sc_err *err)
{
    grpc_byte_buffer_reader reader;
    ProtobufCMessage *message = NULL;
    if (grpc_byte_buffer_reader_init(&reader, buffer)) {
        grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
        message = protobuf_c_message_unpack(type, NULL, GRPC_SLICE_LENGTH(all),
                                            GRPC_SLICE_START_PTR(all));
        grpc_slice_unref(all);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    grpc_byte_buffer_destroy(buffer);
    if (message == NULL)
        return sc_fail(err, SC_EFORMAT, "the server's reply is not a %s", type->name);
    *ret_message = message;
    return SC_OK;
}

static void poll_signals(struct call *c)
{
    sigset_t set;
    const struct timespec now = {0, 0};
    stop_signals(&set);
    if (sigtimedwait(&set, NULL, &now) > 0) {
        c->interrupted = true;
        (void)grpc_call_cancel(c->call, NULL);
    }
}

/* Runs the call until each batch's event has come, also after a failure. */
static enum sc_status run_call(struct sc_rpc *rpc, struct call *c,
                               const ProtobufCMessageDescriptor *reply_type,
                               sc_rpc_reply_fn *on_reply, void *ctx, struct sc_err *err)
{
    enum sc_status st = SC_OK;
    while (c->n_pending > 0) {
        gpr_timespec until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                          gpr_time_from_millis(SIGNAL_POLL_MS, GPR_TIMESPAN));
        grpc_event event = grpc_completion_queue_next(rpc->cq, until, NULL);
        poll_signals(c);
        if (event.type != GRPC_OP_COMPLETE)
            continue;
        c->n_pending--;
        if ((enum tag)(uintptr_t)event.tag != TAG_MESSAGE || c->received == NULL)
            continue;
        grpc_byte_buffer *buffer = c->received;
        c->received = NULL;
        if (st != SC_OK || c->interrupted) {
            grpc_byte_buffer_destroy(buffer);
            continue;
        }
        ProtobufCMessage *message = NULL;
        st = unpack(buffer, reply_type, &message, err);
        if (st == SC_OK)
            st = on_reply(ctx, message, err);
        if (st == SC_OK)
            receive_message(c);
        else
            (void)grpc_call_cancel(c->call, NULL);
    }
    return st;
}

static enum sc_status end_status(const struct call *c, enum sc_status st, struct sc_err *err)
{
    if (c->interrupted)
        return sc_fail(err, SC_ECANCELED, "interrupted");
    if (st != SC_OK || c->code == GRPC_STATUS_OK)
        return st;
    size_t len = GRPC_SLICE_LENGTH(c->details);
    const char *text = (const char *)GRPC_SLICE_START_PTR(c->details);
    return sc_fail(err, SC_EPEER, "%s%s%.*s", sc_rpc_status_name((int)c->code), len > 0 ? ": " : "",
                   (int)(len < SC_ERR_TEXT_BYTES ? len : SC_ERR_TEXT_BYTES), text);
}

enum sc_status sc_rpc_call(struct sc_rpc *rpc, const ProtobufCServiceDescriptor *service,
                           const char *method, const ProtobufCMessage *request,
                           sc_rpc_reply_fn *on_reply, void *ctx, struct sc_err *err)
{
    char path[METHOD_BYTES_MAX];
    struct call c = {.details = grpc_empty_slice()};
    const ProtobufCMethodDescriptor *desc =
        protobuf_c_service_descriptor_get_method_by_name(service, method);
    SC_ASSERT(desc != NULL && desc->input == request->descriptor);
    int n = snprintf(path, sizeof(path), "/%s/%s", service->name, method);
    SC_ASSERT(n > 0 && (size_t)n < sizeof(path));

    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (rpc->timeout_s > 0)
        deadline =
            gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                         gpr_time_from_millis((int64_t)(rpc->timeout_s * 1e3), GPR_TIMESPAN));
    grpc_slice path_slice = grpc_slice_from_copied_string(path);
    c.call = grpc_channel_create_call(rpc->channel, NULL, GRPC_PROPAGATE_DEFAULTS, rpc->cq,
                                      path_slice, NULL, deadline, NULL);
    grpc_metadata_array_init(&c.initial);
    grpc_metadata_array_init(&c.trailing);
    grpc_byte_buffer *payload = pack(request);
    start_call(&c, payload);
    enum sc_status st = run_call(rpc, &c, desc->output, on_reply, ctx, err);
    st = end_status(&c, st, err);

    grpc_byte_buffer_destroy(payload);
    grpc_metadata_array_destroy(&c.initial);
    grpc_metadata_array_destroy(&c.trailing);
    grpc_slice_unref(c.details);
    grpc_slice_unref(path_slice);
    grpc_call_unref(c.call);
    return st;
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
