/* model/tokenizer_pretok.c - the "pre_tokenizer" of tokenizer.json: parsing.
 *
 * Every kind is put together from four steps: split, prefix a space, metaspace, byte map.
 */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

/* What ByteLevel splits by when use_regex is true. */
static const char gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static enum sc_status load(struct sc_tok_pretok *p, const json_t *obj, unsigned depth,
                           struct sc_err *err);

static enum sc_status add_step(struct sc_tok_pretok *p, enum sc_tok_pretok_kind kind,
                               struct sc_tok_pretok_step **ret_step, struct sc_err *err)
{
    if (p->n_steps == SC_TOK_STEPS_MAX)
        return sc_fail(err, SC_ERANGE, "pre_tokenizer: over %d steps", SC_TOK_STEPS_MAX);
    struct sc_tok_pretok_step *s = &p->steps[p->n_steps++];
    s->kind = kind;
    s->behavior = SC_TOK_ISOLATED;
    *ret_step = s;
    return SC_OK;
}

/* def: NULL when the field must be there. */
static enum sc_status load_behavior(const json_t *obj, const char *def,
                                    enum sc_tok_behavior *ret_behavior, struct sc_err *err)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name = json_string_value(json_object_get(obj, "behavior"));
    if (!name)
        name = def;
    for (size_t i = 0; name && i < SC_ARRAY_LEN(names); i++) {
        if (strcmp(names[i], name) == 0) {
            *ret_behavior = (enum sc_tok_behavior)i;
            return SC_OK;
        }
    }
    return sc_fail(err, SC_ENOTSUP, "pre_tokenizer.behavior: \"%.40s\" is not supported",
                   name ? name : "");
}

static enum sc_status load_split(struct sc_tok_pretok *p, const json_t *obj, struct sc_err *err)
{
    struct sc_tok_pretok_step *s = NULL;
    enum sc_status st = add_step(p, SC_TOK_PRETOK_SPLIT, &s, err);
    if (st == SC_OK)
        st = load_behavior(obj, NULL, &s->behavior, err);
    if (st == SC_OK)
        st = sc_tok_json_bool(obj, "pre_tokenizer", "invert", false, &s->invert, err);
    if (st == SC_OK)
        st = sc_tok_pattern_load(&s->pattern, obj, "pre_tokenizer", err);
    return st;
}

static enum sc_status load_class(struct sc_tok_pretok *p, enum sc_tok_pattern_kind kind,
                                 enum sc_tok_behavior behavior, bool invert, struct sc_err *err)
{
    struct sc_tok_pretok_step *s = NULL;
    enum sc_status st = add_step(p, SC_TOK_PRETOK_SPLIT, &s, err);
    if (st != SC_OK)
        return st;
    s->pattern.kind = kind;
    s->behavior = behavior;
    s->invert = invert;
    return SC_OK;
}

static enum sc_status load_byte_level(struct sc_tok_pretok *p, const json_t *obj,
                                      struct sc_err *err)
{
    bool prefix, regex;
    struct sc_tok_pretok_step *s = NULL;
    enum sc_status st =
        sc_tok_json_bool(obj, "pre_tokenizer", "add_prefix_space", true, &prefix, err);
    if (st == SC_OK)
        st = sc_tok_json_bool(obj, "pre_tokenizer", "use_regex", true, &regex, err);
    if (st == SC_OK && prefix)
        st = add_step(p, SC_TOK_PRETOK_PREFIX_SPACE, &s, err);
    if (st == SC_OK && regex) {
        st = add_step(p, SC_TOK_PRETOK_SPLIT, &s, err);
        if (st == SC_OK)
            st = sc_tok_pattern_regex(&s->pattern, gpt2_regex, sizeof(gpt2_regex) - 1, err);
    }
    if (st == SC_OK)
        st = add_step(p, SC_TOK_PRETOK_BYTE_MAP, &s, err);
    return st;
}

enum sc_status sc_tok_metaspace_load(const json_t *obj, const char *where,
                                     struct sc_tok_pretok_step *ret_step, bool *ret_split,
                                     struct sc_err *err)
{
    const char *text;
    size_t len, pos = 0;
    bool legacy;
    enum sc_status st = sc_tok_json_string(obj, where, "replacement", &text, &len, err);
    if (st == SC_OK)
        st = sc_tok_json_bool(obj, where, "add_prefix_space", true, &legacy, err);
    if (st == SC_OK)
        st = sc_tok_json_bool(obj, where, "split", true, ret_split, err);
    if (st != SC_OK)
        return st;
    if (len > 0)
        sc_utf8_next(text, &pos);
    if (len == 0 || pos != len)
        return sc_fail(err, SC_EFORMAT, "%s.replacement: not one character", where);
    memcpy(ret_step->replacement, text, len);
    ret_step->replacement_len = len;
    const json_t *scheme = json_object_get(obj, "prepend_scheme");
    const char *name = json_string_value(scheme);
    if (!scheme || json_is_null(scheme))
        ret_step->prepend = legacy ? SC_TOK_PREPEND_ALWAYS : SC_TOK_PREPEND_NEVER;
    else if (name && strcmp(name, "always") == 0)
        ret_step->prepend = SC_TOK_PREPEND_ALWAYS;
    else if (name && strcmp(name, "first") == 0)
        ret_step->prepend = SC_TOK_PREPEND_FIRST;
    else if (name && strcmp(name, "never") == 0)
        ret_step->prepend = SC_TOK_PREPEND_NEVER;
    else
        return sc_fail(err, SC_ENOTSUP, "%s.prepend_scheme: \"%.40s\" is not supported", where,
                       name ? name : "");
    return SC_OK;
}

static enum sc_status load_metaspace(struct sc_tok_pretok *p, const json_t *obj, struct sc_err *err)
{
    struct sc_tok_pretok_step *s = NULL;
    bool split = false;
    enum sc_status st = add_step(p, SC_TOK_PRETOK_METASPACE, &s, err);
    if (st == SC_OK)
        st = sc_tok_metaspace_load(obj, "pre_tokenizer", s, &split, err);
    if (st != SC_OK || !split)
        return st;
    const struct sc_tok_pretok_step *meta = s;
    st = add_step(p, SC_TOK_PRETOK_SPLIT, &s, err);
    if (st != SC_OK)
        return st;
    s->behavior = SC_TOK_MERGED_WITH_NEXT;
    return sc_tok_pattern_literal(&s->pattern, meta->replacement, meta->replacement_len, err);
}

static enum sc_status load_sequence(struct sc_tok_pretok *p, const json_t *obj, unsigned depth,
                                    struct sc_err *err)
{
    const json_t *list = json_object_get(obj, "pretokenizers");
    if (!json_is_array(list))
        return sc_fail(err, SC_EFORMAT, "pre_tokenizer.pretokenizers: not an array");
    for (size_t i = 0; i < json_array_size(list); i++) {
        enum sc_status st = load(p, json_array_get(list, i), depth + 1, err);
        if (st != SC_OK)
            return st;
    }
    return SC_OK;
}

static enum sc_status load(struct sc_tok_pretok *p, const json_t *obj, unsigned depth,
                           struct sc_err *err)
{
    const char *type;
    size_t len;
    enum sc_status st = sc_tok_json_string(obj, "pre_tokenizer", "type", &type, &len, err);
    if (st != SC_OK)
        return st;
    if (depth > SC_TOK_NESTING_MAX)
        return sc_fail(err, SC_ERANGE, "pre_tokenizer: nested deeper than %d", SC_TOK_NESTING_MAX);
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(p, obj, depth, err);
    if (strcmp(type, "Split") == 0)
        return load_split(p, obj, err);
    if (strcmp(type, "ByteLevel") == 0)
        return load_byte_level(p, obj, err);
    if (strcmp(type, "Metaspace") == 0)
        return load_metaspace(p, obj, err);
    if (strcmp(type, "Digits") == 0) {
        bool individual;
        st = sc_tok_json_bool(obj, "pre_tokenizer", "individual_digits", false, &individual, err);
        return st != SC_OK
                   ? st
                   : load_class(p, SC_TOK_PATTERN_NUMBER,
                                individual ? SC_TOK_ISOLATED : SC_TOK_CONTIGUOUS, false, err);
    }
    if (strcmp(type, "Punctuation") == 0) {
        enum sc_tok_behavior behavior;
        st = load_behavior(obj, "Isolated", &behavior, err);
        return st != SC_OK ? st : load_class(p, SC_TOK_PATTERN_PUNCTUATION, behavior, false, err);
    }
    if (strcmp(type, "Whitespace") == 0)
        return load_class(p, SC_TOK_PATTERN_WORDS, SC_TOK_REMOVED, true, err);
    if (strcmp(type, "WhitespaceSplit") == 0)
        return load_class(p, SC_TOK_PATTERN_SPACE, SC_TOK_REMOVED, false, err);
    return sc_fail(err, SC_ENOTSUP, "pre_tokenizer: type %.40s is not supported", type);
}

enum sc_status sc_tok_pretok_load(struct sc_tok_pretok *p, const json_t *obj, struct sc_err *err)
{
    if (!obj || json_is_null(obj))
        return SC_OK;
    enum sc_status st = load(p, obj, 0, err);
    if (st != SC_OK)
        return st;
    /* BPE maps the bytes of a word itself when that is the last thing to be done. */
    if (p->n_steps > 0 && p->steps[p->n_steps - 1].kind == SC_TOK_PRETOK_BYTE_MAP) {
        p->bytes = true;
        p->n_steps--;
    }
    return SC_OK;
}

void sc_tok_pretok_fini(struct sc_tok_pretok *p)
{
    for (size_t i = 0; i < p->n_steps; i++)
        sc_tok_pattern_fini(&p->steps[i].pattern);
    p->n_steps = 0;
}

bool sc_tok_pretok_needs_origin(const struct sc_tok_pretok *p)
{
    for (size_t i = 0; i < p->n_steps; i++)
        if (p->steps[i].kind == SC_TOK_PRETOK_METASPACE &&
            p->steps[i].prepend == SC_TOK_PREPEND_FIRST)
            return true;
    return false;
}

/* Printable Latin-1 stands for itself; the other 68 bytes are U+0100 and up, in order. */
static bool is_printable(unsigned byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

uint32_t sc_tok_byte_to_char(uint8_t byte)
{
    if (is_printable(byte))
        return byte;
    uint32_t n = 0;
    for (unsigned b = 0; b < byte; b++)
        n += !is_printable(b);
    return 256 + n;
}

int sc_tok_char_to_byte(uint32_t cp)
{
    if (cp < 256)
        return is_printable(cp) ? (int)cp : -1;
    if (cp >= 256 + 68)
        return -1;
    uint32_t n = cp - 256;
    for (int b = 0; b < 256; b++)
        if (!is_printable((unsigned)b) && n-- == 0)
            return b;
    return -1;
}

enum sc_status sc_tok_byte_map(const char *text, size_t len, struct sc_text *out,
                               struct sc_err *err)
{
    enum sc_status st = SC_OK;
    for (size_t i = 0; st == SC_OK && i < len; i++) {
        char bytes[4];
        unsigned n = sc_utf8_put(bytes, sc_tok_byte_to_char((uint8_t)text[i]));
        st = sc_text_append(out, bytes, n, err);
    }
    return st;
}
