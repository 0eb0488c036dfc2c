/* From logits to tokens. Greedy tokens of several ranks: each finds the largest of its columns, and
 * rank 0 compares. All else needs whole rows: they are gathered on rank 0's device, and rank 0 goes
 * on as if it were alone, so that a token depends on the logits and not on who computed them. One
 * collective either way; the others are not asked again. */
#include "shard/rank.h"

#include <math.h>
#include <string.h>

void sc_rank_plan_choices(struct sc_rank *rank, const struct sc_plan *plan)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    uint32_t row = 0;

    rank->only_best = ops->row_max != NULL;
    rank->n_chosen = rank->n_drawn = 0;
    for (uint32_t i = 0; i < plan->n_runs; i++) {
        const struct sc_plan_run *run = &plan->runs[i];
        const uint32_t n = run->want == SC_LOGITS_NONE  ? 0
                           : run->want == SC_LOGITS_ALL ? run->n_tokens
                                                        : 1;
        for (uint32_t t = 0; t < n; t++, row++) {
            struct sc_draw *draw = &rank->draws[row];
            *draw = (struct sc_draw){0};
            rank->chosen[row] =
                t == n - 1 && run->sampler != NULL && ops->row_max != NULL &&
                sc_sampler_plan(run->sampler, rank->n_choices, run->pos0 + run->n_tokens, draw) &&
                (draw->scale == 0.0f || ops->draw != NULL);
            if (!rank->chosen[row])
                draw->scale = 0.0f;
            rank->n_chosen += rank->chosen[row];
            rank->n_drawn += draw->scale != 0.0f;
            rank->only_best &= rank->chosen[row] && run->want == SC_LOGITS_LAST;
        }
    }
    rank->whole_rows = rank->n_ranks == 1 || rank->n_drawn > 0 || !rank->only_best;
}

enum sc_status sc_rank_best_of_slice(struct sc_rank *rank, struct sc_err *err)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    const uint32_t first = rank->slice.vocab0, width = rank->slice.n_vocab;

    if (ops->row_max == NULL || (rank->whole_rows && rank->n_ranks > 1))
        return SC_OK;
    return ops->row_max(rank->be, rank->logits_local, rank->rows.n_logits, width,
                        rank->n_choices > first + width ? width
                        : rank->n_choices > first       ? rank->n_choices - first
                                                        : 0,
                        rank->best, err);
}

static enum sc_status gather(struct sc_rank *rank, struct sc_err *err)
{
    uint32_t pairs[SC_RANKS_MAX];

    if (rank->n_ranks == 1)
        return SC_OK;
    for (uint32_t r = 0; r < rank->n_ranks; r++)
        pairs[r] = 2;
    return rank->comm->ops->gather_cols(
        rank->comm, rank->whole_rows ? rank->logits_local : rank->best, rank->rows.n_logits,
        rank->whole_rows ? rank->slice.vocab_widths : pairs, rank->whole, err);
}

/* Rank 0, whose rows are whole. */
static enum sc_status choose_in_rows(struct sc_rank *rank, struct sc_err *err)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    const uint32_t n = rank->rows.n_logits, vocab = rank->config->vocab;
    enum sc_status st = SC_OK;

    if (rank->n_ranks > 1 && rank->n_chosen > 0)
        st = ops->row_max(rank->be, rank->whole, n, vocab, rank->n_choices, rank->best, err);
    if (st == SC_OK && rank->n_drawn > 0)
        st = ops->draw(rank->be, rank->whole, n, vocab, rank->n_choices, rank->draws, rank->best,
                       err);
    if (st == SC_OK && !rank->only_best && rank->logits != rank->whole)
        st = ops->download(rank->be, rank->logits, rank->whole, (size_t)n * vocab * sizeof(float),
                           err);
    return st;
}

enum sc_status sc_rank_choose(struct sc_rank *rank, struct sc_err *err)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    const uint32_t n_pairs = rank->whole_rows ? 1 : rank->n_ranks;
    enum sc_status st = gather(rank, err);

    if (st != SC_OK || rank->rank != 0)
        return st;
    if (rank->whole_rows)
        st = choose_in_rows(rank, err);
    if (st == SC_OK && rank->n_chosen > 0)
        st = ops->download(rank->be, rank->bests, rank->whole_rows ? rank->best : rank->whole,
                           (size_t)rank->rows.n_logits * n_pairs * 2 * sizeof(float), err);
    return st;
}

/* What a backend could not decide, with the row brought here if it has not been. */
static enum sc_status draw_here(const struct sc_rank *rank, uint32_t row,
                                struct sc_sampler *sampler, uint32_t position,
                                struct sc_sampled *ret, struct sc_err *err)
{
    const size_t at = (size_t)row * rank->config->vocab;
    enum sc_status st = SC_OK;
    if (rank->only_best && rank->logits != rank->whole)
        st = rank->be->ops->download(rank->be, rank->logits + at, rank->whole + at,
                                     rank->config->vocab * sizeof(float), err);
    return st == SC_OK ? sc_sampler_sample(sampler, rank->logits + at, position, ret, err) : st;
}

/* What the backend chose, of all ranks' slices the largest; the lowest id where several have it. */
static enum sc_status take_best(const struct sc_rank *rank, uint32_t row,
                                struct sc_sampler *sampler, uint32_t position,
                                struct sc_sampled *ret, struct sc_err *err)
{
    const uint32_t n_pairs = rank->whole_rows ? 1 : rank->n_ranks;
    const float *b = rank->bests + (size_t)row * n_pairs * 2;
    float max = -INFINITY;
    uint32_t id = 0, first = 0;
    for (uint32_t r = 0; r < n_pairs; r++) {
        uint32_t at;
        memcpy(&at, &b[2 * r + 1], sizeof(at));
        if (at == SC_DRAW_UNDECIDED) /* of a whole row */
            return draw_here(rank, row, sampler, position, ret, err);
        if (!(b[2 * r] <= max)) { /* also NaN, which then stays */
            max = b[2 * r];
            id = first + at;
        }
        first += rank->slice.vocab_widths[r];
        if (max != max)
            break;
    }
    return sc_sampler_take(sampler, max, id, position, ret, err);
}

void sc_rank_sample(struct sc_rank *rank, const struct sc_plan *plan, struct sc_run_result *results)
{
    const uint32_t vocab = rank->config->vocab;
    uint32_t at = 0;
    for (uint32_t i = 0; i < plan->n_runs; i++) {
        const struct sc_plan_run *run = &plan->runs[i];
        struct sc_run_result *r = &results[i];
        struct sc_err err = SC_ERR_INIT;
        *r = (struct sc_run_result){.status = SC_OK};
        if (run->want == SC_LOGITS_NONE)
            continue;
        r->n_logit_rows = run->want == SC_LOGITS_ALL ? run->n_tokens : 1;
        r->logits = rank->only_best ? NULL : rank->logits + (size_t)at * vocab;
        at += r->n_logit_rows;
        if (run->sampler == NULL)
            continue;
        const uint32_t last = at - 1, position = run->pos0 + run->n_tokens;
        r->status = rank->chosen[last]
                        ? take_best(rank, last, run->sampler, position, &r->sampled, &err)
                        : sc_sampler_sample(run->sampler, rank->logits + (size_t)last * vocab,
                                            position, &r->sampled, &err);
    }
}
