/* client/request.h - from options to the messages of semanticache.v1.
 *
 * Memory: messages and what they point to live in the arena, argv and the args.
 * Threads: pure functions.
 */
#ifndef SC_CLIENT_REQUEST_H
#define SC_CLIENT_REQUEST_H

#include "base/arena.h"
#include "client/args.h"
#include "client/prompt.h"
#include "semanticache/v1/inference.pb-c.h"

/* How document and question are put together: the defaults, then the file of --prompt-format, then
 * --question-prefix and --answer-prefix. */
enum sc_status sc_request_format(struct sc_arena *arena, const struct sc_args *args,
                                 struct sc_prompt_format *ret_format,
                                 struct sc_err *err) SC_MUST_CHECK;

/* Fills *ret_sampling (init it first) from the sampling options. Stop texts are unescaped; where no
 * --stop is given, those of format (may be NULL) count. */
enum sc_status sc_request_sampling(struct sc_arena *arena, const struct sc_args *args,
                                   const struct sc_prompt_format *format,
                                   Semanticache__V1__SamplingParams *ret_sampling,
                                   struct sc_err *err) SC_MUST_CHECK;

/* Fills *ret_kv (init it first) from the KV options; *ret_any tells whether there was one. */
enum sc_status sc_request_kv(struct sc_arena *arena, const struct sc_args *args,
                             Semanticache__V1__KvOptions *ret_kv, bool *ret_any,
                             struct sc_err *err) SC_MUST_CHECK;

/* Borrows the ids of --token-ids. NULL: no memory. */
Semanticache__V1__TokenIds *sc_request_token_ids(struct sc_arena *arena,
                                                 const struct sc_args *args);

#endif
