/* Statements of a chat template, and what both parser files share: nodes, symbols, messages. */
#include <stdio.h>
#include <string.h>

#include "model/chat_internal.h"

static struct sc_chat_node *parse_body(struct sc_chat_parser *p, const char *const *ends);

/* ---- messages ---- */

enum sc_status sc_chat_vfail_at(const struct sc_chat_template *tpl, uint32_t pos, enum sc_status st,
                                struct sc_err *err, const char *fmt, va_list ap)
{
    unsigned line = 1, column = 1;
    for (uint32_t i = 0; i < pos && i < tpl->source_len; i++) {
        if (tpl->source[i] == '\n') {
            line++;
            column = 1;
        } else {
            column += ((uint8_t)tpl->source[i] & 0xc0) != 0x80;
        }
    }
    st = sc_vfail(err, st, fmt, ap);
    return sc_err_prefix(err, st, "chat template %u:%u", line, column);
}

void *sc_chat_parse_fail(struct sc_chat_parser *p, uint32_t pos, enum sc_status st, const char *fmt,
                         ...)
{
    va_list ap;
    if (p->status != SC_OK)
        return NULL;
    va_start(ap, fmt);
    p->status = sc_chat_vfail_at(p->tpl, pos, st, p->err, fmt, ap);
    va_end(ap);
    return NULL;
}

static void *out_of_memory(struct sc_chat_parser *p)
{
    return sc_chat_parse_fail(p, p->tok->pos, SC_ERANGE, "the template takes more than %zu bytes",
                              SC_CHAT_PARSE_BYTES_MAX);
}

void *sc_chat_unexpected(struct sc_chat_parser *p, const char *expected)
{
    const struct sc_chat_token *t = p->tok;
    const char *text = p->tpl->source + t->pos;
    if (t->kind == SC_CHAT_TOK_END)
        return sc_chat_parse_fail(p, t->pos, SC_EFORMAT, "expected %s, found the end", expected);
    return sc_chat_parse_fail(p, t->pos, SC_EFORMAT, "expected %s, found %.*s", expected,
                              t->len < 40 ? (int)t->len : 40, text);
}

/* ---- nodes and symbols ---- */

struct sc_chat_node *sc_chat_node_new(struct sc_chat_parser *p, enum sc_chat_node_kind kind,
                                      uint32_t pos)
{
    if (p->status != SC_OK)
        return NULL;
    struct sc_chat_node *n = sc_arena_take(&p->tpl->arena, sizeof(*n));
    if (n == NULL)
        return out_of_memory(p);
    n->kind = (uint8_t)kind;
    n->pos = pos;
    n->sym = -1;
    n->depth = 1;
    return n;
}

struct sc_chat_node *sc_chat_node_done(struct sc_chat_parser *p, struct sc_chat_node *n)
{
    /* d of a CALL is not a child but the list of calls to check. */
    const struct sc_chat_node *lists[] = {n->a, n->b, n->c, n->kind == SC_CHAT_N_FOR ? n->d : NULL};
    for (size_t i = 0; i < SC_ARRAY_LEN(lists); i++) {
        for (const struct sc_chat_node *c = lists[i]; c != NULL; c = c->next) {
            if (c->depth >= n->depth)
                n->depth = c->depth + 1;
        }
    }
    if (n->depth > SC_CHAT_PARSE_DEPTH_MAX)
        return sc_chat_parse_fail(p, n->pos, SC_ERANGE, "nested more than %u deep",
                                  SC_CHAT_PARSE_DEPTH_MAX);
    return n;
}

bool sc_chat_enter(struct sc_chat_parser *p)
{
    if (p->depth >= SC_CHAT_PARSE_DEPTH_MAX) {
        (void)sc_chat_parse_fail(p, p->tok->pos, SC_ERANGE, "nested more than %u deep",
                                 SC_CHAT_PARSE_DEPTH_MAX);
        return false;
    }
    p->depth++;
    return true;
}

static uint32_t symbol_hash(const char *name, size_t len)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)name[i]) * 16777619u;
    return h;
}

int32_t sc_chat_symbol_find(const struct sc_chat_template *tpl, const char *name, size_t len)
{
    uint32_t h = symbol_hash(name, len);
    int32_t id = tpl->buckets[h % SC_CHAT_SYMBOL_BUCKETS];
    for (; id >= 0; id = tpl->symbols[id].chain) {
        const struct sc_chat_symbol *s = &tpl->symbols[id];
        if (s->hash == h && s->len == len && memcmp(s->name, name, len) == 0)
            break;
    }
    return id;
}

int32_t sc_chat_symbol_id(struct sc_chat_template *tpl, const char *name, size_t len)
{
    int32_t id = sc_chat_symbol_find(tpl, name, len);
    if (id >= 0)
        return id;
    if (tpl->n_symbols == tpl->cap_symbols) {
        uint32_t cap = tpl->cap_symbols > 0 ? 2 * tpl->cap_symbols : 64;
        struct sc_chat_symbol *grown = sc_arena_take(&tpl->arena, cap * sizeof(*grown));
        if (grown == NULL)
            return -1;
        if (tpl->n_symbols > 0)
            memcpy(grown, tpl->symbols, tpl->n_symbols * sizeof(*grown));
        tpl->symbols = grown;
        tpl->cap_symbols = cap;
    }
    id = (int32_t)tpl->n_symbols++;
    uint32_t h = symbol_hash(name, len);
    int32_t *bucket = &tpl->buckets[h % SC_CHAT_SYMBOL_BUCKETS];
    tpl->symbols[id] =
        (struct sc_chat_symbol){.name = name, .len = (uint32_t)len, .hash = h, .chain = *bucket};
    *bucket = id;
    return id;
}

/* ---- the token cursor ---- */

bool sc_chat_is_op(const struct sc_chat_parser *p, uint16_t op)
{
    return p->tok->kind == SC_CHAT_TOK_OP && p->tok->op == op;
}

bool sc_chat_is_name(const struct sc_chat_parser *p, const char *name)
{
    size_t n = strlen(name);
    return p->tok->kind == SC_CHAT_TOK_NAME && p->tok->len == n &&
           memcmp(p->tpl->source + p->tok->pos, name, n) == 0;
}

bool sc_chat_skip_op(struct sc_chat_parser *p, uint16_t op)
{
    bool is = sc_chat_is_op(p, op);
    p->tok += is;
    return is;
}

bool sc_chat_skip_name(struct sc_chat_parser *p, const char *name)
{
    bool is = sc_chat_is_name(p, name);
    p->tok += is;
    return is;
}

bool sc_chat_expect_op(struct sc_chat_parser *p, uint16_t op)
{
    char want[4] = {'\'', (char)op, '\'', '\0'};
    if (sc_chat_skip_op(p, op))
        return true;
    (void)sc_chat_unexpected(p, want);
    return false;
}

static bool expect_name(struct sc_chat_parser *p, const char *name)
{
    if (sc_chat_skip_name(p, name))
        return true;
    (void)sc_chat_unexpected(p, name);
    return false;
}

static bool expect_end(struct sc_chat_parser *p, enum sc_chat_token_kind kind)
{
    if (p->tok->kind == kind) {
        p->tok++;
        return true;
    }
    (void)sc_chat_unexpected(p, kind == SC_CHAT_TOK_VAR_END ? "}}" : "%}");
    return false;
}

/* `%}`, the body, `{% end`: the body of a statement whose end word is passed too. */
static bool parse_block(struct sc_chat_parser *p, const char *end, struct sc_chat_node **ret_body)
{
    const char *const ends[] = {end, NULL};
    if (!expect_end(p, SC_CHAT_TOK_BLOCK_END))
        return false;
    *ret_body = parse_body(p, ends);
    return p->status == SC_OK && expect_name(p, end);
}

/* ---- statements ---- */

static void mark_assigned(struct sc_chat_parser *p, const struct sc_chat_node *name)
{
    p->tpl->symbols[name->sym].assigned = true;
}

/* One name of an assignment; with_attr: or ns.name. */
static struct sc_chat_node *parse_target_name(struct sc_chat_parser *p, bool with_attr)
{
    const struct sc_chat_token *t = p->tok;
    if (t->kind != SC_CHAT_TOK_NAME)
        return sc_chat_unexpected(p, "a name to assign to");
    struct sc_chat_node *n = sc_chat_parse_primary(p);
    if (n == NULL)
        return NULL;
    if (n->kind != SC_CHAT_N_NAME)
        return sc_chat_parse_fail(p, t->pos, SC_EFORMAT, "cannot assign to a constant");
    if (with_attr && sc_chat_skip_op(p, '.')) {
        if (p->tok->kind != SC_CHAT_TOK_NAME)
            return sc_chat_unexpected(p, "an attribute's name");
        n->kind = SC_CHAT_N_NS_ATTR;
        n->value = sc_chat_str(p->tpl->source + p->tok->pos, p->tok->len);
        p->tok++;
    } else {
        mark_assigned(p, n);
    }
    return n;
}

/* name, or name, name, ... with or without parentheses */
static struct sc_chat_node *parse_target(struct sc_chat_parser *p, bool with_attr)
{
    uint32_t pos = p->tok->pos;
    bool parens = sc_chat_skip_op(p, '(');
    struct sc_chat_node *first = parse_target_name(p, with_attr), **tail, *n;
    if (first == NULL)
        return NULL;
    bool is_tuple = sc_chat_is_op(p, ',');
    tail = &first->next;
    while (sc_chat_skip_op(p, ',')) {
        if (p->tok->kind != SC_CHAT_TOK_NAME || sc_chat_is_name(p, "in"))
            break;
        *tail = parse_target_name(p, with_attr);
        if (*tail == NULL)
            return NULL;
        tail = &(*tail)->next;
    }
    if (parens && !sc_chat_expect_op(p, ')'))
        return NULL;
    if (!is_tuple)
        return first;
    n = sc_chat_node_new(p, SC_CHAT_N_TUPLE, pos);
    if (n == NULL)
        return NULL;
    n->a = first;
    return sc_chat_node_done(p, n);
}

static struct sc_chat_node *parse_if(struct sc_chat_parser *p, uint32_t pos)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct sc_chat_node *n = sc_chat_node_new(p, SC_CHAT_N_IF, pos), **tail;
    bool is_else = false;
    if (n == NULL)
        return NULL;
    tail = &n->a;
    for (;;) {
        struct sc_chat_node *arm = sc_chat_node_new(p, SC_CHAT_N_ARM, p->tok->pos);
        if (arm == NULL)
            return NULL;
        if (!is_else && (arm->a = sc_chat_parse_tuple(p, false, NULL, false)) == NULL)
            return NULL;
        if (!expect_end(p, SC_CHAT_TOK_BLOCK_END))
            return NULL;
        arm->b = parse_body(p, is_else ? ends + 2 : ends);
        if (p->status != SC_OK || sc_chat_node_done(p, arm) == NULL)
            return NULL;
        *tail = arm;
        tail = &arm->next;
        if (sc_chat_skip_name(p, "endif"))
            return sc_chat_node_done(p, n);
        is_else = sc_chat_is_name(p, "else");
        p->tok++; /* elif or else: parse_body ends at nothing else */
    }
}

static struct sc_chat_node *parse_for(struct sc_chat_parser *p, uint32_t pos)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct sc_chat_node *n = sc_chat_node_new(p, SC_CHAT_N_FOR, pos);
    struct sc_chat_node *extra = sc_chat_node_new(p, SC_CHAT_N_ARM, pos);
    if (n == NULL || extra == NULL)
        return NULL;
    n->a = parse_target(p, false);
    if (n->a == NULL || !expect_name(p, "in"))
        return NULL;
    n->b = sc_chat_parse_tuple(p, false, "recursive", false);
    if (n->b == NULL)
        return NULL;
    if (sc_chat_skip_name(p, "if") && (extra->a = sc_chat_parse_expr(p, true)) == NULL)
        return NULL;
    if (sc_chat_is_name(p, "recursive"))
        return sc_chat_parse_fail(p, p->tok->pos, SC_ENOTSUP, "recursive loops are not supported");
    if (!expect_end(p, SC_CHAT_TOK_BLOCK_END))
        return NULL;
    p->n_loops++;
    n->c = parse_body(p, ends);
    p->n_loops--;
    if (p->status != SC_OK)
        return NULL;
    if (sc_chat_skip_name(p, "else") ? !parse_block(p, "endfor", &extra->b)
                                     : !expect_name(p, "endfor"))
        return NULL;
    if (sc_chat_node_done(p, extra) == NULL)
        return NULL;
    n->d = extra;
    return sc_chat_node_done(p, n);
}

static struct sc_chat_node *parse_set(struct sc_chat_parser *p, uint32_t pos)
{
    struct sc_chat_node *n = sc_chat_node_new(p, SC_CHAT_N_SET, pos);
    if (n == NULL || (n->a = parse_target(p, true)) == NULL)
        return NULL;
    if (sc_chat_skip_op(p, '=')) {
        n->b = sc_chat_parse_tuple(p, true, NULL, false);
        return n->b != NULL ? sc_chat_node_done(p, n) : NULL;
    }
    n->kind = SC_CHAT_N_SET_BODY;
    if (sc_chat_is_op(p, '|') && (n->b = sc_chat_parse_filters(p, NULL, false)) == NULL)
        return NULL;
    return parse_block(p, "endset", &n->c) ? sc_chat_node_done(p, n) : NULL;
}

static struct sc_chat_node *parse_macro(struct sc_chat_parser *p, uint32_t pos)
{
    struct sc_chat_node *n = sc_chat_node_new(p, SC_CHAT_N_MACRO, pos), **tail;
    struct sc_chat_node *name = n != NULL ? parse_target_name(p, false) : NULL;
    uint32_t n_loops = p->n_loops;
    if (name == NULL || !sc_chat_expect_op(p, '('))
        return NULL;
    n->sym = name->sym;
    n->value = name->value;
    tail = &n->a;
    while (!sc_chat_skip_op(p, ')')) {
        if (n->a != NULL && !sc_chat_expect_op(p, ','))
            return NULL;
        struct sc_chat_node *param = parse_target_name(p, false);
        if (param == NULL)
            return NULL;
        param->kind = SC_CHAT_N_PARAM;
        if (sc_chat_skip_op(p, '=') && (param->a = sc_chat_parse_expr(p, true)) == NULL)
            return NULL;
        if (sc_chat_node_done(p, param) == NULL)
            return NULL;
        *tail = param;
        tail = &param->next;
        if (++n->n_args > 64)
            return sc_chat_parse_fail(p, pos, SC_ERANGE, "more than 64 parameters");
    }
    p->n_loops = 0; /* a macro cannot leave the loop around its definition */
    bool ok = parse_block(p, "endmacro", &n->c);
    p->n_loops = n_loops;
    return ok ? sc_chat_node_done(p, n) : NULL;
}

/* {% with a = 1, b = 2 %} */
static struct sc_chat_node *parse_with(struct sc_chat_parser *p, uint32_t pos)
{
    struct sc_chat_node *n = sc_chat_node_new(p, SC_CHAT_N_WITH, pos), **tail;
    if (n == NULL)
        return NULL;
    tail = &n->a;
    while (p->tok->kind != SC_CHAT_TOK_BLOCK_END) {
        if (n->a != NULL && !sc_chat_expect_op(p, ','))
            return NULL;
        struct sc_chat_node *set = sc_chat_node_new(p, SC_CHAT_N_SET, p->tok->pos);
        if (set == NULL || (set->a = parse_target_name(p, false)) == NULL ||
            !sc_chat_expect_op(p, '=') || (set->b = sc_chat_parse_expr(p, true)) == NULL ||
            sc_chat_node_done(p, set) == NULL)
            return NULL;
        *tail = set;
        tail = &set->next;
    }
    return parse_block(p, "endwith", &n->c) ? sc_chat_node_done(p, n) : NULL;
}

/* {% generation %} marks what the assistant wrote: for a prompt only its scope counts. */
static struct sc_chat_node *parse_scoped(struct sc_chat_parser *p, uint32_t pos, bool is_filter)
{
    struct sc_chat_node *n = sc_chat_node_new(p, SC_CHAT_N_SCOPED, pos);
    uint32_t n_loops = p->n_loops;
    if (n == NULL || (is_filter && (n->b = sc_chat_parse_filters(p, NULL, true)) == NULL))
        return NULL;
    p->n_loops = 0;
    bool ok = parse_block(p, is_filter ? "endfilter" : "endgeneration", &n->c);
    p->n_loops = n_loops;
    return ok ? sc_chat_node_done(p, n) : NULL;
}

static struct sc_chat_node *parse_jump(struct sc_chat_parser *p, uint32_t pos,
                                       enum sc_chat_node_kind kind)
{
    if (p->n_loops == 0)
        return sc_chat_parse_fail(p, pos, SC_EFORMAT, "%s outside of a loop",
                                  kind == SC_CHAT_N_BREAK ? "break" : "continue");
    return sc_chat_node_new(p, kind, pos);
}

static struct sc_chat_node *parse_statement(struct sc_chat_parser *p)
{
    const struct sc_chat_token *t = p->tok;
    if (t->kind != SC_CHAT_TOK_NAME)
        return sc_chat_unexpected(p, "a tag's name");
    if (sc_chat_skip_name(p, "if"))
        return parse_if(p, t->pos);
    if (sc_chat_skip_name(p, "for"))
        return parse_for(p, t->pos);
    if (sc_chat_skip_name(p, "set"))
        return parse_set(p, t->pos);
    if (sc_chat_skip_name(p, "macro"))
        return parse_macro(p, t->pos);
    if (sc_chat_skip_name(p, "with"))
        return parse_with(p, t->pos);
    if (sc_chat_skip_name(p, "generation"))
        return parse_scoped(p, t->pos, false);
    if (sc_chat_skip_name(p, "filter"))
        return parse_scoped(p, t->pos, true);
    if (sc_chat_skip_name(p, "break"))
        return parse_jump(p, t->pos, SC_CHAT_N_BREAK);
    if (sc_chat_skip_name(p, "continue"))
        return parse_jump(p, t->pos, SC_CHAT_N_CONTINUE);
    static const char *const inner[] = {"else",    "elif",          "endif",
                                        "endfor",  "endset",        "endmacro",
                                        "endwith", "endgeneration", "endfilter"};
    for (size_t i = 0; i < SC_ARRAY_LEN(inner); i++) {
        if (sc_chat_is_name(p, inner[i]))
            return sc_chat_parse_fail(p, t->pos, SC_EFORMAT, "unexpected %s", inner[i]);
    }
    return sc_chat_parse_fail(p, t->pos, SC_ENOTSUP, "tag %.*s is not supported", (int)t->len,
                              p->tpl->source + t->pos);
}

/* One piece of a body at the current token; data, {{ }} or {% %} */
static struct sc_chat_node *parse_piece(struct sc_chat_parser *p)
{
    const struct sc_chat_token *t = p->tok++;
    struct sc_chat_node *n;
    if (t->kind == SC_CHAT_TOK_DATA) {
        n = sc_chat_node_new(p, SC_CHAT_N_DATA, t->pos);
        if (n != NULL)
            n->value = sc_chat_str(p->tpl->source + t->pos, t->len);
        return n;
    }
    if (t->kind == SC_CHAT_TOK_VAR_BEGIN) {
        n = sc_chat_node_new(p, SC_CHAT_N_OUTPUT, t->pos);
        if (n == NULL || (n->a = sc_chat_parse_tuple(p, true, NULL, false)) == NULL ||
            !expect_end(p, SC_CHAT_TOK_VAR_END))
            return NULL;
        return sc_chat_node_done(p, n);
    }
    n = parse_statement(p);
    return n != NULL && expect_end(p, SC_CHAT_TOK_BLOCK_END) ? n : NULL;
}

/* Up to a tag named in ends (the cursor is then on that name), or with ends NULL to the end. An
 * empty body is NULL: look at p->status. */
static struct sc_chat_node *parse_body(struct sc_chat_parser *p, const char *const *ends)
{
    struct sc_chat_node *first = NULL, **tail = &first;
    if (!sc_chat_enter(p))
        return NULL;
    while (p->tok->kind != SC_CHAT_TOK_END) {
        if (p->tok->kind == SC_CHAT_TOK_BLOCK_BEGIN) {
            p->tok++;
            for (const char *const *e = ends; e != NULL && *e != NULL; e++) {
                if (sc_chat_is_name(p, *e)) {
                    p->depth--;
                    return first;
                }
            }
            p->tok--;
        }
        *tail = parse_piece(p);
        if (*tail == NULL)
            return NULL;
        tail = &(*tail)->next;
    }
    p->depth--;
    if (ends == NULL)
        return first;
    while (ends[1] != NULL)
        ends++; /* the last is the one that must come */
    return sc_chat_parse_fail(p, p->tok->pos, SC_EFORMAT, "the template ends before %s", ends[0]);
}

/* Every name that is called is a function, or something the template assigns. */
static void check_calls(struct sc_chat_parser *p)
{
    const struct sc_chat_template *tpl = p->tpl;
    for (const struct sc_chat_node *n = p->calls; n != NULL; n = n->d) {
        const struct sc_chat_symbol *s = &tpl->symbols[n->a->sym];
        int id = sc_chat_name_find(SC_CHAT_NAMED_FUNC, s->name, s->len);
        if (s->assigned)
            continue;
        if (id < 0) {
            (void)sc_chat_parse_fail(p, n->pos, SC_ENOTSUP, "function %.*s() is not supported",
                                     (int)s->len, s->name);
            continue;
        }
        const struct sc_chat_name *f = sc_chat_name_get(SC_CHAT_NAMED_FUNC, id);
        if (n->n_args < f->min_args || n->n_args > f->max_args)
            (void)sc_chat_parse_fail(p, n->pos, SC_EFORMAT,
                                     "function %s takes %u to %u arguments, not %u", f->name,
                                     f->min_args, f->max_args, n->n_args);
    }
}

enum sc_status sc_chat_parse(struct sc_chat_template *tpl, const struct sc_chat_token *tokens,
                             struct sc_err *err)
{
    struct sc_chat_parser p = {.tpl = tpl, .tok = tokens, .err = err};
    tpl->body = parse_body(&p, NULL);
    if (p.status == SC_OK)
        check_calls(&p);
    return p.status;
}
