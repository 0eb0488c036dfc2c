/* cuda/ptx.cuh - instructions that CUDA C++ has no name for, each as a function: copies on their
 * way into shared memory, tensor cores, counts with an order of memory, approximations. Compute
 * capability 8.0; those of 9.0 are in tma.cuh and wgmma.cuh, the order of kernels in overlap.cuh.
 *
 * Kernels hold no assembly themselves, so that tests/cuda/simt can put functions in C++ of the
 * same names in the place of this file and of those two. Addresses of shared memory are those of
 * shared_address.
 */
#ifndef SC_CUDA_PTX_CUH
#define SC_CUDA_PTX_CUH

#include <stdint.h>

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- copies from global to shared memory that the thread does not wait for ---- */

/* 16 bytes, of which the first n come from global memory and the rest are zero. */
__device__ __forceinline__ void copy_async(uint32_t shared, const void *global, int n)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(n)
                 : "memory");
}

__device__ __forceinline__ void copy_async(uint32_t shared, const void *global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}

/* The same of memory that is read on: the second cache asks for the whole of 128 bytes at once. */
__device__ __forceinline__ void copy_async_line(uint32_t shared, const void *global, int n)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared),
                 "l"(global), "r"(n)
                 : "memory");
}

/* 4, 8 or 16 bytes, also through the first cache. */
template <int BYTES>
__device__ __forceinline__ void copy_async_cached(uint32_t shared, const void *global)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(global), "n"(BYTES)
                 : "memory");
}

/* 4 bytes, or zeros where n is 0. */
__device__ __forceinline__ void copy_async_word(uint32_t shared, const void *global, int n)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(n)
                 : "memory");
}

/* What the thread has asked for since the last call is a group, also when that is nothing. */
__device__ __forceinline__ void copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All groups but the latest n of this thread have arrived. */
template <int n> __device__ __forceinline__ void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

__device__ __forceinline__ void prefetch_l2(const void *global)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

/* ---- barriers ---- */

/* n_threads of the block meet, whole warps. id: 1 .. 15, 0 is __syncthreads. */
__device__ __forceinline__ void barrier_of(int id, int n_threads)
{
    asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}

/* ---- among blocks ---- */

/* Adds 1 to what blocks count together, or sets `most` back to 0; returns what was there. What the
 * block has written before a barrier is seen by the blocks that count later, behind a barrier. */
__device__ __forceinline__ uint32_t count_up(uint32_t *at, uint32_t most)
{
    uint32_t r;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(r)
                 : "l"(at), "r"(most)
                 : "memory");
    return r;
}

/* ---- arithmetic ---- */

/* x, which the compiler does not know to be x: what follows from it is computed where it stands
 * rather than kept in registers through a loop. */
__device__ __forceinline__ uint32_t again(uint32_t x)
{
    asm volatile("" : "+r"(x));
    return x;
}

/* To the nearest, ties to even. */
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

/* Both halves. */
__device__ __forceinline__ uint32_t add_bf16(uint32_t a, uint32_t b)
{
    uint32_t r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(0x3f803f80u), "r"(b));
    return r;
}

__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- tensor cores: by all lanes of a warp ---- */

/* Four matrices of 8 rows of 16 bytes; lane i has the address of row i % 8 of matrix i / 8. The
 * lane's two elements of matrix j, row lane / 4, are r[j]. */
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}

/* The same with each matrix transposed. */
__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], uint32_t shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}

/* c [16, 8] += a [16, 16] b [16, 8] */
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
