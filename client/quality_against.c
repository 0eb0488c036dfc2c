#include "client/quality_against.h"

#include "client/quality_score.h"

static json_int_t token_of(const json_t *position)
{
    return json_integer_value(json_object_get(position, "token_id"));
}

static size_t read_top(const json_t *position, struct sc_quality_top top[SC_QUALITY_TOP])
{
    const json_t *list = json_object_get(position, "top");
    size_t n = json_array_size(list);
    n = n < SC_QUALITY_TOP ? n : SC_QUALITY_TOP;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        top[i].token = (int32_t)token_of(item);
        top[i].logprob = json_number_value(json_object_get(item, "logprob"));
    }
    return n;
}

enum sc_status sc_quality_compare(const json_t *exact, size_t from, const json_t *other,
                                  struct sc_quality_against *sums, size_t *ret_n,
                                  struct sc_err *err)
{
    struct sc_quality_top p[SC_QUALITY_TOP], q[SC_QUALITY_TOP];
    const size_t n_exact = json_array_size(exact), n_other = json_array_size(other);
    size_t n = 0;
    bool agree = true;
    for (; agree && from + n < n_exact && n < n_other; n++) {
        const json_t *one = json_array_get(exact, from + n), *two = json_array_get(other, n);
        const size_t n_p = read_top(one, p), n_q = read_top(two, q);
        if (n_p == 0 || n_q == 0)
            return sc_fail(err, SC_EFORMAT, "the server told a token without log-probabilities");
        agree = token_of(one) == token_of(two);
        sums->kl += sc_quality_kl(p, n_p, q, n_q);
        sums->n_agree += agree;
        sums->n_tokens++;
    }
    if (n == 0)
        return sc_fail(err, SC_EFORMAT, "the server ended an answer without a token");
    *ret_n = n;
    return SC_OK;
}
