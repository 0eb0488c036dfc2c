#include "daemon/status_map.h"

/* Indexed by enum sc_status. FAILED_PRECONDITION and not OUT_OF_RANGE: a prompt longer than the
 * context will not fit however often it is sent. */
static const grpc_status_code codes[] = {
    [SC_OK] = GRPC_STATUS_OK,
    [SC_EINVAL] = GRPC_STATUS_INVALID_ARGUMENT,
    [SC_ERANGE] = GRPC_STATUS_FAILED_PRECONDITION,
    [SC_ENOTSUP] = GRPC_STATUS_UNIMPLEMENTED,
    [SC_ENOENT] = GRPC_STATUS_NOT_FOUND,
    [SC_EEXIST] = GRPC_STATUS_ALREADY_EXISTS,
    [SC_EFULL] = GRPC_STATUS_RESOURCE_EXHAUSTED,
    [SC_ENOMEM] = GRPC_STATUS_RESOURCE_EXHAUSTED,
    [SC_EIO] = GRPC_STATUS_INTERNAL,
    [SC_EFORMAT] = GRPC_STATUS_DATA_LOSS,
    [SC_ETIMEDOUT] = GRPC_STATUS_DEADLINE_EXCEEDED,
    [SC_ECANCELED] = GRPC_STATUS_CANCELLED,
    [SC_EUNAVAIL] = GRPC_STATUS_UNAVAILABLE,
    [SC_EDEVICE] = GRPC_STATUS_INTERNAL,
    [SC_EPEER] = GRPC_STATUS_UNAVAILABLE,
    [SC_EDIVERGED] = GRPC_STATUS_INTERNAL,
    [SC_EPERM] = GRPC_STATUS_PERMISSION_DENIED,
    [SC_EINTERNAL] = GRPC_STATUS_INTERNAL,
};
_Static_assert(SC_ARRAY_LEN(codes) == SC_STATUS_COUNT, "a status has no gRPC code");

grpc_status_code sc_status_to_grpc(enum sc_status st)
{
    return (unsigned)st < SC_ARRAY_LEN(codes) ? codes[st] : GRPC_STATUS_UNKNOWN;
}
