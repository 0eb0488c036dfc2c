#include <stdalign.h>

#include "store/internal.h"

struct sc_blob {
    atomic_uint n_refs;
    size_t bytes;
    alignas(64) uint8_t data[]; /* a cache line, and what vector copies like */
};

enum sc_status sc_blob_open(size_t bytes, struct sc_blob **ret_blob, struct sc_err *err)
{
    void *mem;

    if (bytes > SC_BLOB_BYTES_MAX)
        return sc_fail(err, SC_EINVAL, "blob: %zu bytes, limit %llu", bytes,
                       (unsigned long long)SC_BLOB_BYTES_MAX);
    if (posix_memalign(&mem, alignof(struct sc_blob), sizeof(struct sc_blob) + bytes) != 0)
        return sc_fail(err, SC_ENOMEM, "blob: no memory for %zu bytes", bytes);
    struct sc_blob *blob = mem;
    atomic_init(&blob->n_refs, 1);
    blob->bytes = bytes;
    *ret_blob = blob;
    return SC_OK;
}

uint8_t *sc_blob_bytes(struct sc_blob *blob)
{
    return blob->data;
}

size_t sc_blob_size(const struct sc_blob *blob)
{
    return blob->bytes;
}

void sc_blob_ref(struct sc_blob *blob)
{
    SC_ASSERT(atomic_fetch_add_explicit(&blob->n_refs, 1, memory_order_relaxed) > 0);
}

void sc_blob_unref(struct sc_blob *blob)
{
    if (blob != NULL && atomic_fetch_sub_explicit(&blob->n_refs, 1, memory_order_acq_rel) == 1)
        free(blob);
}
