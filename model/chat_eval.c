/* Expressions of a chat template: one function per kind of node. */
#include <stdio.h>
#include <string.h>

#include "model/chat_internal.h"

static bool eval_name(struct sc_chat_run *r, const struct sc_chat_node *n,
                      const struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    const struct sc_chat_value *v = sc_chat_lookup(scope, n->sym);
    char text[100];
    if (v != NULL) {
        *ret = *v;
        return true;
    }
    (void)snprintf(text, sizeof(text), "'%.*s' is undefined",
                   n->value.len < 80 ? (int)n->value.len : 80, n->value.u.s);
    char *hint = sc_chat_take(r, strlen(text) + 1);
    if (hint == NULL)
        return false;
    (void)strcpy(hint, text);
    *ret = sc_chat_undefined(hint);
    return true;
}

static bool eval_sequence(struct sc_chat_run *r, const struct sc_chat_node *n,
                          struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    uint32_t count = 0, i = 0;
    for (const struct sc_chat_node *c = n->a; c != NULL; c = c->next)
        count++;
    struct sc_chat_value *items = sc_chat_take(r, count * sizeof(*items));
    if (items == NULL)
        return false;
    for (const struct sc_chat_node *c = n->a; c != NULL; c = c->next) {
        if (!sc_chat_eval(r, c, scope, &items[i++]))
            return false;
    }
    return sc_chat_list(r, n->kind == SC_CHAT_N_TUPLE ? SC_CHAT_TUPLE : SC_CHAT_LIST, items, count,
                        ret);
}

static bool eval_dict(struct sc_chat_run *r, const struct sc_chat_node *n,
                      struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    struct sc_chat_dict *d;
    struct sc_chat_value key, value;
    if (!sc_chat_dict_new(r, 0, &d))
        return false;
    for (const struct sc_chat_node *c = n->a; c != NULL; c = c->next->next) {
        if (!sc_chat_eval(r, c, scope, &key) || !sc_chat_eval(r, c->next, scope, &value))
            return false;
        r->pos = c->pos;
        if (!sc_chat_dict_set(r, d, &key, &value))
            return false;
    }
    *ret = (struct sc_chat_value){.type = SC_CHAT_DICT, .u.dict = d};
    return true;
}

static bool eval_sign(struct sc_chat_run *r, const struct sc_chat_node *n,
                      struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    struct sc_chat_value zero = sc_chat_int(0), v;
    if (!sc_chat_eval(r, n->a, scope, &v))
        return false;
    r->pos = n->pos;
    if (v.type == SC_CHAT_FLOAT) {
        *ret = sc_chat_float(n->kind == SC_CHAT_N_NEG ? -v.u.f : v.u.f);
        return true;
    }
    return sc_chat_math(r, n->kind == SC_CHAT_N_NEG ? '-' : '+', &zero, &v, ret);
}

/* and, or: the value of the side that decided */
static bool eval_logic(struct sc_chat_run *r, const struct sc_chat_node *n,
                       struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    if (!sc_chat_eval(r, n->a, scope, ret))
        return false;
    if (sc_chat_truth(ret) == (n->kind == SC_CHAT_N_OR))
        return true;
    return sc_chat_eval(r, n->b, scope, ret);
}

static bool eval_math(struct sc_chat_run *r, const struct sc_chat_node *n,
                      struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    struct sc_chat_value a, b;
    if (!sc_chat_eval(r, n->a, scope, &a) || !sc_chat_eval(r, n->b, scope, &b))
        return false;
    r->pos = n->pos;
    return sc_chat_math(r, n->op, &a, &b, ret);
}

/* a < b < c is a < b and b < c, each evaluated once. */
static bool eval_compare(struct sc_chat_run *r, const struct sc_chat_node *n,
                         struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    struct sc_chat_value left, right;
    bool holds = true;
    if (!sc_chat_eval(r, n->a, scope, &left))
        return false;
    for (const struct sc_chat_node *o = n->b; o != NULL && holds; o = o->next) {
        if (!sc_chat_eval(r, o->a, scope, &right))
            return false;
        r->pos = o->pos;
        if (!sc_chat_compare(r, (enum sc_chat_compare)o->op, &left, &right, &holds))
            return false;
        left = right;
    }
    *ret = sc_chat_bool(holds);
    return true;
}

static bool eval_concat(struct sc_chat_run *r, const struct sc_chat_node *n,
                        struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    struct sc_chat_buf buf = {0};
    struct sc_chat_value v;
    for (const struct sc_chat_node *c = n->a; c != NULL; c = c->next) {
        if (!sc_chat_eval(r, c, scope, &v))
            break;
        r->pos = c->pos;
        if (!sc_chat_put_str(r, &buf, &v))
            break;
    }
    return sc_chat_buf_value(r, &buf, ret);
}

static bool eval_cond(struct sc_chat_run *r, const struct sc_chat_node *n,
                      struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    struct sc_chat_value test;
    if (!sc_chat_eval(r, n->a, scope, &test))
        return false;
    if (sc_chat_truth(&test))
        return sc_chat_eval(r, n->b, scope, ret);
    if (n->c != NULL)
        return sc_chat_eval(r, n->c, scope, ret);
    *ret = sc_chat_undefined("the inline if was false and has no else");
    return true;
}

static bool eval_slice(struct sc_chat_run *r, const struct sc_chat_node *n,
                       struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    const struct sc_chat_node *parts[3] = {n->a, n->b, n->c};
    struct sc_chat_value *v = sc_chat_take(r, 3 * sizeof(*v));
    if (v == NULL)
        return false;
    for (int i = 0; i < 3; i++) {
        v[i] = sc_chat_none();
        if (parts[i] != NULL && !sc_chat_eval(r, parts[i], scope, &v[i]))
            return false;
    }
    return sc_chat_list(r, SC_CHAT_SLICE, v, 3, ret);
}

static bool eval_item(struct sc_chat_run *r, const struct sc_chat_node *n,
                      struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    struct sc_chat_value obj, key;
    if (!sc_chat_eval(r, n->a, scope, &obj))
        return false;
    if (n->kind == SC_CHAT_N_ATTR) {
        r->pos = n->pos;
        return sc_chat_get_attr(r, &obj, &n->value, ret);
    }
    if (!sc_chat_eval(r, n->b, scope, &key))
        return false;
    r->pos = n->pos;
    return sc_chat_get_item(r, &obj, &key, ret);
}

static bool eval_filter(struct sc_chat_run *r, const struct sc_chat_node *n,
                        struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    struct sc_chat_value v;
    struct sc_chat_args args;
    if (!sc_chat_eval(r, n->a, scope, &v) || !sc_chat_eval_args(r, n, scope, &args))
        return false;
    r->pos = n->pos;
    return sc_chat_filter(r, n->id, &v, &args, ret);
}

static bool eval_test(struct sc_chat_run *r, const struct sc_chat_node *n,
                      struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    struct sc_chat_value v;
    struct sc_chat_args args;
    bool is = false;
    if (!sc_chat_eval(r, n->a, scope, &v) || !sc_chat_eval_args(r, n, scope, &args))
        return false;
    r->pos = n->pos;
    if (!sc_chat_test(r, n->id, &v, &args, &is))
        return false;
    *ret = sc_chat_bool(is);
    return true;
}

static bool eval_node(struct sc_chat_run *r, const struct sc_chat_node *n,
                      struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    switch ((enum sc_chat_node_kind)n->kind) {
    case SC_CHAT_N_CONST:
        *ret = n->value;
        return true;
    case SC_CHAT_N_CAPTURED:
        *ret = r->captured;
        return true;
    case SC_CHAT_N_NAME:
        return eval_name(r, n, scope, ret);
    case SC_CHAT_N_TUPLE:
    case SC_CHAT_N_LIST:
        return eval_sequence(r, n, scope, ret);
    case SC_CHAT_N_DICT:
        return eval_dict(r, n, scope, ret);
    case SC_CHAT_N_NEG:
    case SC_CHAT_N_POS:
        return eval_sign(r, n, scope, ret);
    case SC_CHAT_N_NOT:
        if (!sc_chat_eval(r, n->a, scope, ret))
            return false;
        *ret = sc_chat_bool(!sc_chat_truth(ret));
        return true;
    case SC_CHAT_N_AND:
    case SC_CHAT_N_OR:
        return eval_logic(r, n, scope, ret);
    case SC_CHAT_N_MATH:
        return eval_math(r, n, scope, ret);
    case SC_CHAT_N_COMPARE:
        return eval_compare(r, n, scope, ret);
    case SC_CHAT_N_CONCAT:
        return eval_concat(r, n, scope, ret);
    case SC_CHAT_N_COND:
        return eval_cond(r, n, scope, ret);
    case SC_CHAT_N_ATTR:
    case SC_CHAT_N_ITEM:
        return eval_item(r, n, scope, ret);
    case SC_CHAT_N_SLICE:
        return eval_slice(r, n, scope, ret);
    case SC_CHAT_N_FILTER:
        return eval_filter(r, n, scope, ret);
    case SC_CHAT_N_TEST:
        return eval_test(r, n, scope, ret);
    case SC_CHAT_N_CALL:
        return sc_chat_eval_call(r, n, scope, ret);
    default:
        return sc_chat_fail(r, SC_EINTERNAL, "a node of kind %u is no expression", n->kind);
    }
}

bool sc_chat_eval(struct sc_chat_run *r, const struct sc_chat_node *n, struct sc_chat_scope *scope,
                  struct sc_chat_value *ret)
{
    r->pos = n->pos;
    if (!sc_chat_step(r, 0))
        return false;
    if (r->depth >= SC_CHAT_CALL_DEPTH_MAX)
        return sc_chat_fail(r, SC_ERANGE, "evaluation more than %u deep", SC_CHAT_CALL_DEPTH_MAX);
    r->depth++;
    bool ok = eval_node(r, n, scope, ret);
    r->depth--;
    return ok && r->status == SC_OK;
}
