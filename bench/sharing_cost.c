/* bench/sharing_cost.c - what sharing costs where nothing is shared, where noise does not hide it.
 *
 *   bench-sharing-cost --model DIR --kv exact --sharing false [--streams 8] [--requests 64] ...
 *
 * The scheduler and the engine of a daemon in one process: the main thread turns the scheduler's
 * crank, the engine's one rank thread computes. Sharing adds to both: keys, look-ups and evictions
 * to the first, snapshots that are kept and dropped to the second. The first thread's processor
 * time is told apart from the whole, and is so small that its own noise is small; a snapshot's keep
 * and drop are timed alone, as steps that do nothing else, which is more than they cost in steps
 * that run anyway. Every prompt is new, and the pool holds a few of them, so that what sharing
 * keeps has to be dropped again. Prints one line of JSON. --help lists the options.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/cpu.h"
#include "scheduler/scheduler.h"
#include "shard/calibrate.h"

#define MAX_STREAMS 64u
#define KEEPS       2000u
#define BLOCK       512u

struct options {
    const char *model;
    uint32_t streams, requests, prompt, output, pool_prompts, snapshots;
    bool sharing, compressed;
};

struct bench {
    const struct options *o;
    struct sc_model *model;
    struct sc_engine *engine;
    struct sc_sched *sched;
    int32_t *prompt; /* [o->prompt] */
    struct sc_sched_stats stats;
    uint32_t n_submitted, n_done, n_failed;
    uint64_t cached_tokens;
};

static double cpu_s(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void on_event(void *ctx, const struct sc_event *event)
{
    struct bench *b = ctx;
    if (event->kind != SC_EVENT_DONE)
        return;
    b->n_done++;
    b->n_failed += event->status != SC_OK;
    b->cached_tokens += event->receipt.cached_tokens;
}

static enum sc_status submit(struct bench *b, struct sc_err *err)
{
    const struct options *o = b->o;
    struct sc_request_opts opts = {.prompt = b->prompt,
                                   .n_prompt = o->prompt,
                                   .max_tokens = o->output,
                                   .ignore_eos = true,
                                   .sampling = SC_SAMPLING_GREEDY,
                                   .kv =
                                       o->compressed ? SC_KV_CHOICE_COMPRESSED : SC_KV_CHOICE_EXACT,
                                   .on_event = on_event,
                                   .ctx = b};
    struct sc_request *request = NULL;
    sc_recipe_default(&b->model->config, o->compressed ? SC_KV_COMPRESSED : SC_KV_EXACT,
                      &opts.recipe);
    for (uint32_t i = 0; i < o->prompt; i++)
        b->prompt[i] =
            (int32_t)(10 + sc_mix64(sc_mix64(b->n_submitted) + i) % (b->model->config.vocab - 10));
    enum sc_status st = sc_sched_submit(b->sched, &opts, &request, err);
    if (st == SC_OK) {
        sc_request_unref(request);
        b->n_submitted++;
    }
    return st;
}

static enum sc_status open_bench(struct bench *b, struct sc_err *err)
{
    const struct options *o = b->o;
    bool builtin = false;
    enum sc_status st = sc_model_open(o->model, &b->model, err);

    if (st != SC_OK)
        return st;
    const struct sc_model_config *c = &b->model->config;
    const struct sc_engine_opts engine = {
        .model = b->model,
        .open_backend = sc_cpu_backend_open,
        .n_ranks = 1,
        .n_threads = 1,
        .max_seqs = o->streams,
        .max_step_tokens = 512 + o->streams,
        .max_logit_rows = o->streams,
        .max_snaps = o->sharing ? o->snapshots : 0,
        .kv_bytes = (uint64_t)c->n_layers * c->n_kv_heads * 2 * c->head_dim * 2 *
                    (o->prompt + o->output) * o->pool_prompts,
        .kv_dtype = SC_DTYPE_BF16,
        .weight_dtype = SC_DTYPE_BF16,
    };
    st = sc_engine_open(&engine, &b->engine, err);
    if (st == SC_OK)
        st = sc_calibrate_default(b->engine, b->model, &builtin, err);
    if (st != SC_OK)
        return st;
    const struct sc_sched_opts sched = {.engine = b->engine,
                                        .model = b->model,
                                        .queue_max = o->streams,
                                        .prefill_tokens = 512,
                                        .no_sharing = !o->sharing,
                                        .manual = true};
    st = sc_sched_open(&sched, &b->sched, err);
    b->prompt = malloc(o->prompt * sizeof(*b->prompt));
    return st == SC_OK && b->prompt == NULL ? sc_fail(err, SC_ENOMEM, "no memory") : st;
}

static enum sc_status serve(struct bench *b, struct sc_err *err)
{
    const struct options *o = b->o;
    enum sc_status st = SC_OK;

    while (b->n_done < o->requests && st == SC_OK) {
        while (st == SC_OK && b->n_submitted < o->requests &&
               b->n_submitted - b->n_done < o->streams)
            st = submit(b, err);
        if (st == SC_OK && !sc_sched_turn(b->sched))
            st = sc_fail(err, SC_EINTERNAL, "the scheduler has nothing to do");
    }
    return st;
}

/* Reads a prompt into slot 0 of an engine that was reset. */
static enum sc_status read_prompt(struct bench *b, struct sc_err *err)
{
    const uint32_t n = b->o->prompt;
    struct sc_recipe recipe;
    enum sc_status st = SC_OK;

    sc_recipe_default(&b->model->config, b->o->compressed ? SC_KV_COMPRESSED : SC_KV_EXACT,
                      &recipe);
    const struct sc_plan_open open = {.recipe = &recipe, .prompt_len = n};
    for (uint32_t pos = 0; pos < n && st == SC_OK;) {
        uint32_t cut = sc_recipe_next_cut(&recipe, n, pos), end = pos + BLOCK;
        end = end < n ? end : n;
        end = end < cut ? end : cut;
        const struct sc_plan_run run = {
            .pos0 = pos, .n_tokens = end - pos, .tokens = b->prompt + pos};
        const struct sc_plan plan = {
            .opens = &open, .n_opens = pos == 0, .runs = &run, .n_runs = 1};
        struct sc_run_result result;
        st = sc_engine_step(b->engine, &plan, &result, err);
        pos = end;
    }
    return st;
}

/* Processor time of both threads for a snapshot of a whole prompt, kept and dropped, each in a step
 * of its own. */
static enum sc_status time_keeps(struct bench *b, double *ret_s, struct sc_err *err)
{
    const struct sc_plan_keep keep = {.slot = 0, .snap = 0};
    const struct sc_plan keeps = {.keeps = &keep, .n_keeps = 1},
                         drops = {.drops = &keep.snap, .n_drops = 1};
    enum sc_status st = sc_engine_reset(b->engine, err);

    if (st == SC_OK)
        st = read_prompt(b, err);
    double start = cpu_s(CLOCK_PROCESS_CPUTIME_ID);
    for (uint32_t i = 0; i < KEEPS && st == SC_OK; i++) {
        st = sc_engine_step(b->engine, &keeps, NULL, err);
        if (st == SC_OK)
            st = sc_engine_step(b->engine, &drops, NULL, err);
    }
    *ret_s = (cpu_s(CLOCK_PROCESS_CPUTIME_ID) - start) / KEEPS;
    return st;
}

static void report(struct bench *b, double scheduler_s, double all_s, double keep_s)
{
    const struct options *o = b->o;
    const struct sc_sched_stats stats = b->stats;

    printf("{\"kv\": \"%s\", \"sharing\": %s, \"requests\": %u, \"failed\": %u, "
           "\"prompt_tokens\": %llu, \"completion_tokens\": %llu, \"cached_tokens\": %llu, "
           "\"steps\": %llu, \"preempted\": %llu, \"kept\": %llu, \"scheduler_s\": %.6f, "
           "\"cpu_s\": %.6f, \"keep_s\": %.9f}\n",
           o->compressed ? "compressed" : "exact", o->sharing ? "true" : "false", o->requests,
           b->n_failed, (unsigned long long)stats.prompt_tokens,
           (unsigned long long)stats.completion_tokens, (unsigned long long)b->cached_tokens,
           (unsigned long long)stats.steps, (unsigned long long)stats.preempted,
           (unsigned long long)(stats.prefix_evictions + stats.snapshots), scheduler_s, all_s,
           keep_s);
}

static bool number(const char *text, uint32_t max, uint32_t *ret)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (end == text || *end != '\0' || n < 1 || n > max)
        return false;
    *ret = (uint32_t)n;
    return true;
}

static bool parse(int argc, char **argv, struct options *o)
{
    static const struct option names[] = {
        {"model", required_argument, NULL, 'm'},    {"kv", required_argument, NULL, 'k'},
        {"sharing", required_argument, NULL, 's'},  {"streams", required_argument, NULL, 'n'},
        {"requests", required_argument, NULL, 'r'}, {"prompt", required_argument, NULL, 'p'},
        {"output", required_argument, NULL, 'o'},   {"pool", required_argument, NULL, 'P'},
        {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
        bool fine = true;
        if (c == 'm')
            o->model = optarg;
        else if (c == 'k')
            o->compressed = strcmp(optarg, "compressed") == 0;
        else if (c == 's')
            o->sharing = strcmp(optarg, "true") == 0;
        else if (c == 'n')
            fine = number(optarg, MAX_STREAMS, &o->streams);
        else if (c == 'r')
            fine = number(optarg, 1000000, &o->requests);
        else if (c == 'p')
            fine = number(optarg, 1000000, &o->prompt);
        else if (c == 'o')
            fine = number(optarg, 1000000, &o->output);
        else if (c == 'P')
            fine = number(optarg, 1000000, &o->pool_prompts);
        else
            fine = false;
        if (!fine)
            return false;
    }
    return optind == argc && o->model != NULL;
}

int main(int argc, char **argv)
{
    struct options o = {.streams = 8,
                        .requests = 64,
                        .prompt = 1000,
                        .output = 8,
                        .pool_prompts = 24,
                        .snapshots = 16384,
                        .sharing = true};
    struct sc_err err = SC_ERR_INIT;
    struct bench b = {.o = &o};

    if (!parse(argc, argv, &o)) {
        fprintf(stderr,
                "usage: bench-sharing-cost --model DIR [--kv exact|compressed] [--sharing "
                "true|false]\n  [--streams N] [--requests N] [--prompt TOKENS] [--output TOKENS]\n"
                "  [--pool N]   the pool holds N such prompts, exact (24)\n");
        return 2;
    }
    enum sc_status st = open_bench(&b, &err);
    double all = cpu_s(CLOCK_PROCESS_CPUTIME_ID), own = cpu_s(CLOCK_THREAD_CPUTIME_ID), keep = 0.0;
    if (st == SC_OK)
        st = serve(&b, &err);
    all = cpu_s(CLOCK_PROCESS_CPUTIME_ID) - all;
    own = cpu_s(CLOCK_THREAD_CPUTIME_ID) - own;
    if (b.sched != NULL)
        sc_sched_get_stats(b.sched, &b.stats);
    sc_sched_close(b.sched);
    if (st == SC_OK && o.sharing)
        st = time_keeps(&b, &keep, &err);
    if (st == SC_OK)
        report(&b, own, all, keep);
    else
        fprintf(stderr, "bench-sharing-cost: %s\n", err.text);
    sc_engine_close(b.engine);
    sc_model_close(b.model);
    free(b.prompt);
    return st == SC_OK && b.n_failed == 0 ? 0 : 1;
}
