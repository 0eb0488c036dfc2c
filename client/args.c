#include "client/args.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_LIMIT_BYTES (64u << 20)
#define TYPO_DISTANCE_MAX 2

static enum sc_status no_memory(struct sc_err *err)
{
    return sc_fail(err, SC_ENOMEM, "arguments: more than %u bytes", ARENA_LIMIT_BYTES);
}

/* Number of single-character edits between short names, for the "did you mean" of a typo. */
static size_t edit_distance(const char *a, const char *b)
{
    enum { NAME_MAX_BYTES = 32 };
    size_t row[NAME_MAX_BYTES + 1];
    size_t n_a = strlen(a), n_b = strlen(b);
    if (n_a > NAME_MAX_BYTES || n_b > NAME_MAX_BYTES)
        return SIZE_MAX;
    for (size_t j = 0; j <= n_b; j++)
        row[j] = j;
    for (size_t i = 1; i <= n_a; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[n_b];
}

static enum sc_status unknown_option(enum sc_cmd_id cmd, const char *name, struct sc_err *err)
{
    const char *near = NULL;
    size_t near_distance = TYPO_DISTANCE_MAX + 1;
    for (int id = 0; id < SC_OPT_COUNT; id++) {
        const struct sc_opt_spec *spec = sc_opt_spec((enum sc_opt_id)id);
        if (strcmp(spec->name, name) == 0)
            return sc_fail(err, SC_EINVAL, "option --%s does not belong to %s", name,
                           sc_cmd_spec(cmd)->name);
        size_t distance = edit_distance(spec->name, name);
        if (sc_opt_belongs(spec, cmd) && distance < near_distance) {
            near = spec->name;
            near_distance = distance;
        }
    }
    if (near != NULL)
        return sc_fail(err, SC_EINVAL, "unknown option --%.64s (did you mean --%s?)", name, near);
    return sc_fail(err, SC_EINVAL, "unknown option --%.64s", name);
}

/* ret_n_words: of argv that name the command. */
static enum sc_status parse_cmd(int argc, char *const *argv, enum sc_cmd_id *ret_cmd,
                                int *ret_n_words, struct sc_err *err)
{
    const size_t len = strlen(argv[1]);
    bool first_word_known = false;
    for (int id = 0; id < SC_CMD_COUNT; id++) {
        const char *name = sc_cmd_spec((enum sc_cmd_id)id)->name;
        if (strncmp(name, argv[1], len) != 0 || (name[len] != '\0' && name[len] != ' '))
            continue;
        first_word_known = true;
        if (name[len] == '\0' || (argc > 2 && strcmp(name + len + 1, argv[2]) == 0)) {
            *ret_cmd = (enum sc_cmd_id)id;
            *ret_n_words = name[len] == '\0' ? 1 : 2;
            return SC_OK;
        }
    }
    if (first_word_known && (argc == 2 || argv[2][0] == '-'))
        return sc_fail(err, SC_EINVAL,
                       "command '%.64s' needs a second word: `semcache help %.64s` has them",
                       argv[1], argv[1]);
    if (first_word_known)
        return sc_fail(err, SC_EINVAL, "unknown command '%.64s %.64s'", argv[1], argv[2]);
    return sc_fail(err, SC_EINVAL, "unknown command '%.64s'", argv[1]);
}

static enum sc_status bad_range(const struct sc_opt_spec *spec, const char *text,
                                struct sc_err *err)
{
    return sc_fail(err, SC_EINVAL, "--%s: '%.64s', must be %.10g..%.10g", spec->name, text,
                   spec->low, spec->high);
}

/* A double's digits do not tell 2^64 - 1. */
static uint64_t whole_limit(double limit)
{
    return limit < (double)UINT64_MAX ? (uint64_t)limit : UINT64_MAX;
}

static enum sc_status parse_uint(const struct sc_opt_spec *spec, const char *text, uint64_t *ret_u,
                                 struct sc_err *err)
{
    char *end;
    errno = 0;
    unsigned long long u = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0')
        return sc_fail(err, SC_EINVAL, "--%s: '%.64s' is not a whole number of 0 or more",
                       spec->name, text);
    if (errno == ERANGE || (double)u < spec->low || (double)u > spec->high)
        return sc_fail(err, SC_EINVAL, "--%s: '%.64s', must be %" PRIu64 "..%" PRIu64, spec->name,
                       text, whole_limit(spec->low), whole_limit(spec->high));
    *ret_u = u;
    return SC_OK;
}

/* "5" or "5-9". */
static enum sc_status parse_range(const struct sc_opt_spec *spec, const char *text,
                                  struct sc_arg_value *v, struct sc_err *err)
{
    char first[24];
    const char *dash = strchr(text, '-');
    const size_t len = dash != NULL ? (size_t)(dash - text) : strlen(text);
    uint64_t low = 0, high = 0;
    if (len >= sizeof(first))
        return bad_range(spec, text, err);
    memcpy(first, text, len);
    first[len] = '\0';
    enum sc_status st = parse_uint(spec, first, &low, err);
    high = low;
    if (st == SC_OK && dash != NULL)
        st = parse_uint(spec, dash + 1, &high, err);
    if (st != SC_OK)
        return st;
    if (low > high)
        return sc_fail(err, SC_EINVAL, "--%s: '%.64s' ends before it starts", spec->name, text);
    v->u = low;
    v->u_high = high;
    return SC_OK;
}

static enum sc_status parse_int(const struct sc_opt_spec *spec, const char *text, int64_t *ret_i,
                                struct sc_err *err)
{
    char *end;
    errno = 0;
    long long i = strtoll(text, &end, 10);
    if (end == text || *end != '\0')
        return sc_fail(err, SC_EINVAL, "--%s: '%.64s' is not a whole number", spec->name, text);
    if (errno == ERANGE || (double)i < spec->low || (double)i > spec->high)
        return bad_range(spec, text, err);
    *ret_i = i;
    return SC_OK;
}

static enum sc_status parse_real(const struct sc_opt_spec *spec, const char *text, double *ret_real,
                                 struct sc_err *err)
{
    char *end;
    double real = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(real))
        return sc_fail(err, SC_EINVAL, "--%s: '%.64s' is not a number", spec->name, text);
    if (real < spec->low || real > spec->high)
        return bad_range(spec, text, err);
    *ret_real = real;
    return SC_OK;
}

static enum sc_status parse_bool(const struct sc_opt_spec *spec, const char *text, bool *ret_on,
                                 struct sc_err *err)
{
    static const char *const words[][2] = {
        {"false", "true"}, {"off", "on"}, {"no", "yes"}, {"0", "1"}};
    for (size_t w = 0; w < SC_ARRAY_LEN(words); w++) {
        for (int on = 0; on < 2; on++) {
            if (strcmp(text, words[w][on]) == 0) {
                *ret_on = on != 0;
                return SC_OK;
            }
        }
    }
    return sc_fail(err, SC_EINVAL, "--%s: '%.64s' is neither true nor false", spec->name, text);
}

static enum sc_status parse_choice(const struct sc_opt_spec *spec, const char *text,
                                   uint32_t *ret_choice, struct sc_err *err)
{
    char list[128] = "";
    for (uint32_t c = 0; c < SC_CHOICES_MAX && spec->choices[c] != NULL; c++) {
        if (strcmp(text, spec->choices[c]) == 0) {
            *ret_choice = c;
            return SC_OK;
        }
        if (c > 0)
            strncat(list, ", ", sizeof(list) - strlen(list) - 1);
        strncat(list, spec->choices[c], sizeof(list) - strlen(list) - 1);
    }
    return sc_fail(err, SC_EINVAL, "--%s: '%.64s', must be one of: %s", spec->name, text, list);
}

static enum sc_status parse_bias(const struct sc_opt_spec *spec, const char *text, const char **at,
                                 float *ret_bias, struct sc_err *err)
{
    char *end;
    if (**at != ':')
        return sc_fail(err, SC_EINVAL, "--%s: '%.64s' is not ID:BIAS,...", spec->name, text);
    double bias = strtod(*at + 1, &end);
    if (end == *at + 1)
        return sc_fail(err, SC_EINVAL, "--%s: '%.64s' is not ID:BIAS,...", spec->name, text);
    if (!(bias >= spec->low && bias <= spec->high))
        return sc_fail(err, SC_EINVAL, "--%s: bias %g, must be %g..%g", spec->name, bias, spec->low,
                       spec->high);
    *at = end;
    *ret_bias = (float)bias;
    return SC_OK;
}

/* Both "1,2,3" and, with biases, "1:0.5,2:-1". */
static enum sc_status parse_ids(const struct sc_opt_spec *spec, const char *text,
                                struct sc_arena *arena, struct sc_arg_value *v, struct sc_err *err)
{
    const bool with_bias = spec->kind == SC_ARG_BIAS;
    const long long high = with_bias ? INT32_MAX : (long long)spec->high;
    size_t n_most = 1;
    if (spec->choices[0] != NULL && strcmp(text, spec->choices[0]) == 0) {
        v->ids = NULL; /* the word for an empty list */
        v->n_items = 0;
        return SC_OK;
    }
    for (const char *p = text; *p != '\0'; p++)
        n_most += *p == ',';
    if (n_most > SC_ARG_LIST_MAX)
        return sc_fail(err, SC_EINVAL, "--%s: %zu items, limit %u", spec->name, n_most,
                       SC_ARG_LIST_MAX);
    int32_t *ids = sc_arena_take(arena, n_most * sizeof(*ids));
    float *biases = sc_arena_take(arena, with_bias ? n_most * sizeof(*biases) : 0);
    if (ids == NULL || biases == NULL)
        return no_memory(err);
    const char *at = text;
    for (uint32_t n = 0; n < n_most; n++) {
        char *end;
        errno = 0;
        long long id = strtoll(at, &end, 10);
        if (end == at)
            return sc_fail(err, SC_EINVAL, "--%s: '%.64s' is not %s", spec->name, text,
                           with_bias ? "ID:BIAS,..." : "a list of numbers with commas");
        if (errno == ERANGE || id < 0 || id > high)
            return sc_fail(err, SC_EINVAL, "--%s: %.*s, must be 0..%lld", spec->name,
                           (int)(end - at < 24 ? end - at : 24), at, high);
        ids[n] = (int32_t)id;
        at = end;
        if (with_bias) {
            enum sc_status st = parse_bias(spec, text, &at, &biases[n], err);
            if (st != SC_OK)
                return st;
        }
        const char want = n + 1 < n_most ? ',' : '\0';
        if (*at != want)
            return sc_fail(err, SC_EINVAL, "--%s: unexpected '%.16s'", spec->name, at);
        at++;
    }
    v->ids = ids;
    v->biases = biases;
    v->n_items = (uint32_t)n_most;
    return SC_OK;
}

static enum sc_status add_text(const struct sc_opt_spec *spec, const char *text,
                               struct sc_arena *arena, struct sc_arg_value *v, struct sc_err *err)
{
    if (v->texts == NULL)
        v->texts = sc_arena_take(arena, SC_ARG_TEXTS_MAX * sizeof(*v->texts));
    if (v->texts == NULL)
        return no_memory(err);
    if (v->n_items == SC_ARG_TEXTS_MAX)
        return sc_fail(err, SC_EINVAL, "--%s: given more than %u times", spec->name,
                       SC_ARG_TEXTS_MAX);
    v->texts[v->n_items++] = text;
    return SC_OK;
}

static enum sc_status parse_value(const struct sc_opt_spec *spec, const char *text,
                                  struct sc_arena *arena, struct sc_arg_value *v,
                                  struct sc_err *err)
{
    enum sc_status st = SC_OK;
    switch (spec->kind) {
    case SC_ARG_FLAG:
        v->on = true;
        break;
    case SC_ARG_FLAG_UINT:
        v->on = true;
        v->u = 0;
        if (text != NULL)
            st = parse_uint(spec, text, &v->u, err);
        break;
    case SC_ARG_TEXT:
        break;
    case SC_ARG_TEXTS:
        st = add_text(spec, text, arena, v, err);
        break;
    case SC_ARG_UINT:
        st = parse_uint(spec, text, &v->u, err);
        break;
    case SC_ARG_INT:
        st = parse_int(spec, text, &v->i, err);
        break;
    case SC_ARG_RANGE:
        st = parse_range(spec, text, v, err);
        break;
    case SC_ARG_REAL:
        st = parse_real(spec, text, &v->real, err);
        break;
    case SC_ARG_BOOL:
        st = parse_bool(spec, text, &v->on, err);
        break;
    case SC_ARG_CHOICE:
        st = parse_choice(spec, text, &v->choice, err);
        break;
    case SC_ARG_IDS:
    case SC_ARG_BIAS:
        st = parse_ids(spec, text, arena, v, err);
        break;
    }
    if (st == SC_OK) {
        v->set = true;
        v->text = text;
    }
    return st;
}

/* One option at argv[*at]; moves *at past a value taken from the next argument. */
static enum sc_status parse_option(struct sc_args *args, int argc, char *const *argv, int *at,
                                   struct sc_err *err)
{
    char name[64];
    const char *arg = argv[*at] + 2;
    const char *equals = strchr(arg, '=');
    size_t len = equals != NULL ? (size_t)(equals - arg) : strlen(arg);
    if (len >= sizeof(name))
        return sc_fail(err, SC_EINVAL, "unknown option --%.64s", arg);
    memcpy(name, arg, len);
    name[len] = '\0';
    for (int id = 0; id < SC_OPT_COUNT; id++) {
        const struct sc_opt_spec *spec = sc_opt_spec((enum sc_opt_id)id);
        if (strcmp(spec->name, name) != 0 || !sc_opt_belongs(spec, args->cmd))
            continue;
        const char *text = equals != NULL ? equals + 1 : NULL;
        if (spec->kind == SC_ARG_FLAG && text != NULL)
            return sc_fail(err, SC_EINVAL, "--%s takes no value", name);
        if (spec->kind != SC_ARG_FLAG && spec->kind != SC_ARG_FLAG_UINT && text == NULL) {
            if (*at + 1 >= argc)
                return sc_fail(err, SC_EINVAL, "--%s needs a value: %s", name, spec->value_name);
            text = argv[++*at];
        }
        return parse_value(spec, text, &args->arena, &args->values[id], err);
    }
    return unknown_option(args->cmd, name, err);
}

static enum sc_status parse_all(struct sc_args *args, int argc, char *const *argv, int first,
                                struct sc_err *err)
{
    bool words_only = false;
    for (int at = first; at < argc; at++) {
        const char *arg = argv[at];
        enum sc_status st = SC_OK;
        if (!words_only && strcmp(arg, "--") == 0)
            words_only = true;
        else if (!words_only && strcmp(arg, "-h") == 0)
            args->values[SC_OPT_HELP].set = args->values[SC_OPT_HELP].on = true;
        else if (!words_only && strncmp(arg, "--", 2) == 0)
            st = parse_option(args, argc, argv, &at, err);
        else if (!words_only && arg[0] == '-' && arg[1] != '\0')
            st = sc_fail(err, SC_EINVAL, "unknown option %.64s (options start with --)", arg);
        else if (args->n_words == sc_cmd_spec(args->cmd)->max_words)
            st = sc_fail(err, SC_EINVAL, "%s: unexpected argument '%.64s'",
                         sc_cmd_spec(args->cmd)->name, arg);
        else
            args->words[args->n_words++] = arg;
        if (st != SC_OK)
            return st;
    }
    const struct sc_cmd_spec *spec = sc_cmd_spec(args->cmd);
    if (args->n_words < spec->min_words && !args->values[SC_OPT_HELP].set)
        return sc_fail(err, SC_EINVAL, "%s: usage: semcache %s %s", spec->name, spec->name,
                       spec->usage);
    return SC_OK;
}

enum sc_status sc_args_parse(int argc, char *const *argv, struct sc_args *ret_args,
                             struct sc_err *err)
{
    struct sc_args args = {0};
    if (argc < 2)
        return sc_fail(err, SC_EINVAL, "a command is missing");
    int n_words = 0;
    enum sc_status st = parse_cmd(argc, argv, &args.cmd, &n_words, err);
    if (st != SC_OK)
        return st;
    sc_arena_init(&args.arena, ARENA_LIMIT_BYTES);
    st = parse_all(&args, argc, argv, 1 + n_words, err);
    if (st != SC_OK) {
        sc_arena_fini(&args.arena);
        return st;
    }
    *ret_args = args;
    return SC_OK;
}

void sc_args_fini(struct sc_args *args)
{
    sc_arena_fini(&args->arena);
}

char *sc_args_unescape(struct sc_arena *arena, const char *text)
{
    size_t len = strlen(text), n = 0;
    char *out = sc_arena_take(arena, len + 1);
    if (out == NULL)
        return NULL;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        const char *known = c == '\\' && text[i + 1] != '\0' ? strchr("nt\\", text[i + 1]) : NULL;
        if (known != NULL) {
            c = *known == 'n' ? '\n' : *known == 't' ? '\t' : '\\';
            i++;
        }
        out[n++] = c;
    }
    out[n] = '\0';
    return out;
}
