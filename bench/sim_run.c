#include "bench/sim_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "bench/sim_check.h"
#include "model/tokenizer.h"

#define VOCAB           32000u
#define IDLE_TURNS_MAX  4u /* turns in a row that find nothing to do while requests are there */
#define CANCEL_US_MAX   2000000u
#define DEADLINE_US_MAX 4000000u
#define SPREAD_FROM     8u /* requests that a document's own group holds in any case */
#define PIN_US          500000u

struct client {
    struct group *group;
    struct client *next;        /* all of one simulation */
    struct client *next_cancel; /* to be cancelled */
    struct sc_request *request; /* NULL once DONE */
    uint64_t arrival_us, cancel_us, first_us;
    uint32_t ns, n_done;
    bool shares_nothing;
};

struct group {
    struct sim *sim;
    struct sc_engine *engine;
    struct sc_sched *sched;
    uint64_t now_us;
    struct client *cancels;
    uint32_t live; /* submitted, not DONE */
    uint32_t waiting_max;
    struct sim_check check;
};

struct samples {
    double *ms;
    size_t n, cap;
};

struct sim {
    const struct sim_opts *opts;
    struct sc_model model;
    struct sc_recipe recipe;
    struct group *groups;
    struct client *clients;
    double *zipf; /* [documents]: cumulative */
    int32_t *prompt;
    uint32_t prompt_max;
    uint64_t draws; /* random numbers drawn */
    struct samples ttft, queue;
    bool arrivals_over;
    uint64_t live; /* of all groups */
    struct sim_result result;
    uint64_t prompt_tokens, output_tokens;
};

/* ---- random numbers ---- */

static double draw(struct sim *s) /* [0, 1) */
{
    return (double)(sc_mix64(s->opts->seed * 0x9e3779b97f4a7c15ull + s->draws++) >> 11) * 0x1p-53;
}

static bool draw_percent(struct sim *s, uint32_t percent)
{
    return draw(s) * 100.0 < (double)percent;
}

/* Half to one and a half of the mean. */
static uint32_t vary(uint32_t mean, double x)
{
    uint32_t n = (uint32_t)((0.5 + x) * (double)mean + 0.5);
    return n > 0 ? n : 1;
}

static uint32_t draw_document(struct sim *s)
{
    double x = draw(s) * s->zipf[s->opts->documents - 1];
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

/* ---- events ---- */

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

static void on_event(void *ctx, const struct sc_event *ev)
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

static enum sc_status open_group(struct sim *s, struct group *g, struct sc_err *err)
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

/* Until the given time, or (UINT64_MAX) until all is done. */
static enum sc_status advance(struct group *g, uint64_t until_us, struct sc_err *err)
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
        if (idle_turns > IDLE_TURNS_MAX)
            return sc_fail(err, SC_EINTERNAL, "%u requests are there, and nothing is done",
                           g->live);
    }
    if (until_us != UINT64_MAX && g->now_us < until_us)
        g->now_us = until_us;
    return SC_OK;
}

/* ---- requests ---- */

static enum sc_status route(struct sim *s, uint32_t document, uint64_t now_us,
                            struct group **ret_group, struct sc_err *err)
{
    const struct sim_opts *o = s->opts;
    uint64_t h = o->router == SIM_ROUTER_RANDOM ? s->result.requests : sc_mix64(document);
    for (uint32_t i = 0; i < o->groups; i++) {
        struct group *g = &s->groups[(h + i) % o->groups];
        enum sc_status st = advance(g, now_us, err);
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
    ro->on_event = on_event;
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
        return draw_percent(s, s->opts->first_ns_percent) ? 0 : 1 + (uint32_t)(draw(s) * (n - 1));
    return (uint32_t)(draw(s) * n);
}

static void draw_end(struct sim *s, struct client *c, struct sc_request_opts *ro)
{
    if (!draw_percent(s, s->opts->cancel_percent))
        return;
    if (draw(s) < 0.5)
        c->cancel_us = c->arrival_us + 1 + (uint64_t)(pow(draw(s), 4.0) * CANCEL_US_MAX);
    else
        ro->deadline_us = c->arrival_us + 1 + (uint64_t)(pow(draw(s), 4.0) * DEADLINE_US_MAX);
}

static enum sc_status arrive(struct sim *s, uint64_t now_us, struct sc_err *err)
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
    if (ro.retain && draw(s) < 0.25)
        ro.pin_until_us = now_us + PIN_US;
    write_tokens(s->prompt, n, ((uint64_t)document << 1) ^ (o->seed << 40));
    if (!ro.prefill_only) {
        uint32_t question = vary(o->question_len, draw(s));
        write_tokens(s->prompt + n, question, ~s->result.requests);
        n += question;
        ro.max_tokens = vary(o->output_len, draw(s));
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

/* A request that needs every page, and whose own entries are not kept, drives all out of the cache:
 * what is then not free was lost. */
static enum sc_status press(struct group *g, struct sc_err *err)
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
        st = advance(g, UINT64_MAX, err);
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

/* ---- the whole ---- */

/* The printable character that byte-level BPE writes for a byte. */
static uint32_t byte_symbol(uint32_t byte)
{
    uint32_t n = 0;
    for (uint32_t b = 0; b <= byte; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte)
            return printable ? b : 256 + n;
        n += !printable;
    }
    return 0;
}

/* Token b is byte b; nothing else is ever generated. */
static enum sc_status open_model(struct sim *s, struct sc_err *err)
{
    static const char head[] = "{\"added_tokens\":[],\"normalizer\":null,\"post_processor\":null,"
                               "\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                               "\"add_prefix_space\":false,\"use_regex\":true},"
                               "\"decoder\":{\"type\":\"ByteLevel\"},"
                               "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{";
    char json[8192];
    int n = snprintf(json, sizeof(json), "%s", head);
    for (uint32_t b = 0; b < 256; b++)
        n += snprintf(json + n, sizeof(json) - (size_t)n, "%s\"\\u%04x\":%u", b > 0 ? "," : "",
                      byte_symbol(b), b);
    n += snprintf(json + n, sizeof(json) - (size_t)n, "}}}");
    s->model.config = (struct sc_model_config){.n_layers = 1,
                                               .vocab = VOCAB,
                                               .max_positions = s->opts->pages * SC_PAGE_ENTRIES,
                                               .bos_id = -1};
    sc_recipe_default(&s->model.config, SC_KV_COMPRESSED, &s->recipe);
    return sc_tokenizer_open_memory(json, (size_t)n, NULL, 0, &s->model.tok, err);
}

static enum sc_status open_sim(struct sim *s, struct sc_err *err)
{
    const struct sim_opts *o = s->opts;
    double sum = 0.0;
    s->prompt_max = 2 * (o->doc_len + o->question_len) + 4;
    s->groups = calloc(o->groups, sizeof(*s->groups));
    s->zipf = malloc(o->documents * sizeof(*s->zipf));
    s->prompt = malloc(s->prompt_max * sizeof(*s->prompt));
    if (s->groups == NULL || s->zipf == NULL || s->prompt == NULL)
        return sc_fail(err, SC_ENOMEM, "%u documents", o->documents);
    for (uint32_t i = 0; i < o->documents; i++) {
        sum += pow((double)i + 1.0, -o->zipf);
        s->zipf[i] = sum;
    }
    enum sc_status st = open_model(s, err);
    for (uint32_t i = 0; i < o->groups && st == SC_OK; i++)
        st = open_group(s, &s->groups[i], err);
    return st;
}

static void close_sim(struct sim *s)
{
    for (uint32_t i = 0; s->groups != NULL && i < s->opts->groups; i++) {
        sc_sched_close(s->groups[i].sched);
        sim_engine_close(s->groups[i].engine);
    }
    while (s->clients != NULL) {
        struct client *c = s->clients;
        s->clients = c->next;
        sc_request_unref(c->request);
        free(c);
    }
    sc_tokenizer_close(s->model.tok);
    free(s->groups);
    free(s->zipf);
    free(s->prompt);
    free(s->ttft.ms);
    free(s->queue.ms);
}

static enum sc_status check_fair(const struct sim *s, struct sc_err *err)
{
    const uint64_t *t = s->result.ns_tokens;
    uint64_t high = t[0] > t[1] ? t[0] : t[1], low = t[0] > t[1] ? t[1] : t[0];
    if (!s->opts->expect_fair || low * 5 >= high * 4)
        return SC_OK;
    return sc_fail(err, SC_EINTERNAL, "namespaces were served %llu and %llu tokens",
                   (unsigned long long)t[0], (unsigned long long)t[1]);
}

static enum sc_status simulate(struct sim *s, struct sc_err *err)
{
    const struct sim_opts *o = s->opts;
    double t = 0.0, end = o->seconds * 1e6;
    enum sc_status st = SC_OK;
    for (;;) {
        t += -log(1.0 - draw(s)) / o->rate * 1e6;
        if (t >= end)
            break;
        st = arrive(s, 1 + (uint64_t)t, err);
        if (st != SC_OK)
            return st;
    }
    for (uint32_t i = 0; i < o->groups && st == SC_OK; i++)
        st = advance(&s->groups[i], (uint64_t)end, err);
    s->arrivals_over = true;
    for (uint32_t i = 0; i < o->groups && st == SC_OK; i++)
        st = advance(&s->groups[i], UINT64_MAX, err);
    return st == SC_OK ? check_fair(s, err) : st;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct sim_quantiles quantiles(struct samples *s)
{
    if (s->n == 0)
        return (struct sim_quantiles){0};
    qsort(s->ms, s->n, sizeof(*s->ms), by_value);
    return (struct sim_quantiles){.p50 = s->ms[(s->n - 1) / 2],
                                  .p90 = s->ms[(s->n - 1) * 9 / 10],
                                  .p99 = s->ms[(s->n - 1) * 99 / 100]};
}

static void sum_up(struct sim *s)
{
    struct sim_result *r = &s->result;
    uint64_t queried = 0, hit = 0;
    for (uint32_t i = 0; i < s->opts->groups; i++) {
        const struct group *g = &s->groups[i];
        struct sc_sched_stats st;
        sc_sched_get_stats(g->sched, &st);
        double peak = 100.0 * sim_engine_counts(g->engine).peak_pages / s->opts->pages;
        double now = (double)g->now_us * 1e-6;
        r->simulated_s = now > r->simulated_s ? now : r->simulated_s;
        r->pages_peak_percent = peak > r->pages_peak_percent ? peak : r->pages_peak_percent;
        r->waiting_max = g->waiting_max > r->waiting_max ? g->waiting_max : r->waiting_max;
        r->evictions += st.prefix_evictions;
        r->preemptions += st.preempted;
        r->steps += st.steps;
        queried += st.prefix_query_tokens;
        hit += st.prefix_hit_tokens;
    }
    r->requests_per_s = (double)r->served / r->simulated_s;
    r->prompt_per_s = (double)s->prompt_tokens / r->simulated_s;
    r->output_per_s = (double)s->output_tokens / r->simulated_s;
    r->hit_percent = queried > 0 ? 100.0 * (double)hit / (double)queried : 0.0;
    r->ttft_ms = quantiles(&s->ttft);
    r->queue_ms = quantiles(&s->queue);
}

/* Every one submitted had one DONE; with an empty cache all pages are free. */
static enum sc_status check_end(struct sim *s, struct sc_err *err)
{
    enum sc_status st = SC_OK;
    for (uint32_t i = 0; i < s->opts->groups && st == SC_OK; i++) {
        st = sim_check_drained(s->groups[i].sched, err);
        if (st == SC_OK)
            st = press(&s->groups[i], err);
    }
    for (const struct client *c = s->clients; c != NULL && st == SC_OK; c = c->next)
        if (c->n_done != 1)
            st = sc_fail(err, SC_EINTERNAL, "a request had %u DONEs", c->n_done);
    if (st == SC_OK && s->result.failed > 0 && s->opts->retain_percent == 0) /* nothing is pinned */
        st = sc_fail(err, SC_EINTERNAL, "%llu requests failed, the first: %s",
                     (unsigned long long)s->result.failed, s->result.failure);
    return st;
}

static double wall_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

enum sc_status sim_run(const struct sim_opts *opts, struct sim_result *ret_result,
                       struct sc_err *err)
{
    double start = wall_s();
    struct sim s = {.opts = opts};
    enum sc_status st = open_sim(&s, err);
    if (st == SC_OK)
        st = simulate(&s, err);
    if (st == SC_OK)
        sum_up(&s);
    struct sim_result result = s.result;
    if (st == SC_OK && opts->check)
        st = check_end(&s, err);
    close_sim(&s);
    if (st != SC_OK)
        return st;
    result.wall_s = wall_s() - start;
    *ret_result = result;
    return SC_OK;
}
