/* tests/model/tokenizer_util.h - small tokenizers, written in the test. */
#ifndef SC_TESTS_MODEL_TOKENIZER_UTIL_H
#define SC_TESTS_MODEL_TOKENIZER_UTIL_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/tokenizer.h"

/* A SentencePiece-type model: "hello", runs of spaces, all byte tokens from id 3 on. */
#define SPM_NORM                                                                                   \
    "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"}," \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]}"
#define SPM_DECODER                                                                                \
    "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"          \
    "\"\xe2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"        \
    "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}"
#define SPECIALS                                                                                   \
    "{\"id\":0,\"content\":\"<unk>\",\"special\":true,\"normalized\":false},"                      \
    "{\"id\":1,\"content\":\"<s>\",\"special\":true,\"normalized\":false},"                        \
    "{\"id\":2,\"content\":\"</s>\",\"special\":true,\"normalized\":false}"
#define TEMPLATE_BOS                                                                               \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":"  \
    "0}},"                                                                                         \
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":"        \
    "{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]}}}"

/* Appends printf-style. */
static inline void put(struct sc_text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *piece = NULL;
    int n = vasprintf(&piece, fmt, ap);
    va_end(ap);
    assert_true(n >= 0);
    if (t->cap < t->len + (size_t)n + 1) {
        t->cap = (t->len + (size_t)n + 1) * 2;
        t->bytes = realloc(t->bytes, t->cap);
        assert_non_null(t->bytes);
    }
    memcpy(t->bytes + t->len, piece, (size_t)n + 1);
    t->len += (size_t)n;
    free(piece);
}

/* The whole of a SentencePiece-type tokenizer.json; parts that are NULL get the usual ones. */
static inline void put_spm(struct sc_text *t, const char *norm, const char *pretok,
                           const char *added, const char *decoder)
{
    static const char *const pieces[] = {"\xe2\x96\x81",
                                         "h",
                                         "e",
                                         "l",
                                         "o",
                                         "\xe2\x96\x81h",
                                         "he",
                                         "ll",
                                         "llo",
                                         "hello",
                                         "\xe2\x96\x81hello",
                                         "\xe2\x96\x81\xe2\x96\x81"};
    put(t, "{\"normalizer\":%s,\"pre_tokenizer\":%s,", norm ? norm : SPM_NORM,
        pretok ? pretok : "null");
    put(t, "\"added_tokens\":[%s%s],", SPECIALS, added ? added : "");
    put(t, "\"post_processor\":%s,\"decoder\":%s,", TEMPLATE_BOS, decoder ? decoder : SPM_DECODER);
    put(t, "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,"
           "\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2");
    for (unsigned i = 0; i < 256; i++)
        put(t, ",\"<0x%02X>\":%u", i, i + 3);
    for (unsigned i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++)
        put(t, ",\"%s\":%u", pieces[i], i + 259);
    put(t, "},\"merges\":[\"h e\",\"l l\",\"ll o\",\"he llo\",\"\xe2\x96\x81 hello\","
           "\"\xe2\x96\x81 \xe2\x96\x81\",\"\xe2\x96\x81 h\"]}}");
}
enum { SPM_SPACE = 259, SPM_HELLO = 268, SPM_SPACE_HELLO = 269, SPM_TWO_SPACES = 270 };

static inline struct sc_tokenizer *open_text(const char *json, const char *config)
{
    struct sc_tokenizer *tok = NULL;
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = sc_tokenizer_open_memory(json, strlen(json), config,
                                                 config ? strlen(config) : 0, &tok, &err);
    if (st != SC_OK)
        fail_msg("%s", err.text);
    return tok;
}

static inline struct sc_tokenizer *open_spm(const char *norm, const char *pretok, const char *added,
                                            const char *decoder, const char *config)
{
    struct sc_text t = {0};
    put_spm(&t, norm, pretok, added, decoder);
    struct sc_tokenizer *tok = open_text(t.bytes, config);
    free(t.bytes);
    return tok;
}

static inline void expect_encode(const struct sc_tokenizer *tok, const char *text,
                                 struct sc_encode_opts opts, const int32_t *want, size_t n)
{
    struct sc_ids ids = {0};
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = sc_tokenizer_encode(tok, text, strlen(text), &opts, &ids, &err);
    if (st != SC_OK)
        fail_msg("%s: %s", text, err.text);
    assert_int_equal(ids.n, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids.ids[i], want[i]);
    sc_ids_fini(&ids);
}
#define EXPECT_IDS(tok, text, ...)                                                                 \
    expect_encode(tok, text, (struct sc_encode_opts){0}, (const int32_t[]){__VA_ARGS__},           \
                  sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))
#define EXPECT_IDS_OPTS(tok, text, opts, ...)                                                      \
    expect_encode(tok, text, (struct sc_encode_opts)opts, (const int32_t[]){__VA_ARGS__},          \
                  sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static inline void expect_decode(const struct sc_tokenizer *tok, const int32_t *ids, size_t n,
                                 bool skip, const char *want)
{
    struct sc_text text = {0};
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_tokenizer_decode(tok, ids, n, skip, &text, &err), SC_OK);
    assert_string_equal(text.bytes, want);
    sc_text_fini(&text);
}
#define EXPECT_TEXT(tok, skip, want, ...)                                                          \
    expect_decode(tok, (const int32_t[]){__VA_ARGS__},                                             \
                  sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t), skip, want)

#endif
