#include "client/prompt.h"

#include "base/utf8.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_BYTES 65536u

static enum sc_status no_memory(const char *what, struct sc_err *err)
{
    return sc_fail(err, SC_ENOMEM, "%.128s: no memory", what);
}

/* Reads to the end into a malloc'ed buffer; its length need not be known (pipes). */
static enum sc_status read_all(FILE *file, const char *path, char **ret_bytes, size_t *ret_len,
                               struct sc_err *err)
{
    enum sc_status st = SC_OK;
    char *bytes = NULL;
    size_t len = 0, room = 0;
    while (st == SC_OK) {
        if (len == room) {
            room = room == 0 ? READ_BYTES : room * 2;
            char *more = realloc(bytes, room);
            if (more == NULL) {
                st = no_memory(path, err);
                break;
            }
            bytes = more;
        }
        size_t n = fread(bytes + len, 1, room - len, file);
        len += n;
        if (len > SC_INPUT_BYTES_MAX)
            st = sc_fail(err, SC_ERANGE, "%.128s: more than %u bytes", path, SC_INPUT_BYTES_MAX);
        else if (n == 0 && ferror(file))
            st = sc_fail(err, SC_EIO, "%.128s: %s", path, strerror(errno));
        else if (n == 0)
            break;
    }
    if (st != SC_OK) {
        free(bytes);
        return st;
    }
    *ret_bytes = bytes;
    *ret_len = len;
    return SC_OK;
}

enum sc_status sc_prompt_check(const char *what, const char *text, size_t len, struct sc_err *err)
{
    size_t at = 0;
    if (sc_utf8_valid(text, len, &at))
        return SC_OK;
    return sc_fail(err, SC_EFORMAT, "%.128s: not UTF-8 at byte %zu (0x%02X)", what, at,
                   (unsigned)(unsigned char)text[at]);
}

enum sc_status sc_prompt_read(struct sc_arena *arena, const char *path, struct sc_text *ret_text,
                              struct sc_err *err)
{
    const bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? "stdin" : path;
    char *bytes = NULL;
    size_t len = 0;
    FILE *file = is_stdin ? stdin : fopen(path, "rb");
    if (file == NULL)
        return sc_fail(err, SC_ENOENT, "%.256s: %s", path, strerror(errno));
    enum sc_status st = read_all(file, name, &bytes, &len, err);
    if (!is_stdin)
        (void)fclose(file);
    if (st != SC_OK)
        return st;
    st = sc_prompt_check(name, bytes, len, err);
    char *copy = st == SC_OK ? sc_arena_copy(arena, bytes, len) : NULL;
    free(bytes);
    if (st != SC_OK)
        return st;
    if (copy == NULL)
        return no_memory(name, err);
    *ret_text = (struct sc_text){copy, len};
    return SC_OK;
}

void sc_prompt_format_default(struct sc_prompt_format *ret_format)
{
    *ret_format = (struct sc_prompt_format){
        .question_prefix = "\n\nQuestion: ",
        .answer_prefix = "\nAnswer:",
        .stops = {"\n"},
        .n_stops = 1,
    };
}

static enum sc_status take_string(struct sc_arena *arena, const char *key, const json_t *value,
                                  const char **ret_text, struct sc_err *err)
{
    if (!json_is_string(value))
        return sc_fail(err, SC_EINVAL, "prompt format: %s is not a string", key);
    const char *copy = sc_arena_copy(arena, json_string_value(value), json_string_length(value));
    if (copy == NULL)
        return no_memory("prompt format", err);
    *ret_text = copy;
    return SC_OK;
}

static enum sc_status take_stops(struct sc_arena *arena, const json_t *value,
                                 struct sc_prompt_format *format, struct sc_err *err)
{
    if (!json_is_array(value) || json_array_size(value) > SC_FORMAT_STOPS_MAX)
        return sc_fail(err, SC_EINVAL, "prompt format: stop must be a list of at most %u strings",
                       SC_FORMAT_STOPS_MAX);
    format->n_stops = 0;
    for (size_t i = 0; i < json_array_size(value); i++) {
        enum sc_status st = take_string(arena, "an item of stop", json_array_get(value, i),
                                        &format->stops[format->n_stops], err);
        if (st == SC_OK && format->stops[format->n_stops][0] == '\0')
            st = sc_fail(err, SC_EINVAL, "prompt format: an item of stop is empty");
        if (st != SC_OK)
            return st;
        format->n_stops++;
    }
    return SC_OK;
}

enum sc_status sc_prompt_format_parse(struct sc_arena *arena, const char *json, size_t len,
                                      struct sc_prompt_format *format, struct sc_err *err)
{
    json_error_t where;
    const char *key;
    json_t *value;
    enum sc_status st = SC_OK;
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &where);
    if (root == NULL)
        return sc_fail(err, SC_EFORMAT, "prompt format: line %d: %s", where.line, where.text);
    if (!json_is_object(root))
        st = sc_fail(err, SC_EFORMAT, "prompt format: not a JSON object");
    json_object_foreach(root, key, value)
    {
        if (st != SC_OK)
            break;
        if (strcmp(key, "question_prefix") == 0)
            st = take_string(arena, key, value, &format->question_prefix, err);
        else if (strcmp(key, "answer_prefix") == 0)
            st = take_string(arena, key, value, &format->answer_prefix, err);
        else if (strcmp(key, "stop") == 0)
            st = take_stops(arena, value, format, err);
        else
            st = sc_fail(err, SC_EINVAL,
                         "prompt format: unknown key '%.64s' (known: question_prefix, "
                         "answer_prefix, stop)",
                         key);
    }
    json_decref(root);
    return st;
}

enum sc_status sc_prompt_build(struct sc_arena *arena, const struct sc_prompt_format *format,
                               const struct sc_text *document, const char *question,
                               struct sc_text *ret_prompt, struct sc_err *err)
{
    size_t document_len = document->len;
    while (document_len > 0 && document->bytes[document_len - 1] == '\n')
        document_len--;
    const struct sc_text parts[] = {
        {document->bytes, document_len},
        {format->question_prefix, strlen(format->question_prefix)},
        {question, strlen(question)},
        {format->answer_prefix, strlen(format->answer_prefix)},
    };
    size_t len = 0, at = 0;
    for (size_t i = 0; i < SC_ARRAY_LEN(parts); i++)
        len += parts[i].len;
    char *bytes = sc_arena_take(arena, len + 1);
    if (bytes == NULL)
        return no_memory("prompt", err);
    for (size_t i = 0; i < SC_ARRAY_LEN(parts); i++) {
        memcpy(bytes + at, parts[i].bytes, parts[i].len);
        at += parts[i].len;
    }
    *ret_prompt = (struct sc_text){bytes, len};
    return SC_OK;
}
