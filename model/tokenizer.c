/* model/tokenizer.c - a whole tokenizer: opening, encoding, questions about tokens. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/tokenizer_internal.h"

static enum sc_status parse_json(const char *text, size_t len, const char *name, size_t flags,
                                 json_t **ret_root, struct sc_err *err)
{
    json_error_t why;
    if (len > SC_TOKENIZER_FILE_BYTES_MAX)
        return sc_fail(err, SC_ERANGE, "%s: %zu bytes, limit %zu", name, len,
                       SC_TOKENIZER_FILE_BYTES_MAX);
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | flags, &why);
    if (!root)
        return sc_fail(err, SC_EFORMAT, "%s: line %d: %.160s", name, why.line, why.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return sc_fail(err, SC_EFORMAT, "%s: not an object", name);
    }
    *ret_root = root;
    return SC_OK;
}

static enum sc_status build(struct sc_tokenizer *tok, const json_t *root, const json_t *config,
                            struct sc_err *err)
{
    enum sc_status st =
        sc_tok_normalizer_load(&tok->norm, json_object_get(root, "normalizer"), err);
    if (st == SC_OK)
        st = sc_tok_pretok_load(&tok->pretok, json_object_get(root, "pre_tokenizer"), err);
    if (st == SC_OK && sc_tok_pretok_needs_origin(&tok->pretok) &&
        sc_tok_normalizer_may_cut_start(&tok->norm))
        st = sc_fail(err, SC_ENOTSUP,
                     "normalizer: one that may drop the start of the text is not "
                     "supported with Metaspace's prepend_scheme \"first\"");
    if (st == SC_OK)
        st = sc_tok_bpe_load(&tok->bpe, &tok->vocab, json_object_get(root, "model"),
                             tok->pretok.bytes, err);
    if (st == SC_OK)
        st = sc_tok_added_load(&tok->added, &tok->vocab, &tok->norm,
                               json_object_get(root, "added_tokens"), config, err);
    if (st == SC_OK)
        st = sc_tok_decoder_load(&tok->decoder, json_object_get(root, "decoder"), err);
    if (st == SC_OK)
        st = sc_tok_decoder_bytes(&tok->decoder, &tok->vocab, err);
    if (st == SC_OK)
        st = sc_tok_post_load(&tok->post, json_object_get(root, "post_processor"), tok->vocab.n,
                              err);
    if (st == SC_OK)
        st = sc_tok_config_load(tok, config, err);
    return st;
}

enum sc_status sc_tokenizer_open_memory(const char *json, size_t len, const char *config_json,
                                        size_t config_len, struct sc_tokenizer **ret_tok,
                                        struct sc_err *err)
{
    json_t *root = NULL, *config = NULL;
    struct sc_tokenizer *tok = calloc(1, sizeof(*tok));
    enum sc_status st = SC_OK;
    if (!tok)
        st = sc_fail(err, SC_ENOMEM, "tokenizer: out of memory");
    if (st == SC_OK)
        st = parse_json(json, len, "tokenizer.json", 0, &root, err);
    /* model_max_length is often 1e30, written as an integer. */
    if (st == SC_OK && config_json)
        st = parse_json(config_json, config_len, "tokenizer_config.json", JSON_DECODE_INT_AS_REAL,
                        &config, err);
    if (st == SC_OK) {
        st = build(tok, root, config, err);
        if (st != SC_OK)
            st = sc_err_prefix(err, st, "tokenizer");
    }
    json_decref(root);
    json_decref(config);
    if (st != SC_OK) {
        sc_tokenizer_close(tok);
        return st;
    }
    *ret_tok = tok;
    return SC_OK;
}

/* SC_ENOENT when there is no such file. The caller frees *ret_bytes. */
static enum sc_status read_file(const char *path, char **ret_bytes, size_t *ret_len,
                                struct sc_err *err)
{
    struct stat info;
    char *bytes = NULL;
    size_t done = 0;
    enum sc_status st = SC_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sc_fail(err, errno == ENOENT ? SC_ENOENT : SC_EIO, "%s: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        st = sc_fail(err, SC_EIO, "%s: not a regular file", path);
        goto out;
    }
    if (info.st_size < 0 || (size_t)info.st_size > SC_TOKENIZER_FILE_BYTES_MAX) {
        st = sc_fail(err, SC_ERANGE, "%s: %lld bytes, limit %zu", path, (long long)info.st_size,
                     SC_TOKENIZER_FILE_BYTES_MAX);
        goto out;
    }
    bytes = malloc((size_t)info.st_size + 1);
    if (!bytes) {
        st = sc_fail(err, SC_ENOMEM, "%s: out of memory", path);
        goto out;
    }
    while (done < (size_t)info.st_size) {
        ssize_t n = read(fd, bytes + done, (size_t)info.st_size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            st = sc_fail(err, SC_EIO, "%s: %s", path, n < 0 ? strerror(errno) : "got shorter");
            break;
        }
        done += (size_t)n;
    }
out:
    close(fd);
    if (st != SC_OK) {
        free(bytes);
        return st;
    }
    *ret_bytes = bytes;
    *ret_len = done;
    return SC_OK;
}

enum sc_status sc_tokenizer_open_dir(const char *dir, struct sc_tokenizer **ret_tok,
                                     struct sc_err *err)
{
    char path[4096], *json = NULL, *config = NULL;
    size_t len = 0, config_len = 0;
    struct sc_err no_config = SC_ERR_INIT;
    int n = snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
    if (n < 0 || (size_t)n + 8 > sizeof(path)) /* the other name is 7 longer */
        return sc_fail(err, SC_ERANGE, "directory name: %zu bytes, limit %zu", strlen(dir),
                       sizeof(path) - 32);
    enum sc_status st = read_file(path, &json, &len, err);
    if (st == SC_OK) {
        snprintf(path, sizeof(path), "%s/tokenizer_config.json", dir);
        enum sc_status found = read_file(path, &config, &config_len, &no_config);
        if (found != SC_OK && found != SC_ENOENT)
            st = sc_fail(err, found, "%s", no_config.text);
    }
    if (st == SC_OK) {
        st = sc_tokenizer_open_memory(json, len, config, config_len, ret_tok, err);
        if (st != SC_OK)
            st = sc_err_prefix(err, st, "%s", dir);
    }
    free(json);
    free(config);
    return st;
}

void sc_tokenizer_close(struct sc_tokenizer *tok)
{
    if (!tok)
        return;
    sc_tok_vocab_fini(&tok->vocab);
    sc_tok_normalizer_fini(&tok->norm);
    sc_tok_pretok_fini(&tok->pretok);
    sc_tok_bpe_fini(&tok->bpe);
    sc_tok_added_fini(&tok->added);
    sc_tok_decoder_fini(&tok->decoder);
    free(tok);
}

/* One piece between added tokens of the raw text: normalized, split once more, encoded. */
static enum sc_status encode_piece(struct sc_tok_call *c, const char *text, size_t len, bool origin,
                                   bool skip_special)
{
    const struct sc_tokenizer *tok = c->tok;
    struct sc_tok_added_cursor cursor = {0};
    struct sc_tok_piece piece;
    enum sc_status st =
        sc_tok_normalize(&tok->norm, &c->matcher, c->norm_bufs, text, len, &text, &len, c->err);
    while (st == SC_OK && sc_tok_added_next(&tok->added, &tok->added.normalized, skip_special, text,
                                            len, &cursor, &piece)) {
        if (piece.id >= 0)
            st = sc_ids_append(c->ids, piece.id, c->err);
        else
            st = sc_tok_pretokenize(c, text + piece.start, piece.end - piece.start,
                                    origin && piece.start == 0);
    }
    return st;
}

static enum sc_status encode_text(struct sc_tok_call *c, const char *text, size_t len,
                                  const struct sc_encode_opts *opts)
{
    const struct sc_tokenizer *tok = c->tok;
    struct sc_tok_added_cursor cursor = {0};
    struct sc_tok_piece piece;
    enum sc_status st = SC_OK;
    for (size_t i = 0; opts->add_special_tokens && st == SC_OK && i < tok->post.n_before; i++)
        st = sc_ids_append(c->ids, tok->post.before[i], c->err);
    while (st == SC_OK && sc_tok_added_next(&tok->added, &tok->added.raw, opts->no_special_parsing,
                                            text, len, &cursor, &piece)) {
        if (piece.id >= 0)
            st = sc_ids_append(c->ids, piece.id, c->err);
        else
            st = encode_piece(c, text + piece.start, piece.end - piece.start, piece.start == 0,
                              opts->no_special_parsing);
    }
    for (size_t i = 0; opts->add_special_tokens && st == SC_OK && i < tok->post.n_after; i++)
        st = sc_ids_append(c->ids, tok->post.after[i], c->err);
    return st;
}

enum sc_status sc_tokenizer_encode(const struct sc_tokenizer *tok, const char *text, size_t len,
                                   const struct sc_encode_opts *opts, struct sc_ids *ids,
                                   struct sc_err *err)
{
    static const struct sc_encode_opts none = {0};
    if (len > SC_TOKENIZE_TEXT_BYTES_MAX)
        return sc_fail(err, SC_ERANGE, "text: %zu bytes, limit %zu", len,
                       SC_TOKENIZE_TEXT_BYTES_MAX);
    size_t good = sc_utf8_valid_bytes(text, len);
    if (good < len)
        return sc_fail(err, SC_EINVAL, "text: not UTF-8 at byte %zu", good);
    struct sc_tok_call call = {.tok = tok, .ids = ids, .err = err};
    size_t before = ids->n;
    enum sc_status st = sc_tok_bpe_scratch_init(&call.bpe, len, err);
    if (st == SC_OK)
        st = encode_text(&call, text, len, opts ? opts : &none);
    if (st != SC_OK)
        ids->n = before;
    sc_tok_matcher_fini(&call.matcher);
    sc_tok_bpe_scratch_fini(&call.bpe);
    for (size_t i = 0; i < SC_ARRAY_LEN(call.norm_bufs); i++)
        sc_text_fini(&call.norm_bufs[i]);
    for (size_t i = 0; i < SC_ARRAY_LEN(call.pretok_bufs); i++)
        sc_text_fini(&call.pretok_bufs[i]);
    return st;
}

uint32_t sc_tokenizer_vocab(const struct sc_tokenizer *tok)
{
    return tok->vocab.n;
}

int32_t sc_tokenizer_bos(const struct sc_tokenizer *tok)
{
    return tok->bos;
}

int32_t sc_tokenizer_eos(const struct sc_tokenizer *tok)
{
    return tok->eos;
}

bool sc_tokenizer_is_special(const struct sc_tokenizer *tok, int32_t id)
{
    return id >= 0 && (uint32_t)id < tok->vocab.n &&
           (tok->vocab.entries[id].flags & SC_TOK_SPECIAL);
}

int32_t sc_tokenizer_find(const struct sc_tokenizer *tok, const char *piece)
{
    return sc_tok_vocab_find(&tok->vocab, piece, strlen(piece));
}

const char *sc_tokenizer_bytes(const struct sc_tokenizer *tok, int32_t id, size_t *ret_len)
{
    *ret_len = 0;
    if (id < 0 || (uint32_t)id >= tok->vocab.n || !(tok->vocab.entries[id].flags & SC_TOK_EXISTS))
        return "";
    *ret_len = tok->vocab.entries[id].bytes_len;
    return tok->vocab.blob.bytes + tok->vocab.entries[id].bytes_at;
}
