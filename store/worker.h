/* store/worker.h - the store's state and its worker thread; for store.c and worker.c.
 *
 * Two rings wait for the worker: reads (gets), and writes (puts and removes, in their order). A get
 * looks through the waiting writes first, so it sees what was put or removed before it. Threads:
 * what is under mu is any thread's; the tiers are the worker's (the directory's index has its own
 * lock, which is taken inside mu).
 */
#ifndef SC_STORE_WORKER_H
#define SC_STORE_WORKER_H

#include <pthread.h>

#include "store/disk.h"
#include "store/memory.h"
#include "store/redis.h"

#define SC_STORE_READS_IN_A_ROW 16u /* then one write, so that writes are not starved */
#define SC_STORE_REWRITES       64u /* damaged keys of the shared tiers that are remembered */

/* Tiers behind memory, in the order they are asked. */
enum sc_tier { SC_TIER_DIR, SC_TIER_SHARED, SC_TIER_REDIS, SC_N_TIERS };

enum sc_job_kind { SC_JOB_GET, SC_JOB_PUT, SC_JOB_REMOVE };

struct sc_job {
    enum sc_job_kind kind;
    struct sc_hash key;
    struct sc_store_label label;
    struct sc_blob *blob; /* put: one reference */
    enum sc_tier n_tiers; /* put: into the tiers before this one */
    sc_store_got_fn *got; /* get */
    void *ctx;
};

struct sc_ring {
    struct sc_job *jobs; /* [cap] */
    uint32_t cap, first, n;
};

struct sc_store {
    bool has[SC_N_TIERS];
    struct sc_disk *disk;
    struct sc_files shared;
    struct sc_redis *redis;
    sc_store_log_fn *log;
    void *log_ctx;

    /* The worker's alone. */
    uint64_t quiet_until_ns[SC_N_TIERS];
    uint32_t n_quiet[SC_N_TIERS];        /* lines that were left out */
    const char *failed_verb[SC_N_TIERS]; /* of the last line about a failure; NULL: all is well */
    struct sc_hash rewrite[SC_STORE_REWRITES];
    bool rewrite_used[SC_STORE_REWRITES];
    uint32_t rewrite_next, n_reads_in_a_row;
    pthread_t thread;
    bool started;

    pthread_mutex_t mu;
    pthread_cond_t work, written;
    struct sc_memory memory;
    struct sc_ring reads, writes;
    uint32_t n_puts, n_removes;     /* of writes, with the one that is being done */
    uint64_t put_bytes;             /* of the puts that wait or are being done */
    uint64_t n_written, n_to_write; /* ever */
    bool closing;
    struct sc_store_stats stats; /* the counters; errors and damaged too */
};

void *sc_store_worker(void *store);

/* With mu held. False: no room. A put's reference moves into the ring. */
bool sc_store_push_locked(struct sc_store *store, const struct sc_job *job);
/* The newest waiting write of the key, or NULL; valid until mu is released. */
const struct sc_job *sc_store_pending_locked(const struct sc_store *store,
                                             const struct sc_hash *key);
void sc_store_log(struct sc_store *store, const char *event, const char *detail);

#endif
