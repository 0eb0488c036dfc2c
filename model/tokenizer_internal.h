/* model/tokenizer_internal.h - the parts of a tokenizer; for the files model/tokenizer*.c only.
 *
 * Text goes through added tokens (raw), normalizer, added tokens (normalized), pre-tokenizer, BPE
 * and the post-processor. Each part is parsed once, by *_load, and is read-only afterwards; what a
 * call needs to write lives in struct sc_tok_call.
 */
#ifndef SC_MODEL_TOKENIZER_INTERNAL_H
#define SC_MODEL_TOKENIZER_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>

#include "model/tokenizer.h"
#include "model/unicode.h"

#define SC_TOK_IDS_MAX              ((uint32_t)1 << 22) /* vocabulary size */
#define SC_TOK_MERGES_MAX           ((size_t)1 << 23)
#define SC_TOK_TOKEN_BYTES_MAX      ((size_t)16384) /* one token's text */
#define SC_TOK_ADDED_MAX            ((size_t)65536)
#define SC_TOK_ADDED_BYTES_MAX      ((size_t)1024) /* one added token's text */
#define SC_TOK_STEPS_MAX            32             /* of a normalizer or a pre-tokenizer */
#define SC_TOK_PATTERN_BYTES_MAX    ((size_t)8192)
#define SC_TOK_TEMPLATE_IDS_MAX     16 /* that a post-processor puts on one side */
#define SC_TOK_NESTING_MAX          8  /* Sequences within Sequences */
#define SC_TOK_NORMALIZED_BYTES_MAX (4 * SC_TOKENIZE_TEXT_BYTES_MAX)

/* ------------------------------------------------------------------------------- buffers, JSON */

enum sc_status sc_text_append(struct sc_text *text, const char *bytes, size_t len,
                              struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_ids_append(struct sc_ids *ids, int32_t id, struct sc_err *err) SC_MUST_CHECK;

/* A member of obj: absent and null give the default. where names obj in messages. */
enum sc_status sc_tok_json_bool(const json_t *obj, const char *where, const char *key, bool def,
                                bool *ret_value, struct sc_err *err) SC_MUST_CHECK;
/* Strings must be there; *ret_text lives as long as obj. */
enum sc_status sc_tok_json_string(const json_t *obj, const char *where, const char *key,
                                  const char **ret_text, size_t *ret_len,
                                  struct sc_err *err) SC_MUST_CHECK;

/* -------------------------------------------------------------------------------- vocabulary */

enum {
    SC_TOK_EXISTS = 1,
    SC_TOK_IN_MODEL = 2, /* BPE may produce it */
    SC_TOK_ADDED = 4,
    SC_TOK_SPECIAL = 8,
    SC_TOK_BYTE = 16,   /* a <0xNN> token that the decoder takes as one byte */
    SC_TOK_DROPPED = 32 /* what the decoder sees is a special token's text */
};

struct sc_tok_entry {
    uint32_t text_at, text_len;   /* the token as the file spells it, in blob */
    uint32_t seen_at, seen_len;   /* what the decoder sees: its normalized form, if it has one */
    uint32_t bytes_at, bytes_len; /* what it stands for, in blob; filled by the decoder's load */
    uint8_t flags;
};

struct sc_tok_vocab {
    struct sc_tok_entry *entries; /* [n], gaps have no SC_TOK_EXISTS */
    uint32_t n, entries_cap;
    uint32_t n_model; /* entries with SC_TOK_IN_MODEL */
    uint32_t max_model_bytes;
    struct sc_text blob;
    uint32_t *slots; /* [slots_mask + 1], id + 1, 0 = empty */
    uint32_t slots_mask, n_used;
};

uint64_t sc_tok_hash(const char *bytes, size_t len);
enum sc_status sc_tok_vocab_add(struct sc_tok_vocab *v, const char *text, size_t len, uint32_t id,
                                uint8_t flags, struct sc_err *err) SC_MUST_CHECK;
int32_t sc_tok_vocab_find(const struct sc_tok_vocab *v, const char *text, size_t len);
/* As find, only among the model's own tokens. */
int32_t sc_tok_vocab_find_model(const struct sc_tok_vocab *v, const char *text, size_t len);
/* Makes text what the decoder sees of token id. */
enum sc_status sc_tok_vocab_see(struct sc_tok_vocab *v, uint32_t id, const char *text, size_t len,
                                struct sc_err *err) SC_MUST_CHECK;
void sc_tok_vocab_fini(struct sc_tok_vocab *v);

static inline const char *sc_tok_text(const struct sc_tok_vocab *v, uint32_t id)
{
    return v->blob.bytes + v->entries[id].text_at;
}

/* ------------------------------------------------------------------------------------ patterns */

enum sc_tok_pattern_kind {
    SC_TOK_PATTERN_REGEX,
    SC_TOK_PATTERN_LITERAL,
    SC_TOK_PATTERN_NUMBER,
    SC_TOK_PATTERN_PUNCTUATION,
    SC_TOK_PATTERN_SPACE,
    SC_TOK_PATTERN_WORDS /* \w+|[^\w\s]+ */
};

struct sc_tok_pattern {
    enum sc_tok_pattern_kind kind;
    pcre2_code *code;
    bool jit;
    char *literal; /* owned */
    size_t literal_len;
};

/* What PCRE2 writes to while it matches; one per call, made when first needed. */
struct sc_tok_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

enum sc_status sc_tok_pattern_regex(struct sc_tok_pattern *p, const char *regex, size_t len,
                                    struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_tok_pattern_literal(struct sc_tok_pattern *p, const char *text, size_t len,
                                      struct sc_err *err) SC_MUST_CHECK;
/* {"Regex": ...} or {"String": ...} */
enum sc_status sc_tok_pattern_load(struct sc_tok_pattern *p, const json_t *obj, const char *where,
                                   struct sc_err *err) SC_MUST_CHECK;
void sc_tok_pattern_fini(struct sc_tok_pattern *p);

/* The first match at or after from: [*ret_start, *ret_end), never empty; *ret_start = len: none. */
enum sc_status sc_tok_pattern_find(const struct sc_tok_pattern *p, struct sc_tok_matcher *m,
                                   const char *text, size_t len, size_t from, size_t *ret_start,
                                   size_t *ret_end, struct sc_err *err) SC_MUST_CHECK;
void sc_tok_matcher_fini(struct sc_tok_matcher *m);

/* The pattern that PCRE2 is given: the same classes as the file's author saw. */
enum sc_status sc_tok_regex_rewrite(const char *regex, size_t len, struct sc_text *out,
                                    struct sc_err *err) SC_MUST_CHECK;

/* ---------------------------------------------------------------------------------- normalizer */

enum sc_tok_norm_kind {
    SC_TOK_NORM_FORM,
    SC_TOK_NORM_PREPEND,
    SC_TOK_NORM_REPLACE,
    SC_TOK_NORM_LOWERCASE,
    SC_TOK_NORM_STRIP,
    SC_TOK_NORM_STRIP_ACCENTS,
    SC_TOK_NORM_BYTE_MAP
};

struct sc_tok_norm_step {
    enum sc_tok_norm_kind kind;
    enum sc_unicode_form form;
    struct sc_tok_pattern pattern; /* REPLACE */
    struct sc_text content;        /* PREPEND, REPLACE */
    bool left, right;              /* STRIP */
};

struct sc_tok_normalizer {
    struct sc_tok_norm_step steps[SC_TOK_STEPS_MAX];
    size_t n_steps;
};

enum sc_status sc_tok_normalizer_load(struct sc_tok_normalizer *n, const json_t *obj,
                                      struct sc_err *err) SC_MUST_CHECK;
void sc_tok_normalizer_fini(struct sc_tok_normalizer *n);
/* May drop the start of the text, so that "first piece" is not well-defined after it. */
bool sc_tok_normalizer_may_cut_start(const struct sc_tok_normalizer *n);
/* *ret_text is text itself or in bufs. */
enum sc_status sc_tok_normalize(const struct sc_tok_normalizer *n, struct sc_tok_matcher *m,
                                struct sc_text bufs[2], const char *text, size_t len,
                                const char **ret_text, size_t *ret_len,
                                struct sc_err *err) SC_MUST_CHECK;

/* ------------------------------------------------------------------------------- pre-tokenizer */

enum sc_tok_pretok_kind {
    SC_TOK_PRETOK_SPLIT,
    SC_TOK_PRETOK_PREFIX_SPACE,
    SC_TOK_PRETOK_METASPACE,
    SC_TOK_PRETOK_BYTE_MAP
};

enum sc_tok_behavior {
    SC_TOK_ISOLATED,
    SC_TOK_REMOVED,
    SC_TOK_MERGED_WITH_PREVIOUS,
    SC_TOK_MERGED_WITH_NEXT,
    SC_TOK_CONTIGUOUS
};

enum sc_tok_prepend { SC_TOK_PREPEND_ALWAYS, SC_TOK_PREPEND_FIRST, SC_TOK_PREPEND_NEVER };

struct sc_tok_pretok_step {
    enum sc_tok_pretok_kind kind;
    struct sc_tok_pattern pattern; /* SPLIT */
    enum sc_tok_behavior behavior;
    bool invert;
    char replacement[8]; /* METASPACE: one character */
    size_t replacement_len;
    enum sc_tok_prepend prepend;
};

struct sc_tok_pretok {
    struct sc_tok_pretok_step steps[SC_TOK_STEPS_MAX];
    size_t n_steps;
    bool bytes; /* BPE gets raw bytes and maps them itself: the last step was the byte map */
};

enum sc_status sc_tok_pretok_load(struct sc_tok_pretok *p, const json_t *obj,
                                  struct sc_err *err) SC_MUST_CHECK;
void sc_tok_pretok_fini(struct sc_tok_pretok *p);
bool sc_tok_pretok_needs_origin(const struct sc_tok_pretok *p);
/* Metaspace's fields, which its decoder shares. */
enum sc_status sc_tok_metaspace_load(const json_t *obj, const char *where,
                                     struct sc_tok_pretok_step *ret_step, bool *ret_split,
                                     struct sc_err *err) SC_MUST_CHECK;

/* The code point that stands for a byte in byte-level vocabularies, and back (-1: none). */
uint32_t sc_tok_byte_to_char(uint8_t byte);
enum sc_status sc_tok_byte_map(const char *text, size_t len, struct sc_text *out,
                               struct sc_err *err) SC_MUST_CHECK; /* appends */
int sc_tok_char_to_byte(uint32_t cp);

/* ---------------------------------------------------------------------------------------- BPE */

struct sc_tok_merge {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank; /* UINT32_MAX: empty slot */
    uint32_t result;
};

struct sc_tok_bpe {
    struct sc_tok_merge *merges; /* [merges_mask + 1], open addressing */
    uint32_t merges_mask;
    uint32_t *results; /* [n_merges], by rank */
    size_t n_merges;
    bool bytes; /* words are raw bytes */
    bool byte_fallback, fuse_unk, ignore_merges;
    bool has_unk;
    int32_t unk;           /* -1: unk_token is not in the vocabulary */
    int32_t fallback[256]; /* ids of <0xNN>, -1 */
    int32_t by_byte[256];  /* ids of single-byte symbols (or ASCII characters), -1 */
    int32_t *by_char;      /* [65536] ids of one-character tokens; NULL when bytes */
    uint8_t *joins;        /* bitmap over hashed symbol pairs; a clear bit: no merge spans it */
};

/* A word's ids from an earlier look; 64 bytes, one line. */
struct sc_tok_cached {
    uint8_t len; /* 0: empty */
    uint8_t kind;
    uint8_t n;
    char key[29];
    int32_t ids[8];
};

struct sc_tok_symbol {
    int32_t id; /* -1: merged away */
    uint32_t prev, next;
    uint32_t rank; /* of the merge with next, UINT32_MAX: none */
};

struct sc_tok_bpe_scratch {
    struct sc_tok_cached *cache; /* [cache_mask + 1] */
    uint32_t cache_mask;
    struct sc_tok_symbol *symbols;
    size_t n_symbols, symbols_cap;
    uint64_t *heap; /* rank << 32 | index of the left symbol */
    size_t n_heap, heap_cap;
};

enum sc_status sc_tok_bpe_load(struct sc_tok_bpe *b, struct sc_tok_vocab *v, const json_t *model,
                               bool bytes, struct sc_err *err) SC_MUST_CHECK;
void sc_tok_bpe_fini(struct sc_tok_bpe *b);
/* Appends the ids of one word. */
enum sc_status sc_tok_bpe_encode(const struct sc_tok_bpe *b, const struct sc_tok_vocab *v,
                                 struct sc_tok_bpe_scratch *s, const char *word, size_t len,
                                 struct sc_ids *ids, struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_tok_bpe_scratch_init(struct sc_tok_bpe_scratch *s, size_t text_bytes,
                                       struct sc_err *err) SC_MUST_CHECK;
void sc_tok_bpe_scratch_fini(struct sc_tok_bpe_scratch *s);
/* Merges s->symbols by a heap: for words of any length. */
enum sc_status sc_tok_bpe_merge_long(const struct sc_tok_bpe *b, struct sc_tok_bpe_scratch *s,
                                     struct sc_ids *ids, struct sc_err *err) SC_MUST_CHECK;

#define SC_TOK_JOINS_BITS ((uint32_t)1 << 20)

static inline uint32_t sc_tok_join_bit(int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return (uint32_t)((pair * 0x9e3779b97f4a7c15ull) >> 44); /* the top 20 bits */
}

static inline const struct sc_tok_merge *sc_tok_bpe_merge(const struct sc_tok_bpe *b, int32_t left,
                                                          int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t h = pair * 0x9e3779b97f4a7c15ull;
    for (uint32_t i = (uint32_t)(h >> 32) & b->merges_mask;; i = (i + 1) & b->merges_mask) {
        const struct sc_tok_merge *m = &b->merges[i];
        if (m->pair == pair || m->rank == UINT32_MAX)
            return m; /* an empty slot has no rank: "none" */
    }
}

/* ------------------------------------------------------------------------------- added tokens */

struct sc_tok_added_token {
    uint32_t id;
    bool single_word, lstrip, rstrip, special;
    bool in_raw, in_normalized; /* which pass finds it; both when the files disagree */
};

struct sc_tok_trie_node {
    uint32_t child, sibling; /* 0: none */
    int32_t token;           /* index in tokens, -1 */
    uint8_t byte;
};

struct sc_tok_trie {
    struct sc_tok_trie_node *nodes;
    uint32_t n, cap;
    uint32_t root[256];
};

struct sc_tok_added {
    struct sc_tok_added_token *tokens;
    size_t n, cap;
    uint32_t next_id;   /* one past the largest id so far */
    uint32_t n_shifted; /* tokens of the vocabulary that the list numbered anew */
    struct sc_tok_trie raw, normalized;
};

/* The tokens of tokenizer.json, then those of tokenizer_config.json (may be NULL). */
enum sc_status sc_tok_added_load(struct sc_tok_added *a, struct sc_tok_vocab *v,
                                 const struct sc_tok_normalizer *norm, const json_t *tokens,
                                 const json_t *config, struct sc_err *err) SC_MUST_CHECK;
void sc_tok_added_fini(struct sc_tok_added *a);

/* One piece of a text: an added token (id >= 0) or the text between two. */
struct sc_tok_piece {
    int32_t id;
    size_t start, end;
};
struct sc_tok_added_cursor {
    size_t scan, done; /* where to look next; what has been handed out */
    bool has_token;    /* a token waits behind the text that was handed out */
    struct sc_tok_piece token;
};
/* The next piece; false at the end. The cursor starts as zeros. */
bool sc_tok_added_next(const struct sc_tok_added *a, const struct sc_tok_trie *trie,
                       bool skip_special, const char *text, size_t len,
                       struct sc_tok_added_cursor *cursor, struct sc_tok_piece *ret_piece);

/* ------------------------------------------------------------------------------ post-processor */

struct sc_tok_post {
    int32_t before[SC_TOK_TEMPLATE_IDS_MAX], after[SC_TOK_TEMPLATE_IDS_MAX];
    size_t n_before, n_after;
};

enum sc_status sc_tok_post_load(struct sc_tok_post *p, const json_t *obj, uint32_t n_vocab,
                                struct sc_err *err) SC_MUST_CHECK;
/* What tokenizer_config.json says of BOS and EOS; may replace the post-processor. */
enum sc_status sc_tok_config_load(struct sc_tokenizer *tok, const json_t *config,
                                  struct sc_err *err) SC_MUST_CHECK;

/* ------------------------------------------------------------------------------------- decoder */

enum sc_tok_decoder_kind {
    SC_TOK_DECODE_JOIN,      /* no decoder: tokens with a space between */
    SC_TOK_DECODE_BYTES,     /* byte-level */
    SC_TOK_DECODE_PIECES,    /* Replace, ByteFallback, Fuse, Strip */
    SC_TOK_DECODE_METASPACE, /* the first token loses its replacement characters */
};

struct sc_tok_decoder {
    enum sc_tok_decoder_kind kind;
    bool byte_fallback;
    bool strip_first; /* one space at the start of the whole */
    struct {
        struct sc_text from, to;
    } replace[SC_TOK_STEPS_MAX];
    size_t n_replace;
    struct sc_tok_pretok_step metaspace;
};

enum sc_status sc_tok_decoder_load(struct sc_tok_decoder *d, const json_t *obj,
                                   struct sc_err *err) SC_MUST_CHECK;
/* Fills bytes_at, bytes_len and the decoder's flags of every entry. */
enum sc_status sc_tok_decoder_bytes(const struct sc_tok_decoder *d, struct sc_tok_vocab *v,
                                    struct sc_err *err) SC_MUST_CHECK;
void sc_tok_decoder_fini(struct sc_tok_decoder *d);

/* -------------------------------------------------------------------------------------- whole */

struct sc_tokenizer {
    struct sc_tok_vocab vocab;
    struct sc_tok_normalizer norm;
    struct sc_tok_pretok pretok;
    struct sc_tok_bpe bpe;
    struct sc_tok_added added;
    struct sc_tok_post post;
    struct sc_tok_decoder decoder;
    int32_t bos, eos;
};

/* One encode call's own memory. */
struct sc_tok_call {
    const struct sc_tokenizer *tok;
    struct sc_ids *ids;
    struct sc_err *err;
    struct sc_tok_matcher matcher;
    struct sc_text norm_bufs[2];
    struct sc_text pretok_bufs[SC_TOK_STEPS_MAX];
    struct sc_tok_bpe_scratch bpe;
};

/* Splits one normalized piece and encodes its words. origin: it starts where the input does. */
enum sc_status sc_tok_pretokenize(struct sc_tok_call *call, const char *text, size_t len,
                                  bool origin) SC_MUST_CHECK;

#endif
