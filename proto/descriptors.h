/* proto/descriptors.h - a serialised google.protobuf.FileDescriptorSet of every file that is
 * served: ours, health and reflection, as written, imports included. Generated at build. */
#ifndef SC_PROTO_DESCRIPTORS_H
#define SC_PROTO_DESCRIPTORS_H

#include <stddef.h>

extern const unsigned char sc_proto_descriptors[];
extern const size_t sc_proto_descriptors_bytes;

#endif
