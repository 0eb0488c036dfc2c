/* cuda/tma.cuh - Hopper's copies of boxes of a tensor into shared memory, and the barriers in
 * shared memory that tell when they have arrived.
 *
 * A barrier goes through phases; one is complete when as many threads as it was made for have
 * arrived and all bytes that were announced are there. Waiting for phase n means waiting with
 * parity n % 2; the phase before the first counts as complete.
 */
#ifndef SC_CUDA_TMA_CUH
#define SC_CUDA_TMA_CUH

#include <stdint.h>

/* What the driver made of a tensor's shape; see tensor_map.c. A kernel takes it as a parameter. */
struct alignas(64) tensor_map {
    uint8_t opaque[128];
};

__device__ __forceinline__ void barrier_init(uint32_t barrier, int n)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(n) : "memory");
}

/* By the thread that made barriers, before the block's threads meet. */
__device__ __forceinline__ void barriers_made()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Arrives and announces bytes. */
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

/* Announces bytes, by a thread that will arrive later. */
__device__ __forceinline__ void barrier_announce(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    asm volatile("{\n.reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}\n" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* Before the first copy: the map is a parameter of the kernel, which no cache has yet. */
__device__ __forceinline__ void prefetch_map(const tensor_map &map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

/* The box at (x, y, z) of the tensor, by one thread. */
__device__ __forceinline__ void copy_box(uint32_t to, const tensor_map &map, int x, int y, int z,
                                         uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
                 "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier)
                 : "memory");
}

__device__ __forceinline__ void store_shared(uint32_t to, uint4 x)
{
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z),
                 "r"(x.w)
                 : "memory");
}

/* Stores x where `lane` is 0. Neither waits nor products that stand behind it are moved before what
 * x is made of. */
__device__ __forceinline__ void store_of_first(uint32_t to, float x, uint32_t lane)
{
    asm volatile("{\n"
                 ".reg .pred one;\n"
                 "setp.eq.u32 one, %2, 0;\n"
                 "@one st.shared.f32 [%0], %1;\n"
                 "}\n" ::"r"(to),
                 "f"(x), "r"(lane)
                 : "memory");
}

/* Barriers 1 .. 15 of the block, for n threads; those that arrive do not wait for the others. */
template <int n> __device__ __forceinline__ void meet(int barrier)
{
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(n) : "memory");
}

template <int n> __device__ __forceinline__ void let_pass(int barrier)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "n"(n) : "memory");
}

/* Registers that each thread of a warpgroup has from here on. */
template <int n> __device__ __forceinline__ void fewer_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}

template <int n> __device__ __forceinline__ void more_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

#endif
