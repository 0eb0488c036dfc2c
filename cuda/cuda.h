/* cuda/cuda.h - the CUDA backend: fills the table of base/backend.h for one device.
 *
 * opts.math: BF16 (also AUTO) rounds activations to bf16 for products with bf16 weights, F32 keeps
 * them exact (a product is then the sum of three bf16 products). opts.strict: rows are computed the
 * same way whatever their number.
 * Memory: 130 MiB of the device and 64 MiB of pinned host memory a rank at open; activations
 * rounded to bf16 with the first matrices.
 * Threads: one owner, on which cudaSetDevice is called; several backends may share one device.
 */
#ifndef SC_CUDA_CUDA_H
#define SC_CUDA_CUDA_H

#include "base/backend.h"

/* Matches sc_backend_open_fn. SC_EUNAVAIL: no such device. */
enum sc_status sc_cuda_backend_open(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                                    struct sc_err *err) SC_MUST_CHECK;

#endif
