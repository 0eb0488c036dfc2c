#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/hash.h"
#include "bench/sim_internal.h"

#define CANCEL_US_MAX   2000000u
#define DEADLINE_US_MAX 4000000u
#define SPREAD_FROM     8u /* requests that a document's own group holds in any case */

double sim_draw(struct sim *s)
{
    return (double)(sc_mix64(s->opts->seed * 0x9e3779b97f4a7c15ull + s->draws++) >> 11) * 0x1p-53;
}

static bool draw_percent(struct sim *s, uint32_t percent)
{
    return sim_draw(s) * 100.0 < (double)percent;
}

/* Half to one and a half of the mean. */
static uint32_t vary(uint32_t mean, double x)
{
    uint32_t n = (uint32_t)((0.5 + x) * (double)mean + 0.5);
    return n > 0 ? n : 1;
}

static uint32_t draw_document(struct sim *s)
{
    double x = sim_draw(s) * s->zipf[s->opts->documents - 1];
    uint32_t low = 0, high = s->opts->documents - 1;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (s->zipf[mid] > x)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

static uint32_t document_len(const struct sim *s, uint32_t document)
{
    uint64_t h = sc_mix64(s->opts->seed ^ ((uint64_t)document << 20));
    return vary(s->opts->doc_len, (double)(h >> 11) * 0x1p-53);
}

static void write_tokens(int32_t *tokens, uint32_t n, uint64_t of)
{
    uint64_t base = sc_mix64(of);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(sc_mix64(base + i) % VOCAB);
}

/* ---- requests ---- */

static enum sc_status route(struct sim *s, uint32_t document, uint64_t now_us,
                            struct group **ret_group, struct sc_err *err)
{
    const struct sim_opts *o = s->opts;
    uint64_t h = o->router == SIM_ROUTER_RANDOM ? s->result.requests : sc_mix64(document);
    for (uint32_t i = 0; i < o->groups; i++) {
        struct group *g = &s->groups[(h + i) % o->groups];
        enum sc_status st = sim_group_advance(g, now_us, err);
        if (st != SC_OK)
            return st;
        *ret_group = g;
        if (o->router != SIM_ROUTER_BOUNDED || g->live <= 2 * s->live / o->groups + SPREAD_FROM)
            break;
    }
    return SC_OK;
}

static enum sc_status submit(struct group *g, struct sc_request_opts *ro, struct client *c,
                             struct sc_err *err)
{
    struct sim *s = g->sim;
    struct sc_err why = SC_ERR_INIT;
    c->group = g;
    c->next = s->clients;
    s->clients = c;
    ro->sampling = (struct sc_sampling)SC_SAMPLING_GREEDY;
    ro->ignore_eos = true;
    ro->recipe = s->recipe;
    ro->on_event = sim_group_event;
    ro->ctx = c;
    enum sc_status st = sc_sched_submit(g->sched, ro, &c->request, &why);
    if (st == SC_EFULL) {
        s->result.refused++;
        c->n_done = 1;
        return SC_OK;
    }
    if (st != SC_OK)
        return sc_fail(err, st, "submit: %s", why.text);
    g->live++;
    s->live++;
    if (c->cancel_us != 0) {
        c->next_cancel = g->cancels;
        g->cancels = c;
    }
    return SC_OK;
}

static uint32_t draw_namespace(struct sim *s)
{
    uint32_t n = s->opts->namespaces;
    if (n > 1 && s->opts->first_ns_percent > 0)
        return draw_percent(s, s->opts->first_ns_percent) ? 0
                                                          : 1 + (uint32_t)(sim_draw(s) * (n - 1));
    return (uint32_t)(sim_draw(s) * n);
}

static void draw_end(struct sim *s, struct client *c, struct sc_request_opts *ro)
{
    if (!draw_percent(s, s->opts->cancel_percent))
        return;
    if (sim_draw(s) < 0.5)
        c->cancel_us = c->arrival_us + 1 + (uint64_t)(pow(sim_draw(s), 4.0) * CANCEL_US_MAX);
    else
        ro->deadline_us = c->arrival_us + 1 + (uint64_t)(pow(sim_draw(s), 4.0) * DEADLINE_US_MAX);
}

enum sc_status sim_arrive(struct sim *s, uint64_t now_us, struct sc_err *err)
{
    const struct sim_opts *o = s->opts;
    uint32_t document = draw_document(s), n = document_len(s, document);
    struct group *g = NULL;
    struct client *c = calloc(1, sizeof(*c));
    char ns[16];
    if (c == NULL)
        return sc_fail(err, SC_ENOMEM, "a client");
    s->result.requests++;
    enum sc_status st = route(s, document, now_us, &g, err);
    if (st != SC_OK) {
        free(c);
        return st;
    }
    c->arrival_us = now_us;
    c->ns = draw_namespace(s);
    (void)snprintf(ns, sizeof(ns), "tenant-%u", c->ns);
    struct sc_request_opts ro = {.ns = ns, .kv = o->kv, .breakpoint = n};
    ro.priority = draw_percent(s, o->priority_percent) ? 1 : 0;
    ro.prefill_only = ro.retain = draw_percent(s, o->retain_percent);
    if (ro.retain && sim_draw(s) < 0.25)
        ro.pin_until_us = now_us + PIN_US;
    write_tokens(s->prompt, n, ((uint64_t)document << 1) ^ (o->seed << 40));
    if (!ro.prefill_only) {
        uint32_t question = vary(o->question_len, sim_draw(s));
        write_tokens(s->prompt + n, question, ~s->result.requests);
        n += question;
        ro.max_tokens = vary(o->output_len, sim_draw(s));
    }
    draw_end(s, c, &ro);
    ro.prompt = s->prompt;
    ro.n_prompt = n;
    return submit(g, &ro, c, err);
}

static void ignore_chunk(void *ctx, const struct sc_chunk_event *event)
{
    (void)ctx;
    (void)event;
}

enum sc_status sim_press(struct group *g, struct sc_err *err)
{
    struct sim *s = g->sim;
    uint32_t n = s->opts->pages * SC_PAGE_ENTRIES;
    struct client *c = calloc(1, sizeof(*c));
    struct sc_engine_info info;
    int32_t *prompt = malloc(n * sizeof(*prompt));
    enum sc_status st = SC_ENOMEM;
    g->now_us += PIN_US; /* nothing is pinned any more */
    if (c != NULL && prompt != NULL) {
        write_tokens(prompt, n, UINT64_MAX / 2);
        c->arrival_us = g->now_us;
        c->shares_nothing = true;
        struct sc_request_opts ro = {.prompt = prompt,
                                     .n_prompt = n,
                                     .kv = SC_KV_CHOICE_EXACT,
                                     .prefill_only = true,
                                     .on_chunk = ignore_chunk};
        st = submit(g, &ro, c, err);
    }
    free(prompt);
    if (st == SC_OK)
        st = sim_group_advance(g, UINT64_MAX, err);
    if (st == SC_OK)
        st = sim_check_drained(g->sched, err);
    if (st != SC_OK)
        return st;
    sc_engine_get_info(g->engine, &info);
    if (info.n_pages_free != info.n_pages)
        return sc_fail(err, SC_EINTERNAL, "%u of %u pages are free when the cache is empty",
                       info.n_pages_free, info.n_pages);
    return SC_OK;
}
