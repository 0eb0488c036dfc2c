/* The stand-in device itself: what is wrong in a kernel ends the program, what is right does not.
 */
#include <cuda/overlap.cuh>
#include <cuda/ptx.cuh>
#include <cuda_runtime.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <cmocka.h>
}

#include "tests/cuda/simt/memory.h"

#define THREADS 64u
#define ALL     0xffffffffu

static float *seen; /* device memory [THREADS] */

static void block(void (*kernel)(void), bool overlaps = false)
{
    const simt::launch l = {__FILE__, __LINE__, dim3(2), dim3(THREADS), 256, overlaps};
    simt::run(
        l, [](const void *arg) { (*(void (*const *)(void))arg)(); }, &kernel);
}

/* In a process of its own. */
static bool ends(void (*kernel)(void), bool overlaps = false)
{
    int status = 0;
    const pid_t pid = fork();
    if (pid == 0) {
        simt::memory_watch();
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(0);
        block(kernel, overlaps);
        _exit(0);
    }
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
    return status != 0;
}

static void what_waits_for_ever_ends_the_program(void **)
{
    assert_false(ends([] { __syncthreads(); }));
    assert_true(ends([] {
        if (threadIdx.x != 5)
            __syncthreads();
    }));
    assert_true(ends([] {
        if (threadIdx.x < 32)
            __syncthreads();
        else
            __syncwarp();
    }));
    assert_true(ends([] {
        if (threadIdx.x % 32 == 7)
            (void)__ballot_sync(ALL, true);
        else
            (void)__any_sync(ALL, true);
    }));
    assert_true(ends([] { (void)__shfl_sync(0xffffu, 1.0f, 3); }));
    assert_false(ends([] { barrier_of(1 + (int)threadIdx.x / 32, 32); }));
    assert_true(ends([] {
        if (threadIdx.x < 32)
            barrier_of(3, 64);
    }));
    assert_true(ends([] { barrier_of(16, 64); }));
}

static void some_threads_meet_apart_from_the_others(void **)
{
    block([] {
        float *shared = (float *)simt::shared_dynamic(16);
        const unsigned warp = threadIdx.x / 32;
        for (unsigned i = 0; i < (warp == 0 ? 3u : 5u); i++) {
            shared[threadIdx.x] = (float)(i + 1);
            barrier_of(1 + (int)warp, 32);
            const bool right = shared[threadIdx.x ^ 31] == (float)(i + 1);
            seen[threadIdx.x] = right && (i == 0 || seen[threadIdx.x] == 1.0f) ? 1.0f : 0.0f;
            barrier_of(1 + (int)warp, 32);
        }
        __syncthreads();
        if (shared[threadIdx.x ^ 32] != (warp == 0 ? 5.0f : 3.0f))
            seen[threadIdx.x] = 0.0f;
    });
    for (unsigned i = 0; i < THREADS; i++)
        assert_true(seen[i] == 1.0f);
}

static void shared_memory_is_junk_and_has_an_end(void **)
{
    block([] {
        const float *mine = (const float *)simt::shared_dynamic(16) + threadIdx.x;
        seen[threadIdx.x] = *mine != *mine ? 1.0f : 0.0f;
        *(float *)mine = 0.0f; /* the next block finds junk again */
    });
    for (unsigned i = 0; i < THREADS; i++)
        assert_true(seen[i] == 1.0f);
    assert_true(ends([] { ((uint8_t *)simt::shared_dynamic(16))[256] = 0; }));
    assert_true(ends([] { (void)simt::shared_memory(simt::SHARED_ADDRESS + 8, 16); }));
}

static void device_memory_has_edges(void **)
{
    assert_false(ends([] { seen[threadIdx.x] = 0.0f; }));
    assert_true(ends([] { seen[threadIdx.x + THREADS] = 0.0f; }));
    assert_true(ends([] { seen[(int)threadIdx.x - 1024] = 0.0f; }));
    assert_true(ends([] {
        if (threadIdx.x == 0)
            seen[-1] = 0.0f;
        (void)simt::memory_give(seen, simt::place::device);
    }));
}

static void copies_arrive_when_they_are_awaited(void **)
{
    for (unsigned i = 0; i < THREADS; i++)
        seen[i] = (float)i;
    block([] {
        float *to = (float *)simt::shared_dynamic(16) + threadIdx.x;
        copy_async_cached<4>(shared_address(to), seen + threadIdx.x);
        copy_commit();
        const bool early = *to == *to;
        copy_wait<0>();
        const bool there = *to == (float)threadIdx.x;
        seen[threadIdx.x] = !early && there ? (float)threadIdx.x : NAN;
    });
    for (unsigned i = 0; i < THREADS; i++)
        assert_true(seen[i] == (float)i);
    assert_true(ends([] {
        copy_async_cached<4>(simt::SHARED_ADDRESS, seen);
        copy_commit(); /* and leaves */
    }));
}

static void lanes_get_what_others_brought(void **)
{
    block([] {
        const uint32_t lane = threadIdx.x % 32;
        const bool right = __shfl_xor_sync(ALL, lane, 5) == (lane ^ 5) &&
                           __shfl_up_sync(ALL, lane, 2) == (lane < 2 ? lane : lane - 2) &&
                           __ballot_sync(ALL, lane % 2 == 0) == 0x55555555u &&
                           __reduce_max_sync(ALL, -(int32_t)lane) == 0 &&
                           __match_any_sync(ALL, lane / 16) == (lane < 16 ? 0xffffu : 0xffff0000u);
        seen[threadIdx.x] = right ? 1.0f : 0.0f;
    });
    for (unsigned i = 0; i < THREADS; i++)
        assert_true(seen[i] == 1.0f);
}

/* Else it could be over before the kernel whose results the next one reads. */
static void no_thread_of_an_early_kernel_leaves_before_the_kernel_before(void **)
{
    assert_false(ends([] { sc_inputs_ready(); }, true));
    assert_false(ends([] {}));
    assert_true(ends(
        [] {
            if (blockIdx.x == 1 && threadIdx.x == 7)
                return;
            sc_inputs_ready();
        },
        true));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_waits_for_ever_ends_the_program),
        cmocka_unit_test(some_threads_meet_apart_from_the_others),
        cmocka_unit_test(shared_memory_is_junk_and_has_an_end),
        cmocka_unit_test(device_memory_has_edges),
        cmocka_unit_test(copies_arrive_when_they_are_awaited),
        cmocka_unit_test(lanes_get_what_others_brought),
        cmocka_unit_test(no_thread_of_an_early_kernel_leaves_before_the_kernel_before),
    };
    seen = (float *)simt::memory_take(THREADS * sizeof(*seen), simt::place::device);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
