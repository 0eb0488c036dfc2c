#include "client/generation.h"
#include "client/rpc.h"
#include "tests/client/loopback.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SERVICE                   (&semanticache__v1__inference__descriptor)
#define STATUS_RESOURCE_EXHAUSTED 8

struct fixture {
    struct loopback *server;
    struct sc_rpc *rpc;
    struct sc_err err;
    struct loopback_answer answer; /* what the server says to the next call */
    char method[64];
    bool interrupt; /* the server sends SIGINT to the process before it answers */
    Semanticache__V1__TokenizeResponse ids;
    Semanticache__V1__GenerateStreamResponse events[4];
    Semanticache__V1__PromptProgress progress;
    Semanticache__V1__Delta deltas[2];
    Semanticache__V1__Final final;
    Semanticache__V1__Usage usage;
    Semanticache__V1__KvReceipt receipt;
    Semanticache__V1__Timings timings;
};

static void respond(void *ctx, const char *method, const uint8_t *request, size_t len,
                    struct loopback_answer *answer)
{
    struct fixture *f = ctx;
    (void)snprintf(f->method, sizeof(f->method), "%s", method);
    (void)request;
    (void)len;
    if (f->interrupt)
        (void)kill(getpid(), SIGINT);
    *answer = f->answer;
}

static void script_generation(struct fixture *f)
{
    static char request_id[] = "r1";
    static int32_t ids[] = {5, 6, 7};
    for (size_t i = 0; i < SC_ARRAY_LEN(f->events); i++)
        semanticache__v1__generate_stream_response__init(&f->events[i]);
    semanticache__v1__prompt_progress__init(&f->progress);
    f->progress.done = 3;
    f->progress.total = 9;
    f->events[0].request_id = request_id;
    f->events[0].progress = &f->progress;
    f->events[0].event_case = SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_PROGRESS;
    for (size_t i = 0; i < 2; i++) {
        semanticache__v1__delta__init(&f->deltas[i]);
        f->events[1 + i].delta = &f->deltas[i];
        f->events[1 + i].event_case = SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_DELTA;
    }
    f->deltas[0].text = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "Ea\xC3"};
    f->deltas[0].token_ids = ids;
    f->deltas[0].n_token_ids = 1;
    f->deltas[1].text = (ProtobufCBinaryData){2, (uint8_t *)(uintptr_t) "\xA9!"};
    f->deltas[1].token_ids = ids + 1;
    f->deltas[1].n_token_ids = 2;
    semanticache__v1__final__init(&f->final);
    semanticache__v1__usage__init(&f->usage);
    semanticache__v1__kv_receipt__init(&f->receipt);
    semanticache__v1__timings__init(&f->timings);
    f->usage.prompt_tokens = 9;
    f->usage.completion_tokens = 3;
    f->receipt.mode = SEMANTICACHE__V1__KV_MODE__KV_MODE_COMPRESSED;
    f->receipt.exact_entries = 48;
    f->receipt.physical_entries = 12;
    f->receipt.ratio = 0.25;
    f->receipt.pages = 3;
    f->timings.prefill_us = 1000;
    f->timings.decode_us = 4000;
    f->final.finish_reason = SEMANTICACHE__V1__FINISH_REASON__FINISH_REASON_STOP;
    f->final.usage = &f->usage;
    f->final.receipt = &f->receipt;
    f->final.timings = &f->timings;
    f->events[3].request_id = request_id;
    f->events[3].final = &f->final;
    f->events[3].event_case = SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_FINAL;
    for (size_t i = 0; i < SC_ARRAY_LEN(f->events); i++)
        f->answer.messages[i] = &f->events[i].base;
    f->answer.n_messages = SC_ARRAY_LEN(f->events);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return -1;
    *state = f;
    return loopback_setup(respond, f, &f->server, &f->rpc);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    loopback_teardown(f->server, f->rpc);
    free(f);
    return 0;
}

static enum sc_status call_tokenize(struct fixture *f, ProtobufCMessage **ret_reply)
{
    Semanticache__V1__TokenizeRequest request;
    semanticache__v1__tokenize_request__init(&request);
    return sc_rpc_unary(f->rpc, SERVICE, "Tokenize", &request.base, ret_reply, &f->err);
}

static enum sc_status call_generate(struct fixture *f, struct sc_generation *gen)
{
    Semanticache__V1__GenerateRequest request;
    semanticache__v1__generate_request__init(&request);
    return sc_generation_run(gen, f->rpc, &request, &f->err);
}

static void unary_call_returns_the_reply(void **state)
{
    struct fixture *f = *state;
    int32_t ids[] = {1, 70000};
    ProtobufCMessage *reply = NULL;
    semanticache__v1__tokenize_response__init(&f->ids);
    f->ids.token_ids = ids;
    f->ids.n_token_ids = 2;
    f->answer = (struct loopback_answer){.messages = {&f->ids.base}, .n_messages = 1};
    assert_int_equal(call_tokenize(f, &reply), SC_OK);
    assert_string_equal(f->method, "/semanticache.v1.Inference/Tokenize");
    const Semanticache__V1__TokenizeResponse *got = (void *)reply;
    assert_int_equal(got->n_token_ids, 2);
    assert_int_equal(got->token_ids[1], 70000);
    protobuf_c_message_free_unpacked(reply, NULL);
}

static void server_error_keeps_its_name_and_message(void **state)
{
    struct fixture *f = *state;
    ProtobufCMessage *reply = NULL;
    f->answer =
        (struct loopback_answer){.code = STATUS_RESOURCE_EXHAUSTED, .text = "queue: 8, limit 8"};
    assert_int_equal(call_tokenize(f, &reply), SC_EPEER);
    assert_string_equal(f->err.text, "RESOURCE_EXHAUSTED: queue: 8, limit 8");
    assert_null(reply);
}

static void missing_second_and_broken_replies_are_refused(void **state)
{
    struct fixture *f = *state;
    ProtobufCMessage *reply = NULL;
    f->answer = (struct loopback_answer){0};
    assert_int_equal(call_tokenize(f, &reply), SC_EFORMAT);
    assert_non_null(strstr(f->err.text, "no reply"));
    sc_err_clear(&f->err);
    semanticache__v1__tokenize_response__init(&f->ids);
    f->answer = (struct loopback_answer){.messages = {&f->ids.base, &f->ids.base}, .n_messages = 2};
    assert_int_equal(call_tokenize(f, &reply), SC_EFORMAT);
    sc_err_clear(&f->err);
    f->answer = (struct loopback_answer){.raw = "\xFF\xFF\xFF"};
    assert_int_equal(call_tokenize(f, &reply), SC_EFORMAT);
    assert_non_null(strstr(f->err.text, "semanticache.v1.TokenizeResponse"));
    assert_null(reply);
}

static void nobody_listening_is_unavailable(void **state)
{
    struct fixture *f = *state;
    struct sc_rpc *rpc = NULL;
    ProtobufCMessage *reply = NULL;
    Semanticache__V1__TokenizeRequest request;
    semanticache__v1__tokenize_request__init(&request);
    assert_int_equal(sc_rpc_open("unix:/nonexistent/socket", 5.0, &rpc, &f->err), SC_OK);
    assert_int_equal(sc_rpc_unary(rpc, SERVICE, "Tokenize", &request.base, &reply, &f->err),
                     SC_EPEER);
    assert_non_null(strstr(f->err.text, "UNAVAILABLE"));
    sc_rpc_close(rpc);
}

static void address_without_a_port_is_refused(void **state)
{
    struct fixture *f = *state;
    struct sc_rpc *rpc = NULL;
    assert_int_equal(sc_rpc_open("localhost", 5.0, &rpc, &f->err), SC_EINVAL);
    assert_null(rpc);
}

static void silent_server_runs_into_the_deadline(void **state)
{
    struct fixture *f = *state;
    struct sc_rpc *rpc = NULL;
    ProtobufCMessage *reply = NULL;
    Semanticache__V1__TokenizeRequest request;
    semanticache__v1__tokenize_request__init(&request);
    f->answer = (struct loopback_answer){.hang = true};
    assert_int_equal(sc_rpc_open(loopback_address(f->server), 0.3, &rpc, &f->err), SC_OK);
    assert_int_equal(sc_rpc_unary(rpc, SERVICE, "Tokenize", &request.base, &reply, &f->err),
                     SC_EPEER);
    assert_non_null(strstr(f->err.text, "DEADLINE_EXCEEDED"));
    sc_rpc_close(rpc);
}

static void a_signal_cancels_the_call_on_the_server_too(void **state)
{
    struct fixture *f = *state;
    ProtobufCMessage *reply = NULL;
    f->answer = (struct loopback_answer){.hang = true};
    f->interrupt = true;
    assert_int_equal(call_tokenize(f, &reply), SC_ECANCELED);
    for (int ms = 0; loopback_cancelled(f->server) == 0 && ms < 5000; ms += 10)
        (void)usleep(10000);
    assert_int_equal(loopback_cancelled(f->server), 1);
    /* The connection serves the next call. */
    f->interrupt = false;
    sc_err_clear(&f->err);
    semanticache__v1__tokenize_response__init(&f->ids);
    f->answer = (struct loopback_answer){.messages = {&f->ids.base}, .n_messages = 1};
    assert_int_equal(call_tokenize(f, &reply), SC_OK);
    protobuf_c_message_free_unpacked(reply, NULL);
}

static void generation_is_kept_whole_for_json(void **state)
{
    struct fixture *f = *state;
    struct sc_generation gen;
    Semanticache__V1__GetServerInfoResponse server;
    script_generation(f);
    semanticache__v1__get_server_info_response__init(&server);
    server.page_bytes = 1000;
    server.tensor_parallel = 2;
    assert_int_equal(sc_generation_init(&gen, NULL, NULL, &f->err), SC_OK);
    assert_int_equal(call_generate(f, &gen), SC_OK);
    json_t *json = sc_generation_json(&gen, &server);
    assert_non_null(json);
    assert_string_equal(json_string_value(json_object_get(json, "text")), "Ea\xC3\xA9!");
    assert_int_equal(json_array_size(json_object_get(json, "token_ids")), 3);
    assert_string_equal(json_string_value(json_object_get(json, "finish_reason")), "stop");
    assert_string_equal(json_string_value(json_object_get(json, "request_id")), "r1");
    assert_int_equal(json_integer_value(json_object_get(json, "kv_bytes")), 6000);
    assert_true(json_real_value(json_object_get(json, "prefill_tokens_per_s")) == 9000.0);
    assert_true(json_real_value(json_object_get(json, "decode_tokens_per_s")) == 500.0);
    const json_t *receipt = json_object_get(json, "receipt");
    assert_string_equal(json_string_value(json_object_get(receipt, "mode")), "compressed");
    assert_int_equal(json_integer_value(json_object_get(receipt, "physical_entries")), 12);
    json_decref(json);
    sc_generation_fini(&gen);
}

static void generation_is_streamed_as_it_comes(void **state)
{
    struct fixture *f = *state;
    struct sc_generation gen;
    struct sc_text_out out;
    char *text = NULL, *bar_text = NULL;
    size_t len = 0, bar_len = 0;
    FILE *file = open_memstream(&text, &len);
    FILE *bar_file = open_memstream(&bar_text, &bar_len);
    struct sc_progress bar = {.file = bar_file, .terminal = true};
    assert_non_null(file);
    assert_non_null(bar_file);
    script_generation(f);
    sc_text_out_init(&out, file, true);
    assert_int_equal(sc_generation_init(&gen, &out, &bar, &f->err), SC_OK);
    assert_int_equal(call_generate(f, &gen), SC_OK);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(fclose(bar_file), 0);
    assert_string_equal(text, "Ea\xC3\xA9!\n");
    assert_non_null(strstr(bar_text, "3/9 tokens\r\033[K"));
    sc_generation_fini(&gen);
    free(text);
    free(bar_text);
}

static void stream_without_an_end_is_an_error(void **state)
{
    struct fixture *f = *state;
    struct sc_generation gen;
    script_generation(f);
    f->answer.n_messages = 3;
    assert_int_equal(sc_generation_init(&gen, NULL, NULL, &f->err), SC_OK);
    assert_int_equal(call_generate(f, &gen), SC_EFORMAT);
    assert_non_null(strstr(f->err.text, "without ending"));
    sc_generation_fini(&gen);
}

static void failing_output_cancels_the_call(void **state)
{
    struct fixture *f = *state;
    struct sc_generation gen;
    struct sc_text_out out;
    FILE *full = fopen("/dev/full", "w");
    assert_non_null(full);
    script_generation(f);
    f->answer.n_messages = 3;
    f->answer.hang = true;
    sc_text_out_init(&out, full, false);
    assert_int_equal(sc_generation_init(&gen, &out, NULL, &f->err), SC_OK);
    assert_int_equal(call_generate(f, &gen), SC_EIO);
    sc_generation_fini(&gen);
    (void)fclose(full);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(unary_call_returns_the_reply),
        CASE(server_error_keeps_its_name_and_message),
        CASE(missing_second_and_broken_replies_are_refused),
        CASE(nobody_listening_is_unavailable),
        CASE(address_without_a_port_is_refused),
        CASE(silent_server_runs_into_the_deadline),
        CASE(a_signal_cancels_the_call_on_the_server_too),
        CASE(generation_is_kept_whole_for_json),
        CASE(generation_is_streamed_as_it_comes),
        CASE(stream_without_an_end_is_an_error),
        CASE(failing_output_cancels_the_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
