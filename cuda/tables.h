/* cuda/tables.h - page tables that stay on the device from step to step. Private to cuda/; host.
 *
 * A step of decoding adds a page to a sequence once in 32 tokens, while its tables are kilobytes a
 * layer: to send them all took 0.1 to 0.5 ms of a step of four sequences of 128K tokens (H200). So
 * each sequence of a step has a region for each of its layers, of equal size:
 *
 *     columns  0 .. first                       first + 1 ..
 *              cores' pages, to the right end   exact pages by absolute number: page p in p + 1
 *
 * first: the first exact page that is read. A layer's list, cores before exact pages, is then one
 * piece, and a page that is added goes into the same column of all layers: one copy. What a
 * sequence's tables are called (sc_attn_seq.tables) tells whether its region still holds; other
 * sequences, or more, or a list that outgrows its region, are sent whole.
 *
 * Memory: at open. Threads: the rank's. Errors: statuses of copies; the tables are then unknown,
 * and are sent whole by the next step. */
#ifndef SC_CUDA_TABLES_H
#define SC_CUDA_TABLES_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define SC_CUDA_TABLES_SEQS  256u              /* sequences of a step, at most */
#define SC_CUDA_TABLES_WORDS ((size_t)8 << 20) /* page ids of all regions, at most: 32 MiB */
#define SC_CUDA_TABLES_SPARE 64u               /* columns that a new region has to grow into, */
#define SC_CUDA_TABLES_SHARE 8u                /* .. and this part of what it has to hold */

struct sc_backend;
struct sc_attn_seq;
struct sc_step;

struct sc_cuda_region {
    uint64_t tables;  /* the name of what it holds; 0: nothing */
    uint64_t cores;   /* where it holds cores' pages, of all layers */
    uint32_t columns; /* of a layer */
    uint32_t end;     /* exact pages below have been sent */
    size_t at;        /* word of layer 0 */
};

struct sc_cuda_tables {
    uint32_t *host;   /* pinned [SC_CUDA_TABLES_WORDS]: what the device has, or will have */
    uint32_t *device; /* the same */
    cudaEvent_t sent; /* the last copies from host are done */
    uint32_t n_seqs, n_layers;
    bool same; /* the last sc_cuda_tables_send had nothing to send */
    struct sc_cuda_region regions[SC_CUDA_TABLES_SEQS];
};

enum sc_status sc_cuda_tables_open(struct sc_backend *be, struct sc_cuda_tables *ret,
                                   struct sc_err *err);
void sc_cuda_tables_close(struct sc_cuda_tables *t);
/* Puts what the step's sequences read, and is not there yet, on the stream. *ret_there false: it
 * does not fit; the caller sends tables with the step. */
enum sc_status sc_cuda_tables_send(struct sc_cuda_tables *t, const struct sc_step *step,
                                   cudaStream_t stream, bool *ret_there, struct sc_err *err);
/* First word of the list of sequence i in a layer, as described (cuda/seqs.h). */
size_t sc_cuda_tables_at(const struct sc_cuda_tables *t, uint32_t i, uint32_t layer,
                         uint32_t exact_page0, uint32_t n_core_pages);

#endif
