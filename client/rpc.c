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

struct sc_rpc {
    grpc_channel *channel;
    grpc_completion_queue *cq;
    double timeout_s;
    sigset_t old_mask;
    bool authorized;
    grpc_metadata authorization;
};

enum batch { BATCH_START, BATCH_SEND, BATCH_CLOSE, BATCH_MESSAGE, BATCH_STATUS, N_BATCHES };

/* What the completion queue gives back: which batch of which call. */
struct tag {
    struct sc_rpc_call *call;
    enum batch batch;
};

struct sc_rpc_call {
    struct sc_rpc *rpc;
    grpc_call *call;
    const ProtobufCMethodDescriptor *method;
    struct sc_rpc_handler handler;
    struct tag tags[N_BATCHES];
    unsigned n_pending; /* batches whose event has not come */
    enum sc_status st;  /* of our side: the first failure of source, unpack or on_reply */
    struct sc_err err;
    grpc_byte_buffer *sent, *received;
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
    if (rpc->authorized)
        grpc_slice_unref(rpc->authorization.value);
    grpc_shutdown();
    (void)pthread_sigmask(SIG_SETMASK, &rpc->old_mask, NULL);
    free(rpc);
}

enum sc_status sc_rpc_authorize(struct sc_rpc *rpc, const char *key, struct sc_err *err)
{
    char text[SC_RPC_KEY_BYTES_MAX + sizeof("Bearer ")];
    const size_t len = strlen(key);
    if (len == 0 || len > SC_RPC_KEY_BYTES_MAX)
        return sc_fail(err, SC_EINVAL, "API key: %zu characters, must be 1..%u", len,
                       SC_RPC_KEY_BYTES_MAX);
    for (size_t i = 0; i < len; i++)
        if (key[i] <= ' ' || key[i] > '~')
            return sc_fail(err, SC_EINVAL, "API key: character %zu is not printable ASCII", i + 1);
    (void)snprintf(text, sizeof(text), "Bearer %s", key);
    if (rpc->authorized)
        grpc_slice_unref(rpc->authorization.value);
    rpc->authorization.key = grpc_slice_from_static_string("authorization");
    rpc->authorization.value = grpc_slice_from_copied_string(text);
    rpc->authorized = true;
    return SC_OK;
}

static void start_batch(struct sc_rpc_call *c, const grpc_op *ops, size_t n_ops, enum batch batch)
{
    c->tags[batch] = (struct tag){c, batch};
    grpc_call_error error = grpc_call_start_batch(c->call, ops, n_ops, &c->tags[batch], NULL);
    SC_ASSERT(error == GRPC_CALL_OK); /* anything else is a wrong sequence of ours */
    c->n_pending++;
}

static void receive_message(struct sc_rpc_call *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &c->received;
    start_batch(c, &op, 1, BATCH_MESSAGE);
}

/* The first failure of our side ends the call. */
static void give_up(struct sc_rpc_call *c, enum sc_status st)
{
    if (c->st == SC_OK)
        c->st = st;
    (void)grpc_call_cancel(c->call, NULL);
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

static void send_next(struct sc_rpc_call *c)
{
    const ProtobufCMessage *message = NULL;
    enum sc_status st = c->handler.source(c->handler.ctx, &message, &c->err);
    if (st != SC_OK) {
        give_up(c, st);
        return;
    }
    if (message == NULL) {
        const grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
        start_batch(c, &op, 1, BATCH_CLOSE);
        return;
    }
    SC_ASSERT(message->descriptor == c->method->input);
    grpc_byte_buffer_destroy(c->sent);
    c->sent = pack(message);
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    op.data.send_message.send_message = c->sent;
    start_batch(c, &op, 1, BATCH_SEND);
}

static void start_ops(struct sc_rpc_call *c, const ProtobufCMessage *request)
{
    grpc_op ops[4] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                      {.op = GRPC_OP_RECV_INITIAL_METADATA},
                      {.op = GRPC_OP_SEND_MESSAGE},
                      {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT}};
    if (c->rpc->authorized) {
        ops[0].data.send_initial_metadata.count = 1;
        ops[0].data.send_initial_metadata.metadata = &c->rpc->authorization;
    }
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &c->initial;
    if (request != NULL)
        c->sent = pack(request);
    ops[2].data.send_message.send_message = c->sent;
    start_batch(c, ops, request != NULL ? 4 : 2, BATCH_START);

    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    status.data.recv_status_on_client.trailing_metadata = &c->trailing;
    status.data.recv_status_on_client.status = &c->code;
    status.data.recv_status_on_client.status_details = &c->details;
    start_batch(c, &status, 1, BATCH_STATUS);
    receive_message(c);
    if (request == NULL)
        send_next(c);
}

const ProtobufCMethodDescriptor *sc_rpc_method(const ProtobufCServiceDescriptor *service,
                                               const char *name, char ret_path[SC_RPC_PATH_BYTES])
{
    const ProtobufCMethodDescriptor *method =
        protobuf_c_service_descriptor_get_method_by_name(service, name);
    SC_ASSERT(method != NULL);
    int n = snprintf(ret_path, SC_RPC_PATH_BYTES, "/%s/%s", service->name, name);
    SC_ASSERT(n > 0 && n < SC_RPC_PATH_BYTES);
    return method;
}

enum sc_status sc_rpc_start(struct sc_rpc *rpc, const ProtobufCMethodDescriptor *method,
                            const char *path, const ProtobufCMessage *request,
                            const struct sc_rpc_handler *handler, struct sc_rpc_call **ret_call,
                            struct sc_err *err)
{
    SC_ASSERT((request == NULL) == (handler->source != NULL));
    SC_ASSERT(request == NULL || method->input == request->descriptor);
    struct sc_rpc_call *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return sc_fail(err, SC_ENOMEM, "call: no memory");
    double timeout_s = rpc->timeout_s;
    if (handler->timeout_s > 0 && (timeout_s <= 0 || handler->timeout_s < timeout_s))
        timeout_s = handler->timeout_s;
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (timeout_s > 0)
        deadline =
            gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                         gpr_time_from_micros((int64_t)(timeout_s * 1e6 + 0.5), GPR_TIMESPAN));
    grpc_slice path_slice = grpc_slice_from_copied_string(path);
    c->rpc = rpc;
    c->method = method;
    c->handler = *handler;
    c->details = grpc_empty_slice();
    c->call = grpc_channel_create_call(rpc->channel, NULL, GRPC_PROPAGATE_DEFAULTS, rpc->cq,
                                       path_slice, NULL, deadline, NULL);
    grpc_slice_unref(path_slice);
    grpc_metadata_array_init(&c->initial);
    grpc_metadata_array_init(&c->trailing);
    *ret_call = c;
    start_ops(c, request);
    return SC_OK;
}

void sc_rpc_cancel(struct sc_rpc_call *call)
{
    (void)grpc_call_cancel(call->call, NULL);
}

void sc_rpc_read_on(struct sc_rpc_call *call)
{
    receive_message(call);
}

static void take_message(struct sc_rpc_call *c)
{
    ProtobufCMessage *message = NULL;
    grpc_byte_buffer *buffer = c->received;
    if (buffer == NULL) /* the end of the stream */
        return;
    c->received = NULL;
    if (c->st != SC_OK) {
        grpc_byte_buffer_destroy(buffer);
        return;
    }
    enum sc_status st = unpack(buffer, c->method->output, &message, &c->err);
    if (st == SC_OK)
        st = c->handler.on_reply(c->handler.ctx, message, &c->err);
    if (st != SC_OK)
        give_up(c, st);
    else if (!c->handler.paced)
        receive_message(c);
}

static enum sc_status end_status(struct sc_rpc_call *c)
{
    if (c->st != SC_OK || c->code == GRPC_STATUS_OK)
        return c->st;
    size_t len = GRPC_SLICE_LENGTH(c->details);
    const char *text = (const char *)GRPC_SLICE_START_PTR(c->details);
    return sc_fail(&c->err, SC_EPEER, "%s%s%.*s", sc_rpc_status_name((int)c->code),
                   len > 0 ? ": " : "", (int)(len < SC_ERR_TEXT_BYTES ? len : SC_ERR_TEXT_BYTES),
                   text);
}

static void end_call(struct sc_rpc_call *c)
{
    enum sc_status st = end_status(c);
    c->handler.on_end(c->handler.ctx, st, (int)c->code, &c->err);
    grpc_byte_buffer_destroy(c->sent);
    grpc_metadata_array_destroy(&c->initial);
    grpc_metadata_array_destroy(&c->trailing);
    grpc_slice_unref(c->details);
    grpc_call_unref(c->call);
    free(c);
}

static bool signal_came(const struct timespec *wait)
{
    sigset_t set;
    stop_signals(&set);
    return sigtimedwait(&set, NULL, wait) > 0;
}

enum sc_status sc_rpc_step(struct sc_rpc *rpc, int timeout_ms, struct sc_err *err)
{
    const struct timespec now = {0, 0};
    if (timeout_ms > SIGNAL_POLL_MS)
        timeout_ms = SIGNAL_POLL_MS;
    gpr_timespec until =
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
    grpc_event event = grpc_completion_queue_next(rpc->cq, until, NULL);
    if (event.type == GRPC_OP_COMPLETE) {
        const struct tag *tag = event.tag;
        struct sc_rpc_call *c = tag->call;
        c->n_pending--;
        if (tag->batch == BATCH_MESSAGE)
            take_message(c);
        else if (tag->batch == BATCH_SEND && event.success && c->st == SC_OK)
            send_next(c);
        if (c->n_pending == 0)
            end_call(c);
    }
    if (signal_came(&now))
        return sc_fail(err, SC_ECANCELED, "interrupted");
    return event.type == GRPC_OP_COMPLETE ? SC_OK : SC_ETIMEDOUT;
}

enum sc_status sc_rpc_sleep(struct sc_rpc *rpc, double seconds, struct sc_err *err)
{
    const struct timespec wait = {(time_t)seconds,
                                  (long)((seconds - (double)(time_t)seconds) * 1e9)};
    (void)rpc;
    return signal_came(&wait) ? sc_fail(err, SC_ECANCELED, "interrupted") : SC_OK;
}
