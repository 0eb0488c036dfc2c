/* cuda/image.h - where the bf16 image of a result goes, for the product that follows. Private to
 * cuda/. */
#ifndef SC_CUDA_IMAGE_H
#define SC_CUDA_IMAGE_H

#include "cuda/device.h"
#include "cuda/kernels_gemv.h"

/* Notes that the image of y [n_rows, dim] is where this returns once the caller's kernel has run;
 * NULL where no image is made: y is not rounded, or is read as it is by the product of a few rows,
 * or rows do not keep 16-byte alignment. read: an image that the same kernel reads, while blocks of
 * it write the new one, which goes into the other half then; NULL: none. The caller forgets it when
 * the launch fails. */
static inline uint16_t *sc_cuda_image_take(struct sc_cuda_device *dev, const float *y,
                                           uint32_t n_rows, uint32_t dim, const uint16_t *read)
{
    const size_t half = dev->rounded_bytes / 2; /* whole rows of eight elements */
    uint16_t *at = read == dev->rounded ? dev->rounded + half / sizeof(*at) : dev->rounded;

    sc_cuda_forget(dev);
    if (!dev->bf16 || y == NULL || dim % 8 != 0 || n_rows > SC_CUDA_ROUND_ROWS ||
        (n_rows <= dev->gemv_rows && !dev->strict) ||
        (size_t)n_rows * dim * sizeof(*at) > (read != NULL ? half : dev->rounded_bytes))
        return NULL;
    dev->image = (struct sc_cuda_rounded){y, at, n_rows, dim};
    return at;
}

/* What of y [n_rows, dim] the caller's kernel writes beside the image: y, or NULL where the image
 * is all that is read. next: the matrix of the only reader, or NULL. Some products read y itself.
 */
static inline float *sc_cuda_image_beside(struct sc_cuda_device *dev, const uint16_t *image,
                                          float *y, uint32_t n_rows, uint32_t dim,
                                          const struct sc_matrix *next)
{
    const bool alone = image != NULL && next != NULL && next->store != SC_DTYPE_F32 &&
                       next->n_in == dim && !sc_cuda_by_gemv(dev, next, n_rows);
    sc_cuda_is_written(dev, y);
    if (alone)
        dev->unwritten = y;
    return alone ? NULL : y;
}

#endif
