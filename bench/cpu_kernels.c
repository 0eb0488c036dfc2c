/* bench/cpu_kernels.c - how fast the kernels of the CPU backend are on this machine.
 *
 *   bench-cpu-kernels [threads [first instruction set, 0 to 4]]
 *
 * Every instruction set that runs here: dense products of a 2048 x 2048 matrix with 1, 64 and 512
 * rows, attention of one decode step over 8192 entries, and prefill attention of 512 rows; 32
 * heads, 8 KV heads of 64; tokens drawn from eight rows of 128256 logits, beside the plain loops of
 * base/draw.c. "w8a8" is int8 weights with int8 activations. The best of several runs.
 * Where OpenBLAS was linked, its sgemm is in the table.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/draw.h"
#include "cpu/cpu.h"

#ifdef SC_HAVE_OPENBLAS
#include <cblas.h>
void openblas_set_num_threads(int n);
#endif

enum {
    DIM = 2048,
    ROWS = 512,
    HEADS = 32,
    KV_HEADS = 8,
    HEAD_DIM = 64,
    CONTEXT = 8192,
    COPIES = 16
};

#define RUN_S    0.6 /* seconds of repetitions per line */
#define RUNS_MIN 3

struct bench {
    struct sc_backend *be;
    enum sc_cpu_isa isa;
    float *x, *y;
    /* matmul */
    struct sc_matrix *matrix[COPIES];
    uint32_t rows;
    uint32_t turn; /* counts calls; picks the copy */
    /* attention */
    struct sc_attn_args attn;
    struct sc_attn_seq seq;
    uint32_t tables[COPIES][CONTEXT / SC_PAGE_ENTRIES];
    const float *w;
};

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void must(enum sc_status st, const struct sc_err *err)
{
    if (st != SC_OK) {
        fprintf(stderr, "bench-cpu-kernels: %s: %s\n", sc_status_text(st), err->text);
        exit(1);
    }
}

static float *random_floats(size_t n)
{
    float *x = aligned_alloc(64, (n * sizeof(float) + 63) / 64 * 64);
    uint32_t state = 12345;
    if (x == NULL) {
        fprintf(stderr, "bench-cpu-kernels: out of memory\n");
        exit(1);
    }
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) * 0x1p-23f - 1.0f;
    }
    return x;
}

/* Seconds of the fastest call. */
static double best_of(void (*call)(struct bench *b), struct bench *b)
{
    double best = 1e9, start = now_s();
    call(b);
    for (int i = 0; i < RUNS_MIN || now_s() - start < RUN_S; i++) {
        double t = now_s();
        call(b);
        t = now_s() - t;
        best = t < best ? t : best;
    }
    return best;
}

static void call_matmul(struct bench *b)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_matrix *m = b->matrix[b->rows <= 8 ? b->turn++ % COPIES : 0];
    must(b->be->ops->matmul(b->be, m, b->x, DIM, b->y, DIM, b->rows, &err), &err);
}

static void call_attention(struct bench *b)
{
    struct sc_err err = SC_ERR_INIT;
    b->seq.exact_pages = b->tables[b->attn.seqs->n_rows == 1 ? b->turn++ % COPIES : 0];
    must(b->be->ops->attention(b->be, &b->attn, &err), &err);
}

static void bench_matmul(struct bench *b, enum sc_dtype store, const char *name)
{
    static const uint32_t rows[] = {1, 8, 64, 512};
    struct sc_matrix_part part = {b->w, SC_DTYPE_F32, DIM, DIM, 0};
    struct sc_err err = SC_ERR_INIT;
    for (uint32_t i = 0; i < COPIES; i++)
        must(b->be->ops->matrix_open(b->be, &part, 1, DIM, NULL, store, &b->matrix[i], &err), &err);
    for (size_t i = 0; i < SC_ARRAY_LEN(rows); i++) {
        b->rows = rows[i];
        double s = best_of(call_matmul, b);
        printf("%-11s matmul %-4s %4u rows %9.1f GFLOP/s %7.1f GB/s of weights\n",
               sc_cpu_isa_name(b->isa), name, b->rows, 2e-9 * DIM * DIM * b->rows / s,
               1e-9 * DIM * DIM * (double)sc_dtype_bytes(store) / s);
    }
    for (uint32_t i = 0; i < COPIES; i++)
        b->be->ops->matrix_close(b->be, b->matrix[i]);
}

static void fill_pool(struct bench *b, struct sc_kv_pool *pool, uint32_t n_pages)
{
    struct sc_err err = SC_ERR_INIT;
    for (uint32_t i = 0; i < n_pages * SC_PAGE_ENTRIES * KV_HEADS; i++)
        must(b->be->ops->kv_write(
                 b->be, pool, i / KV_HEADS / SC_PAGE_ENTRIES, i / KV_HEADS % SC_PAGE_ENTRIES,
                 i % KV_HEADS, b->w + i % 4096 * HEAD_DIM, b->w + i % 4001 * HEAD_DIM, 0.0f, &err),
             &err);
    for (uint32_t i = 0; i < n_pages * COPIES; i++) {
        b->tables[i / n_pages][i % n_pages] = i;
        must(b->be->ops->kv_copy(b->be, pool, i, i % n_pages, &err), &err);
    }
}

static void bench_attention(struct bench *b, enum sc_dtype dtype)
{
    enum { N_PAGES = CONTEXT / SC_PAGE_ENTRIES };
    struct sc_kv_spec spec = {KV_HEADS, HEAD_DIM, dtype};
    struct sc_kv_pool *pool = NULL;
    struct sc_err err = SC_ERR_INIT;

    must(b->be->ops->kv_open(b->be, &spec, N_PAGES * COPIES, &pool, &err), &err);
    fill_pool(b, pool, N_PAGES);
    b->attn = (struct sc_attn_args){b->x,  b->y,     pool,     &b->seq, 1,   DIM,
                                    HEADS, KV_HEADS, HEAD_DIM, 0.125f,  NULL};
    b->seq = (struct sc_attn_seq){.n_rows = 1, .pos0 = CONTEXT - 1};
    double s = best_of(call_attention, b);
    printf("%-11s decode attention %-4s %5d entries %7.2f ms %7.1f GB/s of K and V\n",
           sc_cpu_isa_name(b->isa), sc_dtype_name(dtype), CONTEXT, s * 1e3,
           2e-9 * CONTEXT * KV_HEADS * (double)sc_kv_row_bytes(dtype, HEAD_DIM) / s);
    for (uint32_t pos0 = 0; pos0 < CONTEXT; pos0 = pos0 == 0 ? 3584 : CONTEXT) {
        double seen = ROWS * (pos0 + (ROWS + 1) / 2.0);
        b->seq.n_rows = ROWS;
        b->seq.pos0 = pos0;
        s = best_of(call_attention, b);
        printf("%-11s prefill attention %-4s %u rows at %4u %7.2f ms %7.1f GFLOP/s\n",
               sc_cpu_isa_name(b->isa), sc_dtype_name(dtype), ROWS, pos0, s * 1e3,
               4e-9 * seen * HEADS * HEAD_DIM / s);
    }
    b->be->ops->kv_close(b->be, pool);
}

#ifdef SC_HAVE_OPENBLAS
static void call_sgemm(struct bench *b)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)b->rows, DIM, DIM, 1.0f, b->x, DIM,
                b->w, DIM, 0.0f, b->y, DIM);
}

static void bench_openblas(struct bench *b, int n_threads)
{
    openblas_set_num_threads(n_threads);
    for (b->rows = 1; b->rows <= ROWS; b->rows *= 8) {
        double s = best_of(call_sgemm, b);
        printf("%-11s matmul f32  %4u rows %9.1f GFLOP/s %7.1f GB/s of weights\n", "openblas",
               b->rows, 2e-9 * DIM * DIM * b->rows / s, 4e-9 * DIM * DIM / s);
    }
}
#endif

/* ---- draws ---- */

enum { VOCAB = 128256, DRAW_ROWS = 8 };

struct draws {
    struct bench *b;
    float *x, best[2 * DRAW_ROWS];
    struct sc_draw draws[DRAW_ROWS];
};

static void draw_by_backend(struct draws *d)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_backend *be = d->b->be;
    must(be->ops->row_max(be, d->x, DRAW_ROWS, VOCAB, VOCAB, d->best, &err), &err);
    must(be->ops->draw(be, d->x, DRAW_ROWS, VOCAB, VOCAB, d->draws, d->best, &err), &err);
}

static void draw_plainly(struct draws *d)
{
    for (uint32_t i = 0; i < DRAW_ROWS; i++) {
        uint32_t id;
        const float *row = d->x + (size_t)i * VOCAB;
        float max = sc_draw_largest(row, VOCAB, NULL, &id);
        id = sc_draw_token(row, VOCAB, max, &d->draws[i], NULL);
        memcpy(&d->best[2 * i + 1], &id, sizeof(id));
    }
}

static double fastest_row(void (*run)(struct draws *d), struct draws *d)
{
    double best = 1e9;
    for (int i = 0; i < 12; i++) {
        double t = now_s();
        run(d);
        t = now_s() - t;
        best = t < best ? t : best;
    }
    return best / DRAW_ROWS;
}

/* Logits of about a model's spread, twenty of them likely. */
static void bench_draws(struct bench *b)
{
    static const struct {
        const char *name;
        float temperature, top_p;
        uint32_t top_k;
    } ways[] = {{"T 1", 1.0f, 1.0f, 0},
                {"T 0.7, p 0.95", 0.7f, 0.95f, 0},
                {"T 0.7, k 50, p 0.9", 0.7f, 0.9f, 50}};
    struct draws d = {.b = b, .x = malloc((size_t)DRAW_ROWS * VOCAB * sizeof(float))};
    uint32_t r = 1;
    if (d.x == NULL)
        return;
    for (size_t i = 0; i < (size_t)DRAW_ROWS * VOCAB; i++) {
        float sum = 0.0f;
        for (int k = 0; k < 4; k++)
            sum += (float)((r = r * 1664525u + 1013904223u) >> 8) * 0x1p-24f;
        d.x[i] = (sum - 2.0f) * 4.3f;
    }
    for (uint32_t i = 0; i < DRAW_ROWS * 20; i++)
        d.x[(size_t)(i % DRAW_ROWS) * VOCAB + (r = r * 1664525u + 1013904223u) % VOCAB] =
            8.0f + 0.5f * (float)(i / DRAW_ROWS);
    for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
        for (uint32_t i = 0; i < DRAW_ROWS; i++)
            d.draws[i] = (struct sc_draw){.scale = -1.44269504f / ways[w].temperature,
                                          .top_p = ways[w].top_p,
                                          .top_k = ways[w].top_k,
                                          .last = 0x7f7fffff,
                                          .random = (uint64_t)i << 60 | 12345};
        printf("%-11s draw %-18s %8.3f ms a row, plain loops %.3f\n", sc_cpu_isa_name(b->isa),
               ways[w].name, fastest_row(draw_by_backend, &d) * 1e3,
               fastest_row(draw_plainly, &d) * 1e3);
    }
    free(d.x);
}

int main(int argc, char **argv)
{
    struct sc_backend_opts opts = {.n_ranks = 1, .n_threads = 1};
    static struct bench b;
    struct sc_err err = SC_ERR_INIT;

    if (argc > 1)
        opts.n_threads = (uint32_t)strtoul(argv[1], NULL, 10);
    b.w = random_floats((size_t)DIM * DIM);
    b.x = random_floats((size_t)ROWS * DIM);
    b.y = random_floats((size_t)ROWS * DIM);
    printf("%u thread(s)\n", opts.n_threads);
    for (b.isa = argc > 2 ? (enum sc_cpu_isa)strtoul(argv[2], NULL, 10) : SC_CPU_ISA_PLAIN;
         b.isa <= sc_cpu_isa_best(); b.isa++) {
        must(sc_cpu_backend_open_isa(&opts, b.isa, &b.be, &err), &err);
        bool rounds = b.isa >= SC_CPU_ISA_AVX512BF16; /* f32 is that of AVX512 */
        if (!rounds)
            bench_matmul(&b, SC_DTYPE_F32, "f32");
        bench_matmul(&b, SC_DTYPE_BF16, "bf16");
        bench_matmul(&b, SC_DTYPE_I8, "int8");
        bench_attention(&b, SC_DTYPE_BF16);
        bench_attention(&b, SC_DTYPE_I8);
        bench_draws(&b);
        if (!rounds)
            bench_attention(&b, SC_DTYPE_F32);
        b.be->ops->close(b.be);
        opts.math = SC_MATH_INT8;
        must(sc_cpu_backend_open_isa(&opts, b.isa, &b.be, &err), &err);
        opts.math = SC_MATH_AUTO;
        bench_matmul(&b, SC_DTYPE_I8, "w8a8");
        b.be->ops->close(b.be);
    }
#ifdef SC_HAVE_OPENBLAS
    bench_openblas(&b, (int)opts.n_threads);
#endif
    return 0;
}
