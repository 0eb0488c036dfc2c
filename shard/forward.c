/* The forward pass of one rank over the rows of a plan. Tensor parallel: attention heads and MLP
 * columns are this rank's; after the output and down projections the partial sums are all-reduced;
 * vocabulary rows are split for the embedding and the logits. */
#include "shard/rank.h"

#include <math.h>

/* Rows in plan order: positions, tokens, and which rows need logits. */
static void gather_rows(struct sc_rank *rank, const struct sc_plan *plan)
{
    struct sc_rows *rows = &rank->rows;
    rows->n = rows->n_logits = 0;
    for (uint32_t i = 0; i < plan->n_runs; i++) {
        const struct sc_plan_run *run = &plan->runs[i];
        for (uint32_t t = 0; t < run->n_tokens; t++) {
            rows->positions[rows->n] = run->pos0 + t;
            rows->slots[rows->n] = (run->pos0 + t) % SC_PAGE_ENTRIES;
            rows->tokens[rows->n] = run->tokens[t];
            if (run->want == SC_LOGITS_ALL ||
                (run->want == SC_LOGITS_LAST && t + 1 == run->n_tokens))
                rows->logit_rows[rows->n_logits++] = rows->n;
            rows->n++;
        }
    }
}

/* Page tables differ between layers: cores are clustered per layer. */
static void gather_layers(struct sc_rank *rank, const struct sc_plan *plan)
{
    struct sc_rows *rows = &rank->rows;
    for (uint32_t l = 0; l < rank->config->n_layers; l++) {
        uint32_t *pages = rows->pages + (size_t)l * rows->n, row = 0;
        for (uint32_t i = 0; i < plan->n_runs; i++) {
            const struct sc_plan_run *run = &plan->runs[i];
            const struct sc_seq_layer *layer = &rank->seqs[run->slot].layers[l];
            rows->attn[(size_t)l * plan->n_runs + i] = (struct sc_attn_seq){
                .row0 = row,
                .n_rows = run->n_tokens,
                .pos0 = run->pos0,
                .n_cores = layer->n_cores,
                .exact_lo = layer->exact_lo,
                .window = rank->config->sliding_window[l],
                .core_pages = layer->core_pages,
                .exact_pages = layer->exact_pages,
                .tables = rank->seqs[run->slot].tables,
            };
            for (uint32_t t = 0; t < run->n_tokens; t++)
                pages[row++] = layer->exact_pages[(run->pos0 + t) / SC_PAGE_ENTRIES];
        }
    }
}

/* A norm: its weights, and the matrix that its rows are multiplied with. */
struct following {
    const float *norm;
    const struct sc_matrix *next;
};

/* The end of either half of a layer: the sum over ranks of x W^T is added to resid, here or by the
 * norm that follows (then; all NULL: none does). */
static enum sc_status project(struct sc_rank *rank, const struct sc_matrix *w, const float *x,
                              uint32_t n_in, struct following then, struct sc_err *err)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    const uint32_t n = rank->rows.n, width = rank->config->hidden;
    bool added = false;
    enum sc_status st;

    if (rank->n_ranks == 1 && ops->matmul_add != NULL) {
        const struct sc_matmul_add_args args = {
            .w = w,
            .x = x,
            .delta = rank->delta,
            .resid = rank->resid,
            .n = n,
            .norm = then.norm,
            .next = then.next,
        };
        st = ops->matmul_add(rank->be, &args, &added, err);
    } else {
        st = ops->matmul(rank->be, w, x, n_in, rank->delta, width, n, err);
    }
    if (st == SC_OK && !added)
        st = rank->comm->ops->sum_f32(rank->comm, rank->delta, (size_t)n * width, err);
    rank->rows.delta = !added;
    return st;
}

static enum sc_status layer_attention(struct sc_rank *rank, const struct sc_plan *plan, uint32_t l,
                                      struct sc_err *err)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    const struct sc_model_config *c = rank->config;
    const struct sc_layer *w = &rank->weights.layers[l];
    const struct sc_slice *s = &rank->slice;
    const uint32_t n = rank->rows.n, width = (s->n_heads + 2 * s->n_kv_heads) * c->head_dim;
    enum sc_status st;

    st = ops->matmul(rank->be, w->qkv, rank->x, c->hidden, rank->qkv, width, n, err);
    if (st != SC_OK)
        return st;
    const struct sc_qkv_args qkv = {
        .qkv = rank->qkv,
        .q_norm = w->q_norm,
        .k_norm = w->k_norm,
        .angles = rank->angles,
        .pool = rank->pool,
        .pages = rank->rows.pages + (size_t)l * n,
        .slots = rank->rows.slots,
        .n_rows = n,
        .n_heads = s->n_heads,
        .n_kv_heads = s->n_kv_heads,
        .head_dim = c->head_dim,
        .eps = c->rms_eps,
    };
    st = ops->qkv(rank->be, &qkv, err);
    if (st != SC_OK)
        return st;
    const struct sc_attn_args attn = {
        .q = rank->qkv,
        .out = rank->attn,
        .pool = rank->pool,
        .seqs = rank->rows.attn + (size_t)l * plan->n_runs,
        .n_seqs = plan->n_runs,
        .q_stride = width,
        .n_heads = s->n_heads,
        .n_kv_heads = s->n_kv_heads,
        .head_dim = c->head_dim,
        .scale = 1.0f / sqrtf((float)c->head_dim),
        .next = w->o,
    };
    st = ops->attention(rank->be, &attn, err);
    if (st != SC_OK)
        return st;
    return project(rank, w->o, rank->attn, s->n_heads * c->head_dim,
                   (struct following){w->post_norm, w->gate_up}, err);
}

static enum sc_status layer_mlp(struct sc_rank *rank, uint32_t l, struct sc_err *err)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    const struct sc_model_config *c = rank->config;
    const struct sc_layer *w = &rank->weights.layers[l];
    const uint32_t n = rank->rows.n, ffn = rank->slice.ffn;
    enum sc_status st;

    if (ops->matmul_swiglu != NULL) {
        st = ops->matmul_swiglu(rank->be, w->gate_up, rank->x, rank->gate_up, rank->act, n, ffn,
                                w->down, err);
    } else {
        st = ops->matmul(rank->be, w->gate_up, rank->x, c->hidden, rank->gate_up, 2 * ffn, n, err);
        if (st == SC_OK)
            st = ops->swiglu(rank->be, rank->gate_up, rank->act, n, ffn, err);
    }
    if (st != SC_OK)
        return st;
    struct following then = {NULL, NULL};
    if (l + 1 < c->n_layers)
        then = (struct following){w[1].in_norm, w[1].qkv};
    return project(rank, w->down, rank->act, ffn, then, err);
}

/* resid += what project left to add, then x = norm(resid) * w (if any), for the product with next.
 */
static enum sc_status add_norm(struct sc_rank *rank, const float *w, const struct sc_matrix *next,
                               struct sc_err *err)
{
    const struct sc_norm_args args = {
        .resid = rank->resid,
        .delta = rank->rows.delta ? rank->delta : NULL,
        .w = w,
        .y = w != NULL ? rank->x : NULL,
        .n_rows = rank->rows.n,
        .dim = rank->config->hidden,
        .eps = rank->config->rms_eps,
        .next = next,
    };
    rank->rows.delta = false;
    return rank->be->ops->norm(rank->be, &args, err);
}

static enum sc_status final_logits(struct sc_rank *rank, struct sc_err *err)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    const struct sc_model_config *c = rank->config;
    const uint32_t n = rank->rows.n_logits, width = rank->slice.n_vocab;
    enum sc_status st;

    st = ops->gather_rows(rank->be, rank->resid, rank->rows.logit_rows, n, c->hidden, rank->last,
                          err);
    if (st != SC_OK)
        return st;
    const struct sc_norm_args args = {
        .resid = rank->last,
        .w = rank->weights.final_norm,
        .y = rank->x,
        .n_rows = n,
        .dim = c->hidden,
        .eps = c->rms_eps,
        .next = rank->weights.lm_head,
    };
    st = ops->norm(rank->be, &args, err);
    if (st == SC_OK)
        st = ops->matmul(rank->be, rank->weights.lm_head, rank->x, c->hidden, rank->logits_local,
                         width, n, err);
    if (st == SC_OK)
        st = sc_rank_best_of_slice(rank, err);
    return st;
}

static enum sc_status run_layers(struct sc_rank *rank, const struct sc_plan *plan,
                                 struct sc_err *err)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    const struct sc_model_config *c = rank->config;
    const uint32_t n = rank->rows.n;
    enum sc_status st;

    rank->rows.delta = false;
    st = ops->embed(rank->be, rank->weights.embedding, rank->rows.tokens, n, rank->resid, err);
    if (st == SC_OK)
        st = rank->comm->ops->sum_f32(rank->comm, rank->resid, (size_t)n * c->hidden, err);
    if (st == SC_OK)
        st = ops->rope_angles(rank->be, rank->rows.positions, n, rank->inv_freq, c->head_dim,
                              rank->rope_scale, rank->angles, err);
    for (uint32_t l = 0; l < c->n_layers && st == SC_OK; l++) {
        const struct sc_layer *w = &rank->weights.layers[l];
        st = add_norm(rank, w->in_norm, w->qkv, err);
        if (st == SC_OK)
            st = layer_attention(rank, plan, l, err);
        if (st == SC_OK)
            st = add_norm(rank, w->post_norm, w->gate_up, err);
        if (st == SC_OK)
            st = layer_mlp(rank, l, err);
    }
    if (st == SC_OK && rank->rows.delta)
        st = add_norm(rank, NULL, NULL, err);
    if (st == SC_OK && rank->rows.n_logits > 0)
        st = final_logits(rank, err);
    return st;
}

enum sc_status sc_rank_forward(struct sc_rank *rank, const struct sc_plan *plan, struct sc_err *err)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    const struct sc_rows *rows = &rank->rows;
    bool replayed = false;
    enum sc_status st = SC_OK;

    gather_rows(rank, plan);
    gather_layers(rank, plan);
    const struct sc_step step = {
        .n_rows = rows->n,
        .n_seqs = plan->n_runs,
        .n_layers = rank->config->n_layers,
        .n_logit_rows = rows->n_logits,
        .n_kv_heads = rank->slice.n_kv_heads,
        .tokens = rows->tokens,
        .positions = rows->positions,
        .slots = rows->slots,
        .logit_rows = rows->logit_rows,
        .pages = rows->pages,
        .seqs = rows->attn,
        .alone = rank->n_ranks == 1,
    };
    if (ops->step_begin != NULL)
        st = ops->step_begin(rank->be, &step, &replayed, err);
    if (st == SC_OK && !replayed)
        st = run_layers(rank, plan, err);
    if (ops->step_end != NULL) { /* also after an error, which stays: it forgets the step */
        const bool complete = st == SC_OK;
        enum sc_status end = ops->step_end(rank->be, complete, complete ? err : NULL);
        st = complete ? end : st;
    }
    if (st == SC_OK && rows->n_logits > 0)
        st = sc_rank_choose(rank, err);
    return st;
}
