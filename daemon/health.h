/* daemon/health.h - is the daemon serving? Health is progress, not the process's life.
 *
 * A pure state machine: the main loop feeds it what it sees several times a second, and publishes
 * what comes out to grpc.health.v1, to systemd's watchdog and to the admission of calls. Threads:
 * one owner, the main thread.
 */
#ifndef SC_DAEMON_HEALTH_H
#define SC_DAEMON_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

enum sc_health_state {
    SC_HEALTH_LOADING,
    SC_HEALTH_READY,
    SC_HEALTH_STUCK,    /* work is queued and the slowest rank completed no step for stuck_after */
    SC_HEALTH_FAILED,   /* the rank group failed and could not be reset; stays */
    SC_HEALTH_DRAINING, /* wins over all others, stays */
};

struct sc_health {
    uint64_t stuck_after_us;
    uint64_t progress;    /* steps of the slowest rank, when last seen */
    uint64_t progress_us; /* when that number last changed, or there was nothing to do */
    enum sc_health_state state;
};

struct sc_health_view {
    uint64_t now_us;
    bool loaded, draining, failed;
    uint32_t work;     /* requests that wait or run */
    uint64_t progress; /* steps completed by the slowest rank */
};

void sc_health_init(struct sc_health *health, uint64_t stuck_after_us, uint64_t now_us);
enum sc_health_state sc_health_update(struct sc_health *health, const struct sc_health_view *view);
const char *sc_health_name(enum sc_health_state state); /* "ready" */

#endif
