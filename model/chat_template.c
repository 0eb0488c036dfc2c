/* Opening and rendering chat templates. */
#include "model/chat_template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat_internal.h"
#include "model/json.h"
#include "model/unicode.h"

/* ---- the run's own services ---- */

bool sc_chat_fail(struct sc_chat_run *r, enum sc_status st, const char *fmt, ...)
{
    va_list ap;
    if (r->status != SC_OK)
        return false;
    va_start(ap, fmt);
    r->status = sc_chat_vfail_at(r->tpl, r->pos, st, r->err, fmt, ap);
    va_end(ap);
    return false;
}

bool sc_chat_step(struct sc_chat_run *r, size_t bytes)
{
    r->steps += 1 + bytes / 64;
    return r->steps <= SC_CHAT_STEPS_MAX ||
           sc_chat_fail(r, SC_ERANGE, "the render takes more than %u steps", SC_CHAT_STEPS_MAX);
}

void *sc_chat_take(struct sc_chat_run *r, size_t bytes)
{
    void *p = r->status == SC_OK ? sc_arena_take(&r->arena, bytes) : NULL;
    if (p == NULL)
        (void)sc_chat_fail(r, SC_ERANGE, "the render takes more than %zu bytes of memory",
                           SC_CHAT_RENDER_BYTES_MAX);
    return p;
}

/* ---- open ---- */

/* \r\n and \r become \n; one \n at the end goes, as Jinja has it. */
static void normalize_lines(struct sc_chat_template *tpl, const char *source, size_t len)
{
    uint32_t n = 0;
    for (size_t i = 0; i < len; i++) {
        tpl->source[n++] = source[i] == '\r' ? '\n' : source[i];
        if (source[i] == '\r' && i + 1 < len && source[i + 1] == '\n')
            i++;
    }
    if (n > 0 && tpl->source[n - 1] == '\n')
        n--;
    tpl->source[n] = '\0';
    tpl->source_len = n;
}

static enum sc_status build(struct sc_chat_template *tpl, const char *source, size_t len,
                            struct sc_err *err)
{
    struct sc_chat_token *tokens = NULL;
    struct sc_arena scratch;
    memset(tpl->buckets, 0xff, sizeof(tpl->buckets)); /* all -1 */
    tpl->source = sc_arena_take(&tpl->arena, len + 1);
    tpl->sym_loop = sc_chat_symbol_id(tpl, "loop", 4);
    if (tpl->source == NULL || tpl->sym_loop < 0)
        return sc_fail(err, SC_ENOMEM, "chat template: %zu bytes", len + 1);
    normalize_lines(tpl, source, len);
    sc_arena_init(&scratch, SC_CHAT_PARSE_BYTES_MAX);
    enum sc_status st = sc_chat_lex(tpl, &scratch, &tokens, err);
    if (st == SC_OK)
        st = sc_chat_parse(tpl, tokens, err);
    sc_arena_fini(&scratch);
    return st;
}

enum sc_status sc_chat_template_open(const char *source, size_t len,
                                     struct sc_chat_template **ret_tpl, struct sc_err *err)
{
    if (len > SC_CHAT_TEMPLATE_BYTES_MAX)
        return sc_fail(err, SC_ERANGE, "chat template: %zu bytes, limit %zu", len,
                       SC_CHAT_TEMPLATE_BYTES_MAX);
    size_t valid = sc_utf8_valid_bytes(source, len);
    if (valid != len)
        return sc_fail(err, SC_EFORMAT, "chat template: byte %zu is not UTF-8", valid);
    struct sc_chat_template *tpl = calloc(1, sizeof(*tpl));
    if (tpl == NULL)
        return sc_fail(err, SC_ENOMEM, "chat template: %zu bytes", sizeof(*tpl));
    sc_arena_init(&tpl->arena, SC_CHAT_PARSE_BYTES_MAX);
    enum sc_status st = build(tpl, source, len, err);
    if (st != SC_OK) {
        sc_chat_template_close(tpl);
        return st;
    }
    *ret_tpl = tpl;
    return SC_OK;
}

void sc_chat_template_close(struct sc_chat_template *tpl)
{
    if (tpl == NULL)
        return;
    sc_arena_fini(&tpl->arena);
    free(tpl);
}

/* ---- from a model directory ---- */

/* chat_template of a JSON file: a string, or a list of named ones. *ret stays NULL without. */
static enum sc_status find_template(const json_t *root, const char *file, const json_t **ret,
                                    struct sc_err *err)
{
    const json_t *field = json_object_get(root, "chat_template"), *row;
    size_t i;
    if (field == NULL || json_is_null(field))
        return SC_OK;
    if (json_is_string(field)) {
        *ret = field;
        return SC_OK;
    }
    json_array_foreach(json_is_array(field) ? (json_t *)field : NULL, i, row)
    {
        const char *name = json_string_value(json_object_get(row, "name"));
        const json_t *text = json_object_get(row, "template");
        if (name != NULL && strcmp(name, "default") == 0 && json_is_string(text)) {
            *ret = text;
            return SC_OK;
        }
    }
    char buf[SC_JSON_SHOW_BYTES];
    return sc_fail(err, SC_ENOTSUP,
                   "%s: chat_template is %s: not a string, and no list with a \"default\"", file,
                   sc_json_show(field, buf));
}

/* SC_ENOENT, with no message, when the file or its field is not there. */
static enum sc_status open_json(const char *dir, const char *file,
                                struct sc_chat_template **ret_tpl, struct sc_err *err)
{
    struct sc_err local = SC_ERR_INIT;
    char *bytes = NULL;
    size_t len = 0;
    json_t *root = NULL;
    const json_t *text = NULL;
    enum sc_status st = sc_file_read(dir, file, SC_CHAT_CONFIG_BYTES_MAX, &bytes, &len, &local);
    if (st == SC_OK)
        st = sc_json_parse(bytes, len, file, &root, &local);
    if (st == SC_OK)
        st = find_template(root, file, &text, &local);
    if (st == SC_OK && text == NULL) {
        st = SC_ENOENT;
    } else if (st == SC_OK) {
        st = sc_chat_template_open(json_string_value(text), json_string_length(text), ret_tpl,
                                   &local);
        if (st != SC_OK)
            st = sc_err_prefix(&local, st, "%s", file);
    }
    if (st != SC_OK && st != SC_ENOENT)
        st = sc_fail(err, st, "%s", local.text);
    json_decref(root);
    free(bytes);
    return st;
}

enum sc_status sc_chat_template_open_dir(const char *dir, struct sc_chat_template **ret_tpl,
                                         struct sc_err *err)
{
    static const char *const json_files[] = {"chat_template.json", "tokenizer_config.json"};
    static const char jinja[] = "chat_template.jinja";
    struct sc_err local = SC_ERR_INIT;
    char *bytes = NULL;
    size_t len = 0;
    enum sc_status st = sc_file_read(dir, jinja, SC_CHAT_TEMPLATE_BYTES_MAX, &bytes, &len, &local);
    if (st == SC_OK) {
        st = sc_chat_template_open(bytes, len, ret_tpl, &local);
        if (st != SC_OK)
            st = sc_err_prefix(&local, st, jinja);
        free(bytes);
    }
    if (st != SC_ENOENT)
        return st == SC_OK ? st : sc_fail(err, st, "%s", local.text);
    for (size_t i = 0; i < SC_ARRAY_LEN(json_files); i++) {
        st = open_json(dir, json_files[i], ret_tpl, err);
        if (st != SC_ENOENT)
            return st;
    }
    return sc_fail(err, SC_ENOENT,
                   "%s: no chat_template.jinja, and no chat_template in chat_template.json or "
                   "tokenizer_config.json",
                   dir);
}

/* ---- the variables of a render ---- */

/* Binds a variable, if the template has a symbol of that name. */
static bool bind_name(struct sc_chat_run *r, struct sc_chat_scope *root, const char *name,
                      const struct sc_chat_value *value)
{
    int32_t sym = sc_chat_symbol_find(r->tpl, name, strlen(name));
    return sym < 0 || sc_chat_bind(r, root, sym, value);
}

static bool messages_from_pairs(struct sc_chat_run *r, const struct sc_chat_request *req,
                                struct sc_chat_value *ret)
{
    uint32_t n = (uint32_t)req->n_messages;
    struct sc_chat_value *items = sc_chat_take(r, n * sizeof(*items));
    if (items == NULL)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const struct sc_chat_message *m = &req->messages[i];
        struct sc_chat_dict *d;
        if (!sc_chat_dict_new(r, 2, &d))
            return false;
        d->n = 2;
        d->entries[0].key = sc_chat_str("role", 4);
        d->entries[0].value = sc_chat_str(m->role, m->role_len);
        d->entries[1].key = sc_chat_str("content", 7);
        d->entries[1].value = sc_chat_str(m->content, m->content_len);
        items[i] = (struct sc_chat_value){.type = SC_CHAT_DICT, .u.dict = d};
    }
    return sc_chat_list(r, SC_CHAT_LIST, items, n, ret);
}

static bool bind_variables(struct sc_chat_run *r, struct sc_chat_scope *root, const json_t *vars)
{
    json_t *obj = (json_t *)vars; /* jansson's iterators take no const */
    struct sc_chat_value v;
    for (void *it = json_object_iter(obj); it != NULL; it = json_object_iter_next(obj, it)) {
        const char *name = json_object_iter_key(it);
        if (sc_chat_symbol_find(r->tpl, name, strlen(name)) < 0)
            continue;
        if (!sc_chat_from_json(r, json_object_iter_value(it), 1, &v) ||
            !bind_name(r, root, name, &v))
            return false;
    }
    return true;
}

static bool bind_all(struct sc_chat_run *r, const struct sc_chat_request *req,
                     const json_t *messages, const json_t *vars, struct sc_chat_scope *root)
{
    const struct sc_chat_value prompt = sc_chat_bool(req->add_generation_prompt),
                               none = sc_chat_none();
    const char *const token_names[] = {"bos_token", "eos_token"};
    const char *const tokens[] = {req->bos_token, req->eos_token};
    struct sc_chat_value v;
    for (int i = 0; i < SC_CHAT_FN_COUNT_OF; i++) {
        v = (struct sc_chat_value){.type = SC_CHAT_FUNC, .u.func = (enum sc_chat_func_id)i};
        if (!bind_name(r, root, sc_chat_name_get(SC_CHAT_NAMED_FUNC, i)->name, &v))
            return false;
    }
    for (size_t i = 0; i < SC_ARRAY_LEN(tokens); i++) {
        v = tokens[i] != NULL ? sc_chat_str(tokens[i], strlen(tokens[i])) : none;
        if (tokens[i] != NULL && !bind_name(r, root, token_names[i], &v))
            return false;
    }
    if (!(messages != NULL ? sc_chat_from_json(r, messages, 0, &v)
                           : messages_from_pairs(r, req, &v)))
        return false;
    return bind_name(r, root, "messages", &v) &&
           bind_name(r, root, "add_generation_prompt", &prompt) &&
           bind_name(r, root, "tools", &none) && bind_name(r, root, "documents", &none) &&
           (vars == NULL || bind_variables(r, root, vars));
}

/* ---- render ---- */

static enum sc_status check_pairs(const struct sc_chat_request *req, struct sc_err *err)
{
    size_t total = 0;
    if (req->n_messages > SC_CHAT_MESSAGES_MAX)
        return sc_fail(err, SC_ERANGE, "%zu messages, limit %u", req->n_messages,
                       SC_CHAT_MESSAGES_MAX);
    for (size_t i = 0; i < req->n_messages; i++) {
        const struct sc_chat_message *m = &req->messages[i];
        size_t room = SC_CHAT_INPUT_BYTES_MAX - total;
        if (m->role_len > room || m->content_len > room - m->role_len)
            return sc_fail(err, SC_ERANGE, "messages of more than %zu bytes together",
                           SC_CHAT_INPUT_BYTES_MAX);
        total += m->role_len + m->content_len;
        if (sc_utf8_valid_bytes(m->role, m->role_len) != m->role_len)
            return sc_fail(err, SC_EINVAL, "messages[%zu].role is not UTF-8", i);
        size_t valid = sc_utf8_valid_bytes(m->content, m->content_len);
        if (valid != m->content_len)
            return sc_fail(err, SC_EINVAL, "messages[%zu].content: byte %zu is not UTF-8", i,
                           valid);
    }
    return SC_OK;
}

static enum sc_status parse_json(const char *text, size_t len, const char *what, bool want_list,
                                 json_t **ret, struct sc_err *err)
{
    json_error_t je;
    if (len > SC_CHAT_INPUT_BYTES_MAX)
        return sc_fail(err, SC_ERANGE, "%s: %zu bytes, limit %zu", what, len,
                       SC_CHAT_INPUT_BYTES_MAX);
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    if (root == NULL)
        return sc_fail(err, SC_EINVAL, "%s:%d:%d: %s", what, je.line, je.column, je.text);
    *ret = root;
    if (want_list ? !json_is_array(root) : !json_is_object(root))
        return sc_fail(err, SC_EINVAL, "%s: not a JSON %s", what, want_list ? "list" : "object");
    if (json_object_get(root, "messages") != NULL ||
        json_object_get(root, "add_generation_prompt") != NULL)
        return sc_fail(err, SC_EINVAL,
                       "%s: messages and add_generation_prompt have fields of their own", what);
    if (want_list && json_array_size(root) > SC_CHAT_MESSAGES_MAX)
        return sc_fail(err, SC_ERANGE, "%s: %zu messages, limit %u", what, json_array_size(root),
                       SC_CHAT_MESSAGES_MAX);
    return SC_OK;
}

/* To out, all or nothing. */
static enum sc_status append(struct sc_text *out, const struct sc_chat_buf *buf, struct sc_err *err)
{
    if (buf->len >= SIZE_MAX - out->len)
        return sc_fail(err, SC_ERANGE, "prompt of %zu bytes", buf->len);
    if (out->cap - out->len < buf->len + 1) {
        char *grown = realloc(out->bytes, out->len + buf->len + 1);
        if (grown == NULL)
            return sc_fail(err, SC_ENOMEM, "prompt of %zu bytes", buf->len);
        out->bytes = grown;
        out->cap = out->len + buf->len + 1;
    }
    if (buf->len > 0)
        memcpy(out->bytes + out->len, buf->bytes, buf->len);
    out->len += buf->len;
    out->bytes[out->len] = '\0';
    return SC_OK;
}

static enum sc_status run(struct sc_chat_run *r, const struct sc_chat_request *req,
                          const json_t *messages, const json_t *vars)
{
    struct sc_chat_scope *root = sc_chat_scope_new(r, NULL);
    /* {% set %} at the top level makes variables of the same scope. */
    if (root != NULL && bind_all(r, req, messages, vars, root))
        (void)sc_chat_exec(r, r->tpl->body, root);
    return r->status;
}

enum sc_status sc_chat_template_render(const struct sc_chat_template *tpl,
                                       const struct sc_chat_request *req, struct sc_text *out,
                                       struct sc_err *err)
{
    json_t *messages = NULL, *vars = NULL;
    struct sc_chat_buf buf = {0};
    struct sc_chat_run r = {.tpl = tpl, .out = &buf, .now = req->now, .err = err};
    sc_arena_init(&r.arena, SC_CHAT_RENDER_BYTES_MAX);
    enum sc_status st = req->messages_json != NULL
                            ? parse_json(req->messages_json, req->messages_json_len, "messages",
                                         true, &messages, err)
                            : check_pairs(req, err);
    if (st == SC_OK && req->variables_json != NULL)
        st = parse_json(req->variables_json, req->variables_json_len, "variables", false, &vars,
                        err);
    if (st == SC_OK)
        st = run(&r, req, messages, vars);
    if (st == SC_OK)
        st = append(out, &buf, err);
    free(buf.bytes);
    sc_arena_fini(&r.arena);
    json_decref(messages);
    json_decref(vars);
    return st;
}
