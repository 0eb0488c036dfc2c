/* daemon/services.h - the services this daemon serves; each in its own svc_*.c. */
#ifndef SC_DAEMON_SERVICES_H
#define SC_DAEMON_SERVICES_H

#include "daemon/app.h"
#include "daemon/rpc.h"

extern const struct sc_service sc_service_inference;
extern const struct sc_service sc_service_documents;
extern const struct sc_service sc_service_control;
extern const struct sc_service sc_service_health;
extern const struct sc_service sc_service_reflection_v1;
extern const struct sc_service sc_service_reflection_v1alpha;

extern const struct sc_service *const sc_services[];
extern const size_t sc_n_services;

/* True when one of its methods is served. */
bool sc_service_is_served(const struct sc_service *service);

/* Open Watch calls. tell() sends the state to those that have not heard of it; it is cheap when
 * nothing changed. While draining they are told NOT_SERVING and ended. Threads: tell from the main
 * thread. */
enum sc_status sc_watchers_open(struct sc_watchers **ret_watchers,
                                struct sc_err *err) SC_MUST_CHECK;
void sc_watchers_close(struct sc_watchers *watchers); /* no call is open; NULL is fine */
void sc_watchers_tell(struct sc_watchers *watchers, enum sc_health_state state);

/* For handlers that tokenise. */
struct sc_convert;
struct sc_identity;
/* identity: the caller's; NULL where only facts of the model are wanted. */
struct sc_convert sc_app_convert(const struct sc_app *app, const struct sc_identity *identity);

#endif
