/* What a plan may ask: checked whole before anything of it is executed, so that a wrong or too
 * large plan changes nothing. */
#include "shard/engine_internal.h"

#include <string.h>

enum { SLOT_CLOSES = 1, SLOT_OPENS = 2, SLOT_RUNS = 4 };

/* What a COMPRESSED recipe needs of this model, beyond being well-formed. */
static enum sc_status check_compressed(const struct sc_engine *e, const struct sc_recipe *r,
                                       struct sc_err *err)
{
    const struct sc_model_config *c = &e->opts.model->config;
    const struct sc_slice *s = &e->workers[0].rank.slice;
    size_t n_ints = (size_t)s->n_kv_heads * r->chunk_max * r->chunk_max;

    if (sc_engine_calibration(e) == NULL)
        return sc_fail(err, SC_EINVAL, "plan: a COMPRESSED sequence needs a calibration");
    for (uint32_t l = 0; l < c->n_layers;
         l++) /* it forgets its first positions: no chunk is whole */
        if (c->sliding_window[l] != 0 && !sc_recipe_layer_is_exact(r, l))
            return sc_fail(err, SC_EINVAL,
                           "exact_layers: layer %u has a sliding window of %u and must be in it", l,
                           c->sliding_window[l]);
    if (r->label_scope == SC_LABELS_PER_HEAD && n_ints > SC_DIST_INTS_MAX)
        return sc_fail(
            err, SC_ENOTSUP,
            "labels per_head: %u KV heads of a rank and chunks of %u need %zu distances, "
            "limit %zu",
            s->n_kv_heads, r->chunk_max, n_ints, SC_DIST_INTS_MAX);
    return SC_OK;
}

const struct sc_snap *sc_engine_find_snap(const struct sc_engine *e, uint32_t snap)
{
    const struct sc_snaps *s = &e->workers[0].rank.snaps;
    return snap < s->n_snaps && s->snaps[snap].used ? &s->snaps[snap] : NULL;
}

static bool is_kept(const struct sc_plan *plan, uint32_t slot)
{
    for (uint32_t i = 0; i < plan->n_keeps; i++)
        if (plan->keeps[i].slot == slot)
            return true;
    return false;
}

static const struct sc_plan_keep *find_keep(const struct sc_plan *plan, uint32_t snap)
{
    for (uint32_t i = 0; i < plan->n_keeps; i++)
        if (plan->keeps[i].snap == snap)
            return &plan->keeps[i];
    return NULL;
}

/* A snapshot that this very plan keeps is not there yet: keep it in the step before. */
static enum sc_status check_from(const struct sc_engine *e, const struct sc_plan *plan,
                                 const struct sc_plan_open *o, struct sc_err *err)
{
    const struct sc_snap *snap = sc_engine_find_snap(e, o->from);
    static const struct sc_recipe_context none = {0};

    for (uint32_t i = 0; i < plan->n_drops; i++)
        if (plan->drops[i] == o->from)
            snap = NULL;
    if (snap == NULL || o->from_tokens == NULL)
        return sc_fail(err, SC_EINVAL, "plan: slot %u begins from snapshot %u, which is not there",
                       o->slot, o->from);
    struct sc_hash a = sc_recipe_id(o->recipe, &none), b = sc_recipe_id(&snap->recipe, &none);
    if (memcmp(&a, &b, sizeof(a)) != 0)
        return sc_fail(err, SC_EINVAL, "plan: slot %u begins from a snapshot of another recipe",
                       o->slot);
    if (o->n_from < snap->min_logical || o->n_from > snap->n_logical)
        return sc_fail(err, SC_EINVAL,
                       "plan: slot %u begins with %u tokens, the snapshot has %u..%u", o->slot,
                       o->n_from, snap->min_logical, snap->n_logical);
    return SC_OK;
}

/* Keeps, makes, moves and drops: ids that exist or are free, and room for their tables. */
static enum sc_status check_snaps(const struct sc_engine *e, const struct sc_plan *plan,
                                  uint64_t *ret_pages, struct sc_err *err)
{
    const struct sc_rank *r0 = &e->workers[0].rank;
    uint64_t blocks = 0;

    for (uint32_t i = 0; i < plan->n_keeps; i++) {
        const struct sc_plan_keep *k = &plan->keeps[i];
        if (k->slot >= e->opts.max_seqs || !r0->seqs[k->slot].open ||
            r0->seqs[k->slot].n_logical == 0 || k->snap >= r0->snaps.n_snaps ||
            sc_engine_find_snap(e, k->snap) != NULL)
            return sc_fail(err, SC_EINVAL, "plan: slot %u cannot be kept as snapshot %u", k->slot,
                           k->snap);
        blocks += sc_engine_snap_words_needed(e, k->slot) / SC_SNAP_BLOCK_WORDS;
    }
    for (uint32_t i = 0; i < plan->n_makes; i++) {
        const struct sc_plan_make *m = &plan->makes[i];
        if (m->snap >= r0->snaps.n_snaps || sc_engine_find_snap(e, m->snap) != NULL ||
            m->shape->n_logical == 0 || m->shape->n_logical > e->max_context)
            return sc_fail(err, SC_EINVAL, "plan: snapshot %u cannot be made", m->snap);
        blocks += sc_engine_shape_words(e, m->shape) / SC_SNAP_BLOCK_WORDS;
        *ret_pages += sc_engine_shape_pages(e, m->shape);
    }
    for (uint32_t i = 0; i < plan->n_moves; i++) {
        const struct sc_plan_move *m = &plan->moves[i];
        bool made = false;
        for (uint32_t k = 0; k < plan->n_makes; k++)
            made = made || plan->makes[k].snap == m->snap;
        if ((sc_engine_find_snap(e, m->snap) == NULL && !made) ||
            m->layer >= r0->config->n_layers || m->head >= r0->config->n_kv_heads ||
            m->host == NULL)
            return sc_fail(err, SC_EINVAL, "plan: move of snapshot %u, layer %u, head %u", m->snap,
                           m->layer, m->head);
    }
    for (uint32_t i = 0; i < plan->n_drops; i++)
        if (sc_engine_find_snap(e, plan->drops[i]) == NULL ||
            find_keep(plan, plan->drops[i]) != NULL)
            return sc_fail(err, SC_EINVAL, "plan: snapshot %u dropped, but it is not there",
                           plan->drops[i]);
    if (blocks > r0->snaps.n_blocks_free)
        return sc_fail(err, SC_EINVAL, "plan: page tables of snapshots: %llu blocks, %u free",
                       (unsigned long long)blocks, r0->snaps.n_blocks_free);
    return SC_OK;
}

static enum sc_status check_open(const struct sc_engine *e, const struct sc_plan *plan,
                                 const struct sc_plan_open *o, struct sc_err *err)
{
    enum sc_status st;

    if (o->slot >= e->opts.max_seqs)
        return sc_fail(err, SC_EINVAL, "plan: slot %u, limit %u", o->slot, e->opts.max_seqs);
    if ((e->slot_seen[o->slot] & SLOT_OPENS) != 0)
        return sc_fail(err, SC_EINVAL, "plan: slot %u is opened twice", o->slot);
    if (e->workers[0].rank.seqs[o->slot].open && (e->slot_seen[o->slot] & SLOT_CLOSES) == 0)
        return sc_fail(err, SC_EINVAL, "plan: slot %u is in use", o->slot);
    st = sc_recipe_check(o->recipe, err);
    if (st == SC_OK && o->recipe->mode == SC_KV_COMPRESSED)
        st = check_compressed(e, o->recipe, err);
    if (st == SC_OK && o->n_from > 0)
        st = check_from(e, plan, o, err);
    return st;
}

static enum sc_status check_run(const struct sc_engine *e, const struct sc_plan *plan,
                                const struct sc_plan_run *run, struct sc_err *err)
{
    const struct sc_seq *seq = NULL;
    const struct sc_recipe *recipe = NULL;
    uint32_t prompt_len = 0, n_logical = 0;

    if (run->slot >= e->opts.max_seqs)
        return sc_fail(err, SC_EINVAL, "plan: slot %u, limit %u", run->slot, e->opts.max_seqs);
    seq = &e->workers[0].rank.seqs[run->slot];
    if (seq->open) {
        recipe = &seq->recipe;
        prompt_len = seq->prompt_len;
        n_logical = seq->n_logical;
    }
    for (uint32_t i = 0; i < plan->n_opens; i++)
        if (plan->opens[i].slot == run->slot) {
            recipe = plan->opens[i].recipe;
            prompt_len = plan->opens[i].prompt_len;
            n_logical = plan->opens[i].n_from;
        }
    if (recipe == NULL)
        return sc_fail(err, SC_EINVAL, "plan: slot %u is not open", run->slot);
    if (run->n_tokens == 0 || run->pos0 != n_logical)
        return sc_fail(err, SC_EINVAL, "plan: slot %u runs %u tokens from %u, it has %u", run->slot,
                       run->n_tokens, run->pos0, n_logical);
    if (run->n_tokens > e->max_context - n_logical)
        return sc_fail(err, SC_ERANGE, "plan: slot %u would hold %u tokens, the context is %u",
                       run->slot, n_logical + run->n_tokens, e->max_context);
    if (sc_recipe_next_cut(recipe, prompt_len, run->pos0) - run->pos0 < run->n_tokens)
        return sc_fail(err, SC_EINVAL, "plan: slot %u crosses the epoch cut at %u", run->slot,
                       sc_recipe_next_cut(recipe, prompt_len, run->pos0));
    for (uint32_t t = 0; t < run->n_tokens; t++)
        if (run->tokens[t] < 0 || (uint32_t)run->tokens[t] >= e->opts.model->config.vocab)
            return sc_fail(err, SC_EINVAL, "plan: token %d, vocabulary %u", run->tokens[t],
                           e->opts.model->config.vocab);
    return SC_OK;
}

enum sc_status sc_engine_check_plan(struct sc_engine *e, const struct sc_plan *plan,
                                    struct sc_err *err)
{
    const struct sc_rank *r0 = &e->workers[0].rank;
    uint64_t rows = 0, logit_rows = 0, pages = 0, freed = 0;
    enum sc_status st = SC_OK;

    memset(e->slot_seen, 0, e->opts.max_seqs);
    for (uint32_t i = 0; i < plan->n_closes; i++) {
        uint32_t slot = plan->closes[i];
        if (slot >= e->opts.max_seqs || !r0->seqs[slot].open || e->slot_seen[slot] != 0)
            return sc_fail(err, SC_EINVAL, "plan: slot %u closed, but it is not open", slot);
        e->slot_seen[slot] = SLOT_CLOSES;
        freed += sc_engine_seq_private_pages(e, slot);
    }
    st = check_snaps(e, plan, &pages, err);
    /* A snapshot of a sequence that the same plan closes keeps its pages. */
    for (uint32_t i = 0; i < plan->n_keeps && st == SC_OK; i++)
        if (e->slot_seen[plan->keeps[i].slot] == SLOT_CLOSES)
            freed -= sc_engine_seq_private_pages(e, plan->keeps[i].slot);
    for (uint32_t i = 0; i < plan->n_opens && st == SC_OK; i++) {
        st = check_open(e, plan, &plan->opens[i], err);
        if (st != SC_OK)
            break;
        e->slot_seen[plan->opens[i].slot] |= SLOT_OPENS;
        pages += sc_seq_pages_to_open(r0, &plan->opens[i], 0);
    }
    for (uint32_t i = 0; i < plan->n_runs && st == SC_OK; i++) {
        const struct sc_plan_run *run = &plan->runs[i];
        st = check_run(e, plan, run, err);
        if (st != SC_OK)
            break;
        uint8_t *seen = &e->slot_seen[run->slot];
        if (*seen == SLOT_CLOSES || (*seen & SLOT_RUNS) != 0)
            return sc_fail(err, SC_EINVAL, "plan: slot %u is closed or runs twice", run->slot);
        rows += run->n_tokens;
        logit_rows += run->want == SC_LOGITS_ALL ? run->n_tokens : run->want == SC_LOGITS_LAST;
        pages +=
            (*seen & SLOT_OPENS) != 0
                ? (sc_pages_for(run->pos0 + run->n_tokens) - (uint64_t)sc_pages_for(run->pos0)) *
                      r0->config->n_layers
                : sc_seq_pages_needed(r0, &r0->seqs[run->slot], run->n_tokens,
                                      is_kept(plan, run->slot));
        *seen |= SLOT_RUNS;
    }
    if (st != SC_OK)
        return st;
    if (rows > e->opts.max_step_tokens || logit_rows > e->opts.max_logit_rows)
        return sc_fail(err, SC_EINVAL, "plan: %llu rows and %llu logit rows, limits %u and %u",
                       (unsigned long long)rows, (unsigned long long)logit_rows,
                       e->opts.max_step_tokens, e->opts.max_logit_rows);
    if (pages > r0->pages.n_free + freed)
        return sc_fail(err, SC_EFULL, "kv pages: %llu needed, %llu free of %u",
                       (unsigned long long)pages, (unsigned long long)(r0->pages.n_free + freed),
                       r0->pages.n_pages);
    return SC_OK;
}
