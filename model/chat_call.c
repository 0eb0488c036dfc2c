/* Calls: functions, macros, methods, and their arguments. */
#include <string.h>

#include "model/chat_internal.h"

#define RANGE_MAX 100000 /* items, as in Jinja's sandbox */

bool sc_chat_eval_args(struct sc_chat_run *r, const struct sc_chat_node *n,
                       struct sc_chat_scope *scope, struct sc_chat_args *ret)
{
    struct sc_chat_value *v = NULL;
    struct sc_chat_entry *named = NULL;
    *ret = (struct sc_chat_args){0};
    if (n->n_args == 0)
        return true;
    if ((v = sc_chat_take(r, n->n_args * sizeof(*v))) == NULL)
        return false;
    ret->v = v;
    for (const struct sc_chat_node *a = n->b; a != NULL; a = a->next) {
        if (!sc_chat_eval(r, a, scope, &v[ret->n++]))
            return false;
    }
    if (n->c == NULL)
        return true;
    if ((named = sc_chat_take(r, n->n_args * sizeof(*named))) == NULL)
        return false;
    ret->named = named;
    for (const struct sc_chat_node *a = n->c; a != NULL; a = a->next) {
        named[ret->n_named].key = a->value;
        if (!sc_chat_eval(r, a->a, scope, &named[ret->n_named++].value))
            return false;
    }
    return true;
}

/* ---- functions ---- */

/* The entries of a dict argument, then the named arguments. */
static bool make_dict(struct sc_chat_run *r, enum sc_chat_type type,
                      const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    struct sc_chat_dict *d;
    if (!sc_chat_dict_new(r, args->n_named, &d))
        return false;
    for (uint32_t i = 0; i < args->n; i++) {
        if (args->v[i].type != SC_CHAT_DICT || i > 0)
            return sc_chat_fail(r, SC_EINVAL, "only one dict and named values are taken, not %s",
                                sc_chat_type_name(&args->v[i]));
        const struct sc_chat_dict *from = args->v[i].u.dict;
        for (uint32_t k = 0; k < from->n; k++) {
            if (!sc_chat_dict_set(r, d, &from->entries[k].key, &from->entries[k].value))
                return false;
        }
    }
    for (uint32_t i = 0; i < args->n_named; i++) {
        if (!sc_chat_dict_set(r, d, &args->named[i].key, &args->named[i].value))
            return false;
    }
    *ret = (struct sc_chat_value){.type = (uint8_t)type, .u.dict = d};
    return true;
}

static bool raise_exception(struct sc_chat_run *r, const struct sc_chat_value *message)
{
    struct sc_chat_value text;
    if (!sc_chat_to_str(r, message, &text))
        return false;
    /* The template's own words, for whoever sent the messages: no position. */
    r->status = sc_fail(r->err, SC_EINVAL, "%.*s", text.len < 1024 ? (int)text.len : 1024,
                        text.len > 0 ? text.u.s : "");
    return false;
}

static bool strftime_now(struct sc_chat_run *r, const struct sc_chat_value *format,
                         struct sc_chat_value *ret)
{
    char fmt[128], text[512];
    struct tm tm;
    if (format->type != SC_CHAT_STR || format->len >= sizeof(fmt) - 1 ||
        memchr(format->u.s, '\0', format->len) != NULL)
        return sc_chat_fail(r, SC_EINVAL, "strftime_now takes a string of at most %zu bytes",
                            sizeof(fmt) - 2);
    memcpy(fmt, format->u.s, format->len);
    fmt[format->len] = ' '; /* so that no result is empty: 0 from strftime then means too long */
    fmt[format->len + 1] = '\0';
    if (r->now != NULL) {
        tm = *r->now;
    } else {
        time_t now = time(NULL);
        if (localtime_r(&now, &tm) == NULL)
            return sc_chat_fail(r, SC_EINTERNAL, "strftime_now: no local time");
    }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t n = strftime(text, sizeof(text), fmt, &tm);
#pragma GCC diagnostic pop
    if (n == 0)
        return sc_chat_fail(r, SC_ERANGE, "strftime_now: the text is over %zu bytes", sizeof(text));
    char *copy = sc_chat_take(r, n);
    if (copy == NULL)
        return false;
    memcpy(copy, text, n - 1);
    *ret = sc_chat_str(copy, n - 1);
    return true;
}

static bool range(struct sc_chat_run *r, const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    int64_t v[3] = {0, 0, 1}, n = 0;
    if (args->n_named > 0 || args->n == 0 || args->n > 3)
        return sc_chat_fail(r, SC_EINVAL, "range takes 1 to 3 integers");
    for (uint32_t i = 0; i < args->n; i++) {
        if (!sc_chat_is_int(&args->v[i], &v[args->n == 1 ? 1 : i]))
            return sc_chat_fail(r, SC_EINVAL, "range takes integers, not %s",
                                sc_chat_type_name(&args->v[i]));
    }
    if (v[2] == 0)
        return sc_chat_fail(r, SC_EINVAL, "range: the step is 0");
    /* In 128 bits: the ends may be far apart. */
    __int128 span = v[2] > 0 ? (__int128)v[1] - v[0] : (__int128)v[0] - v[1];
    __int128 step = v[2] > 0 ? (__int128)v[2] : -(__int128)v[2];
    if (span > 0 && (span + step - 1) / step > RANGE_MAX)
        return sc_chat_fail(r, SC_ERANGE, "range: more than %d items", RANGE_MAX);
    n = span > 0 ? (int64_t)((span + step - 1) / step) : 0;
    struct sc_chat_value *items = sc_chat_take(r, (size_t)n * sizeof(*items));
    if (items == NULL || !sc_chat_step(r, (size_t)n * sizeof(*items)))
        return false;
    for (int64_t i = 0; i < n; i++)
        items[i] = sc_chat_int(v[0] + i * v[2]);
    return sc_chat_list(r, SC_CHAT_LIST, items, (uint32_t)n, ret);
}

static bool call_func(struct sc_chat_run *r, enum sc_chat_func_id id,
                      const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    const struct sc_chat_value *arg;
    switch (id) {
    case SC_CHAT_FN_NAMESPACE:
        return make_dict(r, SC_CHAT_NAMESPACE, args, ret);
    case SC_CHAT_FN_DICT:
        return make_dict(r, SC_CHAT_DICT, args, ret);
    case SC_CHAT_FN_RANGE:
        return range(r, args, ret);
    case SC_CHAT_FN_RAISE_EXCEPTION:
        arg = sc_chat_arg(args, 0, "message");
        return arg != NULL ? raise_exception(r, arg)
                           : sc_chat_fail(r, SC_EINVAL, "raise_exception takes a message");
    case SC_CHAT_FN_STRFTIME_NOW:
        arg = sc_chat_arg(args, 0, "format");
        return arg != NULL ? strftime_now(r, arg, ret)
                           : sc_chat_fail(r, SC_EINVAL, "strftime_now takes a format");
    case SC_CHAT_FN_COUNT_OF:
        break;
    }
    return sc_chat_fail(r, SC_EINTERNAL, "function %d", (int)id);
}

/* ---- macros ---- */

static bool bind_param(struct sc_chat_run *r, const struct sc_chat_node *param, uint32_t i,
                       const struct sc_chat_args *args, struct sc_chat_scope *scope,
                       uint32_t *n_named_used)
{
    struct sc_chat_value value;
    if (i < args->n) {
        value = args->v[i];
    } else {
        bool found = false;
        for (uint32_t k = 0; k < args->n_named && !found; k++) {
            const struct sc_chat_value *key = &args->named[k].key;
            found =
                key->len == param->value.len && memcmp(key->u.s, param->value.u.s, key->len) == 0;
            if (found)
                value = args->named[k].value;
        }
        *n_named_used += found;
        if (!found && param->a == NULL)
            value = sc_chat_undefined("a macro's parameter was not given");
        else if (!found && !sc_chat_eval(r, param->a, scope, &value))
            return false;
    }
    return sc_chat_bind(r, scope, param->sym, &value);
}

static bool call_macro(struct sc_chat_run *r, const struct sc_chat_macro *macro,
                       const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    const struct sc_chat_node *n = macro->node;
    struct sc_chat_scope *scope = sc_chat_scope_new(r, macro->scope);
    uint32_t i = 0, n_named_used = 0;
    if (scope == NULL)
        return false;
    if (args->n > n->n_args)
        return sc_chat_fail(r, SC_EINVAL, "macro %.*s takes %u arguments, not %u",
                            (int)n->value.len, n->value.u.s, n->n_args, args->n);
    for (const struct sc_chat_node *p = n->a; p != NULL; p = p->next) {
        if (!bind_param(r, p, i++, args, scope, &n_named_used))
            return false;
    }
    if (n_named_used != args->n_named)
        return sc_chat_fail(r, SC_EINVAL, "macro %.*s has no such named argument",
                            (int)n->value.len, n->value.u.s);
    return sc_chat_capture(r, n->c, scope, ret);
}

/* ---- methods ---- */

static bool dict_method(struct sc_chat_run *r, enum sc_chat_method_id id,
                        const struct sc_chat_dict *d, const struct sc_chat_args *args,
                        struct sc_chat_value *ret)
{
    const struct sc_chat_value *found;
    if (id != SC_CHAT_M_GET)
        return sc_chat_dict_view(r, d, id, ret);
    if (args->n == 0)
        return sc_chat_fail(r, SC_EINVAL, "get takes a key");
    if (args->v[0].type == SC_CHAT_LIST || args->v[0].type == SC_CHAT_DICT)
        return sc_chat_fail(r, SC_EINVAL, "unhashable type: '%s'", sc_chat_type_name(&args->v[0]));
    if (!sc_chat_dict_get(r, d, &args->v[0], &found))
        return false;
    *ret = found != NULL ? *found : args->n > 1 ? args->v[1] : sc_chat_none();
    return true;
}

static bool loop_method(struct sc_chat_run *r, enum sc_chat_method_id id, struct sc_chat_loop *loop,
                        const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    struct sc_chat_value now;
    bool same = false;
    if (args->n == 0)
        return sc_chat_fail(r, SC_EINVAL, "loop.cycle and loop.changed take values");
    if (id == SC_CHAT_M_CYCLE) {
        *ret = args->v[loop->at % args->n];
        return true;
    }
    if (!sc_chat_list(r, SC_CHAT_TUPLE, args->v, args->n, &now) ||
        (loop->has_last && !sc_chat_equal(r, &now, &loop->last, &same)))
        return false;
    loop->has_last = true;
    loop->last = now;
    *ret = sc_chat_bool(!same);
    return true;
}

static bool call_method(struct sc_chat_run *r, const struct sc_chat_node *n,
                        struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    enum sc_chat_method_id id = (enum sc_chat_method_id)n->id;
    struct sc_chat_value obj;
    struct sc_chat_args args;
    if (!sc_chat_eval(r, n->a->a, scope, &obj))
        return false;
    r->pos = n->a->pos;
    if (obj.type == SC_CHAT_UNDEFINED)
        return sc_chat_use_undefined(r, &obj);
    if (!sc_chat_eval_args(r, n, scope, &args))
        return false;
    r->pos = n->a->pos;
    if (obj.type == SC_CHAT_STR)
        return sc_chat_str_method(r, id, &obj, &args, ret);
    if (obj.type == SC_CHAT_DICT && (id == SC_CHAT_M_ITEMS || id == SC_CHAT_M_KEYS ||
                                     id == SC_CHAT_M_VALUES || id == SC_CHAT_M_GET))
        return dict_method(r, id, obj.u.dict, &args, ret);
    if (obj.type == SC_CHAT_LOOP && (id == SC_CHAT_M_CYCLE || id == SC_CHAT_M_CHANGED))
        return loop_method(r, id, obj.u.loop, &args, ret);
    return sc_chat_fail(r, SC_EINVAL, "'%s object' has no method '%s'", sc_chat_type_name(&obj),
                        sc_chat_name_get(SC_CHAT_NAMED_METHOD, n->id)->name);
}

bool sc_chat_eval_call(struct sc_chat_run *r, const struct sc_chat_node *n,
                       struct sc_chat_scope *scope, struct sc_chat_value *ret)
{
    struct sc_chat_value callee;
    struct sc_chat_args args;
    if (n->a->kind == SC_CHAT_N_ATTR)
        return call_method(r, n, scope, ret);
    if (!sc_chat_eval(r, n->a, scope, &callee))
        return false;
    r->pos = n->pos;
    if (callee.type == SC_CHAT_UNDEFINED)
        return sc_chat_use_undefined(r, &callee);
    if (callee.type != SC_CHAT_FUNC && callee.type != SC_CHAT_MACRO)
        return sc_chat_fail(r, SC_EINVAL, "'%s' object is not callable",
                            sc_chat_type_name(&callee));
    if (!sc_chat_eval_args(r, n, scope, &args))
        return false;
    r->pos = n->pos;
    return callee.type == SC_CHAT_FUNC ? call_func(r, callee.u.func, &args, ret)
                                       : call_macro(r, callee.u.macro, &args, ret);
}
