/* cuda/kernels_attention_group.cuh - attention of a warpgroup's 64 rows and tiles of 128 entries,
 * what the kernels on warpgroup instructions share. Threads 0 .. 255 of the block have rows. */
#ifndef SC_CUDA_KERNELS_ATTENTION_GROUP_CUH
#define SC_CUDA_KERNELS_ATTENTION_GROUP_CUH

#include "cuda/kernels_attention.cuh"
#include "cuda/wgmma.cuh"

#define ROWS       128
#define KEYS       128
#define TILE_PAGES (KEYS / ENTRIES)

template <int D>
__device__ __forceinline__ void begin_values(float (&o)[D / 8][4],
                                             const uint32_t (&p)[KEYS / 16][4], uint32_t v)
{
    const uint64_t values = matrix_at(v, KEYS * 128, 1024);
    group_fence();
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        group_add_rows(o, p[i], matrix_behind(values, i * 16 * 128));
    group_commit();
}

/* The lane's rows 0 and 1: row lane / 4 of the warp's 16, and 8 below. */
__device__ __forceinline__ int row_of(int r)
{
    return (int)threadIdx.x / 32 * 16 + r * 8 + (int)threadIdx.x % 32 / 4;
}

/* Scores to weights. factor: for what was summed up before. */
__device__ __forceinline__ void weigh(float (&s)[KEYS / 8][4], float (&m)[2], float (&l)[2],
                                      float (&factor)[2], float c, float slack)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float highest = -INFINITY;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
            highest = fmaxf(highest, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        factor[r] = move_reference(m[r], quad_max(highest), c, slack);
        l[r] *= factor[r];
        float offset = exponent_offset(m[r], c);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 2 * r; i < 2 * r + 2; i++) {
                s[n][i] = exp2_fast(fmaf(s[n][i], c, offset));
                l[r] += s[n][i];
            }
        }
    }
}

__device__ __forceinline__ void round_weights(uint32_t (&p)[KEYS / 16][4],
                                              const float (&s)[KEYS / 8][4])
{
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            p[k][j] = pack_bf16(s[2 * k + j / 2][j % 2 * 2], s[2 * k + j / 2][j % 2 * 2 + 1]);
    }
}

template <int D>
__device__ __forceinline__ void rescale(float (&o)[D / 8][4], const float (&factor)[2])
{
    if (!__any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f))
        return;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            o[n][i] *= factor[i / 2];
    }
}

#endif
