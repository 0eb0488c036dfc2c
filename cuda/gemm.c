#include "cuda/gemm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The numbers of rows that algorithms are looked up for: each serves up to that many. The last is
 * SC_CUDA_ROUND_ROWS, the most that a product ever has. */
static const uint32_t bucket_rows[] = {16, 64, 128, 256, 512, 1024, SC_CUDA_ROUND_ROWS};
#define N_BUCKETS SC_ARRAY_LEN(bucket_rows)
/* Strict: the one number of rows that the algorithm of all is looked up for. */
#define STRICT_ROWS 128u
#define CANDIDATES  8
#define TUNED_MAX   32u /* shapes; a model has five or so */
#define TRIALS      4

struct choice {
    cublasLtMatmulAlgo_t algo;
    uint32_t align_b, align_d; /* bytes that it relies on */
    bool found;
};

struct sc_cuda_gemm {
    bool takes_bias;
    struct choice f32[N_BUCKETS], bf16[N_BUCKETS]; /* by type of the result; strict: [0] alone */
};

/* What was found for a shape: the layers of a model repeat a few, and are timed once. */
struct sc_cuda_tuned {
    uint32_t m, k;
    cudaDataType_t in, out;
    bool bias;
    struct choice choices[N_BUCKETS];
};

/* A product as cuBLASLt wants it, all on the caller's stack. Column-major there: a is [k, m] and
 * transposed, b [k, n], d [m, n]; so a bias of the epilogue, one number a row, runs along m. */
struct described {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, d;
};

static cublasStatus_t describe(const struct sc_cuda_product *p, uint32_t n, struct described *ret)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t f32 = CUDA_R_32F;
    cublasStatus_t rc = cublasLtMatmulDescInit(&ret->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);

    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasLtMatmulDescSetAttribute(&ret->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                            sizeof(transposed));
    if (p->bias != NULL) {
        if (rc == CUBLAS_STATUS_SUCCESS)
            rc = cublasLtMatmulDescSetAttribute(&ret->desc, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                &epilogue, sizeof(epilogue));
        if (rc == CUBLAS_STATUS_SUCCESS)
            rc = cublasLtMatmulDescSetAttribute(&ret->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                &p->bias, sizeof(p->bias));
        if (rc == CUBLAS_STATUS_SUCCESS)
            rc = cublasLtMatmulDescSetAttribute(&ret->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
                                                &f32, sizeof(f32));
    }
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasLtMatrixLayoutInit(&ret->a, p->in, p->k, p->m, p->lda);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasLtMatrixLayoutInit(&ret->b, p->in, p->k, n, p->ldb);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasLtMatrixLayoutInit(&ret->d, p->out, p->m, n, p->ldd);
    return rc;
}

static uint32_t alignment(const void *mem, uint32_t stride, cudaDataType_t type)
{
    const uint32_t element = type == CUDA_R_32F ? 4 : 2;
    const uint32_t bits = (uint32_t)(uintptr_t)mem | stride * element | 16;
    return bits & -bits;
}

/* Sums in the order of the inner dimension, in one piece; an algorithm that does not tell was not
 * to be split anyway (see prefer). */
static bool unsplit(const cublasLtMatmulAlgo_t *algo)
{
    int32_t splits = 1;
    uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
    size_t written;
    if (cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &splits,
                                             sizeof(splits), &written) != CUBLAS_STATUS_SUCCESS)
        splits = 1;
    if (cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme,
                                             sizeof(scheme), &written) != CUBLAS_STATUS_SUCCESS)
        scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
    return splits <= 1 && scheme == CUBLASLT_REDUCTION_SCHEME_NONE;
}

static cublasStatus_t prefer(bool strict, uint32_t align_b, uint32_t align_d,
                             cublasLtMatmulPreferenceOpaque_t *ret)
{
    const uint64_t workspace = SC_CUDA_WORKSPACE;
    /* Splits in the workspace, summed in order: the same bits in every run. */
    const uint32_t schemes =
        strict ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t align_a = 16;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t bytes;
    } attributes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align_a, sizeof(align_a)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_b, sizeof(align_b)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_d, sizeof(align_d)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_d, sizeof(align_d)},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof(schemes)},
    };
    cublasStatus_t rc = cublasLtMatmulPreferenceInit(ret);
    for (size_t i = 0; i < SC_ARRAY_LEN(attributes) && rc == CUBLAS_STATUS_SUCCESS; i++)
        rc = cublasLtMatmulPreferenceSetAttribute(ret, attributes[i].name, attributes[i].value,
                                                  attributes[i].bytes);
    return rc;
}

static cublasStatus_t multiply(struct sc_cuda_device *dev, const struct sc_cuda_product *p,
                               const cublasLtMatmulAlgo_t *algo)
{
    const float alpha = 1.0f, beta = p->accumulate ? 1.0f : 0.0f;
    struct described d;
    cublasStatus_t rc = describe(p, p->n, &d);
    if (rc != CUBLAS_STATUS_SUCCESS)
        return rc;
    return cublasLtMatmul(dev->lt, &d.desc, &alpha, p->a, &d.a, p->b, &d.b, &beta, p->d, &d.d, p->d,
                          &d.d, algo, dev->workspace, SC_CUDA_WORKSPACE, dev->stream);
}

/* Milliseconds of TRIALS products, or infinity. */
static float time_of(struct sc_cuda_device *dev, const struct sc_cuda_product *p,
                     const cublasLtMatmulAlgo_t *algo, cudaEvent_t from, cudaEvent_t to)
{
    float ms = INFINITY;
    bool ok = multiply(dev, p, algo) == CUBLAS_STATUS_SUCCESS &&
              cudaEventRecord(from, dev->stream) == cudaSuccess;
    for (int i = 0; i < TRIALS && ok; i++)
        ok = multiply(dev, p, algo) == CUBLAS_STATUS_SUCCESS;
    ok = ok && cudaEventRecord(to, dev->stream) == cudaSuccess &&
         cudaEventSynchronize(to) == cudaSuccess &&
         cudaEventElapsedTime(&ms, from, to) == cudaSuccess;
    return ok ? ms : INFINITY;
}

/* The fastest of the library's candidates on this device, where scratch has room for the product;
 * the library's order is a guess, at 512 rows by a third wrong. Operands are whatever scratch
 * holds. */
static int fastest(struct sc_cuda_device *dev, const struct sc_cuda_product *shape, uint32_t n,
                   const cublasLtMatmulHeuristicResult_t *results, int n_results)
{
    struct sc_cuda_product p = *shape;
    cudaEvent_t from = NULL, to = NULL;
    float best_ms = INFINITY;
    int best = 0;

    p.n = n;
    p.b = dev->rounded;
    p.d = dev->parts;
    if (n_results < 2 || p.a == NULL || p.in != CUDA_R_16BF ||
        (size_t)n * p.ldb * 2 > dev->rounded_bytes ||
        (size_t)n * p.ldd * (p.out == CUDA_R_32F ? 4 : 2) > SC_CUDA_PARTS_BYTES ||
        cudaEventCreate(&from) != cudaSuccess)
        return 0;
    if (cudaEventCreate(&to) == cudaSuccess) {
        for (int i = 0; i < n_results; i++) {
            float ms = results[i].state == CUBLAS_STATUS_SUCCESS &&
                               results[i].workspaceSize <= SC_CUDA_WORKSPACE
                           ? time_of(dev, &p, &results[i].algo, from, to)
                           : INFINITY;
            if (ms < best_ms * 0.97f) { /* the library's order decides between equals */
                best_ms = ms;
                best = i;
            }
        }
        (void)cudaEventDestroy(to);
    }
    (void)cudaEventDestroy(from);
    (void)cudaGetLastError();
    return best;
}

/* The library's first choice for n rows, or the fastest of several; strict: the first that fits
 * the rule. Leaves found false when there is none. */
static void look_up(struct sc_cuda_device *dev, const struct sc_cuda_product *p, uint32_t n,
                    uint32_t align_b, uint32_t align_d, bool timed, struct choice *ret)
{
    struct described d;
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t results[CANDIDATES];
    int n_results = 0, first = 0;

    *ret = (struct choice){.align_b = align_b, .align_d = align_d};
    if (describe(p, n, &d) != CUBLAS_STATUS_SUCCESS ||
        prefer(dev->strict, align_b, align_d, &preference) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulAlgoGetHeuristic(dev->lt, &d.desc, &d.a, &d.b, &d.d, &d.d, &preference,
                                       dev->strict || timed ? CANDIDATES : 1, results,
                                       &n_results) != CUBLAS_STATUS_SUCCESS)
        return;
    if (timed)
        first = fastest(dev, p, n, results, n_results);
    for (int i = first; i < n_results && !ret->found; i++) {
        ret->algo = results[i].algo;
        ret->found = results[i].state == CUBLAS_STATUS_SUCCESS &&
                     results[i].workspaceSize <= SC_CUDA_WORKSPACE &&
                     (!dev->strict || unsplit(&results[i].algo));
    }
}

static uint32_t rows_of(const struct sc_cuda_device *dev, size_t bucket)
{
    return dev->strict ? STRICT_ROWS : bucket_rows[bucket];
}

static void look_up_all(struct sc_cuda_device *dev, const struct sc_cuda_product *p,
                        struct choice *choices)
{
    struct sc_cuda_tuned *t = dev->tuned;

    if (t == NULL)
        t = dev->tuned = calloc(TUNED_MAX, sizeof(*t)); /* without it every matrix is timed */
    for (uint32_t i = 0; i < dev->n_tuned && t != NULL; i++) {
        if (t[i].m == p->m && t[i].k == p->k && t[i].in == p->in && t[i].out == p->out &&
            t[i].bias == (p->bias != NULL)) {
            memcpy(choices, t[i].choices, sizeof(t[i].choices));
            return;
        }
    }
    for (size_t i = 0; i < (dev->strict ? 1 : N_BUCKETS); i++)
        look_up(dev, p, rows_of(dev, i), alignment(NULL, p->ldb, p->in),
                alignment(NULL, p->ldd, p->out), !dev->strict, &choices[i]);
    if (t == NULL || dev->n_tuned == TUNED_MAX)
        return;
    t[dev->n_tuned] = (struct sc_cuda_tuned){
        .m = p->m, .k = p->k, .in = p->in, .out = p->out, .bias = p->bias != NULL};
    memcpy(t[dev->n_tuned++].choices, choices, sizeof(t->choices));
}

uint32_t sc_cuda_gemm_block_rows(const struct sc_matrix *m)
{
    const size_t fit = SC_CUDA_PARTS_BYTES / ((size_t)sc_cuda_gemm_k(m) * sizeof(uint16_t));
    const uint32_t rows = (uint32_t)(fit / 8 * 8); /* results of a block stay 16-byte aligned */
    return rows < m->n_out ? rows : m->n_out;
}

enum sc_status sc_cuda_gemm_open(struct sc_cuda_device *dev, struct sc_matrix *m,
                                 struct sc_err *err)
{
    struct sc_cuda_gemm *gemm = calloc(1, sizeof(*gemm));
    const bool f32 = m->store == SC_DTYPE_F32;
    const uint32_t k = f32 ? m->n_in : sc_cuda_gemm_k(m);
    struct sc_cuda_product p = {
        .in = f32 ? CUDA_R_32F : CUDA_R_16BF,
        .out = CUDA_R_32F,
        .m = m->store == SC_DTYPE_I8 ? sc_cuda_gemm_block_rows(m) : m->n_out,
        .k = k,
        .lda = m->store == SC_DTYPE_I8 ? k : m->ld,
        .ldb = k,
        .ldd = m->n_out,
        .a = m->store == SC_DTYPE_BF16 ? m->data : NULL,
    };

    if (gemm == NULL)
        return sc_fail(err, SC_ENOMEM, "matrix: %zu bytes", sizeof(*gemm));
    /* Scaled int8 sums, and sums of several products, get their bias when they are complete. */
    if (m->bias != NULL && m->store != SC_DTYPE_I8 && (f32 || dev->bf16)) {
        p.bias = m->bias;
        look_up_all(dev, &p, gemm->f32);
        gemm->takes_bias = gemm->f32[0].found;
        p.bias = NULL;
    }
    if (!gemm->takes_bias)
        look_up_all(dev, &p, gemm->f32);
    if (m->store == SC_DTYPE_BF16 && dev->bf16 && m->bias == NULL && m->n_out % 2 == 0) {
        p.out = CUDA_R_16BF;
        look_up_all(dev, &p, gemm->bf16);
    }
    m->gemm = gemm;
    return SC_OK;
}

void sc_cuda_gemm_close(struct sc_cuda_gemm *gemm)
{
    free(gemm);
}

bool sc_cuda_gemm_takes_bias(const struct sc_cuda_gemm *gemm)
{
    return gemm->takes_bias;
}

enum sc_status sc_cuda_gemm_run(struct sc_cuda_device *dev, const struct sc_cuda_gemm *gemm,
                                const struct sc_cuda_product *product, struct sc_err *err)
{
    struct sc_cuda_product p = *product;
    struct choice fresh;
    size_t bucket = 0;

    if (p.n == 1) { /* one row may come with any stride */
        p.ldb = p.ldb < p.k ? p.k : p.ldb;
        p.ldd = p.ldd < p.m ? p.m : p.ldd;
    }
    while (!dev->strict && bucket + 1 < N_BUCKETS && p.n > bucket_rows[bucket])
        bucket++;
    const uint32_t align_b = alignment(p.b, p.ldb, p.in), align_d = alignment(p.d, p.ldd, p.out);
    const struct choice *kept = p.out == CUDA_R_32F ? &gemm->f32[bucket] : &gemm->bf16[bucket];
    if (kept->found && kept->align_b <= align_b && kept->align_d <= align_d) {
        cublasStatus_t rc = multiply(dev, &p, &kept->algo);
        if (rc != CUBLAS_STATUS_NOT_SUPPORTED && rc != CUBLAS_STATUS_INVALID_VALUE)
            return sc_cuda_check_blas(rc, "product", err);
    }
    /* Results that lie otherwise than the matrix was opened for, or a number of rows that the kept
     * algorithm refuses. */
    look_up(dev, &p, dev->strict ? STRICT_ROWS : p.n, align_b, align_d, false, &fresh);
    if (!fresh.found)
        return sc_fail(err, SC_EDEVICE, "product [%u, %u] x %u: cuBLASLt has no algorithm", p.m,
                       p.k, p.n);
    return sc_cuda_check_blas(multiply(dev, &p, &fresh.algo), "product", err);
}
