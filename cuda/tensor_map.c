/* A pool as Hopper's tensor copies see it: [blocks of (page, KV head)][32 rows of K, 32 of
 * V][head_dim]. The driver makes the map; it is asked for its function, because the plugin does not
 * link libcuda. */
#include <assert.h>
#include <cuda.h>
#include <string.h>

#include "cuda/device.h"

#define ENCODE_VERSION 12000u
#define BOX_DIMS       64u /* 128 bytes, within which chunks are permuted as warpgroup products want */

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                              const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                              const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static encode_fn find_encode(void)
{
    enum cudaDriverEntryPointQueryResult how = cudaDriverEntryPointSymbolNotFound;
    encode_fn encode = NULL;
    void *found = NULL;

    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, ENCODE_VERSION,
                                         cudaEnableDefault, &how) != cudaSuccess) {
        (void)cudaGetLastError();
        return NULL;
    }
    if (how == cudaDriverEntryPointSuccess && found != NULL)
        memcpy(&encode, &found, sizeof(encode));
    return encode;
}

/* Without a map attention takes kernels that need none. */
void sc_cuda_tensor_map_make(const struct sc_cuda_device *dev, struct sc_kv_pool *pool)
{
    const uint64_t dims = pool->spec.head_dim;
    const uint64_t n_blocks = (uint64_t)pool->n_pages * pool->spec.n_kv_heads;
    const cuuint64_t size[3] = {dims, (cuuint64_t)2 * SC_PAGE_ENTRIES, n_blocks};
    const cuuint64_t stride[2] = {dims * sizeof(uint16_t), pool->head_bytes};
    const cuuint32_t box[3] = {BOX_DIMS, SC_PAGE_ENTRIES, 1}, step[3] = {1, 1, 1};
    encode_fn encode;
    CUtensorMap map;

    static_assert(sizeof(map) == sizeof(pool->tensor_map), "a map is 128 bytes");
    if (dev->cc != 90 || pool->spec.dtype != SC_DTYPE_BF16 || dims % BOX_DIMS != 0 ||
        n_blocks > INT32_MAX)
        return;
    encode = find_encode();
    if (encode == NULL)
        return;
    if (encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 3, pool->mem, size, stride, box, step,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS)
        return;
    memcpy(pool->tensor_map, &map, sizeof(map));
    pool->has_tensor_map = true;
}
