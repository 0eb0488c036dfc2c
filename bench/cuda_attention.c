/* bench/cuda_attention.c - how fast a backend plugin's attention is on this machine.
 *
 *   bench-cuda-attention PLUGIN [strict] [int8] [prefill]
 *
 * 32 query heads over 8 KV heads of 128, bf16 pages or int8 ones. Decode: one row per sequence, in
 * bytes of K, V, scales and biases read; prefill: 2048 rows of one sequence at several depths, in
 * operations of visible entries. A call reads other pages than the one before, so that little of
 * them is in a cache. "one document": sequences that have all pages but the last TAIL in common;
 * with SC_CUDA_NO_CASCADE=1 each reads them alone. The calls of one repetition are the layers of
 * one step, as in the engine; medians of repetitions. The first line is a copy of device memory,
 * for comparison. prefill: its lines alone.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/backend.h"
#include "base/plugin.h"

enum {
    HEADS = 32,
    KV_HEADS = 8,
    HEAD_DIM = 128,
    WIDTH = HEADS * HEAD_DIM,
    PAGES = 32768,
    ROWS = 2048,
    LAYERS = 8,
    TAIL = 4,
    REPEATS = 15
};

struct bench {
    struct sc_backend *be;
    struct sc_kv_pool *pool;
    float *q, *out;
    size_t page_bytes;
};

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void must(enum sc_status st, const struct sc_err *err)
{
    if (st == SC_OK)
        return;
    fprintf(stderr, "bench-cuda-attention: %s: %s\n", sc_status_text(st), err->text);
    exit(1);
}

static void *take(size_t n, size_t size)
{
    void *mem = calloc(n, size);
    if (mem == NULL) {
        fprintf(stderr, "bench-cuda-attention: out of memory\n");
        exit(1);
    }
    return mem;
}

static void synchronise(struct bench *b)
{
    struct sc_err err = SC_ERR_INIT;
    must(b->be->ops->sync(b->be, &err), &err);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof(*x), by_size);
    return x[n / 2];
}

static void open_all(struct bench *b, const char *path, bool strict, enum sc_dtype dtype)
{
    struct sc_backend_opts opts = {.n_ranks = 1, .n_threads = 1, .strict = strict};
    struct sc_kv_spec spec = {KV_HEADS, HEAD_DIM, dtype};
    struct sc_err err = SC_ERR_INIT;
    const struct sc_backend_plugin *plugin = NULL;
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    char text[128];

    if (lib != NULL)
        plugin = dlsym(lib, SC_BACKEND_PLUGIN_SYMBOL);
    if (plugin == NULL || plugin->abi != SC_BACKEND_ABI) {
        fprintf(stderr, "bench-cuda-attention: %s: no plugin of this version\n", path);
        exit(1);
    }
    must(plugin->open(&opts, &b->be, &err), &err);
    b->be->ops->describe(b->be, text, sizeof(text));
    printf("%s, %s pages\n", text, sc_dtype_name(dtype));
    b->page_bytes = b->be->ops->kv_page_bytes(b->be, &spec);
    must(b->be->ops->kv_open(b->be, &spec, PAGES, &b->pool, &err), &err);
    must(b->be->ops->alloc(b->be, (size_t)ROWS * WIDTH * sizeof(float), (void **)&b->q, &err),
         &err);
    must(b->be->ops->alloc(b->be, (size_t)ROWS * WIDTH * sizeof(float), (void **)&b->out, &err),
         &err);
}

static float noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) * 0x1p-22f - 2.0f;
}

/* A packed row of noise; returns its end. int8: some whole numbers, with a scale of 1/64. */
static uint8_t *put_row(uint8_t *to, enum sc_dtype dtype, uint32_t *state)
{
    const float scale = 0x1p-6f;
    for (uint32_t d = 0; d < HEAD_DIM; d++) {
        const float x = noise(state);
        const uint16_t bf16 = sc_f32_to_bf16(x);
        if (dtype == SC_DTYPE_I8)
            to[d] = (uint8_t)(int8_t)(x * 63.0f);
        else
            memcpy(to + (size_t)2 * d, &bf16, sizeof(bf16));
    }
    if (dtype == SC_DTYPE_I8)
        memcpy(to + HEAD_DIM, &scale, sizeof(scale));
    return to + sc_kv_row_bytes(dtype, HEAD_DIM);
}

static void fill(struct bench *b, enum sc_dtype dtype)
{
    const size_t n_q = (size_t)ROWS * WIDTH;
    const struct sc_backend_ops *ops = b->be->ops;
    struct sc_err err = SC_ERR_INIT;
    uint8_t *k = take(SC_PAGE_ENTRIES, sc_kv_row_bytes(dtype, HEAD_DIM));
    uint8_t *v = take(SC_PAGE_ENTRIES, sc_kv_row_bytes(dtype, HEAD_DIM));
    float bias[SC_PAGE_ENTRIES] = {0}, *q = take(n_q, sizeof(*q));
    uint32_t state = 1;

    for (uint32_t page = 0; page < 64; page++) {
        for (uint32_t h = 0; h < KV_HEADS; h++) {
            uint8_t *k_to = k, *v_to = v;
            for (uint32_t i = 0; i < SC_PAGE_ENTRIES; i++) {
                k_to = put_row(k_to, dtype, &state);
                v_to = put_row(v_to, dtype, &state);
            }
            must(ops->kv_unpack(b->be, b->pool, (const uint32_t[]){page}, 0, SC_PAGE_ENTRIES, h, k,
                                v, bias, &err),
                 &err);
        }
    }
    for (uint32_t page = 64; page < PAGES; page++)
        must(ops->kv_copy(b->be, b->pool, page, page % 64, &err), &err);
    for (size_t i = 0; i < n_q; i++)
        q[i] = noise(&state);
    must(ops->upload(b->be, b->q, q, n_q * sizeof(*q), &err), &err);
    free(k);
    free(v);
    free(q);
}

static void bench_copy(struct bench *b)
{
    const size_t bytes = (size_t)1 << 30;
    struct sc_err err = SC_ERR_INIT;
    void *from = NULL, *to = NULL;
    double times[REPEATS];

    must(b->be->ops->alloc(b->be, bytes, &from, &err), &err);
    must(b->be->ops->alloc(b->be, bytes, &to, &err), &err);
    for (int i = -2; i < REPEATS; i++) {
        synchronise(b);
        double t = now_s();
        must(b->be->ops->copy(b->be, to, from, bytes, &err), &err);
        synchronise(b);
        if (i >= 0)
            times[i] = now_s() - t;
    }
    printf("copy of 1 GiB: %.0f GB/s read and written\n",
           2e-9 * (double)bytes / median(times, REPEATS));
    b->be->ops->free(b->be, from);
    b->be->ops->free(b->be, to);
}

/* Seconds of one call: n_seqs sequences of n_rows rows behind `depth` positions, whose first
 * n_common pages are the same. */
static double time_calls(struct bench *b, uint32_t n_seqs, uint32_t n_rows, uint32_t depth,
                         uint32_t n_common)
{
    const uint32_t n = n_seqs * n_rows;
    const uint32_t n_pages = (depth + n_rows + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
    const struct sc_backend_ops *ops = b->be->ops;
    struct sc_attn_seq *seqs = take((size_t)LAYERS * n_seqs, sizeof(*seqs));
    uint32_t *tables = take((size_t)LAYERS * n_seqs * n_pages, sizeof(*tables));
    uint32_t *positions = take(n, sizeof(*positions)), *slots = take(n, sizeof(*slots));
    uint32_t *pages = take((size_t)LAYERS * n, sizeof(*pages)), logit_row = 0;
    int32_t *tokens = take(n, sizeof(*tokens));
    struct sc_err err = SC_ERR_INIT;
    double times[REPEATS];

    /* An odd step goes through all pages, and no two calls in turn meet the same ones. */
    for (size_t i = 0; i < (size_t)LAYERS * n_seqs * n_pages; i++)
        tables[i] = (uint32_t)(i * 7919 % PAGES);
    for (size_t i = 0; i < (size_t)LAYERS * n_seqs; i++)
        memcpy(tables + i * n_pages, tables + i / n_seqs * n_seqs * n_pages,
               n_common * sizeof(*tables));
    for (uint32_t i = 0; i < LAYERS * n_seqs; i++)
        seqs[i] = (struct sc_attn_seq){.row0 = i % n_seqs * n_rows,
                                       .n_rows = n_rows,
                                       .pos0 = depth,
                                       .exact_pages = tables + (size_t)i * n_pages};
    for (uint32_t i = 0; i < n; i++) {
        positions[i] = depth + i % n_rows;
        slots[i] = positions[i] % SC_PAGE_ENTRIES;
        for (uint32_t l = 0; l < LAYERS; l++)
            pages[(size_t)l * n + i] =
                seqs[l * n_seqs + i / n_rows].exact_pages[positions[i] / SC_PAGE_ENTRIES];
    }
    const struct sc_step step = {.n_rows = n,
                                 .n_seqs = n_seqs,
                                 .n_layers = LAYERS,
                                 .n_logit_rows = 1,
                                 .n_kv_heads = KV_HEADS,
                                 .tokens = tokens,
                                 .positions = positions,
                                 .slots = slots,
                                 .logit_rows = &logit_row,
                                 .pages = pages,
                                 .seqs = seqs};
    for (int i = -3; i < REPEATS; i++) {
        bool replayed = false;
        if (ops->step_begin != NULL)
            must(ops->step_begin(b->be, &step, &replayed, &err), &err);
        synchronise(b);
        double t = now_s();
        for (uint32_t l = 0; l < LAYERS; l++) {
            struct sc_attn_args args = {.q = b->q,
                                        .out = b->out,
                                        .pool = b->pool,
                                        .seqs = seqs + (size_t)l * n_seqs,
                                        .n_seqs = n_seqs,
                                        .q_stride = WIDTH,
                                        .n_heads = HEADS,
                                        .n_kv_heads = KV_HEADS,
                                        .head_dim = HEAD_DIM,
                                        .scale = 0.088388f};
            must(ops->attention(b->be, &args, &err), &err);
        }
        synchronise(b);
        t = now_s() - t;
        if (ops->step_end != NULL)
            must(ops->step_end(b->be, true, &err), &err);
        if (i >= 0)
            times[i] = t / LAYERS;
    }
    free(seqs);
    free(tables);
    free(positions);
    free(slots);
    free(pages);
    free(tokens);
    return median(times, REPEATS);
}

static void bench_document(struct bench *b, uint32_t n_seqs, uint32_t context)
{
    const uint32_t n_pages = context / SC_PAGE_ENTRIES, n_common = n_pages - TAIL;
    const double s = time_calls(b, n_seqs, 1, context - 1, n_common);
    const double pages = (double)n_common + (double)n_seqs * TAIL;

    printf("decode  batch %3u context %6u %9.1f us, one document: %7.0f GB/s if it is read once, "
           "%7.0f by each\n",
           n_seqs, context, s * 1e6, pages * (double)b->page_bytes * 1e-9 / s,
           (double)n_seqs * n_pages * (double)b->page_bytes * 1e-9 / s);
}

static void bench_prefill(struct bench *b)
{
    static const uint32_t depths[] = {0, 2048, 4096, 8192, 32768};

    for (size_t i = 0; i < SC_ARRAY_LEN(depths); i++) {
        double s = time_calls(b, 1, ROWS, depths[i], 0);
        double seen = (double)ROWS * depths[i] + 0.5 * ROWS * (ROWS + 1.0);
        printf("prefill rows %u depth %6u %12.1f us %7.1f TFLOP/s\n", ROWS, depths[i], s * 1e6,
               4e-12 * HEADS * HEAD_DIM * seen / s);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        uint32_t n_seqs, context;
    } decodes[] = {{1, 1024}, {1, 4096},  {1, 8192},  {1, 32768}, {1, 131072}, {8, 4096},
                   {8, 8192}, {8, 32768}, {32, 4096}, {32, 8192}, {32, 32768}, {64, 4096}};
    double quarter[65] = {
        0}; /* by sequences: seconds at 8192 entries, what r = 1/4 keeps of 32768 */
    struct bench b = {0};

    bool strict = false, prefill = false;
    enum sc_dtype dtype = SC_DTYPE_BF16;
    for (int i = 2; i < argc; i++) {
        strict = strict || strcmp(argv[i], "strict") == 0;
        prefill = prefill || strcmp(argv[i], "prefill") == 0;
        dtype = strcmp(argv[i], "int8") == 0 ? SC_DTYPE_I8 : dtype;
    }
    if (argc < 2) {
        fprintf(stderr, "usage: bench-cuda-attention PLUGIN [strict] [int8] [prefill]\n");
        return 2;
    }
    open_all(&b, argv[1], strict, dtype);
    fill(&b, dtype);
    if (prefill) { /* nothing else */
        bench_prefill(&b);
        return 0;
    }
    bench_copy(&b);
    for (size_t i = 0; i < SC_ARRAY_LEN(decodes); i++) {
        uint32_t context = decodes[i].context;
        double s = time_calls(&b, decodes[i].n_seqs, 1, context - 1, 0);
        double bytes =
            (double)decodes[i].n_seqs * (context / SC_PAGE_ENTRIES) * (double)b.page_bytes;
        printf("decode  batch %3u context %6u %9.1f us %7.0f GB/s", decodes[i].n_seqs, context,
               s * 1e6, bytes * 1e-9 / s);
        if (context == 8192)
            quarter[decodes[i].n_seqs] = s;
        if (context == 32768)
            printf("   %.2f times the time at a quarter of the entries",
                   s / quarter[decodes[i].n_seqs]);
        printf("\n");
    }
    for (uint32_t n = 2; n <= 32; n *= 2) {
        bench_document(&b, n, 8192); /* of 32768 with r = 1/4 */
        bench_document(&b, n, 32768);
    }
    bench_prefill(&b);
    return 0;
}
