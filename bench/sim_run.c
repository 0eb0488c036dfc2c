#include "bench/sim_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bench/sim_internal.h"
#include "model/tokenizer.h"

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
    s->recipe.exact_then_compress = s->opts->exact_then_compress;
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
        st = sim_group_open(s, &s->groups[i], err);
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
        t += -log(1.0 - sim_draw(s)) / o->rate * 1e6;
        if (t >= end)
            break;
        st = sim_arrive(s, 1 + (uint64_t)t, err);
        if (st != SC_OK)
            return st;
    }
    for (uint32_t i = 0; i < o->groups && st == SC_OK; i++)
        st = sim_group_advance(&s->groups[i], (uint64_t)end, err);
    s->arrivals_over = true;
    for (uint32_t i = 0; i < o->groups && st == SC_OK; i++)
        st = sim_group_advance(&s->groups[i], UINT64_MAX, err);
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
            st = sim_press(&s->groups[i], err);
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
