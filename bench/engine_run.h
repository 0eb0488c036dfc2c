/* bench/engine_run.h - prefill and decode of a random model through the real engine, timed.
 *
 * Deep caches are not prefilled: a snapshot of the wanted shape is made and filled with random keys
 * and values from the host (shard/engine.h: makes and moves), one sequence begins from it, and the
 * snapshot is dropped. So each sequence has pages of its own, which no other sequence brings into a
 * cache, and a compressed one has exactly ratio * its compressed tokens as cores. Threads: one
 * owner.
 */
#ifndef SC_BENCH_ENGINE_RUN_H
#define SC_BENCH_ENGINE_RUN_H

#include "bench/op_times.h"
#include "bench/random_model.h"
#include "shard/engine.h"

struct sc_run_opts {
    sc_backend_open_fn *open_backend;
    uint32_t n_ranks, n_threads;
    bool pin_threads;
    bool plain_weights;
    bool one_document; /* deep sequences begin from one snapshot */
    bool exact_layers; /* keep the layers that the default recipe keeps exact */
    bool
        budget; /* each chunk is held to the ratio, instead of thresholds that give it on average */
    bool fixed_thresholds; /* do not measure them: faster to start, the ratio is what comes out */
    float ratio;           /* cores per token in compressed chunks */
    float temperature, top_p; /* of decoded tokens */
    uint32_t step_tokens, decode_steps;
    uint32_t max_seqs, max_context;
    uint64_t kv_bytes; /* of all ranks */
    enum sc_dtype kv_dtype, weight_dtype;
    enum sc_math math;
    bool one_device, strict;
};

struct sc_run;

#define SC_RUN_SAMPLES_MAX 4096u

/* What is measured for one row, over several calls: zeroed by the caller before the first. */
struct sc_run_samples {
    double s[SC_RUN_SAMPLES_MAX];
    uint32_t n;
    double compress_s; /* sum */
    struct sc_op_times ops;
};

/* One line of the result. Seconds and work are of one prefill or of one decode step. */
struct sc_run_row {
    bool decode;
    enum sc_kv_mode kv;
    uint32_t n_tokens; /* prefilled, or the depth */
    uint32_t n_seqs;
    double median_s, mean_s, min_s, max_s;
    double tokens_per_s;    /* of all sequences, by the median */
    double bytes;           /* decode: weights and entries read */
    double flop;            /* products with weights, and attention over the entries held */
    double kept;            /* entries held of those an exact cache holds; 1 for EXACT */
    double kv_bytes;        /* K and V of one sequence */
    double compress_s;      /* of mean_s: distances, clusters, merge */
    struct sc_op_times ops; /* seconds of mean_s */
};

/* Fills the weights, opens the engine and, when `calibrate`, measures thresholds. */
enum sc_status sc_run_open(const struct sc_run_opts *opts, struct sc_random_model *model,
                           bool calibrate, struct sc_run **ret_run,
                           struct sc_err *err) SC_MUST_CHECK;
void sc_run_close(struct sc_run *run);                /* NULL is fine */
const char *sc_run_backend(const struct sc_run *run); /* what the device says of itself */

/* Bytes of pages that n_seqs sequences of that many tokens take at most, of all ranks. */
uint64_t sc_run_kv_bytes(const struct sc_model_config *config, enum sc_dtype kv_dtype,
                         uint32_t n_ranks, uint32_t n_seqs, uint32_t n_tokens);

/* One prefill more, or decode_steps steps more; the row is of all samples so far. */
enum sc_status sc_run_prefill(struct sc_run *run, enum sc_kv_mode kv, uint32_t n_tokens,
                              struct sc_run_samples *samples, struct sc_run_row *ret_row,
                              struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_run_decode(struct sc_run *run, enum sc_kv_mode kv, uint32_t depth,
                             uint32_t n_seqs, struct sc_run_samples *samples,
                             struct sc_run_row *ret_row, struct sc_err *err) SC_MUST_CHECK;

#endif
