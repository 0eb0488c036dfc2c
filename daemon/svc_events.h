/* daemon/svc_events.h - Control.SubscribeKvEvents: those who follow the cache.
 *
 * Each follower pulls from the scheduler's ring when its last message is out, so what it does not
 * read is held by nobody for it. Memory: of the whole at the beginning 200 bytes for each block
 * that is held, until it is sent; at most SC_FOLLOWERS_MAX followers. Threads: tell from the
 * scheduler's thread: it posts one item to the dispatcher. end from the main thread.
 */
#ifndef SC_DAEMON_SVC_EVENTS_H
#define SC_DAEMON_SVC_EVENTS_H

#include "daemon/app.h"
#include "daemon/rpc.h"

#define SC_FOLLOWERS_MAX 64u

enum sc_status sc_followers_open(struct sc_app *app, struct sc_followers **ret_followers,
                                 struct sc_err *err) SC_MUST_CHECK;
void sc_followers_close(struct sc_followers *followers); /* no call is open; NULL is fine */
void sc_followers_tell(void *followers);                 /* there are new events */
void sc_followers_end(struct sc_followers *followers); /* the server drains; cheap when repeated */

void sc_control_subscribe_kv_events(struct sc_rpc *rpc, const ProtobufCMessage *message);

#endif
