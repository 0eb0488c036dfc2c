/* The command `bench documents`: documents are put once and asked about many times. */
#include "client/bench_documents.h"

#include "client/bench_input.h"
#include "client/bench_report.h"
#include "client/bench_text.h"
#include "client/cli.h"
#include "client/documents.h"
#include "client/json_out.h"
#include "client/request.h"
#include "proto/optional.h"
#include "semanticache/v1/control.pb-c.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CONTROL              (&semanticache__v1__control__descriptor)
#define DOCUMENTS            (&semanticache__v1__documents__descriptor)
#define DEFAULT_DOCUMENTS    8u
#define DEFAULT_DOCUMENT_LEN 4096u
#define DEFAULT_QUESTION_LEN 32u
#define DEFAULT_OUTPUT_LEN   64u
#define COLD_MAX             8u /* prompts that are read from the start, for comparison */
#define ID_BYTES             48

/* Keys of the generator: kinds of text do not repeat each other. */
#define DOCUMENT_KEY UINT64_C(0)
#define COLD_KEY     (UINT64_C(1) << 40)
#define QUESTION_KEY (UINT64_C(2) << 40)
#define ORDER_KEY    (UINT64_C(3) << 40)

struct bench {
    struct sc_cli *cli;
    struct sc_rpc *rpc;
    struct sc_text_maker maker;
    uint64_t seed;
    uint32_t n_documents, n_questions, n_passes, document_len, question_len, n_streams;
    uint64_t output_low, output_high;
    Semanticache__V1__KvOptions kv;
    bool any_kv;

    uint64_t page_bytes; /* on all ranks together */
    uint32_t *put;       /* numbers of the documents that were put */
    uint32_t n_put;
    struct sc_text *texts; /* of the requests of one load run: cold prompts or questions */
    const char **ids;      /* and their documents; NULL: cold */
    uint32_t n_texts;
    struct sc_documents_result result;
};

static uint32_t uint_or(const struct sc_cli *cli, enum sc_opt_id id, uint32_t other)
{
    const struct sc_arg_value *v = sc_arg(cli->args, id);
    return v->set ? (uint32_t)v->u : other;
}

static enum sc_status read_options(struct sc_cli *cli, struct bench *b, struct sc_err *err)
{
    const struct sc_arg_value *output = sc_arg(cli->args, SC_OPT_OUTPUT_LEN);
    *b = (struct bench){.cli = cli, .seed = sc_arg(cli->args, SC_OPT_SEED)->u};
    b->n_documents = uint_or(cli, SC_OPT_DOCUMENTS, DEFAULT_DOCUMENTS);
    b->n_questions = uint_or(cli, SC_OPT_QUESTIONS, b->n_documents);
    b->n_passes = uint_or(cli, SC_OPT_PASSES, 1);
    b->document_len = uint_or(cli, SC_OPT_DOCUMENT_LEN, DEFAULT_DOCUMENT_LEN);
    b->question_len = uint_or(cli, SC_OPT_QUESTION_LEN, DEFAULT_QUESTION_LEN);
    b->n_streams = uint_or(cli, SC_OPT_STREAMS, 1);
    b->output_low = output->set ? output->u : DEFAULT_OUTPUT_LEN;
    b->output_high = output->set ? output->u_high : DEFAULT_OUTPUT_LEN;
    semanticache__v1__kv_options__init(&b->kv);
    return sc_request_kv(&cli->arena, cli->args, &b->kv, &b->any_kv, err);
}

static double now_s(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Ours by their seed: another run with --keep does not count, and the same one is replaced. */
static void document_id(const struct bench *b, uint32_t number, char buffer[ID_BYTES])
{
    (void)snprintf(buffer, ID_BYTES, "bench-%016" PRIx64 "-%u", b->seed, number);
}

static void say(const struct bench *b, const char *what, uint64_t done, uint64_t total)
{
    struct sc_progress progress = {.file = stderr, .terminal = b->cli->err_terminal};
    char text[96];
    (void)snprintf(text, sizeof(text), "%s %" PRIu64 "/%" PRIu64, what, done, total);
    sc_progress_line(&progress, text);
    if (done == total)
        sc_progress_clear(&progress);
}

static enum sc_status ask_page_bytes(struct bench *b, struct sc_err *err)
{
    Semanticache__V1__GetServerInfoRequest request;
    ProtobufCMessage *reply = NULL;
    semanticache__v1__get_server_info_request__init(&request);
    enum sc_status st = sc_rpc_unary(b->rpc, CONTROL, "GetServerInfo", &request.base, &reply, err);
    if (st != SC_OK)
        return st;
    const Semanticache__V1__GetServerInfoResponse *s = (const void *)reply;
    b->page_bytes = s->page_bytes * s->tensor_parallel;
    protobuf_c_message_free_unpacked(reply, NULL);
    return SC_OK;
}

/* Pages that are not free, cached ones included: what the documents take at the most. */
static enum sc_status look_at_pages(struct bench *b, struct sc_err *err)
{
    Semanticache__V1__GetLoadsRequest request;
    ProtobufCMessage *reply = NULL;
    semanticache__v1__get_loads_request__init(&request);
    enum sc_status st = sc_rpc_unary(b->rpc, CONTROL, "GetLoads", &request.base, &reply, err);
    if (st != SC_OK)
        return st;
    const Semanticache__V1__GetLoadsResponse *l = (const void *)reply;
    const uint64_t bytes = (uint64_t)(l->pages_total - l->pages_free) * b->page_bytes;
    if (bytes > b->result.peak_bytes)
        b->result.peak_bytes = bytes;
    protobuf_c_message_free_unpacked(reply, NULL);
    return SC_OK;
}

static enum sc_status put_document(struct bench *b, uint32_t number, struct sc_err *err)
{
    char id[ID_BYTES];
    struct sc_text text = {0};
    Semanticache__V1__DocumentHeader header;
    Semanticache__V1__Document *document = NULL;
    uint32_t n_tokens = 0;
    document_id(b, number, id);
    semanticache__v1__document_header__init(&header);
    header.document_id = id;
    header.kv = b->any_kv ? &b->kv : NULL;
    SC_PB_SET(&header, replace, true);
    enum sc_status st =
        sc_text_make(&b->maker, DOCUMENT_KEY + number, b->document_len, &text, &n_tokens, err);
    if (st != SC_OK)
        return st;
    const struct sc_document_put put = {.name = id, .header = &header, .text = text};
    const double start = now_s();
    st = sc_document_put(b->rpc, &put, &document, err);
    free((char *)(uintptr_t)text.bytes);
    if (st != SC_OK)
        return st;
    struct sc_documents_result *r = &b->result;
    const double seconds = now_s() - start;
    sc_stats_add(&r->ingest, seconds * 1e6);
    r->ingest_s += seconds;
    r->tokens += document->tokens;
    r->generated_tokens += n_tokens;
    if (document->receipt != NULL) {
        r->pages += document->receipt->pages;
        r->exact_entries += document->receipt->exact_entries;
        r->physical_entries += document->receipt->physical_entries;
    }
    semanticache__v1__document__free_unpacked(document, NULL);
    b->put[b->n_put++] = number;
    return SC_OK;
}

static enum sc_status put_all(struct bench *b, struct sc_err *err)
{
    enum sc_status st = SC_OK;
    b->put = calloc(b->n_documents, sizeof(*b->put));
    if (b->put == NULL)
        return sc_fail(err, SC_ENOMEM, "--documents: no memory");
    for (uint32_t i = 0; i < b->n_documents && st == SC_OK; i++) {
        struct sc_err one = SC_ERR_INIT;
        st = put_document(b, i, &one);
        if (st == SC_EPEER) { /* a full server is a result */
            b->result.n_put_failed++;
            (void)sc_fail(&b->result.first_put_error, st, "%s", one.text);
            st = SC_OK;
        } else if (st != SC_OK) {
            return sc_fail(err, st, "%s", one.text);
        }
        st = look_at_pages(b, err);
        say(b, "documents put", i + 1, b->n_documents);
    }
    b->result.n_put = b->n_put;
    b->result.bytes_per_document =
        sc_share((double)(b->result.pages * b->page_bytes), (double)b->n_put);
    if (st == SC_OK && b->n_put == 0)
        st = sc_fail(err, SC_EPEER, "no document could be put: %s", b->result.first_put_error.text);
    return st;
}

static enum sc_status count_resident(struct bench *b, uint32_t *ret_n, struct sc_err *err)
{
    struct sc_document_list list;
    char prefix[ID_BYTES];
    uint32_t n = 0;
    enum sc_status st = sc_document_list_get(b->rpc, &list, err);
    if (st != SC_OK)
        return st;
    (void)snprintf(prefix, sizeof(prefix), "bench-%016" PRIx64 "-", b->seed);
    for (size_t p = 0; p < list.n_pages; p++) {
        for (size_t i = 0; i < list.pages[p]->n_documents; i++) {
            const Semanticache__V1__Document *d = list.pages[p]->documents[i];
            n += strncmp(d->document_id, prefix, strlen(prefix)) == 0 &&
                 d->state == SEMANTICACHE__V1__DOCUMENT_STATE__DOCUMENT_STATE_READY;
        }
    }
    sc_document_list_fini(&list);
    *ret_n = n;
    return SC_OK;
}

/* Request number index: a question with its document, or a cold prompt. */
static enum sc_status make(void *ctx, uint64_t index, struct sc_load_request *request,
                           struct sc_err *err)
{
    struct bench *b = ctx;
    struct sc_rand rand = sc_rand_init(~b->seed, index);
    const struct sc_text *text = &b->texts[index];
    const ProtobufCBinaryData bytes = {text->len, (uint8_t *)(uintptr_t)text->bytes};
    (void)err;
    if (b->ids[index] != NULL) {
        request->documents.document_ids = (char **)(uintptr_t)&b->ids[index];
        request->documents.n_document_ids = 1;
        request->documents.question = bytes;
        request->wire.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_DOCUMENTS;
        request->wire.documents = &request->documents;
    } else {
        request->wire.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_TEXT;
        request->wire.text = bytes;
        SC_PB_SET(&request->wire, parse_special_tokens, false);
    }
    request->wire.kv = b->any_kv ? &b->kv : NULL;
    SC_PB_SET(&request->sampling, max_tokens,
              (uint32_t)sc_rand_between(&rand, b->output_low, b->output_high));
    SC_PB_SET(&request->sampling, ignore_eos, true);
    SC_PB_SET(&request->sampling, temperature, 0.0f);
    return SC_OK;
}

static void texts_fini(struct bench *b)
{
    for (uint32_t i = 0; i < b->n_texts; i++) {
        free((char *)(uintptr_t)b->texts[i].bytes);
        free((char *)(uintptr_t)b->ids[i]);
    }
    free(b->texts);
    free(b->ids);
    b->texts = NULL;
    b->ids = NULL;
    b->n_texts = 0;
}

static enum sc_status texts_init(struct bench *b, uint32_t n, struct sc_err *err)
{
    b->texts = calloc(n, sizeof(*b->texts));
    b->ids = calloc(n, sizeof(*b->ids));
    b->n_texts = b->texts != NULL && b->ids != NULL ? n : 0;
    return b->n_texts == n ? SC_OK : sc_fail(err, SC_ENOMEM, "%u texts: no memory", n);
}

/* Documents that nobody has seen, each with a question, as plain prompts. */
static enum sc_status run_cold(struct bench *b, struct sc_err *err)
{
    const uint32_t n = b->n_documents < COLD_MAX ? b->n_documents : COLD_MAX;
    enum sc_status st = texts_init(b, n, err);
    for (uint32_t i = 0; i < n && st == SC_OK; i++)
        st = sc_text_make(&b->maker, COLD_KEY + i, b->document_len + b->question_len, &b->texts[i],
                          NULL, err);
    const struct sc_load_opts opts = {.n_streams = 1, .n_requests = n};
    if (st == SC_OK)
        st = sc_load_run(b->rpc, &opts, make, b, &b->result.cold, err);
    texts_fini(b);
    say(b, "cold prompts read", n, n);
    return st;
}

/* The questions of a pass: round robin over the documents in an order of the pass's own. */
static enum sc_status make_questions(struct bench *b, uint32_t pass, struct sc_err *err)
{
    struct sc_rand rand = sc_rand_init(b->seed, ORDER_KEY + pass);
    uint32_t *order = calloc(b->n_put, sizeof(*order));
    enum sc_status st = order != NULL ? texts_init(b, b->n_questions, err)
                                      : sc_fail(err, SC_ENOMEM, "questions: no memory");
    if (st == SC_OK)
        sc_rand_order(&rand, order, b->n_put);
    for (uint32_t i = 0; i < b->n_questions && st == SC_OK; i++) {
        char id[ID_BYTES];
        document_id(b, b->put[order[i % b->n_put]], id);
        b->ids[i] = strdup(id);
        st = b->ids[i] != NULL
                 ? sc_text_make(&b->maker, QUESTION_KEY + (uint64_t)pass * b->n_questions + i,
                                b->question_len, &b->texts[i], NULL, err)
                 : sc_fail(err, SC_ENOMEM, "questions: no memory");
    }
    free(order);
    return st;
}

static enum sc_status run_pass(struct bench *b, uint32_t pass, struct sc_err *err)
{
    struct sc_load_result result = {0};
    const struct sc_load_opts opts = {.n_streams = b->n_streams, .n_requests = b->n_questions};
    enum sc_status st = make_questions(b, pass, err);
    if (st == SC_OK) {
        st = sc_load_run(b->rpc, &opts, make, b, &result, err);
        sc_load_result_add(&b->result.warm, &result);
        sc_load_result_fini(&result);
    }
    texts_fini(b);
    if (st == SC_OK)
        st = look_at_pages(b, err);
    say(b, "passes", pass + 1, b->n_passes);
    return st;
}

/* Also after a failure or a signal: what we put, we take away. */
static void delete_all(struct bench *b)
{
    for (uint32_t i = 0; i < b->n_put; i++) {
        char id[ID_BYTES];
        Semanticache__V1__DeleteDocumentRequest request;
        ProtobufCMessage *reply = NULL;
        struct sc_err err = SC_ERR_INIT;
        document_id(b, b->put[i], id);
        semanticache__v1__delete_document_request__init(&request);
        request.document_id = id;
        if (sc_rpc_unary(b->rpc, DOCUMENTS, "DeleteDocument", &request.base, &reply, &err) != SC_OK)
            (void)fprintf(stderr, "semcache: %s is left behind: %s\n", id, err.text);
        protobuf_c_message_free_unpacked(reply, NULL);
    }
}

static json_t *config_json(const struct bench *b)
{
    return json_pack(
        "{s:i, s:i, s:i, s:i, s:i, s:[I,I], s:i, s:o, s:o}", "documents", (int)b->n_documents,
        "questions", (int)b->n_questions, "passes", (int)b->n_passes, "document_len",
        (int)b->document_len, "question_len", (int)b->question_len, "output_len",
        (json_int_t)b->output_low, (json_int_t)b->output_high, "streams", (int)b->n_streams, "seed",
        sc_json_u64(b->seed), "kv", b->any_kv ? sc_json_message(&b->kv.base) : json_null());
}

static enum sc_status report(struct bench *b, struct sc_err *err)
{
    if (!sc_arg(b->cli->args, SC_OPT_JSON)->set) {
        sc_documents_print(stdout, &b->result);
        return fflush(stdout) == 0 ? SC_OK : sc_fail(err, SC_EIO, "output: cannot be written");
    }
    json_t *object = sc_documents_json(&b->result);
    if (object != NULL && json_object_set_new(object, "config", config_json(b)) != 0) {
        json_decref(object);
        object = NULL;
    }
    return sc_json_print(stdout, object, err);
}

static enum sc_status measure(struct bench *b, struct sc_err *err)
{
    /* Cold first: later, its prompts would push documents out. */
    enum sc_status st = ask_page_bytes(b, err);
    if (st == SC_OK)
        st = run_cold(b, err);
    if (st == SC_OK)
        st = put_all(b, err);
    if (st == SC_OK)
        st = count_resident(b, &b->result.n_resident_first, err);
    for (uint32_t pass = 0; pass < b->n_passes && st == SC_OK; pass++)
        st = run_pass(b, pass, err);
    if (st == SC_OK)
        st = count_resident(b, &b->result.n_resident_last, err);
    if (st == SC_OK)
        st = report(b, err);
    if (st == SC_OK)
        st = sc_documents_check(&b->result, err);
    return st;
}

enum sc_exit sc_cmd_bench_documents(struct sc_cli *cli, struct sc_err *err)
{
    struct bench b;
    if (read_options(cli, &b, err) != SC_OK)
        return SC_EXIT_USAGE;
    if (sc_cli_connect(cli, &b.rpc, err) != SC_OK)
        return SC_EXIT_USAGE;
    sc_text_maker_init(&b.maker, b.rpc, b.seed);
    enum sc_status st = measure(&b, err);
    if (!sc_arg(cli->args, SC_OPT_KEEP)->set)
        delete_all(&b);
    sc_documents_result_fini(&b.result);
    free(b.put);
    sc_rpc_close(b.rpc);
    return sc_cli_exit(st);
}
