/* model/tokenizer_pattern.c - finding the next match of a pattern in a text. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

#define JIT_STACK_MIN     ((size_t)32 << 10)
#define JIT_STACK_MAX     ((size_t)8 << 20)
#define MATCH_LIMIT       1000000000u /* steps of one match: a few seconds */
#define MATCH_HEAP_KBYTES (256u << 10)

enum sc_status sc_tok_pattern_regex(struct sc_tok_pattern *p, const char *regex, size_t len,
                                    struct sc_err *err)
{
    if (len == 0 || len > SC_TOK_PATTERN_BYTES_MAX)
        return sc_fail(err, SC_ERANGE, "regular expression: %zu bytes, limits 1 and %zu", len,
                       SC_TOK_PATTERN_BYTES_MAX);
    struct sc_text rewritten = {0};
    enum sc_status st = sc_tok_regex_rewrite(regex, len, &rewritten, err);
    pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
    if (st == SC_OK && !cc)
        st = sc_fail(err, SC_ENOMEM, "regular expression: out of memory");
    if (st != SC_OK)
        goto out;
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(cc, 100);
    int code = 0;
    PCRE2_SIZE at = 0;
    p->kind = SC_TOK_PATTERN_REGEX;
    p->code = pcre2_compile((PCRE2_SPTR)rewritten.bytes, rewritten.len,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, cc);
    if (!p->code) {
        char text[120] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof(text));
        st = sc_fail(err, SC_EFORMAT, "regular expression: %s", text);
        goto out;
    }
    uint32_t empty = 0;
    pcre2_pattern_info(p->code, PCRE2_INFO_MATCHEMPTY, &empty);
    if (empty) {
        st = sc_fail(err, SC_ENOTSUP, "regular expression: it may match the empty string");
        goto out;
    }
    p->jit = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0;
out:
    pcre2_compile_context_free(cc);
    sc_text_fini(&rewritten);
    return st;
}

enum sc_status sc_tok_pattern_literal(struct sc_tok_pattern *p, const char *text, size_t len,
                                      struct sc_err *err)
{
    if (len == 0 || len > SC_TOK_PATTERN_BYTES_MAX)
        return sc_fail(err, SC_ERANGE, "pattern: %zu bytes, limits 1 and %zu", len,
                       SC_TOK_PATTERN_BYTES_MAX);
    p->kind = SC_TOK_PATTERN_LITERAL;
    p->literal = malloc(len);
    if (!p->literal)
        return sc_fail(err, SC_ENOMEM, "pattern: out of memory");
    memcpy(p->literal, text, len);
    p->literal_len = len;
    return SC_OK;
}

enum sc_status sc_tok_pattern_load(struct sc_tok_pattern *p, const json_t *obj, const char *where,
                                   struct sc_err *err)
{
    const json_t *pattern = json_object_get(obj, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *text = json_object_get(pattern, "String");
    if (json_is_string(regex))
        return sc_tok_pattern_regex(p, json_string_value(regex), json_string_length(regex), err);
    if (json_is_string(text))
        return sc_tok_pattern_literal(p, json_string_value(text), json_string_length(text), err);
    return sc_fail(err, SC_EFORMAT, "%s.pattern: neither {\"Regex\": ...} nor {\"String\": ...}",
                   where);
}

void sc_tok_pattern_fini(struct sc_tok_pattern *p)
{
    pcre2_code_free(p->code);
    free(p->literal);
    *p = (struct sc_tok_pattern){0};
}

static enum sc_status matcher_init(struct sc_tok_matcher *m, struct sc_err *err)
{
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
    if (!m->data || !m->context || !m->stack) {
        sc_tok_matcher_fini(m);
        return sc_fail(err, SC_ENOMEM, "pre-tokenizer: out of memory");
    }
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
    pcre2_set_match_limit(m->context, MATCH_LIMIT);
    pcre2_set_heap_limit(m->context, MATCH_HEAP_KBYTES);
    return SC_OK;
}

void sc_tok_matcher_fini(struct sc_tok_matcher *m)
{
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    *m = (struct sc_tok_matcher){0};
}

static enum sc_status find_regex(const struct sc_tok_pattern *p, struct sc_tok_matcher *m,
                                 const char *text, size_t len, size_t from, size_t *ret_start,
                                 size_t *ret_end, struct sc_err *err)
{
    if (!m->data) {
        enum sc_status st = matcher_init(m, err);
        if (st != SC_OK)
            return st;
    }
    int rc;
    if (p->jit)
        rc = pcre2_jit_match(p->code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK, m->data,
                             m->context);
    else
        rc = pcre2_match(p->code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK, m->data,
                         m->context);
    if (rc == PCRE2_ERROR_NOMATCH) {
        *ret_start = *ret_end = len;
        return SC_OK;
    }
    if (rc < 0) {
        char why[120] = "";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof(why));
        return sc_fail(err, SC_ERANGE, "pre-tokenizer: text of %zu bytes, at byte %zu: %s", len,
                       from, why);
    }
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(m->data);
    if (at[1] <= at[0] || at[0] < from)
        return sc_fail(err, SC_EINTERNAL, "pre-tokenizer: empty match at byte %zu", from);
    *ret_start = at[0];
    *ret_end = at[1];
    return SC_OK;
}

/* 1: letters and digits, 2: neither those nor space, 0: space. */
static int word_kind(uint32_t cp)
{
    return sc_unicode_is_word(cp) ? 1 : sc_unicode_is_space(cp) ? 0 : 2;
}

static bool in_class(enum sc_tok_pattern_kind kind, uint32_t cp)
{
    switch (kind) {
    case SC_TOK_PATTERN_NUMBER:
        return cp < 0x80 ? cp >= '0' && cp <= '9' : sc_unicode_is(SC_UNICODE_N, cp);
    case SC_TOK_PATTERN_PUNCTUATION:
        if (cp < 0x80)
            return cp > ' ' && cp < 0x7f && !sc_unicode_is_word(cp == '_' ? '-' : cp);
        return sc_unicode_is(SC_UNICODE_P, cp);
    case SC_TOK_PATTERN_SPACE:
        return sc_unicode_is_space(cp);
    case SC_TOK_PATTERN_WORDS:
        return word_kind(cp) != 0;
    default:
        return false;
    }
}

static void find_class(enum sc_tok_pattern_kind kind, const char *text, size_t len, size_t from,
                       size_t *ret_start, size_t *ret_end)
{
    size_t pos = from;
    while (pos < len) {
        size_t start = pos;
        uint32_t cp = sc_utf8_next(text, &pos);
        if (!in_class(kind, cp))
            continue;
        if (kind == SC_TOK_PATTERN_WORDS) {
            int run = word_kind(cp);
            for (size_t next = pos; pos < len; pos = next)
                if (word_kind(sc_utf8_next(text, &next)) != run)
                    break;
        }
        *ret_start = start;
        *ret_end = pos;
        return;
    }
    *ret_start = *ret_end = len;
}

enum sc_status sc_tok_pattern_find(const struct sc_tok_pattern *p, struct sc_tok_matcher *m,
                                   const char *text, size_t len, size_t from, size_t *ret_start,
                                   size_t *ret_end, struct sc_err *err)
{
    if (p->kind == SC_TOK_PATTERN_REGEX)
        return find_regex(p, m, text, len, from, ret_start, ret_end, err);
    if (p->kind == SC_TOK_PATTERN_LITERAL) {
        const char *hit = memmem(text + from, len - from, p->literal, p->literal_len);
        *ret_start = hit ? (size_t)(hit - text) : len;
        *ret_end = hit ? *ret_start + p->literal_len : len;
        return SC_OK;
    }
    find_class(p->kind, text, len, from, ret_start, ret_end);
    return SC_OK;
}
