/* cuda/kernels_gemv.cu - products of up to four rows.
 *
 * Bound by reading the weights once. To keep the memory busy a lane always has IN_FLIGHT 16-byte
 * pieces of each of its two rows of W on their way: a piece is asked for again as soon as it was
 * used, also across the barriers of the staging of x. With two blocks on a multiprocessor that is
 * 64 KiB in flight. A warp computes two rows of W, so x, kept in shared memory as f32, is read half
 * as often as W. Where the rows of W are too few to fill the device, `split` warps share a pair of
 * rows and their sums are added in order. Sums are f32: a lane's products in rising order, then a
 * tree over the lanes. The split depends on the shape and on n, nothing else.
 *
 * x in shared memory is permuted, so that the lanes' 16-byte reads touch different banks: of the
 * ELEMENTS floats that belong to a lane's piece, quarter q of all lanes lies together. */
#include "cuda/kernels_gemv.h"

#include "cuda/rows.cuh"

#define THREADS   256
#define WARPS     (THREADS / 32)
#define IN_FLIGHT 4
#define X_BYTES   (64u << 10) /* of x in shared memory at a time */

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

/* Weights are read once: they leave no trace in the first-level cache. Zeros where !in. */
template <int OFFSET> static __device__ inline uint4 load_piece(const uint4 *p, bool in)
{
    uint4 v = make_uint4(0, 0, 0, 0);
    asm volatile("{\n"
                 ".reg .pred in;\n"
                 "setp.ne.u32 in, %5, 0;\n"
                 "@in ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4 + %6];\n"
                 "}\n"
                 : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
                 : "l"(p), "r"((uint32_t)in), "n"(OFFSET * (int)sizeof(uint4)));
    return v;
}

/* 16 bytes into shared memory without passing through registers; zeros behind the first `bytes`. */
static __device__ inline void copy_async(float4 *to, const float *from, uint32_t bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
                 :
                 : "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes)
                 : "memory");
}

static __device__ inline float4 load_any(const float *from, uint32_t n)
{
    return make_float4(n > 0 ? from[0] : 0.0f, n > 1 ? from[1] : 0.0f, n > 2 ? from[2] : 0.0f,
                       n > 3 ? from[3] : 0.0f);
}

/* Steps first .. end of all rows of x, permuted; zeros from n_in on. A step is what a warp
 * multiplies at a time: one piece a lane. wide: rows are 16-byte aligned. */
template <int ELEMENTS, int N>
static __device__ inline void stage_x(const sc_cuda_gemv &a, bool wide, uint32_t first,
                                      uint32_t end, float4 *xs)
{
    constexpr uint32_t STEP = 8 * ELEMENTS, QUARTERS = ELEMENTS / 4;
#pragma unroll 1
    for (uint32_t r = 0; r < N; r++) {
        /* three rows: the kernel of four, which computes the last twice */
        const float *x = a.x + (size_t)min(r, a.n - 1) * a.x_stride;
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < (end - first) * STEP; i += THREADS) {
            const uint32_t k = (first * STEP + i) * 4;
            const uint32_t n = k < a.n_in ? min(a.n_in - k, 4) : 0; /* of the four that there are */
            const float *from = x + (n > 0 ? k : 0);
            float4 *to = xs + (i / STEP * N + r) * STEP + i % QUARTERS * 32 + i % STEP / QUARTERS;
            if (wide)
                copy_async(to, from, 4 * n);
            else
                *to = load_any(from, n);
        }
    }
    asm volatile("cp.async.wait_all;\n" ::: "memory");
}

template <class W, int N>
static __device__ inline void multiply(const uint4 &wa, const uint4 &wb, const float4 *x,
                                       float (&sum)[2][N])
{
#pragma unroll
    for (int q = 0; q < W::ELEMENTS / 4; q++) {
        const float4 a = W::quarter(wa, q), b = W::quarter(wb, q);
#pragma unroll
        for (int r = 0; r < N; r++) {
            const float4 v = x[r * 8 * W::ELEMENTS + q * 32];
            sum[0][r] = fmaf(a.w, v.w, fmaf(a.z, v.z, fmaf(a.y, v.y, fmaf(a.x, v.x, sum[0][r]))));
            sum[1][r] = fmaf(b.w, v.w, fmaf(b.z, v.z, fmaf(b.y, v.y, fmaf(b.x, v.x, sum[1][r]))));
        }
    }
}

/* Two rows of W from a lane's next piece on; left: pieces from there to the rows' end. */
struct source {
    const uint4 *a, *b;
    int left;
};

struct pieces {
    uint4 a[IN_FLIGHT], b[IN_FLIGHT];
};

template <int U> static __device__ inline void refill(const source &from, pieces &p)
{
    p.a[U] = load_piece<U * 32>(from.a, from.left > U * 32);
    p.b[U] = load_piece<U * 32>(from.b, from.left > U * 32);
}

template <int U = 0> static __device__ inline void fill(const source &from, pieces &p)
{
    refill<U>(from, p);
    if constexpr (U + 1 < IN_FLIGHT)
        fill<U + 1>(from, p);
}

/* IN_FLIGHT steps; each piece that was used makes room for one of `next`. */
template <class W, int N, int U = 0>
static __device__ inline void run_steps(pieces &p, const source &next, const float4 *x,
                                        float (&sum)[2][N])
{
    multiply<W, N>(p.a[U], p.b[U], x + U * N * 8 * W::ELEMENTS, sum);
    refill<U>(next, p);
    if constexpr (U + 1 < IN_FLIGHT)
        run_steps<W, N, U + 1>(p, next, x, sum);
}

static __device__ inline void advance(source &s, uint32_t n_pieces)
{
    s.a += n_pieces;
    s.b += n_pieces;
    s.left -= (int)n_pieces;
}

static __device__ inline float finish(const sc_cuda_gemv &a, uint32_t row, float sum)
{
    if (a.scale != NULL)
        sum *= a.scale[row];
    return a.bias != NULL ? sum + a.bias[row] : sum;
}

/* Warp p of the `split` that share a pair of rows takes steps IN_FLIGHT * p ..; then again
 * IN_FLIGHT * split further on. chunk: steps of x staged at a time, a multiple of that unless it is
 * all of them. */
template <class W, int N, bool FUSED>
static __global__ void __launch_bounds__(THREADS, N == 1 ? 3 : 2)
    gemv_kernel(const __grid_constant__ sc_cuda_gemv a, bool wide, uint32_t split, uint32_t chunk)
{
    constexpr uint32_t STEP = 8 * W::ELEMENTS * N; /* float4s of x */
    extern __shared__ float4 xs[];
    __shared__ float sums[WARPS][2 * N];
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = warp % split;
    const uint32_t group = blockIdx.x * (WARPS / split) + warp / split;
    const uint32_t n_pieces = a.ld / W::ELEMENTS, n_steps = (n_pieces + 31) / 32;
    const uint32_t all_steps = (n_steps + IN_FLIGHT - 1) / IN_FLIGHT * IN_FLIGHT;
    const uint32_t row_a = FUSED ? group : 2 * group;
    const uint32_t row_b = FUSED ? group + a.n_out / 2 : row_a + 1;
    const uint32_t last = a.n_out - 1; /* warps beyond the rows read it and write nothing */
    const uint32_t begin = part * IN_FLIGHT * 32 + lane, stride = IN_FLIGHT * split * 32;
    source from = {(const uint4 *)a.w + (size_t)min(row_a, last) * n_pieces + begin,
                   (const uint4 *)a.w + (size_t)min(row_b, last) * n_pieces + begin,
                   (int)n_pieces - (int)begin};
    pieces p;
    float sum[2][N] = {};

    fill(from, p);
#pragma unroll 1
    for (uint32_t first = 0; first < all_steps; first += chunk) {
        const uint32_t end = min(first + chunk, all_steps);
        if (first > 0)
            __syncthreads(); /* all are past the last chunk */
        stage_x<W::ELEMENTS, N>(a, wide, first, end, xs);
        __syncthreads();
#pragma unroll 1
        for (uint32_t s = first + part * IN_FLIGHT; s < end; s += IN_FLIGHT * split) {
            advance(from, stride);
            run_steps<W, N>(p, from, xs + (s - first) * STEP + lane, sum);
        }
    }
#pragma unroll
    for (int r = 0; r < N; r++) {
        sum[0][r] = sc_warp_sum(sum[0][r]);
        sum[1][r] = sc_warp_sum(sum[1][r]);
    }
    if (split > 1) {
#pragma unroll
        for (int r = 0; r < N; r++) {
            if (lane == 0) {
                sums[warp][2 * r] = sum[0][r];
                sums[warp][2 * r + 1] = sum[1][r];
            }
        }
        __syncthreads();
        if (part != 0)
            return;
#pragma unroll 1
        for (uint32_t other = 1; other < split; other++) {
#pragma unroll
            for (int r = 0; r < N; r++) {
                sum[0][r] += sums[warp + other][2 * r];
                sum[1][r] += sums[warp + other][2 * r + 1];
            }
        }
    }
#pragma unroll
    for (int r = 0; r < N; r++) {
        float *y = a.y + (size_t)r * a.y_stride;
        if (lane != r || r >= (int)a.n || row_a > last || row_b - (FUSED ? 0 : 1) > last)
            continue;
        const float va = finish(a, row_a, sum[0][r]);
        if (FUSED) {
            y[row_a] = sc_silu(va) * finish(a, row_b, sum[1][r]);
            continue;
        }
        y[row_a] = va;
        if (row_b <= last)
            y[row_b] = finish(a, row_b, sum[1][r]);
    }
}

/* How many warps share two rows, and how much of x is staged at a time. */
struct plan {
    uint32_t blocks, split, chunk, bytes;
};

/* rows: of x in shared memory. */
static plan make_plan(const sc_cuda_gemv *a, uint32_t elements, uint32_t rows, uint32_t n_sms)
{
    const uint32_t pairs = (a->n_out + 1) / 2, step_bytes = 8 * elements * 16;
    const uint32_t n_steps = (a->ld / elements + 31) / 32;
    const uint32_t all_steps = (n_steps + IN_FLIGHT - 1) / IN_FLIGHT * IN_FLIGHT;
    const uint32_t fit = X_BYTES / (step_bytes * rows);
    plan p = {};

    p.split = 1;
    p.blocks = (pairs + WARPS - 1) / WARPS;
    while (p.split < WARPS && 2 * p.blocks < 3 * n_sms && 2 * p.split * IN_FLIGHT <= fit &&
           2 * p.split * IN_FLIGHT <= all_steps) {
        p.split *= 2;
        p.blocks = (pairs + WARPS / p.split - 1) / (WARPS / p.split);
    }
    p.chunk = fit / (IN_FLIGHT * p.split) * (IN_FLIGHT * p.split);
    if (p.chunk > all_steps)
        p.chunk = all_steps;
    p.bytes = p.chunk * step_bytes * rows;
    return p;
}

template <class W, int N>
static void launch(const sc_cuda_gemv *a, uint32_t n_sms, cudaStream_t stream)
{
    const plan p = make_plan(a, W::ELEMENTS, N, n_sms);
    const bool wide = (uintptr_t)a->x % 16 == 0 && (N == 1 || a->x_stride % 4 == 0);
    if (a->fused)
        gemv_kernel<W, N, true><<<p.blocks, THREADS, p.bytes, stream>>>(*a, wide, p.split, p.chunk);
    else
        gemv_kernel<W, N, false>
            <<<p.blocks, THREADS, p.bytes, stream>>>(*a, wide, p.split, p.chunk);
}

template <class W>
static cudaError_t launch_rows(const sc_cuda_gemv *a, uint32_t n_sms, cudaStream_t stream)
{
    switch (a->n) {
    case 1:
        launch<W, 1>(a, n_sms, stream);
        break;
    case 2:
        launch<W, 2>(a, n_sms, stream);
        break;
    case 3:
    case 4:
        launch<W, 4>(a, n_sms, stream);
        break;
    default:
        return cudaErrorInvalidValue;
    }
    return cudaGetLastError();
}

extern "C" cudaError_t sc_cuda_launch_gemv(const struct sc_cuda_gemv *a, uint32_t n_sms,
                                           cudaStream_t stream)
{
    switch (a->store) {
    case SC_DTYPE_BF16:
        return launch_rows<weights_bf16>(a, n_sms, stream);
    case SC_DTYPE_F32:
        return launch_rows<weights_f32>(a, n_sms, stream);
    case SC_DTYPE_I8:
        return launch_rows<weights_i8>(a, n_sms, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

template <class W, int N> static cudaError_t allow_shared(void)
{
    const cudaFuncAttribute attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    cudaError_t rc = cudaFuncSetAttribute(gemv_kernel<W, N, false>, attribute, X_BYTES);
    return rc != cudaSuccess ? rc
                             : cudaFuncSetAttribute(gemv_kernel<W, N, true>, attribute, X_BYTES);
}

template <class W> static cudaError_t allow_rows(void)
{
    cudaError_t rc = allow_shared<W, 1>();
    if (rc == cudaSuccess)
        rc = allow_shared<W, 2>();
    return rc == cudaSuccess ? allow_shared<W, 4>() : rc;
}

extern "C" cudaError_t sc_cuda_gemv_init(void)
{
    cudaError_t rc = allow_rows<weights_bf16>();
    if (rc == cudaSuccess)
        rc = allow_rows<weights_f32>();
    return rc == cudaSuccess ? allow_rows<weights_i8>() : rc;
}
