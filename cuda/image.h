/* cuda/image.h - where the bf16 image of a result goes, for the product that follows. Private to
 * cuda/. */
#ifndef SC_CUDA_IMAGE_H
#define SC_CUDA_IMAGE_H

#include "cuda/device.h"
#include "cuda/kernels_gemv.h"

/* Notes that dev->rounded holds y [n_rows, dim] once the caller's kernel has run, and returns it;
 * NULL where no image is made: y is not rounded, or is read as it is by the product of a few rows,
 * or rows do not keep 16-byte alignment. The caller forgets it when the launch fails. */
static inline uint16_t *sc_cuda_image_take(struct sc_cuda_device *dev, const float *y,
                                           uint32_t n_rows, uint32_t dim)
{
    sc_cuda_forget(dev);
    if (!dev->bf16 || y == NULL || dim % 8 != 0 || n_rows > SC_CUDA_ROUND_ROWS ||
        (n_rows <= SC_CUDA_GEMV_ROWS && !dev->strict) ||
        (size_t)n_rows * dim * sizeof(uint16_t) > dev->rounded_bytes)
        return NULL;
    dev->image = (struct sc_cuda_rounded){y, n_rows, dim};
    return dev->rounded;
}

/* What of y [n_rows, dim] the caller's kernel writes beside the image: y, or NULL where the image
 * is all that is read. next: the matrix of the only reader, or NULL. The product of a few rows, and
 * that of f32 weights, read y itself. */
static inline float *sc_cuda_image_beside(struct sc_cuda_device *dev, const uint16_t *image,
                                          float *y, uint32_t n_rows, uint32_t dim,
                                          const struct sc_matrix *next)
{
    const bool alone = image != NULL && next != NULL && next->store != SC_DTYPE_F32 &&
                       next->n_in == dim && n_rows > SC_CUDA_GEMV_ROWS_MAX;
    sc_cuda_is_written(dev, y);
    if (alone)
        dev->unwritten = y;
    return alone ? NULL : y;
}

#endif
