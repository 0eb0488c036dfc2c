/* cuda/kernels_draw.cuh - a row of logits and walks along it, and how a token is drawn where no
 * list of candidates serves: the last distance that stays is found by bisection of its bits, then
 * the row is drawn from in two more passes. Of kernels_draw.cu alone. */
#ifndef SC_CUDA_KERNELS_DRAW_CUH
#define SC_CUDA_KERNELS_DRAW_CUH

#include "base/draw.h"

#define ALL_LANES  0xffffffffu
#define THREADS    1024u
#define WARPS      (THREADS / 32)
#define CHUNK      1024u /* columns that one warp sums */
#define CHUNKS_MAX (SC_DRAW_TOKENS_MAX / CHUNK)
#define LIST_MAX   4096u
#define NOTHING    0xffffffffffffffffull

struct row {
    const float *x;
    uint32_t n_cols;
    float max;
    struct sc_draw draw;
};

struct scratch {
    union {
        uint64_t chunks[CHUNKS_MAX]; /* masses */
        struct {
            uint64_t masses[CHUNKS_MAX];
            uint32_t ties[CHUNKS_MAX]; /* columns of the last distance that stays */
        } kept;
        uint64_t list[LIST_MAX]; /* distance and column, or column and distance */
    };
    uint64_t total, within;
    uint32_t n, found;
};

static __device__ uint32_t mass_at(const struct row &r, uint32_t column)
{
    if (column >= r.n_cols)
        return 0;
    const uint32_t distance = sc_draw_distance(r.max, r.x[column]);
    return distance <= r.draw.last ? sc_draw_mass(distance, r.draw.scale) : 0;
}

static __device__ uint64_t sum_of_warp(uint64_t x)
{
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

/* By one warp, whole: the first i at which the sum of value(0) .. value(i) exceeds target, and what
 * of target is left there; n if none. */
template <class F>
static __device__ uint32_t walk(uint32_t n, uint64_t target, uint64_t *ret_left, F value)
{
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t first = 0; first < n; first += 32) {
        uint64_t sum = first + lane < n ? value(first + lane) : 0;
        const uint64_t own = sum;
        for (uint32_t step = 1; step < 32; step *= 2) {
            const uint64_t below = __shfl_up_sync(ALL_LANES, sum, step);
            sum += lane >= step ? below : 0;
        }
        const uint32_t beyond = __ballot_sync(ALL_LANES, sum > target);
        if (beyond != 0) {
            const int at = __ffs((int)beyond) - 1;
            *ret_left = target - __shfl_sync(ALL_LANES, sum - own, at);
            return first + (uint32_t)at;
        }
        target -= __shfl_sync(ALL_LANES, sum, 31);
    }
    return n;
}

static __device__ uint64_t needed(uint64_t total, float top_p)
{
    const uint64_t need = (uint64_t)ceil(__dmul_rn((double)total, (double)top_p));
    return need < 1 ? 1 : need > total ? total : need;
}

/* ---- without a list ---- */

struct one {
    __device__ uint64_t operator()(const struct row &, uint32_t) const
    {
        return 1;
    }
};

struct mass_of {
    __device__ uint64_t operator()(const struct row &r, uint32_t distance) const
    {
        return sc_draw_mass(distance, r.draw.scale);
    }
};

/* What the columns with distances low .. high are worth, for all threads of the block. */
template <class F>
static __device__ uint64_t worth(const struct row &r, uint32_t low, uint32_t high,
                                 struct scratch *s, F value)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t sum = 0;

    for (uint32_t c = threadIdx.x; c < r.n_cols; c += THREADS) {
        const uint32_t distance = sc_draw_distance(r.max, r.x[c]);
        if (distance >= low && distance <= high)
            sum += value(r, distance);
    }
    sum = sum_of_warp(sum);
    if (lane == 0)
        s->list[warp] = sum;
    __syncthreads(); /* also: all have read what the last call found */
    if (warp == 0) {
        sum = sum_of_warp(s->list[lane]);
        if (lane == 0)
            s->within = sum;
    }
    __syncthreads();
    return s->within;
}

/* The smallest distance, up to high, with which all columns up to it are worth so much, which those
 * up to high are; and what those before it are. */
template <class F>
static __device__ uint32_t reach(const struct row &r, uint32_t high, uint64_t wanted,
                                 struct scratch *s, uint64_t *ret_before, F value)
{
    uint32_t low = 0;
    uint64_t before = 0;

    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const uint64_t here = worth(r, low, middle, s, value);
        if (before + here >= wanted) {
            high = middle;
        } else {
            before += here;
            low = middle + 1;
        }
    }
    *ret_before = before;
    return low;
}

/* Masses of the columns nearer than last, and how many there are of it, chunk by chunk. */
static __device__ void sum_kept(const struct row &r, uint32_t last, struct scratch *s)
{
    const uint32_t lane = threadIdx.x % 32, n_chunks = (r.n_cols + CHUNK - 1) / CHUNK;

    for (uint32_t chunk = threadIdx.x / 32; chunk < n_chunks; chunk += WARPS) {
        const uint32_t end = min((chunk + 1) * CHUNK, r.n_cols);
        uint64_t mass = 0;
        uint32_t ties = 0;
        for (uint32_t c = chunk * CHUNK + lane; c < end; c += 32) {
            const uint32_t distance = sc_draw_distance(r.max, r.x[c]);
            mass += distance < last ? sc_draw_mass(distance, r.draw.scale) : 0;
            ties += distance == last;
        }
        mass = sum_of_warp(mass);
        ties = (uint32_t)sum_of_warp(ties);
        if (lane == 0) {
            s->kept.masses[chunk] = mass;
            s->kept.ties[chunk] = ties;
        }
    }
    __syncthreads();
}

/* By the first warp: of the columns nearer than last, and the first n_ties of its own, each of mass
 * each. */
static __device__ uint32_t draw_of_kept(const struct row &r, const struct scratch *s, uint32_t last,
                                        uint32_t n_ties, uint64_t each)
{
    const uint32_t lane = threadIdx.x % 32, n_chunks = (r.n_cols + CHUNK - 1) / CHUNK;
    const uint32_t below = (1u << lane) - 1;
    uint64_t total = 0, ties = 0, left = 0;

    for (uint32_t i = lane; i < n_chunks; i += 32) {
        total += s->kept.masses[i];
        ties += s->kept.ties[i];
    }
    ties = sum_of_warp(ties);
    n_ties = min(n_ties, (uint32_t)ties);
    total = sum_of_warp(total) + n_ties * each;
    uint32_t before = 0; /* ties of the chunks that were walked past */
    const uint32_t chunk =
        walk((n_chunks + 31) / 32 * 32, __umul64hi(r.draw.random, total), &left, [&](uint32_t i) {
            const uint32_t own = i < n_chunks ? s->kept.ties[i] : 0;
            uint32_t upto = own;
            for (uint32_t step = 1; step < 32; step *= 2) {
                const uint32_t more = __shfl_up_sync(ALL_LANES, upto, step);
                upto += lane >= step ? more : 0;
            }
            const uint32_t first = before + upto - own;
            before += __shfl_sync(ALL_LANES, upto, 31);
            const uint32_t stay = first < n_ties ? min(own, n_ties - first) : 0;
            return (i < n_chunks ? s->kept.masses[i] : 0) + stay * each;
        });
    before = 0;
    for (uint32_t i = lane; i < chunk; i += 32)
        before += s->kept.ties[i];
    before = (uint32_t)sum_of_warp(before);
    return chunk * CHUNK + walk(CHUNK, left, &left, [&](uint32_t i) {
               const uint32_t c = chunk * CHUNK + i;
               const uint32_t distance =
                   c < r.n_cols ? sc_draw_distance(r.max, r.x[c]) : UINT32_MAX;
               const uint32_t equal = __ballot_sync(ALL_LANES, c < r.n_cols && distance == last);
               const bool stays = before + __popc(equal & below) < n_ties;
               before += __popc(equal);
               return distance < last              ? (uint64_t)sc_draw_mass(distance, r.draw.scale)
                      : equal >> lane & 1 && stays ? each
                                                   : 0;
           });
}

static __device__ uint32_t draw_by_selection(const struct row &r, bool top_k, struct scratch *s)
{
    uint32_t last = r.draw.last, n_ties = UINT32_MAX, at = 0;
    uint64_t before;

    if (top_k)
        last = min(last, reach(r, SC_TWIN_BITS(INFINITY), r.draw.top_k, s, &before, one()));
    uint64_t each = sc_draw_mass(last, r.draw.scale);
    if (r.draw.top_p < 1.0f) {
        const uint64_t need = needed(worth(r, 0, last, s, mass_of()), r.draw.top_p);
        last = reach(r, last, need, s, &before, mass_of());
        each = sc_draw_mass(last, r.draw.scale);
        n_ties = (uint32_t)((need - before + each - 1) / each);
    }
    __syncthreads();
    sum_kept(r, last, s);
    if (threadIdx.x < 32)
        at = draw_of_kept(r, s, last, n_ties, each);
    return at;
}

#endif
