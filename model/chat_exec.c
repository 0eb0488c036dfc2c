/* Statements of a chat template, and scopes. A loop's body, a macro and {% with %} have scopes of
 * their own: what is set there is gone after them, as in Jinja; {% if %} has none. */
#include <stdlib.h>

#include "model/chat_internal.h"

/* ---- scopes ---- */

struct sc_chat_scope *sc_chat_scope_new(struct sc_chat_run *r, struct sc_chat_scope *parent)
{
    struct sc_chat_scope *s = sc_chat_take(r, sizeof(*s));
    if (s != NULL)
        s->parent = parent;
    return s;
}

bool sc_chat_bind(struct sc_chat_run *r, struct sc_chat_scope *scope, int32_t sym,
                  const struct sc_chat_value *value)
{
    struct sc_chat_binding *b = scope->bindings;
    while (b != NULL && b->sym != sym)
        b = b->next;
    if (b == NULL) {
        b = sc_chat_take(r, sizeof(*b));
        if (b == NULL)
            return false;
        b->sym = sym;
        b->next = scope->bindings;
        scope->bindings = b;
    }
    b->value = *value;
    return true;
}

const struct sc_chat_value *sc_chat_lookup(const struct sc_chat_scope *scope, int32_t sym)
{
    for (; scope != NULL; scope = scope->parent) {
        for (const struct sc_chat_binding *b = scope->bindings; b != NULL; b = b->next) {
            if (b->sym == sym)
                return &b->value;
        }
    }
    return NULL;
}

/* ---- assignment ---- */

static bool assign_attr(struct sc_chat_run *r, const struct sc_chat_node *target,
                        struct sc_chat_scope *scope, const struct sc_chat_value *value)
{
    const struct sc_chat_value *ns = sc_chat_lookup(scope, target->sym);
    r->pos = target->pos;
    if (ns == NULL || ns->type != SC_CHAT_NAMESPACE)
        return sc_chat_fail(r, SC_EINVAL, "cannot assign attribute on non-namespace object");
    return sc_chat_dict_set(r, ns->u.dict, &target->value, value);
}

static bool assign(struct sc_chat_run *r, const struct sc_chat_node *target,
                   struct sc_chat_scope *scope, const struct sc_chat_value *value)
{
    const struct sc_chat_seq *seq;
    uint32_t i = 0;
    if (target->kind == SC_CHAT_N_NAME)
        return sc_chat_bind(r, scope, target->sym, value);
    if (target->kind == SC_CHAT_N_NS_ATTR)
        return assign_attr(r, target, scope, value);
    r->pos = target->pos;
    if (!sc_chat_items(r, value, &seq))
        return false;
    for (const struct sc_chat_node *t = target->a; t != NULL; t = t->next) {
        if (i == seq->n)
            return sc_chat_fail(r, SC_EINVAL, "not enough values to unpack: %u", seq->n);
        if (!assign(r, t, scope, &seq->items[i++]))
            return false;
    }
    return i == seq->n ||
           sc_chat_fail(r, SC_EINVAL, "too many values to unpack: %u, expected %u", seq->n, i);
}

/* ---- blocks ---- */

bool sc_chat_capture(struct sc_chat_run *r, const struct sc_chat_node *body,
                     struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    struct sc_chat_buf buf = {0}, *outer = r->out;
    r->out = &buf;
    (void)sc_chat_exec(r, body, scope); /* a failure stays in r->status */
    r->out = outer;
    return sc_chat_buf_value(r, &buf, ret);
}

/* {% set x %}, {% filter %}, {% generation %}: the body's text, through the filters. */
static bool capture_filtered(struct sc_chat_run *r, const struct sc_chat_node *n,
                             struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    struct sc_chat_scope *inner = sc_chat_scope_new(r, scope);
    if (inner == NULL || !sc_chat_capture(r, n->c, inner, ret))
        return false;
    r->captured = *ret;
    return n->b == NULL || sc_chat_eval(r, n->b, scope, ret);
}

static bool exec_output(struct sc_chat_run *r, const struct sc_chat_node *n,
                        struct sc_chat_scope *scope)
{
    struct sc_chat_value v;
    if (!sc_chat_eval(r, n->a, scope, &v))
        return false;
    r->pos = n->a->pos;
    return sc_chat_put_str(r, r->out, &v);
}

static enum sc_chat_flow exec_if(struct sc_chat_run *r, const struct sc_chat_node *n,
                                 struct sc_chat_scope *scope)
{
    for (const struct sc_chat_node *arm = n->a; arm != NULL; arm = arm->next) {
        struct sc_chat_value test = sc_chat_bool(true);
        if (arm->a != NULL && !sc_chat_eval(r, arm->a, scope, &test))
            return SC_CHAT_FAILED;
        if (sc_chat_truth(&test))
            return sc_chat_exec(r, arm->b, scope);
    }
    return SC_CHAT_NEXT;
}

/* for ... if test: the items that pass. */
static bool filter_items(struct sc_chat_run *r, const struct sc_chat_node *n,
                         struct sc_chat_scope *scope, const struct sc_chat_seq **seq)
{
    const struct sc_chat_seq *all = *seq;
    struct sc_chat_value *items = sc_chat_take(r, all->n * sizeof(*items)), test, kept;
    uint32_t count = 0;
    if (items == NULL)
        return false;
    for (uint32_t i = 0; i < all->n; i++) {
        struct sc_chat_scope *inner = sc_chat_scope_new(r, scope);
        if (inner == NULL || !assign(r, n->a, inner, &all->items[i]) ||
            !sc_chat_eval(r, n->d->a, inner, &test))
            return false;
        if (sc_chat_truth(&test))
            items[count++] = all->items[i];
    }
    if (!sc_chat_list(r, SC_CHAT_LIST, items, count, &kept))
        return false;
    *seq = kept.u.seq;
    return true;
}

static enum sc_chat_flow exec_for(struct sc_chat_run *r, const struct sc_chat_node *n,
                                  struct sc_chat_scope *scope)
{
    struct sc_chat_value v, loop_value;
    const struct sc_chat_seq *seq;
    if (!sc_chat_eval(r, n->b, scope, &v))
        return SC_CHAT_FAILED;
    r->pos = n->b->pos;
    if (!sc_chat_items(r, &v, &seq) || (n->d->a != NULL && !filter_items(r, n, scope, &seq)))
        return SC_CHAT_FAILED;
    struct sc_chat_loop *loop = sc_chat_take(r, sizeof(*loop));
    if (loop == NULL)
        return SC_CHAT_FAILED;
    loop->seq = seq;
    loop_value = (struct sc_chat_value){.type = SC_CHAT_LOOP, .u.loop = loop};
    for (; loop->at < seq->n; loop->at++) {
        struct sc_chat_scope *inner = sc_chat_scope_new(r, scope);
        if (inner == NULL || !sc_chat_step(r, 0) ||
            !sc_chat_bind(r, inner, r->tpl->sym_loop, &loop_value) ||
            !assign(r, n->a, inner, &seq->items[loop->at]))
            return SC_CHAT_FAILED;
        enum sc_chat_flow flow = sc_chat_exec(r, n->c, inner);
        if (flow == SC_CHAT_FAILED)
            return flow;
        if (flow == SC_CHAT_BREAK)
            break;
    }
    if (seq->n > 0 || n->d->b == NULL)
        return SC_CHAT_NEXT;
    struct sc_chat_scope *inner = sc_chat_scope_new(r, scope);
    return inner != NULL ? sc_chat_exec(r, n->d->b, inner) : SC_CHAT_FAILED;
}

static bool exec_macro(struct sc_chat_run *r, const struct sc_chat_node *n,
                       struct sc_chat_scope *scope)
{
    struct sc_chat_macro *m = sc_chat_take(r, sizeof(*m));
    if (m == NULL)
        return false;
    *m = (struct sc_chat_macro){.node = n, .scope = scope};
    struct sc_chat_value v = {.type = SC_CHAT_MACRO, .u.macro = m};
    return sc_chat_bind(r, scope, n->sym, &v);
}

/* The values of {% with %} see the scope around, not each other. */
static enum sc_chat_flow exec_with(struct sc_chat_run *r, const struct sc_chat_node *n,
                                   struct sc_chat_scope *scope)
{
    struct sc_chat_scope *inner = sc_chat_scope_new(r, scope);
    struct sc_chat_value v;
    if (inner == NULL)
        return SC_CHAT_FAILED;
    for (const struct sc_chat_node *set = n->a; set != NULL; set = set->next) {
        if (!sc_chat_eval(r, set->b, scope, &v) || !assign(r, set->a, inner, &v))
            return SC_CHAT_FAILED;
    }
    return sc_chat_exec(r, n->c, inner);
}

static enum sc_chat_flow exec_node(struct sc_chat_run *r, const struct sc_chat_node *n,
                                   struct sc_chat_scope *scope)
{
    struct sc_chat_value v;
    bool ok;
    switch ((enum sc_chat_node_kind)n->kind) {
    case SC_CHAT_N_DATA:
        ok = sc_chat_put_str(r, r->out, &n->value);
        break;
    case SC_CHAT_N_OUTPUT:
        ok = exec_output(r, n, scope);
        break;
    case SC_CHAT_N_IF:
        return exec_if(r, n, scope);
    case SC_CHAT_N_FOR:
        return exec_for(r, n, scope);
    case SC_CHAT_N_SET:
        ok = sc_chat_eval(r, n->b, scope, &v) && assign(r, n->a, scope, &v);
        break;
    case SC_CHAT_N_SET_BODY:
        ok = capture_filtered(r, n, scope, &v) && assign(r, n->a, scope, &v);
        break;
    case SC_CHAT_N_MACRO:
        ok = exec_macro(r, n, scope);
        break;
    case SC_CHAT_N_WITH:
        return exec_with(r, n, scope);
    case SC_CHAT_N_SCOPED:
        ok = capture_filtered(r, n, scope, &v) && sc_chat_put_str(r, r->out, &v);
        break;
    case SC_CHAT_N_BREAK:
        return SC_CHAT_BREAK;
    case SC_CHAT_N_CONTINUE:
        return SC_CHAT_CONTINUE;
    default:
        ok = sc_chat_fail(r, SC_EINTERNAL, "a node of kind %u is no statement", n->kind);
        break;
    }
    return ok ? SC_CHAT_NEXT : SC_CHAT_FAILED;
}

enum sc_chat_flow sc_chat_exec(struct sc_chat_run *r, const struct sc_chat_node *body,
                               struct sc_chat_scope *scope)
{
    enum sc_chat_flow flow = SC_CHAT_NEXT;
    if (r->depth >= SC_CHAT_CALL_DEPTH_MAX) {
        (void)sc_chat_fail(r, SC_ERANGE, "evaluation more than %u deep", SC_CHAT_CALL_DEPTH_MAX);
        return SC_CHAT_FAILED;
    }
    r->depth++;
    for (const struct sc_chat_node *n = body; n != NULL && flow == SC_CHAT_NEXT; n = n->next) {
        r->pos = n->pos;
        flow = sc_chat_step(r, 0) ? exec_node(r, n, scope) : SC_CHAT_FAILED;
    }
    r->depth--;
    return flow;
}
