/* x.name, x[key], x[a:b:c] and arithmetic. What is not there is undefined, as Jinja has it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/chat_internal.h"

#define OP2(a, b) SC_CHAT_OP2(a, b)

/* ---- undefined results ---- */

static bool missing(struct sc_chat_run *r, const struct sc_chat_value *obj,
                    const struct sc_chat_value *name, struct sc_chat_value *ret)
{
    char text[160];
    const char *kind = sc_chat_type_name(obj);
    if (name->type == SC_CHAT_STR)
        (void)snprintf(text, sizeof(text), "'%s object' has no attribute '%.*s'", kind,
                       name->len < 80 ? (int)name->len : 80, name->u.s);
    else
        (void)snprintf(text, sizeof(text), "'%s object' has no such element", kind);
    char *hint = sc_chat_take(r, strlen(text) + 1);
    if (hint == NULL)
        return false;
    (void)strcpy(hint, text);
    *ret = sc_chat_undefined(hint);
    return true;
}

/* ---- the loop variable ---- */

static bool loop_attr(const struct sc_chat_loop *loop, const struct sc_chat_value *name,
                      struct sc_chat_value *ret)
{
    const struct sc_chat_seq *seq = loop->seq;
    const struct {
        const char *name;
        struct sc_chat_value value;
    } attrs[] = {
        {"index", sc_chat_int((int64_t)loop->at + 1)},
        {"index0", sc_chat_int(loop->at)},
        {"revindex", sc_chat_int((int64_t)seq->n - loop->at)},
        {"revindex0", sc_chat_int((int64_t)seq->n - loop->at - 1)},
        {"first", sc_chat_bool(loop->at == 0)},
        {"last", sc_chat_bool(loop->at + 1 == seq->n)},
        {"length", sc_chat_int(seq->n)},
        {"depth", sc_chat_int(1)}, /* deeper only in recursive loops */
        {"depth0", sc_chat_int(0)},
        {"previtem",
         loop->at > 0 ? seq->items[loop->at - 1] : sc_chat_undefined("there is no previous item")},
        {"nextitem", loop->at + 1 < seq->n ? seq->items[loop->at + 1]
                                           : sc_chat_undefined("there is no next item")},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(attrs); i++) {
        if (strlen(attrs[i].name) == name->len &&
            memcmp(attrs[i].name, name->u.s, name->len) == 0) {
            *ret = attrs[i].value;
            return true;
        }
    }
    return false;
}

/* ---- lookups ---- */

/* The element under key, if the object has elements and this one: what Python's obj[key] gives. */
static bool element(struct sc_chat_run *r, const struct sc_chat_value *obj,
                    const struct sc_chat_value *key, bool *ret_found, struct sc_chat_value *ret)
{
    const struct sc_chat_value *v = NULL;
    int64_t i = 0, n;
    *ret_found = false;
    if (obj->type == SC_CHAT_DICT) {
        if (key->type == SC_CHAT_LIST || key->type == SC_CHAT_DICT)
            return true;
        if (!sc_chat_dict_get(r, obj->u.dict, key, &v))
            return false;
        if (v != NULL)
            *ret = *v;
        *ret_found = v != NULL;
        return true;
    }
    if (obj->type != SC_CHAT_LIST && obj->type != SC_CHAT_TUPLE && obj->type != SC_CHAT_STR)
        return true;
    if (!sc_chat_is_int(key, &i))
        return true;
    if (!sc_chat_length(r, obj, &n))
        return false;
    if (i < 0)
        i += n;
    if (i < 0 || i >= n)
        return true;
    *ret_found = true;
    if (obj->type == SC_CHAT_STR) {
        uint32_t from = sc_chat_str_offset(obj, (uint32_t)i);
        struct sc_chat_value rest = sc_chat_str(obj->u.s + from, obj->len - from);
        *ret = sc_chat_str(rest.u.s, sc_chat_str_offset(&rest, 1));
        ret->markup = obj->markup;
    } else {
        *ret = obj->u.seq->items[i];
    }
    return true;
}

/* The attribute of the object itself: what Python's getattr gives. */
static bool attribute(struct sc_chat_run *r, const struct sc_chat_value *obj,
                      const struct sc_chat_value *name, bool *ret_found, struct sc_chat_value *ret)
{
    const struct sc_chat_value *v = NULL;
    bool mutates = false;
    *ret_found = true;
    if (obj->type == SC_CHAT_NAMESPACE) {
        if (!sc_chat_dict_get(r, obj->u.dict, name, &v))
            return false;
        *ret_found = v != NULL;
        if (v != NULL)
            *ret = *v;
    } else if (obj->type == SC_CHAT_LOOP) {
        *ret_found = loop_attr(obj->u.loop, name, ret);
    } else if (sc_chat_type_has_attr((enum sc_chat_type)obj->type, name->u.s, name->len,
                                     &mutates)) {
        *ret = mutates ? sc_chat_undefined("a method that changes its object is not allowed")
                       : (struct sc_chat_value){.type = SC_CHAT_METHOD};
    } else {
        *ret_found = false;
    }
    return true;
}

bool sc_chat_get_attr(struct sc_chat_run *r, const struct sc_chat_value *obj,
                      const struct sc_chat_value *name, struct sc_chat_value *ret)
{
    bool found;
    if (obj->type == SC_CHAT_UNDEFINED)
        return sc_chat_use_undefined(r, obj);
    if (!attribute(r, obj, name, &found, ret) || (!found && !element(r, obj, name, &found, ret)))
        return false;
    return found || missing(r, obj, name, ret);
}

/* ---- slices ---- */

/* start, stop and step as Python's slice.indices(n) settles them. */
static bool slice_indices(struct sc_chat_run *r, const struct sc_chat_value *slice, int64_t n,
                          int64_t ret[3])
{
    const struct sc_chat_value *part = slice->u.seq->items;
    int64_t step = 1;
    for (int i = 0; i < 3; i++) {
        int64_t ignored;
        if (part[i].type != SC_CHAT_NONE && !sc_chat_is_int(&part[i], &ignored))
            return sc_chat_fail(r, SC_EINVAL, "slice indices must be integers or none, not %s",
                                sc_chat_type_name(&part[i]));
    }
    (void)sc_chat_is_int(&part[2], &step);
    if (step == 0)
        return sc_chat_fail(r, SC_EINVAL, "slice step cannot be zero");
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    for (int i = 0; i < 2; i++) {
        int64_t v = (i == 0) == (step > 0) ? low : high;
        if (sc_chat_is_int(&part[i], &v)) {
            if (v < 0)
                v = v < -n ? low : v + n;
            v = v < low ? low : v > high ? high : v;
        }
        ret[i] = v;
    }
    ret[2] = step;
    return true;
}

static bool slice_string(struct sc_chat_run *r, const struct sc_chat_value *s, const int64_t at[3],
                         struct sc_chat_value *ret)
{
    struct sc_chat_buf buf = {0};
    if (at[2] == 1) {
        uint32_t from = sc_chat_str_offset(s, (uint32_t)at[0]), len = 0;
        struct sc_chat_value rest = sc_chat_str(s->u.s + from, s->len - from);
        if (at[1] > at[0])
            len = sc_chat_str_offset(&rest, (uint32_t)(at[1] - at[0]));
        *ret = sc_chat_str(rest.u.s, len);
    } else {
        const struct sc_chat_seq *chars;
        if (!sc_chat_items(r, s, &chars))
            return false;
        for (int64_t i = at[0]; at[2] > 0 ? i < at[1] : i > at[1];) {
            if (!sc_chat_put(r, &buf, chars->items[i].u.s, chars->items[i].len) ||
                __builtin_add_overflow(i, at[2], &i))
                break;
        }
        if (!sc_chat_buf_value(r, &buf, ret))
            return false;
    }
    ret->markup = s->markup;
    return true;
}

static bool slice(struct sc_chat_run *r, const struct sc_chat_value *obj,
                  const struct sc_chat_value *key, struct sc_chat_value *ret)
{
    int64_t n, at[3] = {0};
    struct sc_chat_value *items;
    if (!sc_chat_length(r, obj, &n) || !slice_indices(r, key, n, at))
        return false;
    if (obj->type == SC_CHAT_STR)
        return slice_string(r, obj, at, ret);
    if (at[2] == 1)
        return sc_chat_list(r, (enum sc_chat_type)obj->type, obj->u.seq->items + at[0],
                            at[1] > at[0] ? (uint32_t)(at[1] - at[0]) : 0, ret);
    uint32_t taken = 0;
    items = sc_chat_take(r, (size_t)n * sizeof(*items));
    if (items == NULL || !sc_chat_step(r, (size_t)n * sizeof(*items)))
        return false;
    for (int64_t i = at[0]; at[2] > 0 ? i < at[1] : i > at[1];) {
        items[taken++] = obj->u.seq->items[i];
        if (__builtin_add_overflow(i, at[2], &i))
            break;
    }
    return sc_chat_list(r, (enum sc_chat_type)obj->type, items, taken, ret);
}

bool sc_chat_get_item(struct sc_chat_run *r, const struct sc_chat_value *obj,
                      const struct sc_chat_value *key, struct sc_chat_value *ret)
{
    bool found;
    if (obj->type == SC_CHAT_UNDEFINED)
        return sc_chat_use_undefined(r, obj);
    if (key->type == SC_CHAT_SLICE) {
        if (obj->type == SC_CHAT_STR || obj->type == SC_CHAT_LIST || obj->type == SC_CHAT_TUPLE)
            return slice(r, obj, key, ret);
        return sc_chat_fail(r, SC_EINVAL, "'%s' object cannot be sliced", sc_chat_type_name(obj));
    }
    if (!element(r, obj, key, &found, ret) ||
        (!found && key->type == SC_CHAT_STR && !attribute(r, obj, key, &found, ret)))
        return false;
    return found || missing(r, obj, key, ret);
}

/* ---- arithmetic ---- */

static bool unsupported(struct sc_chat_run *r, uint16_t op, const struct sc_chat_value *a,
                        const struct sc_chat_value *b)
{
    char sign[3] = {(char)(op & 0xff), (char)(op >> 8), '\0'};
    return sc_chat_fail(r, SC_EINVAL, "unsupported operands for %s: '%s' and '%s'", sign,
                        sc_chat_type_name(a), sc_chat_type_name(b));
}

static bool int_pow(int64_t base, int64_t exponent, int64_t *ret)
{
    *ret = 1;
    /* Beyond 64 only 0, 1 and -1 do not overflow. */
    if (base == 0 || base == 1 || base == -1)
        exponent = exponent > 2 ? 2 + exponent % 2 : exponent;
    for (int64_t i = 0; i < exponent; i++) {
        if (__builtin_mul_overflow(*ret, base, ret))
            return true;
    }
    return false;
}

static bool int_math(struct sc_chat_run *r, uint16_t op, int64_t a, int64_t b, int64_t *ret)
{
    bool over = false;
    switch (op) {
    case '+':
        over = __builtin_add_overflow(a, b, ret);
        break;
    case '-':
        over = __builtin_sub_overflow(a, b, ret);
        break;
    case '*':
        over = __builtin_mul_overflow(a, b, ret);
        break;
    case OP2('*', '*'):
        over = int_pow(a, b, ret);
        break;
    default: /* // and %: towards minus infinity, as Python divides */
        over = a == INT64_MIN && b == -1;
        if (!over && op == '%')
            *ret = a % b + (a % b != 0 && (a % b < 0) != (b < 0) ? b : 0);
        else if (!over)
            *ret = a / b - (a % b != 0 && (a % b < 0) != (b < 0));
        break;
    }
    return !over || sc_chat_fail(r, SC_ERANGE, "an integer is beyond 64 bits");
}

static double float_math(uint16_t op, double a, double b)
{
    switch (op) {
    case '+':
        return a + b;
    case '-':
        return a - b;
    case '*':
        return a * b;
    case '/':
        return a / b;
    case OP2('*', '*'):
        return pow(a, b);
    case OP2('/', '/'):
        return floor(a / b);
    default: {
        double m = fmod(a, b);
        return m != 0.0 && (m < 0.0) != (b < 0.0) ? m + b : m;
    }
    }
}

static bool number_math(struct sc_chat_run *r, uint16_t op, const struct sc_chat_value *a,
                        const struct sc_chat_value *b, struct sc_chat_value *ret)
{
    int64_t ia, ib, i = 0;
    bool divides = op == '/' || op == '%' || op == OP2('/', '/');
    if (divides && sc_chat_number(b) == 0.0)
        return sc_chat_fail(r, SC_EINVAL, "division by zero");
    if (op != '/' && sc_chat_is_int(a, &ia) && sc_chat_is_int(b, &ib) &&
        !(op == OP2('*', '*') && ib < 0)) {
        *ret = sc_chat_int(0);
        if (!int_math(r, op, ia, ib, &i))
            return false;
        *ret = sc_chat_int(i);
        return true;
    }
    *ret = sc_chat_float(float_math(op, sc_chat_number(a), sc_chat_number(b)));
    return true;
}

/* list * 3, "ab" * 3 */
static bool repeat(struct sc_chat_run *r, const struct sc_chat_value *what, int64_t times,
                   struct sc_chat_value *ret)
{
    bool is_str = what->type == SC_CHAT_STR;
    size_t unit = is_str ? what->len : what->u.seq->n * sizeof(struct sc_chat_value), bytes;
    if (times < 0)
        times = 0;
    if (__builtin_mul_overflow(unit, (size_t)times, &bytes) || bytes > SC_CHAT_OUTPUT_BYTES_MAX)
        return sc_chat_fail(r, SC_ERANGE, "a repeated value is over %zu bytes",
                            SC_CHAT_OUTPUT_BYTES_MAX);
    char *p = sc_chat_take(r, bytes);
    if (p == NULL || !sc_chat_step(r, bytes))
        return false;
    for (size_t at = 0; at < bytes; at += unit)
        memcpy(p + at, is_str ? (const void *)what->u.s : what->u.seq->items, unit);
    if (!is_str)
        return sc_chat_list(r, (enum sc_chat_type)what->type, (struct sc_chat_value *)(void *)p,
                            (uint32_t)(bytes / sizeof(struct sc_chat_value)), ret);
    *ret = sc_chat_str(p, bytes);
    ret->markup = what->markup;
    return true;
}

static bool add_lists(struct sc_chat_run *r, const struct sc_chat_value *a,
                      const struct sc_chat_value *b, struct sc_chat_value *ret)
{
    const struct sc_chat_seq *x = a->u.seq, *y = b->u.seq;
    size_t n = (size_t)x->n + y->n;
    struct sc_chat_value *items = sc_chat_take(r, n * sizeof(*items));
    if (items == NULL || !sc_chat_step(r, n * sizeof(*items)))
        return false;
    if (x->n > 0)
        memcpy(items, x->items, x->n * sizeof(*items));
    if (y->n > 0)
        memcpy(items + x->n, y->items, y->n * sizeof(*items));
    return sc_chat_list(r, (enum sc_chat_type)a->type, items, (uint32_t)n, ret);
}

static bool is_seq(const struct sc_chat_value *v)
{
    return v->type == SC_CHAT_STR || v->type == SC_CHAT_LIST || v->type == SC_CHAT_TUPLE;
}

bool sc_chat_math(struct sc_chat_run *r, uint16_t op, const struct sc_chat_value *a,
                  const struct sc_chat_value *b, struct sc_chat_value *ret)
{
    int64_t times;
    if (a->type == SC_CHAT_UNDEFINED || b->type == SC_CHAT_UNDEFINED)
        return sc_chat_use_undefined(r, a->type == SC_CHAT_UNDEFINED ? a : b);
    if (sc_chat_is_number(a) && sc_chat_is_number(b))
        return number_math(r, op, a, b, ret);
    if (op == '+' && a->type == SC_CHAT_STR && b->type == SC_CHAT_STR)
        return sc_chat_concat(r, a, b, ret);
    if (op == '+' && a->type == b->type && (a->type == SC_CHAT_LIST || a->type == SC_CHAT_TUPLE))
        return add_lists(r, a, b, ret);
    if (op == '*' && is_seq(a) && sc_chat_is_int(b, &times))
        return repeat(r, a, times, ret);
    if (op == '*' && is_seq(b) && sc_chat_is_int(a, &times))
        return repeat(r, b, times, ret);
    return unsupported(r, op, a, b);
}
