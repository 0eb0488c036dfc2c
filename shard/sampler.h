/* shard/sampler.h - from logits to one token: penalties, bias, temperature, top-k, top-p, min-p,
 * seed.
 *
 * Semantics follow vLLM's fields of the same names, in this order: logprobs of the raw logits, then
 * penalties, bias, ban, temperature, min-p, top-k, top-p. Tokens that tie with the k-th stay
 * (top-k); top-p takes tied tokens by rising id: see base/draw.h. Time is O(vocab). Random numbers
 * are keyed by (seed, position), never by the batch, so that a request gives the same tokens alone
 * and in any company. Memory: open takes all, O(vocab) only for penalties and logprobs; sample
 * allocates nothing. Threads: one owner at a time.
 */
#ifndef SC_SHARD_SAMPLER_H
#define SC_SHARD_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/draw.h"
#include "base/status.h"

#define SC_TOP_LOGPROBS_MAX 20u
#define SC_LOGIT_BIAS_MAX   1024u
#define SC_BANNED_MAX       128u

struct sc_logit_bias {
    int32_t id;
    float bias; /* -100..100 */
};

struct sc_sampling {
    float temperature;        /* 0: greedy; else (0, 100] */
    float top_p;              /* (0, 1]; 1: off */
    float min_p;              /* [0, 1]; 0: off */
    int32_t top_k;            /* <= 0: off */
    float repetition_penalty; /* 0.01..100; 1: off; over prompt and output */
    float presence_penalty;   /* -2..2, over output */
    float frequency_penalty;  /* -2..2, over output */
    uint64_t seed;
    uint32_t n_logprobs;              /* top entries wanted, 0..SC_TOP_LOGPROBS_MAX */
    bool logprobs;                    /* the chosen token's logprob is wanted */
    const struct sc_logit_bias *bias; /* borrowed during open */
    uint32_t n_bias;                  /* 0..SC_LOGIT_BIAS_MAX, no id twice */
};
#define SC_SAMPLING_GREEDY                                                                         \
    {                                                                                              \
        .temperature = 0.0f, .top_p = 1.0f, .repetition_penalty = 1.0f                             \
    }

struct sc_sampled {
    int32_t token;
    float logprob;  /* natural log, in the model's own distribution: before penalties, bias, ban and
                       temperature; 0 unless asked for */
    uint32_t n_top; /* fewer than asked for where fewer logits are finite */
    struct {
        int32_t token;
        float logprob;
    } top[SC_TOP_LOGPROBS_MAX]; /* descending */
};

struct sc_sampler;

/* vocab: number of logits that may be chosen (the tokenizer's size: padding is masked). banned: ids
 * never chosen while fewer than min_tokens were sampled (EOS and stop ids). */
enum sc_status sc_sampler_open(const struct sc_sampling *params, uint32_t vocab,
                               const int32_t *banned, uint32_t n_banned, uint32_t min_tokens,
                               struct sc_sampler **ret_sampler, struct sc_err *err) SC_MUST_CHECK;
void sc_sampler_close(struct sc_sampler *sampler); /* NULL is fine */

/* Tells the sampler of prompt tokens (for the repetition penalty), once, before the first sample.
 */
void sc_sampler_prompt(struct sc_sampler *sampler, const int32_t *ids, uint32_t n);

/* logits [vocab] are overwritten. position: logical position of the token to be chosen. On success
 * the token counts as output. SC_EINTERNAL when a logit is NaN or +inf, or none is finite (-inf is
 * a masked token); the sampler is then unchanged. */
enum sc_status sc_sampler_sample(struct sc_sampler *sampler, float *logits, uint32_t position,
                                 struct sc_sampled *ret_sampled, struct sc_err *err) SC_MUST_CHECK;

/* How the next token, at this position, can be chosen without the sampler: of `vocab` logits, as
 * base/draw.h says. False: it cannot, as logits are adjusted or logprobs wanted. Then take does
 * what sample would, given the largest logit and the token that was drawn (greedy: the lowest id
 * that has it). */
bool sc_sampler_plan(const struct sc_sampler *sampler, uint32_t vocab, uint32_t position,
                     struct sc_draw *ret_draw);
enum sc_status sc_sampler_take(struct sc_sampler *sampler, float max, uint32_t id,
                               uint32_t position, struct sc_sampled *ret_sampled,
                               struct sc_err *err) SC_MUST_CHECK;

#endif
