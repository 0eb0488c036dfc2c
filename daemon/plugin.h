/* daemon/plugin.h - finds and opens the CUDA backend's library, if there is one.
 *
 * Looked for beside the daemon (../lib, ../lib/semanticache) and where the build installs it. The
 * daemon neither links it nor the vendor's libraries, so it starts without them. An opened plugin
 * is never closed: its code may run until the process ends. Threads: call from the loading thread
 * only.
 */
#ifndef SC_DAEMON_PLUGIN_H
#define SC_DAEMON_PLUGIN_H

#include "base/plugin.h"

/* path NULL: look in the usual places. SC_ENOENT: none found, names the last place; SC_EUNAVAIL:
 * found, but it cannot be opened (the vendor's libraries are missing); SC_ENOTSUP: built for
 * another ABI. */
enum sc_status sc_plugin_open(const char *path, const struct sc_backend_plugin **ret_plugin,
                              struct sc_err *err) SC_MUST_CHECK;

/* Whether the plugin can open a device here and now; if not, err says why. */
enum sc_status sc_plugin_try(const struct sc_backend_plugin *plugin,
                             struct sc_err *err) SC_MUST_CHECK;

#endif
