#include "client/cli.h"

#include "client/prompt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_SERVER    "127.0.0.1:50051"
#define DEFAULT_TIMEOUT_S 600.0
#define KEY_ROOM          (SC_RPC_KEY_BYTES_MAX + 3) /* and CR LF NUL; a longer key is told */

/* Room for an input and the prompt made of it. */
#define ARENA_LIMIT_BYTES ((size_t)4 * SC_INPUT_BYTES_MAX)

enum { COLOR_AUTO, COLOR_ALWAYS, COLOR_NEVER }; /* the order of --color's choices */

void sc_cli_init(struct sc_cli *cli, const struct sc_args *args)
{
    const struct sc_arg_value *color = sc_arg(args, SC_OPT_COLOR);
    const uint32_t when = color->set ? color->choice : COLOR_AUTO;
    const char *term = getenv("TERM");
    const char *no_color = getenv("NO_COLOR");
    const bool may =
        when == COLOR_ALWAYS || (when == COLOR_AUTO && (no_color == NULL || no_color[0] == '\0') &&
                                 term != NULL && term[0] != '\0');
    *cli = (struct sc_cli){.args = args};
    sc_arena_init(&cli->arena, ARENA_LIMIT_BYTES);
    cli->out_terminal = isatty(STDOUT_FILENO) == 1;
    cli->err_terminal = isatty(STDERR_FILENO) == 1 && when != COLOR_NEVER;
    cli->out_colors = may && (cli->out_terminal || when == COLOR_ALWAYS);
    cli->err_colors = may && (cli->err_terminal || when == COLOR_ALWAYS);
}

void sc_cli_fini(struct sc_cli *cli)
{
    sc_arena_fini(&cli->arena);
}

const char *sc_cli_server(const struct sc_cli *cli)
{
    const struct sc_arg_value *server = sc_arg(cli->args, SC_OPT_SERVER);
    return server->set ? server->text : DEFAULT_SERVER;
}

/* The first line of --api-key-file, or SEMCACHE_API_KEY. There is no option for the key itself:
 * everybody on the machine reads command lines. ret_key: NULL when there is none. */
static enum sc_status api_key(const struct sc_cli *cli, char buffer[KEY_ROOM], const char **ret_key,
                              struct sc_err *err)
{
    const struct sc_arg_value *path = sc_arg(cli->args, SC_OPT_API_KEY_FILE);
    if (!path->set) {
        const char *key = getenv("SEMCACHE_API_KEY");
        *ret_key = key != NULL && key[0] != '\0' ? key : NULL;
        return SC_OK;
    }
    FILE *file = fopen(path->text, "rb");
    if (file == NULL)
        return sc_fail(err, SC_ENOENT, "%.256s: %s", path->text, strerror(errno));
    errno = 0;
    const bool any = fgets(buffer, KEY_ROOM, file) != NULL;
    const int error = errno;
    (void)fclose(file);
    if (!any)
        return sc_fail(err, SC_EINVAL, "%.256s: %s", path->text,
                       error != 0 ? strerror(error) : "empty, must hold the API key");
    buffer[strcspn(buffer, "\r\n")] = '\0';
    *ret_key = buffer;
    return SC_OK;
}

enum sc_status sc_cli_connect(const struct sc_cli *cli, struct sc_rpc **ret_rpc, struct sc_err *err)
{
    const struct sc_arg_value *timeout = sc_arg(cli->args, SC_OPT_TIMEOUT);
    char buffer[KEY_ROOM];
    const char *key = NULL;
    struct sc_rpc *rpc = NULL;
    enum sc_status st = api_key(cli, buffer, &key, err);
    if (st != SC_OK)
        return st;
    double timeout_s = cli->args->cmd == SC_CMD_EVENTS ? 0 : DEFAULT_TIMEOUT_S;
    st = sc_rpc_open(sc_cli_server(cli), timeout->set ? timeout->real : timeout_s, &rpc, err);
    if (st == SC_OK && key != NULL)
        st = sc_rpc_authorize(rpc, key, err);
    if (st != SC_OK) {
        sc_rpc_close(rpc);
        return st;
    }
    *ret_rpc = rpc;
    return SC_OK;
}

enum sc_exit sc_cli_exit(enum sc_status st)
{
    if (st == SC_OK)
        return SC_EXIT_OK;
    return st == SC_ECANCELED ? SC_EXIT_INTERRUPTED : SC_EXIT_FAILED;
}
