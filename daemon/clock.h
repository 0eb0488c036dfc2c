/* daemon/clock.h - CLOCK_MONOTONIC in microseconds. */
#ifndef SC_DAEMON_CLOCK_H
#define SC_DAEMON_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t sc_now_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

#endif
