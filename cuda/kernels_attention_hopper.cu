/* cuda/kernels_attention_hopper.cu - attention of blocks of rows, Hopper's matrix instructions fed
 * by its tensor copies.
 *
 * Does what kernels_attention_prefill.cu does. One block per (tile of 128 rows, KV head, sequence),
 * three warpgroups. A warp of the third brings K and V, 128 entries at a time and up to STAGES
 * ahead. The first two have 64 rows each and take turns: while one makes weights of scores, the
 * other's products run. Within one, O += P(t) V(t) runs during the exponentials of tile t + 1.
 */
#include <string.h>

#include "cuda/kernels_attention_group.cuh"
#include "cuda/tma.cuh"

#define THREADS  384
#define WORKERS  256 /* threads that have rows */
#define STAGES   3   /* tiles of K in shared memory, and of V */
#define READERS  (WORKERS / 32)
#define TURN     1 /* barriers of the block: the turn of warpgroup 0 or 1 .. */
#define QUERIES  3 /* .. and that its queries are there */
#define SLOW     4 /* pages copied without the copy engine: loads on their way at a time */
#define REGS_IN  40
#define REGS_OUT 232

struct stages {
    float bias[STAGES][KEYS]; /* over scale */
    uint64_t k_full[STAGES], v_full[STAGES], k_free[STAGES], v_free[STAGES];
    int biased[STAGES];  /* 0: all biases of the tile are 0 */
    float sink[READERS]; /* see pin */
};

template <int D> struct layout {
    static constexpr int tile = KEYS * D * 2;
    static constexpr int k = ROWS * D * 2, v = k + STAGES * tile, stages = v + STAGES * tile;
    static constexpr int bytes = stages + (int)sizeof(struct stages);
};

/* ---- the warp that brings K and V ---- */

__device__ __forceinline__ slots page_slots(const task &k, int t, int page)
{
    return slots_of(k.v, t * TILE_PAGES + page, k.low, k.own);
}

/* Eight lanes have a page of the tile each. */
__device__ __forceinline__ uint32_t lane_page_id(const task &k, int t, int lane)
{
    int i = t * TILE_PAGES + lane / 8 - k.v.lead;
    return t <= k.last && any_slot(page_slots(k, t, lane / 8)) ? k.v.table[i] : 0;
}

/* Four biases of the tile: entries 4 lane .. */
__device__ __forceinline__ float4 lane_bias(const sc_cuda_attn &a, const task &k, int t,
                                            uint32_t id, int lane)
{
    if (t > k.last || !any_slot(page_slots(k, t, lane / 8)))
        return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    return *(const float4 *)(a.mem + id * a.page_bytes + k.head * a.head_bytes + a.bias_offset +
                             lane % 8 * 16);
}

/* Page `page` of a tile, K or V by row, by one thread. */
template <int D>
__device__ __forceinline__ void copy_page(const sc_cuda_attn &a, const task &k,
                                          const tensor_map &map, uint32_t tile, int page,
                                          uint32_t id, int row, uint32_t full)
{
#pragma unroll
    for (int panel = 0; panel < D / PANEL_DIMS; panel++)
        copy_box(tile + (panel * KEYS + page * ENTRIES) * 128, map, panel * PANEL_DIMS, row,
                 (int)(id * a.n_kv_heads + k.head), full);
}

/* K of a tile with its biases. What no row sees may be anything: its scores are overwritten. */
template <int D>
__device__ __forceinline__ void put_k(const sc_cuda_attn &a, const task &k, const tensor_map &map,
                                      stages &b, uint32_t tiles, int t, uint32_t id, float4 bias,
                                      int lane)
{
    const int i = t - k.first, at = i % STAGES;
    const uint32_t full = shared_address(&b.k_full[at]), tile = tiles + at * layout<D>::tile;
    const float inverse = 1.0f / a.scale;
    uint32_t bytes = 0;

    barrier_wait(shared_address(&b.k_free[at]), (i / STAGES & 1) ^ 1);
    const bool biased = __any_sync(
        0xffffffffu, !(bias.x == 0.0f && bias.y == 0.0f && bias.z == 0.0f && bias.w == 0.0f));
    if (biased)
        *(float4 *)&b.bias[at][lane * 4] =
            make_float4(bias.x * inverse, bias.y * inverse, bias.z * inverse, bias.w * inverse);
    if (lane == 0)
        b.biased[at] = biased;
    __syncwarp();
#pragma unroll
    for (int page = 0; page < TILE_PAGES; page++)
        bytes += any_slot(page_slots(k, t, page)) ? ENTRIES * D * 2 : 0;
    if (lane == 0)
        barrier_expect(full, bytes);
#pragma unroll
    for (int page = 0; page < TILE_PAGES; page++) {
        uint32_t page_id = __shfl_sync(0xffffffffu, id, page * 8);
        if (lane == 0 && any_slot(page_slots(k, t, page)))
            copy_page<D>(a, k, map, tile, page, page_id, 0, full);
    }
}

/* Slots s of a page's V; zeros elsewhere, which weight 0 does not turn into NaN. */
template <int D>
__device__ __forceinline__ void fill_page(const uint8_t *from, uint32_t tile, int page, slots s,
                                          int lane)
{
    constexpr int n = ENTRIES * D / 8 / 32;
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
                                      stages &b, uint32_t tiles, int t, uint32_t id, int lane)
{
    const int i = t - k.first, at = i % STAGES;
    const uint32_t full = shared_address(&b.v_full[at]), tile = tiles + at * layout<D>::tile;
    uint32_t bytes = 0;

    barrier_wait(shared_address(&b.v_free[at]), (i / STAGES & 1) ^ 1);
#pragma unroll
    for (int page = 0; page < TILE_PAGES; page++) {
        const slots s = page_slots(k, t, page);
        uint32_t page_id = __shfl_sync(0xffffffffu, id, page * 8);
        if (all_slots(s)) {
            bytes += ENTRIES * D * 2;
            continue;
        }
        fill_page<D>(a.mem + page_id * a.page_bytes + k.head * a.head_bytes + a.v_offset, tile,
                     page, s, lane);
    }
    if (bytes != TILE_PAGES * ENTRIES * D * 2) {
        shared_fence();
        __syncwarp();
    }
    if (lane == 0)
        barrier_expect(full, bytes);
#pragma unroll
    for (int page = 0; page < TILE_PAGES; page++) {
        uint32_t page_id = __shfl_sync(0xffffffffu, id, page * 8);
        if (lane == 0 && all_slots(page_slots(k, t, page)))
            copy_page<D>(a, k, map, tile, page, page_id, ENTRIES, full);
    }
}

/* K runs one tile ahead of V. Page ids are read two tiles ahead, biases one. */
template <int D>
__device__ __forceinline__ void bring(const sc_cuda_attn &a, const task &k, const tensor_map &map,
                                      stages &b, uint8_t *shared)
{
    const int lane = (int)threadIdx.x % 32;
    const uint32_t k_tiles = shared_address(shared + layout<D>::k);
    const uint32_t v_tiles = shared_address(shared + layout<D>::v);
    uint32_t past = 0, id = lane_page_id(k, k.first, lane);
    uint32_t next = lane_page_id(k, k.first + 1, lane);
    float4 bias = lane_bias(a, k, k.first, id, lane);
#pragma unroll 1
    for (int t = k.first; t <= k.last + 1; t++) {
        const uint32_t later = lane_page_id(k, t + 2, lane);
        const float4 next_bias = lane_bias(a, k, t + 1, next, lane);
        if (t <= k.last)
            put_k<D>(a, k, map, b, k_tiles, t, id, bias, lane);
        if (t > k.first)
            put_v<D>(a, k, map, b, v_tiles, t - 1, past, lane);
        past = id;
        id = next;
        next = later;
        bias = next_bias;
    }
}

/* ---- the warpgroups that have rows ---- */

/* All loads are on their way before the first is used. */
template <int D>
__device__ __forceinline__ void load_rows(const sc_cuda_attn &a, const task &k, uint8_t *q)
{
    constexpr int step = 128 / (D / 8), n = 64 / step; /* rows copied at once */
    const int row0 = (int)threadIdx.x / 128 * 64 + (int)threadIdx.x % 128 / (D / 8);
    const int chunk = (int)threadIdx.x % (D / 8);
    float4 x[n][2];
#pragma unroll
    for (int i = 0; i < n; i++) {
        const uint32_t row = min(k.x0 + (uint32_t)(row0 + i * step), k.n_rows - 1);
        const float4 *from =
            (const float4 *)(a.q + (size_t)(k.v.row0 + row / a.group) * a.q_stride +
                             (size_t)(k.head * a.group + row % a.group) * D + chunk * 8);
        x[i][0] = from[0];
        x[i][1] = from[1];
    }
#pragma unroll
    for (int i = 0; i < n; i++)
        *(uint4 *)(q + panel_at(ROWS, row0 + i * step, chunk)) =
            make_uint4(pack_bf16(x[i][0].x, x[i][0].y), pack_bf16(x[i][0].z, x[i][0].w),
                       pack_bf16(x[i][1].x, x[i][1].y), pack_bf16(x[i][1].z, x[i][1].w));
}

/* Begins scores of the warpgroup's 64 rows and the 128 entries of a tile. */
template <int D>
__device__ __forceinline__ void begin_scores(float (&s)[KEYS / 8][4], uint32_t q, uint32_t k)
{
    group_fence();
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        const uint32_t panel = i / 4, at = i % 4 * 32;
        const uint64_t rows = matrix_at(q + panel * ROWS * 128 + at, 16, 1024);
        const uint64_t keys = matrix_at(k + panel * KEYS * 128 + at, 16, 1024);
        if (i == 0)
            group_multiply_128<false>(s, rows, keys);
        else
            group_multiply_128<true>(s, rows, keys);
    }
    group_commit();
}

/* The wait that follows is not put before the exponentials, which are to be made while the matrix
 * instructions run: it stays behind a store that needs all of them. */
__device__ __forceinline__ void pin(stages &b, const float (&l)[2])
{
    store_of_first(shared_address(&b.sink[threadIdx.x / 32]), l[0] + l[1], threadIdx.x % 32);
}

/* Read by the lane that gives the stage back, so that the order is plain to racecheck. */
__device__ __forceinline__ bool is_biased(const stages &b, int at)
{
    return __shfl_sync(0xffffffffu, threadIdx.x % 32 == 0 ? b.biased[at] : 0, 0) != 0;
}

/* This warp is past a stage: all its lanes. */
__device__ __forceinline__ void release(uint64_t &barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        barrier_arrive(shared_address(&barrier));
}

template <int D>
__device__ __forceinline__ void store_rows(const sc_cuda_attn &a, const task &k,
                                           const float (&o)[D / 8][4], const float (&l)[2])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float sum = quad_sum(l[r]), inverse = sum == 0.0f ? 0.0f : __frcp_rn(sum);
        const uint32_t x = k.x0 + (uint32_t)row_of(r);
        size_t at = (size_t)(k.v.row0 + x / a.group) * a.n_heads * D +
                    (size_t)(k.head * a.group + x % a.group) * D + threadIdx.x % 4 * 2;
#pragma unroll
        for (int n = 0; n < D / 8 && x < k.n_rows; n++) {
            float2 y = make_float2(o[n][2 * r] * inverse, o[n][2 * r + 1] * inverse);
            if (a.out != NULL)
                *(float2 *)(a.out + at + 8 * n) = y;
            if (a.image != NULL)
                *(uint32_t *)(a.image + at + 8 * n) = pack_bf16(y.x, y.y);
        }
    }
}

template <int D>
__device__ __forceinline__ void attend(const sc_cuda_attn &a, const task &k, stages &b,
                                       uint8_t *shared)
{
    const int group = (int)threadIdx.x / 128;
    const uint32_t q = shared_address(shared) + group * 64 * 128;
    const uint32_t k_tiles = shared_address(shared + layout<D>::k);
    const uint32_t v_tiles = shared_address(shared + layout<D>::v);
    const float c = a.scale * LOG2E, slack = SLACK / c;
    const sight g = sight_of(a, k);
    float o[D / 8][4] = {}, s[KEYS / 8][4], l[2] = {}, m[2] = {-INFINITY, -INFINITY}, factor[2];
    uint32_t p[KEYS / 16][4], at = 0, round = 0; /* stage and parity of tile t */

    load_rows<D>(a, k, shared);
    shared_fence();
    meet<128>(QUERIES + group);
    barrier_wait(shared_address(&b.k_full[0]), 0);
    begin_scores<D>(s, q, k_tiles);
    if (group == 1 && k.first < k.last) /* else warpgroup 0 does not meet it */
        let_pass<WORKERS>(TURN);
    group_wait<0>();
    if (is_biased(b, 0))
        add_biases(s, b.bias[0]);
    release(b.k_free[0]);
    hide(g, k.first, s);
    weigh(s, m, l, factor, c, slack);
    round_weights(p, s);

#pragma unroll 1
    for (int t = k.first; t < k.last; t++) {
        const uint32_t next = at + 1 == STAGES ? 0 : at + 1, next_round = round ^ (next == 0);
        barrier_wait(shared_address(&b.k_full[next]), next_round);
        meet<WORKERS>(TURN + group);
        begin_scores<D>(s, q, k_tiles + next * layout<D>::tile);
        barrier_wait(shared_address(&b.v_full[at]), round);
        begin_values<D>(o, p, v_tiles + at * layout<D>::tile);
        if (group == 0 || t + 1 < k.last)
            let_pass<WORKERS>(TURN + (group ^ 1));
        group_wait<1>();
        if (is_biased(b, (int)next))
            add_biases(s, b.bias[next]);
        release(b.k_free[next]);
        hide(g, t + 1, s);
        weigh(s, m, l, factor, c, slack);
        pin(b, l);
        group_wait<0>();
        release(b.v_free[at]);
        rescale<D>(o, factor);
        round_weights(p, s);
        at = next;
        round = next_round;
    }
    barrier_wait(shared_address(&b.v_full[at]), round);
    begin_values<D>(o, p, v_tiles + at * layout<D>::tile);
    group_wait<0>();
    store_rows<D>(a, k, o, l);
}

/* ---- the block ---- */

/* False: there are no such rows. */
__device__ __forceinline__ bool find_task(const sc_cuda_attn &a, uint32_t n_tiles, task &k)
{
    const uint32_t seq = blockIdx.x / a.n_kv_heads % a.seqs.n_seqs;
    k.head = blockIdx.x % a.n_kv_heads;
    k.x0 = (n_tiles - 1 - blockIdx.x / a.n_kv_heads / a.seqs.n_seqs) * ROWS; /* longest first */
    k.v = view_of(a, seq, TILE_PAGES);
    k.n_rows = k.v.n_rows * a.group;
    if (k.x0 >= k.n_rows || (a.split && is_small(a, k.v.n_rows)))
        return false;
    k.low = low_entry(k.v, token_of(a, k, 0));
    k.own = own_entry(k.v, token_of(a, k, ROWS - 1));
    k.first = k.v.n_cores > 0 ? 0 : k.low / KEYS;
    k.last = k.own / KEYS;
    return true;
}

template <int D>
__device__ __forceinline__ void run_block(const sc_cuda_attn &a, const tensor_map &map,
                                          uint32_t n_tiles, uint8_t *shared)
{
    stages &b = *(stages *)(shared + layout<D>::stages);
    task k;

    if (!find_task(a, n_tiles, k))
        return;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(shared_address(&b.k_full[i]), 1);
            barrier_init(shared_address(&b.v_full[i]), 1);
            barrier_init(shared_address(&b.k_free[i]), READERS);
            barrier_init(shared_address(&b.v_free[i]), READERS);
        }
        barriers_made();
    }
    __syncthreads();
    if (threadIdx.x >= WORKERS) {
        fewer_registers<REGS_IN>();
        if (threadIdx.x < WORKERS + 32)
            bring<D>(a, k, map, b, shared);
    } else {
        more_registers<REGS_OUT>();
        attend<D>(a, k, b, shared);
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 1)
    hopper_kernel(const __grid_constant__ sc_cuda_attn a, const __grid_constant__ tensor_map map,
                  uint32_t n_tiles)
{
    extern __shared__ __align__(1024) uint8_t shared[];
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
    run_block<D>(a, map, n_tiles, shared);
#else
    (void)shared; /* a build without machine code for sm_90a: fail rather than write nothing */
    (void)n_tiles;
    __trap();
#endif
}

template <int D> static cudaError_t launch(const sc_cuda_attn *a, cudaStream_t stream)
{
    uint32_t n_tiles = (a->seqs.max_rows * a->group + ROWS - 1) / ROWS;
    uint64_t n_blocks = (uint64_t)n_tiles * a->n_kv_heads * a->seqs.n_seqs;
    tensor_map map;
    static_assert(layout<D>::bytes <= 227 * 1024, "shared memory of a block");
    if (n_blocks == 0 || n_blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    memcpy(&map, a->tensor_map, sizeof(map));
    hopper_kernel<D><<<(unsigned)n_blocks, THREADS, layout<D>::bytes, stream>>>(*a, map, n_tiles);
    return cudaGetLastError();
}

extern "C" cudaError_t sc_cuda_attn_prefill_hopper(const struct sc_cuda_attn *a,
                                                   cudaStream_t stream)
{
    switch (a->head_dim) {
    case 64:
        return launch<64>(a, stream);
    case 128:
        return launch<128>(a, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

extern "C" cudaError_t sc_cuda_attn_prefill_hopper_init(void)
{
    cudaError_t rc = cudaFuncSetAttribute(
        hopper_kernel<64>, cudaFuncAttributeMaxDynamicSharedMemorySize, layout<64>::bytes);
    if (rc == cudaSuccess)
        rc = cudaFuncSetAttribute(hopper_kernel<128>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  layout<128>::bytes);
    return rc;
}
