/* model/unicode_normalize.c - NFC, NFD, NFKC, NFKD in linear time.
 *
 * utf8proc gives the decompositions and compositions; the ordering of marks is done here, because
 * utf8proc's takes quadratic time on a long run of marks.
 */
#include "model/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/tokenizer_internal.h"

/* Marks with a combining class that came after Unicode 13. */
static const struct sc_unicode_range newer_marks[] = {
    {0x897, 0x89f},     {0x8ca, 0x8d2},     {0xc3c, 0xc3c},     {0xece, 0xece},
    {0x1715, 0x1715},   {0x1ac1, 0x1ace},   {0x1dfa, 0x1dfa},   {0x10d69, 0x10d6d},
    {0x10efd, 0x10eff}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x113ce, 0x113d0},
    {0x113e1, 0x113e2}, {0x11f41, 0x11f42}, {0x1612f, 0x1612f}, {0x1e08f, 0x1e08f},
    {0x1e2ae, 0x1e2ae}, {0x1e4ec, 0x1e4ef}, {0x1e5ee, 0x1e5ef},
};

static bool is_newer_mark(uint32_t cp)
{
    if (cp < newer_marks[0].first)
        return false;
    for (size_t i = 0; i < SC_ARRAY_LEN(newer_marks); i++)
        if (cp >= newer_marks[i].first && cp <= newer_marks[i].last)
            return true;
    return false;
}

/* Code points that are their own normal form and never join what stands before them. Only a part of
 * all such; it is for speed, and what is left out takes the long way. */
static bool is_inert(enum sc_unicode_form form, uint32_t cp)
{
    if (cp < 0x80)
        return true;
    if (form != SC_UNICODE_NFC)
        return false;
    return cp < 0x300 || (cp >= 0x400 && cp < 0x483) || (cp >= 0x2010 && cp <= 0x2027) ||
           (cp >= 0x3001 && cp <= 0x3029) || (cp >= 0x3041 && cp <= 0x3096) ||
           (cp >= 0x30a1 && cp <= 0x30fa) || (cp >= 0x4e00 && cp <= 0x9fff) ||
           (cp >= 0xac00 && cp <= 0xd7a3) || (cp >= 0xff01 && cp <= 0xff9d) ||
           (cp >= 0x1f300 && cp <= 0x1f64f);
}

struct codepoints {
    utf8proc_int32_t *cps, *spare;
    size_t n, cap;
};

static enum sc_status reserve(struct codepoints *c, size_t more, struct sc_err *err)
{
    if (c->cap - c->n >= more)
        return SC_OK;
    size_t cap = (c->cap + more) * 2;
    utf8proc_int32_t *cps = realloc(c->cps, cap * sizeof(*cps));
    if (!cps)
        return sc_fail(err, SC_ENOMEM, "normalizing text: out of memory");
    c->cps = cps;
    utf8proc_int32_t *spare = realloc(c->spare, cap * sizeof(*spare));
    if (!spare)
        return sc_fail(err, SC_ENOMEM, "normalizing text: out of memory");
    c->spare = spare;
    c->cap = cap;
    return SC_OK;
}

static unsigned combining_class(utf8proc_int32_t cp)
{
    return (unsigned)utf8proc_get_property(cp)->combining_class & 0xff;
}

/* Stable counting sort of one run of marks by combining class. */
static void sort_marks(utf8proc_int32_t *cps, utf8proc_int32_t *spare, size_t n)
{
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++)
        at[combining_class(cps[i]) + 1]++;
    for (size_t i = 1; i < 257; i++)
        at[i] += at[i - 1];
    for (size_t i = 0; i < n; i++)
        spare[at[combining_class(cps[i])]++] = cps[i];
    memcpy(cps, spare, n * sizeof(*cps));
}

static void order_marks(struct codepoints *c)
{
    size_t i = 0;
    while (i < c->n) {
        if (combining_class(c->cps[i]) == 0) {
            i++;
            continue;
        }
        size_t start = i;
        while (i < c->n && combining_class(c->cps[i]) != 0)
            i++;
        if (i - start > 1)
            sort_marks(c->cps + start, c->spare, i - start);
    }
}

/* One piece that starts and ends at a boundary of the normal form. */
static enum sc_status piece(enum sc_unicode_form form, struct codepoints *c, const char *text,
                            size_t len, struct sc_text *out, struct sc_err *err)
{
    int options = UTF8PROC_STABLE;
    options |=
        form == SC_UNICODE_NFC || form == SC_UNICODE_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (form == SC_UNICODE_NFKC || form == SC_UNICODE_NFKD)
        options |= UTF8PROC_COMPAT;
    c->n = 0;
    size_t pos = 0;
    while (pos < len) {
        enum sc_status st = reserve(c, 32, err); /* the longest decomposition has 18 */
        if (st != SC_OK)
            return st;
        int boundary = 0;
        utf8proc_int32_t cp = (utf8proc_int32_t)sc_utf8_next(text, &pos);
        utf8proc_ssize_t n =
            utf8proc_decompose_char(cp, c->cps + c->n, (utf8proc_ssize_t)(c->cap - c->n),
                                    (utf8proc_option_t)options, &boundary);
        if (n < 0 || (size_t)n > c->cap - c->n)
            return sc_fail(err, SC_EINTERNAL, "U+%04X: decomposition failed", (unsigned)cp);
        c->n += (size_t)n;
        if (c->n > SC_TOK_NORMALIZED_BYTES_MAX)
            return sc_fail(err, SC_ERANGE, "normalized text: over %zu bytes",
                           (size_t)SC_TOK_NORMALIZED_BYTES_MAX);
    }
    order_marks(c);
    utf8proc_ssize_t n =
        utf8proc_normalize_utf32(c->cps, (utf8proc_ssize_t)c->n, (utf8proc_option_t)options);
    if (n < 0)
        return sc_fail(err, SC_EINTERNAL, "composition failed: %s", utf8proc_errmsg(n));
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        char bytes[4];
        unsigned k = sc_utf8_put(bytes, (uint32_t)c->cps[i]);
        enum sc_status st = sc_text_append(out, bytes, k, err);
        if (st != SC_OK)
            return st;
    }
    return SC_OK;
}

enum sc_status sc_unicode_normalize(enum sc_unicode_form form, const char *text, size_t len,
                                    struct sc_text *out, struct sc_err *err)
{
    struct codepoints c = {0};
    enum sc_status st = SC_OK;
    size_t done = 0;       /* written to out */
    size_t last_inert = 0; /* start of the inert code point before pos, or done */
    size_t pos = 0;
    while (st == SC_OK && pos < len) {
        size_t at = pos;
        uint32_t cp = sc_utf8_next(text, &pos);
        if (is_inert(form, cp)) {
            last_inert = at;
            continue;
        }
        /* From the inert code point before, which may take a mark, to the next inert one. */
        st = sc_text_append(out, text + done, last_inert - done, err);
        size_t start = last_inert, end = at;
        while (st == SC_OK) {
            bool stop = end >= len;
            size_t next = end;
            if (!stop) {
                cp = sc_utf8_next(text, &next);
                stop = is_inert(form, cp);
            }
            if (stop || is_newer_mark(cp)) {
                st = piece(form, &c, text + start, end - start, out, err);
                start = end;
                if (!stop && st == SC_OK)
                    st = sc_text_append(out, text + end, next - end, err);
                if (!stop)
                    start = next;
            }
            if (stop)
                break;
            end = next;
        }
        done = last_inert = pos = end;
    }
    if (st == SC_OK)
        st = sc_text_append(out, text + done, len - done, err);
    free(c.cps);
    free(c.spare);
    return st;
}
