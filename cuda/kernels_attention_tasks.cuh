/* cuda/kernels_attention_tasks.cuh - what the warps of a block of kernels_attention_tasks.cu tell
 * each other, and which tasks there are.
 *
 * A task is a tile of 128 rows of one sequence and KV head. Blocks are as many as multiprocessors,
 * and each does one task after the other. All its warps see the same tasks in the same order and
 * the same tiles of keys of each, and count both from the start of the block: the stage of a thing
 * and the parity of its barriers follow from the count, whatever task it is of.
 */
#ifndef SC_CUDA_KERNELS_ATTENTION_TASKS_CUH
#define SC_CUDA_KERNELS_ATTENTION_TASKS_CUH

#include "cuda/kernels_attention_group.cuh"
#include "cuda/tma.cuh"

#define THREADS  384
#define WORKERS  256 /* threads that have rows */
#define CARRIERS 96  /* threads that bring queries: the last three warps */
#define READERS  (WORKERS / 32)
#define K_STAGES                                                                                   \
    2              /* tiles of K in shared memory: one is given back when its scores are there ..  \
                    */
#define V_STAGES 3 /* .. of V: later, when the next tile has become weights */
#define Q_STAGES 2 /* tasks whose queries are there */
#define TURN     1 /* barriers of the block: the turn of warpgroup 0 or 1 .. */
#define CARRIED  3 /* .. and of the warps that bring queries */
#define NO_TASK  UINT32_MAX

struct stages {
    float bias[K_STAGES][KEYS]; /* over scale */
    uint64_t k_full[K_STAGES], k_free[K_STAGES], v_full[V_STAGES], v_free[V_STAGES];
    uint64_t q_full[Q_STAGES], q_free[Q_STAGES];
    uint64_t told[Q_STAGES];   /* the warp that brings K and V may read tasks[] */
    uint64_t due;              /* it is nearly through with its task: one more is to be found */
    uint32_t tasks[Q_STAGES];  /* behind the last one NO_TASK */
    uint32_t biased[K_STAGES]; /* 0: all biases of the tile are 0 */
    float sink[READERS];       /* see pin */
};

template <int D> struct layout {
    static constexpr int queries = ROWS * D * 2, tile = KEYS * D * 2;
    static constexpr int k = Q_STAGES * queries, v = k + K_STAGES * tile;
    static constexpr int stages = v + V_STAGES * tile;
    static constexpr int bytes = stages + (int)sizeof(struct stages);
};

/* A stage of n that are used in turn, and the parity of how often it was used before: one number
 * below 2 n. */
template <int n> struct turn {
    uint32_t count = 0;
    __device__ __forceinline__ uint32_t at() const
    {
        return count < n ? count : count - n;
    }
    __device__ __forceinline__ uint32_t round() const
    {
        return count < n ? 0 : 1;
    }
    __device__ __forceinline__ void pass()
    {
        count = count + 1 == 2 * n ? 0 : count + 1;
    }
};

/* number: as find_task makes it. */
__device__ __forceinline__ task task_of(const sc_cuda_attn &a, uint32_t number)
{
    const uint32_t tile = number / a.n_kv_heads;
    task k;
    k.head = number % a.n_kv_heads;
    k.x0 = tile / a.seqs.n_seqs * ROWS;
    k.v = view_of(a, tile % a.seqs.n_seqs, TILE_PAGES);
    k.n_rows = k.v.n_rows * a.group;
    k.low = low_entry(k.v, token_of(a, k, 0));
    k.own = own_entry(k.v, token_of(a, k, ROWS - 1));
    k.first = k.v.n_cores > 0 ? 0 : k.low / KEYS;
    k.last = k.own / KEYS;
    return k;
}

/* A lane of each warp reads for the others, the one that lets the place be written again, so that
 * the order is plain to racecheck. */
__device__ __forceinline__ uint32_t read_flag(const volatile uint32_t &flag)
{
    return __shfl_sync(0xffffffffu, threadIdx.x % 32 == 0 ? flag : 0, 0);
}

/* This warp is past a place: all its lanes. */
__device__ __forceinline__ void release(uint64_t &barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        barrier_arrive(shared_address(&barrier));
}

/* ---- by one warp: which task is next ---- */

/* Tasks of a sequence and KV head. */
__device__ __forceinline__ uint32_t tiles_of(const sc_cuda_attn &a, uint32_t seq)
{
    const uint32_t n_rows = seq < a.seqs.n_seqs ? a.seqs.seqs[seq].n_rows : 0;
    return a.split && is_small(a, n_rows) ? 0 : (n_rows * a.group + ROWS - 1) / ROWS;
}

__device__ __forceinline__ uint32_t count_tasks(const sc_cuda_attn &a)
{
    uint32_t n = 0;
    for (uint32_t seq = threadIdx.x % 32; seq < a.seqs.n_seqs; seq += 32)
        n += tiles_of(a, seq);
    return __reduce_add_sync(0xffffffffu, n) * a.n_kv_heads;
}

/* Tasks of the sequences before seq0 are looked at no more. */
struct search {
    uint32_t seq0, before;
};

/* The task of this rank, not less than at the call before: sequences one after the other, of each
 * the tiles that see most first, all KV heads of a tile side by side. */
__device__ __forceinline__ uint32_t find_task(const sc_cuda_attn &a, search &s, uint32_t rank)
{
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll 1
    for (; s.seq0 < a.seqs.n_seqs; s.seq0 += 32) {
        const uint32_t seq = s.seq0 + lane, n_tiles = tiles_of(a, seq);
        uint32_t upto = n_tiles * a.n_kv_heads;
        const uint32_t mine = upto;
#pragma unroll
        for (uint32_t d = 1; d < 32; d *= 2) {
            const uint32_t below = __shfl_up_sync(0xffffffffu, upto, d);
            upto += lane >= d ? below : 0;
        }
        const uint32_t hits = __ballot_sync(0xffffffffu, rank - s.before < upto);
        if (hits != 0) {
            const uint32_t at = rank - s.before - (upto - mine);
            const uint32_t tile = n_tiles - 1 - at / a.n_kv_heads;
            return __shfl_sync(0xffffffffu,
                               (tile * a.seqs.n_seqs + seq) * a.n_kv_heads + at % a.n_kv_heads,
                               __ffs((int)hits) - 1);
        }
        s.before += __shfl_sync(0xffffffffu, upto, 31);
    }
    return NO_TASK;
}

/* The rank of one more task, by one thread. Blocks begin with ranks 0 .. gridDim.x - 1; all others
 * are given out here, to whoever comes. Each block that had a task asks until it gets a rank that
 * there is not: these are n_tasks questions in all, however many blocks there are, so that the
 * count is 0 again behind the last one. */
__device__ __forceinline__ uint32_t next_rank(const sc_cuda_attn &a, uint32_t n_tasks)
{
    return gridDim.x + atomicInc(a.n_put, n_tasks - 1);
}

#endif
