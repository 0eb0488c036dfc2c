/* model/tokenizer.h - text to token ids and back, exactly as Hugging Face `tokenizers` does it.
 *
 * Reads tokenizer.json (byte-level BPE, SentencePiece BPE with byte_fallback) and, when present,
 * tokenizer_config.json (added-token flags, BOS/EOS rules). What is not understood is refused at
 * load with the field's name; Unigram and WordPiece always. Memory: all tables are made at open.
 * Encoding takes scratch memory per call, bounded by the text. Threads: an opened tokenizer is
 * read-only; any number of threads may encode and decode at once.
 */
#ifndef SC_MODEL_TOKENIZER_H
#define SC_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define SC_TOKENIZER_FILE_BYTES_MAX ((size_t)128 << 20) /* tokenizer.json, uncompressed */
#define SC_TOKENIZE_TEXT_BYTES_MAX  ((size_t)64 << 20)  /* one encode call */

struct sc_tokenizer;

/* A growing array of ids; the caller zero-initialises it and frees it with sc_ids_fini. */
struct sc_ids {
    int32_t *ids;
    size_t n, cap;
};
void sc_ids_fini(struct sc_ids *ids);

/* A growing byte string, same rules; always NUL-terminated after the first append. */
struct sc_text {
    char *bytes;
    size_t len, cap;
};
void sc_text_fini(struct sc_text *text);

/* dir: a model directory with tokenizer.json (tokenizer_config.json optional). */
enum sc_status sc_tokenizer_open_dir(const char *dir, struct sc_tokenizer **ret_tok,
                                     struct sc_err *err) SC_MUST_CHECK;
/* json, config_json: file contents (config_json may be NULL, config_len 0). Used by tests, fuzzers.
 */
enum sc_status sc_tokenizer_open_memory(const char *json, size_t len, const char *config_json,
                                        size_t config_len, struct sc_tokenizer **ret_tok,
                                        struct sc_err *err) SC_MUST_CHECK;
void sc_tokenizer_close(struct sc_tokenizer *tok); /* NULL is fine */

struct sc_encode_opts {
    bool add_special_tokens; /* run the post-processor (BOS, EOS) */
    bool no_special_parsing; /* text that spells a special token stays text */
};

/* Appends to ids. text must be valid UTF-8 (SC_EINVAL names the byte offset otherwise) of at most
 * SC_TOKENIZE_TEXT_BYTES_MAX bytes; NUL bytes are allowed. */
enum sc_status sc_tokenizer_encode(const struct sc_tokenizer *tok, const char *text, size_t len,
                                   const struct sc_encode_opts *opts, struct sc_ids *ids,
                                   struct sc_err *err) SC_MUST_CHECK;

/* Appends to text; unknown ids are skipped. Result is valid UTF-8 (U+FFFD for bytes that are not).
 */
enum sc_status sc_tokenizer_decode(const struct sc_tokenizer *tok, const int32_t *ids, size_t n,
                                   bool skip_special_tokens, struct sc_text *text,
                                   struct sc_err *err) SC_MUST_CHECK;

/* Ids 0..vocab-1 exist (gaps possible); logits at and beyond are masked. */
uint32_t sc_tokenizer_vocab(const struct sc_tokenizer *tok);
/* -1 where there is none. From tokenizer_config.json, else guessed from the post-processor. */
int32_t sc_tokenizer_bos(const struct sc_tokenizer *tok);
int32_t sc_tokenizer_eos(const struct sc_tokenizer *tok);
bool sc_tokenizer_is_special(const struct sc_tokenizer *tok,
                             int32_t id); /* added, special = true */
int32_t sc_tokenizer_find(const struct sc_tokenizer *tok, const char *piece); /* -1: none */

/* The bytes that token id stands for (byte-level map undone, <0xNN> one byte, U+2581 a space);
 * lives as long as the tokenizer. Unknown ids: length 0. For the chunker's class table and for
 * streams. */
const char *sc_tokenizer_bytes(const struct sc_tokenizer *tok, int32_t id, size_t *ret_len);

/* Streaming: bytes of one token at a time, an incomplete UTF-8 tail (at most 3 bytes) held back,
 * never U+FFFD for a tail that may still complete. Concatenated pushes and the flush equal
 * sc_tokenizer_decode of all ids, except after malformed byte-fallback runs (already emitted text
 * is never taken back). The state is a plain value, owned by the caller, no destructor. */
struct sc_detok {
    const struct sc_tokenizer *tok;
    bool skip_special_tokens;
    bool at_start; /* the next text is the first of the decoded string: a leading space may go */
    uint8_t n_pending; /* bytes of an unfinished UTF-8 sequence */
    uint8_t pending[4];
};

/* continues_text: the stream goes on after a prompt, so that no leading space is stripped. */
void sc_detok_init(struct sc_detok *d, const struct sc_tokenizer *tok, bool skip_special_tokens,
                   bool continues_text);
/* Appends what id makes printable; may append nothing. */
enum sc_status sc_detok_push(struct sc_detok *d, int32_t id, struct sc_text *text,
                             struct sc_err *err) SC_MUST_CHECK;
/* End of stream: an unfinished tail becomes U+FFFD. */
enum sc_status sc_detok_flush(struct sc_detok *d, struct sc_text *text,
                              struct sc_err *err) SC_MUST_CHECK;

#endif
