/* tests/cuda/products.h - a product to be computed by several backends. */
#ifndef SC_TESTS_CUDA_PRODUCTS_H
#define SC_TESTS_CUDA_PRODUCTS_H

#include "tests/cuda/support.h"

#define NOTHING 0xffffffffu /* what fresh device memory holds */

struct problem {
    uint32_t n_in, n_out, x_stride;
    enum sc_dtype source, store;
    float *b, *x; /* b: NULL without a bias */
    uint8_t *raw; /* the weights in the source type, at an odd address */
    float *want;  /* [N_MAX, n_out] */
    float *x_device;
};

/* f16: these bits are some number below 2; what counts is that both read the same one. */
static inline uint8_t *random_weights(struct rng *r, size_t n, enum sc_dtype dtype)
{
    uint8_t *raw = (uint8_t *)malloc(n * 4 + 1) + 1;
    for (size_t i = 0; i < n; i++) {
        float f = rng_normal(r);
        uint16_t h = (uint16_t)(sc_f32_to_bf16(f) & (dtype == SC_DTYPE_F16 ? 0xbfffu : 0xffffu));
        if (dtype == SC_DTYPE_F32)
            memcpy(raw + 4 * i, &f, 4);
        else
            memcpy(raw + 2 * i, &h, 2);
    }
    return raw;
}

static inline struct sc_matrix *open_matrix(const struct problem *p, struct sc_backend *be)
{
    struct sc_matrix_part part = {p->raw, p->source, p->n_out, p->n_in, 0};
    struct sc_matrix *m = NULL;
    assert_ok(be->ops->matrix_open(be, &part, 1, p->n_in, p->b, p->store, &m, err));
    return m;
}

/* y [n, n_out] dense on the host; nothing beside the rows was written. */
static inline float *multiply(struct sc_backend *be, const struct problem *p, struct sc_matrix *m,
                              uint32_t row0, uint32_t n, uint32_t y_stride)
{
    const size_t size = (size_t)(n + 1) * y_stride;
    void *y = on_device(be, NULL, size * 4);
    assert_ok(be->ops->matmul(be, m, p->x_device + (size_t)row0 * p->x_stride, p->x_stride, y,
                              y_stride, n, err));
    uint32_t *got = from_device(be, y, size * 4);
    float *dense = malloc((size_t)n * p->n_out * 4);
    for (uint32_t i = 0; i <= n; i++) {
        for (uint32_t o = i < n ? p->n_out : 0; o < y_stride; o++)
            if (got[(size_t)i * y_stride + o] != NOTHING)
                fail_msg("[%u, %u] x %u: row %u column %u was written", p->n_out, p->n_in, n, i, o);
        if (i < n)
            memcpy(dense + (size_t)i * p->n_out, got + (size_t)i * y_stride, p->n_out * 4);
    }
    be->ops->free(be, y);
    free(got);
    return dense;
}

/* Up to how many rows go to kernels_few.h here, by weights of that store: 0, or eight and more, as
 * shared memory allows. Of more than four rows nothing else adds where there is a bias. */
static inline uint32_t most_few(struct sc_backend *be, enum sc_dtype store)
{
    enum { DIM = 8, ROWS = 40 };
    float zeros[ROWS * DIM] = {0};
    uint8_t raw[DIM * DIM * 2] = {0};
    const struct problem p = {DIM, DIM, DIM, SC_DTYPE_BF16, store, zeros, NULL, raw, NULL, NULL};
    struct sc_matrix *m = open_matrix(&p, be);
    float *x = on_device(be, zeros, sizeof(zeros)), *resid = on_device(be, zeros, sizeof(zeros));
    float *delta = on_device(be, zeros, sizeof(zeros));
    uint32_t most = 0;
    for (bool added = true; added && most < ROWS; most += added) {
        const struct sc_matmul_add_args args = {m, x, delta, resid, most + 1, NULL, NULL};
        assert_ok(be->ops->matmul_add(be, &args, &added, err));
    }
    be->ops->matrix_close(be, m);
    be->ops->free(be, x);
    be->ops->free(be, resid);
    be->ops->free(be, delta);
    return most > 4 ? most : 0;
}

struct backends {
    struct sc_backend *be[2][2]; /* by math bf16, strict */
};

static inline struct backends open_all(void)
{
    struct backends all;
    for (int i = 0; i < 4; i++)
        all.be[i / 2][i % 2] = open_cuda(i / 2 ? SC_MATH_BF16 : SC_MATH_F32, i % 2);
    return all;
}

static inline void close_all(struct backends *all)
{
    for (int i = 0; i < 4; i++)
        all->be[i / 2][i % 2]->ops->close(all->be[i / 2][i % 2]);
}

static inline float *run_swiglu(struct sc_backend *be, struct sc_matrix *m, const float *x,
                                uint32_t n_in, uint32_t n, uint32_t ffn)
{
    const size_t bytes = (size_t)n * ffn * 4;
    void *in = on_device(be, x, (size_t)n * n_in * 4), *scratch = on_device(be, NULL, 2 * bytes);
    uint32_t *y = on_device(be, NULL, bytes + 4);
    assert_ok(be->ops->matmul_swiglu(be, m, in, scratch, (float *)(void *)y, n, ffn, NULL, err));
    float *got = from_device(be, y, bytes + 4);
    assert_true(isnan(got[(size_t)n * ffn]));
    be->ops->free(be, in);
    be->ops->free(be, scratch);
    be->ops->free(be, y);
    return got;
}

#endif
