/* Values as text: Python's str() and repr(), json.dumps without ASCII escapes, markup escapes. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "model/chat_internal.h"
#include "model/unicode.h"

/* ---- buffers ---- */

bool sc_chat_put(struct sc_chat_run *r, struct sc_chat_buf *buf, const char *bytes, size_t len)
{
    if (r->status != SC_OK)
        return false;
    if (len > SC_CHAT_OUTPUT_BYTES_MAX - buf->len)
        return sc_chat_fail(r, SC_ERANGE, "the text is over %zu bytes", SC_CHAT_OUTPUT_BYTES_MAX);
    if (buf->cap - buf->len < len + 1) {
        size_t cap = buf->cap > 0 ? 2 * buf->cap : 256;
        while (cap < buf->len + len + 1)
            cap *= 2;
        char *grown = realloc(buf->bytes, cap);
        if (grown == NULL)
            return sc_chat_fail(r, SC_ENOMEM, "%zu bytes of text", cap);
        buf->bytes = grown;
        buf->cap = cap;
    }
    if (len > 0)
        memcpy(buf->bytes + buf->len, bytes, len);
    buf->len += len;
    buf->bytes[buf->len] = '\0';
    return true;
}

bool sc_chat_puts(struct sc_chat_run *r, struct sc_chat_buf *buf, const char *text)
{
    return sc_chat_put(r, buf, text, strlen(text));
}

bool sc_chat_buf_value(struct sc_chat_run *r, struct sc_chat_buf *buf, struct sc_chat_value *ret)
{
    char *copy = NULL;
    if (r->status == SC_OK && sc_chat_step(r, buf->len))
        copy = sc_chat_take(r, buf->len);
    if (copy != NULL) {
        if (buf->len > 0)
            memcpy(copy, buf->bytes, buf->len);
        *ret = sc_chat_str(copy, buf->len);
    }
    free(buf->bytes);
    *buf = (struct sc_chat_buf){0};
    return copy != NULL;
}

/* ---- numbers ---- */

/* Python's repr(float): the shortest digits that read back, an exponent below 1e-4 and from 1e16.
 */
static void float_text(double f, char out[40])
{
    char digits[40];
    if (isnan(f) || isinf(f)) {
        (void)strcpy(out, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    int precision = 1;
    do
        (void)snprintf(digits, sizeof(digits), "%.*e", precision - 1, f);
    while (strtod(digits, NULL) != f && ++precision <= 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        (void)strcpy(out, digits); /* d.ddde+XX, as Python writes it */
    } else {
        int decimals = precision - 1 - exponent;
        (void)snprintf(out, 40, "%.*f", decimals > 1 ? decimals : 1, f);
    }
}

/* ---- str and repr ---- */

static bool put_repr(struct sc_chat_run *r, struct sc_chat_buf *buf, const struct sc_chat_value *v,
                     uint32_t depth);

static bool is_printable(uint32_t cp)
{
    if (cp < 0x7f)
        return cp >= 0x20;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static bool put_quoted(struct sc_chat_run *r, struct sc_chat_buf *buf,
                       const struct sc_chat_value *v)
{
    bool has_single = v->len > 0 && memchr(v->u.s, '\'', v->len) != NULL;
    bool has_double = v->len > 0 && memchr(v->u.s, '"', v->len) != NULL;
    char quote = has_single && !has_double ? '"' : '\'', escape[16];
    if (!sc_chat_put(r, buf, &quote, 1))
        return false;
    for (size_t at = 0; at < v->len;) {
        size_t from = at;
        uint32_t cp = sc_utf8_next(v->u.s, &at);
        if (cp == (uint8_t)quote || cp == '\\')
            (void)snprintf(escape, sizeof(escape), "\\%c", (char)cp);
        else if (cp == '\n' || cp == '\r' || cp == '\t')
            (void)snprintf(escape, sizeof(escape), "\\%c",
                           cp == '\n'   ? 'n'
                           : cp == '\r' ? 'r'
                                        : 't');
        else if (!is_printable(cp))
            (void)snprintf(escape, sizeof(escape),
                           cp < 0x100     ? "\\x%02" PRIx32
                           : cp < 0x10000 ? "\\u%04" PRIx32
                                          : "\\U%08" PRIx32,
                           cp);
        else
            escape[0] = '\0';
        if (escape[0] != '\0' ? !sc_chat_puts(r, buf, escape)
                              : !sc_chat_put(r, buf, v->u.s + from, at - from))
            return false;
    }
    return sc_chat_put(r, buf, &quote, 1);
}

static bool put_seq(struct sc_chat_run *r, struct sc_chat_buf *buf, const struct sc_chat_value *v,
                    uint32_t depth)
{
    const struct sc_chat_seq *seq = v->u.seq;
    bool tuple = v->type == SC_CHAT_TUPLE;
    const char *open = v->type == SC_CHAT_VIEW ? "dict_view([" : tuple ? "(" : "[";
    if (!sc_chat_puts(r, buf, open))
        return false;
    for (uint32_t i = 0; i < seq->n; i++) {
        if ((i > 0 && !sc_chat_puts(r, buf, ", ")) || !put_repr(r, buf, &seq->items[i], depth + 1))
            return false;
    }
    return sc_chat_puts(r, buf,
                        v->type == SC_CHAT_VIEW ? "])"
                        : !tuple                ? "]"
                        : seq->n == 1           ? ",)"
                                                : ")");
}

static bool put_dict(struct sc_chat_run *r, struct sc_chat_buf *buf, const struct sc_chat_dict *d,
                     uint32_t depth)
{
    if (!sc_chat_puts(r, buf, "{"))
        return false;
    for (uint32_t i = 0; i < d->n; i++) {
        if ((i > 0 && !sc_chat_puts(r, buf, ", ")) ||
            !put_repr(r, buf, &d->entries[i].key, depth + 1) || !sc_chat_puts(r, buf, ": ") ||
            !put_repr(r, buf, &d->entries[i].value, depth + 1))
            return false;
    }
    return sc_chat_puts(r, buf, "}");
}

static bool put_repr(struct sc_chat_run *r, struct sc_chat_buf *buf, const struct sc_chat_value *v,
                     uint32_t depth)
{
    char text[40];
    if (depth > SC_CHAT_DATA_DEPTH_MAX)
        return sc_chat_fail(r, SC_ERANGE, "values nested more than %u deep",
                            SC_CHAT_DATA_DEPTH_MAX);
    if (!sc_chat_step(r, 0))
        return false;
    switch (v->type) {
    case SC_CHAT_UNDEFINED:
        return sc_chat_puts(r, buf, "Undefined");
    case SC_CHAT_NONE:
        return sc_chat_puts(r, buf, "None");
    case SC_CHAT_BOOL:
        return sc_chat_puts(r, buf, v->u.b ? "True" : "False");
    case SC_CHAT_INT:
        (void)snprintf(text, sizeof(text), "%" PRId64, v->u.i);
        return sc_chat_puts(r, buf, text);
    case SC_CHAT_FLOAT:
        float_text(v->u.f, text);
        return sc_chat_puts(r, buf, text);
    case SC_CHAT_STR:
        return (!v->markup || sc_chat_puts(r, buf, "Markup(")) && put_quoted(r, buf, v) &&
               (!v->markup || sc_chat_puts(r, buf, ")"));
    case SC_CHAT_LIST:
    case SC_CHAT_TUPLE:
    case SC_CHAT_VIEW:
        return put_seq(r, buf, v, depth);
    case SC_CHAT_DICT:
        return put_dict(r, buf, v->u.dict, depth);
    case SC_CHAT_NAMESPACE:
        return sc_chat_puts(r, buf, "<Namespace ") && put_dict(r, buf, v->u.dict, depth) &&
               sc_chat_puts(r, buf, ">");
    default:
        /* Python would print an address here: nothing a prompt can mean. */
        return sc_chat_fail(r, SC_EINVAL, "a %s has no text", sc_chat_type_name(v));
    }
}

bool sc_chat_put_str(struct sc_chat_run *r, struct sc_chat_buf *buf, const struct sc_chat_value *v)
{
    if (v->type == SC_CHAT_UNDEFINED)
        return true;
    if (v->type == SC_CHAT_STR)
        return sc_chat_step(r, v->len) && sc_chat_put(r, buf, v->u.s, v->len);
    return put_repr(r, buf, v, 0);
}

bool sc_chat_to_str(struct sc_chat_run *r, const struct sc_chat_value *v, struct sc_chat_value *ret)
{
    struct sc_chat_buf buf = {0};
    if (v->type == SC_CHAT_STR) {
        *ret = *v;
        return true;
    }
    (void)sc_chat_put_str(r, &buf, v);
    return sc_chat_buf_value(r, &buf, ret);
}

/* ---- JSON ---- */

static bool put_json(struct sc_chat_run *r, struct sc_chat_buf *buf, const struct sc_chat_value *v,
                     const struct sc_chat_json_style *style, uint32_t depth);

static bool put_json_string(struct sc_chat_run *r, struct sc_chat_buf *buf,
                            const struct sc_chat_value *v, bool ascii)
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    size_t plain = 0; /* start of what is copied as it is */
    char escape[16];
    if (!sc_chat_step(r, v->len) || !sc_chat_puts(r, buf, "\""))
        return false;
    for (size_t at = 0; at < v->len;) {
        size_t start = at;
        uint32_t cp = sc_utf8_next(v->u.s, &at);
        const char *simple = cp > 0 && cp < 0x80 ? strchr(from, (int)cp) : NULL;
        if (simple != NULL)
            (void)snprintf(escape, sizeof(escape), "\\%c", to[simple - from]);
        else if (cp >= 0x10000 && ascii)
            (void)snprintf(escape, sizeof(escape), "\\u%04x\\u%04x", 0xd7c0 + (cp >> 10),
                           0xdc00 + (cp & 0x3ff));
        else if (cp < 0x20 || (cp > 0x7e && ascii))
            (void)snprintf(escape, sizeof(escape), "\\u%04x", cp);
        else
            continue;
        if (!sc_chat_put(r, buf, v->u.s + plain, start - plain) || !sc_chat_puts(r, buf, escape))
            return false;
        plain = at;
    }
    return sc_chat_put(r, buf, v->u.s + plain, v->len - plain) && sc_chat_puts(r, buf, "\"");
}

/* A line's end and indent spaces times depth. */
static bool put_break(struct sc_chat_run *r, struct sc_chat_buf *buf, int64_t indent,
                      uint32_t depth)
{
    if (indent < 0)
        return true;
    if (!sc_chat_puts(r, buf, "\n"))
        return false;
    for (uint64_t i = 0; i < (uint64_t)indent * depth; i++) {
        if (!sc_chat_puts(r, buf, " "))
            return false;
    }
    return true;
}

static bool put_json_key(struct sc_chat_run *r, struct sc_chat_buf *buf,
                         const struct sc_chat_value *key, const struct sc_chat_json_style *style)
{
    switch (key->type) {
    case SC_CHAT_STR:
        return put_json_string(r, buf, key, style->ascii);
    case SC_CHAT_NONE:
    case SC_CHAT_BOOL:
    case SC_CHAT_INT:
    case SC_CHAT_FLOAT:
        return sc_chat_puts(r, buf, "\"") && put_json(r, buf, key, style, 0) &&
               sc_chat_puts(r, buf, "\"");
    default:
        return sc_chat_fail(r, SC_EINVAL, "tojson: keys must be strings or numbers, not %s",
                            sc_chat_type_name(key));
    }
}

static int by_key(const void *a, const void *b)
{
    const struct sc_chat_value *x = &((const struct sc_chat_entry *)a)->key;
    const struct sc_chat_value *y = &((const struct sc_chat_entry *)b)->key;
    uint32_t n = x->len < y->len ? x->len : y->len;
    int c = n > 0 ? memcmp(x->u.s, y->u.s, n) : 0;
    return c != 0 ? c : (x->len > y->len) - (x->len < y->len);
}

static bool sorted_entries(struct sc_chat_run *r, const struct sc_chat_dict *d,
                           const struct sc_chat_entry **ret)
{
    struct sc_chat_entry *e = sc_chat_take(r, d->n * sizeof(*e));
    if (e == NULL || !sc_chat_step(r, d->n * sizeof(*e)))
        return false;
    for (uint32_t i = 0; i < d->n; i++) {
        e[i] = d->entries[i];
        if (e[i].key.type != SC_CHAT_STR)
            return sc_chat_fail(r, SC_EINVAL, "tojson: only string keys can be sorted");
    }
    if (d->n > 0)
        qsort(e, d->n, sizeof(*e), by_key);
    *ret = e;
    return true;
}

static bool put_json_dict(struct sc_chat_run *r, struct sc_chat_buf *buf,
                          const struct sc_chat_dict *d, const struct sc_chat_json_style *style,
                          uint32_t depth)
{
    const struct sc_chat_entry *entries = d->entries;
    if (d->n == 0)
        return sc_chat_puts(r, buf, "{}");
    if (style->sort_keys && !sorted_entries(r, d, &entries))
        return false;
    if (!sc_chat_puts(r, buf, "{"))
        return false;
    for (uint32_t i = 0; i < d->n; i++) {
        if ((i > 0 && !sc_chat_put_str(r, buf, &style->item_sep)) ||
            !put_break(r, buf, style->indent, depth + 1) ||
            !put_json_key(r, buf, &entries[i].key, style) ||
            !sc_chat_put_str(r, buf, &style->key_sep) ||
            !put_json(r, buf, &entries[i].value, style, depth + 1))
            return false;
    }
    return put_break(r, buf, style->indent, depth) && sc_chat_puts(r, buf, "}");
}

static bool put_json_seq(struct sc_chat_run *r, struct sc_chat_buf *buf,
                         const struct sc_chat_seq *seq, const struct sc_chat_json_style *style,
                         uint32_t depth)
{
    if (seq->n == 0)
        return sc_chat_puts(r, buf, "[]");
    if (!sc_chat_puts(r, buf, "["))
        return false;
    for (uint32_t i = 0; i < seq->n; i++) {
        if ((i > 0 && !sc_chat_put_str(r, buf, &style->item_sep)) ||
            !put_break(r, buf, style->indent, depth + 1) ||
            !put_json(r, buf, &seq->items[i], style, depth + 1))
            return false;
    }
    return put_break(r, buf, style->indent, depth) && sc_chat_puts(r, buf, "]");
}

static bool put_json(struct sc_chat_run *r, struct sc_chat_buf *buf, const struct sc_chat_value *v,
                     const struct sc_chat_json_style *style, uint32_t depth)
{
    if (depth > SC_CHAT_DATA_DEPTH_MAX)
        return sc_chat_fail(r, SC_ERANGE, "values nested more than %u deep",
                            SC_CHAT_DATA_DEPTH_MAX);
    if (!sc_chat_step(r, 0))
        return false;
    switch (v->type) {
    case SC_CHAT_NONE:
        return sc_chat_puts(r, buf, "null");
    case SC_CHAT_BOOL:
        return sc_chat_puts(r, buf, v->u.b ? "true" : "false");
    case SC_CHAT_INT:
        return put_repr(r, buf, v, 0);
    case SC_CHAT_FLOAT:
        if (isnan(v->u.f) || isinf(v->u.f))
            return sc_chat_puts(r, buf,
                                isnan(v->u.f) ? "NaN"
                                : v->u.f > 0  ? "Infinity"
                                              : "-Infinity");
        return put_repr(r, buf, v, 0);
    case SC_CHAT_STR:
        return put_json_string(r, buf, v, style->ascii);
    case SC_CHAT_LIST:
    case SC_CHAT_TUPLE:
        return put_json_seq(r, buf, v->u.seq, style, depth);
    case SC_CHAT_DICT:
        return put_json_dict(r, buf, v->u.dict, style, depth);
    default:
        return sc_chat_fail(r, SC_EINVAL, "Object of type %s is not JSON serializable",
                            sc_chat_type_name(v));
    }
}

bool sc_chat_to_json(struct sc_chat_run *r, const struct sc_chat_value *v,
                     const struct sc_chat_json_style *style, struct sc_chat_value *ret)
{
    struct sc_chat_buf buf = {0};
    (void)put_json(r, &buf, v, style, 0);
    return sc_chat_buf_value(r, &buf, ret);
}

/* ---- markup and joining ---- */

bool sc_chat_escape(struct sc_chat_run *r, const struct sc_chat_value *v, struct sc_chat_value *ret)
{
    struct sc_chat_value s;
    struct sc_chat_buf buf = {0};
    size_t plain = 0;
    if (!sc_chat_to_str(r, v, &s))
        return false;
    if (s.markup) {
        *ret = s;
        return true;
    }
    for (size_t i = 0; i < s.len; i++) {
        const char *entity = s.u.s[i] == '&'    ? "&amp;"
                             : s.u.s[i] == '<'  ? "&lt;"
                             : s.u.s[i] == '>'  ? "&gt;"
                             : s.u.s[i] == '\'' ? "&#39;"
                             : s.u.s[i] == '"'  ? "&#34;"
                                                : NULL;
        if (entity == NULL)
            continue;
        (void)(sc_chat_put(r, &buf, s.u.s + plain, i - plain) && sc_chat_puts(r, &buf, entity));
        plain = i + 1;
    }
    (void)sc_chat_put(r, &buf, s.u.s + plain, s.len - plain);
    if (!sc_chat_buf_value(r, &buf, ret))
        return false;
    ret->markup = true;
    return true;
}

bool sc_chat_concat(struct sc_chat_run *r, const struct sc_chat_value *a,
                    const struct sc_chat_value *b, struct sc_chat_value *ret)
{
    struct sc_chat_value x = *a, y = *b;
    bool markup = a->markup || b->markup;
    if (markup && (!sc_chat_escape(r, a, &x) || !sc_chat_escape(r, b, &y)))
        return false;
    size_t len = (size_t)x.len + y.len;
    if (len > SC_CHAT_OUTPUT_BYTES_MAX)
        return sc_chat_fail(r, SC_ERANGE, "the text is over %zu bytes", SC_CHAT_OUTPUT_BYTES_MAX);
    char *s = sc_chat_take(r, len);
    if (s == NULL || !sc_chat_step(r, len))
        return false;
    if (x.len > 0)
        memcpy(s, x.u.s, x.len);
    if (y.len > 0)
        memcpy(s + x.len, y.u.s, y.len);
    *ret = sc_chat_str(s, len);
    ret->markup = markup;
    return true;
}
