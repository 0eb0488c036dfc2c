/* cuda/kernels_merge.cu - the cores of clusters; twin and reference: cpu/merge.c, whose bits it
 * gives.
 *
 * One block per (job, KV head). Tokens are sorted by cluster, then by position; a thread takes one
 * piece of K or V of all of them in that order, adds, and writes a core whenever a cluster ends.
 * So a large cluster beside many small ones costs no more than even ones. Pieces pass through a
 * ring in shared memory that only their own thread uses: rows are on their way long before they are
 * added, whatever cluster they belong to. Memory bound: every entry of the chunk is read once,
 * every core written once.
 *
 * int8: a core's scale follows from all of its row, so a row is a warp's, one warp has K, the other
 * V. Also where a core is one member, it is rounded anew, as the twin does it.
 */
#include "base/row_i8.h"
#include "cuda/kernels_compress.h"
#include "cuda/ptx.cuh"

#define ALL_LANES 0xffffffffu
#define THREADS   64u
#define AHEAD     16u /* rows on their way; a power of two */
#define GROUPS    (SC_CUDA_CHUNK / 32)

/* N elements of T that are moved at once. */
template <typename T, uint32_t N> struct alignas(sizeof(T) * N) piece {
    T at[N];
};

/* The tokens of a chunk in the order of their clusters. Rows are those of K, from the start of the
 * pool. */
struct order {
    size_t rows[SC_CUDA_CHUNK];
    uint8_t label[SC_CUDA_CHUNK];
    uint8_t closes[SC_CUDA_CHUNK]; /* the size of the cluster whose last member this is, or 0 */
    uint8_t place[SC_CUDA_CHUNK];  /* by token: where it is here */
    /* By cluster: */
    size_t cores[SC_CUDA_CHUNK]; /* rows */
    uint8_t first[SC_CUDA_CHUNK], n[SC_CUDA_CHUNK];
    uint8_t in_group[GROUPS][SC_CUDA_CHUNK]; /* members among each 32 tokens */
};

static __device__ float widen(uint16_t x)
{
    return __uint_as_float((uint32_t)x << 16);
}

static __device__ float widen(uint32_t x)
{
    return __uint_as_float(x);
}

/* As sc_f32_to_bf16: the device's own conversion would give another NaN. */
static __device__ void narrow(float x, uint16_t *to)
{
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        *to = (uint16_t)((u >> 16) | 0x40u);
    else
        *to = (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static __device__ void narrow(float x, uint32_t *to)
{
    *to = __float_as_uint(x);
}

template <typename P> static __device__ void copy_async(P *to, const uint8_t *from)
{
    copy_async_cached<sizeof(P)>(shared_address(to), from);
}

/* Numbers of clusters in a chunk are below its length. By all threads; ends with a barrier. */
static __device__ void sort_tokens(const struct sc_cuda_merge_job *job, const uint8_t *labels,
                                   const struct sc_cuda_kv_view &kv, size_t head_at,
                                   size_t row_bytes, struct order *o)
{
    const uint32_t t = threadIdx.x, lane = t % 32, m = job->m;
    uint32_t label[SC_CUDA_CHUNK / THREADS], rank[SC_CUDA_CHUNK / THREADS];

#pragma unroll
    for (uint32_t k = 0; k < SC_CUDA_CHUNK / THREADS; k++) {
        const uint32_t i = k * THREADS + t;
        label[k] = i < m ? labels[i] : 255; /* no cluster has that number */
        ((uint32_t *)o->in_group)[i] = 0;   /* four labels of one group */
    }
    __syncthreads();
#pragma unroll
    for (uint32_t k = 0; k < SC_CUDA_CHUNK / THREADS; k++) {
        const uint32_t peers = __match_any_sync(ALL_LANES, label[k]);
        rank[k] = (uint32_t)__popc(peers & ((1u << lane) - 1));
        if (label[k] != 255 && rank[k] == 0)
            o->in_group[(k * THREADS + t) / 32][label[k]] = (uint8_t)__popc(peers);
    }
    __syncthreads();
    if (t < 32) { /* four clusters a lane */
        uint32_t n[4], sum = 0;
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            n[k] = 0;
#pragma unroll
            for (uint32_t g = 0; g < GROUPS; g++)
                n[k] += o->in_group[g][4 * lane + k];
            sum += n[k];
        }
        uint32_t end = sum;
#pragma unroll
        for (uint32_t by = 1; by < 32; by *= 2) {
            const uint32_t below = __shfl_up_sync(ALL_LANES, end, by);
            end += lane >= by ? below : 0;
        }
        uint32_t first = end - sum;
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            o->first[4 * lane + k] = (uint8_t)first;
            o->n[4 * lane + k] = (uint8_t)n[k];
            first += n[k];
        }
    }
    __syncthreads();
#pragma unroll
    for (uint32_t k = 0; k < SC_CUDA_CHUNK / THREADS; k++) {
        const uint32_t i = k * THREADS + t, at = job->slot0 + i;
        if (i >= m)
            continue;
        const uint32_t first = o->first[label[k]], n = o->n[label[k]];
        uint32_t to = first + rank[k];
        for (uint32_t g = 0; g < i / 32; g++)
            to += o->in_group[g][label[k]];
        o->rows[to] =
            job->pages[at / SC_CUDA_PAGE] * kv.page_bytes + head_at + at % SC_CUDA_PAGE * row_bytes;
        o->label[to] = (uint8_t)label[k];
        o->closes[to] = (uint8_t)(to + 1 == first + n ? n : 0);
        o->place[i] = (uint8_t)to;
    }
    __syncthreads();
}

/* Means of all clusters, of the piece that from points at in a row. Sums start at 0 and a quotient
 * is rounded once, as the twin does, or the last bits would differ. */
template <typename T, uint32_t N, typename WRITE>
static __device__ void write_means(const struct order *o, uint32_t m, const uint8_t *from,
                                   piece<T, N> *ring, WRITE write)
{
    float sum[N];

#pragma unroll
    for (uint32_t e = 0; e < N; e++)
        sum[e] = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < AHEAD - 1; i++) {
        if (i < m)
            copy_async(ring + i * THREADS, from + o->rows[i]);
        copy_commit();
    }
    for (uint32_t i = 0; i < m; i++) {
        const uint32_t next = i + AHEAD - 1, n = o->closes[i];
        copy_wait<AHEAD - 2>();
        const piece<T, N> x = ring[i % AHEAD * THREADS];
        if (next < m)
            copy_async(ring + next % AHEAD * THREADS, from + o->rows[next]);
        copy_commit();
#pragma unroll
        for (uint32_t e = 0; e < N; e++)
            sum[e] = __fadd_rn(sum[e], widen(x.at[e]));
        if (n == 0)
            continue;
        piece<T, N> core;
#pragma unroll
        for (uint32_t e = 0; e < N; e++) {
            narrow(n == 1 ? sum[e] : __fdiv_rn(sum[e], (float)n), &core.at[e]);
            sum[e] = 0.0f;
        }
        write(o->label[i], core);
    }
}

/* Of all cores, by all threads, in the end. */
static __device__ void write_biases(const struct sc_cuda_merge_launch &a, const struct order &o,
                                    uint32_t core_slot0, uint32_t n_cores, uint32_t count,
                                    size_t row_bytes)
{
    for (uint32_t c = threadIdx.x; c < n_cores; c += THREADS) {
        const uint32_t at = core_slot0 + c, slot = at % SC_CUDA_PAGE;
        uint8_t *block = a.kv.mem + o.cores[c] - slot * row_bytes;
        ((float *)(block + a.kv.bias_offset))[slot] =
            c < count ? a.bias[o.n[c]] : -__int_as_float(0x7f800000);
    }
}

template <typename T, uint32_t N>
static __global__ void __launch_bounds__(THREADS)
    merge_kernel(const __grid_constant__ struct sc_cuda_merge_launch a)
{
    __shared__ struct order o;
    __shared__ piece<T, N> rings[AHEAD * THREADS];
    const uint32_t index = blockIdx.x / a.n_kv_heads, head = blockIdx.x % a.n_kv_heads;
    const uint32_t on_plane = a.n_planes == 1 ? 0 : head;
    const struct sc_cuda_merge_job *job = &a.jobs[index];
    const uint32_t m = job->m, n_cores = job->n_cores, core_slot0 = job->core_slot0;
    const uint32_t count = a.counts[index * a.n_planes + on_plane];
    const uint64_t label_at = job->label_at + (uint64_t)on_plane * m;
    const size_t head_at = head * a.kv.head_bytes, row_bytes = a.kv.head_dim * sizeof(T);
    const uint32_t per_row = a.kv.head_dim / N; /* pieces */

    for (uint32_t c = threadIdx.x; c < n_cores; c += THREADS) {
        const uint32_t at = core_slot0 + c;
        o.cores[c] = job->core_pages[at / SC_CUDA_PAGE] * a.kv.page_bytes + head_at +
                     at % SC_CUDA_PAGE * row_bytes;
    }
    sort_tokens(job, a.labels + label_at, a.kv, head_at, row_bytes, &o);
    /* All of K, then all of V. */
    for (uint32_t q = threadIdx.x; q < 2 * per_row; q += THREADS) {
        const size_t part = q < per_row ? q * sizeof(piece<T, N>)
                                        : a.kv.v_offset + (q - per_row) * sizeof(piece<T, N>);
        const uint8_t *from = a.kv.mem + part;
        const auto write = [&](uint32_t c, const piece<T, N> &core) {
            *(piece<T, N> *)(a.kv.mem + part + o.cores[c]) = core;
        };
        if (a.pick == SC_CUDA_PICK_MEAN)
            write_means<T, N>(&o, m, from, rings + threadIdx.x, write);
#pragma unroll 4
        for (uint32_t c = 0; c < n_cores; c++) {
            const uint32_t n = o.n[c];
            piece<T, N> core = {};
            if (n != 0 && a.pick == SC_CUDA_PICK_MEAN)
                continue;
            if (n != 0)
                core = *(const piece<T, N> *)(from + o.rows[a.pick == SC_CUDA_PICK_SEED
                                                                ? o.place[a.seeds[label_at + c]]
                                                                : o.first[c] + n - 1]);
            write(c, core);
        }
    }
    write_biases(a, o, core_slot0, n_cores, count, row_bytes);
}

/* ---- int8 ---- */

#define LANE_WORDS 2u /* of four numbers each: 32 lanes of them are head_dim 256 */

/* A lane's numbers of a row, zeros beyond head_dim: word w is number lane + 32 w of the row. */
struct words {
    uint32_t at[LANE_WORDS];
};

struct numbers {
    float at[LANE_WORDS][4];
};

/* What a warp knows of its half of the entries, K or V. */
struct side {
    const float *scales; /* shared, by place in the order */
    uint8_t *mem;        /* to which offsets of rows are added */
    ptrdiff_t scales_at; /* from where the block's rows begin */
    uint32_t head_dim, lane;
};

/* Rows that are not of whole words are not aligned to them either. */
template <bool ALIGNED> static __device__ words read_words(const side &h, size_t row)
{
    const uint8_t *from = h.mem + row;
    words x = {};
#pragma unroll
    for (uint32_t w = 0; w < LANE_WORDS; w++) {
        const uint32_t d = 4 * (h.lane + 32 * w);
        if (ALIGNED && d < h.head_dim)
            x.at[w] = *(const uint32_t *)(from + d);
        for (uint32_t e = 0; !ALIGNED && e < 4; e++)
            x.at[w] |= d + e < h.head_dim ? (uint32_t)from[d + e] << 8 * e : 0;
    }
    return x;
}

static __device__ void add_scaled(numbers &sum, const words &x, float scale)
{
#pragma unroll
    for (uint32_t w = 0; w < LANE_WORDS; w++) {
#pragma unroll
        for (uint32_t e = 0; e < 4; e++)
            sum.at[w][e] =
                __fadd_rn(sum.at[w][e], __fmul_rn((float)(int8_t)(x.at[w] >> 8 * e), scale));
    }
}

/* By all lanes: x as core c. */
template <bool ALIGNED>
static __device__ void write_core(const side &h, const struct order *o, uint32_t c, uint32_t slot,
                                  const numbers &x)
{
    uint8_t *to = h.mem + o->cores[c];
    uint32_t largest = 0;

#pragma unroll
    for (uint32_t w = 0; w < LANE_WORDS; w++) {
#pragma unroll
        for (uint32_t e = 0; e < 4; e++)
            largest = max(largest, sc_row_i8_magnitude(x.at[w][e]));
    }
    const float scale = sc_row_i8_scale(__reduce_max_sync(ALL_LANES, largest));
    const bool kept = scale > 0.0f;
#pragma unroll
    for (uint32_t w = 0; w < LANE_WORDS; w++) {
        const uint32_t d = 4 * (h.lane + 32 * w);
        uint32_t word = 0;
#pragma unroll
        for (uint32_t e = 0; e < 4; e++) {
            const uint32_t q = (uint32_t)(kept ? sc_row_i8_round(x.at[w][e], scale) : 0) & 0xffu;
            word |= q << 8 * e;
            if (!ALIGNED && d + e < h.head_dim)
                to[d + e] = (uint8_t)q;
        }
        if (ALIGNED && d < h.head_dim)
            *(uint32_t *)(to + d) = word;
    }
    if (h.lane == 0)
        ((float *)(to - slot * h.head_dim + h.scales_at))[slot] = scale;
}

/* As write_means, of whole rows. ring: the lane's. */
template <bool ALIGNED>
static __device__ void write_means_i8(const side &h, const struct order *o, uint32_t m,
                                      uint32_t core_slot0, words *ring)
{
    const auto fetch = [&](uint32_t i) {
        for (uint32_t w = 0; ALIGNED && i < m && w < LANE_WORDS; w++) {
            const uint32_t d = 4 * (h.lane + 32 * w);
            if (d < h.head_dim)
                copy_async(&ring[i % AHEAD * THREADS].at[w], h.mem + o->rows[i] + d);
        }
        copy_commit();
    };
    numbers sum = {};

    for (uint32_t k = 0; ALIGNED && k < AHEAD * LANE_WORDS; k++) { /* no copy goes there */
        if (4 * (h.lane + 32 * (k % LANE_WORDS)) >= h.head_dim)
            ring[k / LANE_WORDS * THREADS].at[k % LANE_WORDS] = 0;
    }
    for (uint32_t i = 0; i < AHEAD - 1; i++)
        fetch(i);
    for (uint32_t i = 0; i < m; i++) {
        const uint32_t n = o->closes[i], c = o->label[i];
        copy_wait<AHEAD - 2>();
        const words x = ALIGNED ? ring[i % AHEAD * THREADS] : read_words<false>(h, o->rows[i]);
        fetch(i + AHEAD - 1);
        add_scaled(sum, x, h.scales[i]);
        if (n == 0)
            continue;
#pragma unroll
        for (uint32_t k = 0; k < 4 * LANE_WORDS; k++)
            sum.at[k / 4][k % 4] = __fdiv_rn(sum.at[k / 4][k % 4], (float)n);
        write_core<ALIGNED>(h, o, c, (core_slot0 + c) % SC_CUDA_PAGE, sum);
        sum = {};
    }
}

template <bool ALIGNED>
static __global__ void __launch_bounds__(THREADS)
    merge_i8_kernel(const __grid_constant__ struct sc_cuda_merge_launch a)
{
    __shared__ struct order o;
    __shared__ struct words rings[AHEAD * THREADS];
    __shared__ float scales[2][SC_CUDA_CHUNK];
    const uint32_t index = blockIdx.x / a.n_kv_heads, head = blockIdx.x % a.n_kv_heads;
    const uint32_t on_plane = a.n_planes == 1 ? 0 : head, row_bytes = a.kv.head_dim;
    const struct sc_cuda_merge_job *job = &a.jobs[index];
    const uint32_t m = job->m, n_cores = job->n_cores, core_slot0 = job->core_slot0;
    const uint32_t count = a.counts[index * a.n_planes + on_plane], is_v = threadIdx.x / 32;
    const uint64_t label_at = job->label_at + (uint64_t)on_plane * m;
    const size_t head_at = head * a.kv.head_bytes;

    for (uint32_t c = threadIdx.x; c < n_cores; c += THREADS) {
        const uint32_t at = core_slot0 + c;
        o.cores[c] = job->core_pages[at / SC_CUDA_PAGE] * a.kv.page_bytes + head_at +
                     at % SC_CUDA_PAGE * row_bytes;
    }
    sort_tokens(job, a.labels + label_at, a.kv, head_at, row_bytes, &o);
    for (uint32_t i = threadIdx.x; i < m; i += THREADS) {
        const uint32_t at = job->slot0 + i, slot = at % SC_CUDA_PAGE;
        const uint8_t *block = a.kv.mem + job->pages[at / SC_CUDA_PAGE] * a.kv.page_bytes + head_at;
        scales[0][o.place[i]] = ((const float *)(block + SC_CUDA_K_SCALES(a.kv.bias_offset)))[slot];
        scales[1][o.place[i]] = ((const float *)(block + SC_CUDA_V_SCALES(a.kv.bias_offset)))[slot];
    }
    __syncthreads();
    const size_t part = is_v ? a.kv.v_offset : 0;
    const side h = {scales[is_v], a.kv.mem + part,
                    (ptrdiff_t)((is_v ? SC_CUDA_V_SCALES(a.kv.bias_offset)
                                      : SC_CUDA_K_SCALES(a.kv.bias_offset)) -
                                part),
                    a.kv.head_dim, threadIdx.x % 32};
    if (a.pick == SC_CUDA_PICK_MEAN)
        write_means_i8<ALIGNED>(h, &o, m, core_slot0, rings + threadIdx.x);
    for (uint32_t c = 0; c < n_cores; c++) {
        const uint32_t n = o.n[c];
        numbers x = {};
        if (n != 0 && a.pick == SC_CUDA_PICK_MEAN)
            continue;
        if (n != 0) {
            const uint32_t i =
                a.pick == SC_CUDA_PICK_SEED ? o.place[a.seeds[label_at + c]] : o.first[c] + n - 1;
            add_scaled(x, read_words<ALIGNED>(h, o.rows[i]), h.scales[i]);
        }
        write_core<ALIGNED>(h, &o, c, (core_slot0 + c) % SC_CUDA_PAGE, x);
    }
    write_biases(a, o, core_slot0, n_cores, count, row_bytes);
}

extern "C" cudaError_t sc_cuda_launch_merge(const struct sc_cuda_merge_launch *a,
                                            cudaStream_t stream)
{
    const uint32_t n_blocks = a->n_jobs * a->n_kv_heads, hd = a->kv.head_dim;
    if (a->kv.dtype == SC_DTYPE_I8 && hd % 4 == 0)
        merge_i8_kernel<true><<<n_blocks, THREADS, 0, stream>>>(*a);
    else if (a->kv.dtype == SC_DTYPE_I8)
        merge_i8_kernel<false><<<n_blocks, THREADS, 0, stream>>>(*a);
    else if (a->kv.dtype == SC_DTYPE_BF16 && hd % 4 == 0)
        merge_kernel<uint16_t, 4><<<n_blocks, THREADS, 0, stream>>>(*a);
    else if (a->kv.dtype == SC_DTYPE_BF16)
        merge_kernel<uint16_t, 2><<<n_blocks, THREADS, 0, stream>>>(*a);
    else if (hd % 4 == 0)
        merge_kernel<uint32_t, 4><<<n_blocks, THREADS, 0, stream>>>(*a);
    else
        merge_kernel<uint32_t, 2><<<n_blocks, THREADS, 0, stream>>>(*a);
    return cudaGetLastError();
}
