/* cuda/gemm.h - products by cuBLASLt, and the algorithms that a matrix keeps for them. Private to
 * cuda/.
 *
 * Algorithms are looked up once, when the matrix is opened, for numbers of rows that stand for a
 * range each; strict: for one number, and never one that splits the inner dimension, so that a row
 * is summed in the same order whatever the number of rows.
 * Memory: a product allocates nothing; its scratch is dev->workspace.
 */
#ifndef SC_CUDA_GEMM_H
#define SC_CUDA_GEMM_H

#include "cuda/device.h"

/* d [n, m] = b [n, k] a^T, a [m, k], + bias [m] if not NULL; all row-major at the given strides
 * (elements). in: of a and b, bf16 or f32; out: of d, f32 or bf16. Sums are f32. */
struct sc_cuda_product {
    cudaDataType_t in, out;
    const void *a, *b;
    void *d;
    const float *bias;
    uint32_t m, k, n;
    uint32_t lda, ldb, ldd;
    bool accumulate; /* d += instead; out f32 */
};

/* Rows of an int8 matrix that are widened to bf16 at a time, into dev->parts. */
uint32_t sc_cuda_gemm_block_rows(const struct sc_matrix *m);
/* The row length of activations in bf16: n_in up to a multiple of 8. */
static inline uint32_t sc_cuda_gemm_k(const struct sc_matrix *m)
{
    return (m->n_in + 7) / 8 * 8;
}

/* Fills m->gemm; m is complete but for it. */
enum sc_status sc_cuda_gemm_open(struct sc_cuda_device *dev, struct sc_matrix *m,
                                 struct sc_err *err);
void sc_cuda_gemm_close(struct sc_cuda_gemm *gemm); /* NULL is fine */
/* Products of this matrix may take its bias along; else it is added afterwards. */
bool sc_cuda_gemm_takes_bias(const struct sc_cuda_gemm *gemm);
enum sc_status sc_cuda_gemm_run(struct sc_cuda_device *dev, const struct sc_cuda_gemm *gemm,
                                const struct sc_cuda_product *p, struct sc_err *err);

#endif
