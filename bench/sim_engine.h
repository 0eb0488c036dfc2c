/* bench/sim_engine.h - shard/engine.h without tensors: pages, tables and snapshots are real, a step
 * only takes time.
 *
 * Programs that link sim_engine.c run the real scheduler on it. It takes plans by the rules of the
 * real engine and remembers the first one that breaks a rule. One layer stands for all; a chunk
 * compresses to exactly target_ratio of its tokens. A step costs a fixed part, one for each token
 * of prefill and each decode row, and one for each entry that a run attends to; the clock is the
 * caller's and moves only by that. Memory: at open, but for the page tables of snapshots. Threads:
 * one owner.
 */
#ifndef SC_BENCH_SIM_ENGINE_H
#define SC_BENCH_SIM_ENGINE_H

#include "shard/engine.h"

struct sim_costs { /* microseconds */
    double fixed, prefill_token, decode_row, entry;
    double chore; /* a step without runs */
};

struct sim_engine_opts {
    uint32_t n_pages, max_seqs, max_step_tokens, max_context, max_snaps, vocab;
    struct sim_costs costs;
    uint64_t *now_us; /* moved by steps */
};

struct sim_counts {
    uint64_t prefill_tokens, decode_rows, entries, n_full, n_keeps, n_drops;
    uint32_t open_seqs, snaps, peak_pages; /* peak: held by sequences */
};

struct sc_engine *sim_engine_open(const struct sim_engine_opts *opts); /* NULL: out of memory */
void sim_engine_close(struct sc_engine *e);                            /* NULL is fine */
struct sim_counts sim_engine_counts(const struct sc_engine *e);

/* Pages of a snapshot that no sequence has, and no call since the first has counted; slowly, for
 * comparison. */
uint32_t sim_engine_idle_pages(const struct sc_engine *e, uint32_t snap, bool first);
/* Counts every reference again from the tables: SC_EINTERNAL when pages, references or the number
 * of cached ones disagree, a sequence lacks a page, or a plan broke a rule. */
enum sc_status sim_engine_check(const struct sc_engine *e, struct sc_err *err) SC_MUST_CHECK;

#endif
