/* model/safetensors.h - tensors of a model directory, mapped read-only.
 *
 * One `model.safetensors` or shards named by `model.safetensors.index.json`. Headers are checked
 * whole before any tensor is handed out: lengths, overlaps, gaps, dtypes, shapes. Data is never
 * copied or touched here: pages are read when a rank reads its slice.
 * Memory: names and shapes on the heap, data in the maps. Threads: read-only after open.
 */
#ifndef SC_MODEL_SAFETENSORS_H
#define SC_MODEL_SAFETENSORS_H

#include <stdbool.h>

#include "base/dtype.h"
#include "base/status.h"

#define SC_TENSOR_DIMS_MAX           8u
#define SC_SAFETENSORS_HEADER_MAX    ((size_t)100 << 20)
#define SC_SAFETENSORS_TENSORS_MAX   100000u
#define SC_SAFETENSORS_SHARDS_MAX    1024u

struct sc_tensors;

struct sc_tensor_view {
    enum sc_dtype dtype;
    uint32_t n_dims;
    uint64_t shape[SC_TENSOR_DIMS_MAX];
    const void *data; /* row-major, little-endian; may be unaligned for its type */
    uint64_t bytes;
};

enum sc_status sc_tensors_open_dir(const char *dir, struct sc_tensors **ret_tensors,
                                   struct sc_err *err) SC_MUST_CHECK;
void sc_tensors_close(struct sc_tensors *tensors); /* unmaps; NULL is fine */

/* SC_ENOENT names the tensor. Only F32, BF16 and F16 tensors can be got. */
enum sc_status sc_tensors_get(const struct sc_tensors *tensors, const char *name,
                              struct sc_tensor_view *ret_view, struct sc_err *err) SC_MUST_CHECK;
bool sc_tensors_has(const struct sc_tensors *tensors, const char *name);
/* As get, and the shape must be exactly [dim0] (dim1 = 0) or [dim0, dim1]; the error names both. */
enum sc_status sc_tensors_get_shaped(const struct sc_tensors *tensors, const char *name,
                                     uint64_t dim0, uint64_t dim1, struct sc_tensor_view *ret_view,
                                     struct sc_err *err) SC_MUST_CHECK;

uint64_t sc_tensors_total_bytes(const struct sc_tensors *tensors);
uint32_t sc_tensors_count(const struct sc_tensors *tensors);
/* Headers (not data) of all shards, in name order: the model's identity for cache keys. */
struct sc_hash;
void sc_tensors_fingerprint(const struct sc_tensors *tensors, struct sc_hash *ret_hash);

#endif
