/* tests/shard/device_clothes.h - a device that is the CPU's backend with the calls added that
 * devices with memory and a network of their own have, so that every result must be the plain
 * engine's. */
#ifndef SC_TESTS_SHARD_DEVICE_CLOTHES_H
#define SC_TESTS_SHARD_DEVICE_CLOTHES_H

#include <pthread.h>

#include "tests/shard/engine_util.h"

/* What was called, and what the device shall do. */
struct device_seen {
    pthread_mutex_t mu;
    unsigned sums, copies, puts, steps, maxima, fused, syncs, enters, names, waits, keeps;
    unsigned wait_ms; /* that each step_wait takes */
    uint64_t memory;
    bool wrong_max, network, second_cannot_join, lose_gather, lose_merge;
    unsigned joins, leaves, network_sums, bf16_sums;
    pthread_barrier_t both; /* of the network's two ranks */
    void *data[2];
};
extern struct device_seen seen;
extern float temperature; /* of the next run; 0: greedy */

enum sc_status open_device(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                           struct sc_err *err);
void on_device(struct sc_engine_opts *opts); /* a rig_tweak */

#define N_PROMPT 300u
#define N_OUTPUT 24u

/* Prompt in blocks, then decoding; the hash of all entries and the tokens, and the logits of the
 * last. */
uint64_t run(rig_tweak *tweak, uint32_t n_ranks, enum sc_kv_mode mode, int32_t *output,
             float *last_logits);

#endif
