/* model/safetensors_internal.h - the header parser; for model/safetensors*.c only. */
#ifndef SC_MODEL_SAFETENSORS_INTERNAL_H
#define SC_MODEL_SAFETENSORS_INTERNAL_H

#include "base/arena.h"
#include "model/safetensors.h"

struct sc_st_dtype {
    const char *name; /* as in the file: "BF16" */
    uint32_t bytes;
    int dtype; /* enum sc_dtype, or -1: can be stored, not read */
};

struct sc_st_tensor {
    const char *name;
    const struct sc_st_dtype *type;
    uint32_t shard;
    uint32_t n_dims;
    uint64_t shape[SC_TENSOR_DIMS_MAX];
    uint64_t begin, end; /* bytes, from the first one after the header */
    const uint8_t *data;
};

/* Checks the whole of one file. what: its name for messages. Names go to the arena; the caller
 * frees *ret_tensors (in order of begin). ret_header_bytes: length field included. At most
 * max_tensors. */
enum sc_status sc_safetensors_parse(const uint8_t *file, size_t len, const char *what,
                                    uint32_t max_tensors, struct sc_arena *arena,
                                    struct sc_st_tensor **ret_tensors, uint32_t *ret_n,
                                    size_t *ret_header_bytes, struct sc_err *err) SC_MUST_CHECK;

#endif
