#include "daemon/services.h"

#include <string.h>

#include "daemon/clock.h"
#include "daemon/convert.h"
#include "daemon/generation.h"
#include "daemon/reply.h"
#include "proto/optional.h"

static void generate(struct sc_rpc *rpc, const ProtobufCMessage *message,
                     enum sc_generation_kind kind)
{
    const Semanticache__V1__GenerateRequest *request =
        (const Semanticache__V1__GenerateRequest *)message;
    struct sc_app *app = sc_rpc_app(rpc);
    struct sc_convert convert = sc_app_convert(app, sc_rpc_identity(rpc));
    struct sc_err err = SC_ERR_INIT;
    struct sc_params params;
    struct sc_generation_opts opts = {
        .kind = kind,
        .request_id = request->request_id,
        .progress = SC_PB_GET(request, prompt_progress, true),
        .params = &params,
        .start_us = sc_now_us(),
    };
    enum sc_status st = sc_convert_generate(&convert, request, &params, &err);

    if (st != SC_OK) {
        sc_rpc_fail(rpc, st, err.text);
        return;
    }
    sc_generation_start(app, rpc, &opts);
    sc_params_fini(&params);
}

static void generate_unary(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    generate(rpc, message, SC_GENERATE_UNARY);
}

static void generate_stream(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    generate(rpc, message, SC_GENERATE_STREAM);
}

static void tokenize(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const Semanticache__V1__TokenizeRequest *request =
        (const Semanticache__V1__TokenizeRequest *)message;
    Semanticache__V1__TokenizeResponse m = SEMANTICACHE__V1__TOKENIZE_RESPONSE__INIT;
    struct sc_app *app = sc_rpc_app(rpc);
    struct sc_convert convert = sc_app_convert(app, sc_rpc_identity(rpc));
    struct sc_err err = SC_ERR_INIT;
    struct sc_ids ids = {0};
    struct sc_arena arena;
    enum sc_status st;

    sc_arena_init(&arena, SIZE_MAX);
    st = sc_convert_text(&convert, "text", &request->text,
                         SC_PB_GET(request, add_special_tokens, true),
                         SC_PB_GET(request, parse_special_tokens, true), &ids, &err);
    if (st == SC_OK && SC_PB_GET(request, return_pieces, false) && ids.n > SC_PIECES_MAX)
        st = sc_fail(&err, SC_EINVAL, "return_pieces: %zu tokens, limit %u", ids.n, SC_PIECES_MAX);
    if (st == SC_OK && SC_PB_GET(request, return_pieces, false)) {
        m.pieces = sc_arena_take(&arena, ids.n * sizeof(*m.pieces));
        if (m.pieces == NULL)
            st = sc_fail(&err, SC_ENOMEM, "no memory for %zu pieces", ids.n);
        for (size_t i = 0; st == SC_OK && i < ids.n; i++)
            m.pieces[m.n_pieces++] = sc_reply_token_text(app->model->tok, ids.ids[i]);
    }
    m.n_token_ids = ids.n;
    m.token_ids = ids.ids;
    m.max_context = app->engine_info.max_context;
    if (st == SC_OK)
        sc_rpc_reply(rpc, &m.base);
    else
        sc_rpc_fail(rpc, st, err.text);
    sc_arena_fini(&arena);
    sc_ids_fini(&ids);
}

static void detokenize(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const Semanticache__V1__DetokenizeRequest *request =
        (const Semanticache__V1__DetokenizeRequest *)message;
    Semanticache__V1__DetokenizeResponse m = SEMANTICACHE__V1__DETOKENIZE_RESPONSE__INIT;
    const struct sc_model *model = sc_rpc_app(rpc)->model;
    struct sc_err err = SC_ERR_INIT;
    struct sc_text text = {0};
    enum sc_status st = SC_OK;

    if (request->n_token_ids > SC_DETOKENIZE_IDS_MAX)
        st = sc_fail(&err, SC_EINVAL, "token_ids: %zu ids, limit %u", request->n_token_ids,
                     SC_DETOKENIZE_IDS_MAX);
    for (size_t i = 0; st == SC_OK && i < request->n_token_ids; i++) {
        int32_t id = request->token_ids[i];
        if (id < 0 || (uint32_t)id >= model->config.vocab)
            st = sc_fail(&err, SC_EINVAL, "token_ids: token id %d, limits 0..%u", id,
                         model->config.vocab - 1);
    }
    if (st == SC_OK)
        st = sc_tokenizer_decode(model->tok, request->token_ids, request->n_token_ids,
                                 SC_PB_GET(request, skip_special_tokens, true), &text, &err);
    m.text = sc_reply_bytes(text.bytes, text.len);
    if (st == SC_OK)
        sc_rpc_reply(rpc, &m.base);
    else
        sc_rpc_fail(rpc, st, err.text);
    sc_text_fini(&text);
}

static void abort_request(struct sc_rpc *rpc, const ProtobufCMessage *message)
{
    const Semanticache__V1__AbortRequest *request = (const Semanticache__V1__AbortRequest *)message;
    Semanticache__V1__AbortResponse m = SEMANTICACHE__V1__ABORT_RESPONSE__INIT;
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = sc_convert_request_id(request->request_id, &err);

    if (st == SC_OK && request->request_id[0] == '\0')
        st = sc_fail(&err, SC_EINVAL, "request_id: empty");
    if (st == SC_OK &&
        sc_generation_abort(sc_rpc_app(rpc), sc_rpc_identity(rpc)->ns, request->request_id,
                            SC_ECANCELED, "aborted by its id") == 0)
        st = sc_fail(&err, SC_ENOENT, "request_id: no request \"%s\" runs", request->request_id);
    if (st == SC_OK)
        sc_rpc_reply(rpc, &m.base);
    else
        sc_rpc_fail(rpc, st, err.text);
}

static const struct sc_service_method methods[] = {
    {.name = "Generate", .handler = generate_unary, .work = true},
    {.name = "GenerateStream", .handler = generate_stream, .work = true},
    {.name = "Tokenize", .handler = tokenize},
    {.name = "Detokenize", .handler = detokenize},
    {.name = "Abort", .handler = abort_request},
    {.name = "Score", .missing = "log-probabilities of prompts are not computed yet"},
};

const struct sc_service sc_service_inference = {
    &semanticache__v1__inference__descriptor,
    methods,
    SC_ARRAY_LEN(methods),
};
