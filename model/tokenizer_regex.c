/* model/tokenizer_regex.c - from the regular expressions of tokenizer files to PCRE2's.
 *
 * The files are written for Oniguruma with Ruby's syntax and Unicode 16. Two things differ in
 * PCRE2: the classes (its \s has U+180E, its letters are those of its own Unicode version), which
 * are written out here, and some syntax that means another thing, which is refused by name.
 */
#include <stdio.h>
#include <string.h>

#include "model/tokenizer_internal.h"

#define SPACES                                                                                     \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACES                                                                                 \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{"     \
    "1fff}"                                                                                        \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{"   \
    "10ffff}"

/* Cursor over the pattern; after the first failure every step is a no-op. */
struct rewrite {
    const char *in;
    size_t len, pos;
    struct sc_text *out;
    enum sc_status st;
    struct sc_err *err;
};

static void put(struct rewrite *r, const char *text, size_t len)
{
    if (r->st == SC_OK)
        r->st = sc_text_append(r->out, text, len, r->err);
}

static void put_str(struct rewrite *r, const char *text)
{
    put(r, text, strlen(text));
}

static void refuse(struct rewrite *r, const char *what)
{
    if (r->st == SC_OK)
        r->st = sc_fail(r->err, SC_ENOTSUP, "regular expression: %s at byte %zu is not supported",
                        what, r->pos);
}

static void put_ranges(struct rewrite *r, const struct sc_unicode_range *ranges, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char item[40];
        snprintf(item, sizeof(item), "\\x{%x}-\\x{%x}", (unsigned)ranges[i].first,
                 (unsigned)ranges[i].last);
        put_str(r, item);
    }
}

/* The inside of a class: PCRE2's own property, and what is newer than it. The ASCII part comes
 * first because PCRE2 tests that by a bitmap. */
static void put_property(struct rewrite *r, const struct sc_unicode_class *c)
{
    static const char *const ascii[SC_UNICODE_CLASS_COUNT] = {[SC_UNICODE_L] = "A-Za-z",
                                                              [SC_UNICODE_N] = "0-9",
                                                              [SC_UNICODE_LU] = "A-Z",
                                                              [SC_UNICODE_LL] = "a-z"};
    size_t id = (size_t)(c - sc_unicode_classes);
    if (ascii[id])
        put_str(r, ascii[id]);
    put_str(r, "\\p{");
    put_str(r, c->name);
    put_str(r, "}");
    put_ranges(r, c->newer, c->n_newer);
}

static void put_digits(struct rewrite *r)
{
    const struct sc_unicode_class *n = &sc_unicode_classes[SC_UNICODE_N];
    put_str(r, "0-9\\p{Nd}");
    /* All new numbers are decimal digits, but for the Kaktovik numerals. */
    for (size_t i = 0; i < n->n_newer; i++)
        if (n->newer[i].first != 0x1d2c0)
            put_ranges(r, &n->newer[i], 1);
}

static void put_word(struct rewrite *r)
{
    put_property(r, &sc_unicode_classes[SC_UNICODE_L]);
    put_property(r, &sc_unicode_classes[SC_UNICODE_M]);
    put_digits(r);
    put_str(r, "\\p{Nl}_\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}"
               "\\x{1f170}-\\x{1f189}");
}

/* After \p or \P: "{name}" or one letter. */
static const struct sc_unicode_class *property_name(struct rewrite *r)
{
    size_t start = r->pos, n = 1;
    if (start < r->len && r->in[start] == '{') {
        const char *end = memchr(r->in + start, '}', r->len - start);
        start++;
        n = end ? (size_t)(end - (r->in + start)) : 0;
        r->pos = start + n + 1;
    } else {
        r->pos = start + n;
    }
    const struct sc_unicode_class *c = NULL;
    if (n > 0 && start + n <= r->len)
        c = sc_unicode_class_find(r->in + start, n);
    if (!c) {
        r->pos = start;
        refuse(r, "this character property");
    }
    return c;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* After \x or \u: writes \x{...}. */
static void hex_escape(struct rewrite *r, size_t digits)
{
    size_t start = r->pos, n = 0;
    bool braces = digits == 2 && start < r->len && r->in[start] == '{';
    if (braces)
        start++;
    size_t max = braces ? 6 : digits;
    while (n < max && start + n < r->len && is_hex(r->in[start + n]))
        n++;
    bool closed = !braces || (start + n < r->len && r->in[start + n] == '}');
    /* Two digits past 7F are a raw byte of UTF-8 there, not a character. */
    bool raw = digits == 2 && !braces && n == 2 && r->in[start] > '7';
    if (n == 0 || (!braces && n < digits) || !closed || raw) {
        refuse(r, "this hexadecimal escape");
        return;
    }
    put_str(r, "\\x{");
    put(r, r->in + start, n);
    put_str(r, "}");
    r->pos = start + n + (braces ? 1 : 0);
}

/* A backslash at r->pos - 1. in_class: only the inside of a class may be written. */
static void escape(struct rewrite *r, bool in_class)
{
    if (r->pos >= r->len) {
        refuse(r, "a backslash at the end");
        return;
    }
    char c = r->in[r->pos++];
    const char *open = in_class ? "" : "[", *close = in_class ? "" : "]";
    bool negative = c == 'S' || c == 'D' || c == 'W' || c == 'P';
    if (negative && !in_class)
        open = "[^";
    if (negative && in_class && c != 'S') {
        refuse(r, "a negated class inside a class");
        return;
    }
    switch (c) {
    case 's':
    case 'S':
        put_str(r, open);
        put_str(r, in_class && negative ? NOT_SPACES : SPACES);
        put_str(r, close);
        return;
    case 'd':
    case 'D':
        put_str(r, open);
        put_digits(r);
        put_str(r, close);
        return;
    case 'w':
    case 'W':
        put_str(r, open);
        put_word(r);
        put_str(r, close);
        return;
    case 'p':
    case 'P': {
        const struct sc_unicode_class *p = property_name(r);
        if (!p)
            return;
        put_str(r, open);
        put_property(r, p);
        put_str(r, close);
        return;
    }
    case 'x':
        hex_escape(r, 2);
        return;
    case 'u':
        hex_escape(r, 4);
        return;
    default:
        break;
    }
    bool plain = strchr("rntfae", c) != NULL || (!in_class && strchr("zA", c) != NULL);
    bool punctuation = (unsigned char)c > ' ' && (unsigned char)c < 0x7f &&
                       !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z') &&
                       !(c >= 'a' && c <= 'z');
    if (c == '\0' || (!plain && !punctuation && c != ' ')) {
        r->pos--;
        refuse(r, "this escape");
        return;
    }
    char pair[2] = {'\\', c};
    put(r, pair, 2);
}

/* \s and the like become many ranges: a hyphen beside them must not join those. */
static bool is_class_escape(const struct rewrite *r, size_t pos)
{
    return pos + 1 < r->len && r->in[pos] == '\\' && r->in[pos + 1] != '\0' &&
           strchr("sSdDwWpP", r->in[pos + 1]) != NULL;
}

static void class(struct rewrite *r)
{
    put_str(r, "[");
    if (r->pos < r->len && r->in[r->pos] == '^') {
        put_str(r, "^");
        r->pos++;
    }
    bool first = true, after_escape = false;
    while (r->st == SC_OK) {
        if (r->pos >= r->len) {
            refuse(r, "a class without an end");
            return;
        }
        char c = r->in[r->pos];
        if (c == ']' && !first) {
            r->pos++;
            put_str(r, "]");
            return;
        }
        if (c == '[' || c == ']') {
            refuse(r, "an unescaped bracket in a class");
            return;
        }
        if (c == '&' && r->pos + 1 < r->len && r->in[r->pos + 1] == '&') {
            refuse(r, "an intersection of classes");
            return;
        }
        bool class_escape = is_class_escape(r, r->pos);
        r->pos++;
        if (c == '\\')
            escape(r, true);
        else if (c == '-' && (after_escape || is_class_escape(r, r->pos)))
            put_str(r, "\\-");
        else
            put(r, &c, 1);
        after_escape = class_escape;
        first = false;
    }
}

/* After "(": which groups mean the same in both. */
static void group(struct rewrite *r)
{
    static const char *const known[] = {"?:", "?=", "?!", "?<=", "?<!", "?>", "?i:"};
    const char *rest = r->in + r->pos;
    size_t left = r->len - r->pos;
    put_str(r, "(");
    if (left == 0 || (rest[0] != '?' && rest[0] != '*'))
        return;
    for (size_t i = 0; i < SC_ARRAY_LEN(known); i++) {
        size_t n = strlen(known[i]);
        if (left >= n && memcmp(rest, known[i], n) == 0) {
            put(r, known[i], n);
            r->pos += n;
            return;
        }
    }
    refuse(r, "this kind of group");
}

/* After "{": only {n}, {n,} and {n,m}; what follows must not be ? or +, which mean other things. */
static void interval(struct rewrite *r)
{
    size_t start = r->pos - 1, i = r->pos, digits = 0, commas = 0;
    for (; i < r->len && r->in[i] != '}'; i++) {
        digits += r->in[i] >= '0' && r->in[i] <= '9';
        commas += r->in[i] == ',';
    }
    bool shape = i < r->len && digits > 0 && commas <= 1 && digits + commas == i - r->pos &&
                 r->in[r->pos] != ',';
    bool mark = shape && i + 1 < r->len && (r->in[i + 1] == '?' || r->in[i + 1] == '+');
    if (!shape || mark) {
        refuse(r, "this repetition");
        return;
    }
    put(r, r->in + start, i + 1 - start);
    r->pos = i + 1;
}

enum sc_status sc_tok_regex_rewrite(const char *regex, size_t len, struct sc_text *out,
                                    struct sc_err *err)
{
    struct rewrite r = {.in = regex, .len = len, .out = out, .st = SC_OK, .err = err};
    if (memchr(regex, '\0', len))
        return sc_fail(err, SC_ENOTSUP, "regular expression: NUL is not supported");
    while (r.st == SC_OK && r.pos < len) {
        char c = regex[r.pos++];
        switch (c) {
        case '\\':
            escape(&r, false);
            break;
        case '[':
            class(&r);
            break;
        case '(':
            group(&r);
            break;
        case '{':
            interval(&r);
            break;
        case '^':
            refuse(&r, "^");
            break;
        case '$': /* the end of any line there */
            put_str(&r, "(?=\\n|\\z)");
            break;
        default:
            put(&r, &c, 1);
            break;
        }
    }
    return r.st;
}
