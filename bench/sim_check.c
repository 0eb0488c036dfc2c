#include "bench/sim_check.h"

#include <string.h>

#include "bench/sim_engine.h"
#include "scheduler/internal.h"

static enum sc_status check_slots(const struct sc_sched *s, struct sc_err *err)
{
    bool seen[SC_SEQS_MAX] = {false};
    uint32_t opened = 0;
    if (s->n_free_slots + s->n_running != s->max_seqs)
        return sc_fail(err, SC_EINTERNAL, "slots: %u free and %u running of %u", s->n_free_slots,
                       s->n_running, s->max_seqs);
    for (uint32_t i = 0; i < s->max_seqs; i++) {
        uint32_t slot = i < s->n_running ? s->running[i]->slot : s->free_slots[i - s->n_running];
        if (slot >= s->max_seqs || seen[slot])
            return sc_fail(err, SC_EINTERNAL, "slot %u is out of range or held twice", slot);
        seen[slot] = true;
    }
    for (uint32_t i = 0; i < s->n_running; i++)
        opened += s->running[i]->opened;
    uint32_t in_engine = sim_engine_counts(s->engine).open_seqs;
    if (opened + s->n_closes != in_engine)
        return sc_fail(err, SC_EINTERNAL,
                       "the engine has %u sequences open, %u run and %u are to be closed",
                       in_engine, opened, s->n_closes);
    return SC_OK;
}

static enum sc_status check_running(const struct sc_sched *s, struct sc_err *err)
{
    for (uint32_t i = 0; i < s->n_running; i++) {
        const struct sc_request *r = s->running[i];
        struct sc_seq_stats stats;
        if (r->state != SC_REQUEST_RUNNING || (i > 0 && r->ticket <= s->running[i - 1]->ticket))
            return sc_fail(err, SC_EINTERNAL, "running request %u: state %u, ticket out of order",
                           i, (unsigned)r->state);
        if (!r->opened)
            continue;
        sc_engine_seq_stats(s->engine, r->slot, &stats);
        if (stats.logical_tokens != r->n_fed)
            return sc_fail(err, SC_EINTERNAL, "slot %u holds %u tokens, %u were fed", r->slot,
                           stats.logical_tokens, r->n_fed);
    }
    return SC_OK;
}

/* Ids that are not free are in the engine, or come there with the next plan. */
static enum sc_status check_snapshots(const struct sc_sched *s, struct sc_err *err)
{
    struct sc_engine_info info;
    if (s->prefix == NULL)
        return SC_OK;
    sc_engine_get_info(s->engine, &info);
    uint32_t taken = info.max_snaps - sc_prefix_snaps_free(s->prefix);
    uint32_t in_engine = sim_engine_counts(s->engine).snaps;
    if (taken != in_engine + s->n_keeps)
        return sc_fail(err, SC_EINTERNAL, "snapshots: %u ids taken, %u in the engine, %u to come",
                       taken, in_engine, s->n_keeps);
    uint64_t pinned = sc_prefix_pinned_pages(s->prefix);
    if (pinned > (uint64_t)s->n_pages * SC_PINNED_PERCENT_MAX / 100)
        return sc_fail(err, SC_EINTERNAL, "%llu of %u pages are pinned", (unsigned long long)pinned,
                       s->n_pages);
    return SC_OK;
}

struct waiting {
    int32_t lowest; /* priority of those admitted */
    uint64_t n_preempted;
    const struct sc_request *wrong;
};

static bool look_at_waiting(void *ctx, const struct sc_request *r)
{
    struct waiting *w = ctx;
    if (r->priority > w->lowest && (!r->preempted || w->n_preempted == 0))
        w->wrong = r;
    else if (r->priority > w->lowest)
        w->n_preempted--;
    return false;
}

/* Of those who wait, none has a higher priority than one that was admitted. One that this turn has
 * preempted was admitted, too. */
static enum sc_status check_priority(const struct sim_check *c, const struct sc_sched *s,
                                     struct sc_err *err)
{
    struct waiting w = {.lowest = INT32_MAX, .n_preempted = s->stats.preempted - c->last_preempted};
    for (uint32_t i = 0; i < s->n_running; i++)
        if (s->running[i]->ticket > c->last_ticket && s->running[i]->priority < w.lowest)
            w.lowest = s->running[i]->priority;
    if (w.lowest < INT32_MAX) /* somebody was admitted */
        (void)sc_queue_sweep(s->queue, look_at_waiting, &w);
    if (w.wrong != NULL)
        return sc_fail(err, SC_EINTERNAL, "priority %d waits, priority %d was admitted",
                       w.wrong->priority, w.lowest);
    return SC_OK;
}

static uint32_t pinned_idle(const struct sc_sched *s)
{
    uint32_t n = 0, node = SC_NODE_NONE;
    for (bool first = true; s->prefix != NULL; first = false) {
        node = sc_prefix_next_pinned(s->prefix, node);
        if (node == SC_NODE_NONE)
            break;
        n += sim_engine_idle_pages(s->engine, sc_prefix_node(s->prefix, node).snap, first);
    }
    return n;
}

enum sc_status sim_check_turn(struct sim_check *c, const struct sc_sched *s, struct sc_err *err)
{
    struct sc_engine_info info;
    enum sc_status st = sim_engine_check(s->engine, err);
    if (st == SC_OK)
        st = check_slots(s, err);
    if (st == SC_OK)
        st = check_running(s, err);
    if (st == SC_OK)
        st = check_snapshots(s, err);
    if (st == SC_OK)
        st = check_priority(c, s, err);
    if (st != SC_OK)
        return st;
    sc_engine_get_info(s->engine, &info);
    uint32_t pinned = pinned_idle(s);
    if (s->stats.pages_free != info.n_pages_free ||
        s->stats.pages_cached != info.n_pages_cached - pinned)
        return sc_fail(err, SC_EINTERNAL,
                       "stats: %u pages free, %u cached; the engine has %u, %u, of which %u are "
                       "pinned",
                       s->stats.pages_free, s->stats.pages_cached, info.n_pages_free,
                       info.n_pages_cached, pinned);
    c->last_ticket = s->next_ticket;
    c->last_preempted = s->stats.preempted;
    return SC_OK;
}

enum sc_status sim_check_drained(const struct sc_sched *s, struct sc_err *err)
{
    struct sc_engine_info info;
    sc_engine_get_info(s->engine, &info);
    if (s->n_running > 0 || sc_queue_n(s->queue) + s->parked.n > 0 ||
        sim_engine_counts(s->engine).open_seqs > 0)
        return sc_fail(err, SC_EINTERNAL, "drained, but %u run, %u wait, %u sequences are open",
                       s->n_running, sc_queue_n(s->queue), sim_engine_counts(s->engine).open_seqs);
    if (info.n_pages_free + info.n_pages_cached != info.n_pages)
        return sc_fail(err, SC_EINTERNAL, "drained, but %u of %u pages are free, %u cached",
                       info.n_pages_free, info.n_pages, info.n_pages_cached);
    return SC_OK;
}

uint64_t sim_check_parked_until(const struct sc_sched *s)
{
    if (s->parked.n == 0)
        return UINT64_MAX;
    return s->parked_until_us < s->queue_deadline_us ? s->parked_until_us : s->queue_deadline_us;
}
