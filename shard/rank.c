#include "shard/rank.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static enum sc_status device_floats(struct sc_rank *rank, size_t n, float **ret_mem,
                                    struct sc_err *err)
{
    void *mem = NULL;
    enum sc_status st = rank->be->ops->alloc(rank->be, n * sizeof(float), &mem, err);
    if (st == SC_OK)
        *ret_mem = mem;
    return st;
}

static enum sc_status open_activations(struct sc_rank *rank, struct sc_err *err)
{
    const struct sc_model_config *c = rank->config;
    const struct sc_slice *s = &rank->slice;
    const size_t n = rank->opts->max_step_tokens, m = rank->opts->max_logit_rows;
    const struct {
        float **mem;
        size_t n;
    } wants[] = {
        {&rank->resid, n * c->hidden},
        {&rank->x, n * c->hidden},
        {&rank->delta, n * c->hidden},
        {&rank->qkv, n * (s->n_heads + 2 * s->n_kv_heads) * c->head_dim},
        {&rank->attn, n * s->n_heads * c->head_dim},
        {&rank->gate_up, n * 2 * s->ffn},
        {&rank->act, n * s->ffn},
        {&rank->angles, n * c->head_dim},
        {&rank->last, m * c->hidden},
        {&rank->logits_local, m * s->n_vocab},
        {&rank->best, 2 * m},
        {(float **)&rank->dist, SC_DIST_INTS_MAX},
    };
    enum sc_status st = SC_OK;
    for (size_t i = 0; i < SC_ARRAY_LEN(wants) && st == SC_OK; i++)
        st = device_floats(rank, wants[i].n, wants[i].mem, err);
    return st;
}

/* What tokens are chosen from: whole rows of logits, and on rank 0's host what comes of them. */
static enum sc_status open_choices(struct sc_rank *rank, struct sc_err *err)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    const bool own_memory = ops->peer_sum != NULL;
    const size_t m = rank->opts->max_logit_rows, vocab = rank->config->vocab;
    const size_t pairs = 2 * (size_t)rank->n_ranks; /* what a row's greedy choice is made from */
    enum sc_status st = SC_OK;

    rank->draws = calloc(m, sizeof(*rank->draws));
    rank->chosen = calloc(m, sizeof(*rank->chosen));
    if (rank->draws == NULL || rank->chosen == NULL)
        return sc_fail(err, SC_ENOMEM, "draws: out of memory for %zu rows", m);
    if (rank->n_ranks == 1)
        rank->whole = rank->logits_local;
    else if (rank->rank == 0 || own_memory)
        st = device_floats(rank, m * (vocab > pairs ? vocab : pairs), &rank->whole, err);
    if (st != SC_OK || rank->rank != 0)
        return st;
    rank->logits = own_memory ? malloc(m * vocab * sizeof(float)) : rank->whole;
    rank->bests = malloc(m * pairs * sizeof(float));
    if (rank->logits == NULL || rank->bests == NULL)
        return sc_fail(err, SC_ENOMEM, "logits: out of memory for %zu rows of %zu", m, vocab);
    if (ops->pin != NULL) {
        ops->pin(rank->be, rank->logits, m * vocab * sizeof(float));
        ops->pin(rank->be, rank->bests, m * pairs * sizeof(float));
    }
    return SC_OK;
}

/* calloc of this size maps zero pages: tables of slots and positions never used cost no memory. */
static enum sc_status open_sequences(struct sc_rank *rank, struct sc_err *err)
{
    const size_t n_seqs = rank->opts->max_seqs, n_layers = rank->config->n_layers;
    const size_t per_table = rank->max_context / SC_PAGE_ENTRIES + 2;

    rank->seqs = calloc(n_seqs, sizeof(*rank->seqs));
    int32_t *tokens = rank->seq_memory[0] = calloc(n_seqs * rank->max_context, sizeof(*tokens));
    struct sc_seq_layer *layers = rank->seq_memory[1] = calloc(n_seqs * n_layers, sizeof(*layers));
    int64_t *tau = rank->seq_memory[2] = calloc(n_seqs * n_layers * 4, sizeof(*tau));
    uint32_t *tables = rank->seq_memory[3] =
        calloc(n_seqs * n_layers * 2 * per_table, sizeof(*tables));
    if (rank->seqs == NULL || tokens == NULL || layers == NULL || tau == NULL || tables == NULL)
        return sc_fail(err, SC_ENOMEM, "sequence tables: out of memory for %zu slots of %u tokens",
                       n_seqs, rank->max_context);
    for (size_t i = 0; i < n_seqs; i++) {
        struct sc_seq *seq = &rank->seqs[i];
        seq->slot = (uint32_t)i;
        seq->tokens = tokens + i * rank->max_context;
        seq->layers = layers + i * n_layers;
        seq->tau = tau + i * n_layers * 4;
        seq->alone_above = seq->tau + n_layers * 2;
        for (size_t l = 0; l < n_layers; l++) {
            seq->layers[l].core_pages = tables + (i * n_layers + l) * 2 * per_table;
            seq->layers[l].exact_pages = seq->layers[l].core_pages + per_table;
        }
    }
    return SC_OK;
}

static enum sc_status open_scratch(struct sc_rank *rank, struct sc_err *err)
{
    struct sc_rows *rows = &rank->rows;
    const size_t n = rank->opts->max_step_tokens, n_planes = rank->slice.n_kv_heads;

    rows->positions = calloc(n, sizeof(*rows->positions));
    rows->pages = calloc(n * rank->config->n_layers, sizeof(*rows->pages));
    rows->slots = calloc(n, sizeof(*rows->slots));
    rows->logit_rows = calloc(n, sizeof(*rows->logit_rows));
    rows->tokens = calloc(n, sizeof(*rows->tokens));
    rows->attn = calloc((size_t)rank->opts->max_seqs * rank->config->n_layers, sizeof(*rows->attn));
    rank->jobs = calloc(SC_JOBS_MAX, sizeof(*rank->jobs));
    rank->job_layers = calloc(SC_JOBS_MAX, sizeof(*rank->job_layers));
    rank->job_cores = calloc(SC_JOBS_MAX, sizeof(*rank->job_cores));
    rank->counts = calloc(SC_JOBS_MAX * n_planes, sizeof(*rank->counts));
    rank->labels = calloc((size_t)SC_JOBS_MAX * n_planes, SC_CHUNK_MAX);
    rank->seeds = calloc((size_t)SC_JOBS_MAX * n_planes, SC_CHUNK_MAX);
    rank->inv_var = calloc((size_t)rank->config->n_layers * n_planes, sizeof(*rank->inv_var));
    rank->mean_key = calloc((size_t)rank->config->n_layers * n_planes * rank->config->head_dim,
                            sizeof(*rank->mean_key));
    rank->inv_freq = calloc(rank->config->head_dim / 2, sizeof(*rank->inv_freq));
    if (rows->positions == NULL || rows->pages == NULL || rows->slots == NULL ||
        rows->logit_rows == NULL || rows->tokens == NULL || rows->attn == NULL ||
        rank->jobs == NULL || rank->job_layers == NULL || rank->job_cores == NULL ||
        rank->counts == NULL || rank->labels == NULL || rank->seeds == NULL ||
        rank->inv_var == NULL || rank->mean_key == NULL || rank->inv_freq == NULL)
        return sc_fail(err, SC_ENOMEM, "step scratch: out of memory for %zu rows", n);
    sc_rope_frequencies(&rank->config->rope, rank->config->head_dim, rank->config->max_positions,
                        rank->inv_freq, &rank->rope_scale);
    return SC_OK;
}

/* A share of what is left on the device: the smallest of all ranks, so that all have equally many
 * pages. */
static enum sc_status share_of_device(struct sc_rank *rank, uint64_t *ret_bytes, struct sc_err *err)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    uint64_t left = 0, total = 0;
    enum sc_status st;

    if (ops->memory == NULL)
        return sc_fail(
            err, SC_EINVAL,
            "kv memory: %.0f%% of the device, but the %s backend uses the host's memory: "
            "give it a size",
            rank->opts->kv_share * 100.0, ops->name);
    /* Ranks that share a device look at it when all have their weights and activations, and take
     * their parts when all have looked. */
    *ret_bytes = 0;
    st = rank->comm->ops->min_u64(rank->comm, ret_bytes, 1, err);
    if (st == SC_OK)
        st = ops->memory(rank->be, &left, &total, err);
    if (st != SC_OK)
        return st;
    uint32_t n_here = 0;
    for (uint32_t r = 0; r < rank->n_ranks; r++)
        n_here += rank->opts->devices == NULL
                      ? r == rank->rank
                      : rank->opts->devices[r] == rank->opts->devices[rank->rank];
    *ret_bytes = (uint64_t)((double)left * rank->opts->kv_share) / n_here;
    return rank->comm->ops->min_u64(rank->comm, ret_bytes, 1, err);
}

static enum sc_status open_pool(struct sc_rank *rank, struct sc_err *err)
{
    const struct sc_kv_spec spec = {.n_kv_heads = rank->slice.n_kv_heads,
                                    .head_dim = rank->config->head_dim,
                                    .dtype = rank->opts->kv_dtype};
    uint64_t bytes = rank->opts->kv_bytes;
    enum sc_status st = SC_OK;

    rank->page_bytes = rank->be->ops->kv_page_bytes(rank->be, &spec);
    if (rank->page_bytes == 0)
        return sc_fail(err, SC_ENOTSUP, "kv pages: %u heads of %u %s: not with this backend",
                       spec.n_kv_heads, spec.head_dim, sc_dtype_name(spec.dtype));
    if (bytes == 0)
        st = share_of_device(rank, &bytes, err);
    if (st != SC_OK)
        return st;
    uint64_t n_pages = bytes / rank->page_bytes;
    if (n_pages < rank->config->n_layers * 2ull)
        return sc_fail(
            err, SC_EINVAL,
            "kv memory: %llu bytes a rank hold %llu pages of %zu bytes, at least %u are needed",
            (unsigned long long)bytes, (unsigned long long)n_pages, rank->page_bytes,
            rank->config->n_layers * 2);
    if (n_pages > UINT32_MAX / 2)
        n_pages = UINT32_MAX / 2;
    st = rank->be->ops->kv_open(rank->be, &spec, (uint32_t)n_pages, &rank->pool, err);
    if (st == SC_OK)
        st = sc_pages_open(&rank->pages, (uint32_t)n_pages, err);
    return st;
}

enum sc_status sc_rank_open(const struct sc_engine_opts *opts, uint32_t rank_no,
                            uint32_t max_context, const struct sc_token_table *classes,
                            struct sc_comm *comm, struct sc_rank *rank, struct sc_err *err)
{
    const struct sc_backend_opts be_opts = {.rank = rank_no,
                                            .n_ranks = opts->n_ranks,
                                            .n_threads = opts->n_threads,
                                            .device = opts->devices != NULL ? opts->devices[rank_no]
                                                                            : (int)rank_no,
                                            .pin_threads = opts->pin_threads,
                                            .plain_weights = opts->plain_weights,
                                            .math = opts->math,
                                            .strict = opts->strict};
    enum sc_status st;

    *rank = (struct sc_rank){.rank = rank_no,
                             .n_ranks = opts->n_ranks,
                             .opts = opts,
                             .config = &opts->model->config,
                             .classes = classes,
                             .comm = comm,
                             .max_context = max_context,
                             .n_choices = opts->model->config.vocab};
    if (opts->model->tok != NULL && sc_tokenizer_vocab(opts->model->tok) < rank->n_choices)
        rank->n_choices = sc_tokenizer_vocab(opts->model->tok);
    st = sc_slice_init(rank->config, rank_no, opts->n_ranks, &rank->slice, err);
    if (st == SC_OK)
        st = opts->open_backend(&be_opts, &rank->be, err);
    if (st == SC_OK)
        st = comm->ops->attach(comm, rank->be, opts->reduce_dtype, err);
    if (st == SC_OK)
        st = sc_weights_open(rank, &rank->weights, err);
    if (st == SC_OK)
        st = open_activations(rank, err);
    if (st == SC_OK)
        st = open_choices(rank, err);
    if (st == SC_OK)
        st = open_pool(rank, err);
    if (st == SC_OK)
        st = open_sequences(rank, err);
    if (st == SC_OK)
        st = sc_snaps_open(rank, err);
    if (st == SC_OK)
        st = open_scratch(rank, err);
    if (st != SC_OK)
        sc_rank_close(rank);
    return st;
}

void sc_rank_close(struct sc_rank *rank)
{
    float *device[] = {rank->resid,
                       rank->x,
                       rank->qkv,
                       rank->attn,
                       rank->delta,
                       rank->gate_up,
                       rank->act,
                       rank->angles,
                       rank->last,
                       rank->logits_local,
                       rank->best,
                       (float *)rank->dist,
                       rank->whole != rank->logits_local ? rank->whole : NULL};
    void *host[] = {rank->logits != rank->whole ? rank->logits : NULL,
                    rank->draws,
                    rank->chosen,
                    rank->bests,
                    rank->seqs,
                    rank->seq_memory[0],
                    rank->seq_memory[1],
                    rank->seq_memory[2],
                    rank->seq_memory[3],
                    rank->rows.positions,
                    rank->rows.pages,
                    rank->rows.slots,
                    rank->rows.logit_rows,
                    rank->rows.tokens,
                    rank->rows.attn,
                    rank->jobs,
                    rank->job_layers,
                    rank->job_cores,
                    rank->counts,
                    rank->labels,
                    rank->seeds,
                    rank->inv_var,
                    rank->mean_key,
                    rank->inv_freq};
    if (rank->be != NULL) {
        if (rank->be->ops->unpin != NULL && rank->bests != NULL) {
            rank->be->ops->unpin(rank->be, rank->logits);
            rank->be->ops->unpin(rank->be, rank->bests);
        }
        for (size_t i = 0; i < SC_ARRAY_LEN(device); i++)
            rank->be->ops->free(rank->be, device[i]);
        if (rank->pool != NULL)
            rank->be->ops->kv_close(rank->be, rank->pool);
        sc_weights_close(rank->be, rank->config->n_layers, &rank->weights);
        rank->comm->ops->detach(rank->comm);
        rank->be->ops->close(rank->be);
    }
    for (size_t i = 0; i < SC_ARRAY_LEN(host); i++)
        free(host[i]);
    sc_snaps_close(&rank->snaps);
    sc_pages_close(&rank->pages);
    sc_calibration_fini(&rank->calibration);
    *rank = (struct sc_rank){0};
}

void sc_rank_use_variances(struct sc_rank *rank, const struct sc_calibration *c)
{
    const struct sc_slice *s = &rank->slice;
    const size_t head_dim = rank->config->head_dim;
    for (uint32_t l = 0; l < rank->config->n_layers; l++)
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            float var =
                c->key_var != NULL ? c->key_var[(size_t)l * c->n_kv_heads + s->kv_head0 + h] : 0.0f;
            /* A head whose keys never change has no say; 1 / var must not become infinite. */
            rank->inv_var[(size_t)l * s->n_kv_heads + h] = var >= FLT_MIN ? 1.0f / var : 0.0f;
            if (c->mean_key != NULL)
                memcpy(rank->mean_key + ((size_t)l * s->n_kv_heads + h) * head_dim,
                       c->mean_key + ((size_t)l * c->n_kv_heads + s->kv_head0 + h) * head_dim,
                       head_dim * sizeof(*rank->mean_key));
        }
}

void sc_rank_set_calibration(struct sc_rank *rank, struct sc_calibration *c)
{
    sc_calibration_fini(&rank->calibration);
    rank->calibration = *c;
    *c = (struct sc_calibration){0};
    sc_rank_use_variances(rank, &rank->calibration);
}

void sc_rank_reset(struct sc_rank *rank)
{
    for (uint32_t i = 0; i < rank->opts->max_seqs; i++)
        sc_seq_forget(rank, &rank->seqs[i]);
    sc_snaps_reset(&rank->snaps);
    sc_pages_reset(&rank->pages);
}

/* What every rank must agree on before it enters a collective whose shape the plan decides. */
static uint64_t plan_digest(const struct sc_rank *rank, const struct sc_plan *plan, uint64_t step,
                            uint64_t generation)
{
    static const struct sc_recipe_context none = {0}; /* thresholds are hashed below */
    uint64_t h = sc_mix64(step ^ sc_mix64(generation));
    h = sc_mix64(h ^ ((uint64_t)rank->pages.n_cached << 32 | rank->pages.n_free));
    for (uint32_t i = 0; i < plan->n_keeps; i++)
        h = sc_mix64(h ^ ((uint64_t)plan->keeps[i].slot << 32 | plan->keeps[i].snap));
    for (uint32_t i = 0; i < plan->n_makes; i++)
        h = sc_mix64(h ^ ((uint64_t)plan->makes[i].snap << 32 | plan->makes[i].shape->n_logical));
    for (uint32_t i = 0; i < plan->n_drops; i++)
        h = sc_mix64(h ^ (plan->drops[i] + 3ull));
    h = sc_mix64(h ^ plan->n_closes);
    h = sc_mix64(h ^ ((uint64_t)plan->n_opens << 32 | plan->n_runs));
    for (uint32_t i = 0; i < plan->n_closes; i++)
        h = sc_mix64(h ^ (plan->closes[i] + 1ull));
    for (uint32_t i = 0; i < plan->n_opens; i++) {
        const struct sc_plan_open *open = &plan->opens[i];
        const struct sc_seq *seq = &rank->seqs[open->slot];
        struct sc_hash id = sc_recipe_id(open->recipe, &none);
        uint64_t id0;
        memcpy(&id0, id.bytes, sizeof(id0));
        h = sc_mix64(h ^ ((uint64_t)open->slot << 32 | open->prompt_len));
        h = sc_mix64(h ^ ((uint64_t)open->from << 32 | open->n_from));
        h = sc_mix64(h ^ id0);
        for (uint32_t l = 0; seq->recipe.mode == SC_KV_COMPRESSED && l < 2 * rank->config->n_layers;
             l++) /* of this rank's own calibration */
            h = sc_mix64(sc_mix64(h ^ (uint64_t)seq->tau[l]) ^ (uint64_t)seq->alone_above[l]);
    }
    for (uint32_t i = 0; i < plan->n_runs; i++) {
        const struct sc_plan_run *run = &plan->runs[i];
        h = sc_mix64(h ^ ((uint64_t)run->slot << 32 | run->n_tokens));
        h = sc_mix64(h ^ ((uint64_t)run->want << 32 | run->pos0));
        h = sc_mix64(h ^ rank->seqs[run->slot].compressed_to);
        for (uint32_t t = 0; t < run->n_tokens; t++)
            h = sc_mix64(h ^ (uint32_t)run->tokens[t]);
    }
    return sc_mix64(h ^ ((uint64_t)rank->whole_rows << 1 | rank->only_best));
}

static enum sc_status compare_digest(struct sc_rank *rank, uint64_t digest, uint64_t step,
                                     struct sc_err *err)
{
    uint64_t both[2] = {digest, ~digest};
    enum sc_status st = rank->comm->ops->min_u64(rank->comm, both, 2, err);
    if (st != SC_OK)
        return st;
    if (both[0] == ~both[1])
        return SC_OK;
    rank->comm->ops->abort(rank->comm);
    return sc_fail(err, SC_EDIVERGED,
                   "step %llu: rank %u has plan digest %016llx, lowest is %016llx",
                   (unsigned long long)step, rank->rank, (unsigned long long)digest,
                   (unsigned long long)both[0]);
}

static enum sc_status execute_snaps(struct sc_rank *rank, const struct sc_plan *plan,
                                    struct sc_err *err)
{
    enum sc_status st = SC_OK;
    for (uint32_t i = 0; i < plan->n_keeps; i++)
        sc_snap_keep(rank, &plan->keeps[i]);
    for (uint32_t i = 0; i < plan->n_makes; i++)
        sc_snap_make(rank, &plan->makes[i]);
    for (uint32_t i = 0; i < plan->n_moves && st == SC_OK; i++)
        st = sc_snap_move(rank, &plan->moves[i], err);
    for (uint32_t i = 0; i < plan->n_drops && st == SC_OK; i++)
        sc_snap_drop(rank, plan->drops[i]);
    return st;
}

/* Within a prompt the next step begins by compressing what this one has read, and waits for the
 * clusters: until then the device need not wait for the host. Nobody is told of such a step, and
 * what fails in it is told by the next. One step ahead and no more: what arrives meanwhile is in no
 * plan yet. Several ranks end each step together, as its collectives have deadlines. */
static bool next_step_waits(const struct sc_rank *rank, const struct sc_plan *plan)
{
    if (rank->n_ranks > 1 || rank->rows.n_logits > 0)
        return false;
    for (uint32_t i = 0; i < plan->n_runs; i++) {
        const struct sc_seq *seq = &rank->seqs[plan->runs[i].slot];
        if (seq->n_logical >= seq->prompt_len ||
            sc_recipe_compressed_limit(&seq->recipe, seq->prompt_len, seq->n_logical) <=
                seq->epoch_done)
            return false;
    }
    return true;
}

enum sc_status sc_rank_execute(struct sc_rank *rank, const struct sc_plan *plan, uint64_t step,
                               uint64_t generation, struct sc_run_result *results,
                               struct sc_err *err)
{
    enum sc_status st = execute_snaps(rank, plan, err);

    for (uint32_t i = 0; i < plan->n_closes && st == SC_OK; i++)
        sc_seq_close(rank, plan->closes[i]);
    for (uint32_t i = 0; i < plan->n_opens && st == SC_OK; i++)
        st = sc_seq_open(rank, &plan->opens[i], err);
    if (st == SC_OK) {
        sc_rank_plan_choices(rank, plan);
        st = compare_digest(rank, plan_digest(rank, plan, step, generation), step, err);
    }
    for (uint32_t i = 0; i < plan->n_runs && st == SC_OK; i++)
        st = sc_seq_compress(rank, &rank->seqs[plan->runs[i].slot], err);
    if (st != SC_OK)
        return st;
    for (uint32_t i = 0; i < plan->n_runs; i++)
        sc_seq_extend(rank, &rank->seqs[plan->runs[i].slot], plan->runs[i].tokens,
                      plan->runs[i].n_tokens);
    if (plan->n_runs > 0) {
        st = sc_rank_forward(rank, plan, err);
        if (st == SC_OK && !next_step_waits(rank, plan))
            st = rank->be->ops->sync(rank->be, err);
    }
    if (st != SC_OK)
        return st;
    for (uint32_t i = 0; i < plan->n_runs; i++) {
        struct sc_seq *seq = &rank->seqs[plan->runs[i].slot];
        sc_seq_count(rank, seq);
        sc_seq_trim(rank, seq);
        sc_seq_count(rank, seq);
    }
    if (rank->rank == 0)
        sc_rank_sample(rank, plan, results);
    return SC_OK;
}
