/* The command top: a server's loads, drawn over themselves or printed once. */
#include "client/cli.h"
#include "client/json_out.h"
#include "client/top.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SERVICE            (&semanticache__v1__control__descriptor)
#define DEFAULT_INTERVAL_S 1.0

/* The other screen, without a cursor; and back. */
#define ENTER_SCREEN "\033[?1049h\033[?25l"
#define LEAVE_SCREEN "\033[?25h\033[?1049l"

struct sample {
    struct sc_top_sample shown;
    ProtobufCMessage *server, *loads;
};

static void sample_fini(struct sample *s)
{
    protobuf_c_message_free_unpacked(s->server, NULL);
    protobuf_c_message_free_unpacked(s->loads, NULL);
    *s = (struct sample){0};
}

static enum sc_status sample_take(struct sc_rpc *rpc, struct sample *ret_sample, struct sc_err *err)
{
    Semanticache__V1__GetServerInfoRequest server;
    Semanticache__V1__GetLoadsRequest loads;
    struct sample s = {0};
    struct timespec now;
    semanticache__v1__get_server_info_request__init(&server);
    semanticache__v1__get_loads_request__init(&loads);
    enum sc_status st = sc_rpc_unary(rpc, SERVICE, "GetServerInfo", &server.base, &s.server, err);
    if (st == SC_OK)
        st = sc_rpc_unary(rpc, SERVICE, "GetLoads", &loads.base, &s.loads, err);
    if (st != SC_OK) {
        sample_fini(&s);
        return st;
    }
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    s.shown.at_s = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
    s.shown.server = (const Semanticache__V1__GetServerInfoResponse *)s.server;
    s.shown.loads = (const Semanticache__V1__GetLoadsResponse *)s.loads;
    *ret_sample = s;
    return SC_OK;
}

/* Over the frame before, without a moment of empty screen in between. */
static enum sc_status draw(const struct sc_cli *cli, const struct sample *before,
                           const struct sample *now, struct sc_err *err)
{
    char *text = NULL;
    size_t len = 0;
    FILE *frame = open_memstream(&text, &len);
    if (frame == NULL)
        return sc_fail(err, SC_ENOMEM, "top: no memory");
    sc_top_print(frame, sc_cli_server(cli), before != NULL ? &before->shown : NULL, &now->shown);
    if (fclose(frame) != 0) {
        free(text);
        return sc_fail(err, SC_ENOMEM, "top: no memory");
    }
    (void)fputs("\033[H", stdout);
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\n')
            (void)fputs("\033[K", stdout);
        (void)fputc(text[i], stdout);
    }
    (void)fputs("\033[J", stdout);
    free(text);
    return fflush(stdout) == 0 ? SC_OK : sc_fail(err, SC_EIO, "output: cannot be written");
}

/* Ends with an error, or with a signal, which is how a person ends it: SC_OK. */
static enum sc_status live(const struct sc_cli *cli, struct sc_rpc *rpc, double interval_s,
                           struct sc_err *err)
{
    struct sample before = {0}, now = {0};
    enum sc_status st = sample_take(rpc, &now, err);
    if (st != SC_OK)
        return st;
    (void)fputs(ENTER_SCREEN, stdout);
    while (st == SC_OK) {
        st = draw(cli, before.loads != NULL ? &before : NULL, &now, err);
        if (st == SC_OK)
            st = sc_rpc_sleep(rpc, interval_s, err);
        if (st != SC_OK)
            break;
        sample_fini(&before);
        before = now;
        now = (struct sample){0};
        st = sample_take(rpc, &now, err);
    }
    (void)fputs(LEAVE_SCREEN, stdout);
    (void)fflush(stdout);
    sample_fini(&before);
    sample_fini(&now);
    if (st != SC_ECANCELED)
        return st;
    sc_err_clear(err);
    return SC_OK;
}

static enum sc_status once(const struct sc_cli *cli, struct sc_rpc *rpc, double interval_s,
                           struct sc_err *err)
{
    struct sample before = {0}, now = {0};
    enum sc_status st = sample_take(rpc, &before, err);
    if (st == SC_OK)
        st = sc_rpc_sleep(rpc, interval_s, err);
    if (st == SC_OK)
        st = sample_take(rpc, &now, err);
    if (st == SC_OK && sc_arg(cli->args, SC_OPT_JSON)->set)
        st = sc_json_print(stdout, sc_top_json(&before.shown, &now.shown), err);
    else if (st == SC_OK)
        sc_top_print(stdout, sc_cli_server(cli), &before.shown, &now.shown);
    sample_fini(&before);
    sample_fini(&now);
    return st;
}

enum sc_exit sc_cmd_top(struct sc_cli *cli, struct sc_err *err)
{
    const struct sc_arg_value *interval = sc_arg(cli->args, SC_OPT_INTERVAL);
    const double interval_s = interval->set ? interval->real : DEFAULT_INTERVAL_S;
    const bool plain = !cli->out_terminal || sc_arg(cli->args, SC_OPT_ONCE)->set ||
                       sc_arg(cli->args, SC_OPT_JSON)->set;
    struct sc_rpc *rpc = NULL;
    if (sc_cli_connect(cli, &rpc, err) != SC_OK)
        return SC_EXIT_USAGE;
    enum sc_status st = plain ? once(cli, rpc, interval_s, err) : live(cli, rpc, interval_s, err);
    sc_rpc_close(rpc);
    return sc_cli_exit(st);
}
