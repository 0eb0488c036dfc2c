/* model/tokenizer_decoder.c - the "decoder" of tokenizer.json, and the bytes of every token. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

/* What may stand where: the steps come in this order, each but Replace at most once. */
enum stage { AT_REPLACE, AT_BYTE_FALLBACK, AT_FUSE, AT_STRIP, AT_END };

struct decoder_load {
    struct sc_tok_decoder *d;
    enum stage stage;
    unsigned n_steps;
    struct sc_err *err;
};

static enum sc_status load(struct decoder_load *l, const json_t *obj, unsigned depth);

static enum sc_status load_replace(struct decoder_load *l, const json_t *obj)
{
    struct sc_tok_decoder *d = l->d;
    const char *text;
    size_t len;
    if (d->n_replace == SC_TOK_STEPS_MAX)
        return sc_fail(l->err, SC_ERANGE, "decoder: over %d steps", SC_TOK_STEPS_MAX);
    size_t i = d->n_replace++;
    enum sc_status st = sc_tok_json_string(json_object_get(obj, "pattern"), "decoder.pattern",
                                           "String", &text, &len, l->err);
    if (st == SC_OK && (len == 0 || len > SC_TOK_PATTERN_BYTES_MAX))
        st = sc_fail(l->err, SC_ERANGE, "decoder.pattern: %zu bytes, limits 1 and %zu", len,
                     SC_TOK_PATTERN_BYTES_MAX);
    if (st == SC_OK)
        st = sc_text_append(&d->replace[i].from, text, len, l->err);
    if (st == SC_OK)
        st = sc_tok_json_string(obj, "decoder", "content", &text, &len, l->err);
    if (st == SC_OK && len > 16)
        st = sc_fail(l->err, SC_ERANGE, "decoder.content: %zu bytes, limit 16", len);
    return st == SC_OK ? sc_text_append(&d->replace[i].to, text, len, l->err) : st;
}

static enum sc_status load_strip(struct decoder_load *l, const json_t *obj)
{
    const char *content = json_string_value(json_object_get(obj, "content"));
    json_int_t start = json_integer_value(json_object_get(obj, "start"));
    json_int_t stop = json_integer_value(json_object_get(obj, "stop"));
    if (!content || strcmp(content, " ") != 0 || start < 0 || start > 1 || stop != 0)
        return sc_fail(l->err, SC_ENOTSUP,
                       "decoder: Strip is supported for one space at the start only");
    l->d->strip_first = start == 1;
    return SC_OK;
}

/* One step of the Replace, ByteFallback, Fuse, Strip kind; false: it is none. */
static bool load_piece_step(struct decoder_load *l, const json_t *obj, const char *type,
                            enum sc_status *ret_st)
{
    static const char *const names[] = {[AT_REPLACE] = "Replace",
                                        [AT_BYTE_FALLBACK] = "ByteFallback",
                                        [AT_FUSE] = "Fuse",
                                        [AT_STRIP] = "Strip"};
    size_t i = 0;
    while (i < SC_ARRAY_LEN(names) && strcmp(names[i], type) != 0)
        i++;
    if (i == SC_ARRAY_LEN(names))
        return false;
    /* A Strip before Fuse would work on every token. */
    bool ordered = i >= l->stage && (i != AT_STRIP || l->stage == AT_STRIP);
    if (!ordered) {
        *ret_st = sc_fail(l->err, SC_ENOTSUP, "decoder: %s in this place is not supported", type);
        return true;
    }
    l->stage = i == AT_REPLACE ? AT_REPLACE : (enum stage)(i + 1);
    *ret_st = SC_OK;
    if (i == AT_REPLACE)
        *ret_st = load_replace(l, obj);
    else if (i == AT_BYTE_FALLBACK)
        l->d->byte_fallback = true;
    else if (i == AT_STRIP)
        *ret_st = load_strip(l, obj);
    return true;
}

static enum sc_status load(struct decoder_load *l, const json_t *obj, unsigned depth)
{
    const char *type;
    size_t len;
    enum sc_status st = sc_tok_json_string(obj, "decoder", "type", &type, &len, l->err);
    if (st != SC_OK)
        return st;
    if (depth > SC_TOK_NESTING_MAX)
        return sc_fail(l->err, SC_ERANGE, "decoder: nested deeper than %d", SC_TOK_NESTING_MAX);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(obj, "decoders");
        if (!json_is_array(list))
            return sc_fail(l->err, SC_EFORMAT, "decoder.decoders: not an array");
        for (size_t i = 0; st == SC_OK && i < json_array_size(list); i++)
            st = load(l, json_array_get(list, i), depth + 1);
        return st;
    }
    bool alone = l->n_steps++ == 0;
    if (load_piece_step(l, obj, type, &st))
        return st;
    bool bytes = strcmp(type, "ByteLevel") == 0, metaspace = strcmp(type, "Metaspace") == 0;
    if (!bytes && !metaspace)
        return sc_fail(l->err, SC_ENOTSUP, "decoder: type %.40s is not supported", type);
    if (!alone)
        return sc_fail(l->err, SC_ENOTSUP, "decoder: %s after other steps is not supported", type);
    l->stage = AT_FUSE; /* Fuse changes nothing after it */
    l->d->kind = bytes ? SC_TOK_DECODE_BYTES : SC_TOK_DECODE_METASPACE;
    bool split;
    return bytes ? SC_OK : sc_tok_metaspace_load(obj, "decoder", &l->d->metaspace, &split, l->err);
}

enum sc_status sc_tok_decoder_load(struct sc_tok_decoder *d, const json_t *obj, struct sc_err *err)
{
    struct decoder_load l = {.d = d, .stage = AT_REPLACE, .err = err};
    d->kind = SC_TOK_DECODE_JOIN;
    if (!obj || json_is_null(obj))
        return SC_OK;
    d->kind = SC_TOK_DECODE_PIECES;
    enum sc_status st = load(&l, obj, 0);
    if (st == SC_OK && d->kind != SC_TOK_DECODE_PIECES && d->strip_first)
        st = sc_fail(err, SC_ENOTSUP, "decoder: Strip in this place is not supported");
    return st;
}

void sc_tok_decoder_fini(struct sc_tok_decoder *d)
{
    for (size_t i = 0; i < d->n_replace; i++) {
        sc_text_fini(&d->replace[i].from);
        sc_text_fini(&d->replace[i].to);
    }
    d->n_replace = 0;
}

static enum sc_status replace_all(const char *text, size_t len, const char *from, size_t from_len,
                                  const char *to, size_t to_len, struct sc_text *out,
                                  struct sc_err *err)
{
    enum sc_status st = SC_OK;
    for (size_t pos = 0; st == SC_OK && pos < len;) {
        const char *hit = memmem(text + pos, len - pos, from, from_len);
        size_t end = hit ? (size_t)(hit - text) : len;
        st = sc_text_append(out, text + pos, end - pos, err);
        if (st == SC_OK && hit)
            st = sc_text_append(out, to, to_len, err);
        pos = end + (hit ? from_len : 0);
    }
    return st;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* "<0xNN>"; the number may have lower case digits, and a plus sign for its first. */
static int fallback_byte(const char *text, size_t len)
{
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int high = text[3] == '+' ? 0 : hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Byte-level: every character is a byte, or else the token is its own text. */
static enum sc_status map_back(const char *text, size_t len, struct sc_text *out,
                               struct sc_err *err)
{
    enum sc_status st = SC_OK;
    size_t start = out->len;
    for (size_t pos = 0; st == SC_OK && pos < len;) {
        int byte = sc_tok_char_to_byte(sc_utf8_next(text, &pos));
        if (byte < 0) {
            out->len = start;
            return sc_text_append(out, text, len, err);
        }
        char c = (char)byte;
        st = sc_text_append(out, &c, 1, err);
    }
    return st;
}

/* Appends what the token stands for to out. scratch: two buffers. */
static enum sc_status token_bytes(const struct sc_tok_decoder *d, const char *text, size_t len,
                                  struct sc_text *scratch, struct sc_text *out, uint8_t *flags,
                                  struct sc_err *err)
{
    enum sc_status st = SC_OK;
    if (d->kind == SC_TOK_DECODE_BYTES)
        return map_back(text, len, out, err);
    if (d->kind == SC_TOK_DECODE_METASPACE)
        return replace_all(text, len, d->metaspace.replacement, d->metaspace.replacement_len, " ",
                           1, out, err);
    for (size_t i = 0; st == SC_OK && i < d->n_replace; i++) {
        struct sc_text *next = &scratch[i & 1];
        next->len = 0;
        st = sc_text_append(next, "", 0, err);
        if (st == SC_OK)
            st = replace_all(text, len, d->replace[i].from.bytes, d->replace[i].from.len,
                             d->replace[i].to.bytes, d->replace[i].to.len, next, err);
        if (st == SC_OK && next->len > 16 * SC_TOK_TOKEN_BYTES_MAX)
            st = sc_fail(err, SC_ERANGE, "decoder: a token becomes %zu bytes, limit %zu", next->len,
                         16 * SC_TOK_TOKEN_BYTES_MAX);
        text = next->bytes;
        len = next->len;
    }
    if (st != SC_OK)
        return st;
    int byte = d->byte_fallback ? fallback_byte(text, len) : -1;
    if (byte < 0)
        return sc_text_append(out, text, len, err);
    char c = (char)byte;
    *flags |= SC_TOK_BYTE;
    return sc_text_append(out, &c, 1, err);
}

enum sc_status sc_tok_decoder_bytes(const struct sc_tok_decoder *d, struct sc_tok_vocab *v,
                                    struct sc_err *err)
{
    struct sc_text scratch[2] = {{0}, {0}}, token = {0};
    enum sc_status st = SC_OK;
    for (uint32_t id = 0; st == SC_OK && id < v->n; id++) {
        struct sc_tok_entry *e = &v->entries[id];
        if (!(e->flags & SC_TOK_EXISTS))
            continue;
        const char *seen = v->blob.bytes + e->seen_at;
        int32_t known = sc_tok_vocab_find(v, seen, e->seen_len);
        if (known >= 0 && (v->entries[known].flags & SC_TOK_SPECIAL))
            e->flags |= SC_TOK_DROPPED;
        token.len = 0;
        st = token_bytes(d, seen, e->seen_len, scratch, &token, &e->flags, err);
        if (st != SC_OK)
            break;
        e->bytes_at = e->seen_at;
        e->bytes_len = (uint32_t)token.len;
        if (token.len == e->seen_len &&
            (token.len == 0 || memcmp(token.bytes, seen, token.len) == 0))
            continue;
        if (v->blob.len + token.len + 1 > UINT32_MAX)
            st = sc_fail(err, SC_ERANGE, "decoder: the tokens are over %u bytes", UINT32_MAX);
        e->bytes_at = (uint32_t)v->blob.len;
        if (st == SC_OK)
            st = sc_text_append(&v->blob, token.len ? token.bytes : "", token.len, err);
        if (st == SC_OK)
            st = sc_text_append(&v->blob, "", 1, err);
    }
    sc_text_fini(&scratch[0]);
    sc_text_fini(&scratch[1]);
    sc_text_fini(&token);
    return st;
}
