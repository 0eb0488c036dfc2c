/* model/safetensors.h - tensors of a model directory, mapped read-only.
 *
 * One `model.safetensors` or shards named by `model.safetensors.index.json`. Headers are checked
 * whole before any tensor is handed out: lengths, overlaps, gaps, dtypes, shapes. Opening touches
 * no data: pages are read when a rank reads its slice. A file that shrinks while it is mapped
 * raises SIGBUS at the next read of what is gone. Nothing short of copying prevents that: replace
 * model files by rename, never in place. Memory: names and shapes on the heap, data in the maps.
 * Threads: read-only after open.
 */
#ifndef SC_MODEL_SAFETENSORS_H
#define SC_MODEL_SAFETENSORS_H

#include <stdbool.h>

#include "base/dtype.h"
#include "base/status.h"

#define SC_TENSOR_DIMS_MAX 8u
#define SC_TENSOR_NAME_MAX 512u
/* The parsed tree takes up to 20 times the header; 100,000 tensors need less than 32 MiB. */
#define SC_SAFETENSORS_HEADER_MAX  ((size_t)32 << 20)
#define SC_SAFETENSORS_INDEX_MAX   ((size_t)32 << 20) /* model.safetensors.index.json */
#define SC_SAFETENSORS_TENSORS_MAX 100000u            /* of all shards */
#define SC_SAFETENSORS_SHARDS_MAX  1024u

struct sc_tensors;

struct sc_tensor_view {
    enum sc_dtype dtype;
    uint32_t n_dims;
    uint64_t shape[SC_TENSOR_DIMS_MAX];
    const void *data; /* row-major, little-endian; may be unaligned for its type */
    uint64_t bytes;
};

/* model.safetensors if there is one, else the shards of the index. */
enum sc_status sc_tensors_open_dir(const char *dir, struct sc_tensors **ret_tensors,
                                   struct sc_err *err) SC_MUST_CHECK;
/* One file's bytes, borrowed: they must outlive the tensors. For tests and fuzzers. */
enum sc_status sc_tensors_open_memory(const void *bytes, size_t len,
                                      struct sc_tensors **ret_tensors,
                                      struct sc_err *err) SC_MUST_CHECK;
void sc_tensors_close(struct sc_tensors *tensors); /* unmaps; NULL is fine */

/* SC_ENOENT names the tensor. Only F32, BF16 and F16 tensors can be got; SC_ENOTSUP names others.
 */
enum sc_status sc_tensors_get(const struct sc_tensors *tensors, const char *name,
                              struct sc_tensor_view *ret_view, struct sc_err *err) SC_MUST_CHECK;
bool sc_tensors_has(const struct sc_tensors *tensors, const char *name);
/* As get, and the shape must be exactly [dim0] (dim1 = 0) or [dim0, dim1]; the error names both. */
enum sc_status sc_tensors_get_shaped(const struct sc_tensors *tensors, const char *name,
                                     uint64_t dim0, uint64_t dim1, struct sc_tensor_view *ret_view,
                                     struct sc_err *err) SC_MUST_CHECK;

uint64_t sc_tensors_total_bytes(const struct sc_tensors *tensors); /* data of all tensors */
uint32_t sc_tensors_count(const struct sc_tensors *tensors);
/* Names in byte order, i < count; lives as long as the tensors. */
const char *sc_tensors_name(const struct sc_tensors *tensors, uint32_t i);

/* The weights' identity for cache keys: headers and sizes of all shards, and the first and last
 * 4 KiB of every tensor, so that a fine-tune of a few matrices is another model although headers
 * and file ends are equal. Reads two pages a tensor. */
struct sc_hash;
void sc_tensors_fingerprint(const struct sc_tensors *tensors, struct sc_hash *ret_hash);

#endif
