/* daemon/status_map.h - what a client sees of an enum sc_status: the one table. */
#ifndef SC_DAEMON_STATUS_MAP_H
#define SC_DAEMON_STATUS_MAP_H

#include <grpc/status.h>

#include "base/status.h"

/* GRPC_STATUS_UNKNOWN for a value outside the enum, which no client should ever see. */
grpc_status_code sc_status_to_grpc(enum sc_status st);

#endif
