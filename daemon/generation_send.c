#include "daemon/generation_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "proto/optional.h"

/* One message of log-probabilities: 20 of them a token take about 3 KiB, and a message holds at
 * most an output. */
#define MESSAGE_BYTES_MAX ((size_t)1 << 30)

enum step { STEP_NOTHING, STEP_PROGRESS, STEP_DELTA, STEP_FINAL, STEP_UNARY, STEP_FAIL };

struct next {
    enum step step;
    struct sc_output *out;
    struct sc_pending pending; /* DELTA: taken out of the output */
    uint32_t done, total;      /* PROGRESS */
    bool tell_id;
    bool last; /* FINAL: the status goes with it */
    bool cancel_others;
};

static bool output_has_step(struct sc_generation *g, struct sc_output *out, struct next *next)
{
    if (out->has_progress && g->progress && out->index == 0) {
        next->step = STEP_PROGRESS;
        next->done = out->prompt_done;
        next->total = out->prompt_total;
        out->has_progress = false;
    } else if (out->pending.text_len > 0 || out->pending.n_ids > 0) {
        next->step = STEP_DELTA;
        next->pending = out->pending;
        memset(&out->pending, 0, sizeof(out->pending));
    } else if (out->done && !out->final_sent) {
        next->step = STEP_FINAL;
        out->final_sent = true;
    } else {
        return false;
    }
    next->out = out;
    return true;
}

static bool all_finals_sent(const struct sc_generation *g)
{
    for (uint32_t i = 0; i < g->n_outputs; i++) {
        if (!g->outputs[i].final_sent)
            return false;
    }
    return true;
}

/* Decides what to send next, and takes it: whoever gets a step owns the call until it is out. */
static struct next take_next(struct sc_generation *g)
{
    struct next next = {.step = STEP_NOTHING};

    (void)pthread_mutex_lock(&g->mu);
    if (g->sending || g->ended || g->closed) {
        /* nothing, or somebody else's */
    } else if (g->status != SC_OK) {
        next.cancel_others = g->n_done < g->n_submitted;
        if (!next.cancel_others)
            next.step = STEP_FAIL;
    } else if (g->kind == SC_GENERATE_STREAM) {
        for (uint32_t i = 0; i < g->n_outputs; i++) {
            if (output_has_step(g, &g->outputs[i], &next))
                break;
        }
    } else if (g->n_done == g->n_outputs) {
        next.step = STEP_UNARY;
    }
    next.last = next.step == STEP_FINAL && all_finals_sent(g);
    if (next.step != STEP_NOTHING) {
        g->sending = true;
        g->ended = next.last || next.step == STEP_UNARY || next.step == STEP_FAIL;
        next.tell_id = !g->id_told || next.step == STEP_FINAL;
        g->id_told = true;
    }
    (void)pthread_mutex_unlock(&g->mu);
    return next;
}

/* ---- streams ---- */

static void send_event(struct sc_generation *g, const struct next *next,
                       Semanticache__V1__GenerateStreamResponse *m)
{
    if (next->tell_id)
        m->request_id = g->entry.id;
    if (next->last) {
        sc_rpc_finish(g->rpc, &m->base);
    } else {
        sc_generation_ref(g); /* dropped by on_sent */
        sc_rpc_send(g->rpc, &m->base);
    }
}

static void send_progress(struct sc_generation *g, const struct next *next)
{
    Semanticache__V1__GenerateStreamResponse m = SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__INIT;
    Semanticache__V1__PromptProgress progress = SEMANTICACHE__V1__PROMPT_PROGRESS__INIT;

    progress.done = next->done;
    progress.total = next->total;
    m.event_case = SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_PROGRESS;
    m.progress = &progress;
    send_event(g, next, &m);
}

/* No memory to pack a message: the call fails, and what runs for it ends. */
static void out_of_memory(struct sc_generation *g)
{
    (void)pthread_mutex_lock(&g->mu);
    g->ended = true;
    (void)pthread_mutex_unlock(&g->mu);
    sc_rpc_fail(g->rpc, SC_ENOMEM, "no memory for the response");
    sc_generation_cancel(g);
}

static void send_delta(struct sc_generation *g, struct next *next)
{
    Semanticache__V1__GenerateStreamResponse m = SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__INIT;
    Semanticache__V1__Delta delta = SEMANTICACHE__V1__DELTA__INIT;
    struct sc_pending *p = &next->pending;
    struct sc_arena arena;
    bool ok = true;

    sc_arena_init(&arena, MESSAGE_BYTES_MAX);
    delta.index = next->out->index;
    delta.text = sc_reply_bytes(p->text, p->text_len);
    delta.n_token_ids = p->n_ids;
    delta.token_ids = p->ids;
    if (g->logprobs) {
        delta.logprobs = sc_reply_logprobs(&arena, g->app->model->tok, p->sampled, p->n_ids);
        delta.n_logprobs = p->n_ids;
        ok = delta.logprobs != NULL;
    }
    m.event_case = SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_DELTA;
    m.delta = &delta;
    if (ok)
        send_event(g, next, &m);
    else
        out_of_memory(g);
    sc_arena_fini(&arena);
    sc_pending_fini(p);
}

static void send_final(struct sc_generation *g, const struct next *next)
{
    Semanticache__V1__GenerateStreamResponse m = SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__INIT;
    Semanticache__V1__Final final = SEMANTICACHE__V1__FINAL__INIT;
    const struct sc_ending *e = &next->out->ending;
    struct sc_ending_messages parts;

    sc_reply_ending(e, &parts);
    final.index = next->out->index;
    final.finish_reason = sc_reply_finish(e->finish);
    if (e->stop_id >= 0)
        SC_PB_SET(&final, stop_token_id, e->stop_id);
    if (e->has_stop_string)
        SC_PB_SET(&final, stop_string, sc_reply_bytes(e->stop_string, e->stop_string_len));
    final.usage = &parts.usage;
    final.receipt = &parts.receipt;
    final.timings = &parts.timings;
    final.seed = e->seed;
    m.event_case = SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_FINAL;
    m.final = &final;
    send_event(g, next, &m);
}

/* ---- unary ---- */

static bool fill_output(struct sc_generation *g, struct sc_arena *arena,
                        const struct sc_output *out, Semanticache__V1__Output *m)
{
    const struct sc_pending *p = &out->pending;
    const struct sc_ending *e = &out->ending;

    semanticache__v1__output__init(m);
    m->index = out->index;
    m->text = sc_reply_bytes(p->text, p->text_len);
    m->n_token_ids = p->n_ids;
    m->token_ids = p->ids;
    m->finish_reason = sc_reply_finish(e->finish);
    m->seed = e->seed;
    if (e->stop_id >= 0)
        SC_PB_SET(m, stop_token_id, e->stop_id);
    if (e->has_stop_string)
        SC_PB_SET(m, stop_string, sc_reply_bytes(e->stop_string, e->stop_string_len));
    if (g->logprobs) {
        m->logprobs = sc_reply_logprobs(arena, g->app->model->tok, p->sampled, p->n_ids);
        m->n_logprobs = p->n_ids;
        return m->logprobs != NULL;
    }
    return true;
}

static void reply_generate(struct sc_generation *g)
{
    Semanticache__V1__GenerateResponse m = SEMANTICACHE__V1__GENERATE_RESPONSE__INIT;
    Semanticache__V1__Output outputs[SC_OUTPUTS_MAX], *list[SC_OUTPUTS_MAX];
    struct sc_ending_messages parts;
    struct sc_arena arena;
    bool ok = true;

    sc_arena_init(&arena, MESSAGE_BYTES_MAX);
    sc_reply_ending(&g->outputs[0].ending, &parts);
    parts.usage.completion_tokens = 0;
    for (uint32_t i = 0; i < g->n_outputs; i++) {
        ok = ok && fill_output(g, &arena, &g->outputs[i], &outputs[i]);
        list[i] = &outputs[i];
        parts.usage.completion_tokens += g->outputs[i].ending.completion_tokens;
        if (g->outputs[i].ending.total_us > parts.timings.total_us)
            parts.timings.total_us = g->outputs[i].ending.total_us;
    }
    m.request_id = g->entry.id;
    m.n_outputs = g->n_outputs;
    m.outputs = list;
    m.usage = &parts.usage;
    m.receipt = &parts.receipt;
    m.timings = &parts.timings;
    if (ok)
        sc_rpc_reply(g->rpc, &m.base);
    else
        out_of_memory(g);
    sc_arena_fini(&arena);
}

static void reply_inspect(struct sc_generation *g)
{
    struct sc_arena arena;
    Semanticache__V1__InspectCacheResponse *m;
    struct sc_ending_messages parts;

    sc_arena_init(&arena, MESSAGE_BYTES_MAX);
    sc_reply_ending(&g->outputs[0].ending, &parts);
    m = sc_inspect_reply(g->inspect, &arena);
    if (m != NULL) {
        m->receipt = &parts.receipt;
        m->timings = &parts.timings;
        sc_rpc_reply(g->rpc, &m->base);
    } else {
        out_of_memory(g);
    }
    sc_arena_fini(&arena);
}

/* A line for each output, as each ends by itself. */
static void log_done(const struct sc_generation *g, const struct sc_output *out)
{
    const struct sc_ending *e = &out->ending;

    sc_debug("request done",
             "id=%s index=%u prompt_tokens=%u completion_tokens=%u mode=%s physical=%" PRIu64
             " exact=%" PRIu64 " ttft_us=%" PRIu64 " total_us=%" PRIu64,
             g->entry.id, out->index, e->prompt_tokens, e->completion_tokens,
             e->receipt.mode == SC_KV_COMPRESSED ? "compressed" : "exact",
             e->receipt.kv.physical_entries, e->receipt.kv.exact_entries, e->timings.ttft_us,
             e->total_us);
}

void sc_generation_pump(struct sc_generation *g)
{
    struct next next = take_next(g);

    switch (next.step) {
    case STEP_NOTHING:
        if (next.cancel_others)
            sc_generation_cancel(g);
        return;
    case STEP_PROGRESS:
        send_progress(g, &next);
        return;
    case STEP_DELTA:
        send_delta(g, &next);
        return;
    case STEP_FINAL:
        send_final(g, &next);
        log_done(g, next.out);
        return;
    case STEP_UNARY:
        if (g->kind == SC_GENERATE_INSPECT)
            reply_inspect(g);
        else
            reply_generate(g);
        for (uint32_t i = 0; i < g->n_outputs; i++)
            log_done(g, &g->outputs[i]);
        return;
    case STEP_FAIL:
        sc_rpc_fail(g->rpc, g->status, g->error);
        return;
    }
}
