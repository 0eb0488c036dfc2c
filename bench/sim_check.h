/* bench/sim_check.h - what has to hold between any two turns of a scheduler.
 *
 * Pages and references, slots, snapshots and the order of admission; looks into the scheduler's
 * state, since its interface tells of none of these. Threads: one owner.
 */
#ifndef SC_BENCH_SIM_CHECK_H
#define SC_BENCH_SIM_CHECK_H

#include "scheduler/scheduler.h"

struct sim_check {
    uint64_t last_ticket;    /* of those admitted before this turn */
    uint64_t last_preempted; /* of all, until then */
};

enum sc_status sim_check_turn(struct sim_check *check, const struct sc_sched *sched,
                              struct sc_err *err) SC_MUST_CHECK;
/* Nothing runs or waits: no sequence, no page but those of the cache. */
enum sc_status sim_check_drained(const struct sc_sched *sched, struct sc_err *err) SC_MUST_CHECK;

/* When those that wait for a pin's end, or for their deadline, are due; UINT64_MAX: nobody does. */
uint64_t sim_check_parked_until(const struct sc_sched *s);

#endif
