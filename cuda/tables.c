#include "cuda/tables.h"

#include <string.h>

#include "base/hash.h"
#include "cuda/device.h"
#include "cuda/seqs.h"

enum sc_status sc_cuda_tables_open(struct sc_backend *be, struct sc_cuda_tables *ret,
                                   struct sc_err *err)
{
    const size_t bytes = SC_CUDA_TABLES_WORDS * sizeof(uint32_t);
    enum sc_status st = sc_cuda_alloc(be, bytes, (void **)&ret->device, err);
    if (st == SC_OK)
        st = sc_cuda_check(cudaHostAlloc((void **)&ret->host, bytes, cudaHostAllocPortable),
                           "pinned memory", err);
    if (st == SC_OK)
        st = sc_cuda_check(cudaEventCreateWithFlags(&ret->sent, cudaEventDisableTiming),
                           "CUDA event", err);
    return st;
}

void sc_cuda_tables_close(struct sc_cuda_tables *t)
{
    if (t->sent != NULL)
        (void)cudaEventDestroy(t->sent);
    (void)cudaFreeHost(t->host);
    (void)cudaFree(t->device);
    *t = (struct sc_cuda_tables){0};
}

size_t sc_cuda_tables_at(const struct sc_cuda_tables *t, uint32_t i, uint32_t layer,
                         uint32_t exact_page0, uint32_t n_core_pages)
{
    const struct sc_cuda_region *r = &t->regions[i];
    return r->at + (size_t)layer * r->columns + exact_page0 + 1 - n_core_pages;
}

/* What one sequence reads in all layers: exact pages below *ret_end, and cores in places that
 * *ret_cores tells from others. False: layers of other names, or cores that do not fit before the
 * exact pages. */
static bool has_place(const struct sc_step *step, uint32_t i, uint32_t *ret_end,
                      uint64_t *ret_cores)
{
    const struct sc_attn_seq *seqs = step->seqs + i;
    *ret_end = 0;
    *ret_cores = 0;
    for (uint32_t l = 0; l < step->n_layers; l++) {
        const struct sc_attn_seq *seq = seqs + (size_t)l * step->n_seqs;
        const struct sc_cuda_seq s = sc_cuda_seq_of(seq, 0);
        const uint32_t end = s.exact_page0 + s.n_pages - s.n_core_pages;
        if (seq->tables != seqs->tables || s.n_core_pages > s.exact_page0 + 1)
            return false;
        *ret_end = end > *ret_end ? end : *ret_end;
        if (s.n_core_pages != 0)
            *ret_cores =
                sc_mix64(*ret_cores ^ ((uint64_t)s.n_core_pages << 32 | s.exact_page0)) + l;
    }
    return true;
}

/* Regions of all sequences, those that hold where they were. False: there is no room. */
static bool place(struct sc_cuda_tables *t, const struct sc_step *step,
                  uint32_t ends[SC_CUDA_TABLES_SEQS])
{
    size_t at = 0;
    for (uint32_t i = 0; i < step->n_seqs; i++) {
        struct sc_cuda_region *r = &t->regions[i];
        uint64_t cores;
        if (!has_place(step, i, &ends[i], &cores))
            return false;
        if (r->tables != step->seqs[i].tables || r->cores != cores || r->at != at ||
            ends[i] + 1 > r->columns) {
            const uint64_t wanted =
                (uint64_t)ends[i] + 1 + SC_CUDA_TABLES_SPARE + ends[i] / SC_CUDA_TABLES_SHARE;
            *r = (struct sc_cuda_region){
                .cores = cores, .at = at, .columns = (uint32_t)(wanted | 15) + 1};
        }
        at += (size_t)r->columns * step->n_layers;
        if (at > SC_CUDA_TABLES_WORDS)
            return false;
    }
    /* Those of an earlier step, behind: what lies there may be written over before they return. */
    for (uint32_t i = step->n_seqs; i < SC_CUDA_TABLES_SEQS; i++)
        t->regions[i].tables = 0;
    return true;
}

/* Of every layer the exact pages from..end - 1; with cores, those too. */
static void fill(struct sc_cuda_tables *t, const struct sc_step *step, uint32_t i, uint32_t from,
                 uint32_t end, bool cores)
{
    const struct sc_cuda_region *r = &t->regions[i];
    for (uint32_t l = 0; l < step->n_layers; l++) {
        const struct sc_attn_seq *seq = step->seqs + (size_t)l * step->n_seqs + i;
        const struct sc_cuda_seq s = sc_cuda_seq_of(seq, 0);
        const uint32_t first = from > s.exact_page0 ? from : s.exact_page0;
        uint32_t *row = t->host + r->at + (size_t)l * r->columns;
        if (cores && s.n_core_pages != 0)
            memcpy(row + s.exact_page0 + 1 - s.n_core_pages, seq->core_pages,
                   s.n_core_pages * sizeof(*row));
        if (end > first)
            memcpy(row + 1 + first, seq->exact_pages + first, (end - first) * sizeof(*row));
    }
}

/* Whole regions first .. end - 1, which lie side by side. */
static cudaError_t copy_regions(const struct sc_cuda_tables *t, uint32_t first, uint32_t end,
                                cudaStream_t stream)
{
    const struct sc_cuda_region *last = &t->regions[end - 1];
    const size_t at = t->regions[first].at;
    const size_t words = last->at + (size_t)last->columns * t->n_layers - at;
    return cudaMemcpyAsync(t->device + at, t->host + at, words * sizeof(*t->host),
                           cudaMemcpyHostToDevice, stream);
}

/* The same columns of all layers. */
static cudaError_t copy_columns(const struct sc_cuda_tables *t, uint32_t i, uint32_t from,
                                uint32_t end, cudaStream_t stream)
{
    const struct sc_cuda_region *r = &t->regions[i];
    const size_t at = r->at + 1 + from, pitch = r->columns * sizeof(*t->host);
    return cudaMemcpy2DAsync(t->device + at, pitch, t->host + at, pitch,
                             (end - from) * sizeof(*t->host), t->n_layers, cudaMemcpyHostToDevice,
                             stream);
}

static cudaError_t send_changes(struct sc_cuda_tables *t, const struct sc_step *step,
                                const uint32_t *ends, cudaStream_t stream)
{
    cudaError_t rc = cudaEventSynchronize(t->sent); /* host is still being read */
    for (uint32_t i = 0; i < step->n_seqs && rc == cudaSuccess;) {
        const uint32_t first = i;
        for (; i < step->n_seqs && t->regions[i].tables == 0; i++)
            fill(t, step, i, 0, ends[i], true);
        if (i > first) {
            rc = copy_regions(t, first, i, stream);
            continue;
        }
        const uint32_t from = t->regions[i].end;
        if (ends[i] > from) {
            fill(t, step, i, from, ends[i], false);
            rc = copy_columns(t, i, from, ends[i], stream);
        }
        i++;
    }
    return rc == cudaSuccess ? cudaEventRecord(t->sent, stream) : rc;
}

enum sc_status sc_cuda_tables_send(struct sc_cuda_tables *t, const struct sc_step *step,
                                   cudaStream_t stream, bool *ret_there, struct sc_err *err)
{
    uint32_t ends[SC_CUDA_TABLES_SEQS];
    cudaError_t rc = cudaSuccess;

    t->same = t->n_seqs == step->n_seqs && t->n_layers == step->n_layers;
    if (t->n_layers != step->n_layers)
        memset(t->regions, 0, sizeof(t->regions));
    t->n_layers = step->n_layers;
    t->n_seqs = step->n_seqs;
    *ret_there = step->n_seqs <= SC_CUDA_TABLES_SEQS && place(t, step, ends);
    if (!*ret_there) {
        t->n_seqs = 0;
        memset(t->regions, 0, sizeof(t->regions));
        return SC_OK;
    }
    bool changes = false;
    for (uint32_t i = 0; i < step->n_seqs; i++)
        changes = changes || t->regions[i].tables == 0 || ends[i] > t->regions[i].end;
    if (!changes)
        return SC_OK;
    t->same = false;
    rc = send_changes(t, step, ends, stream);
    for (uint32_t i = 0; i < step->n_seqs; i++) {
        t->regions[i].tables = rc == cudaSuccess ? step->seqs[i].tables : 0;
        t->regions[i].end = ends[i];
    }
    return sc_cuda_check(rc, "page tables", err);
}
