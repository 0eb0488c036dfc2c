/* model/chat_internal.h - what the files of the chat template interpreter share.
 *
 * chat_lexer.c makes tokens, chat_parse_expr.c and chat_parser.c a tree of sc_chat_node,
 * chat_exec.c and chat_eval.c walk it. Values are small structs passed by copy; what they point to
 * lives in the arena of the template (constants) or of the render, and is never changed, namespaces
 * and loop states apart. Failing functions return false after sc_chat_fail; the first error stays.
 */
#ifndef SC_MODEL_CHAT_INTERNAL_H
#define SC_MODEL_CHAT_INTERNAL_H

#include <jansson.h>

#include "base/arena.h"
#include "model/chat_names.h"
#include "model/chat_template.h"

/* ---- values ---- */

enum sc_chat_type {
    SC_CHAT_UNDEFINED, /* hint: why, for the message when it is used */
    SC_CHAT_NONE,
    SC_CHAT_BOOL,
    SC_CHAT_INT,
    SC_CHAT_FLOAT,
    SC_CHAT_STR,
    SC_CHAT_LIST,
    SC_CHAT_TUPLE,
    SC_CHAT_VIEW, /* what dict.items(), keys() and values() give */
    SC_CHAT_DICT,
    SC_CHAT_ITER, /* a generator: read once */
    SC_CHAT_SLICE,
    SC_CHAT_NAMESPACE,
    SC_CHAT_LOOP,
    SC_CHAT_MACRO,
    SC_CHAT_FUNC,   /* a builtin function */
    SC_CHAT_METHOD, /* a method that was named and not called */
};

struct sc_chat_value {
    uint8_t type; /* enum sc_chat_type */
    bool markup;  /* strings from |safe: what is added to them is escaped */
    uint32_t len; /* bytes of a string */
    union {
        bool b;
        int64_t i;
        double f;
        const char *s; /* UTF-8, no NUL at the end */
        const char *hint;
        const struct sc_chat_seq *seq; /* LIST, TUPLE, VIEW; SLICE: start, stop, step */
        struct sc_chat_dict *dict;     /* DICT, NAMESPACE */
        struct sc_chat_iter *iter;
        enum sc_chat_func_id func;
        struct sc_chat_loop *loop;
        struct sc_chat_macro *macro;
    } u;
};

struct sc_chat_seq {
    uint32_t n;
    const struct sc_chat_value *items;
};

struct sc_chat_entry {
    struct sc_chat_value key, value;
};

struct sc_chat_dict {
    uint32_t n, cap;
    struct sc_chat_entry *entries;
};

struct sc_chat_iter {
    const struct sc_chat_seq *seq;
    uint32_t at;
};

struct sc_chat_loop {
    const struct sc_chat_seq *seq;
    uint32_t at;
    bool has_last;
    struct sc_chat_value last; /* what loop.changed saw */
};

struct sc_chat_macro {
    const struct sc_chat_node *node;
    struct sc_chat_scope *scope; /* where it was defined */
};

/* ---- tokens ---- */

enum sc_chat_token_kind {
    SC_CHAT_TOK_END,
    SC_CHAT_TOK_DATA,
    SC_CHAT_TOK_VAR_BEGIN,
    SC_CHAT_TOK_VAR_END,
    SC_CHAT_TOK_BLOCK_BEGIN,
    SC_CHAT_TOK_BLOCK_END,
    SC_CHAT_TOK_NAME,
    SC_CHAT_TOK_STRING, /* text: between the quotes, escapes not undone */
    SC_CHAT_TOK_INT,
    SC_CHAT_TOK_FLOAT,
    SC_CHAT_TOK_OP, /* op: '+' or two characters packed by SC_CHAT_OP2 */
};

#define SC_CHAT_OP2(a, b) ((a) | (b) << 8)

struct sc_chat_token {
    uint8_t kind;
    uint16_t op;
    uint32_t pos, len; /* of the text, in the source */
};

/* ---- tree ---- */

enum sc_chat_node_kind {
    /* expressions */
    SC_CHAT_N_CONST,    /* value */
    SC_CHAT_N_CAPTURED, /* the body's text, under the filters of {% set %} and {% filter %} */
    SC_CHAT_N_NAME,     /* sym */
    SC_CHAT_N_TUPLE,    /* a: items */
    SC_CHAT_N_LIST,     /* a: items */
    SC_CHAT_N_DICT,     /* a: key, value, key, value, ... */
    SC_CHAT_N_NEG,      /* a */
    SC_CHAT_N_POS,      /* a */
    SC_CHAT_N_NOT,      /* a */
    SC_CHAT_N_AND,      /* a, b */
    SC_CHAT_N_OR,       /* a, b */
    SC_CHAT_N_MATH,     /* op, a, b */
    SC_CHAT_N_COMPARE,  /* a; b: operands */
    SC_CHAT_N_OPERAND,  /* op, a */
    SC_CHAT_N_CONCAT,   /* a: parts */
    SC_CHAT_N_COND,     /* a: test, b: then, c: else or NULL */
    SC_CHAT_N_ATTR,     /* a, value: the name */
    SC_CHAT_N_ITEM,     /* a, b */
    SC_CHAT_N_SLICE,    /* a, b, c: start, stop, step, each may be NULL */
    SC_CHAT_N_FILTER,   /* id, a, b: arguments, c: named arguments */
    SC_CHAT_N_TEST,     /* the same */
    SC_CHAT_N_CALL,     /* a: what is called, b, c */
    SC_CHAT_N_KWARG,    /* sym, value: the name, a */
    /* statements */
    SC_CHAT_N_DATA,   /* value */
    SC_CHAT_N_OUTPUT, /* a */
    SC_CHAT_N_IF,     /* a: arms */
    SC_CHAT_N_ARM,    /* a: test or NULL for else, b: body */
    SC_CHAT_N_FOR,    /* a: target, b: iterated, c: body, d: ARM with the filter in a, else in b */
    SC_CHAT_N_SET,    /* a: target, b */
    SC_CHAT_N_SET_BODY, /* a: target, b: filters over CAPTURED or NULL, c: body */
    SC_CHAT_N_NS_ATTR,  /* target of set: sym, value: the attribute's name */
    SC_CHAT_N_MACRO,    /* sym, value: the name, a: PARAMs, c: body */
    SC_CHAT_N_PARAM,    /* sym, value: the name, a: default or NULL */
    SC_CHAT_N_WITH,     /* a: SETs, c: body */
    SC_CHAT_N_SCOPED,   /* c: body of {% generation %} and {% filter %}; b: filters or NULL */
    SC_CHAT_N_BREAK,
    SC_CHAT_N_CONTINUE,
};

struct sc_chat_node {
    uint8_t kind;
    uint8_t id; /* filter or test; a call of a method: enum sc_chat_method_id */
    uint16_t op;
    uint16_t depth; /* 1 + that of the deepest child */
    uint16_t n_args;
    uint32_t pos; /* in the source */
    int32_t sym;
    struct sc_chat_node *next; /* in a list of children */
    struct sc_chat_node *a, *b, *c, *d;
    struct sc_chat_value value;
};

enum sc_chat_compare {
    SC_CHAT_EQ,
    SC_CHAT_NE,
    SC_CHAT_LT,
    SC_CHAT_LE,
    SC_CHAT_GT,
    SC_CHAT_GE,
    SC_CHAT_IN,
    SC_CHAT_NOT_IN,
};

/* Whether Python's type has that attribute; *ret_mutates: the sandbox hides it. */
bool sc_chat_type_has_attr(enum sc_chat_type type, const char *name, size_t len, bool *ret_mutates);

/* ---- parsing ---- */

struct sc_chat_symbol {
    const char *name;
    uint32_t len;
    uint32_t hash;
    int32_t chain; /* the next symbol of its bucket, or -1 */
    bool assigned; /* a macro, set, for, with or parameter of that name is in the template */
};

#define SC_CHAT_SYMBOL_BUCKETS 1024u

struct sc_chat_template {
    struct sc_arena arena;
    char *source; /* newlines are \n, one at the end is dropped */
    uint32_t source_len;
    struct sc_chat_node *body;
    struct sc_chat_symbol *symbols; /* every name of the template; a scope binds their ids */
    uint32_t n_symbols, cap_symbols;
    int32_t buckets[SC_CHAT_SYMBOL_BUCKETS];
    int32_t sym_loop;
};

struct sc_chat_parser {
    struct sc_chat_template *tpl;
    const struct sc_chat_token *tok;  /* the current token; the last is END */
    const struct sc_chat_node *calls; /* CALLs of names, through d, to check at the end */
    uint32_t depth;                   /* of the parser's own recursion */
    uint32_t n_loops;                 /* loops around, for break and continue */
    enum sc_status status;
    struct sc_err *err;
};

/* Adds "chat template LINE:COLUMN: " for position pos. */
enum sc_status sc_chat_vfail_at(const struct sc_chat_template *tpl, uint32_t pos, enum sc_status st,
                                struct sc_err *err, const char *fmt, va_list ap);
/* Returns NULL, for the parse functions. */
void *sc_chat_parse_fail(struct sc_chat_parser *p, uint32_t pos, enum sc_status st, const char *fmt,
                         ...) SC_PRINTF(4, 5);

enum sc_status sc_chat_lex(struct sc_chat_template *tpl, struct sc_arena *arena,
                           struct sc_chat_token **ret_tokens, struct sc_err *err) SC_MUST_CHECK;
/* Undoes the escapes of a string literal; NULL with an error set. */
const char *sc_chat_unescape(struct sc_chat_parser *p, const struct sc_chat_token *tok,
                             uint32_t *ret_len);
enum sc_status sc_chat_parse(struct sc_chat_template *tpl, const struct sc_chat_token *tokens,
                             struct sc_err *err) SC_MUST_CHECK;

/* Shared by the two parser files. All return NULL, false or -1 after an error. */
struct sc_chat_node *sc_chat_node_new(struct sc_chat_parser *p, enum sc_chat_node_kind kind,
                                      uint32_t pos);
struct sc_chat_node *sc_chat_node_done(struct sc_chat_parser *p, struct sc_chat_node *n);
bool sc_chat_enter(struct sc_chat_parser *p); /* counts recursion; give back with p->depth-- */
int32_t sc_chat_symbol_id(struct sc_chat_template *tpl, const char *name, size_t len);
int32_t sc_chat_symbol_find(const struct sc_chat_template *tpl, const char *name, size_t len);
bool sc_chat_is_op(const struct sc_chat_parser *p, uint16_t op);
bool sc_chat_is_name(const struct sc_chat_parser *p, const char *name);
bool sc_chat_skip_op(struct sc_chat_parser *p, uint16_t op);
bool sc_chat_skip_name(struct sc_chat_parser *p, const char *name);
bool sc_chat_expect_op(struct sc_chat_parser *p, uint16_t op);
/* Fails with "expected X, found Y". */
void *sc_chat_unexpected(struct sc_chat_parser *p, const char *expected);
struct sc_chat_node *sc_chat_parse_expr(struct sc_chat_parser *p, bool with_cond);
struct sc_chat_node *sc_chat_parse_primary(struct sc_chat_parser *p);
/* end_name: a name that ends the tuple, or NULL. */
struct sc_chat_node *sc_chat_parse_tuple(struct sc_chat_parser *p, bool with_cond,
                                         const char *end_name, bool in_parens);
/* | filters over n; NULL: over the captured text. bare: the first comes without its bar. */
struct sc_chat_node *sc_chat_parse_filters(struct sc_chat_parser *p, struct sc_chat_node *n,
                                           bool bare);

/* ---- rendering ---- */

struct sc_chat_binding {
    struct sc_chat_binding *next;
    int32_t sym;
    struct sc_chat_value value;
};

struct sc_chat_scope {
    struct sc_chat_scope *parent;
    struct sc_chat_binding *bindings;
};

/* Bytes being made: malloc'd, so that it can grow without leaving pieces in the arena. */
struct sc_chat_buf {
    char *bytes;
    size_t len, cap;
};

struct sc_chat_run {
    const struct sc_chat_template *tpl;
    struct sc_arena arena;
    struct sc_chat_value captured; /* what N_CAPTURED stands for: set just before it is read */
    struct sc_chat_buf *out;       /* where output goes: the prompt, or a macro's text */
    const struct tm *now;
    uint32_t pos;   /* of what is being evaluated, for messages */
    uint32_t depth; /* of evaluation */
    uint64_t steps;
    enum sc_status status;
    struct sc_err *err;
};

struct sc_chat_args {
    uint32_t n, n_named;
    const struct sc_chat_value *v;     /* the positional ones */
    const struct sc_chat_entry *named; /* in order */
};

bool sc_chat_fail(struct sc_chat_run *r, enum sc_status st, const char *fmt, ...) SC_PRINTF(3, 4);
/* Counts work: one step, and one more for each 64 bytes touched. */
bool sc_chat_step(struct sc_chat_run *r, size_t bytes);
void *sc_chat_take(struct sc_chat_run *r, size_t bytes);
bool sc_chat_put(struct sc_chat_run *r, struct sc_chat_buf *buf, const char *bytes, size_t len);
bool sc_chat_puts(struct sc_chat_run *r, struct sc_chat_buf *buf, const char *text);
/* Moves buf's bytes to a string of the arena; frees buf in any case. */
bool sc_chat_buf_value(struct sc_chat_run *r, struct sc_chat_buf *buf, struct sc_chat_value *ret);

/* chat_value.c */
struct sc_chat_value sc_chat_undefined(const char *hint);
struct sc_chat_value sc_chat_none(void);
struct sc_chat_value sc_chat_bool(bool b);
struct sc_chat_value sc_chat_int(int64_t i);
struct sc_chat_value sc_chat_float(double f);
struct sc_chat_value sc_chat_str(const char *s, size_t len);
bool sc_chat_list(struct sc_chat_run *r, enum sc_chat_type type, const struct sc_chat_value *items,
                  uint32_t n, struct sc_chat_value *ret);     /* borrows items */
const char *sc_chat_type_name(const struct sc_chat_value *v); /* as Python calls it */
bool sc_chat_truth(const struct sc_chat_value *v);
bool sc_chat_is_number(const struct sc_chat_value *v);            /* bool, int, float */
bool sc_chat_is_int(const struct sc_chat_value *v, int64_t *ret); /* bool, int */
double sc_chat_number(const struct sc_chat_value *v);
bool sc_chat_equal(struct sc_chat_run *r, const struct sc_chat_value *a,
                   const struct sc_chat_value *b, bool *ret);
bool sc_chat_compare(struct sc_chat_run *r, enum sc_chat_compare op, const struct sc_chat_value *a,
                     const struct sc_chat_value *b, bool *ret);
bool sc_chat_contains(struct sc_chat_run *r, const struct sc_chat_value *item,
                      const struct sc_chat_value *container, bool *ret);
/* The items as iteration gives them; a generator is read to its end. */
bool sc_chat_items(struct sc_chat_run *r, const struct sc_chat_value *v,
                   const struct sc_chat_seq **ret);
bool sc_chat_length(struct sc_chat_run *r, const struct sc_chat_value *v, int64_t *ret);
bool sc_chat_dict_new(struct sc_chat_run *r, uint32_t cap, struct sc_chat_dict **ret);
/* *ret NULL when absent. */
bool sc_chat_dict_get(struct sc_chat_run *r, const struct sc_chat_dict *d,
                      const struct sc_chat_value *key, const struct sc_chat_value **ret);
bool sc_chat_dict_set(struct sc_chat_run *r, struct sc_chat_dict *d,
                      const struct sc_chat_value *key, const struct sc_chat_value *value);
bool sc_chat_dict_view(struct sc_chat_run *r, const struct sc_chat_dict *d,
                       enum sc_chat_method_id part, struct sc_chat_value *ret);
/* Borrows the strings of json. */
bool sc_chat_from_json(struct sc_chat_run *r, const json_t *json, uint32_t depth,
                       struct sc_chat_value *ret);
/* The error for using an undefined value. */
bool sc_chat_use_undefined(struct sc_chat_run *r, const struct sc_chat_value *v);

/* chat_text.c */
bool sc_chat_put_str(struct sc_chat_run *r, struct sc_chat_buf *buf, const struct sc_chat_value *v);
/* Python's str(); strings are returned as they are. */
bool sc_chat_to_str(struct sc_chat_run *r, const struct sc_chat_value *v,
                    struct sc_chat_value *ret);
struct sc_chat_json_style {
    int64_t indent; /* < 0: one line */
    bool sort_keys, ascii;
    struct sc_chat_value item_sep, key_sep; /* strings */
};
bool sc_chat_to_json(struct sc_chat_run *r, const struct sc_chat_value *v,
                     const struct sc_chat_json_style *style, struct sc_chat_value *ret);
bool sc_chat_escape(struct sc_chat_run *r, const struct sc_chat_value *v,
                    struct sc_chat_value *ret);
bool sc_chat_concat(struct sc_chat_run *r, const struct sc_chat_value *a,
                    const struct sc_chat_value *b, struct sc_chat_value *ret);

/* chat_string.c: method of the string self */
bool sc_chat_str_method(struct sc_chat_run *r, enum sc_chat_method_id id,
                        const struct sc_chat_value *self, const struct sc_chat_args *args,
                        struct sc_chat_value *ret);
uint32_t sc_chat_str_chars(const struct sc_chat_value *s);
/* Byte offset of code point i <= chars. */
uint32_t sc_chat_str_offset(const struct sc_chat_value *s, uint32_t i);
bool sc_chat_is_space(uint32_t cp); /* as Python's str.isspace */
struct sc_chat_value sc_chat_strip(const struct sc_chat_value *s, const struct sc_chat_value *chars,
                                   bool left, bool right);

/* chat_filters.c, chat_tests.c. value: what is filtered or tested. */
bool sc_chat_filter(struct sc_chat_run *r, int id, const struct sc_chat_value *value,
                    const struct sc_chat_args *args, struct sc_chat_value *ret);
bool sc_chat_test(struct sc_chat_run *r, int id, const struct sc_chat_value *value,
                  const struct sc_chat_args *args, bool *ret);
/* Argument i, or the one named name; NULL when not given. */
const struct sc_chat_value *sc_chat_arg(const struct sc_chat_args *args, uint32_t i,
                                        const char *name);

/* chat_item.c */
bool sc_chat_get_attr(struct sc_chat_run *r, const struct sc_chat_value *obj,
                      const struct sc_chat_value *name, struct sc_chat_value *ret);
bool sc_chat_get_item(struct sc_chat_run *r, const struct sc_chat_value *obj,
                      const struct sc_chat_value *key, struct sc_chat_value *ret);
bool sc_chat_math(struct sc_chat_run *r, uint16_t op, const struct sc_chat_value *a,
                  const struct sc_chat_value *b, struct sc_chat_value *ret);

/* chat_call.c */
bool sc_chat_eval_args(struct sc_chat_run *r, const struct sc_chat_node *n,
                       struct sc_chat_scope *scope, struct sc_chat_args *ret);
bool sc_chat_eval_call(struct sc_chat_run *r, const struct sc_chat_node *n,
                       struct sc_chat_scope *scope, struct sc_chat_value *ret);

/* chat_eval.c */
bool sc_chat_eval(struct sc_chat_run *r, const struct sc_chat_node *n, struct sc_chat_scope *scope,
                  struct sc_chat_value *ret);

/* chat_exec.c */
enum sc_chat_flow { SC_CHAT_NEXT, SC_CHAT_BREAK, SC_CHAT_CONTINUE, SC_CHAT_FAILED };
enum sc_chat_flow sc_chat_exec(struct sc_chat_run *r, const struct sc_chat_node *body,
                               struct sc_chat_scope *scope);
/* Runs body in scope with its output kept apart, as a string. */
bool sc_chat_capture(struct sc_chat_run *r, const struct sc_chat_node *body,
                     struct sc_chat_scope *scope, struct sc_chat_value *ret);
struct sc_chat_scope *sc_chat_scope_new(struct sc_chat_run *r, struct sc_chat_scope *parent);
bool sc_chat_bind(struct sc_chat_run *r, struct sc_chat_scope *scope, int32_t sym,
                  const struct sc_chat_value *value);
const struct sc_chat_value *sc_chat_lookup(const struct sc_chat_scope *scope, int32_t sym);

#endif
