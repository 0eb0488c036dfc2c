/* daemon/run_request.h - one request to the scheduler, from a thread that waits for its end.
 *
 * For the first request at start, documents read in the background, and the self-test. Threads: run
 * from one at a time, and none that the scheduler needs; stop from any.
 */
#ifndef SC_DAEMON_RUN_REQUEST_H
#define SC_DAEMON_RUN_REQUEST_H

#include "scheduler/scheduler.h"

struct sc_runner {
    pthread_mutex_t mu; /* guards what follows */
    pthread_cond_t over;
    struct sc_sched *sched; /* of the request that runs */
    struct sc_request *request;
    bool done, stopped;
    struct sc_event end; /* its DONE; pointers are cleared */
    char error[SC_ERR_TEXT_BYTES];
};

void sc_runner_init(struct sc_runner *runner);
void sc_runner_fini(struct sc_runner *runner); /* nothing runs */

/* opts without on_event and ctx. On success *ret_end is the DONE, without texts. An error of the
 * request is the error here; SC_ECANCELED after stop. */
enum sc_status sc_runner_run(struct sc_runner *runner, struct sc_sched *sched,
                             const struct sc_request_opts *opts, struct sc_event *ret_end,
                             struct sc_err *err) SC_MUST_CHECK;
/* Ends what runs and what is to run. */
void sc_runner_stop(struct sc_runner *runner);

#endif
