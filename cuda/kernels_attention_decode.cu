/* cuda/kernels_attention_decode.cu - attention of few rows over many pages, on tensor cores.
 *
 * One block per (split, KV head, sequence), four warps, each with pages of its own: warp w takes
 * pages w, w + 4, .. of the split through one buffer for K and one for V, the next K on its way
 * while V is used and the other way round. All rows (tokens x query heads of the group) are one
 * tile of 16, so a page is read once. The warps' results are added in the order of warps. Memory
 * bound: three blocks of a multiprocessor have 96 to 192 KiB of pages on their way.
 *
 * int8 pages pass through shared memory as they are and become bf16 in registers. A register that
 * ldmatrix gives holds four numbers, of which widen_pair takes the even and the odd bytes: so K's
 * sums go over the even dimensions of 16, then the odd ones, and queries lie in that order; with V,
 * whose pairs of dimensions ldmatrix transposes, a column of an even and one of an odd dimension
 * come out, in a tile of o each.
 */
#include "cuda/kernels_attention.cuh"
#include "cuda/overlap.cuh"

#define WARPS 4

/* Floats of a page's scales of K, of V and its biases, in that order as in the page; bf16: biases.
 */
#define V_SCALES ENTRIES
#define BIASES   (2 * ENTRIES)

/* Shared memory: K and V of one page for each warp, queries, biases and scales of the pages. A row
 * of a page is as long as WIDTH of bf16. */
template <int D, bool I8> struct layout {
    static constexpr int WIDTH = I8 ? D / 2 : D;
    static constexpr int tile = ENTRIES * WIDTH * 2, warp = 2 * tile;
    static constexpr int q = WARPS * warp, floats = q + 16 * D * 2;
    static constexpr int n_floats = I8 ? 3 * ENTRIES : ENTRIES; /* of a page */
    static constexpr int bytes = floats + WARPS * n_floats * 4;
    static_assert(warp >= 16 * D * 4, "a warp's sums go where its pages were");
};

/* 32 rows of D, those outside s as zeros. at: where the lane's first chunk goes. */
template <int D>
__device__ __forceinline__ void load_tile(uint32_t at, const uint8_t *from, slots s, int lane)
{
    const int row = lane / (D / 8);
    from += lane * 16;
    if (all_slots(s)) { /* nearly always, and cheaper */
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            copy_async(chunk_from<D>(at, i * (256 / D), 0), from + i * 512);
        return;
    }
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
        const int r = i * (256 / D);
        copy_async(chunk_from<D>(at, r, 0), from + i * 512,
                   r + row >= s.lo && r + row < s.hi ? 16 : 0);
    }
}

/* 16 rows of queries, each 16 dimensions with the even ones first. */
template <int D>
__device__ __forceinline__ void load_queries_apart(const sc_cuda_attn &a, const view &v,
                                                   uint32_t head, uint8_t *tile)
{
    for (int i = (int)threadIdx.x; i < 16 * (D / 16); i += WARPS * 32) {
        const int row = i / (D / 16), part = i % (D / 16);
        const uint4 lo = query_chunk<D>(a, v, head, (uint32_t)row, 2 * part);
        const uint4 hi = query_chunk<D>(a, v, head, (uint32_t)row, 2 * part + 1);
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

/* The block's rows from its warps' sums, in the order of warps: the result itself, or a part. */
template <int D, bool I8>
__device__ __forceinline__ void add_warps(const sc_cuda_attn &a, const uint8_t *shared,
                                          const float (&top)[WARPS][16],
                                          const float (&sum)[WARPS][16])
{
    /* Read again rather than kept in registers through the loop over pages. */
    const view v = view_of(a, a.seq0 + blockIdx.z, 1);
    const bool whole = split_pages(v.n_pages) >= v.n_pages;
    const uint32_t head = a.head0 + blockIdx.y;
    const int n = (int)(v.n_rows * a.group) * D;
    for (int i = (int)threadIdx.x; i < n; i += WARPS * 32) {
        int r = i / D, d = i % D;
        float m = top[0][r], l = 0.0f, o = 0.0f;
#pragma unroll
        for (int w = 1; w < WARPS; w++)
            m = fmaxf(m, top[w][r]);
        float base = m == -INFINITY ? 0.0f : m;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float *sums = (const float *)(shared + w * layout<D, I8>::warp);
            float factor = exp2_fast(top[w][r] - base);
            l += sum[w][r] * factor;
            o += sums[sum_at<D>(r, d)] * factor;
        }
        if (whole) {
            float x = l == 0.0f ? 0.0f : o / l;
            size_t at = (size_t)(v.row0 + (uint32_t)r / a.group) * a.n_heads * D +
                        (size_t)(head * a.group + (uint32_t)r % a.group) * D + d;
            a.out[at] = x;
            if (a.image != NULL)
                a.image[at] = (uint16_t)pack_bf16(x, 0.0f);
        } else {
            float *part =
                part_of(a, blockIdx.z, blockIdx.y, blockIdx.x) + r * (D + SC_CUDA_ATTN_PART_PAD);
            part[d] = o;
            if (d == 0) {
                part[D] = m;
                part[D + 1] = l;
            }
        }
    }
}

template <int D, int BLOCKS, bool I8>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS)
    decode_kernel(const __grid_constant__ sc_cuda_attn a)
{
    using at = layout<D, I8>;
    constexpr int WIDTH = at::WIDTH;
    extern __shared__ __align__(1024) uint8_t shared[];
    __shared__ float top[WARPS][16], sum[WARPS][16];
    __shared__ int low[16], own[16]; /* of each row */
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    sc_next_may_start();
    /* Descriptors and page tables are copied before a step's first kernel; no kernel writes them.
     */
    const view v = view_of(a, a.seq0 + blockIdx.z, 1);
    const int per_split = split_pages(v.n_pages), begin = (int)blockIdx.x * per_split;

    if (begin >= v.n_pages || !is_small(a, v.n_rows)) {
        sc_inputs_ready();
        return;
    }
    const int end = min(begin + per_split, v.n_pages);
    const int first = begin + warp; /* page of the list */
    const int n_mine = first < end ? (end - first + WARPS - 1) / WARPS : 0;
    uint8_t *mine = shared + warp * at::warp;
    const uint32_t tiles = shared_address(mine);
    const uint32_t k_to = tiles + chunk_at<WIDTH>(lane / (WIDTH / 8), lane % (WIDTH / 8));
    const uint32_t q_at = shared_address(shared + at::q) + chunk_at<D>(lane & 15, lane >> 4);
    const uint32_t k_at = tiles + chunk_at<WIDTH>((lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1);
    const uint32_t v_at = tiles + at::tile + chunk_at<WIDTH>(lane & 15, lane >> 4);
    const float *floats = (const float *)(shared + at::floats) + warp * at::n_floats;
    const uint8_t *base = a.mem + (a.head0 + blockIdx.y) * a.head_bytes;
    const float c = a.scale * LOG2E, inverse = 1.0f / a.scale, slack = SLACK / c;
    /* What the rows see all together. */
    const int low_all = low_entry(v, 0), own_all = own_entry(v, v.n_rows - 1);
    if (threadIdx.x < 16) {
        uint32_t t = min(threadIdx.x / a.group, v.n_rows - 1);
        low[threadIdx.x] = low_entry(v, t);
        own[threadIdx.x] = own_entry(v, t);
    }

    uint32_t ids = 0; /* lane i: id of the warp's page it, it % 32 == i */
    auto block_of = [&](int it) {
        if (it % 32 == 0)
            ids = it + lane < n_mine ? v.table[first + (it + lane) * WARPS] : 0;
        return base + __shfl_sync(0xffffffffu, ids, it % 32) * a.page_bytes;
    };
    auto load_k = [&](const uint8_t *block, int it) {
        load_tile<WIDTH>(k_to, block, slots_of(v, first + it * WARPS, low_all, own_all), lane);
        if (I8 && lane < 2 * ENTRIES / 4) { /* with K's scales; V's come with V */
            const int i = lane % (ENTRIES / 4) * 4 + (lane < ENTRIES / 4 ? 0 : BIASES);
            copy_async(shared_address(floats + i),
                       block + SC_CUDA_K_SCALES(a.bias_offset) + i * sizeof(float), 16);
        }
        if (!I8 && lane < ENTRIES / 4)
            copy_async(shared_address(floats + lane * 4), block + a.bias_offset + lane * 16, 16);
    };
    auto load_v = [&](const uint8_t *block, int it) {
        const slots seen = slots_of(v, first + it * WARPS, low_all, own_all);
        load_tile<WIDTH>(k_to + at::tile, block + a.v_offset, seen, lane);
        if (I8) /* a weight of 0 would let NaN through */
            copy_async_word(shared_address(floats + V_SCALES + lane),
                            block + SC_CUDA_V_SCALES(a.bias_offset) + lane * sizeof(float),
                            lane >= seen.lo && lane < seen.hi ? 4 : 0);
    };

    const uint8_t *block = base;
    if (n_mine > 0)
        block = block_of(0);
    sc_inputs_ready();
    if (n_mine > 0)
        load_k(block, 0);
    copy_commit();
    if (n_mine > 0)
        load_v(block, 0);
    copy_commit();

    if (I8)
        load_queries_apart<D>(a, v, a.head0 + blockIdx.y, shared + at::q);
    else
        load_queries<D, 16, WARPS * 32>(a, v, a.head0 + blockIdx.y, 0, shared + at::q);
    __syncthreads();
    float o[D / 8][4] = {}, m[2] = {-INFINITY, -INFINITY}, l[2] = {};
#pragma unroll 1
    for (int it = 0; it < n_mine; it++) {
        float s[4][4];
        copy_wait<1>();
        __syncwarp();
        if (I8)
            score_i8<D>(s, q_at, k_at, floats, inverse, lane);
        else
            score<D>(s, q_at, k_at, floats, inverse, lane);
        __syncwarp(); /* K was read by all lanes */
        if (it + 1 < n_mine) {
            block = block_of(it + 1);
            load_k(block, it + 1);
        }
        copy_commit();

        const int g = first + it * WARPS;
        if (!all_slots(slots_of(v, g, low[15], own[0]))) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int e = g * ENTRIES + lane % 4 * 2 + i % 2, r = lane / 4 + i / 2 * 8;
                int lo = low[r], hi = own[r];
#pragma unroll
                for (int n = 0; n < 4; n++, e += 8) {
                    if (e >= v.n_cores && (e < lo || e > hi))
                        s[n][i] = -INFINITY;
                }
            }
        }
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

        copy_wait<1>();
        __syncwarp();
        if (I8)
            add_values_i8<D>(o, s, v_at, floats + V_SCALES, lane);
        else
            add_values<D>(o, s, v_at);
        __syncwarp(); /* V was read by all lanes */
        if (it + 1 < n_mine)
            load_v(block, it + 1);
        copy_commit();
    }

#pragma unroll
    for (int i = 0; i < 2; i++) {
        int r = lane / 4 + 8 * i;
        l[i] = quad_sum(l[i]);
        if (lane % 4 == 0) {
            top[warp][r] = m[i] * c;
            sum[warp][r] = l[i];
        }
    }
    put_sums<D, I8>((float *)mine, o, lane);
    __syncthreads();
    add_warps<D, I8>(a, shared, top, sum);
}

template <int D, int BLOCKS, bool I8> static cudaError_t allow(void)
{
    return cudaFuncSetAttribute(decode_kernel<D, BLOCKS, I8>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, layout<D, I8>::bytes);
}

template <bool I8> static cudaError_t allow_all(void)
{
    cudaError_t rc = allow<32, 5, I8>();
    if (rc == cudaSuccess)
        rc = allow<64, 4, I8>();
    return rc == cudaSuccess ? allow<128, 3, I8>() : rc;
}

extern "C" cudaError_t sc_cuda_attn_decode_init(void)
{
    cudaError_t rc = allow_all<false>();
    return rc == cudaSuccess ? allow_all<true>() : rc;
}

template <int D, int BLOCKS, bool I8>
static cudaError_t launch(const sc_cuda_attn *a, cudaStream_t stream)
{
    return sc_overlap_launch(decode_kernel<D, BLOCKS, I8>,
                             dim3(a->n_splits, a->n_heads_now, a->n_seqs), WARPS * 32,
                             layout<D, I8>::bytes, stream, *a);
}

template <bool I8> static cudaError_t launch_width(const sc_cuda_attn *a, cudaStream_t stream)
{
    switch (a->head_dim) {
    case 32:
        return launch<32, 5, I8>(a, stream);
    case 64:
        return launch<64, 4, I8>(a, stream);
    case 128:
        return launch<128, 3, I8>(a, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

extern "C" cudaError_t sc_cuda_attn_decode(const struct sc_cuda_attn *a, cudaStream_t stream)
{
    if (a->dtype == SC_DTYPE_I8)
        return launch_width<true>(a, stream);
    return launch_width<false>(a, stream);
}
