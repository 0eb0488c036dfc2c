#include "daemon/unpack.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/wire.h"

/* Before each piece, so that freeing can give its size back; 16 bytes keep malloc's alignment. */
struct head {
    size_t bytes;
    size_t unused;
};

static void *counted_alloc(void *data, size_t bytes)
{
    struct sc_unpacked *u = data;
    struct head *h;

    if (bytes > u->limit_bytes - u->used_bytes) {
        u->refused = true;
        return NULL;
    }
    h = malloc(sizeof(*h) + bytes);
    if (h == NULL) {
        u->refused = true;
        return NULL;
    }
    h->bytes = bytes;
    u->used_bytes += bytes;
    return h + 1;
}

static void counted_free(void *data, void *mem)
{
    struct sc_unpacked *u = data;
    struct head *h = mem;

    if (h == NULL)
        return;
    h--;
    u->used_bytes -= h->bytes;
    free(h);
}

enum sc_status sc_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t len,
                         struct sc_unpacked *ret, struct sc_err *err)
{
    enum sc_status st = sc_wire_check(type, data, len, err);
    if (st != SC_OK)
        return st;
    memset(ret, 0, sizeof(*ret));
    ret->limit_bytes = len * SC_UNPACK_FACTOR + SC_UNPACK_BASE_BYTES;
    ret->allocator = (ProtobufCAllocator){counted_alloc, counted_free, ret};
    ret->message = protobuf_c_message_unpack(type, &ret->allocator, len, data);
    if (ret->message != NULL)
        return SC_OK;
    if (ret->refused)
        return sc_fail(err, SC_EFULL, "message of %zu bytes needs more than %zu bytes of memory",
                       len, ret->limit_bytes);
    return sc_fail(err, SC_EINVAL, "malformed protobuf message (%s)", type->name);
}

void sc_unpacked_fini(struct sc_unpacked *u)
{
    if (u->message != NULL)
        protobuf_c_message_free_unpacked(u->message, &u->allocator);
    u->message = NULL;
}
