#include "shard/rank.h"

#include <string.h>

/* Partly filled pages at both ends of what an epoch compresses. */
#define EPOCH_SLACK_PAGES 6u

static uint32_t pages_for(uint32_t entries)
{
    return (entries + SC_PAGE_ENTRIES - 1) / SC_PAGE_ENTRIES;
}

enum sc_status sc_seq_open(struct sc_rank *rank, const struct sc_plan_open *open,
                           struct sc_err *err)
{
    struct sc_seq *seq = &rank->seqs[open->slot];
    uint32_t n_layers = rank->config->n_layers;

    seq->open = true;
    seq->tables = ++rank->n_tables;
    seq->recipe = *open->recipe;
    seq->prompt_len = open->prompt_len;
    seq->n_logical = seq->compressed_to = seq->epoch_done = 0;
    seq->on_chunk = open->on_chunk;
    seq->on_chunk_ctx = open->on_chunk_ctx;
    seq->stats = (struct sc_seq_stats){0};
    for (uint32_t l = 0; l < n_layers; l++) {
        seq->layers[l].n_cores = seq->layers[l].exact_lo = 0;
        seq->layers[l].carry = sc_seq_first_carry(&seq->recipe);
        if (seq->recipe.mode == SC_KV_COMPRESSED) {
            for (int g = 0; g < 2; g++)
                seq->layers[l].share[g] =
                    (double)sc_calibration_ratio(&rank->calibration, &seq->recipe, l, g == 1);
            seq->tau[l] = sc_calibration_tau_fixed(&rank->calibration, &seq->recipe, l, false);
            seq->tau[n_layers + l] =
                sc_calibration_tau_fixed(&rank->calibration, &seq->recipe, l, true);
            for (uint32_t g = 0; g < 2; g++)
                seq->alone_above[g * n_layers + l] =
                    sc_calibration_alone_fixed(&rank->calibration, &seq->recipe, l, g == 1);
        }
    }
    if (open->n_from == 0)
        return SC_OK;
    memcpy(seq->tokens, open->from_tokens, open->n_from * sizeof(*seq->tokens));
    return sc_snap_begin(rank, seq, &rank->snaps.snaps[open->from], open->n_from, err);
}

void sc_seq_forget(struct sc_rank *rank, struct sc_seq *seq)
{
    seq->open = false;
    seq->n_logical = seq->compressed_to = seq->epoch_done = 0;
    seq->stats.pages = 0;
    for (uint32_t l = 0; l < rank->config->n_layers; l++)
        seq->layers[l].n_cores = seq->layers[l].exact_lo = 0;
}

void sc_seq_close(struct sc_rank *rank, uint32_t slot)
{
    struct sc_seq *seq = &rank->seqs[slot];

    for (uint32_t l = 0; l < rank->config->n_layers; l++) {
        struct sc_seq_layer *layer = &seq->layers[l];
        for (uint32_t i = 0; i < pages_for(layer->n_cores); i++)
            sc_pages_unref(&rank->pages, layer->core_pages[i]);
        for (uint32_t i = layer->exact_lo / SC_PAGE_ENTRIES; i < pages_for(seq->n_logical); i++)
            sc_pages_unref(&rank->pages, layer->exact_pages[i]);
    }
    sc_seq_forget(rank, seq);
}

void sc_seq_extend(struct sc_rank *rank, struct sc_seq *seq, const int32_t *tokens,
                   uint32_t n_tokens)
{
    uint32_t first = pages_for(seq->n_logical), end = pages_for(seq->n_logical + n_tokens);

    memcpy(seq->tokens + seq->n_logical, tokens, n_tokens * sizeof(*tokens));
    for (uint32_t l = 0; l < rank->config->n_layers; l++)
        for (uint32_t i = first; i < end; i++)
            seq->layers[l].exact_pages[i] = sc_pages_take(&rank->pages);
    seq->n_logical += n_tokens;
    seq->stats.pages += (end - first) * rank->config->n_layers;
}

/* A page is given back when the last entry in it is no longer exact; a page that the sequence is
 * still writing to is kept whatever happens. */
void sc_seq_trim_layer(struct sc_rank *rank, struct sc_seq *seq, uint32_t l, uint32_t new_lo)
{
    struct sc_seq_layer *layer = &seq->layers[l];
    uint32_t from = layer->exact_lo / SC_PAGE_ENTRIES, to = new_lo / SC_PAGE_ENTRIES;
    if (new_lo <= layer->exact_lo)
        return;
    for (uint32_t i = from; i < to; i++)
        sc_pages_unref(&rank->pages, layer->exact_pages[i]);
    seq->stats.pages -= to - from;
    layer->exact_lo = new_lo;
}

void sc_seq_trim(struct sc_rank *rank, struct sc_seq *seq)
{
    for (uint32_t l = 0; l < rank->config->n_layers; l++) {
        uint32_t window = rank->config->sliding_window[l];
        if (window > 0) {
            /* The next query is at n_logical and sees positions > n_logical - window. */
            uint32_t lo = seq->n_logical >= window ? seq->n_logical - window + 1 : 0;
            sc_seq_trim_layer(rank, seq, l, lo);
        } else if (!sc_recipe_layer_is_exact(&seq->recipe, l)) {
            sc_seq_trim_layer(rank, seq, l, seq->compressed_to);
        }
    }
}

void sc_seq_count(struct sc_rank *rank, struct sc_seq *seq)
{
    struct sc_seq_stats *s = &seq->stats;

    s->logical_tokens = seq->n_logical;
    s->exact_entries = (uint64_t)seq->n_logical * rank->config->n_layers;
    s->physical_entries = s->cores = s->compressed_tokens = 0;
    for (uint32_t l = 0; l < rank->config->n_layers; l++) {
        const struct sc_seq_layer *layer = &seq->layers[l];
        s->physical_entries += layer->n_cores + seq->n_logical - layer->exact_lo;
        s->cores += layer->n_cores;
        if (!sc_recipe_layer_is_exact(&seq->recipe, l))
            s->compressed_tokens += seq->compressed_to;
    }
    if (s->physical_entries > s->peak_entries)
        s->peak_entries = s->physical_entries;
}

/* In the worst case every token of the epochs (and of a chunk begun before them) stays alone. */
uint32_t sc_seq_cores_until(const struct sc_recipe *recipe, uint32_t epoch_done, uint32_t limit)
{
    uint32_t n_epochs = (limit - epoch_done + recipe->epoch - 1) / recipe->epoch;
    return pages_for(n_epochs * recipe->epoch + SC_CHUNK_MAX) + n_epochs * EPOCH_SLACK_PAGES;
}

/* Exact pages below limit that compression does not give back. */
static uint32_t pages_kept(const struct sc_rank *rank, const struct sc_seq_layer *layer,
                           uint32_t limit, bool kept)
{
    uint32_t n = 0;
    for (uint32_t i = layer->exact_lo / SC_PAGE_ENTRIES; i < limit / SC_PAGE_ENTRIES; i++)
        n += kept || !sc_pages_is_private(&rank->pages, layer->exact_pages[i]);
    return n;
}

/* Where pages are few, those of a chunk's exact entries in one layer come back before the next
 * cores are written (compress.c). So beside one chunk's cores a layer takes no more than what does
 * not come back, and a page that cores fill only partly. */
static uint32_t pages_to_compress(const struct sc_rank *rank, const struct sc_seq *seq,
                                  uint32_t limit, bool kept)
{
    uint32_t all = sc_seq_cores_until(&seq->recipe, seq->epoch_done, limit);
    uint32_t most = 0, need = pages_for(SC_CHUNK_MAX);

    for (uint32_t l = 0; l < rank->config->n_layers; l++)
        if (!sc_recipe_layer_is_exact(&seq->recipe, l)) {
            most += all;
            need += pages_kept(rank, &seq->layers[l], limit, kept) + 1;
        }
    return need < most ? need : most;
}

static uint32_t pages_to_extend(const struct sc_rank *rank, uint32_t n_logical, uint32_t n_tokens)
{
    return (pages_for(n_logical + n_tokens) - pages_for(n_logical)) * rank->config->n_layers;
}

uint32_t sc_seq_pages_needed(const struct sc_rank *rank, const struct sc_seq *seq,
                             uint32_t n_tokens, bool kept)
{
    uint32_t need = pages_to_extend(rank, seq->n_logical, n_tokens);
    uint32_t limit = sc_recipe_compressed_limit(&seq->recipe, seq->prompt_len, seq->n_logical);
    return limit > seq->epoch_done ? need + pages_to_compress(rank, seq, limit, kept) : need;
}

/* The snapshot that it begins from keeps its pages. */
uint32_t sc_seq_pages_to_open(const struct sc_rank *rank, const struct sc_plan_open *open,
                              uint32_t n_tokens)
{
    uint32_t need = pages_to_extend(rank, open->n_from, n_tokens);
    if (open->n_from == 0)
        return need;
    const struct sc_snap *snap = &rank->snaps.snaps[open->from];
    uint32_t limit = sc_recipe_compressed_limit(open->recipe, open->prompt_len, open->n_from);
    need += sc_snap_begin_pages(rank, snap, open->n_from);
    for (uint32_t l = 0; l < rank->config->n_layers && limit > snap->epoch_done; l++)
        if (!sc_recipe_layer_is_exact(open->recipe, l))
            need += sc_seq_cores_until(open->recipe, snap->epoch_done, limit);
    return need;
}
