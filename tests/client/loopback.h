/* tests/client/loopback.h - a gRPC server of one thread that answers from a script.
 *
 * Threads: start and stop from the test; respond runs on the server's thread, one call at a time.
 */
#ifndef SC_TESTS_CLIENT_LOOPBACK_H
#define SC_TESTS_CLIENT_LOOPBACK_H

#include <stddef.h>
#include <stdint.h>

#include "client/rpc.h"

#define LOOPBACK_MESSAGES_MAX 16

struct loopback_answer {
    const ProtobufCMessage *messages[LOOPBACK_MESSAGES_MAX]; /* sent in order */
    size_t n_messages;
    const char *raw; /* or these bytes as the only message */
    int code;
    const char *text;
    bool hang; /* after the messages: no status until the client goes away */
    bool more; /* after the messages: read the client's next message and ask again */
};

/* request: NULL when the client has half-closed, which only follows `more`. */
typedef void loopback_fn(void *ctx, const char *method, const uint8_t *request, size_t len,
                         struct loopback_answer *answer);

struct loopback;

/* Blocks SIGINT in the calling thread: the server's threads, which inherit it, leave signals to the
 * client. */
struct loopback *loopback_start(loopback_fn *respond, void *ctx);
void loopback_stop(struct loopback *server);
const char *loopback_address(const struct loopback *server);
/* The call's `authorization` metadata, "" without; for respond. */
const char *loopback_authorization(const struct loopback *server);
unsigned loopback_cancelled(struct loopback *server); /* calls that the client cancelled */

/* A server and a connection to it, as fixtures of cmocka need them: 0, or -1. */
int loopback_setup(loopback_fn *respond, void *ctx, struct loopback **ret_server,
                   struct sc_rpc **ret_rpc);
void loopback_teardown(struct loopback *server, struct sc_rpc *rpc);

#endif
