/* model/tokenizer_added.c - added tokens: which there are, and finding them in a text.
 *
 * Matching is leftmost-longest over one trie for each of the two passes: tokens with normalized =
 * false on the raw text, the others, in their normalized spelling, on normalized text.
 */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

static enum sc_status trie_node(struct sc_tok_trie *t, uint8_t byte, uint32_t *ret_node,
                                struct sc_err *err)
{
    if (t->n == t->cap) {
        uint32_t cap = t->cap == 0 ? 256 : t->cap * 2;
        struct sc_tok_trie_node *grown = realloc(t->nodes, cap * sizeof(*grown));
        if (!grown)
            return sc_fail(err, SC_ENOMEM, "added_tokens: out of memory");
        t->nodes = grown;
        t->cap = cap;
        if (t->n == 0)
            t->n = 1; /* node 0 is "none" */
    }
    t->nodes[t->n] = (struct sc_tok_trie_node){.byte = byte, .token = -1};
    *ret_node = t->n++;
    return SC_OK;
}

static uint32_t trie_child(const struct sc_tok_trie *t, uint32_t node, uint8_t byte)
{
    uint32_t at = t->nodes[node].child;
    while (at != 0 && t->nodes[at].byte != byte)
        at = t->nodes[at].sibling;
    return at;
}

static enum sc_status trie_add(struct sc_tok_trie *t, const char *text, size_t len, int32_t token,
                               struct sc_err *err)
{
    uint32_t node = t->root[(uint8_t)text[0]];
    enum sc_status st = SC_OK;
    if (node == 0) {
        st = trie_node(t, (uint8_t)text[0], &node, err);
        if (st != SC_OK)
            return st;
        t->root[(uint8_t)text[0]] = node;
    }
    for (size_t i = 1; i < len; i++) {
        uint32_t next = trie_child(t, node, (uint8_t)text[i]);
        if (next == 0) {
            st = trie_node(t, (uint8_t)text[i], &next, err);
            if (st != SC_OK)
                return st;
            t->nodes[next].sibling = t->nodes[node].child;
            t->nodes[node].child = next;
        }
        node = next;
    }
    if (t->nodes[node].token < 0)
        t->nodes[node].token = token;
    return SC_OK;
}

/* The longest token at text, -1; *ret_len is its length. */
static int32_t trie_longest(const struct sc_tok_trie *t, const char *text, size_t len,
                            size_t *ret_len)
{
    int32_t found = -1;
    uint32_t node = t->root[(uint8_t)text[0]];
    for (size_t i = 1; node != 0; i++) {
        if (t->nodes[node].token >= 0) {
            found = t->nodes[node].token;
            *ret_len = i;
        }
        if (i >= len)
            break;
        node = trie_child(t, node, (uint8_t)text[i]);
    }
    return found;
}

/* The id a token gets: its own in the vocabulary, or else the next after the largest. The "id" in
 * the file is not what counts elsewhere either, but it has to agree: with the vocabulary's, or with
 * its place in the list. Tokens that are in the vocabulary although the list gave them an id of
 * their own shift those after them. */
static enum sc_status token_id(struct sc_tok_added *a, struct sc_tok_vocab *v, const char *content,
                               size_t len, json_int_t file_id, uint32_t *ret_id, struct sc_err *err)
{
    int32_t found = sc_tok_vocab_find(v, content, len);
    uint32_t next = a->next_id > v->n_model ? a->next_id : v->n_model;
    json_int_t place = (json_int_t)next + a->n_shifted;
    json_int_t id = found >= 0 ? found : (json_int_t)next;
    if (file_id != id && file_id != place)
        return sc_fail(err, SC_EFORMAT, "added token \"%.40s\": id %lld, but its place gives %lld",
                       content, (long long)file_id, (long long)id);
    if (found >= 0 && file_id != id)
        a->n_shifted++;
    *ret_id = (uint32_t)id;
    return found >= 0 ? SC_OK : sc_tok_vocab_add(v, content, len, (uint32_t)id, 0, err);
}

static enum sc_status load_flags(struct sc_tok_added_token *t, const json_t *obj,
                                 struct sc_err *err)
{
    static const char where[] = "added_tokens[]";
    enum sc_status st = sc_tok_json_bool(obj, where, "special", false, &t->special, err);
    if (st == SC_OK)
        st = sc_tok_json_bool(obj, where, "single_word", false, &t->single_word, err);
    if (st == SC_OK)
        st = sc_tok_json_bool(obj, where, "lstrip", false, &t->lstrip, err);
    if (st == SC_OK)
        st = sc_tok_json_bool(obj, where, "rstrip", false, &t->rstrip, err);
    if (st == SC_OK)
        st = sc_tok_json_bool(obj, where, "normalized", !t->special, &t->in_normalized, err);
    t->in_raw = !t->in_normalized;
    return st;
}

static enum sc_status add(struct sc_tok_added *a, struct sc_tok_vocab *v, const json_t *obj,
                          json_int_t file_id, struct sc_err *err)
{
    const char *content;
    size_t len;
    struct sc_tok_added_token token = {0};
    enum sc_status st = sc_tok_json_string(obj, "added_tokens[]", "content", &content, &len, err);
    if (st == SC_OK)
        st = load_flags(&token, obj, err);
    if (st != SC_OK || len == 0)
        return st; /* an empty one is no token */
    if (len > SC_TOK_ADDED_BYTES_MAX)
        return sc_fail(err, SC_ERANGE, "added token \"%.40s\": %zu bytes, limit %zu", content, len,
                       SC_TOK_ADDED_BYTES_MAX);
    st = token_id(a, v, content, len, file_id, &token.id, err);
    if (st != SC_OK)
        return st;
    if (token.id >= a->next_id)
        a->next_id = token.id + 1;
    uint8_t *flags = &v->entries[token.id].flags;
    bool again = *flags & SC_TOK_ADDED, was_special = *flags & SC_TOK_SPECIAL;
    *flags |= SC_TOK_ADDED;
    if (token.special)
        *flags |= SC_TOK_SPECIAL; /* once special, always special */
    for (size_t i = 0; again && i < a->n; i++) {
        struct sc_tok_added_token *old = &a->tokens[i];
        if (old->id != token.id)
            continue;
        /* The later flags count, but the pass that finds a special token is its first one's. */
        token.in_raw = old->in_raw || (!was_special && token.in_raw);
        token.in_normalized = old->in_normalized || (!was_special && token.in_normalized);
        token.special |= was_special;
        *old = token;
        return SC_OK;
    }
    if (a->n == SC_TOK_ADDED_MAX)
        return sc_fail(err, SC_ERANGE, "added_tokens: over %zu", SC_TOK_ADDED_MAX);
    if (a->n == a->cap) {
        size_t cap = a->cap == 0 ? 64 : a->cap * 2;
        struct sc_tok_added_token *grown = realloc(a->tokens, cap * sizeof(*grown));
        if (!grown)
            return sc_fail(err, SC_ENOMEM, "added_tokens: out of memory");
        a->tokens = grown;
        a->cap = cap;
    }
    a->tokens[a->n++] = token;
    return SC_OK;
}

static enum sc_status load_list(struct sc_tok_added *a, struct sc_tok_vocab *v, const json_t *list,
                                struct sc_err *err)
{
    if (list && !json_is_null(list) && !json_is_array(list))
        return sc_fail(err, SC_EFORMAT, "added_tokens: not an array");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *token = json_array_get(list, i);
        const json_t *id = json_object_get(token, "id");
        if (!json_is_integer(id))
            return sc_fail(err, SC_EFORMAT, "added_tokens[%zu].id: not an integer", i);
        enum sc_status st = add(a, v, token, json_integer_value(id), err);
        if (st != SC_OK)
            return st;
    }
    return SC_OK;
}

struct keyed {
    json_int_t id;
    const json_t *token;
};

static int by_id(const void *left, const void *right)
{
    const struct keyed *l = left, *r = right;
    return l->id < r->id ? -1 : l->id > r->id;
}

/* added_tokens_decoder: {"id": {content, flags}}; taken in the order of the ids. */
static enum sc_status load_config(struct sc_tok_added *a, struct sc_tok_vocab *v,
                                  const json_t *config, struct sc_err *err)
{
    json_t *map = json_object_get(config, "added_tokens_decoder");
    size_t n = json_object_size(map), i = 0;
    if (n == 0)
        return SC_OK;
    struct keyed *list = calloc(n, sizeof(*list));
    if (!list)
        return sc_fail(err, SC_ENOMEM, "added_tokens_decoder: out of memory");
    enum sc_status st = SC_OK;
    const char *key;
    json_t *token;
    json_object_foreach(map, key, token)
    {
        char *end;
        list[i].id = strtoll(key, &end, 10);
        list[i++].token = token;
        if (st == SC_OK && (end == key || *end != '\0'))
            st = sc_fail(err, SC_EFORMAT, "added_tokens_decoder: \"%.40s\" is not an id", key);
    }
    qsort(list, n, sizeof(*list), by_id);
    for (i = 0; st == SC_OK && i < n; i++)
        st = add(a, v, list[i].token, list[i].id, err);
    free(list);
    return st == SC_OK ? st : sc_err_prefix(err, st, "tokenizer_config.json");
}

static enum sc_status index_token(struct sc_tok_added *a, struct sc_tok_vocab *v,
                                  const struct sc_tok_normalizer *norm, size_t i,
                                  struct sc_err *err)
{
    const struct sc_tok_added_token *t = &a->tokens[i];
    const char *text = sc_tok_text(v, t->id);
    size_t len = v->entries[t->id].text_len;
    enum sc_status st = t->in_raw ? trie_add(&a->raw, text, len, (int32_t)i, err) : SC_OK;
    if (st != SC_OK || !t->in_normalized)
        return st;
    struct sc_text bufs[2] = {{0}, {0}};
    struct sc_tok_matcher matcher = {0};
    st = sc_tok_normalize(norm, &matcher, bufs, text, len, &text, &len, err);
    if (st == SC_OK && len == 0)
        st = sc_fail(err, SC_ENOTSUP, "added token %u: nothing is left of it when normalized",
                     t->id);
    if (st == SC_OK)
        st = trie_add(&a->normalized, text, len, (int32_t)i, err);
    if (st == SC_OK && (text == bufs[0].bytes || text == bufs[1].bytes))
        st = sc_tok_vocab_see(v, t->id, text, len, err);
    sc_tok_matcher_fini(&matcher);
    sc_text_fini(&bufs[0]);
    sc_text_fini(&bufs[1]);
    return st;
}

enum sc_status sc_tok_added_load(struct sc_tok_added *a, struct sc_tok_vocab *v,
                                 const struct sc_tok_normalizer *norm, const json_t *tokens,
                                 const json_t *config, struct sc_err *err)
{
    enum sc_status st = load_list(a, v, tokens, err);
    if (st == SC_OK)
        st = load_config(a, v, config, err);
    for (size_t i = 0; st == SC_OK && i < a->n; i++)
        st = index_token(a, v, norm, i, err);
    return st;
}

void sc_tok_added_fini(struct sc_tok_added *a)
{
    free(a->tokens);
    free(a->raw.nodes);
    free(a->normalized.nodes);
    *a = (struct sc_tok_added){0};
}

static bool word_before(const char *text, size_t pos)
{
    return pos > 0 && sc_unicode_is_word(sc_utf8_prev(text, &pos));
}

static bool word_after(const char *text, size_t len, size_t pos)
{
    return pos < len && sc_unicode_is_word(sc_utf8_next(text, &pos));
}

/* Widens a match by the white space that it swallows; done: what is handed out stays out. */
static void strip_around(const struct sc_tok_added_token *t, const char *text, size_t len,
                         size_t done, struct sc_tok_piece *piece)
{
    if (t->lstrip) {
        size_t pos = piece->start;
        while (pos > 0) {
            size_t before = pos;
            if (!sc_unicode_is_space(sc_utf8_prev(text, &before)))
                break;
            pos = before;
        }
        piece->start = pos > done ? pos : done;
    }
    while (t->rstrip && piece->end < len) {
        size_t next = piece->end;
        if (!sc_unicode_is_space(sc_utf8_next(text, &next)))
            break;
        piece->end = next;
    }
}

bool sc_tok_added_next(const struct sc_tok_added *a, const struct sc_tok_trie *trie,
                       bool skip_special, const char *text, size_t len,
                       struct sc_tok_added_cursor *c, struct sc_tok_piece *ret_piece)
{
    if (c->has_token) {
        c->has_token = false;
        *ret_piece = c->token;
        return true;
    }
    while (trie->n > 0 && c->scan < len) {
        size_t match = 0, start = c->scan;
        int32_t index = -1;
        if (trie->root[(uint8_t)text[start]] != 0)
            index = trie_longest(trie, text + start, len - start, &match);
        c->scan += index >= 0 ? match : 1;
        if (index < 0)
            continue;
        const struct sc_tok_added_token *t = &a->tokens[index];
        if ((skip_special && t->special) ||
            (t->single_word && (word_before(text, start) || word_after(text, len, start + match))))
            continue;
        struct sc_tok_piece piece = {(int32_t)t->id, start, start + match};
        strip_around(t, text, len, c->done, &piece);
        size_t done = c->done;
        c->done = piece.end;
        if (done >= piece.start) {
            *ret_piece = piece;
            return true;
        }
        c->token = piece;
        c->has_token = true;
        *ret_piece = (struct sc_tok_piece){-1, done, piece.start};
        return true;
    }
    if (c->done >= len)
        return false;
    *ret_piece = (struct sc_tok_piece){-1, c->done, len};
    c->done = len;
    return true;
}
