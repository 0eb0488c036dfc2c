/* daemon/unpack.h - from the bytes of a request to a message, with a cap on memory.
 *
 * The cap is a multiple of the message's size: honest messages (packed ids take the most, 1 byte on
 * the wire and 4 in memory) stay below it. Threads: one owner at a time.
 */
#ifndef SC_DAEMON_UNPACK_H
#define SC_DAEMON_UNPACK_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "base/status.h"

#define SC_UNPACK_FACTOR     8u
#define SC_UNPACK_BASE_BYTES (1u << 20)

struct sc_unpacked {
    ProtobufCMessage *message; /* NULL: none */
    ProtobufCAllocator allocator;
    size_t used_bytes, limit_bytes;
    bool refused; /* the limit was hit */
};

/* SC_EINVAL: malformed, or a field that is not valid; SC_EFULL: would take more memory than its
 * size allows. ret is the caller's, at an address that does not change until sc_unpacked_fini. */
enum sc_status sc_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t len,
                         struct sc_unpacked *ret, struct sc_err *err) SC_MUST_CHECK;
void sc_unpacked_fini(struct sc_unpacked *unpacked); /* zeroed is fine */

#endif
