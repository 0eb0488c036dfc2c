/* cuda/page.h - where the scales of an int8 page's block lie; the rest is in cuda/device.h. Private
 * to cuda/; included by host files and kernels.
 *
 * [32] f32 each: scales of K, scales of V, biases.
 */
#ifndef SC_CUDA_PAGE_H
#define SC_CUDA_PAGE_H

#include <stddef.h>
#include <stdint.h>

#define SC_CUDA_SCALES_BYTES (32 * sizeof(float))

/* From bias_offset. */
#define SC_CUDA_K_SCALES(bias_offset) ((bias_offset)-2 * SC_CUDA_SCALES_BYTES)
#define SC_CUDA_V_SCALES(bias_offset) ((bias_offset)-SC_CUDA_SCALES_BYTES)

#endif
