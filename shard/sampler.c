#include "shard/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/draw.h"
#include "base/hash.h"
#include "model/config.h"

/* In counts[]: bit 0 says that the prompt has the token, the rest counts it in the output. */
#define IN_PROMPT   1u
#define COUNT_SHIFT 1u

struct sc_sampler {
    struct sc_sampling params; /* .bias points into this allocation */
    struct sc_draw draw;       /* what they make of it */
    uint32_t vocab;
    uint32_t n_banned, min_tokens, n_sampled;
    int32_t *banned;
    uint32_t *counts; /* [vocab], or NULL: no penalty is on */
    float *raw;       /* [vocab], or NULL: no logprobs wanted */
};

static bool penalised(const struct sc_sampling *p)
{
    return p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f ||
           p->frequency_penalty != 0.0f;
}

static bool in_range(float v, float lo, float hi)
{
    return v >= lo && v <= hi; /* false for NaN */
}

static enum sc_status check_params(const struct sc_sampling *p, struct sc_err *err)
{
    if (!in_range(p->temperature, 0.0f, 100.0f))
        return sc_fail(err, SC_EINVAL, "temperature: %g, limits 0..100", (double)p->temperature);
    if (!(p->top_p > 0.0f && p->top_p <= 1.0f))
        return sc_fail(err, SC_EINVAL, "top_p: %g, must be above 0 and at most 1",
                       (double)p->top_p);
    if (!in_range(p->min_p, 0.0f, 1.0f))
        return sc_fail(err, SC_EINVAL, "min_p: %g, limits 0..1", (double)p->min_p);
    if (!in_range(p->repetition_penalty, 0.01f, 100.0f))
        return sc_fail(err, SC_EINVAL, "repetition_penalty: %g, limits 0.01..100",
                       (double)p->repetition_penalty);
    if (!in_range(p->presence_penalty, -2.0f, 2.0f))
        return sc_fail(err, SC_EINVAL, "presence_penalty: %g, limits -2..2",
                       (double)p->presence_penalty);
    if (!in_range(p->frequency_penalty, -2.0f, 2.0f))
        return sc_fail(err, SC_EINVAL, "frequency_penalty: %g, limits -2..2",
                       (double)p->frequency_penalty);
    if (p->n_logprobs > SC_TOP_LOGPROBS_MAX)
        return sc_fail(err, SC_EINVAL, "top logprobs: %u, limit %u", p->n_logprobs,
                       SC_TOP_LOGPROBS_MAX);
    if (p->n_bias > SC_LOGIT_BIAS_MAX)
        return sc_fail(err, SC_EINVAL, "logit biases: %u, limit %u", p->n_bias, SC_LOGIT_BIAS_MAX);
    return SC_OK;
}

static int compare_bias(const void *a, const void *b)
{
    int32_t x = ((const struct sc_logit_bias *)a)->id, y = ((const struct sc_logit_bias *)b)->id;
    return x < y ? -1 : x > y;
}

/* Sorts, so that an id given twice is found. */
static enum sc_status check_bias(struct sc_logit_bias *bias, uint32_t n, uint32_t vocab,
                                 struct sc_err *err)
{
    if (n > 0)
        qsort(bias, n, sizeof(*bias), compare_bias);
    for (uint32_t i = 0; i < n; i++) {
        if (bias[i].id < 0 || (uint32_t)bias[i].id >= vocab)
            return sc_fail(err, SC_EINVAL, "logit bias: token %d, vocabulary %u", bias[i].id,
                           vocab);
        if (!in_range(bias[i].bias, -100.0f, 100.0f))
            return sc_fail(err, SC_EINVAL, "logit bias of token %d: %g, limits -100..100",
                           bias[i].id, (double)bias[i].bias);
        if (i > 0 && bias[i].id == bias[i - 1].id)
            return sc_fail(err, SC_EINVAL, "logit bias: token %d is given twice", bias[i].id);
    }
    return SC_OK;
}

/* All but the random number, which follows the position. */
static struct sc_draw plan_draw(const struct sc_sampling *p)
{
    struct sc_draw draw = {
        .top_p = p->top_p,
        .top_k = p->top_k > 0 ? (uint32_t)p->top_k : 0,
        .last = SC_TWIN_BITS(INFINITY) - 1,
    };
    if (p->temperature > 0.0f) {
        draw.scale = (float)(-1.4426950408889634 / (double)p->temperature);
        draw.scale = draw.scale > -1e30f ? draw.scale : -1e30f; /* 0 times it is 0 */
    }
    if (p->min_p > 0.0f) {
        /* p >= min_p * p_max  <=>  d <= -ln(min_p) * T; the bit above lets a tie by rounding in. */
        double d = -log((double)p->min_p) * (double)p->temperature;
        uint32_t bits = SC_TWIN_BITS(nextafterf((float)d, INFINITY));
        draw.last = bits < draw.last ? bits : draw.last;
    }
    return draw;
}

enum sc_status sc_sampler_open(const struct sc_sampling *params, uint32_t vocab,
                               const int32_t *banned, uint32_t n_banned, uint32_t min_tokens,
                               struct sc_sampler **ret_sampler, struct sc_err *err)
{
    if (vocab == 0 || vocab > SC_VOCAB_MAX)
        return sc_fail(err, SC_EINVAL, "sampler vocabulary: %u, limits 1..%u", vocab, SC_VOCAB_MAX);
    if (n_banned > SC_BANNED_MAX)
        return sc_fail(err, SC_EINVAL, "banned tokens: %u, limit %u", n_banned, SC_BANNED_MAX);
    enum sc_status st = check_params(params, err);
    if (st != SC_OK)
        return st;
    bool logprobs = params->logprobs || params->n_logprobs > 0;
    size_t bias_bytes = params->n_bias * sizeof(struct sc_logit_bias);
    size_t counts_bytes = penalised(params) ? vocab * sizeof(uint32_t) : 0;
    size_t raw_bytes = logprobs ? vocab * sizeof(float) : 0;
    size_t banned_bytes = n_banned * sizeof(int32_t);
    struct sc_sampler *s =
        calloc(1, sizeof(*s) + bias_bytes + counts_bytes + raw_bytes + banned_bytes);
    if (s == NULL)
        return sc_fail(err, SC_ENOMEM, "sampler for a vocabulary of %u", vocab);
    char *at = (char *)(s + 1); /* every piece that follows is a multiple of 4 bytes */
    struct sc_logit_bias *bias = (struct sc_logit_bias *)(void *)at;
    at += bias_bytes;
    s->params = *params;
    s->params.bias = bias;
    s->draw = plan_draw(params);
    s->vocab = vocab;
    s->n_banned = n_banned;
    s->min_tokens = min_tokens;
    s->counts = counts_bytes > 0 ? (uint32_t *)(void *)at : NULL;
    at += counts_bytes;
    s->raw = raw_bytes > 0 ? (float *)(void *)at : NULL;
    at += raw_bytes;
    s->banned = (int32_t *)(void *)at;
    if (bias_bytes > 0)
        memcpy(bias, params->bias, bias_bytes);
    if (banned_bytes > 0)
        memcpy(s->banned, banned, banned_bytes);
    st = check_bias(bias, params->n_bias, vocab, err);
    for (uint32_t i = 0; i < n_banned && st == SC_OK; i++)
        if (banned[i] < 0)
            st = sc_fail(err, SC_EINVAL, "banned token: %d, vocabulary %u", banned[i], vocab);
    if (st != SC_OK) {
        free(s);
        return st;
    }
    *ret_sampler = s;
    return SC_OK;
}

void sc_sampler_close(struct sc_sampler *sampler)
{
    free(sampler);
}

void sc_sampler_prompt(struct sc_sampler *sampler, const int32_t *ids, uint32_t n)
{
    if (sampler->counts == NULL)
        return;
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] >= 0 && (uint32_t)ids[i] < sampler->vocab)
            sampler->counts[ids[i]] |= IN_PROMPT;
}

/* The highest logit and its lowest id. -inf is a masked token; NaN and +inf can only come from a
 * broken forward pass, and a draw that ignored them would hide it. */
static enum sc_status find_max(const float *logits, uint32_t n, uint32_t position, uint32_t *ret_id,
                               struct sc_err *err)
{
    uint32_t best = 0, n_nan = 0;
    float max = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        n_nan += logits[i] != logits[i];
        if (logits[i] > max) {
            max = logits[i];
            best = i;
        }
    }
    if (n_nan > 0)
        return sc_fail(err, SC_EINTERNAL, "logits of position %u: %u of %u are not a number",
                       position, n_nan, n);
    if (!isfinite(max))
        return sc_fail(err, SC_EINTERNAL, "logits of position %u: no finite maximum among %u",
                       position, n);
    *ret_id = best;
    return SC_OK;
}

static bool adjusts(const struct sc_sampler *s)
{
    return s->counts != NULL || s->params.n_bias > 0 ||
           (s->n_banned > 0 && s->n_sampled < s->min_tokens);
}

/* Penalties, then bias, then the ban while fewer than min_tokens were sampled. */
static void adjust(const struct sc_sampler *s, float *logits)
{
    const struct sc_sampling *p = &s->params;
    for (uint32_t i = 0; s->counts != NULL && i < s->vocab; i++) {
        uint32_t seen = s->counts[i];
        if (seen == 0)
            continue;
        float l = logits[i];
        l = l > 0.0f ? l / p->repetition_penalty : l * p->repetition_penalty;
        uint32_t n_output = seen >> COUNT_SHIFT;
        if (n_output > 0)
            l -= p->frequency_penalty * (float)n_output + p->presence_penalty;
        logits[i] = l;
    }
    for (uint32_t i = 0; i < p->n_bias; i++)
        logits[p->bias[i].id] += p->bias[i].bias;
    for (uint32_t i = 0; s->n_sampled < s->min_tokens && i < s->n_banned; i++)
        if ((uint32_t)s->banned[i] < s->vocab)
            logits[s->banned[i]] = -INFINITY;
}

/* A function of seed and position alone. */
static uint64_t random_of(uint64_t seed, uint32_t position)
{
    return sc_mix64(sc_mix64(seed) ^ (((uint64_t)position << 32) | 0x5eedu));
}

/* The chosen token's and the top entries' logprobs in the model's own distribution. */
static void fill_logprobs(const struct sc_sampler *s, uint32_t raw_best, struct sc_sampled *out)
{
    const float *raw = s->raw;
    double sum = 0.0, max = (double)raw[raw_best];
    for (uint32_t i = 0; i < s->vocab; i++)
        sum += exp((double)raw[i] - max);
    double log_z = max + log(sum);
    out->logprob = (float)((double)raw[out->token] - log_z);
    uint32_t n = 0, want = s->params.n_logprobs;
    for (uint32_t i = 0; want > 0 && i < s->vocab; i++) {
        float lp = raw[i];
        if (lp == -INFINITY || (n == want && lp <= out->top[n - 1].logprob))
            continue;
        uint32_t at = n < want ? n++ : n - 1;
        for (; at > 0 && out->top[at - 1].logprob < lp; at--)
            out->top[at] = out->top[at - 1];
        out->top[at].token = (int32_t)i;
        out->top[at].logprob = lp;
    }
    for (uint32_t i = 0; i < n; i++)
        out->top[i].logprob = (float)((double)out->top[i].logprob - log_z);
    out->n_top = n;
}

enum sc_status sc_sampler_sample(struct sc_sampler *sampler, float *logits, uint32_t position,
                                 struct sc_sampled *ret_sampled, struct sc_err *err)
{
    struct sc_sampler *s = sampler;
    uint32_t raw_best = 0, best = 0;
    enum sc_status st = find_max(logits, s->vocab, position, &raw_best, err);
    if (st != SC_OK)
        return st;
    if (s->raw != NULL)
        memcpy(s->raw, logits, s->vocab * sizeof(*logits));
    best = raw_best;
    if (adjusts(s)) {
        adjust(s, logits);
        st = find_max(logits, s->vocab, position, &best, err);
        if (st != SC_OK)
            return st;
    }
    uint32_t chosen = best;
    if (s->draw.scale != 0.0f) {
        s->draw.random = random_of(s->params.seed, position);
        chosen = sc_draw_token(logits, s->vocab, logits[best], &s->draw, NULL);
    }
    struct sc_sampled out = {.token = (int32_t)chosen};
    if (s->raw != NULL)
        fill_logprobs(s, raw_best, &out);
    if (s->counts != NULL)
        s->counts[chosen] += 1u << COUNT_SHIFT;
    s->n_sampled += s->n_sampled < UINT32_MAX;
    *ret_sampled = out;
    return SC_OK;
}

bool sc_sampler_plan(const struct sc_sampler *s, uint32_t vocab, uint32_t position,
                     struct sc_draw *ret_draw)
{
    *ret_draw = s->draw;
    ret_draw->random = random_of(s->params.seed, position);
    return s->vocab == vocab && s->raw == NULL && !adjusts(s);
}

enum sc_status sc_sampler_take(struct sc_sampler *s, float max, uint32_t id, uint32_t position,
                               struct sc_sampled *ret_sampled, struct sc_err *err)
{
    if (max != max)
        return sc_fail(err, SC_EINTERNAL, "logits of position %u: some are not a number", position);
    if (!isfinite(max) || id >= s->vocab)
        return sc_fail(err, SC_EINTERNAL, "logits of position %u: no finite maximum among %u",
                       position, s->vocab);
    *ret_sampled = (struct sc_sampled){.token = (int32_t)id};
    s->n_sampled += s->n_sampled < UINT32_MAX;
    return SC_OK;
}
