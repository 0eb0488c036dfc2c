/* bench/cuda_matmul.c - how fast the dense products of a backend plugin are.
 *
 *   bench-cuda-matmul <plugin.so> [bf16 | int8 | f32] [strict] [ROWS]
 *
 * The matrices of an 8B model with 1 to 2048 rows, or with ROWS alone: microseconds a call, weight
 * bytes a second (as they are kept) and operations a second; last the bandwidth of copies in the
 * same run. Calls are queued and waited for together; the median of several such batches. Small
 * matrices take turns with copies of themselves, so that none is read from a cache.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/backend.h"
#include "base/plugin.h"

#define TURN_BYTES ((size_t)256 << 20) /* of weights before a matrix is read again */
#define COPY_BYTES ((size_t)1 << 30)
#define BATCH_S    0.02
#define BATCHES    5

enum { COPIES_MAX = 16, ROWS_MAX = 2048 };

static const struct shape {
    const char *name;
    uint32_t n_out, n_in;
    bool swiglu;
} shapes[] = {
    {"qkv", 6144, 4096, false},      {"o", 4096, 4096, false},
    {"gate_up", 28672, 4096, false}, {"gate_up swiglu", 28672, 4096, true},
    {"down", 4096, 14336, false},    {"head", 128256, 4096, false},
};

struct bench {
    struct sc_backend *be;
    const struct shape *shape;
    struct sc_matrix *matrices[COPIES_MAX];
    uint32_t n_copies, turn, n;
    float *x, *y, *scratch;
    struct sc_matrix *next; /* the reader of what swiglu gives, as in a layer */
    void *from, *to;        /* COPY_BYTES */
};

static void must(enum sc_status st, const struct sc_err *err)
{
    if (st != SC_OK) {
        fprintf(stderr, "bench-cuda-matmul: %s: %s\n", sc_status_text(st), err->text);
        exit(1);
    }
}

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void *take(struct sc_backend *be, size_t bytes)
{
    struct sc_err err = SC_ERR_INIT;
    void *mem = NULL;
    must(be->ops->alloc(be, bytes, &mem, &err), &err);
    return mem;
}

static void product(struct bench *b)
{
    struct sc_err err = SC_ERR_INIT;
    const struct shape *s = b->shape;
    struct sc_matrix *m = b->matrices[b->turn++ % b->n_copies];
    if (s->swiglu)
        must(b->be->ops->matmul_swiglu(b->be, m, b->x, b->scratch, b->y, b->n, s->n_out / 2,
                                       b->next, &err),
             &err);
    else
        must(b->be->ops->matmul(b->be, m, b->x, s->n_in, b->y, s->n_out, b->n, &err), &err);
}

static void copy(struct bench *b)
{
    struct sc_err err = SC_ERR_INIT;
    must(b->be->ops->copy(b->be, b->to, b->from, COPY_BYTES, &err), &err);
}

static double batch(struct bench *b, void (*call)(struct bench *), unsigned n)
{
    struct sc_err err = SC_ERR_INIT;
    double start = now_s();
    for (unsigned i = 0; i < n; i++)
        call(b);
    must(b->be->ops->sync(b->be, &err), &err);
    return (now_s() - start) / n;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds a call. */
static double measure(struct bench *b, void (*call)(struct bench *))
{
    double times[BATCHES];
    (void)batch(b, call, 2);
    double once = batch(b, call, 4);
    unsigned n = once < BATCH_S / 4 ? (unsigned)(BATCH_S / once) : 4;
    for (int i = 0; i < BATCHES; i++)
        times[i] = batch(b, call, n);
    qsort(times, BATCHES, sizeof(*times), ascending);
    return times[BATCHES / 2];
}

/* Small numbers of both signs, as bf16. */
static uint16_t *random_weights(size_t n)
{
    uint16_t *w = malloc(n * sizeof(*w));
    uint64_t state = 1;
    if (w == NULL)
        exit(1);
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        w[i] = (uint16_t)(0x3c00u | (state >> 33 & 0x80ffu));
    }
    return w;
}

/* only: a number of rows; 0: all. */
static void bench_shape(struct bench *b, const uint16_t *weights, enum sc_dtype store,
                        uint32_t only)
{
    static const uint32_t rows[] = {1, 2, 4, 8, 16, 32, 64, 256, 512, 1024, ROWS_MAX};
    struct sc_backend *be = b->be;
    const struct shape *s = b->shape;
    struct sc_matrix_part part = {weights, SC_DTYPE_BF16, s->n_out, s->n_in, 0};
    const size_t bytes = (size_t)s->n_out * s->n_in * sc_dtype_bytes(store);
    struct sc_err err = SC_ERR_INIT;

    b->n_copies = bytes >= TURN_BYTES ? 1 : (uint32_t)((TURN_BYTES + bytes - 1) / bytes);
    if (b->n_copies > COPIES_MAX)
        b->n_copies = COPIES_MAX;
    for (uint32_t i = 0; i < b->n_copies; i++)
        must(be->ops->matrix_open(be, &part, 1, s->n_in, NULL, store, &b->matrices[i], &err), &err);
    b->y = take(be, (size_t)ROWS_MAX * s->n_out * sizeof(float));
    const struct sc_matrix_part down = {weights, SC_DTYPE_BF16, 4096, s->n_out / 2, 0};
    if (s->swiglu)
        must(be->ops->matrix_open(be, &down, 1, s->n_out / 2, NULL, store, &b->next, &err), &err);
    b->scratch = s->swiglu ? take(be, (size_t)ROWS_MAX * s->n_out * sizeof(float)) : NULL;
    for (size_t i = 0; i < (only == 0 ? SC_ARRAY_LEN(rows) : 1); i++) {
        b->n = only == 0 ? rows[i] : only;
        double t = measure(b, product);
        printf("%-15s [%6u, %5u] x %4u  %9.1f us  %7.1f GB/s  %7.1f TFLOP/s\n", s->name, s->n_out,
               s->n_in, b->n, t * 1e6, (double)bytes / t * 1e-9,
               2.0 * s->n_out * s->n_in * b->n / t * 1e-12);
        (void)fflush(stdout);
    }
    for (uint32_t i = 0; i < b->n_copies; i++)
        be->ops->matrix_close(be, b->matrices[i]);
    if (s->swiglu)
        be->ops->matrix_close(be, b->next);
    be->ops->free(be, b->y);
    be->ops->free(be, b->scratch);
}

static struct sc_backend *open_plugin(const char *path, bool strict)
{
    struct sc_backend_opts opts = {.n_ranks = 1, .n_threads = 1, .strict = strict};
    const struct sc_backend_plugin *plugin;
    struct sc_backend *be = NULL;
    struct sc_err err = SC_ERR_INIT;
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    plugin = lib != NULL ? dlsym(lib, SC_BACKEND_PLUGIN_SYMBOL) : NULL;
    if (plugin == NULL || plugin->abi != SC_BACKEND_ABI) {
        fprintf(stderr, "bench-cuda-matmul: %s: %s\n", path,
                plugin != NULL ? "another ABI" : dlerror());
        exit(1);
    }
    must(plugin->open(&opts, &be, &err), &err);
    return be;
}

int main(int argc, char **argv)
{
    enum sc_dtype store = SC_DTYPE_BF16;
    struct bench b = {0};
    struct sc_err err = SC_ERR_INIT;
    char text[128];
    bool strict = false;
    uint32_t only = 0;

    if (argc < 2) {
        fprintf(stderr,
                "usage: bench-cuda-matmul <plugin.so> [bf16 | int8 | f32] [strict] [ROWS]\n");
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        strict |= strcmp(argv[i], "strict") == 0;
        if (argv[i][0] >= '1' && argv[i][0] <= '9')
            only = (uint32_t)strtoul(argv[i], NULL, 10);
        for (enum sc_dtype d = SC_DTYPE_F32; d <= SC_DTYPE_I8; d++)
            store = strcmp(argv[i], sc_dtype_name(d)) == 0 ? d : store;
    }
    if (only > ROWS_MAX) {
        fprintf(stderr, "bench-cuda-matmul: %u rows, limit %u\n", only, ROWS_MAX);
        return 2;
    }
    b.be = open_plugin(argv[1], strict);
    b.be->ops->describe(b.be, text, sizeof(text));
    printf("%s, weights %s\n", text, sc_dtype_name(store));
    uint16_t *weights = random_weights((size_t)128256 * 4096);
    float *ones = malloc((size_t)ROWS_MAX * 14336 * sizeof(*ones));
    if (ones == NULL)
        return 1;
    for (size_t i = 0; i < (size_t)ROWS_MAX * 14336; i++)
        ones[i] = (float)(i % 17) * 0.1f - 0.8f;
    b.x = take(b.be, (size_t)ROWS_MAX * 14336 * sizeof(float));
    must(b.be->ops->upload(b.be, b.x, ones, (size_t)ROWS_MAX * 14336 * sizeof(float), &err), &err);
    for (size_t i = 0; i < SC_ARRAY_LEN(shapes); i++) {
        b.shape = &shapes[i];
        bench_shape(&b, weights, store, only);
    }
    b.from = take(b.be, COPY_BYTES);
    b.to = take(b.be, COPY_BYTES);
    printf("copy of %zu MiB: %.1f GB/s read and written\n", COPY_BYTES >> 20,
           2.0 * (double)COPY_BYTES / measure(&b, copy) * 1e-9);
    b.be->ops->free(b.be, b.from);
    b.be->ops->free(b.be, b.to);
    b.be->ops->free(b.be, b.x);
    b.be->ops->close(b.be);
    free(weights);
    free(ones);
    return 0;
}
