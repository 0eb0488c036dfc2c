#include "client/options.h"

#include "base/status.h"

#include <limits.h>

#define BIT(cmd)  (1u << (cmd))
#define GEN       (BIT(SC_CMD_GENERATE) | BIT(SC_CMD_ASK))
#define INSPECT   BIT(SC_CMD_INSPECT)
#define INGEST    BIT(SC_CMD_INGEST)
#define DOCUMENTS BIT(SC_CMD_DOCUMENTS)
#define TOK       BIT(SC_CMD_TOKENIZE)
#define ASK       BIT(SC_CMD_ASK)
#define PROMPT    BIT(SC_CMD_GENERATE)
#define TOP       BIT(SC_CMD_TOP)
#define EVENTS    BIT(SC_CMD_EVENTS)
#define SERVE     BIT(SC_CMD_BENCH_SERVE)
#define QA        BIT(SC_CMD_BENCH_DOCUMENTS)
#define QUALITY   BIT(SC_CMD_BENCH_QUALITY)
#define BENCH     (SERVE | QA)
#define KV        (GEN | INGEST | BENCH | QUALITY | INSPECT)
#define SPECIAL   (GEN | INSPECT | TOK)
#define CALLS     (KV | TOK | BIT(SC_CMD_INFO) | DOCUMENTS | TOP | EVENTS)
#define ALL       (CALLS | BIT(SC_CMD_HELP))

#define LEN_MAX   1048576 /* tokens; the server has the last word */
#define TTL_MAX_S 1e10    /* 300 years; microseconds still fit 63 bits */

static const struct sc_cmd_spec cmds[SC_CMD_COUNT] = {
    [SC_CMD_GENERATE] =
        {"generate", "--prompt TEXT | --prompt-file FILE | --token-ids IDS [options]",
         "continue a prompt; the text goes to stdout as it comes",
         "The prompt is sent as it is. A receipt follows on stderr: token counts, what the KV\n"
         "cache kept, and timings. With --json nothing is streamed and one object is\n"
         "printed at the end.\n",
         0, 0},
    [SC_CMD_ASK] =
        {"ask", "--document FILE | --doc ID... [options] QUESTION",
         "ask a question about a document",
         "The prompt is DOCUMENT without newlines at its end, question prefix, QUESTION, answer\n"
         "prefix, in this order. Prefixes and stop strings come from the defaults, then from the\n"
         "file of --prompt-format, then from --question-prefix, --answer-prefix and --stop.\n"
         "With --doc the document is one that the server has; semcache ingest puts it there.\n",
         1, 1},
    [SC_CMD_INGEST] =
        {"ingest", "[options] FILE...", "put documents on the server, to be asked about",
         "The server reads each FILE once and keeps its compressed KV cache; ask --doc ID then\n"
         "needs only the question. ID is the file's base name unless --id says otherwise.\n"
         "Newlines at a document's end are left out, as ask --document does. FILE may be - for\n"
         "stdin, for which the server makes up an id. A file that fails does not stop the\n"
         "others; the exit status is then 1. With --json: one object a file.\n",
         1, SC_ARG_WORDS_MAX},
    [SC_CMD_DOCUMENTS] =
        {"documents", "list | show ID | pin ID | unpin ID | rm ID...",
         "list, describe, pin or remove documents",
         "A pinned document is not evicted. An evicted one is read again when it is asked.\n", 1,
         SC_ARG_WORDS_MAX},
    [SC_CMD_TOKENIZE] = {"tokenize", "--text TEXT | --file FILE | --detokenize --token-ids IDS",
                         "print the token ids of a text, or the text of token ids",
                         "Ids are printed with commas on one line, ready for --token-ids.\n", 0, 0},
    [SC_CMD_INFO] = {"info", "[options]", "describe the server and the model it serves",
                     "Exits 0 only when the server answers both questions.\n", 0, 0},
    [SC_CMD_INSPECT] =
        {"inspect", "[options] FILE", "show how the server compresses a text",
         "Prints the text with its chunks and, in one layer, its clusters: the tokens of a chunk\n"
         "that share a colour (or, without colours, a number) became one core. Sinks, window and\n"
         "exact layers stay as they are. The last line says how much of the text a request would\n"
         "find in the cache now, and why not more. FILE may be - for stdin.\n",
         1, 1},
    [SC_CMD_TOP] =
        {"top", "[options]", "watch a server's requests, pages and caches",
         "On a terminal, until interrupted. Elsewhere, and with --once or --json, two looks that\n"
         "lie --interval apart, printed once. Pages: # used, + cached, . free.\n",
         0, 0},
    [SC_CMD_EVENTS] =
        {"events", "[options]", "follow what enters and leaves the cache of prefixes",
         "First what is held now, then events as they come, until interrupted; one line each, and\n"
         "with --json one object each. Keys are the first 8 bytes of 32; --json has them whole.\n",
         0, 0},
    [SC_CMD_BENCH_SERVE] =
        {"bench serve", "[options]", "measure a server under many requests at once",
         "Sends prompts of random token ids and measures, at the client, the time to the first\n"
         "token (TTFT), the gaps between messages with tokens, and the whole. --streams requests\n"
         "run at once, each followed by the next; with --rate they arrive on their own, and "
         "--streams\n"
         "only bounds them. Outputs are as long as asked for: the end-of-text token is ignored.\n",
         0, 0},
    [SC_CMD_BENCH_DOCUMENTS] =
        {"bench documents", "[options]", "measure questions about documents that were put once",
         "Reads a few prompts of a document's length cold, puts --documents random ones, asks\n"
         "--questions in each of --passes passes, in turn over the documents in random order, and\n"
         "compares. Peak: of pages that are not free, looked at between the steps. Documents are\n"
         "deleted at the end.\n",
         0, 0},
    [SC_CMD_BENCH_QUALITY] =
        {"bench quality", "--suite FILE... [options]",
         "ask questions with known answers about documents",
         "A suite is JSON Lines: an object with id, task, length, depth, document and questions\n"
         "(q and the list a) on each line. Prompts are those of ask; the first question of a\n"
         "document reads it, the others find it in the cache. An answer is right when it is the\n"
         "wanted one letter by letter; shares come with 95 % Wilson intervals. With\n"
         "--against-exact each question is asked of the exact cache, too: KL and top-1 agreement\n"
         "are of the next token at each token of that answer, from the 20 likeliest tokens of\n"
         "both, so KL is a lower bound.\n",
         0, 0},
    [SC_CMD_HELP] = {"help", "[COMMAND]", "explain a command", "", 0, 2},
};

/* name, value in help texts, field, kind, commands, low, high, choices, help */
// clang-format off
static const struct sc_opt_spec opts[SC_OPT_COUNT] = {
    [SC_OPT_SERVER] = {"server", "ADDRESS", NULL, SC_ARG_TEXT, CALLS, 0, 0,
        {0}, "where semanticached listens (default 127.0.0.1:50051)"},
    [SC_OPT_TIMEOUT] = {"timeout", "SECONDS", NULL, SC_ARG_REAL, CALLS, 0, 1e6,
        {0}, "give up after that long; 0: never (default 600; events: 0)"},
    [SC_OPT_JSON] = {"json", NULL, NULL, SC_ARG_FLAG, CALLS, 0, 0,
        {0}, "print one JSON object on stdout instead of text"},
    [SC_OPT_API_KEY_FILE] = {"api-key-file", "FILE", NULL, SC_ARG_TEXT, CALLS, 0, 0,
        {0}, "first line is the key that calls carry (default: SEMCACHE_API_KEY)"},
    [SC_OPT_COLOR] = {"color", "WHEN", NULL, SC_ARG_CHOICE, CALLS, 0, 0,
        {"auto", "always", "never"}, "colours and progress; auto (default): on a terminal"},
    [SC_OPT_HELP] = {"help", NULL, NULL, SC_ARG_FLAG, ALL, 0, 0,
        {0}, "explain the command and exit"},

    [SC_OPT_PROMPT] = {"prompt", "TEXT", NULL, SC_ARG_TEXT, PROMPT, 0, 0,
        {0}, "the prompt"},
    [SC_OPT_PROMPT_FILE] = {"prompt-file", "FILE", NULL, SC_ARG_TEXT, PROMPT, 0, 0,
        {0}, "read the prompt from FILE; - is stdin"},
    [SC_OPT_TOKEN_IDS] = {"token-ids", "ID,...", NULL, SC_ARG_IDS, PROMPT | TOK, 0, INT_MAX,
        {0}, "the prompt (or the text to print) as token ids"},
    [SC_OPT_DOCUMENT] = {"document", "FILE", NULL, SC_ARG_TEXT, ASK, 0, 0,
        {0}, "the document; - is stdin"},
    [SC_OPT_DOC] = {"doc", "ID", NULL, SC_ARG_TEXTS, ASK, 0, 0,
        {0}, "a document on the server; may be repeated: in this order, a blank line between two"},
    [SC_OPT_PROMPT_FORMAT] = {"prompt-format", "FILE", NULL, SC_ARG_TEXT, ASK | QUALITY, 0, 0,
        {0}, "JSON object with question_prefix, answer_prefix and stop (a list)"},
    [SC_OPT_QUESTION_PREFIX] = {"question-prefix", "TEXT", NULL, SC_ARG_TEXT, ASK | QUALITY, 0, 0,
        {0}, "before the question (default \"\\n\\nQuestion: \"; knows \\n \\t \\\\)"},
    [SC_OPT_ANSWER_PREFIX] = {"answer-prefix", "TEXT", NULL, SC_ARG_TEXT, ASK | QUALITY, 0, 0,
        {0}, "after the question (default \"\\nAnswer:\"; knows \\n \\t \\\\)"},
    [SC_OPT_TEXT] = {"text", "TEXT", NULL, SC_ARG_TEXT, TOK, 0, 0,
        {0}, "the text to tokenize"},
    [SC_OPT_FILE] = {"file", "FILE", NULL, SC_ARG_TEXT, TOK, 0, 0,
        {0}, "read the text from FILE; - is stdin"},
    [SC_OPT_DETOKENIZE] = {"detokenize", NULL, NULL, SC_ARG_FLAG, TOK, 0, 0,
        {0}, "print the text of --token-ids"},
    [SC_OPT_ADD_SPECIAL_TOKENS] = {"add-special-tokens", "BOOL", NULL, SC_ARG_BOOL, SPECIAL, 0, 0,
        {0}, "put what the tokenizer adds around a text, as a BOS (default true)"},
    [SC_OPT_PARSE_SPECIAL_TOKENS] = {
        "parse-special-tokens", "BOOL", NULL, SC_ARG_BOOL, SPECIAL, 0, 0,
        {0}, "text that spells a special token becomes it (default true; ask: false)"},
    [SC_OPT_LAYER] = {"layer", "N", NULL, SC_ARG_UINT, INSPECT, 0, 65535,
        {0}, "the layer to show (default: the first that is compressed)"},
    [SC_OPT_HTML] = {"html", "FILE", NULL, SC_ARG_TEXT, INSPECT, 0, 0,
        {0}, "write a self-contained page with every layer instead"},
    [SC_OPT_INTERVAL] = {"interval", "SECONDS", NULL, SC_ARG_REAL, TOP, 0.1, 3600,
        {0}, "time between looks at the server (default 1)"},
    [SC_OPT_ONCE] = {"once", NULL, NULL, SC_ARG_FLAG, TOP | EVENTS, 0, 0,
        {0}, "print one block, or what is held now, and exit"},
    [SC_OPT_FROM] = {"from", "N", NULL, SC_ARG_UINT, EVENTS, 0, 18446744073709551615.0,
        {0}, "go on from event N, where the server still holds it"},
    [SC_OPT_QUIET] = {"quiet", NULL, NULL, SC_ARG_FLAG, GEN | INGEST, 0, 0,
        {0}, "no receipt, no progress"},
    [SC_OPT_REQUEST_ID] = {"request-id", "TEXT", NULL, SC_ARG_TEXT, GEN, 0, 0,
        {0}, "names the request in the server's log"},
    [SC_OPT_PRIORITY] = {"priority", "N", NULL, SC_ARG_INT, GEN, -100, 100,
        {0}, "requests of a higher number are admitted first (default 0)"},
    [SC_OPT_ID] = {"id", "ID", NULL, SC_ARG_TEXT, INGEST, 0, 0,
        {0}, "the document's id: 1..128 printable ASCII characters"},
    [SC_OPT_TITLE] = {"title", "TEXT", NULL, SC_ARG_TEXT, INGEST, 0, 0,
        {0}, "the document's title"},
    [SC_OPT_REPLACE] = {"replace", NULL, NULL, SC_ARG_FLAG, INGEST, 0, 0,
        {0}, "replace a document that has this id; else that is an error"},
    [SC_OPT_PIN] = {"pin", "[=SECONDS]", NULL, SC_ARG_FLAG_UINT, INGEST, 0, TTL_MAX_S,
        {0}, "keep it from being evicted, so long or until it is deleted"},
    [SC_OPT_TTL] = {"ttl", "SECONDS", NULL, SC_ARG_UINT, DOCUMENTS, 0, TTL_MAX_S,
        {0}, "pin for so long (default 0: until it is deleted)"},

    [SC_OPT_STREAMS] = {"streams", "N", NULL, SC_ARG_UINT, BENCH, 1, 65536,
        {0}, "requests at once (default 1; with --rate 4096)"},
    [SC_OPT_REQUESTS] = {"requests", "N", NULL, SC_ARG_UINT, SERVE, 1, 1e9,
        {0}, "requests in all (default: one a stream; with --duration no limit)"},
    [SC_OPT_PROMPT_LEN] = {"prompt-len", "A[-B]", NULL, SC_ARG_RANGE, SERVE, 1, LEN_MAX,
        {0}, "tokens of a prompt, evenly from A to B (default 512)"},
    [SC_OPT_OUTPUT_LEN] = {"output-len", "A[-B]", NULL, SC_ARG_RANGE, BENCH, 1, LEN_MAX,
        {0}, "tokens of an output (default 64)"},
    [SC_OPT_RATE] = {"rate", "X", NULL, SC_ARG_REAL, SERVE, 1e-3, 1e6,
        {0}, "Poisson arrivals, so many a second"},
    [SC_OPT_SHARED_PREFIX] = {"shared-prefix", "N", NULL, SC_ARG_UINT, SERVE, 0, LEN_MAX,
        {0}, "the first N tokens of all prompts are the same (default 0)"},
    [SC_OPT_CANCEL_PERCENT] = {"cancel-percent", "X", NULL, SC_ARG_REAL, SERVE, 0, 100,
        {0}, "cancel that many, in the prompt or somewhere in the output (default 0)"},
    [SC_OPT_DEADLINE_PERCENT] = {"deadline-percent", "X", NULL, SC_ARG_REAL, SERVE, 0, 100,
        {0}, "give that many a deadline (default 0)"},
    [SC_OPT_DEADLINE_MS] = {"deadline-ms", "A[-B]", NULL, SC_ARG_RANGE, SERVE, 1, 3600000,
        {0}, "the deadline, from when the request is sent (default 1000)"},
    [SC_OPT_SLOW_READER_MS] = {"slow-reader-ms", "N", NULL, SC_ARG_UINT, SERVE, 0, 60000,
        {0}, "wait so long before each further message is read (default 0)"},
    [SC_OPT_DURATION] = {"duration", "SECONDS", NULL, SC_ARG_REAL, SERVE, 0.001, 1e6,
        {0}, "start no request later than that"},
    [SC_OPT_DOCUMENTS] = {"documents", "N", NULL, SC_ARG_UINT, QA, 1, 1000000,
        {0}, "documents (default 8)"},
    [SC_OPT_QUESTIONS] = {"questions", "N", NULL, SC_ARG_UINT, QA, 1, 10000000,
        {0}, "questions of a pass (default: one a document)"},
    [SC_OPT_PASSES] = {"passes", "N", NULL, SC_ARG_UINT, QA, 1, 10000,
        {0}, "passes over the documents (default 1)"},
    [SC_OPT_DOCUMENT_LEN] = {"document-len", "N", NULL, SC_ARG_UINT, QA, 1, LEN_MAX,
        {0}, "tokens of a document (default 4096)"},
    [SC_OPT_QUESTION_LEN] = {"question-len", "N", NULL, SC_ARG_UINT, QA, 1, LEN_MAX,
        {0}, "tokens of a question (default 32)"},
    [SC_OPT_KEEP] = {"keep", NULL, NULL, SC_ARG_FLAG, QA, 0, 0,
        {0}, "leave the documents on the server"},
    [SC_OPT_SUITE] = {"suite", "FILE", NULL, SC_ARG_TEXTS, QUALITY, 0, 0,
        {0}, "documents and questions, JSON Lines; - is stdin; may be repeated"},
    [SC_OPT_LIMIT] = {"limit", "N", NULL, SC_ARG_UINT, QUALITY, 1, 1e9,
        {0}, "the first N documents of each task and length (default: all)"},
    [SC_OPT_AGAINST_EXACT] = {"against-exact", NULL, NULL, SC_ARG_FLAG, QUALITY, 0, 0,
        {0}, "ask the exact cache, too: KL and top-1 agreement at its answers"},

    [SC_OPT_MAX_TOKENS] = {"max-tokens", "N", "max_tokens", SC_ARG_UINT, GEN | QUALITY, 1, INT_MAX,
        {0}, "generate at most N tokens (default: what the context holds; ask: 256; bench quality: 24)"},
    [SC_OPT_MIN_TOKENS] = {"min-tokens", "N", "min_tokens", SC_ARG_UINT, GEN, 0, INT_MAX,
        {0}, "no end of text before N tokens"},
    [SC_OPT_TEMPERATURE] = {"temperature", "X", "temperature", SC_ARG_REAL, GEN, 0, 100,
        {0}, "0 is greedy, which ask does unless told otherwise"},
    [SC_OPT_TOP_P] = {"top-p", "X", "top_p", SC_ARG_REAL, GEN, 0, 1,
        {0}, "keep the likeliest tokens that make up X"},
    [SC_OPT_TOP_K] = {"top-k", "N", "top_k", SC_ARG_INT, GEN, -1, INT_MAX,
        {0}, "keep the N likeliest tokens; 0 or -1: all"},
    [SC_OPT_MIN_P] = {"min-p", "X", "min_p", SC_ARG_REAL, GEN, 0, 1,
        {0}, "keep tokens at least X times as likely as the likeliest"},
    [SC_OPT_REPETITION_PENALTY] = {
        "repetition-penalty", "X", "repetition_penalty", SC_ARG_REAL, GEN, 1e-6, 10,
        {0}, "over 1 discourages tokens of prompt and output"},
    [SC_OPT_PRESENCE_PENALTY] = {
        "presence-penalty", "X", "presence_penalty", SC_ARG_REAL, GEN, -2, 2,
        {0}, "taken from tokens that were generated"},
    [SC_OPT_FREQUENCY_PENALTY] = {
        "frequency-penalty", "X", "frequency_penalty", SC_ARG_REAL, GEN, -2, 2,
        {0}, "the same, once for every time they were"},
    [SC_OPT_LOGIT_BIAS] = {"logit-bias", "ID:BIAS,...", NULL, SC_ARG_BIAS, GEN, -100, 100,
        {0}, "added to the logits of these tokens"},
    [SC_OPT_SEED] = {"seed", "N", "seed", SC_ARG_UINT, GEN | BENCH, 0, 18446744073709551615.0,
        {0}, "makes sampling repeatable; bench: the inputs (default 0)"},
    [SC_OPT_STOP] = {"stop", "TEXT", NULL, SC_ARG_TEXTS, GEN | QUALITY, 0, 0,
        {0}, "end before this text; may be repeated (knows \\n \\t \\\\)"},
    [SC_OPT_STOP_TOKEN_IDS] = {"stop-token-ids", "ID,...", NULL, SC_ARG_IDS, GEN, 0, INT_MAX,
        {0}, "end at these tokens"},
    [SC_OPT_INCLUDE_STOP] = {
        "include-stop-str-in-output", "BOOL", "include_stop_str_in_output", SC_ARG_BOOL, GEN, 0, 0,
        {0}, "keep the stop text in the output (default false)"},
    [SC_OPT_IGNORE_EOS] = {"ignore-eos", NULL, "ignore_eos", SC_ARG_FLAG, GEN, 0, 0,
        {0}, "go on after the end-of-text token"},
    [SC_OPT_SKIP_SPECIAL_TOKENS] = {
        "skip-special-tokens", "BOOL", "skip_special_tokens", SC_ARG_BOOL, GEN | TOK, 0, 0,
        {0}, "leave special tokens out of the text (default true)"},
    [SC_OPT_LOGPROBS] = {"logprobs", "N", "logprobs", SC_ARG_UINT, GEN, 0, 20,
        {0}, "with --json: log-probabilities of each token and the N likeliest"},

    [SC_OPT_KV] = {"kv", "MODE", "mode", SC_ARG_CHOICE, KV, 0, 0,
        {"auto", "exact", "compressed"}, "how the KV cache is kept (inspect: compressed unless told otherwise)"},
    [SC_OPT_TARGET_RATIO] = {"target-ratio", "X", "target_ratio", SC_ARG_REAL, KV, 0.01, 1,
        {0}, "cores per token aimed at within compressed chunks"},
    [SC_OPT_GENERATED_RATIO] = {"generated-ratio", "X", "generated_ratio", SC_ARG_REAL, KV, 0.01, 1,
        {0}, "the same for generated tokens"},
    [SC_OPT_SIMILARITY_THRESHOLD] = {
        "similarity-threshold", "X", "similarity_threshold", SC_ARG_REAL, KV, 0, 1,
        {0}, "how alike merged tokens must be, instead of --target-ratio"},
    [SC_OPT_METRIC] = {"metric", "NAME", "metric", SC_ARG_CHOICE, KV, 0, 0,
        {"l2_pre", "l2_post", "cos_pre", "cos_post"}, "distance of keys, before or after RoPE"},
    [SC_OPT_SEED_ORDER] = {"seed-order", "NAME", "seed_order", SC_ARG_CHOICE, KV, 0, 0,
        {"dense", "scan"}, "which token seeds the next cluster"},
    [SC_OPT_REPRESENTATIVE] = {"representative", "NAME", "representative", SC_ARG_CHOICE, KV, 0, 0,
        {"mean", "seed", "last"}, "what stands for a cluster"},
    [SC_OPT_CHUNKS] = {"chunks", "NAME", "chunking", SC_ARG_CHOICE, KV, 0, 0,
        {"packed", "sentence", "clause", "fixed"}, "how the text is cut"},
    [SC_OPT_BUDGET] = {"budget", "NAME", "budget", SC_ARG_CHOICE, KV, 0, 0,
        {"threshold", "per_chunk"}, "one threshold a layer, or so many cores a chunk"},
    [SC_OPT_LABELS] = {"labels", "NAME", "labels", SC_ARG_CHOICE, KV, 0, 0,
        {"shared", "per_head"}, "one clustering for all KV heads, or one each"},
    [SC_OPT_BIAS] = {"bias", "NAME", "bias", SC_ARG_CHOICE, KV, 0, 0,
        {"ln", "none"}, "proportional attention: a core weighs as its tokens did"},
    [SC_OPT_PREFILL] = {"prefill", "NAME", "prefill", SC_ARG_CHOICE, KV, 0, 0,
        {"streaming", "exact_then_compress"}, "compress while the prompt is read, or after it"},
    [SC_OPT_COMPRESS_GENERATED] = {
        "compress-generated", "BOOL", "compress_generated", SC_ARG_BOOL, KV, 0, 0,
        {0}, "compress generated tokens too"},
    [SC_OPT_KEEP_OUTLIERS] = {
        "keep-outliers", "BOOL", "keep_outliers", SC_ARG_BOOL, KV, 0, 0,
        {0}, "tokens far from the mean key stay alone"},
    [SC_OPT_WINDOW] = {"window", "N", "window", SC_ARG_UINT, KV, 16, 65536,
        {0}, "the latest N tokens stay exact"},
    [SC_OPT_EPOCH] = {"epoch", "N", "epoch", SC_ARG_UINT, KV, 64, 4096,
        {0}, "compress every N tokens"},
    [SC_OPT_SINKS] = {"sinks", "N", "sinks", SC_ARG_UINT, KV, 0, 65536,
        {0}, "the first N tokens stay exact"},
    [SC_OPT_CHUNK_MIN] = {"chunk-min", "N", "chunk_min", SC_ARG_UINT, KV, 4, 128,
        {0}, "shortest chunk, in tokens"},
    [SC_OPT_CHUNK_TARGET] = {"chunk-target", "N", "chunk_target", SC_ARG_UINT, KV, 4, 128,
        {0}, "chunk length aimed at"},
    [SC_OPT_CHUNK_MAX] = {"chunk-max", "N", "chunk_max", SC_ARG_UINT, KV, 4, 128,
        {0}, "longest chunk"},
    [SC_OPT_EXACT_LAYERS] = {"exact-layers", "N,...", NULL, SC_ARG_IDS, KV, 0, 65535,
        {"none"}, "these layers are never compressed; none: there are none (default: the model's)"},
};
// clang-format on

const struct sc_cmd_spec *sc_cmd_spec(enum sc_cmd_id id)
{
    SC_ASSERT((unsigned)id < SC_CMD_COUNT);
    return &cmds[id];
}

const struct sc_opt_spec *sc_opt_spec(enum sc_opt_id id)
{
    SC_ASSERT((unsigned)id < SC_OPT_COUNT);
    return &opts[id];
}
