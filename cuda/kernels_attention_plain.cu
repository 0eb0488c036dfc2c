/* cuda/kernels_attention_plain.cu - attention in f32 arithmetic, any even head_dim up to 256, pools
 * of f32, bf16 or int8.
 *
 * For exact activations, for heads that the tensor-core kernels do not take, and as their
 * reference. A block of eight warps goes through the pages that its rows see; each page becomes f32
 * in shared memory. A warp has R rows: for scores a lane is an entry, for sums of values a
 * dimension. What a row does not see is never read into its sums; the order of a row's sums is that
 * of its entries.
 */
#include "cuda/kernels_attention.cuh"

#define WARPS   8
#define THREADS (WARPS * 32)

/* Shared memory: K [32][dim + 1] (an odd stride: 32 entries in 32 banks), V [32][dim],
 * Q [rows][dim], biases, scales of K and of V (1 but for int8). Floats. */
struct layout {
    int k_stride, v, q, bias, floats;
};

#define K_SCALES ENTRIES /* behind the biases */
#define V_SCALES (2 * ENTRIES)

__host__ __device__ __forceinline__ layout layout_of(int dim, int n_rows)
{
    layout l;
    l.k_stride = dim + 1;
    l.v = ENTRIES * (dim + 1); /* even */
    l.q = l.v + ENTRIES * dim;
    l.bias = l.q + n_rows * dim;
    l.floats = l.bias + 3 * ENTRIES;
    return l;
}

__device__ __forceinline__ float2 load_pair(const uint8_t *from, int i, enum sc_dtype dtype)
{
    if (dtype == SC_DTYPE_F32)
        return ((const float2 *)from)[i];
    if (dtype == SC_DTYPE_I8) {
        uint32_t x = ((const uint16_t *)from)[i];
        return make_float2((float)(int8_t)x, (float)(int8_t)(x >> 8));
    }
    uint32_t x = ((const uint32_t *)from)[i];
    return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u));
}

/* One page as f32; entries outside s are left out, and zero. int8 stays whole numbers. */
__device__ __forceinline__ void load_page(const sc_cuda_attn &a, const uint8_t *block, slots s,
                                          const layout &at, float *shared)
{
    const int dim = (int)a.head_dim, row_bytes = dim * (a.dtype == SC_DTYPE_F32  ? 4
                                                        : a.dtype == SC_DTYPE_I8 ? 1
                                                                                 : 2);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    for (int row = warp; row < ENTRIES; row += WARPS) {
        const bool seen = row >= s.lo && row < s.hi;
        for (int i = lane; i < dim / 2; i += 32) {
            float2 k = make_float2(0.0f, 0.0f), v = k;
            if (seen) {
                k = load_pair(block + row * row_bytes, i, a.dtype);
                v = load_pair(block + a.v_offset + row * row_bytes, i, a.dtype);
            }
            shared[row * at.k_stride + 2 * i] = k.x;
            shared[row * at.k_stride + 2 * i + 1] = k.y;
            *(float2 *)(shared + at.v + row * dim + 2 * i) = v;
        }
    }
    /* Biases, scales of K and of V, a warp each. */
    if (warp == 0)
        shared[at.bias + lane] = ((const float *)(block + a.bias_offset))[lane];
    else if (warp <= 2)
        shared[at.bias + warp * ENTRIES + lane] =
            a.dtype == SC_DTYPE_I8
                ? ((const float *)(block +
                                   SC_CUDA_K_SCALES(a.bias_offset)))[(warp - 1) * ENTRIES + lane]
                : 1.0f;
}

__device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

__device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}

/* The state of a warp's R rows. */
template <int NV, int R> struct sums {
    float m[R], l[R], o[R][NV]; /* l: of the lane's entries; o: dimensions lane + 32 j */
    int low[R], own[R];
};

/* Page g against the warp's rows. */
template <int NV, int R>
__device__ __forceinline__ void attend(const sc_cuda_attn &a, const view &v, int g,
                                       const layout &at, const float *shared, sums<NV, R> &s)
{
    const int dim = (int)a.head_dim, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int e = g * ENTRIES + lane;
    const float *k = shared + lane * at.k_stride, *q = shared + at.q + warp * R * dim;
    float p[R] = {};

    for (int d = 0; d < dim; d += 2) {
        float k0 = k[d], k1 = k[d + 1];
#pragma unroll
        for (int r = 0; r < R; r++) {
            float2 x = *(const float2 *)(q + r * dim + d);
            p[r] = fmaf(k1, x.y, fmaf(k0, x.x, p[r]));
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        bool seen = e < v.n_cores || (e >= s.low[r] && e <= s.own[r]);
        p[r] = seen
                   ? fmaf(p[r] * shared[at.bias + K_SCALES + lane], a.scale, shared[at.bias + lane])
                   : -INFINITY;
        float top = warp_max(p[r]);
        if (top > s.m[r]) {
            float factor = expf(s.m[r] - top);
            s.l[r] *= factor;
#pragma unroll
            for (int j = 0; j < NV; j++)
                s.o[r][j] *= factor;
            s.m[r] = top;
        }
        p[r] = expf(p[r] - (s.m[r] == -INFINITY ? 0.0f : s.m[r]));
        s.l[r] += p[r];
        /* The scale of what is not seen may be NaN. */
        p[r] = seen ? p[r] * shared[at.bias + V_SCALES + lane] : 0.0f;
    }
    for (int i = 0; i < ENTRIES; i++) {
        float x[NV];
#pragma unroll
        for (int j = 0; j < NV; j++)
            x[j] = lane + 32 * j < dim ? shared[at.v + i * dim + lane + 32 * j] : 0.0f;
#pragma unroll
        for (int r = 0; r < R; r++) {
            float w = __shfl_sync(0xffffffffu, p[r], i);
#pragma unroll
            for (int j = 0; j < NV; j++)
                s.o[r][j] = fmaf(w, x[j], s.o[r][j]);
        }
    }
}

/* Rows x0 .. x0 + WARPS * R - 1 of a sequence against pages begin .. end - 1 of its list. part: row
 * 0 of where sums go that others will be added to, or NULL: these are all. */
template <int NV, int R>
__device__ __forceinline__ void run(const sc_cuda_attn &a, const view &v, uint32_t head,
                                    uint32_t x0, int begin, int end, float *part)
{
    extern __shared__ __align__(16) float shared[];
    const int dim = (int)a.head_dim, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const layout at = layout_of(dim, WARPS * R);
    const uint32_t n = v.n_rows * a.group, x_last = min(x0 + WARPS * R, n) - 1;
    const int low_all = low_entry(v, x0 / a.group), own_all = own_entry(v, x_last / a.group);
    sums<NV, R> s;

#pragma unroll
    for (int r = 0; r < R; r++) {
        uint32_t x = min(x0 + (uint32_t)(warp * R + r), x_last), token = x / a.group;
        const float *q = a.q + (size_t)(v.row0 + token) * a.q_stride +
                         (size_t)(head * a.group + x % a.group) * dim;
        for (int d = lane; d < dim; d += 32)
            shared[at.q + (warp * R + r) * dim + d] = q[d];
        s.low[r] = low_entry(v, token);
        s.own[r] = own_entry(v, token);
        s.m[r] = -INFINITY;
        s.l[r] = 0.0f;
#pragma unroll
        for (int j = 0; j < NV; j++)
            s.o[r][j] = 0.0f;
    }
    for (int i = begin; i < end; i++) {
        const slots seen = slots_of(v, i, low_all, own_all);
        if (!any_slot(seen))
            continue;
        __syncthreads(); /* all are past the page before, and queries are there */
        load_page(a, a.mem + v.table[i] * a.page_bytes + head * a.head_bytes, seen, at, shared);
        __syncthreads();
        attend<NV, R>(a, v, i, at, shared, s);
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        uint32_t x = x0 + (uint32_t)(warp * R + r);
        float l = warp_sum(s.l[r]);
        if (x > x_last)
            continue;
        float *to = part != NULL ? part + (size_t)x * (dim + SC_CUDA_ATTN_PART_PAD) : NULL;
        size_t out = (size_t)(v.row0 + x / a.group) * a.n_heads * dim +
                     (size_t)(head * a.group + x % a.group) * dim;
        for (int j = 0; j < NV; j++) {
            const int d = lane + 32 * j;
            if (d >= dim)
                continue;
            if (to != NULL) {
                to[d] = s.o[r][j];
                continue;
            }
            float y = l == 0.0f ? 0.0f : s.o[r][j] / l;
            if (a.out != NULL)
                a.out[out + d] = y;
            if (a.image != NULL)
                a.image[out + d] = (uint16_t)pack_bf16(y, 0.0f);
        }
        if (to != NULL && lane == 0) {
            to[dim] = s.m[r] * LOG2E;
            to[dim + 1] = l;
        }
    }
}

/* Grid: (splits x tiles of 8 rows, KV heads, sequences). */
#define SMALL_TILES (SC_CUDA_ATTN_SMALL / WARPS)

template <int NV>
__global__ void __launch_bounds__(THREADS, 2)
    plain_decode_kernel(const __grid_constant__ sc_cuda_attn a)
{
    const view v = view_of(a, a.seq0 + blockIdx.z, 1);
    const uint32_t split = blockIdx.x / SMALL_TILES, x0 = blockIdx.x % SMALL_TILES * WARPS;
    const int per_split = v.split_pages, begin = (int)split * per_split;

    if (begin >= v.n_pages || !is_small(a, v.n_rows) || x0 >= v.n_rows * a.group)
        return;
    run<NV, 1>(a, v, a.head0 + blockIdx.y, x0, begin, min(begin + per_split, v.n_pages),
               per_split < v.n_pages ? part_of(a, blockIdx.z, blockIdx.y, split) : NULL);
}

#define R_PREFILL 4

template <int NV>
__global__ void __launch_bounds__(THREADS, 2)
    plain_prefill_kernel(const __grid_constant__ sc_cuda_attn a, uint32_t n_tiles)
{
    const uint32_t head = blockIdx.x % a.n_kv_heads;
    const uint32_t seq = blockIdx.x / a.n_kv_heads % a.seqs.n_seqs;
    const uint32_t tile = n_tiles - 1 - blockIdx.x / a.n_kv_heads / a.seqs.n_seqs;
    const view v = view_of(a, seq, 1);
    const uint32_t x0 = tile * WARPS * R_PREFILL;

    if (x0 >= v.n_rows * a.group || (a.split && is_small(a, v.n_rows)))
        return;
    run<NV, R_PREFILL>(a, v, head, x0, 0, v.n_pages, NULL);
}

template <int NV> static cudaError_t decode(const sc_cuda_attn *a, cudaStream_t stream)
{
    const int bytes = layout_of((int)a->head_dim, WARPS).floats * 4;
    cudaError_t rc = cudaFuncSetAttribute(plain_decode_kernel<NV>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (rc != cudaSuccess)
        return rc;
    plain_decode_kernel<NV>
        <<<dim3(a->n_splits * SMALL_TILES, a->n_heads_now, a->n_seqs), THREADS, bytes, stream>>>(
            *a);
    return cudaGetLastError();
}

template <int NV> static cudaError_t prefill(const sc_cuda_attn *a, cudaStream_t stream)
{
    const int bytes = layout_of((int)a->head_dim, WARPS * R_PREFILL).floats * 4;
    uint32_t n_tiles = (a->seqs.max_rows * a->group + WARPS * R_PREFILL - 1) / (WARPS * R_PREFILL);
    uint64_t n_blocks = (uint64_t)n_tiles * a->n_kv_heads * a->seqs.n_seqs;
    cudaError_t rc = cudaFuncSetAttribute(plain_prefill_kernel<NV>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (rc != cudaSuccess)
        return rc;
    if (n_blocks == 0 || n_blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    plain_prefill_kernel<NV><<<(unsigned)n_blocks, THREADS, bytes, stream>>>(*a, n_tiles);
    return cudaGetLastError();
}

#define BY_WIDTH(call)                                                                             \
    (a->head_dim <= 32    ? call<1>(a, stream)                                                     \
     : a->head_dim <= 64  ? call<2>(a, stream)                                                     \
     : a->head_dim <= 96  ? call<3>(a, stream)                                                     \
     : a->head_dim <= 128 ? call<4>(a, stream)                                                     \
                          : call<8>(a, stream))

extern "C" cudaError_t sc_cuda_attn_plain_decode(const struct sc_cuda_attn *a, cudaStream_t stream)
{
    return BY_WIDTH(decode);
}

extern "C" cudaError_t sc_cuda_attn_plain_prefill(const struct sc_cuda_attn *a, cudaStream_t stream)
{
    return BY_WIDTH(prefill);
}
