/* semanticache-calibrate - measures key variances and thresholds of a model on sample text and
 * writes semanticache-calibration.json beside it. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "model/json.h"
#include "shard/calibrate.h"

#define TEXT_BYTES_MAX ((size_t)1 << 20)

struct options {
    const char *model, *text, *output;
    uint32_t n_threads;
    bool knows_exact_layers;
    uint64_t exact_layers[SC_LAYERS_MAX / 64];
    uint32_t n_weights; /* 0: not given */
    float weights[SC_LAYERS_MAX];
};

static void usage(FILE *to)
{
    (void)fprintf(to,
                  "usage: semanticache-calibrate --model DIR [--text FILE] [--output FILE] "
                  "[--threads N] [--exact-layers N,...] [--layer-weights X,...]\n"
                  "Prefills up to %u tokens of the text (default: a built-in one) and writes the\n"
                  "thresholds that keep given shares of its KV entries to DIR/%s\n"
                  "or FILE. Use text like that which the model will read. --exact-layers are\n"
                  "those that requests leave exact unless they say otherwise; '' is none.\n"
                  "--layer-weights, one for each layer, say how the entries are shared out\n"
                  "among the compressed layers (bench/layer_weights.py finds them).\n",
                  SC_CALIBRATION_TOKENS_MAX, SC_CALIBRATION_FILE);
}

static bool take_layers(struct options *o, const char *text)
{
    o->knows_exact_layers = true;
    while (*text != '\0') {
        char *end = NULL;
        const unsigned long l = strtoul(text, &end, 10);
        if (end == text || l >= SC_LAYERS_MAX || (*end != ',' && *end != '\0'))
            return false;
        o->exact_layers[l / 64] |= 1ull << (l % 64);
        text = *end == ',' ? end + 1 : end;
    }
    return true;
}

static bool take_weights(struct options *o, const char *text)
{
    do {
        char *end = NULL;
        const float w = strtof(text, &end);
        if (end == text || (*end != ',' && *end != '\0') || o->n_weights == SC_LAYERS_MAX ||
            !(w >= SC_LAYER_WEIGHT_MIN && w <= SC_LAYER_WEIGHT_MAX))
            return false;
        o->weights[o->n_weights++] = w;
        text = *end == ',' ? end + 1 : end;
    } while (*text != '\0');
    return true;
}

static enum sc_status run(const struct options *o, struct sc_err *err)
{
    const struct sc_encode_opts encode = {.add_special_tokens = true};
    struct sc_model *model = NULL;
    struct sc_engine *engine = NULL;
    struct sc_engine_info info;
    struct sc_calibration c = {0};
    struct sc_ids ids = {0};
    char *text = NULL, path[SC_MODEL_PATH_BYTES];
    size_t len = 0;
    enum sc_status st = sc_model_open(o->model, &model, err);

    if (st != SC_OK)
        return st;
    if (o->n_weights != 0 && o->n_weights != model->config.n_layers) {
        st = sc_fail(err, SC_EINVAL, "--layer-weights: %u, the model has %u layers", o->n_weights,
                     model->config.n_layers);
        sc_model_close(model);
        return st;
    }
    const struct sc_engine_opts opts = {
        .model = model,
        .open_backend = sc_cpu_backend_open,
        .n_ranks = 1,
        .n_threads = o->n_threads,
        .max_seqs = 1,
        .max_step_tokens = 512,
        .max_logit_rows = 1,
        .kv_bytes = (uint64_t)model->config.n_layers * model->config.n_kv_heads *
                    (2ull * model->config.head_dim + 64) * sizeof(float) *
                    (SC_CALIBRATION_TOKENS_MAX + 2 * SC_PAGE_ENTRIES),
        .kv_dtype = SC_DTYPE_F32,
        .weight_dtype = model->config.dtype == SC_DTYPE_BF16 ? SC_DTYPE_BF16 : SC_DTYPE_F32,
    };
    st = sc_engine_open(&opts, &engine, err);
    if (st == SC_OK && o->text != NULL)
        st = sc_file_read(NULL, o->text, TEXT_BYTES_MAX, &text, &len, err);
    const char *sample = text != NULL ? text : sc_calibration_text();
    if (st == SC_OK)
        st = sc_tokenizer_encode(model->tok, sample, text != NULL ? len : strlen(sample), &encode,
                                 &ids, err);
    if (st == SC_OK) {
        sc_engine_get_info(engine, &info);
        uint32_t n = info.max_context < SC_CALIBRATION_TOKENS_MAX ? info.max_context
                                                                  : SC_CALIBRATION_TOKENS_MAX;
        n = ids.n < n ? (uint32_t)ids.n : n;
        (void)fprintf(stderr, "calibrating on %u tokens of %s\n", n,
                      o->text != NULL ? o->text : "the built-in text");
        st = sc_calibrate(engine, model, ids.ids, n, &c, err);
    }
    if (st == SC_OK && o->knows_exact_layers) {
        c.knows_exact_layers = true;
        memcpy(c.exact_layers, o->exact_layers, sizeof(c.exact_layers));
    }
    if (st == SC_OK && o->n_weights > 0)
        memcpy(c.layer_weights, o->weights, c.n_layers * sizeof(*c.layer_weights));
    if (st == SC_OK) {
        (void)snprintf(path, sizeof(path), "%s/%s", o->model, SC_CALIBRATION_FILE);
        sc_calibration_clean(o->output != NULL ? o->output : path);
        st = sc_calibration_save(&c, o->output != NULL ? o->output : path, err);
    }
    if (st == SC_OK)
        (void)printf("wrote %s\n", o->output != NULL ? o->output : path);
    sc_calibration_fini(&c);
    sc_ids_fini(&ids);
    free(text);
    sc_engine_close(engine);
    sc_model_close(model);
    return st;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"model", required_argument, NULL, 'm'},
        {"text", required_argument, NULL, 't'},
        {"output", required_argument, NULL, 'o'},
        {"threads", required_argument, NULL, 'j'},
        {"exact-layers", required_argument, NULL, 'x'},
        {"layer-weights", required_argument, NULL, 'w'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct options o = {.n_threads = 1};
    struct sc_err err = SC_ERR_INIT;
    int c;

    while ((c = getopt_long(argc, argv, "m:t:o:j:x:w:h", longs, NULL)) != -1) {
        switch (c) {
        case 'm':
            o.model = optarg;
            break;
        case 't':
            o.text = optarg;
            break;
        case 'o':
            o.output = optarg;
            break;
        case 'j':
            o.n_threads = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'x':
            if (!take_layers(&o, optarg)) {
                (void)fprintf(
                    stderr,
                    "semanticache-calibrate: --exact-layers: %s, must be numbers below %u\n",
                    optarg, SC_LAYERS_MAX);
                return 2;
            }
            break;
        case 'w':
            if (!take_weights(&o, optarg)) {
                (void)fprintf(stderr,
                              "semanticache-calibrate: --layer-weights: %s, must be numbers of "
                              "%g..%g\n",
                              optarg, (double)SC_LAYER_WEIGHT_MIN, (double)SC_LAYER_WEIGHT_MAX);
                return 2;
            }
            break;
        case 'h':
            usage(stdout);
            return 0;
        default:
            usage(stderr);
            return 2;
        }
    }
    if (o.model == NULL || optind != argc) {
        usage(stderr);
        return 2;
    }
    if (run(&o, &err) != SC_OK) {
        (void)fprintf(stderr, "semanticache-calibrate: %s\n", err.text);
        return 1;
    }
    return 0;
}
