#include "daemon/inspect.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/reply.h"
#include "proto/optional.h"

struct note {
    uint32_t pos0, layer, n_tokens, n_cores;
    uint32_t order; /* of telling */
    size_t labels;  /* offset */
};

struct sc_inspect {
    const struct sc_model *model;
    struct sc_recipe recipe;
    int32_t *prompt;
    uint32_t n_prompt;
    uint64_t wanted[SC_LAYERS_MAX / 64];
    struct note *notes;
    size_t n_notes, notes_cap;
    uint8_t *labels;
    size_t labels_len, labels_cap;
    bool no_memory;
    struct sc_lookup lookup;
};

static enum sc_status take_layers(struct sc_inspect *in, const Semanticache__V1__LayerList *layers,
                                  struct sc_err *err)
{
    uint32_t n_layers = in->model->config.n_layers;

    if (layers == NULL) {
        memset(in->wanted, 0xff, sizeof(in->wanted));
        return SC_OK;
    }
    for (size_t i = 0; i < layers->n_layers; i++) {
        uint32_t layer = layers->layers[i];
        if (layer >= n_layers)
            return sc_fail(err, SC_EINVAL, "layers: %u, limits 0..%u", layer, n_layers - 1);
        in->wanted[layer / 64] |= 1ull << (layer % 64);
    }
    return SC_OK;
}

enum sc_status sc_inspect_open(const struct sc_model *model, const struct sc_request_opts *opts,
                               const Semanticache__V1__LayerList *layers,
                               const struct sc_lookup *lookup, struct sc_inspect **ret_inspect,
                               struct sc_err *err)
{
    struct sc_inspect *in;
    enum sc_status st;

    if (opts->n_prompt > SC_INSPECT_TOKENS_MAX)
        return sc_fail(err, SC_EINVAL, "prompt: %u tokens to inspect, limit %u", opts->n_prompt,
                       SC_INSPECT_TOKENS_MAX);
    in = calloc(1, sizeof(*in));
    if (in == NULL)
        return sc_fail(err, SC_ENOMEM, "inspect: no memory");
    in->model = model;
    in->recipe = opts->recipe;
    in->lookup = *lookup;
    in->n_prompt = opts->n_prompt;
    in->prompt = malloc(opts->n_prompt * sizeof(*in->prompt));
    st = in->prompt != NULL ? take_layers(in, layers, err)
                            : sc_fail(err, SC_ENOMEM, "inspect: no memory");
    if (st != SC_OK) {
        sc_inspect_close(in);
        return st;
    }
    memcpy(in->prompt, opts->prompt, opts->n_prompt * sizeof(*in->prompt));
    *ret_inspect = in;
    return SC_OK;
}

void sc_inspect_close(struct sc_inspect *in)
{
    if (in == NULL)
        return;
    free(in->prompt);
    free(in->notes);
    free(in->labels);
    free(in);
}

static bool grow(void **mem, size_t *cap, size_t need, size_t item_bytes)
{
    size_t next = *cap > 0 ? *cap : 256;
    void *bigger;

    while (next < need)
        next *= 2;
    if (next == *cap)
        return true;
    bigger = realloc(*mem, next * item_bytes);
    if (bigger == NULL)
        return false;
    *mem = bigger;
    *cap = next;
    return true;
}

void sc_inspect_note(struct sc_inspect *in, const struct sc_chunk_event *e)
{
    if (((in->wanted[e->layer / 64] >> (e->layer % 64)) & 1) == 0)
        return;
    if (!grow((void **)&in->notes, &in->notes_cap, in->n_notes + 1, sizeof(*in->notes)) ||
        !grow((void **)&in->labels, &in->labels_cap, in->labels_len + e->n_tokens, 1)) {
        in->no_memory = true;
        return;
    }
    in->notes[in->n_notes] = (struct note){.pos0 = e->pos0,
                                           .layer = e->layer,
                                           .n_tokens = e->n_tokens,
                                           .n_cores = e->n_cores,
                                           .order = (uint32_t)in->n_notes,
                                           .labels = in->labels_len};
    in->n_notes++;
    memcpy(in->labels + in->labels_len, e->labels, e->n_tokens);
    in->labels_len += e->n_tokens;
}

static int by_place(const void *a, const void *b)
{
    const struct note *x = a, *y = b;

    if (x->pos0 != y->pos0)
        return x->pos0 < y->pos0 ? -1 : 1;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

/* Sorts, and keeps the last telling of each (chunk, layer). */
static void settle(struct sc_inspect *in)
{
    size_t n = 0;

    if (in->n_notes == 0)
        return;
    qsort(in->notes, in->n_notes, sizeof(*in->notes), by_place);
    for (size_t i = 0; i < in->n_notes; i++) {
        bool again = n > 0 && in->notes[n - 1].pos0 == in->notes[i].pos0 &&
                     in->notes[n - 1].layer == in->notes[i].layer;
        in->notes[again ? n - 1 : n] = in->notes[i];
        n += again ? 0 : 1;
    }
    in->n_notes = n;
}

static bool fill_tokens(const struct sc_inspect *in, struct sc_arena *arena,
                        Semanticache__V1__InspectCacheResponse *m)
{
    Semanticache__V1__InspectToken *tokens = sc_arena_take(arena, in->n_prompt * sizeof(*tokens));

    m->tokens = sc_arena_take(arena, in->n_prompt * sizeof(*m->tokens));
    if (tokens == NULL || m->tokens == NULL)
        return false;
    for (uint32_t i = 0; i < in->n_prompt; i++) {
        semanticache__v1__inspect_token__init(&tokens[i]);
        tokens[i].id = in->prompt[i];
        tokens[i].text = sc_reply_token_text(in->model->tok, in->prompt[i]);
        m->tokens[i] = &tokens[i];
    }
    m->n_tokens = in->n_prompt;
    return true;
}

/* The concatenated bytes of the tokens [pos0, pos0 + n). */
static bool fill_text(const struct sc_inspect *in, struct sc_arena *arena, uint32_t pos0,
                      uint32_t n, ProtobufCBinaryData *ret)
{
    size_t len = 0, at = 0;
    uint8_t *text;

    for (uint32_t i = pos0; i < pos0 + n && i < in->n_prompt; i++)
        len += sc_reply_token_text(in->model->tok, in->prompt[i]).len;
    text = sc_arena_take(arena, len);
    if (text == NULL)
        return false;
    for (uint32_t i = pos0; i < pos0 + n && i < in->n_prompt; i++) {
        ProtobufCBinaryData piece = sc_reply_token_text(in->model->tok, in->prompt[i]);
        if (piece.len > 0)
            memcpy(text + at, piece.data, piece.len);
        at += piece.len;
    }
    *ret = (ProtobufCBinaryData){.len = len, .data = text};
    return true;
}

/* notes[0..n) are one chunk's layers. */
static Semanticache__V1__InspectChunk *
make_chunk(const struct sc_inspect *in, struct sc_arena *arena, const struct note *notes, size_t n)
{
    Semanticache__V1__InspectChunk *chunk = sc_arena_take(arena, sizeof(*chunk));
    Semanticache__V1__InspectLayer *layers = sc_arena_take(arena, n * sizeof(*layers));

    if (chunk == NULL || layers == NULL)
        return NULL;
    semanticache__v1__inspect_chunk__init(chunk);
    chunk->pos0 = notes[0].pos0;
    chunk->n_tokens = notes[0].n_tokens;
    chunk->layers = sc_arena_take(arena, n * sizeof(*chunk->layers));
    if (chunk->layers == NULL ||
        !fill_text(in, arena, notes[0].pos0, notes[0].n_tokens, &chunk->text))
        return NULL;
    for (size_t i = 0; i < n; i++) {
        semanticache__v1__inspect_layer__init(&layers[i]);
        layers[i].layer = notes[i].layer;
        layers[i].n_cores = notes[i].n_cores;
        layers[i].labels = sc_reply_bytes(in->labels + notes[i].labels, notes[i].n_tokens);
        chunk->layers[i] = &layers[i];
    }
    chunk->n_layers = n;
    return chunk;
}

static bool fill_chunks(const struct sc_inspect *in, struct sc_arena *arena,
                        Semanticache__V1__InspectCacheResponse *m)
{
    m->chunks = sc_arena_take(arena, in->n_notes * sizeof(*m->chunks));
    if (m->chunks == NULL)
        return false;
    for (size_t i = 0; i < in->n_notes;) {
        size_t n = 1;
        while (i + n < in->n_notes && in->notes[i + n].pos0 == in->notes[i].pos0)
            n++;
        m->chunks[m->n_chunks] = make_chunk(in, arena, &in->notes[i], n);
        if (m->chunks[m->n_chunks] == NULL)
            return false;
        m->n_chunks++;
        i += n;
    }
    return true;
}

static bool fill_exact_layers(const struct sc_inspect *in, struct sc_arena *arena,
                              Semanticache__V1__InspectCacheResponse *m)
{
    uint32_t n_layers = in->model->config.n_layers;

    m->exact_layers = sc_arena_take(arena, n_layers * sizeof(*m->exact_layers));
    if (m->exact_layers == NULL)
        return false;
    for (uint32_t l = 0; l < n_layers; l++) {
        if (sc_recipe_layer_is_exact(&in->recipe, l))
            m->exact_layers[m->n_exact_layers++] = l;
    }
    return true;
}

_Static_assert((int)SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_NONE == SC_MISS_NONE + 1 &&
                   (int)SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_NEVER_READ ==
                       SC_MISS_NEVER_READ + 1,
               "reasons");

static bool fill_lookup(const struct sc_lookup *l, struct sc_arena *arena,
                        Semanticache__V1__InspectCacheResponse *m)
{
    Semanticache__V1__CacheLookup *to = sc_arena_take(arena, sizeof(*to));
    char *recipe = sc_arena_take(arena, 2 * SC_HASH_BYTES + 1);
    char *other = sc_arena_take(arena, 2 * SC_HASH_BYTES + 1);

    if (to == NULL || recipe == NULL || other == NULL)
        return false;
    semanticache__v1__cache_lookup__init(to);
    sc_hash_hex(&l->recipe_id, recipe);
    to->cached_tokens = l->cached_tokens;
    to->shared = l->shared;
    to->miss = (Semanticache__V1__CacheMiss)((int)l->miss + 1);
    to->position = l->position;
    to->recipe_id = recipe;
    if (l->has_tokens) {
        SC_PB_SET(to, prompt_token, l->prompt_token);
        SC_PB_SET(to, held_token, l->held_token);
    }
    if (l->other_tokens > 0) {
        sc_hash_hex(&l->other_recipe_id, other);
        to->other_recipe_id = other;
        to->other_tokens = l->other_tokens;
    }
    m->lookup = to;
    return true;
}

Semanticache__V1__InspectCacheResponse *sc_inspect_reply(struct sc_inspect *in,
                                                         struct sc_arena *arena)
{
    Semanticache__V1__InspectCacheResponse *m = sc_arena_take(arena, sizeof(*m));

    if (m == NULL || in->no_memory)
        return NULL;
    semanticache__v1__inspect_cache_response__init(m);
    settle(in);
    m->n_layers = in->model->config.n_layers;
    m->n_sinks = in->recipe.n_sinks;
    if (!fill_tokens(in, arena, m) || !fill_chunks(in, arena, m) ||
        !fill_exact_layers(in, arena, m) || !fill_lookup(&in->lookup, arena, m))
        return NULL;
    return m;
}
