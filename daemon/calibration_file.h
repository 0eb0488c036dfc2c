/* daemon/calibration_file.h - which calibration a server uses, and where one that it measured is
 * kept.
 *
 * The model's own file always wins. Where there is none, thresholds are measured on the built-in
 * text. Their last bits depend on the number of ranks and on the backend, and the calibration is
 * part of every cache key: so they are kept beside the entries that depend on them, in the store's
 * directory, and read again by whoever finds those entries, with however many ranks. Of several that
 * measure at once the first to write wins, and the others use what it wrote.
 *
 * It is calibration-MODEL-SAMPLE.json, in the format of the model's own. The name has the model's
 * fingerprint and the built-in sample's id, and nothing of types or arithmetic: these are in the
 * recipe id by themselves, so that entries of two kinds do not meet although they share a
 * calibration, as they share a model's own. The store looks at ab/abcd....core, tmp/ and lock only,
 * and its quota does not count this file (14 bytes a number: half a megabyte for 32 layers of 8 KV
 * heads of 128): were it evicted, the compressed entries beside it would be lost with it.
 *
 * Memory: what a calibration takes, twice for a moment. Threads: the one that loads.
 */
#ifndef SC_DAEMON_CALIBRATION_FILE_H
#define SC_DAEMON_CALIBRATION_FILE_H

#include "shard/engine.h"

/* Sets the calibration on the idle engine and tells in one line of the log where it is from. dir:
 * an existing directory in which a measured one is kept; NULL: nothing is kept. A kept file that is
 * damaged, of another model or another version is a warning, measured anew and replaced; one that
 * cannot be written is a warning. A file of the model that cannot be used is an error.
 * *ret_builtin: measured, now or before, on the built-in text. */
enum sc_status sc_calibration_file_use(struct sc_engine *engine, const struct sc_model *model,
                                       const char *dir, bool *ret_builtin,
                                       struct sc_err *err) SC_MUST_CHECK;

/* The path of the kept file. SC_EINVAL: longer than bytes. */
enum sc_status sc_calibration_file_path(const struct sc_engine *engine,
                                        const struct sc_model *model, const char *dir, char *path,
                                        size_t bytes, struct sc_err *err) SC_MUST_CHECK;

#endif
