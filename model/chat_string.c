/* Methods of strings, as Python's str has them. Positions count code points. Case is mapped one
 * code point to one, so that Python's few longer results ("ß" to "SS") are not made. */
#include <string.h>

#include <utf8proc.h>

#include "model/chat_internal.h"
#include "model/unicode.h"

bool sc_chat_is_space(uint32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

uint32_t sc_chat_str_chars(const struct sc_chat_value *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->len; i++)
        n += ((uint8_t)s->u.s[i] & 0xc0) != 0x80;
    return n;
}

uint32_t sc_chat_str_offset(const struct sc_chat_value *s, uint32_t i)
{
    size_t at = 0;
    while (i-- > 0)
        (void)sc_utf8_next(s->u.s, &at);
    return (uint32_t)at;
}

/* A piece of s; keeps the markup mark. */
static struct sc_chat_value piece(const struct sc_chat_value *s, size_t from, size_t to)
{
    struct sc_chat_value v = *s;
    v.u.s = s->u.s + from;
    v.len = (uint32_t)(to - from);
    return v;
}

static bool strips(uint32_t cp, const struct sc_chat_value *chars)
{
    if (chars == NULL)
        return sc_chat_is_space(cp);
    for (size_t at = 0; at < chars->len;) {
        if (sc_utf8_next(chars->u.s, &at) == cp)
            return true;
    }
    return false;
}

struct sc_chat_value sc_chat_strip(const struct sc_chat_value *s, const struct sc_chat_value *chars,
                                   bool left, bool right)
{
    size_t from = 0, to = s->len;
    for (size_t next = from; left && from < to; from = next) {
        if (!strips(sc_utf8_next(s->u.s, &next), chars))
            break;
    }
    for (size_t before = to; right && to > from; to = before) {
        if (!strips(sc_utf8_prev(s->u.s, &before), chars))
            break;
    }
    return piece(s, from, to);
}

/* Where needle is in s at or after from; s->len + 1 when nowhere. */
static size_t find_from(const struct sc_chat_value *s, size_t from,
                        const struct sc_chat_value *needle)
{
    const char *at = needle->len == 0 ? s->u.s + from
                     : s->len > from
                         ? memmem(s->u.s + from, s->len - from, needle->u.s, needle->len)
                         : NULL;
    return at != NULL ? (size_t)(at - s->u.s) : (size_t)s->len + 1;
}

/* ---- split ---- */

/* Pieces in a growing array of the arena. */
struct pieces {
    struct sc_chat_value *v;
    uint32_t n, cap;
};

static bool push(struct sc_chat_run *r, struct pieces *p, struct sc_chat_value v)
{
    if (p->n == p->cap) {
        uint32_t cap = p->cap > 0 ? 2 * p->cap : 8;
        struct sc_chat_value *grown = sc_chat_take(r, cap * sizeof(*grown));
        if (grown == NULL)
            return false;
        if (p->n > 0)
            memcpy(grown, p->v, p->n * sizeof(*grown));
        p->v = grown;
        p->cap = cap;
    }
    p->v[p->n++] = v;
    return sc_chat_step(r, v.len);
}

static bool split_sep(struct sc_chat_run *r, const struct sc_chat_value *s,
                      const struct sc_chat_value *sep, int64_t max, struct pieces *p)
{
    size_t from = 0;
    for (size_t at; max != 0 && (at = find_from(s, from, sep)) <= s->len; max--) {
        if (!push(r, p, piece(s, from, at)))
            return false;
        from = at + sep->len;
    }
    return push(r, p, piece(s, from, s->len));
}

static bool split_space(struct sc_chat_run *r, const struct sc_chat_value *s, int64_t max,
                        struct pieces *p)
{
    struct sc_chat_value rest = sc_chat_strip(s, NULL, true, false);
    for (; rest.len > 0; rest = sc_chat_strip(&rest, NULL, true, false)) {
        size_t end = 0, next = 0;
        if (max-- == 0)
            return push(r, p, rest); /* with its whitespace at the end, as in Python */
        while (end < rest.len && !sc_chat_is_space(sc_utf8_next(rest.u.s, &next)))
            end = next;
        if (!push(r, p, piece(&rest, 0, end)))
            return false;
        rest = piece(&rest, end, rest.len);
    }
    return true;
}

/* rsplit: the last max separators count. Pieces come in reverse and are turned round. */
static bool rsplit(struct sc_chat_run *r, const struct sc_chat_value *s,
                   const struct sc_chat_value *sep, int64_t max, struct pieces *p)
{
    struct sc_chat_value rest = sep == NULL ? sc_chat_strip(s, NULL, false, true) : *s;
    size_t cut, width;
    for (; max != 0; max--) {
        if (sep != NULL) {
            for (cut = rest.len; cut > 0; cut--) {
                if (cut >= sep->len && memcmp(rest.u.s + cut - sep->len, sep->u.s, sep->len) == 0)
                    break;
            }
            if (cut == 0)
                break;
            width = sep->len;
        } else {
            size_t start = rest.len;
            for (cut = rest.len; cut > 0; cut = start) {
                if (sc_chat_is_space(sc_utf8_prev(rest.u.s, &start)))
                    break;
            }
            if (cut == 0)
                break;
            width = 0;
        }
        if (!push(r, p, piece(&rest, cut, rest.len)))
            return false;
        rest = piece(&rest, 0, cut - width);
        if (sep == NULL)
            rest = sc_chat_strip(&rest, NULL, false, true);
    }
    if ((sep != NULL || rest.len > 0) && !push(r, p, rest))
        return false;
    for (uint32_t i = 0; i < p->n / 2; i++) {
        struct sc_chat_value v = p->v[i];
        p->v[i] = p->v[p->n - 1 - i];
        p->v[p->n - 1 - i] = v;
    }
    return true;
}

static bool splitlines(struct sc_chat_run *r, const struct sc_chat_value *s, struct pieces *p)
{
    size_t from = 0;
    for (size_t at = 0; at < s->len;) {
        size_t end = at;
        uint32_t cp = sc_utf8_next(s->u.s, &at);
        if (!((cp >= 0x0a && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 ||
              cp == 0x2028 || cp == 0x2029))
            continue;
        if (cp == '\r' && at < s->len && s->u.s[at] == '\n')
            at++;
        if (!push(r, p, piece(s, from, end)))
            return false;
        from = at;
    }
    return from == s->len || push(r, p, piece(s, from, s->len));
}

static bool split(struct sc_chat_run *r, enum sc_chat_method_id id, const struct sc_chat_value *s,
                  const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    const struct sc_chat_value *sep = sc_chat_arg(args, 0, "sep");
    const struct sc_chat_value *max_arg = sc_chat_arg(args, 1, "maxsplit");
    struct pieces p = {0};
    int64_t max = -1;
    bool ok;
    if (sep != NULL && sep->type == SC_CHAT_NONE)
        sep = NULL;
    if (sep != NULL && sep->type != SC_CHAT_STR)
        return sc_chat_fail(r, SC_EINVAL, "split: the separator is %s, not a string",
                            sc_chat_type_name(sep));
    if (sep != NULL && sep->len == 0)
        return sc_chat_fail(r, SC_EINVAL, "split: empty separator");
    if (max_arg != NULL && !sc_chat_is_int(max_arg, &max))
        return sc_chat_fail(r, SC_EINVAL, "split: maxsplit is %s, not an integer",
                            sc_chat_type_name(max_arg));
    if (id == SC_CHAT_M_SPLITLINES)
        ok = splitlines(r, s, &p);
    else if (id == SC_CHAT_M_RSPLIT && max >= 0)
        ok = rsplit(r, s, sep, max, &p);
    else
        ok = sep != NULL ? split_sep(r, s, sep, max, &p) : split_space(r, s, max, &p);
    return ok && sc_chat_list(r, SC_CHAT_LIST, p.v, p.n, ret);
}

/* ---- case ---- */

enum case_mode { UPPER, LOWER, CAPITALIZE, TITLE };

static bool is_cased(uint32_t cp)
{
    return utf8proc_tolower((utf8proc_int32_t)cp) != (utf8proc_int32_t)cp ||
           utf8proc_toupper((utf8proc_int32_t)cp) != (utf8proc_int32_t)cp;
}

static bool change_case(struct sc_chat_run *r, const struct sc_chat_value *s, enum case_mode mode,
                        struct sc_chat_value *ret)
{
    struct sc_chat_buf buf = {0};
    bool after_letter = false;
    for (size_t at = 0; at < s->len;) {
        bool first = at == 0;
        char bytes[4];
        uint32_t cp = sc_utf8_next(s->u.s, &at);
        bool upper =
            mode == UPPER || (mode == CAPITALIZE && first) || (mode == TITLE && !after_letter);
        after_letter = is_cased(cp);
        cp = (uint32_t)(upper ? utf8proc_toupper((utf8proc_int32_t)cp)
                              : utf8proc_tolower((utf8proc_int32_t)cp));
        if (!sc_chat_put(r, &buf, bytes, sc_utf8_put(bytes, cp)))
            break;
    }
    if (!sc_chat_buf_value(r, &buf, ret))
        return false;
    ret->markup = s->markup;
    return true;
}

/* ---- the rest ---- */

static bool replace(struct sc_chat_run *r, const struct sc_chat_value *s,
                    const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    const struct sc_chat_value *from = sc_chat_arg(args, 0, "old"),
                               *to = sc_chat_arg(args, 1, "new"),
                               *count = sc_chat_arg(args, 2, "count");
    struct sc_chat_value escaped;
    struct sc_chat_buf buf = {0};
    size_t at = 0, hit;
    int64_t max = -1;
    if (from == NULL || to == NULL || from->type != SC_CHAT_STR || to->type != SC_CHAT_STR)
        return sc_chat_fail(r, SC_EINVAL, "replace takes two strings");
    if (count != NULL && count->type != SC_CHAT_NONE && !sc_chat_is_int(count, &max))
        return sc_chat_fail(r, SC_EINVAL, "replace: the count is %s, not an integer",
                            sc_chat_type_name(count));
    if (s->markup) {
        if (!sc_chat_escape(r, to, &escaped))
            return false;
        to = &escaped;
    }
    for (; max != 0 && at <= s->len && (hit = find_from(s, at, from)) <= s->len; max--) {
        size_t next = hit + from->len;
        if (!sc_chat_step(r, hit - at) || !sc_chat_put(r, &buf, s->u.s + at, hit - at) ||
            !sc_chat_put(r, &buf, to->u.s, to->len))
            break;
        /* An empty string is found before each character and at the end. */
        if (from->len == 0 && next < s->len) {
            (void)sc_utf8_next(s->u.s, &next);
            (void)sc_chat_put(r, &buf, s->u.s + hit, next - hit);
        } else if (from->len == 0) {
            next = (size_t)s->len + 1;
        }
        at = next;
    }
    if (at < s->len)
        (void)sc_chat_put(r, &buf, s->u.s + at, s->len - at);
    if (!sc_chat_buf_value(r, &buf, ret))
        return false;
    ret->markup = s->markup;
    return true;
}

static bool at_end(const struct sc_chat_value *s, const struct sc_chat_value *affix, bool start)
{
    return s->len >= affix->len &&
           (affix->len == 0 ||
            memcmp(s->u.s + (start ? 0 : s->len - affix->len), affix->u.s, affix->len) == 0);
}

/* The argument is a string, or a tuple of which one must fit. */
static bool starts_or_ends(struct sc_chat_run *r, const struct sc_chat_value *s,
                           const struct sc_chat_value *arg, bool start, struct sc_chat_value *ret)
{
    const struct sc_chat_value *affix = arg;
    uint32_t n = 1;
    if (arg->type == SC_CHAT_TUPLE) {
        affix = arg->u.seq->items;
        n = arg->u.seq->n;
    }
    *ret = sc_chat_bool(false);
    for (uint32_t i = 0; i < n; i++) {
        if (affix[i].type != SC_CHAT_STR)
            return sc_chat_fail(r, SC_EINVAL, "%swith takes a string or a tuple of them, not %s",
                                start ? "starts" : "ends", sc_chat_type_name(&affix[i]));
        if (!sc_chat_step(r, affix[i].len))
            return false;
        ret->u.b |= at_end(s, &affix[i], start);
    }
    return true;
}

static bool count(struct sc_chat_run *r, const struct sc_chat_value *s,
                  const struct sc_chat_value *needle, struct sc_chat_value *ret)
{
    int64_t n = 0;
    if (needle->len == 0) {
        *ret = sc_chat_int((int64_t)sc_chat_str_chars(s) + 1);
        return true;
    }
    for (size_t at = 0; (at = find_from(s, at, needle)) <= s->len; at += needle->len)
        n++;
    *ret = sc_chat_int(n);
    return sc_chat_step(r, s->len);
}

static bool join(struct sc_chat_run *r, const struct sc_chat_value *sep,
                 const struct sc_chat_value *list, struct sc_chat_value *ret)
{
    const struct sc_chat_seq *seq;
    struct sc_chat_buf buf = {0};
    if (!sc_chat_items(r, list, &seq))
        return false;
    for (uint32_t i = 0; i < seq->n; i++) {
        if (seq->items[i].type != SC_CHAT_STR) {
            (void)sc_chat_fail(r, SC_EINVAL, "join: item %u is %s, not a string", i,
                               sc_chat_type_name(&seq->items[i]));
            break;
        }
        if ((i > 0 && !sc_chat_put_str(r, &buf, sep)) || !sc_chat_put_str(r, &buf, &seq->items[i]))
            break;
    }
    return sc_chat_buf_value(r, &buf, ret);
}

static bool strip_method(struct sc_chat_run *r, enum sc_chat_method_id id,
                         const struct sc_chat_value *self, const struct sc_chat_value *chars,
                         struct sc_chat_value *ret)
{
    if (chars != NULL && chars->type == SC_CHAT_NONE)
        chars = NULL;
    if (chars != NULL && chars->type != SC_CHAT_STR)
        return sc_chat_fail(r, SC_EINVAL, "strip: the characters are %s, not a string",
                            sc_chat_type_name(chars));
    size_t n_chars = chars != NULL && chars->len > 0 ? chars->len : 1;
    *ret = sc_chat_strip(self, chars, id != SC_CHAT_M_RSTRIP, id != SC_CHAT_M_LSTRIP);
    return sc_chat_step(r, ((size_t)self->len - ret->len) * n_chars);
}

bool sc_chat_str_method(struct sc_chat_run *r, enum sc_chat_method_id id,
                        const struct sc_chat_value *self, const struct sc_chat_args *args,
                        struct sc_chat_value *ret)
{
    const struct sc_chat_value *arg = args->n > 0 ? &args->v[0] : NULL;
    if (!sc_chat_step(r, self->len))
        return false;
    switch (id) {
    case SC_CHAT_M_STRIP:
    case SC_CHAT_M_LSTRIP:
    case SC_CHAT_M_RSTRIP:
        return strip_method(r, id, self, arg, ret);
    case SC_CHAT_M_SPLIT:
    case SC_CHAT_M_RSPLIT:
    case SC_CHAT_M_SPLITLINES:
        return split(r, id, self, args, ret);
    case SC_CHAT_M_REPLACE:
        return replace(r, self, args, ret);
    case SC_CHAT_M_UPPER:
        return change_case(r, self, UPPER, ret);
    case SC_CHAT_M_LOWER:
        return change_case(r, self, LOWER, ret);
    case SC_CHAT_M_CAPITALIZE:
        return change_case(r, self, CAPITALIZE, ret);
    case SC_CHAT_M_TITLE:
        return change_case(r, self, TITLE, ret);
    default:
        break;
    }
    if (arg == NULL)
        return sc_chat_fail(r, SC_EINVAL, "a string method takes its argument without a name");
    if (id == SC_CHAT_M_JOIN)
        return join(r, self, arg, ret);
    if (id == SC_CHAT_M_STARTSWITH || id == SC_CHAT_M_ENDSWITH)
        return starts_or_ends(r, self, arg, id == SC_CHAT_M_STARTSWITH, ret);
    if (arg->type != SC_CHAT_STR)
        return sc_chat_fail(r, SC_EINVAL, "a string method takes a string, not %s",
                            sc_chat_type_name(arg));
    switch (id) {
    case SC_CHAT_M_REMOVEPREFIX:
        *ret = piece(self, at_end(self, arg, true) ? arg->len : 0, self->len);
        return true;
    case SC_CHAT_M_REMOVESUFFIX:
        *ret = piece(self, 0, self->len - (at_end(self, arg, false) ? arg->len : 0));
        return true;
    case SC_CHAT_M_COUNT:
        return count(r, self, arg, ret);
    case SC_CHAT_M_FIND: {
        size_t at = find_from(self, 0, arg);
        struct sc_chat_value head = piece(self, 0, at <= self->len ? at : 0);
        *ret = sc_chat_int(at <= self->len ? (int64_t)sc_chat_str_chars(&head) : -1);
        return true;
    }
    default:
        return sc_chat_fail(r, SC_EINVAL, "'str object' has no method '%s'",
                            sc_chat_name_get(SC_CHAT_NAMED_METHOD, (int)id)->name);
    }
}
