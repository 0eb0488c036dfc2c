#include "client/quality_suite.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define AND       " and "
#define DEPTH_MAX 9

static enum sc_status no_memory(struct sc_err *err)
{
    return sc_fail(err, SC_ENOMEM, "suite: no memory");
}

static enum sc_status take_text(struct sc_arena *arena, const json_t *object, const char *key,
                                size_t max, struct sc_text *ret_text, struct sc_err *err)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_string(value))
        return sc_fail(err, SC_EFORMAT, "%s is not a string", key);
    const size_t len = json_string_length(value);
    if (len > max)
        return sc_fail(err, SC_EFORMAT, "%s: %zu bytes, limit %zu", key, len, max);
    const char *copy = sc_arena_copy(arena, json_string_value(value), len);
    if (copy == NULL)
        return no_memory(err);
    *ret_text = (struct sc_text){copy, len};
    return SC_OK;
}

static enum sc_status take_name(struct sc_arena *arena, const json_t *object, const char *key,
                                const char **ret_name, struct sc_err *err)
{
    struct sc_text text = {0};
    enum sc_status st = take_text(arena, object, key, SC_SUITE_NAME_MAX, &text, err);
    if (st == SC_OK)
        *ret_name = text.bytes;
    return st;
}

static enum sc_status take_number(const json_t *object, const char *key, json_int_t high,
                                  json_int_t *ret_number, struct sc_err *err)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > high)
        return sc_fail(err, SC_EFORMAT, "%s is not a whole number of 0..%lld", key,
                       (long long)high);
    *ret_number = json_integer_value(value);
    return SC_OK;
}

static enum sc_status join_answers(struct sc_arena *arena, const json_t *answers,
                                   const char **ret_wanted, struct sc_err *err)
{
    size_t len = 0, at = 0, i;
    const json_t *answer;
    if (!json_is_array(answers) || json_array_size(answers) == 0)
        return sc_fail(err, SC_EFORMAT, "a is not a list of answers");
    json_array_foreach(answers, i, answer)
    {
        if (!json_is_string(answer) || json_string_length(answer) == 0)
            return sc_fail(err, SC_EFORMAT, "an item of a is not a text");
        len += json_string_length(answer) + strlen(AND);
    }
    char *wanted = sc_arena_take(arena, len + 1);
    if (wanted == NULL)
        return no_memory(err);
    json_array_foreach(answers, i, answer)
    {
        if (i > 0) {
            memcpy(wanted + at, AND, strlen(AND));
            at += strlen(AND);
        }
        memcpy(wanted + at, json_string_value(answer), json_string_length(answer));
        at += json_string_length(answer);
    }
    *ret_wanted = wanted;
    return SC_OK;
}

/* Absent is what *depth is. */
static enum sc_status take_depth(const json_t *object, int32_t *depth, struct sc_err *err)
{
    const json_t *value = json_object_get(object, "depth");
    json_int_t number = -1;
    enum sc_status st = SC_OK;
    if (value == NULL)
        return SC_OK;
    if (!json_is_null(value))
        st = take_number(object, "depth", DEPTH_MAX, &number, err);
    if (st == SC_OK)
        *depth = (int32_t)number;
    return st;
}

static enum sc_status take_questions(struct sc_arena *arena, const json_t *list, int32_t depth,
                                     struct sc_suite_document *document, struct sc_err *err)
{
    const size_t n = json_array_size(list);
    if (!json_is_array(list) || n == 0 || n > SC_SUITE_QUESTIONS_MAX)
        return sc_fail(err, SC_EFORMAT, "questions is not a list of 1..%u", SC_SUITE_QUESTIONS_MAX);
    struct sc_suite_question *questions = sc_arena_take(arena, n * sizeof(*questions));
    if (questions == NULL)
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        struct sc_text text = {0};
        enum sc_status st = take_text(arena, item, "q", SC_INPUT_BYTES_MAX, &text, err);
        if (st == SC_OK)
            st = join_answers(arena, json_object_get(item, "a"), &questions[i].wanted, err);
        if (st != SC_OK)
            return st;
        questions[i].text = text.bytes;
        questions[i].depth = depth;
        st = take_depth(item, &questions[i].depth, err);
        if (st != SC_OK)
            return st;
    }
    document->questions = questions;
    document->n_questions = (uint32_t)n;
    return SC_OK;
}

enum sc_status sc_suite_parse(struct sc_arena *arena, const char *json, size_t len,
                              struct sc_suite_document *ret_document, struct sc_err *err)
{
    struct sc_suite_document d = {0};
    int32_t depth = -1;
    json_error_t where;
    json_int_t length = 0;
    json_t *root = json_loadb(json, len, 0, &where);
    if (root == NULL)
        return sc_fail(err, SC_EFORMAT, "column %d: %s", where.column, where.text);
    enum sc_status st = json_is_object(root) ? take_name(arena, root, "id", &d.id, err)
                                             : sc_fail(err, SC_EFORMAT, "not a JSON object");
    if (st == SC_OK)
        st = take_name(arena, root, "task", &d.task, err);
    if (st == SC_OK)
        st = take_number(root, "length", INT32_MAX, &length, err);
    if (st == SC_OK)
        st = take_depth(root, &depth, err);
    if (st == SC_OK)
        st = take_text(arena, root, "document", SC_INPUT_BYTES_MAX, &d.text, err);
    if (st == SC_OK)
        st = take_questions(arena, json_object_get(root, "questions"), depth, &d, err);
    json_decref(root);
    if (st != SC_OK)
        return st;
    d.length = (uint32_t)length;
    *ret_document = d;
    return SC_OK;
}

enum sc_status sc_suite_open(const char *path, struct sc_suite *ret_suite, struct sc_err *err)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (file == NULL)
        return sc_fail(err, SC_ENOENT, "%.256s: %s", path, strerror(errno));
    *ret_suite = (struct sc_suite){.path = path, .file = file};
    return SC_OK;
}

void sc_suite_close(struct sc_suite *suite)
{
    if (suite->file != NULL && suite->file != stdin)
        (void)fclose(suite->file);
    free(suite->line);
    *suite = (struct sc_suite){0};
}

enum sc_status sc_suite_next(struct sc_suite *suite, struct sc_arena *arena,
                             struct sc_suite_document *ret_document, bool *ret_any,
                             struct sc_err *err)
{
    struct sc_err one = SC_ERR_INIT;
    ssize_t len;
    do { /* blank lines are nothing */
        errno = 0;
        len = getline(&suite->line, &suite->line_room, suite->file);
        suite->n_lines++;
    } while (len > 0 && strspn(suite->line, " \t\r\n") == (size_t)len);
    if (len < 0 && ferror(suite->file))
        return sc_fail(err, SC_EIO, "%.256s: %s", suite->path, strerror(errno));
    *ret_any = len >= 0;
    if (len < 0)
        return SC_OK;
    enum sc_status st = sc_suite_parse(arena, suite->line, (size_t)len, ret_document, &one);
    if (st != SC_OK)
        return sc_fail(err, st, "%.200s:%llu: %.120s", suite->path,
                       (unsigned long long)suite->n_lines, one.text);
    return SC_OK;
}
