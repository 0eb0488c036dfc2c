/* shard/calibration_write.h - how a calibration's file gets its place. For shard/calibration.c.
 *
 * Memory: none kept. Threads: any, also those of other processes and machines at one path.
 */
#ifndef SC_SHARD_CALIBRATION_WRITE_H
#define SC_SHARD_CALIBRATION_WRITE_H

#include <stdbool.h>

#include "base/status.h"

/* See sc_calibration_save (replace) and sc_calibration_save_first. */
enum sc_status sc_calibration_write(const char *path, const char *text, bool replace,
                                    struct sc_err *err) SC_MUST_CHECK;

#endif
