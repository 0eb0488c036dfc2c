#include "daemon/convert_documents.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/document_put.h"

typedef Semanticache__V1__KvOptions Kv;

/* The caller's own, else the shared namespace's. */
static enum sc_status find(const struct sc_convert *c, const char *id,
                           struct sc_document **ret_document, struct sc_err *err)
{
    const char *ns = c->identity != NULL ? c->identity->ns : SC_NAMESPACE_DEFAULT;
    const char *shared = c->config->shared_namespace;

    if (c->documents == NULL)
        return sc_fail(err, SC_EUNAVAIL, "documents: not available");
    *ret_document = sc_documents_find(c->documents, ns, id);
    if (*ret_document == NULL && shared[0] != '\0')
        *ret_document = sc_documents_find(c->documents, shared, id);
    if (*ret_document == NULL)
        return sc_fail(err, SC_ENOENT, "documents: there is no document \"%.128s\"", id);
    return SC_OK;
}

static enum sc_status append(struct sc_ids *ids, const int32_t *more, size_t n, uint32_t limit,
                             struct sc_err *err)
{
    int32_t *bigger;

    if (n > limit - ids->n)
        return sc_fail(err, SC_ERANGE, "documents: %zu tokens and more, the context holds %u",
                       ids->n + n, limit);
    bigger = realloc(ids->ids, (ids->n + n + 1) * sizeof(*bigger));
    if (bigger == NULL)
        return sc_fail(err, SC_ENOMEM, "documents: no memory for %zu tokens", ids->n + n);
    ids->ids = bigger;
    if (n > 0)
        memcpy(ids->ids + ids->n, more, n * sizeof(*bigger));
    ids->n = ids->cap = ids->n + n;
    return SC_OK;
}

/* Tokens of its own, so that what comes before it is a prefix still, whatever comes behind. */
static enum sc_status append_separator(const struct sc_convert *c, struct sc_ids *ids,
                                       struct sc_err *err)
{
    static const char blank_line[] = "\n\n";
    const ProtobufCBinaryData text = {sizeof(blank_line) - 1, (uint8_t *)(uintptr_t)blank_line};

    return sc_convert_text(c, "documents", &text, false, false, ids, err);
}

enum sc_status sc_convert_documents(const struct sc_convert *c,
                                    const Semanticache__V1__DocumentPrompt *prompt,
                                    bool parse_special, struct sc_params *params,
                                    struct sc_err *err)
{
    enum sc_status st = SC_OK;

    if (prompt->n_document_ids == 0 || prompt->n_document_ids > SC_PROMPT_DOCUMENTS_MAX)
        return sc_fail(err, SC_EINVAL, "documents.document_ids: %zu, limits 1..%u",
                       prompt->n_document_ids, SC_PROMPT_DOCUMENTS_MAX);
    for (size_t i = 0; i < prompt->n_document_ids && st == SC_OK; i++) {
        struct sc_document *d = NULL;
        st = find(c, prompt->document_ids[i], &d, err);
        if (st != SC_OK)
            break;
        uint32_t skip = i > 0 ? d->n_prefix : 0;
        if (i == 0) {
            params->opts.document_tokens = d->n_tokens;
            params->opts.document_key = d->prefix_key;
        }
        if (i > 0)
            st = append_separator(c, &params->prompt, err);
        if (st == SC_OK)
            st = append(&params->prompt, d->tokens + skip, d->n_tokens - skip, c->max_context, err);
        atomic_store(&d->used_us, sc_unix_us());
        sc_document_unref(d);
    }
    if (st != SC_OK)
        return st;
    params->opts.breakpoint = (uint32_t)params->prompt.n;
    return sc_convert_text(c, "documents.question", &prompt->question, false, parse_special,
                           &params->prompt, err);
}

/* But for the mode. */
static enum sc_status equal_options(const Kv *a, const Kv *b, bool *ret_equal, struct sc_err *err)
{
    Kv bare[] = {*a, *b};
    size_t n[2];

    for (int i = 0; i < 2; i++) {
        bare[i].mode = SEMANTICACHE__V1__KV_MODE__KV_MODE_UNSPECIFIED;
        n[i] = protobuf_c_message_get_packed_size(&bare[i].base);
    }
    *ret_equal = n[0] == n[1];
    if (!*ret_equal || n[0] == 0)
        return SC_OK;
    uint8_t *bytes = malloc(n[0] + n[1]);
    if (bytes == NULL)
        return sc_fail(err, SC_ENOMEM, "kv: no memory for %zu bytes", n[0] + n[1]);
    (void)protobuf_c_message_pack(&bare[0].base, bytes);
    (void)protobuf_c_message_pack(&bare[1].base, bytes + n[0]);
    *ret_equal = memcmp(bytes, bytes + n[0], n[0]) == 0;
    free(bytes);
    return SC_OK;
}

/* The document's are taken; what the client says beside them must not be lost without a word. */
static enum sc_status check_given(const char *id, const Kv *given, const Kv *put,
                                  struct sc_err *err)
{
    static const Kv none = SEMANTICACHE__V1__KV_OPTIONS__INIT;
    bool equal = given == NULL;
    enum sc_status st = SC_OK;

    if (!equal)
        st = equal_options(given, &none, &equal, err);
    if (st == SC_OK && !equal && put != NULL)
        st = equal_options(given, put, &equal, err);
    if (st == SC_OK && !equal)
        st =
            sc_fail(err, SC_EINVAL,
                    "kv: options without a mode, and not those that \"%.128s\" was put with: say a "
                    "mode to ask with them",
                    id);
    return st;
}

enum sc_status sc_convert_document_kv(const struct sc_convert *c, const char *id, const Kv *given,
                                      struct sc_request_opts *opts, struct sc_err *err)
{
    struct sc_document *d = NULL;
    struct sc_unpacked kv = {0};
    enum sc_status st = find(c, id, &d, err);

    if (st == SC_OK)
        st = sc_document_options(d, &kv, err);
    if (st == SC_OK)
        st = check_given(id, given, (const Kv *)kv.message, err);
    if (st == SC_OK)
        st = sc_convert_kv(c, (const Kv *)kv.message, sc_convert_default_choice(c), opts, err);
    /* As it came out then: by the document's length, or by a default that has changed since. */
    if (st == SC_OK && d->receipt.mode == SC_KV_EXACT) {
        opts->kv = SC_KV_CHOICE_EXACT;
        sc_default_recipe(c, SC_KV_EXACT, &opts->recipe);
    } else if (st == SC_OK && opts->kv != SC_KV_CHOICE_COMPRESSED) {
        opts->kv = SC_KV_CHOICE_COMPRESSED;
        if (opts->recipe.mode == SC_KV_EXACT)
            sc_default_recipe(c, SC_KV_COMPRESSED, &opts->recipe);
    }
    sc_unpacked_fini(&kv);
    sc_document_unref(d);
    return st;
}
