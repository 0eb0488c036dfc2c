/* Sums between ranks on a real device: through NCCL in a group of one, where NCCL is; and the sums
 * of several ranks' buffers that share a device. */
#include "tests/cuda/support.h"

#define N 100003u

static void a_group_of_one_sums_through_nccl(void **state)
{
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    struct rng r = {3};
    float *x = random_floats(&r, N);
    uint8_t id[SC_GROUP_ID_BYTES];
    struct sc_err why = SC_ERR_INIT;
    _Atomic uint32_t aborted = 0;
    (void)state;
    if (small_run())
        skip(); /* its kernels are not ours */

    enum sc_status st = be->ops->group_id(be, id, &why);
    if (st == SC_ENOTSUP) {
        printf("  no NCCL here: %s\n", why.text);
        be->ops->close(be);
        free(x);
        skip();
    }
    assert_int_equal(st, SC_OK);
    const struct sc_group_args args = {
        .id = id, .rank = 0, .n_ranks = 1, .timeout_ms = 60000, .aborted = &aborted};
    assert_ok(be->ops->group_join(be, &args, err));
    float *mem = on_device(be, x, N * sizeof(float));
    for (int i = 0; i < 3; i++)
        assert_ok(be->ops->group_sum(be, SC_DTYPE_F32, mem, N, err));
    assert_ok(be->ops->group_sum(be, SC_DTYPE_I32, mem, N, err));
    assert_ok(be->ops->group_sum(be, SC_DTYPE_BF16, mem, 2 * N, err));
    assert_ok(be->ops->sync(be, err));
    float *got = from_device(be, mem, N * sizeof(float));
    assert_memory_equal(got, x, N * sizeof(float));
    be->ops->group_leave(be);
    assert_fails(SC_EPEER, be->ops->group_sum(be, SC_DTYPE_F32, mem, N, err));
    assert_ok(be->ops->group_id(be, id, err)); /* and again, with a new id */
    assert_ok(be->ops->group_join(be, &args, err));
    assert_ok(be->ops->group_sum(be, SC_DTYPE_F32, mem, N, err));
    assert_ok(be->ops->sync(be, err));
    be->ops->free(be, mem);
    be->ops->close(be); /* while joined */
    free(got);
    free(x);
}

static void buffers_of_ranks_on_one_device_are_summed_in_order(void **state)
{
    struct sc_backend *be[3];
    struct rng r = {4};
    float *x[3], *mem[3];
    const void *srcs[3];
    (void)state;
    for (int i = 0; i < 3; i++) {
        be[i] = open_cuda(SC_MATH_AUTO, false);
        x[i] = random_floats(&r, N);
        srcs[i] = mem[i] = on_device(be[i], x[i], N * sizeof(float));
    }
    float *sum = on_device(be[1], NULL, N * sizeof(float)), *want = malloc(N * sizeof(float));
    assert_ok(be[1]->ops->peer_sum(be[1], SC_DTYPE_F32, srcs, 3, 7, N - 9, sum, err));
    float *got = from_device(be[1], sum, N * sizeof(float));
    for (uint32_t i = 0; i < N - 9; i++)
        want[i] = x[0][i + 7] + x[1][i + 7] + x[2][i + 7];
    assert_memory_equal(got, want, (N - 9) * sizeof(float));
    free(got);
    assert_ok(be[1]->ops->peer_sum(be[1], SC_DTYPE_I32, srcs, 3, 0, N, sum, err));
    got = from_device(be[1], sum, N * sizeof(float));
    for (uint32_t i = 0; i < N; i++) {
        uint32_t s = 0, part;
        for (int k = 0; k < 3; k++) {
            memcpy(&part, &x[k][i], sizeof(part));
            s += part;
        }
        assert_memory_equal(&got[i], &s, sizeof(s));
    }
    assert_ok(be[2]->ops->copy(be[2], mem[2], mem[0], N * sizeof(float), err));
    free(got);
    got = from_device(be[2], mem[2], N * sizeof(float));
    assert_memory_equal(got, x[0], N * sizeof(float));
    be[1]->ops->free(be[1], sum);
    for (int i = 0; i < 3; i++) {
        be[i]->ops->free(be[i], mem[i]);
        be[i]->ops->close(be[i]);
        free(x[i]);
    }
    free(got);
    free(want);
}

/* Columns of ranks side by side, as rank 0 copies them; and one rank's among zeros. */
static void columns_of_ranks_are_put_side_by_side(void **state)
{
    enum { ROWS = 5, WIDTH = 1011 };
    static const uint32_t widths[] = {401, 401, 209}; /* rows are not aligned */
    struct sc_backend *be[3];
    struct rng r = {5};
    float *x[3], *mem[3], *want = calloc(ROWS * WIDTH, sizeof(float));
    uint32_t first = 0;
    (void)state;
    for (int i = 0; i < 3; i++)
        be[i] = open_cuda(SC_MATH_AUTO, false);
    float *whole = on_device(be[0], NULL, ROWS * WIDTH * sizeof(float));
    for (int i = 0; i < 3; first += widths[i++]) {
        x[i] = random_floats(&r, (size_t)ROWS * widths[i]);
        x[i][0] = i == 0 ? -0.0f : i == 1 ? NAN : -INFINITY;
        mem[i] = on_device(be[i], x[i], ROWS * widths[i] * sizeof(float));
        for (uint32_t row = 0; row < ROWS; row++)
            memcpy(want + row * WIDTH + first, x[i] + row * widths[i], widths[i] * sizeof(float));
        const struct sc_cols_args cols = {.src = mem[i],
                                          .dst = whole,
                                          .n_rows = ROWS,
                                          .width = widths[i],
                                          .dst_width = WIDTH,
                                          .first = first};
        assert_ok(be[0]->ops->put_cols(be[0], &cols, err));
    }
    float *got = from_device(be[0], whole, ROWS * WIDTH * sizeof(float));
    assert_memory_equal(got, want, ROWS * WIDTH * sizeof(float));
    free(got);

    struct sc_cols_args alone = {.src = mem[1],
                                 .dst = whole,
                                 .n_rows = ROWS,
                                 .width = widths[1],
                                 .dst_width = WIDTH,
                                 .first = widths[0],
                                 .clear = true};
    assert_ok(be[1]->ops->put_cols(be[1], &alone, err));
    for (uint32_t i = 0; i < ROWS * WIDTH; i++)
        if (i % WIDTH < widths[0] || i % WIDTH >= widths[0] + widths[1])
            want[i] = 0.0f;
    got = from_device(be[1], whole, ROWS * WIDTH * sizeof(float));
    assert_memory_equal(got, want, ROWS * WIDTH * sizeof(float));
    alone.first = WIDTH - widths[1] + 1;
    assert_fails(SC_EINVAL, be[1]->ops->put_cols(be[1], &alone, err));
    alone.width = 0; /* a rank that has none of these columns */
    alone.first = WIDTH;
    assert_ok(be[1]->ops->put_cols(be[1], &alone, err));
    free(got);
    be[0]->ops->free(be[0], whole);
    for (int i = 0; i < 3; i++) {
        be[i]->ops->free(be[i], mem[i]);
        be[i]->ops->close(be[i]);
        free(x[i]);
    }
    free(want);
}

/* As the CPU rounds, all kinds of numbers; and widened exactly. */
static void sums_are_rounded_to_bf16_and_widened(void **state)
{
    static const float odd[] = {0.0f,   -0.0f,         INFINITY,      -INFINITY,      3.4e38f,
                                1e-40f, 0x1.010000p0f, 0x1.030000p0f, -0x1.010002p0f, NAN};
    struct sc_backend *be = open_cuda(SC_MATH_AUTO, false);
    struct rng r = {6};
    float *x = random_floats(&r, N);
    (void)state;
    memcpy(x, odd, sizeof(odd));
    float *f32 = on_device(be, x, N * sizeof(float));
    uint16_t *bf16 = on_device(be, NULL, (N + 1) * sizeof(uint16_t));
    assert_ok(be->ops->convert(be, SC_DTYPE_F32, f32, bf16, N, err));
    uint16_t *got = from_device(be, bf16, (N + 1) * sizeof(uint16_t));
    for (uint32_t i = 0; i < N; i++)
        assert_true(isnan(x[i]) ? isnan(sc_bf16_to_f32(got[i])) : got[i] == sc_f32_to_bf16(x[i]));
    assert_int_equal(got[N], 0xffff); /* as it was */
    assert_ok(be->ops->convert(be, SC_DTYPE_BF16, bf16, f32, N, err));
    float *back = from_device(be, f32, N * sizeof(float));
    for (uint32_t i = 0; i < N; i++) {
        float wide = sc_bf16_to_f32(got[i]);
        assert_memory_equal(&back[i], &wide, sizeof(wide));
    }
    assert_fails(SC_ENOTSUP, be->ops->convert(be, SC_DTYPE_I32, f32, bf16, N, err));
    assert_ok(be->ops->convert(be, SC_DTYPE_F32, f32, bf16, 0, err));
    be->ops->free(be, f32);
    be->ops->free(be, bf16);
    be->ops->close(be);
    free(back);
    free(got);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_of_one_sums_through_nccl),
        cmocka_unit_test(buffers_of_ranks_on_one_device_are_summed_in_order),
        cmocka_unit_test(columns_of_ranks_are_put_side_by_side),
        cmocka_unit_test(sums_are_rounded_to_bf16_and_widened),
    };
    skip_without_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
