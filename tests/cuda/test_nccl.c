/* What a rank does when NCCL is missing, old, slow, failing or hanging. Needs no device: the
 * library is a stand-in and the stream a counter. */
#include "tests/cpu/support.h"

#include <nccl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "cuda/nccl.h"

static struct sc_nccl *open_as(const char *mode)
{
    struct sc_nccl *n = NULL;
    setenv("FAKE_NCCL", mode, 1);
    setenv("FAKE_NCCL_ABORTS", "0", 1);
    assert_ok(sc_nccl_open(SC_FAKE_NCCL, &n, err));
    return n;
}

static int aborts(void)
{
    return atoi(getenv("FAKE_NCCL_ABORTS"));
}

static enum sc_status join(struct sc_nccl *n, const _Atomic uint32_t *aborted, struct sc_err *err)
{
    static uint8_t id[SC_GROUP_ID_BYTES];
    enum sc_status st = sc_nccl_id(n, id, err);
    const struct sc_group_args args = {
        .id = id, .rank = 1, .n_ranks = 2, .timeout_ms = 150, .aborted = aborted};
    return st == SC_OK ? sc_nccl_join(n, &args, err) : st;
}

static cudaError_t count_down(void *ctx)
{
    int *left = ctx;
    return *left > 0 && (*left)-- > 0 ? cudaErrorNotReady : cudaSuccess;
}

static cudaError_t never(void *ctx)
{
    (void)ctx;
    return cudaErrorNotReady;
}

static cudaError_t broken(void *ctx)
{
    (void)ctx;
    return cudaErrorIllegalAddress;
}

static void a_group_works_and_is_left(void **state)
{
    static const char *const modes[] = {"ok", "slow"};
    static const struct {
        enum sc_dtype dtype;
        int nccl;
    } types[] = {
        {SC_DTYPE_F32, ncclFloat32}, {SC_DTYPE_BF16, ncclBfloat16}, {SC_DTYPE_I32, ncclInt32}};
    float x[4] = {0};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(modes); i++) {
        struct sc_nccl *n = open_as(modes[i]);
        int left = 1000;
        assert_false(sc_nccl_joined(n));
        assert_fails(SC_EPEER, sc_nccl_sum(n, SC_DTYPE_F32, x, 4, NULL, err));
        assert_ok(join(n, NULL, err));
        assert_true(sc_nccl_joined(n));
        for (size_t t = 0; t < SC_ARRAY_LEN(types); t++) {
            assert_ok(sc_nccl_sum(n, types[t].dtype, x, 4, NULL, err));
            assert_int_equal(atoi(getenv("FAKE_NCCL_TYPE")), types[t].nccl);
        }
        assert_fails(SC_ENOTSUP, sc_nccl_sum(n, SC_DTYPE_F16, x, 4, NULL, err));
        assert_ok(sc_nccl_wait(n, count_down, &left, err));
        assert_int_equal(left, 0);
        assert_ok(join(n, NULL, err)); /* again: the old one is left first */
        assert_int_equal(aborts(), 1);
        sc_nccl_close(n);
        assert_int_equal(aborts(), 2);
    }
}

static void a_missing_or_old_library_is_not_supported(void **state)
{
    struct sc_nccl *n = NULL;
    (void)state;
    assert_fails(SC_ENOTSUP, sc_nccl_open("/nowhere/libnccl.so.2", &n, err));
    setenv("FAKE_NCCL", "old", 1);
    assert_fails(SC_ENOTSUP, sc_nccl_open(SC_FAKE_NCCL, &n, err));
    assert_null(n);
}

static void failures_are_statuses_and_one_can_join_again(void **state)
{
    static const struct {
        const char *mode;
        enum sc_status join, sum, wait;
    } cases[] = {
        {"no_id", SC_EDEVICE, 0, 0},       {"fail_init", SC_EDEVICE, 0, 0},
        {"hang_init", SC_ETIMEDOUT, 0, 0}, {"fail_sum", SC_OK, SC_EPEER, 0},
        {"async", SC_OK, SC_OK, SC_EPEER}, {"hang_sum", SC_OK, SC_OK, SC_ETIMEDOUT},
    };
    float x[4] = {0};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(cases); i++) {
        struct sc_nccl *n = open_as(cases[i].mode);
        struct sc_err e = SC_ERR_INIT;
        enum sc_status st = join(n, NULL, &e);
        assert_int_equal(st, cases[i].join);
        if (st == SC_OK) {
            st = sc_nccl_sum(n, i % 2 == 0 ? SC_DTYPE_F32 : SC_DTYPE_BF16, x, 4, NULL, &e);
            assert_int_equal(st, cases[i].sum);
        }
        if (st == SC_OK) {
            st = sc_nccl_wait(n, never, NULL, &e);
            assert_int_equal(st, cases[i].wait);
        }
        assert_true(e.text[0] != 0);
        assert_false(sc_nccl_joined(n));
        assert_fails(SC_EPEER, sc_nccl_sum(n, SC_DTYPE_F32, x, 4, NULL, err));
        setenv("FAKE_NCCL", "ok", 1);
        assert_ok(join(n, NULL, err));
        assert_ok(sc_nccl_sum(n, SC_DTYPE_F32, x, 4, NULL, err));
        sc_nccl_close(n);
    }
}

static void a_failed_device_is_not_waited_for(void **state)
{
    struct sc_nccl *n = open_as("ok");
    (void)state;
    assert_ok(join(n, NULL, err));
    assert_fails(SC_EDEVICE, sc_nccl_wait(n, broken, NULL, err));
    sc_nccl_close(n);
}

static void *abort_soon(void *arg)
{
    usleep(20000);
    atomic_store((_Atomic uint32_t *)arg, 1);
    return NULL;
}

static void another_ranks_failure_ends_the_wait(void **state)
{
    struct sc_nccl *n = open_as("ok");
    _Atomic uint32_t aborted = 0;
    pthread_t thread;
    struct timespec a, b;
    (void)state;
    assert_ok(join(n, &aborted, err));
    assert_int_equal(pthread_create(&thread, NULL, abort_soon, &aborted), 0);
    clock_gettime(CLOCK_MONOTONIC, &a);
    assert_fails(SC_EPEER, sc_nccl_wait(n, never, NULL, err));
    clock_gettime(CLOCK_MONOTONIC, &b);
    assert_true(b.tv_sec - a.tv_sec <= 1);
    pthread_join(thread, NULL);
    assert_false(sc_nccl_joined(n));
    sc_nccl_close(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_works_and_is_left),
        cmocka_unit_test(a_missing_or_old_library_is_not_supported),
        cmocka_unit_test(failures_are_statuses_and_one_can_join_again),
        cmocka_unit_test(a_failed_device_is_not_waited_for),
        cmocka_unit_test(another_ranks_failure_ends_the_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
