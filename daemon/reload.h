/* daemon/reload.h - SIGHUP: reads the settings again, applies what may change, tells what may not.
 */
#ifndef SC_DAEMON_RELOAD_H
#define SC_DAEMON_RELOAD_H

#include "daemon/options.h"

/* current is updated with what was applied. Errors leave everything as it was, and are logged.
 * Threads: main thread. */
void sc_reload(const struct sc_options *options, struct sc_config *current);

#endif
