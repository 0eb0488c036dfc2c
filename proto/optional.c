#include "proto/optional.h"

#include "base/status.h"

void sc_pb_mark(ProtobufCMessage *message, const char *field)
{
    const ProtobufCFieldDescriptor *f =
        protobuf_c_message_descriptor_get_field_by_name(message->descriptor, field);
    SC_ASSERT(f != NULL && (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0);
    /* A oneof's case is an int-sized enum that holds the number of the field that is set. */
    *(uint32_t *)((char *)message + f->quantifier_offset) = f->id;
}
