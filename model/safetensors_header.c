#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/json.h"
#include "model/safetensors_internal.h"

/* A file is: u64 length N, N bytes of JSON (spaces may pad its end), then the data of all tensors
 * without gap or overlap, up to the last byte. */

#define LENGTH_BYTES 8u

static const struct sc_st_dtype dtypes[] = {
    {"F32", 4, SC_DTYPE_F32},
    {"BF16", 2, SC_DTYPE_BF16},
    {"F16", 2, SC_DTYPE_F16},
    {"BOOL", 1, -1},
    {"U8", 1, -1},
    {"I8", 1, -1},
    {"F8_E4M3", 1, -1},
    {"F8_E5M2", 1, -1},
    {"F8_E8M0", 1, -1},
    {"I16", 2, -1},
    {"U16", 2, -1},
    {"I32", 4, -1},
    {"U32", 4, -1},
    {"F64", 8, -1},
    {"I64", 8, -1},
    {"U64", 8, -1},
};

static void parse_dtype(struct sc_json_cursor *c, struct sc_st_tensor *t)
{
    const char *name = sc_json_str_or(c, "dtype", NULL);
    if (name == NULL) {
        sc_json_refuse(c, SC_EFORMAT, "dtype", "expected a string");
        return;
    }
    for (size_t i = 0; i < SC_ARRAY_LEN(dtypes); i++)
        if (strcmp(dtypes[i].name, name) == 0) {
            t->type = &dtypes[i];
            return;
        }
    sc_json_refuse(c, SC_ENOTSUP, "dtype", "not a known type");
}

/* Also the byte count that dtype and shape make. */
static void parse_shape(struct sc_json_cursor *c, struct sc_st_tensor *t, uint64_t *ret_bytes)
{
    char buf[SC_JSON_SHOW_BYTES];
    const json_t *shape = sc_json_get(c, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > SC_TENSOR_DIMS_MAX) {
        sc_json_refuse(c, SC_EFORMAT, "shape", "expected at most %u integers, got %zu",
                       SC_TENSOR_DIMS_MAX, json_array_size(shape));
        return;
    }
    uint64_t bytes = t->type->bytes;
    t->n_dims = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < t->n_dims; i++) {
        const json_t *v = json_array_get(shape, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0) {
            c->status = sc_fail(c->err, SC_EFORMAT, "%s: shape[%u] is %s, expected an integer >= 0",
                                c->what, i, sc_json_show(v, buf));
            return;
        }
        t->shape[i] = (uint64_t)json_integer_value(v);
        if (__builtin_mul_overflow(bytes, t->shape[i], &bytes)) {
            c->status = sc_fail(c->err, SC_ERANGE,
                                "%s: shape[%u] is %" PRIu64 ", and the product overflows 64 bits",
                                c->what, i, t->shape[i]);
            return;
        }
    }
    *ret_bytes = bytes;
}

static void parse_offsets(struct sc_json_cursor *c, struct sc_st_tensor *t, uint64_t data_bytes,
                          uint64_t shape_bytes)
{
    const json_t *o = sc_json_get(c, "data_offsets");
    const json_t *begin = json_array_get(o, 0), *end = json_array_get(o, 1);
    if (json_array_size(o) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin)) {
        sc_json_refuse(c, SC_EFORMAT, "data_offsets", "expected two integers, 0 <= begin <= end");
        return;
    }
    t->begin = (uint64_t)json_integer_value(begin);
    t->end = (uint64_t)json_integer_value(end);
    if (t->end > data_bytes)
        c->status = sc_fail(c->err, SC_EFORMAT,
                            "%s: data_offsets ends at %" PRIu64 ", but the file has %" PRIu64
                            " bytes of data",
                            c->what, t->end, data_bytes);
    else if (t->end - t->begin != shape_bytes)
        c->status = sc_fail(c->err, SC_EFORMAT,
                            "%s: data_offsets spans %" PRIu64
                            " bytes, but dtype %s and shape make %" PRIu64,
                            c->what, t->end - t->begin, t->type->name, shape_bytes);
}

static enum sc_status parse_tensor(const char *name, const json_t *value, const char *what,
                                   uint64_t data_bytes, struct sc_st_tensor *t, struct sc_err *err)
{
    char label[220]; /* long names are cut, so that what is wrong with them stays in the message */
    uint64_t bytes = 0;
    struct sc_json_cursor c = {.obj = value, .what = label, .err = err};
    if (strlen(name) > SC_TENSOR_NAME_MAX || name[0] == '\0')
        return sc_fail(err, SC_ERANGE, "%s: tensor name of %zu bytes (\"%.40s...\"), limits 1..%u",
                       what, strlen(name), name, SC_TENSOR_NAME_MAX);
    (void)snprintf(label, sizeof(label), "%.80s: tensor %.120s", what, name);
    if (json_object_size(value) != 3) /* 0 when it is no object */
        return sc_fail(err, SC_EFORMAT, "%s: expected an object of dtype, shape and data_offsets",
                       label);
    parse_dtype(&c, t);
    if (c.status == SC_OK)
        parse_shape(&c, t, &bytes);
    if (c.status == SC_OK)
        parse_offsets(&c, t, data_bytes, bytes);
    return c.status;
}

/* Free text: names to strings, read by nobody here. */
static enum sc_status check_metadata(json_t *value, const char *what, struct sc_err *err)
{
    const char *key;
    json_t *text;
    if (!json_is_object(value))
        return sc_fail(err, SC_EFORMAT, "%s: __metadata__ is not an object", what);
    json_object_foreach(value, key, text)
    {
        if (!json_is_string(text))
            return sc_fail(err, SC_EFORMAT, "%s: __metadata__: \"%.40s\" is not a string", what,
                           key);
    }
    return SC_OK;
}

static int by_begin(const void *a, const void *b)
{
    const struct sc_st_tensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end; /* empty tensors first */
}

/* Tensors in order of begin must tile the data. */
static enum sc_status check_tiling(const struct sc_st_tensor *tensors, uint32_t n,
                                   uint64_t data_bytes, const char *what, struct sc_err *err)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (tensors[i].begin < at)
            return sc_fail(err, SC_EFORMAT,
                           "%.80s: tensor %.80s begins at %" PRIu64
                           ", inside tensor %.80s that ends at "
                           "%" PRIu64,
                           what, tensors[i].name, tensors[i].begin, tensors[i - 1].name, at);
        if (tensors[i].begin > at)
            return sc_fail(err, SC_EFORMAT,
                           "%.80s: %" PRIu64 " bytes before tensor %.120s at %" PRIu64
                           " belong to no tensor",
                           what, tensors[i].begin - at, tensors[i].name, tensors[i].begin);
        at = tensors[i].end;
    }
    if (at != data_bytes)
        return sc_fail(err, SC_EFORMAT,
                       "%s: the last %" PRIu64 " of %" PRIu64 " bytes of data belong to no tensor",
                       what, data_bytes - at, data_bytes);
    return SC_OK;
}

static enum sc_status parse_all(json_t *root, const char *what, uint64_t data_bytes,
                                struct sc_arena *arena, struct sc_st_tensor *tensors,
                                uint32_t *ret_n, struct sc_err *err)
{
    const char *key;
    json_t *value;
    uint32_t n = 0;
    json_object_foreach(root, key, value)
    {
        enum sc_status st = strcmp(key, "__metadata__") == 0
                                ? check_metadata(value, what, err)
                                : parse_tensor(key, value, what, data_bytes, &tensors[n], err);
        if (st != SC_OK)
            return st;
        if (strcmp(key, "__metadata__") == 0)
            continue;
        tensors[n].name = sc_arena_copy(arena, key, strlen(key));
        if (tensors[n].name == NULL)
            return sc_fail(err, SC_ENOMEM, "%s: names of tensors: limit %zu bytes", what,
                           arena->limit_bytes);
        n++;
    }
    *ret_n = n;
    return SC_OK;
}

static enum sc_status header_length(const uint8_t *file, size_t len, const char *what,
                                    size_t *ret_bytes, struct sc_err *err)
{
    uint64_t n = 0;
    if (len < LENGTH_BYTES)
        return sc_fail(err, SC_EFORMAT, "%s: %zu bytes, too short for the header's length (%u)",
                       what, len, LENGTH_BYTES);
    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        n |= (uint64_t)file[i] << (8 * i);
    if (n > SC_SAFETENSORS_HEADER_MAX)
        return sc_fail(err, SC_ERANGE, "%s: header of %" PRIu64 " bytes, limit %zu", what, n,
                       SC_SAFETENSORS_HEADER_MAX);
    if (n > len - LENGTH_BYTES)
        return sc_fail(err, SC_EFORMAT,
                       "%s: header of %" PRIu64 " bytes, but the file ends after %zu", what, n,
                       len - LENGTH_BYTES);
    if (n == 0 || file[LENGTH_BYTES] != '{')
        return sc_fail(err, SC_EFORMAT, "%s: the header does not begin with {", what);
    *ret_bytes = (size_t)n;
    return SC_OK;
}

enum sc_status sc_safetensors_parse(const uint8_t *file, size_t len, const char *what,
                                    uint32_t max_tensors, struct sc_arena *arena,
                                    struct sc_st_tensor **ret_tensors, uint32_t *ret_n,
                                    size_t *ret_header_bytes, struct sc_err *err)
{
    struct sc_st_tensor *tensors = NULL;
    json_t *root = NULL;
    size_t header = 0;
    uint32_t n = 0;
    enum sc_status st = header_length(file, len, what, &header, err);
    if (st != SC_OK)
        return st;
    st = sc_json_parse((const char *)file + LENGTH_BYTES, header, what, &root, err);
    if (st != SC_OK)
        return st;
    uint64_t data_bytes = len - LENGTH_BYTES - header;
    size_t n_all = json_object_size(root) - (json_object_get(root, "__metadata__") != NULL);
    if (n_all > max_tensors) {
        st = sc_fail(err, SC_ERANGE, "%s: %zu tensors, limit %u for all shards (%u left)", what,
                     n_all, SC_SAFETENSORS_TENSORS_MAX, max_tensors);
        goto out;
    }
    tensors = calloc(n_all + 1, sizeof(*tensors)); /* one more: metadata may come last */
    if (tensors == NULL) {
        st = sc_fail(err, SC_ENOMEM, "%s: %zu tensors", what, n_all);
        goto out;
    }
    st = parse_all(root, what, data_bytes, arena, tensors, &n, err);
    if (st != SC_OK)
        goto out;
    qsort(tensors, n, sizeof(*tensors), by_begin);
    st = check_tiling(tensors, n, data_bytes, what, err);
    if (st != SC_OK)
        goto out;
    for (uint32_t i = 0; i < n; i++)
        tensors[i].data = file + LENGTH_BYTES + header + tensors[i].begin;
    *ret_tensors = tensors;
    *ret_n = n;
    *ret_header_bytes = LENGTH_BYTES + header;
    tensors = NULL;
out:
    free(tensors);
    json_decref(root);
    return st;
}
