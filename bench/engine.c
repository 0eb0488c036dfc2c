/* bench/engine.c - how fast a model of a given shape runs through the real engine.
 *
 *   bench-engine --shape 0.1B --prefill 512,4096 --decode-depth 0,2048 --seqs 1,4 --threads 1,2
 *
 * Random weights, no model files. Each combination is one line: median, tokens per second, what
 * share of the entries was kept, and how much of the machine that was, held against limits measured
 * in the same run. --help lists the options; docs/results/cpu.md shows how to read the result.
 */
#include <dlfcn.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "base/plugin.h"
#include "bench/engine_report.h"
#include "bench/roofline.h"
#include "cpu/cpu.h"

#define LIST_MAX 16u

struct list {
    uint32_t v[LIST_MAX], n;
};

struct options {
    struct list prefill, depths, seqs, threads, ranks;
    const char *shapes, *backend, *json;
    bool exact, compressed, ops, pin, exact_layers, no_limits;
    int isa; /* -1: the backend's choice */
    float ratio;
    uint32_t step_tokens, repeats, decode_steps;
    uint64_t memory_mib;
    enum sc_dtype weight_dtype, kv_dtype;
};

static int forced_isa; /* sc_backend_open_fn has no context */

static enum sc_status open_isa(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                               struct sc_err *err)
{
    return sc_cpu_backend_open_isa(opts, (enum sc_cpu_isa)forced_isa, ret_be, err);
}

static enum sc_status choose_backend(const struct options *o, sc_backend_open_fn **ret_open,
                                     struct sc_err *err)
{
    if (strcmp(o->backend, "cpu") == 0) {
        forced_isa = o->isa;
        *ret_open = o->isa < 0 ? sc_cpu_backend_open : open_isa;
        return SC_OK;
    }
    void *lib = dlopen(o->backend, RTLD_NOW | RTLD_LOCAL);
    if (lib == NULL)
        return sc_fail(err, SC_EUNAVAIL, "backend: %s", dlerror());
    const struct sc_backend_plugin *plugin = dlsym(lib, SC_BACKEND_PLUGIN_SYMBOL);
    if (plugin == NULL || plugin->abi != SC_BACKEND_ABI)
        return sc_fail(err, SC_ENOTSUP, "backend %s: ABI %u, this program needs %u", o->backend,
                       plugin != NULL ? plugin->abi : 0, SC_BACKEND_ABI);
    *ret_open = plugin->open;
    return SC_OK;
}

/* ---- options ---- */

static void usage(FILE *to)
{
    (void)fprintf(
        to, "usage: bench-engine [options]\n"
            "  --shape LIST        of tiny,0.1B,1B,Llama-3.1-8B or model directories (0.1B)\n"
            "  --prefill LIST      tokens, or none (512,4096)\n"
            "  --decode-depth LIST tokens in the cache, or none (0,2048,8192)\n"
            "  --seqs LIST         sequences of one decode step (1)\n"
            "  --kv LIST           of exact,compressed (both)\n"
            "  --ratio R           cores per token of a compressed chunk (0.25)\n"
            "  --exact-layers      keep exact what the default recipe does\n"
            "  --threads LIST      of each rank (1)\n"
            "  --ranks LIST        tensor-parallel size (1)\n"
            "  --pin               threads to cores\n"
            "  --backend B         cpu, or the file of a backend plugin (cpu)\n"
            "  --isa I             plain, avx2, avx512, avx512bf16 (cpu; the backend's choice)\n"
            "  --weights T         how weights are kept (bf16)\n"
            "  --kv-dtype T        how keys and values are kept (bf16)\n"
            "  --step-tokens N     rows of a prefill step (512)\n"
            "  --repeats N         prefills of each line (3)\n"
            "  --decode-steps N    of each line (16)\n"
            "  --memory MIB        most memory for pages; larger lines are left out (8192)\n"
            "  --ops               time of each operation\n"
            "  --no-limits         do not measure the machine's limits\n"
            "  --json FILE         the result, also as JSON\n");
}

static bool read_list(const char *text, uint32_t low, uint32_t high, struct list *ret_list)
{
    struct list l = {0};
    if (strcmp(text, "none") != 0)
        for (const char *at = text;; at++) {
            char *end = NULL;
            unsigned long v = strtoul(at, &end, 10);
            if (end == at || v < low || v > high || l.n == LIST_MAX)
                return false;
            l.v[l.n++] = (uint32_t)v;
            at = end;
            if (*at == '\0')
                break;
            if (*at != ',')
                return false;
        }
    *ret_list = l;
    return true;
}

static bool read_number(const char *text, uint32_t low, uint32_t high, uint32_t *ret_v)
{
    struct list l;
    if (!read_list(text, low, high, &l) || l.n != 1)
        return false;
    *ret_v = l.v[0];
    return true;
}

static bool read_dtype(const char *text, enum sc_dtype *ret_dtype)
{
    for (int t = 0; t < SC_DTYPE_COUNT; t++)
        if (strcmp(sc_dtype_name((enum sc_dtype)t), text) == 0) {
            *ret_dtype = (enum sc_dtype)t;
            return true;
        }
    return false;
}

static bool read_isa(const char *text, int *ret_isa)
{
    for (int i = 0; i < SC_CPU_ISA_COUNT; i++)
        if (strcmp(sc_cpu_isa_name((enum sc_cpu_isa)i), text) == 0) {
            *ret_isa = i;
            return true;
        }
    return false;
}

static bool read_kv(const char *text, struct options *o)
{
    o->exact = strcmp(text, "exact") == 0;
    o->compressed = strcmp(text, "compressed") == 0;
    if (strcmp(text, "exact,compressed") == 0)
        o->exact = o->compressed = true;
    return o->exact || o->compressed;
}

static bool read_ratio(const char *text, float *ret_ratio)
{
    char *end = NULL;
    *ret_ratio = strtof(text, &end);
    return end != text && *end == '\0' && *ret_ratio >= 0.01f && *ret_ratio <= 1.0f;
}

static bool read_option(struct options *o, int c, const char *arg)
{
    uint32_t mib = 0;
    switch (c) {
    case 's':
        o->shapes = arg;
        return true;
    case 'p':
        return read_list(arg, 1, SC_CONTEXT_MAX / 2, &o->prefill);
    case 'd':
        return read_list(arg, 0, SC_CONTEXT_MAX / 2, &o->depths);
    case 'q':
        return read_list(arg, 1, SC_SEQS_MAX, &o->seqs) && o->seqs.n > 0;
    case 'k':
        return read_kv(arg, o);
    case 'r':
        return read_ratio(arg, &o->ratio);
    case 't':
        return read_list(arg, 1, SC_CPU_THREADS_MAX, &o->threads) && o->threads.n > 0;
    case 'n':
        return read_list(arg, 1, SC_RANKS_MAX, &o->ranks) && o->ranks.n > 0;
    case 'b':
        o->backend = arg;
        return true;
    case 'i':
        return read_isa(arg, &o->isa);
    case 'w':
        return read_dtype(arg, &o->weight_dtype);
    case 'v':
        return read_dtype(arg, &o->kv_dtype);
    case 'c':
        return read_number(arg, 1, SC_STEP_TOKENS_MAX, &o->step_tokens);
    case 'e':
        return read_number(arg, 1, 1000, &o->repeats);
    case 'g':
        return read_number(arg, 1, 4000, &o->decode_steps);
    case 'm':
        if (!read_number(arg, 1, UINT32_MAX, &mib))
            return false;
        o->memory_mib = mib;
        return true;
    case 'j':
        o->json = arg;
        return true;
    case 'o':
        o->ops = true;
        return true;
    case 'P':
        o->pin = true;
        return true;
    case 'x':
        o->exact_layers = true;
        return true;
    case 'l':
        o->no_limits = true;
        return true;
    default:
        return false;
    }
}

/* Negative: run; else the exit code. */
static int read_options(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"shape", required_argument, NULL, 's'},
        {"prefill", required_argument, NULL, 'p'},
        {"decode-depth", required_argument, NULL, 'd'},
        {"seqs", required_argument, NULL, 'q'},
        {"kv", required_argument, NULL, 'k'},
        {"ratio", required_argument, NULL, 'r'},
        {"threads", required_argument, NULL, 't'},
        {"ranks", required_argument, NULL, 'n'},
        {"backend", required_argument, NULL, 'b'},
        {"isa", required_argument, NULL, 'i'},
        {"weights", required_argument, NULL, 'w'},
        {"kv-dtype", required_argument, NULL, 'v'},
        {"step-tokens", required_argument, NULL, 'c'},
        {"repeats", required_argument, NULL, 'e'},
        {"decode-steps", required_argument, NULL, 'g'},
        {"memory", required_argument, NULL, 'm'},
        {"json", required_argument, NULL, 'j'},
        {"ops", no_argument, NULL, 'o'},
        {"pin", no_argument, NULL, 'P'},
        {"exact-layers", no_argument, NULL, 'x'},
        {"no-limits", no_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int c, which = 0;
    while ((c = getopt_long(argc, argv, "", longs, &which)) != -1) {
        if (c == 'h') {
            usage(stdout);
            return 0;
        }
        if (c == '?' || !read_option(o, c, optarg)) {
            if (c != '?')
                (void)fprintf(stderr, "bench-engine: --%s: bad value: %s\n", longs[which].name,
                              optarg);
            usage(stderr);
            return 2;
        }
    }
    if (optind != argc) {
        usage(stderr);
        return 2;
    }
    return -1;
}

/* ---- the runs ---- */

struct bench {
    const struct options *o;
    sc_backend_open_fn *open_backend; /* as the engine opens it: perhaps with clocks */
    struct sc_report report;
    struct sc_random_model *model;
    struct sc_report_group group;
};

static uint32_t largest(const struct list *l)
{
    uint32_t max = 0;
    for (uint32_t i = 0; i < l->n; i++)
        max = l->v[i] > max ? l->v[i] : max;
    return max;
}

static bool is_cpu(const struct options *o)
{
    return strcmp(o->backend, "cpu") == 0;
}

static enum sc_status measure_limits(struct bench *b, struct sc_err *err)
{
    uint32_t n = b->group.n_threads * b->group.n_ranks;
    const struct sc_backend_opts opts = {
        .n_ranks = 1, .n_threads = is_cpu(b->o) ? n : 1, .pin_threads = b->o->pin};
    struct sc_backend *be = NULL;
    enum sc_status st;

    if (b->o->no_limits)
        return SC_OK;
    st = b->open_backend(&opts, &be, err);
    if (st != SC_OK)
        return st;
    st = is_cpu(b->o) ? sc_roofline_host_read(n, &b->group.read_bytes_per_s, err)
                      : sc_roofline_device_copy(be, &b->group.read_bytes_per_s, err);
    if (st == SC_OK)
        st = sc_roofline_matmul(be, b->o->weight_dtype, &b->group.matmul_flop_per_s, err);
    be->ops->close(be);
    return st;
}

static bool wanted(const struct options *o, int mode)
{
    return mode == SC_KV_EXACT ? o->exact : o->compressed;
}

static bool fits(const struct bench *b, uint32_t n_seqs, uint32_t n_tokens)
{
    return sc_run_kv_bytes(&sc_random_model_get(b->model)->config, b->o->kv_dtype, b->group.n_ranks,
                           n_seqs, n_tokens) <= b->o->memory_mib << 20;
}

/* Bytes for the largest line that fits. */
static uint64_t pool_bytes(const struct bench *b)
{
    const struct sc_model_config *c = &sc_random_model_get(b->model)->config;
    const struct options *o = b->o;
    uint64_t most = sc_run_kv_bytes(c, o->kv_dtype, b->group.n_ranks, 1, 0);
    for (uint32_t i = 0; i < o->prefill.n + o->depths.n * o->seqs.n; i++) {
        uint32_t at = i - o->prefill.n;
        uint32_t n = i < o->prefill.n ? o->prefill.v[i] : o->depths.v[at / o->seqs.n];
        uint32_t n_seqs = i < o->prefill.n ? 1 : o->seqs.v[at % o->seqs.n];
        uint64_t bytes = sc_run_kv_bytes(c, o->kv_dtype, b->group.n_ranks, n_seqs, n);
        if (fits(b, n_seqs, n) && bytes > most)
            most = bytes;
    }
    return most;
}

static enum sc_status run_prefills(struct bench *b, struct sc_run *run, struct sc_err *err)
{
    enum sc_status st = SC_OK;
    struct sc_run_row row;
    for (uint32_t i = 0; i < b->o->prefill.n; i++)
        for (int mode = SC_KV_EXACT; mode <= SC_KV_COMPRESSED && st == SC_OK; mode++) {
            uint32_t n = b->o->prefill.v[i];
            if (!wanted(b->o, mode))
                continue;
            if (!fits(b, 1, n)) {
                (void)printf("prefill %u: left out, more than --memory\n", n);
                continue;
            }
            st = sc_run_prefill(run, (enum sc_kv_mode)mode, n, &row, err);
            if (st == SC_OK)
                sc_report_row(&b->report, &b->group, &row);
        }
    return st;
}

static enum sc_status run_decodes(struct bench *b, struct sc_run *run, uint32_t n_seqs,
                                  struct sc_err *err)
{
    enum sc_status st = SC_OK;
    struct sc_run_row row;
    for (uint32_t i = 0; i < b->o->depths.n; i++)
        for (int mode = SC_KV_EXACT; mode <= SC_KV_COMPRESSED && st == SC_OK; mode++) {
            uint32_t depth = b->o->depths.v[i];
            if (!wanted(b->o, mode))
                continue;
            if (!fits(b, n_seqs, depth)) {
                (void)printf("decode of %u at %u: left out, more than --memory\n", n_seqs, depth);
                continue;
            }
            st = sc_run_decode(run, (enum sc_kv_mode)mode, depth, n_seqs, &row, err);
            if (st == SC_OK)
                sc_report_row(&b->report, &b->group, &row);
        }
    return st;
}

static enum sc_status run_group(struct bench *b, struct sc_err *err)
{
    const struct options *o = b->o;
    struct sc_run *run = NULL;
    enum sc_status st = measure_limits(b, err);
    const struct sc_run_opts opts = {
        .open_backend = b->open_backend,
        .n_ranks = b->group.n_ranks,
        .n_threads = b->group.n_threads,
        .pin_threads = o->pin,
        .exact_layers = o->exact_layers,
        .ratio = o->ratio,
        .step_tokens = o->step_tokens,
        .repeats = o->repeats,
        .decode_steps = o->decode_steps,
        .max_seqs = largest(&o->seqs),
        .max_context = sc_random_model_get(b->model)->config.max_positions,
        .kv_bytes = pool_bytes(b),
        .kv_dtype = o->kv_dtype,
        .weight_dtype = o->weight_dtype,
    };

    if (st == SC_OK)
        st = sc_run_open(&opts, b->model, o->compressed, &run, err);
    if (st == SC_OK) {
        b->group.backend = sc_run_backend(run);
        sc_report_group(&b->report, &b->group);
        st = run_prefills(b, run, err);
    }
    for (uint32_t i = 0; i < o->seqs.n && st == SC_OK; i++)
        st = run_decodes(b, run, o->seqs.v[i], err);
    sc_run_close(run);
    return st;
}

static enum sc_status run_shape(struct bench *b, const char *shape, struct sc_err *err)
{
    const struct options *o = b->o;
    uint32_t depth = largest(&o->depths) + o->decode_steps + 64, prefill = largest(&o->prefill);
    enum sc_status st =
        sc_random_model_open(shape, (depth > prefill ? depth : prefill) + 1024, &b->model, err);

    for (uint32_t t = 0; t < o->threads.n && st == SC_OK; t++)
        for (uint32_t r = 0; r < o->ranks.n && st == SC_OK; r++) {
            b->group = (struct sc_report_group){
                .shape = strrchr(shape, '/') != NULL ? strrchr(shape, '/') + 1 : shape,
                .n_params = sc_random_model_params(b->model),
                .n_threads = o->threads.v[t],
                .n_ranks = o->ranks.v[r],
                .step_tokens = o->step_tokens,
                .weight_dtype = o->weight_dtype,
                .kv_dtype = o->kv_dtype,
            };
            st = run_group(b, err);
        }
    sc_random_model_close(b->model);
    b->model = NULL;
    return st;
}

static enum sc_status run_all(struct bench *b, struct sc_err *err)
{
    char *shapes = strdup(b->o->shapes), *save = NULL;
    enum sc_status st = shapes != NULL ? SC_OK : sc_fail(err, SC_ENOMEM, "out of memory");

    if (st == SC_OK)
        for (char *s = strtok_r(shapes, ",", &save); s != NULL && st == SC_OK;
             s = strtok_r(NULL, ",", &save))
            st = run_shape(b, s, err);
    free(shapes);
    return st;
}

int main(int argc, char **argv)
{
    struct options o = {
        .prefill = {{512, 4096}, 2},
        .depths = {{0, 2048, 8192}, 3},
        .seqs = {{1}, 1},
        .threads = {{1}, 1},
        .ranks = {{1}, 1},
        .shapes = "0.1B",
        .backend = "cpu",
        .exact = true,
        .compressed = true,
        .isa = -1,
        .ratio = 0.25f,
        .step_tokens = 512,
        .repeats = 3,
        .decode_steps = 16,
        .memory_mib = 8192,
        .weight_dtype = SC_DTYPE_BF16,
        .kv_dtype = SC_DTYPE_BF16,
    };
    struct bench b = {.o = &o, .report.ops = false};
    struct sc_err err = SC_ERR_INIT;
    int rc = read_options(argc, argv, &o);
    if (rc >= 0)
        return rc;
    enum sc_status st = choose_backend(&o, &b.open_backend, &err);
    if (st == SC_OK && o.json != NULL) {
        b.report.json = fopen(o.json, "w");
        if (b.report.json == NULL)
            st = sc_fail(&err, SC_EIO, "%s: cannot be written", o.json);
    }
    if (st == SC_OK && o.ops) {
        sc_op_times_wrap(b.open_backend, !is_cpu(&o));
        b.open_backend = sc_op_times_open_backend;
        b.report.ops = true;
    }
    if (st == SC_OK)
        st = run_all(&b, &err);
    sc_report_end(&b.report);
    if (b.report.json != NULL && fclose(b.report.json) != 0 && st == SC_OK)
        st = sc_fail(&err, SC_EIO, "%s: write failed", o.json);
    if (st != SC_OK) {
        (void)fprintf(stderr, "bench-engine: %s: %s\n", sc_status_text(st), err.text);
        return 1;
    }
    return 0;
}
