/* The gRPC server in this process, without an engine: what needs none must answer. */
#include "testing.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <arpa/inet.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/probe.h"
#include "daemon/server.h"
#include "daemon/services.h"
#include "fixture.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "proto/optional.h"

struct world {
    struct fixture *fixture;
    struct sc_app app;
    struct sc_server *server;
    grpc_channel *channel;
    grpc_completion_queue *queue;
};

static int world_open(void **state)
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

static void ready(struct world *w)
{
    w->app.model = &w->fixture->model;
    w->app.engine_info.max_context = w->fixture->convert.max_context;
    atomic_store(&w->app.loaded, true);
    atomic_store(&w->app.state, SC_HEALTH_READY);
    sc_watchers_tell(w->app.watchers, SC_HEALTH_READY);
}

static int world_close(void **state)
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

static void wait_batch(struct call *c, const grpc_op *ops, size_t n)
{
    gpr_timespec end =
        gpr_time_add(gpr_now(GPR_CLOCK_REALTIME), gpr_time_from_seconds(60, GPR_TIMESPAN));
    grpc_event event;

    assert_int_equal(grpc_call_start_batch(c->call, ops, n, c, NULL), GRPC_CALL_OK);
    event = grpc_completion_queue_next(c->w->queue, end, NULL);
    if (event.type != GRPC_OP_COMPLETE || event.tag != c)
        fail_msg("no answer");
}

static struct call call_open(struct world *w, const char *path)
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

static void call_send_bytes(struct call *c, const void *data, size_t len, bool close)
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

static void call_send(struct call *c, const ProtobufCMessage *m, bool close)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    uint8_t *data = malloc(len + 1);

    (void)protobuf_c_message_pack(m, data);
    call_send_bytes(c, data, len, close);
    free(data);
}

/* The core delivers a status only to those who have asked for the initial metadata, too. */
static size_t ask_initial(struct call *c, grpc_op *ops, size_t n)
{
    if (c->asked_initial)
        return n;
    c->asked_initial = true;
    ops[n].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[n].data.recv_initial_metadata.recv_initial_metadata = &c->initial;
    return n + 1;
}

/* NULL: the stream has ended. */
static void *call_receive(struct call *c, const ProtobufCMessageDescriptor *type)
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

static grpc_status_code call_end(struct call *c)
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

static void call_close(struct call *c)
{
    grpc_slice_unref(c->details);
    grpc_metadata_array_destroy(&c->initial);
    grpc_metadata_array_destroy(&c->trailing);
    grpc_call_unref(c->call);
}

static void *unary(struct world *w, const char *path, const ProtobufCMessage *request,
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

static void refused(struct world *w, const char *path, const void *data, size_t len,
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

/* ---- the tests ---- */

static void while_loading_only_health_and_reflection_answer(void **state)
{
    struct world *w = *state;
    Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    Grpc__Health__V1__HealthCheckResponse *a =
        unary(w, "/grpc.health.v1.Health/Check", &q.base,
              &grpc__health__v1__health_check_response__descriptor);

    assert_int_equal(a->status,
                     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING);
    grpc__health__v1__health_check_response__free_unpacked(a, NULL);
    refused(w, "/semanticache.v1.Inference/Tokenize", "", 0, GRPC_STATUS_UNAVAILABLE, "loaded");
}

static void tokenize_and_detokenize_are_inverse(void **state)
{
    struct world *w = *state;
    static uint8_t text[] = "the land and the water";
    Semanticache__V1__TokenizeRequest q = SEMANTICACHE__V1__TOKENIZE_REQUEST__INIT;
    Semanticache__V1__DetokenizeRequest d = SEMANTICACHE__V1__DETOKENIZE_REQUEST__INIT;
    Semanticache__V1__TokenizeResponse *a;
    Semanticache__V1__DetokenizeResponse *b;

    ready(w);
    q.text = (ProtobufCBinaryData){.len = sizeof(text) - 1, .data = text};
    SC_PB_SET(&q, return_pieces, 1);
    a = unary(w, "/semanticache.v1.Inference/Tokenize", &q.base,
              &semanticache__v1__tokenize_response__descriptor);
    assert_true(a->n_token_ids > 1);
    assert_int_equal(a->n_pieces, a->n_token_ids);
    assert_int_equal(a->max_context, w->fixture->convert.max_context);
    d.token_ids = a->token_ids;
    d.n_token_ids = a->n_token_ids;
    b = unary(w, "/semanticache.v1.Inference/Detokenize", &d.base,
              &semanticache__v1__detokenize_response__descriptor);
    assert_int_equal(b->text.len, q.text.len);
    assert_memory_equal(b->text.data, text, b->text.len);
    semanticache__v1__tokenize_response__free_unpacked(a, NULL);
    semanticache__v1__detokenize_response__free_unpacked(b, NULL);
}

static void bad_calls_get_one_clear_status(void **state)
{
    struct world *w = *state;

    ready(w);
    refused(w, "/semanticache.v1.Inference/Tokenize", "\xff\xff", 2, GRPC_STATUS_INVALID_ARGUMENT,
            "malformed");
    refused(w, "/semanticache.v1.Inference/Tokenize", "\x0a\x01\xff", 3,
            GRPC_STATUS_INVALID_ARGUMENT, "text: not valid UTF-8");
    refused(w, "/semanticache.v1.Inference/Nothing", "", 0, GRPC_STATUS_UNIMPLEMENTED, "no such");
    refused(w, "/semanticache.v1.Inference/Generat", "", 0, GRPC_STATUS_UNIMPLEMENTED, "no such");
    refused(w, "/semanticache.v1.Inference/GenerateX", "", 0, GRPC_STATUS_UNIMPLEMENTED, "no such");
    refused(w, "/semanticache.v1.Inference/Score", "", 0, GRPC_STATUS_UNIMPLEMENTED,
            "not available yet");
    refused(w, "/semanticache.v1.Control/SubscribeKvEvents", "", 0, GRPC_STATUS_UNIMPLEMENTED,
            "not");
    refused(w, "/semanticache.v1.Inference/Generate", "", 0, GRPC_STATUS_INVALID_ARGUMENT,
            "prompt:");
    refused(w, "/semanticache.v1.Inference/Abort", "\x0a\x01x", 3, GRPC_STATUS_NOT_FOUND, "\"x\"");
    refused(w, "/grpc.health.v1.Health/Check", "\x0a\x01x", 3, GRPC_STATUS_NOT_FOUND, "\"x\"");
}

static void draining_refuses_work_and_ends_watches(void **state)
{
    struct world *w = *state;
    Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    static const int expected[] = {
        GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
        GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING,
        GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
    };
    struct call c = call_open(w, "/grpc.health.v1.Health/Watch");

    call_send(&c, &q.base, true);
    for (size_t i = 0; i < SC_ARRAY_LEN(expected); i++) {
        Grpc__Health__V1__HealthCheckResponse *a =
            call_receive(&c, &grpc__health__v1__health_check_response__descriptor);
        assert_non_null(a);
        assert_int_equal(a->status, expected[i]);
        grpc__health__v1__health_check_response__free_unpacked(a, NULL);
        if (i == 0)
            ready(w);
        if (i == 1) {
            sc_app_want_drain(&w->app, 0);
            refused(w, "/semanticache.v1.Inference/Generate", "", 0, GRPC_STATUS_UNAVAILABLE,
                    "draining");
            atomic_store(&w->app.state, SC_HEALTH_DRAINING);
            sc_watchers_tell(w->app.watchers, SC_HEALTH_DRAINING);
        }
    }
    assert_null(call_receive(&c, &grpc__health__v1__health_check_response__descriptor));
    assert_int_equal(call_end(&c), GRPC_STATUS_UNAVAILABLE);
    call_close(&c);
}

static void reflect(struct world *w, const char *path)
{
    Grpc__Reflection__V1__ServerReflectionRequest q =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    Grpc__Reflection__V1__ServerReflectionResponse *a;
    struct call c = call_open(w, path);

    q.message_request_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES;
    q.list_services = (char *)(uintptr_t) "";
    call_send(&c, &q.base, false);
    a = call_receive(&c, &grpc__reflection__v1__server_reflection_response__descriptor);
    assert_non_null(a);
    assert_int_equal(a->list_services_response->n_service, sc_n_services);
    grpc__reflection__v1__server_reflection_response__free_unpacked(a, NULL);

    q.message_request_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL;
    q.file_containing_symbol = (char *)(uintptr_t) "semanticache.v1.Inference";
    call_send(&c, &q.base, false);
    a = call_receive(&c, &grpc__reflection__v1__server_reflection_response__descriptor);
    assert_non_null(a);
    assert_int_equal(a->file_descriptor_response->n_file_descriptor_proto, 2);
    assert_string_equal(a->original_request->file_containing_symbol, "semanticache.v1.Inference");
    grpc__reflection__v1__server_reflection_response__free_unpacked(a, NULL);

    q.file_containing_symbol = (char *)(uintptr_t) "no.such.Symbol";
    call_send(&c, &q.base, true);
    a = call_receive(&c, &grpc__reflection__v1__server_reflection_response__descriptor);
    assert_non_null(a);
    assert_int_equal(a->error_response->error_code, GRPC_STATUS_NOT_FOUND);
    grpc__reflection__v1__server_reflection_response__free_unpacked(a, NULL);
    assert_null(call_receive(&c, &grpc__reflection__v1__server_reflection_response__descriptor));
    assert_int_equal(call_end(&c), GRPC_STATUS_OK);
    call_close(&c);
}

static void reflection_answers_in_both_versions(void **state)
{
    reflect(*state, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    reflect(*state, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
}

static void a_port_in_use_is_refused(void **state)
{
    struct world *w = *state;
    struct sc_config config = w->fixture->config;
    struct sc_server *second;
    struct sc_err err = SC_ERR_INIT;

    (void)snprintf(config.listen[0], SC_CONFIG_PATH_BYTES, "127.0.0.1:%d",
                   sc_server_port(w->server, 0));
    assert_int_equal(sc_server_open(&config, &w->app, sc_services, sc_n_services, &second, &err),
                     SC_EIO);
    assert_text_has(err.text, "in use");
}

static void a_listener_that_accepts_passes_the_probe(void **state)
{
    struct world *w = *state;
    struct sc_probe p;
    struct sc_err err = SC_ERR_INIT;
    uint64_t start = sc_now_us();

    assert_ok(sc_probe_init(&p, "127.0.0.1:0", sc_server_port(w->server, 0), 0, 30000000, &err));
    p.alive = false;
    while (!sc_probe_tick(&p, sc_now_us()) && sc_now_us() - start < 30000000)
        (void)usleep(1000);
    assert_true(p.alive);
    sc_probe_fini(&p);
}

static void a_listener_that_does_not_accept_fails_the_probe(void **state)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(in);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sc_probe p;
    struct sc_err err = SC_ERR_INIT;

    (void)state;
    /* The kernel completes connections to it; nobody takes them. */
    assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
    assert_ok(sc_probe_init(&p, "127.0.0.1:0", ntohs(in.sin_port), 1000000, 50000, &err));
    for (uint64_t now = 1000000; now <= 1050000; now += 10000)
        assert_true(sc_probe_tick(&p, now));
    assert_false(sc_probe_tick(&p, 1060000));
    sc_probe_fini(&p);
    (void)close(fd);
    /* And where nobody listens at all. */
    assert_ok(sc_probe_init(&p, "127.0.0.1:0", ntohs(in.sin_port), 1000000, 50000, &err));
    (void)sc_probe_tick(&p, 1000000);
    (void)sc_probe_tick(&p, 1000001);
    assert_false(sc_probe_tick(&p, 1000002));
    sc_probe_fini(&p);
    assert_int_equal(sc_probe_init(&p, "example.org:80", 80, 1, 1, &err), SC_ENOTSUP);
    assert_true(sc_probe_tick(&p, 1000000));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_open, world_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(while_loading_only_health_and_reflection_answer),
        TEST(tokenize_and_detokenize_are_inverse),
        TEST(bad_calls_get_one_clear_status),
        TEST(draining_refuses_work_and_ends_watches),
        TEST(reflection_answers_in_both_versions),
        TEST(a_port_in_use_is_refused),
        TEST(a_listener_that_accepts_passes_the_probe),
        cmocka_unit_test(a_listener_that_does_not_accept_fails_the_probe),
    };
    /* A proxy of the environment would be asked even for 127.0.0.1. */
    (void)unsetenv("http_proxy");
    (void)unsetenv("https_proxy");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
