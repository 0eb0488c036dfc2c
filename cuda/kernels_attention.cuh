/* cuda/kernels_attention.cuh - what the attention kernels share: which entries a row sees, the rule
 * of splits, and swizzled tiles in shared memory.
 *
 * Entries of a sequence are numbered through its list of pages, 32 a page, behind `lead` pages that
 * do not exist. A window moves the list's first page as the sequence grows; with the lead, pages
 * keep their place in tiles of several, so that a row's sums do not depend on where its run began.
 *
 * Scores are kept as q.k + bias / scale. Weights are 2^((score - m) * scale * log2 e). The
 * reference m of a row moves only when a score exceeds it by more than SLACK: weights then stay
 * below 2^8 and most tiles need no rescaling. What a row does not see has score -inf and weight 0,
 * and is never read: its memory may hold NaN, which even weight 0 would let through.
 */
#ifndef SC_CUDA_KERNELS_ATTENTION_CUH
#define SC_CUDA_KERNELS_ATTENTION_CUH

#include "cuda/kernels_attention.h"
#include "cuda/ptx.cuh"
#include "cuda/widen.cuh"

#define ENTRIES 32
#define LOG2E   1.4426950408889634f
#define SLACK   8.0f /* in powers of two */

struct view {
    int n_cores, n_core_pages, n_pages, lead;
    int split_pages; /* of one split of a small sequence */
    int shift;       /* entry number - position, both as far as int holds them */
    uint32_t row0, n_rows, pos0, exact_lo, window;
    const uint32_t *table;
};

/* tile_pages: pages of a tile of keys, a power of two. */
__device__ __forceinline__ view view_of(const sc_cuda_attn &a, uint32_t seq, int tile_pages)
{
    const sc_cuda_seq &s = a.seqs.seqs[seq];
    view v;
    v.n_cores = (int)s.n_cores;
    v.n_core_pages = (int)s.n_core_pages;
    v.n_pages = (int)s.n_pages;
    v.split_pages = (int)s.split_pages;
    v.lead = s.window != 0 ? (int)s.exact_page0 & (tile_pages - 1) : 0;
    v.shift = ENTRIES * (v.n_core_pages + v.lead) - (int)(s.exact_page0 * ENTRIES);
    v.row0 = s.row0;
    v.n_rows = s.n_rows;
    v.pos0 = s.pos0;
    v.exact_lo = s.exact_lo;
    v.window = s.window;
    v.table = a.seqs.tables + s.table;
    return v;
}

/* The entry of token t itself, the last that it sees. */
__device__ __forceinline__ int own_entry(const view &v, uint32_t t)
{
    return (int)(v.pos0 + t) + v.shift;
}

/* The first exact entry that token t sees. */
__device__ __forceinline__ int low_entry(const view &v, uint32_t t)
{
    uint32_t next = v.pos0 + t + 1, from = v.exact_lo;
    if (v.window != 0 && next > v.window && next - v.window > from)
        from = next - v.window;
    return (int)from + v.shift;
}

/* Slots lo .. hi - 1 of a page; may lie outside 0 .. 32. */
struct slots {
    int lo, hi;
};

/* What rows whose exact entries are low .. own see, all together, of page g (lead included). */
__device__ __forceinline__ slots slots_of(const view &v, int g, int low, int own)
{
    slots s;
    bool core = g < v.n_core_pages;
    s.lo = core ? 0 : low - g * ENTRIES;
    s.hi = (core ? v.n_cores : own + 1) - g * ENTRIES;
    return s;
}

__device__ __forceinline__ bool any_slot(slots s)
{
    return s.hi > 0 && s.lo < ENTRIES;
}

__device__ __forceinline__ bool all_slots(slots s)
{
    return s.lo <= 0 && s.hi >= ENTRIES;
}

__device__ __forceinline__ int splits_of(const view &v)
{
    return (v.n_pages + v.split_pages - 1) / v.split_pages;
}

__device__ __forceinline__ bool is_small(const sc_cuda_attn &a, uint32_t n_rows)
{
    return n_rows <= SC_CUDA_ATTN_SMALL && n_rows * a.group <= SC_CUDA_ATTN_SMALL;
}

/* Row 0 of the parts of (sequence, KV head of the launch, split). */
__device__ __forceinline__ float *part_of(const sc_cuda_attn &a, uint32_t seq, uint32_t head,
                                          uint32_t split)
{
    size_t unit = ((size_t)seq * a.n_heads_now + head) * a.n_splits + split;
    return a.parts + unit * a.part_rows * (a.head_dim + SC_CUDA_ATTN_PART_PAD);
}

/* ---- tiles of bf16 rows of D in shared memory; rows of int8 are like bf16 ones of half as many
 * dimensions ---- */

/* Eight rows' equal chunks of 16 bytes lie in different banks: a row's chunks are permuted by XOR
 * with the number that this makes of the row. */
template <int D> __device__ __forceinline__ constexpr int row_key(int row)
{
    return D == 16 ? (row >> 2) & 1 : D == 32 ? (row >> 1) & 3 : row & 7;
}

/* Byte offset of a chunk in a tile. */
template <int D> __device__ __forceinline__ uint32_t chunk_at(int row, int chunk)
{
    return (uint32_t)(row * (D / 8) + (chunk ^ row_key<D>(row))) * 16;
}

/* From the address of chunk (r, c) to that of (r + row, c + chunk). The tile is aligned to a row's
 * bytes, and r and row have no set bit in common, nor have c and chunk: one XOR and an offset known
 * when compiled. */
template <int D> __device__ __forceinline__ uint32_t chunk_from(uint32_t at, int row, int chunk)
{
    return (at ^ (uint32_t)((chunk ^ row_key<D>(row)) * 16)) + (uint32_t)(row * D * 2);
}

/* Eight numbers as bf16. */
__device__ __forceinline__ uint4 round_chunk(const float *from)
{
    float4 lo = ((const float4 *)from)[0], hi = ((const float4 *)from)[1];
    return make_uint4(pack_bf16(lo.x, lo.y), pack_bf16(lo.z, lo.w), pack_bf16(hi.x, hi.y),
                      pack_bf16(hi.z, hi.w));
}

/* Eight dimensions of row x of a KV head's queries as bf16; beyond the sequence zero. Row x: token
 * x / group, query head x % group within the group. */
template <int D>
__device__ __forceinline__ uint4 query_chunk(const sc_cuda_attn &a, const view &v, uint32_t head,
                                             uint32_t x, int chunk)
{
    if (x >= v.n_rows * a.group)
        return make_uint4(0, 0, 0, 0);
    return round_chunk(a.q + (size_t)(v.row0 + x / a.group) * a.q_stride +
                       (size_t)(head * a.group + x % a.group) * D + chunk * 8);
}

/* Rows x0 .. x0 + ROWS as a tile, by all THREADS of a block. */
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void load_queries(const sc_cuda_attn &a, const view &v, uint32_t head,
                                             uint32_t x0, uint8_t *tile)
{
    for (int i = (int)threadIdx.x; i < ROWS * (D / 8); i += THREADS) {
        const int row = i / (D / 8), chunk = i % (D / 8);
        *(uint4 *)(tile + chunk_at<D>(row, chunk)) =
            query_chunk<D>(a, v, head, x0 + (uint32_t)row, chunk);
    }
}

/* ---- softmax of one row, whose entries lie in four neighbouring lanes ---- */

__device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* Moves the reference m to top if it must; slack: SLACK / c. Returns the factor of what was summed
 * up before. */
__device__ __forceinline__ float move_reference(float &m, float top, float c, float slack)
{
    if (!(top > m + slack))
        return 1.0f;
    float factor = exp2_fast((m - top) * c); /* 0 from -inf */
    m = top;
    return factor;
}

/* -m * c for the exponent; a row that saw nothing yet has no reference. */
__device__ __forceinline__ float exponent_offset(float m, float c)
{
    return m == -INFINITY ? 0.0f : -m * c;
}

#endif
