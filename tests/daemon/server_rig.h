/* tests/daemon/server_rig.h - the gRPC server in this process, without an engine, and a client that
 * waits for each batch. */
#ifndef SC_TESTS_DAEMON_SERVER_RIG_H
#define SC_TESTS_DAEMON_SERVER_RIG_H

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/server.h"
#include "daemon/services.h"
#include "fixture.h"
#include "testing.h"

struct world {
    struct fixture *fixture;
    struct sc_app app;
    struct sc_server *server;
    grpc_channel *channel;
    grpc_completion_queue *queue;
};

static inline int world_open(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct sc_err err = SC_ERR_INIT;
    grpc_channel_credentials *credentials;
    char target[64];

    if (fixture_open((void **)&w->fixture) != 0)
        return -1;
    (void)snprintf(w->fixture->config.listen[0], SC_CONFIG_PATH_BYTES, "127.0.0.1:0");
    assert_ok(sc_app_open(&w->fixture->config, &w->app, &err));
    assert_ok(
        sc_server_open(&w->fixture->config, &w->app, sc_services, sc_n_services, &w->server, &err));
    assert_ok(sc_server_start(w->server, &err));
    w->queue = grpc_completion_queue_create_for_next(NULL);
    credentials = grpc_insecure_credentials_create();
    (void)snprintf(target, sizeof(target), "127.0.0.1:%d", sc_server_port(w->server, 0));
    w->channel = grpc_channel_create(target, credentials, NULL);
    grpc_channel_credentials_release(credentials);
    *state = w;
    return 0;
}

static inline void ready(struct world *w)
{
    w->app.model = &w->fixture->model;
    w->app.engine_info.max_context = w->fixture->convert.max_context;
    atomic_store(&w->app.loaded, true);
    atomic_store(&w->app.state, SC_HEALTH_READY);
    sc_watchers_tell(w->app.watchers, SC_HEALTH_READY);
}

static inline int world_close(void **state)
{
    struct world *w = *state;

    grpc_channel_destroy(w->channel);
    grpc_completion_queue_shutdown(w->queue);
    while (grpc_completion_queue_next(w->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
           GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_completion_queue_destroy(w->queue);
    sc_server_shutdown(w->server);
    for (int i = 0; i < 1000 && sc_server_calls(w->server) > 0; i++)
        (void)usleep(10000);
    assert_int_equal(sc_server_calls(w->server), 0);
    sc_server_close(w->server);
    sc_kv_log_close(w->app.kv_log);
    w->app.model = NULL; /* the fixture's */
    sc_app_close(&w->app);
    (void)fixture_close((void **)&w->fixture);
    free(w);
    return 0;
}

/* ---- a client that waits ---- */

struct call {
    struct world *w;
    grpc_call *call;
    grpc_status_code code;
    grpc_slice details;
    grpc_metadata_array initial, trailing;
    bool first; /* nothing was sent yet */
    bool asked_initial;
};

static inline void wait_batch(struct call *c, const grpc_op *ops, size_t n)
{
    gpr_timespec end =
        gpr_time_add(gpr_now(GPR_CLOCK_REALTIME), gpr_time_from_seconds(60, GPR_TIMESPAN));
    grpc_event event;

    assert_int_equal(grpc_call_start_batch(c->call, ops, n, c, NULL), GRPC_CALL_OK);
    event = grpc_completion_queue_next(c->w->queue, end, NULL);
    if (event.type != GRPC_OP_COMPLETE || event.tag != c)
        fail_msg("no answer");
}

static inline struct call call_open(struct world *w, const char *path)
{
    struct call c = {.w = w, .first = true, .details = grpc_empty_slice()};
    grpc_slice method = grpc_slice_from_copied_string(path);
    gpr_timespec end =
        gpr_time_add(gpr_now(GPR_CLOCK_REALTIME), gpr_time_from_seconds(60, GPR_TIMESPAN));

    c.call = grpc_channel_create_call(w->channel, NULL, GRPC_PROPAGATE_DEFAULTS, w->queue, method,
                                      NULL, end, NULL);
    grpc_slice_unref(method);
    grpc_metadata_array_init(&c.initial);
    grpc_metadata_array_init(&c.trailing);
    return c;
}

static inline void call_send_bytes(struct call *c, const void *data, size_t len, bool close)
{
    grpc_slice slice = grpc_slice_from_copied_buffer(data, len);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_op ops[3] = {0};
    size_t n = 0;

    if (c->first)
        ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
    c->first = false;
    ops[n].op = GRPC_OP_SEND_MESSAGE;
    ops[n++].data.send_message.send_message = buffer;
    if (close)
        ops[n++].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    wait_batch(c, ops, n);
    grpc_byte_buffer_destroy(buffer);
    grpc_slice_unref(slice);
}

static inline void call_send(struct call *c, const ProtobufCMessage *m, bool close)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    uint8_t *data = malloc(len + 1);

    (void)protobuf_c_message_pack(m, data);
    call_send_bytes(c, data, len, close);
    free(data);
}

/* The core delivers a status only to those who have asked for the initial metadata, too. */
static inline size_t ask_initial(struct call *c, grpc_op *ops, size_t n)
{
    if (c->asked_initial)
        return n;
    c->asked_initial = true;
    ops[n].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[n].data.recv_initial_metadata.recv_initial_metadata = &c->initial;
    return n + 1;
}

/* NULL: the stream has ended. */
static inline void *call_receive(struct call *c, const ProtobufCMessageDescriptor *type)
{
    grpc_byte_buffer *buffer = NULL;
    grpc_op ops[2] = {0};
    grpc_byte_buffer_reader reader;
    grpc_slice slice;
    void *message;
    size_t n = 0;

    n = ask_initial(c, ops, n);
    ops[n].op = GRPC_OP_RECV_MESSAGE;
    ops[n++].data.recv_message.recv_message = &buffer;
    wait_batch(c, ops, n);
    if (buffer == NULL)
        return NULL;
    assert_true(grpc_byte_buffer_reader_init(&reader, buffer));
    slice = grpc_byte_buffer_reader_readall(&reader);
    message = protobuf_c_message_unpack(type, NULL, GRPC_SLICE_LENGTH(slice),
                                        GRPC_SLICE_START_PTR(slice));
    assert_non_null(message);
    grpc_slice_unref(slice);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(buffer);
    return message;
}

static inline grpc_status_code call_end(struct call *c)
{
    grpc_op ops[2] = {0};
    size_t n = ask_initial(c, ops, 0);

    ops[n].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[n].data.recv_status_on_client.trailing_metadata = &c->trailing;
    ops[n].data.recv_status_on_client.status = &c->code;
    ops[n++].data.recv_status_on_client.status_details = &c->details;
    wait_batch(c, ops, n);
    return c->code;
}

static inline void call_close(struct call *c)
{
    grpc_slice_unref(c->details);
    grpc_metadata_array_destroy(&c->initial);
    grpc_metadata_array_destroy(&c->trailing);
    grpc_call_unref(c->call);
}

static inline void *unary(struct world *w, const char *path, const ProtobufCMessage *request,
                          const ProtobufCMessageDescriptor *type)
{
    struct call c = call_open(w, path);
    void *answer;

    call_send(&c, request, true);
    answer = call_receive(&c, type);
    assert_int_equal(call_end(&c), answer != NULL ? GRPC_STATUS_OK : c.code);
    if (answer == NULL)
        fail_msg("%s: status %d", path, (int)c.code);
    call_close(&c);
    return answer;
}

static inline void refused(struct world *w, const char *path, const void *data, size_t len,
                           grpc_status_code code, const char *part)
{
    struct call c = call_open(w, path);
    char *text;

    call_send_bytes(&c, data, len, true);
    assert_int_equal(call_end(&c), code);
    text = grpc_slice_to_c_string(c.details);
    assert_text_has(text, part);
    gpr_free(text);
    call_close(&c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_open, world_close)

/* A proxy of the environment would be asked even for 127.0.0.1. */
#define run_server_tests(tests)                                                                    \
    (unsetenv("http_proxy"), unsetenv("https_proxy"), cmocka_run_group_tests(tests, NULL, NULL))

#endif
