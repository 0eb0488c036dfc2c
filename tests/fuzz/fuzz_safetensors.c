/* Any bytes as model.safetensors: refused with a message, or every tensor readable to its last
 * byte. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sc_tensors *t = NULL;
    struct sc_err err = SC_ERR_INIT;
    struct sc_hash hash;
    uint64_t sum = 0;
    if (sc_tensors_open_memory(data, size, &t, &err) != SC_OK) {
        SC_ASSERT(err.text[0] != '\0' && t == NULL);
        return 0;
    }
    SC_ASSERT(err.status == SC_OK && sc_tensors_count(t) > 0);
    for (uint32_t i = 0; i < sc_tensors_count(t); i++) {
        struct sc_tensor_view v;
        struct sc_err none = SC_ERR_INIT;
        const char *name = sc_tensors_name(t, i);
        SC_ASSERT(sc_tensors_has(t, name));
        SC_ASSERT(i == 0 || strcmp(sc_tensors_name(t, i - 1), name) < 0);
        if (sc_tensors_get(t, name, &v, &none) != SC_OK) {
            SC_ASSERT(none.status == SC_ENOTSUP);
            continue;
        }
        uint64_t n = sc_dtype_bytes(v.dtype);
        for (uint32_t k = 0; k < v.n_dims; k++)
            n *= v.shape[k];
        SC_ASSERT(n == v.bytes);
        for (uint64_t k = 0; k < v.bytes; k++)
            sum += ((const uint8_t *)v.data)[k];
    }
    SC_ASSERT(sum <= 255 * sc_tensors_total_bytes(t)); /* no byte belongs to two tensors */
    sc_tensors_fingerprint(t, &hash);
    sc_tensors_close(t);
    return 0;
}
