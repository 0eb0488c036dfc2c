/* What a plan may ask: the rules of the real engine, and the first that was broken. */
#include <stdio.h>
#include <string.h>

#include "bench/sim_engine_internal.h"

bool sim_rules_require(struct sc_engine *e, bool ok, const char *what, uint32_t value)
{
    if (!ok && e->violation[0] == '\0')
        (void)snprintf(e->violation, sizeof(e->violation), "plan of step %llu: %s (%u)",
                       (unsigned long long)e->steps, what, value);
    return ok;
}

static bool is_dropped(const struct sc_plan *plan, uint32_t snap)
{
    for (uint32_t i = 0; i < plan->n_drops; i++)
        if (plan->drops[i] == snap)
            return true;
    return false;
}

static bool check_keeps(struct sc_engine *e, const struct sc_plan *plan)
{
    uint64_t words = 0;
    bool ok = sim_rules_require(e, plan->n_makes + plan->n_moves == 0, "moves without a store", 0);
    for (uint32_t i = 0; i < plan->n_keeps && ok; i++) {
        const struct sc_plan_keep *k = &plan->keeps[i];
        ok =
            sim_rules_require(e, k->slot < e->opts.max_seqs && e->seqs[k->slot].open,
                              "keeps a slot that is not open", k->slot) &&
            sim_rules_require(e, k->snap < e->opts.max_snaps && !e->snaps[k->snap].used,
                              "keeps as a snapshot in use", k->snap) &&
            sim_rules_require(e, !is_dropped(plan, k->snap), "keeps and drops a snapshot", k->snap);
        for (uint32_t j = 0; j < i && ok; j++)
            ok = sim_rules_require(e, plan->keeps[j].snap != k->snap, "keeps a snapshot twice",
                                   k->snap);
        if (!ok)
            break;
        words += block_words(table_pages(&e->seqs[k->slot].at));
        e->seen[k->slot] |= KEPT;
    }
    for (uint32_t i = 0; i < plan->n_drops && ok; i++) {
        ok = sim_rules_require(e,
                               plan->drops[i] < e->opts.max_snaps && e->snaps[plan->drops[i]].used,
                               "drops a snapshot that is not there", plan->drops[i]);
        for (uint32_t j = 0; j < i && ok; j++)
            ok = sim_rules_require(e, plan->drops[j] != plan->drops[i], "drops a snapshot twice",
                                   plan->drops[i]);
    }
    return ok && sim_rules_require(e, words <= words_total(e) - e->words_used,
                                   "page tables are short", 0);
}

static bool check_open(struct sc_engine *e, const struct sc_plan *plan,
                       const struct sc_plan_open *o, uint64_t *needed)
{
    static const struct sc_recipe_context none = {0};
    if (!sim_rules_require(e, o->slot < e->opts.max_seqs && (e->seen[o->slot] & OPENS) == 0,
                           "opens a slot twice", o->slot) ||
        !sim_rules_require(e, !e->seqs[o->slot].open || (e->seen[o->slot] & CLOSES) != 0,
                           "opens a slot in use", o->slot) ||
        !sim_rules_require(e, o->prompt_len >= 1 && sc_recipe_check(o->recipe, NULL) == SC_OK,
                           "a bad open", o->slot))
        return false;
    e->seen[o->slot] |= OPENS;
    if (o->n_from == 0)
        return true;
    if (!sim_rules_require(e, o->from < e->opts.max_snaps && e->snaps[o->from].used,
                           "begins from nothing", o->from) ||
        !sim_rules_require(e, !is_dropped(plan, o->from), "begins from a snapshot it drops",
                           o->from))
        return false;
    const struct snap *s = &e->snaps[o->from];
    struct sc_hash a = sc_recipe_id(o->recipe, &none), b = sc_recipe_id(&s->at.recipe, &none);
    *needed += pages_to_begin(s, o->n_from);
    return sim_rules_require(e, memcmp(&a, &b, sizeof(a)) == 0, "begins from another recipe",
                             o->from) &&
           sim_rules_require(e, o->n_from >= s->min_logical && o->n_from <= s->at.n_logical,
                             "begins out of the snapshot's range", o->n_from);
}

static bool check_run(struct sc_engine *e, const struct sc_plan *plan,
                      const struct sc_plan_run *run, uint64_t *needed)
{
    if (!sim_rules_require(e, run->slot < e->opts.max_seqs, "runs no slot", run->slot))
        return false;
    uint8_t *seen = &e->seen[run->slot];
    struct shape at = e->seqs[run->slot].at;
    bool open = e->seqs[run->slot].open && (*seen & CLOSES) == 0;
    for (uint32_t i = 0; i < plan->n_opens && (*seen & OPENS) != 0; i++)
        if (plan->opens[i].slot == run->slot) {
            at = opened(e, &plan->opens[i]);
            open = true;
        }
    if (!sim_rules_require(e, open && (*seen & RUNS) == 0, "runs a closed slot, or twice",
                           run->slot))
        return false;
    *seen |= RUNS;
    *needed += (*seen & OPENS) != 0
                   ? pages_to_run(&at, run->n_tokens)
                   : sc_engine_pages_needed(e, run->slot, run->n_tokens, (*seen & KEPT) != 0);
    uint32_t end = run->pos0 + run->n_tokens;
    return sim_rules_require(e, run->n_tokens >= 1 && run->pos0 == at.n_logical,
                             "runs from elsewhere", run->pos0) &&
           sim_rules_require(e, end <= sc_recipe_next_cut(&at.recipe, at.prompt_len, run->pos0),
                             "crosses a cut", end) &&
           sim_rules_require(e, run->pos0 >= at.prompt_len || end <= at.prompt_len,
                             "crosses the prompt's end", end) &&
           sim_rules_require(e, end <= e->opts.max_context, "runs beyond the context", end);
}

bool sim_rules_check(struct sc_engine *e, const struct sc_plan *plan, uint64_t *needed,
                     uint64_t *freed)
{
    uint64_t rows = 0;
    *needed = *freed = 0;
    memset(e->seen, 0, e->opts.max_seqs);
    if (!check_keeps(e, plan))
        return false;
    for (uint32_t i = 0; i < plan->n_closes; i++) {
        uint32_t slot = plan->closes[i];
        if (!sim_rules_require(
                e, slot < e->opts.max_seqs && e->seqs[slot].open && (e->seen[slot] & CLOSES) == 0,
                "closes a free slot", slot))
            return false;
        if ((e->seen[slot] & KEPT) == 0)
            *freed += sc_engine_seq_private_pages(e, slot);
        e->seen[slot] |= CLOSES;
    }
    for (uint32_t i = 0; i < plan->n_opens; i++)
        if (!check_open(e, plan, &plan->opens[i], needed))
            return false;
    for (uint32_t i = 0; i < plan->n_runs; i++) {
        if (!check_run(e, plan, &plan->runs[i], needed))
            return false;
        rows += plan->runs[i].n_tokens;
    }
    return sim_rules_require(e, rows <= e->opts.max_step_tokens, "too many rows", (uint32_t)rows);
}
