/* cuda/kernels_rows.cu - operations on rows of activations: norm, swiglu, embedding, gathering and
 * rounding to bf16.
 *
 * All are bound by memory. A row's result depends on its width alone, never on the number of rows.
 * Rows whose pieces are 16-byte aligned go in 16-byte accesses. References: cpu/rows.c. */
#include "cuda/kernels_rows.h"

#include <cuda_fp16.h>

#include "cuda/overlap.cuh"
#include "cuda/rows.cuh"

#define NORM_THREADS 512
#define ROW_THREADS  256

static bool aligned16(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

/* ---- norm: one block a row ---- */

/* The sum over the block, the same in every thread: a tree in each warp, then one over the warps.
 */
static __device__ float block_sum(float x)
{
    __shared__ float sums[32];
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    x = sc_warp_sum(x);
    if (lane == 0)
        sums[warp] = x;
    __syncthreads();
    return sc_warp_sum(lane < blockDim.x / 32 ? sums[lane] : 0.0f);
}

/* PIECES 16-byte pieces a thread, kept in registers between the sum and the scaling. */
template <int PIECES> __global__ void __launch_bounds__(NORM_THREADS) norm_kernel(sc_cuda_norm a)
{
    const size_t at = (size_t)blockIdx.x * a.dim;
    const uint32_t n = a.dim / 4;
    float4 *resid = (float4 *)(a.resid + at);
    const float4 *delta = (const float4 *)(a.delta + at);
    const float4 *w = (const float4 *)a.w;
    float4 x[PIECES], scales[PIECES];
    float squares = 0.0f;
    const bool wanted = a.y != NULL || a.image != NULL;

    sc_next_may_start();
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        const uint32_t i = threadIdx.x + p * blockDim.x;
        scales[p] = wanted && i < n ? w[i] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    sc_inputs_ready();
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        const uint32_t i = threadIdx.x + p * blockDim.x;
        x[p] = i < n ? resid[i] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    if (a.delta != NULL) {
        float4 d[PIECES]; /* all at once: a store in between would hold up the next load */
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            const uint32_t i = threadIdx.x + p * blockDim.x;
            d[p] = i < n ? delta[i] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            const uint32_t i = threadIdx.x + p * blockDim.x;
            x[p] = make_float4(x[p].x + d[p].x, x[p].y + d[p].y, x[p].z + d[p].z, x[p].w + d[p].w);
            if (i < n)
                resid[i] = x[p];
        }
    }
    if (!wanted)
        return;
#pragma unroll
    for (int p = 0; p < PIECES; p++)
        squares += x[p].x * x[p].x + x[p].y * x[p].y + x[p].z * x[p].z + x[p].w * x[p].w;
    const float scale = 1.0f / sqrtf(block_sum(squares) / (float)a.dim + a.eps);
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        const uint32_t i = threadIdx.x + p * blockDim.x;
        if (i >= n)
            break;
        const float4 v = scales[p];
        const float4 y = make_float4(x[p].x * scale * v.x, x[p].y * scale * v.y,
                                     x[p].z * scale * v.z, x[p].w * scale * v.w);
        if (a.y != NULL)
            ((float4 *)(a.y + at))[i] = y;
        if (a.image != NULL)
            ((uint2 *)(a.image + at))[i] =
                make_uint2(sc_pack_bf16(y.x, y.y), sc_pack_bf16(y.z, y.w));
    }
}

/* Rows of any width and alignment. A thread reads again only what it wrote itself. */
static __global__ void __launch_bounds__(NORM_THREADS) norm_any_kernel(sc_cuda_norm a)
{
    const size_t at = (size_t)blockIdx.x * a.dim;
    float squares = 0.0f;

    sc_next_may_start();
    sc_inputs_ready();
    for (uint32_t i = threadIdx.x; i < a.dim; i += blockDim.x) {
        float x = a.resid[at + i];
        if (a.delta != NULL) {
            x += a.delta[at + i];
            a.resid[at + i] = x;
        }
        squares += x * x;
    }
    if (a.y == NULL && a.image == NULL)
        return;
    const float scale = 1.0f / sqrtf(block_sum(squares) / (float)a.dim + a.eps);
    for (uint32_t i = threadIdx.x; i < a.dim; i += blockDim.x) {
        const float y = a.resid[at + i] * scale * a.w[i];
        if (a.y != NULL)
            a.y[at + i] = y;
        if (a.image != NULL)
            a.image[at + i] = __bfloat16_as_ushort(__float2bfloat16_rn(y));
    }
}

extern "C" cudaError_t sc_cuda_launch_norm(const struct sc_cuda_norm *a, cudaStream_t stream)
{
    const uint32_t wanted = (a->dim / 4 + 31) / 32 * 32;
    const uint32_t threads = wanted < NORM_THREADS ? wanted : NORM_THREADS;

    if (a->dim % 4 != 0 || a->dim > 8 * 4 * NORM_THREADS || !aligned16(a->resid) ||
        !aligned16(a->delta) || !aligned16(a->w) || !aligned16(a->y))
        return sc_overlap_launch(norm_any_kernel, a->n_rows, NORM_THREADS, 0, stream, *a);
    if (a->dim <= 4 * NORM_THREADS)
        return sc_overlap_launch(norm_kernel<1>, a->n_rows, threads, 0, stream, *a);
    if (a->dim <= 2 * 4 * NORM_THREADS)
        return sc_overlap_launch(norm_kernel<2>, a->n_rows, threads, 0, stream, *a);
    if (a->dim <= 4 * 4 * NORM_THREADS)
        return sc_overlap_launch(norm_kernel<4>, a->n_rows, threads, 0, stream, *a);
    return sc_overlap_launch(norm_kernel<8>, a->n_rows, threads, 0, stream, *a);
}

/* ---- swiglu: blocks of (row, columns) ---- */

/* A thread's columns, in 16-byte accesses but for single ones, so that more is on its way. */
static __device__ inline void load(const float *p, float (&x)[4])
{
    const float4 v = *(const float4 *)p;
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}

static __device__ inline void load(const uint16_t *p, float (&x)[8])
{
    const uint4 v = *(const uint4 *)p;
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = sc_low_bf16(words[i]);
        x[2 * i + 1] = sc_high_bf16(words[i]);
    }
}

static __device__ inline void load(const float *p, float (&x)[1])
{
    x[0] = *p;
}

static __device__ inline void load(const uint16_t *p, float (&x)[1])
{
    x[0] = sc_low_bf16(*p);
}

template <int WIDTH> static __device__ inline void store(float *y, const float (&v)[WIDTH])
{
    if constexpr (WIDTH == 1) {
        *y = v[0];
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; i += 4)
            *(float4 *)(y + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
    }
}

template <int WIDTH> static __device__ inline void store(uint16_t *image, const float (&v)[WIDTH])
{
    if constexpr (WIDTH == 1)
        *image = __bfloat16_as_ushort(__float2bfloat16_rn(v[0]));
    else if constexpr (WIDTH == 4)
        *(uint2 *)image = make_uint2(sc_pack_bf16(v[0], v[1]), sc_pack_bf16(v[2], v[3]));
    else
        *(uint4 *)image = make_uint4(sc_pack_bf16(v[0], v[1]), sc_pack_bf16(v[2], v[3]),
                                     sc_pack_bf16(v[4], v[5]), sc_pack_bf16(v[6], v[7]));
}

template <typename T, int WIDTH>
static __global__ void __launch_bounds__(ROW_THREADS)
    swiglu_kernel(const T *gate_up, float *y, uint16_t *image, uint32_t ffn)
{
    const size_t row = blockIdx.x;
    const uint32_t i = (blockIdx.y * ROW_THREADS + threadIdx.x) * WIDTH;
    const T *gate = gate_up + row * 2 * ffn + i;
    float g[WIDTH], u[WIDTH];

    sc_next_may_start();
    sc_inputs_ready();
    if (i >= ffn)
        return;
    load(gate, g);
    load(gate + ffn, u);
#pragma unroll
    for (int k = 0; k < WIDTH; k++)
        g[k] = sc_silu(g[k]) * u[k];
    if (y != NULL)
        store<WIDTH>(y + row * ffn + i, g);
    if (image != NULL)
        store<WIDTH>(image + row * ffn + i, g);
}

template <typename T>
static cudaError_t launch_swiglu(const T *gate_up, float *y, uint16_t *image, uint32_t n,
                                 uint32_t ffn, cudaStream_t stream)
{
    constexpr int WIDE = 16 / sizeof(T);
    const bool wide = ffn % WIDE == 0 && aligned16(gate_up) && aligned16(y) && aligned16(image);
    const uint32_t columns = wide ? ffn / WIDE : ffn;
    const dim3 grid(n, (columns + ROW_THREADS - 1) / ROW_THREADS);
    if (wide)
        return sc_overlap_launch(swiglu_kernel<T, WIDE>, grid, ROW_THREADS, 0, stream, gate_up, y,
                                 image, ffn);
    return sc_overlap_launch(swiglu_kernel<T, 1>, grid, ROW_THREADS, 0, stream, gate_up, y, image,
                             ffn);
}

extern "C" cudaError_t sc_cuda_launch_swiglu(const void *gate_up, enum sc_dtype dtype, float *y,
                                             uint16_t *image, uint32_t n, uint32_t ffn,
                                             cudaStream_t stream)
{
    if (dtype == SC_DTYPE_BF16)
        return launch_swiglu((const uint16_t *)gate_up, y, image, n, ffn, stream);
    return launch_swiglu((const float *)gate_up, y, image, n, ffn, stream);
}

/* ---- embedding and gathering: one block a row ---- */

static __device__ inline float as_float(float v)
{
    return v;
}

static __device__ inline float as_float(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}

static __device__ inline float as_float(__half v)
{
    return __half2float(v);
}

template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS)
    embed_kernel(const T *table, uint64_t row0, uint64_t n_rows, uint32_t dim, const int32_t *ids,
                 float *out)
{
    sc_next_may_start();
    sc_inputs_ready();
    const int32_t id = ids[blockIdx.x];
    const uint64_t row = (uint64_t)(int64_t)id - row0; /* wraps when before row0 */
    float *to = out + (size_t)blockIdx.x * dim;

    if (id < 0 || row >= n_rows) {
        for (uint32_t i = threadIdx.x; i < dim; i += ROW_THREADS)
            to[i] = 0.0f;
        return;
    }
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < dim; i += ROW_THREADS)
        to[i] = as_float(table[row * dim + i]);
}

extern "C" cudaError_t sc_cuda_launch_embed(const void *table, enum sc_dtype dtype, uint64_t row0,
                                            uint64_t n_rows, uint32_t dim, const int32_t *ids,
                                            uint32_t n, float *out, cudaStream_t stream)
{
    switch (dtype) {
    case SC_DTYPE_F32:
        return sc_overlap_launch(embed_kernel<float>, n, ROW_THREADS, 0, stream,
                                 (const float *)table, row0, n_rows, dim, ids, out);
    case SC_DTYPE_BF16:
        return sc_overlap_launch(embed_kernel<__nv_bfloat16>, n, ROW_THREADS, 0, stream,
                                 (const __nv_bfloat16 *)table, row0, n_rows, dim, ids, out);
        break;
    case SC_DTYPE_F16:
        return sc_overlap_launch(embed_kernel<__half>, n, ROW_THREADS, 0, stream,
                                 (const __half *)table, row0, n_rows, dim, ids, out);
    default:
        return cudaErrorInvalidValue;
    }
}

template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS)
    gather_kernel(const T *src, const uint32_t *rows, uint32_t width, T *dst)
{
    sc_next_may_start();
    sc_inputs_ready();
    const T *from = src + (size_t)rows[blockIdx.x] * width;
    T *to = dst + (size_t)blockIdx.x * width;
    for (uint32_t i = threadIdx.x; i < width; i += ROW_THREADS)
        to[i] = from[i];
}

extern "C" cudaError_t sc_cuda_launch_gather(const float *src, const uint32_t *rows, uint32_t n,
                                             uint32_t dim, float *dst, cudaStream_t stream)
{
    if (dim % 4 == 0 && aligned16(src) && aligned16(dst))
        return sc_overlap_launch(gather_kernel<float4>, n, ROW_THREADS, 0, stream,
                                 (const float4 *)src, rows, dim / 4, (float4 *)dst);
    return sc_overlap_launch(gather_kernel<float>, n, ROW_THREADS, 0, stream, src, rows, dim, dst);
}

/* ---- rounding: eight elements a thread ---- */

/* The bf16 nearest to x; *rest is what is missing, exactly. Infinities have no rest. */
static __device__ inline float take_bf16(float x, float *rest)
{
    const float part = __bfloat162float(__float2bfloat16_rn(x));
    *rest = isinf(part) ? 0.0f : x - part;
    return part;
}

static __device__ inline void store8(uint16_t *to, const float *v)
{
    *(uint4 *)to = make_uint4(sc_pack_bf16(v[0], v[1]), sc_pack_bf16(v[2], v[3]),
                              sc_pack_bf16(v[4], v[5]), sc_pack_bf16(v[6], v[7]));
}

template <bool WIDE, int N_PARTS>
static __global__ void __launch_bounds__(ROW_THREADS)
    round_kernel(const float *x, uint32_t x_stride, uint32_t n_in, uint32_t k, size_t part_elements,
                 uint16_t *out)
{
    const size_t row = blockIdx.x;
    const uint32_t i = (blockIdx.y * ROW_THREADS + threadIdx.x) * 8;
    const float *from = x + row * x_stride + i;
    float v[8], part[8];

    sc_next_may_start();
    sc_inputs_ready();
    if (i >= k)
        return;
    if (WIDE && i + 8 <= n_in) {
        *(float4 *)v = *(const float4 *)from;
        *(float4 *)(v + 4) = *(const float4 *)(from + 4);
    } else {
#pragma unroll
        for (uint32_t j = 0; j < 8; j++)
            v[j] = i + j < n_in ? from[j] : 0.0f;
    }
    out += row * k + i;
#pragma unroll
    for (int p = 0; p < N_PARTS; p++) {
#pragma unroll
        for (int j = 0; j < 8; j++)
            part[j] = take_bf16(v[j], &v[j]);
        store8(out + p * part_elements, part);
    }
}

extern "C" cudaError_t sc_cuda_launch_round(const float *x, uint32_t x_stride, uint32_t n,
                                            uint32_t n_in, uint32_t k, uint32_t n_parts,
                                            size_t part_elements, uint16_t *out,
                                            cudaStream_t stream)
{
    const dim3 grid(n, (k / 8 + ROW_THREADS - 1) / ROW_THREADS);
    const bool wide = aligned16(x) && (n == 1 || x_stride % 4 == 0);
    if (n_parts == 3 && wide)
        return sc_overlap_launch(round_kernel<true, 3>, grid, ROW_THREADS, 0, stream, x, x_stride,
                                 n_in, k, part_elements, out);
    if (n_parts == 3)
        return sc_overlap_launch(round_kernel<false, 3>, grid, ROW_THREADS, 0, stream, x, x_stride,
                                 n_in, k, part_elements, out);
    if (wide)
        return sc_overlap_launch(round_kernel<true, 1>, grid, ROW_THREADS, 0, stream, x, x_stride,
                                 n_in, k, part_elements, out);
    return sc_overlap_launch(round_kernel<false, 1>, grid, ROW_THREADS, 0, stream, x, x_stride,
                             n_in, k, part_elements, out);
}
