#include "shard/calibrate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/rank.h"

#define METHOD_VERSION 1u /* larger when the same text would give other numbers */
#define BISECTIONS     14
#define BUILTIN_TOKENS 1024u
#define CHUNKS_MAX     (SC_CALIBRATION_TOKENS_MAX / 16)

struct work {
    struct sc_engine *engine;
    const struct sc_model_config *config;
    uint32_t n_tokens, n_chunks, n_entries; /* entries: tokens that lie in chunks */
    size_t n_ints;                          /* of all chunks' distance matrices */
    struct sc_chunk_job *jobs;
    int32_t *dist, *part; /* [n_ints]: summed over ranks; one rank's */
    uint8_t *labels, *seeds;
    uint32_t *counts;
};

static enum sc_status prefill(struct sc_engine *e, const struct sc_model_config *config,
                              const int32_t *tokens, uint32_t n, struct sc_err *err)
{
    struct sc_recipe recipe;
    struct sc_engine_info info;
    enum sc_status st = SC_OK;

    sc_engine_get_info(e, &info);
    sc_recipe_default(config, SC_KV_EXACT, &recipe);
    memset(recipe.exact_layers, 0, sizeof(recipe.exact_layers));
    const struct sc_plan_open open = {.slot = 0, .recipe = &recipe, .prompt_len = n};
    for (uint32_t pos = 0; pos < n && st == SC_OK;) {
        uint32_t take = n - pos < info.max_step_tokens ? n - pos : info.max_step_tokens;
        const struct sc_plan_run run = {.slot = 0,
                                        .pos0 = pos,
                                        .n_tokens = take,
                                        .tokens = tokens + pos,
                                        .want = SC_LOGITS_NONE};
        const struct sc_plan plan = {
            .opens = &open, .n_opens = pos == 0, .runs = &run, .n_runs = 1};
        struct sc_run_result result;
        st = sc_engine_step(e, &plan, &result, err);
        pos += take;
    }
    return st;
}

/* Trace of the covariance of a head's keys, de-rotated to position 0 (RoPE is orthogonal up to its
 * scale): the mean squared distance to the mean key; and that key. */
static enum sc_status head_variance(struct work *w, uint32_t layer, uint32_t head, float *ret_var,
                                    float *ret_mean, struct sc_err *err)
{
    const uint32_t hd = w->config->head_dim, half = hd / 2;
    const float *inv_freq = sc_engine_rank(w->engine, 0)->inv_freq;
    double mean[SC_HEAD_DIM_MAX] = {0}, sum_sq = 0.0, mean_sq = 0.0;
    float k[SC_HEAD_DIM_MAX], v[SC_HEAD_DIM_MAX], bias;
    uint32_t first = sc_engine_layer_entries(w->engine, 0, layer);

    first = w->n_tokens - first; /* a sliding window may have dropped the first positions */
    for (uint32_t p = first; p < w->n_tokens; p++) {
        enum sc_status st =
            sc_engine_read_entry(w->engine, 0, layer, p - first, head, k, v, &bias, err);
        if (st != SC_OK)
            return st;
        for (uint32_t i = 0; i < half; i++) {
            double a = (double)((float)p * inv_freq[i]), c = cos(a), s = sin(a);
            double x = k[i] * c + k[i + half] * s, y = k[i + half] * c - k[i] * s;
            mean[i] += x;
            mean[i + half] += y;
            sum_sq += x * x + y * y;
        }
    }
    double n = w->n_tokens - first;
    for (uint32_t i = 0; i < hd; i++) {
        mean_sq += mean[i] / n * (mean[i] / n);
    }
    /* Rounded, so that the last bits of the keys, which depend on the number of ranks, seldom
     * change anything: the calibration is part of every cache key. */
    const double step = ldexp(1.0, ilogb(fmax(sqrt((sum_sq / n - mean_sq) / hd), 1e-30)) - 8);
    for (uint32_t i = 0; i < hd; i++)
        ret_mean[i] = (float)(nearbyint(mean[i] / n / step) * step);
    *ret_var = (float)fmax(sum_sq / n - mean_sq, 0.0);
    return SC_OK;
}

static void cut_chunks(struct work *w, const int32_t *tokens)
{
    struct sc_recipe recipe;
    const struct sc_token_table *classes = sc_engine_rank(w->engine, 0)->classes;

    sc_recipe_default(w->config, SC_KV_COMPRESSED, &recipe);
    for (uint32_t start = 0; start < w->n_tokens && w->n_chunks < CHUNKS_MAX;) {
        uint32_t end = sc_chunk_end(classes, &recipe, tokens, start, w->n_tokens, w->n_tokens);
        if (end == 0)
            break;
        if (end - start >= BUILTIN_TOKENS / 128) { /* scraps say nothing about a ratio */
            w->jobs[w->n_chunks++] = (struct sc_chunk_job){.pos0 = start, .m = end - start};
            w->n_ints += (size_t)(end - start) * (end - start);
            w->n_entries += end - start;
        }
        start = end;
    }
}

/* Distances of all chunks in one layer, summed over all ranks' heads. */
static enum sc_status layer_distances(struct work *w, uint32_t layer, enum sc_metric metric,
                                      struct sc_err *err)
{
    enum sc_status st = SC_OK;
    memset(w->dist, 0, w->n_ints * sizeof(*w->dist));
    for (uint32_t r = 0; r < sc_engine_rank(w->engine, 0)->n_ranks && st == SC_OK; r++) {
        struct sc_rank *rank = sc_engine_rank(w->engine, r);
        for (uint32_t j = 0; j < w->n_chunks; j++) {
            w->jobs[j].exact_pages = rank->seqs[0].layers[layer].exact_pages;
            w->jobs[j].mean_key = sc_rank_mean_keys(rank, layer);
            w->jobs[j].inv_var = rank->inv_var + (size_t)layer * rank->slice.n_kv_heads;
        }
        const struct sc_dist_args args = {
            .pool = rank->pool,
            .jobs = w->jobs,
            .n_jobs = w->n_chunks,
            .n_planes = 1,
            .n_kv_heads = rank->slice.n_kv_heads,
            .head_dim = w->config->head_dim,
            .metric = metric,
            .inv_freq = rank->inv_freq,
            .cap = INT32_MAX / (int32_t)w->config->n_kv_heads,
            .contributes = rank->slice.owns_kv,
            .dist = rank->dist,
        };
        st = rank->be->ops->distances(rank->be, &args, err);
        if (st == SC_OK)
            st = rank->be->ops->download(rank->be, w->part, rank->dist,
                                         w->n_ints * sizeof(*w->part), err);
        for (size_t i = 0; i < w->n_ints && st == SC_OK; i++)
            w->dist[i] += w->part[i];
    }
    if (st == SC_OK) {
        struct sc_rank *r0 = sc_engine_rank(w->engine, 0);
        st = r0->be->ops->upload(r0->be, r0->dist, w->dist, w->n_ints * sizeof(*w->dist), err);
    }
    return st;
}

static int falling(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Above it lies SC_OUTLIER_SHARE of what each ratio keeps, on the diagonals of the layer. */
static void layer_outliers(struct work *w, const float *ratios, float *alone)
{
    size_t at = 0;
    uint32_t n = 0;
    for (uint32_t j = 0; j < w->n_chunks; j++) {
        const size_t m = w->jobs[j].m;
        for (size_t i = 0; i < m; i++)
            w->part[n++] = w->dist[at + i * m + i];
        at += m * m;
    }
    qsort(w->part, n, sizeof(*w->part), falling);
    for (uint32_t i = 0; i < SC_CALIBRATION_RATIOS; i++) { /* rounded as the mean keys are */
        const int32_t limit = w->part[(uint32_t)(SC_OUTLIER_SHARE * ratios[i] * (float)n)];
        alone[i] = roundf((float)limit / SC_DIST_ONE * 64.0f) / 64.0f;
    }
}

static enum sc_status count_cores(struct work *w, int64_t tau, uint32_t *ret_n, struct sc_err *err)
{
    struct sc_rank *r0 = sc_engine_rank(w->engine, 0);
    for (uint32_t j = 0; j < w->n_chunks; j++)
        w->jobs[j].tau = tau;
    const struct sc_cluster_args args = {
        .jobs = w->jobs,
        .n_jobs = w->n_chunks,
        .n_planes = 1,
        .seed_order = SC_SEED_DENSE,
        .dist = r0->dist,
        .labels = w->labels,
        .seeds = w->seeds,
        .counts = w->counts,
    };
    enum sc_status st = r0->be->ops->cluster(r0->be, &args, err);
    uint32_t n = 0;
    for (uint32_t j = 0; j < w->n_chunks && st == SC_OK; j++)
        n += w->counts[j];
    *ret_n = n;
    return st;
}

/* Fewer entries need a larger threshold, so each ratio starts from the one before. */
static enum sc_status layer_thresholds(struct work *w, const float *ratios, const float *alone,
                                       float *tau, struct sc_err *err)
{
    int64_t top = 0, low = 0;
    for (size_t i = 0; i < w->n_ints; i++)
        top = w->dist[i] > top ? w->dist[i] : top;
    for (uint32_t i = 0; i < SC_CALIBRATION_RATIOS; i++) {
        int64_t high = top;
        for (uint32_t j = 0; j < w->n_chunks; j++)
            w->jobs[j].alone_above = llroundf(alone[i] * (float)SC_DIST_ONE);
        for (int b = 0; b < BISECTIONS && low < high; b++) {
            int64_t mid = low + (high - low) / 2;
            uint32_t n;
            enum sc_status st = count_cores(w, mid, &n, err);
            if (st != SC_OK)
                return st;
            if (n > (uint32_t)(ratios[i] * (float)w->n_entries))
                low = mid + 1;
            else
                high = mid;
        }
        tau[i] = (float)((double)high / (double)SC_DIST_ONE);
        low = high;
    }
    return SC_OK;
}

static void use_variances(struct sc_engine *e, const struct sc_calibration *c)
{
    for (uint32_t r = 0; r < sc_engine_rank(e, 0)->n_ranks; r++)
        sc_rank_use_variances(sc_engine_rank(e, r),
                              c != NULL ? c : &sc_engine_rank(e, r)->calibration);
}

static enum sc_status measure(struct work *w, struct sc_calibration *c, struct sc_err *err)
{
    enum sc_status st = SC_OK;
    for (uint32_t l = 0; l < c->n_layers && st == SC_OK; l++)
        for (uint32_t h = 0; h < c->n_kv_heads && st == SC_OK; h++)
            st = head_variance(w, l, h, &c->key_var[(size_t)l * c->n_kv_heads + h],
                               &c->mean_key[((size_t)l * c->n_kv_heads + h) * c->head_dim], err);
    use_variances(w->engine, c); /* distances need them, and the mean keys */
    for (uint32_t m = 0; m < SC_METRIC_COUNT && st == SC_OK; m++)
        for (uint32_t l = 0; l < c->n_layers && st == SC_OK; l++) {
            if (w->config->sliding_window[l] != 0)
                continue; /* never compressed, and its first positions are gone */
            st = layer_distances(w, l, (enum sc_metric)m, err);
            float *alone = c->alone + (size_t)l * SC_CALIBRATION_RATIOS;
            if (st == SC_OK && m == 0) /* whatever the metric */
                layer_outliers(w, c->ratios, alone);
            if (st == SC_OK)
                st = layer_thresholds(
                    w, c->ratios, alone,
                    c->tau + ((size_t)m * c->n_layers + l) * SC_CALIBRATION_RATIOS, err);
        }
    return st;
}

static enum sc_status work_init(struct work *w, const int32_t *tokens, struct sc_err *err)
{
    w->jobs = calloc(CHUNKS_MAX, sizeof(*w->jobs));
    if (w->jobs != NULL)
        cut_chunks(w, tokens);
    w->dist = calloc(w->n_ints + 1, sizeof(*w->dist));
    w->part = calloc(w->n_ints + 1, sizeof(*w->part));
    w->labels = calloc(CHUNKS_MAX, SC_CHUNK_MAX);
    w->seeds = calloc(CHUNKS_MAX, SC_CHUNK_MAX);
    w->counts = calloc(CHUNKS_MAX, sizeof(*w->counts));
    if (w->jobs == NULL || w->dist == NULL || w->part == NULL || w->labels == NULL ||
        w->seeds == NULL || w->counts == NULL)
        return sc_fail(err, SC_ENOMEM, "calibration: out of memory");
    if (w->n_chunks == 0 || w->n_ints > SC_DIST_INTS_MAX)
        return sc_fail(err, SC_EINVAL,
                       "calibration: the text gives %u chunks and %zu distances, "
                       "must be at least 1 and at most %zu",
                       w->n_chunks, w->n_ints, SC_DIST_INTS_MAX);
    return SC_OK;
}

enum sc_status sc_calibrate(struct sc_engine *engine, const struct sc_model *model,
                            const int32_t *tokens, uint32_t n_tokens, struct sc_calibration *ret_c,
                            struct sc_err *err)
{
    struct work w = {.engine = engine, .config = &model->config, .n_tokens = n_tokens};
    struct sc_calibration c = {0};
    enum sc_status st;

    if (n_tokens < SC_CALIBRATION_TOKENS_MIN || n_tokens > SC_CALIBRATION_TOKENS_MAX)
        return sc_fail(err, SC_EINVAL, "calibration text: %u tokens, must be %u..%u", n_tokens,
                       SC_CALIBRATION_TOKENS_MIN, SC_CALIBRATION_TOKENS_MAX);
    for (uint32_t i = 0; i < sc_engine_rank(engine, 0)->opts->max_seqs; i++)
        if (sc_engine_rank(engine, 0)->seqs[i].open)
            return sc_fail(err, SC_EINVAL,
                           "calibration: slot %u is in use, the engine must be idle", i);
    st = sc_calibration_init(&c, model->config.n_layers, model->config.n_kv_heads,
                             model->config.head_dim, err);
    if (st != SC_OK)
        return st;
    c.n_tokens = n_tokens;
    c.model = model->fingerprint;
    st = prefill(engine, &model->config, tokens, n_tokens, err);
    if (st == SC_OK)
        st = work_init(&w, tokens, err);
    if (st == SC_OK)
        st = measure(&w, &c, err);
    if (sc_engine_rank(engine, 0)->seqs[0].open) {
        const uint32_t slot = 0;
        const struct sc_plan plan = {.closes = &slot, .n_closes = 1};
        enum sc_status closed = sc_engine_step(engine, &plan, NULL, err);
        st = st == SC_OK ? closed : st;
    }
    if (st == SC_OK)
        st = sc_engine_set_calibration(engine, &c, err);
    if (st != SC_OK)
        use_variances(engine, NULL); /* those of the calibration it had before, if any */
    free(w.jobs);
    free(w.dist);
    free(w.part);
    free(w.labels);
    free(w.seeds);
    free(w.counts);
    if (st == SC_OK && ret_c != NULL)
        *ret_c = c;
    else
        sc_calibration_fini(&c);
    return st;
}

/* The tokens of the built-in text that are measured, as many as the engine has room for. */
static enum sc_status builtin_sample(const struct sc_engine *engine, const struct sc_model *model,
                                     struct sc_ids *ids, uint32_t *ret_n, struct sc_err *err)
{
    const struct sc_encode_opts opts = {.add_special_tokens = true};
    const char *text = sc_calibration_text();
    struct sc_engine_info info;
    enum sc_status st = sc_tokenizer_encode(model->tok, text, strlen(text), &opts, ids, err);

    if (st != SC_OK)
        return st;
    sc_engine_get_info(engine, &info);
    *ret_n = ids->n < BUILTIN_TOKENS ? (uint32_t)ids->n : BUILTIN_TOKENS;
    if (*ret_n > info.max_context)
        *ret_n = info.max_context;
    return SC_OK;
}

enum sc_status sc_calibrate_builtin(struct sc_engine *engine, const struct sc_model *model,
                                    struct sc_err *err)
{
    struct sc_ids ids = {0};
    uint32_t n = 0;
    enum sc_status st = builtin_sample(engine, model, &ids, &n, err);

    if (st == SC_OK)
        st = sc_calibrate(engine, model, ids.ids, n, NULL, err);
    sc_ids_fini(&ids);
    return st;
}

enum sc_status sc_calibrate_builtin_id(const struct sc_engine *engine, const struct sc_model *model,
                                       struct sc_hash *ret_id, struct sc_err *err)
{
    struct sc_hasher h;
    struct sc_ids ids = {0};
    uint32_t n = 0;
    enum sc_status st = builtin_sample(engine, model, &ids, &n, err);

    if (st == SC_OK) {
        sc_hasher_init(&h);
        sc_hasher_str(&h, "semanticache built-in sample");
        sc_hasher_u32(&h, METHOD_VERSION);
        sc_hasher_u32(&h, SC_CHUNKER_VERSION);
        sc_hasher_u32(&h, SC_CALIBRATION_VERSION); /* a file for each */
        for (uint32_t i = 0; i < n; i++)
            sc_hasher_u32(&h, (uint32_t)ids.ids[i]);
        *ret_id = sc_hasher_end(&h);
    }
    sc_ids_fini(&ids);
    return st;
}

enum sc_status sc_calibrate_from_file(struct sc_engine *engine, const struct sc_model *model,
                                      const char *path, struct sc_err *err)
{
    struct sc_calibration c = {0};
    enum sc_status st = sc_calibration_load(path, &model->config, &model->fingerprint, &c, err);

    if (st == SC_OK)
        st = sc_engine_set_calibration(engine, &c, err);
    sc_calibration_fini(&c);
    return st;
}

enum sc_status sc_calibrate_own(struct sc_engine *engine, const struct sc_model *model,
                                bool *ret_found, struct sc_err *err)
{
    struct sc_err why = SC_ERR_INIT;
    char path[4096];

    if ((size_t)snprintf(path, sizeof(path), "%s/%s", model->dir, SC_CALIBRATION_FILE) >=
        sizeof(path))
        return sc_fail(err, SC_EINVAL, "%s: path longer than %zu bytes", model->dir, sizeof(path));
    enum sc_status st = sc_calibrate_from_file(engine, model, path, &why);
    *ret_found = st == SC_OK;
    return st == SC_OK || st == SC_ENOENT ? SC_OK : sc_fail(err, st, "%s", why.text);
}

enum sc_status sc_calibrate_default(struct sc_engine *engine, const struct sc_model *model,
                                    bool *ret_builtin, struct sc_err *err)
{
    bool found = false;
    enum sc_status st = sc_calibrate_own(engine, model, &found, err);
    if (st == SC_OK && !found)
        st = sc_calibrate_builtin(engine, model, err);
    if (st == SC_OK)
        *ret_builtin = !found;
    return st;
}
