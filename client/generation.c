#include "client/generation.h"

#include "client/json_out.h"

#include <stdlib.h>
#include <string.h>

enum sc_status sc_generation_init(struct sc_generation *gen, struct sc_text_out *stream,
                                  struct sc_progress *progress, struct sc_err *err)
{
    *gen = (struct sc_generation){.stream = stream, .progress = progress};
    gen->token_ids = json_array();
    gen->logprobs = json_array();
    if (gen->token_ids != NULL && gen->logprobs != NULL)
        return SC_OK;
    sc_generation_fini(gen);
    return sc_fail(err, SC_ENOMEM, "generation: no memory");
}

void sc_generation_fini(struct sc_generation *gen)
{
    free(gen->text);
    json_decref(gen->token_ids);
    json_decref(gen->logprobs);
    if (gen->last != NULL)
        protobuf_c_message_free_unpacked(&gen->last->base, NULL);
    *gen = (struct sc_generation){0};
}

static enum sc_status keep_text(struct sc_generation *gen, const char *text, size_t len,
                                struct sc_err *err)
{
    if (len > SC_GENERATION_BYTES_MAX - gen->text_len)
        return sc_fail(err, SC_ERANGE, "answer: more than %u bytes", SC_GENERATION_BYTES_MAX);
    if (gen->text_len + len > gen->text_room) {
        size_t room = (gen->text_len + len) * 2;
        char *more = realloc(gen->text, room);
        if (more == NULL)
            return sc_fail(err, SC_ENOMEM, "answer: no memory");
        gen->text = more;
        gen->text_room = room;
    }
    if (len > 0)
        memcpy(gen->text + gen->text_len, text, len);
    gen->text_len += len;
    return SC_OK;
}

static enum sc_status keep_delta(struct sc_generation *gen, const Semanticache__V1__Delta *delta,
                                 struct sc_err *err)
{
    for (size_t i = 0; i < delta->n_token_ids; i++)
        if (json_array_append_new(gen->token_ids, json_integer(delta->token_ids[i])) != 0)
            return sc_fail(err, SC_ENOMEM, "answer: no memory");
    for (size_t i = 0; i < delta->n_logprobs; i++)
        if (json_array_append_new(gen->logprobs, sc_json_message(&delta->logprobs[i]->base)) != 0)
            return sc_fail(err, SC_ENOMEM, "answer: no memory");
    return keep_text(gen, (const char *)delta->text.data, delta->text.len, err);
}

static enum sc_status take_delta(struct sc_generation *gen, const Semanticache__V1__Delta *delta,
                                 struct sc_err *err)
{
    if (gen->stream == NULL)
        return keep_delta(gen, delta, err);
    if (delta->text.len == 0)
        return SC_OK;
    if (gen->progress != NULL)
        sc_progress_clear(gen->progress);
    return sc_text_out_write(gen->stream, (const char *)delta->text.data, delta->text.len, err);
}

enum sc_status sc_generation_reply(void *ctx, ProtobufCMessage *message, struct sc_err *err)
{
    struct sc_generation *gen = ctx;
    Semanticache__V1__GenerateStreamResponse *reply =
        (Semanticache__V1__GenerateStreamResponse *)message;
    enum sc_status st = SC_OK;
    switch (reply->event_case) {
    case SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_PROGRESS:
        if (gen->progress != NULL)
            sc_progress_show(gen->progress, "reading", reply->progress->done,
                             reply->progress->total);
        break;
    case SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_DELTA:
        st = take_delta(gen, reply->delta, err);
        break;
    case SEMANTICACHE__V1__GENERATE_STREAM_RESPONSE__EVENT_FINAL:
        if (gen->last != NULL) {
            st = sc_fail(err, SC_EFORMAT, "the server ended the answer twice");
            break;
        }
        gen->last = reply;
        return SC_OK;
    default: /* a server newer than this client */
        break;
    }
    protobuf_c_message_free_unpacked(message, NULL);
    return st;
}

enum sc_status sc_generation_run(struct sc_generation *gen, struct sc_rpc *rpc,
                                 const Semanticache__V1__GenerateRequest *request,
                                 struct sc_err *err)
{
    enum sc_status st = sc_rpc_call(rpc, &semanticache__v1__inference__descriptor, "GenerateStream",
                                    &request->base, sc_generation_reply, gen, err);
    if (gen->progress != NULL)
        sc_progress_clear(gen->progress);
    if (gen->stream != NULL) {
        /* Also after a failure: what came is shown whole, and the message gets a line of its own.
         */
        enum sc_status st_finish = sc_text_out_finish(gen->stream, st == SC_OK ? err : NULL);
        st = st == SC_OK ? st_finish : st;
    }
    if (st == SC_OK && gen->last == NULL)
        st = sc_fail(err, SC_EFORMAT, "the server closed the stream without ending the answer");
    return st;
}

void sc_generation_figures(const Semanticache__V1__Final *final,
                           const Semanticache__V1__GetServerInfoResponse *server,
                           struct sc_figures *ret_figures)
{
    struct sc_figures f = {0};
    const Semanticache__V1__Usage *usage = final->usage;
    const Semanticache__V1__Timings *t = final->timings;
    if (usage != NULL && t != NULL && t->prefill_us > 0 &&
        usage->prompt_tokens > usage->cached_tokens)
        f.prefill_tokens_per_s =
            (usage->prompt_tokens - usage->cached_tokens) * 1e6 / (double)t->prefill_us;
    /* The first token belongs to the prefill. */
    if (usage != NULL && t != NULL && t->decode_us > 0 && usage->completion_tokens > 1)
        f.decode_tokens_per_s = (usage->completion_tokens - 1) * 1e6 / (double)t->decode_us;
    if (final->receipt != NULL && server != NULL)
        f.kv_bytes = final->receipt->pages * server->page_bytes * server->tensor_parallel;
    *ret_figures = f;
}

/* Drops the reference of value in any case. */
static bool set_new(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

json_t *sc_generation_json(const struct sc_generation *gen,
                           const Semanticache__V1__GetServerInfoResponse *server)
{
    const Semanticache__V1__Final *final = gen->last->final;
    struct sc_figures f;
    sc_generation_figures(final, server, &f);
    json_t *object = sc_json_message(&final->base);
    if (object == NULL)
        return NULL;
    bool ok = set_new(object, "request_id", json_string(gen->last->request_id)) &&
              set_new(object, "text", sc_json_text(gen->text, gen->text_len)) &&
              json_object_set(object, "token_ids", gen->token_ids) == 0 &&
              set_new(object, "prefill_tokens_per_s", json_real(f.prefill_tokens_per_s)) &&
              set_new(object, "decode_tokens_per_s", json_real(f.decode_tokens_per_s));
    if (ok && server != NULL)
        ok = set_new(object, "kv_bytes", json_integer((json_int_t)f.kv_bytes));
    if (ok && json_array_size(gen->logprobs) > 0)
        ok = json_object_set(object, "logprobs", gen->logprobs) == 0;
    if (ok)
        return object;
    json_decref(object);
    return NULL;
}

static void label(FILE *out, bool colors, const char *name)
{
    (void)fprintf(out, "%s%-10s%s", sc_term_dim(colors), name, sc_term_reset(colors));
}

static void print_cache(FILE *out, bool colors, const Semanticache__V1__KvReceipt *receipt,
                        uint64_t kv_bytes)
{
    char mode[SC_ENUM_TEXT_BYTES], size[SC_BYTES_TEXT_BYTES];
    label(out, colors, "KV cache");
    (void)fprintf(out, "%s: %llu of %llu entries kept (ratio %s%.3f%s)",
                  sc_enum_text(&semanticache__v1__kv_mode__descriptor, (int)receipt->mode, mode),
                  (unsigned long long)receipt->physical_entries,
                  (unsigned long long)receipt->exact_entries, sc_term_bold(colors), receipt->ratio,
                  sc_term_reset(colors));
    if (kv_bytes > 0)
        (void)fprintf(out, ", %s in %u pages", sc_bytes_text((double)kv_bytes, size),
                      receipt->pages);
    (void)fputc('\n', out);
    if (receipt->cores > 0) {
        label(out, colors, "cores");
        (void)fprintf(out, "%llu stand for %llu token entries; made in %.1f ms\n",
                      (unsigned long long)receipt->cores,
                      (unsigned long long)receipt->compressed_tokens,
                      (double)receipt->compress_us / 1e3);
    }
}

void sc_generation_receipt(FILE *out, bool colors, const Semanticache__V1__Final *final,
                           const Semanticache__V1__GetServerInfoResponse *server)
{
    char reason[SC_ENUM_TEXT_BYTES];
    struct sc_figures f;
    sc_generation_figures(final, server, &f);
    if (final->usage != NULL) {
        label(out, colors, "tokens");
        (void)fprintf(out, "%u prompt (%u cached), %u answer; ended by %s\n",
                      final->usage->prompt_tokens, final->usage->cached_tokens,
                      final->usage->completion_tokens,
                      sc_enum_text(&semanticache__v1__finish_reason__descriptor,
                                   (int) final->finish_reason, reason));
    }
    if (final->receipt != NULL)
        print_cache(out, colors, final->receipt, f.kv_bytes);
    if (final->timings != NULL) {
        label(out, colors, "time");
        (void)fprintf(out, "TTFT %.0f ms", (double) final->timings->ttft_us / 1e3);
        if (f.prefill_tokens_per_s > 0)
            (void)fprintf(out, ", prefill %.0f tokens/s", f.prefill_tokens_per_s);
        if (f.decode_tokens_per_s > 0)
            (void)fprintf(out, ", decode %.1f tokens/s", f.decode_tokens_per_s);
        (void)fprintf(out, ", total %.0f ms\n", (double) final->timings->total_us / 1e3);
    }
}
