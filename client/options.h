/* client/options.h - the commands and options of semcache, as one table.
 *
 * The parser (args.h), the help texts (help.h) and the test that reads the man page all work from
 * it, so an option is described once. Threads: constant data.
 */
#ifndef SC_CLIENT_OPTIONS_H
#define SC_CLIENT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum sc_cmd_id {
    SC_CMD_GENERATE,
    SC_CMD_ASK,
    SC_CMD_INGEST,
    SC_CMD_DOCUMENTS,
    SC_CMD_TOKENIZE,
    SC_CMD_INFO,
    SC_CMD_INSPECT,
    SC_CMD_TOP,
    SC_CMD_EVENTS,
    SC_CMD_BENCH_SERVE,
    SC_CMD_BENCH_DOCUMENTS,
    SC_CMD_BENCH_QUALITY,
    SC_CMD_HELP,
    SC_CMD_COUNT
};

struct sc_cmd_spec {
    const char *name;              /* one word, or two with a blank */
    const char *usage;             /* what follows the name on the usage line */
    const char *summary;           /* one line */
    const char *details;           /* paragraphs for `semcache help NAME` */
    uint32_t min_words, max_words; /* positional arguments */
};

enum sc_arg_kind {
    SC_ARG_FLAG,      /* takes no value */
    SC_ARG_FLAG_UINT, /* takes one only as --name=N: low..high, 0 without */
    SC_ARG_TEXT,      /* the last one given counts */
    SC_ARG_TEXTS,     /* may be repeated */
    SC_ARG_UINT,      /* low..high */
    SC_ARG_INT,       /* low..high */
    SC_ARG_RANGE,     /* A or A-B: low..high, A not over B */
    SC_ARG_REAL,      /* low..high, finite */
    SC_ARG_BOOL,      /* true|false, on|off, yes|no, 1|0 */
    SC_ARG_CHOICE,    /* one of choices */
    SC_ARG_IDS,       /* token ids with commas */
    SC_ARG_BIAS,      /* ID:BIAS with commas; low..high bound the bias */
};

enum sc_opt_id {
    SC_OPT_SERVER,
    SC_OPT_TIMEOUT,
    SC_OPT_JSON,
    SC_OPT_API_KEY_FILE,
    SC_OPT_COLOR,
    SC_OPT_HELP,
    SC_OPT_PROMPT,
    SC_OPT_PROMPT_FILE,
    SC_OPT_TOKEN_IDS,
    SC_OPT_DOCUMENT,
    SC_OPT_DOC,
    SC_OPT_PROMPT_FORMAT,
    SC_OPT_QUESTION_PREFIX,
    SC_OPT_ANSWER_PREFIX,
    SC_OPT_TEXT,
    SC_OPT_FILE,
    SC_OPT_DETOKENIZE,
    SC_OPT_ADD_SPECIAL_TOKENS,
    SC_OPT_PARSE_SPECIAL_TOKENS,
    SC_OPT_LAYER,
    SC_OPT_HTML,
    SC_OPT_INTERVAL,
    SC_OPT_ONCE,
    SC_OPT_FROM,
    SC_OPT_QUIET,
    SC_OPT_REQUEST_ID,
    SC_OPT_PRIORITY,
    SC_OPT_ID,
    SC_OPT_TITLE,
    SC_OPT_REPLACE,
    SC_OPT_PIN,
    SC_OPT_TTL,
    SC_OPT_STREAMS,
    SC_OPT_REQUESTS,
    SC_OPT_PROMPT_LEN,
    SC_OPT_OUTPUT_LEN,
    SC_OPT_RATE,
    SC_OPT_SHARED_PREFIX,
    SC_OPT_CANCEL_PERCENT,
    SC_OPT_DEADLINE_PERCENT,
    SC_OPT_DEADLINE_MS,
    SC_OPT_SLOW_READER_MS,
    SC_OPT_DURATION,
    SC_OPT_DOCUMENTS,
    SC_OPT_QUESTIONS,
    SC_OPT_PASSES,
    SC_OPT_DOCUMENT_LEN,
    SC_OPT_QUESTION_LEN,
    SC_OPT_KEEP,
    SC_OPT_SUITE,
    SC_OPT_LIMIT,
    SC_OPT_AGAINST_EXACT,
    SC_OPT_MAX_TOKENS,
    SC_OPT_MIN_TOKENS,
    SC_OPT_TEMPERATURE,
    SC_OPT_TOP_P,
    SC_OPT_TOP_K,
    SC_OPT_MIN_P,
    SC_OPT_REPETITION_PENALTY,
    SC_OPT_PRESENCE_PENALTY,
    SC_OPT_FREQUENCY_PENALTY,
    SC_OPT_LOGIT_BIAS,
    SC_OPT_SEED,
    SC_OPT_STOP,
    SC_OPT_STOP_TOKEN_IDS,
    SC_OPT_INCLUDE_STOP,
    SC_OPT_IGNORE_EOS,
    SC_OPT_SKIP_SPECIAL_TOKENS,
    SC_OPT_LOGPROBS,
    SC_OPT_KV,
    SC_OPT_TARGET_RATIO,
    SC_OPT_GENERATED_RATIO,
    SC_OPT_SIMILARITY_THRESHOLD,
    SC_OPT_METRIC,
    SC_OPT_SEED_ORDER,
    SC_OPT_REPRESENTATIVE,
    SC_OPT_CHUNKS,
    SC_OPT_BUDGET,
    SC_OPT_LABELS,
    SC_OPT_BIAS,
    SC_OPT_PREFILL,
    SC_OPT_COMPRESS_GENERATED,
    SC_OPT_KEEP_OUTLIERS,
    SC_OPT_WINDOW,
    SC_OPT_EPOCH,
    SC_OPT_SINKS,
    SC_OPT_CHUNK_MIN,
    SC_OPT_CHUNK_TARGET,
    SC_OPT_CHUNK_MAX,
    SC_OPT_EXACT_LAYERS,
    SC_OPT_COUNT
};

#define SC_CHOICES_MAX   4
#define SC_ARG_WORDS_MAX 1024u /* positional arguments of a command */

struct sc_opt_spec {
    const char *name;       /* without the dashes */
    const char *value_name; /* in help texts; NULL for a flag */
    const char *field;      /* the scalar of SamplingParams or KvOptions that it sets, or NULL */
    enum sc_arg_kind kind;
    uint32_t cmds;                       /* bit per sc_cmd_id */
    double low, high;                    /* UINT, INT, RANGE, REAL, BIAS */
    const char *choices[SC_CHOICES_MAX]; /* CHOICE; ends at the first NULL. IDS: the empty list */
    const char *help;
};

const struct sc_cmd_spec *sc_cmd_spec(enum sc_cmd_id id);
const struct sc_opt_spec *sc_opt_spec(enum sc_opt_id id);

static inline bool sc_opt_belongs(const struct sc_opt_spec *spec, enum sc_cmd_id cmd)
{
    return ((spec->cmds >> cmd) & 1u) != 0;
}

#endif
