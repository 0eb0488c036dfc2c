/* cuda/kernels_draw.cu - a token drawn from each row of logits; twin and reference: base/draw.c.
 *
 * One block a row. Masses are whole numbers, so sums need no order, and what is drawn is what the
 * CPU draws from the same logits. Without filters two passes over the row do: masses of chunks of
 * 1024 columns, then those of the one chunk in which the target lies. With top-k or top-p the
 * likeliest columns go to a list in shared memory: a bound on their distance is found first (the
 * k-th smallest of the threads' own smallest distances; or what an equal share of the mass that
 * top-p leaves out comes to, narrowed if that lets in too many), the list is sorted by (distance,
 * column), cut, and sorted by column for the draw. Where no list serves, as more columns stay than
 * fit, or what was found lacks mass, the last distance that stays is found by bisection of its
 * bits, and the row is drawn from in two more passes.
 */
#include "cuda/kernels_draw.cuh"
#include "cuda/kernels_draw.h"

/* Masses of all chunks and of the row, by the whole block. */
static __device__ void sum_chunks(const struct row &r, struct scratch *s)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t n_chunks = (r.n_cols + CHUNK - 1) / CHUNK;
    uint64_t total = 0;

    for (uint32_t chunk = warp; chunk < n_chunks; chunk += WARPS) {
        uint64_t sum = 0;
        for (uint32_t i = lane; i < CHUNK; i += 32)
            sum += mass_at(r, chunk * CHUNK + i);
        sum = sum_of_warp(sum);
        if (lane == 0)
            s->chunks[chunk] = sum;
    }
    __syncthreads();
    if (warp == 0) {
        for (uint32_t chunk = lane; chunk < n_chunks; chunk += 32)
            total += s->chunks[chunk];
        total = sum_of_warp(total);
        if (lane == 0)
            s->total = total;
    }
    __syncthreads();
}

/* By the first warp. */
static __device__ uint32_t draw_unfiltered(const struct row &r, const struct scratch *s)
{
    uint64_t left = 0;
    const uint32_t chunk = walk((r.n_cols + CHUNK - 1) / CHUNK, __umul64hi(r.draw.random, s->total),
                                &left, [&](uint32_t i) { return s->chunks[i]; });
    const uint32_t first = chunk * CHUNK;
    return first +
           walk(CHUNK, left, &left, [&](uint32_t i) { return (uint64_t)mass_at(r, first + i); });
}

/* Bitonic, rising; size is a power of two. */
static __device__ void sort(uint64_t *list, uint32_t size)
{
    for (uint32_t length = 2; length <= size; length *= 2) {
        for (uint32_t step = length / 2; step > 0; step /= 2) {
            for (uint32_t i = threadIdx.x; i < size / 2; i += THREADS) {
                const uint32_t low = i / step * 2 * step + i % step, high = low + step;
                const bool rising = (low & length) == 0;
                const uint64_t a = list[low], b = list[high];
                if ((a > b) == rising) {
                    list[low] = b;
                    list[high] = a;
                }
            }
            __syncthreads();
        }
    }
}

/* No more than the threads' k-th smallest of their own smallest distances. */
static __device__ uint32_t bound_of_top_k(const struct row &r, struct scratch *s)
{
    uint32_t least = SC_TWIN_BITS(INFINITY);
    for (uint32_t c = threadIdx.x; c < r.n_cols; c += THREADS)
        least = min(least, sc_draw_distance(r.max, r.x[c]));
    s->list[threadIdx.x] = least;
    __syncthreads();
    sort(s->list, THREADS);
    const uint32_t bound = (uint32_t)s->list[r.draw.top_k - 1];
    __syncthreads();
    return bound;
}

static __device__ uint32_t bound_of_top_p(const struct row &r, const struct scratch *s)
{
    const float least =
        (float)s->total * (1.0f - r.draw.top_p) / (float)r.n_cols + 1e-3f; /* a guess will do */
    const float distance = log2f((float)SC_DRAW_ONE / least) / -r.draw.scale;
    return distance > 0.0f ? SC_TWIN_BITS(distance) : 0;
}

/* Mass and number of the columns with distances <= bound, into within and n. */
static __device__ void measure(const struct row &r, uint32_t bound, struct scratch *s)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t mass = 0, n = 0;

    for (uint32_t c = threadIdx.x; c < r.n_cols; c += THREADS) {
        const uint32_t distance = sc_draw_distance(r.max, r.x[c]);
        if (distance <= bound) {
            mass += sc_draw_mass(distance, r.draw.scale);
            n++;
        }
    }
    mass = sum_of_warp(mass);
    n = sum_of_warp(n);
    if (lane == 0) {
        s->list[warp] = mass;
        s->list[WARPS + warp] = n;
    }
    __syncthreads();
    if (warp == 0) {
        mass = sum_of_warp(s->list[lane]);
        n = sum_of_warp(s->list[WARPS + lane]);
        if (lane == 0) {
            s->within = mass;
            s->n = (uint32_t)n;
        }
    }
    __syncthreads();
}

/* A bound within which columns are few enough for the list and as many as top-k wants, or of the
 * mass that top-p wants, by bisection of its bits from one that lets in too many. If there is none,
 * that one. */
static __device__ uint32_t narrow(const struct row &r, uint32_t bound, bool top_k,
                                  struct scratch *s)
{
    const uint64_t need = top_k ? 0 : needed(s->total, r.draw.top_p);
    uint32_t low = 0, high = bound;

    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        measure(r, middle, s);
        const bool fits = s->n <= LIST_MAX;
        const bool enough = top_k ? s->n >= r.draw.top_k : s->within >= need;
        __syncthreads();
        if (fits == enough)
            return fits ? middle : bound;
        if (fits)
            low = middle + 1;
        else
            high = middle;
    }
    return bound;
}

/* Columns with distances <= bound; the list is then padded to a power of two, and sorted. False:
 * more than fit. */
static __device__ bool collect(const struct row &r, uint32_t bound, struct scratch *s)
{
    uint32_t size = 2;

    __syncthreads(); /* all have read what the last call counted */
    if (threadIdx.x == 0)
        s->n = 0;
    __syncthreads();
    for (uint32_t c = threadIdx.x; c < r.n_cols; c += THREADS) {
        const uint32_t distance = sc_draw_distance(r.max, r.x[c]);
        if (distance > bound)
            continue;
        const uint32_t at = atomicAdd(&s->n, 1);
        if (at < LIST_MAX)
            s->list[at] = (uint64_t)distance << 32 | c;
    }
    __syncthreads();
    const uint32_t n = s->n;
    if (n > LIST_MAX)
        return false;
    while (size < n)
        size *= 2;
    for (uint32_t i = n + threadIdx.x; i < size; i += THREADS)
        s->list[i] = NOTHING;
    __syncthreads();
    sort(s->list, size);
    return true;
}

/* How many of the sorted list stay, by the first warp; 0: that cannot be said. */
static __device__ uint32_t cut(const struct row &r, const struct scratch *s, bool top_k)
{
    const uint32_t lane = threadIdx.x % 32;
    const float scale = r.draw.scale;
    uint64_t total = s->total, left;
    uint32_t n = s->n;
    const auto mass = [&](uint32_t i) {
        return (uint64_t)sc_draw_mass((uint32_t)(s->list[i] >> 32), scale);
    };

    if (top_k) {
        if (r.draw.top_k < n) { /* those that tie with the k-th stay */
            const uint32_t last = (uint32_t)(s->list[r.draw.top_k - 1] >> 32);
            n = walk(n, 0, &left, [&](uint32_t i) { return (uint64_t)(s->list[i] >> 32 > last); });
        }
        total = 0;
        for (uint32_t i = lane; i < n; i += 32)
            total += mass(i);
        total = sum_of_warp(total);
    }
    if (r.draw.top_p < 1.0f) {
        const uint32_t at = walk(n, needed(total, r.draw.top_p) - 1, &left, mass);
        n = at < n ? at + 1 : 0;
    }
    return n;
}

/* Of the first n of the list, which are then sorted by column; by the whole block. */
static __device__ uint32_t draw_of_list(const struct row &r, struct scratch *s, uint32_t n)
{
    uint32_t size = 2, at = 0;
    uint64_t total = 0, left;
    const auto mass = [&](uint32_t i) {
        return (uint64_t)sc_draw_mass((uint32_t)s->list[i], r.draw.scale);
    };

    while (size < n)
        size *= 2;
    for (uint32_t i = threadIdx.x; i < size; i += THREADS)
        s->list[i] = i < n ? s->list[i] << 32 | s->list[i] >> 32 : NOTHING;
    __syncthreads();
    sort(s->list, size);
    if (threadIdx.x < 32) {
        for (uint32_t i = threadIdx.x; i < n; i += 32)
            total += mass(i);
        total = sum_of_warp(total);
        at = walk(n, __umul64hi(r.draw.random, total), &left, mass);
    }
    return (uint32_t)(s->list[at] >> 32);
}

static __device__ uint32_t draw_filtered(const struct row &r, struct scratch *s)
{
    const bool top_k = r.draw.top_k > 0 && r.draw.top_k < r.n_cols;
    uint32_t bound;

    if (top_k) {
        bound = r.draw.top_k <= THREADS ? bound_of_top_k(r, s) : SC_TWIN_BITS(INFINITY);
    } else {
        sum_chunks(r, s);
        bound = bound_of_top_p(r, s);
    }
    bound = min(bound, r.draw.last);
    bool fits = collect(r, bound, s);
    if (!fits)
        fits = collect(r, narrow(r, bound, top_k, s), s);
    if (!fits)
        return draw_by_selection(r, top_k, s);
    if (threadIdx.x < 32) {
        const uint32_t n = cut(r, s, top_k);
        if (threadIdx.x == 0)
            s->found = n;
    }
    __syncthreads();
    return s->found == 0 ? draw_by_selection(r, top_k, s) : draw_of_list(r, s, s->found);
}

static __global__ void __launch_bounds__(THREADS, 1)
    draw_kernel(const float *x, uint32_t width, uint32_t n_cols, const struct sc_draw *draws,
                float *best)
{
    __shared__ struct scratch s;
    const struct row r = {x + (size_t)blockIdx.x * width, n_cols, best[2 * blockIdx.x],
                          draws[blockIdx.x]};
    uint32_t column = 0;

    if (r.draw.scale == 0.0f || !isfinite(r.max))
        return;
    if ((r.draw.top_k == 0 || r.draw.top_k >= n_cols) && r.draw.top_p >= 1.0f) {
        sum_chunks(r, &s);
        if (threadIdx.x < 32)
            column = draw_unfiltered(r, &s);
    } else {
        column = draw_filtered(r, &s);
    }
    if (threadIdx.x == 0)
        best[2 * blockIdx.x + 1] = SC_TWIN_FLOAT(column);
}

extern "C" cudaError_t sc_cuda_launch_draw(const float *x, uint32_t n_rows, uint32_t width,
                                           uint32_t n_cols, const struct sc_draw *draws,
                                           float *best, cudaStream_t stream)
{
    draw_kernel<<<n_rows, THREADS, 0, stream>>>(x, width, n_cols, draws, best);
    return cudaGetLastError();
}
