/* model/tokenizer_split.c - runs the pre-tokenizer's steps over one piece of text.
 *
 * Each step hands its parts to the next as it finds them, so that no list of parts is kept.
 */
#include <string.h>

#include "model/tokenizer_internal.h"

static enum sc_status run(struct sc_tok_call *c, size_t step, const char *text, size_t len,
                          bool origin);

/* The parts of one split, glued as its behavior says; one part is held back. */
struct glue {
    struct sc_tok_call *call;
    size_t step;
    const char *text;
    bool origin;
    enum sc_tok_behavior behavior;
    bool held, held_match;
    size_t start, end;
};

static enum sc_status hand_on(struct glue *g)
{
    g->held = false;
    return run(g->call, g->step + 1, g->text + g->start, g->end - g->start,
               g->origin && g->start == 0);
}

static enum sc_status hold(struct glue *g, size_t start, size_t end, bool match)
{
    enum sc_status st = g->held ? hand_on(g) : SC_OK;
    g->held = true;
    g->held_match = match;
    g->start = start;
    g->end = end;
    return st;
}

/* Ranges come in order and cover the text. */
static enum sc_status add_range(struct glue *g, size_t start, size_t end, bool match)
{
    if (start == end)
        return SC_OK;
    bool joins = false;
    switch (g->behavior) {
    case SC_TOK_ISOLATED:
        break;
    case SC_TOK_REMOVED:
        if (match)
            return SC_OK;
        break;
    case SC_TOK_MERGED_WITH_PREVIOUS: /* a match, to what is not one */
        joins = match && g->held && !g->held_match;
        break;
    case SC_TOK_MERGED_WITH_NEXT: /* what is not a match, to the match before it */
        joins = !match && g->held && g->held_match;
        break;
    case SC_TOK_CONTIGUOUS:
        joins = g->held && g->held_match == match;
        break;
    }
    if (!joins)
        return hold(g, start, end, match);
    g->end = end;
    g->held_match = match;
    return SC_OK;
}

static enum sc_status split(struct sc_tok_call *c, size_t step, const char *text, size_t len,
                            bool origin)
{
    const struct sc_tok_pretok_step *s = &c->tok->pretok.steps[step];
    struct glue g = {
        .call = c, .step = step, .text = text, .origin = origin, .behavior = s->behavior};
    size_t pos = 0;
    while (pos < len) {
        size_t start, end;
        enum sc_status st =
            sc_tok_pattern_find(&s->pattern, &c->matcher, text, len, pos, &start, &end, c->err);
        if (st == SC_OK)
            st = add_range(&g, pos, start, s->invert);
        if (st == SC_OK)
            st = add_range(&g, start, end, !s->invert);
        if (st != SC_OK)
            return st;
        pos = end;
    }
    return g.held ? hand_on(&g) : SC_OK;
}

static enum sc_status metaspace(struct sc_tok_call *c, const struct sc_tok_pretok_step *s,
                                const char *text, size_t len, bool origin, struct sc_text *out)
{
    const char *r = s->replacement;
    size_t n = s->replacement_len;
    bool starts = text[0] == ' ' || (len >= n && memcmp(text, r, n) == 0);
    enum sc_status st = SC_OK;
    out->len = 0;
    if (!starts &&
        (s->prepend == SC_TOK_PREPEND_ALWAYS || (s->prepend == SC_TOK_PREPEND_FIRST && origin)))
        st = sc_text_append(out, r, n, c->err);
    for (size_t pos = 0; st == SC_OK && pos < len;) {
        const char *space = memchr(text + pos, ' ', len - pos);
        size_t end = space ? (size_t)(space - text) : len;
        st = sc_text_append(out, text + pos, end - pos, c->err);
        if (st == SC_OK && space)
            st = sc_text_append(out, r, n, c->err);
        pos = end + (space ? 1 : 0);
    }
    return st;
}

static enum sc_status run(struct sc_tok_call *c, size_t step, const char *text, size_t len,
                          bool origin)
{
    const struct sc_tok_pretok *p = &c->tok->pretok;
    enum sc_status st = SC_OK;
    if (len == 0)
        return SC_OK;
    if (step == p->n_steps)
        return sc_tok_bpe_encode(&c->tok->bpe, &c->tok->vocab, &c->bpe, text, len, c->ids, c->err);
    struct sc_text *out = &c->pretok_bufs[step];
    switch (p->steps[step].kind) {
    case SC_TOK_PRETOK_SPLIT:
        return split(c, step, text, len, origin);
    case SC_TOK_PRETOK_PREFIX_SPACE:
        if (text[0] == ' ')
            return run(c, step + 1, text, len, origin);
        out->len = 0;
        st = sc_text_append(out, " ", 1, c->err);
        if (st == SC_OK)
            st = sc_text_append(out, text, len, c->err);
        break;
    case SC_TOK_PRETOK_METASPACE:
        st = metaspace(c, &p->steps[step], text, len, origin, out);
        break;
    case SC_TOK_PRETOK_BYTE_MAP:
        out->len = 0;
        st = sc_tok_byte_map(text, len, out, c->err);
        break;
    }
    if (st != SC_OK)
        return st;
    if (out->len > SC_TOK_NORMALIZED_BYTES_MAX)
        return sc_fail(c->err, SC_ERANGE, "pre-tokenized text: %zu bytes, limit %zu", out->len,
                       (size_t)SC_TOK_NORMALIZED_BYTES_MAX);
    return run(c, step + 1, out->bytes, out->len, origin);
}

enum sc_status sc_tok_pretokenize(struct sc_tok_call *call, const char *text, size_t len,
                                  bool origin)
{
    return run(call, 0, text, len, origin);
}
