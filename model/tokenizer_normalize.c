/* model/tokenizer_normalize.c - the "normalizer" of tokenizer.json. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/tokenizer_internal.h"

static enum sc_status load(struct sc_tok_normalizer *n, const json_t *obj, unsigned depth,
                           struct sc_err *err);

static enum sc_status load_sequence(struct sc_tok_normalizer *n, const json_t *obj, unsigned depth,
                                    struct sc_err *err)
{
    const json_t *list = json_object_get(obj, "normalizers");
    if (!json_is_array(list))
        return sc_fail(err, SC_EFORMAT, "normalizer.normalizers: not an array");
    for (size_t i = 0; i < json_array_size(list); i++) {
        enum sc_status st = load(n, json_array_get(list, i), depth + 1, err);
        if (st != SC_OK)
            return st;
    }
    return SC_OK;
}

static enum sc_status load_content(struct sc_tok_norm_step *s, const json_t *obj, const char *key,
                                   struct sc_err *err)
{
    const char *text;
    size_t len;
    enum sc_status st = sc_tok_json_string(obj, "normalizer", key, &text, &len, err);
    if (st == SC_OK && len > SC_TOK_PATTERN_BYTES_MAX)
        st = sc_fail(err, SC_ERANGE, "normalizer.%s: %zu bytes, limit %zu", key, len,
                     SC_TOK_PATTERN_BYTES_MAX);
    return st == SC_OK ? sc_text_append(&s->content, text, len, err) : st;
}

static enum sc_status load_step(struct sc_tok_norm_step *s, const json_t *obj, const char *type,
                                struct sc_err *err)
{
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    for (size_t i = 0; i < SC_ARRAY_LEN(forms); i++) {
        if (strcmp(type, forms[i]) == 0) {
            s->kind = SC_TOK_NORM_FORM;
            s->form = (enum sc_unicode_form)i;
            return SC_OK;
        }
    }
    if (strcmp(type, "Prepend") == 0) {
        s->kind = SC_TOK_NORM_PREPEND;
        return load_content(s, obj, "prepend", err);
    }
    if (strcmp(type, "Replace") == 0) {
        s->kind = SC_TOK_NORM_REPLACE;
        enum sc_status st = load_content(s, obj, "content", err);
        return st == SC_OK ? sc_tok_pattern_load(&s->pattern, obj, "normalizer", err) : st;
    }
    if (strcmp(type, "Lowercase") == 0) {
        s->kind = SC_TOK_NORM_LOWERCASE;
        return SC_OK;
    }
    if (strcmp(type, "Strip") == 0) {
        s->kind = SC_TOK_NORM_STRIP;
        enum sc_status st = sc_tok_json_bool(obj, "normalizer", "strip_left", true, &s->left, err);
        if (st != SC_OK)
            return st;
        return sc_tok_json_bool(obj, "normalizer", "strip_right", true, &s->right, err);
    }
    if (strcmp(type, "StripAccents") == 0) {
        s->kind = SC_TOK_NORM_STRIP_ACCENTS;
        return SC_OK;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        s->kind = SC_TOK_NORM_BYTE_MAP;
        return SC_OK;
    }
    return sc_fail(err, SC_ENOTSUP, "normalizer: type %.40s is not supported", type);
}

static enum sc_status load(struct sc_tok_normalizer *n, const json_t *obj, unsigned depth,
                           struct sc_err *err)
{
    const char *type;
    size_t len;
    enum sc_status st = sc_tok_json_string(obj, "normalizer", "type", &type, &len, err);
    if (st != SC_OK)
        return st;
    if (depth > SC_TOK_NESTING_MAX)
        return sc_fail(err, SC_ERANGE, "normalizer: nested deeper than %d", SC_TOK_NESTING_MAX);
    if (strcmp(type, "Sequence") == 0)
        return load_sequence(n, obj, depth, err);
    if (n->n_steps == SC_TOK_STEPS_MAX)
        return sc_fail(err, SC_ERANGE, "normalizer: over %d steps", SC_TOK_STEPS_MAX);
    return load_step(&n->steps[n->n_steps++], obj, type, err);
}

enum sc_status sc_tok_normalizer_load(struct sc_tok_normalizer *n, const json_t *obj,
                                      struct sc_err *err)
{
    return !obj || json_is_null(obj) ? SC_OK : load(n, obj, 0, err);
}

void sc_tok_normalizer_fini(struct sc_tok_normalizer *n)
{
    for (size_t i = 0; i < n->n_steps; i++) {
        sc_tok_pattern_fini(&n->steps[i].pattern);
        sc_text_fini(&n->steps[i].content);
    }
    n->n_steps = 0;
}

bool sc_tok_normalizer_may_cut_start(const struct sc_tok_normalizer *n)
{
    for (size_t i = 0; i < n->n_steps; i++) {
        const struct sc_tok_norm_step *s = &n->steps[i];
        if ((s->kind == SC_TOK_NORM_STRIP && s->left) || s->kind == SC_TOK_NORM_STRIP_ACCENTS ||
            (s->kind == SC_TOK_NORM_REPLACE && s->content.len == 0))
            return true;
    }
    return false;
}

static enum sc_status replace(const struct sc_tok_norm_step *s, struct sc_tok_matcher *m,
                              const char *text, size_t len, struct sc_text *out, struct sc_err *err)
{
    size_t pos = 0;
    for (;;) {
        size_t start, end;
        enum sc_status st = sc_tok_pattern_find(&s->pattern, m, text, len, pos, &start, &end, err);
        if (st == SC_OK)
            st = sc_text_append(out, text + pos, start - pos, err);
        if (st != SC_OK || start == len)
            return st;
        if (out->len + s->content.len > SC_TOK_NORMALIZED_BYTES_MAX)
            return sc_fail(err, SC_ERANGE, "normalized text: over %zu bytes",
                           (size_t)SC_TOK_NORMALIZED_BYTES_MAX);
        st = sc_text_append(out, s->content.bytes, s->content.len, err);
        if (st != SC_OK)
            return st;
        pos = end;
    }
}

static enum sc_status lowercase(const char *text, size_t len, struct sc_text *out,
                                struct sc_err *err)
{
    enum sc_status st = SC_OK;
    for (size_t pos = 0; st == SC_OK && pos < len;) {
        char bytes[4];
        uint32_t cp = sc_utf8_next(text, &pos);
        if (cp == 0x130) /* the one letter whose lower case is two code points */
            st = sc_text_append(out, "i\xcc\x87", 3, err);
        else
            st = sc_text_append(out, bytes, sc_utf8_put(bytes, sc_unicode_lower(cp)), err);
    }
    return st;
}

static enum sc_status strip_accents(const char *text, size_t len, struct sc_text *out,
                                    struct sc_err *err)
{
    enum sc_status st = SC_OK;
    for (size_t pos = 0; st == SC_OK && pos < len;) {
        size_t start = pos;
        if (!sc_unicode_is(SC_UNICODE_M, sc_utf8_next(text, &pos)))
            st = sc_text_append(out, text + start, pos - start, err);
    }
    return st;
}

static void strip(const struct sc_tok_norm_step *s, const char **text, size_t *len)
{
    size_t start = 0, end = *len;
    while (s->left && start < end) {
        size_t next = start;
        if (!sc_unicode_is_space(sc_utf8_next(*text, &next)))
            break;
        start = next;
    }
    while (s->right && end > start) {
        size_t before = end;
        if (!sc_unicode_is_space(sc_utf8_prev(*text, &before)))
            break;
        end = before;
    }
    *text += start;
    *len = end - start;
}

enum sc_status sc_tok_normalize(const struct sc_tok_normalizer *n, struct sc_tok_matcher *m,
                                struct sc_text bufs[2], const char *text, size_t len,
                                const char **ret_text, size_t *ret_len, struct sc_err *err)
{
    unsigned next = 0;
    for (size_t i = 0; i < n->n_steps; i++) {
        const struct sc_tok_norm_step *s = &n->steps[i];
        struct sc_text *out = &bufs[next];
        enum sc_status st = SC_OK;
        out->len = 0;
        switch (s->kind) {
        case SC_TOK_NORM_STRIP:
            strip(s, &text, &len);
            continue;
        case SC_TOK_NORM_FORM:
            st = sc_unicode_normalize(s->form, text, len, out, err);
            break;
        case SC_TOK_NORM_PREPEND:
            if (len == 0)
                continue;
            st = sc_text_append(out, s->content.bytes, s->content.len, err);
            if (st == SC_OK)
                st = sc_text_append(out, text, len, err);
            break;
        case SC_TOK_NORM_REPLACE:
            st = replace(s, m, text, len, out, err);
            break;
        case SC_TOK_NORM_LOWERCASE:
            st = lowercase(text, len, out, err);
            break;
        case SC_TOK_NORM_STRIP_ACCENTS:
            st = strip_accents(text, len, out, err);
            break;
        case SC_TOK_NORM_BYTE_MAP:
            st = sc_tok_byte_map(text, len, out, err);
            break;
        }
        if (st == SC_OK)
            st = sc_text_append(out, "", 0, err); /* there are bytes, even when none are left */
        if (st == SC_OK && out->len > SC_TOK_NORMALIZED_BYTES_MAX)
            st = sc_fail(err, SC_ERANGE, "normalized text: %zu bytes, limit %zu", out->len,
                         (size_t)SC_TOK_NORMALIZED_BYTES_MAX);
        if (st != SC_OK)
            return st;
        text = out->bytes;
        len = out->len;
        next ^= 1;
    }
    *ret_text = text;
    *ret_len = len;
    return SC_OK;
}
