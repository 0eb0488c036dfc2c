/* client/generation.h - one GenerateStream call: streamed to a person, or kept for JSON.
 *
 * Memory: owns what it keeps; the text kept is limited to SC_GENERATION_BYTES_MAX.
 * Threads: one owner.
 */
#ifndef SC_CLIENT_GENERATION_H
#define SC_CLIENT_GENERATION_H

#include <jansson.h>

#include "client/rpc.h"
#include "client/term.h"
#include "semanticache/v1/control.pb-c.h"
#include "semanticache/v1/inference.pb-c.h"

#define SC_GENERATION_BYTES_MAX (64u << 20)

struct sc_generation {
    struct sc_text_out *stream;   /* borrowed; NULL: text, ids and log-probabilities are kept */
    struct sc_progress *progress; /* borrowed, or NULL */
    char *text;
    size_t text_len, text_room;
    json_t *token_ids, *logprobs;                   /* arrays */
    Semanticache__V1__GenerateStreamResponse *last; /* the one with `final`, or NULL */
};

enum sc_status sc_generation_init(struct sc_generation *gen, struct sc_text_out *stream,
                                  struct sc_progress *progress, struct sc_err *err) SC_MUST_CHECK;
void sc_generation_fini(struct sc_generation *gen);

/* What sc_rpc_call hands its replies to; ctx is the generation. */
enum sc_status sc_generation_reply(void *ctx, ProtobufCMessage *message,
                                   struct sc_err *err) SC_MUST_CHECK;

/* As sc_rpc_call; then gen->last is set. */
enum sc_status sc_generation_run(struct sc_generation *gen, struct sc_rpc *rpc,
                                 const Semanticache__V1__GenerateRequest *request,
                                 struct sc_err *err) SC_MUST_CHECK;

/* Derived figures. server may be NULL (unknown): then kv_bytes is 0. */
struct sc_figures {
    double prefill_tokens_per_s; /* 0: cannot be told */
    double decode_tokens_per_s;
    uint64_t kv_bytes; /* of the request's pages at its end, on all ranks */
};
void sc_generation_figures(const Semanticache__V1__Final *final,
                           const Semanticache__V1__GetServerInfoResponse *server,
                           struct sc_figures *ret_figures);

/* One object; NULL: no memory. */
json_t *sc_generation_json(const struct sc_generation *gen,
                           const Semanticache__V1__GetServerInfoResponse *server);

/* A few lines for a person. */
void sc_generation_receipt(FILE *out, bool colors, const Semanticache__V1__Final *final,
                           const Semanticache__V1__GetServerInfoResponse *server);

#endif
