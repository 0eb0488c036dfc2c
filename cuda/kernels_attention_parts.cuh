/* cuda/kernels_attention_parts.cuh - the order in which the parts of a row are added up, by whoever
 * does it: the block that leaves the last one (kernels_attention_decode.cu), or a kernel of its own
 * (kernels_attention_combine.cu). Both give the same bits, so that which of them it is may follow
 * from the whole launch.
 *
 * Sums of SLICE splits, one behind the other, are added up slice by slice, from 0 on. Splits that a
 * sequence does not have, of weight 0, change neither. Products are added without being rounded
 * first, by name.
 *
 * Other blocks may have written the parts while this one ran: they are read from the second cache.
 */
#ifndef SC_CUDA_KERNELS_ATTENTION_PARTS_CUH
#define SC_CUDA_KERNELS_ATTENTION_PARTS_CUH

#include "cuda/kernels_attention.cuh"

#define SLICE    8
#define SLICES   (SC_CUDA_ATTN_SPLITS_MAX / SLICE)
#define PER_LANE (SC_CUDA_ATTN_SPLITS_MAX / 32)

static_assert(32 % SLICE == 0, "a slice's splits lie in neighbouring lanes");

/* What a row found in splits lane, lane + 32, ..: reference and sum of weights. top: the row's
 * first, behind its columns; stride: floats from split to split, of which all of a (sequence, KV
 * head) are counted by an int. */
__device__ __forceinline__ void load_tops(float2 (&found)[PER_LANE], const float *top, int stride,
                                          int n_splits, int lane)
{
#pragma unroll
    for (int j = 0; j < PER_LANE; j++)
        found[j] = lane + 32 * j < n_splits
                       ? __ldcg((const float2 *)(top + (lane + 32 * j) * stride))
                       : make_float2(-INFINITY, 0.0f);
}

/* By a warp: the references become the splits' weights. Returns the sum of weights of all. */
__device__ __forceinline__ float weigh_splits(float2 (&found)[PER_LANE])
{
    float m = found[0].x, l = 0.0f;
#pragma unroll
    for (int j = 1; j < PER_LANE; j++)
        m = fmaxf(m, found[j].x);
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, i));
    m = m == -INFINITY ? 0.0f : m;
#pragma unroll
    for (int j = 0; j < PER_LANE; j++) {
        found[j].x = exp2_fast(found[j].x - m);
        l = fmaf(found[j].x, found[j].y, l);
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        l += __shfl_xor_sync(0xffffffffu, l, i);
    return l;
}

#endif
