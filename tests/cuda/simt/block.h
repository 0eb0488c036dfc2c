/* tests/cuda/simt/block.h - what executor.cc keeps of the block that runs. */
#ifndef SC_SIMT_BLOCK_H
#define SC_SIMT_BLOCK_H

#include "tests/cuda/simt/executor.h"

#include <vector>

#include "tests/cuda/simt/fiber.h"

namespace simt
{

enum class state : uint8_t { ready, at_barrier, in_warp, left };
constexpr unsigned BARRIERS = 16; /* of a block; 0 is that of all threads */

struct copy {
    void *to;
    const void *from;
    size_t n, bytes;
    unsigned group;
};

struct thread {
    struct sc_simt_fiber *fiber; /* from its first wait on */
    uint3 index;
    lane of_lane;
    std::vector<copy> copies; /* on their way, in order */
    size_t first_copy;        /* those before have arrived */
    unsigned group;           /* which the next copy belongs to */
    unsigned barrier;         /* where it waits, or waited last */
    bool inputs_ready;
    void *clock;
};

/* Where some meet again and again: who comes has not yet left the time before the last. */
struct meeting {
    unsigned n;
    char times[2];
};

struct warp {
    op what;                      /* none: nobody waits */
    uint32_t mask, arrived, here; /* here: lanes that have not left */
};

struct executor {
    thread threads[BLOCK_MAX];
    state now[BLOCK_MAX];
    warp warps[BLOCK_MAX / WARP];
    struct sc_simt_fiber fibers[BLOCK_MAX], scheduler;
    struct sc_simt_fiber *idle[BLOCK_MAX], *running;
    unsigned n_idle;
    thread *self;       /* NULL: none runs */
    unsigned n_started; /* threads, in the order of turns */
    unsigned n_threads, n_left, n_at_barrier;
    struct {
        unsigned n, arrived;
    } barriers[BARRIERS]; /* those of some threads */
    meeting at_barriers[BARRIERS], in_warps[BLOCK_MAX / WARP];
    char block_begins, block_ends;
    void *clock; /* of who launches */
    bool backward;
    const launch *l;
    uint64_t n_launches, n_copied;
    void (*body)(const void *arg);
    const void *arg;
    /* Shared memory: dynamic first, then variables, each with a gap behind it. */
    alignas(1024) uint8_t shared[SHARED_MAX + 64 * 1024];
    size_t shared_used, shared_wanted; /* with and without gaps */
    std::vector<size_t> gaps;
};

} // namespace simt

#endif
