#include "shard/pages.h"

#include <stdlib.h>

enum sc_status sc_pages_open(struct sc_pages *pages, uint32_t n_pages, struct sc_err *err)
{
    *pages = (struct sc_pages){.n_pages = n_pages};
    pages->free_ids = calloc(n_pages, sizeof(*pages->free_ids));
    pages->seq_refs = calloc(n_pages, sizeof(*pages->seq_refs));
    pages->snap_refs = calloc(n_pages, sizeof(*pages->snap_refs));
    if (pages->free_ids == NULL || pages->seq_refs == NULL || pages->snap_refs == NULL) {
        sc_pages_close(pages);
        return sc_fail(err, SC_ENOMEM, "page list: out of memory for %u pages", n_pages);
    }
    sc_pages_reset(pages);
    return SC_OK;
}

void sc_pages_close(struct sc_pages *pages)
{
    free(pages->free_ids);
    free(pages->seq_refs);
    free(pages->snap_refs);
    *pages = (struct sc_pages){0};
}

void sc_pages_reset(struct sc_pages *pages)
{
    pages->n_free = pages->n_pages;
    pages->n_cached = 0;
    for (uint32_t i = 0; i < pages->n_pages; i++) {
        pages->free_ids[i] = pages->n_pages - 1 - i;
        pages->seq_refs[i] = pages->snap_refs[i] = 0;
    }
}

static uint32_t take(struct sc_pages *pages)
{
    SC_ASSERT(pages->n_free > 0);
    return pages->free_ids[--pages->n_free];
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
        pages->n_cached--;
}

void sc_pages_unref(struct sc_pages *pages, uint32_t page)
{
    SC_ASSERT(page < pages->n_pages && pages->seq_refs[page] > 0);
    if (--pages->seq_refs[page] > 0)
        return;
    if (pages->snap_refs[page] > 0)
        pages->n_cached++;
    else
        pages->free_ids[pages->n_free++] = page;
}

uint32_t sc_pages_snap_take(struct sc_pages *pages)
{
    uint32_t page = take(pages);
    pages->snap_refs[page] = 1;
    pages->n_cached++;
    return page;
}

void sc_pages_snap_ref(struct sc_pages *pages, uint32_t page)
{
    check_held(pages, page);
    if (pages->snap_refs[page]++ == 0 && pages->seq_refs[page] == 0)
        pages->n_cached++;
}

void sc_pages_snap_unref(struct sc_pages *pages, uint32_t page)
{
    SC_ASSERT(page < pages->n_pages && pages->snap_refs[page] > 0);
    if (--pages->snap_refs[page] > 0 || pages->seq_refs[page] > 0)
        return;
    pages->n_cached--;
    pages->free_ids[pages->n_free++] = page;
}
