/* cuda/kernels_attention_tasks.cu - attention of blocks of rows, Hopper's matrix instructions fed
 * by its tensor copies, by blocks that stay. Not run on a device yet, so SC_CUDA_PREFILL_TASKS=1
 * has to ask for it.
 *
 * Does what kernels_attention_hopper.cu does. One block per multiprocessor, which does tasks
 * (tiles of 128 rows of a sequence and KV head) one after the other; three warpgroups. The third
 * brings K and V, 128 entries at a time, and queries (kernels_attention_bring.cuh). The first two
 * have 64 rows each and take turns: while one makes weights of scores, the other's products run.
 * Within one, O += P(t) V(t) runs during the exponentials of tile t + 1, also when that is the
 * first of the next task: a task's results are written while the other warpgroup's products run.
 */
#include <string.h>

#include "cuda/kernels_attention_bring.cuh"

#define REGS_IN  72
#define REGS_OUT 216

/* ---- the warpgroups that have rows ---- */

template <int D> __device__ __forceinline__ void clear(float (&o)[D / 8][4])
{
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            o[n][i] = 0.0f;
    }
}

/* Where rows go. */
struct place {
    uint32_t row0, n_rows, head, x0; /* n_rows: of the sequence, tokens x heads of the group */
};

/* Lanes in pairs change what they have of two neighbouring groups of eight columns for four columns
 * of one: whole sectors are written, by half as many instructions. */
__device__ __forceinline__ float4 four_columns(const float (&even)[4], const float (&odd)[4], int r,
                                               float inverse)
{
    const bool is_odd = threadIdx.x % 2 != 0;
    const float x0 = even[2 * r] * inverse, x1 = even[2 * r + 1] * inverse;
    const float y0 = odd[2 * r] * inverse, y1 = odd[2 * r + 1] * inverse;
    const float z0 = __shfl_xor_sync(0xffffffffu, is_odd ? x0 : y0, 1);
    const float z1 = __shfl_xor_sync(0xffffffffu, is_odd ? x1 : y1, 1);
    return is_odd ? make_float4(z0, z1, y0, y1) : make_float4(x0, x1, z0, z1);
}

template <int D>
__device__ __forceinline__ void store(const sc_cuda_attn &a, const place &to,
                                      const float (&o)[D / 8][4], const float (&l)[2])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float sum = quad_sum(l[r]), inverse = sum == 0.0f ? 0.0f : __frcp_rn(sum);
        const uint32_t x = to.x0 + (uint32_t)row_of(r);
        const size_t at = (size_t)(to.row0 + x / a.group) * a.n_heads * D +
                          (size_t)(to.head * a.group + x % a.group) * D + threadIdx.x % 2 * 8 +
                          threadIdx.x % 4 / 2 * 4;
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            const float4 y = four_columns(o[n], o[n + 1], r, inverse);
            if (x >= to.n_rows)
                continue;
            if (a.out != NULL)
                *(float4 *)(a.out + at + 8 * n) = y;
            if (a.image != NULL)
                *(uint2 *)(a.image + at + 8 * n) =
                    make_uint2(pack_bf16(y.x, y.y), pack_bf16(y.z, y.w));
        }
    }
}

/* Begins scores of the warpgroup's 64 rows and the 128 entries of a tile. */
template <int D>
__device__ __forceinline__ void begin_scores(float (&s)[KEYS / 8][4], uint32_t q, uint32_t k)
{
    const uint64_t rows0 = matrix_at(q, 16, 1024), keys0 = matrix_at(k, 16, 1024);
    group_fence();
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        const uint32_t panel = i / 4, at = i % 4 * 32;
        const uint64_t rows = matrix_behind(rows0, panel * ROWS * 128 + at);
        const uint64_t keys = matrix_behind(keys0, panel * KEYS * 128 + at);
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

/* Where the warpgroup is: a task, how many came before it, and its tile of keys. */
struct walk {
    task k;
    sight g;
    turn<Q_STAGES> q;
    turn<K_STAGES> keys;
    turn<V_STAGES> values; /* of the tile whose weights are there */
    int t;
};

/* The number of the task behind, once its queries are there. */
__device__ __forceinline__ uint32_t wait_for_task(stages &b, const turn<Q_STAGES> &q)
{
    barrier_wait(shared_address(&b.q_full[q.at()]), q.round());
    return read_flag(b.tasks[q.at()]);
}

__device__ __forceinline__ void enter(const sc_cuda_attn &a, walk &w, uint32_t number)
{
    w.k = task_of(a, number);
    w.g = sight_of(a, w.k);
    w.t = w.k.first;
}

/* Scores, which are there, to weights. Gives K back, behind the task's last tile queries, too. */
__device__ __forceinline__ void take_scores(stages &b, walk &w, float (&s)[KEYS / 8][4],
                                            float (&m)[2], float (&l)[2], float (&factor)[2],
                                            float c, float slack)
{
    if (read_flag(b.biased[w.keys.at()]) != 0)
        add_biases(s, b.bias[w.keys.at()]);
    release(b.k_free[w.keys.at()]);
    if (w.t == w.k.last)
        release(b.q_free[w.q.at()]);
    w.keys.pass();
    hide(w.g, w.t, s);
    weigh(s, m, l, factor, c, slack);
}

/* Turns: meet and let_pass of TURN + group. Of n tiles of keys, all tasks together, each warpgroup
 * begins n products of scores, the first without having met. Warpgroup 0 meets before each other
 * one and at the end, n times; warpgroup 1 lets it pass behind each of its n. Warpgroup 1 meets
 * before all but its first, and 0 lets it pass behind all but its first. Neither lets the other
 * pass a second time before that has met: in between it meets itself, for which the other must have
 * gone through its own turn. Where tasks end does not matter to this. */
template <int D>
__device__ __forceinline__ void attend(const sc_cuda_attn &a, stages &b, uint8_t *shared)
{
    const int group = (int)threadIdx.x / 128;
    const uint32_t queries = shared_address(shared) + group * 64 * 128;
    const uint32_t k_tiles = shared_address(shared + layout<D>::k);
    const uint32_t v_tiles = shared_address(shared + layout<D>::v);
    const float c = a.scale * LOG2E, slack = SLACK / c;
    float o[D / 8][4] = {}, s[KEYS / 8][4], l[2] = {}, m[2] = {-INFINITY, -INFINITY}, factor[2];
    uint32_t p[KEYS / 16][4];
    walk w;

    uint32_t number = wait_for_task(b, w.q);
    if (number == NO_TASK)
        return;
    enter(a, w, number);
    barrier_wait(shared_address(&b.k_full[0]), 0);
    begin_scores<D>(s, queries, k_tiles);
    if (group == 1)
        let_pass<WORKERS>(TURN);
    group_wait<0>();
    take_scores(b, w, s, m, l, factor, c, slack);
    round_weights(p, s);

#pragma unroll 1
    for (;;) {
        const bool leaves = w.t == w.k.last; /* the tile after this one is the next task's */
        const place to = {w.k.v.row0, w.k.n_rows, w.k.head, w.k.x0};
        const float sums[2] = {l[0], l[1]};
        if (leaves) {
            w.q.pass();
            number = wait_for_task(b, w.q);
            if (number == NO_TASK)
                break;
        }
        barrier_wait(shared_address(&b.k_full[w.keys.at()]), w.keys.round());
        meet<WORKERS>(TURN + group);
        begin_scores<D>(s, queries + w.q.at() * layout<D>::queries,
                        k_tiles + w.keys.at() * layout<D>::tile);
        barrier_wait(shared_address(&b.v_full[w.values.at()]), w.values.round());
        begin_values<D>(o, p, v_tiles + w.values.at() * layout<D>::tile);
        let_pass<WORKERS>(TURN + (group ^ 1));
        w.t++;
        if (leaves) {
            enter(a, w, number);
            m[0] = m[1] = -INFINITY;
            l[0] = l[1] = 0.0f;
        }
        group_wait<1>();
        take_scores(b, w, s, m, l, factor, c, slack);
        pin(b, l);
        group_wait<0>();
        release(b.v_free[w.values.at()]);
        w.values.pass();
        round_weights(p, s);
        if (leaves) {
            store<D>(a, to, o, sums);
            clear<D>(o);
        } else {
            rescale<D>(o, factor);
        }
    }
    barrier_wait(shared_address(&b.v_full[w.values.at()]), w.values.round());
    begin_values<D>(o, p, v_tiles + w.values.at() * layout<D>::tile);
    group_wait<0>();
    store<D>(a, place{w.k.v.row0, w.k.n_rows, w.k.head, w.k.x0}, o, l);
    if (group == 0)
        meet<WORKERS>(TURN);
}

/* ---- the block ---- */

template <int D>
__device__ __forceinline__ void run_block(const sc_cuda_attn &a, const tensor_map &map,
                                          uint8_t *shared)
{
    stages &b = *(stages *)(shared + layout<D>::stages);

    if (threadIdx.x == 0) {
        for (int i = 0; i < K_STAGES; i++) {
            barrier_init(shared_address(&b.k_full[i]), 1);
            barrier_init(shared_address(&b.k_free[i]), READERS);
        }
        for (int i = 0; i < V_STAGES; i++) {
            barrier_init(shared_address(&b.v_full[i]), 1);
            barrier_init(shared_address(&b.v_free[i]), READERS);
        }
        for (int i = 0; i < Q_STAGES; i++) {
            barrier_init(shared_address(&b.q_full[i]), CARRIERS / 32);
            barrier_init(shared_address(&b.q_free[i]), READERS);
            barrier_init(shared_address(&b.told[i]), 1);
        }
        barrier_init(shared_address(&b.due), 1);
        barriers_made();
    }
    __syncthreads();
    if (threadIdx.x >= WORKERS) {
        fewer_registers<REGS_IN>();
        if (threadIdx.x < THREADS - CARRIERS)
            bring_keys<D>(a, map, b, shared);
        else
            bring_queries<D>(a, b, shared);
    } else {
        more_registers<REGS_OUT>();
        attend<D>(a, b, shared);
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 1)
    tasks_kernel(const __grid_constant__ sc_cuda_attn a, const __grid_constant__ tensor_map map)
{
    extern __shared__ __align__(1024) uint8_t shared[];
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
    run_block<D>(a, map, shared);
#else
    (void)shared; /* a build without machine code for sm_90a: fail rather than write nothing */
    __trap();
#endif
}

/* n_sms: blocks at most; one of them fills a multiprocessor. */
template <int D>
static cudaError_t launch(const sc_cuda_attn *a, uint32_t n_sms, cudaStream_t stream)
{
    const uint64_t n_tiles = ((uint64_t)a->seqs.max_rows * a->group + ROWS - 1) / ROWS;
    const uint64_t n_tasks = n_tiles * a->n_kv_heads * a->seqs.n_seqs; /* bound */
    tensor_map map;
    static_assert(layout<D>::bytes <= 227 * 1024, "shared memory of a block");
    if (n_tasks == 0 || n_tasks > INT32_MAX || n_sms == 0)
        return cudaErrorInvalidConfiguration;
    memcpy(&map, a->tensor_map, sizeof(map));
    tasks_kernel<D>
        <<<(unsigned)(n_tasks < n_sms ? n_tasks : n_sms), THREADS, layout<D>::bytes, stream>>>(*a,
                                                                                               map);
    return cudaGetLastError();
}

extern "C" cudaError_t sc_cuda_attn_prefill_tasks(const struct sc_cuda_attn *a, uint32_t n_sms,
                                                  cudaStream_t stream)
{
    switch (a->head_dim) {
    case 64:
        return launch<64>(a, n_sms, stream);
    case 128:
        return launch<128>(a, n_sms, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

extern "C" cudaError_t sc_cuda_attn_prefill_tasks_init(void)
{
    cudaError_t rc = cudaFuncSetAttribute(
        tasks_kernel<64>, cudaFuncAttributeMaxDynamicSharedMemorySize, layout<64>::bytes);
    if (rc == cudaSuccess)
        rc = cudaFuncSetAttribute(tasks_kernel<128>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  layout<128>::bytes);
    return rc;
}
