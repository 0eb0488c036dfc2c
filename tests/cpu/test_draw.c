/* Largest and drawn columns of rows: those of the plain loops, with any instruction set and any
 * number of threads. */
#include "tests/cpu/support.h"

#include "base/draw.h"

#define ROWS 37u

static void fill(struct rng *r, float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = rng_below(r, 30) == 0 ? -INFINITY : rng_normal(r) * 3.0f;
    x[rng_below(r, n)] = 9.0f;
}

static struct sc_draw any_draw(struct rng *r)
{
    static const float ps[] = {1.0f, 0.9f, 0.3f};
    return (struct sc_draw){
        .scale = rng_below(r, 5) == 0 ? 0.0f : -0.2f * (float)(1 + rng_below(r, 30)),
        .top_p = ps[rng_below(r, 3)],
        .top_k = rng_below(r, 2) * rng_below(r, 90),
        .last = SC_TWIN_BITS(rng_below(r, 2) == 0 ? 4.0f : 3e38f),
        .random = (uint64_t)rng_u32(r) << 32 | rng_u32(r),
    };
}

static uint32_t column(const float *best, uint32_t row)
{
    uint32_t id;
    memcpy(&id, &best[2 * row + 1], sizeof(id));
    return id;
}

static void rows_are_drawn_as_the_plain_loops_do(void **state)
{
    static const uint32_t sizes[][2] = {{1, 1}, {15, 18}, {64, 64}, {1000, 1003}, {40000, 40000}};
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct rng r = {71};
        for (size_t s = 0; s < SC_ARRAY_LEN(sizes); s++) {
            const uint32_t n = sizes[s][0], width = sizes[s][1];
            struct sc_backend *be = open_backend(isa, 1 + (uint32_t)s % 3);
            float *x = malloc(sizeof(float) * ROWS * width), best[2 * ROWS];
            struct sc_draw draws[ROWS];
            for (uint32_t i = 0; i < ROWS; i++) {
                fill(&r, x + i * width, n);
                for (uint32_t c = n; c < width; c++) /* padding of a vocabulary */
                    x[i * width + c] = 1e9f;
                draws[i] = any_draw(&r);
            }
            assert_ok(be->ops->row_max(be, x, ROWS, width, n, best, err));
            for (uint32_t i = 0; i < ROWS; i++) {
                uint32_t id;
                assert_true(best[2 * i] == sc_draw_largest(x + i * width, n, NULL, &id));
                assert_int_equal(column(best, i), id);
            }
            assert_ok(be->ops->draw(be, x, ROWS, width, n, draws, best, err));
            for (uint32_t i = 0; i < ROWS; i++) {
                uint32_t id;
                float max = sc_draw_largest(x + i * width, n, NULL, &id);
                if (draws[i].scale != 0.0f)
                    id = sc_draw_token(x + i * width, n, max, &draws[i], NULL);
                assert_true(best[2 * i] == max);
                if (column(best, i) != id)
                    fail_msg("%s, %u columns, row %u: %u, not %u", sc_cpu_isa_name(isa), n, i,
                             column(best, i), id);
            }
            be->ops->close(be);
            free(x);
        }
    }
}

static void masses_are_the_same_everywhere(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_backend(isa, 1);
        /* One column of each distance beside the likeliest: which is drawn tells their masses. */
        for (uint32_t i = 0; i < 3000; i++) {
            float x[2] = {0.0f, -(float)i * 0.0073f}, best[2];
            struct sc_draw draw = {.scale = -1.1f, .top_p = 1.0f, .last = 0x7f7fffff};
            uint64_t mass = sc_draw_mass(sc_draw_distance(0.0f, x[1]), draw.scale);
            uint64_t total = SC_DRAW_ONE + mass;
            for (int beyond = 0; beyond < 2; beyond++) {
                unsigned __int128 edge = (unsigned __int128)SC_DRAW_ONE << 64;
                uint64_t first = (uint64_t)((edge + total - 1) / total);
                draw.random = beyond ? first : first - 1;
                if (mass == 0 && beyond)
                    continue;
                assert_ok(be->ops->row_max(be, x, 1, 2, 2, best, err));
                assert_ok(be->ops->draw(be, x, 1, 2, 2, &draw, best, err));
                assert_int_equal(column(best, 0), beyond);
            }
        }
        be->ops->close(be);
    }
}

static void broken_rows_stay_as_they_are(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct sc_backend *be = open_backend(isa, 1);
        float x[3][40], best[6];
        struct sc_draw draws[3];
        for (uint32_t i = 0; i < 40; i++) {
            x[0][i] = i == 33 ? NAN : 1.0f;
            x[1][i] = -INFINITY;
            x[2][i] = i == 20 ? INFINITY : 0.0f;
        }
        for (uint32_t i = 0; i < 3; i++)
            draws[i] = (struct sc_draw){.scale = -1.0f, .top_p = 0.5f, .last = 0x7f7fffff};
        assert_ok(be->ops->row_max(be, x[0], 3, 40, 40, best, err));
        assert_ok(be->ops->draw(be, x[0], 3, 40, 40, draws, best, err));
        assert_true(isnan(best[0]) && best[2] == -INFINITY && best[4] == INFINITY);
        assert_fails(SC_EINVAL, be->ops->row_max(be, x[0], 1, 40, 41, best, err));
        assert_fails(SC_EINVAL, be->ops->draw(be, x[0], 1, 40, 41, draws, best, err));
        be->ops->close(be);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_drawn_as_the_plain_loops_do),
        cmocka_unit_test(masses_are_the_same_everywhere),
        cmocka_unit_test(broken_rows_stay_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
