#include "tests/cuda/support.h"

static void memory_comes_back_as_it_was_sent(void **state)
{
    static const size_t sizes[] = {1, 3, 4096, 65537, 5000011};
    struct rng r = {1};
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(sizes); i++) {
        uint8_t *data = malloc(sizes[i]);
        for (size_t b = 0; b < sizes[i]; b++)
            data[b] = (uint8_t)rng_u32(&r);
        void *mem = on_device(be, data, sizes[i]), *copy = on_device(be, NULL, sizes[i]);
        assert_ok(be->ops->copy(be, copy, mem, sizes[i], err));
        uint8_t *back = from_device(be, copy, sizes[i]);
        assert_memory_equal(back, data, sizes[i]);
        be->ops->free(be, mem);
        be->ops->free(be, copy);
        free(back);
        free(data);
    }
    be->ops->free(be, NULL);
    be->ops->close(be);
}

/* Host arrays are the caller's again as soon as a call returns, however many are on their way:
 * nine of 4 MiB go around the two halves of 16 MiB. */
static void host_arrays_may_change_after_the_call(void **state)
{
    enum { N = 1 << 20, CALLS = 9, TURN = 64, DIM = 2 };
    const float inv_freq = 0.25f;
    struct rng r = {2};
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    uint32_t *positions = malloc(N * sizeof(*positions));
    float *want, *to[CALLS];
    (void)state;

    for (uint32_t i = 0; i < TURN; i++)
        positions[i] = i;
    to[0] = on_device(be, NULL, TURN * DIM * sizeof(float));
    assert_ok(be->ops->rope_angles(be, positions, TURN, &inv_freq, DIM, 1.0f, to[0], err));
    want = from_device(be, to[0], TURN * DIM * sizeof(float));
    be->ops->free(be, to[0]);
    for (int c = 0; c < CALLS; c++)
        to[c] = on_device(be, NULL, N * DIM * sizeof(float));
    for (uint32_t c = 0; c < CALLS; c++) {
        for (uint32_t i = 0; i < N; i++)
            positions[i] = (i + c) % TURN;
        assert_ok(be->ops->rope_angles(be, positions, N, &inv_freq, DIM, 1.0f, to[c], err));
        for (uint32_t i = 0; i < 1000; i++)
            positions[rng_below(&r, N)] = TURN;
    }
    for (uint32_t c = 0; c < CALLS; c++) {
        float *got = from_device(be, to[c], N * DIM * sizeof(float));
        for (uint32_t i = 0; i < N; i++)
            if (memcmp(got + DIM * i, want + DIM * ((i + c) % TURN), DIM * sizeof(float)) != 0)
                fail_msg("call %u, row %u: %g", c, i, (double)got[DIM * i]);
        free(got);
        be->ops->free(be, to[c]);
    }
    free(want);
    free(positions);
    be->ops->close(be);
}

static void no_memory_is_told_in_numbers_and_survived(void **state)
{
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    struct sc_err told = SC_ERR_INIT;
    float one = 1.0f, *back;
    void *mem = NULL;
    struct sc_matrix *m = NULL;
    /* 64 TiB; its rows are never read */
    struct sc_matrix_part part = {&one, SC_DTYPE_F32, 1u << 24, 1u << 20, 0};
    (void)state;

    assert_int_equal(be->ops->alloc(be, (size_t)1 << 46, &mem, &told), SC_ENOMEM);
    printf("  %s\n", told.text);
    assert_non_null(strstr(told.text, "67108864 MiB"));
    assert_non_null(strstr(told.text, "free"));
    assert_null(mem);
    assert_fails(SC_EINVAL, be->ops->alloc(be, 0, &mem, err));
    assert_fails(SC_ENOMEM,
                 be->ops->matrix_open(be, &part, 1, 1u << 20, NULL, SC_DTYPE_F32, &m, err));
    assert_null(m);
    mem = on_device(be, &one, sizeof(one));
    back = from_device(be, mem, sizeof(one));
    assert_true(*back == 1.0f);
    free(back);
    be->ops->free(be, mem);
    be->ops->close(be);
}

static void a_device_says_what_it_is_and_has(void **state)
{
    struct sc_backend *be = open_cuda(SC_MATH_BF16, true), *other = open_cuda(SC_MATH_F32, false);
    uint64_t n_free = 0, total = 0;
    char text[128], small[5];
    (void)state;

    be->ops->describe(be, text, sizeof(text));
    printf("  %s\n", text);
    assert_non_null(strstr(text, "cuda "));
    assert_non_null(strstr(text, "bf16, strict"));
    other->ops->describe(other, text, sizeof(text));
    assert_non_null(strstr(text, "f32"));
    assert_null(strstr(text, "strict"));
    other->ops->describe(other, small, sizeof(small));
    assert_string_equal(small, "cuda");
    assert_ok(be->ops->memory(be, &n_free, &total, err));
    assert_true(n_free > 0 && n_free <= total && total > (uint64_t)1 << 30);
    assert_true(be->arithmetic != 0 && be->arithmetic != other->arithmetic);
    be->ops->close(be);
    other->ops->close(other);
}

static void a_device_that_is_not_there_is_unavailable(void **state)
{
    struct sc_backend_opts opts = {.n_ranks = 1, .n_threads = 1, .device = 99};
    struct sc_backend *be = NULL;
    (void)state;
    assert_fails(SC_EUNAVAIL, cuda_plugin()->open(&opts, &be, err));
    opts.device = -1;
    assert_fails(SC_EUNAVAIL, cuda_plugin()->open(&opts, &be, err));
    assert_null(be);
}

static void sums_over_ranks_are_in_order(void **state)
{
    enum { N = 10007, RANKS = 7 };
    static const size_t ranges[][2] = {{0, N}, {0, 1}, {4, 4096}, {3, 5000}, {8, N - 8}};
    struct rng r = {3};
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    float *f[RANKS];
    const void *srcs[RANKS];
    (void)state;
    for (int k = 0; k < RANKS; k++) {
        f[k] = random_floats(&r, N);
        srcs[k] = on_device(be, f[k], N * sizeof(float));
    }
    for (size_t i = 0; i < SC_ARRAY_LEN(ranges) * 2; i++) {
        size_t first = ranges[i / 2][0], n = ranges[i / 2][1];
        enum sc_dtype dtype = i % 2 ? SC_DTYPE_I32 : SC_DTYPE_F32;
        void *dst = on_device(be, NULL, (N + 1) * sizeof(float));
        assert_ok(be->ops->peer_sum(be, dtype, srcs, RANKS, first, n, dst, err));
        uint32_t *got = from_device(be, dst, (N + 1) * sizeof(float));
        for (size_t j = 0; j < n; j++) {
            float sum = f[0][first + j], as_float;
            uint32_t total = 0, bits;
            memcpy(&as_float, &got[j], sizeof(as_float));
            for (int k = 0; k < RANKS; k++) {
                memcpy(&bits, &f[k][first + j], sizeof(bits));
                total += bits;
                sum = k > 0 ? sum + f[k][first + j] : sum;
            }
            assert_true(dtype == SC_DTYPE_I32 ? got[j] == total : as_float == sum);
        }
        assert_true(got[n] == 0xffffffffu);
        free(got);
        be->ops->free(be, dst);
    }
    assert_fails(SC_ENOTSUP,
                 be->ops->peer_sum(be, SC_DTYPE_BF16, srcs, RANKS, 0, 1, (void *)f, err));
    assert_fails(SC_EINVAL, be->ops->peer_sum(be, SC_DTYPE_F32, srcs, 65, 0, 1, (void *)f, err));
    for (int k = 0; k < RANKS; k++) {
        be->ops->free(be, (void *)(uintptr_t)srcs[k]);
        free(f[k]);
    }
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_comes_back_as_it_was_sent),
        cmocka_unit_test(host_arrays_may_change_after_the_call),
        cmocka_unit_test(no_memory_is_told_in_numbers_and_survived),
        cmocka_unit_test(a_device_says_what_it_is_and_has),
        cmocka_unit_test(a_device_that_is_not_there_is_unavailable),
        cmocka_unit_test(sums_over_ranks_are_in_order),
    };
    skip_without_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
