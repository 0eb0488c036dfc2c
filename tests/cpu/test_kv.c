/* Pages in and out: what int8 rows are rounded to, that every way into a page keeps the same, and
 * that packed rows come back bit for bit. */
#include "tests/cpu/support.h"

#include <float.h>

#define PAGES 3u

static const uint32_t head_dims[] = {2, 6, 18, 32, 64, 80, 96, 128, 256};

/* By division and rounding of f32, element by element, as the contract says. */
static float reference_row(const float *x, uint32_t n, int8_t *q)
{
    float largest = 0.0f;
    bool finite = true;
    for (uint32_t d = 0; d < n; d++) {
        largest = fmaxf(largest, fabsf(x[d]));
        finite &= isfinite(x[d]) != 0;
        q[d] = 0;
    }
    const float scale = finite ? largest / 127.0f : NAN;
    for (uint32_t d = 0; scale > 0.0f && d < n; d++) {
        const long whole = lrintf(x[d] / scale);
        q[d] = (int8_t)(whole > 127 ? 127 : whole < -127 ? -127 : whole);
    }
    return scale;
}

static bool same_float(float a, float b)
{
    return memcmp(&a, &b, sizeof(a)) == 0 || (isnan(a) && isnan(b));
}

/* An entry as packed and as read against what was written. */
static void check_entry(struct sc_backend *be, struct sc_kv_pool *pool, uint32_t hd, uint32_t slot,
                        uint32_t head, const float *k, const float *v)
{
    const size_t row = sc_kv_row_bytes(SC_DTYPE_I8, hd);
    uint8_t packed[2][SC_CPU_HEAD_DIM_MAX + sizeof(float)];
    float read[2][SC_CPU_HEAD_DIM_MAX], bias;
    const float *rows[2] = {k, v};

    assert_int_equal(row, hd + 4);
    assert_ok(be->ops->kv_pack(be, pool, (const uint32_t[]){1}, slot, 1, head, packed[0], packed[1],
                               &bias, err));
    assert_ok(be->ops->kv_read(be, pool, 1, slot, head, read[0], read[1], &bias, err));
    for (int which = 0; which < 2; which++) {
        int8_t q[SC_CPU_HEAD_DIM_MAX];
        const float scale = reference_row(rows[which], hd, q);
        float kept;
        memcpy(&kept, packed[which] + hd, sizeof(kept));
        assert_true(same_float(kept, scale));
        assert_memory_equal(packed[which], q, hd);
        for (uint32_t d = 0; d < hd; d++)
            assert_true(same_float(read[which][d], scale * (float)q[d]));
    }
}

static void int8_rows_are_rounded_to_the_nearest_ties_to_even(void **state)
{
    /* the largest is 127, so that the scale is 1 */
    static const float ties[16] = {127.0f, 0.5f,  1.5f,   2.5f,   -0.5f,   -1.5f, -2.5f, 126.5f,
                                   125.5f, -0.0f, 0.499f, 0.501f, -126.5f, 63.5f, 64.5f, -127.0f};
    static const int8_t want[16] = {127, 0, 2, 2, 0, -2, -2, 126, 126, 0, 0, 1, -126, 64, 64, -127};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_backend(isa, 1);
        struct sc_kv_pool *pool = open_garbage_pool(be, 2, 16, SC_DTYPE_I8, PAGES);
        uint8_t k[20], v[20];
        float bias, half[16], scale;
        for (uint32_t d = 0; d < 16; d++)
            half[d] = -0.5f * ties[d];
        assert_ok(be->ops->kv_write(be, pool, 1, 19, 1, ties, half, 3.0f, err));
        assert_ok(be->ops->kv_pack(be, pool, (const uint32_t[]){1}, 19, 1, 1, k, v, &bias, err));
        assert_memory_equal(k, want, 16);
        memcpy(&scale, k + 16, 4);
        assert_true(scale == 1.0f && bias == 3.0f);
        memcpy(&scale, v + 16, 4);
        assert_true(scale == 0.5f);
        for (uint32_t d = 0; d < 16; d++)
            assert_int_equal((int8_t)v[d], -want[d]);
        be->ops->kv_close(be, pool);
        be->ops->close(be);
    }
}

/* Zeros have no scale; what is not finite stays visible; the smallest numbers have a scale of few
 * bits and stay within the range. */
static void extreme_rows_have_a_meaning(void **state)
{
    enum { HD = 24 };
    static const float extremes[] = {0.0f,   -0.0f,  NAN,    INFINITY, -INFINITY, 1e-45f,
                                     2e-43f, 1e-40f, 1e-38f, 3e38f,    FLT_MAX};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_backend(isa, 1);
        struct sc_kv_pool *pool = open_garbage_pool(be, 1, HD, SC_DTYPE_I8, PAGES);
        for (size_t i = 0; i < SC_ARRAY_LEN(extremes); i++) {
            float k[HD] = {0}, v[HD] = {0};
            k[5] = extremes[i];
            v[HD - 1] = -extremes[i];
            v[0] = 0.3f * (isfinite(extremes[i]) ? extremes[i] : 1.0f);
            assert_ok(be->ops->kv_write(be, pool, 1, 7, 0, k, v, 0.0f, err));
            check_entry(be, pool, HD, 7, 0, k, v);
        }
        be->ops->kv_close(be, pool);
        be->ops->close(be);
    }
}

/* Angles of 0, so that keys go in as they are. */
static void entries_of_a_step_are_those_that_are_written_one_by_one(void **state)
{
    enum { HEADS = 3, N = 32 };
    struct rng r = {3};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (size_t i = 0; i < SC_ARRAY_LEN(head_dims); i++) {
            const uint32_t hd = head_dims[i], width = 3 * HEADS * hd;
            struct sc_backend *be = open_backend(isa, 2);
            struct sc_kv_pool *pool = open_garbage_pool(be, HEADS, hd, SC_DTYPE_I8, PAGES);
            float *x = random_floats(&r, (size_t)N * width), *angles = random_floats(&r, N * hd);
            uint32_t pages[N], slots[N];
            for (uint32_t row = 0; row < N; row++) {
                pages[row] = 1;
                slots[row] = (row * 5) % 32;
                for (uint32_t d = 0; d < hd; d++)
                    angles[row * hd + d] = d < hd / 2 ? 1.0f : 0.0f;
            }
            struct sc_qkv_args a = {x,     NULL, NULL,  angles, pool, pages,
                                    slots, N,    HEADS, HEADS,  hd,   1e-6f};
            assert_ok(be->ops->qkv(be, &a, err));
            for (uint32_t row = 0; row < N; row++)
                for (uint32_t h = 0; h < HEADS; h++) {
                    const float *k = x + row * width + (HEADS + h) * hd, *v = k + HEADS * hd;
                    check_entry(be, pool, hd, slots[row], h, k, v);
                    assert_ok(be->ops->kv_write(be, pool, 1, slots[row], h, k, v, 0.0f, err));
                    check_entry(be, pool, hd, slots[row], h, k, v);
                }
            free(x);
            free(angles);
            be->ops->kv_close(be, pool);
            be->ops->close(be);
        }
    }
}

/* Into other slots of another page of a pool of another instruction set, and out again. */
static void packed_rows_come_back_bit_for_bit(void **state)
{
    struct rng r = {4};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(head_dims) * SC_ARRAY_LEN(kv_dtypes); i++) {
        const enum sc_dtype dtype = kv_dtypes[i % 3];
        const uint32_t hd = head_dims[i / 3], n = 9;
        const size_t row = sc_kv_row_bytes(dtype, hd), bytes = n * row;
        struct sc_backend *a = open_backend(SC_CPU_ISA_PLAIN, 1);
        struct sc_backend *b = open_backend(sc_cpu_isa_best(), 1);
        struct sc_kv_pool *from = open_garbage_pool(a, 2, hd, dtype, PAGES);
        struct sc_kv_pool *to = open_garbage_pool(b, 2, hd, dtype, PAGES);
        uint8_t *k = malloc(bytes), *v = malloc(bytes), *k2 = malloc(bytes), *v2 = malloc(bytes);
        float *x = random_floats(&r, 2 * (size_t)hd), bias[9], bias2[9], got[2][256], sent[2][256];
        for (uint32_t e = 0; e < n; e++) {
            for (uint32_t d = 0; d < 2 * hd; d++)
                x[d] = rng_normal(&r) * (e == 3 ? 0.0f : (float)(e + 1));
            x[0] = e == 4 ? NAN : x[0];
            assert_ok(a->ops->kv_write(a, from, 0, 20 + e, 1, x, x + hd, (float)e, err));
        }
        assert_ok(a->ops->kv_pack(a, from, (const uint32_t[]){0}, 20, n, 1, k, v, bias, err));
        assert_ok(b->ops->kv_unpack(b, to, (const uint32_t[]){2}, 3, n, 1, k, v, bias, err));
        assert_ok(b->ops->kv_pack(b, to, (const uint32_t[]){2}, 3, n, 1, k2, v2, bias2, err));
        assert_memory_equal(k, k2, bytes);
        assert_memory_equal(v, v2, bytes);
        assert_memory_equal(bias, bias2, sizeof(bias));
        for (uint32_t e = 0; e < n; e++) {
            assert_ok(a->ops->kv_read(a, from, 0, 20 + e, 1, sent[0], sent[1], bias, err));
            assert_ok(b->ops->kv_read(b, to, 2, 3 + e, 1, got[0], got[1], bias2, err));
            for (uint32_t d = 0; d < hd; d++)
                assert_true(same_float(sent[0][d], got[0][d]) && same_float(sent[1][d], got[1][d]));
        }
        /* Neighbours: the slots beside them, and the other head. */
        for (uint32_t slot = 2; slot < 13; slot++) {
            const uint32_t head = slot == 2 || slot == 12 ? 1 : 0;
            assert_ok(b->ops->kv_read(b, to, 2, slot, head, got[0], got[1], bias2, err));
            assert_true(isnan(got[0][0]) && isnan(got[1][hd - 1]) && isnan(bias2[0]));
        }
        free(k);
        free(v);
        free(k2);
        free(v2);
        free(x);
        a->ops->kv_close(a, from);
        b->ops->kv_close(b, to);
        a->ops->close(a);
        b->ops->close(b);
    }
}

/* Rows from a file may hold anything that a checksum lets through. */
static void any_packed_bytes_are_numbers(void **state)
{
    enum { HD = 64 };
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_backend(isa, 1);
        struct sc_kv_pool *pool = open_garbage_pool(be, 1, HD, SC_DTYPE_I8, PAGES);
        uint8_t rows[2][32 * (HD + 4)];
        float bias[32] = {0}, k[HD], v[HD], got;
        struct rng r = {isa + 1u};
        for (uint32_t i = 0; i < sizeof(rows[0]); i++) {
            rows[0][i] = (uint8_t)rng_u32(&r);
            rows[1][i] = (uint8_t)(i % 256);
        }
        for (uint32_t e = 0; e < 32; e++) {
            const float one = 1.0f;
            memcpy(rows[0] + e * (HD + 4) + HD, &one, 4);
            memcpy(rows[1] + e * (HD + 4) + HD, &one, 4);
        }
        assert_ok(be->ops->kv_unpack(be, pool, (const uint32_t[]){0}, 0, 32, 0, rows[0], rows[1],
                                     bias, err));
        for (uint32_t e = 0; e < 32; e++) {
            assert_ok(be->ops->kv_read(be, pool, 0, e, 0, k, v, &got, err));
            for (uint32_t d = 0; d < HD; d++) {
                const int8_t q = (int8_t)rows[0][e * (HD + 4) + d];
                assert_true(fabsf(k[d]) <= 127.0f && fabsf(v[d]) <= 127.0f);
                assert_true(k[d] == (q == -128 ? 0.0f : (float)q));
            }
        }
        be->ops->kv_close(be, pool);
        be->ops->close(be);
    }
}

static void attend_to_three(struct sc_backend *be, struct sc_kv_pool *pool, const float *q,
                            float *out)
{
    const uint32_t pages[1] = {0};
    const struct sc_attn_seq seq = {.n_rows = 3, .exact_pages = pages};
    const struct sc_attn_args a = {q, out, pool, &seq, 1, 16, 1, 1, 16, 0.25f, NULL};
    assert_ok(be->ops->attention(be, &a, err));
}

/* In the rows that see it, and in no other. */
static void a_row_that_is_not_finite_is_seen_in_the_output(void **state)
{
    struct rng r = {8};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (int which = 0; which < 4; which++) {
            struct sc_backend *be = open_backend(isa, 1);
            struct sc_kv_pool *pool = open_garbage_pool(be, 1, 16, SC_DTYPE_I8, PAGES);
            float *x = random_floats(&r, 3 * 16), *q = random_floats(&r, 3 * 16), out[3 * 16];
            float bad[16] = {[3] = which / 2 ? NAN : -INFINITY};
            for (uint32_t e = 0; e < 3; e++)
                assert_ok(be->ops->kv_write(
                    be, pool, 0, e, 0, e == 1 && which % 2 == 0 ? bad : x + 16 * e,
                    e == 1 && which % 2 == 1 ? bad : x + 16 * e, 0.0f, err));
            attend_to_three(be, pool, q, out);
            for (uint32_t d = 0; d < 16; d++)
                assert_true(isfinite(out[d]) && isnan(out[16 + d]) && isnan(out[32 + d]));
            free(x);
            free(q);
            be->ops->kv_close(be, pool);
            be->ops->close(be);
        }
    }
}

static void pages_of_int8_are_copied_and_take_half_the_bytes(void **state)
{
    struct sc_backend *be = open_backend(sc_cpu_isa_best(), 1);
    struct sc_kv_pool *pool = open_garbage_pool(be, 2, 64, SC_DTYPE_I8, PAGES);
    const struct sc_kv_spec i8 = {2, 64, SC_DTYPE_I8}, bf16 = {2, 64, SC_DTYPE_BF16};
    struct rng r = {9};
    float *x = random_floats(&r, 128);
    (void)state;
    assert_ok(be->ops->kv_write(be, pool, 2, 31, 1, x, x + 64, -2.5f, err));
    assert_ok(be->ops->kv_copy(be, pool, 1, 2, err));
    check_entry(be, pool, 64, 31, 1, x, x + 64);
    /* and two floats of scale an entry and head */
    assert_int_equal(be->ops->kv_page_bytes(be, &i8),
                     (be->ops->kv_page_bytes(be, &bf16) - 2 * 32 * 4) / 2 + 2 * 32 * 12);
    free(x);
    be->ops->kv_close(be, pool);
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(int8_rows_are_rounded_to_the_nearest_ties_to_even),
        cmocka_unit_test(extreme_rows_have_a_meaning),
        cmocka_unit_test(entries_of_a_step_are_those_that_are_written_one_by_one),
        cmocka_unit_test(packed_rows_come_back_bit_for_bit),
        cmocka_unit_test(any_packed_bytes_are_numbers),
        cmocka_unit_test(a_row_that_is_not_finite_is_seen_in_the_output),
        cmocka_unit_test(pages_of_int8_are_copied_and_take_half_the_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
