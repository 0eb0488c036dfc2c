#include "client/inspect.h"

#include "client/json_out.h"
#include "client/term.h"
#include "proto/optional.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CLUSTERS_MAX 256 /* labels are bytes */

/* The page, with marks where title and reply go: inspect_page.html, embedded by the build. */
extern const unsigned char sc_inspect_page[];
extern const size_t sc_inspect_page_bytes;
#define TITLE_MARK "@TITLE@"
#define DATA_MARK  "@DATA@"

static const Semanticache__V1__InspectLayer *find_layer(const Semanticache__V1__InspectChunk *chunk,
                                                        uint32_t layer)
{
    for (size_t i = 0; i < chunk->n_layers; i++)
        if (chunk->layers[i]->layer == layer)
            return chunk->layers[i];
    return NULL;
}

enum sc_status sc_inspect_check(const Semanticache__V1__InspectCacheResponse *reply,
                                struct sc_err *err)
{
    uint64_t at = 0;
    for (size_t c = 0; c < reply->n_chunks; c++) {
        const Semanticache__V1__InspectChunk *chunk = reply->chunks[c];
        if (chunk->pos0 < at || (uint64_t)chunk->pos0 + chunk->n_tokens > reply->n_tokens)
            return sc_fail(err, SC_EFORMAT, "chunk %zu: tokens %u + %u do not fit %zu tokens", c,
                           chunk->pos0, chunk->n_tokens, reply->n_tokens);
        at = (uint64_t)chunk->pos0 + chunk->n_tokens;
        for (size_t l = 0; l < chunk->n_layers; l++)
            if (chunk->layers[l]->labels.len != chunk->n_tokens)
                return sc_fail(err, SC_EFORMAT, "chunk %zu, layer %u: %zu labels for %u tokens", c,
                               chunk->layers[l]->layer, chunk->layers[l]->labels.len,
                               chunk->n_tokens);
    }
    return SC_OK;
}

uint32_t sc_inspect_first_layer(const Semanticache__V1__InspectCacheResponse *reply)
{
    uint32_t first = UINT32_MAX;
    for (size_t c = 0; c < reply->n_chunks; c++) {
        for (size_t l = 0; l < reply->chunks[c]->n_layers; l++) {
            uint32_t layer = reply->chunks[c]->layers[l]->layer;
            first = layer < first ? layer : first;
        }
    }
    return first == UINT32_MAX ? 0 : first;
}

struct painter {
    FILE *out;
    bool colors;
    struct sc_text_out text;
};

/* Six by six by six cube without its darkest corner; neighbours differ, the order does not matter.
 */
static int cluster_color(unsigned cluster)
{
    static const unsigned char palette[] = {24,  52, 22, 54, 94,  23, 88, 58,  60, 29,
                                            130, 17, 64, 90, 100, 31, 53, 136, 25, 65};
    return palette[cluster % sizeof(palette)];
}

/* Backgrounds end before a newline, or terminals paint the rest of the line. */
static enum sc_status paint(struct painter *p, const ProtobufCBinaryData *token, int color,
                            struct sc_err *err)
{
    enum sc_status st = SC_OK;
    const char *at = (const char *)token->data;
    size_t left = token->len;
    while (left > 0 && st == SC_OK) {
        const char *newline = memchr(at, '\n', left);
        size_t n = newline != NULL ? (size_t)(newline - at) : left;
        (void)fprintf(p->out, "\033[48;5;%d;97m", color);
        st = sc_text_out_write(&p->text, at, n, err);
        (void)fputs(sc_term_reset(true), p->out);
        if (newline != NULL && st == SC_OK)
            st = sc_text_out_write(&p->text, "\n", 1, err);
        n += newline != NULL;
        at += n;
        left -= n;
    }
    return st;
}

static enum sc_status print_tokens(struct painter *p,
                                   const Semanticache__V1__InspectCacheResponse *reply,
                                   uint32_t from, uint32_t n, const uint8_t *labels,
                                   struct sc_err *err)
{
    uint32_t members[CLUSTERS_MAX] = {0};
    enum sc_status st = SC_OK;
    for (uint32_t i = 0; labels != NULL && i < n; i++)
        members[labels[i]]++;
    for (uint32_t i = 0; i < n && st == SC_OK; i++) {
        const ProtobufCBinaryData *token = &reply->tokens[from + i]->text;
        const bool merged = labels != NULL && members[labels[i]] > 1;
        if (merged && p->colors) {
            st = paint(p, token, cluster_color(labels[i]), err);
            continue;
        }
        if (merged)
            (void)fprintf(p->out, "[%u:", labels[i]);
        st = sc_text_out_write(&p->text, (const char *)token->data, token->len, err);
        if (merged)
            (void)fputc(']', p->out);
    }
    return st;
}

static enum sc_status heading(struct painter *p, const char *text, struct sc_err *err)
{
    if (!p->text.at_line_start)
        (void)fputc('\n', p->out);
    p->text.at_line_start = true;
    if (fprintf(p->out, "%s%s%s\n", sc_term_dim(p->colors), text, sc_term_reset(p->colors)) < 0)
        return sc_fail(err, SC_EIO, "output: %s", strerror(errno));
    return SC_OK;
}

static enum sc_status print_exact(struct painter *p,
                                  const Semanticache__V1__InspectCacheResponse *reply,
                                  uint32_t from, uint32_t to, struct sc_err *err)
{
    char text[96];
    if (from >= to)
        return SC_OK;
    (void)snprintf(text, sizeof(text), "-- tokens %u..%u: exact", from, to - 1);
    enum sc_status st = heading(p, text, err);
    return st == SC_OK ? print_tokens(p, reply, from, to - from, NULL, err) : st;
}

static enum sc_status print_chunk(struct painter *p,
                                  const Semanticache__V1__InspectCacheResponse *reply,
                                  const Semanticache__V1__InspectChunk *chunk,
                                  const Semanticache__V1__InspectLayer *layer, struct sc_err *err)
{
    char text[96];
    (void)snprintf(text, sizeof(text), "-- tokens %u..%u: chunk of %u -> %u cores", chunk->pos0,
                   chunk->pos0 + chunk->n_tokens - 1, chunk->n_tokens, layer->n_cores);
    enum sc_status st = heading(p, text, err);
    return st == SC_OK
               ? print_tokens(p, reply, chunk->pos0, chunk->n_tokens, layer->labels.data, err)
               : st;
}

static void print_token(FILE *out, int32_t id, const Semanticache__V1__InspectCacheResponse *reply)
{
    for (size_t i = 0; i < reply->n_tokens; i++) {
        const ProtobufCBinaryData *text = &reply->tokens[i]->text;
        bool plain = reply->tokens[i]->id == id && text->len > 0;
        for (size_t k = 0; k < text->len && plain; k++)
            plain = text->data[k] >= 0x20 && text->data[k] < 0x7f;
        if (plain) {
            (void)fprintf(out, "%d \"%.*s\"", id, (int)text->len, (const char *)text->data);
            return;
        }
    }
    (void)fprintf(out, "%d", id);
}

static void print_difference(FILE *out, const Semanticache__V1__CacheLookup *l,
                             const Semanticache__V1__InspectCacheResponse *reply)
{
    (void)fprintf(out, "what is held goes on otherwise at token %u", l->position);
    if (SC_PB_HAS(l, prompt_token) && SC_PB_HAS(l, held_token)) {
        (void)fprintf(out, ": ");
        print_token(out, l->held_token, reply);
        (void)fprintf(out, ", here ");
        print_token(out, l->prompt_token, reply);
    }
}

/* One line. */
static void print_lookup(FILE *out, bool colors,
                         const Semanticache__V1__InspectCacheResponse *reply)
{
    const Semanticache__V1__CacheLookup *l = reply->lookup;
    if (l == NULL) /* an older server */
        return;
    (void)fprintf(out, "%scached:%s %u of %zu tokens%s; ", sc_term_bold(colors),
                  sc_term_reset(colors), l->cached_tokens, reply->n_tokens,
                  l->shared ? " (shared namespace)" : "");
    switch (l->miss) {
    case SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_NONE:
        (void)fprintf(out, "the last one is always read");
        break;
    case SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_SHARING_OFF:
        (void)fprintf(out, "the server shares no prefixes");
        break;
    case SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_SHORT:
        (void)fprintf(out, "too short to be looked up");
        break;
    case SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_EVICTED:
        (void)fprintf(out, "more was held, and evicted");
        break;
    case SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_OTHER_RECIPE:
        (void)fprintf(out, "recipe %.12s has %u, this is recipe %.12s", l->other_recipe_id,
                      l->other_tokens, l->recipe_id);
        break;
    case SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_OTHER_LENGTH:
        (void)fprintf(out,
                      "a prompt of another length has %u, and this recipe's entries depend on it",
                      l->other_tokens);
        break;
    case SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_OTHER_TOKENS:
        print_difference(out, l, reply);
        break;
    case SEMANTICACHE__V1__CACHE_MISS__CACHE_MISS_NEVER_READ:
        (void)fprintf(out, "nobody is known to have read on from token %u", l->position);
        break;
    default:
        (void)fprintf(out, "the rest for a reason that this semcache does not know");
    }
    (void)fputc('\n', out);
}

enum sc_status sc_inspect_print(FILE *out, bool terminal, bool colors,
                                const Semanticache__V1__InspectCacheResponse *reply, uint32_t layer,
                                struct sc_err *err)
{
    struct painter p = {.out = out, .colors = colors};
    uint32_t at = 0, n_chunks = 0;
    uint64_t n_tokens = 0, n_cores = 0;
    enum sc_status st = SC_OK;
    sc_text_out_init(&p.text, out, terminal);
    for (size_t c = 0; c < reply->n_chunks && st == SC_OK; c++) {
        const Semanticache__V1__InspectChunk *chunk = reply->chunks[c];
        const Semanticache__V1__InspectLayer *found = find_layer(chunk, layer);
        if (found == NULL || chunk->n_tokens == 0)
            continue;
        st = print_exact(&p, reply, at, chunk->pos0, err);
        if (st == SC_OK)
            st = print_chunk(&p, reply, chunk, found, err);
        at = chunk->pos0 + chunk->n_tokens;
        n_chunks++;
        n_tokens += chunk->n_tokens;
        n_cores += found->n_cores;
    }
    if (st == SC_OK)
        st = print_exact(&p, reply, at, (uint32_t)reply->n_tokens, err);
    if (st == SC_OK)
        st = sc_text_out_finish(&p.text, err);
    if (st != SC_OK)
        return st;
    if (!p.text.at_line_start)
        (void)fputc('\n', out);
    (void)fprintf(out, "%slayer %u of %u:%s ", sc_term_bold(colors), layer, reply->n_layers,
                  sc_term_reset(colors));
    if (n_tokens == 0)
        (void)fprintf(out, "all %zu tokens are exact\n", reply->n_tokens);
    else
        (void)fprintf(out,
                      "%llu tokens in %u chunks became %llu cores (%.3f a token); %llu of %zu "
                      "tokens are exact\n",
                      (unsigned long long)n_tokens, n_chunks, (unsigned long long)n_cores,
                      (double)n_cores / (double)n_tokens,
                      (unsigned long long)(reply->n_tokens - n_tokens), reply->n_tokens);
    if (reply->receipt != NULL)
        (void)fprintf(out, "all layers: %llu of %llu entries (ratio %.3f)\n",
                      (unsigned long long)reply->receipt->physical_entries,
                      (unsigned long long)reply->receipt->exact_entries, reply->receipt->ratio);
    print_lookup(out, colors, reply);
    if (fflush(out) != 0)
        return sc_fail(err, SC_EIO, "output: %s", strerror(errno));
    return SC_OK;
}

static void write_escaped(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '&':
            (void)fputs("&amp;", out);
            break;
        case '<':
            (void)fputs("&lt;", out);
            break;
        case '>':
            (void)fputs("&gt;", out);
            break;
        case '"':
            (void)fputs("&quot;", out);
            break;
        default:
            (void)fputc(*text, out);
        }
    }
}

/* Slashes are escaped, so that no text can end the script element it lies in; "<!--" and "<script"
 * would change how its end is found, so < is an escape too. */
static void write_data(FILE *out, const char *json)
{
    for (; *json != '\0'; json++) {
        if (*json == '<')
            (void)fputs("\\u003c", out);
        else
            (void)fputc(*json, out);
    }
}

static bool starts_with(const char *at, const char *end, const char *mark)
{
    return (size_t)(end - at) >= strlen(mark) && memcmp(at, mark, strlen(mark)) == 0;
}

enum sc_status sc_inspect_write_html(FILE *out, const char *title,
                                     const Semanticache__V1__InspectCacheResponse *reply,
                                     struct sc_err *err)
{
    const char *at = (const char *)sc_inspect_page;
    const char *end = at + sc_inspect_page_bytes;
    json_t *json = sc_json_message(&reply->base);
    char *data = NULL;
    if (json != NULL)
        data = json_dumps(json, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_ESCAPE_SLASH);
    json_decref(json);
    if (data == NULL)
        return sc_fail(err, SC_ENOMEM, "page: no memory");
    while (at < end) {
        if (starts_with(at, end, TITLE_MARK)) {
            write_escaped(out, title);
            at += strlen(TITLE_MARK);
        } else if (starts_with(at, end, DATA_MARK)) {
            write_data(out, data);
            at += strlen(DATA_MARK);
        } else {
            (void)fputc(*at++, out);
        }
    }
    free(data);
    if (fflush(out) != 0 || ferror(out))
        return sc_fail(err, SC_EIO, "page: %s", strerror(errno));
    return SC_OK;
}
