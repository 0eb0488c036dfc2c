/* Values of the chat template interpreter: making, truth, equality, order, membership, iteration.
 */
#include <math.h>
#include <string.h>

#include "model/chat_internal.h"
#include "model/unicode.h"

struct sc_chat_value sc_chat_undefined(const char *hint)
{
    return (struct sc_chat_value){.type = SC_CHAT_UNDEFINED, .u.hint = hint};
}

struct sc_chat_value sc_chat_none(void)
{
    return (struct sc_chat_value){.type = SC_CHAT_NONE};
}

struct sc_chat_value sc_chat_bool(bool b)
{
    return (struct sc_chat_value){.type = SC_CHAT_BOOL, .u.b = b};
}

struct sc_chat_value sc_chat_int(int64_t i)
{
    return (struct sc_chat_value){.type = SC_CHAT_INT, .u.i = i};
}

struct sc_chat_value sc_chat_float(double f)
{
    return (struct sc_chat_value){.type = SC_CHAT_FLOAT, .u.f = f};
}

struct sc_chat_value sc_chat_str(const char *s, size_t len)
{
    return (struct sc_chat_value){.type = SC_CHAT_STR, .len = (uint32_t)len, .u.s = s};
}

bool sc_chat_list(struct sc_chat_run *r, enum sc_chat_type type, const struct sc_chat_value *items,
                  uint32_t n, struct sc_chat_value *ret)
{
    struct sc_chat_seq *seq = sc_chat_take(r, sizeof(*seq));
    if (seq == NULL)
        return false;
    *seq = (struct sc_chat_seq){.n = n, .items = items};
    *ret = (struct sc_chat_value){.type = (uint8_t)type, .u.seq = seq};
    return true;
}

const char *sc_chat_type_name(const struct sc_chat_value *v)
{
    static const char *const names[] = {
        [SC_CHAT_UNDEFINED] = "Undefined", [SC_CHAT_NONE] = "NoneType",
        [SC_CHAT_BOOL] = "bool",           [SC_CHAT_INT] = "int",
        [SC_CHAT_FLOAT] = "float",         [SC_CHAT_STR] = "str",
        [SC_CHAT_LIST] = "list",           [SC_CHAT_TUPLE] = "tuple",
        [SC_CHAT_VIEW] = "dict view",      [SC_CHAT_DICT] = "dict",
        [SC_CHAT_ITER] = "generator",      [SC_CHAT_SLICE] = "slice",
        [SC_CHAT_NAMESPACE] = "Namespace", [SC_CHAT_LOOP] = "LoopContext",
        [SC_CHAT_MACRO] = "Macro",         [SC_CHAT_FUNC] = "function",
        [SC_CHAT_METHOD] = "method"};
    return names[v->type];
}

bool sc_chat_use_undefined(struct sc_chat_run *r, const struct sc_chat_value *v)
{
    return sc_chat_fail(r, SC_EINVAL, "%s",
                        v->u.hint != NULL ? v->u.hint : "an undefined value is used");
}

bool sc_chat_truth(const struct sc_chat_value *v)
{
    switch (v->type) {
    case SC_CHAT_UNDEFINED:
    case SC_CHAT_NONE:
        return false;
    case SC_CHAT_BOOL:
        return v->u.b;
    case SC_CHAT_INT:
        return v->u.i != 0;
    case SC_CHAT_FLOAT:
        return v->u.f != 0.0;
    case SC_CHAT_STR:
        return v->len > 0;
    case SC_CHAT_LIST:
    case SC_CHAT_TUPLE:
    case SC_CHAT_VIEW:
        return v->u.seq->n > 0;
    case SC_CHAT_DICT:
        return v->u.dict->n > 0;
    default:
        return true;
    }
}

bool sc_chat_is_int(const struct sc_chat_value *v, int64_t *ret)
{
    if (v->type == SC_CHAT_BOOL)
        *ret = v->u.b;
    else if (v->type == SC_CHAT_INT)
        *ret = v->u.i;
    else
        return false;
    return true;
}

bool sc_chat_is_number(const struct sc_chat_value *v)
{
    return v->type == SC_CHAT_BOOL || v->type == SC_CHAT_INT || v->type == SC_CHAT_FLOAT;
}

double sc_chat_number(const struct sc_chat_value *v)
{
    int64_t i = 0;
    return sc_chat_is_int(v, &i) ? (double)i : v->u.f;
}

/* ---- equality and order ---- */

static bool equal(struct sc_chat_run *r, const struct sc_chat_value *a,
                  const struct sc_chat_value *b, uint32_t depth, bool *ret);

static bool equal_dicts(struct sc_chat_run *r, const struct sc_chat_dict *a,
                        const struct sc_chat_dict *b, uint32_t depth, bool *ret)
{
    *ret = a->n == b->n;
    for (uint32_t i = 0; *ret && i < a->n; i++) {
        const struct sc_chat_value *other;
        if (!sc_chat_dict_get(r, b, &a->entries[i].key, &other))
            return false;
        *ret = other != NULL;
        if (other != NULL && !equal(r, &a->entries[i].value, other, depth + 1, ret))
            return false;
    }
    return true;
}

static bool equal_seqs(struct sc_chat_run *r, const struct sc_chat_seq *a,
                       const struct sc_chat_seq *b, uint32_t depth, bool *ret)
{
    *ret = a->n == b->n;
    for (uint32_t i = 0; *ret && i < a->n; i++) {
        if (!equal(r, &a->items[i], &b->items[i], depth + 1, ret))
            return false;
    }
    return true;
}

static bool equal(struct sc_chat_run *r, const struct sc_chat_value *a,
                  const struct sc_chat_value *b, uint32_t depth, bool *ret)
{
    int64_t ia, ib;
    if (depth > SC_CHAT_DATA_DEPTH_MAX)
        return sc_chat_fail(r, SC_ERANGE, "values nested more than %u deep",
                            SC_CHAT_DATA_DEPTH_MAX);
    if (!sc_chat_step(r, a->type == SC_CHAT_STR ? a->len : 0))
        return false;
    if (sc_chat_is_int(a, &ia) && sc_chat_is_int(b, &ib)) {
        *ret = ia == ib;
        return true;
    }
    if (sc_chat_is_number(a) && sc_chat_is_number(b)) {
        *ret = sc_chat_number(a) == sc_chat_number(b);
        return true;
    }
    if (a->type != b->type) {
        *ret = false;
        return true;
    }
    switch (a->type) {
    case SC_CHAT_UNDEFINED:
    case SC_CHAT_NONE:
        *ret = true;
        return true;
    case SC_CHAT_STR:
        *ret = a->len == b->len && memcmp(a->u.s, b->u.s, a->len) == 0;
        return true;
    case SC_CHAT_LIST:
    case SC_CHAT_TUPLE:
        return equal_seqs(r, a->u.seq, b->u.seq, depth, ret);
    case SC_CHAT_DICT:
        return equal_dicts(r, a->u.dict, b->u.dict, depth, ret);
    default: /* the rest is equal only to itself */
        *ret = a->u.seq == b->u.seq;
        return true;
    }
}

bool sc_chat_equal(struct sc_chat_run *r, const struct sc_chat_value *a,
                   const struct sc_chat_value *b, bool *ret)
{
    return equal(r, a, b, 0, ret);
}

/* -1, 0 or 1; 2 for not a number. Code point order is byte order in UTF-8. */
static bool order(struct sc_chat_run *r, const struct sc_chat_value *a,
                  const struct sc_chat_value *b, const char *op, int *ret)
{
    int64_t ia, ib;
    if (a->type == SC_CHAT_UNDEFINED || b->type == SC_CHAT_UNDEFINED)
        return sc_chat_use_undefined(r, a->type == SC_CHAT_UNDEFINED ? a : b);
    if (sc_chat_is_int(a, &ia) && sc_chat_is_int(b, &ib)) {
        *ret = (ia > ib) - (ia < ib);
    } else if (sc_chat_is_number(a) && sc_chat_is_number(b)) {
        double fa = sc_chat_number(a), fb = sc_chat_number(b);
        *ret = isnan(fa) || isnan(fb) ? 2 : (fa > fb) - (fa < fb);
    } else if (a->type == SC_CHAT_STR && b->type == SC_CHAT_STR) {
        uint32_t n = a->len < b->len ? a->len : b->len;
        int c = n > 0 ? memcmp(a->u.s, b->u.s, n) : 0;
        *ret = c != 0 ? (c > 0) - (c < 0) : (a->len > b->len) - (a->len < b->len);
        return sc_chat_step(r, n);
    } else {
        return sc_chat_fail(r, SC_EINVAL, "'%s' not supported between '%s' and '%s'", op,
                            sc_chat_type_name(a), sc_chat_type_name(b));
    }
    return true;
}

bool sc_chat_compare(struct sc_chat_run *r, enum sc_chat_compare op, const struct sc_chat_value *a,
                     const struct sc_chat_value *b, bool *ret)
{
    static const char *const signs[] = {
        [SC_CHAT_LT] = "<", [SC_CHAT_LE] = "<=", [SC_CHAT_GT] = ">", [SC_CHAT_GE] = ">="};
    int c = 0;
    bool ok = true;
    switch (op) {
    case SC_CHAT_EQ:
    case SC_CHAT_NE:
        ok = sc_chat_equal(r, a, b, ret);
        *ret = *ret == (op == SC_CHAT_EQ);
        return ok;
    case SC_CHAT_IN:
    case SC_CHAT_NOT_IN:
        ok = sc_chat_contains(r, a, b, ret);
        *ret = *ret == (op == SC_CHAT_IN);
        return ok;
    default:
        break;
    }
    ok = order(r, a, b, signs[op], &c);
    *ret = op == SC_CHAT_LT   ? c == -1
           : op == SC_CHAT_LE ? c == -1 || c == 0
           : op == SC_CHAT_GT ? c == 1
                              : c == 1 || c == 0;
    return ok;
}

bool sc_chat_contains(struct sc_chat_run *r, const struct sc_chat_value *item,
                      const struct sc_chat_value *container, bool *ret)
{
    const struct sc_chat_value *found;
    const struct sc_chat_seq *seq;
    *ret = false;
    switch (container->type) {
    case SC_CHAT_UNDEFINED:
        return true;
    case SC_CHAT_STR:
        if (item->type != SC_CHAT_STR)
            return sc_chat_fail(r, SC_EINVAL, "'in <string>' requires a string on its left, not %s",
                                sc_chat_type_name(item));
        *ret = item->len == 0 || (container->len > 0 && memmem(container->u.s, container->len,
                                                               item->u.s, item->len) != NULL);
        return sc_chat_step(r, container->len);
    case SC_CHAT_DICT:
        if (!sc_chat_dict_get(r, container->u.dict, item, &found))
            return false;
        *ret = found != NULL;
        return true;
    case SC_CHAT_LIST:
    case SC_CHAT_TUPLE:
    case SC_CHAT_VIEW:
    case SC_CHAT_ITER:
        if (!sc_chat_items(r, container, &seq))
            return false;
        for (uint32_t i = 0; i < seq->n && !*ret; i++) {
            if (!sc_chat_equal(r, item, &seq->items[i], ret))
                return false;
        }
        return true;
    default:
        return sc_chat_fail(r, SC_EINVAL, "argument of type '%s' is not iterable",
                            sc_chat_type_name(container));
    }
}

/* ---- iteration ---- */

/* The characters of a string. */
static bool string_items(struct sc_chat_run *r, const struct sc_chat_value *v,
                         struct sc_chat_seq *seq)
{
    uint32_t n = sc_chat_str_chars(v);
    struct sc_chat_value *items = sc_chat_take(r, n * sizeof(*items));
    if (items == NULL || !sc_chat_step(r, v->len))
        return false;
    size_t at = 0;
    for (uint32_t i = 0; i < n; i++) {
        size_t from = at;
        (void)sc_utf8_next(v->u.s, &at);
        items[i] = sc_chat_str(v->u.s + from, at - from);
    }
    *seq = (struct sc_chat_seq){.n = n, .items = items};
    return true;
}

bool sc_chat_items(struct sc_chat_run *r, const struct sc_chat_value *v,
                   const struct sc_chat_seq **ret)
{
    struct sc_chat_value view;
    struct sc_chat_seq *seq;
    switch (v->type) {
    case SC_CHAT_LIST:
    case SC_CHAT_TUPLE:
    case SC_CHAT_VIEW:
        *ret = v->u.seq;
        return true;
    case SC_CHAT_DICT:
        if (!sc_chat_dict_view(r, v->u.dict, SC_CHAT_M_KEYS, &view))
            return false;
        *ret = view.u.seq;
        return true;
    case SC_CHAT_UNDEFINED:
    case SC_CHAT_STR:
    case SC_CHAT_ITER:
        break;
    default:
        return sc_chat_fail(r, SC_EINVAL, "'%s' object is not iterable", sc_chat_type_name(v));
    }
    seq = sc_chat_take(r, sizeof(*seq));
    if (seq == NULL)
        return false;
    if (v->type == SC_CHAT_STR && !string_items(r, v, seq))
        return false;
    if (v->type == SC_CHAT_ITER) {
        struct sc_chat_iter *it = v->u.iter;
        *seq = (struct sc_chat_seq){.n = it->seq->n - it->at, .items = it->seq->items + it->at};
        it->at = it->seq->n;
    }
    *ret = seq;
    return true;
}

bool sc_chat_length(struct sc_chat_run *r, const struct sc_chat_value *v, int64_t *ret)
{
    switch (v->type) {
    case SC_CHAT_UNDEFINED:
        *ret = 0;
        return true;
    case SC_CHAT_STR:
        *ret = sc_chat_str_chars(v);
        return sc_chat_step(r, v->len);
    case SC_CHAT_LIST:
    case SC_CHAT_TUPLE:
    case SC_CHAT_VIEW:
        *ret = v->u.seq->n;
        return true;
    case SC_CHAT_DICT:
        *ret = v->u.dict->n;
        return true;
    case SC_CHAT_LOOP:
        *ret = v->u.loop->seq->n;
        return true;
    default:
        return sc_chat_fail(r, SC_EINVAL, "object of type '%s' has no len()", sc_chat_type_name(v));
    }
}

/* ---- dicts ---- */

bool sc_chat_dict_new(struct sc_chat_run *r, uint32_t cap, struct sc_chat_dict **ret)
{
    struct sc_chat_dict *d = sc_chat_take(r, sizeof(*d));
    if (d == NULL)
        return false;
    d->entries = sc_chat_take(r, cap * sizeof(*d->entries));
    d->cap = cap;
    *ret = d;
    return d->entries != NULL;
}

static bool find(struct sc_chat_run *r, const struct sc_chat_dict *d,
                 const struct sc_chat_value *key, struct sc_chat_entry **ret)
{
    bool same = false;
    *ret = NULL;
    if (!sc_chat_step(r, (size_t)8 * d->n))
        return false;
    for (uint32_t i = 0; i < d->n; i++) {
        struct sc_chat_entry *e = &d->entries[i];
        /* The usual keys without the general comparison. */
        if (key->type == SC_CHAT_STR && e->key.type == SC_CHAT_STR)
            same = key->len == e->key.len && memcmp(key->u.s, e->key.u.s, key->len) == 0;
        else if (!sc_chat_equal(r, key, &e->key, &same))
            return false;
        if (same) {
            *ret = e;
            break;
        }
    }
    return true;
}

bool sc_chat_dict_get(struct sc_chat_run *r, const struct sc_chat_dict *d,
                      const struct sc_chat_value *key, const struct sc_chat_value **ret)
{
    struct sc_chat_entry *e;
    if (!find(r, d, key, &e))
        return false;
    *ret = e != NULL ? &e->value : NULL;
    return true;
}

bool sc_chat_dict_set(struct sc_chat_run *r, struct sc_chat_dict *d,
                      const struct sc_chat_value *key, const struct sc_chat_value *value)
{
    struct sc_chat_entry *e;
    if (key->type == SC_CHAT_LIST || key->type == SC_CHAT_DICT)
        return sc_chat_fail(r, SC_EINVAL, "unhashable type: '%s'", sc_chat_type_name(key));
    if (!find(r, d, key, &e))
        return false;
    if (e != NULL) {
        e->value = *value;
        return true;
    }
    if (d->n == d->cap) {
        uint32_t cap = d->cap > 0 ? 2 * d->cap : 4;
        struct sc_chat_entry *grown = sc_chat_take(r, cap * sizeof(*grown));
        if (grown == NULL)
            return false;
        if (d->n > 0)
            memcpy(grown, d->entries, d->n * sizeof(*grown));
        d->entries = grown;
        d->cap = cap;
    }
    d->entries[d->n++] = (struct sc_chat_entry){.key = *key, .value = *value};
    return true;
}

bool sc_chat_dict_view(struct sc_chat_run *r, const struct sc_chat_dict *d,
                       enum sc_chat_method_id part, struct sc_chat_value *ret)
{
    struct sc_chat_value *items = sc_chat_take(r, d->n * sizeof(*items));
    if (items == NULL || !sc_chat_step(r, (size_t)16 * d->n))
        return false;
    for (uint32_t i = 0; i < d->n; i++) {
        if (part == SC_CHAT_M_ITEMS) {
            struct sc_chat_value *pair = sc_chat_take(r, 2 * sizeof(*pair));
            if (pair == NULL)
                return false;
            pair[0] = d->entries[i].key;
            pair[1] = d->entries[i].value;
            if (!sc_chat_list(r, SC_CHAT_TUPLE, pair, 2, &items[i]))
                return false;
        } else {
            items[i] = part == SC_CHAT_M_KEYS ? d->entries[i].key : d->entries[i].value;
        }
    }
    return sc_chat_list(r, SC_CHAT_VIEW, items, d->n, ret);
}

/* ---- JSON ---- */

static bool dict_from_json(struct sc_chat_run *r, const json_t *json, uint32_t depth,
                           struct sc_chat_value *ret)
{
    json_t *obj = (json_t *)json; /* jansson's iterators take no const */
    struct sc_chat_dict *d;
    if (!sc_chat_dict_new(r, (uint32_t)json_object_size(json), &d))
        return false;
    for (void *it = json_object_iter(obj); it != NULL; it = json_object_iter_next(obj, it)) {
        struct sc_chat_entry *e = &d->entries[d->n];
        const char *key = json_object_iter_key(it);
        e->key = sc_chat_str(key, strlen(key));
        if (!sc_chat_from_json(r, json_object_iter_value(it), depth + 1, &e->value))
            return false;
        d->n++;
    }
    *ret = (struct sc_chat_value){.type = SC_CHAT_DICT, .u.dict = d};
    return true;
}

bool sc_chat_from_json(struct sc_chat_run *r, const json_t *json, uint32_t depth,
                       struct sc_chat_value *ret)
{
    if (depth > SC_CHAT_DATA_DEPTH_MAX)
        return sc_chat_fail(r, SC_ERANGE, "JSON nested more than %u deep", SC_CHAT_DATA_DEPTH_MAX);
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return dict_from_json(r, json, depth, ret);
    case JSON_ARRAY: {
        uint32_t n = (uint32_t)json_array_size(json);
        struct sc_chat_value *items = sc_chat_take(r, n * sizeof(*items));
        if (items == NULL)
            return false;
        for (uint32_t i = 0; i < n; i++) {
            if (!sc_chat_from_json(r, json_array_get(json, i), depth + 1, &items[i]))
                return false;
        }
        return sc_chat_list(r, SC_CHAT_LIST, items, n, ret);
    }
    case JSON_STRING:
        *ret = sc_chat_str(json_string_value(json), json_string_length(json));
        return true;
    case JSON_INTEGER:
        *ret = sc_chat_int(json_integer_value(json));
        return true;
    case JSON_REAL:
        *ret = sc_chat_float(json_real_value(json));
        return true;
    case JSON_TRUE:
    case JSON_FALSE:
        *ret = sc_chat_bool(json_is_true(json));
        return true;
    default:
        *ret = sc_chat_none();
        return true;
    }
}
