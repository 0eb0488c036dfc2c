/* tests/cuda/simt/hopper.h - what blocks have on compute capability 9.0: barriers in shared memory
 * that go through phases, boxes of a tensor that are copied on their own, and products of a
 * warpgroup that run on their own.
 *
 * Boxes arrive when nobody can go on otherwise and somebody waits at their barrier, with
 * SC_SIMT_ORDER=backward at once. Products run when nobody can go on otherwise and their warp waits
 * for them, and read their operands then, registers too; with SC_SIMT_PRODUCTS=early when they are
 * begun. So what is read too early, and what is overwritten too early, shows as another result.
 *
 * What is wrong ends the program: a barrier that was not made, an arrival too many, a phase that is
 * complete before a thread that waited for the one before has seen that, threads that wait for
 * ever, addresses and boxes that are not aligned or lie elsewhere, a thread that leaves before its
 * products are there, a product without a fence before it, or of which a lane has another matrix,
 * and a block that ends with arrivals at barriers 1 .. 15 or boxes on their way.
 */
#ifndef SC_SIMT_HOPPER_H
#define SC_SIMT_HOPPER_H

#include <stddef.h>
#include <stdint.h>

namespace simt
{

/* SC_SIMT_CC: 80 (also if it is not there) or 90. */
unsigned compute_capability(void);

/* ---- barriers ---- */

/* barrier_of without waiting. */
void barrier_pass(unsigned id, unsigned n);

/* n arrivals complete a phase. */
void phase_init(uint32_t address, int n);
/* Announces bytes, or arrives, or both. */
void phase_arrive(uint32_t address, uint32_t bytes, bool arrives);
/* Until the phase of that parity is complete; the phase before the first is. */
void phase_wait(uint32_t address, uint32_t parity);

/* ---- boxes ---- */

/* bf16 [n[2]][n[1]][n[0]], what cuda/tensor_map.c asks the driver for. */
struct tensor {
    const uint8_t *at;
    uint64_t n[3], stride[2]; /* strides in bytes, of the second and third dimension */
    uint32_t box[3];
};

/* A row of the box has 128 bytes, whose chunks of 16 are permuted by their address. */
void copy_box(uint32_t to, const tensor &from, int x, int y, int z, uint32_t barrier);

/* ---- products ---- */

/* d [64, n_columns] += a [64, 16] b: the thread's part of d, as m16n8k16 has it. */
struct product {
    float *d;
    const uint32_t *a;   /* the thread's registers, or NULL: a_at */
    uint64_t a_at, b_at; /* matrices in shared memory, see cuda/panel.cuh */
    unsigned n_columns;
    bool adds;   /* or d is set */
    bool by_row; /* rows of b in shared memory are its own, else its columns */
    unsigned group;
};

void products_fence(void);
void product_begin(const product &p);
void products_commit(void);
/* All groups but the latest n. */
void products_wait(unsigned n_groups);

/* A 16-byte chunk of a matrix is where its address says, permuted by the address. */
static inline uint32_t permuted(uint32_t address)
{
    return address ^ (address >> 7 & 7) << 4;
}

} // namespace simt

#endif
