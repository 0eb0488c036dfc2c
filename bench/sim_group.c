#include <stdio.h>
#include <stdlib.h>

#include "bench/sim_internal.h"

#define IDLE_TURNS_MAX 4u /* turns in a row that find nothing to do while requests are there */

static void add_sample(struct samples *s, uint64_t us)
{
    if (s->n == s->cap) {
        s->cap = s->cap == 0 ? 1024 : s->cap * 2;
        s->ms = realloc(s->ms, s->cap * sizeof(*s->ms));
        SC_ASSERT(s->ms != NULL);
    }
    s->ms[s->n++] = (double)us / 1000.0;
}

static void on_done(struct client *c, const struct sc_event *ev)
{
    struct sim *s = c->group->sim;
    struct sim_result *r = &s->result;
    uint64_t tokens = ev->prompt_tokens + ev->completion_tokens;
    if (c->n_done++ > 0)
        return;
    c->group->live--;
    s->live--;
    sc_request_unref(c->request);
    c->request = NULL;
    r->served += ev->status == SC_OK;
    r->canceled += ev->status == SC_ECANCELED;
    r->late += ev->status == SC_ETIMEDOUT;
    if (ev->status != SC_OK && ev->status != SC_ECANCELED && ev->status != SC_ETIMEDOUT &&
        r->failed++ == 0)
        (void)snprintf(r->failure, sizeof(r->failure), "%s", ev->error);
    if (ev->status != SC_OK || c->shares_nothing)
        return;
    s->prompt_tokens += ev->prompt_tokens;
    s->output_tokens += ev->completion_tokens;
    if (!s->arrivals_over)
        r->ns_tokens[c->ns] += tokens - ev->receipt.cached_tokens;
}

void sim_group_event(void *ctx, const struct sc_event *ev)
{
    struct client *c = ctx;
    struct sim *s = c->group->sim;
    if (ev->kind == SC_EVENT_DELTA && ev->n_tokens > 0 && c->first_us == 0) {
        c->first_us = c->group->now_us;
        add_sample(&s->ttft, c->first_us - c->arrival_us);
    }
    if (ev->kind == SC_EVENT_DONE) {
        if (ev->status == SC_OK && !c->shares_nothing)
            add_sample(&s->queue, ev->timings.queue_us);
        on_done(c, ev);
    }
}

/* ---- one group ---- */

static uint64_t group_clock(void *ctx)
{
    return ((const struct group *)ctx)->now_us;
}

enum sc_status sim_group_open(struct sim *s, struct group *g, struct sc_err *err)
{
    const struct sim_opts *o = s->opts;
    *g = (struct group){.sim = s, .now_us = 1};
    const struct sim_engine_opts eo = {.n_pages = o->pages,
                                       .max_seqs = o->max_seqs,
                                       .max_step_tokens = o->step_tokens,
                                       .max_context = o->pages * SC_PAGE_ENTRIES,
                                       .max_snaps = o->snapshots,
                                       .vocab = VOCAB,
                                       .costs = o->costs,
                                       .now_us = &g->now_us};
    g->engine = sim_engine_open(&eo);
    if (g->engine == NULL)
        return sc_fail(err, SC_ENOMEM, "a group of %u pages", o->pages);
    const struct sc_sched_opts so = {.engine = g->engine,
                                     .model = &s->model,
                                     .queue_max = o->queue_max,
                                     .prefill_tokens = o->prefill_tokens,
                                     .auto_min_tokens = 1024,
                                     .no_sharing = !o->sharing,
                                     .clock = group_clock,
                                     .clock_ctx = g,
                                     .manual = true};
    return sc_sched_open(&so, &g->sched, err);
}

static void cancel_due(struct group *g)
{
    struct client **at = &g->cancels;
    while (*at != NULL) {
        struct client *c = *at;
        if (c->request != NULL && c->cancel_us > g->now_us) {
            at = &c->next_cancel;
            continue;
        }
        if (c->request != NULL)
            sc_sched_cancel(g->sched, c->request);
        *at = c->next_cancel;
    }
}

/* One turn. ret_idle: it found nothing to do. */
static enum sc_status turn(struct group *g, bool *ret_idle, struct sc_err *err)
{
    struct sc_sched_stats st;
    cancel_due(g);
    *ret_idle = !sc_sched_turn(g->sched);
    sc_sched_get_stats(g->sched, &st);
    if (st.waiting > g->waiting_max)
        g->waiting_max = st.waiting;
    if (st.failed_group)
        return sc_fail(err, SC_EINTERNAL, "the group failed");
    return g->sim->opts->check ? sim_check_turn(&g->check, g->sched, err) : SC_OK;
}

enum sc_status sim_group_advance(struct group *g, uint64_t until_us, struct sc_err *err)
{
    uint32_t idle_turns = 0, live = g->live;
    while (g->now_us < until_us) {
        bool idle;
        enum sc_status st = turn(g, &idle, err);
        if (st != SC_OK)
            return st;
        idle_turns = idle && g->live == live ? idle_turns + 1 : 0;
        live = g->live;
        if (!idle || idle_turns < 2)
            continue;
        if (g->live == 0)
            break;
        uint64_t due = sim_check_parked_until(g->sched);
        if (due != UINT64_MAX) { /* only time helps them */
            g->now_us = due < until_us ? due : until_us;
            idle_turns = 0;
            continue;
        }
        if (idle_turns > IDLE_TURNS_MAX)
            return sc_fail(err, SC_EINTERNAL, "%u requests are there, and nothing is done",
                           g->live);
    }
    if (until_us != UINT64_MAX && g->now_us < until_us)
        g->now_us = until_us;
    return SC_OK;
}
