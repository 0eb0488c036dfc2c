/* daemon/reply.h - from the scheduler's numbers to messages.
 *
 * Memory: what messages point to is taken from the caller's arena, or is in the tokenizer; NULL
 * results mean the arena is exhausted. Threads: pure functions.
 */
#ifndef SC_DAEMON_REPLY_H
#define SC_DAEMON_REPLY_H

#include "base/arena.h"
#include "scheduler/scheduler.h"
#include "semanticache/v1/control.pb-c.h"
#include "semanticache/v1/inference.pb-c.h"

/* The end of an output: what is left of an event after its call has returned. */
struct sc_ending {
    enum sc_finish finish;
    int32_t stop_id;
    char stop_string[SC_STOP_STRING_BYTES_MAX + 1];
    size_t stop_string_len;
    bool has_stop_string;
    uint32_t prompt_tokens, completion_tokens;
    struct sc_receipt receipt;
    struct sc_timings timings;
    uint64_t total_us, seed;
};

struct sc_ending_messages {
    Semanticache__V1__Usage usage;
    Semanticache__V1__KvReceipt receipt;
    Semanticache__V1__Timings timings;
    char recipe_id[2 * SC_HASH_BYTES + 1];
};

void sc_ending_take(const struct sc_event *event, uint64_t total_us, uint64_t seed,
                    struct sc_ending *ret_ending);
/* ret holds pointers into itself. */
void sc_reply_ending(const struct sc_ending *ending, struct sc_ending_messages *ret);
Semanticache__V1__FinishReason sc_reply_finish(enum sc_finish finish);
ProtobufCBinaryData sc_reply_bytes(const void *data, size_t len);
ProtobufCBinaryData sc_reply_token_text(const struct sc_tokenizer *tok, int32_t id);
Semanticache__V1__TokenLogprob **sc_reply_logprobs(struct sc_arena *arena,
                                                   const struct sc_tokenizer *tok,
                                                   const struct sc_sampled *tokens, size_t n);

#endif
