/* The gRPC server in this process, without an engine: what needs none must answer. */
#include "testing.h"

#include <arpa/inet.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/probe.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "proto/optional.h"
#include "server_rig.h"

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
    refused(w, "/semanticache.v1.Control/SubscribeKvEvents", "", 0, GRPC_STATUS_FAILED_PRECONDITION,
            "kv.sharing");
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
    return run_server_tests(tests);
}
