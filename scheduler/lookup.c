/* Why a request would have to read its prompt: what the tree has on the scheduler's thread, what
 * was dropped from the log of events on the caller's. */
#include <stdlib.h>
#include <string.h>

#include "scheduler/internal.h"

/* Other recipes, and other lengths, that are looked at; the youngest first. */
#define ROOTS_MAX 256u

/* Between two looks at the log others may read it, and the scheduler write. */
#define EVENTS_AT_ONCE 64u

static bool hash_is(const struct sc_hash *a, const struct sc_hash *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

static void look_at_others(const struct sc_sched *s, const struct sc_request *r,
                           struct sc_lookup *out)
{
    struct sc_prefix_root root;
    uint32_t left = ROOTS_MAX;
    for (uint32_t i = sc_prefix_next_root(s->prefix, SC_NODE_NONE, &root);
         i != SC_NODE_NONE && left > 0; i = sc_prefix_next_root(s->prefix, i, &root), left--) {
        bool mine = strcmp(root.ns, r->ns) == 0;
        bool shared = r->has_shared_root && strcmp(root.ns, r->shared_root.ns) == 0;
        if ((!mine && !shared) || hash_is(&root.key, &r->root.key) ||
            (r->has_shared_root && hash_is(&root.key, &r->shared_root.key)))
            continue;
        uint32_t n =
            sc_prefix_peek(s->prefix, &root, r->tokens, r->n_prompt, r->n_prompt - 1).hit.n;
        if (n <= out->other_tokens)
            continue;
        out->other_tokens = n;
        out->other_recipe_id = root.recipe_id;
    }
}

void sc_lookup_answer(const struct sc_sched *s, const struct sc_lookup_order *order)
{
    const struct sc_request *r = order->request;
    struct sc_lookup *out = order->lookup;
    uint32_t n = r->n_prompt;
    struct sc_prefix_peek own = sc_prefix_peek(s->prefix, &r->root, r->tokens, n, n - 1),
                          other = {0};
    if (r->has_shared_root)
        other = sc_prefix_peek(s->prefix, &r->shared_root, r->tokens, n, n - 1);
    out->shared = other.hit.n > own.hit.n;
    out->cached_tokens = out->shared ? other.hit.n : own.hit.n;
    out->position = own.known > other.known ? own.known : other.known;
    out->has_tokens = own.differs && own.known >= other.known;
    if (out->has_tokens) {
        out->held_token = own.held;
        out->prompt_token = r->tokens[own.known];
    }
    /* Provisional: a difference in the shared namespace has no tokens to show. */
    out->miss = out->has_tokens || (other.differs && other.known > own.known) ? SC_MISS_OTHER_TOKENS
                                                                              : SC_MISS_NEVER_READ;
    look_at_others(s, r, out);
}

/* Was one of these keys removed? */
static enum sc_status find_removed(struct sc_sched *s, const struct sc_request *r,
                                   const struct sc_hash *keys, uint32_t n_keys, bool *ret_found,
                                   struct sc_err *err)
{
    const struct sc_kv_view view = {.ns = r->ns,
                                    .shared_ns = r->has_shared_root ? r->shared_root.ns : NULL};
    struct sc_kv_event *events = malloc(EVENTS_AT_ONCE * sizeof(*events));
    uint64_t at = sc_kv_log_oldest(s->kv_log);
    uint32_t n = 1;
    if (events == NULL)
        return sc_fail(err, SC_ENOMEM, "%u events", EVENTS_AT_ONCE);
    *ret_found = false;
    while (n > 0 && !*ret_found) {
        struct sc_err overrun = SC_ERR_INIT;
        if (sc_kv_log_read(s->kv_log, &view, &at, events, EVENTS_AT_ONCE, &n, &overrun) != SC_OK)
            at = sc_kv_log_oldest(s->kv_log);
        else
            for (uint32_t i = 0; i < n; i++)
                for (uint32_t k = 0; k < n_keys && events[i].kind == SC_KV_REMOVED; k++)
                    *ret_found = *ret_found || hash_is(&keys[k], &events[i].key);
    }
    free(events);
    return SC_OK;
}

static enum sc_status was_evicted(struct sc_sched *s, const struct sc_request *r,
                                  uint32_t cached_tokens, bool *ret_evicted, struct sc_err *err)
{
    uint32_t cap = 2 * (r->n_prompt / SC_PREFIX_BLOCK + 2);
    struct sc_hash *keys = malloc(cap * sizeof(*keys));
    if (keys == NULL)
        return sc_fail(err, SC_ENOMEM, "keys of %u blocks", cap);
    uint32_t n = sc_prefix_keys(&r->root, r->tokens, r->n_prompt, cached_tokens, keys, cap / 2);
    if (r->has_shared_root)
        n += sc_prefix_keys(&r->shared_root, r->tokens, r->n_prompt, cached_tokens, keys + n,
                            cap / 2);
    enum sc_status st = find_removed(s, r, keys, n, ret_evicted, err);
    free(keys);
    return st;
}

static enum sc_miss why(const struct sc_lookup *l, bool evicted)
{
    if (l->cached_tokens + 1 >= l->n_prompt)
        return SC_MISS_NONE;
    if (l->n_prompt <= SC_PREFIX_MIN)
        return SC_MISS_SHORT;
    if (evicted)
        return SC_MISS_EVICTED;
    if (l->other_tokens > l->cached_tokens && l->other_tokens > l->position)
        return hash_is(&l->other_recipe_id, &l->recipe_id) ? SC_MISS_OTHER_LENGTH
                                                           : SC_MISS_OTHER_RECIPE;
    /* Nearly all prompts begin with the same few tokens. */
    return l->position >= SC_PREFIX_MIN ? l->miss : SC_MISS_NEVER_READ;
}

static void ignore(void *ctx, const struct sc_event *event)
{
    (void)ctx;
    (void)event;
}

static enum sc_status look_up(struct sc_sched *s, const struct sc_request *r, struct sc_lookup *out,
                              struct sc_err *err)
{
    struct sc_lookup_order look = {.request = r, .lookup = out};
    struct sc_order order = {.look = &look};
    bool evicted = false;
    out->n_prompt = r->n_prompt;
    out->recipe_id = r->recipe_id;
    out->miss = SC_MISS_SHARING_OFF;
    if (s->prefix == NULL)
        return SC_OK;
    enum sc_status st = sc_orders_give(s, &order, err);
    if (st == SC_OK)
        st = was_evicted(s, r, out->cached_tokens, &evicted, err);
    out->miss = why(out, evicted);
    if (out->miss != SC_MISS_OTHER_TOKENS)
        out->has_tokens = false;
    if (out->miss != SC_MISS_OTHER_RECIPE && out->miss != SC_MISS_OTHER_LENGTH)
        out->other_tokens = 0;
    return st;
}

enum sc_status sc_sched_lookup(struct sc_sched *sched, const struct sc_request_opts *opts,
                               struct sc_lookup *ret_lookup, struct sc_err *err)
{
    struct sc_request_opts asked = *opts;
    struct sc_lookup lookup = {0};
    struct sc_request *r;
    asked.prefill_only = true; /* it needs no sampler */
    asked.on_event = ignore;
    asked.on_chunk = NULL;
    enum sc_status st = sc_request_open(&sched->limits, &asked, &r, err);
    if (st != SC_OK)
        return st;
    st = look_up(sched, r, &lookup, err);
    sc_request_unref(r);
    if (st == SC_OK)
        *ret_lookup = lookup;
    return st;
}
