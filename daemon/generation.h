/* daemon/generation.h - one generate or inspect request, between the scheduler's events and its
 * call.
 *
 * Events come on the scheduler thread and are only noted: new text and tokens are appended to what
 * the call has not sent yet. The dispatcher packs and sends, one message at a time; while a message
 * is out (a slow client), what comes meanwhile gathers into the next one. So a client that does not
 * read costs memory bounded by its own output, and nobody's time. References: one each for the open
 * call, every output that runs, a place in the ready list, and a message that is out; the last one
 * frees. Threads: any; the lock is held for copies only.
 */
#ifndef SC_DAEMON_GENERATION_H
#define SC_DAEMON_GENERATION_H

#include "daemon/app.h"
#include "daemon/convert.h"
#include "daemon/rpc.h"

struct sc_generation;

enum sc_generation_kind { SC_GENERATE_UNARY, SC_GENERATE_STREAM, SC_GENERATE_INSPECT };

struct sc_generation_opts {
    enum sc_generation_kind kind;
    const char *request_id;                    /* "" : one is made up */
    bool progress;                             /* STREAM: tell the prompt's progress */
    const struct sc_params *params;            /* borrowed during start */
    const Semanticache__V1__LayerList *layers; /* INSPECT: those wanted, or NULL; borrowed */
    const struct sc_lookup *lookup;            /* INSPECT: borrowed */
    uint64_t start_us;                         /* when the request came */
};

/* Submits, and answers the call in every case. */
void sc_generation_start(struct sc_app *app, struct sc_rpc *rpc,
                         const struct sc_generation_opts *opts);

/* Ends requests with that id in that namespace (id NULL: all). Returns how many there were. */
unsigned sc_generation_abort(struct sc_app *app, const char *ns, const char *request_id,
                             enum sc_status st, const char *text);

#endif
