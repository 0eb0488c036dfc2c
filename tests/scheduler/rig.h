/* tests/scheduler/rig.h - a scheduler on the fake engine, and clients that check what they are
 * told.
 *
 * The tokenizer is byte-level: id b is byte b; RIG_WORD is "hello", RIG_EOS is special. A client
 * fails its test (in client_wait or rig_close) when events come after DONE, progress goes back,
 * text is not UTF-8, or token counts do not agree.
 */
#ifndef SC_TESTS_SCHEDULER_RIG_H
#define SC_TESTS_SCHEDULER_RIG_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "scheduler/scheduler.h"
#include "tests/scheduler/fake_engine.h"

#define RIG_WORD       260 /* "hello" */
#define RIG_EOS        261
#define RIG_TOK_VOCAB  262u
#define RIG_VOCAB      264u /* of the model: padded */
#define RIG_CONTEXT    4096u
#define RIG_TOKENS_MAX 2048u
#define RIG_TEXT_MAX   16384u

struct rig {
    struct sc_model model;
    struct sc_engine *engine;
    struct sc_sched *sched;
    uint32_t n_pages;
};

struct rig_opts {
    uint32_t n_pages;          /* 0: plenty */
    uint32_t max_seqs;         /* 0: 64 */
    uint32_t prefill_tokens;   /* 0: 128 */
    uint32_t queue_max;        /* 0: 1024 */
    uint32_t estimate_percent; /* 0: 100 */
    bool uncalibrated;
};
void rig_open(struct rig *rig, const struct rig_opts *opts);
/* Also checks that no sequence, page or plan rule was lost; sched may be closed (NULL) already. */
void rig_close(struct rig *rig);
void rig_wait_idle(struct rig *rig); /* nothing waits or runs, all pages are free */

struct client {
    pthread_mutex_t mu;
    pthread_cond_t changed;
    struct sc_request *request;
    int32_t tokens[RIG_TOKENS_MAX];
    uint32_t n_tokens;
    char text[RIG_TEXT_MAX];
    size_t text_len;
    uint32_t progress, n_progress, n_deltas, n_done;
    uint32_t first_at, done_at; /* order of the first and last event among all clients' events */
    struct sc_event done;       /* strings copied below */
    char error[SC_ERR_TEXT_BYTES], stop_string[SC_STOP_STRING_BYTES_MAX + 1];
    const char *complaint;
};

/* Defaults: greedy, EXACT, max_tokens. */
struct sc_request_opts client_opts(const int32_t *prompt, uint32_t n_prompt, uint32_t max_tokens);
void client_init(struct client *c);
enum sc_status client_try(struct rig *rig, struct client *c, struct sc_request_opts opts,
                          struct sc_err *err);
void client_submit(struct rig *rig, struct client *c, struct sc_request_opts opts);
void client_wait(struct client *c);
void client_wait_tokens(struct client *c, uint32_t n);
void client_fini(struct client *c); /* drops the reference */

/* Submits, waits, and leaves the result in c (client_fini is the caller's). */
void client_run(struct rig *rig, struct client *c, struct sc_request_opts opts);

/* A prompt of n bytes, different for each key; and a recipe with small epochs. */
void make_prompt(int32_t *ids, uint32_t n, uint64_t key);
struct sc_recipe small_recipe(void);

#endif
