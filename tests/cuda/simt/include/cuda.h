/* tests/cuda/simt/include/cuda.h - the part of the driver's header that cuda/tensor_map.c uses:
 * names are the toolkit's, values are our own. */
#ifndef SC_SIMT_CUDA_H
#define SC_SIMT_CUDA_H

#include <cuda_runtime_api.h>

typedef uint32_t cuuint32_t;
typedef uint64_t cuuint64_t;

typedef enum CUresult { CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE } CUresult;

typedef struct CUtensorMap {
    cuuint64_t opaque[16];
} CUtensorMap;

typedef enum { CU_TENSOR_MAP_DATA_TYPE_UINT16 = 1 } CUtensorMapDataType;
typedef enum { CU_TENSOR_MAP_INTERLEAVE_NONE } CUtensorMapInterleave;
typedef enum { CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_128B } CUtensorMapSwizzle;
typedef enum {
    CU_TENSOR_MAP_L2_PROMOTION_NONE,
    CU_TENSOR_MAP_L2_PROMOTION_L2_256B
} CUtensorMapL2promotion;
typedef enum { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE } CUtensorMapFloatOOBfill;

#endif
