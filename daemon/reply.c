#include "daemon/reply.h"

#include <string.h>

#include "proto/optional.h"

void sc_ending_take(const struct sc_event *event, uint64_t total_us, uint64_t seed,
                    struct sc_ending *ret_ending)
{
    struct sc_ending e = {
        .finish = event->finish,
        .stop_id = event->stop_id,
        .prompt_tokens = event->prompt_tokens,
        .completion_tokens = event->completion_tokens,
        .receipt = event->receipt,
        .timings = event->timings,
        .total_us = total_us,
        .seed = seed,
    };

    if (event->stop_string != NULL) {
        e.has_stop_string = true;
        e.stop_string_len = strnlen(event->stop_string, SC_STOP_STRING_BYTES_MAX);
        memcpy(e.stop_string, event->stop_string, e.stop_string_len);
    }
    *ret_ending = e;
}

static void fill_receipt(const struct sc_receipt *r, Semanticache__V1__KvReceipt *m)
{
    semanticache__v1__kv_receipt__init(m);
    m->mode = r->mode == SC_KV_COMPRESSED ? SEMANTICACHE__V1__KV_MODE__KV_MODE_COMPRESSED
                                          : SEMANTICACHE__V1__KV_MODE__KV_MODE_EXACT;
    m->logical_tokens = r->kv.logical_tokens;
    m->exact_entries = r->kv.exact_entries;
    m->physical_entries = r->kv.physical_entries;
    m->peak_entries = r->kv.peak_entries;
    m->cores = r->kv.cores;
    m->compressed_tokens = r->kv.compressed_tokens;
    m->ratio = r->kv.exact_entries > 0
                   ? (double)r->kv.physical_entries / (double)r->kv.exact_entries
                   : 1.0;
    m->pages = r->kv.pages;
    m->compress_us = r->kv.compress_us;
    m->cached_tokens = r->cached_tokens;
    m->preemptions = r->preemptions;
}

void sc_reply_ending(const struct sc_ending *e, struct sc_ending_messages *ret)
{
    semanticache__v1__usage__init(&ret->usage);
    ret->usage.prompt_tokens = e->prompt_tokens;
    ret->usage.completion_tokens = e->completion_tokens;
    ret->usage.cached_tokens = e->receipt.cached_tokens;
    fill_receipt(&e->receipt, &ret->receipt);
    sc_hash_hex(&e->receipt.recipe_id, ret->recipe_id);
    ret->receipt.recipe_id = ret->recipe_id;
    semanticache__v1__timings__init(&ret->timings);
    ret->timings.queue_us = e->timings.queue_us;
    ret->timings.prefill_us = e->timings.prefill_us;
    ret->timings.ttft_us = e->timings.ttft_us;
    ret->timings.decode_us = e->timings.decode_us;
    ret->timings.compress_us = e->timings.compress_us;
    ret->timings.total_us = e->total_us;
}

Semanticache__V1__FinishReason sc_reply_finish(enum sc_finish finish)
{
    switch (finish) {
    case SC_FINISH_STOP:
        return SEMANTICACHE__V1__FINISH_REASON__FINISH_REASON_STOP;
    case SC_FINISH_LENGTH:
        return SEMANTICACHE__V1__FINISH_REASON__FINISH_REASON_LENGTH;
    default:
        return SEMANTICACHE__V1__FINISH_REASON__FINISH_REASON_UNSPECIFIED;
    }
}

ProtobufCBinaryData sc_reply_bytes(const void *data, size_t len)
{
    /* protobuf-c does not write through data when packing; the type just has no const. */
    return (ProtobufCBinaryData){.len = len, .data = (uint8_t *)(uintptr_t)data};
}

ProtobufCBinaryData sc_reply_token_text(const struct sc_tokenizer *tok, int32_t id)
{
    size_t len = 0;
    const char *bytes = sc_tokenizer_bytes(tok, id, &len);

    return sc_reply_bytes(bytes, len);
}

static bool fill_logprob(struct sc_arena *arena, const struct sc_tokenizer *tok,
                         const struct sc_sampled *s, Semanticache__V1__TokenLogprob *m)
{
    Semanticache__V1__TopLogprob *tops = sc_arena_take(arena, s->n_top * sizeof(*tops));

    semanticache__v1__token_logprob__init(m);
    m->token_id = s->token;
    m->logprob = s->logprob;
    m->text = sc_reply_token_text(tok, s->token);
    m->top = sc_arena_take(arena, s->n_top * sizeof(*m->top));
    if (tops == NULL || m->top == NULL)
        return false;
    m->n_top = s->n_top;
    for (uint32_t i = 0; i < s->n_top; i++) {
        semanticache__v1__top_logprob__init(&tops[i]);
        tops[i].token_id = s->top[i].token;
        tops[i].logprob = s->top[i].logprob;
        tops[i].text = sc_reply_token_text(tok, s->top[i].token);
        m->top[i] = &tops[i];
    }
    return true;
}

Semanticache__V1__TokenLogprob **sc_reply_logprobs(struct sc_arena *arena,
                                                   const struct sc_tokenizer *tok,
                                                   const struct sc_sampled *tokens, size_t n)
{
    Semanticache__V1__TokenLogprob *messages = sc_arena_take(arena, n * sizeof(*messages));
    Semanticache__V1__TokenLogprob **list = sc_arena_take(arena, n * sizeof(*list));

    if (messages == NULL || list == NULL)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        if (!fill_logprob(arena, tok, &tokens[i], &messages[i]))
            return NULL;
        list[i] = &messages[i];
    }
    return list;
}
