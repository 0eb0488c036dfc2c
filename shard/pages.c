#include "shard/pages.h"

#include <stdlib.h>

enum sc_status sc_pages_open(struct sc_pages *pages, uint32_t n_pages, struct sc_err *err)
{
    *pages = (struct sc_pages){.n_pages = n_pages};
    pages->free_ids = calloc(n_pages, sizeof(*pages->free_ids));
    pages->refs = calloc(n_pages, sizeof(*pages->refs));
    if (pages->free_ids == NULL || pages->refs == NULL) {
        sc_pages_close(pages);
        return sc_fail(err, SC_ENOMEM, "page list: out of memory for %u pages", n_pages);
    }
    sc_pages_reset(pages);
    return SC_OK;
}

void sc_pages_close(struct sc_pages *pages)
{
    free(pages->free_ids);
    free(pages->refs);
    *pages = (struct sc_pages){0};
}

void sc_pages_reset(struct sc_pages *pages)
{
    pages->n_free = pages->n_pages;
    for (uint32_t i = 0; i < pages->n_pages; i++) {
        pages->free_ids[i] = pages->n_pages - 1 - i;
        pages->refs[i] = 0;
    }
}

uint32_t sc_pages_take(struct sc_pages *pages)
{
    SC_ASSERT(pages->n_free > 0);
    uint32_t page = pages->free_ids[--pages->n_free];
    pages->refs[page] = 1;
    return page;
}

void sc_pages_ref(struct sc_pages *pages, uint32_t page)
{
    SC_ASSERT(page < pages->n_pages && pages->refs[page] > 0 && pages->refs[page] < UINT16_MAX);
    pages->refs[page]++;
}

void sc_pages_unref(struct sc_pages *pages, uint32_t page)
{
    SC_ASSERT(page < pages->n_pages && pages->refs[page] > 0);
    if (--pages->refs[page] == 0)
        pages->free_ids[pages->n_free++] = page;
}
