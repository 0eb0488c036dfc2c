/* tests/cuda/simt/barriers.cc - barriers of some threads of a block: those with a number, and those
 * in shared memory. */
#include "tests/cuda/simt/block.h"

#include <string.h>

#include "tests/cuda/simt/races.h"

namespace simt
{

namespace
{

/* False: others are still to come. */
bool come_to(unsigned id, unsigned n)
{
    thread *t = self();
    if (id == 0 || id >= BARRIERS || n == 0 || n % WARP != 0 || n > x->n_threads)
        fail("barrier %u of %u threads", id, n);
    auto &b = x->barriers[id];
    if (b.arrived != 0 && b.n != n)
        fail("barrier %u of %u threads is one of %u", id, n, b.n);
    if (b.who[number_of(t)])
        fail("a second time at barrier %u, where %u of %u threads are", id, b.arrived, n);
    b.n = n;
    b.who[number_of(t)] = true;
    if (++b.arrived < n)
        return false;
    x->at_barriers[id].n++;
    b.arrived = 0;
    b.who.reset();
    for (unsigned i = 0; i < x->n_threads; i++)
        if (x->threads[i].barrier == id && x->now[i] == state::at_barrier)
            x->now[i] = state::ready;
    return true;
}

void look(phases &p)
{
    if (p.left != 0 || p.bytes != 0)
        return;
    for (unsigned i = 0; i < x->n_threads; i++) {
        if (x->threads[i].at_phase != &p)
            continue;
        if (x->threads[i].parity != (p.done & 1))
            fail("phase %u of the barrier at %u is complete before thread %u has seen that the one "
                 "before is",
                 p.done, p.address - SHARED_ADDRESS, i);
        x->now[i] = state::ready;
    }
    p.done++;
    p.left = p.n;
}

} // namespace

void barrier_of(unsigned id, unsigned n)
{
    thread *t = self();
    void *time = id < BARRIERS ? arrive_at(x->at_barriers[id]) : NULL;
    t->barrier = id;
    if (!come_to(id, n))
        wait_as(state::at_barrier);
    race_come(time);
}

void barrier_pass(unsigned id, unsigned n)
{
    if (id < BARRIERS)
        (void)arrive_at(x->at_barriers[id]);
    (void)come_to(id, n);
}

phases &phases_at(uint32_t address)
{
    for (unsigned i = 0; i < x->n_phases; i++)
        if (x->all_phases[i].address == address)
            return x->all_phases[i];
    fail("no barrier was made at %u of shared memory", address - SHARED_ADDRESS);
}

void phase_init(uint32_t address, int n)
{
    (void)self();
    (void)shared_memory(address, 8);
    if (n <= 0 || x->n_phases == PHASES_MAX)
        fail("a barrier of %d arrivals, the %u. of the block", n, x->n_phases + 1);
    for (unsigned i = 0; i < x->n_phases; i++)
        if (x->all_phases[i].address == address)
            fail("a barrier was made at %u before", address - SHARED_ADDRESS);
    phases &p = x->all_phases[x->n_phases++];
    p.address = address;
    p.n = p.left = (unsigned)n;
    p.bytes = 0;
    p.done = 0;
    p.n_boxes = 0;
}

void phase_arrive(uint32_t address, uint32_t bytes, bool arrives)
{
    (void)self();
    phases &p = phases_at(address);
    p.bytes += bytes;
    if (arrives) {
        if (p.left == 0)
            fail("more than %u arrivals in phase %u of the barrier at %u", p.n, p.done,
                 address - SHARED_ADDRESS);
        race_leave(&p.times[p.done & 1]);
        p.left--;
    }
    look(p);
}

void phase_wait(uint32_t address, uint32_t parity)
{
    thread *t = self();
    phases &p = phases_at(address);
    if (parity > 1)
        fail("a wait for parity %u", parity);
    if ((p.done & 1) == parity) {
        t->at_phase = &p;
        t->parity = parity;
        wait_as(state::at_phase);
        t->at_phase = NULL;
    }
    race_come(&p.times[parity]);
}

void phase_bytes(phases &p, size_t bytes)
{
    p.bytes -= (int64_t)bytes;
    race_leave(&p.times[p.done & 1]);
    look(p);
}

void stuck_at_phase(void)
{
    for (unsigned j = 0; j < x->n_threads; j++) {
        const unsigned i = in_turn(j);
        if (x->now[i] != state::at_phase)
            continue;
        const phases &p = *x->threads[i].at_phase;
        fail("thread %u waits for parity %u of the barrier at %u of shared memory, whose phase %u "
             "lacks %u of %u arrivals and %lld bytes",
             i, x->threads[i].parity, p.address - SHARED_ADDRESS, p.done, p.left, p.n,
             (long long)p.bytes);
    }
}

void check_barriers(void)
{
    for (unsigned i = 1; i < BARRIERS; i++)
        if (x->barriers[i].arrived != 0)
            fail("the block ends, and %u of %u threads were let through barrier %u",
                 x->barriers[i].arrived, x->barriers[i].n, i);
    for (unsigned i = 0; i < x->n_phases; i++)
        if (x->all_phases[i].n_boxes != 0)
            fail("the block ends, and nobody has waited for what comes to the barrier at %u",
                 x->all_phases[i].address - SHARED_ADDRESS);
}

} // namespace simt
