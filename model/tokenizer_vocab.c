/* model/tokenizer_vocab.c - the token table, growing buffers, and JSON fields. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

enum sc_status sc_text_append(struct sc_text *text, const char *bytes, size_t len,
                              struct sc_err *err)
{
    if (text->cap - text->len <= len) { /* a byte is kept for the NUL */
        size_t cap = text->cap < 64 ? 64 : text->cap;
        while (cap - text->len <= len)
            cap *= 2;
        char *grown = realloc(text->bytes, cap);
        if (!grown)
            return sc_fail(err, SC_ENOMEM, "text of %zu bytes: out of memory", text->len + len);
        text->bytes = grown;
        text->cap = cap;
    }
    if (len > 0)
        memcpy(text->bytes + text->len, bytes, len);
    text->len += len;
    text->bytes[text->len] = '\0';
    return SC_OK;
}

void sc_text_fini(struct sc_text *text)
{
    free(text->bytes);
    *text = (struct sc_text){0};
}

enum sc_status sc_ids_append(struct sc_ids *ids, int32_t id, struct sc_err *err)
{
    if (ids->n == ids->cap) {
        size_t cap = ids->cap < 64 ? 64 : ids->cap * 2;
        int32_t *grown = realloc(ids->ids, cap * sizeof(*grown));
        if (!grown)
            return sc_fail(err, SC_ENOMEM, "%zu token ids: out of memory", cap);
        ids->ids = grown;
        ids->cap = cap;
    }
    ids->ids[ids->n++] = id;
    return SC_OK;
}

void sc_ids_fini(struct sc_ids *ids)
{
    free(ids->ids);
    *ids = (struct sc_ids){0};
}

uint64_t sc_tok_hash(const char *bytes, size_t len)
{
    uint64_t h = 0x9e3779b97f4a7c15ull ^ len, word;
    while (len >= 8) {
        memcpy(&word, bytes, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdull;
        h ^= h >> 32;
        bytes += 8;
        len -= 8;
    }
    word = 0;
    memcpy(&word, bytes, len);
    h = (h ^ word) * 0xc4ceb9fe1a85ec53ull;
    return h ^ h >> 29;
}

static int32_t find(const struct sc_tok_vocab *v, const char *text, size_t len)
{
    if (!v->slots)
        return -1;
    for (uint32_t i = (uint32_t)sc_tok_hash(text, len) & v->slots_mask;;
         i = (i + 1) & v->slots_mask) {
        if (v->slots[i] == 0)
            return -1;
        uint32_t id = v->slots[i] - 1;
        if (v->entries[id].text_len == len && memcmp(sc_tok_text(v, id), text, len) == 0)
            return (int32_t)id;
    }
}

int32_t sc_tok_vocab_find(const struct sc_tok_vocab *v, const char *text, size_t len)
{
    return find(v, text, len);
}

int32_t sc_tok_vocab_find_model(const struct sc_tok_vocab *v, const char *text, size_t len)
{
    int32_t id = find(v, text, len);
    return id >= 0 && (v->entries[id].flags & SC_TOK_IN_MODEL) ? id : -1;
}

static void put_slot(struct sc_tok_vocab *v, uint32_t id)
{
    uint32_t i = (uint32_t)sc_tok_hash(sc_tok_text(v, id), v->entries[id].text_len);
    for (i &= v->slots_mask; v->slots[i] != 0; i = (i + 1) & v->slots_mask)
        ;
    v->slots[i] = id + 1;
}

static enum sc_status grow_slots(struct sc_tok_vocab *v, struct sc_err *err)
{
    if (v->slots && (v->n_used + 1) * 2 <= v->slots_mask)
        return SC_OK;
    uint32_t n = v->slots ? (v->slots_mask + 1) * 2 : 1024;
    uint32_t *slots = calloc(n, sizeof(*slots));
    if (!slots)
        return sc_fail(err, SC_ENOMEM, "vocabulary index of %u slots: out of memory", n);
    free(v->slots);
    v->slots = slots;
    v->slots_mask = n - 1;
    for (uint32_t id = 0; id < v->n; id++)
        if (v->entries[id].flags & SC_TOK_EXISTS)
            put_slot(v, id);
    return SC_OK;
}

static enum sc_status grow_entries(struct sc_tok_vocab *v, uint32_t id, struct sc_err *err)
{
    if (id >= v->entries_cap) {
        uint32_t cap = v->entries_cap < 1024 ? 1024 : v->entries_cap;
        while (cap <= id)
            cap *= 2;
        struct sc_tok_entry *grown = realloc(v->entries, cap * sizeof(*grown));
        if (!grown)
            return sc_fail(err, SC_ENOMEM, "vocabulary of %u ids: out of memory", cap);
        memset(grown + v->entries_cap, 0, (cap - v->entries_cap) * sizeof(*grown));
        v->entries = grown;
        v->entries_cap = cap;
    }
    if (id >= v->n)
        v->n = id + 1;
    return SC_OK;
}

enum sc_status sc_tok_vocab_add(struct sc_tok_vocab *v, const char *text, size_t len, uint32_t id,
                                uint8_t flags, struct sc_err *err)
{
    if (id >= SC_TOK_IDS_MAX)
        return sc_fail(err, SC_ERANGE, "token \"%.40s\": id %u, limit %u", text, id,
                       SC_TOK_IDS_MAX - 1);
    if (len > SC_TOK_TOKEN_BYTES_MAX)
        return sc_fail(err, SC_ERANGE, "token %u: %zu bytes, limit %zu", id, len,
                       SC_TOK_TOKEN_BYTES_MAX);
    if (id < v->n && (v->entries[id].flags & SC_TOK_EXISTS))
        return sc_fail(err, SC_EFORMAT, "token id %u is given to \"%.40s\" and \"%.40s\"", id,
                       sc_tok_text(v, id), text);
    if (find(v, text, len) >= 0)
        return sc_fail(err, SC_EFORMAT, "token \"%.40s\" has two ids, %d and %u", text,
                       find(v, text, len), id);
    enum sc_status st = grow_slots(v, err);
    if (st == SC_OK)
        st = grow_entries(v, id, err);
    if (st != SC_OK)
        return st;
    struct sc_tok_entry *e = &v->entries[id];
    e->text_at = (uint32_t)v->blob.len;
    e->text_len = (uint32_t)len;
    e->seen_at = e->text_at;
    e->seen_len = e->text_len;
    st = sc_text_append(&v->blob, text, len + 1, err); /* with its NUL */
    if (st != SC_OK)
        return st;
    e->flags = (uint8_t)(flags | SC_TOK_EXISTS);
    v->n_used++;
    if (flags & SC_TOK_IN_MODEL) {
        v->n_model++;
        if (len > v->max_model_bytes)
            v->max_model_bytes = (uint32_t)len;
    }
    put_slot(v, id);
    return SC_OK;
}

enum sc_status sc_tok_vocab_see(struct sc_tok_vocab *v, uint32_t id, const char *text, size_t len,
                                struct sc_err *err)
{
    size_t at = v->blob.len;
    enum sc_status st = sc_text_append(&v->blob, text, len, err);
    if (st == SC_OK)
        st = sc_text_append(&v->blob, "", 1, err);
    if (st == SC_OK && v->blob.len > UINT32_MAX)
        st = sc_fail(err, SC_ERANGE, "vocabulary: over %u bytes", UINT32_MAX);
    if (st != SC_OK)
        return st;
    v->entries[id].seen_at = (uint32_t)at;
    v->entries[id].seen_len = (uint32_t)len;
    return SC_OK;
}

void sc_tok_vocab_fini(struct sc_tok_vocab *v)
{
    free(v->entries);
    free(v->slots);
    sc_text_fini(&v->blob);
    *v = (struct sc_tok_vocab){0};
}

enum sc_status sc_tok_json_bool(const json_t *obj, const char *where, const char *key, bool def,
                                bool *ret_value, struct sc_err *err)
{
    const json_t *value = json_object_get(obj, key);
    if (value && !json_is_null(value) && !json_is_boolean(value))
        return sc_fail(err, SC_EFORMAT, "%s.%s: not a boolean", where, key);
    *ret_value = json_is_boolean(value) ? json_is_true(value) : def;
    return SC_OK;
}

enum sc_status sc_tok_json_string(const json_t *obj, const char *where, const char *key,
                                  const char **ret_text, size_t *ret_len, struct sc_err *err)
{
    const json_t *value = json_object_get(obj, key);
    if (!json_is_string(value))
        return sc_fail(err, SC_EFORMAT, "%s.%s: %s", where, key,
                       value ? "not a string" : "missing");
    *ret_text = json_string_value(value);
    *ret_len = json_string_length(value);
    return SC_OK;
}
