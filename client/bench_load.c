#include "client/bench_load.h"

#include "client/bench_input.h"
#include "proto/optional.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#define IDLE_MS      50
#define ARRIVALS_KEY UINT64_C(0xA881)
#define CODE_OK      0
#define CODE_CANCEL  1
#define CODE_UNKNOWN 2
#define CODE_EXPIRED 4

/* gRPC has a clock of its own, in milliseconds: so little too early is no mistake of the server. */
#define DEADLINE_SLACK_US 10e3

struct run;

struct slot {
    struct run *run;
    struct sc_rpc_call *call; /* NULL: free */
    struct slot *next_free;
    double due_us, last_us; /* arrival; latest message with tokens */
    double deadline_us;     /* 0: none */
    uint32_t n_tokens, cancel_after;
    bool cancel_sent, ended; /* ended: the final message has come */
    /* The queue of slow readers, oldest first: all wait equally long. */
    struct slot *slow_prev, *slow_next;
    double read_us;
    bool slow;
};

struct run {
    struct sc_rpc *rpc;
    const struct sc_load_opts *opts;
    sc_load_make_fn *make;
    void *ctx;
    struct sc_load_result *result;
    const ProtobufCMethodDescriptor *method;
    char path[SC_RPC_PATH_BYTES];
    struct slot *slots, *free;
    struct slot *slow_first, *slow_last;
    struct sc_rand arrivals;
    double start_us, next_us; /* next arrival */
    uint32_t n_active;
    bool stopping, interrupted;
    struct sc_err err; /* of making a request: ends the run */
    enum sc_status st;
};

static double now_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void slow_remove(struct slot *slot)
{
    struct run *run = slot->run;
    if (!slot->slow)
        return;
    slot->slow = false;
    *(slot->slow_prev != NULL ? &slot->slow_prev->slow_next : &run->slow_first) = slot->slow_next;
    *(slot->slow_next != NULL ? &slot->slow_next->slow_prev : &run->slow_last) = slot->slow_prev;
}

static void slow_append(struct slot *slot, double now)
{
    struct run *run = slot->run;
    slot->slow = true;
    slot->read_us = now + run->opts->slow_reader_ms * 1e3;
    slot->slow_prev = run->slow_last;
    slot->slow_next = NULL;
    *(run->slow_last != NULL ? &run->slow_last->slow_next : &run->slow_first) = slot;
    run->slow_last = slot;
}

static void take_tokens(struct slot *slot, uint32_t n, double now)
{
    struct sc_load_result *r = slot->run->result;
    if (n == 0)
        return;
    if (slot->n_tokens == 0)
        sc_stats_add(&r->ttft, now - slot->due_us);
    else
        sc_stats_add(&r->gap, now - slot->last_us);
    slot->last_us = now;
    slot->n_tokens += n;
    r->tokens_received += n;
}

static void take_final(struct slot *slot, const Semanticache__V1__Final *final)
{
    struct sc_load_result *r = slot->run->result;
    slot->ended = true;
    if (final->usage != NULL) {
        r->prompt_tokens += final->usage->prompt_tokens;
        r->cached_tokens += final->usage->cached_tokens;
        r->completion_tokens += final->usage->completion_tokens;
    }
    if (final->receipt != NULL)
        r->preemptions += final->receipt->preemptions;
}

static enum sc_status on_reply(void *ctx, ProtobufCMessage *message, struct sc_err *err)
{
    struct slot *slot = ctx;
    const Semanticache__V1__GenerateStreamResponse *reply =
        (const Semanticache__V1__GenerateStreamResponse *)message;
    const double now = now_us();
    (void)err;
    if (reply->event_case == SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_DELTA)
        take_tokens(slot, (uint32_t)reply->delta->n_token_ids, now);
    else if (reply->event_case == SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_FINAL)
        take_final(slot, reply->final);
    protobuf_c_message_free_unpacked(message, NULL);
    if (slot->cancel_after != SC_LOAD_NO_CANCEL && !slot->cancel_sent && !slot->ended &&
        slot->n_tokens >= slot->cancel_after) {
        slot->cancel_sent = true;
        sc_rpc_cancel(slot->call);
    }
    if (slot->run->opts->slow_reader_ms > 0)
        slow_append(slot, now);
    return SC_OK;
}

/* At its deadline as asked; before it, somebody has read the clock wrong. */
static bool has_expired(const struct slot *slot, int code, double now)
{
    return slot->deadline_us > 0 && code == CODE_EXPIRED &&
           now >= slot->deadline_us - DEADLINE_SLACK_US;
}

static void on_end(void *ctx, enum sc_status st, int code, const struct sc_err *err)
{
    struct slot *slot = ctx;
    struct run *run = slot->run;
    struct sc_load_result *r = run->result;
    const double now = now_us();
    slow_remove(slot);
    if (st == SC_OK && slot->ended) {
        r->n_completed++;
        sc_stats_add(&r->total, now - slot->due_us);
    } else if (has_expired(slot, code, now)) {
        r->n_expired++;
        sc_stats_add(&r->past_deadline, now - slot->deadline_us);
    } else if (slot->cancel_sent && code == CODE_CANCEL) {
        r->n_cancelled++;
    } else if (run->interrupted && code == CODE_CANCEL) {
        r->n_interrupted++;
    } else {
        r->n_failed++;
        r->errors[code > CODE_OK && code < SC_LOAD_CODES ? code : CODE_UNKNOWN]++;
        (void)sc_fail(&r->first_error, SC_EPEER, "%s",
                      st != SC_OK ? err->text : "the stream ended without its final message");
    }
    slot->call = NULL;
    slot->next_free = run->free;
    run->free = slot;
    run->n_active--;
}

static enum sc_status start_request(struct run *run, double due)
{
    struct slot *slot = run->free;
    struct sc_load_request request;
    struct sc_rpc_handler handler = {.on_reply = on_reply,
                                     .on_end = on_end,
                                     .ctx = slot,
                                     .paced = run->opts->slow_reader_ms > 0};
    semanticache__v1__generate_request__init(&request.wire);
    semanticache__v1__sampling_params__init(&request.sampling);
    semanticache__v1__token_ids__init(&request.token_ids);
    semanticache__v1__document_prompt__init(&request.documents);
    request.wire.sampling = &request.sampling;
    request.cancel_after = SC_LOAD_NO_CANCEL;
    request.deadline_ms = 0;
    enum sc_status st = run->make(run->ctx, run->result->n_started, &request, &run->err);
    /* Progress is traffic that is not measured; a cancel at once is to come while the prompt is
     * read. */
    SC_PB_SET(&request.wire, prompt_progress, request.cancel_after == 0);
    if (st != SC_OK)
        return st;
    run->free = slot->next_free;
    *slot = (struct slot){.run = run, .due_us = due, .cancel_after = request.cancel_after};
    if (request.deadline_ms > 0)
        slot->deadline_us = now_us() + request.deadline_ms * 1e3;
    handler.timeout_s = request.deadline_ms / 1e3;
    st = sc_rpc_start(run->rpc, run->method, run->path, &request.wire.base, &handler, &slot->call,
                      &run->err);
    if (st != SC_OK) {
        slot->next_free = run->free;
        run->free = slot;
        return st;
    }
    run->result->n_started++;
    run->result->n_deadlines += request.deadline_ms > 0;
    run->n_active++;
    if (run->n_active > run->result->peak_streams)
        run->result->peak_streams = run->n_active;
    return SC_OK;
}

/* Whether another request belongs to the run, now or later. */
static bool more_to_start(const struct run *run, double now)
{
    const struct sc_load_opts *o = run->opts;
    const double due = o->rate_per_s > 0 ? run->next_us : now;
    return !run->stopping && (o->n_requests == 0 || run->result->n_started < o->n_requests) &&
           (o->duration_s <= 0 || due - run->start_us <= o->duration_s * 1e6);
}

static void start_due(struct run *run, double now)
{
    while (run->free != NULL && more_to_start(run, now)) {
        double due = now;
        if (run->opts->rate_per_s > 0) {
            if (run->next_us > now)
                return;
            due = run->next_us;
            run->next_us += sc_rand_exponential(&run->arrivals, 1e6 / run->opts->rate_per_s);
        }
        run->st = start_request(run, due);
        if (run->st != SC_OK)
            run->stopping = true;
        now = now_us();
    }
}

static void read_due(struct run *run, double now)
{
    while (run->slow_first != NULL && run->slow_first->read_us <= now) {
        struct slot *slot = run->slow_first;
        slow_remove(slot);
        sc_rpc_read_on(slot->call);
    }
}

static int wait_ms(const struct run *run, double now)
{
    double until = now + IDLE_MS * 1e3;
    if (run->slow_first != NULL && run->slow_first->read_us < until)
        until = run->slow_first->read_us;
    if (run->free != NULL && run->opts->rate_per_s > 0 && more_to_start(run, now) &&
        run->next_us < until)
        until = run->next_us;
    return until > now ? (int)ceil((until - now) / 1e3) : 0;
}

static void cancel_all(struct run *run)
{
    run->stopping = run->interrupted = true;
    for (uint32_t i = 0; i < run->opts->n_streams; i++)
        if (run->slots[i].call != NULL)
            sc_rpc_cancel(run->slots[i].call);
}

static void loop(struct run *run)
{
    for (;;) {
        double now = now_us();
        start_due(run, now);
        now = now_us();
        read_due(run, now);
        if (run->n_active == 0 && !more_to_start(run, now))
            return;
        if (sc_rpc_step(run->rpc, wait_ms(run, now), NULL) == SC_ECANCELED)
            cancel_all(run);
    }
}

enum sc_status sc_load_run(struct sc_rpc *rpc, const struct sc_load_opts *opts,
                           sc_load_make_fn *make, void *ctx, struct sc_load_result *ret_result,
                           struct sc_err *err)
{
    SC_ASSERT(opts->n_streams > 0 && (opts->n_requests > 0 || opts->duration_s > 0));
    *ret_result = (struct sc_load_result){.first_error = SC_ERR_INIT};
    struct run run = {.rpc = rpc,
                      .opts = opts,
                      .make = make,
                      .ctx = ctx,
                      .result = ret_result,
                      .arrivals = sc_rand_init(opts->seed, ARRIVALS_KEY)};
    run.slots = calloc(opts->n_streams, sizeof(*run.slots));
    if (run.slots == NULL)
        return sc_fail(err, SC_ENOMEM, "%u streams: no memory", opts->n_streams);
    for (uint32_t i = opts->n_streams; i-- > 0;) {
        run.slots[i].next_free = run.free;
        run.free = &run.slots[i];
    }
    run.method =
        sc_rpc_method(&semanticache__v1__inference__descriptor, "GenerateStream", run.path);
    run.start_us = run.next_us = now_us();
    if (opts->rate_per_s > 0)
        run.next_us += sc_rand_exponential(&run.arrivals, 1e6 / opts->rate_per_s);
    loop(&run);
    ret_result->wall_s = (now_us() - run.start_us) / 1e6;
    free(run.slots);
    if (run.st != SC_OK)
        return sc_fail(err, run.st, "%s", run.err.text);
    return run.interrupted ? sc_fail(err, SC_ECANCELED, "interrupted") : SC_OK;
}

void sc_load_result_add(struct sc_load_result *sum, const struct sc_load_result *r)
{
    sc_stats_add_all(&sum->ttft, &r->ttft);
    sc_stats_add_all(&sum->gap, &r->gap);
    sc_stats_add_all(&sum->total, &r->total);
    sc_stats_add_all(&sum->past_deadline, &r->past_deadline);
    sum->n_started += r->n_started;
    sum->n_completed += r->n_completed;
    sum->n_cancelled += r->n_cancelled;
    sum->n_deadlines += r->n_deadlines;
    sum->n_expired += r->n_expired;
    sum->n_interrupted += r->n_interrupted;
    sum->n_failed += r->n_failed;
    for (int code = 0; code < SC_LOAD_CODES; code++)
        sum->errors[code] += r->errors[code];
    if (r->first_error.status != SC_OK)
        (void)sc_fail(&sum->first_error, r->first_error.status, "%s", r->first_error.text);
    sum->prompt_tokens += r->prompt_tokens;
    sum->cached_tokens += r->cached_tokens;
    sum->completion_tokens += r->completion_tokens;
    sum->preemptions += r->preemptions;
    sum->tokens_received += r->tokens_received;
    if (r->peak_streams > sum->peak_streams)
        sum->peak_streams = r->peak_streams;
    sum->wall_s += r->wall_s;
}

void sc_load_result_fini(struct sc_load_result *result)
{
    sc_stats_fini(&result->ttft);
    sc_stats_fini(&result->gap);
    sc_stats_fini(&result->total);
    sc_stats_fini(&result->past_deadline);
}
