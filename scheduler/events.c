#include <inttypes.h>
#include <stdio.h>

#include "scheduler/internal.h"

static void count_end(struct sc_sched *s, const struct sc_request *r, enum sc_status status)
{
    pthread_mutex_lock(&s->mu);
    if (status == SC_OK)
        s->stats.finished++;
    else if (status == SC_ECANCELED)
        s->stats.canceled++;
    else
        s->stats.failed++;
    s->stats.prompt_tokens += r->n_fed < r->n_prompt ? r->n_fed : r->n_prompt;
    s->stats.completion_tokens += sc_request_completion(r);
    pthread_mutex_unlock(&s->mu);
}

static struct sc_timings timings(const struct sc_request *r, uint64_t now_us)
{
    struct sc_timings t = {.compress_us = r->compress_us + r->receipt.kv.compress_us};
    uint64_t first_step = r->first_step_us != 0 ? r->first_step_us : now_us;
    uint64_t first_token = r->first_token_us != 0 ? r->first_token_us : now_us;
    t.queue_us = first_step - r->submit_us;
    if (r->first_step_us != 0)
        t.prefill_us = first_token - first_step;
    if (r->first_token_us != 0) {
        t.ttft_us = first_token - r->submit_us;
        t.decode_us = r->last_token_us - first_token;
    }
    return t;
}

static void send_delta(struct sc_request *r, const char *text, size_t len,
                       const struct sc_sampled *tokens, uint32_t n_tokens)
{
    const struct sc_event ev = {.kind = SC_EVENT_DELTA,
                                .text = text,
                                .text_len = len,
                                .tokens = tokens,
                                .n_tokens = n_tokens,
                                .stop_id = -1};
    r->on_event(r->ctx, &ev);
}

static void end(struct sc_sched *s, struct sc_request *r, const struct sc_output *out,
                enum sc_status status, const char *error)
{
    SC_ASSERT(r->state != SC_REQUEST_ENDED);
    if (r->opened)
        sc_engine_seq_stats(s->engine, r->slot, &r->receipt.kv);
    if (status == SC_OK)
        sc_share_before_close(s, r, false);
    sc_plan_release(s, r);
    if (r->n_held > 0) /* an end that is no stop string gives back what was held for one */
        send_delta(r, r->held, r->n_held, NULL, 0);
    r->n_held = 0;
    r->state = SC_REQUEST_ENDED;
    count_end(s, r, status);
    struct sc_event ev = {
        .kind = SC_EVENT_DONE,
        .finish = out->finish,
        .status = status,
        .error = error,
        .stop_id = out->stop_id,
        .stop_string = out->stop_string,
        .prompt_done = r->n_reported,
        .prompt_total = r->n_prompt,
        .prompt_tokens = r->n_prompt,
        .completion_tokens = sc_request_completion(r),
        .receipt = r->receipt,
        .timings = timings(r, sc_request_clock(&s->limits)),
    };
    if (s->prefix != NULL && r->prefill_only)
        ev.prefix_key = sc_prefix_key(&r->root, r->tokens, r->n_prompt);
    r->on_event(r->ctx, &ev);
}

void sc_events_end(struct sc_sched *s, struct sc_request *r, enum sc_finish finish,
                   enum sc_status status, const char *error)
{
    const struct sc_output out = {.finish = finish, .stop_id = -1};
    end(s, r, &out, status, error);
}

static void after_prefill(struct sc_request *r)
{
    uint32_t done = r->n_fed < r->n_prompt ? r->n_fed : r->n_prompt;
    if (done <= r->n_reported)
        return;
    r->n_reported = done;
    const struct sc_event ev = {
        .kind = SC_EVENT_PROGRESS, .prompt_done = done, .prompt_total = r->n_prompt, .stop_id = -1};
    r->on_event(r->ctx, &ev);
}

static void after_sample(struct sc_sched *s, struct sc_request *r,
                         const struct sc_run_result *result, uint64_t now_us)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_output out;
    if (result->status != SC_OK) {
        sc_fail(&err, SC_EINTERNAL, "sampling at position %u: %s", r->n_tokens,
                result->status == SC_EINTERNAL ? "the logits are not finite"
                                               : sc_status_text(result->status));
        sc_events_end(s, r, SC_FINISH_ERROR, SC_EINTERNAL, err.text);
        return;
    }
    if (r->first_token_us == 0)
        r->first_token_us = now_us;
    r->last_token_us = now_us;
    enum sc_status st = sc_output_token(r, result->sampled.token, &s->text, &out, &err);
    if (st != SC_OK) {
        send_delta(r, NULL, 0, &result->sampled, 1);
        sc_events_end(s, r, SC_FINISH_ERROR, st, err.text);
        return;
    }
    send_delta(r, s->text.bytes, out.emit_len, &result->sampled, 1);
    if (out.finish != SC_FINISH_NONE)
        end(s, r, &out, SC_OK, NULL);
}

void sc_events_after_run(struct sc_sched *s, struct sc_request *r,
                         const struct sc_run_result *result, uint64_t now_us)
{
    after_prefill(r);
    if (r->prefill_only) {
        if (r->n_fed == r->n_prompt)
            sc_events_end(s, r, SC_FINISH_LENGTH, SC_OK, NULL);
    } else if (r->n_fed == r->n_tokens) {
        after_sample(s, r, result, now_us);
    }
}

void sc_events_sweep(struct sc_sched *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_running; i++) {
        struct sc_request *r = s->running[i];
        if (r->state == SC_REQUEST_ENDED)
            sc_request_unref(r);
        else
            s->running[n++] = r;
    }
    s->n_running = n;
}
