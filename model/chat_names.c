/* The filters, tests, functions and methods that templates may use, by name. */
#include <string.h>

#include "model/chat_internal.h"

#define ROW(id, name, min, max) {name, min, max},

static const struct sc_chat_name filters[] = {SC_CHAT_FILTERS(ROW)};
static const struct sc_chat_name tests[] = {SC_CHAT_TESTS(ROW)};
static const struct sc_chat_name funcs[] = {SC_CHAT_FUNCS(ROW)};
static const struct sc_chat_name methods[] = {SC_CHAT_METHODS(ROW)};

static const struct {
    const struct sc_chat_name *rows;
    int n;
} tables[] = {
    [SC_CHAT_NAMED_FILTER] = {filters, SC_ARRAY_LEN(filters)},
    [SC_CHAT_NAMED_TEST] = {tests, SC_ARRAY_LEN(tests)},
    [SC_CHAT_NAMED_FUNC] = {funcs, SC_ARRAY_LEN(funcs)},
    [SC_CHAT_NAMED_METHOD] = {methods, SC_ARRAY_LEN(methods)},
};

int sc_chat_name_find(enum sc_chat_name_kind kind, const char *name, size_t len)
{
    for (int i = 0; i < tables[kind].n; i++) {
        const char *row = tables[kind].rows[i].name;
        if (strlen(row) == len && memcmp(row, name, len) == 0)
            return i;
    }
    return -1;
}

const struct sc_chat_name *sc_chat_name_get(enum sc_chat_name_kind kind, int id)
{
    return &tables[kind].rows[id];
}

/* What Python's types have; a ! marks what the sandbox hides because it changes the object.
 * `message.items` is the method even where the dict has such a key. */
static const char *const dict_attrs[] = {"!clear",      "copy",    "fromkeys", "get",
                                         "items",       "keys",    "!pop",     "!popitem",
                                         "!setdefault", "!update", "values"};
static const char *const list_attrs[] = {"!append", "!clear",   "copy",    "count",
                                         "!extend", "index",    "!insert", "!pop",
                                         "!remove", "!reverse", "!sort"};
static const char *const tuple_attrs[] = {"count", "index"};
static const char *const str_attrs[] = {
    "capitalize",   "casefold",    "center",    "count",      "encode",       "endswith",
    "expandtabs",   "find",        "format",    "format_map", "index",        "isalnum",
    "isalpha",      "isascii",     "isdecimal", "isdigit",    "isidentifier", "islower",
    "isnumeric",    "isprintable", "isspace",   "istitle",    "isupper",      "join",
    "ljust",        "lower",       "lstrip",    "maketrans",  "partition",    "removeprefix",
    "removesuffix", "replace",     "rfind",     "rindex",     "rjust",        "rpartition",
    "rsplit",       "rstrip",      "split",     "splitlines", "startswith",   "strip",
    "swapcase",     "title",       "translate", "upper",      "zfill"};

bool sc_chat_type_has_attr(enum sc_chat_type type, const char *name, size_t len, bool *ret_mutates)
{
    const char *const *attrs;
    size_t n;
    switch (type) {
    case SC_CHAT_DICT:
        attrs = dict_attrs, n = SC_ARRAY_LEN(dict_attrs);
        break;
    case SC_CHAT_LIST:
        attrs = list_attrs, n = SC_ARRAY_LEN(list_attrs);
        break;
    case SC_CHAT_TUPLE:
        attrs = tuple_attrs, n = SC_ARRAY_LEN(tuple_attrs);
        break;
    case SC_CHAT_STR:
        attrs = str_attrs, n = SC_ARRAY_LEN(str_attrs);
        break;
    default:
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        bool mutates = attrs[i][0] == '!';
        const char *attr = attrs[i] + mutates;
        if (strlen(attr) == len && memcmp(attr, name, len) == 0) {
            *ret_mutates = mutates;
            return true;
        }
    }
    return false;
}
