/* bench/sim_engine_internal.h - the simulated engine's memory, shared by its source files only.
 *
 * sim_engine.c: pages, tables, snapshots, steps. sim_rules.c: what a plan may ask.
 */
#ifndef SC_BENCH_SIM_ENGINE_INTERNAL_H
#define SC_BENCH_SIM_ENGINE_INTERNAL_H

#include <math.h>

#include "bench/sim_engine.h"
#include "shard/pages.h"

/* As the real engine's store of page tables: words per page of the pool, in blocks. */
#define WORDS_PER_PAGE 8u
#define BLOCK_WORDS    32u
#define NOBODY         UINT32_MAX

/* Entries of a table: cores, then exact ones from exact_lo on. Pages of both are listed apart. */
struct shape {
    struct sc_recipe recipe;
    uint32_t prompt_len, n_logical, epoch_done, n_cores;
};

struct seq {
    bool open;
    struct shape at;
    uint32_t *cores, *exact; /* [pages of the context]; exact by logical page */
    uint64_t peak;
};

struct snap {
    bool used;
    struct shape at;
    uint32_t min_logical, n_pages;
    uint32_t *pages; /* cores, then exact */
};

struct sc_engine {
    struct sim_engine_opts opts;
    struct sc_pages pages;
    struct seq *seqs;
    struct snap *snaps;
    uint32_t *tables;
    uint32_t *writer; /* [n_pages]: the only slot that may append, or NOBODY */
    uint8_t *seen;    /* [max_seqs], scratch: what the plan does to each slot */
    uint32_t *refs;   /* [2 * n_pages], scratch of the check */
    uint64_t words_used, steps, generation;
    double rest_us; /* of the cost, below a microsecond */
    struct sc_calibration calibration;
    struct sim_counts counts;
    char violation[192];
};

enum { CLOSES = 1, OPENS = 2, RUNS = 4, KEPT = 8 };

static inline uint32_t pages_for(uint32_t entries)
{
    return (entries + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
}

static inline uint32_t cores_of(const struct sc_recipe *r, uint32_t limit)
{
    return limit == 0 ? 0 : (uint32_t)ceilf((float)limit * r->target_ratio);
}

static inline uint32_t exact_page0(const struct shape *a)
{
    return a->epoch_done / SC_PAGE_ENTRIES;
}

static inline uint32_t table_pages(const struct shape *a)
{
    return pages_for(a->n_cores) + pages_for(a->n_logical) - exact_page0(a);
}

static inline uint32_t physical(const struct shape *a)
{
    return a->n_cores + a->n_logical - a->epoch_done;
}

/* The real engine cannot know how many cores come: it asks for the worst case. */
static inline uint32_t cores_until(uint32_t epoch_done, uint32_t limit)
{
    return pages_for(limit - epoch_done + SC_CHUNK_MAX) + 2;
}

/* What a run takes at most, if nothing that is compressed comes back. */
static inline uint32_t pages_to_run(const struct shape *a, uint32_t n_tokens)
{
    uint32_t limit = sc_recipe_compressed_limit(&a->recipe, a->prompt_len, a->n_logical);
    uint32_t need = pages_for(a->n_logical + n_tokens) - pages_for(a->n_logical);
    if (limit > a->epoch_done)
        need += cores_until(a->epoch_done, limit);
    return need;
}

static inline uint32_t pages_to_begin(const struct snap *s, uint32_t n)
{
    return (s->at.n_cores % SC_PAGE_ENTRIES != 0) +
           (n % SC_PAGE_ENTRIES != 0 && pages_for(n) > exact_page0(&s->at));
}

static inline struct shape opened(const struct sc_engine *e, const struct sc_plan_open *o)
{
    struct shape a = {.recipe = *o->recipe, .prompt_len = o->prompt_len, .n_logical = o->n_from};
    if (o->n_from > 0) {
        a.epoch_done = e->snaps[o->from].at.epoch_done;
        a.n_cores = e->snaps[o->from].at.n_cores;
    }
    return a;
}

static inline uint64_t block_words(uint64_t words)
{
    return (words + BLOCK_WORDS - 1) / BLOCK_WORDS * BLOCK_WORDS;
}

static inline uint64_t words_total(const struct sc_engine *e)
{
    return block_words((uint64_t)e->opts.n_pages * WORDS_PER_PAGE) +
           (uint64_t)e->opts.max_snaps * BLOCK_WORDS;
}

/* Remembers the first rule that was broken. Returns ok. */
bool sim_rules_require(struct sc_engine *e, bool ok, const char *what, uint32_t value);
/* False: the plan is wrong. needed: pages of its opens and runs; freed: by its closes. */
bool sim_rules_check(struct sc_engine *e, const struct sc_plan *plan, uint64_t *needed,
                     uint64_t *freed);

#endif
