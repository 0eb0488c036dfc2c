/* store/format.h - the header before a blob's bytes, in a file and in Redis.
 *
 *      0  magic "SCBLOB\r\n"
 *      8  u32 version, u32 bytes of this header (192)
 *     16  key [32]
 *     48  label: model [32], recipe [32]
 *    112  u64 bytes of the payload, u64 zero
 *    128  BLAKE2b of the payload [32]
 *    160  BLAKE2b of the bytes before it [32]
 *    192  the payload; the end of it is the end of the file
 *
 * Integers are little endian. Magic and version keep their place in every later version. Threads:
 * pure functions.
 */
#ifndef SC_STORE_FORMAT_H
#define SC_STORE_FORMAT_H

#include "store/store.h"

#define SC_FORMAT_HEADER_BYTES 192u

struct sc_format {
    struct sc_hash key;
    struct sc_store_label label;
    uint64_t payload_bytes;
    struct sc_hash payload_hash;
};

struct sc_hash sc_format_hash(const void *bytes, size_t n); /* BLAKE2b */
void sc_format_encode(const struct sc_format *format, uint8_t ret_header[SC_FORMAT_HEADER_BYTES]);

/* n: bytes that are there, for a text that says how many are missing. SC_EFORMAT: damaged or cut;
 * SC_ENOTSUP: a later version. A header that passes is one that sc_format_encode made. */
enum sc_status sc_format_decode(const uint8_t *header, size_t n, struct sc_format *ret_format,
                                struct sc_err *err) SC_MUST_CHECK;
/* SC_EEXIST: of another key or label. */
enum sc_status sc_format_expect(const struct sc_format *format, const struct sc_hash *key,
                                const struct sc_store_label *label,
                                struct sc_err *err) SC_MUST_CHECK;
/* SC_EFORMAT: the payload is not the header's. */
enum sc_status sc_format_check(const struct sc_format *format, const void *payload, size_t n,
                               struct sc_err *err) SC_MUST_CHECK;

#endif
