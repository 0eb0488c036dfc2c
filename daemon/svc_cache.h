/* daemon/svc_cache.h - the calls of Control that are about the cache across requests. */
#ifndef SC_DAEMON_SVC_CACHE_H
#define SC_DAEMON_SVC_CACHE_H

#include "daemon/app.h"
#include "daemon/rpc.h"

void sc_control_flush_cache(struct sc_rpc *rpc, const ProtobufCMessage *message);
void sc_control_self_test_isolation(struct sc_rpc *rpc, const ProtobufCMessage *message);

#endif
