#include "daemon/inflate.h"

#include <stdbool.h>
#include <stdlib.h>
#include <zlib.h>

#define FIRST_BYTES   65536u
#define CHUNK_MAX     (1u << 30) /* zlib counts in unsigned int */
#define ANY_OF_BOTH   (15 + 32)  /* the largest window; gzip or zlib by the head */
#define SMALLER(a, b) ((a) < (b) ? (a) : (b))

struct output {
    uint8_t *data;
    size_t len, cap;
};

static bool grow(struct output *out, size_t limit)
{
    size_t next = out->cap == 0 ? FIRST_BYTES : out->cap * 2;
    uint8_t *bigger;

    next = SMALLER(next, limit);
    bigger = realloc(out->data, next > 0 ? next : 1);
    if (bigger == NULL)
        return false;
    out->data = bigger;
    out->cap = next;
    return true;
}

/* Everything that data holds, to the end of its stream. */
static enum sc_status run(z_stream *z, const uint8_t *data, size_t len, size_t limit,
                          struct output *out, struct sc_err *err)
{
    const uint8_t *end = data + len;
    int e = Z_OK;

    /* One byte over the limit tells that there is more. */
    while (e != Z_STREAM_END) {
        size_t room, given;
        if (out->len > limit)
            return sc_fail(err, SC_EFULL, "compressed message: more than %zu bytes when unpacked",
                           limit);
        if (out->len == out->cap && !grow(out, limit + 1))
            return sc_fail(err, SC_ENOMEM, "compressed message: no memory to unpack it");
        given = SMALLER((size_t)(end - data), (size_t)CHUNK_MAX);
        room = SMALLER(out->cap - out->len, (size_t)CHUNK_MAX);
        z->next_in = (Bytef *)(uintptr_t)data;
        z->avail_in = (uInt)given;
        z->next_out = out->data + out->len;
        z->avail_out = (uInt)room;
        e = inflate(z, Z_NO_FLUSH);
        data += given - z->avail_in;
        out->len += room - z->avail_out;
        if (e != Z_OK && e != Z_STREAM_END)
            return sc_fail(err, SC_EINVAL, "compressed message: malformed at byte %zu of %zu (%s)",
                           len - (size_t)(end - data), len,
                           e == Z_BUF_ERROR ? "cut off" : zError(e));
    }
    if (data != end)
        return sc_fail(err, SC_EINVAL, "compressed message: %zu bytes follow its end",
                       (size_t)(end - data));
    if (out->len > limit)
        return sc_fail(err, SC_EFULL, "compressed message: more than %zu bytes when unpacked",
                       limit);
    return SC_OK;
}

enum sc_status sc_inflate(const void *data, size_t len, size_t limit_bytes, uint8_t **ret_data,
                          size_t *ret_len, struct sc_err *err)
{
    struct output out = {0};
    z_stream z = {0};
    enum sc_status st;

    if (inflateInit2(&z, ANY_OF_BOTH) != Z_OK)
        return sc_fail(err, SC_ENOMEM, "compressed message: no memory to unpack it");
    st = run(&z, data, len, limit_bytes, &out, err);
    (void)inflateEnd(&z);
    if (st != SC_OK) {
        free(out.data);
        return st;
    }
    *ret_data = out.data;
    *ret_len = out.len;
    return SC_OK;
}
