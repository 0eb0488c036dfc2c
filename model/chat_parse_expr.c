/* Expressions of a chat template, by recursive descent, with Jinja2's precedence:
 * if-else, or, and, not, comparisons and in, + -, ~, * / // %, **, unary, then . [] () | is. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat_internal.h"

#define OP2(a, b) SC_CHAT_OP2(a, b)

static struct sc_chat_node *parse_unary(struct sc_chat_parser *p, bool with_filter);
static struct sc_chat_node *parse_or(struct sc_chat_parser *p);

static struct sc_chat_node *node2(struct sc_chat_parser *p, enum sc_chat_node_kind kind,
                                  uint32_t pos, uint16_t op, struct sc_chat_node *a,
                                  struct sc_chat_node *b)
{
    struct sc_chat_node *n = sc_chat_node_new(p, kind, pos);
    if (n == NULL || a == NULL || b == NULL)
        return NULL;
    n->op = op;
    n->a = a;
    n->b = b;
    return sc_chat_node_done(p, n);
}

static struct sc_chat_node *node1(struct sc_chat_parser *p, enum sc_chat_node_kind kind,
                                  uint32_t pos, struct sc_chat_node *a)
{
    struct sc_chat_node *n = sc_chat_node_new(p, kind, pos);
    if (n == NULL || a == NULL)
        return NULL;
    n->a = a;
    return sc_chat_node_done(p, n);
}

static struct sc_chat_node *constant(struct sc_chat_parser *p, uint32_t pos,
                                     struct sc_chat_value value)
{
    struct sc_chat_node *n = sc_chat_node_new(p, SC_CHAT_N_CONST, pos);
    if (n != NULL)
        n->value = value;
    return n;
}

/* ---- literals and names ---- */

static struct sc_chat_node *parse_string(struct sc_chat_parser *p)
{
    uint32_t pos = p->tok->pos - 1, len = 0;
    const char *s = sc_chat_unescape(p, p->tok++, &len);
    size_t more_bytes = 0;
    if (s == NULL)
        return NULL;
    if (p->tok->kind != SC_CHAT_TOK_STRING)
        return constant(p, pos, sc_chat_str(s, len));
    for (const struct sc_chat_token *t = p->tok; t->kind == SC_CHAT_TOK_STRING; t++)
        more_bytes += t->len;
    char *joined = sc_arena_take(&p->tpl->arena, len + more_bytes);
    if (joined == NULL)
        return sc_chat_parse_fail(p, pos, SC_ERANGE, "the template takes more than %zu bytes",
                                  SC_CHAT_PARSE_BYTES_MAX);
    memcpy(joined, s, len);
    for (; p->tok->kind == SC_CHAT_TOK_STRING; p->tok++) {
        uint32_t n;
        const char *part = sc_chat_unescape(p, p->tok, &n);
        if (part == NULL)
            return NULL;
        memcpy(joined + len, part, n);
        len += n;
    }
    return constant(p, pos, sc_chat_str(joined, len));
}

static struct sc_chat_node *parse_number(struct sc_chat_parser *p)
{
    char text[64];
    const struct sc_chat_token *t = p->tok++;
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->len && n < sizeof(text) - 1; i++) {
        if (p->tpl->source[t->pos + i] != '_')
            text[n++] = p->tpl->source[t->pos + i];
    }
    text[n] = '\0';
    errno = 0;
    if (t->kind == SC_CHAT_TOK_FLOAT && t->len < sizeof(text))
        return constant(p, t->pos, sc_chat_float(strtod(text, NULL)));
    long long i = strtoll(text, NULL, 10);
    if (errno != 0 || t->len >= sizeof(text))
        return sc_chat_parse_fail(p, t->pos, SC_ERANGE, "number %s: beyond 64 bits", text);
    return constant(p, t->pos, sc_chat_int(i));
}

static struct sc_chat_node *parse_name(struct sc_chat_parser *p)
{
    const struct sc_chat_token *t = p->tok;
    if (sc_chat_skip_name(p, "true") || sc_chat_skip_name(p, "True"))
        return constant(p, t->pos, sc_chat_bool(true));
    if (sc_chat_skip_name(p, "false") || sc_chat_skip_name(p, "False"))
        return constant(p, t->pos, sc_chat_bool(false));
    if (sc_chat_skip_name(p, "none") || sc_chat_skip_name(p, "None"))
        return constant(p, t->pos, sc_chat_none());
    struct sc_chat_node *n = sc_chat_node_new(p, SC_CHAT_N_NAME, t->pos);
    if (n != NULL) {
        n->sym = sc_chat_symbol_id(p->tpl, p->tpl->source + t->pos, t->len);
        n->value = sc_chat_str(p->tpl->source + t->pos, t->len);
        p->tok++;
        if (n->sym < 0)
            return sc_chat_parse_fail(p, t->pos, SC_ERANGE,
                                      "the template takes more than %zu bytes",
                                      SC_CHAT_PARSE_BYTES_MAX);
    }
    return n;
}

/* Items up to close, which is passed; a last comma is fine. pairs: key: value. */
static struct sc_chat_node *parse_items(struct sc_chat_parser *p, enum sc_chat_node_kind kind,
                                        char close, bool pairs)
{
    struct sc_chat_node *n = sc_chat_node_new(p, kind, p->tok->pos), **tail;
    if (n == NULL)
        return NULL;
    tail = &n->a;
    p->tok++;
    while (!sc_chat_is_op(p, (uint8_t)close)) {
        if (n->a != NULL && !sc_chat_expect_op(p, ','))
            return NULL;
        if (sc_chat_is_op(p, (uint8_t)close))
            break;
        for (int i = 0; i < (pairs ? 2 : 1); i++) {
            if (i == 1 && !sc_chat_expect_op(p, ':'))
                return NULL;
            *tail = sc_chat_parse_expr(p, true);
            if (*tail == NULL)
                return NULL;
            tail = &(*tail)->next;
        }
    }
    p->tok++;
    return sc_chat_node_done(p, n);
}

struct sc_chat_node *sc_chat_parse_primary(struct sc_chat_parser *p)
{
    struct sc_chat_node *n;
    switch (p->tok->kind) {
    case SC_CHAT_TOK_NAME:
        return parse_name(p);
    case SC_CHAT_TOK_STRING:
        return parse_string(p);
    case SC_CHAT_TOK_INT:
    case SC_CHAT_TOK_FLOAT:
        return parse_number(p);
    default:
        break;
    }
    if (sc_chat_is_op(p, '['))
        return parse_items(p, SC_CHAT_N_LIST, ']', false);
    if (sc_chat_is_op(p, '{'))
        return parse_items(p, SC_CHAT_N_DICT, '}', true);
    if (!sc_chat_skip_op(p, '('))
        return sc_chat_unexpected(p, "an expression");
    n = sc_chat_parse_tuple(p, true, NULL, true);
    return n != NULL && sc_chat_expect_op(p, ')') ? n : NULL;
}

struct sc_chat_node *sc_chat_parse_tuple(struct sc_chat_parser *p, bool with_cond,
                                         const char *end_name, bool in_parens)
{
    uint32_t pos = p->tok->pos;
    struct sc_chat_node *first = NULL, **tail = &first, *n;
    bool is_tuple = false;
    for (;;) {
        if (first != NULL && !sc_chat_expect_op(p, ','))
            return NULL;
        if (p->tok->kind == SC_CHAT_TOK_VAR_END || p->tok->kind == SC_CHAT_TOK_BLOCK_END ||
            sc_chat_is_op(p, ')') || (end_name != NULL && sc_chat_is_name(p, end_name)))
            break;
        *tail = sc_chat_parse_expr(p, with_cond);
        if (*tail == NULL)
            return NULL;
        tail = &(*tail)->next;
        if (!sc_chat_is_op(p, ','))
            break;
        is_tuple = true;
    }
    if (!is_tuple && first != NULL)
        return first;
    if (!is_tuple && !in_parens)
        return sc_chat_unexpected(p, "an expression");
    n = sc_chat_node_new(p, SC_CHAT_N_TUPLE, pos);
    if (n == NULL)
        return NULL;
    n->a = first;
    return sc_chat_node_done(p, n);
}

/* ---- postfix: . [] () ---- */

/* (a, b, name=c) into n->b, n->c, n->n_args */
static bool parse_args(struct sc_chat_parser *p, struct sc_chat_node *n)
{
    struct sc_chat_node **tail = &n->b, **named = &n->c;
    p->tok++;
    while (!sc_chat_is_op(p, ')')) {
        if (n->n_args > 0 && !sc_chat_expect_op(p, ','))
            return false;
        if (sc_chat_is_op(p, ')'))
            break;
        if (sc_chat_is_op(p, '*') || sc_chat_is_op(p, OP2('*', '*')))
            return sc_chat_parse_fail(p, p->tok->pos, SC_ENOTSUP,
                                      "* and ** arguments are not supported") != NULL;
        if (p->tok->kind == SC_CHAT_TOK_NAME && p->tok[1].kind == SC_CHAT_TOK_OP &&
            p->tok[1].op == '=') {
            struct sc_chat_node *kw = sc_chat_node_new(p, SC_CHAT_N_KWARG, p->tok->pos);
            if (kw == NULL)
                return false;
            kw->value = sc_chat_str(p->tpl->source + p->tok->pos, p->tok->len);
            p->tok += 2;
            kw->a = sc_chat_parse_expr(p, true);
            if (kw->a == NULL || sc_chat_node_done(p, kw) == NULL)
                return false;
            *named = kw;
            named = &kw->next;
        } else if (n->c != NULL) {
            return sc_chat_unexpected(p, "a named argument") != NULL;
        } else {
            *tail = sc_chat_parse_expr(p, true);
            if (*tail == NULL)
                return false;
            tail = &(*tail)->next;
        }
        if (++n->n_args > 64)
            return sc_chat_parse_fail(p, n->pos, SC_ERANGE, "more than 64 arguments") != NULL;
    }
    p->tok++;
    return true;
}

/* How many arguments a construct of the tables takes. */
static bool check_args(struct sc_chat_parser *p, const struct sc_chat_node *n,
                       enum sc_chat_name_kind kind, int id, const char *what)
{
    const struct sc_chat_name *name = sc_chat_name_get(kind, id);
    if (n->n_args >= name->min_args && n->n_args <= name->max_args)
        return true;
    return sc_chat_parse_fail(p, n->pos, SC_EFORMAT, "%s %s takes %u to %u arguments, not %u", what,
                              name->name, name->min_args, name->max_args, n->n_args) != NULL;
}

static struct sc_chat_node *parse_call(struct sc_chat_parser *p, struct sc_chat_node *callee)
{
    struct sc_chat_node *n = sc_chat_node_new(p, SC_CHAT_N_CALL, callee->pos);
    if (n == NULL)
        return NULL;
    n->a = callee;
    if (!parse_args(p, n))
        return NULL;
    if (callee->kind == SC_CHAT_N_NAME) {
        /* Macros may be defined further down: names are checked when all is read. */
        n->d = (struct sc_chat_node *)p->calls;
        p->calls = n;
        return sc_chat_node_done(p, n);
    }
    if (callee->kind != SC_CHAT_N_ATTR)
        return sc_chat_parse_fail(p, n->pos, SC_ENOTSUP,
                                  "only functions, macros and methods can be called");
    int id = sc_chat_name_find(SC_CHAT_NAMED_METHOD, callee->value.u.s, callee->value.len);
    if (id < 0)
        return sc_chat_parse_fail(p, callee->pos, SC_ENOTSUP, "method .%.*s() is not supported",
                                  (int)callee->value.len, callee->value.u.s);
    n->id = (uint8_t)id;
    if (!check_args(p, n, SC_CHAT_NAMED_METHOD, id, "method"))
        return NULL;
    return sc_chat_node_done(p, n);
}

static struct sc_chat_node *parse_slice_part(struct sc_chat_parser *p)
{
    return sc_chat_is_op(p, ':') || sc_chat_is_op(p, ']') || sc_chat_is_op(p, ',')
               ? NULL
               : sc_chat_parse_expr(p, true);
}

/* x[a] or x[a:b:c], its bracket not yet passed */
static struct sc_chat_node *parse_subscript(struct sc_chat_parser *p, struct sc_chat_node *obj)
{
    uint32_t pos = (p->tok++)->pos;
    struct sc_chat_node *key = sc_chat_is_op(p, ':') ? NULL : sc_chat_parse_expr(p, true);
    if (sc_chat_is_op(p, ':') && p->status == SC_OK) {
        struct sc_chat_node *slice = sc_chat_node_new(p, SC_CHAT_N_SLICE, pos);
        if (slice == NULL)
            return NULL;
        slice->a = key;
        p->tok++;
        slice->b = parse_slice_part(p);
        if (sc_chat_skip_op(p, ':'))
            slice->c = parse_slice_part(p);
        key = p->status == SC_OK ? sc_chat_node_done(p, slice) : NULL;
    }
    if (key == NULL)
        return NULL;
    if (sc_chat_is_op(p, ','))
        return sc_chat_parse_fail(p, p->tok->pos, SC_ENOTSUP,
                                  "a subscript with a comma is not supported");
    return sc_chat_expect_op(p, ']') ? node2(p, SC_CHAT_N_ITEM, pos, 0, obj, key) : NULL;
}

static struct sc_chat_node *parse_attr(struct sc_chat_parser *p, struct sc_chat_node *obj)
{
    const struct sc_chat_token *t = ++p->tok;
    if (t->kind == SC_CHAT_TOK_INT)
        return node2(p, SC_CHAT_N_ITEM, t->pos, 0, obj, parse_number(p));
    if (t->kind != SC_CHAT_TOK_NAME)
        return sc_chat_unexpected(p, "a name or a number");
    const char *name = p->tpl->source + t->pos;
    p->tok++;
    if (t->len >= 2 && memcmp(name, "__", 2) == 0)
        return sc_chat_parse_fail(p, t->pos, SC_ENOTSUP, "attribute .%.*s is not supported",
                                  (int)t->len, name);
    struct sc_chat_node *n = node1(p, SC_CHAT_N_ATTR, t->pos, obj);
    if (n != NULL)
        n->value = sc_chat_str(name, t->len);
    return n;
}

static struct sc_chat_node *parse_postfix(struct sc_chat_parser *p, struct sc_chat_node *n)
{
    while (n != NULL) {
        if (sc_chat_is_op(p, '.'))
            n = parse_attr(p, n);
        else if (sc_chat_is_op(p, '['))
            n = parse_subscript(p, n);
        else if (sc_chat_is_op(p, '('))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

/* ---- filters and tests ---- */

/* The name of a filter or test at the current token, which is passed. */
static struct sc_chat_node *named_node(struct sc_chat_parser *p, enum sc_chat_node_kind kind,
                                       enum sc_chat_name_kind table, const char *what)
{
    const struct sc_chat_token *t = p->tok;
    if (t->kind != SC_CHAT_TOK_NAME)
        return sc_chat_unexpected(p, what);
    const char *name = p->tpl->source + t->pos;
    int id = sc_chat_name_find(table, name, t->len);
    if (id < 0)
        return sc_chat_parse_fail(p, t->pos, SC_ENOTSUP, "%s %.*s is not supported", what,
                                  (int)t->len, name);
    struct sc_chat_node *n = sc_chat_node_new(p, kind, t->pos);
    if (n != NULL)
        n->id = (uint8_t)id;
    p->tok++;
    return n;
}

/* select, map and their kin name a test or filter in a string: known already here if constant. */
static bool check_inner_name(struct sc_chat_parser *p, const struct sc_chat_node *n)
{
    const struct sc_chat_node *arg = n->b;
    enum sc_chat_name_kind kind = SC_CHAT_NAMED_TEST;
    switch (n->id) {
    case SC_CHAT_F_SELECT:
    case SC_CHAT_F_REJECT:
        break;
    case SC_CHAT_F_SELECTATTR:
    case SC_CHAT_F_REJECTATTR:
        arg = arg != NULL ? arg->next : NULL;
        break;
    case SC_CHAT_F_MAP:
        kind = SC_CHAT_NAMED_FILTER;
        break;
    default:
        return true;
    }
    if (arg == NULL || arg->kind != SC_CHAT_N_CONST || arg->value.type != SC_CHAT_STR ||
        sc_chat_name_find(kind, arg->value.u.s, arg->value.len) >= 0)
        return true;
    return sc_chat_parse_fail(p, arg->pos, SC_ENOTSUP, "%s %.*s is not supported",
                              kind == SC_CHAT_NAMED_TEST ? "test" : "filter", (int)arg->value.len,
                              arg->value.u.s) != NULL;
}

struct sc_chat_node *sc_chat_parse_filters(struct sc_chat_parser *p, struct sc_chat_node *n,
                                           bool bare)
{
    if (n == NULL && (n = sc_chat_node_new(p, SC_CHAT_N_CAPTURED, p->tok->pos)) == NULL)
        return NULL;
    while (bare || sc_chat_skip_op(p, '|')) {
        struct sc_chat_node *f = named_node(p, SC_CHAT_N_FILTER, SC_CHAT_NAMED_FILTER, "filter");
        bare = false;
        if (f == NULL)
            return NULL;
        f->a = n;
        if (sc_chat_is_op(p, '(') && !parse_args(p, f))
            return NULL;
        if (!check_args(p, f, SC_CHAT_NAMED_FILTER, f->id, "filter") || !check_inner_name(p, f))
            return NULL;
        n = sc_chat_node_done(p, f);
        if (n == NULL)
            return NULL;
    }
    return n;
}

/* After `is`. Without parentheses one argument may follow: `x is divisibleby 3`. */
static struct sc_chat_node *parse_test(struct sc_chat_parser *p, struct sc_chat_node *obj)
{
    uint32_t pos = p->tok->pos;
    bool negated = sc_chat_skip_name(p, "not");
    struct sc_chat_node *n = named_node(p, SC_CHAT_N_TEST, SC_CHAT_NAMED_TEST, "test");
    if (n == NULL)
        return NULL;
    n->a = obj;
    if (sc_chat_is_op(p, '(')) {
        if (!parse_args(p, n))
            return NULL;
    } else if (sc_chat_is_name(p, "is")) {
        return sc_chat_parse_fail(p, p->tok->pos, SC_EFORMAT, "tests cannot be chained with is");
    } else if (sc_chat_name_get(SC_CHAT_NAMED_TEST, n->id)->max_args > 0) {
        n->b = parse_postfix(p, sc_chat_parse_primary(p));
        if (n->b == NULL)
            return NULL;
        n->n_args = 1;
    }
    if (!check_args(p, n, SC_CHAT_NAMED_TEST, n->id, "test"))
        return NULL;
    n = sc_chat_node_done(p, n);
    return negated ? node1(p, SC_CHAT_N_NOT, pos, n) : n;
}

static struct sc_chat_node *parse_filter_expr(struct sc_chat_parser *p, struct sc_chat_node *n)
{
    while (n != NULL) {
        if (sc_chat_is_op(p, '|'))
            n = sc_chat_parse_filters(p, n, false);
        else if (sc_chat_skip_name(p, "is"))
            n = parse_test(p, n);
        else if (sc_chat_is_op(p, '('))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

/* ---- operators ---- */

static struct sc_chat_node *parse_unary(struct sc_chat_parser *p, bool with_filter)
{
    uint32_t pos = p->tok->pos;
    struct sc_chat_node *n;
    if (!sc_chat_enter(p))
        return NULL;
    if (sc_chat_skip_op(p, '-'))
        n = node1(p, SC_CHAT_N_NEG, pos, parse_unary(p, false));
    else if (sc_chat_skip_op(p, '+'))
        n = node1(p, SC_CHAT_N_POS, pos, parse_unary(p, false));
    else
        n = sc_chat_parse_primary(p);
    n = parse_postfix(p, n);
    p->depth--;
    return with_filter ? parse_filter_expr(p, n) : n;
}

static struct sc_chat_node *parse_pow(struct sc_chat_parser *p)
{
    uint32_t pos = p->tok->pos;
    struct sc_chat_node *left = parse_unary(p, true);
    while (left != NULL && sc_chat_skip_op(p, OP2('*', '*')))
        left = node2(p, SC_CHAT_N_MATH, pos, OP2('*', '*'), left, parse_unary(p, true));
    return left;
}

static struct sc_chat_node *parse_product(struct sc_chat_parser *p)
{
    uint32_t pos = p->tok->pos;
    struct sc_chat_node *left = parse_pow(p);
    while (left != NULL && (sc_chat_is_op(p, '*') || sc_chat_is_op(p, '/') ||
                            sc_chat_is_op(p, OP2('/', '/')) || sc_chat_is_op(p, '%'))) {
        uint16_t op = (p->tok++)->op;
        left = node2(p, SC_CHAT_N_MATH, pos, op, left, parse_pow(p));
    }
    return left;
}

static struct sc_chat_node *parse_concat(struct sc_chat_parser *p)
{
    struct sc_chat_node *first = parse_product(p), **tail, *n;
    if (first == NULL || !sc_chat_is_op(p, '~'))
        return first;
    n = sc_chat_node_new(p, SC_CHAT_N_CONCAT, first->pos);
    if (n == NULL)
        return NULL;
    n->a = first;
    tail = &first->next;
    while (sc_chat_skip_op(p, '~')) {
        *tail = parse_product(p);
        if (*tail == NULL)
            return NULL;
        tail = &(*tail)->next;
    }
    return sc_chat_node_done(p, n);
}

static struct sc_chat_node *parse_sum(struct sc_chat_parser *p)
{
    uint32_t pos = p->tok->pos;
    struct sc_chat_node *left = parse_concat(p);
    while (left != NULL && (sc_chat_is_op(p, '+') || sc_chat_is_op(p, '-'))) {
        uint16_t op = (p->tok++)->op;
        left = node2(p, SC_CHAT_N_MATH, pos, op, left, parse_concat(p));
    }
    return left;
}

/* The comparison at the current token, which is passed; -1 when there is none. */
static int comparison(struct sc_chat_parser *p)
{
    static const struct {
        uint16_t op;
        uint16_t compare;
    } ops[] = {{OP2('=', '='), SC_CHAT_EQ}, {OP2('!', '='), SC_CHAT_NE},
               {OP2('<', '='), SC_CHAT_LE}, {OP2('>', '='), SC_CHAT_GE},
               {'<', SC_CHAT_LT},           {'>', SC_CHAT_GT}};
    for (size_t i = 0; i < SC_ARRAY_LEN(ops); i++) {
        if (sc_chat_skip_op(p, ops[i].op))
            return ops[i].compare;
    }
    if (sc_chat_skip_name(p, "in"))
        return SC_CHAT_IN;
    if (sc_chat_is_name(p, "not")) {
        p->tok++;
        if (sc_chat_skip_name(p, "in"))
            return SC_CHAT_NOT_IN;
        p->tok--;
    }
    return -1;
}

static struct sc_chat_node *parse_compare(struct sc_chat_parser *p)
{
    struct sc_chat_node *first = parse_sum(p), *operands = NULL, **tail = &operands;
    uint32_t pos = p->tok->pos;
    int op;
    while (p->status == SC_OK && first != NULL && (op = comparison(p)) >= 0) {
        *tail = node1(p, SC_CHAT_N_OPERAND, pos, parse_sum(p));
        if (*tail == NULL)
            return NULL;
        (*tail)->op = (uint16_t)op;
        tail = &(*tail)->next;
    }
    return operands != NULL ? node2(p, SC_CHAT_N_COMPARE, pos, 0, first, operands) : first;
}

static struct sc_chat_node *parse_not(struct sc_chat_parser *p)
{
    uint32_t pos = p->tok->pos;
    if (!sc_chat_skip_name(p, "not"))
        return parse_compare(p);
    if (!sc_chat_enter(p))
        return NULL;
    struct sc_chat_node *n = node1(p, SC_CHAT_N_NOT, pos, parse_not(p));
    p->depth--;
    return n;
}

static struct sc_chat_node *parse_and(struct sc_chat_parser *p)
{
    uint32_t pos = p->tok->pos;
    struct sc_chat_node *left = parse_not(p);
    while (left != NULL && sc_chat_skip_name(p, "and"))
        left = node2(p, SC_CHAT_N_AND, pos, 0, left, parse_not(p));
    return left;
}

static struct sc_chat_node *parse_or(struct sc_chat_parser *p)
{
    uint32_t pos = p->tok->pos;
    struct sc_chat_node *left = parse_and(p);
    while (left != NULL && sc_chat_skip_name(p, "or"))
        left = node2(p, SC_CHAT_N_OR, pos, 0, left, parse_and(p));
    return left;
}

struct sc_chat_node *sc_chat_parse_expr(struct sc_chat_parser *p, bool with_cond)
{
    if (!sc_chat_enter(p))
        return NULL;
    struct sc_chat_node *n = parse_or(p);
    while (n != NULL && with_cond && sc_chat_skip_name(p, "if")) {
        struct sc_chat_node *cond = sc_chat_node_new(p, SC_CHAT_N_COND, n->pos);
        if (cond == NULL)
            break;
        cond->b = n;
        n = NULL;
        cond->a = parse_or(p);
        if (cond->a == NULL)
            break;
        if (sc_chat_skip_name(p, "else") && (cond->c = sc_chat_parse_expr(p, true)) == NULL)
            break;
        n = sc_chat_node_done(p, cond);
    }
    p->depth--;
    return p->status == SC_OK ? n : NULL;
}
