/* cuda/kernels_distances.cu - pairwise distances of the keys of a chunk; twin and reference:
 * cpu/distances.c, cpu/distance_impl.h.
 *
 * A block has one chunk and some of its heads (all of one plane, or a share of them: integer sums
 * do not mind being cut). A thread has one tile of 4 by 4 pairs; only tiles that meet the upper
 * triangle exist. Per head the keys pass through shared memory in slabs of 32 rotation pairs,
 * de-rotated, one column a token; a thread sums squared differences (or products) over them in
 * f32, then adds the quantised values to its integers. Bound by arithmetic: 32 instructions for two
 * 16-byte reads. There is no product with |x|^2 + |y|^2 - 2xy here: near keys, the ones that
 * matter, would lose their digits.
 */
#include "cuda/kernels_compress.h"

#define PAIRS  32u /* of one slab: dimensions d and d + head_dim / 2 */
#define DIST_1 65536.0f
#define N_WAVES                                                                                    \
    36u /* warps a multiprocessor should be given before heads stop being shared out               \
         */

/* What depends on the size of chunks, of up to 32 * S tokens. */
template <uint32_t S> struct shape {
    static constexpr uint32_t stride = 32 * S; /* floats between rows of the slab */
    static constexpr uint32_t tiles = 8 * S * (8 * S + 1) / 2;
    static constexpr uint32_t threads = (tiles + 31) / 32 * 32;
    static constexpr uint32_t blocks = S == 2 ? 7 : 2; /* on one multiprocessor: 56 registers */
    static constexpr size_t keys_bytes = 2 * PAIRS * stride * sizeof(float);
    static constexpr size_t sums_bytes = tiles * 16 * sizeof(int32_t);
    static constexpr size_t bytes = keys_bytes + sums_bytes + stride * sizeof(float);
};

/* A token's column in row d of the slab. The eight threads that write four rows each of one token
 * would meet in one bank; moved by four tokens a step they do not. */
static __device__ uint32_t column(uint32_t token, uint32_t d)
{
    return token ^ (d / 4 % 8 * 4);
}

static __device__ float widen(uint16_t x)
{
    return __uint_as_float((uint32_t)x << 16);
}

static __device__ float widen(float x)
{
    return x;
}

static __device__ void read4(const uint16_t *from, float (&x)[4])
{
    const uint2 v = *(const uint2 *)from;
    x[0] = __uint_as_float(v.x << 16), x[1] = __uint_as_float(v.x & 0xffff0000u);
    x[2] = __uint_as_float(v.y << 16), x[3] = __uint_as_float(v.y & 0xffff0000u);
}

static __device__ void read4(const float *from, float (&x)[4])
{
    const float4 v = *(const float4 *)from;
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}

/* Back to the chunk's origin: by minus the angle whose cosine and sine turn holds. */
static __device__ void unrotate(float &lo, float &hi, float cosine, float sine)
{
    const float a = lo, b = hi;
    lo = __fmaf_rn(a, cosine, __fmul_rn(b, sine));
    hi = __fmaf_rn(b, cosine, -__fmul_rn(a, sine));
}

struct chunk {
    uint32_t m, slot0;
    const uint32_t *pages; /* shared */
};

struct slab {
    uint32_t first, n; /* pairs of the head */
    uint32_t rows;     /* n rounded up to 4: rows behind n hold zeros */
};

template <typename T>
static __device__ const T *key_at(const struct sc_cuda_dist_launch &a, const chunk &job,
                                  uint32_t head, uint32_t token)
{
    const uint32_t at = job.slot0 + token;
    const size_t block = job.pages[at / SC_CUDA_PAGE] * a.kv.page_bytes + head * a.kv.head_bytes;
    return (const T *)(a.kv.mem + block) + at % SC_CUDA_PAGE * a.kv.head_dim;
}

/* Four pairs a thread and turn; half of head_dim is a multiple of 4. Tokens from m to end are
 * padding. */
template <typename T, uint32_t STRIDE>
static __device__ void load_by_four(const struct sc_cuda_dist_launch &a, const chunk &job,
                                    uint32_t head, const slab &s, uint32_t end, float *keys)
{
    const uint32_t half = a.kv.head_dim / 2;

    for (uint32_t it = threadIdx.x; it < PAIRS / 4 * end; it += blockDim.x) {
        const uint32_t token = it / (PAIRS / 4), d = it % (PAIRS / 4) * 4;
        float lo[4] = {0}, hi[4] = {0};
        if (d >= s.n)
            continue;
        if (token < job.m) {
            const T *key = key_at<T>(a, job, head, token) + s.first + d;
            float4 t01 = {}, t23 = {};
            if (a.turns != NULL) { /* on their way before anything waits for the keys */
                const float4 *turn =
                    (const float4 *)(a.turns + 2 * ((size_t)token * half + s.first + d));
                t01 = turn[0], t23 = turn[1];
            }
            read4(key, lo);
            read4(key + half, hi);
            if (a.turns != NULL) {
                unrotate(lo[0], hi[0], t01.x, t01.y);
                unrotate(lo[1], hi[1], t01.z, t01.w);
                unrotate(lo[2], hi[2], t23.x, t23.y);
                unrotate(lo[3], hi[3], t23.z, t23.w);
            }
        }
        float *to = keys + d * STRIDE + column(token, d);
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            to[k * STRIDE] = lo[k];
            to[(PAIRS + k) * STRIDE] = hi[k];
        }
    }
}

/* Any head_dim: one pair at a time. */
template <typename T, uint32_t STRIDE>
static __device__ void load_by_one(const struct sc_cuda_dist_launch &a, const chunk &job,
                                   uint32_t head, const slab &s, uint32_t end, float *keys)
{
    const uint32_t half = a.kv.head_dim / 2;

    for (uint32_t it = threadIdx.x; it < PAIRS * end; it += blockDim.x) {
        const uint32_t token = it / PAIRS, d = it % PAIRS;
        float lo = 0.0f, hi = 0.0f;
        if (d >= s.rows)
            continue;
        if (token < job.m && d < s.n) {
            const T *key = key_at<T>(a, job, head, token) + s.first + d;
            lo = widen(key[0]);
            hi = widen(key[half]);
            if (a.turns != NULL) {
                const float *turn = a.turns + 2 * ((size_t)token * half + s.first + d);
                unrotate(lo, hi, turn[0], turn[1]);
            }
        }
        keys[d * STRIDE + column(token, d)] = lo;
        keys[(PAIRS + d) * STRIDE + column(token, d)] = hi;
    }
}

/* Adds what a slab brings to the tile of tokens 4 ti .. and 4 tj .. */
template <bool COSINE, uint32_t STRIDE>
static __device__ void add_slab(const float *keys, const slab &s, uint32_t ti, uint32_t tj,
                                float (&acc)[4][4])
{
#pragma unroll 1
    for (uint32_t part = 0; part < 2; part++) {
#pragma unroll 1
        for (uint32_t d = 0; d < s.rows; d += 4) {
            const float *row = keys + (part * PAIRS + d) * STRIDE;
            const float *at_i = row + column(4 * ti, d), *at_j = row + column(4 * tj, d);
#pragma unroll
            for (uint32_t k = 0; k < 4; k++) {
                const float4 i4 = *(const float4 *)(at_i + k * STRIDE);
                const float4 j4 = *(const float4 *)(at_j + k * STRIDE);
                const float xi[4] = {i4.x, i4.y, i4.z, i4.w}, xj[4] = {j4.x, j4.y, j4.z, j4.w};
#pragma unroll
                for (uint32_t r = 0; r < 4; r++) {
#pragma unroll
                    for (uint32_t c = 0; c < 4; c++) {
                        const float diff = __fsub_rn(xi[r], xj[c]);
                        acc[r][c] = COSINE ? __fmaf_rn(xi[r], xj[c], acc[r][c])
                                           : __fmaf_rn(diff, diff, acc[r][c]);
                    }
                }
            }
        }
    }
}

/* |x|^2 of one token, its dimensions in the order of add_slab. */
template <uint32_t STRIDE>
static __device__ float add_norm(const float *keys, const slab &s, uint32_t token, float norm2)
{
    for (uint32_t part = 0; part < 2; part++) {
        for (uint32_t d = 0; d < s.rows; d++) {
            const float x = keys[(part * PAIRS + d) * STRIDE + column(token, d)];
            norm2 = __fmaf_rn(x, x, norm2);
        }
    }
    return norm2;
}

/* NaN, and what does not fit, become the cap. */
static __device__ int32_t quantise(float dist, int32_t cap)
{
    const float x = __fmul_rn(dist, DIST_1);
    return x < (float)cap ? max(__float2int_rn(x), 0) : cap;
}

/* Values of one head into the thread's own integers: row r of tile t is sums[r * tiles + t]. */
template <bool COSINE, uint32_t S>
static __device__ void add_head(const float (&acc)[4][4], const float *norms, uint32_t ti,
                                uint32_t tj, float inv_var, int32_t cap, bool first, int4 *sums)
{
#pragma unroll
    for (uint32_t r = 0; r < 4; r++) {
        int32_t value[4];
#pragma unroll
        for (uint32_t c = 0; c < 4; c++) {
            float dist;
            if (COSINE)
                dist = __fsub_rn(
                    1.0f, __fdiv_rn(acc[r][c],
                                    __fsqrt_rn(__fmul_rn(norms[4 * ti + r], norms[4 * tj + c]))));
            else
                dist = __fmul_rn(acc[r][c], inv_var);
            value[c] = quantise(dist, cap);
        }
        int4 *to = sums + r * shape<S>::tiles;
        const int4 old = first ? make_int4(0, 0, 0, 0) : *to;
        *to = make_int4(old.x + value[0], old.y + value[1], old.z + value[2], old.w + value[3]);
    }
}

/* Cosine on f32 pages does not fit the registers that let more blocks run side by side.
 *
 * parts: blocks of one job, each with heads_each heads of a plane (n_planes 1) or with one plane.
 * add: others add to the same plane, which was cleared. */
template <typename T, bool COSINE, uint32_t S>
static __global__ void __launch_bounds__(shape<S>::threads,
                                         COSINE && sizeof(T) == 4 ? 1 : shape<S>::blocks)
    distances_kernel(const __grid_constant__ struct sc_cuda_dist_launch a, uint32_t job0,
                     uint32_t parts, uint32_t heads_each, bool add)
{
    constexpr uint32_t stride = shape<S>::stride, tiles = shape<S>::tiles;
    extern __shared__ __align__(16) uint8_t shared[];
    float *keys = (float *)shared;
    int32_t *all_sums = (int32_t *)(shared + shape<S>::keys_bytes);
    float *norms = (float *)(shared + shape<S>::keys_bytes + shape<S>::sums_bytes);
    const uint32_t index = job0 + blockIdx.x / parts, part = blockIdx.x % parts;
    __shared__ uint32_t pages[SC_CUDA_CHUNK_PAGES];
    const chunk job = {a.jobs[index].m, a.jobs[index].slot0, pages};
    const uint32_t m = job.m, n4 = (m + 3) / 4, half = a.kv.head_dim / 2, t = threadIdx.x;
    const uint32_t head0 = part * heads_each;
    const uint32_t end = min(head0 + heads_each, a.n_kv_heads);
    const bool has_tile = t < n4 * (n4 + 1) / 2;
    uint32_t ti = 0, tj = t;

    if (t < SC_CUDA_CHUNK_PAGES) /* seen by all behind the first barrier */
        pages[t] = a.jobs[index].pages[t];
    /* Tiles lie row after row; row ti begins at its diagonal. */
    while (has_tile && tj >= n4 - ti) {
        tj -= n4 - ti;
        ti++;
    }
    tj += ti;
    for (uint32_t head = head0; head < end; head++) {
        float acc[4][4] = {{0}}, norm2 = 0.0f;
        for (uint32_t first = 0; first < half; first += PAIRS) {
            const uint32_t n = min(PAIRS, half - first);
            const slab s = {first, n, (n + 3) / 4 * 4};
            __syncthreads(); /* the last slab is used up */
            if (half % 4 == 0)
                load_by_four<T, stride>(a, job, head, s, 4 * n4, keys);
            else
                load_by_one<T, stride>(a, job, head, s, 4 * n4, keys);
            __syncthreads();
            if (has_tile)
                add_slab<COSINE, stride>(keys, s, ti, tj, acc);
            if (COSINE && t < 4 * n4)
                norm2 = add_norm<stride>(keys, s, t, norm2);
        }
        if (COSINE) {
            if (t < 4 * n4)
                norms[t] = norm2;
            __syncthreads();
        }
        if (has_tile)
            add_head<COSINE, S>(acc, norms, ti, tj,
                                COSINE ? 1.0f : a.inv_var[(size_t)index * a.n_kv_heads + head],
                                a.cap, head == head0, (int4 *)all_sums + t);
    }
    __syncthreads();

    int32_t *dist = a.dist + a.jobs[index].dist_at + (a.n_planes == 1 ? 0 : (size_t)part * m * m);
    for (uint32_t e = t; e < m * m; e += blockDim.x) {
        const uint32_t i = e / m, j = e % m, lo = min(i, j), hi = max(i, j);
        const uint32_t row = lo / 4, tile = row * n4 - row * (row - 1) / 2 + hi / 4 - row;
        const int32_t value = i == j ? 0 : all_sums[4 * (lo % 4 * tiles + tile) + hi % 4];
        if (add)
            atomicAdd(dist + e, value);
        else
            dist[e] = value;
    }
}

/* Cosine and sine of the product in f32, as the reference takes it. */
static __global__ void turns_kernel(const float *inv_freq, uint32_t half, uint32_t n, float *turns)
{
    const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < n)
        sincosf(__fmul_rn((float)(at / half), inv_freq[at % half]), &turns[2 * at + 1],
                &turns[2 * at]);
}

template <typename T, bool COSINE, uint32_t S>
static cudaError_t launch(const struct sc_cuda_dist_launch *a, uint32_t job0, uint32_t parts,
                          uint32_t heads_each, cudaStream_t stream)
{
    const bool add = a->n_planes == 1 && parts > 1;
    const uint32_t n_blocks = a->n_jobs[S - 1] * parts;
    cudaError_t rc = cudaSuccess;

    if (shape<S>::bytes > 48 * 1024)
        rc =
            cudaFuncSetAttribute(distances_kernel<T, COSINE, S>,
                                 cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shape<S>::bytes);
    if (rc != cudaSuccess)
        return rc;
    distances_kernel<T, COSINE, S><<<n_blocks, shape<S>::threads, shape<S>::bytes, stream>>>(
        *a, job0, parts, heads_each, add);
    return cudaGetLastError();
}

/* Jobs of one size. Heads are shared out by halves until the device has enough to do. */
template <uint32_t S>
static cudaError_t launch_size(const struct sc_cuda_dist_launch *a, uint32_t job0, uint32_t n_sms,
                               bool *cleared, cudaStream_t stream)
{
    const uint32_t n_jobs = a->n_jobs[S - 1];
    const uint64_t wanted = (uint64_t)n_sms * N_WAVES / (shape<S>::threads / 32);
    uint32_t heads_each = a->n_planes == 1 ? a->n_kv_heads : 1, parts = a->n_planes;
    cudaError_t rc = cudaSuccess;

    if (n_jobs == 0)
        return cudaSuccess;
    while (a->n_planes == 1 && heads_each > 1 && (uint64_t)n_jobs * parts < wanted) {
        heads_each = (heads_each + 1) / 2;
        parts = (a->n_kv_heads + heads_each - 1) / heads_each;
    }
    if (a->n_planes == 1 && parts > 1 && !*cleared) {
        rc = cudaMemsetAsync(a->dist, 0, a->n_dist * sizeof(*a->dist), stream);
        *cleared = true;
    }
    if (rc != cudaSuccess)
        return rc;
    if (a->kv.bf16)
        return a->cosine ? launch<uint16_t, true, S>(a, job0, parts, heads_each, stream)
                         : launch<uint16_t, false, S>(a, job0, parts, heads_each, stream);
    return a->cosine ? launch<float, true, S>(a, job0, parts, heads_each, stream)
                     : launch<float, false, S>(a, job0, parts, heads_each, stream);
}

extern "C" cudaError_t sc_cuda_launch_distances(const struct sc_cuda_dist_launch *a, uint32_t n_sms,
                                                cudaStream_t stream)
{
    const uint32_t half = a->kv.head_dim / 2, n_turns = a->max_m * half, *n = a->n_jobs;
    bool cleared = false;
    cudaError_t rc = cudaSuccess;

    if (a->turns != NULL) {
        turns_kernel<<<(n_turns + 255) / 256, 256, 0, stream>>>(a->inv_freq, half, n_turns,
                                                                a->turns);
        rc = cudaGetLastError();
    }
    /* The large ones first, so that the small fill the gaps they leave; clearing comes before any
     * of them writes. */
    if (rc == cudaSuccess)
        rc = launch_size<4>(a, n[0] + n[1] + n[2], n_sms, &cleared, stream);
    if (rc == cudaSuccess)
        rc = launch_size<3>(a, n[0] + n[1], n_sms, &cleared, stream);
    if (rc == cudaSuccess)
        rc = launch_size<2>(a, n[0], n_sms, &cleared, stream);
    if (rc == cudaSuccess)
        rc = launch_size<1>(a, 0, n_sms, &cleared, stream);
    return rc;
}
