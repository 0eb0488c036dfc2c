/* tests/cuda/simt/block.h - what executor.cc keeps of the block that runs. */
#ifndef SC_SIMT_BLOCK_H
#define SC_SIMT_BLOCK_H

#include "tests/cuda/simt/executor.h"
#include "tests/cuda/simt/hopper.h"

#include <bitset>
#include <vector>

#include "tests/cuda/simt/fiber.h"

namespace simt
{

enum class state : uint8_t { ready, at_barrier, in_warp, at_phase, at_products, left };
constexpr unsigned BARRIERS = 16;   /* of a block; 0 is that of all threads */
constexpr unsigned PHASES_MAX = 64; /* barriers in shared memory */
/* What is on its way: to a barrier, of a thread. In place, as ThreadSanitizer sees what memory is
 * taken and moved. */
constexpr unsigned BOXES_MAX = 32, PRODUCTS_MAX = 32;

struct copy {
    void *to;
    const void *from;
    size_t n, bytes;
    unsigned group;
};

/* A box of a tensor on its way. */
struct box {
    tensor from;
    uint32_t to;
    int at[3];
};

/* A barrier in shared memory. Phase number `done` is under way. */
struct phases {
    uint32_t address;
    unsigned n, left; /* arrivals of a phase, and those still to come */
    int64_t bytes;    /* announced, and not there */
    uint32_t done;
    box boxes[BOXES_MAX]; /* on their way, in order */
    unsigned n_boxes;
    char times[2]; /* of a phase by its parity */
    char begun;    /* what whoever asked for boxes did before */
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
    phases *at_phase; /* where it waits, or was let go and has not run since */
    uint32_t parity;
    product products[PRODUCTS_MAX]; /* on their way, in order */
    unsigned n_products;
    unsigned n_committed, n_may_run; /* groups of products; those a wait leaves on their way */
    bool fenced;
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
    struct sc_simt_fiber *idle[BLOCK_MAX], *spent[BLOCK_MAX], *running; /* spent: by this block */
    unsigned n_idle, n_spent;
    thread *self;       /* NULL: none runs */
    unsigned n_started; /* threads, in the order of turns */
    unsigned n_threads, n_left, n_at_barrier;
    struct {
        unsigned n, arrived;
        std::bitset<BLOCK_MAX> who;
    } barriers[BARRIERS]; /* those of some threads */
    phases all_phases[PHASES_MAX];
    unsigned n_phases;
    void *copier; /* a clock: who writes boxes */
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

extern executor *x; /* while a launch runs */

/* The thread that runs. */
thread *self(void);
unsigned number_of(const thread *t);
/* The thread whose turn is the i-th. */
unsigned in_turn(unsigned i);
/* To the next that can go on, in the order of turns, or back to who began the round. */
void wait_as(state why);
void *arrive_at(meeting &m);

phases &phases_at(uint32_t address);
/* Of those announced: they are there. */
void phase_bytes(phases &p, size_t bytes);
/* When nobody can go on: what runs on its own does. False: there is nothing. */
bool finish_products(void);
bool bring_boxes(void);
/* Fails if a thread waits there. */
void stuck_at_phase(void);
void stuck_at_products(void);
/* When a block ends: nothing is on its way, nobody is to come. */
void check_barriers(void);
/* All lanes of the warp are at products of theirs. */
void products_at_once(void);

} // namespace simt

#endif
