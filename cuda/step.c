/* A step's host arrays and page tables on the device, sent in one copy; and steps of decoding as
 * recorded graphs.
 *
 * A shape that comes again is recorded the second time (the first has loaded the kernels) and
 * replayed from the third on. Kernels read lengths and page tables from the step's device memory,
 * which lies at the same addresses for every step of one shape; only the size of attention's grid
 * is recorded, so a shape includes the longest sequence and the largest cohort, rounded up, and in
 * which of two places page tables lie.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda/device.h"
#include "cuda/seqs.h"
#include "cuda/tables.h"

#define GRAPHS_MAX     64u
#define GRAPH_ROWS_MAX 256u

struct shape {
    uint32_t n_rows, n_layers, n_logit_rows, max_pages, there;
    struct sc_cuda_cohort_bounds bounds;
};

struct graph {
    struct shape shape;
    uint64_t last_used;   /* 0: a free place */
    cudaGraphExec_t exec; /* NULL: seen once, not recorded yet */
};

/* Offsets in the step's memory. */
struct layout {
    size_t tokens, positions, slots, logit_rows, pages;
    size_t seqs, bytes; /* seqs is last: alone grows while a shape stays */
};

struct sc_cuda_step {
    uint8_t *host;       /* pinned [2, SC_CUDA_STEP_BYTES] */
    uint8_t *device;     /* [SC_CUDA_STEP_BYTES] */
    cudaEvent_t sent[2]; /* the copy out of this half is done */
    cudaEvent_t done;    /* the last step that ended is */
    unsigned half;
    bool active, recording;
    struct sc_step told;
    struct layout at;
    struct sc_cuda_seqs_layout seqs_at; /* from at.seqs on */
    struct sc_cuda_seqs seqs;           /* bounds of all layers, of a recorded step rounded up */
    struct sc_cuda_tables tables;
    bool there; /* the step's page ids are in tables, not in its memory */
    /* What the step before packed into the other half; NULL: nothing that can be used again. */
    const uint8_t *before;
    struct sc_cuda_seqs_layout before_at;
    struct sc_cuda_cohort_bounds before_bounds;
    struct graph *recorded; /* the place that is being recorded */
    struct graph graphs[GRAPHS_MAX];
    uint64_t clock;
    bool no_graphs; /* SC_CUDA_NO_GRAPHS is set: for finding out what a graph hides */
};

enum sc_status sc_cuda_step_open(struct sc_cuda_device *dev, struct sc_err *err)
{
    struct sc_cuda_step *s = dev->step = calloc(1, sizeof(*s));
    enum sc_status st;

    if (s == NULL)
        return sc_fail(err, SC_ENOMEM, "cuda step: %zu bytes", sizeof(*s));
    s->no_graphs = getenv("SC_CUDA_NO_GRAPHS") != NULL;
    st = sc_cuda_alloc(&dev->base, SC_CUDA_STEP_BYTES, (void **)&s->device, err);
    if (st == SC_OK)
        st = sc_cuda_check(
            cudaHostAlloc((void **)&s->host, 2 * SC_CUDA_STEP_BYTES, cudaHostAllocPortable),
            "pinned memory", err);
    for (int i = 0; i < 2 && st == SC_OK; i++)
        st = sc_cuda_check(cudaEventCreateWithFlags(&s->sent[i], cudaEventDisableTiming),
                           "CUDA event", err);
    if (st == SC_OK)
        st = sc_cuda_check(cudaEventCreateWithFlags(&s->done, cudaEventDisableTiming), "CUDA event",
                           err);
    if (st == SC_OK)
        st = sc_cuda_tables_open(&dev->base, &s->tables, err);
    return st;
}

void sc_cuda_step_close(struct sc_cuda_device *dev)
{
    struct sc_cuda_step *s = dev->step;
    if (s == NULL)
        return;
    for (uint32_t i = 0; i < GRAPHS_MAX; i++)
        if (s->graphs[i].exec != NULL)
            (void)cudaGraphExecDestroy(s->graphs[i].exec);
    for (int i = 0; i < 2; i++)
        if (s->sent[i] != NULL)
            (void)cudaEventDestroy(s->sent[i]);
    if (s->done != NULL)
        (void)cudaEventDestroy(s->done);
    sc_cuda_tables_close(&s->tables);
    (void)cudaFreeHost(s->host);
    (void)cudaFree(s->device);
    free(s);
    dev->step = NULL;
}

/* ---- what a step's memory holds ---- */

static size_t place(size_t *at, size_t bytes)
{
    size_t here = *at;
    *at += SC_CUDA_ALIGN(bytes);
    return here;
}

static struct layout lay_out(const struct sc_step *t, size_t seqs_bytes)
{
    const size_t n = t->n_rows;
    struct layout l = {0};
    size_t at = 0;

    l.tokens = place(&at, n * sizeof(*t->tokens));
    l.positions = place(&at, n * sizeof(*t->positions));
    l.slots = place(&at, n * sizeof(*t->slots));
    l.logit_rows = place(&at, t->n_logit_rows * sizeof(*t->logit_rows));
    l.pages = place(&at, n * t->n_layers * sizeof(*t->pages));
    l.seqs = place(&at, seqs_bytes);
    l.bytes = at;
    return l;
}

static void fill(struct sc_cuda_step *s, bool cascade, uint8_t *to)
{
    const struct sc_step *t = &s->told;
    const size_t n = t->n_rows;

    memcpy(to + s->at.tokens, t->tokens, n * sizeof(*t->tokens));
    memcpy(to + s->at.positions, t->positions, n * sizeof(*t->positions));
    memcpy(to + s->at.slots, t->slots, n * sizeof(*t->slots));
    memcpy(to + s->at.logit_rows, t->logit_rows, t->n_logit_rows * sizeof(*t->logit_rows));
    memcpy(to + s->at.pages, t->pages, n * t->n_layers * sizeof(*t->pages));
    const bool again = s->there && s->tables.same && s->before != NULL &&
                       memcmp(&s->before_at, &s->seqs_at, sizeof(s->seqs_at)) == 0;
    const struct sc_cuda_seqs_pack args = {.seqs = t->seqs,
                                           .n_layers = t->n_layers,
                                           .n_kv_heads = t->n_kv_heads,
                                           .cascade = cascade,
                                           .there = s->there ? &s->tables : NULL,
                                           .before = again ? s->before : NULL,
                                           .before_bounds = s->before_bounds};
    s->seqs = sc_cuda_seqs_pack(&args, &s->seqs_at, to + s->at.seqs);
    s->before = to + s->at.seqs;
    s->before_at = s->seqs_at;
    s->before_bounds = s->seqs.bounds;
}

/* Steps of a quarter of a power of two: at most a quarter of a recorded grid has nothing to do. */
static uint32_t round_pages(uint32_t n)
{
    uint32_t step = 16;
    while (n > 8 * step)
        step *= 2;
    return (n + step - 1) / step * step;
}

/* Through the half that the device has already copied. */
static enum sc_status send(struct sc_cuda_device *dev, struct sc_err *err)
{
    struct sc_cuda_step *s = dev->step;
    uint8_t *host = s->host + (size_t)(s->half ^= 1) * SC_CUDA_STEP_BYTES;
    enum sc_status st = sc_cuda_check(cudaEventSynchronize(s->sent[s->half]), "step", err);

    if (st != SC_OK)
        return st;
    fill(s, dev->cascade, host);
    st = sc_cuda_check(
        cudaMemcpyAsync(s->device, host, s->at.bytes, cudaMemcpyHostToDevice, dev->stream), "step",
        err);
    if (st == SC_OK)
        st = sc_cuda_check(cudaEventRecord(s->sent[s->half], dev->stream), "step", err);
    return st;
}

/* ---- graphs ---- */

/* Its place, or the one unused for longest, emptied. */
static struct graph *find_graph(struct sc_cuda_step *s, const struct shape *shape)
{
    struct graph *oldest = &s->graphs[0];
    for (uint32_t i = 0; i < GRAPHS_MAX; i++) {
        struct graph *g = &s->graphs[i];
        if (g->last_used != 0 && memcmp(&g->shape, shape, sizeof(*shape)) == 0)
            return g;
        if (g->last_used < oldest->last_used)
            oldest = g;
    }
    if (oldest->exec != NULL)
        (void)cudaGraphExecDestroy(oldest->exec);
    *oldest = (struct graph){0};
    return oldest;
}

static enum sc_status replay_or_record(struct sc_cuda_device *dev, bool *ret_replayed,
                                       struct sc_err *err)
{
    struct sc_cuda_step *s = dev->step;
    const struct shape shape = {s->told.n_rows,    s->told.n_layers, s->told.n_logit_rows,
                                s->seqs.max_pages, s->there,         s->seqs.bounds};
    struct graph *g = find_graph(s, &shape);
    bool seen = g->last_used != 0;

    g->shape = shape;
    g->last_used = ++s->clock;
    if (g->exec != NULL) {
        *ret_replayed = true;
        sc_cuda_forget(dev);
        return sc_cuda_check(cudaGraphLaunch(g->exec, dev->stream), "recorded step", err);
    }
    if (!seen)
        return SC_OK;
    s->recording = true;
    s->recorded = g;
    sc_cuda_forget(dev);
    return sc_cuda_check(cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeThreadLocal),
                         "recording a step", err);
}

/* Of a step that failed nothing is kept: its next replay would be a part of a step. */
static enum sc_status end_recording(struct sc_cuda_device *dev, bool complete, struct sc_err *err)
{
    struct sc_cuda_step *s = dev->step;
    cudaGraph_t graph = NULL;
    enum sc_status st =
        sc_cuda_check(cudaStreamEndCapture(dev->stream, &graph), "recording a step", err);

    s->recording = false;
    if (st == SC_OK && complete)
        st =
            sc_cuda_check(cudaGraphInstantiate(&s->recorded->exec, graph, 0), "recorded step", err);
    if (st != SC_OK || !complete) /* products that were recorded did not run */
        sc_cuda_pages_write(dev, false);
    if (graph != NULL)
        (void)cudaGraphDestroy(graph);
    if (st == SC_OK && complete)
        st = sc_cuda_check(cudaGraphLaunch(s->recorded->exec, dev->stream), "recorded step", err);
    return st;
}

/* ---- the table's calls ---- */

enum sc_status sc_cuda_step_begin(struct sc_backend *be, const struct sc_step *step,
                                  bool *ret_replayed, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    struct sc_cuda_step *s = dev->step;
    enum sc_status st;

    *ret_replayed = false;
    s->active = false;
    s->told = *step;
    st = sc_cuda_tables_send(&s->tables, step, dev->stream, &s->there, err);
    if (st != SC_OK)
        return st;
    s->seqs_at = sc_cuda_seqs_lay_out(step->seqs, step->n_seqs, step->n_layers, s->there);
    s->at = lay_out(step, s->seqs_at.bytes);
    if (s->at.bytes > SC_CUDA_STEP_BYTES) { /* then every call sends its own arrays */
        s->before = NULL;
        return SC_OK;
    }
    st = send(dev, err);
    if (st != SC_OK)
        return st;
    s->active = true;
    if (!step->alone || s->no_graphs || s->seqs.max_rows != 1 || step->n_rows > GRAPH_ROWS_MAX)
        return SC_OK;
    s->seqs.max_pages = round_pages(s->seqs.max_pages);
    s->seqs.bounds = sc_cuda_cohort_bounds_round(&s->seqs.bounds);
    return replay_or_record(dev, ret_replayed, err);
}

enum sc_status sc_cuda_step_end(struct sc_backend *be, bool complete, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    struct sc_cuda_step *s = dev->step;

    enum sc_status st = SC_OK;

    s->active = false;
    if (s->recording)
        st = end_recording(dev, complete, err);
    if (st == SC_OK)
        st = sc_cuda_check(cudaEventRecord(s->done, dev->stream), "step", err);
    return st;
}

enum sc_status sc_cuda_step_wait(struct sc_backend *be, bool *ret_waited, struct sc_err *err)
{
    struct sc_cuda_step *s = sc_cuda_device(be)->step;
    const cudaError_t rc = cudaEventQuery(s->done);

    *ret_waited = rc == cudaErrorNotReady;
    if (!*ret_waited)
        return sc_cuda_check(rc, "step", err);
    (void)cudaGetLastError();
    return sc_cuda_check(cudaEventSynchronize(s->done), "step", err);
}

const void *sc_cuda_step_find(const struct sc_cuda_device *dev, const void *host, size_t bytes)
{
    const struct sc_cuda_step *s = dev->step;
    const struct sc_step *t = &s->told;
    const size_t n = t->n_rows;
    const struct {
        const void *from;
        size_t bytes, at;
    } arrays[] = {
        {t->tokens, n * sizeof(*t->tokens), s->at.tokens},
        {t->positions, n * sizeof(*t->positions), s->at.positions},
        {t->slots, n * sizeof(*t->slots), s->at.slots},
        {t->logit_rows, t->n_logit_rows * sizeof(*t->logit_rows), s->at.logit_rows},
        {t->pages, n * t->n_layers * sizeof(*t->pages), s->at.pages},
    };

    for (size_t i = 0; s->active && i < SC_ARRAY_LEN(arrays); i++) {
        uintptr_t from = (uintptr_t)arrays[i].from, here = (uintptr_t)host;
        if (here >= from && here + bytes <= from + arrays[i].bytes)
            return s->device + arrays[i].at + (here - from);
    }
    return NULL;
}

bool sc_cuda_step_seqs(const struct sc_cuda_device *dev, const struct sc_attn_seq *seqs,
                       uint32_t n_seqs, struct sc_cuda_seqs *ret_seqs)
{
    const struct sc_cuda_step *s = dev->step;
    const struct sc_step *t = &s->told;

    if (!s->active || seqs < t->seqs || n_seqs == 0 || n_seqs != t->n_seqs ||
        seqs + n_seqs > t->seqs + (size_t)t->n_seqs * t->n_layers ||
        (size_t)(seqs - t->seqs) % n_seqs != 0)
        return false;
    *ret_seqs = sc_cuda_seqs_of_layer(&s->seqs, &s->seqs_at, s->device + s->at.seqs,
                                      (uint32_t)((size_t)(seqs - t->seqs) / n_seqs));
    if (s->there)
        ret_seqs->tables = s->tables.device;
    if (seqs->window != 0) /* of the layer, in every step: it has no cohorts */
        ret_seqs->bounds.n_cohorts = 0;
    return true;
}
