/* model/tokenizer_bpe_load.c - the "model" of tokenizer.json: vocabulary, merges, tables. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

static enum sc_status load_vocab(struct sc_tok_vocab *v, const json_t *model, struct sc_err *err)
{
    json_t *vocab = json_object_get(model, "vocab");
    const char *text;
    json_t *id;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return sc_fail(err, SC_EFORMAT, "model.vocab: not an object with tokens");
    json_object_foreach(vocab, text, id)
    {
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value >= SC_TOK_IDS_MAX)
            return sc_fail(err, SC_ERANGE, "model.vocab: the id of \"%.40s\" is not in 0..%u", text,
                           SC_TOK_IDS_MAX - 1);
        enum sc_status st =
            sc_tok_vocab_add(v, text, strlen(text), (uint32_t)value, SC_TOK_IN_MODEL, err);
        if (st != SC_OK)
            return sc_err_prefix(err, st, "model.vocab");
    }
    return SC_OK;
}

/* One entry of merges: "left right" or ["left", "right"]. */
static enum sc_status merge_parts(const json_t *entry, size_t at, const char *ret_part[2],
                                  size_t ret_len[2], struct sc_err *err)
{
    if (json_is_string(entry)) {
        const char *text = json_string_value(entry);
        size_t len = json_string_length(entry);
        const char *space = memchr(text, ' ', len);
        if (space && !memchr(space + 1, ' ', len - (size_t)(space + 1 - text))) {
            ret_part[0] = text;
            ret_len[0] = (size_t)(space - text);
            ret_part[1] = space + 1;
            ret_len[1] = len - ret_len[0] - 1;
            return SC_OK;
        }
    } else if (json_is_array(entry) && json_array_size(entry) == 2 &&
               json_is_string(json_array_get(entry, 0)) &&
               json_is_string(json_array_get(entry, 1))) {
        for (size_t i = 0; i < 2; i++) {
            ret_part[i] = json_string_value(json_array_get(entry, i));
            ret_len[i] = json_string_length(json_array_get(entry, i));
        }
        return SC_OK;
    }
    return sc_fail(err, SC_EFORMAT, "model.merges[%zu]: not two parts", at);
}

/* A later entry for the same pair replaces the earlier one. */
static void put_merge(struct sc_tok_bpe *b, uint32_t left, uint32_t right, uint32_t rank,
                      uint32_t result)
{
    struct sc_tok_merge *m =
        (struct sc_tok_merge *)(uintptr_t)sc_tok_bpe_merge(b, (int32_t)left, (int32_t)right);
    m->pair = (uint64_t)left << 32 | right;
    m->rank = rank;
    m->result = result;
}

static enum sc_status load_merge(struct sc_tok_bpe *b, const struct sc_tok_vocab *v,
                                 const json_t *entry, size_t at, struct sc_text *joined,
                                 struct sc_err *err)
{
    const char *part[2];
    size_t len[2];
    uint32_t id[2];
    enum sc_status st = merge_parts(entry, at, part, len, err);
    joined->len = 0;
    for (size_t i = 0; st == SC_OK && i < 2; i++) {
        int32_t found = sc_tok_vocab_find_model(v, part[i], len[i]);
        if (found < 0 || len[i] == 0)
            return sc_fail(err, SC_EFORMAT, "model.merges[%zu]: \"%.40s\" is not in the vocabulary",
                           at, part[i]);
        id[i] = (uint32_t)found;
        st = sc_text_append(joined, part[i], len[i], err);
    }
    if (st != SC_OK)
        return st;
    int32_t result = sc_tok_vocab_find_model(v, joined->bytes, joined->len);
    if (result < 0)
        return sc_fail(err, SC_EFORMAT, "model.merges[%zu]: \"%.40s\" is not in the vocabulary", at,
                       joined->bytes);
    put_merge(b, id[0], id[1], (uint32_t)b->n_merges, (uint32_t)result);
    b->results[b->n_merges++] = (uint32_t)result;
    return SC_OK;
}

static enum sc_status load_merges(struct sc_tok_bpe *b, const struct sc_tok_vocab *v,
                                  const json_t *model, struct sc_err *err)
{
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_array(merges))
        return sc_fail(err, SC_EFORMAT, "model.merges: not an array");
    size_t n = json_array_size(merges), slots = 16;
    if (n > SC_TOK_MERGES_MAX)
        return sc_fail(err, SC_ERANGE, "model.merges: %zu, limit %zu", n, SC_TOK_MERGES_MAX);
    while (slots < 2 * n + 2)
        slots *= 2;
    b->merges = malloc(slots * sizeof(*b->merges));
    b->results = malloc((n + 1) * sizeof(*b->results));
    if (!b->merges || !b->results)
        return sc_fail(err, SC_ENOMEM, "model.merges: out of memory");
    b->merges_mask = (uint32_t)(slots - 1);
    for (size_t i = 0; i < slots; i++)
        b->merges[i] = (struct sc_tok_merge){.pair = UINT64_MAX, .rank = UINT32_MAX};
    struct sc_text joined = {0};
    enum sc_status st = SC_OK;
    for (size_t i = 0; st == SC_OK && i < n; i++) {
        const json_t *entry = json_array_get(merges, i);
        const char *text = json_string_value(entry);
        if (text && strncmp(text, "#version", 8) == 0)
            continue; /* the head line of a merges.txt; it takes no rank */
        st = load_merge(b, v, entry, i, &joined, err);
    }
    sc_text_fini(&joined);
    return st;
}

static enum sc_status load_flags(struct sc_tok_bpe *b, const struct sc_tok_vocab *v,
                                 const json_t *model, struct sc_err *err)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < SC_ARRAY_LEN(affixes); i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        if (affix && !json_is_null(affix) &&
            !(json_is_string(affix) && json_string_length(affix) == 0))
            return sc_fail(err, SC_ENOTSUP, "model.%s: only null and \"\" are supported",
                           affixes[i]);
    }
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) &&
        !(json_is_number(dropout) && json_number_value(dropout) == 0.0))
        return sc_fail(err, SC_ENOTSUP, "model.dropout: only null and 0 are supported");
    const json_t *unk = json_object_get(model, "unk_token");
    if (unk && !json_is_null(unk)) {
        if (!json_is_string(unk))
            return sc_fail(err, SC_EFORMAT, "model.unk_token: not a string");
        b->has_unk = true;
        b->unk = sc_tok_vocab_find_model(v, json_string_value(unk), json_string_length(unk));
    }
    enum sc_status st =
        sc_tok_json_bool(model, "model", "byte_fallback", false, &b->byte_fallback, err);
    if (st == SC_OK)
        st = sc_tok_json_bool(model, "model", "fuse_unk", false, &b->fuse_unk, err);
    if (st == SC_OK)
        st = sc_tok_json_bool(model, "model", "ignore_merges", false, &b->ignore_merges, err);
    return st;
}

/* The id of a token that is exactly this character, -1. */
static int32_t char_id(const struct sc_tok_vocab *v, uint32_t cp)
{
    char text[4];
    return sc_tok_vocab_find_model(v, text, sc_utf8_put(text, cp));
}

static enum sc_status index_symbols(struct sc_tok_bpe *b, const struct sc_tok_vocab *v,
                                    struct sc_err *err)
{
    for (unsigned i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof(name), "<0x%02X>", i);
        b->fallback[i] = b->byte_fallback ? sc_tok_vocab_find_model(v, name, 6) : -1;
        b->by_byte[i] = b->bytes ? char_id(v, sc_tok_byte_to_char((uint8_t)i)) : -1;
    }
    if (b->bytes)
        return SC_OK;
    b->by_char = malloc(65536 * sizeof(*b->by_char));
    if (!b->by_char)
        return sc_fail(err, SC_ENOMEM, "model.vocab: out of memory");
    for (uint32_t cp = 0; cp < 65536; cp++)
        b->by_char[cp] = cp >= 0xd800 && cp < 0xe000 ? -1 : char_id(v, cp);
    return SC_OK;
}

/* The first or last character's id of a token's text, -1. */
static int32_t edge_id(const struct sc_tok_vocab *v, uint32_t id, bool last)
{
    const char *text = sc_tok_text(v, id);
    size_t len = v->entries[id].text_len, pos = last ? len : 0;
    uint32_t cp = last ? sc_utf8_prev(text, &pos) : sc_utf8_next(text, &pos);
    return char_id(v, cp);
}

/* Marks the pairs of neighbouring symbols that some merge joins. Where a pair is not marked, no
 * merge can ever span it, so that what stands before and after may be merged apart, with the same
 * result. */
static enum sc_status index_joins(struct sc_tok_bpe *b, const struct sc_tok_vocab *v,
                                  struct sc_err *err)
{
    uint8_t *joins = calloc(SC_TOK_JOINS_BITS / 8, 1);
    if (!joins)
        return sc_fail(err, SC_ENOMEM, "model.merges: out of memory");
    for (size_t i = 0; i <= b->merges_mask; i++) {
        const struct sc_tok_merge *m = &b->merges[i];
        if (m->rank == UINT32_MAX)
            continue;
        uint32_t part[2] = {(uint32_t)(m->pair >> 32), (uint32_t)m->pair};
        for (unsigned k = 0; k < 2; k++) {
            /* These are symbols of several characters: the edges are not what the text says. */
            bool fallback = b->byte_fallback && v->entries[part[k]].text_len == 6 &&
                            memcmp(sc_tok_text(v, part[k]), "<0x", 3) == 0;
            if (fallback || (b->has_unk && b->unk == (int32_t)part[k])) {
                free(joins);
                return SC_OK; /* without the bitmap words are never cut */
            }
        }
        int32_t left = edge_id(v, part[0], true), right = edge_id(v, part[1], false);
        if (left < 0 || right < 0)
            continue; /* such a merge is never reached */
        uint32_t bit = sc_tok_join_bit(left, right);
        joins[bit / 8] |= (uint8_t)(1u << (bit % 8));
    }
    b->joins = joins;
    return SC_OK;
}

enum sc_status sc_tok_bpe_load(struct sc_tok_bpe *b, struct sc_tok_vocab *v, const json_t *model,
                               bool bytes, struct sc_err *err)
{
    if (!json_is_object(model))
        return sc_fail(err, SC_EFORMAT, "model: missing or not an object");
    const json_t *type = json_object_get(model, "type");
    if (type && !(json_is_string(type) && strcmp(json_string_value(type), "BPE") == 0))
        return sc_fail(err, SC_ENOTSUP, "model.type: %.40s is not supported, only BPE is",
                       json_is_string(type) ? json_string_value(type) : "(not a string)");
    if (!type && !json_object_get(model, "merges"))
        return sc_fail(err, SC_ENOTSUP, "model: no type and no merges; only BPE is supported");
    b->bytes = bytes;
    b->unk = -1;
    enum sc_status st = load_vocab(v, model, err);
    if (st == SC_OK)
        st = load_merges(b, v, model, err);
    if (st == SC_OK)
        st = load_flags(b, v, model, err);
    if (st == SC_OK)
        st = index_symbols(b, v, err);
    if (st == SC_OK)
        st = index_joins(b, v, err);
    return st;
}

void sc_tok_bpe_fini(struct sc_tok_bpe *b)
{
    free(b->merges);
    free(b->results);
    free(b->by_char);
    free(b->joins);
    *b = (struct sc_tok_bpe){0};
}
