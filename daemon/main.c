#include <stdio.h>

#include "daemon/daemon.h"

int main(int argc, char **argv)
{
    struct sc_options options;
    struct sc_config config;
    struct sc_err err = SC_ERR_INIT;

    if (sc_options_parse(argc, (const char *const *)argv, &options, &err) != SC_OK) {
        (void)fprintf(stderr, "semanticached: %s\n", err.text);
        return SC_EXIT_USAGE;
    }
    switch (options.action) {
    case SC_ACTION_HELP:
        sc_options_help(stdout);
        return SC_EXIT_OK;
    case SC_ACTION_VERSION:
        (void)printf("semanticached %s\n", SC_VERSION);
        return SC_EXIT_OK;
    default:
        break;
    }
    if (sc_options_load(&options, &config, &err) != SC_OK) {
        (void)fprintf(stderr, "semanticached: %s\n", err.text);
        return SC_EXIT_USAGE;
    }
    if (options.action == SC_ACTION_CHECK) {
        (void)printf("settings are fine\n");
        return SC_EXIT_OK;
    }
    sc_log_configure(config.log_level, config.log_format);
    return sc_daemon_run(&config, &options);
}
