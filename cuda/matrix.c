#include "cuda/device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/gemm.h"
#include "cuda/kernels_gemv.h"
#include "cuda/kernels_matrix.h"

static enum sc_status check_parts(const struct sc_matrix_part *parts, uint32_t n_parts,
                                  uint64_t n_in, enum sc_dtype store, uint64_t *ret_out,
                                  struct sc_err *err)
{
    uint64_t n_out = 0;
    if (store != SC_DTYPE_F32 && store != SC_DTYPE_BF16 && store != SC_DTYPE_I8)
        return sc_fail(err, SC_ENOTSUP, "matrix: stored as %s, allowed f32, bf16 and int8",
                       sc_dtype_name(store));
    if (n_in == 0 || n_in > SC_CUDA_DIM_MAX)
        return sc_fail(err, SC_EINVAL, "matrix: %llu columns, allowed 1 to %u",
                       (unsigned long long)n_in, SC_CUDA_DIM_MAX);
    for (uint32_t i = 0; i < n_parts; i++) {
        const struct sc_matrix_part *p = &parts[i];
        if (p->dtype != SC_DTYPE_F32 && p->dtype != SC_DTYPE_BF16 && p->dtype != SC_DTYPE_F16)
            return sc_fail(err, SC_ENOTSUP, "matrix: part %u is %s", i, sc_dtype_name(p->dtype));
        if (p->col0 > p->row_stride || n_in > p->row_stride - p->col0)
            return sc_fail(err, SC_EINVAL, "matrix: part %u: columns %llu + %llu, row stride %llu",
                           i, (unsigned long long)p->col0, (unsigned long long)n_in,
                           (unsigned long long)p->row_stride);
        if (store == SC_DTYPE_I8 && p->row_stride > SC_CUDA_STAGE_BYTES / sc_dtype_bytes(p->dtype))
            return sc_fail(err, SC_EINVAL, "matrix: part %u: row stride %llu, limit %zu as int8", i,
                           (unsigned long long)p->row_stride,
                           SC_CUDA_STAGE_BYTES / sc_dtype_bytes(p->dtype));
        if (p->n_rows > SC_CUDA_OUT_MAX - n_out)
            return sc_fail(err, SC_EINVAL, "matrix: %llu rows and more, limit %u",
                           (unsigned long long)(n_out + p->n_rows), SC_CUDA_OUT_MAX);
        n_out += p->n_rows;
    }
    if (n_out == 0)
        return sc_fail(err, SC_EINVAL, "matrix: no rows");
    *ret_out = n_out;
    return SC_OK;
}

/* Rows of a part as they are in the source, on their way through pinned memory. */
struct rows {
    const uint8_t *from;
    size_t row_bytes, stride_bytes;
    uint32_t n;
};

/* Whether n weights are finite, and will be as they are kept. */
static bool is_finite(const void *weights, enum sc_dtype dtype, enum sc_dtype store, size_t n)
{
    /* The first f32 that bf16 rounds to infinity, and infinity itself. */
    const uint32_t limit = store == SC_DTYPE_BF16 ? 0x7f7f8000u : 0x7f800000u;
    const uint32_t *bits = weights;
    uint32_t most = 0;

    if (dtype != SC_DTYPE_F32)
        return sc_dtype_count_finite(weights, dtype, n) == n;
    for (size_t i = 0; i < n; i++)
        most = (bits[i] & 0x7fffffffu) > most ? bits[i] & 0x7fffffffu : most;
    return most < limit;
}

/* Rows are looked at as they are copied, when the cache has them; of int8, which sees it by the
 * scales, not. */
static enum sc_status stage_rows(struct sc_cuda_device *dev, struct sc_matrix *m,
                                 enum sc_dtype dtype, const struct rows *r, void **ret_device,
                                 struct sc_err *err)
{
    const size_t bytes = r->n * r->row_bytes;
    void *host = NULL;
    enum sc_status st = sc_cuda_stage_take(dev, bytes, "matrix", &host, ret_device, err);

    if (st != SC_OK)
        return st;
    for (uint32_t i = 0; i < r->n; i++) {
        void *row = (uint8_t *)host + i * r->row_bytes; /* a file's need not be aligned */
        memcpy(row, r->from + i * r->stride_bytes, r->row_bytes);
        if (m->store != SC_DTYPE_I8 && !is_finite(row, dtype, m->store, m->n_in))
            m->not_finite = true;
    }
    return sc_cuda_stage_send(dev, host, *ret_device, bytes, err);
}

/* The device converts. int8 needs whole rows of the source, for their largest weight. sums: device
 * [n_out][2], int8 only. */
static enum sc_status load_part(struct sc_cuda_device *dev, struct sc_matrix *m,
                                const struct sc_matrix_part *part, uint64_t out0, double *sums,
                                struct sc_err *err)
{
    const bool i8 = m->store == SC_DTYPE_I8;
    const size_t element = sc_dtype_bytes(part->dtype);
    struct rows rows = {
        .row_bytes = (i8 ? part->row_stride : m->n_in) * element,
        .stride_bytes = part->row_stride * element,
    };
    const uint64_t at_once = SC_CUDA_STAGE_BYTES / rows.row_bytes;
    enum sc_status st = SC_OK;

    for (uint64_t row = 0; row < part->n_rows && st == SC_OK; row += at_once) {
        void *staged = NULL,
             *to = (uint8_t *)m->data + (out0 + row) * m->ld * sc_dtype_bytes(m->store);
        rows.n = (uint32_t)(part->n_rows - row < at_once ? part->n_rows - row : at_once);
        rows.from = (const uint8_t *)part->data +
                    (row * part->row_stride + (i8 ? 0 : part->col0)) * element;
        st = stage_rows(dev, m, part->dtype, &rows, &staged, err);
        if (st != SC_OK)
            break;
        if (i8) {
            const struct sc_cuda_quantise q = {
                .src = staged,
                .dtype = part->dtype,
                .n_rows = rows.n,
                .n_in = m->n_in,
                .ld = m->ld,
                .row_stride = part->row_stride,
                .col0 = part->col0,
                .dst = to,
                .scale = m->scale + out0 + row,
                .sums = sums + 2 * (out0 + row),
            };
            st = sc_cuda_check(sc_cuda_launch_quantise(&q, dev->stream), "matrix", err);
        } else {
            st = sc_cuda_check(sc_cuda_launch_pack(staged, part->dtype, rows.n, m->n_in, to,
                                                   m->store, m->ld, dev->stream),
                               "matrix", err);
        }
    }
    return st;
}

/* The sums of all rows, in order; a row that could not be scaled is named. */
static enum sc_status check_scales(struct sc_cuda_device *dev, struct sc_matrix *m,
                                   const double *device_sums, struct sc_err *err)
{
    double *sums = malloc(m->n_out * 2 * sizeof(*sums));
    float *scale = malloc(m->n_out * sizeof(*scale));
    enum sc_status st = SC_OK;

    if (sums == NULL || scale == NULL)
        st = sc_fail(err, SC_ENOMEM, "matrix: sums of %u rows", m->n_out);
    if (st == SC_OK)
        st = sc_cuda_download(&dev->base, sums, device_sums, m->n_out * 2 * sizeof(*sums), err);
    if (st == SC_OK)
        st = sc_cuda_download(&dev->base, scale, m->scale, m->n_out * sizeof(*scale), err);
    for (uint32_t i = 0; i < m->n_out && st == SC_OK; i++) {
        if (isnan(scale[i]))
            st = sc_fail(err, SC_EINVAL, "matrix: row %u has a weight that is not finite", i);
        m->error2 += sums[2 * i];
        m->norm2 += sums[2 * i + 1];
    }
    free(sums);
    free(scale);
    return st;
}

static enum sc_status load(struct sc_cuda_device *dev, struct sc_matrix *m,
                           const struct sc_matrix_part *parts, uint32_t n_parts, struct sc_err *err)
{
    void *sums = NULL;
    uint64_t out0 = 0;
    enum sc_status st = SC_OK;

    if (m->store == SC_DTYPE_I8)
        st = sc_cuda_alloc(&dev->base, m->n_out * 2 * sizeof(double), &sums, err);
    for (uint32_t i = 0; i < n_parts && st == SC_OK; i++) {
        st = load_part(dev, m, &parts[i], out0, sums, err);
        out0 += parts[i].n_rows;
    }
    if (st == SC_OK)
        st = m->store == SC_DTYPE_I8 ? check_scales(dev, m, sums, err)
                                     : sc_cuda_sync(&dev->base, err);
    sc_cuda_free(&dev->base, sums);
    return st;
}

/* Room for the activations of this matrix as bf16; the old room serves until the new one is there.
 */
static enum sc_status grow_rounded(struct sc_cuda_device *dev, const struct sc_matrix *m,
                                   struct sc_err *err)
{
    const size_t bytes =
        (size_t)SC_CUDA_ROUND_ROWS * sc_cuda_gemm_k(m) * sizeof(uint16_t) * (dev->bf16 ? 1 : 3);
    void *mem = NULL;

    if (m->store == SC_DTYPE_F32 || bytes <= dev->rounded_bytes)
        return SC_OK;
    enum sc_status st = sc_cuda_alloc(&dev->base, bytes, &mem, err);
    if (st != SC_OK)
        return st;
    sc_cuda_free(&dev->base, dev->rounded);
    dev->rounded = mem;
    dev->rounded_bytes = bytes;
    return SC_OK;
}

static enum sc_status take_memory(struct sc_backend *be, struct sc_matrix *m, const float *bias,
                                  struct sc_err *err)
{
    void *mem = NULL;
    enum sc_status st =
        sc_cuda_alloc(be, (size_t)m->n_out * m->ld * sc_dtype_bytes(m->store), &m->data, err);

    if (st == SC_OK && bias != NULL) {
        st = sc_cuda_alloc(be, m->n_out * sizeof(float), &mem, err);
        m->bias = mem;
        if (st == SC_OK)
            st = sc_cuda_upload(be, m->bias, bias, m->n_out * sizeof(float), err);
    }
    if (st == SC_OK && m->store == SC_DTYPE_I8) {
        mem = NULL;
        st = sc_cuda_alloc(be, m->n_out * sizeof(float), &mem, err);
        m->scale = mem;
    }
    return st;
}

enum sc_status sc_cuda_matrix_open(struct sc_backend *be, const struct sc_matrix_part *parts,
                                   uint32_t n_parts, uint64_t n_in, const float *bias,
                                   enum sc_dtype store, struct sc_matrix **ret_matrix,
                                   struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    const uint32_t multiple = store == SC_DTYPE_I8 ? 16 : 8; /* 16 bytes and more */
    struct sc_matrix *m;
    uint64_t n_out = 0;
    enum sc_status st = check_parts(parts, n_parts, n_in, store, &n_out, err);

    if (st != SC_OK)
        return st;
    m = calloc(1, sizeof(*m));
    if (m == NULL)
        return sc_fail(err, SC_ENOMEM, "matrix: %zu bytes", sizeof(*m));
    m->store = store;
    m->n_in = (uint32_t)n_in;
    m->n_out = (uint32_t)n_out;
    m->ld = (m->n_in + multiple - 1) / multiple * multiple;
    st = take_memory(be, m, bias, err);
    if (st == SC_OK)
        st = load(dev, m, parts, n_parts, err);
    if (st == SC_OK)
        st = grow_rounded(dev, m, err);
    if (st == SC_OK)
        st = sc_cuda_gemm_open(dev, m, err);
    if (st == SC_OK)
        st = sc_cuda_check(sc_cuda_gemv_init(), "matrix", err);
    if (st == SC_OK)
        st = sc_cuda_check(sc_cuda_few_init(), "matrix", err);
    if (st != SC_OK) {
        sc_cuda_matrix_close(be, m);
        return st;
    }
    *ret_matrix = m;
    return SC_OK;
}

void sc_cuda_matrix_error(const struct sc_matrix *m, double *error2, double *norm2)
{
    *error2 += m->error2;
    *norm2 += m->norm2;
}

bool sc_cuda_matrix_is_finite(const struct sc_matrix *m)
{
    return !m->not_finite;
}

uint64_t sc_cuda_matrix_bytes(const struct sc_matrix *m)
{
    return (uint64_t)m->n_out * m->ld * sc_dtype_bytes(m->store) +
           (m->scale != NULL ? m->n_out * sizeof(float) : 0);
}

void sc_cuda_matrix_close(struct sc_backend *be, struct sc_matrix *m)
{
    if (m == NULL)
        return;
    sc_cuda_gemm_close(m->gemm);
    sc_cuda_free(be, m->data);
    sc_cuda_free(be, m->bias);
    sc_cuda_free(be, m->scale);
    free(m);
}
