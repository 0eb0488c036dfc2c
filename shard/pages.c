#include "shard/pages.h"

#include <stdlib.h>
#include <string.h>

enum { WORD = 64 };

static uint32_t words(uint32_t n)
{
    return n / WORD + (n % WORD != 0);
}

enum sc_status sc_pages_open(struct sc_pages *pages, uint32_t n_pages, struct sc_err *err)
{
    *pages = (struct sc_pages){.n_pages = n_pages};
    pages->free_bits = calloc(words(n_pages), sizeof(*pages->free_bits));
    pages->free_sums = calloc(words(words(n_pages)), sizeof(*pages->free_sums));
    pages->seq_refs = calloc(n_pages, sizeof(*pages->seq_refs));
    pages->snap_refs = calloc(n_pages, sizeof(*pages->snap_refs));
    pages->marks = calloc(words(n_pages), sizeof(*pages->marks));
    if (pages->free_bits == NULL || pages->free_sums == NULL || pages->seq_refs == NULL ||
        pages->snap_refs == NULL || pages->marks == NULL) {
        sc_pages_close(pages);
        return sc_fail(err, SC_ENOMEM, "page list: out of memory for %u pages", n_pages);
    }
    sc_pages_reset(pages);
    return SC_OK;
}

void sc_pages_close(struct sc_pages *pages)
{
    free(pages->free_bits);
    free(pages->free_sums);
    free(pages->seq_refs);
    free(pages->snap_refs);
    free(pages->marks);
    *pages = (struct sc_pages){0};
}

static void give(struct sc_pages *pages, uint32_t page)
{
    const uint32_t word = page / WORD;
    const uint64_t bit = (uint64_t)1 << page % WORD;
    pages->marks[word] &= ~bit;
    pages->free_bits[word] |= bit;
    pages->free_sums[word / WORD] |= (uint64_t)1 << word % WORD;
    pages->n_free++;
}

void sc_pages_reset(struct sc_pages *pages)
{
    pages->n_free = pages->n_cached = pages->n_marked_cached = 0;
    for (uint32_t i = 0; i < pages->n_pages; i++) {
        give(pages, i);
        pages->seq_refs[i] = pages->snap_refs[i] = 0;
    }
}

static uint32_t lowest(uint64_t *word)
{
    const uint32_t bit = (uint32_t)__builtin_ctzll(*word);
    *word &= *word - 1;
    return bit;
}

static uint32_t take(struct sc_pages *pages)
{
    uint32_t sum = 0, word, page;

    SC_ASSERT(pages->n_free > 0);
    while (pages->free_sums[sum] == 0) {
        sum++;
        SC_ASSERT(sum < words(words(pages->n_pages)));
    }
    word = sum * WORD + (uint32_t)__builtin_ctzll(pages->free_sums[sum]);
    page = word * WORD + lowest(&pages->free_bits[word]);
    if (pages->free_bits[word] == 0)
        (void)lowest(&pages->free_sums[sum]);
    pages->n_free--;
    return page;
}

static void add_cached(struct sc_pages *pages, uint32_t page)
{
    pages->n_cached++;
    pages->n_marked_cached += sc_pages_is_marked(pages, page);
}

static void take_cached(struct sc_pages *pages, uint32_t page)
{
    pages->n_cached--;
    pages->n_marked_cached -= sc_pages_is_marked(pages, page);
}

static void check_held(const struct sc_pages *pages, uint32_t page)
{
    SC_ASSERT(page < pages->n_pages && pages->seq_refs[page] + pages->snap_refs[page] > 0);
}

uint32_t sc_pages_take(struct sc_pages *pages)
{
    uint32_t page = take(pages);
    pages->seq_refs[page] = 1;
    return page;
}

void sc_pages_ref(struct sc_pages *pages, uint32_t page)
{
    check_held(pages, page);
    if (pages->seq_refs[page]++ == 0)
        take_cached(pages, page);
}

void sc_pages_unref(struct sc_pages *pages, uint32_t page)
{
    SC_ASSERT(page < pages->n_pages && pages->seq_refs[page] > 0);
    if (--pages->seq_refs[page] > 0)
        return;
    if (pages->snap_refs[page] > 0)
        add_cached(pages, page);
    else
        give(pages, page);
}

uint32_t sc_pages_snap_take(struct sc_pages *pages)
{
    uint32_t page = take(pages);
    pages->snap_refs[page] = 1;
    add_cached(pages, page);
    return page;
}

void sc_pages_snap_ref(struct sc_pages *pages, uint32_t page)
{
    check_held(pages, page);
    if (pages->snap_refs[page]++ == 0 && pages->seq_refs[page] == 0)
        add_cached(pages, page);
}

void sc_pages_snap_unref(struct sc_pages *pages, uint32_t page)
{
    SC_ASSERT(page < pages->n_pages && pages->snap_refs[page] > 0);
    if (--pages->snap_refs[page] > 0 || pages->seq_refs[page] > 0)
        return;
    take_cached(pages, page);
    give(pages, page);
}

bool sc_pages_mark(struct sc_pages *pages, uint32_t page)
{
    if (sc_pages_is_marked(pages, page))
        return false;
    pages->marks[page / WORD] |= (uint64_t)1 << page % WORD;
    pages->n_marked_cached += pages->seq_refs[page] == 0 && pages->snap_refs[page] > 0;
    return true;
}

void sc_pages_unmark_all(struct sc_pages *pages)
{
    memset(pages->marks, 0, words(pages->n_pages) * sizeof(*pages->marks));
    pages->n_marked_cached = 0;
}
