/* daemon/server.h - the gRPC server: addresses, completion queue, pollers, method table.
 *
 * Life: open binds (so that a taken port is known before weights are loaded), start serves,
 * shutdown ends all calls, close frees. The order of a drain is in daemon/daemon.c. Threads:
 * SC_POLLERS poller threads run the handlers of short messages, one more those of long ones, and
 * one those that wait. open, shutdown and close from the main thread.
 */
#ifndef SC_DAEMON_SERVER_H
#define SC_DAEMON_SERVER_H

#include "daemon/config.h"
#include "daemon/rpc.h"

#define SC_POLLERS     2u
#define SC_CALLS_ARMED 64u /* new calls that the core may hand over at once */
#define SC_METHODS_MAX 64u
/* Longer messages, and compressed ones, are unpacked and handled on a thread of their own, one
 * after the other: tokenising 64 MiB takes seconds, in which the pollers have streams and health
 * checks to serve. */
#define SC_SHORT_MESSAGE_BYTES 65536u

struct sc_server;

enum sc_status sc_server_open(const struct sc_config *config, struct sc_app *app,
                              const struct sc_service *const *services, size_t n_services,
                              struct sc_server **ret_server, struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_server_start(struct sc_server *server, struct sc_err *err) SC_MUST_CHECK;
/* The port bound for listen address i (useful with port 0); 0 for a unix socket. */
int sc_server_port(const struct sc_server *server, size_t i);

/* Calls that are open: all, and those that a drain waits for. */
uint32_t sc_server_calls(const struct sc_server *server);
uint32_t sc_server_foreground_calls(const struct sc_server *server);

/* Refuses new calls, cancels those that are open, returns when the core has let go of the listener.
 */
void sc_server_shutdown(struct sc_server *server);
/* After shutdown, when no handler's state refers to calls any more. NULL is fine. */
void sc_server_close(struct sc_server *server);

/* For rpc.c. */
const struct sc_method *sc_server_find(const struct sc_server *server, const char *path,
                                       size_t len);
grpc_server *sc_server_core(struct sc_server *server);
grpc_completion_queue *sc_server_queue(struct sc_server *server);
struct sc_app *sc_server_app(struct sc_server *server);
uint32_t sc_server_max_streams(const struct sc_server *server);
size_t sc_server_max_message(const struct sc_server *server);
struct sc_dispatch *sc_server_long_messages(struct sc_server *server);
struct sc_dispatch *sc_server_slow_calls(struct sc_server *server);
void sc_server_count(struct sc_server *server, int calls, int foreground);
bool sc_server_is_down(const struct sc_server *server);

#endif
