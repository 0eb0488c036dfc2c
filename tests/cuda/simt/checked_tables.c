/* A plugin that is the CPU's backend, and with every step brings page tables to the stand-in device
 * as the CUDA backend does and looks whether they are there: the scheduler's and the engine's own
 * tests, with all that comes, goes and is preempted in them, are then tests of cuda/tables.c. */
#include <pthread.h>
#include <stdlib.h>

#include "base/plugin.h"
#include "cpu/cpu.h"
#include "cuda/device.h"
#include "cuda/seqs.h"
#include "cuda/tables.h"

struct checked {
    struct sc_backend *be; /* NULL: free */
    cudaStream_t stream;
    struct sc_cuda_tables tables;
};

/* Of all engines of the process. */
static struct checked all[64];
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;

enum sc_status sc_cuda_check(cudaError_t rc, const char *what, struct sc_err *err)
{
    return rc == cudaSuccess ? SC_OK : sc_fail(err, SC_EDEVICE, "%s: %d", what, (int)rc);
}

enum sc_status sc_cuda_check_pages(const char *what, const struct sc_kv_pool *pool,
                                   const uint32_t *pages, uint32_t first, uint32_t end,
                                   struct sc_err *err)
{
    (void)pool;
    (void)pages;
    (void)first;
    (void)end;
    return sc_fail(err, SC_EINTERNAL, "%s: not here", what);
}

enum sc_status sc_cuda_alloc(struct sc_backend *be, size_t bytes, void **ret_mem,
                             struct sc_err *err)
{
    (void)be;
    return sc_cuda_check(cudaMalloc(ret_mem, bytes), "memory", err);
}

static struct checked *find(const struct sc_backend *be)
{
    struct checked *found = NULL;
    pthread_mutex_lock(&mu);
    for (size_t i = 0; i < SC_ARRAY_LEN(all) && found == NULL; i++)
        found = all[i].be == be ? &all[i] : NULL;
    pthread_mutex_unlock(&mu);
    return found;
}

static enum sc_status check(const struct checked *c, const struct sc_step *step, struct sc_err *err)
{
    for (uint32_t l = 0; l < step->n_layers; l++)
        for (uint32_t i = 0; i < step->n_seqs; i++) {
            const struct sc_attn_seq *seq = &step->seqs[(size_t)l * step->n_seqs + i];
            const struct sc_cuda_seq s = sc_cuda_seq_of(seq, 0);
            const uint32_t *list =
                c->tables.device +
                sc_cuda_tables_at(&c->tables, i, l, s.exact_page0, s.n_core_pages);
            for (uint32_t p = 0; p < s.n_pages; p++) {
                const uint32_t want = p < s.n_core_pages
                                          ? seq->core_pages[p]
                                          : seq->exact_pages[s.exact_page0 + p - s.n_core_pages];
                if (list[p] != want)
                    return sc_fail(err, SC_EINTERNAL,
                                   "sequence %u of %u, layer %u: page %u of %u is %u, not %u", i,
                                   step->n_seqs, l, p, s.n_pages, list[p], want);
            }
        }
    return SC_OK;
}

static enum sc_status step_begin(struct sc_backend *be, const struct sc_step *step,
                                 bool *ret_replayed, struct sc_err *err)
{
    struct checked *c = find(be);
    bool there = false;
    enum sc_status st = sc_cuda_tables_send(&c->tables, step, c->stream, &there, err);

    *ret_replayed = false;
    if (st == SC_OK && !there)
        return sc_fail(err, SC_EINTERNAL, "page tables have no place");
    if (st == SC_OK)
        st = sc_cuda_check(cudaStreamSynchronize(c->stream), "page tables", err);
    return st == SC_OK ? check(c, step, err) : st;
}

static enum sc_status step_end(struct sc_backend *be, bool complete, struct sc_err *err)
{
    (void)be;
    (void)complete;
    (void)err;
    return SC_OK;
}

static void (*close_cpu)(struct sc_backend *be);

static void close_checked(struct sc_backend *be)
{
    struct checked *c = find(be);
    sc_cuda_tables_close(&c->tables);
    (void)cudaStreamDestroy(c->stream);
    close_cpu(be);
    pthread_mutex_lock(&mu);
    c->be = NULL;
    pthread_mutex_unlock(&mu);
}

static enum sc_status open_checked(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                                   struct sc_err *err)
{
    static struct sc_backend_ops ops;
    struct sc_backend_opts o = *opts;
    struct checked *c = NULL;
    o.strict = false;
    enum sc_status st = sc_cpu_backend_open(&o, ret_be, err);

    if (st != SC_OK)
        return st;
    pthread_mutex_lock(&mu);
    if (ops.name == NULL) {
        close_cpu = (*ret_be)->ops->close;
        ops = *(*ret_be)->ops;
        ops.close = close_checked;
        ops.step_begin = step_begin;
        ops.step_end = step_end;
    }
    for (size_t i = 0; i < SC_ARRAY_LEN(all) && c == NULL; i++)
        c = all[i].be == NULL ? &all[i] : NULL;
    if (c == NULL)
        abort();
    *c = (struct checked){.be = *ret_be};
    pthread_mutex_unlock(&mu);
    st = sc_cuda_check(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "stream", err);
    if (st == SC_OK)
        st = sc_cuda_tables_open(*ret_be, &c->tables, err);
    (*ret_be)->ops = &ops;
    return st;
}

static enum sc_status probe(char *text, size_t bytes, struct sc_err *err)
{
    (void)err;
    if (bytes > 0)
        text[0] = '\0';
    return SC_OK;
}

__attribute__((visibility("default"))) extern const struct sc_backend_plugin sc_backend_plugin;
const struct sc_backend_plugin sc_backend_plugin = {
    .abi = SC_BACKEND_ABI, .name = "checked-tables", .probe = probe, .open = open_checked};
