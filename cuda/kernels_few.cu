/* cuda/kernels_few.cu - products of up to 16 rows on tensor cores.
 *
 * Bound by reading the weights once, as that of kernels_gemv.cu, which has too much to compute for
 * more than one row. cuBLASLt's kernels neither begin before the one before has ended nor let the
 * next one in: with them, a step of four sequences of an 8B model took 0.4 ms of 4.7 longer than
 * one of one sequence (H200).
 *
 * A tile is 16 rows of W and eight rows of x. M tiles that lie together are a group, for which x is
 * read once; a step is 64 columns of a group. A block works through its share of groups one after
 * the other, and its warps take the steps of each in turns, so that what is asked for at a time are
 * long pieces of rows (a part of the columns for each warp: decoding took 1.02 times as long, and
 * 1.08 times where only half of each 128 bytes is asked for at once; H200). Their sums are added up
 * in order. A warp keeps STAGES - 1 tiles of a step on their way into a ring in shared memory, also
 * of the group that comes next: 80 KiB a multiprocessor (with 48, 1.03 times; with 112 the same). x
 * comes the same way, step by step: so nothing has to be staged before the weights flow, and rows
 * of x may have any length.
 *
 * In which order the products of a row are summed is free as long as W and x agree, so a lane needs
 * no element that another one has copied: 16 bytes of a row, eight columns that lie together, are
 * its share of two instructions. Hence no barrier and no transposing loads.
 *
 * A multiprocessor has one block (see overlap.cuh): with room for two, decoding took longer than by
 * cuBLASLt.
 *
 * A row's bits depend on the shape of W alone: a column of a tensor core's tile knows nothing of
 * the others, and M only says which tiles go together. */
#include "cuda/kernels_few.h"

#include "cuda/line.cuh"
#include "cuda/overlap.cuh"
#include "cuda/ptx.cuh"
#include "cuda/rows.cuh"

#define THREADS     256
#define WARPS       (THREADS / 32)
#define STAGES      6
#define TILE_PIECES 128u        /* 16-byte pieces of a tile in a step: four for each lane */
#define STEP_PIECES 8u          /* of a row in a step: a line of the second cache */
#define TILES_MAX   3           /* in a group */
#define LAST_BYTES  (16u << 10) /* of a warp's weights when the next kernel is let in: some 4 us */

/* How many steps of x are on their way or in use with STAGES tiles. */
template <int M> constexpr uint32_t X_STAGES = (STAGES + M - 1) / M;

/* Shared memory, in 16-byte pieces: rings of W, rings of x, what warps found of groups that a warp
 * before them began, and what is added to groups that warps share. */
static constexpr uint32_t W_RING = STAGES * TILE_PIECES;
static __host__ __device__ constexpr uint32_t x_ring(uint32_t x_stages, uint32_t n)
{
    return x_stages * n * STEP_PIECES;
}

/* Rows of W of a tile: one of each group of eight, or gate and up of the same. */
template <bool FUSED> constexpr uint32_t TILE_ROWS = FUSED ? 8 : 16;

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

/* A step of x, by the lanes that have rows of it; zeros where rows end. */
template <int X>
static __device__ inline void ask_x(const sc_cuda_few &a, uint32_t n_pieces, uint32_t step,
                                    uint32_t to)
{
    const uint32_t lane = threadIdx.x % 32, piece = step * STEP_PIECES + lane % 4;
#pragma unroll
    for (uint32_t i = 0; i < 2 * X; i++) {
        const uint32_t row = i / 2 * 8 + lane / 4, part = i % 2 * 4;
        const bool in = piece + part < n_pieces;
        if (row < a.n)
            copy_async(to + (part * a.n + i / 2 * 32) * 16,
                       in ? (const uint4 *)a.x + (size_t)row * n_pieces + piece + part
                          : (const uint4 *)a.x,
                       in ? 16 : 0);
    }
}

/* sum[m * X + k]: of tile m, rows lane / 4 and below it, rows 8 k + 2 (lane % 4) and the next of x.
 */
template <int MX> using sums = float[MX][4];

/* Which sum i of a lane is, i in 4 M X: row of W, row of x. */
template <int M, int X> static __device__ inline uint2 place_of(uint32_t group, uint32_t i)
{
    const uint32_t lane = threadIdx.x % 32;
    return make_uint2((group * M + i / 4 / X) * 16 + i % 4 / 2 * 8 + lane / 4,
                      i / 4 % X * 8 + lane % 4 * 2 + i % 2);
}

/* What this lane's sums are added to, on its way into shared memory. */
template <int M, int X>
static __device__ inline void ask_old(const sc_cuda_few &a, uint32_t group, float *old)
{
#pragma unroll
    for (uint32_t i = 0; i < 4 * M * X; i++) {
        const uint2 at = place_of<M, X>(group, i);
        const bool in = at.x < a.n_out && at.y < a.n;
        copy_async_word(shared_address(old + i * 32),
                        in ? a.y + (size_t)at.y * a.y_stride + at.x : a.y, in ? 4 : 0);
    }
}

template <int M, int X, bool FUSED>
static __device__ inline void write_group(const sc_cuda_few &a, uint32_t group,
                                          const sums<M * X> &old, const sums<M * X> &sum)
{
    const uint32_t lane = threadIdx.x % 32, half = a.n_out / 2;
#pragma unroll
    for (uint32_t i = 0; i < (FUSED ? 2 : 4) * M * X; i++) {
        const uint32_t t = i % (M * X), j = i / (M * X), r = t % X * 8 + lane % 4 * 2 + j % 2;
        const uint32_t row = (group * M + t / X) * TILE_ROWS<FUSED> + j / 2 * 8 + lane / 4;
        float v = sum[t][j];
        if (r >= a.n || row >= (FUSED ? half : a.n_out))
            continue;
        if (a.bias != NULL)
            v += a.bias[row];
        if (!FUSED) {
            a.y[(size_t)r * a.y_stride + row] = a.add ? old[t][j] + v : v;
            continue;
        }
        v = sc_silu(v) * (a.bias != NULL ? sum[t][j + 2] + a.bias[half + row] : sum[t][j + 2]);
        if (a.y != NULL)
            a.y[(size_t)r * a.y_stride + row] = v;
        if (a.image != NULL)
            a.image[(size_t)r * half + row] = (uint16_t)sc_pack_bf16(v, 0.0f);
    }
}

/* Adds up what all warps found of a group. */
template <int MX> static __device__ inline void join(const float4 *found, sums<MX> &sum)
{
#pragma unroll 2
    for (uint32_t warp = 0; warp < WARPS; warp++) {
#pragma unroll
        for (int t = 0; t < MX; t++) {
            const float4 v = found[(warp * MX + t) * 32 + threadIdx.x % 32];
            sum[t][0] = warp > 0 ? sum[t][0] + v.x : v.x;
            sum[t][1] = warp > 0 ? sum[t][1] + v.y : v.y;
            sum[t][2] = warp > 0 ? sum[t][2] + v.z : v.z;
            sum[t][3] = warp > 0 ? sum[t][3] + v.w : v.w;
        }
    }
}

/* X: tiles of eight rows of x. */
template <int M, int X, bool FUSED>
static __global__ void __launch_bounds__(THREADS, 1)
    few_kernel(const __grid_constant__ sc_cuda_few a, uint32_t n_groups)
{
    extern __shared__ uint4 rings[];
    constexpr uint32_t LAST = LAST_BYTES / (M * TILE_PIECES * 16), FOUND = WARPS * M * X * 32;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t x_pieces = x_ring(X_STAGES<M>, a.n), x_step = a.n * STEP_PIECES;
    const uint4 *w_ring = rings + warp * W_RING + lane;
    const uint4 *xs = rings + WARPS * W_RING + warp * x_pieces + lane;
    float4 *found = (float4 *)(rings + WARPS * (W_RING + x_pieces));       /* [2] in turns */
    float *olds = (float *)(found + 2 * FOUND + warp * M * X * 32) + lane; /* if a.add */
    const uint32_t w_at = shared_address(w_ring), x_at = shared_address(xs);
    const uint32_t first = cut(n_groups, blockIdx.x, gridDim.x);
    const uint32_t end = cut(n_groups, blockIdx.x + 1, gridDim.x);
    source from;
    uint32_t slot = 0, x_slot = 0;

    from.n_pieces = a.ld / 8;
    from.n_steps = (from.n_pieces + STEP_PIECES - 1) / STEP_PIECES;
    from.group = first;
    from.step = warp;
    const uint32_t n_mine = warp < from.n_steps ? (from.n_steps - warp - 1) / WARPS + 1 : 0;
    uint32_t left = (end - first) * n_mine; /* steps of this warp */

    enter_group<M, FUSED>(a, from);
#pragma unroll
    for (uint32_t i = 0; i + 1 < STAGES; i++) {
        if (left > i / M)
            ask_w<M, FUSED>(a, from, i % M, w_at + i * TILE_PIECES * 16);
    }
    sc_inputs_ready();
    if (a.add && first % WARPS == warp)
        ask_old<M, X>(a, first, olds);
#pragma unroll
    for (uint32_t i = 0; i + 1 < STAGES; i++) {
        if (i % M == 0 && left > i / M)
            ask_x<X>(a, from.n_pieces, warp + i / M % n_mine * WARPS, x_at + i / M * x_step * 16);
        copy_commit(); /* the first group of copies holds all that was asked for of W */
    }
    if (left <= LAST)
        sc_next_may_start();
#pragma unroll 1
    for (uint32_t group = first; group < end; group++) {
        sums<M *X> sum = {};
        if (a.add && group > first && group % WARPS == warp)
            ask_old<M, X>(a, group, olds);
#pragma unroll 1
        for (uint32_t i = 0; i < n_mine; i++, left--) {
            uint4 x0[X] = {}, x1[X] = {}; /* zeros: of rows that there are not */
            if (left == LAST)
                sc_next_may_start();
#pragma unroll
            for (int m = 0; m < M; m++) {
                constexpr uint32_t AHEAD = STAGES - 1;
                const uint32_t before = slot > 0 ? slot - 1 : STAGES - 1;
                copy_wait<STAGES - 2>();
                const uint4 *w = w_ring + slot * TILE_PIECES;
                const uint4 g0 = w[0], h0 = w[32], g1 = w[64], h1 = w[96];
#pragma unroll
                for (uint32_t k = 0; m == 0 && k < X; k++) {
                    const uint4 *x = xs + x_slot * x_step + 32 * k;
                    if (lane + 32 * k >= 4 * a.n)
                        continue;
                    x0[k] = x[0];
                    x1[k] = x[4 * a.n];
                }
                if (left > (m + AHEAD) / M) { /* to where what was used before this tile is */
                    if ((m + AHEAD) % M == 0)
                        ask_x<X>(a, from.n_pieces, from.step,
                                 x_at + (x_slot + (m + AHEAD) / M) % X_STAGES<M> * x_step * 16);
                    ask_w<M, FUSED>(a, from, (m + AHEAD) % M, w_at + before * TILE_PIECES * 16);
                }
                copy_commit(); /* also of nothing: groups are counted */
#pragma unroll
                for (int k = 0; k < X; k++) {
                    float(&to)[4] = sum[m * X + k];
                    multiply_add(to, {g0.x, h0.x, g0.y, h0.y}, x0[k].x, x0[k].y);
                    multiply_add(to, {g0.z, h0.z, g0.w, h0.w}, x0[k].z, x0[k].w);
                    multiply_add(to, {g1.x, h1.x, g1.y, h1.y}, x1[k].x, x1[k].y);
                    multiply_add(to, {g1.z, h1.z, g1.w, h1.w}, x1[k].z, x1[k].w);
                }
                slot = slot + 1 < STAGES ? slot + 1 : 0;
            }
            x_slot = x_slot + 1 < X_STAGES<M> ? x_slot + 1 : 0;
        }
        float4 *here = found + (group - first) % 2 * FOUND;
#pragma unroll
        for (int t = 0; t < M * X; t++)
            here[(warp * M * X + t) * 32 + lane] =
                make_float4(sum[t][0], sum[t][1], sum[t][2], sum[t][3]);
        __syncthreads(); /* also: what was found two groups ago has been read */
        if (group % WARPS != warp)
            continue;
        sums<M *X> old = {};
        join<M * X>(here, sum);
        if (a.add) {
            if (n_mine * M < STAGES) { /* else it came while steps were waited for */
                copy_commit();
                copy_wait<0>();
            }
#pragma unroll
            for (int i = 0; i < 4 * M * X; i++)
                old[i / 4][i % 4] = olds[i * 32];
        }
        write_group<M, X, FUSED>(a, group, old, sum);
    }
}

static size_t shared_bytes(uint32_t m, uint32_t n, bool add)
{
    const uint32_t x_stages = (STAGES + m - 1) / m, tiles = m * ((n + 7) / 8);
    return 16 * (size_t)WARPS * (W_RING + x_ring(x_stages, n) + (add ? 3 : 2) * tiles * 32);
}

static bool fits(uint32_t n, size_t most)
{
    for (uint32_t m = 1; m <= TILES_MAX; m++) {
        if (shared_bytes(m, n, true) > most)
            return false;
    }
    return true;
}

extern "C" uint32_t sc_cuda_few_most(void)
{
    size_t most = 0;
    if (sc_most_bytes(&most) != cudaSuccess)
        return 0;
    return fits(16, most) ? 16 : fits(8, most) ? 8 : 0;
}

/* The tiles of a group: the busiest block reads the least, x (of 8 rows, or of 16) counted by half
 * as it comes from the second cache. */
static uint32_t best_tiles(uint32_t n_tiles, uint32_t n, uint32_t n_sms)
{
    uint32_t best = 1;
    uint64_t least = UINT64_MAX;
    for (uint32_t m = 1; m <= TILES_MAX; m++) {
        const uint32_t n_groups = (n_tiles + m - 1) / m, rows = 16 * m + (n > 8 ? 8 : 4);
        const uint64_t cost = (uint64_t)((n_groups + n_sms - 1) / n_sms) * rows;
        if (cost < least) {
            least = cost;
            best = m;
        }
    }
    return best;
}

template <int M, int X, bool FUSED>
static cudaError_t launch(const sc_cuda_few *a, uint32_t n_tiles, uint32_t n_sms,
                          cudaStream_t stream)
{
    const uint32_t n_groups = (n_tiles + M - 1) / M;
    const dim3 blocks(n_groups < n_sms ? n_groups : n_sms);
    size_t bytes = shared_bytes(M, a->n, a->add), alone = 0;
    const cudaError_t rc = sc_alone_bytes(&alone);

    if (rc != cudaSuccess)
        return rc;
    return sc_overlap_launch(few_kernel<M, X, FUSED>, blocks, dim3(THREADS),
                             bytes < alone ? alone : bytes, stream, *a, n_groups);
}

template <int X, bool FUSED>
static cudaError_t launch_tiles(const sc_cuda_few *a, uint32_t n_sms, cudaStream_t stream)
{
    const uint32_t n_tiles = ((FUSED ? a->n_out / 2 : a->n_out) - 1) / TILE_ROWS<FUSED> + 1;
    switch (best_tiles(n_tiles, a->n, n_sms)) {
    case 1:
        return launch<1, X, FUSED>(a, n_tiles, n_sms, stream);
    case 2:
        return launch<2, X, FUSED>(a, n_tiles, n_sms, stream);
    default:
        return launch<3, X, FUSED>(a, n_tiles, n_sms, stream);
    }
}

extern "C" cudaError_t sc_cuda_launch_few(const struct sc_cuda_few *a, uint32_t n_sms,
                                          cudaStream_t stream)
{
    if (a->n == 0 || a->n > 16 || a->ld % 8 != 0 || a->n_out == 0 ||
        (a->fused && a->n_out % 2 != 0))
        return cudaErrorInvalidValue;
    if (a->n > 8)
        return a->fused ? launch_tiles<2, true>(a, n_sms, stream)
                        : launch_tiles<2, false>(a, n_sms, stream);
    return a->fused ? launch_tiles<1, true>(a, n_sms, stream)
                    : launch_tiles<1, false>(a, n_sms, stream);
}

template <int M, int X> static cudaError_t allow_shared(void)
{
    const cudaFuncAttribute attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    size_t most = 0;
    cudaError_t rc = sc_most_bytes(&most);
    if (rc == cudaSuccess)
        rc = cudaFuncSetAttribute(few_kernel<M, X, false>, attribute, (int)most);
    return rc == cudaSuccess ? cudaFuncSetAttribute(few_kernel<M, X, true>, attribute, (int)most)
                             : rc;
}

template <int X> static cudaError_t allow_all(void)
{
    cudaError_t rc = allow_shared<1, X>();
    if (rc == cudaSuccess)
        rc = allow_shared<2, X>();
    return rc == cudaSuccess ? allow_shared<3, X>() : rc;
}

extern "C" cudaError_t sc_cuda_few_init(void)
{
    const uint32_t most = sc_cuda_few_most();
    cudaError_t rc = most >= 8 ? allow_all<1>() : cudaSuccess;
    return rc == cudaSuccess && most == 16 ? allow_all<2>() : rc;
}
