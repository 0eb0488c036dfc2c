#include "bench/roofline.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define READ_BYTES  ((size_t)1 << 30)
#define READ_PASSES 6
/* Bytes that every second pass asks for before it reads them: some machines' own look-ahead is not
 * enough. */
#define READ_AHEAD  12288u
#define THREADS_MAX 256u
#define CALLS_MIN   5
#define CALLS_S     0.5

typedef uint64_t sc_lanes __attribute__((vector_size(64)));

static double now_s(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

struct reader {
    pthread_t thread;
    pthread_barrier_t *start;
    const char *from;
    size_t bytes;
    double begin_s[READ_PASSES], end_s[READ_PASSES];
    uint64_t sum; /* so that the reads have a use */
};

static void *read_main(void *arg)
{
    struct reader *r = arg;
    const sc_lanes *v = (const sc_lanes *)(const void *)r->from;
    size_t n = r->bytes / sizeof(*v);

    for (int pass = 0; pass < READ_PASSES; pass++) {
        sc_lanes a = {0}, b = {0};
        (void)pthread_barrier_wait(r->start);
        r->begin_s[pass] = now_s();
        for (size_t i = 0; i + 2 <= n; i += 2) {
            if (pass % 2 != 0) {
                __builtin_prefetch(r->from + i * sizeof(*v) + READ_AHEAD, 0, 2);
                __builtin_prefetch(r->from + (i + 1) * sizeof(*v) + READ_AHEAD, 0, 2);
            }
            a += v[i];
            b ^= v[i + 1];
        }
        r->end_s[pass] = now_s();
        a += b;
        r->sum += a[0] + a[7];
    }
    return NULL;
}

static double best_pass(const struct reader *readers, uint32_t n, size_t bytes)
{
    double best = 0.0;
    for (int pass = 0; pass < READ_PASSES; pass++) {
        double begin = readers[0].begin_s[pass], end = readers[0].end_s[pass];
        for (uint32_t i = 1; i < n; i++) {
            begin = readers[i].begin_s[pass] < begin ? readers[i].begin_s[pass] : begin;
            end = readers[i].end_s[pass] > end ? readers[i].end_s[pass] : end;
        }
        double rate = (double)bytes / (end - begin);
        best = rate > best ? rate : best;
    }
    return best;
}

enum sc_status sc_roofline_host_read(uint32_t n_threads, double *ret_bytes_per_s,
                                     struct sc_err *err)
{
    struct reader *readers = NULL;
    pthread_barrier_t start;
    uint32_t n = n_threads < THREADS_MAX ? n_threads : THREADS_MAX, n_started = 0;
    size_t part = READ_BYTES / n / 4096 * 4096;
    enum sc_status st = SC_OK;
    char *mem = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (mem == MAP_FAILED)
        return sc_fail(err, SC_ENOMEM, "read test: %zu bytes", READ_BYTES);
    (void)madvise(mem, READ_BYTES, MADV_HUGEPAGE);
    memset(mem, 1, READ_BYTES);
    readers = calloc(n, sizeof(*readers));
    if (readers == NULL || pthread_barrier_init(&start, NULL, n) != 0) {
        st = sc_fail(err, SC_ENOMEM, "read test: out of memory");
        goto out;
    }
    for (; n_started < n; n_started++) {
        readers[n_started] =
            (struct reader){.start = &start, .from = mem + n_started * part, .bytes = part};
        /* The others wait at the barrier for a thread that is not there: nothing to save. */
        SC_ASSERT(
            pthread_create(&readers[n_started].thread, NULL, read_main, &readers[n_started]) == 0);
    }
    for (uint32_t i = 0; i < n; i++)
        (void)pthread_join(readers[i].thread, NULL);
    (void)pthread_barrier_destroy(&start);
    *ret_bytes_per_s = best_pass(readers, n, n * part);

out:
    free(readers);
    (void)munmap(mem, READ_BYTES);
    return st;
}

enum sc_status sc_roofline_device_copy(struct sc_backend *be, double *ret_bytes_per_s,
                                       struct sc_err *err)
{
    enum { DIM = 4096, ROWS = 32768 };
    const size_t bytes = (size_t)DIM * ROWS * sizeof(float);
    void *a = NULL, *b = NULL;
    double best = 0.0;
    enum sc_status st = be->ops->alloc(be, bytes, &a, err);

    if (st == SC_OK)
        st = be->ops->alloc(be, bytes, &b, err);
    const struct sc_norm_args args = {
        .resid = a, .delta = b, .n_rows = ROWS, .dim = DIM, .eps = 1e-5f};
    for (int i = 0; i < CALLS_MIN && st == SC_OK; i++) {
        double t = now_s();
        st = be->ops->norm(be, &args, err);
        if (st == SC_OK)
            st = be->ops->sync(be, err);
        double rate = 3.0 * (double)bytes / (now_s() - t);
        best = rate > best ? rate : best;
    }
    be->ops->free(be, a);
    be->ops->free(be, b);
    if (st == SC_OK)
        *ret_bytes_per_s = best;
    return st;
}

static void fill_random(float *x, size_t n)
{
    uint32_t state = 12345;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) * 0x1p-23f - 1.0f;
    }
}

static enum sc_status time_matmul(struct sc_backend *be, const struct sc_matrix *m, const float *x,
                                  float *y, uint32_t dim, uint32_t rows, double *ret_s,
                                  struct sc_err *err)
{
    double start = now_s(), best = 1e9;
    for (int i = 0; i < CALLS_MIN || now_s() - start < CALLS_S; i++) {
        double t = now_s();
        enum sc_status st = be->ops->matmul(be, m, x, dim, y, dim, rows, err);
        if (st == SC_OK)
            st = be->ops->sync(be, err);
        if (st != SC_OK)
            return st;
        t = now_s() - t;
        best = t < best ? t : best;
    }
    *ret_s = best;
    return SC_OK;
}

enum sc_status sc_roofline_matmul(struct sc_backend *be, enum sc_dtype store,
                                  double *ret_flop_per_s, struct sc_err *err)
{
    /* A device with memory of its own needs more to fill it. */
    const uint32_t dim = be->ops->memory != NULL ? 2 * SC_ROOFLINE_DIM : SC_ROOFLINE_DIM;
    const uint32_t rows = be->ops->memory != NULL ? dim : SC_ROOFLINE_ROWS;
    const size_t n_w = (size_t)dim * dim;
    const size_t n_x = (size_t)rows * dim;
    float *host = malloc(n_w * sizeof(*host));
    struct sc_matrix *m = NULL;
    void *x = NULL, *y = NULL;
    double s = 0.0;
    enum sc_status st = SC_OK;

    if (host == NULL)
        return sc_fail(err, SC_ENOMEM, "matmul test: %zu bytes", n_w * sizeof(*host));
    fill_random(host, n_w);
    const struct sc_matrix_part part = {host, SC_DTYPE_F32, dim, dim, 0};
    st = be->ops->matrix_open(be, &part, 1, dim, NULL, store, &m, err);
    if (st == SC_OK)
        st = be->ops->alloc(be, n_x * sizeof(float), &x, err);
    if (st == SC_OK)
        st = be->ops->alloc(be, n_x * sizeof(float), &y, err);
    if (st == SC_OK)
        st = be->ops->upload(be, x, host, n_x * sizeof(float), err);
    if (st == SC_OK)
        st = time_matmul(be, m, x, y, dim, rows, &s, err);
    be->ops->free(be, x);
    be->ops->free(be, y);
    if (m != NULL)
        be->ops->matrix_close(be, m);
    free(host);
    if (st == SC_OK)
        *ret_flop_per_s = 2.0 * rows * (double)n_w / s;
    return st;
}
