/* client/quality_score.h - whether an answer is right, how sure a share is, how far two
 * distributions of the next token are apart.
 *
 * Threads: pure functions.
 */
#ifndef SC_CLIENT_QUALITY_SCORE_H
#define SC_CLIENT_QUALITY_SCORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Letter by letter, blanks and newlines around the answer left out. */
bool sc_quality_is_right(const char *answer, size_t len, const char *wanted);

/* The 95 % interval of a share after Wilson; 0..1 where nothing was asked. */
struct sc_interval {
    double low, high;
};
struct sc_interval sc_quality_wilson(uint64_t right, uint64_t asked);

/* One of the likeliest tokens of a position. */
struct sc_quality_top {
    int32_t token;
    double logprob; /* natural */
};

/* KL(p || q) of what is known of two distributions, in nats: their likeliest tokens, of which no
 * token is there twice. Tokens that both lists have count one by one. Those of p alone count
 * together, with the probability in q that is best for q: at most that of q's least likely token
 * for each, and what q's list leaves. All others count together, too. So the result is never above
 * KL(p || q) over the whole vocabulary, save for the rounding of the logprobs, and never below 0.
 */
double sc_quality_kl(const struct sc_quality_top *p, size_t n_p, const struct sc_quality_top *q,
                     size_t n_q);

#endif
