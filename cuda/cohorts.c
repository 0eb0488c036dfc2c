#include "cuda/cohorts.h"

#include <stdbool.h>
#include <string.h>

#include "base/backend.h"
#include "cuda/seqs.h"
#include "cuda/splits.h"

/* Sequences of a layer that may be members, those that share most side by side. */
struct sorted {
    const struct sc_cuda_seq *seqs;
    const uint32_t *tables;
    uint32_t n, order[SC_CUDA_COHORT_SEQS];
};

struct found {
    struct sc_cuda_cohort cohorts[SC_CUDA_COHORT_SEQS / 2];
    uint32_t n_cohorts, n_members, *members;
};

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static bool may_share(const struct sc_cuda_seq *seq)
{
    return seq->n_rows == 1 && seq->window == 0;
}

static uint32_t n_splits(const struct sc_cuda_seq *seq)
{
    return (seq->n_pages + seq->split_pages - 1) / seq->split_pages;
}

static bool same_pages(const uint32_t *a, const uint32_t *b, uint32_t n)
{
    return memcmp(a, b, n * sizeof(*a)) == 0;
}

/* Pages, from the first on, of which a and b see the same entries if they are the same pages. The
 * last page of either has its own token, and is never shared: every member has a split of its own.
 * Exact pages before the last are seen to their end. */
static uint32_t alike_pages(const struct sc_cuda_seq *a, const struct sc_cuda_seq *b)
{
    const uint32_t n = smaller(a->n_pages, b->n_pages) - 1;
    if (a->n_cores != b->n_cores)
        return smaller(n, smaller(a->n_cores, b->n_cores) / SC_PAGE_ENTRIES);
    return a->exact_lo == b->exact_lo ? n : smaller(n, a->n_core_pages);
}

/* Splits, from the first on and at most `most`, that a and b share. */
static uint32_t common_splits(const struct sc_cuda_seq *a, const struct sc_cuda_seq *b,
                              const uint32_t *tables, uint32_t most)
{
    const uint32_t pages = a->split_pages;
    const uint32_t *x = tables + a->table, *y = tables + b->table;
    uint32_t n = 0;

    if (!may_share(a) || !may_share(b) || pages != b->split_pages)
        return 0;
    most = smaller(most, alike_pages(a, b) / pages);
    if (same_pages(x, y, most * pages))
        return most;
    while (n < most && same_pages(x + n * pages, y + n * pages, pages))
        n++;
    return n;
}

/* Any order in which those that see the same of the same first pages are neighbours: by splits,
 * then page by page, a page that not both have or see whole by what makes it differ. */
static bool comes_before(const struct sorted *s, uint32_t i, uint32_t j)
{
    const struct sc_cuda_seq *a = &s->seqs[i], *b = &s->seqs[j];
    const uint32_t x = a->split_pages, y = b->split_pages;
    int order;

    if (x != y)
        return x < y;
    order =
        memcmp(s->tables + a->table, s->tables + b->table, alike_pages(a, b) * sizeof(uint32_t));
    if (order != 0)
        return order < 0;
    if (a->n_cores != b->n_cores)
        return a->n_cores < b->n_cores;
    return a->exact_lo != b->exact_lo ? a->exact_lo < b->exact_lo : a->n_pages < b->n_pages;
}

static void sort(struct sorted *s, uint32_t n_seqs)
{
    for (uint32_t i = 0; i < n_seqs && s->n < SC_CUDA_COHORT_SEQS; i++) {
        uint32_t lo = 0, hi = s->n;
        if (!may_share(&s->seqs[i]))
            continue;
        while (lo < hi) {
            const uint32_t middle = (lo + hi) / 2;
            if (comes_before(s, i, s->order[middle]))
                hi = middle;
            else
                lo = middle + 1;
        }
        memmove(s->order + lo + 1, s->order + lo, (s->n - lo) * sizeof(*s->order));
        s->order[lo] = i;
        s->n++;
    }
}

/* Cohorts of the sorted sequences first .. end - 1, as sc_cuda_cohorts_find returns them; common:
 * pages that each shares with the next. The one that saves most reading first, then those on either
 * side of it. */
static void make_cohorts(const struct sorted *s, const uint32_t *common, uint32_t first,
                         uint32_t end, struct found *ret)
{
    while (first + 1 < end) {
        uint32_t best = 0, best_first = 0, best_n = 0, best_pages = 0;
        for (uint32_t i = first; i + 1 < end; i++) {
            uint32_t least = UINT32_MAX;
            for (uint32_t j = i; j + 1 < end && common[j] != 0; j++) {
                least = smaller(least, common[j]);
                if ((j + 1 - i) * least > best) {
                    best = (j + 1 - i) * least;
                    best_first = i;
                    best_n = j + 2 - i;
                    best_pages = least;
                }
            }
        }
        if (best < SC_CUDA_COHORT_PAGES)
            return;
        const uint32_t pages = s->seqs[s->order[best_first]].split_pages;
        ret->cohorts[ret->n_cohorts++] = (struct sc_cuda_cohort){
            .first = ret->n_members, .n = best_n, .n_shared = best_pages / pages};
        memcpy(ret->members + ret->n_members, s->order + best_first, best_n * sizeof(*s->order));
        ret->n_members += best_n;
        make_cohorts(s, common, first, best_first, ret);
        first = best_first + best_n;
    }
}

/* The cohorts of one layer. */
static void find(const struct sc_cuda_seq *seqs, const uint32_t *tables, uint32_t n_seqs,
                 struct found *ret)
{
    struct sorted s = {.seqs = seqs, .tables = tables};
    uint32_t common[SC_CUDA_COHORT_SEQS];

    sort(&s, n_seqs);
    for (uint32_t i = 0; i + 1 < s.n; i++) {
        const struct sc_cuda_seq *a = &seqs[s.order[i]];
        common[i] = a->split_pages * common_splits(a, &seqs[s.order[i + 1]], tables, UINT32_MAX);
    }
    make_cohorts(&s, common, 0, s.n, ret);
}

/* A cohort of another layer in this one. */
static struct sc_cuda_cohort here(const struct sc_cuda_cohort *found, struct sc_cuda_seq *seqs,
                                  const uint32_t *tables, const uint32_t *members)
{
    struct sc_cuda_cohort cohort = *found;
    members += cohort.first;
    for (uint32_t i = 1; i < cohort.n && cohort.n_shared != 0; i++)
        cohort.n_shared =
            common_splits(&seqs[members[0]], &seqs[members[i]], tables, cohort.n_shared);
    for (uint32_t i = 0; i < cohort.n; i++)
        seqs[members[i]].n_shared = cohort.n_shared;
    return cohort;
}

void sc_cuda_cohorts_find(struct sc_cuda_seq *seqs, const uint32_t *tables, uint32_t n_seqs,
                          uint32_t n_layers, struct sc_cuda_cohort *ret_cohorts,
                          uint32_t *ret_members, struct sc_cuda_cohort_bounds *ret)
{
    struct found found = {.members = ret_members};
    uint32_t layer = 0, n;

    *ret = (struct sc_cuda_cohort_bounds){0};
    if (n_seqs < 2)
        return;
    while (layer < n_layers && seqs[layer * n_seqs].window != 0)
        layer++;
    if (layer == n_layers)
        return;
    find(seqs + (size_t)layer * n_seqs, tables, n_seqs, &found);
    n = ret->n_cohorts = found.n_cohorts;
    if (n == 0)
        return;
    for (layer = 0; layer < n_layers; layer++, seqs += n_seqs) {
        for (uint32_t i = 0; i < n; i++) {
            struct sc_cuda_cohort *cohort = &ret_cohorts[(size_t)layer * n + i];
            *cohort = here(&found.cohorts[i], seqs, tables, ret_members);
            if (cohort->n > ret->max_members)
                ret->max_members = cohort->n;
            if (cohort->n_shared > ret->max_shared)
                ret->max_shared = cohort->n_shared;
        }
        for (uint32_t i = 0; i < n_seqs; i++) {
            const uint32_t own = n_splits(&seqs[i]) - seqs[i].n_shared;
            if (own > ret->max_own)
                ret->max_own = own;
        }
    }
}

/* At most a quarter, or three, too many. */
static uint32_t round_splits(uint32_t n)
{
    uint32_t step = 4;
    while (n > 8 * step)
        step *= 2;
    return smaller((n + step - 1) / step * step, SC_CUDA_ATTN_SPLITS_MAX);
}

struct sc_cuda_cohort_bounds sc_cuda_cohort_bounds_round(const struct sc_cuda_cohort_bounds *b)
{
    struct sc_cuda_cohort_bounds r = *b;
    if (b->n_cohorts == 0)
        return r;
    for (r.max_members = 2; r.max_members < b->max_members;)
        r.max_members *= 2;
    r.max_shared = round_splits(b->max_shared);
    r.max_own = round_splits(b->max_own);
    return r;
}
