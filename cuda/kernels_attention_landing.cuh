/* cuda/kernels_attention_landing.cuh - what a block of kernels_attention_prefill.cu keeps in shared
 * memory beside tiles, and how int8 pages get into the tiles: they are copied to a place of their
 * own as they are, without waiting, and widened from there. */
#ifndef SC_CUDA_KERNELS_ATTENTION_LANDING_CUH
#define SC_CUDA_KERNELS_ATTENTION_LANDING_CUH

#include "cuda/kernels_attention.cuh"

#define WARPS   4
#define THREADS (WARPS * 32)
#define ROWS    (WARPS * 32)
#define KEYS    64 /* two pages */
#define STAGES  2

/* What the loop over tiles of keys reads anew each time: the sums take the registers. */
struct limits {
    int low[ROWS], own[ROWS]; /* first and last exact entry that each row sees; rows beyond the
                                 sequence are like its last */
    view v;
    const uint8_t *base; /* of the KV head */
};

/* A stage of biases: those of KEYS entries, with int8 the scales of K and of V before them. */
#define V_SCALES KEYS
#define BIASES   (2 * KEYS)

/* 16 numbers of a row are a piece; the thread that copied one widens it. A thread's pieces are row
 * + i * step for i < n. Eight threads in turn take two rows' neighbouring pieces, so that what they
 * write lies in 32 banks. */
template <int D> struct pieces {
    static constexpr int step = THREADS / (D / 16), n = KEYS / step; /* of K, and as many of V */
    int row, part;
    __device__ __forceinline__ pieces()
    {
        const int p = (int)again(threadIdx.x);
        row = D == 128 ? p / 16 * 2 + (p >> 2 & 1) : p / (D / 16);
        part = D == 128 ? (p & 3) + (p >> 3 & 1) * 4 : p % (D / 16);
    }
};

/* Both pages of tile t as they are, to landing; scales and biases to floats. */
template <int D>
__device__ __forceinline__ void load_keys_i8(const sc_cuda_attn &a, const limits &b, uint2 ids,
                                             int t, uint32_t landing, uint32_t floats)
{
    constexpr int step = pieces<D>::step, n = pieces<D>::n;
    const pieces<D> p;
    landing += again(threadIdx.x) * 16;
#pragma unroll
    for (int page = 0; page < 2; page++) {
        const slots s = slots_of(b.v, 2 * t + page, b.low[0], b.own[ROWS - 1]);
        /* A page that is not there: any address will do, nothing is read. */
        const uint8_t *block =
            b.base + (any_slot(s) ? (page == 0 ? ids.x : ids.y) * a.page_bytes : 0);
#pragma unroll
        for (int i = 0; i < n; i++) {
            const int row = p.row + i * step - page * ENTRIES; /* of the page, or of the other */
            const uint8_t *from = block + row * D + p.part * 16;
            if (row < 0 || row >= ENTRIES)
                continue;
            const int bytes = row >= s.lo && row < s.hi ? 16 : 0;
            copy_async(landing + i * THREADS * 16, from, bytes);
            copy_async(landing + (n + i) * THREADS * 16, from + a.v_offset, bytes);
        }
        /* V's scales one by one: those of what no row sees are zero, as the entries are. */
        const int thread = (int)again(threadIdx.x), lane = thread % 32, warp = thread / 32;
        block += SC_CUDA_K_SCALES(a.bias_offset);
        floats += page * ENTRIES * 4;
        if (warp == page)
            copy_async_word(floats + (V_SCALES + lane) * 4, block + SC_CUDA_SCALES_BYTES + lane * 4,
                            lane >= s.lo && lane < s.hi ? 4 : 0);
        else if (warp == page + 2 && lane < 2 * ENTRIES / 4) {
            const int i = lane % (ENTRIES / 4) * 16, bias = lane / (ENTRIES / 4);
            copy_async(floats + bias * BIASES * 4 + i, block + bias * 2 * SC_CUDA_SCALES_BYTES + i,
                       any_slot(s) ? 16 : 0);
        }
    }
}

/* Four numbers in the order in which they lie. */
__device__ __forceinline__ uint2 widen_four(uint32_t x)
{
    return make_uint2(widen_pair(__byte_perm(x, 0, 0x0100)), widen_pair(__byte_perm(x, 0, 0x0302)));
}

/* What the thread itself copied, from landing to the tiles. */
template <int D> __device__ __forceinline__ void widen_keys(const uint8_t *landing, uint8_t *tiles)
{
    constexpr int step = pieces<D>::step, n = pieces<D>::n;
    const pieces<D> p;
    const uint32_t to = chunk_at<D>(p.row, 2 * p.part);
    landing += again(threadIdx.x) * 16;
#pragma unroll 2
    for (int i = 0; i < 2 * n; i++) { /* K, then V, whose tile follows */
        const uint4 x = *(const uint4 *)(landing + i * THREADS * 16);
        const uint2 x0 = widen_four(x.x), x1 = widen_four(x.y);
        const uint2 x2 = widen_four(x.z), x3 = widen_four(x.w);
        static_assert(row_key<D>(step) == 0, "rows of one key");
        uint8_t *tile = tiles + i * step * D * 2;
        *(uint4 *)(tile + to) = make_uint4(x0.x, x0.y, x1.x, x1.y);
        *(uint4 *)(tile + (to ^ 16)) = make_uint4(x2.x, x2.y, x3.x, x3.y);
    }
}

#endif
