/* client/cli.h - what the commands of semcache share.
 *
 * A command returns the exit status; err then holds what main prints.
 * Threads: one.
 */
#ifndef SC_CLIENT_CLI_H
#define SC_CLIENT_CLI_H

#include "base/arena.h"
#include "client/args.h"
#include "client/rpc.h"

enum sc_exit {
    SC_EXIT_OK = 0,
    SC_EXIT_FAILED = 1, /* the server refused or failed, or the output could not be written */
    SC_EXIT_USAGE = 2,  /* options or input files */
    SC_EXIT_INTERRUPTED = 130,
};

struct sc_cli {
    const struct sc_args *args;
    struct sc_arena arena;
    bool out_terminal, err_terminal; /* a person reads there */
    bool out_colors, err_colors;
};

/* Looks at the terminal, --color and NO_COLOR. */
void sc_cli_init(struct sc_cli *cli, const struct sc_args *args);
void sc_cli_fini(struct sc_cli *cli);

/* --server, --timeout, and the API key where there is one. */
enum sc_status sc_cli_connect(const struct sc_cli *cli, struct sc_rpc **ret_rpc,
                              struct sc_err *err) SC_MUST_CHECK;
const char *sc_cli_server(const struct sc_cli *cli);

/* The exit status for what a call returned. */
enum sc_exit sc_cli_exit(enum sc_status st);

enum sc_exit sc_cmd_generate(struct sc_cli *cli, struct sc_err *err); /* generate and ask */
enum sc_exit sc_cmd_ingest(struct sc_cli *cli, struct sc_err *err);
enum sc_exit sc_cmd_documents(struct sc_cli *cli, struct sc_err *err);
enum sc_exit sc_cmd_tokenize(struct sc_cli *cli, struct sc_err *err);
enum sc_exit sc_cmd_info(struct sc_cli *cli, struct sc_err *err);
enum sc_exit sc_cmd_inspect(struct sc_cli *cli, struct sc_err *err);
enum sc_exit sc_cmd_top(struct sc_cli *cli, struct sc_err *err);
enum sc_exit sc_cmd_events(struct sc_cli *cli, struct sc_err *err);
enum sc_exit sc_cmd_bench_serve(struct sc_cli *cli, struct sc_err *err);
enum sc_exit sc_cmd_bench_documents(struct sc_cli *cli, struct sc_err *err);
enum sc_exit sc_cmd_bench_quality(struct sc_cli *cli, struct sc_err *err);
enum sc_exit sc_cmd_help(struct sc_cli *cli, struct sc_err *err);

#endif
