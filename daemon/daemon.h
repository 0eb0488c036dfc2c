/* daemon/daemon.h - the process: start, main loop, drain, stop.
 *
 * The drain that loses no stream, in this order: STOPPING=1; health NOT_SERVING and Watch streams
 * end; new requests get UNAVAILABLE while the listener stays open; wait until the calls have ended
 * or the drain timeout; linger, so that last frames leave; shut the server down and cancel at once
 * what is left; stop the engine; free. Threads: one call, on the main thread, with signals blocked
 * in all threads.
 */
#ifndef SC_DAEMON_DAEMON_H
#define SC_DAEMON_DAEMON_H

#include "daemon/options.h"

enum sc_exit { SC_EXIT_OK = 0, SC_EXIT_FAILED = 1, SC_EXIT_USAGE = 2 };

/* options: for SIGHUP, which reads them again. */
enum sc_exit sc_daemon_run(const struct sc_config *config, const struct sc_options *options);

#endif
