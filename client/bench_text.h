/* client/bench_text.h - random text of so many tokens, as the server counts them.
 *
 * Memory: texts are malloc'ed. Threads: one owner.
 */
#ifndef SC_CLIENT_BENCH_TEXT_H
#define SC_CLIENT_BENCH_TEXT_H

#include "client/prompt.h"
#include "client/rpc.h"

struct sc_text_maker {
    struct sc_rpc *rpc;
    uint64_t seed;
    double bytes_per_token; /* a little over what the last text had */
};

void sc_text_maker_init(struct sc_text_maker *maker, struct sc_rpc *rpc, uint64_t seed);

/* Cuts a longer text between tokens. Cutting can change how the end is read, so that *ret_n_tokens
 * (may be NULL) may differ from n_tokens by a few. The caller frees ret_text->bytes. */
enum sc_status sc_text_make(struct sc_text_maker *maker, uint64_t key, uint32_t n_tokens,
                            struct sc_text *ret_text, uint32_t *ret_n_tokens,
                            struct sc_err *err) SC_MUST_CHECK;

#endif
