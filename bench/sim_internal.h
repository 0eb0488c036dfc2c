/* bench/sim_internal.h - one simulation, shared by its source files only.
 *
 * sim_run.c: the whole, from opening to the sums. sim_group.c: one group and what its scheduler
 * tells. sim_load.c: what is drawn at random, and the requests made of it.
 */
#ifndef SC_BENCH_SIM_INTERNAL_H
#define SC_BENCH_SIM_INTERNAL_H

#include "bench/sim_check.h"
#include "bench/sim_run.h"

#define VOCAB  32000u
#define PIN_US 500000u

struct client {
    struct group *group;
    struct client *next;        /* all of one simulation */
    struct client *next_cancel; /* to be cancelled */
    struct sc_request *request; /* NULL once DONE */
    uint64_t arrival_us, cancel_us, first_us;
    uint32_t ns, n_done;
    bool shares_nothing;
};

struct group {
    struct sim *sim;
    struct sc_engine *engine;
    struct sc_sched *sched;
    uint64_t now_us;
    struct client *cancels;
    uint32_t live; /* submitted, not DONE */
    uint32_t waiting_max;
    struct sim_check check;
};

struct samples {
    double *ms;
    size_t n, cap;
};

struct sim {
    const struct sim_opts *opts;
    struct sc_model model;
    struct sc_recipe recipe;
    struct group *groups;
    struct client *clients;
    double *zipf; /* [documents]: cumulative */
    int32_t *prompt;
    uint32_t prompt_max;
    uint64_t draws; /* random numbers drawn */
    struct samples ttft, queue;
    bool arrivals_over;
    uint64_t live; /* of all groups */
    struct sim_result result;
    uint64_t prompt_tokens, output_tokens;
};

/* sim_group.c. */
enum sc_status sim_group_open(struct sim *s, struct group *g, struct sc_err *err) SC_MUST_CHECK;
/* Until the given time, or (UINT64_MAX) until all is done. */
enum sc_status sim_group_advance(struct group *g, uint64_t until_us,
                                 struct sc_err *err) SC_MUST_CHECK;
void sim_group_event(void *ctx, const struct sc_event *ev); /* ctx: a client */

/* sim_load.c. */
double sim_draw(struct sim *s); /* [0, 1) */
enum sc_status sim_arrive(struct sim *s, uint64_t now_us, struct sc_err *err) SC_MUST_CHECK;
/* A request that needs every page, and whose own entries are not kept, drives all out of the cache:
 * what is then not free was lost. */
enum sc_status sim_press(struct group *g, struct sc_err *err) SC_MUST_CHECK;

#endif
