/* The filters of chat templates: value|name(arguments). */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat_internal.h"
#include "model/unicode.h"

const struct sc_chat_value *sc_chat_arg(const struct sc_chat_args *args, uint32_t i,
                                        const char *name)
{
    if (i < args->n)
        return &args->v[i];
    for (uint32_t k = 0; k < args->n_named; k++) {
        const struct sc_chat_value *key = &args->named[k].key;
        if (key->len == strlen(name) && memcmp(key->u.s, name, key->len) == 0)
            return &args->named[k].value;
    }
    return NULL;
}

/* Arguments by names that the filter does not have are refused. allowed: names with spaces around.
 */
static bool check_named(struct sc_chat_run *r, const struct sc_chat_args *args, const char *allowed)
{
    for (uint32_t i = 0; i < args->n_named; i++) {
        const struct sc_chat_value *key = &args->named[i].key;
        const char *at = memmem(allowed, strlen(allowed), key->u.s, key->len);
        if (at == NULL || at == allowed || at[-1] != ' ' || at[key->len] != ' ')
            return sc_chat_fail(r, SC_EINVAL, "no argument is named %.*s", (int)key->len, key->u.s);
    }
    return true;
}

static bool iterator(struct sc_chat_run *r, const struct sc_chat_value *items, uint32_t n,
                     struct sc_chat_value *ret)
{
    struct sc_chat_value list;
    struct sc_chat_iter *it = sc_chat_take(r, sizeof(*it));
    if (it == NULL || !sc_chat_list(r, SC_CHAT_LIST, items, n, &list))
        return false;
    it->seq = list.u.seq;
    *ret = (struct sc_chat_value){.type = SC_CHAT_ITER, .u.iter = it};
    return true;
}

/* ---- text ---- */

static bool tojson(struct sc_chat_run *r, const struct sc_chat_value *v,
                   const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    const struct sc_chat_value *ascii = sc_chat_arg(args, 0, "ensure_ascii"),
                               *indent = sc_chat_arg(args, 1, "indent"),
                               *seps = sc_chat_arg(args, 2, "separators"),
                               *sort = sc_chat_arg(args, 3, "sort_keys");
    struct sc_chat_json_style style = {.indent = -1,
                                       .ascii = ascii != NULL && sc_chat_truth(ascii),
                                       .sort_keys = sort != NULL && sc_chat_truth(sort),
                                       .item_sep = sc_chat_str(", ", 2),
                                       .key_sep = sc_chat_str(": ", 2)};
    if (indent != NULL && indent->type != SC_CHAT_NONE) {
        if (!sc_chat_is_int(indent, &style.indent) || style.indent > 64)
            return sc_chat_fail(r, SC_EINVAL, "tojson: the indent must be an integer up to 64");
        style.item_sep.len = 1;
    }
    if (seps != NULL && seps->type != SC_CHAT_NONE) {
        const struct sc_chat_seq *pair;
        if (!sc_chat_items(r, seps, &pair))
            return false;
        if (pair->n != 2 || pair->items[0].type != SC_CHAT_STR ||
            pair->items[1].type != SC_CHAT_STR)
            return sc_chat_fail(r, SC_EINVAL, "tojson: separators must be two strings");
        style.item_sep = pair->items[0];
        style.key_sep = pair->items[1];
    }
    return sc_chat_to_json(r, v, &style, ret);
}

/* A method of the value's text, with the same arguments. */
static bool text_method(struct sc_chat_run *r, enum sc_chat_method_id id,
                        const struct sc_chat_value *v, const struct sc_chat_args *args,
                        struct sc_chat_value *ret)
{
    struct sc_chat_value s;
    return sc_chat_to_str(r, v, &s) && sc_chat_str_method(r, id, &s, args, ret);
}

/* replace works on plain text, and makes text of all that it is given */
static bool replace(struct sc_chat_run *r, const struct sc_chat_value *v,
                    const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    struct sc_chat_value s, parts[3];
    const struct sc_chat_value *old = sc_chat_arg(args, 0, "old"),
                               *new = sc_chat_arg(args, 1, "new"),
                               *count = sc_chat_arg(args, 2, "count");
    if (old == NULL || new == NULL)
        return sc_chat_fail(r, SC_EINVAL, "replace takes two strings");
    if (!sc_chat_to_str(r, v, &s) || !sc_chat_to_str(r, old, &parts[0]) ||
        !sc_chat_to_str(r, new, &parts[1]))
        return false;
    s.markup = false;
    parts[2] = count != NULL ? *count : sc_chat_none();
    struct sc_chat_args plain = {.n = 3, .v = parts};
    return sc_chat_str_method(r, SC_CHAT_M_REPLACE, &s, &plain, ret);
}

/* Words start after whitespace and -({[<, unlike those of the method of that name. */
static bool title(struct sc_chat_run *r, const struct sc_chat_value *v, struct sc_chat_value *ret)
{
    static const struct sc_chat_args none = {0};
    struct sc_chat_value s, part;
    struct sc_chat_buf buf = {0};
    if (!sc_chat_to_str(r, v, &s))
        return false;
    for (size_t at = 0; at < s.len;) {
        size_t from = at, end = at;
        while (end < s.len) {
            uint32_t cp = sc_utf8_next(s.u.s, &end);
            if (cp < 0x80 ? strchr("-({[<", (int)cp) != NULL || sc_chat_is_space(cp)
                          : sc_chat_is_space(cp))
                break;
        }
        part = sc_chat_str(s.u.s + from, end - from);
        at = end;
        if (!sc_chat_str_method(r, SC_CHAT_M_CAPITALIZE, &part, &none, &part) ||
            !sc_chat_put_str(r, &buf, &part))
            break;
    }
    return sc_chat_buf_value(r, &buf, ret);
}

static bool indent(struct sc_chat_run *r, const struct sc_chat_value *v,
                   const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    static const struct sc_chat_args none = {0};
    static const char spaces[] = "                                                                ";
    const struct sc_chat_value *width = sc_chat_arg(args, 0, "width"),
                               *first = sc_chat_arg(args, 1, "first"),
                               *blank = sc_chat_arg(args, 2, "blank");
    struct sc_chat_value s, lines, by = sc_chat_str(spaces, 4);
    struct sc_chat_buf buf = {0};
    int64_t n = 4;
    if (width != NULL && width->type == SC_CHAT_STR)
        by = *width;
    else if (width != NULL &&
             (!sc_chat_is_int(width, &n) || n < 0 || n > (int64_t)sizeof(spaces) - 1))
        return sc_chat_fail(r, SC_EINVAL, "indent: the width must be a string or 0 to %zu",
                            sizeof(spaces) - 1);
    else
        by.len = (uint32_t)n;
    if (!sc_chat_to_str(r, v, &s) ||
        !sc_chat_str_method(r, SC_CHAT_M_SPLITLINES, &s, &none, &lines))
        return false;
    bool ends_line = s.len > 0 && s.u.s[s.len - 1] == '\n', ok = true;
    for (uint32_t i = 0; ok && i < lines.u.seq->n + (ends_line || lines.u.seq->n == 0); i++) {
        struct sc_chat_value line = i < lines.u.seq->n ? lines.u.seq->items[i] : sc_chat_str("", 0);
        bool pad = i == 0 ? first != NULL && sc_chat_truth(first)
                          : line.len > 0 || (blank != NULL && sc_chat_truth(blank));
        ok = (i == 0 || sc_chat_puts(r, &buf, "\n")) && (!pad || sc_chat_put_str(r, &buf, &by)) &&
             sc_chat_put_str(r, &buf, &line);
    }
    return sc_chat_buf_value(r, &buf, ret);
}

/* ---- lists ---- */

/* obj.a.b or obj[0] for "a.b" or 0: elements before attributes. */
static bool get_path(struct sc_chat_run *r, const struct sc_chat_value *obj,
                     const struct sc_chat_value *path, struct sc_chat_value *ret)
{
    struct sc_chat_value key;
    *ret = *obj;
    if (path->type != SC_CHAT_STR)
        return sc_chat_get_item(r, obj, path, ret);
    for (uint32_t from = 0, to; from <= path->len; from = to + 1) {
        for (to = from; to < path->len && path->u.s[to] != '.';)
            to++;
        key = sc_chat_str(path->u.s + from, to - from);
        if (key.len > 0 && key.len < 10 && strspn(key.u.s, "0123456789") >= key.len) {
            int64_t i = 0;
            for (uint32_t d = 0; d < key.len; d++)
                i = 10 * i + (key.u.s[d] - '0');
            key = sc_chat_int(i);
        }
        struct sc_chat_value here = *ret;
        if (!sc_chat_get_item(r, &here, &key, ret))
            return false;
    }
    return true;
}

static bool join(struct sc_chat_run *r, const struct sc_chat_value *v,
                 const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    const struct sc_chat_value *sep = sc_chat_arg(args, 0, "d"),
                               *path = sc_chat_arg(args, 1, "attribute");
    const struct sc_chat_seq *seq;
    struct sc_chat_buf buf = {0};
    if (!sc_chat_items(r, v, &seq))
        return false;
    for (uint32_t i = 0; i < seq->n; i++) {
        struct sc_chat_value item = seq->items[i];
        if ((path != NULL && path->type != SC_CHAT_NONE &&
             !get_path(r, &seq->items[i], path, &item)) ||
            (i > 0 && sep != NULL && !sc_chat_put_str(r, &buf, sep)) ||
            !sc_chat_put_str(r, &buf, &item))
            break;
    }
    return sc_chat_buf_value(r, &buf, ret);
}

/* The filter or test that a string argument names. */
static bool inner_name(struct sc_chat_run *r, enum sc_chat_name_kind kind,
                       const struct sc_chat_value *name, uint32_t n_args, int *ret_id)
{
    const char *what = kind == SC_CHAT_NAMED_TEST ? "test" : "filter";
    if (name->type != SC_CHAT_STR)
        return sc_chat_fail(r, SC_EINVAL, "the name of a %s is %s, not a string", what,
                            sc_chat_type_name(name));
    *ret_id = sc_chat_name_find(kind, name->u.s, name->len);
    if (*ret_id < 0)
        return sc_chat_fail(r, SC_ENOTSUP, "%s %.*s is not supported", what, (int)name->len,
                            name->u.s);
    const struct sc_chat_name *row = sc_chat_name_get(kind, *ret_id);
    if (n_args < row->min_args || n_args > row->max_args)
        return sc_chat_fail(r, SC_EINVAL, "%s %s takes %u to %u arguments, not %u", what, row->name,
                            row->min_args, row->max_args, n_args);
    return true;
}

/* What select, map and their kin read: falsy values have no items, whatever their type. */
static bool input_items(struct sc_chat_run *r, const struct sc_chat_value *v,
                        const struct sc_chat_seq **ret)
{
    static const struct sc_chat_seq empty = {0};
    *ret = &empty;
    return !sc_chat_truth(v) || sc_chat_items(r, v, ret);
}

/* select, reject: of the value; selectattr, rejectattr: of an attribute. A name of a test and its
 * arguments may follow; without, truth decides. */
static bool select_items(struct sc_chat_run *r, int id, const struct sc_chat_value *v,
                         const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    bool by_attr = id == SC_CHAT_F_SELECTATTR || id == SC_CHAT_F_REJECTATTR;
    bool wanted = id == SC_CHAT_F_SELECT || id == SC_CHAT_F_SELECTATTR;
    uint32_t skip = by_attr, n = 0;
    const struct sc_chat_seq *seq;
    struct sc_chat_args rest = {0};
    int test = -1;
    if (args->n < skip)
        return sc_chat_fail(r, SC_EINVAL, "the attribute is given by position");
    if (args->n > skip) {
        rest = (struct sc_chat_args){.n = args->n - skip - 1, .v = args->v + skip + 1};
        if (!inner_name(r, SC_CHAT_NAMED_TEST, &args->v[skip], rest.n, &test))
            return false;
    }
    if (!input_items(r, v, &seq))
        return false;
    struct sc_chat_value *taken = sc_chat_take(r, seq->n * sizeof(*taken));
    if (taken == NULL)
        return false;
    for (uint32_t i = 0; i < seq->n; i++) {
        struct sc_chat_value item = seq->items[i];
        if (!sc_chat_step(r, 0) || (by_attr && !get_path(r, &seq->items[i], &args->v[0], &item)))
            return false;
        bool is = sc_chat_truth(&item);
        if (test >= 0 && !sc_chat_test(r, test, &item, &rest, &is))
            return false;
        if (is == wanted)
            taken[n++] = seq->items[i];
    }
    return iterator(r, taken, n, ret);
}

static bool map(struct sc_chat_run *r, const struct sc_chat_value *v,
                const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    const struct sc_chat_value *path = sc_chat_arg(args, UINT32_MAX, "attribute"),
                               *dflt = sc_chat_arg(args, UINT32_MAX, "default");
    const struct sc_chat_seq *seq;
    struct sc_chat_args rest = {0};
    int filter = -1;
    if (args->n > 0) {
        rest = *args;
        rest.n--;
        rest.v++;
        if (!inner_name(r, SC_CHAT_NAMED_FILTER, &args->v[0], rest.n + rest.n_named, &filter))
            return false;
    } else if (path == NULL) {
        return sc_chat_fail(r, SC_EINVAL, "map takes a filter or an attribute");
    }
    if (!input_items(r, v, &seq))
        return false;
    struct sc_chat_value *out = sc_chat_take(r, seq->n * sizeof(*out));
    if (out == NULL)
        return false;
    for (uint32_t i = 0; i < seq->n; i++) {
        if (!sc_chat_step(r, 0) ||
            (filter >= 0 ? !sc_chat_filter(r, filter, &seq->items[i], &rest, &out[i])
                         : !get_path(r, &seq->items[i], path, &out[i])))
            return false;
        if (filter < 0 && dflt != NULL && out[i].type == SC_CHAT_UNDEFINED)
            out[i] = *dflt;
    }
    return iterator(r, out, seq->n, ret);
}

static bool reverse(struct sc_chat_run *r, const struct sc_chat_value *v, struct sc_chat_value *ret)
{
    const struct sc_chat_seq *seq;
    struct sc_chat_buf buf = {0};
    if (!sc_chat_items(r, v, &seq))
        return false;
    struct sc_chat_value *out = sc_chat_take(r, seq->n * sizeof(*out));
    if (out == NULL || !sc_chat_step(r, seq->n * sizeof(*out)))
        return false;
    for (uint32_t i = 0; i < seq->n; i++)
        out[i] = seq->items[seq->n - 1 - i];
    if (v->type != SC_CHAT_STR)
        return iterator(r, out, seq->n, ret);
    for (uint32_t i = 0; i < seq->n && sc_chat_put_str(r, &buf, &out[i]);)
        i++;
    return sc_chat_buf_value(r, &buf, ret);
}

static bool first_or_last(struct sc_chat_run *r, bool last, const struct sc_chat_value *v,
                          struct sc_chat_value *ret)
{
    const struct sc_chat_seq *seq;
    if (!sc_chat_items(r, v, &seq))
        return false;
    *ret = seq->n > 0 ? seq->items[last ? seq->n - 1 : 0]
                      : sc_chat_undefined("an empty sequence has no first or last item");
    return true;
}

/* Keys in lower case decide, and the order of before where they are equal. */
struct sort_key {
    struct sc_chat_value lower;
    uint32_t index;
};

static int by_key(const void *a, const void *b)
{
    const struct sort_key *x = a, *y = b;
    uint32_t n = x->lower.len < y->lower.len ? x->lower.len : y->lower.len;
    int c = n > 0 ? memcmp(x->lower.u.s, y->lower.u.s, n) : 0;
    if (c == 0)
        c = (x->lower.len > y->lower.len) - (x->lower.len < y->lower.len);
    return c != 0 ? c : (x->index > y->index) - (x->index < y->index);
}

static bool dictsort(struct sc_chat_run *r, const struct sc_chat_value *v,
                     struct sc_chat_value *ret)
{
    static const struct sc_chat_args none = {0};
    struct sc_chat_value view;
    if (v->type != SC_CHAT_DICT)
        return sc_chat_fail(r, SC_EINVAL, "dictsort takes a dict, not %s", sc_chat_type_name(v));
    const struct sc_chat_dict *d = v->u.dict;
    struct sort_key *keys = sc_chat_take(r, d->n * sizeof(*keys));
    struct sc_chat_value *out = sc_chat_take(r, d->n * sizeof(*out));
    if (keys == NULL || out == NULL || !sc_chat_dict_view(r, d, SC_CHAT_M_ITEMS, &view))
        return false;
    for (uint32_t i = 0; i < d->n; i++) {
        const struct sc_chat_value *key = &d->entries[i].key;
        if (key->type != SC_CHAT_STR)
            return sc_chat_fail(r, SC_EINVAL, "dictsort: only string keys can be sorted");
        keys[i].index = i;
        if (!sc_chat_str_method(r, SC_CHAT_M_LOWER, key, &none, &keys[i].lower))
            return false;
    }
    if (d->n > 0)
        qsort(keys, d->n, sizeof(*keys), by_key);
    for (uint32_t i = 0; i < d->n; i++)
        out[i] = view.u.seq->items[keys[i].index];
    return sc_chat_list(r, SC_CHAT_LIST, out, d->n, ret);
}

static bool list_or_items(struct sc_chat_run *r, int id, const struct sc_chat_value *v,
                          struct sc_chat_value *ret)
{
    const struct sc_chat_seq *seq;
    struct sc_chat_value view;
    if (id == SC_CHAT_F_LIST)
        return sc_chat_items(r, v, &seq) && sc_chat_list(r, SC_CHAT_LIST, seq->items, seq->n, ret);
    if (v->type == SC_CHAT_UNDEFINED)
        return iterator(r, NULL, 0, ret);
    if (v->type != SC_CHAT_DICT)
        return sc_chat_fail(r, SC_EINVAL, "items takes a mapping, not %s", sc_chat_type_name(v));
    return sc_chat_dict_view(r, v->u.dict, SC_CHAT_M_ITEMS, &view) &&
           iterator(r, view.u.seq->items, view.u.seq->n, ret);
}

/* ---- numbers ---- */

/* A whole string as a number. */
static bool parse_number(const struct sc_chat_value *v, bool *ret_is_int, int64_t *ret_i,
                         double *ret_f)
{
    struct sc_chat_value s = sc_chat_strip(v, NULL, true, true);
    char text[64], *end;
    if (s.len == 0 || s.len >= sizeof(text) || strchr("+-.0123456789", s.u.s[0]) == NULL)
        return false;
    memcpy(text, s.u.s, s.len);
    text[s.len] = '\0';
    if (strspn(text, "+-.0123456789eE") != s.len)
        return false;
    errno = 0;
    *ret_i = strtoll(text, &end, 10);
    *ret_is_int = *end == '\0' && errno == 0;
    *ret_f = strtod(text, &end);
    return *end == '\0';
}

static bool to_number(struct sc_chat_run *r, int id, const struct sc_chat_value *v,
                      const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    bool to_int = id == SC_CHAT_F_INT, is_int = false, known = true;
    const struct sc_chat_value *dflt = sc_chat_arg(args, 0, "default");
    int64_t i = 0;
    double f = 0.0;
    if (v->type == SC_CHAT_UNDEFINED)
        return sc_chat_use_undefined(r, v);
    if (v->type == SC_CHAT_STR)
        known = parse_number(v, &is_int, &i, &f);
    else if (sc_chat_is_int(v, &i))
        is_int = true, f = (double)i;
    else if (v->type == SC_CHAT_FLOAT)
        f = v->u.f;
    else
        known = false;
    if (known && to_int && !is_int) {
        known = isfinite(f);
        if (known && (f >= 0x1p63 || f < -0x1p63))
            return sc_chat_fail(r, SC_ERANGE, "int: %g is beyond 64 bits", f);
        i = known ? (int64_t)f : 0;
    }
    if (known)
        *ret = to_int ? sc_chat_int(i) : sc_chat_float(f);
    else if (dflt != NULL)
        *ret = *dflt;
    else
        *ret = to_int ? sc_chat_int(0) : sc_chat_float(0.0);
    return true;
}

static bool absolute(struct sc_chat_run *r, const struct sc_chat_value *v,
                     struct sc_chat_value *ret)
{
    int64_t i;
    if (v->type == SC_CHAT_FLOAT) {
        *ret = sc_chat_float(fabs(v->u.f));
        return true;
    }
    if (!sc_chat_is_int(v, &i) || i == INT64_MIN)
        return sc_chat_fail(r, SC_EINVAL, "abs takes a number, not %s", sc_chat_type_name(v));
    *ret = sc_chat_int(i < 0 ? -i : i);
    return true;
}

static bool or_default(const struct sc_chat_value *v, const struct sc_chat_args *args,
                       struct sc_chat_value *ret)
{
    const struct sc_chat_value *dflt = sc_chat_arg(args, 0, "default_value"),
                               *falsy = sc_chat_arg(args, 1, "boolean");
    bool use = v->type == SC_CHAT_UNDEFINED ||
               (falsy != NULL && sc_chat_truth(falsy) && !sc_chat_truth(v));
    *ret = !use ? *v : dflt != NULL ? *dflt : sc_chat_str("", 0);
    return true;
}

static const char *const named_args[SC_CHAT_F_COUNT_OF] = {
    [SC_CHAT_F_TOJSON] = " ensure_ascii indent separators sort_keys ",
    [SC_CHAT_F_JOIN] = " d attribute ",
    [SC_CHAT_F_MAP] = " attribute default ",
    [SC_CHAT_F_DEFAULT] = " default_value boolean ",
    [SC_CHAT_F_D] = " default_value boolean ",
    [SC_CHAT_F_REPLACE] = " old new count ",
    [SC_CHAT_F_TRIM] = " chars ",
    [SC_CHAT_F_INT] = " default ",
    [SC_CHAT_F_FLOAT] = " default ",
    [SC_CHAT_F_INDENT] = " width first blank ",
};

static bool trim(struct sc_chat_run *r, const struct sc_chat_value *v,
                 const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    const struct sc_chat_value *chars = sc_chat_arg(args, 0, "chars");
    struct sc_chat_args plain = {.n = chars != NULL, .v = chars};
    return text_method(r, SC_CHAT_M_STRIP, v, &plain, ret);
}

bool sc_chat_filter(struct sc_chat_run *r, int id, const struct sc_chat_value *value,
                    const struct sc_chat_args *args, struct sc_chat_value *ret)
{
    int64_t n;
    if (!check_named(r, args, named_args[id] != NULL ? named_args[id] : ""))
        return false;
    switch ((enum sc_chat_filter_id)id) {
    case SC_CHAT_F_TOJSON:
        return tojson(r, value, args, ret);
    case SC_CHAT_F_TRIM:
        return trim(r, value, args, ret);
    case SC_CHAT_F_LENGTH:
    case SC_CHAT_F_COUNT:
        if (!sc_chat_length(r, value, &n))
            return false;
        *ret = sc_chat_int(n);
        return true;
    case SC_CHAT_F_STRING:
        return sc_chat_to_str(r, value, ret);
    case SC_CHAT_F_SAFE:
        if (!sc_chat_to_str(r, value, ret))
            return false;
        ret->markup = true;
        return true;
    case SC_CHAT_F_ITEMS:
    case SC_CHAT_F_LIST:
        return list_or_items(r, id, value, ret);
    case SC_CHAT_F_JOIN:
        return join(r, value, args, ret);
    case SC_CHAT_F_SELECT:
    case SC_CHAT_F_REJECT:
    case SC_CHAT_F_SELECTATTR:
    case SC_CHAT_F_REJECTATTR:
        return select_items(r, id, value, args, ret);
    case SC_CHAT_F_MAP:
        return map(r, value, args, ret);
    case SC_CHAT_F_DEFAULT:
    case SC_CHAT_F_D:
        return or_default(value, args, ret);
    case SC_CHAT_F_UPPER:
        return text_method(r, SC_CHAT_M_UPPER, value, args, ret);
    case SC_CHAT_F_LOWER:
        return text_method(r, SC_CHAT_M_LOWER, value, args, ret);
    case SC_CHAT_F_CAPITALIZE:
        return text_method(r, SC_CHAT_M_CAPITALIZE, value, args, ret);
    case SC_CHAT_F_TITLE:
        return title(r, value, ret);
    case SC_CHAT_F_REPLACE:
        return replace(r, value, args, ret);
    case SC_CHAT_F_FIRST:
    case SC_CHAT_F_LAST:
        return first_or_last(r, id == SC_CHAT_F_LAST, value, ret);
    case SC_CHAT_F_REVERSE:
        return reverse(r, value, ret);
    case SC_CHAT_F_DICTSORT:
        return dictsort(r, value, ret);
    case SC_CHAT_F_INT:
    case SC_CHAT_F_FLOAT:
        return to_number(r, id, value, args, ret);
    case SC_CHAT_F_ABS:
        return absolute(r, value, ret);
    case SC_CHAT_F_ESCAPE:
    case SC_CHAT_F_E:
        return sc_chat_escape(r, value, ret);
    case SC_CHAT_F_INDENT:
        return indent(r, value, args, ret);
    case SC_CHAT_F_COUNT_OF:
        break;
    }
    return sc_chat_fail(r, SC_EINTERNAL, "filter %d", id);
}
