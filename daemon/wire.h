/* daemon/wire.h - reads the protobuf wire format one field at a time.
 *
 * Used where protobuf-c does not look: it takes any bytes for a `string`, cuts them at a NUL, and
 * turns 2 MB of empty submessages into 100 MB of memory. So each request is checked before it is
 * unpacked. Memory: none. Threads: pure functions on the caller's cursor.
 */
#ifndef SC_DAEMON_WIRE_H
#define SC_DAEMON_WIRE_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "base/status.h"

struct sc_wire {
    const uint8_t *at, *end;
    bool bad; /* the first malformed byte was seen; every later read says "no more" */
};

struct sc_wire_field {
    uint32_t number;
    uint8_t type;        /* 0 varint, 1 64 bits, 2 bytes, 5 32 bits */
    uint64_t value;      /* types 0, 1, 5 */
    const uint8_t *data; /* type 2 */
    size_t len;
};

static inline struct sc_wire sc_wire_init(const void *data, size_t len)
{
    return (struct sc_wire){.at = data, .end = (const uint8_t *)data + len, .bad = false};
}

/* False at the end and after an error: check wire->bad once, after the loop. */
bool sc_wire_next(struct sc_wire *wire, struct sc_wire_field *ret_field);

/* Is this a message of that type: fields well-formed, strings valid UTF-8 without NUL, at most
 * SC_WIRE_FIELDS_MAX fields in all? SC_EINVAL names the field. */
#define SC_WIRE_FIELDS_MAX (1u << 22)
enum sc_status sc_wire_check(const ProtobufCMessageDescriptor *type, const void *data, size_t len,
                             struct sc_err *err) SC_MUST_CHECK;

#endif
