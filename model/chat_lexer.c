/* Tokens of a chat template, with the whitespace rules of Jinja2's lexer under trim_blocks and
 * lstrip_blocks: `-` eats all whitespace on its side, `+` keeps it, a tag alone on its line takes
 * the line's indentation and, unless it prints, the line's end. */
#include <string.h>

#include "model/chat_internal.h"
#include "model/unicode.h"

struct lexer {
    const char *s;
    uint32_t len, pos;
    bool line_starting;
    struct sc_arena *arena;
    struct sc_chat_token *tokens;
    uint32_t n, cap;
    const struct sc_chat_template *tpl;
    enum sc_status status;
    struct sc_err *err;
};

static bool fail(struct lexer *x, uint32_t pos, enum sc_status st, const char *fmt, ...)
    SC_PRINTF(4, 5);

static bool fail(struct lexer *x, uint32_t pos, enum sc_status st, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    x->status = sc_chat_vfail_at(x->tpl, pos, st, x->err, fmt, ap);
    va_end(ap);
    return false;
}

static bool add(struct lexer *x, enum sc_chat_token_kind kind, uint16_t op, uint32_t pos,
                uint32_t len)
{
    if (x->n == x->cap) {
        uint32_t cap = x->cap > 0 ? 2 * x->cap : 256;
        struct sc_chat_token *grown = sc_arena_take(x->arena, cap * sizeof(*grown));
        if (grown == NULL)
            return fail(x, pos, SC_ERANGE, "tokens take more than %zu bytes",
                        x->arena->limit_bytes);
        if (x->n > 0)
            memcpy(grown, x->tokens, x->n * sizeof(*grown));
        x->tokens = grown;
        x->cap = cap;
    }
    x->tokens[x->n++] = (struct sc_chat_token){.kind = kind, .op = op, .pos = pos, .len = len};
    return true;
}

/* Bytes of the whitespace character at pos, or 0. */
static uint32_t space_at(const struct lexer *x, uint32_t pos)
{
    size_t next = pos;
    if (pos >= x->len || !sc_chat_is_space(sc_utf8_next(x->s, &next)))
        return 0;
    return (uint32_t)next - pos;
}

static uint32_t skip_space(const struct lexer *x, uint32_t pos)
{
    for (uint32_t n; (n = space_at(x, pos)) > 0;)
        pos += n;
    return pos;
}

static bool starts(const struct lexer *x, uint32_t pos, const char *text)
{
    size_t n = strlen(text);
    return x->len - pos >= n && memcmp(x->s + pos, text, n) == 0;
}

/* Moves past a tag's end and what whitespace goes with it. */
static void end_tag(struct lexer *x, uint32_t pos, bool dash, bool trim_newline)
{
    if (dash)
        pos = skip_space(x, pos);
    else if (trim_newline && pos < x->len && x->s[pos] == '\n')
        pos++;
    x->line_starting = x->s[pos - 1] == '\n';
    x->pos = pos;
}

/* Emits s[from, to) cut at its right end for a tag with that sign. */
static bool add_data(struct lexer *x, uint32_t from, uint32_t to, char sign, bool is_variable)
{
    uint32_t end = to;
    if (sign == '-') {
        struct sc_chat_value v = sc_chat_str(x->s + from, to - from);
        end = from + sc_chat_strip(&v, NULL, false, true).len;
    } else if (sign != '+' && !is_variable) {
        uint32_t line = to;
        while (line > from && x->s[line - 1] != '\n')
            line--;
        if ((line > from || x->line_starting) && skip_space(x, line) >= to)
            end = line;
    }
    return end == from || add(x, SC_CHAT_TOK_DATA, 0, from, end - from);
}

static char sign_at(const struct lexer *x, uint32_t pos)
{
    return pos < x->len && (x->s[pos] == '-' || x->s[pos] == '+') ? x->s[pos] : '\0';
}

/* `%}` with its sign at pos, after `word` between whitespace: the length of all that, or 0. */
static uint32_t match_word_tag(const struct lexer *x, uint32_t pos, const char *word, bool plus,
                               char *ret_sign)
{
    uint32_t at = skip_space(x, pos);
    if (!starts(x, at, word))
        return 0;
    at = skip_space(x, at + (uint32_t)strlen(word));
    *ret_sign = sign_at(x, at);
    if (*ret_sign == '+' && !plus)
        return 0;
    at += *ret_sign != '\0';
    return starts(x, at, "%}") ? at + 2 - pos : 0;
}

/* After {% raw %}: everything up to {% endraw %} is text. */
static bool lex_raw(struct lexer *x, uint32_t begin)
{
    for (uint32_t from = x->pos, at = from; at < x->len; at++) {
        char sign, end_sign;
        uint32_t n;
        if (!starts(x, at, "{%"))
            continue;
        sign = sign_at(x, at + 2);
        uint32_t word = at + 2 + (sign != '\0');
        n = match_word_tag(x, word, "endraw", true, &end_sign);
        if (n == 0)
            continue;
        if (!add_data(x, from, at, sign, false))
            return false;
        end_tag(x, word + n, end_sign == '-', end_sign != '+');
        return true;
    }
    return fail(x, begin, SC_EFORMAT, "{%% raw %%} has no {%% endraw %%}");
}

static bool lex_comment(struct lexer *x, uint32_t begin)
{
    for (uint32_t at = x->pos; at < x->len; at++) {
        char sign = sign_at(x, at);
        if (!starts(x, at + (sign != '\0'), "#}"))
            continue;
        end_tag(x, at + 2 + (sign != '\0'), sign == '-', sign != '+');
        return true;
    }
    return fail(x, begin, SC_EFORMAT, "a comment has no #}");
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name_char(char c)
{
    return c == '_' || is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Past digits and single underscores between them; from itself when there is no digit. */
static uint32_t digits_end(const struct lexer *x, uint32_t from)
{
    uint32_t at = from;
    while (at < x->len && (is_digit(x->s[at]) || (x->s[at] == '_' && at > from && at + 1 < x->len &&
                                                  is_digit(x->s[at + 1]))))
        at++;
    return at;
}

/* The end of the float at pos, or 0 when the number there is an integer. */
static uint32_t float_end(const struct lexer *x, uint32_t pos)
{
    uint32_t end = 0, at = digits_end(x, pos);
    if (pos > 0 && x->s[pos - 1] == '.')
        return 0;
    if (at < x->len && x->s[at] == '.' && digits_end(x, at + 1) > at + 1)
        end = at = digits_end(x, at + 1);
    if (at < x->len && (x->s[at] == 'e' || x->s[at] == 'E')) {
        uint32_t exponent = at + 1 + (sign_at(x, at + 1) != '\0');
        if (digits_end(x, exponent) > exponent)
            end = digits_end(x, exponent);
    }
    return end;
}

static bool lex_number(struct lexer *x)
{
    uint32_t pos = x->pos, end = float_end(x, pos);
    bool is_float = end > 0;
    if (!is_float) {
        end = digits_end(x, pos);
        /* 0x, 0b, 0o and numbers such as 007, which Python reads in its own ways */
        if (x->s[pos] == '0' && (end > pos + 1 || (end < x->len && strchr("xXbBoO", x->s[end]))))
            return fail(x, pos, SC_ENOTSUP, "a number that starts with 0 is not supported");
    }
    x->pos = end;
    return add(x, is_float ? SC_CHAT_TOK_FLOAT : SC_CHAT_TOK_INT, 0, pos, end - pos);
}

static bool lex_string(struct lexer *x)
{
    char quote = x->s[x->pos];
    uint32_t begin = x->pos + 1;
    for (uint32_t at = begin; at < x->len; at++) {
        if (x->s[at] == '\\') {
            at++;
        } else if (x->s[at] == quote) {
            x->pos = at + 1;
            return add(x, SC_CHAT_TOK_STRING, 0, begin, at - begin);
        }
    }
    return fail(x, begin - 1, SC_EFORMAT, "a string has no closing %c", quote);
}

static bool lex_operator(struct lexer *x, char *stack, uint32_t *n_open)
{
    static const char pairs[][3] = {"//", "**", "==", "!=", ">=", "<="};
    uint32_t pos = x->pos;
    char c = x->s[pos];
    for (size_t i = 0; i < SC_ARRAY_LEN(pairs); i++) {
        if (starts(x, pos, pairs[i])) {
            x->pos += 2;
            return add(x, SC_CHAT_TOK_OP,
                       (uint16_t)SC_CHAT_OP2((uint8_t)pairs[i][0], (uint8_t)pairs[i][1]), pos, 2);
        }
    }
    if (c == '\0' || strchr("+-/*%~[](){}><=.:|,;", c) == NULL)
        return fail(x, pos, SC_EFORMAT,
                    (uint8_t)c > 0x20 && (uint8_t)c < 0x7f ? "unexpected character '%c'"
                                                           : "unexpected character 0x%02x",
                    (uint8_t)c);
    if (c == '{' || c == '(' || c == '[') {
        if (*n_open == SC_CHAT_PARSE_DEPTH_MAX)
            return fail(x, pos, SC_ERANGE, "more than %u open brackets", SC_CHAT_PARSE_DEPTH_MAX);
        stack[(*n_open)++] = c == '{' ? '}' : c == '(' ? ')' : ']';
    } else if (c == '}' || c == ')' || c == ']') {
        if (*n_open == 0 || stack[--*n_open] != c)
            return fail(x, pos, SC_EFORMAT, "unexpected '%c'", c);
    }
    x->pos++;
    return add(x, SC_CHAT_TOK_OP, (uint8_t)c, pos, 1);
}

/* The inside of {{ }} or {% %}, up to and with its end. */
static bool lex_tag(struct lexer *x, uint32_t begin, bool is_variable)
{
    char stack[SC_CHAT_PARSE_DEPTH_MAX];
    uint32_t n_open = 0;
    while ((x->pos = skip_space(x, x->pos)) < x->len) {
        uint32_t pos = x->pos;
        char c = x->s[pos], sign = sign_at(x, pos);
        bool ok, ends = n_open == 0 && (sign != '+' || !is_variable) &&
                        starts(x, pos + (sign != '\0'), is_variable ? "}}" : "%}");
        if (ends) {
            end_tag(x, pos + 2 + (sign != '\0'), sign == '-', sign != '+' && !is_variable);
            return add(x, is_variable ? SC_CHAT_TOK_VAR_END : SC_CHAT_TOK_BLOCK_END, 0, pos, 2);
        }
        if (is_digit(c)) {
            ok = lex_number(x);
        } else if (is_name_char(c)) {
            while (x->pos < x->len && is_name_char(x->s[x->pos]))
                x->pos++;
            ok = add(x, SC_CHAT_TOK_NAME, 0, pos, x->pos - pos);
        } else if (c == '"' || c == '\'') {
            ok = lex_string(x);
        } else {
            ok = lex_operator(x, stack, &n_open);
        }
        if (!ok)
            return false;
    }
    return fail(x, begin, SC_EFORMAT, "a tag has no %s", is_variable ? "}}" : "%}");
}

/* Text up to the next tag, and that tag. */
static bool lex_step(struct lexer *x)
{
    uint32_t from = x->pos, at = from, raw;
    char kind = '\0', raw_sign;
    for (; at + 1 < x->len; at++) {
        const char *brace = memchr(x->s + at, '{', x->len - 1 - at);
        if (brace == NULL)
            break;
        at = (uint32_t)(brace - x->s);
        kind = x->s[at + 1];
        if (kind == '{' || kind == '%' || kind == '#')
            break;
        kind = '\0';
    }
    if (kind == '\0') {
        x->pos = x->len;
        return add(x, SC_CHAT_TOK_DATA, 0, from, x->len - from);
    }
    char sign = sign_at(x, at + 2);
    if (!add_data(x, from, at, sign, kind == '{'))
        return false;
    x->pos = at + 2 + (sign != '\0');
    if (kind == '#')
        return lex_comment(x, at);
    if (kind == '%' && (raw = match_word_tag(x, x->pos, "raw", false, &raw_sign)) > 0) {
        end_tag(x, x->pos + raw, raw_sign == '-', false);
        return lex_raw(x, at);
    }
    return add(x, kind == '{' ? SC_CHAT_TOK_VAR_BEGIN : SC_CHAT_TOK_BLOCK_BEGIN, 0, at, 2) &&
           lex_tag(x, at, kind == '{');
}

enum sc_status sc_chat_lex(struct sc_chat_template *tpl, struct sc_arena *arena,
                           struct sc_chat_token **ret_tokens, struct sc_err *err)
{
    struct lexer x = {.s = tpl->source,
                      .len = tpl->source_len,
                      .line_starting = true,
                      .arena = arena,
                      .tpl = tpl,
                      .err = err};
    while (x.pos < x.len && lex_step(&x))
        continue;
    if (x.status == SC_OK && add(&x, SC_CHAT_TOK_END, 0, x.len, 0))
        *ret_tokens = x.tokens;
    return x.status;
}

/* ---- string escapes ---- */

/* Up to max digits of that base at *at; false when there are fewer than min. */
static bool read_digits(const char *s, uint32_t len, uint32_t *at, unsigned base, unsigned min,
                        unsigned max, uint32_t *ret)
{
    static const char digits[] = "0123456789abcdef";
    unsigned n = 0;
    *ret = 0;
    for (; n < max && *at < len; n++, ++*at) {
        char c = s[*at] >= 'A' && s[*at] <= 'F' ? (char)(s[*at] + 32) : s[*at];
        const char *d = c != '\0' ? memchr(digits, c, base) : NULL;
        if (d == NULL)
            break;
        *ret = *ret * base + (uint32_t)(d - digits);
    }
    return n >= min;
}

/* One escape after its backslash, as Python's unicode-escape reads it. */
static bool unescape(const char *s, uint32_t len, uint32_t *at, char *out, uint32_t *n_out)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    char c = s[*at];
    const char *simple = c != '\0' ? strchr(from, c) : NULL;
    uint32_t cp;
    if (simple != NULL) {
        out[(*n_out)++] = to[simple - from];
        ++*at;
        return true;
    }
    if (c == '\n') {
        ++*at;
        return true;
    }
    if (c >= '0' && c <= '7') {
        (void)read_digits(s, len, at, 8, 1, 3, &cp);
    } else if (c == 'x' || c == 'u' || c == 'U') {
        unsigned n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        ++*at;
        if (!read_digits(s, len, at, 16, n, n, &cp))
            return false;
    } else if (c == 'N') {
        return false;
    } else { /* unknown: the backslash stays */
        out[(*n_out)++] = '\\';
        return true;
    }
    if (cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
        return false;
    *n_out += sc_utf8_put(out + *n_out, cp);
    return true;
}

const char *sc_chat_unescape(struct sc_chat_parser *p, const struct sc_chat_token *tok,
                             uint32_t *ret_len)
{
    const char *s = p->tpl->source + tok->pos;
    uint32_t n = 0;
    if (memchr(s, '\\', tok->len) == NULL) {
        *ret_len = tok->len;
        return s;
    }
    /* No escape is shorter than what it stands for. */
    char *out = sc_arena_take(&p->tpl->arena, tok->len + 4);
    if (out == NULL)
        return sc_chat_parse_fail(p, tok->pos, SC_ERANGE, "the template takes more than %zu bytes",
                                  SC_CHAT_PARSE_BYTES_MAX);
    for (uint32_t at = 0; at < tok->len;) {
        if (s[at] != '\\') {
            out[n++] = s[at++];
            continue;
        }
        uint32_t escape = at++;
        if ((uint8_t)s[at] >= 0x80)
            return sc_chat_parse_fail(p, tok->pos + escape, SC_ENOTSUP,
                                      "a backslash before a non-ASCII character");
        if (!unescape(s, tok->len, &at, out, &n))
            return sc_chat_parse_fail(p, tok->pos + escape, SC_EFORMAT,
                                      "the escape \\%c is malformed or not supported",
                                      s[escape + 1]);
    }
    *ret_len = n;
    return out;
}
