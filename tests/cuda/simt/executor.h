/* tests/cuda/simt/executor.h - runs a kernel's blocks one after the other, each thread of a block
 * as a fiber. A fiber runs until it waits for others: at a barrier of the block or at an operation
 * of its warp.
 *
 * What is wrong ends the program with the launch, the block and the thread: a barrier that a thread
 * never reaches, lanes of one warp that meet at different operations, shared memory beyond what was
 * asked for, misaligned or foreign shared addresses. Shared memory is NaN when a block begins. A
 * copy into shared memory arrives when it is waited for, and not before.
 *
 * SC_SIMT_ORDER=backward turns around whatever is free: the last block runs first, and of a block
 * the last thread, and copies arrive at once. A barrier that is missing shows where what a thread
 * reads or overwrites depends on whose turn it is.
 *
 * Threads: one launch at a time, under the lock of the runtime.
 */
#ifndef SC_SIMT_EXECUTOR_H
#define SC_SIMT_EXECUTOR_H

#include <stddef.h>
#include <stdint.h>

#include "tests/cuda/simt/vectors.h"

/* Of the thread that runs. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace simt
{

constexpr unsigned WARP = 32, BLOCK_MAX = 1024;
constexpr size_t SHARED_MAX = 227 * 1024;    /* of a block, all together: that of 9.0 */
constexpr size_t SHARED_UNASKED = 48 * 1024; /* dynamic, without cudaFuncSetAttribute */
constexpr uint32_t SHARED_ADDRESS = 1024;    /* where dynamic shared memory begins */

/* What a block may have: that of the compute capability (hopper.h), or SC_SIMT_SHARED KiB, at most
 * SHARED_MAX. */
size_t shared_limit(void);

/* What a warp's lanes do together. */
enum class op {
    none,
    sync,
    shuffle,
    ballot,
    any,
    max_u32,
    max_i32,
    match,
    matrices,
    transposed,
    mma,
    add_u32,
    products /* what its lanes have begun, hopper.h */
};

/* What a lane brings to it and takes away. */
struct lane {
    uint32_t in[10];
    uint32_t out[4];
};

struct launch {
    const char *file;
    int line;
    dim3 grid, block;
    size_t shared_bytes;
    bool overlaps = false; /* by sc_overlap_launch: each thread waits for the kernel before */
};

/* Runs all of it; body(arg) is one thread. */
void run(const launch &l, void (*body)(const void *arg), const void *arg);

/* The block's threads meet. */
void barrier(void);
/* n of them do. */
void barrier_of(unsigned id, unsigned n);
/* What earlier kernels wrote is there. */
void inputs_ready(void);
/* The lanes of mask meet: each brings lane.in, and finds lane.out when all were there. */
lane &bring(void);
unsigned lane_of_warp(void);
void meet(op what, uint32_t mask);
/* Fills out of the lanes of mask; by the last of them. */
void complete(op what, uint32_t mask, lane *const (&lanes)[WARP]);

/* ---- shared memory ---- */

/* A __shared__ variable; one for each place in the source and each instance of its template. */
struct variable {
    uint64_t launch;
    size_t at;
};
void *shared_variable(variable &v, size_t bytes, size_t alignment);
void *shared_dynamic(size_t alignment);
uint32_t shared_address(const void *p);
/* bytes of shared memory at an address, both aligned to them. */
void *shared_memory(uint32_t address, size_t bytes);
/* The thread reads there, by what others do for it. */
void shared_read(uint32_t address, size_t bytes);

/* Into shared memory: n bytes from global memory, and zeros up to `bytes`. */
void copy_begin(void *to, const void *from, size_t n, size_t bytes);
void copy_commit(void);
void copy_wait(unsigned n_groups);

/* Says where and what, then aborts. */
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* " (file:line, block 1 2 3, thread 4)" of what runs now, or nothing. */
const char *where(void);

} // namespace simt

/* Bytes of global memory that all launches so far have copied into shared memory. For tests, which
 * look it up in the plugin. */
extern "C" __attribute__((visibility("default"))) uint64_t sc_simt_copied(void);

#endif
