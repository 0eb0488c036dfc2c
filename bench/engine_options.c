#include "bench/engine_options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "model/config.h"
#include "shard/engine.h"

struct sc_bench_options sc_bench_options_default(void)
{
    return (struct sc_bench_options){
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
        .top_p = 1.0f,
        .step_tokens = 512,
        .repeats = 3,
        .decode_steps = 16,
        .memory_mib = 8192,
        .math = SC_MATH_AUTO,
        .weight_dtype = SC_DTYPE_BF16,
        .kv_dtype = SC_DTYPE_BF16,
    };
}

static void usage(FILE *to)
{
    (void)fprintf(
        to,
        "usage: bench-engine [options]\n"
        "  --shape LIST        of micro,micro-128K,tiny,0.1B,1B,\n"
        "                      Llama-3.1-8B,Llama-3.1-8B:8 (eight layers),Llama-3.1-70B/8 (a "
        "rank's "
        "slice)\n"
        "                      or model directories (0.1B)\n"
        "  --prefill LIST      tokens, or none (512,4096)\n"
        "  --decode-depth LIST tokens in the cache, or none (0,2048,8192)\n"
        "  --seqs LIST         sequences of one decode step (1)\n"
        "  --one-document      of which all read the same cache\n"
        "  --kv LIST           of exact,compressed (both)\n"
        "  --ratio R           cores per token of a compressed chunk (0.25)\n"
        "  --exact-layers      keep exact what the default recipe does\n"
        "  --fixed-thresholds  do not measure them at start; --ratio then holds for decode only\n"
        "  --threads LIST      of each rank (1)\n"
        "  --ranks LIST        tensor-parallel size (1)\n"
        "  --pin               threads to cores\n"
        "  --backend B         cpu, or the file of a backend plugin (cpu)\n"
        "  --one-device        all ranks on GPU 0\n"
        "  --strict            GPU: a row does not depend on its company\n"
        "  --isa I             plain, avx2, avx512, avx512bf16, amx (cpu; the backend's choice)\n"
        "  --weights T         how weights are kept (bf16)\n"
        "  --plain-weights     bf16 in 16 bits, not in 12 (cpu)\n"
        "  --kv-dtype T        how keys and values are kept (bf16)\n"
        "  --step-tokens N     rows of a prefill step (512)\n"
        "  --repeats N         times every line is measured, exact and compressed by turns (3)\n"
        "  --decode-steps N    of each line (16)\n"
        "  --temperature T     draws tokens; 0: the likeliest (0)\n"
        "  --top-p P           of which share of the likeliest (1)\n"
        "  --memory MIB        most memory for pages; larger lines are left out (8192)\n"
        "  --ops               time of each operation\n"
        "  --no-limits         do not measure the machine's limits\n"
        "  --json FILE         the result, also as JSON\n");
}

static bool read_list(const char *text, uint32_t low, uint32_t high, struct sc_bench_list *ret_list)
{
    struct sc_bench_list l = {0};
    if (strcmp(text, "none") != 0)
        for (const char *at = text;; at++) {
            char *end = NULL;
            unsigned long v = strtoul(at, &end, 10);
            if (end == at || v < low || v > high || l.n == SC_BENCH_LIST_MAX)
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
    struct sc_bench_list l;
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

static bool read_math(const char *text, enum sc_math *ret_math)
{
    static const char *const names[] = {"auto", "f32", "bf16", "int8"};
    for (size_t i = 0; i < SC_ARRAY_LEN(names); i++)
        if (strcmp(names[i], text) == 0) {
            *ret_math = (enum sc_math)i;
            return true;
        }
    return false;
}

static bool read_kv(const char *text, struct sc_bench_options *o)
{
    o->exact = strcmp(text, "exact") == 0;
    o->compressed = strcmp(text, "compressed") == 0;
    if (strcmp(text, "exact,compressed") == 0)
        o->exact = o->compressed = true;
    return o->exact || o->compressed;
}

static bool read_float(const char *text, float low, float high, float *ret_v)
{
    char *end = NULL;
    *ret_v = strtof(text, &end);
    return end != text && *end == '\0' && *ret_v >= low && *ret_v <= high;
}

static bool read_option(struct sc_bench_options *o, int c, const char *arg)
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
        return read_float(arg, 0.01f, 1.0f, &o->ratio);
    case 'T':
        return read_float(arg, 0.0f, 100.0f, &o->temperature);
    case 'y':
        return read_float(arg, 0.0001f, 1.0f, &o->top_p);
    case 't':
        return read_list(arg, 1, SC_CPU_THREADS_MAX, &o->threads) && o->threads.n > 0;
    case 'n':
        return read_list(arg, 1, SC_RANKS_MAX, &o->ranks) && o->ranks.n > 0;
    case 'b':
        o->backend = arg;
        return true;
    case 'i':
        return read_isa(arg, &o->isa);
    case 'a':
        return read_math(arg, &o->math);
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
    case 'D':
        o->one_document = true;
        return true;
    case 'W':
        o->plain_weights = true;
        return true;
    case 'x':
        o->exact_layers = true;
        return true;
    case 'f':
        o->fixed_thresholds = true;
        return true;
    case 'u':
        o->budget = true;
        return true;
    case 'O':
        o->one_device = true;
        return true;
    case 'S':
        o->strict = true;
        return true;
    case 'l':
        o->no_limits = true;
        return true;
    default:
        return false;
    }
}

int sc_bench_options_read(int argc, char **argv, struct sc_bench_options *o)
{
    static const struct option longs[] = {
        {"shape", required_argument, NULL, 's'},
        {"prefill", required_argument, NULL, 'p'},
        {"decode-depth", required_argument, NULL, 'd'},
        {"seqs", required_argument, NULL, 'q'},
        {"kv", required_argument, NULL, 'k'},
        {"ratio", required_argument, NULL, 'r'},
        {"temperature", required_argument, NULL, 'T'},
        {"top-p", required_argument, NULL, 'y'},
        {"threads", required_argument, NULL, 't'},
        {"ranks", required_argument, NULL, 'n'},
        {"backend", required_argument, NULL, 'b'},
        {"isa", required_argument, NULL, 'i'},
        {"math", required_argument, NULL, 'a'},
        {"weights", required_argument, NULL, 'w'},
        {"kv-dtype", required_argument, NULL, 'v'},
        {"step-tokens", required_argument, NULL, 'c'},
        {"repeats", required_argument, NULL, 'e'},
        {"decode-steps", required_argument, NULL, 'g'},
        {"memory", required_argument, NULL, 'm'},
        {"json", required_argument, NULL, 'j'},
        {"ops", no_argument, NULL, 'o'},
        {"pin", no_argument, NULL, 'P'},
        {"one-document", no_argument, NULL, 'D'},
        {"plain-weights", no_argument, NULL, 'W'},
        {"exact-layers", no_argument, NULL, 'x'},
        {"fixed-thresholds", no_argument, NULL, 'f'},
        {"budget", no_argument, NULL, 'u'},
        {"one-device", no_argument, NULL, 'O'},
        {"strict", no_argument, NULL, 'S'},
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
