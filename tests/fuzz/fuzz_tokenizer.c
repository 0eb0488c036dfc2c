/* tests/fuzz/fuzz_tokenizer.c - a tokenizer.json, then, each after a byte FF, a
 * tokenizer_config.json (may be empty) and a text. Refused with a message, or: ids are in the
 * vocabulary, decoded text is UTF-8, and a stream says the same where nothing was malformed. */
#include <stdint.h>
#include <string.h>

#include "model/tokenizer.h"
#include "model/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The bytes up to the next FF; moves *at behind it. */
static const char *field(const uint8_t *data, size_t size, size_t *at, size_t *ret_len)
{
    const char *start = (const char *)data + *at;
    const uint8_t *end = *at < size ? memchr(data + *at, 0xff, size - *at) : NULL;
    *ret_len = end ? (size_t)(end - (data + *at)) : size - *at;
    *at = end ? (size_t)(end - data) + 1 : size;
    return start;
}

static void check_decode(const struct sc_tokenizer *tok, const struct sc_ids *ids, bool skip)
{
    struct sc_text whole = {0}, streamed = {0};
    struct sc_err err = SC_ERR_INIT;
    struct sc_detok d;
    SC_ASSERT(sc_tokenizer_decode(tok, ids->ids, ids->n, skip, &whole, &err) == SC_OK);
    sc_detok_init(&d, tok, skip, false);
    for (size_t i = 0; i < ids->n; i++)
        SC_ASSERT(sc_detok_push(&d, ids->ids[i], &streamed, &err) == SC_OK);
    SC_ASSERT(sc_detok_flush(&d, &streamed, &err) == SC_OK);
    SC_ASSERT(sc_utf8_valid_bytes(whole.bytes, whole.len) == whole.len);
    SC_ASSERT(sc_utf8_valid_bytes(streamed.bytes, streamed.len) == streamed.len);
    if (!memmem(whole.bytes, whole.len, "\xef\xbf\xbd", 3))
        SC_ASSERT(whole.len == streamed.len &&
                  (whole.len == 0 || memcmp(whole.bytes, streamed.bytes, whole.len) == 0));
    sc_text_fini(&whole);
    sc_text_fini(&streamed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t at = 0, json_len, config_len, text_len;
    const char *json = field(data, size, &at, &json_len);
    const char *config = field(data, size, &at, &config_len);
    const char *text = (const char *)data + at;
    struct sc_tokenizer *tok = NULL;
    struct sc_ids ids = {0};
    struct sc_err err = SC_ERR_INIT;
    text_len = size - at;
    if (sc_tokenizer_open_memory(json, json_len, config_len ? config : NULL, config_len, &tok,
                                 &err) != SC_OK) {
        SC_ASSERT(err.text[0] != '\0');
        return 0;
    }
    for (unsigned k = 0; k < 4; k++) {
        struct sc_encode_opts opts = {.add_special_tokens = k & 1, .no_special_parsing = k & 2};
        sc_err_clear(&err);
        ids.n = 0;
        if (sc_tokenizer_encode(tok, text, text_len, &opts, &ids, &err) != SC_OK) {
            SC_ASSERT(err.text[0] != '\0' && ids.n == 0);
            continue;
        }
        for (size_t i = 0; i < ids.n; i++)
            SC_ASSERT(ids.ids[i] >= 0 && (uint32_t)ids.ids[i] < sc_tokenizer_vocab(tok));
        check_decode(tok, &ids, k & 1);
    }
    sc_ids_fini(&ids);
    sc_tokenizer_close(tok);
    return 0;
}
