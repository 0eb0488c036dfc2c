/* tests/cuda/simt/fiber.h - stacks to switch between, without a system call. */
#ifndef SC_SIMT_FIBER_H
#define SC_SIMT_FIBER_H

#include <stddef.h>

/* Where a fiber that does not run will go on: its stack pointer, below it its registers. */
struct sc_simt_fiber {
    void *at;
    void *stack; /* lowest byte */
    size_t bytes;
};

/* A stack with a guard page below it, taken once and never given back. */
void sc_simt_fiber_open(struct sc_simt_fiber *f, size_t bytes);
/* The next switch to f begins entry, which must not return. */
void sc_simt_fiber_begin(struct sc_simt_fiber *f, void (*entry)(void));
/* The stack that the caller is on, as one to come back to. */
void sc_simt_fiber_here(struct sc_simt_fiber *f);
/* First of all in an entry. */
void sc_simt_fiber_entered(void);
void sc_simt_fiber_switch(struct sc_simt_fiber *from, struct sc_simt_fiber *to);

#endif
