#include "daemon/rpc.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "daemon/app.h"
#include "daemon/clock.h"
#include "daemon/envelope.h"
#include "daemon/inflate.h"
#include "daemon/server.h"
#include "daemon/status_map.h"
#include "daemon/tsan.h"
#include "daemon/unpack.h"

struct rpc_tag {
    struct sc_tag tag; /* first */
    struct sc_rpc *rpc;
};

struct sc_rpc {
    struct sc_server *server;
    atomic_uint refs;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
    const struct sc_method *method; /* NULL: unknown */
    struct sc_identity identity;
    uint64_t deadline_us;
    bool counted; /* in the server's numbers of open calls */

    struct rpc_tag new_tag, close_tag, receive_tag, send_tag;
    int cancelled;                     /* filled by the core before close_tag */
    grpc_byte_buffer *received;        /* before receive_tag */
    struct sc_dispatch_item long_item; /* a long message that waits for its thread, and */
    grpc_byte_buffer *long_message;

    /* One send is outstanding at most: these belong to whoever sends until send_tag comes. */
    grpc_byte_buffer *sending;
    grpc_slice status_text;
    grpc_metadata details_bin;
    bool has_details_bin;
    bool initial_sent;
    bool is_plain; /* the send that is out carries no status: on_sent follows */

    pthread_mutex_t mu; /* guards what follows */
    const struct sc_rpc_hooks *hooks;
    void *state;
    bool closed; /* close_tag came */
    bool ended;  /* a status was sent */
};

struct sc_app *sc_rpc_app(struct sc_rpc *rpc)
{
    return sc_server_app(rpc->server);
}

const struct sc_identity *sc_rpc_identity(const struct sc_rpc *rpc)
{
    return &rpc->identity;
}

const char *sc_rpc_path(const struct sc_rpc *rpc)
{
    return rpc->method != NULL ? rpc->method->path : "unknown";
}

uint64_t sc_rpc_deadline_us(const struct sc_rpc *rpc)
{
    return rpc->deadline_us;
}

void sc_rpc_ref(struct sc_rpc *rpc)
{
    (void)atomic_fetch_add_explicit(&rpc->refs, 1, memory_order_relaxed);
}

void sc_rpc_unref(struct sc_rpc *rpc)
{
    if (atomic_fetch_sub_explicit(&rpc->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (rpc->counted)
        sc_server_count(rpc->server, -1,
                        rpc->method == NULL || rpc->method->impl->background ? 0 : -1);
    if (rpc->call != NULL)
        grpc_call_unref(rpc->call);
    grpc_call_details_destroy(&rpc->details);
    grpc_metadata_array_destroy(&rpc->metadata);
    grpc_slice_unref(rpc->status_text);
    if (rpc->has_details_bin)
        grpc_slice_unref(rpc->details_bin.value);
    (void)pthread_mutex_destroy(&rpc->mu);
    free(rpc);
}

/* The tag's batch holds a reference until its done function has returned. */
static void start_batch(struct sc_rpc *rpc, const grpc_op *ops, size_t n_ops, struct rpc_tag *tag)
{
    grpc_call_error e;

    sc_rpc_ref(rpc);
    SC_TAG_RELEASE(tag);
    e = grpc_call_start_batch(rpc->call, ops, n_ops, tag, NULL);
    SC_ASSERT(e == GRPC_CALL_OK); /* anything else: our batches overlap */
}

void sc_rpc_set_hooks(struct sc_rpc *rpc, const struct sc_rpc_hooks *hooks, void *state)
{
    bool closed, cancelled;

    (void)pthread_mutex_lock(&rpc->mu);
    rpc->hooks = hooks;
    rpc->state = state;
    closed = rpc->closed;
    cancelled = closed && rpc->cancelled != 0;
    (void)pthread_mutex_unlock(&rpc->mu);
    if (closed) /* the client left before the handler got here */
        hooks->on_closed(rpc, state, cancelled);
}

void *sc_rpc_hold_state(struct sc_rpc *rpc, void (*hold)(void *state), bool *ret_closed)
{
    void *state;

    (void)pthread_mutex_lock(&rpc->mu);
    state = rpc->hooks != NULL ? rpc->state : NULL;
    *ret_closed = rpc->closed;
    if (state != NULL && !rpc->closed)
        hold(state);
    (void)pthread_mutex_unlock(&rpc->mu);
    return state;
}

/* ---- sending ---- */

static void on_send_done(struct sc_tag *tag, bool ok)
{
    struct sc_rpc *rpc = ((struct rpc_tag *)tag)->rpc;
    const struct sc_rpc_hooks *hooks;
    bool is_plain = rpc->is_plain;
    void *state;

    (void)ok;
    if (rpc->sending != NULL)
        grpc_byte_buffer_destroy(rpc->sending);
    rpc->sending = NULL;
    (void)pthread_mutex_lock(&rpc->mu);
    hooks = rpc->hooks;
    state = rpc->state;
    (void)pthread_mutex_unlock(&rpc->mu);
    if (is_plain && hooks != NULL && hooks->on_sent != NULL)
        hooks->on_sent(rpc, state);
    sc_rpc_unref(rpc);
}

/* Claims the end of the call, so that exactly one status is sent. */
static bool claim_end(struct sc_rpc *rpc)
{
    bool ended;

    (void)pthread_mutex_lock(&rpc->mu);
    ended = rpc->ended;
    rpc->ended = true;
    (void)pthread_mutex_unlock(&rpc->mu);
    return !ended;
}

static size_t add_initial(struct sc_rpc *rpc, grpc_op *ops, size_t n)
{
    if (rpc->initial_sent)
        return n;
    rpc->initial_sent = true;
    ops[n].op = GRPC_OP_SEND_INITIAL_METADATA;
    return n + 1;
}

static size_t add_message(struct sc_rpc *rpc, const ProtobufCMessage *message, grpc_op *ops,
                          size_t n)
{
    if (message == NULL)
        return n;
    rpc->sending = sc_envelope_pack(message);
    ops[n].op = GRPC_OP_SEND_MESSAGE;
    ops[n].data.send_message.send_message = rpc->sending;
    return n + 1;
}

static size_t add_status(struct sc_rpc *rpc, grpc_status_code code, grpc_op *ops, size_t n)
{
    rpc->is_plain = false;
    ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[n].data.send_status_from_server.status = code;
    ops[n].data.send_status_from_server.status_details = &rpc->status_text;
    if (rpc->has_details_bin) {
        ops[n].data.send_status_from_server.trailing_metadata_count = 1;
        ops[n].data.send_status_from_server.trailing_metadata = &rpc->details_bin;
    }
    return n + 1;
}

void sc_rpc_send(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    grpc_op ops[2] = {0};
    size_t n = add_initial(rpc, ops, 0);

    n = add_message(rpc, message, ops, n);
    rpc->is_plain = true;
    start_batch(rpc, ops, n, &rpc->send_tag);
}

void sc_rpc_finish(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    grpc_op ops[3] = {0};
    size_t n;

    if (!claim_end(rpc))
        return;
    n = add_initial(rpc, ops, 0);
    n = add_message(rpc, message, ops, n);
    n = add_status(rpc, GRPC_STATUS_OK, ops, n);
    start_batch(rpc, ops, n, &rpc->send_tag);
}

void sc_rpc_reply(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    sc_rpc_finish(rpc, message);
}

void sc_rpc_fail(struct sc_rpc *rpc, enum sc_status st, const char *text)
{
    grpc_op ops[2] = {0};
    size_t n;

    if (!claim_end(rpc))
        return;
    sc_debug("call failed", "method=%s status=%s", sc_rpc_path(rpc), sc_status_name(st));
    rpc->status_text = grpc_slice_from_copied_string(text);
    if (st == SC_EFULL) {
        rpc->details_bin = sc_envelope_retry_info();
        rpc->has_details_bin = true;
    }
    n = add_initial(rpc, ops, 0);
    n = add_status(rpc, sc_status_to_grpc(st), ops, n);
    start_batch(rpc, ops, n, &rpc->send_tag);
}

/* ---- receiving ---- */

static void handle_bytes(struct sc_rpc *rpc, const void *data, size_t len)
{
    struct sc_unpacked unpacked = {0};
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = sc_unpack(rpc->method->input, data, len, &unpacked, &err);

    if (st == SC_OK)
        rpc->method->impl->handler(rpc, unpacked.message);
    else
        sc_rpc_fail(rpc, st, err.text);
    sc_unpacked_fini(&unpacked);
}

static bool is_compressed(const grpc_byte_buffer *buffer)
{
    return buffer->data.raw.compression != GRPC_COMPRESS_NONE;
}

static void handle_message(struct sc_rpc *rpc, grpc_byte_buffer *buffer)
{
    struct sc_err err = SC_ERR_INIT;
    grpc_byte_buffer_reader reader;
    uint8_t *plain = NULL;
    size_t len = 0;
    enum sc_status st;
    grpc_slice slice;

    if (!grpc_byte_buffer_reader_init(&reader, buffer)) {
        sc_rpc_fail(rpc, SC_EINVAL, "message cannot be read");
        return;
    }
    slice = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    if (is_compressed(buffer)) {
        st = sc_inflate(GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice),
                        sc_server_max_message(rpc->server), &plain, &len, &err);
        if (st == SC_OK)
            handle_bytes(rpc, plain, len);
        else
            sc_rpc_fail(rpc, st, err.text);
        free(plain);
    } else {
        handle_bytes(rpc, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
    }
    grpc_slice_unref(slice);
}

static bool is_closed(struct sc_rpc *rpc)
{
    bool closed;

    (void)pthread_mutex_lock(&rpc->mu);
    closed = rpc->closed;
    (void)pthread_mutex_unlock(&rpc->mu);
    return closed;
}

/* On the thread of long messages or of slow calls; the reference is on_received's. */
static void run_long(struct sc_dispatch_item *item)
{
    struct sc_rpc *rpc =
        (struct sc_rpc *)(void *)((char *)item - offsetof(struct sc_rpc, long_item));
    grpc_byte_buffer *buffer = rpc->long_message;

    rpc->long_message = NULL;
    if (!is_closed(rpc)) /* it may have waited for long */
        handle_message(rpc, buffer);
    grpc_byte_buffer_destroy(buffer);
    sc_rpc_unref(rpc);
}

static bool is_for_a_thread(const struct sc_rpc *rpc, grpc_byte_buffer *buffer)
{
    return rpc->method->impl->slow || is_compressed(buffer) ||
           grpc_byte_buffer_length(buffer) > SC_SHORT_MESSAGE_BYTES;
}

/* A client that goes away looks like one that has said all; only the core knows. */
static void half_closed(struct sc_rpc *rpc)
{
    if (grpc_call_failed_before_recv_message(rpc->call) == 0)
        rpc->method->impl->handler(rpc, NULL);
}

static void on_received(struct sc_tag *tag, bool ok)
{
    struct sc_rpc *rpc = ((struct rpc_tag *)tag)->rpc;

    /* Taken out first: a handler's answer may be out, and the next receive begun on another thread,
     * before the handler has returned. */
    grpc_byte_buffer *buffer = rpc->received;

    rpc->received = NULL;
    if (ok && buffer != NULL && is_for_a_thread(rpc, buffer)) {
        rpc->long_message = buffer;
        (void)sc_dispatch_post(rpc->method->impl->slow ? sc_server_slow_calls(rpc->server)
                                                       : sc_server_long_messages(rpc->server),
                               &rpc->long_item);
        return;
    }
    if (ok && buffer != NULL)
        handle_message(rpc, buffer);
    else if (rpc->method->impl->streams_in)
        half_closed(rpc);
    else /* half-closed without a message, or the message was too long: the core has said so */
        sc_rpc_fail(rpc, SC_EINVAL, "no request message");
    if (buffer != NULL)
        grpc_byte_buffer_destroy(buffer);
    sc_rpc_unref(rpc);
}

void sc_rpc_receive(struct sc_rpc *rpc)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};

    op.data.recv_message.recv_message = &rpc->received;
    start_batch(rpc, &op, 1, &rpc->receive_tag);
}

/* ---- the call's begin and end ---- */

static void on_closed(struct sc_tag *tag, bool ok)
{
    struct sc_rpc *rpc = ((struct rpc_tag *)tag)->rpc;
    const struct sc_rpc_hooks *hooks;
    void *state;

    (void)ok;
    (void)pthread_mutex_lock(&rpc->mu);
    rpc->closed = true;
    hooks = rpc->hooks;
    state = rpc->state;
    (void)pthread_mutex_unlock(&rpc->mu);
    if (hooks != NULL)
        hooks->on_closed(rpc, state, rpc->cancelled != 0);
    sc_rpc_unref(rpc);
}

static void watch_close(struct sc_rpc *rpc)
{
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};

    op.data.recv_close_on_server.cancelled = &rpc->cancelled;
    start_batch(rpc, &op, 1, &rpc->close_tag);
}

/* Why this call is not served, or SC_OK. */
static enum sc_status admit(struct sc_rpc *rpc, struct sc_err *err)
{
    const struct sc_service_method *impl;

    if (rpc->method == NULL)
        return sc_fail(err, SC_ENOTSUP, "no such method");
    impl = rpc->method->impl;
    if (!impl->open_to_all) {
        enum sc_status st =
            sc_envelope_identify(&rpc->metadata, sc_rpc_app(rpc)->keys, &rpc->identity, err);
        if (st != SC_OK)
            return st;
    }
    if (impl->admin && !rpc->identity.admin)
        return sc_fail(err, SC_EPERM, "%s is for keys of the role admin", rpc->method->path + 1);
    if (impl->handler == NULL)
        return sc_fail(err, SC_ENOTSUP, "%s is not available yet: %s", rpc->method->path + 1,
                       impl->missing);
    /* A busy server is not a dead one: a health check always gets its answer. */
    if (!(impl->always && !impl->background) &&
        sc_server_calls(rpc->server) > sc_server_max_streams(rpc->server))
        return sc_fail(err, SC_EFULL, "open calls: %u, limit %u (server.max_streams)",
                       sc_server_calls(rpc->server), sc_server_max_streams(rpc->server));
    return sc_app_admits(sc_rpc_app(rpc), impl->always, impl->work, err);
}

static void on_new(struct sc_tag *tag, bool ok)
{
    struct sc_rpc *rpc = ((struct rpc_tag *)tag)->rpc;
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st;

    if (!ok) { /* the server shuts down */
        sc_rpc_unref(rpc);
        return;
    }
    sc_rpc_request(rpc->server);
    rpc->method =
        sc_server_find(rpc->server, (const char *)GRPC_SLICE_START_PTR(rpc->details.method),
                       GRPC_SLICE_LENGTH(rpc->details.method));
    rpc->deadline_us = sc_envelope_deadline_us(rpc->details.deadline);
    sc_server_count(rpc->server, 1, rpc->method == NULL || rpc->method->impl->background ? 0 : 1);
    rpc->counted = true;
    watch_close(rpc);
    st = admit(rpc, &err);
    if (st == SC_OK)
        sc_rpc_receive(rpc);
    else
        sc_rpc_fail(rpc, st, err.text);
    sc_rpc_unref(rpc); /* the new-call event's */
}

void sc_rpc_request(struct sc_server *server)
{
    struct sc_rpc *rpc;
    grpc_call_error e;

    if (sc_server_is_down(server))
        return;
    rpc = calloc(1, sizeof(*rpc));
    if (rpc == NULL) {
        sc_error("out of memory", "what=call bytes=%zu", sizeof(*rpc));
        return; /* one armed call fewer; the others go on */
    }
    rpc->server = server;
    atomic_init(&rpc->refs, 1);
    (void)pthread_mutex_init(&rpc->mu, NULL);
    grpc_call_details_init(&rpc->details);
    grpc_metadata_array_init(&rpc->metadata);
    rpc->status_text = grpc_empty_slice();
    rpc->new_tag = (struct rpc_tag){{on_new}, rpc};
    rpc->close_tag = (struct rpc_tag){{on_closed}, rpc};
    rpc->receive_tag = (struct rpc_tag){{on_received}, rpc};
    rpc->send_tag = (struct rpc_tag){{on_send_done}, rpc};
    rpc->long_item.run = run_long;
    SC_TAG_RELEASE(&rpc->new_tag);
    e = grpc_server_request_call(sc_server_core(server), &rpc->call, &rpc->details, &rpc->metadata,
                                 sc_server_queue(server), sc_server_queue(server), &rpc->new_tag);
    if (e != GRPC_CALL_OK)
        sc_rpc_unref(rpc);
}
