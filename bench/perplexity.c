/* bench/perplexity.c - what compression costs in perplexity, on any text and checkpoint.
 *
 *   bench-perplexity --model DIR --text FILE [--context N] [--target-ratio R] ...
 *
 * The text is cut into pieces of the context's length. Each is read twice, EXACT and COMPRESSED,
 * and every token is predicted from the cache that a request would have at that place: cores for
 * what has left the window, exact entries for the rest. Both see the same pieces, so the difference
 * is paired. --help lists the options.
 */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "model/json.h"
#include "shard/calibrate.h"
#include "shard/engine.h"

#define TEXT_BYTES_MAX ((size_t)256 << 20)
#define BLOCK          256u /* tokens of a step: their logits lie side by side */

struct options {
    const char *model, *text, *json;
    uint32_t context, window, epoch, threads, pieces; /* 0: the default */
    float ratio;
    bool f32, int8, kv_int8, scan, merge_outliers;
};

struct run {
    const struct options *o;
    struct sc_model *model;
    struct sc_engine *engine;
    struct sc_ids ids;
    struct sc_recipe recipes[2]; /* by enum sc_kv_mode */
    double nll[2];               /* sums over all predicted tokens */
    double kept[2];              /* sums over pieces */
    double diff, diff2;          /* of pieces: mean loss COMPRESSED less EXACT, and its square */
    uint64_t n_tokens;
    uint32_t n_pieces;
};

static double loss_of(const float *logits, uint32_t vocab, int32_t token)
{
    double max = logits[0], sum = 0.0;
    for (uint32_t i = 1; i < vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    for (uint32_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - max);
    return max + log(sum) - (double)logits[token];
}

/* Mean loss of tokens 1 .. n - 1 of a piece. */
static enum sc_status read_piece(struct run *r, int mode, const int32_t *ids, uint32_t n,
                                 double *ret_loss, struct sc_err *err)
{
    const struct sc_recipe *recipe = &r->recipes[mode];
    const uint32_t vocab = r->model->config.vocab, slot = 0;
    const struct sc_plan_open open = {.slot = slot, .recipe = recipe, .prompt_len = n};
    const struct sc_plan close = {.closes = &slot, .n_closes = 1};
    struct sc_seq_stats stats;
    enum sc_status st = SC_OK;

    *ret_loss = 0.0;
    for (uint32_t pos = 0; pos < n && st == SC_OK;) {
        uint32_t cut = sc_recipe_next_cut(recipe, n, pos), end = pos + BLOCK;
        end = end < n ? end : n;
        end = end < cut ? end : cut;
        const struct sc_plan_run run = {
            .pos0 = pos, .n_tokens = end - pos, .tokens = ids + pos, .want = SC_LOGITS_ALL};
        const struct sc_plan plan = {
            .opens = &open, .n_opens = pos == 0, .runs = &run, .n_runs = 1};
        struct sc_run_result result;
        st = sc_engine_step(r->engine, &plan, &result, err);
        for (uint32_t t = pos; t < end && t + 1 < n && st == SC_OK; t++)
            *ret_loss += loss_of(result.logits + (size_t)(t - pos) * vocab, vocab, ids[t + 1]);
        pos = end;
    }
    if (st != SC_OK)
        return st;
    sc_engine_seq_stats(r->engine, slot, &stats);
    r->kept[mode] += (double)stats.physical_entries / (double)stats.exact_entries;
    r->nll[mode] += *ret_loss;
    *ret_loss /= n - 1;
    return sc_engine_step(r->engine, &close, NULL, err);
}

static enum sc_status open_run(struct run *r, struct sc_err *err)
{
    const struct options *o = r->o;
    const struct sc_encode_opts encode = {.add_special_tokens = false};
    bool builtin = false;
    char *text = NULL;
    size_t len = 0;
    enum sc_status st = sc_model_open(o->model, &r->model, err);

    if (st != SC_OK)
        return st;
    const struct sc_model_config *c = &r->model->config;
    uint32_t context = o->context > 0            ? o->context
                       : c->max_positions < 8192 ? c->max_positions
                                                 : 8192;
    const struct sc_engine_opts opts = {
        .model = r->model,
        .open_backend = sc_cpu_backend_open,
        .n_ranks = 1,
        .n_threads = o->threads,
        .max_seqs = 1,
        .max_step_tokens = 512,
        .max_logit_rows = BLOCK,
        .max_context = context > 1024 || context == c->max_positions ? context
                       : 1024 < c->max_positions                     ? 1024
                                                                     : c->max_positions,
        .kv_bytes = (uint64_t)c->n_layers * c->n_kv_heads * (2ull * c->head_dim + 64) * 4 *
                    (2ull * context + 4096),
        .kv_dtype = o->kv_int8 ? SC_DTYPE_I8
                    : o->f32   ? SC_DTYPE_F32
                               : SC_DTYPE_BF16,
        .weight_dtype = o->int8  ? SC_DTYPE_I8
                        : o->f32 ? SC_DTYPE_F32
                                 : SC_DTYPE_BF16,
    };
    st = sc_engine_open(&opts, &r->engine, err);
    if (st == SC_OK)
        st = sc_calibrate_default(r->engine, r->model, &builtin, err);
    if (st == SC_OK)
        st = sc_file_read(NULL, o->text, TEXT_BYTES_MAX, &text, &len, err);
    if (st == SC_OK)
        st = sc_tokenizer_encode(r->model->tok, text, len, &encode, &r->ids, err);
    free(text);
    for (int mode = SC_KV_EXACT; mode <= SC_KV_COMPRESSED && st == SC_OK; mode++) {
        struct sc_recipe *recipe = &r->recipes[mode];
        sc_recipe_default(c, (enum sc_kv_mode)mode, recipe);
        recipe->target_ratio = o->ratio;
        recipe->seed_order = o->scan ? SC_SEED_SCAN : recipe->seed_order;
        recipe->keep_outliers = !o->merge_outliers;
        recipe->window = o->window > 0 ? o->window : recipe->window;
        recipe->epoch = o->epoch > 0 ? o->epoch : recipe->epoch;
    }
    if (st == SC_OK && builtin)
        (void)printf("thresholds measured on a built-in text: %s has no calibration\n", o->model);
    return st;
}

static enum sc_status read_all(struct run *r, struct sc_err *err)
{
    struct sc_engine_info info;
    sc_engine_get_info(r->engine, &info);
    const uint32_t context = r->o->context > 0 ? r->o->context : info.max_context;
    const int32_t bos = r->model->config.bos_id;
    int32_t *piece = malloc(context * sizeof(*piece));
    enum sc_status st = SC_OK;

    if (piece == NULL)
        return sc_fail(err, SC_ENOMEM, "pieces of %u tokens: out of memory", context);
    const uint32_t head = bos >= 0 ? 1 : 0, body = context - head;
    for (size_t at = 0; at + body <= r->ids.n && st == SC_OK; at += body) {
        double loss[2] = {0};
        if (r->o->pieces > 0 && r->n_pieces == r->o->pieces)
            break;
        if (head == 1)
            piece[0] = bos;
        memcpy(piece + head, r->ids.ids + at, body * sizeof(*piece));
        for (int mode = SC_KV_EXACT; mode <= SC_KV_COMPRESSED && st == SC_OK; mode++)
            st = read_piece(r, mode, piece, context, &loss[mode], err);
        r->diff += loss[1] - loss[0];
        r->diff2 += (loss[1] - loss[0]) * (loss[1] - loss[0]);
        r->n_tokens += context - 1;
        r->n_pieces++;
        if (r->n_pieces % 16 == 0)
            (void)fprintf(stderr, "%u pieces of %u tokens\n", r->n_pieces, context);
    }
    free(piece);
    if (st == SC_OK && r->n_pieces == 0)
        st = sc_fail(err, SC_EINVAL, "text: %zu tokens, one piece has %u", r->ids.n, body);
    return st;
}

static void report(const struct run *r)
{
    const double n = (double)r->n_tokens, pieces = r->n_pieces;
    const double exact = exp(r->nll[SC_KV_EXACT] / n), kept = r->kept[SC_KV_COMPRESSED] / pieces;
    const double compressed = exp(r->nll[SC_KV_COMPRESSED] / n), mean = r->diff / pieces;
    const double var = pieces > 1 ? (r->diff2 - pieces * mean * mean) / (pieces - 1) : 0.0;
    const double half = 1.96 * sqrt(var > 0 ? var / pieces : 0.0);
    (void)printf("%u pieces, %llu tokens predicted; target ratio %.3f, kept %.3f of the entries\n",
                 r->n_pieces, (unsigned long long)r->n_tokens, (double)r->o->ratio, kept);
    (void)printf("perplexity exact %.4f, compressed %.4f: %+.2f %% (95 %%: %+.2f to %+.2f)\n",
                 exact, compressed, 100.0 * (compressed / exact - 1.0),
                 100.0 * (exp(mean - half) - 1.0), 100.0 * (exp(mean + half) - 1.0));
    if (r->o->json == NULL)
        return;
    FILE *f = fopen(r->o->json, "w");
    if (f == NULL) {
        (void)fprintf(stderr, "bench-perplexity: cannot write %s\n", r->o->json);
        return;
    }
    (void)fprintf(
        f,
        "{\"pieces\":%u,\"tokens\":%llu,\"target_ratio\":%.4f,\"kept\":%.5f,\"exact\":%.6f,"
        "\"compressed\":%.6f,\"delta_low\":%.6f,\"delta_high\":%.6f}\n",
        r->n_pieces, (unsigned long long)r->n_tokens, (double)r->o->ratio, kept, exact, compressed,
        exp(mean - half) - 1.0, exp(mean + half) - 1.0);
    (void)fclose(f);
}

static int usage(FILE *to, int rc)
{
    (void)fprintf(to, "usage: bench-perplexity --model DIR --text FILE [options]\n"
                      "  --context N       tokens of a piece (8192, or the model's limit)\n"
                      "  --target-ratio R  cores per token of a compressed chunk (0.25)\n"
                      "  --window N        latest tokens that stay exact (256)\n"
                      "  --epoch N         tokens between compressions (512)\n"
                      "  --pieces N        at most so many (all)\n"
                      "  --threads N       (1)\n"
                      "  --f32             weights and cache in f32 instead of bf16\n"
                      "  --int8            weights in int8, and what they are multiplied with\n"
                      "                    as the machine has it\n"
                      "  --kv-int8         the cache in int8\n"
                      "  --scan            seeds in the order of the text\n"
                      "  --merge-outliers  tokens far from the mean key are merged as well\n"
                      "  --json FILE       the result, also as JSON\n");
    return rc;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"model", required_argument, NULL, 'm'},   {"text", required_argument, NULL, 't'},
        {"context", required_argument, NULL, 'c'}, {"target-ratio", required_argument, NULL, 'r'},
        {"window", required_argument, NULL, 'w'},  {"epoch", required_argument, NULL, 'e'},
        {"pieces", required_argument, NULL, 'p'},  {"threads", required_argument, NULL, 'n'},
        {"json", required_argument, NULL, 'j'},    {"f32", no_argument, NULL, 'f'},
        {"int8", no_argument, NULL, '8'},          {"kv-int8", no_argument, NULL, 'k'},
        {"scan", no_argument, NULL, 's'},          {"merge-outliers", no_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},          {0},
    };
    struct options o = {.ratio = 0.25f, .threads = 1};
    struct run r = {.o = &o};
    struct sc_err err = SC_ERR_INIT;
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        unsigned long v = optarg != NULL ? strtoul(optarg, NULL, 10) : 0;
        switch (c) {
        case 'm':
            o.model = optarg;
            break;
        case 't':
            o.text = optarg;
            break;
        case 'j':
            o.json = optarg;
            break;
        case 'r':
            o.ratio = strtof(optarg, NULL);
            break;
        case 'f':
            o.f32 = true;
            break;
        case '8':
            o.int8 = true;
            break;
        case 'k':
            o.kv_int8 = true;
            break;
        case 's':
            o.scan = true;
            break;
        case 'o':
            o.merge_outliers = true;
            break;
        case 'c':
            o.context = (uint32_t)v;
            break;
        case 'w':
            o.window = (uint32_t)v;
            break;
        case 'e':
            o.epoch = (uint32_t)v;
            break;
        case 'p':
            o.pieces = (uint32_t)v;
            break;
        case 'n':
            o.threads = (uint32_t)v;
            break;
        case 'h':
            return usage(stdout, 0);
        default:
            return usage(stderr, 2);
        }
    }
    if (o.model == NULL || o.text == NULL || optind != argc ||
        !(o.ratio > 0.0f && o.ratio <= 1.0f) || (o.context > 0 && o.context < 64))
        return usage(stderr, 2);
    enum sc_status st = open_run(&r, &err);
    if (st == SC_OK)
        st = read_all(&r, &err);
    if (st == SC_OK)
        report(&r);
    else
        (void)fprintf(stderr, "bench-perplexity: %s\n", err.text);
    sc_ids_fini(&r.ids);
    sc_engine_close(r.engine);
    sc_model_close(r.model);
    return st == SC_OK ? 0 : 1;
}
