/* tests/cuda/simt/include/cuda/tma.cuh - what stands for cuda/tma.cuh: the same functions, without
 * assembly. */
#ifndef SC_CUDA_TMA_CUH
#define SC_CUDA_TMA_CUH

#include <cuda_runtime.h>

#include "tests/cuda/simt/hopper.h"

/* As the stand-in's encode function (boxes.cc) makes it. */
struct alignas(64) tensor_map {
    simt::tensor of;
    uint8_t unused[128 - sizeof(simt::tensor)];
};
static_assert(sizeof(tensor_map) == 128, "the driver's has 128 bytes");

static inline void barrier_init(uint32_t barrier, int n)
{
    simt::phase_init(barrier, n);
}

static inline void barriers_made()
{
}

static inline void barrier_arrive(uint32_t barrier)
{
    simt::phase_arrive(barrier, 0, true);
}

static inline void barrier_expect(uint32_t barrier, uint32_t bytes)
{
    simt::phase_arrive(barrier, bytes, true);
}

static inline void barrier_announce(uint32_t barrier, uint32_t bytes)
{
    simt::phase_arrive(barrier, bytes, false);
}

static inline void barrier_wait(uint32_t barrier, uint32_t parity)
{
    simt::phase_wait(barrier, parity);
}

static inline void prefetch_map(const tensor_map &)
{
}

static inline void copy_box(uint32_t to, const tensor_map &map, int x, int y, int z,
                            uint32_t barrier)
{
    simt::copy_box(to, map.of, x, y, z, barrier);
}

static inline void store_shared(uint32_t to, uint4 x)
{
    *(uint4 *)simt::shared_memory(to, 16) = x;
}

static inline void store_of_first(uint32_t to, float x, uint32_t lane)
{
    if (lane == 0)
        *(float *)simt::shared_memory(to, 4) = x;
}

template <int n> static inline void meet(int barrier)
{
    simt::barrier_of((unsigned)barrier, n);
}

template <int n> static inline void let_pass(int barrier)
{
    simt::barrier_pass((unsigned)barrier, n);
}

template <int n> static inline void fewer_registers()
{
    static_assert(n % 8 == 0 && n >= 24 && n <= 256, "what setmaxnreg takes");
}

template <int n> static inline void more_registers()
{
    static_assert(n % 8 == 0 && n >= 24 && n <= 256, "what setmaxnreg takes");
}

#endif
