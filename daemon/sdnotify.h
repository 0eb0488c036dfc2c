/* daemon/sdnotify.h - tells systemd how we are; all of it does nothing without NOTIFY_SOCKET.
 *
 * Threads: main thread.
 */
#ifndef SC_DAEMON_SDNOTIFY_H
#define SC_DAEMON_SDNOTIFY_H

#include <stdint.h>

#include "base/status.h"

void sc_notify_status(const char *fmt, ...) SC_PRINTF(1, 2);
void sc_notify_ready(void);
void sc_notify_reloading(void); /* with the monotonic time, as Type=notify-reload wants */
void sc_notify_stopping(void);
void sc_notify_extend(uint64_t us); /* start or stop may take that much longer, from now */
void sc_notify_watchdog(void);
uint64_t sc_notify_watchdog_us(void); /* the interval that systemd expects; 0: none */

#endif
