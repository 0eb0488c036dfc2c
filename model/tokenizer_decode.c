/* model/tokenizer_decode.c - ids to text, whole and as a stream. */
#include <string.h>

#include "model/tokenizer_internal.h"

#define REPLACEMENT "\xef\xbf\xbd"

static enum sc_status put_replacements(struct sc_text *out, size_t n, struct sc_err *err)
{
    enum sc_status st = SC_OK;
    while (st == SC_OK && n-- > 0)
        st = sc_text_append(out, REPLACEMENT, 3, err);
    return st;
}

/* Appends bytes as valid UTF-8: U+FFFD for each ill-formed part, or for each of its bytes. An
 * unfinished end is left: *ret_left bytes; with ret_left NULL it is ill-formed too. */
static enum sc_status put_lossy(const char *bytes, size_t len, bool per_byte, struct sc_text *out,
                                size_t *ret_left, struct sc_err *err)
{
    size_t pos = 0;
    enum sc_status st = SC_OK;
    if (ret_left)
        *ret_left = 0;
    while (st == SC_OK && pos < len) {
        size_t good = sc_utf8_valid_bytes(bytes + pos, len - pos);
        st = sc_text_append(out, bytes + pos, good, err);
        pos += good;
        if (st != SC_OK || pos == len)
            break;
        unsigned bad;
        bool cut;
        sc_utf8_sequence(bytes + pos, len - pos, &bad, &cut);
        if (cut && ret_left) {
            *ret_left = len - pos;
            break;
        }
        st = put_replacements(out, per_byte ? bad : 1, err);
        pos += bad;
    }
    return st;
}

/* The entry of an id that is to be written, NULL for unknown and dropped ones. */
static const struct sc_tok_entry *entry(const struct sc_tokenizer *tok, int32_t id,
                                        bool skip_special)
{
    if (id < 0 || (uint32_t)id >= tok->vocab.n)
        return NULL;
    const struct sc_tok_entry *e = &tok->vocab.entries[id];
    if (!(e->flags & SC_TOK_EXISTS) || (skip_special && (e->flags & SC_TOK_DROPPED)))
        return NULL;
    return e;
}

/* Metaspace: the first token without its replacement characters. */
static enum sc_status put_first_metaspace(const struct sc_tokenizer *tok,
                                          const struct sc_tok_entry *e, struct sc_text *out,
                                          struct sc_err *err)
{
    const struct sc_tok_pretok_step *m = &tok->decoder.metaspace;
    const char *text = tok->vocab.blob.bytes + e->seen_at;
    enum sc_status st = SC_OK;
    for (size_t pos = 0; st == SC_OK && pos < e->seen_len;) {
        size_t start = pos;
        sc_utf8_next(text, &pos);
        if (pos - start != m->replacement_len ||
            memcmp(text + start, m->replacement, m->replacement_len) != 0)
            st = sc_text_append(out, text + start, pos - start, err);
    }
    return st;
}

/* Appends the bytes of one token, with what the decoder does to the first one. */
static enum sc_status put_token(const struct sc_tokenizer *tok, const struct sc_tok_entry *e,
                                bool *at_start, struct sc_text *out, struct sc_err *err)
{
    const char *bytes = tok->vocab.blob.bytes + e->bytes_at;
    size_t len = e->bytes_len;
    bool first = *at_start;
    enum sc_status st = SC_OK;
    switch (tok->decoder.kind) {
    case SC_TOK_DECODE_JOIN:
        *at_start = false;
        if (!first)
            st = sc_text_append(out, " ", 1, err);
        break;
    case SC_TOK_DECODE_METASPACE:
        *at_start = false;
        if (first && tok->decoder.metaspace.prepend != SC_TOK_PREPEND_NEVER)
            return put_first_metaspace(tok, e, out, err);
        break;
    case SC_TOK_DECODE_PIECES:
        if (len == 0)
            return SC_OK;
        *at_start = false;
        if (first && tok->decoder.strip_first && bytes[0] == ' ') {
            bytes++;
            len--;
        }
        break;
    case SC_TOK_DECODE_BYTES:
        break;
    }
    return st == SC_OK ? sc_text_append(out, bytes, len, err) : st;
}

/* A run of byte tokens is text when all of it is valid, and otherwise a U+FFFD for every byte. */
static enum sc_status put_run(const struct sc_text *run, struct sc_text *out, struct sc_err *err)
{
    if (sc_utf8_valid_bytes(run->bytes, run->len) == run->len)
        return sc_text_append(out, run->bytes, run->len, err);
    return put_replacements(out, run->len, err);
}

static enum sc_status decode_pieces(const struct sc_tokenizer *tok, const int32_t *ids, size_t n,
                                    bool skip_special, struct sc_text *text, struct sc_err *err)
{
    struct sc_text run = {0};
    bool at_start = true;
    enum sc_status st = SC_OK;
    for (size_t i = 0; st == SC_OK && i < n; i++) {
        const struct sc_tok_entry *e = entry(tok, ids[i], skip_special);
        if (!e)
            continue;
        bool byte = e->flags & SC_TOK_BYTE;
        if (!byte && run.len > 0) {
            st = put_run(&run, text, err);
            run.len = 0;
        }
        if (st == SC_OK)
            st = put_token(tok, e, &at_start, byte ? &run : text, err);
    }
    if (st == SC_OK && run.len > 0)
        st = put_run(&run, text, err);
    sc_text_fini(&run);
    return st;
}

static enum sc_status decode_bytes(const struct sc_tokenizer *tok, const int32_t *ids, size_t n,
                                   bool skip_special, struct sc_text *text, struct sc_err *err)
{
    struct sc_text raw = {0};
    bool at_start = true;
    enum sc_status st = SC_OK;
    for (size_t i = 0; st == SC_OK && i < n; i++) {
        const struct sc_tok_entry *e = entry(tok, ids[i], skip_special);
        if (e)
            st = put_token(tok, e, &at_start, &raw, err);
    }
    if (st == SC_OK)
        st = put_lossy(raw.bytes, raw.len, false, text, NULL, err);
    sc_text_fini(&raw);
    return st;
}

enum sc_status sc_tokenizer_decode(const struct sc_tokenizer *tok, const int32_t *ids, size_t n,
                                   bool skip_special_tokens, struct sc_text *text,
                                   struct sc_err *err)
{
    size_t before = text->len;
    enum sc_status st = sc_text_append(text, "", 0, err);
    if (st == SC_OK && tok->decoder.kind == SC_TOK_DECODE_BYTES)
        st = decode_bytes(tok, ids, n, skip_special_tokens, text, err);
    else if (st == SC_OK)
        st = decode_pieces(tok, ids, n, skip_special_tokens, text, err);
    if (st != SC_OK && text->bytes) {
        text->len = before;
        text->bytes[before] = '\0';
    }
    return st;
}

void sc_detok_init(struct sc_detok *d, const struct sc_tokenizer *tok, bool skip_special_tokens,
                   bool continues_text)
{
    *d = (struct sc_detok){
        .tok = tok, .skip_special_tokens = skip_special_tokens, .at_start = !continues_text};
}

/* Appends d's unfinished bytes as what they are: not text. */
static enum sc_status give_up_pending(struct sc_detok *d, struct sc_text *text, struct sc_err *err)
{
    bool per_byte = d->tok->decoder.kind == SC_TOK_DECODE_PIECES;
    enum sc_status st =
        put_lossy((const char *)d->pending, d->n_pending, per_byte, text, NULL, err);
    if (st == SC_OK)
        d->n_pending = 0;
    return st;
}

enum sc_status sc_detok_push(struct sc_detok *d, int32_t id, struct sc_text *text,
                             struct sc_err *err)
{
    const struct sc_tok_entry *e = entry(d->tok, id, d->skip_special_tokens);
    bool pieces = d->tok->decoder.kind != SC_TOK_DECODE_BYTES;
    if (!e)
        return SC_OK;
    if (pieces && !(e->flags & SC_TOK_BYTE)) { /* whole characters, nothing can be unfinished */
        enum sc_status st = give_up_pending(d, text, err);
        return st == SC_OK ? put_token(d->tok, e, &d->at_start, text, err) : st;
    }
    struct sc_text bytes = {0};
    size_t left = 0;
    enum sc_status st = sc_text_append(&bytes, (const char *)d->pending, d->n_pending, err);
    if (st == SC_OK)
        st = put_token(d->tok, e, &d->at_start, &bytes, err);
    if (st == SC_OK)
        st = put_lossy(bytes.bytes, bytes.len, pieces, text, &left, err);
    if (st == SC_OK) {
        memcpy(d->pending, bytes.bytes + bytes.len - left, left);
        d->n_pending = (uint8_t)left;
    }
    sc_text_fini(&bytes);
    return st;
}

enum sc_status sc_detok_flush(struct sc_detok *d, struct sc_text *text, struct sc_err *err)
{
    return give_up_pending(d, text, err);
}
