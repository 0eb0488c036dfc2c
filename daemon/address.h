/* daemon/address.h - the addresses a server listens on.
 *
 * "HOST:PORT", "[IPV6]:PORT" or "unix:/absolute/path". Loopback is 127.0.0.0/8, ::1, localhost and
 * unix sockets; anything else is reachable by others.
 * Threads: pure functions, except the lock.
 */
#ifndef SC_DAEMON_ADDRESS_H
#define SC_DAEMON_ADDRESS_H

#include <stdbool.h>

#include "base/status.h"

bool sc_address_is_unix(const char *address);
bool sc_address_is_loopback(const char *address);
/* SC_EINVAL: malformed; SC_EPERM: not loopback and not insecure. */
enum sc_status sc_address_check(const char *address, bool insecure,
                                struct sc_err *err) SC_MUST_CHECK;

/* gRPC would silently take a live socket away from another daemon: so hold a lock on PATH.lock as
 * long as it is ours. ret_fd is closed to give it back. SC_EEXIST: somebody else has it. */
enum sc_status sc_address_lock_unix(const char *address, int *ret_fd,
                                    struct sc_err *err) SC_MUST_CHECK;

#endif
