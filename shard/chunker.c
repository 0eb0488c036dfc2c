#include "shard/chunker.h"

#include <stdlib.h>
#include <string.h>

#define BLANK_LEN_MIN 16u /* a blank line closes a chunk of at least this many tokens */

struct sc_token_table {
    uint32_t vocab;
    uint16_t classes[];
};

static bool ends_with(const char *s, size_t len, const char *suffix, size_t *ret_rest)
{
    size_t n = strlen(suffix);
    if (len < n || memcmp(s + len - n, suffix, n) != 0)
        return false;
    *ret_rest = len - n;
    return true;
}

static bool ends_with_any(const char *s, size_t len, const char *const *set, size_t n,
                          size_t *ret_rest)
{
    for (size_t i = 0; i < n; i++)
        if (ends_with(s, len, set[i], ret_rest))
            return true;
    return false;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Newlines of a token: how many, whether it is nothing else, whether it ends in one. */
static uint16_t newline_flags(const char *s, size_t len, uint32_t *ret_n)
{
    uint32_t n = 0;
    bool only = len > 0;
    for (size_t i = 0; i < len; i++) {
        n += s[i] == '\n';
        only = only && is_blank(s[i]);
    }
    *ret_n = n;
    size_t end = len;
    while (end > 0 && (s[end - 1] == ' ' || s[end - 1] == '\t' || s[end - 1] == '\r'))
        end--;
    return (uint16_t)((n > 0 && only ? SC_TOKEN_NL_ONLY : 0) |
                      (end > 0 && s[end - 1] == '\n' ? SC_TOKEN_NL_END : 0));
}

static enum sc_delim punctuation_level(const char *s, size_t len, bool *ret_vetoable)
{
    static const char *const closers[] = {"\"",     "'",      ")",      "]",      "}",
                                          "\u201d", "\u2019", "\u00bb", "\u300d", "\u300f"};
    static const char *const sentence[] = {".",      "!",      "?",      "\u2026", "\u3002",
                                           "\uff01", "\uff1f", "\uff61", "\u061f", "\u06d4",
                                           "\u0964", "\u0965", "\u203d"};
    static const char *const clause[] = {",",      ";",      ":",      "\uff0c", "\uff1b",
                                         "\uff1a", "\u3001", "\u060c", ")",      "]"};
    size_t bare = len, rest;

    while (ends_with_any(s, bare, closers, SC_ARRAY_LEN(closers), &rest))
        bare = rest;
    if (ends_with_any(s, bare, sentence, SC_ARRAY_LEN(sentence), &rest)) {
        *ret_vetoable = bare == len && s[len - 1] == '.';
        return SC_DELIM_SENTENCE;
    }
    if (ends_with_any(s, len, clause, SC_ARRAY_LEN(clause), &rest)) {
        *ret_vetoable = s[len - 1] == ',' || s[len - 1] == ':';
        return SC_DELIM_CLAUSE;
    }
    return SC_DELIM_NONE;
}

uint16_t sc_token_classify(const char *bytes, size_t len, bool special)
{
    uint32_t n_newlines;
    bool vetoable = false;

    if (special)
        return SC_TOKEN_SPECIAL | SC_TOKEN_TURN | SC_DELIM_BLANK;
    if (len == 0)
        return SC_DELIM_NONE;
    uint16_t flags = newline_flags(bytes, len, &n_newlines);
    if (bytes[0] >= '0' && bytes[0] <= '9')
        flags |= SC_TOKEN_DIGIT;
    if (bytes[0] == ' ')
        flags |= SC_TOKEN_SPACE;
    size_t trimmed = len;
    while (trimmed > 0 && is_blank(bytes[trimmed - 1]))
        trimmed--;
    enum sc_delim level =
        trimmed > 0 ? punctuation_level(bytes, trimmed, &vetoable) : SC_DELIM_NONE;
    size_t rest;
    if (n_newlines >= 2 || ends_with(bytes, trimmed, "```", &rest))
        level = SC_DELIM_BLANK;
    else if (n_newlines == 1)
        level = SC_DELIM_SENTENCE;
    else if (level == SC_DELIM_NONE && (flags & SC_TOKEN_SPACE) != 0)
        level = SC_DELIM_WORD;
    if (vetoable && trimmed == len)
        flags |= SC_TOKEN_VETOABLE;
    return (uint16_t)(flags | (uint16_t)level);
}

enum sc_status sc_token_table_open(const struct sc_tokenizer *tok, uint32_t vocab,
                                   struct sc_token_table **ret_table, struct sc_err *err)
{
    struct sc_token_table *t = malloc(sizeof(*t) + (size_t)vocab * sizeof(t->classes[0]));
    if (t == NULL)
        return sc_fail(err, SC_ENOMEM, "token classes: out of memory for %u ids", vocab);
    t->vocab = vocab;
    uint32_t known = tok != NULL ? sc_tokenizer_vocab(tok) : 0;
    for (uint32_t id = 0; id < vocab; id++) {
        size_t len = 0;
        const char *bytes = id < known ? sc_tokenizer_bytes(tok, (int32_t)id, &len) : NULL;
        bool special = id < known && sc_tokenizer_is_special(tok, (int32_t)id);
        t->classes[id] = sc_token_classify(bytes, len, special);
    }
    *ret_table = t;
    return SC_OK;
}

void sc_token_table_close(struct sc_token_table *table)
{
    free(table);
}

uint16_t sc_token_table_get(const struct sc_token_table *table, int32_t id)
{
    SC_ASSERT(id >= 0 && (uint32_t)id < table->vocab);
    return table->classes[id];
}

/* The class of tokens[i] among its neighbours: "3" "." "14" is no sentence, and where newline is
 * always a token of its own, two in a row are a blank line. */
static uint16_t class_at(const struct sc_token_table *table, const int32_t *tokens, uint32_t i,
                         uint32_t n_visible)
{
    uint16_t c = sc_token_table_get(table, tokens[i]);
    if ((c & SC_TOKEN_VETOABLE) != 0 && i + 1 < n_visible &&
        (sc_token_table_get(table, tokens[i + 1]) & SC_TOKEN_DIGIT) != 0) {
        enum sc_delim level = (c & SC_TOKEN_SPACE) != 0 ? SC_DELIM_WORD : SC_DELIM_NONE;
        return (uint16_t)((c & ~SC_TOKEN_LEVEL) | (uint16_t)level);
    }
    if ((c & SC_TOKEN_NL_ONLY) != 0 && i > 0 &&
        (sc_token_table_get(table, tokens[i - 1]) & SC_TOKEN_NL_END) != 0)
        return (uint16_t)((c & ~SC_TOKEN_LEVEL) | SC_DELIM_BLANK);
    return c;
}

static bool closes(const struct sc_recipe *r, uint16_t c, uint32_t len)
{
    enum sc_delim level = (enum sc_delim)(c & SC_TOKEN_LEVEL);
    if ((c & SC_TOKEN_TURN) != 0 || len >= r->chunk_max)
        return true;
    switch (r->chunking) {
    case SC_CHUNKS_SENTENCE:
        return level <= SC_DELIM_SENTENCE;
    case SC_CHUNKS_CLAUSE:
        return level <= SC_DELIM_CLAUSE;
    case SC_CHUNKS_FIXED:
        return len >= r->chunk_target;
    case SC_CHUNKS_PACKED:
        break;
    }
    return (level == SC_DELIM_BLANK && len >= BLANK_LEN_MIN) ||
           (level <= SC_DELIM_SENTENCE && len >= r->chunk_target);
}

/* A packed chunk reached its maximum without a sentence end at or after the target: take an earlier
 * sentence end if it leaves the minimum, else the best delimiter of the last half, else cut hard.
 */
static uint32_t cut_back(const struct sc_token_table *table, const struct sc_recipe *r,
                         const int32_t *tokens, uint32_t start, uint32_t n_visible)
{
    uint32_t best[SC_DELIM_NONE + 1] = {0}, end = start + r->chunk_max;
    for (uint32_t i = start; i < end; i++) {
        uint32_t len = i + 1 - start;
        enum sc_delim level =
            (enum sc_delim)(class_at(table, tokens, i, n_visible) & SC_TOKEN_LEVEL);
        if (level <= SC_DELIM_SENTENCE && len >= r->chunk_min)
            best[SC_DELIM_SENTENCE] = i + 1;
        else if (level < SC_DELIM_NONE && len > r->chunk_max / 2)
            best[level] = i + 1;
    }
    for (int level = SC_DELIM_SENTENCE; level < SC_DELIM_NONE; level++)
        if (best[level] != 0)
            return best[level];
    return end;
}

uint32_t sc_chunk_end(const struct sc_token_table *table, const struct sc_recipe *recipe,
                      const int32_t *tokens, uint32_t start, uint32_t n_visible,
                      uint32_t prompt_len)
{
    uint32_t border = start < prompt_len ? prompt_len : UINT32_MAX;

    for (uint32_t i = start; i < n_visible; i++) {
        uint32_t len = i + 1 - start;
        bool last_visible = i + 1 == n_visible;
        if (i + 1 == border)
            return border;
        uint16_t c = class_at(table, tokens, i, n_visible);
        if (last_visible && (c & SC_TOKEN_VETOABLE) != 0)
            return 0; /* the next token may take the delimiter away */
        if (!closes(recipe, c, len))
            continue;
        if (recipe->chunking == SC_CHUNKS_PACKED && len >= recipe->chunk_max &&
            (c & SC_TOKEN_TURN) == 0)
            return cut_back(table, recipe, tokens, start, n_visible);
        return i + 1;
    }
    return 0;
}
