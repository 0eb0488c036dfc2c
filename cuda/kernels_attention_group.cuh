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

/* ---- on compute capability 9.0 ---- */

/* What all threads know of a task. */
struct task {
    view v;
    uint32_t head, x0, n_rows; /* n_rows: of the sequence, tokens x heads of the group */
    int low, own;              /* what its rows see, all together */
    int first, last;           /* tiles of keys */
};

/* Token of a row of the task; rows beyond the sequence are like its last. */
__device__ __forceinline__ uint32_t token_of(const sc_cuda_attn &a, const task &k, int row)
{
    return min(k.x0 + (uint32_t)row, k.n_rows - 1) / a.group;
}

__device__ __forceinline__ void add_biases(float (&s)[KEYS / 8][4], const float *bias)
{
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
        float2 b = *(const float2 *)(bias + 8 * n + threadIdx.x % 4 * 2);
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[n][i] += i % 2 == 0 ? b.x : b.y;
    }
}

/* First and last exact entry that the lane's two rows see; and from where to where all of the
 * warp's rows see everything. */
struct sight {
    int n_cores, low[2], own[2], begin, end;
};

__device__ __forceinline__ sight sight_of(const sc_cuda_attn &a, const task &k)
{
    const int row0 = (int)threadIdx.x / 32 * 16;
    sight g;
    g.n_cores = k.v.n_cores;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        g.low[r] = low_entry(k.v, token_of(a, k, row_of(r)));
        g.own[r] = own_entry(k.v, token_of(a, k, row_of(r)));
    }
    g.begin = low_entry(k.v, token_of(a, k, row0 + 15));
    g.begin = g.begin <= g.n_cores ? 0 : g.begin;
    g.end = own_entry(k.v, token_of(a, k, row0));
    return g;
}

__device__ __forceinline__ void hide(const sight &g, int t, float (&s)[KEYS / 8][4])
{
    const int e0 = t * KEYS, e1 = e0 + KEYS - 1;
    if (e1 < g.n_cores || (e0 >= g.begin && e1 <= g.end))
        return;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int e = e0 + 8 * n + (int)threadIdx.x % 4 * 2 + i % 2;
            if (e >= g.n_cores && (e < g.low[i / 2] || e > g.own[i / 2]))
                s[n][i] = -INFINITY;
        }
    }
}

#endif
