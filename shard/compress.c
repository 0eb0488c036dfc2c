/* Streaming compression of one sequence, epoch by epoch: chunk, distances, one integer all-reduce,
 * clusters, agreement, merge. Every rank runs this with the same tokens and ends with the same
 * counts, hence the same pages. Algorithm: docs/compression.md. */
#include "shard/rank.h"

#include <math.h>
#include <string.h>
#include <time.h>

static uint64_t now_us(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static bool per_head(const struct sc_seq *seq)
{
    return seq->recipe.label_scope == SC_LABELS_PER_HEAD;
}

static uint32_t planes_of(const struct sc_rank *rank, const struct sc_seq *seq)
{
    return per_head(seq) ? rank->slice.n_kv_heads : 1;
}

/* Sinks and special tokens stay alone: exact, whatever their neighbours. */
static uint32_t mark_forced(const struct sc_rank *rank, const struct sc_seq *seq, uint32_t pos0,
                            uint32_t m, uint64_t forced[SC_CHUNK_MAX / 64])
{
    uint32_t n = 0;
    memset(forced, 0, SC_CHUNK_MAX / 8);
    for (uint32_t i = 0; i < m; i++) {
        uint32_t pos = pos0 + i;
        uint16_t c = sc_token_table_get(rank->classes, seq->tokens[pos]);
        if (pos < seq->recipe.n_sinks || (c & SC_TOKEN_SPECIAL) != 0) {
            forced[i / 64] |= 1ull << (i % 64);
            n++;
        }
    }
    return n;
}

/* Outliers, in threshold mode: a layer may keep so many times its share of entries in the long run,
 * so that a text unlike that of the calibration, all of which is far from the mean key, is
 * compressed as well. What is not used is saved, a first credit with it, and each chunk of an epoch
 * may use an eighth of what was saved before the epoch: a passage full of facts keeps them. */
#define OUTLIERS_SHARE  1.5
#define OUTLIERS_CREDIT 256.0
#define OUTLIERS_SPREAD 8.0

double sc_seq_first_carry(const struct sc_recipe *recipe)
{
    return recipe->budget == SC_BUDGET_THRESHOLD ? OUTLIERS_CREDIT : 0.0;
}

/* Where none are kept, nobody measures how far tokens are from the mean key. */
static bool has_outliers(const struct sc_recipe *recipe)
{
    return recipe->keep_outliers && recipe->budget == SC_BUDGET_THRESHOLD;
}

/* Outliers that a chunk may keep. The same for all chunks of an epoch, which are made together. */
static uint32_t most_outliers(const struct sc_seq_layer *layer, bool generated, uint32_t m)
{
    double k =
        floor(m * OUTLIERS_SHARE * layer->share[generated] + layer->epoch_carry / OUTLIERS_SPREAD);
    return k < 0.0 ? 0 : k > m ? m : (uint32_t)k;
}

/* Entries this chunk may keep: its share plus what earlier chunks of the layer did not use. */
static uint32_t chunk_budget(const struct sc_seq *seq, const struct sc_seq_layer *layer,
                             uint32_t pos0, uint32_t m)
{
    bool generated = pos0 >= seq->prompt_len;
    double k = floor(m * layer->share[generated] + layer->carry);
    return k < 1.0 ? 1u : k > m ? m : (uint32_t)k;
}

/* Eight at a time: the device waits for the end of it. */
static uint64_t mix_bytes(uint64_t h, const uint8_t *x, size_t n)
{
    for (size_t i = 0; i < n; i += sizeof(h)) {
        uint64_t word = 0;
        memcpy(&word, x + i, n - i < sizeof(word) ? n - i : sizeof(word));
        h = sc_mix64(h ^ word);
    }
    return h;
}

/* All ranks must have made the same clusters before anything takes its shape from them. Where
 * labels are per head only the counts can be compared. A lone rank has nobody to differ from, and
 * perhaps no labels here (keeps_labels). */
static enum sc_status check_agreement(struct sc_rank *rank, const struct sc_seq *seq,
                                      struct sc_err *err)
{
    uint64_t h = sc_mix64(seq->slot + 1ull), both[2];

    if (rank->n_ranks == 1)
        return SC_OK;
    for (uint32_t j = 0; j < rank->n_jobs; j++)
        h = sc_mix64(h ^ rank->job_cores[j]);
    if (!per_head(seq))
        h = mix_bytes(h, rank->labels, rank->n_labels);
    both[0] = h;
    both[1] = ~h;
    enum sc_status st = rank->comm->ops->min_u64(rank->comm, both, 2, err);
    if (st != SC_OK)
        return st;
    if (both[0] != ~both[1]) {
        rank->comm->ops->abort(rank->comm);
        return sc_fail(
            err, SC_EDIVERGED,
            "clusters differ between ranks: rank %u has %016llx, lowest %016llx, slot %u, "
            "%u chunks from position %u",
            rank->rank, (unsigned long long)h, (unsigned long long)both[0], seq->slot, rank->n_jobs,
            rank->jobs[0].pos0);
    }
    return SC_OK;
}

/* Core count of each job: that of the shared labels, or the largest of all heads on all ranks. */
static enum sc_status settle_counts(struct sc_rank *rank, const struct sc_seq *seq,
                                    struct sc_err *err)
{
    uint32_t n_planes = planes_of(rank, seq);
    for (uint32_t j = 0; j < rank->n_jobs; j++) {
        rank->job_cores[j] = 0;
        for (uint32_t p = 0; p < n_planes; p++)
            if (rank->counts[j * n_planes + p] > rank->job_cores[j])
                rank->job_cores[j] = rank->counts[j * n_planes + p];
    }
    if (per_head(seq))
        return rank->comm->ops->max_u32(rank->comm, rank->job_cores, rank->n_jobs, err);
    return SC_OK;
}

static void place_cores(struct sc_rank *rank, struct sc_seq *seq)
{
    seq->tables = ++rank->n_tables;
    for (uint32_t j = 0; j < rank->n_jobs; j++) {
        struct sc_seq_layer *layer = &seq->layers[rank->job_layers[j]];
        struct sc_chunk_job *job = &rank->jobs[j];
        uint32_t held = (layer->n_cores + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
        uint32_t wanted =
            (layer->n_cores + rank->job_cores[j] + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
        for (uint32_t i = held; i < wanted; i++)
            layer->core_pages[i] = sc_pages_take(&rank->pages);
        seq->stats.pages += wanted - held;
        job->core_pages = layer->core_pages;
        job->core0 = layer->n_cores;
        layer->n_cores += rank->job_cores[j];
    }
}

static void report_chunks(const struct sc_rank *rank, const struct sc_seq *seq)
{
    size_t at = 0, stride = planes_of(rank, seq);
    if (seq->on_chunk == NULL || rank->rank != 0)
        return;
    for (uint32_t j = 0; j < rank->n_jobs; j++) {
        const struct sc_chunk_event e = {.slot = seq->slot,
                                         .layer = rank->job_layers[j],
                                         .pos0 = rank->jobs[j].pos0,
                                         .n_tokens = rank->jobs[j].m,
                                         .n_cores = rank->job_cores[j],
                                         .labels = rank->labels + at};
        seq->on_chunk(seq->on_chunk_ctx, &e);
        at += stride * rank->jobs[j].m;
    }
}

/* Distances wait on the device behind the step before, if that was not waited for: what was done
 * here meanwhile took nobody's time, and the clock starts now. */
static enum sc_status start_clock(struct sc_rank *rank, struct sc_err *err)
{
    bool waited = false;
    enum sc_status st = SC_OK;
    if (rank->be->ops->step_wait != NULL)
        st = rank->be->ops->step_wait(rank->be, &waited, err);
    if (waited)
        rank->compress_from_us = now_us();
    return st;
}

/* Nobody here reads the labels: other ranks to compare them with there are none, and no listener. A
 * device need not send them then, nor be sent them again, while it waits for the merge. */
static bool keeps_labels(const struct sc_rank *rank, const struct sc_seq *seq)
{
    return rank->n_ranks == 1 && seq->on_chunk == NULL;
}

/* Runs the batch of jobs collected so far. */
static enum sc_status flush_jobs(struct sc_rank *rank, struct sc_seq *seq, struct sc_err *err)
{
    const struct sc_backend_ops *ops = rank->be->ops;
    uint32_t n_planes = planes_of(rank, seq);
    enum sc_status st;

    if (rank->n_jobs == 0)
        return SC_OK;
    const struct sc_dist_args dist = {
        .pool = rank->pool,
        .jobs = rank->jobs,
        .n_jobs = rank->n_jobs,
        .n_planes = n_planes,
        .n_kv_heads = rank->slice.n_kv_heads,
        .head_dim = rank->config->head_dim,
        .metric = seq->recipe.metric,
        .inv_freq = rank->inv_freq,
        .cap = INT32_MAX / (int32_t)rank->config->n_kv_heads,
        .contributes = per_head(seq) || rank->slice.owns_kv,
        .dist = rank->dist,
    };
    st = ops->distances(rank->be, &dist, err);
    if (st == SC_OK)
        st = start_clock(rank, err);
    if (st == SC_OK && !per_head(seq))
        st = rank->comm->ops->sum_i32(rank->comm, rank->dist, rank->n_dist, err);
    if (st != SC_OK)
        return st;
    const struct sc_cluster_args cluster = {
        .jobs = rank->jobs,
        .n_jobs = rank->n_jobs,
        .n_planes = n_planes,
        .seed_order = seq->recipe.seed_order,
        .dist = rank->dist,
        .labels = rank->labels,
        .seeds = rank->seeds,
        .counts = rank->counts,
        .keep = keeps_labels(rank, seq),
    };
    st = ops->cluster(rank->be, &cluster, err);
    if (st == SC_OK)
        st = settle_counts(rank, seq, err);
    if (st == SC_OK)
        st = check_agreement(rank, seq, err);
    if (st != SC_OK)
        return st;
    place_cores(rank, seq);
    const struct sc_merge_args merge = {
        .pool = rank->pool,
        .jobs = rank->jobs,
        .n_jobs = rank->n_jobs,
        .n_planes = n_planes,
        .n_kv_heads = rank->slice.n_kv_heads,
        .head_dim = rank->config->head_dim,
        .representative = seq->recipe.representative,
        .log_bias = seq->recipe.log_bias,
        .labels = rank->labels,
        .seeds = rank->seeds,
        .counts = rank->counts,
        .n_cores = rank->job_cores,
        .kept = cluster.keep,
    };
    st = ops->merge(rank->be, &merge, err);
    if (st == SC_OK)
        report_chunks(rank, seq);
    for (uint32_t j = 0; j < rank->n_jobs; j++) {
        struct sc_seq_layer *layer = &seq->layers[rank->job_layers[j]];
        sc_seq_trim_layer(rank, seq, rank->job_layers[j], rank->jobs[j].pos0 + rank->jobs[j].m);
        bool generated = rank->jobs[j].pos0 >= seq->prompt_len;
        double share = layer->share[generated] *
                       (seq->recipe.budget == SC_BUDGET_THRESHOLD ? OUTLIERS_SHARE : 1.0);
        layer->carry += rank->jobs[j].m * share - rank->job_cores[j];
    }
    rank->n_jobs = 0;
    rank->n_dist = rank->n_labels = 0;
    return st;
}

/* A batch is as large as its buffers, and as its cores find pages should none of it merge: when it
 * is done its exact pages come back, for the next one. What comes out is the same.
 *
 * Batches shape a collective, so n_free has to be the same on all ranks: it is compared before a
 * plan's first (the digest), and changes from there on by what all agree on before pages are taken.
 */
static bool batch_is_full(const struct sc_rank *rank, const struct sc_seq *seq, uint32_t m)
{
    uint32_t n_layers = rank->config->n_layers, n_planes = planes_of(rank, seq);
    uint32_t n_partly = rank->n_jobs < n_layers ? rank->n_jobs + 1 : n_layers;
    size_t entries = rank->n_labels / n_planes + m;
    size_t pages = (entries + (size_t)n_partly * (SC_PAGE_ENTRIES - 1)) / SC_PAGE_ENTRIES;
    return rank->n_jobs == SC_JOBS_MAX ||
           rank->n_dist + (size_t)n_planes * m * m > SC_DIST_INTS_MAX || pages > rank->pages.n_free;
}

static enum sc_status add_chunk(struct sc_rank *rank, struct sc_seq *seq, uint32_t pos0, uint32_t m,
                                struct sc_err *err)
{
    uint32_t n_layers = rank->config->n_layers, n_planes = planes_of(rank, seq);
    size_t ints = (size_t)n_planes * m * m;
    bool generated = pos0 >= seq->prompt_len;
    uint64_t forced[SC_CHUNK_MAX / 64];
    const uint32_t n_forced = mark_forced(rank, seq, pos0, m, forced); /* in every layer */
    enum sc_status st = SC_OK;

    for (uint32_t l = 0; l < n_layers; l++) {
        if (sc_recipe_layer_is_exact(&seq->recipe, l))
            continue;
        if (batch_is_full(rank, seq, m))
            st = flush_jobs(rank, seq, err);
        if (st != SC_OK) /* the batch is still full */
            break;
        struct sc_chunk_job *job = &rank->jobs[rank->n_jobs];
        *job = (struct sc_chunk_job){
            .exact_pages = seq->layers[l].exact_pages,
            .pos0 = pos0,
            .m = m,
            .tau = seq->tau[(generated ? n_layers : 0) + l],
            .alone_above = seq->alone_above[(generated ? n_layers : 0) + l],
            .inv_var = rank->inv_var + (size_t)l * rank->slice.n_kv_heads,
            .mean_key = has_outliers(&seq->recipe) ? sc_rank_mean_keys(rank, l) : NULL,
        };
        memcpy(job->forced, forced, sizeof(forced));
        if (seq->recipe.budget == SC_BUDGET_PER_CHUNK) {
            uint32_t k = chunk_budget(seq, &seq->layers[l], pos0, m);
            job->budget = k > n_forced ? k : n_forced + (n_forced < m);
        } else {
            job->most_alone = most_outliers(&seq->layers[l], generated, m);
            if (job->most_alone == 0)
                job->alone_above = INT64_MAX;
        }
        rank->job_layers[rank->n_jobs++] = l;
        rank->n_dist += ints;
        rank->n_labels += (size_t)n_planes * m;
    }
    /* The next chunk's budget depends on what this one used. */
    if (st == SC_OK && seq->recipe.budget == SC_BUDGET_PER_CHUNK)
        st = flush_jobs(rank, seq, err);
    return st;
}

/* Compresses the chunks that end at or before `limit`, a multiple of the epoch. What is visible is
 * cut at limit + window, so that the outcome does not depend on when this runs. */
static enum sc_status compress_epoch(struct sc_rank *rank, struct sc_seq *seq, uint32_t limit,
                                     struct sc_err *err)
{
    uint32_t visible = limit + seq->recipe.window;
    enum sc_status st = SC_OK;

    if (visible > seq->n_logical)
        visible = seq->n_logical;
    for (uint32_t l = 0; l < rank->config->n_layers; l++)
        seq->layers[l].epoch_carry = seq->layers[l].carry;
    while (st == SC_OK && seq->compressed_to < limit) {
        uint32_t start = seq->compressed_to;
        if (start >= seq->prompt_len && !seq->recipe.compress_generated)
            break;
        uint32_t end =
            sc_chunk_end(rank->classes, &seq->recipe, seq->tokens, start, visible, seq->prompt_len);
        if (end == 0 || end > limit)
            break;
        st = add_chunk(rank, seq, start, end - start, err);
        seq->compressed_to = end;
    }
    if (st == SC_OK)
        st = flush_jobs(rank, seq, err);
    if (st != SC_OK)
        return st;
    seq->epoch_done = limit;
    sc_seq_trim(rank, seq);
    return SC_OK;
}

enum sc_status sc_seq_compress(struct sc_rank *rank, struct sc_seq *seq, struct sc_err *err)
{
    uint32_t limit = sc_recipe_compressed_limit(&seq->recipe, seq->prompt_len, seq->n_logical);
    enum sc_status st = SC_OK;

    if (limit <= seq->epoch_done)
        return SC_OK;
    rank->compress_from_us = now_us();
    sc_seq_count(rank, seq); /* the peak is just before */
    rank->n_jobs = 0;
    rank->n_dist = rank->n_labels = 0;
    while (st == SC_OK && seq->epoch_done < limit)
        st = compress_epoch(rank, seq, seq->epoch_done + seq->recipe.epoch, err);
    sc_seq_count(rank, seq);
    seq->stats.compress_us += now_us() - rank->compress_from_us;
    return st;
}
