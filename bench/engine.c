/* bench/engine.c - how fast a model of a given shape runs through the real engine.
 *
 *   bench-engine --shape 0.1B --prefill 512,4096 --decode-depth 0,2048 --seqs 1,4 --threads 1,2
 *
 * Random weights, no model files. Each combination is one line: median, tokens per second, what
 * share of the entries was kept, and how much of the machine that was, held against limits measured
 * in the same run. --help lists the options; docs/results/cpu.md shows how to read the result.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "base/plugin.h"
#include "bench/engine_options.h"
#include "bench/engine_report.h"
#include "bench/roofline.h"
#include "cpu/cpu.h"

static int forced_isa; /* sc_backend_open_fn has no context */

static enum sc_status open_isa(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                               struct sc_err *err)
{
    return sc_cpu_backend_open_isa(opts, (enum sc_cpu_isa)forced_isa, ret_be, err);
}

static enum sc_status choose_backend(const struct sc_bench_options *o,
                                     sc_backend_open_fn **ret_open, struct sc_err *err)
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

/* ---- the runs ---- */

#define WARM_TOKENS 2048u

struct bench {
    const struct sc_bench_options *o;
    sc_backend_open_fn *open_backend; /* as the engine opens it: perhaps with clocks */
    struct sc_report report;
    struct sc_random_model *model;
    struct sc_report_group group;
    struct sc_run_samples samples[2]; /* by enum sc_kv_mode */
};

static uint32_t largest(const struct sc_bench_list *l)
{
    uint32_t max = 0;
    for (uint32_t i = 0; i < l->n; i++)
        max = l->v[i] > max ? l->v[i] : max;
    return max;
}

static bool is_cpu(const struct sc_bench_options *o)
{
    return strcmp(o->backend, "cpu") == 0;
}

static enum sc_status measure_limits(struct bench *b, struct sc_err *err)
{
    uint32_t n = b->group.n_threads * b->group.n_ranks;
    const struct sc_backend_opts opts = {.n_ranks = 1,
                                         .n_threads = is_cpu(b->o) ? n : 1,
                                         .pin_threads = b->o->pin,
                                         .plain_weights = b->o->plain_weights,
                                         .math = b->o->math};
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

static bool wanted(const struct sc_bench_options *o, int mode)
{
    return mode == SC_KV_EXACT ? o->exact : o->compressed;
}

/* Of a line; n_seqs 0: a prefill. */
static uint64_t line_bytes(const struct bench *b, uint32_t n_seqs, uint32_t n_tokens)
{
    const struct sc_model_config *c = &sc_random_model_get(b->model)->config;
    const enum sc_dtype dtype = b->o->kv_dtype;
    if (n_seqs > 1 && b->o->one_document) /* which is there once, and what follows it for each */
        return sc_run_kv_bytes(c, dtype, b->group.n_ranks, 1, n_tokens) +
               sc_run_kv_bytes(c, dtype, b->group.n_ranks, n_seqs, 0);
    return sc_run_kv_bytes(c, dtype, b->group.n_ranks, n_seqs > 0 ? n_seqs : 1, n_tokens);
}

static bool fits(const struct bench *b, uint32_t n_seqs, uint32_t n_tokens)
{
    return line_bytes(b, n_seqs, n_tokens) <= b->o->memory_mib << 20;
}

/* Bytes for the largest line that fits. */
static uint64_t pool_bytes(const struct bench *b)
{
    const struct sc_model_config *c = &sc_random_model_get(b->model)->config;
    const struct sc_bench_options *o = b->o;
    uint64_t most = sc_run_kv_bytes(c, o->kv_dtype, b->group.n_ranks, 1, 0);
    for (uint32_t i = 0; i < o->prefill.n + o->depths.n * o->seqs.n; i++) {
        uint32_t at = i - o->prefill.n;
        uint32_t n = i < o->prefill.n ? o->prefill.v[i] : o->depths.v[at / o->seqs.n];
        uint32_t n_seqs = i < o->prefill.n ? 0 : o->seqs.v[at % o->seqs.n];
        uint64_t bytes = line_bytes(b, n_seqs, n);
        if (fits(b, n_seqs, n) && bytes > most)
            most = bytes;
    }
    return most;
}

/* Both kinds of cache by turns: what else the machine does then falls on both. n_seqs 0: a prefill.
 */
static enum sc_status run_line(struct bench *b, struct sc_run *run, uint32_t n_tokens,
                               uint32_t n_seqs, struct sc_err *err)
{
    struct sc_run_row rows[2] = {0};
    enum sc_status st = SC_OK;

    if (!fits(b, n_seqs, n_tokens)) {
        (void)printf("%u tokens, %u sequences: left out, more than --memory\n", n_tokens, n_seqs);
        return SC_OK;
    }
    memset(b->samples, 0, sizeof(b->samples));
    for (uint32_t i = 0; i < b->o->repeats; i++)
        for (int kv = SC_KV_EXACT; kv <= SC_KV_COMPRESSED && st == SC_OK; kv++) {
            if (!wanted(b->o, kv))
                continue;
            if (n_seqs > 0)
                st = sc_run_decode(run, (enum sc_kv_mode)kv, n_tokens, n_seqs, &b->samples[kv],
                                   &rows[kv], err);
            else
                st = sc_run_prefill(run, (enum sc_kv_mode)kv, n_tokens, &b->samples[kv], &rows[kv],
                                    err);
        }
    for (int kv = SC_KV_EXACT; kv <= SC_KV_COMPRESSED && st == SC_OK; kv++)
        if (wanted(b->o, kv))
            sc_report_row(&b->report, &b->group, &rows[kv]);
    return st;
}

/* A device loads kernels when they are first called, and nobody is to wait for that: a prefill of
 * either kind that is not looked at. */
static enum sc_status warm_up(struct bench *b, struct sc_run *run, struct sc_err *err)
{
    uint32_t n = largest(&b->o->prefill);
    struct sc_run_row row;
    enum sc_status st = SC_OK;

    n = n < WARM_TOKENS ? n : WARM_TOKENS;
    for (int kv = SC_KV_EXACT; kv <= SC_KV_COMPRESSED && n > 0 && st == SC_OK; kv++) {
        memset(b->samples, 0, sizeof(b->samples));
        if (wanted(b->o, kv) && fits(b, 0, n))
            st = sc_run_prefill(run, (enum sc_kv_mode)kv, n, &b->samples[kv], &row, err);
    }
    return st;
}

static enum sc_status run_lines(struct bench *b, struct sc_run *run, struct sc_err *err)
{
    const struct sc_bench_options *o = b->o;
    enum sc_status st = is_cpu(o) ? SC_OK : warm_up(b, run, err);
    for (uint32_t i = 0; i < o->prefill.n && st == SC_OK; i++)
        st = run_line(b, run, o->prefill.v[i], 0, err);
    for (uint32_t s = 0; s < o->seqs.n; s++)
        for (uint32_t i = 0; i < o->depths.n && st == SC_OK; i++)
            st = run_line(b, run, o->depths.v[i], o->seqs.v[s], err);
    return st;
}

static enum sc_status run_group(struct bench *b, struct sc_err *err)
{
    const struct sc_bench_options *o = b->o;
    struct sc_run *run = NULL;
    enum sc_status st = measure_limits(b, err);
    const struct sc_run_opts opts = {
        .open_backend = b->open_backend,
        .n_ranks = b->group.n_ranks,
        .n_threads = b->group.n_threads,
        .pin_threads = o->pin,
        .plain_weights = o->plain_weights,
        .one_document = o->one_document,
        .exact_layers = o->exact_layers,
        .budget = o->budget,
        .fixed_thresholds = o->fixed_thresholds,
        .ratio = o->ratio,
        .temperature = o->temperature,
        .top_p = o->top_p,
        .step_tokens = o->step_tokens,
        .decode_steps = o->decode_steps,
        .max_seqs = largest(&o->seqs),
        .max_context = sc_random_model_get(b->model)->config.max_positions,
        .kv_bytes = pool_bytes(b),
        .kv_dtype = o->kv_dtype,
        .weight_dtype = o->weight_dtype,
        .math = o->math,
        .one_device = o->one_device,
        .strict = o->strict,
    };

    if (st == SC_OK)
        st = sc_run_open(&opts, b->model, o->compressed, &run, err);
    if (st == SC_OK) {
        b->group.backend = sc_run_backend(run);
        sc_report_group(&b->report, &b->group);
        st = run_lines(b, run, err);
    }
    sc_run_close(run);
    return st;
}

static enum sc_status run_shape(struct bench *b, const char *shape, struct sc_err *err)
{
    const struct sc_bench_options *o = b->o;
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
    struct sc_bench_options o = sc_bench_options_default();
    static struct bench b; /* too large for a stack */
    struct sc_err err = SC_ERR_INIT;
    b.o = &o;
    int rc = sc_bench_options_read(argc, argv, &o);
    if (rc >= 0)
        return rc;
    enum sc_status st = choose_backend(&o, &b.open_backend, &err);
    if (st == SC_OK && o.json != NULL) {
        b.report.json = fopen(o.json, "w");
        if (b.report.json == NULL)
            st = sc_fail(&err, SC_EIO, "%s: cannot be written", o.json);
    }
    if (st == SC_OK) {
        sc_op_times_wrap(b.open_backend, o.ops && !is_cpu(&o));
        b.open_backend = sc_op_times_open_backend;
        b.report.ops = o.ops;
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
