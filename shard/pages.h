/* shard/pages.h - which pages of one rank are free. All ranks make the same calls in the same order
 * and so hold the same page ids; nobody consults anybody.
 *
 * Pages are reference-counted: entries of a shared prefix are immutable and held by several tables.
 * Memory: all at open. Threads: one owner, the rank's step thread.
 */
#ifndef SC_SHARD_PAGES_H
#define SC_SHARD_PAGES_H

#include <stdbool.h>

#include "base/status.h"

/* Sequences and snapshots are counted apart: a page that only snapshots hold is cached, and as good
 * as free to a scheduler that may drop them. */
struct sc_pages {
    uint32_t n_pages, n_free, n_cached;
    uint32_t n_marked_cached; /* of those that are marked */
    uint64_t *free_bits;      /* a bit a page */
    uint64_t *free_sums;      /* a bit for each word of free_bits that has one */
    uint32_t *seq_refs;       /* [n_pages] */
    uint32_t *snap_refs;      /* [n_pages] */
    uint64_t *marks;          /* a bit a page */
};

enum sc_status sc_pages_open(struct sc_pages *pages, uint32_t n_pages,
                             struct sc_err *err) SC_MUST_CHECK;
void sc_pages_close(struct sc_pages *pages);
void sc_pages_reset(struct sc_pages *pages); /* all free */

/* The caller has checked n_free before the step began: running out here is our own bug. The lowest
 * free page: what is taken together lies together and in rising order, in which processors read
 * memory fastest (docs/results/cpu.md). */
uint32_t sc_pages_take(struct sc_pages *pages); /* one reference, a sequence's */
void sc_pages_ref(struct sc_pages *pages, uint32_t page);
void sc_pages_unref(struct sc_pages *pages, uint32_t page);
uint32_t sc_pages_snap_take(struct sc_pages *pages); /* the same for a snapshot */
void sc_pages_snap_ref(struct sc_pages *pages, uint32_t page);
void sc_pages_snap_unref(struct sc_pages *pages, uint32_t page);

/* For counting pages that several snapshots share: false for one that was marked before. A page is
 * marked until it is given back. */
bool sc_pages_mark(struct sc_pages *pages, uint32_t page);
void sc_pages_unmark_all(struct sc_pages *pages);
static inline bool sc_pages_is_marked(const struct sc_pages *pages, uint32_t page)
{
    return (pages->marks[page / 64] >> page % 64 & 1) != 0;
}

/* Held once, by whomever. */
static inline bool sc_pages_is_private(const struct sc_pages *pages, uint32_t page)
{
    return pages->seq_refs[page] + pages->snap_refs[page] == 1;
}

#endif
