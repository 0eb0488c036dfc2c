/* Snapshots: immutable states of sequences that share pages by reference. Every rank makes the same
 * ones in the same order, so no table travels. */
#include <stdlib.h>
#include <string.h>

#include "shard/rank.h"

/* Words of page tables per page of the pool: a page is held by several snapshots along one prompt.
 */
#define WORDS_PER_PAGE 8u

static uint32_t pages_for(uint32_t entries)
{
    return (entries + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
}

static uint32_t blocks_for(uint64_t words)
{
    return (uint32_t)((words + SC_SNAP_BLOCK_WORDS - 1) / SC_SNAP_BLOCK_WORDS);
}

enum sc_status sc_snaps_open(struct sc_rank *rank, struct sc_err *err)
{
    struct sc_snaps *s = &rank->snaps;
    const size_t n = rank->opts->max_snaps, n_layers = rank->config->n_layers;
    if (n == 0)
        return SC_OK;
    s->n_snaps = (uint32_t)n;
    s->n_blocks = blocks_for((uint64_t)rank->pages.n_pages * WORDS_PER_PAGE) + s->n_snaps;
    s->snaps = calloc(n, sizeof(*s->snaps));
    s->layers = calloc(n * n_layers, sizeof(*s->layers));
    s->blocks = calloc(s->n_blocks, sizeof(*s->blocks));
    /* Of the shapes that a file may tell: as many cores as tokens, and as many exact ones. */
    s->move_pages = calloc(2 * (size_t)pages_for(rank->max_context) + 2, sizeof(*s->move_pages));
    if (s->snaps == NULL || s->layers == NULL || s->blocks == NULL || s->move_pages == NULL)
        return sc_fail(err, SC_ENOMEM, "snapshots: out of memory for %zu of %zu layers", n,
                       n_layers);
    for (size_t i = 0; i < n; i++)
        s->snaps[i].layers = s->layers + i * n_layers;
    sc_snaps_reset(s);
    return SC_OK;
}

void sc_snaps_close(struct sc_snaps *s)
{
    free(s->snaps);
    free(s->layers);
    free(s->blocks);
    free(s->move_pages);
    *s = (struct sc_snaps){0};
}

void sc_snaps_reset(struct sc_snaps *s)
{
    for (uint32_t i = 0; i < s->n_snaps; i++)
        s->snaps[i].used = false;
    for (uint32_t i = 0; i < s->n_blocks; i++)
        s->blocks[i].next = i + 1 < s->n_blocks ? i + 1 : SC_SNAP_NO_BLOCK;
    s->free_block = s->n_blocks > 0 ? 0 : SC_SNAP_NO_BLOCK;
    s->n_blocks_free = s->n_blocks;
}

/* Appends words to a snapshot's list; the caller has checked that there are blocks. */
struct writer {
    struct sc_snaps *s;
    struct sc_snap *snap;
    uint32_t block, at;
};

static void put_word(struct writer *w, uint32_t word)
{
    if (w->block == SC_SNAP_NO_BLOCK || w->at == SC_SNAP_BLOCK_WORDS) {
        uint32_t fresh = w->s->free_block;
        SC_ASSERT(fresh != SC_SNAP_NO_BLOCK);
        w->s->free_block = w->s->blocks[fresh].next;
        w->s->n_blocks_free--;
        w->s->blocks[fresh].next = SC_SNAP_NO_BLOCK;
        if (w->block == SC_SNAP_NO_BLOCK)
            w->snap->head = fresh;
        else
            w->s->blocks[w->block].next = fresh;
        w->block = fresh;
        w->at = 0;
    }
    w->s->blocks[w->block].words[w->at++] = word;
    w->snap->n_pages++;
}

/* The shortest prefix that the state still serves. Below the last compressed epoch a query would
 * have to see entries that are gone; a sliding window has forgotten what an earlier query would
 * see. */
static uint32_t min_logical(const struct sc_rank *rank, const struct sc_snap *snap)
{
    uint32_t min = 1;
    if (snap->epoch_done > 0)
        min = snap->recipe.exact_then_compress ? snap->n_logical
                                               : snap->epoch_done + snap->recipe.window;
    for (uint32_t l = 0; l < rank->config->n_layers; l++)
        if (rank->config->sliding_window[l] > 0 && snap->layers[l].exact_lo > 0)
            min = snap->n_logical;
    return min;
}

void sc_snap_keep(struct sc_rank *rank, const struct sc_plan_keep *keep)
{
    const struct sc_seq *seq = &rank->seqs[keep->slot];
    struct sc_snap *snap = &rank->snaps.snaps[keep->snap];
    struct writer w = {.s = &rank->snaps, .snap = snap, .block = SC_SNAP_NO_BLOCK};

    snap->used = true;
    snap->recipe = seq->recipe;
    snap->n_logical = seq->n_logical;
    snap->prompt_len = seq->prompt_len;
    snap->compressed_to = seq->compressed_to;
    snap->epoch_done = seq->epoch_done;
    snap->head = SC_SNAP_NO_BLOCK;
    snap->n_pages = 0;
    for (uint32_t l = 0; l < rank->config->n_layers; l++) {
        const struct sc_seq_layer *layer = &seq->layers[l];
        snap->layers[l] = (struct sc_snap_layer){
            .n_cores = layer->n_cores, .exact_lo = layer->exact_lo, .carry = layer->carry};
        for (uint32_t i = 0; i < pages_for(layer->n_cores); i++) {
            sc_pages_snap_ref(&rank->pages, layer->core_pages[i]);
            put_word(&w, layer->core_pages[i]);
        }
        for (uint32_t i = layer->exact_lo / SC_PAGE_ENTRIES; i < pages_for(seq->n_logical); i++) {
            sc_pages_snap_ref(&rank->pages, layer->exact_pages[i]);
            put_word(&w, layer->exact_pages[i]);
        }
    }
    snap->min_logical = min_logical(rank, snap);
}

void sc_snap_make(struct sc_rank *rank, const struct sc_plan_make *make)
{
    const struct sc_snap_shape *shape = make->shape;
    struct sc_snap *snap = &rank->snaps.snaps[make->snap];
    struct writer w = {.s = &rank->snaps, .snap = snap, .block = SC_SNAP_NO_BLOCK};

    snap->used = true;
    snap->recipe = *make->recipe;
    snap->n_logical = shape->n_logical;
    snap->prompt_len = shape->prompt_len;
    snap->compressed_to = shape->compressed_to;
    snap->epoch_done = shape->epoch_done;
    snap->head = SC_SNAP_NO_BLOCK;
    snap->n_pages = 0;
    for (uint32_t l = 0; l < rank->config->n_layers; l++) {
        snap->layers[l] = (struct sc_snap_layer){
            .n_cores = shape->n_cores[l], .exact_lo = shape->exact_lo[l], .carry = shape->carry[l]};
        uint32_t n = pages_for(shape->n_cores[l]) + pages_for(shape->n_logical) -
                     shape->exact_lo[l] / SC_PAGE_ENTRIES;
        for (uint32_t i = 0; i < n; i++)
            put_word(&w, sc_pages_snap_take(&rank->pages));
    }
    snap->min_logical = min_logical(rank, snap);
}

void sc_snap_each_page(const struct sc_rank *rank, const struct sc_snap *snap, sc_snap_page_fn *fn,
                       void *ctx)
{
    const struct sc_snaps *s = &rank->snaps;
    uint32_t block = snap->head, at = 0;
    for (uint32_t l = 0; l < rank->config->n_layers; l++) {
        const struct sc_snap_layer *layer = &snap->layers[l];
        uint32_t n_core = pages_for(layer->n_cores), lo = layer->exact_lo / SC_PAGE_ENTRIES;
        uint32_t n = n_core + pages_for(snap->n_logical) - lo;
        for (uint32_t i = 0; i < n; i++) {
            if (at == SC_SNAP_BLOCK_WORDS) {
                block = s->blocks[block].next;
                at = 0;
            }
            bool core = i < n_core;
            fn(ctx, l, core, core ? i : lo + i - n_core, s->blocks[block].words[at++]);
        }
    }
}

static void unref_page(void *ctx, uint32_t layer, bool core, uint32_t index, uint32_t page)
{
    (void)layer;
    (void)core;
    (void)index;
    sc_pages_snap_unref(ctx, page);
}

void sc_snap_drop(struct sc_rank *rank, uint32_t index)
{
    struct sc_snaps *s = &rank->snaps;
    struct sc_snap *snap = &s->snaps[index];
    sc_snap_each_page(rank, snap, unref_page, &rank->pages);
    for (uint32_t b = snap->head; b != SC_SNAP_NO_BLOCK;) {
        uint32_t next = s->blocks[b].next;
        s->blocks[b].next = s->free_block;
        s->free_block = b;
        s->n_blocks_free++;
        b = next;
    }
    snap->used = false;
    snap->head = SC_SNAP_NO_BLOCK;
    snap->n_pages = 0;
}

/* ---- a sequence that begins from one ---- */

struct begin {
    struct sc_rank *rank;
    struct sc_seq *seq;
    uint32_t n;
    enum sc_status st;
    struct sc_err *err;
};

/* Entries behind the prefix are somebody else's to write: the last page is copied unless it is
 * full.
 */
static void begin_page(void *ctx, uint32_t l, bool core, uint32_t index, uint32_t page)
{
    struct begin *b = ctx;
    struct sc_rank *rank = b->rank;
    struct sc_seq_layer *layer = &b->seq->layers[l];
    uint32_t n = core ? layer->n_cores : b->n;

    if (b->st != SC_OK || index >= pages_for(n))
        return;
    b->seq->stats.pages++;
    uint32_t *entry = core ? &layer->core_pages[index] : &layer->exact_pages[index];
    if ((index + 1) * SC_PAGE_ENTRIES <= n) {
        sc_pages_ref(&rank->pages, page);
        *entry = page;
        return;
    }
    *entry = sc_pages_take(&rank->pages);
    b->st = rank->be->ops->kv_copy(rank->be, rank->pool, *entry, page, b->err);
}

enum sc_status sc_snap_begin(struct sc_rank *rank, struct sc_seq *seq, const struct sc_snap *snap,
                             uint32_t n, struct sc_err *err)
{
    struct begin b = {.rank = rank, .seq = seq, .n = n, .st = SC_OK, .err = err};

    seq->n_logical = n;
    seq->compressed_to = snap->compressed_to;
    seq->epoch_done = snap->epoch_done;
    for (uint32_t l = 0; l < rank->config->n_layers; l++) {
        seq->layers[l].n_cores = snap->layers[l].n_cores;
        seq->layers[l].exact_lo = snap->layers[l].exact_lo;
        seq->layers[l].carry = snap->layers[l].carry;
    }
    sc_snap_each_page(rank, snap, begin_page, &b);
    sc_seq_count(rank, seq);
    return b.st;
}

uint32_t sc_snap_begin_pages(const struct sc_rank *rank, const struct sc_snap *snap, uint32_t n)
{
    uint32_t pages = 0;
    for (uint32_t l = 0; l < rank->config->n_layers; l++) {
        pages += snap->layers[l].n_cores % SC_PAGE_ENTRIES != 0;
        pages +=
            n % SC_PAGE_ENTRIES != 0 && pages_for(n) > snap->layers[l].exact_lo / SC_PAGE_ENTRIES;
    }
    return pages;
}

/* ---- to and from host memory ---- */

/* The pages of one layer, cores' before exact ones. */
struct pages_of_layer {
    uint32_t layer, n;
    uint32_t *pages; /* [move_pages] of sc_snaps */
};

static void list_page(void *ctx, uint32_t l, bool core, uint32_t index, uint32_t page)
{
    struct pages_of_layer *p = ctx;
    (void)core;
    (void)index;
    if (l == p->layer)
        p->pages[p->n++] = page;
}

enum sc_status sc_snap_move(struct sc_rank *rank, const struct sc_plan_move *move,
                            struct sc_err *err)
{
    const struct sc_slice *slice = &rank->slice;
    const struct sc_snap *snap = &rank->snaps.snaps[move->snap];
    const struct sc_snap_layer *layer = &snap->layers[move->layer];
    size_t n = (size_t)layer->n_cores + snap->n_logical - layer->exact_lo;

    /* A head that several ranks hold is written out by one of them, and read by all. */
    if (move->head < slice->kv_head0 || move->head >= slice->kv_head0 + slice->n_kv_heads ||
        (!move->in && !slice->owns_kv))
        return SC_OK;
    const struct sc_backend_ops *ops = rank->be->ops;
    struct pages_of_layer p = {.layer = move->layer, .pages = rank->snaps.move_pages};
    sc_snap_each_page(rank, snap, list_page, &p);
    const size_t row = sc_kv_row_bytes(rank->opts->kv_dtype, rank->config->head_dim);
    uint8_t *k = move->host, *v = k + n * row;
    float *bias = (float *)(void *)(v + n * row); /* rows are even: 4-byte aligned */
    const struct {
        const uint32_t *pages;
        uint32_t first, n;
    } parts[] = {{p.pages, 0, layer->n_cores},
                 {p.pages + pages_for(layer->n_cores), layer->exact_lo % SC_PAGE_ENTRIES,
                  snap->n_logical - layer->exact_lo}};
    const uint32_t head = move->head - slice->kv_head0;
    enum sc_status st = SC_OK;

    for (size_t i = 0; i < SC_ARRAY_LEN(parts) && st == SC_OK; i++) {
        if (parts[i].n == 0)
            continue;
        st = move->in ? ops->kv_unpack(rank->be, rank->pool, parts[i].pages, parts[i].first,
                                       parts[i].n, head, k, v, bias, err)
                      : ops->kv_pack(rank->be, rank->pool, parts[i].pages, parts[i].first,
                                     parts[i].n, head, k, v, bias, err);
        k += parts[i].n * row;
        v += parts[i].n * row;
        bias += parts[i].n;
    }
    return st;
}
