#include "scheduler/internal.h"

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

void sc_list_push(struct sc_request_list *list, struct sc_request *r)
{
    r->next = NULL;
    if (list->tail != NULL)
        list->tail->next = r;
    else
        list->head = r;
    list->tail = r;
    list->n++;
}

struct sc_request *sc_list_pop(struct sc_request_list *list)
{
    struct sc_request *r = list->head;
    if (r == NULL)
        return NULL;
    list->head = r->next;
    if (list->head == NULL)
        list->tail = NULL;
    list->n--;
    r->next = NULL;
    return r;
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* Cores per token of prompt and output together: what is generated is compressed less, or not at
 * all. */
static float mean_ratio(const struct sc_request *r)
{
    float generated = r->recipe.compress_generated ? r->recipe.generated_ratio : 1.0f;
    float share = (float)(r->reserve_tokens - r->n_prompt) / (float)r->reserve_tokens;
    return r->recipe.target_ratio + share * (generated - r->recipe.target_ratio);
}

/* What is compressed at the prompt's end is there twice for a moment, and little of it from then
 * on. Returns what the pool must have. An output may end long before its limit: a limit with which
 * the request would be let in as EXACT is let in here, too. */
static uint32_t estimate_pages(const struct sc_sched *s, struct sc_request *r)
{
    struct sc_recipe prompt = r->recipe, exact = r->recipe, all;
    exact.mode = SC_KV_EXACT;
    if (prompt.exact_then_compress && r->max_tokens <= 1)
        prompt.mode = SC_KV_EXACT; /* it ends before that */
    all = prompt;
    all.exact_then_compress = false;
    all.target_ratio = mean_ratio(r);
    r->decode_pages = sc_engine_pages_estimate(s->engine, &all, r->reserve_tokens);
    uint32_t prompt_pages = sc_engine_pages_estimate(s->engine, &prompt, r->n_prompt);
    r->reserve_pages = max_u32(prompt_pages, r->decode_pages);
    uint32_t exact_pages = sc_engine_pages_estimate(s->engine, &exact, r->reserve_tokens);
    return max_u32(prompt_pages, min_u32(r->decode_pages, exact_pages));
}

static uint32_t pages_reserved(const struct sc_request *r)
{
    return r->n_fed > r->n_prompt ? r->decode_pages : r->reserve_pages;
}

void sc_plan_arrive(struct sc_sched *s, struct sc_request *r)
{
    if (estimate_pages(s, r) > s->n_pages) {
        struct sc_err err = SC_ERR_INIT;
        enum sc_status st =
            sc_fail(&err, SC_EFULL, "%u tokens need about %u pages of KV cache, the pool has %u",
                    r->reserve_tokens, r->reserve_pages, s->n_pages);
        sc_events_end(s, r, SC_FINISH_ERROR, st, err.text);
        sc_request_unref(r);
        return;
    }
    sc_queue_push(s->queue, r);
    s->blocked = false;
    if (s->ns_served[r->ns_bucket] < s->ns_floor)
        s->ns_served[r->ns_bucket] = s->ns_floor;
    if (r->deadline_us != 0 && r->deadline_us < s->queue_deadline_us)
        s->queue_deadline_us = r->deadline_us;
}

static uint32_t pages_held(const struct sc_sched *s, const struct sc_request *r)
{
    struct sc_seq_stats stats;
    if (!r->opened)
        return 0;
    sc_engine_seq_stats(s->engine, r->slot, &stats);
    return stats.pages;
}

static uint64_t pages_available(const struct sc_sched *s)
{
    struct sc_engine_info info;
    sc_engine_get_info(s->engine, &info);
    return (uint64_t)info.n_pages_free + s->closing_pages;
}

uint64_t sc_plan_pages_pinned(struct sc_sched *s)
{
    if (s->prefix == NULL || s->pins_counted == sc_prefix_pins_version(s->prefix))
        return s->pages_pinned;
    s->pins_counted = sc_prefix_pins_version(s->prefix);
    s->pages_pinned = 0;
    sc_engine_count_anew(s->engine);
    for (uint32_t node = sc_prefix_next_pinned(s->prefix, SC_NODE_NONE); node != SC_NODE_NONE;
         node = sc_prefix_next_pinned(s->prefix, node))
        s->pages_pinned += sc_engine_count_pages(s->engine, sc_prefix_node(s->prefix, node).snap);
    return s->pages_pinned;
}

uint32_t sc_plan_pages_cached(struct sc_sched *s, struct sc_engine_info *ret_info)
{
    (void)sc_plan_pages_pinned(s);
    sc_engine_get_info(s->engine, ret_info);
    return ret_info->n_pages_cached - ret_info->n_counted_cached;
}

/* What admission may count on is also what the cache holds and nobody pinned. */
void sc_plan_admit(struct sc_sched *s)
{
    if (sc_queue_n(s->queue) == 0 || s->n_free_slots == 0)
        return;
    struct sc_engine_info info;
    uint64_t free = sc_plan_pages_cached(s, &info), promised = 0;
    free += (uint64_t)info.n_pages_free + s->closing_pages;
    for (uint32_t i = 0; i < s->n_running; i++) {
        uint32_t held = pages_held(s, s->running[i]), reserve = pages_reserved(s->running[i]);
        promised += reserve > held ? reserve - held : 0;
    }
    /* Rises whenever what those who wait may have does. */
    int64_t room = (int64_t)free - (int64_t)promised;
    if (s->blocked && s->n_running == s->blocked_running && room <= s->blocked_room)
        return;
    s->blocked = false;
    while (sc_queue_n(s->queue) > 0 && s->n_free_slots > 0) {
        struct sc_request *r = sc_queue_next(s->queue, s->ns_served);
        r->ticket = s->next_ticket + 1;
        sc_share_attach(s, r);
        uint32_t shared = sc_share_pages_in_use(s, r);
        uint32_t reserve = pages_reserved(r), need = reserve > shared ? reserve - shared : 0;
        /* A lone one is always tried: only the engine knows that it does not fit. */
        if (s->n_running > 0 && promised + need > free) {
            sc_share_detach(s, r);
            r->n_fed = 0;
            s->blocked = true;
            s->blocked_running = s->n_running;
            s->blocked_room = room;
            break;
        }
        promised += need;
        s->ns_floor = s->ns_served[r->ns_bucket];
        sc_queue_take(s->queue, r);
        r->state = SC_REQUEST_RUNNING;
        r->slot = s->free_slots[--s->n_free_slots];
        s->next_ticket++;
        r->n_starved = 0;
        r->preempted = false;
        s->running[s->n_running++] = r;
    }
}

void sc_plan_release(struct sc_sched *s, struct sc_request *r)
{
    sc_share_detach(s, r);
    if (r->slot == SC_SLOT_NONE)
        return;
    if (r->opened) {
        if (s->n_keeps == 0) /* what is kept stays */
            s->closing_pages += sc_engine_seq_private_pages(s->engine, r->slot);
        s->closes[s->n_closes++] = r->slot;
    }
    s->free_slots[s->n_free_slots++] = r->slot;
    r->opened = false;
    r->slot = SC_SLOT_NONE;
}

/* The sequence is dropped and later prefilled again from its prompt and what it generated. Sampler
 * and text state stay, and so does prompt_len: the cache will be the same. */
static struct sc_request *unseat_youngest(struct sc_sched *s)
{
    struct sc_request *r = s->running[--s->n_running];
    if (r->opened) {
        struct sc_seq_stats stats;
        sc_engine_seq_stats(s->engine, r->slot, &stats);
        r->compress_us += stats.compress_us;
        /* Its reserve was too low, or that of its elders: do not come back for less than this. */
        uint32_t proven = min_u32(stats.pages + 1, s->n_pages);
        r->reserve_pages = max_u32(proven, r->reserve_pages);
        /* What a prompt holds that is to be compressed tells nothing of what is left of it. */
        if (!r->recipe.exact_then_compress || r->n_fed > r->n_prompt)
            r->decode_pages = max_u32(proven, r->decode_pages);
    }
    sc_share_before_close(s, r, true);
    sc_plan_release(s, r);
    r->state = SC_REQUEST_WAITING;
    r->n_fed = 0;
    r->preempted = true;
    r->receipt.preemptions++;
    if (r->deadline_us != 0 && r->deadline_us < s->queue_deadline_us)
        s->queue_deadline_us = r->deadline_us;
    pthread_mutex_lock(&s->mu);
    s->stats.preempted++;
    pthread_mutex_unlock(&s->mu);
    return r;
}

static void preempt_youngest(struct sc_sched *s)
{
    sc_queue_push(s->queue, unseat_youngest(s));
}

/* Pins hold what it needs, and one of them will end: it waits for that, its deadline or its
 * caller's patience, and lets others by. */
static bool park(struct sc_sched *s)
{
    uint64_t end = s->prefix != NULL ? sc_prefix_pin_ends(s->prefix) : UINT64_MAX;
    if (end == UINT64_MAX)
        return false;
    if (s->parked.n == 0 || end < s->parked_until_us)
        s->parked_until_us = end;
    sc_list_push(&s->parked, unseat_youngest(s));
    return true;
}

void sc_plan_unpark(struct sc_sched *s)
{
    /* Unpinned, deleted, pinned for longer: the first end is not what it was. */
    if (s->parked.n == 0 || (sc_request_clock(&s->limits) < s->parked_until_us &&
                             sc_prefix_pin_ends(s->prefix) == s->parked_until_us))
        return;
    struct sc_request *youngest = NULL, *r;
    while ((r = sc_list_pop(&s->parked)) != NULL) {
        r->next = youngest;
        youngest = r;
    }
    while ((r = youngest) != NULL) { /* the eldest comes last, and so to the front */
        youngest = r->next;
        sc_queue_push(s->queue, r);
    }
    s->blocked = false;
}

void sc_plan_make_room(struct sc_sched *s, const struct sc_err *err)
{
    if (s->n_running > 1) {
        preempt_youngest(s);
        return;
    }
    SC_ASSERT(s->n_running == 1);
    struct sc_request *r = s->running[0];
    if (!r->opened && r->hit.node != SC_NODE_NONE) {
        /* What it would begin with is more than its own prefix, and locked: without, that can go.
         */
        sc_share_detach(s, r);
        r->n_fed = 0;
        return;
    }
    if (park(s))
        return;
    struct sc_engine_info info;
    struct sc_err why = SC_ERR_INIT;
    sc_engine_get_info(s->engine, &info);
    enum sc_status st =
        sc_fail(&why, SC_EFULL,
                "the KV cache is too small: %u tokens cached hold %u of %u pages, %u free, %u "
                "pinned by documents (%s)",
                r->n_fed, pages_held(s, r), info.n_pages, info.n_pages_free,
                (unsigned)sc_plan_pages_pinned(s), err->text);
    sc_events_end(s, r, SC_FINISH_ERROR, st, why.text);
    sc_events_sweep(s);
}

/* Where the next run of the request has to end: at the prompt's end, because what follows was
 * generated one token at a time, and at the recipe's cuts. */
static uint32_t block_tokens(const struct sc_request *r, uint32_t budget)
{
    uint32_t end = r->n_fed < r->n_prompt ? r->n_prompt : r->n_tokens;
    uint32_t cut = sc_recipe_next_cut(&r->recipe, r->n_prompt, r->n_fed);
    if (r->path != SC_NODE_NONE) /* where its state is kept */
        cut = min_u32(cut, sc_prefix_boundary(&r->root, r->n_fed));
    if (r->path != SC_NODE_NONE && r->n_fed < r->document_end)
        cut = min_u32(cut, r->document_end);
    return min_u32(budget, min_u32(end, cut) - r->n_fed);
}

static void add_run(struct sc_sched *s, struct sc_request *r, uint32_t n_tokens)
{
    bool last = r->n_fed + n_tokens == r->n_tokens && !r->prefill_only;
    s->run_requests[s->n_runs] = r;
    s->runs[s->n_runs++] = (struct sc_plan_run){
        .slot = r->slot,
        .pos0 = r->n_fed,
        .n_tokens = n_tokens,
        .tokens = r->tokens + r->n_fed,
        .want = last ? SC_LOGITS_LAST : SC_LOGITS_NONE,
        .sampler = last ? r->sampler : NULL,
    };
}

/* Decode first: one row each, and somebody is reading. The rest of the rows goes to prefill in
 * turns, a block each, starting after the one that was served last: a short prompt waits for one
 * block of every other, not for a long document's end. */
static bool may_run(struct sc_sched *s, struct sc_request *r)
{
    bool may = sc_share_may_run(s, r);
    if (may)
        s->all_wait = false;
    return may;
}

static void choose_runs(struct sc_sched *s)
{
    uint32_t n = s->n_running, rows = s->max_step_tokens, start = 0;
    s->n_runs = 0;
    s->all_wait = true;
    for (uint32_t i = 0; i < n && rows > 0; i++)
        if (sc_request_decodes(s->running[i]) && may_run(s, s->running[i])) {
            add_run(s, s->running[i], 1);
            rows--;
        }
    while (start < n && s->running[start]->ticket <= s->prefill_turn)
        start++;
    uint32_t budget = min_u32(rows, s->prefill_tokens);
    for (uint32_t i = 0; i < n && budget > 0; i++) {
        struct sc_request *r = s->running[(start + i) % n];
        if (!may_run(s, r) || sc_request_decodes(r))
            continue;
        uint32_t tokens = block_tokens(r, budget);
        add_run(s, r, tokens);
        budget -= tokens;
    }
}

static struct sc_plan_open make_open(const struct sc_request *r)
{
    return (struct sc_plan_open){
        .slot = r->slot,
        .recipe = &r->recipe,
        .prompt_len = r->n_prompt,
        .from = r->hit.snap,
        .n_from = r->hit.node != SC_NODE_NONE ? r->hit.n : 0,
        .from_tokens = r->tokens,
        .on_chunk = r->on_chunk,
        .on_chunk_ctx = r->ctx,
    };
}

static bool is_kept(const struct sc_sched *s, uint32_t slot)
{
    for (uint32_t i = 0; i < s->n_keeps; i++)
        if (s->keeps[i].slot == slot)
            return true;
    return false;
}

static uint32_t pages_of_run(const struct sc_sched *s, uint32_t i, bool wanted)
{
    const struct sc_plan_run *run = &s->runs[i];
    if (!s->run_requests[i]->opened) {
        const struct sc_plan_open open = make_open(s->run_requests[i]);
        return sc_engine_pages_to_open(s->engine, &open, run->n_tokens);
    }
    return wanted
               ? sc_engine_pages_wanted(s->engine, run->slot, run->n_tokens)
               : sc_engine_pages_needed(s->engine, run->slot, run->n_tokens, is_kept(s, run->slot));
}

uint64_t sc_plan_pages_wanted(const struct sc_sched *s)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < s->n_runs; i++)
        n += pages_of_run(s, i, true);
    return n;
}

/* Pages are short: true when there is something to do about it before the runs. What is cached goes
 * for those with which they run best; where nothing more can go, fewer will do. */
static bool make_pages(struct sc_sched *s)
{
    struct sc_engine_info info;
    uint64_t need = sc_plan_pages_wanted(s), freed = 0;
    sc_engine_get_info(s->engine, &info);
    if (need <= info.n_pages_free)
        return false;
    if (sc_plan_has_chores(s)) /* they may free enough */
        return true;
    while (freed < need - info.n_pages_free && sc_share_evict(s, &freed))
        continue;
    return s->n_drops > 0;
}

bool sc_plan_has_chores(const struct sc_sched *s)
{
    return s->n_closes > 0 || s->n_keeps > 0 || s->n_drops > 0;
}

/* Nobody else can go. The engine's own answer counts, but not before documents on their way to the
 * store or from it have come there: until then they hold pages. */
static void fit_lone_run(struct sc_sched *s)
{
    if (s->n_runs > 0 && sc_tier_has_work(s) && pages_of_run(s, 0, false) > pages_available(s))
        s->n_runs = 0;
}

/* Leaves out the runs that find no pages. False: too many, or for too long; somebody has to go. */
static bool fit_runs(struct sc_sched *s)
{
    uint64_t available = pages_available(s);
    uint32_t n = 0;
    bool patient = true;
    if (s->n_running == 1) {
        fit_lone_run(s);
        return true;
    }
    for (uint32_t i = 0; i < s->n_runs; i++) {
        struct sc_request *r = s->run_requests[i];
        uint32_t need = pages_of_run(s, i, false);
        if (need > available) {
            r->starved = true;
            patient = patient && r->n_starved < SC_STARVED_STEPS_MAX;
            continue;
        }
        available -= need;
        s->runs[n] = s->runs[i];
        s->run_requests[n++] = r;
    }
    bool fits = patient && (n > 0 || s->n_runs == 0);
    s->n_runs = n;
    return fits;
}

static void choose_opens(struct sc_sched *s)
{
    s->n_opens = 0;
    for (uint32_t i = 0; i < s->n_runs; i++) {
        struct sc_request *r = s->run_requests[i];
        if (!r->opened)
            s->opens[s->n_opens++] = make_open(r);
    }
}

bool sc_plan_build(struct sc_sched *s, bool may_evict)
{
    for (;;) {
        for (uint32_t i = 0; i < s->n_running; i++)
            s->running[i]->starved = false;
        choose_runs(s);
        if (may_evict && s->prefix != NULL && s->n_runs > 0 && make_pages(s)) {
            s->n_runs = s->n_opens = 0; /* these first */
            return true;
        }
        if (fit_runs(s))
            break;
        preempt_youngest(s);
    }
    choose_opens(s);
    return sc_plan_has_chores(s) || s->n_runs > 0;
}

void sc_plan_commit(struct sc_sched *s, uint64_t start_us)
{
    s->n_closes = 0;
    s->closing_pages = 0;
    if (s->prefix != NULL)
        sc_share_commit(s);
    sc_tier_commit(s);
    for (uint32_t i = 0; i < s->n_running; i++)
        s->running[i]->n_starved = s->running[i]->starved ? s->running[i]->n_starved + 1 : 0;
    for (uint32_t i = 0; i < s->n_runs; i++) {
        struct sc_request *r = s->run_requests[i];
        if (!sc_request_decodes(r))
            s->prefill_turn = r->ticket;
        /* What it has of a prefix is in use from now on: who waits for the same needs less. */
        if (!r->opened && r->hit.node != SC_NODE_NONE)
            s->blocked = false;
        r->opened = true;
        sc_share_opened(s, r);
        s->ns_served[r->ns_bucket] += s->runs[i].n_tokens;
        r->n_fed += s->runs[i].n_tokens;
        if (r->first_step_us == 0)
            r->first_step_us = start_us;
        sc_share_after_run(s, r);
    }
}
