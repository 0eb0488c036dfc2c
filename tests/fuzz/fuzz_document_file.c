/* tests/fuzz/fuzz_document_file.c - any bytes as a document's file, as they are and with a checksum
 * that fits, so that the fields behind it are reached: refused with a message, or a document within
 * its limits that packs to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "daemon/documents.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void unpack(const uint8_t *data, size_t size)
{
    struct sc_document *d = NULL;
    struct sc_err err = SC_ERR_INIT;
    uint8_t *again = NULL;
    size_t len = 0;

    if (sc_document_unpack(data, size, &d, &err) != SC_OK) {
        SC_ASSERT(err.text[0] != '\0' && d == NULL);
        return;
    }
    SC_ASSERT(d->n_tokens > 0 && d->n_prefix <= d->n_tokens);
    SC_ASSERT(sc_document_check_id(d->id, &err) == SC_OK);
    SC_ASSERT(sc_namespace_is_valid(d->ns, strlen(d->ns)));
    SC_ASSERT(strlen(d->title) <= SC_DOCUMENT_TITLE_MAX);
    for (uint32_t i = 0; i < d->n_tokens; i++)
        SC_ASSERT(d->tokens[i] >= 0);
    SC_ASSERT(sc_document_pack(d, &again, &len, &err) == SC_OK);
    SC_ASSERT(len == size && memcmp(again, data, len) == 0);
    free(again);
    sc_document_unref(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sc_hasher h;
    struct sc_hash sum;
    uint8_t *whole = malloc(size + sizeof(sum));

    unpack(data, size);
    SC_ASSERT(whole != NULL);
    sc_hasher_init(&h);
    sc_hasher_str(&h, "semanticache document 1");
    sc_hasher_bytes(&h, data, size);
    sum = sc_hasher_end(&h);
    if (size > 0)
        memcpy(whole, data, size);
    memcpy(whole + size, &sum, sizeof(sum));
    unpack(whole, size + sizeof(sum));
    free(whole);
    return 0;
}
