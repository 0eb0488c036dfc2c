/* cuda/kernels_cluster.cu - Greedy Seed Clustering on the integers; twin and reference: cpu/gsc.c,
 * whose labels it gives bit for bit.
 *
 * One block per (job, plane). All warps turn the plane into rows of bits (token j is near token i)
 * with one ballot per 32 distances; then the first warp alone picks seeds: lane l owns tokens l,
 * l + 32, .., their rows in registers, and the set of unassigned tokens is the same words in every
 * lane, so a step is a few popcounts and one reduction. Rows are read whole: a plane is symmetric.
 */
#include "cuda/kernels_compress.h"

#define ALL_LANES  0xffffffffu
#define BISECTIONS 12u /* SC_GSC_BISECTIONS of cpu/gsc.h */
#define ROWS_AHEAD 4u

/* W: words of a set of tokens, that is 32 W >= m. */
template <uint32_t W> struct plane {
    const int32_t *dist;
    uint32_t m;
    uint32_t free_words[W]; /* tokens that are not forced */
    bool scan;
};

/* What the first warp finds. Of the lane's token k (token 32 k + lane): */
template <uint32_t W> struct clusters {
    uint32_t seed[W], lowest[W]; /* seed and lowest member of its cluster */
    uint32_t first[W];           /* all tokens: is it the lowest member of a cluster */
    uint32_t count;
};

template <uint32_t W>
static __device__ void find_neighbours(const plane<W> &p, int64_t tau, uint32_t (*near_rows)[W])
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;

    for (uint32_t i0 = warp; i0 < p.m; i0 += ROWS_AHEAD * n_warps) {
        bool near_token[ROWS_AHEAD][W];
#pragma unroll
        for (uint32_t r = 0; r < ROWS_AHEAD; r++) {
#pragma unroll
            for (uint32_t w = 0; w < W; w++) {
                uint32_t i = i0 + r * n_warps, j = 32 * w + lane;
                near_token[r][w] =
                    i < p.m && j < p.m && i != j && (int64_t)p.dist[i * p.m + j] <= tau;
            }
        }
#pragma unroll
        for (uint32_t r = 0; r < ROWS_AHEAD; r++) {
            uint32_t i = i0 + r * n_warps;
#pragma unroll
            for (uint32_t w = 0; w < W; w++) {
                uint32_t word = __ballot_sync(ALL_LANES, near_token[r][w]);
                if (lane == 0 && i < p.m)
                    near_rows[i][w] = word;
            }
        }
    }
}

/* The seed and its unassigned neighbours leave open and become a cluster. */
template <uint32_t W>
static __device__ void take(clusters<W> &c, uint32_t (&open)[W], const uint32_t *near_row,
                            uint32_t seed)
{
    const uint32_t lane = threadIdx.x % 32;
    uint32_t members[W], lowest = 0;

#pragma unroll
    for (uint32_t k = 0; k < W; k++) {
        uint32_t w = W - 1 - k;
        members[w] = (near_row[w] & open[w]) | (seed / 32 == w ? 1u << (seed % 32) : 0u);
        open[w] &= ~members[w];
        if (members[w] != 0)
            lowest = 32 * w + (uint32_t)__ffs((int)members[w]) - 1;
    }
#pragma unroll
    for (uint32_t w = 0; w < W; w++) {
        if ((members[w] >> lane) & 1u) {
            c.seed[w] = seed;
            c.lowest[w] = lowest;
        }
    }
}

/* The open token with most open neighbours, the lowest of those; false: none has any. */
template <uint32_t W>
static __device__ bool densest(const uint32_t (&open)[W], const uint32_t (&mine)[W][W],
                               uint32_t *ret_seed)
{
    const uint32_t lane = threadIdx.x % 32;
    uint32_t best = 0;

#pragma unroll
    for (uint32_t k = 0; k < W; k++) {
        uint32_t degree = 0;
#pragma unroll
        for (uint32_t w = 0; w < W; w++)
            degree += (uint32_t)__popc(mine[k][w] & open[w]);
        uint32_t rank = degree << 8 | (255 - (32 * k + lane));
        if (degree != 0 && ((open[k] >> lane) & 1u) != 0 && rank > best)
            best = rank;
    }
    best = __reduce_max_sync(ALL_LANES, best);
    *ret_seed = 255 - (best & 255);
    return best != 0;
}

/* By the first warp, whole. */
template <uint32_t W>
static __device__ void pick_seeds(const plane<W> &p, const uint32_t (*near_rows)[W], clusters<W> &c)
{
    const uint32_t lane = threadIdx.x % 32;
    uint32_t open[W], mine[W][W], seed;

#pragma unroll
    for (uint32_t k = 0; k < W; k++) {
        uint32_t i = 32 * k + lane;
        open[k] = p.free_words[k];
        c.seed[k] = c.lowest[k] = i;
#pragma unroll
        for (uint32_t w = 0; w < W; w++)
            mine[k][w] = i < p.m ? near_rows[i][w] : 0;
    }
    if (p.scan) {
        for (;;) {
            seed = SC_CUDA_CHUNK;
#pragma unroll
            for (uint32_t k = 0; k < W; k++) {
                uint32_t w = W - 1 - k;
                if (open[w] != 0)
                    seed = 32 * w + (uint32_t)__ffs((int)open[w]) - 1;
            }
            if (seed == SC_CUDA_CHUNK)
                break;
            take<W>(c, open, near_rows[seed], seed);
        }
    } else {
        while (densest<W>(open, mine, &seed))
            take<W>(c, open, near_rows[seed], seed);
    }
    c.count = 0;
#pragma unroll
    for (uint32_t k = 0; k < W; k++) {
        uint32_t i = 32 * k + lane;
        c.first[k] = __ballot_sync(ALL_LANES, i < p.m && c.lowest[k] == i);
        c.count += (uint32_t)__popc(c.first[k]);
    }
}

/* Clusters by the first warp; the count for all. */
template <uint32_t W>
static __device__ uint32_t cluster(const plane<W> &p, int64_t tau, uint32_t (*near_rows)[W],
                                   uint32_t *shared_count, clusters<W> &c)
{
    __syncthreads(); /* the rows of the last call are read */
    find_neighbours<W>(p, tau, near_rows);
    __syncthreads();
    if (threadIdx.x < 32) {
        pick_seeds<W>(p, near_rows, c);
        if (threadIdx.x == 0)
            *shared_count = c.count;
    }
    __syncthreads();
    return *shared_count;
}

/* Largest distance of two tokens that may merge, for all. */
template <uint32_t W> static __device__ int32_t largest_unforced(const plane<W> &p, int32_t *shared)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    int32_t largest = 0;

#pragma unroll
    for (uint32_t k = 0; k < W; k++) {
        for (uint32_t bit = warp; bit < 32; bit += n_warps) {
            const uint32_t i = 32 * k + bit;
            if (((p.free_words[k] >> bit) & 1u) == 0)
                continue;
#pragma unroll
            for (uint32_t w = 0; w < W; w++) {
                const uint32_t j = 32 * w + lane;
                if (((p.free_words[w] >> lane) & 1u) != 0 && i != j)
                    largest = max(largest, p.dist[i * p.m + j]);
            }
        }
    }
    largest = __reduce_max_sync(ALL_LANES, largest);
    if (threadIdx.x == 0)
        *shared = 0;
    __syncthreads();
    if (lane == 0)
        atomicMax(shared, largest);
    __syncthreads();
    return *shared;
}

/* Numbers clusters by their lowest member. By the first warp. */
template <uint32_t W>
static __device__ void write_clusters(const plane<W> &p, const clusters<W> &c, uint8_t *labels,
                                      uint8_t *seeds)
{
    const uint32_t lane = threadIdx.x % 32;

#pragma unroll
    for (uint32_t k = 0; k < W; k++) {
        uint32_t i = 32 * k + lane, low = c.lowest[k], label = 0;
#pragma unroll
        for (uint32_t w = 0; w < W; w++) {
            uint32_t below = low >= 32 * w + 32 ? ALL_LANES
                             : low <= 32 * w    ? 0u
                                                : (1u << (low - 32 * w)) - 1;
            label += (uint32_t)__popc(c.first[w] & below);
        }
        if (i < p.m) {
            labels[i] = (uint8_t)label;
            if (low == i)
                seeds[label] = (uint8_t)c.seed[k];
            if (i >= c.count)
                seeds[i] = 0;
        }
    }
}

/* Tokens far from the mean key are no longer free: all of them, or the most_alone farthest. Every
 * warp finds the same. Twin and reference: sc_gsc_force_outliers in cpu/gsc.c. */
template <uint32_t W>
static __device__ void take_outliers(plane<W> &p, const sc_cuda_cluster_job &job)
{
    const uint32_t lane = threadIdx.x % 32;
    uint32_t n = 0;
    int32_t far[W]; /* of those that are not, the least there is */

#pragma unroll
    for (uint32_t w = 0; w < W; w++) {
        const uint32_t i = 32 * w + lane;
        const bool is_free = ((p.free_words[w] >> lane) & 1u) != 0;
        const int32_t d = is_free ? p.dist[(uint64_t)i * p.m + i] : INT32_MIN;
        const bool above = is_free && (int64_t)d > job.alone_above;
        far[w] = above ? d : INT32_MIN;
        n += (uint32_t)__popc(__ballot_sync(ALL_LANES, above));
    }
    const uint32_t most = job.most_alone != 0 ? job.most_alone : n;
#pragma unroll
    for (uint32_t w = 0; w < W; w++) {
        uint32_t before = 0;
        if (n > most) {
#pragma unroll
            for (uint32_t k = 0; k < W; k++) {
#pragma unroll 1
                for (uint32_t j = 0; j < 32; j++) {
                    const int32_t other = __shfl_sync(ALL_LANES, far[k], (int)j);
                    before += other > far[w] || (other == far[w] && 32 * k + j < 32 * w + lane);
                }
            }
        }
        p.free_words[w] &= ~__ballot_sync(ALL_LANES, far[w] != INT32_MIN && before < most);
    }
}

template <uint32_t W>
static __global__ void __launch_bounds__(64 * W) cluster_kernel(struct sc_cuda_cluster_launch a)
{
    __shared__ __align__(16) uint32_t near_rows[32 * W][W];
    __shared__ uint32_t shared_count;
    __shared__ int32_t shared_largest;
    const uint32_t index = blockIdx.x / a.n_planes, on_plane = blockIdx.x % a.n_planes;
    const struct sc_cuda_cluster_job job = a.jobs[index];
    const uint32_t m = job.m;
    const uint64_t at = job.label_at + (uint64_t)on_plane * m;
    clusters<W> c;
    plane<W> p;

    p.dist = a.dist + job.dist_at + (uint64_t)on_plane * m * m;
    p.m = m;
    p.scan = a.scan;
#pragma unroll
    for (uint32_t w = 0; w < W; w++) {
        uint32_t real = m >= 32 * w + 32 ? ALL_LANES : m <= 32 * w ? 0u : (1u << (m - 32 * w)) - 1;
        p.free_words[w] = real & ~(uint32_t)(job.forced[w / 2] >> (w % 2 * 32));
    }
    take_outliers<W>(p, job);
    const bool search = job.budget != 0 && m > job.budget;
    int64_t lo = -1, hi = job.budget == 0 ? job.tau : -1;
    bool found = false; /* c holds the clusters of hi */
    if (search)
        hi = largest_unforced<W>(p, &shared_largest);
    for (uint32_t step = 0;; step++) {
        const bool last = !search || step == BISECTIONS || hi - lo <= 1;
        if (last && found)
            break;
        const int64_t tau = last ? hi : lo + (hi - lo) / 2;
        const uint32_t count = cluster<W>(p, tau, near_rows, &shared_count, c);
        if (last)
            break;
        found = count <= job.budget;
        if (found)
            hi = tau;
        else
            lo = tau;
    }
    if (threadIdx.x < 32) {
        write_clusters<W>(p, c, a.labels + at, a.seeds + at);
        if (threadIdx.x == 0)
            a.counts[blockIdx.x] = c.count;
    }
}

extern "C" cudaError_t sc_cuda_launch_cluster(const struct sc_cuda_cluster_launch *a,
                                              cudaStream_t stream)
{
    const uint32_t n_blocks = a->n_jobs * a->n_planes;
    if (a->max_m <= 64)
        cluster_kernel<2><<<n_blocks, 128, 0, stream>>>(*a);
    else
        cluster_kernel<4><<<n_blocks, 256, 0, stream>>>(*a);
    return cudaGetLastError();
}
