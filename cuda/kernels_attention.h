/* cuda/kernels_attention.h - attention over pages: the launchers. Private to cuda/.
 *
 * All lengths are read from the descriptors on the device; the host's bounds only size the grids,
 * so a recorded launch serves later steps. A sequence is "small" when n_rows * group is at most
 * SC_CUDA_ATTN_SMALL: its list of pages is cut into splits, whose parts are added up by the block
 * that leaves the last of them, or afterwards.
 * How it is cut follows from its own number of pages and that of KV heads alone; splits that a
 * cohort shares (cohorts.h) are read once for several sequences, by a launch before.
 */
#ifndef SC_CUDA_KERNELS_ATTENTION_H
#define SC_CUDA_KERNELS_ATTENTION_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "cuda/page.h"
#include "cuda/seqs.h"
#include "cuda/splits.h"

#define SC_CUDA_ATTN_SMALL    16u /* rows of one tensor-core tile */
#define SC_CUDA_ATTN_PART_PAD 4u  /* floats behind a row of a part: maximum, sum, two unused */

struct sc_cuda_attn {
    const float *q;
    float *out;      /* NULL: the image is all that is read */
    uint16_t *image; /* bf16 of out, or NULL */
    float *parts;    /* [seq][head][n_splits][part_rows][head_dim + PART_PAD] */
    uint32_t *n_put; /* [seq][head]: parts that its own splits have left; 0 between launches. The
                        first also counts tasks of sc_cuda_attn_prefill_tasks */
    const uint8_t *mem;
    size_t page_bytes, head_bytes, v_offset, bias_offset;
    const void *tensor_map; /* host: 128 bytes, the pool for tensor copies; NULL: not made */
    struct sc_cuda_seqs seqs;
    uint32_t q_stride, n_heads, n_kv_heads, head_dim, group;
    float scale;
    enum sc_dtype dtype; /* of the pool: F32, BF16 or I8 */
    bool split;          /* small sequences go by splits, in launches of their own */
    /* Of the kernels that may still run when one of these starts, none writes to other entries than
     * the rows' own: the first pages are asked for before sc_inputs_ready. See
     * sc_cuda_pages_settled.
     */
    bool settled;
    /* Launches by splits: sequences seq0 .., KV heads head0 .. of this launch. */
    uint32_t seq0, n_seqs, head0, n_heads_now;
    uint32_t n_splits, part_rows; /* bounds; also the strides of parts */
    uint32_t n_own_splits;        /* bound of those that a sequence reads alone */
    bool apart;                   /* sc_cuda_attn_combine adds up parts, else sc_cuda_attn_decode */
    float c, inverse, slack;      /* of scale; by the launchers of splits on tensor cores */
};

#ifdef __cplusplus
extern "C" {
#endif

/* The inits: once per device, before the first launch. */

/* Tensor cores; adds up parts unless a->apart. Pools of bf16 or int8, head_dim 32, 64 or 128, scale
 * > 0; q and out 16-byte aligned, q_stride a multiple of 4. Queries and weights are rounded to
 * bf16. */
cudaError_t sc_cuda_attn_decode_init(void);
cudaError_t sc_cuda_attn_decode(const struct sc_cuda_attn *a, cudaStream_t stream);
/* The same for the splits that cohorts share, before sc_cuda_attn_decode, which leaves them out:
 * of all sequences (seq0 0), group <= 16. */
cudaError_t sc_cuda_attn_cohort_init(void);
cudaError_t sc_cuda_attn_cohort(const struct sc_cuda_attn *a, cudaStream_t stream);
/* All sequences, or with a->split those that are not small. The arithmetic of a row does not depend
 * on the rows beside it. */
cudaError_t sc_cuda_attn_prefill_init(void);
cudaError_t sc_cuda_attn_prefill(const struct sc_cuda_attn *a, cudaStream_t stream);

/* The same on compute capability 9.0 with warpgroup instructions and tensor copies; bf16 pools,
 * head_dim 64 or 128, needs a->tensor_map. */
cudaError_t sc_cuda_attn_prefill_hopper_init(void);
cudaError_t sc_cuda_attn_prefill_hopper(const struct sc_cuda_attn *a, cudaStream_t stream);
/* The same by at most n_sms blocks, which stay. */
cudaError_t sc_cuda_attn_prefill_tasks_init(void);
cudaError_t sc_cuda_attn_prefill_tasks(const struct sc_cuda_attn *a, uint32_t n_sms,
                                       cudaStream_t stream);

/* f32 arithmetic, any even head_dim up to 256: the splits of small sequences; and like prefill. */
cudaError_t sc_cuda_attn_plain_decode(const struct sc_cuda_attn *a, cudaStream_t stream);
cudaError_t sc_cuda_attn_plain_prefill(const struct sc_cuda_attn *a, cudaStream_t stream);

/* Adds up the parts of small sequences of more than one split: after sc_cuda_attn_plain_decode, and
 * with a->apart after sc_cuda_attn_decode. */
cudaError_t sc_cuda_attn_combine(const struct sc_cuda_attn *a, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
