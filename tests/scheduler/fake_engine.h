/* tests/scheduler/fake_engine.h - stands in for shard/engine.c: a toy model on a strict plan
 * checker.
 *
 * The next token's logits are a hash of everything the sequence was fed, with positions, recipe and
 * prompt_len, so that a mistake in order, position, preemption or resume changes the output. Pages
 * are counted as a real pool counts them. A plan that breaks a rule of shard/engine.h is refused
 * and remembered (fake_violation). Threads: the engine.h calls from the scheduler's thread, the
 * fake_ ones from the test's.
 */
#ifndef SC_TESTS_SCHEDULER_FAKE_ENGINE_H
#define SC_TESTS_SCHEDULER_FAKE_ENGINE_H

#include "shard/engine.h"

struct fake_opts {
    uint32_t vocab, max_seqs, max_step_tokens, max_context, n_pages;
    uint32_t estimate_percent; /* of the true peak; below 100 admission is too hopeful */
    bool calibrated;
};

struct sc_engine *fake_open(const struct fake_opts *opts);
void fake_close(struct sc_engine *engine);

/* The model says these tokens first, from output position 0 on; then the hash again. NULL: none. */
void fake_set_script(struct sc_engine *engine, const int32_t *tokens, uint32_t n);
/* Orders for the n-th step from now (1: the next one to begin). fail: every sequence is lost.
 * refuse: SC_EFULL. hold: it stops at its begin, where wait_held meets it, until release. */
void fake_fail_step(struct sc_engine *engine, uint32_t n, enum sc_status status);
void fake_refuse_step(struct sc_engine *engine, uint32_t n);
void fake_hold(struct sc_engine *engine, uint32_t n);
void fake_wait_held(struct sc_engine *engine);
void fake_release(struct sc_engine *engine);

void fake_fail_reset(struct sc_engine *engine, bool fail);
void fake_nan_at(struct sc_engine *engine, uint32_t position); /* of the next sampled token; once */
void fake_sleep(struct sc_engine *engine, uint32_t step_us);

struct fake_counts {
    uint64_t steps, runs, n_full, resets;
    uint32_t open_seqs, pages_free;
    uint32_t max_block; /* longest run */
};
struct fake_counts fake_counts(struct sc_engine *engine);
const char *fake_violation(struct sc_engine *engine); /* NULL: every plan was right */

#endif
