#include "tests/client/loopback.h"

#include "base/status.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_S 20.0

enum tag { TAG_CALL = 1, TAG_RECV, TAG_SEND, TAG_CLOSE, TAG_STATUS, TAG_SHUTDOWN, N_TAGS };

struct loopback {
    grpc_server *server;
    grpc_completion_queue *cq;
    loopback_fn *respond;
    void *ctx;
    pthread_t thread;
    atomic_uint n_cancelled;
    char address[32];
    char authorization[64];        /* of the call that is served */
    bool seen[N_TAGS], ok[N_TAGS]; /* events that have come; the server's thread only */
};

static bool wait_for(struct loopback *s, enum tag tag)
{
    while (!s->seen[tag]) {
        grpc_event e = grpc_completion_queue_next(s->cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
        SC_ASSERT(e.type == GRPC_OP_COMPLETE);
        s->seen[(uintptr_t)e.tag] = true;
        s->ok[(uintptr_t)e.tag] = e.success != 0;
    }
    s->seen[tag] = false;
    return s->ok[tag];
}

static void batch(grpc_call *call, const grpc_op *ops, size_t n, enum tag tag)
{
    SC_ASSERT(grpc_call_start_batch(call, ops, n, (void *)(uintptr_t)tag, NULL) == GRPC_CALL_OK);
}

static void send_bytes(struct loopback *s, grpc_call *call, const void *bytes, size_t len)
{
    grpc_slice slice = grpc_slice_from_copied_buffer(bytes, len);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    op.data.send_message.send_message = buffer;
    batch(call, &op, 1, TAG_SEND);
    (void)wait_for(s, TAG_SEND);
    grpc_byte_buffer_destroy(buffer);
    grpc_slice_unref(slice);
}

static void send_message(struct loopback *s, grpc_call *call, const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(len + 1);
    SC_ASSERT(bytes != NULL);
    (void)protobuf_c_message_pack(message, bytes);
    send_bytes(s, call, bytes, len);
    free(bytes);
}

static void send_status(struct loopback *s, grpc_call *call, const struct loopback_answer *answer)
{
    grpc_slice text = grpc_slice_from_copied_string(answer->text != NULL ? answer->text : "");
    grpc_op op = {.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    op.data.send_status_from_server.status = (grpc_status_code)answer->code;
    op.data.send_status_from_server.status_details = &text;
    batch(call, &op, 1, TAG_STATUS);
    (void)wait_for(s, TAG_STATUS);
    grpc_slice_unref(text);
}

/* NULL: half-closed, or gone. */
static grpc_byte_buffer *receive(struct loopback *s, grpc_call *call)
{
    grpc_byte_buffer *payload = NULL;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &payload;
    batch(call, &op, 1, TAG_RECV);
    return wait_for(s, TAG_RECV) ? payload : NULL;
}

static void ask(struct loopback *s, const char *method, grpc_byte_buffer *payload,
                struct loopback_answer *answer)
{
    grpc_byte_buffer_reader reader;
    if (payload == NULL) {
        s->respond(s->ctx, method, NULL, 0, answer);
        return;
    }
    SC_ASSERT(grpc_byte_buffer_reader_init(&reader, payload));
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    s->respond(s->ctx, method, GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all), answer);
    grpc_slice_unref(all);
    grpc_byte_buffer_reader_destroy(&reader);
}

static void respond(struct loopback *s, grpc_call *call, const char *method)
{
    struct loopback_answer answer;
    grpc_byte_buffer *payload = receive(s, call);
    if (payload == NULL)
        return;
    for (bool open = true; open;) {
        answer = (struct loopback_answer){0};
        ask(s, method, payload, &answer);
        if (payload != NULL)
            grpc_byte_buffer_destroy(payload);
        if (answer.raw != NULL)
            send_bytes(s, call, answer.raw, strlen(answer.raw));
        for (size_t i = 0; i < answer.n_messages; i++)
            send_message(s, call, answer.messages[i]);
        open = answer.more && payload != NULL;
        payload = open ? receive(s, call) : NULL;
    }
    if (!answer.hang)
        send_status(s, call, &answer);
}

static void serve_call(struct loopback *s, grpc_call *call, const char *method)
{
    int cancelled = 0;
    grpc_op start = {.op = GRPC_OP_SEND_INITIAL_METADATA};
    grpc_op close = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    close.data.recv_close_on_server.cancelled = &cancelled;
    batch(call, &close, 1, TAG_CLOSE);
    batch(call, &start, 1, TAG_SEND);
    (void)wait_for(s, TAG_SEND);
    respond(s, call, method);
    (void)wait_for(s, TAG_CLOSE);
    if (cancelled)
        atomic_fetch_add(&s->n_cancelled, 1);
    grpc_call_unref(call);
}

static void take_metadata(struct loopback *s, const grpc_metadata_array *metadata)
{
    s->authorization[0] = '\0';
    for (size_t i = 0; i < metadata->count; i++) {
        const grpc_metadata *m = &metadata->metadata[i];
        if (grpc_slice_str_cmp(m->key, "authorization") == 0)
            (void)snprintf(s->authorization, sizeof(s->authorization), "%.*s",
                           (int)GRPC_SLICE_LENGTH(m->value),
                           (const char *)GRPC_SLICE_START_PTR(m->value));
    }
}

static void *serve(void *ctx)
{
    struct loopback *s = ctx;
    for (bool run = true; run;) {
        grpc_call *call = NULL;
        grpc_call_details details;
        grpc_metadata_array metadata;
        grpc_call_details_init(&details);
        grpc_metadata_array_init(&metadata);
        grpc_call_error e = grpc_server_request_call(s->server, &call, &details, &metadata, s->cq,
                                                     s->cq, (void *)(uintptr_t)TAG_CALL);
        run = e == GRPC_CALL_OK && wait_for(s, TAG_CALL);
        if (run) {
            char *method = grpc_slice_to_c_string(details.method);
            take_metadata(s, &metadata);
            serve_call(s, call, method);
            gpr_free(method);
        }
        grpc_call_details_destroy(&details);
        grpc_metadata_array_destroy(&metadata);
    }
    (void)wait_for(s, TAG_SHUTDOWN);
    return NULL;
}

struct loopback *loopback_start(loopback_fn *respond_fn, void *ctx)
{
    struct loopback *s = calloc(1, sizeof(*s));
    sigset_t set;
    SC_ASSERT(s != NULL);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    s->respond = respond_fn;
    s->ctx = ctx;
    grpc_init();
    s->cq = grpc_completion_queue_create_for_next(NULL);
    s->server = grpc_server_create(NULL, NULL);
    grpc_server_register_completion_queue(s->server, s->cq, NULL);
    grpc_server_credentials *creds = grpc_insecure_server_credentials_create();
    int port = grpc_server_add_http2_port(s->server, "127.0.0.1:0", creds);
    grpc_server_credentials_release(creds);
    SC_ASSERT(port > 0);
    (void)snprintf(s->address, sizeof(s->address), "127.0.0.1:%d", port);
    grpc_server_start(s->server);
    SC_ASSERT(pthread_create(&s->thread, NULL, serve, s) == 0);
    return s;
}

void loopback_stop(struct loopback *s)
{
    grpc_server_shutdown_and_notify(s->server, s->cq, (void *)(uintptr_t)TAG_SHUTDOWN);
    SC_ASSERT(pthread_join(s->thread, NULL) == 0);
    grpc_server_destroy(s->server);
    grpc_completion_queue_shutdown(s->cq);
    while (grpc_completion_queue_next(s->cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
           GRPC_QUEUE_SHUTDOWN)
        continue;
    grpc_completion_queue_destroy(s->cq);
    grpc_shutdown();
    free(s);
}

const char *loopback_address(const struct loopback *s)
{
    return s->address;
}

const char *loopback_authorization(const struct loopback *s)
{
    return s->authorization;
}

unsigned loopback_cancelled(struct loopback *s)
{
    return atomic_load(&s->n_cancelled);
}

int loopback_setup(loopback_fn *respond_fn, void *ctx, struct loopback **ret_server,
                   struct sc_rpc **ret_rpc)
{
    struct sc_err err = SC_ERR_INIT;
    *ret_server = loopback_start(respond_fn, ctx);
    return sc_rpc_open(loopback_address(*ret_server), TIMEOUT_S, ret_rpc, &err) == SC_OK ? 0 : -1;
}

void loopback_teardown(struct loopback *s, struct sc_rpc *rpc)
{
    sc_rpc_close(rpc);
    loopback_stop(s);
}
