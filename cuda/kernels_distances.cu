/* cuda/kernels_distances.cu - pairwise distances of the keys of a chunk; twin and reference:
 * cpu/distances.c, cpu/distance_impl.h.
 *
 * A block has one chunk and some of its heads (all of one plane, or a share of them: integer sums
 * do not mind being cut). A thread has one tile of 4 by 4 pairs above the diagonal, or two on it,
 * of which only half are pairs: so all threads of all warps have as much to do. Per head the keys
 * pass through shared memory in slabs of 32 rotation pairs, de-rotated, one column a token; a
 * thread sums squared differences (or products) over them in f32, then adds the quantised values to
 * its integers. Bound by arithmetic: 32 instructions for two 16-byte reads. There is no product
 * with |x|^2 + |y|^2 - 2xy here: near keys, the ones that matter, would lose their digits.
 */
#include "cuda/kernels_compress.h"
#include "cuda/ptx.cuh"

#define PAIRS  32u /* of one slab: dimensions d and d + head_dim / 2 */
#define DIST_1 65536.0f

/* What depends on the size of chunks, of up to 32 * S tokens. */
template <uint32_t S> struct shape {
    static constexpr uint32_t stride = 32 * S;      /* floats between rows of the slab */
    static constexpr uint32_t threads = 32 * S * S; /* tiles above the diagonal, and 4 S more */
    static constexpr uint32_t blocks = S == 1 ? 16 : S == 2 ? 8 : S == 3 ? 3 : 2; /* side by side */
    static constexpr size_t keys_bytes = 2 * PAIRS * stride * sizeof(float);
    static constexpr size_t sums_bytes = threads * 16 * sizeof(int32_t);
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

/* f32, and int8 without its scale. */
template <typename T> static __device__ float widen(T x)
{
    return (float)x;
}

static __device__ void read4(const int8_t *from, float (&x)[4])
{
    const uint32_t v = *(const uint32_t *)from;
    for (uint32_t k = 0; k < 4; k++)
        x[k] = (float)(int8_t)(v >> 8 * k);
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

/* Of int8 keys. */
static __device__ float scale_of(const struct sc_cuda_dist_launch &a, const chunk &job,
                                 uint32_t head, uint32_t token)
{
    const uint32_t at = job.slot0 + token;
    const size_t block = job.pages[at / SC_CUDA_PAGE] * a.kv.page_bytes + head * a.kv.head_bytes;
    return (
        (const float *)(a.kv.mem + block + SC_CUDA_K_SCALES(a.kv.bias_offset)))[at % SC_CUDA_PAGE];
}

/* Four pairs a thread and turn; half of head_dim is a multiple of 4. Tokens from m to end are
 * padding. ahead: bytes from these keys to those of the next slab, 0 behind the last. */
template <typename T, uint32_t S>
static __device__ void load_by_four(const struct sc_cuda_dist_launch &a, const chunk &job,
                                    uint32_t head, const slab &s, uint32_t end, size_t ahead,
                                    float *keys)
{
    constexpr uint32_t stride = shape<S>::stride, step = shape<S>::threads / (PAIRS / 4);
    constexpr uint32_t batch = sizeof(T) == 2 ? 2 : 1; /* items that are on their way together */
    const uint32_t half = a.kv.head_dim / 2, d = threadIdx.x % (PAIRS / 4) * 4;

    if (d >= s.n)
        return;
    for (uint32_t token0 = threadIdx.x / (PAIRS / 4); token0 < end; token0 += batch * step) {
        float lo[batch][4] = {{0}}, hi[batch][4] = {{0}}, scale[batch] = {};
        float4 t01[batch] = {}, t23[batch] = {};
#pragma unroll
        for (uint32_t b = 0; b < batch; b++) { /* all on their way before anything waits */
            const uint32_t token = token0 + b * step;
            if (token >= job.m)
                continue;
            const T *key = key_at<T>(a, job, head, token) + s.first + d;
            if (a.pre) {
                const float4 *turn =
                    (const float4 *)(a.turns + 2 * ((size_t)token * half + s.first + d));
                t01[b] = turn[0], t23[b] = turn[1];
            }
            read4(key, lo[b]);
            read4(key + half, hi[b]);
            if (sizeof(T) == 1)
                scale[b] = scale_of(a, job, head, token);
            if (ahead != 0) { /* what the next slab will want */
                prefetch_l2((const uint8_t *)key + ahead);
                prefetch_l2((const uint8_t *)(key + half) + ahead);
            }
        }
#pragma unroll
        for (uint32_t b = 0; b < batch; b++) {
            const uint32_t token = token0 + b * step;
            if (token >= end)
                continue;
#pragma unroll
            for (uint32_t k = 0; sizeof(T) == 1 && k < 4; k++) {
                lo[b][k] *= scale[b];
                hi[b][k] *= scale[b];
            }
            if (a.pre) { /* padding stays zero */
                unrotate(lo[b][0], hi[b][0], t01[b].x, t01[b].y);
                unrotate(lo[b][1], hi[b][1], t01[b].z, t01[b].w);
                unrotate(lo[b][2], hi[b][2], t23[b].x, t23[b].y);
                unrotate(lo[b][3], hi[b][3], t23[b].z, t23[b].w);
            }
            float *to = keys + d * stride + column(token, d);
#pragma unroll
            for (uint32_t k = 0; k < 4; k++) {
                to[k * stride] = lo[b][k];
                to[(PAIRS + k) * stride] = hi[b][k];
            }
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
            if (sizeof(T) == 1) {
                const float scale = scale_of(a, job, head, token);
                lo *= scale;
                hi *= scale;
            }
            if (a.pre) {
                const float *turn = a.turns + 2 * ((size_t)token * half + s.first + d);
                unrotate(lo, hi, turn[0], turn[1]);
            }
        }
        keys[d * STRIDE + column(token, d)] = lo;
        keys[(PAIRS + d) * STRIDE + column(token, d)] = hi;
    }
}

/* The tokens of a thread's 16 pairs, of which r and c name one: above the diagonal of a tile
 * upper_i + r and upper_j + c, below it lower_i + r and lower_j + c, on it upper_i + r and
 * lower_j + c. In most tiles upper and lower are the same. In those that hold the pairs within
 * four tokens and within the next four, upper_i = upper_j are the first, lower_i = lower_j the
 * others, and what is on the diagonal means nothing. */
struct tile {
    uint32_t upper_i, upper_j, lower_i, lower_j;
};

static __device__ float4 four(const float *row, uint32_t token, uint32_t d)
{
    return *(const float4 *)(row + column(token, d));
}

/* Adds what a slab brings to a tile. SPLIT: upper and lower may differ. */
template <bool COSINE, bool SPLIT, uint32_t STRIDE>
static __device__ void add_slab(const float *keys, const slab &s, const tile &t, float (&acc)[4][4])
{
#pragma unroll 1
    for (uint32_t part = 0; part < 2; part++) {
#pragma unroll 1
        for (uint32_t d = 0; d < s.rows; d += 4) {
            const float *rows = keys + (part * PAIRS + d) * STRIDE;
#pragma unroll
            for (uint32_t k = 0; k < 4; k++) {
                const float *row = rows + k * STRIDE;
                const float4 i4 = four(row, t.upper_i, d), j4 = four(row, t.lower_j, d);
                const float4 l4 = SPLIT ? four(row, t.lower_i, d) : i4;
                const float4 u4 = SPLIT ? four(row, t.upper_j, d) : j4;
                const float upper_i[4] = {i4.x, i4.y, i4.z, i4.w};
                const float lower_j[4] = {j4.x, j4.y, j4.z, j4.w};
                const float lower_i[4] = {l4.x, l4.y, l4.z, l4.w};
                const float upper_j[4] = {u4.x, u4.y, u4.z, u4.w};
#pragma unroll
                for (uint32_t r = 0; r < 4; r++) {
#pragma unroll
                    for (uint32_t c = 0; c < 4; c++) {
                        const float x = r > c ? lower_i[r] : upper_i[r];
                        const float y = r < c ? upper_j[c] : lower_j[c];
                        const float diff = __fsub_rn(x, y);
                        acc[r][c] =
                            COSINE ? __fmaf_rn(x, y, acc[r][c]) : __fmaf_rn(diff, diff, acc[r][c]);
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

/* Values of one head into the thread's own integers: row r of thread t is sums[r * threads + t].
 */
template <bool COSINE, uint32_t S>
static __device__ void add_head(const float (&acc)[4][4], const float *norms, const tile &t,
                                float inv_var, int32_t cap, bool first, int4 *sums)
{
#pragma unroll
    for (uint32_t r = 0; r < 4; r++) {
        int32_t value[4];
#pragma unroll
        for (uint32_t c = 0; c < 4; c++) {
            float dist;
            if (COSINE) {
                const float x2 = norms[(r > c ? t.lower_i : t.upper_i) + r];
                const float y2 = norms[(r < c ? t.upper_j : t.lower_j) + c];
                dist = __fsub_rn(1.0f, __fdiv_rn(acc[r][c], __fsqrt_rn(__fmul_rn(x2, y2))));
            } else {
                dist = __fmul_rn(acc[r][c], inv_var);
            }
            value[c] = quantise(dist, cap);
        }
        int4 *to = sums + r * shape<S>::threads;
        const int4 old = first ? make_int4(0, 0, 0, 0) : *to;
        *to = make_int4(old.x + value[0], old.y + value[1], old.z + value[2], old.w + value[3]);
    }
}

/* Thread t: tiles above the diagonal lie row after row; behind them, each with two on it. */
static __device__ tile tile_of(uint32_t t, uint32_t n4, uint32_t above)
{
    uint32_t i = 0, j = t;
    if (t >= above) {
        const uint32_t first = 8 * (t - above);
        return {first, first, first + 4, first + 4};
    }
    for (; j >= n4 - 1 - i; i++)
        j -= n4 - 1 - i;
    j += i + 1;
    return {4 * i, 4 * j, 4 * i, 4 * j};
}

/* Where the sum of tokens i and j, i != j, lies among those of all threads. */
template <uint32_t S>
static __device__ uint32_t place_of(uint32_t i, uint32_t j, uint32_t n4, uint32_t above)
{
    const uint32_t lo = min(i, j), hi = max(i, j), row = lo / 4, column = hi / 4;
    uint32_t t = row * (n4 - 1) - row * (row - 1) / 2 + column - row - 1, r = lo % 4, c = hi % 4;
    if (row == column) {
        t = above + row / 2;
        r = row % 2 == 0 ? lo % 4 : hi % 4;
        c = row % 2 == 0 ? hi % 4 : lo % 4;
    }
    return 4 * (r * shape<S>::threads + t) + c;
}

/* Cosine does not fit the registers that let more blocks run side by side.
 *
 * parts: blocks of one job, each with heads_each heads of a plane (n_planes 1) or with one plane.
 * add: others add to the same plane, which was cleared. */
template <typename T, bool COSINE, uint32_t S>
static __global__ void __launch_bounds__(shape<S>::threads, COSINE ? 1 : shape<S>::blocks)
    distances_kernel(const __grid_constant__ struct sc_cuda_dist_launch a, uint32_t job0,
                     uint32_t parts, uint32_t heads_each, bool add)
{
    constexpr uint32_t stride = shape<S>::stride, threads = shape<S>::threads;
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
    const uint32_t above = n4 * (n4 - 1) / 2; /* tiles: above the diagonal, then two at a time */
    const bool has_tile = t < above + (n4 + 1) / 2;
    const bool split = __any_sync(0xffffffffu, t >= above) != 0; /* its warp takes the longer way */
    const tile own = tile_of(t, n4, above);

    if (t < SC_CUDA_CHUNK_PAGES) /* seen by all behind the first barrier */
        pages[t] = a.jobs[index].pages[t];
    for (uint32_t head = head0; head < end; head++) {
        float acc[4][4] = {{0}}, norm2 = 0.0f;
        for (uint32_t first = 0; first < half; first += PAIRS) {
            const uint32_t n = min(PAIRS, half - first);
            const slab s = {first, n, (n + 3) / 4 * 4};
            __syncthreads(); /* the last slab is used up */
            if (half % 4 == 0) {
                const size_t ahead = first + PAIRS < half ? PAIRS * sizeof(T)
                                     : head + 1 < end     ? a.kv.head_bytes - first * sizeof(T)
                                                          : 0;
                load_by_four<T, S>(a, job, head, s, 4 * n4, ahead, keys);
            } else {
                load_by_one<T, stride>(a, job, head, s, 4 * n4, keys);
            }
            __syncthreads();
            if (has_tile && split)
                add_slab<COSINE, true, stride>(keys, s, own, acc);
            else if (has_tile)
                add_slab<COSINE, false, stride>(keys, s, own, acc);
            if (COSINE && t < 4 * n4)
                norm2 = add_norm<stride>(keys, s, t, norm2);
        }
        if (COSINE) {
            if (t < 4 * n4)
                norms[t] = norm2;
            __syncthreads();
        }
        if (has_tile)
            add_head<COSINE, S>(acc, norms, own,
                                COSINE ? 1.0f : a.inv_var[(size_t)index * a.n_kv_heads + head],
                                a.cap, head == head0, (int4 *)all_sums + t);
    }
    __syncthreads();

    int32_t *dist = a.dist + a.jobs[index].dist_at + (a.n_planes == 1 ? 0 : (size_t)part * m * m);
    for (uint32_t i = t / 32; i < m; i += threads / 32) {
        for (uint32_t j = t % 32; j < m; j += 32) {
            const int32_t value = i == j ? 0 : all_sums[place_of<S>(i, j, n4, above)];
            if (add)
                atomicAdd(dist + i * m + j, value);
            else
                dist[i * m + j] = value;
        }
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

/* How the heads of jobs of one size are shared out among blocks. */
struct share {
    uint32_t job0, parts, heads_each;
};

template <typename T, bool COSINE, uint32_t S>
static cudaError_t launch(const struct sc_cuda_dist_launch *a, const share &s, cudaStream_t stream)
{
    const bool add = a->n_planes == 1 && s.parts > 1;
    const uint32_t n_blocks = a->n_jobs[S - 1] * s.parts;
    cudaError_t rc = cudaSuccess;

    if (n_blocks == 0)
        return cudaSuccess;
    if (shape<S>::bytes > 48 * 1024)
        rc =
            cudaFuncSetAttribute(distances_kernel<T, COSINE, S>,
                                 cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shape<S>::bytes);
    if (rc != cudaSuccess)
        return rc;
    distances_kernel<T, COSINE, S><<<n_blocks, shape<S>::threads, shape<S>::bytes, stream>>>(
        *a, s.job0, s.parts, s.heads_each, add);
    return cudaGetLastError();
}

template <uint32_t S>
static cudaError_t launch_size(const struct sc_cuda_dist_launch *a, const share &s,
                               cudaStream_t stream)
{
    if (a->kv.dtype == SC_DTYPE_I8)
        return a->cosine ? launch<int8_t, true, S>(a, s, stream)
                         : launch<int8_t, false, S>(a, s, stream);
    if (a->kv.dtype == SC_DTYPE_BF16)
        return a->cosine ? launch<uint16_t, true, S>(a, s, stream)
                         : launch<uint16_t, false, S>(a, s, stream);
    return a->cosine ? launch<float, true, S>(a, s, stream) : launch<float, false, S>(a, s, stream);
}

/* Heads that follow each other on the busiest place for a block. */
static uint64_t rounds(uint64_t n_blocks, uint64_t n_places, uint32_t heads_each)
{
    return (n_blocks + n_places - 1) / n_places * heads_each;
}

/* Heads are shared out by halves as long as that shortens the whole. */
template <uint32_t S>
static share share_heads(const struct sc_cuda_dist_launch *a, uint32_t job0, uint32_t n_sms)
{
    const uint64_t n_jobs = a->n_jobs[S - 1], n_places = (uint64_t)n_sms * shape<S>::blocks;
    share ret = {job0, a->n_planes, 1};

    if (a->n_planes != 1)
        return ret;
    ret.heads_each = a->n_kv_heads;
    while (ret.heads_each > 1) {
        const uint32_t each = (ret.heads_each + 1) / 2, n = (a->n_kv_heads + each - 1) / each;
        if (rounds(n_jobs * n, n_places, each) >=
            rounds(n_jobs * ret.parts, n_places, ret.heads_each))
            break;
        ret.heads_each = each;
        ret.parts = n;
    }
    return ret;
}

extern "C" cudaError_t sc_cuda_launch_distances(const struct sc_cuda_dist_launch *a, uint32_t n_sms,
                                                cudaStream_t stream)
{
    const uint32_t half = a->kv.head_dim / 2, n_turns = a->max_m * half, *n = a->n_jobs;
    const share shares[SC_CUDA_DIST_SIZES] = {
        share_heads<1>(a, 0, n_sms), share_heads<2>(a, n[0], n_sms),
        share_heads<3>(a, n[0] + n[1], n_sms), share_heads<4>(a, n[0] + n[1] + n[2], n_sms)};
    bool adds = false;
    cudaError_t rc = cudaSuccess;

    for (uint32_t i = 0; i < SC_CUDA_DIST_SIZES; i++)
        adds = adds || (n[i] != 0 && shares[i].parts > 1);
    if (a->turns != NULL) {
        turns_kernel<<<(n_turns + 255) / 256, 256, 0, stream>>>(a->inv_freq, half, n_turns,
                                                                a->turns);
        rc = cudaGetLastError();
    }
    /* Before any of them writes: those that do not add write over it. */
    if (rc == cudaSuccess && a->n_planes == 1 && adds)
        rc = cudaMemsetAsync(a->dist, 0, a->n_dist * sizeof(*a->dist), stream);
    /* The large ones first, so that the small fill the gaps they leave. */
    if (rc == cudaSuccess)
        rc = launch_size<4>(a, shares[3], stream);
    if (rc == cudaSuccess)
        rc = launch_size<3>(a, shares[2], stream);
    if (rc == cudaSuccess)
        rc = launch_size<2>(a, shares[1], stream);
    if (rc == cudaSuccess)
        rc = launch_size<1>(a, shares[0], stream);
    return rc;
}
