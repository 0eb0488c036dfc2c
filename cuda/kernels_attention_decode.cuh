/* cuda/kernels_attention_decode.cuh - a tile of 16 rows attending to a split, what decode kernels
 * share: one sequence's rows (kernels_attention_decode.cu), and those of several that have the same
 * pages there (kernels_attention_cohort.cu). The same functions in the same order, so a row's bits
 * are the same.
 *
 * Four warps of a tile have pages of their own: warp w takes pages w, w + 4, .. of the split
 * through one buffer for K and one for V, the next K on its way while V is used and the other way
 * round. Several tiles of a block share what was copied: warp w of each uses the same buffers, and
 * these warps copy a share each.
 *
 * int8 pages pass through shared memory as they are and become bf16 in registers. A register that
 * ldmatrix gives holds four numbers, of which widen_pair takes the even and the odd bytes: so K's
 * sums go over the even dimensions of 16, then the odd ones, and queries lie in that order; with V,
 * whose pairs of dimensions ldmatrix transposes, a column of an even and one of an odd dimension
 * come out, in a tile of o each.
 */
#ifndef SC_CUDA_KERNELS_ATTENTION_DECODE_CUH
#define SC_CUDA_KERNELS_ATTENTION_DECODE_CUH

#include "cuda/kernels_attention.cuh"
#include "cuda/overlap.cuh"

#define WARPS 4 /* of a tile */

/* Floats of a page's scales of K, of V and its biases, in that order as in the page; bf16: biases.
 */
#define V_SCALES ENTRIES
#define BIASES   (2 * ENTRIES)

/* Shared memory: K and V of one page for each warp of a tile, queries of TILES tiles, biases and
 * scales of the pages. A row of a page is as long as WIDTH of bf16. */
template <int D, bool I8, int TILES> struct layout {
    static constexpr int WIDTH = I8 ? D / 2 : D;
    static constexpr int tile = ENTRIES * WIDTH * 2, warp = 2 * tile;
    static constexpr int q = WARPS * warp, q_tile = 16 * D * 2, floats = q + TILES * q_tile;
    static constexpr int n_floats = I8 ? 3 * ENTRIES : ENTRIES; /* of a page */
    static constexpr int bytes = floats + WARPS * n_floats * 4;
    static_assert(warp >= 16 * D * 4, "a warp's sums go where its pages were");
};

/* The warps that share a page meet. */
template <int TILES> __device__ __forceinline__ void meet(int warp)
{
    if (TILES == 1)
        __syncwarp();
    else
        barrier_of(1 + warp, TILES * 32);
}

/* 32 rows of D, those outside s as zeros; of TILES warps the share of one. at: where the lane's
 * first chunk goes; row: of the tile, where that is. */
template <int D, int TILES>
__device__ __forceinline__ void load_tile(uint32_t at, const uint8_t *from, slots s, int row)
{
    constexpr int step = TILES * (256 / D);
    static_assert(ENTRIES % step == 0, "equal shares");
    if (all_slots(s)) { /* nearly always, and cheaper */
#pragma unroll
        for (int r = 0; r < ENTRIES; r += step)
            copy_async(chunk_from<D>(at, r, 0), from + r * D * 2);
        return;
    }
#pragma unroll
    for (int r = 0; r < ENTRIES; r += step)
        copy_async(chunk_from<D>(at, r, 0), from + r * D * 2,
                   r + row >= s.lo && r + row < s.hi ? 16 : 0);
}

/* 16 rows of queries; chunk(row, i): eight dimensions of a row. int8: of 16 dimensions the even
 * ones first. thread: of the n_threads that do it. */
template <int D, bool I8, class Chunk>
__device__ __forceinline__ void put_queries(uint8_t *tile, int thread, int n_threads, Chunk chunk)
{
    for (int i = thread; !I8 && i < 16 * (D / 8); i += n_threads)
        *(uint4 *)(tile + chunk_at<D>(i / (D / 8), i % (D / 8))) = chunk(i / (D / 8), i % (D / 8));
    for (int i = thread; I8 && i < 16 * (D / 16); i += n_threads) {
        const int row = i / (D / 16), part = i % (D / 16);
        const uint4 lo = chunk(row, 2 * part), hi = chunk(row, 2 * part + 1);
        *(uint4 *)(tile + chunk_at<D>(row, 2 * part)) =
            make_uint4(__byte_perm(lo.x, lo.y, 0x5410), __byte_perm(lo.z, lo.w, 0x5410),
                       __byte_perm(hi.x, hi.y, 0x5410), __byte_perm(hi.z, hi.w, 0x5410));
        *(uint4 *)(tile + chunk_at<D>(row, 2 * part + 1)) =
            make_uint4(__byte_perm(lo.x, lo.y, 0x7632), __byte_perm(lo.z, lo.w, 0x7632),
                       __byte_perm(hi.x, hi.y, 0x7632), __byte_perm(hi.z, hi.w, 0x7632));
    }
}

/* Scores of 16 rows and 32 entries of int8. */
template <int D>
__device__ __forceinline__ void score_i8(float (&s)[4][4], uint32_t q_at, uint32_t k_at,
                                         const float *floats, float inverse, int lane)
{
#pragma unroll
    for (int n = 0; n < 4; n++)
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < D / 16; k += 2) {
        uint32_t q[2][4];
        load_matrices(q[0], chunk_from<D>(q_at, 0, 2 * k));
        load_matrices(q[1], chunk_from<D>(q_at, 0, 2 * k + 2));
#pragma unroll
        for (int n = 0; n < 4; n += 2) {
            uint32_t b[4];
            load_matrices(b, chunk_from<D / 2>(k_at, 8 * n, k));
#pragma unroll
            for (int i = 0; i < 4; i++)
                multiply_add(s[n + i / 2], q[i % 2], widen_pair(b[i]), widen_pair(b[i] >> 8));
        }
    }
#pragma unroll
    for (int n = 0; n < 4; n++) {
        const float2 scale = *(const float2 *)(floats + 8 * n + lane % 4 * 2);
        const float2 b = *(const float2 *)(floats + BIASES + 8 * n + lane % 4 * 2);
        s[n][0] = fmaf(s[n][0], scale.x, b.x * inverse);
        s[n][1] = fmaf(s[n][1], scale.y, b.y * inverse);
        s[n][2] = fmaf(s[n][2], scale.x, b.x * inverse);
        s[n][3] = fmaf(s[n][3], scale.y, b.y * inverse);
    }
}

/* Scores of 16 rows and 32 entries. */
template <int D>
__device__ __forceinline__ void score(float (&s)[4][4], uint32_t q_at, uint32_t k_at,
                                      const float *bias, float inverse, int lane)
{
#pragma unroll
    for (int n = 0; n < 4; n++) {
        float2 b = *(const float2 *)(bias + 8 * n + lane % 4 * 2);
        s[n][0] = s[n][2] = b.x * inverse;
        s[n][1] = s[n][3] = b.y * inverse;
    }
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t q[4];
        load_matrices(q, chunk_from<D>(q_at, 0, 2 * k));
#pragma unroll
        for (int n = 0; n < 4; n += 2) {
            uint32_t b[4];
            load_matrices(b, chunk_from<D>(k_at, 8 * n, 2 * k));
            multiply_add(s[n], q, b[0], b[1]);
            multiply_add(s[n + 1], q, b[2], b[3]);
        }
    }
}

template <int D>
__device__ __forceinline__ void add_values(float (&o)[D / 8][4], const float (&s)[4][4],
                                           uint32_t v_at)
{
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const uint32_t p[4] = {pack_bf16(s[2 * k][0], s[2 * k][1]),
                               pack_bf16(s[2 * k][2], s[2 * k][3]),
                               pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]),
                               pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            load_transposed(b, chunk_from<D>(v_at, 16 * k, n));
            multiply_add(o[n], p, b[0], b[1]);
            multiply_add(o[n + 1], p, b[2], b[3]);
        }
    }
}

/* o[2 i], o[2 i + 1]: the even and the odd dimensions of 16. */
template <int D>
__device__ __forceinline__ void add_values_i8(float (&o)[D / 8][4], const float (&s)[4][4],
                                              uint32_t v_at, const float *scales, int lane)
{
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const float2 x = *(const float2 *)(scales + 16 * k + lane % 4 * 2);
        const float2 y = *(const float2 *)(scales + 16 * k + 8 + lane % 4 * 2);
        const uint32_t p[4] = {pack_bf16(s[2 * k][0] * x.x, s[2 * k][1] * x.y),
                               pack_bf16(s[2 * k][2] * x.x, s[2 * k][3] * x.y),
                               pack_bf16(s[2 * k + 1][0] * y.x, s[2 * k + 1][1] * y.y),
                               pack_bf16(s[2 * k + 1][2] * y.x, s[2 * k + 1][3] * y.y)};
#pragma unroll
        for (int n = 0; n < D / 16; n += 2) {
            uint32_t b[4];
            load_transposed(b, chunk_from<D / 2>(v_at, 16 * k, n));
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                multiply_add(o[2 * n + i], p, widen_pair(b[i]), widen_pair(b[i + 1]));
                multiply_add(o[2 * n + i + 1], p, widen_pair(b[i] >> 8), widen_pair(b[i + 1] >> 8));
            }
        }
    }
}

/* Scores to weights of the lane's rows 0 and 1, and what was summed up before to their reference.
 */
template <int D>
__device__ __forceinline__ void weigh(float (&s)[4][4], float (&o)[D / 8][4], float (&m)[2],
                                      float (&l)[2], float c, float slack)
{
    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float highest = -INFINITY;
#pragma unroll
        for (int n = 0; n < 4; n++)
            highest = fmaxf(highest, fmaxf(s[n][2 * i], s[n][2 * i + 1]));
        factor[i] = move_reference(m[i], quad_max(highest), c, slack);
    }
    if (__any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                o[n][i] *= factor[i / 2];
        }
        l[0] *= factor[0];
        l[1] *= factor[1];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float offset = exponent_offset(m[i / 2], c);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            s[n][i] = exp2_fast(fmaf(s[n][i], c, offset));
            l[i / 2] += s[n][i];
        }
    }
}

/* Where column col of row r of a warp's sums lies: rows in different banks. */
template <int D> __device__ __forceinline__ int sum_at(int r, int col)
{
    return r * D + (col ^ ((r & (D / 8 - 1) & 7) << 3));
}

/* A warp's sums of rows lane / 4 and 8 below, to where its pages were. */
template <int D, bool I8>
__device__ __forceinline__ void put_sums(float *sums, const float (&o)[D / 8][4], int lane)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int r = lane / 4 + 8 * i;
        if (I8) {
#pragma unroll
            for (int n = 0; n < D / 8; n += 2)
                *(float4 *)(sums + sum_at<D>(r, 8 * n + lane % 4 * 4)) =
                    make_float4(o[n][2 * i], o[n + 1][2 * i], o[n][2 * i + 1], o[n + 1][2 * i + 1]);
        } else {
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                *(float2 *)(sums + sum_at<D>(r, 8 * n + lane % 4 * 2)) =
                    make_float2(o[n][2 * i], o[n][2 * i + 1]);
        }
    }
}

/* What follows from the scale: as arguments it takes no registers. */
static sc_cuda_attn with_scale(const sc_cuda_attn *a)
{
    sc_cuda_attn r = *a;
    r.c = a->scale * LOG2E;
    r.inverse = 1.0f / a->scale;
    r.slack = SLACK / r.c;
    return r;
}

/* What a tile's warps found: a row's reference in powers of two, and the sum of its weights. */
struct found {
    float top[WARPS][16], sum[WARPS][16];
};

/* All threads of a block: pages begin .. end - 1 of v's list, for TILES tiles of a KV head. Of
 * rows: busy(tile)      the tile has any; pages are copied by the warps of those without too
 *   seen(page)      which entries all of them together see
 *   settled(page)   no kernel that may still run writes to it: see sc_cuda_attn.settled
 *   hide(s, page)   puts -inf where the lane's score is of an entry that its row does not see
 *   chunk(tile, row, i), 0 <= row < 16: see put_queries
 * Results: o, still to be added up over the tile's warps, and *ret of the tile, both without a
 * barrier behind them. */
template <int D, bool I8, int TILES, class Rows>
__device__ __forceinline__ void attend_split(const sc_cuda_attn &a, const view &v, uint32_t head,
                                             int begin, int end, const Rows &rows, uint8_t *shared,
                                             float (&o)[D / 8][4], found *ret)
{
    using at = layout<D, I8, TILES>;
    constexpr int WIDTH = at::WIDTH;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32 % WARPS;
    const int tile = TILES == 1 ? 0 : (int)threadIdx.x / (WARPS * 32);
    const int first = begin + warp; /* page of the list */
    const int n_mine = first < end ? (end - first + WARPS - 1) / WARPS : 0;
    const uint32_t tiles = shared_address(shared + warp * at::warp);
    /* What the lane copies first: byte `from` of a page's K, in a row of the tile. Several tiles
     * leave no registers to keep that in. */
    auto from = [&]() {
        const int thread = TILES == 1 ? (int)threadIdx.x : (int)again(threadIdx.x);
        return (TILES == 1 ? lane : thread / (WARPS * 32) * 32 + thread % 32) * 16;
    };
    auto row = [&]() { return from() / (2 * WIDTH); };
    const uint32_t k_to = tiles + chunk_at<WIDTH>(row(), lane % (WIDTH / 8));
    const uint32_t q_at =
        shared_address(shared + at::q + tile * at::q_tile) + chunk_at<D>(lane & 15, lane >> 4);
    const uint32_t k_at = tiles + chunk_at<WIDTH>((lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1);
    const uint32_t v_at = tiles + at::tile + chunk_at<WIDTH>(lane & 15, lane >> 4);
    const float *floats = (const float *)(shared + at::floats) + warp * at::n_floats;
    const uint8_t *base = a.mem + head * a.head_bytes;

    uint32_t ids = 0; /* lane i: id of the warp's page it, it % 32 == i */
    auto block_of = [&](int it) {
        if (it % 32 == 0)
            ids = it + lane < n_mine ? v.table[first + (it + lane) * WARPS] : 0;
        return base + __shfl_sync(0xffffffffu, ids, it % 32) * a.page_bytes;
    };
    auto load_k = [&](const uint8_t *block, int it) {
        load_tile<WIDTH, TILES>(k_to, block + from(), rows.seen(first + it * WARPS), row());
        if (tile != 0)
            return;
        if (I8 && lane < 2 * ENTRIES / 4) { /* with K's scales; V's come with V */
            const int i = lane % (ENTRIES / 4) * 4 + (lane < ENTRIES / 4 ? 0 : BIASES);
            copy_async(shared_address(floats + i),
                       block + SC_CUDA_K_SCALES(a.bias_offset) + i * sizeof(float), 16);
        }
        if (!I8 && lane < ENTRIES / 4)
            copy_async(shared_address(floats + lane * 4), block + a.bias_offset + lane * 16, 16);
    };
    auto load_v = [&](const uint8_t *block, int it) {
        const slots s = rows.seen(first + it * WARPS);
        load_tile<WIDTH, TILES>(k_to + at::tile, block + a.v_offset + from(), s, row());
        if (I8 && tile == 0) /* a weight of 0 would let NaN through */
            copy_async_word(shared_address(floats + V_SCALES + lane),
                            block + SC_CUDA_V_SCALES(a.bias_offset) + lane * sizeof(float),
                            lane >= s.lo && lane < s.hi ? 4 : 0);
    };

    const uint8_t *block = base;
    if (n_mine > 0)
        block = block_of(0);
    const bool early = n_mine > 0 && rows.settled(first);
    if (!early)
        sc_inputs_ready();
    if (n_mine > 0)
        load_k(block, 0);
    copy_commit();
    if (n_mine > 0)
        load_v(block, 0);
    copy_commit();
    if (early)
        sc_inputs_ready();

    put_queries<D, I8>(shared + at::q + tile * at::q_tile, (int)threadIdx.x % (WARPS * 32),
                       WARPS * 32, [&](int r, int i) { return rows.chunk(tile, r, i); });
    __syncthreads();
    float m[2] = {-INFINITY, -INFINITY}, l[2] = {};
#pragma unroll 1
    for (int it = 0; it < n_mine; it++) {
        float s[4][4];
        copy_wait<1>();
        meet<TILES>(warp);
        if (!rows.busy(tile))
            ;
        else if (I8)
            score_i8<D>(s, q_at, k_at, floats, a.inverse, lane);
        else
            score<D>(s, q_at, k_at, floats, a.inverse, lane);
        meet<TILES>(warp); /* K was read by all lanes */
        if (it + 1 < n_mine) {
            block = block_of(it + 1);
            load_k(block, it + 1);
        }
        copy_commit();

        if (rows.busy(tile)) {
            rows.hide(s, first + it * WARPS);
            weigh<D>(s, o, m, l, a.c, a.slack);
        }

        copy_wait<1>();
        meet<TILES>(warp);
        if (!rows.busy(tile))
            ;
        else if (I8)
            add_values_i8<D>(o, s, v_at, floats + V_SCALES, lane);
        else
            add_values<D>(o, s, v_at);
        meet<TILES>(warp); /* V was read by all lanes */
        if (it + 1 < n_mine)
            load_v(block, it + 1);
        copy_commit();
    }

#pragma unroll
    for (int i = 0; i < 2; i++) {
        int r = lane / 4 + 8 * i;
        l[i] = quad_sum(l[i]);
        if (lane % 4 == 0) {
            ret->top[warp][r] = m[i] * a.c;
            ret->sum[warp][r] = l[i];
        }
    }
}

/* Dimension d of row r from the sums of a tile's warps, in the order of warps. Products are added
 * without being rounded first, by name, so that every kernel gets the same bits. */
template <int D, bool I8, int TILES>
__device__ __forceinline__ void add_warps(const uint8_t *shared, const found &f, int r, int d,
                                          float &m, float &l, float &o)
{
    m = f.top[0][r];
    l = o = 0.0f;
#pragma unroll
    for (int w = 1; w < WARPS; w++)
        m = fmaxf(m, f.top[w][r]);
    float base = m == -INFINITY ? 0.0f : m;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        const float *sums = (const float *)(shared + w * layout<D, I8, TILES>::warp);
        float factor = exp2_fast(f.top[w][r] - base);
        l = fmaf(f.sum[w][r], factor, l);
        o = fmaf(sums[sum_at<D>(r, d)], factor, o);
    }
}

__device__ __forceinline__ void put_part(float *part, int d, int dim, float m, float l, float o)
{
    part[d] = o;
    if (d == 0) {
        part[dim] = m;
        part[dim + 1] = l;
    }
}

#endif
