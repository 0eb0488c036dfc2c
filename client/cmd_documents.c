/* The command documents: list, show, pin, unpin, rm. */
#include "client/cli.h"
#include "client/documents.h"
#include "client/json_out.h"
#include "proto/optional.h"

#include <stdio.h>
#include <string.h>

#define SERVICE (&semanticache__v1__documents__descriptor)

enum action { ACTION_LIST, ACTION_SHOW, ACTION_PIN, ACTION_UNPIN, ACTION_RM, N_ACTIONS };

static const char *const action_names[N_ACTIONS] = {"list", "show", "pin", "unpin", "rm"};

static enum sc_status parse_action(const struct sc_args *args, enum action *ret_action,
                                   struct sc_err *err)
{
    const uint32_t n_ids = args->n_words - 1;
    for (int a = 0; a < N_ACTIONS; a++) {
        if (strcmp(args->words[0], action_names[a]) != 0)
            continue;
        if (a == ACTION_LIST ? n_ids != 0 : a == ACTION_RM ? n_ids == 0 : n_ids != 1)
            return sc_fail(err, SC_EINVAL, "documents %s: takes %s, got %u", action_names[a],
                           a == ACTION_LIST ? "no ID"
                           : a == ACTION_RM ? "one ID or more"
                                            : "one ID",
                           n_ids);
        if (sc_arg(args, SC_OPT_TTL)->set && a != ACTION_PIN)
            return sc_fail(err, SC_EINVAL, "documents %s: --ttl belongs to documents pin",
                           action_names[a]);
        for (uint32_t i = 1; i < args->n_words; i++) {
            enum sc_status st = sc_prompt_check("ID", args->words[i], strlen(args->words[i]), err);
            if (st != SC_OK)
                return st;
        }
        *ret_action = (enum action)a;
        return SC_OK;
    }
    return sc_fail(err, SC_EINVAL, "documents: '%.64s' is none of list, show, pin, unpin and rm",
                   args->words[0]);
}

static enum sc_status list(const struct sc_cli *cli, struct sc_rpc *rpc, struct sc_err *err)
{
    struct sc_document_list documents;
    enum sc_status st = sc_document_list_get(rpc, &documents, err);
    if (st != SC_OK)
        return st;
    if (sc_arg(cli->args, SC_OPT_JSON)->set)
        st = sc_json_print(stdout, sc_document_list_json(&documents), err);
    else
        sc_document_list_print(stdout, &documents, sc_document_now_us());
    sc_document_list_fini(&documents);
    return st;
}

static enum sc_status print(const struct sc_cli *cli, const Semanticache__V1__Document *document,
                            struct sc_err *err)
{
    if (sc_arg(cli->args, SC_OPT_JSON)->set)
        return sc_json_print(stdout, sc_json_message(&document->base), err);
    sc_document_print(stdout, cli->out_colors, document, sc_document_now_us());
    return SC_OK;
}

static enum sc_status show(const struct sc_cli *cli, struct sc_rpc *rpc, struct sc_err *err)
{
    Semanticache__V1__GetDocumentRequest request;
    ProtobufCMessage *reply = NULL;
    semanticache__v1__get_document_request__init(&request);
    request.document_id = (char *)(uintptr_t)cli->args->words[1];
    enum sc_status st = sc_rpc_unary(rpc, SERVICE, "GetDocument", &request.base, &reply, err);
    if (st == SC_OK)
        st = print(cli, (const Semanticache__V1__Document *)reply, err);
    protobuf_c_message_free_unpacked(reply, NULL);
    return st;
}

static enum sc_status pin(const struct sc_cli *cli, struct sc_rpc *rpc, bool on, struct sc_err *err)
{
    Semanticache__V1__PinDocumentRequest request;
    ProtobufCMessage *reply = NULL;
    semanticache__v1__pin_document_request__init(&request);
    request.document_id = (char *)(uintptr_t)cli->args->words[1];
    if (on)
        SC_PB_SET(&request, ttl_seconds, sc_arg(cli->args, SC_OPT_TTL)->u);
    enum sc_status st = sc_rpc_unary(rpc, SERVICE, "PinDocument", &request.base, &reply, err);
    if (st == SC_OK)
        st = print(cli, (const Semanticache__V1__Document *)reply, err);
    protobuf_c_message_free_unpacked(reply, NULL);
    return st;
}

static enum sc_status delete_one(struct sc_rpc *rpc, const char *id, struct sc_err *err)
{
    Semanticache__V1__DeleteDocumentRequest request;
    ProtobufCMessage *reply = NULL;
    semanticache__v1__delete_document_request__init(&request);
    request.document_id = (char *)(uintptr_t)id;
    enum sc_status st = sc_rpc_unary(rpc, SERVICE, "DeleteDocument", &request.base, &reply, err);
    protobuf_c_message_free_unpacked(reply, NULL);
    return st;
}

/* An id that fails does not stop the others. */
static enum sc_status rm(const struct sc_cli *cli, struct sc_rpc *rpc, struct sc_err *err)
{
    const bool json = sc_arg(cli->args, SC_OPT_JSON)->set;
    const uint32_t n_ids = cli->args->n_words - 1;
    json_t *deleted = json_array();
    uint32_t n_failed = 0;
    enum sc_status st = SC_OK;
    for (uint32_t i = 1; i <= n_ids && st != SC_ECANCELED; i++) {
        const char *id = cli->args->words[i];
        struct sc_err one = SC_ERR_INIT;
        st = delete_one(rpc, id, &one);
        if (st == SC_OK) {
            (void)json_array_append_new(deleted, json_string(id));
            if (!json)
                (void)printf("%s deleted\n", id);
            continue;
        }
        n_failed++;
        if (st == SC_ECANCELED || n_ids == 1)
            *err = one;
        else
            (void)fprintf(stderr, "semcache: %s: %s\n", id, one.text);
    }
    json_t *object = json ? json_object() : NULL;
    if (object != NULL && json_object_set(object, "deleted", deleted) != 0) {
        json_decref(object);
        object = NULL;
    }
    json_decref(deleted);
    enum sc_status st_print = json ? sc_json_print(stdout, object, err) : SC_OK;
    if (st == SC_ECANCELED)
        return st;
    if (n_failed > 0)
        return sc_fail(err, SC_EPEER, "%u of %u documents were not deleted", n_failed, n_ids);
    return st_print;
}

enum sc_exit sc_cmd_documents(struct sc_cli *cli, struct sc_err *err)
{
    struct sc_rpc *rpc = NULL;
    enum action action = ACTION_LIST;
    if (parse_action(cli->args, &action, err) != SC_OK)
        return SC_EXIT_USAGE;
    if (sc_cli_connect(cli, &rpc, err) != SC_OK)
        return SC_EXIT_USAGE;
    enum sc_status st = SC_OK;
    switch (action) {
    case ACTION_SHOW:
        st = show(cli, rpc, err);
        break;
    case ACTION_PIN:
    case ACTION_UNPIN:
        st = pin(cli, rpc, action == ACTION_PIN, err);
        break;
    case ACTION_RM:
        st = rm(cli, rpc, err);
        break;
    case ACTION_LIST:
    case N_ACTIONS:
        st = list(cli, rpc, err);
        break;
    }
    sc_rpc_close(rpc);
    return sc_cli_exit(st);
}
