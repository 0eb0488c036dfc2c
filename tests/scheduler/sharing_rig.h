/* tests/scheduler/sharing_rig.h - a scheduler on the real engine, and what is asked of it.
 *
 * The model is a small golden one; answers carry tokens with log-probabilities, to be compared bit
 * for bit. Threads: one test.
 */
#ifndef SC_TESTS_SCHEDULER_SHARING_RIG_H
#define SC_TESTS_SCHEDULER_SHARING_RIG_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "scheduler/scheduler.h"
#include "tests/shard/engine_util.h"

#define CONTEXT  2048u
#define N_OUTPUT 12u

struct server {
    struct rig rig;
    struct sc_sched *sched;
    pthread_mutex_t gate;  /* who holds it stops the scheduler at its next event */
    uint32_t most_running; /* guarded by gate, as */
    uint32_t n_done;
};

struct answer {
    struct server *server;
    pthread_mutex_t mu;
    pthread_cond_t changed;
    struct sc_request *request;
    struct sc_sampled tokens[N_OUTPUT];
    uint32_t n_tokens;
    uint32_t n_all;  /* of the whole output, and */
    uint64_t digest; /* of its tokens and log-probabilities */
    bool done;
    uint32_t rank; /* among the server's that are done: the first is 1 */
    enum sc_status status;
    struct sc_receipt receipt;
    struct sc_hash key;
};

/* kv_bytes: of the pool; 0: plenty. store: or NULL. */
void server_open(struct server *s, uint32_t n_ranks, bool sharing, uint64_t kv_bytes,
                 struct sc_store *store);
/* With so many sequences at once; 0: the rig's 8. */
void server_open_for(struct server *s, uint32_t max_seqs, uint32_t n_ranks, bool sharing,
                     uint64_t kv_bytes, struct sc_store *store);
/* With this calibration, not the one that its own number of ranks measures: as a daemon that finds
 * one kept beside its store. */
void server_open_calibrated(struct server *s, uint32_t n_ranks, bool sharing,
                            struct sc_store *store, const struct sc_calibration *calibration);
/* Every page is free or cached; after a flush every one is free. */
void server_close(struct server *s);

/* Greedy, N_OUTPUT tokens; a recipe with which prompts of all lengths share. */
struct sc_request_opts ask(const struct server *s, const int32_t *prompt, uint32_t n,
                           enum sc_kv_choice kv);
void submit(struct server *s, struct sc_request_opts o, struct answer *a);
void wait_done(struct answer *a);                              /* and gives the request back */
struct answer run(struct server *s, struct sc_request_opts o); /* must succeed */
/* Reads a document; its key. */
struct sc_hash put_as(struct server *s, const int32_t *ids, uint32_t n, uint64_t pin_until,
                      enum sc_kv_choice kv);
/* Pins without an end. */
struct sc_prefix_item order(struct server *s, enum sc_prefix_op op, const struct sc_hash *key);
struct sc_sched_stats stats_of(struct server *s);
void assert_same(const struct answer *a, const struct answer *b);

/* The first `shared` tokens are the family's, the rest its own. */
void prompt_of(int32_t *ids, uint32_t n, uint32_t vocab, uint64_t family, uint32_t shared,
               uint64_t own);

/* A pool of so many pages a layer. */
void open_tight(struct server *s, uint32_t pages, struct sc_store *store);
/* Waits until it has been told of n tokens. */
void wait_tokens(struct answer *a, uint32_t n);
bool is_done(struct answer *a);

#endif
