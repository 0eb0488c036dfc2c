#include "daemon/wire.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

#define DEPTH_MAX  16
#define PATH_BYTES 160

static uint64_t read_varint(struct sc_wire *w)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 70 && w->at < w->end; shift += 7) {
        uint8_t byte = *w->at++;
        if (shift < 64)
            value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0)
            return value;
    }
    w->bad = true;
    return 0;
}

static uint64_t read_fixed(struct sc_wire *w, size_t bytes)
{
    uint64_t value = 0;

    if ((size_t)(w->end - w->at) < bytes) {
        w->bad = true;
        return 0;
    }
    for (size_t i = 0; i < bytes; i++)
        value |= (uint64_t)w->at[i] << (8 * i);
    w->at += bytes;
    return value;
}

static void read_bytes(struct sc_wire *w, struct sc_wire_field *f)
{
    uint64_t len = read_varint(w);

    if (w->bad || len > (uint64_t)(w->end - w->at)) {
        w->bad = true;
        return;
    }
    f->data = w->at;
    f->len = (size_t)len;
    w->at += len;
}

bool sc_wire_next(struct sc_wire *w, struct sc_wire_field *ret_field)
{
    struct sc_wire_field f = {0};
    uint64_t key;

    if (w->bad || w->at == w->end)
        return false;
    key = read_varint(w);
    f.number = (uint32_t)(key >> 3);
    f.type = key & 7;
    if (key >> 3 == 0 || key >> 3 > 0x1fffffff)
        w->bad = true;
    else if (f.type == 0)
        f.value = read_varint(w);
    else if (f.type == 1 || f.type == 5)
        f.value = read_fixed(w, f.type == 1 ? 8 : 4);
    else if (f.type == 2)
        read_bytes(w, &f);
    else
        w->bad = true; /* groups: in no message of ours */
    if (w->bad)
        return false;
    *ret_field = f;
    return true;
}

struct check {
    char path[PATH_BYTES]; /* "sampling.stop", for messages */
    uint32_t n_fields;
    int depth;
    struct sc_err *err;
};

static enum sc_status check_string(struct check *c, const struct sc_wire_field *f)
{
    size_t valid = sc_utf8_valid_prefix(f->data, f->len);

    if (valid < f->len)
        return sc_fail(c->err, SC_EINVAL, "%s: not valid UTF-8 at byte %zu of %zu", c->path, valid,
                       f->len);
    if (memchr(f->data, 0, f->len) != NULL)
        return sc_fail(c->err, SC_EINVAL, "%s: holds a NUL byte", c->path);
    return SC_OK;
}

static enum sc_status check_message(struct check *c, const ProtobufCMessageDescriptor *type,
                                    const void *data, size_t len);

static enum sc_status check_field(struct check *c, const ProtobufCFieldDescriptor *desc,
                                  const struct sc_wire_field *f)
{
    size_t path_len = strlen(c->path);
    enum sc_status st;

    (void)snprintf(c->path + path_len, sizeof(c->path) - path_len, "%s%s", path_len > 0 ? "." : "",
                   desc->name);
    if (desc->type == PROTOBUF_C_TYPE_STRING)
        st = check_string(c, f);
    else
        st = check_message(c, desc->descriptor, f->data, f->len);
    c->path[path_len] = '\0';
    return st;
}

static enum sc_status check_message(struct check *c, const ProtobufCMessageDescriptor *type,
                                    const void *data, size_t len)
{
    struct sc_wire w = sc_wire_init(data, len);
    struct sc_wire_field f;
    enum sc_status st = SC_OK;

    if (++c->depth > DEPTH_MAX)
        return sc_fail(c->err, SC_EINVAL, "%s: nested deeper than %d", c->path, DEPTH_MAX);
    while (st == SC_OK && sc_wire_next(&w, &f)) {
        const ProtobufCFieldDescriptor *desc =
            protobuf_c_message_descriptor_get_field(type, f.number);
        if (++c->n_fields > SC_WIRE_FIELDS_MAX)
            return sc_fail(c->err, SC_EINVAL, "message has more than %u fields",
                           SC_WIRE_FIELDS_MAX);
        if (desc == NULL || f.type != 2)
            continue;
        if (desc->type == PROTOBUF_C_TYPE_STRING || desc->type == PROTOBUF_C_TYPE_MESSAGE)
            st = check_field(c, desc, &f);
    }
    if (st == SC_OK && w.bad)
        st = sc_fail(c->err, SC_EINVAL, "%s%smalformed protobuf message at byte %zu of %zu (%s)",
                     c->path, c->path[0] != '\0' ? ": " : "",
                     (size_t)(w.at - (const uint8_t *)data), len, type->name);
    c->depth--;
    return st;
}

enum sc_status sc_wire_check(const ProtobufCMessageDescriptor *type, const void *data, size_t len,
                             struct sc_err *err)
{
    struct check c = {.path = "", .err = err};

    return check_message(&c, type, data, len);
}
