/* Requests that share prefixes: where one begins, whom it waits for, what is kept, what is dropped.
 * Decisions only; the plan carries them out on every rank. */
#include <string.h>

#include "scheduler/internal.h"

/* Waiting for an elder that reads the same is worth it from here on. */
#define LEADER_TOKENS_MIN 64u

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static void drop_hit(struct sc_sched *s, struct sc_request *r)
{
    if (r->hit.node != SC_NODE_NONE)
        sc_prefix_unlock(s->prefix, r->hit.node);
    r->hit = (struct sc_prefix_hit){.node = SC_NODE_NONE};
}

static void drop_path(struct sc_sched *s, struct sc_request *r)
{
    if (r->path != SC_NODE_NONE)
        sc_prefix_unhold(s->prefix, r->path);
    r->path = SC_NODE_NONE;
}

void sc_share_detach(struct sc_sched *s, struct sc_request *r)
{
    if (s->prefix == NULL)
        return;
    drop_hit(s, r);
    drop_path(s, r);
    r->leader = 0;
    r->loading = false;
}

void sc_share_opened(struct sc_sched *s, struct sc_request *r)
{
    if (s->prefix != NULL)
        drop_hit(s, r);
}

/* ---- where a request begins ---- */

static void longer(struct sc_prefix_hit *best, struct sc_prefix_hit other)
{
    if (other.node != SC_NODE_NONE && other.n > best->n)
        *best = other;
}

static uint32_t common_tokens(const int32_t *a, const int32_t *b, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

/* Of several requests with one prefix that arrive together the eldest reads it, the others wait for
 * the snapshot that covers what they have in common. */
static void find_leader(const struct sc_sched *s, struct sc_request *r)
{
    uint32_t best = r->n_fed + LEADER_TOKENS_MIN - 1;
    for (uint32_t i = 0; i < s->n_running; i++) {
        const struct sc_request *c = s->running[i];
        if (c == r || c->ticket >= r->ticket || c->state != SC_REQUEST_RUNNING || !c->share ||
            c->n_fed >= c->n_prompt || c->path == SC_NODE_NONE ||
            memcmp(&c->root.key, &r->root.key, sizeof(r->root.key)) != 0)
            continue;
        uint32_t n = common_tokens(r->tokens, c->tokens, min_u32(r->n_prompt - 1, c->n_prompt));
        if (n <= best)
            continue;
        uint32_t end = min_u32(sc_prefix_boundary(&r->root, n - 1), c->n_prompt);
        if (end < n || c->n_fed >= end)
            continue;
        best = n;
        r->leader = c->ticket;
        r->leader_until = end;
    }
}

static void find_hit(struct sc_sched *s, struct sc_request *r, uint64_t now)
{
    struct sc_prefix_hit best = {.node = SC_NODE_NONE};
    /* The last token is read in any case: for its logits, and so that a run ends the prompt. */
    uint32_t prompt_max = r->n_prompt - 1;
    longer(&best, sc_prefix_find(s->prefix, &r->root, r->tokens, r->n_prompt, prompt_max, now));
    if (r->has_shared_root)
        longer(&best,
               sc_prefix_find(s->prefix, &r->shared_root, r->tokens, r->n_prompt, prompt_max, now));
    if (r->n_tokens > r->n_prompt)
        longer(&best, sc_prefix_find(s->prefix, &r->generated_root, r->tokens, r->n_tokens,
                                     r->n_tokens - 1, now));
    if (best.node == SC_NODE_NONE)
        return;
    sc_prefix_lock(s->prefix, best.node);
    r->hit = best;
    r->n_fed = best.n;
}

void sc_share_attach(struct sc_sched *s, struct sc_request *r)
{
    uint64_t now = sc_request_clock(&s->limits);
    if (s->prefix == NULL || !r->share || r->opened)
        return;
    sc_share_detach(s, r);
    r->n_fed = 0;
    find_hit(s, r, now);
    if (s->tier != NULL && r->breakpoint > r->n_fed + SC_PREFIX_MIN && !r->load_tried) {
        r->load_tried = true;
        const struct sc_prefix_root *roots[] = {&r->root,
                                                r->has_shared_root ? &r->shared_root : NULL};
        for (size_t i = 0; i < SC_ARRAY_LEN(roots) && roots[i] != NULL && !r->loading; i++) {
            r->load_key = sc_prefix_key(roots[i], r->tokens, r->breakpoint);
            r->loading = sc_tier_load(s, r, roots[i], &r->load_key, r->breakpoint);
        }
    }
    if (!r->loading)
        find_leader(s, r);
    if (r->n_fed >= r->n_prompt)
        return;
    uint32_t block = sc_prefix_boundary_before(&r->root, r->n_fed);
    r->path = sc_prefix_hold(s->prefix, &r->root, r->tokens, block, now);
}

static const struct sc_request *find_ticket(const struct sc_sched *s, uint64_t ticket)
{
    for (uint32_t i = 0; i < s->n_running; i++)
        if (s->running[i]->ticket == ticket && s->running[i]->state == SC_REQUEST_RUNNING)
            return s->running[i];
    return NULL;
}

bool sc_share_may_run(struct sc_sched *s, struct sc_request *r)
{
    if (r->opened || s->prefix == NULL || !r->share)
        return true;
    if (r->loading) {
        if (sc_tier_is_loading(s, &r->load_key))
            return false;
        sc_share_attach(s, r);
    } else if (r->leader != 0) {
        const struct sc_request *c = find_ticket(s, r->leader);
        if (c != NULL && c->n_fed < r->leader_until)
            return false;
        sc_share_attach(s, r);
    }
    if (!r->looked_up && !r->loading && r->leader == 0) {
        r->looked_up = true;
        r->receipt.cached_tokens = min_u32(r->n_fed, r->n_prompt);
        pthread_mutex_lock(&s->mu);
        s->stats.prefix_query_tokens += r->n_prompt;
        s->stats.prefix_hit_tokens += r->receipt.cached_tokens;
        pthread_mutex_unlock(&s->mu);
    }
    return !r->loading && r->leader == 0;
}

uint32_t sc_share_pages_in_use(const struct sc_sched *s, const struct sc_request *r)
{
    struct sc_snap_info info;
    if (s->prefix == NULL || r->hit.node == SC_NODE_NONE)
        return 0;
    sc_engine_snap_info(s->engine, r->hit.snap, &info);
    return info.n_in_use;
}

/* ---- what is kept ---- */

/* Pages of a node and of all that are pinned, shared ones once. */
static uint64_t pages_pinned_with(struct sc_sched *s, uint32_t node)
{
    uint64_t n = sc_plan_pages_pinned(s);
    n += sc_engine_count_pages(s->engine, sc_prefix_node(s->prefix, node).snap);
    s->pins_counted = UINT64_MAX; /* now more is counted than the pins */
    return n;
}

/* Of pins that share pages the limit is of what they hold together; that is only counted where
 * their sum is over it. */
enum sc_status sc_share_pin(struct sc_sched *s, uint32_t node, uint64_t until_us)
{
    struct sc_prefix_node_info info = sc_prefix_node(s->prefix, node);
    uint64_t most = (uint64_t)s->n_pages * SC_PINNED_PERCENT_MAX / 100;
    uint64_t now = sc_prefix_pinned_pages(s->prefix) - (info.pin_until_us != 0 ? info.n_pages : 0);
    if (now + info.n_pages > most && pages_pinned_with(s, node) > most)
        return SC_EFULL;
    sc_prefix_retain(s->prefix, node, true, until_us);
    return SC_OK;
}

/* A reader that pins for less, or not at all, takes nothing from one that did. Over the limit it is
 * a document like any other. */
static void retain_document(struct sc_sched *s, uint32_t node, uint64_t pin_until_us)
{
    uint64_t pinned_until_us = sc_prefix_node(s->prefix, node).pin_until_us;
    if (pin_until_us < pinned_until_us)
        pin_until_us = pinned_until_us;
    if (pin_until_us == 0 || sc_share_pin(s, node, pin_until_us) != SC_OK)
        sc_prefix_retain(s->prefix, node, true, pinned_until_us);
}

/* Only the whole of a document is one. */
static bool at_document_end(const struct sc_request *r)
{
    return (r->retain && r->n_fed == r->n_prompt) ||
           (r->document_end > 0 && r->n_fed == r->document_end);
}

static void schedule_keep(struct sc_sched *s, struct sc_request *r, uint32_t node)
{
    struct sc_prefix_node_info info = sc_prefix_node(s->prefix, node);
    bool retain = at_document_end(r);
    struct sc_pending_keep pending = {
        .node = node, .retain = retain, .pin_until_us = retain ? r->pin_until_us : 0};
    uint64_t words = sc_engine_snap_words_needed(s->engine, r->slot);
    uint32_t snap;
    if (info.snap != UINT32_MAX) { /* somebody was faster */
        if (retain && info.live) {
            retain_document(s, node, r->pin_until_us);
            if (s->tier != NULL)
                sc_tier_save(s, node);
        }
        for (uint32_t i = 0; i < s->n_keeps && retain; i++)
            if (s->pending_keeps[i].node == node)
                s->pending_keeps[i] = pending;
        return;
    }
    if (s->n_keeps == 2 * s->max_seqs ||
        words + s->keep_words > sc_engine_snap_words_free(s->engine) ||
        !sc_prefix_snap_take(s->prefix, node, &snap))
        return; /* not shared; the next one will be: sc_share_tend makes room */
    sc_prefix_lock(s->prefix, node);
    s->keeps[s->n_keeps] = (struct sc_plan_keep){.slot = r->slot, .snap = snap};
    s->pending_keeps[s->n_keeps++] = pending;
    s->keep_words += words;
}

void sc_share_after_run(struct sc_sched *s, struct sc_request *r)
{
    if (s->prefix == NULL || r->path == SC_NODE_NONE || r->n_fed > r->n_prompt)
        return;
    uint32_t start = sc_prefix_node(s->prefix, r->path).end;
    bool whole = r->n_fed == sc_prefix_boundary(&r->root, start);
    if (!whole && r->n_fed < r->n_prompt && !at_document_end(r))
        return;
    uint32_t node = sc_prefix_hold_child(s->prefix, &r->root, r->path, r->tokens, r->n_fed,
                                         sc_request_clock(&s->limits));
    if (node == SC_NODE_NONE) { /* no nodes left: this request shares nothing from here on */
        drop_path(s, r);
        return;
    }
    if (r->n_fed >= SC_PREFIX_MIN)
        schedule_keep(s, r, node);
    if (r->n_fed < r->n_prompt && whole) {
        drop_path(s, r);
        r->path = node;
        return;
    }
    sc_prefix_unhold(s->prefix, node);
    if (r->n_fed == r->n_prompt) /* else a document's end inside a block, which goes on */
        drop_path(s, r);
}

/* Preempted requests come back to what they had; an EXACT answer may begin the next prompt. */
void sc_share_before_close(struct sc_sched *s, struct sc_request *r, bool comes_back)
{
    if (s->prefix == NULL || !r->share || !r->opened || r->n_fed < SC_PREFIX_MIN)
        return;
    if (!comes_back && (r->recipe.mode != SC_KV_EXACT || r->n_fed <= r->n_prompt))
        return;
    const struct sc_prefix_root *root = &r->root;
    if (r->n_fed > r->n_prompt && r->recipe.mode != SC_KV_EXACT)
        root = &r->generated_root;
    uint32_t node =
        sc_prefix_hold(s->prefix, root, r->tokens, r->n_fed, sc_request_clock(&s->limits));
    if (node == SC_NODE_NONE)
        return;
    schedule_keep(s, r, node);
    sc_prefix_unhold(s->prefix, node);
}

void sc_share_commit(struct sc_sched *s)
{
    uint64_t now = sc_request_clock(&s->limits);
    for (uint32_t i = 0; i < s->n_keeps; i++) {
        const struct sc_pending_keep *k = &s->pending_keeps[i];
        struct sc_snap_info info;
        sc_engine_snap_info(s->engine, s->keeps[i].snap, &info);
        sc_prefix_snap_live(s->prefix, k->node, info.min_logical, info.n_pages, now);
        if (k->retain) {
            retain_document(s, k->node, k->pin_until_us);
            if (s->tier != NULL)
                sc_tier_save(s, k->node);
        }
        sc_prefix_unlock(s->prefix, k->node);
    }
    for (uint32_t i = 0; i < s->n_drops; i++)
        sc_prefix_snap_give(s->prefix, s->drops[i]);
    s->n_keeps = s->n_drops = 0;
    s->keep_words = 0;
}

/* ---- what is dropped ---- */

bool sc_share_drop(struct sc_sched *s, uint32_t node)
{
    if (node == SC_NODE_NONE || s->n_drops == SC_PLAN_DROPS_MAX)
        return false;
    s->drops[s->n_drops++] = sc_prefix_snap_remove(s->prefix, node);
    pthread_mutex_lock(&s->mu);
    s->stats.prefix_evictions++;
    pthread_mutex_unlock(&s->mu);
    return true;
}

bool sc_share_evict(struct sc_sched *s, uint64_t *freed)
{
    struct sc_snap_info info;
    uint32_t node = s->prefix != NULL ? sc_prefix_victim(s->prefix) : SC_NODE_NONE;
    if (node == SC_NODE_NONE || s->n_drops == SC_PLAN_DROPS_MAX)
        return false;
    if (freed != NULL) {
        sc_engine_snap_info(s->engine, sc_prefix_node(s->prefix, node).snap, &info);
        *freed += info.n_private;
    }
    return sc_share_drop(s, node);
}

void sc_share_tend(struct sc_sched *s)
{
    if (s->prefix == NULL)
        return;
    uint64_t now = sc_request_clock(&s->limits);
    sc_prefix_unpin_due(s->prefix, now);
    while (sc_prefix_snaps_free(s->prefix) + s->n_drops < SC_SNAPS_SPARE)
        if (!sc_share_evict(s, NULL))
            break;
    uint64_t spare = s->snap_words / SC_SNAP_WORDS_SPARE;
    for (uint32_t i = 0; i < 4 && sc_engine_snap_words_free(s->engine) < spare + s->keep_words; i++)
        if (!sc_share_evict(s, NULL))
            break;
    while (s->prefix_ttl_us > 0 && now > s->prefix_ttl_us)
        if (!sc_share_drop(s, sc_prefix_idle(s->prefix, now - s->prefix_ttl_us)))
            break;
}

void sc_share_lost(struct sc_sched *s)
{
    if (s->prefix == NULL)
        return;
    for (uint32_t i = 0; i < s->n_keeps; i++)
        sc_prefix_unlock(s->prefix, s->pending_keeps[i].node);
    for (uint32_t i = 0; i < s->n_drops; i++)
        sc_prefix_snap_give(s->prefix, s->drops[i]);
    s->n_keeps = s->n_drops = 0;
    s->keep_words = 0;
    for (uint32_t i = 0; i < s->n_running; i++)
        sc_share_detach(s, s->running[i]);
    if (s->tier != NULL)
        sc_tier_lost(s);
    sc_prefix_reset(s->prefix);
}
