/* tests/cuda/simt/include/cuda/ptx.cuh - what stands for cuda/ptx.cuh: the same functions, without
 * assembly. */
#ifndef SC_CUDA_PTX_CUH
#define SC_CUDA_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

static inline uint32_t shared_address(const void *p)
{
    return simt::shared_address(p);
}

static inline void copy_async(uint32_t shared, const void *global, int n)
{
    simt::copy_begin(simt::shared_memory(shared, 16), global, (size_t)n, 16);
}

static inline void copy_async(uint32_t shared, const void *global)
{
    copy_async(shared, global, 16);
}

static inline void copy_async_line(uint32_t shared, const void *global, int n)
{
    copy_async(shared, global, n);
}

template <int BYTES> static inline void copy_async_cached(uint32_t shared, const void *global)
{
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "what cp.async.ca takes");
    simt::copy_begin(simt::shared_memory(shared, BYTES), global, BYTES, BYTES);
}

static inline void copy_async_word(uint32_t shared, const void *global, int n)
{
    simt::copy_begin(simt::shared_memory(shared, 4), global, (size_t)n, 4);
}

static inline void copy_commit()
{
    simt::copy_commit();
}

template <int n> static inline void copy_wait()
{
    simt::copy_wait(n);
}

static inline void prefetch_l2(const void *)
{
}

static inline void barrier_of(int id, int n_threads)
{
    simt::barrier_of((unsigned)id, (unsigned)n_threads);
}

/* Blocks run one after the other, and see at once what others wrote. */
static inline uint32_t count_up(uint32_t *at, uint32_t most)
{
    const uint32_t old = *at;
    *at = old >= most ? 0 : old + 1;
    return old;
}

static inline uint32_t again(uint32_t x)
{
    return x;
}

static inline uint32_t pack_bf16(float lo, float hi)
{
    return __float2bfloat16_rn(lo).bits | (uint32_t)__float2bfloat16_rn(hi).bits << 16;
}

static inline uint32_t add_bf16(uint32_t a, uint32_t b)
{
    return pack_bf16(__uint_as_float(a << 16) + __uint_as_float(b << 16),
                     __uint_as_float(a & 0xffff0000u) + __uint_as_float(b & 0xffff0000u));
}

/* Flushes what is no normal number. */
static inline float exp2_fast(float x)
{
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

static inline void load_matrices(uint32_t (&r)[4], uint32_t shared)
{
    simt::lane &l = simt::bring();
    simt::shared_read(shared, 16);
    l.in[0] = shared;
    simt::meet(simt::op::matrices, 0xffffffffu);
    memcpy(r, l.out, sizeof(r));
}

static inline void load_transposed(uint32_t (&r)[4], uint32_t shared)
{
    simt::lane &l = simt::bring();
    simt::shared_read(shared, 16);
    l.in[0] = shared;
    simt::meet(simt::op::transposed, 0xffffffffu);
    memcpy(r, l.out, sizeof(r));
}

static inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    simt::lane &l = simt::bring();
    memcpy(&l.in[0], a, 16);
    l.in[4] = b0;
    l.in[5] = b1;
    memcpy(&l.in[6], c, 16);
    simt::meet(simt::op::mma, 0xffffffffu);
    memcpy(c, l.out, 16);
}

#endif
