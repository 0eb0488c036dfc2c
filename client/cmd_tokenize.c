#include "client/cli.h"
#include "client/json_out.h"
#include "client/prompt.h"
#include "client/request.h"
#include "client/term.h"
#include "proto/optional.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static enum sc_status read_text(struct sc_cli *cli, struct sc_text *ret_text, struct sc_err *err)
{
    const struct sc_arg_value *text = sc_arg(cli->args, SC_OPT_TEXT);
    const struct sc_arg_value *file = sc_arg(cli->args, SC_OPT_FILE);
    if (text->set + file->set != 1 || sc_arg(cli->args, SC_OPT_TOKEN_IDS)->set)
        return sc_fail(err, SC_EINVAL,
                       "tokenize: give --text or --file, or --detokenize and --token-ids");
    if (file->set)
        return sc_prompt_read(&cli->arena, file->text, ret_text, err);
    *ret_text = (struct sc_text){text->text, strlen(text->text)};
    return sc_prompt_check("--text", ret_text->bytes, ret_text->len, err);
}

static enum sc_status print_ids(const Semanticache__V1__TokenizeResponse *reply, struct sc_err *err)
{
    for (size_t i = 0; i < reply->n_token_ids; i++)
        (void)printf("%s%d", i > 0 ? "," : "", reply->token_ids[i]);
    if (printf("\n") < 0 || fflush(stdout) != 0)
        return sc_fail(err, SC_EIO, "output: %s", strerror(errno));
    return SC_OK;
}

static enum sc_status tokenize(struct sc_cli *cli, struct sc_rpc *rpc, const struct sc_text *text,
                               struct sc_err *err)
{
    const bool json = sc_arg(cli->args, SC_OPT_JSON)->set;
    const struct sc_arg_value *add = sc_arg(cli->args, SC_OPT_ADD_SPECIAL_TOKENS);
    const struct sc_arg_value *parse = sc_arg(cli->args, SC_OPT_PARSE_SPECIAL_TOKENS);
    Semanticache__V1__TokenizeRequest request;
    ProtobufCMessage *reply = NULL;
    semanticache__v1__tokenize_request__init(&request);
    request.text.data = (uint8_t *)(uintptr_t)text->bytes;
    request.text.len = text->len;
    if (add->set)
        SC_PB_SET(&request, add_special_tokens, add->on);
    if (parse->set)
        SC_PB_SET(&request, parse_special_tokens, parse->on);
    SC_PB_SET(&request, return_pieces, json);
    enum sc_status st = sc_rpc_unary(rpc, &semanticache__v1__inference__descriptor, "Tokenize",
                                     &request.base, &reply, err);
    if (st != SC_OK)
        return st;
    st = json ? sc_json_print(stdout, sc_json_message(reply), err)
              : print_ids((const Semanticache__V1__TokenizeResponse *)reply, err);
    protobuf_c_message_free_unpacked(reply, NULL);
    return st;
}

static enum sc_status print_text(struct sc_cli *cli,
                                 const Semanticache__V1__DetokenizeResponse *reply,
                                 struct sc_err *err)
{
    struct sc_text_out out;
    sc_text_out_init(&out, stdout, cli->out_terminal);
    enum sc_status st =
        sc_text_out_write(&out, (const char *)reply->text.data, reply->text.len, err);
    return st == SC_OK ? sc_text_out_finish(&out, err) : st;
}

static enum sc_status detokenize(struct sc_cli *cli, struct sc_rpc *rpc, struct sc_err *err)
{
    const struct sc_arg_value *ids = sc_arg(cli->args, SC_OPT_TOKEN_IDS);
    const struct sc_arg_value *skip = sc_arg(cli->args, SC_OPT_SKIP_SPECIAL_TOKENS);
    Semanticache__V1__DetokenizeRequest request;
    ProtobufCMessage *reply = NULL;
    semanticache__v1__detokenize_request__init(&request);
    request.token_ids = ids->ids;
    request.n_token_ids = ids->n_items;
    if (skip->set)
        SC_PB_SET(&request, skip_special_tokens, skip->on);
    enum sc_status st = sc_rpc_unary(rpc, &semanticache__v1__inference__descriptor, "Detokenize",
                                     &request.base, &reply, err);
    if (st != SC_OK)
        return st;
    st = sc_arg(cli->args, SC_OPT_JSON)->set
             ? sc_json_print(stdout, sc_json_message(reply), err)
             : print_text(cli, (const Semanticache__V1__DetokenizeResponse *)reply, err);
    protobuf_c_message_free_unpacked(reply, NULL);
    return st;
}

enum sc_exit sc_cmd_tokenize(struct sc_cli *cli, struct sc_err *err)
{
    const bool back = sc_arg(cli->args, SC_OPT_DETOKENIZE)->set;
    struct sc_rpc *rpc = NULL;
    struct sc_text text = {0};
    enum sc_status st = SC_OK;
    if (!back)
        st = read_text(cli, &text, err);
    else if (!sc_arg(cli->args, SC_OPT_TOKEN_IDS)->set)
        st = sc_fail(err, SC_EINVAL, "tokenize: --detokenize needs --token-ids");
    if (st == SC_OK)
        st = sc_cli_connect(cli, &rpc, err);
    if (st != SC_OK)
        return SC_EXIT_USAGE;
    st = back ? detokenize(cli, rpc, err) : tokenize(cli, rpc, &text, err);
    sc_rpc_close(rpc);
    return sc_cli_exit(st);
}
