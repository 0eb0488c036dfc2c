/* Products. A few rows go through kernels of ours that read the weights once; more through
 * cuBLASLt, in bf16 unless the weights are f32: activations rounded once (math bf16) or as the sum
 * of three bf16 numbers (math f32), int8 weights widened in blocks and scaled at the end. */
#include "cuda/device.h"

#include "cuda/gemm.h"
#include "cuda/image.h"
#include "cuda/kernels_few.h"
#include "cuda/kernels_gemv.h"
#include "cuda/kernels_matrix.h"
#include "cuda/kernels_rows.h"

/* Rows x [n, n_in] at a stride, into y [n, n_out] of the given type. */
struct rows {
    const float *x;
    void *y;
    cudaDataType_t out;
    uint32_t x_stride, y_stride, n;
    const uint16_t *image; /* of x, if there is one already */
    bool add;              /* to what y holds */
    const float *squares;  /* of what x is the norm of, if image lacks its factors */
    float eps;
    const float *norm; /* of y, the norm that follows: its weights, and who reads its rows */
    const struct sc_matrix *next;
};

/* The image of x, if it was left: of those rows, or of more that begin with them. */
static const uint16_t *image_of(const struct sc_cuda_device *dev, const struct sc_matrix *w,
                                const float *x, uint32_t x_stride, uint32_t n)
{
    const struct sc_cuda_rounded *image = &dev->image;
    const bool is = dev->bf16 && x != NULL && image->of == x && image->dim == w->n_in &&
                    n <= image->n_rows && (n == 1 || x_stride == w->n_in) && w->n_in % 8 == 0;
    return is ? image->at : NULL;
}

/* Rows of a device, math and weights for which no kernel on tensor cores is faster. */
bool sc_cuda_by_gemv(const struct sc_cuda_device *dev, const struct sc_matrix *w, uint32_t n)
{
    const uint32_t most = !dev->bf16 || w->store == SC_DTYPE_F32 ? SC_CUDA_GEMV_ROWS_MAX
                          : w->store == SC_DTYPE_I8              ? dev->gemv_rows_i8
                                                                 : dev->gemv_rows;
    return !dev->strict && n <= most;
}

/* By the kernel of kernels_few.h? Like cuBLASLt it reads the image of x. */
static bool by_few(const struct sc_cuda_device *dev, const struct sc_matrix *w, uint32_t n)
{
    const uint32_t most = w->store == SC_DTYPE_BF16 ? dev->few_rows
                          : w->store == SC_DTYPE_I8 ? dev->few_rows_i8
                                                    : 0;
    return dev->bf16 && !dev->strict && n >= SC_CUDA_FEW_FROM && n <= most;
}

/* Is the norm of these rows, or its end, left to this product? */
static bool makes_norm(const struct sc_cuda_device *dev, const struct sc_matrix *w,
                       const struct rows *r)
{
    const struct sc_cuda_normed *norm = &dev->normed;
    return norm->of != NULL && norm->of == r->x && norm->next == w && norm->n_rows == r->n &&
           (r->n == 1 || r->x_stride == w->n_in);
}

/* What was left of x by those before. */
static void find_left(const struct sc_cuda_device *dev, const struct sc_matrix *w, struct rows *r)
{
    r->image = image_of(dev, w, r->x, r->x_stride, r->n);
    if (makes_norm(dev, w, r)) {
        r->squares = dev->normed.squares;
        r->eps = dev->normed.eps;
    }
}

/* The parts of x, smallest first: sums grow towards the large ones. */
static enum sc_status multiply_parts(struct sc_cuda_device *dev, const struct sc_cuda_gemm *gemm,
                                     struct sc_cuda_product *p, size_t part_elements,
                                     struct sc_err *err)
{
    const uint16_t *parts = p->b;
    const uint32_t n_parts = dev->bf16 ? 1 : 3;
    const bool add = p->accumulate;
    enum sc_status st = SC_OK;
    for (uint32_t part = n_parts; part-- > 0 && st == SC_OK;) {
        p->b = parts + part * part_elements;
        p->accumulate = add || part + 1 < n_parts;
        st = sc_cuda_gemm_run(dev, gemm, p, err);
    }
    p->accumulate = add;
    p->b = parts;
    return st;
}

/* int8 weights as bf16, a block of rows at a time. */
static enum sc_status multiply_blocks(struct sc_cuda_device *dev, const struct sc_matrix *w,
                                      struct sc_cuda_product *p, size_t part_elements,
                                      struct sc_err *err)
{
    const uint32_t block = sc_cuda_gemm_block_rows(w);
    uint16_t *widened = (uint16_t *)(void *)dev->parts;
    float *y = p->d;
    enum sc_status st = SC_OK;

    for (uint32_t out = 0; out < w->n_out && st == SC_OK; out += block) {
        p->m = w->n_out - out < block ? w->n_out - out : block;
        p->a = widened;
        p->d = y + out;
        st = sc_cuda_check(sc_cuda_launch_widen((const int8_t *)w->data + (size_t)out * w->ld, p->m,
                                                w->ld, p->k, widened, dev->stream),
                           "matmul", err);
        if (st == SC_OK)
            st = multiply_parts(dev, w->gemm, p, part_elements, err);
    }
    return st;
}

/* At most SC_CUDA_ROUND_ROWS rows. */
static enum sc_status multiply_some(struct sc_cuda_device *dev, const struct sc_matrix *w,
                                    const struct rows *r, struct sc_err *err)
{
    const bool f32 = w->store == SC_DTYPE_F32;
    const uint32_t k = f32 ? w->n_in : sc_cuda_gemm_k(w);
    const size_t part_elements = (size_t)SC_CUDA_ROUND_ROWS * k;
    struct sc_cuda_product p = {
        .in = f32 ? CUDA_R_32F : CUDA_R_16BF,
        .out = r->out,
        .a = w->data,
        .b = f32                ? (const void *)r->x
             : r->image != NULL ? r->image
                                : dev->rounded,
        .d = r->y,
        .bias = sc_cuda_gemm_takes_bias(w->gemm) ? w->bias : NULL,
        .m = w->n_out,
        .k = k,
        .n = r->n,
        .lda = w->store == SC_DTYPE_I8 ? k : w->ld,
        .ldb = f32 ? r->x_stride : k,
        .ldd = r->y_stride,
        .accumulate = r->add,
    };
    enum sc_status st = SC_OK;

    if (f32)
        return sc_cuda_gemm_run(dev, w->gemm, &p, err);
    if (r->image == NULL)
        st = sc_cuda_check(sc_cuda_launch_round(r->x, r->x_stride, r->n, w->n_in, k,
                                                dev->bf16 ? 1 : 3, part_elements, dev->rounded,
                                                dev->stream),
                           "matmul", err);
    if (st != SC_OK)
        return st;
    return w->store == SC_DTYPE_I8 ? multiply_blocks(dev, w, &p, part_elements, err)
                                   : multiply_parts(dev, w->gemm, &p, part_elements, err);
}

static enum sc_status multiply(struct sc_cuda_device *dev, const struct sc_matrix *w,
                               const struct rows *all, struct sc_err *err)
{
    const bool finish = w->scale != NULL || (w->bias != NULL && !sc_cuda_gemm_takes_bias(w->gemm));
    const size_t element = all->out == CUDA_R_32F ? 4 : 2;
    enum sc_status st = SC_OK;

    for (uint32_t row = 0; row < all->n && st == SC_OK; row += SC_CUDA_ROUND_ROWS) {
        struct rows some = *all;
        some.n = all->n - row < SC_CUDA_ROUND_ROWS ? all->n - row : SC_CUDA_ROUND_ROWS;
        some.x = all->x + (size_t)row * all->x_stride;
        some.y = (uint8_t *)all->y + (size_t)row * all->y_stride * element;
        st = multiply_some(dev, w, &some, err);
    }
    if (st == SC_OK && finish)
        st = sc_cuda_check(sc_cuda_launch_finish(all->y, all->y_stride, all->n, w->n_out, w->scale,
                                                 w->bias, dev->stream),
                           "matmul", err);
    return st;
}

/* r->x: rows that nobody wrote, if a norm was left to this product. */
static enum sc_status multiply_gemv(struct sc_cuda_device *dev, const struct sc_matrix *w,
                                    const struct rows *r, bool fused, struct sc_err *err)
{
    const struct sc_cuda_normed *norm = &dev->normed;
    const bool normed = makes_norm(dev, w, r);
    const struct sc_cuda_gemv gemv = {
        .w = w->data,
        .store = w->store,
        .scale = w->scale,
        .bias = w->bias,
        .x = normed ? norm->resid : r->x,
        .y = r->y,
        .n_in = w->n_in,
        .ld = w->ld,
        .n_out = w->n_out,
        .x_stride = r->x_stride,
        .y_stride = r->y_stride,
        .n = r->n,
        .fused = fused,
        .add = r->add,
        .norm = normed ? norm->w : NULL,
        .eps = norm->eps,
    };
    if (normed && r->y == norm->resid) /* blocks would write what others have yet to read */
        return sc_fail(err, SC_EINVAL, "matmul [%u, %u]: into the rows of which it makes the norm",
                       w->n_out, w->n_in);
    sc_cuda_forget(dev);
    return sc_cuda_check(sc_cuda_launch_gemv(&gemv, (uint32_t)dev->n_sms, dev->stream), "matmul",
                         err);
}

/* The image of x, made if need be. */
static enum sc_status make_image(struct sc_cuda_device *dev, const struct sc_matrix *w,
                                 struct rows *r, struct sc_err *err)
{
    if (r->image != NULL)
        return SC_OK;
    r->image = dev->rounded;
    return sc_cuda_check(sc_cuda_launch_round(r->x, r->x_stride, r->n, w->n_in, sc_cuda_gemm_k(w),
                                              1, 0, dev->rounded, dev->stream),
                         "matmul", err);
}

/* image: NULL, or where that of y goes, or with a norm to begin that of y times its weights; of
 * fused y may then be NULL. */
static enum sc_status multiply_few(struct sc_cuda_device *dev, const struct sc_matrix *w,
                                   const struct rows *r, bool fused, uint16_t *image,
                                   struct sc_err *err)
{
    const struct sc_cuda_few few = {
        .w = w->data,
        .x = r->image,
        .bias = w->bias,
        .y = r->y,
        .image = image,
        .ld = w->ld,
        .n_out = w->n_out,
        .y_stride = r->y_stride,
        .n = r->n,
        .fused = fused,
        .add = r->add,
        .store = w->store,
        .x_ld = sc_cuda_gemm_k(w),
        .scale = w->scale,
        .gain = !fused && image != NULL ? r->norm : NULL,
        .squares = dev->squares,
        .x_squares = r->squares,
        .x_dim = w->n_in,
        .eps = r->eps,
    };
    return sc_cuda_check(sc_cuda_launch_few(&few, (uint32_t)dev->n_sms, dev->stream), "matmul",
                         err);
}

/* The result's image is for the product with next. */
static enum sc_status swiglu_few(struct sc_cuda_device *dev, const struct sc_matrix *w,
                                 struct rows *r, const struct sc_matrix *next, struct sc_err *err)
{
    enum sc_status st = make_image(dev, w, r, err);
    if (st != SC_OK)
        return st;
    uint16_t *image = sc_cuda_image_take(dev, r->y, r->n, w->n_out / 2, r->image);
    r->y = sc_cuda_image_beside(dev, image, r->y, r->n, w->n_out / 2, next);
    st = multiply_few(dev, w, r, true, image, err);
    if (st != SC_OK)
        sc_cuda_forget(dev);
    return st;
}

/* Adds to y, and begins the norm of it that follows if the same kernel ends it; not where this one
 * ends another: there is one place for squares. */
static enum sc_status add_few(struct sc_cuda_device *dev, const struct sc_matrix *w, struct rows *r,
                              struct sc_err *err)
{
    const struct sc_matrix *next = r->next;
    enum sc_status st = make_image(dev, w, r, err);
    uint16_t *image = NULL;

    if (st == SC_OK && r->add && r->norm != NULL && r->squares == NULL && next != NULL &&
        next->n_in == w->n_out && by_few(dev, next, r->n) &&
        w->n_out <= SC_CUDA_SQUARES_MAX * SC_CUDA_FEW_SQUARED) {
        image = sc_cuda_image_take(dev, r->y, r->n, w->n_out, r->image);
        sc_cuda_forget(dev); /* it is not that of y */
    }
    if (st == SC_OK)
        st = multiply_few(dev, w, r, false, image, err);
    if (st == SC_OK && image != NULL)
        dev->begun = (struct sc_cuda_begun){r->y, r->norm, next, image, r->n};
    return st;
}

/* Rows that were made for one product, as an image, half done or not at all, are good for no other.
 */
static enum sc_status check_written(const struct sc_cuda_device *dev, const struct sc_matrix *w,
                                    const struct rows *r, struct sc_err *err)
{
    if (r->x == NULL || r->x != dev->unwritten || makes_norm(dev, w, r) ||
        (r->image != NULL && dev->normed.of != r->x && w->store != SC_DTYPE_F32 &&
         !sc_cuda_by_gemv(dev, w, r->n)))
        return SC_OK;
    return sc_fail(err, SC_EINVAL, "matmul [%u, %u]: %u rows that were made for another product",
                   w->n_out, w->n_in, r->n);
}

static enum sc_status multiply_all(struct sc_cuda_device *dev, const struct sc_matrix *w,
                                   const struct rows *r, struct sc_err *err)
{
    enum sc_status st = check_written(dev, w, r, err);
    if (st != SC_OK)
        return st;
    sc_cuda_is_written(dev, r->y);
    if (sc_cuda_by_gemv(dev, w, r->n)) {
        st = multiply_gemv(dev, w, r, false, err);
    } else if (by_few(dev, w, r->n)) {
        struct rows rounded = *r;
        sc_cuda_forget(dev);
        st = add_few(dev, w, &rounded, err);
    } else {
        sc_cuda_forget(dev);
        st = multiply(dev, w, r, err);
    }
    if (st == SC_OK)
        sc_cuda_pages_wait(dev);
    return st;
}

enum sc_status sc_cuda_matmul(struct sc_backend *be, const struct sc_matrix *w, const float *x,
                              uint32_t x_stride, float *y, uint32_t y_stride, uint32_t n,
                              struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);

    if (n > SC_CUDA_ROWS_MAX || (n > 1 && (x_stride < w->n_in || y_stride < w->n_out)))
        return sc_fail(err, SC_EINVAL, "matmul [%u, %u]: %u rows, x stride %u, y stride %u",
                       w->n_out, w->n_in, n, x_stride, y_stride);
    if (n == 0)
        return SC_OK;
    struct rows rows = {
        .x = x,
        .y = y,
        .out = CUDA_R_32F,
        .x_stride = x_stride,
        .y_stride = y_stride,
        .n = n,
    };
    find_left(dev, w, &rows);
    return multiply_all(dev, w, &rows, err);
}

/* Added by the product itself where it is one pass over the weights: less to write, and to read
 * again for the norm that follows. */
enum sc_status sc_cuda_matmul_add(struct sc_backend *be, const struct sc_matmul_add_args *args,
                                  bool *ret_added, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    const struct sc_matrix *w = args->w;
    const uint32_t n = args->n;
    const bool one_pass = dev->bf16 && w->store == SC_DTYPE_BF16 && w->bias == NULL;

    *ret_added = n > 0 && n <= SC_CUDA_ROWS_MAX &&
                 (one_pass || sc_cuda_by_gemv(dev, w, n) || by_few(dev, w, n));
    if (!*ret_added)
        return sc_cuda_matmul(be, w, args->x, w->n_in, args->delta, w->n_out, n, err);
    struct rows rows = {
        .x = args->x,
        .y = args->resid,
        .out = CUDA_R_32F,
        .x_stride = w->n_in,
        .y_stride = w->n_out,
        .n = n,
        .add = true,
        .norm = args->norm,
        .next = args->next,
    };
    find_left(dev, w, &rows);
    return multiply_all(dev, w, &rows, err);
}

/* Of gate and up as cuBLASLt left them. */
static enum sc_status swiglu_after(struct sc_cuda_device *dev, const float *gate_up, bool half,
                                   float *y, uint32_t n, uint32_t ffn, const struct sc_matrix *next,
                                   struct sc_err *err)
{
    uint16_t *image = sc_cuda_image_take(dev, y, n, ffn, NULL);
    y = sc_cuda_image_beside(dev, image, y, n, ffn, next);
    enum sc_status st =
        sc_cuda_check(sc_cuda_launch_swiglu(gate_up, half ? SC_DTYPE_BF16 : SC_DTYPE_F32, y, image,
                                            n, ffn, dev->stream),
                      "matmul_swiglu", err);
    if (st != SC_OK)
        sc_cuda_forget(dev);
    return st;
}

enum sc_status sc_cuda_matmul_swiglu(struct sc_backend *be, const struct sc_matrix *w,
                                     const float *x, float *gate_up, float *y, uint32_t n,
                                     uint32_t ffn, const struct sc_matrix *next, struct sc_err *err)
{
    struct sc_cuda_device *dev = sc_cuda_device(be);
    /* Gate and up pass through memory as bf16: half the bytes, and what math bf16 allows. */
    const bool half = dev->bf16 && w->store == SC_DTYPE_BF16 && w->bias == NULL;
    enum sc_status st = sc_cuda_check_rows("matmul_swiglu", n, ffn, err);

    if (st != SC_OK)
        return st;
    if (w->n_out != (uint64_t)2 * ffn)
        return sc_fail(err, SC_EINVAL, "matmul_swiglu: %u rows of weights, 2 * %u expected",
                       w->n_out, ffn);
    if (n == 0)
        return SC_OK;
    struct rows rows = {
        .x = x,
        .y = y,
        .out = half ? CUDA_R_16BF : CUDA_R_32F,
        .x_stride = w->n_in,
        .y_stride = ffn,
        .n = n,
    };
    find_left(dev, w, &rows);
    st = check_written(dev, w, &rows, err);
    if (st != SC_OK)
        return st;
    if (sc_cuda_by_gemv(dev, w, n)) {
        sc_cuda_is_written(dev, y);
        st = multiply_gemv(dev, w, &rows, true, err);
    } else if (by_few(dev, w, n)) {
        sc_cuda_forget(dev);
        st = swiglu_few(dev, w, &rows, next, err);
    } else {
        sc_cuda_forget(dev);
        rows.y = gate_up;
        rows.y_stride = w->n_out;
        st = multiply(dev, w, &rows, err);
        if (st == SC_OK)
            st = swiglu_after(dev, gate_up, half, y, n, ffn, next, err);
    }
    if (st == SC_OK)
        sc_cuda_pages_wait(dev);
    return st;
}
