#include "client/quality_score.h"

#include <math.h>
#include <string.h>

#define Z_95  1.959964
#define LEAST 1e-7 /* a probability that is what rounding left of 1 minus others */

/* What Python's str.strip takes away, of ASCII. */
static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f');
}

bool sc_quality_is_right(const char *answer, size_t len, const char *wanted)
{
    while (len > 0 && is_blank(answer[len - 1]))
        len--;
    while (len > 0 && is_blank(answer[0])) {
        answer++;
        len--;
    }
    return len == strlen(wanted) && (len == 0 || memcmp(answer, wanted, len) == 0);
}

struct sc_interval sc_quality_wilson(uint64_t right, uint64_t asked)
{
    if (asked == 0)
        return (struct sc_interval){0, 1};
    const double n = (double)asked, p = (double)right / n, zz = Z_95 * Z_95;
    const double mid = p + zz / (2 * n);
    const double spread = Z_95 * sqrt(p * (1 - p) / n + zz / (4 * n * n));
    const double low = (mid - spread) / (1 + zz / n), high = (mid + spread) / (1 + zz / n);
    return (struct sc_interval){low > 0 ? low : 0, high < 1 ? high : 1};
}

static const struct sc_quality_top *find(const struct sc_quality_top *list, size_t n, int32_t token)
{
    for (size_t i = 0; i < n; i++)
        if (list[i].token == token)
            return &list[i];
    return NULL;
}

static double part(double p, double q)
{
    return p > 0 ? p * log(p / (q > LEAST ? q : LEAST)) : 0;
}

double sc_quality_kl(const struct sc_quality_top *p, size_t n_p, const struct sc_quality_top *q,
                     size_t n_q)
{
    double kl = 0, p_both = 0, q_both = 0, p_alone = 0, q_list = 0, q_least = 1;
    size_t n_alone = 0;
    for (size_t i = 0; i < n_q; i++) {
        q_list += exp(q[i].logprob);
        q_least = fmin(q_least, exp(q[i].logprob));
    }
    for (size_t i = 0; i < n_p; i++) {
        const double share = exp(p[i].logprob);
        const struct sc_quality_top *other = find(q, n_q, p[i].token);
        if (other == NULL) {
            p_alone += share;
            n_alone++;
            continue;
        }
        kl += share * (p[i].logprob - other->logprob);
        p_both += share;
        q_both += exp(other->logprob);
    }
    const double p_others = fmax(0, 1 - p_both - p_alone), q_left = fmax(0, 1 - q_both);
    const double most = fmin((double)n_alone * q_least, fmax(0, 1 - q_list));
    /* In proportion to p the two groups would not tell p and q apart. */
    const double even = p_alone > 0 ? q_left * p_alone / (p_alone + p_others) : 0;
    const double q_alone = fmin(most, even);
    kl += part(p_alone, q_alone) + part(p_others, q_left - q_alone);
    return kl > 0 ? kl : 0;
}
