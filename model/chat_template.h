/* model/chat_template.h - the model's chat template: messages to the text of a prompt.
 *
 * An interpreter for the part of Jinja2 that chat templates of Hugging Face models use, set up as
 * `transformers` sets it up (trim_blocks, lstrip_blocks, loop controls, lenient undefined values,
 * tojson without HTML escapes). What it does not know - a tag, filter, test, method or function -
 * is refused at open, with its name and line:column. Memory: the parsed template is made at open;
 * a render takes an arena of its own, freed before it returns. Threads: an opened template is
 * read-only, any number of threads may render it at once.
 */
#ifndef SC_MODEL_CHAT_TEMPLATE_H
#define SC_MODEL_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <time.h>

#include "base/status.h"
#include "model/tokenizer.h" /* struct sc_text */

#define SC_CHAT_TEMPLATE_BYTES_MAX ((size_t)1 << 20)   /* the source */
#define SC_CHAT_CONFIG_BYTES_MAX   ((size_t)16 << 20)  /* the JSON file that holds it */
#define SC_CHAT_PARSE_BYTES_MAX    ((size_t)256 << 20) /* memory of the parsed template */
#define SC_CHAT_PARSE_DEPTH_MAX    200u                /* nested blocks and expressions */
#define SC_CHAT_MESSAGES_MAX       65536u
#define SC_CHAT_INPUT_BYTES_MAX    ((size_t)64 << 20)  /* each JSON text; all contents together */
#define SC_CHAT_DATA_DEPTH_MAX     100u                /* nested lists and objects in a value */
#define SC_CHAT_STEPS_MAX          10000000u           /* nodes evaluated by one render */
#define SC_CHAT_CALL_DEPTH_MAX     1000u               /* nested evaluations, macros included */
#define SC_CHAT_RENDER_BYTES_MAX   ((size_t)256 << 20) /* memory of one render */
#define SC_CHAT_OUTPUT_BYTES_MAX   ((size_t)64 << 20)  /* rendered text */

struct sc_chat_template;

struct sc_chat_message {
    const char *role, *content; /* valid UTF-8, need no NUL */
    size_t role_len, content_len;
};

struct sc_chat_request {
    /* The messages: pairs, or instead the text of a JSON list of objects. */
    const struct sc_chat_message *messages;
    size_t n_messages;
    const char *messages_json; /* NULL: the pairs count */
    size_t messages_json_len;
    bool add_generation_prompt;
    const char *bos_token, *eos_token; /* NULL: not defined */
    /* A JSON object of further variables (tools, documents, enable_thinking, ...), or NULL. It may
     * redefine the tokens, but not messages and add_generation_prompt. */
    const char *variables_json;
    size_t variables_json_len;
    const struct tm *now; /* what strftime_now shows; NULL: the local time */
};

/* source: valid UTF-8. SC_EFORMAT: malformed. SC_ENOTSUP: a construct that is not supported.
 * SC_ERANGE: a limit. Messages carry line:column. */
enum sc_status sc_chat_template_open(const char *source, size_t len,
                                     struct sc_chat_template **ret_tpl,
                                     struct sc_err *err) SC_MUST_CHECK;
/* From a model directory: chat_template.jinja, else chat_template.json, else the field
 * chat_template of tokenizer_config.json (a string, or a list of {name, template}: "default").
 * SC_ENOENT when there is none. */
enum sc_status sc_chat_template_open_dir(const char *dir, struct sc_chat_template **ret_tpl,
                                         struct sc_err *err) SC_MUST_CHECK;
void sc_chat_template_close(struct sc_chat_template *tpl); /* NULL is fine */

/* Appends to out, which keeps its length on failure. SC_EINVAL: the template called
 * raise_exception, whose message is then the text of err; or it did what these messages do not
 * allow, such as adding none to a string, and err has line:column. SC_ERANGE: a limit. */
enum sc_status sc_chat_template_render(const struct sc_chat_template *tpl,
                                       const struct sc_chat_request *req, struct sc_text *out,
                                       struct sc_err *err) SC_MUST_CHECK;

#endif
