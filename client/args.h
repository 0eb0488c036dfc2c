/* client/args.h - argv against the option table.
 *
 * Options and words may come in any order; `--name value` and `--name=value` are the same; `--`
 * ends options; a lone `-` is a word. What is wrong is said with the option's name, its value and
 * the limit. Memory: lists live in the arena of struct sc_args; texts point into argv. Threads:
 * values, one owner.
 */
#ifndef SC_CLIENT_ARGS_H
#define SC_CLIENT_ARGS_H

#include "base/arena.h"
#include "client/options.h"

#define SC_ARG_LIST_MAX  1048576u /* ids of one option */
#define SC_ARG_TEXTS_MAX 64u      /* times a repeatable option may be given */

struct sc_arg_value {
    bool set;
    const char *text;   /* TEXT, CHOICE: as typed */
    uint64_t u;         /* UINT, FLAG_UINT; RANGE: its low end */
    uint64_t u_high;    /* RANGE */
    int64_t i;          /* INT */
    double real;        /* REAL */
    bool on;            /* BOOL, FLAG, FLAG_UINT */
    uint32_t choice;    /* CHOICE: index */
    const char **texts; /* TEXTS */
    int32_t *ids;       /* IDS, BIAS */
    float *biases;      /* BIAS */
    uint32_t n_items;
};

struct sc_args {
    enum sc_cmd_id cmd;
    struct sc_arg_value values[SC_OPT_COUNT];
    const char *words[SC_ARG_WORDS_MAX];
    uint32_t n_words;
    struct sc_arena arena;
};

/* argv[0] is the program, argv[1] the command. `--help` anywhere lifts the check of required words.
 * On failure args is empty and needs no fini. SC_EINVAL: the text is for the user. */
enum sc_status sc_args_parse(int argc, char *const *argv, struct sc_args *ret_args,
                             struct sc_err *err) SC_MUST_CHECK;
void sc_args_fini(struct sc_args *args);

static inline const struct sc_arg_value *sc_arg(const struct sc_args *args, enum sc_opt_id id)
{
    return &args->values[id];
}

/* Replaces \n, \t and \\ as a shell user types them; other backslashes stay. NULL: no memory. */
char *sc_args_unescape(struct sc_arena *arena, const char *text);

#endif
