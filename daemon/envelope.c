#include "daemon/envelope.h"

#include <grpc/byte_buffer.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>
#include <string.h>
#include <strings.h>

#include "daemon/clock.h"

enum sc_status sc_envelope_identify(const grpc_metadata_array *metadata, struct sc_keys *keys,
                                    struct sc_identity *ret_identity, struct sc_err *err)
{
    static const char scheme[] = "Bearer ";
    const size_t skip = sizeof(scheme) - 1;
    const char *value = NULL;
    size_t len = 0;

    if (keys == NULL) {
        *ret_identity = (struct sc_identity){.ns = SC_NAMESPACE_DEFAULT, .admin = true};
        return SC_OK;
    }
    for (size_t i = 0; i < metadata->count; i++) {
        const grpc_metadata *m = &metadata->metadata[i];
        if (grpc_slice_str_cmp(m->key, "authorization") != 0)
            continue;
        if (value != NULL)
            return sc_fail(err, SC_EUNAUTH, "authorization: sent more than once");
        value = (const char *)GRPC_SLICE_START_PTR(m->value);
        len = GRPC_SLICE_LENGTH(m->value);
    }
    if (value == NULL)
        return sc_fail(err, SC_EUNAUTH,
                       "no API key; send it as metadata authorization: Bearer KEY");
    if (len <= skip || strncasecmp(value, scheme, skip) != 0)
        return sc_fail(err, SC_EUNAUTH, "authorization: wanted \"Bearer KEY\"");
    if (!sc_keys_find(keys, value + skip, len - skip, ret_identity))
        return sc_fail(err, SC_EUNAUTH, "authorization: nobody has this key");
    return SC_OK;
}

/* google.rpc.Status { code = 1, message = 2, details = 3 { type_url = 1, value = 2 } } with one
 * RetryInfo { retry_delay = 1 { seconds = 1 } }: few enough bytes to write here. The text stays
 * out: it is in grpc-message. */
grpc_metadata sc_envelope_retry_info(void)
{
    static const char type[] = "type.googleapis.com/google.rpc.RetryInfo";
    uint8_t buf[64];
    grpc_metadata m = {0};
    size_t n = 0;

    _Static_assert(sizeof(type) - 1 + 12 <= sizeof(buf), "RetryInfo does not fit");
    buf[n++] = 0x08;
    buf[n++] = GRPC_STATUS_RESOURCE_EXHAUSTED;
    buf[n++] = 0x1a;
    buf[n++] = (uint8_t)(2 + sizeof(type) - 1 + 2 + 4);
    buf[n++] = 0x0a;
    buf[n++] = (uint8_t)(sizeof(type) - 1);
    memcpy(buf + n, type, sizeof(type) - 1);
    n += sizeof(type) - 1;
    memcpy(buf + n, (const uint8_t[]){0x12, 0x04, 0x0a, 0x02, 0x08, 0x01}, 6); /* one second */
    n += 6;
    m.key = grpc_slice_from_static_string("grpc-status-details-bin");
    m.value = grpc_slice_from_copied_buffer((const char *)buf, n);
    return m;
}

uint64_t sc_envelope_deadline_us(gpr_timespec deadline)
{
    gpr_timespec left;
    int64_t us;

    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0)
        return 0;
    left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
    us = left.tv_sec * 1000000 + left.tv_nsec / 1000;
    return sc_now_us() + (us > 0 ? (uint64_t)us : 1);
}

grpc_byte_buffer *sc_envelope_pack(const ProtobufCMessage *message)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    grpc_slice slice = grpc_slice_malloc(bytes);
    grpc_byte_buffer *buffer;

    (void)protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}
