/* daemon/options.h - the command line.
 *
 * Threads: a plain value over argv, which must outlive it.
 */
#ifndef SC_DAEMON_OPTIONS_H
#define SC_DAEMON_OPTIONS_H

#include <stdio.h>

#include "daemon/config.h"

#define SC_OPTIONS_SET_MAX 64u

enum sc_options_action { SC_ACTION_RUN, SC_ACTION_CHECK, SC_ACTION_HELP, SC_ACTION_VERSION };

struct sc_options {
    enum sc_options_action action;
    const char *config_path; /* NULL: no file */
    struct {
        char key[64];
        const char *value;
    } sets[SC_OPTIONS_SET_MAX]; /* in order; the last one of a key wins */
    unsigned n_sets;
};

/* A flag that stands for a config key; the man page test reads this table. */
struct sc_option_flag {
    const char *name; /* "kv-memory" */
    const char *key;  /* "kv.memory" */
    const char *arg;  /* "SIZE"; NULL: takes none and means true */
    const char *help;
};
extern const struct sc_option_flag sc_option_flags[];
extern const size_t sc_option_n_flags;

enum sc_status sc_options_parse(int argc, const char *const *argv, struct sc_options *ret_options,
                                struct sc_err *err) SC_MUST_CHECK;
/* Defaults, then the file, then the command line; then the checks over all. */
enum sc_status sc_options_load(const struct sc_options *options, struct sc_config *ret_config,
                               struct sc_err *err) SC_MUST_CHECK;
void sc_options_help(FILE *out);

#endif
