/* daemon/documents_warm.h - documents that are read after the start: those of documents.warm, and
 * those that were pinned before a restart.
 *
 * One thread reads one after the other, beside the requests, through the scheduler as any document;
 * what the store has is loaded instead. A document that cannot be read is a line in the log.
 * Threads: start and stop from the owner of the app.
 */
#ifndef SC_DAEMON_DOCUMENTS_WARM_H
#define SC_DAEMON_DOCUMENTS_WARM_H

#include "daemon/documents.h"

struct sc_warm;

/* *ret_warm NULL: there is nothing to do. Lines of the manifest: ID PATH, or ID PATH pin; #
 * comments. The documents go to the shared namespace, or to "default". */
enum sc_status sc_warm_start(struct sc_app *app, struct sc_warm **ret_warm,
                             struct sc_err *err) SC_MUST_CHECK;
void sc_warm_stop(struct sc_warm *warm); /* ends what is being read, joins; NULL is fine */

#endif
