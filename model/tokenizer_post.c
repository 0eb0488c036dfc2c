/* model/tokenizer_post.c - what goes before and after a text: the post-processor, BOS and EOS. */
#include <string.h>

#include "model/tokenizer_internal.h"

static enum sc_status load(struct sc_tok_post *p, const json_t *obj, uint32_t n_vocab,
                           unsigned depth, struct sc_err *err);

static enum sc_status check_id(const json_t *id, uint32_t n_vocab, int32_t *ret_id,
                               struct sc_err *err)
{
    json_int_t value = json_integer_value(id);
    if (!json_is_integer(id) || value < 0 || value >= (json_int_t)n_vocab)
        return sc_fail(err, SC_ERANGE, "post_processor: an id is not in 0..%u", n_vocab - 1);
    *ret_id = (int32_t)value;
    return SC_OK;
}

static enum sc_status put(int32_t *list, size_t *n, int32_t id, struct sc_err *err)
{
    if (*n == SC_TOK_TEMPLATE_IDS_MAX)
        return sc_fail(err, SC_ERANGE, "post_processor: over %d ids on one side",
                       SC_TOK_TEMPLATE_IDS_MAX);
    list[(*n)++] = id;
    return SC_OK;
}

/* The ids of one {"SpecialToken": {"id": name}} by the template's own table. */
static enum sc_status put_special(struct sc_tok_post *t, const json_t *special, const json_t *table,
                                  bool after, uint32_t n_vocab, struct sc_err *err)
{
    const char *name;
    size_t len;
    enum sc_status st =
        sc_tok_json_string(special, "post_processor.single[].SpecialToken", "id", &name, &len, err);
    if (st != SC_OK)
        return st;
    const json_t *ids = json_object_get(json_object_get(table, name), "ids");
    if (!json_is_array(ids))
        return sc_fail(err, SC_EFORMAT, "post_processor.special_tokens: \"%.40s\" has no ids",
                       name);
    for (size_t i = 0; st == SC_OK && i < json_array_size(ids); i++) {
        int32_t id = -1;
        st = check_id(json_array_get(ids, i), n_vocab, &id, err);
        if (st == SC_OK)
            st =
                after ? put(t->after, &t->n_after, id, err) : put(t->before, &t->n_before, id, err);
    }
    return st;
}

static enum sc_status load_template(struct sc_tok_post *t, const json_t *obj, uint32_t n_vocab,
                                    struct sc_err *err)
{
    const json_t *single = json_object_get(obj, "single");
    const json_t *table = json_object_get(obj, "special_tokens");
    unsigned n_texts = 0;
    if (!json_is_array(single))
        return sc_fail(err, SC_EFORMAT, "post_processor.single: not an array");
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *special = json_object_get(item, "SpecialToken");
        const json_t *sequence = json_object_get(item, "Sequence");
        const char *name = json_string_value(json_object_get(sequence, "id"));
        if (special) {
            enum sc_status st = put_special(t, special, table, n_texts > 0, n_vocab, err);
            if (st != SC_OK)
                return st;
        } else if (name && strcmp(name, "A") == 0) {
            n_texts++;
        } else {
            return sc_fail(err, SC_ENOTSUP, "post_processor.single[%zu]: not supported", i);
        }
    }
    if (n_texts != 1)
        return sc_fail(err, SC_ENOTSUP, "post_processor.single: has the text %u times, not once",
                       n_texts);
    return SC_OK;
}

/* Roberta and Bert: ["</s>", 2] for sep, ["<s>", 0] for cls. */
static enum sc_status load_cls_sep(struct sc_tok_post *t, const json_t *obj, uint32_t n_vocab,
                                   struct sc_err *err)
{
    int32_t id = -1;
    enum sc_status st = check_id(json_array_get(json_object_get(obj, "cls"), 1), n_vocab, &id, err);
    if (st == SC_OK)
        st = put(t->before, &t->n_before, id, err);
    if (st == SC_OK)
        st = check_id(json_array_get(json_object_get(obj, "sep"), 1), n_vocab, &id, err);
    if (st == SC_OK)
        st = put(t->after, &t->n_after, id, err);
    return st;
}

/* A later step of a sequence goes around what the earlier ones made. */
static enum sc_status wrap(struct sc_tok_post *p, const struct sc_tok_post *outer,
                           struct sc_err *err)
{
    struct sc_tok_post whole = *outer;
    enum sc_status st = SC_OK;
    for (size_t i = 0; st == SC_OK && i < p->n_before; i++)
        st = put(whole.before, &whole.n_before, p->before[i], err);
    whole.n_after = 0;
    for (size_t i = 0; st == SC_OK && i < p->n_after; i++)
        st = put(whole.after, &whole.n_after, p->after[i], err);
    for (size_t i = 0; st == SC_OK && i < outer->n_after; i++)
        st = put(whole.after, &whole.n_after, outer->after[i], err);
    if (st == SC_OK)
        *p = whole;
    return st;
}

static enum sc_status load(struct sc_tok_post *p, const json_t *obj, uint32_t n_vocab,
                           unsigned depth, struct sc_err *err)
{
    const char *type;
    size_t len;
    struct sc_tok_post step = {0};
    enum sc_status st = sc_tok_json_string(obj, "post_processor", "type", &type, &len, err);
    if (st != SC_OK)
        return st;
    if (depth > SC_TOK_NESTING_MAX)
        return sc_fail(err, SC_ERANGE, "post_processor: nested deeper than %d", SC_TOK_NESTING_MAX);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(obj, "processors");
        if (!json_is_array(list))
            return sc_fail(err, SC_EFORMAT, "post_processor.processors: not an array");
        for (size_t i = 0; st == SC_OK && i < json_array_size(list); i++)
            st = load(p, json_array_get(list, i), n_vocab, depth + 1, err);
        return st;
    }
    if (strcmp(type, "ByteLevel") == 0)
        return SC_OK; /* it moves offsets only */
    if (strcmp(type, "TemplateProcessing") == 0)
        st = load_template(&step, obj, n_vocab, err);
    else if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        st = load_cls_sep(&step, obj, n_vocab, err);
    else
        return sc_fail(err, SC_ENOTSUP, "post_processor: type %.40s is not supported", type);
    return st == SC_OK ? wrap(p, &step, err) : st;
}

enum sc_status sc_tok_post_load(struct sc_tok_post *p, const json_t *obj, uint32_t n_vocab,
                                struct sc_err *err)
{
    return !obj || json_is_null(obj) ? SC_OK : load(p, obj, n_vocab, 0, err);
}

/* bos_token and eos_token: a string or {"content": ...}. def: when the key is absent; may be NULL.
 * -1 where there is none. */
static int32_t config_token(const struct sc_tokenizer *tok, const json_t *config, const char *key,
                            const char *def)
{
    const json_t *value = json_object_get(config, key);
    const json_t *content = json_object_get(value, "content");
    if (content)
        value = content;
    if (json_is_string(value))
        return sc_tok_vocab_find(&tok->vocab, json_string_value(value), json_string_length(value));
    return value || !def ? -1 : sc_tok_vocab_find(&tok->vocab, def, strlen(def));
}

/* The classes that build their own post-processor from add_bos_token and add_eos_token. */
static enum sc_status rebuild_template(struct sc_tokenizer *tok, const json_t *config,
                                       const char *def_bos, const char *def_eos, struct sc_err *err)
{
    bool add_bos, add_eos;
    enum sc_status st =
        sc_tok_json_bool(config, "tokenizer_config", "add_bos_token", true, &add_bos, err);
    if (st == SC_OK)
        st = sc_tok_json_bool(config, "tokenizer_config", "add_eos_token", false, &add_eos, err);
    if (st != SC_OK)
        return st;
    int32_t bos = config_token(tok, config, "bos_token", def_bos);
    int32_t eos = config_token(tok, config, "eos_token", def_eos);
    if ((add_bos && bos < 0) || (add_eos && eos < 0))
        return sc_fail(err, SC_EFORMAT,
                       "tokenizer_config.json: %s is true, but there is no such token",
                       add_bos && bos < 0 ? "add_bos_token" : "add_eos_token");
    struct sc_tok_post *p = &tok->post;
    p->n_before = p->n_after = 0;
    if (add_bos)
        p->before[p->n_before++] = bos;
    if (add_eos)
        p->after[p->n_after++] = eos;
    return SC_OK;
}

enum sc_status sc_tok_config_load(struct sc_tokenizer *tok, const json_t *config,
                                  struct sc_err *err)
{
    const char *name = json_string_value(json_object_get(config, "tokenizer_class"));
    bool llama =
        name && (strcmp(name, "LlamaTokenizer") == 0 || strcmp(name, "LlamaTokenizerFast") == 0);
    bool gemma =
        name && (strcmp(name, "GemmaTokenizer") == 0 || strcmp(name, "GemmaTokenizerFast") == 0);
    const char *def_bos = llama ? "<s>" : gemma ? "<bos>" : NULL;
    const char *def_eos = llama ? "</s>" : gemma ? "<eos>" : NULL;
    if (llama || gemma) {
        enum sc_status st = rebuild_template(tok, config, def_bos, def_eos, err);
        if (st != SC_OK)
            return st;
    }
    tok->bos = config_token(tok, config, "bos_token", def_bos);
    tok->eos = config_token(tok, config, "eos_token", def_eos);
    if (tok->bos < 0 && tok->post.n_before > 0)
        tok->bos = tok->post.before[0];
    if (tok->eos < 0 && tok->post.n_after > 0)
        tok->eos = tok->post.after[tok->post.n_after - 1];
    return SC_OK;
}
