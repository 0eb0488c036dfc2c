#include "daemon/convert.h"
#include "daemon/convert_documents.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/registry.h"
#include "base/utf8.h"
#include "proto/optional.h"

typedef Semanticache__V1__SamplingParams Sampling;

static enum sc_status check_float(const char *name, double value, double min, double max,
                                  struct sc_err *err)
{
    if (value >= min && value <= max) /* false for NaN */
        return SC_OK;
    return sc_fail(err, SC_EINVAL, "sampling.%s: %.9g, limits %.9g..%.9g", name, value, min, max);
}

/* ---- sampling ---- */

void sc_default_sampling(const struct sc_model_config *config, struct sc_sampling *ret_sampling)
{
    *ret_sampling = (struct sc_sampling){
        .temperature = config->default_temperature >= 0 ? config->default_temperature : 1.0f,
        .top_p = config->default_top_p > 0 ? config->default_top_p : 1.0f,
        .top_k = config->default_top_k > 0 ? config->default_top_k : 0,
        .repetition_penalty =
            config->default_repetition_penalty > 0 ? config->default_repetition_penalty : 1.0f,
    };
}

static enum sc_status take_floats(const Sampling *p, struct sc_sampling *s, struct sc_err *err)
{
    enum sc_status st;

    s->temperature = SC_PB_GET(p, temperature, s->temperature);
    s->top_p = SC_PB_GET(p, top_p, s->top_p);
    s->min_p = SC_PB_GET(p, min_p, s->min_p);
    s->repetition_penalty = SC_PB_GET(p, repetition_penalty, s->repetition_penalty);
    s->presence_penalty = SC_PB_GET(p, presence_penalty, s->presence_penalty);
    s->frequency_penalty = SC_PB_GET(p, frequency_penalty, s->frequency_penalty);
    st = check_float("temperature", (double)s->temperature, 0, 100, err);
    if (st == SC_OK && !(s->top_p > 0 && s->top_p <= 1))
        st = sc_fail(err, SC_EINVAL, "sampling.top_p: %.9g, must be above 0 and at most 1",
                     (double)s->top_p);
    if (st == SC_OK)
        st = check_float("min_p", (double)s->min_p, 0, 1, err);
    if (st == SC_OK && !(s->repetition_penalty >= 0.01f && s->repetition_penalty <= 10))
        st = sc_fail(err, SC_EINVAL, "sampling.repetition_penalty: %.9g, limits 0.01..10",
                     (double)s->repetition_penalty);
    if (st == SC_OK)
        st = check_float("presence_penalty", (double)s->presence_penalty, -2, 2, err);
    if (st == SC_OK)
        st = check_float("frequency_penalty", (double)s->frequency_penalty, -2, 2, err);
    return st;
}

static enum sc_status check_id(const char *name, int32_t id, uint32_t vocab, struct sc_err *err)
{
    if (id >= 0 && (uint32_t)id < vocab)
        return SC_OK;
    return sc_fail(err, SC_EINVAL, "%s: token id %d, limits 0..%u", name, id, vocab - 1);
}

static int by_id(const void *a, const void *b)
{
    const struct sc_logit_bias *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static enum sc_status take_bias(const Sampling *p, uint32_t vocab, struct sc_params *params,
                                struct sc_err *err)
{
    enum sc_status st;

    if (p->n_logit_bias > SC_LOGIT_BIAS_MAX)
        return sc_fail(err, SC_EINVAL, "sampling.logit_bias: %zu entries, limit %u",
                       p->n_logit_bias, SC_LOGIT_BIAS_MAX);
    if (p->n_logit_bias == 0)
        return SC_OK;
    params->bias = calloc(p->n_logit_bias, sizeof(*params->bias));
    if (params->bias == NULL)
        return sc_fail(err, SC_ENOMEM, "sampling.logit_bias: no memory");
    for (size_t i = 0; i < p->n_logit_bias; i++) {
        st = check_id("sampling.logit_bias", p->logit_bias[i]->key, vocab, err);
        if (st == SC_OK)
            st = check_float("logit_bias", (double)p->logit_bias[i]->value, -100, 100, err);
        if (st != SC_OK)
            return st;
        params->bias[i] = (struct sc_logit_bias){p->logit_bias[i]->key, p->logit_bias[i]->value};
    }
    /* A map has each key once; the wire can repeat one all the same. */
    qsort(params->bias, p->n_logit_bias, sizeof(*params->bias), by_id);
    for (size_t i = 1; i < p->n_logit_bias; i++) {
        if (params->bias[i].id == params->bias[i - 1].id)
            return sc_fail(err, SC_EINVAL, "sampling.logit_bias: token id %d is given twice",
                           params->bias[i].id);
    }
    params->opts.sampling.bias = params->bias;
    params->opts.sampling.n_bias = (uint32_t)p->n_logit_bias;
    return SC_OK;
}

static enum sc_status take_stops(const Sampling *p, uint32_t vocab, struct sc_params *params,
                                 struct sc_err *err)
{
    if (p->n_stop > SC_STOP_STRINGS_MAX)
        return sc_fail(err, SC_EINVAL, "sampling.stop: %zu strings, limit %u", p->n_stop,
                       SC_STOP_STRINGS_MAX);
    for (size_t i = 0; i < p->n_stop; i++) {
        size_t len = strlen(p->stop[i]);
        if (len < 1 || len > SC_STOP_STRING_BYTES_MAX)
            return sc_fail(err, SC_EINVAL, "sampling.stop: a string of %zu bytes, limits 1..%u",
                           len, SC_STOP_STRING_BYTES_MAX);
        params->stops[i] = p->stop[i];
    }
    params->opts.stop_strings = params->stops;
    params->opts.n_stop_strings = (uint32_t)p->n_stop;

    if (p->n_stop_token_ids > SC_STOP_IDS_MAX)
        return sc_fail(err, SC_EINVAL, "sampling.stop_token_ids: %zu ids, limit %u",
                       p->n_stop_token_ids, SC_STOP_IDS_MAX);
    for (size_t i = 0; i < p->n_stop_token_ids; i++) {
        enum sc_status st = check_id("sampling.stop_token_ids", p->stop_token_ids[i], vocab, err);
        if (st != SC_OK)
            return st;
        params->stop_ids[i] = p->stop_token_ids[i];
    }
    params->opts.stop_ids = params->stop_ids;
    params->opts.n_stop_ids = (uint32_t)p->n_stop_token_ids;
    return SC_OK;
}

static enum sc_status take_counts(const Sampling *p, uint32_t vocab, struct sc_params *params,
                                  struct sc_err *err)
{
    struct sc_request_opts *o = &params->opts;
    struct sc_sampling *s = &o->sampling;
    uint32_t prompt_logprobs = SC_PB_GET(p, prompt_logprobs, 0);

    s->top_k = SC_PB_GET(p, top_k, s->top_k);
    if (s->top_k < -1 || s->top_k > (int32_t)vocab)
        return sc_fail(err, SC_EINVAL, "sampling.top_k: %d, limits -1..%u", s->top_k, vocab);
    s->logprobs = SC_PB_HAS(p, logprobs);
    s->n_logprobs = SC_PB_GET(p, logprobs, 0);
    if (s->n_logprobs > SC_TOP_LOGPROBS_MAX)
        return sc_fail(err, SC_EINVAL, "sampling.logprobs: %u, limit %u", s->n_logprobs,
                       SC_TOP_LOGPROBS_MAX);
    if (prompt_logprobs > SC_TOP_LOGPROBS_MAX)
        return sc_fail(err, SC_EINVAL, "sampling.prompt_logprobs: %u, limit %u", prompt_logprobs,
                       SC_TOP_LOGPROBS_MAX);
    if (SC_PB_HAS(p, prompt_logprobs))
        return sc_fail(
            err, SC_ENOTSUP,
            "sampling.prompt_logprobs: log-probabilities of prompts are not available yet");
    o->min_tokens = SC_PB_GET(p, min_tokens, 0);
    o->max_tokens = SC_PB_GET(p, max_tokens, 0);
    if (SC_PB_HAS(p, max_tokens) && o->max_tokens == 0)
        return sc_fail(err, SC_EINVAL, "sampling.max_tokens: 0, must be at least 1");
    if (o->max_tokens > 0 && o->min_tokens > o->max_tokens)
        return sc_fail(err, SC_EINVAL, "sampling.min_tokens: %u, more than max_tokens, which is %u",
                       o->min_tokens, o->max_tokens);
    params->n_outputs = SC_PB_GET(p, n, 1);
    if (params->n_outputs < 1 || params->n_outputs > SC_OUTPUTS_MAX)
        return sc_fail(err, SC_EINVAL, "sampling.n: %u, limits 1..%u", params->n_outputs,
                       SC_OUTPUTS_MAX);
    return SC_OK;
}

static uint64_t random_seed(void)
{
    uint64_t seed = 0;

    /* 8 bytes never come short, and the seed is no secret: a failure only repeats a seed. */
    (void)!getrandom(&seed, sizeof(seed), 0);
    return seed;
}

enum sc_status sc_convert_sampling(const struct sc_convert *c, const Sampling *sampling,
                                   struct sc_params *params, struct sc_err *err)
{
    static const Sampling none = SEMANTICACHE__V1__SAMPLING_PARAMS__INIT;
    const Sampling *p = sampling != NULL ? sampling : &none;
    uint32_t vocab = c->model->config.vocab;
    struct sc_request_opts *o = &params->opts;
    enum sc_status st;

    sc_default_sampling(&c->model->config, &o->sampling);
    o->ignore_eos = SC_PB_GET(p, ignore_eos, false);
    o->skip_special_tokens = SC_PB_GET(p, skip_special_tokens, true);
    o->include_stop_string = SC_PB_GET(p, include_stop_str_in_output, false);
    st = take_floats(p, &o->sampling, err);
    /* Greedy needs none: 0, so that the same request gets the same answer to the last field. */
    o->sampling.seed = SC_PB_HAS(p, seed)               ? p->seed
                       : o->sampling.temperature > 0.0f ? random_seed()
                                                        : 0;
    if (st == SC_OK)
        st = take_counts(p, vocab, params, err);
    if (st == SC_OK)
        st = take_bias(p, vocab, params, err);
    if (st == SC_OK)
        st = take_stops(p, vocab, params, err);
    return st;
}

/* ---- prompts ---- */

enum sc_status sc_convert_text(const struct sc_convert *c, const char *name,
                               const ProtobufCBinaryData *text, bool add_special,
                               bool parse_special, struct sc_ids *ids, struct sc_err *err)
{
    const struct sc_encode_opts opts = {.add_special_tokens = add_special,
                                        .no_special_parsing = !parse_special};
    size_t valid = sc_utf8_valid_prefix(text->data, text->len);
    enum sc_status st;

    if (valid < text->len)
        return sc_fail(err, SC_EINVAL, "%s: not valid UTF-8 at byte %zu of %zu", name, valid,
                       text->len);
    if (text->len > SC_TOKENIZE_TEXT_BYTES_MAX)
        return sc_fail(err, SC_EINVAL, "%s: %zu bytes, limit %zu", name, text->len,
                       SC_TOKENIZE_TEXT_BYTES_MAX);
    st = sc_tokenizer_encode(c->model->tok, text->len > 0 ? (const char *)text->data : "",
                             text->len, &opts, ids, err);
    return st == SC_OK ? SC_OK : sc_err_prefix(err, st, "%s", name);
}

static enum sc_status take_ids(const struct sc_convert *c, const Semanticache__V1__TokenIds *ids,
                               struct sc_params *params, struct sc_err *err)
{
    if (ids->n_ids == 0)
        return sc_fail(err, SC_EINVAL, "prompt: token_ids is empty");
    for (size_t i = 0; i < ids->n_ids; i++) {
        enum sc_status st = check_id("token_ids", ids->ids[i], c->model->config.vocab, err);
        if (st != SC_OK)
            return st;
    }
    params->prompt.ids = malloc(ids->n_ids * sizeof(*ids->ids));
    if (params->prompt.ids == NULL)
        return sc_fail(err, SC_ENOMEM, "token_ids: no memory for %zu", ids->n_ids);
    memcpy(params->prompt.ids, ids->ids, ids->n_ids * sizeof(*ids->ids));
    params->prompt.n = params->prompt.cap = ids->n_ids;
    return SC_OK;
}

/* ---- messages ---- */

/* Checked as far as it can be, so that what a client gets wrong is told before what we lack. */
static enum sc_status check_messages(const struct sc_convert *c,
                                     const Semanticache__V1__ChatMessages *messages,
                                     struct sc_err *err)
{
    if (messages->n_messages == 0)
        return sc_fail(err, SC_EINVAL, "messages: none");
    if (messages->n_messages > SC_CHAT_MESSAGES_MAX)
        return sc_fail(err, SC_EINVAL, "messages: %zu, limit %u", messages->n_messages,
                       SC_CHAT_MESSAGES_MAX);
    for (size_t i = 0; i < messages->n_messages; i++) {
        const ProtobufCBinaryData *text = &messages->messages[i]->content;
        size_t valid = sc_utf8_valid_prefix(text->data, text->len);
        if (valid < text->len)
            return sc_fail(err, SC_EINVAL,
                           "messages[%zu].content: not valid UTF-8 at byte %zu of %zu", i, valid,
                           text->len);
    }
    if (c->chat == NULL)
        return sc_fail(err, SC_ENOTSUP, "messages: %s; send text or token_ids",
                       c->no_chat != NULL && c->no_chat[0] != '\0' ? c->no_chat
                                                                   : "no chat template");
    return SC_OK;
}

/* The token's text; none, that is length 0, for id -1. */
static enum sc_status token_text(const struct sc_convert *c, int32_t id, struct sc_text *text,
                                 struct sc_err *err)
{
    return id < 0 ? SC_OK : sc_tokenizer_decode(c->model->tok, &id, 1, false, text, err);
}

static enum sc_status render(const struct sc_convert *c,
                             const Semanticache__V1__ChatMessages *messages,
                             struct sc_chat_message *pairs, struct sc_text *ret, struct sc_err *err)
{
    struct sc_text bos = {0}, eos = {0};
    enum sc_status st = token_text(c, sc_tokenizer_bos(c->model->tok), &bos, err);

    if (st == SC_OK)
        st = token_text(c, sc_tokenizer_eos(c->model->tok), &eos, err);
    for (size_t i = 0; i < messages->n_messages; i++) {
        const Semanticache__V1__ChatMessage *m = messages->messages[i];
        pairs[i] = (struct sc_chat_message){
            .role = m->role,
            .role_len = strlen(m->role),
            .content = m->content.len > 0 ? (const char *)m->content.data : "",
            .content_len = m->content.len,
        };
    }
    if (st == SC_OK) {
        const struct sc_chat_request request = {
            .messages = pairs,
            .n_messages = messages->n_messages,
            .add_generation_prompt = SC_PB_GET(messages, add_generation_prompt, true),
            .bos_token = bos.bytes,
            .eos_token = eos.bytes,
        };
        st = sc_chat_template_render(c->chat, &request, ret, err);
    }
    sc_text_fini(&bos);
    sc_text_fini(&eos);
    return st == SC_OK ? SC_OK : sc_err_prefix(err, st, "messages");
}

/* As transformers does it: the template writes the special tokens, the tokenizer adds none. */
static enum sc_status take_messages(const struct sc_convert *c,
                                    const Semanticache__V1__ChatMessages *messages,
                                    struct sc_params *params, struct sc_err *err)
{
    struct sc_text text = {0};
    struct sc_chat_message *pairs = NULL;
    enum sc_status st = check_messages(c, messages, err);

    if (st != SC_OK)
        return st;
    pairs = calloc(messages->n_messages, sizeof(*pairs));
    if (pairs == NULL)
        return sc_fail(err, SC_ENOMEM, "messages: no memory for %zu", messages->n_messages);
    st = render(c, messages, pairs, &text, err);
    if (st == SC_OK) {
        const ProtobufCBinaryData bytes = {.len = text.len, .data = (uint8_t *)text.bytes};
        st = sc_convert_text(c, "messages", &bytes, false, true, &params->prompt, err);
    }
    sc_text_fini(&text);
    free(pairs);
    return st;
}

static enum sc_status finish_prompt(const struct sc_convert *c, struct sc_params *params,
                                    struct sc_err *err)
{
    struct sc_request_opts *o = &params->opts;

    if (params->prompt.n == 0)
        return sc_fail(err, SC_EINVAL, "prompt: no tokens (text is empty)");
    if (params->prompt.n > c->max_context)
        return sc_fail(err, SC_ERANGE, "prompt: %zu tokens, the context holds %u", params->prompt.n,
                       c->max_context);
    if ((uint64_t)params->prompt.n + o->max_tokens > c->max_context)
        return sc_fail(err, SC_ERANGE,
                       "prompt of %zu tokens and sampling.max_tokens %u: the context holds %u",
                       params->prompt.n, o->max_tokens, c->max_context);
    o->prompt = params->prompt.ids;
    o->n_prompt = (uint32_t)params->prompt.n;
    return SC_OK;
}

static enum sc_status take_prompt(const struct sc_convert *c,
                                  const Semanticache__V1__GenerateRequest *request,
                                  struct sc_params *params, struct sc_err *err)
{
    enum sc_status st;

    switch (request->prompt_case) {
    case SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_TEXT:
        st =
            sc_convert_text(c, "text", &request->text, SC_PB_GET(request, add_special_tokens, true),
                            SC_PB_GET(request, parse_special_tokens, true), &params->prompt, err);
        break;
    case SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS:
        st = take_ids(c, request->token_ids, params, err);
        break;
    case SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_MESSAGES:
        st = take_messages(c, request->messages, params, err);
        break;
    case SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_DOCUMENTS:
        st = sc_convert_documents(c, request->documents,
                                  SC_PB_GET(request, parse_special_tokens, false), params, err);
        break;
    default:
        return sc_fail(err, SC_EINVAL,
                       "prompt: none of text, token_ids, messages, documents is set");
    }
    return st == SC_OK ? finish_prompt(c, params, err) : st;
}

enum sc_status sc_convert_request_id(const char *id, struct sc_err *err)
{
    size_t len = strlen(id);

    if (len > SC_REQUEST_ID_MAX)
        return sc_fail(err, SC_EINVAL, "request_id: %zu bytes, limit %u", len, SC_REQUEST_ID_MAX);
    for (size_t i = 0; i < len; i++) {
        if (id[i] < 0x21 || id[i] > 0x7e)
            return sc_fail(err, SC_EINVAL,
                           "request_id: byte 0x%02x at %zu, must be printable ASCII without spaces",
                           (unsigned char)id[i], i);
    }
    return SC_OK;
}

enum sc_kv_choice sc_convert_default_choice(const struct sc_convert *c)
{
    static const enum sc_kv_choice defaults[] = {
        [SC_KV_DEFAULT_AUTO] = SC_KV_CHOICE_AUTO,
        [SC_KV_DEFAULT_EXACT] = SC_KV_CHOICE_EXACT,
        [SC_KV_DEFAULT_COMPRESSED] = SC_KV_CHOICE_COMPRESSED,
    };
    return defaults[c->config->kv_mode];
}

/* What is asked for, or what the first document was put with: only so are its entries found. */
static enum sc_status take_kv(const struct sc_convert *c,
                              const Semanticache__V1__GenerateRequest *request,
                              struct sc_params *params, struct sc_err *err)
{
    bool given =
        request->kv != NULL && request->kv->mode != SEMANTICACHE__V1__KV_MODE__KV_MODE_UNSPECIFIED;

    if (request->prompt_case == SEMANTICACHE__V1__GENERATE_REQUEST__PROMPT_DOCUMENTS && !given &&
        c->documents != NULL && request->documents->n_document_ids > 0)
        return sc_convert_document_kv(c, request->documents->document_ids[0], request->kv,
                                      &params->opts, err);
    return sc_convert_kv(c, request->kv, sc_convert_default_choice(c), &params->opts, err);
}

static void take_identity(const struct sc_convert *c, struct sc_request_opts *opts)
{
    const char *shared = c->config->shared_namespace;

    opts->ns = c->identity != NULL ? c->identity->ns : SC_NAMESPACE_DEFAULT;
    if (shared[0] != '\0' && strcmp(shared, opts->ns) != 0)
        opts->shared_ns = shared;
}

enum sc_status sc_convert_generate(const struct sc_convert *c,
                                   const Semanticache__V1__GenerateRequest *request,
                                   struct sc_params *ret_params, struct sc_err *err)
{
    int32_t priority = SC_PB_GET(request, priority, 0);
    enum sc_status st;

    memset(ret_params, 0, sizeof(*ret_params));
    st = sc_convert_request_id(request->request_id, err);
    if (st == SC_OK)
        st = sc_convert_sampling(c, request->sampling, ret_params, err);
    if (st == SC_OK)
        st = take_kv(c, request, ret_params, err);
    if (st == SC_OK)
        st = take_prompt(c, request, ret_params, err);
    if (st == SC_OK && (priority < -SC_PRIORITY_MAX || priority > SC_PRIORITY_MAX))
        st = sc_fail(err, SC_EINVAL, "priority: %d, limits %d..%d", priority, -SC_PRIORITY_MAX,
                     SC_PRIORITY_MAX);
    ret_params->opts.priority = priority;
    take_identity(c, &ret_params->opts);
    if (st != SC_OK)
        sc_params_fini(ret_params);
    return st;
}

enum sc_status sc_convert_inspect(const struct sc_convert *c,
                                  const Semanticache__V1__InspectCacheRequest *request,
                                  struct sc_params *ret_params, struct sc_err *err)
{
    enum sc_status st;

    memset(ret_params, 0, sizeof(*ret_params));
    st = sc_convert_sampling(c, NULL, ret_params, err);
    if (st == SC_OK)
        st = sc_convert_kv(c, request->kv, SC_KV_CHOICE_COMPRESSED, &ret_params->opts, err);
    if (st == SC_OK && request->prompt_case == SEMANTICACHE__V1__INSPECT_CACHE_REQUEST__PROMPT_TEXT)
        st = sc_convert_text(
            c, "text", &request->text, SC_PB_GET(request, add_special_tokens, true),
            SC_PB_GET(request, parse_special_tokens, true), &ret_params->prompt, err);
    else if (st == SC_OK &&
             request->prompt_case == SEMANTICACHE__V1__INSPECT_CACHE_REQUEST__PROMPT_TOKEN_IDS)
        st = take_ids(c, request->token_ids, ret_params, err);
    else if (st == SC_OK)
        st = sc_fail(err, SC_EINVAL, "prompt: neither text nor token_ids is set");
    if (st == SC_OK)
        st = finish_prompt(c, ret_params, err);
    ret_params->opts.prefill_only = true;
    ret_params->n_outputs = 1;
    take_identity(c, &ret_params->opts);
    if (st != SC_OK)
        sc_params_fini(ret_params);
    return st;
}

void sc_params_fini(struct sc_params *params)
{
    sc_ids_fini(&params->prompt);
    free(params->bias);
    params->bias = NULL;
}
