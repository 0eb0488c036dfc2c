/* cuda/kernels_few.cuh - products of a few rows: how weights are kept, and how they and the rows
 * come into shared memory. Of kernels_few.cu alone.
 *
 * A step of a row of x is 128 bytes beside bf16 weights, 256 beside int8 ones. A lane multiplies 16
 * bytes of weights, of int8 as many columns as 32 bytes of x hold. If it brought those itself, what
 * the lanes ask for at a time would be halves of the 32 bytes that the second cache sends at least.
 * So beside int8 a lane brings what others read, behind a barrier of the warp. */
#ifndef SC_CUDA_KERNELS_FEW_CUH
#define SC_CUDA_KERNELS_FEW_CUH

#include "cuda/kernels_few.h"
#include "cuda/ptx.cuh"
#include "cuda/widen.cuh"

#define THREADS     256
#define WARPS       (THREADS / 32)
#define TILE_PIECES 128u /* 16-byte pieces of a tile in a step: four for each lane */
#define STEP_PIECES 8u   /* of a row in a step: a line of the second cache */
#define TILES_MAX   3    /* in a group */

/* sum[m * X + k]: of tile m, rows lane / 4 and below it, rows 8 k + 2 (lane % 4) and the next of x.
 */
template <int MX> using sums = float[MX][4];

/* A lane's pieces of a tile: of two rows, in both halves of the step. */
struct tile {
    uint4 g0, h0, g1, h1;
};

struct few_bf16 {
    static constexpr bool SCALED = false;
    static constexpr uint32_t STAGES = 6;
    static constexpr uint32_t X_PIECES = 1; /* of x beside one of weights */
    /* A lane's share of a step of a row of x. */
    struct columns {
        uint4 x0, x1;
    };
    /* Where in a step of n rows the lane's first piece is. */
    static __device__ inline uint32_t place(uint32_t n)
    {
        (void)n;
        return threadIdx.x % 32;
    }
    static __device__ inline void load(columns &c, const uint4 *at, uint32_t n)
    {
        c.x0 = at[0];
        c.x1 = at[4 * n];
    }
    template <int X, int MX>
    static __device__ inline void multiply(sums<MX> &sum, int first, const tile &w,
                                           const columns (&c)[X])
    {
#pragma unroll
        for (int k = 0; k < X; k++) {
            float(&to)[4] = sum[first + k];
            multiply_add(to, {w.g0.x, w.h0.x, w.g0.y, w.h0.y}, c[k].x0.x, c[k].x0.y);
            multiply_add(to, {w.g0.z, w.h0.z, w.g0.w, w.h0.w}, c[k].x0.z, c[k].x0.w);
            multiply_add(to, {w.g1.x, w.h1.x, w.g1.y, w.h1.y}, c[k].x1.x, c[k].x1.y);
            multiply_add(to, {w.g1.z, w.h1.z, w.g1.w, w.h1.w}, c[k].x1.z, c[k].x1.w);
        }
    }
};

/* STAGES_: x may take more of shared memory than weights, and then leaves room for fewer. */
template <uint32_t STAGES_> struct few_i8 {
    static constexpr bool SCALED = true;
    static constexpr uint32_t STAGES = STAGES_;
    static constexpr uint32_t X_PIECES = 2;
    /* As the weights' columns come out of widen_pair: of each four the even and the odd ones. */
    struct columns {
        uint32_t pairs[16];
    };
    static __device__ inline void reorder(uint32_t *to, const uint4 &x)
    {
        to[0] = __byte_perm(x.x, x.y, 0x5410);
        to[1] = __byte_perm(x.x, x.y, 0x7632);
        to[2] = __byte_perm(x.z, x.w, 0x5410);
        to[3] = __byte_perm(x.z, x.w, 0x7632);
    }
    /* Pieces 2 (lane % 4) and the next, where ask_x put them; so many again are half a step on. */
    static __device__ inline uint32_t place(uint32_t n)
    {
        const uint32_t lane = threadIdx.x % 32;
        return lane % 4 / 2 * 4 * n + lane / 4 * 4 + lane % 2 * 2;
    }
    static __device__ inline void load(columns &c, const uint4 *at, uint32_t n)
    {
        const uint32_t other = threadIdx.x % 4 / 2;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            reorder(c.pairs + 4 * i, at[i / 2 * 8 * n + (i % 2 ^ other)]);
    }
    /* The tensor core's four registers: 4 columns of two rows. */
    template <int X, int MX>
    static __device__ inline void multiply(sums<MX> &sum, int first, uint32_t g, uint32_t h,
                                           uint32_t at, const columns (&c)[X])
    {
        const uint32_t a[4] = {widen_pair(g), widen_pair(h), widen_pair(g >> 8),
                               widen_pair(h >> 8)};
#pragma unroll
        for (int k = 0; k < X; k++)
            multiply_add(sum[first + k], a, c[k].pairs[at], c[k].pairs[at + 1]);
    }
    template <int X, int MX>
    static __device__ inline void multiply(sums<MX> &sum, int first, const tile &w,
                                           const columns (&c)[X])
    {
        multiply<X>(sum, first, w.g0.x, w.h0.x, 0, c);
        multiply<X>(sum, first, w.g0.y, w.h0.y, 2, c);
        multiply<X>(sum, first, w.g0.z, w.h0.z, 4, c);
        multiply<X>(sum, first, w.g0.w, w.h0.w, 6, c);
        multiply<X>(sum, first, w.g1.x, w.h1.x, 8, c);
        multiply<X>(sum, first, w.g1.y, w.h1.y, 10, c);
        multiply<X>(sum, first, w.g1.z, w.h1.z, 12, c);
        multiply<X>(sum, first, w.g1.w, w.h1.w, 14, c);
    }
};

/* How many steps of x are on their way or in use with the tiles of a ring. */
static __host__ __device__ constexpr uint32_t x_stages(uint32_t stages, uint32_t m)
{
    return (stages + m - 1) / m;
}

/* Shared memory, in 16-byte pieces: rings of W, rings of x, factors of its rows, what warps found
 * of groups that a warp before them began, and what is added to groups that warps share. */
template <class W> constexpr uint32_t W_RING = W::STAGES *TILE_PIECES;
template <class W> constexpr uint32_t X_STEP = W::X_PIECES *STEP_PIECES; /* of a row */
template <class W> static __host__ __device__ constexpr uint32_t x_ring(uint32_t m, uint32_t n)
{
    return x_stages(W::STAGES, m) * n * X_STEP<W>;
}

/* Rows of W of a tile: one of each group of eight, or gate and up of the same. */
template <bool FUSED> constexpr uint32_t TILE_ROWS = FUSED ? 8 : 16;
static_assert(TILE_ROWS<false> == SC_CUDA_FEW_SQUARED, "a sum of squares is of a tile");
/* Sums of squares of a row of so many columns. */
static __host__ __device__ constexpr uint32_t sums_of(uint32_t columns)
{
    return (columns + SC_CUDA_FEW_SQUARED - 1) / SC_CUDA_FEW_SQUARED;
}

/* What a warp asks for next: the tile of a step. */
struct source {
    const uint4 *w;             /* this lane's first piece */
    uint32_t row;               /* of W, that piece's */
    uint32_t group;             /* of the block's line */
    uint32_t step;              /* of the group */
    uint32_t n_pieces, n_steps; /* of a row */
};

template <int M, bool FUSED>
static __device__ inline void enter_group(const sc_cuda_few &a, source &s)
{
    const uint32_t lane = threadIdx.x % 32;
    constexpr uint32_t ROWS = M * TILE_ROWS<FUSED>;
    s.row = s.group * ROWS + lane / 4;
    s.w = (const uint4 *)a.w + (size_t)s.row * s.n_pieces + s.step * STEP_PIECES + lane % 4;
}

/* Tile m of the step; zeros where W ends. to: this lane's place in the slot. */
template <int M, bool FUSED>
static __device__ inline void ask_w(const sc_cuda_few &a, source &s, uint32_t m, uint32_t to)
{
    const size_t below = (size_t)(FUSED ? a.n_out / 2 : 8) * s.n_pieces;
    const uint32_t piece = s.step * STEP_PIECES + threadIdx.x % 4;
    const uint32_t n_rows = FUSED ? a.n_out / 2 : a.n_out;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t half = i % 2, part = i / 2 * 4;
        const bool in = s.row + (FUSED ? 0 : 8 * half) < n_rows && piece + part < s.n_pieces;
        copy_async_line(to + i * 512, in ? s.w + half * below + part : (const uint4 *)a.w,
                        in ? 16 : 0);
    }
    s.w += TILE_ROWS<FUSED> * s.n_pieces;
    s.row += TILE_ROWS<FUSED>;
    if (m + 1 < M)
        return;
    s.step += WARPS;
    if (s.step >= s.n_steps) {
        s.step = threadIdx.x / 32;
        s.group++;
    }
    enter_group<M, FUSED>(a, s);
}

/* A step of x, by the lanes that have rows of it; zeros where rows end. to: this lane's place in
 * the slot. A lane brings every fourth piece of its row. Where others read them they change places
 * with the next lane's in every other four, so that those that are read at once lie in different
 * banks.
 */
template <class W, int X>
static __device__ inline void ask_x(const sc_cuda_few &a, uint32_t n_pieces, uint32_t step,
                                    uint32_t to)
{
    constexpr uint32_t PARTS = X_STEP<W> / 4;
    const uint32_t lane = threadIdx.x % 32, piece = step * X_STEP<W> + lane % 4;
    const uint32_t beside = W::X_PIECES == 1 ? to : to + (lane % 2 == 0 ? 16 : -16);
#pragma unroll
    for (uint32_t i = 0; i < PARTS * X; i++) {
        const uint32_t row = i / PARTS * 8 + lane / 4, part = i % PARTS;
        const bool in = piece + 4 * part < n_pieces;
        if (row < a.n)
            copy_async((part % 2 == 0 ? to : beside) + (part * 4 * a.n + i / PARTS * 32) * 16,
                       in ? (const uint4 *)a.x + (size_t)row * n_pieces + piece + 4 * part
                          : (const uint4 *)a.x,
                       in ? 16 : 0);
    }
}

#endif
