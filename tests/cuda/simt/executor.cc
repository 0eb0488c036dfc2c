#include "tests/cuda/simt/block.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/simt/races.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace simt
{

unsigned compute_capability(void)
{
    static const char *cc = getenv("SC_SIMT_CC");
    if (cc != NULL && strcmp(cc, "80") != 0 && strcmp(cc, "90") != 0)
        fail("SC_SIMT_CC=%s", cc);
    return cc != NULL && strcmp(cc, "90") == 0 ? 90 : 80;
}

size_t shared_limit(void)
{
    static const char *kib = getenv("SC_SIMT_SHARED");
    static const size_t limit = (kib != NULL                  ? (size_t)atoi(kib)
                                 : compute_capability() == 90 ? 227
                                                              : 163) *
                                1024;
    return limit < SHARED_MAX ? limit : SHARED_MAX;
}

executor *x;

namespace
{

constexpr size_t STACK_BYTES = 256 * 1024;
constexpr size_t GAP = 64; /* behind each piece of shared memory; nothing may change it */
constexpr uint8_t JUNK = 0xff, GAP_BYTE = 0xa5;

void start_threads(void);

/* Of the process: its stacks are taken at the first launch and kept. */
executor *run_by(void)
{
    static executor *only;
    if (only == NULL) {
        const char *order = getenv("SC_SIMT_ORDER");
        only = new executor();
        only->backward = order != NULL && strcmp(order, "backward") == 0;
        for (struct sc_simt_fiber &f : only->fibers) {
            sc_simt_fiber_open(&f, STACK_BYTES);
            sc_simt_fiber_begin(&f, start_threads);
            only->idle[only->n_idle++] = &f;
        }
    }
    return only;
}

/* ---- shared memory ---- */

/* By whoever runs, as if nobody did: it races with no thread. */
void fill(uint8_t *at, uint8_t with, size_t n)
{
    for (volatile uint8_t *p = at; p < at + n; p++)
        *p = with;
}

size_t take_shared(size_t bytes, size_t alignment)
{
    const size_t at = (x->shared_used + alignment - 1) / alignment * alignment;
    const size_t end = at + bytes;
    x->shared_wanted += bytes;
    if (x->shared_wanted > shared_limit() || end + GAP > sizeof(x->shared))
        fail("%zu bytes of shared memory, limit %zu", x->shared_wanted, shared_limit());
    fill(x->shared + at, JUNK, bytes);
    fill(x->shared + end, GAP_BYTE, GAP);
    x->gaps.push_back(end);
    x->shared_used = end + GAP;
    return at;
}

/* A block finds junk. */
void forget_shared(void)
{
    memset(x->shared, JUNK, x->shared_used);
    for (size_t at : x->gaps)
        memset(x->shared + at, GAP_BYTE, GAP);
}

void check_gaps(void)
{
    for (size_t at : x->gaps)
        for (size_t i = 0; i < GAP; i++)
            if (x->shared[at + i] != GAP_BYTE)
                fail("shared memory was written %zu bytes behind its end", i);
}

/* ---- threads ---- */

void become(thread *t)
{
    x->self = t;
    threadIdx = t->index;
    race_switch(t->clock);
}

/* Nobody runs. */
void become_none(void)
{
    x->self = NULL;
    race_switch(x->clock);
}

void switch_to(struct sc_simt_fiber *f)
{
    struct sc_simt_fiber *from = x->running;
    x->running = f;
    sc_simt_fiber_switch(from, f);
}

} // namespace

thread *self(void)
{
    if (x == NULL || x->self == NULL)
        fail("a device function was called by the host");
    return x->self;
}

unsigned number_of(const thread *t)
{
    return (unsigned)(t - x->threads);
}

unsigned in_turn(unsigned i)
{
    return x->backward ? x->n_threads - 1 - i : i;
}

void *arrive_at(meeting &m)
{
    race_leave(&m.times[m.n % 2]);
    return &m.times[m.n % 2];
}

/* To the next that can go on, in the order of turns, or back to who began the round. A thread that
 * was not started yet needs a stack, so that is the scheduler's. */
void wait_as(state why)
{
    thread *t = x->self;
    const unsigned number = number_of(t);
    x->now[number] = why;
    t->fiber = x->running;
    for (unsigned i = in_turn(number) + 1; i < x->n_started; i++) {
        thread *next = &x->threads[in_turn(i)];
        if (x->now[in_turn(i)] == state::ready) {
            become(next);
            switch_to(next->fiber);
            return;
        }
    }
    become_none();
    switch_to(&x->scheduler);
}

namespace
{

void leave(void)
{
    thread *t = x->self;
    const unsigned number = number_of(t);
    warp &w = x->warps[number / WARP];
    const uint32_t bit = 1u << number % WARP;
    if (x->l->overlaps && !t->inputs_ready)
        fail("the thread leaves without sc_inputs_ready");
    if (t->first_copy != t->copies.size())
        fail("the thread leaves before its copies into shared memory have arrived");
    if (t->n_products != 0)
        fail("the thread leaves before its products were waited for");
    if (w.what != op::none && (w.mask & bit) != 0)
        fail("the thread leaves, lanes %08x of its warp wait for it", w.arrived);
    if (x->n_at_barrier != 0)
        fail("the thread leaves, %u threads wait for it at a barrier", x->n_at_barrier);
    w.here &= ~bit;
    x->n_left++;
    x->now[number] = state::left;
    race_leave(&x->block_ends);
}

/* What a fiber does for ever: it starts threads, one after the other as long as they do not wait,
 * then is idle. Most kernels need one stack. */
void start_threads(void)
{
    sc_simt_fiber_entered();
    for (;;) {
        while (x->n_started < x->n_threads) {
            become(&x->threads[in_turn(x->n_started++)]);
            race_come(&x->block_begins);
            x->body(x->arg);
            leave();
            if (RACES_ARE_WATCHED)
                break;
        }
        become_none();
        x->spent[x->n_spent++] = x->running;
        switch_to(&x->scheduler);
    }
}

void begin_block(void)
{
    for (unsigned i = 0; i < x->n_threads; i += WARP) {
        const unsigned n = x->n_threads - i;
        x->warps[i / WARP] = {op::none, 0, 0, n >= WARP ? 0xffffffffu : (1u << n) - 1};
    }
    for (unsigned i = 0; i < x->n_threads; i++) {
        x->threads[i].inputs_ready = false;
        x->threads[i].at_phase = NULL;
    }
    memset(x->now, 0, x->n_threads);
    for (auto &b : x->barriers) {
        b.arrived = 0;
        b.who.reset();
    }
    x->n_phases = 0;
    while (x->n_spent > 0)
        x->idle[x->n_idle++] = x->spent[--x->n_spent];
    x->n_started = x->n_left = x->n_at_barrier = 0;
}

void begin_launch(void)
{
    const dim3 &d = x->l->block;
    x->n_threads = d.x * d.y * d.z;
    for (unsigned i = 0; i < x->n_threads; i++) {
        thread &t = x->threads[i];
        t.index = {i % d.x, i / d.x % d.y, i / d.x / d.y};
        t.copies.clear();
        t.first_copy = 0;
        t.group = 0;
        t.n_committed = 0;
        t.fenced = false;
        t.n_products = 0;
        if (t.clock == NULL)
            t.clock = race_clock();
    }
}

/* Nobody can go on: whom do they wait for? */
[[noreturn]] void stuck(void)
{
    for (unsigned i = 0; i < x->n_threads; i += WARP) {
        const warp &w = x->warps[i / WARP];
        if (w.what != op::none)
            fail("lanes %08x of warp %u wait for lanes %08x, which are elsewhere", w.arrived,
                 i / WARP, w.mask & ~w.arrived);
    }
    stuck_at_phase();
    for (unsigned i = 1; i < BARRIERS; i++)
        if (x->barriers[i].arrived != 0)
            fail("%u of %u threads are at barrier %u", x->barriers[i].arrived, x->barriers[i].n, i);
    if (x->n_at_barrier == 0)
        stuck_at_products();
    fail("%u of %u threads are at a barrier", x->n_at_barrier, x->n_threads);
}

void run_block(void)
{
    begin_block();
    forget_shared();
    race_leave(&x->block_begins);
    while (x->n_started < x->n_threads)
        switch_to(x->idle[--x->n_idle]);
    while (x->n_left < x->n_threads) {
        unsigned i = 0;
        while (i < x->n_threads && x->now[in_turn(i)] != state::ready)
            i++;
        if (i == x->n_threads) {
            if (!finish_products() && !bring_boxes())
                stuck();
            continue;
        }
        become(&x->threads[in_turn(i)]);
        switch_to(x->self->fiber);
    }
    race_come(&x->block_ends);
    check_gaps();
    check_barriers();
}

} // namespace

lane &bring(void)
{
    return self()->of_lane;
}

unsigned lane_of_warp(void)
{
    return number_of(self()) % WARP;
}

void meet(op what, uint32_t mask)
{
    thread *t = self();
    const unsigned first = number_of(t) / WARP * WARP;
    const uint32_t bit = 1u << number_of(t) % WARP;
    warp &w = x->warps[first / WARP];
    lane *lanes[WARP];

    if ((mask & bit) == 0)
        fail("the lane is not in the mask %08x", mask);
    if ((mask & ~w.here) != 0)
        fail("mask %08x has lanes that left: %08x", mask, mask & ~w.here);
    if (w.what == op::none)
        w = {what, mask, 0, w.here};
    if (w.what != what || w.mask != mask)
        fail("lanes %08x of the warp wait at another operation, or with another mask", w.arrived);
    w.arrived |= bit;
    meeting &m = x->in_warps[first / WARP];
    void *time = what == op::sync ? arrive_at(m) : NULL;
    if (w.arrived != mask) {
        wait_as(state::in_warp);
        if (time != NULL)
            race_come(time);
        return;
    }
    for (unsigned l = 0; l < WARP; l++) {
        lanes[l] = &x->threads[first + l].of_lane;
        if ((mask >> l & 1) != 0)
            x->now[first + l] = state::ready;
    }
    complete(what, mask, lanes);
    w.what = op::none;
    if (time != NULL) {
        race_come(time);
        m.n++;
    }
}

void barrier(void)
{
    if (x->n_left != 0)
        fail("a barrier after %u threads have left", x->n_left);
    self()->barrier = 0;
    void *time = arrive_at(x->at_barriers[0]);
    if (++x->n_at_barrier < x->n_threads) {
        wait_as(state::at_barrier);
        race_come(time);
        return;
    }
    race_come(time);
    x->at_barriers[0].n++;
    x->n_at_barrier = 0;
    memset(x->now, (int)state::ready, x->n_threads);
}

void inputs_ready(void)
{
    self()->inputs_ready = true;
}

void *shared_variable(variable &v, size_t bytes, size_t alignment)
{
    (void)self();
    if (v.launch != x->n_launches) {
        v.at = take_shared(bytes, alignment);
        v.launch = x->n_launches;
    }
    return x->shared + v.at;
}

void *shared_dynamic(size_t alignment)
{
    (void)self();
    if (alignment > alignof(executor))
        fail("shared memory aligned to %zu", alignment);
    return x->shared;
}

uint32_t shared_address(const void *p)
{
    const size_t at = (size_t)((const uint8_t *)p - x->shared);
    (void)self();
    if (at >= x->shared_used)
        fail("%p is not in shared memory", p);
    return (uint32_t)at + SHARED_ADDRESS;
}

void *shared_memory(uint32_t address, size_t bytes)
{
    const size_t at = address - SHARED_ADDRESS;
    if (address < SHARED_ADDRESS || at + bytes > x->shared_used || at % bytes != 0)
        fail("%zu bytes at %u of shared memory, which has %zu", bytes, (unsigned)at,
             x->shared_used);
    return x->shared + at;
}

void shared_read(uint32_t address, size_t bytes)
{
    race_read(shared_memory(address, bytes), bytes);
}

void run(const launch &l, void (*body)(const void *arg), const void *arg)
{
    x = run_by();
    x->l = &l;
    x->body = body;
    x->arg = arg;
    x->n_launches++;
    begin_launch();
    sc_simt_fiber_here(&x->scheduler);
    x->clock = race_current();
    x->running = &x->scheduler;
    x->shared_used = x->shared_wanted = 0;
    x->gaps.clear();
    blockDim = l.block;
    gridDim = l.grid;
    (void)take_shared(l.shared_bytes, 1);
    const uint64_t n = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t at = x->backward ? n - 1 - i : i;
        blockIdx = {(unsigned)(at % l.grid.x), (unsigned)(at / l.grid.x % l.grid.y),
                    (unsigned)(at / l.grid.x / l.grid.y)};
        run_block();
    }
    x = NULL;
}

const char *where(void)
{
    static char text[256];
    if (x == NULL)
        return "";
    int n = snprintf(text, sizeof(text), " (launched at %s:%d, block %u %u %u", x->l->file,
                     x->l->line, blockIdx.x, blockIdx.y, blockIdx.z);
    if (x->self != NULL)
        n += snprintf(text + n, sizeof(text) - (size_t)n, ", thread %u", number_of(x->self));
    (void)snprintf(text + n, sizeof(text) - (size_t)n, ")");
    return text;
}

void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fflush(stdout);
    (void)fprintf(stderr, "simt: ");
    (void)vfprintf(stderr, format, args);
    (void)fprintf(stderr, "%s\n", where());
    va_end(args);
    abort();
}

} // namespace simt

uint64_t sc_simt_copied(void)
{
    return simt::run_by()->n_copied;
}
