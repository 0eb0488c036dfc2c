/* daemon/probe.h - does our own listener still accept?
 *
 * A gRPC listener that once ran out of descriptors never accepts again, while everything else goes
 * on: so the main loop connects to itself now and then, as any client would, and waits for the
 * HTTP/2 greeting. The kernel's accepting is not enough: it fills the backlog without us. Threads:
 * one owner; nothing blocks.
 */
#ifndef SC_DAEMON_PROBE_H
#define SC_DAEMON_PROBE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/status.h"

struct sc_probe {
    struct sockaddr_storage address;
    socklen_t address_len;
    uint64_t every_us, patience_us;
    int fd;       /* -1: none under way */
    bool greeted; /* ours is sent */
    uint64_t begun_us;
    bool alive; /* what the last probe said; true before the first */
    size_t got;
    uint8_t head[9]; /* of the first frame that comes */
};

/* address: one that the server listens on; port: the one that was bound. SC_ENOTSUP: a host name,
 * which is not resolved here: the probe then always says alive. */
enum sc_status sc_probe_init(struct sc_probe *probe, const char *address, int port,
                             uint64_t every_us, uint64_t patience_us,
                             struct sc_err *err) SC_MUST_CHECK;
void sc_probe_fini(struct sc_probe *probe);

/* Call it often; goes on with the probe under way or begins the next. Returns alive. */
bool sc_probe_tick(struct sc_probe *probe, uint64_t now_us);

#endif
