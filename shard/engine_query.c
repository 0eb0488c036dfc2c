/* What can be read of an engine between steps: pages, snapshots, statistics, entries. */
#include "shard/engine_internal.h"

#include <math.h>
#include <string.h>

uint32_t sc_engine_pages_needed(const struct sc_engine *e, uint32_t slot, uint32_t n_tokens,
                                bool kept)
{
    const struct sc_rank *r0 = &e->workers[0].rank;
    SC_ASSERT(slot < e->opts.max_seqs);
    return sc_seq_pages_needed(r0, &r0->seqs[slot], n_tokens, kept);
}

uint32_t sc_engine_pages_wanted(const struct sc_engine *e, uint32_t slot, uint32_t n_tokens)
{
    return sc_engine_pages_needed(e, slot, n_tokens, true);
}

uint32_t sc_engine_pages_to_open(const struct sc_engine *e, const struct sc_plan_open *open,
                                 uint32_t n_tokens)
{
    return sc_seq_pages_to_open(&e->workers[0].rank, open, n_tokens);
}

struct page_counts {
    const struct sc_pages *pages;
    uint32_t n_private, n_in_use;
};

static void count_page(void *ctx, uint32_t layer, bool core, uint32_t index, uint32_t page)
{
    struct page_counts *c = ctx;
    (void)layer;
    (void)core;
    (void)index;
    c->n_private += sc_pages_is_private(c->pages, page);
    c->n_in_use += c->pages->seq_refs[page] > 0;
}

void sc_engine_snap_info(const struct sc_engine *e, uint32_t snap, struct sc_snap_info *ret_info)
{
    const struct sc_rank *r0 = &e->workers[0].rank;
    struct page_counts counts = {.pages = &r0->pages};
    SC_ASSERT(snap < r0->snaps.n_snaps && r0->snaps.snaps[snap].used);
    const struct sc_snap *s = &r0->snaps.snaps[snap];
    sc_snap_each_page(r0, s, count_page, &counts);
    *ret_info = (struct sc_snap_info){.n_logical = s->n_logical,
                                      .min_logical = s->min_logical,
                                      .n_pages = s->n_pages,
                                      .n_private = counts.n_private,
                                      .n_in_use = counts.n_in_use};
}

struct once_count {
    struct sc_pages *pages;
    uint32_t n;
};

static void count_once(void *ctx, uint32_t layer, bool core, uint32_t index, uint32_t page)
{
    struct once_count *c = ctx;
    (void)layer;
    (void)core;
    (void)index;
    c->n += sc_pages_mark(c->pages, page);
}

uint32_t sc_engine_count_pages(struct sc_engine *e, uint32_t snap)
{
    struct sc_rank *r0 = &e->workers[0].rank;
    struct once_count count = {.pages = &r0->pages};
    SC_ASSERT(snap < r0->snaps.n_snaps && r0->snaps.snaps[snap].used);
    sc_snap_each_page(r0, &r0->snaps.snaps[snap], count_once, &count);
    return count.n;
}

void sc_engine_count_anew(struct sc_engine *e)
{
    sc_pages_unmark_all(&e->workers[0].rank.pages);
}

uint32_t sc_engine_seq_private_pages(const struct sc_engine *e, uint32_t slot)
{
    const struct sc_rank *r0 = &e->workers[0].rank;
    const struct sc_seq *seq = &r0->seqs[slot];
    uint32_t n = 0;
    if (r0->pages.n_cached == 0 && r0->snaps.n_snaps == 0)
        return seq->stats.pages;
    for (uint32_t l = 0; l < r0->config->n_layers; l++) {
        const struct sc_seq_layer *layer = &seq->layers[l];
        for (uint32_t i = 0; i < sc_pages_for(layer->n_cores); i++)
            n += sc_pages_is_private(&r0->pages, layer->core_pages[i]);
        for (uint32_t i = layer->exact_lo / SC_PAGE_ENTRIES; i < sc_pages_for(seq->n_logical); i++)
            n += sc_pages_is_private(&r0->pages, layer->exact_pages[i]);
    }
    return n;
}

/* Tables take whole blocks. */
static uint64_t block_words(uint64_t words)
{
    return (words + SC_SNAP_BLOCK_WORDS - 1) / SC_SNAP_BLOCK_WORDS * SC_SNAP_BLOCK_WORDS;
}

uint64_t sc_engine_snap_words_free(const struct sc_engine *e)
{
    return (uint64_t)e->workers[0].rank.snaps.n_blocks_free * SC_SNAP_BLOCK_WORDS;
}

uint64_t sc_engine_snap_words_needed(const struct sc_engine *e, uint32_t slot)
{
    SC_ASSERT(slot < e->opts.max_seqs);
    return block_words(e->workers[0].rank.seqs[slot].stats.pages);
}

uint64_t sc_engine_shape_words(const struct sc_engine *e, const struct sc_snap_shape *shape)
{
    return block_words(sc_engine_shape_pages(e, shape));
}

uint32_t sc_engine_shape_pages(const struct sc_engine *e, const struct sc_snap_shape *shape)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < e->opts.model->config.n_layers; l++)
        n += sc_pages_for(shape->n_cores[l]) + sc_pages_for(shape->n_logical) -
             shape->exact_lo[l] / SC_PAGE_ENTRIES;
    return n;
}

void sc_engine_snap_shape(const struct sc_engine *e, uint32_t snap, struct sc_snap_shape *shape)
{
    const struct sc_snap *s = sc_engine_find_snap(e, snap);
    SC_ASSERT(s != NULL);
    shape->n_logical = s->n_logical;
    shape->prompt_len = s->prompt_len;
    shape->compressed_to = s->compressed_to;
    shape->epoch_done = s->epoch_done;
    for (uint32_t l = 0; l < e->opts.model->config.n_layers; l++) {
        shape->n_cores[l] = s->layers[l].n_cores;
        shape->exact_lo[l] = s->layers[l].exact_lo;
        shape->carry[l] = s->layers[l].carry;
    }
}

size_t sc_engine_move_bytes(const struct sc_engine *e, uint32_t n_entries)
{
    size_t row = sc_kv_row_bytes(e->opts.kv_dtype, e->opts.model->config.head_dim);
    return n_entries * (2 * row + sizeof(float));
}

uint32_t sc_engine_pages_estimate(const struct sc_engine *e, const struct sc_recipe *recipe,
                                  uint32_t n_tokens)
{
    const struct sc_model_config *c = &e->opts.model->config;
    uint64_t exact = (n_tokens + SC_PAGE_ENTRIES - 1ull) / SC_PAGE_ENTRIES;
    /* Cores and the exact window; at a cut also an epoch that is exact, its cores in the worst
     * case, and the run that follows. Should nothing merge it is as EXACT, but for what
     * sc_engine_pages_needed may ask for: pages that cores fill only partly, those that are there
     * and one that may come, and one chunk's cores. Where the whole prompt stays exact until its
     * end, plus the cores of all epochs, which are compressed before the next token is read, for
     * which there is a page. */
    uint64_t cores = (uint64_t)(n_tokens * (double)recipe->target_ratio * 1.1) + recipe->window +
                     3ull * recipe->epoch + 2 * SC_CHUNK_MAX;
    uint64_t compressed = (cores + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES + 8, pages = 0;

    uint32_t limit = sc_recipe_compressed_limit(recipe, 0, n_tokens);
    uint64_t unmerged = exact + (limit > 0 ? 2 : 0);
    if (recipe->exact_then_compress) {
        compressed = exact = (n_tokens + (uint64_t)SC_PAGE_ENTRIES) / SC_PAGE_ENTRIES;
        if (limit > 0)
            compressed += sc_seq_cores_until(recipe, 0, limit);
    } else if (compressed > unmerged) {
        compressed = unmerged;
        pages = limit > 0 ? sc_pages_for(SC_CHUNK_MAX) : 0;
    }
    for (uint32_t l = 0; l < c->n_layers; l++)
        pages += sc_recipe_layer_is_exact(recipe, l) ? exact : compressed;
    return pages < UINT32_MAX ? (uint32_t)pages : UINT32_MAX;
}

void sc_engine_seq_stats(const struct sc_engine *e, uint32_t slot, struct sc_seq_stats *ret_stats)
{
    SC_ASSERT(slot < e->opts.max_seqs);
    *ret_stats = e->workers[0].rank.seqs[slot].stats;
}

struct sc_rank *sc_engine_rank(struct sc_engine *e, uint32_t r)
{
    SC_ASSERT(r < e->opts.n_ranks);
    return &e->workers[r].rank;
}

uint64_t sc_engine_progress(const struct sc_engine *e, uint32_t rank)
{
    SC_ASSERT(rank < e->opts.n_ranks);
    return atomic_load_explicit(&e->workers[rank].progress, memory_order_relaxed);
}

uint32_t sc_engine_layer_cores(const struct sc_engine *e, uint32_t slot, uint32_t layer)
{
    return e->workers[0].rank.seqs[slot].layers[layer].n_cores;
}

uint32_t sc_engine_layer_entries(const struct sc_engine *e, uint32_t slot, uint32_t layer)
{
    const struct sc_seq *seq = &e->workers[0].rank.seqs[slot];
    return seq->layers[layer].n_cores + seq->n_logical - seq->layers[layer].exact_lo;
}

enum sc_status sc_engine_read_entry(struct sc_engine *e, uint32_t slot, uint32_t layer,
                                    uint32_t entry, uint32_t head, float *k, float *v, float *bias,
                                    struct sc_err *err)
{
    struct sc_rank *rank = NULL;

    if (slot >= e->opts.max_seqs || layer >= e->opts.model->config.n_layers ||
        head >= e->opts.model->config.n_kv_heads || !e->workers[0].rank.seqs[slot].open ||
        entry >= sc_engine_layer_entries(e, slot, layer))
        return sc_fail(err, SC_EINVAL, "entry %u of slot %u, layer %u, head %u does not exist",
                       entry, slot, layer, head);
    for (uint32_t r = 0; r < e->opts.n_ranks && rank == NULL; r++) {
        const struct sc_slice *s = &e->workers[r].rank.slice;
        if (head >= s->kv_head0 && head < s->kv_head0 + s->n_kv_heads)
            rank = &e->workers[r].rank;
    }
    SC_ASSERT(rank != NULL);
    const struct sc_seq_layer *l = &rank->seqs[slot].layers[layer];
    bool core = entry < l->n_cores;
    uint32_t at = core ? entry : l->exact_lo + entry - l->n_cores;
    const uint32_t *table = core ? l->core_pages : l->exact_pages;
    return rank->be->ops->kv_read(rank->be, rank->pool, table[at / SC_PAGE_ENTRIES],
                                  at % SC_PAGE_ENTRIES, head - rank->slice.kv_head0, k, v, bias,
                                  err);
}
