/* tests/cuda/simt/blas.cc - cuBLASLt's products, one after the other: f32 sums in an order that
 * only the inner dimension decides. One algorithm, which relies on the alignment it was asked for
 * with.
 */
#include <cublasLt.h>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <vector>

#include "tests/cuda/simt/launch.h"

namespace
{

constexpr size_t LANES = 16; /* sums side by side, so that a compiler can use vectors */

struct product {
    float alpha, beta;
    const void *a, *b, *c;
    void *d;
    cublasLtMatrixLayoutOpaque_t at_a, at_b, at_c, at_d;
    const float *bias;
};

float load(const void *from, cudaDataType_t type, size_t i)
{
    if (type == CUDA_R_32F)
        return ((const float *)from)[i];
    return __bfloat162float(((const __nv_bfloat16 *)from)[i]);
}

/* A column as f32, with zeros up to a multiple of LANES. */
void load_column(const void *from, const cublasLtMatrixLayoutOpaque_t &l, size_t column,
                 std::vector<float> &to)
{
    to.assign((l.rows + LANES - 1) / LANES * LANES, 0.0f);
    for (size_t i = 0; i < l.rows; i++)
        to[i] = load(from, l.type, column * (size_t)l.ld + i);
}

float dot(const std::vector<float> &a, const std::vector<float> &b)
{
    float sums[LANES] = {}, sum = 0.0f;
    for (size_t i = 0; i < a.size(); i += LANES)
        for (size_t j = 0; j < LANES; j++)
            sums[j] += a[i + j] * b[i + j];
    for (size_t j = 0; j < LANES; j++)
        sum += sums[j];
    return sum;
}

void multiply(const product &p)
{
    std::vector<std::vector<float>> columns(p.at_b.cols);
    std::vector<float> row;
    for (size_t j = 0; j < p.at_b.cols; j++)
        load_column(p.b, p.at_b, j, columns[j]);
    for (size_t i = 0; i < p.at_a.cols; i++) {
        load_column(p.a, p.at_a, i, row);
        for (size_t j = 0; j < p.at_b.cols; j++) {
            const size_t at = j * (size_t)p.at_d.ld + i;
            float y = p.alpha * dot(row, columns[j]);
            if (p.beta != 0.0f)
                y += p.beta * load(p.c, p.at_c.type, j * (size_t)p.at_c.ld + i);
            if (p.bias != NULL)
                y += p.bias[i];
            if (p.at_d.type == CUDA_R_32F)
                ((float *)p.d)[at] = y;
            else
                ((__nv_bfloat16 *)p.d)[at] = __float2bfloat16_rn(y);
        }
    }
}

} // namespace

extern "C" cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    static int any;
    *handle = (cublasLtHandle_t)(void *)&any;
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtDestroy(cublasLtHandle_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t desc, cublasComputeType_t,
                                                 cudaDataType_t)
{
    *desc = {CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, NULL};
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                                         cublasLtMatmulDescAttributes_t name,
                                                         const void *value, size_t)
{
    switch (name) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        desc->a = *(const cublasOperation_t *)value;
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        desc->epilogue = *(const cublasLtEpilogue_t *)value;
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        desc->bias = *(const float *const *)value;
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        if (*(const cudaDataType_t *)value != CUDA_R_32F)
            return CUBLAS_STATUS_NOT_SUPPORTED;
        break;
    }
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout,
                                                   cudaDataType_t type, uint64_t rows,
                                                   uint64_t cols, int64_t ld)
{
    if (ld < (int64_t)rows)
        return CUBLAS_STATUS_INVALID_VALUE;
    *layout = {type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference)
{
    *preference = {256, 256};
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t
cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                     cublasLtMatmulPreferenceAttributes_t name, const void *value,
                                     size_t)
{
    if (name == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES)
        preference->align_b = *(const uint32_t *)value;
    else if (name == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)
        preference->align_d = *(const uint32_t *)value;
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
    cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t preference,
    int n_wanted, cublasLtMatmulHeuristicResult_t *results, int *n_results)
{
    if (n_wanted < 1)
        return CUBLAS_STATUS_INVALID_VALUE;
    results[0] = {{preference->align_b, preference->align_d}, 0, CUBLAS_STATUS_SUCCESS};
    *n_results = 1;
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t
cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *,
                                     cublasLtMatmulAlgoConfigAttributes_t name, void *value,
                                     size_t bytes, size_t *written)
{
    const uint32_t is =
        name == CUBLASLT_ALGO_CONFIG_SPLITK_NUM ? 1 : CUBLASLT_REDUCTION_SCHEME_NONE;
    if (bytes != sizeof(is))
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(value, &is, sizeof(is));
    *written = sizeof(is);
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t
cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
               cublasLtMatrixLayout_t at_a, const void *b, cublasLtMatrixLayout_t at_b,
               const void *beta, const void *c, cublasLtMatrixLayout_t at_c, void *d,
               cublasLtMatrixLayout_t at_d, const cublasLtMatmulAlgo_t *algo, void *, size_t,
               cudaStream_t stream)
{
    const product p = {*(const float *)alpha,
                       *(const float *)beta,
                       a,
                       b,
                       c,
                       d,
                       *at_a,
                       *at_b,
                       *at_c,
                       *at_d,
                       desc->epilogue == CUBLASLT_EPILOGUE_BIAS ? desc->bias : NULL};

    if (desc->a != CUBLAS_OP_T || at_a->rows != at_b->rows || at_a->cols != at_d->rows ||
        at_b->cols != at_d->cols || at_a->type != at_b->type)
        return CUBLAS_STATUS_INVALID_VALUE;
    if ((uintptr_t)a % 16 != 0 || (uintptr_t)b % algo->align_b != 0 ||
        (uintptr_t)d % algo->align_d != 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    simt::enqueue(stream, [p] { multiply(p); });
    return CUBLAS_STATUS_SUCCESS;
}
