#include <math.h>
#include <string.h>

#include "model/config_internal.h"

/* transformers 4 has rope_theta beside rope_scaling {rope_type or type, ...}; 5 has both in
 * rope_parameters. Either may be null. */

#define THETA_MIN     2.0 /* the logarithm is a divisor */
#define THETA_MAX     1e12
#define FACTOR_MAX    65536.0
#define BAND_MIN      1e-3 /* low_freq_factor, high_freq_factor, beta_fast, beta_slow */
#define BAND_MAX      1e6
#define ATTENTION_MIN 1e-3
#define ATTENTION_MAX 1e3
#define THETA_DEFAULT 10000.0
#define BETA_FAST     32.0
#define BETA_SLOW     1.0

enum {
    ANY_KIND = 1 << SC_ROPE_DEFAULT | 1 << SC_ROPE_LINEAR | 1 << SC_ROPE_LLAMA3 | 1 << SC_ROPE_YARN,
    SCALED = ANY_KIND & ~(1 << SC_ROPE_DEFAULT),
    LLAMA3 = 1 << SC_ROPE_LLAMA3,
    YARN = 1 << SC_ROPE_YARN,
};

static const struct {
    const char *field;
    int kinds;
} known_fields[] = {
    {"rope_type", ANY_KIND},
    {"type", ANY_KIND},
    {"rope_theta", ANY_KIND},
    {"partial_rotary_factor", ANY_KIND},            /* must be 1 */
    {"original_max_position_embeddings", ANY_KIND}, /* without meaning for default and linear */
    {"finetuned", ANY_KIND},                        /* a note in old yarn files */
    {"factor", SCALED},
    {"low_freq_factor", LLAMA3},
    {"high_freq_factor", LLAMA3},
    {"attention_factor", YARN},
    {"beta_fast", YARN},
    {"beta_slow", YARN},
    {"mscale", YARN},
    {"mscale_all_dim", YARN},
    {"truncate", YARN},
};

/* The rope object, or NULL when neither spelling has one. */
static const json_t *rope_object(struct sc_json_cursor *c, const char **ret_name)
{
    static const char *const names[] = {"rope_scaling", "rope_parameters"};
    const json_t *found = NULL;
    for (size_t i = 0; i < SC_ARRAY_LEN(names); i++) {
        const json_t *v = sc_json_get(c, names[i]);
        if (v == NULL || (json_is_object(v) && json_object_size(v) == 0))
            continue;
        if (!json_is_object(v))
            sc_json_refuse(c, SC_EINVAL, names[i], "expected an object or null");
        else if (found != NULL && !json_equal(found, v))
            sc_json_refuse(c, SC_EINVAL, names[i], "which differs from rope_scaling");
        else if (found == NULL) {
            found = v;
            *ret_name = i == 0 ? "config.json: rope_scaling" : "config.json: rope_parameters";
        }
    }
    return c->status == SC_OK ? found : NULL;
}

static void parse_kind(struct sc_json_cursor *r, struct sc_rope *rope)
{
    static const char *const kinds[] = {"default", "linear", "llama3", "yarn"};
    const char *old = sc_json_str_or(r, "type", NULL);
    const char *name = sc_json_str_or(r, "rope_type", old);
    const char *field = sc_json_get(r, "rope_type") != NULL ? "rope_type" : "type";
    if (r->status != SC_OK || name == NULL)
        return; /* default */
    if (old != NULL && strcmp(old, name) != 0) {
        sc_json_refuse(r, SC_EINVAL, "rope_type", "but type is \"%.40s\"", old);
        return;
    }
    for (size_t i = 0; i < SC_ARRAY_LEN(kinds); i++)
        if (strcmp(name, kinds[i]) == 0) {
            rope->kind = (enum sc_rope_kind)i;
            return;
        }
    sc_json_refuse(r, SC_ENOTSUP, field, "supported: default, linear, llama3, yarn");
}

/* A field that this kind does not read would be silently without effect. */
static void refuse_unknown(struct sc_json_cursor *r, enum sc_rope_kind kind)
{
    const char *field;
    json_t *value;
    json_t *obj = (json_t *)(uintptr_t)r->obj; /* iteration takes no const, and changes nothing */
    json_object_foreach(obj, field, value)
    {
        bool known = json_is_null(value);
        for (size_t i = 0; i < SC_ARRAY_LEN(known_fields) && !known; i++)
            known = strcmp(field, known_fields[i].field) == 0 &&
                    (known_fields[i].kinds & 1 << kind) != 0;
        if (!known) {
            sc_json_refuse(r, SC_ENOTSUP, field, "not understood for this rope_type");
            return;
        }
    }
}

static double mscale_of(double factor, double mscale)
{
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static void parse_yarn(struct sc_json_cursor *r, struct sc_rope *rope)
{
    rope->beta_fast = sc_json_num_or(r, "beta_fast", BAND_MIN, BAND_MAX, BETA_FAST);
    rope->beta_slow = sc_json_num_or(r, "beta_slow", BAND_MIN, BAND_MAX, BETA_SLOW);
    rope->truncate = sc_json_bool_or(r, "truncate", true);
    double mscale = sc_json_num_or(r, "mscale", 0.0, ATTENTION_MAX, 0.0);
    double mscale_all = sc_json_num_or(r, "mscale_all_dim", 0.0, ATTENTION_MAX, 0.0);
    double inferred = mscale > 0.0 && mscale_all > 0.0
                          ? mscale_of(rope->factor, mscale) / mscale_of(rope->factor, mscale_all)
                          : mscale_of(rope->factor, 1.0);
    rope->attention_factor =
        sc_json_num_or(r, "attention_factor", ATTENTION_MIN, ATTENTION_MAX, inferred);
    if (r->status == SC_OK && rope->beta_fast < rope->beta_slow)
        sc_json_refuse(r, SC_EINVAL, "beta_fast", "expected at least beta_slow %g",
                       rope->beta_slow);
}

/* Phi-3 and its kin keep original_max_position_embeddings at the top level, where it wins. */
static uint32_t original_positions(struct sc_json_cursor *c, struct sc_json_cursor *r,
                                   uint32_t max_positions)
{
    const char *field = "original_max_position_embeddings";
    int64_t top = sc_json_int_or(c, field, 1, SC_CONTEXT_MAX, 0);
    int64_t inner = sc_json_int_or(r, field, 1, SC_CONTEXT_MAX, 0);
    if (top != 0 && inner != 0 && top != inner)
        sc_json_refuse(r, SC_EINVAL, field, "but at the top level it is %lld", (long long)top);
    return (uint32_t)(top != 0 ? top : inner != 0 ? inner : max_positions);
}

static void parse_scaling(struct sc_json_cursor *c, struct sc_json_cursor *r,
                          struct sc_model_config *config)
{
    struct sc_rope *rope = &config->rope;
    rope->original_max_positions = original_positions(c, r, config->max_positions);
    if (rope->kind == SC_ROPE_DEFAULT)
        return;
    const json_t *factor = json_object_get(r->obj, "factor");
    if (rope->kind == SC_ROPE_YARN && json_is_null(factor)) /* written so: the ratio of contexts */
        rope->factor = fmax(1.0, (double)config->max_positions / rope->original_max_positions);
    else
        rope->factor = sc_json_num(r, "factor", 1.0, FACTOR_MAX);
    if (rope->kind == SC_ROPE_LLAMA3) {
        rope->low_freq_factor = sc_json_num(r, "low_freq_factor", BAND_MIN, BAND_MAX);
        rope->high_freq_factor = sc_json_num(r, "high_freq_factor", BAND_MIN, BAND_MAX);
        if (r->status == SC_OK && rope->high_freq_factor <= rope->low_freq_factor)
            sc_json_refuse(r, SC_EINVAL, "high_freq_factor",
                           "expected more than low_freq_factor %g", rope->low_freq_factor);
    } else if (rope->kind == SC_ROPE_YARN) {
        parse_yarn(r, rope);
    }
}

/* Qwen's files keep the native context in max_position_embeddings and leave the extended one to
 * factor * original; newer ones write the product. */
static void extend_context(struct sc_json_cursor *r, struct sc_model_config *config)
{
    double extended = floor(config->rope.factor * config->rope.original_max_positions);
    if (r->status != SC_OK || config->rope.kind != SC_ROPE_YARN ||
        extended <= config->max_positions)
        return;
    if (extended > SC_CONTEXT_MAX)
        sc_json_refuse(r, SC_ERANGE, "factor", "which makes a context of %.0f, limit %u", extended,
                       SC_CONTEXT_MAX);
    else
        config->max_positions = (uint32_t)extended;
}

void sc_config_rope(struct sc_json_cursor *c, struct sc_model_config *config)
{
    struct sc_json_cursor r = {.err = c->err};
    bool has_top = sc_json_get(c, "rope_theta") != NULL;
    double top_theta = sc_json_num_or(c, "rope_theta", THETA_MIN, THETA_MAX, THETA_DEFAULT);
    config->rope = (struct sc_rope){.kind = SC_ROPE_DEFAULT,
                                    .theta = top_theta,
                                    .factor = 1.0,
                                    .original_max_positions = config->max_positions,
                                    .attention_factor = 1.0,
                                    .truncate = true};
    r.obj = rope_object(c, &r.what);
    if (r.obj == NULL)
        return;
    parse_kind(&r, &config->rope);
    if (r.status == SC_OK)
        refuse_unknown(&r, config->rope.kind);
    config->rope.theta = sc_json_num_or(&r, "rope_theta", THETA_MIN, THETA_MAX, top_theta);
    if (r.status == SC_OK && has_top && config->rope.theta != top_theta)
        sc_json_refuse(&r, SC_EINVAL, "rope_theta", "but at the top level it is %g", top_theta);
    if (sc_json_num_or(&r, "partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0)
        sc_json_refuse(&r, SC_ENOTSUP, "partial_rotary_factor", "supported: 1");
    parse_scaling(c, &r, config);
    extend_context(&r, config);
    if (c->status == SC_OK)
        c->status = r.status;
}
