#include "store/format.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "store/internal.h"

enum {
    AT_VERSION = 8,
    AT_HEADER_BYTES = 12,
    AT_KEY = 16,
    AT_MODEL = 48,
    AT_RECIPE = 80,
    AT_PAYLOAD_BYTES = 112,
    AT_ZERO = 120,
    AT_PAYLOAD_HASH = 128,
    AT_HEADER_HASH = 160,
};
static_assert(AT_HEADER_HASH + SC_HASH_BYTES == SC_FORMAT_HEADER_BYTES, "header layout");

/* A line end in the magic, so that a copy in text mode is seen at once. */
static const char magic[AT_VERSION + 1] = "SCBLOB\r\n";

static void put_le(uint8_t *at, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_le(const uint8_t *at, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)at[i] << (8 * i);
    return v;
}

struct sc_hash sc_format_hash(const void *bytes, size_t n)
{
    struct sc_hasher h;

    sc_hasher_init(&h);
    sc_hasher_bytes(&h, bytes, n);
    return sc_hasher_end(&h);
}

void sc_format_encode(const struct sc_format *format, uint8_t ret_header[SC_FORMAT_HEADER_BYTES])
{
    uint8_t *b = ret_header;
    struct sc_hash hash;

    memcpy(b, magic, AT_VERSION);
    put_le(b + AT_VERSION, SC_STORE_VERSION, 4);
    put_le(b + AT_HEADER_BYTES, SC_FORMAT_HEADER_BYTES, 4);
    memcpy(b + AT_KEY, format->key.bytes, SC_HASH_BYTES);
    memcpy(b + AT_MODEL, format->label.model.bytes, SC_HASH_BYTES);
    memcpy(b + AT_RECIPE, format->label.recipe.bytes, SC_HASH_BYTES);
    put_le(b + AT_PAYLOAD_BYTES, format->payload_bytes, 8);
    put_le(b + AT_ZERO, 0, 8);
    memcpy(b + AT_PAYLOAD_HASH, format->payload_hash.bytes, SC_HASH_BYTES);
    hash = sc_format_hash(b, AT_HEADER_HASH);
    memcpy(b + AT_HEADER_HASH, hash.bytes, SC_HASH_BYTES);
}

enum sc_status sc_format_decode(const uint8_t *header, size_t n, struct sc_format *ret_format,
                                struct sc_err *err)
{
    struct sc_hash hash;
    struct sc_format f;
    uint64_t version;

    if (n < AT_HEADER_BYTES)
        return sc_fail(err, SC_EFORMAT, "cut short: %zu bytes", n);
    if (memcmp(header, magic, AT_VERSION) != 0)
        return sc_fail(err, SC_EFORMAT, "not a blob: its first bytes are others");
    version = get_le(header + AT_VERSION, 4);
    if (version > SC_STORE_VERSION)
        return sc_fail(err, SC_ENOTSUP, "version %" PRIu64 ", this program reads %u", version,
                       SC_STORE_VERSION);
    if (n < SC_FORMAT_HEADER_BYTES)
        return sc_fail(err, SC_EFORMAT, "cut short: %zu bytes", n);
    hash = sc_format_hash(header, AT_HEADER_HASH);
    if (memcmp(header + AT_HEADER_HASH, hash.bytes, SC_HASH_BYTES) != 0)
        return sc_fail(err, SC_EFORMAT, "damaged: the header's checksum differs");
    f.payload_bytes = get_le(header + AT_PAYLOAD_BYTES, 8);
    if (version != SC_STORE_VERSION || get_le(header + AT_ZERO, 8) != 0 ||
        get_le(header + AT_HEADER_BYTES, 4) != SC_FORMAT_HEADER_BYTES ||
        f.payload_bytes > SC_BLOB_BYTES_MAX)
        return sc_fail(err, SC_EFORMAT,
                       "damaged: version %" PRIu64 ", payload of %" PRIu64 " bytes", version,
                       f.payload_bytes);
    memcpy(f.key.bytes, header + AT_KEY, SC_HASH_BYTES);
    memcpy(f.label.model.bytes, header + AT_MODEL, SC_HASH_BYTES);
    memcpy(f.label.recipe.bytes, header + AT_RECIPE, SC_HASH_BYTES);
    memcpy(f.payload_hash.bytes, header + AT_PAYLOAD_HASH, SC_HASH_BYTES);
    *ret_format = f;
    return SC_OK;
}

enum sc_status sc_format_expect(const struct sc_format *format, const struct sc_hash *key,
                                const struct sc_store_label *label, struct sc_err *err)
{
    if (!sc_store_same(&format->key, key))
        return sc_fail(err, SC_EEXIST, "holds another key");
    if (!sc_store_same(&format->label.model, &label->model))
        return sc_fail(err, SC_EEXIST, "of another model");
    if (!sc_store_same(&format->label.recipe, &label->recipe))
        return sc_fail(err, SC_EEXIST, "of another recipe");
    return SC_OK;
}

enum sc_status sc_format_check(const struct sc_format *format, const void *payload, size_t n,
                               struct sc_err *err)
{
    struct sc_hash hash;

    if (n != format->payload_bytes)
        return sc_fail(err, SC_EFORMAT, "cut short: %zu bytes of %" PRIu64, n,
                       format->payload_bytes);
    hash = sc_format_hash(payload, n);
    if (!sc_store_same(&hash, &format->payload_hash))
        return sc_fail(err, SC_EFORMAT, "damaged: the payload's checksum differs");
    return SC_OK;
}
