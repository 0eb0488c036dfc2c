/* The commands generate and ask: they differ in how the prompt is made. */
#include "client/cli.h"
#include "client/generation.h"
#include "client/json_out.h"
#include "client/prompt.h"
#include "client/request.h"
#include "proto/optional.h"

#include <stdio.h>
#include <string.h>

#define ASK_MAX_TOKENS 256

struct request {
    Semanticache__V1__GenerateRequest wire;
    Semanticache__V1__SamplingParams sampling;
    Semanticache__V1__KvOptions kv;
    Semanticache__V1__DocumentPrompt documents;
};

static void set_text(Semanticache__V1__GenerateRequest *wire, const struct sc_text *text)
{
    wire->prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_TEXT;
    wire->text.data = (uint8_t *)(uintptr_t)text->bytes;
    wire->text.len = text->len;
}

static enum sc_status generate_prompt(struct sc_cli *cli, struct request *r, struct sc_err *err)
{
    const struct sc_arg_value *prompt = sc_arg(cli->args, SC_OPT_PROMPT);
    const struct sc_arg_value *file = sc_arg(cli->args, SC_OPT_PROMPT_FILE);
    const struct sc_arg_value *ids = sc_arg(cli->args, SC_OPT_TOKEN_IDS);
    struct sc_text text = {0};
    enum sc_status st = SC_OK;
    if (prompt->set + file->set + ids->set != 1)
        return sc_fail(err, SC_EINVAL,
                       "generate: give one of --prompt, --prompt-file and --token-ids");
    if (ids->set) {
        r->wire.token_ids = sc_request_token_ids(&cli->arena, cli->args);
        r->wire.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
        return r->wire.token_ids != NULL ? SC_OK : sc_fail(err, SC_ENOMEM, "prompt: no memory");
    }
    if (file->set) {
        st = sc_prompt_read(&cli->arena, file->text, &text, err);
    } else {
        text = (struct sc_text){prompt->text, strlen(prompt->text)};
        st = sc_prompt_check("--prompt", text.bytes, text.len, err);
    }
    if (st == SC_OK)
        set_text(&r->wire, &text);
    return st;
}

/* Documents that the server has, and the question in the same words as with --document. */
static enum sc_status ask_documents(struct sc_cli *cli, const struct sc_prompt_format *format,
                                    struct request *r, struct sc_err *err)
{
    const struct sc_arg_value *docs = sc_arg(cli->args, SC_OPT_DOC);
    const struct sc_text no_text = {"", 0};
    struct sc_text question = {0};
    enum sc_status st =
        sc_prompt_build(&cli->arena, format, &no_text, cli->args->words[0], &question, err);
    if (st == SC_OK)
        st = sc_prompt_check("question and prefixes", question.bytes, question.len, err);
    for (uint32_t i = 0; i < docs->n_items && st == SC_OK; i++)
        st = sc_prompt_check("--doc", docs->texts[i], strlen(docs->texts[i]), err);
    if (st != SC_OK)
        return st;
    semanticache__v1__document_prompt__init(&r->documents);
    r->documents.document_ids = (char **)(uintptr_t)docs->texts;
    r->documents.n_document_ids = docs->n_items;
    r->documents.question.data = (uint8_t *)(uintptr_t)question.bytes;
    r->documents.question.len = question.len;
    r->wire.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_DOCUMENTS;
    r->wire.documents = &r->documents;
    return SC_OK;
}

static enum sc_status ask_file(struct sc_cli *cli, const struct sc_prompt_format *format,
                               struct request *r, struct sc_err *err)
{
    struct sc_text text = {0}, prompt = {0};
    enum sc_status st =
        sc_prompt_read(&cli->arena, sc_arg(cli->args, SC_OPT_DOCUMENT)->text, &text, err);
    if (st == SC_OK)
        st = sc_prompt_build(&cli->arena, format, &text, cli->args->words[0], &prompt, err);
    if (st == SC_OK)
        st = sc_prompt_check("question and prefixes", prompt.bytes, prompt.len, err);
    if (st != SC_OK)
        return st;
    set_text(&r->wire, &prompt);
    /* A document is a stranger's text and spells no special tokens. */
    SC_PB_SET(&r->wire, parse_special_tokens, false);
    return SC_OK;
}

static enum sc_status ask_prompt(struct sc_cli *cli, struct sc_prompt_format *format,
                                 struct request *r, struct sc_err *err)
{
    const bool stored = sc_arg(cli->args, SC_OPT_DOC)->set;
    if (sc_arg(cli->args, SC_OPT_DOCUMENT)->set == stored)
        return sc_fail(err, SC_EINVAL, "ask: give one of --document FILE and --doc ID");
    if (stored && (sc_arg(cli->args, SC_OPT_ADD_SPECIAL_TOKENS)->set ||
                   sc_arg(cli->args, SC_OPT_PARSE_SPECIAL_TOKENS)->set))
        return sc_fail(err, SC_EINVAL, "ask: special tokens are settled for --doc, no option");
    enum sc_status st = sc_request_format(&cli->arena, cli->args, format, err);
    if (st == SC_OK)
        st = stored ? ask_documents(cli, format, r, err) : ask_file(cli, format, r, err);
    if (st != SC_OK)
        return st;
    /* Defaults that suit a question. */
    SC_PB_SET(&r->sampling, temperature, 0.0f);
    SC_PB_SET(&r->sampling, max_tokens, ASK_MAX_TOKENS);
    return SC_OK;
}

static enum sc_status make_request(struct sc_cli *cli, struct request *r, struct sc_err *err)
{
    const bool ask = cli->args->cmd == SC_CMD_ASK;
    const struct sc_arg_value *id = sc_arg(cli->args, SC_OPT_REQUEST_ID);
    const struct sc_arg_value *priority = sc_arg(cli->args, SC_OPT_PRIORITY);
    const struct sc_arg_value *add = sc_arg(cli->args, SC_OPT_ADD_SPECIAL_TOKENS);
    const struct sc_arg_value *parse = sc_arg(cli->args, SC_OPT_PARSE_SPECIAL_TOKENS);
    struct sc_prompt_format format = {0};
    bool any_kv = false;
    semanticache__v1__generate_request__init(&r->wire);
    semanticache__v1__sampling_params__init(&r->sampling);
    semanticache__v1__kv_options__init(&r->kv);
    enum sc_status st = ask ? ask_prompt(cli, &format, r, err) : generate_prompt(cli, r, err);
    if (st == SC_OK)
        st = sc_request_sampling(&cli->arena, cli->args, ask ? &format : NULL, &r->sampling, err);
    if (st == SC_OK)
        st = sc_request_kv(&cli->arena, cli->args, &r->kv, &any_kv, err);
    if (st == SC_OK && id->set)
        st = sc_prompt_check("--request-id", id->text, strlen(id->text), err);
    if (st != SC_OK)
        return st;
    r->wire.sampling = &r->sampling;
    r->wire.kv = any_kv ? &r->kv : NULL;
    if (id->set)
        r->wire.request_id = (char *)(uintptr_t)id->text;
    if (priority->set)
        SC_PB_SET(&r->wire, priority, (int32_t)priority->i);
    if (add->set)
        SC_PB_SET(&r->wire, add_special_tokens, add->on);
    if (parse->set)
        SC_PB_SET(&r->wire, parse_special_tokens, parse->on);
    return SC_OK;
}

/* For the size of a page. A server that does not tell costs the receipt one figure, not the answer.
 */
static Semanticache__V1__GetServerInfoResponse *server_info(struct sc_rpc *rpc)
{
    Semanticache__V1__GetServerInfoRequest request;
    ProtobufCMessage *reply = NULL;
    semanticache__v1__get_server_info_request__init(&request);
    if (sc_rpc_unary(rpc, &semanticache__v1__control__descriptor, "GetServerInfo", &request.base,
                     &reply, NULL) != SC_OK)
        return NULL;
    return (Semanticache__V1__GetServerInfoResponse *)reply;
}

static enum sc_status run(struct sc_cli *cli, struct sc_rpc *rpc,
                          const Semanticache__V1__GenerateRequest *request, struct sc_err *err)
{
    const bool json = sc_arg(cli->args, SC_OPT_JSON)->set;
    const bool quiet = sc_arg(cli->args, SC_OPT_QUIET)->set;
    struct sc_text_out stream;
    struct sc_progress progress = {.file = stderr, .terminal = cli->err_terminal && !quiet};
    struct sc_generation gen;
    sc_text_out_init(&stream, stdout, cli->out_terminal);
    enum sc_status st = sc_generation_init(&gen, json ? NULL : &stream, &progress, err);
    if (st != SC_OK)
        return st;
    st = sc_generation_run(&gen, rpc, request, err);
    if (st == SC_OK && (json || !quiet)) {
        Semanticache__V1__GetServerInfoResponse *server = server_info(rpc);
        if (json) {
            st = sc_json_print(stdout, sc_generation_json(&gen, server), err);
        } else {
            /* The text's last line may be open, and both streams may go to one place. */
            if (!cli->out_terminal && !stream.at_line_start)
                (void)fputc('\n', stderr);
            sc_generation_receipt(stderr, cli->err_colors, gen.last->final, server);
        }
        if (server != NULL)
            protobuf_c_message_free_unpacked(&server->base, NULL);
    }
    sc_generation_fini(&gen);
    return st;
}

enum sc_exit sc_cmd_generate(struct sc_cli *cli, struct sc_err *err)
{
    struct request request;
    struct sc_rpc *rpc = NULL;
    if (make_request(cli, &request, err) != SC_OK)
        return SC_EXIT_USAGE;
    if (sc_cli_connect(cli, &rpc, err) != SC_OK)
        return SC_EXIT_USAGE;
    enum sc_status st = run(cli, rpc, &request.wire, err);
    sc_rpc_close(rpc);
    return sc_cli_exit(st);
}
