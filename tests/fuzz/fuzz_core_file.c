/* tests/fuzz/fuzz_core_file.c - any bytes as a stored blob's file: refused with a message, or a
 * header that encodes to the same bytes and a payload that is the header's. */
#include <stdint.h>
#include <string.h>

#include "store/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t again[SC_FORMAT_HEADER_BYTES];
    struct sc_err err = SC_ERR_INIT;
    struct sc_format format;
    struct sc_hash other;
    enum sc_status st = sc_format_decode(data, size, &format, &err);

    if (st != SC_OK) {
        SC_ASSERT(err.text[0] != '\0' && (st == SC_EFORMAT || st == SC_ENOTSUP));
        return 0;
    }
    SC_ASSERT(size >= SC_FORMAT_HEADER_BYTES && format.payload_bytes <= SC_BLOB_BYTES_MAX);
    sc_format_encode(&format, again);
    SC_ASSERT(memcmp(again, data, sizeof(again)) == 0);
    SC_ASSERT(sc_format_expect(&format, &format.key, &format.label, &err) == SC_OK);
    other = format.key;
    other.bytes[0] ^= 1;
    SC_ASSERT(sc_format_expect(&format, &other, &format.label, &err) == SC_EEXIST);
    sc_err_clear(&err);
    st = sc_format_check(&format, data + SC_FORMAT_HEADER_BYTES, size - SC_FORMAT_HEADER_BYTES,
                         &err);
    SC_ASSERT((st == SC_OK) == (err.text[0] == '\0'));
    SC_ASSERT(st != SC_OK || format.payload_bytes == size - SC_FORMAT_HEADER_BYTES);
    return 0;
}
