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

template <int D> __device__ __forceinline__ void clear(float (&o)[D / 8][4])
{
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            o[n][i] = 0.0f;
    }
}

/* Where rows go. */
struct place {
    uint32_t row0, n_rows, head, x0; /* n_rows: of the sequence, tokens x heads of the group */
};

/* Lanes in pairs change what they have of two neighbouring groups of eight columns for four columns
 * of one: whole sectors are written, by half as many instructions. */
__device__ __forceinline__ float4 four_columns(const float (&even)[4], const float (&odd)[4], int r,
                                               float inverse)
{
    const bool is_odd = threadIdx.x % 2 != 0;
    const float x0 = even[2 * r] * inverse, x1 = even[2 * r + 1] * inverse;
    const float y0 = odd[2 * r] * inverse, y1 = odd[2 * r + 1] * inverse;
    const float z0 = __shfl_xor_sync(0xffffffffu, is_odd ? x0 : y0, 1);
    const float z1 = __shfl_xor_sync(0xffffffffu, is_odd ? x1 : y1, 1);
    return is_odd ? make_float4(z0, z1, y0, y1) : make_float4(x0, x1, z0, z1);
}

template <int D>
__device__ __forceinline__ void store(const sc_cuda_attn &a, const place &to,
                                      const float (&o)[D / 8][4], const float (&l)[2])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float sum = quad_sum(l[r]), inverse = sum == 0.0f ? 0.0f : __frcp_rn(sum);
        const uint32_t x = to.x0 + (uint32_t)row_of(r);
        const size_t at = (size_t)(to.row0 + x / a.group) * a.n_heads * D +
                          (size_t)(to.head * a.group + x % a.group) * D + threadIdx.x % 2 * 8 +
                          threadIdx.x % 4 / 2 * 4;
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            const float4 y = four_columns(o[n], o[n + 1], r, inverse);
            if (x >= to.n_rows)
                continue;
            if (a.out != NULL)
                *(float4 *)(a.out + at + 8 * n) = y;
            if (a.image != NULL)
                *(uint2 *)(a.image + at + 8 * n) =
                    make_uint2(pack_bf16(y.x, y.y), pack_bf16(y.z, y.w));
        }
    }
}

#endif
