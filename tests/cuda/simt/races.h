/* tests/cuda/simt/races.h - tells ThreadSanitizer which thread of a block runs, and what orders the
 * accesses of one before those of another: barriers and __syncwarp, nothing else that a warp does
 * together. So it finds what two threads of a block do to the same bytes without one of these
 * between. Blocks are ordered, one after the other.
 *
 * With SC_SIMT_RACES, and then kernels are compiled with -fsanitize=thread and the executor is not;
 * else nothing.
 */
#ifndef SC_SIMT_RACES_H
#define SC_SIMT_RACES_H

#include <stddef.h>

#ifdef SC_SIMT_RACES
#include <sanitizer/tsan_interface.h>

extern "C" void __tsan_read_range(void *at, unsigned long n);
extern "C" void __tsan_write_range(void *at, unsigned long n);
#endif

namespace simt
{

/* Each thread of a block then has a stack of its own. */
#ifdef SC_SIMT_RACES
constexpr bool RACES_ARE_WATCHED = true;
#else
constexpr bool RACES_ARE_WATCHED = false;
#endif

#ifdef SC_SIMT_RACES
/* A thread's clock, which it keeps for ever. */
static inline void *race_clock(void)
{
    return __tsan_create_fiber(0);
}

static inline void *race_current(void)
{
    return __tsan_get_current_fiber();
}

/* What follows is the accesses of this thread. */
static inline void race_switch(void *clock)
{
    __tsan_switch_to_fiber(clock, __tsan_switch_to_fiber_no_sync);
}

/* What the thread did is before what those do who come to `at` later. */
static inline void race_leave(void *at)
{
    __tsan_release(at);
}

static inline void race_come(void *at)
{
    __tsan_acquire(at);
}

static inline void race_read(const void *at, size_t n)
{
    __tsan_read_range((void *)at, n);
}

static inline void race_write(void *at, size_t n)
{
    __tsan_write_range(at, n);
}
#else
static inline void *race_clock(void)
{
    return NULL;
}

static inline void *race_current(void)
{
    return NULL;
}

static inline void race_switch(void *)
{
}

static inline void race_leave(void *)
{
}

static inline void race_come(void *)
{
}

static inline void race_read(const void *, size_t)
{
}

static inline void race_write(void *, size_t)
{
}
#endif

} // namespace simt

#endif
