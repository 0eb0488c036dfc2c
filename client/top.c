#include "client/top.h"

#include "client/json_out.h"
#include "client/term.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

/* What happened between two samples. */
struct rates {
    bool known;
    double seconds;
    double prompt, completion, steps; /* a second */
    uint64_t query, hit, evictions;   /* in all of it */
};

static struct rates rates_between(const struct sc_top_sample *before,
                                  const struct sc_top_sample *now)
{
    struct rates r = {0};
    if (before == NULL || now->at_s <= before->at_s)
        return r;
    const Semanticache__V1__GetLoadsResponse *a = before->loads, *b = now->loads;
    /* Counters only grow: a smaller one is another process's. */
    if (b->steps < a->steps || b->prompt_tokens < a->prompt_tokens ||
        b->completion_tokens < a->completion_tokens ||
        b->prefix_query_tokens < a->prefix_query_tokens ||
        b->prefix_hit_tokens < a->prefix_hit_tokens || b->prefix_evictions < a->prefix_evictions)
        return r;
    r.known = true;
    r.seconds = now->at_s - before->at_s;
    r.prompt = (double)(b->prompt_tokens - a->prompt_tokens) / r.seconds;
    r.completion = (double)(b->completion_tokens - a->completion_tokens) / r.seconds;
    r.steps = (double)(b->steps - a->steps) / r.seconds;
    r.query = b->prefix_query_tokens - a->prefix_query_tokens;
    r.hit = b->prefix_hit_tokens - a->prefix_hit_tokens;
    r.evictions = b->prefix_evictions - a->prefix_evictions;
    return r;
}

void sc_top_bar(uint64_t used, uint64_t cached, uint64_t free_pages,
                char buffer[SC_TOP_BAR_COLUMNS + 1])
{
    const uint64_t total = used + cached + free_pages;
    size_t n_used = total > 0 ? (size_t)(used * SC_TOP_BAR_COLUMNS / total) : 0;
    size_t n_cached = total > 0 ? (size_t)(cached * SC_TOP_BAR_COLUMNS / total) : 0;
    if (used > 0 && n_used == 0)
        n_used = 1;
    if (cached > 0 && n_cached == 0)
        n_cached = 1;
    /* With two of the three nearly nothing, the third gives way. */
    if (n_used + n_cached > SC_TOP_BAR_COLUMNS) {
        size_t *larger = n_used > n_cached ? &n_used : &n_cached;
        *larger -= n_used + n_cached - SC_TOP_BAR_COLUMNS;
    }
    memset(buffer, '.', SC_TOP_BAR_COLUMNS);
    memset(buffer, '#', n_used);
    memset(buffer + n_used, '+', n_cached);
    buffer[SC_TOP_BAR_COLUMNS] = '\0';
}

static void percent(char buffer[16], uint64_t part, uint64_t whole)
{
    if (whole == 0)
        (void)snprintf(buffer, 16, "-");
    else
        (void)snprintf(buffer, 16, "%.1f%%", 100.0 * (double)part / (double)whole);
}

static uint32_t used_pages(const Semanticache__V1__GetLoadsResponse *l)
{
    const uint64_t not_used = (uint64_t)l->pages_free + l->pages_cached;
    return not_used < l->pages_total ? (uint32_t)(l->pages_total - not_used) : 0;
}

static void print_pages(FILE *out, const struct sc_top_sample *now)
{
    const Semanticache__V1__GetLoadsResponse *l = now->loads;
    const double page = (double)now->server->page_bytes * now->server->tensor_parallel;
    char bar[SC_TOP_BAR_COLUMNS + 1], used[SC_BYTES_TEXT_BYTES], all[SC_BYTES_TEXT_BYTES];
    sc_top_bar(used_pages(l), l->pages_cached, l->pages_free, bar);
    (void)fprintf(out, "pages       [%s] %u used, %u cached, %u free; %s of %s used\n", bar,
                  used_pages(l), l->pages_cached, l->pages_free,
                  sc_bytes_text(used_pages(l) * page, used),
                  sc_bytes_text(l->pages_total * page, all));
}

void sc_top_print(FILE *out, const char *address, const struct sc_top_sample *before,
                  const struct sc_top_sample *now)
{
    const Semanticache__V1__GetServerInfoResponse *s = now->server;
    const Semanticache__V1__GetLoadsResponse *l = now->loads;
    const struct rates r = rates_between(before, now);
    char state[SC_ENUM_TEXT_BYTES], hit_now[16], hit_all[16], store[16];
    char size[SC_BYTES_TEXT_BYTES];
    (void)fprintf(out, "semanticached %s at %s: %s, up %.0f s\n", s->version, address,
                  sc_enum_text(&semanticache__v1__server_state__descriptor, (int)s->state, state),
                  (double)s->uptime_us / 1e6);
    (void)fprintf(out, "requests    %u of %u running, %u of %u waiting\n", l->running, l->max_seqs,
                  l->waiting, l->queue_max);
    (void)fprintf(out,
                  "ended       %" PRIu64 " finished, %" PRIu64 " failed, %" PRIu64
                  " cancelled; %" PRIu64 " preemptions\n",
                  l->finished, l->failed, l->cancelled, l->preempted);
    if (r.known)
        (void)fprintf(out, "per second  %.1f prompt tokens, %.1f completion tokens, %.1f steps\n",
                      r.prompt, r.completion, r.steps);
    else
        (void)fprintf(out, "per second  - prompt tokens, - completion tokens, - steps\n");
    print_pages(out, now);
    percent(hit_now, r.hit, r.query);
    percent(hit_all, l->prefix_hit_tokens, l->prefix_query_tokens);
    (void)fprintf(out,
                  "prefixes    %s hit now, %s in all; %" PRIu64 " evictions (%" PRIu64
                  " now), %u snapshots\n",
                  hit_now, hit_all, l->prefix_evictions, r.evictions, l->prefix_snapshots);
    percent(store, l->store_hits, l->store_hits + l->store_misses);
    (void)fprintf(out, "documents   %u; store %" PRIu64 " hits, %" PRIu64 " misses (%s), %s\n",
                  l->documents, l->store_hits, l->store_misses, store,
                  sc_bytes_text((double)l->store_bytes, size));
}

json_t *sc_top_json(const struct sc_top_sample *before, const struct sc_top_sample *now)
{
    const struct rates r = rates_between(before, now);
    json_t *rates =
        r.known ? json_pack("{s:f, s:f, s:f, s:I, s:I, s:I}", "prompt_tokens_per_s", r.prompt,
                            "completion_tokens_per_s", r.completion, "steps_per_s", r.steps,
                            "prefix_query_tokens", (json_int_t)r.query, "prefix_hit_tokens",
                            (json_int_t)r.hit, "prefix_evictions", (json_int_t)r.evictions)
                : json_null();
    return json_pack("{s:f, s:o, s:o, s:o}", "interval_s", r.seconds, "rates", rates, "loads",
                     sc_json_message(&now->loads->base), "server",
                     sc_json_message(&now->server->base));
}
