#include "scheduler/request.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/unicode.h"

#define REQUEST_ARENA_BYTES ((size_t)32 << 10)

static_assert(SC_STOP_STRINGS_MAX * (SC_STOP_STRING_BYTES_MAX + 1 + sizeof(struct sc_stop_string)) +
                      SC_STOP_IDS_MAX * sizeof(int32_t) <
                  REQUEST_ARENA_BYTES,
              "the arena holds the longest stop lists");
static_assert(SC_STOP_IDS_MAX + SC_EOS_MAX <= SC_BANNED_MAX, "all stop ids can be banned");

static uint64_t monotonic_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

uint64_t sc_request_clock(const struct sc_request_limits *limits)
{
    return limits->clock != NULL ? limits->clock(limits->clock_ctx) : monotonic_us();
}

static enum sc_status check_lengths(const struct sc_request_limits *limits,
                                    const struct sc_request_opts *opts, struct sc_err *err)
{
    uint32_t context = limits->context, vocab = limits->model->config.vocab;
    if (opts->on_event == NULL)
        return sc_fail(err, SC_EINVAL, "a request needs a function for its events");
    if (opts->n_prompt == 0 || opts->prompt == NULL)
        return sc_fail(err, SC_EINVAL, "the prompt is empty");
    uint64_t max_tokens = opts->prefill_only ? 0 : opts->max_tokens;
    if (opts->n_prompt > context || max_tokens > context - opts->n_prompt)
        return sc_fail(
            err, SC_ERANGE,
            "prompt of %u tokens and max_tokens %u: together more than the context of %u",
            opts->n_prompt, (unsigned)max_tokens, context);
    if (opts->n_prompt == context && !opts->prefill_only)
        return sc_fail(err, SC_ERANGE,
                       "prompt of %u tokens leaves no room for output in the context of %u",
                       opts->n_prompt, context);
    if (max_tokens > 0 && opts->min_tokens > max_tokens)
        return sc_fail(err, SC_EINVAL, "min_tokens: %u, more than max_tokens %u", opts->min_tokens,
                       (unsigned)max_tokens);
    for (uint32_t i = 0; i < opts->n_prompt; i++)
        if (opts->prompt[i] < 0 || (uint32_t)opts->prompt[i] >= vocab)
            return sc_fail(err, SC_EINVAL, "prompt token %u: id %d, vocabulary %u", i,
                           opts->prompt[i], vocab);
    return SC_OK;
}

static enum sc_status copy_stop_strings(struct sc_request *r, const struct sc_request_opts *opts,
                                        struct sc_err *err)
{
    uint32_t n = opts->n_stop_strings;
    if (n > SC_STOP_STRINGS_MAX)
        return sc_fail(err, SC_EINVAL, "stop strings: %u, limit %u", n, SC_STOP_STRINGS_MAX);
    r->stops = sc_arena_take(&r->arena, n * sizeof(*r->stops));
    if (r->stops == NULL)
        return sc_fail(err, SC_ENOMEM, "%u stop strings", n);
    for (uint32_t i = 0; i < n; i++) {
        const char *text = opts->stop_strings[i];
        size_t len = strnlen(text, SC_STOP_STRING_BYTES_MAX + 1);
        if (len == 0 || len > SC_STOP_STRING_BYTES_MAX)
            return sc_fail(err, SC_EINVAL, "stop string %u: %s, limits 1..%u bytes", i,
                           len == 0 ? "empty" : "too long", SC_STOP_STRING_BYTES_MAX);
        if (sc_utf8_valid_bytes(text, len) != len)
            return sc_fail(err, SC_EINVAL, "stop string %u: not valid UTF-8", i);
        r->stops[i].text = sc_arena_copy(&r->arena, text, len);
        r->stops[i].len = (uint32_t)len;
        if (r->stops[i].text == NULL)
            return sc_fail(err, SC_ENOMEM, "stop string %u", i);
    }
    r->n_stops = n;
    return SC_OK;
}

static enum sc_status copy_stop_ids(struct sc_request *r, const struct sc_request_opts *opts,
                                    struct sc_err *err)
{
    uint32_t n = opts->n_stop_ids;
    if (n > SC_STOP_IDS_MAX)
        return sc_fail(err, SC_EINVAL, "stop ids: %u, limit %u", n, SC_STOP_IDS_MAX);
    r->stop_ids = sc_arena_take(&r->arena, n * sizeof(*r->stop_ids));
    if (r->stop_ids == NULL)
        return sc_fail(err, SC_ENOMEM, "%u stop ids", n);
    for (uint32_t i = 0; i < n; i++) {
        if (opts->stop_ids[i] < 0 || (uint32_t)opts->stop_ids[i] >= r->config->vocab)
            return sc_fail(err, SC_EINVAL, "stop id %u: %d, vocabulary %u", i, opts->stop_ids[i],
                           r->config->vocab);
        r->stop_ids[i] = opts->stop_ids[i];
    }
    r->n_stop_ids = n;
    return SC_OK;
}

/* AUTO compresses where it pays and can be done: without a calibration it stays exact, and the
 * receipt says so. A request that insists on COMPRESSED is refused then. */
static enum sc_status choose_recipe(struct sc_request *r, const struct sc_request_limits *limits,
                                    const struct sc_request_opts *opts, struct sc_err *err)
{
    bool compressed = opts->kv == SC_KV_CHOICE_COMPRESSED;
    if ((unsigned)opts->kv > SC_KV_CHOICE_COMPRESSED)
        return sc_fail(err, SC_EINVAL, "kv choice: %u, limit %u", (unsigned)opts->kv,
                       (unsigned)SC_KV_CHOICE_COMPRESSED);
    if (compressed && !limits->calibrated)
        return sc_fail(err, SC_ENOTSUP,
                       "compressed KV cache: the model has no calibration; ask for exact or auto, "
                       "or calibrate the model");
    if (opts->kv == SC_KV_CHOICE_AUTO)
        compressed = limits->calibrated && opts->n_prompt >= limits->auto_min_tokens;
    if (compressed) {
        if (opts->recipe.mode != SC_KV_COMPRESSED)
            return sc_fail(err, SC_EINVAL, "compressed KV cache: the recipe's mode is exact");
        enum sc_status st = sc_recipe_check(&opts->recipe, err);
        if (st != SC_OK)
            return st;
        r->recipe = opts->recipe;
    } else {
        sc_recipe_default(r->config, SC_KV_EXACT, &r->recipe);
    }
    r->recipe_id = sc_recipe_id(&r->recipe, &limits->recipe_context);
    r->receipt = (struct sc_receipt){.mode = r->recipe.mode, .recipe_id = r->recipe_id};
    return SC_OK;
}

static enum sc_status check_sharing(const struct sc_request_opts *opts,
                                    const struct sc_recipe *recipe, struct sc_err *err)
{
    const char *names[] = {opts->ns, opts->shared_ns};
    for (size_t i = 0; i < SC_ARRAY_LEN(names); i++)
        if (names[i] != NULL && strlen(names[i]) > SC_NAMESPACE_BYTES_MAX)
            return sc_fail(err, SC_EINVAL, "namespace: %zu bytes, limit %u", strlen(names[i]),
                           SC_NAMESPACE_BYTES_MAX);
    if (opts->priority < -SC_PRIORITY_MAX || opts->priority > SC_PRIORITY_MAX)
        return sc_fail(err, SC_EINVAL, "priority: %d, limits %d..%d", opts->priority,
                       -SC_PRIORITY_MAX, SC_PRIORITY_MAX);
    if (opts->breakpoint > opts->n_prompt)
        return sc_fail(err, SC_EINVAL, "breakpoint: %u, the prompt has %u tokens", opts->breakpoint,
                       opts->n_prompt);
    if (opts->retain && !opts->prefill_only)
        return sc_fail(err, SC_EINVAL, "retain: only what is read without an output is retained");
    if (opts->retain && sc_prefix_own_ends(recipe))
        return sc_fail(
            err, SC_EINVAL,
            "kv: a document's entries would depend on its end, and no question find them: "
            "%s",
            recipe->exact_then_compress ? "prefill is exact_then_compress"
                                        : "window is below chunk_max + 2");
    return SC_OK;
}

/* Entries of one namespace, recipe and model hang from one root. What inspects chunks has to see
 * them made, and shares nothing. */
static void choose_roots(struct sc_request *r, const struct sc_request_limits *limits,
                         const struct sc_request_opts *opts)
{
    const struct sc_hash *model = &limits->model->fingerprint;
    struct sc_recipe own_ends = r->recipe;
    (void)snprintf(r->ns, sizeof(r->ns), "%s", opts->ns != NULL ? opts->ns : "");
    for (const char *c = r->ns; *c != '\0'; c++)
        r->ns_bucket = (uint32_t)(sc_mix64(r->ns_bucket ^ (uint8_t)*c) % SC_NS_BUCKETS);
    r->share = limits->sharing && opts->on_chunk == NULL;
    r->root = sc_prefix_root(model, &r->recipe_id, r->ns, &r->recipe, r->n_prompt);
    if (opts->shared_ns != NULL) {
        r->shared_root =
            sc_prefix_root(model, &r->recipe_id, opts->shared_ns, &r->recipe, r->n_prompt);
        r->has_shared_root = true;
    }
    own_ends.window = 0; /* generated tokens are compressed otherwise than a prompt's */
    r->generated_root = sc_prefix_root(model, &r->recipe_id, r->ns, &own_ends, r->n_prompt);
    r->generated_root.offset = r->root.offset;
}

static void find_document(struct sc_request *r, const struct sc_request_opts *opts)
{
    const uint32_t n = opts->document_tokens;
    if (n == 0 || n >= r->n_prompt)
        return;
    struct sc_hash key = sc_prefix_key(&r->root, r->tokens, n);
    if (memcmp(&key, &opts->document_key, sizeof(key)) == 0)
        r->document_end = n;
}

static enum sc_status open_sampler(struct sc_request *r, const struct sc_request_opts *opts,
                                   uint32_t vocab, struct sc_err *err)
{
    int32_t banned[SC_STOP_IDS_MAX + SC_EOS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; !r->ignore_eos && i < r->config->n_eos_ids; i++)
        banned[n++] = r->config->eos_ids[i];
    for (uint32_t i = 0; i < r->n_stop_ids; i++)
        banned[n++] = r->stop_ids[i];
    enum sc_status st =
        sc_sampler_open(&opts->sampling, vocab, banned, n, r->min_tokens, &r->sampler, err);
    if (st == SC_OK)
        sc_sampler_prompt(r->sampler, r->tokens, r->n_prompt);
    return st;
}

static void take_scalars(struct sc_request *r, const struct sc_request_opts *opts, uint32_t context)
{
    uint32_t room = context - opts->n_prompt;
    uint32_t open_ended = room < SC_OPEN_ENDED_RESERVE ? room : SC_OPEN_ENDED_RESERVE;
    r->n_prompt = r->n_tokens = opts->n_prompt;
    r->prefill_only = opts->prefill_only;
    r->max_tokens = opts->prefill_only ? 0 : opts->max_tokens > 0 ? opts->max_tokens : room;
    r->reserve_tokens =
        r->n_prompt + (!opts->prefill_only && opts->max_tokens == 0 ? open_ended : r->max_tokens);
    r->min_tokens = opts->min_tokens;
    r->ignore_eos = opts->ignore_eos;
    r->include_stop_string = opts->include_stop_string;
    r->deadline_us = opts->deadline_us;
    r->on_event = opts->on_event;
    r->ctx = opts->ctx;
    r->on_chunk = opts->on_chunk;
    r->priority = opts->priority;
    r->breakpoint = opts->breakpoint;
    r->retain = opts->retain;
    r->pin_until_us = opts->pin_until_us;
    r->path = r->hit.node = SC_NODE_NONE;
    r->slot = SC_SLOT_NONE;
}

enum sc_status sc_request_open(const struct sc_request_limits *limits,
                               const struct sc_request_opts *opts, struct sc_request **ret_request,
                               struct sc_err *err)
{
    const struct sc_model *model = limits->model;
    enum sc_status st = check_lengths(limits, opts, err);
    if (st != SC_OK)
        return st;
    struct sc_request *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return sc_fail(err, SC_ENOMEM, "a request");
    atomic_init(&r->n_refs, 1);
    atomic_init(&r->canceled, false);
    sc_arena_init(&r->arena, REQUEST_ARENA_BYTES);
    r->config = &model->config;
    take_scalars(r, opts, limits->context);
    r->submit_us = sc_request_clock(limits);
    sc_detok_init(&r->detok, model->tok, opts->skip_special_tokens, true);
    /* Not zeroed: an open-ended request's array reaches to the context's end, and its pages cost
     * nothing until tokens come. */
    size_t n = (size_t)r->n_prompt + r->max_tokens;
    r->tokens = malloc(n * sizeof(*r->tokens));
    if (r->tokens == NULL) {
        st = sc_fail(err, SC_ENOMEM, "a request of %zu tokens", n);
        goto fail;
    }
    memcpy(r->tokens, opts->prompt, r->n_prompt * sizeof(*r->tokens));
    st = copy_stop_strings(r, opts, err);
    if (st == SC_OK)
        st = copy_stop_ids(r, opts, err);
    if (st == SC_OK)
        st = choose_recipe(r, limits, opts, err);
    if (st == SC_OK)
        st = check_sharing(opts, &r->recipe, err);
    if (st != SC_OK)
        goto fail;
    choose_roots(r, limits, opts);
    find_document(r, opts);
    if (!r->prefill_only) {
        uint32_t known = sc_tokenizer_vocab(model->tok), vocab = model->config.vocab;
        st = open_sampler(r, opts, known < vocab ? known : vocab, err);
        if (st != SC_OK)
            goto fail;
    }
    *ret_request = r;
    return SC_OK;

fail:
    sc_request_unref(r);
    return st;
}

void sc_request_unref(struct sc_request *request)
{
    struct sc_request *r = request;
    if (r == NULL || atomic_fetch_sub_explicit(&r->n_refs, 1, memory_order_acq_rel) != 1)
        return;
    sc_sampler_close(r->sampler);
    sc_arena_fini(&r->arena);
    free(r->tokens);
    free(r);
}
