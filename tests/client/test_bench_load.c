#include "client/bench_report.h"
#include "tests/client/loopback.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define N_DELTAS 3

/* The loopback server takes one call after the other: what is tested is the client's side. */
struct fixture {
    struct loopback *server;
    struct sc_rpc *rpc;
    struct sc_err err;
    unsigned n_calls, refuse_every; /* 0: none */
    bool hang, interrupt, no_final, fail_to_make;
    uint64_t indexes[64];
    uint32_t cancel_after, deadline_ms, deadline_every; /* the first of so many has one */
    int code;                                           /* ends every call */
    Semanticache__V1__GenerateStreamResponse delta_event, final_event;
    Semanticache__V1__Delta delta;
    Semanticache__V1__Final final;
    Semanticache__V1__Usage usage;
    int32_t ids[2];
};

static void respond(void *ctx, const char *method, const uint8_t *request, size_t len,
                    struct loopback_answer *answer)
{
    struct fixture *f = ctx;
    (void)method;
    (void)request;
    (void)len;
    f->n_calls++;
    if (f->interrupt)
        (void)kill(getpid(), SIGINT);
    f->interrupt = false;
    if (f->refuse_every > 0 && f->n_calls % f->refuse_every == 0) {
        answer->code = 8;
        answer->text = "queue: 8, limit 8";
        return;
    }
    for (int i = 0; i < N_DELTAS; i++)
        answer->messages[i] = &f->delta_event.base;
    answer->messages[N_DELTAS] = &f->final_event.base;
    answer->n_messages = f->hang || f->no_final ? N_DELTAS : N_DELTAS + 1;
    answer->hang = f->hang;
    answer->code = f->code;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return -1;
    f->cancel_after = SC_LOAD_NO_CANCEL;
    f->deadline_every = 1;
    semanticache__v1__generate_stream_response__init(&f->delta_event);
    semanticache__v1__generate_stream_response__init(&f->final_event);
    semanticache__v1__delta__init(&f->delta);
    semanticache__v1__final__init(&f->final);
    semanticache__v1__usage__init(&f->usage);
    f->delta.token_ids = f->ids;
    f->delta.n_token_ids = 2;
    f->delta_event.delta = &f->delta;
    f->delta_event.event_case = SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_DELTA;
    f->usage.prompt_tokens = 100;
    f->usage.cached_tokens = 80;
    f->usage.completion_tokens = 2 * N_DELTAS;
    f->final.usage = &f->usage;
    f->final_event.final = &f->final;
    f->final_event.event_case = SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_FINAL;
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

static enum sc_status make(void *ctx, uint64_t index, struct sc_load_request *request,
                           struct sc_err *err)
{
    struct fixture *f = ctx;
    if (f->fail_to_make && index == 2)
        return sc_fail(err, SC_ENOMEM, "no more");
    f->indexes[index % SC_ARRAY_LEN(f->indexes)]++;
    request->cancel_after = f->cancel_after;
    if (index % f->deadline_every == 0)
        request->deadline_ms = f->deadline_ms;
    return SC_OK;
}

static enum sc_status run(struct fixture *f, struct sc_load_opts opts, struct sc_load_result *r)
{
    return sc_load_run(f->rpc, &opts, make, f, r, &f->err);
}

static void each_request_is_made_once_and_measured(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result r;
    assert_int_equal(run(f, (struct sc_load_opts){.n_streams = 4, .n_requests = 20}, &r), SC_OK);
    for (int i = 0; i < 20; i++)
        assert_int_equal(f->indexes[i], 1);
    assert_int_equal(r.n_started, 20);
    assert_int_equal(r.n_completed, 20);
    assert_int_equal(r.peak_streams, 4);
    assert_int_equal(r.ttft.n, 20);
    assert_int_equal(r.gap.n, 20 * (N_DELTAS - 1));
    assert_int_equal(r.total.n, 20);
    assert_int_equal(r.prompt_tokens, 2000);
    assert_int_equal(r.cached_tokens, 1600);
    assert_int_equal(r.tokens_received, 20 * 2 * N_DELTAS);
    assert_int_equal(sc_load_check(&r, &f->err), SC_OK);
    json_t *json = sc_load_json(&r);
    assert_non_null(json);
    assert_true(json_real_value(json_object_get(json, "hit_rate")) == 0.8);
    assert_int_equal(json_object_size(json_object_get(json, "errors")), 0);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "ttft_ms"), "n")),
                     20);
    json_decref(json);
    sc_load_result_fini(&r);
}

static void refusals_are_counted_by_status(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result r;
    char *text = NULL;
    size_t len = 0;
    f->refuse_every = 5;
    assert_int_equal(run(f, (struct sc_load_opts){.n_streams = 2, .n_requests = 20}, &r), SC_OK);
    assert_int_equal(r.n_completed, 16);
    assert_int_equal(r.n_failed, 4);
    assert_int_equal(r.errors[8], 4);
    assert_int_equal(sc_load_check(&r, &f->err), SC_EPEER);
    assert_string_equal(f->err.text, "4 of 20 requests failed, the first with "
                                     "RESOURCE_EXHAUSTED: queue: 8, limit 8");
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    sc_load_print(out, &r);
    assert_int_equal(fclose(out), 0);
    assert_non_null(strstr(text, "16 completed, 0 cancelled as asked, 4 failed"));
    assert_non_null(strstr(text, "\nerrors      4 RESOURCE_EXHAUSTED\n"));
    assert_non_null(strstr(text, "\nTTFT               16 "));
    free(text);
    sc_load_result_fini(&r);
}

static void a_stream_without_an_end_is_a_failure(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result r;
    f->no_final = true;
    assert_int_equal(run(f, (struct sc_load_opts){.n_streams = 1, .n_requests = 1}, &r), SC_OK);
    assert_int_equal(r.n_failed, 1);
    assert_non_null(strstr(r.first_error.text, "without its final message"));
    sc_load_result_fini(&r);
}

static void cancels_that_were_asked_for_are_no_errors(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result r;
    f->hang = true;
    f->cancel_after = 3;
    assert_int_equal(run(f, (struct sc_load_opts){.n_streams = 3, .n_requests = 6}, &r), SC_OK);
    assert_int_equal(r.n_cancelled, 6);
    assert_int_equal(r.n_failed, 0);
    assert_int_equal(r.total.n, 0);
    for (int ms = 0; loopback_cancelled(f->server) < 6 && ms < 5000; ms += 10)
        (void)usleep(10000);
    assert_int_equal(loopback_cancelled(f->server), 6);
    sc_load_result_fini(&r);
}

static void deadlines_that_were_asked_for_are_no_errors(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result r;
    char *text = NULL;
    size_t len = 0;
    f->hang = true;
    f->deadline_ms = 30;
    assert_int_equal(run(f, (struct sc_load_opts){.n_streams = 1, .n_requests = 4}, &r), SC_OK);
    assert_int_equal(r.n_deadlines, 4);
    assert_int_equal(r.n_expired, 4);
    assert_int_equal(r.n_failed, 0);
    assert_int_equal(r.past_deadline.n, 4);
    assert_true(r.wall_s >= 4 * 0.028);
    for (int ms = 0; loopback_cancelled(f->server) < 4 && ms < 5000; ms += 10)
        (void)usleep(10000);
    assert_int_equal(loopback_cancelled(f->server), 4);
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    sc_load_print(out, &r);
    assert_int_equal(fclose(out), 0);
    assert_non_null(strstr(text, "\ndeadlines   4 set, 4 ended there as asked\n"));
    assert_non_null(strstr(text, "\npast deadline       4 "));
    free(text);
    json_t *json = sc_load_json(&r);
    assert_int_equal(json_integer_value(json_object_get(json, "deadlines")), 4);
    assert_int_equal(json_integer_value(json_object_get(json, "expired")), 4);
    json_decref(json);
    sc_load_result_fini(&r);
}

static void a_deadline_is_that_of_its_request_alone(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result r;
    f->deadline_ms = 20000;
    f->deadline_every = 3;
    assert_int_equal(run(f, (struct sc_load_opts){.n_streams = 2, .n_requests = 9}, &r), SC_OK);
    assert_int_equal(r.n_deadlines, 3);
    assert_int_equal(r.n_expired, 0);
    assert_int_equal(r.n_completed, 9);
    sc_load_result_fini(&r);
}

static void an_end_before_the_deadline_or_without_one_is_a_failure(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result r;
    f->no_final = true;
    f->code = 4;
    f->deadline_ms = 15000;
    f->deadline_every = 2;
    assert_int_equal(run(f, (struct sc_load_opts){.n_streams = 1, .n_requests = 4}, &r), SC_OK);
    assert_int_equal(r.n_expired, 0);
    assert_int_equal(r.n_failed, 4);
    assert_int_equal(r.errors[4], 4);
    sc_load_result_fini(&r);
}

static void a_slow_reader_waits_before_each_message(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result r;
    const struct sc_load_opts opts = {.n_streams = 2, .n_requests = 2, .slow_reader_ms = 30};
    assert_int_equal(run(f, opts, &r), SC_OK);
    assert_int_equal(r.n_completed, 2);
    assert_true(sc_stats_percentile_us(&r.total, 1) >= 30e3 * N_DELTAS);
    sc_load_result_fini(&r);
}

static void slow_readers_can_be_cancelled(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result r;
    const struct sc_load_opts opts = {.n_streams = 3, .n_requests = 9, .slow_reader_ms = 20};
    f->hang = true;
    f->cancel_after = 4;
    assert_int_equal(run(f, opts, &r), SC_OK);
    assert_int_equal(r.n_cancelled, 9);
    sc_load_result_fini(&r);
}

static void arrivals_come_at_their_rate_and_end_with_the_duration(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result r;
    const struct sc_load_opts opts = {
        .n_streams = 8, .rate_per_s = 200, .duration_s = 0.5, .seed = 1};
    assert_int_equal(run(f, opts, &r), SC_OK);
    /* 100 are expected; the seed is fixed, so this is no chance. */
    assert_in_range(r.n_started, 70, 130);
    assert_int_equal(r.n_completed, r.n_started);
    sc_load_result_fini(&r);
}

static void a_signal_cancels_all_and_keeps_what_was_measured(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result r;
    char *text = NULL;
    size_t len = 0;
    f->hang = true;
    f->interrupt = true;
    assert_int_equal(run(f, (struct sc_load_opts){.n_streams = 4, .n_requests = 100}, &r),
                     SC_ECANCELED);
    assert_int_equal(r.n_started, 4);
    assert_int_equal(r.n_interrupted, 4);
    assert_int_equal(r.n_failed, 0);
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    sc_load_print(out, &r);
    assert_int_equal(fclose(out), 0);
    assert_non_null(strstr(text, "\ninterrupted 4 "));
    free(text);
    sc_load_result_fini(&r);
}

static void runs_that_follow_each_other_add_up(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result sum = {0}, r;
    f->refuse_every = 5;
    for (int i = 0; i < 2; i++) {
        const struct sc_load_opts opts = {.n_streams = 2 + (uint32_t)i, .n_requests = 10};
        assert_int_equal(run(f, opts, &r), SC_OK);
        sc_load_result_add(&sum, &r);
        sc_load_result_fini(&r);
    }
    assert_int_equal(sum.n_started, 20);
    assert_int_equal(sum.n_completed, 16);
    assert_int_equal(sum.errors[8], 4);
    assert_int_equal(sum.total.n, 16);
    assert_int_equal(sum.prompt_tokens, 1600);
    assert_int_equal(sum.peak_streams, 3);
    assert_true(sum.wall_s > 0);
    assert_string_equal(sum.first_error.text, "RESOURCE_EXHAUSTED: queue: 8, limit 8");
    sc_load_result_fini(&sum);
}

static void a_request_that_cannot_be_made_ends_the_run(void **state)
{
    struct fixture *f = *state;
    struct sc_load_result r;
    f->fail_to_make = true;
    assert_int_equal(run(f, (struct sc_load_opts){.n_streams = 2, .n_requests = 9}, &r), SC_ENOMEM);
    assert_string_equal(f->err.text, "no more");
    assert_int_equal(r.n_completed, 2);
    sc_load_result_fini(&r);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(each_request_is_made_once_and_measured),
        CASE(refusals_are_counted_by_status),
        CASE(a_stream_without_an_end_is_a_failure),
        CASE(cancels_that_were_asked_for_are_no_errors),
        CASE(deadlines_that_were_asked_for_are_no_errors),
        CASE(a_deadline_is_that_of_its_request_alone),
        CASE(an_end_before_the_deadline_or_without_one_is_a_failure),
        CASE(a_slow_reader_waits_before_each_message),
        CASE(slow_readers_can_be_cancelled),
        CASE(arrivals_come_at_their_rate_and_end_with_the_duration),
        CASE(a_signal_cancels_all_and_keeps_what_was_measured),
        CASE(runs_that_follow_each_other_add_up),
        CASE(a_request_that_cannot_be_made_ends_the_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
