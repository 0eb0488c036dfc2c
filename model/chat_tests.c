/* The tests of chat templates: value is name(argument). */
#include "model/chat_internal.h"
#include "model/unicode.h"

#include <utf8proc.h>

static bool is_iterable(const struct sc_chat_value *v)
{
    switch (v->type) {
    case SC_CHAT_UNDEFINED:
    case SC_CHAT_STR:
    case SC_CHAT_LIST:
    case SC_CHAT_TUPLE:
    case SC_CHAT_VIEW:
    case SC_CHAT_DICT:
    case SC_CHAT_ITER:
    case SC_CHAT_LOOP:
        return true;
    default:
        return false;
    }
}

/* What has a length and elements; an undefined value passes for one in Jinja. */
static bool is_sequence(const struct sc_chat_value *v)
{
    return v->type == SC_CHAT_UNDEFINED || v->type == SC_CHAT_STR || v->type == SC_CHAT_LIST ||
           v->type == SC_CHAT_TUPLE || v->type == SC_CHAT_DICT;
}

/* str.islower, str.isupper: a letter with case, and none of the other case */
static bool has_case(struct sc_chat_run *r, const struct sc_chat_value *v, bool upper, bool *ret)
{
    struct sc_chat_value s;
    bool some = false, other = false;
    if (!sc_chat_to_str(r, v, &s) || !sc_chat_step(r, s.len))
        return false;
    for (size_t at = 0; at < s.len;) {
        utf8proc_int32_t cp = (utf8proc_int32_t)sc_utf8_next(s.u.s, &at);
        bool lower_cp = utf8proc_toupper(cp) != cp, upper_cp = utf8proc_tolower(cp) != cp;
        some |= upper ? upper_cp : lower_cp;
        other |= upper ? lower_cp : upper_cp;
    }
    *ret = some && !other;
    return true;
}

static bool remainder_is(struct sc_chat_run *r, const struct sc_chat_value *v,
                         const struct sc_chat_value *by, int64_t wanted, bool *ret)
{
    struct sc_chat_value rest;
    int64_t i;
    if (!sc_chat_math(r, '%', v, by, &rest))
        return false;
    *ret = sc_chat_is_int(&rest, &i) ? i == wanted : sc_chat_number(&rest) == (double)wanted;
    return true;
}

/* Comparisons by name or by sign. */
static bool compares(struct sc_chat_run *r, int id, const struct sc_chat_value *v,
                     const struct sc_chat_value *other, bool *ret)
{
    enum sc_chat_compare op;
    switch ((enum sc_chat_test_id)id) {
    case SC_CHAT_T_IN:
        op = SC_CHAT_IN;
        break;
    case SC_CHAT_T_NE:
    case SC_CHAT_T_NE_SIGN:
        op = SC_CHAT_NE;
        break;
    case SC_CHAT_T_LT:
    case SC_CHAT_T_LESSTHAN:
    case SC_CHAT_T_LT_SIGN:
        op = SC_CHAT_LT;
        break;
    case SC_CHAT_T_LE:
    case SC_CHAT_T_LE_SIGN:
        op = SC_CHAT_LE;
        break;
    case SC_CHAT_T_GT:
    case SC_CHAT_T_GREATERTHAN:
    case SC_CHAT_T_GT_SIGN:
        op = SC_CHAT_GT;
        break;
    case SC_CHAT_T_GE:
    case SC_CHAT_T_GE_SIGN:
        op = SC_CHAT_GE;
        break;
    default:
        op = SC_CHAT_EQ;
        break;
    }
    return sc_chat_compare(r, op, v, other, ret);
}

bool sc_chat_test(struct sc_chat_run *r, int id, const struct sc_chat_value *value,
                  const struct sc_chat_args *args, bool *ret)
{
    const struct sc_chat_value two = sc_chat_int(2);
    enum sc_chat_type type = (enum sc_chat_type)value->type;
    if (args->n_named > 0)
        return sc_chat_fail(r, SC_EINVAL, "tests take no named arguments");
    switch ((enum sc_chat_test_id)id) {
    case SC_CHAT_T_DEFINED:
    case SC_CHAT_T_UNDEFINED:
        *ret = (type == SC_CHAT_UNDEFINED) == (id == SC_CHAT_T_UNDEFINED);
        return true;
    case SC_CHAT_T_NONE:
        *ret = type == SC_CHAT_NONE;
        return true;
    case SC_CHAT_T_BOOLEAN:
        *ret = type == SC_CHAT_BOOL;
        return true;
    case SC_CHAT_T_TRUE:
    case SC_CHAT_T_FALSE:
        *ret = type == SC_CHAT_BOOL && value->u.b == (id == SC_CHAT_T_TRUE);
        return true;
    case SC_CHAT_T_INTEGER:
        *ret = type == SC_CHAT_INT;
        return true;
    case SC_CHAT_T_FLOAT:
        *ret = type == SC_CHAT_FLOAT;
        return true;
    case SC_CHAT_T_NUMBER:
        *ret = sc_chat_is_number(value);
        return true;
    case SC_CHAT_T_STRING:
        *ret = type == SC_CHAT_STR;
        return true;
    case SC_CHAT_T_MAPPING:
        *ret = type == SC_CHAT_DICT;
        return true;
    case SC_CHAT_T_ITERABLE:
        *ret = is_iterable(value);
        return true;
    case SC_CHAT_T_SEQUENCE:
        *ret = is_sequence(value);
        return true;
    case SC_CHAT_T_CALLABLE:
        *ret = type == SC_CHAT_MACRO || type == SC_CHAT_FUNC || type == SC_CHAT_METHOD ||
               type == SC_CHAT_UNDEFINED;
        return true;
    case SC_CHAT_T_ODD:
    case SC_CHAT_T_EVEN:
        return remainder_is(r, value, &two, id == SC_CHAT_T_ODD, ret);
    case SC_CHAT_T_DIVISIBLEBY:
        return remainder_is(r, value, &args->v[0], 0, ret);
    case SC_CHAT_T_LOWER:
    case SC_CHAT_T_UPPER:
        return has_case(r, value, id == SC_CHAT_T_UPPER, ret);
    default:
        return compares(r, id, value, &args->v[0], ret);
    }
}
