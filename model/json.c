#include "model/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum sc_status read_all(int fd, char *bytes, size_t len, const char *path,
                               struct sc_err *err)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = read(fd, bytes + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return sc_fail(err, SC_EIO, "%s: read: %s", path, strerror(errno));
        if (n == 0)
            return sc_fail(err, SC_EIO, "%s: ended at byte %zu of %zu: changed while being read",
                           path, done, len);
        done += (size_t)n;
    }
    return SC_OK;
}

static enum sc_status open_regular(const char *path, size_t limit, int *ret_fd, size_t *ret_len,
                                   struct sc_err *err)
{
    struct stat sb;
    /* O_NONBLOCK: a FIFO must be refused, not waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return sc_fail(err, errno == ENOENT ? SC_ENOENT : SC_EIO, "%s: open: %s", path,
                       strerror(errno));
    enum sc_status st = SC_OK;
    if (fstat(fd, &sb) != 0)
        st = sc_fail(err, SC_EIO, "%s: stat: %s", path, strerror(errno));
    else if (!S_ISREG(sb.st_mode))
        st = sc_fail(err, SC_EINVAL, "%s: not a regular file", path);
    else if ((uint64_t)sb.st_size > limit)
        st = sc_fail(err, SC_ERANGE, "%s: %" PRIu64 " bytes, limit %zu", path, (uint64_t)sb.st_size,
                     limit);
    if (st != SC_OK) {
        (void)close(fd);
        return st;
    }
    *ret_fd = fd;
    *ret_len = (size_t)sb.st_size;
    return SC_OK;
}

enum sc_status sc_file_read(const char *dir, const char *name, size_t limit, char **ret_bytes,
                            size_t *ret_len, struct sc_err *err)
{
    char path[SC_MODEL_PATH_BYTES];
    char *bytes = NULL;
    size_t len = 0;
    int fd = -1;
    int n = dir != NULL ? snprintf(path, sizeof(path), "%s/%s", dir, name)
                        : snprintf(path, sizeof(path), "%s", name);
    if (n < 0 || (size_t)n >= sizeof(path))
        return sc_fail(err, SC_ERANGE, "path of %s: %d bytes, limit %zu", name, n,
                       sizeof(path) - 1);
    enum sc_status st = open_regular(path, limit, &fd, &len, err);
    if (st != SC_OK)
        return st;
    bytes = malloc(len + 1);
    if (bytes == NULL) {
        st = sc_fail(err, SC_ENOMEM, "%s: %zu bytes", path, len);
        goto out;
    }
    st = read_all(fd, bytes, len, path, err);
    if (st != SC_OK)
        goto out;
    bytes[len] = '\0';
    *ret_bytes = bytes;
    *ret_len = len;
    bytes = NULL;
out:
    free(bytes);
    (void)close(fd);
    return st;
}

enum sc_status sc_json_parse(const char *text, size_t len, const char *what, json_t **ret_root,
                             struct sc_err *err)
{
    json_error_t je;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (root == NULL)
        return sc_fail(err,
                       json_error_code(&je) == json_error_out_of_memory ? SC_ENOMEM : SC_EFORMAT,
                       "%s:%d:%d: %s", what, je.line, je.column, je.text);
    if (!json_is_object(root)) {
        char buf[SC_JSON_SHOW_BYTES];
        enum sc_status st = sc_fail(err, SC_EFORMAT, "%s: the root is %s, not an object", what,
                                    sc_json_show(root, buf));
        json_decref(root);
        return st;
    }
    *ret_root = root;
    return SC_OK;
}

const char *sc_json_show(const json_t *value, char buf[SC_JSON_SHOW_BYTES])
{
    switch (value == NULL ? JSON_NULL : json_typeof(value)) {
    case JSON_STRING: {
        const char *s = json_string_value(value);
        (void)snprintf(buf, SC_JSON_SHOW_BYTES, strlen(s) > 50 ? "\"%.50s...\"" : "\"%s\"", s);
        break;
    }
    case JSON_INTEGER:
        (void)snprintf(buf, SC_JSON_SHOW_BYTES, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        (void)snprintf(buf, SC_JSON_SHOW_BYTES, "%.9g", json_real_value(value));
        break;
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    default:
        return "null";
    }
    return buf;
}

const json_t *sc_json_get(const struct sc_json_cursor *c, const char *field)
{
    if (c->status != SC_OK)
        return NULL;
    const json_t *v = json_object_get(c->obj, field);
    return json_is_null(v) ? NULL : v;
}

void sc_json_refuse(struct sc_json_cursor *c, enum sc_status st, const char *field, const char *fmt,
                    ...)
{
    char rule[160], buf[SC_JSON_SHOW_BYTES];
    va_list ap;
    if (c->status != SC_OK)
        return;
    va_start(ap, fmt);
    (void)vsnprintf(rule, sizeof(rule), fmt, ap);
    va_end(ap);
    const json_t *v = json_object_get(c->obj, field);
    c->status = v == NULL ? sc_fail(c->err, st, "%s: %s is missing, %s", c->what, field, rule)
                          : sc_fail(c->err, st, "%s: %s is %s, %s", c->what, field,
                                    sc_json_show(v, buf), rule);
}

int64_t sc_json_int_or(struct sc_json_cursor *c, const char *field, int64_t min, int64_t max,
                       int64_t dflt)
{
    const json_t *v = sc_json_get(c, field);
    if (v == NULL)
        return dflt;
    if (!json_is_integer(v)) {
        sc_json_refuse(c, SC_EINVAL, field, "expected an integer");
        return dflt;
    }
    int64_t i = json_integer_value(v);
    if (i < min || i > max) {
        sc_json_refuse(c, SC_ERANGE, field, "limits %" PRId64 "..%" PRId64, min, max);
        return dflt;
    }
    return i;
}

int64_t sc_json_int(struct sc_json_cursor *c, const char *field, int64_t min, int64_t max)
{
    if (c->status == SC_OK && sc_json_get(c, field) == NULL)
        sc_json_refuse(c, SC_EINVAL, field, "expected an integer");
    return sc_json_int_or(c, field, min, max, min);
}

double sc_json_num_or(struct sc_json_cursor *c, const char *field, double min, double max,
                      double dflt)
{
    const json_t *v = sc_json_get(c, field);
    if (v == NULL)
        return dflt;
    if (!json_is_number(v)) {
        sc_json_refuse(c, SC_EINVAL, field, "expected a number");
        return dflt;
    }
    double d = json_number_value(v);
    if (!(d >= min && d <= max)) {
        sc_json_refuse(c, SC_ERANGE, field, "limits %g..%g", min, max);
        return dflt;
    }
    return d;
}

double sc_json_num(struct sc_json_cursor *c, const char *field, double min, double max)
{
    if (c->status == SC_OK && sc_json_get(c, field) == NULL)
        sc_json_refuse(c, SC_EINVAL, field, "expected a number");
    return sc_json_num_or(c, field, min, max, min);
}

bool sc_json_bool_or(struct sc_json_cursor *c, const char *field, bool dflt)
{
    const json_t *v = sc_json_get(c, field);
    if (v == NULL)
        return dflt;
    if (!json_is_boolean(v)) {
        sc_json_refuse(c, SC_EINVAL, field, "expected true or false");
        return dflt;
    }
    return json_is_true(v);
}

const char *sc_json_str_or(struct sc_json_cursor *c, const char *field, const char *dflt)
{
    const json_t *v = sc_json_get(c, field);
    if (v == NULL)
        return dflt;
    if (!json_is_string(v)) {
        sc_json_refuse(c, SC_EINVAL, field, "expected a string");
        return dflt;
    }
    return json_string_value(v);
}
