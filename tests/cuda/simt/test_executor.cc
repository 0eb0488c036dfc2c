/* The stand-in device itself: what is wrong in a kernel ends the program, what is right does not.
 */
#include <cuda/overlap.cuh>
#include <cuda/ptx.cuh>
#include <cuda/tma.cuh>
#include <cuda/wgmma.cuh>
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

#define THREADS      64u
#define SHARED_BYTES (8192 + 256)
#define ALL          0xffffffffu

static float *seen; /* device memory [THREADS] */

static void block(void (*kernel)(void), bool overlaps = false)
{
    const simt::launch l = {__FILE__, __LINE__, dim3(2), dim3(THREADS), SHARED_BYTES, overlaps};
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
    assert_true(ends([] { ((uint8_t *)simt::shared_dynamic(16))[SHARED_BYTES] = 0; }));
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

static uint32_t barrier_at(int i)
{
    return simt::SHARED_ADDRESS + 8192 + 8 * (uint32_t)i;
}

static void make_barriers(int n)
{
    if (threadIdx.x == 0) {
        barrier_init(barrier_at(0), n);
        barrier_init(barrier_at(1), n);
    }
    __syncthreads();
}

/* Warps fill and empty one place in turns. */
static void a_phase_is_complete_when_all_have_come(void **)
{
    block([] {
        volatile float *place = (volatile float *)simt::shared_dynamic(16);
        const unsigned lane = threadIdx.x % 32;
        make_barriers(32);
        seen[threadIdx.x] = 1.0f;
        for (uint32_t i = 0; i < 5; i++) {
            if (threadIdx.x < 32) {
                barrier_wait(barrier_at(1), i % 2 ^ 1);
                place[lane] = (float)i;
                barrier_arrive(barrier_at(0));
            } else {
                barrier_wait(barrier_at(0), i % 2);
                if (place[lane ^ 31] != (float)i)
                    seen[threadIdx.x] = 0.0f;
                barrier_arrive(barrier_at(1));
            }
        }
    });
    for (unsigned i = 0; i < THREADS; i++)
        assert_true(seen[i] == 1.0f);
}

static void what_spoils_a_phase_ends_the_program(void **)
{
    assert_true(ends([] { barrier_wait(barrier_at(0), 0); }));
    assert_true(ends([] {
        make_barriers(1);
        barrier_wait(barrier_at(0), 0);
    }));
    assert_true(ends([] {
        make_barriers(64);
        if (threadIdx.x < 40)
            barrier_arrive(barrier_at(0));
        barrier_wait(barrier_at(0), 0);
    }));
    assert_true(ends([] {
        make_barriers(1);
        barrier_announce(barrier_at(0), 16);
        barrier_arrive(barrier_at(0));
    }));
    /* Two phases before who waits for the first one has seen it. */
    assert_true(ends([] {
        make_barriers(1);
        if (threadIdx.x == 0) {
            __syncwarp();
            barrier_arrive(barrier_at(0));
            barrier_arrive(barrier_at(0));
        } else {
            if (threadIdx.x < 32)
                __syncwarp();
            barrier_wait(barrier_at(0), 0);
        }
    }));
    assert_false(ends([] {
        let_pass<64>(1 + (int)threadIdx.x / 32);
        meet<64>(2 - (int)threadIdx.x / 32);
    }));
    assert_true(ends([] { let_pass<128>(1); }));
    assert_true(ends([] {
        if (threadIdx.x < 32)
            let_pass<64>(1);
    }));
    assert_true(ends([] {
        let_pass<64>(1 + (int)threadIdx.x / 32);
        let_pass<64>(1 + (int)threadIdx.x / 32);
    }));
}

static uint16_t *numbers; /* device memory [2][32][64], bf16 */

static float number(unsigned row, unsigned column)
{
    return (float)((row * 7 + column * 3) % 32) - 11.0f;
}

static tensor_map map_of_numbers(void)
{
    tensor_map map = {};
    map.of = {(const uint8_t *)numbers, {64, 32, 2}, {128, 4096}, {64, 32, 1}};
    return map;
}

static void boxes_arrive_when_they_are_awaited(void **)
{
    block([] {
        uint8_t *shared = (uint8_t *)simt::shared_dynamic(1024);
        make_barriers(1);
        const bool junk = *(volatile uint32_t *)(shared + 4096) == UINT32_MAX;
        if (threadIdx.x == 0) {
            barrier_expect(barrier_at(0), 4096);
            copy_box(shared_address(shared), map_of_numbers(), 0, 0, 1, barrier_at(0));
        }
        const bool early = *(volatile uint32_t *)shared != UINT32_MAX;
        __syncwarp();
        barrier_wait(barrier_at(0), 0);
        bool right = junk && !early;
        for (int i = (int)threadIdx.x; i < 32 * 8; i += (int)THREADS)
            right &= memcmp(shared + panel_at(32, i / 8, i % 8), numbers + 2048 + i * 8, 16) == 0;
        seen[threadIdx.x] = right ? 1.0f : 0.0f;
    });
    for (unsigned i = 0; i < THREADS; i++)
        assert_true(seen[i] == 1.0f);
    assert_true(ends([] {
        make_barriers(1);
        if (threadIdx.x == 0)
            copy_box(simt::SHARED_ADDRESS, map_of_numbers(), 0, 1, 1, barrier_at(0));
    }));
    assert_true(ends([] { /* and leaves */
                          make_barriers(1);
                          if (threadIdx.x == 0) {
                              barrier_expect(barrier_at(0), 4096);
                              copy_box(simt::SHARED_ADDRESS, map_of_numbers(), 0, 0, 1,
                                       barrier_at(0));
                          }
    }));
}

/* Rows 0 .. 15 of the numbers as b; a is the unit matrix and a half. */
static void products_are_there_when_they_are_awaited(void **)
{
    block([] {
        uint8_t *shared = (uint8_t *)simt::shared_dynamic(1024);
        const unsigned lane = threadIdx.x % 32;
        float d[8][4] = {};
        uint32_t a[4] = {0, 0, 0, 0};
        make_barriers(1);
        if (threadIdx.x == 0) {
            barrier_expect(barrier_at(0), 4096);
            copy_box(shared_address(shared), map_of_numbers(), 0, 0, 0, barrier_at(0));
        }
        barrier_wait(barrier_at(0), 0);
        /* Rows lane / 4 and 8 below, columns lane % 4 * 2 and 8 further. */
        if (lane / 4 / 2 == lane % 4)
            a[0] = a[3] = pack_bf16(lane / 4 % 2 == 0 ? 1.5f : 0.0f, lane / 4 % 2 ? 1.5f : 0.0f);
        group_fence();
        group_add_rows(d, a, matrix_at(shared_address(shared), 4096, 1024));
        group_commit();
        bool right = d[0][0] == 0.0f;
        group_wait<0>();
        for (unsigned n = 0; n < 8; n++)
            for (unsigned i = 0; i < 4; i++)
                right &=
                    d[n][i] == 1.5f * number(lane / 4 + i / 2 * 8, 8 * n + lane % 4 * 2 + i % 2);
        seen[threadIdx.x] = right ? 1.0f : 0.0f;
    });
    for (unsigned i = 0; i < THREADS; i++)
        assert_true(seen[i] == 1.0f);
    assert_true(ends([] { /* no fence */
                          float d[8][4] = {};
                          const uint32_t a[4] = {0, 0, 0, 0};
                          group_add_rows(d, a, matrix_at(simt::SHARED_ADDRESS, 4096, 1024));
                          group_commit();
                          group_wait<0>();
    }));
    assert_true(ends([] { /* no wait */
                          float d[8][4] = {};
                          const uint32_t a[4] = {0, 0, 0, 0};
                          group_fence();
                          group_add_rows(d, a, matrix_at(simt::SHARED_ADDRESS, 4096, 1024));
                          group_commit();
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
        cmocka_unit_test(a_phase_is_complete_when_all_have_come),
        cmocka_unit_test(what_spoils_a_phase_ends_the_program),
        cmocka_unit_test(boxes_arrive_when_they_are_awaited),
        cmocka_unit_test(products_are_there_when_they_are_awaited),
        cmocka_unit_test(lanes_get_what_others_brought),
        cmocka_unit_test(no_thread_of_an_early_kernel_leaves_before_the_kernel_before),
    };
    seen = (float *)simt::memory_take(THREADS * sizeof(*seen), simt::place::device);
    numbers = (uint16_t *)simt::memory_take(2 * 4096, simt::place::device);
    for (unsigned i = 0; i < 4096; i++)
        numbers[i] = __bfloat16_as_ushort(__float2bfloat16_rn(number(i / 64 % 32, i % 64)));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
