/* semcache - command line client of semanticached. */
#include "client/cli.h"
#include "client/help.h"

#include <stdio.h>
#include <string.h>

enum sc_exit sc_cmd_help(struct sc_cli *cli, struct sc_err *err)
{
    char name[128];
    if (cli->args->n_words == 0) {
        sc_help_overview(stdout);
        return SC_EXIT_OK;
    }
    (void)snprintf(name, sizeof(name), "%s%s%s", cli->args->words[0],
                   cli->args->n_words > 1 ? " " : "",
                   cli->args->n_words > 1 ? cli->args->words[1] : "");
    const size_t len = strlen(name);
    bool known = false;
    for (int id = 0; id < SC_CMD_COUNT; id++) {
        const char *cmd = sc_cmd_spec((enum sc_cmd_id)id)->name;
        /* `help bench` explains all that start with it. */
        if (strncmp(cmd, name, len) != 0 || (cmd[len] != '\0' && cmd[len] != ' '))
            continue;
        if (known)
            (void)putchar('\n');
        known = true;
        sc_help_cmd(stdout, (enum sc_cmd_id)id);
    }
    if (known)
        return SC_EXIT_OK;
    (void)sc_fail(err, SC_EINVAL, "unknown command '%.64s'", name);
    return SC_EXIT_USAGE;
}

static enum sc_exit run(struct sc_cli *cli, struct sc_err *err)
{
    if (sc_arg(cli->args, SC_OPT_HELP)->set) {
        sc_help_cmd(stdout, cli->args->cmd);
        return SC_EXIT_OK;
    }
    switch (cli->args->cmd) {
    case SC_CMD_GENERATE:
    case SC_CMD_ASK:
        return sc_cmd_generate(cli, err);
    case SC_CMD_INGEST:
        return sc_cmd_ingest(cli, err);
    case SC_CMD_DOCUMENTS:
        return sc_cmd_documents(cli, err);
    case SC_CMD_TOKENIZE:
        return sc_cmd_tokenize(cli, err);
    case SC_CMD_INFO:
        return sc_cmd_info(cli, err);
    case SC_CMD_INSPECT:
        return sc_cmd_inspect(cli, err);
    case SC_CMD_TOP:
        return sc_cmd_top(cli, err);
    case SC_CMD_EVENTS:
        return sc_cmd_events(cli, err);
    case SC_CMD_BENCH_SERVE:
        return sc_cmd_bench_serve(cli, err);
    case SC_CMD_BENCH_DOCUMENTS:
        return sc_cmd_bench_documents(cli, err);
    case SC_CMD_BENCH_QUALITY:
        return sc_cmd_bench_quality(cli, err);
    case SC_CMD_HELP:
    case SC_CMD_COUNT:
        break;
    }
    return sc_cmd_help(cli, err);
}

int main(int argc, char **argv)
{
    struct sc_err err = SC_ERR_INIT;
    struct sc_args args;
    struct sc_cli cli;
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)puts("semcache " SC_VERSION);
        return SC_EXIT_OK;
    }
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        sc_help_overview(stdout);
        return SC_EXIT_OK;
    }
    if (sc_args_parse(argc, argv, &args, &err) != SC_OK) {
        (void)fprintf(stderr, "semcache: %s\nTry `semcache help`.\n", err.text);
        return SC_EXIT_USAGE;
    }
    sc_cli_init(&cli, &args);
    enum sc_exit status = run(&cli, &err);
    if (status != SC_EXIT_OK)
        (void)fprintf(stderr, "semcache: %s\n", err.text);
    sc_cli_fini(&cli);
    sc_args_fini(&args);
    return (int)status;
}
