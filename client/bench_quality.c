/* The command `bench quality`: suites of documents and questions with known answers. */
#include "client/cli.h"
#include "client/generation.h"
#include "client/json_out.h"
#include "client/quality_against.h"
#include "client/quality_suite.h"
#include "client/quality_tally.h"
#include "client/request.h"
#include "proto/optional.h"

#include <stdlib.h>
#include <string.h>

#define CONTROL            (&semanticache__v1__control__descriptor)
#define INFERENCE          (&semanticache__v1__inference__descriptor)
#define DEFAULT_MAX_TOKENS 24
#define ARENA_LIMIT_BYTES  ((size_t)8 * SC_INPUT_BYTES_MAX) /* of one document */
#define GROUPS_MAX         4096u

/* Documents that were taken, for --limit. */
struct group {
    char task[SC_SUITE_NAME_MAX + 1];
    uint32_t length, n;
};

struct bench {
    struct sc_cli *cli;
    struct sc_rpc *rpc;
    struct sc_prompt_format format;
    Semanticache__V1__SamplingParams sampling;
    Semanticache__V1__KvOptions kv, exact_kv;
    bool any_kv, against_exact;
    uint64_t limit; /* documents of a task and length; 0: all */
    struct group *groups;
    uint32_t n_groups;
    uint64_t page_bytes; /* on all ranks together */
    uint32_t n_documents;
    struct sc_quality_tally tally;
};

static enum sc_status read_options(struct sc_cli *cli, struct bench *b, struct sc_err *err)
{
    *b = (struct bench){.cli = cli, .limit = sc_arg(cli->args, SC_OPT_LIMIT)->u};
    b->against_exact = sc_arg(cli->args, SC_OPT_AGAINST_EXACT)->set;
    semanticache__v1__sampling_params__init(&b->sampling);
    semanticache__v1__kv_options__init(&b->kv);
    semanticache__v1__kv_options__init(&b->exact_kv);
    b->exact_kv.mode = SEMANTICACHE__V1__KV_MODE__KV_MODE_EXACT;
    if (!sc_arg(cli->args, SC_OPT_SUITE)->set)
        return sc_fail(err, SC_EINVAL, "bench quality: give at least one --suite");
    SC_PB_SET(&b->sampling, temperature, 0.0f);
    SC_PB_SET(&b->sampling, max_tokens, DEFAULT_MAX_TOKENS);
    if (b->against_exact)
        SC_PB_SET(&b->sampling, logprobs, SC_QUALITY_TOP);
    enum sc_status st = sc_request_format(&cli->arena, cli->args, &b->format, err);
    if (st == SC_OK)
        st = sc_request_sampling(&cli->arena, cli->args, &b->format, &b->sampling, err);
    if (st == SC_OK)
        st = sc_request_kv(&cli->arena, cli->args, &b->kv, &b->any_kv, err);
    b->groups = st == SC_OK && b->limit > 0 ? calloc(GROUPS_MAX, sizeof(*b->groups)) : NULL;
    if (st == SC_OK && b->limit > 0 && b->groups == NULL)
        st = sc_fail(err, SC_ENOMEM, "--limit: no memory");
    return st;
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

/* Whether the document is one of the first of its task and length. */
static bool is_within_limit(struct bench *b, const struct sc_suite_document *d)
{
    uint32_t i = 0;
    if (b->limit == 0)
        return true;
    while (i < b->n_groups &&
           (b->groups[i].length != d->length || strcmp(b->groups[i].task, d->task) != 0))
        i++;
    if (i == b->n_groups) {
        if (b->n_groups == GROUPS_MAX)
            return false;
        b->groups[b->n_groups++].length = d->length;
        (void)snprintf(b->groups[i].task, sizeof(b->groups[i].task), "%s", d->task);
    }
    return b->groups[i].n++ < b->limit;
}

/* On success the caller ends gen. */
static enum sc_status generate(struct bench *b, Semanticache__V1__GenerateRequest *request,
                               struct sc_generation *gen, struct sc_err *err)
{
    enum sc_status st = sc_generation_init(gen, NULL, NULL, err);
    if (st != SC_OK)
        return st;
    SC_PB_SET(request, prompt_progress, false);
    st = sc_generation_run(gen, b->rpc, request, err);
    if (st != SC_OK)
        sc_generation_fini(gen);
    return st;
}

static enum sc_status ask(struct bench *b, const struct sc_text *prompt,
                          Semanticache__V1__KvOptions *kv, struct sc_generation *gen,
                          struct sc_err *err)
{
    Semanticache__V1__GenerateRequest request;
    semanticache__v1__generate_request__init(&request);
    request.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_TEXT;
    request.text.data = (uint8_t *)(uintptr_t)prompt->bytes;
    request.text.len = prompt->len;
    SC_PB_SET(&request, parse_special_tokens, false); /* as ask --document */
    request.sampling = &b->sampling;
    request.kv = kv;
    return generate(b, &request, gen, err);
}

/* ids: the prompt's, and room for the answer's behind them. */
static enum sc_status tokenize(struct bench *b, struct sc_arena *arena,
                               const struct sc_text *prompt, size_t n_answer, int32_t **ret_ids,
                               size_t *ret_n, struct sc_err *err)
{
    Semanticache__V1__TokenizeRequest request;
    ProtobufCMessage *reply = NULL;
    semanticache__v1__tokenize_request__init(&request);
    request.text.data = (uint8_t *)(uintptr_t)prompt->bytes;
    request.text.len = prompt->len;
    SC_PB_SET(&request, parse_special_tokens, false);
    enum sc_status st = sc_rpc_unary(b->rpc, INFERENCE, "Tokenize", &request.base, &reply, err);
    if (st != SC_OK)
        return st;
    const Semanticache__V1__TokenizeResponse *t = (const void *)reply;
    int32_t *ids = sc_arena_take(arena, (t->n_token_ids + n_answer) * sizeof(*ids));
    if (ids != NULL) {
        memcpy(ids, t->token_ids, t->n_token_ids * sizeof(*ids));
        *ret_ids = ids;
        *ret_n = t->n_token_ids;
    } else {
        st = sc_fail(err, SC_ENOMEM, "prompt: no memory");
    }
    protobuf_c_message_free_unpacked(reply, NULL);
    return st;
}

/* Generates behind the first `from` tokens of the exact answer, and compares what comes. */
static enum sc_status compare_behind(struct bench *b, const struct sc_generation *exact,
                                     int32_t *ids, size_t n_ids, size_t from,
                                     struct sc_quality_against *sums, size_t *ret_n,
                                     struct sc_err *err)
{
    Semanticache__V1__GenerateRequest request;
    Semanticache__V1__TokenIds list;
    Semanticache__V1__SamplingParams sampling = b->sampling;
    struct sc_generation gen;
    semanticache__v1__generate_request__init(&request);
    semanticache__v1__token_ids__init(&list);
    list.ids = ids;
    list.n_ids = n_ids + from;
    SC_PB_SET(&sampling, max_tokens, (uint32_t)(json_array_size(exact->token_ids) - from));
    request.prompt_case = SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    request.token_ids = &list;
    request.sampling = &sampling;
    request.kv = b->any_kv ? &b->kv : NULL;
    enum sc_status st = generate(b, &request, &gen, err);
    if (st != SC_OK)
        return st;
    st = sc_quality_compare(exact->logprobs, from, gen.logprobs, sums, ret_n, err);
    sc_generation_fini(&gen);
    return st;
}

/* The tokens of the exact answer are put in front wherever the other cache chose another one. */
static enum sc_status compare(struct bench *b, struct sc_arena *arena, const struct sc_text *prompt,
                              const struct sc_generation *gen, const struct sc_generation *exact,
                              struct sc_quality_against *sums, struct sc_err *err)
{
    const size_t n = json_array_size(exact->token_ids);
    size_t from = 0, n_ids = 0, n_more = 0;
    int32_t *ids = NULL;
    enum sc_status st = sc_quality_compare(exact->logprobs, 0, gen->logprobs, sums, &from, err);
    if (st == SC_OK && from < n)
        st = tokenize(b, arena, prompt, n, &ids, &n_ids, err);
    if (st == SC_OK && from < n && exact->last->final->usage != NULL &&
        n_ids != exact->last->final->usage->prompt_tokens)
        st = sc_fail(err, SC_EFORMAT, "prompt: %zu tokens, %u when it was asked", n_ids,
                     exact->last->final->usage->prompt_tokens);
    for (size_t i = 0; st == SC_OK && from < n && i < n; i++)
        ids[n_ids + i] = (int32_t)json_integer_value(json_array_get(exact->token_ids, i));
    for (; st == SC_OK && from < n; from += n_more)
        st = compare_behind(b, exact, ids, n_ids, from, sums, &n_more, err);
    return st;
}

static uint64_t kv_bytes(const struct bench *b, const struct sc_generation *gen)
{
    const Semanticache__V1__KvReceipt *r = gen->last->final->receipt;
    return r != NULL ? r->pages * b->page_bytes : 0;
}

static enum sc_status judge(struct bench *b, struct sc_arena *arena, const struct sc_text *prompt,
                            struct sc_quality_answer *answer, const struct sc_generation *gen,
                            struct sc_err *err)
{
    struct sc_generation exact = {0};
    enum sc_status st = SC_OK;
    answer->text = gen->text;
    answer->text_len = gen->text_len;
    answer->final = gen->last->final;
    answer->kv_bytes = kv_bytes(b, gen);
    if (b->against_exact) {
        st = ask(b, prompt, &b->exact_kv, &exact, err);
        if (st != SC_OK)
            return st;
        st = compare(b, arena, prompt, gen, &exact, &answer->exact, err);
        answer->exact.text = exact.text != NULL ? exact.text : "";
        answer->exact.text_len = exact.text_len;
        answer->exact.kv_bytes = kv_bytes(b, &exact);
    }
    if (st == SC_OK)
        st = sc_quality_tally_add(&b->tally, answer, err);
    if (b->against_exact)
        sc_generation_fini(&exact);
    return st;
}

static enum sc_status ask_document(struct bench *b, struct sc_arena *arena,
                                   const struct sc_suite_document *d, struct sc_err *err)
{
    enum sc_status st = SC_OK;
    for (uint32_t i = 0; i < d->n_questions && st == SC_OK; i++) {
        struct sc_quality_answer answer = {.document = d, .question = i};
        struct sc_generation gen;
        struct sc_text prompt = {0};
        struct sc_err one = SC_ERR_INIT;
        st = sc_prompt_build(arena, &b->format, &d->text, d->questions[i].text, &prompt, &one);
        if (st == SC_OK)
            st = ask(b, &prompt, b->any_kv ? &b->kv : NULL, &gen, &one);
        if (st == SC_OK) {
            st = judge(b, arena, &prompt, &answer, &gen, &one);
            sc_generation_fini(&gen);
        }
        if (st != SC_OK)
            (void)sc_fail(err, st, "%s, question %u: %s", d->id, i, one.text);
    }
    return st;
}

static enum sc_status run_suite(struct bench *b, const char *path, struct sc_err *err)
{
    struct sc_progress progress = {.file = stderr, .terminal = b->cli->err_terminal};
    struct sc_suite suite;
    bool any = true;
    enum sc_status st = sc_suite_open(path, &suite, err);
    if (st != SC_OK)
        return st;
    while (st == SC_OK && any) {
        struct sc_suite_document d = {0};
        struct sc_arena arena;
        char text[SC_SUITE_NAME_MAX + 64];
        sc_arena_init(&arena, ARENA_LIMIT_BYTES);
        st = sc_suite_next(&suite, &arena, &d, &any, err);
        if (st == SC_OK && any && is_within_limit(b, &d)) {
            (void)snprintf(text, sizeof(text), "document %u: %s", ++b->n_documents, d.id);
            sc_progress_line(&progress, text);
            st = ask_document(b, &arena, &d, err);
        }
        sc_arena_fini(&arena);
    }
    sc_progress_clear(&progress);
    sc_suite_close(&suite);
    return st;
}

static json_t *config_json(const struct bench *b)
{
    const struct sc_arg_value *suites = sc_arg(b->cli->args, SC_OPT_SUITE);
    json_t *list = json_array();
    for (uint32_t i = 0; i < suites->n_items && list != NULL; i++) {
        if (json_array_append_new(list, sc_json_text(suites->texts[i], strlen(suites->texts[i]))) !=
            0) {
            json_decref(list);
            list = NULL;
        }
    }
    return json_pack("{s:o, s:I, s:i, s:o}", "suites", list, "limit", (json_int_t)b->limit,
                     "documents", (int)b->n_documents, "kv",
                     b->any_kv ? sc_json_message(&b->kv.base) : json_null());
}

static enum sc_status report(struct bench *b, struct sc_err *err)
{
    if (!sc_arg(b->cli->args, SC_OPT_JSON)->set) {
        sc_quality_print(stdout, &b->tally);
        return fflush(stdout) == 0 ? SC_OK : sc_fail(err, SC_EIO, "output: cannot be written");
    }
    json_t *object = sc_quality_json(&b->tally);
    if (object != NULL && json_object_set_new(object, "config", config_json(b)) != 0) {
        json_decref(object);
        object = NULL;
    }
    return sc_json_print(stdout, object, err);
}

enum sc_exit sc_cmd_bench_quality(struct sc_cli *cli, struct sc_err *err)
{
    const struct sc_arg_value *suites = sc_arg(cli->args, SC_OPT_SUITE);
    struct bench b;
    enum sc_exit code = SC_EXIT_USAGE;
    enum sc_status st = read_options(cli, &b, err);
    if (st == SC_OK)
        st = sc_quality_tally_init(&b.tally, b.against_exact, err);
    if (st == SC_OK)
        st = sc_cli_connect(cli, &b.rpc, err);
    if (st != SC_OK)
        goto out;
    st = ask_page_bytes(&b, err);
    for (uint32_t i = 0; i < suites->n_items && st == SC_OK; i++)
        st = run_suite(&b, suites->texts[i], err);
    if (st == SC_OK)
        st = report(&b, err);
    /* A suite that cannot be read is an input file, as everywhere. */
    code = st == SC_EFORMAT || st == SC_ENOENT ? SC_EXIT_USAGE : sc_cli_exit(st);
out:
    sc_quality_tally_fini(&b.tally);
    sc_rpc_close(b.rpc);
    free(b.groups);
    return code;
}
