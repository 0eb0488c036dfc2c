/* model/chat_names.h - the filters, tests, functions and methods that templates may use.
 *
 * Constant tables, shared by the parser, which refuses what is not in them, and the evaluator.
 */
#ifndef SC_MODEL_CHAT_NAMES_H
#define SC_MODEL_CHAT_NAMES_H

#include <stddef.h>
#include <stdint.h>

/* id, name in templates, least and most arguments (named ones included) */
#define SC_CHAT_FILTERS(X)                                                                         \
    X(TOJSON, "tojson", 0, 4)                                                                      \
    X(TRIM, "trim", 0, 1)                                                                          \
    X(LENGTH, "length", 0, 0)                                                                      \
    X(COUNT, "count", 0, 0)                                                                        \
    X(STRING, "string", 0, 0)                                                                      \
    X(SAFE, "safe", 0, 0)                                                                          \
    X(ITEMS, "items", 0, 0)                                                                        \
    X(LIST, "list", 0, 0)                                                                          \
    X(JOIN, "join", 0, 2)                                                                          \
    X(SELECT, "select", 0, 4)                                                                      \
    X(REJECT, "reject", 0, 4)                                                                      \
    X(SELECTATTR, "selectattr", 1, 4)                                                              \
    X(REJECTATTR, "rejectattr", 1, 4)                                                              \
    X(MAP, "map", 1, 4)                                                                            \
    X(DEFAULT, "default", 0, 2)                                                                    \
    X(D, "d", 0, 2)                                                                                \
    X(UPPER, "upper", 0, 0)                                                                        \
    X(LOWER, "lower", 0, 0)                                                                        \
    X(CAPITALIZE, "capitalize", 0, 0)                                                              \
    X(TITLE, "title", 0, 0)                                                                        \
    X(REPLACE, "replace", 2, 3)                                                                    \
    X(FIRST, "first", 0, 0)                                                                        \
    X(LAST, "last", 0, 0)                                                                          \
    X(REVERSE, "reverse", 0, 0)                                                                    \
    X(DICTSORT, "dictsort", 0, 0)                                                                  \
    X(INT, "int", 0, 1)                                                                            \
    X(FLOAT, "float", 0, 1)                                                                        \
    X(ABS, "abs", 0, 0)                                                                            \
    X(ESCAPE, "escape", 0, 0)                                                                      \
    X(E, "e", 0, 0)                                                                                \
    X(INDENT, "indent", 0, 3)

#define SC_CHAT_TESTS(X)                                                                           \
    X(DEFINED, "defined", 0, 0)                                                                    \
    X(UNDEFINED, "undefined", 0, 0)                                                                \
    X(NONE, "none", 0, 0)                                                                          \
    X(BOOLEAN, "boolean", 0, 0)                                                                    \
    X(TRUE, "true", 0, 0)                                                                          \
    X(FALSE, "false", 0, 0)                                                                        \
    X(INTEGER, "integer", 0, 0)                                                                    \
    X(FLOAT, "float", 0, 0)                                                                        \
    X(NUMBER, "number", 0, 0)                                                                      \
    X(STRING, "string", 0, 0)                                                                      \
    X(MAPPING, "mapping", 0, 0)                                                                    \
    X(ITERABLE, "iterable", 0, 0)                                                                  \
    X(SEQUENCE, "sequence", 0, 0)                                                                  \
    X(CALLABLE, "callable", 0, 0)                                                                  \
    X(ODD, "odd", 0, 0)                                                                            \
    X(EVEN, "even", 0, 0)                                                                          \
    X(DIVISIBLEBY, "divisibleby", 1, 1)                                                            \
    X(LOWER, "lower", 0, 0)                                                                        \
    X(UPPER, "upper", 0, 0)                                                                        \
    X(IN, "in", 1, 1)                                                                              \
    X(EQ, "eq", 1, 1)                                                                              \
    X(EQUALTO, "equalto", 1, 1)                                                                    \
    X(EQ_SIGN, "==", 1, 1)                                                                         \
    X(NE, "ne", 1, 1)                                                                              \
    X(NE_SIGN, "!=", 1, 1)                                                                         \
    X(LT, "lt", 1, 1)                                                                              \
    X(LESSTHAN, "lessthan", 1, 1)                                                                  \
    X(LT_SIGN, "<", 1, 1)                                                                          \
    X(LE, "le", 1, 1)                                                                              \
    X(LE_SIGN, "<=", 1, 1)                                                                         \
    X(GT, "gt", 1, 1)                                                                              \
    X(GREATERTHAN, "greaterthan", 1, 1)                                                            \
    X(GT_SIGN, ">", 1, 1)                                                                          \
    X(GE, "ge", 1, 1)                                                                              \
    X(GE_SIGN, ">=", 1, 1)

#define SC_CHAT_FUNCS(X)                                                                           \
    X(NAMESPACE, "namespace", 0, 64)                                                               \
    X(RAISE_EXCEPTION, "raise_exception", 1, 1)                                                    \
    X(STRFTIME_NOW, "strftime_now", 1, 1)                                                          \
    X(RANGE, "range", 1, 3)                                                                        \
    X(DICT, "dict", 0, 64)

/* Of strings, dicts and loops; a name has one meaning per type. */
#define SC_CHAT_METHODS(X)                                                                         \
    X(STRIP, "strip", 0, 1)                                                                        \
    X(LSTRIP, "lstrip", 0, 1)                                                                      \
    X(RSTRIP, "rstrip", 0, 1)                                                                      \
    X(SPLIT, "split", 0, 2)                                                                        \
    X(RSPLIT, "rsplit", 0, 2)                                                                      \
    X(SPLITLINES, "splitlines", 0, 0)                                                              \
    X(STARTSWITH, "startswith", 1, 1)                                                              \
    X(ENDSWITH, "endswith", 1, 1)                                                                  \
    X(REPLACE, "replace", 2, 3)                                                                    \
    X(REMOVEPREFIX, "removeprefix", 1, 1)                                                          \
    X(REMOVESUFFIX, "removesuffix", 1, 1)                                                          \
    X(UPPER, "upper", 0, 0)                                                                        \
    X(LOWER, "lower", 0, 0)                                                                        \
    X(CAPITALIZE, "capitalize", 0, 0)                                                              \
    X(TITLE, "title", 0, 0)                                                                        \
    X(FIND, "find", 1, 1)                                                                          \
    X(COUNT, "count", 1, 1)                                                                        \
    X(JOIN, "join", 1, 1)                                                                          \
    X(ITEMS, "items", 0, 0)                                                                        \
    X(KEYS, "keys", 0, 0)                                                                          \
    X(VALUES, "values", 0, 0)                                                                      \
    X(GET, "get", 1, 2)                                                                            \
    X(CYCLE, "cycle", 1, 64)                                                                       \
    X(CHANGED, "changed", 1, 64)

#define SC_CHAT_ENUM(prefix, id)                SC_CHAT_##prefix##_##id,
#define SC_CHAT_FILTER_ENUM(id, name, min, max) SC_CHAT_ENUM(F, id)
#define SC_CHAT_TEST_ENUM(id, name, min, max)   SC_CHAT_ENUM(T, id)
#define SC_CHAT_FUNC_ENUM(id, name, min, max)   SC_CHAT_ENUM(FN, id)
#define SC_CHAT_METHOD_ENUM(id, name, min, max) SC_CHAT_ENUM(M, id)
enum sc_chat_filter_id { SC_CHAT_FILTERS(SC_CHAT_FILTER_ENUM) SC_CHAT_F_COUNT_OF };
enum sc_chat_test_id { SC_CHAT_TESTS(SC_CHAT_TEST_ENUM) SC_CHAT_T_COUNT_OF };
enum sc_chat_func_id { SC_CHAT_FUNCS(SC_CHAT_FUNC_ENUM) SC_CHAT_FN_COUNT_OF };
enum sc_chat_method_id { SC_CHAT_METHODS(SC_CHAT_METHOD_ENUM) SC_CHAT_M_COUNT_OF };

enum sc_chat_name_kind {
    SC_CHAT_NAMED_FILTER,
    SC_CHAT_NAMED_TEST,
    SC_CHAT_NAMED_FUNC,
    SC_CHAT_NAMED_METHOD,
};

struct sc_chat_name {
    const char *name;
    uint16_t min_args, max_args;
};

/* The id, or -1. */
int sc_chat_name_find(enum sc_chat_name_kind kind, const char *name, size_t len);
const struct sc_chat_name *sc_chat_name_get(enum sc_chat_name_kind kind, int id);
#endif
