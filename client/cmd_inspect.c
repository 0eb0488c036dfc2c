#include "client/cli.h"
#include "client/inspect.h"
#include "client/json_out.h"
#include "client/prompt.h"
#include "client/request.h"
#include "client/term.h"
#include "proto/optional.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct request {
    Semanticache__V1__InspectCacheRequest wire;
    Semanticache__V1__KvOptions kv;
    Semanticache__V1__LayerList layers;
    uint32_t layer;
};

static enum sc_status make_request(struct sc_cli *cli, struct request *r, struct sc_err *err)
{
    const struct sc_arg_value *layer = sc_arg(cli->args, SC_OPT_LAYER);
    const struct sc_arg_value *add = sc_arg(cli->args, SC_OPT_ADD_SPECIAL_TOKENS);
    const struct sc_arg_value *parse = sc_arg(cli->args, SC_OPT_PARSE_SPECIAL_TOKENS);
    struct sc_text text = {0};
    bool any_kv = false;
    semanticache__v1__inspect_cache_request__init(&r->wire);
    semanticache__v1__kv_options__init(&r->kv);
    semanticache__v1__layer_list__init(&r->layers);
    if (sc_arg(cli->args, SC_OPT_HTML)->set && sc_arg(cli->args, SC_OPT_JSON)->set)
        return sc_fail(err, SC_EINVAL, "inspect: --html and --json exclude each other");
    enum sc_status st = sc_prompt_read(&cli->arena, cli->args->words[0], &text, err);
    if (st == SC_OK)
        st = sc_request_kv(&cli->arena, cli->args, &r->kv, &any_kv, err);
    if (st != SC_OK)
        return st;
    r->wire.prompt_case = SEMANTICACHE__V1__INSPECT_CACHE_REQUEST__PROMPT_TEXT;
    r->wire.text.data = (uint8_t *)(uintptr_t)text.bytes;
    r->wire.text.len = text.len;
    r->wire.kv = any_kv ? &r->kv : NULL;
    if (add->set)
        SC_PB_SET(&r->wire, add_special_tokens, add->on);
    if (parse->set)
        SC_PB_SET(&r->wire, parse_special_tokens, parse->on);
    if (layer->set) {
        r->layer = (uint32_t)layer->u;
        r->layers.layers = &r->layer;
        r->layers.n_layers = 1;
        r->wire.layers = &r->layers;
    }
    return SC_OK;
}

static enum sc_status write_page(const struct sc_cli *cli, const char *path,
                                 const Semanticache__V1__InspectCacheResponse *reply,
                                 struct sc_err *err)
{
    FILE *out = fopen(path, "wb");
    if (out == NULL)
        return sc_fail(err, SC_EIO, "%.256s: %s", path, strerror(errno));
    enum sc_status st = sc_inspect_write_html(out, cli->args->words[0], reply, err);
    if (fclose(out) != 0 && st == SC_OK)
        st = sc_fail(err, SC_EIO, "%.256s: %s", path, strerror(errno));
    return st;
}

static enum sc_status show(const struct sc_cli *cli,
                           const Semanticache__V1__InspectCacheResponse *reply, struct sc_err *err)
{
    const struct sc_arg_value *html = sc_arg(cli->args, SC_OPT_HTML);
    const struct sc_arg_value *layer = sc_arg(cli->args, SC_OPT_LAYER);
    uint32_t shown = (uint32_t)layer->u;
    enum sc_status st = sc_inspect_check(reply, err);
    if (st != SC_OK)
        return st;
    if (html->set)
        return write_page(cli, html->text, reply, err);
    if (sc_arg(cli->args, SC_OPT_JSON)->set)
        return sc_json_print(stdout, sc_json_message(&reply->base), err);
    /* A text that was not compressed, because it is short or was to be exact, is shown as it is:
     * how much of it is cached is told all the same. */
    if (!layer->set)
        shown = sc_inspect_first_layer(reply);
    else if (shown >= reply->n_layers)
        return sc_fail(err, SC_ERANGE, "--layer: %u, the model has layers 0..%u", shown,
                       reply->n_layers - 1);
    return sc_inspect_print(stdout, cli->out_terminal, cli->out_colors, reply, shown, err);
}

enum sc_exit sc_cmd_inspect(struct sc_cli *cli, struct sc_err *err)
{
    struct request request = {0};
    struct sc_rpc *rpc = NULL;
    ProtobufCMessage *reply = NULL;
    if (make_request(cli, &request, err) != SC_OK)
        return SC_EXIT_USAGE;
    if (sc_cli_connect(cli, &rpc, err) != SC_OK)
        return SC_EXIT_USAGE;
    enum sc_status st = sc_rpc_unary(rpc, &semanticache__v1__control__descriptor, "InspectCache",
                                     &request.wire.base, &reply, err);
    if (st == SC_OK) {
        st = show(cli, (const Semanticache__V1__InspectCacheResponse *)reply, err);
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    sc_rpc_close(rpc);
    return sc_cli_exit(st);
}
