/* cuda/kernels_merge.cu - the cores of clusters; twin and reference: cpu/merge.c, whose bits it
 * gives.
 *
 * One block per (job, KV head), one warp per core. A warp lists the members of its cluster in order
 * of their positions, then each lane sums one piece of 16 bytes of K or V over them. Memory bound:
 * every entry of the chunk is read once, every core written once.
 */
#include "cuda/kernels_compress.h"

#define ALL_LANES 0xffffffffu
#define N_WARPS   8u

/* N elements of T that are moved at once. */
template <typename T, uint32_t N> struct alignas(sizeof(T) * N) piece {
    T at[N];
};

static __device__ float widen(uint16_t x)
{
    return __uint_as_float((uint32_t)x << 16);
}

static __device__ float widen(uint32_t x)
{
    return __uint_as_float(x);
}

/* As sc_f32_to_bf16: the device's own conversion would give another NaN. */
static __device__ void narrow(float x, uint16_t *to)
{
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        *to = (uint16_t)((u >> 16) | 0x40u);
    else
        *to = (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static __device__ void narrow(float x, uint32_t *to)
{
    *to = __float_as_uint(x);
}

/* The mean of a piece over n members; sums start at 0 and a quotient is rounded once, as the twin
 * does, or the last bits would differ. */
template <typename T, uint32_t N>
static __device__ piece<T, N> mean(const uint8_t *from, const size_t *rows, const uint8_t *members,
                                   uint32_t n)
{
    float sum[N];
    piece<T, N> ret;

#pragma unroll
    for (uint32_t e = 0; e < N; e++)
        sum[e] = 0.0f;
#pragma unroll 4
    for (uint32_t i = 0; i < n; i++) {
        const piece<T, N> x = *(const piece<T, N> *)(from + rows[members[i]]);
#pragma unroll
        for (uint32_t e = 0; e < N; e++)
            sum[e] = __fadd_rn(sum[e], widen(x.at[e]));
    }
#pragma unroll
    for (uint32_t e = 0; e < N; e++)
        narrow(__fdiv_rn(sum[e], (float)n), &ret.at[e]);
    return ret;
}

/* Tokens of cluster c in ascending order into members; returns how many. */
static __device__ uint32_t list_members(const uint8_t *labels, uint32_t c, uint8_t *members)
{
    const uint32_t lane = threadIdx.x % 32;
    uint32_t n = 0;

    __syncwarp(); /* the last list is read */
#pragma unroll
    for (uint32_t i = lane; i < SC_CUDA_CHUNK; i += 32) {
        bool is_member = labels[i] == c;
        uint32_t all = __ballot_sync(ALL_LANES, is_member);
        if (is_member)
            members[n + (uint32_t)__popc(all & ((1u << lane) - 1))] = (uint8_t)i;
        n += (uint32_t)__popc(all);
    }
    __syncwarp();
    return n;
}

template <typename T, uint32_t N>
static __global__ void __launch_bounds__(32 * N_WARPS) merge_kernel(struct sc_cuda_merge_launch a)
{
    __shared__ size_t rows[SC_CUDA_CHUNK]; /* of K, from the start of the pool */
    __shared__ uint8_t labels[SC_CUDA_CHUNK];
    __shared__ uint8_t members[N_WARPS][SC_CUDA_CHUNK];
    const uint32_t index = blockIdx.x / a.n_kv_heads, head = blockIdx.x % a.n_kv_heads;
    const uint32_t on_plane = a.n_planes == 1 ? 0 : head;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const struct sc_cuda_merge_job *job = &a.jobs[index];
    const uint32_t m = job->m, n_cores = job->n_cores, core_slot0 = job->core_slot0;
    const uint32_t count = a.counts[index * a.n_planes + on_plane];
    const uint64_t label_at = job->label_at + (uint64_t)on_plane * m;
    const size_t head_at = head * a.kv.head_bytes, row_bytes = a.kv.head_dim * sizeof(T);
    const uint32_t per_row = a.kv.head_dim / N; /* pieces */

    for (uint32_t i = threadIdx.x; i < SC_CUDA_CHUNK; i += blockDim.x) {
        uint32_t at = job->slot0 + i;
        labels[i] = i < m ? a.labels[label_at + i] : 255; /* no cluster has that number */
        if (i < m)
            rows[i] = job->pages[at / SC_CUDA_PAGE] * a.kv.page_bytes + head_at +
                      at % SC_CUDA_PAGE * row_bytes;
    }
    __syncthreads();
    for (uint32_t c = warp; c < n_cores; c += N_WARPS) {
        const uint32_t at = core_slot0 + c, slot = at % SC_CUDA_PAGE;
        uint8_t *block = a.kv.mem + job->core_pages[at / SC_CUDA_PAGE] * a.kv.page_bytes + head_at;
        const uint32_t n = c < count ? list_members(labels, c, members[warp]) : 0;
        const uint32_t chosen = n == 0                        ? 0
                                : a.pick == SC_CUDA_PICK_SEED ? a.seeds[label_at + c]
                                                              : members[warp][n - 1];

        /* All of K, then all of V. */
        for (uint32_t q = lane; q < 2 * per_row; q += 32) {
            const size_t part = q < per_row ? q * sizeof(piece<T, N>)
                                            : a.kv.v_offset + (q - per_row) * sizeof(piece<T, N>);
            const uint8_t *from = a.kv.mem + part;
            piece<T, N> core = {};
            if (n != 0 && a.pick == SC_CUDA_PICK_MEAN)
                core = mean<T, N>(from, rows, members[warp], n);
            else if (n != 0)
                core = *(const piece<T, N> *)(from + rows[chosen]);
            *(piece<T, N> *)(block + part + slot * row_bytes) = core;
        }
        if (lane == 0)
            ((float *)(block + a.kv.bias_offset))[slot] =
                c < count ? a.bias[n] : -__int_as_float(0x7f800000);
    }
}

extern "C" cudaError_t sc_cuda_launch_merge(const struct sc_cuda_merge_launch *a,
                                            cudaStream_t stream)
{
    const uint32_t n_blocks = a->n_jobs * a->n_kv_heads, hd = a->kv.head_dim;
    if (a->kv.bf16 && hd % 8 == 0)
        merge_kernel<uint16_t, 8><<<n_blocks, 32 * N_WARPS, 0, stream>>>(*a);
    else if (a->kv.bf16)
        merge_kernel<uint16_t, 2><<<n_blocks, 32 * N_WARPS, 0, stream>>>(*a);
    else if (hd % 4 == 0)
        merge_kernel<uint32_t, 4><<<n_blocks, 32 * N_WARPS, 0, stream>>>(*a);
    else
        merge_kernel<uint32_t, 2><<<n_blocks, 32 * N_WARPS, 0, stream>>>(*a);
    return cudaGetLastError();
}
