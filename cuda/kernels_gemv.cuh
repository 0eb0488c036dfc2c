/* cuda/kernels_gemv.cuh - the products of up to four rows: how weights are widened, and how the
 * rows come into shared memory, normed on their way if that is wished. Of kernels_gemv.cu alone.
 *
 * x in shared memory is f32 and permuted, so that the lanes' 16-byte reads touch different banks:
 * of the ELEMENTS floats that belong to a lane's piece, quarter q of all lanes lies together.
 *
 * A norm before the product costs no kernel of its own: every block finds the rows' mean squares
 * while it stages them, and the sums are scaled at the end. */
#ifndef SC_CUDA_KERNELS_GEMV_CUH
#define SC_CUDA_KERNELS_GEMV_CUH

#include "cuda/kernels_gemv.h"
#include "cuda/overlap.cuh"
#include "cuda/ptx.cuh"
#include "cuda/rows.cuh"

#define THREADS    512
#define WARPS      (THREADS / 32)
#define STAGES     4
#define STEP_BYTES (2u * 32 * 16) /* of weights, for one warp */
#define RING_BYTES (WARPS * STAGES * STEP_BYTES)

struct weights_bf16 {
    static constexpr int ELEMENTS = 8; /* of a 16-byte piece */
    /* Elements 4 q .. 4 q + 3. */
    static __device__ inline float4 quarter(const uint4 &p, int q)
    {
        const uint32_t a = q == 0 ? p.x : p.z, b = q == 0 ? p.y : p.w;
        return make_float4(sc_low_bf16(a), sc_high_bf16(a), sc_low_bf16(b), sc_high_bf16(b));
    }
};

struct weights_f32 {
    static constexpr int ELEMENTS = 4;
    static __device__ inline float4 quarter(const uint4 &p, int)
    {
        return make_float4(__uint_as_float(p.x), __uint_as_float(p.y), __uint_as_float(p.z),
                           __uint_as_float(p.w));
    }
};

struct weights_i8 {
    static constexpr int ELEMENTS = 16;
    /* v + 128 as the last bits of 2^23: exact, and faster than a conversion. */
    static __device__ inline float widen(uint32_t biased, uint32_t select)
    {
        return __uint_as_float(__byte_perm(biased, 0x4b000000u, select)) - 8388736.0f;
    }
    static __device__ inline float4 quarter(const uint4 &p, int q)
    {
        const uint32_t v = (q == 0 ? p.x : q == 1 ? p.y : q == 2 ? p.z : p.w) ^ 0x80808080u;
        return make_float4(widen(v, 0x7650), widen(v, 0x7651), widen(v, 0x7652), widen(v, 0x7653));
    }
};

/* 16 bytes into shared memory without passing through registers; zeros where !in. */
static __device__ inline void copy_async(uint4 *to, const uint4 *from, bool in)
{
    copy_async(shared_address(to), from, in ? 16 : 0);
}

static __device__ inline float4 load_any(const float *from, uint32_t n)
{
    return make_float4(n > 0 ? from[0] : 0.0f, n > 1 ? from[1] : 0.0f, n > 2 ? from[2] : 0.0f,
                       n > 3 ? from[3] : 0.0f);
}

/* Elements k .. k + 3 of a row of x; zeros from n_in on. wide: rows are 16-byte aligned, n_in is a
 * multiple of four. */
static __device__ inline float4 load_x(const float *x, uint32_t k, uint32_t n_in, bool wide)
{
    if (wide)
        return k < n_in ? *(const float4 *)(x + k) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    return k < n_in ? load_any(x + k, n_in - k) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

/* What warps keep in shared memory and not in registers, of which 56 a thread leave room for the
 * kernels that come next (see sc_overlap_launch). */
template <int N> struct kept {
    float squares[N][WARPS]; /* parts of each row's sum of x^2 */
    float factor[WARPS][N];  /* of the rows' sums */
    float old[WARPS][2 * N]; /* what the joined pair is added to */
    /* A warp's sums of a pair that it shares: [0] of one that a warp before it began, [1] of one
     * that it began. */
    float of[WARPS][2][2 * N];
};

/* Where float4 i of a row is: in row 0 of N. */
template <int ELEMENTS, int N> static __device__ inline uint32_t place_of(uint32_t i)
{
    constexpr uint32_t STEP = 8 * ELEMENTS, QUARTERS = ELEMENTS / 4;
    return i / STEP * N * STEP + i % QUARTERS * 32 + i % STEP / QUARTERS;
}

/* A row of x, permuted; times what lies at norm, in the same order, if that is not NULL: then
 * returns the thread's part of the sum of x^2. Loads go out four at a time: their latency is what
 * this takes. */
template <int ELEMENTS, int N, bool WIDE>
static __device__ inline float stage_row(const float *x, uint32_t n_in, uint32_t n_pieces,
                                         const float4 *norm, float4 *xs)
{
    constexpr uint32_t TURN = 4;
    float squares = 0.0f;
#pragma unroll 1
    for (uint32_t first = threadIdx.x; first < n_pieces; first += TURN * THREADS) {
        float4 v[TURN];
#pragma unroll
        for (uint32_t t = 0; t < TURN; t++)
            v[t] = load_x(x, 4 * (first + t * THREADS), n_in, WIDE);
#pragma unroll
        for (uint32_t t = 0; t < TURN; t++) {
            const uint32_t i = first + t * THREADS, at = place_of<ELEMENTS, N>(i);
            if (i >= n_pieces)
                break;
            if (norm != NULL) {
                const float4 w = norm[at];
                squares += v[t].x * v[t].x + v[t].y * v[t].y + v[t].z * v[t].z + v[t].w * v[t].w;
                v[t] = make_float4(v[t].x * w.x, v[t].y * w.y, v[t].z * w.z, v[t].w * w.w);
            }
            xs[at] = v[t];
        }
    }
    return squares;
}

template <int ELEMENTS, int N>
static __device__ inline float stage_any(const float *x, uint32_t n_in, bool wide,
                                         uint32_t n_pieces, const float4 *norm, float4 *xs)
{
    return wide ? stage_row<ELEMENTS, N, true>(x, n_in, n_pieces, norm, xs)
                : stage_row<ELEMENTS, N, false>(x, n_in, n_pieces, norm, xs);
}

/* The norm's weights, which no kernel writes, are in row 0 already, put there by the threads that
 * read them: so row 0 is the last. */
template <int ELEMENTS, int N>
static __device__ inline void stage_x(const sc_cuda_gemv &a, bool wide, uint32_t n_steps,
                                      float4 *xs, kept<N> &k)
{
    constexpr uint32_t STEP = 8 * ELEMENTS; /* float4s of a row in a step */
#pragma unroll 1
    for (int r = N - 1; r >= 0; r--) {
        /* three rows: the kernel of four, which computes the last twice */
        const float *x = a.x + (size_t)min((uint32_t)r, a.n - 1) * a.x_stride;
        float sum = stage_any<ELEMENTS, N>(x, a.n_in, wide, n_steps * STEP,
                                           a.norm != NULL ? xs : NULL, xs + r * STEP);
        if (a.norm == NULL)
            continue;
        sum = sc_warp_sum(sum);
        if (threadIdx.x % 32 == 0)
            k.squares[r][threadIdx.x / 32] = sum;
    }
}

/* Behind a barrier. Every warp for itself. */
template <int N> static __device__ inline void find_factors(const sc_cuda_gemv &a, kept<N> &k)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
    for (int r = 0; r < N; r++) {
        float factor = 1.0f;
        if (a.norm != NULL)
            factor =
                1.0f / sqrtf(sc_warp_sum(lane < WARPS ? k.squares[r][lane] : 0.0f) / (float)a.n_in +
                             a.eps);
        if (lane == 0)
            k.factor[warp][r] = factor;
    }
    __syncwarp();
}

#endif
