/* daemon/envelope.h - what is around a message on the wire: metadata, deadline, status details,
 * bytes.
 *
 * Threads: pure functions.
 */
#ifndef SC_DAEMON_ENVELOPE_H
#define SC_DAEMON_ENVELOPE_H

#include <grpc/grpc.h>
#include <protobuf-c/protobuf-c.h>

#include "daemon/keys.h"

/* Who sends this, by "authorization: Bearer KEY"? keys NULL: an admin of the default namespace.
 * SC_EUNAUTH. */
enum sc_status sc_envelope_identify(const grpc_metadata_array *metadata, struct sc_keys *keys,
                                    struct sc_identity *ret_identity,
                                    struct sc_err *err) SC_MUST_CHECK;
/* grpc-status-details-bin: RESOURCE_EXHAUSTED, try again in a second. The caller unrefs its value.
 */
grpc_metadata sc_envelope_retry_info(void);
uint64_t sc_envelope_deadline_us(gpr_timespec deadline);             /* CLOCK_MONOTONIC; 0: none */
grpc_byte_buffer *sc_envelope_pack(const ProtobufCMessage *message); /* the caller's */

#endif
