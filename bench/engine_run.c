#include "bench/engine_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shard/calibrate.h"

#define CALIBRATION_TOKENS 1024u
#define WARM_STEPS         3u    /* a GPU records a step the second time it sees its shape */
#define SLACK_TOKENS       2048u /* an epoch that is there twice, partly filled pages */

struct sc_run {
    struct sc_run_opts opts;
    struct sc_random_model *model;
    const struct sc_model_config *config;
    struct sc_engine *engine;
    struct sc_engine_info info;
    struct sc_recipe recipes[2]; /* by enum sc_kv_mode */
    int32_t *tokens;             /* [max_context] */
    struct sc_sampler *sampler;  /* has no state that matters, so one serves all */
};

static double now_s(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void add_sample(struct sc_run_samples *samples, double s)
{
    if (samples->n < SC_RUN_SAMPLES_MAX)
        samples->s[samples->n++] = s;
}

static void add_ops(struct sc_run_samples *samples)
{
    struct sc_op_times ops;
    sc_op_times_get(&ops);
    for (uint32_t op = 0; op < SC_OP_COUNT; op++) {
        samples->ops.seconds[op] += ops.seconds[op];
        samples->ops.calls[op] += ops.calls[op];
    }
}

static void settle_samples(struct sc_run_samples *samples, struct sc_run_row *row)
{
    double *s = samples->s;
    uint32_t n = samples->n;
    qsort(s, n, sizeof(*s), compare_doubles);
    row->median_s = n % 2 == 1 ? s[n / 2] : (s[n / 2 - 1] + s[n / 2]) / 2;
    for (uint32_t i = 0; i < n; i++)
        row->mean_s += s[i] / n;
    row->min_s = s[0];
    row->max_s = s[n - 1];
    row->compress_s = samples->compress_s / n;
    row->ops = samples->ops;
    for (uint32_t op = 0; op < SC_OP_COUNT; op++)
        row->ops.seconds[op] /= n;
}

/* ---- the engine ---- */

uint64_t sc_run_kv_bytes(const struct sc_model_config *c, enum sc_dtype kv_dtype, uint32_t n_ranks,
                         uint32_t n_seqs, uint32_t n_tokens)
{
    uint64_t heads = c->n_kv_heads > n_ranks ? c->n_kv_heads : n_ranks;
    uint64_t entry = heads * (2ull * sc_kv_row_bytes(kv_dtype, c->head_dim) + 8);
    return (uint64_t)n_seqs * c->n_layers * entry * (n_tokens + SLACK_TOKENS);
}

static void make_recipes(struct sc_run *run)
{
    for (int mode = SC_KV_EXACT; mode <= SC_KV_COMPRESSED; mode++) {
        struct sc_recipe *r = &run->recipes[mode];
        sc_recipe_default(run->config, (enum sc_kv_mode)mode, r);
        r->target_ratio = run->opts.ratio;
        if (run->opts.budget)
            r->budget = SC_BUDGET_PER_CHUNK;
        for (uint32_t l = 0; l < run->config->n_layers && !run->opts.exact_layers; l++)
            if (run->config->sliding_window[l] == 0)
                r->exact_layers[l / 64] &= ~(1ull << (l % 64));
    }
}

/* What measuring would find, roughly, from how the weights were drawn: the mean square of a weight
 * is SC_RANDOM_MODEL_SQUARE, a normalised row has mean square 1, and two unrelated tokens are at D
 * = 2 per KV head. */
static enum sc_status set_fixed_thresholds(struct sc_run *run, struct sc_err *err)
{
    const struct sc_model_config *c = run->config;
    struct sc_calibration cal = {0};
    enum sc_status st = sc_calibration_init(&cal, c->n_layers, c->n_kv_heads, c->head_dim, err);

    if (st != SC_OK)
        return st;
    cal.n_tokens = CALIBRATION_TOKENS;
    for (size_t i = 0; i < (size_t)c->n_layers * c->n_kv_heads; i++)
        cal.key_var[i] = (float)c->hidden * (float)c->head_dim * (float)SC_RANDOM_MODEL_SQUARE;
    for (size_t i = 0; i < (size_t)SC_METRIC_COUNT * c->n_layers * SC_CALIBRATION_RATIOS; i++)
        cal.tau[i] = 0.5f * (float)c->n_kv_heads;
    st = sc_engine_set_calibration(run->engine, &cal, err);
    sc_calibration_fini(&cal);
    return st;
}

static const int all_on_first[SC_RANKS_MAX];

static enum sc_status open_engine(struct sc_run *run, bool calibrate, struct sc_err *err)
{
    const struct sc_run_opts *o = &run->opts;
    const struct sc_engine_opts opts = {
        .model = sc_random_model_get(run->model),
        .open_backend = o->open_backend,
        .n_ranks = o->n_ranks,
        .n_threads = o->n_threads,
        .pin_threads = o->pin_threads,
        .plain_weights = o->plain_weights,
        .max_seqs = o->max_seqs,
        .max_step_tokens = o->step_tokens > o->max_seqs ? o->step_tokens : o->max_seqs,
        .max_logit_rows = o->max_seqs,
        .max_context = o->max_context,
        .max_snaps = 1,
        .kv_bytes = o->kv_bytes / o->n_ranks,
        .kv_dtype = o->kv_dtype,
        .weight_dtype = o->weight_dtype,
        .math = o->math,
        .strict = o->strict,
        .devices = o->one_device ? all_on_first : NULL,
    };
    enum sc_status st;

    sc_random_model_fill(run->model);
    st = sc_engine_open(&opts, &run->engine, err);
    sc_random_model_release(run->model);
    if (st != SC_OK)
        return st;
    if (calibrate && o->fixed_thresholds)
        st = set_fixed_thresholds(run, err);
    else if (calibrate)
        st = sc_calibrate(run->engine, opts.model, run->tokens, CALIBRATION_TOKENS, NULL, err);
    sc_engine_get_info(run->engine, &run->info);
    return st;
}

enum sc_status sc_run_open(const struct sc_run_opts *opts, struct sc_random_model *model,
                           bool calibrate, struct sc_run **ret_run, struct sc_err *err)
{
    struct sc_run *run = calloc(1, sizeof(*run));
    struct sc_sampling sampling = SC_SAMPLING_GREEDY;
    enum sc_status st;

    if (run == NULL)
        return sc_fail(err, SC_ENOMEM, "bench: out of memory");
    run->opts = *opts;
    run->model = model;
    run->config = &sc_random_model_get(model)->config;
    if (run->opts.max_context < CALIBRATION_TOKENS)
        run->opts.max_context = CALIBRATION_TOKENS;
    run->tokens = calloc(run->opts.max_context, sizeof(*run->tokens));
    if (run->tokens == NULL) {
        sc_run_close(run);
        return sc_fail(err, SC_ENOMEM, "bench: out of memory for %u tokens", opts->max_context);
    }
    sc_random_model_tokens(model, run->tokens, run->opts.max_context);
    make_recipes(run);
    sampling.temperature = opts->temperature;
    sampling.top_p = opts->top_p;
    st = sc_sampler_open(&sampling, run->config->vocab, NULL, 0, 0, &run->sampler, err);
    if (st == SC_OK)
        st = open_engine(run, calibrate, err);
    if (st != SC_OK) {
        sc_run_close(run);
        return st;
    }
    *ret_run = run;
    return SC_OK;
}

void sc_run_close(struct sc_run *run)
{
    if (run == NULL)
        return;
    sc_engine_close(run->engine);
    sc_sampler_close(run->sampler);
    free(run->tokens);
    free(run);
}

const char *sc_run_backend(const struct sc_run *run)
{
    return run->info.backend;
}

/* ---- what a row is held against ---- */

static double entry_bytes(const struct sc_run *run)
{
    return 2.0 * run->config->n_kv_heads *
           (double)sc_kv_row_bytes(run->opts.kv_dtype, run->config->head_dim);
}

static double attention_flop(const struct sc_run *run, double entries_seen)
{
    return 4.0 * run->config->n_heads * run->config->head_dim * entries_seen;
}

static void note_cache(const struct sc_run *run, struct sc_run_row *row)
{
    struct sc_seq_stats s;
    sc_engine_seq_stats(run->engine, 0, &s);
    row->kept = s.exact_entries > 0 ? (double)s.physical_entries / (double)s.exact_entries : 1.0;
    row->kv_bytes = (double)s.physical_entries * entry_bytes(run);
}

static enum sc_status close_slots(struct sc_run *run, uint32_t n, struct sc_err *err)
{
    enum sc_status st = SC_OK;
    for (uint32_t slot = 0; slot < n && st == SC_OK; slot++) {
        const struct sc_plan plan = {.closes = &slot, .n_closes = 1};
        st = sc_engine_step(run->engine, &plan, NULL, err);
    }
    return st;
}

/* ---- prefill ---- */

static enum sc_status prefill_once(struct sc_run *run, const struct sc_recipe *recipe, uint32_t n,
                                   double *ret_seen, struct sc_err *err)
{
    const struct sc_plan_open open = {.recipe = recipe, .prompt_len = n};
    double seen = 0.0;
    enum sc_status st = SC_OK;

    for (uint32_t pos = 0; pos < n && st == SC_OK;) {
        uint32_t cut = sc_recipe_next_cut(recipe, n, pos), end = pos + run->opts.step_tokens;
        end = end < n ? end : n;
        end = end < cut ? end : cut;
        const struct sc_plan_run r = {.pos0 = pos,
                                      .n_tokens = end - pos,
                                      .tokens = run->tokens + pos,
                                      .want = end == n ? SC_LOGITS_LAST : SC_LOGITS_NONE};
        const struct sc_plan plan = {.opens = &open, .n_opens = pos == 0, .runs = &r, .n_runs = 1};
        struct sc_run_result result;
        struct sc_seq_stats s;
        st = sc_engine_step(run->engine, &plan, &result, err);
        sc_engine_seq_stats(run->engine, 0, &s);
        double rows = end - pos;
        seen +=
            rows * (double)s.physical_entries - rows * (rows - 1.0) / 2.0 * run->config->n_layers;
        pos = end;
    }
    *ret_seen = seen;
    return st;
}

enum sc_status sc_run_prefill(struct sc_run *run, enum sc_kv_mode kv, uint32_t n_tokens,
                              struct sc_run_samples *samples, struct sc_run_row *ret_row,
                              struct sc_err *err)
{
    struct sc_run_row row = {.kv = kv, .n_tokens = n_tokens, .n_seqs = 1};
    struct sc_seq_stats s;
    double seen = 0.0, start = now_s();

    sc_op_times_clear();
    enum sc_status st = prefill_once(run, &run->recipes[kv], n_tokens, &seen, err);
    if (st != SC_OK)
        return st;
    add_sample(samples, now_s() - start);
    add_ops(samples);
    sc_engine_seq_stats(run->engine, 0, &s);
    samples->compress_s += 1e-6 * (double)s.compress_us;
    note_cache(run, &row);
    st = close_slots(run, 1, err);
    if (st != SC_OK)
        return st;
    settle_samples(samples, &row);
    row.tokens_per_s = n_tokens / row.median_s;
    row.flop = 2.0 * (double)sc_random_model_layer_weights(run->model) * n_tokens +
               2.0 * (double)sc_random_model_head_weights(run->model) + attention_flop(run, seen);
    *ret_row = row;
    return SC_OK;
}

/* ---- deep sequences ---- */

struct deep {
    struct sc_snap_shape shape;
    struct sc_plan_move *moves;
    uint8_t *buffers[2]; /* layers that are exact, layers that are compressed */
};

static void deep_fini(struct deep *d)
{
    free(d->shape.n_cores);
    free(d->shape.exact_lo);
    free(d->shape.carry);
    free(d->moves);
    free(d->buffers[0]);
    free(d->buffers[1]);
}

/* Bits of elements of a row, two of +-[0.5, 1) or one; int8: four whole numbers. */
static uint32_t random_element(enum sc_dtype dtype, uint32_t r)
{
    return dtype == SC_DTYPE_BF16  ? (r & 0x807f807fu) | 0x3f003f00u
           : dtype == SC_DTYPE_F32 ? (r & 0x807fffffu) | 0x3f000000u
                                   : r;
}

/* K, V of up to 1 and the biases of n entries, the first n_cores of which are cores. */
static uint8_t *random_entries(const struct sc_run *run, uint32_t n, uint32_t n_cores)
{
    const size_t row = sc_kv_row_bytes(run->opts.kv_dtype, run->config->head_dim);
    const float scale = 1.0f / 127.0f;
    uint8_t *mem = malloc(sc_engine_move_bytes(run->engine, n));
    uint64_t state = 1;
    if (mem == NULL)
        return NULL;
    for (size_t i = 0; i < 2 * n * row; i += 4) {
        uint32_t r = (uint32_t)(sc_mix64(state++) >> 32);
        uint32_t bits = random_element(run->opts.kv_dtype, r);
        memcpy(mem + i, &bits, sizeof(bits));
    }
    for (size_t i = 1; run->opts.kv_dtype == SC_DTYPE_I8 && i <= 2 * n; i++)
        memcpy(mem + i * row - sizeof(scale), &scale, sizeof(scale));
    for (uint32_t i = 0; i < n; i++) {
        float bias = i < n_cores ? -logf(run->opts.ratio) : 0.0f;
        memcpy(mem + 2 * n * row + i * sizeof(bias), &bias, sizeof(bias));
    }
    return mem;
}

static enum sc_status deep_init(struct sc_run *run, const struct sc_recipe *recipe, uint32_t depth,
                                struct deep *d, struct sc_err *err)
{
    const uint32_t n_layers = run->config->n_layers, n_heads = run->config->n_kv_heads;
    uint32_t limit = sc_recipe_compressed_limit(recipe, depth, depth);
    uint32_t n_cores = (uint32_t)lroundf((float)limit * run->opts.ratio);

    d->shape = (struct sc_snap_shape){.n_logical = depth,
                                      .prompt_len = depth,
                                      .compressed_to = limit,
                                      .epoch_done = limit,
                                      .n_cores = calloc(n_layers, sizeof(*d->shape.n_cores)),
                                      .exact_lo = calloc(n_layers, sizeof(*d->shape.exact_lo)),
                                      .carry = calloc(n_layers, sizeof(*d->shape.carry))};
    d->moves = calloc((size_t)n_layers * n_heads, sizeof(*d->moves));
    d->buffers[0] = random_entries(run, depth, 0);
    d->buffers[1] = random_entries(run, n_cores + depth - limit, n_cores);
    if (d->shape.n_cores == NULL || d->shape.exact_lo == NULL || d->shape.carry == NULL ||
        d->moves == NULL || d->buffers[0] == NULL || d->buffers[1] == NULL)
        return sc_fail(err, SC_ENOMEM, "deep sequence: out of memory for %u tokens", depth);
    for (uint32_t l = 0; l < n_layers; l++) {
        bool compressed = limit > 0 && !sc_recipe_layer_is_exact(recipe, l);
        d->shape.n_cores[l] = compressed ? n_cores : 0;
        d->shape.exact_lo[l] = compressed ? limit : 0;
        for (uint32_t h = 0; h < n_heads; h++)
            d->moves[l * n_heads + h] = (struct sc_plan_move){
                .layer = l, .head = h, .in = true, .host = d->buffers[compressed]};
    }
    return SC_OK;
}

/* Sequences from `slot` on, all from one snapshot. */
static enum sc_status begin_deep(struct sc_run *run, const struct sc_recipe *recipe, uint32_t slot,
                                 uint32_t n, const struct deep *d, struct sc_err *err)
{
    const uint32_t depth = d->shape.n_logical, snap = 0;
    const struct sc_plan_make make = {.snap = snap, .recipe = recipe, .shape = &d->shape};
    struct sc_plan_open *opens = calloc(n, sizeof(*opens));
    if (opens == NULL)
        return sc_fail(err, SC_ENOMEM, "bench: out of memory for %u sequences", n);
    for (uint32_t i = 0; i < n; i++)
        opens[i] = (struct sc_plan_open){.slot = slot + i,
                                         .recipe = recipe,
                                         .prompt_len = depth,
                                         .from = snap,
                                         .n_from = depth,
                                         .from_tokens = run->tokens};
    const struct sc_plan plans[] = {
        {.makes = &make,
         .n_makes = 1,
         .moves = d->moves,
         .n_moves = run->config->n_layers * run->config->n_kv_heads},
        {.opens = opens, .n_opens = n},
        {.drops = &snap, .n_drops = 1},
    };
    enum sc_status st = SC_OK;
    for (size_t i = 0; i < SC_ARRAY_LEN(plans) && st == SC_OK; i++)
        st = sc_engine_step(run->engine, &plans[i], NULL, err);
    free(opens);
    return st;
}

static enum sc_status open_sequences(struct sc_run *run, const struct sc_recipe *recipe,
                                     uint32_t depth, uint32_t n_seqs, struct sc_err *err)
{
    struct deep d = {0};
    enum sc_status st = SC_OK;

    if (depth > 0)
        st = deep_init(run, recipe, depth, &d, err);
    const uint32_t together = depth > 0 && run->opts.one_document ? n_seqs : 1;
    for (uint32_t slot = 0; slot < n_seqs && st == SC_OK; slot += together) {
        const struct sc_plan_open open = {.slot = slot, .recipe = recipe, .prompt_len = 1};
        const struct sc_plan plan = {.opens = &open, .n_opens = 1};
        st = depth > 0 ? begin_deep(run, recipe, slot, together, &d, err)
                       : sc_engine_step(run->engine, &plan, NULL, err);
    }
    deep_fini(&d);
    return st;
}

/* ---- decode ---- */

static enum sc_status decode_step(struct sc_run *run, uint32_t pos, uint32_t n_seqs,
                                  struct sc_plan_run *runs, struct sc_run_result *results,
                                  struct sc_err *err)
{
    for (uint32_t i = 0; i < n_seqs; i++)
        runs[i] = (struct sc_plan_run){.slot = i,
                                       .pos0 = pos,
                                       .n_tokens = 1,
                                       .tokens = run->tokens + (pos + i) % run->opts.max_context,
                                       .want = SC_LOGITS_LAST,
                                       .sampler = run->sampler};
    const struct sc_plan plan = {.runs = runs, .n_runs = n_seqs};
    return sc_engine_step(run->engine, &plan, results, err);
}

enum sc_status sc_run_decode(struct sc_run *run, enum sc_kv_mode kv, uint32_t depth,
                             uint32_t n_seqs, struct sc_run_samples *samples,
                             struct sc_run_row *ret_row, struct sc_err *err)
{
    const struct sc_recipe *recipe = &run->recipes[kv];
    struct sc_run_row row = {.decode = true, .kv = kv, .n_tokens = depth, .n_seqs = n_seqs};
    struct sc_plan_run *runs = calloc(n_seqs, sizeof(*runs));
    struct sc_run_result *results = calloc(n_seqs, sizeof(*results));
    double weights = (double)(sc_random_model_layer_weights(run->model) +
                              sc_random_model_head_weights(run->model));
    enum sc_status st = SC_OK;

    if (runs == NULL || results == NULL)
        st = sc_fail(err, SC_ENOMEM, "bench: out of memory for %u sequences", n_seqs);
    if (st == SC_OK)
        st = open_sequences(run, recipe, depth, n_seqs, err);
    for (uint32_t i = 0; i < WARM_STEPS + run->opts.decode_steps && st == SC_OK; i++) {
        if (i == WARM_STEPS)
            sc_op_times_clear();
        double t = now_s();
        st = decode_step(run, depth + i, n_seqs, runs, results, err);
        if (i >= WARM_STEPS)
            add_sample(samples, now_s() - t);
    }
    if (st == SC_OK) {
        add_ops(samples);
        settle_samples(samples, &row);
        note_cache(run, &row);
        st = close_slots(run, n_seqs, err);
    }
    free(runs);
    free(results);
    if (st != SC_OK)
        return st;
    row.tokens_per_s = n_seqs / row.median_s;
    row.bytes = (double)run->info.kept_bytes + (run->opts.one_document ? 1 : n_seqs) * row.kv_bytes;
    row.flop = n_seqs * (2.0 * weights + attention_flop(run, row.kv_bytes / entry_bytes(run)));
    *ret_row = row;
    return SC_OK;
}
