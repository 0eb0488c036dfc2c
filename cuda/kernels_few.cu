/* cuda/kernels_few.cu - products of up to eight rows on tensor cores.
 *
 * Bound by reading the weights once, as that of kernels_gemv.cu, which has too much to compute for
 * more than two rows. cuBLASLt's kernels neither begin before the one before has ended nor let the
 * next one in: with them, a step of four sequences of an 8B model took 0.4 ms of 4.7 longer than
 * one of one sequence (H200).
 *
 * A tile is 16 rows of W and the (up to eight) rows of x. M tiles that lie together are a group,
 * for which x is read once; a step is 64 columns of a group. A block works through its share of
 * groups, a line of steps of which each warp takes an equal, unbroken part; groups that two or more
 * warps share are added up at the end, in order. A warp keeps STAGES - 1 tiles of a step on their
 * way into a ring in shared memory: 48 KiB a multiprocessor. x comes the same way, step by step: so
 * nothing has to be staged before the weights flow, and rows of x may have any length.
 *
 * In which order the products of a row are summed is free as long as W and x agree, so a lane needs
 * no element that another one has copied: 16 bytes of a row, eight columns that lie together, are
 * its share of two instructions. Hence no barrier and no transposing loads.
 *
 * Shared memory is 80 to 88 KiB for four rows of an 8B model, at most 104, so that the product that
 * comes next can fill its rings before this one ends. A row's bits depend on the shape of W and on
 * the number of multiprocessors, nothing else: a column of a tensor core's tile knows nothing of
 * the others, and M is chosen as if there were always eight. */
#include "cuda/kernels_few.h"

#include "cuda/line.cuh"
#include "cuda/overlap.cuh"
#include "cuda/ptx.cuh"
#include "cuda/rows.cuh"

#define THREADS     256
#define WARPS       (THREADS / 32)
#define STAGES      4
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
        copy_async(to + i * 512, in ? s.w + half * below + part : (const uint4 *)a.w, in ? 16 : 0);
    }
    s.w += TILE_ROWS<FUSED> * s.n_pieces;
    s.row += TILE_ROWS<FUSED>;
    if (m + 1 < M)
        return;
    s.step++;
    if (s.step == s.n_steps) {
        s.step = 0;
        s.group++;
    }
    enter_group<M, FUSED>(a, s);
}

/* A step of x, by the lanes that have a row of it; zeros where rows end. */
static __device__ inline void ask_x(const sc_cuda_few &a, uint32_t n_pieces, uint32_t step,
                                    uint32_t to)
{
    const uint32_t lane = threadIdx.x % 32, piece = step * STEP_PIECES + lane % 4;
    const uint4 *from = (const uint4 *)a.x + (size_t)(lane / 4) * n_pieces + piece;
    if (lane >= 4 * a.n)
        return;
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const bool in = piece + 4 * i < n_pieces;
        copy_async(to + i * a.n * 64, in ? from + 4 * i : (const uint4 *)a.x, in ? 16 : 0);
    }
}

/* sum[m]: of tile m, rows lane / 4 and below it, rows 2 (lane % 4) and the next of x. */
template <int M> using sums = float[M][4];

/* Registers of a thread, at most: two blocks leave 28000 of a multiprocessor's for the small
 * kernels between two products. */
template <int M, bool FUSED> constexpr int REGISTERS = M == 3 && !FUSED ? 72 : 64;

/* Which sum i of a lane is, i in 4 M. */
template <int M> static __device__ inline uint2 place_of(uint32_t group, uint32_t i)
{
    const uint32_t lane = threadIdx.x % 32;
    return make_uint2((group * M + i / 4) * 16 + i % 4 / 2 * 8 + lane / 4, lane % 4 * 2 + i % 2);
}

/* What this lane's sums are added to, on its way into shared memory. */
template <int M>
static __device__ inline void ask_old(const sc_cuda_few &a, uint32_t group, float *old)
{
#pragma unroll
    for (uint32_t i = 0; i < 4 * M; i++) {
        const uint2 at = place_of<M>(group, i);
        const bool in = at.x < a.n_out && at.y < a.n;
        copy_async_word(shared_address(old + i * 32),
                        in ? a.y + (size_t)at.y * a.y_stride + at.x : a.y, in ? 4 : 0);
    }
}

template <int M>
static __device__ inline void load_old(const sc_cuda_few &a, uint32_t group, sums<M> &old)
{
#pragma unroll
    for (uint32_t i = 0; i < 4 * M; i++) {
        const uint2 at = place_of<M>(group, i);
        old[i / 4][i % 4] =
            at.x < a.n_out && at.y < a.n ? a.y[(size_t)at.y * a.y_stride + at.x] : 0.0f;
    }
}

template <int M, bool FUSED>
static __device__ inline void write_group(const sc_cuda_few &a, uint32_t group, const sums<M> &old,
                                          const sums<M> &sum)
{
    const uint32_t lane = threadIdx.x % 32, half = a.n_out / 2;
#pragma unroll
    for (uint32_t i = 0; i < (FUSED ? 2 : 4) * M; i++) {
        const uint32_t m = i % M, j = i / M, r = lane % 4 * 2 + j % 2;
        const uint32_t row = (group * M + m) * TILE_ROWS<FUSED> + j / 2 * 8 + lane / 4;
        float v = sum[m][j];
        if (r >= a.n || row >= (FUSED ? half : a.n_out))
            continue;
        if (a.bias != NULL)
            v += a.bias[row];
        if (!FUSED) {
            a.y[(size_t)r * a.y_stride + row] = a.add ? old[m][j] + v : v;
            continue;
        }
        v = sc_silu(v) * (a.bias != NULL ? sum[m][j + 2] + a.bias[half + row] : sum[m][j + 2]);
        if (a.y != NULL)
            a.y[(size_t)r * a.y_stride + row] = v;
        if (a.image != NULL)
            a.image[(size_t)r * half + row] = (uint16_t)sc_pack_bf16(v, 0.0f);
    }
}

/* A warp's part of the block's line. */
struct part {
    uint32_t first_group, line, n_steps, begin, end;
};

static __device__ inline part part_of(uint32_t n_groups, uint32_t n_steps, uint32_t block,
                                      uint32_t warp)
{
    part p;
    p.first_group = cut(n_groups, block, gridDim.x);
    p.line = (cut(n_groups, block + 1, gridDim.x) - p.first_group) * n_steps;
    p.n_steps = n_steps;
    p.begin = cut(p.line, warp, WARPS);
    p.end = cut(p.line, warp + 1, WARPS);
    return p;
}

/* The group that the warp begins and others end; false: there is none. */
static __device__ inline bool begins_shared(const part &p, uint32_t *ret_group)
{
    *ret_group = last_piece(p.end, p.n_steps);
    return p.begin < p.end && *ret_group * p.n_steps >= p.begin &&
           (*ret_group + 1) * p.n_steps > p.end;
}

/* Adds what the warps behind it found of a group. found: those of all warps. */
template <int M>
static __device__ inline void join(const part &p, uint32_t group, const float4 *found, sums<M> &sum)
{
#pragma unroll 1
    for (uint32_t other = threadIdx.x / 32 + 1; other < WARPS; other++) {
        if (cut(p.line, other, WARPS) >= (group + 1) * p.n_steps)
            break; /* so do those that have nothing to do: they are the last */
#pragma unroll
        for (int m = 0; m < M; m++) {
            const float4 v = found[(other * M + m) * 32 + threadIdx.x % 32];
            sum[m][0] += v.x;
            sum[m][1] += v.y;
            sum[m][2] += v.z;
            sum[m][3] += v.w;
        }
    }
}

template <int M, bool FUSED>
static __global__ void __maxnreg__((REGISTERS<M, FUSED>))
    few_kernel(const __grid_constant__ sc_cuda_few a, uint32_t n_groups)
{
    extern __shared__ uint4 rings[];
    constexpr uint32_t LAST = LAST_BYTES / (M * TILE_PIECES * 16);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t x_pieces = x_ring(X_STAGES<M>, a.n), x_step = a.n * STEP_PIECES;
    const uint4 *w_ring = rings + warp * W_RING + lane;
    const uint4 *xs = rings + WARPS * W_RING + warp * x_pieces + lane;
    float4 *found = (float4 *)(rings + WARPS * (W_RING + x_pieces));
    float *olds = (float *)(found + (WARPS + warp) * M * 32) + lane; /* if a.add */
    const uint32_t w_at = shared_address(w_ring), x_at = shared_address(xs);
    source from;
    sums<M> sum = {};
    uint32_t slot = 0, x_slot = 0, left, group, step, shared_group;

    from.n_pieces = a.ld / 8;
    from.n_steps = (from.n_pieces + STEP_PIECES - 1) / STEP_PIECES;
    part p = part_of(n_groups, from.n_steps, blockIdx.x, warp);
    left = p.end - p.begin;
    from.group = group = p.first_group + p.begin / p.n_steps;
    from.step = step = p.begin % p.n_steps;
    bool whole = step == 0;

    enter_group<M, FUSED>(a, from);
#pragma unroll
    for (uint32_t i = 0; i + 1 < STAGES; i++) {
        if (left > i / M)
            ask_w<M, FUSED>(a, from, i % M, w_at + i * TILE_PIECES * 16);
    }
    sc_inputs_ready();
    if (a.add && begins_shared(p, &shared_group))
        ask_old<M>(a, p.first_group + shared_group, olds);
#pragma unroll
    for (uint32_t i = 0; i + 1 < STAGES; i++) {
        if (i % M == 0 && left > i / M)
            ask_x(a, from.n_pieces, (step + i / M) % from.n_steps, x_at + i / M * x_step * 16);
        copy_commit(); /* the first group of copies holds all that was asked for of W */
    }
    if (left <= LAST)
        sc_next_may_start();
#pragma unroll 1
    for (; left > 0; left--) {
        uint4 x0 = make_uint4(0, 0, 0, 0), x1 = x0; /* of rows that there are not */
        if (left == LAST)
            sc_next_may_start();
#pragma unroll
        for (int m = 0; m < M; m++) {
            constexpr uint32_t AHEAD = STAGES - 1;
            const uint32_t before = slot > 0 ? slot - 1 : STAGES - 1;
            copy_wait<STAGES - 2>();
            const uint4 *w = w_ring + slot * TILE_PIECES;
            const uint4 g0 = w[0], h0 = w[32], g1 = w[64], h1 = w[96];
            if (m == 0 && lane < 4 * a.n) {
                x0 = xs[x_slot * x_step];
                x1 = xs[x_slot * x_step + 4 * a.n];
            }
            if (left > (m + AHEAD) / M) { /* to where what was used before this tile is */
                if ((m + AHEAD) % M == 0)
                    ask_x(a, from.n_pieces, from.step,
                          x_at + (x_slot + (m + AHEAD) / M) % X_STAGES<M> * x_step * 16);
                ask_w<M, FUSED>(a, from, (m + AHEAD) % M, w_at + before * TILE_PIECES * 16);
            }
            copy_commit(); /* also of nothing: groups are counted */
            multiply_add(sum[m], {g0.x, h0.x, g0.y, h0.y}, x0.x, x0.y);
            multiply_add(sum[m], {g0.z, h0.z, g0.w, h0.w}, x0.z, x0.w);
            multiply_add(sum[m], {g1.x, h1.x, g1.y, h1.y}, x1.x, x1.y);
            multiply_add(sum[m], {g1.z, h1.z, g1.w, h1.w}, x1.z, x1.w);
            slot = slot + 1 < STAGES ? slot + 1 : 0;
        }
        x_slot = x_slot + 1 < X_STAGES<M> ? x_slot + 1 : 0;
        step++;
        if (step < from.n_steps && (left > 1 || whole))
            continue; /* at the end with the sums of the group that others end */
        if (whole) {
            sums<M> old = {};
            if (a.add)
                load_old<M>(a, group, old);
            write_group<M, FUSED>(a, group, old, sum);
        } else {
#pragma unroll
            for (int m = 0; m < M; m++)
                found[(warp * M + m) * 32 + lane] =
                    make_float4(sum[m][0], sum[m][1], sum[m][2], sum[m][3]);
        }
#pragma unroll
        for (int m = 0; m < M; m++)
            sum[m][0] = sum[m][1] = sum[m][2] = sum[m][3] = 0.0f;
        whole = true;
        step = 0;
        group++;
    }
    __syncthreads();
    p = part_of(n_groups, from.n_steps, again(blockIdx.x), again(warp)); /* not kept meanwhile */
    if (!begins_shared(p, &shared_group))
        return;
    join<M>(p, shared_group, found, sum);
    sums<M> old = {};
    if (a.add) {
#pragma unroll
        for (int i = 0; i < 4 * M; i++) /* here since the first step */
            old[i / 4][i % 4] = olds[i * 32];
    }
    write_group<M, FUSED>(a, p.first_group + shared_group, old, sum);
}

static size_t shared_bytes(uint32_t m, uint32_t n, bool add)
{
    const uint32_t x_stages = (STAGES + m - 1) / m;
    return 16 * (size_t)WARPS * (W_RING + x_ring(x_stages, n) + (add ? 2 : 1) * m * 32);
}

/* What a block may have. */
static cudaError_t most_shared(size_t *ret_bytes)
{
    int device = 0, bytes = 0;
    cudaError_t rc = cudaGetDevice(&device);
    if (rc == cudaSuccess)
        rc = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    *ret_bytes = (size_t)bytes;
    return rc;
}

extern "C" bool sc_cuda_few_fits(void)
{
    size_t most = 0;
    if (most_shared(&most) != cudaSuccess)
        return false;
    for (uint32_t m = 1; m <= TILES_MAX; m++) {
        if (shared_bytes(m, 8, true) > most)
            return false;
    }
    return true;
}

/* The tiles of a group: the busiest block reads the least, x counted by half as it comes from the
 * second cache. */
static uint32_t best_tiles(uint32_t n_tiles, uint32_t n_sms)
{
    uint32_t best = 1;
    uint64_t least = UINT64_MAX;
    for (uint32_t m = 1; m <= TILES_MAX; m++) {
        const uint32_t n_groups = (n_tiles + m - 1) / m;
        const uint64_t cost = (uint64_t)((n_groups + n_sms - 1) / n_sms) * (16 * m + 4);
        if (cost < least) {
            least = cost;
            best = m;
        }
    }
    return best;
}

template <int M, bool FUSED>
static cudaError_t launch(const sc_cuda_few *a, uint32_t n_tiles, uint32_t n_sms,
                          cudaStream_t stream)
{
    const uint32_t n_groups = (n_tiles + M - 1) / M;
    const dim3 blocks(n_groups < n_sms ? n_groups : n_sms);
    return sc_overlap_launch(few_kernel<M, FUSED>, blocks, dim3(THREADS),
                             shared_bytes(M, a->n, a->add), stream, *a, n_groups);
}

template <bool FUSED>
static cudaError_t launch_tiles(const sc_cuda_few *a, uint32_t n_sms, cudaStream_t stream)
{
    const uint32_t n_tiles = ((FUSED ? a->n_out / 2 : a->n_out) - 1) / TILE_ROWS<FUSED> + 1;
    switch (best_tiles(n_tiles, n_sms)) {
    case 1:
        return launch<1, FUSED>(a, n_tiles, n_sms, stream);
    case 2:
        return launch<2, FUSED>(a, n_tiles, n_sms, stream);
    default:
        return launch<3, FUSED>(a, n_tiles, n_sms, stream);
    }
}

extern "C" cudaError_t sc_cuda_launch_few(const struct sc_cuda_few *a, uint32_t n_sms,
                                          cudaStream_t stream)
{
    if (a->n == 0 || a->n > 8 || a->ld % 8 != 0 || a->n_out == 0 || (a->fused && a->n_out % 2 != 0))
        return cudaErrorInvalidValue;
    return a->fused ? launch_tiles<true>(a, n_sms, stream) : launch_tiles<false>(a, n_sms, stream);
}

template <int M> static cudaError_t allow_shared(void)
{
    const cudaFuncAttribute attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    const int bytes = (int)shared_bytes(M, 8, true);
    cudaError_t rc = cudaFuncSetAttribute(few_kernel<M, false>, attribute, bytes);
    return rc == cudaSuccess ? cudaFuncSetAttribute(few_kernel<M, true>, attribute, bytes) : rc;
}

extern "C" cudaError_t sc_cuda_few_init(void)
{
    if (!sc_cuda_few_fits())
        return cudaSuccess;
    cudaError_t rc = allow_shared<1>();
    if (rc == cudaSuccess)
        rc = allow_shared<2>();
    return rc == cudaSuccess ? allow_shared<3>() : rc;
}
