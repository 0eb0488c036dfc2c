#include "client/bench_text.h"

#include "client/bench_input.h"
#include "proto/optional.h"
#include "semanticache/v1/inference.pb-c.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES_PER_TOKEN 5.0
#define SPARE                 1.1 /* texts differ */
#define SPARE_BYTES           64
#define TRIES                 12

void sc_text_maker_init(struct sc_text_maker *maker, struct sc_rpc *rpc, uint64_t seed)
{
    *maker = (struct sc_text_maker){rpc, seed, FIRST_BYTES_PER_TOKEN};
}

/* The reply's token_ids, and pieces where asked for, of the text alone. */
static enum sc_status tokenize(struct sc_rpc *rpc, const char *text, size_t len, bool pieces,
                               Semanticache__V1__TokenizeResponse **ret_reply, struct sc_err *err)
{
    Semanticache__V1__TokenizeRequest request;
    ProtobufCMessage *reply = NULL;
    semanticache__v1__tokenize_request__init(&request);
    request.text = (ProtobufCBinaryData){len, (uint8_t *)(uintptr_t)text};
    SC_PB_SET(&request, add_special_tokens, false);
    SC_PB_SET(&request, parse_special_tokens, false);
    SC_PB_SET(&request, return_pieces, pieces);
    enum sc_status st = sc_rpc_unary(rpc, &semanticache__v1__inference__descriptor, "Tokenize",
                                     &request.base, &reply, err);
    if (st == SC_OK)
        *ret_reply = (Semanticache__V1__TokenizeResponse *)reply;
    return st;
}

/* Bytes of the first n tokens: by their pieces; a server that gives none, by their share. */
static size_t cut_at(const Semanticache__V1__TokenizeResponse *reply, uint32_t n, size_t len)
{
    size_t at = 0;
    if (reply->n_pieces < n)
        return (size_t)((double)len * n / (double)reply->n_token_ids);
    for (uint32_t i = 0; i < n; i++)
        at += reply->pieces[i].len;
    return at < len ? at : len;
}

enum sc_status sc_text_make(struct sc_text_maker *maker, uint64_t key, uint32_t n_tokens,
                            struct sc_text *ret_text, uint32_t *ret_n_tokens, struct sc_err *err)
{
    enum sc_status st = SC_OK;
    for (int i = 0; i < TRIES; i++) {
        const size_t room = (size_t)(n_tokens * maker->bytes_per_token) + SPARE_BYTES;
        struct sc_rand rand = sc_rand_init(maker->seed, key);
        Semanticache__V1__TokenizeResponse *reply = NULL;
        char *text = malloc(room + 1);
        if (text == NULL)
            return sc_fail(err, SC_ENOMEM, "a text of %u tokens: no memory", n_tokens);
        sc_rand_text(&rand, text, room);
        st = tokenize(maker->rpc, text, room, true, &reply, err);
        if (st != SC_OK) {
            free(text);
            return st;
        }
        const size_t n = reply->n_token_ids;
        const size_t len = n >= n_tokens ? cut_at(reply, n_tokens, room) : 0;
        protobuf_c_message_free_unpacked(&reply->base, NULL);
        if (n < n_tokens) {
            free(text);
            maker->bytes_per_token *= n > 0 ? SPARE * n_tokens / (double)n : 2;
            continue;
        }
        if (ret_n_tokens != NULL)
            st = tokenize(maker->rpc, text, len, false, &reply, err);
        if (st != SC_OK) {
            free(text);
            return st;
        }
        if (ret_n_tokens != NULL) {
            *ret_n_tokens = (uint32_t)reply->n_token_ids;
            protobuf_c_message_free_unpacked(&reply->base, NULL);
        }
        text[len] = '\0';
        *ret_text = (struct sc_text){text, len};
        return SC_OK;
    }
    return sc_fail(err, SC_EFORMAT, "no text of %u tokens: the server counts too few", n_tokens);
}
