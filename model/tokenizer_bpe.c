/* model/tokenizer_bpe.c - one word to ids: symbols, then the merge of lowest rank, leftmost first.
 *
 * A SentencePiece-type vocabulary has no pre-tokenizer, its word is a whole text. Words are
 * therefore cut where no merge can join the two neighbours (see index_joins), and each part is
 * remembered.
 */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

#define CUT_MIN_BYTES   32 /* shorter words are not cut */
#define SHORT_BYTES     64 /* up to here merges are found by looking at every pair */
#define CACHE_SLOTS_MAX ((size_t)8192)

enum { KIND_WORD = 1, KIND_PART = 2 }; /* a part is never looked up whole (ignore_merges) */

/* Collects the symbols of a part. An unknown character stays pending, for fuse_unk. */
struct symbols {
    const struct sc_tok_bpe *bpe;
    int32_t *ids;
    size_t n;
    bool pending;
};

static int32_t symbol_id(const struct sc_tok_bpe *b, const struct sc_tok_vocab *v, const char *text,
                         size_t *pos)
{
    if (b->bytes)
        return b->by_byte[(uint8_t)text[(*pos)++]];
    size_t start = *pos;
    uint32_t cp = sc_utf8_next(text, pos);
    if (cp < 65536)
        return b->by_char[cp];
    return sc_tok_vocab_find_model(v, text + start, *pos - start);
}

/* Writes the fallback tokens of one unknown character; false when one of them is missing. */
static bool fall_back(struct symbols *s, const char *text, size_t len)
{
    char mapped[4];
    if (!s->bpe->byte_fallback)
        return false;
    if (s->bpe->bytes) {
        len = sc_utf8_put(mapped, sc_tok_byte_to_char((uint8_t)text[0]));
        text = mapped;
    }
    for (size_t i = 0; i < len; i++)
        if (s->bpe->fallback[(uint8_t)text[i]] < 0)
            return false;
    for (size_t i = 0; i < len; i++)
        s->ids[s->n++] = s->bpe->fallback[(uint8_t)text[i]];
    return true;
}

/* ids has room for 2 * len symbols: an unknown mapped byte may become two. */
static enum sc_status collect(const struct sc_tok_bpe *b, const struct sc_tok_vocab *v,
                              const char *text, size_t len, int32_t *ids, size_t *ret_n,
                              struct sc_err *err)
{
    struct symbols s = {.bpe = b, .ids = ids};
    for (size_t pos = 0; pos < len;) {
        size_t start = pos;
        int32_t id = symbol_id(b, v, text, &pos);
        if (id >= 0) {
            if (s.pending)
                ids[s.n++] = b->unk;
            s.pending = false;
            ids[s.n++] = id;
            continue;
        }
        if (fall_back(&s, text + start, pos - start) || !b->has_unk)
            continue;
        if (b->unk < 0)
            return sc_fail(err, SC_EINVAL,
                           "text: a character is not in the vocabulary, and "
                           "neither is model.unk_token");
        if (s.pending && !b->fuse_unk)
            ids[s.n++] = b->unk;
        s.pending = true;
    }
    if (s.pending)
        ids[s.n++] = b->unk;
    *ret_n = s.n;
    return SC_OK;
}

/* Merges in place, for few symbols; returns how many are left. */
static size_t merge_short(const struct sc_tok_bpe *b, int32_t *ids, size_t n)
{
    uint32_t ranks[2 * SHORT_BYTES];
    for (size_t i = 0; i + 1 < n; i++)
        ranks[i] = sc_tok_bpe_merge(b, ids[i], ids[i + 1])->rank;
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (ranks[i] < ranks[best])
                best = i;
        if (ranks[best] == UINT32_MAX)
            break;
        ids[best] = (int32_t)b->results[ranks[best]];
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof(*ids));
        n--;
        if (best + 1 < n)
            memmove(ranks + best + 1, ranks + best + 2, (n - best - 2) * sizeof(*ranks));
        if (best + 1 < n)
            ranks[best] = sc_tok_bpe_merge(b, ids[best], ids[best + 1])->rank;
        if (best > 0)
            ranks[best - 1] = sc_tok_bpe_merge(b, ids[best - 1], ids[best])->rank;
    }
    return n;
}

static enum sc_status append_all(struct sc_ids *ids, const int32_t *from, size_t n,
                                 struct sc_err *err)
{
    if (ids->cap - ids->n >= n) {
        for (size_t i = 0; i < n; i++)
            ids->ids[ids->n + i] = from[i];
        ids->n += n;
        return SC_OK;
    }
    for (size_t i = 0; i < n; i++) {
        enum sc_status st = sc_ids_append(ids, from[i], err);
        if (st != SC_OK)
            return st;
    }
    return SC_OK;
}

static enum sc_status encode_long(const struct sc_tok_bpe *b, const struct sc_tok_vocab *v,
                                  struct sc_tok_bpe_scratch *s, const char *text, size_t len,
                                  struct sc_ids *ids, struct sc_err *err)
{
    /* Bytes that fall back become two symbols, and characters at most one a byte. */
    size_t need = b->bytes && b->byte_fallback ? 2 * len : len, n = 0;
    int32_t *found = malloc(need * sizeof(*found));
    if (!found)
        return sc_fail(err, SC_ENOMEM, "a word of %zu bytes: out of memory", len);
    enum sc_status st = collect(b, v, text, len, found, &n, err);
    if (st == SC_OK && n > s->symbols_cap) {
        free(s->symbols);
        s->symbols = malloc(n * sizeof(*s->symbols));
        s->symbols_cap = s->symbols ? n : 0;
        if (!s->symbols)
            st = sc_fail(err, SC_ENOMEM, "a word of %zu symbols: out of memory", n);
    }
    for (size_t i = 0; st == SC_OK && i < n; i++)
        s->symbols[i].id = found[i];
    free(found);
    s->n_symbols = n;
    return st == SC_OK ? sc_tok_bpe_merge_long(b, s, ids, err) : st;
}

/* ignore_merges: the whole word's own id, -1. */
static int32_t whole_word(const struct sc_tok_bpe *b, const struct sc_tok_vocab *v,
                          const char *word, size_t len)
{
    char mapped[2 * SC_TOK_TOKEN_BYTES_MAX]; /* a mapped byte takes at most two */
    if (len > v->max_model_bytes)
        return -1;
    if (!b->bytes)
        return sc_tok_vocab_find_model(v, word, len);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = (uint8_t)word[i];
        if (byte > ' ' && byte < 0x7f)
            mapped[n++] = (char)byte;
        else
            n += sc_utf8_put(mapped + n, sc_tok_byte_to_char(byte));
    }
    return sc_tok_vocab_find_model(v, mapped, n);
}

static enum sc_status encode_part(const struct sc_tok_bpe *b, const struct sc_tok_vocab *v,
                                  struct sc_tok_bpe_scratch *s, const char *text, size_t len,
                                  uint8_t kind, struct sc_ids *ids, struct sc_err *err)
{
    struct sc_tok_cached *c = NULL;
    if (len <= sizeof(c->key)) {
        c = &s->cache[(sc_tok_hash(text, len) + kind) & s->cache_mask];
        if (c->len == len && c->kind == kind && memcmp(c->key, text, len) == 0)
            return append_all(ids, c->ids, c->n, err);
    }
    int32_t found[2 * SHORT_BYTES];
    size_t n = 0;
    int32_t whole = b->ignore_merges && kind == KIND_WORD ? whole_word(b, v, text, len) : -1;
    if (whole >= 0) {
        found[n++] = whole;
    } else if (len > SHORT_BYTES) {
        return encode_long(b, v, s, text, len, ids, err);
    } else {
        enum sc_status st = collect(b, v, text, len, found, &n, err);
        if (st != SC_OK)
            return st;
        n = merge_short(b, found, n);
    }
    if (c && n <= SC_ARRAY_LEN(c->ids)) {
        c->len = (uint8_t)len;
        c->kind = kind;
        c->n = (uint8_t)n;
        memcpy(c->key, text, len);
        memcpy(c->ids, found, n * sizeof(*found));
    }
    return append_all(ids, found, n, err);
}

enum sc_status sc_tok_bpe_encode(const struct sc_tok_bpe *b, const struct sc_tok_vocab *v,
                                 struct sc_tok_bpe_scratch *s, const char *word, size_t len,
                                 struct sc_ids *ids, struct sc_err *err)
{
    if (len <= CUT_MIN_BYTES || !b->joins)
        return encode_part(b, v, s, word, len, KIND_WORD, ids, err);
    if (b->ignore_merges) {
        int32_t whole = whole_word(b, v, word, len);
        if (whole >= 0)
            return sc_ids_append(ids, whole, err);
    }
    /* Cut only between two known characters, so that no unknown one is pending there. */
    size_t start = 0;
    int32_t last = -1;
    for (size_t pos = 0; pos < len;) {
        size_t at = pos;
        int32_t id = symbol_id(b, v, word, &pos);
        uint32_t bit = sc_tok_join_bit(last, id);
        if (last >= 0 && id >= 0 && !(b->joins[bit / 8] >> (bit % 8) & 1)) {
            enum sc_status st = encode_part(b, v, s, word + start, at - start, KIND_PART, ids, err);
            if (st != SC_OK)
                return st;
            start = at;
        }
        last = id;
    }
    return encode_part(b, v, s, word + start, len - start, KIND_PART, ids, err);
}

enum sc_status sc_tok_bpe_scratch_init(struct sc_tok_bpe_scratch *s, size_t text_bytes,
                                       struct sc_err *err)
{
    size_t n = 64;
    while (n < CACHE_SLOTS_MAX && n < text_bytes / 16)
        n *= 2;
    s->cache = calloc(n, sizeof(*s->cache));
    if (!s->cache)
        return sc_fail(err, SC_ENOMEM, "word cache: out of memory");
    s->cache_mask = (uint32_t)(n - 1);
    return SC_OK;
}

void sc_tok_bpe_scratch_fini(struct sc_tok_bpe_scratch *s)
{
    free(s->cache);
    free(s->symbols);
    free(s->heap);
    *s = (struct sc_tok_bpe_scratch){0};
}
