/* The command ingest: puts files on the server, one after the other. */
#include "client/cli.h"
#include "client/documents.h"
#include "client/json_out.h"
#include "client/request.h"
#include "proto/optional.h"

#include <stdio.h>
#include <string.h>

#define FILE_ARENA_BYTES ((size_t)2 * SC_INPUT_BYTES_MAX)

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (strcmp(path, "-") == 0)
        return ""; /* the server makes one up */
    return slash != NULL ? slash + 1 : path;
}

/* The part of the header that all files share. */
static enum sc_status make_header(struct sc_cli *cli, Semanticache__V1__DocumentHeader *header,
                                  Semanticache__V1__KvOptions *kv, struct sc_err *err)
{
    const struct sc_arg_value *id = sc_arg(cli->args, SC_OPT_ID);
    const struct sc_arg_value *title = sc_arg(cli->args, SC_OPT_TITLE);
    const struct sc_arg_value *pin = sc_arg(cli->args, SC_OPT_PIN);
    bool any_kv = false;
    if (cli->args->n_words > 1 && (id->set || title->set))
        return sc_fail(err, SC_EINVAL, "ingest: --%s names one document, there are %u files",
                       id->set ? "id" : "title", cli->args->n_words);
    semanticache__v1__document_header__init(header);
    semanticache__v1__kv_options__init(kv);
    enum sc_status st = sc_request_kv(&cli->arena, cli->args, kv, &any_kv, err);
    if (st == SC_OK && title->set)
        st = sc_prompt_check("--title", title->text, strlen(title->text), err);
    if (st == SC_OK && id->set)
        st = sc_prompt_check("--id", id->text, strlen(id->text), err);
    if (st != SC_OK)
        return st;
    if (any_kv)
        header->kv = kv;
    if (title->set)
        header->title = (char *)(uintptr_t)title->text;
    if (sc_arg(cli->args, SC_OPT_REPLACE)->set)
        SC_PB_SET(header, replace, true);
    if (pin->set)
        SC_PB_SET(header, pin_ttl_seconds, pin->u);
    return SC_OK;
}

static enum sc_status print(const struct sc_cli *cli, const Semanticache__V1__Document *document,
                            struct sc_err *err)
{
    char summary[SC_DOCUMENT_SUMMARY_BYTES];
    if (sc_arg(cli->args, SC_OPT_JSON)->set)
        return sc_json_print(stdout, sc_json_message(&document->base), err);
    if (sc_arg(cli->args, SC_OPT_QUIET)->set) {
        (void)printf("%s\n", document->document_id);
    } else {
        sc_document_summary(document, summary);
        (void)printf("%s: %s\n", document->document_id, summary);
    }
    return fflush(stdout) == 0 ? SC_OK : sc_fail(err, SC_EIO, "output: cannot be written");
}

static enum sc_status ingest_file(struct sc_cli *cli, struct sc_rpc *rpc, const char *path,
                                  Semanticache__V1__DocumentHeader *header, struct sc_err *err)
{
    const struct sc_arg_value *id = sc_arg(cli->args, SC_OPT_ID);
    struct sc_progress progress = {
        .file = stderr, .terminal = cli->err_terminal && !sc_arg(cli->args, SC_OPT_QUIET)->set};
    struct sc_document_put put = {.name = strcmp(path, "-") == 0 ? "stdin" : base_name(path),
                                  .header = header,
                                  .progress = &progress};
    Semanticache__V1__Document *document = NULL;
    struct sc_arena arena; /* of this file, so that any number of files can follow each other */
    sc_arena_init(&arena, FILE_ARENA_BYTES);
    enum sc_status st = sc_prompt_read(&arena, path, &put.text, err);
    header->document_id = (char *)(uintptr_t)(id->set ? id->text : base_name(path));
    if (st == SC_OK && !id->set)
        st = sc_prompt_check("the file's name", header->document_id, strlen(header->document_id),
                             err);
    /* As ask --document does, so that the answers are the same. */
    while (put.text.len > 0 && put.text.bytes[put.text.len - 1] == '\n')
        put.text.len--;
    if (st == SC_OK)
        st = sc_document_put(rpc, &put, &document, err);
    if (st == SC_OK) {
        st = print(cli, document, err);
        semanticache__v1__document__free_unpacked(document, NULL);
    }
    sc_arena_fini(&arena);
    return st;
}

enum sc_exit sc_cmd_ingest(struct sc_cli *cli, struct sc_err *err)
{
    Semanticache__V1__DocumentHeader header;
    Semanticache__V1__KvOptions kv;
    struct sc_rpc *rpc = NULL;
    const uint32_t n_files = cli->args->n_words;
    uint32_t n_failed = 0;
    if (make_header(cli, &header, &kv, err) != SC_OK)
        return SC_EXIT_USAGE;
    if (sc_cli_connect(cli, &rpc, err) != SC_OK)
        return SC_EXIT_USAGE;
    enum sc_exit status = SC_EXIT_OK;
    for (uint32_t i = 0; i < n_files && status == SC_EXIT_OK; i++) {
        struct sc_err file_err = SC_ERR_INIT;
        enum sc_status st = ingest_file(cli, rpc, cli->args->words[i], &header, &file_err);
        if (st == SC_OK)
            continue;
        n_failed++;
        if (st == SC_ECANCELED) {
            (void)sc_fail(err, st, "interrupted at %.128s", cli->args->words[i]);
            status = SC_EXIT_INTERRUPTED;
        } else if (n_files == 1) {
            *err = file_err;
        } else {
            (void)fprintf(stderr, "semcache: %s: %s\n", cli->args->words[i], file_err.text);
        }
    }
    sc_rpc_close(rpc);
    if (status != SC_EXIT_OK || n_failed == 0)
        return status;
    (void)sc_fail(err, SC_EPEER, "%u of %u files failed", n_failed, n_files);
    return SC_EXIT_FAILED;
}
