/* tests/cuda/simt/warp.h - barriers, and what the lanes of a warp exchange. */
#ifndef SC_SIMT_WARP_H
#define SC_SIMT_WARP_H

#include <string.h>

#include <type_traits>

#include "tests/cuda/simt/executor.h"

namespace simt
{

/* Two registers go one after the other. */
template <class T> T together(op what, uint32_t mask, T value, uint32_t from_lane = 0)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "one register or two");
    T result;
    if constexpr (sizeof(T) == 8) {
        uint32_t half[2];
        memcpy(half, &value, 8);
        half[0] = together(what, mask, half[0], from_lane);
        half[1] = together(what, mask, half[1], from_lane);
        memcpy(&result, half, 8);
        return result;
    } else {
        lane &l = bring();
        memcpy(&l.in[0], &value, 4);
        l.in[1] = from_lane;
        meet(what, mask);
        memcpy(&result, &l.out[0], 4);
        return result;
    }
}

} // namespace simt

static inline void __syncthreads(void)
{
    simt::barrier();
}

static inline void __syncwarp(uint32_t mask = 0xffffffffu)
{
    simt::meet(simt::op::sync, mask);
}

template <class T> static inline T __shfl_sync(uint32_t mask, T value, int from)
{
    return simt::together(simt::op::shuffle, mask, value, (uint32_t)from % simt::WARP);
}

template <class T> static inline T __shfl_xor_sync(uint32_t mask, T value, int with)
{
    return simt::together(simt::op::shuffle, mask, value, simt::lane_of_warp() ^ (uint32_t)with);
}

template <class T> static inline T __shfl_up_sync(uint32_t mask, T value, unsigned by)
{
    const unsigned lane = simt::lane_of_warp();
    return simt::together(simt::op::shuffle, mask, value, lane >= by ? lane - by : lane);
}

static inline uint32_t __ballot_sync(uint32_t mask, bool yes)
{
    return simt::together(simt::op::ballot, mask, (uint32_t)yes);
}

static inline int __any_sync(uint32_t mask, bool yes)
{
    return simt::together(simt::op::any, mask, (int32_t)yes);
}

static inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t value)
{
    return simt::together(simt::op::max_u32, mask, value);
}

static inline int32_t __reduce_max_sync(uint32_t mask, int32_t value)
{
    return simt::together(simt::op::max_i32, mask, value);
}

static inline uint32_t __reduce_add_sync(uint32_t mask, uint32_t value)
{
    return simt::together(simt::op::add_u32, mask, value);
}

/* The lanes that have the same value. */
static inline uint32_t __match_any_sync(uint32_t mask, uint32_t value)
{
    return simt::together(simt::op::match, mask, value);
}

static inline size_t __cvta_generic_to_shared(const void *p)
{
    return simt::shared_address(p);
}

/* Blocks run one after the other, and threads do not interrupt each other here. */
template <class T> static inline T atomicAdd(T *at, std::common_type_t<T> value)
{
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

static inline uint32_t atomicInc(uint32_t *at, uint32_t most)
{
    const uint32_t old = __atomic_load_n(at, __ATOMIC_RELAXED);
    __atomic_store_n(at, old >= most ? 0 : old + 1, __ATOMIC_RELAXED);
    return old;
}

/* Nothing comes in another order here. */
static inline void __threadfence(void)
{
}

static inline int32_t atomicMax(int32_t *at, int32_t value)
{
    const int32_t old = __atomic_load_n(at, __ATOMIC_RELAXED);
    __atomic_store_n(at, old > value ? old : value, __ATOMIC_RELAXED);
    return old;
}

/* Past the first cache, which is not there; aligned, as any load must be. */
template <class T> static inline T __ldcg(const T *at)
{
    if ((uintptr_t)at % sizeof(T) != 0)
        simt::fail("%zu bytes from %p", sizeof(T), (const void *)at);
    return *at;
}

#endif
