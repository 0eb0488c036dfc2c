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

#define SC_CALIBRATION_PATH_BYTES 4096u
/* What is at path gets a temporary file's name, which is nobody else's. SC_ENOENT: nothing is. */
enum sc_status sc_calibration_take_aside(const char *path, char aside[SC_CALIBRATION_PATH_BYTES],
                                         struct sc_err *err) SC_MUST_CHECK;
/* It gets its place again. SC_EEXIST: another has that now, and keeps it. */
enum sc_status sc_calibration_put_back(const char *aside, const char *path,
                                       struct sc_err *err) SC_MUST_CHECK;

#endif
