/* cuda/kernels_attention_bring.cuh - the third warpgroup of a block of kernels_attention_tasks.cu:
 * a warp that brings K and V, and three that bring queries; the first of these also finds tasks. */
#ifndef SC_CUDA_KERNELS_ATTENTION_BRING_CUH
#define SC_CUDA_KERNELS_ATTENTION_BRING_CUH

#include "cuda/kernels_attention_tasks.cuh"

#define SLOW  8 /* pages copied without the copy engine: loads on their way at a time */
#define AHEAD 4

/* ---- the warp that brings K and V ---- */

/* What the task's rows see of a page of tile t. */
__device__ __forceinline__ slots page_slots(const task &k, int t, int page)
{
    return slots_of(k.v, t * TILE_PAGES + page, k.low, k.own);
}

/* Eight lanes have a page of the tile each. */
__device__ __forceinline__ slots lane_slots(const task &k, int t)
{
    return page_slots(k, t, (int)threadIdx.x % 32 / 8);
}

__device__ __forceinline__ uint32_t lane_page_id(const task &k, int t)
{
    int i = t * TILE_PAGES + (int)threadIdx.x % 32 / 8 - k.v.lead;
    return t <= k.last && any_slot(lane_slots(k, t)) ? k.v.table[i] : 0;
}

/* Four biases of the tile: entries 4 lane .. */
__device__ __forceinline__ float4 lane_bias(const sc_cuda_attn &a, const task &k, int t,
                                            uint32_t id)
{
    if (!any_slot(lane_slots(k, t)))
        return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    return *(const float4 *)(a.mem + id * a.page_bytes + k.head * a.head_bytes + a.bias_offset +
                             threadIdx.x % 8 * 16);
}

/* Bytes of the pages for whose lanes it holds. */
template <int D> __device__ __forceinline__ uint32_t bytes_of(bool whole)
{
    return (uint32_t)__popc(__ballot_sync(0xffffffffu, whole)) / 8 * ENTRIES * D * 2;
}

/* The lane's page, K or V by row: of its eight lanes one for each 64 dimensions. */
template <int D>
__device__ __forceinline__ void copy_page(const sc_cuda_attn &a, const task &k,
                                          const tensor_map &map, uint32_t tile, uint32_t id,
                                          int row, uint32_t full)
{
    const int page = (int)threadIdx.x % 32 / 8, panel = (int)threadIdx.x % 8;
    if (panel < D / PANEL_DIMS)
        copy_box(tile + (panel * KEYS + page * ENTRIES) * 128, map, panel * PANEL_DIMS, row,
                 (int)(id * a.n_kv_heads + k.head), full);
}

/* K of a tile with its biases, which are waited for when K is on its way. What no row sees may be
 * anything: its scores are overwritten. */
template <int D>
__device__ __forceinline__ void put_k(const sc_cuda_attn &a, const task &k, const tensor_map &map,
                                      stages &b, uint32_t tiles, uint32_t at, uint32_t round, int t,
                                      uint32_t id)
{
    const uint32_t full = shared_address(&b.k_full[at]);
    const int lane = (int)threadIdx.x % 32;
    const float4 bias = lane_bias(a, k, t, id);
    const float inverse = 1.0f / a.scale;
    const bool seen = any_slot(lane_slots(k, t));
    const uint32_t bytes = bytes_of<D>(seen);

    barrier_wait(shared_address(&b.k_free[at]), round ^ 1);
    if (lane == 0)
        barrier_announce(full, bytes);
    __syncwarp();
    if (seen)
        copy_page<D>(a, k, map, tiles + at * layout<D>::tile, id, 0, full);
    const bool biased = __any_sync(
        0xffffffffu, !(bias.x == 0.0f && bias.y == 0.0f && bias.z == 0.0f && bias.w == 0.0f));
    if (biased)
        *(float4 *)&b.bias[at][lane * 4] =
            make_float4(bias.x * inverse, bias.y * inverse, bias.z * inverse, bias.w * inverse);
    if (lane == 0)
        b.biased[at] = biased;
    __syncwarp();
    if (lane == 0)
        barrier_arrive(full);
}

/* Slots s of a page's V; zeros elsewhere, which weight 0 does not turn into NaN. */
template <int D>
__device__ __forceinline__ void fill_page(const uint8_t *from, uint32_t tile, int page, slots s)
{
    constexpr int n = ENTRIES * D / 8 / 32;
    const int lane = (int)threadIdx.x % 32;
#pragma unroll 1
    for (int i = 0; i < n; i += SLOW) {
        uint4 x[SLOW];
#pragma unroll
        for (int j = 0; j < SLOW; j++) {
            const int c = (i + j) * 32 + lane, row = c / (D / 8);
            x[j] = row >= s.lo && row < s.hi ? *(const uint4 *)(from + c * 16)
                                             : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int j = 0; j < SLOW; j++) {
            const int c = (i + j) * 32 + lane;
            store_shared(tile + panel_at(KEYS, page * ENTRIES + c / (D / 8), c % (D / 8)), x[j]);
        }
    }
}

template <int D>
__device__ __forceinline__ void put_v(const sc_cuda_attn &a, const task &k, const tensor_map &map,
                                      stages &b, uint32_t tiles, uint32_t at, uint32_t round, int t,
                                      uint32_t id)
{
    const uint32_t full = shared_address(&b.v_full[at]), tile = tiles + at * layout<D>::tile;
    const bool whole = all_slots(lane_slots(k, t));
    const uint32_t bytes = bytes_of<D>(whole);

    barrier_wait(shared_address(&b.v_free[at]), round ^ 1);
    if (bytes != TILE_PAGES * ENTRIES * D * 2) {
#pragma unroll 1
        for (int page = 0; page < TILE_PAGES; page++) {
            const slots s = page_slots(k, t, page);
            const uint32_t page_id = __shfl_sync(0xffffffffu, id, page * 8);
            if (!all_slots(s))
                fill_page<D>(a.mem + page_id * a.page_bytes + k.head * a.head_bytes + a.v_offset,
                             tile, page, s);
        }
        shared_fence();
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        barrier_expect(full, bytes);
    __syncwarp();
    if (whole)
        copy_page<D>(a, k, map, tile, id, ENTRIES, full);
}

/* K runs one tile ahead of V. Page ids are read one tile ahead. */
template <int D>
__device__ __forceinline__ void bring_keys(const sc_cuda_attn &a, const tensor_map &map, stages &b,
                                           uint8_t *shared)
{
    const uint32_t k_tiles = shared_address(shared + layout<D>::k);
    const uint32_t v_tiles = shared_address(shared + layout<D>::v);
    turn<K_STAGES> k_to;
    turn<V_STAGES> v_to;
    turn<Q_STAGES> from;

    if (threadIdx.x % 32 == 0)
        prefetch_map(map);
#pragma unroll 1
    for (;; from.pass()) {
        barrier_wait(shared_address(&b.told[from.at()]), from.round());
        const uint32_t number = read_flag(b.tasks[from.at()]);
        if (number == NO_TASK)
            return;
        const task k = task_of(a, number);
        uint32_t past = 0, id = lane_page_id(k, k.first);
#pragma unroll 1
        for (int t = k.first; t <= k.last + 1; t++) {
            const uint32_t next = lane_page_id(k, t + 1);
            /* The next task's queries take about as long as the tiles that are left; to know it
             * earlier would give tasks to blocks that will be busy when others are not. */
            if (threadIdx.x % 32 == 0 && t == max(k.first, k.last - 1))
                barrier_arrive(shared_address(&b.due));
            if (t <= k.last) {
                put_k<D>(a, k, map, b, k_tiles, k_to.at(), k_to.round(), t, id);
                k_to.pass();
            }
            if (t > k.first) {
                put_v<D>(a, k, map, b, v_tiles, v_to.at(), v_to.round(), t - 1, past);
                v_to.pass();
            }
            past = id;
            id = next;
        }
    }
}

/* ---- the warps that bring queries ---- */

/* A task's rows as bf16, those beyond the sequence like its last. */
template <int D>
__device__ __forceinline__ void put_rows(const sc_cuda_attn &a, const task &k, uint8_t *q)
{
    constexpr int step = CARRIERS / (D / 8); /* rows whose pieces of eight are loaded at once */
    const int thread = (int)threadIdx.x - (THREADS - CARRIERS), chunk = thread % (D / 8);
    const float *from =
        a.q + (size_t)k.v.row0 * a.q_stride + (size_t)k.head * a.group * D + chunk * 8;
#pragma unroll 1
    for (int row0 = thread / (D / 8); row0 < ROWS; row0 += AHEAD * step) {
        float4 x[AHEAD][2];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const uint32_t row = min(k.x0 + (uint32_t)(row0 + i * step), k.n_rows - 1);
            const float4 *at = (const float4 *)(from + (size_t)(row / a.group) * a.q_stride +
                                                (size_t)(row % a.group) * D);
            x[i][0] = at[0];
            x[i][1] = at[1];
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (row0 + i * step < ROWS)
                *(uint4 *)(q + panel_at(ROWS, row0 + i * step, chunk)) =
                    make_uint4(pack_bf16(x[i][0].x, x[i][0].y), pack_bf16(x[i][0].z, x[i][0].w),
                               pack_bf16(x[i][1].x, x[i][1].y), pack_bf16(x[i][1].z, x[i][1].w));
        }
    }
}

/* By the first of these warps. One more task, as soon as that is due. */
__device__ __forceinline__ uint32_t find_next(const sc_cuda_attn &a, stages &b, search &s,
                                              uint32_t n_before, uint32_t n_tasks)
{
    uint32_t rank = blockIdx.x;
    if (n_before > 0) {
        barrier_wait(shared_address(&b.due), (n_before - 1) % 2);
        if (threadIdx.x % 32 == 0)
            rank = next_rank(a, n_tasks);
        rank = __shfl_sync(0xffffffffu, rank, 0);
    }
    return find_task(a, s, rank);
}

/* Overwrites a task's number and its queries when the block has no more use for them. */
template <int D>
__device__ __forceinline__ void bring_queries(const sc_cuda_attn &a, stages &b, uint8_t *shared)
{
    uint32_t n_tasks = 0;
    search s = {0, 0};

#pragma unroll 1
    for (uint32_t n = 0;; n++) {
        const uint32_t at = n % Q_STAGES;
        barrier_wait(shared_address(&b.q_free[at]), (n / Q_STAGES & 1) ^ 1);
        if (threadIdx.x < THREADS - CARRIERS + 32) {
            const uint32_t found = find_next(a, b, s, n, n_tasks);
            if (threadIdx.x % 32 == 0) {
                b.tasks[at] = found;
                barrier_arrive(shared_address(&b.told[at]));
            }
            if (n == 0)
                n_tasks = count_tasks(a);
        }
        meet<CARRIERS>(CARRIED);
        const uint32_t number = read_flag(b.tasks[at]);
        if (number != NO_TASK) {
            put_rows<D>(a, task_of(a, number), shared + at * layout<D>::queries);
            shared_fence();
        }
        release(b.q_full[at]);
        if (number == NO_TASK)
            return;
    }
}

#endif
