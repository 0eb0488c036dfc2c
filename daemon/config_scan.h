/* daemon/config_scan.h - what libconfig takes in silence and we do not.
 *
 * It reads other files for @include, of any size and without their names in errors; and a whole
 * number over 32 bits without the suffix L wraps round: 4294967297 becomes 1. Threads: a pure
 * function.
 */
#ifndef SC_DAEMON_CONFIG_SCAN_H
#define SC_DAEMON_CONFIG_SCAN_H

#include "base/status.h"

/* text is a whole file, name stands for it in errors: "NAME:LINE: what". */
enum sc_status sc_config_scan(const char *text, const char *name, struct sc_err *err) SC_MUST_CHECK;

#endif
